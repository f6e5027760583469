"""Log positions at the time of a miss, for hosts that look up and store in two calls.

A miss leaves a ticket, the current log position, under (key, caller). The caller's store takes the
ticket out again, the latest one first, since calls nest. So an answer that was computed before an
invalidation and stored after it is recognized as void. This holds for the second of two callers
too, and it does not affect the answer of the next caller.

A store without a ticket borrows the oldest ticket of the key that is not borrowed yet, and leaves
it for its owner. If there is none, it uses the current log position. The table is bounded. After a
ticket was dropped, stores without a ticket use the position of the dropped one, for as long as that
ticket would have been valid.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

from layered_cache._util import fork_safety
from layered_cache._util.clocks import Clock
from layered_cache.entry import Ticket

MOST = 20_000
# seconds: longer than any computation
GOOD_FOR = 3600.0


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
        fork_safety.restart_in_child(self)

    def after_fork(self) -> None:
        """Start without tickets."""
        self._lock = threading.Lock()
        # keys in the order of their last miss
        self._by_key: OrderedDict[str, list[_Left]] = OrderedDict()
        self._count = 0
        self._dropped: Ticket | None = None
        self._dropped_until = 0.0

    def leave(self, key: str, caller: object, ticket: Ticket) -> None:
        """Record that *caller* missed *key* when the log was at *ticket*."""
        now = self._clock.monotonic()
        with self._lock:
            self._by_key.setdefault(key, []).append(_Left(caller, ticket, now))
            self._by_key.move_to_end(key)
            self._count += 1
            while self._count > self._most or self._oldest_is_old(now):
                self._drop_oldest(now)

    def take(self, key: str, caller: object) -> tuple[Ticket, float] | None:
        """Return the log position for *caller*'s answer to *key*, and its age in seconds.

        None means that the current log position applies.
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
        """Drop the oldest ticket of the key with the oldest miss."""
        key, left = next(iter(self._by_key.items()))
        gone = left.pop(0)
        self._count -= 1
        if not left:
            del self._by_key[key]
        if (good_until := gone.at + GOOD_FOR) > now:
            known = self._dropped if now < self._dropped_until else None
            self._dropped = gone.ticket if known is None else min(known, gone.ticket)
            self._dropped_until = max(self._dropped_until, good_until)
