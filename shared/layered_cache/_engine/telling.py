"""Where the engine's parts report: every event is counted here and told to the observers, in one place.

Only hits are counted elsewhere: one in memory must not cost an event.
"""

from __future__ import annotations

from layered_cache.errors import TierError
from layered_cache.events import Event, Observers
from layered_cache.stats import Counters


class Teller:
    """Counts and tells."""

    def __init__(self, counters: Counters, observers: Observers) -> None:
        self._counters = counters
        self._observers = observers

    def __call__(self, event: Event) -> None:
        """Count *event* and tell the observers of it."""
        self._counters.note(event)
        if self._observers:
            self._observers(event)

    def tier_failed(self, error: TierError) -> None:
        """Note that a tier failed: what the tier made of it, not the client's own message, which may say too much."""
        self(Event(kind="tier_failed", tier=error.tier, reason=f"{type(error).__name__}: {error.operation}: {error.reason}"))

    def dropped(self, count: int, tier: str, reason: str) -> None:
        """Note that *count* writes to *tier* were given up."""
        self(Event(kind="queue_dropped", tier=tier, count=count, reason=reason))
