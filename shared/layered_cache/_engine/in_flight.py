"""Computations in flight, across all threads and event loops of the process.

A flight is one computation that several callers wait for: one leader and its followers. If a leader
is cancelled or dies, its flight ends without an outcome. Each follower then starts again, and one
of them leads.

A caller that already leads a computation never waits for a second one: it computes alone. This
includes tasks that were started inside of a computation. It prevents deadlocks, at the price of
some computations that could have been shared.

A leader may also end in the garbage collector, which closes abandoned coroutines at any point and
in any thread. The leader must not take a lock there. It only marks its flight as lost, and the next
caller that finds the flight ends it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Generic, TypeVar

from layered_cache._util import fork_safety

T = TypeVar("T")

# the smallest number of flights that is swept
_SWEEP = 256


class Flight(Generic[T]):
    """One computation in flight. `future` holds its outcome; None means that callers start again.

    `is_lost` returns True if the leader can never end the flight. Then the leader was garbage
    collected, its event loop was closed, it has ended, or its time is over. `needs_me` returns True
    if the leader may need the calling thread to continue.
    """

    __slots__ = ("_stranded", "collected", "future", "key", "needs_me", "owner")

    def __init__(self, key: str, owner: object, stranded: Callable[[], bool], needs_me: Callable[[], bool]) -> None:
        self.key = key
        self.owner = owner
        self.needs_me = needs_me
        self.collected = False
        self._stranded = stranded
        self.future: Future[T | None] = Future()
        # a follower that is cancelled does not cancel the future
        self.future.set_running_or_notify_cancel()

    def is_lost(self) -> bool:
        """Return True if no caller will end this flight."""
        return not self.future.done() and (self.collected or self._stranded())


class NothingToShareError(Exception):
    """The outcome of a flight if the answer must not be shared, so each follower computes alone.

    The answer cannot be stored, or the policy does not admit it.
    """


_held: ContextVar[tuple[Flight[object], ...]] = ContextVar("layered_cache_held_flights", default=())


def holds_any() -> bool:
    """Return True if the caller is inside a computation that may have followers."""
    return any(not flight.future.done() and not flight.is_lost() for flight in _held.get())


class Flights(Generic[T]):
    """The flights of one engine."""

    def __init__(self) -> None:
        self.after_fork()
        fork_safety.restart_in_child(self)

    def after_fork(self) -> None:
        """Start without flights: their leaders are not in this process."""
        self._lock = threading.Lock()
        self._aloft: dict[str, Flight[T]] = {}
        self._sweep_at = _SWEEP

    def board(
        self, key: str, owner: object, stranded: Callable[[], bool], needs_me: Callable[[], bool] = lambda: False
    ) -> tuple[Flight[T], bool]:
        """Return the flight of *key*, and True if the caller leads it. A leader must land it."""
        mine: Flight[T] = Flight(key, owner, stranded, needs_me)
        if len(self._aloft) >= self._sweep_at:
            self._sweep()
        with self._lock:
            flight = self._aloft.setdefault(key, mine)
        if flight is mine:
            return mine, True
        if flight.is_lost():
            self.land(flight)
            return self.board(key, owner, stranded, needs_me)
        return flight, False

    def _sweep(self) -> None:
        """End lost flights.

        A flight of a key that is not requested again is not ended elsewhere.
        """
        for flight in list(self._aloft.values()):
            if flight.is_lost():
                self.land(flight)
        self._sweep_at = max(_SWEEP, 2 * len(self._aloft))

    def aloft(self, key: str) -> Flight[T] | None:
        """Return the flight of *key*, if there is one."""
        return self._aloft.get(key)

    def land(self, flight: Flight[T], outcome: T | None = None, error: BaseException | None = None) -> None:
        """End *flight* with an outcome, with an error for its followers, or with neither.

        With neither, a follower takes over. Later calls have no effect.
        """
        with self._lock:
            if flight.future.done():
                return
            if self._aloft.get(flight.key) is flight:
                del self._aloft[flight.key]
            # Inside the lock: the next caller must not find this flight without its outcome.
            if error is not None:
                flight.future.set_exception(error)
            else:
                flight.future.set_result(outcome)

    @staticmethod
    def hold(flight: Flight[T]) -> tuple[Flight[object], ...]:
        """Record that the caller leads *flight*. Return its earlier flights, for `let_go`.

        Hosts that store in a second call never call `let_go`: they only land the flight.
        """
        before = tuple(held for held in _held.get() if not held.future.done())
        _held.set((*before, flight))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        return before

    @staticmethod
    def let_go(before: tuple[Flight[object], ...]) -> None:
        """Restore the flights that the caller led *before*."""
        _held.set(before)
