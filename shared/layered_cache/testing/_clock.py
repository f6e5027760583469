"""A clock that only a test moves forward."""

from __future__ import annotations


class FakeClock:
    """A wall clock and a monotonic clock. Pass it to `TieredCache(clock=...)` and to the tiers.

    Args:
        now: The start of the wall clock, in Unix seconds.
    """

    runs_by_itself = False

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self._wall = now
        self._since = 1000.0

    def time(self) -> float:
        """Return Unix seconds."""
        return self._wall

    def monotonic(self) -> float:
        """Return monotonic seconds."""
        return self._since

    def advance(self, seconds: float) -> None:
        """Move both clocks forward by *seconds*."""
        self._wall += seconds
        self._since += seconds

    def jump(self, seconds: float) -> None:
        """Move only the wall clock by *seconds*, forward or back."""
        self._wall += seconds
