"""One stream, read by many: who needs the next chunk has it fetched, for all.

Nothing runs ahead of its readers. All chunks stay in a list until the end, for readers that are behind. Each reader gets the same objects,
so they must not be changed. The model's stream goes on as long as one reader is left: whoever began it may go. It is closed with the last
one; it fails for all.

Between threads, the one that needs a chunk fetches it by itself, in the context of the one that began, and others who need it wait; no
thread is started. A loop's tasks share a task, in which the model runs from beginning to end. Two loops share nothing, nor do threads and
tasks: a stream of a loop ends with the loop, in the midst of what others have read of it.

Whoever began it waits for the model as long as that takes. Others wait for the first chunk as long as they say, and for each of the next
ones ten times as long as is usual: whoever fetches may hang for reasons of his own.

Readers may vanish by the garbage collector, at any place of any thread: leaving takes no lock that it would have to wait for.
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

_BOUND = 10  # times the patience for the first chunk is that of one who has read, and cannot begin again


class LostError(Exception):
    """The stream was closed, or does not begin in time; who has read nothing of it can begin again."""


class _Shared(Generic[C]):
    """What both kinds have.

    Args:
        born: What was known of the invalidation log when it began: who knows more may not join.
        patience: Seconds that one waits for another's first chunk, usually.
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
        """Whether the model has no more to do with it."""
        return self._over or self._closed

    def admits(self, born: Ticket) -> bool:
        """Whether a caller who knows the log as of *born* may join."""
        return not self._closed and self._error is None and self._born == born and self._process == os.getpid()

    def _limit(self, place: int, patience: float | None) -> float | None:
        """Return how many seconds a reader with this *patience* waits for the chunk at *place*; None: as long as it takes."""
        return patience if patience is None or place == 0 else _BOUND * self._patience

    def _given_up(self, place: int) -> Exception:
        """Return the error of one who has waited for the chunk at *place* for too long."""
        if place == 0:
            return LostError()
        msg = f"the stream of the model, which another caller began, has brought nothing for {_BOUND * self._patience:.0f} s"
        return TimeoutError(msg)

    def _at(self, place: int) -> C | None:
        """Return the chunk at *place*; None: there is none, and will be none."""
        if place < len(self._chunks):
            return self._chunks[place]
        if self._error is not None:
            if isinstance(self._error, Exception | asyncio.CancelledError):
                raise self._error
            msg = "the stream of the model, which others read too, was interrupted in the thread of one of them"
            raise RuntimeError(msg) from self._error
        return None


class ThreadStream(_Shared[C]):
    """A stream that threads share.

    Args:
        source: The stream.
        context: In which it runs: nobody else's.
        born: See above.
        patience: See above.
    """

    def __init__(self, source: Generator[C], context: Context, born: Ticket, patience: float) -> None:
        super().__init__(born, patience)
        self._source = source
        self._context = context
        self._turn = threading.Lock()

    def read(self, patience: float | None) -> Generator[C]:
        """Yield the chunks, from the first on.

        Args:
            patience: Seconds to wait for the first one; None, of the one who began it: as long as it takes.

        Raises:
            LostError: Nothing was read, and nothing will be.
            TimeoutError: Something was read, and then nothing came for too long.
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
        """Close the stream if nobody is left; whoever has the turn now looks again afterwards."""
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
        context: In which it runs: nobody else's.
        born: See above.
        patience: See above.
    """

    def __init__(self, source: AsyncGenerator[C], context: Context, born: Ticket, patience: float) -> None:
        super().__init__(born, patience)
        self._source = source
        self._loop = asyncio.get_running_loop()
        self._wanted = 0
        self._demand: asyncio.Future[None] | None = None  # what the model waits for
        self._waiting: list[asyncio.Future[None]] = []  # what readers wait for
        self._task = self._loop.create_task(self._produce(), context=context)

    async def read(self, patience: float | None) -> AsyncGenerator[C]:
        """See ThreadStream.read."""
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
                if not self._loop.is_closed():  # else this is the collector, and nothing may be awaited
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
        except GeneratorExit:  # the loop was closed around it: nothing may be awaited
            raise
        except BaseException as error:  # noqa: BLE001 - it is everybody's who reads
            self._error = error
            with suppress(Exception):
                await self._source.aclose()
        self._over = True
        self._tell()

    async def _wait_for_demand(self) -> None:
        while self._wanted <= len(self._chunks):
            if self._closed:  # the model took no notice of having been cancelled
                raise asyncio.CancelledError
            self._demand = self._loop.create_future()
            await self._demand

    def _tell(self) -> None:
        waiting, self._waiting = self._waiting, []
        for news in waiting:
            if not news.done():  # who was cancelled no longer waits
                news.set_result(None)
