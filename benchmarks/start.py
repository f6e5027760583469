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
began, cpu = time.monotonic(), time.process_time()
import {module}
print(time.monotonic() - began, time.process_time() - cpu)
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
    process = Process(bench.path() if rounds else None, by_cpu=bench.effort.by_cpu)
    starts = Starts({
        "layered_cache": lambda: process.importing("layered_cache"),
        "langchain_layered_cache": lambda: process.importing("langchain_layered_cache"),
        "floor": lambda: process.answering("floor"),
        "layered": lambda: process.answering("layered", file),
        "community": lambda: process.answering("community", theirs),
    })  # fmt: skip
    starts.run(rounds)
    yield starts.line("import layered_cache, langchain_core being loaded", "layered_cache", "<= 20 ms")
    yield starts.line("import langchain_layered_cache, langchain_core being loaded", "langchain_layered_cache")
    floor = "later than LangChain's own first answer"
    yield starts.line(f"first SQLite hit of a process: {floor} ({starts.median('floor'):.0f} ms)", "layered", "<= 40 ms", "floor")
    yield starts.line(f"first hit of community SQLiteCache: {floor}", "community", base="floor")


class Process:
    """Starts new processes.

    Args:
        code: A folder for compiled code, which is kept everywhere but where the environment forbids it.
        by_cpu: See `Effort`.
    """

    def __init__(self, code: Path | None, *, by_cpu: bool) -> None:
        self._by_cpu = by_cpu
        self._environment = dict(os.environ)
        if code is not None and self._environment.pop("PYTHONDONTWRITEBYTECODE", None):
            self._environment["PYTHONPYCACHEPREFIX"] = str(code)

    def importing(self, module: str) -> float:
        """Return how long the import of *module* takes, in milliseconds."""
        clock, cpu = self._output("-c", _IMPORT.format(module=module))
        return (cpu if self._by_cpu else clock) * 1000

    def answering(self, kind: str, *paths: Path) -> float:
        """Return how long it is until the first answer. The clock is the same in all processes."""
        began = time.monotonic()
        end, cpu = self._output("-W", "ignore", cold.__file__, kind, *map(str, paths))
        return (cpu if self._by_cpu else end - began) * 1000

    def _output(self, *arguments: str) -> tuple[float, float]:
        command = [sys.executable, *arguments]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=True)
        one, other = map(float, done.stdout.split())
        return one, other
