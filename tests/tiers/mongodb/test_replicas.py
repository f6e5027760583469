"""A replica set of three that loses its primary, in every way: nothing that was acknowledged is lost, and nobody waits for it."""

from __future__ import annotations

import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from layered_cache import Entry, Event, MongoTier, Ticket, TieredCache, TierError, TierUnavailableError
from layered_cache._storage.rules import UNKNOWN, Scope
from layered_cache.testing._sync_async import an_entry
from support.servers import MongoReplicaSet, MongoServer
from support.sync_async import World, ask, kinds
from tiers.mongodb.test_faults import BUDGET, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture
def tier(mongo_replica_set: MongoReplicaSet) -> Iterator[MongoTier]:
    tier = MongoTier(mongo_replica_set.url)
    assert wait_for(lambda: tier.set_many([an_entry("first")]) is None)
    yield tier
    tier.close()


def test_a_majority_confirms(tier: MongoTier) -> None:
    """Unless told otherwise."""
    assert tier._blocking.replicated
    handles = tier._blocking._handles
    assert handles is not None
    assert handles.replicated.write_concern.document == {"w": "majority", "j": True}
    tier.read_log(UNKNOWN)
    assert tier._log._proves  # here, somebody can


@pytest.mark.alone
def test_without_a_primary_answers_are_found(mongo_replica_set: MongoReplicaSet, tier: MongoTier, world: World) -> None:
    """On a secondary; what needs the primary fails within its budget, and works again when there is one."""
    assert wait_for(lambda: world.call(tier, "get_many", ["first"]))
    nodes = mongo_replica_set.nodes
    for node in nodes[:2]:
        node.kill()
    time.sleep(4.0)  # for the last one to know
    took: list[float] = []
    for method, argument in (("set_many", [an_entry()]), ("delete_many", ["k"]), ("read_log", UNKNOWN), ("open_log", UNKNOWN)) * 3:
        started = time.monotonic()
        with pytest.raises(TierError):
            world.call(tier, method, argument)
        took.append(time.monotonic() - started)
        assert world.call(tier, "get_many", ["first"])
        assert world.call(tier, "count_where", "app", Scope()) == 1
    assert statistics.median(took) < BUDGET + 0.02, took
    assert max(took) < BUDGET + 0.1, took
    with pytest.raises(TierUnavailableError, match="there is no primary"):
        world.call(tier, "set_many", [an_entry()])

    mongo_replica_set.heal()
    healed = time.monotonic()
    assert wait_for(lambda: world.call(tier, "set_many", [an_entry()]) is None)
    assert time.monotonic() - healed < 1.5
    assert world.call(tier, "get_many", ["k"])


@pytest.mark.alone
@pytest.mark.parametrize("how", ["step down", "kill", "freeze"])
def test_the_cache_goes_on(mongo_replica_set: MongoReplicaSet, world: World, how: str) -> None:
    """Every answer arrives in time, none is lost, and hits are back within a second of a new primary."""
    events: list[Event] = []
    cache = TieredCache("memory://", mongo_replica_set.url, observers=[events.append])
    assert wait_for(lambda: cache.tiers[1].open_log(UNKNOWN))  # pyright: ignore - it is a MongoTier
    world.call(cache, "set", ask("before"), b"x")
    breaking = {"step down": mongo_replica_set.step_down, "kill": mongo_replica_set.kill_primary}
    ended = threading.Event()

    def broken() -> None:
        if how == "freeze":
            mongo_replica_set.primary().freeze()
        else:
            breaking[how]()
        ended.set()

    thread = threading.Thread(target=broken)
    thread.start()
    number, end = 0, time.monotonic() + 6.0
    while time.monotonic() < end:
        started = time.monotonic()
        assert world.call(cache, "get_or_compute", ask(str(number)), world.compute(b"x")).value == b"x"
        assert time.monotonic() - started < 1.0
        number += 1
        time.sleep(0.01)
    thread.join()
    assert "tier_failed" in kinds(events) or "log_failed" in kinds(events) or how == "step down"
    mongo_replica_set.heal()  # while a frozen one is there, the others may follow it for half a minute, and no majority confirms
    assert cache._engine.backlog.drain(60.0)
    with TieredCache(f"{mongo_replica_set.url}#timeout=5s") as other:
        stored = {event.key for event in events if event.kind == "stored"}
        found = other.get_many([key for key in stored if key])
        # an answer that came while the log was not known yet is in memory only
        assert len(found) == len(stored) > 30 or how == "freeze"
    world.call(cache, "close")


_WRITER = """
import sys, time
from layered_cache import MongoTier, TierError
from layered_cache.testing._sync_async import an_entry
tier, first, end = MongoTier(sys.argv[1], timeout=0.5), int(sys.argv[2]), time.monotonic() + float(sys.argv[3])
number = first
while time.monotonic() < end:
    try:
        tier.set_many([an_entry(str(number), str(number).encode() * 50)])
    except TierError:
        pass
    else:
        print(number, flush=True)
    number += 1
tier.close()
"""


def test_ten_killed_primaries_lose_nothing_that_was_acknowledged(mongo_replica_set: MongoReplicaSet) -> None:
    """A majority has it."""
    acknowledged: list[int] = []
    for number in range(10):
        mongo_replica_set.heal()
        command = [sys.executable, "-c", _WRITER, mongo_replica_set.url, str(number * 100000), "6"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            killed = threading.Timer(1.5, mongo_replica_set.kill_primary)
            killed.start()
            assert process.stdout is not None
            acknowledged += [int(line) for line in process.stdout]
            killed.join()
    mongo_replica_set.heal()
    tier = MongoTier(mongo_replica_set.url, timeout=20.0)
    found = tier.get_many([str(number) for number in acknowledged])
    tier.close()

    assert len(acknowledged) > 1000
    assert {int(key) for key in found} == set(acknowledged)
    assert all(isinstance(entry, Entry) and entry.value == key.encode() * 50 for key, entry in found.items())


def test_a_primary_that_slept_does_not_tell_an_old_log(mongo_replica_set: MongoReplicaSet, world: World) -> None:
    """It wakes, and thinks it is the primary; another one has recorded a removal meanwhile."""
    tier = MongoTier(mongo_replica_set.url, timeout=5.0)
    first = world.call(tier, "append_log", "app", Scope(tags=("before",)), UNKNOWN, 0)
    for _ in range(3):
        old = mongo_replica_set.primary()
        alone = MongoTier(f"{old.url}?directConnection=true", timeout=0.3)
        assert wait_for(lambda alone=alone: world.call(alone, "read_log", UNKNOWN)).epoch == first.epoch
        old.freeze()
        state = wait_for(
            lambda: world.call(tier, "append_log", "app", Scope(tags=("after",)), UNKNOWN, 0), 90.0
        )  # an election on a busy machine
        assert state
        old.thaw()
        end = time.monotonic() + 2.0  # who cannot prove it says nothing
        while time.monotonic() < end:
            with suppress(TierError):
                assert world.call(alone, "read_log", UNKNOWN).seq >= state.seq
        world.call(alone, "close")
        mongo_replica_set.heal()
    world.call(tier, "close")


def test_a_removal_outlives_the_primary(mongo_replica_set: MongoReplicaSet, world: World) -> None:
    """What was recorded is there after its primary was killed; what was not, was said so."""
    tier = MongoTier(mongo_replica_set.url, timeout=3.0)
    told: list[str] = []
    seen: Any = world.call(tier, "open_log", UNKNOWN)
    for number in range(3):
        killed: threading.Timer = threading.Timer(0.3, mongo_replica_set.kill_primary)
        killed.start()
        end = time.monotonic() + 5.0
        while time.monotonic() < end:
            with suppress(TierError):
                world.call(tier, "append_log", "app", Scope(tags=(name := f"{number} {time.monotonic()}",)), UNKNOWN, 0)
                told.append(name)
        killed.join()
        mongo_replica_set.heal()
    state = wait_for(lambda: world.call(tier, "read_log", UNKNOWN))
    assert state.epoch == seen.epoch
    rules = {rule.scope.tags[0] for rule in state.rules}
    if len(state.rules) < 10_000:
        assert set(told) <= rules
    assert world.call(tier, "restart_log", Ticket(state.epoch, state.seq)).epoch == seen.epoch
    assert len(told) > 50
    world.call(tier, "close")


def test_one_server_of_a_set_is_enough_to_find_the_others(mongo_replica_set: MongoReplicaSet, world: World) -> None:
    """A URL may name one."""
    node: MongoServer = mongo_replica_set.nodes[2]
    tier = MongoTier(f"{node.url}?replicaSet={mongo_replica_set.set_name}", timeout=5.0)
    world.call(tier, "set_many", [an_entry()])
    assert world.call(tier, "get_many", ["k"])
    world.call(tier, "close")


@pytest.mark.alone
def test_a_secondary_alone_gives_answers_and_takes_none(mongo_replica_set: MongoReplicaSet, world: World, tier: MongoTier) -> None:
    """With `directConnection`."""
    primary = mongo_replica_set.primary()
    other = next(node for node in mongo_replica_set.nodes if node is not primary)
    alone = MongoTier(f"{other.url}?directConnection=true")
    assert wait_for(lambda: world.call(alone, "get_many", ["first"]))
    taken: list[float] = []
    for _ in range(3):
        started = time.monotonic()
        with pytest.raises(TierError):
            world.call(alone, "set_many", [an_entry()])
        taken.append(time.monotonic() - started)
    world.call(alone, "close")
    assert sorted(taken)[1] < BUDGET + 0.1, taken  # a busy machine may make one late
