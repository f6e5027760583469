"""Laws: tests that say in a sentence what always holds, each with mutants of the product that it must catch.

A mutant is a function that breaks the product through a `MonkeyPatch`. A law runs once as it is, and must hold; and once more for
each of its mutants, and must fail. So nobody can loosen a law until it says nothing.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
from invariants.mutation_marker import Mutant


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "mutants(*functions): what this law must catch")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marker = metafunc.definition.get_closest_marker("mutants")
    if marker is not None:
        metafunc.fixturenames.append("mutant")
        ring = getattr(metafunc.module, "RING_OF_MUTANTS", None)  # a marker; None: the ring of the law itself
        marks = [] if ring is None else [getattr(pytest.mark, ring)]
        mutants = [pytest.param(mutant, marks=marks, id=f"catches {mutant.__name__}") for mutant in marker.args]
        metafunc.parametrize("mutant", [pytest.param(None, id="holds"), *mutants])


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, Any, Any]:
    mutant: Mutant | None = pyfuncitem.callspec.params["mutant"] if pyfuncitem.get_closest_marker("mutants") else None
    if mutant is None:
        return (yield)
    with pytest.MonkeyPatch.context() as patch:
        mutant(patch)
        try:
            yield
        except (AssertionError, pytest.fail.Exception):
            return True
    pytest.fail(f"the law does not notice {mutant.__name__}: {mutant.__doc__}")
