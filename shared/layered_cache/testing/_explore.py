"""Every order in which a few callers can take their steps: a model checker for coroutines over effects.

`Stepwise` are effects that give control back before each touch of the world. `explore` runs the callers again and again, each time
in another order of steps, until there is no order left that was not run. What holds in all of them is a law; a stress test only
makes it likely.

    def two_callers(fx):
        tiers = FakeTier("redis"), FakeAuthority(clock=clock)
        cache = fx.face(TieredCache(*tiers, clock=clock))
        return tiers, [cache.aget_or_compute(request, compute), cache.adelete(request)]

    for run in explore(two_callers):
        assert run.results ...

A caller that waits for a future is not run until it is done: so followers add few orders, and all of them can be run.
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

from layered_cache.entry import Entry, Refused, Ticket
from layered_cache.invalidation import LogState, Scope
from layered_cache.tiers._tier import Authority, Listable, Page, Queryable, Tier

T = TypeVar("T")
W = TypeVar("W")
C = TypeVar("C")

Job = Coroutine[Any, Any, Any]


@types.coroutine
def pause() -> Generator[None]:
    """Let the others take steps."""
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
    """One order of steps that was run: what the callers worked on, what each returned or raised, and the order."""

    world: W
    results: dict[int, Any] = field(default_factory=dict[int, Any])
    order: list[int] = field(default_factory=list[int])


class Stepwise:
    """Effects that pause before each touch of the world. One for each run."""

    def __init__(self) -> None:
        self.current = 0
        self.spawned: list[Job] = []
        self._told_at_the_end: dict[int, list[Callable[[], None]]] = {}

    def face(self, cache: C) -> C:
        """Return *cache* (a `TieredCache`) with asynchronous methods that work step by step."""
        stepwise = copy.copy(cache)
        vars(stepwise)["_asyncio"] = self
        return stepwise

    def owner(self) -> object:
        """Return who takes a step now."""
        return ("caller", self.current)

    def may_wait(self) -> bool:
        """Return True."""
        return True

    def stranded(self) -> Callable[[], bool]:
        """Return what says no."""
        return lambda: False

    def needs_me(self) -> Callable[[], bool]:
        """Return what says no."""
        return lambda: False

    def when_ended(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Have *callback* called when who takes a step now has taken his last, unless it is forgotten before."""
        told = self._told_at_the_end.setdefault(self.current, [])
        told.append(callback)
        return lambda: told.remove(callback) if callback in told else None

    def ended(self, number: int) -> None:
        """Tell those who want to know that a caller has taken his last step."""
        for callback in list(self._told_at_the_end.pop(number, [])):
            callback()

    async def read(self, tier: Tier, keys: Sequence[str]) -> Mapping[str, Entry | Refused]:
        """See Effects."""
        await pause()
        return tier.get_many(keys)

    async def write(self, tier: Tier, entries: Sequence[Entry]) -> None:
        """See Effects."""
        await pause()
        tier.set_many(entries)

    async def erase(self, tier: Tier, keys: Sequence[str]) -> int:
        """See Effects."""
        await pause()
        return tier.delete_many(keys)

    async def erase_where(self, tier: Queryable, namespace: str, scope: Scope, born_before: int) -> int:
        """See Effects."""
        await pause()
        return tier.erase_where(namespace, scope, born_before)

    async def count_where(self, tier: Queryable, namespace: str, scope: Scope) -> int:
        """See Effects."""
        await pause()
        return tier.count_where(namespace, scope)

    async def list_keys(self, tier: Listable, namespace: str, after: str | None) -> Page:
        """See Effects."""
        await pause()
        return tier.list_keys(namespace, after)

    async def read_log(self, authority: Authority, seen: Ticket) -> LogState:
        """See Effects."""
        await pause()
        return authority.read_log(seen)

    async def open_log(self, authority: Authority, seen: Ticket) -> LogState:
        """See Effects."""
        await pause()
        return authority.open_log(seen)

    async def append_log(self, authority: Authority, namespace: str, scope: Scope | None, seen: Ticket, before: int) -> LogState:
        """See Effects."""
        await pause()
        return authority.append_log(namespace, scope, seen, before)

    async def restart_log(self, authority: Authority, seen: Ticket) -> LogState:
        """See Effects."""
        await pause()
        return authority.restart_log(seen)

    async def join(self, future: Future[T], seconds: float, lost: Callable[[], bool]) -> bool:
        """Wait, without a bound: an order of steps in which it would never end is a deadlock, and an error."""
        del seconds, lost
        while not future.done():
            await _until(future)
        return True

    def spawn(self, job: Job) -> bool:
        """Make *job* one more caller."""
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
        make: Returns a new world and the callers' coroutines over the given effects.
        cancel: This caller is cancelled: at each of its steps in turn, and in one run not at all.
        limit: More orders than this are an error: then the question is too large for an answer.

    Raises:
        AssertionError: In some order nobody can go on, or there are more orders than *limit*.
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
            msg = f"nobody can go on: {run.order}"
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
    except BaseException as error:  # noqa: BLE001 - whatever a caller raises is his outcome
        run.results[number] = error
    if number in run.results:
        del alive[number]
        fx.ended(number)
