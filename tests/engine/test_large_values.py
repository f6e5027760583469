"""After a write that a tier could not take, no tier serves an older value of the key: for every writer and every kind of refusal."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from langchain_core.embeddings import Embeddings
from layered_cache import Answer, Entry, Event, Policy, TieredCache, TierTimeoutError, TierUnavailableError, cache_options
from layered_cache._engine import write_queue
from layered_cache._storage.envelope import MAX_VALUE
from layered_cache.testing import FakeAuthority, FakeClock, FakeTier
from support.servers import RedisServer
from support.sync_async import World, ask, kinds, settled

from langchain_layered_cache import CachedEmbeddings, LayeredByteStore
from llamaindex_layered_cache import LayeredKVStore

MiB = 2**20
SMALL, LARGE = 100, 1000  # bytes: of a value that fits, and of one that does not
LIMIT = 500


class PickyTier(FakeTier):
    """Refuses large values for good, and declares no limit."""

    def _set(self, entries: Sequence[Entry]) -> None:
        super()._set([entry for entry in entries if len(entry.value) <= LIMIT])
        if any(len(entry.value) > LIMIT for entry in entries):
            raise TierUnavailableError(self.name, "write", "too large", retryable=False)


class SlowTier(FakeTier):
    """Has never enough time for a large value, and enough for all else."""

    def _set(self, entries: Sequence[Entry]) -> None:
        super()._set([entry for entry in entries if len(entry.value) <= LIMIT])
        if any(len(entry.value) > LIMIT for entry in entries):
            raise TierTimeoutError(self.name, "write", "took longer than its budget")


def declared(name: str) -> FakeTier:
    """Return a tier that declares its limit."""
    tier: Any = FakeTier(name)
    tier.max_entry_bytes = LIMIT
    return tier


# --- writers: each replaces the value of one key


def set_(world: World, cache: TieredCache, size: int) -> None:
    world.call(cache, "set", ask(), bytes(size))


def set_many(world: World, cache: TieredCache, size: int) -> None:
    world.call(cache, "set_many", {ask("other"): b"x", ask(): bytes(size)})


def put(world: World, cache: TieredCache, size: int) -> None:
    world.call(LayeredKVStore(cache), "put", "k", {"v": bytes(size)})


def put_all(world: World, cache: TieredCache, size: int) -> None:
    world.call(LayeredKVStore(cache), "put_all", [("other", {}), ("k", {"v": bytes(size)})])


def mset(world: World, cache: TieredCache, size: int) -> None:
    world.call(LayeredByteStore(cache), "mset", [("other", b"x"), ("k", bytes(size))])


class Growing(Embeddings):
    """A model with vectors of another length each time it is made."""

    model = "growing"

    def __init__(self, size: int) -> None:
        self._size = size

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [[0.5] * (self._size // 4) for _ in texts]

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


def embed(world: World, cache: TieredCache, size: int) -> None:
    with cache_options(mode="refresh"):
        world.call(CachedEmbeddings(Growing(size), cache), "embed_documents", ["text"])


WRITERS: list[Callable[[World, TieredCache, int], None]] = [set_, set_many, put, put_all, mset, embed]


def sizes(tier: FakeTier) -> list[int]:
    """Return the sizes of the values that *tier* holds, but for those of other keys."""
    values = [entry for entry in tier.held.values() if isinstance(entry, Entry)]
    return [len(entry.value) for entry in values if len(entry.value) >= SMALL - 20]


@pytest.mark.parametrize("write", ["through", "behind"])
@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("make", [declared, PickyTier, SlowTier])
def test_a_refused_value_leaves_no_older_one(
    world: World,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[str], FakeTier],
    writer: Callable[[World, TieredCache, int], None],
    write: str,
) -> None:
    """The slowest tier has the new one."""
    monkeypatch.setattr(write_queue, "_BATCH_BYTES", LIMIT)
    monkeypatch.setattr(write_queue, "_FIRST_PAUSE", 0.001)
    tier, slowest = make("small"), FakeAuthority(clock=clock)
    cache = TieredCache("memory://", tier, slowest, clock=clock, policy=Policy(write=write))  # type: ignore[arg-type]
    writer(world, cache, SMALL)
    settled(cache)
    assert len(sizes(tier)) == 1

    writer(world, cache, LARGE)

    settled(cache)
    assert sizes(tier) == []
    assert [size >= LARGE for size in sizes(slowest)] == [True]


@pytest.mark.parametrize("writer", WRITERS)
def test_a_value_over_the_policy_leaves_no_older_one(
    world: World, clock: FakeClock, events: list[Event], writer: Callable[[World, TieredCache, int], None]
) -> None:
    """Not in memory, not in a tier, and not in one that is away at the time."""
    away, slowest = FakeTier("away"), FakeAuthority(clock=clock)
    policy = Policy(max_entry_bytes=LIMIT)
    cache = TieredCache("memory://", away, slowest, clock=clock, policy=policy, observers=[events.append])
    writer(world, cache, SMALL)
    away.broken = slowest.log_is_broken = True

    writer(world, cache, LARGE)

    assert sizes(slowest) == []
    assert len(sizes(away)) == 1  # it is not reachable
    assert [event.reason for event in events if event.kind == "not_stored"] == ["too large"]
    key = next(key for key, entry in away.held.items() if isinstance(entry, Entry) and len(entry.value) >= SMALL - 20)
    assert cache.tiers[0].get_many([key]) == {}
    away.broken = slowest.log_is_broken = False
    assert cache._engine.backlog.pending(away, [key]) == {key: None}  # no reader of this process asks for it
    settled(cache)
    assert sizes(away) == []


def test_a_refresh_that_is_too_large_removes_the_stale_entry(world: World, clock: FakeClock) -> None:
    """Otherwise it would be served, and refreshed, again and again."""
    slowest = FakeAuthority(clock=clock)
    cache = TieredCache("memory://", slowest, clock=clock, policy=Policy(max_entry_bytes=LIMIT, fresh_for=10))
    world.call(cache, "set", ask(), b"old")
    clock.advance(20)

    assert world.call(cache, "get_or_compute", ask(), world.compute(bytes(LARGE))).value == b"old"
    end = time.monotonic() + 5
    while slowest.held and time.monotonic() < end:
        world.call(cache, "get", ask("another"))  # a task needs its loop to run
    assert slowest.held == {}
    assert world.call(cache, "get", ask(), stale=True) is None


@pytest.mark.parametrize("writer", [set_, set_many, put, put_all, mset])
def test_a_write_before_the_log_was_read_leaves_no_older_value(
    world: World, clock: FakeClock, writer: Callable[[World, TieredCache, int], None]
) -> None:
    """A process that begins during an outage writes to memory only; later its entry is void, and the older one must not come back."""
    middle, slowest = FakeTier("middle"), FakeAuthority(clock=clock)
    writer(world, TieredCache(middle, slowest, clock=clock), SMALL)
    cache = TieredCache("memory://", middle, slowest, clock=clock)
    slowest.broken = slowest.log_is_broken = True

    writer(world, cache, SMALL + 200)

    slowest.broken = slowest.log_is_broken = False
    settled(cache)
    assert sizes(middle) == sizes(slowest) == []


def test_an_answer_computed_before_the_log_was_read_erases_nothing(world: World, clock: FakeClock) -> None:
    """Its caller has not seen the older one, which is as good."""
    middle, slowest = FakeTier("middle"), FakeAuthority(clock=clock)
    TieredCache(middle, slowest, clock=clock).set(ask(), b"answer")
    slowest.broken = slowest.log_is_broken = True
    cache = TieredCache("memory://", middle, slowest, clock=clock)
    world.call(cache, "get", ask())
    world.call(cache, "set", ask(), b"another")

    slowest.broken = slowest.log_is_broken = False
    settled(cache)
    assert len(middle.held) == len(slowest.held) == 1


def test_a_write_that_expires_in_the_queue_leaves_no_older_value(world: World, clock: FakeClock) -> None:
    """The older one may have more time left."""
    tier, slowest = FakeTier("redis"), FakeAuthority(clock=clock)
    cache = TieredCache("memory://", tier, slowest, clock=clock)
    world.call(cache, "set", ask(), b"old")
    tier.broken = True
    world.call(cache, "set", ask(), Answer(value=b"new", keep_for=5))
    clock.advance(10)
    tier.broken = False

    settled(cache)
    assert tier.held == {}


def test_a_void_write_in_the_queue_erases_nothing_newer(world: World, clock: FakeClock) -> None:
    """Another process has removed the key, and set it again."""
    tier, slowest = FakeTier("redis"), FakeAuthority(clock=clock)
    here, there = (TieredCache(tier, slowest, clock=clock) for _ in range(2))
    world.call(here, "set", ask(), b"old")
    tier.broken = True
    world.call(here, "set", ask(), b"late")
    tier.broken = False
    world.call(there, "delete", ask())
    world.call(there, "set", ask(), b"newer")
    clock.advance(3)
    world.call(here, "get", ask("another"))  # it learns of the removal

    settled(here)
    assert [entry.value for entry in tier.held.values() if isinstance(entry, Entry)] == [b"newer"]


def test_a_write_without_room_in_the_queue_erases_the_older_value(world: World, clock: FakeClock) -> None:
    """The queue keeps its key."""
    tier, slowest = FakeTier("redis"), FakeAuthority(clock=clock)
    cache = TieredCache(tier, slowest, clock=clock, policy=Policy(queue_bytes=20_000))
    for number in range(20):
        world.call(cache, "set", ask(str(number)), b"old")
    tier.broken = True
    for number in range(20):
        world.call(cache, "set", ask(str(number)), bytes(5_000))
    tier.broken = False

    settled(cache)
    values = [entry.value for entry in tier.held.values() if isinstance(entry, Entry)]
    assert 1 <= len(values) < 5
    assert b"old" not in values


def test_an_entry_larger_than_the_queue_waits_alone(world: World, clock: FakeClock) -> None:
    """Its tier would never get it otherwise."""
    tier, slowest = FakeTier("redis"), FakeAuthority(clock=clock)
    cache = TieredCache(tier, slowest, clock=clock, policy=Policy(queue_bytes=1_000, write="behind"))
    world.call(cache, "set", ask(), bytes(5_000))

    settled(cache)
    assert len(tier.held) == 1


def test_close_erases_the_older_values_of_what_it_gives_up(clock: FakeClock) -> None:
    """If the tier works."""
    tier, slowest = FakeTier("redis"), FakeAuthority(clock=clock)
    cache = TieredCache(tier, slowest, clock=clock)
    cache.set(ask(), b"old")
    late = TieredCache(tier, slowest, clock=clock, policy=Policy(write="behind"))
    late._engine.backlog.drain = lambda timeout: False  # type: ignore[method-assign] - it is too slow
    late.set(ask(), b"new")
    late.close()

    assert tier.held == {}
    assert late.stats().dropped == 2


def test_large_entries_do_not_fail_with_others(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch is no larger than a tier can take at once."""
    monkeypatch.setattr(write_queue, "_BATCH_BYTES", 3_000)
    tier = FakeTier("redis")
    cache = TieredCache("memory://", tier, FakeAuthority(clock=clock), clock=clock, policy=Policy(write="behind"))
    for number, size in enumerate((100, 100, 5_000, 100)):
        cache.set(ask(str(number)), bytes(size))
    settled(cache)

    assert [len(call.split()) - 1 for call in tier.calls if call.startswith("set ")] == [2, 1, 1]


# --- limits of tiers


@pytest.mark.slow
def test_a_value_of_64_mib_is_held_and_promoted(world: World, db: str) -> None:
    """By the default policy; from a file into memory, and back out of both."""
    value = os.urandom(MAX_VALUE)
    with TieredCache("memory://#max_bytes=300MiB", f"{db}#timeout=20s") as cache:
        assert world.call(cache, "set", ask(), value)
        settled(cache)
    with TieredCache("memory://#max_bytes=300MiB", f"{db}#timeout=20s") as other:
        assert world.call(other, "get", ask()).value == value
        assert other.tiers[0].get_many([other.key(ask())])[other.key(ask())].value == value  # type: ignore[union-attr]


def test_a_file_erases_the_older_value_of_what_it_cannot_hold(world: World, db: str) -> None:
    """A value larger than the file would push out everything, and then itself."""
    with TieredCache("memory://", f"{db}#max_bytes=1MiB") as cache, TieredCache(f"{db}") as other:
        world.call(cache, "set", ask("another"), b"stays")
        world.call(cache, "set", ask(), b"old")
        world.call(cache, "set", ask(), os.urandom(2 * MiB))
        settled(cache)

        assert other.get(ask()) is None
        assert other.get(ask("another"))
        world.call(cache, "set", ask(), bytes(2 * MiB))  # that compresses
        settled(cache)
        assert other.get(ask())


def test_memory_erases_the_older_value_of_what_it_cannot_hold(world: World) -> None:
    """It always did."""
    cache = TieredCache("memory://#max_bytes=1MiB")
    world.call(cache, "set", ask(), b"old")
    world.call(cache, "set", ask(), bytes(MiB))
    assert world.call(cache, "get", ask()) is None


def test_mongodb_holds_what_fits_when_compressed(world: World, mongodb_url: str) -> None:
    """Up to 15 MiB of it; a larger value is erased from there, and stays in the faster tiers."""
    url = f"{mongodb_url}#timeout=5s"
    with TieredCache("memory://", url) as cache, TieredCache("memory://", url) as other:
        world.call(cache, "set", ask(), bytes(40 * MiB))
        settled(cache)
        assert world.call(other, "get", ask()).value == bytes(40 * MiB)
        assert other.tiers[0].get_many([other.key(ask())])  # promoted

        world.call(cache, "set", ask(), large := os.urandom(16 * MiB))
        settled(cache)
        assert cache.tiers[1].get_many([cache.key(ask())]) == {}
        assert world.call(cache, "get", ask()).value == large


def test_a_full_redis_serves_no_older_value(world: World, own_redis: Callable[..., RedisServer], db: str, events: list[Event]) -> None:
    """It takes no entry, but erases one; other processes get nothing rather than the older value."""
    server = own_redis("--maxmemory-policy", "noeviction")
    url = f"{server.url}#timeout=2s"
    with TieredCache(url, db, observers=[events.append]) as cache, TieredCache(url) as other:
        world.call(cache, "set", ask(), b"old")
        assert other.tiers[0].get_many([cache.key(ask())])
        server.cli("config", "set", "maxmemory", "1")
        world.call(cache, "set_many", {ask(): b"new", ask("another"): b"x"})

        assert any("Redis is full" in str(event.reason) for event in events)
        assert other.tiers[0].get_many([cache.key(ask())]) == {}
        assert world.call(cache, "get", ask()).value == b"new"
        server.cli("config", "set", "maxmemory", "0")
        settled(cache)
        (held,) = other.tiers[0].get_many([cache.key(ask())]).values()
        assert isinstance(held, Entry)
        assert held.value == b"new"


@pytest.mark.slow
def test_a_redis_that_is_too_slow_serves_no_older_value(
    world: World, own_redis: Callable[..., RedisServer], db: str, events: list[Event]
) -> None:
    """A value that never gets through within the budget is given up, and the tier takes other writes again."""
    server = own_redis()
    with TieredCache(f"{server.url}#timeout=5ms", db, observers=[events.append]) as cache, TieredCache(f"{server.url}#timeout=2s") as other:
        while "lc1" not in server.cli("keys", "*"):
            world.call(cache, "set", ask(), b"old")
        world.call(cache, "set", ask(), os.urandom(60 * MiB))
        end = time.monotonic() + 20
        while len(cache._engine.backlog) and time.monotonic() < end:
            time.sleep(0.05)

        assert "queue_dropped" in kinds(events)
        assert other.tiers[0].get_many([cache.key(ask())]) == {}


def test_options_of_an_entry_do_not_count_as_its_value(clock: FakeClock) -> None:
    """The limit of a tier is one of values, so that it can be known before."""
    tier = declared("small")
    cache = TieredCache(tier, FakeAuthority(clock=clock), clock=clock)
    answer = Answer(value=bytes(LIMIT), tags=tuple(str(number) for number in range(200)))
    cache.set(ask(), answer)
    assert len(tier.held) == 1
    cache.set(ask(), dataclasses.replace(answer, value=bytes(LIMIT + 1)))
    assert len(tier.held) == 0
