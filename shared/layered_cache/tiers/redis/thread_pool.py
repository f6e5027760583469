"""The connection pool for threads. A call takes the connection that was used last.

If there is none, the call waits for one within its timeout. Connections are opened in separate
threads, which may take longer than a call waits. A later call then finds the connection. A
connection that fails is closed and never used again. If it had worked before, the server was
restarted, so the call is retried once on a new connection.
"""

from __future__ import annotations

import threading
import time
from collections import deque

from layered_cache._util import fork_safety
from layered_cache.errors import TierTimeoutError
from layered_cache.tiers.redis.connect import Dialer, Link
from layered_cache.tiers.redis.resp import Reply


class Pool:
    """Connections to one address.

    Args:
        tier: The tier name in errors.
        dialer: Opens connections.
        most: The maximum number of connections.
    """

    def __init__(self, tier: str, dialer: Dialer, most: int) -> None:
        self._tier = tier
        self._dialer = dialer
        self._most = most
        self.after_fork()
        fork_safety.restart_in_child(self)

    def after_fork(self) -> None:
        """Start without connections: those of the parent belong to the parent."""
        self._idle: deque[Link] = deque()
        self._changed = threading.Condition(threading.Lock())
        # open connections, including those that are being opened
        self._open = 0
        self._dialing = 0
        self._waiting = 0
        self._drops = 0
        self._failures = 0
        self._failure: BaseException = ConnectionError()

    def exchange(self, said: bytes, count: int, seconds: float) -> list[Reply]:
        """Send the bytes on a connection and return the *count* replies within *seconds*.

        Raises:
            Exception: As `Link.exchange`, or the error of a connection that was being opened.
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
                # the server restarted, so the other connections are lost too
                self.drop()
            except BaseException:
                # also after Ctrl-C, because a reply may still arrive
                self._lose(link)
                raise
            else:
                self._give_back(link)
                return replies

    def drop(self) -> None:
        """Close the idle connections. Connections that are being opened are not kept either."""
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
                        raise TierTimeoutError(self._tier, "connect", "no connection was opened within the timeout")
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
        except RuntimeError:
            # too many threads, or the interpreter is shutting down
            self._open -= 1
            self._dialing -= 1
            raise

    def _dialed(self, changed: threading.Condition, drops: int) -> None:
        link, failure = None, None
        try:
            link = self._dialer.link()
        except BaseException as error:  # noqa: BLE001 - the waiting callers need every error
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
