"""`cached_embedding`: a real client, a local model that counts its calls, and models of our own."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from layered_cache import CacheMiss, ConfigurationError, Event, Policy, TenantRequiredError, TieredCache, cache_options
from layered_cache.testing import FakeAuthority, FakeTier, OpenAIServer
from llama_index.core import Document, MockEmbedding, VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.ingestion.pipeline import get_transformation_hash
from llama_index.core.schema import TextNode
from llama_index.core.storage.kvstore import SimpleKVStore
from llama_index.embeddings.openai import OpenAIEmbedding
from pydantic import BaseModel, PrivateAttr, SecretStr
from support.fake_networks import TextEmbedding
from support.sync_async import World, kinds, settled

from llamaindex_layered_cache.embeddings import CachedEmbedding, cached_embedding, uncached_embedding
from llamaindex_layered_cache.kvstore import LayeredKVStore

Make = Callable[..., OpenAIEmbedding]
CANARY = "sk-canary-0123456789abcdef"


@pytest.fixture
def make(server: OpenAIServer) -> Make:
    """Makes real clients of the local model."""
    usual: dict[str, Any] = {"model": "text-embedding-3-small", "api_base": server.url, "api_key": CANARY, "max_retries": 0}
    return lambda **given: OpenAIEmbedding(**{**usual, **given})


@pytest.fixture
def cache(events: list[Event]) -> TieredCache:
    """In memory."""
    return TieredCache("memory://", observers=[events.append])


class Own(BaseEmbedding):
    """A model of somebody's own, which embeds queries and texts differently, one after the other."""

    model_name: str = "own"
    query_instruction: str = "query: "
    text_instruction: str = "passage: "
    setting: Any = None
    _asked: list[str] = PrivateAttr(default_factory=list)
    _hidden: Any = PrivateAttr(default=None)

    @property
    def asked(self) -> list[str]:
        return _asked_of[self.model_name]

    def _vector(self, text: str) -> list[float]:
        self.asked.append(text)
        return [len(text) + 0.5, float(sum(map(ord, text)))]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._vector(self.query_instruction + query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        await asyncio.sleep(0)
        return self._get_query_embedding(query)

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._vector(self.text_instruction + text)


_asked_of: dict[str, list[str]] = {}


@pytest.fixture(autouse=True)
def _nothing_asked() -> None:
    _asked_of.clear()
    _asked_of.update({name: [] for name in ("own", "other", "unknown")})


class Failing(Own):
    """A model that says what it is told to."""

    _say: Any = PrivateAttr(default=None)

    def _get_text_embeddings(self, texts: list[str]) -> Any:
        self.asked.append(str(texts))
        return _saying[0](texts)

    async def _aget_text_embeddings(self, texts: list[str]) -> Any:
        return self._get_text_embeddings(texts)


_saying: list[Callable[[list[str]], Any]] = []


# --- what it is


def test_a_cached_model_is_what_it_was(make: Make, cache: TieredCache) -> None:
    """For whoever looks at it, LlamaIndex's own hashes among them; the model itself is left as it is."""
    model = make(dimensions=8)
    cached = cached_embedding(model, cache)

    assert isinstance(cached, OpenAIEmbedding)
    assert isinstance(cached, CachedEmbedding)
    assert not isinstance(model, CachedEmbedding)
    kind = type(cached)
    assert (kind.__name__, kind.__module__, kind.__qualname__) == ("OpenAIEmbedding", OpenAIEmbedding.__module__, "OpenAIEmbedding")
    assert (cached.class_name(), repr(cached), cached.to_dict()) == (model.class_name(), repr(model), model.to_dict())
    assert list(kind.model_fields) == list(OpenAIEmbedding.model_fields)
    assert kind.model_json_schema() == OpenAIEmbedding.model_json_schema()
    assert get_transformation_hash([TextNode(text="a")], cached) == get_transformation_hash([TextNode(text="a")], model)
    assert type(cached_embedding(make(), cache)) is kind


def test_settings_can_be_changed(world: World, make: Make, server: OpenAIServer, cache: TieredCache) -> None:
    """And count from then on; those of the model it was made from stay."""
    model = make()
    cached = cached_embedding(model, cache)
    world.call(cached, "get_text_embedding", "a")
    cached.additional_kwargs = {"dimensions": 8}
    copied = cached.model_copy(update={"additional_kwargs": {"dimensions": 4}})

    assert [len(world.call(one, "get_text_embedding", "a")) for one in (cached, copied) for _ in range(2)] == [8, 8, 4, 4]
    assert server.calls == 3
    assert model.additional_kwargs == {}


def test_twice_is_once(world: World, cache: TieredCache) -> None:
    """The last cache counts; without it, it is the model again."""
    other = TieredCache("memory://")
    model = Own()
    twice = cached_embedding(cached_embedding(model, other), cache)
    world.call(twice, "get_text_embedding", "a")
    assert list(other.entries()) == []
    assert len(list(cache.entries())) == 1

    plain = uncached_embedding(twice)
    assert type(plain) is Own
    assert plain == model
    world.call(plain, "get_text_embedding", "a")
    assert len(_asked_of["own"]) == 2
    assert uncached_embedding(model) == model
    assert twice.get_text_embedding("a") == plain.get_text_embedding("a")


def test_copies_have_the_cache(make: Make, server: OpenAIServer, cache: TieredCache) -> None:
    """Shallow and deep ones."""
    cached = cached_embedding(make(), cache)
    for copied in (copy.copy(cached), copy.deepcopy(cached), cached.model_copy(), cached.model_copy(deep=True)):
        assert type(copied) is type(cached)
        copied.get_text_embedding("a")
    assert server.calls == 1


def test_pickles(make: Make, server: OpenAIServer, db: str) -> None:
    """Have the cache with them where it can be made again; where not, they are pickles of the model."""
    cached = cached_embedding(make(), TieredCache("memory://", db), ttl=100, namespace="vectors", tags=["t"], key_extra={"v": 1})
    cached.get_text_embedding("a")

    there = pickle.loads(pickle.dumps(cached))
    assert isinstance(there, CachedEmbedding)
    there.get_text_embedding("a")
    assert server.calls == 1
    assert there._keeper.recipe[1:] == ("vectors", 100, ("t",), {"v": 1})
    assert there._keeper.vectors.cache.name == "default/vectors"

    alone = pickle.loads(pickle.dumps(cached_embedding(make(), TieredCache(FakeAuthority()))))
    assert type(alone) is OpenAIEmbedding
    alone.get_text_embedding("a")
    assert server.calls == 2


# --- what is asked


def test_each_text_is_embedded_once(world: World, make: Make, server: OpenAIServer, cache: TieredCache) -> None:
    """Of a batch, only those that are missing go to the model, once each, in their order; the answer is the model's own."""
    plain, cached = make(), cached_embedding(make(), cache)

    first = world.call(cached, "get_text_embedding_batch", ["b", "a", "b"])
    second = world.call(cached, "get_text_embedding_batch", ["c", "a", "d", "b", "d"])
    assert [body["input"] for body in server.bodies] == [["b", "a"], ["c", "d"]]
    assert world.call(cached, "get_text_embedding", "a") == first[1]
    assert server.calls == 2

    assert first == plain.get_text_embedding_batch(["b", "a", "b"])
    assert second == plain.get_text_embedding_batch(["c", "a", "d", "b", "d"])
    assert world.call(cached, "get_text_embedding_batch", []) == []


def test_a_miss_is_asked_as_without_a_cache(world: World, make: Make, server: OpenAIServer, cache: TieredCache) -> None:
    """Byte for byte."""
    for model in (make(dimensions=8), cached_embedding(make(dimensions=8), cache)):
        world.call(model, "get_text_embedding_batch", ["a\nb", "c"])
        world.call(model, "get_text_embedding", "d")
        world.call(model, "get_query_embedding", "d")
    assert server.bodies[:3] == server.bodies[3:]


def test_queries_are_no_texts(world: World, cache: TieredCache) -> None:
    """A model with instructions never gets one for the other, in whichever order they come."""
    cached = cached_embedding(Own(), cache)
    for _ in range(2):
        query, text = world.call(cached, "get_query_embedding", "a"), world.call(cached, "get_text_embedding", "a")
        (batch,) = world.call(cached, "get_text_embedding_batch", ["a"])
        assert query == Own()._get_query_embedding("a") != text
        assert text == batch == Own()._get_text_embedding("a")
    assert _asked_of["own"][:2] == ["query: a", "passage: a"]
    assert _asked_of["own"].count("query: a") == _asked_of["own"].count("passage: a") == 3  # one of the cached model, two of this test


def test_both_worlds_share_entries(make: Make, server: OpenAIServer, cache: TieredCache) -> None:
    """What one stored the other finds, in any loop."""
    cached = cached_embedding(make(), cache)

    assert cached.get_text_embedding_batch(["a"]) == asyncio.run(cached.aget_text_embedding_batch(["a"]))
    assert asyncio.run(cached.aget_query_embedding("a")) == cached.get_query_embedding("a")
    assert server.calls == 2


def test_one_read_and_one_write(world: World) -> None:
    """Of each tier, for a batch; also of a model that embeds its texts one after the other."""
    slow, fast = FakeAuthority("slow"), FakeTier("fast")
    cached = cached_embedding(Own(embed_batch_size=200), TieredCache(fast, slow))
    world.call(cached, "get_text_embedding_batch", [str(number) for number in range(200)])

    settled(cached._keeper.vectors.cache)
    for tier in (fast, slow):
        assert [call.split()[0] for call in tier.calls] == ["get", "set"]
    assert len(_asked_of["own"]) == 200


def test_many_callers_of_one_query_make_one_call(world: World, make: Make, server: OpenAIServer, cache: TieredCache) -> None:
    """The others wait for it, and each gets a list of its own."""
    server.delay = 0.2
    cached = cached_embedding(make(), cache)

    found = world.at_once(cached, "get_query_embedding", [("q",)] * 10)

    assert server.calls == 1
    assert len({id(vector) for vector in found}) == 10
    assert len({tuple(vector) for vector in found}) == 1


def test_indices(world: World, make: Make, server: OpenAIServer, cache: TieredCache) -> None:
    """Build and ask as with the model, from the cache the second time."""
    documents = [Document(text=f"document number {number}") for number in range(12)]
    answers: list[Any] = []
    for model in (make(), *(cached_embedding(make(), cache) for _ in range(2))):
        before = server.calls
        index = VectorStoreIndex.from_documents(documents, embed_model=model)
        nodes = world.call(index.as_retriever(similarity_top_k=3), "retrieve", "number 7")
        answers.append(([(node.text, node.score) for node in nodes], server.calls - before))
    assert answers == [(answers[0][0], 2), (answers[0][0], 2), (answers[0][0], 0)]


def test_who_listens_hears_the_same(make: Make, cache: TieredCache) -> None:
    """Of hits as well."""
    counter = TokenCountingHandler()
    cached = cached_embedding(make(callback_manager=CallbackManager([counter])), cache)
    for _ in range(2):
        cached.get_text_embedding("some words")
    first, second = (event.total_token_count for event in counter.embedding_token_counts)
    assert first == second > 0


def test_an_embeddings_cache_stays(world: World, make: Make, server: OpenAIServer, cache: TieredCache) -> None:
    """It is asked before; what it has not, ours has."""
    theirs = SimpleKVStore()
    cached = cached_embedding(make(embeddings_cache=theirs), cache)
    vector = world.call(cached, "get_text_embedding", "a")
    assert list(theirs.get_all("embeddings")) == ["a"]

    theirs.delete("a", "embeddings")
    assert world.call(cached, "get_text_embedding_batch", ["a"]) == [vector]
    assert server.calls == 1
    assert list(theirs.get_all("embeddings")) == ["a"]


# --- what a key is made of


def test_models_do_not_share_vectors(world: World, make: Make, server: OpenAIServer, cache: TieredCache) -> None:
    """By name, size, or any other setting; nor do addresses and classes."""
    with OpenAIServer() as elsewhere:
        models: list[BaseEmbedding] = [
            make(),
            make(model="text-embedding-3-large"),
            make(dimensions=8),
            make(additional_kwargs={"user": "u"}),
            make(api_base=elsewhere.url),
            make(model_name="text-embedding-3-small-deployment"),
            type("Mine", (OpenAIEmbedding,), {"__module__": __name__})(api_base=server.url, api_key="none", model="text-embedding-3-small"),
        ]
        for _ in range(2):
            for model in models:
                world.call(cached_embedding(model, cache), "get_text_embedding_batch", ["a"])
                world.call(cached_embedding(model, cache), "get_query_embedding", "a")
        assert (server.calls, elsewhere.calls) == (12, 2)


def test_what_is_about_transport_does_not_count(world: World, make: Make, server: OpenAIServer, cache: TieredCache) -> None:
    """Nor do secrets, and what a model notes of itself (its client)."""
    used = make()
    used.get_text_embedding("other")
    for model in (
        make(),
        make(max_retries=5, timeout=3.0, embed_batch_size=7, num_workers=2, reuse_client=False),
        make(api_key="another"),
        make(default_headers={"X-Request-Id": "1", "Authorization": "Bearer x"}),
        make(embeddings_cache=SimpleKVStore()),
        used,
    ):
        world.call(cached_embedding(model, cache), "get_text_embedding", "a")
    assert server.calls == 2


class Inner(BaseModel):
    """Another library's model, inside."""

    name: str = "inner"
    size: int = 4
    api_key: SecretStr = SecretStr(CANARY)
    client: Any = None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"_hidden": {"instruction": "a"}}, {"_hidden": {"instruction": "b"}}),
        ({"_hidden": Inner()}, {"_hidden": Inner(size=8)}),
        ({"_hidden": [Inner()]}, {"_hidden": [Inner(name="x")]}),
        ({"setting": {"inner": Inner()}}, {"setting": {"inner": Inner(size=8)}}),
        ({"_hidden": Own()}, {"_hidden": Own(model_name="other")}),
        ({"setting": 1}, {"setting": None}),
        ({"setting": (1, b"x", 0.5)}, {"setting": (1, b"y", 0.5)}),
        ({"text_instruction": ""}, {"text_instruction": "passage:"}),
    ],
)
def test_what_stands_inside_counts(cache: TieredCache, one: dict[str, Any], other: dict[str, Any]) -> None:
    """Private settings, other libraries' models, models within models."""
    for _ in range(2):
        for settings in (one, other):
            cached_embedding(own(**settings), cache).get_text_embedding("a")
    assert len(_asked_of["own"]) == 2


@pytest.mark.parametrize("name", ["pool", "pool_type", "_loop_mode", "session_prompt", "_pad_key", "instruction_token", "query_key"])
def test_a_name_does_not_excuse_a_setting(cache: TieredCache, name: str) -> None:
    """It counts, whatever its name has in common with those of clients and secrets."""
    namespace = {"__module__": __name__, "__annotations__": {name: str}, name: PrivateAttr("") if name[0] == "_" else ""}
    made: Any = type("Made", (Own,), namespace)
    for value in ("cls", "mean", "cls"):
        model = made()
        setattr(model, name, value)
        cached_embedding(model, cache).get_text_embedding("a")
    assert len(_asked_of["own"]) == 2


def own(**settings: Any) -> Own:
    model = Own(**{name: value for name, value in settings.items() if not name.startswith("_")})
    for name, value in settings.items():
        if name.startswith("_"):
            setattr(model, name, value)
    return model


def test_a_model_that_closes_its_client_when_it_goes_keeps_it(cache: TieredCache) -> None:
    """What it was made of lives as long."""
    closed: list[str] = []

    class Closing(Own):
        def __del__(self) -> None:
            closed.append("")

    model = cached_embedding(Closing(), cache)
    gc.collect()
    model.get_text_embedding("a")
    assert closed == []


def holding_itself() -> dict[str, Any]:
    """Return what has no end."""
    found: dict[str, Any] = {}
    found["a"] = found
    return found


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"_hidden": object()}, r"the setting '_hidden' of .*WithClient holds a object"),
        ({"setting": [threading.Lock()]}, "the setting 'setting' of .*WithClient holds a lock"),
        ({"setting": len}, "the setting 'setting'"),
        ({"_hidden": holding_itself()}, "the setting '_hidden' of .*WithClient holds itself"),
        ({"_hidden": Inner(name="x", client=1)}, None),
        ({"_client": object()}, None),
        ({"model_name": "unknown"}, "has no model_name"),
    ],
)
def test_a_model_that_nobody_can_tell_is_refused(cache: TieredCache, settings: dict[str, Any], words: str | None) -> None:
    """When it is wrapped, unless the caller says what stands for it; clients do not matter."""

    class WithClient(Own):
        _client: Any = PrivateAttr(default=None)

    def model() -> Own:
        made = WithClient(**{name: value for name, value in settings.items() if not name.startswith("_")})
        for name, value in settings.items():
            if name.startswith("_"):
                setattr(made, name, value)
        return made

    if words is None:
        cached_embedding(model(), cache)
        return
    with pytest.raises(ConfigurationError, match=f"(?s){words}.*key_extra='name/and-settings'"):
        cached_embedding(model(), cache)
    for _ in range(2):
        for extra in ("own/a", "own/b"):
            cached_embedding(model(), cache, key_extra=extra).get_text_embedding("a")
    assert sum(map(len, _asked_of.values())) == 2


class Local(Own):
    """A model with the private attributes of `HuggingFaceEmbedding` and `FastEmbedEmbedding`."""

    providers: list[str] | None = None
    _model: Any = PrivateAttr()
    _device: str = PrivateAttr(default="cpu")

    def __init__(self, folder: Path, device: str = "cpu", **settings: Any) -> None:
        super().__init__(**settings)
        self._model, self._device = TextEmbedding(folder), device


def test_a_local_model_needs_no_key_extra(world: World, cache: TieredCache, tmp_path: Path) -> None:
    """Its weights and settings count, its device does not, and `key_extra` replaces all of that."""
    weights = tmp_path / "model.onnx"
    weights.write_bytes(b"one")
    same = [Local(tmp_path), Local(tmp_path, device="cuda"), Local(tmp_path, providers=["CUDAExecutionProvider"])]
    named = cached_embedding(Local(tmp_path), cache, key_extra="a")
    for model in [named, *(cached_embedding(one, cache) for one in same)]:
        world.call(model, "get_text_embedding", "a")
    assert len(_asked_of["own"]) == 2
    weights.write_bytes(b"two")
    for model in (cached_embedding(Local(tmp_path), cache), cached_embedding(Local(tmp_path), cache, key_extra="a")):
        world.call(model, "get_text_embedding", "a")
    assert len(_asked_of["own"]) == 3
    same[0]._model.model.task = "query"
    world.call(cached_embedding(same[0], cache), "get_text_embedding", "a")
    assert len(_asked_of["own"]) == 4


def test_a_model_without_a_name_needs_one(cache: TieredCache) -> None:
    """What can be read of it counts all the same."""
    with pytest.raises(ConfigurationError, match=r"MockEmbedding has no model_name: say by key_extra="):
        cached_embedding(MockEmbedding(embed_dim=3), cache)
    vectors = [cached_embedding(MockEmbedding(embed_dim=size), cache, key_extra="mock").get_text_embedding("a") for size in (3, 4, 3)]
    assert [len(vector) for vector in vectors] == [3, 4, 3]
    assert [entry.model for entry in cache.entries()] == ["MockEmbedding"] * 2


def test_the_address_of_a_client_inside_counts(cache: TieredCache) -> None:
    """The environment may have said it when the client was made."""

    class Client:
        def __init__(self, url: str) -> None:
            self._client = self
            self.base_url = url

    for url in ("https://a", "https://b", "https://a"):
        cached_embedding(own(_hidden=Inner(client=Client(url))), cache).get_text_embedding("a")
    assert len(_asked_of["own"]) == 2


def test_a_setting_that_cannot_be_read_any_more(world: World, cache: TieredCache, events: list[Event]) -> None:
    """Makes the call go to the model, and stores nothing."""
    cached = cached_embedding(Own(), cache)
    cached.setting = object()
    for method, argument in (("get_text_embedding_batch", ["a"]), ("get_text_embedding", "a"), ("get_query_embedding", "a")):
        events.clear()
        assert world.call(cached, method, argument) == getattr(uncached_embedding(cached), method)(argument)
        assert kinds(events) == ["uncacheable"]
        assert "setting" in str(events[0].reason)


def test_a_text_is_what_it_is(world: World, cache: TieredCache) -> None:
    """Case, space, and characters that no encoding has."""
    texts = ["a", "A", " a", "a ", "", "\x00", "é", "e\u0301", "\ud800", "鍵"]
    cached = cached_embedding(Own(embed_batch_size=20), cache)
    for _ in range(2):
        world.call(cached, "get_text_embedding_batch", texts)
    assert _asked_of["own"] == [f"passage: {text}" for text in texts]


def test_no_secret_is_told(world: World, make: Make, db: str, events: list[Event], caplog: pytest.LogCaptureFixture) -> None:
    """Not in the file, wherever it stood; not in events, logs and texts of objects."""
    headers = {"Authorization": f"Bearer {CANARY}"}
    model = make(default_headers=headers, additional_kwargs={"extra_headers": {"X-Api-Key": CANARY}})
    with TieredCache(db, observers=[events.append]) as cache:
        cached = cached_embedding(model, cache)
        world.call(cached, "get_query_embedding", "a")
        world.call(cached, "get_text_embedding_batch", ["a"])
        told = [*map(str, events), caplog.text, repr(cache), str(cached._keeper), *map(repr, cache.entries())]
        asked = cached._keeper.asked(cached, "query", ["a"])
        assert asked is not None
        told += [str(asked[1][0].params), str(asked[1][0])]
    assert not any(CANARY in text for text in told)
    with open(db.removeprefix("sqlite:///"), "rb") as file:  # noqa: PTH123 - bytes
        assert CANARY.encode() not in file.read()


# --- what is kept, for how long, and when things go wrong


def test_names_times_and_tags(world: World, cache: TieredCache) -> None:
    """As they are said."""
    cached = cached_embedding(Own(), cache, ttl="100s", namespace="vectors", tags=["b", "a"])
    world.call(cached, "get_text_embedding_batch", ["a"])
    world.call(cached, "get_query_embedding", "b")

    entries = list(cache.namespace("vectors").entries())
    assert [(entry.model, entry.tags, round(entry.keep_until - entry.created_at)) for entry in entries] == [("own", ("a", "b"), 100)] * 2
    for removal in ({"tag": "a"}, {"model": "ow*"}, {"prompt": "a"}):
        world.call(cached, "get_text_embedding", "a")
        world.call(cache.namespace("vectors"), "invalidate", **removal)
        asked = len(_asked_of["own"])
        world.call(cached, "get_text_embedding", "a")
        assert len(_asked_of["own"]) == asked + 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"cache": {}}, "cache must be a TieredCache or a LayeredCache, got a dict"),
        ({"ttl": "soon"}, "ttl must be a duration"),
        ({"tags": "one"}, "tags must be texts"),
        ({"namespace": ""}, "must be a text that is not empty"),
        ({"embed_model": "default"}, "embed_model must be a LlamaIndex BaseEmbedding, not a str"),
        ({"key_extra": object()}, "key_extra holds a object"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], words: str) -> None:
    """Are told of by name, before anything is asked."""
    with pytest.raises(ConfigurationError, match=words):
        cached_embedding(**{"embed_model": Own(), "cache": TieredCache("memory://"), **arguments})


def test_options_around_a_call_hold(world: World, cache: TieredCache) -> None:
    """For one text and for many: modes, tenants, accounts, times and tags."""
    cached = cached_embedding(Own(), cache, namespace="vectors", tags=["a"])
    asked = _asked_of["own"]
    for method, argument in (("get_text_embedding", "a"), ("get_text_embedding_batch", ["b"])):
        asked.clear()
        for options, times in (
            ({}, 1),
            ({"mode": "bypass"}, 1),
            ({"mode": "refresh"}, 1),
            ({"mode": "read_only"}, 0),
            ({"mode": "only_cached"}, 0),
            ({"namespace": "t1"}, 1),
            ({"namespace": "t2"}, 1),
            ({"namespace": "t1"}, 0),
            ({"account": "x"}, 1),
            ({"account": "y"}, 1),
            ({"account": "x"}, 0),
            ({}, 0),
        ):
            before = len(asked)
            with cache_options(**options):
                world.call(cached, method, argument)
            assert len(asked) - before == times, options
        with cache_options(mode="only_cached"), pytest.raises(CacheMiss):
            world.call(cached, method, ["never"] if isinstance(argument, list) else "never")
    with cache_options(ttl=100, tags=["b"], namespace="t3"):
        world.call(cached, "get_text_embedding", "a")
    (entry,) = cache.namespace("t3").namespace("vectors").entries()
    assert (entry.tags, round(entry.keep_until - entry.created_at)) == (("a", "b"), 100)
    world.call(cache.namespace("t1").namespace("vectors"), "clear")
    before = len(asked)
    for tenant, times in (("t2", 0), ("t1", 1)):
        with cache_options(namespace=tenant):
            world.call(cached, "get_text_embedding", "a")
        assert len(asked) - before == times


def test_tenants_and_accounts_where_the_policy_asks_for_them(world: World, make: Make, server: OpenAIServer, events: list[Event]) -> None:
    """A call that names no tenant is refused; a model that shows no account is not cached, and those that show two share nothing."""
    cached = cached_embedding(Own(), TieredCache("memory://", policy=Policy(tenant_required=True)))
    with pytest.raises(TenantRequiredError, match="cache_options"):
        world.call(cached, "get_text_embedding", "a")
    with cache_options(namespace="t1"):
        world.call(cached, "get_text_embedding", "a")

    cache = TieredCache("memory://", policy=Policy(separate_accounts=True), observers=[events.append])
    for key in ("sk-1", "sk-2", "sk-1", "sk-2"):
        world.call(cached_embedding(make(api_key=key), cache), "get_text_embedding", "a")
    assert server.calls == 2
    for _ in range(2):
        world.call(cached_embedding(Own(), cache), "get_text_embedding", "b")
    assert len(_asked_of["own"]) == 3
    assert "uncacheable" in kinds(events)


def test_an_error_is_one_callers(world: World, cache: TieredCache) -> None:
    """It may be about his key: who has waited for him asks by himself, and has his vector kept."""
    begun = threading.Event()

    class Keyed(Own):
        api_key: str = "good"

        def _get_query_embedding(self, query: str) -> list[float]:
            begun.set()
            time.sleep(0.1)
            return self._said(query)

        async def _aget_query_embedding(self, query: str) -> list[float]:
            begun.set()
            await asyncio.sleep(0.1)
            return self._said(query)

        def _said(self, query: str) -> list[float]:
            if self.api_key == "bad":
                raise PermissionError
            return self._vector(query)

    class Callers:
        def ask(self, key: str) -> Any:
            if key == "good":
                begun.wait(5)
            return cached_embedding(Keyed(api_key=key), cache).get_query_embedding("a")

        async def aask(self, key: str) -> Any:
            if key == "good":
                await asyncio.sleep(0.02)  # tasks begin in their order
            return await cached_embedding(Keyed(api_key=key), cache).aget_query_embedding("a")

    bad, good = world.at_once(Callers(), "ask", [("bad",), ("good",)])
    assert type(bad) is PermissionError
    assert bad.__context__ is None
    assert good == [1.5, 97.0]
    assert cached_embedding(Keyed(), cache).get_query_embedding("a") == good
    assert _asked_of["own"] == ["a"]


def test_errors_of_the_model_pass(world: World, make: Make, server: OpenAIServer, cache: TieredCache) -> None:
    """Unchanged; nothing is kept, and the next caller asks again."""
    cached = cached_embedding(make(), cache)
    for method, argument in (("get_text_embedding_batch", ["a"]), ("get_text_embedding", "b"), ("get_query_embedding", "a")):
        server.fail(1, 400)
        with pytest.raises(openai.BadRequestError):
            world.call(cached, method, argument)
        assert world.call(cached, method, argument) == getattr(make(), method)(argument)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_wrong_number_of_vectors_is_nobodys(cache: TieredCache, events: list[Event], count: int) -> None:
    """Nothing is kept of it; the caller gets what the model says to all that he asked."""
    said = [[float(number)] for number in range(count)]
    _saying[:] = [lambda texts: said if "bad" in texts else [[0.5]] * len(texts)]
    cached = cached_embedding(Failing(), cache)
    cached._get_text_embeddings(["good"])

    assert cached._get_text_embeddings(["bad", "other"]) == said
    assert asyncio.run(cached._aget_text_embeddings(["good", "bad", "other"])) == said
    assert [event.reason for event in events if event.kind == "not_stored"] == ["not as many vectors as texts"] * 2
    assert cached._get_text_embeddings(["other", "good"]) == [[0.5], [0.5]]


def test_what_is_no_vector_is_not_kept(world: World, cache: TieredCache) -> None:
    """And passes as it is."""
    _saying[:] = [lambda texts: [None for _ in texts]]
    cached = cached_embedding(Failing(), cache)
    for _ in range(2):
        method = cached._get_text_embeddings if world.name == "threads" else cached._aget_text_embeddings
        found = method(["a", "b"])
        assert (asyncio.run(found) if asyncio.iscoroutine(found) else found) == [None, None]
    assert len(_asked_of["own"]) == 2
    assert list(cache.entries()) == []


def test_a_tier_that_fails_counts_as_empty(world: World) -> None:
    """The model answers."""
    tier = FakeAuthority()
    tier.broken = tier.log_is_broken = True
    cached = cached_embedding(Own(), TieredCache(tier))

    assert world.call(cached, "get_text_embedding_batch", ["a"]) == [uncached_embedding(cached).get_text_embedding("a")]
    assert world.call(cached, "get_query_embedding", "a") == uncached_embedding(cached).get_query_embedding("a")


def test_what_the_policy_does_not_keep(world: World) -> None:
    """Is answered all the same, by the model each time."""
    cached = cached_embedding(Own(), TieredCache("memory://", policy=Policy(cacheable=lambda *_: False)))
    for _ in range(2):
        world.call(cached, "get_query_embedding", "a")
        world.call(cached, "get_text_embedding_batch", ["a"])
    assert len(_asked_of["own"]) == 4


def test_on_redis_and_mongodb(world: World, make: Make, server: OpenAIServer, redis_url: str, mongodb_url: str) -> None:
    """A second cache, with nothing in memory, has what the first one stored."""
    vectors: list[Any] = []
    for _ in range(2):
        with TieredCache("memory://", f"{redis_url}#timeout=2s", f"{mongodb_url}#timeout=2s") as cache:
            cached = cached_embedding(make(), cache)
            vectors.append((world.call(cached, "get_text_embedding_batch", ["a", "b"]), world.call(cached, "get_query_embedding", "a")))
    assert vectors[0] == vectors[1]
    assert server.calls == 2


def test_models_that_share_an_embeddings_cache_of_ours_share_vectors_as_with_any(make: Make, cache: TieredCache) -> None:
    """Its keys are LlamaIndex's, the bare text: a namespace for each model keeps them apart; a cached model needs none."""
    store = LayeredKVStore(cache)
    small, large = make(embeddings_cache=store, dimensions=4), make(embeddings_cache=store, dimensions=8)
    assert len(small.get_text_embedding("a")) == len(large.get_text_embedding("a")) == 4
    apart = [make(embeddings_cache=LayeredKVStore(cache, namespace=str(size)), dimensions=size) for size in (4, 8)]
    assert [len(model.get_text_embedding("a")) for model in apart] == [4, 8]
