"""The benchmarks count right, and run. Nothing here asks how fast anything is: machines differ, and are busy."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import _report as report
from benchmarks._line import Line
from benchmarks._race import SMOKE, Call, NotMeasuredError, Race

ROOT = Path(__file__).parents[2]
THEMES = [path.stem for path in sorted((ROOT / "benchmarks").glob("[a-z]*.py"))]


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The time in nanoseconds, on the clock and on the processors: contenders let it pass."""
    now = [0]
    monkeypatch.setattr(time, "perf_counter_ns", lambda: now[0])
    monkeypatch.setattr(time, "process_time_ns", lambda: now[0] // 2)
    return now


@pytest.fixture
def race() -> Iterator[Race]:
    """A race of two rounds."""
    with asyncio.Runner() as loop:
        yield Race(SMOKE, loop)


def test_a_race_counts_what_each_takes(now: list[int], race: Race) -> None:
    """In microseconds, as a ratio and as a difference; coroutines like functions."""

    def slow(ns: int) -> None:
        now[0] += ns

    async def quick() -> None:
        now[0] += 2_000

    race.enter("slow", lambda: slow, lambda count: [(8_000,)] * count)
    race.enter("quick", lambda: quick)
    race.run()

    assert (race.us("slow"), race.cpu_us("slow")) == (8, 4)
    assert (race.ratio("quick", "slow"), race.ratio("slow", "quick"), race.excess("slow", "quick")) == (0.25, 4, 6)
    assert race.compare("G0", "a / b", "quick", "slow", "<= 0.5x") == Line("G0", "a / b", 0.25, target="<= 0.5x", us=(2, 8), cpu_us=(1, 4))
    assert race.added("G0", "a", "slow", "quick").measured == 6
    assert race.alone("G0", "a", "quick", "<= 1 us").met is False


def test_a_ratio_is_of_the_same_round(now: list[int], race: Race) -> None:
    """A machine that is ten times slower in one round changes no ratio."""
    pace = iter([1, 1, 1, 1, 1, 1] * 2)  # two turns of three before the first round
    turns = {"one": 0, "two": 0}

    def contender(name: str, ns: int) -> Call:
        def call() -> None:
            turns[name] += 1
            now[0] += ns * next(pace, 10 ** (turns[name] - 6))

        return call

    race.enter("one", lambda: contender("one", 300))
    race.enter("two", lambda: contender("two", 100))
    race.run()

    assert race.ratio("one", "two") == pytest.approx(3)


def test_who_is_absent_is_named(race: Race) -> None:
    """With the reason; the others run."""

    def absent() -> Call:
        msg = "no server here"
        raise NotMeasuredError(msg)

    race.enter("peer", absent)
    race.enter("ours", lambda: lambda: None)
    line = race.run().compare("G0", "ours / peer", "ours", "peer", "<= 1x")

    assert line.met is None
    assert "| not measured: peer: no server here | <= 1x |" in str(line)


@pytest.mark.parametrize(
    ("measured", "target", "met"),
    [(0.06, "<= 0.06x", True), (0.061, "<= 0.06x", False), (20.0, ">= 20x", True), (19.9, ">= 20x", False), (1.0, None, None)],
)
def test_a_line_says_whether_its_target_is_met(measured: float, target: str | None, met: bool | None) -> None:
    """Exactly."""
    assert Line("G0", "a", measured, target=target).met is met


@pytest.mark.parametrize("target", ["0.06x", "< 0.06x", "<= 0.06 us"])
def test_a_target_is_one_and_of_the_same_unit(target: str) -> None:
    """Else it would compare what cannot be compared."""
    with pytest.raises(ValueError, match="a target looks like"):
        Line("G0", "a", 1.0, target=target)


def test_the_table(tmp_path: Path) -> None:
    """A row for each line; the README gets those with a target, between its marks and nowhere else."""
    lines = [
        Line("G1", "a / b", 0.0451, target="<= 0.06x", us=(6.124, 137.2), cpu_us=(6, 70)),
        Line("G2", "c", 1234.5, " us", "<= 100 us"),
        Line("", "only to compare", 2.0),
    ]
    assert str(lines[0]) == "| G1 | a / b | 0.045x | <= 0.06x | yes | 6.12 / 137 | 6.00 / 70.0 |"
    assert str(lines[1]) == "| G2 | c | 1,234 us | <= 100 us | **no** |  |  |"
    assert report.summary(lines) == "1 of 2 targets met, 1 missed, 0 not measured"
    assert [line["met"] for line in json.loads(report.as_json("here", lines))["lines"]] == [True, False, None]

    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- benchmarks -->\nold\n<!-- /benchmarks -->\nafter\n")
    report.into_readme("Today, here", lines, readme)

    text = readme.read_text()
    assert text.startswith("before\n<!-- benchmarks -->\nToday, here:\n")
    assert text.endswith("|\n<!-- /benchmarks -->\nafter\n")
    assert ("old" in text, str(lines[0]) in text, "only to compare" in text) == (False, True, False)


@pytest.mark.slow
def test_each_theme_runs(tmp_path: Path) -> None:
    """The quickest form of each theme. A peer that is not installed is one line of the report."""
    file = tmp_path / "lines.json"
    command = [sys.executable, "-m", "benchmarks", "--smoke", "--json", str(file), *THEMES, "--without", "litellm"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300)
    lines = json.loads(file.read_text())["lines"]

    reasons = {line["reason"] for line in lines if line["measured"] is None}
    assert "DualCache: litellm is left out" in reasons
    missing = (
        r"([\w ]+: )?(\w+ is left out|\w+ is not installed|no redis-server here|no mongod here)"
        r"|ModuleNotFoundError: No module named 'langchain_community'"
    )
    assert [reason for reason in reasons if not re.fullmatch(missing, reason)] == []
    assert len(lines) > 4 * len(THEMES)
