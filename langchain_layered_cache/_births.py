"""What was so when LangGraph asked for a task's writes: what the caller had said, and what was known of the invalidation log.

LangGraph asks once or several times before and while a task runs, and hands over what it wrote from any thread or task and in any
context; so who calls says nothing, and what the context says may be another caller's, or nothing at all. But it hands over the very key
object that it made for this task, which tells them all apart.

Of equal tasks of one step LangGraph asks by one object only. The others' writes go by what was so for an equal key, if that is beyond
doubt; if two callers of different options have asked for it, they are not kept.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

from langgraph.cache.base import FullKey
from layered_cache import CallOptions
from layered_cache.adapting import restart_in_child
from layered_cache.entry import Ticket

from langchain_layered_cache._chains import Resumed

_MOST = 10_000  # keys
_OF_EACH = 64  # tasks


class Asker(NamedTuple):
    """The caller that asked for a key: its options, the notes of its run, and the digest of the node's code."""

    options: CallOptions
    resumed: Resumed | None = None
    code: str | None = None


class Birth(NamedTuple):
    """The caller that a task's writes belong to (None: they are not kept), the state of the log at its lookup, and the seconds since."""

    asker: Asker | None
    ticket: Ticket | None = None
    seconds: float | None = None


@dataclass(slots=True)
class _Asked:
    name: str  # held, so that no other object has its address
    asker: Asker | None
    ticket: Ticket | None
    at: float
    taken: bool = False


class Births:
    """The births of one process's tasks."""

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self.after_fork()
        restart_in_child(self)

    def after_fork(self) -> None:
        """Begin without births: a task goes on in the process that has begun it."""
        self._lock = threading.Lock()
        self._by_key: OrderedDict[FullKey, list[_Asked]] = OrderedDict()

    def note(self, key: FullKey, asker: Asker | None, ticket: Ticket | None) -> None:
        """Note that *asker* missed *key* when the log was at *ticket*; of one task, the first time holds."""
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
        """Return the birth of what is to be stored under *key*; None if nobody has asked for it."""
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
