"""The identity of a model: its settings count as they are at the call, by every entry point; an unknown model is not cached."""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.caches import BaseCache
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import BaseChatModel, BaseLLM, FakeListChatModel, FakeListLLM
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, Generation, LLMResult
from langchain_openai import ChatOpenAI
from layered_cache import ConfigurationError
from layered_cache.testing import OpenAIServer
from pydantic import BaseModel, Field, PrivateAttr

from langchain_layered_cache import LayeredCache, LayeredCacheMiddleware, cached

sent: list[str] = []
"""What the models of this file were asked, and how they were set."""


class Bare(BaseChatModel):
    """A model of which LangChain's text shows no setting, as it shows none of ChatOllama."""

    model: str = "a"
    temperature: float | None = None
    stop_at: list[str] | None = None
    options: Any = None

    @property
    def _llm_type(self) -> str:
        return "bare"

    def _ask(self) -> str:
        sent.append(f"{self.model} {self.temperature} {self.stop_at} {self.options}")
        return sent[-1]

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=AIMessage(self._ask()))])

    def _stream(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        yield ChatGenerationChunk(message=AIMessageChunk(content=self._ask()))


class Completing(BaseLLM):
    """A plain model of which LangChain's text shows no setting."""

    model: str = "a"

    @property
    def _llm_type(self) -> str:
        return "completing"

    def _generate(self, prompts: list[str], stop: Any = None, run_manager: Any = None, **kwargs: Any) -> LLMResult:
        sent.append(f"{self.model} {kwargs}")
        return LLMResult(generations=[[Generation(text=sent[-1])] for _ in prompts])


@pytest.fixture
def cache() -> Iterator[LayeredCache]:
    sent.clear()
    cache = LayeredCache("memory://")
    yield cache
    set_llm_cache(None)
    cache.close()


Ask = Callable[[Any, LayeredCache], str]


def by_global(model: Any, cache: LayeredCache) -> str:
    set_llm_cache(cache)
    return model.invoke("hello").content


def by_global_async(model: Any, cache: LayeredCache) -> str:
    set_llm_cache(cache)
    return asyncio.run(model.ainvoke("hello")).content


def by_wrapper(model: Any, cache: LayeredCache) -> str:
    return cached(model, cache).invoke("hello").content


def by_stream(model: Any, cache: LayeredCache) -> str:
    return "".join(chunk.text for chunk in cached(model, cache).stream("hello"))


def by_stream_async(model: Any, cache: LayeredCache) -> str:
    async def read() -> str:
        return "".join([chunk.text async for chunk in cached(model, cache).astream("hello")])

    return asyncio.run(read())


def by_agent(model: Any, cache: LayeredCache) -> str:
    return create_agent(model, middleware=[LayeredCacheMiddleware(cache)]).invoke({"messages": [("user", "hello")]})["messages"][-1].content


def by_agent_async(model: Any, cache: LayeredCache) -> str:
    agent = create_agent(model, middleware=[LayeredCacheMiddleware(cache)])
    return asyncio.run(agent.ainvoke({"messages": [("user", "hello")]}))["messages"][-1].content


WAYS = [by_global, by_global_async, by_wrapper, by_stream, by_stream_async, by_agent, by_agent_async]
every_way = pytest.mark.parametrize("ask", WAYS)


@every_way
@pytest.mark.parametrize("other", [{"model": "b"}, {"temperature": 0.0}, {"stop_at": ["x"]}, {"options": {"a": True}}], ids=str)
def test_models_that_differ_in_a_field_have_own_answers(other: dict[str, Any], ask: Ask, cache: LayeredCache) -> None:
    assert ask(Bare(**other), cache) != ask(Bare(), cache)
    assert len(sent) == 2
    assert ask(Bare(**other), cache) == sent[0]


@every_way
def test_an_attribute_that_is_changed_after_use_counts(ask: Ask, cache: LayeredCache) -> None:
    model = Bare(stop_at=["x"])
    ask(model, cache)
    model.temperature = 0.5
    ask(model, cache)
    assert model.stop_at is not None
    model.stop_at.append("y")
    ask(model, cache)
    ask(model.model_copy(update={"model": "b"}), cache)
    assert len(sent) == 4
    model.stop_at.remove("y")
    model.temperature = None
    assert ask(model, cache) == sent[0]


@pytest.mark.parametrize("value", [1, 1.0, True, "1"], ids=repr)
def test_values_that_python_takes_for_equal_are_kept_apart(value: object, cache: LayeredCache) -> None:
    model = Bare(options={"a": 1})
    by_wrapper(model, cache)
    model.options = {"a": value}
    by_wrapper(model, cache)
    assert len(sent) == (1 if repr(value) == "1" else 2)


def test_all_entry_points_share_entries(cache: LayeredCache) -> None:
    assert len({ask(Bare(temperature=0.5), cache) for ask in WAYS}) == 1
    assert len(sent) == 1


@pytest.mark.parametrize("wrap", [False, True])
def test_plain_models_are_known_by_their_fields(wrap: bool, cache: LayeredCache) -> None:
    set_llm_cache(cache)
    for name in ("a", "b", "a"):
        model = Completing(model=name)
        (cached(model) if wrap else model).invoke("hello")
        asyncio.run((cached(model) if wrap else model).ainvoke("hello"))
    assert len(sent) == 2


def test_arguments_of_a_plain_call_count_in_the_global_cache(cache: LayeredCache) -> None:
    """LangChain leaves them out of its text. A wrapped model has the same entry."""
    set_llm_cache(cache)
    for temperature in (0.1, 0.9, 0.1):
        Completing().invoke("hello", temperature=temperature)
        cached(Completing()).invoke("hello", temperature=temperature)
        asyncio.run(Completing().ainvoke("hello", temperature=temperature))
    Completing().invoke("hello")
    assert sent == ["a {'temperature': 0.1}", "a {'temperature': 0.9}", "a {}"]


def test_many_prompts_of_one_plain_call_are_all_kept(cache: LayeredCache) -> None:
    set_llm_cache(cache)
    prompts = [f"prompt {number}" for number in range(40)]
    for _ in range(2):
        Completing().generate(prompts, temperature=0.1)
    assert len(sent) == 1


# --- what has no key


class Holding(Bare):
    """A model that holds an object that nobody can read: it may be the model."""

    model: str = "own"
    network: Any = None


def warnings_of(caplog: pytest.LogCaptureFixture) -> Sequence[str]:
    return [record.getMessage() for record in caplog.records]


@every_way
def test_a_model_that_cannot_be_read_is_not_cached(ask: Ask, cache: LayeredCache, caplog: pytest.LogCaptureFixture) -> None:
    """One warning names the class, the field and what to do."""
    for _ in range(2):
        ask(Holding(network=object()), cache)
    assert len(sent) == 2
    (warning,) = warnings_of(caplog)[-1:]
    for part in ("Holding", "'network'", "object", "key_extra="):
        assert part in warning
    assert len(warnings_of(caplog)) <= 2  # a middleware that is made anew warns anew


def test_key_extra_identifies_what_cannot_be_read(cache: LayeredCache) -> None:
    for extra in ("one", "two", "one"):
        model = Holding(network=object())
        cached(model, cache, key_extra=extra).invoke("hello")
        [*cached(model, cache, key_extra=extra).stream("hello")]
        agent = create_agent(model, middleware=[LayeredCacheMiddleware(cache, key_extra=extra)])
        agent.invoke({"messages": [("user", "hello")]})
    assert len(sent) == 2


def test_key_extra_goes_along_with_copies_and_pickles(cache: LayeredCache) -> None:
    model = cached(Bare(), cache, key_extra="one")
    model.invoke("hello")
    model.model_copy().invoke("hello")
    set_llm_cache(cache)
    pickle.loads(pickle.dumps(model)).invoke("hello")
    cached(model).invoke("hello")
    assert len(sent) == 1
    Bare().invoke("hello")
    assert len(sent) == 2


@pytest.mark.parametrize(
    "make", [lambda cache: cached(Bare(), cache, key_extra=object()), lambda cache: LayeredCacheMiddleware(cache, key_extra=object())]
)
def test_key_extra_that_is_no_data_is_refused(make: Callable[[LayeredCache], object], cache: LayeredCache) -> None:
    with pytest.raises(ConfigurationError, match="key_extra must be plain data, such as 'name/and-settings', got a object"):
        make(cache)


class Handing(BaseCache):
    """A cache of somebody else's that has one in it, and no coroutines: LangChain looks up in a thread of its own."""

    def __init__(self, inner: LayeredCache) -> None:
        self._inner = inner

    def lookup(self, prompt: str, llm_string: str) -> Any:
        return self._inner.lookup(prompt, llm_string)

    def update(self, prompt: str, llm_string: str, return_val: Any) -> None:
        self._inner.update(prompt, llm_string, return_val)

    def clear(self, **kwargs: Any) -> None: ...


def test_a_model_that_is_not_shown_is_not_cached(cache: LayeredCache, caplog: pytest.LogCaptureFixture) -> None:
    """In the same thread, the model is seen through a cache in between."""
    set_llm_cache(Handing(cache))
    model = Bare()
    for _ in range(2):
        model.invoke("hello")
    assert len(sent) == 1
    for _ in range(2):
        asyncio.run(model.ainvoke("hello"))
    assert len(sent) == 3
    assert ["cached(model, cache)" in warning for warning in warnings_of(caplog)] == [True]


def test_a_model_of_a_library_without_a_name_is_not_cached(cache: LayeredCache, caplog: pytest.LogCaptureFixture) -> None:
    class Nameless(Bare):
        model: Any = None

    Nameless.__module__ = "langchain_core.nameless"
    set_llm_cache(cache)
    for _ in range(2):
        Nameless(options="x").invoke("hello")
    assert len(sent) == 2
    assert ["names the model of a" in warning and "key_extra=" in warning for warning in warnings_of(caplog)] == [True]


# --- state of a model


class Counting(Bare):
    """A model that counts its calls, and collects them."""

    calls: int = 0
    asked: list[str] = []
    by_text: dict[str, int] = {}
    gate: Any = Field(default_factory=threading.Event)
    _last: str = PrivateAttr("")

    def _ask(self) -> str:
        self.calls += 1
        self.asked.append("x")
        self.by_text["x"] = 1
        self._last = f"call {self.calls}"
        return super()._ask()


@every_way
def test_counts_of_a_model_do_not_count(ask: Ask, cache: LayeredCache) -> None:
    model = Counting()
    for _ in range(3):
        ask(model, cache)
    assert len(sent) == 1


class Remembering(Bare):
    last: str = ""

    def _ask(self) -> str:
        self.last = f"{self.last}."
        return super()._ask()


def test_an_answer_is_not_kept_if_settings_change_meanwhile(cache: LayeredCache, caplog: pytest.LogCaptureFixture) -> None:
    model = cached(Remembering(), cache)
    for _ in range(2):
        model.invoke("hello")
    assert len(sent) == 2
    assert cache.stats().stored == 0
    (warning,) = warnings_of(caplog)
    assert "Remembering have changed during the call ('last')" in warning


class Inside(Bare):
    voice: str = "low"
    _accent: str = PrivateAttr("none")


class Outside(Bare):
    inner: Any = None


def test_settings_of_a_model_inside_count(cache: LayeredCache) -> None:
    inner = Inside()
    model = cached(Outside(inner=inner), cache)
    model.invoke("hello")
    inner.voice = "high"
    model.invoke("hello")
    inner._accent = "some"
    model.invoke("hello")
    assert len(sent) == 3


# --- texts


def test_a_bare_update_is_found_by_a_call(cache: LayeredCache, server: OpenAIServer) -> None:
    """A model that LangChain serializes. For any other, nothing shows outside of a call that it is a chat model."""
    set_llm_cache(cache)
    model = ChatOpenAI(model="m", base_url=server.url, api_key="none")
    kept = [ChatGeneration(message=AIMessage("by hand"))]
    cache.update(dumps([HumanMessage("hello")]), model._get_llm_string(stop=None), kept)
    assert model.invoke("hello").content == "by hand"
    assert server.calls == 0


def test_fakes_of_langchains_are_known_by_their_texts(cache: LayeredCache) -> None:
    set_llm_cache(cache)
    chat, plain = FakeListChatModel(responses=["a", "b"]), FakeListLLM(responses=["c", "d"])
    assert [chat.invoke("hello").content for _ in range(2)] == ["a", "a"]
    assert [plain.invoke("hello") for _ in range(2)] == ["c", "c"]
    assert FakeListChatModel(responses=["e"]).invoke("hello").content == "e"
    assert [FakeListLLM(responses=["f"]).invoke("hello") for _ in range(2)] == ["f", "f"]


# --- addresses and secrets


def test_the_address_of_the_client_counts(cache: LayeredCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of the moment at which the model was made decides, not that of the call."""
    with OpenAIServer() as one, OpenAIServer() as other:
        set_llm_cache(cache)
        made: list[Any] = []
        for server in (one, other):
            monkeypatch.setenv("OPENAI_BASE_URL", server.url)
            made.append(ChatOpenAI(model="m", api_key="none"))
        for model in made:
            model.invoke("hello")
        assert (one.calls, other.calls) == (1, 1)
        monkeypatch.setenv("OPENAI_BASE_URL", one.url)
        ChatOpenAI(model="m", api_key="none").invoke("hello")
        assert (one.calls, other.calls) == (1, 1)


def test_headers_that_a_client_was_made_with_count(cache: LayeredCache, server: OpenAIServer) -> None:
    """A change of the model afterwards does not reach the client."""
    set_llm_cache(cache)
    model = ChatOpenAI(model="m", base_url=server.url, api_key="none", default_headers={"X-Tenant": "a"})
    model.default_headers = None
    model.invoke("hello")
    ChatOpenAI(model="m", base_url=server.url, api_key="none").invoke("hello")
    assert server.calls == 2


class Secretive(Bare):
    """A model that LangChain writes out, with two secrets: one lets the caller in, the other decides the answer."""

    api_key: str = "none"
    servers: Any = None

    @classmethod
    def is_lc_serializable(cls) -> bool:
        return True

    @property
    def lc_secrets(self) -> dict[str, str]:
        return {"api_key": "API_KEY", "servers": "SERVERS"}


@every_way
def test_secrets_that_are_no_credentials_count(ask: Ask, cache: LayeredCache) -> None:
    for servers in (None, "one", "two", "one"):
        ask(Secretive(servers=servers and [{"url": servers, "token": "hidden-word"}]), cache)
    assert len(sent) == 3
    ask(Secretive(api_key="other"), cache)
    assert len(sent) == 3
    assert "hidden-word" not in "".join(str(entry.request) for entry in cache.engine.entries())


class Schema(BaseModel):
    colour: str


def test_a_schema_in_a_field_counts_by_its_shape(cache: LayeredCache) -> None:
    class Other(BaseModel):
        size: int

    Other.__name__ = Other.__qualname__ = "Schema"
    for schema in (Schema, Other, Schema):
        by_wrapper(Bare(options=schema), cache)
    assert len(sent) == 2
