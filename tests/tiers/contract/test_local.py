"""The contract, for the tiers that need no server."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from layered_cache import MemoryTier, SQLiteTier, Tier
from layered_cache.testing import AuthorityContract, ListableContract, QueryableContract, TierContract
from support.outages import Again


class TestMemoryTier(TierContract, ListableContract):
    """`memory://`."""

    @pytest.fixture
    def tier(self) -> Tier:
        return MemoryTier()


class TestSQLiteTier(TierContract, AuthorityContract, QueryableContract, ListableContract):
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
        return Again(lambda: self._locked(tier.path))
