"""Streams of wrapped models: from the cache, into it, and shared while they are under way; with real clients, and with a model that can be
stopped at any chunk where a real one cannot.

Where something must not wait, `Policy.max_wait` is an hour, so that whoever does hangs the test.
"""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolMessage, message_chunk_to_message
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.rate_limiters import BaseRateLimiter
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from layered_cache import CacheMiss, Event, Policy, cache_options
from layered_cache.adapters.cached_stream import _under_way
from layered_cache.adapters.shared_stream import TaskStream, ThreadStream
from layered_cache.testing import OpenAIServer
from pydantic import BaseModel
from support.scripted_server import ScriptedServer, response
from support.sync_async import World

from langchain_layered_cache import LayeredCache, cached, uncached, usage_callback

HOUR = Policy(max_wait=3600)


@pytest.fixture
def cache(events: list[Event]) -> Iterator[LayeredCache]:
    """The global cache; at the end of a test no stream is under way."""
    cache = LayeredCache("memory://", policy=HOUR, observers=[events.append])
    set_llm_cache(cache)
    yield cache
    set_llm_cache(None)
    cache.close()
    assert not _under_way


@pytest.fixture
def model(server: OpenAIServer) -> ChatOpenAI:
    return cached(ChatOpenAI(model="gpt-4o-mini", base_url=server.url, api_key="none", max_retries=0, stream_usage=True))


class Talking(BaseChatModel):
    """A model that says the words of its last message, and stops before the one that has a gate until that opens."""

    gates: dict[int, Any] = {}
    fail_at: dict[int, int] = {}
    calls: list[int] = []
    given: list[int] = []
    closed: list[type[BaseException]] = []
    inside: Any = None

    @property
    def _llm_type(self) -> str:
        return "talking"

    def _words(self, messages: list[BaseMessage]) -> list[str]:
        return [f"{word} " for word in str(messages[-1].content).split()]

    def _chunk(self, number: int, place: int, word: str) -> ChatGenerationChunk:
        if self.fail_at.get(number) == place:
            raise RuntimeError(f"call {number} broke")
        self.given.append(place)
        return ChatGenerationChunk(message=AIMessageChunk(content=word, additional_kwargs={} if place else {"of": {"call": str(number)}}))

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        self.calls.append(1)
        return ChatResult(generations=[ChatGeneration(message=AIMessage("".join(self._words(messages))))])

    def _stream(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        self.calls.append(1)
        number = len(self.calls)
        try:
            if self.inside is not None:
                self.inside()
            for place, word in enumerate(self._words(messages)):
                if place in self.gates:
                    self.gates[place].wait()
                yield self._chunk(number, place, word)
        except BaseException as error:
            self.closed.append(type(error))
            raise


class Async(Talking):
    """The same with a coroutine."""

    async def _astream(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        self.calls.append(1)
        number = len(self.calls)
        try:
            for place, word in enumerate(self._words(messages)):
                if place in self.gates:
                    await self.gates[place].wait()
                yield self._chunk(number, place, word)
        except BaseException as error:
            self.closed.append(type(error))
            raise


def talking(**given: Any) -> Any:
    """Return a wrapped one, with lists of its own."""
    return cached(Async(gates=given.pop("gates", {}), calls=[], given=[], closed=[], **given))


def merged(chunks: list[Any]) -> AIMessageChunk:
    return chunks[0] + chunks[1:] if len(chunks) > 1 else chunks[0]


def said(message: BaseMessage) -> dict[str, Any]:
    """What has to be equal, whichever way a message came."""
    assert isinstance(message, AIMessage)
    names = ("content", "tool_calls", "invalid_tool_calls", "response_metadata", "additional_kwargs", "name")
    usage = {name: value for name, value in (message.usage_metadata or {}).items() if name != "total_cost"}
    # the providers' clients leave out empty details in one of the two; a stream without usage says that it took nothing
    return {name: getattr(message, name) for name in names} | {
        "usage": {name: value for name, value in usage.items() if value not in ({}, 0)}
    }


def in_a_loop(coroutine: Any) -> Any:
    """What `asyncio.run` returns, in a loop that is nobody else's."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(coroutine)
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


async def collected(stream: AsyncIterator[Any]) -> list[Any]:
    return [chunk async for chunk in stream]


def stream(world: World, model: Any, *args: Any, **kwargs: Any) -> list[Any]:
    """All chunks, in either world."""
    if world.name == "threads":
        return list(model.stream(*args, **kwargs))
    return world.loop.run_until_complete(collected(model.astream(*args, **kwargs)))


# --- one entry, two ways to it


def test_a_stream_is_asked_once(world: World, cache: LayeredCache, model: ChatOpenAI, server: OpenAIServer) -> None:
    """The second one comes in pieces too, the last of which says what it took, and has an id of its own."""
    first, second = (stream(world, model, "why is the sky blue") for _ in range(2))

    assert server.calls == 1
    assert len(second) > 3
    assert said(merged(first)) == said(merged(second))
    assert merged(first).id != merged(second).id
    assert {chunk.id for chunk in second} == {merged(second).id}
    assert [chunk.chunk_position for chunk in second] == [None] * (len(second) - 1) + ["last"]
    assert [bool(chunk.usage_metadata) for chunk in second] == [False] * (len(second) - 1) + [True]
    assert (cache.stats().hits, cache.stats().misses) == (1, 1)
    assert cache.stats().saved_tokens == merged(first).usage_metadata["total_tokens"]
    assert cache.stats().saved_seconds > 0


def test_a_stream_finds_what_an_invoke_stored(world: World, cache: LayeredCache, model: ChatOpenAI, server: OpenAIServer) -> None:
    asked = world.call(model, "invoke", "hello there")
    streamed = merged(stream(world, model, "hello there"))

    assert server.calls == 1
    assert said(asked) == said(streamed)


def test_an_invoke_finds_what_a_stream_stored(world: World, cache: LayeredCache, model: ChatOpenAI, server: OpenAIServer) -> None:
    """With its usage, at no cost, and an id."""
    streamed = merged(stream(world, model, "hello there"))
    asked = world.call(model, "invoke", "hello there")

    assert server.calls == 1
    assert said(asked) == said(streamed)
    assert type(asked) is AIMessage
    assert asked.id is not None
    assert asked.usage_metadata["total_cost"] == 0


def test_a_bare_model_finds_what_a_wrapped_one_stored(cache: LayeredCache, server: OpenAIServer) -> None:
    """And the other way round: they are one model."""
    bare = ChatOpenAI(model="gpt-4o-mini", base_url=server.url, api_key="none")
    list(cached(bare).stream("a"))
    bare.invoke("a")
    bare.invoke("b")
    list(cached(bare).stream("b"))

    assert server.calls == 2


def test_calls_of_tools_come_in_pieces(world: World, cache: LayeredCache, model: ChatOpenAI, server: OpenAIServer) -> None:
    """Name and id first, then the arguments; they come to the same calls."""

    @tool
    def weather(city: str, days: int) -> str:
        """Say how the weather is."""
        return f"{city} {days}"

    bound = model.bind_tools([weather])
    first, second = (stream(world, bound, "weather?") for _ in range(2))
    asked = world.call(bound, "invoke", "weather?")

    assert server.calls == 1
    assert said(merged(first)) == said(merged(second)) == said(asked)
    assert asked.tool_calls[0]["args"] == {"city": "text", "days": 7}
    pieces = [call for chunk in second for call in chunk.tool_call_chunks]
    assert pieces[0]["name"] == "weather"
    assert pieces[0]["id"] == asked.tool_calls[0]["id"]
    assert len(pieces) > 2
    assert {piece["index"] for piece in pieces} == {0}


def responses_and_a_call(path: str, body: dict[str, Any]) -> Any:
    """Say something and call two tools; after their results, say something more."""
    text = {"type": "output_text", "text": "Hello you", "annotations": []}
    items: list[Any] = [{"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": [text]}]
    if body["input"][-1].get("type") != "function_call_output":
        call = {"type": "function_call", "name": "look", "status": "completed"}
        items += [{**call, "id": f"fc_{at}", "call_id": f"call_{at}", "arguments": f'{{"city": "{at}"}}'} for at in (1, 2)]
    return response(body, items)


@pytest.mark.parametrize("version", [None, "v0", "responses/v1", "v1"])
def test_replayed_calls_are_blocks_as_the_models(version: str | None, world: World, cache: LayeredCache) -> None:
    """The next step of an agent finds its answer, too."""
    with ScriptedServer(responses_and_a_call) as provider:
        options: Any = {"output_version": version} if version else {}
        model = cached(ChatOpenAI(model="gpt-5", base_url=provider.url, api_key="k", use_responses_api=True, **options), cache)
        answers: list[Any] = []
        for _ in range(2):
            answer = message_chunk_to_message(merged(stream(world, model, "hi")))
            assert isinstance(answer, AIMessage)
            answers.append(answer)
            results = [ToolMessage("sunny", tool_call_id=call["id"]) for call in answer.tool_calls]
            stream(world, model, [HumanMessage("hi"), answer, *results])
        calls = provider.calls

    assert calls == 2
    assert len(answers[0].tool_calls) == 2
    assert said(answers[0]) == said(answers[1])


@pytest.mark.parametrize("replay", ["chunks", "single"])
def test_next_step_after_a_replay_is_the_one_after_an_invoke(replay: Any, world: World, cache: LayeredCache) -> None:
    """In the format v1 a stream numbers blocks. Calls of tools do not count by their numbers."""
    message = AIMessage(
        [{"type": "tool_call", "id": "1", "name": "f", "args": {"a": 1}}, {"type": "tool_call", "id": "2", "name": "f", "args": {}}],
        tool_calls=[{"name": "f", "args": {"a": 1}, "id": "1"}, {"name": "f", "args": {}, "id": "2"}],
        response_metadata={"output_version": "v1", "model_provider": "openai"},
    )
    model = cached(Saying(message=message, output_version="v1"), cache, replay=replay)
    asked = model.invoke("q")
    replayed = message_chunk_to_message(merged(stream(world, model, "q")))
    results = [ToolMessage("r", tool_call_id=identity) for identity in ("1", "2")]
    for answer in (asked, replayed):
        model.invoke([HumanMessage("q"), answer, *results])

    assert cache.stats().misses == 2
    if replay == "chunks":
        assert replayed.content == asked.content


def test_replayed_calls_keep_their_places(world: World, cache: LayeredCache) -> None:
    """Between other blocks; a call without a block of its own comes last."""
    calls: Any = [{"name": "f", "args": {"a": "x y z"}, "id": str(number)} for number in range(3)]
    message = AIMessage(
        [
            {"type": "tool_call", **calls[0], "extras": {"item_id": "fc_1"}},
            {"type": "text", "text": "between"},
            {"type": "tool_call", **calls[1]},
        ],
        tool_calls=calls,
        response_metadata={"output_version": "v1", "model_provider": "openai"},
    )
    model = cached(Saying(message=message, output_version="v1"), cache)
    model.invoke("q")
    chunks = stream(world, model, "q")

    assert len(chunks) > 8
    assert unnumbered(merged(chunks).content) == message.content
    assert [block for block in merged(chunks).content if block["type"] == "tool_call"] == [message.content[0], message.content[2]]  # type: ignore[index]
    assert merged(chunks).tool_calls == message.tool_calls


def test_an_answer_may_come_in_one_piece(world: World, cache: LayeredCache, server: OpenAIServer) -> None:
    model = cached(ChatOpenAI(model="gpt-4o-mini", base_url=server.url, api_key="none"), replay="single")
    whole = stream(world, model, "hello there")
    (chunk,) = stream(world, model, "hello there")

    assert said(merged(whole)) == said(chunk)
    assert chunk.chunk_position == "last"


def test_what_a_stream_saved_is_counted_as_saved(world: World, cache: LayeredCache, model: ChatOpenAI) -> None:
    with usage_callback() as usage:
        first = merged(stream(world, model, "hello there"))
        stream(world, model, "hello there")

    assert first.usage_metadata is not None
    assert usage.spent["gpt-4o-mini"].tokens == usage.saved["gpt-4o-mini"].tokens == first.usage_metadata["total_tokens"]


def test_hits_say_so_if_they_are_to(world: World, server: OpenAIServer) -> None:
    with LayeredCache("memory://", mark_hits=True).engine as engine:
        own = LayeredCache(cache=engine, mark_hits=True)
        model = cached(ChatOpenAI(model="gpt-4o-mini", base_url=server.url, api_key="none"), own)
        first, second = (merged(stream(world, model, "hello there")) for _ in range(2))

        assert "layered_cache" not in first.response_metadata
        assert second.response_metadata["layered_cache"]["tier"] == "memory"


# --- what is replayed comes to what was stored

MESSAGES = {
    "nothing": AIMessage(""),
    "words": AIMessage("  one two\n\nthree   ", response_metadata={"model_provider": "openai", "finish_reason": "stop", "n": 3}),
    "many words": AIMessage("word " * 1000),
    "no words": AIMessage("語" * 500),
    "usage": AIMessage(
        "a b", usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3, "input_token_details": {"cache_read": 1}}
    ),
    "a call": AIMessage("", tool_calls=[{"name": "f", "args": {"a": [1, 2.5, None], "b": "x y"}, "id": "1"}]),
    "calls and words": AIMessage(
        "so I call", tool_calls=[{"name": "f", "args": {}, "id": "1"}, {"name": "f", "args": {"a": 1}, "id": "2"}]
    ),
    "a call without id": AIMessage("", tool_calls=[{"name": "f", "args": {"a": 1}, "id": None}]),
    "a broken call": AIMessage("", invalid_tool_calls=[{"name": "f", "args": "no json", "id": "1", "error": None}]),
    "a broken call that says why": AIMessage("", invalid_tool_calls=[{"name": "f", "args": "{", "id": "1", "error": "cut"}]),
    "good and broken calls": AIMessage(
        "x y",
        tool_calls=[{"name": "f", "args": {"a": 1}, "id": "1"}],
        invalid_tool_calls=[{"name": "g", "args": '{"a": ', "id": "2", "error": None}],
    ),
    "more": AIMessage("a b", additional_kwargs={"refusal": None, "audio": {"id": "1", "data": "eA=="}, "count": 3}),
    "a legacy call": AIMessage(
        "", additional_kwargs={"tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}]}
    ),
    "a name": AIMessage("a b", name="alice"),
    "blocks": AIMessage([{"type": "text", "text": "one two three"}, {"type": "text", "text": "four five"}]),
    "blocks and texts": AIMessage(["one two", {"type": "text", "text": "three"}, "four"]),
    "numbered blocks": AIMessage([
        {"type": "reasoning", "reasoning": "well then so", "index": 0, "id": "rs_1"},
        {"type": "text", "text": "one two three", "index": 1, "annotations": [{"type": "citation", "url": "x"}]},
    ]),
    "blocks with numbers of LangChain's": AIMessage([{"type": "text", "text": "one two three", "index": "lc_txt_0"}]),
    "blocks with one number": AIMessage([
        {"type": "text", "text": "one two", "index": 0},
        {"type": "text", "text": "three four", "index": 0},
    ]),
    "thinking": AIMessage([
        {"type": "thinking", "thinking": "well then", "signature": "abc"},
        {"type": "text", "text": "so it is"},
        {"type": "tool_use", "id": "1", "name": "f", "input": {"a": 1}},
    ], tool_calls=[{"name": "f", "args": {"a": 1}, "id": "1"}], response_metadata={"model_provider": "anthropic"}),
    "version 1": AIMessage([
        {"type": "reasoning", "reasoning": "well then so"},
        {"type": "text", "text": "one two three"},
        {"type": "text", "text": "four five"},
        {"type": "tool_call", "id": "1", "name": "f", "args": {"a": 1}},
        {"type": "image", "base64": "eA==", "mime_type": "image/png"},
    ], tool_calls=[{"name": "f", "args": {"a": 1}, "id": "1"}], response_metadata={"output_version": "v1", "model_provider": "openai"}),
    "more fields": AIMessage("a b", other={"a": 1}),
}  # fmt: skip


class Usage(BaseModel):
    """Of a provider's client."""

    tokens: int = 3


def test_objects_in_metadata_do_not_prevent_caching(world: World, cache: LayeredCache) -> None:
    class Counting(Async):
        def _chunk(self, number: int, place: int, word: str) -> ChatGenerationChunk:
            chunk = super()._chunk(number, place, word)
            chunk.message.response_metadata["usage"] = Usage()
            return chunk

        def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
            self.calls.append(1)
            return ChatResult(generations=[ChatGeneration(message=AIMessage("one", response_metadata={"usage": Usage()}))])

    model = cached(Counting(gates={}, calls=[], given=[], closed=[]))
    for _ in range(2):
        assert merged(stream(world, model, "one")).content == "one "
        assert world.call(model, "invoke", "two").content in {"one", "two "}
    assert len(model.calls) == 2


class Saying(BaseChatModel):
    """A model that says one message, and can stream, though nobody needs that."""

    message: Any

    @property
    def _llm_type(self) -> str:
        return "saying"

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self.message.model_copy(deep=True))])

    def _stream(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        raise AssertionError("it was asked")
        yield


def unnumbered(content: Any) -> Any:
    """Streams number their blocks."""
    if isinstance(content, str):
        return content
    return [{name: value for name, value in block.items() if name != "index"} if isinstance(block, dict) else block for block in content]


@pytest.mark.parametrize("replay", ["chunks", "single"])
@pytest.mark.parametrize("kind", MESSAGES)
def test_what_is_replayed_comes_to_what_was_stored(kind: str, replay: Any, world: World, events: list[Event]) -> None:
    """Whatever it is: text, blocks, calls of tools, metadata. A message that says nothing may be kept by a rule of one's own."""
    message = MESSAGES[kind]
    version = message.response_metadata.get("output_version")
    policy = Policy(cacheable=lambda request, answer: True)
    with LayeredCache("memory://", policy=policy, observers=[events.append]).engine as engine:
        model = cached(Saying(message=message, output_version=version), LayeredCache(cache=engine), replay=replay)
        asked = model.invoke("q")
        chunks = stream(world, model, "q")

    assert said(merged(chunks)) | {"content": None} == said(asked) | {"content": None}
    assert unnumbered(merged(chunks).content) == unnumbered(asked.content)
    assert (merged(chunks).model_extra or {}) == (asked.model_extra or {})
    assert "adapter_failed" not in {event.kind for event in events}
    if replay == "single":
        assert len(chunks) == 1
    elif kind in {"words", "many words", "numbered blocks", "calls and words", "version 1"}:
        assert 3 < len(chunks) < 80


def test_long_answers_come_in_a_bounded_number_of_pieces(cache: LayeredCache) -> None:
    model = cached(Saying(message=AIMessage("word " * 10_000)))
    model.invoke("q")

    assert len(list(model.stream("q"))) <= 65


# --- callbacks


class Listening(BaseCallbackHandler):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        self.heard.append("start")

    def on_llm_new_token(self, token: Any, **kwargs: Any) -> None:
        self.heard.append(token)

    def on_llm_end(self, response: Any, **kwargs: Any) -> None:
        self.heard.append("end")

    def on_llm_error(self, error: BaseException, **kwargs: Any) -> None:
        self.heard.append("error")


def test_each_piece_is_told(world: World, cache: LayeredCache) -> None:
    """As those of a stream of the model are."""
    heard = []
    for _ in range(2):
        listening = Listening()
        stream(world, talking(), "one two three", config={"callbacks": [listening]})
        heard.append(listening.heard)

    assert heard[0] == ["start", "one ", "two ", "three ", "", "end"]
    assert "".join(heard[1]) == "startone two three end"
    assert len(heard[1]) > 4


async def test_events_of_a_stream_from_the_cache(cache: LayeredCache, model: ChatOpenAI, server: OpenAIServer) -> None:
    """They are those of a stream."""
    texts = []
    for _ in range(2):
        kinds: dict[str, list[Any]] = {}
        async for event in model.astream_events("hello there you", version="v2"):
            kinds.setdefault(event["event"], []).append(event["data"].get("chunk"))
        assert set(kinds) == {"on_chat_model_start", "on_chat_model_stream", "on_chat_model_end"}
        assert len(kinds["on_chat_model_stream"]) > 3
        texts.append("".join(chunk.content for chunk in kinds["on_chat_model_stream"]))

    assert server.calls == 1
    assert texts == ["You asked: hello there you"] * 2


@pytest.mark.skipif(not hasattr(BaseChatModel, "_chat_model_stream_v3"), reason="this release of LangChain has no such events")
@pytest.mark.filterwarnings("ignore::langchain_core._api.beta_decorator.LangChainBetaWarning")
async def test_typed_events_of_a_stream_from_the_cache(cache: LayeredCache, model: ChatOpenAI, server: OpenAIServer) -> None:
    """The third version of them, in both worlds; tokens are told once each."""
    texts, heard = [], []
    for _ in range(2):
        listening = Listening()
        found = await model.astream_events("hello there", version="v3", config={"callbacks": [listening]})
        texts.append("".join([text async for text in found.text]))
        heard.append("".join(part for part in listening.heard if part not in {"start", "end"}))
    texts.append("".join(model.stream_events("hello there", version="v3").text))

    assert server.calls == 1
    assert texts == ["You asked: hello there"] * 3
    assert heard == ["You asked: hello there"] * 2


# --- one call, however many ask


async def test_a_hundred_tasks_make_one_call(cache: LayeredCache, model: ChatOpenAI, server: OpenAIServer) -> None:
    """Each has chunks of its own. The first one pays."""
    with usage_callback() as usage:
        streams = await asyncio.gather(*(collected(model.astream("hello there")) for _ in range(100)))

    assert server.calls == 1
    assert {merged(chunks).content for chunks in streams} == {"You asked: hello there"}
    assert len({id(chunk) for chunks in streams for chunk in chunks}) == sum(map(len, streams))
    assert len({merged(chunks).id for chunks in streams}) == 100
    assert (cache.stats().hits, cache.stats().misses) == (99, 1)
    assert (usage.spent["gpt-4o-mini"].answers, usage.saved["gpt-4o-mini"].answers) == (1, 99)


def test_thirty_threads_make_one_call(cache: LayeredCache, model: ChatOpenAI, server: OpenAIServer) -> None:
    server.latency = 0.2
    barrier = threading.Barrier(30)

    def one(_: int) -> AIMessageChunk:
        barrier.wait()
        return merged(list(model.stream("hello there")))

    with ThreadPoolExecutor(30) as pool:
        answers = list(pool.map(one, range(30)))

    assert server.calls == 1
    assert {answer.content for answer in answers} == {"You asked: hello there"}
    assert (cache.stats().hits, cache.stats().misses) == (29, 1)


async def test_each_sees_the_chunks_as_they_come(cache: LayeredCache) -> None:
    """One that comes late has those that were there, and nobody has what he changes."""
    gate = asyncio.Event()
    model = talking(gates={2: gate})
    first = model.astream("one two three")
    early = [await anext(first), await anext(first)]
    early[0].additional_kwargs["of"]["call"] = "changed"
    second = model.astream("one two three")
    late = [await anext(second), await anext(second)]

    assert [chunk.content for chunk in late] == ["one ", "two "]
    assert late[0].additional_kwargs == {"of": {"call": "1"}}
    gate.set()
    rest = [await collected(first), await collected(second)]
    assert [merged(chunks).content for chunks in rest] == ["three "] * 2
    assert len(model.calls) == 1
    assert model.invoke("one two three").additional_kwargs == {"of": {"call": "1"}}


def test_a_thread_that_is_slow_stops_nobody(cache: LayeredCache) -> None:
    """It has begun, and does not go on; another one, who came later, has all; then the first one has too."""
    model = talking()
    first = model.stream("one two three")
    next(first).additional_kwargs["of"]["call"] = "changed"
    found = list(model.stream("one two three"))

    assert "".join(chunk.content for chunk in found) == "one two three "
    assert found[0].additional_kwargs == {"of": {"call": "1"}}
    assert "".join(chunk.content for chunk in first) == "two three "
    assert len(model.calls) == 1


async def test_a_task_that_is_slow_stops_nobody(cache: LayeredCache) -> None:
    model = talking()
    first = model.astream("one two three")
    await anext(first)

    assert merged(await collected(model.astream("one two three"))).content == "one two three "
    assert merged(await collected(first)).content == "two three "
    assert len(model.calls) == 1


def test_nothing_runs_ahead_of_its_readers(world: World, cache: LayeredCache) -> None:
    """The model says what somebody wants to hear, and no more."""
    model = talking()
    if world.name == "threads":
        found = model.stream("one two three")
        next(found)
        assert model.given == [0]
        found.close()
    else:

        async def one() -> None:
            found = model.astream("one two three")
            await anext(found)
            await asyncio.sleep(0.01)
            assert model.given == [0]
            await found.aclose()
            await asyncio.sleep(0.01)  # what is inside is closed by the loop

        world.loop.run_until_complete(one())
    assert model.closed == [GeneratorExit]


def test_loops_and_threads_share_what_is_stored(cache: LayeredCache) -> None:
    """What is under way in one loop is nobody else's: it would end with the loop."""
    model = talking()
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: in_a_loop(collected(model.astream("hello there"))), range(4)))
    calls = len(model.calls)
    answers += [list(model.stream("hello there")), in_a_loop(collected(model.astream("hello there")))]

    assert {merged(answer).content for answer in answers} == {"hello there "}
    assert calls <= 4
    assert len(model.calls) == calls


# --- closed, cancelled, failed


def test_what_is_closed_early_is_not_stored(world: World, cache: LayeredCache) -> None:
    """Nor is it left open."""
    model = talking()
    if world.name == "threads":
        for _ in model.stream("one two three"):
            break
    else:

        async def one() -> None:
            async for _ in model.astream("one two three"):
                break
            await asyncio.sleep(0.01)

        world.loop.run_until_complete(one())

    assert model.closed == [GeneratorExit]
    assert not _under_way
    assert merged(stream(world, model, "one two three")).content == "one two three "
    assert len(model.calls) == 2


async def test_one_that_is_closed_early_disturbs_nobody(cache: LayeredCache) -> None:
    """The one that began, and one that follows; the others have all of it, and it is stored."""
    gate = asyncio.Event()
    model = talking(gates={1: gate})
    leader, quitter = model.astream("one two three"), model.astream("one two three")
    await anext(leader)
    await anext(quitter)
    others = [asyncio.create_task(collected(model.astream("one two three"))) for _ in range(3)]
    await asyncio.sleep(0.01)
    await leader.aclose()
    await quitter.aclose()
    gate.set()

    assert {merged(chunks).content for chunks in await asyncio.gather(*others)} == {"one two three "}
    assert merged(await collected(model.astream("one two three"))).content == "one two three "
    assert len(model.calls) == 1
    assert model.closed == []


def test_a_thread_that_closes_early_disturbs_nobody(cache: LayeredCache) -> None:
    model = talking()
    leader, follower = model.stream("one two three"), model.stream("one two three")
    next(leader)
    next(follower)
    leader.close()

    assert "".join(chunk.content for chunk in follower) == "two three "
    assert "".join(chunk.content for chunk in model.stream("one two three")) == "one two three "
    assert len(model.calls) == 1


async def test_one_that_is_cancelled_disturbs_nobody(cache: LayeredCache) -> None:
    """While all wait for the model: the one that began, and one that follows."""
    gate = asyncio.Event()
    model = talking(gates={1: gate})
    tasks = [asyncio.create_task(collected(model.astream("one two three"))) for _ in range(5)]
    await asyncio.sleep(0.02)
    tasks[0].cancel()
    tasks[3].cancel()
    await asyncio.sleep(0.02)
    gate.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)

    assert [isinstance(chunks, asyncio.CancelledError) for chunks in found] == [True, False, False, True, False]
    assert {merged(chunks).content for chunks in found if isinstance(chunks, list)} == {"one two three "}
    assert len(model.calls) == 1


async def test_what_is_cancelled_is_not_stored(cache: LayeredCache) -> None:
    """The model hears of it, while it is waited for."""
    model = talking(gates={1: asyncio.Event()})
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await collected(model.astream("one two three"))
    await asyncio.sleep(0.01)

    assert model.closed == [asyncio.CancelledError]
    model.gates.clear()
    await collected(model.astream("one two three"))
    assert len(model.calls) == 2


def test_what_fails_is_not_stored(world: World, cache: LayeredCache) -> None:
    """The error passes unchanged, also before the first chunk."""
    model = talking(fail_at={1: 2, 2: 0})
    for number in (1, 2):
        with pytest.raises(RuntimeError, match=f"call {number} broke"):
            stream(world, model, "one two three")
    assert merged(stream(world, model, "one two three")).content == "one two three "
    assert len(model.calls) == 3


async def test_an_error_reaches_those_who_have_read(cache: LayeredCache) -> None:
    """Those who came at the same moment but have read nothing ask again, once."""
    gate = asyncio.Event()
    model = talking(gates={0: gate}, fail_at={1: 0})
    tasks = [asyncio.create_task(collected(model.astream("one two three"))) for _ in range(5)]
    await asyncio.sleep(0.02)
    gate.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(chunks, RuntimeError) for chunks in found] == [True] + [False] * 4
    assert len(model.calls) == 2

    gate = asyncio.Event()
    model = talking(gates={1: gate}, fail_at={1: 1})
    tasks = [asyncio.create_task(collected(model.astream("four five six"))) for _ in range(5)]
    await asyncio.sleep(0.02)
    gate.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert [str(error) for error in found] == ["call 1 broke"] * 5


def test_an_error_in_a_thread_reaches_those_who_have_read(cache: LayeredCache) -> None:
    """Whoever of them was the one to fetch it."""
    model = talking(fail_at={1: 1})
    leader, follower = model.stream("one two three"), model.stream("one two three")
    next(leader)
    next(follower)

    for found in (follower, leader):
        with pytest.raises(RuntimeError, match="call 1 broke"):
            next(found)
    assert "".join(chunk.content for chunk in model.stream("one two three")) == "one two three "


async def test_a_model_that_is_down_is_not_asked_by_one_after_the_other(cache: LayeredCache) -> None:
    """After two that failed, all others ask at once."""

    class Down(Async):
        at_once: list[int] = []

        async def _astream(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> AsyncIterator[Any]:
            self.calls.append(1)
            self.at_once.append(len(self.calls) - len(self.closed))
            await asyncio.sleep(0.01)
            self.closed.append(RuntimeError)
            raise RuntimeError("down")
            yield

    model = cached(Down(calls=[], closed=[], at_once=[]))
    found = await asyncio.gather(*(collected(model.astream("one")) for _ in range(20)), return_exceptions=True)

    assert all(isinstance(error, RuntimeError) for error in found)
    assert len(model.calls) == 20
    assert model.at_once[:2] == [1, 1]
    assert max(model.at_once) == 18


def test_a_loop_that_ends_around_a_stream_leaves_nothing(cache: LayeredCache) -> None:
    """It was closed with the stream under way; the next loop asks anew. (LangChain's own part of it would warn.)"""
    model = talking()
    loop = asyncio.new_event_loop()
    found = model._astream([HumanMessage("one two three")])
    loop.run_until_complete(anext(found))
    for task in asyncio.all_tasks(loop):
        task._log_destroy_pending = False  # it is torn down on purpose
    loop.close()

    assert merged(in_a_loop(collected(model.astream("one two three")))).content == "one two three "
    assert len(model.calls) == 2
    del found, task
    assert not _under_way


def test_streams_of_loops_that_have_ended_are_forgotten(cache: LayeredCache) -> None:
    """When another stream begins, of whatever loop or thread: a worker that makes a loop for each job would gather them all."""
    model, left = talking(), []
    for number in range(3):
        loop = asyncio.new_event_loop()
        left.append(model._astream([HumanMessage(f"one {number}")]))
        loop.run_until_complete(anext(left[-1]))
        for task in asyncio.all_tasks(loop):
            task._log_destroy_pending = False  # it is torn down on purpose
        loop.close()
        assert len(_under_way) == 1
    list(model.stream("another"))
    assert not _under_way
    del left, task


# --- removals


def test_an_answer_from_before_a_removal_reaches_nobody_after_it(world: World, cache: LayeredCache) -> None:
    """Who asks after it joins no stream that began before, and what that one comes to is not kept."""
    model = talking()
    if world.name == "threads":
        before = model.stream("one two three")
        next(before)
        cache.clear()
        after = model.stream("one two three")
        next(after)
        assert len(model.calls) == 2
        after.close()
        assert len(list(before)) == 3
    else:

        async def both() -> None:
            before = model.astream("one two three")
            await anext(before)
            await cache.aclear()
            after = model.astream("one two three")
            await anext(after)
            assert len(model.calls) == 2
            await after.aclose()
            assert len(await collected(before)) == 3

        world.loop.run_until_complete(both())
    stream(world, model, "one two three")
    assert len(model.calls) == 3
    stream(world, model, "one two three")
    assert len(model.calls) == 3


def test_a_stream_can_be_removed_by_its_tag(world: World, cache: LayeredCache) -> None:
    model = talking()
    options = {"metadata": {"llm_cache": {"tags": ["prices"]}}}
    for calls in (1, 1):
        stream(world, model, "one two", config=options)
        assert len(model.calls) == calls
    cache.invalidate(tag="prices")
    stream(world, model, "one two", config=options)
    assert len(model.calls) == 2


# --- what one call decides


def ask(world: World, model: Any, **options: Any) -> str:
    return merged(stream(world, model, "one two", config={"metadata": {"llm_cache": options}})).content


def test_every_mode(world: World, cache: LayeredCache) -> None:
    """In the words of `CallOptions`."""
    model = talking()
    with pytest.raises(CacheMiss):
        ask(world, model, mode="only_cached")
    for mode, calls in (
        ("read_only", 1),
        ("default", 2),
        ("default", 2),
        ("only_cached", 2),
        ("read_only", 2),
        ("bypass", 3),
        ("refresh", 4),
        ("default", 4),
    ):
        assert ask(world, model, mode=mode) == "one two "
        assert len(model.calls) == calls, mode
    with cache_options(mode="bypass"):
        stream(world, model, "one two")
    assert len(model.calls) == 5


def test_samples_tenants_and_times(world: World, cache: LayeredCache) -> None:
    model = talking()
    for options, calls in (({}, 1), ({"sample": 1}, 2), ({"sample": 1}, 2), ({"namespace": "t1"}, 3), ({"namespace": "t1"}, 3), ({}, 3)):
        ask(world, model, **options)
        assert len(model.calls) == calls
    ask(world, model, sample=2, ttl=0.0)
    ask(world, model, sample=2)
    assert len(model.calls) == 5


@pytest.mark.parametrize("off", ["policy", "call"])
async def test_sharing_can_be_turned_off(off: str) -> None:
    cache = LayeredCache("memory://", policy=dataclasses.replace(HOUR, single_flight=off != "policy"))
    set_llm_cache(cache)
    try:
        model = talking()
        config: Any = {"metadata": {"llm_cache": {"single_flight": False}}} if off == "call" else {}
        await asyncio.gather(*(collected(model.astream("one two", config=config)) for _ in range(5)))
        assert len(model.calls) == 5
        await collected(model.astream("one two"))
        assert len(model.calls) == 5
    finally:
        set_llm_cache(None)
        cache.close()


async def test_stream_of_several_answers_is_not_cached(cache: LayeredCache, caplog: pytest.LogCaptureFixture) -> None:
    """Their chunks are mixed. One warning gives the reason."""
    model = talking()
    for _ in range(2):
        list(model.stream("one two", n=2))
        await collected(model.astream("one two", n=2))
    assert len(model.calls) == 4
    [warning] = [record.getMessage() for record in caplog.records if record.name == "layered_cache"]
    assert "a stream of several answers (n, best_of) cannot be kept" in warning


def test_a_stream_is_answered_from_another_cache_too(world: World) -> None:
    """From the one that is asked for what is missing."""
    legacy = InMemoryCache()
    set_llm_cache(legacy)
    bare = Async(calls=[], given=[], closed=[])
    bare.invoke("one two")
    set_llm_cache(LayeredCache("memory://", legacy=legacy))
    try:
        for _ in range(2):
            assert merged(stream(world, cached(bare), "one two")).content == "one two "
        assert len(bare.calls) == 1
    finally:
        set_llm_cache(None)


# --- nobody waits who would wait for himself


def test_a_stream_inside_of_its_own_like_goes_alone(cache: LayeredCache) -> None:
    """A model that asks a model that asks: it would wait for what it computes."""
    model = talking()
    inner = talking()
    model.inside = lambda: list(inner.stream("one two")) if len(model.calls) < 3 else None
    inner.inside = lambda: list(model.stream("one two")) if len(model.calls) < 3 else None

    assert "".join(chunk.content for chunk in model.stream("one two")) == "one two "


def test_streams_and_calls_inside_of_each_other_do_not_wait(cache: LayeredCache) -> None:
    """In two threads, in the other order: the one streams and asks inside, the other asks and streams inside."""
    barrier = threading.Barrier(2, timeout=5)
    streaming = talking()

    class Asking(Async):
        def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
            if len(self.calls) == 0:
                self.calls.append(1)
                barrier.wait()
                list(streaming.stream("one two"))
            return super()._generate(messages)

    asking = cached(Asking(calls=[], given=[], closed=[], name="asking"))

    def ask_inside() -> None:
        if len(streaming.calls) == 1:
            barrier.wait()
            asking.invoke("three")

    streaming.inside = ask_inside
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.submit(lambda: list(streaming.stream("one two"))), pool.submit(asking.invoke, "three")
        assert "".join(chunk.content for chunk in one.result(20)) == "one two "
        assert other.result(20).content == "three "


async def test_a_stream_on_the_loops_own_thread_does_not_wait(cache: LayeredCache) -> None:
    """For a thread that needs the loop, nor for a task of it."""
    loop = asyncio.get_running_loop()
    model = talking()
    begun = threading.Event()

    def needs_the_loop() -> None:
        begun.set()
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0.05), loop).result()

    model.inside = needs_the_loop
    other = asyncio.create_task(asyncio.to_thread(lambda: list(model.stream("one two"))))
    task = asyncio.create_task(collected(model.astream("one two")))
    await asyncio.to_thread(begun.wait)
    model.inside = None

    assert "".join(chunk.content for chunk in model.stream("one two")) == "one two "
    assert merged(await other).content == merged(await task).content == "one two "


async def test_threads_of_the_loops_pool_do_not_wait_for_a_task_that_needs_one(cache: LayeredCache) -> None:
    """The model has no coroutine: each chunk takes one of the threads, which those who wait would fill."""
    model = cached(Talking(calls=[], given=[], closed=[]))
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(3))

    found = await asyncio.gather(
        *(collected(model.astream("one two three")) for _ in range(5)),
        *(asyncio.to_thread(lambda: list(model.stream("one two three"))) for _ in range(10)),
    )

    assert {merged(chunks).content for chunks in found} == {"one two three "}
    assert len(model.calls) <= 2


async def test_a_stream_of_a_task_that_does_not_begin_is_not_waited_for_too_long() -> None:
    cache = LayeredCache("memory://", policy=Policy(max_wait=0.05))
    set_llm_cache(cache)
    try:
        gate = asyncio.Event()
        model = talking(gates={0: gate})
        leader = asyncio.create_task(collected(model.astream("one two")))
        await asyncio.sleep(0.02)
        model.gates.clear()
        assert len(await collected(model.astream("one two"))) == 3
        assert len(model.calls) == 2
        gate.set()
        assert len(await leader) == 3
    finally:
        set_llm_cache(None)
        cache.close()


def test_a_stream_that_does_not_begin_is_not_waited_for_too_long() -> None:
    """`max_wait` is the end of patience, for those who have read nothing."""
    cache = LayeredCache("memory://", policy=Policy(max_wait=0.05))
    set_llm_cache(cache)
    try:
        gate = threading.Event()
        model = talking(gates={0: gate})
        leader = threading.Thread(target=lambda: list(model.stream("one two")))
        leader.start()
        while not model.calls:
            time.sleep(0.001)
        model.gates.clear()
        assert len(list(model.stream("one two"))) == 3
        assert len(model.calls) == 2
        gate.set()
        leader.join()
    finally:
        set_llm_cache(None)
        cache.close()


async def until(happens: Callable[[], object]) -> None:
    for _ in range(5000):
        if happens():
            return
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("kind", [ThreadStream, TaskStream])
async def test_all_attempts_have_one_patience(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has waited for `max_wait` goes alone."""
    cache = LayeredCache("memory://", policy=Policy(max_wait=0.05))
    set_llm_cache(cache)
    waited: list[float] = []
    read = kind.read

    def reading(self: Any, patience: float | None) -> Any:
        if patience is not None:
            waited.append(patience)
        return read(self, patience)

    monkeypatch.setattr(kind, "read", reading)
    try:
        gate: Any = threading.Event() if kind is ThreadStream else asyncio.Event()
        model = talking(gates={0: gate})
        leader = asyncio.create_task(
            collected(model.astream("one")) if kind is TaskStream else asyncio.to_thread(list, model.stream("one"))
        )
        await until(lambda: model.calls)
        model.gates.clear()
        await (collected(model.astream("one")) if kind is TaskStream else asyncio.to_thread(list, model.stream("one")))
        gate.set()
        await leader
        assert len(waited) == 1
        assert waited[0] <= 0.05
    finally:
        set_llm_cache(None)
        cache.close()


@pytest.mark.parametrize("kind", [ThreadStream, TaskStream])
async def test_who_has_read_does_not_wait_for_ever(kind: Any) -> None:
    """Another one's call may hang; the one who made it waits for the model as he would without a cache."""
    cache = LayeredCache("memory://", policy=Policy(max_wait=0.01))
    set_llm_cache(cache)
    try:
        gate: Any = threading.Event() if kind is ThreadStream else asyncio.Event()
        model = talking(gates={1: gate})
        leader = asyncio.create_task(
            collected(model.astream("one two")) if kind is TaskStream else asyncio.to_thread(list, model.stream("one two"))
        )
        await until(lambda: model.given)
        await asyncio.sleep(0.02)
        with pytest.raises(TimeoutError, match="has returned no chunk"):
            await (collected(model.astream("one two")) if kind is TaskStream else asyncio.to_thread(list, model.stream("one two")))
        gate.set()
        assert merged(await leader).content == "one two "
        assert len(model.calls) == 1
    finally:
        gate.set()
        set_llm_cache(None)
        cache.close()


# --- rate limiters


class Counter(BaseRateLimiter):
    """A limiter that counts how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def acquire(self, *, blocking: bool = True) -> bool:
        self.asked += 1
        return True

    async def aacquire(self, *, blocking: bool = True) -> bool:
        return self.acquire()


@pytest.mark.parametrize("kind", [Async, Talking])
def test_a_rate_limiter_is_asked_before_the_model_and_not_before_the_cache(kind: Any, world: World, cache: LayeredCache) -> None:
    """Once for each call of the model, whichever way; LangChain asks it before every stream."""
    counter = Counter()
    bare = kind(calls=[], given=[], closed=[], rate_limiter=counter)
    model = cached(cached(bare))
    for _ in range(2):
        stream(world, model, "one two")
    assert counter.asked == 1
    for _ in range(2):
        world.call(model, "invoke", "three")
    assert counter.asked == 2
    stream(world, model, "three")
    assert counter.asked == 2
    stream(world, model, "one two", config={"metadata": {"llm_cache": {"mode": "bypass"}}})
    assert counter.asked == len(model.calls) == 3
    world.call(model.model_copy(update={"disable_streaming": True}), "invoke", "four")
    assert counter.asked == len(model.calls) == 4
    assert uncached(model).rate_limiter is counter
    assert bare.rate_limiter is counter
    set_llm_cache(None)
    stream(world, model, "one two")
    assert counter.asked == len(model.calls) == 5


# --- nothing of the cache's reaches the caller


@pytest.mark.parametrize("part", ["key", "peek", "find", "answer"])
def test_a_defect_of_the_cache_costs_no_stream(
    part: str, world: World, cache: LayeredCache, events: list[Event], monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    def broken(*args: Any) -> Any:
        raise ZeroDivisionError

    async def abroken(*args: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(cache.calls if part in {"key", "answer"} else cache, part, broken)
    if part == "find":
        monkeypatch.setattr(cache, "afind", abroken)

    assert merged(stream(world, talking(), "one two")).content == "one two "
    assert "adapter_failed" in {event.kind for event in events}


def test_what_cannot_be_copied_is_streamed_all_the_same(world: World, cache: LayeredCache) -> None:
    """And not stored."""

    class Locked(Async):
        def _chunk(self, number: int, place: int, word: str) -> ChatGenerationChunk:
            chunk = super()._chunk(number, place, word)
            chunk.message.response_metadata["lock"] = threading.Lock()
            return chunk

    model = cached(Locked(calls=[], given=[], closed=[]))
    for _ in range(2):
        assert "".join(chunk.content for chunk in stream(world, model, "one")) == "one "
    assert len(model.calls) == 2


def test_a_wrapped_model_without_a_cache_of_ours_is_as_it_was(world: World) -> None:
    model = talking()
    for _ in range(2):
        assert merged(stream(world, model, "one two")).content == "one two "
    assert len(model.calls) == 2


def test_what_cannot_be_written_as_a_text_is_streamed_all_the_same(world: World, cache: LayeredCache, caplog: Any) -> None:
    """Uncached, and told once: a model may take what LangChain cannot write down."""
    loop: dict[str, Any] = {}
    loop["me"] = loop
    message = HumanMessage("one two")
    message.additional_kwargs["loop"] = loop
    model = talking()
    for _ in range(2):
        assert merged(stream(world, model, [message])).content == "one two "
    assert len(model.calls) == 2
    assert caplog.text.count("a request is not cached") == 1
    with cache_options(mode="only_cached"), pytest.raises(CacheMiss):
        stream(world, model, [message])


def test_a_human_message_may_have_an_id(world: World, cache: LayeredCache) -> None:
    """It does not count."""
    model = talking()
    for number in range(2):
        stream(world, model, [HumanMessage("one two", id=str(number))])
    assert len(model.calls) == 1
