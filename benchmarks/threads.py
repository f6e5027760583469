"""Eight threads that hit memory at once (G14): together as fast as one alone, and none waits for long."""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks import _peers as peers
from benchmarks._bench import Bench
from benchmarks._line import Line
from benchmarks._payloads import copies
from benchmarks._race import NotMeasuredError
from benchmarks.memory import LLM, PROMPT, holding

THREADS = 8
CALLS = 16_000  # of all threads together: long enough that they take the interpreter from one another many times
ROUNDS = 15
_COPIES = 200

Lookup = Callable[[str, str], Any]


def measure(bench: Bench) -> Iterator[Line]:
    """Yield the lines of this theme."""
    ours = holding(bench.cache("memory://"))
    calls = bench.some(CALLS, least=THREADS * 10)
    alone, together, waits = list[float](), list[float](), list[int]()
    for _ in range(bench.some(ROUNDS, least=2)):
        for threads in random.sample((1, THREADS), 2):
            rate, times = _run(ours.lookup, threads, calls)
            (together if threads > 1 else alone).append(rate)
            waits += times if threads > 1 else []
    ratios = [many / one for many, one in zip(together, alone, strict=True)]
    us = (1e6 / statistics.median(together), 1e6 / statistics.median(alone))
    yield Line("G14", "hits per second: 8 threads / one", statistics.median(ratios), target=">= 0.9x", us=us)
    yield Line("G14", "99th percentile of a hit, 8 threads", statistics.quantiles(waits, n=100)[98] / 1000, " us", "<= 50 us")
    what = "hits per second, 8 threads: ours / community RedisCache"
    try:
        theirs = holding(peers.redis_cache(bench.redis_port))
    except NotMeasuredError as error:
        yield Line("G14", what, target=">= 25x", reason=str(error))
    else:
        rate, _ = _run(theirs.lookup, THREADS, max(THREADS * 10, calls // 20))
        yield Line("G14", what, statistics.median(together) / rate, target=">= 25x", us=(us[0], 1e6 / rate))


def _run(lookup: Lookup, threads: int, calls: int) -> tuple[float, list[int]]:
    """Let *threads* make *calls* together; return calls per second, and how long each took in nanoseconds."""
    start = threading.Barrier(threads + 1)
    times: list[list[int]] = [[] for _ in range(threads)]
    # each has its texts, for LangChain makes them anew for every call
    workers = [threading.Thread(target=_work, args=(lookup, calls // threads, start, mine)) for mine in times]
    for worker in workers:
        worker.start()
    start.wait()
    began = time.perf_counter()
    for worker in workers:
        worker.join()
    taken = time.perf_counter() - began
    return sum(map(len, times)) / taken, [ns for mine in times for ns in mine]


def _work(lookup: Lookup, calls: int, start: threading.Barrier, times: list[int]) -> None:
    texts = copies(PROMPT, LLM)(_COPIES)
    clock, note = time.perf_counter_ns, times.append
    start.wait()
    for call in range(calls):
        began = clock()
        lookup(*texts[call % _COPIES])
        note(clock() - began)
