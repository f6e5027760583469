"""The I/O operations of the engine, and a driver for coroutines outside of an event loop.

The engine is written once, as coroutines that do not depend on their driver. `await` marks every
I/O operation, and each of them is a method of `Effects`. Under asyncio these operations suspend. In
threads they block and never suspend, so the whole coroutine runs in one step of `run`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar, cast

from layered_cache._storage.rules import LogState, Scope
from layered_cache.entry import Entry, Refused, Ticket
from layered_cache.errors import TierError, TierUnavailableError
from layered_cache.tiers.base import Authority, Listable, Page, Queryable, Tier

T = TypeVar("T")


class Effects(Protocol):
    """The I/O operations of the engine, implemented once for threads and once for asyncio.

    Calls to tiers raise only `TierError`. Any other exception of a tier is converted to one.
    """

    def owner(self) -> object:
        """Return the identity of the caller: the running task, or else the thread."""
        ...

    def may_wait(self) -> bool:
        """Return True if this caller may wait for a second caller.

        It must not wait if that would block the event loop which the other caller needs.
        """
        ...

    def stranded(self) -> Callable[[], bool]:
        """Return a predicate: the caller can never continue, because its loop was closed."""
        ...

    def needs_me(self) -> Callable[[], bool]:
        """Return a predicate: the calling thread is one that this caller may need to continue.

        The predicate is called in another thread.
        """
        ...

    def when_ended(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Register *callback* for the end of the calling task, however it ends.

        A thread does not report its end, so the callback is never called for a thread. The returned
        function removes the callback and may be called from any thread. Without it, callbacks would
        pile up on a task that lives long and leads often.
        """
        ...

    async def read(self, tier: Tier, keys: Sequence[str]) -> Mapping[str, Entry | Refused]:
        """Return the entries of *keys* that *tier* holds."""
        ...

    async def write(self, tier: Tier, entries: Sequence[Entry]) -> None:
        """Write *entries* to *tier*."""
        ...

    async def erase(self, tier: Tier, keys: Sequence[str]) -> int:
        """Erase the entries of *keys* in *tier* and return their number."""
        ...

    async def erase_where(self, tier: Queryable, namespace: str, scope: Scope, born_before: int) -> int:
        """Erase the entries in *tier* that match *scope* and return their number."""
        ...

    async def count_where(self, tier: Queryable, namespace: str, scope: Scope) -> int:
        """Return the number of entries in *tier* that match *scope*."""
        ...

    async def list_keys(self, tier: Listable, namespace: str, after: str | None) -> Page:
        """Return a page of the keys in *tier*."""
        ...

    async def read_log(self, authority: Authority, seen: Ticket) -> LogState:
        """Return the state of the log."""
        ...

    async def open_log(self, authority: Authority, seen: Ticket) -> LogState:
        """Return the state of the log, which is created if it does not exist."""
        ...

    async def append_log(self, authority: Authority, namespace: str, scope: Scope | None, seen: Ticket, before: int) -> LogState:
        """Add a rule to the log and return the new state."""
        ...

    async def restart_log(self, authority: Authority, seen: Ticket) -> LogState:
        """Give the log a new epoch if it is older than *seen*, and return its state."""
        ...

    async def join(self, future: Future[T], seconds: float, lost: Callable[[], bool]) -> bool:
        """Wait until *future* is done and return True, or False on a timeout.

        The caller reads the outcome from the future. The wait ends after *seconds*, or as soon as
        *lost* returns True, which means that the future will never be finished.
        """
        ...

    def spawn(self, job: Coroutine[Any, Any, None]) -> bool:
        """Run *job* in the background.

        Return False, and close *job*, if too many jobs are running.
        """
        ...


# `join` checks this often (in seconds) if a future is lost
LOOK_EVERY = 0.5


def broken(tier: object, operation: str, error: Exception) -> TierError:
    """Return the `TierError` for *error*, which a tier must not raise.

    Only the type of *error* is included: its text may contain private data.
    """
    name = str(getattr(tier, "name", type(tier).__qualname__))
    return TierUnavailableError(name, operation, f"a defect of the tier: {type(error).__qualname__}", retryable=False)


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run *coroutine* to its end in this thread and return its result.

    Raises:
        RuntimeError: If the coroutine suspended, so it awaited more than blocking effects.
    """
    try:
        coroutine.send(None)
    except StopIteration as end:
        return cast("T", end.value)
    coroutine.close()
    msg = f"{coroutine.__qualname__} suspended outside of an event loop"
    raise RuntimeError(msg)
