"""The asyncio connections of a MongoDB tier: one for each event loop."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import pymongo

from layered_cache._util import fork_safety
from layered_cache.errors import TierUnavailableError
from layered_cache.tiers.mongodb.clients import Handles
from layered_cache.tiers.mongodb.connection import Half, Work, parents

T = TypeVar("T")

_GRACE = 0.01
# Python 3.11 runs a wait with a timeout in a separate task. If the client ends such a task on a
# timeout, a cancellation at that moment leaves the lock of its connection pool held. Every later
# call would wait without end. So with Python 3.11 a call in flight is not cancelled but abandoned.
_MAY_CANCEL = sys.version_info >= (3, 12)

# Connections of closed tiers with a paused loop. The loop closes them when it runs again or ends.
_parting: set[LoopHalf] = set()


class LoopHalf(Half):
    """The connection for one event loop.

    It is closed when the loop closes its asynchronous generators, as `asyncio.run` does.
    """

    _task: asyncio.Task[None] | None = None
    _until_the_end: AsyncGenerator[None, None] | None = None

    def __init__(self, make: Callable[[], Handles], tier: str, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(make, tier)
        self.loop = loop

    def begin(self) -> None:
        """Reset the connection."""
        super().begin()
        self._under_way: set[asyncio.Future[Any]] = set()

    async def within(self, seconds: float, work: Work[T], handles: Handles) -> T:
        """Return the result of *work* within *seconds*."""
        seconds = max(seconds, 0.001)
        with pymongo.timeout(seconds):
            if not _MAY_CANCEL:
                return await self._left_alone(work(self, handles), seconds + _GRACE)
            async with asyncio.timeout(seconds + _GRACE):
                return await work(self, handles)

    async def _left_alone(self, work: Awaitable[T], seconds: float) -> T:
        """Return the result of *work* within *seconds*.

        After a timeout or a cancellation, *work* continues to its end, which is near.
        """
        task = asyncio.ensure_future(work)
        self._under_way.add(task)
        task.add_done_callback(self._ended)
        await asyncio.wait([task], timeout=seconds)
        if not task.done():
            raise TimeoutError
        return task.result()

    def _ended(self, task: asyncio.Future[Any]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            # marked as retrieved, since no caller may wait for it any more
            task.exception()

    async def settled(self, outcome: Any) -> Any:  # noqa: ANN401 - the type is the client's
        """Return the result of an awaitable of the client."""
        return await outcome

    async def all(self, cursor: Any) -> list[Any]:  # noqa: ANN401 - the type is the client's
        """Return all documents of *cursor*."""
        return await cursor.to_list()

    async def pause(self, seconds: float) -> None:
        """Sleep."""
        await asyncio.sleep(seconds)

    def spawn(self, work: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        """Run *work* as a task of the running loop."""

        async def spawned() -> None:
            if self._until_the_end is None:
                self._until_the_end = self._stay()
                await anext(self._until_the_end)
            await work()

        # in a new context: the caller's deadline does not apply to the background ping
        self._task = asyncio.get_running_loop().create_task(spawned(), context=contextvars.Context())
        return True

    async def _stay(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            await self.close()

    async def end(self) -> None:
        """Close the connection, and the generator that keeps it until the end of the loop."""
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
            await asyncio.wait([self._task])
        await self.close()
        if self._until_the_end is not None:
            # the loop closes the generator at the same time
            with suppress(RuntimeError):
                await self._until_the_end.aclose()

    async def close(self) -> None:
        """Close the client."""
        await super().close()
        _parting.discard(self)


class LoopHalves:
    """The connections of all event loops of a tier. Those of closed loops are removed."""

    def __init__(self, make: Callable[[], Handles], tier: str) -> None:
        self._make = make
        self._tier = tier
        self._closed = False
        self.after_fork()
        fork_safety.restart_in_child(self)

    def after_fork(self) -> None:
        """Start without connections: those of the parent are not closed."""
        parents.extend((getattr(self, "_halves", None), *_parting))
        _parting.clear()
        self._lock = threading.Lock()
        self._halves: dict[asyncio.AbstractEventLoop, LoopHalf] = {}

    def here(self) -> LoopHalf:
        """Return the connection of the running loop."""
        loop = asyncio.get_running_loop()
        half = self._halves.get(loop)
        if half is None or half.closed:
            with self._lock:
                if self._closed:
                    raise TierUnavailableError(self._tier, "open", "the tier was closed", retryable=False)
                self._halves = {loop: half for loop, half in self._halves.items() if not loop.is_closed()}
                half = self._halves[loop] = LoopHalf(self._make, self._tier, loop)
        return half

    async def close_here(self) -> None:
        """Close the connection of the running loop."""
        with self._lock:
            half = self._halves.pop(asyncio.get_running_loop(), None)
        if half is not None:
            await half.end()

    def close(self) -> None:
        """Close all connections, each in its running loop."""
        with self._lock:
            self._closed = True
            halves, self._halves = self._halves, {}
        for ended in [half for half in _parting if half.loop.is_closed()]:
            _parting.discard(ended)
        for loop, half in halves.items():
            half.closed = True
            if loop.is_running():
                # the loop was closed by another thread
                with suppress(RuntimeError):
                    loop.call_soon_threadsafe(lambda half=half: half.spawn(half.end))
            elif not loop.is_closed():
                _parting.add(half)
