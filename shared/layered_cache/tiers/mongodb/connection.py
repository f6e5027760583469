"""The connection of a MongoDB tier for threads. Those for event loops are in `asyncio_connections`.

The logic exists once, in `Half`, as coroutines. The coroutines of the blocking connection never
suspend, and `drive` runs them in one step.

The client waits at least half a second for a server, whatever its timeout is. So it is called only
while it knows a suitable server. Otherwise a call waits here within its timeout, and a background
ping with a separate timeout connects.
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

from layered_cache._util import fork_safety
from layered_cache.errors import TierError, TierUnavailableError
from layered_cache.tiers.mongodb.clients import Handles
from layered_cache.tiers.mongodb.errors import described, is_passing, translated

T = TypeVar("T")
Need = Literal["read", "write"]
Work = Callable[["Half", Handles], Awaitable[T]]

# seconds for a background ping
_CONNECT = 2.0
_KNOCK_EVERY = 0.5
# the client's listeners report a change up to a second late, so polling is faster
_LOOK_EVERY = 0.003
# seconds to end the sessions on the server
_GOODBYE = 0.2

# A child must not close connections of its parent, so they are kept here.
parents: list[object] = []


class _Sight(NamedTuple):
    """The facts in a description of the servers."""

    description: object
    readable: bool
    writable: bool
    replicated: bool


_NOTHING_SEEN = _Sight(None, readable=False, writable=False, replicated=False)


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return the result of *coroutine*, which never suspends."""
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
        make: Creates the client and its collections, without I/O.
        tier: The tier name in errors.
    """

    def __init__(self, make: Callable[[], Handles], tier: str) -> None:
        self._make = make
        self._tier = tier
        self.closed = False
        self.begin()

    def begin(self) -> None:
        """Reset the state: no client, no known server, no thread."""
        self._lock = threading.Lock()
        self._handles: Handles | None = None
        self._sight = _NOTHING_SEEN
        self._knocking = self._connecting = False
        self._knock_at = float("-inf")
        self._trouble = "not connected yet"

    async def call(self, operation: str, need: Need, work: Work[T], seconds: float) -> T:
        """Return the result of *work*, with retries of temporary errors, within *seconds*.

        Args:
            operation: The operation name in errors.
            need: The kind of server that is needed.
            work: A function of this connection and its collections.
            seconds: The time limit, including all retries.

        Raises:
            TierError: If *work* failed or the time was over.
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
                    # the text of the client may contain documents
                    raise failure from None

    def _is_open(self, handles: Handles, need: Need) -> bool:
        if not handles.watched:
            return True
        if self._connecting or self.closed:
            return False
        description = handles.client.topology_description
        sight = self._sight
        # each change creates a new object
        if description is not sight.description:
            sight = self._look(description)
        return sight.readable if need == "read" else sight.writable

    def _look(self, description: Any) -> _Sight:  # noqa: ANN401 - the type is the client's
        sight = _Sight(
            description,
            readable=description.has_readable_server(ReadPreference.PRIMARY_PREFERRED),
            writable=description.has_writable_server(),
            replicated=any(
                server.server_type_name not in {"Standalone", "Unknown"} for server in description.server_descriptions().values()
            ),
        )
        # set at once, because other threads check the description too
        self._sight = sight
        return sight

    @property
    def replicated(self) -> bool:
        """True if there are other servers that can confirm a write."""
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
        """Connect in the background, so that calls find servers and an open connection."""
        handles = self._handles
        try:
            if handles is None:
                handles = self._handles = self._make()
            if handles.watched:
                with pymongo.timeout(_CONNECT):
                    await self.settled(handles.client.admin.command("ping", read_preference=ReadPreference.PRIMARY_PREFERRED))
        except Exception as error:  # noqa: BLE001 - calls report any error
            self._trouble = described(error)
        else:
            self._trouble = "the connection was lost"
        finally:
            self._knock_at = time.monotonic() + _KNOCK_EVERY
            self._knocking = self._connecting = False
            if self.closed and handles is not None:
                await self._part(handles)

    async def close(self) -> None:
        """Close the client if the tier has created it."""
        with self._lock:
            self.closed = True
            handles, knocking = self._handles, self._knocking
        # a background ping that is running closes the client at its end
        if handles is not None and not knocking:
            await self._part(handles)

    async def _part(self, handles: Handles) -> None:
        if not handles.ours:
            return
        # the second attempt has no sessions left to end, so it cannot fail
        for _ in range(2):
            with suppress(Exception), pymongo.timeout(_GOODBYE):
                await self.settled(handles.client.close())
                return

    @abstractmethod
    async def within(self, seconds: float, work: Work[T], handles: Handles) -> T:
        """Return the result of *work* within *seconds*."""

    @abstractmethod
    async def settled(self, outcome: Any) -> Any:  # noqa: ANN401 - the type is the client's
        """Return the result of a call of the client."""

    @abstractmethod
    async def all(self, cursor: Any) -> list[Any]:  # noqa: ANN401 - the type is the client's
        """Return all documents of *cursor*."""

    @abstractmethod
    async def pause(self, seconds: float) -> None:
        """Sleep."""

    @abstractmethod
    def spawn(self, work: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        """Run *work* in the background. Return False if that is not possible."""


class BlockingHalf(Half):
    """The connection for threads. A child process creates its own."""

    def __init__(self, make: Callable[[], Handles], tier: str) -> None:
        super().__init__(make, tier)
        fork_safety.restart_in_child(self)

    def after_fork(self) -> None:
        """Keep the parent's connection, and start without one."""
        parents.append(self._handles)
        self.begin()

    run = staticmethod(drive)

    async def within(self, seconds: float, work: Work[T], handles: Handles) -> T:
        """Return the result of *work* within *seconds*."""
        # zero would mean no limit
        with pymongo.timeout(max(seconds, 0.001)):
            return await work(self, handles)

    async def settled(self, outcome: Any) -> Any:  # noqa: ANN401 - the type is the client's
        """Return *outcome*, which is the result."""
        return outcome

    async def all(self, cursor: Any) -> list[Any]:  # noqa: ANN401 - the type is the client's
        """Return all documents of *cursor*."""
        return list(cursor)

    async def pause(self, seconds: float) -> None:
        """Sleep."""
        time.sleep(seconds)  # noqa: ASYNC251 - no event loop runs this coroutine

    def spawn(self, work: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        """Run *work* in a new thread."""
        try:
            threading.Thread(target=lambda: drive(work()), name=f"layered-cache {self._tier}", daemon=True).start()
        except RuntimeError:
            # too many threads, or the interpreter is shutting down
            return False
        return True
