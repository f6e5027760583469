"""All that the engine may do to the world, and how a coroutine is driven where there is no event loop.

The engine is written once, as coroutines that do not know who drives them. `await` marks every place where it touches the world,
through one `Effects` object. Under asyncio these places suspend; under threads they block and never suspend, so that the whole
coroutine runs in one step of `run`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar, cast

from layered_cache.entry import Entry, Refused, Ticket
from layered_cache.errors import TierError, TierUnavailableError
from layered_cache.invalidation import LogState, Scope
from layered_cache.tiers._tier import Authority, Listable, Page, Queryable, Tier

T = TypeVar("T")


class Effects(Protocol):
    """One world's way to touch the outside.

    Calls to tiers raise `TierError` and nothing else: what a tier raises against its contract becomes one here.
    """

    def owner(self) -> object:
        """Return who is calling: the running task, else the thread."""
        ...

    def may_wait(self) -> bool:
        """Whether this caller may wait for another one: not if that would stop the loop which the other needs."""
        ...

    def stranded(self) -> Callable[[], bool]:
        """Return what will tell whether the caller can never go on, because its loop was closed around it."""
        ...

    def needs_me(self) -> Callable[[], bool]:
        """Return what will tell, in another thread, whether that thread is one which this caller may need in order to go on."""
        ...

    def when_ended(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Have *callback* called when the calling task has ended, however it does. A thread tells nobody.

        Return what has it forgotten, from any thread: a task may live long, and lead often.
        """
        ...

    async def read(self, tier: Tier, keys: Sequence[str]) -> Mapping[str, Entry | Refused]:
        """Return what *tier* holds for *keys*."""
        ...

    async def write(self, tier: Tier, entries: Sequence[Entry]) -> None:
        """Have *tier* hold *entries*."""
        ...

    async def erase(self, tier: Tier, keys: Sequence[str]) -> int:
        """Have *tier* hold nothing for *keys*."""
        ...

    async def erase_where(self, tier: Queryable, namespace: str, scope: Scope, born_before: int) -> int:
        """Have *tier* erase what *scope* matches."""
        ...

    async def count_where(self, tier: Queryable, namespace: str, scope: Scope) -> int:
        """Have *tier* count what *scope* matches."""
        ...

    async def list_keys(self, tier: Listable, namespace: str, after: str | None) -> Page:
        """Return a page of the keys that *tier* holds."""
        ...

    async def read_log(self, authority: Authority, seen: Ticket) -> LogState:
        """Read the log."""
        ...

    async def open_log(self, authority: Authority, seen: Ticket) -> LogState:
        """Read the log, made if there is none."""
        ...

    async def append_log(self, authority: Authority, namespace: str, scope: Scope | None, seen: Ticket, before: int) -> LogState:
        """Add a rule."""
        ...

    async def restart_log(self, authority: Authority, seen: Ticket) -> LogState:
        """Give the log a new epoch if it is older than *seen*."""
        ...

    async def join(self, future: Future[T], seconds: float, lost: Callable[[], bool]) -> bool:
        """Wait until *future* is done; return whether it is. Its outcome is the caller's to look at.

        It gives up after *seconds*, and as soon as it notices that *lost* is true: that nobody will ever finish it.
        """
        ...

    def spawn(self, job: Coroutine[Any, Any, None]) -> bool:
        """Run *job* beside the caller, who does not wait; False (and it is closed) if too many run already."""
        ...


LOOK_EVERY = 0.5  # seconds between two looks of `join` at whether a future is lost


def broken(tier: object, operation: str, error: Exception) -> TierError:
    """Return what *error* is, which a tier should not have raised. Only its kind is told: its text may say too much."""
    name = str(getattr(tier, "name", type(tier).__qualname__))
    return TierUnavailableError(name, operation, f"a defect of the tier: {type(error).__qualname__}", retryable=False)


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Drive *coroutine* to its end in this thread: what `await` is to a task.

    Raises:
        RuntimeError: It suspended, hence awaited something other than blocking effects.
    """
    try:
        coroutine.send(None)
    except StopIteration as end:
        return cast("T", end.value)
    coroutine.close()
    msg = f"{coroutine.__qualname__} suspended outside of an event loop"
    raise RuntimeError(msg)
