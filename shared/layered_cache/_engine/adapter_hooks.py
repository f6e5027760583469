"""The methods of a cache for adapters.

They serve hosts that look up and store in two calls, and adapters that share computations on their
own. All keys must belong to the namespace of the cache. They were created by adapters and are not
checked again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from layered_cache._engine.caller_id import caller
from layered_cache._engine.engine import Engine, Hit
from layered_cache._engine.invalidator import Removing
from layered_cache._engine.runtime import run
from layered_cache._engine.runtime_asyncio import Asyncio
from layered_cache._engine.runtime_threads import Blocking
from layered_cache._engine.single_flight import Computing, Led
from layered_cache._storage.envelope import MAX_VALUE
from layered_cache.entry import Entry
from layered_cache.events import Event
from layered_cache.keys.key_rules import KeyRules, Normalize
from layered_cache.tiers.base import SLOT_VALUE, slot_entry


class AdapterFace:
    """The methods of `TieredCache` for adapters."""

    _engine: Engine
    _namespace: str
    _computing: Computing
    _removing: Removing
    _blocking: Blocking
    _asyncio: Asyncio

    def peek(self, key: str) -> bytes | None:
        """Return the value of *key* if memory holds it, fresh and not void, or else None.

        It never waits. This is the fast path of adapters. After None, `fetch` reads all tiers.
        """
        slot = self._engine.peek(key)
        return None if slot is None else slot[SLOT_VALUE]

    def peek_hit(self, key: str) -> Hit | None:
        """Return the hit of *key* in memory, like `peek` but with all facts."""
        slot = self._engine.peek(key)
        return None if slot is None else Hit(slot_entry(key, slot), self._engine.tiers[0].name)

    def fetch(self, key: str, *, led: Led | None = None, leave: bool = True) -> Hit | None:
        """Return the hit of *key* from any tier, or None. Adapters call it after `peek`.

        Args:
            key: A key of this namespace.
            leave: As for `get_many`. An adapter that knows the `born` of its answer leaves nothing.
                A caller that may lead always leaves a ticket.
            led: If given, only one caller at a time computes a missing answer. The rest wait for
                it, for at most `Policy.max_wait`. For the computing caller this function is called
                before None is returned. Its argument is a function that the caller must call if the
                answer will not be stored.
        """
        if led is not None and self._engine.policy.single_flight:
            return run(self._computing.find_or_lead(self._blocking, key, led))
        return run(self._engine.read(self._blocking, (key,), leave=leave)).get(key)

    async def afetch(self, key: str, *, led: Led | None = None, leave: bool = True) -> Hit | None:
        """Return the hit of *key*, like `fetch`. A lead also ends with its task."""
        if led is not None and self._engine.policy.single_flight:
            return await self._computing.find_or_lead(self._asyncio, key, led)
        return (await self._engine.read(self._asyncio, (key,), leave=leave)).get(key)

    def followed(self, entry: Entry) -> None:
        """Count a hit of a caller that got *entry* from the computation of another caller.

        For adapters that share computations on their own.
        """
        self._engine.note_hit(Hit(entry, "flight"), verified=True)

    def expect(self, key: str) -> None:
        """Record that this caller computes an answer to *key* from now on, without a lookup.

        An invalidation before the answer is stored then makes it void, as after a miss.
        """
        run(self._engine.expect(self._blocking, key))

    async def aexpect(self, key: str) -> None:
        """Record that this caller computes an answer, like `expect`."""
        await self._engine.expect(self._asyncio, key)

    def nothing_to_share(self, key: str) -> None:
        """Record that this caller's answer to *key* is not stored: its followers compute alone."""
        self._computing.nothing_to_share(key, caller())

    def discard(self, keys: Sequence[str]) -> None:
        """Erase the entries of *keys* in all tiers. A tier that fails erases them later.

        For stores, if values that cannot be stored have replaced the entries. This is like
        `delete`. But if the log cannot be written, other processes still serve the entries in their
        memory.
        """
        run(self._removing.discard(self._blocking, self._namespace, keys))

    async def adiscard(self, keys: Sequence[str]) -> None:
        """Erase the entries of *keys*, like `discard`."""
        await self._removing.discard(self._asyncio, self._namespace, keys)

    def why_too_large(self, value: bytes) -> str | None:
        """Return the reason why *value* is too large, with its size and a remedy, or None.

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
        """Record a miss: the result of `peek` or `fetch` for *key* cannot be decoded."""
        self._engine.rejected(key, caller(), reason)

    def use(self, rules: KeyRules) -> None:
        """Register the key rules *rules*: `invalidate(prompt=...)` must apply their function."""
        self._engine.use(rules)

    @property
    def _normalizers(self) -> Sequence[Normalize]:
        return self._engine.normalizers

    def drop(self, key: str) -> None:
        """Erase the entry of *key* from all tiers, because a program has refused the answer.

        Nothing is recorded in the invalidation log. The memory of another process may keep the
        entry until it is refused there.
        """
        run(self._removing.drop(self._blocking, self._namespace, (key,)))

    def report(self, event: Event) -> None:
        """Count *event* and send it to the observers, for events that the engine cannot see."""
        self._engine.tell(event)
