"""Ways to break the product, for laws to notice: see lawbook.

Each takes a `MonkeyPatch`; what is wrong then is its docstring.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from dataclasses import replace
from typing import Any

import pytest
from layered_cache import MemoryTier
from layered_cache._engine.engine import Engine
from layered_cache._engine.in_flight import Flight, Flights
from layered_cache._engine.log_view import Watch
from layered_cache._engine.miss_positions import Tickets
from layered_cache._engine.single_flight import Computing
from layered_cache._storage.rules import Rules, View
from layered_cache.entry import Ticket
from layered_cache.keys import keys
from layered_cache.testing import FakeAuthority
from support.explore import Stepwise, pause


def everyone_leads(patch: pytest.MonkeyPatch) -> None:
    """No caller finds another one's flight."""
    patch.setattr(Flights, "board", lambda self, key, *caller: (Flight(key, *caller), True))


def the_leader_does_not_look_again(patch: pytest.MonkeyPatch) -> None:
    """Who boards computes at once, although the one before him may just have landed."""

    async def load(self: Computing, fx: Any, ask: Any, compute: Any, flight: Any) -> Any:
        view, _ = await self._engine.watch.current(fx)
        hit = None if flight is not None else (await self._engine.read(fx, [ask.key], leave=False)).get(ask.key)
        return hit.entry if hit else await self._compute(fx, ask, compute, view.ticket, flight)

    patch.setattr(Computing, "_load", load)


def the_flight_lands_before_memory_has_it(patch: pytest.MonkeyPatch) -> None:
    """There is a moment in which neither the flight nor the memory is there."""

    async def compute_(self: Computing, fx: Any, ask: Any, compute: Any, born: Any, flight: Any) -> Any:
        answer = await compute()
        entry = self._engine.entry(ask, answer, born, 0.0)
        if flight is not None:
            self._flights.land(flight, entry)
        await pause()
        admitted = self._engine.admitted(ask, answer, born, started=0.0)
        await self._engine.spread(fx, [admitted] if admitted else [])
        return entry

    patch.setattr(Computing, "_compute", compute_)


def hosts_are_not_heard_of(patch: pytest.MonkeyPatch) -> None:
    """A host that leads and is cancelled is waited for."""
    patch.setattr(Stepwise, "when_ended", lambda self, callback: lambda: None)


def stores_take_no_ticket(patch: pytest.MonkeyPatch) -> None:
    """An answer is born when it is stored, not when it was asked for."""
    patch.setattr(Tickets, "take", lambda self, key, caller: None)


def one_ticket_for_all(patch: pytest.MonkeyPatch) -> None:
    """The first store takes the only ticket, the second has none."""
    leave = Tickets.leave

    def leave_one(self: Tickets, key: str, caller: object, ticket: Ticket) -> None:
        self._by_key.pop(key, None)
        leave(self, key, "everyone", ticket)

    patch.setattr(Tickets, "leave", leave_one)


def nothing_is_void(patch: pytest.MonkeyPatch) -> None:
    """Rules are written and not obeyed."""
    patch.setattr(View, "void", lambda self, entry, *, checked=None: False)


def followers_take_whatever_lands(patch: pytest.MonkeyPatch) -> None:
    """Whoever asks after an invalidation is given the answer of a flight from before it."""
    void = View.void

    def only_when_stored(self: View, entry: Any, *, checked: Any = None) -> bool:
        return sys._getframe(1).f_code.co_name != "_follow" and void(self, entry, checked=checked)

    patch.setattr(View, "void", only_when_stored)


def memory_is_trusted_for_ever(patch: pytest.MonkeyPatch) -> None:
    """A slot that was once found good is not checked again when the view has moved."""
    peek = MemoryTier.peek

    def trusting(self: MemoryTier, key: str, position: Any, now: float) -> Any:
        slot = self._slots.get(key)
        return peek(self, key, slot[0] if slot else position, now)

    patch.setattr(MemoryTier, "peek", trusting)
    patch.setattr(Engine, "_read_local", lambda self, keys, view: {key: found[0] for key in keys if (found := self.local.find(key))})


def the_log_is_read_once(patch: pytest.MonkeyPatch) -> None:
    """What other processes invalidate is never learned of."""
    adopt = Watch._adopt

    def for_good(self: Watch, *args: Any) -> None:
        adopt(self, *args)
        self.good_until = float("inf")

    patch.setattr(Watch, "_adopt", for_good)


def a_cancelled_leader_lands_its_cancellation(patch: pytest.MonkeyPatch) -> None:
    """Those who follow are cancelled with their leader."""
    land = Flights.land

    def with_error(self: Any, flight: Any, outcome: Any = None, error: BaseException | None = None) -> None:
        land(self, flight, outcome, error if error is not None or outcome is not None else asyncio.CancelledError())

    patch.setattr(Flights, "land", with_error)


def a_cancelled_leader_never_lands(patch: pytest.MonkeyPatch) -> None:
    """Those who follow wait for ever."""
    land = Flights.land

    def only_outcomes(self: Any, flight: Any, outcome: Any = None, error: BaseException | None = None) -> None:
        if outcome is not None or error is not None:
            land(self, flight, outcome, error)

    patch.setattr(Flights, "land", only_outcomes)


def holders_wait(patch: pytest.MonkeyPatch) -> None:
    """Who is inside a computation waits for another one's."""
    patch.setattr("layered_cache._engine.single_flight.holds_any", lambda: False)


def everyone_may_wait(patch: pytest.MonkeyPatch) -> None:
    """Nobody knows his own flight, nor whether he holds one."""
    holders_wait(patch)
    patch.setattr(Stepwise, "owner", lambda self: object())


def a_looker_that_is_cancelled_has_failed(patch: pytest.MonkeyPatch) -> None:
    """Those who wait for his look believe that the log cannot be read, and serve what they have."""
    looked = Watch._looked
    patch.setattr(Watch, "_looked", lambda self, mine, ended: looked(self, mine, bool(ended)))


def entries_are_born_when_they_are_stored(patch: pytest.MonkeyPatch) -> None:
    """An entry says what was known when it was stored, not when its computation began."""
    entry = Engine.entry
    patch.setattr(Engine, "entry", lambda self, ask, answer, born, started: entry(self, ask, answer, self.watch.view.ticket, started))


def rules_that_leave_are_forgotten(patch: pytest.MonkeyPatch) -> None:
    """A log that is full drops its oldest rules, and raises no floor."""
    patch.setattr(Rules, "floors", property(lambda self: {}, lambda self, floors: None), raising=False)


def a_lost_log_goes_unnoticed(patch: pytest.MonkeyPatch) -> None:
    """Entries are judged by the log that is there, whichever they were born under."""
    patch.setattr(View, "void", lambda self, entry, *, checked=None: self.rules.void(entry))


def an_older_log_is_taken_as_it_is(patch: pytest.MonkeyPatch) -> None:
    """A log that came back from a snapshot goes on under its epoch."""
    patch.setattr(FakeAuthority, "_restart_if_older", lambda self, seen: None)


def own_removals_wait_for_the_next_look(patch: pytest.MonkeyPatch) -> None:
    """Who removes goes on by the view that he had."""

    async def append(self: Watch, fx: Any, namespace: str, scope: Any, before: int) -> int:
        return (await fx.append_log(self.authority, namespace, scope, self.view.ticket, before)).seq

    patch.setattr(Watch, "append", append)


def nulls_never_count(patch: pytest.MonkeyPatch) -> None:
    """Nulls inside of parameters are dropped as those at the top are."""

    def without(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: without(item) for name, item in value.items() if item is not None}
        return value

    patch.setattr("layered_cache.entry.folded", without)


def whole_floats_are_integers_everywhere(patch: pytest.MonkeyPatch) -> None:
    """As at the top of parameters, so inside of them and in prompts."""
    canonical = keys.canonical

    def whole(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: whole(item) for name, item in value.items()}
        if isinstance(value, list):
            return [whole(item) for item in value]
        return int(value) if type(value) is float and value.is_integer() else value

    patch.setattr(keys, "canonical", lambda value, what="the value": canonical(whole(value), what))


def parts_run_together(patch: pytest.MonkeyPatch) -> None:
    """The parts of a request are hashed one after the other, without their lengths, the names as one text."""
    digest = hashlib.sha256

    def make_key(request: Any, namespace: str) -> str:
        head = f"{namespace}{request.framework}{request.model}{request.sample}".encode()
        return digest(head + request.canonical_prompt + request.canonical_params).hexdigest()

    patch.setattr(keys, "make_key", make_key)


def the_order_of_names_counts(patch: pytest.MonkeyPatch) -> None:
    """JSON is written in the order in which names come."""
    keys._writer.cache_clear()
    patch.setattr(keys, "_writer", lambda: lambda value: json.dumps(value).encode())


def promotions_live_on(patch: pytest.MonkeyPatch) -> None:
    """What is copied to a faster tier begins its life anew."""
    promote = Engine._promote

    def anew(self: Engine, depth: int, entries: Any, view: View) -> None:
        later = self.clock.time() + 10_000
        promote(self, depth, [replace(entry, fresh_until=later, keep_until=later) for entry in entries], view)

    patch.setattr(Engine, "_promote", anew)


def namespaces_are_one(patch: pytest.MonkeyPatch) -> None:
    """The namespace is no part of the key."""
    make_key = keys.make_key
    patch.setattr("layered_cache._engine.arguments.make_key", lambda request, namespace: make_key(request, "one"))
