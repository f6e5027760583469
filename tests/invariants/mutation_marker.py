"""How a law names what it must catch: see laws/conftest.py."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Mutant = Callable[[pytest.MonkeyPatch], None]


def catches(*mutants: Mutant) -> pytest.MarkDecorator:
    """Have the law hold as the product is, and fail for each of *mutants*."""
    return pytest.mark.mutants.with_args(*mutants)


def where(name: str, target: str, instead: object) -> Mutant:
    """Return the mutant *name*, in which *instead* stands at *target* (a dotted path)."""

    def mutant(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(target, instead, raising=False)  # a builtin, say; a target that is nowhere is not noticed, and so is told

    mutant.__name__ = name.replace(" ", "_")
    mutant.__doc__ = name
    return mutant
