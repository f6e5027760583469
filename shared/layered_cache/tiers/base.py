"""The interface of a tier and its optional extensions.

These are protocols: a tier does not need a base class. A third party adds a tier with four blocking
methods on `ThreadedTier` (or with all eight methods here), an entry point in the group
`layered_cache.tiers`, and a subclass of `layered_cache.testing.TierContract`.

The contract tests check these rules:

- Absent keys are absent from the result.
- A method returns, or raises a `TierError`, within the timeout of the tier. It raises nothing else.
- The constructor does no I/O.
- After an outage the same object works again.
- Every method may be called from any thread, and the coroutines from any event loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias, runtime_checkable

from layered_cache._storage.envelope import Texts, unpack_facts
from layered_cache._storage.rules import LogState, Scope
from layered_cache.entry import Entry, Refused, Ticket

Position: TypeAlias = tuple[int, int]
"""The `(epoch, seq)` of a view of the invalidation log.

A slot's position is compared by identity.
"""

SlotTexts: TypeAlias = tuple[str, str, str | None, tuple[str, ...]]
"""Namespace, codec, model, tags."""

Slot: TypeAlias = tuple[Position, float, bytes, bytes, SlotTexts]
"""The data that a local tier holds for a key.

The fields are the position at which the entry was last checked, the monotonic time at which it
stops being fresh, the value, the facts and the texts. It is a plain tuple of immutable objects, so
the garbage collector has nothing to visit.
"""

Page: TypeAlias = tuple[Sequence[str], str | None]
"""Keys, and the start of the next page. None: there is no next page."""

SLOT_VALUE, SLOT_FACTS, _SLOT_TEXTS = 2, 3, 4


def slot_entry(key: str, slot: Slot) -> Entry:
    """Return the entry of *key* in *slot*."""
    return unpack_facts(slot[SLOT_FACTS], key=key, value=slot[SLOT_VALUE], texts=Texts(*slot[_SLOT_TEXTS]))


@runtime_checkable
class Tier(Protocol):
    """One level of storage. The blocking methods and the coroutines behave alike.

    `name` appears in events and statistics. `timeout` is the time limit of one call in seconds.
    `ttl` is the longest lifetime of an entry in this tier in seconds, or None.

    These attributes are optional. `keeps_time = True`: the coroutines enforce the timeout
    themselves, so the engine does not. `max_entry_bytes`: a larger value is not written, and the
    older entry of its key is erased. `compresses = True`: that limit applies to the compressed size
    (`wire.stored_bytes`).
    """

    name: str
    timeout: float
    ttl: float | None

    def get_many(self, keys: Sequence[str]) -> Mapping[str, Entry | Refused]:
        """Return the entries of *keys*, or the reason why a stored value is unreadable.

        Expired entries may be included.
        """
        ...

    def set_many(self, entries: Sequence[Entry]) -> None:
        """Store *entries*, replacing older ones."""
        ...

    def delete_many(self, keys: Sequence[str]) -> int:
        """Erase the entries of *keys* and return their number."""
        ...

    def close(self) -> None:
        """Release files, connections and threads. More than one call is no error."""
        ...

    async def aget_many(self, keys: Sequence[str]) -> Mapping[str, Entry | Refused]:
        """Return the entries of *keys*, like `get_many`."""
        ...

    async def aset_many(self, entries: Sequence[Entry]) -> None:
        """Store *entries*, like `set_many`."""
        ...

    async def adelete_many(self, keys: Sequence[str]) -> int:
        """Erase the entries of *keys*, like `delete_many`."""
        ...

    async def aclose(self) -> None:
        """Release all resources, like `close`."""
        ...


@runtime_checkable
class Authority(Protocol):
    """A tier that can store the invalidation log.

    Each call is atomic and returns the part of the log that is newer than *seen*. Background
    threads use the blocking methods. Async callers use the coroutines.
    """

    name: str
    log_is_durable: bool

    def read_log(self, seen: Ticket) -> LogState:
        """Return the current log, or epoch 0 if there is none. It never creates one."""
        ...

    def open_log(self, seen: Ticket) -> LogState:
        """Return the log. If there is none, create one with a random epoch."""
        ...

    def append_log(self, namespace: str, scope: Scope | None, seen: Ticket, before: int) -> LogState:
        """Open the log and add a rule.

        Without a *scope*, the rule makes all older entries of *namespace* void. Rules older than
        seq *before* may be removed. A log that is older than *seen* gets a new epoch first.
        """
        ...

    def restart_log(self, seen: Ticket) -> LogState:
        """Give the log a new epoch if it is older than *seen*.

        Such a log was restored from a snapshot, and the rules that it lost are unknown.
        """
        ...

    async def aread_log(self, seen: Ticket) -> LogState:
        """Return the current log, like `read_log`."""
        ...

    async def aopen_log(self, seen: Ticket) -> LogState:
        """Return the log, like `open_log`."""
        ...

    async def aappend_log(self, namespace: str, scope: Scope | None, seen: Ticket, before: int) -> LogState:
        """Add a rule, like `append_log`."""
        ...

    async def arestart_log(self, seen: Ticket) -> LogState:
        """Give an old log a new epoch, like `restart_log`."""
        ...


@runtime_checkable
class Queryable(Protocol):
    """A tier that can find entries by their properties and not only by key."""

    def erase_where(self, namespace: str, scope: Scope, born_before: int) -> int:
        """Erase the entries that match *scope* and are older than seq *born_before*.

        Return their number. The method may stop early, since the entries are void anyway. An empty
        *scope* matches all entries in *namespace*, which may cover several namespaces (see
        `invalidation.below`).
        """
        ...

    def count_where(self, namespace: str, scope: Scope) -> int:
        """Return the number of entries that match *scope*."""
        ...

    async def aerase_where(self, namespace: str, scope: Scope, born_before: int) -> int:
        """Erase the entries that match *scope*, like `erase_where`."""
        ...

    async def acount_where(self, namespace: str, scope: Scope) -> int:
        """Return the number of entries that match *scope*."""
        ...


class QueryableTier(Tier, Queryable, Protocol):
    """A tier that is also queryable."""


@runtime_checkable
class Listable(Protocol):
    """A tier that can list its keys."""

    def list_keys(self, namespace: str, after: str | None) -> Page:
        """Return a page of the keys of *namespace*, and of no other namespace.

        *after* is the continuation of the page before, or None for the first page. A page may be
        empty. A key may be listed twice, or belong to an expired entry. Keys that exist during the
        whole listing are always included. Keys that are written or removed during the listing may
        be missing.
        """
        ...

    async def alist_keys(self, namespace: str, after: str | None) -> Page:
        """Return a page of keys, like `list_keys`."""
        ...


@runtime_checkable
class Purges(Protocol):
    """A tier that does not remove expired entries without a call.

    `purge` runs in the background.
    """

    def purge(self) -> int:
        """Erase a batch of expired entries and return their number."""
        ...


@runtime_checkable
class Shared(Tier, Protocol):
    """A tier that two set-ups with different invalidation logs may share by mistake.

    The set-ups have different slowest tiers, so they have different logs.
    """

    def swap_log_id(self, log_id: int) -> int | None:
        """Store the epoch of the log that applies to this tier; return the previous one.

        It is called in the background.
        """
        ...


@runtime_checkable
class LocalTier(Tier, Protocol):
    """A tier in this process.

    It never blocks, and it stores the log position of each entry's check.
    """

    def peek(self, key: str, position: Position, now: float) -> Slot | None:
        """Return the slot of *key* if it is fresh at *now* and was last checked at *position*.

        *now* is a monotonic time. Otherwise the result is None.
        """
        ...

    def find(self, key: str) -> tuple[Entry, Position] | None:
        """Return the entry of *key*, even if it has expired, and the position of its last check."""
        ...

    def put(self, entry: Entry, position: Position) -> None:
        """Store *entry*, which was checked at *position*."""
        ...

    def restamp(self, entry: Entry, position: Position) -> None:
        """Record that *entry*, a result of `find`, was checked at *position*."""
        ...

    def drop(self, entry: Entry) -> None:
        """Erase *entry*, a result of `find`. A newer entry of its key stays."""
        ...

    def forget(self) -> None:
        """Erase all entries."""
        ...
