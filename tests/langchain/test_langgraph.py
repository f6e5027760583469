"""LangGraph's node cache in tiers: its own scenarios for caches, real graphs, and what must not reach them."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import operator
import os
import signal
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.config import get_config
from langgraph.func import entrypoint, task
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import CachePolicy, Command, Send, interrupt
from layered_cache import CallOptions, ConfigurationError, DeletionError, Event, Policy, Request, TieredCache, cache_options
from layered_cache.entry import Ticket
from layered_cache.testing import FakeAuthority, FakeClock, FakeTier
from support.sync_async import Threads, World, kinds, settled

from langchain_layered_cache import LangGraphCache, LayeredCache, cache_key
from langchain_layered_cache._langgraph.pending_tasks import Asker, Births

TIERS = {
    "memory": ["memory"],
    "sqlite": ["sqlite"],
    "redis": ["redis"],
    "mongodb": ["mongodb"],
    "memory, redis and mongodb": ["memory", "redis", "mongodb"],
}
KEY = (("graph", "node"), "key")
NAME = "tests-1"  # the nodes here are inner functions, and a name alone identifies these


# what holds for all of them together and for a file nearly always holds for a server alone
@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.slow) if name in {"redis", "mongodb"} else name for name in TIERS])
def cache(request: pytest.FixtureRequest) -> Iterator[LangGraphCache]:
    """One over each list of tiers."""
    urls = {"memory": lambda: "memory://", "sqlite": lambda: request.getfixturevalue("db")}
    names = {"redis": "redis_url", "mongodb": "mongodb_url"}
    tiers = [urls[tier]() if tier in urls else f"{request.getfixturevalue(names[tier])}#timeout=5s" for tier in TIERS[request.param]]
    with TieredCache(*tiers) as engine:
        yield LangGraphCache(engine, name=NAME)


@pytest.fixture
def memory(events: list[Event]) -> LangGraphCache:
    """One in memory."""
    return LangGraphCache(TieredCache("memory://", observers=[events.append]), name=NAME)


def erased(cache: LangGraphCache) -> None:
    """Wait until void entries that were found are erased. It is done in the background, and in Redis could hit what replaces them."""
    engine, done = cache.engine, threading.Event()
    for tier in engine._engine.slower:
        done.clear()
        engine._engine.backlog.courtesy(tier, done, done.set)
        assert done.wait(5)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


# --- what LangGraph asks of a cache


def test_what_is_set_is_got(world: World, cache: LangGraphCache) -> None:
    """Several at once, of several namespaces; absent ones are absent, and nothing is asked for nothing."""
    one, two, other = ((("graph", "one"), "key"), (("graph", "two"), "key"), (("graph", "one"), "other"))
    world.call(cache, "set", {one: ({"result": 1}, None), two: ({"result": 2}, 60), other: (None, None)})

    assert world.call(cache, "get", [one, two, other, (("graph",), "key")]) == {one: {"result": 1}, two: {"result": 2}, other: None}
    world.call(cache, "set", {one: ("new", None)})
    assert world.call(cache, "get", keys=[one]) == {one: "new"}
    assert world.call(cache, "get", []) == {}
    world.call(cache, "set", pairs={})


def test_namespaces_are_exact(world: World, cache: LangGraphCache) -> None:
    """No two share a key, and one is cleared without those that begin or look like it."""
    namespaces = [(), ("a",), ("a", "b"), ("a:b",), ('a","b',), ("", "a"), ("a", ""), ("ä", "\ud800")]
    world.call(cache, "set", {(namespace, "key"): (number, None) for number, namespace in enumerate(namespaces)})
    keys = [(namespace, "key") for namespace in namespaces]
    assert world.call(cache, "get", keys) == dict(zip(keys, range(len(keys))))

    world.call(cache, "clear", [("a",), ("a:b",), ("unknown",)])
    left = [key for key in keys if key[0] not in (("a",), ("a:b",))]
    assert list(world.call(cache, "get", keys)) == left
    world.call(cache, "clear", [])
    assert list(world.call(cache, "get", keys)) == left


def test_clear_removes_what_langgraph_cached_and_nothing_else(world: World, cache: LangGraphCache) -> None:
    """Other answers of the engine stay."""
    engine = TieredCache(*cache.engine.tiers)
    engine.set(Request("q"), b"answer")
    world.call(cache, "set", {KEY: (1, None), (("other",), "key"): (2, None)})

    world.call(cache, "clear")

    assert world.call(cache, "get", [KEY, (("other",), "key")]) == {}
    assert engine.get(Request("q")).value == b"answer"


def test_the_same_as_in_langgraphs_own_memory_cache(world: World, cache: LangGraphCache) -> None:
    """Every step of a story, each with the same outcome; but tuples stay what they are."""
    reference: InMemoryCache[Any] = InMemoryCache()
    keys = [(namespace, key) for namespace in [("a",), ("a", "b"), ("c",)] for key in ("1", "2")]
    story: list[tuple[str, Any]] = [
        ("set", {keys[0]: ([1], None), keys[2]: ({"a": [2]}, 100)}),
        ("set", {keys[1]: (deque([["messages", AIMessage("hi", id="1")]]), None), keys[4]: ("ä", None)}),
        ("clear", [("a",)]),
        ("set", {keys[0]: (3, None), keys[5]: (b"5", 0)}),
        ("clear", [("c",), ("c",)]),
        ("clear", None),
    ]
    for method, argument in story:
        for one in (reference, cache):
            world.call(one, method, argument)
        assert world.call(cache, "get", keys) == world.call(reference, "get", keys)
        erased(cache)


def test_each_value_has_its_time(world: World, clock: FakeClock) -> None:
    """That of its policy in the graph, in seconds; where that says nothing, that of the cache's."""
    cache = LangGraphCache(TieredCache("memory://", policy=Policy(keep_for=100), clock=clock))
    keys = {ttl: (("n",), str(ttl)) for ttl in (10, 1000, None, 0, -1)}
    world.call(cache, "set", {key: ("value", ttl) for ttl, key in keys.items()})

    held = []
    for seconds in (0, 9, 2, 88, 2, 898, 2):
        clock.advance(seconds)
        held.append([ttl for ttl, key in keys.items() if world.call(cache, "get", [key])])

    assert held == [[10, 1000, None]] * 2 + [[1000, None]] * 2 + [[1000]] * 2 + [[]]


def test_everybody_gets_objects_of_their_own(world: World, cache: LangGraphCache) -> None:
    """Equal to what was written, of its classes; what one changes nobody else sees."""
    writes = deque([("messages", [AIMessage("hi", id="1", tool_calls=[{"name": "f", "args": {}, "id": "c"}])]), ("point", (1, [2]))])
    world.call(cache, "set", {KEY: (writes, None)})
    writes[1][1][1].append(3)

    for _ in range(2):
        got = world.call(cache, "get", [KEY])[KEY]
        assert type(got) is deque
        assert got[1] == ("point", (1, [2]))
        (message,) = got[0][1]
        assert message == AIMessage("hi", id="1", tool_calls=[{"name": "f", "args": {}, "id": "c"}])
        message.tool_calls[0]["args"]["poison"] = got[1][1][1].append(3)


def test_each_tier_is_asked_once_for_many_keys(world: World) -> None:
    """And told once."""
    tier = FakeAuthority("fake")
    cache = LangGraphCache(TieredCache(tier))
    keys = [(("n",), str(number)) for number in range(10)]
    world.call(cache, "set", {key: (key[1], None) for key in keys})
    assert len(world.call(cache, "get", keys)) == 10

    calls = [call.split() for call in tier.calls if call.split()[0] in ("get", "set")]
    assert [(words[0], len(words) - 1) for words in calls] == [("set", 10), ("get", 10)]


# --- what must not reach a graph


@pytest.mark.parametrize("fail_open", [True, False])
def test_a_failing_tier_is_a_miss(world: World, events: list[Event], caplog: pytest.LogCaptureFixture, fail_open: bool) -> None:
    """Also where the engine was told to raise; a removal that could not be recorded does raise."""
    tier = FakeAuthority("fake")
    cache = LangGraphCache(TieredCache(tier, observers=[events.append], policy=Policy(fail_open=fail_open)))
    world.call(cache, "set", {KEY: (1, None)})
    tier.broken = tier.log_is_broken = True

    for _ in range(2):
        assert world.call(cache, "get", [KEY]) == {}
    for _ in range(2):
        world.call(cache, "set", {KEY: (1, None)})
    assert "tier_failed" in kinds(events) or "log_failed" in kinds(events)
    assert ("adapter_failed" in kinds(events)) is (not fail_open)
    assert len(warnings(caplog)) == len(set(warnings(caplog)))
    with pytest.raises(DeletionError):
        world.call(cache, "clear", [("graph", "node")])
    with pytest.raises(DeletionError):
        world.call(cache, "clear")


def test_whatever_goes_wrong_is_a_miss(world: World, memory: LangGraphCache, events: list[Event], caplog: pytest.LogCaptureFixture) -> None:
    """Though nobody foresaw it; one event each time, one warning for each kind, and not a word of what was asked."""
    nonsense: Any = ((object(),), "secret")
    for _ in range(2):
        assert world.call(memory, "get", [nonsense]) == {}
        assert world.call(memory, "get", None) == {}
        world.call(memory, "set", {nonsense: "secret"})

    assert kinds(events) == ["uncacheable", "adapter_failed", "adapter_failed"] * 2
    assert len(warnings(caplog)) == 3
    assert "secret" not in caplog.text


class Opaque:
    secret = "secret"


def test_a_value_that_cannot_be_written_is_not_kept(
    world: World, memory: LangGraphCache, events: list[Event], caplog: pytest.LogCaptureFixture
) -> None:
    """The others of the same call are; a warning says once which class is to blame."""
    other = (("graph", "other"), "key")
    for _ in range(2):
        world.call(memory, "set", {KEY: (deque([("x", Opaque())]), None), other: (1, None)})

    assert world.call(memory, "get", [KEY, other]) == {other: 1}
    assert [event.reason for event in events if event.kind == "not_stored"] == ["not encodable"] * 2
    (warning,) = warnings(caplog)
    assert "Opaque" in warning


def test_a_value_that_cannot_be_read_is_a_miss(
    world: World, memory: LangGraphCache, events: list[Event], caplog: pytest.LogCaptureFixture
) -> None:
    """Of another serializer, or none at all; what replaces it is read again."""
    theirs = LangGraphCache(TieredCache(*memory.engine.tiers), serde=JsonPlusSerializer())
    theirs._cache = memory.engine  # the same namespace
    theirs.set({KEY: ("secret", None)})
    garbage = (("graph", "other"), "key")
    (request,) = {Request({"namespace": list(garbage[0]), "key": garbage[1]}, framework="langgraph")}
    memory.engine.set(request, b"\xc1secret")

    for _ in range(2):
        assert world.call(memory, "get", [KEY, garbage]) == {}
    assert kinds(events).count("undecodable") == 4
    assert "secret" not in caplog.text
    world.call(memory, "set", {KEY: (1, None), garbage: (2, None)})
    assert world.call(memory, "get", [KEY, garbage]) == {KEY: 1, garbage: 2}


def test_another_serializer(world: World, memory: LangGraphCache) -> None:
    """It is used, and what it does to values is its own affair; one that unpickles is refused, also inside another."""
    cache = LangGraphCache(memory.engine, serde=JsonPlusSerializer())
    world.call(cache, "set", {KEY: ({"point": (1, 2)}, None)})
    assert world.call(cache, "get", [KEY]) == {KEY: {"point": [1, 2]}}

    class Wrapping:
        serde = JsonPlusSerializer(pickle_fallback=True)

    for serde in (JsonPlusSerializer(pickle_fallback=True), Wrapping()):
        with pytest.raises(ConfigurationError, match="pickle_fallback=False"):
            LangGraphCache(memory.engine, serde=serde)
    with pytest.raises(ConfigurationError, match="got a str"):
        LangGraphCache("memory://")


# --- graphs


class State(TypedDict, total=False):
    question: str
    answers: Annotated[list[str], operator.add]


def graph_of(cache: LangGraphCache, runs: list[str], policy: CachePolicy | None) -> Any:
    """Return a graph of a node that is cached and one that is not."""

    def slow(state: State) -> State:
        erased(cache)
        time.sleep(0.002)
        runs.append("slow")
        return {"answers": [f"slow {state['question']}"]}

    def fast(state: State) -> State:
        runs.append("fast")
        return {"answers": ["fast"]}

    builder = StateGraph(State).add_node("slow", slow, cache_policy=policy).add_node("fast", fast)
    return builder.add_edge(START, "slow").add_edge("slow", "fast").compile(cache=cache)


def test_a_node_runs_once(world: World, cache: LangGraphCache) -> None:
    """For each input, until its cache is cleared; a stream says what came from the cache."""
    runs: list[str] = []
    graph = graph_of(cache, runs, CachePolicy())

    for question in ("a", "a", "b", "a"):
        assert world.call(graph, "invoke", {"question": question})["answers"] == [f"slow {question}", "fast"]
    assert runs == ["slow", "fast", "fast", "slow", "fast", "fast"]

    stats = cache.engine.stats()
    assert (stats.hits, stats.misses) == (2, 2)
    assert stats.saved_seconds > 0
    assert next(iter(graph.stream({"question": "a"}))) == {"slow": {"answers": ["slow a"]}, "__metadata__": {"cached": True}}
    world.call(graph, "clear_cache", ["fast"])
    runs.clear()
    world.call(graph, "invoke", {"question": "a"})
    world.call(graph, "clear_cache", ["slow"])
    world.call(graph, "invoke", {"question": "a"})
    assert runs == ["fast", "slow", "fast"]


def test_the_time_to_live_of_a_node(world: World, clock: FakeClock) -> None:
    """Is kept."""
    runs: list[str] = []
    graph = graph_of(LangGraphCache(TieredCache("memory://", clock=clock), name=NAME), runs, CachePolicy(ttl=60))
    for seconds in (0, 59, 2):
        clock.advance(seconds)
        world.call(graph, "invoke", {"question": "a"})
    assert runs.count("slow") == 2


def test_another_process(world: World, db: str) -> None:
    """Has what the first one wrote; so has a `LayeredCache` over the same file, which keeps its own answers apart."""
    runs: list[str] = []
    for make in (TieredCache, TieredCache, LayeredCache):
        cache = make("memory://", db)
        graph = graph_of(LangGraphCache(cache, name=NAME), runs, CachePolicy())
        assert world.call(graph, "invoke", {"question": "a"})["answers"] == ["slow a", "fast"]
        settled(LangGraphCache(cache, name=NAME).engine)
        cache.close()
    assert runs.count("slow") == 1


@pytest.mark.slow
def test_the_store_fails_and_the_graph_does_not(world: World) -> None:
    """Broken from the start, in the middle, and where nothing listens."""
    tier = FakeAuthority("fake")
    nobody = "redis://127.0.0.1:1/0#timeout=50ms"
    for tiers, fail_open in [([tier], True), ([tier], False), ([FakeTier("faster"), tier], False), ([nobody], False)]:
        engine = TieredCache(*tiers, policy=Policy(fail_open=fail_open))
        graph = graph_of(LangGraphCache(engine, name=NAME), [], CachePolicy())
        for tier.broken in (True, False, True):
            assert world.call(graph, "invoke", {"question": "a"})["answers"] == ["slow a", "fast"]
        tier.broken = False
        engine.close()


def test_a_fan_out(world: World, cache: LangGraphCache) -> None:
    """Each of several `Send`s by its own input; a conditional edge's `Send`s come back from the cache as such."""
    runs: list[str] = []

    def plan(state: State) -> Command[Any]:
        runs.append("plan")
        return Command(goto=[Send("work", {"question": word}) for word in state["question"].split()])

    def work(state: State) -> State:
        runs.append(state["question"])
        return {"answers": [state["question"].upper()]}

    builder = StateGraph(State).add_node("plan", plan, cache_policy=CachePolicy(), destinations=("work",))
    graph = builder.add_node("work", work, cache_policy=CachePolicy()).add_edge(START, "plan").compile(cache=cache)

    assert world.call(graph, "invoke", {"question": "a b c"})["answers"] == ["A", "B", "C"]
    assert sorted(runs) == ["a", "b", "c", "plan"]
    assert world.call(graph, "invoke", {"question": "a b c"})["answers"] == ["A", "B", "C"]
    assert world.call(graph, "invoke", {"question": "a b d"})["answers"] == ["A", "B", "D"]
    assert sorted(runs) == ["a", "b", "c", "d", "plan", "plan"]


def test_tasks(world: World, cache: LangGraphCache) -> None:
    """Each runs once, over interrupts and threads, until its cache is cleared."""
    runs: list[int] = []

    def work(number: int) -> int:
        erased(cache)
        runs.append(number)
        return 2 * number

    double = task(cache_policy=CachePolicy(key_func=cache_key))(work)

    @entrypoint(checkpointer=InMemorySaver(), cache=cache)
    def flow(numbers: list[int]) -> list[Any]:
        return [(double(number).result(), interrupt("well?")) for number in numbers]

    @entrypoint(checkpointer=InMemorySaver(), cache=cache)
    async def aflow(numbers: list[int]) -> list[Any]:
        return [(await double(number), interrupt("well?")) for number in numbers]

    graph = flow if world.name == "threads" else aflow

    def run() -> Any:
        config: Any = {"configurable": {"thread_id": str(uuid.uuid4())}}
        world.call(graph, "invoke", [1, 1, 2], config)
        return [world.call(graph, "invoke", Command(resume="yes"), config) for _ in range(3)][-1]

    expected = [(2, "yes"), (2, "yes"), (4, "yes")]
    assert [run(), run()] == [expected, expected]
    assert runs == [1, 2]
    world.call(double, "clear_cache", cache)
    assert run() == expected
    assert runs == [1, 2, 1, 2]


def test_what_was_computed_before_a_removal_is_not_served_after_it(world: World, cache: LangGraphCache) -> None:
    """Whoever stores it; and what is computed after one is kept, each time."""
    runs: list[str] = []
    removes = True

    def slow(state: State) -> State:
        erased(cache)
        runs.append("slow")
        if removes:
            graph.clear_cache()
        return {"answers": ["slow"]}

    builder = StateGraph(State).add_node("slow", slow, cache_policy=CachePolicy()).add_edge(START, "slow")
    graph: Any = builder.compile(cache=cache)
    for _ in range(3):
        world.call(graph, "invoke", {"question": "a"})
    assert len(runs) == 3

    removes = False
    for _ in range(5):
        runs.clear()
        world.call(graph, "clear_cache")
        for _ in range(3):
            world.call(graph, "invoke", {"question": "a"})
        assert len(runs) == 1


# --- what the caller says


def by_context(world: World, graph: Any, value: Any, options: dict[str, Any]) -> Any:
    with cache_options(**options):
        return world.call(graph, "invoke", value, {"metadata": {"said": options}})


def by_metadata(world: World, graph: Any, value: Any, options: dict[str, Any]) -> Any:
    """An account is no thing to say there."""
    said = {name: one for name, one in options.items() if name != "account"}
    with cache_options(account=options.get("account")):
        return world.call(graph, "invoke", value, {"metadata": {"said": options, "llm_cache": said}})


SAID: list[dict[str, Any]] = [
    {}, {"namespace": "a"}, {"namespace": "b"}, {"account": "sk-1"}, {"account": "sk-2"}, {"sample": 1}, {"namespace": "a", "sample": 1},
]  # fmt: skip


@pytest.mark.parametrize("run", [by_context, by_metadata])
def test_tenants_accounts_and_samples_are_apart(world: World, cache: LangGraphCache, run: Any) -> None:
    """In reading, in writing, and a tenant in removing; nodes and the tasks that they call, equal ones too."""
    runs: list[str] = []

    def work(number: int) -> str:
        runs.append("task")
        said: Any = get_config()["metadata"]["said"]
        return f"{number} {said}"

    double = task(cache_policy=CachePolicy())(work)

    def node(state: State, config: RunnableConfig) -> State:
        erased(cache)
        runs.append("node")
        RunnableLambda(str).invoke(1, {"metadata": {"llm_cache": {"namespace": "another"}}})
        results = [future.result() for future in [double(1), double(1), double(2)]]
        return {"answers": [*results, str(config["metadata"]["said"])]}

    builder = StateGraph(State).add_node("first", node, cache_policy=CachePolicy()).add_node("second", node, cache_policy=CachePolicy())
    graph: Any = builder.add_edge(START, "first").add_edge("first", "second").compile(cache=cache)

    def expected(options: dict[str, Any]) -> list[str]:
        return [f"1 {options}", f"1 {options}", f"2 {options}", str(options)] * 2

    for _ in range(2):
        for options in SAID:
            assert run(world, graph, {"question": "q"}, options)["answers"] == expected(options)
        assert runs.count("node") == 2 * len(SAID)

    with cache_options(namespace="a"):
        world.call(graph, "clear_cache", ["first"])
    runs.clear()
    for options in SAID:
        assert run(world, graph, {"question": "q"}, options)["answers"] == expected(options)
    assert runs.count("node") == 2


@pytest.mark.parametrize("run", [by_context, by_metadata])
def test_tenants_at_the_same_time(memory: LangGraphCache, run: Any) -> None:
    """With the same question, in threads and in tasks; each has its own answer, now and later."""

    async def answer(state: State, config: RunnableConfig) -> State:
        await asyncio.sleep(0.01)
        return {"answers": [config["metadata"]["said"]["namespace"]]}

    def sync_answer(state: State, config: RunnableConfig) -> State:
        return asyncio.run(answer(state, config))

    policy = CachePolicy(key_func=cache_key)
    builder = StateGraph(State).add_node("n", RunnableLambda(sync_answer, answer), cache_policy=policy)
    graph: Any = builder.add_edge(START, "n").compile(cache=memory)
    tenants = [f"tenant-{number}" for number in range(8)]

    async def in_tasks() -> list[Any]:
        async def one(tenant: str) -> Any:
            config: Any = {"metadata": {"said": {"namespace": tenant}}}
            if run is by_metadata:
                config["metadata"]["llm_cache"] = {"namespace": tenant}
                return await graph.ainvoke({"question": "q"}, config)
            with cache_options(namespace=tenant):
                return await graph.ainvoke({"question": "q"}, config)

        return await asyncio.gather(*map(one, tenants))

    for _ in range(2):
        with ThreadPoolExecutor(8) as pool:
            in_threads = pool.map(lambda tenant: run(Threads(), graph, {"question": "q"}, {"namespace": tenant}), tenants)
            assert [state["answers"] for state in in_threads] == [[tenant] for tenant in tenants]
        assert [state["answers"] for state in asyncio.run(in_tasks())] == [[tenant] for tenant in tenants]
    assert memory.engine.stats().stored == len(tenants)


@pytest.mark.parametrize("how", ["clear", "clear_cache"])
@pytest.mark.parametrize("left", ["done", "late", "abandoned", "open"])
async def test_removals_are_of_the_tenant_around_them_whatever_run_was_before(memory: LangGraphCache, how: str, left: str) -> None:
    """Its run is over, was cancelled, is a stream that was left, or one in whose loop the removal stands."""
    runs: list[str] = []

    async def slow(state: State) -> State:
        if state["question"] == "late":
            await asyncio.sleep(60)
        runs.append(state["question"])
        return {"answers": ["slow"]}

    graph: Any = StateGraph(State).add_node("slow", slow, cache_policy=CachePolicy()).add_edge(START, "slow").compile(cache=memory)
    of_a: Any = {"metadata": {"llm_cache": {"namespace": "a"}}}

    async def remove() -> None:
        await (memory.aclear() if how == "clear" else graph.aclear_cache(["slow"]))

    await graph.ainvoke({"question": "q"})
    await graph.ainvoke({"question": "q"}, of_a)
    assert runs == ["q", "q"]
    if left == "done":
        await graph.ainvoke({"question": "b"}, of_a)
        await remove()
    elif left == "late":
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(graph.ainvoke({"question": "late"}, of_a), 0.05)
        await remove()
    else:
        stream = graph.astream({"question": "b"}, of_a)
        await anext(stream)
        if left == "open":
            await remove()
            await stream.aclose()
        else:
            del stream
            await remove()

    await graph.ainvoke({"question": "q"}, of_a)
    assert runs.count("q") == 2
    await graph.ainvoke({"question": "q"})
    assert runs.count("q") == 3


async def test_what_a_run_has_said_ends_with_it(memory: LangGraphCache) -> None:
    """For the caller's own use of the cache, in the same task."""
    graph = graph_of(memory, [], CachePolicy())
    await graph.ainvoke({"question": "b"}, {"metadata": {"llm_cache": {"namespace": "a"}}})
    await memory.aset({KEY: ("mine", None)})

    assert await asyncio.to_thread(contextvars.Context().run, memory.get, [KEY]) == {KEY: "mine"}


def test_graphs_of_one_function_name_are_apart_by_the_name_of_the_cache(world: World, db: str, caplog: pytest.LogCaptureFixture) -> None:
    """LangGraph's key does not contain a closure. A name keeps its entries over restarts and apart in removals."""

    def answered(name: str, closed: str, tenant: str | None = None) -> str:
        def lookup(state: State) -> State:
            return {"answers": [closed]}

        with TieredCache(db) as engine, cache_options(namespace=tenant):
            cache = LangGraphCache(engine, name=name)
            builder = StateGraph(State).add_node("lookup", lookup, cache_policy=CachePolicy())
            graph: Any = builder.add_edge(START, "lookup").compile(cache=cache)
            answer = world.call(graph, "invoke", {"question": "q"})["answers"][0]
            if closed == "removed":
                world.call(cache, "clear")
            return answer

    assert [answered("hr", "one"), answered("legal", "two"), answered("langgraph", "three")] == ["one", "two", "three"]
    assert [answered("hr", "one", "t"), answered("hr", "four", "langgraph"), answered("hr", "five", "t")] == ["one", "four", "one"]
    assert [answered("hr", "new"), answered("legal", "removed"), answered("legal", "new"), answered("hr", "new")] == [
        "one", "two", "new", "one",
    ]  # fmt: skip
    assert warnings(caplog) == []
    for wrong in ("", 1):
        with TieredCache(db) as engine, pytest.raises(ConfigurationError, match="name must be"):
            LangGraphCache(engine, name=wrong)  # type: ignore[arg-type]


def test_under_a_key_that_no_other_call_has_nothing_is_kept(world: World, memory: LangGraphCache) -> None:
    """Nor looked for; other inputs of the same node are kept."""
    runs: list[str] = []
    graph = graph_of(memory, runs, CachePolicy(key_func=cache_key))
    for question in (Opaque(), Opaque(), "a", "a"):
        world.call(graph, "invoke", {"question": question})

    assert runs.count("slow") == 3
    stats = memory.engine.stats()
    assert (stats.stored, stats.misses, stats.hits) == (1, 1, 1)
    assert len(memory._births._by_key) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_does_not_wait_for_its_parents_births() -> None:
    births = Births()
    with births._lock:
        child = os.fork()
        if child == 0:
            signal.alarm(5)  # whoever waits is ended
            births.note(KEY, None, None)
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def test_what_may_not_be_said(world: World, memory: LangGraphCache, caplog: pytest.LogCaptureFixture) -> None:
    """Leaves the cache out of that run, and is told of once; what was computed in it is nobody's."""
    runs: list[str] = []
    graph = graph_of(memory, runs, CachePolicy())
    for said in ({"tenant": "a"}, "a", {"namespace": ""}):
        for _ in range(2):
            world.call(graph, "invoke", {"question": "a"}, {"metadata": {"llm_cache": said}})
    assert runs.count("slow") == 6
    assert len(warnings(caplog)) == 3
    world.call(graph, "invoke", {"question": "a"})
    assert runs.count("slow") == 7


def test_the_birth_of_what_a_task_writes() -> None:
    """Is found by the object of its key; for an equal one if there is no doubt; and is bounded."""
    births = Births(most=2)
    first, second, third = (Ticket(1, number) for number in range(3))
    a, b = (Asker(CallOptions(namespace=name)) for name in "ab")

    def key(text: str = "key") -> Any:
        return (("n",), "".join(text))  # a new object

    mine, equal, other = key(), key(), key()
    assert mine[1] is not equal[1] is not other[1]
    assert births.take(mine) is None
    births.note(mine, a, first)
    births.note(mine, a, second)  # it still runs
    births.note(equal, a, third)
    assert births.take(mine)[:2] == (a, first)
    assert births.take(mine)[:2] == (a, first)
    assert births.take(other)[:2] == (a, third)
    births.note(mine, a, third)  # it runs again
    assert births.take(mine)[:2] == (a, third)
    births.note(other, b, third)
    assert births.take(other)[:2] == (b, third)
    assert births.take(key())[:2] == (None, None)
    for number in range(2):
        births.note(key(f"{number}"), a, first)
    assert births.take(mine) is None


def test_modes_time_and_tags(world: World, clock: FakeClock) -> None:
    """As for models; of the node's time and the caller's, the shorter one counts."""
    cache = LangGraphCache(TieredCache("memory://", clock=clock), name=NAME)
    runs: list[str] = []
    graph = graph_of(cache, runs, CachePolicy(ttl=60))

    def ran(**options: Any) -> bool:
        runs.clear()
        with cache_options(**options):
            world.call(graph, "invoke", {"question": "a"})
        return "slow" in runs

    assert [ran(mode="read_only"), ran(mode="bypass"), ran(mode="only_cached")] == [True] * 3
    by_metadata(world, graph, {"question": "a"}, {"mode": "read_only"})
    assert [ran(), ran(), ran(mode="bypass"), ran(mode="refresh"), ran(mode="read_only")] == [True, False, True, True, False]
    assert [ran(mode="refresh", ttl=10, tags=["prices"]), ran()] == [True, False]
    cache.engine.invalidate(tag="prices")
    assert [ran(ttl=10), ran(), clock.advance(11), ran(ttl=100), clock.advance(61), ran()] == [True, False, None, True, None, True]


def test_who_must_be_named(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """A call without a tenant, or account, where one must be named is not cached, and told of once."""
    for policy, options in [(Policy(tenant_required=True), {"namespace": "a"}), (Policy(separate_accounts=True), {"account": "sk-1"})]:
        runs: list[str] = []
        graph = graph_of(LangGraphCache(TieredCache("memory://", policy=policy), name=NAME), runs, CachePolicy())
        for said, expected in (({}, 2), (options, 1)):
            runs.clear()
            with cache_options(**said):
                for _ in range(2):
                    world.call(graph, "invoke", {"question": "a"})
            assert runs.count("slow") == expected
    assert len(warnings(caplog)) == 2
    assert "sk-1" not in caplog.text


# --- keys, and nothing to do


class Chat(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]


@pytest.mark.parametrize(("policy", "expected"), [(CachePolicy(key_func=cache_key), 1), (CachePolicy(), 2)], ids=["ours", "theirs"])
def test_messages_have_other_ids_each_time(world: World, memory: LangGraphCache, policy: CachePolicy, expected: int) -> None:
    """Which `cache_key` does not count, and LangGraph's own key function does."""
    runs: list[str] = []

    def answer(state: Chat) -> Any:
        runs.append("answer")
        return {"messages": [AIMessage(f"You said: {state['messages'][-1].content}")]}

    graph: Any = StateGraph(Chat).add_node("answer", answer, cache_policy=policy).add_edge(START, "answer").compile(cache=memory)
    for _ in range(2):
        messages = world.call(graph, "invoke", {"messages": [HumanMessage("hello")]})["messages"]
        assert [message.content for message in messages] == ["hello", "You said: hello"]
        assert [type(message) for message in messages] == [HumanMessage, AIMessage]
    assert len(runs) == expected


def test_a_cache_that_has_nothing_to_do_is_told_of(memory: LangGraphCache, caplog: pytest.LogCaptureFixture) -> None:
    """Once, by `check`: no node has a policy, nor has one of a graph within; or the graph has another cache. Else it says nothing."""
    policy = CachePolicy()
    good = memory.check(graph_of(memory, [], policy))
    outer: Any = StateGraph(State).add_node("inner", graph_of(memory, [], policy)).add_edge(START, "inner").compile(cache=memory)

    @entrypoint(cache=memory)
    def flow(_: int) -> int:
        return 1

    for graph in (good, outer, flow):
        assert memory.check(graph) is graph
    assert warnings(caplog) == []

    for _ in range(2):
        memory.check(graph_of(memory, [], None))
    assert len(warnings(caplog)) == 1
    assert "no node" in caplog.text
    memory.check(graph_of(LangGraphCache(memory.engine), [], policy))
    assert "not compiled with this cache" in caplog.text
