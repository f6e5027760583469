"""How well it went: counters of one cache in one process, and what they add up to.

Hits and misses add up to lookups; a failing tier's lookup counts where it ended.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from layered_cache import _forks
from layered_cache.entry import Savings
from layered_cache.events import Event
from layered_cache.wire import savings

TAPE = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """A snapshot.

    What was saved is what the hits' answers took when they were computed, as far as it is known. `not_stored` is by reason,
    `undecodable` counts hits that an adapter could not read (misses for its caller).
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
        """Lookups that a tier answered."""
        return sum(self.hits_by_tier.values())

    @property
    def lookups(self) -> int:
        """Hits and misses."""
        return self.hits + self.misses

    @property
    def hit_rate(self) -> float:
        """Hits per lookup, from 0 to 1."""
        return self.hits / self.lookups if self.lookups else 0.0


class Counters:
    """Counts for one cache.

    A hit in memory must cost nothing: the engine puts the facts of its entry on the tape (one append, which needs no lock), and has
    them added up when there are as many as `TAPE`.
    """

    def __init__(self, local: str | None) -> None:
        self.tape: deque[bytes] = deque()
        self._local = local
        self._hits: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()
        self._tokens, self._usd, self._seconds = 0, 0.0, 0.0
        self.after_fork()
        _forks.restart_in_child(self)

    def after_fork(self) -> None:
        """Go on with a new lock."""
        self._lock = threading.Lock()

    def hit(self, tier: str, saved: Savings) -> None:
        """Count a hit of *tier*."""
        with self._lock:
            self._add(tier, saved, 1)

    def void(self) -> None:
        """Count an entry that was found and was void."""
        with self._lock:
            self._counts["void"] += 1

    def note(self, event: Event) -> None:
        """Count *event*; hits are counted by the methods above."""
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
        """Add up what is on the tape."""
        with self._lock:
            tape, read = self.tape, len(self.tape)
            # the same entry is hit again and again: count first, read the facts once
            for facts, hits in Counter(tape.popleft() for _ in range(read)).items():
                self._add(self._local or "", savings(facts), hits)

    @property
    def uses(self) -> int:
        """A number that changes with every lookup."""
        with self._lock:
            return len(self.tape) + self._hits.total() + self._counts["miss"]

    def snapshot(self, *, queued: int, evicted: int, observer_failures: int, unavailable: Mapping[str, str]) -> Stats:
        """Return what was counted so far."""
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
