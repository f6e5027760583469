"""The connection of an event loop: one, shared by all its tasks, each waiting for its own place in the row of replies.

So a thousand tasks need one connection, what they say in one turn of the loop goes out together, and a task that is cancelled leaves
nothing behind: its reply comes, in its turn, and is thrown away.

A task whose reply does not come in time gives up, and if nothing at all has come since it asked, the connection is taken for dead.
While its own loop is busy it waits a little longer: what has come cannot be looked at then.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any

from layered_cache import _forks
from layered_cache.tiers._redis_dial import CONNECTING, Dialer, check_greeting
from layered_cache.tiers._redis_wire import NOTHING, OutOfStepError, Reply, Wire
from layered_cache.workers import Workers

_STALL = 0.005  # seconds by which a timer is late when the loop was busy with something else
_TURNS = 4  # budgets that one may wait beyond the first while this loop is busy
_BUSY = 0.5  # the share of the time that a busy loop spends on its processor
_CHUNK = 512 * 1024
_MOST_WAITING = 64 * 1024 * 1024  # bytes that may wait to be sent


class _Place:
    """One who waits in the row for *seconds*. `heard` and `worked` are of the line and of its loop when he was last looked after."""

    __slots__ = ("count", "deadline", "future", "heard", "replies", "seconds", "turns", "worked")

    def __init__(self, future: asyncio.Future[list[Reply]], count: int, heard: int, seconds: float) -> None:
        self.future = future
        self.count = count
        self.heard = heard
        self.seconds = seconds
        self.deadline = float("inf")  # until the end of this turn of the loop
        self.worked = 0.0
        self.turns = _TURNS
        self.replies: list[Reply] = []


class Line(asyncio.BufferedProtocol):
    """One connection of one loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, wire: Wire) -> None:
        self._loop = loop
        self._reader = wire.reader()
        self._malformed = wire.malformed
        self._buffer = bytearray(_CHUNK)
        self._view = memoryview(self._buffer)  # asyncio's TLS cuts it, and would fill copies of parts of a bytearray
        self._row: deque[_Place] = deque()
        self._early: list[tuple[bytes, _Place]] | None = []  # what was said before the connection was up
        self._transport: asyncio.Transport | None = None
        self._unsent: list[bytes] = []
        self._said: list[_Place] = []  # in this turn of the loop
        self._look_at = float("inf")
        self.heard = 0  # who was answered
        self.lost = False
        self.connecting: asyncio.Task[None] | None = None  # asyncio itself does not hold on to its tasks

    # --- asyncio's side

    def connection_made(self, transport: Any) -> None:  # noqa: ANN401 - asyncio's
        """Begin."""
        self._transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's
        """Return where to put what comes."""
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        """Hand out what came, in the order in which it was asked for."""
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
        """Tell all who wait."""
        self._end(ConnectionResetError("it was closed") if exc is None else exc)

    # --- ours

    @property
    def ready(self) -> bool:
        """Whether the connection is up."""
        return self._early is None and not self.lost

    def say(self, said: bytes, count: int, seconds: float) -> asyncio.Future[list[Reply]]:
        """Say *said*, now or as soon as the connection is up; return what will hold its *count* replies.

        After *seconds* that is a `TimeoutError`.
        """
        future: asyncio.Future[list[Reply]] = self._loop.create_future()
        if self.lost:
            future.set_exception(ConnectionResetError("it was closed"))
            return future
        place = _Place(future, count, self.heard, seconds)
        first = self._noted(place)
        if self._early is not None:
            self._early.append((said, place))
        else:
            self._send(said, place, at_once=first)
        return future

    def _noted(self, place: _Place) -> bool:
        """Have the time of *place* begin when the loop is through with this turn; return whether it is the first one in it."""
        self._said.append(place)
        if len(self._said) > 1:
            return False
        self._loop.call_soon(self._turn_ended)
        return True

    async def greet(self, greeting: bytes, count: int) -> None:
        """Introduce oneself, where that is needed, and say what was said early.

        Raises:
            Exception: What Redis answered.
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
            place.future.set_exception(TimeoutError("too much waits to be sent"))
            return
        self._row.append(place)
        if at_once and not self._unsent:  # the first of this turn need not wait for others, but for what was said early
            transport.write(said)
        else:
            self._unsent.append(said)

    def _waiting(self) -> list[_Place]:
        early = [] if self._early is None else [place for _, place in self._early]
        return [place for place in (*self._row, *early) if not place.future.done()]

    def _look(self, at: float) -> None:
        """Have the row looked through at that time. One look is enough for many who come and go meanwhile."""
        self._look_at = at
        self._loop.call_at(at, self._look_through, at)

    def _look_through(self, at: float) -> None:
        if at != self._look_at:  # another look has taken its place
            return
        now = self._loop.time()
        self._look_at = float("inf")
        dead = [place for place in self._waiting() if place.deadline <= now and self._is_given_up(place, now, late=now - at > _STALL)]
        if dead and self._early is None:
            self.hang_up(TimeoutError())
        elif waiting := self._waiting():
            self._look(min(place.deadline for place in waiting))

    def _is_given_up(self, place: _Place, now: float, *, late: bool) -> bool:
        """Have *place*, whose time is over, wait on or give up; return whether the line is dead."""
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
        """Send what the others have said, and have the time of all begin: it is not Redis's fault how long the turn took."""
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
        """Close at once, and tell all who wait."""
        self._end(error or ConnectionResetError("it was closed"))
        if self._transport is not None:
            self._transport.abort()

    def _end(self, error: Exception) -> None:
        self.lost = True
        self._unsent = []
        for place in self._waiting():
            place.future.set_exception(error)
            place.future.exception()  # who waits sees it; who has left shall not make asyncio complain
        self._row.clear()
        self._early = None


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
                line = self._new(loop)
            heard = line.heard
            try:
                return await line.say(said, count, seconds)
            except TimeoutError:
                raise
            except OSError:
                seconds = deadline - loop.time()
                if not heard or seconds <= 0:
                    raise  # a new one: the server is not well

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
                connected.setblocking(False)  # noqa: FBT003 - it takes no keyword
                await loop.create_connection(lambda: line, sock=connected, **encrypted)
            except BaseException:
                connected.close()
                raise
            await line.greet(dialer.wire.pack(greeting), len(greeting))
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait have to know
            line.hang_up(error)
        finally:
            line.connecting = None
            if not line.ready:  # it was cancelled: the loop ends
                line.hang_up()

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
