"""The key of a request that was never seen before, and what single flight costs on a hit (G15)."""

from __future__ import annotations

from collections.abc import Iterator

from layered_cache import Request

from benchmarks._bench import Bench
from benchmarks._line import Line
from benchmarks._payloads import answer, llm_string, prompt, unlike
from langchain_layered_cache._generation_codec import encode

SIZE = 18 * 1024


def measure(bench: Bench) -> Iterator[Line]:
    """Yield the lines of this theme."""
    yield from _key(bench)
    yield from _single_flight(bench)


def _key(bench: Bench) -> Iterator[Line]:
    cache, llm, text = bench.cache("memory://"), llm_string(), _prompt_of(SIZE)
    race = bench.race()
    race.enter("key", lambda: cache.key, lambda count: [(unlike(text), llm) for _ in range(count)])
    race.run()
    yield race.alone("", "key of a chat prompt of 18 KB, first time", "key", "<= 150 us")


def _prompt_of(size: int) -> str:
    """Return a prompt that is *size* long as LangChain writes it out, with all that stands around the texts."""
    around = len(prompt(6000)) - 6000
    return prompt(size - around)


def _single_flight(bench: Bench) -> Iterator[Line]:
    engine = bench.cache("memory://").engine
    request, value = Request("What is asked?", model="a model", params={"temperature": 0}), encode(answer())
    engine.set(request, value)
    race = bench.race()
    race.enter("compute", lambda: engine.get_or_compute, lambda count: [(request, lambda: b"")] * count)
    race.enter("get", lambda: engine.get, lambda count: [(request,)] * count)
    race.run()
    yield race.compare("G15", "single flight on a hit: get_or_compute / get", "compute", "get", "<= 1.05x")
