"""The contract on real MongoDB servers: one alone, a replica set (slow), clients of the user's own; and over mongomock, without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mongomock
import pytest
from layered_cache import MongoTier, Tier
from layered_cache.testing import AuthorityContract, ListableContract, QueryableContract, TierContract
from layered_cache.testing._sync_async import Half
from pymongo import MongoClient
from support.fault_proxy import ChaosProxy
from support.outages import Again, away, frozen
from support.servers import MongoReplicaSet, MongoServer

Proxies = Callable[[str], ChaosProxy]


class MongoContract(TierContract, AuthorityContract, QueryableContract, ListableContract):
    """All of it."""


class TestMongo(MongoContract):
    """`mongodb://`, through a proxy that refuses connections when the store has to be away."""

    @pytest.fixture
    def tier(self, mongodb_url: str, proxy_to: Proxies) -> Tier:
        self.proxy = proxy_to(mongodb_url)
        return MongoTier(self.proxy.url, timeout=2.0)

    def outage(self, tier: Tier) -> Any:
        return away(self.proxy)


class TestFrozenMongo(TierContract):
    """The same, whose server hangs when it has to be away: connections stay, and nobody answers."""

    @pytest.fixture
    def tier(self, mongo_server: MongoServer) -> Tier:
        self.server = mongo_server
        return MongoTier(f"{mongo_server.url}frozen", timeout=2.0)

    def outage(self, tier: Tier) -> Any:
        return frozen(self.server)


@pytest.mark.slow
class TestMongoReplicaSet(MongoContract):
    """Of three; it is away when two of them are."""

    @pytest.fixture
    def tier(self, mongo_replica_set: MongoReplicaSet) -> Tier:
        self.set = mongo_replica_set
        return MongoTier(mongo_replica_set.url, timeout=3.0)

    @contextmanager
    def _away(self) -> Iterator[None]:
        for node in self.set.nodes:
            node.freeze()
        try:
            yield
        finally:
            self.set.heal()

    def outage(self, tier: Tier) -> Any:
        return Again(self._away)


@pytest.mark.filterwarnings("ignore:MongoClient opened before fork:UserWarning")
class TestOwnCollection(MongoContract):
    """Of the user's own client, which is not closed; without an asynchronous one, coroutines use threads."""

    @pytest.fixture
    def tier(self, mongodb_url: str) -> Iterator[Tier]:
        with MongoClient(mongodb_url, serverMonitoringMode="poll") as client:
            yield MongoTier(collection=client.get_default_database()["own"], timeout=2.0)
            assert client.admin.command("ping")


class TestMongomock(TierContract, QueryableContract):
    """For who has no server: what needs none."""

    @pytest.fixture
    def tier(self) -> Tier:
        return MongoTier(collection=mongomock.MongoClient().db.entries, timeout=2.0)

    @pytest.mark.skip(reason="mongomock is for one thread at a time")
    def test_eight_threads(self, tier: Tier) -> None: ...

    @pytest.fixture
    def half(self, tier: Tier) -> Iterator[Half]:  # pyright: ignore - one half of the two
        yield Half(tier, None)
        tier.close()
