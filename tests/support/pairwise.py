"""Reduce the product of several independent axes to its pairs.

    @pytest.mark.parametrize(("world", "fault", "connected"), pairwise(WORLDS, FAULTS, [True, False]), indirect=["world"])

A fault that depends on two axes shows in a set of combinations that contains each pair of values once. The other combinations of the
product keep their tests: they run in the ring `nightly`.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable
from typing import Any

import pytest

Pair = tuple[tuple[int, Any], tuple[int, Any]]


def pairwise(*axes: Iterable[Any]) -> list[Any]:
    """Return all combinations of *axes* as parameter sets; those that are not needed to cover each pair are marked `nightly`.

    The choice is greedy and the same in each run.
    """
    product = list(itertools.product(*(list(axis) for axis in axes)))
    chosen = _covering(product)
    return [pytest.param(*values, marks=[] if number in chosen else [pytest.mark.nightly]) for number, values in enumerate(product)]


def _covering(product: list[tuple[Any, ...]]) -> Collection[int]:
    """Return the numbers of combinations that together contain each pair of values of two axes."""
    pairs = {number: _pairs(values) for number, values in enumerate(product)}
    missing = set[Pair]().union(*pairs.values())
    chosen: list[int] = []
    while missing:
        best = max(pairs, key=lambda number: len(pairs[number] & missing))
        chosen.append(best)
        missing -= pairs[best]
    return chosen


def _pairs(values: tuple[Any, ...]) -> set[Pair]:
    return set(itertools.combinations(enumerate(values), 2))
