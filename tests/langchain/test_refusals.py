"""An answer that its program refuses does not stay in the cache."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, ModelRetryMiddleware
from langchain.agents.structured_output import ProviderStrategy, StructuredOutputValidationError, ToolStrategy
from langchain_core.exceptions import OutputParserException
from langchain_core.globals import set_llm_cache
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser, StrOutputParser
from langchain_core.runnables import RunnableLambda, RunnableParallel, chain
from langchain_openai import ChatOpenAI, OpenAI
from layered_cache import Event, cache_options
from layered_cache.adapters.refusals import removals
from layered_cache.testing import FakeTier
from pydantic import BaseModel, Field, ValidationError
from support.pairwise import pairwise
from support.scripted_server import Json, Reply, ScriptedServer, chat_completion
from support.sync_async import Tasks, Threads, World

from langchain_layered_cache import LayeredCache, LayeredCacheMiddleware, cached

BAD, GOOD = '{"x": 99}', '{"x": 5}'


class Out(BaseModel):
    x: int = Field(ge=0, le=10)


class Provider(ScriptedServer):
    """Returns `bad` bad answers to each question, then good ones; fails `failures[question]` times."""

    def __init__(self) -> None:
        self.bad = 1
        self.failures: dict[str, int] = {}
        self.asked: list[str] = []
        super().__init__(self._reply)

    def _reply(self, path: str, body: Json) -> Reply:
        question = body["prompt"] if "prompt" in body else body["messages"][-1]["content"]
        question = question[0] if isinstance(question, list) else question
        if self.failures.get(question, 0) > 0:
            self.failures[question] -= 1
            return 500, {"error": {"message": "down", "type": "server_error"}}
        self.asked.append(question)
        text = BAD if self.asked.count(question) <= self.bad else GOOD
        if "prompt" in body:
            choice = {"index": 0, "text": text, "finish_reason": "stop", "logprobs": None}
            usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
            return {"id": "1", "object": "text_completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
        if body.get("tools"):
            return chat_completion(body, None, tool_calls=[(f"call_{len(self.asked)}", "Out", text)])
        return chat_completion(body, text)


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as provider:
        yield provider


@pytest.fixture
def cache(events: list[Event]) -> Iterator[LayeredCache]:
    cache = LayeredCache("memory://", observers=[events.append])
    yield cache
    set_llm_cache(None)
    cache.close()


Make = Callable[[], Any]


@pytest.fixture(params=["global", "wrapper"])
def make(request: pytest.FixtureRequest, cache: LayeredCache, provider: Provider) -> Make:
    """Make a model that is answered from the cache."""

    def make() -> Any:
        model = ChatOpenAI(model="m", base_url=provider.url, api_key="k", max_retries=0)
        if request.param == "global":
            set_llm_cache(cache)
            return model
        return cached(model, cache)

    return make


def retried(runnable: Any) -> Any:
    return runnable.with_retry(stop_after_attempt=3, wait_exponential_jitter=False)


def stream(world: World, runnable: Any, question: str) -> list[Any]:
    if world.name == "threads":
        return list(runnable.stream(question))

    async def collected() -> list[Any]:
        return [chunk async for chunk in runnable.astream(question)]

    return world.loop.run_until_complete(collected())  # type: ignore[attr-defined]


# --- chains


@pytest.mark.parametrize("method", ["function_calling", "json_mode"])
def test_retry_after_a_refused_answer_asks_the_model(method: Any, world: World, make: Make, provider: Provider) -> None:
    structured = retried(make().with_structured_output(Out, method=method))

    assert [world.call(structured, "invoke", "json?") for _ in range(3)] == [Out(x=5)] * 3
    assert provider.calls == 2


@pytest.mark.parametrize("method", ["function_calling", "json_mode"])
def test_refused_answer_is_not_served_again(method: Any, world: World, make: Make, provider: Provider) -> None:
    structured = make().with_structured_output(Out, method=method)

    with pytest.raises((ValidationError, OutputParserException)):
        world.call(structured, "invoke", "json?")
    assert [world.call(structured, "invoke", "json?") for _ in range(2)] == [Out(x=5)] * 2
    assert provider.calls == 2


def test_refused_answer_leaves_all_tiers(world: World, tmp_path: Path, provider: Provider) -> None:
    """A process that starts later asks the model."""
    model = ChatOpenAI(model="m", base_url=provider.url, api_key="k")
    url = f"sqlite:///{tmp_path / 'answers.db'}"
    for wanted in (OutputParserException, Out):
        with LayeredCache("memory://", url).engine as engine:
            structured = cached(model, LayeredCache(cache=engine)).with_structured_output(Out, method="json_mode")
            if wanted is Out:
                assert world.call(structured, "invoke", "json?") == Out(x=5)
            else:
                with pytest.raises(wanted):
                    world.call(structured, "invoke", "json?")


def test_refusal_of_a_hit_is_noticed(world: World, make: Make, provider: Provider) -> None:
    """The answer was good enough for the caller that asked first."""
    model = make()
    assert world.call(model, "invoke", "json?").content == BAD
    parsed = model | PydanticOutputParser(pydantic_object=Out)

    with pytest.raises(OutputParserException):
        world.call(parsed, "invoke", "json?")
    assert world.call(parsed, "invoke", "json?") == Out(x=5)


def test_refusal_that_the_chain_catches_is_noticed(world: World, make: Make, provider: Provider) -> None:
    structured = make().with_structured_output(Out, method="json_mode", include_raw=True)

    assert isinstance(world.call(structured, "invoke", "json?")["parsing_error"], OutputParserException)
    assert world.call(structured, "invoke", "json?")["parsed"] == Out(x=5)


@pytest.mark.parametrize("method", ["function_calling", "json_mode"])
def test_refused_stream_is_not_served_again(method: Any, world: World, cache: LayeredCache, provider: Provider) -> None:
    """Parsers of streams do not raise: they give nothing."""
    model = cached(ChatOpenAI(model="m", base_url=provider.url, api_key="k"), cache)
    structured = model.with_structured_output(Out, method=method)

    assert [stream(world, structured, "json?") for _ in range(3)] == [[], [Out(x=5)], [Out(x=5)]]
    assert provider.calls == 2


def test_stream_that_a_function_refuses_is_not_served_again(world: World, cache: LayeredCache, provider: Provider) -> None:
    model = cached(ChatOpenAI(model="m", base_url=provider.url, api_key="k"), cache)
    parsed = model | RunnableLambda(lambda message: Out.model_validate_json(message.content))

    with pytest.raises(ValidationError):
        stream(world, parsed, "json?")
    assert stream(world, parsed, "json?") == stream(world, parsed, "json?") == [Out(x=5)]
    assert provider.calls == 2


def test_refusal_by_a_function_is_noticed(world: World, make: Make, provider: Provider) -> None:
    """It follows the model in a sequence, or calls it."""
    model = make()

    @chain
    def calls_the_model(question: str) -> Out:
        return Out.model_validate_json(model.invoke(question).content)

    follows = model | StrOutputParser() | RunnableLambda(Out.model_validate_json)
    for number, parsed in enumerate((follows, calls_the_model)):
        question = f"json {number}?"
        with pytest.raises(ValidationError):
            world.call(parsed, "invoke", question)
        assert world.call(parsed, "invoke", question) == Out(x=5)


class Refused(Exception):
    """Its name says nothing."""


def test_retry_asks_the_model_whatever_the_error(world: World, make: Make, provider: Provider) -> None:
    def checked(message: Any) -> int:
        if json.loads(message.content)["x"] > 10:
            raise Refused
        return json.loads(message.content)["x"]

    assert world.call(retried(make() | RunnableLambda(checked)), "invoke", "json?") == 5
    assert provider.calls == 2


def test_retry_of_the_model_alone_counts(world: World, make: Make, provider: Provider) -> None:
    """The answer belongs to a run inside of the sequence."""
    parsed = retried(make()) | PydanticOutputParser(pydantic_object=Out)

    with pytest.raises(OutputParserException):
        world.call(parsed, "invoke", "json?")
    assert world.call(parsed, "invoke", "json?") == Out(x=5)


def test_branches_that_are_refused_together(world: World, make: Make, provider: Provider) -> None:
    model = make()
    both = RunnableParallel(a=model, b=RunnableLambda(lambda _: "other?") | model)
    checked = both | RunnableLambda(lambda found: [Out.model_validate_json(found[name].content) for name in ("a", "b")])

    with pytest.raises(ValidationError):
        world.call(checked, "invoke", "json?")
    assert world.call(checked, "invoke", "json?") == [Out(x=5)] * 2
    assert provider.calls == 4


def test_batch_keeps_the_answers_that_nobody_refused(world: World, make: Make, provider: Provider) -> None:
    provider.asked = ["good 1?", "good 2?"]
    parsed = make() | PydanticOutputParser(pydantic_object=Out)

    with pytest.raises(OutputParserException):
        world.call(parsed, "batch", ["good 1?", "bad?", "good 2?"])
    assert world.call(parsed, "batch", ["good 1?", "bad?", "good 2?"]) == [Out(x=5)] * 3
    assert provider.calls == 4


def test_plain_llm_refused_answer_is_not_served_again(world: World, cache: LayeredCache, provider: Provider) -> None:
    set_llm_cache(cache)
    bare = OpenAI(model="m", base_url=provider.url, api_key="k", max_retries=0)
    for number, model in enumerate((bare, cached(bare))):
        parsed = model | PydanticOutputParser(pydantic_object=Out)
        with pytest.raises(OutputParserException):
            world.call(parsed, "invoke", f"json {number}?")
        assert world.call(parsed, "invoke", f"json {number}?") == Out(x=5)


# --- what refuses nothing


def test_failure_elsewhere_keeps_the_answer(world: World, make: Make, provider: Provider) -> None:
    """The network, an application's own error, another model."""

    def unreachable(_: Any) -> None:
        raise ConnectionError

    def refuses(_: Any) -> None:
        raise Refused

    model = make()
    provider.failures = {"second?": 1}
    second = StrOutputParser() | RunnableLambda(lambda _: "second?") | model
    for step in (RunnableLambda(unreachable), RunnableLambda(refuses), second):
        with pytest.raises(Exception):  # noqa: B017 - any of them
            world.call(model | step, "invoke", "first?")
    assert provider.asked == ["first?"]


def test_retry_after_a_failure_elsewhere_keeps_the_answer(world: World, make: Make, provider: Provider) -> None:
    provider.failures = {"second?": 2}
    model = make()

    world.call(retried(model | StrOutputParser() | RunnableLambda(lambda _: "second?") | model), "invoke", "first?")

    assert provider.asked == ["first?", "second?"]
    assert provider.calls == 4


def test_only_the_latest_answer_is_refused(world: World, make: Make, provider: Provider) -> None:
    provider.asked = ["first?"]
    model = make()
    first = model | JsonOutputParser()
    both = first | RunnableLambda(lambda _: "second?") | model | PydanticOutputParser(pydantic_object=Out)

    with pytest.raises(OutputParserException):
        world.call(both, "invoke", "first?")
    assert world.call(both, "invoke", "first?") == Out(x=5)
    assert provider.asked == ["first?", "first?", "second?", "second?"]


def test_only_the_latest_of_two_chains_is_refused(world: World, make: Make, provider: Provider) -> None:
    """The first one has ended before the second one began."""
    provider.asked = ["first?"]
    model = make()

    @chain
    def both(_: str) -> Out:
        (model | StrOutputParser()).invoke("first?")
        return Out.model_validate_json((model | StrOutputParser()).invoke("second?"))

    with pytest.raises(ValidationError):
        world.call(both, "invoke", "q")
    assert world.call(both, "invoke", "q") == Out(x=5)
    assert provider.asked == ["first?", "first?", "second?", "second?"]


def test_all_branches_are_refused_together(cache: LayeredCache, provider: Provider) -> None:
    """One after the other: each is a model, and has its answer before the next one begins."""
    model = cached(ChatOpenAI(model="m", base_url=provider.url, api_key="k"), cache)
    both = RunnableParallel(a=model, b=model.bind(stop=["x"]))
    checked = both | RunnableLambda(lambda found: [Out.model_validate_json(found[name].content) for name in ("a", "b")])
    provider.bad = 2

    with pytest.raises(ValidationError):
        checked.invoke("json?", {"max_concurrency": 1})
    assert checked.invoke("json?", {"max_concurrency": 1}) == [Out(x=5)] * 2
    assert provider.calls == 4


async def test_lookup_waits_for_a_removal_in_its_loop(provider: Provider) -> None:
    """The removal runs in a thread, since callbacks cannot wait there."""
    tier = FakeTier(latency=0.1)
    with LayeredCache("memory://", tier).engine as engine:
        parsed = cached(ChatOpenAI(model="m", base_url=provider.url, api_key="k"), LayeredCache(cache=engine))
        structured = parsed | PydanticOutputParser(pydantic_object=Out)
        with pytest.raises(OutputParserException):
            await structured.ainvoke("json?")
        assert len(removals.pending) == 1
        assert await structured.ainvoke("json?") == Out(x=5)
        assert not removals.pending


@pytest.mark.slow
def test_removal_that_fails_is_reported(world: World, provider: Provider, events: list[Event]) -> None:
    """The caller gets its parser's error, and nothing else; memory has lost the answer."""
    tier = FakeTier()
    cache = LayeredCache("memory://", tier, observers=[events.append])
    model = cached(ChatOpenAI(model="m", base_url=provider.url, api_key="k"), cache)
    parsed = model | PydanticOutputParser(pydantic_object=Out)
    world.call(model, "invoke", "json?")
    tier.broken = True

    with pytest.raises(OutputParserException):
        world.call(parsed, "invoke", "json?")
    assert world.call(parsed, "invoke", "json?") == Out(x=5)
    cache.close()

    assert "tier_failed" in {event.kind for event in events}
    assert "refused" in {event.reason for event in events if event.kind == "invalidated"}


@pytest.mark.parametrize("mode", ["read_only", "bypass"])
def test_call_that_stores_nothing_removes_nothing(mode: Any, world: World, make: Make, provider: Provider) -> None:
    model = make()
    world.call(model, "invoke", "json?")
    provider.bad = 2
    with cache_options(mode=mode), pytest.raises(OutputParserException):
        world.call(model | PydanticOutputParser(pydantic_object=Out), "invoke", "json?")

    assert world.call(model, "invoke", "json?").content == BAD


def test_many_refusals_leave_other_answers_alone(cache: LayeredCache, provider: Provider) -> None:
    """A removal is no rule of the invalidation log: a full log voids the entries that are older than it."""
    cached(ChatOpenAI(model="m", base_url=provider.url, api_key="k"), cache).invoke("kept?")
    seq = cache.engine.ticket().seq
    for number in range(3):
        removals.remove(cache.engine, cache.key(str(number), "m") or "")

    assert cache.engine.ticket().seq == seq


# --- agents

STRATEGIES = {"provider": ProviderStrategy(Out), "tool": ToolStrategy(Out, handle_errors=False)}
QUESTION = {"messages": [("user", "json?")]}


AGENTS = ["global", "wrapper", "middleware"]


@pytest.fixture(params=AGENTS)
def agent(request: pytest.FixtureRequest, cache: LayeredCache, provider: Provider) -> Callable[..., Any]:
    """Make an agent that is answered from the cache."""

    def agent(strategy: Any, before: list[AgentMiddleware[Any, Any, Any]], after: list[AgentMiddleware[Any, Any, Any]]) -> Any:
        model = ChatOpenAI(model="m", base_url=provider.url, api_key="k", max_retries=0)
        set_llm_cache(cache if request.param == "global" else None)
        model = cached(model, cache) if request.param == "wrapper" else model
        middle = [LayeredCacheMiddleware(cache)] if request.param == "middleware" else []
        return create_agent(model, [], response_format=strategy, middleware=[*before, *middle, *after])

    return agent


@pytest.mark.parametrize(("agent", "strategy", "world"), pairwise(AGENTS, STRATEGIES, [Threads, Tasks]), indirect=["agent", "world"])
def test_agent_recovers_from_a_refused_answer(strategy: str, world: World, agent: Callable[..., Any], provider: Provider) -> None:
    made = agent(STRATEGIES[strategy], [], [])

    with pytest.raises(StructuredOutputValidationError):
        world.call(made, "invoke", QUESTION)
    assert [world.call(made, "invoke", QUESTION)["structured_response"] for _ in range(2)] == [Out(x=5)] * 2
    assert provider.calls == 2


@pytest.mark.parametrize(
    ("agent", "strategy", "place", "world"),
    pairwise(AGENTS, STRATEGIES, ["before", "after"], [Threads, Tasks]),
    indirect=["agent", "world"],
)
def test_agent_retry_asks_the_model(strategy: str, place: str, world: World, agent: Callable[..., Any], provider: Provider) -> None:
    retry = [ModelRetryMiddleware(max_retries=2, initial_delay=0, jitter=False, on_failure="error")]
    made = agent(STRATEGIES[strategy], *((retry, []) if place == "before" else ([], retry)))

    assert [world.call(made, "invoke", QUESTION)["structured_response"] for _ in range(2)] == [Out(x=5)] * 2
    assert provider.calls == 2
