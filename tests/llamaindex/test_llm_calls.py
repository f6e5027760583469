"""Calls of cached LLMs: what one may say for itself, who asks the provider for whom, and what happens when things go wrong."""

from __future__ import annotations

import asyncio
import copy
import gc
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import openai
import pytest
from layered_cache import CacheMiss, ConfigurationError, Event, Policy, TenantRequiredError, TieredCache, cache_options
from layered_cache.adapters.cached_stream import _under_way
from layered_cache.options import NO_OPTIONS
from layered_cache.testing import FakeAuthority, FakeClock, OpenAIServer
from llama_index.core.base.llms.types import ChatResponse, CompletionResponse
from llama_index.core.callbacks import CallbackManager, LlamaDebugHandler, TokenCountingHandler
from llama_index.core.callbacks.schema import CBEventType
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.events.exception import ExceptionEvent
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from llama_index.core.llms import LLM, ChatMessage, CustomLLM, LLMMetadata
from llama_index.core.llms.callbacks import llm_completion_callback
from llama_index.core.llms.mock import MockLLM, MockLLMWithNonyieldingChatStream
from llama_index.core.prompts import PromptTemplate
from llama_index.llms.openai import OpenAI
from pydantic import BaseModel, Field, PrivateAttr
from support.sync_async import World, kinds

from langchain_layered_cache import LayeredCache
from llamaindex_layered_cache import cached
from llamaindex_layered_cache._llm.call import Question
from llamaindex_layered_cache._llm.response_codec import Raw
from llamaindex_layered_cache._llm.wrapper import OWN

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

MESSAGES = [ChatMessage(role="user", content="why?")]


class Slow(CustomLLM):
    """Answers in words, each after a while, and notes what happens to it."""

    model_name: str = "slow"
    asked: list[str] = Field(default=[], exclude=True)
    closed: list[str] = Field(default=[], exclude=True)
    seconds: float = Field(default=0.0, exclude=True)
    fails_at: list[int] = Field(default=[], exclude=True)  # no part of the key, unlike a private attribute

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name="slow")

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return [*self.stream_complete(prompt, formatted, **kwargs)][-1]

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Iterator[CompletionResponse]:
        def pieces() -> Iterator[CompletionResponse]:
            self.asked.append(prompt)
            text = ""
            try:
                for number, word in enumerate(["one ", "two ", "three"]):
                    if number in self.fails_at:
                        raise OSError
                    time.sleep(self.seconds)
                    text += word
                    yield CompletionResponse(text=text, delta=word)
            except GeneratorExit:
                self.closed.append(text)
                raise

        return pieces()

    @llm_completion_callback()
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> AsyncIterator[CompletionResponse]:
        async def pieces() -> AsyncIterator[CompletionResponse]:
            self.asked.append(prompt)
            text = ""
            try:
                for number, word in enumerate(["one ", "two ", "three"]):
                    if number in self.fails_at:
                        raise OSError
                    await asyncio.sleep(self.seconds)
                    text += word
                    yield CompletionResponse(text=text, delta=word)
            except (GeneratorExit, asyncio.CancelledError):
                self.closed.append(text)
                raise

        return pieces()

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return [piece async for piece in await self.astream_complete(prompt, formatted, **kwargs)][-1]


def slow(**kwargs: Any) -> Slow:
    return Slow(asked=[], closed=[], **kwargs)


@pytest.fixture
def cache(events: list[Event]) -> Iterator[TieredCache]:
    with TieredCache("memory://", observers=[events.append]) as cache:
        yield cache
    assert not _under_way


@pytest.fixture
def bare(server: OpenAIServer) -> OpenAI:
    return OpenAI(model="gpt-4o-mini", api_base=server.url, api_key="sk-none", max_retries=0)


def stream(world: World, llm: LLM, method: str, *args: Any, **kwargs: Any) -> list[Any]:
    """All chunks, in either world."""
    if world.name == "threads":
        return list(getattr(llm, method)(*args, **kwargs))

    async def collected() -> list[Any]:
        return [chunk async for chunk in await getattr(llm, "a" + method)(*args, **kwargs)]

    return world.loop.run_until_complete(collected())


# --- what one call says


def test_a_call_may_do_without(world: World, bare: OpenAI, cache: TieredCache, server: OpenAIServer) -> None:
    """Nothing of what is said reaches the provider."""
    llm = cached(bare, cache)
    for said in (
        {},
        {"cache": False},
        {"refresh": True},
        {"only_cached": True},
        {"cache": True, "refresh": None, "ttl": 60, "tags": ["a"]},
    ):
        world.call(llm, "chat", MESSAGES, **said)
        stream(world, llm, "stream_chat", MESSAGES, **said)

    assert server.calls == 1 + 2 + 2
    assert [{key for key in body if key != "stream"} for body in server.bodies] == [{"messages", "model", "temperature"}] * 5
    assert cache.stats().stored == 3


def test_only_cached(world: World, bare: OpenAI, cache: TieredCache, server: OpenAIServer) -> None:
    """What is not there is not asked for; nor is what can have no key."""
    llm = cached(bare, cache)
    for said in ({}, {"extra": object()}):
        with pytest.raises(CacheMiss):
            world.call(llm, "chat", MESSAGES, only_cached=True, **said)
        with pytest.raises(CacheMiss):
            stream(world, llm, "stream_complete", "q", only_cached=True, **said)
    assert server.calls == 0


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"cache": "no"}, "cache must be True or False"),
        ({"cache": False, "refresh": True}, "exclude each other"),
        ({"ttl": "soon"}, "ttl"),
        ({"namespace": ""}, "namespace"),
    ],
)
def test_what_may_not_be_said(said: dict[str, Any], message: str, bare: OpenAI, cache: TieredCache, server: OpenAIServer) -> None:
    """Is told before anything is asked."""
    with pytest.raises(ConfigurationError, match=message):
        cached(bare, cache).chat(MESSAGES, **said)
    assert server.calls == 0


def test_what_is_said_inside_counts_more(bare: OpenAI, cache: TieredCache, server: OpenAIServer, events: list[Event]) -> None:
    """At the call more than around it, and that more than when it was wrapped; tags add up."""
    llm = cached(bare, cache, ttl="1h", tags=["wrapped"], namespace="wrapped")
    llm.chat(MESSAGES)
    with cache_options(ttl="5m", tags=["around"], namespace="around"):
        llm.chat(MESSAGES)
        llm.chat(MESSAGES, ttl=60, tags="call", namespace="call")
        llm.chat(MESSAGES, namespace="call")
    assert server.calls == 3

    entries = {name: next(iter(cache.namespace(name).entries())) for name in ("wrapped", "around", "call")}
    assert {name: set(entry.tags) for name, entry in entries.items()} == {
        "wrapped": {"wrapped"},
        "around": {"wrapped", "around"},
        "call": {"wrapped", "around", "call"},
    }
    kept = {name: round(entry.keep_until - entry.created_at) for name, entry in entries.items()}
    assert kept == {"wrapped": 3600, "around": 300, "call": 60}


def test_samples_and_accounts_have_their_own(bare: OpenAI, cache: TieredCache, server: OpenAIServer) -> None:
    """As with LangChain."""
    llm = cached(bare, cache)
    for options in ({"sample": 0}, {"sample": 1}, {"account": "a"}, {"account": "b"}) * 2:
        with cache_options(**options):
            llm.chat(MESSAGES)
    assert server.calls == 4
    with cache_options(mode="bypass"):
        llm.chat(MESSAGES)
    with cache_options(mode="read_only"):
        llm.complete("q")
        llm.complete("q")
    assert server.calls == 7


def test_tenants_must_be_named_where_they_must(bare: OpenAI, server: OpenAIServer) -> None:
    """At the call, around it, or when the LLM is wrapped."""
    with TieredCache("memory://", policy=Policy(tenant_required=True)) as cache:
        with pytest.raises(TenantRequiredError):
            cached(bare, cache).chat(MESSAGES)
        for tenant in ("a", "b", "a"):
            cached(bare, cache).chat(MESSAGES, namespace=tenant)
            cached(bare, cache, namespace=tenant).chat(MESSAGES)
    assert server.calls == 2


def test_accounts_are_kept_apart_where_they_must_be(server: OpenAIServer, events: list[Event]) -> None:
    """By the API key of the LLM; one that shows none is not cached."""
    with TieredCache("memory://", policy=Policy(separate_accounts=True), observers=[events.append]) as cache:
        for key in ("sk-a", "sk-b", "sk-a"):
            cached(OpenAI(model="gpt-4o-mini", api_base=server.url, api_key=key), cache).chat(MESSAGES)
        assert server.calls == 2
        llm = cached(slow(), cache)
        llm.complete("q")
        assert kinds(events)[-1] == "uncacheable"
        with cache_options(account="me"):
            llm.complete("q")
        assert kinds(events)[-1] == "stored"


def test_the_users_own_rules(bare: OpenAI, cache: TieredCache, server: OpenAIServer) -> None:
    """Which calls are cached, and which answers are kept; a rule that fails costs nothing but the cache."""
    seen: list[Any] = []

    def when(asked: Any, arguments: Any) -> bool:
        seen.append((asked, dict(arguments)))
        return arguments.get("top_p") != 0.5

    llm = cached(bare, cache, when=when, store_if=lambda response: "why" in response.message.content)
    llm.chat(MESSAGES, top_p=0.5)
    assert cache.stats().lookups == 0
    llm.chat(MESSAGES)
    llm.chat([ChatMessage("what?")])
    assert cache.stats().stored == 1
    assert seen[0] == (MESSAGES, {"top_p": 0.5})

    def fails(*_: Any) -> bool:
        raise OSError

    assert cached(bare, cache, when=fails).chat(MESSAGES).message.content == "You asked: why?"
    assert cached(bare, cache, store_if=fails).chat([ChatMessage("who?")]).message.content == "You asked: who?"
    assert cache.stats().stored == 1


# --- who asks for whom


def test_one_asks_for_all(world: World, cache: TieredCache) -> None:
    """Of equal calls at once."""
    llm = cached(slow(seconds=0.02), cache)
    answers = world.at_once(llm, "complete", [("q",)] * 8)

    assert [answer.text for answer in answers] == ["one two three"] * 8
    assert len({id(answer) for answer in answers}) == 8
    assert llm.asked == ["q"]


def test_a_call_within_a_call_is_a_part_of_it(world: World, cache: TieredCache) -> None:
    """`chat` of most asks `complete`: there is one entry, and one lookup."""
    llm = cached(slow(), cache)
    for _ in range(2):
        assert world.call(llm, "chat", MESSAGES).message.content == "one two three"
        assert stream(world, llm, "stream_chat", MESSAGES)[-1].message.content == "one two three"
    assert (cache.stats().stored, cache.stats().lookups) == (1, 4)
    world.call(llm, "chat", MESSAGES, cache=False)
    stream(world, llm, "stream_chat", MESSAGES, cache=False)
    assert (cache.stats().stored, cache.stats().lookups) == (1, 4)
    assert len(llm.asked) == 3


def test_a_call_within_a_call_keeps_its_arguments(cache: TieredCache) -> None:
    """They are what the model says to its provider, which may know a `cache` too."""
    seen: list[dict[str, Any]] = []

    class Asking(Slow):
        @llm_completion_callback()
        def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
            seen.append(kwargs)
            return CompletionResponse(text=prompt)

        def chat(self, messages: Any, **kwargs: Any) -> ChatResponse:
            return ChatResponse(message=ChatMessage(content=self.complete("x", cache="ephemeral", tags=["a"]).text))

    assert cached(Asking(), cache).chat(MESSAGES).message.content == "x"
    assert seen == [{"cache": "ephemeral", "tags": ["a"]}]


@pytest.mark.parametrize("method", ["chat", "achat"])
def test_a_call_by_way_of_its_twin_waits_for_nobody(method: str) -> None:
    """Some ask their sync method in a thread of an executor, some the other one in a loop there: no context comes along."""

    class Twin(Slow):
        def chat(self, messages: Any, **kwargs: Any) -> ChatResponse:
            if method == "chat":
                with ThreadPoolExecutor(1) as pool:
                    return pool.submit(lambda: asyncio.run(self.achat(messages, **kwargs))).result()
            self.asked.append("once")
            return ChatResponse(message=ChatMessage(content="hi"))

        async def achat(self, messages: Any, **kwargs: Any) -> ChatResponse:
            if method == "achat":
                return await asyncio.get_running_loop().run_in_executor(None, lambda: self.chat(messages, **kwargs))
            self.asked.append("once")
            return ChatResponse(message=ChatMessage(content="hi"))

    cache = TieredCache("memory://", policy=Policy(max_wait=3600))
    llm = cached(Twin(asked=[]), cache)
    for _ in range(2):
        answer = llm.chat(MESSAGES) if method == "chat" else asyncio.run(llm.achat(MESSAGES))
        assert answer.message.content == "hi"
    assert llm.asked == ["once"]
    assert (cache.stats().stored, cache.stats().lookups) == (1, 2)


def test_what_a_call_leaves_behind_is_cached_as_others_are(cache: TieredCache) -> None:
    """A task that the model has begun goes on when the call is over: what is asked there by the cached one is no part of the call."""
    later: list[asyncio.Task[ChatResponse]] = []

    class Busy(Slow):
        async def achat(self, messages: Any, **kwargs: Any) -> ChatResponse:
            self.asked.append("chat")
            if not later:
                later.append(asyncio.create_task(llm.achat([ChatMessage(content="later")])))
            return ChatResponse(message=ChatMessage(content="hi"))

    llm = cached(Busy(asked=[]), cache, key_extra="busy")  # its code uses an object, itself

    async def main() -> None:
        await llm.achat(MESSAGES)
        await later[0]
        await llm.achat([ChatMessage(content="later")])

    asyncio.run(main())
    assert llm.asked == ["chat", "chat"]
    assert cache.stats().stored == 2


def test_what_an_llm_remembers_while_it_is_asked_stays(cache: TieredCache) -> None:
    """Fields, private ones, and what it makes anew by validating: the provider changes the LLM that the caller has."""

    class Counting(Slow):
        calls: int = Field(default=0, exclude=True)
        _bare: list[str] | None = PrivateAttr(default=None)

        def chat(self, messages: Any, **kwargs: Any) -> ChatResponse:
            self.calls += 1
            self._bare = ["seen"]
            return ChatResponse(message=ChatMessage(content="hi"))

    class Checked(Counting):
        model_config = {"validate_assignment": True}

    for kind in (Counting, Checked):
        llm = cached(kind(), cache, key_extra=kind.__name__)
        llm.chat(MESSAGES)
        assert (llm.calls, llm._bare) == (1, ["seen"])


def test_an_llm_that_closes_its_client_when_it_goes_keeps_it(cache: TieredCache) -> None:
    """What it was made of, and what is asked in its place, live as long; its copies have their own state."""
    closed: list[str] = []

    class Closing(Slow):
        def __del__(self) -> None:
            closed.append("")

        def chat(self, messages: Any, **kwargs: Any) -> ChatResponse:
            self.asked.append(str(messages[0].content))
            return ChatResponse(message=ChatMessage(content=f"{self.model_name}, closed {len(closed)} times"))

    llm = cached(Closing(asked=[]), cache)
    copies = [llm.model_copy(update={"model_name": "other"}), copy.deepcopy(llm)]
    for each in (llm, *copies, llm):
        for number in range(2):
            each.chat([ChatMessage(content=f"{each.model_name} {number}")])
        gc.collect()
        assert closed == []
    assert llm.chat([ChatMessage(content="again")]).message.content == "slow, closed 0 times"
    assert copies[0].chat([ChatMessage(content="again")]).message.content == "other, closed 0 times"
    assert copies[1] == copies[1].model_copy()


def test_streams_are_shared(world: World, cache: TieredCache) -> None:
    """Equal ones, while they come; each reader has chunks of its own."""
    llm = cached(slow(seconds=0.02), cache)
    if world.name == "threads":
        with ThreadPoolExecutor(4) as pool:
            found = [*pool.map(lambda _: list(llm.stream_complete("q")), range(4))]
    else:

        async def one() -> list[Any]:
            return [chunk async for chunk in await llm.astream_complete("q")]

        async def main() -> list[Any]:
            return await asyncio.gather(*(one() for _ in range(4)))

        found = world.loop.run_until_complete(main())

    assert [[chunk.delta for chunk in chunks] for chunks in found] == [["one ", "two ", "three"]] * 4
    assert len({id(chunk) for chunks in found for chunk in chunks}) == 12
    assert llm.asked == ["q"]
    assert cache.stats().stored == 1


def test_what_is_closed_early_is_not_stored(world: World, cache: TieredCache) -> None:
    """The provider's stream is closed with it, and the next one begins anew."""
    llm = cached(slow(), cache)
    if world.name == "threads":
        chunks = llm.stream_complete("q")
        assert next(chunks).delta == "one "
        chunks.close()
    else:

        async def main() -> None:
            chunks = await llm.astream_complete("q")
            assert (await anext(chunks)).delta == "one "
            await chunks.aclose()

        world.loop.run_until_complete(main())
    assert llm.closed == ["one "]
    assert cache.stats().stored == 0
    assert stream(world, llm, "stream_complete", "q")[-1].text == "one two three"
    assert cache.stats().stored == 1


def test_what_fails_is_not_stored(world: World, cache: TieredCache, bare: OpenAI, server: OpenAIServer) -> None:
    """Errors of the provider pass as they are."""
    llm = cached(slow(), cache)
    llm.fails_at.append(1)
    for _ in range(2):
        with pytest.raises(OSError):
            world.call(llm, "complete", "q")
        with pytest.raises(OSError):
            stream(world, llm, "stream_complete", "q")
    assert cache.stats().stored == 0
    server.fail(1, 400)
    with pytest.raises(openai.BadRequestError):
        world.call(cached(bare, cache), "chat", MESSAGES)


def test_streams_that_come_to_nothing_are_not_stored(cache: TieredCache) -> None:
    """Nor is an answer that says nothing."""
    llm = cached(MockLLMWithNonyieldingChatStream(), cache)
    assert list(llm.stream_chat(MESSAGES)) == []
    assert llm.complete("").text == ""
    assert cache.stats().stored == 0


def test_what_changes_before_it_is_asked_is_not_stored(cache: TieredCache, bare: OpenAI, server: OpenAIServer) -> None:
    """A stream may begin long after it was asked for."""
    llm = cached(bare, cache)
    message = ChatMessage("why?")
    history = [message]
    first, second = llm.stream_chat(history), llm.stream_chat(history)
    history.append(ChatMessage("and how?"))
    assert [*first][-1].message.content == "You asked: why?"
    assert cache.stats().stored == 1
    assert [*second][-1].message.content == "You asked: why?"
    assert server.calls == 1

    third = llm.stream_chat([message], top_p=0.5)
    message.blocks[0].text = "what?"
    assert [*third][-1].message.content == "You asked: what?"
    assert cache.stats().stored == 1
    fourth = llm.stream_chat(MESSAGES, top_p=0.7)
    llm.temperature = 0.7
    assert len([*fourth]) > 1
    assert cache.stats().stored == 1


def test_chat_and_its_streams_share_answers(world: World, bare: OpenAI, cache: TieredCache, server: OpenAIServer) -> None:
    """But for what the provider's client had returned, which is another thing."""
    llm = cached(bare, cache)
    whole = world.call(llm, "chat", MESSAGES)
    chunks = stream(world, llm, "stream_chat", MESSAGES)
    assert [chunk.delta for chunk in chunks] == ["You", " asked:", " why?"]
    assert [chunk.message.content for chunk in chunks] == ["You", "You asked:", "You asked: why?"]
    assert chunks[-1].message == whole.message
    assert chunks[-1].raw is None

    pieces = stream(world, llm, "stream_complete", "q")
    answer = world.call(llm, "complete", "q")
    assert answer.text == pieces[-1].text
    assert answer.raw is None
    assert server.calls == 2

    apart = cached(bare, cache, share_stream=False)
    for _ in range(2):
        world.call(apart, "chat", MESSAGES)
        assert [chunk.delta for chunk in stream(world, apart, "stream_chat", MESSAGES)] == ["", "You aske", "d: why?", ""]
    assert server.calls == 3


def test_streams_that_do_not_add_up_are_for_streams_alone(cache: TieredCache) -> None:
    """MockLLM's last piece lacks a word that its pieces have."""
    llm = cached(MockLLM(max_tokens=3), cache)
    bare = [*MockLLM(max_tokens=3).stream_complete("q")]
    for _ in range(2):
        chunks = [*llm.stream_complete("q")]
        assert [chunk.delta for chunk in chunks] == [chunk.delta for chunk in bare]
        assert chunks[-1] == bare[-1]
    assert llm.complete("q").text == "text text text"
    assert llm.complete("q").text == "text text text"


@pytest.mark.parametrize(("replay", "deltas"), [("chunks", ["one ", "two ", "three"]), ("single", ["one two three"])])
def test_how_answers_are_streamed(replay: Any, deltas: list[str], world: World, cache: TieredCache) -> None:
    """In the pieces in which they came, or in one."""
    stream(world, cached(slow(), cache), "stream_complete", "q")
    llm = cached(slow(), cache, replay=replay)

    assert [chunk.delta for chunk in stream(world, llm, "stream_complete", "q")] == deltas
    assert llm.asked == []


@pytest.mark.parametrize("raw", ["model", "dict", "drop"])
def test_what_the_client_had_returned(raw: Any, bare: OpenAI, cache: TieredCache) -> None:
    """Comes back as it was, as plain data, or not at all."""
    llm = cached(bare, cache, raw=raw)
    first, again = llm.chat(MESSAGES), llm.chat(MESSAGES)
    expected = {"model": first.raw, "dict": first.raw.model_dump(), "drop": None}[raw]

    assert again.raw == expected
    assert again.message == first.message


def test_who_wants_what_the_client_had_returned_as_another_thing_asks_again(bare: OpenAI, cache: TieredCache, server: OpenAIServer) -> None:
    """Nobody gets the dictionary that another one has stored where he expects an object."""
    first = cached(bare, cache, raw="dict").chat(MESSAGES)

    for _ in range(2):
        assert type(cached(bare, cache).chat(MESSAGES).raw) is type(first.raw)
    assert server.calls == 2


# --- when things go wrong


def test_a_tier_that_is_down_costs_no_answer(world: World) -> None:
    """Nor does one that holds nonsense."""
    tier = FakeAuthority()
    with TieredCache("memory://", tier) as cache:
        llm = cached(slow(), cache)
        tier.broken = True
        assert world.call(llm, "complete", "q").text == "one two three"
        assert stream(world, llm, "stream_complete", "r")[-1].text == "one two three"
        tier.broken = False  # lest the end of the cache waits for it


def test_what_cannot_be_read_is_asked_again(world: World, cache: TieredCache, events: list[Event]) -> None:
    """And is replaced."""
    llm = cached(slow(), cache)
    world.call(llm, "complete", "q")
    request = llm.__dict__[OWN].request(Question(llm, "completion", "q", {}), NO_OPTIONS)
    for nonsense in (b"", b"\x93\x01\x02\x03", b"nonsense"):
        cache.set(request, nonsense)
        assert world.call(llm, "complete", "q").text == "one two three"
        cache.set(request, nonsense)
        assert stream(world, llm, "stream_complete", "q")[-1].text == "one two three"
    assert kinds(events).count("undecodable") >= 6
    assert len(llm.asked) == 7


def test_an_answer_that_cannot_be_kept_is_given(
    world: World, cache: TieredCache, events: list[Event], caplog: pytest.LogCaptureFixture
) -> None:
    """And a warning says once what to do."""

    class Odd(Slow):
        @llm_completion_callback()
        def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
            return CompletionResponse(text="secret answer", additional_kwargs={"a": threading.Lock()})

        @llm_completion_callback()
        async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
            return self.complete(prompt)

    llm = cached(Odd(), cache)
    for _ in range(2):
        assert world.call(llm, "complete", "q").text == "secret answer"
    assert kinds(events).count("not_stored") == 2
    assert len(caplog.records) == 1
    assert "secret" not in caplog.text


def test_a_model_that_changes_its_own_settings_warns(world: World, cache: TieredCache, caplog: pytest.LogCaptureFixture) -> None:
    class Counting(Slow):
        _calls: int = PrivateAttr(default=0)

        @llm_completion_callback()
        def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
            self._calls += 1
            return CompletionResponse(text="one")

        @llm_completion_callback()
        async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
            return self.complete(prompt)

    llm = cached(Counting(), cache)
    for _ in range(3):
        world.call(llm, "complete", "q")
    warnings = [record.getMessage() for record in caplog.records if record.name == "layered_cache"]
    assert [warning.partition(",")[0] for warning in warnings] == ["a setting of Counting changed during a call"]


class Song(BaseModel):
    title: str


class Direct(Slow):
    """A class that sends structured predictions with its client, and not by `chat`."""

    def structured_predict(self, *args: Any, **kwargs: Any) -> Any:
        return Song(title="a")

    async def astructured_predict(self, *args: Any, **kwargs: Any) -> Any:
        return Song(title="a")

    def stream_structured_predict(self, *args: Any, **kwargs: Any) -> Any:
        yield Song(title="a")

    async def astream_structured_predict(self, *args: Any, **kwargs: Any) -> Any:
        async def pieces() -> AsyncIterator[Song]:
            yield Song(title="a")

        return pieces()


@pytest.mark.parametrize("streams", [False, True])
def test_a_structured_prediction_past_the_cache_warns(
    world: World, cache: TieredCache, caplog: pytest.LogCaptureFixture, streams: bool
) -> None:
    method = "stream_structured_predict" if streams else "structured_predict"

    def predict(llm: LLM) -> list[str]:
        if streams:
            return [song.title for song in stream(world, llm, method, Song, PromptTemplate("q"))]
        return [world.call(llm, method, Song, PromptTemplate("q")).title]

    assert predict(cached(Direct(), cache)) == ["a"]
    assert predict(Direct()) == ["a"]
    (record,) = [record for record in caplog.records if record.name == "layered_cache"]
    assert f"{method} of Direct is not cached" in record.getMessage()


def test_a_structured_prediction_by_chat_does_not_warn(
    world: World, cache: TieredCache, bare: OpenAI, caplog: pytest.LogCaptureFixture
) -> None:
    llm = cached(bare, cache)
    for _ in range(2):
        with suppress(Exception):  # the local model does not know the schema
            world.call(llm, "structured_predict", Song, PromptTemplate("q"))
    assert "structured_predict" not in caplog.text


@pytest.mark.parametrize("raw", ["model", "dict", "drop"])
def test_a_raw_that_cannot_be_kept_is_left_out(world: World, cache: TieredCache, caplog: pytest.LogCaptureFixture, raw: Raw) -> None:
    """The answer is kept, and one warning names the class."""

    class Odd(Slow):
        @llm_completion_callback()
        def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
            return CompletionResponse(text="secret answer", raw={"tokens": threading.Lock()})

        @llm_completion_callback()
        async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
            return self.complete(prompt)

    llm = cached(Odd(), cache, raw=raw)
    found = [world.call(llm, "complete", prompt) for prompt in ("a", "b", "a", "b")]
    assert cache.stats().hits == 2
    assert [response.text for response in found] == ["secret answer"] * 4
    assert [response.raw for response in found[2:]] == [None, None]
    warnings = [record.getMessage() for record in caplog.records if record.name == "layered_cache"]
    assert len(warnings) == (raw != "drop")
    assert "secret" not in caplog.text
    if raw != "drop":
        assert "lock" in warnings[0]


def test_a_stream_that_cannot_be_copied_is_given(world: World, cache: TieredCache, events: list[Event]) -> None:
    """As it is; it is not kept."""

    class Odd(Slow):
        @llm_completion_callback()
        def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Iterator[CompletionResponse]:
            yield CompletionResponse(text="a", delta="a", raw=threading.Lock(), additional_kwargs={"lock": threading.Lock()})

        @llm_completion_callback()
        async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> AsyncIterator[CompletionResponse]:
            async def pieces() -> AsyncIterator[CompletionResponse]:
                yield CompletionResponse(text="a", delta="a", raw=threading.Lock(), additional_kwargs={"lock": threading.Lock()})

            return pieces()

    llm = cached(Odd(), cache)
    for _ in range(2):
        assert [chunk.text for chunk in stream(world, llm, "stream_complete", "q")] == ["a"]
    assert kinds(events).count("not_stored") == 2


def test_old_answers_are_given_while_new_ones_are_made(world: World, clock: FakeClock) -> None:
    """In the background, once; and when the provider fails, until they are too old."""
    with TieredCache("memory://", policy=Policy(keep_for=100, fresh_for=10), clock=clock) as cache:
        llm = cached(slow(), cache)
        world.call(llm, "complete", "q")
        clock.advance(20)
        assert world.call(llm, "complete", "q").text == "one two three"
        deadline = time.monotonic() + 5
        while (len(llm.asked) < 2 or cache.stats().stored < 2) and time.monotonic() < deadline:
            if world.name == "tasks":
                world.loop.run_until_complete(asyncio.sleep(0.01))
            else:
                time.sleep(0.01)
        assert len(llm.asked) == 2
        assert cache.stats().stored == 2

        clock.advance(20)
        llm.fails_at.append(0)
        assert world.call(llm, "complete", "q").text == "one two three"
        clock.advance(100)
        with pytest.raises(OSError):
            world.call(llm, "complete", "q")


def test_what_was_removed_is_asked_again(bare: OpenAI, cache: TieredCache, server: OpenAIServer) -> None:
    """By what the user said last, by the model, by a tag."""
    llm = cached(bare, cache, tags=["faq"])
    before = [ChatMessage(role="system", content="be brief"), ChatMessage("first"), ChatMessage(role="assistant", content="a")]
    asked = [*before, ChatMessage("why?")]
    for criteria in ({"prompt": "why?"}, {"model": "gpt-4o*"}, {"tag": "faq"}):
        llm.chat(asked)
        llm.chat(asked)
        cache.invalidate(**criteria)
    assert server.calls == 3
    llm.complete("what?")
    cache.invalidate(prompt="what?")
    llm.complete("what?")
    assert server.calls == 5


def test_what_is_known_of_an_answer(bare: OpenAI, cache: TieredCache) -> None:
    """Its tokens, its price, its model, why it ended, and what a person reads."""
    llm = cached(bare, cache)
    llm.chat(MESSAGES)
    llm.chat(MESSAGES)
    (entry,) = cache.entries()
    assert cache.stats().saved_usd > 0
    assert cache.stats().saved_tokens > 0
    assert (entry.model, entry.finish, entry.usage is not None, entry.cost_usd is not None) == ("gpt-4o-mini", "stop", True, True)


def test_an_answer_that_was_cut_where_the_caller_wanted_it_is_kept(cache: TieredCache) -> None:
    """Any other is half an answer."""

    class Cut(Slow):
        max_tokens: int | None = None
        additional_kwargs: dict[str, Any] = {}

        @llm_completion_callback()
        def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
            return CompletionResponse(text="half", raw={"finish_reason": "length"})

    cached(Cut(), cache).complete("q")
    assert cache.stats().stored == 0
    cached(Cut(max_tokens=5), cache).complete("q")
    cached(Cut(additional_kwargs={"max_tokens": 5}), cache).complete("q")
    cached(Cut(), cache).complete("q", max_tokens=5)
    assert cache.stats().stored == 3


# --- events


class Heard(BaseEventHandler):
    """What the instrumentation tells."""

    events: list[Any] = Field(default_factory=list)

    def handle(self, event: BaseEvent, **_: Any) -> None:
        self.events.append(event)


@pytest.fixture
def heard() -> Iterator[tuple[Heard, SimpleSpanHandler]]:
    root = get_dispatcher()
    before = (root.event_handlers, root.span_handlers)
    handler, spans = Heard(), SimpleSpanHandler()
    root.event_handlers, root.span_handlers = [*before[0], handler], [*before[1], spans]
    yield handler, spans
    root.event_handlers, root.span_handlers = before


def told(handler: Heard) -> list[tuple[str, Any]]:
    found = [(event.class_name().removeprefix("LLM"), event.tags.get("layered_cache")) for event in handler.events]
    handler.events.clear()
    return [one for one in found if "InProgress" not in one[0] and one[0].startswith(("Chat", "Completion"))]


@pytest.mark.parametrize("way", ["chat", "complete", "stream_chat", "stream_complete"])
def test_hits_are_told_of(way: str, world: World, bare: OpenAI, cache: TieredCache, heard: tuple[Heard, SimpleSpanHandler]) -> None:
    """As calls are, with a tag; where nobody listens or wants to, nothing is made."""
    handler, spans = heard
    llm, asked = cached(bare, cache), MESSAGES if "chat" in way else "q"

    def ask(llm: LLM) -> None:
        if "stream" in way:
            stream(world, llm, way, asked)
        else:
            world.call(llm, way, asked)

    ask(llm)
    kind = "Chat" if "chat" in way else "Completion"
    assert told(handler) == [(f"{kind}StartEvent", None), (f"{kind}EndEvent", None)]
    ask(llm)
    event = handler.events[-1]
    assert told(handler) == [(f"{kind}StartEvent", "hit"), (f"{kind}EndEvent", "hit")]
    assert isinstance(event.response, ChatResponse | CompletionResponse)
    assert event.span_id.startswith(f"OpenAI.{'a' if world.name == 'tasks' else ''}{way}-")
    assert len([span for span in spans.completed_spans if span.id_ == event.span_id]) == 1
    assert spans.open_spans == {}
    assert "sk-none" not in repr(handler.events)

    ask(cached(bare, cache, emit_events=False))
    assert told(handler) == []


def test_token_counters_count_what_was_paid(world: World, bare: OpenAI, cache: TieredCache) -> None:
    """Unless they are told to count hits too."""
    counter, debug = TokenCountingHandler(tokenizer=str.split), LlamaDebugHandler(print_trace_on_end=False)
    bare.callback_manager = CallbackManager([counter, debug])
    llm = cached(bare, cache)
    world.call(llm, "chat", MESSAGES)
    paid = counter.total_llm_token_count
    assert paid > 0
    world.call(llm, "chat", MESSAGES)
    stream(world, llm, "stream_chat", MESSAGES)
    assert counter.total_llm_token_count == paid
    assert len(debug.get_event_pairs(CBEventType.LLM)) == 1

    loud = cached(bare, cache, emit_events=True)
    world.call(loud, "chat", MESSAGES)
    assert counter.total_llm_token_count == 2 * paid
    stream(world, loud, "stream_chat", MESSAGES)
    assert len(debug.get_event_pairs(CBEventType.LLM)) == 3


@pytest.mark.parametrize("way", ["stream_chat", "stream_complete"])
def test_a_hit_that_is_closed_early_ends_for_handlers_too(
    way: str, world: World, bare: OpenAI, cache: TieredCache, heard: tuple[Heard, SimpleSpanHandler]
) -> None:
    """As a stream of the model does: by the exception that ended it."""
    debug = LlamaDebugHandler(print_trace_on_end=False)
    llm = cached(bare, cache, emit_events=True)
    content = MESSAGES if way == "stream_chat" else "why?"
    stream(world, llm, way, content)
    llm.callback_manager = CallbackManager([debug])
    handler, spans = heard
    handler.events.clear()

    if world.name == "threads":
        chunks = getattr(llm, way)(content)
        next(chunks)
        chunks.close()
    else:

        async def main() -> None:
            chunks = await getattr(llm, "a" + way)(content)
            await anext(chunks)
            await chunks.aclose()

        world.loop.run_until_complete(main())

    assert spans.open_spans == {}
    assert isinstance(handler.events[-1], ExceptionEvent)
    assert handler.events[-1].tags == {"layered_cache": "hit"}
    assert len(debug.get_event_pairs(CBEventType.LLM)) == 1


def test_a_handler_that_fails_costs_no_answer(bare: OpenAI, cache: TieredCache, events: list[Event]) -> None:
    """It is counted."""

    class Failing(LlamaDebugHandler):
        def on_event_start(self, *_: Any, **__: Any) -> str:
            raise OSError

    llm = cached(bare, cache, emit_events=True)
    llm.chat(MESSAGES)
    llm.callback_manager = CallbackManager([Failing(print_trace_on_end=False)])
    assert llm.chat(MESSAGES).message.content == "You asked: why?"
    assert kinds(events)[-1] == "adapter_failed"


def test_hits_do_not_ask_the_rate_limiter(world: World, bare: OpenAI, cache: TieredCache) -> None:
    """It is for those who ask the provider."""
    limiters = pytest.importorskip("llama_index.core.rate_limiter", reason="newer than the lowest release that is promised")
    bare.rate_limiter = limiters.TokenBucketRateLimiter(requests_per_minute=1)
    llm = cached(bare, cache)
    for _ in range(5):  # it would take minutes
        world.call(llm, "chat", MESSAGES)
        stream(world, llm, "stream_chat", MESSAGES)


# --- beside LangChain


def test_one_engine_serves_both(world: World, bare: OpenAI, cache: TieredCache, server: OpenAIServer) -> None:
    """With one set of numbers; no key of one is a key of the other."""
    from langchain_core.globals import set_llm_cache
    from langchain_openai import ChatOpenAI

    set_llm_cache(LayeredCache(cache=cache))
    try:
        theirs = ChatOpenAI(model="gpt-4o-mini", base_url=server.url, api_key="none", temperature=0.1)
        llm = cached(bare, LayeredCache(cache=cache))  # type: ignore
        for _ in range(2):
            assert world.call(theirs, "invoke", "why?").content == "You asked: why?"
            assert world.call(llm, "chat", MESSAGES).message.content == "You asked: why?"
    finally:
        set_llm_cache(None)

    assert server.calls == 2
    stats = cache.stats()
    assert (stats.hits, stats.misses, stats.stored) == (2, 2, 2)
    assert len({entry.key for entry in cache.entries()}) == 2
