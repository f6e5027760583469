"""The Redis tier alone, beside the least that redis-py can do and beside langchain-community's caches (G3 to G6, G9, G12, G16)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import Any

from langchain_core.caches import BaseCache
from layered_cache import Policy

from benchmarks import _faults as faults
from benchmarks import _peers as peers
from benchmarks._bench import Bench
from benchmarks._line import Line
from benchmarks._payloads import answer, copies, unlike
from benchmarks._race import NotMeasuredError
from benchmarks.memory import LLM, PROMPT, holding
from langchain_layered_cache import LayeredCache

AT_ONCE = 64
MANY = 1_000
ENTRIES = 500
_PATIENT = "timeout=5s"  # a machine that others keep busy shall not turn hits into misses
_HASHED = Policy(store_requests="hash")

Lookup = Callable[[str, str], Awaitable[Any]]


def measure(bench: Bench) -> Iterator[Line]:
    """Yield the lines of this theme."""
    try:
        server = bench.redis
    except NotMeasuredError as error:
        yield Line("G3", "Redis", reason=str(error))
        return
    yield from _hits(bench)
    yield from _asynchronous_hits(bench)
    yield from _at_once(bench)
    yield from _false_misses(bench)
    yield from _updates(bench)
    yield from _bytes(bench)
    yield from faults.measure(bench, "Redis", server, lambda port: f"redis://127.0.0.1:{port}")


def _ours(bench: Bench, options: str = _PATIENT, policy: Policy | None = None) -> LayeredCache:
    return bench.cache(f"redis://127.0.0.1:{bench.redis_port}#{options}", policy=policy)


def _hits(bench: Bench) -> Iterator[Line]:
    ours = _ours(bench)
    holding(ours)
    key = ours.key(PROMPT, LLM)
    race = bench.race()
    race.enter("LayeredCache", lambda: ours.lookup, copies(PROMPT, LLM))
    race.enter("GET", lambda: peers.redis_client(bench.redis_port).get, lambda count: [(key,)] * count)
    race.enter("RedisCache", lambda: holding(peers.redis_cache(bench.redis_port)).lookup, copies(PROMPT, LLM))
    race.run()
    yield race.compare("G3", "Redis hit / raw redis.Redis.get of its bytes", "LayeredCache", "GET", "<= 1.15x")
    yield race.compare("G3", "Redis hit / community RedisCache", "LayeredCache", "RedisCache", "<= 0.40x")


def _asynchronous_hits(bench: Bench) -> Iterator[Line]:
    ours = _ours(bench)
    holding(ours)
    key = ours.key(PROMPT, LLM)
    race = bench.race()
    race.enter("LayeredCache", lambda: ours.alookup, copies(PROMPT, LLM))
    race.enter("GET", lambda: _get(bench), lambda count: [(key,)] * count)
    race.enter("AsyncRedisCache", lambda: _theirs(bench), copies(PROMPT, LLM))
    race.run()
    yield race.compare("G4", "asynchronous Redis hit / raw redis.asyncio.Redis.get", "LayeredCache", "GET", "<= 1.10x")
    yield race.compare("G4", "asynchronous Redis hit / community AsyncRedisCache", "LayeredCache", "AsyncRedisCache", "<= 0.55x")


def _get(bench: Bench) -> Callable[[str | None], Awaitable[object]]:
    client = peers.async_redis_client(bench.redis_port)

    async def get(key: str | None) -> object:
        return await client.get(key)  # what redis-py gives back here is awaitable, and no coroutine function

    return get


def _theirs(bench: Bench) -> Lookup:
    holding(peers.redis_cache(bench.redis_port))
    return peers.async_redis_cache(bench.redis_port).alookup


def _at_once(bench: Bench) -> Iterator[Line]:
    ours = _ours(bench)
    holding(ours)
    key = ours.key(PROMPT, LLM)
    race = bench.race()
    race.enter("LayeredCache", lambda: _together(ours.alookup, AT_ONCE), copies(PROMPT, LLM))
    race.enter("GET", lambda: _together(_get(bench), AT_ONCE), lambda count: [(key,)] * count)
    race.enter("AsyncRedisCache", lambda: _together(_theirs(bench), AT_ONCE), copies(PROMPT, LLM))
    race.run()
    what = f"Redis hits per second, {AT_ONCE} tasks at once: ours /"
    yield race.compare("G5", f"{what} community AsyncRedisCache", "AsyncRedisCache", "LayeredCache", ">= 2x")
    yield race.compare("G5", f"{what} raw redis.asyncio.Redis.get", "GET", "LayeredCache")


def _together(call: Callable[..., Awaitable[object]], count: int) -> Callable[..., Coroutine[Any, Any, list[object]]]:
    """Return what makes *count* calls at once."""

    async def together(*arguments: object) -> list[object]:
        return await asyncio.gather(*(call(*arguments) for _ in range(count)))

    return together


def _false_misses(bench: Bench) -> Iterator[Line]:
    """What is there is found, however many ask at once; with the time that calls have by default."""
    ours = _ours(bench, "")
    holding(ours)
    yield Line("G6", f"false misses of {MANY:,} alookups at once", _missed(bench, ours.alookup), " misses", "<= 0 misses")
    what = f"false misses of {MANY:,} alookups at once, community AsyncRedisCache"
    try:
        yield Line("G6", what, _missed(bench, _theirs(bench)), " misses")
    except NotMeasuredError as error:
        yield Line("G6", what, reason=str(error))


def _missed(bench: Bench, lookup: Lookup) -> int:
    bench.run(_together(lookup, 1)(PROMPT, LLM))  # connect
    return sum(not found for found in bench.run(_together(lookup, MANY)(PROMPT, LLM)))


def _updates(bench: Bench) -> Iterator[Line]:
    answers = answer()

    def new(count: int) -> Sequence[tuple[object, ...]]:
        return [(unlike(PROMPT), LLM, answers) for _ in range(count)]

    ours, value = _ours(bench), bytes(3_000)
    race = bench.race()
    race.enter("LayeredCache", lambda: ours.update, new)
    race.enter("without requests", lambda: _ours(bench, policy=_HASHED).update, new)
    race.enter("SET", lambda: _setting(peers.redis_client(bench.redis_port), value), lambda count: [(unlike("#0#"),) for _ in range(count)])
    race.enter("RedisCache", lambda: peers.redis_cache(bench.redis_port).update, new)
    race.run()
    bare, full = 'Redis update, store_requests="hash"', "Redis update with its readable request"
    yield race.compare("G9", f"{bare} / raw SET of 3,000 bytes", "without requests", "SET", "<= 1.15x")
    yield race.compare("G9", f"{bare} / community RedisCache", "without requests", "RedisCache", "<= 0.5x")
    yield race.compare("G9", f"{full} / community RedisCache", "LayeredCache", "RedisCache")


def _setting(client: Any, value: bytes) -> Callable[[str], object]:  # noqa: ANN401 - redis-py's
    def put(key: str) -> object:
        return client.set(key, value, px=3_600_000)

    return put


def _bytes(bench: Bench) -> Iterator[Line]:
    try:
        theirs = _size(bench, peers.redis_cache(bench.redis_port, db=1), db=1)
    except NotMeasuredError as error:
        yield Line("G12", "bytes in Redis per entry of 2 KB", reason=str(error))
        return
    for what, options, policy, target in (
        ('store_requests="hash"', _PATIENT, _HASHED, "<= 0.55x"),
        ('store_requests="hash", compress_from=1KiB', f"{_PATIENT}&compress_from=1KiB", _HASHED, "<= 0.30x"),
        ("with its readable request", _PATIENT, None, None),
        ("with its readable request, compress_from=1KiB", f"{_PATIENT}&compress_from=1KiB", None, None),
    ):
        ours = _size(bench, _ours_in(bench, options, policy), db=2)
        yield Line("G12", f"bytes in Redis per entry of 2 KB, {what} / community RedisCache", ours / theirs, target=target)


def _ours_in(bench: Bench, options: str, policy: Policy | None) -> LayeredCache:
    return bench.cache(f"redis://127.0.0.1:{bench.redis_port}/2#{options}", policy=policy)


def _size(bench: Bench, cache: BaseCache, db: int) -> float:
    """Return how many bytes of Redis's memory an entry of *cache* takes there: in an empty database, and empty again."""
    client = peers.redis_client(bench.redis_port, db=db)
    client.flushdb()
    for seed in range(bench.some(ENTRIES, least=2)):
        cache.update(unlike(PROMPT), LLM, answer(seed=seed))
    entries = [key for key in client.scan_iter() if b"{log}" not in key]
    sizes = [client.memory_usage(key, samples=0) for key in entries]
    client.flushdb()
    return sum(sizes) / len(sizes)
