"""The MongoDB tier alone, beside the least that pymongo can do and beside langchain-mongodb's cache (G8, G12, G16)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from langchain_core.caches import BaseCache
from layered_cache import Policy

from benchmarks import _faults as faults
from benchmarks import _peers as peers
from benchmarks._bench import Bench
from benchmarks._line import Line
from benchmarks._payloads import Kind, answer, copies, unlike
from benchmarks._race import NotMeasuredError
from benchmarks.memory import LLM, PROMPT, holding
from langchain_layered_cache import LayeredCache

ENTRIES = 1_000
_PATIENT = "timeout=5s"  # a machine that others keep busy shall not turn hits into misses
_FAST = f"{_PATIENT}&durability=fast"  # w=1

Find = Callable[[str | None], Any]


def measure(bench: Bench) -> Iterator[Line]:
    """Yield the lines of this theme."""
    try:
        server = bench.mongo
    except NotMeasuredError as error:
        yield Line("G8", "MongoDB", reason=str(error))
        return
    yield from _hits(bench, "chat", "<= 0.6x")
    yield from _hits(bench, "large", "<= 0.45x")
    yield from _asynchronous_hits(bench)
    yield from _updates(bench)
    yield from _bytes(bench)
    yield from faults.measure(bench, "MongoDB", server, lambda port: f"mongodb://127.0.0.1:{port}/faults")


def _ours(bench: Bench, database: str = "ours", policy: Policy | None = None) -> LayeredCache:
    return bench.cache(f"{bench.mongo_url}{database}#{_FAST}", policy=policy)


def _hits(bench: Bench, kind: Kind, target: str) -> Iterator[Line]:
    ours = _ours(bench, kind)
    holding(ours, kind)
    key = ours.key(PROMPT, LLM)
    race = bench.race()
    race.enter("LayeredCache", lambda: ours.lookup, copies(PROMPT, LLM))
    race.enter("find_one", lambda: _find(bench, kind), lambda count: [(key,)] * count)
    race.enter("MongoDBCache", lambda: holding(peers.mongo_cache(bench.mongo_url), kind).lookup, copies(PROMPT, LLM))
    race.run()
    yield race.compare("G8", f"MongoDB hit, {kind} / find_one of its bytes by _id", "LayeredCache", "find_one", "<= 1.15x")
    yield race.compare("G8", f"MongoDB hit, {kind} / langchain-mongodb's MongoDBCache", "LayeredCache", "MongoDBCache", target)


def _find(bench: Bench, database: str) -> Find:
    """Return the least that finds an envelope."""
    entries = peers.mongo_client(bench.mongo_url)[database].entries

    def find(key: str | None) -> object:
        return entries.find_one({"_id": key}, {"envelope": 1})

    return find


def _asynchronous_hits(bench: Bench) -> Iterator[Line]:
    ours = _ours(bench)
    holding(ours)
    key = ours.key(PROMPT, LLM)
    race = bench.race()
    race.enter("LayeredCache", lambda: ours.alookup, copies(PROMPT, LLM))
    race.enter("find_one", lambda: _afind(bench, "ours"), lambda count: [(key,)] * count)
    race.enter("MongoDBCache", lambda: holding(peers.mongo_cache(bench.mongo_url)).alookup, copies(PROMPT, LLM))
    race.run()
    what = "asynchronous MongoDB hit"
    yield race.compare("G8", f"{what} / find_one of its bytes by _id", "LayeredCache", "find_one")
    yield race.compare("G8", f"{what} / langchain-mongodb's MongoDBCache", "LayeredCache", "MongoDBCache", "<= 0.6x")


def _afind(bench: Bench, database: str) -> Callable[[str | None], Awaitable[object]]:
    entries = peers.async_mongo_client(bench.mongo_url)[database].entries

    async def find(key: str | None) -> object:
        return await entries.find_one({"_id": key}, {"envelope": 1})

    return find


def _updates(bench: Bench) -> Iterator[Line]:
    answers = answer()

    def new(count: int) -> Sequence[tuple[object, ...]]:
        return [(unlike(PROMPT), LLM, answers) for _ in range(count)]

    race = bench.race()
    race.enter("LayeredCache", lambda: _ours(bench).update, new)
    race.enter("MongoDBCache", lambda: peers.mongo_cache(bench.mongo_url).update, new)
    race.run()
    yield race.compare(
        "G8", "MongoDB update, durability=fast / langchain-mongodb's MongoDBCache", "LayeredCache", "MongoDBCache", "<= 0.3x"
    )


def _bytes(bench: Bench) -> Iterator[Line]:
    try:
        peers.mongo_cache(bench.mongo_url).clear()
        theirs = _size(bench, peers.mongo_cache(bench.mongo_url), "theirs", "theirs")
    except NotMeasuredError as error:
        yield Line("G12", "bytes in MongoDB per entry of 2 KB", reason=str(error))
        return
    for database, what, policy, target in (
        ("bare", 'store_requests="hash"', Policy(store_requests="hash"), "<= 0.15x"),
        ("full", "with its readable request", None, None),
    ):
        ours = _size(bench, _ours(bench, database, policy), database, "entries")
        yield Line("G12", f"bytes in MongoDB per entry of 2 KB, {what} / langchain-mongodb's MongoDBCache", ours / theirs, target=target)


def _size(bench: Bench, cache: BaseCache, database: str, collection: str) -> float:
    """Return how many bytes an entry of *cache* takes: its document, and its places in indexes."""
    for seed in range(bench.some(ENTRIES, least=2)):
        cache.update(unlike(PROMPT), LLM, answer(seed=seed))
    client = peers.mongo_client(bench.mongo_url)
    client.admin.command("fsync")  # what it says of indexes is what their files have
    stats = client[database].command("collStats", collection)
    return (stats["size"] + stats["totalIndexSize"]) / stats["count"]
