"""The connection of an event loop: one, shared by all its tasks, each waiting for its own place in the row of replies.

So a thousand tasks need one connection, what they say in one turn of the loop goes out together, and a task that is cancelled leaves
nothing behind: its reply comes, in its turn, and is thrown away.

A task whose reply does not come in time gives up. If nothing at all has come since it asked, the connection is taken for dead.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from layered_cache import _forks
from layered_cache.errors import TierTimeoutError
from layered_cache.tiers._redis_dial import CONNECTING, Dialer, check_greeting
from layered_cache.tiers._redis_wire import NOTHING, OutOfStepError, Reply, Wire
from layered_cache.tiers._threaded import Workers

_STALL = 0.005  # seconds by which a timer is late when the loop was busy with something else
_MOST_WAITING = 64 * 1024 * 1024  # bytes that may wait to be sent


class _Place:
    """One who waits in the row."""

    __slots__ = ("count", "future", "replies")

    def __init__(self, future: asyncio.Future[list[Reply]], count: int) -> None:
        self.future = future
        self.count = count
        self.replies: list[Reply] = []


class Line(asyncio.Protocol):
    """One connection of one loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, wire: Wire) -> None:
        self._loop = loop
        self._reader = wire.reader()
        self._malformed = wire.malformed
        self._row: deque[_Place] = deque()
        self._transport: asyncio.Transport | None = None
        self._unsent: list[bytes] = []
        self._turn_taken = False
        self.heard = 0  # replies that came
        self.lost = False

    # --- asyncio's side

    def connection_made(self, transport: Any) -> None:  # noqa: ANN401 - asyncio's
        """Begin."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Hand out what came, in the order in which it was asked for."""
        reader, row = self._reader, self._row
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not NOTHING:
                if not row:
                    self.hang_up(OutOfStepError())
                    return
                place = row[0]
                place.replies.append(reply)
                if len(place.replies) == place.count:
                    row.popleft()
                    self.heard += 1
                    if not place.future.done():
                        place.future.set_result(place.replies)
        except self._malformed:
            self.hang_up(OutOfStepError())

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell all who wait."""
        self._end(ConnectionResetError("it was closed") if exc is None else exc)

    # --- ours

    def say(self, said: bytes, count: int) -> asyncio.Future[list[Reply]]:
        """Say *said*; return what will hold its *count* replies."""
        future: asyncio.Future[list[Reply]] = self._loop.create_future()
        transport = self._transport
        if self.lost or transport is None:
            future.set_exception(ConnectionResetError("it was closed"))
        elif transport.get_write_buffer_size() > _MOST_WAITING:
            future.set_exception(TimeoutError("too much waits to be sent"))
        else:
            self._row.append(_Place(future, count))
            if self._turn_taken:
                self._unsent.append(said)
            else:  # the first of this turn need not wait for others
                self._turn_taken = True
                self._loop.call_soon(self._flush)
                transport.write(said)
        return future

    def _flush(self) -> None:
        self._turn_taken = False
        if self._unsent and self._transport is not None:
            unsent, self._unsent = b"".join(self._unsent), []
            self._transport.write(unsent)

    def hang_up(self, error: Exception | None = None) -> None:
        """Close at once, and tell all who wait."""
        self._end(error or ConnectionResetError("it was closed"))
        if self._transport is not None:
            self._transport.abort()

    def _end(self, error: Exception) -> None:
        self.lost = True
        self._unsent = []
        row, self._row = self._row, deque()
        for place in row:
            if not place.future.done():
                place.future.set_exception(error)
                place.future.exception()  # who waits sees it; who has left shall not make asyncio complain


class Lines:
    """The lines to one address, one for each running loop."""

    def __init__(self, tier: str, dialer: Dialer) -> None:
        self._tier = tier
        self._dialer = dialer
        self._workers = Workers(f"{tier} connecting", 2)
        self.after_fork()
        _forks.restart_in_child(self)

    def after_fork(self) -> None:
        """Begin without lines."""
        # a line refers to its loop: weak keys would never let go. Closed loops are looked for when a new one comes
        self._lines: dict[asyncio.AbstractEventLoop, Line] = {}
        self._coming: dict[asyncio.AbstractEventLoop, asyncio.Task[Line]] = {}

    async def exchange(self, said: bytes, count: int, seconds: float) -> list[Reply]:
        """Say *said* and return the *count* replies to it, within *seconds*.

        Raises:
            Exception: The connection failed, or could not be made; `TimeoutError` if it took too long.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while True:
            line = self._lines.get(loop)
            if line is None or line.lost:
                line = await self._connected(loop, deadline)
            future, heard = line.say(said, count), line.heard
            timer = loop.call_at(deadline, _overdue, loop, deadline, future, line, heard)
            try:
                return await future
            except TimeoutError:
                raise
            except OSError:
                if not heard or loop.time() >= deadline:
                    raise  # a new one: the server is not well
            finally:
                timer.cancel()

    async def _connected(self, loop: asyncio.AbstractEventLoop, deadline: float) -> Line:
        coming = self._coming.get(loop)
        if coming is None:
            self._forget_closed_loops()
            coming = self._coming[loop] = loop.create_task(self._connect(loop))
            coming.add_done_callback(_looked_at)
        done, _ = await asyncio.wait([coming], timeout=max(0.0, deadline - loop.time()))
        if not done:
            raise TierTimeoutError(self._tier, "connect", "no connection came up within the budget")
        if coming.cancelled():  # the loop is ending
            msg = "it was closed"
            raise ConnectionResetError(msg)
        return coming.result()

    async def _connect(self, loop: asyncio.AbstractEventLoop) -> Line:
        dialer = self._dialer
        try:
            connected, host = await self._workers.run(dialer.socket)
            try:
                encrypted: dict[str, Any] = {}
                if dialer.context is not None:
                    encrypted = {"ssl": dialer.context, "server_hostname": host, "ssl_handshake_timeout": CONNECTING}
                make: Callable[[], Line] = lambda: Line(loop, dialer.wire)  # noqa: E731 - a factory
                connected.setblocking(False)
                _, line = await loop.create_connection(make, sock=connected, **encrypted)
            except BaseException:
                connected.close()
                raise
            if greeting := dialer.address.greeting():
                try:
                    async with asyncio.timeout(CONNECTING):
                        check_greeting(await line.say(dialer.wire.pack(greeting), len(greeting)))
                except BaseException:
                    line.hang_up()
                    raise
                line.heard = 0
            self._lines[loop] = line
            return line
        finally:
            self._coming.pop(loop, None)

    def _forget_closed_loops(self) -> None:
        for loop in [loop for loop in list(self._lines) if loop.is_closed()]:
            self._lines.pop(loop, None)
        for loop in [loop for loop in list(self._coming) if loop.is_closed()]:
            self._coming.pop(loop, None)

    def drop(self) -> None:
        """Close the lines of all loops, each from inside of its loop."""
        lines, self._lines = self._lines, {}
        for loop, line in lines.items():
            line.lost = True
            try:
                loop.call_soon_threadsafe(line.hang_up)
            except RuntimeError:  # the loop has ended, and the line with it
                continue

    def drop_mine(self) -> None:
        """Close the line of the running loop."""
        if (line := self._lines.pop(asyncio.get_running_loop(), None)) is not None:
            line.hang_up()


def _overdue(
    loop: asyncio.AbstractEventLoop,
    deadline: float,
    future: asyncio.Future[list[Reply]],
    line: Line,
    heard: int,
    again: bool = True,  # noqa: FBT001, FBT002 - timers pass arguments by place
) -> None:
    """Give up *future*, and the line if nothing has come since it asked."""
    if future.done():
        return
    if again and (late := loop.time() - deadline) > _STALL:
        # the loop was busy: what has come meanwhile could not be looked at yet
        loop.call_later(min(late, 2 * _STALL), _overdue, loop, deadline, future, line, heard, False)  # noqa: FBT003
        return
    future.set_exception(TimeoutError())
    if line.heard == heard:
        line.hang_up(TimeoutError())


def _looked_at(task: asyncio.Task[Line]) -> None:
    """Look at an outcome for which nobody may wait any more."""
    if not task.cancelled():
        task.exception()
