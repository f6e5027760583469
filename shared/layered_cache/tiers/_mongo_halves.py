"""The two halves of a MongoDB tier: its connection for threads here, those for event loops in `_mongo_loops`.

What is decided stands once, in `Half`, as coroutines; the blocking half's never suspend, and `drive` runs them in one step.

The client's own waiting for a server takes half a second at least, whatever time it is given. So it is called only while it knows a
server that will do; else a call waits here, within its budget, and a *knock* connects in the background, with a budget of its own.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Literal, NamedTuple, TypeVar, cast

import pymongo
from pymongo import ReadPreference

from layered_cache import _forks
from layered_cache.errors import TierError, TierUnavailableError
from layered_cache.tiers._mongo_errors import described, is_passing, translated
from layered_cache.tiers._mongo_handles import Handles

T = TypeVar("T")
Need = Literal["read", "write"]
Work = Callable[["Half", Handles], Awaitable[T]]

_CONNECT = 2.0  # seconds for a knock
_KNOCK_EVERY = 0.5
_LOOK_EVERY = 0.003  # the client's listeners hear of a change up to a second late: looking is quicker
_GOODBYE = 0.2  # seconds for saying it to the server

parents: list[object] = []  # a child must not close what it inherited from its parent, so it stays


class _Sight(NamedTuple):
    """What a description of the servers says."""

    description: object
    readable: bool
    writable: bool
    replicated: bool


_NOTHING_SEEN = _Sight(None, readable=False, writable=False, replicated=False)


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return the outcome of *coroutine*, which never suspends."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return cast("T", end.value)
    coroutine.close()
    msg = f"{coroutine.__qualname__} suspended in the blocking half"
    raise RuntimeError(msg)


class Half(ABC):
    """One connection.

    Args:
        make: Makes its client and collections; no I/O.
        tier: The name to report errors under.
    """

    def __init__(self, make: Callable[[], Handles], tier: str) -> None:
        self._make = make
        self._tier = tier
        self.closed = False
        self.begin()

    def begin(self) -> None:
        """Know no client, no server, and no thread."""
        self._lock = threading.Lock()
        self._handles: Handles | None = None
        self._sight = _NOTHING_SEEN
        self._knocking = self._connecting = False
        self._knock_at = float("-inf")
        self._trouble = "not connected yet"

    async def call(self, operation: str, need: Need, work: Work[T], seconds: float) -> T:
        """Return what *work* returns, tried again while that may help, within *seconds*.

        Args:
            operation: For errors.
            need: What kind of server it needs.
            work: Is given this half, and its collections.
            seconds: The budget of all of it.

        Raises:
            TierError: It failed, or the time was over.
        """
        deadline = time.monotonic() + seconds
        failure: TierError | None = None
        while True:
            handles = self._handles
            if handles is None or not self._is_open(handles, need):
                handles = await self._wait(operation, need, deadline, failure)
            try:
                return await self.within(deadline - time.monotonic(), work, handles)
            except Exception as error:
                failure = translated(error, self._tier, operation, seconds)
                if failure is error:
                    raise
                if not is_passing(error) or time.monotonic() >= deadline:
                    raise failure from None  # the client's own text may hold documents

    def _is_open(self, handles: Handles, need: Need) -> bool:
        if not handles.watched:
            return True
        if self._connecting or self.closed:
            return False
        description = handles.client.topology_description
        sight = self._sight
        if description is not sight.description:  # it is another object after each change
            sight = self._look(description)
        return sight.readable if need == "read" else sight.writable

    def _look(self, description: Any) -> _Sight:  # noqa: ANN401 - the client's
        sight = _Sight(
            description,
            readable=description.has_readable_server(ReadPreference.PRIMARY_PREFERRED),
            writable=description.has_writable_server(),
            replicated=any(
                server.server_type_name not in {"Standalone", "Unknown"} for server in description.server_descriptions().values()
            ),
        )
        self._sight = sight  # at once: other threads look as well
        return sight

    @property
    def replicated(self) -> bool:
        """Whether there are other servers that could confirm a write."""
        return self._sight.replicated

    async def _wait(self, operation: str, need: Need, deadline: float, failure: TierError | None) -> Handles:
        while True:
            if self.closed:
                raise TierUnavailableError(self._tier, operation, "the tier was closed", retryable=False)
            self._knock_soon()
            if time.monotonic() >= deadline:
                raise failure or TierUnavailableError(self._tier, operation, self._why(need))
            await self.pause(_LOOK_EVERY)
            handles = self._handles
            if handles is not None and self._is_open(handles, need):
                return handles

    def _why(self, need: Need) -> str:
        if need == "write" and self._sight.readable:
            return "there is no primary"
        handles = self._handles
        known = handles.client.topology_description.server_descriptions().values() if handles is not None else ()
        errors = {described(server.error) for server in known if server.error is not None} or {self._trouble}
        return f"no server can be reached ({', '.join(sorted(errors))})"

    def _knock_soon(self) -> None:
        with self._lock:
            if self._knocking or time.monotonic() < self._knock_at:
                return
            self._knocking = True
            self._connecting = not self._sight.readable
        if not self.spawn(self._knock):
            self._knocking = self._connecting = False

    async def _knock(self) -> None:
        """Connect, so that the client looks for its servers, and calls find a connection that is ready."""
        handles = self._handles
        try:
            if handles is None:
                handles = self._handles = self._make()
            if handles.watched:
                with pymongo.timeout(_CONNECT):
                    await self.settled(handles.client.admin.command("ping", read_preference=ReadPreference.PRIMARY_PREFERRED))
        except Exception as error:  # noqa: BLE001 - whatever it is, calls say it
            self._trouble = described(error)
        else:
            self._trouble = "the connection was lost"
        finally:
            self._knock_at = time.monotonic() + _KNOCK_EVERY
            self._knocking = self._connecting = False
            if self.closed and handles is not None:
                await self._part(handles)

    async def close(self) -> None:
        """Close the client, if it is ours."""
        with self._lock:
            self.closed = True
            handles, knocking = self._handles, self._knocking
        if handles is not None and not knocking:  # else who knocks does
            await self._part(handles)

    async def _part(self, handles: Handles) -> None:
        if not handles.ours:
            return
        for _ in range(2):  # the second time, there are no sessions left to say goodbye for, and nothing to fail
            with suppress(Exception), pymongo.timeout(_GOODBYE):
                await self.settled(handles.client.close())
                return

    @abstractmethod
    async def within(self, seconds: float, work: Work[T], handles: Handles) -> T:
        """Return what *work* returns within *seconds*."""

    @abstractmethod
    async def settled(self, outcome: Any) -> Any:  # noqa: ANN401 - of the client
        """Return what a call of the client gives in the end."""

    @abstractmethod
    async def all(self, cursor: Any) -> list[Any]:  # noqa: ANN401 - of the client
        """Return all that *cursor* finds."""

    @abstractmethod
    async def pause(self, seconds: float) -> None:
        """Let time pass."""

    @abstractmethod
    def spawn(self, work: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        """Run *work* beside the caller; return whether that is possible."""


class BlockingHalf(Half):
    """The connection for threads. One for each process: a child makes its own."""

    def __init__(self, make: Callable[[], Handles], tier: str) -> None:
        super().__init__(make, tier)
        _forks.restart_in_child(self)

    def after_fork(self) -> None:
        """Leave the parent's connection alone."""
        parents.append(self._handles)
        self.begin()

    run = staticmethod(drive)

    async def within(self, seconds: float, work: Work[T], handles: Handles) -> T:
        """See Half."""
        with pymongo.timeout(max(seconds, 0.001)):  # zero would be no limit
            return await work(self, handles)

    async def settled(self, outcome: Any) -> Any:  # noqa: ANN401 - of the client
        """See Half."""
        return outcome

    async def all(self, cursor: Any) -> list[Any]:  # noqa: ANN401 - of the client
        """See Half."""
        return list(cursor)

    async def pause(self, seconds: float) -> None:
        """See Half."""
        time.sleep(seconds)  # noqa: ASYNC251 - no loop drives it

    def spawn(self, work: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        """See Half."""
        try:
            threading.Thread(target=lambda: drive(work()), name=f"layered-cache {self._tier}", daemon=True).start()
        except RuntimeError:  # too many threads, or the interpreter is on its way out
            return False
        return True
