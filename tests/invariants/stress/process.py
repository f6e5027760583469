"""A process of the storm: threads and tasks over one cache, as fast as they can, until its standard input ends.

    python storm.py HISTORY NAME URL [URL ...] [--seed 1] [--tasks 32] [--strict] [--meek] [--mutant NAME]

The URLs name the tiers below memory. What it reads, computes and removes goes into its history; how it goes, in numbers, into standard
output, a line ten times a second, so that a process that is killed has told nearly all. A meek one removes nothing: it learns of removals
only by looking for them.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import faulthandler
import json
import logging
import random
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layered_cache import Answer, DeletionError, Entry, Event, MemoryTier, Policy, Receipt, Request, TieredCache
from layered_cache._engine.engine import Engine, Hit
from layered_cache._engine.log_view import Trust, Watch
from layered_cache._storage import rules
from layered_cache._storage.rules import View
from layered_cache.keys.keys import key_prefix, make_key
from support.history import History

if TYPE_CHECKING:
    import pytest

THREADS, TASKS = 8, 32
MAX_STALENESS = 0.5  # of the caches: less than a process lives
MAX_UNVERIFIED = 1.5  # less than some partitions last
NAMESPACES = ("storm", "storm/a", "storm/b")
KEYS, MODELS, TAGS = 300, 6, 40  # of each namespace
RULES = 300  # in the log, so that they leave it, and floors rise, at every removal
TOLD_EVERY = 0.1
PATIENCE = 20.0  # seconds after which whoever still waits does so for ever
_TOLERANCE = 0.05  # seconds by which the wall clock may be off between two looks at it

# of the reading calls, how many are of which kind
_READS = {"get_or_compute": 40, "get": 22, "peek": 8, "look up and store": 14, "get_many": 25, "get_many and set_many": 6}
# of a thousand calls
_REMOVALS = {"delete": 12, "tag": 9, "model": 0.9, "glob": 0.3, "clear": 0.3, "clear children": 0.1}


def request(name: str) -> Request:
    """Return what is asked under *name*: `namespace:number`."""
    number = _number(name)
    return Request(f"question {number}", model=_model(number))


def _number(name: str) -> int:
    return int(name.partition(":")[2])


def _model(number: int) -> str:
    return f"model-{number % MODELS}"


def _tags(number: int) -> tuple[str, ...]:
    return (f"tag-{number % TAGS}",) if number % 3 else (f"tag-{number % TAGS}", f"tag-{number // 3 % TAGS}")


def _where(task: asyncio.Task[None]) -> str:
    """Return where *task* waits, down to what it waits for: a task itself names only its first coroutine."""
    lines, awaited = [repr(task)], task.get_coro()
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None)
        lines.append(f"  {frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_qualname}" if frame else f"  {awaited!r}")
        awaited = getattr(awaited, "cr_await", None)
    return "\n".join(lines) + "\n"


class Storm:
    """The callers of one process, and what they have seen."""

    def __init__(self, cache: TieredCache, history: History, seed: int, *, strict: bool, meek: bool) -> None:
        self.strict = strict
        self.caches = {name: cache if name == cache.name else cache.namespace(name.removeprefix(f"{cache.name}/")) for name in NAMESPACES}
        self.history = history
        self.seed = seed
        self.removals = 0.0 if meek else sum(_REMOVALS.values()) / 1000
        self.counts: Counter[str] = Counter()
        self.unexpected: list[str] = []
        self.ended = threading.Event()
        self._lock = threading.Lock()
        self._doubtful: ContextVar[set[str | None] | None] = ContextVar("doubtful", default=None)
        # in the order of use, few of many
        self._names = {name: [f"{name}:{number}" for number in range(KEYS)] for name in NAMESPACES}

    # --- what is seen

    def observe(self, event: Event) -> None:
        """Count what may go wrong, and say why it did."""
        if event.kind == "served_unverified" and (doubtful := self._doubtful.get()) is not None:
            doubtful.add(event.key)
        if event.kind == "served_unverified" and self.strict:
            self._failed("a strict cache", AssertionError("it served what it could not verify"))
        if event.kind not in {"hit", "miss", "stored", "invalidated"}:
            what = f"{event.kind} {event.reason}" if event.kind == "not_stored" else event.kind
            with self._lock:
                self.counts[what] += event.count
                if event.kind == "refused":
                    self.counts[f"refused in {event.tier}"] += event.count
                if event.reason is not None and event.kind != "not_stored":
                    self.counts[f"{event.kind}: {event.reason}"] += event.count

    def _count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1
            self.counts["operations"] += 1

    def _read(self, name: str, value: bytes | None, began: float, *, verified: bool = True) -> None:
        self.history.read(name, value, began=began, verified=verified)
        with self._lock:
            self.counts["reads"] += 1

    def _failed(self, what: str, error: Exception) -> None:
        with self._lock:
            self.counts["unexpected"] += 1
            self.counts[f"unexpected: {what}: {error!r:.300}"] += 1
            if len(self.unexpected) < 5:
                self.unexpected.append("".join(traceback.format_exception(error)))

    def _got(self, name: str, entry: Entry | None, began: float, wall: float, *, fresh: bool) -> None:
        """Note what a read got that began at *began*, Unix time *wall*."""
        doubtful = self._doubtful.get() or ()
        verified = entry is None or entry.key not in doubtful
        self._read(name, None if entry is None else entry.value, began, verified=verified)
        if entry is not None and (entry.fresh_until if fresh else entry.keep_until) < wall - _TOLERANCE:
            self._failed("a read", AssertionError(f"it got an entry that had expired {wall - entry.keep_until} s before"))

    def _doubt(self) -> tuple[float, float]:
        self._doubtful.set(set())
        return self.history.now(), time.time()

    # --- what is done; each call in a thread and its twin in a task do the same

    def _answer(self, name: str, dice: random.Random) -> Answer:
        number = _number(name)
        tags, model = _tags(number), _model(number)
        value = self.history.answer(name, namespace=name.partition(":")[0], model=model, tags=tags)
        return Answer(value=value, tags=tags, keep_for=dice.choice((0.05, 0.3, 1.0)) if number % 10 == 3 else None)

    @staticmethod
    def _pause(name: str, dice: random.Random) -> float:
        if _number(name) == 0:  # what everybody asks takes long, so that much happens meanwhile
            return dice.uniform(0.05, 0.25)
        return dice.choice((0.0, 0.0, 0.0, 0.001, 0.005)) if dice.random() < 0.95 else dice.uniform(0.0, 0.3)

    def _name(self, dice: random.Random, namespace: str | None = None) -> str:
        return self._names[namespace or dice.choice(NAMESPACES)][int(KEYS * dice.random() ** 3)]

    async def step(self, dice: random.Random, call: Callable[..., Awaitable[Any]], sleep: Callable[[float], Awaitable[None]]) -> None:
        """Do one thing. *call* calls a method of a cache, or its twin."""
        if dice.random() < self.removals:
            await self._remove(dice.choices([*_REMOVALS], [*_REMOVALS.values()])[0], dice, call)
            return
        how = dice.choices([*_READS], [*_READS.values()])[0]
        name = self._name(dice)
        namespace = name.partition(":")[0]
        cache = self.caches[namespace]
        began, wall = self._doubt()
        if how == "get_or_compute":
            await self._ask(name, dice, call)
        elif how == "peek":
            if (value := cache.peek(cache.key(request(name)))) is not None:
                self._read(name, value, began)
        elif how == "get":
            stale = dice.random() < 0.3
            self._got(name, await call(cache, "get", request(name), stale=stale), began, wall, fresh=not stale)
        elif how == "look up and store":
            entry = await call(cache, "get", request(name))
            self._got(name, entry, began, wall, fresh=True)
            if entry is None:
                answer = self._answer(name, dice)
                await sleep(self._pause(name, dice))
                await call(cache, "set", request(name), answer)
                self._count("set")
        else:
            names = {request(name): name for name in (self._name(dice, namespace) for _ in range(dice.randint(2, 8)))}
            found: Mapping[Request, Entry] = await call(cache, "get_many", names)
            for one, name in names.items():
                self._got(name, found.get(one), began, wall, fresh=True)
            missing: dict[Request, Answer] = {}
            if how == "get_many and set_many":
                missing = {one: self._answer(name, dice) for one, name in names.items() if one not in found}
            if missing:
                await sleep(self._pause(name, dice))
                await call(cache, "set_many", missing)
                self._count("set_many")
        self._count(how)

    async def _ask(self, name: str, dice: random.Random, call: Callable[..., Awaitable[Any]]) -> None:
        began, wall = self._doubt()
        entry = await call(self.caches[name.partition(":")[0]], "get_or_compute", request(name), self._compute(name, dice))
        self._got(name, entry, began, wall, fresh=False)

    def _compute(self, name: str, dice: random.Random) -> tuple[Callable[[], Answer], Callable[[], Awaitable[Answer]]]:
        pause = self._pause(name, dice)
        dice = random.Random(dice.random())  # a refresh computes while its caller goes on

        def compute() -> Answer:
            answer = self._answer(name, dice)
            time.sleep(pause)
            return answer

        async def acompute() -> Answer:
            answer = self._answer(name, dice)
            await asyncio.sleep(pause)
            return answer

        return compute, acompute

    async def _remove(self, how: str, dice: random.Random, call: Callable[..., Awaitable[Any]]) -> None:
        name = self._name(dice)
        namespace, number = name.partition(":")[0], _number(name)
        cache, called = self.caches[namespace], self.history.now()
        gone: list[dict[str, str]]
        try:
            if how == "delete":
                receipt = await call(cache, "delete", request(name))
                gone = [{"key": name}]
            elif how == "tag":
                receipt = await call(cache, "invalidate", tag=_tags(number)[0])
                gone = [{"namespace": namespace, "tag": _tags(number)[0]}]
            elif how == "model":
                receipt = await call(cache, "invalidate", model=_model(number))
                gone = [{"namespace": namespace, "model": _model(number)}]
            elif how == "glob":
                receipt = await call(cache, "invalidate", model="model-[01]")
                gone = [{"namespace": namespace, "model": f"model-{number}"} for number in (0, 1)]
            elif how == "clear":
                receipt = await call(cache, "clear")
                gone = [{"namespace": namespace}]
            else:
                receipt = await call(self.caches[NAMESPACES[0]], "clear", children=True)
                gone = [{"namespace": namespace} for namespace in NAMESPACES]
        except DeletionError:  # who asked knows it, and is not bound by it
            self._count("removals that failed")
        else:
            for what in gone:
                self.history.removed(called=called, **what)
            self._check(receipt, cache, everywhere=how == "delete")
            self._count(how)
        await self._ask(name, dice, call)  # at once: what is under way is from before
        self._count("get_or_compute")

    def _check(self, receipt: Receipt, cache: TieredCache, *, everywhere: bool) -> None:
        """See whether *receipt* says of each tier how many were erased there, or that it failed."""
        tiers = [tier.name for tier in cache.tiers if everywhere or tier.name != "memory"]
        told = sorted([*receipt.removed, *(failure.tier for failure in receipt.failures)])
        if told != sorted(tiers) or not receipt.seq or not receipt.durable:
            self._failed("a receipt", AssertionError(f"{receipt} is not about {tiers}"))
        with self._lock:
            for tier, count in receipt.removed.items():
                self.counts[f"erased in {tier}"] += count
            for failure in receipt.failures:
                self.counts[f"not erased in {failure.tier}"] += 1

    # --- the callers

    def thread(self, number: int) -> None:
        """Call until the end, from a thread."""
        dice = random.Random(self.seed * 1000 + number)

        async def call(cache: TieredCache, method: str, *args: Any, **kwargs: Any) -> Any:
            if method == "get_or_compute":
                args = (args[0], args[1][0])
            return getattr(cache, method)(*args, **kwargs)

        async def sleep(seconds: float) -> None:
            time.sleep(seconds)  # noqa: ASYNC251 - nothing else is driven by this thread

        while not self.ended.is_set():
            step = self.step(dice, call, sleep)
            try:
                step.send(None)
            except StopIteration:
                pass
            except Exception as error:  # noqa: BLE001 - whatever it is, it should not be
                self._failed("a thread", error)

    async def task(self, number: int) -> None:
        """Call until the end, from a task, which is cancelled now and then."""
        dice = random.Random(self.seed * 1000 + 100 + number)

        async def call(cache: TieredCache, method: str, *args: Any, **kwargs: Any) -> Any:
            if method == "get_or_compute":
                args = (args[0], args[1][1])
            return await getattr(cache, f"a{method}")(*args, **kwargs)

        while not self.ended.is_set():
            patience = dice.uniform(0.0, 0.01) if dice.random() < 0.01 else None
            limit = asyncio.timeout(patience)
            try:
                async with limit:
                    await self.step(dice, call, asyncio.sleep)
            except TimeoutError as error:
                if limit.expired():
                    self._count("cancelled")
                else:
                    self._failed("a task", error)
            except Exception as error:  # noqa: BLE001 - the same
                self._failed("a task", error)
            await asyncio.sleep(0)  # hits in memory never let go of the loop

    async def tasks(self, count: int) -> None:
        """Call until the end, from all tasks."""
        tasks = [asyncio.create_task(self.task(number)) for number in range(count)]
        await asyncio.to_thread(self.ended.wait)
        _done, stuck = await asyncio.wait(tasks, timeout=PATIENCE)
        for task in stuck:
            sys.stderr.write(_where(task))

    def told(self) -> str:
        """Return how it went so far, as a line."""
        with self._lock:
            counts = dict(self.counts)
        stats = next(iter(self.caches.values())).stats()
        facts = {"void": stats.void, "dropped": stats.dropped, "evicted": stats.evicted}
        facts |= {f"hits in {tier}": hits for tier, hits in stats.hits_by_tier.items()}
        return json.dumps({"counts": counts | facts, "unexpected": self.unexpected}) + "\n"


def _tell(storm: Storm) -> None:
    while not storm.ended.wait(TOLD_EVERY):
        sys.stdout.write(storm.told())
        sys.stdout.flush()


def _wait_for_the_end(storm: Storm) -> None:
    sys.stdin.read()
    storm.ended.set()


# --- more ways to break the product than those of laws.broken, for what only a storm shows


def keys_collide(patch: pytest.MonkeyPatch) -> None:
    """A key is a few bits of the request's digest."""
    digest = len(make_key(request("storm:1"), "storm")) - len(key_prefix("storm"))

    def short(asked: Request, namespace: str) -> str:
        key = make_key(asked, namespace)
        return key[: 1 - digest] + "A" * (digest - 1)

    patch.setattr("layered_cache._engine.arguments.make_key", short)


def batches_are_mixed_up(patch: pytest.MonkeyPatch) -> None:
    """Of several entries asked for at once, each is given to the next."""

    def by_request(keys: Mapping[Request, str], found: Mapping[str, Hit]) -> dict[Request, Entry]:
        held = [asked for asked, key in keys.items() if key in found]
        return {asked: found[keys[other]].entry for asked, other in zip(held, held[1:] + held[:1])}

    patch.setattr("layered_cache.cache._by_request", by_request)


def values_are_cut(patch: pytest.MonkeyPatch) -> None:
    """Memory loses the last byte of a value now and then."""
    put = MemoryTier.put

    def cut(self: MemoryTier, entry: Entry, position: Any) -> None:
        put(self, entry if random.random() < 0.99 else dataclasses.replace(entry, value=entry.value[:-1]), position)

    patch.setattr(MemoryTier, "put", cut)


def promotions_are_born_again(patch: pytest.MonkeyPatch) -> None:
    """What is found in the file is born for memory when it is found, whether or not it is void."""
    void, promote = View.void, Engine._promote

    def in_memory_only(self: View, entry: Entry, *, checked: Any = None) -> bool:
        return sys._getframe(1).f_code.co_name != "_usable" and void(self, entry, checked=checked)

    def promoted(self: Engine, depth: int, entries: Any, view: View) -> None:
        promote(self, depth, [dataclasses.replace(entry, born=view.ticket) for entry in entries], view)

    patch.setattr(View, "void", in_memory_only)
    patch.setattr(Engine, "_promote", promoted)


def an_unread_log_is_trusted(patch: pytest.MonkeyPatch) -> None:
    """Strictly too, while the log cannot be read what was known of it is good enough."""
    current = Watch.current

    async def trusting(self: Watch, fx: Any) -> tuple[View, Trust]:
        view, trust = await current(self, fx)
        return view, Trust.ALL if trust is Trust.NOTHING and self._policy.strict_invalidation else trust

    patch.setattr(Watch, "current", trusting)


def what_is_unverified_never_ends(patch: pytest.MonkeyPatch) -> None:
    """It is counted, however long the log cannot be read."""
    current = Watch.current

    async def patient(self: Watch, fx: Any) -> tuple[View, Trust]:
        view, trust = await current(self, fx)
        return view, Trust.UNVERIFIED if trust is Trust.NOTHING and not self._policy.strict_invalidation else trust

    patch.setattr(Watch, "current", patient)


def what_is_unverified_is_not_counted(patch: pytest.MonkeyPatch) -> None:
    """It is served like anything else."""
    note_hit = Engine.note_hit
    patch.setattr(Engine, "note_hit", lambda self, hit, *, verified: note_hit(self, hit, verified=True))


def failures_reach_the_caller(patch: pytest.MonkeyPatch) -> None:
    """A tier that fails is no empty one."""
    patch.setattr(Policy, "fail_open", property(lambda self: False, lambda self, value: None))


def _break(name: str) -> None:
    import pytest
    from invariants import mutations

    mutant = globals().get(name) or getattr(mutations, name)
    mutant(pytest.MonkeyPatch())


def main() -> None:
    """Run the process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("history", type=Path)
    parser.add_argument("name")
    parser.add_argument("tiers", nargs="+")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tasks", type=int, default=TASKS)
    parser.add_argument("--strict", action="store_true")
    parser.add_argument("--meek", action="store_true")
    parser.add_argument("--mutant")
    options = parser.parse_args()
    faulthandler.enable()
    logging.getLogger("pymongo").setLevel(logging.CRITICAL)  # it tells of connections in reserve that it cannot make
    logging.getLogger("layered_cache").setLevel(logging.ERROR)  # the test causes outages, which are logged as warnings
    rules.MAX_RULES = RULES
    if options.mutant:
        _break(options.mutant)
    policy = Policy(
        fresh_for=4.0, keep_for=30.0, max_staleness=MAX_STALENESS, max_unverified=MAX_UNVERIFIED, strict_invalidation=options.strict
    )
    observers: list[Callable[[Event], object]] = []
    cache = TieredCache(
        MemoryTier(max_bytes=300_000),
        *options.tiers,
        namespace=NAMESPACES[0],
        policy=policy,
        observers=[lambda event: [tell(event) for tell in observers]],
    )
    storm = Storm(cache, History(options.history, process=options.name), options.seed, strict=options.strict, meek=options.meek)
    observers.append(storm.observe)
    threading.Thread(target=_wait_for_the_end, args=(storm,), daemon=True).start()
    callers = [threading.Thread(target=storm.thread, args=(number,)) for number in range(THREADS)]
    callers.append(threading.Thread(target=_tell, args=(storm,)))
    for caller in callers:
        caller.start()
    asyncio.run(storm.tasks(options.tasks))
    for caller in callers:
        caller.join()
    cache.close()
    sys.stdout.write(storm.told())


if __name__ == "__main__":
    main()
