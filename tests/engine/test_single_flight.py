"""One computation, however many ask; and nobody waits for himself."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest
from layered_cache import Answer, Event, Policy, Request, TieredCache
from layered_cache._engine import in_flight as flights_module
from layered_cache._engine.in_flight import Flights, _held, holds_any
from layered_cache.testing import FakeAuthority, FakeClock
from support.sync_async import Tasks, Threads, World, ask, kinds, settled

HOUR = 3600.0


@pytest.fixture
def cache() -> TieredCache:
    return TieredCache("memory://", FakeAuthority())


async def later(value: bytes = b"value", seconds: float = 0.0, log: list[Any] | None = None) -> bytes:
    await asyncio.sleep(seconds)
    if log is not None:
        log.append(value)
    return value


def is_in_flight(cache: TieredCache) -> bool:
    return cache._computing._flights.aloft(cache.key(ask())) is not None


async def in_flight(cache: TieredCache) -> None:
    """Wait until a caller computes the answer to `ask()`."""
    async with asyncio.timeout(10):
        while not is_in_flight(cache):  # noqa: ASYNC110 - the flight has no event
            await asyncio.sleep(0.001)


def wait_in_flight(cache: TieredCache) -> None:
    """Wait until a caller computes the answer to `ask()`."""
    deadline = time.monotonic() + 10
    while not is_in_flight(cache):
        assert time.monotonic() < deadline
        time.sleep(0.001)


def quickly(function: Callable[[], Any], limit: float = 3.0) -> Any:
    """Return what *function* returns, which must take no waiting for any time-out."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(function()), daemon=True)
    thread.start()
    thread.join(limit)
    assert results, f"it took longer than {limit} s"
    return results[0]


def test_a_missing_answer_is_computed_and_kept(world: World, cache: TieredCache) -> None:
    """Bytes or an `Answer`, with tags of both."""
    log: list[Any] = []
    compute = world.compute(Answer(value=b"x", tags=("a",), cost_usd=1.0), log=log)

    first = world.call(cache, "get_or_compute", ask(), compute, tags=["b"])
    second = world.call(cache, "get_or_compute", ask(), compute)

    assert (first.value, first.tags, first.cost_usd) == (b"x", ("a", "b"), 1.0)
    assert second == first == world.call(cache, "get", ask())
    assert len(log) == 1


def test_many_callers_compute_once(cache: TieredCache) -> None:
    """50 threads and 200 tasks, in one run."""
    log: list[bytes] = []
    results: list[bytes] = []

    def thread() -> None:
        results.append(cache.get_or_compute(ask(), Threads().compute(b"thread", 0.2, log)).value)

    async def tasks() -> list[bytes]:
        return [
            entry.value
            for entry in await asyncio.gather(*(cache.aget_or_compute(ask(), lambda: later(b"task", 0.2, log)) for _ in range(200)))
        ]

    threads = [threading.Thread(target=thread) for _ in range(50)]
    for one in threads:
        one.start()
    results += asyncio.run(tasks())
    for one in threads:
        one.join()

    assert len(log) == 1
    assert results == log * 250


def test_without_single_flight_everyone_computes(world: World) -> None:
    """For who wants it so."""
    cache = TieredCache("memory://", policy=Policy(single_flight=False))
    log: list[bytes] = []

    world.at_once(cache, "get_or_compute", [(ask(), world.compute(b"x", 0.1, log))] * 5)

    assert len(log) == 5


def test_an_error_reaches_everyone_unchanged_and_is_not_kept(world: World, cache: TieredCache) -> None:
    """Its own type, its own object."""
    error = TimeoutError("the provider")

    results = world.at_once(cache, "get_or_compute", [(ask(), world.compute(b"x", 0.1, error=error))] * 5)

    assert all(result is error for result in results)
    assert world.call(cache, "get_or_compute", ask(), world.compute(b"y")).value == b"y"


def test_what_is_not_kept_is_returned_all_the_same(world: World, cache: TieredCache) -> None:
    """To all who waited for it; the next one computes again."""
    log: list[Any] = []
    cut = world.compute(Answer(value=b"cut", finish="length"), 0.1, log)

    results = world.at_once(cache, "get_or_compute", [(ask(), cut)] * 5)

    assert [entry.value for entry in results] == [b"cut"] * 5
    assert len(log) == 1
    assert world.call(cache, "get", ask()) is None


def test_it_lands_when_memory_has_it_slower_tiers_follow() -> None:
    """Followers do not wait for a slow store."""
    slow = FakeAuthority()
    cache = TieredCache("memory://", slow)
    cache.get(ask())
    slow.latency = 0.8
    done: list[float] = []

    def follower() -> None:
        cache.get_or_compute(ask(), Threads().compute(b"other", 9))
        done.append(time.monotonic())

    leader = threading.Thread(target=lambda: cache.get_or_compute(ask(), Threads().compute(b"x", 1.2)))
    leader.start()
    wait_in_flight(cache)
    waiting = threading.Thread(target=follower)
    waiting.start()
    waiting.join()
    assert leader.is_alive()
    leader.join()

    assert cache.key(ask()) in slow.held


def test_a_cancelled_follower_cancels_nobody_else(cache: TieredCache) -> None:
    """His cancellation stays his own."""
    log: list[Any] = []

    async def main() -> list[Any]:
        leader = asyncio.create_task(cache.aget_or_compute(ask(), lambda: later(b"x", 0.2, log)))
        await in_flight(cache)
        followers = [asyncio.create_task(cache.aget_or_compute(ask(), later)) for _ in range(3)]
        await asyncio.sleep(0.05)
        followers[1].cancel()
        return await asyncio.gather(leader, *followers, return_exceptions=True)

    leader, first, cancelled, third = asyncio.run(main())

    assert (leader.value, first.value, third.value) == (b"x", b"x", b"x")
    assert isinstance(cancelled, asyncio.CancelledError)
    assert log == [b"x"]


def test_a_cancelled_leader_hands_over(cache: TieredCache) -> None:
    """To a task, and to a thread, which go on as one."""
    log: list[Any] = []
    results: list[bytes] = []

    async def main() -> None:
        leader = asyncio.create_task(cache.aget_or_compute(ask(), lambda: later(b"first", 9, log)))
        await in_flight(cache)
        thread = threading.Thread(target=lambda: results.append(cache.get_or_compute(ask(), Threads().compute(b"thread", 0.1, log)).value))
        thread.start()
        follower = asyncio.create_task(cache.aget_or_compute(ask(), lambda: later(b"task", 0.1, log)))
        await asyncio.sleep(0.05)
        leader.cancel()
        results.append((await follower).value)
        await asyncio.to_thread(thread.join)

    quickly(lambda: asyncio.run(main()) or True)

    assert len(log) == 1
    assert results == log * 2


def test_a_leader_whose_loop_was_closed_around_it_hands_over(cache: TieredCache) -> None:
    """Though nothing of it runs any more, not even its `finally`."""
    loop = asyncio.new_event_loop()
    leader = loop.create_task(cache.aget_or_compute(ask(), lambda: later(b"lost", 9)))
    loop.run_until_complete(in_flight(cache))
    loop.close()

    entry = quickly(lambda: cache.get_or_compute(ask(), lambda: b"x"))

    assert entry.value == b"x"
    leader._log_destroy_pending = False  # type: ignore[attr-defined]


def test_leaders_that_are_collected_stop_nobody(cache: TieredCache) -> None:
    """The collector closes them in the middle of anything: no lock may be taken then, nobody else's context be changed."""

    def strand(number: int) -> None:
        loop = asyncio.new_event_loop()
        leader = loop.create_task(cache.aget_or_compute(ask(str(number)), lambda: later(b"lost", 9)))
        leader._log_destroy_pending = False  # type: ignore[attr-defined]
        cycle: list[Any] = [leader]
        cycle.append(cycle)
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()

    def rounds() -> bool:
        threshold = gc.get_threshold()
        gc.set_threshold(5, 2, 2)
        try:
            for number in range(150):
                strand(number)
                for _ in range(10):
                    cache.get_or_compute(ask(f"other {number}"), lambda: b"x")
                cache.delete(ask(f"other {number}"))
        finally:
            gc.set_threshold(*threshold)
        gc.collect()
        return all(cache.get_or_compute(ask(str(number)), lambda: b"x").value == b"x" for number in range(150))

    assert quickly(rounds, 30.0)


def test_inside_a_computation_the_collector_changes_nothing(cache: TieredCache) -> None:
    """Who holds a flight still does."""

    def strand() -> None:
        loop = asyncio.new_event_loop()
        leader = loop.create_task(cache.aget_or_compute(ask("stranded"), lambda: later(b"lost", 9)))
        leader._log_destroy_pending = False  # type: ignore[attr-defined]
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()

    def compute() -> bytes:
        before = holds_any()
        strand()
        gc.collect()
        return f"{before} {holds_any()}".encode()

    assert cache.get_or_compute(ask(), compute).value == b"True True"


def test_a_raising_leader_in_a_thread_and_following_tasks(cache: TieredCache) -> None:
    """The error crosses over."""
    error = ValueError("no")

    async def main() -> BaseException:
        thread = threading.Thread(
            target=lambda: pytest.raises(ValueError, cache.get_or_compute, ask(), Threads().compute(b"", 0.2, error=error))
        )
        thread.start()
        await in_flight(cache)
        try:
            await cache.aget_or_compute(ask(), later)
        except ValueError as raised:
            return raised
        finally:
            thread.join()
        raise AssertionError

    assert asyncio.run(main()) is error


def test_the_same_key_nested(cache: TieredCache) -> None:
    """Who asks for what he is computing computes it, and does not wait for himself."""
    inner = lambda: cache.get_or_compute(ask(), lambda: b"inner").value

    assert quickly(lambda: cache.get_or_compute(ask(), inner)).value == b"inner"


def test_the_same_key_nested_in_tasks(cache: TieredCache) -> None:
    """Also from a task that the computation started, and from its thread."""

    async def inner() -> bytes:
        return (await cache.aget_or_compute(ask(), later)).value

    async def outer() -> bytes:
        return b"+".join(
            [await asyncio.create_task(inner()), await asyncio.to_thread(lambda: cache.get_or_compute(ask(), lambda: b"thread").value)]
        )

    entry = quickly(lambda: asyncio.run(cache.aget_or_compute(ask(), outer)))

    assert entry.value == b"value+value"


def test_who_has_computed_holds_nothing(cache: TieredCache) -> None:
    """However it ended; else all that a thread has ever computed would be kept, and looked through again at every computation."""

    cache.get_or_compute(ask("a"), lambda: b"x")
    for text, error in (("b", ValueError()), ("c", KeyboardInterrupt())):
        with pytest.raises(type(error)):
            cache.get_or_compute(ask(text), Threads().compute(error=error))
    assert _held.get() == ()

    async def failing_later() -> bytes:
        raise ValueError

    async def main() -> object:
        await cache.aget_or_compute(ask("d"), later)
        with pytest.raises(ValueError):
            await cache.aget_or_compute(ask("e"), failing_later)
        return _held.get()

    assert asyncio.run(main()) == ()


def test_abba(cache: TieredCache) -> None:
    """Two threads, each computing what the other one needs."""
    both = threading.Barrier(2)

    def compute(other: str) -> bytes:
        both.wait()
        return cache.get_or_compute(ask(other), lambda: b"inner").value

    def run() -> list[bytes]:
        results: list[bytes] = []
        threads = [
            threading.Thread(
                target=lambda mine=mine, other=other: results.append(cache.get_or_compute(ask(mine), lambda: compute(other)).value)
            )
            for mine, other in ("ab", "ba")
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results

    assert quickly(run) == [b"inner", b"inner"]


def test_a_sync_call_on_the_leaders_loop(cache: TieredCache) -> None:
    """It would stop the loop that the leader needs: it computes alone."""

    async def main() -> bytes:
        leader = asyncio.create_task(cache.aget_or_compute(ask(), lambda: later(b"leader", 0.1)))
        await in_flight(cache)
        alone = cache.get_or_compute(ask(), lambda: b"alone").value
        return alone + b" " + (await leader).value

    assert quickly(lambda: asyncio.run(main())) == b"alone leader"


def test_a_full_executor_does_not_stop_the_leader() -> None:
    """Followers may fill the threads that the leader needs: they wait for `max_wait` and no longer."""
    cache = TieredCache("memory://", policy=Policy(max_wait=0.3))

    async def compute() -> bytes:
        return await asyncio.to_thread(lambda: b"leader")

    async def main() -> set[bytes]:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(2))
        leader = asyncio.create_task(cache.aget_or_compute(ask(), lambda: _after(0.05, compute)))
        await in_flight(cache)
        followers = [asyncio.to_thread(cache.get_or_compute, ask(), lambda: b"follower") for _ in range(2)]
        return {entry.value for entry in await asyncio.gather(leader, *followers)}

    assert quickly(lambda: asyncio.run(main())) <= {b"leader", b"follower"}


async def _after(seconds: float, compute: Callable[[], Any]) -> bytes:
    await asyncio.sleep(seconds)
    return await compute()


def test_two_loops_one_after_the_other(cache: TieredCache, db: str) -> None:
    """`asyncio.run` twice over one cache."""
    cache = TieredCache("memory://", db)
    for number in range(3):
        assert asyncio.run(cache.aget_or_compute(ask(str(number // 2)), later)).value == b"value"
    assert cache.stats().misses == 2
    cache.close()


def test_many_loops_at_once(cache: TieredCache) -> None:
    """Four threads with a loop each compute once."""
    log: list[Any] = []

    async def main() -> list[bytes]:
        return [
            entry.value for entry in await asyncio.gather(*(cache.aget_or_compute(ask(), lambda: later(b"x", 0.2, log)) for _ in range(5)))
        ]

    threads = [threading.Thread(target=lambda: asyncio.run(main())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert log == [b"x"]


@pytest.mark.alone
def test_a_stale_entry_is_returned_at_once_and_refreshed_once(world: World, clock: FakeClock) -> None:
    """In the background of either world."""
    cache = TieredCache("memory://", FakeAuthority(clock=clock), clock=clock, policy=Policy(keep_for=HOUR, fresh_for=60))
    world.call(cache, "set", ask(), b"old")
    clock.advance(61)
    log: list[Any] = []
    refresh = world.compute(b"new", 0.15, log)

    started = time.perf_counter()
    entries = world.at_once(cache, "get_or_compute", [(ask(), refresh)] * 8)
    assert time.perf_counter() - started < 0.14
    _until(world, lambda: log)
    _until(world, lambda: cache.peek(cache.key(ask())))

    assert [entry.value for entry in entries] == [b"old"] * 8
    assert log == [b"new"]
    assert world.call(cache, "get", ask()).value == b"new"


def test_a_failed_refresh_leaves_the_stale_entry(world: World, clock: FakeClock, events: list[Event]) -> None:
    """It is told of, and not tried at every call."""
    cache = TieredCache("memory://", clock=clock, policy=Policy(keep_for=HOUR, fresh_for=60), observers=[events.append])
    world.call(cache, "set", ask(), b"old")
    clock.advance(61)
    log: list[Any] = []
    failing = world.compute(b"x", log=log, error=ConnectionError())

    for _ in range(3):
        assert world.call(cache, "get_or_compute", ask(), failing).value == b"old"
        _until(world, lambda: "refresh_failed" in kinds(events))
    assert len(log) == 1
    clock.advance(31)
    assert world.call(cache, "get_or_compute", ask(), world.compute(b"new")).value == b"old"
    _until(world, lambda: cache.peek(cache.key(ask())) == b"new")


def test_a_refresh_whose_loop_was_closed_around_it_is_not_the_last(clock: FakeClock) -> None:
    """The next one begins some minutes later, however many were lost."""
    cache = TieredCache("memory://", clock=clock, policy=Policy(keep_for=HOUR, fresh_for=60))
    cache.set(ask(), b"old")
    clock.advance(61)
    for number in range(70):
        loop = asyncio.new_event_loop()
        cache.set(ask(str(number)), b"old", born=cache.ticket())
        clock.advance(0.0)
        loop.run_until_complete(cache.aget_or_compute(ask(), lambda: later(b"lost", 9)))
        for task in asyncio.all_tasks(loop):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        loop.close()
        clock.advance(301 if number < 3 else 0)
    clock.advance(301)

    log: list[Any] = []
    cache.get_or_compute(ask(), Threads().compute(b"new", log=log))
    for _ in range(200):
        if log:
            break
        time.sleep(0.01)

    assert log == [b"new"]


def _until(world: World, condition: Callable[[], object]) -> None:
    for _ in range(300):
        if condition():
            return
        if isinstance(world, Tasks):
            world.loop.run_until_complete(asyncio.sleep(0.01))
        else:
            time.sleep(0.01)
    raise AssertionError


def test_an_answer_is_not_lost_when_its_caller_is_cancelled(clock: FakeClock) -> None:
    """It was paid for: what could not be written in time is written in the background."""
    slow = FakeAuthority(latency=0.2)
    cache = TieredCache("memory://", slow)

    async def main() -> None:
        await cache.aget(ask())
        task = asyncio.create_task(cache.aset(ask(), b"x"))
        await asyncio.sleep(0.05)
        task.cancel()

    asyncio.run(main())
    settled(cache)

    assert cache.key(ask()) in slow.held


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform cannot fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_fork_in_the_middle_of_a_flight(db: str) -> None:
    """The child has no leader to wait for, and its answer is its own."""
    cache = TieredCache("memory://", db)
    cache.get_or_compute(ask("before"), lambda: b"before")
    leader = threading.Thread(target=lambda: cache.get_or_compute(ask(), Threads().compute(b"parent", 0.5)))
    leader.start()
    wait_in_flight(cache)

    if (child := os.fork()) == 0:
        code = 1
        try:
            started = time.monotonic()
            entry = cache.get_or_compute(ask(), lambda: b"child")
            assert time.monotonic() - started < 10  # it does not wait for a flight of its parent
            before = cache.get(ask("before"))
            code = 0 if entry.value == b"child" and before is not None else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    leader.join()

    assert os.waitstatus_to_exitcode(status) == 0
    assert cache.get(ask()).value in (b"parent", b"child")
    cache.close()


_PROCESS = """
import asyncio, sys
from layered_cache import Policy, Request, TieredCache

cache = TieredCache("memory://", sys.argv[1], policy=Policy(write=sys.argv[2]))
requests = [Request(str(number)) for number in range(200)]

async def main():
    for request in requests:
        await cache.aget_or_compute(request, lambda: asyncio.sleep(0, request.prompt.encode()))

def plain():
    for request in requests:
        cache.get_or_compute(request, lambda: request.prompt.encode())

asyncio.run(main()) if sys.argv[3] == "tasks" else plain()
"""


_WORKERS = """
import multiprocessing, sys
from layered_cache import Policy, Request, TieredCache

cache = None

def work(worker, url):
    mine = cache or TieredCache("memory://", url, policy=Policy(write="behind"))
    for number in range(100):
        mine.set(Request(f"{worker} {number}"), b"x")

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[2])
    if sys.argv[3] == "before":
        cache = TieredCache("memory://", sys.argv[1], policy=Policy(write="behind"))
        cache.set(Request("parent"), b"x")
    workers = [context.Process(target=work, args=(worker, sys.argv[1])) for worker in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    sys.exit(sum(worker.exitcode for worker in workers))
"""


@pytest.mark.parametrize("made", ["before", "after"])
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_nothing_is_lost_at_the_end_of_a_worker(db: str, method: str, made: str, tmp_path: Path) -> None:
    """Of multiprocessing, which ends without the usual goodbyes."""
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this platform cannot {method}")
    program = tmp_path / "workers.py"
    program.write_text(_WORKERS)
    command = [sys.executable, "-W", "ignore::DeprecationWarning", str(program), db, method, made]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)

    with TieredCache(db) as cache:
        found = cache.get_many(Request(f"{worker} {number}") for worker in range(3) for number in range(100))
    assert len(found) == 300


@pytest.mark.parametrize("write", ["through", "behind"])
@pytest.mark.parametrize("name", ["threads", "tasks"])
def test_nothing_is_lost_at_the_end_of_the_process(db: str, write: str, name: str) -> None:
    """Nor at the end of `asyncio.run`: it is all in the file, for the next process."""
    done = subprocess.run([sys.executable, "-c", _PROCESS, db, write, name], check=True, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""

    with TieredCache(db) as cache:
        found = cache.get_many(Request(str(number)) for number in range(200))

    assert {request.prompt: entry.value for request, entry in found.items()} == {str(number): str(number).encode() for number in range(200)}


# --- flights


def not_stranded() -> bool:
    return False


def test_flights_of_lost_leaders_are_removed_with_the_next_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that is never requested again would stay in memory for ever."""
    monkeypatch.setattr(flights_module, "_SWEEP", 4)
    flights: Flights[bytes] = Flights()
    lost = [flights.board(str(number), "owner", lambda: True)[0] for number in range(3)]
    living, _ = flights.board("living", "owner", not_stranded)
    assert [flights.aloft(flight.key) for flight in (*lost, living)] == [*lost, living]

    flights.board("next", "owner", not_stranded)

    assert [flights.aloft(flight.key) for flight in (*lost, living)] == [None, None, None, living]
    assert all(flight.future.done() for flight in lost)
    assert not living.future.done()


def test_flights_are_swept_when_their_number_has_doubled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep looks at each flight: it is not repeated for each new one."""
    monkeypatch.setattr(flights_module, "_SWEEP", 4)
    asked: list[str] = []
    flights: Flights[bytes] = Flights()

    def noted(name: str) -> bool:
        asked.append(name)
        return False

    sweeps: list[int] = []
    for number in range(33):
        asked.clear()
        flights.board(str(number), "owner", lambda number=number: noted(str(number)))
        if asked:
            sweeps.append(number)

    assert sweeps == [4, 8, 16, 32]
    assert flights_module._SWEEP == 4
    for number in range(33):
        flight = flights.aloft(str(number))
        assert flight is not None
        flights.land(flight)
    asked.clear()
    flights.board("again", "owner", not_stranded)
    flights.board("and again", "owner", not_stranded)
    assert asked == []


def test_a_lost_flight_is_led_by_the_next_caller() -> None:
    flights: Flights[bytes] = Flights()
    lost, _ = flights.board("k", "owner", lambda: True)

    mine, leads = flights.board("k", "another", not_stranded)

    assert leads
    assert mine is not lost
    assert flights.aloft("k") is mine
    assert (lost.future.done(), mine.future.done()) == (True, False)


def test_a_caller_holds_flights_until_they_end_or_are_lost() -> None:
    flights: Flights[bytes] = Flights()
    stranded = False
    first, _ = flights.board("first", "owner", lambda: stranded)
    second, _ = flights.board("second", "owner", not_stranded)

    def held() -> None:
        nonlocal stranded
        assert not holds_any()
        assert flights.hold(first) == ()
        assert holds_any()
        stranded = True
        assert not holds_any()
        stranded = False
        assert flights.hold(second) == (first,)
        flights.land(first)
        assert holds_any()
        flights.land(second)
        assert not holds_any()
        assert flights.hold(second) == ()

    copy_context().run(held)


def test_flights_of_a_forked_child_are_none() -> None:
    flights: Flights[bytes] = Flights()
    flights.board("k", "owner", not_stranded)
    if (child := os.fork()) == 0:
        os._exit(0 if flights.aloft("k") is None else 1)

    assert os.waitpid(child, 0)[1] == 0
    assert flights.aloft("k") is not None
