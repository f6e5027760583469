"""Guard of background refreshes: one refresh per key at a time, with a pause after a failure."""

from __future__ import annotations

import threading

from layered_cache._util import fork_safety
from layered_cache._util.clocks import Clock

# seconds after which a refresh counts as lost, as if its loop was closed
_LONGEST = 300.0
# seconds after a failed refresh: a model that is down is not called at every hit
_PAUSE = 30.0
_MOST = 10_000


class Refreshes:
    """The refreshes of one process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.after_fork()
        fork_safety.restart_in_child(self)

    def after_fork(self) -> None:
        """Start without refreshes."""
        self._lock = threading.Lock()
        self._not_before: dict[str, float] = {}

    def begin(self, key: str) -> bool:
        """Return True if the caller must refresh *key*. It must call `end` afterwards."""
        now = self._clock.monotonic()
        with self._lock:
            if now < self._not_before.get(key, now):
                return False
            if len(self._not_before) >= _MOST:
                self._not_before = {key: end for key, end in self._not_before.items() if end > now}
                if len(self._not_before) >= _MOST:
                    return False
            self._not_before[key] = now + _LONGEST
            return True

    def end(self, key: str, *, failed: bool) -> None:
        """Record that the refresh of *key* has ended."""
        with self._lock:
            if failed:
                self._not_before[key] = self._clock.monotonic() + _PAUSE
            else:
                self._not_before.pop(key, None)
