"""The contract, for the tiers that need no server."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from layered_cache import MemoryTier, SQLiteTier, Tier
from layered_cache.testing import AuthorityContract, QueryableContract, TierContract


class TestMemoryTier(TierContract):
    """`memory://`."""

    @pytest.fixture
    def tier(self) -> Tier:
        return MemoryTier()


class TestSQLiteTier(TierContract, AuthorityContract, QueryableContract):
    """`sqlite://`."""

    @pytest.fixture
    def tier(self, tmp_path: Path) -> Tier:
        return SQLiteTier(tmp_path / "answers.db")

    @contextmanager
    def _locked(self, path: Path) -> Iterator[None]:
        db = sqlite3.connect(path, isolation_level=None)
        try:
            db.execute("BEGIN IMMEDIATE")
            yield
        finally:
            db.close()

    def outage(self, tier: Tier) -> object:
        assert isinstance(tier, SQLiteTier)
        return _Again(lambda: self._locked(tier.path))


class _Again:
    """A context that can be entered more than once."""

    def __init__(self, make: Callable[[], AbstractContextManager[None]]) -> None:
        self._make = make

    def __enter__(self) -> None:
        self._context = self._make()
        self._context.__enter__()

    def __exit__(self, *error: object) -> None:
        self._context.__exit__(*error)
