"""What a cache has for adapters: hosts that look up and store in two calls, or share computations by themselves.

Keys are those of the cache's own namespace; adapters have made them, and nothing is checked again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from layered_cache._engine.aio import Asyncio
from layered_cache._engine.blocking import Blocking
from layered_cache._engine.callers import caller
from layered_cache._engine.computing import Computing, Led
from layered_cache._engine.effects import run
from layered_cache._engine.engine import Engine, Hit
from layered_cache._engine.removing import Removing
from layered_cache.entry import Entry
from layered_cache.events import Event
from layered_cache.key_rules import KeyRules, Normalize
from layered_cache.tiers._tier import SLOT_VALUE, slot_entry
from layered_cache.wire import MAX_VALUE


class AdapterFace:
    """The methods of `TieredCache` for adapters."""

    _engine: Engine
    _namespace: str
    _computing: Computing
    _removing: Removing
    _blocking: Blocking
    _asyncio: Asyncio

    def peek(self, key: str) -> bytes | None:
        """Return the value of *key* if memory has it and it may be served as it is; else None. It never waits.

        The short cut of adapters; after None, `fetch` asks all tiers.
        """
        slot = self._engine.peek(key)
        return None if slot is None else slot[SLOT_VALUE]

    def peek_hit(self, key: str) -> Hit | None:
        """As peek, for those who want to know more than the value."""
        slot = self._engine.peek(key)
        return None if slot is None else Hit(slot_entry(key, slot), self._engine.tiers[0].name)

    def fetch(self, key: str, *, led: Led | None = None, leave: bool = True) -> Hit | None:
        """Return the entry of *key*, a key of this namespace, from whichever tier has it, or None: for adapters, which have peeked.

        Args:
            key: Of this namespace.
            leave: As for `get_many`; an adapter that knows its answer's `born` leaves nothing. Who may lead always leaves it.
            led: If given, one caller at a time is to compute a missing answer: others wait for it, for `Policy.max_wait` at most. The one
                is told by this function, before None is returned, and has to call what it is given when the answer will not be stored.
        """
        if led is not None and self._engine.policy.single_flight:
            return run(self._computing.find_or_lead(self._blocking, key, led))
        return run(self._engine.read(self._blocking, (key,), leave=leave)).get(key)

    async def afetch(self, key: str, *, led: Led | None = None, leave: bool = True) -> Hit | None:
        """See fetch. A lead also ends with its task."""
        if led is not None and self._engine.policy.single_flight:
            return await self._computing.find_or_lead(self._asyncio, key, led)
        return (await self._engine.read(self._asyncio, (key,), leave=leave)).get(key)

    def followed(self, entry: Entry) -> None:
        """Count a hit: a caller has got *entry* while another one computed it. For adapters that share computations by themselves."""
        self._engine.note_hit(Hit(entry, "flight"), verified=True)

    def expect(self, key: str) -> None:
        """Note that this caller, who has not looked, computes an answer to *key* from now on and will store it.

        For adapters. An invalidation in between then makes it void, as after a miss.
        """
        run(self._engine.expect(self._blocking, key))

    async def aexpect(self, key: str) -> None:
        """See expect."""
        await self._engine.expect(self._asyncio, key)

    def nothing_to_share(self, key: str) -> None:
        """Note that this caller has an answer to *key* which will not be stored: those who wait for it go on, each by himself."""
        self._computing.nothing_to_share(key, caller())

    def discard(self, keys: Sequence[str]) -> None:
        """Have no tier serve an entry of *keys*: values that cannot be held have replaced them. A tier that fails erases them later.

        For stores. As `delete`, but if the log cannot be written, other processes still serve the entries in their memory.
        """
        run(self._removing.discard(self._blocking, self._namespace, keys))

    async def adiscard(self, keys: Sequence[str]) -> None:
        """See discard."""
        await self._removing.discard(self._asyncio, self._namespace, keys)

    def why_too_large(self, value: bytes) -> str | None:
        """Return why *value* would not last, with its size and what to do about it: None if it is not too large.

        It is too large if the policy refuses it, or if the slowest tier cannot hold it.
        """
        size, most = len(value), cast("int", self._engine.policy.max_entry_bytes)
        if size > most:
            remedy = "raise Policy(max_entry_bytes=...)" if most < MAX_VALUE else "store it in parts"
            return f"it takes {size:,} bytes, and max_entry_bytes is {most:,}: {remedy}"
        slowest = self._engine.tiers[-1]
        if (most := self._engine.most(slowest, value)) is not None:
            larger = f"raise #max_bytes of {slowest.name}, or " if hasattr(slowest, "max_bytes") else ""
            compressed = ", compressed" if getattr(slowest, "compresses", False) else ""
            return f"it takes {size:,} bytes, and the tier {slowest.name!r} holds {most:,}{compressed}: {larger}store it in parts"
        return None

    def reject(self, key: str, reason: str) -> None:
        """Note that what `peek` or `fetch` returned for *key* cannot be read: for its caller that was a miss."""
        self._engine.rejected(key, caller(), reason)

    def use(self, rules: KeyRules) -> None:
        """Note that keys are made by *rules*: `invalidate(prompt=...)` has to apply their function too."""
        self._engine.use(rules)

    @property
    def _normalizers(self) -> Sequence[Normalize]:
        return self._engine.normalizers

    def drop(self, key: str) -> None:
        """Erase the entry of *key* from all tiers, for adapters: a program has refused the answer.

        Nothing is recorded in the invalidation log. The memory of another process may keep the entry until it is refused there.
        """
        run(self._removing.drop(self._blocking, self._namespace, (key,)))

    def report(self, event: Event) -> None:
        """Count *event* and tell the observers of it: for adapters, of what the engine cannot see."""
        self._engine.tell(event)
