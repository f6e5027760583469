"""State of the tiers and of the invalidation log: available, or unavailable since when and why.

A part becomes unavailable at its first failure, or at the third of successive timeouts: a single
slow call is no outage. It becomes available at the next success of the same operation. Each change
is logged once. The log messages hold the names of tiers and the reasons of
`TierError`, which never hold a prompt, an answer or a password.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from layered_cache._util import fork_safety
from layered_cache._util.clocks import Clock
from layered_cache.errors import TierError, TierTimeoutError

_log = logging.getLogger("layered_cache")

# successive timeouts until a part counts as unavailable
_TIMEOUTS = 3

Operation: TypeAlias = Literal["read", "write", "log"]
"""`log` is the invalidation log, which a tier may fail to serve although entries can be read."""


@dataclass
class _Outage:
    # monotonic seconds
    since: float
    reason: str
    operations: set[Operation] = field(default_factory=set[Operation])


class Availability:
    """The outages of one engine.

    Args:
        clock: The engine's clock.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # by tier
        self._outages: dict[str, _Outage] = {}
        self._timeouts: Counter[tuple[str, Operation]] = Counter()
        self.after_fork()
        fork_safety.restart_in_child(self)

    def after_fork(self) -> None:
        """Start with a new lock."""
        self._lock = threading.Lock()

    def failed(self, operation: Operation, error: TierError, consequence: str = "calls continue without it") -> None:
        """Record that *operation* failed.

        If its tier was available until now, a warning with the *consequence* is logged.
        """
        reason = f"{error.operation}: {error.reason}"
        with self._lock:
            if isinstance(error, TierTimeoutError):
                self._timeouts[error.tier, operation] += 1
                if self._timeouts[error.tier, operation] < _TIMEOUTS:
                    return
            outage = self._outages.setdefault(error.tier, _Outage(self._clock.monotonic(), reason))
            known = bool(outage.operations)
            log_was_available = "log" not in outage.operations
            outage.operations.add(operation)
        if operation == "log":
            if log_was_available:
                _log.warning("invalidation log unavailable, %s: tier=%s reason=%s", consequence, error.tier, reason)
        elif not known or outage.operations == {"log", operation}:
            _log.warning("tier unavailable, %s: tier=%s reason=%s", consequence, error.tier, reason)

    def succeeded(self, operation: Operation, tier: str) -> None:
        """Record that *operation* succeeded, and log the end of an outage.

        No lock is taken without an outage.
        """
        if not (self._timeouts or tier in self._outages):
            return
        with self._lock:
            self._timeouts.pop((tier, operation), None)
            outage = self._outages.get(tier)
            if outage is None or operation not in outage.operations:
                return
            outage.operations.discard(operation)
            seconds = self._clock.monotonic() - outage.since
            if not outage.operations:
                del self._outages[tier]
            entries_unavailable = not outage.operations.isdisjoint({"read", "write"})
        if operation == "log":
            _log.info("invalidation log available again: tier=%s after_seconds=%.1f", tier, seconds)
        elif not entries_unavailable:
            _log.info("tier available again: tier=%s after_seconds=%.1f", tier, seconds)

    def states(self) -> Mapping[str, str]:
        """Return the tiers that are unavailable, each with its state in words."""
        now = self._clock.monotonic()
        with self._lock:
            return {
                tier: f"unavailable for {max(0.0, now - outage.since):.0f} s ({outage.reason})" for tier, outage in self._outages.items()
            }
