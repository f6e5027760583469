"""Effects for threads: these coroutines block and never suspend."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future, wait
from typing import Any, TypeVar

from layered_cache._engine.caller_id import running_loop, this_thread
from layered_cache._engine.runtime import LOOK_EVERY, broken, run
from layered_cache._storage.rules import LogState, Scope
from layered_cache._util import fork_safety
from layered_cache.entry import Entry, Refused, Ticket
from layered_cache.errors import TierError
from layered_cache.tiers.base import Authority, Listable, Page, Queryable, Tier

T = TypeVar("T")

# concurrent background computations; each may take as long as a model call
_MOST_JOBS = 4


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
    """The effects of one engine in threads. Background jobs run in daemon threads."""

    def __init__(self) -> None:
        self.after_fork()
        fork_safety.restart_in_child(self)

    def after_fork(self) -> None:
        """Start without jobs."""
        self._places = threading.Semaphore(_MOST_JOBS)

    def owner(self) -> object:
        """Return the identity of the thread."""
        return this_thread()

    def may_wait(self) -> bool:
        """Return True if no event loop runs in this thread.

        A wait would block all tasks of the loop, including a task that this call may depend on.
        """
        return running_loop() is None

    def stranded(self) -> Callable[[], bool]:
        """Return a predicate: this thread has ended.

        Some hosts look up and store in two calls, and the thread may end between them.
        """
        thread = threading.current_thread()
        return lambda: not thread.is_alive()

    def needs_me(self) -> Callable[[], bool]:
        """Return a predicate that is always false: a blocking caller needs no other thread."""
        return _never

    # threads do not report their end
    def when_ended(self, callback: Callable[[], None]) -> Callable[[], None]:  # noqa: ARG002
        """Ignore *callback*: a thread does not report its end."""
        return _nothing

    async def read(self, tier: Tier, keys: Sequence[str]) -> Mapping[str, Entry | Refused]:
        """Return the entries of *keys* in *tier*."""
        # inlined `_called`: each hit in a slower tier takes this path
        try:
            return tier.get_many(keys)
        except TierError:
            raise
        except Exception as error:
            raise broken(tier, "read", error) from error

    async def write(self, tier: Tier, entries: Sequence[Entry]) -> None:
        """Write *entries* to *tier*."""
        _called(tier, "write", tier.set_many, entries)

    async def erase(self, tier: Tier, keys: Sequence[str]) -> int:
        """Erase the entries of *keys* in *tier*."""
        return _called(tier, "delete", tier.delete_many, keys)

    async def erase_where(self, tier: Queryable, namespace: str, scope: Scope, born_before: int) -> int:
        """Erase the entries in *tier* that match *scope*."""
        return _called(tier, "search", tier.erase_where, namespace, scope, born_before)

    async def count_where(self, tier: Queryable, namespace: str, scope: Scope) -> int:
        """Count the entries in *tier* that match *scope*."""
        return _called(tier, "search", tier.count_where, namespace, scope)

    async def list_keys(self, tier: Listable, namespace: str, after: str | None) -> Page:
        """Return a page of the keys in *tier*."""
        return _called(tier, "list", tier.list_keys, namespace, after)

    async def read_log(self, authority: Authority, seen: Ticket) -> LogState:
        """Return the state of the log."""
        return _called(authority, "read the log", authority.read_log, seen)

    async def open_log(self, authority: Authority, seen: Ticket) -> LogState:
        """Return the state of the log, which is created if it does not exist."""
        return _called(authority, "open the log", authority.open_log, seen)

    async def append_log(self, authority: Authority, namespace: str, scope: Scope | None, seen: Ticket, before: int) -> LogState:
        """Add a rule to the log and return the new state."""
        return _called(authority, "write the log", authority.append_log, namespace, scope, seen, before)

    async def restart_log(self, authority: Authority, seen: Ticket) -> LogState:
        """Give the log a new epoch if it is older than *seen*."""
        return _called(authority, "restart the log", authority.restart_log, seen)

    async def join(self, future: Future[T], seconds: float, lost: Callable[[], bool]) -> bool:
        """Wait for *future* in this thread. Return False on a timeout, or if it is lost."""
        deadline = time.monotonic() + seconds
        while not wait([future], min(LOOK_EVERY, max(0.0, deadline - time.monotonic()))).done:
            if lost() or time.monotonic() >= deadline:
                return False
        return True

    def spawn(self, job: Coroutine[Any, Any, None]) -> bool:
        """Run *job* in a daemon thread. Return False if too many jobs are running."""
        if not self._places.acquire(blocking=False):
            job.close()
            return False
        try:
            threading.Thread(target=self._run, args=(job, self._places), name="layered-cache job", daemon=True).start()
        except RuntimeError:
            # the interpreter is shutting down
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
