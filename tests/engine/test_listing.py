"""`entries`: everything of a namespace that `get` would return, once."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest
from layered_cache import Entry, Event, Policy, TieredCache, TierError
from layered_cache.testing import FakeAuthority, FakeClock, FakeTier
from support.sync_async import Threads, World, ask, kinds, settled


def listed(world: World, cache: TieredCache) -> list[bytes]:
    """Return the values of all entries, sorted."""
    return sorted(entry.value for entry in entries(world, cache))


def entries(world: World, cache: TieredCache) -> list[Entry]:
    if isinstance(world, Threads):
        return list(cache.entries())

    async def main() -> list[Entry]:
        return [entry async for entry in cache.aentries()]

    return world.loop.run_until_complete(main())


@pytest.fixture(params=["memory", "sqlite", "memory and sqlite", "redis", "mongodb", "memory, redis and mongodb"])
def cache(request: pytest.FixtureRequest) -> Iterator[TieredCache]:
    """A cache over each list of tiers that people use."""
    fixtures = {"sqlite": "db", "redis": "redis_url", "mongodb": "mongodb_url"}
    tiers = request.param.replace(" and ", ", ").split(", ")
    urls = ("memory://" if tier == "memory" else f"{request.getfixturevalue(fixtures[tier])}#timeout=2s" for tier in tiers)
    with TieredCache(*urls) as cache:
        yield cache


def test_everything_of_one_namespace(world: World, cache: TieredCache) -> None:
    """Each entry once, as `get` returns it; nothing of other namespaces, and nothing that was deleted or invalidated."""
    assert listed(world, cache) == []
    for number in range(7):
        cache.set(ask(str(number)), str(number).encode(), tags=("odd",) if number % 2 else ())
    cache.namespace("child").set(ask("0"), b"child's")

    assert listed(world, cache) == [b"0", b"1", b"2", b"3", b"4", b"5", b"6"]
    assert listed(world, cache.namespace("child")) == [b"child's"]
    for entry in entries(world, cache):
        assert cache.get(entry.key) == entry

    cache.delete(ask("0"))
    cache.invalidate(tag="odd")
    assert listed(world, cache) == [b"2", b"4", b"6"]
    cache.clear()
    assert listed(world, cache) == []


def test_more_than_a_page(world: World, cache: TieredCache) -> None:
    """Whatever a page is."""
    cache.set_many({ask(str(number)): str(number).encode() for number in range(1203)})
    settled(cache)

    assert listed(world, cache) == sorted(str(number).encode() for number in range(1203))


def test_stale_entries_come_and_expired_ones_do_not(world: World, clock: FakeClock) -> None:
    """As with `get(stale=True)`."""
    cache = TieredCache("memory://", FakeAuthority(clock=clock), policy=Policy(keep_for=100, fresh_for=10), clock=clock)
    cache.set(ask("old"), b"old")
    clock.advance(50)
    cache.set(ask("new"), b"new")

    assert listed(world, cache) == [b"new", b"old"]
    clock.advance(51)
    assert listed(world, cache) == [b"new"]


def test_what_waits_to_be_written_comes_too(world: World, db: str, events: list[Event]) -> None:
    """Though no tier has it yet."""
    cache = TieredCache(f"{db}#timeout=20ms", observers=[events.append])
    cache.set(ask("written"), b"written")
    with closing(sqlite3.connect(db.removeprefix("sqlite:///"), isolation_level=None)) as another:
        another.execute("BEGIN IMMEDIATE")  # nobody else can write
        cache.set(ask("waiting"), b"waiting")
        cache.namespace("child").set(ask("waiting"), b"child's")
        assert "tier_failed" in kinds(events)

        assert listed(world, cache) == [b"waiting", b"written"]
    cache.close()


def test_a_tier_that_fails_counts_as_empty(world: World, events: list[Event]) -> None:
    """The others are asked; with `fail_open=False` its error is raised."""
    slow, fast = FakeAuthority("slow"), FakeTier("fast")
    cache = TieredCache(fast, slow, observers=[events.append])
    for number in range(5):
        cache.set(ask(str(number)), str(number).encode())
    slow.broken = True

    assert listed(world, cache) == [b"0", b"1", b"2", b"3", b"4"]
    assert [event.tier for event in events if event.kind == "tier_failed"] == ["slow"]

    strict = TieredCache(fast, slow, policy=Policy(fail_open=False))
    with pytest.raises(TierError, match="slow"):
        listed(world, strict)


def test_a_tier_that_has_less_adds_what_the_slowest_lacks(world: World) -> None:
    """And what both have comes once, though the tier names keys twice."""
    slow, fast = FakeAuthority("slow"), FakeTier("fast")
    cache = TieredCache(fast, slow)
    for number in range(5):
        cache.set(ask(str(number)), str(number).encode())
    for number in (0, 3):
        slow.delete_many([cache.key(ask(str(number)))])

    assert listed(world, cache) == [b"0", b"1", b"2", b"3", b"4"]


def test_listing_disturbs_nothing(world: World) -> None:
    """It promotes nothing, counts nothing, and each entry is read once."""
    slow, fast = FakeAuthority("slow"), FakeTier("fast")
    TieredCache(slow).set(ask("x"), b"x")
    cache = TieredCache("memory://", fast, slow)

    assert listed(world, cache) == [b"x"]

    settled(cache)
    assert cache.get(ask("other")) is None
    stats = cache.stats()
    assert (stats.hits, stats.misses) == (0, 1)
    assert fast.held == {}
    assert len(cache.tiers[0]) == 0
    assert slow.calls.count(f"get {cache.key(ask('x'))}") == 1


def test_a_listing_that_is_left_early(world: World, cache: TieredCache) -> None:
    """Is no trouble."""
    cache.set_many({ask(str(number)): b"x" for number in range(3)})
    if isinstance(world, Threads):
        assert next(iter(cache.entries())).value == b"x"
        return

    async def main() -> bytes:
        found = cache.aentries()
        value = (await anext(found)).value
        await found.aclose()
        return value

    assert world.loop.run_until_complete(main()) == b"x"


def test_a_miss_is_not_remembered_where_values_are_given(world: World) -> None:
    """`get_many(leave=False)`: what is set after a removal stays, though its caller looked before."""
    cache = TieredCache("memory://", FakeAuthority())
    for leave, held in ((True, set()), (False, {ask("x")})):
        assert world.call(cache, "get_many", [ask("x")], leave=leave) == {}
        world.call(cache, "delete", ask("x"))
        in_task = world.call(cache, "get_many", [ask("x")], leave=False)  # the world's tasks are others each time
        assert in_task == {}
        world.call(cache, "set", ask("x"), b"x")
        assert set(world.call(cache, "get_many", [ask("x")], leave=False)) == held
