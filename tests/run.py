"""Run one ring of the test suite: `python tests/run.py RING [pytest arguments]`.

A ring is a part of the suite with a time target. README.md beside this file describes the rings. Each ring runs in two steps:

1. The tests without the marker `alone` run in parallel, one process per core.
2. The tests with the marker `alone` run afterwards, one after the other: they measure wall time and need an idle machine.

Each step prints its slowest tests and its time per folder (`support/time_report.py`). The last line compares the total with the target.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
# `alone` as a marker of a test, of a module, or of one parameter of a test
_ALONE = "mark.alone"
_NO_TESTS = int(pytest.ExitCode.NO_TESTS_COLLECTED)


@dataclass(frozen=True)
class Ring:
    """A part of the suite.

    Attributes:
        marks: The expression for pytest's `-m`.
        minutes: The target on two idle cores, without installation. None: the ring has no target.
        paths: The files and folders of the ring, relative to `tests`.
    """

    marks: str
    minutes: int | None
    paths: tuple[str, ...] = (".",)


RINGS = {
    "test": Ring("not slow and not nightly and not providers", 4),
    "slow": Ring("slow and not nightly and not providers", 12),
    "nightly": Ring("nightly", None),
    # the adapters' behaviour, and the contracts on memory and SQLite: the parts that depend on the versions of other libraries
    "lowest": Ring(
        "not slow and not nightly and not providers",
        4,
        (
            "langchain",
            "llamaindex",
            "unit/test_clients.py",
            "unit/test_config.py",
            "engine/test_read_write.py",
            "unit/test_keys.py",
            "tiers/mongodb/test_documents.py",
            "tiers/redis/test_redis.py",
            "tiers/test_sqlite.py",
            "tiers/contract/test_local.py",
            "unit/test_envelope.py",
        ),
    ),
}


def main(name: str, arguments: Sequence[str]) -> int:
    """Run the ring *name*; return the exit code."""
    ring = RINGS[name]
    paths = [TESTS.parent / argument for argument in arguments if (TESTS.parent / argument).exists()]
    options = [argument for argument in arguments if not (TESTS.parent / argument).exists()]
    files = sorted(file for path in paths or (TESTS / path for path in ring.paths) for file in _test_files(path))
    alone = [file for file in files if _ALONE in file.read_text("utf-8")]
    started = time.monotonic()
    codes = [
        _pytest(ring, "not alone", files, ["-n", str(os.cpu_count() or 1), "--dist", "loadgroup", *options]),
        _pytest(ring, "alone", alone, [*options, "-n", "0"]),
    ]
    seconds = time.monotonic() - started
    target = "" if ring.minutes is None else f", target {ring.minutes * 60} s"
    print(f"\n{name}: {seconds:.0f} s{target}", flush=True)
    if not arguments:  # a whole ring has tests in both steps, unless a marker is wrong
        return max(codes)
    failed = [code for code in codes if code not in (0, _NO_TESTS)]
    return failed[0] if failed else min(codes)


def _test_files(path: Path) -> list[Path]:
    return [path] if path.is_file() else [*path.rglob("test_*.py")]


def _pytest(ring: Ring, marks: str, files: Sequence[Path], arguments: Sequence[str]) -> int:
    """Run *files* with the marks of *ring* and *marks*; return pytest's exit code."""
    if not files:
        return _NO_TESTS
    command = [sys.executable, "-m", "pytest", "-m", f"({ring.marks}) and {marks}", "--durations=40", "--durations-min=0.5"]
    done = subprocess.run([*command, *arguments, *map(str, files)], cwd=TESTS.parent, check=False)
    return done.returncode


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in RINGS:
        sys.exit(f"usage: python tests/run.py {'|'.join(RINGS)} [pytest arguments]")
    sys.exit(main(sys.argv[1], sys.argv[2:]))
