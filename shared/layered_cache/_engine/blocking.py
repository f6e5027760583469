"""Effects for threads: these coroutines block, and never suspend."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future, wait
from typing import Any, TypeVar

from layered_cache import _forks
from layered_cache._engine.callers import running_loop, this_thread
from layered_cache._engine.effects import LOOK_EVERY, broken, run
from layered_cache.entry import Entry, Refused, Ticket
from layered_cache.errors import TierError
from layered_cache.invalidation import LogState, Scope
from layered_cache.tiers._tier import Authority, Listable, Page, Queryable, Tier

T = TypeVar("T")

_MOST_JOBS = 4  # computations beside their callers; each may take as long as a model does


def _never() -> bool:
    return False


def _nothing() -> None:
    pass


def _called(tier: object, operation: str, function: Callable[..., T], *args: object) -> T:
    try:
        return function(*args)
    except TierError:
        raise
    except Exception as error:
        raise broken(tier, operation, error) from error


class Blocking:
    """One for each engine. Its jobs run in daemon threads."""

    def __init__(self) -> None:
        self.after_fork()
        _forks.restart_in_child(self)

    def after_fork(self) -> None:
        """Begin without jobs."""
        self._places = threading.Semaphore(_MOST_JOBS)

    def owner(self) -> object:
        """Return the thread."""
        return this_thread()

    def may_wait(self) -> bool:
        """Whether no event loop runs in this thread: its tasks, which may be the ones to wait for, stand still meanwhile."""
        return running_loop() is None

    def stranded(self) -> Callable[[], bool]:
        """Return what tells whether this thread has ended: hosts look up and store in two calls, and it may end between them."""
        thread = threading.current_thread()
        return lambda: not thread.is_alive()

    def needs_me(self) -> Callable[[], bool]:
        """Return what says no: this thread goes on by itself."""
        return _never

    def when_ended(self, callback: Callable[[], None]) -> Callable[[], None]:  # noqa: ARG002 - nobody tells
        """See Effects."""
        return _nothing

    async def read(self, tier: Tier, keys: Sequence[str]) -> Mapping[str, Entry | Refused]:
        """See Effects."""
        try:  # as `_called` does, without the call: each hit comes this way
            return tier.get_many(keys)
        except TierError:
            raise
        except Exception as error:
            raise broken(tier, "read", error) from error

    async def write(self, tier: Tier, entries: Sequence[Entry]) -> None:
        """See Effects."""
        _called(tier, "write", tier.set_many, entries)

    async def erase(self, tier: Tier, keys: Sequence[str]) -> int:
        """See Effects."""
        return _called(tier, "delete", tier.delete_many, keys)

    async def erase_where(self, tier: Queryable, namespace: str, scope: Scope, born_before: int) -> int:
        """See Effects."""
        return _called(tier, "search", tier.erase_where, namespace, scope, born_before)

    async def count_where(self, tier: Queryable, namespace: str, scope: Scope) -> int:
        """See Effects."""
        return _called(tier, "search", tier.count_where, namespace, scope)

    async def list_keys(self, tier: Listable, namespace: str, after: str | None) -> Page:
        """See Effects."""
        return _called(tier, "list", tier.list_keys, namespace, after)

    async def read_log(self, authority: Authority, seen: Ticket) -> LogState:
        """See Effects."""
        return _called(authority, "read the log", authority.read_log, seen)

    async def open_log(self, authority: Authority, seen: Ticket) -> LogState:
        """See Effects."""
        return _called(authority, "open the log", authority.open_log, seen)

    async def append_log(self, authority: Authority, namespace: str, scope: Scope | None, seen: Ticket, before: int) -> LogState:
        """See Effects."""
        return _called(authority, "write the log", authority.append_log, namespace, scope, seen, before)

    async def restart_log(self, authority: Authority, seen: Ticket) -> LogState:
        """See Effects."""
        return _called(authority, "restart the log", authority.restart_log, seen)

    async def join(self, future: Future[T], seconds: float, lost: Callable[[], bool]) -> bool:
        """See Effects."""
        deadline = time.monotonic() + seconds
        while not wait([future], min(LOOK_EVERY, max(0.0, deadline - time.monotonic()))).done:
            if lost() or time.monotonic() >= deadline:
                return False
        return True

    def spawn(self, job: Coroutine[Any, Any, None]) -> bool:
        """See Effects."""
        if not self._places.acquire(blocking=False):
            job.close()
            return False
        try:
            threading.Thread(target=self._run, args=(job, self._places), name="layered-cache job", daemon=True).start()
        except RuntimeError:  # the interpreter is on its way out
            self._places.release()
            job.close()
            return False
        return True

    @staticmethod
    def _run(job: Coroutine[Any, Any, None], places: threading.Semaphore) -> None:
        try:
            run(job)
        finally:
            places.release()
