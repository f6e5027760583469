"""To its user, a cache is a dictionary that forgets: whatever is done to it, in whatever order, in both worlds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from invariants import mutations
from invariants.mutation_marker import catches
from layered_cache import Answer, Entry, MemoryTier, Policy, Request, TieredCache
from layered_cache.testing import FakeAuthority, FakeClock, FakeTier
from layered_cache.tiers.sqlite import SQLiteTier
from support.sync_async import Tasks, Threads

RING_OF_MUTANTS = "slow"
NAMES = "abcd"
TAGS, MODELS = ["red", "blue"], ["m1", "m2"]
FRESH, KEEP = 100.0, 250.0

names = st.sampled_from(NAMES)
namespaces = st.sampled_from(["one", "two", "one/child"])
worlds = st.sampled_from([Threads(), Tasks()])


@dataclass
class Held:
    """What the dictionary holds for a name."""

    value: bytes
    tags: tuple[str, ...]
    model: str
    created: float


class Cache(RuleBasedStateMachine):
    """A cache of three tiers beside a dictionary that is right by its plainness.

    What is set was computed just now, and says so: else it would count as computed when this caller missed it.
    """

    @initialize(sqlite=st.booleans(), write=st.sampled_from(["through", "behind"]), small=st.booleans())
    def make(self, sqlite: bool, write: Any, small: bool) -> None:
        self.folder = TemporaryDirectory()
        self.clock = FakeClock()
        self.last = SQLiteTier(Path(self.folder.name) / "file.db", clock=self.clock) if sqlite else FakeAuthority(clock=self.clock)
        self.middle = FakeTier("middle")
        self.policy = Policy(fresh_for=FRESH, keep_for=KEEP, write=write)
        self.max_bytes = 1 << 16 if small else 1 << 20  # then memory forgets, and slower tiers answer
        self.serial = 0
        self.held: dict[tuple[str, str], Held] = {}
        self.start()

    def start(self) -> None:
        memory = MemoryTier(max_bytes=self.max_bytes, clock=self.clock)
        self.root = TieredCache(memory, self.middle, self.last, namespace="one", policy=self.policy, clock=self.clock)
        two = TieredCache(self.middle, self.last, namespace="two", policy=self.policy, clock=self.clock)
        self.caches = {"one": self.root, "one/child": self.root.namespace("child"), "two": two}

    def call(self, world: Any, where: str, method: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return world.call(self.caches[where], method, *args, **kwargs)
        finally:
            self.write_behind()

    def write_behind(self) -> None:
        """Nothing is late here: that is the model's affair."""
        for cache in (self.root, self.caches["two"]):
            assert cache._engine.backlog.drain(30)

    def right(self, where: str, name: str, *, stale: bool = False) -> Held | None:
        held = self.held.get((where, name))
        age = self.clock.time() - held.created if held is not None else 0.0
        return held if held is not None and age < (KEEP if stale else FRESH) else None

    def compare(self, entry: Entry | None, right: Held | None) -> None:
        assert (entry is None) == (right is None), (entry, right)
        if entry is not None and right is not None:
            assert (entry.value, set(entry.tags), entry.model) == (right.value, set(right.tags), right.model)

    def answer(self, model: str, tags: list[str]) -> tuple[Answer, Held]:
        self.serial += 1
        value = b"%d " % self.serial + bytes(8000)
        held = Held(value, tuple(tags), model, self.clock.time())
        return Answer(value=value, model=model, tags=tuple(tags)), held

    @rule(
        world=worlds,
        where=namespaces,
        name=names,
        model=st.sampled_from(MODELS),
        tags=st.lists(st.sampled_from(TAGS), max_size=2, unique=True),
    )
    def set(self, world: Any, where: str, name: str, model: str, tags: list[str]) -> None:
        answer, held = self.answer(model, tags)
        assert self.call(world, where, "set", Request(name), answer, born=self.call(world, where, "ticket")) is not None
        self.held[where, name] = held

    @rule(world=worlds, where=namespaces, several=st.sets(names, min_size=1), model=st.sampled_from(MODELS))
    def set_many(self, world: Any, where: str, several: set[str], model: str) -> None:
        made = {name: self.answer(model, []) for name in sorted(several)}
        answers = {Request(name): answer for name, (answer, _) in made.items()}
        self.call(world, where, "set_many", answers, born=self.call(world, where, "ticket"))
        self.held.update({(where, name): held for name, (_, held) in made.items()})

    @rule(world=worlds, where=namespaces, name=names, stale=st.booleans())
    def get(self, world: Any, where: str, name: str, stale: bool) -> None:
        self.compare(self.call(world, where, "get", Request(name), stale=stale), self.right(where, name, stale=stale))

    @rule(world=worlds, where=namespaces)
    def get_many(self, world: Any, where: str) -> None:
        found = self.call(world, where, "get_many", [Request(name) for name in NAMES])
        for name in NAMES:
            self.compare(found.get(Request(name)), self.right(where, name))

    def get_everything(self, world: Any) -> None:
        for where in self.caches:
            self.get_many(world, where)

    @rule(world=worlds, where=namespaces, name=names)
    def get_or_compute(self, world: Any, where: str, name: str) -> None:
        fresh, right = self.right(where, name), self.right(where, name, stale=True)
        if right is not None and fresh is None:
            return  # it is refreshed in the background, whenever that is
        answer, held = self.answer("m1", [])
        self.compare(self.call(world, where, "get_or_compute", Request(name), world.compute(answer)), fresh or held)
        self.held.setdefault((where, name), held)
        if fresh is None:
            self.held[where, name] = held

    @rule(world=worlds, where=namespaces, several=st.sets(names, min_size=1))
    def delete(self, world: Any, where: str, several: set[str]) -> None:
        self.call(world, where, "delete", *(Request(name) for name in sorted(several)))
        for name in several:
            self.held.pop((where, name), None)
        self.pass_on()

    @rule(
        world=worlds,
        where=namespaces,
        tag=st.none() | st.sampled_from(TAGS),
        model=st.none() | st.sampled_from([*MODELS, "m*"]),
        name=st.none() | names,
    )
    def invalidate(self, world: Any, where: str, tag: str | None, model: str | None, name: str | None) -> None:
        criteria = {"tag": tag, "model": model, "prompt": name}
        given = {criterion: value for criterion, value in criteria.items() if value is not None}
        if not given:
            return
        self.call(world, where, "invalidate", **given)
        for (place, other), held in list(self.held.items()):
            by_model = model is None or model == "m*" or held.model == model
            if place == where and by_model and (tag is None or tag in held.tags) and name in {None, other}:
                del self.held[place, other]
        self.pass_on()

    @rule(world=worlds, where=namespaces, children=st.booleans())
    def clear(self, world: Any, where: str, children: bool) -> None:
        self.call(world, where, "clear", children=children)
        for place, name in list(self.held):
            if place == where or (children and place.startswith(where + "/")):
                del self.held[place, name]
        self.pass_on()

    def pass_on(self) -> None:
        """Others learn of it within what they may be late by."""
        self.clock.advance(self.policy.max_staleness)

    @rule(world=worlds, seconds=st.sampled_from([1.0, FRESH / 2, FRESH]))
    def wait(self, world: Any, seconds: float) -> None:
        self.clock.advance(seconds)
        self.get_everything(world)

    @rule(world=worlds)
    def begin_anew(self, world: Any) -> None:
        """A new process: memory is empty, the slower tiers are as they were, and what is asked of them is promoted."""
        self.start()
        self.get_everything(world)

    @precondition(lambda self: hasattr(self, "middle"))
    @rule()
    def lose_the_middle(self) -> None:
        self.middle.held.clear()

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            for cache in (self.root, self.caches["two"]):
                cache.close()
            self.last.close()
            self.folder.cleanup()


@catches(mutations.nothing_is_void, mutations.memory_is_trusted_for_ever, mutations.promotions_live_on, mutations.namespaces_are_one)
@pytest.mark.parametrize(("examples", "steps"), [(60, 30), pytest.param(500, 50, marks=pytest.mark.slow)], ids=["few", "many"])
def test_a_cache_is_a_dictionary_that_forgets(examples: int, steps: int, request: pytest.FixtureRequest) -> None:
    """It returns what was last set, as long as it is fresh and was not removed, and nothing else."""
    how = settings(max_examples=examples, stateful_step_count=steps, deadline=None, database=None, phases=[Phase.generate, Phase.shrink])
    if request.node.callspec.params["mutant"]:  # found in the same way each time, and not told shortly
        how = settings(how, max_examples=10 * examples, derandomize=True, phases=[Phase.generate])
    run_state_machine_as_test(Cache, settings=how)
