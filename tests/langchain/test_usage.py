"""What was spent and what was saved, apart."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import get_usage_metadata_callback
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableLambda
from langchain_openai import ChatOpenAI
from layered_cache.testing import OpenAIServer

from langchain_layered_cache import LayeredCache, UsageCallback, cached, usage_callback


@pytest.fixture(autouse=True)
def _cache() -> Iterator[None]:
    cache = LayeredCache("memory://")
    set_llm_cache(cache)
    yield
    set_llm_cache(None)
    cache.close()


@pytest.fixture
def model(server: OpenAIServer) -> ChatOpenAI:
    return ChatOpenAI(model="gpt-4o-mini", base_url=server.url, api_key="none")


async def test_hits_are_saved_and_the_rest_is_spent(model: ChatOpenAI) -> None:
    """LangChain's counter adds them up."""
    with usage_callback() as usage, get_usage_metadata_callback() as theirs:
        first = model.invoke("hello")
        for _ in range(2):
            await model.ainvoke("hello")

    tokens = first.usage_metadata["total_tokens"]
    assert {name: used.tokens for name, used in usage.spent.items()} == {"gpt-4o-mini": tokens}
    assert {name: used.tokens for name, used in usage.saved.items()} == {"gpt-4o-mini": 2 * tokens}
    assert usage.saved["gpt-4o-mini"].answers == 2
    assert usage.saved_usd == pytest.approx(2 * usage.spent_usd)
    assert usage.spent_usd > 0
    assert theirs.usage_metadata["gpt-4o-mini"]["total_tokens"] == 3 * tokens


async def test_agents_and_batches_are_counted(model: ChatOpenAI) -> None:
    """In whatever thread or task they call the model; outside of the block nothing is."""
    agent: Any = create_agent(model, tools=[])
    with usage_callback() as usage:
        for _ in range(2):
            agent.invoke({"messages": [HumanMessage("hello")]})
            await agent.ainvoke({"messages": [HumanMessage("hello")]})
        model.batch(["a", "b"])
        await model.abatch(["a", "b"])
    model.invoke("outside")

    assert usage.spent["gpt-4o-mini"].answers == 3
    assert usage.saved["gpt-4o-mini"].answers == 5


def test_blocks_of_other_tasks_are_not_mixed_up(model: ChatOpenAI) -> None:
    async def one(text: str) -> int:
        with usage_callback() as usage:
            for _ in range(3):
                await model.ainvoke(text)
            return usage.spent["gpt-4o-mini"].answers + usage.saved["gpt-4o-mini"].answers

    async def main() -> list[int]:
        return await asyncio.gather(*(one(f"text {number}") for number in range(10)))

    assert asyncio.run(main()) == [3] * 10


def test_it_can_be_given_to_a_call(model: ChatOpenAI) -> None:
    usage = UsageCallback()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: model.invoke(f"text {number % 4}", {"callbacks": [usage]}), range(40)))

    assert usage.spent["gpt-4o-mini"].answers == 4
    assert usage.saved["gpt-4o-mini"].answers == 36
    assert "text" not in repr(usage)


def test_an_answer_without_usage_is_an_answer() -> None:
    model = FakeListChatModel(responses=["one"])
    with usage_callback() as usage:
        model.invoke("hello")
        model.invoke("hello")

    assert (usage.spent["unknown"].answers, usage.saved["unknown"].answers) == (1, 1)
    assert usage.spent_usd == usage.saved_usd == 0


def test_blocks_nest(model: ChatOpenAI) -> None:
    """Each counts what happens in it, once: also what an agent does that was begun in the outer one."""
    with usage_callback() as outer:
        model.invoke("outer")
        with usage_callback() as inner:
            model.invoke("inner")

        def ask(text: str) -> str:
            with usage_callback() as inside:
                answer = model.invoke(text)
            assert inside.spent["gpt-4o-mini"].answers == 1
            return str(answer.content)

        RunnableLambda(ask).invoke("inside")
        with usage_callback() as last:
            model.invoke("inside")

    assert outer.spent["gpt-4o-mini"].answers == 3
    assert outer.saved["gpt-4o-mini"].answers == 1
    assert inner.spent["gpt-4o-mini"].answers == 1
    assert (last.spent, last.saved["gpt-4o-mini"].answers) == ({}, 1)


async def test_a_stream_from_the_cache_without_usage_is_saved() -> None:
    model = cached(FakeListChatModel(responses=["one two"]))
    with usage_callback() as usage:
        for _ in range(2):
            list(model.stream("hello"))
            async for _ in model.astream("hello"):
                pass

    assert (usage.spent["unknown"].answers, usage.saved["unknown"].answers) == (1, 3)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
def test_a_child_does_not_wait_for_a_lock_of_its_parent() -> None:
    usage = UsageCallback()
    with usage._lock:
        if (child := os.fork()) == 0:
            os._exit(0 if usage.spent == {} else 1)
        for _ in range(500):
            if (ended := os.waitpid(child, os.WNOHANG))[0]:
                break
            time.sleep(0.01)
        else:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            pytest.fail("it waits")
    assert ended[1] == 0
