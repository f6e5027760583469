"""What 50,000 answers in memory cost beside their bytes (G12, G13): the pause of a full garbage collection, and the process's growth.

Each cache is filled in a process of its own: `python -m benchmarks.collector layered 50000`.
"""

from __future__ import annotations

import gc
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from langchain_core.caches import BaseCache, InMemoryCache

from benchmarks._bench import Bench
from benchmarks._line import Line
from benchmarks._payloads import answer, llm_string, prompt, text, unlike
from langchain_layered_cache import LayeredCache

ENTRIES = 50_000
ROUNDS = 3
_SIZE = 2048
_COLLECTIONS = 7
_STATM = Path("/proc/self/statm")


class Cost(NamedTuple):
    """What a cache full of entries costs: milliseconds of a full collection, bytes of the process for each."""

    pause_ms: float
    bytes_each: float


def measure(bench: Bench) -> Iterator[Line]:
    """Yield the lines of this theme."""
    entries = bench.some(ENTRIES)
    try:
        pairs = [(_cost("layered", entries), _cost("in_memory", entries)) for _ in range(bench.some(ROUNDS))]
    except subprocess.CalledProcessError as error:
        yield Line("G12", f"{entries:,} entries", reason=error.stderr.strip().rpartition("\n")[2])
        return
    ours, theirs = (Cost(*map(statistics.median, zip(*costs, strict=True))) for costs in zip(*pairs, strict=True))
    pause = f"{entries:,} entries: a full garbage collection takes longer by (InMemoryCache: {theirs.pause_ms:.0f} ms)"
    yield Line("G13", pause, ours.pause_ms, " ms", "<= 1 ms")
    size = f"memory of an entry: ours ({ours.bytes_each:,.0f} bytes) / InMemoryCache ({theirs.bytes_each:,.0f} bytes)"
    yield Line("G12", size, ours.bytes_each / theirs.bytes_each, target="<= 0.30x")


def _cost(cache: str, entries: int) -> Cost:
    command = [sys.executable, "-m", __spec__.name, cache, str(entries)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return Cost(*json.loads(done.stdout))


# --- in a process of its own


def _new(name: str) -> BaseCache:
    return LayeredCache("memory://") if name == "layered" else InMemoryCache()


def _fill(name: str, entries: int) -> Cost:
    asked, llm, words, rnd = prompt(), llm_string(), text(1_000_000), random.Random(7)
    _new(name).update(unlike(asked), llm, answer())  # what is made once in a process is not counted
    gc.collect()
    gc.freeze()  # all that was there before: a collection looks only at what comes now
    cache = _new(name)
    before = _resident()
    for number in range(entries):
        at = rnd.randrange(len(words) - _SIZE)
        cache.update(unlike(asked), llm, answer(seed=number, body=words[at : at + _SIZE]))
    gc.collect()
    grown = _resident() - before
    return Cost(statistics.median(_pause() for _ in range(_COLLECTIONS)), grown / entries)


def _pause() -> float:
    began = time.perf_counter()
    gc.collect()
    return (time.perf_counter() - began) * 1000


def _resident() -> int:
    """Return how many bytes of memory this process has."""
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    print(json.dumps(_fill(sys.argv[1], int(sys.argv[2]))))
