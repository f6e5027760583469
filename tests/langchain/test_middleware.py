"""Agents: with the middleware, with `set_llm_cache` alone, with both; real agents, a real client, a server that counts.

Where something must not wait, `Policy.max_wait` is an hour, so that whoever does hangs the test.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import functools
import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from typing import Annotated, Any

import httpx
import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, types
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain.tools import ToolRuntime
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import BaseChatModel, FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, InjectedToolArg, StructuredTool, Tool, tool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.prebuilt import InjectedState
from langgraph.types import Command, interrupt
from layered_cache import (
    CacheMiss,
    ConfigurationError,
    Event,
    Policy,
    TenantRequiredError,
    TieredCache,
    cache_options,
)
from layered_cache.testing import FakeClock, OpenAIServer
from openai import APIError
from pydantic import BaseModel, Field, PrivateAttr, create_model
from support.sync_async import Threads, World

from langchain_layered_cache import LayeredCache, LayeredCacheMiddleware, cached, usage_callback
from langchain_layered_cache._agents.model_proxy import ModelAsker, stand_in

HOUR = Policy(max_wait=3600)
QUESTION: dict[str, Any] = {"messages": [HumanMessage("how far is it?")]}


@pytest.fixture
def cache(events: list[Event]) -> Iterator[LayeredCache]:
    with TieredCache("memory://", policy=HOUR, observers=[events.append]) as engine:
        yield LayeredCache(cache=engine)


@pytest.fixture
def globally(cache: LayeredCache) -> Iterator[LayeredCache]:
    """The same cache, asked by all models."""
    set_llm_cache(cache)
    yield cache
    set_llm_cache(None)


@pytest.fixture(params=["middleware", "globally", "both"])
def middleware(request: pytest.FixtureRequest, cache: LayeredCache) -> Iterator[list[Any]]:
    """What an agent is given, in each of the ways in which it may have a cache."""
    if request.param != "middleware":
        set_llm_cache(cache)
    yield [] if request.param == "globally" else [LayeredCacheMiddleware(cache)]
    set_llm_cache(None)


def next_step(body: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """Call the tool three times, once after the other."""
    done = sum(message["role"] == "tool" for message in body["messages"])
    return ("step", {"number": done}) if done < 3 else None


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[OpenAIServer, OpenAIServer]]:
    """Of all tests here."""
    with OpenAIServer() as server, OpenAIServer(calls_tool=next_step) as steps:
        yield server, steps


@pytest.fixture
def server(servers: tuple[OpenAIServer, OpenAIServer]) -> OpenAIServer:
    servers[0].reset()
    return servers[0]


@pytest.fixture
def steps(servers: tuple[OpenAIServer, OpenAIServer]) -> OpenAIServer:
    """For agents of four steps."""
    servers[1].reset()
    return servers[1]


def model_of(server: OpenAIServer, **options: Any) -> ChatOpenAI:
    """Return a real client. To read the certificates, which each new address has it do, takes longer than most tests here."""
    clients = {"http_client": httpx.Client(verify=False), "http_async_client": httpx.AsyncClient(verify=False)}
    return ChatOpenAI(**{"model": "gpt-4o-mini", "base_url": server.url, "api_key": "none", "max_retries": 0, **clients, **options})


@tool
def step(number: int) -> str:
    """Go a step."""
    return f"{number + 1} done"


def texts(state: Any) -> list[Any]:
    return [message.content for message in state["messages"]]


def counts(server: OpenAIServer, call: Callable[[], Any], times: int) -> list[int]:
    """Return how many requests *call* makes each time."""
    made: list[int] = []
    for _ in range(times):
        server.reset()
        call()
        made.append(server.calls)
    return made


# --- several steps


def test_an_agent_of_four_steps_asks_once_for_each(world: World, middleware: list[Any], steps: OpenAIServer) -> None:
    """And never again: neither ids of tool calls nor counts of tokens, which stand in the history, make it another one."""
    agent = create_agent(model_of(steps), [step], middleware=middleware)

    assert counts(steps, lambda: world.call(agent, "invoke", QUESTION), 3) == [4, 0, 0]


def test_it_is_the_same_agent_after_an_upgrade(
    world: World, middleware: list[Any], steps: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A release of langchain-openai that has new parameters, which are null, writes another text."""
    agent = create_agent(model_of(steps), [step], middleware=middleware)
    plain = ChatOpenAI._get_llm_string

    def upgraded(self: Any, stop: Any = None, **kwargs: Any) -> str:
        head, dashes, call = plain(self, stop=stop, **kwargs).partition("---")
        written = json.loads(head)
        written["kwargs"] |= {"output_version": None, "brand_new": None}
        return json.dumps(written) + dashes + call

    assert counts(steps, lambda: world.call(agent, "invoke", QUESTION), 1) == [4]
    monkeypatch.setattr(ChatOpenAI, "_get_llm_string", upgraded)
    assert counts(steps, lambda: world.call(agent, "invoke", QUESTION), 2) == [0, 0]


def test_after_the_first_steps_answer_is_gone_one_request_is_enough(
    world: World, middleware: list[Any], cache: LayeredCache, steps: OpenAIServer
) -> None:
    """Its new answer draws other ids of tool calls, which the later steps do not mind."""
    agent = create_agent(model_of(steps), [step], middleware=middleware)
    world.call(agent, "invoke", QUESTION)
    first = min(cache.engine.entries(), key=lambda entry: entry.created_at)
    cache.engine.delete(first.key)

    assert counts(steps, lambda: world.call(agent, "invoke", QUESTION), 2) == [1, 0]


def test_both_together_store_each_answer_once(globally: LayeredCache, steps: OpenAIServer) -> None:
    """The cache of all models is not asked by a middleware's, so that nothing is kept for longer than the middleware says."""
    agent = create_agent(model_of(steps), [step], middleware=[LayeredCacheMiddleware(globally, ttl=60)])
    agent.invoke(QUESTION)

    assert globally.stats().stored == len(list(globally.engine.entries())) == 4
    assert {round(entry.keep_until - entry.created_at, -1) for entry in globally.engine.entries()} == {60}


def test_a_wrapped_model_is_a_model(world: World, cache: LayeredCache, steps: OpenAIServer) -> None:
    """Its answers are the same ones, and its streams go through the cache as before."""
    model = cached(model_of(steps), cache)
    agent = create_agent(model, [step], middleware=[LayeredCacheMiddleware(cache)])
    plain = create_agent(model, [step])

    assert counts(steps, lambda: world.call(agent, "invoke", QUESTION), 2) == [4, 0]
    assert counts(steps, lambda: world.call(plain, "invoke", QUESTION), 1) == [0]
    assert counts(steps, lambda: list(agent.stream(QUESTION, stream_mode="messages")), 1) == [0]
    assert cache.stats().stored == 4


def test_what_a_model_was_asked_directly_an_agent_need_not_ask(world: World, globally: LayeredCache, server: OpenAIServer) -> None:
    """And the other way round: they share their answers."""
    model = model_of(server)
    agent = create_agent(model, middleware=[LayeredCacheMiddleware(globally)])

    model.invoke("one")
    world.call(agent, "invoke", {"messages": [HumanMessage("one")]})
    world.call(agent, "invoke", {"messages": [HumanMessage("two")]})
    answers = model.generate([[HumanMessage("two")]])

    assert server.calls == 2
    assert answers.generations[0][0].generation_info == {"finish_reason": "stop", "logprobs": None}


# --- one request


@pytest.mark.parametrize("way", ["threads", "tasks"])
async def test_twenty_agents_ask_once(way: str, middleware: list[Any]) -> None:
    with OpenAIServer(latency=0.3) as server:

        def agent() -> Any:
            return create_agent(model_of(server), middleware=middleware)

        if way == "tasks":
            states = await asyncio.gather(*(agent().ainvoke(QUESTION) for _ in range(20)))
        else:
            barrier = threading.Barrier(20)

            def one(_: int) -> Any:
                mine = agent()
                barrier.wait()
                return mine.invoke(QUESTION)

            with ThreadPoolExecutor(20) as pool:
                states = await asyncio.to_thread(lambda: list(pool.map(one, range(20))))

        assert server.calls == 1
        assert len({state["messages"][-1].id for state in states}) == 20
        assert {state["messages"][-1].content for state in states} == {"You asked: how far is it?"}


class Failing(BaseChatModel):
    """Fails the one who asks first, when others wait for him; these can ask only all at once."""

    lock: Any = Field(default_factory=threading.Lock)
    barrier: Any = Field(default_factory=lambda: threading.Barrier(9))
    calls: int = 0
    is_down: bool = False
    meanwhile: Callable[[], object] = lambda: None

    @property
    def _llm_type(self) -> str:
        return "failing"

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        with self.lock:
            self.calls += 1
            number = self.calls
        if number == 1:
            time.sleep(0.3)
        else:
            self.barrier.wait(10)
            self.meanwhile()
        if number == 1 or self.is_down:
            msg = f"of call {number}"
            raise PermissionError(msg)
        return ChatResult(generations=[ChatGeneration(message=AIMessage("fine"))])


def together(world: World, agent: Any) -> list[Any]:
    """Return what ten who ask the same at once get, errors too."""

    def one() -> Any:
        try:
            return agent.invoke(QUESTION)
        except PermissionError as error:
            return error

    async def tasks() -> list[Any]:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(10))  # where models without coroutines run
        return await asyncio.gather(*(agent.ainvoke(QUESTION) for _ in range(10)), return_exceptions=True)

    if world.name == "tasks":
        return asyncio.run(tasks())
    with ThreadPoolExecutor(10) as pool:
        return list(pool.map(lambda _: one(), range(10)))


def test_an_error_is_its_callers_alone(world: World, cache: LayeredCache) -> None:
    """It may be about his key, or his time. Those who have waited for him ask too, all at once, and get what they would have got."""
    model = Failing()
    outcomes = together(world, create_agent(model, middleware=[LayeredCacheMiddleware(cache)]))

    assert model.calls == 10
    assert sorted(texts(outcome)[-1] if isinstance(outcome, dict) else str(outcome) for outcome in outcomes) == ["fine"] * 9 + ["of call 1"]
    assert cache.stats().stored >= 1


def test_of_a_model_that_is_down_everybody_gets_an_error_of_his_own(world: World, cache: LayeredCache) -> None:
    """Each asks once, and none of them waits for another one again."""
    model = Failing(is_down=True)
    errors = together(world, create_agent(model, middleware=[LayeredCacheMiddleware(cache)]))

    assert sorted(map(str, errors)) == sorted(f"of call {number}" for number in range(1, 11))
    assert {type(error) for error in errors} == {PermissionError}


def test_what_is_asked_after_another_ones_error_and_before_a_removal_is_not_kept(world: World, cache: LayeredCache) -> None:
    model = Failing(meanwhile=cache.clear)
    together(world, create_agent(model, middleware=[LayeredCacheMiddleware(cache)]))

    assert list(cache.engine.entries()) == []


async def test_an_error_of_a_tool_is_its_callers_alone(cache: LayeredCache, server: OpenAIServer) -> None:
    """As one of a model is."""
    barrier, runs = asyncio.Barrier(9), 0

    async def body(city: str) -> str:
        """Look."""
        nonlocal runs
        runs += 1
        if runs == 1:
            await asyncio.sleep(0.3)
            msg = "his connection is closed"
            raise LookupError(msg)
        async with asyncio.timeout(10):
            await barrier.wait()
        return "seen"

    look = StructuredTool.from_function(coroutine=body, name="look", metadata={"cache_key": "1"})
    agent = create_agent(model_of(server), [look], middleware=[LayeredCacheMiddleware(cache, tools=["look"])])
    outcomes = await asyncio.gather(*(agent.ainvoke(QUESTION) for _ in range(10)), return_exceptions=True)

    assert runs == 10
    assert sum(isinstance(outcome, LookupError) for outcome in outcomes) == 1
    assert {texts(outcome)[2] for outcome in outcomes if isinstance(outcome, dict)} == {"seen"}


async def test_a_leader_that_is_cancelled_hands_over(cache: LayeredCache) -> None:
    with OpenAIServer(latency=0.3) as server:
        agent = create_agent(model_of(server), middleware=[LayeredCacheMiddleware(cache)])
        leader = asyncio.create_task(agent.ainvoke(QUESTION))
        await asyncio.sleep(0.1)
        others = [asyncio.create_task(agent.ainvoke(QUESTION)) for _ in range(5)]
        await asyncio.sleep(0.05)
        leader.cancel()

        assert len(await asyncio.gather(*others)) == 5
        assert server.calls == 2


def test_an_agent_that_is_a_tool_of_another_waits_for_nobody(cache: LayeredCache, server: OpenAIServer) -> None:
    """Its tool is kept too: the inner model is asked from inside the outer tool's computation."""
    middleware = [LayeredCacheMiddleware(cache, tools=["ask"])]
    inner = create_agent(model_of(server), middleware=middleware)

    @versioned
    @tool
    def ask(question: str) -> str:
        """Ask somebody else."""
        return inner.invoke({"messages": [HumanMessage(question)]})["messages"][-1].content

    outer = create_agent(model_of(server), [ask], middleware=middleware)
    with ThreadPoolExecutor(8) as pool:
        states = list(pool.map(lambda _: outer.invoke(QUESTION), range(8)))

    assert {texts(state)[-1] for state in states} == {"You asked: You asked: text"}
    assert server.calls == 3


# --- what a hit is


def test_agents_see_nothing_of_each_other(world: World, cache: LayeredCache, server: OpenAIServer) -> None:
    """Neither names, nor what one of them does to its messages."""
    middleware = [LayeredCacheMiddleware(cache)]
    asked = {"messages": [HumanMessage("the step?")]}
    agents = {name: create_agent(model_of(server), [step], middleware=middleware, name=name) for name in ("alice", "bob", None)}

    for _ in range(2):
        for name, agent in agents.items():
            messages = world.call(agent, "invoke", asked)["messages"]
            assert [message.name for message in messages if isinstance(message, AIMessage)] == [name] * 2
            assert "poison" not in str(messages)
            messages[1].tool_calls[0]["args"]["number"] = "poison"
            messages[1].tool_calls.append("poison")
            messages[1].response_metadata["poison"] = True
            messages[-1].content += "poison"


def test_a_stream_of_messages_has_those_of_hits(world: World, middleware: list[Any], steps: OpenAIServer) -> None:
    """Each of them, with what the model said."""
    agent = create_agent(model_of(steps), [step], middleware=middleware)

    async def streamed() -> list[Any]:
        return [message async for message, _ in agent.astream(QUESTION, stream_mode="messages")]

    for _ in range(3):
        steps.reset()
        if world.name == "tasks":
            messages = asyncio.run(streamed())
        else:
            messages = [message for message, _ in agent.stream(QUESTION, stream_mode="messages")]
    said = [message for message in messages if isinstance(message, AIMessage)]

    assert steps.calls == 0
    assert [[call["args"] for call in message.tool_calls] for message in said] == [[{"number": number}] for number in range(3)] + [[]]
    assert said[-1].content == "You asked: 3 done"


class OnlyLast(AgentMiddleware):
    """Shows the model the last message alone."""

    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        return handler(request.override(messages=request.messages[-1:]))

    async def awrap_model_call(self, request: Any, handler: Any) -> Any:
        return await handler(request.override(messages=request.messages[-1:]))


def test_the_same_question_twice_in_a_thread_gives_four_messages(world: World, middleware: list[Any], server: OpenAIServer) -> None:
    """The second answer, a hit, does not overwrite the first."""
    agent = create_agent(model_of(server), middleware=[*middleware, OnlyLast()], checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    for _ in range(2):
        state = world.call(agent, "invoke", QUESTION | {"messages": [HumanMessage("hello")]}, config)

    assert server.calls == 1
    assert texts(state) == ["hello", "You asked: hello"] * 2


def test_a_hit_costs_nothing_and_says_so(cache: LayeredCache, server: OpenAIServer) -> None:
    """As LangChain says it; and with `mark_hits`, where it comes from."""
    agent = create_agent(model_of(server), middleware=[LayeredCacheMiddleware(cache, mark_hits=True)])
    first, second = (agent.invoke(QUESTION)["messages"][-1] for _ in range(2))

    assert "layered_cache" not in first.response_metadata
    assert second.response_metadata["layered_cache"]["hit"] is True
    assert second.usage_metadata["total_cost"] == 0


# --- structured output


class Person(BaseModel):
    """Somebody."""

    name: str
    born: dt.date


@pytest.mark.parametrize("strategy", [Person, ProviderStrategy(Person), ToolStrategy(Person)], ids=["auto", "provider", "tool"])
def test_structured_output_is_made_of_a_hit_as_of_an_answer(
    world: World, middleware: list[Any], server: OpenAIServer, strategy: Any
) -> None:
    """A date is a date."""
    agent = create_agent(model_of(server), middleware=middleware, response_format=strategy)
    states = [world.call(agent, "invoke", QUESTION) for _ in range(3)]

    assert server.calls == 1
    assert [state["structured_response"].born for state in states] == [dt.date(2026, 1, 31)] * 3
    assert {type(state["structured_response"]) for state in states} == {Person}
    assert len({tuple(type(message) for message in state["messages"]) for state in states}) == 1


def one_out() -> type[BaseModel]:
    class Out(BaseModel):
        city: str

    return Out


def other_out() -> type[BaseModel]:
    class Out(BaseModel):
        number: int

    return Out


@pytest.mark.parametrize("strategy", [ProviderStrategy, ToolStrategy])
def test_two_schemas_of_one_name_never_meet(world: World, middleware: list[Any], server: OpenAIServer, strategy: Any) -> None:
    """Each agent gets what it asked for."""
    one, other = one_out(), other_out()
    other.__qualname__ = one.__qualname__
    agents = [(schema, create_agent(model_of(server), middleware=middleware, response_format=strategy(schema))) for schema in (one, other)]
    for _ in range(2):
        for schema, agent in agents:
            assert isinstance(world.call(agent, "invoke", QUESTION)["structured_response"], schema)

    assert server.calls == 2


# --- other middleware


class Mood(AgentMiddleware):
    """Sets the system message by the state's, and gives what its user wants in another form."""

    def __init__(self, form: str = "response") -> None:
        super().__init__()
        self.form = form

    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        return self._formed(handler(self._moody(request)))

    async def awrap_model_call(self, request: Any, handler: Any) -> Any:
        return self._formed(await handler(self._moody(request)))

    @staticmethod
    def _moody(request: Any) -> Any:
        return request.override(system_message=SystemMessage(f"be {len(request.messages[0].name)} letters kind"))

    def _formed(self, response: Any) -> Any:
        if self.form == "message":
            return response.result[0]
        if self.form == "command":
            return types.ExtendedModelResponse(response, Command(update={"messages": [HumanMessage("noted")]}))
        return response


@pytest.mark.parametrize("place", ["before", "behind"])
@pytest.mark.parametrize("form", ["response", "message", *(["command"] if hasattr(types, "ExtendedModelResponse") else [])])
def test_other_middleware_may_stand_anywhere(world: World, cache: LayeredCache, server: OpenAIServer, place: str, form: str) -> None:
    """What counts is what reaches the model; what they make of its answer is made each time."""
    ours, other = LayeredCacheMiddleware(cache), Mood(form)
    agent = create_agent(model_of(server), middleware=[ours, other] if place == "behind" else [other, ours])
    tails = ["You asked: hello"] + (["noted"] if form == "command" else [])
    for name in ("ann", "robert", "ann"):
        state = world.call(agent, "invoke", {"messages": [HumanMessage("hello", name=name)]})
        assert texts(state)[1:] == tails

    assert [body["messages"][0]["content"] for body in server.bodies] == ["be 3 letters kind", "be 6 letters kind"]


class Settings(AgentMiddleware):
    """Sets the temperature to the length of the question."""

    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        return handler(request.override(model_settings={"temperature": len(request.messages[-1].name)}))


def test_what_is_bound_to_the_model_counts(cache: LayeredCache, server: OpenAIServer) -> None:
    """Settings of a call, tools, and what is set on the model between two calls."""
    model = model_of(server)
    question = {"messages": [HumanMessage("hello", name="1")]}
    ours = LayeredCacheMiddleware(cache)
    agents = [create_agent(model, tools, middleware=[ours, *more]) for tools in ([], [step]) for more in ([], [Settings()])]
    for agent in agents * 2:
        agent.invoke(question)
    asked = server.calls
    model.temperature = 0.5
    agents[0].invoke(question)

    assert len({json.dumps(body, sort_keys=True) for body in server.bodies}) == asked + 1 == server.calls == 7


# --- what a call decides


def said(how: str, **options: Any) -> tuple[Any, Any]:
    """Return the configuration and the context that say *options*, in either way."""
    return ({"metadata": {"llm_cache": options}}, nullcontext()) if how == "metadata" else ({}, cache_options(**options))


@pytest.mark.parametrize("how", ["metadata", "around"])
class TestOptions:
    """Of a call of an agent: of its model and of its tool."""

    @pytest.fixture
    def runs(self) -> list[int]:
        return []

    @pytest.fixture
    def ask(self, world: World, cache: LayeredCache, steps: OpenAIServer, runs: list[int], how: str) -> Callable[..., tuple[int, int]]:
        @versioned
        @tool
        def step(number: int) -> str:
            """Go a step."""
            runs.append(number)
            return "done"

        agent = create_agent(model_of(steps), [step], middleware=[LayeredCacheMiddleware(cache, tools=["step"])])

        def ask(**options: Any) -> tuple[int, int]:
            """Return how many requests and runs of the tool it took."""
            config, around = said(how, **options)
            steps.reset()
            runs.clear()
            with around:
                world.call(agent, "invoke", QUESTION, config)
            return steps.calls, len(runs)

        return ask

    def test_a_mode_holds_for_models_and_tools(self, ask: Any, steps: OpenAIServer, runs: list[int]) -> None:
        with pytest.raises(CacheMiss):
            ask(mode="only_cached")
        assert (steps.calls, runs) == (0, [])
        assert ask(mode="read_only") == (4, 3)
        assert ask(mode="bypass") == (4, 3)
        assert ask() == (4, 3)
        assert ask(mode="only_cached") == ask(mode="read_only") == ask() == (0, 0)
        assert ask(mode="bypass") == (4, 3)
        assert ask(mode="refresh") == (4, 3)
        assert ask(single_flight=False) == ask() == (0, 0)

    def test_tenants_and_samples_and_accounts_have_their_own(self, ask: Any, how: str) -> None:
        for options in ({"namespace": "a"}, {"namespace": "b"}, {"sample": 1}, *([{"account": "me"}] if how == "around" else []), {}):
            assert ask(**options) == (4, 3)
            assert ask(**options) == (0, 0)

    def test_tags_are_labels_for_removal(self, ask: Any, cache: LayeredCache) -> None:
        ask(tags=["prices"])
        assert ask() == (0, 0)
        cache.invalidate(tag="prices")
        assert ask() == (4, 3)

    def test_a_ttl_is_the_end_of_both(self, ask: Any, cache: LayeredCache) -> None:
        ask(ttl="90s")
        assert {round(entry.keep_until - entry.created_at, -1) for entry in cache.engine.entries()} == {90}

    def test_what_may_not_be_said_is_told(self, ask: Any, how: str) -> None:
        with pytest.raises(ConfigurationError, match="refresh"):
            ask(mode="refesh")


def test_a_refreshed_answer_from_before_a_removal_is_not_stored(world: World, cache: LayeredCache) -> None:
    """Nor is any other: the removal came while the model was asked."""

    def reply(_: Any) -> str:
        cache.clear()
        return "old"

    with OpenAIServer(reply=reply) as server:
        agent = create_agent(model_of(server), middleware=[LayeredCacheMiddleware(cache)])
        for mode in ("refresh", "default"):
            world.call(agent, "invoke", QUESTION, said("metadata", mode=mode)[0])
            assert list(cache.engine.entries()) == []


def test_the_shorter_ttl_of_a_tool_holds(world: World, cache: LayeredCache, server: OpenAIServer) -> None:
    """A call that keeps answers for a day does not keep the weather for one; one that keeps nothing for long keeps no weather either."""
    agent = create_agent(model_of(server), [step], middleware=[LayeredCacheMiddleware(cache, ttl="1d", tools={"step": "5m"})])

    def kept(**options: Any) -> list[float]:
        cache.clear()
        world.call(agent, "invoke", QUESTION, said("metadata", **options)[0])
        return sorted(round(entry.keep_until - entry.created_at, -1) for entry in cache.engine.entries())

    assert kept() == [300, 86_400, 86_400]
    assert kept(ttl="2d") == [300, 172_800, 172_800]
    assert kept(ttl=60) == [60, 60, 60]


def test_a_call_without_a_tenant_is_refused_where_one_is_required(world: World, server: OpenAIServer) -> None:
    with TieredCache("memory://", policy=Policy(tenant_required=True)) as cache:
        agent = create_agent(model_of(server), middleware=[LayeredCacheMiddleware(cache)])
        with pytest.raises(TenantRequiredError):
            world.call(agent, "invoke", QUESTION)
        assert server.calls == 0
        for _ in range(2):
            world.call(agent, "invoke", QUESTION, {"metadata": {"llm_cache": {"namespace": "a"}}})

    assert server.calls == 1


def test_where_accounts_are_separate_keys_are_told_apart(world: World, server: OpenAIServer, db: str) -> None:
    """The middleware knows the model, hence its key, which is nowhere stored."""
    with TieredCache("memory://", db, policy=Policy(separate_accounts=True)) as cache:
        middleware = [LayeredCacheMiddleware(cache)]
        for key in ("sk-first", "sk-second", "sk-first"):
            world.call(create_agent(model_of(server, api_key=key), middleware=middleware), "invoke", QUESTION)
        kept = repr([(entry, entry.request and entry.request.params) for entry in cache.entries()])

    assert server.calls == 2
    assert "sk-" not in kept


# --- old answers


@pytest.fixture
def ageing(clock: FakeClock, events: list[Event]) -> Iterator[TieredCache]:
    """A cache whose answers are fresh for a minute and kept for an hour."""
    policy = replace(HOUR, keep_for=3600, fresh_for=60)
    with TieredCache("memory://", policy=policy, observers=[events.append], clock=clock) as cache:
        yield cache


class Told(BaseCallbackHandler):
    """Counts what it is told of."""

    def __init__(self) -> None:
        self.starts = self.tokens = 0

    def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        self.starts += 1

    def on_llm_new_token(self, *args: Any, **kwargs: Any) -> None:
        self.tokens += 1


async def until(true: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(20):
        while not await true():  # noqa: ASYNC110 - nobody tells when a refresh is over
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("way", ["threads", "tasks"])
async def test_an_old_answer_is_given_at_once_and_refreshed(way: str, ageing: TieredCache, clock: FakeClock) -> None:
    """Once, beside the run, which is told nothing of it."""
    numbers = iter(range(10))
    with OpenAIServer(reply=lambda _: f"answer {next(numbers)}") as server:
        agent = create_agent(model_of(server, streaming=True), middleware=[LayeredCacheMiddleware(ageing)])
        told = Told()
        asked = 0

        async def ask() -> str:
            nonlocal asked
            asked += 1
            config: Any = {"callbacks": [told]}
            state = await agent.ainvoke(QUESTION, config) if way == "tasks" else agent.invoke(QUESTION, config)
            return state["messages"][-1].content

        async def is_new() -> bool:
            return await ask() == "answer 1"

        assert await ask() == "answer 0"
        clock.advance(61)
        tokens = told.tokens
        with usage_callback() as usage:
            with cache_options(tags=["late"]):
                assert await ask() == "answer 0"
            await until(is_new)

        assert [entry.tags for entry in ageing.entries()] == [("late",)]
        assert server.calls == 2
        assert (told.starts, told.tokens) == (asked, tokens)
        assert usage.spent == {}


@pytest.mark.parametrize("way", ["threads", "tasks"])
async def test_an_old_answer_stays_while_the_model_fails(way: str, ageing: TieredCache, clock: FakeClock, events: list[Event]) -> None:
    with OpenAIServer() as server:
        agent = create_agent(model_of(server), middleware=[LayeredCacheMiddleware(ageing)])

        async def ask() -> str:
            state = await agent.ainvoke(QUESTION) if way == "tasks" else agent.invoke(QUESTION)
            return state["messages"][-1].content

        await ask()
        clock.advance(61)
        server.fail(100)
        for _ in range(3):
            assert await ask() == "You asked: how far is it?"

        async def has_failed() -> bool:
            return "refresh_failed" in [event.kind for event in events]

        await until(has_failed)
        clock.advance(3600)
        with pytest.raises(APIError):
            await ask()

    assert sum(event.kind == "refresh_failed" for event in events) == 1


async def test_an_old_result_of_a_tool_is_refreshed_too(ageing: TieredCache, clock: FakeClock, server: OpenAIServer) -> None:
    """Alone: no run is told of it."""
    results = iter(range(10))

    @versioned
    @tool
    def count(city: str) -> str:
        """Count something."""
        return f"result {next(results)}"

    agent = create_agent(model_of(server), [count], middleware=[LayeredCacheMiddleware(ageing, tools=["count"], models=False)])
    assert texts(agent.invoke(QUESTION))[2] == "result 0"
    clock.advance(61)
    assert texts(agent.invoke(QUESTION))[2] == "result 0"

    async def is_new() -> bool:
        return texts(agent.invoke(QUESTION))[2] == "result 1"

    await until(is_new)


# --- tools


def versioned(made: BaseTool, version: str = "1") -> BaseTool:
    """Say what *made* holds: the count of its runs, which decides nothing."""
    made.metadata = {"cache_key": version}
    return made


class Kept:
    """An agent with one tool, which calls `body`, and how often it has."""

    def __init__(self, cache: Any, server: OpenAIServer, kept: BaseTool, **options: Any) -> None:
        self.agent = create_agent(
            model_of(server), [kept], middleware=[LayeredCacheMiddleware(cache, tools=[kept.name], models=False)], **options
        )

    def results(self, world: World, times: int = 2) -> list[ToolMessage]:
        states = [world.call(self.agent, "invoke", QUESTION) for _ in range(times)]
        for state in states:
            assert state["messages"][2].tool_call_id == state["messages"][1].tool_calls[0]["id"]
        return [state["messages"][2] for state in states]


def test_a_tool_that_is_named_runs_once(world: World, cache: LayeredCache, server: OpenAIServer) -> None:
    """Its result has the id of each call; one that is not named runs each time."""
    runs: list[str] = []

    @versioned
    @tool(response_format="content_and_artifact")
    def look(city: str) -> tuple[str, Any]:
        """Look."""
        runs.append(city)
        return "seen", {"when": dt.date(2026, 1, 1), "where": (1, 2)}

    results = Kept(cache, server, look).results(world, 3)
    assert len(runs) == 1
    assert [(result.content, result.artifact, result.name, result.status) for result in results] == [
        ("seen", {"when": dt.date(2026, 1, 1), "where": (1, 2)}, "look", "success")
    ] * 3
    assert len({result.id for result in results}) == len({id(result.artifact) for result in results}) == 3

    agent = create_agent(model_of(server), [look], middleware=[LayeredCacheMiddleware(cache, tools=["other"])])
    for _ in range(2):
        world.call(agent, "invoke", QUESTION)
    assert len(runs) == 3


def test_tools_of_any_kind_are_kept(world: World, cache: LayeredCache, server: OpenAIServer) -> None:
    """One that takes a text, one that is a class, one with a coroutine alone."""
    runs: list[str] = []

    class Look(BaseTool):
        name: str = "look_class"
        description: str = "Look."

        def _run(self, city: str, run_manager: Any = None) -> str:
            runs.append("class")
            return "seen"

    async def look(city: str) -> str:
        """Look."""
        runs.append("coroutine")
        return "seen"

    kinds: list[BaseTool] = [Look(), Tool("look_text", lambda text: runs.append("text") or "seen", "Look.")]
    if world.name == "tasks":
        kinds.append(tool(look))
    for kind in kinds:
        versioned(kind)
        runs.clear()
        assert [result.content for result in Kept(cache, server, kind).results(world)] == ["seen"] * 2
        assert len(runs) == 1


def test_tools_of_one_name_that_are_not_one_do_not_meet(world: World, cache: LayeredCache, server: OpenAIServer) -> None:
    """Other arguments, or other code."""

    def one() -> BaseTool:
        @tool
        def look(city: str) -> str:
            """Look."""
            return "one"

        return look

    def other() -> BaseTool:
        @tool
        def look(city: str) -> str:
            """Look."""
            return "other"

        return look

    assert [Kept(cache, server, kind()).results(world)[1].content for kind in (one, other, one)] == ["one", "other", "one"]


RUNS: list[str] = []


def seen(where: str, city: str) -> str:
    """Look."""
    RUNS.append(where)
    return f"{city} in {where}"


def of_closure(where: str) -> BaseTool:
    def look(city: str) -> str:
        """Look."""
        return seen(where, city)

    return tool(look)


def of_function_in_closure(where: str) -> BaseTool:
    search = functools.partial(lambda prefix, city, where=where: seen(prefix + where, city), "")

    def look(city: str) -> str:
        """Look."""
        return search(city)

    return tool(look)


def of_partial(where: str) -> BaseTool:
    schema = create_model("Look", city=(str, ...))
    func = functools.update_wrapper(functools.partial(seen, where), seen)  # else LangChain cannot read its annotations
    return StructuredTool(name="look", description="Look.", args_schema=schema, func=func)


def of_lambda(where: str) -> BaseTool:
    here, there = (
        lambda city: seen("here", city),
        lambda city: seen("there", city),
    )
    return Tool("look", here if where == "here" else there, "Look.")


def of_both_worlds(where: str) -> BaseTool:
    def look(city: str) -> str:
        return seen(where, city)

    async def alook(city: str) -> str:
        return seen(where, city)

    return StructuredTool.from_function(look, alook, name="look", description="Look.")


class Look(BaseTool):
    name: str = "look"
    description: str = "Look."
    where: Any = "here"

    def _run(self, city: str) -> str:
        return seen(str(self.where), city)


class PrivateLook(Look):
    _where: str = PrivateAttr("")

    def _run(self, city: str) -> str:
        return seen(self._where, city)


def of_private(where: str) -> BaseTool:
    made = PrivateLook()
    made._where = where
    return made


def of_local_class(where: str) -> BaseTool:
    class Local(Look):
        def _run(self, city: str) -> str:
            return super()._run(self.prefix() + city)

        def prefix(self) -> str:
            RUNS.append(where)
            return f"{where} "

    return Local()


def of_field(where: str) -> BaseTool:
    return Look(where=where)


def of_class_in_closure(where: str) -> BaseTool:
    class Here:
        place = where

    def look(city: str) -> str:
        """Look."""
        return seen(Here.place, city)

    return tool(look)


HOLDING = [
    of_closure, of_function_in_closure, of_partial, of_lambda, of_both_worlds, of_field, of_private, of_local_class, of_class_in_closure,
]  # fmt: skip


@pytest.mark.parametrize("make", HOLDING, ids=lambda make: make.__name__)
def test_what_a_tool_holds_is_in_its_key(world: World, cache: LayeredCache, server: OpenAIServer, make: Any) -> None:
    """Two of one name and one function do not meet, and one that holds the same hits; nothing of it can be read."""
    results = [Kept(cache, server, make(where)).results(world, 1)[0].content for where in ("here", "there")]
    assert len(set(results)) == 2

    RUNS.clear()
    assert [Kept(cache, server, make(where)).results(world, 1)[0].content for where in ("here", "there")] == results
    assert RUNS == []
    assert all("here" not in str(entry.request and entry.request.params) for entry in cache.engine.entries())


class Index:
    def __init__(self, where: str) -> None:
        self.where = where

    def look(self, city: str) -> str:
        """Look."""
        return seen(self.where, city)


def of_object(where: str) -> BaseTool:
    index = Index(where)

    def look(city: str) -> str:
        """Look."""
        return index.look(city)

    return tool(look)


def of_itself(where: str) -> BaseTool:
    def look(city: str) -> str:
        """Look."""
        return look(city[1:]) if city[0] == " " else seen(where, city)

    return tool(look)


UNKNOWN = [
    of_object, of_itself, lambda where: tool(Index(where).look),
    lambda where: Look(where=Index(where).look), lambda where: Look(where=[Index(where)]),
]  # fmt: skip


@pytest.mark.parametrize("make", UNKNOWN)
def test_a_tool_that_holds_what_has_no_key_needs_a_name(
    world: World, cache: LayeredCache, server: OpenAIServer, caplog: pytest.LogCaptureFixture, make: Any
) -> None:
    """Else it is refused, with one warning; by its name it hits, and by no other."""
    RUNS.clear()
    Kept(cache, server, make("here")).results(world, 3)
    assert len(RUNS) == 3
    assert ["cache_key" in record.getMessage() for record in caplog.records] == [True]

    RUNS.clear()
    for version in ("1", "2", "1", "2"):
        Kept(cache, server, versioned(make("here"), version)).results(world, 1)
    assert len(RUNS) == 2


def test_a_name_of_what_a_tool_holds_is_a_text(cache: LayeredCache, server: OpenAIServer, caplog: pytest.LogCaptureFixture) -> None:
    for wrong in ("", 7):
        Kept(cache, server, versioned(of_closure("here"), wrong)).results(Threads(), 2)  # type: ignore[arg-type]
    assert len(caplog.records) == 2  # by two middlewares
    assert list(cache.engine.entries()) == []


@pytest.mark.parametrize("kind", ["error", "command", "own", "artifact"])
def test_what_may_not_be_kept_is_not(
    kind: str, world: World, cache: LayeredCache, server: OpenAIServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Errors, commands, what does not come back equal: the tool runs each time, and its result is what it says."""
    runs: list[int] = []

    class Own(ToolMessage):
        """A message that is not known here."""

    @versioned
    @tool(response_format="content_and_artifact")
    def look(city: str) -> Any:
        """Look."""
        runs.append(1)
        return "seen", object() if kind == "artifact" else None

    class Wrapping(AgentMiddleware):
        def wrap_tool_call(self, request: Any, handler: Any) -> Any:
            return self._changed(handler(request))

        async def awrap_tool_call(self, request: Any, handler: Any) -> Any:
            return self._changed(await handler(request))

        @staticmethod
        def _changed(result: ToolMessage) -> Any:
            if kind == "command":
                return Command(update={"messages": [result]})
            if kind == "own":
                return Own(**result.model_dump())
            return result.model_copy(update={"status": "error"}) if kind == "error" else result

    middleware = [LayeredCacheMiddleware(cache, tools=["look"], models=False), Wrapping()]
    agent = create_agent(model_of(server), [look], middleware=middleware)
    for _ in range(3):
        assert texts(world.call(agent, "invoke", QUESTION))[2] == "seen"

    assert len(runs) == 3
    assert list(cache.engine.entries()) == []
    assert len(caplog.records) == (1 if kind == "artifact" else 0)


def test_the_error_of_a_tool_passes_unchanged(world: World, cache: LayeredCache, server: OpenAIServer) -> None:
    @tool
    def look(city: str) -> str:
        """Look."""
        msg = "no light"
        raise LookupError(msg)

    for _ in range(2):
        with pytest.raises(LookupError, match="no light"):
            Kept(cache, server, look).results(world)


def test_a_tool_that_is_given_more_than_its_arguments_is_refused(
    world: World, cache: LayeredCache, server: OpenAIServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Its result may be somebody's; a warning says so once."""
    runs: list[str] = []

    @tool
    def of_state(city: str, state: Annotated[dict[str, Any], InjectedState]) -> str:
        """Look."""
        runs.append("state")
        return "seen"

    @tool
    def of_runtime(city: str, runtime: ToolRuntime) -> str:
        """Look."""
        runs.append("runtime")
        return "seen"

    @tool
    def of_config(city: str, config: RunnableConfig) -> str:
        """Look."""
        runs.append("config")
        return "seen"

    class Look(BaseTool):
        name: str = "of_own"
        description: str = "Look."

        def _run(self, city: str, user: Annotated[str, InjectedToolArg] = "nobody") -> str:
            runs.append("own")
            return "seen"

    for one in (of_state, of_runtime, of_config, Look()):
        runs.clear()
        caplog.clear()
        Kept(cache, server, one).results(world, 3)
        assert len(runs) == 3, one.name
        assert [one.name in record.getMessage() for record in caplog.records] == [True], one.name


async def test_a_tool_runs_once_however_many_ask(cache: LayeredCache, server: OpenAIServer) -> None:
    runs: list[int] = []

    @versioned
    @tool
    async def look(city: str) -> str:
        """Look."""
        runs.append(1)
        await asyncio.sleep(0.3)
        return "seen"

    agent = create_agent(model_of(server), [look], middleware=[LayeredCacheMiddleware(cache, tools=["look"])])
    states = await asyncio.gather(*(agent.ainvoke(QUESTION) for _ in range(20)))

    assert len(runs) == 1
    assert {texts(state)[2] for state in states} == {"seen"}


async def test_an_interrupt_is_of_one_run_only(cache: LayeredCache, server: OpenAIServer) -> None:
    """Who waits for a tool that asks its own user runs the tool, and asks his."""
    runs: list[int] = []

    @versioned
    @tool
    async def look(city: str) -> str:
        """Look."""
        runs.append(1)
        await asyncio.sleep(0.2)
        return interrupt("may I?")

    agent = create_agent(model_of(server), [look], middleware=[LayeredCacheMiddleware(cache, tools=["look"])], checkpointer=InMemorySaver())
    configs: list[Any] = [{"configurable": {"thread_id": str(number)}} for number in range(4)]
    states = await asyncio.gather(*(agent.ainvoke(QUESTION, config) for config in configs))
    assert len(runs) == 4
    assert len({state["__interrupt__"][0].id for state in states}) == 4
    state = await agent.ainvoke(Command(resume="yes"), configs[0])

    assert texts(state)[2] == "yes"


@pytest.mark.parametrize("nested", [False, True])
def test_a_tool_result_after_an_interrupt_is_not_kept(world: World, cache: LayeredCache, server: OpenAIServer, nested: bool) -> None:
    """Whether the tool asks, or a graph that it calls. The next thread is asked again, and a tool that does not ask is kept."""
    asking = StateGraph(dict).add_node("ask", lambda _: {"answer": interrupt("may I?")}).add_edge(START, "ask").compile()

    @versioned
    @tool
    def look(city: str) -> str:
        """Look."""
        return asking.invoke({"city": city})["answer"] if nested else interrupt("may I?")

    middleware = [LayeredCacheMiddleware(cache, tools=["look"], models=False)]
    agent = create_agent(model_of(server), [look], middleware=middleware, checkpointer=InMemorySaver())
    for answer in ("yes", "no"):
        config: Any = {"configurable": {"thread_id": answer}}
        assert "__interrupt__" in world.call(agent, "invoke", QUESTION, config)
        assert texts(world.call(agent, "invoke", Command(resume=answer), config))[2] == answer
    assert cache.engine.stats().stored == 0


# --- what goes wrong


class Odd(AIMessage):
    """A message that the codec does not know."""


class OddModel(BaseChatModel):
    calls: list[int] = []

    @property
    def _llm_type(self) -> str:
        return "odd"

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        self.calls.append(1)
        time.sleep(0.1)
        return ChatResult(generations=[ChatGeneration(message=Odd("odd"))])


async def test_what_cannot_be_kept_is_given_all_the_same(cache: LayeredCache, caplog: pytest.LogCaptureFixture) -> None:
    """To each who asks his own, with one warning."""
    model = OddModel()
    agent = create_agent(model, middleware=[LayeredCacheMiddleware(cache)])
    states = await asyncio.gather(*(agent.ainvoke(QUESTION) for _ in range(5)))
    agent.invoke(QUESTION)

    assert {type(state["messages"][-1]) for state in states} == {Odd}
    assert len(model.calls) == 6
    assert len(caplog.records) == 1


def test_a_request_without_a_key_is_not_cached(
    world: World, cache: LayeredCache, server: OpenAIServer, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning says which parameter is to blame; who wants nothing else than the cache's is told."""

    class Bound(AgentMiddleware):
        def wrap_model_call(self, request: Any, handler: Any) -> Any:
            return handler(request.override(model_settings={"hint": object()}))

        async def awrap_model_call(self, request: Any, handler: Any) -> Any:
            return await handler(request.override(model_settings={"hint": object()}))

    model = FakeListChatModel(responses=["one", "two", "three"])
    agent = create_agent(model, middleware=[LayeredCacheMiddleware(cache), Bound()])

    assert [texts(world.call(agent, "invoke", QUESTION))[-1] for _ in range(3)] == ["one", "two", "three"]
    assert ["hint" in record.getMessage() for record in caplog.records] == [True]
    with cache_options(mode="only_cached"), pytest.raises(CacheMiss):
        world.call(agent, "invoke", QUESTION)


def test_what_is_no_chat_model_is_left_alone(cache: LayeredCache, server: OpenAIServer, caplog: pytest.LogCaptureFixture) -> None:
    """A runnable in its place is asked each time, with one warning."""

    class Replaced(AgentMiddleware):
        def wrap_model_call(self, request: Any, handler: Any) -> Any:
            return handler(request.override(model=model_of(server).with_config(tags=["a"])))

    agent = create_agent(model_of(server), middleware=[Replaced(), LayeredCacheMiddleware(cache)])
    for _ in range(2):
        agent.invoke(QUESTION)

    assert server.calls == 2
    assert ["RunnableBinding" in record.getMessage() for record in caplog.records] == [True]


def test_a_cache_that_fails_costs_no_answer(
    world: World, cache: LayeredCache, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither of the model nor of a tool, wherever it fails: before, and after the answer is there."""
    agent = create_agent(model_of(server), [step], middleware=[LayeredCacheMiddleware(cache, tools=["step"])])

    def broken(*_: object, **__: object) -> Any:
        msg = "a defect"
        raise RuntimeError(msg)

    engine = cache.engine._engine
    for part, name in ((engine, "read"), (engine, "admitted"), (engine.watch, "ticket")):
        with monkeypatch.context() as patch:
            patch.setattr(part, name, broken)
            server.reset()
            state = world.call(agent, "invoke", QUESTION)
        assert texts(state)[2:] == ["8 done", "You asked: 8 done"], name
        assert server.calls == 2, name
        cache.clear()


def test_bytes_that_cannot_be_read_are_replaced(world: World, cache: LayeredCache, server: OpenAIServer) -> None:
    """By the model's answer, and by the tool's."""
    agent = create_agent(model_of(server), [step], middleware=[LayeredCacheMiddleware(cache, tools=["step"])])
    world.call(agent, "invoke", QUESTION)
    for entry in list(cache.engine.entries()):
        cache.engine._engine.local.put(replace(entry, value=b"\x93\x01"), cache.engine._engine.watch.view.position)  # type: ignore[union-attr]
    server.reset()

    for calls in (2, 2):
        assert texts(world.call(agent, "invoke", QUESTION))[2:] == ["8 done", "You asked: 8 done"]
        assert server.calls == calls


def test_a_model_that_shall_not_be_cached_is_not(world: World, globally: LayeredCache, server: OpenAIServer) -> None:
    """As LangChain has it: `cache=False` says so."""
    agent = create_agent(model_of(server, cache=False), middleware=[LayeredCacheMiddleware(globally)])

    assert counts(server, lambda: world.call(agent, "invoke", QUESTION), 2) == [1, 1]
    assert list(globally.engine.entries()) == []


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"ttl": "5 apples"}, "ttl"),
        ({"tools": {"look": "soon"}}, r"tools\['look'\]"),
        ({"tools": "look"}, "tools"),
        ({"tools": [1]}, "tools"),
        ({"cache": None}, "cache"),
    ],
)
def test_a_wrong_argument_is_named(cache: LayeredCache, options: Any, error: str) -> None:
    with pytest.raises(ConfigurationError, match=error):
        LayeredCacheMiddleware(**{"cache": cache, **options})


# --- the stand-in


def test_a_stand_in_is_the_model_to_all_who_look(cache: LayeredCache, server: OpenAIServer) -> None:
    """Its class, its text, what it binds; the model itself stays as it is."""
    model = model_of(server, temperature=0)
    before = dict(vars(model))
    asker: ModelAsker = LayeredCacheMiddleware(cache)._models  # type: ignore[assignment]
    other = stand_in(model, asker)

    assert isinstance(other, ChatOpenAI)
    assert (type(other).__name__, type(other).__module__) == ("ChatOpenAI", type(model).__module__)
    assert other._get_llm_string(stop=["a"]) == model._get_llm_string(stop=["a"])
    assert other.get_name() == model.get_name()
    assert repr(other) == repr(model)
    assert type(other).model_fields.keys() == ChatOpenAI.model_fields.keys()
    assert other.bind_tools([step]).bound is other  # type: ignore[attr-defined]
    for one in (other, other.model_copy(update={"tags": ["a"]}), stand_in(other, asker)):
        one.invoke("hello")
    assert server.calls == 1
    model.invoke("hello")
    assert server.calls == 2
    assert {name: value for name, value in vars(model).items() if name != "_serialized"} == before
    assert type(model) is ChatOpenAI
