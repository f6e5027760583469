"""Which stale entries are being refreshed: each by one caller at a time, and after a failure not again for a while."""

from __future__ import annotations

import threading

from layered_cache import _forks
from layered_cache.clocks import Clock

_LONGEST = 300.0  # seconds: then it is taken for lost, as one is whose loop was closed around it
_PAUSE = 30.0  # seconds after a failed refresh: a model that is down is not asked at every hit
_MOST = 10_000


class Refreshes:
    """The refreshes of one process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.after_fork()
        _forks.restart_in_child(self)

    def after_fork(self) -> None:
        """Begin with none under way."""
        self._lock = threading.Lock()
        self._not_before: dict[str, float] = {}

    def begin(self, key: str) -> bool:
        """Whether the caller shall refresh *key*; it then has to call `end`."""
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
        """Note that the refresh of *key* has ended."""
        with self._lock:
            if failed:
                self._not_before[key] = self._clock.monotonic() + _PAUSE
            else:
                self._not_before.pop(key, None)
