"""Reads and writes over tiers, ordered from the fastest to the slowest, for threads and asyncio.

`computing` computes answers and `removing` invalidates them; both use this module. Its rules:

- A tier that fails counts as an empty tier (`Policy.fail_open`).
- The human-readable fields of an entry are stored in the slowest tier only: one copy is enough.
- An entry that a slower tier holds is promoted to the faster tiers for its remaining lifetime. It
  keeps its log position, so a late promotion cannot bring back an invalidated entry.
- An answer is written to memory first, since the next request may come at once. Then it is written
  to the slower tiers, slowest first, each within its timeout. Writes that exceed the timeout are
  queued.
- A tier that cannot hold a value erases the older value of its key. So no tier serves a replaced
  value after a write.
- An answer costs money: if a caller is cancelled while its answer is stored, the answer is not
  lost.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Any, NamedTuple, cast

from layered_cache._engine import exit_hooks
from layered_cache._engine.availability import Availability
from layered_cache._engine.log_view import Trust, Watch
from layered_cache._engine.miss_positions import Tickets
from layered_cache._engine.recorder import Teller
from layered_cache._engine.runtime import Effects
from layered_cache._engine.runtime_threads import Blocking
from layered_cache._engine.write_queue import Backlog, Writes
from layered_cache._storage.envelope import stored_bytes
from layered_cache._storage.rules import Scope, View
from layered_cache._util.clocks import Clock
from layered_cache.entry import Answer, Entry, Refused, Request, Ticket
from layered_cache.errors import TierError
from layered_cache.events import Event, Observers
from layered_cache.keys.key_rules import KeyRules, Normalize
from layered_cache.keys.keys import namespace_of
from layered_cache.policy import Policy
from layered_cache.stats import TAPE, Counters, Stats
from layered_cache.tiers.base import SLOT_FACTS, Authority, LocalTier, Purges, Queryable, QueryableTier, Shared, Slot, Tier, slot_entry

_log = logging.getLogger("layered_cache")

_PURGE_EVERY = 60.0
_NO_LIMIT = 2**63


class Hit(NamedTuple):
    """An entry and the name of its tier."""

    entry: Entry
    tier: str


class Ask(NamedTuple):
    """A request with its key and namespace."""

    request: Request
    key: str
    namespace: str


class Engine:
    """One list of tiers, shared by all namespaces over it."""

    def __init__(self, tiers: Sequence[Tier], policy: Policy, clock: Clock, observers: Observers) -> None:
        self.tiers = tuple(tiers)
        self.policy = policy
        self.clock = clock
        self.observers = observers
        self.local = tiers[0] if isinstance(tiers[0], LocalTier) else None
        self.slower = self.tiers[1:] if self.local is not None else self.tiers
        # checked once: isinstance with a protocol is slow
        self.queryable = cast("list[QueryableTier]", [tier for tier in self.slower if isinstance(tier, Queryable)])
        self._purging = [tier for tier in self.slower if isinstance(tier, Purges)]
        self._most = {id(tier): cast("int", getattr(tier, "max_entry_bytes", _NO_LIMIT)) for tier in self.tiers}
        self.counters = Counters(self.local.name if self.local is not None else None)
        # attributes that every hit needs
        self._monotonic, self._tape, self._observed = clock.monotonic, self.counters.tape, bool(observers)
        self.tickets = Tickets(clock)
        # the longest lifetime of an entry that this process has stored
        self.longest_life = cast("float", policy.keep_for)
        self.availability = Availability(clock)
        self.tell = Teller(self.counters, observers, self.availability)
        authority = next((tier for tier in reversed(self.slower) if isinstance(tier, Authority)), None)
        self.watch = Watch(authority, policy, clock, self.tell, self.counters, shared_tiers=bool(self.slower))
        self.backlog = Backlog(cast("int", policy.queue_bytes), self.watch, clock, self.tell, weakref.ref(self))
        self._background = Blocking()
        self._purge_at = float("-inf")
        self._closed = self._used_after_close = False
        self._shared = [tier for tier in self.slower if isinstance(tier, Shared) and id(tier) != id(authority)]
        # the epoch that was last written to these tiers
        self._noted = 0
        self._epochs: set[int] = set()
        # only those with functions
        self.normalizers: tuple[Normalize, ...] = ()

    def use(self, rules: KeyRules) -> None:
        """Register the function of *rules* (if any), in place of an older one of its name."""
        if rules.normalize is not None and callable(rules.normalize.how):
            label = rules.normalize.label
            self.normalizers = (*(one for one in self.normalizers if one.label != label), rules.normalize)

    # --- reading

    def peek(self, key: str) -> Slot | None:
        """Return the slot of *key* in the local tier if it is fresh and not void. It never waits.

        This is the fast path of every hit in memory: no coroutine, no lock, one reading of the
        clock.
        """
        local, watch = self.local, self.watch
        if local is None or (now := self._monotonic()) >= watch.good_until:
            return None
        slot = local.peek(key, watch.view.position, now)
        if slot is not None:
            tape = self._tape
            tape.append(slot[SLOT_FACTS])
            if len(tape) >= TAPE:
                self.counters.read_tape()
            if self._observed:
                self.observers(self._hit_event(Hit(slot_entry(key, slot), local.name)))
        return slot

    async def read(self, fx: Effects, keys: Sequence[str], *, stale: bool = False, leave: bool = True) -> dict[str, Hit]:
        """Return the entries of *keys* in the tiers, and count hits and misses.

        Absent keys are not in the result.

        Args:
            fx: The effects of the caller.
            keys: The keys, without duplicates.
            stale: As for `look_up`.
            leave: Leave a ticket at a miss, for the answer that the caller may store.
        """
        found, view, trust = await self.look_up(fx, keys, stale=stale)
        for hit in found.values():
            self.note_hit(hit, verified=trust is Trust.ALL)
        if len(found) == len(keys):
            return found
        self._keep_house()
        ticket = await self.watch.ticket(fx) if leave and view.empty else view.ticket
        for key in keys:
            if key not in found:
                self.tell(Event(kind="miss", key=key, namespace=namespace_of(key)))
                if leave:
                    self.tickets.leave(key, fx.owner(), ticket)
        return found

    async def expect(self, fx: Effects, key: str) -> None:
        """Leave a ticket for an answer that the caller is about to compute, without a lookup."""
        self.tickets.leave(key, fx.owner(), await self.watch.ticket(fx))

    async def look_up(self, fx: Effects, keys: Sequence[str], *, stale: bool, promote: bool = True) -> tuple[dict[str, Hit], View, Trust]:
        """Look up *keys* in the tiers, the fastest first; return hits, view and trust level.

        With *stale*, an entry that is no longer fresh is a hit. Without it, the slower tiers are
        searched for a fresh one. Hits are copied to the faster tiers if *promote*.
        """
        watch, trust = self.watch, Trust.ALL
        # fast path: nearly always the view is new enough
        view = watch.view if self._monotonic() < watch.good_until else None
        if view is None:
            view, trust = await watch.current(fx)
        missing = keys
        found: dict[str, Hit] = {}
        for depth, tier in enumerate(self.tiers):
            if not missing or trust is Trust.NOTHING or (trust is Trust.OWN and tier is not self.local):
                break
            if tier is self.local:
                entries = self._read_local(missing, view)
            else:
                queued = self.backlog.pending(tier, missing)
                asked = [key for key in missing if key not in queued] if queued else missing
                held: Mapping[str, Entry | Refused] = {}
                try:
                    if asked:
                        held = await fx.read(tier, asked)
                        self.availability.succeeded("read", tier.name)
                except TierError as error:
                    self.tell.tier_failed(error, "read")
                    if not self.policy.fail_open:
                        raise
                entries, worthless = self._usable(tier, {**held, **queued} if queued else held, view)
                if worthless:
                    await self._erase(fx, tier, worthless)
            now = self.clock.time()
            good: list[Entry] = []
            for key, entry in entries.items():
                if entry.is_live(now) if stale else entry.is_fresh(now):
                    found[key] = Hit(entry, tier.name)
                    good.append(entry)
            if good:
                self._promote(depth if promote else 0, good, view)
                missing = [key for key in missing if key not in found]
        return found, view, trust

    def _read_local(self, keys: Iterable[str], view: View) -> dict[str, Entry]:
        local = cast("LocalTier", self.local)
        entries: dict[str, Entry] = {}
        for key in keys:
            if (held := local.find(key)) is None:
                continue
            entry, position = held
            if position is not view.position:
                if view.void(entry, checked=position):
                    local.drop(entry)
                    self.counters.void()
                    continue
                local.restamp(entry, view.position)
            entries[key] = entry
        return entries

    async def _erase(self, fx: Effects, tier: Tier, worthless: Sequence[str]) -> None:
        """Erase values that no release can read.

        They are erased now, because a later erasure could hit the answer that replaces them.
        """
        try:
            await fx.erase(tier, worthless)
        except TierError as error:
            self.tell.tier_failed(error)

    def _usable(self, tier: Tier, held: Mapping[str, Entry | Refused | None], view: View) -> tuple[dict[str, Entry], list[str]]:
        """Return the entries in *held* that are not void, and the keys of unreadable values."""
        entries: dict[str, Entry] = {}
        worthless: list[str] = []
        for key, entry in held.items():
            # its erasure is queued
            if entry is None:
                continue
            if isinstance(entry, Refused):
                self.tell(Event(kind="refused", tier=tier.name, key=key, namespace=namespace_of(key), reason=entry.reason))
                if entry.erase:
                    worthless.append(key)
            elif view.void(entry):
                self.counters.void()
                # The erasure is limited by log position, so that the answer that replaces the entry
                # stays. Positions of another log cannot be compared.
                if tier in self.queryable and entry.born.epoch == view.position[0]:
                    erase = partial(cast("QueryableTier", tier).erase_where, entry.namespace, Scope(keys=(key,)), entry.born.seq + 1)
                    self.backlog.courtesy(tier, key, erase)
            else:
                entries[key] = entry
        return entries, worthless

    def _promote(self, depth: int, entries: Iterable[Entry], view: View) -> None:
        for tier in self.tiers[:depth]:
            if self.local is not None and tier is self.local:
                for entry in self._capped(tier, entries):
                    self.local.put(entry, view.position)
            else:
                fitting = self._for_tier(tier, {entry.key: entry for entry in entries})
                # a promotion replaces nothing, so it erases nothing
                self.backlog.put(tier, {key: entry for key, entry in fitting.items() if entry is not None})

    # --- counting hits

    def note_hit(self, hit: Hit, *, verified: bool) -> None:
        """Count *hit* and report it."""
        self.counters.hit(hit.tier, hit.entry.savings)
        if not verified:
            self.tell(Event(kind="served_unverified", tier=hit.tier, key=hit.entry.key, namespace=hit.entry.namespace))
        if self._observed:
            self.observers(self._hit_event(hit))

    def _hit_event(self, hit: Hit) -> Event:
        entry, saved = hit.entry, hit.entry.savings
        return Event(
            kind="hit",
            tier=hit.tier,
            key=entry.key,
            namespace=entry.namespace,
            model=entry.model,
            age_seconds=max(0.0, self.clock.time() - entry.created_at),
            saved_usd=saved.cost_usd,
            saved_tokens=saved.tokens,
            saved_seconds=saved.seconds,
        )

    def rejected(self, key: str, caller: object, reason: str) -> None:
        """Record that an adapter could not decode an entry, so *caller* has a miss."""
        self.tell(Event(kind="undecodable", key=key, namespace=namespace_of(key), reason=reason))
        self.tickets.leave(key, caller, self.watch.view.ticket)

    # --- writing

    async def store(
        self,
        fx: Effects,
        answers: Mapping[str, tuple[Ask, Answer]],
        born: Ticket | None = None,
        in_memory: Callable[[Mapping[str, Entry]], None] | None = None,
    ) -> dict[str, Entry]:
        """Store *answers* as far as the policy admits them; return the stored entries.

        The log position of each answer is *born* if given, or else the ticket of its caller, or
        else the current position. *in_memory* is called with the admitted entries before the slower
        tiers have them.
        """
        tickets = {key: (born, 0.0) if born is not None else self.tickets.take(key, fx.owner()) for key in answers}
        computed = {key for key, ticket in tickets.items() if born is None and ticket is not None}
        try:
            entries, gone = await self._admit_all(fx, answers, tickets, computed)
        except GeneratorExit:
            raise
        except Exception:
            raise
        except BaseException:
            self._in_background(self._store_anyway(answers, tickets, computed))
            raise
        held = {entry.key: entry for entry in entries}
        if in_memory is not None:
            in_memory(held)
        await self.spread(fx, entries, gone)
        return held

    async def _admit_all(
        self,
        fx: Effects,
        answers: Mapping[str, tuple[Ask, Answer]],
        tickets: Mapping[str, tuple[Ticket, float] | None],
        computed: AbstractSet[str],
    ) -> tuple[list[Entry], list[str]]:
        """Return the entries of *answers* to store, and the keys that the slower tiers must erase.

        A value that was *computed* after a miss replaces no value that its caller could have read.
        """
        born_now = await self.watch.ticket(fx)
        now = self.clock.time()
        entries: list[Entry] = []
        gone: list[str] = []
        for key, (ask, answer) in answers.items():
            ticket, since = tickets[key] or (born_now, 0.0)
            if (entry := self.admitted(ask, answer, ticket, started=now - since)) is not None:
                entries.append(entry)
            if self.policy.is_too_large(answer) or (ticket.epoch <= 0 and key not in computed):
                gone.append(key)
        return entries, gone

    async def _store_anyway(
        self,
        answers: Mapping[str, tuple[Ask, Answer]],
        tickets: Mapping[str, tuple[Ticket, float] | None],
        computed: AbstractSet[str],
    ) -> None:
        await self.spread(self._background, *await self._admit_all(self._background, answers, tickets, computed))

    def _in_background(self, job: Coroutine[Any, Any, None]) -> None:
        self._background.spawn(job)

    def admitted(self, ask: Ask, answer: Answer, ticket: Ticket, *, started: float) -> Entry | None:
        """Return the entry of *answer*, which memory holds now. None: it is not stored.

        In that case the reason is reported.
        """
        reason: str | None = self.policy.refuses(ask.request, answer)
        if reason is None:
            view = self.watch.view
            entry = self.entry(ask, answer, ticket, started)
            if view.void(entry):
                reason = "invalidated"
            elif self.local is not None:
                # stamped with the view of the check above, not with a newer one
                self.local.put(self._capped(self.local, [entry])[0], view.position)
                return entry
            elif entry.born.epoch > 0:
                return entry
            else:
                # a later reader could not check if it is void
                reason = "log unread"
        if reason == "too large" and self.local is not None:
            self.local.delete_many([ask.key])
        self.tell(Event(kind="not_stored", key=ask.key, namespace=ask.namespace, model=ask.request.model, reason=reason))
        return None

    def entry(self, ask: Ask, answer: Answer, born: Ticket, started: float) -> Entry:
        """Return the entry of *answer*. Its computation began at *started*."""
        now = self.clock.time()
        entry = self.policy.entry(ask.request, answer, key=ask.key, namespace=ask.namespace, born=born, started=started, now=now)
        self.longest_life = max(self.longest_life, entry.keep_until - now)
        return entry

    async def spread(self, fx: Effects, entries: Sequence[Entry], gone: Iterable[str] = ()) -> None:
        """Write *entries*, which memory holds, to the slower tiers, slowest first.

        The entries of the keys in *gone* are erased there.
        """
        for entry in entries:
            self.tell(Event(kind="stored", key=entry.key, namespace=entry.namespace, model=entry.model))
        # other entries stay in memory only
        writes: dict[str, Entry | None] = {entry.key: entry for entry in entries if entry.born.epoch > 0}
        writes.update(dict.fromkeys(gone))
        if not writes:
            return
        failure: TierError | None = None
        left = list(reversed(self.slower))
        try:
            while left:
                failure = await self._write(fx, left[0], writes) or failure
                left.pop(0)
        except BaseException as end:
            for tier in left:
                self.backlog.put_from_anywhere(tier, self._for_tier(tier, writes))
            # GeneratorExit is raised in the garbage collector, where no lock may be taken
            if not isinstance(end, GeneratorExit):
                self.backlog.take_late()
            raise
        self._keep_house()
        if failure is not None and not self.policy.fail_open:
            raise failure

    async def discard(self, fx: Effects, keys: Sequence[str]) -> None:
        """Erase the entries of *keys* in all tiers. A tier that fails erases them later.

        It is called if a value that cannot be stored has replaced them.
        """
        if self.local is not None:
            self.local.delete_many(keys)
        await self.spread(fx, (), keys)

    async def _write(self, fx: Effects, tier: Tier, writes: Writes) -> TierError | None:
        left = self._for_tier(tier, writes)
        if self.policy.write == "behind" or self.backlog.must_queue(tier, left):
            self.backlog.put(tier, left)
            return None
        try:
            if entries := [entry for entry in left.values() if entry is not None]:
                await fx.write(tier, entries)
            left = {key: None for key, entry in left.items() if entry is None}
            if left:
                await fx.erase(tier, list(left))
            self.availability.succeeded("write", tier.name)
        except TierError as error:
            self.tell.tier_failed(error, "write")
            # if the tier refused several entries permanently, the queue finds the bad one
            self.backlog.put(tier, left if error.retryable or len(left) > 1 else dict.fromkeys(left))
            return error
        return None

    def _capped(self, tier: Tier, entries: Iterable[Entry]) -> list[Entry]:
        if tier.ttl is None:
            return list(entries)
        until = self.clock.time() + tier.ttl
        return [entry.capped(until) for entry in entries]

    def _for_tier(self, tier: Tier, writes: Writes) -> dict[str, Entry | None]:
        """Return *writes* in the form that the slower tier *tier* can store.

        Lifetimes are limited by the tier. Entries that it cannot hold become erasures.
        """
        readable = tier is self.tiers[-1]
        fitting = dict(writes)
        for entry in self._capped(tier, [entry for entry in writes.values() if entry is not None]):
            if self.most(tier, entry.value) is None:
                fitting[entry.key] = entry if readable else entry.unreadable()
            else:
                fitting[entry.key] = None
                reason = "too large"
                self.tell(Event(kind="not_stored", tier=tier.name, key=entry.key, namespace=entry.namespace, reason=reason))
        return fitting

    def most(self, tier: Tier, value: bytes) -> int | None:
        """Return the size limit of *tier* if *value* exceeds it, or else None."""
        most = self._most[id(tier)]
        if len(value) <= most or (getattr(tier, "compresses", False) and stored_bytes(value) <= most):
            return None
        return most

    def close(self) -> None:
        """Write the queue and end the threads; the tiers stay open."""
        self._closed = True
        self.backlog.close(exit_hooks.EXIT)
        self.watch.close()

    def _keep_house(self) -> None:
        """Queue periodic maintenance: purge expired entries, write the log id to shared tiers."""
        if self._closed and not self._used_after_close:
            self._used_after_close = True
            _log.warning("cache used after close(): closed tiers neither answer nor store. Close the cache at the end of the program")
        now, epoch = self.clock.monotonic(), self.watch.view.position[0]
        if now >= self._purge_at:
            self._purge_at, self._noted = now + _PURGE_EVERY, 0
            for tier in self._purging:
                self.backlog.courtesy(tier, "purge", partial(_purge, self.backlog, tier))
        if self._shared and self._noted != epoch > 0:
            self._noted = epoch
            self._epochs.add(epoch)
            for tier in self._shared:
                self.backlog.courtesy(tier, "note the log", partial(_note_log, tier, epoch, self._epochs, self.tell))

    # --- statistics

    def stats(self) -> Stats:
        """Return a snapshot of the statistics."""
        evicted = getattr(self.local, "evictions", 0)
        return self.counters.snapshot(
            queued=len(self.backlog),
            evicted=evicted,
            observer_failures=self.observers.failures,
            unavailable=self.availability.states(),
        )


def _note_log(tier: Shared, epoch: int, known: AbstractSet[int], tell: Teller) -> None:
    """Write the id of the log to *tier*; report a conflict if the old id is unknown here."""
    before = tier.swap_log_id(epoch)
    if before is not None and before not in known:
        reason = "it was last used with another invalidation log: the slowest tier has changed or was lost, or two set-ups share this one"
        tell(Event(kind="authority_conflict", tier=tier.name, reason=reason))


def _purge(backlog: Backlog, tier: Purges) -> None:
    """Purge expired entries of *tier*; queue the next batch if this one was full."""
    if tier.purge():
        backlog.courtesy(cast("Tier", tier), "purge", partial(_purge, backlog, tier))
