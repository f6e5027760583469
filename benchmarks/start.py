"""How much later a program is ready (G17): the import, and the first hit of a new process."""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
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


class Starts:
    """New processes, by turns, and how many milliseconds each took for what it was to do."""

    def __init__(self, programs: Mapping[str, Callable[[], float]]) -> None:
        self._programs = dict(programs)
        self._ms: dict[str, list[float]] = {name: [] for name in programs}
        self._absent: dict[str, str] = {}

    def run(self, rounds: int) -> None:
        """Start all of them so often, and once before: the first time fills files, and the interpreter's caches."""
        for _ in range(rounds + 1):
            for name in random.sample(list(self._programs), len(self._programs)):
                try:
                    self._ms[name].append(self._programs[name]())
                except subprocess.CalledProcessError as error:
                    self._absent[name] = error.stderr.strip().rpartition("\n")[2]
                    del self._programs[name]
        if rounds:
            self._ms = {name: times[1:] for name, times in self._ms.items()}

    def median(self, name: str) -> float:
        """Return what *name* took."""
        return statistics.median(self._ms[name])

    def line(self, what: str, name: str, target: str | None = None, base: str | None = None) -> Line:
        """Return the line of what *name* took, or of what it took longer than *base*."""
        if name in self._absent:
            return Line("G17", what, target=target, reason=self._absent[name])
        bases = self._ms[base] if base else [0.0] * len(self._ms[name])
        ms = statistics.median(mine - other for mine, other in zip(self._ms[name], bases, strict=True))
        return Line("G17", what, ms, " ms", target)


def measure(bench: Bench) -> Iterator[Line]:
    """Yield the lines of this theme."""
    rounds = bench.some(ROUNDS, least=0)
    file, theirs = bench.path(), bench.path()
    environment = _environment(bench.path()) if rounds else None
    starts = Starts({
        "layered_cache": lambda: _import_ms("layered_cache", environment),
        "langchain_layered_cache": lambda: _import_ms("langchain_layered_cache", environment),
        "floor": lambda: _cold_ms(environment, "floor"),
        "layered": lambda: _cold_ms(environment, "layered", file),
        "community": lambda: _cold_ms(environment, "community", theirs),
    })  # fmt: skip
    starts.run(rounds)
    yield starts.line("import layered_cache, langchain_core being loaded", "layered_cache", "<= 20 ms")
    yield starts.line("import langchain_layered_cache, langchain_core being loaded", "langchain_layered_cache")
    floor = "later than LangChain's own first answer"
    yield starts.line(f"first SQLite hit of a process: {floor} ({starts.median('floor'):.0f} ms)", "layered", "<= 40 ms", "floor")
    yield starts.line(f"first hit of community SQLiteCache: {floor}", "community", base="floor")


def _environment(folder: Path) -> dict[str, str] | None:
    """Return variables by which compiled code is kept, as it is everywhere but where the environment forbids it."""
    if not sys.dont_write_bytecode:
        return None
    return {**{k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}, "PYTHONPYCACHEPREFIX": str(folder)}


def _import_ms(module: str, environment: Mapping[str, str] | None) -> float:
    return float(_output(environment, "-c", _IMPORT.format(module=module)))


def _cold_ms(environment: Mapping[str, str] | None, kind: str, *paths: Path) -> float:
    """Return how long a new process takes to its first answer. The clock is the same in all processes."""
    began = time.monotonic()
    return (float(_output(environment, "-W", "ignore", cold.__file__, kind, *map(str, paths))) - began) * 1000


def _output(environment: Mapping[str, str] | None, *arguments: str) -> str:
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=True).stdout
