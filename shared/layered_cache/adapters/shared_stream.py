"""One stream with several readers. The reader that needs the next chunk fetches it for all.

Nothing is fetched before a reader needs it. All chunks stay in a list until the end, for slower
readers. All readers get the same objects, so they must not change them. The model's stream
continues as long as one reader is left, even if the first reader has left. It is closed with the
last reader. An error is raised in all readers.

Between threads, the thread that needs a chunk fetches it in the context of the first reader, and
the rest of the readers wait. No thread is started. The tasks of a loop share one task in which the
model runs from beginning to end. Two event loops share nothing, and neither do threads and tasks.
The stream of a loop ends with the loop, even if other readers are in the middle of it.

The first reader waits for the model without a limit. Later readers wait for the first chunk as long
as they specify. For each of the next chunks they wait ten times the usual limit, because the
fetching reader may hang for a reason of its application.

The garbage collector may close a reader at any point and in any thread. So a reader that leaves
never waits for a lock.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import suppress
from contextvars import Context
from typing import Generic, TypeVar

from layered_cache.entry import Ticket

C = TypeVar("C")

# A reader that has read a chunk cannot start again, so it waits this many times the limit for a
# first chunk.
_BOUND = 10


class LostError(Exception):
    """The stream was closed or does not start in time. A reader without a chunk can start again."""


class _Shared(Generic[C]):
    """The common part of both kinds of streams.

    Args:
        born: The log position at the start. A caller with a newer position must not join.
        patience: The usual wait in seconds for a first chunk from another reader.
    """

    def __init__(self, born: Ticket, patience: float) -> None:
        self._born = born
        self._patience = patience
        self._process = os.getpid()
        self._chunks: list[C] = []
        self._readers: set[object] = set()
        self._over = False
        self._closed = False
        self._error: BaseException | None = None

    @property
    def ended(self) -> bool:
        """True if the model is not needed any more."""
        return self._over or self._closed

    def admits(self, born: Ticket) -> bool:
        """Return True if a caller with log position *born* may join."""
        return not self._closed and self._error is None and self._born == born and self._process == os.getpid()

    def _limit(self, place: int, patience: float | None) -> float | None:
        """Return the time limit in seconds for the chunk at *place*; None: no limit."""
        return patience if patience is None or place == 0 else _BOUND * self._patience

    def _given_up(self, place: int) -> Exception:
        """Return the error of a reader that waited too long for the chunk at *place*."""
        if place == 0:
            return LostError()
        msg = f"the model stream of another caller has returned no chunk for {_BOUND * self._patience:.0f} s"
        return TimeoutError(msg)

    def _at(self, place: int) -> C | None:
        """Return the chunk at *place*, or None after the last one."""
        if place < len(self._chunks):
            return self._chunks[place]
        if self._error is not None:
            if isinstance(self._error, Exception | asyncio.CancelledError):
                raise self._error
            msg = "the shared model stream was interrupted in the thread of another reader"
            raise RuntimeError(msg) from self._error
        return None


class ThreadStream(_Shared[C]):
    """A stream that threads share.

    Args:
        source: The stream.
        context: The context of the model call, which is used by no other code.
        born: The log position at the start.
        patience: The usual wait in seconds for a first chunk from another reader.
    """

    def __init__(self, source: Generator[C], context: Context, born: Ticket, patience: float) -> None:
        super().__init__(born, patience)
        self._source = source
        self._context = context
        self._turn = threading.Lock()

    def read(self, patience: float | None) -> Generator[C]:
        """Yield all chunks.

        Args:
            patience: The limit in seconds for the first chunk. None, for the first reader: no
                limit.

        Raises:
            LostError: If the stream was lost before the first chunk.
            TimeoutError: If no chunk arrived for too long after the first one.
        """
        reader, place = object(), 0
        self._readers.add(reader)
        try:
            while (chunk := self._chunk(place, self._limit(place, patience))) is not None:
                place += 1
                yield chunk
        finally:
            self._readers.discard(reader)
            self._close_if_left()

    def _chunk(self, place: int, limit: float | None) -> C | None:
        if place >= len(self._chunks) and not self._over:
            if not self._turn.acquire(timeout=-1 if limit is None else min(limit, threading.TIMEOUT_MAX)):
                raise self._given_up(place)
            try:
                if place >= len(self._chunks) and not self._over:
                    self._fetch()
            finally:
                self._turn.release()
            self._close_if_left()
        return self._at(place)

    def _fetch(self) -> None:
        if self._closed:
            raise LostError
        try:
            self._chunks.append(self._context.run(next, self._source))
        except StopIteration:
            self._over = True
        except BaseException as error:
            self._error, self._over = error, True
            raise

    def _close_if_left(self) -> None:
        """Close the stream if no reader is left.

        The current holder of the lock checks again later.
        """
        while not (self._readers or self._over or self._closed) and self._turn.acquire(blocking=False):
            try:
                if not self._readers:
                    self._closed = True
                    self._context.run(self._source.close)
            finally:
                self._turn.release()


class TaskStream(_Shared[C]):
    """A stream that the tasks of one loop share.

    Args:
        source: The stream.
        context: The context of the model call, which is used by no other code.
        born: The log position at the start.
        patience: The usual wait in seconds for a first chunk from another reader.
    """

    def __init__(self, source: AsyncGenerator[C], context: Context, born: Ticket, patience: float) -> None:
        super().__init__(born, patience)
        self._source = source
        self._loop = asyncio.get_running_loop()
        self._wanted = 0
        # the model waits for it
        self._demand: asyncio.Future[None] | None = None
        # the readers wait for them
        self._waiting: list[asyncio.Future[None]] = []
        self._task = self._loop.create_task(self._produce(), context=context)

    async def read(self, patience: float | None) -> AsyncGenerator[C]:
        """Yield all chunks (see ThreadStream.read)."""
        reader, place = object(), 0
        self._readers.add(reader)
        try:
            while (chunk := await self._chunk(place, self._limit(place, patience))) is not None:
                place += 1
                yield chunk
        finally:
            self._readers.discard(reader)
            if not (self._readers or self._over or self._closed):
                self._closed = True
                # otherwise the garbage collector is running, and nothing can be awaited
                if not self._loop.is_closed():
                    self._task.cancel()
                    await asyncio.wait([self._task])

    async def _chunk(self, place: int, limit: float | None) -> C | None:
        while place >= len(self._chunks) and not self._over:
            if self._closed:
                raise LostError
            self._wanted = max(self._wanted, place + 1)
            if self._demand is not None and not self._demand.done():
                self._demand.set_result(None)
            news: asyncio.Future[None] = self._loop.create_future()
            self._waiting.append(news)
            if limit is None:
                await news
            elif not (await asyncio.wait([news], timeout=limit))[0]:
                raise self._given_up(place)
        return self._at(place)

    async def _produce(self) -> None:
        try:
            await self._wait_for_demand()
            async for chunk in self._source:
                self._chunks.append(chunk)
                self._tell()
                await self._wait_for_demand()
        except GeneratorExit:
            # the loop was closed, so nothing can be awaited
            raise
        except BaseException as error:  # noqa: BLE001 - the error is raised in all readers
            self._error = error
            with suppress(Exception):
                await self._source.aclose()
        self._over = True
        self._tell()

    async def _wait_for_demand(self) -> None:
        while self._wanted <= len(self._chunks):
            # the model has ignored its cancellation
            if self._closed:
                raise asyncio.CancelledError
            self._demand = self._loop.create_future()
            await self._demand

    def _tell(self) -> None:
        waiting, self._waiting = self._waiting, []
        for news in waiting:
            # a cancelled reader no longer waits
            if not news.done():
                news.set_result(None)
