"""Single flight: at most one computation per key and process at a time.

A flight ends as soon as memory holds the answer; slower tiers are written afterwards. After
`invalidate` returns, no caller gets an answer from an older computation, neither from a tier nor
from a computation in flight.

Some hosts have no call for "look up, else compute". They look up, compute outside of the cache, and
store. For such hosts a miss may start a flight (`find_or_lead`). The flight ends if its key is
stored (`store`), if the host reports that there will be no answer, if the task or thread that led
it ends, or after `Policy.max_wait`. Errors of such a host cannot be passed to the followers, so one
follower leads next. After a second leader without an answer each follower computes alone. Otherwise
a model that is down would keep the followers in a queue.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Literal, TypeAlias, cast

from layered_cache._engine.engine import Ask, Engine, Hit
from layered_cache._engine.in_flight import Flight, Flights, NothingToShareError, holds_any
from layered_cache._engine.log_view import Trust
from layered_cache._engine.refresh_guard import Refreshes
from layered_cache._engine.runtime import Effects
from layered_cache.entry import Answer, Entry, Ticket
from layered_cache.events import Event

Compute: TypeAlias = Callable[[], Awaitable[Answer]]
Led: TypeAlias = Callable[[Callable[[], None]], None]
"""A callback for a caller that becomes a leader.

It receives a function that the caller must call if there will be no answer. More than one call is
no error.
"""

# leaders that a caller of `find_or_lead` waits for, one after the other
_LEADERS = 2


class Computing:
    """The computations of one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._flights: Flights[Entry] = Flights()
        self._refreshes = Refreshes(engine.clock)

    async def get_or_compute(self, fx: Effects, ask: Ask, compute: Compute) -> Entry:
        """Return the entry of a request. Concurrent callers share one computation.

        A stale entry is returned at once and refreshed once in the background. Errors of *compute*
        are raised unchanged, in the leader and in all followers. Answers that the policy does not
        admit are returned too.
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
        """Wait for *flight* for at most *seconds*, and return its entry.

        Return "again" if the caller must start again, and "alone" if it must compute alone. An
        error of the flight is raised.
        """
        if flight.owner == fx.owner() or holds_any() or not fx.may_wait() or flight.needs_me():
            # waiting could be a deadlock
            return "alone"
        if not await fx.join(flight.future, seconds, flight.is_lost):
            return "again" if flight.is_lost() else "alone"
        try:
            entry = flight.future.result()
        except NothingToShareError:
            return "alone"
        # The flight may have started before an invalidation that this caller knows of. It may also
        # be too old if the log could not be read.
        view, trust = await self._engine.watch.current(fx)
        if trust is Trust.NOTHING:
            # the next flight could not be verified either
            return "alone"
        if entry is None or view.void(entry):
            return "again"
        self._engine.note_hit(Hit(entry, "flight"), verified=trust is Trust.ALL)
        return entry

    # --- for hosts that look up and store in two calls

    async def find_or_lead(self, fx: Effects, key: str, led: Led) -> Hit | None:
        """Return the entry of *key* from a tier or a flight. None: the caller must compute it.

        Before None is returned, *led* is called if other callers may wait for this one. Then the
        caller must store the answer, or report that there is none.
        """
        patience = self._engine.clock.monotonic() + self._max_wait
        for _ in range(_LEADERS):
            flight, leading = self._flights.board(key, fx.owner(), self._overdue(fx.stranded()), fx.needs_me())
            if leading:
                return await self._begin(fx, flight, led)
            try:
                followed = await self._follow(fx, flight, max(0.0, patience - self._engine.clock.monotonic()))
            except Exception:  # noqa: BLE001 - an error of another caller's computation
                followed = "again"
            if followed == "alone":
                break
            if followed != "again":
                return Hit(followed, "flight")
        return (await self._engine.read(fx, [key])).get(key)

    def _overdue(self, stranded: Callable[[], bool]) -> Callable[[], bool]:
        """Return a predicate: a leader is out of time. Hosts may fail to report the end."""
        clock, end = self._engine.clock, self._engine.clock.monotonic() + self._max_wait
        return lambda: stranded() or clock.monotonic() > end

    async def _begin(self, fx: Effects, flight: Flight[Entry], led: Led) -> Hit | None:
        try:
            hit = (await self._engine.read(fx, [flight.key])).get(flight.key)
        except GeneratorExit:
            # see _lead
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
        """Store *answers* like `Engine.store`. Followers get them as soon as memory holds them."""
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
        """Record that *owner*'s answer to *key* is not stored: its followers compute alone."""
        flight = self._flights.aloft(key)
        if flight is not None and flight.owner == owner:
            self._flights.land(flight, error=NothingToShareError())

    # --- for hosts that pass a function to compute

    async def _lead(self, fx: Effects, ask: Ask, compute: Compute, flight: Flight[Entry]) -> Entry:
        before = self._flights.hold(flight)
        try:
            entry = await self._load(fx, ask, compute, flight)
        except GeneratorExit:
            # The garbage collector closes the coroutine at any point and in any context, so no lock
            # may be taken.
            flight.collected = True
            raise
        except Exception as error:
            self._flights.let_go(before)
            self._flights.land(flight, error=error)
            raise
        except BaseException:
            self._flights.let_go(before)
            # no outcome: a follower takes over
            self._flights.land(flight)
            raise
        self._flights.let_go(before)
        self._flights.land(flight, entry)
        return entry

    async def _load(self, fx: Effects, ask: Ask, compute: Compute, flight: Flight[Entry] | None) -> Entry:
        # The answer is dated with this log position, and later callers compare it with theirs.
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
        # An answer that is not admitted is returned too. Followers check by its log position if it
        # is too old for them.
        entry = admitted or engine.entry(ask, answer, born, started)
        if flight is not None and engine.local is not None:
            self._flights.land(flight, entry)
        if admitted is not None:
            await engine.spread(fx, [admitted])
        elif engine.policy.is_too_large(answer):
            await engine.spread(fx, (), [ask.key])
        return entry

    async def _refresh(self, fx: Effects, ask: Ask, compute: Compute) -> None:
        """Refresh a stale entry, unless another process has done so."""
        try:
            born = await self._engine.watch.ticket(fx)
            found, _view, _trust = await self._engine.look_up(fx, [ask.key], stale=False)
            if not found:
                await self._compute(fx, ask, compute, born, None)
        except GeneratorExit:
            raise
        except Exception as error:  # noqa: BLE001
            # no caller waits: the stale entry stays, and the observers get an event
            self._refreshes.end(ask.key, failed=True)
            self._engine.tell(Event(kind="refresh_failed", key=ask.key, namespace=ask.namespace, reason=type(error).__name__))
        except BaseException:
            self._refreshes.end(ask.key, failed=False)
            raise
        else:
            self._refreshes.end(ask.key, failed=False)
