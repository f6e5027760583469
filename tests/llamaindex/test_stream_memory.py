"""The memory of a long stream through the cache: at most twice that of the stream alone, and in proportion to its length."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from layered_cache import TieredCache
from llama_index.core.llms import LLM, ChatMessage
from llama_index.llms.openai import OpenAI
from support.stream_memory import peak, word_server
from support.sync_async import World

from llamaindex_layered_cache import cached

LENGTHS = [400, pytest.param(4_000, marks=pytest.mark.slow)]  # words


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with word_server() as url:
        yield url


def reader(world: World, llm: LLM, method: str) -> Callable[[str], int]:
    """Return a function that reads a stream and counts its chunks."""

    def asked(question: str) -> Any:
        return [ChatMessage(question)] if method == "stream_chat" else question

    async def drained(question: str) -> int:
        return len([None async for _ in await getattr(llm, f"a{method}")(asked(question))])

    if world.name == "threads":
        return lambda question: sum(1 for _ in getattr(llm, method)(asked(question)))
    return lambda question: world.loop.run_until_complete(drained(question))  # type: ignore[union-attr]


@pytest.mark.parametrize("words", LENGTHS)
@pytest.mark.parametrize("method", ["stream_chat", pytest.param("stream_complete", marks=pytest.mark.slow)])
def test_a_long_stream_takes_memory_in_proportion(world: World, url: str, method: str, words: int) -> None:
    """Of a model that is called, and from the cache."""
    bare = OpenAI(model="gpt-4o-mini", api_base=url, api_key="none", max_retries=0)
    with TieredCache("memory://") as cache:
        alone, through = (reader(world, llm, method) for llm in (bare, cached(bare, cache)))
        for read in (alone, through, through):
            assert read("warm up 5") > 2
        most = peak(alone, words)
        shorter = peak(through, words // 4)
        assert peak(through, words, limit=min(2 * most, 4 * shorter)) <= min(2 * most, 4 * shorter)
        calls = cache.stats().misses
        assert peak(through, words, limit=most) <= most
        assert cache.stats().misses == calls


@pytest.mark.parametrize("words", LENGTHS)
def test_streams_of_several_readers_take_memory_in_proportion(world: World, url: str, words: int) -> None:
    """Each reader builds its own chunks."""
    bare = OpenAI(model="gpt-4o-mini", api_base=url, api_key="none", max_retries=0)

    def together(llm: LLM, question: str) -> None:
        if world.name == "tasks":

            async def one() -> None:
                async for _ in await llm.astream_chat([ChatMessage(question)]):
                    pass

            async def several() -> None:
                await asyncio.gather(*(one() for _ in range(3)))

            world.loop.run_until_complete(several())  # type: ignore[union-attr]
            return
        threads = [threading.Thread(target=lambda: list(map(id, llm.stream_chat([ChatMessage(question)])))) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    with TieredCache("memory://") as cache:
        llm = cached(bare, cache)
        for one in (bare, llm):
            together(one, "warm up 5")
        most = peak(partial(together, bare), words)
        assert peak(partial(together, llm), words, limit=2 * most) <= 2 * most
        assert cache.stats().stored < 5
