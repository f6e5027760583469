"""The law of invalidation in a world in which everything goes wrong: see model.py."""

from __future__ import annotations

import pytest
from lawbook import Mutant
from laws import broken, model
from layered_cache import invalidation

STEPS = 1000
RUNS_OF_A_MUTANT = 500
MUTANTS = [
    broken.entries_are_born_when_they_are_stored,
    broken.stores_take_no_ticket,
    broken.rules_that_leave_are_forgotten,
    broken.a_lost_log_goes_unnoticed,
    broken.an_older_log_is_taken_as_it_is,
    broken.memory_is_trusted_for_ever,
    broken.the_log_is_read_once,
    broken.own_removals_wait_for_the_next_look,
    broken.followers_take_whatever_lands,
]


@pytest.fixture(autouse=True)
def _a_small_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invalidation, "MAX_RULES", 4)


@pytest.mark.parametrize("runs", [40, pytest.param(150, marks=pytest.mark.slow), pytest.param(2000, marks=pytest.mark.nightly)])
def test_nothing_void_is_served_whatever_happens(runs: int) -> None:
    """In no run is an answer served that a removal had made void, and in all of them together many are served."""
    worlds = [model.run(seed, STEPS) for seed in range(runs)]
    assert [world.violations[0] for world in worlds if world.violations] == []
    assert sum(world.served for world in worlds) > 50 * runs


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_the_model_notices_what_is_broken(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    """At least 5 % of 500 runs break the law; they end when there are as many."""
    mutant(monkeypatch)
    enough, found = RUNS_OF_A_MUTANT * 5 // 100, 0
    for seed in range(RUNS_OF_A_MUTANT):
        found += bool(model.run(seed, STEPS).violations)
        if found >= enough:
            return
    pytest.fail(f"only {found} of {RUNS_OF_A_MUTANT} runs notice {mutant.__name__}: {mutant.__doc__}")
