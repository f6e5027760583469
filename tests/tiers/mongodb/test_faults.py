"""What goes wrong between a MongoDB tier and its server: every call ends within its budget, and when all is well again, it is used."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import statistics
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from layered_cache import (
    Answer,
    DeletionError,
    Entry,
    Event,
    MongoTier,
    Policy,
    Request,
    TieredCache,
    TierError,
    TierTimeoutError,
    TierUnavailableError,
)
from layered_cache._storage.rules import UNKNOWN, Scope
from layered_cache.testing._sync_async import an_entry
from layered_cache.tiers.mongodb.errors import is_passing, translated
from pymongo import MongoClient, errors
from support.fault_proxy import ChaosProxy
from support.pairwise import pairwise
from support.servers import HOST, MongoServer, free_port
from support.sync_async import Tasks, Threads, World, ask, kinds, settled

Proxies = Callable[[str], ChaosProxy]

BUDGET = 0.15
LARGE = an_entry("large", os.urandom(20_000))


@contextmanager
def failing(server: MongoServer, *commands: str, mode: Any = "alwaysOn", **how: Any) -> Iterator[None]:
    """Have *commands* fail as *how* says."""
    server.run("configureFailPoint", "failCommand", mode=mode, data={"failCommands": list(commands), **how})
    try:
        yield
    finally:
        server.run("configureFailPoint", "failCommand", mode="off")


# --- how long a call takes

Fault = Callable[[ChaosProxy, MongoServer], Any]


@contextmanager
def _refused(proxy: ChaosProxy, server: MongoServer) -> Iterator[None]:
    proxy.refuse()
    proxy.cut()
    yield
    proxy.accept()


@contextmanager
def _silent(proxy: ChaosProxy, server: MongoServer) -> Iterator[None]:
    proxy.blackhole_connects()
    proxy.cut()
    yield
    proxy.accept()


def _with(**faults: Any) -> Fault:
    @contextmanager
    def fault(proxy: ChaosProxy, server: MongoServer) -> Iterator[None]:
        proxy.set(**faults)
        if "on_accept" in faults:
            proxy.cut()
        yield
        proxy.clear()

    return fault


@contextmanager
def _frozen(proxy: ChaosProxy, server: MongoServer) -> Iterator[None]:
    server.freeze()
    yield
    server.thaw()


@contextmanager
def _no_primary(proxy: ChaosProxy, server: MongoServer) -> Iterator[None]:
    with failing(server, "find", "update", "delete", "insert", errorCode=10107):
        yield


@contextmanager
def _slow(proxy: ChaosProxy, server: MongoServer) -> Iterator[None]:
    with failing(server, "find", "update", "delete", "insert", blockConnection=True, blockTimeMS=1000):
        yield


FAULTS: dict[str, Fault] = {
    "refused": _refused,
    "no answer to SYN": _silent,
    "hung after connecting": _with(hold="both"),
    "bytes are lost": _with(blackhole="both"),
    "process frozen": _frozen,
    "torn replies": _with(finish_after=10),
    "500 bytes a second": _with(bandwidth=500),
    "reset at once": _with(on_accept="reset"),
    "not the primary": _no_primary,
    "slow server": _slow,
}


@pytest.mark.alone
@pytest.mark.parametrize(("world", "fault", "connected"), pairwise([Threads, Tasks], FAULTS, [True, False]), indirect=["world"])
def test_every_call_ends_within_its_budget(
    mongo_server: MongoServer, proxy_to: Proxies, world: World, fault: str, *, connected: bool
) -> None:
    """With a `TierError`; and within a second of the end of it all, what is stored is found again."""
    proxy = proxy_to(f"{mongo_server.url}db")
    writer = MongoTier(f"{mongo_server.url}db", timeout=2.0)
    writer.set_many([LARGE])
    writer.close()
    tier = MongoTier(proxy.url)
    if connected:
        assert wait_for(lambda: world.call(tier, "get_many", ["large"]))
    calls: list[tuple[str, Any]] = [("get_many", ["large"])]
    if connected:
        calls += [("set_many", [LARGE]), ("delete_many", ["large"]), ("read_log", UNKNOWN)]
    took: list[float] = []
    with FAULTS[fault](proxy, mongo_server):
        for method, argument in calls:
            started = time.monotonic()
            with pytest.raises(TierError):
                world.call(tier, method, argument)
            took.append(time.monotonic() - started)
    healed = time.monotonic()
    if fault != "slow server":  # which did what it was asked to, only late
        assert wait_for(lambda: world.call(tier, "get_many", ["large"]))
        assert time.monotonic() - healed < 1.0
    world.call(tier, "close")

    assert statistics.median(took) < BUDGET + 0.02, took
    assert max(took) < BUDGET + 0.1, took  # for a machine that is busy with something else


def wait_for(call: Callable[[], Any], seconds: float = 10.0) -> Any:
    """Return what *call* returns when it first returns something true and raises no `TierError`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with suppress(TierError):
            if found := call():
                return found
        time.sleep(0.005)
    return None


@pytest.mark.slow
@pytest.mark.alone
def test_an_append_may_take_longer(mongo_server: MongoServer, proxy_to: Proxies, world: World) -> None:
    """Two seconds: who asks for a removal must know how it ended, and would rather wait."""
    proxy = proxy_to(f"{mongo_server.url}db")
    tier = MongoTier(proxy.url)
    assert wait_for(lambda: world.call(tier, "open_log", UNKNOWN))
    proxy.refuse()
    proxy.cut()
    end = threading.Timer(0.7, proxy.accept)
    end.start()
    assert world.call(tier, "append_log", "app", Scope(tags=("t",)), UNKNOWN, 0).rules
    end.join()

    proxy.set(hold="both")
    started = time.monotonic()
    with pytest.raises(TierError):
        world.call(tier, "append_log", "app", Scope(tags=("t",)), UNKNOWN, 0)
    assert time.monotonic() - started < 2.1
    proxy.clear()
    world.call(tier, "close")


@pytest.mark.alone
def test_a_server_that_is_far_away(mongodb_url: str, proxy_to: Proxies, world: World) -> None:
    """With 20 ms of round trip, it hits from the second call on: connecting has a budget of its own."""
    with TieredCache(f"{mongodb_url}#timeout=2s") as cache:
        cache.set(ask(), b"x")
    proxy = proxy_to(mongodb_url)
    proxy.set(latency=0.01)
    tier = MongoTier(proxy.url)
    with suppress(TierError):
        world.call(tier, "get_many", ["absent"])
    key = TieredCache("memory://").key(ask())
    assert proxy.connections == 2  # one that watches, one to ask: the call has waited for it, and not made another
    for _ in range(5):
        started = time.monotonic()
        assert world.call(tier, "get_many", [key]).keys() == {key}
        assert time.monotonic() - started < BUDGET
    proxy.set(latency=0.06)  # now connecting takes longer than a call may
    other = MongoTier(proxy.url)
    assert wait_for(lambda: world.call(other, "get_many", [key]), 2.0)
    world.call(tier, "close")
    world.call(other, "close")


def test_round_trips(mongodb_url: str, proxy_to: Proxies, world: World) -> None:
    """One for any number of keys up to a thousand, one for any number of entries; the log's reads are one each."""
    proxy = proxy_to(mongodb_url)
    tier = MongoTier(proxy.url, timeout=2.0)
    entries = [an_entry(str(number)) for number in range(150)]
    world.call(tier, "set_many", entries)
    world.call(tier, "append_log", "app", Scope(tags=("t",)), UNKNOWN, 0)
    world.call(tier, "read_log", UNKNOWN)  # asks first whether it may ask so
    calls: list[tuple[str, Any]] = [
        ("get_many", [entries[0].key]),
        ("get_many", [entry.key for entry in entries]),
        ("set_many", entries),
        ("set_many", entries[:1]),
        ("delete_many", ["0"]),
        ("delete_many", ["1", "2"]),
        ("read_log", UNKNOWN),
    ]
    for method, argument in calls:
        proxy.reset_counts()
        world.call(tier, method, argument)
        ours = [each for each in proxy.exchanges if b"hello" not in each.request and b"ismaster" not in each.request.lower()]
        assert len(ours) == 1, (method, [each.request[:80] for each in ours])
    world.call(tier, "close")


@pytest.mark.slow
@pytest.mark.alone
def test_what_passes_is_tried_again_within_the_budget(mongo_server: MongoServer, world: World) -> None:
    """A server that was no primary, or closed a connection, when asked first."""
    tier, entry = MongoTier(f"{mongo_server.url}db", timeout=2.0), an_entry()
    world.call(tier, "set_many", [entry])
    for how in ({"errorCode": 10107}, {"closeConnection": True}):
        for method, argument, command in (("get_many", ["k"], "find"), ("set_many", [entry], "update"), ("delete_many", ["x"], "delete")):
            with failing(mongo_server, command, mode={"times": 1}, **how):
                started = time.monotonic()
                world.call(tier, method, argument)
                assert time.monotonic() - started < 1.5
    with failing(mongo_server, "update", mode={"times": 1}, errorCode=14031), pytest.raises(TierUnavailableError, match="14031") as raised:
        world.call(tier, "set_many", [entry])
    assert raised.value.retryable  # later, there may be room
    with (
        failing(mongo_server, "find", mode={"times": 1}, errorCode=13),
        pytest.raises(TierUnavailableError, match="OperationFailure 13") as raised,
    ):
        world.call(tier, "get_many", ["k"])
    assert not raised.value.retryable
    world.call(tier, "close")


def test_what_errors_mean() -> None:
    """Too late, or not possible; and if not, whether it may be later, or even now."""
    for error, kind, retryable, now in (
        (errors.NetworkTimeout("x"), TierTimeoutError, True, False),
        (errors.ExecutionTimeout("x", 50), TierTimeoutError, True, False),
        (errors.WTimeoutError("x"), TierTimeoutError, True, False),
        (TimeoutError(), TierTimeoutError, True, False),
        (errors.ServerSelectionTimeoutError("x"), TierUnavailableError, True, True),
        (errors.AutoReconnect("x"), TierUnavailableError, True, True),
        (errors.NotPrimaryError("x"), TierUnavailableError, True, True),
        (errors.DuplicateKeyError("x", 11000), TierUnavailableError, True, True),
        (errors.BulkWriteError({"writeErrors": [{"code": 11000}]}), TierUnavailableError, True, True),
        (errors.BulkWriteError({"writeErrors": [{"code": 14031}, {"code": 11000}]}), TierUnavailableError, True, False),
        (errors.BulkWriteError({"writeConcernErrors": [{"code": 91}]}), TierUnavailableError, True, False),
        (errors.OperationFailure("x", 13), TierUnavailableError, False, False),
        (errors.OperationFailure("x", 8000), TierUnavailableError, True, False),
        (errors.DocumentTooLarge("x"), TierUnavailableError, False, False),
        (errors.InvalidOperation("x"), TierUnavailableError, False, False),
        (OverflowError("x"), TierUnavailableError, False, False),
        (KeyError("x"), TierUnavailableError, True, False),
    ):
        meant = translated(error, "tier", "read", 0.15)
        assert (type(meant), meant.retryable, is_passing(error)) == (kind, retryable, now), repr(error)
        assert "x" not in meant.reason.replace("Execution", "").replace("Index", "")


@pytest.mark.slow
@pytest.mark.alone
def test_errors_say_what_and_nothing_else(mongo_server: MongoServer, world: World) -> None:
    """The kind and the code: no key, no value, no document, no password."""
    entry = an_entry("canary-key", b"canary-value", tags=("canary-tag",), request=Request("canary-prompt"))
    port = free_port()
    tiers = [
        MongoTier(f"mongodb://canary:canary@{HOST}:{port}/canary", timeout=0.1),  # nobody is there
        MongoTier(f"mongodb://canary:canary@{HOST}:{mongo_server.port}/canary", timeout=0.15),  # who does not know us
        MongoTier(f"{mongo_server.url}canary", timeout=0.15),
    ]
    raised: list[TierError] = []
    assert wait_for(lambda: world.call(tiers[-1], "get_many", ["absent"]) == {})  # it is connected, however busy the machine is
    for tier in tiers:
        for how in (
            {"errorCode": 121, "errorLabels": ["canary"]},
            {"closeConnection": True},
            {"blockConnection": True, "blockTimeMS": 300},
        ):
            with failing(mongo_server, "update", "find", "insert", "delete", **how):
                for method, argument in (("set_many", [entry]), ("set_many", [entry, an_entry("canary")]), ("get_many", ["canary-key"])):
                    with pytest.raises(TierError) as caught:
                        world.call(tier, method, argument)
                    raised.append(caught.value)
        assert "canary:canary" not in repr(tier)
        world.call(tier, "close")

    texts = {str(error) for error in raised}
    assert not [text for text in texts if "canary" in text]
    assert {type(error) for error in raised} == {TierTimeoutError, TierUnavailableError}
    assert any("OperationFailure 18" in text for text in texts)  # AuthenticationFailed
    assert any("took longer than 150 ms" in text for text in texts)
    assert any("no server can be reached (AutoReconnect)" in text for text in texts)


def test_many_threads_share_few_connections(mongodb_url: str, world: World) -> None:
    """They wait for one, within their budget."""
    mark = "&" if "?" in mongodb_url else "?"
    tier = MongoTier(f"{mongodb_url}{mark}maxPoolSize=2", timeout=5.0)
    world.call(tier, "set_many", [an_entry(str(number), str(number).encode()) for number in range(100)])

    found = world.at_once(tier, "get_many", [([str(number)],) for number in range(100)])

    assert [each[str(number)].value for number, each in enumerate(found)] == [str(number).encode() for number in range(100)]
    world.call(tier, "close")


def test_many_who_write_one_new_key(mongodb_url: str, world: World) -> None:
    """None of them fails, and there is one document."""
    tier = MongoTier(mongodb_url, timeout=5.0, durability="fast")
    for number in range(10):
        assert world.at_once(tier, "set_many", [([an_entry(f"k {number}", bytes([writer]))],) for writer in range(16)]) == [None] * 16
    assert tier.count_where("app", Scope()) == 10
    world.call(tier, "close")


# --- whose replies

CANCELS = 5_000


@pytest.mark.parametrize("cancels", [CANCELS, pytest.param(20 * CANCELS, marks=pytest.mark.nightly)])
async def test_a_storm_of_cancelled_reads(mongodb_url: str, cancels: int) -> None:
    """Nobody gets another one's answer, and the connections are well afterwards."""
    tier = MongoTier(mongodb_url, timeout=2.0)
    entries = {str(number): an_entry(str(number), str(number).encode() * 50) for number in range(50)}
    await tier.aset_many(list(entries.values()))
    rnd, cancelled, wrong = random.Random(7), 0, 0

    async def read(key: str) -> None:
        nonlocal wrong
        found = await tier.aget_many([key])
        wrong += found != {key: entries[key]}

    while cancelled < cancels:
        tasks = [asyncio.ensure_future(read(str(rnd.randrange(50)))) for _ in range(20)]
        for task in tasks:
            if rnd.random() < 0.8:
                asyncio.get_running_loop().call_later(rnd.random() * 0.004, task.cancel)
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            cancelled += isinstance(outcome, asyncio.CancelledError)
            assert not isinstance(outcome, Exception), outcome
    assert wrong == 0
    assert [await tier.aget_many([key]) for key in entries] == [{key: entry} for key, entry in entries.items()]
    await tier.aclose()


async def test_many_wait_for_a_connection_of_a_server_that_is_silent(mongodb_url: str, proxy_to: Proxies) -> None:
    """Their time is over while they wait, and they are cancelled just then: whoever comes later gets connections all the same."""
    proxy = proxy_to(mongodb_url)
    tier = MongoTier(f"{proxy.url}?maxPoolSize=2", timeout=BUDGET)
    await tier.aset_many([LARGE])

    async def read() -> bool:
        with suppress(TierError):
            return bool(await tier.aget_many([LARGE.key]))
        return False

    proxy.set(hold="down")
    for _ in range(4):
        done, late = await asyncio.wait([asyncio.ensure_future(read()) for _ in range(200)], timeout=5.0)
        assert not late
        assert not any(task.result() for task in done)
    proxy.clear()

    for _ in range(100):
        if await read():
            break
        await asyncio.sleep(0.05)
    else:
        pytest.fail("it is not read any more")
    await tier.aclose()


@pytest.mark.parametrize("seconds", [0.5, pytest.param(5.0, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("faults", [{"flip": 0.0005}, {"duplicate": True}, {"slice": 7}, {"flip": 0.0002, "slice": 100}], ids=repr)
def test_replies_that_are_hurt(mongodb_url: str, proxy_to: Proxies, world: World, faults: dict[str, Any], seconds: float) -> None:
    """Bits turn over, bytes come twice or in pieces: a miss or a `TierError`, never another answer."""
    entries = {str(number): an_entry(str(number), os.urandom(300)) for number in range(50)}
    proxy = proxy_to(mongodb_url)
    tier = MongoTier(proxy.url, timeout=0.3)
    assert wait_for(lambda: world.call(tier, "set_many", list(entries.values())) is None)
    proxy.set(**faults)
    rnd, good, end = random.Random(7), 0, time.monotonic() + seconds
    while time.monotonic() < end:
        keys = [str(rnd.randrange(50)) for _ in range(rnd.choice([1, 1, 5]))]
        with suppress(TierError):
            for key, found in world.call(tier, "get_many", keys).items():
                if isinstance(found, Entry):
                    assert found == entries[key]
                    good += 1
    proxy.clear()
    assert good or faults == {"duplicate": True}
    assert wait_for(lambda: world.call(tier, "get_many", ["1"]) == {"1": entries["1"]})
    world.call(tier, "close")


# --- what is stored


def test_writes_that_fail_one_time_in_ten(mongo_server: MongoServer, world: World) -> None:
    """Change nothing: all answers are stored in the end, and a removal either holds or is an error."""
    events: list[Event] = []
    cache = TieredCache("memory://", f"{mongo_server.url}db#timeout=1s", observers=[events.append])
    removed: set[int] = set()
    world.call(cache, "set", ask("first"), b"x")
    one_in_ten = {"activationProbability": 0.1}
    with failing(mongo_server, "update", "insert", mode=one_in_ten, errorCode=14031):
        for number in range(150):
            world.call(cache, "set", ask(str(number)), Answer(value=str(number).encode(), tags=(str(number),)))
            if number % 5 == 0:
                with suppress(DeletionError):
                    world.call(cache, "invalidate", tag=str(number))
                    removed.add(number)
        settled(cache)
    assert "tier_failed" in kinds(events)
    settled(cache)
    world.call(cache, "close")

    with TieredCache(f"{mongo_server.url}db#timeout=1s") as other:
        found = {int(request.prompt): entry.value for request, entry in other.get_many(ask(str(number)) for number in range(150)).items()}
    assert not removed & found.keys()
    assert {number: str(number).encode() for number in range(150) if number % 5} == {n: v for n, v in found.items() if n % 5}
    assert len(removed) > 20


_WRITER = """
import sys
from layered_cache import MongoTier, TierError
from layered_cache.testing._sync_async import an_entry
tier, first = MongoTier(sys.argv[1], timeout=0.5), int(sys.argv[2])
for number in range(first, first + 100000):
    try:
        tier.set_many([an_entry(str(number), str(number).encode() * 50)])
    except TierError:
        break
    print(number, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("rounds", [10])
def test_a_killed_server_loses_nothing_that_was_acknowledged(own_mongo: Callable[..., MongoServer], rounds: int) -> None:
    """Alone, it has it in its journal."""
    server = own_mongo()
    acknowledged: list[int] = []
    for number in range(rounds):
        command = [sys.executable, "-c", _WRITER, f"{server.url}db", str(number * 100000)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            kill_at = len(acknowledged) + 150
            for line in process.stdout:
                acknowledged.append(int(line))
                if len(acknowledged) == kill_at:
                    threading.Thread(target=server.kill).start()
        server.start()
    assert len(acknowledged) >= rounds * 150
    tier = MongoTier(f"{server.url}db", timeout=10.0)
    found = tier.get_many([str(number) for number in acknowledged])
    tier.close()

    assert {int(key) for key in found} == set(acknowledged)
    assert all(isinstance(entry, Entry) and entry.value == key.encode() * 50 for key, entry in found.items())


def mounted(folder: Path, *options: str) -> bool:
    done = subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", str(folder)], capture_output=True, check=False)
    return done.returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="needs to mount a file system")
def test_a_full_disk(tmp_path: Path, world: World) -> None:
    """A mongod does not survive it: the model answers, and when there is room and a server again, it is used."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not mounted(folder, "-o", "size=400m"):
        pytest.skip("this sandbox does not allow to mount")
    server = MongoServer()
    server.__dict__["folder"] = folder
    try:
        server.start()
        events: list[Event] = []
        cache = TieredCache("memory://", f"{server.url}db", observers=[events.append])
        assert world.call(cache, "set", ask("before"), b"x")
        for number in range(400):
            value = os.urandom(1024 * 1024)
            assert world.call(cache, "get_or_compute", ask(str(number)), world.compute(value)).value == value
            if not server.alive:
                break
        assert world.call(cache, "get_or_compute", ask("after"), world.compute(b"y")).value == b"y"
        assert "tier_failed" in kinds(events)
        server.kill()
        subprocess.run(["mount", "-o", "remount,size=1500m", str(folder)], check=True)
        server.start()
        assert wait_for(lambda: cache.tiers[1].get_many([cache.key(ask("before"))]))
        world.call(cache, "set", ask("room"), b"room")
        settled(cache)
        assert wait_for(lambda: cache.tiers[1].get_many([cache.key(ask("room"))]))
        world.call(cache.tiers[1], "close")  # in its loop, which does not run on by itself
        world.call(cache, "close")
    finally:
        server.kill()
        subprocess.run(["umount", "-l", str(folder)], check=True)


# --- how it begins and ends


def test_a_cache_that_is_built_while_the_server_is_down(world: World) -> None:
    """Uses it when it comes, without a new object."""
    server = MongoServer()
    events: list[Event] = []
    try:
        cache = TieredCache("memory://", f"{server.url}db", observers=[events.append])
        assert world.call(cache, "get_or_compute", ask(), world.compute(b"x")).value == b"x"
        assert {"log_failed"} <= set(kinds(events))
        server.start()
        time.sleep(1.0)
        held = world.call(cache, "set", ask("later"), b"y")
        settled(cache)
        with TieredCache(f"{server.url}db#timeout=2s") as other:
            assert other.get(ask("later")) == held
        world.call(cache, "close")
    finally:
        server.close()


def test_what_was_closed_says_so(mongodb_url: str, world: World) -> None:
    """Twice is no error, nor is to close what was never used."""
    tier = MongoTier(mongodb_url, timeout=2.0)
    world.call(tier, "close")
    tier = MongoTier(mongodb_url, timeout=2.0)
    world.call(tier, "set_many", [an_entry()])
    world.call(tier, "close")
    world.call(tier, "close")

    with pytest.raises(TierUnavailableError, match="the tier was closed") as raised:
        world.call(tier, "get_many", ["k"])
    assert not raised.value.retryable


@pytest.mark.alone
def test_closing_takes_no_longer_when_the_server_hangs(mongo_server: MongoServer, world: World) -> None:
    """It does not wait for anybody to say goodbye."""
    tier = MongoTier(f"{mongo_server.url}db", timeout=2.0)
    world.call(tier, "set_many", [an_entry()])
    mongo_server.freeze()
    started = time.monotonic()
    world.call(tier, "close")
    assert time.monotonic() - started < 1.0
    mongo_server.thaw()


def test_nothing_is_left(mongodb_url: str, proxy_to: Proxies) -> None:
    """No thread, no connection, no loop, of many tiers in many loops, some of which were not closed by anybody."""
    proxy = proxy_to(mongodb_url)

    async def use(tier: MongoTier) -> None:
        await tier.aset_many([an_entry()])
        assert await tier.aget_many(["k"])

    def used_up() -> None:
        tier = MongoTier(proxy.url, timeout=2.0)
        tier.set_many([an_entry()])
        for _ in range(5):
            asyncio.run(use(tier))
        assert tier._loops is not None
        assert len(tier._loops._halves) <= 1
        tier.close()

    used_up()
    gc.collect()
    assert wait_for(lambda: proxy.open == 0)
    before = {thread.name for thread in threading.enumerate()}
    for _ in range(3):
        used_up()
    gc.collect()
    assert wait_for(lambda: proxy.open == 0)
    assert wait_for(lambda: sum(thread.name.startswith(("pymongo", "layered-cache mongodb")) for thread in threading.enumerate()) == 0), (
        before
    )


def test_closing_while_a_loop_stands_still(mongodb_url: str, proxy_to: Proxies) -> None:
    """Its connection is closed when it ends, though nobody holds the tier any more."""
    proxy = proxy_to(mongodb_url)
    loop = asyncio.new_event_loop()
    tier = MongoTier(proxy.url, timeout=2.0)
    loop.run_until_complete(tier.aset_many([an_entry()]))
    tier.close()
    with pytest.raises(TierUnavailableError, match="closed"):
        loop.run_until_complete(tier.aget_many(["k"]))
    del tier
    gc.collect()  # warns of a client that was not closed
    assert proxy.open
    loop.run_until_complete(loop.shutdown_asyncgens())
    assert wait_for(lambda: proxy.open == 0)
    loop.close()


def test_loops_in_threads(mongodb_url: str) -> None:
    """Each has a connection of its own; closing the tier closes those of running loops too."""
    tier = MongoTier(mongodb_url, timeout=2.0)
    used, done = threading.Barrier(5), threading.Event()

    async def work(number: int) -> bool:
        entry = an_entry(str(number))
        await tier.aset_many([entry])
        assert await tier.aget_many([entry.key]) == {entry.key: entry}
        await asyncio.to_thread(used.wait)
        await asyncio.to_thread(done.wait)
        try:
            await tier.aget_many([entry.key])
        except TierUnavailableError as error:
            return "closed" in str(error)
        return False

    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(asyncio.run, work(number)) for number in range(4)]
        used.wait()
        assert tier._loops is not None
        assert len(tier._loops._halves) == 4
        tier.close()
        done.set()
        assert [future.result() for future in futures] == [True] * 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_while_it_connects(mongodb_url: str) -> None:
    """The child connects by itself."""
    for pause in (0.0, 0.001, 0.003, 0.01):
        tier = MongoTier(mongodb_url, timeout=2.0)
        thread = threading.Thread(target=lambda tier=tier: tier.set_many([an_entry()]))
        thread.start()
        time.sleep(pause)
        if (child := os.fork()) == 0:
            code = 1
            try:
                tier.set_many([an_entry("child")])
                code = 0 if tier.get_many(["child"]) else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        thread.join()
        assert tier.get_many(["k"])
        tier.close()


@pytest.mark.alone
def test_a_client_that_tries_again_by_itself_is_one_of_the_users_own(mongodb_url: str) -> None:
    """Its calls have the budget all the same."""
    with MongoClient[Any](mongodb_url) as client:
        tier = MongoTier(collection=client.get_default_database()["own"])
        assert wait_for(lambda: tier.set_many([an_entry()]) is None)
        assert tier.get_many(["k"])
    started = time.monotonic()
    with pytest.raises(TierError):  # its owner has closed it
        tier.get_many(["k"])
    assert time.monotonic() - started < BUDGET + 0.1


def test_what_a_server_says_of_a_document_is_not_passed_on(mongodb_url: str) -> None:
    """It may repeat the document: prompt, answer and all; so it stands in no traceback."""
    request, answer = Request("canary prompt"), Answer(value=b"canary answer", response="canary answer")
    database: Any = MongoClient(mongodb_url).get_default_database()
    with database.client:
        database.create_collection("entries", validator={"response": {"$type": "int"}})
    with TieredCache(mongodb_url, policy=Policy(fail_open=False)) as cache, pytest.raises(TierError, match="121") as raised:
        cache.set(request, answer)

    assert "canary" not in "".join(traceback.format_exception(raised.value))
    assert not raised.value.retryable
