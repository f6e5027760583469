"""LangChain's own suites for caches."""

from __future__ import annotations

from pathlib import Path

import pytest
from langchain_core.caches import BaseCache
from langchain_tests.integration_tests import AsyncCacheTestSuite, SyncCacheTestSuite

from langchain_layered_cache import LayeredCache

TIERS = {"memory": ["memory://"], "sqlite": ["sqlite:///{}"], "both": ["memory://", "sqlite:///{}"]}


@pytest.fixture(params=TIERS)
def layered(request: pytest.FixtureRequest, tmp_path: Path) -> BaseCache:
    """A cache over each list of tiers."""
    return LayeredCache(*(url.format(tmp_path / "answers.db") for url in TIERS[request.param]))


class TestSync(SyncCacheTestSuite):
    """The blocking face."""

    @pytest.fixture
    def cache(self, layered: BaseCache) -> BaseCache:
        return layered


class TestAsync(AsyncCacheTestSuite):
    """The asynchronous face."""

    @pytest.fixture
    async def cache(self, layered: BaseCache) -> BaseCache:
        return layered
