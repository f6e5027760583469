"""The options of the caller and the log position at the time when LangGraph looked a task up.

LangGraph reads the cache once or several times before and during a task. It writes the result from any thread or task and in any
context, so the context of the write may be that of another caller. But it passes the same key object to both, which identifies the
task.

For equal tasks of one step, LangGraph reads with one key object only. Writes with an equal key use the options of that read. If
callers with different options have read the key, the writes are not stored.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

from langgraph.cache.base import FullKey
from layered_cache import CallOptions
from layered_cache.adapters.common import restart_in_child
from layered_cache.entry import Ticket

from langchain_layered_cache._callbacks.graph_runs import Resumed

# the bounds: keys, and tasks of one key
_MOST = 10_000
_OF_EACH = 64


class Asker(NamedTuple):
    """The caller that asked for a key: its options, the notes of its run, and the digest of the node's code."""

    options: CallOptions
    resumed: Resumed | None = None
    code: str | None = None


class Birth(NamedTuple):
    """The caller of a task (None: its writes are not stored), the log position at its lookup, and the seconds since."""

    asker: Asker | None
    ticket: Ticket | None = None
    seconds: float | None = None


@dataclass(slots=True)
class _Asked:
    name: str  # kept alive, so that no other object gets its address
    asker: Asker | None
    ticket: Ticket | None
    at: float
    taken: bool = False


class Births:
    """The lookups of the tasks of this process."""

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self.after_fork()
        restart_in_child(self)

    def after_fork(self) -> None:
        """Start without entries: a task ends in the process that started it."""
        self._lock = threading.Lock()
        self._by_key: OrderedDict[FullKey, list[_Asked]] = OrderedDict()

    def note(self, key: FullKey, asker: Asker | None, ticket: Ticket | None) -> None:
        """Record that *asker* missed *key* when the log was at *ticket*. The first miss of a task counts."""
        asked = _Asked(key[1], asker, ticket, time.monotonic())
        with self._lock:
            known = self._by_key.setdefault(key, [])
            self._by_key.move_to_end(key)
            place = _place_of(key, known)
            if place is None:
                known.append(asked)
                del known[:-_OF_EACH]
            elif known[place].taken:
                known[place] = asked
            if len(self._by_key) > self._most:
                self._by_key.popitem(last=False)

    def take(self, key: FullKey) -> Birth | None:
        """Return the birth of the writes under *key*; None if the key was not looked up."""
        with self._lock:
            if not (known := self._by_key.get(key)):
                return None
            place = _place_of(key, known)
            if place is not None:
                mine = known[place]
            elif all(one.asker == known[0].asker for one in known):
                mine = next((one for one in known if not one.taken), known[-1])
            else:
                return Birth(None)
            mine.taken = True
            return Birth(mine.asker, mine.ticket, time.monotonic() - mine.at)


def _place_of(key: FullKey, known: list[_Asked]) -> int | None:
    return next((place for place, one in enumerate(known) if one.name is key[1]), None)
