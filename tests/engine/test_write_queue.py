"""Writes that nobody waits for: what goes wrong with them, and what must not."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence

import pytest
from layered_cache import Answer, Entry, Event, Policy, Refused, SQLiteTier, TieredCache, TierUnavailableError
from layered_cache._util.daemon_threads import Workers
from layered_cache.testing import FakeAuthority, FakeClock, FakeTier
from layered_cache.testing._sync_async import an_entry
from support.sync_async import World, ask, interrupted, kinds, settled


class PickyTier(FakeTier):
    """Will not take one key, ever."""

    bad = ""

    def set_many(self, entries: Sequence[Entry]) -> None:
        if any(entry.key == self.bad for entry in entries):
            raise TierUnavailableError(self.name, "write", "not this one", retryable=False)
        super().set_many(entries)


def test_one_bad_entry_does_not_hold_up_the_others(clock: FakeClock, events: list[Event]) -> None:
    """The batch is taken apart; what cannot be written is given up, and counted."""
    picky = PickyTier("picky")
    cache = TieredCache(
        "memory://", picky, FakeAuthority(clock=clock), clock=clock, policy=Policy(write="behind"), observers=[events.append]
    )
    picky.bad = cache.key(ask("bad"))
    for text in ("a", "bad", "b", "c"):
        cache.set(ask(text), b"x")
    settled(cache)

    assert set(picky.held) == {cache.key(ask(text)) for text in "abc"}
    stats = cache.stats()
    assert (stats.queued, stats.dropped) == (0, 1)
    assert kinds(events).count("queue_dropped") == 1


class DefectTier(FakeTier):
    """Breaks its contract."""

    def get_many(self, keys: Sequence[str]) -> Mapping[str, Entry | Refused]:
        raise KeyError("my secret")

    def set_many(self, entries: Sequence[Entry]) -> None:
        raise ValueError("my secret")

    async def aget_many(self, keys: Sequence[str]) -> Mapping[str, Entry | Refused]:
        raise KeyError("my secret")

    async def aset_many(self, entries: Sequence[Entry]) -> None:
        raise ValueError("my secret")


@pytest.mark.parametrize("write", ["through", "behind"])
def test_a_tier_that_breaks_its_contract_is_a_failing_tier(world: World, clock: FakeClock, events: list[Event], write: str) -> None:
    """Its error is not the application's, and ends no thread; its words are not passed on."""
    good = FakeAuthority(clock=clock)
    cache = TieredCache(DefectTier("defect"), good, clock=clock, observers=[events.append], policy=Policy(write=write))  # type: ignore[arg-type]
    for number in range(3):
        assert world.call(cache, "get_or_compute", ask(str(number)), world.compute(b"x")).value == b"x"
    settled(cache)

    assert len(good.held) == 3
    assert cache.stats().tier_failures["defect"] >= 3
    assert any("a defect of the tier: ValueError" in str(event.reason) for event in events)
    assert "secret" not in repr(events)


def test_the_queue_is_bounded_in_bytes(clock: FakeClock, events: list[Event]) -> None:
    """The oldest entries are dropped, and counted; their keys stay, so that the tier erases older entries."""
    tier = FakeTier("redis")
    cache = TieredCache(
        "memory://", tier, FakeAuthority(clock=clock), clock=clock, policy=Policy(queue_bytes=20_000), observers=[events.append]
    )
    cache.get(ask())
    tier.broken = True
    for number in range(30):
        cache.set(ask(str(number)), bytes(1000))

    pending = cache._engine.backlog.pending(tier, [cache.key(ask(str(number))) for number in range(30)])
    waiting = [key for key, entry in pending.items() if entry is not None]
    assert len(pending) == 30 or cache.stats().dropped > 30
    assert 1 <= len(waiting) < 20
    assert cache.key(ask("29")) in waiting
    assert cache.stats().dropped >= 30 - len(waiting)


def test_the_newer_of_two_writes_wins(clock: FakeClock) -> None:
    """Though the older one is tried again later."""
    tier = FakeTier("redis")
    cache = TieredCache("memory://", tier, FakeAuthority(clock=clock), clock=clock)
    cache.get(ask())
    tier.broken = True
    cache.set(ask(), b"old")
    time.sleep(0.05)
    cache.set(ask(), b"new")
    tier.broken = False
    settled(cache)

    assert [entry.value for entry in tier.held.values() if isinstance(entry, Entry)] == [b"new"]


def test_a_deleted_entry_is_not_written(clock: FakeClock) -> None:
    """It waited; its time is over."""
    tier = FakeTier("redis")
    cache = TieredCache("memory://", tier, FakeAuthority(clock=clock), clock=clock)
    cache.get(ask())
    tier.broken = True
    cache.set(ask(), b"x")
    cache.delete(ask())
    tier.broken = False
    settled(cache)

    assert tier.held == {}


@pytest.mark.slow
def test_after_closing_writes_are_given_up_and_counted(clock: FakeClock) -> None:
    """Not taken silently, not kept for ever."""
    tier = FakeAuthority(clock=clock)
    cache = TieredCache("memory://", tier, clock=clock, policy=Policy(write="behind"))
    cache.get(ask())
    tier.broken = True
    cache.set(ask("a"), b"x")
    started = time.monotonic()
    cache.close()
    assert time.monotonic() - started < 5.0
    assert cache.stats().dropped == 1
    cache.set(ask("b"), b"x")

    assert cache.stats().dropped == 2
    assert cache.get(ask("b"))


def test_a_cache_that_nobody_refers_to_writes_what_is_left() -> None:
    """The garbage collector closes nothing; the thread goes on until it is done."""
    tier = FakeAuthority(latency=0.05)
    cache = TieredCache("memory://", tier, policy=Policy(write="behind"))
    for number in range(100):
        cache.set(ask(str(number)), b"x")
    del cache
    for _ in range(300):
        if len(tier.held) == 100:
            break
        time.sleep(0.01)

    assert len(tier.held) == 100


# --- threads of tiers that block


def test_readers_do_not_wait_behind_writers(db: str) -> None:
    """Of another process, say, which holds the write lock: reads go on, in both worlds."""
    import asyncio
    import sqlite3

    tier = SQLiteTier(db.removeprefix("sqlite:///"))
    tier.set_many([entry := an_entry()])
    other = sqlite3.connect(tier.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    async def main() -> float:
        writes = [asyncio.ensure_future(tier.aset_many([an_entry(str(number))])) for number in range(20)]
        await asyncio.sleep(0.02)
        started = time.monotonic()
        assert await tier.aget_many(["k"]) == {"k": entry}
        seconds = time.monotonic() - started
        for write in writes:
            write.cancel()
        await asyncio.gather(*writes, return_exceptions=True)
        return seconds

    assert asyncio.run(main()) < 0.1
    other.close()
    tier.close()


def test_calls_that_nobody_waits_for_are_not_made() -> None:
    """They would only hold up the others."""
    import asyncio

    workers, calls = Workers("test", 1), list[int]()

    def call(number: int) -> None:
        time.sleep(0.05)
        calls.append(number)

    async def main() -> None:
        first = asyncio.ensure_future(workers.run(call, 0))
        await asyncio.sleep(0.01)
        abandoned = [asyncio.ensure_future(workers.run(call, number)) for number in range(1, 20)]
        await asyncio.sleep(0.01)
        for one in abandoned:
            one.cancel()
        await first
        await workers.run(call, 99)

    asyncio.run(main())
    assert calls == [0, 99]


def test_a_thread_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Is an error of the tier, and the next call tries again."""
    import asyncio

    workers, start = Workers("test", 1), threading.Thread.start

    def no_start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_start)
    with pytest.raises(TierUnavailableError, match="no thread can be started"):
        asyncio.run(workers.run(int))
    monkeypatch.setattr(threading.Thread, "start", start)

    assert asyncio.run(workers.run(int)) == 0


def test_answers_may_be_any_kind_of_number(db: str) -> None:
    """A price list's Decimal is stored as the number it is."""
    from decimal import Decimal

    with TieredCache(db) as cache:
        cache.set(ask(), Answer(value=b"x", cost_usd=Decimal("0.01")))  # type: ignore[arg-type]
        entry = cache.get(ask())
        assert entry is not None
        assert entry.cost_usd == 0.01


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it may also come where Python has to swallow it
def test_an_interrupt_leaves_the_queue_to_others() -> None:
    """Ctrl-C may come after any step of Python."""
    tier = FakeTier("redis")
    cache = TieredCache("memory://", tier)
    backlog = cache._engine.backlog
    for _ in interrupted(lambda: backlog.put(tier, {"k": an_entry()}), at_least=5):
        another = threading.Thread(target=len, args=(backlog,), daemon=True)
        another.start()
        another.join(10.0)
        assert not another.is_alive()
    cache.close()
