"""What stands in MongoDB: what people read, what is left out, what is asked, and what is refused before it is asked."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from layered_cache import (
    Answer,
    ConfigurationError,
    Entry,
    MissingClientError,
    MongoTier,
    Policy,
    Request,
    Ticket,
    TieredCache,
    TierUnavailableError,
    Usage,
)
from layered_cache._storage.rules import UNKNOWN, Scope, below
from layered_cache.testing import FakeClock
from layered_cache.testing._sync_async import an_entry
from layered_cache.tiers.mongodb import document as documents
from pymongo import AsyncMongoClient, MongoClient
from pymongo.collection import Collection
from support.servers import MongoServer, free_port
from support.sync_async import World, ask, settled

MiB = 1024 * 1024


@contextmanager
def collection(url: str, name: str = "entries") -> Iterator[Collection[dict[str, Any]]]:
    """Look into a collection by another way."""
    with MongoClient[Any](url) as client:
        yield client.get_default_database()[name]


def all_documents(url: str) -> list[dict[str, Any]]:
    with collection(url) as entries:
        return list(entries.find())


@pytest.fixture
def tier(mongodb_url: str) -> Iterator[MongoTier]:
    tier = MongoTier(mongodb_url, timeout=2.0)
    yield tier
    tier.close()


# --- what people read


def test_people_can_read_it(mongodb_url: str) -> None:
    """Every answer with its question, its parameters without secrets, its costs and its dates."""
    with TieredCache(f"{mongodb_url}#timeout=2s", namespace="faq") as cache:
        request = Request(
            [{"role": "user", "content": "größe?"}],
            model="gpt-4o",
            params={"temperature": 0, "headers": {"Authorization": "Bearer canary"}, "base_url": "https://u:canary@host/v1"},
            framework="langchain",
        )
        answer = Answer(value=b"\x00encoded", tags=("b", "a"), usage=Usage(10, 20), cost_usd=0.5, finish="stop", response="die größe")
        held = cache.set(request, answer)
        cache.set(Request("plain text"), b"x")
    assert held is not None

    with collection(mongodb_url) as entries:
        found = entries.find_one({"model": "gpt-4o", "created_at": {"$gt": datetime(2020, 1, 1, tzinfo=UTC)}, "tags": "a"})
        assert found is not None
        plain = entries.find_one({"prompt": "plain text"})
        assert plain is not None
    texts = ("_id", "namespace", "framework", "prompt", "params", "response", "tags", "finish", "input_tokens", "output_tokens", "cost_usd")
    assert {name: found[name] for name in texts} == {
        "_id": held.key,
        "namespace": "faq",
        "framework": "langchain",
        "prompt": [{"content": "größe?", "role": "user"}],
        "params": {"base_url": "https://[redacted]@host/v1", "headers": {"Authorization": "[redacted]"}, "temperature": 0},
        "response": "die größe",
        "tags": ["a", "b"],
        "finish": "stop",
        "input_tokens": 10,
        "output_tokens": 20,
        "cost_usd": 0.5,
    }
    assert found["born"] == {"epoch": held.born.epoch, "seq": held.born.seq}
    assert found["prompt_digest"] == held.prompt_digest.hex()
    assert found["created"] == held.created_at
    for name, clock in (("created_at", held.created_at), ("fresh_until", held.fresh_until), ("keep_until", held.keep_until)):
        assert abs(found[name].replace(tzinfo=UTC).timestamp() - clock) < 0.001
    assert found["purge_at"] == found["keep_until"]
    assert "model" not in plain
    assert b"canary" not in repr(all_documents(mongodb_url)).encode()


def test_prompts_can_be_kept_out_of_it(mongodb_url: str) -> None:
    """With `store_requests="hash"`."""
    with TieredCache(f"{mongodb_url}#timeout=2s", policy=Policy(store_requests="hash")) as cache:
        cache.set(ask("my question"), Answer(value=b"x", response="my answer"))
        assert cache.get(ask("my question"))

    (found,) = all_documents(mongodb_url)
    assert not {"framework", "prompt", "params", "response"} & found.keys()
    assert "my " not in repr(found)


ODD: dict[str, Any] = {
    "a.b": 1,
    "$where": "x",
    "": 2,
    "$": 3,
    "nul\0": "nul\0",
    "price$": 4,
    "large": 2**80,
    "small": -(2**63),
    "smaller": -(2**63) - 1,
    "lone": "\ud800",
    "\udfff": None,
    "truth": True,
    "nan": 1.5,
    "list": [{"$ne": None}, [], {}],
}


def test_any_field_name_and_any_number(mongodb_url: str, world: World) -> None:
    """What MongoDB would take for something else is written with characters that look alike; the answer comes back as it was."""
    cache = TieredCache(f"{mongodb_url}#timeout=2s")
    request = Request([{"role": "user", "content": ODD}], model="m", params={"tools": ODD, **ODD})
    held = world.call(cache, "set", request, Answer(value=b"x", tags=("t\ud800",), response="\ud800"))
    assert world.call(cache, "get", request) == held

    (found,) = all_documents(mongodb_url)
    assert found["response"] == "?"
    odd = found["params"]["tools"]
    assert odd == found["prompt"][0]["content"]
    assert {name: odd[name] for name in ("a．b", "＄where", "", "＄", "nul␀", "price$", "large", "small", "smaller", "lone", "truth")} == {
        "a．b": 1,
        "＄where": "x",
        "": 2,
        "＄": 3,
        "nul␀": "nul\0",
        "price$": 4,
        "large": str(2**80),
        "small": -(2**63),
        "smaller": str(-(2**63) - 1),
        "lone": "?",
        "truth": True,
    }
    assert odd["list"] == [{"＄ne": None}, [], {}]
    assert world.call(cache, "invalidate", tag="t\ud800").removed == {"mongodb": 1}
    world.call(cache, "close")


def test_what_is_too_deep_is_json(mongodb_url: str) -> None:
    """The server takes a hundred levels."""
    deep: Any = "bottom"
    for _ in range(150):
        deep = [deep]
    with TieredCache(f"{mongodb_url}#timeout=2s") as cache:
        held = cache.set(Request(deep, params={"x": {"y": deep}}), b"x")
        assert held
        assert cache.get(held.key)

    (found,) = all_documents(mongodb_url)
    for level in (found["prompt"], found["params"]["x"]["y"]):
        while isinstance(level, list):
            (level,) = level
        assert level.endswith('["bottom"' + "]" * level.count("["))


def test_a_request_that_is_too_large_is_left_out(tier: MongoTier, mongodb_url: str) -> None:
    """Of the document; its answer is kept."""
    for number, (value, text) in enumerate(((100, 14), (100, 17), (9, 6), (9, 4))):
        entry = an_entry(str(number), os.urandom(value * MiB if value < 50 else value), request=Request("x" * text * MiB), response="y")
        tier.set_many([entry])
        assert tier.get_many([entry.key]) == {entry.key: entry}
    many = an_entry("many", request=Request([0] * 1_400_000))  # as BSON, it is seven times as large
    tier.set_many([many])
    assert tier.get_many(["many"]) == {"many": many}

    with collection(mongodb_url) as entries:
        assert {each["_id"]: each.get("response") for each in entries.find({}, {"response": 1})} == {
            "0": "y",
            "1": None,
            "2": None,
            "3": "y",
            "many": None,
        }


def test_what_is_too_large_for_a_document_is_an_error_after_the_others_were_written(tier: MongoTier, world: World) -> None:
    """Which another try would not change. The limit is known before."""
    assert tier.max_entry_bytes == 15 * MiB
    large, fits = an_entry("large", os.urandom(16 * MiB)), an_entry("fits", os.urandom(15 * MiB))
    with pytest.raises(TierUnavailableError, match="mongodb: write: larger than a document may be") as raised:
        world.call(tier, "set_many", [an_entry("before"), large, an_entry("after")])

    assert not raised.value.retryable
    assert world.call(tier, "get_many", ["before", "large", "after"]).keys() == {"before", "after"}
    world.call(tier, "set_many", [fits])
    assert world.call(tier, "get_many", ["fits"]) == {"fits": fits}


def test_dates_that_are_none(tier: MongoTier) -> None:
    """What is kept for ever has the last date there is."""
    entry = an_entry(created_at=-9e12, fresh_until=1e12, keep_until=9e12)
    tier.set_many([entry])

    assert tier.get_many(["k"]) == {"k": entry}
    assert documents.date(1e300).year == documents.date(float("inf")).year == 9999
    assert documents.date(-1e300).year == 1


# --- expiry and indexes


def test_expired_documents_are_removed_by_mongodb(own_mongo: Callable[..., MongoServer]) -> None:
    """Its index for that is made in the background, by the first who is told to purge; nobody has to wait a minute for expiry."""
    server = own_mongo("--setParameter", "ttlMonitorSleepSecs=1")
    url = f"{server.url}db"
    tier = MongoTier(url, timeout=2.0)
    tier.set_many([an_entry("short", ttl=0.5), an_entry("long")])
    assert len(tier.indexes_missing()) == 4

    assert tier.purge() == 0
    assert tier.indexes_missing() == []
    deadline = time.monotonic() + 10
    while len(all_documents(url)) > 1 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert [each["_id"] for each in all_documents(url)] == ["long"]
    with collection(url) as entries:
        entries.drop_index("layered_cache_tags")
        entries.drop_index("layered_cache_purge")
        entries.create_index("purge_at")  # without an end
    assert tier.indexes_missing() == ["layered_cache_tags", "layered_cache_purge"]
    tier.close()


def test_indexes_are_made_in_the_background_by_the_cache(mongodb_url: str) -> None:
    """After the first write."""
    with TieredCache("memory://", f"{mongodb_url}#timeout=15s") as cache:  # to make them takes a busy machine long
        cache.set(ask(), b"x")
        tier, deadline = cast("MongoTier", cache.tiers[1]), time.monotonic() + 20
        while tier.indexes_missing() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert tier.indexes_missing() == []


def test_many_make_the_indexes_at_once(mongodb_url: str, world: World) -> None:
    """None of them fails."""
    tiers = [MongoTier(mongodb_url, timeout=5.0) for _ in range(6)]

    class All:
        def purge(self, number: int) -> int:
            return tiers[number].purge()

        async def apurge(self, number: int) -> int:
            return tiers[number].purge()

    assert world.at_once(All(), "purge", [(number,) for number in range(6)]) == [0] * 6
    assert tiers[0].indexes_missing() == []
    for tier in tiers:
        tier.close()


def test_reads_and_writes_go_by_the_id(tier: MongoTier, mongodb_url: str) -> None:
    """So the collection may be sharded by it, hashed or not: each goes to the shards that hold its keys, and to an index there."""
    tier.set_many([an_entry(str(number)) for number in range(50)])
    tier.purge()

    def stages(plan: dict[str, Any]) -> set[str]:
        inner = [plan["inputStage"]] if "inputStage" in plan else plan.get("inputStages", [])
        return {plan["stage"]}.union(*map(stages, inner))

    with collection(mongodb_url) as entries:
        database = entries.database
        for keys in (["1"], ["1", "2", "absent"]):
            query = documents.by_keys(keys)
            assert set(query) == {"_id"}
            for command in (
                {"find": "entries", "filter": query, "projection": {"envelope": 1}},
                {"delete": "entries", "deletes": [{"q": query, "limit": 0}]},
                {"update": "entries", "updates": [{"q": {"_id": "1"}, "u": {"x": 1}, "upsert": True}]},
            ):
                plan = database.command({"explain": command, "verbosity": "queryPlanner"})["queryPlanner"]["winningPlan"]
                assert stages(plan) & {"IDHACK", "IXSCAN"}, plan
                assert "COLLSCAN" not in stages(plan)
        for scope in (Scope(), Scope(tags=("a",)), Scope(keys=("1",)), Scope(created_after=1.0)):
            find = {"find": "entries", "filter": documents.query("app", scope, 5)}
            assert "IXSCAN" in stages(database.command({"explain": find})["queryPlanner"]["winningPlan"])


# --- others in the same database


def test_other_documents_stay(mongodb_url: str, world: World) -> None:
    """A thousand of them, in the same collection and beside it, whatever is removed."""
    with collection(mongodb_url) as entries:
        theirs = [{"_id": f"theirs {number}", "namespace": ["faq", "a*", "faq/child"][number % 3], "tags": ["t"]} for number in range(500)]
        entries.insert_many(theirs)
        entries.database["users"].insert_many([{"_id": number} for number in range(500)])
    cache = TieredCache(f"{mongodb_url}#timeout=2s", namespace="faq")
    for number in range(20):
        world.call(cache, "set", ask(str(number)), Answer(value=b"x", tags=("t",)))
    world.call(cache, "invalidate", tag="t")
    world.call(cache, "invalidate", model="*")
    world.call(cache, "invalidate", created_after=datetime(1970, 1, 1, tzinfo=UTC))
    world.call(cache, "delete", ask("1"))
    world.call(cache, "clear", children=True)
    settled(cache)

    with collection(mongodb_url) as entries:
        assert entries.count_documents({"_id": {"$regex": "^theirs"}}) == 500
        assert entries.count_documents({"envelope": {"$exists": True}}) == 0
        assert entries.database["users"].count_documents({}) == 500
    world.call(cache, "close")


def test_a_document_that_is_none_of_ours_is_a_miss_and_stays(tier: MongoTier, mongodb_url: str, world: World) -> None:
    """Under our key, with something else in it."""
    with collection(mongodb_url) as entries:
        entries.insert_many(
            [{"_id": "a"}, {"_id": "b", "envelope": "text"}, {"_id": "c", "envelope": b"bytes"}, {"_id": "d", "envelope": 5}]
        )

    for keys in (["a"], ["a", "b", "c", "d"]):
        found = world.call(tier, "get_many", keys)
        assert found.keys() == set(keys)
        assert not any(isinstance(each, Entry) or each.erase for each in found.values())


@pytest.mark.parametrize(
    "model", ["gpt-*", "*", "gpt-[!4]", "[[:alpha:]]*", "gpt.4", "[z-a]", "gpt-4\n", "$", "[]-]x", "gpt-4", "g?t-4", "\0*"]
)
def test_globs_are_pythons(tier: MongoTier, model: str) -> None:
    """Not those of a regular expression in the server."""
    models = ["gpt-4", "gpt-4\n", "gpt-3", "gpt.4", "GPT-4", "a]", ":]", "]x", "-x", "$", "[z-a]", "\0x", "gpt-4o", ""]
    entries = [an_entry(str(number), model=name) for number, name in enumerate(models)]
    tier.set_many(entries)
    scope = Scope(model=model)

    expected = {entry.key for entry in entries if scope.matches(entry)}
    assert tier.count_where("app", scope) == len(expected)
    assert tier.erase_where("app", scope, 2**62) == len(expected)
    assert tier.get_many([entry.key for entry in entries]).keys() == {entry.key for entry in entries} - expected


def test_times_are_exact(tier: MongoTier) -> None:
    """To the microsecond, though dates are of milliseconds."""
    entries = [an_entry(str(number), created_at=1_700_000_000 + number / 1e6) for number in range(0, 3000, 250)]
    tier.set_many(entries)
    for moment in (
        0.0,
        *(entry.created_at + nudge for entry in entries for nudge in (-1e-6, 0.0, 1e-6)),
        1e300,
        float("inf"),
        -float("inf"),
    ):
        for scope in (Scope(created_before=moment), Scope(created_after=moment)):
            assert tier.count_where("app", scope) == sum(scope.matches(entry) for entry in entries)


def test_more_than_a_batch_is_erased_and_what_is_younger_stays(tier: MongoTier) -> None:
    """Also below a namespace."""
    tier.timeout = 5.0
    for start in range(0, 2500, 500):
        tier.set_many([an_entry(str(number), namespace="app/child", born=Ticket(1, number)) for number in range(start, start + 500)])

    assert tier.erase_where(below("app"), Scope(), 2400) == 2400
    assert tier.count_where(below("app"), Scope()) == 100


def test_what_replaces_an_entry_while_it_is_erased_stays(tier: MongoTier, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is erased by its birth, not only by its key."""
    tier.set_many([an_entry("a", born=Ticket(1, 1)), an_entry("b", born=Ticket(1, 1))])
    erase = tier._entries._delete

    async def late(*args: Any) -> int:
        tier.set_many([an_entry("a", b"new", born=Ticket(1, 10))])
        return await erase(*args)

    monkeypatch.setattr(tier._entries, "_delete", late)
    assert tier.erase_where("app", Scope(), 5) == 1
    assert tier.get_many(["a", "b"]).keys() == {"a"}


def test_below_is_below(tier: MongoTier) -> None:
    """And what comes right before and after it, in the order of bytes, is not."""
    names = ["app", "app/", "app/\x01", "app/a", "app/é", "app/\U0010ffff", "app.", "app0", "app0/a", "app-", "ap", "App/a"]
    tier.set_many([an_entry(str(number), namespace=name) for number, name in enumerate(names)])

    assert tier.count_where("app/", Scope()) == 6
    assert tier.count_where("app", Scope()) == 1


# --- what is refused before it is asked

OPERATORS: list[Any] = [{"$ne": None}, {"$gt": ""}, ["k"], None, 5, b"k"]


@pytest.mark.parametrize("wrong", OPERATORS, ids=repr)
def test_only_texts_are_keys(world: World, wrong: Any) -> None:
    """An operator where a text belongs is refused; nothing is connected to."""
    tier = MongoTier(f"mongodb://127.0.0.1:{free_port()}/db", timeout=0.05)
    calls: list[tuple[str, tuple[Any, ...]]] = [
        ("get_many", ([wrong],)),
        ("get_many", (["k", wrong],)),
        ("delete_many", (["k", wrong],)),
        ("delete_many", ([wrong],)),
        ("set_many", ([an_entry(wrong)],)),
        ("set_many", ([an_entry(namespace=wrong)],)),
        ("set_many", ([an_entry(tags=(wrong,))],)),
        ("erase_where", (wrong, Scope(), 1)),
        ("count_where", (wrong, Scope())),
    ]
    if wrong is not None:
        calls.append(("set_many", ([an_entry(model=wrong)],)))
    for method, args in calls:
        with pytest.raises(ConfigurationError, match="must be a text"):
            world.call(tier, method, *args)
    assert tier._blocking._handles is None
    world.call(tier, "close")


def test_a_constructor_touches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """No socket, no name server, no thread; the server may be down, or come later."""

    def touched(*args: object, **kwargs: object) -> None:
        raise AssertionError("it touched the network")

    monkeypatch.setattr(socket, "getaddrinfo", touched)
    monkeypatch.setattr(socket.socket, "connect", touched)
    monkeypatch.setattr(socket.socket, "sendto", touched)
    threads = threading.enumerate()
    for url in ("mongodb://u:p@no.such.host:1/db", "mongodb+srv://u:p@no.such.host/db?srvMaxHosts=2&retryWrites=true&w=majority"):
        tier = TieredCache("memory://", f"{url}#collection=answers&durability=fast&timeout=50ms&ttl=1d").tiers[1]
        assert isinstance(tier, MongoTier)
        assert (tier.timeout, tier.ttl, tier.name) == (0.05, 86400.0, "mongodb")
        assert repr(tier) == f"MongoTier({url.replace('u:p', '[redacted]')!r})"
    assert not [thread for thread in threading.enumerate() if thread not in threads]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("mongodb://h/db#durability=none", "unknown durability of mongodb:// 'none'. Allowed: fast, journaled, majority"),
        ("mongodb://h/db#durability=majorty", "Did you mean 'majority'"),
        ("mongodb://h/db#collection=$x", r"collection of mongodb:// must be a name .* got '\$x'"),
        ("mongodb://h/db#tmeout=1s", "unknown option of mongodb:// 'tmeout'. Did you mean 'timeout'"),
        ("mongodb://h/db?retrywritez=1", "the URL of mongodb:// cannot be read: Unknown option"),
        ("mongodb+srv://h/db?retrywritez=1&srvMaxHosts=3", "the URL of mongodb"),
        ("mongodb://h:99999/", "Port must be an integer"),
        ("mongodb://user:can@ry:x@h/db", "Percent-encode the name and the password"),
        ("mongodb://", "the URL of mongodb:// cannot be read"),
    ],
)
def test_what_is_misspelt_is_said_at_once(url: str, says: str) -> None:
    """And no password is."""
    with pytest.raises(ConfigurationError, match=says) as raised:
        TieredCache(url)

    assert "can@" not in str(raised.value)
    assert raised.value.__cause__ is None


async def test_collections_of_ones_own_are_a_blocking_one_and_perhaps_another() -> None:
    """The rest says what is needed."""
    client, other = MongoClient[Any]("mongodb://h", connect=False), AsyncMongoClient[Any]("mongodb://h", connect=False)
    blocking, asynchronous = client.db.entries, other.db.entries
    for given, says in (
        ({"async_collection": asynchronous}, "must have collection="),
        ({"collection": asynchronous}, "must have collection="),
        ({"collection": blocking, "async_collection": blocking}, "AsyncMongoClient"),
        ({}, "must have a URL, or collection="),
        ({"collection": "entries"}, "must have a URL, or collection="),
        ({"url": "mongodb://h", "collection": blocking}, "must have either a URL and the name"),
        ({"url": "mongodb://h", "async_collection": asynchronous}, "must have either a URL and the name"),
    ):
        with pytest.raises(ConfigurationError, match=says):
            MongoTier(**cast("Any", given))
    assert "your own" in repr(MongoTier(collection=blocking, async_collection=asynchronous))


async def test_both_clients_of_ones_own(mongodb_url: str) -> None:
    """Are used, and stay open."""
    async with AsyncMongoClient[Any](mongodb_url, serverMonitoringMode="poll") as other:
        with MongoClient[Any](mongodb_url, serverMonitoringMode="poll") as client:
            mine = other.get_default_database()["mine"]
            tier = MongoTier(collection=client.get_default_database()["mine"], async_collection=mine, timeout=2.0)
            entry = an_entry()
            await tier.aset_many([entry])
            assert tier.get_many(["k"]) == await tier.aget_many(["k"]) == {"k": entry}
            assert tier._loops is not None
            await tier.aclose()
            assert await mine.count_documents({}) == 1
            assert client.admin.command("ping")


def test_what_the_url_says_goes(mongodb_url: str) -> None:
    """But for what the budget needs."""
    mark = "&" if "?" in mongodb_url else "?"
    tier = MongoTier(f"{mongodb_url}{mark}maxPoolSize=7&appName=theirs&w=1&retryWrites=true&readPreference=nearest", timeout=2.0)
    tier.set_many([an_entry()])
    handles = tier._blocking._handles
    assert handles is not None
    options = handles.client.options
    assert (options.pool_options.max_pool_size, options.pool_options.appname) == (7, "theirs")
    assert options.heartbeat_frequency == 0.5
    assert (options.retry_writes, options.retry_reads, options.server_monitoring_mode) == (False, False, "poll")
    assert handles.alone.write_concern.document == {"w": 1}
    assert handles.entries.read_preference.mongos_mode == "nearest"
    tier.close()


def test_durability_is_what_one_asks_for(mongodb_url: str) -> None:
    """Unless asked: the journal where a server is alone; a majority, and its journal, where there are more."""
    for durability, alone, replicated in (
        (None, {"w": 1, "j": True}, {"w": "majority", "j": True}),
        ("fast", {"w": 1, "j": False}, {"w": 1, "j": False}),
        ("journaled", {"w": 1, "j": True}, {"w": 1, "j": True}),
        ("majority", {"w": "majority", "j": True}, {"w": "majority", "j": True}),
    ):
        tier = MongoTier(mongodb_url, durability=cast("Any", durability), timeout=2.0)
        tier.set_many([an_entry()])
        handles = tier._blocking._handles
        assert handles is not None
        assert (handles.alone.write_concern.document, handles.replicated.write_concern.document) == (alone, replicated)
        assert handles.log.write_concern.document == {"w": "majority", "j": True}
        assert not tier._blocking.replicated
        tier.close()


def test_without_the_client_there_is_the_command_that_installs_it() -> None:
    """And the rest of the package goes on."""
    program = """
import sys
sys.modules["pymongo"] = None
from layered_cache import MissingClientError, MongoTier, TieredCache
for make in (lambda: TieredCache("mongodb://h"), lambda: MongoTier("mongodb://h")):
    try:
        make()
    except MissingClientError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout == "mongodb:// needs pymongo: pip install 'layered-cache[mongodb]'\n" * 2
    assert issubclass(MissingClientError, ConfigurationError)


def test_background_threads_import_nothing(mongodb_url: str) -> None:
    """A fork in the middle of an import leaves the lock of that import to the child, locked."""
    program = f"""
import sys, asyncio
from layered_cache import Policy, Request, TieredCache
cache = TieredCache("memory://", "{mongodb_url}#timeout=5s", policy=Policy(write="behind"))
cache.key(Request("q"))
before = set(sys.modules)
cache.set(Request("q"), bytes(10000))
cache.invalidate(tag="x")
cache._engine.backlog.drain(5.0)
async def main():
    await cache.aset(Request("q"), bytes(10000))
    await cache.ainvalidate(tag="x")
asyncio.run(main())
cache.close()
print(sorted(set(sys.modules) - before))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_expiry_is_checked_by_the_reader(mongodb_url: str, clock: FakeClock) -> None:
    """By the cache's clock, long before MongoDB removes a document."""
    tier = MongoTier(mongodb_url, clock=clock, timeout=2.0)
    now = clock.time()
    tier.set_many([an_entry(created_at=now, fresh_until=now + 10, keep_until=now + 10)])
    assert tier.get_many(["k"])
    clock.advance(10)
    assert tier.get_many(["k"]) == {}
    with suppress(TierUnavailableError):
        tier.read_log(UNKNOWN)
    tier.close()
