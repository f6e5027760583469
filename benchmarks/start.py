"""How much later a program is ready (G17): the import, and the first hit of a new process."""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from benchmarks import _cold as cold
from benchmarks._bench import Bench
from benchmarks._line import Line

ROUNDS = 15
KINDS = ("floor", "layered", "community")


class Start(NamedTuple):
    """How long a new process took, in milliseconds: to import our package, and from nothing to its first answer."""

    import_ms: float
    answer_ms: float


def measure(bench: Bench) -> Iterator[Line]:
    """Yield the lines of this theme."""
    starts, absent = _starts(bench)
    own, floor = starts["layered"], f"later than LangChain's own first answer ({_median_answer(starts['floor']):.0f} ms)"
    what = {"layered": "first SQLite hit of a process", "community": "first hit of community SQLiteCache"}
    imported = statistics.median(start.import_ms for start in own) if own else None
    yield Line("G17", "import layered_cache, langchain_core being loaded", imported, " ms", "<= 20 ms", reason=absent.get("layered", ""))
    for kind, target in (("layered", "<= 40 ms"), ("community", None)):
        pairs = zip(starts[kind], starts["floor"], strict=True) if kind not in absent else ()
        later = [one.answer_ms - other.answer_ms for one, other in pairs]
        ms = statistics.median(later) if later else None
        yield Line("G17", f"{what[kind]}: {floor}", ms, " ms", target, reason=absent.get(kind, ""))


def _starts(bench: Bench) -> tuple[dict[str, list[Start]], dict[str, str]]:
    """Start processes by turns; return what they took, and why those of some kind failed."""
    rounds = bench.some(ROUNDS, least=0)
    environment = _environment(bench.path() if rounds else None)
    files = {kind: bench.path() for kind in KINDS}
    starts: dict[str, list[Start]] = {kind: [] for kind in KINDS}
    absent = dict[str, str]()
    for _ in range(rounds + 1):
        for kind in random.sample(KINDS, len(KINDS)):
            try:
                starts[kind].append(_start(kind, files[kind], environment, by_cpu=bench.effort.by_cpu))
            except subprocess.CalledProcessError as error:
                absent[kind] = error.stderr.strip().rpartition("\n")[2]
    if rounds:  # the first time fills the file, and the interpreter's caches
        starts = {kind: found[1:] for kind, found in starts.items()}
    return starts, absent


def _start(kind: str, file: Path, environment: Mapping[str, str], *, by_cpu: bool) -> Start:
    command = [sys.executable, "-W", "ignore", cold.__file__, kind, *([] if kind == "floor" else [str(file)])]
    began = time.monotonic()  # the same clock in all processes
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    imported, answered, imported_cpu, answered_cpu = map(float, done.stdout.split())
    return Start(imported_cpu * 1000, answered_cpu * 1000) if by_cpu else Start(imported * 1000, (answered - began) * 1000)


def _environment(code: Path | None) -> dict[str, str]:
    """Return variables by which compiled code is kept, as everywhere; in the folder *code* where the environment forbids it."""
    environment = dict(os.environ)
    if code is not None and environment.pop("PYTHONDONTWRITEBYTECODE", None):
        environment["PYTHONPYCACHEPREFIX"] = str(code)
    return environment


def _median_answer(starts: list[Start]) -> float:
    return statistics.median(start.answer_ms for start in starts)
