"""What callers knew of the invalidation log when they missed, for hosts that look up and store in two calls.

A miss leaves a ticket under (key, caller); the caller's store takes it out, the latest first, as calls nest. So an answer that was
computed before an invalidation and stored after it is known to be void, also for the second of two callers, and the next
caller's answer is not held back by them.

A store without a ticket of its own borrows the oldest one of that key that no other stranger has borrowed, and leaves it for its
owner; else it takes what is known now. The table is bounded: if a ticket had to be dropped, stores without one are born as early as it
for as long as it would have been good.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

from layered_cache import _forks
from layered_cache.clocks import Clock
from layered_cache.entry import Ticket

MOST = 20_000
GOOD_FOR = 3600.0  # seconds: longer than any computation


@dataclass(slots=True)
class _Left:
    caller: object
    ticket: Ticket
    at: float
    borrowed: bool = False


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
        self._by_key: OrderedDict[str, list[_Left]] = OrderedDict()  # keys in the order in which they were last missed
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
            while self._count > self._most or self._oldest_is_old(now):
                self._drop_oldest(now)

    def take(self, key: str, caller: object) -> tuple[Ticket, float] | None:
        """Return what *caller*'s answer to *key* is born with, and how many seconds ago it was asked for.

        None: the caller knew no less than what is known now.
        """
        now = self._clock.monotonic()
        with self._lock:
            left = self._by_key.get(key, [])
            mine = [one for one in left if one.caller == caller]
            if mine:
                left.remove(mine[-1])
                self._count -= 1
                if not left:
                    del self._by_key[key]
                taken: _Left | None = mine[-1]
            elif (taken := next((one for one in left if not one.borrowed), None)) is not None:
                taken.borrowed = True
            if taken is not None and now - taken.at <= GOOD_FOR:
                return taken.ticket, now - taken.at
            if self._dropped is not None and now < self._dropped_until:
                return self._dropped, 0.0
            return None

    def _oldest_is_old(self, now: float) -> bool:
        return bool(self._by_key) and now - next(iter(self._by_key.values()))[0].at > GOOD_FOR

    def _drop_oldest(self, now: float) -> None:
        """Forget the oldest ticket of the key that was missed longest ago."""
        key, left = next(iter(self._by_key.items()))
        gone = left.pop(0)
        self._count -= 1
        if not left:
            del self._by_key[key]
        if (good_until := gone.at + GOOD_FOR) > now:
            known = self._dropped if now < self._dropped_until else None
            self._dropped = gone.ticket if known is None else min(known, gone.ticket)
            self._dropped_until = max(self._dropped_until, good_until)
