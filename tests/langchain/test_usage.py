"""What was spent and what was saved, apart."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import get_usage_metadata_callback
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI
from layered_cache.testing import OpenAIServer

from langchain_layered_cache import LayeredCache, UsageCallback, usage_callback


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
