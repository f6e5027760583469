"""Recording of events: each event is counted and sent to the observers here.

Hits are counted elsewhere, because a hit in memory must not pay for an event.
"""

from __future__ import annotations

from layered_cache._engine.availability import Availability, Operation
from layered_cache.errors import TierError
from layered_cache.events import Event, Observers
from layered_cache.stats import Counters


class Teller:
    """Counts events and sends them to the observers."""

    def __init__(self, counters: Counters, observers: Observers, availability: Availability) -> None:
        self._counters = counters
        self._observers = observers
        self._availability = availability

    def __call__(self, event: Event) -> None:
        """Count *event* and send it to the observers."""
        self._counters.note(event)
        if self._observers:
            self._observers(event)

    def tier_failed(self, error: TierError, operation: Operation | None = None) -> None:
        """Record a failure of a tier.

        The event contains the reason that the tier gave. The message of the client library may
        contain stored data, so it is left out. The tier counts as unavailable for *operation*.
        None: the failure shows nothing about the next call.
        """
        self(Event(kind="tier_failed", tier=error.tier, reason=f"{type(error).__name__}: {error.operation}: {error.reason}"))
        if operation is not None:
            self._availability.failed(operation, error)

    def log_failed(self, error: TierError, consequence: str) -> None:
        """Record that the invalidation log could not be read or written.

        The *consequence* for calls is logged.
        """
        self(Event(kind="log_failed", tier=error.tier, reason=f"{type(error).__name__}: {error.operation}: {error.reason}"))
        self._availability.failed("log", error, consequence)

    def succeeded(self, operation: Operation, tier: str) -> None:
        """Record that *operation* of *tier* succeeded, which may end an outage."""
        self._availability.succeeded(operation, tier)

    def dropped(self, count: int, tier: str, reason: str) -> None:
        """Record that *count* writes to *tier* were dropped."""
        self(Event(kind="queue_dropped", tier=tier, count=count, reason=reason))
