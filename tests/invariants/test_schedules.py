"""What holds in every order in which a few callers can take their steps, not only in those that a stress test happens to see.

Each law explores all orders of its callers' touches of the world: reads, writes and erasures of the shared tier, looks at the
invalidation log and appends to it, computations. What each caller did is written into a history, and the law is about that.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Sequence
from functools import partial
from typing import Any

import pytest
from invariants.mutation_marker import catches
from invariants.mutations import (
    a_cancelled_leader_lands_its_cancellation,
    a_cancelled_leader_never_lands,
    a_looker_that_is_cancelled_has_failed,
    everyone_leads,
    everyone_may_wait,
    followers_take_whatever_lands,
    holders_wait,
    hosts_are_not_heard_of,
    memory_is_trusted_for_ever,
    nothing_is_void,
    one_ticket_for_all,
    stores_take_no_ticket,
    the_flight_lands_before_memory_has_it,
    the_leader_does_not_look_again,
    the_log_is_read_once,
)
from layered_cache import Answer, MemoryTier, Request, TieredCache
from layered_cache._storage.rules import LogState, Scope
from layered_cache.entry import Ticket
from layered_cache.testing import FakeAuthority, FakeClock
from support.explore import Run, Stepwise, explore, pause

RING_OF_MUTANTS = "slow"
REQUEST, OTHER, THIRD = Request("question"), Request("another"), Request("a third")

Job = Any


class Authority(FakeAuthority):
    """One that writes down when a rule is appended."""

    def __init__(self, history: list[tuple[str, ...]], clock: FakeClock) -> None:
        super().__init__(clock=clock)
        self._history = history

    def append_log(self, namespace: str, scope: Scope | None, seen: Ticket, before: int) -> LogState:
        self._history.append(("appended",))
        return super().append_log(namespace, scope, seen, before)


class World:
    """One shared tier, and as many processes as a law needs, each with its memory.

    Args:
        fx: The effects of this run.
        known: Whether there is an invalidation log already.
        tiers: What a process has: "both", "memory", or "shared".
    """

    def __init__(self, fx: Stepwise, *, known: bool = True, tiers: str = "both") -> None:
        self._tiers = tiers
        self.history: list[tuple[str, ...]] = []
        self.clock = FakeClock()
        self.shared = Authority(self.history, self.clock)
        if known:
            self.shared.open_log(Ticket(0, 0))
        self._fx = fx
        self.cache = self.process()

    def process(self) -> TieredCache:
        """Return the cache of one more process, its methods step by step."""
        memory = [] if self._tiers == "shared" else [MemoryTier(clock=self.clock)]
        shared = [] if self._tiers == "memory" else [self.shared]
        return self._fx.face(TieredCache(*memory, *shared, clock=self.clock))

    def compute(self, name: str, error: Exception | None = None, inner: Callable[[], Awaitable[object]] | None = None) -> Any:
        async def compute() -> Answer:
            self.history.append(("computing", name))
            await pause()
            if inner is not None:
                await inner()
            if error is not None:
                raise error
            return Answer(value=name.encode(), tags=("t",), model="m")

        return compute

    async def ask(self, name: str, cache: TieredCache | None = None, request: Request = REQUEST, **how: Any) -> str:
        """Get or compute; the answer is the name of who computed it."""
        self.history.append(("asks", name))
        entry = await (cache or self.cache).aget_or_compute(request, self.compute(name, **how))
        self.history.append(("gets", name, entry.value.decode()))
        return entry.value.decode()

    async def look_up_and_store(self, name: str, cache: TieredCache | None = None) -> None:
        """Do as hosts do that look up and store in two calls."""
        cache = cache or self.cache
        self.history.append(("asks", name))
        if (entry := await cache.aget(REQUEST)) is None:
            await cache.aset(REQUEST, await self.compute(name)())
        else:
            self.history.append(("gets", name, entry.value.decode()))

    async def lead_or_follow(self, name: str, error: Exception | None = None) -> None:
        """Do as hosts do that look up and store in two calls, and say when they lead."""
        self.history.append(("asks", name))
        leads: list[Callable[[], None]] = []
        if (hit := await self.cache.afetch(self.cache.key(REQUEST), led=leads.append)) is not None:
            self.history.append(("gets", name, hit.entry.value.decode()))
            return
        try:
            answer = await self.compute(name, error)()
        except ValueError:  # a host hears of errors; of a cancellation it does not
            for release in leads:
                release()
            raise
        await self.cache.aset(REQUEST, answer)
        self.history.append(("gets", name, name))

    async def look_up(self, name: str) -> None:
        self.history.append(("asks", name))
        if (entry := await self.cache.aget(REQUEST)) is not None:
            self.history.append(("gets", name, entry.value.decode()))

    def look_up_at_the_end(self, name: str = "reader") -> None:
        """When all steps have been taken, without steps."""
        self.history.append(("asks", name))
        if (entry := self.cache.get(REQUEST)) is not None:
            self.history.append(("gets", name, entry.value.decode()))

    async def remove(self, how: str, cache: TieredCache | None = None) -> None:
        cache = cache or self.cache
        if how == "delete":
            await cache.adelete(REQUEST)
        elif how == "invalidate":
            await cache.ainvalidate(tag="t")
        elif how == "invalidate by a condition":
            await cache.ainvalidate(model="m*")
        else:
            await cache.aclear()
        self.clock.advance(cache.policy.max_staleness + 0.1)
        self.history.append(("removed",))

    def at(self, *what: str) -> int:
        return self.history.index(what)

    def computed(self) -> list[str]:
        return [what[1] for what in self.history if what[0] == "computing"]


def runs(crew: Callable[[Stepwise], tuple[World, Sequence[Job]]], *, at_least: int, cancel: int | None = None) -> Generator[Run[World]]:
    """Yield the runs of *crew* in all orders; a crew whose callers hardly meet proves nothing."""
    number = 0
    for run in explore(crew, cancel=cancel):
        number += 1
        yield run
    assert number >= at_least, number


def nothing_void_is_served(world: World) -> None:
    """Whoever asked after a removal had returned got nothing that was being computed when it was recorded."""
    appended, removed = world.at("appended"), world.at("removed")
    for what in world.history:
        if what[0] == "gets" and world.at("asks", what[1]) > removed:
            assert world.at("computing", what[2]) > appended, world.history


# --- laws


@catches(everyone_leads, the_flight_lands_before_memory_has_it)
@pytest.mark.parametrize("known", [True, False], ids=["a log", "no log yet"])
def test_one_of_many_callers_computes(known: bool) -> None:
    """However the steps of callers fall, one of them computes, and all have that answer."""

    def crew(callers: int, fx: Stepwise) -> tuple[World, list[Job]]:
        world = World(fx, known=known)
        return world, [world.ask(str(number)) for number in range(callers)]

    for callers in (2, 3):
        for run in runs(partial(crew, callers), at_least=10):
            assert len(run.world.computed()) == 1, run.order
            assert {*run.results.values()} == {*run.world.computed()}, run.order


@catches(the_leader_does_not_look_again, everyone_leads)
def test_a_leader_looks_before_he_computes() -> None:
    """Whoever comes when a flight has just landed finds its answer, also without memory."""

    def crew(fx: Stepwise) -> tuple[World, list[Job]]:
        world = World(fx, tiers="shared")
        return world, [world.ask("one"), world.ask("another")]

    for run in runs(crew, at_least=10):
        assert len(run.world.computed()) == 1, run.order


@catches(nothing_is_void, followers_take_whatever_lands)
@pytest.mark.parametrize("how", [pytest.param("delete", marks=pytest.mark.slow), "invalidate", "invalidate by a condition", "clear"])
def test_what_was_removed_is_not_served_to_who_asks_afterwards(how: str) -> None:
    """Neither from a tier, nor from a flight that was under way; the answer of a later computation is."""

    def crew(fx: Stepwise) -> tuple[World, list[Job]]:
        world = World(fx)
        return world, [world.ask("first"), world.remove(how), world.ask("second")]

    for run in runs(crew, at_least=100):
        nothing_void_is_served(run.world)


@catches(nothing_is_void, stores_take_no_ticket, one_ticket_for_all)
@pytest.mark.slow
@pytest.mark.parametrize("how", [pytest.param("delete", marks=pytest.mark.nightly), "invalidate"])
def test_what_was_looked_up_before_a_removal_is_void_when_it_is_stored_after_it(how: str) -> None:
    """Also the answer of the second of two callers that had both looked before it."""

    def crew(fx: Stepwise) -> tuple[World, list[Job]]:
        world = World(fx)
        return world, [world.look_up_and_store("one"), world.look_up_and_store("other"), world.remove(how)]

    for run in runs(crew, at_least=100):
        run.world.look_up_at_the_end()
        nothing_void_is_served(run.world)


@catches(nothing_is_void, the_log_is_read_once, memory_is_trusted_for_ever)
@pytest.mark.parametrize("how", ["delete", "invalidate", "clear"])
def test_other_processes_obey_within_the_staleness_that_is_allowed(how: str) -> None:
    """What another process had in its memory, or was computing, is not served there `max_staleness` after the removal."""

    def crew(fx: Stepwise) -> tuple[World, list[Job]]:
        world = World(fx)
        elsewhere = world.process()

        async def ask_twice() -> None:
            await world.ask("there", elsewhere)
            await world.ask("there, again", elsewhere)

        return world, [ask_twice(), world.remove(how)]

    for run in runs(crew, at_least=20):
        nothing_void_is_served(run.world)


@catches(a_cancelled_leader_lands_its_cancellation, a_cancelled_leader_never_lands)
def test_a_cancelled_caller_cancels_nobody_else() -> None:
    """Wherever he is cancelled: if he led, another one takes over, and at most one more computes; if he followed, nothing happens."""

    def crew(fx: Stepwise) -> tuple[World, list[Job]]:
        world = World(fx)
        return world, [world.ask("cancelled"), world.ask("second"), world.ask("third")]

    for run in runs(crew, at_least=200, cancel=0):
        outcomes = [run.results[number] for number in (1, 2)]
        assert set(outcomes) <= set(run.world.computed()), (outcomes, run.order)
        assert len(set(outcomes)) == 1, run.order
        assert len(run.world.computed()) == 1 + (outcomes[0] != "cancelled" and "cancelled" in run.world.computed()), run.order


@catches(everyone_leads)
def test_an_answer_outlives_the_caller_who_is_cancelled_while_he_stores_it() -> None:
    """What was computed is not computed again."""

    def crew(fx: Stepwise) -> tuple[World, list[Job]]:
        world = World(fx)
        return world, [world.ask("cancelled"), world.ask("second")]

    for run in runs(crew, at_least=50, cancel=0):
        if "gets" in [what[0] for what in run.world.history] and run.results[1] == "cancelled":
            assert run.world.computed() == ["cancelled"], run.order
        else:
            assert run.world.computed()[-1] == "second", run.order


@catches(everyone_leads)
def test_an_error_reaches_those_who_wait_and_no_one_later() -> None:
    """It is not kept: whoever comes after it computes."""

    def crew(fx: Stepwise) -> tuple[World, list[Job]]:
        world = World(fx)
        return world, [world.ask(str(number), error=ValueError(str(number))) for number in range(3)]

    shared = 0
    for run in runs(crew, at_least=20):
        raised = {str(error) for error in run.results.values() if type(error) is ValueError}
        assert len(run.results) == 3, run.order
        assert raised == set(run.world.computed()), run.order
        shared += len(raised) == 1
    assert shared


@catches(everyone_may_wait)
def test_nobody_waits_for_himself() -> None:
    """A computation that asks for its own key computes it once more."""

    def crew(fx: Stepwise) -> tuple[World, list[Job]]:
        world = World(fx)
        return world, [world.ask("outer", inner=lambda: world.ask("inner")), world.ask("other")]

    for run in runs(crew, at_least=20):
        assert all(type(result) is str for result in run.results.values()), (run.results, run.order)


@catches(holders_wait, everyone_may_wait)
@pytest.mark.parametrize(
    "requests",
    [
        pytest.param((REQUEST, OTHER), id="ABBA"),
        pytest.param((REQUEST, OTHER, THIRD), id="a circle of three", marks=pytest.mark.slow),
    ],
)
def test_no_circle_of_computations_waits_for_itself(requests: tuple[Request, ...]) -> None:
    """Computations that ask for each other's keys come to an end in every order."""

    def crew(fx: Stepwise) -> tuple[World, list[Job]]:
        world = World(fx, tiers="memory")
        jobs: list[Job] = []
        for number, request in enumerate(requests):
            inner = requests[(number + 1) % len(requests)]

            def ask_inner(name: str = f"inner {number}", inner: Request = inner) -> Awaitable[object]:
                return world.ask(name, request=inner)

            jobs.append(world.ask(str(number), request=request, inner=ask_inner))
        return world, jobs

    for run in runs(crew, at_least=1):
        assert all(type(result) is str for result in run.results.values()), (run.results, run.order)


# --- hosts that look up and store in two calls


@catches(everyone_leads)
@pytest.mark.parametrize("tiers", ["both", "memory", "shared"])
def test_one_of_many_hosts_computes(tiers: str) -> None:
    """As of many callers who say how to compute."""

    def crew(fx: Stepwise) -> tuple[World, list[Job]]:
        world = World(fx, tiers=tiers)
        return world, [world.lead_or_follow("one"), world.lead_or_follow("other")]

    for run in runs(crew, at_least=3):
        assert len(run.world.computed()) == 1, run.order
        assert {what[2] for what in run.world.history if what[0] == "gets"} == {*run.world.computed()}, run.order


@catches(everyone_leads)
def test_hosts_and_others_share() -> None:
    """Whoever leads, the other one has his answer."""

    def crew(fx: Stepwise) -> tuple[World, list[Job]]:
        world = World(fx)
        return world, [world.lead_or_follow("host"), world.ask("other")]

    for run in runs(crew, at_least=10):
        assert len(run.world.computed()) == 1, run.order


@catches(hosts_are_not_heard_of)
def test_a_host_that_is_cancelled_leaves_the_others_alone() -> None:
    """Wherever it is: one of the others takes over."""

    def crew(fx: Stepwise) -> tuple[World, list[Job]]:
        world = World(fx, tiers="memory")
        return world, [world.lead_or_follow("cancelled"), world.lead_or_follow("second"), world.lead_or_follow("third")]

    for run in runs(crew, at_least=50, cancel=0):
        computed = run.world.computed()
        assert len(computed) == len({*computed} & {"cancelled"}) + len({*computed} - {"cancelled"}), run.order
        assert len({*computed} - {"cancelled"}) <= 1, run.order
        gets = {what[1]: what[2] for what in run.world.history if what[0] == "gets"}
        assert {"second", "third"} <= gets.keys(), run.order
        assert gets["second"] == gets["third"], run.order


@catches(a_cancelled_leader_never_lands)
def test_after_two_hosts_that_fail_everyone_goes_alone() -> None:
    """Each gets his own error, and nobody waits for more than two."""

    def crew(fx: Stepwise) -> tuple[World, list[Job]]:
        world = World(fx, tiers="memory")
        return world, [world.lead_or_follow(str(number), error=ValueError(str(number))) for number in range(3)]

    for run in runs(crew, at_least=50):
        assert [str(run.results[number]) for number in range(3)] == ["0", "1", "2"], run.order


@catches(nothing_is_void, followers_take_whatever_lands)
@pytest.mark.parametrize("how", [pytest.param("delete", marks=pytest.mark.slow), "clear"])
def test_what_was_removed_reaches_no_host_that_asks_afterwards(how: str) -> None:
    """Neither from a tier, nor from a host that was computing."""

    def crew(fx: Stepwise) -> tuple[World, list[Job]]:
        world = World(fx, tiers="shared")
        return world, [world.lead_or_follow("first"), world.remove(how), world.lead_or_follow("second")]

    for run in runs(crew, at_least=50):
        nothing_void_is_served(run.world)


@catches(a_looker_that_is_cancelled_has_failed)
def test_a_look_that_was_cancelled_is_looked_again() -> None:
    """Whoever waited for it looks himself, and obeys what another process has invalidated."""

    def crew(fx: Stepwise) -> tuple[World, list[Job]]:
        world = World(fx)
        world.history.append(("computing", "first"))
        world.cache.set(REQUEST, Answer(value=b"first"))
        world.process().delete(REQUEST)
        world.clock.advance(world.cache.policy.max_staleness + 0.1)
        world.history.append(("removed",))
        return world, [world.look_up("cancelled"), world.look_up("second")]

    for run in runs(crew, at_least=10, cancel=0):
        nothing_void_is_served(run.world)


def test_what_the_last_caller_left_to_do_is_done() -> None:
    """Also if he ends with the step in which he leaves it."""
    done: list[str] = []

    async def job() -> None:
        done.append("job")

    async def caller(fx: Stepwise) -> None:
        fx.spawn(job())

    assert [run.order for run in explore(lambda fx: (None, [caller(fx)]))] == [[0, 1]]
    assert done == ["job"]
