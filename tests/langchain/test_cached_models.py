"""What a wrapped model is to others: the model that it was; and what the cache knows through it: API keys, calls of plain models."""

from __future__ import annotations

import asyncio
import copy
import pickle
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import BaseChatModel, BaseLLM, FakeListChatModel, FakeListLLM, GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, AnyMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, Generation, GenerationChunk, LLMResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from layered_cache import ConfigurationError, Event, Policy, cache_options
from layered_cache.adapters.cached_stream import _under_way
from layered_cache.testing import OpenAIServer
from pydantic import BaseModel, SecretStr
from support.sync_async import World

from langchain_layered_cache import CachedEmbeddings, LayeredCache, cached, uncached


@pytest.fixture
def cache(events: list[Event]) -> Iterator[LayeredCache]:
    """The global cache."""
    cache = LayeredCache("memory://", policy=Policy(max_wait=3600), observers=[events.append])
    set_llm_cache(cache)
    yield cache
    set_llm_cache(None)
    cache.close()
    assert not _under_way


@pytest.fixture
def bare(server: OpenAIServer) -> ChatOpenAI:
    return ChatOpenAI(model="gpt-4o-mini", base_url=server.url, api_key="none", max_retries=0)


async def collected(stream: AsyncIterator[Any]) -> list[Any]:
    return [chunk async for chunk in stream]


def stream(world: World, model: Any, *args: Any, **kwargs: Any) -> list[Any]:
    """All chunks, in either world."""
    if world.name == "threads":
        return list(model.stream(*args, **kwargs))
    return world.loop.run_until_complete(collected(model.astream(*args, **kwargs)))


def text(chunks: list[Any]) -> str:
    return "".join(chunk if isinstance(chunk, str) else chunk.content for chunk in chunks)


# --- it is the model that it was


def test_it_is_the_model_that_it_was(bare: ChatOpenAI) -> None:
    """A copy with a class of the same name, and the same key; the model itself is left alone."""
    model = cached(bare)

    assert model is not bare
    assert type(bare) is ChatOpenAI
    assert isinstance(model, ChatOpenAI)
    assert (type(model).__name__, type(model).__qualname__, type(model).__module__) == ("ChatOpenAI", "ChatOpenAI", ChatOpenAI.__module__)
    assert model._get_llm_string() == bare._get_llm_string()
    assert type(model).lc_id() == ChatOpenAI.lc_id()
    assert repr(model) == repr(bare)
    assert model.model_dump() == bare.model_dump()
    assert (model.root_client, model.root_async_client) == (bare.root_client, bare.root_async_client)


def test_twice_is_once(bare: ChatOpenAI) -> None:
    """The last one counts; `uncached` takes it back."""
    once = cached(bare)
    twice = cached(once, replay="single")

    assert type(cached(once)) is type(once)
    assert len(type(twice).__mro__) == len(type(once).__mro__)
    assert type(twice).replay == "single"
    assert type(uncached(twice)) is ChatOpenAI
    assert uncached(once) == bare
    assert type(uncached(bare)) is ChatOpenAI


def test_a_cache_of_its_own(world: World, cache: LayeredCache, bare: ChatOpenAI, server: OpenAIServer) -> None:
    """It counts for all that the model is asked, and not for the model that was wrapped."""
    with LayeredCache("memory://").engine as engine:
        own = LayeredCache(cache=engine)
        model = cached(bare, own)
        stream(world, model, "hello")
        world.call(model, "invoke", "hello")
        assert server.calls == 1
        assert (own.stats().hits, cache.stats().lookups) == (1, 0)
        assert bare.cache is None
        assert uncached(model).cache is None
        world.call(bare, "invoke", "hello")
        assert server.calls == 2


def test_it_can_be_taken_back(cache: LayeredCache, bare: ChatOpenAI) -> None:
    """Whatever cache the model had before, it has again; also of copies, and if it was wrapped twice."""
    with LayeredCache("memory://").engine as engine:
        own = LayeredCache(cache=engine)
        for before in (None, False, True, own):
            model = bare.model_copy(update={"cache": before})
            for wrapped in (cached(model), cached(model, cache), cached(cached(model, own), cache), cached(model, cache).model_copy()):
                assert uncached(wrapped).cache is before
                assert uncached(wrapped) == model
            fake = FakeListChatModel(responses=["one"], cache=before)
            assert pickle.loads(pickle.dumps(cached(fake, cache))).cache is (None if before is own else before)


def test_the_global_cache_is_that_of_the_moment(world: World, bare: ChatOpenAI, server: OpenAIServer) -> None:
    """None: the model is as it was; `cache=False` is no cache at all."""
    model = cached(bare)
    stream(world, model, "hello")
    stream(world, model, "hello")
    assert server.calls == 2
    with LayeredCache("memory://").engine as engine:
        set_llm_cache(LayeredCache(cache=engine))
        try:
            stream(world, model, "hello")
            stream(world, model, "hello")
            assert server.calls == 3
            off = cached(bare.model_copy(update={"cache": False}))
            stream(world, off, "hello")
            assert server.calls == 4
        finally:
            set_llm_cache(None)


def test_copies_are_wrapped_too(world: World, cache: LayeredCache, bare: ChatOpenAI, server: OpenAIServer) -> None:
    """Of any kind; another temperature is another key."""
    model = cached(bare)
    for other in (model, copy.copy(model), model.model_copy(), model.with_config(tags=["a"]), model.with_retry(), model.bind()):
        assert text(stream(world, other, "hello")) == "You asked: hello"
    assert server.calls == 1
    warm = model.model_copy(update={"temperature": 1.0})
    stream(world, warm, "hello")
    stream(world, warm, "hello")
    assert server.calls == 2


def test_deep_copies_and_pickles_are_wrapped_too(world: World, cache: LayeredCache) -> None:
    """A pickle leaves the cache behind: no connection can travel."""
    own = LayeredCache("memory://")
    model = cached(FakeListChatModel(responses=["a", "b"]), own, replay="single")
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert isinstance(other, FakeListChatModel)
        assert type(other) is type(model)
        assert [text(stream(world, other, "hello")) for _ in range(2)] == ["a", "a"]
    assert copy.deepcopy(model).cache is own
    assert pickle.loads(pickle.dumps(model)).cache is None
    own.close()


def test_a_pickle_is_read_by_another_process(tmp_path: Path) -> None:
    file = tmp_path / "model.pickle"
    file.write_bytes(pickle.dumps(cached(FakeListChatModel(responses=["a", "b"]))))
    program = f"""
import pickle
from langchain_core.globals import set_llm_cache
from langchain_layered_cache import LayeredCache
set_llm_cache(LayeredCache("memory://"))
model = pickle.loads(open({str(file)!r}, "rb").read())
print(*["".join(chunk.content for chunk in model.stream("q")) for _ in range(3)], type(model).__qualname__)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["a", "a", "a", "FakeListChatModel"]


def test_structured_output(world: World, cache: LayeredCache, bare: ChatOpenAI, server: OpenAIServer) -> None:
    """It is parsed from the cache as from the model, asked or streamed."""

    class Weather(BaseModel):
        city: str
        days: int

    structured = cached(bare).with_structured_output(Weather)
    first = world.call(structured, "invoke", "weather?")
    second = world.call(structured, "invoke", "weather?")
    assert first == second == Weather(city="text", days=7)
    assert server.calls == 1
    by_tool = cached(bare).with_structured_output(Weather, method="function_calling")
    for _ in range(2):
        assert stream(world, by_tool, "weather?")[-1] == Weather(city="text", days=7)
    assert server.calls == 2


@pytest.mark.parametrize("thing", ["text", None, StrOutputParser(), FakeListChatModel(responses=["a"]).bind(stop=["x"])], ids=repr)
def test_what_cannot_be_wrapped(thing: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"a chat model, a model that completes a text, or embeddings.*before you bind it"):
        cached(thing)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [({"replay": "chunk"}, "chunks"), ({"cache": "memory://"}, "LayeredCache"), ({"ttl": 5}, "ttl")],
)
def test_wrong_arguments(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        cached(FakeListChatModel(responses=["a"]), **arguments)


# --- where it is used


def test_chains(world: World, cache: LayeredCache, bare: ChatOpenAI, server: OpenAIServer) -> None:
    """`prompt | model | parser` streams words from the cache."""
    prompt = ChatPromptTemplate.from_messages([("system", "be {how}"), ("human", "{question}")])
    for chain in (prompt | cached(bare), prompt | cached(bare) | StrOutputParser()):
        for _ in range(2):
            chunks = stream(world, chain, {"how": "brief", "question": "why so blue"})
            assert text(chunks) == "You asked: why so blue"
            assert len(chunks) > 3
    assert server.calls == 1


@tool
def weather(city: str) -> str:
    """Say how the weather is."""
    return f"fine in {city}"


def test_agents(world: World, cache: LayeredCache, bare: ChatOpenAI, server: OpenAIServer) -> None:
    """A step with a tool and one without: two calls, however often it runs, streamed or not."""
    agent = create_agent(cached(bare), tools=[weather])
    question: Any = {"messages": [HumanMessage("weather?")]}
    states = [world.call(agent, "invoke", question) for _ in range(2)]
    tokens = [stream(world, agent, question, stream_mode="messages") for _ in range(2)]

    assert server.calls == 2
    assert {state["messages"][-1].content for state in states} == {"You asked: fine in text"}
    assert {text([chunk for chunk, _ in one if not isinstance(chunk, HumanMessage)][-1:]) for one in tokens} == {"You asked: fine in text"}


class State(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]


def test_messages_of_a_graph(world: World, cache: LayeredCache, bare: ChatOpenAI, server: OpenAIServer, events: list[Event]) -> None:
    """`stream_mode="messages"` has the model stream inside a call: that is stored once; each hit is told, though it has been before."""
    model = cached(bare)

    async def answer(state: State) -> Any:
        return {"messages": [await model.ainvoke(state["messages"][:1])]}

    def answer_in_threads(state: State) -> Any:
        return {"messages": [model.invoke(state["messages"][:1])]}

    node: Any = answer_in_threads if world.name == "threads" else answer
    builder = StateGraph(State).add_node("one", node).add_node("two", node)
    graph = builder.add_edge(START, "one").add_edge("one", "two").compile()
    for _ in range(2):
        told = stream(world, graph, {"messages": [HumanMessage("hello there you")]}, stream_mode="messages")
        assert text([chunk for chunk, about in told if about["langgraph_node"] == "one"]) == "You asked: hello there you"
        assert text([chunk for chunk, about in told if about["langgraph_node"] == "two"]) == "You asked: hello there you"
    state = world.call(graph, "invoke", {"messages": [HumanMessage("hello there you")]})

    assert len(state["messages"]) == 3
    assert server.calls == 1
    assert [event.kind for event in events].count("miss") == 1
    assert cache.stats().stored == 1


# --- models of all kinds


class Counting(BaseChatModel):
    """A model that counts its calls, and has no stream."""

    calls: list[str] = []

    @property
    def _llm_type(self) -> str:
        return "counting"

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        self.calls.append("generate")
        return ChatResult(generations=[ChatGeneration(message=AIMessage("one two three"))])


class OnlyStream(Counting):
    """It makes its answers of its stream, as many do, and does not know of run managers."""

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        chunks = list(self._stream(messages, stop, **kwargs))
        return ChatResult(generations=[ChatGeneration(message=AIMessage("".join(chunk.text for chunk in chunks)))])

    def _stream(self, messages: Any, stop: Any = None, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        self.calls.append("stream")
        for word in ("one ", "two ", "three"):
            yield ChatGenerationChunk(message=AIMessageChunk(content=word))


class OnlyAsyncStream(Counting):
    async def _astream(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        self.calls.append("astream")
        for word in ("one ", "two ", "three"):
            yield ChatGenerationChunk(message=AIMessageChunk(content=word))


class Streaming(OnlyStream):
    """LangChain streams in its `invoke` too."""

    streaming: bool = True


KINDS = [Counting, OnlyStream, OnlyAsyncStream, Streaming]


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_asked_once_and_stored_once(kind: Any, world: World, cache: LayeredCache) -> None:
    """Whatever it has of streams, and whichever way it is asked first."""
    for first in ("stream", "invoke"):
        model = cached(kind(calls=[], streaming=True) if kind is Streaming else kind(calls=[]))
        for how in (first, "invoke", "stream"):
            said = stream(world, model, first) if how == "stream" else [world.call(model, "invoke", first)]
            assert text(said) == "one two three"
        assert len(model.calls) == 1
        assert cache.stats().stored == ["stream", "invoke"].index(first) + 1


@pytest.mark.parametrize("kind", KINDS)
def test_langchain_sees_which_streams_there_are(kind: Any) -> None:
    """A wrapped model streams where the bare one does."""
    bare = kind(calls=[])
    model = cached(bare)
    for async_api in (False, True):
        assert model._should_stream(async_api=async_api, stream=True) == bare._should_stream(async_api=async_api, stream=True)


def test_a_model_that_wraps_another_one(world: World, cache: LayeredCache) -> None:
    """Both are cached, each under its own key."""
    inner = cached(OnlyStream(calls=[]))

    class Outer(Counting):
        def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
            self.calls.append("outer")
            return ChatResult(generations=[ChatGeneration(message=AIMessage(text(list(inner.stream("inner"))).upper()))])

        @property
        def _llm_type(self) -> str:
            return "outer"

    outer = cached(Outer(calls=[]))
    for question in ("a", "a", "b"):
        assert world.call(outer, "invoke", question).content == "ONE TWO THREE"
    assert (len(outer.calls), len(inner.calls)) == (2, 1)


async def test_fakes_of_langchains_own(cache: LayeredCache) -> None:
    model = cached(GenericFakeChatModel(messages=iter([AIMessage("one two"), AIMessage("three")])))
    assert text(await collected(model.astream("q"))) == text(list(model.stream("q"))) == "one two"
    assert text(list(model.stream("r"))) == "three"


# --- accounts


@pytest.fixture
def own_accounts(events: list[Event], db: str) -> Iterator[LayeredCache]:
    cache = LayeredCache("memory://", db, policy=Policy(separate_accounts=True), observers=[events.append])
    set_llm_cache(cache)
    yield cache
    set_llm_cache(None)
    cache.close()


def test_two_keys_never_share(
    world: World, own_accounts: LayeredCache, server: OpenAIServer, tmp_path: Path, events: list[Event], caplog: Any
) -> None:
    """Not a stream, nor an answer; the same key does, of another object too. It is nowhere to be read."""
    keys = ["sk-one-very-secret", "sk-two-very-secret"]
    for number, key in enumerate([*keys, *keys]):
        model = cached(ChatOpenAI(model="gpt-4o-mini", base_url=server.url, api_key=SecretStr(key)))
        for _ in range(2):
            assert text(stream(world, model, "hello")) == "You asked: hello"
            assert world.call(model, "invoke", "hello").content == "You asked: hello"
            assert world.call(model, "invoke", "you").content == "You asked: you"
        assert server.calls == min(number + 1, 2) * 2

    own_accounts.close()
    seen = caplog.text + repr(events) + repr(own_accounts) + repr(model)
    stored = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    for key in keys:
        assert key not in seen
        assert key.encode() not in stored
    assert b"You asked: hello" in stored


def test_the_key_of_the_environment_counts(
    world: World, own_accounts: LayeredCache, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, key in enumerate(["one", "two", "one"]):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        stream(world, cached(ChatOpenAI(model="gpt-4o-mini", base_url=server.url)), "hello")
        assert server.calls == min(number + 1, 2)


def test_a_model_without_a_key_is_not_cached_then(world: World, own_accounts: LayeredCache, caplog: Any) -> None:
    """Unless its caller names the account."""
    model = cached(OnlyStream(calls=[]))
    for _ in range(2):
        stream(world, model, "q")
    assert len(model.calls) == 2
    with cache_options(account="one"):
        for _ in range(2):
            stream(world, model, "q")
    assert len(model.calls) == 3
    assert "separate_accounts" in caplog.text


def test_a_plain_model_has_a_key_too(world: World, own_accounts: LayeredCache, server: OpenAIServer) -> None:
    for number, key in enumerate(["one", "two", "one"]):
        model = cached(OpenAI(model="gpt-3.5-turbo-instruct", base_url=server.url, api_key=SecretStr(key)))
        world.call(model, "invoke", "hello")
        stream(world, model, "hello")
        assert server.calls == min(number + 1, 2)


# --- models that complete a text


class Plain(BaseLLM):
    """A plain model that says how warm it is, and can stream."""

    calls: list[Any] = []
    gate: Any = None

    @property
    def _llm_type(self) -> str:
        return "plain"

    def _generate(self, prompts: list[str], stop: Any = None, run_manager: Any = None, **kwargs: Any) -> LLMResult:
        self.calls.append(prompts)
        if self.gate is not None:
            self.gate.wait()
        number = len(self.calls)
        return LLMResult(generations=[[Generation(text=f"{prompt} {kwargs.get('temperature')} of {number}")] for prompt in prompts])

    def _stream(self, prompt: str, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Iterator[GenerationChunk]:
        self.calls.append([prompt])
        for word in (prompt, f" {kwargs.get('temperature')}", f" of {len(self.calls)}"):
            if run_manager:
                run_manager.on_llm_new_token(word)
            yield GenerationChunk(text=word, generation_info={"reason": "stop"} if word.startswith(" of") else None)


def plain(**given: Any) -> Any:
    return cached(Plain(calls=[], **given))


def test_parameters_of_a_call_are_a_part_of_the_key(world: World, cache: LayeredCache) -> None:
    """LangChain leaves them out."""
    model = plain()
    for _ in range(2):
        assert world.call(model, "invoke", "q", temperature=0) == "q 0 of 1"
        assert world.call(model, "invoke", "q", temperature=1) == "q 1 of 2"
        assert world.call(model.bind(temperature=1), "invoke", "q") == "q 1 of 2"
        assert world.call(model, "invoke", "q") == "q None of 3"
    assert model.dict() == {"_type": "plain"}


def test_without_parameters_it_is_the_bare_models_entry(world: World, cache: LayeredCache) -> None:
    bare = Plain(calls=[])
    assert world.call(bare, "invoke", "q") == world.call(cached(bare), "invoke", "q") == "q None of 1"


def test_plain_streams(world: World, cache: LayeredCache) -> None:
    """They share entries with `invoke`, both ways; tokens are told."""

    class Tokens(BaseCallbackHandler):
        def __init__(self) -> None:
            self.heard = ""

        def on_llm_new_token(self, token: str, **kwargs: Any) -> None:
            self.heard += token

    model = plain()
    for _ in range(2):
        tokens = Tokens()
        assert text(stream(world, model, "q", temperature=1, config={"callbacks": [tokens]})) == "q 1 of 1"
        assert tokens.heard == "q 1 of 1"
    assert world.call(model, "invoke", "q", temperature=1) == "q 1 of 1"
    assert world.call(model, "generate", ["q"], temperature=1).generations[0][0].generation_info == {"reason": "stop"}
    assert world.call(model, "invoke", "r") == "r None of 2"
    assert text(stream(world, model, "r")) == "r None of 2"
    assert len(stream(world, model, "r")) > 2
    assert len(stream(world, cached(model, replay="single"), "r")) == 1
    assert len(model.calls) == 2


class Hindered(BaseCallbackHandler):
    """Is stopped at the first token, by an error or by whoever it hands tokens to."""

    raise_error = run_inline = True

    def __init__(self, gate: threading.Event | None) -> None:
        self.gate = gate
        self.heard = threading.Event()

    def on_llm_new_token(self, token: str, **kwargs: Any) -> None:
        self.heard.set()
        if self.gate is None:
            raise ConnectionError
        self.gate.wait()


@pytest.mark.parametrize("blocks", [True, False])
def test_the_callbacks_of_one_who_streams_are_his_own(cache: LayeredCache, *, blocks: bool) -> None:
    """Others go on, whatever they do."""
    model, gate = plain(), threading.Event()
    handler = Hindered(gate if blocks else None)
    first = model.stream("q", config={"callbacks": [handler]})
    other = model.stream("q")
    with ThreadPoolExecutor(1) as pool:
        begun = pool.submit(list, first)
        handler.heard.wait()
        try:
            if blocks:
                assert text(list(other)) == "q None of 1"
            else:
                with pytest.raises(ConnectionError):
                    begun.result()
        finally:
            gate.set()
        if blocks:
            assert text(begun.result()) == "q None of 1"


async def test_the_callbacks_of_a_task_that_streams_are_its_own(cache: LayeredCache) -> None:
    """An error of the first one's does not reach the others."""
    model = plain()

    async def one(*handlers: BaseCallbackHandler) -> str:
        return text(await collected(model.astream("q", config={"callbacks": list(handlers)})))

    failed, found = await asyncio.gather(one(Hindered(None)), one(), return_exceptions=True)
    assert isinstance(failed, ConnectionError)
    assert found == "q None of 1"
    assert len(model.calls) == 1


def test_options_in_the_metadata_of_plain_calls(world: World, cache: LayeredCache) -> None:
    """For `invoke`, `stream` and for each prompt of a `batch`."""
    model = plain()

    def config(**options: Any) -> Any:
        return {"metadata": {"llm_cache": options}}

    for _ in range(2):
        assert world.call(model, "invoke", "q", config(namespace="t1")) == "q None of 1"
        assert text(stream(world, model, "q", config(namespace="t2"))) == "q None of 2"
    configs = [config(namespace="t1"), config(namespace="t2"), config(namespace="t2"), config(mode="bypass")]
    answers = world.call(model, "batch", ["q", "q", "r", "q"], configs)
    assert answers == ["q None of 1", "q None of 2", "r None of 3", "q None of 4"]
    assert world.call(model, "batch", ["q", "r"], [config(namespace="t2")] * 2) == ["q None of 2", "r None of 3"]
    with pytest.raises(ConfigurationError, match="modus"):
        world.call(model, "invoke", "q", config(modus="bypass"))
    assert world.call(model, "batch", []) == []


def test_equal_plain_calls_are_one(cache: LayeredCache) -> None:
    """Twenty threads, and a call with the same prompt twice, which does not wait for itself."""
    gate = threading.Event()
    model = plain(gate=gate)
    threading.Timer(0.2, gate.set).start()
    with ThreadPoolExecutor(20) as pool:
        assert set(pool.map(model.invoke, ["q"] * 20)) == {"q None of 1"}
    assert len(model.generate(["r", "r", "s"]).generations) == 3
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda prompts: model.batch(prompts), [["a", "b"], ["b", "a"]]))
    assert [[answer[0] for answer in one] for one in answers] == [["a", "b"], ["b", "a"]]


async def test_equal_plain_tasks_are_one(cache: LayeredCache) -> None:
    model = plain()
    assert len(set(await asyncio.gather(*(model.ainvoke("q") for _ in range(50))))) == 1
    assert len(model.calls) == 1


def test_a_plain_call_that_fails_lets_the_next_one_ask(world: World, cache: LayeredCache) -> None:
    class Failing(Plain):
        def _generate(self, prompts: list[str], stop: Any = None, run_manager: Any = None, **kwargs: Any) -> LLMResult:
            if not self.calls:
                self.calls.append(1)
                raise RuntimeError("broken")
            return super()._generate(prompts)

    model = cached(Failing(calls=[]))
    with pytest.raises(RuntimeError, match="broken"):
        world.call(model, "invoke", "q")
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(model.invoke, "q").result(10) == "q None of 2"


def test_a_plain_model_with_a_real_client(world: World, cache: LayeredCache, server: OpenAIServer) -> None:
    """And a fake of LangChain's own, that has no stream."""
    model = cached(OpenAI(model="gpt-3.5-turbo-instruct", base_url=server.url, api_key="none"))
    for _ in range(2):
        assert text(stream(world, model, "hello there")) == "You asked: hello there"
        assert world.call(model, "invoke", "hello there") == "You asked: hello there"
    assert server.calls == 1
    fake = cached(FakeListLLM(responses=["a", "b"]))
    assert [text(stream(world, fake, "q")) for _ in range(2)] == ["a", "a"]


# --- embeddings


def test_embeddings(cache: LayeredCache) -> None:
    """Are another part's; here they only come through."""
    embeddings = DeterministicFakeEmbedding(size=4)
    with pytest.raises(ConfigurationError, match="replay"):
        cached(embeddings, cache, model="fake", replay="single")
    found = cached(embeddings, cache, model="fake")
    assert isinstance(found, CachedEmbeddings)
    assert found.embed_query("a") == embeddings.embed_query("a")
    assert isinstance(cached(embeddings, model="fake"), CachedEmbeddings)
    set_llm_cache(None)
    with pytest.raises(ConfigurationError, match="embeddings need a cache"):
        cached(embeddings, model="fake")
