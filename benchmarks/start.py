"""How much later a program is ready (G17): the import, and the first hit of a new process."""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import _cold as cold
from benchmarks._bench import Bench
from benchmarks._line import Line
from benchmarks._race import NotMeasuredError

ROUNDS = 15
FLOOR = "LangChain alone"
SQLITE, REDIS, COMMUNITY = "first SQLite hit of a process", "first Redis hit of a process", "first hit of community SQLiteCache"


class Start(NamedTuple):
    """How long a new process took, in milliseconds: to import our package, and from nothing to its first answer."""

    import_ms: float
    answer_ms: float


def measure(bench: Bench) -> Iterator[Line]:
    """Yield the lines of this theme."""
    starts, absent = _starts(bench)
    own, floor = starts[SQLITE], f"later than LangChain's own first answer ({_median_answer(starts[FLOOR]):.0f} ms)"
    imported = statistics.median(start.import_ms for start in own) if own else None
    yield Line("G17", "import layered_cache, langchain_core being loaded", imported, " ms", "<= 20 ms", reason=absent.get(SQLITE, ""))
    for what, target in ((SQLITE, "<= 40 ms"), (REDIS, "<= 350 ms"), (COMMUNITY, None)):
        pairs = zip(starts[what], starts[FLOOR], strict=True) if what not in absent else ()
        later = [one.answer_ms - other.answer_ms for one, other in pairs]
        ms = statistics.median(later) if later else None
        yield Line("G17", f"{what}: {floor}", ms, " ms", target, reason=absent.get(what, ""))


def _starts(bench: Bench) -> tuple[dict[str, list[Start]], dict[str, str]]:
    """Start processes by turns; return what they took, and why those of some kind failed."""
    rounds = bench.some(ROUNDS, least=0)
    environment = _environment(bench.path() if rounds else None)
    programs = {FLOOR: ("floor",), SQLITE: ("layered", f"sqlite:///{bench.path()}"), COMMUNITY: ("community", str(bench.path()))}
    absent = dict[str, str]()
    try:
        programs[REDIS] = ("layered", f"redis://127.0.0.1:{bench.redis_port}")
    except NotMeasuredError as error:
        absent[REDIS] = str(error)
    starts: dict[str, list[Start]] = {what: [] for what in programs}
    for _ in range(rounds + 1):
        for what in random.sample(list(programs), len(programs)):
            try:
                starts[what].append(_start(programs[what], environment, by_cpu=bench.effort.by_cpu))
            except subprocess.CalledProcessError as error:
                absent[what] = error.stderr.strip().rpartition("\n")[2]
    if rounds:  # the first time fills the file, and the interpreter's caches
        starts = {what: found[1:] for what, found in starts.items()}
    return starts, absent


def _start(program: Sequence[str], environment: Mapping[str, str], *, by_cpu: bool) -> Start:
    command = [sys.executable, "-W", "ignore", cold.__file__, *program]
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
