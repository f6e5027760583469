"""What callers knew of the invalidation log when they missed, for hosts that look up and store in two calls.

A miss leaves a ticket under (key, caller); the caller's store takes it out, the latest first, as calls nest. So an answer that was
computed before an invalidation and stored after it is known to be void, also for the second of two callers, and the next
caller's answer is not held back by them.

A store without a ticket of its own takes the oldest one of that key, else what is known now. The table is bounded: if a ticket had
to be dropped, stores without one are born as early as it for as long as it would have been good.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import NamedTuple

from layered_cache import _forks
from layered_cache.clocks import Clock
from layered_cache.entry import Ticket

MOST = 20_000
GOOD_FOR = 3600.0  # seconds: longer than any computation


class _Left(NamedTuple):
    caller: object
    ticket: Ticket
    at: float


class Tickets:
    """The tickets of one process."""

    def __init__(self, clock: Clock, *, most: int = MOST) -> None:
        self._clock = clock
        self._most = most
        self.after_fork()
        _forks.restart_in_child(self)

    def after_fork(self) -> None:
        """Begin without tickets."""
        self._lock = threading.Lock()
        self._by_key: OrderedDict[str, list[_Left]] = OrderedDict()
        self._count = 0
        self._dropped: Ticket | None = None
        self._dropped_until = 0.0

    def leave(self, key: str, caller: object, ticket: Ticket) -> None:
        """Note that *caller* missed *key* when the log was at *ticket*."""
        now = self._clock.monotonic()
        with self._lock:
            self._by_key.setdefault(key, []).append(_Left(caller, ticket, now))
            self._by_key.move_to_end(key)
            self._count += 1
            while self._count > self._most or now - next(iter(self._by_key.values()))[-1].at > GOOD_FOR:
                self._drop_oldest(now)

    def take(self, key: str, caller: object) -> tuple[Ticket, float] | None:
        """Take out what *caller*'s answer to *key* is born with, and how many seconds ago it was asked for.

        None: the caller knew no less than what is known now.
        """
        now = self._clock.monotonic()
        with self._lock:
            if left := self._by_key.get(key):
                mine = [index for index, one in enumerate(left) if one.caller == caller]
                taken = left.pop(mine[-1] if mine else 0)
                self._count -= 1
                if not left:
                    del self._by_key[key]
                if now - taken.at <= GOOD_FOR:
                    return taken.ticket, now - taken.at
            if self._dropped is not None and now < self._dropped_until:
                return self._dropped, 0.0
            return None

    def _drop_oldest(self, now: float) -> None:
        """Forget the tickets of the key that was missed longest ago."""
        _, left = self._by_key.popitem(last=False)
        self._count -= len(left)
        for one in left:
            if (good_until := one.at + GOOD_FOR) > now:
                known = self._dropped if now < self._dropped_until else None
                self._dropped = one.ticket if known is None else min(known, one.ticket)
                self._dropped_until = max(self._dropped_until, good_until)
