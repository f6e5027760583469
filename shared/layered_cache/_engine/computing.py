"""Computing what no tier has: one computation per key and process.

It lands as soon as memory has the answer; slower tiers follow. Whoever asks after an invalidation returned gets no answer whose
computation began before it: not from a tier, and not from a flight that was under way.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias, cast

from layered_cache._engine.effects import Effects
from layered_cache._engine.engine import Ask, Engine, Hit
from layered_cache._engine.flights import Flight, Flights, holds_any
from layered_cache._engine.refreshes import Refreshes
from layered_cache._engine.watch import Trust
from layered_cache.entry import Answer, Entry, Ticket
from layered_cache.events import Event

Compute: TypeAlias = Callable[[], Awaitable[Answer]]


class Computing:
    """The computations of one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._flights: Flights[Entry] = Flights()
        self._refreshes = Refreshes(engine.clock)

    async def get_or_compute(self, fx: Effects, ask: Ask, compute: Compute) -> Entry:
        """Return the entry of a request, computing its answer at most once however many callers ask.

        A stale entry is returned at once and refreshed once in the background. Errors of *compute* reach everyone who waits and
        pass unchanged. What the policy does not keep is returned all the same.
        """
        while self._engine.policy.single_flight:
            flight, leading = self._flights.board(ask.key, fx.owner(), fx.stranded())
            if leading:
                return await self._lead(fx, ask, compute, flight)
            if flight.owner == fx.owner() or holds_any() or not fx.may_wait():
                break  # it would wait for himself, or might
            if not await fx.join(flight.future, cast("float", self._engine.policy.max_wait), flight.is_lost):
                if flight.is_lost():
                    continue
                break  # it takes too long
            entry = flight.future.result()
            # it may come of a flight that began before an invalidation which this caller knows of, or could not learn of
            view, trust = await self._engine.watch.current(fx)
            if entry is not None and trust is not Trust.NOTHING and not view.void(entry):
                self._engine.note_hit(Hit(entry, "flight"), verified=trust is Trust.ALL)
                return entry
        return await self._load(fx, ask, compute, None)

    async def _lead(self, fx: Effects, ask: Ask, compute: Compute, flight: Flight[Entry]) -> Entry:
        before = self._flights.hold(flight)
        try:
            entry = await self._load(fx, ask, compute, flight)
        except GeneratorExit:  # the collector, in the middle of anything: no lock may be taken, and this is nobody's context
            flight.collected = True
            raise
        except Exception as error:
            self._flights.let_go(before)
            self._flights.land(flight, error=error)
            raise
        except BaseException:
            self._flights.let_go(before)
            self._flights.land(flight)  # without an outcome: a follower takes over
            raise
        self._flights.let_go(before)
        self._flights.land(flight, entry)
        return entry

    async def _load(self, fx: Effects, ask: Ask, compute: Compute, flight: Flight[Entry] | None) -> Entry:
        # what is known now is what the answer is born with: whoever boards later judges by it
        born = await self._engine.watch.ticket(fx)
        hit = (await self._engine.read(fx, [ask.key], stale=True, leave=False)).get(ask.key)
        if hit is None:
            return await self._compute(fx, ask, compute, born, flight)
        stale = not hit.entry.is_fresh(self._engine.clock.time())
        if stale and self._refreshes.begin(ask.key) and not fx.spawn(self._refresh(fx, ask, compute)):
            self._refreshes.end(ask.key, failed=False)
        return hit.entry

    async def _compute(self, fx: Effects, ask: Ask, compute: Compute, born: Ticket, flight: Flight[Entry] | None) -> Entry:
        engine = self._engine
        started = engine.clock.time()
        answer = await compute()
        admitted = engine.admitted(ask, answer, born, started=started)
        # what is not kept is returned all the same; those who follow judge by its birth whether it is too old for them
        entry = admitted or engine.entry(ask, answer, born, started)
        if flight is not None and engine.local is not None:
            self._flights.land(flight, entry)
        if admitted is not None:
            await engine.spread(fx, [admitted])
        return entry

    async def _refresh(self, fx: Effects, ask: Ask, compute: Compute) -> None:
        """Compute a stale entry's successor, unless another process has."""
        try:
            born = await self._engine.watch.ticket(fx)
            found, _view, _trust = await self._engine.look_up(fx, [ask.key], stale=False)
            if not found:
                await self._compute(fx, ask, compute, born, None)
        except GeneratorExit:
            raise
        except Exception as error:  # noqa: BLE001 - nobody waits for it: the stale entry stays, and who observes is told
            self._refreshes.end(ask.key, failed=True)
            self._engine.tell(Event(kind="refresh_failed", key=ask.key, namespace=ask.namespace, reason=type(error).__name__))
        except BaseException:
            self._refreshes.end(ask.key, failed=False)
            raise
        else:
            self._refreshes.end(ask.key, failed=False)
