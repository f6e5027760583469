"""The memory of a long stream through the cache: at most twice that of the stream alone, and in proportion to its length."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain_core.language_models import BaseLanguageModel
from langchain_openai import ChatOpenAI, OpenAI
from support.stream_memory import peak, word_server
from support.sync_async import World

from langchain_layered_cache import LayeredCache, cached

LENGTHS = [400, pytest.param(4_000, marks=pytest.mark.slow)]  # words


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with word_server() as url:
        yield url


def reader(world: World, model: BaseLanguageModel[Any]) -> Callable[[str], int]:
    """Return a function that reads a stream and counts its chunks."""

    async def drained(question: str) -> int:
        return len([None async for _ in model.astream(question)])

    if world.name == "threads":
        return lambda question: sum(1 for _ in model.stream(question))
    return lambda question: world.loop.run_until_complete(drained(question))  # type: ignore[union-attr]


@pytest.mark.parametrize("words", LENGTHS)
@pytest.mark.parametrize(("kind", "name"), [(ChatOpenAI, "gpt-4o-mini"), (OpenAI, "gpt-3.5-turbo-instruct")], ids=["chat", "plain"])
def test_a_long_stream_takes_memory_in_proportion(world: World, url: str, kind: Any, name: str, words: int) -> None:
    """Of a model that is called, and from the cache."""
    bare = kind(model=name, base_url=url, api_key="none", max_retries=0)
    cache = LayeredCache("memory://")
    alone, through = (reader(world, model) for model in (bare, cached(bare, cache)))
    for read in (alone, through, through):
        assert read("warm up 5") > 2
    most = peak(alone, words)
    shorter = peak(through, words // 4)
    assert peak(through, words, limit=min(2 * most, 5 * shorter)) <= min(2 * most, 5 * shorter)
    calls = cache.engine.stats().misses
    assert peak(through, words, limit=2 * most) <= 2 * most
    assert cache.engine.stats().misses == calls
    cache.close()
