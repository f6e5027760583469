"""The connection of an event loop: one connection for all tasks, with replies in request order.

So a thousand tasks need one connection. The commands of one loop iteration are sent together. A
task that is cancelled leaves nothing behind: its reply is read in turn and discarded.

A task without a reply in time raises a timeout. If no reply at all has arrived since its request,
the connection counts as dead. If the event loop was busy, the task waits a little longer, because
the loop could not read replies in that time.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any

from layered_cache._util import fork_safety
from layered_cache._util.daemon_threads import Workers
from layered_cache.tiers.redis.connect import CONNECTING, Dialer, check_greeting
from layered_cache.tiers.redis.resp import NOTHING, OutOfStepError, Reply, Wire

# seconds by which a timer is late if the loop was busy
_STALL = 0.005
# additional timeouts that a task may wait while the loop is busy
_TURNS = 4
# the share of CPU time at which a loop counts as busy
_BUSY = 0.5
_CHUNK = 512 * 1024
# bytes that may wait to be sent
_MOST_WAITING = 64 * 1024 * 1024


class _Place:
    """A pending request that may wait for *seconds*.

    `heard` and `worked` are the reply count of the connection and the CPU time of its loop at the
    last check.
    """

    __slots__ = ("count", "deadline", "future", "heard", "replies", "seconds", "turns", "worked")

    def __init__(self, future: asyncio.Future[list[Reply]], count: int, heard: int, seconds: float) -> None:
        self.future = future
        self.count = count
        self.heard = heard
        self.seconds = seconds
        # set at the end of this loop iteration
        self.deadline = float("inf")
        self.worked = 0.0
        self.turns = _TURNS
        self.replies: list[Reply] = []


class Line(asyncio.BufferedProtocol):
    """One connection of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, wire: Wire) -> None:
        self._loop = loop
        self._reader = wire.reader()
        self._malformed = wire.malformed
        self._buffer = bytearray(_CHUNK)
        # asyncio's TLS slices the buffer, and slices of a bytearray would be copies
        self._view = memoryview(self._buffer)
        self._row: deque[_Place] = deque()
        # requests from before the connection was open
        self._early: list[tuple[bytes, _Place]] | None = []
        self._transport: asyncio.Transport | None = None
        self._unsent: list[bytes] = []
        # requests of this loop iteration
        self._said: list[_Place] = []
        self._look_at = float("inf")
        # the number of requests that were answered
        self.heard = 0
        self.lost = False
        # asyncio keeps no reference to its tasks
        self.connecting: asyncio.Task[None] | None = None

    # --- called by asyncio

    def connection_made(self, transport: Any) -> None:  # noqa: ANN401 - the type is asyncio's
        """Store the transport."""
        self._transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - the signature is asyncio's
        """Return the buffer for received bytes."""
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        """Assign the received replies to the pending requests, in order."""
        reader, row = self._reader, self._row
        try:
            reader.feed(self._buffer, 0, nbytes)
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
        """Raise the error in all waiting tasks."""
        self._end(ConnectionResetError("the connection was closed") if exc is None else exc)

    # --- called by the tier

    @property
    def ready(self) -> bool:
        """True if the connection is open."""
        return self._early is None and not self.lost

    def say(self, said: bytes, count: int, seconds: float) -> asyncio.Future[list[Reply]]:
        """Send the bytes, at once or as soon as the connection is open. Return a future.

        The future holds the *count* replies, or a `TimeoutError` after *seconds*.
        """
        future: asyncio.Future[list[Reply]] = self._loop.create_future()
        if self.lost:
            future.set_exception(ConnectionResetError("the connection was closed"))
            return future
        place = _Place(future, count, self.heard, seconds)
        first = self._noted(place)
        if self._early is not None:
            self._early.append((said, place))
        else:
            self._send(said, place, at_once=first)
        return future

    def _noted(self, place: _Place) -> bool:
        """Start the timeout of *place* at the end of this loop iteration.

        Return True if *place* is the first request of this iteration.
        """
        self._said.append(place)
        if len(self._said) > 1:
            return False
        self._loop.call_soon(self._turn_ended)
        return True

    async def greet(self, greeting: bytes, count: int) -> None:
        """Send the greeting, and then the requests from before the connection was open.

        Raises:
            Exception: The error reply of Redis.
        """
        if count:
            place = _Place(self._loop.create_future(), count, 0, CONNECTING)
            self._send(greeting, place, at_once=self._noted(place))
            check_greeting(await place.future)
            self.heard = 0
        early, self._early = self._early or [], None
        if early and not self._said:
            self._loop.call_soon(self._turn_ended)
        for said, place in early:
            if not place.future.done():
                self._send(said, place, at_once=False)

    def _send(self, said: bytes, place: _Place, *, at_once: bool) -> None:
        transport = self._transport
        if transport is None or transport.get_write_buffer_size() > _MOST_WAITING:
            place.future.set_exception(TimeoutError("too many bytes are waiting to be sent"))
            return
        self._row.append(place)
        # the first request of an iteration is sent at once, unless earlier ones are waiting
        if at_once and not self._unsent:
            transport.write(said)
        else:
            self._unsent.append(said)

    def _waiting(self) -> list[_Place]:
        early = [] if self._early is None else [place for _, place in self._early]
        return [place for place in (*self._row, *early) if not place.future.done()]

    def _look(self, at: float) -> None:
        """Schedule a check of the pending requests. One check serves many requests."""
        self._look_at = at
        self._loop.call_at(at, self._look_through, at)

    def _look_through(self, at: float) -> None:
        # this check was replaced by another
        if at != self._look_at:
            return
        now = self._loop.time()
        self._look_at = float("inf")
        dead = [place for place in self._waiting() if place.deadline <= now and self._is_given_up(place, now, late=now - at > _STALL)]
        if dead and self._early is None:
            self.hang_up(TimeoutError())
        elif waiting := self._waiting():
            self._look(min(place.deadline for place in waiting))

    def _is_given_up(self, place: _Place, now: float, *, late: bool) -> bool:
        """Extend the timeout of *place* or end it. Return True if the connection is dead."""
        quiet, worked = self.heard == place.heard, time.thread_time()
        busy = worked - place.worked > _BUSY * place.seconds
        if place.turns and (late or busy):
            place.turns -= 1
            place.heard, place.worked = self.heard, worked
            place.deadline = now + (place.seconds if busy else _STALL)
            return False
        place.future.set_exception(TimeoutError())
        return quiet

    def _turn_ended(self) -> None:
        """Send the remaining requests of this iteration, and start the timeouts of all of them.

        The duration of the iteration is not the fault of Redis, so it does not count.
        """
        if self._unsent and self._transport is not None:
            unsent, self._unsent = b"".join(self._unsent), []
            self._transport.write(unsent)
        said, self._said = self._said, []
        now, worked = self._loop.time(), time.thread_time()
        for place in said:
            place.deadline, place.worked = now + place.seconds, worked
            if place.deadline < self._look_at:
                self._look(place.deadline)

    def hang_up(self, error: Exception | None = None) -> None:
        """Close at once and raise the error in all waiting tasks."""
        self._end(error or ConnectionResetError("the connection was closed"))
        if self._transport is not None:
            self._transport.abort()

    def _end(self, error: Exception) -> None:
        self.lost = True
        self._unsent = []
        for place in self._waiting():
            place.future.set_exception(error)
            # Marked as retrieved: a waiting task sees the error, and asyncio must not log it for
            # the rest.
            place.future.exception()
        self._row.clear()
        self._early = None


class Lines:
    """The connections to one address, one for each running event loop."""

    def __init__(self, tier: str, dialer: Dialer) -> None:
        self._tier = tier
        self._dialer = dialer
        self._workers = Workers(f"{tier} connecting", 2)
        self.after_fork()
        fork_safety.restart_in_child(self)

    def after_fork(self) -> None:
        """Start without connections."""
        # A connection refers to its loop, so weak keys would never be removed. Closed loops are
        # removed when a new loop arrives.
        self._lines: dict[asyncio.AbstractEventLoop, Line] = {}

    async def exchange(self, said: bytes, count: int, seconds: float) -> list[Reply]:
        """Send the bytes and return the *count* replies within *seconds*.

        Raises:
            Exception: If the connection failed or could not be opened. `TimeoutError` if it took
                too long.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while True:
            line = self._lines.get(loop)
            if line is None or line.lost:
                line = self._new(loop)
            heard = line.heard
            try:
                return await line.say(said, count, seconds)
            except TimeoutError:
                raise
            except OSError:
                seconds = deadline - loop.time()
                if not heard or seconds <= 0:
                    # a new connection failed, so the server has a problem
                    raise

    def _new(self, loop: asyncio.AbstractEventLoop) -> Line:
        for ended in [one for one in list(self._lines) if one.is_closed()]:
            self._lines.pop(ended, None)
        line = self._lines[loop] = Line(loop, self._dialer.wire)
        line.connecting = loop.create_task(self._connect(line, loop))
        return line

    async def _connect(self, line: Line, loop: asyncio.AbstractEventLoop) -> None:
        dialer, greeting = self._dialer, self._dialer.address.greeting()
        try:
            connected, host = await self._workers.run(dialer.socket)
            try:
                encrypted: dict[str, Any] = {}
                if dialer.context is not None:
                    encrypted = {"ssl": dialer.context, "server_hostname": host, "ssl_handshake_timeout": CONNECTING}
                connected.setblocking(False)  # noqa: FBT003 - the method takes no keyword
                await loop.create_connection(lambda: line, sock=connected, **encrypted)
            except BaseException:
                connected.close()
                raise
            await line.greet(dialer.wire.pack(greeting), len(greeting))
        except Exception as error:  # noqa: BLE001 - the waiting tasks need every error
            line.hang_up(error)
        finally:
            line.connecting = None
            # cancelled, because the loop is closing
            if not line.ready:
                line.hang_up()

    def drop(self) -> None:
        """Close the connections of all loops, each inside of its loop."""
        lines, self._lines = self._lines, {}
        for loop, line in lines.items():
            line.lost = True
            try:
                loop.call_soon_threadsafe(line.hang_up)
            except RuntimeError:
                # the loop is closed, and so is its connection
                continue

    def drop_mine(self) -> None:
        """Close the connection of the running loop."""
        if (line := self._lines.pop(asyncio.get_running_loop(), None)) is not None:
            line.hang_up()
