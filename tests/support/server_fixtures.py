"""The fixtures of `servers` and `chaos_proxy`: each server is started once for all tests, by the first one that needs it.

A test gets a store that is empty and whole, whatever the test before did. Where a program is missing, it is skipped with a reason that
says what to install; with LAYERED_CACHE_REQUIRE_SERVERS=1, as in CI, it fails.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn, Protocol, Self, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
import redis
from pymongo import MongoClient
from support.fault_proxy import ChaosProxy
from support.servers import Certificates, MongoReplicaSet, MongoServer, RedisCluster, RedisSentinel, RedisServer, ServerMissingError

REDIS_URL = "LAYERED_CACHE_TEST_REDIS_URL"
MONGODB_URL = "LAYERED_CACHE_TEST_MONGODB_URL"
REQUIRED = "LAYERED_CACHE_REQUIRE_SERVERS"


class _Startable(Protocol):
    def start(self) -> Self: ...
    def close(self) -> None: ...
    def heal(self) -> None: ...
    def clean(self) -> None: ...


S = TypeVar("S", bound=_Startable)


def _start(server: S) -> S:
    try:
        return server.start()
    except ServerMissingError as missing:
        _without(missing)


def _without(missing: ServerMissingError) -> NoReturn:
    if os.environ.get(REQUIRED) == "1":
        pytest.fail(str(missing))
    pytest.skip(str(missing))


def _started(server: S) -> Iterator[S]:
    try:
        yield _start(server)
    finally:
        server.close()


def _ready(server: S) -> S:
    server.heal()
    server.clean()
    return server


# Each of these sets of servers is started once: its tests run in one worker. A single server is started in each worker.
_ONE_WORKER = ("redis_sentinel", "redis_cluster", "mongo_replica_set")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Group the tests of each set of servers for `--dist loadgroup`."""
    for item in items:
        for name in _ONE_WORKER:
            if name in getattr(item, "fixturenames", ()):
                item.add_marker(pytest.mark.xdist_group(name))


# one for all tests


@pytest.fixture(scope="session")
def redis_for_all() -> Iterator[RedisServer]:
    yield from _started(RedisServer())


@pytest.fixture(scope="session")
def redis_sentinel_for_all() -> Iterator[RedisSentinel]:
    yield from _started(RedisSentinel())


@pytest.fixture(scope="session")
def redis_cluster_for_all() -> Iterator[RedisCluster]:
    yield from _started(RedisCluster())


@pytest.fixture(scope="session")
def mongo_for_all() -> Iterator[MongoServer]:
    yield from _started(MongoServer())


@pytest.fixture(scope="session")
def mongo_replica_set_for_all() -> Iterator[MongoReplicaSet]:
    yield from _started(MongoReplicaSet())


# what tests ask for


@pytest.fixture
def redis_server(redis_for_all: RedisServer) -> RedisServer:
    """A Redis without data. The test may freeze, stop and kill it; settings that it changes it has to change back (or take `own_redis`)."""
    return _ready(redis_for_all)


@pytest.fixture
def redis_sentinel(redis_sentinel_for_all: RedisSentinel) -> RedisSentinel:
    """A primary, two replicas and three sentinels, without data, for slow tests; they may break it."""
    return _ready(redis_sentinel_for_all)


@pytest.fixture
def redis_cluster(redis_cluster_for_all: RedisCluster) -> RedisCluster:
    """Three primaries with a replica each, without data, for slow tests; they may break it."""
    return _ready(redis_cluster_for_all)


@pytest.fixture
def mongo_server(mongo_for_all: MongoServer) -> MongoServer:
    """A standalone mongod without data. The test may freeze, stop and kill it; fail points that it sets it has to turn off."""
    return _ready(mongo_for_all)


@pytest.fixture
def mongo_replica_set(mongo_replica_set_for_all: MongoReplicaSet) -> MongoReplicaSet:
    """A set of three, without data, for slow tests; they may break it."""
    return _ready(mongo_replica_set_for_all)


@pytest.fixture
def redis_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of an empty Redis database: of the one that LAYERED_CACHE_TEST_REDIS_URL names, else of `redis_server`."""
    url = os.environ.get(REDIS_URL)
    if not url:
        yield request.getfixturevalue("redis_server").url
        return
    with redis.Redis.from_url(url) as client:
        if keys := client.dbsize():
            pytest.fail(f"the database that {REDIS_URL} names has {keys} keys, and tests erase what they find: name an empty one")
        yield url
        client.flushdb()


@pytest.fixture
def mongodb_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a MongoDB database that does not exist yet: where LAYERED_CACHE_TEST_MONGODB_URL says, else of `mongo_server`."""
    given = os.environ.get(MONGODB_URL)
    name = f"layered_cache_test_{uuid.uuid4().hex}"
    yield database(given or request.getfixturevalue("mongo_server").url, name)
    if given:
        with MongoClient(given) as client:
            client.drop_database(name)


@pytest.fixture
def own_redis() -> Iterator[Callable[..., RedisServer]]:
    """Starts a Redis for this test alone: `own_redis("--appendonly", "yes", password="secret")`."""
    with ExitStack() as stack:
        yield lambda *args, **kwargs: _own(stack, RedisServer(*args, **kwargs))


@pytest.fixture
def own_mongo() -> Iterator[Callable[..., MongoServer]]:
    """Starts a mongod for this test alone: `own_mongo("--setParameter", "ttlMonitorSleepSecs=1")`."""
    with ExitStack() as stack:
        yield lambda *args, **kwargs: _own(stack, MongoServer(*args, **kwargs))


def _own(stack: ExitStack, server: S) -> S:
    stack.callback(server.close)
    return _start(server)


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    """New ones for 127.0.0.1 and localhost: `own_redis(certificates=certificates)`."""
    try:
        return Certificates.make(tmp_path / "certificates")
    except ServerMissingError as missing:
        _without(missing)


@pytest.fixture
def proxy_to() -> Iterator[Callable[[str], ChaosProxy]]:
    """Starts a proxy to the server of a URL: `proxy = proxy_to(redis_url)`, and `proxy.url` is for the client."""
    with ExitStack() as stack:
        yield lambda url: stack.enter_context(ChaosProxy.to(url))


def database(url: str, name: str) -> str:
    """Return the MongoDB *url* with another database. Who logs in, still does so where it was."""
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if "@" in parts.netloc and "authSource" not in options:
        options["authSource"] = parts.path.strip("/") or "admin"
    return parts._replace(path=f"/{name}", query=urlencode(options)).geturl()
