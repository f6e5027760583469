"""Stores that do not answer (G16): what they cost the first lookup."""

from __future__ import annotations

import socket
import statistics
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager

from benchmarks._bench import Bench, Server, free_port
from benchmarks._line import Line
from benchmarks.memory import LLM, PROMPT
from langchain_layered_cache import LayeredCache

ROUNDS = 5
_TARGET = "<= 300 ms"
_HOST = "127.0.0.1"


def measure(bench: Bench, name: str, server: Server, url: Callable[[int], str]) -> Iterator[Line]:
    """Yield the lines of *server*, a store of that *name*; *url* is where a store at a port is found."""
    rounds = range(bench.some(ROUNDS))

    def hung() -> tuple[float, float]:
        cache = bench.cache(url(server.port))
        cache.lookup(PROMPT, LLM)
        bench.run(cache.alookup(PROMPT, LLM))
        with server.frozen():
            return _first(bench, cache, cache)

    def of(port: int) -> tuple[float, float]:
        return _first(bench, bench.cache(url(port)), bench.cache(url(port)))

    def refused() -> tuple[float, float]:
        return of(free_port())

    with _blackhole() as silent:
        for what, once in (("frozen", hung), ("refused", refused), ("blackholed", lambda: of(silent))):
            ms = [statistics.median(times) for times in zip(*(once() for _ in rounds), strict=True)]
            us = (ms[0] * 1000, ms[1] * 1000)
            yield Line("G16", f"{name}, {what}: first lookup or alookup, the slower one", max(ms), " ms", _TARGET, us=us)


def _first(bench: Bench, cache: LayeredCache, other: LayeredCache) -> tuple[float, float]:
    """Return how many milliseconds it takes *cache* to find nothing, and *other* in a loop."""
    began = time.perf_counter()
    cache.lookup(PROMPT, LLM)
    between = time.perf_counter()
    bench.run(other.alookup(PROMPT, LLM))
    return (between - began) * 1000, (time.perf_counter() - between) * 1000


@contextmanager
def _blackhole() -> Generator[int]:
    """Give a port at which connections never come up: others wait there already, for a server that takes none."""
    with socket.socket() as server:
        server.bind((_HOST, 0))
        server.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        try:
            for one in waiting:
                one.setblocking(False)  # noqa: FBT003 - it takes no keyword
                one.connect_ex(server.getsockname())
            yield server.getsockname()[1]
        finally:
            for one in waiting:
                one.close()
