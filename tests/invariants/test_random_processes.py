"""The law of invalidation in a world in which everything goes wrong: see model.py."""

from __future__ import annotations

import pytest
from invariants import mutations, random_processes
from invariants.mutation_marker import Mutant
from layered_cache._storage import rules

STEPS = 1000
RUNS_OF_A_MUTANT = 500
MUTANTS = [
    mutations.entries_are_born_when_they_are_stored,
    mutations.stores_take_no_ticket,
    mutations.rules_that_leave_are_forgotten,
    mutations.a_lost_log_goes_unnoticed,
    mutations.an_older_log_is_taken_as_it_is,
    mutations.memory_is_trusted_for_ever,
    mutations.the_log_is_read_once,
    mutations.own_removals_wait_for_the_next_look,
    mutations.followers_take_whatever_lands,
]


@pytest.fixture(autouse=True)
def _a_small_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "MAX_RULES", 4)


@pytest.mark.parametrize("runs", [40, pytest.param(150, marks=pytest.mark.slow), pytest.param(2000, marks=pytest.mark.nightly)])
def test_nothing_void_is_served_whatever_happens(runs: int) -> None:
    """In no run is an answer served that a removal had made void, and in all of them together many are served."""
    worlds = [random_processes.run(seed, STEPS) for seed in range(runs)]
    assert [world.violations[0] for world in worlds if world.violations] == []
    assert sum(world.served for world in worlds) > 50 * runs


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_the_model_notices_what_is_broken(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    """At least 5 % of 500 runs break the law; they end when there are as many."""
    mutant(monkeypatch)
    enough, found = RUNS_OF_A_MUTANT * 5 // 100, 0
    for seed in range(RUNS_OF_A_MUTANT):
        found += bool(random_processes.run(seed, STEPS).violations)
        if found >= enough:
            return
    pytest.fail(f"only {found} of {RUNS_OF_A_MUTANT} runs notice {mutant.__name__}: {mutant.__doc__}")
