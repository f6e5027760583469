"""Three processes over memory, Redis and MongoDB, to which every second something happens that happens to servers and networks.

Processes are killed, Redis loses its data, mongod is killed, and each process reaches each server by a proxy of its own, so that either,
or both, can be cut off for one of them or for all: refused, silent, without answers, or with all that was said arriving late. A tenth of
the writes to MongoDB fail, and half of these were done all the same.

Every read is judged, as in `test_storm`. A strict cache serves nothing void, ever; the others what they say they could not verify, and
that for a while only.
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Self

import pytest
from invariants import mutations
from invariants.mutation_marker import catches
from invariants.stress import faults, process
from invariants.stress.faults import MEEK, PROCESSES, STRICT, USUAL, Callers, Look
from support.fault_proxy import ChaosProxy
from support.server_fixtures import database
from support.servers import MongoServer, RedisServer

RING_OF_MUTANTS = "nightly"
FEW, MORE = 25_000, 60_000  # reads: enough for a mutant that shows often, and seldom
travelling = partial(faults.travelling, size=FEW)

REDIS, MONGODB = "redis", "mongodb"
# how a write fails, and how often: it was not done, or it was; of a connection that is closed, all others of its client are given up too
_FAILURES: tuple[tuple[float, dict[str, Any]], ...] = (
    (0.1, {"errorCode": 112}),
    (0.1, {"writeConcernError": {"code": 64, "errmsg": "not written in time", "errInfo": {}}}),
    (0.01, {"closeConnection": True}),
)


class Servers:
    """A Redis and a mongod, and the ways to them."""

    unit = "reads"
    tasks = 3 * process.TASKS  # most wait for a server that is away

    def __init__(self, redis: RedisServer, mongod: MongoServer, *, seed: int) -> None:
        self._redis, self._mongod = redis, mongod
        self._dice = random.Random(seed)
        self._ways = {
            (number, server): ChaosProxy.to(url, seed=seed)
            for number in range(PROCESSES)
            for server, url in ((REDIS, redis.url), (MONGODB, database(mongod.url, "storm")))
        }
        self._faults: dict[tuple[int, str], int] = {}  # turns that they last
        self._happened = self._events()
        self.counts: Counter[str] = Counter()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for way in self._ways.values():
                stack.enter_context(way)
            self._until_the_end = stack.pop_all()
        self._writes_fail()
        return self

    def __exit__(self, *_: object) -> None:
        self._until_the_end.close()

    # --- see Stores

    def urls(self, number: int) -> list[str]:
        """See Stores. Budgets are for a busy machine."""
        return [f"{self._ways[number, REDIS].url}#timeout=75ms", f"{self._ways[number, MONGODB].url}#timeout=200ms"]

    def turn(self, callers: Callers) -> None:
        """See Stores."""
        for way, left in list(self._faults.items()):
            if left > 1:
                self._faults[way] = left - 1
            else:
                self._heal(way)
        name, happen = next(self._happened)
        self.counts[name] += 1
        happen(callers)

    def calm(self) -> None:
        """See Stores."""
        for way in list(self._faults):
            self._heal(way)
        self._redis.start()
        self._mongod.start()
        self._set_failures("off")

    def look(self, look: Look) -> None:
        """See Stores."""
        redis, mongod = self._redis.url, database(self._mongod.url, "storm")
        assert look(redis, mongod) >= look(mongod) > 0
        with self._mongod.client() as client:
            for collection in ("entries", "entries_log"):
                assert client["storm"].command("validate", collection)["valid"]

    # --- what happens

    def _events(self) -> Iterator[tuple[str, Callable[[Callers], object]]]:
        """Yield one after the other, and all of them again in another order."""
        one = self._dice.randrange
        deck: list[tuple[str, Callable[[Callers], object]]] = [
            *((f"kill {number}", lambda callers, number=number: callers.kill(number)) for number in range(PROCESSES)),
            ("redis restarts empty", lambda _: self._restart(self._redis)),
            ("mongod restarts", lambda _: self._restart(self._mongod)),
            ("redis refuses one", lambda _: self._fault(_refused, REDIS, [one(PROCESSES)], 2)),
            ("redis is silent for all", lambda _: self._fault(_silent, REDIS, range(PROCESSES), 1)),
            ("redis hears one late", lambda _: self._fault(_late, REDIS, [USUAL], 2)),
            ("writes fail otherwise", lambda _: self._writes_fail()),
            ("connections are cut", lambda _: [way.cut() for way in self._ways.values()]),
            ("mongodb is silent for the strict", lambda _: self._fault(_silent, MONGODB, [STRICT], 3)),
            ("mongodb refuses the usual", lambda _: self._fault(_refused, MONGODB, [USUAL], 4)),
            ("mongodb is away for the meek", lambda _: self._fault(_away, MONGODB, [MEEK], 4)),
            ("mongodb answers nobody", lambda _: self._fault(_mute, MONGODB, range(PROCESSES), 1)),
            ("mongodb hears one late", lambda _: self._fault(_late, MONGODB, [one(PROCESSES)], 2)),
            ("one is cut off", lambda _: self._cut_off(one(PROCESSES), 3)),
            ("one begins without mongodb", self._begin_without),
        ]
        while True:
            self._dice.shuffle(deck)
            yield from deck

    def _restart(self, server: RedisServer | MongoServer) -> None:
        server.kill()
        time.sleep(0.3)
        server.start()
        if server is self._mongod:
            self._writes_fail()

    def _cut_off(self, number: int, turns: int) -> None:
        for server in (REDIS, MONGODB):
            self._fault(self._dice.choice((_refused, _silent, _away)), server, [number], turns)

    def _begin_without(self, callers: Callers) -> None:
        number = self._dice.choice((USUAL, MEEK))
        self._fault(_refused, MONGODB, [number], 4)
        callers.kill(number)

    def _fault(self, fault: Callable[[ChaosProxy], object], server: str, numbers: Any, turns: int) -> None:
        for number in numbers:
            self._heal((number, server))
            fault(self._ways[number, server])
            self._faults[number, server] = turns

    def _heal(self, way: tuple[int, str]) -> None:
        if self._faults.pop(way, None) is not None:
            self._ways[way].clear()
            self._ways[way].accept()

    def _writes_fail(self) -> None:
        share, how = self._dice.choice(_FAILURES)
        self._set_failures({"activationProbability": share}, how)

    def _set_failures(self, mode: object, how: dict[str, Any] | None = None) -> None:
        data = {"failCommands": ["insert", "update", "delete"], "appName": "layered-cache", **(how or {})}
        self._mongod.run("configureFailPoint", "failCommand", mode=mode, data=data)


def _refused(way: ChaosProxy) -> None:
    way.refuse()
    way.cut()


def _silent(way: ChaosProxy) -> None:
    way.set(blackhole="both")


def _away(way: ChaosProxy) -> None:
    way.blackhole_connects()
    way.set(blackhole="both")


def _mute(way: ChaosProxy) -> None:
    way.set(blackhole="down")


def _late(way: ChaosProxy) -> None:
    way.set(hold="up")


def nothing_wrong(folder: Path, redis: RedisServer, mongod: MongoServer, seconds: float, seed: int) -> None:
    """Run a storm for *seconds*; check that no law was broken and that the storm could have shown it."""
    with Servers(redis, mongod, seed=seed) as servers:
        seen = faults.nothing_wrong(folder, servers, seconds)
    for what, count in sorted(servers.counts.items()):
        sys.stdout.write(f"  {what}: {count}\n")
    if seen is None:
        return
    counts, verdict = seen.counts, seen.verdict
    reads = verdict.reads
    assert reads > 300 * seconds  # a tenth of the rate of an idle machine
    # enough of each has happened to show what could go wrong
    assert sum(servers.counts.values()) >= seen.seconds / faults.TURN / 2
    assert verdict.hits > verdict.reads / 3
    assert verdict.removals > reads / 2000
    assert verdict.at_risk > reads / 200
    assert counts["void"] > reads / 200
    assert all(counts[f"hits in {tier}"] > reads / 1000 for tier in ("memory", "redis", "mongodb", "flight"))
    assert 0 < verdict.unverified < verdict.hits / 2
    assert counts["removals that failed"]
    assert not any(counts[kind] for kind in ("refused", "undecodable", "adapter_failed", "authority_conflict"))


@pytest.mark.slow
@catches(travelling(mutations.nothing_is_void))
def test_nothing_wrong_is_served_while_servers_fail(
    tmp_path: Path, own_redis: Callable[..., RedisServer], own_mongo: Callable[..., MongoServer]
) -> None:
    """Neither what was removed, nor another key's, nor what nobody computed; and nothing raises but a removal that failed."""
    nothing_wrong(tmp_path, own_redis(), own_mongo(), 20, seed=1)


@pytest.mark.nightly
@catches(
    travelling(mutations.entries_are_born_when_they_are_stored, size=MORE),
    travelling(mutations.the_log_is_read_once, size=MORE),
    travelling(mutations.memory_is_trusted_for_ever),
    travelling(mutations.own_removals_wait_for_the_next_look),
    travelling(process.promotions_are_born_again),
    travelling(process.an_unread_log_is_trusted, size=MORE),
    travelling(process.what_is_unverified_never_ends, size=MORE),
    travelling(process.what_is_unverified_is_not_counted, size=MORE),
)
def test_nothing_wrong_is_served_while_servers_fail_for_long(
    tmp_path: Path, own_redis: Callable[..., RedisServer], own_mongo: Callable[..., MongoServer]
) -> None:
    """The same, ten times as long."""
    nothing_wrong(tmp_path, own_redis(), own_mongo(), 200, seed=2)
