"""`cached_embeddings`: real clients, a local model that counts its calls, and models of our own that misbehave."""

from __future__ import annotations

import asyncio
import copy
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_openai import AzureOpenAIEmbeddings, OpenAIEmbeddings
from layered_cache import CacheMiss, ConfigurationError, EncodeError, Event, Policy, TenantRequiredError, TieredCache, cache_options
from layered_cache.adapters import vector_codec
from layered_cache.testing import FakeAuthority, FakeClock, FakeTier, OpenAIServer
from pydantic import BaseModel, Field, SecretStr
from support.fake_networks import Llama
from support.sync_async import Threads, World, kinds, settled

from langchain_layered_cache import CachedEmbeddings, LayeredCache
from langchain_layered_cache.embeddings import cached_embeddings

Make = Callable[..., OpenAIEmbeddings]


@pytest.fixture
def make(server: OpenAIServer) -> Make:
    """Makes real clients of the local model."""

    def made(**given: Any) -> OpenAIEmbeddings:
        usual: dict[str, Any] = {"model": "text-embedding-3-small", "base_url": server.url, "api_key": "none", "max_retries": 0}
        return OpenAIEmbeddings(**{**usual, "check_embedding_ctx_length": False, **given})

    return made


@pytest.fixture
def cache(events: list[Event]) -> TieredCache:
    """In memory."""
    return TieredCache("memory://", observers=[events.append])


class Model(Embeddings):
    """A model of somebody's own: the vector of a text is made of its length, and what it is told to say."""

    def __init__(self, model: str = "own", say: Callable[[list[str]], Any] | None = None, seconds: float = 0.0) -> None:
        self.model = model
        self._asked: list[Any] = []
        self._seconds = seconds
        self._say = say or (lambda texts: [[len(text) + 0.5, 0.25] for text in texts])

    @property
    def asked(self) -> list[Any]:
        return self._asked

    def embed_documents(self, texts: list[str], **options: Any) -> Any:
        self._asked.append(texts)
        threading.Event().wait(self._seconds)
        return self._say(texts)

    def embed_query(self, text: str, **options: Any) -> Any:
        self._asked.append(text)
        threading.Event().wait(self._seconds)
        return self._say([text])[0]

    async def aembed_documents(self, texts: list[str], **options: Any) -> Any:
        self._asked.append(texts)
        await asyncio.sleep(self._seconds)
        return self._say(texts)

    async def aembed_query(self, text: str, **options: Any) -> Any:
        self._asked.append(text)
        await asyncio.sleep(self._seconds)
        return self._say([text])[0]


# --- what is asked


def test_each_text_is_embedded_once(world: World, make: Make, server: OpenAIServer, cache: TieredCache) -> None:
    """Of a batch, only those that are missing go to the model, once each, in their order; the answer is the model's own."""
    plain, cached = make(), cached_embeddings(make(), cache)

    first = world.call(cached, "embed_documents", ["b", "a", "b"])
    second = world.call(cached, "embed_documents", ["c", "a", "d", "b", "d"])

    assert [body["input"] for body in server.bodies] == [["b", "a"], ["c", "d"]]
    assert first == plain.embed_documents(["b", "a", "b"])
    assert second == plain.embed_documents(["c", "a", "d", "b", "d"])
    assert isinstance(cached, Embeddings)
    assert isinstance(cached, CachedEmbeddings)


def test_a_query(world: World, make: Make, server: OpenAIServer, cache: TieredCache) -> None:
    """Is no document, though this model would say the same."""
    cached = cached_embeddings(make(), cache)

    asked = [world.call(cached, "embed_query", "q") for _ in range(2)]

    assert server.calls == 1
    assert asked[0] == asked[1] == make().embed_query("q")
    world.call(cached, "embed_documents", ["q"])
    assert server.calls == 3


def test_both_worlds_share_entries(make: Make, server: OpenAIServer, cache: TieredCache) -> None:
    """What one stored the other finds."""
    cached = cached_embeddings(make(), cache)

    assert cached.embed_documents(["a"]) == asyncio.run(cached.aembed_documents(["a"]))
    assert asyncio.run(cached.aembed_query("a")) == cached.embed_query("a")
    assert server.calls == 2


def test_another_process_finds_them(world: World, make: Make, server: OpenAIServer, db: str) -> None:
    """In the file."""
    for _ in range(2):
        with TieredCache("memory://", db) as cache:
            cached = cached_embeddings(make(), cache)
            world.call(cached, "embed_documents", ["a", "b"])
            world.call(cached, "embed_query", "a")
    assert server.calls == 2


def test_one_read_and_one_write(world: World) -> None:
    """Of each tier, for a batch; none for no texts."""
    slow, fast, model = FakeAuthority("slow"), FakeTier("fast"), Model()
    cached = cached_embeddings(model, TieredCache(fast, slow))
    assert world.call(cached, "embed_documents", []) == []
    assert (model.asked, fast.calls, slow.calls) == ([], [], [])

    world.call(cached, "embed_documents", [str(number) for number in range(200)])

    settled(cached.engine)
    for tier in (fast, slow):
        assert [call.split()[0] for call in tier.calls] == ["get", "set"]
    assert len(model.asked) == 1


def test_more_texts_than_a_tier_is_asked_for_at_once(world: World, cache: TieredCache) -> None:
    """The model is asked once all the same."""
    model = Model()
    texts = ["x" * number for number in range(1, 602)]
    cached = cached_embeddings(model, cache)

    assert world.call(cached, "embed_documents", texts) == [[number + 0.5, 0.25] for number in range(1, 602)]
    assert world.call(cached, "embed_documents", texts[::-1]) == [[number + 0.5, 0.25] for number in range(601, 0, -1)]
    assert model.asked == [texts]


def test_many_callers_of_one_query_make_one_call(world: World, cache: TieredCache) -> None:
    """The others wait for it, and each gets a list of its own."""
    model = Model(seconds=0.2)
    cached = cached_embeddings(model, cache)

    found = world.at_once(cached, "embed_query", [("q",)] * 20)

    assert model.asked == ["q"]
    assert found == [[1.5, 0.25]] * 20
    assert len({id(vector) for vector in found}) == 20


def test_nobody_shares_a_list(world: World, cache: TieredCache) -> None:
    """Not with the cache, not with the model, not with himself."""
    kept = [[1.0, 2.0]]
    cached = cached_embeddings(Model(say=lambda texts: kept * len(texts)), cache)

    for _ in range(2):
        for vector in (*world.call(cached, "embed_documents", ["a", "b", "a"]), world.call(cached, "embed_query", "a")):
            assert vector == [1.0, 2.0]
            vector.append(3.0)
    assert kept == [[1.0, 2.0]]


# --- what a key is made of


def test_models_do_not_share_vectors(world: World, make: Make, server: OpenAIServer, cache: TieredCache) -> None:
    """By name, size, or any other setting; nor do addresses, classes, and options of a call."""
    with OpenAIServer() as elsewhere:
        models: list[Embeddings] = [
            make(),
            make(model="text-embedding-3-large"),
            make(dimensions=8),
            make(model_kwargs={"user": "u"}),
            make(base_url=elsewhere.url),
            type("Mine", (OpenAIEmbeddings,), {})(**make().model_dump(exclude={"client", "async_client"}, exclude_none=True)),
        ]
        for _ in range(2):
            for model in models:
                world.call(cached_embeddings(model, cache), "embed_documents", ["a"])
                world.call(cached_embeddings(model, cache), "embed_query", "a")
        assert (server.calls, elsewhere.calls) == (10, 2)
    cached = cached_embeddings(make(), cache)
    for _ in range(2):
        assert len(world.call(cached, "embed_query", "a", dimensions=4)) == 4
    assert server.calls == 11


def test_what_is_about_transport_does_not_count(world: World, make: Make, server: OpenAIServer, cache: TieredCache) -> None:
    """Nor do secrets, and settings that are as they would be anyway."""
    for model in (
        make(),
        make(max_retries=5, timeout=3.0, chunk_size=7, show_progress_bar=False),
        make(api_key=SecretStr("another")),
        make(api_key=lambda: "made at the call"),
        make(dimensions=None, skip_empty=False),
    ):
        world.call(cached_embeddings(model, cache), "embed_documents", ["a"])
    world.call(cached_embeddings(make(), cache), "embed_documents", ["a"], chunk_size=1)
    assert server.calls == 1


def test_a_release_that_adds_settings_keeps_keys(world: World, cache: TieredCache) -> None:
    """As long as they are null, or as they are by default; what differs from the default counts."""
    asked: list[str] = []

    class Declared(BaseModel, Embeddings):
        model: str = "declared"
        size: int = 4

        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            asked.extend(texts)
            return [[0.5]] * len(texts)

        def embed_query(self, text: str) -> list[float]:
            return self.embed_documents([text])[0]

    class Newer(Declared):
        added: int = 5
        null: str | None = Field(default_factory=lambda: None)

    Newer.__qualname__ = Declared.__qualname__
    Declared.__module__ = Newer.__module__ = Embeddings.__module__  # two releases of a library: user code counts by its content
    for model in (Declared(), Newer(), Newer(size=4), Declared(size=4)):
        world.call(cached_embeddings(model, cache), "embed_query", "a")
    assert asked == ["a"]
    for model in (Newer(added=6), Newer(null="x"), Declared(size=5)):
        world.call(cached_embeddings(model, cache), "embed_query", "a")
    assert asked == ["a"] * 4


def test_the_address_of_the_environment_counts(
    world: World, make: Make, server: OpenAIServer, cache: TieredCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it was when the client was made."""
    with OpenAIServer() as elsewhere:
        for url in (server.url, elsewhere.url):
            monkeypatch.setenv("OPENAI_BASE_URL", url)
            model = make(base_url=None)
            monkeypatch.delenv("OPENAI_BASE_URL")
            for _ in range(2):
                world.call(cached_embeddings(model, cache), "embed_query", "a")
        assert (server.calls, elsewhere.calls) == (1, 1)


def test_a_setting_that_changes_later_counts(world: World, make: Make, server: OpenAIServer, cache: TieredCache) -> None:
    """Where the class declares it."""
    model = make()
    cached = cached_embeddings(model, cache)
    world.call(cached, "embed_query", "a")

    model.dimensions = 8

    assert len(world.call(cached, "embed_query", "a")) == 8
    assert server.calls == 2


def test_a_setting_that_cannot_be_read_any_more(world: World, make: Make, cache: TieredCache, events: list[Event]) -> None:
    """Makes the call go to the model, and stores nothing."""
    model = make()
    cached = cached_embeddings(model, cache)
    model.headers = object()

    for method, argument in (("embed_documents", ["a"]), ("embed_query", "a")):
        events.clear()
        assert world.call(cached, method, argument) == getattr(make(), method)(argument)
        assert kinds(events) == ["uncacheable"]
        assert "headers" in str(events[0].reason)


def test_attributes_of_other_classes_count_as_they_were(world: World, cache: TieredCache) -> None:
    """Counters do not; settings do."""
    for prefix in ("query: ", "passage: "):
        model: Any = Model()
        model.prefix, model.count, model.log = prefix, 0, []
        cached = cached_embeddings(model, cache)
        for _ in range(2):
            world.call(cached, "embed_query", "a")
            model.count += 1
            model.log.append("a")
        assert model.asked == ["a"]


def test_a_text_is_what_it_is(world: World, cache: TieredCache) -> None:
    """Case, space, and characters that no encoding has."""
    model = Model()
    cached = cached_embeddings(model, cache)
    texts = ["a", "A", " a", "a ", "", "\x00", "é", "e\u0301", "\ud800", "鍵"]

    for _ in range(2):
        world.call(cached, "embed_documents", texts)
    assert model.asked == [texts]


class Local(BaseModel, Embeddings):
    """A model with the attributes of `HuggingFaceEmbeddings` (`_client`) and `LlamaCppEmbeddings` (`client`)."""

    model_name: str = "local"
    model_kwargs: dict[str, Any] = {}
    encode_kwargs: dict[str, Any] = {}
    n_threads: int = 1
    client: Any = None

    def __init__(self, loaded: Any, *, public: bool = False, **settings: Any) -> None:
        super().__init__(**settings)
        if public:
            self.client = loaded
        else:
            object.__setattr__(self, "_client", loaded)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [[0.5, float(len(_asked))] for _ in texts if _asked.append("") is None]

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


_asked: list[str] = []


@pytest.mark.parametrize("public", [True, False])
def test_a_loaded_network_counts_by_its_weights(world: World, cache: TieredCache, tmp_path: Path, public: bool) -> None:
    """Its device does not count, and `model=` replaces all of that."""
    _asked.clear()
    path = tmp_path / "model.gguf"

    def ask(model: str | None = None, **settings: Any) -> int:
        embeddings = Local(Llama(str(path)), public=public, **settings)
        world.call(cached_embeddings(embeddings, cache, model=model), "embed_query", "a")
        return len(_asked)

    path.write_bytes(b"one")
    assert [ask(), ask(n_threads=7, model_kwargs={"device": "cpu"}), ask(encode_kwargs={"a": 1}), ask("named")] == [1, 1, 2, 3]
    path.write_bytes(b"two")
    assert [ask("named"), ask()] == [3, 4]


@pytest.mark.parametrize("model", [DeterministicFakeEmbedding(size=4), type("Bare", (Model,), {"__init__": lambda self: None})()])
def test_a_model_without_a_name_needs_one(model: Embeddings, cache: TieredCache) -> None:
    """The error says how to give it one."""
    with pytest.raises(ConfigurationError, match="say by model= which one it is"):
        cached_embeddings(model, cache)
    assert (
        repr(cached_embeddings(model, cache, model="bge/4"))
        == "CachedEmbeddings('bge/4', TieredCache(memory, namespace='default/embeddings'))"
    )


def test_a_setting_that_cannot_be_read_needs_a_name(world: World, cache: TieredCache) -> None:
    """Which then stands for it."""
    model: Any = Model()
    model.tokenizer = object()
    with pytest.raises(ConfigurationError, match=r"the setting 'tokenizer' of .*Model holds a object.*model="):
        cached_embeddings(model, cache)

    for name in ("own/a", "own/b"):
        for _ in range(2):
            world.call(cached_embeddings(model, cache, model=name), "embed_query", "a")
    assert model.asked == ["a", "a"]


def test_given_names_do_not_hide_settings(world: World, make: Make, server: OpenAIServer, cache: TieredCache) -> None:
    """What can be read counts all the same."""
    for dimensions in (4, 8):
        cached = cached_embeddings(make(dimensions=dimensions), cache, model="ours")
        assert len(world.call(cached, "embed_query", "a")) == dimensions


def test_azure(cache: TieredCache) -> None:
    """Deployments count, token providers do not."""
    given: dict[str, Any] = {"azure_endpoint": "https://x.openai.azure.com", "api_version": "2024-10-21", "api_key": "none"}
    keys = {
        name: cached_embeddings(AzureOpenAIEmbeddings(azure_deployment=name, **given), cache)._asked("query", ["a"], {})[1]
        for name in ("one", "two")
    }
    provider = AzureOpenAIEmbeddings(azure_deployment="one", azure_ad_token_provider=lambda: "token", **given)

    assert keys["one"] != keys["two"]
    assert cached_embeddings(provider, cache)._asked("query", ["a"], {})[1] == keys["one"]


def test_no_secret_is_stored(world: World, make: Make, db: str, server: OpenAIServer) -> None:
    """Not in the file, wherever it stood."""
    with TieredCache(db) as cache:
        model = make(api_key="sk-very-secret-key-0123456789", default_headers={"Authorization": "Bearer very-secret-token"})
        world.call(cached_embeddings(model, cache), "embed_query", "a")
    with open(db.removeprefix("sqlite:///"), "rb") as file:  # noqa: PTH123 - bytes
        assert b"very-secret" not in file.read()


# --- when things go wrong


def test_errors_of_the_model_pass(world: World, make: Make, server: OpenAIServer, cache: TieredCache) -> None:
    """Unchanged; nothing is kept, and the next caller asks again."""
    cached = cached_embeddings(make(), cache)
    for method, argument in (("embed_documents", ["a"]), ("embed_query", "a")):
        server.fail(1, 400)
        with pytest.raises(openai.BadRequestError):
            world.call(cached, method, argument)
        assert world.call(cached, method, argument) == getattr(make(), method)(argument)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_wrong_number_of_vectors_is_nobodys(world: World, cache: TieredCache, events: list[Event], count: int) -> None:
    """Nothing is kept of it; the caller gets what the model says to all that he asked."""
    said: list[list[float]] = [[float(number)] for number in range(count)]
    model = Model(say=lambda texts: said if "bad" in texts else [[0.5]] * len(texts))
    cached = cached_embeddings(model, cache)
    world.call(cached, "embed_documents", ["good"])

    assert world.call(cached, "embed_documents", ["bad", "other"]) == said
    assert model.asked[1:] == [["bad", "other"]]
    assert world.call(cached, "embed_documents", ["good", "bad", "other"]) == said
    assert model.asked[2:] == [["bad", "other"], ["good", "bad", "other"]]
    assert [event.reason for event in events if event.kind == "not_stored"] == ["not as many vectors as texts"] * 2
    assert world.call(cached, "embed_documents", ["other", "good"]) == [[0.5], [0.5]]
    assert model.asked[4:] == [["other"]]


@pytest.mark.parametrize("vector", [None, [], "text", [1.0, "2"], [None], {"indices": [1]}, [2**70], [[1.0]]])
def test_what_is_no_vector_is_not_kept(world: World, cache: TieredCache, vector: Any) -> None:
    """And passes as it is, asked for once by each caller."""
    model = Model(say=lambda texts: [vector] * len(texts))
    cached = cached_embeddings(model, cache)

    for _ in range(2):
        assert world.call(cached, "embed_query", "a") is vector
        assert world.call(cached, "embed_documents", ["a", "b"]) == [vector, vector]
    assert model.asked == ["a", ["a", "b"]] * 2
    assert list(cached.engine.entries()) == []


def test_a_tier_that_fails_counts_as_empty(world: World) -> None:
    """The model answers."""
    tier, model = FakeAuthority(), Model()
    tier.broken = tier.log_is_broken = True
    cached = cached_embeddings(model, TieredCache(tier))

    assert world.call(cached, "embed_documents", ["a"]) == [[1.5, 0.25]]
    assert world.call(cached, "embed_query", "a") == [1.5, 0.25]


def test_what_cannot_be_read_is_computed_again(world: World, cache: TieredCache, events: list[Event]) -> None:
    """And replaced."""
    model = Model()
    cached = cached_embeddings(model, cache)
    fields = ("key", "namespace", "created_at", "fresh_until", "keep_until", "born")
    for method, argument in (("embed_documents", ["a"]), ("embed_query", "a")):
        cached.engine.clear()
        model.asked.clear()
        right = world.call(cached, method, argument)
        (entry,) = cached.engine.entries()
        for value, codec in (
            (entry.value, "another"),
            (b"", vector_codec.CODEC),
            (b"f", vector_codec.CODEC),
            (b"f123", vector_codec.CODEC),
            (b"x1", vector_codec.CODEC),
        ):
            damaged: Any = {"value": value, "codec": codec}
            cache.tiers[0].set_many([type(entry)(**damaged, **{name: getattr(entry, name) for name in fields})])
            events.clear()
            assert world.call(cached, method, argument) == right
            assert kinds(events).count("undecodable") == 1
            assert world.call(cached, method, argument) == right
        assert model.asked == [argument] * 6


def test_time(world: World, clock: FakeClock) -> None:
    """A stale vector of a query is served, and refreshed in the background; stale ones of documents are computed anew; expired ones too."""
    model = Model()
    cached = cached_embeddings(model, TieredCache("memory://", policy=Policy(keep_for=100, fresh_for=10), clock=clock), ttl=50)
    for _ in range(2):
        world.call(cached, "embed_documents", ["a"])
        clock.advance(11)
    assert model.asked == [["a"], ["a"]]
    clock.advance(51)
    assert list(cached.engine.entries()) == []

    world.call(cached, "embed_query", "a")
    clock.advance(11)
    assert world.call(cached, "embed_query", "a") == [1.5, 0.25]
    if not isinstance(world, Threads):
        world.loop.run_until_complete(asyncio.sleep(0.05))
    deadline = time.monotonic() + 5
    while model.asked[2:] != ["a", "a"] and time.monotonic() < deadline:
        time.sleep(0.01)
    assert model.asked[2:] == ["a", "a"]


def test_removals(world: World, cache: TieredCache) -> None:
    """By the model's name, and by the text."""
    model = Model()
    cached = cached_embeddings(model, cache)
    for removal in ({"model": "ow*"}, {"prompt": "a"}):
        world.call(cached, "embed_documents", ["a"])
        world.call(cached.engine, "invalidate", **removal)
        world.call(cached, "embed_documents", ["a"])
    assert model.asked == [["a"]] * 3


def test_what_was_removed_meanwhile_is_not_kept(world: World, cache: TieredCache) -> None:
    """A vector that was computed before a removal and stored after it."""

    def say(texts: list[str]) -> list[list[float]]:
        if len(model.asked) == 1:
            cached.engine.clear()
        return [[0.5]] * len(texts)

    model = Model(say=say)
    cached = cached_embeddings(model, cache)
    for _ in range(3):
        assert world.call(cached, "embed_documents", ["a"]) == [[0.5]]
    assert len(model.asked) == 2


# --- what else it is


def test_what_else_the_model_has(make: Make, cache: TieredCache) -> None:
    """Attributes of the model are there; what is missing is said to be so; copies go on with the same cache."""
    cached: Any = cached_embeddings(make(dimensions=8), cache)

    assert (cached.model, cached.dimensions) == ("text-embedding-3-small", 8)
    with pytest.raises(AttributeError, match="nothing"):
        cached.nothing  # noqa: B018
    with pytest.raises(AttributeError):
        cached._nothing  # noqa: B018
    copied = copy.deepcopy(cached_embeddings(Model(), cache))
    assert copied.engine.tiers is cached.engine.tiers
    assert copied.embed_query("a") == [1.5, 0.25]


def test_a_vector_store(make: Make, server: OpenAIServer) -> None:
    """Works with it, and a second one costs nothing."""
    cache = LayeredCache("memory://")
    found = []
    for _ in range(2):
        store = InMemoryVectorStore(cached_embeddings(make(), cache))
        store.add_texts(["one", "two", "three"])
        found.append(store.similarity_search("two", k=1)[0].page_content)
    assert server.calls == 2
    assert found[0] == found[1]


def test_what_was_saved(world: World, cache: TieredCache) -> None:
    """Seconds, of a batch each text its share: a batch of hits saves no more than the batch took."""
    cached = cached_embeddings(Model(seconds=0.1), cache)
    texts = [str(number) for number in range(10)]
    started = time.monotonic()
    world.call(cached, "embed_documents", texts)
    took = time.monotonic() - started
    world.call(cached, "embed_documents", texts)

    assert 0.05 < cache.stats().saved_seconds <= took


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"embeddings": object()}, "embeddings must be a LangChain Embeddings"),
        ({"embeddings": cached_embeddings(Model(), TieredCache("memory://"))}, "not cached yet"),
        ({"cache": "memory://"}, "cache must be"),
        ({"model": ""}, "model must be a text"),
        ({"namespace": ""}, "namespace"),
        ({"ttl": "soon"}, "ttl"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], what: str, cache: TieredCache) -> None:
    """Are told of at once."""
    with pytest.raises(ConfigurationError, match=what):
        CachedEmbeddings(**{"embeddings": Model(), "cache": cache, **arguments})


# --- vectors


FLOATS = st.floats(width=32) | st.floats()


@given(st.lists(FLOATS, min_size=1) | st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_vectors_come_back_to_the_last_bit(vector: list[Any]) -> None:
    """Whatever they hold: not a number, minus zero, what only a float64 can hold, whole numbers."""
    back = vector_codec.decode(vector_codec.encode(vector))

    assert list(map(type, back)) == list(map(type, vector))
    assert [repr(number) for number in back] == [repr(number) for number in vector]


@pytest.mark.parametrize(
    ("component", "size"), [(0.5, 4), (-0.0, 4), (math.inf, 4), (0.1, 8), (1e300, 8), (5e-324, 8), (math.nan, 8), (7, 8)]
)
def test_float32_where_that_is_exact(component: float, size: int) -> None:
    """Half the bytes."""
    assert len(vector_codec.encode([component] * 100)) == 1 + 100 * size


def test_arrays_come_as_lists_of_floats() -> None:
    """As LangChain promises."""
    for array in (np.array([0.1, 0.5], np.float32), [np.float32(0.1), np.float64(0.5)], (0.1, 0.5), [1, 0.5], np.array([1.0, 2.0])):
        back = vector_codec.decode(vector_codec.encode(array))
        assert back == [float(number) for number in array]
        assert set(map(type, back)) == {float}
    with pytest.raises(EncodeError):
        vector_codec.encode([0.5, 2**60 + 1])


# --- what the caller says


def test_modes(world: World, cache: TieredCache) -> None:
    """They hold for vectors as for answers."""
    embeddings = CachedEmbeddings(model := Model(), cache)

    def asked(mode: Any, text: str) -> int:
        before = len(model.asked)
        with cache_options(mode=mode):
            assert world.call(embeddings, "embed_query", text) == [len(text) + 0.5, 0.25]
            assert world.call(embeddings, "embed_documents", [text]) == [[len(text) + 0.5, 0.25]]
        return len(model.asked) - before

    assert [asked("bypass", "a"), asked("bypass", "a")] == [2, 2]
    assert [asked("read_only", "a"), asked("read_only", "a")] == [2, 2]
    with cache_options(mode="only_cached"):
        for method, what in (("embed_query", "a"), ("embed_documents", ["a"])):
            with pytest.raises(CacheMiss):
                world.call(embeddings, method, what)
    assert [asked("refresh", "a"), asked("refresh", "a")] == [2, 2]
    assert [asked(None, "a"), asked("read_only", "a"), asked("only_cached", "a")] == [0, 0, 0]
    with cache_options(single_flight=False):
        assert [asked(None, "b"), asked(None, "b")] == [2, 0]


def test_what_is_refreshed_replaces_what_was_there(world: World, cache: TieredCache) -> None:
    said = [1.0]
    embeddings = CachedEmbeddings(Model(say=lambda texts: [[said[0]] for _ in texts]), cache)
    world.call(embeddings, "embed_query", "a")
    said[0] = 2.0
    with cache_options(mode="refresh"):
        assert world.call(embeddings, "embed_query", "a") == [2.0]
    assert world.call(embeddings, "embed_query", "a") == [2.0]


def test_tenants_and_accounts_have_their_own(world: World, cache: TieredCache) -> None:
    """A tenant's are removed as all are, below the tenant."""
    embeddings = CachedEmbeddings(model := Model(), cache)
    for options in ({}, {"namespace": "a"}, {"namespace": "b"}, {"account": "x"}):
        for _ in range(2):
            with cache_options(**options):
                world.call(embeddings, "embed_query", "text")
                world.call(embeddings, "embed_documents", ["text"])
    assert len(model.asked) == 8
    cache.namespace("a").invalidate(namespace="embeddings")
    for options in ({}, {"namespace": "a"}):
        with cache_options(**options):
            world.call(embeddings, "embed_query", "text")
    assert len(model.asked) == 9


def test_a_tenant_may_be_required(world: World) -> None:
    embeddings = CachedEmbeddings(model := Model(), TieredCache("memory://", policy=Policy(tenant_required=True)))
    with pytest.raises(TenantRequiredError, match="cache_options"):
        world.call(embeddings, "embed_query", "text")
    with pytest.raises(TenantRequiredError, match="cache_options"):
        world.call(embeddings, "embed_documents", ["text"])
    assert model.asked == []
    with cache_options(namespace="a"):
        world.call(embeddings, "embed_query", "text")
    assert len(model.asked) == 1


def test_ttl_and_tags_of_a_call(world: World, cache: TieredCache) -> None:
    embeddings = CachedEmbeddings(model := Model(), cache, ttl="1h")
    with cache_options(ttl=0):
        world.call(embeddings, "embed_query", "gone")
    world.call(embeddings, "embed_query", "gone")
    assert len(model.asked) == 2
    with cache_options(tags=["draft"]):
        world.call(embeddings, "embed_documents", ["one", "two"])
    embeddings.engine.invalidate(tag="draft")
    world.call(embeddings, "embed_documents", ["one", "two"])
    assert len(model.asked) == 4
