"""What is void, who knows it, and since when."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sqlite3
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from layered_cache import Answer, ConfigurationError, DeletionError, Event, Policy, Request, TieredCache
from layered_cache._storage.rules import (
    MAX_FLOORS,
    MAX_LOG_BYTES,
    MAX_RULES,
    LogState,
    MemoryLog,
    Rule,
    Rules,
    Scope,
    View,
    below,
    folded_floors,
    leaving,
)
from layered_cache.entry import Entry, Ticket
from layered_cache.errors import TierTimeoutError, TierUnavailableError
from layered_cache.testing import FakeAuthority, FakeClock, FakeTier
from layered_cache.testing._sync_async import an_entry
from support.sync_async import World, ask, kinds, settled

HOUR = 3600.0


@pytest.fixture
def shared(clock: FakeClock) -> FakeAuthority:
    return FakeAuthority(clock=clock)


@pytest.fixture
def cache(shared: FakeAuthority, clock: FakeClock, events: list[Event]) -> TieredCache:
    return TieredCache("memory://", FakeTier("redis"), shared, clock=clock, observers=[events.append])


def other_process(shared: FakeAuthority, clock: FakeClock, **options: Any) -> TieredCache:
    return TieredCache("memory://", FakeTier("redis"), shared, clock=clock, **options)


# --- what a rule voids


CRITERIA: list[dict[str, Any]] = [
    {"tag": "red"},
    {"tag": ["blue", "red"]},
    {"model": "gpt-4o"},
    {"model": "gpt-*"},
    {"prompt": "the question"},
    {"created_after": 1_700_000_000.0},
    {"created_before": 1_800_000_000.0},
    {"created_after": 1_600_000_000.0, "created_before": 1_800_000_000.0, "tag": "red", "model": "gpt-4?"},
]
MISSES: list[dict[str, Any]] = [
    {"tag": "reds"},
    {"model": "gpt-4"},
    {"model": "GPT-4o"},
    {"prompt": "the question "},
    {"created_after": 1_800_000_000.0},
    {"created_before": 1_700_000_000.0},
    {"tag": "red", "model": "gpt-5"},
]


def filled(world: World, cache: TieredCache) -> Entry:
    request = Request([{"role": "system", "content": "be brief"}, {"role": "user", "content": "the question"}], model="gpt-4o")
    held = world.call(cache, "set", request, Answer(value=b"x", tags=("red", "green")))
    assert world.call(cache, "get", request) == held
    return held


@pytest.mark.parametrize("criteria", CRITERIA, ids=str)
def test_what_meets_all_criteria_is_void(world: World, cache: TieredCache, criteria: dict[str, Any]) -> None:
    """At once, in memory and below."""
    held = filled(world, cache)

    receipt = world.call(cache, "invalidate", **criteria)

    assert receipt.seq > held.born.seq
    assert receipt.durable
    assert world.call(cache, "get", held.key) is None


@pytest.mark.parametrize("criteria", MISSES, ids=str)
def test_what_misses_one_criterion_stays(world: World, cache: TieredCache, criteria: dict[str, Any]) -> None:
    """Though it may meet others."""
    held = filled(world, cache)

    world.call(cache, "invalidate", **criteria)

    assert world.call(cache, "get", held.key) == held


def test_by_key(world: World, cache: TieredCache) -> None:
    """One or several; with or without erasing."""
    a, b, c = (world.call(cache, "set", ask(text), b"x") for text in "abc")

    world.call(cache, "invalidate", key=[a.key, b.key])

    assert [world.call(cache, "get", held.key) for held in (a, b, c)] == [None, None, c]


def test_delete_makes_void_and_erases(world: World, cache: TieredCache, shared: FakeAuthority) -> None:
    """From every tier; the receipt says from which."""
    _, b = (world.call(cache, "set", ask(text), b"x") for text in "ab")

    receipt = world.call(cache, "delete", ask("a"), b.key, ask("absent"))

    assert receipt.removed == {"authority": 2, "redis": 2, "memory": 2}
    assert shared.held == {}
    assert world.call(cache, "get_many", [ask("a"), ask("b")]) == {}


def test_clear_is_exact(world: World, cache: TieredCache) -> None:
    """One namespace, or it and all below; never a neighbour."""
    child, sibling = cache.namespace("a"), cache.namespace("ab")
    nested = child.namespace("b")
    everyone = [cache, child, sibling, nested]

    def alive() -> list[bool]:
        return [world.call(one, "get", ask()) is not None for one in everyone]

    for one in everyone:
        world.call(one, "set", ask(), b"x")
    world.call(child, "clear")
    assert alive() == [True, False, True, True]
    world.call(child, "set", ask(), b"y")
    assert alive() == [True, True, True, True]
    world.call(child, "clear", children=True)
    assert alive() == [True, False, True, False]
    world.call(cache, "clear", children=True)
    assert alive() == [False] * 4


def test_a_child_namespace_can_be_named(world: World, cache: TieredCache) -> None:
    """By its name, with criteria or whole; nobody reaches beside or above himself."""
    child = cache.namespace("tenant-7")
    mine, theirs = world.call(cache, "set", ask(), b"x"), world.call(child, "set", ask(), Answer(value=b"y", tags=("a",)))

    world.call(cache, "invalidate", tag="a", namespace="tenant-8")
    assert world.call(child, "get", ask()) == theirs
    world.call(cache, "invalidate", tag="a", namespace="tenant-7")
    assert world.call(child, "get", ask()) is None
    world.call(child, "set", ask(), b"z")
    world.call(cache, "invalidate", namespace="tenant-7")
    assert world.call(child, "get", ask()) is None
    assert world.call(cache, "get", ask()) == mine


def test_no_criterion_is_an_error(world: World, cache: TieredCache) -> None:
    """To remove everything there is `clear`."""
    with pytest.raises(ValueError, match="clear"):
        world.call(cache, "invalidate")


@pytest.mark.parametrize(
    "criteria",
    [
        {"tag": []},
        {"key": []},
        {"tag": [], "model": "*"},
        {"tag": [5]},
        {"model": ["gpt-4"]},
        {"prompt": 5},
        {"created_before": "2024-01-01"},
        {"created_after": datetime(2026, 1, 1)},
        {"created_after": float("nan")},
        {"key": "foreign"},
        {"model": "*", "namespace": ""},
    ],
    ids=str,
)
def test_wrong_criteria_are_told_of_before_anything_happens(
    world: World, cache: TieredCache, shared: FakeAuthority, criteria: dict[str, Any]
) -> None:
    """Nothing is written: a rule of a wrong type would fail in every process for as long as it lives, an empty one void everything."""
    held = world.call(cache, "set", ask(), b"x")
    assert shared.log is not None
    before = shared.log.seq

    with pytest.raises(ConfigurationError):
        world.call(cache, "invalidate", **criteria)

    assert shared.log.seq == before
    assert world.call(cache, "get", held.key) == held


def test_deleting_nothing_deletes_nothing(world: World, cache: TieredCache) -> None:
    """An empty list is no namespace."""
    held = world.call(cache, "set", ask(), b"x")

    assert world.call(cache, "delete").removed == {}
    assert world.call(cache, "get", held.key) == held


def test_moments_may_be_datetimes(world: World, cache: TieredCache) -> None:
    """That say their zone."""
    held = filled(world, cache)
    world.call(cache, "invalidate", created_before=datetime(2020, 1, 1, tzinfo=UTC))
    assert world.call(cache, "get", held.key) == held
    world.call(cache, "invalidate", created_before=datetime(2040, 1, 1, tzinfo=UTC))
    assert world.call(cache, "get", held.key) is None


def test_a_rule_that_nobody_here_understands(world: World, db: str) -> None:
    """Of a newer release, or nonsense: what it may void is not served for longer than the log may be unread."""
    cache = TieredCache("memory://", db, policy=Policy(strict_invalidation=True, max_staleness=0.05))
    held = world.call(cache, "set", ask(), b"x")
    cache.invalidate(tag="other")
    path = db.removeprefix("sqlite:///")
    for scope in ('{"colour": "red"}', '{"created_before": "2024"}', "[1]", "nonsense"):
        file = sqlite3.connect(path)
        file.execute("UPDATE log_rules SET scope = ?", (scope,))
        file.execute("UPDATE log SET seq = seq + 1")
        file.execute("UPDATE log_rules SET seq = (SELECT seq FROM log)")
        file.commit()
        file.close()
        time.sleep(0.06)
        assert world.call(cache, "get", held.key) is None
    assert cache.stats().log_failures >= 1
    world.call(cache, "close")


def test_a_dry_run_removes_nothing(world: World, db: str) -> None:
    """It counts, where that is possible."""
    cache = TieredCache("memory://", db)
    held = filled(world, cache)

    receipt = world.call(cache, "invalidate", tag="red", dry_run=True)

    assert (receipt.seq, receipt.removed) == (None, {"sqlite": 1})
    assert world.call(cache, "get", held.key) == held
    assert world.call(cache, "invalidate", tag="red").removed == {"sqlite": 1}
    world.call(cache, "close")


# --- born before, stored after


def test_an_answer_computed_before_and_stored_after_is_void(world: World, cache: TieredCache, shared: FakeAuthority) -> None:
    """The look-up's miss is remembered, whoever invalidates; the next answer is kept at once."""
    assert world.call(cache, "get", ask()) is None
    thread = threading.Thread(target=lambda: cache.clear())
    thread.start()
    thread.join()

    assert world.call(cache, "set", ask(), b"old") is None
    assert world.call(cache, "get", ask()) is None
    assert shared.held == {}

    assert world.call(cache, "set", ask(), b"new")
    assert world.call(cache, "get", ask()).value == b"new"


def test_the_second_of_two_callers_that_looked_before_is_void_too(cache: TieredCache) -> None:
    """In threads and tasks, in any order of storing; and what is looked up after is kept at once."""
    stored: list[Any] = []
    looked, invalidated = threading.Barrier(3), threading.Event()

    def caller() -> None:
        assert cache.get(ask()) is None
        looked.wait()
        invalidated.wait()
        stored.append(cache.set(ask(), b"old"))

    threads = [threading.Thread(target=caller) for _ in range(2)]
    for thread in threads:
        thread.start()
    looked.wait()
    cache.invalidate(model="model-1")

    def next_caller() -> None:
        assert cache.get(ask()) is None
        stored.append(cache.set(ask(), b"new"))

    after = threading.Thread(target=next_caller)
    after.start()
    after.join()
    invalidated.set()
    for thread in threads:
        thread.join()

    assert stored[0].value == b"new"
    assert stored[1:] == [None, None]
    assert cache.get(ask()).value == b"new"


def test_the_second_of_two_tasks_is_void_too(cache: TieredCache) -> None:
    """As above, in one loop."""

    async def caller(wait: asyncio.Event) -> Any:
        assert await cache.aget(ask()) is None
        await wait.wait()
        return await cache.aset(ask(), b"old")

    async def next_caller() -> Any:
        assert await cache.aget(ask()) is None
        return await cache.aset(ask(), b"new")

    async def main() -> list[Any]:
        wait = asyncio.Event()
        callers = [asyncio.create_task(caller(wait)) for _ in range(2)]
        await asyncio.sleep(0.05)
        await cache.ainvalidate(model="model-1")
        new = await asyncio.create_task(next_caller())
        wait.set()
        return [new, *await asyncio.gather(*callers)]

    new, *old = asyncio.run(main())

    assert new.value == b"new"
    assert old == [None, None]


def test_a_batch_of_equal_questions(world: World, cache: TieredCache) -> None:
    """Each of them looked, each of them is void; none takes the present for its birth."""
    for _ in range(3):
        world.call(cache, "get_many", [ask("a"), ask("b")])
    world.call(cache, "invalidate", model="model-1")

    assert [world.call(cache, "set_many", {ask("a"): b"x", ask("b"): b"x"}) for _ in range(3)] == [{}, {}, {}]
    assert set(world.call(cache, "set_many", {ask("a"): b"x", ask("b"): b"x"})) == {ask("a"), ask("b")}


def test_a_computation_that_an_invalidation_overtakes(world: World, cache: TieredCache) -> None:
    """Its caller gets the answer, for he asked before; nobody else does."""

    def overtake() -> None:
        time.sleep(0.1)
        cache.invalidate(model="model-1")

    thread = threading.Thread(target=overtake)
    thread.start()
    entry = world.call(cache, "get_or_compute", ask(), world.compute(b"old", 0.3))
    thread.join()

    assert entry.value == b"old"
    assert world.call(cache, "get", ask()) is None


def test_who_asks_after_an_invalidation_does_not_follow_a_flight_from_before(cache: TieredCache) -> None:
    """He waits for it, sees that it is too old, and computes."""
    results: dict[str, bytes] = {}
    log: list[bytes] = []

    def caller(name: str, seconds: float) -> None:
        def compute() -> bytes:
            time.sleep(seconds)
            log.append(name.encode())
            return name.encode()

        results[name] = cache.get_or_compute(ask(), compute).value

    before = threading.Thread(target=caller, args=("before", 0.4))
    before.start()
    time.sleep(0.1)
    cache.invalidate(model="model-1")
    after = [threading.Thread(target=caller, args=(f"after {number}", 0.1)) for number in range(3)]
    for thread in after:
        thread.start()
    for thread in (before, *after):
        thread.join()

    assert results.pop("before") == b"before"
    assert len(set(results.values())) == 1
    assert len(log) == 2
    assert cache.get(ask()).value in results.values()


def test_a_warm_up_takes_no_ticket_away(cache: TieredCache) -> None:
    """Who looked before still knows that he did."""

    def warm_up() -> None:
        cache.set(ask(), b"warm")

    assert cache.get(ask()) is None
    thread = threading.Thread(target=warm_up)
    thread.start()
    thread.join()
    cache.delete(ask())

    assert cache.set(ask(), b"old, computed before the deletion") is None
    assert cache.get(ask()) is None


def test_a_birth_can_be_given(world: World, cache: TieredCache) -> None:
    """For answers that were computed elsewhere, or long ago."""
    ticket = world.call(cache, "ticket")
    world.call(cache, "invalidate", model="model-1")

    assert world.call(cache, "set", ask(), b"old", born=ticket) is None
    assert world.call(cache, "set", ask(), b"new", born=world.call(cache, "ticket"))


def test_a_promotion_that_lands_late_brings_nothing_back(world: World, cache: TieredCache, shared: FakeAuthority) -> None:
    """It keeps its birth."""
    held = world.call(cache, "set", ask(), b"x")
    world.call(cache, "invalidate", key=held.key)

    cache.tiers[0].set_many([held])
    cache.tiers[1].set_many([held])
    shared.set_many([held])

    assert world.call(cache, "get", held.key) is None
    assert cache.stats().void == 3


def test_what_waits_to_be_written_when_it_becomes_void_is_not_written(world: World, cache: TieredCache) -> None:
    """It would only take room."""
    redis = cache.tiers[1]
    redis.broken = True
    held = world.call(cache, "set", ask(), b"x")
    world.call(cache, "invalidate", model="model-1")
    redis.broken = False
    settled(cache)

    assert held.key not in redis.held


# --- other processes


def test_another_process_obeys_within_max_staleness(world: World, cache: TieredCache, shared: FakeAuthority, clock: FakeClock) -> None:
    """This one at once."""
    other = other_process(shared, clock)
    held = world.call(cache, "set", ask(), b"x")
    assert world.call(other, "get", held.key) == held

    world.call(cache, "invalidate", model="model-1")
    assert world.call(cache, "get", held.key) is None
    clock.advance(1.9)
    world.call(other, "get", held.key)  # it may still be served, or not
    clock.advance(0.2)

    assert world.call(other, "get", held.key) is None


def test_a_sleeper_looks_before_it_serves(world: World, cache: TieredCache, shared: FakeAuthority, clock: FakeClock) -> None:
    """However long it slept."""
    other = other_process(shared, clock)
    held = world.call(cache, "set", ask(), b"x")
    assert world.call(other, "get", held.key) == held
    world.call(cache, "clear")
    clock.advance(5 * HOUR)

    assert other.peek(held.key) is None
    assert world.call(other, "get", held.key) is None


def test_while_the_log_cannot_be_read_the_last_view_serves_for_a_while(
    world: World, cache: TieredCache, shared: FakeAuthority, clock: FakeClock, events: list[Event]
) -> None:
    """Every hit is counted and told of; then nothing is served; then everything is again."""
    held = world.call(cache, "set", ask(), b"x")
    shared.log_is_broken = True
    clock.advance(3)

    assert world.call(cache, "get", held.key) == held
    assert kinds(events)[-3:] == ["log_failed", "served_unverified", "hit"]
    clock.advance(590)
    assert world.call(cache, "get", held.key) == held
    assert cache.stats().served_unverified == 2
    clock.advance(10)
    assert world.call(cache, "get", held.key) is None
    shared.log_is_broken = False
    clock.advance(1.1)
    assert world.call(cache, "get", held.key) == held


def test_a_looker_that_is_cancelled_has_not_looked(shared: FakeAuthority, clock: FakeClock) -> None:
    """Who followed it looks himself, and is not told that nothing has changed."""
    cache, other = other_process(shared, clock), other_process(shared, clock)
    held = cache.set(ask(), b"x")
    assert held is not None
    clock.advance(300)
    other.invalidate(model="model-1")
    clock.advance(100)
    at_once = shared.aread_log

    async def read_slowly(seen: Ticket) -> LogState:
        await asyncio.sleep(0.05)
        return await at_once(seen)

    async def main() -> Any:
        shared.aread_log = read_slowly
        looker = asyncio.create_task(cache.aget(held.key))
        await asyncio.sleep(0.01)
        follower = asyncio.create_task(cache.aget(held.key))
        await asyncio.sleep(0.01)
        looker.cancel()
        return await follower

    assert asyncio.run(main()) is None
    assert cache.stats().served_unverified == 0


@pytest.mark.parametrize("lost", [False, True], ids=["the look was answered long ago", "the log was lost meanwhile"])
def test_who_waits_for_a_look_that_began_long_ago_looks_himself(shared: FakeAuthority, clock: FakeClock, lost: bool) -> None:
    """What that look brings may be older than what he may be served by, also where it brings nothing that can be used."""
    cache, other = other_process(shared, clock), other_process(shared, clock)
    held = cache.set(ask(), b"x")
    assert held is not None
    clock.advance(300)
    gate = asyncio.Event()

    async def read_slowly(seen: Ticket) -> LogState:
        before = shared.read_log(seen)
        shared.aread_log = FakeAuthority.aread_log.__get__(shared)
        await gate.wait()
        return shared.read_log(seen) if lost else before

    async def main() -> Any:
        shared.aread_log = read_slowly
        looker = asyncio.create_task(cache.aget(held.key))
        await asyncio.sleep(0.01)
        if lost:
            await cache.adelete(ask("something else"))  # so that what the look brings is no news
        await other.adelete(held.key)
        clock.advance(3)
        if lost:
            shared.log = None
        follower = asyncio.create_task(cache.aget(held.key))
        await asyncio.sleep(0.01)
        assert not follower.done()
        gate.set()
        await looker
        return await follower

    assert asyncio.run(main()) is None


def test_strictly_no_flight_is_followed_either_while_the_log_cannot_be_read(shared: FakeAuthority, clock: FakeClock) -> None:
    """Its answer may have become void since it took off."""
    cache, other = other_process(shared, clock, policy=Policy(strict_invalidation=True)), other_process(shared, clock)

    async def main() -> Any:
        gate = asyncio.Event()

        async def early() -> bytes:
            await gate.wait()
            return b"early"

        async def late() -> bytes:
            return b"late"

        leader = asyncio.create_task(cache.aget_or_compute(ask(), early))
        await asyncio.sleep(0.01)
        await other.adelete(ask())
        clock.advance(3)
        shared.log_is_broken = True
        follower = asyncio.create_task(cache.aget_or_compute(ask(), late))
        await asyncio.sleep(0.01)
        gate.set()
        await leader
        return (await follower).value

    assert asyncio.run(main()) == b"late"


@pytest.mark.parametrize("strict", [True, False])
def test_no_staleness_at_all(world: World, shared: FakeAuthority, clock: FakeClock, strict: bool) -> None:
    """Then every call looks, and what it finds is verified."""
    cache = other_process(shared, clock, policy=Policy(max_staleness=0, strict_invalidation=strict))
    held = world.call(cache, "set", ask(), b"x")

    assert world.call(cache, "get", held.key) == held
    assert cache.stats().served_unverified == 0
    other_process(shared, clock).invalidate(model="model-1")
    assert world.call(cache, "get", held.key) is None


def test_without_an_authority_what_is_shared_ends_with_the_process(world: World, clock: FakeClock) -> None:
    """Nobody could tell another process what is not true any more."""
    shared = FakeTier("redis")
    cache, other = (TieredCache("memory://", shared, clock=clock) for _ in range(2))
    held = world.call(cache, "set", ask(), b"x")

    assert held.key in shared.held
    assert world.call(cache, "get", held.key) == held
    assert world.call(other, "get", held.key) is None


def test_what_is_void_is_erased_when_it_is_met(world: World, db: str) -> None:
    """In the background, by its birth: the answer that replaces it stays."""
    cache = TieredCache("memory://", db)
    held = world.call(cache, "set", ask(), b"old")
    sqlite = cache.tiers[1]
    world.call(cache, "invalidate", model="model-1")
    sqlite.set_many([held])  # a write that landed late

    assert world.call(cache, "get", held.key) is None
    for _ in range(200):
        if not sqlite.get_many([held.key]):
            break
        time.sleep(0.01)
    assert sqlite.get_many([held.key]) == {}
    sqlite.set_many([held])
    assert world.call(cache, "get", held.key) is None
    new = world.call(cache, "set", ask(), b"new")
    time.sleep(0.1)
    assert sqlite.get_many([held.key]) == {held.key: new}
    world.call(cache, "close")


def test_a_log_that_cannot_be_read_is_not_tried_at_every_call(
    world: World, cache: TieredCache, shared: FakeAuthority, clock: FakeClock, events: list[Event]
) -> None:
    """Once a second is enough."""
    held = world.call(cache, "set", ask(), b"x")
    shared.log_is_broken = True
    clock.advance(3)
    events.clear()
    for _ in range(10):
        world.call(cache, "get", held.key)
    assert kinds(events).count("log_failed") == 1
    clock.advance(1.1)
    world.call(cache, "get", held.key)
    assert kinds(events).count("log_failed") == 2


def test_strictly_nothing_is_served_while_the_log_cannot_be_read(world: World, shared: FakeAuthority, clock: FakeClock) -> None:
    """For who must not."""
    cache = other_process(shared, clock, policy=Policy(strict_invalidation=True))
    held = world.call(cache, "set", ask(), b"x")
    shared.log_is_broken = True
    clock.advance(3)

    assert world.call(cache, "get", held.key) is None
    assert world.call(cache, "get_or_compute", ask(), world.compute(b"y")).value == b"y"


def test_a_process_that_never_read_the_log_serves_its_own_from_memory(
    world: World, cache: TieredCache, shared: FakeAuthority, clock: FakeClock
) -> None:
    """What it computed itself, from memory only; at the first look it drops that."""
    theirs = world.call(cache, "set", ask("theirs"), b"x")
    other = other_process(shared, clock)
    shared.log_is_broken = True

    assert world.call(other, "get", theirs.key) is None
    mine = world.call(other, "get_or_compute", ask("mine"), world.compute(b"y"))
    assert world.call(other, "get", mine.key) == mine
    assert mine.key not in shared.held
    assert mine.key not in other.tiers[1].held
    assert other.stats().served_unverified == 1

    shared.log_is_broken = False
    clock.advance(1.1)
    assert world.call(other, "get", mine.key) is None
    assert world.call(other, "get", theirs.key) == theirs


def test_a_process_that_never_reads_the_log_serves_its_own_for_a_while(
    world: World, cache: TieredCache, shared: FakeAuthority, clock: FakeClock
) -> None:
    """As long as others go on with what they had read: others may have removed it meanwhile."""
    other = other_process(shared, clock)
    shared.log_is_broken = True
    clock.advance(5000)  # before it is used
    mine = world.call(other, "get_or_compute", ask("mine"), world.compute(b"y"))

    clock.advance(599)
    assert world.call(other, "get", mine.key) == mine
    clock.advance(2)
    assert world.call(other, "get", mine.key) is None
    assert world.call(other, "get_or_compute", ask("mine"), world.compute(b"z")).value == b"z"

    shared.log_is_broken = False
    clock.advance(1.1)
    again = world.call(other, "get_or_compute", ask("mine"), world.compute(b"y"))
    assert world.call(other, "get", again.key) == again


def test_an_invalidation_that_cannot_be_written_is_an_error(world: World, cache: TieredCache, shared: FakeAuthority) -> None:
    """Who asked for removal must know."""
    held = world.call(cache, "set", ask(), b"x")
    shared.log_is_broken = True

    for method, arguments, criteria in (("invalidate", (), {"model": "*"}), ("clear", (), {}), ("delete", (held.key,), {})):
        with pytest.raises(DeletionError, match="may still be served") as raised:
            world.call(cache, method, *arguments, **criteria)
        assert raised.value.failures


def test_a_tier_that_cannot_erase_is_in_the_receipt(world: World, cache: TieredCache) -> None:
    """The entry is void all the same."""
    held = world.call(cache, "set", ask(), b"x")
    cache.tiers[1].broken = True

    receipt = world.call(cache, "delete", held.key)

    assert [error.tier for error in receipt.failures] == ["redis"]
    cache.tiers[1].broken = False
    assert world.call(cache, "get", held.key) is None


def test_a_lost_log_makes_everything_cold_once(
    world: World, cache: TieredCache, shared: FakeAuthority, clock: FakeClock, events: list[Event]
) -> None:
    """Nobody knows what it said."""
    held = world.call(cache, "set", ask(), b"x")
    shared.log = None
    clock.advance(3)

    assert world.call(cache, "get", held.key) is None
    assert "log_restarted" in kinds(events)
    again = world.call(cache, "set", ask(), b"y")
    assert again.born.epoch not in (held.born.epoch, 0)
    clock.advance(3)
    assert world.call(cache, "get", held.key) == again


def test_a_log_that_comes_back_older_gets_a_new_epoch(
    world: World, cache: TieredCache, shared: FakeAuthority, clock: FakeClock, events: list[Event]
) -> None:
    """By the first process that knew better."""
    before = world.call(cache, "set", ask(), b"x")
    log = shared.log
    assert log is not None
    old_seq = log.seq
    world.call(cache, "invalidate", model="model-1")
    log.seq, log._rules = old_seq, deque()  # the snapshot is back
    shared.set_many([before])
    clock.advance(3)

    assert world.call(cache, "get", before.key) is None
    assert "log_restarted" in kinds(events)
    assert world.call(other_process(shared, clock), "get", before.key) is None


def test_a_log_that_comes_back_older_is_noticed_by_who_invalidates(world: World, cache: TieredCache, shared: FakeAuthority) -> None:
    """Though a new rule would hide how old it is."""
    world.call(cache, "set", ask(), b"x")
    log = shared.log
    assert log is not None
    world.call(cache, "invalidate", model="model-1")
    epoch, log.seq, log._rules = log.epoch, 0, deque()

    world.call(cache, "invalidate", model="something else")

    assert shared.log is not None
    assert shared.log.epoch != epoch


def test_a_miss_makes_the_log(world: World, cache: TieredCache, shared: FakeAuthority, clock: FakeClock) -> None:
    """So the answer is born under it: had another log come and gone with its rules before it is stored, it would be void."""
    assert world.call(cache, "get", ask("a")) is None
    assert world.call(cache, "get", ask("b")) is None
    assert shared.log is not None
    assert world.call(cache, "set", ask("a"), b"x")

    shared.log = None
    clock.advance(3)
    world.call(cache, "get", ask("c"))

    assert world.call(cache, "set", ask("b"), b"x") is None


def test_without_a_log_nothing_is_stored_but_in_memory(
    world: World, cache: TieredCache, shared: FakeAuthority, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it cannot be made, nobody could say later what is void."""

    def fails(seen: object) -> LogState:
        raise TierUnavailableError("authority", "open the log", "it is read-only")

    monkeypatch.setattr(shared, "open_log", fails)
    assert world.call(cache, "get_or_compute", ask("a"), world.compute(b"x", 0.0, [])).value == b"x"
    assert world.call(cache, "get", ask("a"))
    assert not shared.held

    monkeypatch.undo()
    clock.advance(3)
    assert world.call(cache, "get", ask("b")) is None
    assert world.call(cache, "get", ask("a")) is None
    assert world.call(cache, "set", ask("a"), b"y")
    assert shared.held


_OTHER = """
import sys, time
from layered_cache import Request, TieredCache
cache = TieredCache("memory://", sys.argv[1])
while True:
    print(" ".join(str(cache.get(key) is not None) for key in sys.argv[2:]), flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize(
    "criteria", [{"tag": "red"}, {"model": "gpt-4*"}, {"key": True}, {"prompt": "the question"}, {"created_before": 2e9}], ids=str
)
def test_two_processes_over_one_file(db: str, criteria: dict[str, Any]) -> None:
    """By tag, by model, by key, by prompt, by time: obeyed by itself at once, by the other within two seconds."""
    with TieredCache("memory://", db) as cache:
        request = Request("the question", model="gpt-4o")
        held = cache.set(request, Answer(value=b"x", tags=("red",)))
        other = cache.set(Request("another", model="llama"), b"y", born=cache.ticket())
        assert held is not None
        assert other is not None
        with subprocess.Popen(
            [sys.executable, "-c", _OTHER, db, held.key, other.key], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == "True True\n"

            cache.invalidate(**{name: held.key if value is True else value for name, value in criteria.items()})
            invalidated = time.monotonic()
            assert cache.get(request) is None
            both = "created_before" in criteria
            while True:
                process.stdin.write("\n")
                process.stdin.flush()
                seen = process.stdout.readline()
                if seen == ("False False\n" if both else "False True\n"):
                    break
                assert time.monotonic() - invalidated < 2.0, seen
                time.sleep(0.02)
            process.kill()


# --- the log itself


def test_rules_that_leave_raise_the_floor() -> None:
    """So the log is bounded, and what they voided stays void."""
    log, rules = MemoryLog(), Rules()
    voided = an_entry("first", namespace="app", born=Ticket(1, 0))
    log.append("app", Scope(keys=("first",)), clock=1.0)
    for number in range(MAX_RULES):
        log.append("other", Scope(keys=(str(number),)), clock=1.0)
    rules.add(log.state(Ticket(0, 0)))

    assert len(log.state(Ticket(0, 0)).rules) == MAX_RULES
    assert log.floors == {"app": 1_000_000}
    assert rules.void(voided)
    assert rules.void(an_entry("other of app", namespace="app", born=Ticket(1, 5)))
    assert not rules.void(an_entry("of app, later", namespace="app", born=Ticket(1, 1_000_000)))
    assert not rules.void(an_entry("elsewhere", namespace="third", born=Ticket(1, 0)))


def test_a_seq_is_never_used_twice() -> None:
    """Though the clock goes back."""
    log = MemoryLog()
    log.append("app", Scope(keys=("a",)), clock=100.0)
    log.append("app", Scope(keys=("b",)), clock=50.0)

    assert [rule.seq for rule in log.state(Ticket(0, 0)).rules] == [100_000_000, 100_000_001]


@pytest.mark.parametrize(
    ("sizes", "before", "newest"),
    [
        ([], 0, 0),
        ([(1, 10), (2, 10)], 0, 0),
        ([(1, 10), (2, 10)], 2, 1),
        ([(1, 10), (2, 10)], 9, 2),
        ([(1, 2**20), (2, 10)], 0, 1),
        ([(1, 10), (2, 2**20)], 0, 1),
        ([(1, 10), (2, 2**20 + 1)], 0, 2),
        ([(number, 1) for number in range(1, MAX_RULES + 4)], 0, 3),
    ],
)
def test_what_has_to_leave(sizes: list[tuple[int, int]], before: int, newest: int) -> None:
    """By number, by bytes, by age."""
    assert leaving(sizes, count=len(sizes), size=sum(size for _, size in sizes), before=before) == newest


def test_too_many_floors_fold_into_everyones() -> None:
    """The oldest: they can only void more."""
    floors = {f"tenant {number}": number for number in range(MAX_FLOORS + 1)}
    folded = folded_floors(floors)

    assert len(folded) <= MAX_FLOORS
    assert all(max(folded.get(name, 0), folded[""]) >= seq for name, seq in floors.items())
    assert folded_floors({"a": 1}) == {"a": 1}


def test_everyones_floor_is_everyones() -> None:
    """Whatever the namespace."""
    rules = Rules()
    rules.add(LogState(1, 9, {"": 5}))

    assert rules.void(an_entry(namespace="any", born=Ticket(1, 4)))
    assert not rules.void(an_entry(namespace="any", born=Ticket(1, 5)))


def test_rules_may_be_added_twice_and_in_any_order() -> None:
    """Looks overlap."""
    conditions = [Rule(seq, "app", Scope(model=f"model-{seq}")) for seq in (3, 1, 2)]
    rules = Rules()
    for _ in range(2):
        for rule in conditions:
            rules.add(LogState(1, 3, {}, (rule,)))

    for seq in (1, 2, 3):
        assert rules.void(an_entry(model=f"model-{seq}", born=Ticket(1, seq - 1)))
        assert not rules.void(an_entry(model=f"model-{seq}", born=Ticket(1, seq)))


def test_what_was_checked_before_is_not_checked_again() -> None:
    """Only newer conditions are."""
    view = View(Ticket(1, 9), Rules())
    view.rules.add(LogState(1, 9, {}, (Rule(5, "app", Scope(model="m")), Rule(7, "app", Scope(model="n")))))
    entry = an_entry(model="m", born=Ticket(1, 0))

    assert view.void(entry)
    assert not view.void(entry, checked=(1, 6))
    for other_epoch in (0, 2, -1):
        assert view.void(entry, checked=(other_epoch, 6))
    assert view.void(dataclasses.replace(entry, model="n"), checked=(1, 6))
    assert view.void(dataclasses.replace(entry, born=Ticket(2, 100)))


def test_scopes_survive_their_text() -> None:
    """And a criterion of a newer release is not ignored."""
    scope = Scope(keys=("a",), tags=("b", "c"), model="m*", prompt="00", created_before=1.5, created_after=0.25)

    assert Scope.from_json(scope.to_json()) == scope
    assert Scope.from_json("{}") == Scope()
    with pytest.raises(ValueError, match="colour"):
        Scope.from_json('{"colour": "red"}')


@pytest.mark.parametrize(
    "criteria",
    [
        {"keys": ["a"]},
        {"keys": "a"},
        {"tags": ("a", 5)},
        {"model": 5},
        {"prompt": b"00"},
        {"created_before": True},
        {"created_before": "2024-01-01"},
        {"created_after": float("nan")},
    ],
    ids=str,
)
def test_no_rule_of_a_wrong_type_is_made(criteria: dict[str, Any]) -> None:
    """By nobody: it would fail in every process that reads it, for as long as it lives."""
    with pytest.raises(ConfigurationError, match=f"^{next(iter(criteria))} must be"):
        Scope(**criteria)


def test_rules_do_not_change() -> None:
    """Many threads read them without a lock."""
    scope = Scope(keys=("a",))
    rule = Rule(1, "app", scope)
    for thing, name in ((scope, "keys"), (rule, "seq"), (LogState(1), "seq")):
        with pytest.raises(AttributeError):
            setattr(thing, name, ())
    assert len({rule, Rule(1, "app", Scope(keys=("a",))), Rule(1, "app", Scope(keys=("b",)))}) == 2


@pytest.mark.parametrize(
    ("scope", "voided"),
    [
        (Scope(), True),
        (Scope(keys=("other", "k")), True),
        (Scope(keys=("other",)), False),
        (Scope(tags=("b", "c")), True),
        (Scope(tags=("c",)), False),
        (Scope(model="*"), True),
        (Scope(prompt=bytes(range(16)).hex()), True),
        (Scope(prompt="00"), False),
        (Scope(created_before=100.0), False),
        (Scope(created_before=100.5), True),
        (Scope(created_before=0), False),
        (Scope(created_after=100.0), True),
        (Scope(created_after=100.5), False),
        (Scope(created_after=0), True),
        (Scope(keys=("k",), tags=("c",)), False),
        (Scope(keys=("other",), tags=("a",)), False),
        (Scope(tags=("a",), model="another"), False),
        (Scope(model="model-1", prompt="00"), False),
        (Scope(prompt=bytes(range(16)).hex(), created_before=50), False),
        (Scope(created_before=200, created_after=150), False),
    ],
    ids=str,
)
def test_a_rule_voids_what_meets_all_that_it_says(scope: Scope, voided: bool) -> None:
    """The end of a time is not in it, its beginning is; whoever says nothing means everything."""
    entry = an_entry(created_at=100.0, born=Ticket(1, 4))
    rules = Rules()
    rules.add(LogState(1, 5, {}, (Rule(5, "app", scope),)))

    assert scope.matches(entry) is voided
    assert rules.void(entry) is voided
    assert not rules.void(dataclasses.replace(entry, born=Ticket(1, 5)))
    for neighbour in ("ap", "app/a", "another", "zoo"):  # before it and after it in any order
        assert not rules.void(dataclasses.replace(entry, key="x", namespace=neighbour))


def test_a_model_that_is_not_known_meets_no_pattern() -> None:
    """Not even the one that all others meet."""
    assert not Scope(model="*").matches(an_entry(model=None))


def test_a_scope_says_whether_it_says_anything() -> None:
    """The beginning of time is something."""
    assert not Scope()
    for criteria in ({"keys": ("a",)}, {"tags": ("a",)}, {"model": ""}, {"prompt": ""}, {"created_before": 0}, {"created_after": 0.0}):
        assert Scope(**criteria), criteria
        assert Scope.from_json(Scope(**criteria).to_json()) == Scope(**criteria)
    assert json.loads(Scope(tags=("a",), created_after=0).to_json()) == {"created_after": 0, "tags": ["a"]}


@pytest.mark.parametrize("text", ['"keys"', "[]", "null", '{"keys": "ab"}', '{"tags": {"a": 1}}', '{"model": "m", "colour": 1}', "{"])
def test_what_is_no_rule_is_not_read_as_one(text: str) -> None:
    """It is an error, of which the reader of the log is told."""
    with pytest.raises(ValueError):
        Scope.from_json(text)


@pytest.mark.parametrize(
    "state",
    [
        lambda: LogState("1"),
        lambda: LogState(1, 2.0),
        lambda: LogState(1, 2, {"app": None}),
        lambda: LogState(1, 2, {5: 1}),
        lambda: LogState(1, 2, {}, (Rule("2", "app", Scope()),)),
        lambda: LogState(1, 2, {}, (Rule(2, None, Scope()),)),
    ],
)
def test_what_no_log_would_hold_is_refused(state: Callable[[], LogState]) -> None:
    """A store may give back anything."""
    with pytest.raises(ValueError, match="the stored log is invalid"):
        state()
    assert LogState(1) == LogState(1, 0, {}, ())


def test_a_floor_holds_below_it_where_it_says_so() -> None:
    """For the namespace itself, for all below it, and for no neighbour whose name begins alike."""
    for floor, voided in (
        ("", ["app", "app/a", "app/a/b", "apple", "other"]),
        ("app", ["app"]),
        (below("app"), ["app", "app/a", "app/a/b"]),
        (below("app/a"), ["app/a", "app/a/b"]),
        ("app/a/b", ["app/a/b"]),
    ):
        rules = Rules()
        rules.add(LogState(1, 9, {floor: 5}))
        names = ["app", "app/a", "app/a/b", "apple", "other"]
        assert [name for name in names if rules.void(an_entry(namespace=name, born=Ticket(1, 4)))] == voided
        assert not any(rules.void(an_entry(namespace=name, born=Ticket(1, 5))) for name in names)


def test_an_older_floor_or_rule_lowers_nothing() -> None:
    """Looks may land in any order."""
    rules = Rules()
    for seq in (7, 3):
        rules.add(LogState(1, seq, {"app": seq}, (Rule(seq, "b", Scope(keys=("k",))), Rule(seq, "c", Scope(tags=("t",))))))

    for seq in (2, 6, 7):
        late = Ticket(1, seq)
        assert rules.void(an_entry("x", namespace="app", tags=(), born=late)) is (seq < 7)
        assert rules.void(an_entry("k", namespace="b", tags=(), born=late)) is (seq < 7)
        assert rules.void(an_entry("x", namespace="c", tags=("s", "t"), born=late)) is (seq < 7)
    assert not rules.void(an_entry("x", namespace="b", tags=("t",), born=Ticket(1, 0)))


def test_conditions_are_found_wherever_the_birth_is() -> None:
    """Among many, older and newer than it."""
    rules = Rules()
    rules.add(LogState(1, 9, {}, tuple(Rule(seq, "app", Scope(model=f"model-{seq}")) for seq in range(1, 10))))

    for seq in range(1, 10):
        assert [born for born in range(10) if rules.void(an_entry(model=f"model-{seq}", born=Ticket(1, born)))] == list(range(seq))


def test_rules_are_built_anew_when_most_have_left_the_log() -> None:
    """Until then they may be twice as many."""
    rules = Rules()
    rules.add(LogState(1, 1, {}, tuple(Rule(1, "app", Scope(keys=("k",))) for _ in range(2 * MAX_RULES))))
    assert not rules.crowded
    rules.add(LogState(1, 1, {}, (Rule(1, "app", Scope(model="m")),)))
    assert rules.crowded


def test_what_a_view_says_of_itself() -> None:
    """Before the first look, where there is no log, and where there is one."""
    for epoch, known, empty in ((0, False, False), (-5, True, True), (7, True, False)):
        view = View(Ticket(epoch, 3), Rules())
        assert (view.known, view.empty, view.ticket) == (known, empty, Ticket(epoch, 3))


def test_a_look_brings_what_is_newer() -> None:
    """Of the same log; of another epoch all, for what was seen of that one says nothing here."""
    log = MemoryLog(epoch=5)
    for name in "abc":
        log.append("app", Scope(keys=(name,)), clock=0.0)
    log.append("other", None, clock=0.0)

    def brought(seen: Ticket) -> list[int]:
        state = log.state(seen)
        assert (state.epoch, state.seq, state.floors) == (5, 4, {"other": 4})
        return [rule.seq for rule in state.rules]

    assert brought(Ticket(5, 0)) == [1, 2, 3]
    assert brought(Ticket(5, 1)) == [2, 3]
    assert brought(Ticket(5, 3)) == []
    assert brought(Ticket(5, 4)) == []
    assert brought(Ticket(4, 3)) == [1, 2, 3]
    assert brought(Ticket(6, 3)) == [1, 2, 3]


def test_what_a_look_brought_stays_as_it_was() -> None:
    """Though the log goes on."""
    log = MemoryLog()
    log.append("app", None, clock=0.0)
    before = log.state(Ticket(0, 0))
    log.append("app", None, clock=0.0)

    assert before.floors == {"app": 1}


def test_a_log_is_the_same_made_of_its_parts() -> None:
    """So a store may keep it as a whole; what an older release does not know in it is kept, and not served by."""
    log, large = MemoryLog(epoch=5), Scope(keys=("x" * (MAX_LOG_BYTES // 4),))
    for number in range(3):
        log.append("app", large, clock=number)
    again = MemoryLog(log.epoch, log.seq, log.floors, log.lines)
    for one in (log, again):
        one.append("app", large, clock=4)  # the oldest has to leave

    assert again.state(Ticket(0, 0)) == log.state(Ticket(0, 0))
    assert [again.is_older(seen) for seen in (Ticket(5, log.seq), Ticket(5, log.seq + 1), Ticket(4, log.seq + 1))] == [False, True, False]
    newer = MemoryLog(5, 1, {}, [(1, "app", '{"mood": "bad"}')])
    newer.append("app", Scope(tags=("t",)), clock=0)
    assert newer.lines == ((1, "app", '{"mood": "bad"}'), (2, "app", '{"tags": ["t"]}'))
    assert len(newer.state(Ticket(5, 1)).rules) == 1
    with pytest.raises(ValueError, match="mood"):
        newer.state(Ticket(0, 0))


def test_rules_leave_when_no_living_entry_predates_them() -> None:
    """They, and none that is newer."""
    log = MemoryLog()
    for seconds in (1, 2, 3):
        log.append(f"app {seconds}", Scope(tags=("t",)), clock=seconds)
    log.append("app 4", Scope(tags=("t",)), clock=4, before=2_500_000)

    assert [rule.seq for rule in log.state(Ticket(0, 0)).rules] == [3_000_000, 4_000_000]
    assert log.floors == {"app 1": 1_000_000, "app 2": 2_000_000}
    log.append("app 5", Scope(tags=("t",)), clock=5, before=4_000_000)
    assert [rule.seq for rule in log.state(Ticket(0, 0)).rules] == [4_000_000, 5_000_000]


def test_a_log_is_bounded_in_bytes() -> None:
    """Room that rules have left is room again."""
    log = MemoryLog()
    large = Scope(keys=("x" * (MAX_LOG_BYTES // 4),))
    for number in range(10):
        log.append("app", large, clock=number)
        assert len(log.state(Ticket(0, 0)).rules) == min(number + 1, 3)


def test_floors_fold_so_that_the_newest_keep_their_names() -> None:
    """Everyone's rises to the newest that lost its name, and never falls."""
    floors = {f"tenant {number}": number for number in range(1, MAX_FLOORS + 1)}
    assert folded_floors(floors) == floors
    assert folded_floors(floors) is not floors

    folded = folded_floors({"": 7, **floors})
    assert folded.pop("") == MAX_FLOORS // 2
    assert folded == {f"tenant {number}": number for number in range(MAX_FLOORS // 2 + 1, MAX_FLOORS + 1)}
    assert folded_floors({"": 10 * MAX_FLOORS, **floors})[""] == 10 * MAX_FLOORS


@pytest.mark.parametrize(
    "state",
    [
        LogState(1, 1, {"app": 1}),
        *(LogState(1, 1, {}, (Rule(1, "app", scope),)) for scope in (Scope(keys=("k",)), Scope(tags=("a",)), Scope(model="*"))),
    ],
    ids=["a floor", "by key", "by tag", "by a condition"],
)
def test_the_first_rule_of_all_holds(state: LogState) -> None:
    """For what was born before it."""
    rules = Rules()
    assert not rules.void(an_entry(born=Ticket(1, 0)))
    rules.add(state)

    for void in (rules.void, View(Ticket(1, 1), rules).void):
        assert void(an_entry(born=Ticket(1, 0)))
        assert not void(an_entry(born=Ticket(1, 1)))


def test_of_a_long_log_only_what_leaves_is_looked_at() -> None:
    """And one more: there may be ten thousand, and one comes at a time."""
    oldest_first = iter([(1, 10), (2, 10), (3, 10), (4, 10)])

    assert leaving(oldest_first, count=4, size=40, before=2) == 1
    assert list(oldest_first) == [(3, 10), (4, 10)]


def test_a_log_keeps_as_many_floors_as_it_may() -> None:
    """However many namespaces are cleared: the oldest become everyone's."""
    log = MemoryLog()
    log.floors = {f"tenant {number}": number for number in range(1, MAX_FLOORS + 1)}
    log.append("one more", None, clock=1.0)

    floors = log.state(Ticket(0, 0)).floors
    assert len(floors) <= MAX_FLOORS
    assert floors["one more"] == log.seq
    assert floors[""] >= 1


def test_a_new_log_is_one() -> None:
    """It has an epoch, so that who looks at it knows that he did."""
    log = MemoryLog()

    assert log.state(Ticket(0, 0)) == LogState(log.epoch)
    assert View(Ticket(log.epoch, log.seq), Rules()).known
    assert not View(Ticket(log.epoch, log.seq), Rules()).empty


def test_a_log_that_cannot_be_written_is_read_all_the_same(
    world: World, shared: FakeAuthority, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A removal that failed here does not keep this process from learning of one that another process made."""
    cache = other_process(shared, clock, policy=Policy(max_staleness=0.0))
    other = other_process(shared, clock)
    world.call(cache, "set", ask(), b"old")

    def locked(*_args: object) -> LogState:
        raise TierTimeoutError("authority", "write the log", "locked")

    with monkeypatch.context() as patch:
        patch.setattr(shared, "append_log", locked)
        with pytest.raises(DeletionError):
            world.call(cache, "delete", ask("another"))
    world.call(other, "delete", ask())

    assert world.call(cache, "get", ask()) is None


def test_a_log_that_cannot_be_made_is_read_all_the_same(
    world: World, shared: FakeAuthority, clock: FakeClock, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To make it is tried once a second, not for each miss; meanwhile what memory has is served as what it is: verified."""
    cache = other_process(shared, clock, policy=Policy(max_staleness=0.0, strict_invalidation=True), observers=[events.append])
    tried: list[object] = []

    def full(*args: object) -> LogState:
        tried.append(args)
        raise TierUnavailableError("authority", "open the log", "the disk is full")

    monkeypatch.setattr(shared, "open_log", full)
    world.call(cache, "set", ask(), b"answer")
    for number in range(10):
        assert world.call(cache, "get", ask(f"miss {number}")) is None
    assert len(tried) == 1
    assert world.call(cache, "get", ask()).value == b"answer"
    assert "served_unverified" not in kinds(events)

    clock.advance(1.0)
    world.call(cache, "get", ask("miss"))
    assert len(tried) == 2


def test_a_log_is_older_only_within_its_epoch_and_behind() -> None:
    log = MemoryLog(epoch=3, seq=10)

    assert log.is_older(Ticket(3, 11))
    for seen in (Ticket(3, 10), Ticket(3, 9), Ticket(2, 11), Ticket(4, 11)):
        assert not log.is_older(seen)
