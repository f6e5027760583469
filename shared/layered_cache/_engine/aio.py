"""Effects for event loops. Each call to a tier is bounded by the tier's budget, whatever the tier does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar, cast

from layered_cache._engine.callers import running_loop, this_task, works_for
from layered_cache._engine.effects import LOOK_EVERY, broken
from layered_cache.entry import Entry, Refused, Ticket
from layered_cache.errors import TierError, TierTimeoutError
from layered_cache.invalidation import LogState, Scope
from layered_cache.tiers._tier import Authority, Listable, Page, Queryable, Tier

T = TypeVar("T")

_MOST_JOBS = 64  # background refreshes on one engine's loops
_GRACE = 1.5  # a tier keeps its own budget; this is for one that does not
_SEARCH = 5.0  # seconds: queries and the log are asked for by someone who wants to know how it ended


class Asyncio:
    """One for each engine. Its jobs are tasks of the caller's loop, and end with it."""

    def __init__(self) -> None:
        self._jobs: set[asyncio.Task[None]] = set()

    def owner(self) -> object:
        """Return the running task."""
        return this_task()

    def may_wait(self) -> bool:
        """Return True: a waiting task lets the others run."""
        return True

    def stranded(self) -> Callable[[], bool]:
        """Return what tells whether the running loop was closed."""
        return asyncio.get_running_loop().is_closed

    def needs_me(self) -> Callable[[], bool]:
        """Return what tells whether a thread is one of those to which tasks of the running loop hand what blocks."""
        return partial(works_for, asyncio.get_running_loop())

    def when_ended(self, callback: Callable[[], None]) -> Callable[[], None]:
        """See Effects."""
        task, loop = asyncio.current_task(), asyncio.get_running_loop()

        def ended(_: object) -> None:
            callback()

        def forget() -> None:
            if task is None:
                return
            if running_loop() is loop:
                task.remove_done_callback(ended)
            else:
                with suppress(RuntimeError):  # the loop is closed, and the task with it
                    loop.call_soon_threadsafe(task.remove_done_callback, ended)

        if task is not None:
            task.add_done_callback(ended)
        return forget

    async def read(self, tier: Tier, keys: Sequence[str]) -> Mapping[str, Entry | Refused]:
        """See Effects."""
        return await _within(tier, "read", None, tier.aget_many, keys)

    async def write(self, tier: Tier, entries: Sequence[Entry]) -> None:
        """See Effects."""
        await _within(tier, "write", None, tier.aset_many, entries)

    async def erase(self, tier: Tier, keys: Sequence[str]) -> int:
        """See Effects."""
        return await _within(tier, "delete", None, tier.adelete_many, keys)

    async def erase_where(self, tier: Queryable, namespace: str, scope: Scope, born_before: int) -> int:
        """See Effects."""
        return await _within(tier, "search", _SEARCH, tier.aerase_where, namespace, scope, born_before)

    async def count_where(self, tier: Queryable, namespace: str, scope: Scope) -> int:
        """See Effects."""
        return await _within(tier, "search", _SEARCH, tier.acount_where, namespace, scope)

    async def list_keys(self, tier: Listable, namespace: str, after: str | None) -> Page:
        """See Effects."""
        return await _within(tier, "list", None, tier.alist_keys, namespace, after)

    async def read_log(self, authority: Authority, seen: Ticket) -> LogState:
        """See Effects."""
        return await _within(authority, "read the log", None, authority.aread_log, seen)

    async def open_log(self, authority: Authority, seen: Ticket) -> LogState:
        """See Effects."""
        return await _within(authority, "open the log", None, authority.aopen_log, seen)

    async def append_log(self, authority: Authority, namespace: str, scope: Scope | None, seen: Ticket, before: int) -> LogState:
        """See Effects."""
        return await _within(authority, "write the log", _SEARCH, authority.aappend_log, namespace, scope, seen, before)

    async def restart_log(self, authority: Authority, seen: Ticket) -> LogState:
        """See Effects."""
        return await _within(authority, "restart the log", None, authority.arestart_log, seen)

    async def join(self, future: Future[T], seconds: float, lost: Callable[[], bool]) -> bool:
        """See Effects."""
        waiter = asyncio.wrap_future(future)  # cancelling it leaves the future alone: it is marked as running
        waiter.add_done_callback(_looked_at)
        deadline = asyncio.get_running_loop().time() + seconds
        try:
            while not waiter.done():
                left = deadline - asyncio.get_running_loop().time()
                if left <= 0:
                    return False
                await asyncio.wait([waiter], timeout=min(LOOK_EVERY, left))
                if not waiter.done() and lost():
                    return False
        except GeneratorExit:  # the loop is closed: nothing may be asked of it
            raise
        except BaseException:
            waiter.cancel()
            raise
        return True

    def spawn(self, job: Coroutine[Any, Any, None]) -> bool:
        """See Effects."""
        if len(self._jobs) >= _MOST_JOBS:
            self._jobs = {task for task in self._jobs if not task.get_loop().is_closed()}
        if len(self._jobs) >= _MOST_JOBS:
            job.close()
            return False
        task = asyncio.get_running_loop().create_task(job)
        self._jobs.add(task)
        task.add_done_callback(self._jobs.discard)
        return True


def _looked_at(waiter: asyncio.Future[Any]) -> None:
    """Look at an outcome, so that asyncio does not report it as lost: who waits looks at the other future."""
    if not waiter.cancelled():
        waiter.exception()


async def _within(tier: object, operation: str, budget: float | None, call: Callable[..., Awaitable[T]], *args: object) -> T:
    """Return the outcome of *call*, which gets *budget*, or its tier's and some grace."""
    named = cast("Tier", tier)
    try:
        if budget is None:
            budget = 0.0 if getattr(tier, "keeps_time", False) else named.timeout * _GRACE
        if not budget:  # a tier in memory never waits, and some can be relied upon
            return await call(*args)
        async with asyncio.timeout(budget):
            return await call(*args)
    except TimeoutError as error:
        if isinstance(error, TierError):
            raise
        raise TierTimeoutError(named.name, operation, "took longer than its budget") from error
    except TierError:
        raise
    except Exception as error:
        raise broken(tier, operation, error) from error
