"""What was known of the invalidation log when LangGraph asked for a task's writes: the birth of what that task writes.

LangGraph asks once or several times before and while a task runs, and hands over what it wrote from another thread or task, so who calls
says nothing. But it hands over the very same key object, made for this task, which does.

A key that was not asked for by that very object, or too long ago, has no birth here; then the engine's own table of misses decides.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import NamedTuple

from langgraph.cache.base import FullKey
from layered_cache.entry import Ticket

_MOST = 10_000  # tasks that run, or have failed


class Birth(NamedTuple):
    """What was known of the log when a task was asked for, and how many seconds ago that was."""

    ticket: Ticket | None = None
    seconds: float | None = None


class Births:
    """The births of one process's running tasks."""

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._by_object: OrderedDict[tuple[int, FullKey], tuple[Ticket, float]] = (
            OrderedDict()
        )  # it holds the objects: no other has their address

    def note(self, key: FullKey, ticket: Ticket) -> None:
        """Note that *key* was missed when the log was at *ticket*; what was noted first holds."""
        with self._lock:
            self._by_object.setdefault((id(key[1]), key), (ticket, time.monotonic()))
            if len(self._by_object) > self._most:
                self._by_object.popitem(last=False)

    def take(self, key: FullKey) -> Birth:
        """Return the birth of what is to be stored under *key*, once; an empty one if none is known."""
        with self._lock:
            noted = self._by_object.pop((id(key[1]), key), None)
        return Birth() if noted is None else Birth(noted[0], time.monotonic() - noted[1])
