"""LangChain's own suites for caches, over every list of tiers that people use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from langchain_core.caches import BaseCache
from langchain_tests.integration_tests import AsyncCacheTestSuite, SyncCacheTestSuite

from langchain_layered_cache import LayeredCache

TIERS = {
    "memory": ["memory"],
    "sqlite": ["sqlite"],
    "redis": ["redis"],
    "mongodb": ["mongodb"],
    "memory and sqlite": ["memory", "sqlite"],
    "memory, redis and mongodb": ["memory", "redis", "mongodb"],
}


@pytest.fixture(params=TIERS)
def layered(request: pytest.FixtureRequest) -> Iterator[BaseCache]:
    """A cache over each list of tiers."""
    urls = {"memory": lambda: "memory://", "sqlite": lambda: request.getfixturevalue("db")}
    names = {"redis": "redis_url", "mongodb": "mongodb_url"}
    tiers = [urls[tier]() if tier in urls else request.getfixturevalue(names[tier]) for tier in TIERS[request.param]]
    cache = LayeredCache(*tiers)
    yield cache
    cache.close()


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
