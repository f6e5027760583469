"""Events, and the observers that receive them.

An observer is any callable that takes an `Event`. It is called in the thread or task of the event.
Its errors are caught and counted, because an observer must not break a read. Events contain no
prompt, no answer and no secret.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

EventKind = Literal[
    # a tier had the answer
    "hit",
    # no tier had the answer
    "miss",
    # an answer was passed to the tiers
    "stored",
    # an answer was not stored; see the reason
    "not_stored",
    # a tier failed in a read, a write or an erasure, and counted as empty
    "tier_failed",
    # stored bytes were not an entry: corrupt, foreign, or of an unknown version
    "refused",
    # an adapter could not decode a stored value: a miss
    "undecodable",
    # a request has no exact key; the reason names the parameter
    "uncacheable",
    # a rule was written
    "invalidated",
    # a hit while the invalidation log could not be read
    "served_unverified",
    # the invalidation log could not be read or written
    "log_failed",
    # a shared tier was last used with another invalidation log
    "authority_conflict",
    # the log was lost or restored from an older state: all entries are void once
    "log_restarted",
    # writes were dropped: the background queue was full, or the process ended
    "queue_dropped",
    # an unexpected error in an adapter: a miss, and a defect to report
    "adapter_failed",
    # a stale entry could not be refreshed in the background; the reason names the error
    "refresh_failed",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event. Fields that do not apply are None."""

    kind: EventKind
    tier: str | None = None
    key: str | None = None
    namespace: str | None = None
    model: str | None = None
    reason: str | None = None
    count: int = 1
    age_seconds: float | None = None
    saved_usd: float | None = None
    saved_tokens: int | None = None
    saved_seconds: float | None = None


Observer: TypeAlias = Callable[[Event], object]


class Observers:
    """The observers of a cache, in the given order."""

    def __init__(self, observers: Iterable[Observer] = ()) -> None:
        self._observers = tuple(observers)
        self._failures = itertools.count()
        self._failed = 0

    def __bool__(self) -> bool:
        return bool(self._observers)

    @property
    def failures(self) -> int:
        """The number of observer calls that raised an error."""
        return self._failed

    def __call__(self, event: Event) -> None:
        """Send *event* to all observers."""
        for observer in self._observers:
            try:
                observer(event)
            except Exception:  # noqa: BLE001
                # an error of an observer must not break the caller's read
                self._failed = next(self._failures) + 1
