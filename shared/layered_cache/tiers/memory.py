"""`memory://`: entries in this process, limited in bytes and read without a lock.

Eviction is S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023). New
keys enter a small queue. A key that is read while it is in the small queue moves to the main queue.
The other keys are evicted and remembered as ghosts. A ghost that is written again enters the main
queue at once. So keys that are read once, which is most of an LLM's traffic, do not evict keys that
are read every day.

A slot is a plain tuple of immutable objects, and the value is a trimmed `bytes`. So the garbage
collector has nothing to visit, and no two callers share a mutable object. A deleted key keeps its
place in its queue, without a slot, until it reaches the front. So each key is in exactly one queue,
once.

Each slot holds the position in the invalidation log at which it was last checked. A reader at
another position checks the entry again.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from layered_cache._storage.envelope import pack_facts
from layered_cache._util import fork_safety
from layered_cache._util.clocks import SYSTEM_CLOCK, Clock
from layered_cache._util.durations import Duration, Size, seconds, size
from layered_cache.entry import Entry, Refused
from layered_cache.errors import ConfigurationError
from layered_cache.keys.keys import key_prefix
from layered_cache.tiers.base import Page, Position, Slot, SlotTexts, slot_entry

if TYPE_CHECKING:
    from layered_cache.tiers._url_options import TierOptions

DEFAULT_MAX_BYTES = 256 * 1024 * 1024

# the small queue holds a tenth of the keys
_SMALL_SHARE = 10
# upper limit of the size of a key
_KEY_BYTES = 4096
# hits above this number are not counted: two bits are enough
_MOST_HITS = 3
# size of a slot without value and key: object headers, facts, dictionary and queue items
_SLOT_BYTES = 400
# an entry larger than a quarter of the limit is not stored
_LARGEST_SHARE = 4
_UNCHECKED = (-1, -1)


class MemoryTier:
    """The fastest tier. Every method may be called from any thread.

    Args:
        max_bytes: The size limit of values and overhead, close to the growth of the process.
        ttl: The longest lifetime of an entry in seconds.
        name: The name in events and statistics.
        clock: The clock, which tests replace.
    """

    # it never waits
    timeout = 0.0

    def __init__(
        self,
        *,
        max_bytes: Size = DEFAULT_MAX_BYTES,
        ttl: Duration | None = None,
        name: str = "memory",
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if (most := size(max_bytes, "max_bytes of memory://")) < 64 * 1024:
            msg = f"max_bytes of memory:// must be at least 64KiB, got {max_bytes!r}"
            raise ConfigurationError(msg)
        self.name = name
        self.ttl = None if ttl is None else seconds(ttl, "ttl")
        self.max_bytes = most
        self.max_entry_bytes = most // _LARGEST_SHARE - _KEY_BYTES - _SLOT_BYTES
        self.evictions = 0
        self._clock = clock
        self._lock = threading.Lock()
        self._empty()
        fork_safety.restart_in_child(self)

    @classmethod
    def from_url(cls, url: str, options: TierOptions) -> MemoryTier:
        """Return the tier of a URL like `memory://#max_bytes=256MiB`."""
        if url.partition("://")[2].strip("/"):
            msg = "memory:// must not have a host or a path. Write options after #"
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
        """Create a new lock. Erase all entries if the fork interrupted a change."""
        if self._lock.locked():
            self._empty()
        self._lock = threading.Lock()

    # --- the hit path

    def peek(self, key: str, position: Position, now: float) -> Slot | None:
        """Return the slot of *key* if it is fresh at *now* and was last checked at *position*.

        *now* is a monotonic time. Otherwise the result is None.
        """
        slot = self._slots.get(key)
        if slot is None or slot[0] is not position or now >= slot[1]:
            return None
        hits = self._hits
        seen = hits.get(key, 0)
        if seen < _MOST_HITS:
            hits[key] = seen + 1
        return slot

    def find(self, key: str) -> tuple[Entry, Position] | None:
        """Return the entry of *key*, even if it has expired, and the position of its last check."""
        slot = self._slots.get(key)
        if slot is None:
            return None
        self._hits[key] = min(self._hits.get(key, 0) + 1, _MOST_HITS)
        return slot_entry(key, slot), slot[0]

    # --- changes, one at a time

    def put(self, entry: Entry, position: Position) -> None:
        """Store *entry*, which was checked at *position*."""
        size = len(entry.value) + len(entry.key) + _SLOT_BYTES
        if size * _LARGEST_SHARE > self.max_bytes:
            self.delete_many([entry.key])
            return
        # Copied, because encoders over-allocate and the unused memory would stay as long as the
        # value.
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
        """Record that *entry*, a result of `find`, was checked at *position*."""
        with self._lock:
            slot = self._slots.get(entry.key)
            if slot is not None and slot[2] is entry.value:
                self._slots[entry.key] = (position, *slot[1:])

    def drop(self, entry: Entry) -> None:
        """Erase *entry*, a result of `find`. A newer entry of its key stays."""
        with self._lock:
            slot = self._slots.get(entry.key)
            if slot is not None and slot[2] is entry.value:
                self._vacate(entry.key, slot)

    def forget(self) -> None:
        """Erase all entries."""
        with self._lock:
            self._empty()

    def get_many(self, keys: Sequence[str]) -> Mapping[str, Entry | Refused]:
        """Return the entries of *keys*."""
        now = self._clock.time()
        found = ((key, self.find(key)) for key in keys)
        return {key: hit[0] for key, hit in found if hit is not None and hit[0].is_live(now)}

    def set_many(self, entries: Sequence[Entry]) -> None:
        """Store *entries*. They are checked against the invalidation log before they are served."""
        for entry in entries:
            self.put(entry, _UNCHECKED)

    def delete_many(self, keys: Sequence[str]) -> int:
        """Erase the entries of *keys* and return their number."""
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
        # a reader may count a hit on a key that was just evicted
        if len(hits) > len(slots) + 4096:
            self._hits = {key: seen for key, seen in list(hits.items()) if key in slots}

    def _remember(self, ghost: int) -> None:
        self._ghosts.append(ghost)
        self._ghostly.add(ghost)
        while len(self._ghosts) > max(len(self._main), 64):
            self._ghostly.discard(self._ghosts.popleft())

    # --- other methods of a tier

    # there is one page, since a copy of the keys is fast
    def list_keys(self, namespace: str, after: str | None) -> Page:  # noqa: ARG002
        """Return the keys of *namespace*."""
        prefix = key_prefix(namespace)
        return [key for key, slot in list(self._slots.items()) if slot is not None and key.startswith(prefix)], None

    async def alist_keys(self, namespace: str, after: str | None) -> Page:
        """Return the keys of *namespace*."""
        return self.list_keys(namespace, after)

    def __len__(self) -> int:
        return sum(slot is not None for slot in list(self._slots.values()))

    @property
    def used_bytes(self) -> int:
        """The size of all entries, in the measure of `max_bytes`."""
        return self._bytes

    def close(self) -> None:
        """Erase all entries. The tier can be used again."""
        self.forget()

    async def aget_many(self, keys: Sequence[str]) -> Mapping[str, Entry | Refused]:
        """Return the entries of *keys*, like `get_many`."""
        return self.get_many(keys)

    async def aset_many(self, entries: Sequence[Entry]) -> None:
        """Store *entries*, like `set_many`."""
        self.set_many(entries)

    async def adelete_many(self, keys: Sequence[str]) -> int:
        """Erase the entries of *keys*, like `delete_many`."""
        return self.delete_many(keys)

    async def aclose(self) -> None:
        """Erase all entries, like `close`."""
        self.close()

    def __repr__(self) -> str:
        return f"MemoryTier({self._bytes:,} of {self.max_bytes:,} bytes)"
