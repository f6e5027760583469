"""How a law names what it must catch: see laws/conftest.py."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Mutant = Callable[[pytest.MonkeyPatch], None]


def catches(*mutants: Mutant) -> pytest.MarkDecorator:
    """Have the law hold as the product is, and fail for each of *mutants*."""
    return pytest.mark.mutants.with_args(*mutants)
