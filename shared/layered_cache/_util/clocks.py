"""The wall clock for stored times, and a monotonic clock for waiting and for ages.

The monotonic clock also runs while the machine sleeps, if the platform has such a clock. So a
laptop that wakes up reads the invalidation log before it serves an entry.
"""

from __future__ import annotations

import functools
import time
from typing import Protocol


class Clock(Protocol):
    """The clock of the engine and the tiers."""

    runs_by_itself: bool
    """True if time passes without a call.

    In a test it does not, and then no background thread runs.
    """

    def time(self) -> float:
        """Return Unix seconds."""
        ...

    def monotonic(self) -> float:
        """Return monotonic seconds, never less than before."""
        ...


_since_boot = functools.partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic


class SystemClock:
    """The clocks of this machine."""

    runs_by_itself = True
    time = staticmethod(time.time)
    monotonic = staticmethod(_since_boot)


SYSTEM_CLOCK = SystemClock()
