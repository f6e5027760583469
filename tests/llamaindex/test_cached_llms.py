"""What a cached LLM is to others: the LLM that it was."""

from __future__ import annotations

import asyncio
import copy
import itertools
import logging
import multiprocessing
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from layered_cache import ConfigurationError, MemoryTier, Policy, TieredCache
from layered_cache.testing import OpenAIServer
from llama_index.core import MockEmbedding, Settings
from llama_index.core.agent.workflow import CodeActAgent
from llama_index.core.base.llms.types import ChatResponse, CompletionResponse
from llama_index.core.extractors import TitleExtractor
from llama_index.core.ingestion.pipeline import get_transformation_hash
from llama_index.core.llms import LLM, ChatMessage, CustomLLM, LLMMetadata, MockLLM
from llama_index.core.llms.callbacks import llm_completion_callback
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.loading import load_llm
from llama_index.core.llms.structured_llm import StructuredLLM
from llama_index.core.schema import TextNode
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.llms.openai import OpenAI
from pydantic import BaseModel, PrivateAttr

import llamaindex_layered_cache
from llamaindex_layered_cache import cached, configure, uncached
from llamaindex_layered_cache._llm.wrapper import OWN, CachedLLM

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

MESSAGES = [ChatMessage(role="user", content="why?")]


class Song(BaseModel):
    """A song."""

    title: str


class Own(CustomLLM):
    """Says how often it was asked."""

    model_name: str = "own"
    times: int = 0

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name="own")

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return CompletionResponse(text=f"answer to {prompt}")

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Iterator[CompletionResponse]:
        raise NotImplementedError


class Around(Own):
    """Asks something that nobody can read."""

    _engine: Any = PrivateAttr()

    def __init__(self, engine: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._engine = engine


@pytest.fixture
def cache() -> Iterator[TieredCache]:
    with TieredCache("memory://") as cache:
        yield cache


@pytest.fixture
def bare(server: OpenAIServer) -> OpenAI:
    return OpenAI(model="gpt-4o-mini", api_base=server.url, api_key="sk-none", max_retries=0)


# --- it is what it was


def test_it_is_the_llm_that_it_was(bare: OpenAI, cache: TieredCache) -> None:
    """A copy with a class of the same name; the LLM itself is left alone."""
    before = {**bare.__dict__}
    llm = cached(bare, cache)

    assert llm is not bare
    assert type(bare) is OpenAI
    assert bare.__dict__ == before
    assert isinstance(llm, OpenAI)
    assert isinstance(llm, FunctionCallingLLM)
    assert (type(llm).__name__, type(llm).__qualname__, type(llm).__module__) == ("OpenAI", "OpenAI", OpenAI.__module__)
    assert llm.class_name() == "openai_llm"
    assert llm.model == "gpt-4o-mini"
    assert repr(llm) == repr(bare)
    assert llm.model_dump() == bare.model_dump()
    assert llm.to_dict() == bare.to_dict()
    assert llm.metadata == bare.metadata
    assert load_llm(llm.to_dict()).to_dict() == load_llm(bare.to_dict()).to_dict()
    assert llm.callback_manager is bare.callback_manager
    assert not isinstance(cached(Own(), cache), FunctionCallingLLM)


def test_twice_is_once(bare: OpenAI, cache: TieredCache, server: OpenAIServer) -> None:
    """The last cache counts; `uncached` takes it back."""
    once = cached(bare, cache)
    with TieredCache("memory://") as other:
        twice = cached(once, other)
        assert type(twice) is type(once)
        twice.chat(MESSAGES)
        twice.chat(MESSAGES)
        assert server.calls == 1
        assert (cache.stats().lookups, other.stats().hits) == (0, 1)
    plain = uncached(twice)
    assert type(plain) is OpenAI
    assert plain.model_dump() == bare.model_dump()
    assert OWN not in plain.__dict__
    assert type(uncached(bare)) is OpenAI


def test_settings_change_and_so_do_answers(bare: OpenAI, cache: TieredCache, server: OpenAIServer) -> None:
    """On the LLM itself, and on copies, which have the cache too."""
    llm = cached(bare, cache)
    llm.chat(MESSAGES)
    llm.temperature = 0.9
    llm.chat(MESSAGES)
    assert [body["temperature"] for body in server.bodies] == [0.1, 0.9]
    assert bare.temperature == 0.1

    warm = llm.model_copy(update={"temperature": 0.5})
    for _ in range(2):
        warm.chat(MESSAGES)
    assert [body["temperature"] for body in server.bodies] == [0.1, 0.9, 0.5]

    llm.temperature = 0.1
    llm.model_copy().chat(MESSAGES)
    copy.copy(llm).chat(MESSAGES)
    assert server.calls == 3


def test_deep_copies_have_the_same_cache(cache: TieredCache) -> None:
    """Where the LLM can be copied."""
    llm = cached(Own(), cache)
    llm.complete("q")
    other = copy.deepcopy(llm)

    assert type(other) is type(llm)
    assert other.complete("q").text == "answer to q"
    assert (cache.stats().hits, cache.stats().stored) == (1, 1)


def test_ingestion_takes_it_for_the_same(bare: OpenAI, cache: TieredCache) -> None:
    """What was kept of transformations with the bare LLM is found."""
    hashes = [get_transformation_hash([TextNode(text="a")], TitleExtractor(llm=llm)) for llm in (bare, cached(bare, cache))]
    assert hashes[0] == hashes[1]


def test_agents_that_look_at_the_class(cache: TieredCache) -> None:
    """CodeActAgent asks an LLM without tools as it would ask the bare one."""

    async def ask(llm: LLM) -> str:
        agent = CodeActAgent(code_execute_fn=lambda code: "", llm=llm)
        return str(await agent.run("say something"))

    alone = asyncio.run(ask(MockLLM(max_tokens=3)))
    llm = cached(MockLLM(max_tokens=3), cache)
    assert asyncio.run(ask(llm)) == alone
    stored = cache.stats().stored
    assert stored > 0
    assert asyncio.run(ask(llm)) == alone
    assert cache.stats().stored == stored


def test_structured_llms_keep_their_form(bare: OpenAI, cache: TieredCache, server: OpenAIServer) -> None:
    """What they ask is cached, whichever was wrapped."""
    inside, outside = cached(bare, cache).as_structured_llm(Song), cached(bare.as_structured_llm(Song), cache)

    assert type(outside) is StructuredLLM
    assert isinstance(outside.llm, CachedLLM)
    for llm in (inside, outside, outside):
        assert llm.chat(MESSAGES).raw == Song(title="text")
    assert server.calls == 1
    assert type(uncached(outside).llm) is OpenAI


def test_errors_of_arguments_are_the_llms_own(cache: TieredCache) -> None:
    """A prompt that is missing, or given twice."""
    llm: Any = cached(MockLLM(), cache)
    for method in ("complete", "stream_complete"):
        with pytest.raises(ValueError, match="No prompt provided"):
            getattr(llm, method)()
        with pytest.raises(TypeError):
            getattr(llm, method)("a", prompt="b")
        with pytest.raises(TypeError):
            getattr(llm, method)("a", False, True)
    for args, kwargs in ((("a",), {}), ((), {"prompt": "a"}), (("a", True), {}), ((), {"prompt": "a", "formatted": True})):
        assert llm.complete(*args, **kwargs).text == "a"
    assert cache.stats().stored == 2


def test_methods_that_an_llm_has_not(cache: TieredCache) -> None:
    """It says so itself."""
    with pytest.raises(NotImplementedError):
        list(cached(Own(), cache).stream_complete("q"))


# --- pickles


def answer(llm: LLM) -> tuple[str, int]:
    """What a worker does."""
    text = llm.complete("q").text
    keeper = llm.__dict__.get(OWN)
    return text, -1 if keeper is None else keeper.cache.stats().hits


@pytest.mark.slow
def test_a_worker_has_the_cache(tmp_path: Path) -> None:
    """It asks no model for what its parent has asked."""
    with TieredCache("memory://", f"sqlite:///{tmp_path}/a.db") as cache:
        llm = cached(MockLLM(max_tokens=3), cache)
        assert answer(llm) == ("text text text", 0)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            assert pool.apply(answer, (llm,)) == ("text text text", 1)


def test_a_pickle_makes_the_cache_again(tmp_path: Path) -> None:
    """From its URLs."""
    with TieredCache("memory://", f"sqlite:///{tmp_path}/a.db", namespace="faq", policy=Policy(keep_for=60)) as cache:
        llm = cached(MockLLM(max_tokens=3), cache, tags=["a"])
        assert answer(llm) == ("text text text", 0)
        again = pickle.loads(pickle.dumps(llm))
        assert type(again) is type(llm)
        assert again.model_dump() == llm.model_dump()
        assert again.__dict__[OWN].how == llm.__dict__[OWN].how
        assert again.__dict__[OWN].cache.name == "faq"
        assert answer(again) == ("text text text", 1)
        again.__dict__[OWN].cache.close()


def test_a_cache_that_cannot_be_made_again_stays_behind(caplog: pytest.LogCaptureFixture) -> None:
    """A warning says so, and the LLM works as it was."""
    with TieredCache(MemoryTier()) as cache, caplog.at_level(logging.WARNING, "layered_cache"):
        again = pickle.loads(pickle.dumps(cached(MockLLM(max_tokens=3), cache)))

    assert type(again) is MockLLM
    assert answer(again) == ("text text text", -1)
    assert "pickled without its cache" in caplog.text


def test_a_rule_that_cannot_be_pickled_leaves_the_cache_behind(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As a pipeline's workers must run all the same."""
    with TieredCache(f"sqlite:///{tmp_path}/a.db") as cache:
        again = pickle.loads(pickle.dumps(cached(MockLLM(max_tokens=3), cache, when=lambda *_: True)))

    assert type(again) is MockLLM
    assert answer(again) == ("text text text", -1)
    assert "without its cache: one of when, store_if, key_extra and normalize cannot be pickled" in caplog.text


def test_the_price_list_is_there_before_anybody_is_at_work() -> None:
    """It imports what a client of openai's, at work in another thread, must not see half imported."""
    for adapter, made in (
        ("llamaindex_layered_cache", "from llama_index.core.llms import MockLLM; adapter.cached(MockLLM(), TieredCache('memory://'))"),
        ("langchain_layered_cache", "adapter.LayeredCache('memory://')"),
    ):
        program = f"import sys, {adapter} as adapter; from layered_cache import TieredCache; {made}; assert 'genai_prices' in sys.modules"
        subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, timeout=60)


# --- what is refused


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"replay": "slowly"}, "replay"),
        ({"raw": "meat"}, "raw"),
        ({"emit_events": "yes"}, "emit_events"),
        ({"share_stream": 1}, "share_stream"),
        ({"when": 1}, "when must be a function"),
        ({"store_if": 1}, "store_if must be a function"),
        ({"ttl": "soon"}, "ttl"),
        ({"namespace": ""}, "namespace"),
        ({"key_extra": object()}, "key_extra"),
        ({"time_to_live": 5}, "time_to_live"),
    ],
)
def test_wrong_arguments(how: dict[str, Any], said: str, cache: TieredCache) -> None:
    """Are named before anything is asked."""
    with pytest.raises(ConfigurationError, match=said):
        cached(MockLLM(), cache, **how)


def test_what_is_no_llm(cache: TieredCache) -> None:
    """And what is no cache."""
    with pytest.raises(ConfigurationError, match="not a Song"):
        cached(Song(title="a"), cache)
    with pytest.raises(ConfigurationError, match="got a dict"):
        cached(MockLLM(), {})  # type: ignore


def test_an_llm_that_nobody_can_tell_from_others(cache: TieredCache) -> None:
    """Is refused, unless something stands for what it holds."""
    with pytest.raises(ConfigurationError, match="key_extra"):
        cached(Around(object()), cache)
    one, other = (cached(Around(object()), cache, key_extra=name) for name in ("a", "b"))
    one.complete("q")
    other.complete("q")
    assert (cache.stats().hits, cache.stats().stored) == (0, 2)


def test_without_a_cache_there_is_one_in_the_users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for LangChain."""
    monkeypatch.setenv("LAYERED_CACHE_DIR", str(tmp_path))
    for _ in range(2):
        llm = cached(MockLLM(max_tokens=2))
        assert llm.complete("q").text == "text text"
        hits = llm.__dict__[OWN].cache.stats().hits
        llm.__dict__[OWN].cache.close()
    assert hits == 1
    assert (tmp_path / "cache.sqlite3").exists()


# --- Settings


@pytest.fixture(autouse=True)
def _settings() -> Iterator[None]:
    yield
    Settings._llm = Settings._embed_model = None


def test_what_settings_hold_is_cached_until_it_is_undone(cache: TieredCache) -> None:
    """In a block, or until `undo`; what somebody has set since stays."""
    llm = Settings.llm = MockLLM(max_tokens=2)
    before = Settings.embed_model = MockEmbedding(8)
    with configure(cache, tags=["a"], embed_key_extra="mock") as configured:
        assert isinstance(Settings.llm, CachedLLM)
        assert type(Settings.embed_model) is not type(before)
        assert isinstance(Settings.embed_model, type(before))
        assert [Settings.llm.complete("q").text for _ in range(2)] == ["text text"] * 2
        assert configured.cache.stats().hits == 1
    assert Settings.llm is llm
    assert Settings.embed_model is before

    done = configure(cache, embed_key_extra="mock")
    other = Settings.llm = MockLLM()
    done.undo()
    done.undo()
    assert Settings.llm is other


def test_settings_that_nobody_has_set(cache: TieredCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Are what LlamaIndex makes of its defaults, or are left alone."""
    monkeypatch.setenv("OPENAI_API_KEY", "")
    with configure(cache):
        assert Settings._llm is None
    monkeypatch.setenv("OPENAI_API_KEY", "sk-none")
    with configure(cache):
        assert isinstance(Settings.llm, OpenAI)
        assert isinstance(Settings.llm, CachedLLM)
        assert isinstance(Settings.embed_model, OpenAIEmbedding)
    assert (Settings._llm, Settings._embed_model) == (None, None)


def test_wrong_arguments_leave_settings_alone(cache: TieredCache) -> None:
    """And say what is wrong."""
    llm = Settings.llm = MockLLM()
    embed_model = Settings.embed_model = MockEmbedding(8)
    with pytest.raises(ConfigurationError, match="replay"):
        configure(cache, replay="slowly")
    with pytest.raises(ConfigurationError, match="key_extra"):
        configure(cache)
    assert (Settings.llm, Settings.embed_model) == (llm, embed_model)


def test_configure_separates_the_key_extras(cache: TieredCache) -> None:
    Settings.llm, Settings.embed_model = Around(object()), MockEmbedding(8)
    with pytest.raises(ConfigurationError, match="keeps as '_engine'"):
        configure(cache, embed_key_extra="mock")  # it does not excuse what cannot be read of the LLM
    with configure(cache, llm_key_extra="around", embed_key_extra="mock"):
        assert isinstance(Settings.llm, CachedLLM)


@pytest.mark.parametrize(("alone", "other"), [("llm", "embed_model"), ("embed_model", "llm")])
def test_configure_takes_one_model_alone(cache: TieredCache, alone: str, other: str) -> None:
    Settings.llm, Settings.embed_model = MockLLM(), MockEmbedding(8)
    before = getattr(Settings, f"_{other}")
    with configure(cache, embed_key_extra="mock", **{other: False}):
        assert getattr(Settings, f"_{other}") is before
        assert type(getattr(Settings, f"_{alone}")) not in {MockLLM, MockEmbedding}


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"key_extra": "a"}, "Use llm_key_extra= or embed_key_extra="),
        ({"llm": False, "embed_model": False}, "must not both be False"),
        ({"llm": MockLLM()}, "llm must be True or False"),
        ({"llm": False, "replay": "single"}, "replay"),
    ],
)
def test_configure_refuses_wrong_arguments(cache: TieredCache, how: dict[str, Any], said: str) -> None:
    Settings.llm, Settings.embed_model = before = MockLLM(), MockEmbedding(8)
    with pytest.raises(ConfigurationError, match=said):
        configure(cache, embed_key_extra="mock", **how)
    assert (Settings.llm, Settings.embed_model) == before


@pytest.mark.parametrize("order", [*itertools.permutations(range(3))])
def test_overlapping_configures_restore_settings(order: tuple[int, ...]) -> None:
    """In whichever order they are undone, the last one in use applies until then."""
    llm = Settings.llm = MockLLM(max_tokens=2)
    caches = [TieredCache("memory://") for _ in range(3)]
    blocks = [configure(cache, embed_model=False) for cache in caches]
    in_use = [0, 1, 2]
    for number in order:
        blocks[number].undo()
        in_use.remove(number)
        expected = caches[in_use[-1]] if in_use else None
        keeper = Settings.llm.__dict__.get(OWN)
        assert (keeper.cache if keeper else None) is expected
    assert Settings.llm is llm


def test_the_package_is_loaded_by_and_by() -> None:
    """Importing it loads nothing, each name what it needs."""
    program = "import sys, llamaindex_layered_cache; print('llama_index' in sys.modules, 'layered_cache' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["False", "False"]
    for name in llamaindex_layered_cache.__all__:
        assert getattr(llamaindex_layered_cache, name).__name__ == name
    with pytest.raises(AttributeError, match="nothing"):
        llamaindex_layered_cache.nothing  # noqa: B018


def test_responses_are_nobody_elses(bare: OpenAI, cache: TieredCache) -> None:
    """What a caller does to an answer, live or from the cache, no other caller sees."""
    llm = cached(bare, cache)
    for _ in range(3):
        response = llm.chat(MESSAGES)
        assert isinstance(response, ChatResponse)
        assert response.message.content == "You asked: why?"
        response.message.blocks.clear()
        response.message.additional_kwargs["a"] = 1
        response.raw.choices.clear()
