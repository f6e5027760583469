"""A TCP proxy between a client and its server that does what networks do, when it is told to, and counts.

    with ChaosProxy.to(server.url) as proxy:       # a thread with a loop of its own, on 127.0.0.1
        client = redis.Redis.from_url(proxy.url)
        proxy.set(latency=0.01)                    # seconds each way: 20 ms of round trip
        proxy.set(bandwidth=500)                   # bytes per second: a drip
        proxy.set(finish_after=10)                 # a torn reply: ten bytes, then the end
        proxy.set(blackhole="both")                # nothing arrives, and nobody is told
        proxy.clear()
        proxy.refuse(); proxy.blackhole_connects(); proxy.accept()
        proxy.cut()                                # every connection is reset, now
        proxy.reset_counts(); ...; assert proxy.round_trips == 1

Chance is seeded: of equal bytes on the n-th connection equal ones are hurt.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections import deque
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeAlias, TypeVar
from urllib.parse import urlsplit

from support.servers import HOST, free_port

Way: TypeAlias = Literal["up", "down"]  # to the server, to the client
Ways: TypeAlias = Literal["up", "down", "both"]
T = TypeVar("T")

_PIECES_A_SECOND = 20  # into which a narrow line cuts what it carries
_READ = 65536
_QUEUE = 256  # reads that may be under way; more wait with their sender, as they do in a network
_KEPT = 4096  # bytes of a request that are kept
_EXCHANGES = 10_000  # that are kept
_PATIENCE = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Faults:
    """What happens to bytes.

    Args:
        latency: Seconds that each way takes. As in a network, it delays and does not throttle.
        jitter: Up to so many seconds more, by chance. Bytes of one connection keep their order.
        bandwidth: Bytes per second, for each connection and way.
        slice: The largest number of bytes that leave at once.
        ways: The ways to which the four above apply.
        blackhole: The ways on which bytes are lost for good. The connection stays open, and is reset when this ends.
        hold: The ways on which bytes wait until this ends, and go on then: a frozen process, packets that are sent again.
        duplicate: Each piece of a reply comes twice.
        flip: The share of a reply's bytes of which one bit turns over.
        reset_after: A connection is reset after so many bytes of replies, counted from when this was set.
        finish_after: The same, but it ends in order: a torn reply.
        on_accept: What new connections meet instead of the server.
    """

    latency: float = 0.0
    jitter: float = 0.0
    bandwidth: float = 0.0
    slice: int = 0
    ways: Ways = "both"
    blackhole: Ways | None = None
    hold: Ways | None = None
    duplicate: bool = False
    flip: float = 0.0
    reset_after: int | None = None
    finish_after: int | None = None
    on_accept: Literal["reset", "finish"] | None = None


@dataclass(slots=True)
class Exchange:
    """A burst of bytes to the server, and what came back before the next one."""

    connection: int
    request: bytes = b""  # its beginning
    sent: int = 0
    received: int = 0


class ChaosProxy:
    """Passes connections on to a server, and does to them what `faults` says.

    Args:
        port: Where the server listens.
        host: The same.
        seed: What chance begins with.

    Counts, since the beginning or the last `reset_counts()`: `connections` that were accepted, `bytes_up`, `bytes_down`, `round_trips`
    and the `exchanges` they consist of. A round trip is a turn: bytes of the server after bytes of the client, on one connection; so a
    pipeline is one, and so are requests that share a connection and are under way at the same time. A request that is larger than
    the buffers on its way may count as more.
    """

    def __init__(self, port: int, host: str = HOST, *, seed: int = 0) -> None:
        self.target = (host, port)
        self.port = free_port()
        self._faults = Faults()
        self._change = asyncio.Event()  # of them; a new one after each
        self.seed = seed
        self.connections = self.bytes_up = self.bytes_down = self.round_trips = 0
        self.exchanges: deque[Exchange] = deque(maxlen=_EXCHANGES)
        self._url: str | None = None
        self._accepted = 0  # never reset: it is the name of a connection
        self._late = 0.0
        self._open: set[_Connection] = set()
        self._handlers: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._held: list[socket.socket] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="chaos proxy", daemon=True)

    @classmethod
    def to(cls, url: str, *, seed: int = 0) -> Self:
        """Return a proxy to the one server that *url* names; its `url` is the same, by way of the proxy."""
        parts = urlsplit(url)
        if parts.hostname is None or parts.port is None:
            raise ValueError(f"a host and a port are needed: {url}")
        proxy = cls(parts.port, parts.hostname, seed=seed)
        credentials, at, _ = parts.netloc.rpartition("@")
        proxy._url = parts._replace(netloc=f"{credentials}{at}{HOST}:{proxy.port}").geturl()
        return proxy

    @property
    def url(self) -> str:
        """The URL that was given to `to`, by way of the proxy."""
        if self._url is None:
            raise AttributeError("only a proxy that was made by ChaosProxy.to(url) has a url")
        return self._url

    @property
    def open(self) -> int:
        """How many connections there are now."""
        return len(self._open)

    # what happens to bytes

    @property
    def faults(self) -> Faults:
        """What happens to bytes now."""
        return self._faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._faults = faults
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        self._change.set()
        self._change = asyncio.Event()

    def set(self, **faults: Any) -> Self:
        """Have these faults, and no others, from now on."""
        self.faults = Faults(**faults)
        return self

    def clear(self) -> Self:
        """Pass everything on as it comes."""
        return self.set()

    def delay_next_reply(self, seconds: float) -> None:
        """Have the next piece of a reply, whosever it is, come so much later; only that one."""
        self._late = seconds

    # what happens to connections

    def cut(self) -> None:
        """Reset every connection, on both sides."""
        self._call(self._cut())

    def accept(self) -> None:
        """Take connections: how it begins, and after one of the next two."""
        self._call(self._listen())

    def refuse(self) -> None:
        """Refuse new connections, as a host does where no server runs. Those that are open stay."""
        self._call(self._refuse())

    def blackhole_connects(self) -> None:
        """Let new connections neither succeed nor fail, as a host does that is away. Those that are open stay."""
        self._call(self._blackhole_connects())

    def reset_counts(self) -> None:
        """Count from zero. What comes back for an earlier request is no round trip any more."""
        self._call(self._reset_counts())

    # its life

    def start(self) -> Self:
        """Begin to take connections."""
        self._thread.start()
        self._started.result(_PATIENCE)
        return self

    def close(self) -> None:
        """End, with all connections."""
        if self._loop is not None and self._stop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(_PATIENCE)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        assert self._loop is not None, "the proxy was not started"
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_PATIENCE)

    # in the thread

    def _run(self) -> None:
        asyncio.run(self._live())

    async def _live(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        try:
            await self._listen()
        except OSError as error:
            self._started.set_exception(error)
            return
        self._started.set_result(None)
        await self._stop.wait()
        self._leave_port()
        await self._cut()

    async def _listen(self) -> None:
        if self._server is None:
            self._leave_port()
            self._server = await asyncio.start_server(self._handle, HOST, self.port, backlog=1024)

    async def _refuse(self) -> None:
        self._leave_port()
        self._held.append(self._bound())  # without listening; so nobody else gets the port

    async def _blackhole_connects(self) -> None:
        self._leave_port()
        listener = self._bound()
        listener.listen(0)
        self._held.append(listener)
        for _ in range(4):  # the kernel drops who comes after the queue is full
            visitor = socket.socket()
            visitor.setblocking(False)
            with suppress(BlockingIOError):
                visitor.connect((HOST, self.port))
            self._held.append(visitor)
        await asyncio.sleep(0.02)

    def _bound(self) -> socket.socket:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((HOST, self.port))
        return sock

    def _leave_port(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for sock in self._held:
            sock.close()
        self._held.clear()

    async def _cut(self) -> None:
        handlers = list(self._handlers)
        for handler in handlers:
            handler.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)
        await asyncio.sleep(0)  # for transports, which close one turn later

    async def _reset_counts(self) -> None:
        self.connections = self.bytes_up = self.bytes_down = self.round_trips = 0
        self.exchanges.clear()
        for connection in self._open:
            connection.exchange = None

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        task.add_done_callback(self._handlers.discard)
        self.connections += 1
        self._accepted += 1
        try:
            if self.faults.on_accept is not None:
                (_reset if self.faults.on_accept == "reset" else _finish)(writer)
                return
            server_reader, server_writer = await asyncio.open_connection(*self.target)
        except (OSError, asyncio.CancelledError):
            _reset(writer)
            return
        connection = _Connection(self, self._accepted, (reader, writer), (server_reader, server_writer))
        self._open.add(connection)
        try:
            await connection.run()
        finally:
            self._open.discard(connection)


class _Connection:
    """A client's connection and the one to the server for it. Bytes are read, wait for their time, and are written."""

    def __init__(
        self,
        proxy: ChaosProxy,
        number: int,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self.proxy = proxy
        self.number = number
        self.exchange: Exchange | None = None
        self._readers = {"up": client[0], "down": server[0]}
        self._writers = {"up": server[1], "down": client[1]}
        self._chance = {way: random.Random(f"{proxy.seed} {number} {way}") for way in ("up", "down")}
        self._faults: Faults | None = None  # under which replies were counted
        self._passed = 0

    async def run(self) -> None:
        """Carry bytes until both sides have ended, or one was torn."""
        try:
            async with asyncio.TaskGroup() as group:
                for way in ("up", "down"):
                    queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_QUEUE)
                    group.create_task(self._read(way, queue))
                    group.create_task(self._write(way, queue))
        except* _Finished:
            pass
        except* (OSError, asyncio.CancelledError):
            for writer in self._writers.values():
                _reset(writer)
        finally:
            for writer in self._writers.values():
                _finish(writer)

    async def _read(self, way: Way, queue: asyncio.Queue[tuple[float, bytes]]) -> None:
        loop, chance = asyncio.get_running_loop(), self._chance[way]
        while True:
            data = await self._readers[way].read(_READ)
            self._count(way, data)
            faults, due = self.proxy.faults, loop.time()
            if faults.ways in (way, "both"):
                due += faults.latency + (chance.uniform(0, faults.jitter) if faults.jitter else 0.0)
            await queue.put((due, data))
            if not data:
                return

    async def _write(self, way: Way, queue: asyncio.Queue[tuple[float, bytes]]) -> None:
        loop, writer = asyncio.get_running_loop(), self._writers[way]
        while True:
            due, data = await queue.get()
            if (seconds := due - loop.time()) > 0:
                await asyncio.sleep(seconds)
            if not data:
                await self._gate(way)
                writer.write_eof()
                return
            if way == "down":
                data = await self._hurt(data)
            for piece in self._pieces(way, data):
                await self._gate(way)
                await self._pass(way, piece)
                faults = self.proxy.faults
                narrow = faults.bandwidth and faults.ways in (way, "both")
                await asyncio.sleep(len(piece) / faults.bandwidth if narrow else 0)

    async def _gate(self, way: Way) -> None:
        """Wait while bytes may not pass."""
        proxy = self.proxy
        while proxy.faults.hold in (way, "both"):
            await proxy._change.wait()
        if proxy.faults.blackhole in (way, "both"):
            while proxy.faults.blackhole in (way, "both"):
                await proxy._change.wait()
            raise ConnectionResetError("bytes were lost, and TCP has no gaps")

    async def _hurt(self, data: bytes) -> bytes:
        proxy, chance = self.proxy, self._chance["down"]
        if proxy._late:
            seconds, proxy._late = proxy._late, 0.0
            await asyncio.sleep(seconds)
        if share := proxy.faults.flip:
            data = bytes(byte ^ (1 << chance.randrange(8)) if chance.random() < share else byte for byte in data)
        return data * 2 if proxy.faults.duplicate else data

    def _pieces(self, way: Way, data: bytes) -> Iterator[bytes]:
        faults, size = self.proxy.faults, len(data)
        if faults.ways in (way, "both"):
            size = min(size, faults.slice or size, max(1, int(faults.bandwidth / _PIECES_A_SECOND)) if faults.bandwidth else size)
        return (data[start : start + size] for start in range(0, len(data), size))

    async def _pass(self, way: Way, data: bytes) -> None:
        writer, faults = self._writers[way], self.proxy.faults
        if way == "down":
            if faults is not self._faults:
                self._faults, self._passed = faults, 0
            for limit, end in ((faults.reset_after, ConnectionResetError), (faults.finish_after, _Finished)):
                if limit is not None and self._passed + len(data) >= limit:
                    writer.write(data[: limit - self._passed])
                    await writer.drain()
                    raise end
            self._passed += len(data)
        writer.write(data)
        await writer.drain()

    def _count(self, way: Way, data: bytes) -> None:
        proxy, exchange = self.proxy, self.exchange
        if not data:
            return
        if way == "up":
            proxy.bytes_up += len(data)
            if exchange is None or exchange.received:
                exchange = self.exchange = Exchange(self.number)
                proxy.exchanges.append(exchange)
            exchange.request += data[: _KEPT - len(exchange.request)]
            exchange.sent += len(data)
        else:
            proxy.bytes_down += len(data)
            if exchange is not None:
                proxy.round_trips += not exchange.received
                exchange.received += len(data)


class _Finished(Exception):
    """A connection ends in order, sooner than its two sides wanted."""


def _finish(writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    with suppress(OSError):  # it may be closed already
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close() resets
    writer.transport.abort()
