"""The invalidation log in MongoDB, and the note of which log a tier is used with."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from bson.int64 import Int64
from layered_cache import MongoTier, Policy, Ticket, TieredCache, TierError, TierUnavailableError
from layered_cache._storage.rules import MAX_RULES, UNKNOWN, Scope
from layered_cache.testing import FakeClock
from layered_cache.tiers.mongodb.invalidation_log import MongoLog
from pymongo import MongoClient
from support.fault_proxy import ChaosProxy
from support.servers import MongoServer
from support.sync_async import World, ask
from tiers.mongodb.test_faults import failing


@contextmanager
def log_of(url: str, name: str = "entries") -> Iterator[Any]:
    with MongoClient[Any](url) as client:
        yield client.get_default_database()[f"{name}_log"]


@pytest.fixture
def tier(mongodb_url: str) -> Iterator[MongoTier]:
    tier = MongoTier(mongodb_url, timeout=2.0)
    yield tier
    tier.close()


def test_it_is_one_document(tier: MongoTier, mongodb_url: str) -> None:
    """Of numbers of 64 bits, so that nothing is rounded on the way."""
    first = tier.append_log("app", Scope(tags=("t",)), UNKNOWN, 0)
    second = tier.append_log("app/child", None, UNKNOWN, 0)

    with log_of(mongodb_url) as log:
        (found,) = log.find()
        types = log.aggregate([{"$project": {"epoch": {"$type": "$epoch"}, "seq": {"$type": "$seq"}}}]).next()
    assert found == {
        "_id": "log",
        "epoch": second.epoch,
        "seq": second.seq,
        "floors": [["app/child", second.seq]],
        "rules": [[first.seq, "app", '{"tags": ["t"]}']],
    }
    assert (types["epoch"], types["seq"]) == ("long", "long")


def test_only_what_is_new_is_sent(mongodb_url: str, proxy_to: Callable[[str], ChaosProxy], world: World) -> None:
    """Every second: two numbers, however long the log is."""
    proxy = proxy_to(mongodb_url)
    tier = MongoTier(proxy.url, timeout=2.0)
    large = Scope(keys=("x" * 50_000,))
    for _ in range(3):
        last = world.call(tier, "append_log", "app", large, UNKNOWN, 0)
    last = world.call(tier, "append_log", "n" * 50_000, None, Ticket(last.epoch, last.seq), 0)
    new = world.call(tier, "append_log", "app", Scope(tags=("new",)), Ticket(last.epoch, last.seq), 0)

    for seen, rules, floors, most in (
        (Ticket(new.epoch, new.seq), 0, 0, 1_000),
        (Ticket(last.epoch, last.seq), 1, 1, 55_000),
        (Ticket(new.epoch + 1, new.seq), 4, 1, 300_000),
        (UNKNOWN, 4, 1, 300_000),
    ):
        proxy.reset_counts()
        state = world.call(tier, "read_log", seen)
        assert (len(state.rules), len(state.floors), state.epoch, state.seq) == (rules, floors, new.epoch, new.seq)
        ours = [each.received for each in proxy.exchanges if b"$readPreference" not in each.request and b"find" in each.request]
        assert sum(ours) < most
    world.call(tier, "close")


def test_whose_clock_stands_still_counts_on(mongodb_url: str, clock: FakeClock) -> None:
    """A seq is the time in microseconds, or one more than the last."""
    tier = MongoTier(mongodb_url, clock=clock, timeout=2.0)
    seqs = [tier.append_log("app", None, UNKNOWN, 0).seq for _ in range(3)]
    assert seqs == [int(clock.time() * 1e6) + number for number in range(3)]
    clock.advance(-3600)
    assert tier.append_log("app", None, UNKNOWN, 0).seq == seqs[-1] + 1
    tier.close()


@pytest.mark.alone
def test_a_long_log_stays_bounded_and_quick(tier: MongoTier, mongodb_url: str, world: World) -> None:
    """Its oldest rules leave for a floor."""
    first = tier.append_log("app", Scope(tags=("first",)), UNKNOWN, 0)
    with log_of(mongodb_url) as log:
        rules = [[first.seq + number, "app", f'{{"tags": ["{number}"]}}'] for number in range(1, MAX_RULES)]
        log.update_one({"_id": "log"}, {"$push": {"rules": {"$each": rules}}, "$set": {"seq": first.seq + MAX_RULES}})
    started = time.monotonic()
    state = world.call(tier, "append_log", "app", Scope(tags=("last",)), Ticket(first.epoch, first.seq + MAX_RULES), 0)
    assert time.monotonic() - started < 1.0
    assert [rule.scope.tags for rule in state.rules] == [("last",)]
    assert state.floors == {"app": first.seq}
    assert len(tier.read_log(UNKNOWN).rules) == MAX_RULES


def test_three_processes_append_at_once(mongodb_url: str) -> None:
    """No two rules share a seq, and none is lost: what a process was told is there."""
    program = f"""
import sys
from layered_cache import MongoTier, TierError
from layered_cache._storage.rules import UNKNOWN, Scope
tier = MongoTier("{mongodb_url}", timeout=2.0)
for number in range(60):
    try:
        print(tier.append_log("app", Scope(tags=(sys.argv[1] + str(number),)), UNKNOWN, 0).seq, sys.argv[1] + str(number))
    except TierError:
        pass
tier.close()
"""
    with ThreadPoolExecutor(3) as pool:
        runs = pool.map(
            lambda name: subprocess.run([sys.executable, "-c", program, name], capture_output=True, text=True, check=True), "abc"
        )
        told = dict(line.split() for run in runs for line in run.stdout.splitlines())
    tier = MongoTier(mongodb_url, timeout=2.0)
    rules = tier.read_log(UNKNOWN).rules
    tier.close()

    assert len(told) > 150
    assert told.items() <= {str(rule.seq): rule.scope.tags[0] for rule in rules}.items()
    assert [rule.seq for rule in rules] == sorted({rule.seq for rule in rules})


def test_it_is_made_once(mongodb_url: str, world: World) -> None:
    """By whoever of many comes first."""
    for number in range(5):
        tier = MongoTier(mongodb_url, collection=f"entries {number}", timeout=5.0)
        opened = world.at_once(tier, "open_log", [(UNKNOWN,)] * 8)
        assert len({state.epoch for state in opened}) == 1
        world.call(tier, "close")


@pytest.mark.parametrize(
    "damage",
    [
        {"$set": {"rules": "none"}},
        {"$set": {"rules": [["x", "app", "{}"]]}},
        {"$set": {"rules": [[2**62, "app"]]}},
        {"$set": {"rules": [[2**62, "app", '{"mood": "bad"}']]}},
        {"$set": {"rules": [[2**62, 5, "{}"]]}},
        {"$set": {"rules": [[2**62, "app", "no JSON"]]}},
        {"$set": {"floors": [[5, 5]]}},
        {"$set": {"floors": {"app": 5}}},
        {"$set": {"epoch": "x"}},
        {"$set": {"seq": None}},
        {"$unset": {"epoch": 1}},
        {"$unset": {"rules": 1}},
    ],
    ids=repr,
)
def test_a_log_that_is_not_understood_is_an_error(tier: MongoTier, mongodb_url: str, world: World, damage: dict[str, Any]) -> None:
    """Also a rule that a newer release wrote: whoever does not understand it must not serve what it may void."""
    world.call(tier, "append_log", "app", Scope(tags=("t",)), UNKNOWN, 0)
    with log_of(mongodb_url) as log:
        log.update_one({"_id": "log"}, damage)

    for method in ("read_log", "open_log"):
        with pytest.raises(TierError):
            world.call(tier, method, UNKNOWN)


def test_a_rule_of_a_newer_release_stays(tier: MongoTier, mongodb_url: str) -> None:
    """Though this one adds to it."""
    tier.append_log("app", Scope(tags=("t",)), UNKNOWN, 0)
    with log_of(mongodb_url) as log:
        log.update_one({"_id": "log"}, {"$push": {"rules": [time.time_ns() // 1000, "app", '{"mood": "bad"}']}})
        with pytest.raises(TierUnavailableError, match="mood") as raised:
            tier.append_log("app", Scope(tags=("u",)), UNKNOWN, 0)
        assert not raised.value.retryable
        assert [rule[2] for rule in log.find_one()["rules"]] == ['{"tags": ["t"]}', '{"mood": "bad"}', '{"tags": ["u"]}']


def test_a_removal_whose_outcome_was_lost_is_recorded_again(mongo_server: MongoServer, world: World) -> None:
    """The connection breaks after the write: twice is no harm, not at all would be."""
    tier = MongoTier(f"{mongo_server.url}db", timeout=2.0)
    world.call(tier, "open_log", UNKNOWN)
    for how in ({"closeConnection": True}, {"errorCode": 10107}, {"writeConcernError": {"code": 91, "errmsg": "x"}}):
        with failing(mongo_server, "update", mode={"times": 1}, **how):
            scope = Scope(tags=(str(how),))
            try:
                state = world.call(tier, "append_log", "app", scope, UNKNOWN, 0)
            except TierError:
                assert "writeConcernError" in how  # it is there, but perhaps not for ever
                continue
        assert scope in [rule.scope for rule in state.rules]
        assert scope in [rule.scope for rule in world.call(tier, "read_log", UNKNOWN).rules]
    world.call(tier, "close")


def test_a_server_that_is_alone_is_asked_once_for_a_proof(tier: MongoTier, mongo_server: MongoServer, world: World) -> None:
    """That there is no other primary. It knows none, and has what a majority has."""
    log: MongoLog = tier._log
    assert log._proves
    world.call(tier, "read_log", UNKNOWN)
    assert not log._proves
    with failing(mongo_server, "find", mode={"times": 1}, errorCode=13), pytest.raises(TierUnavailableError, match="OperationFailure 13"):
        world.call(tier, "read_log", UNKNOWN)


def test_which_log_it_was_used_with(tier: MongoTier, mongodb_url: str) -> None:
    """Each who comes notes its own, and is told the one before; many at once are told in some order."""
    assert tier.swap_log_id(2**62) is None
    assert tier.swap_log_id(5) == 2**62
    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(tier.swap_log_id, range(100, 140)))
    assert sorted([*told, tier.swap_log_id(1)]) == [5, *range(100, 140)]  # pyright: ignore
    with log_of(mongodb_url) as log:
        assert log.find_one({"_id": "shared"}) == {"_id": "shared", "epoch": 1}
    assert tier.read_log(UNKNOWN).epoch == 0
    fresh = MongoTier(mongodb_url, collection="fresh", timeout=5.0)
    with ThreadPoolExecutor(8) as pool:
        first = list(pool.map(fresh.swap_log_id, range(8)))
    assert first.count(None) == 1
    fresh.close()


@pytest.mark.slow
def test_removals_hold_in_other_processes(mongodb_url: str, world: World) -> None:
    """Within two seconds; a cleared one at once for whoever comes."""
    url = f"{mongodb_url}#timeout=2s"
    cache, other = TieredCache("memory://", url), TieredCache("memory://", url)
    world.call(cache, "set", ask(), b"x")
    assert world.call(other, "get", ask())
    world.call(cache, "delete", ask())
    time.sleep(2.1)
    assert world.call(other, "get", ask()) is None
    world.call(cache, "set", ask(), b"y")
    world.call(cache, "clear")
    with TieredCache(url) as third:
        assert third.get(ask()) is None
    for each in (cache, other):
        world.call(each, "close")


@pytest.mark.slow
def test_a_log_that_was_lost_or_set_back(mongodb_url: str, world: World) -> None:
    """Starts anew: nothing is served that it may have voided."""
    url = f"{mongodb_url}#timeout=2s"
    cache = TieredCache(url)
    with log_of(mongodb_url) as log:
        world.call(cache, "set", ask("a"), b"x")
        before = log.find_one({"_id": "log"})
        world.call(cache, "invalidate", tag="t")
        log.replace_one({"_id": "log"}, before)  # a snapshot is back
        time.sleep(2.1)
        assert world.call(cache, "get", ask("a")) is None
        assert log.find_one({"_id": "log"})["epoch"] != before["epoch"]
        world.call(cache, "set", ask("b"), b"x")
        assert world.call(cache, "get", ask("b"))
        log.delete_many({})
        time.sleep(2.1)
        assert world.call(cache, "get", ask("b")) is None
    world.call(cache, "close")


def test_many_remove_at_once(mongodb_url: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a log that is long: they take turns, so that none writes in vain; none fails, and no rule is lost."""
    cache, writers = TieredCache("memory://", mongodb_url, policy=Policy(max_staleness=60)), 8
    cache.invalidate(tag="first")
    with log_of(mongodb_url) as log:
        seq = int(log.find_one({"_id": "log"})["seq"]) - 10_000
        log.update_one({"_id": "log"}, {"$set": {"rules": [[Int64(seq + number), "default", '{"tags": ["t"]}'] for number in range(500)]}})
    tries: list[object] = []
    replaced = MongoLog._replaced

    async def counted(self: MongoLog, *args: Any) -> bool:
        tries.append(args)
        return await replaced(self, *args)

    monkeypatch.setattr(MongoLog, "_replaced", counted)

    for turn in range(2):
        done = world.at_once(cache, "delete", [(ask(f"{turn} {number}"),) for number in range(writers)])
        assert [outcome for outcome in done if isinstance(outcome, Exception)] == []

    assert len(tries) <= 2 * writers + 2  # who waited for long goes on without his turn
    assert len(cache.tiers[1].read_log(UNKNOWN).rules) == 500 + 2 * writers  # type: ignore[attr-defined]
    cache.close()
