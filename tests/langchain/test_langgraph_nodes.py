"""Which nodes of LangGraph are cached: those with code that their key identifies, and no answer of a person to an interrupt."""

from __future__ import annotations

import functools
import logging
import operator
import sys
import types
import uuid
from collections import deque
from collections.abc import Callable
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.runnables import RunnableLambda
from langgraph.cache.base import BaseCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import START, StateGraph
from langgraph.types import CachePolicy, Command, interrupt
from layered_cache import Event, TieredCache
from support.sync_async import World, kinds

from langchain_layered_cache import LangGraphCache, cache_key, langgraph

POLICY = CachePolicy(key_func=cache_key)


class State(TypedDict, total=False):
    question: str
    answers: Annotated[list[str], operator.add]


@pytest.fixture
def engine(events: list[Event]) -> TieredCache:
    return TieredCache("memory://", observers=[events.append])


@pytest.fixture
def cache(engine: TieredCache) -> LangGraphCache:
    return LangGraphCache(engine, name="tests-1")


def graph_of(node: Any, *, cached: bool = True, **compiled: Any) -> Any:
    """Return a graph of *node* and of a node after it."""
    builder = StateGraph(State).add_node("node", node, cache_policy=POLICY if cached else None)
    return builder.add_edge(START, "node").compile(**compiled)


# --- interrupts


FAILURES: list[Exception] = []


def asks(state: State) -> State:
    answer = interrupt("may I?")
    if FAILURES:
        raise FAILURES.pop()
    return {"answers": [f"{state['question']}: {answer}"]}


def inside_a_node(world: World, **compiled: Any) -> Any:
    return graph_of(asks, **compiled)


def inside_a_subgraph(world: World, **compiled: Any) -> Any:
    return graph_of(graph_of(asks, cached=False), **compiled)


def two_graphs_deep(world: World, **compiled: Any) -> Any:
    return graph_of(graph_of(graph_of(asks)), **compiled)


def inside_a_graph_that_a_node_calls(world: World, **compiled: Any) -> Any:
    inner = graph_of(asks, cached=False)

    def calls(state: State) -> State:
        return {"answers": inner.invoke(state)["answers"]}

    async def acalls(state: State) -> State:
        return {"answers": (await inner.ainvoke(state))["answers"]}

    return graph_of(calls if world.name == "threads" else acalls, **compiled)


def inside_a_task(world: World, **compiled: Any) -> Any:
    """Of a workflow that is cached."""

    @task
    def asked(state: State) -> State:
        return asks(state)

    @entrypoint(cache_policy=POLICY, **compiled)
    def flow(state: State) -> State:
        return asked(state).result()

    @entrypoint(cache_policy=POLICY, **compiled)
    async def aflow(state: State) -> State:
        return await asked(state)

    return flow if world.name == "threads" else aflow


def inside_a_cached_task(world: World, **compiled: Any) -> Any:
    """Of a task with another name than its function, which calls a graph."""
    inner = graph_of(asks, cached=False)

    @task(name="other", cache_policy=POLICY)
    def asked(state: State) -> State:
        return inner.invoke(state)

    @task(name="other", cache_policy=POLICY)
    async def aasked(state: State) -> State:
        return await inner.ainvoke(state)

    @entrypoint(**compiled)
    def flow(state: State) -> State:
        return asked(state).result()

    @entrypoint(**compiled)
    async def aflow(state: State) -> State:
        return await aasked(state)

    return flow if world.name == "threads" else aflow


ASKING = [inside_a_node, inside_a_subgraph, two_graphs_deep, inside_a_graph_that_a_node_calls, inside_a_task, inside_a_cached_task]


def thread() -> Any:
    return {"configurable": {"thread_id": str(uuid.uuid4())}}


@pytest.mark.parametrize("make", ASKING, ids=lambda make: make.__name__)
def test_the_answer_of_one_thread_is_not_served_in_another(
    world: World, cache: LangGraphCache, make: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Wherever inside of the cached node it was given, and by the id of the interrupt too."""
    graph = make(world, cache=cache, checkpointer=InMemorySaver())
    for answer in ("yes", "no", "maybe"):
        config = thread()
        (asked,) = world.call(graph, "invoke", {"question": "q"}, config)["__interrupt__"]
        resume = answer if answer != "maybe" else {asked.id: answer}
        assert world.call(graph, "invoke", Command(resume=resume), config)["answers"] == [f"q: {answer}"]
    assert cache.engine.stats().stored == 0
    assert [record for record in caplog.records if record.levelno == logging.WARNING] == []


@pytest.mark.parametrize("make", [inside_a_node, inside_a_subgraph, inside_a_graph_that_a_node_calls], ids=lambda make: make.__name__)
def test_an_answer_that_a_failed_run_has_used_is_not_kept(world: World, cache: LangGraphCache, make: Callable[..., Any]) -> None:
    """The thread goes on without being given it again."""
    graph = make(world, cache=cache, checkpointer=InMemorySaver())
    config = thread()
    world.call(graph, "invoke", {"question": "q"}, config)
    FAILURES.append(ConnectionError())
    with pytest.raises(ConnectionError):
        world.call(graph, "invoke", Command(resume="yes"), config)
    assert world.call(graph, "invoke", None, config)["answers"] == ["q: yes"]
    assert cache.engine.stats().stored == 0


def test_nodes_after_an_interrupt_are_cached(world: World, cache: LangGraphCache) -> None:
    """Their input contains the answer. So are nodes before it, and a node that runs after a breakpoint."""
    runs: list[str] = []

    def plan(state: State) -> State:
        runs.append("plan")
        return {"answers": ["plan"]}

    def act(state: State) -> State:
        runs.append("act")
        return {"answers": [state["answers"][-1].upper()]}

    builder = StateGraph(State)
    builder.add_node("plan", plan, cache_policy=POLICY).add_node("asks", asks).add_node("act", act, cache_policy=POLICY)
    builder.add_edge(START, "plan").add_edge("plan", "asks").add_edge("asks", "act")
    inner = StateGraph(State).add_node("inner", act).add_edge(START, "inner").compile()
    builder.add_node("within", inner, cache_policy=POLICY).add_edge("act", "within")
    graph = builder.compile(cache=cache, checkpointer=InMemorySaver(), interrupt_before=["act"])
    for _ in range(2):
        config = thread()
        world.call(graph, "invoke", {"question": "q"}, config)
        world.call(graph, "invoke", Command(resume="yes"), config)
        found = world.call(graph, "invoke", None, config)["answers"]
        assert found[:3] == ["plan", "q: yes", "Q: YES"]
    assert runs == ["plan", "act", "act"]


def test_writes_with_an_answer_of_an_earlier_release_are_a_miss(world: World, cache: LangGraphCache, events: list[Event]) -> None:
    key = (("graph", "node"), "key")
    for writes in (deque([("__resume__", ["yes"]), ("answers", ["yes"])]), deque([("__error__", "x")]), deque[Any]()):
        world.call(cache, "set", {key: (writes, None)})
        assert world.call(cache, "get", [key]) == {}
    assert kinds(events).count("not_stored") == 3

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(langgraph, "_is_finished", lambda writes: True)
        world.call(cache, "set", {key: (deque([("__resume__", ["yes"])]), None)})
    assert world.call(cache, "get", [key]) == {}
    assert "undecodable" in kinds(events)


# --- code


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module of the user's with functions for nodes."""
    module = types.ModuleType("user_app")
    monkeypatch.setitem(sys.modules, "user_app", module)
    load(module)
    return module


SOURCE = """
import functools
from langgraph.func import task
from langgraph.types import CachePolicy
STYLE = "formal"
RUNS = []

def styled(state):
    RUNS.append("run")
    return {"answers": [f"{STYLE} {state['question']}"]}

def answer(state):
    return styled(state)

async def aanswer(state):
    return styled(state)

class Answering:
    def __call__(self, state):
        return styled(state)

    def method(self, state):
        return styled(state)

def made():
    def inner(state):
        return styled(state)
    return inner

anonymous = lambda state: styled(state)
partial = functools.partial(answer)
named = task(cache_policy=CachePolicy())(answer)
"""


def load(module: types.ModuleType, style: str = "formal") -> None:
    exec(compile(SOURCE.replace('"formal"', f'"{style}"'), "app.py", "exec", dont_inherit=True), vars(module))


def answered(world: World, cache: BaseCache[Any], node: Any, name: str = "node") -> str:
    builder = StateGraph(State).add_node(name, node, cache_policy=POLICY)
    return world.call(builder.add_edge(START, name).compile(cache=cache), "invoke", {"question": "q"})["answers"][0]


def test_the_code_of_a_node_counts(world: World, engine: TieredCache, app: Any) -> None:
    """Of two programs with one function name, and after a change."""
    found: list[str] = []
    for style in ("formal", "casual", "formal"):
        load(app, style)
        found.append(answered(world, LangGraphCache(engine), app.answer))
        found.append(str(len(app.RUNS)))
    assert found == ["formal q", "1", "casual q", "1", "formal q", "0"]
    app.STYLE = "plain"
    assert answered(world, LangGraphCache(engine), app.answer) == "plain q"


def test_the_code_of_a_task_counts(world: World, engine: TieredCache, app: Any) -> None:
    def flow(state: State) -> Any:
        return app.named(state).result()

    async def aflow(state: State) -> Any:
        return await app.named(state)

    found: list[Any] = []
    for style in ("formal", "casual", "formal"):
        load(app, style)
        graph = entrypoint(cache=LangGraphCache(engine))(flow if world.name == "threads" else aflow)
        found.append((world.call(graph, "invoke", {"question": "q"})["answers"], len(app.RUNS)))
    assert found == [(["formal q"], 1), (["casual q"], 1), (["formal q"], 0)]


UNNAMED: dict[str, Callable[[Any], Any]] = {
    "a coroutine function": lambda app: app.aanswer,
    "an object": lambda app: app.Answering(),
    "a partial": lambda app: app.partial,
    "a runnable": lambda app: RunnableLambda(app.answer),
    "a chain": lambda app: RunnableLambda(app.answer) | RunnableLambda(lambda state: state),
    "a graph": lambda app: graph_of(app.answer, cached=False),
    "a method": lambda app: app.Answering().method,
    "an inner function": lambda app: app.made(),
    "a lambda": lambda app: app.anonymous,
}


@pytest.mark.parametrize("make", UNNAMED.values(), ids=UNNAMED.keys())
def test_a_node_without_identity_needs_a_named_cache(
    world: World, engine: TieredCache, app: Any, make: Callable[[Any], Any], events: list[Event], caplog: pytest.LogCaptureFixture
) -> None:
    """Else it runs each time, and `check` and the run log the same warning once."""
    if world.name == "threads" and make is UNNAMED["a coroutine function"]:
        pytest.skip("LangGraph does not run it there")
    cache = LangGraphCache(engine)
    for _ in range(2):
        graph = StateGraph(State).add_node("node", make(app), cache_policy=POLICY).add_edge(START, "node").compile(cache=cache)
        assert cache.check(graph) is graph
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning.startswith("the node 'node' is not cached: ")
    assert "LangGraphCache(cache, name='faq-2')" in warning

    for _ in range(2):
        assert answered(world, cache, make(app)) == "formal q"
    assert len(app.RUNS) == 2
    assert len(caplog.records) == 1
    assert set(kinds(events)) == {"uncacheable"}

    for name in ("faq-1", "faq-1", "faq-2"):
        named = LangGraphCache(engine, name=name)
        assert answered(world, named, make(app)) == "formal q"
    assert len(app.RUNS) == 4
    assert len(caplog.records) == 1


def test_code_that_reads_an_object_needs_a_named_cache(
    world: World, engine: TieredCache, app: Any, caplog: pytest.LogCaptureFixture
) -> None:
    app.STYLE = app.Answering()
    for cache in (LangGraphCache(engine), LangGraphCache(engine, name="faq-1")):
        app.RUNS.clear()
        for _ in range(2):
            answered(world, cache, app.answer)
        assert len(app.RUNS) == (1 if cache.engine.name.endswith("faq-1") else 2)
    (record,) = caplog.records
    assert "user_app.styled uses 'STYLE', an object of user_app.Answering, which has no lasting text" in record.getMessage()


def test_a_function_that_was_defined_again_is_refused(
    world: World, engine: TieredCache, app: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """As in a notebook: the graph runs the old one. A new cache, or `check` of a new graph, clears it up."""
    cache = LangGraphCache(engine)
    old = graph_of(app.answer, cache=cache)
    assert world.call(cache.check(old), "invoke", {"question": "q"})["answers"] == ["formal q"]
    load(app, "casual")
    app.answer = functools.partial(app.answer)  # first another object without a name
    load(app, "casual")
    for _ in range(2):
        assert world.call(old, "invoke", {"question": "q"})["answers"] == ["casual q"]  # the old function reads the new constant
    assert "user_app.answer was defined again" in caplog.text
    assert engine.namespace("langgraph").stats().stored == 1

    new = cache.check(graph_of(app.answer, cache=cache))
    for _ in range(2):
        assert world.call(new, "invoke", {"question": "q"})["answers"] == ["casual q"]
    assert engine.namespace("langgraph").stats().stored == 2


def test_functions_of_libraries_are_identified_by_name(world: World, engine: TieredCache) -> None:
    cache = LangGraphCache(engine)
    key = (("__pregel_ns_writes", "operator.itemgetter", "node"), "key")
    world.call(cache, "set", {key: (deque([("answers", ["a"])]), None)})
    assert world.call(cache, "get", [key]) == {key: deque([("answers", ["a"])])}
