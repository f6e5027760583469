"""A world of processes over shared tiers, in which everything happens that DESIGN 6 speaks of, over the real engine.

Three processes with their own memory share two slower tiers and the invalidation log of the slowest. They ask, look up and store,
remove, sleep, crash. Computations are slow; every caller may be stopped before any touch of the world, for as long as it likes; writes
and promotions land late or never; rules leave the log; the log is lost, or comes back older than it was. Chance decides, by a seed.

The law: a read that begins more than `max_staleness` after a removal has returned (in the removing process: that begins after it) gives
no answer whose computation began before that removal was called. After the log came back older, the same, `max_staleness` after the
first process that knew better has looked.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Coroutine
from concurrent.futures import Future
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Any

from layered_cache import Answer, Entry, MemoryTier, Policy, Request, TieredCache
from layered_cache._storage.rules import MemoryLog
from layered_cache.entry import Ticket
from layered_cache.errors import DeletionError
from layered_cache.testing import FakeAuthority, FakeClock, FakeTier
from support.chaos import ChaosAuthority, ChaosTier
from support.explore import Stepwise, pause

MAX_STALENESS = 5.0
REQUESTS = {name: Request(name) for name in "abc"}
TAGS = {"a": "t", "b": "t", "c": "u"}
MODELS = {"a": "m1", "b": "m2", "c": "m2"}


@dataclass
class Removal:
    """One that was acknowledged: what it removed, by whom, and when (moments are counted; seconds are the clock's)."""

    names: str
    process: int
    called: int
    returned: int
    returned_at: float


@dataclass
class Caller:
    """A coroutine in the middle of something."""

    job: Coroutine[Any, Any, None]
    number: int
    context: Context = field(default_factory=copy_context)
    waits_for: Future[Any] | None = None
    not_before: float = 0.0


class Process:
    """A cache with memory of its own, on its own ways to the shared tiers."""

    def __init__(self, world: World, number: int) -> None:
        self.number, self.wakes_at = number, 0.0
        self.callers: list[Caller] = []
        chance = world.chance
        trouble = {"late": 0.2, "loses": 0.05, "fails": 0.05 if world.rough else 0.0, "garbles": 0.02}
        self.ways = (
            ChaosTier(world.middle, seed=chance.random(), **trouble),
            ChaosAuthority(world.slowest, seed=chance.random(), **trouble),
        )
        self.real = TieredCache(MemoryTier(clock=world.clock), *self.ways, clock=world.clock, policy=world.policy)
        self.cache = world.fx.face(self.real)

    def knows(self, log: MemoryLog) -> bool:
        """Whether nothing in *log* is news, and nobody here is in the middle of a look."""
        watch = self.real._engine.watch
        return watch.view.position == (log.epoch, log.seq) and watch._looking is None

    def write_behind(self) -> None:
        """Do one thing that waits in the background."""
        backlog = self.real._engine.backlog
        for lane in backlog._lanes.values():
            lane.not_before = 0.0
        if len(backlog) or backlog._courtesies:
            backlog.step()


class World:
    """One run. `violations` says what was served that was not to be."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.clock = FakeClock()
        self.fx = Stepwise()
        self.rough = seed % 2 == 0  # calls fail, those for the log too: then only a strict cache keeps the promise
        self.policy = Policy(
            max_staleness=MAX_STALENESS,
            strict_invalidation=self.rough,
            write=self.chance.choice(["through", "behind"]),
            single_flight=self.chance.random() < 0.7,
        )
        self.middle, self.slowest = FakeTier("middle"), FakeAuthority("slowest", clock=self.clock)
        self.slowest.open_log(Ticket(0, 0))
        self.snapshot: tuple[Any, dict[str, Any]] | None = None
        self.removals: list[Removal] = []
        self.began: dict[bytes, int] = {}  # answers, and the moments at which their computations began
        self.moment = self.served = 0
        self.exempt_until = float("-inf")
        self.violations: list[str] = []
        self.processes = [Process(self, number) for number in range(3)]
        self.crashed: list[Process] = []
        self.current: Caller | None = None
        self._callers = 0

    def tick(self) -> int:
        self.moment += 1
        return self.moment

    # --- what callers do

    async def compute(self, name: str) -> Answer:
        value = f"{name} {self.tick()}".encode()
        self.began[value] = self.moment
        caller = self.current
        assert caller is not None
        caller.not_before = self.clock.monotonic() + self.chance.choice([0, 1, 5, 20, 90])
        await pause()
        return Answer(value=value, tags=(TAGS[name],), model=MODELS[name])

    async def ask(self, process: Process, name: str) -> None:
        began, at = self.tick(), self.clock.monotonic()
        self.judge(process, name, await process.cache.aget_or_compute(REQUESTS[name], lambda: self.compute(name)), began, at)

    async def look_up_and_store(self, process: Process, names: str) -> None:
        began, at = self.tick(), self.clock.monotonic()
        found = await process.cache.aget_many([REQUESTS[name] for name in names])
        for name in names:
            if (entry := found.get(REQUESTS[name])) is not None:
                self.judge(process, name, entry, began, at)
        if missing := [name for name in names if REQUESTS[name] not in found]:
            await process.cache.aset_many({REQUESTS[name]: await self.compute(name) for name in missing})

    async def remove(self, process: Process) -> None:
        called = self.tick()
        how = self.chance.choice(["delete", "tag", "model", "prompt", "clear"])
        name = self.chance.choice("abc")
        try:
            match how:
                case "delete":
                    names = name
                    await process.cache.adelete(REQUESTS[name])
                case "tag":
                    names = "".join(other for other in "abc" if TAGS[other] == TAGS[name])
                    await process.cache.ainvalidate(tag=TAGS[name])
                case "model":
                    names = "".join(other for other in "abc" if MODELS[other] == MODELS[name])
                    await process.cache.ainvalidate(model=MODELS[name])
                case "prompt":
                    names = name
                    await process.cache.ainvalidate(prompt=name)
                case _:
                    names = "abc"
                    await process.cache.aclear()
        except DeletionError:
            return  # it was told of: nobody relies on it
        self.removals.append(Removal(names, process.number, called, self.tick(), self.clock.monotonic()))

    def judge(self, process: Process, name: str, entry: Entry, began: int, at: float) -> None:
        self.served += 1
        if at <= self.exempt_until:
            return
        if not entry.value.startswith(name.encode()):
            self.violations.append(f"{name} was answered with {entry.value!r}")
        computed = self.began[entry.value]
        for removal in reversed(self.removals):
            if removal.returned < computed:
                break
            own = removal.process == process.number and began > removal.returned
            if name in removal.names and computed < removal.called and (own or at > removal.returned_at + MAX_STALENESS):
                self.violations.append(
                    f"process {process.number} at {began} was served {entry.value!r} of {computed}, void since {removal}"
                )

    # --- what happens

    def start(self, process: Process, job: Coroutine[Any, Any, None]) -> None:
        self._callers += 1
        process.callers.append(Caller(job, self._callers))

    def go_on(self, process: Process) -> None:
        """Have one of the callers of *process* take a step."""
        now = self.clock.monotonic()
        ready = [one for one in process.callers if one.not_before <= now and (one.waits_for is None or one.waits_for.done())]
        if not ready:
            return
        caller = self.current = self.chance.choice(ready)
        self.fx.current = caller.number
        try:
            caller.waits_for = caller.context.run(caller.job.send, None)
        except StopIteration:
            process.callers.remove(caller)

    def crash(self, process: Process) -> None:
        """End *process* in the middle of everything; another one takes its place."""
        for caller in process.callers:
            caller.context.run(caller.job.close)
        process.callers.clear()
        self.crashed.append(process)
        self.processes[process.number] = Process(self, process.number)

    def lose_the_log(self) -> None:
        self.slowest.log = None

    def set_the_log_back(self) -> None:
        """Have the slowest tier come back as it was; somebody who knew better looks first."""
        now, log = self.clock.monotonic(), self.slowest.log
        if self.snapshot is None or log is None or self.snapshot[0].epoch != log.epoch:
            return
        knew = [one for one in self.processes if one.wakes_at <= now and one.knows(log)]
        if not knew:  # then nothing in the world tells
            return
        self.slowest.log, self.slowest.held = copy.deepcopy(self.snapshot[0]), dict(self.snapshot[1])
        self.snapshot = None
        watch = knew[0].real._engine.watch
        watch.good_until = float("-inf")
        knew[0].ways[1].fails, fails = 0.0, knew[0].ways[1].fails
        knew[0].real.get(Request("anything"))
        knew[0].ways[1].fails = fails
        self.exempt_until = now + MAX_STALENESS

    def happen(self) -> None:
        """Let one thing happen."""
        chance = self.chance
        self.clock.advance(chance.choice([0, 0, 0.5, 1, 2]))
        now = self.clock.monotonic()
        process = chance.choice([one for one in self.processes if one.wakes_at <= now] or self.processes)
        name, what = chance.choice("abc"), chance.random()
        if what < 0.25:
            if len(process.callers) < 8:
                self.start(
                    process,
                    self.ask(process, name)
                    if chance.random() < 0.6
                    else self.look_up_and_store(process, chance.choice(["a", "b", "c", "ab"])),
                )
        elif what < 0.30:
            self.start(process, self.remove(process))
        elif what < 0.83:
            for _ in range(chance.choice([1, 3])):
                self.go_on(process)
        elif what < 0.88:
            process.write_behind()
        elif what < 0.95:
            ways = [way for one in (*self.processes, *self.crashed) for way in one.ways if way.under_way]
            if ways:
                chance.choice(ways).land()
        elif what < 0.97:
            process.wakes_at = now + chance.choice([20, 100])
        elif what < 0.98:
            self.crash(process)
        elif what < 0.985 and self.slowest.log is not None:
            self.snapshot = copy.deepcopy(self.slowest.log), dict(self.slowest.held)
        elif what < 0.993:
            self.set_the_log_back()
        elif what < 0.996:
            self.lose_the_log()

    def close(self) -> None:
        """Leave nothing behind."""
        for process in self.processes:
            for caller in process.callers:
                caller.context.run(caller.job.close)


def run(seed: int, steps: int) -> World:
    """Return the world of *seed* after *steps*, or where it first broke the law."""
    world = World(seed)
    for _ in range(steps):
        world.happen()
        if world.violations:
            break
    world.close()
    return world
