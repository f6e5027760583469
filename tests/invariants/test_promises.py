"""What the engine promises beside the laws of concurrency and of invalidation, a sentence and a test each."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from invariants.mutation_marker import catches, where
from layered_cache import Answer, DeletionError, Event, MemoryTier, Policy, Request, TieredCache
from layered_cache._engine import runtime
from layered_cache._engine.engine import Engine
from layered_cache._engine.log_view import Trust, Watch
from layered_cache._engine.single_flight import Computing
from layered_cache._engine.write_queue import _Lane
from layered_cache._storage import envelope
from layered_cache._storage.envelope import decode, decode_request, encode
from layered_cache._storage.rules import MemoryLog, View
from layered_cache.entry import Entry, Refused, Ticket
from layered_cache.keys.keys import read_json
from layered_cache.testing import FakeAuthority, FakeClock, FakeTier
from layered_cache.testing._sync_async import an_entry

ONE, TWO = Request("one"), Request("two")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def shared(clock: FakeClock) -> FakeAuthority:
    return FakeAuthority("shared", clock=clock)


@pytest.fixture
def middle() -> FakeTier:
    return FakeTier("middle")


@pytest.fixture
def make(clock: FakeClock, middle: FakeTier, shared: FakeAuthority) -> Callable[..., TieredCache]:
    """Return what makes the cache of one more process."""

    def make(**kwargs: Any) -> TieredCache:
        return TieredCache(MemoryTier(clock=clock), middle, shared, clock=clock, **kwargs)

    return make


# --- two worlds


@catches(where("what suspends is given up silently", "layered_cache._engine.runtime.run", lambda coroutine: coroutine.close()))
def test_under_threads_nothing_foreign_is_awaited() -> None:
    """A coroutine of the engine that waits for anything but its effects is an error, not a stall."""

    async def foreign() -> None:
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="foreign"):
        runtime.run(foreign())


async def _dropped(self: Engine, *args: Any) -> None:
    """Store nothing."""


@catches(where("a cancelled store is given up", "layered_cache._engine.engine.Engine._store_anyway", _dropped))
def test_the_end_of_a_loop_loses_no_answer(make: Callable[..., TieredCache], shared: FakeAuthority) -> None:
    """What was paid for is stored by the blocking world when the task that stores it is cancelled."""
    cache, started = make(), asyncio.Event()

    async def slow_look(seen: Ticket) -> Any:
        started.set()
        await asyncio.sleep(10)
        return shared.open_log(seen)

    async def main() -> None:
        shared.aread_log = slow_look
        storing = asyncio.create_task(cache.aset(ONE, b"x"))
        await started.wait()
        storing.cancel()
        await asyncio.gather(storing, return_exceptions=True)

    asyncio.run(main())
    assert cache.get(ONE) is not None


@catches(where("every hit makes a coroutine", "layered_cache._engine.engine.Engine.peek", lambda self, key: None))
def test_a_hit_in_memory_makes_no_coroutine(make: Callable[..., TieredCache], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked up and returned: nothing is scheduled, locked or awaited."""
    cache = make()
    cache.set(ONE, b"x")
    made: list[str] = []
    monkeypatch.setattr(Engine, "read", lambda self, *args, **kwargs: made.append("a coroutine"))
    with suppress(AttributeError):  # what was made is none
        cache.get(ONE)
    assert not made


# --- envelopes


@catches(where("envelopes say nothing of their key", "layered_cache._storage.envelope.is_digest_of", lambda digest, key: True))
def test_an_envelope_answers_its_own_key_only() -> None:
    """Moved to another key it is refused, and may go."""
    assert decode(encode(an_entry("one")), key="two") == Refused("it belongs to another key", erase=True)


@catches(where("every checksum fits", "zlib.crc32", lambda data: envelope._SEALED))
def test_a_changed_byte_is_never_an_answer() -> None:
    """Wherever it is."""
    whole = encode(an_entry("one"))
    for at in range(len(whole)):
        changed = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
        assert isinstance(decode(changed, key="one"), Refused), at


@catches(where("any size will do", "layered_cache._storage.envelope.MAX_VALUE", 1 << 40))
def test_what_unpacks_to_too_much_is_refused_without_the_memory() -> None:
    """A few kilobytes cannot take down a process."""
    bomb = encode(an_entry("one", value=bytes(200 << 20)))
    tracemalloc.start()
    try:
        assert isinstance(decode(bomb, key="one"), Refused)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@catches(where("requests are stored as they are", "layered_cache._storage.redaction._redacted_params", read_json))
def test_secrets_are_never_stored() -> None:
    """They count for the key, and are blacked out wherever a request can be read."""
    secret = Request("x", params={"api_key": "sk-1", "headers": {"Authorization": "Bearer 1"}})
    entry = an_entry("one", request=secret)
    assert secret != Request("x", params={"api_key": "sk-2", "headers": {"Authorization": "Bearer 1"}})
    stored = str(decode_request(encode(entry, with_request=True)))
    assert "sk-1" not in stored
    assert "Bearer" not in stored


# --- the log


@catches(
    where(
        "seqs count the seconds",
        "layered_cache._storage.rules.MemoryLog.append",
        lambda self, *args, clock, before=0: setattr(self, "seq", int(clock * 1e6)),
    )
)
def test_a_seq_is_never_used_twice() -> None:
    """Neither in one microsecond nor when the clock goes back."""
    log, seqs = MemoryLog(), list[int]()
    for moment in (5.0, 5.0, 4.0, 6.0):
        log.append("default", None, clock=moment)
        seqs.append(log.seq)
    assert seqs == sorted(set(seqs))


@catches(
    where("it is noted and forgotten", "layered_cache._engine.invalidator.Removing._rule", lambda self, fx, namespace, scope: _nothing())
)
@pytest.mark.parametrize("how", ["delete", "invalidate", "clear"])
def test_a_removal_that_was_not_recorded_is_an_error(make: Callable[..., TieredCache], shared: FakeAuthority, how: str) -> None:
    """Who asks for it must know."""
    cache = make()
    cache.set(ONE, b"x")
    shared.log_is_broken = True
    with pytest.raises(DeletionError):
        cache.delete(ONE) if how == "delete" else cache.invalidate(tag="t") if how == "invalidate" else cache.clear()


async def _nothing() -> int:
    return 1


async def _all_is_well(self: Watch, fx: Any) -> tuple[View, Trust]:
    return self.view, Trust.ALL


@catches(where("the last view is good for ever", "layered_cache._engine.log_view.Watch.current", _all_is_well))
def test_while_the_log_cannot_be_read_the_last_view_serves_for_a_while_and_is_counted(
    make: Callable[..., TieredCache], shared: FakeAuthority, clock: FakeClock
) -> None:
    """Then nothing is served any more."""
    cache = make(policy=Policy(max_unverified=60))
    cache.set(ONE, b"x")
    shared.log_is_broken = True
    clock.advance(30)
    assert cache.get(ONE) is not None
    assert cache.stats().served_unverified == 1
    clock.advance(31)
    assert cache.get(ONE) is None


# --- reading and writing


def _one_by_one(self: FakeTier, keys: Any) -> Any:
    for key in keys:
        self.calls.append(f"get {key}")
    return {key: self.held[key] for key in keys if key in self.held}


@catches(where("each key is asked for by itself", "layered_cache.testing.FakeTier._get", _one_by_one))
def test_any_number_of_keys_is_one_call_for_each_tier(make: Callable[..., TieredCache], middle: FakeTier) -> None:
    """And no tier is asked for what a faster one had."""
    cache = make()
    cache.set_many({ONE: b"1", TWO: b"2"})
    middle.calls.clear()
    make().get_many([ONE, TWO])
    assert len([call for call in middle.calls if call.startswith("get")]) == 1


def _raising(self: Engine, failed: object, operation: object = None) -> None:
    raise AssertionError


@catches(where("failures are the caller's", "layered_cache._engine.recorder.Teller.tier_failed", _raising))
def test_a_tier_that_fails_is_one_that_holds_nothing(make: Callable[..., TieredCache], middle: FakeTier, shared: FakeAuthority) -> None:
    """The application gets its answer from another tier or from the model, and no error."""
    cache = make()
    cache.set(ONE, b"x")
    middle.broken = True
    other = make()
    assert other.get(ONE) is not None
    shared.broken = True
    assert other.get(TWO) is None
    assert other.get_or_compute(TWO, lambda: b"y").value == b"y"


@catches(where("fastest first", "layered_cache._engine.engine.reversed", lambda tiers: tiers))
def test_writes_go_to_the_slowest_tier_first(make: Callable[..., TieredCache], middle: FakeTier, shared: FakeAuthority) -> None:
    """What a crash leaves behind is in the tier that everyone shares."""
    order: list[str] = []
    for tier in (middle, shared):
        kept = tier.set_many
        tier.set_many = lambda entries, tier=tier, kept=kept: (order.append(tier.name), kept(entries))
    make().set(ONE, b"x")
    assert order == ["shared", "middle"]


@catches(where("what waits cannot be read", "layered_cache._engine.write_queue.Backlog.pending", lambda self, tier, keys: {}))
def test_a_process_reads_what_it_has_not_yet_written(clock: FakeClock, shared: FakeAuthority) -> None:
    """Also where a tier is down."""
    cache = TieredCache(shared, clock=clock, policy=Policy(write="behind"))
    cache.set(ONE, b"x")
    assert not shared.held
    assert cache.get(ONE) is not None


def _older_wins(self: _Lane, key: str, entry: Entry | None) -> None:
    self.waiting.setdefault(key, entry)


@catches(where("the older wins", "layered_cache._engine.write_queue._Lane.add", _older_wins))
def test_of_two_writes_the_newer_wins(make: Callable[..., TieredCache], shared: FakeAuthority) -> None:
    """However late they are."""
    cache = make(policy=Policy(write="behind"))
    cache.set(ONE, b"old")
    entry = cache.set(ONE, b"new")
    assert entry is not None
    while len(cache._engine.backlog):
        cache._engine.backlog.step()
    held = shared.held[entry.key]
    assert isinstance(held, Entry)
    assert held.value == b"new"


@catches(where("it grows", "layered_cache._engine.write_queue.Backlog._shrink", lambda self: []))
def test_what_waits_is_bounded_and_what_is_dropped_is_counted(make: Callable[..., TieredCache]) -> None:
    """A tier that is away for long costs no more memory than was allowed."""
    cache = make(policy=Policy(write="behind", queue_bytes=100_000))
    for number in range(100):
        cache.set(Request(str(number)), bytes(10_000))
    assert sum(lane.bytes for lane in cache._engine.backlog._lanes.values()) <= 100_000
    assert cache.stats().dropped > 150


# --- computing


class _WrappedError(Exception):
    pass


async def _wrapping(self: Computing, fx: Any, ask: Any, compute: Any, *rest: Any) -> Any:
    try:
        return await compute()
    except Exception as error:
        raise _WrappedError from error


@catches(where("errors are wrapped", "layered_cache._engine.single_flight.Computing._compute", _wrapping))
def test_errors_of_a_computation_pass_unchanged(make: Callable[..., TieredCache]) -> None:
    """And are not kept."""
    error, cache = ValueError("mine"), make()

    def fails() -> bytes:
        raise error

    with pytest.raises(Exception) as caught:
        cache.get_or_compute(ONE, fails)
    assert caught.value is error
    assert cache.get_or_compute(ONE, lambda: b"x").value == b"x"


@catches(
    where("it is computed again at once", "layered_cache.entry.Entry.is_live", lambda self, now: self.is_fresh(now)),
    where("it is never computed again", "layered_cache._engine.refresh_guard.Refreshes.begin", lambda self, key: False),
)
def test_what_is_stale_is_returned_at_once_and_refreshed_once(clock: FakeClock) -> None:
    """The next caller has the new answer."""
    cache = TieredCache(MemoryTier(clock=clock), clock=clock, policy=Policy(fresh_for=10, keep_for=100))
    cache.set(ONE, b"old")
    clock.advance(20)

    async def main() -> list[bytes]:
        computed: list[str] = []

        async def compute() -> bytes:
            computed.append("x")
            await asyncio.sleep(0)
            return b"new"

        found = [(await cache.aget_or_compute(ONE, compute)).value for _ in range(3)]
        await asyncio.sleep(0.05)
        found.append((await cache.aget_or_compute(ONE, compute)).value)
        assert len(computed) == 1
        return found

    assert asyncio.run(main()) == [b"old", b"old", b"old", b"new"]


@catches(where("everything is kept", "layered_cache.policy.Policy.refuses", lambda self, request, answer: None))
@pytest.mark.parametrize(
    "answer", [Answer(value=b"x", empty=True), Answer(value=b"x", finish="length"), Answer(value=b"x", finish="filter")]
)
def test_what_is_no_good_answer_is_not_kept(make: Callable[..., TieredCache], answer: Answer) -> None:
    """But returned to who asked."""
    cache = make()
    assert cache.get_or_compute(ONE, lambda: answer).value == b"x"
    assert cache.get(ONE) is None


# --- memory


@catches(where("nothing leaves", "layered_cache.tiers.memory.MemoryTier._evict", lambda self: None))
def test_memory_keeps_to_its_bytes(clock: FakeClock) -> None:
    """Whatever is put into it."""
    memory = MemoryTier(max_bytes=100_000, clock=clock)
    cache = TieredCache(memory, clock=clock)
    for number in range(100):
        cache.set(Request(str(number)), bytes(5_000))
    assert memory.used_bytes <= 100_000


@catches(where("observers raise", "layered_cache.events.Observers.__call__", lambda self, event: [one(event) for one in self._observers]))
def test_no_observer_and_no_log_hurts_a_call(clock: FakeClock) -> None:
    """Who is told of things cannot break them."""

    def raising(event: Event) -> None:
        raise AssertionError(event.kind)

    cache = TieredCache(MemoryTier(clock=clock), clock=clock, observers=[raising])
    cache.set(ONE, b"x")
    assert cache.get(ONE) is not None
