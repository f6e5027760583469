"""Where the engine's parts report: every event is counted here and told to the observers, in one place.

Only hits are counted elsewhere: one in memory must not cost an event.
"""

from __future__ import annotations

from layered_cache._engine.availability import Availability, Operation
from layered_cache.errors import TierError
from layered_cache.events import Event, Observers
from layered_cache.stats import Counters


class Teller:
    """Counts and tells."""

    def __init__(self, counters: Counters, observers: Observers, availability: Availability) -> None:
        self._counters = counters
        self._observers = observers
        self._availability = availability

    def __call__(self, event: Event) -> None:
        """Count *event* and tell the observers of it."""
        self._counters.note(event)
        if self._observers:
            self._observers(event)

    def tier_failed(self, error: TierError, operation: Operation | None = None) -> None:
        """Record that a tier failed, with the reason of the tier. The client's own message may hold stored data.

        The tier counts as unavailable for *operation*. None: the failure shows nothing about the next call.
        """
        self(Event(kind="tier_failed", tier=error.tier, reason=f"{type(error).__name__}: {error.operation}: {error.reason}"))
        if operation is not None:
            self._availability.failed(operation, error)

    def log_failed(self, error: TierError, consequence: str) -> None:
        """Record that the invalidation log could not be read or written, with the *consequence* for calls."""
        self(Event(kind="log_failed", tier=error.tier, reason=f"{type(error).__name__}: {error.operation}: {error.reason}"))
        self._availability.failed("log", error, consequence)

    def succeeded(self, operation: Operation, tier: str) -> None:
        """Record that *operation* of *tier* succeeded, which may end an outage."""
        self._availability.succeeded(operation, tier)

    def dropped(self, count: int, tier: str, reason: str) -> None:
        """Note that *count* writes to *tier* were given up."""
        self(Event(kind="queue_dropped", tier=tier, count=count, reason=reason))
