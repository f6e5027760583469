"""Time that passes only when it is told to."""

from __future__ import annotations


class FakeClock:
    """Both clocks of a cache. Give it to `TieredCache(clock=...)` and to the tiers.

    Args:
        now: Unix seconds to begin with.
    """

    runs_by_itself = False

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self._wall = now
        self._since = 1000.0

    def time(self) -> float:
        """Return Unix seconds."""
        return self._wall

    def monotonic(self) -> float:
        """Return seconds since some moment."""
        return self._since

    def advance(self, seconds: float) -> None:
        """Let *seconds* pass, on both clocks."""
        self._wall += seconds
        self._since += seconds

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward, or back, by *seconds*; no time passes."""
        self._wall += seconds
