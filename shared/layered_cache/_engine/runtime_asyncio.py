"""Effects for event loops. Each call to a tier is limited by the timeout of the tier."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar, cast

from layered_cache._engine.caller_id import running_loop, this_task, works_for
from layered_cache._engine.runtime import LOOK_EVERY, broken
from layered_cache._storage.rules import LogState, Scope
from layered_cache.entry import Entry, Refused, Ticket
from layered_cache.errors import TierError, TierTimeoutError
from layered_cache.tiers.base import Authority, Listable, Page, Queryable, Tier

T = TypeVar("T")

# background refreshes per engine
_MOST_JOBS = 64
# factor over the timeout of a tier, for tiers that exceed their own timeout
_GRACE = 1.5
# seconds for queries and for writes to the log: their callers need the outcome
_SEARCH = 5.0


class Asyncio:
    """The effects of one engine in event loops. Background jobs are tasks of the caller's loop.

    Such a job ends together with its loop.
    """

    def __init__(self) -> None:
        self._jobs: set[asyncio.Task[None]] = set()

    def owner(self) -> object:
        """Return the identity of the running task."""
        return this_task()

    def may_wait(self) -> bool:
        """Return True: the loop runs other tasks while one waits."""
        return True

    def stranded(self) -> Callable[[], bool]:
        """Return a predicate: the running loop was closed."""
        return asyncio.get_running_loop().is_closed

    def needs_me(self) -> Callable[[], bool]:
        """Return a predicate: the calling thread belongs to the executor of the running loop."""
        return partial(works_for, asyncio.get_running_loop())

    def when_ended(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Register *callback* for the end of the running task.

        Return a function that removes it.
        """
        task, loop = asyncio.current_task(), asyncio.get_running_loop()

        def ended(_: object) -> None:
            callback()

        def forget() -> None:
            if task is None:
                return
            if running_loop() is loop:
                task.remove_done_callback(ended)
            else:
                # the loop is closed, so the task has ended too
                with suppress(RuntimeError):
                    loop.call_soon_threadsafe(task.remove_done_callback, ended)

        if task is not None:
            task.add_done_callback(ended)
        return forget

    async def read(self, tier: Tier, keys: Sequence[str]) -> Mapping[str, Entry | Refused]:
        """Return the entries of *keys* in *tier*."""
        return await _within(tier, "read", None, tier.aget_many, keys)

    async def write(self, tier: Tier, entries: Sequence[Entry]) -> None:
        """Write *entries* to *tier*."""
        await _within(tier, "write", None, tier.aset_many, entries)

    async def erase(self, tier: Tier, keys: Sequence[str]) -> int:
        """Erase the entries of *keys* in *tier*."""
        return await _within(tier, "delete", None, tier.adelete_many, keys)

    async def erase_where(self, tier: Queryable, namespace: str, scope: Scope, born_before: int) -> int:
        """Erase the entries in *tier* that match *scope*."""
        return await _within(tier, "search", _SEARCH, tier.aerase_where, namespace, scope, born_before)

    async def count_where(self, tier: Queryable, namespace: str, scope: Scope) -> int:
        """Count the entries in *tier* that match *scope*."""
        return await _within(tier, "search", _SEARCH, tier.acount_where, namespace, scope)

    async def list_keys(self, tier: Listable, namespace: str, after: str | None) -> Page:
        """Return a page of the keys in *tier*."""
        return await _within(tier, "list", None, tier.alist_keys, namespace, after)

    async def read_log(self, authority: Authority, seen: Ticket) -> LogState:
        """Return the state of the log."""
        return await _within(authority, "read the log", None, authority.aread_log, seen)

    async def open_log(self, authority: Authority, seen: Ticket) -> LogState:
        """Return the state of the log, which is created if it does not exist."""
        return await _within(authority, "open the log", None, authority.aopen_log, seen)

    async def append_log(self, authority: Authority, namespace: str, scope: Scope | None, seen: Ticket, before: int) -> LogState:
        """Add a rule to the log and return the new state."""
        return await _within(authority, "write the log", _SEARCH, authority.aappend_log, namespace, scope, seen, before)

    async def restart_log(self, authority: Authority, seen: Ticket) -> LogState:
        """Give the log a new epoch if it is older than *seen*."""
        return await _within(authority, "restart the log", None, authority.arestart_log, seen)

    async def join(self, future: Future[T], seconds: float, lost: Callable[[], bool]) -> bool:
        """Wait for *future* without blocking the loop.

        Return False on a timeout, or if it is lost.
        """
        # cancelling the waiter does not cancel the future, which is marked as running
        waiter = asyncio.wrap_future(future)
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
        except GeneratorExit:
            # the loop is closed and must not be used
            raise
        except BaseException:
            waiter.cancel()
            raise
        return True

    def spawn(self, job: Coroutine[Any, Any, None]) -> bool:
        """Run *job* as a task of the running loop. Return False if too many jobs are running."""
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
    """Read the outcome, so that asyncio does not log it as never retrieved.

    The waiting caller reads the outcome from the other future.
    """
    if not waiter.cancelled():
        waiter.exception()


async def _within(tier: object, operation: str, budget: float | None, call: Callable[..., Awaitable[T]], *args: object) -> T:
    """Return the result of *call*, with a time limit.

    The limit is *budget*, or else the timeout of the tier times `_GRACE`.
    """
    named = cast("Tier", tier)
    try:
        if budget is None:
            budget = 0.0 if getattr(tier, "keeps_time", False) else named.timeout * _GRACE
        # in-memory tiers never wait, and some tiers keep their own time limit
        if not budget:
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
