"""Counters of one cache in one process.

Every lookup is a hit or a miss. If a tier fails, the lookup counts for the tier where it ended.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from layered_cache._storage.envelope import savings
from layered_cache._util import fork_safety
from layered_cache.entry import Savings
from layered_cache.events import Event

TAPE = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """A snapshot of the counters.

    Savings are the tokens, dollars and seconds that the answers of the hits took when they were
    computed, as far as they are known. `not_stored` is counted by reason. `undecodable` counts hits
    that an adapter could not decode, which are misses for the caller.
    """

    hits_by_tier: Mapping[str, int] = field(default_factory=dict[str, int])
    misses: int = 0
    stored: int = 0
    not_stored: Mapping[str, int] = field(default_factory=dict[str, int])
    void: int = 0
    refused: int = 0
    undecodable: int = 0
    uncacheable: int = 0
    served_unverified: int = 0
    tier_failures: Mapping[str, int] = field(default_factory=dict[str, int])
    log_failures: int = 0
    unavailable: Mapping[str, str] = field(default_factory=dict[str, str])
    queued: int = 0
    dropped: int = 0
    evicted: int = 0
    observer_failures: int = 0
    saved_tokens: int = 0
    saved_usd: float = 0.0
    saved_seconds: float = 0.0

    @property
    def hits(self) -> int:
        """The number of lookups that a tier answered."""
        return sum(self.hits_by_tier.values())

    @property
    def lookups(self) -> int:
        """The number of hits and misses."""
        return self.hits + self.misses

    @property
    def hit_rate(self) -> float:
        """The share of hits in all lookups, from 0 to 1."""
        return self.hits / self.lookups if self.lookups else 0.0


class Counters:
    """The counters of one cache.

    A hit in memory must cost almost nothing. So the engine only appends the facts of the entry to
    the tape, which needs no lock. When the tape has `TAPE` items, they are added up.
    """

    def __init__(self, local: str | None) -> None:
        self.tape: deque[bytes] = deque()
        self._local = local
        self._hits: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()
        self._tokens, self._usd, self._seconds = 0, 0.0, 0.0
        self.after_fork()
        fork_safety.restart_in_child(self)

    def after_fork(self) -> None:
        """Create a new lock."""
        self._lock = threading.Lock()

    def hit(self, tier: str, saved: Savings) -> None:
        """Count a hit of *tier*."""
        with self._lock:
            self._add(tier, saved, 1)

    def void(self) -> None:
        """Count a void entry that was found."""
        with self._lock:
            self._counts["void"] += 1

    def note(self, event: Event) -> None:
        """Count *event*. Hits are counted by the methods above."""
        detail = event.reason if event.kind == "not_stored" else event.tier if event.kind == "tier_failed" else None
        with self._lock:
            self._counts[event.kind if detail is None else f"{event.kind} {detail}"] += event.count

    def _add(self, tier: str, saved: Savings, hits: int) -> None:
        tokens, usd, seconds = saved
        self._hits[tier] += hits
        self._tokens += tokens * hits
        self._usd += usd * hits
        self._seconds += seconds * hits

    def read_tape(self) -> None:
        """Add up the hits on the tape."""
        with self._lock:
            tape, read = self.tape, len(self.tape)
            # The same entry is hit many times, so the items are counted first and parsed once.
            for facts, hits in Counter(tape.popleft() for _ in range(read)).items():
                self._add(self._local or "", savings(facts), hits)

    @property
    def uses(self) -> int:
        """A number that changes with every lookup."""
        with self._lock:
            return len(self.tape) + self._hits.total() + self._counts["miss"]

    def snapshot(self, *, queued: int, evicted: int, observer_failures: int, unavailable: Mapping[str, str]) -> Stats:
        """Return a snapshot of the counters."""
        self.read_tape()
        with self._lock:
            counts, hits = Counter(self._counts), dict(self._hits)
            saved = Savings(self._tokens, self._usd, self._seconds)
        return Stats(
            hits_by_tier=hits,
            misses=counts["miss"],
            stored=counts["stored"],
            not_stored=_named(counts, "not_stored "),
            void=counts["void"],
            refused=counts["refused"],
            undecodable=counts["undecodable"],
            uncacheable=counts["uncacheable"],
            served_unverified=counts["served_unverified"],
            tier_failures=_named(counts, "tier_failed "),
            log_failures=counts["log_failed"],
            unavailable=unavailable,
            queued=queued,
            dropped=counts["queue_dropped"],
            evicted=evicted,
            observer_failures=observer_failures,
            saved_tokens=saved.tokens,
            saved_usd=saved.cost_usd,
            saved_seconds=saved.seconds,
        )


def _named(counts: Counter[str], prefix: str) -> dict[str, int]:
    return {name.removeprefix(prefix): number for name, number in counts.items() if name.startswith(prefix)}
