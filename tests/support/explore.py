"""Runs of a few callers in every order of their steps: a model checker for the engine.

`Stepwise` implements the engine's effects and yields control before each I/O operation. `explore`
runs the callers repeatedly, each time in a different order of steps, until every order was run. A
property that holds in all of them is proved for these callers. A stress test only makes it likely.

    def two_callers(fx):
        tiers = FakeTier("redis"), FakeAuthority(clock=clock)
        cache = fx.face(TieredCache(*tiers, clock=clock))
        return tiers, [cache.aget_or_compute(request, compute), cache.adelete(request)]

    for run in explore(two_callers):
        assert run.results ...

A caller that waits for a future is not run until the future is done. So followers add few orders,
and all of them can be run.
"""

from __future__ import annotations

import asyncio
import copy
import types
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from concurrent.futures import Future
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from layered_cache._storage.rules import LogState, Scope
from layered_cache.entry import Entry, Refused, Ticket
from layered_cache.tiers.base import Authority, Listable, Page, Queryable, Tier

T = TypeVar("T")
W = TypeVar("W")
C = TypeVar("C")

Job = Coroutine[Any, Any, Any]


@types.coroutine
def pause() -> Generator[None]:
    """Yield control to the other callers."""
    yield


@types.coroutine
def _until(future: Future[Any]) -> Generator[Future[Any]]:
    yield future


@dataclass
class _Caller:
    job: Job
    context: Context
    waits_for: Future[Any] | None = None

    @property
    def can_go_on(self) -> bool:
        return self.waits_for is None or self.waits_for.done()


@dataclass
class Run(Generic[W]):
    """One run: its objects, the result or error of each caller, and the order of steps."""

    world: W
    results: dict[int, Any] = field(default_factory=dict[int, Any])
    order: list[int] = field(default_factory=list[int])


class Stepwise:
    """Effects that yield control before each I/O operation. Each run has a new object."""

    def __init__(self) -> None:
        self.current = 0
        self.spawned: list[Job] = []
        self._told_at_the_end: dict[int, list[Callable[[], None]]] = {}

    def face(self, cache: C) -> C:
        """Return *cache* (a `TieredCache`) with coroutines that run step by step."""
        stepwise = copy.copy(cache)
        vars(stepwise)["_asyncio"] = self
        return stepwise

    def owner(self) -> object:
        """Return the identity of the caller of this step."""
        return ("caller", self.current)

    def may_wait(self) -> bool:
        """Return True."""
        return True

    def stranded(self) -> Callable[[], bool]:
        """Return a predicate that is always false."""
        return lambda: False

    def needs_me(self) -> Callable[[], bool]:
        """Return a predicate that is always false."""
        return lambda: False

    def when_ended(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Register *callback* for the end of the current caller.

        The returned function removes it.
        """
        told = self._told_at_the_end.setdefault(self.current, [])
        told.append(callback)
        return lambda: told.remove(callback) if callback in told else None

    def ended(self, number: int) -> None:
        """Call the callbacks for the end of a caller."""
        for callback in list(self._told_at_the_end.pop(number, [])):
            callback()

    async def read(self, tier: Tier, keys: Sequence[str]) -> Mapping[str, Entry | Refused]:
        """Return the entries of *keys* in *tier*."""
        await pause()
        return tier.get_many(keys)

    async def write(self, tier: Tier, entries: Sequence[Entry]) -> None:
        """Write *entries* to *tier*."""
        await pause()
        tier.set_many(entries)

    async def erase(self, tier: Tier, keys: Sequence[str]) -> int:
        """Erase the entries of *keys* in *tier*."""
        await pause()
        return tier.delete_many(keys)

    async def erase_where(self, tier: Queryable, namespace: str, scope: Scope, born_before: int) -> int:
        """Erase the entries in *tier* that match *scope*."""
        await pause()
        return tier.erase_where(namespace, scope, born_before)

    async def count_where(self, tier: Queryable, namespace: str, scope: Scope) -> int:
        """Count the entries in *tier* that match *scope*."""
        await pause()
        return tier.count_where(namespace, scope)

    async def list_keys(self, tier: Listable, namespace: str, after: str | None) -> Page:
        """Return a page of the keys in *tier*."""
        await pause()
        return tier.list_keys(namespace, after)

    async def read_log(self, authority: Authority, seen: Ticket) -> LogState:
        """Return the state of the log."""
        await pause()
        return authority.read_log(seen)

    async def open_log(self, authority: Authority, seen: Ticket) -> LogState:
        """Return the state of the log, which is created if it does not exist."""
        await pause()
        return authority.open_log(seen)

    async def append_log(self, authority: Authority, namespace: str, scope: Scope | None, seen: Ticket, before: int) -> LogState:
        """Add a rule to the log and return the new state."""
        await pause()
        return authority.append_log(namespace, scope, seen, before)

    async def restart_log(self, authority: Authority, seen: Ticket) -> LogState:
        """Give the log a new epoch if it is older than *seen*."""
        await pause()
        return authority.restart_log(seen)

    async def join(self, future: Future[T], seconds: float, lost: Callable[[], bool]) -> bool:
        """Wait for *future* without a timeout.

        A wait without end is a deadlock, which is an error.
        """
        del seconds, lost
        while not future.done():
            await _until(future)
        return True

    def spawn(self, job: Job) -> bool:
        """Run *job* as a further caller."""
        self.spawned.append(job)
        return True


def explore(
    make: Callable[[Stepwise], tuple[W, Sequence[Job]]],
    *,
    cancel: int | None = None,
    limit: int = 1_000_000,
) -> Generator[Run[W]]:
    """Yield one run for each order of steps.

    Args:
        make: Returns new objects to work on, and the coroutines of the callers with the given
            effects.
        cancel: The number of a caller that is cancelled: once at each of its steps, and in one run
            not at all.
        limit: The maximum number of orders.

    Raises:
        AssertionError: If in some order no caller can continue, or if there are too many orders.
    """
    choices: list[int] = []
    for _ in range(limit):
        run, taken = _one_run(make, choices, cancel)
        yield run
        while taken and taken[-1][0] + 1 == taken[-1][1]:
            taken.pop()
        if not taken:
            return
        choices = [choice for choice, _ in taken]
        choices[-1] += 1
    msg = f"more than {limit} orders of steps"
    raise AssertionError(msg)


def _one_run(
    make: Callable[[Stepwise], tuple[W, Sequence[Job]]], choices: Sequence[int], cancel: int | None
) -> tuple[Run[W], list[tuple[int, int]]]:
    fx = Stepwise()
    world, jobs = make(fx)
    run = Run(world)
    alive = {number: _Caller(job, copy_context()) for number, job in enumerate(jobs)}
    started = len(alive)
    taken: list[tuple[int, int]] = []
    cancelled = cancel is None
    while alive or fx.spawned:
        for job in fx.spawned:
            alive[started] = _Caller(job, copy_context())
            started += 1
        fx.spawned.clear()
        options: list[tuple[int, bool]] = [(number, False) for number, caller in alive.items() if caller.can_go_on]
        if not options:
            msg = f"deadlock, no caller can continue: {run.order}"
            raise AssertionError(msg)
        if not cancelled and cancel in alive:
            options.append((cancel, True))
        choice = choices[len(taken)] if len(taken) < len(choices) else 0
        taken.append((choice, len(options)))
        number, by_force = options[choice]
        cancelled = cancelled or by_force
        run.order.append(-number - 1 if by_force else number)
        _step(fx, alive, number, run, by_force=by_force)
    return run, taken


def _step(fx: Stepwise, alive: dict[int, _Caller], number: int, run: Run[Any], *, by_force: bool = False) -> None:
    caller = alive[number]
    fx.current = number
    try:
        if by_force:
            caller.waits_for = caller.context.run(caller.job.throw, asyncio.CancelledError())
        else:
            caller.waits_for = caller.context.run(caller.job.send, None)
    except StopIteration as end:
        run.results[number] = end.value
    except BaseException as error:  # noqa: BLE001 - any error is the caller's result
        run.results[number] = error
    if number in run.results:
        del alive[number]
        fx.ended(number)
