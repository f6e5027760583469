"""Three processes over one file, each with 8 threads and 32 tasks that call as fast as they can, one of them killed every second.

Every read is judged by the history of all (`support.history.History`): no answer of another key, none that nobody computed, none
whose computation began before a removal that bound the reader. No call raises: a file that many write into is no excuse.
"""

from __future__ import annotations

import sqlite3
from functools import partial
from pathlib import Path

import pytest
from invariants import mutations
from invariants.mutation_marker import catches
from invariants.stress import faults, process
from invariants.stress.faults import Callers, Look

RING_OF_MUTANTS = "nightly"
FEW, MORE = 12_000, 40_000  # enough for a mutant that shows often, and seldom
travelling = partial(faults.travelling, size=FEW)


class File:
    """A file, to which nothing happens: who uses it is killed."""

    unit = "operations"
    tasks = process.TASKS

    def __init__(self, path: Path) -> None:
        self._path = path

    def urls(self, number: int) -> list[str]:
        """See Stores."""
        return [f"sqlite:///{self._path}"]

    def turn(self, callers: Callers) -> None:
        """See Stores."""
        callers.kill()

    def calm(self) -> None:
        """See Stores."""

    def look(self, look: Look) -> None:
        """See Stores."""
        look(*self.urls(0))
        db = sqlite3.connect(self._path)
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        db.close()


def nothing_wrong(folder: Path, seconds: float) -> None:
    """Run a storm for *seconds*; check that no law was broken and that the storm could have shown it."""
    seen = faults.nothing_wrong(folder, File(folder / "answers.db"), seconds)
    if seen is None:
        return
    counts, verdict = seen.counts, seen.verdict
    operations = counts["operations"]
    assert operations > 500 * seconds  # a tenth of the rate of an idle machine
    assert counts["kills"] >= seen.seconds / faults.TURN / 2
    # enough of each has happened to show what could go wrong
    assert verdict.hits > verdict.reads / 3
    assert verdict.removals > operations / 200
    assert verdict.at_risk > operations / 100
    assert counts["void"] > operations / 100
    assert counts["not_stored invalidated"] > operations / 1000
    assert all(counts[f"hits in {tier}"] > operations / 1000 for tier in ("memory", "sqlite", "flight"))
    assert verdict.unverified < verdict.hits / 100
    assert not counts["removals that failed"]
    assert not any(counts[kind] for kind in ("refused", "log_restarted", "undecodable", "adapter_failed", "queue_dropped"))


@pytest.mark.slow
@catches(travelling(mutations.nothing_is_void), travelling(process.keys_collide, shows="wrong key"))
def test_nothing_wrong_is_served_in_a_storm(tmp_path: Path) -> None:
    """Neither what was removed, nor another key's, nor what nobody computed; and nothing raises."""
    nothing_wrong(tmp_path, 15)


@pytest.mark.nightly
@catches(
    travelling(mutations.stores_take_no_ticket, size=MORE),
    travelling(mutations.entries_are_born_when_they_are_stored, size=MORE),
    travelling(mutations.followers_take_whatever_lands, size=MORE),
    travelling(mutations.the_log_is_read_once, size=MORE),
    travelling(mutations.rules_that_leave_are_forgotten, size=MORE),
    travelling(mutations.memory_is_trusted_for_ever),
    travelling(mutations.own_removals_wait_for_the_next_look),
    travelling(process.promotions_are_born_again),
    travelling(process.batches_are_mixed_up, shows="wrong key"),
    travelling(process.values_are_cut, shows="written by nobody"),
    travelling(process.failures_reach_the_caller, shows="raised"),
)
def test_nothing_wrong_is_served_in_a_long_storm(tmp_path: Path) -> None:
    """The same, ten times as long."""
    nothing_wrong(tmp_path, 150)
