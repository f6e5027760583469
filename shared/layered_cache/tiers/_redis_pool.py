"""Connections of threads: a few, kept open, the one last used first. A call gets one, or waits for one within its budget.

Connections come up in threads of their own, which may take longer than any caller waits: who comes later finds them. One that fails
is closed, never used again; if it had worked before, its server was restarted, and the call is tried once more on a new one.
"""

from __future__ import annotations

import threading
import time
from collections import deque

from layered_cache import _forks
from layered_cache.errors import TierTimeoutError
from layered_cache.tiers._redis_dial import Dialer, Link
from layered_cache.tiers._redis_wire import Reply


class Pool:
    """Connections to one address.

    Args:
        tier: Its name, for errors.
        dialer: Makes connections.
        most: How many.
    """

    def __init__(self, tier: str, dialer: Dialer, most: int) -> None:
        self._tier = tier
        self._dialer = dialer
        self._most = most
        self.after_fork()
        _forks.restart_in_child(self)

    def after_fork(self) -> None:
        """Begin without connections: those of the parent are the parent's."""
        self._idle: deque[Link] = deque()
        self._changed = threading.Condition(threading.Lock())
        self._open = 0  # connections, and those that are being made
        self._dialing = 0
        self._waiting = 0
        self._drops = 0
        self._failures = 0
        self._failure: BaseException = ConnectionError()

    def exchange(self, said: bytes, count: int, seconds: float) -> list[Reply]:
        """Say *said* on some connection and return the *count* replies to it, within *seconds*.

        Raises:
            Exception: As `Link.exchange`; or what a connection failed with that was being made.
        """
        deadline = time.monotonic() + seconds
        while True:
            link = self._take(deadline)
            try:
                replies = link.exchange(said, count, deadline)
            except TimeoutError:
                self._lose(link)
                raise
            except OSError:
                self._lose(link)
                if not link.used:
                    raise
                self.drop()  # the server went away: it left the others too
            except BaseException:  # also Ctrl-C: a reply may be under way
                self._lose(link)
                raise
            else:
                self._give_back(link)
                return replies

    def drop(self) -> None:
        """Close the connections that nobody uses at this moment; those that are being made have come too late."""
        self._drops += 1
        while self._idle:
            try:
                link = self._idle.pop()
            except IndexError:
                return
            self._lose(link)

    def _take(self, deadline: float) -> Link:
        try:
            return self._idle.pop()
        except IndexError:
            pass
        with self._changed:
            self._waiting += 1
            try:
                failures = self._failures
                while True:
                    if self._idle:
                        return self._idle.pop()
                    if self._failures != failures:
                        raise self._failure
                    if self._dialing < self._waiting and self._open < self._most:
                        self._dial()
                    if not self._changed.wait(max(0.0, deadline - time.monotonic())) and not self._idle:
                        raise TierTimeoutError(self._tier, "connect", "no connection came up within the budget")
            finally:
                self._waiting -= 1

    def _dial(self) -> None:
        self._open += 1
        self._dialing += 1
        thread = threading.Thread(
            target=self._dialed, args=(self._changed, self._drops), name=f"layered-cache {self._tier} connecting", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:  # too many threads, or the interpreter is on its way out
            self._open -= 1
            self._dialing -= 1
            raise

    def _dialed(self, changed: threading.Condition, drops: int) -> None:
        link, failure = None, None
        try:
            link = self._dialer.link()
        except BaseException as error:  # noqa: BLE001 - whatever it is, who waits has to know
            failure = error
        with changed:
            self._dialing -= 1
            if link is not None and drops != self._drops and not self._waiting:
                self._open -= 1
                link.close()
            elif link is not None:
                self._idle.append(link)
            elif failure is not None:
                self._open -= 1
                self._failures += 1
                self._failure = failure
            changed.notify_all()

    def _give_back(self, link: Link) -> None:
        self._idle.append(link)
        if self._waiting:
            with self._changed:
                self._changed.notify()

    def _lose(self, link: Link) -> None:
        link.close()
        with self._changed:
            self._open -= 1
            if self._waiting:
                self._changed.notify()
