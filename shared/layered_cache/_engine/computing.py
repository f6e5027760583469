"""Computing what no tier has: one computation per key and process.

It lands as soon as memory has the answer; slower tiers follow. Whoever asks after an invalidation returned gets no answer whose
computation began before it: not from a tier, and not from a flight that was under way.

Some hosts cannot say "look up, else compute": they look up, compute where nobody sees it, and store. For them a miss may begin a flight
(`find_or_lead`), which ends when its key is stored (`store`), or when the host says that nothing will come of it, or when the task or
the thread that led it has ended, or after `Policy.max_wait`. An error of theirs cannot reach those who follow: one of them leads next;
after a second leader without an answer, everyone goes alone, so that a model that is down does not keep them in a queue.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Literal, TypeAlias, cast

from layered_cache._engine.effects import Effects
from layered_cache._engine.engine import Ask, Engine, Hit
from layered_cache._engine.flights import Flight, Flights, NothingToShareError, holds_any
from layered_cache._engine.refreshes import Refreshes
from layered_cache._engine.watch import Trust
from layered_cache.entry import Answer, Entry, Ticket
from layered_cache.events import Event

Compute: TypeAlias = Callable[[], Awaitable[Answer]]
Led: TypeAlias = Callable[[Callable[[], None]], None]
"""What is told that the caller leads now, and handed what it has to call when nothing will come of that. More than once is no error."""

_LEADERS = 2  # whom a caller of `find_or_lead` waits for, one after the other


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
        patience = self._engine.clock.monotonic() + self._max_wait
        while self._engine.policy.single_flight:
            flight, leading = self._flights.board(ask.key, fx.owner(), fx.stranded(), fx.needs_me())
            if leading:
                return await self._lead(fx, ask, compute, flight)
            followed = await self._follow(fx, flight, max(0.0, patience - self._engine.clock.monotonic()))
            if followed == "alone":
                break
            if followed != "again":
                return followed
        return await self._load(fx, ask, compute, None)

    @property
    def _max_wait(self) -> float:
        return cast("float", self._engine.policy.max_wait)

    async def _follow(self, fx: Effects, flight: Flight[Entry], seconds: float) -> Entry | Literal["again", "alone"]:
        """Wait for *flight*, *seconds* at most; return its entry, or whether to start again or to go on alone.

        An error that it landed with is raised.
        """
        if flight.owner == fx.owner() or holds_any() or not fx.may_wait() or flight.needs_me():
            return "alone"  # it would wait for himself, or might
        if not await fx.join(flight.future, seconds, flight.is_lost):
            return "again" if flight.is_lost() else "alone"
        try:
            entry = flight.future.result()
        except NothingToShareError:
            return "alone"
        # it may come of a flight that began before an invalidation which this caller knows of, or could not learn of
        view, trust = await self._engine.watch.current(fx)
        if trust is Trust.NOTHING:
            return "alone"  # nor would he know it of the next one
        if entry is None or view.void(entry):
            return "again"
        self._engine.note_hit(Hit(entry, "flight"), verified=trust is Trust.ALL)
        return entry

    # --- for hosts that look up and store in two calls

    async def find_or_lead(self, fx: Effects, key: str, led: Led) -> Hit | None:
        """Return what the tiers hold for *key*, or what comes of the flight that is under way; None: the caller computes.

        Before None is returned, *led* is told if others may wait for the caller now: it has to store, or to say that it will not.
        """
        patience = self._engine.clock.monotonic() + self._max_wait
        for _ in range(_LEADERS):
            flight, leading = self._flights.board(key, fx.owner(), self._overdue(fx.stranded()), fx.needs_me())
            if leading:
                return await self._begin(fx, flight, led)
            try:
                followed = await self._follow(fx, flight, max(0.0, patience - self._engine.clock.monotonic()))
            except Exception:  # noqa: BLE001 - of another caller's computation: his to handle
                followed = "again"
            if followed == "alone":
                break
            if followed != "again":
                return Hit(followed, "flight")
        return (await self._engine.read(fx, [key])).get(key)

    def _overdue(self, stranded: Callable[[], bool]) -> Callable[[], bool]:
        """Return what tells whether a lead has had its time: hosts may fail to say that it is over."""
        clock, end = self._engine.clock, self._engine.clock.monotonic() + self._max_wait
        return lambda: stranded() or clock.monotonic() > end

    async def _begin(self, fx: Effects, flight: Flight[Entry], led: Led) -> Hit | None:
        try:
            hit = (await self._engine.read(fx, [flight.key])).get(flight.key)
        except GeneratorExit:  # see _lead
            flight.collected = True
            raise
        except BaseException:
            self._flights.land(flight)
            raise
        if hit is not None:
            self._flights.land(flight, hit.entry)
            return hit
        self._flights.hold(flight)
        forget = fx.when_ended(lambda: self._flights.land(flight))
        flight.future.add_done_callback(lambda _: forget())
        led(lambda: self._flights.land(flight))
        return None

    async def store(self, fx: Effects, answers: Mapping[str, tuple[Ask, Answer]], born: Ticket | None) -> dict[str, Entry]:
        """Hold *answers* as `Engine.store` does; whoever waits for one of them has it as soon as memory does."""
        flights = [flight for key in answers if (flight := self._flights.aloft(key)) is not None]
        if not flights:
            return await self._engine.store(fx, answers, born)
        owner = fx.owner()
        held: Mapping[str, Entry] = {}

        def in_memory(entries: Mapping[str, Entry]) -> None:
            nonlocal held
            held = entries
            if self._engine.local is not None:
                self._share(flights, entries)

        try:
            return await self._engine.store(fx, answers, born, in_memory)
        finally:
            self._share(flights, held)
            for flight in flights:
                if flight.owner == owner:
                    self._flights.land(flight, error=NothingToShareError())

    def _share(self, flights: list[Flight[Entry]], entries: Mapping[str, Entry]) -> None:
        for flight in flights:
            if flight.key in entries:
                self._flights.land(flight, entries[flight.key])

    def nothing_to_share(self, key: str, owner: object) -> None:
        """Note that the answer which *owner* has for *key* is not stored: if others wait for it, they go on alone."""
        flight = self._flights.aloft(key)
        if flight is not None and flight.owner == owner:
            self._flights.land(flight, error=NothingToShareError())

    # --- for those that hand over what computes

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
        elif engine.policy.is_too_large(answer):
            await engine.spread(fx, (), [ask.key])
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
