"""What happened, and who is told.

An observer is any callable that takes an `Event`. It is called inline, in the thread or task where it happened; what it raises
is swallowed and counted, for an observer must not break a read. Events hold no prompt, no answer and no secret.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

EventKind = Literal[
    "hit",  # a tier had the answer
    "miss",  # no tier had it
    "stored",  # an answer went to the tiers
    "not_stored",  # an answer was not kept; reason says why
    "tier_failed",  # a tier failed at a read, a write or a removal, and counted as empty
    "refused",  # stored bytes were no entry: corrupt, foreign, or of an unknown version
    "undecodable",  # an adapter could not read a stored value: a miss
    "uncacheable",  # no exact key can be made of a request; reason names the parameter
    "invalidated",  # a rule was written
    "served_unverified",  # a hit while the invalidation log could not be read
    "log_failed",  # the invalidation log could not be read or written
    "authority_conflict",  # a tier that is shared was last used with another invalidation log
    "log_restarted",  # the log was lost or came back older: everything starts cold, once
    "queue_dropped",  # writes were given up: the background queue was full, or the process ended
    "adapter_failed",  # an adapter stumbled over something that nobody foresaw: a miss, and a defect to report
    "refresh_failed",  # a stale entry could not be refreshed in the background; reason names the error
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened. Fields that do not apply are None."""

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
    """Those who are told, in the order they were given."""

    def __init__(self, observers: Iterable[Observer] = ()) -> None:
        self._observers = tuple(observers)
        self._failures = itertools.count()
        self._failed = 0

    def __bool__(self) -> bool:
        return bool(self._observers)

    @property
    def failures(self) -> int:
        """How many calls of observers have raised."""
        return self._failed

    def __call__(self, event: Event) -> None:
        """Tell everyone of *event*."""
        for observer in self._observers:
            try:
                observer(event)
            except Exception:  # noqa: BLE001 - whatever it is, it must not break the caller's read
                self._failed = next(self._failures) + 1
