"""How much later a program is ready (G17): the import, and the first hit of a new process."""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import _cold as cold
from benchmarks._bench import Bench
from benchmarks._line import Line

ROUNDS = 11
_IMPORT = """
import time
import langchain_core.language_models.chat_models, langchain_core.caches
began = time.perf_counter()
import {module}
print((time.perf_counter() - began) * 1000)
"""


def measure(bench: Bench) -> Iterator[Line]:
    """Yield the lines of this theme."""
    file, theirs = bench.file(), bench.file()
    programs: dict[str, Callable[[], float]] = {
        "layered_cache": lambda: _import_ms("layered_cache"),
        "langchain_layered_cache": lambda: _import_ms("langchain_layered_cache"),
        "floor": lambda: _cold_ms("floor"),
        "layered": lambda: _cold_ms("layered", file),
        "community": lambda: _cold_ms("community", theirs),
    }
    found: dict[str, list[float]] = {name: [] for name in programs}
    absent = dict[str, str]()
    rounds = bench.some(ROUNDS, least=0)
    for _ in range(rounds + 1):
        for name in random.sample(list(programs), len(programs)):
            try:
                found[name].append(programs[name]())
            except subprocess.CalledProcessError as error:
                absent[name] = error.stderr.strip().rpartition("\n")[2]
                del programs[name]
    if rounds:  # the first time fills the file, and the interpreter's caches
        found = {name: times[1:] for name, times in found.items()}

    def later(what: str, name: str, target: str | None = None, base: str | None = None) -> Line:
        if name in absent:
            return Line("G17", what, target=target, reason=absent[name])
        bases = found[base] if base else [0.0] * len(found[name])
        ms = statistics.median(mine - other for mine, other in zip(found[name], bases, strict=True))
        return Line("G17", what, ms, " ms", target)

    yield later("import layered_cache, langchain_core being loaded", "layered_cache", "<= 20 ms")
    yield later("import langchain_layered_cache, langchain_core being loaded", "langchain_layered_cache")
    floor = "later than LangChain's own first answer"
    yield later(f"first SQLite hit of a process: {floor} ({statistics.median(found['floor']):.0f} ms)", "layered", "<= 40 ms", "floor")
    yield later(f"first hit of community SQLiteCache: {floor}", "community", base="floor")


def _import_ms(module: str) -> float:
    return float(_output("-c", _IMPORT.format(module=module)))


def _cold_ms(kind: str, *paths: Path) -> float:
    """Return how long a new process takes to its first answer. The clock is the same in all processes."""
    began = time.monotonic()
    return (float(_output("-W", "ignore", cold.__file__, kind, *map(str, paths))) - began) * 1000


def _output(*arguments: str) -> str:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True).stdout
