"""One call, however many ask: threads, tasks, loops and batches with real clients; and the ways in which a careless cache would hang.

Where something must not wait, `Policy.max_wait` is an hour, so that whoever does hangs the test.
"""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import BaseChatModel, BaseLLM, FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult, Generation, LLMResult
from langchain_openai import ChatOpenAI
from layered_cache import Event, Policy, cache_options
from layered_cache.testing import OpenAIServer

from langchain_layered_cache import LayeredCache
from langchain_layered_cache._callbacks.model_runs import _current

HOUR = Policy(max_wait=3600)


@pytest.fixture
def cache(events: list[Event]) -> Iterator[LayeredCache]:
    cache = LayeredCache("memory://", policy=HOUR, observers=[events.append])
    set_llm_cache(cache)
    yield cache
    set_llm_cache(None)
    cache.close()


@pytest.fixture
def slow_server() -> Iterator[OpenAIServer]:
    with OpenAIServer(latency=0.3) as server:
        yield server


@pytest.fixture
def model(slow_server: OpenAIServer) -> ChatOpenAI:
    return ChatOpenAI(model="gpt-4o-mini", base_url=slow_server.url, api_key="none", max_retries=0)


class Slow(BaseChatModel):
    """A model without a coroutine of its own, that counts its calls; the first of them fail."""

    delay: float = 0.2
    fail_first: int = 0
    calls: list[int] = []
    inside: Any = None

    @property
    def _llm_type(self) -> str:
        return "slow"

    def _begin(self) -> int:
        self.calls.append(1)
        return len(self.calls)

    def _end(self, number: int) -> ChatResult:
        if number <= self.fail_first:
            msg = "the model is down"
            raise RuntimeError(msg)
        return ChatResult(generations=[ChatGeneration(message=AIMessage(f"answer {number}"))])

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        number = self._begin()
        if self.inside is not None:
            return ChatResult(generations=[ChatGeneration(message=self.inside.invoke(messages))])
        time.sleep(self.delay)
        return self._end(number)


class Async(Slow):
    """The same with a coroutine."""

    async def _agenerate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        number = self._begin()
        await asyncio.sleep(self.delay)
        return self._end(number)


def in_threads(count: int, call: Callable[[], Any]) -> list[Any]:
    """Return what *call* returns, or raises, in each of so many threads that begin together."""
    barrier = threading.Barrier(count)

    def one(_: int) -> Any:
        barrier.wait()
        try:
            return call()
        except RuntimeError as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


async def in_tasks(count: int, call: Callable[[], Any]) -> list[Any]:
    return await asyncio.gather(*(call() for _ in range(count)), return_exceptions=True)


def contents(messages: list[Any]) -> set[str]:
    return {message.content for message in messages}


# --- one call


def test_fifty_threads_make_one_call(cache: LayeredCache, model: ChatOpenAI, slow_server: OpenAIServer) -> None:
    """Each gets a message of its own."""
    answers = in_threads(50, lambda: model.invoke("hello"))

    assert slow_server.calls == 1
    assert contents(answers) == {"You asked: hello"}
    assert len({id(answer) for answer in answers}) == len({answer.id for answer in answers}) == 50
    assert cache.stats().hits + cache.stats().misses == 50


async def test_two_hundred_tasks_make_one_call(cache: LayeredCache, model: ChatOpenAI, slow_server: OpenAIServer) -> None:
    answers = await in_tasks(200, lambda: model.ainvoke("hello"))

    assert slow_server.calls == 1
    assert contents(answers) == {"You asked: hello"}


async def test_a_model_without_coroutines_is_called_once_by_fifty_tasks(cache: LayeredCache) -> None:
    """LangChain calls it in threads of the loop's own pool."""
    model = Slow()

    assert contents(await in_tasks(50, lambda: model.ainvoke("hello"))) == {"answer 1"}


async def test_equal_prompts_of_a_batch_make_one_call(cache: LayeredCache, model: ChatOpenAI, slow_server: OpenAIServer) -> None:
    assert contents(await model.abatch(["hello"] * 20)) == {"You asked: hello"}
    assert slow_server.calls == 1
    assert contents(await asyncio.to_thread(model.batch, ["you"] * 20)) == {"You asked: you"}
    assert slow_server.calls == 2


async def test_equal_prompts_of_one_call_are_one_call(cache: LayeredCache) -> None:
    model = Async()

    result = await model.agenerate([[HumanMessage("hello")]] * 4)
    later = await asyncio.to_thread(model.generate, [[HumanMessage("you")]] * 4)

    assert {one[0].text for one in result.generations} == {"answer 1"}
    assert {one[0].text for one in later.generations} == {"answer 2"}


def test_four_loops_make_one_call(cache: LayeredCache, model: ChatOpenAI, slow_server: OpenAIServer) -> None:
    """Each has five tasks."""
    answers = in_threads(4, lambda: asyncio.run(in_tasks(5, lambda: model.ainvoke("hello"))))

    assert slow_server.calls == 1
    assert all(contents(one) == {"You asked: hello"} for one in answers)


async def test_twenty_agents_make_one_call(cache: LayeredCache, model: ChatOpenAI, slow_server: OpenAIServer) -> None:
    agent = create_agent(model, tools=[])

    states = await in_tasks(20, lambda: agent.ainvoke({"messages": [HumanMessage("hello")]}))

    assert slow_server.calls == 1
    assert {state["messages"][-1].content for state in states} == {"You asked: hello"}


async def test_threads_and_tasks_follow_each_other(cache: LayeredCache) -> None:
    """A task leads; threads and tasks follow."""
    model = Async()
    leader = asyncio.create_task(model.ainvoke("hello"))
    await asyncio.sleep(0.05)

    with ThreadPoolExecutor(5) as pool:
        threads = [asyncio.get_running_loop().run_in_executor(pool, model.invoke, "hello") for _ in range(5)]
        answers = await asyncio.gather(leader, *threads, *(model.ainvoke("hello") for _ in range(5)))

    assert contents(answers) == {"answer 1"}


# --- leaders without an answer


def test_after_a_leader_that_raises_one_thread_leads_again(cache: LayeredCache) -> None:
    model = Slow(fail_first=1)

    answers = in_threads(20, lambda: model.invoke("hello"))

    assert len(model.calls) == 2
    assert sum(isinstance(answer, RuntimeError) for answer in answers) == 1


async def test_after_a_leader_that_raises_one_task_leads_again(cache: LayeredCache) -> None:
    model = Async(fail_first=1)

    answers = await in_tasks(20, lambda: model.ainvoke("hello"))

    assert len(model.calls) == 2
    assert sum(isinstance(answer, RuntimeError) for answer in answers) == 1


@pytest.mark.alone
def test_a_model_that_is_down_is_not_asked_by_one_after_the_other(cache: LayeredCache) -> None:
    """After two that failed, all the others ask at once: each of them would have to wait for all before him."""
    model = Slow(fail_first=100)
    started = time.monotonic()

    answers = in_threads(20, lambda: model.invoke("hello"))

    assert all(isinstance(answer, RuntimeError) for answer in answers)
    assert len(model.calls) == 20
    assert time.monotonic() - started < 20 * model.delay * 0.75  # in a queue they would have taken all of it


async def test_a_leader_and_a_follower_that_are_cancelled_leave_the_others_alone(cache: LayeredCache) -> None:
    model = Async(delay=0.4)
    leader = asyncio.create_task(model.ainvoke("hello"))
    await asyncio.sleep(0.05)
    followers = [asyncio.create_task(model.ainvoke("hello")) for _ in range(10)]
    await asyncio.sleep(0.05)

    leader.cancel()
    followers[3].cancel()
    answers = await asyncio.gather(leader, *followers, return_exceptions=True)

    assert len(model.calls) == 2
    assert sum(isinstance(answer, asyncio.CancelledError) for answer in answers) == 2
    assert contents([answer for answer in answers if isinstance(answer, AIMessage)]) == {"answer 2"}


async def test_a_leader_that_gives_up_hands_over(cache: LayeredCache) -> None:
    """His time is over, in his own task; he says so to nobody."""
    model = Async(delay=0.3)

    async def impatient() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await model.ainvoke("hello")

    first = asyncio.create_task(impatient())
    await asyncio.sleep(0.03)
    assert (await model.ainvoke("hello")).content == "answer 2"
    await first


def test_a_loop_that_ends_around_its_leader_hands_over(cache: LayeredCache) -> None:
    """It was closed with the call under way."""
    model = Async(delay=0.3)
    loop = asyncio.new_event_loop()
    task = loop.create_task(model.ainvoke("hello"))
    loop.run_until_complete(asyncio.sleep(0.05))
    loop.close()

    assert model.invoke("hello").content == "answer 2"
    assert len(model.calls) == 2
    task._log_destroy_pending = False  # it was torn down on purpose


def test_a_thread_that_ends_without_a_word_hands_over(cache: LayeredCache) -> None:
    """Another handler in front of ours raises, and keeps the error of the model from it."""

    class Hiding(BaseCallbackHandler):
        raise_error = True

        def on_llm_error(self, error: BaseException, **kwargs: Any) -> None:
            msg = "hidden"
            raise ValueError(msg)

    model = Slow(fail_first=1, delay=0.01, callbacks=[Hiding()])

    def doomed() -> None:
        with pytest.raises((ValueError, RuntimeError)):
            model.invoke("hello")

    thread = threading.Thread(target=doomed)
    thread.start()
    thread.join()
    assert model.invoke("hello").content == "answer 2"


def test_the_same_thread_tries_again_at_once(cache: LayeredCache) -> None:
    model = Slow(fail_first=1, delay=0.01)

    assert model.with_retry(wait_exponential_jitter=False).invoke("hello").content == "answer 2"


def test_a_call_that_takes_too_long_is_not_waited_for(events: list[Event]) -> None:
    """`max_wait` is the end of patience."""
    cache = LayeredCache("memory://", policy=Policy(max_wait=0.05))
    set_llm_cache(cache)
    try:
        model = Slow(delay=0.3)
        assert len(contents(in_threads(3, lambda: model.invoke("hello")))) == 3
    finally:
        set_llm_cache(None)
        cache.close()


# --- nobody waits who would wait for himself


class Plain(BaseLLM):
    """A plain model: LangChain looks all prompts up before it tells anybody."""

    fail: bool = False

    @property
    def _llm_type(self) -> str:
        return "plain"

    def _generate(self, prompts: list[str], stop: Any = None, run_manager: Any = None, **kwargs: Any) -> LLMResult:
        time.sleep(0.1)
        return LLMResult(generations=[[Generation(text=prompt)] for prompt in prompts])


def test_equal_prompts_of_a_plain_model_do_not_wait_for_each_other(cache: LayeredCache) -> None:
    assert [one[0].text for one in Plain().generate(["q", "q", "q"]).generations] == ["q", "q", "q"]


def test_two_that_want_the_same_two_in_another_order_do_not_wait_for_each_other(cache: LayeredCache) -> None:
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda prompts: Plain().generate(prompts), [["a", "b"], ["b", "a"]]))

    assert [[one[0].text for one in answer.generations] for answer in answers] == [["a", "b"], ["b", "a"]]


def test_two_batches_in_another_order_do_not_wait_for_each_other(cache: LayeredCache) -> None:
    """Of a chat model, whose prompts are asked one after the other."""
    model = Slow(delay=0.05)
    batches = [[[HumanMessage("a")], [HumanMessage("b")]], [[HumanMessage("b")], [HumanMessage("a")]]]

    with ThreadPoolExecutor(2) as pool:
        assert len(list(pool.map(model.generate, batches))) == 2


def test_a_model_inside_a_model_does_not_wait(cache: LayeredCache) -> None:
    """The outer one leads and asks an inner one, which leads too."""
    inner = Slow(delay=0.05)
    outer = Slow(inside=inner, name="outer")

    answers = in_threads(10, lambda: outer.invoke("hello"))

    assert contents(answers) == {"answer 1"}


async def test_a_call_on_the_loops_own_thread_does_not_wait_for_a_task_of_the_loop(cache: LayeredCache) -> None:
    model = Async(delay=0.2)
    leader = asyncio.create_task(model.ainvoke("hello"))
    await asyncio.sleep(0.05)

    assert model.invoke("hello").content == "answer 2"
    assert (await leader).content == "answer 1"


async def test_threads_of_the_loops_pool_do_not_wait_for_a_task_that_needs_one(cache: LayeredCache) -> None:
    """The model has no coroutine: the task that leads is called in that pool, which those who wait would fill."""
    model = Slow(delay=0.1)
    leader = asyncio.create_task(model.ainvoke("hello"))
    await asyncio.sleep(0)
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(4))

    answers = await asyncio.gather(leader, *(asyncio.to_thread(model.invoke, "hello") for _ in range(20)))

    assert len(answers) == 21


def test_who_only_looks_leads_nobody(cache: LayeredCache, model: ChatOpenAI, slow_server: OpenAIServer) -> None:
    """A lookup by hand is followed by no update."""
    llm_string = model._get_llm_string()
    for _ in range(3):
        assert cache.lookup("hello", llm_string) is None
    assert model.invoke("hello").content == "You asked: hello"
    for _ in range(3):
        assert cache.lookup("hello", llm_string) is None  # of another prompt: LangChain writes messages


async def test_a_lookup_after_a_call_that_was_cancelled_leads_nobody_for_long(cache: LayeredCache) -> None:
    """The run that LangChain never ended is no run of the next call."""
    model = Async(delay=0.3)
    for _ in range(40):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await model.ainvoke("hello")

    assert (await model.ainvoke("hello")).content.startswith("answer")
    depth, run = 0, _current.get()
    while run is not None:
        depth, run = depth + 1, run.outer
    assert depth < 20


# --- what is shared, and what is not


def test_what_may_not_be_stored_is_not_shared(events: list[Event]) -> None:
    """Nor does anybody wait in a queue for it: all but the first ask at once."""
    cache = LayeredCache("memory://", policy=dataclasses.replace(HOUR, cacheable=lambda request, answer: False))
    set_llm_cache(cache)
    try:
        model = Slow(delay=0.2)
        assert len(contents(in_threads(8, lambda: model.invoke("hello")))) == 8
    finally:
        set_llm_cache(None)
        cache.close()


class Odd(AIMessage):
    """A message that the codec does not know."""


class OddModel(Slow):
    def _end(self, number: int) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=Odd(f"answer {number}"))])


def test_what_cannot_be_stored_is_not_shared(cache: LayeredCache) -> None:
    model = OddModel()

    assert len(contents(in_threads(8, lambda: model.invoke("hello")))) == 8


@pytest.mark.parametrize("off", ["policy", "call", "sample"])
async def test_it_can_be_turned_off(off: str, events: list[Event]) -> None:
    """By the policy, by a call, or by those who want several answers to one prompt."""
    cache = LayeredCache("memory://", policy=dataclasses.replace(HOUR, single_flight=off != "policy"))
    set_llm_cache(cache)
    try:
        model = Async()
        said = {"policy": [{}] * 5, "call": [{"single_flight": False}] * 5, "sample": [{"sample": n} for n in range(5)]}[off]
        configs = [{"metadata": {"llm_cache": one}} for one in said]
        assert len(contents(await model.abatch(["hello"] * 5, configs))) == 5
        if off == "sample":  # each is kept
            assert len(contents(await model.abatch(["hello"] * 5, configs))) == 5
            assert len(model.calls) == 5
    finally:
        set_llm_cache(None)
        cache.close()


def test_an_answer_from_before_a_removal_reaches_nobody_after_it(cache: LayeredCache) -> None:
    """Who asks after the removal does not follow the call that began before it."""
    model = Slow(delay=0.3)
    before = threading.Thread(target=model.invoke, args=("hello",))
    before.start()
    time.sleep(0.1)
    cache.clear()

    assert model.invoke("hello").content == "answer 2"
    before.join()
    assert model.invoke("hello").content == "answer 2"


def test_nothing_is_left_behind(cache: LayeredCache) -> None:
    """No run, no flight."""
    model = Slow(delay=0.0)
    for number in range(50):
        contextvars.copy_context().run(model.invoke, f"hello {number}")
    assert _current.get() is None
    assert not cache.engine._computing._flights._aloft


def test_a_fake_model_of_langchains_own_is_asked_once(cache: LayeredCache) -> None:
    model = FakeListChatModel(responses=["one", "two"])

    assert [model.invoke("hello").content for _ in range(3)] == ["one"] * 3
    with cache_options(mode="bypass"):
        assert model.invoke("hello").content == "two"
