"""Three processes over one file, each with 8 threads and 32 tasks that call as fast as they can, one of them killed every second.

Every read is judged by the history of all (`layered_cache.testing.History`): no answer of another key, none that nobody computed, none
whose computation began before a removal that bound the reader. No call raises: a file that many write into is no excuse.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from lawbook import Mutant, catches
from laws import broken, storm
from layered_cache import TieredCache
from layered_cache.testing import History, Verdict

TESTS = Path(__file__).parents[1]
FILE = "answers.db"
PROCESSES = 3
KILL_EVERY = 1.0
STALLED = 60.0  # seconds without progress: something waits for ever
FEW, MORE = 12_000, 40_000  # enough for a mutant that shows often, and seldom
MUTANT = "LAYERED_CACHE_STORM_MUTANT"  # a patch of this process would not reach the others


@dataclass
class Weather:
    """What a storm came to."""

    verdict: Verdict
    counts: Counter[str]
    seconds: float
    unexpected: list[str] = field(default_factory=list[str])

    def __str__(self) -> str:
        v, counts = self.verdict, self.counts
        lines = [
            f"{counts['operations']} operations in {self.seconds:.0f} s, {counts['kills']} kills, {len(v.violations)} violations",
            f"  {v.reads} reads, {v.hits} hits, {v.unverified} unverified, {v.answers} answers, {v.removals} removals, {v.at_risk} at risk",
            *(f"  {name}: {counts[name]}" for name in sorted(counts)),
            *(str(violation) for violation in v.violations[:20]),
            *self.unexpected,
        ]
        return "\n".join(lines)


class Caller:
    """One process of the storm, in one of its lives."""

    def __init__(self, folder: Path, number: int, life: int, mutant: str | None) -> None:
        name = f"p{number}.{life}"
        self._told = folder / f"{name}.told"
        self._errors = folder / f"{name}.errors"
        command = [sys.executable, storm.__file__, folder / FILE, folder / f"{name}.history", name, "--seed", str(life * 10 + number)]
        command += {0: ["--strict"], 1: [], 2: ["--meek"]}[number]
        if mutant is not None:
            command += ["--mutant", mutant]
        path = os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH"))))
        with self._told.open("wb") as told, self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=told, stderr=errors, env={**os.environ, "PYTHONPATH": path}
            )

    def told(self) -> dict[str, Any]:
        """Return the newest that it has told of itself."""
        with self._told.open("rb") as told:
            told.seek(max(0, self._told.stat().st_size - 100_000))
            whole = told.read().rpartition(b"\n")[0]
        return json.loads(whole.rpartition(b"\n")[2] or '{"counts": {}, "unexpected": []}')

    def kill(self) -> dict[str, Any]:
        """End it as a power cut would; return what it had told."""
        self._process.kill()
        self._process.communicate()
        return self.told()

    def end(self) -> dict[str, Any]:
        """Have it come to an end by itself, which must go well; return what it has told."""
        self._process.communicate(timeout=STALLED)
        errors = self._errors.read_text()
        assert (self._process.returncode, errors) == (0, ""), errors
        return self.told()

    def where(self) -> str:
        """Return where each of its threads stands; that is its end."""
        self._process.send_signal(signal.SIGABRT)
        self._process.communicate()
        return self._errors.read_text()


def weather(folder: Path, operations: int, mutant: str | None = None) -> Weather:
    """Let *operations* happen, and judge."""
    started = time.monotonic()
    callers = [Caller(folder, number, 0, mutant) for number in range(PROCESSES)]
    told: list[dict[str, Any]] = []
    kills = done = before = 0
    progress, kill_at = started, started + KILL_EVERY
    try:
        while done < operations:
            time.sleep(0.05)
            now = time.monotonic()
            done = before + sum(caller.told()["counts"].get("operations", 0) for caller in callers)
            progress = now if done > before else progress
            assert now - progress < STALLED, "\n".join(caller.where() for caller in callers)
            if now >= kill_at:
                kill_at += KILL_EVERY
                number = kills % PROCESSES
                kills += 1
                told.append(callers[number].kill())
                before += told[-1]["counts"].get("operations", 0)
                callers[number] = Caller(folder, number, kills, mutant)
        told += [caller.end() for caller in callers]
    finally:
        for caller in callers:
            caller.kill()
    look_at_the_end(folder)
    counts = Counter({"kills": kills})
    for one in told:
        counts.update(one["counts"])
    verdict = History.of(*folder.glob("*.history")).verdict(max_staleness=storm.MAX_STALENESS)
    return Weather(verdict, counts, time.monotonic() - started, [text for one in told for text in one["unexpected"]])


def look_at_the_end(folder: Path) -> None:
    """Read all that the file holds, as one more process would."""
    history = History(folder / "end.history")
    with TieredCache(f"sqlite:///{folder / FILE}", namespace=storm.NAMESPACES[0]) as root:
        for namespace in storm.NAMESPACES:
            cache = root if namespace == root.name else root.namespace(namespace.removeprefix(f"{root.name}/"))
            for number in range(storm.KEYS):
                began = history.now()
                entry = cache.get(storm.request(name := f"{namespace}:{number}"), stale=True)
                history.read(name, None if entry is None else entry.value, began=began)
    db = sqlite3.connect(folder / FILE)
    assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    db.close()


def travelling(mutant: Mutant, shows: str = "stale", operations: int = FEW) -> Mutant:
    """Return a mutant of this process that has the others apply *mutant*; the history of *operations* shows violations of that kind."""

    def elsewhere(patch: pytest.MonkeyPatch) -> None:
        patch.setenv(MUTANT, f"{mutant.__name__}:{shows}:{operations}")

    elsewhere.__name__, elsewhere.__doc__ = mutant.__name__, mutant.__doc__
    return elsewhere


def nothing_wrong(folder: Path, operations: int) -> None:
    """Have a storm of *operations*; nothing may have gone wrong that could have. With a mutant, of fewer."""
    if MUTANT in os.environ:
        mutant, shows, few = os.environ[MUTANT].split(":")
        seen = weather(folder, int(few), mutant)
        found = Counter(violation.kind for violation in seen.verdict.violations) + Counter(raised=seen.counts["unexpected"])
        sys.stdout.write(f"{mutant}: {dict(found)}\n")
        assert not found[shows], str(seen)
        return
    seen = weather(folder, operations)
    sys.stdout.write(f"{seen}\n")
    assert not seen.verdict.violations, str(seen)
    assert not seen.counts["unexpected"], str(seen)
    counts, verdict = seen.counts, seen.verdict
    assert counts["operations"] >= operations
    assert counts["kills"] >= seen.seconds / KILL_EVERY / 2
    # enough of each has happened to show what could go wrong
    assert verdict.hits > verdict.reads / 3
    assert verdict.removals > operations / 200
    assert verdict.at_risk > operations / 100
    assert counts["void"] > operations / 100
    assert counts["not_stored invalidated"] > operations / 1000
    assert all(counts[f"hits in {tier}"] > operations / 1000 for tier in ("memory", "sqlite", "flight"))
    assert verdict.unverified < verdict.hits / 100
    assert not any(counts[kind] for kind in ("refused", "log_restarted", "undecodable", "adapter_failed", "queue_dropped"))


@catches(travelling(broken.nothing_is_void), travelling(storm.keys_collide, shows="wrong key"))
def test_nothing_wrong_is_served_in_a_storm(tmp_path: Path) -> None:
    """Neither what was removed, nor another key's, nor what nobody computed; and nothing raises."""
    nothing_wrong(tmp_path, 100_000)


@pytest.mark.slow
@catches(
    travelling(broken.stores_take_no_ticket, operations=MORE),
    travelling(broken.entries_are_born_when_they_are_stored, operations=MORE),
    travelling(broken.followers_take_whatever_lands, operations=MORE),
    travelling(broken.the_log_is_read_once, operations=MORE),
    travelling(broken.rules_that_leave_are_forgotten, operations=MORE),
    travelling(broken.memory_is_trusted_for_ever),
    travelling(broken.own_removals_wait_for_the_next_look),
    travelling(storm.promotions_are_born_again),
    travelling(storm.batches_are_mixed_up, shows="wrong key"),
    travelling(storm.values_are_cut, shows="written by nobody"),
    travelling(storm.failures_reach_the_caller, shows="raised"),
)
def test_nothing_wrong_is_served_in_a_long_storm(tmp_path: Path) -> None:
    """The same, ten times as long."""
    nothing_wrong(tmp_path, 1_000_000)
