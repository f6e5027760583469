"""What a tier is, and what more it may be able to do. Protocols only: a tier need not inherit anything.

A third party adds a tier by four blocking methods on `ThreadedTier` (or all eight here), one entry-point row in the group
`layered_cache.tiers`, and one subclass of `layered_cache.testing.TierContract`.

Laws, all of them in the contract: absent keys are absent; a method returns or raises a `TierError` within the tier's budget, and
raises nothing else; the constructor does no I/O; a lost store is used again when it is back, without a new object; every method
may be called from any thread, the coroutines from any loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias, runtime_checkable

from layered_cache.entry import Entry, Refused, Ticket
from layered_cache.invalidation import LogState, Scope
from layered_cache.wire import Texts, unpack_facts

Position: TypeAlias = tuple[int, int]
"""Of a view of the invalidation log: `(epoch, seq)`. Compared by identity where it marks a slot."""

SlotTexts: TypeAlias = tuple[str, str, str | None, tuple[str, ...]]
"""Namespace, codec, model, tags."""

Slot: TypeAlias = tuple[Position, float, bytes, bytes, SlotTexts]
"""What a local tier holds for a key: position it was found good at, monotonic end of freshness, value, facts, texts. A plain
tuple of immutable things, so that the garbage collector has nothing to visit."""

Page: TypeAlias = tuple[Sequence[str], str | None]
"""Keys, and where the next page begins; None: there is no other."""

SLOT_VALUE, SLOT_FACTS, _SLOT_TEXTS = 2, 3, 4


def slot_entry(key: str, slot: Slot) -> Entry:
    """Return the entry that *slot* holds for *key*."""
    return unpack_facts(slot[SLOT_FACTS], key=key, value=slot[SLOT_VALUE], texts=Texts(*slot[_SLOT_TEXTS]))


@runtime_checkable
class Tier(Protocol):
    """One level of storage. Both halves behave alike.

    `name` is for events and statistics. `timeout`: the budget of one call in seconds. `ttl`: the longest this tier may keep an
    entry, in seconds, or None.

    More may be said by attributes that need not be there. `keeps_time = True`: the coroutines bound themselves, and better than others
    could; nobody need watch the time for them. `max_entry_bytes`: a larger value is not handed over, and the older entry of its key is
    erased. `compresses = True`: that limit is one of the compressed size (`wire.stored_bytes`).
    """

    name: str
    timeout: float
    ttl: float | None

    def get_many(self, keys: Sequence[str]) -> Mapping[str, Entry | Refused]:
        """Return what is held for *keys*: entries, or why what is there is none. It may give back expired ones."""
        ...

    def set_many(self, entries: Sequence[Entry]) -> None:
        """Hold *entries*, replacing what was there."""
        ...

    def delete_many(self, keys: Sequence[str]) -> int:
        """Hold nothing for *keys*; return how many were there."""
        ...

    def close(self) -> None:
        """Let go of files, connections and threads; more than once is no error."""
        ...

    async def aget_many(self, keys: Sequence[str]) -> Mapping[str, Entry | Refused]:
        """See get_many."""
        ...

    async def aset_many(self, entries: Sequence[Entry]) -> None:
        """See set_many."""
        ...

    async def adelete_many(self, keys: Sequence[str]) -> int:
        """See delete_many."""
        ...

    async def aclose(self) -> None:
        """See close."""
        ...


@runtime_checkable
class Authority(Protocol):
    """A tier that can keep the invalidation log. Each call is atomic and returns what is newer than *seen*.

    The blocking half serves the background, the other one those who cannot wait for it.
    """

    name: str
    log_is_durable: bool

    def read_log(self, seen: Ticket) -> LogState:
        """Return the log as it is; epoch 0 if there is none. It never makes one."""
        ...

    def open_log(self, seen: Ticket) -> LogState:
        """Return the log, made with a new random epoch if there is none."""
        ...

    def append_log(self, namespace: str, scope: Scope | None, seen: Ticket, before: int) -> LogState:
        """Open it and add a rule; without a *scope*, raise the floor of *namespace*. Rules older than seq *before* may leave.

        A log that is older than *seen* is given a new epoch first.
        """
        ...

    def restart_log(self, seen: Ticket) -> LogState:
        """Give it a new epoch if it is older than *seen*: it came back from a snapshot, and nobody knows what it lost."""
        ...

    async def aread_log(self, seen: Ticket) -> LogState:
        """See read_log."""
        ...

    async def aopen_log(self, seen: Ticket) -> LogState:
        """See open_log."""
        ...

    async def aappend_log(self, namespace: str, scope: Scope | None, seen: Ticket, before: int) -> LogState:
        """See append_log."""
        ...

    async def arestart_log(self, seen: Ticket) -> LogState:
        """See restart_log."""
        ...


@runtime_checkable
class Queryable(Protocol):
    """A tier that can find entries by what they are, not only by key."""

    def erase_where(self, namespace: str, scope: Scope, born_before: int) -> int:
        """Erase what *scope* matches and what was born before seq *born_before*; return how many. A courtesy: it may stop early.

        An empty *scope* matches everything in *namespace*, which may name a floor of several (see `invalidation.below`).
        """
        ...

    def count_where(self, namespace: str, scope: Scope) -> int:
        """Return how many entries *scope* matches."""
        ...

    async def aerase_where(self, namespace: str, scope: Scope, born_before: int) -> int:
        """See erase_where."""
        ...

    async def acount_where(self, namespace: str, scope: Scope) -> int:
        """See count_where."""
        ...


class QueryableTier(Tier, Queryable, Protocol):
    """A tier that is both."""


@runtime_checkable
class Listable(Protocol):
    """A tier that can name what it holds."""

    def list_keys(self, namespace: str, after: str | None) -> Page:
        """Return a page of the keys of *namespace*, and of no other.

        *after* is what the page before said; None: the first page. A page may be empty, a key may come twice or have expired. What is
        there all the time comes; what is written or removed meanwhile may come or not.
        """
        ...

    async def alist_keys(self, namespace: str, after: str | None) -> Page:
        """See list_keys."""
        ...


@runtime_checkable
class Purges(Protocol):
    """A tier that has to be told to let expired entries go. Called in the background, now and then."""

    def purge(self) -> int:
        """Erase expired entries, as many as is quick; return how many."""
        ...


@runtime_checkable
class Shared(Tier, Protocol):
    """A tier that set-ups with different slowest tiers, hence different invalidation logs, may share by mistake."""

    def swap_log_id(self, log_id: int) -> int | None:
        """Note that the log of that epoch rules what is here; return which one did before. Called in the background."""
        ...


@runtime_checkable
class LocalTier(Tier, Protocol):
    """A tier in this process: it never blocks, and remembers at which view of the log an entry was last found good."""

    def peek(self, key: str, position: Position, now: float) -> Slot | None:
        """Return the slot of *key* if it is fresh at *now* (monotonic) and was found good at *position*; else None."""
        ...

    def find(self, key: str) -> tuple[Entry, Position] | None:
        """Return the entry of *key*, whatever its age, and the position at which it was last found good."""
        ...

    def put(self, entry: Entry, position: Position) -> None:
        """Hold *entry*, found good at *position*."""
        ...

    def restamp(self, entry: Entry, position: Position) -> None:
        """Note that *entry*, as `find` returned it, was found good at *position*."""
        ...

    def drop(self, entry: Entry) -> None:
        """Forget *entry*, as `find` returned it; what has replaced it meanwhile stays."""
        ...

    def forget(self) -> None:
        """Hold nothing."""
        ...
