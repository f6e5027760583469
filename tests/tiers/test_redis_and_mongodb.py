"""Memory above Redis above MongoDB: what each call costs, what happens when one of them is away, and that all of it heals."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from langchain_core.globals import set_llm_cache
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI
from layered_cache import Event, Policy, TieredCache
from layered_cache.testing import OpenAIServer
from pymongo import MongoClient
from support.fault_proxy import ChaosProxy
from support.servers import MongoServer, RedisServer
from support.sync_async import World, ask, kinds, settled

from langchain_layered_cache import LayeredCache

Proxies = Callable[[str], ChaosProxy]
OwnRedis = Callable[..., RedisServer]
OwnMongo = Callable[..., MongoServer]


def tier_of(cache: TieredCache, request: Any = None) -> str | None:
    """Return which tier answers *request*."""
    before = cache.stats().hits_by_tier
    cache.get(request or ask())
    after = cache.stats().hits_by_tier
    return next((tier for tier in after if after[tier] != before.get(tier, 0)), None)


def test_what_is_found_below_is_promoted_with_the_time_it_has_left(redis_url: str, mongodb_url: str, world: World) -> None:
    """To Redis, as its own limit allows, and to memory."""
    with TieredCache(patient(mongodb_url), policy=Policy(keep_for=3600)) as writer:
        world.call(writer, "set", ask(), b"value")
    cache = TieredCache("memory://", patient(redis_url), patient(mongodb_url))

    entry = world.call(cache, "get", ask())
    settled(cache)

    assert entry.value == b"value"
    with redis.Redis.from_url(redis_url) as client:
        left = client.pttl(cache.key(ask()))
    assert isinstance(left, int)
    assert 3_590_000 < left <= 3_600_001
    other = TieredCache("memory://", patient(redis_url), patient(mongodb_url))
    assert [tier_of(cache), tier_of(other), tier_of(other)] == ["memory", "redis", "memory"]
    cache.close()
    other.close()


def patient(url: str) -> str:
    """Return *url* with a budget that a busy machine does not use up: for tests that are about something else."""
    return f"{url}#timeout=2s"


def said(proxy: ChaosProxy, *, log: bytes) -> list[bytes]:
    """Return what was asked and answered through *proxy*, but for the invalidation log and the client's own heartbeat."""
    return [
        one.request
        for one in proxy.exchanges
        if one.received and not any(word in one.request for word in (log, b"hello", b"isMaster", b"createIndexes"))
    ]


def test_round_trips(redis_url: str, mongodb_url: str, proxy_to: Proxies, world: World) -> None:
    """A hit in Redis costs one; one in MongoDB two, and one write in the background; however many keys it is about."""
    to_redis, to_mongodb = proxy_to(redis_url), proxy_to(mongodb_url)
    cache = TieredCache("memory://", patient(to_redis.url), patient(to_mongodb.url), policy=Policy(max_staleness=60))
    many = [ask(str(number)) for number in range(100)]
    world.call(cache, "set_many", dict.fromkeys([ask(), ask("warm"), *many], b"value"))
    settled(cache)
    time.sleep(0.2)  # indexes are made, and connections are up

    def cost(requests: list[Any]) -> tuple[int, int]:
        to_redis.reset_counts()
        to_mongodb.reset_counts()
        assert len(world.call(cache, "get_many", requests)) == len(requests)
        return len(said(to_redis, log=b"EVAL")), len(said(to_mongodb, log=b"entries_log"))

    def forget(*, also_in_redis: bool) -> None:
        cache.tiers[0].forget()  # type: ignore[attr-defined]
        if also_in_redis:
            with redis.Redis.from_url(redis_url) as client:
                client.flushdb()

    for requests, batches in (([ask()], 1), (many, 2)):  # 100 are promoted in two batches
        forget(also_in_redis=True)
        assert len(world.call(cache, "get_many", requests)) == len(requests)
        settled(cache)
        forget(also_in_redis=False)
        assert cost(requests) == (1, 0)
        assert cost(requests) == (0, 0)
        forget(also_in_redis=True)
        assert cost(requests)[1] == 1
        settled(cache)
        assert [b"SET" in one for one in said(to_redis, log=b"EVAL")] == [False, *[True] * batches]
        assert len(said(to_mongodb, log=b"entries_log")) == 1
    cache.close()


@pytest.mark.alone
def test_both_are_down_when_the_cache_is_built(
    own_redis: Callable[..., RedisServer], own_mongo: Callable[..., MongoServer], world: World
) -> None:
    """The model answers; and when they come they are used, without a new object."""
    redis_server, mongo_server = own_redis(), own_mongo()
    redis_server.stop()
    mongo_server.stop()
    cache = TieredCache("memory://", redis_server.url, mongo_server.url)
    log: list[Any] = []
    started = time.monotonic()
    assert world.call(cache, "get_or_compute", ask(), world.compute(log=log)).value == b"value"
    assert time.monotonic() - started < 1.0
    assert log == [b"value"]

    redis_server.start()
    mongo_server.start()

    deadline, number = time.monotonic() + 10, 0
    with TieredCache(patient(redis_server.url), patient(mongo_server.url)) as other:
        while time.monotonic() < deadline:
            number += 1
            world.call(cache, "set", ask(str(number)), b"value")
            if other.get(ask(str(number))):
                break
            time.sleep(0.1)
        assert time.monotonic() < deadline
        assert set(cache.stats().hits_by_tier) <= {"memory"}
    cache.close()


@pytest.mark.slow
def test_redis_stops_then_mongodb_too(own_redis: OwnRedis, own_mongo: OwnMongo, world: World) -> None:
    """First the next tier answers, then the model; and then they come back, and have what they missed."""
    redis_server, mongo_server = own_redis(), own_mongo()
    cache = TieredCache(f"{redis_server.url}#timeout=300ms", f"{mongo_server.url}#timeout=300ms", policy=Policy(max_staleness=0.5))
    world.call(cache, "set", ask(), b"value")
    settled(cache)
    assert tier_of(cache) == "redis"

    redis_server.kill()
    assert world.call(cache, "get", ask()).value == b"value"
    assert cache.stats().hits_by_tier == {"redis": 1, "mongodb": 1}
    world.call(cache, "set", ask("while redis is away"), b"value")

    mongo_server.kill()
    with TieredCache(patient(redis_server.url), patient(mongo_server.url)) as other:
        started = time.monotonic()
        assert world.call(other, "get", ask()) is None
        assert world.call(other, "get_or_compute", ask("new"), world.compute(b"model")).value == b"model"
        assert time.monotonic() - started < 10
        assert set(other.stats().tier_failures) <= {"redis", "mongodb"}

    redis_server.start()
    mongo_server.start()
    deadline = time.monotonic() + 5
    while (entry := world.call(cache, "get", ask())) is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert entry is not None
    assert entry.value == b"value"
    assert cache._engine.backlog.drain(20.0)
    with TieredCache(patient(redis_server.url), patient(mongo_server.url)) as other:
        assert tier_of(other, ask("while redis is away")) == "redis"
    cache.close()


@pytest.mark.alone
def test_a_frozen_pair_costs_the_budgets_and_no_more(
    redis_server: RedisServer, mongo_server: MongoServer, world: World, events: list[Event]
) -> None:
    """A lookup waits for Redis, for MongoDB and for its log; a store for both; then the answer is there all the same."""
    cache = TieredCache("memory://", redis_server.url, mongo_server.url, observers=[events.append])
    world.call(cache, "set", ask("warm"), b"up")
    redis_server.freeze()
    mongo_server.freeze()
    try:
        started = time.monotonic()
        entry = world.call(cache, "get_or_compute", ask(), world.compute(b"model"))
        taken = time.monotonic() - started
    finally:
        redis_server.thaw()
        mongo_server.thaw()

    assert entry.value == b"model"
    assert taken < 0.05 + 0.15 + 0.15 + 0.05 + 0.15 + 0.1  # read each, the log, write each
    settled(cache)
    with TieredCache(patient(redis_server.url), patient(mongo_server.url)) as other:
        assert other.get(ask())
    cache.close()


def test_an_answer_that_a_document_cannot_hold(redis_url: str, mongodb_url: str, world: World, events: list[Event]) -> None:
    """Is in the tiers that can, and everyone is told; it is no error."""
    policy = Policy(max_entry_bytes=20 * 1024 * 1024)
    cache = TieredCache("memory://", f"{redis_url}#timeout=2s", f"{mongodb_url}#timeout=2s", policy=policy, observers=[events.append])
    large = os.urandom(16 * 1024 * 1024)
    world.call(cache, "set", ask(), b"old")

    world.call(cache, "set", ask(), large)

    settled(cache)
    assert world.call(cache, "get", ask()).value == large
    told = next(event for event in events if event.kind == "not_stored")
    assert (told.tier, told.reason) == ("mongodb", "too large")
    assert "tier_failed" not in kinds(events)
    assert cache.stats().not_stored == {"too large": 1}
    with TieredCache(f"{mongodb_url}#timeout=2s") as other:
        assert other.get(ask()) is None
    cache.close()


def test_one_removes_what_the_other_holds(redis_url: str, mongodb_url: str, world: World) -> None:
    """Everywhere; the receipt says what was erased where."""
    policy = Policy(max_staleness=0.2)
    one, other = (TieredCache("memory://", patient(redis_url), patient(mongodb_url), policy=policy) for _ in range(2))
    for number in range(3):
        world.call(one, "set", ask(str(number)), b"value", tags=["t"])
    settled(one)
    assert len(world.call(other, "get_many", [ask(str(number)) for number in range(3)])) == 3

    receipt = world.call(one, "invalidate", tag="t")
    time.sleep(0.25)

    assert receipt.durable
    assert receipt.removed == {"mongodb": 3, "redis": 0}  # Redis finds by key and namespace alone: there they are void
    assert world.call(other, "get_many", [ask(str(number)) for number in range(3)]) == {}
    deleted = world.call(one, "delete", ask("0"))
    assert set(deleted.removed) == {"memory", "mongodb", "redis"}
    one.close()
    other.close()


@pytest.mark.parametrize("kind", ["redis", "mongodb", "sqlite"])
def test_no_secret_of_a_model_is_kept_anywhere(
    request: pytest.FixtureRequest, kind: str, server: OpenAIServer, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Neither in the stores, nor in logs at DEBUG, nor in what is shown of the objects; of a real ChatOpenAI, full of them."""
    caplog.set_level(logging.DEBUG)
    url: str = {"redis": "redis_url", "mongodb": "mongodb_url", "sqlite": "db"}[kind]
    url = request.getfixturevalue(url)
    events: list[Event] = []
    cache = LayeredCache("memory://", url, observers=[events.append])
    model = ChatOpenAI(
        model="gpt-4o-mini",
        api_key="sk-canary0canary0canary0",
        base_url=server.url.replace("http://", "http://user:canary1@"),
        default_headers={"Authorization": "Bearer canary2canary2", "X-Api-Key": "canary3", "X-Team": "canary4"},
        default_query={"api_key": "canary5", "sig": "canary6"},
        extra_body={"access_token": "canary7", "nested": {"password": "canary8"}},
        model_kwargs={"extra_headers": {"Cookie": "canary9"}},
        organization="org",
        cache=cache,
    )

    for _ in range(2):
        model.invoke([HumanMessage("question")])
    model.invoke([HumanMessage("other")], extra_headers={"Authorization": "Bearer canary10canary10"})
    cache.invalidate(tag="x")
    settled(cache.engine)

    assert cache.stats().hits == 1
    stored = dump(kind, url, tmp_path)
    assert b"question" in stored
    assert re.findall(rb"canary[^\s]{0,3}", stored) == []
    ours = [record for record in caplog.records if record.name.startswith(("layered_cache", "langchain_layered_cache"))]
    assert "canary" not in repr([record.getMessage() for record in ours])
    assert "canary" not in repr([cache, cache.engine, *cache.engine.tiers, events, cache.stats()])
    cache.close()


def dump(kind: str, url: str, folder: Path) -> bytes:
    """Return all that a store holds."""
    if kind == "redis":
        with redis.Redis.from_url(url) as client:
            everything = [(key, client.dump(key), client.get(key) if client.type(key) == b"string" else b"") for key in client.keys()]  # noqa: SIM118 - of Redis
            requests = [decoded_request(value) for _, _, value in everything]
            return repr((everything, requests)).encode()
    if kind == "mongodb":
        database: Any = MongoClient(url).get_default_database()
        with database.client:
            return repr([list(database[name].find()) for name in database.list_collection_names()]).encode()
    return b"".join(path.read_bytes() for path in folder.iterdir() if path.name.startswith("answers.db"))


def decoded_request(value: bytes | None) -> str:
    from layered_cache._storage.envelope import decode_request

    return json.dumps(decode_request(value or b""))


def test_loops_and_threads_together(redis_url: str, mongodb_url: str) -> None:
    """One object, used from threads and from loops that come and go."""
    cache = LayeredCache("memory://", patient(redis_url), patient(mongodb_url))
    set_llm_cache(None)

    async def use(number: int) -> None:
        assert (await cache.engine.aget_or_compute(ask(str(number)), compute)).value == b"value"

    async def compute() -> bytes:
        return b"value"

    for number in range(4):
        asyncio.run(use(number))
        assert cache.engine.get(ask(str(number)))
    assert cache.stats().misses == 4
    cache.close()
