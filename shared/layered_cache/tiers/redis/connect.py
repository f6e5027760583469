"""Opening of connections to Redis: to the host in the URL, or to the primary that Sentinels name.

The code blocks and runs in separate threads, also for event loops. So the search for a primary and
the name resolution exist in one place.
"""

from __future__ import annotations

import os
import socket
import ssl
import struct
import time
from collections.abc import Sequence

from layered_cache.tiers.redis.resp import NOTHING, OutOfStepError, Reply, Wire
from layered_cache.tiers.redis.url import Command, RedisAddress

# seconds to open a connection
CONNECTING = 2.0
_CHUNK = 64 * 1024
# seconds
_NOTHING_MUCH = 0.001


class Link:
    """One connection, for one thread at a time. After any error the caller must close it.

    Where possible, the operating system enforces the timeouts of `send` and `recv`. Python would
    poll the socket before each of them, which doubles the cost of a hit.
    """

    __slots__ = ("_buffer", "_by_system", "_malformed", "_patience", "_reader", "_socket", "used")

    def __init__(self, connected: socket.socket, wire: Wire) -> None:
        self._socket = connected
        self._by_system = os.name == "posix" and not isinstance(connected, ssl.SSLSocket)
        if self._by_system:
            connected.settimeout(None)
        # the timeout that is set on the socket
        self._patience = 0.0
        self._reader = wire.reader()
        self._malformed = wire.malformed
        self._buffer = bytearray(_CHUNK)
        self.used = False

    def exchange(self, said: bytes, count: int, deadline: float) -> list[Reply]:
        """Send the bytes and return the *count* replies.

        Raises:
            TimeoutError: If *deadline* (monotonic) has passed, however slowly bytes arrive.
            OSError: If the connection is lost.
            OutOfStepError: If there were too many replies, or an invalid one.
        """
        buffer, reader = self._buffer, self._reader
        self._send(said, deadline)
        replies: list[Reply] = []
        while True:
            # the socket timeout applies to one chunk
            self._be_patient(deadline)
            try:
                size = self._socket.recv_into(buffer)
            except BlockingIOError:
                # the operating system reports a timeout in this way
                raise TimeoutError from None
            if not size:
                msg = "the connection was closed"
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
        # sent in many pieces, and each of them would have the whole timeout
        if self._by_system and len(said) > _CHUNK:
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
        """Set the socket timeout to *deadline*.

        A difference below a millisecond is ignored, since a hit would pay for two system calls.
        """
        left = _left(deadline)
        if -_NOTHING_MUCH < self._patience - left < _NOTHING_MUCH:
            return
        self._patience = left
        if self._by_system:
            # zero would mean no timeout
            limit = struct.pack("ll", int(left), int(left % 1 * 1e6) or 1)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        else:
            self._socket.settimeout(left)

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


class Dialer:
    """Opens connections to one address."""

    def __init__(self, address: RedisAddress, wire: Wire) -> None:
        self.address = address
        self.wire = wire
        self.context = address.tls_context()
        # Preloads the codec. Names are resolved in background threads, which must not import
        # modules, because another thread may fork.
        "example".encode("idna")

    def link(self) -> Link:
        """Return a connection that is ready for commands.

        Raises:
            OSError: If no connection can be opened.
            Exception: The error reply to the greeting.
        """
        deadline = time.monotonic() + CONNECTING
        connected, host = self.socket(deadline)
        return self._greeted(connected, host, self.address.greeting(), deadline)

    def socket(self, deadline: float | None = None) -> tuple[socket.socket, str]:
        """Return a socket that is connected to the right host, and the name of the host.

        Nothing was sent on it yet.
        """
        deadline = time.monotonic() + CONNECTING if deadline is None else deadline
        host, port = self.address.hosts[0] if self.address.service is None else self._master(deadline)
        return _connected(host, port, deadline), host

    def _master(self, deadline: float) -> tuple[str, int]:
        """Return the address of the primary, from the first Sentinel that knows it."""
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
            except Exception as error:  # noqa: BLE001 - the next Sentinel is tried after any error
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
    """Raise the first error in *replies*."""
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply


def _connected(host: str, port: int, deadline: float) -> socket.socket:
    """Return a socket that is connected to the first address of *host* that accepts.

    Each address has its share of the time.
    """
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    failure: OSError = ConnectionError("the host has no address")
    for number, (family, kind, protocol, _, address) in enumerate(addresses):
        connected = socket.socket(family, kind, protocol)
        try:
            # one share is for the greeting
            connected.settimeout(_left(deadline) / (len(addresses) - number + 1))
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
