"""Getting to a Redis: to the one that the URL names, or to the master that Sentinels name. Blocking, for threads of its own.

Both worlds dial here, so that the search for a master, and the names that have to be resolved, are waited for in one place.
"""

from __future__ import annotations

import os
import socket
import ssl
import struct
import time
from collections.abc import Sequence

from layered_cache.tiers._redis_address import Command, RedisAddress
from layered_cache.tiers._redis_wire import NOTHING, OutOfStepError, Reply, Wire

CONNECTING = 2.0  # seconds that a connection may take to come up
_CHUNK = 64 * 1024
_NOTHING_MUCH = 0.001  # seconds


class Link:
    """One connection, for one thread at a time. Whoever gets an error from it, of whatever kind, must close it.

    Where it can, it has the system itself watch the time of `send` and `recv`: Python would ask before each of them whether it may go on,
    which doubles what a hit costs there.
    """

    __slots__ = ("_buffer", "_by_system", "_malformed", "_patience", "_reader", "_socket", "used")

    def __init__(self, connected: socket.socket, wire: Wire) -> None:
        self._socket = connected
        self._by_system = os.name == "posix" and not isinstance(connected, ssl.SSLSocket)
        if self._by_system:
            connected.settimeout(None)
        self._patience = 0.0  # what the socket has been told
        self._reader = wire.reader()
        self._malformed = wire.malformed
        self._buffer = bytearray(_CHUNK)
        self.used = False

    def exchange(self, said: bytes, count: int, deadline: float) -> list[Reply]:
        """Say *said* and return the *count* replies to it.

        Raises:
            TimeoutError: It is past *deadline* (monotonic), however slowly bytes trickle in.
            OSError: The connection is gone.
            OutOfStepError: More came than was asked for, or no reply of Redis at all.
        """
        buffer, reader = self._buffer, self._reader
        self._send(said, deadline)
        replies: list[Reply] = []
        while True:
            self._be_patient(deadline)  # its time-out is for one chunk
            try:
                size = self._socket.recv_into(buffer)
            except BlockingIOError:  # so the system says that time is over
                raise TimeoutError from None
            if not size:
                msg = "it was closed"
                raise ConnectionResetError(msg)
            try:
                reader.feed(buffer, 0, size)
                while (reply := reader.gets()) is not NOTHING:
                    replies.append(reply)
            except self._malformed as error:
                raise OutOfStepError from error
            if len(replies) >= count:
                if len(replies) > count or reader.has_data():
                    raise OutOfStepError
                self.used = True
                return replies

    def _send(self, said: bytes, deadline: float) -> None:
        connected = self._socket
        if self._by_system and len(said) > _CHUNK:  # in many pieces, each of which would have all of the time
            connected.settimeout(_left(deadline))
            connected.sendall(said)
            connected.settimeout(None)
            return
        self._be_patient(deadline)
        try:
            connected.sendall(said)
        except BlockingIOError:
            raise TimeoutError from None

    def _be_patient(self, deadline: float) -> None:
        """Have the socket wait until *deadline*. A millisecond is not worth a call to the system, of which there are two on a hit."""
        left = _left(deadline)
        if -_NOTHING_MUCH < self._patience - left < _NOTHING_MUCH:
            return
        self._patience = left
        if self._by_system:
            limit = struct.pack("ll", int(left), int(left % 1 * 1e6) or 1)  # zero would be for ever
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        else:
            self._socket.settimeout(left)

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


class Dialer:
    """Makes connections to one address."""

    def __init__(self, address: RedisAddress, wire: Wire) -> None:
        self.address = address
        self.wire = wire
        self.context = address.tls_context()
        "example".encode("idna")  # names are resolved in background threads, which must not import: another one may fork

    def link(self) -> Link:
        """Return a connection that is ready for commands.

        Raises:
            OSError: There is none to be had.
            Exception: What Redis answered to the greeting.
        """
        deadline = time.monotonic() + CONNECTING
        connected, host = self.socket(deadline)
        return self._greeted(connected, host, self.address.greeting(), deadline)

    def socket(self, deadline: float | None = None) -> tuple[socket.socket, str]:
        """Return a socket that is connected to the right host, and the name of that host. Nothing was said yet."""
        deadline = time.monotonic() + CONNECTING if deadline is None else deadline
        host, port = self.address.hosts[0] if self.address.service is None else self._master(deadline)
        return _connected(host, port, deadline), host

    def _master(self, deadline: float) -> tuple[str, int]:
        """Return where the first Sentinel that knows says the master is."""
        question: list[Command] = [("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.address.service or "")]
        failure: Exception = ConnectionError("no Sentinel knows this service")
        for host, port in self.address.hosts:
            try:
                patience = min(deadline, time.monotonic() + CONNECTING / len(self.address.hosts))
                link = self._greeted(_connected(host, port, patience), host, self.address.sentinel_greeting(), patience)
                try:
                    (reply,) = link.exchange(self.wire.pack(question), 1, patience)
                finally:
                    link.close()
            except Exception as error:  # noqa: BLE001 - whatever is wrong with this one, the next may know
                failure = error
                continue
            if isinstance(reply, list) and len(reply) == 2:  # noqa: PLR2004 - host and port
                found, number = reply
                if isinstance(found, bytes) and isinstance(number, bytes) and number.isdigit():
                    return found.decode("utf-8", "replace"), int(number)
        raise failure

    def _greeted(self, connected: socket.socket, host: str, greeting: Sequence[Command], deadline: float) -> Link:
        try:
            if self.context is not None:
                connected.settimeout(_left(deadline))
                connected = self.context.wrap_socket(connected, server_hostname=host)
            link = Link(connected, self.wire)
            if greeting:
                check_greeting(link.exchange(self.wire.pack(greeting), len(greeting), deadline))
                link.used = False
        except BaseException:
            connected.close()
            raise
        return link


def check_greeting(replies: Sequence[Reply]) -> None:
    """Raise the first of *replies* that is an error."""
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply


def _connected(host: str, port: int, deadline: float) -> socket.socket:
    """Return a socket that is connected to the first address of *host* that answers, each having its share of the time."""
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    failure: OSError = ConnectionError("it has no address")
    for number, (family, kind, protocol, _, address) in enumerate(addresses):
        connected = socket.socket(family, kind, protocol)
        try:
            connected.settimeout(_left(deadline) / (len(addresses) - number + 1))  # one share is for the greeting
            connected.connect(address)
        except OSError as error:
            connected.close()
            failure = error
        else:
            return _tuned(connected)
    raise failure


def _tuned(connected: socket.socket) -> socket.socket:
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return connected


def _left(deadline: float) -> float:
    if (left := deadline - time.monotonic()) <= 0:
        raise TimeoutError
    return left
