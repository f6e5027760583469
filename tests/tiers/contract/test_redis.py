"""The contract on real Redis servers: one alone, through each kind of client; Sentinel and a cluster (slow)."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
import redis.asyncio
from layered_cache import RedisTier, Tier
from layered_cache.testing import AuthorityContract, ListableContract, TierContract
from support.fault_proxy import ChaosProxy
from support.outages import away, frozen
from support.servers import Certificates, RedisCluster, RedisSentinel, RedisServer

Proxies = Callable[[str], ChaosProxy]

# Seconds a call may take where no store is away: six servers on two cores can keep one waiting for longer than a user would.
_NOT_THE_POINT = 10.0


class RedisContract(TierContract, AuthorityContract, ListableContract):
    """All of it."""


class TestRedis(RedisContract):
    """`redis://`, through a proxy that refuses connections when the store has to be away."""

    @pytest.fixture
    def tier(self, redis_url: str, proxy_to: Proxies) -> Tier:
        self.proxy = proxy_to(redis_url)
        return RedisTier(self.proxy.url, timeout=0.5)

    def outage(self, tier: Tier) -> Any:
        return away(self.proxy)


class TestFrozenRedis(TierContract):
    """The same, whose server hangs when it has to be away: connections stay, and nobody answers."""

    @pytest.fixture
    def tier(self, redis_server: RedisServer) -> Tier:
        self.server = redis_server
        return RedisTier(redis_server.url, timeout=0.5)

    def outage(self, tier: Tier) -> Any:
        return frozen(self.server)


class TestRedisWithTLS(RedisContract):
    """`rediss://`, with a password and another database."""

    @pytest.fixture
    def tier(self, own_redis: Callable[..., RedisServer], certificates: Certificates) -> Tier:
        server = own_redis(password="a/b@c:d%", certificates=certificates)
        return RedisTier(server.url.replace("/0?", "/3?client_name=tests&"), timeout=1.0)


class TestRedisClients(RedisContract):
    """Clients of the user's."""

    @pytest.fixture
    def tier(self, redis_url: str) -> Iterator[Tier]:
        with redis.Redis.from_url(redis_url) as client:
            yield RedisTier(client=client, timeout=1.0)

    def test_fork(self) -> None:
        pytest.skip("a client of the user's is the user's to renew")


class TestRedisClientsBoth(TierContract, ListableContract):
    """A blocking and an asynchronous one."""

    @pytest.fixture
    def tier(self, redis_url: str) -> Iterator[Tier]:
        with redis.Redis.from_url(redis_url) as client:
            theirs = redis.asyncio.Redis.from_url(redis_url)
            yield RedisTier(client=client, async_client=theirs, timeout=1.0)
            with warnings.catch_warnings(action="ignore"):  # its loops have ended, and its connections complain
                del theirs
                gc.collect()

    def test_fork(self) -> None:
        pytest.skip("a client of the user's is the user's to renew")


@pytest.mark.slow
class TestRedisSentinel(RedisContract):
    """`redis+sentinel://`."""

    @pytest.fixture
    def tier(self, redis_sentinel: RedisSentinel) -> Tier:
        hosts = ",".join(f"{host}:{port}" for host, port in redis_sentinel.addresses)
        return RedisTier(f"redis+sentinel://{hosts}/{redis_sentinel.service}/0", timeout=_NOT_THE_POINT)


@pytest.mark.slow
class TestRedisCluster(RedisContract):
    """`redis+cluster://`."""

    @pytest.fixture
    def tier(self, redis_cluster: RedisCluster) -> Tier:
        hosts = ",".join(f"{host}:{port}" for host, port in redis_cluster.addresses)
        return RedisTier(f"redis+cluster://{hosts}", timeout=_NOT_THE_POINT)
