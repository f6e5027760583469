"""`memory://`: answers in this process, bounded in bytes, read without a lock.

Eviction is S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023): new keys enter a small queue; who
is asked for again while there moves to the main queue, the others leave and are remembered as ghosts; a ghost that returns goes
to the main queue at once. So one-hit wonders, most of an LLM's traffic, do not push out what is asked every day.

A slot is a plain tuple of immutable things and the value is trimmed bytes, so the garbage collector has nothing to visit and no
two callers share an object. A key that is deleted keeps its place in its queue, empty, until its turn to leave comes: so each
key stands in exactly one queue, once.

Each slot says at which view of the invalidation log it was last found good; a reader at another view has to check it again.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from layered_cache import _forks
from layered_cache.clocks import SYSTEM_CLOCK, Clock
from layered_cache.entry import Entry, Refused
from layered_cache.errors import ConfigurationError
from layered_cache.keys import key_prefix
from layered_cache.tiers._tier import Page, Position, Slot, SlotTexts, slot_entry
from layered_cache.units import Duration, Size, seconds, size
from layered_cache.wire import pack_facts

if TYPE_CHECKING:
    from layered_cache.tiers._options import TierOptions

DEFAULT_MAX_BYTES = 256 * 1024 * 1024

_SMALL_SHARE = 10  # the small queue holds a tenth of the keys
_KEY_BYTES = 4096  # the longest key takes less
_MOST_HITS = 3  # more are not counted: two bits tell enough
_SLOT_BYTES = 400  # what a slot takes beside its value and key: objects' headers, facts, places in dictionary and queue
_LARGEST_SHARE = 4  # an entry of more than a quarter of the room is not held
_UNCHECKED = (-1, -1)


class MemoryTier:
    """The fastest tier. Every method may be called from any thread.

    Args:
        max_bytes: Values and what holding them takes, roughly as the process grows.
        ttl: The longest it keeps an entry, in seconds.
        name: For events and statistics.
        clock: Of tests.
    """

    timeout = 0.0  # it never waits

    def __init__(
        self,
        *,
        max_bytes: Size = DEFAULT_MAX_BYTES,
        ttl: Duration | None = None,
        name: str = "memory",
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if (most := size(max_bytes, "max_bytes of memory://")) < 64 * 1024:
            msg = f"max_bytes of memory:// must be at least 64KiB, not {max_bytes!r}"
            raise ConfigurationError(msg)
        self.name = name
        self.ttl = None if ttl is None else seconds(ttl, "ttl")
        self.max_bytes = most
        self.max_entry_bytes = most // _LARGEST_SHARE - _KEY_BYTES - _SLOT_BYTES
        self.evictions = 0
        self._clock = clock
        self._lock = threading.Lock()
        self._empty()
        _forks.restart_in_child(self)

    @classmethod
    def from_url(cls, url: str, options: TierOptions) -> MemoryTier:
        """Make it from `memory://#max_bytes=256MiB`."""
        if url.partition("://")[2].strip("/"):
            msg = "memory:// takes no host or path; its options stand behind #"
            raise ConfigurationError(msg)
        return cls(
            max_bytes=options.size("max_bytes", DEFAULT_MAX_BYTES),
            ttl=options.duration("ttl", None),
            name=options.text("name", "memory"),
            clock=options.clock,
        )

    def _empty(self) -> None:
        self._slots: dict[str, Slot | None] = {}
        self._hits: dict[str, int] = {}
        self._small: deque[str] = deque()
        self._main: deque[str] = deque()
        self._ghosts: deque[int] = deque()
        self._ghostly: set[int] = set()
        self._texts: dict[SlotTexts, SlotTexts] = {}
        self._bytes = 0

    def after_fork(self) -> None:
        """Begin with a new lock; with nothing, if the fork came in the middle of a change."""
        if self._lock.locked():
            self._empty()
        self._lock = threading.Lock()

    # --- the hit path

    def peek(self, key: str, position: Position, now: float) -> Slot | None:
        """Return the slot of *key* if it is fresh at *now* (monotonic) and was found good at *position*; else None."""
        slot = self._slots.get(key)
        if slot is None or slot[0] is not position or now >= slot[1]:
            return None
        hits = self._hits
        seen = hits.get(key, 0)
        if seen < _MOST_HITS:
            hits[key] = seen + 1
        return slot

    def find(self, key: str) -> tuple[Entry, Position] | None:
        """Return the entry of *key*, whatever its age, and the position at which it was last found good."""
        slot = self._slots.get(key)
        if slot is None:
            return None
        self._hits[key] = min(self._hits.get(key, 0) + 1, _MOST_HITS)
        return slot_entry(key, slot), slot[0]

    # --- changes, one at a time

    def put(self, entry: Entry, position: Position) -> None:
        """Hold *entry*, found good at *position*."""
        size = len(entry.value) + len(entry.key) + _SLOT_BYTES
        if size * _LARGEST_SHARE > self.max_bytes:
            self.delete_many([entry.key])
            return
        # encoders over-allocate, and what stays behind a value would stay for as long as it is held: copy
        value = bytes(memoryview(entry.value))
        fresh_until = self._clock.monotonic() + (entry.fresh_until - self._clock.time())
        texts = (entry.namespace, entry.codec, entry.model, entry.tags)
        with self._lock:
            if len(self._texts) > 4096:  # noqa: PLR2004
                self._texts.clear()
            texts = self._texts.setdefault(texts, texts)
            key = entry.key
            if key in self._slots:
                self._bytes -= self._size(key, self._slots[key])
            elif (ghost := hash(key)) in self._ghostly:
                self._ghostly.discard(ghost)
                self._main.append(key)
            else:
                self._small.append(key)
            self._slots[key] = (position, fresh_until, value, pack_facts(entry), texts)
            self._bytes += size
            self._evict()

    def restamp(self, entry: Entry, position: Position) -> None:
        """Note that *entry*, as `find` returned it, was found good at *position*."""
        with self._lock:
            slot = self._slots.get(entry.key)
            if slot is not None and slot[2] is entry.value:
                self._slots[entry.key] = (position, *slot[1:])

    def drop(self, entry: Entry) -> None:
        """Forget *entry*, as `find` returned it; what has replaced it meanwhile stays."""
        with self._lock:
            slot = self._slots.get(entry.key)
            if slot is not None and slot[2] is entry.value:
                self._vacate(entry.key, slot)

    def forget(self) -> None:
        """Hold nothing."""
        with self._lock:
            self._empty()

    def get_many(self, keys: Sequence[str]) -> Mapping[str, Entry | Refused]:
        """Return what is held for *keys*."""
        now = self._clock.time()
        found = ((key, self.find(key)) for key in keys)
        return {key: hit[0] for key, hit in found if hit is not None and hit[0].is_live(now)}

    def set_many(self, entries: Sequence[Entry]) -> None:
        """Hold *entries*, to be checked against the invalidation log before they are served."""
        for entry in entries:
            self.put(entry, _UNCHECKED)

    def delete_many(self, keys: Sequence[str]) -> int:
        """Forget *keys*; return how many were held."""
        removed = 0
        with self._lock:
            for key in keys:
                if (slot := self._slots.get(key)) is not None:
                    self._vacate(key, slot)
                    removed += 1
        return removed

    def _vacate(self, key: str, slot: Slot) -> None:
        self._bytes -= self._size(key, slot)
        self._slots[key] = None
        self._bytes += self._size(key, None)

    @staticmethod
    def _size(key: str, slot: Slot | None) -> int:
        return len(key) + _SLOT_BYTES + (len(slot[2]) if slot is not None else 0)

    def _evict(self) -> None:
        slots, hits, small, main = self._slots, self._hits, self._small, self._main
        while self._bytes > self.max_bytes:
            if len(small) * _SMALL_SHARE > len(slots) or not main:
                key = small.popleft()
                if slots[key] is not None and hits.pop(key, 0):
                    main.append(key)
                    continue
                self._remember(hash(key))
            else:
                key = main.popleft()
                if slots[key] is not None and (seen := hits.get(key, 0)):
                    hits[key] = seen - 1
                    main.append(key)
                    continue
            slot = slots.pop(key)
            hits.pop(key, None)
            self._bytes -= self._size(key, slot)
            self.evictions += slot is not None
        if len(hits) > len(slots) + 4096:  # a reader may count a hit on what has just left
            self._hits = {key: seen for key, seen in list(hits.items()) if key in slots}

    def _remember(self, ghost: int) -> None:
        self._ghosts.append(ghost)
        self._ghostly.add(ghost)
        while len(self._ghosts) > max(len(self._main), 64):
            self._ghostly.discard(self._ghosts.popleft())

    # --- what else a tier has

    def list_keys(self, namespace: str, after: str | None) -> Page:  # noqa: ARG002 - there is one page: a copy of names is quick
        """Return the keys of *namespace*."""
        prefix = key_prefix(namespace)
        return [key for key, slot in list(self._slots.items()) if slot is not None and key.startswith(prefix)], None

    async def alist_keys(self, namespace: str, after: str | None) -> Page:
        """See list_keys."""
        return self.list_keys(namespace, after)

    def __len__(self) -> int:
        return sum(slot is not None for slot in list(self._slots.values()))

    @property
    def used_bytes(self) -> int:
        """What is held now, by the measure of `max_bytes`."""
        return self._bytes

    def close(self) -> None:
        """Let go of everything; it can be used again."""
        self.forget()

    async def aget_many(self, keys: Sequence[str]) -> Mapping[str, Entry | Refused]:
        """See get_many."""
        return self.get_many(keys)

    async def aset_many(self, entries: Sequence[Entry]) -> None:
        """See set_many."""
        self.set_many(entries)

    async def adelete_many(self, keys: Sequence[str]) -> int:
        """See delete_many."""
        return self.delete_many(keys)

    async def aclose(self) -> None:
        """See close."""
        self.close()

    def __repr__(self) -> str:
        return f"MemoryTier({self._bytes:,} of {self.max_bytes:,} bytes)"
