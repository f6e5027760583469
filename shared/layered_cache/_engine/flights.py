"""Who is computing what, across all threads and event loops of the process.

A flight is one computation that many callers wait for: one leads, the others follow. A leader that is cancelled or dies hands
over: it lands without an outcome, and each follower starts again, one of them as the leader.

Nobody waits for himself: a caller that holds any flight (it is inside a computation, or is a task that one started) computes
alone. That rules out every circle, at the price of a computation that might have been shared.

A leader may also end in the garbage collector, which closes coroutines that nobody will ever run again, in the middle of anything
and in any thread. It must not take a lock there: it only marks its flight as lost, and who meets the flight next lands it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Generic, TypeVar

from layered_cache import _forks

T = TypeVar("T")

_SWEEP = 256  # flights; with fewer there is nothing to sweep


class Flight(Generic[T]):
    """One computation under way. `future` holds its outcome; None: it has none, start again.

    `is_lost` tells whether its leader can never land it: it was collected, its event loop was closed around it, it has ended, or it had
    its time. `needs_me` tells whether the thread that asks is one which the leader may need to go on.
    """

    __slots__ = ("_stranded", "collected", "future", "key", "needs_me", "owner")

    def __init__(self, key: str, owner: object, stranded: Callable[[], bool], needs_me: Callable[[], bool]) -> None:
        self.key = key
        self.owner = owner
        self.needs_me = needs_me
        self.collected = False
        self._stranded = stranded
        self.future: Future[T | None] = Future()
        self.future.set_running_or_notify_cancel()  # a follower's cancellation stays its own

    def is_lost(self) -> bool:
        """Whether nobody will land it."""
        return not self.future.done() and (self.collected or self._stranded())


class NothingToShareError(Exception):
    """The outcome of a flight whose answer is its leader's alone: it cannot or may not be stored. Who followed goes on alone."""


_held: ContextVar[tuple[Flight[object], ...]] = ContextVar("layered_cache_held_flights", default=())


def holds_any() -> bool:
    """Whether the caller is inside a computation that others may be waiting for."""
    return any(not flight.future.done() and not flight.is_lost() for flight in _held.get())


class Flights(Generic[T]):
    """The flights of one engine."""

    def __init__(self) -> None:
        self.after_fork()
        _forks.restart_in_child(self)

    def after_fork(self) -> None:
        """Begin with none: who led them is not in this process."""
        self._lock = threading.Lock()
        self._aloft: dict[str, Flight[T]] = {}
        self._sweep_at = _SWEEP

    def board(
        self, key: str, owner: object, stranded: Callable[[], bool], needs_me: Callable[[], bool] = lambda: False
    ) -> tuple[Flight[T], bool]:
        """Return the flight of *key*, and whether the caller leads it; a leader must land it."""
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
        """Land what is lost: of a key that nobody asks for again, nobody else would."""
        for flight in list(self._aloft.values()):
            if flight.is_lost():
                self.land(flight)
        self._sweep_at = max(_SWEEP, 2 * len(self._aloft))

    def aloft(self, key: str) -> Flight[T] | None:
        """Return the flight of *key*, if there is one."""
        return self._aloft.get(key)

    def land(self, flight: Flight[T], outcome: T | None = None, error: BaseException | None = None) -> None:
        """End *flight*: with an outcome, an error for all, or neither, so that a follower takes over. Later calls do nothing."""
        with self._lock:
            if flight.future.done():
                return
            if self._aloft.get(flight.key) is flight:
                del self._aloft[flight.key]
            # inside the lock: whoever boards next must not find this one without its outcome
            if error is not None:
                flight.future.set_exception(error)
            else:
                flight.future.set_result(outcome)

    @staticmethod
    def hold(flight: Flight[T]) -> tuple[Flight[object], ...]:
        """Note that the caller holds *flight*; return what it held before, for `let_go`, which hosts cannot call: they only land it."""
        before = tuple(held for held in _held.get() if not held.future.done())
        _held.set((*before, flight))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        return before

    @staticmethod
    def let_go(before: tuple[Flight[object], ...]) -> None:
        """Note that the caller holds what it held *before*."""
        _held.set(before)
