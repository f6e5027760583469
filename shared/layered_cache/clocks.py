"""Two clocks: the wall clock for what is stored, a monotonic one for waiting and for how long ago something was.

The monotonic clock runs while the machine sleeps (where the platform has such a clock), so that a laptop that wakes up looks at
the invalidation log before it serves.
"""

from __future__ import annotations

import functools
import time
from typing import Protocol


class Clock(Protocol):
    """The time, as the engine and the tiers see it."""

    runs_by_itself: bool
    """Whether time passes without anyone's doing; in a test it does not, and then nothing runs in the background."""

    def time(self) -> float:
        """Return Unix seconds."""
        ...

    def monotonic(self) -> float:
        """Return seconds since some moment, never fewer than before."""
        ...


_since_boot = functools.partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic


class SystemClock:
    """The clocks of this machine."""

    runs_by_itself = True
    time = staticmethod(time.time)
    monotonic = staticmethod(_since_boot)


SYSTEM_CLOCK = SystemClock()
