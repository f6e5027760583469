"""Reading, writing, computing and removing over tiers ordered from fastest to slowest: the decisions, once, for both worlds.

The laws:
- A tier that fails counts as a tier that holds nothing (`Policy.fail_open`).
- What is found below is promoted above with the time it has left, and keeps its birth; so a promotion that lands late can bring
  nothing back.
- An answer is written to memory first (the next caller may come at once), then to the slower tiers, slowest first, each within its
  budget; what a budget leaves over waits in the backlog.
- One computation per key and process. It lands as soon as memory has the answer; slower tiers follow.
- Whoever reads after an invalidation returned gets no answer whose computation began before it: not from a tier, not from a
  flight that was under way.
"""

from __future__ import annotations

import weakref
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias, cast

from layered_cache._engine.backlog import Backlog
from layered_cache._engine.effects import Effects
from layered_cache._engine.flights import Flight, Flights, holds_any
from layered_cache._engine.refreshes import Refreshes
from layered_cache._engine.telling import Teller
from layered_cache._engine.tickets import Tickets
from layered_cache._engine.watch import Trust, Watch
from layered_cache.clocks import Clock
from layered_cache.entry import Answer, Entry, Refused, Request, Ticket
from layered_cache.errors import DeletionError, TierError
from layered_cache.events import Event, Observers
from layered_cache.invalidation import Scope, View
from layered_cache.policy import Policy
from layered_cache.receipt import Receipt
from layered_cache.stats import Counters, Stats
from layered_cache.tiers._tier import SLOT_FACTS, Authority, LocalTier, Purges, Queryable, Slot, Tier, slot_entry

Compute: TypeAlias = Callable[[], Awaitable["bytes | Answer"]]

_SLICE = 0.5  # seconds: how often a follower looks whether its leader's loop was closed
_RULE_LIFE = 86_400.0  # seconds that a rule is kept beyond the longest life of an entry
_PURGE_EVERY = 60.0
_TOO_LONG = object()


class Hit(NamedTuple):
    """An entry, and the name of the tier that had it."""

    entry: Entry
    tier: str


class Ask(NamedTuple):
    """What `get_or_compute` is about."""

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
        self._slower = self.tiers[1:] if self.local is not None else self.tiers
        self.counters = Counters(self.local.name if self.local is not None else None)
        self.tickets = Tickets(clock)
        self.flights: Flights[Entry] = Flights()
        self._refreshes = Refreshes(clock)
        self._longest_life = cast("float", policy.keep_for)
        self._purge_at = float("-inf")
        self.tell = Teller(self.counters, observers)
        authority = next((tier for tier in reversed(self._slower) if isinstance(tier, Authority)), None)
        self.watch = Watch(authority, policy, clock, self.tell, self.counters)
        self.backlog = Backlog(policy.queue_bytes, self.watch, clock, self.tell, weakref.ref(self))

    # --- reading

    def peek(self, key: str) -> Slot | None:
        """Return the local tier's slot of *key* if it may be served as it is: fresh, and not void. It never waits.

        The short cut of every hit in memory: no coroutine, no lock, one reading of the clock.
        """
        local, watch = self.local, self.watch
        if local is None or (now := self.clock.monotonic()) >= watch.good_until:
            return None
        slot = local.peek(key, watch.view.position, now)
        if slot is not None:
            self.counters.memory_hit(slot[SLOT_FACTS])
            if self.observers:
                self.observers(self.hit_event(Hit(slot_entry(key, slot), local.name)))
        return slot

    async def read(self, fx: Effects, keys: Iterable[str], *, stale: bool = False, leave: bool = True) -> dict[str, Hit]:
        """Return what the tiers hold for *keys*, asking the fastest first; absent keys are absent.

        Args:
            fx: The caller's world.
            keys: Duplicates are asked once.
            stale: Whether a stale entry will do. If not, slower tiers are asked for a fresh one, and a stale one is a miss.
            leave: Whether a miss leaves a ticket for the answer that its caller may store.
        """
        view, trust = await self.watch.current(fx)
        missing = list(dict.fromkeys(keys))
        found: dict[str, Hit] = {}
        for depth, tier in enumerate(self.tiers):
            if not missing or trust is Trust.NOTHING or (trust is Trust.OWN and tier is not self.local):
                break
            if tier is self.local:
                entries = self._read_local(missing, view)
            else:
                entries = await self._usable(fx, tier, await self._read_tier(fx, tier, missing), view)
            now = self.clock.time()
            good = {key: entry for key, entry in entries.items() if (entry.is_live(now) if stale else entry.is_fresh(now))}
            if good:
                self._promote(depth, good.values(), view)
                found.update((key, Hit(entry, tier.name)) for key, entry in good.items())
                missing = [key for key in missing if key not in good]
        for hit in found.values():
            self._note_hit(hit, verified=trust is Trust.ALL)
        for key in missing:
            self.tell(Event(kind="miss", key=key))
            if leave:
                self.tickets.leave(key, fx.owner(), view.ticket)
        return found

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

    async def _read_tier(self, fx: Effects, tier: Tier, keys: Sequence[str]) -> Mapping[str, Entry | Refused]:
        if queued := self.backlog.pending(tier, keys):
            keys = [key for key in keys if key not in queued]
            if not keys:
                return queued
        try:
            held = await fx.read(tier, keys)
        except TierError as error:
            self._failed(error)
            return queued
        return {**held, **queued} if queued else held

    async def _usable(self, fx: Effects, tier: Tier, held: Mapping[str, Entry | Refused], view: View) -> dict[str, Entry]:
        entries: dict[str, Entry] = {}
        for key, entry in held.items():
            if isinstance(entry, Refused):
                self.tell(Event(kind="refused", tier=tier.name, key=key, reason=entry.reason))
                if entry.erase:  # now, not later: later it could hit the answer that replaces it
                    try:
                        await fx.erase(tier, [key])
                    except TierError as error:
                        self.tell.tier_failed(error)
            elif view.void(entry):
                self.counters.void()
            else:
                entries[key] = entry
        return entries

    def _promote(self, depth: int, entries: Iterable[Entry], view: View) -> None:
        for tier in self.tiers[:depth]:
            capped = self._capped(tier, entries)
            if isinstance(tier, LocalTier):
                for entry in capped:
                    tier.put(entry, view.position)
            else:
                self.backlog.put(tier, capped)

    def _note_hit(self, hit: Hit, *, verified: bool) -> None:
        self.counters.hit(hit.tier, hit.entry.savings)
        if not verified:
            self.tell(Event(kind="served_unverified", tier=hit.tier, key=hit.entry.key, namespace=hit.entry.namespace))
        if self.observers:
            self.observers(self.hit_event(hit))

    def hit_event(self, hit: Hit) -> Event:
        """Return what observers are told of *hit*."""
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
        """Note that an adapter could not read what was found: *caller* has missed."""
        self.tell(Event(kind="undecodable", key=key, reason=reason))
        self.tickets.leave(key, caller, self.watch.view.ticket)

    # --- writing

    async def store(self, fx: Effects, answers: Mapping[str, tuple[Ask, Answer]], born: Ticket | None = None) -> dict[str, Entry]:
        """Hold *answers*, as far as the policy admits them; return what is held.

        Each is born at *born* if given, else at the ticket that its caller left, else now.
        """
        view, _trust = await self.watch.current(fx)
        now = self.clock.time()
        entries: list[Entry] = []
        for key, (ask, answer) in answers.items():
            ticket, since = (born, 0.0) if born else self.tickets.take(key, fx.owner()) or (view.ticket, 0.0)
            if (entry := await self._admitted(fx, ask, answer, ticket, started=now - since)) is not None:
                entries.append(entry)
        await self._spread(fx, entries)
        return {entry.key: entry for entry in entries}

    async def _admitted(self, fx: Effects, ask: Ask, answer: Answer, ticket: Ticket, *, started: float) -> Entry | None:
        """Return the entry to hold of *answer*, which memory has now; or None, having told why it is not held."""
        reason: str | None = self.policy.refuses(ask.request, answer)
        if reason is None:
            resolved = await self.watch.resolved(fx, ticket)
            view = self.watch.view
            entry = None if resolved is None else self._entry(ask, answer, resolved, started)
            if entry is None or view.void(entry):
                reason = "invalidated"
            elif self.local is not None:  # marked with the view that it was checked against, not with a newer one
                self.local.put(self._capped(self.local, [entry])[0], view.position)
                return entry
            elif entry.born.epoch > 0:
                return entry
            else:  # nobody could say later whether it is void
                reason = "log unread"
        self.tell(Event(kind="not_stored", key=ask.key, namespace=ask.namespace, model=ask.request.model, reason=reason))
        return None

    def _entry(self, ask: Ask, answer: Answer, born: Ticket, started: float) -> Entry:
        now = self.clock.time()
        entry = self.policy.entry(ask.request, answer, key=ask.key, namespace=ask.namespace, born=born, started=started, now=now)
        self._longest_life = max(self._longest_life, entry.keep_until - now)
        return entry

    async def _spread(self, fx: Effects, entries: Sequence[Entry]) -> None:
        """Write *entries* to the slower tiers, slowest first."""
        if not entries:
            return
        for entry in entries:
            self.tell(Event(kind="stored", key=entry.key, namespace=entry.namespace, model=entry.model))
        lasting = [entry for entry in entries if entry.born.epoch > 0]  # while the log is unknown: memory only
        if not lasting:
            return
        failure: TierError | None = None
        left = list(reversed(self._slower))
        try:
            while left:
                tier = left[0]
                capped = self._capped(tier, lasting)
                if self.policy.write == "behind" or self.backlog.must_queue(tier, (entry.key for entry in lasting)):
                    self.backlog.put(tier, capped)
                else:
                    try:
                        await fx.write(tier, capped)
                    except TierError as error:
                        failure = error
                        self.tell.tier_failed(error)
                        if error.retryable:
                            self.backlog.put(tier, capped)
                left.pop(0)
        finally:
            for tier in left:  # the caller was cancelled: the answer is paid for, and is not lost
                self.backlog.put(tier, self._capped(tier, lasting))
        self._purge_now_and_then()
        if failure is not None and not self.policy.fail_open:
            raise failure

    def _capped(self, tier: Tier, entries: Iterable[Entry]) -> list[Entry]:
        if tier.ttl is None:
            return list(entries)
        until = self.clock.time() + tier.ttl
        return [entry.capped(until) for entry in entries]

    def _purge_now_and_then(self) -> None:
        now = self.clock.monotonic()
        if now >= self._purge_at:
            self._purge_at = now + _PURGE_EVERY
            for tier in self._slower:
                if isinstance(tier, Purges):
                    self.backlog.purge(tier)

    # --- computing

    async def get_or_compute(self, fx: Effects, ask: Ask, compute: Compute) -> Entry:
        """Return the entry of a request, computing its answer at most once however many callers ask.

        A stale entry is returned at once and refreshed once in the background. Errors of *compute* reach everyone who waits and
        pass unchanged. What the policy does not keep is returned all the same.
        """
        flight: Flight[Entry] | None = None
        while self.policy.single_flight:
            flight, leading = self.flights.board(ask.key, fx.owner(), fx.stranded())
            if leading:
                break
            if flight.owner == fx.owner() or holds_any() or not fx.may_wait():
                flight = None
                break
            entry = await self._followed(fx, flight)
            if entry is _TOO_LONG:
                flight = None
                break
            # an entry may come of a flight that began before an invalidation which this caller knows of
            if isinstance(entry, Entry) and not (await self.watch.current(fx))[0].void(entry):
                self._note_hit(Hit(entry, "flight"), verified=True)
                return entry
        if flight is None:
            return await self._load(fx, ask, compute, None)
        before = self.flights.hold(flight)
        try:
            return await self._load(fx, ask, compute, flight)
        except Exception as error:
            self.flights.land(flight, error=error)
            raise
        finally:
            self.flights.let_go(before)
            self.flights.land(flight)  # without an outcome, if it has none: a follower takes over

    async def _followed(self, fx: Effects, flight: Flight[Entry]) -> Entry | object:
        """Return what *flight* brought: an entry, None if nothing, or that it takes too long."""
        waited, most = 0.0, cast("float", self.policy.max_wait)
        while not await fx.join(flight.future, min(_SLICE, most - waited)):
            waited += _SLICE
            if flight.stranded():
                self.flights.land(flight)
            elif waited >= most:
                return _TOO_LONG
        return flight.future.result()

    async def _load(self, fx: Effects, ask: Ask, compute: Compute, flight: Flight[Entry] | None) -> Entry:
        # what is known now is what the answer is born with: whoever boards later judges by it
        born = (await self.watch.current(fx))[0].ticket
        hit = (await self.read(fx, [ask.key], stale=True, leave=False)).get(ask.key)
        if hit is None:
            return await self._compute(fx, ask, compute, born, flight)
        stale = not hit.entry.is_fresh(self.clock.time())
        if stale and self._refreshes.begin(ask.key) and not fx.spawn(self._refresh(fx, ask, compute)):
            self._refreshes.end(ask.key, failed=False)
        if flight is not None:
            self.flights.land(flight, hit.entry)
        return hit.entry

    async def _compute(self, fx: Effects, ask: Ask, compute: Compute, born: Ticket, flight: Flight[Entry] | None) -> Entry:
        started = self.clock.time()
        given = await compute()
        answer = given if isinstance(given, Answer) else Answer(value=given)
        admitted = await self._admitted(fx, ask, answer, born, started=started)
        # what is not kept is returned all the same; those who follow judge by its birth whether it is too old for them
        entry = admitted or self._entry(ask, answer, self.watch.view.resolved(born) or born, started)
        if flight is not None and self.local is not None:
            self.flights.land(flight, entry)
        if admitted is not None:
            await self._spread(fx, [admitted])
        if flight is not None:
            self.flights.land(flight, entry)
        return entry

    async def _refresh(self, fx: Effects, ask: Ask, compute: Compute) -> None:
        """Compute a stale entry's successor, unless another process has."""
        failed = True
        try:
            hit = (await self.read(fx, [ask.key], leave=False)).get(ask.key)
            if hit is None:
                await self._compute(fx, ask, compute, self.watch.view.ticket, None)
            failed = False
        except Exception as error:  # noqa: BLE001 - nobody waits for it: the stale entry stays, and who observes is told
            self.tell(Event(kind="refresh_failed", key=ask.key, namespace=ask.namespace, reason=type(error).__name__))
        finally:
            self._refreshes.end(ask.key, failed=failed)

    # --- removing

    async def delete(self, fx: Effects, namespace: str, keys: Sequence[str]) -> Receipt:
        """Make entries of *keys* void, and erase them."""
        seq = await self._rule(fx, namespace, Scope(keys=tuple(dict.fromkeys(keys))))
        self.backlog.forget(keys)
        removed: dict[str, int] = {}
        failures: list[TierError] = []
        for tier in reversed(self.tiers):  # slowest first: a reader must find less and less to promote
            try:
                removed[tier.name] = await fx.erase(tier, keys)
            except TierError as error:
                self.tell.tier_failed(error)
                failures.append(error)
        return self._receipt(namespace, seq, removed, failures)

    async def invalidate(self, fx: Effects, namespace: str, scope: Scope) -> Receipt:
        """Make everything that *scope* matches in *namespace* void; all of it, if it is empty."""
        seq = await self._rule(fx, namespace, scope)
        removed: dict[str, int] = {}
        failures: list[TierError] = []
        for tier in reversed(self._slower):
            if isinstance(tier, Queryable):
                try:
                    removed[tier.name] = await fx.erase_where(tier, namespace, scope, seq)
                except TierError as error:
                    self.tell.tier_failed(error)
                    failures.append(error)
        return self._receipt(namespace, seq, removed, failures)

    async def matching(self, fx: Effects, namespace: str, scope: Scope) -> Receipt:
        """Return what `invalidate` would remove, removing nothing."""
        counted = {tier.name: await fx.count_where(tier, namespace, scope) for tier in self._slower if isinstance(tier, Queryable)}
        return Receipt(seq=None, durable=False, removed=counted)

    async def _rule(self, fx: Effects, namespace: str, scope: Scope) -> int:
        before = int((self.clock.time() - self._longest_life - _RULE_LIFE) * 1e6)
        try:
            return await self.watch.append(fx, namespace, scope, max(before, 0))
        except TierError as error:
            self.watch.failed(error)
            msg = f"the invalidation could not be recorded, so what it names may still be served: {error}"
            raise DeletionError(msg, (error,)) from error

    def _receipt(self, namespace: str, seq: int, removed: Mapping[str, int], failures: Sequence[TierError]) -> Receipt:
        self.tell(Event(kind="invalidated", namespace=namespace, count=sum(removed.values())))
        return Receipt(seq=seq, durable=self.watch.durable, removed=dict(removed), failures=tuple(failures))

    # --- the rest

    def _failed(self, error: TierError) -> None:
        self.tell.tier_failed(error)
        if not self.policy.fail_open:
            raise error

    def stats(self) -> Stats:
        """Return what was counted."""
        evicted = getattr(self.local, "evictions", 0)
        return self.counters.snapshot(queued=len(self.backlog), evicted=evicted, observer_failures=self.observers.failures)
