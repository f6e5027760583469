"""`LayeredKVStore`: what LlamaIndex asks of a store, over every list of tiers that people use, and what it does not ask."""

from __future__ import annotations

import asyncio
import datetime as dt
import enum
import math
import os
import pickle
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from decimal import Decimal
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from layered_cache import ConfigurationError, DeletionError, EncodeError, Event, Policy, TieredCache, TierUnavailableError
from layered_cache.adapters.msgpack_codec import same
from layered_cache.testing import FakeAuthority, FakeClock, FakeTier
from llama_index.core.ingestion.pipeline import remove_unstable_values
from llama_index.core.schema import Document, NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.storage.docstore.keyval_docstore import KVDocumentStore
from llama_index.core.storage.index_store.keyval_index_store import KVIndexStore
from llama_index.core.storage.kvstore.types import BaseKVStore, MutableMappingKVStore
from support.sync_async import World, kinds, settled

from llamaindex_layered_cache import _kv_codec as codec
from llamaindex_layered_cache.kvstore import LayeredKVStore

TIERS = {
    "memory": ["memory"],
    "sqlite": ["sqlite"],
    "redis": ["redis"],
    "mongodb": ["mongodb"],
    "memory, redis and mongodb": ["memory", "redis", "mongodb"],
}


# what holds for all of them together and for a file nearly always holds for a server alone
@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.slow) if name in {"redis", "mongodb"} else name for name in TIERS])
def store(request: pytest.FixtureRequest) -> Iterator[LayeredKVStore]:
    """A store over each list of tiers, slow only where the machine is."""
    fixtures = {"sqlite": "db", "redis": "redis_url", "mongodb": "mongodb_url"}
    urls = ("memory://" if tier == "memory" else f"{request.getfixturevalue(fixtures[tier])}#timeout=2s" for tier in TIERS[request.param])
    with TieredCache(*urls) as cache:
        yield LayeredKVStore(cache)


@pytest.fixture
def kept() -> LayeredKVStore:
    """A store in memory."""
    return LayeredKVStore(TieredCache("memory://"))


# --- what a store does


def test_pairs(world: World, store: LayeredKVStore) -> None:
    """Are put, found, listed, replaced and removed, each in its collection."""
    assert world.call(store, "get", "k") is None
    world.call(store, "put", "k", {"a": 1, "gone": 2})
    world.call(store, "put", "k", {"other": True}, "docstore/data")
    world.call(store, "put", "k", {"b": [1, 2]})

    assert world.call(store, "get", "k") == {"b": [1, 2]}
    assert world.call(store, "get", "k", collection="docstore/data") == {"other": True}
    assert world.call(store, "get_all") == {"k": {"b": [1, 2]}}
    assert world.call(store, "get_all", "nothing") == {}

    assert world.call(store, "delete", "k") is True
    assert world.call(store, "delete", "k") is False
    assert world.call(store, "get", "k") is None
    assert world.call(store, "get_all") == {}
    assert world.call(store, "get", "k", "docstore/data") == {"other": True}


def test_many_pairs_in_batches_of_any_size(world: World, store: LayeredKVStore) -> None:
    """Of two of one key, the last."""
    pairs = [(str(number), {"n": number}) for number in range(301)]
    for batch_size in (1, 7, 1000):
        world.call(store, "put_all", [*pairs, ("0", {"n": "last"})], batch_size=batch_size)
        world.call(store, "put_all", [], batch_size=batch_size)
    settled(store.engine)

    assert world.call(store, "get_all") == {**dict(pairs), "0": {"n": "last"}}


NAMES = [
    "",
    "a",
    "a/b",
    "a%2Fb",
    "ключ",
    "鍵 🗝",
    "x*?[y]",
    "$set",
    "a.b",
    "\x00",
    "tab\tnew\nline",
    "k" * 5000,
    "lone \ud800",
    "/",
    "~",
    "~a",
]


def test_keys_and_collections_of_any_kind(world: World, store: LayeredKVStore) -> None:
    """Each its own."""
    for name in NAMES:
        world.call(store, "put", name, {"_id": name}, "keys")
        world.call(store, "put", "k", {"of": name}, collection=name)
    settled(store.engine)

    assert world.call(store, "get_all", "keys") == {name: {"_id": name} for name in NAMES}
    for name in NAMES:
        assert world.call(store, "get", name, "keys") == {"_id": name}
        assert world.call(store, "get_all", name) == {"k": {"of": name}}


def test_names_below_a_long_namespace() -> None:
    """There is room for all of them, or the store says at once that there is not."""
    cache = TieredCache("memory://", namespace="n" * 180)
    store = LayeredKVStore(cache, namespace="kv")
    for name in ("c" * 60, "c" * 70, "c" * 71, "c" * 300):
        store.put("k", {"of": name}, name)
    for name in ("c" * 60, "c" * 70, "c" * 71, "c" * 300):
        assert store.get_all(name) == {"k": {"of": name}}

    with pytest.raises(ConfigurationError, match="namespace must be 1 to 255"):
        LayeredKVStore(TieredCache("memory://", namespace="n" * 250))


def test_stores_of_different_names_do_not_meet(world: World) -> None:
    """Those of one name do; the default one's is kv."""
    cache = TieredCache("memory://")
    world.call(LayeredKVStore(cache), "put", "k", {"a": 1})

    assert world.call(LayeredKVStore(cache, namespace="kv"), "get", "k") == {"a": 1}
    assert world.call(LayeredKVStore(cache, namespace="other"), "get", "k") is None
    assert world.call(LayeredKVStore(cache.namespace("tenant")), "get", "k") is None


def test_nobody_shares_a_value(world: World, kept: LayeredKVStore) -> None:
    """Not with the store, and not with another caller."""
    mine: dict[str, Any] = {"list": [1], "vector": [0.5] * 20}
    world.call(kept, "put", "k", mine)
    mine["list"].append(2)
    for _ in range(2):
        found = world.call(kept, "get", "k")
        assert found == {"list": [1], "vector": [0.5] * 20}
        found["list"].append(3)
        found["vector"].clear()
    world.call(kept, "get_all")["k"]["list"].append(4)
    assert world.call(kept, "get", "k")["list"] == [1]


def test_what_is_put_after_a_removal_stays(world: World, store: LayeredKVStore) -> None:
    """Also if the same caller looked before the removal: a value is given, not computed."""

    async def main() -> Any:
        await store.aget("k")
        await store.adelete("k")
        await store.aput("k", {"v": 1})
        return await store.aget("k")

    if world.name == "tasks":  # in one task
        assert world.loop.run_until_complete(main()) == {"v": 1}  # type: ignore
        return
    store.get("k")
    store.delete("k")
    store.put("k", {"v": 1})
    assert store.get("k") == {"v": 1}


def test_loops_and_threads(store: LayeredKVStore) -> None:
    """One store serves a loop, the next one, and threads; the blocking methods also where a loop runs."""

    async def main(number: int) -> list[Any]:
        await asyncio.gather(*(store.aput(f"{number} {n}", {"n": n}) for n in range(10)))
        store.put(f"{number} blocking", {"n": 0})
        found = await asyncio.gather(*(store.aget(f"{number} {n}") for n in range(10)))
        return [*found, store.get(f"{number} blocking")]

    expected = [*({"n": n} for n in range(10)), {"n": 0}]
    assert [asyncio.run(main(0)), asyncio.run(main(1))] == [expected, expected]
    found: list[Any] = []
    threads = [threading.Thread(target=lambda number=number: found.append(asyncio.run(main(number)))) for number in range(2, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 3


# --- what LlamaIndex wants of it besides


def test_llamaindex_takes_it_for_what_it_is(kept: LayeredKVStore) -> None:
    """A store that is there although it is empty, that has nothing to be merged, and of which no cache key knows anything."""
    assert isinstance(kept, BaseKVStore)
    assert not isinstance(kept, MutableMappingKVStore)
    assert bool(kept)
    assert not hasattr(kept, "__len__")
    assert remove_unstable_values(repr(kept)) == ""
    assert re.fullmatch(r"<llamaindex_layered_cache\.kvstore\.LayeredKVStore object at 0x[0-9a-f]+>", repr(kept))


def test_a_document_store(world: World, store: LayeredKVStore) -> None:
    """Its documents, what they are made of, and hashes, in batches too."""
    documents = KVDocumentStore(store, batch_size=10)
    given = [
        TextNode(id_=f"n{number}", text=f"text {number}", relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id="doc")})
        for number in range(25)
    ]
    if world.name == "tasks":
        run = world.loop.run_until_complete  # type: ignore
        run(documents.async_add_documents([Document(id_="doc", text="all"), *given]))
        assert run(documents.aget_ref_doc_info("doc")).node_ids == [node.node_id for node in given]
        assert run(documents.aget_document("n3")) == given[3]
        run(documents.adelete_document("n3"))
        assert run(documents.adocument_exists("n3")) is False
        assert len(documents.docs) == 25
        run(documents.adelete_ref_doc("doc"))
    else:
        documents.add_documents([Document(id_="doc", text="all"), *given])
        info = documents.get_ref_doc_info("doc")
        assert info is not None
        assert info.node_ids == [node.node_id for node in given]
        assert documents.get_document("n3") == given[3]
        assert documents.get_document_hash("n3") == given[3].hash
        documents.delete_document("n3")
        assert not documents.document_exists("n3")
        assert len(documents.docs) == 25
        documents.delete_ref_doc("doc")
    assert documents.docs.keys() <= {"doc"}


def test_an_index_store(store: LayeredKVStore) -> None:
    """Index structures come back as they were."""
    from llama_index.core.data_structs import IndexDict

    indices = KVIndexStore(store)
    struct = IndexDict(index_id="i", summary="s", nodes_dict={"a": "b"})
    indices.add_index_struct(struct)

    assert indices.get_index_struct("i") == struct
    assert indices.index_structs() == [struct]
    indices.delete_index_struct("i")
    assert indices.index_structs() == []


# --- values


class Color(enum.StrEnum):
    RED = "red"


class Number(enum.IntEnum):
    ONE = 1


class Point(NamedTuple):
    x: int
    y: int


VALUES: list[dict[Any, Any]] = [
    {},
    {"bytes": b"\x00\xff", "none": None, "bool": True, "nested": {"a": [{"b": []}]}},
    {"tuple": (1, (2, [3])), "set": {1, 2}, "complex": 1j},
    {1: "int", 2.5: "float", None: "none", (1, 2): "tuple", "1": "text", b"b": "bytes"},
    {"outer": {1: {"inner": (1,)}}, "list": [{2: 3}]},
    {"date": dt.date(2026, 1, 2), "moment": dt.datetime(2026, 1, 2, 3, 4, 5, 6, dt.UTC), "span": dt.timedelta(1)},
    {"big": 2**80, "negative": -(2**70), "small": -1, "money": Decimal("1.10")},
    {"surrogate": "\ud800", "\udfff": "key", "null": "\x00", "": "empty"},
    {"inf": math.inf, "-inf": -math.inf, "zero": -0.0, "tiny": 5e-324, "whole": 1.0},
    {"vector": [0.1] * 100, "exact": [0.5] * 100, "mixed": [0.5] * 20 + [1], "zeros": [-0.0] * 20, "short": [0.1]},
    {"a.b": 1, "$set": 2, "_id": "mine"},
    {"path": Path("/data/ä"), "pure": PureWindowsPath("c:/x"), "odd": PurePosixPath("\udcff")},
]


@pytest.mark.parametrize("value", VALUES)
def test_values_come_back_as_they_were(world: World, kept: LayeredKVStore, value: dict[Any, Any]) -> None:
    """Of the same types, all the way down."""
    world.call(kept, "put", "k", value)

    assert same(world.call(kept, "get", "k"), value)


def test_values_come_back_from_every_tier(store: LayeredKVStore) -> None:
    """Also those that JSON, BSON and SQL do not have."""
    store.put_all([(str(number), value) for number, value in enumerate(VALUES)])
    settled(store.engine)

    found = store.get_all()
    assert all(same(found[str(number)], value) for number, value in enumerate(VALUES))


def test_not_a_number(kept: LayeredKVStore) -> None:
    """Stays one, alone and in a vector."""
    kept.put("k", {"nan": math.nan, "vector": [math.nan] * 20})
    found = kept.get("k")
    assert found is not None
    assert math.isnan(found["nan"])
    assert all(map(math.isnan, found["vector"]))


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        ({"e": Color.RED, Color.RED: Number.ONE}, {"e": "red", "red": 1}),
        ({"numpy": np.float64(0.5)}, {"numpy": 0.5}),
        (OrderedDict(a=OrderedDict(b=1)), {"a": {"b": 1}}),
        ({"point": Point(1, 2), "in": (Color.RED, Point(3, 4))}, {"point": (1, 2), "in": ("red", (3, 4))}),
        ({Number.ONE: 2}, {1: 2}),
    ],
)
def test_of_other_classes_the_value_is_kept(kept: LayeredKVStore, value: Any, plain: Any) -> None:
    """It is equal, and plain."""
    kept.put("k", value)

    assert kept.get("k") == value
    assert same(kept.get("k"), plain)


deep: dict[str, Any] = {}
for _ in range(400):
    deep = {"a": deep}


UNKEPT: list[dict[Any, Any]] = [{"o": object()}, {"a": [{1: object()}]}, {"t": (1, object())}, {"n": np.int64(1)}, deep, {"p": TextNode()}]


@pytest.mark.parametrize("value", UNKEPT)
def test_what_would_not_come_back_is_left_out(world: World, caplog: pytest.LogCaptureFixture, value: Any) -> None:
    """A pipeline goes on without. What was there is replaced by nothing; of two values of a key, the last counts."""
    events: list[Event] = []
    kept = LayeredKVStore(TieredCache("memory://", observers=[events.append]))
    world.call(kept, "put", "k", {"old": 1})
    world.call(kept, "put_all", [("k", value), ("other", {"new": 1}), ("again", value), ("again", {"new": 2})])

    assert world.call(kept, "get", "k") is None
    assert world.call(kept, "get_all") == {"other": {"new": 1}, "again": {"new": 2}}
    assert [event.reason for event in events if event.kind == "not_stored"] == ["not encodable"] * 2
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "a value of the collection 'data' cannot be kept, convert it first"
    ]


@pytest.mark.parametrize("value", UNKEPT)
def test_a_strict_store_refuses_what_would_not_come_back(world: World, kept: LayeredKVStore, value: Any) -> None:
    """By an error that says what it is and holds nothing of it; what was there stays."""
    kept = LayeredKVStore(kept.engine, strict=True)
    world.call(kept, "put", "k", {"old": 1})
    with pytest.raises(EncodeError, match="a value of the collection 'data' cannot be kept, convert it first"):
        world.call(kept, "put", "k", value)
    with pytest.raises(TypeError):
        world.call(kept, "put_all", [("other", {}), ("k", value)])
    assert world.call(kept, "get_all") == {"k": {"old": 1}}


@pytest.mark.parametrize(
    ("method", "arguments", "words"),
    [
        ("put", ("k", [1]), "a value must be a dictionary, not a list"),
        ("put", (1, {}), "a key must be a text, not a int"),
        ("get", (None,), "a key must be a text, not a NoneType"),
        ("delete", (b"k",), "a key must be a text, not a bytes"),
        ("get", ("k", 1), "a collection is named by a text, not by a int"),
        ("get_all", (None,), "a collection is named by a text"),
    ],
)
def test_wrong_arguments(world: World, method: str, arguments: tuple[Any, ...], words: str) -> None:
    """Are told of before anything is asked of a tier."""
    tier = FakeAuthority()
    with pytest.raises(ConfigurationError, match=words):
        world.call(LayeredKVStore(TieredCache(tier)), method, *arguments)
    assert tier.calls == []


@pytest.mark.parametrize(
    ("arguments", "words"), [({"cache": {}}, "cache must be a TieredCache"), ({"ttl": -1}, "ttl must be"), ({"namespace": ""}, "name")]
)
def test_wrong_options(arguments: dict[str, Any], words: str) -> None:
    """Each is named."""
    with pytest.raises(ConfigurationError, match=words):
        LayeredKVStore(**{"cache": TieredCache("memory://"), **arguments})


plain_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5) | st.binary(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(st.floats(), min_size=14, max_size=18)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=4)
    ),
    max_leaves=10,
)


@given(st.text(st.characters(), max_size=10), st.dictionaries(st.text(max_size=3) | st.integers(), plain_values, max_size=5))
def test_any_pair(key: str, value: dict[Any, Any]) -> None:
    """Comes back from its bytes, exactly."""
    assert same(codec.decode(codec.encode(key, value)), (key, value))


@given(st.binary(max_size=40))
def test_other_bytes_are_no_pair(data: bytes) -> None:
    """Whatever they are, reading them raises one error alone."""
    with suppress(ValueError):
        codec.decode(data)


def test_vectors_are_packed() -> None:
    """Those of float32 take four bytes a number, others eight."""
    assert len(codec.encode("k", {"u": [0.5] * 1536})) < 6_200
    assert len(codec.encode("k", {"u": [0.1] * 1536})) < 12_400


# --- time, size, outages


def test_time(world: World, clock: FakeClock) -> None:
    """A pair lives as long as the store says, else as the policy does; stale is good enough. What is for ever outlives both."""
    cache = TieredCache("memory://", policy=Policy(keep_for=100, fresh_for=10), clock=clock)
    short, usual, ever = (LayeredKVStore(cache, namespace=str(ttl), ttl=ttl) for ttl in ("50s", None, math.inf))
    for store in (short, usual, ever):
        world.call(store, "put", "k", {"v": 1})

    clock.advance(49)
    assert [world.call(store, "get", "k") for store in (short, usual, ever)] == [{"v": 1}] * 3
    clock.advance(2)
    assert [world.call(store, "get", "k") for store in (short, usual, ever)] == [None, {"v": 1}, {"v": 1}]
    assert [world.call(store, "get_all") for store in (short, usual)] == [{}, {"k": {"v": 1}}]
    clock.advance(10 * 366 * 86_400)
    assert [world.call(store, "get", "k") for store in (usual, ever)] == [None, {"v": 1}]


def test_what_is_too_large_leaves_nothing_behind(world: World, events: list[Event], caplog: pytest.LogCaptureFixture) -> None:
    """An older value least of all. One warning shows the size and the option to change."""
    store = LayeredKVStore(TieredCache("memory://", policy=Policy(max_entry_bytes=100), observers=[events.append]))
    world.call(store, "put", "k", {"old": 1})
    world.call(store, "put_all", [("k", {"new": "x" * 100}), ("small", {})])
    world.call(store, "put", "k", {"new": "x" * 200})

    assert world.call(store, "get_all") == {"small": {}}
    assert [event.reason for event in events if event.kind == "not_stored"] == ["too large"] * 2
    (record,) = caplog.records
    assert re.search("'data' cannot be kept.* it takes 11[0-9] bytes.* 100: raise Policy.max_entry_bytes=", record.message)


STRICT: list[tuple[str, Policy, int, str]] = [
    ("memory://", Policy(max_entry_bytes=100), 200, r"takes 20\d bytes, and max_entry_bytes is 100: raise Policy\(max_entry_bytes=...\)"),
    ("memory://", Policy(), 65 * 2**20, r"takes 68,157,45\d bytes, and max_entry_bytes is 67,108,864: store it in parts"),
    ("memory://#max_bytes=1MiB", Policy(), 2**20, r"the tier 'memory' holds 25\d,\d+: raise #max_bytes of memory, or store it in parts"),
    (
        "sqlite:///x.db#max_bytes=1MiB",
        Policy(),
        2**21,
        r"the tier 'sqlite' holds 1,048,576, compressed: raise #max_bytes of sqlite, or store it in parts",
    ),
    (
        "mongodb://127.0.0.1:1/x",
        Policy(),
        2**24,
        r"takes 16,777,22\d bytes, and the tier 'mongodb' holds 15,728,640, compressed: store it in parts",
    ),
    ("memory://", Policy(cacheable=lambda request, answer: b"old" in answer.value), 10, r"the policy of the cache refuses it \(policy\)"),
]


@pytest.mark.parametrize(("url", "policy", "size", "words"), STRICT, ids=[f"{url[:14]} {size}" for url, _, size, _ in STRICT])
def test_strict_store_raises_on_a_value_that_is_too_large(
    world: World, url: str, policy: Policy, size: int, words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Before any I/O, so the server need not be reachable. Nothing of the call is stored, and the older value stays."""
    monkeypatch.chdir(tmp_path)
    store = LayeredKVStore(TieredCache(url, policy=policy), strict=True)
    if "mongodb" not in url:
        world.call(store, "put", "k", {"old": 1})
    with pytest.raises(EncodeError, match=f"a value of the collection 'data' cannot be kept: .*{words}"):
        world.call(store, "put_all", [("small", {"old": 1}), ("k", {"v": os.urandom(size)})])
    if "mongodb" not in url:
        assert world.call(store, "get_all") == {"k": {"old": 1}}


def test_strict_store_raises_if_no_tier_would_keep_the_pair(world: World) -> None:
    """Its log was never read: what memory has would be void as soon as it is, and no other tier gets it."""
    tier = FakeAuthority()
    tier.broken = tier.log_is_broken = True
    for tiers in (["memory://", tier], [tier]):
        store = LayeredKVStore(TieredCache(*tiers), strict=True)
        with pytest.raises(TierUnavailableError, match="the invalidation log cannot be read, so no tier would keep the pair"):
            world.call(store, "put", "k", {"v": 1})


def test_strict_store_waits_for_a_tier_that_is_away(world: World) -> None:
    """As any other: the pair is written when the tier is back."""
    tier = FakeAuthority()
    store = LayeredKVStore(TieredCache(tier), strict=True)
    world.call(store, "put", "other", {})
    tier.broken = tier.log_is_broken = True
    world.call(store, "put", "k", {"v": 1})
    tier.broken = tier.log_is_broken = False

    settled(store.engine)
    assert world.call(store, "get_all") == {"other": {}, "k": {"v": 1}}


def test_a_step_of_an_ingestion_over_8_mib_is_kept(world: World, db: str) -> None:
    """By the default policy; it is one value."""
    nodes = {"nodes": [{"embedding": [number + 0.25] * 1536} for number in range(500)], "rest": os.urandom(9 * 2**20)}
    world.call(LayeredKVStore(TieredCache("memory://", f"{db}#timeout=10s")), "put", "step", nodes)

    assert world.call(LayeredKVStore(TieredCache(f"{db}#timeout=10s")), "get", "step") == nodes


def test_large_pairs_go_in_several_batches(world: World) -> None:
    """A tier is not asked to take more at once than it can within its time."""
    tier = FakeAuthority()
    store = LayeredKVStore(TieredCache(tier))
    world.call(store, "put_all", [(str(number), {"b": bytes(1_500_000)}) for number in range(5)])

    writes = [call for call in tier.calls if call.startswith("set ")]
    assert [len(call.split()) - 1 for call in writes] == [2, 2, 1]
    assert world.call(store, "get_all").keys() == set("01234")


def test_a_store_that_is_down_counts_as_empty(world: World) -> None:
    """Nothing is raised but for a removal, which cannot be promised then; when it is back it has what was put meanwhile."""
    tier = FakeAuthority()
    store = LayeredKVStore(TieredCache(tier))
    world.call(store, "put", "old", {"v": 0})
    tier.broken = True

    assert world.call(store, "get", "old") is None
    assert world.call(store, "get_all") == {}
    world.call(store, "put", "k", {"v": 1})
    world.call(store, "put_all", [("l", {"v": 2})])
    tier.log_is_broken = True
    with pytest.raises(DeletionError):
        world.call(store, "delete", "old")

    tier.broken = tier.log_is_broken = False
    settled(store.engine)
    assert world.call(store, "get_all") == {"old": {"v": 0}, "k": {"v": 1}, "l": {"v": 2}}


def test_the_others_serve_while_one_is_down(world: World) -> None:
    """Reads and writes."""
    fast, slow = FakeTier("fast"), FakeAuthority("slow")
    store = LayeredKVStore(TieredCache(fast, slow))
    fast.broken = True
    world.call(store, "put", "k", {"v": 1})

    assert world.call(store, "get", "k") == {"v": 1}
    assert world.call(store, "delete", "k") is True


def test_what_cannot_be_read_is_none(world: World, events: list[Event]) -> None:
    """Another codec's, damaged, or another key's: it is told of, and not handed out."""
    cache = TieredCache("memory://", observers=[events.append])
    store = LayeredKVStore(cache)
    world.call(store, "put", "k", {"v": 1})
    (entry,) = store.engine.namespace("data").entries()
    fields = ("key", "namespace", "created_at", "fresh_until", "keep_until", "born")
    for value, kind, told in (
        (entry.value, "another", ["undecodable"]),
        (b"\xc1", codec.CODEC, ["undecodable"]),
        (codec.encode("other", {"v": 2}), codec.CODEC, []),
    ):
        damaged: Any = {"value": value, "codec": kind}
        cache.tiers[0].set_many([type(entry)(**damaged, **{name: getattr(entry, name) for name in fields})])
        events.clear()
        assert world.call(store, "get", "k") is None
        assert [word for word in kinds(events) if word == "undecodable"] == told
    world.call(store, "put", "k", {"v": 3})
    assert world.call(store, "get", "k") == {"v": 3}


# --- removals


def test_one_tier_needs_no_log_of_removals(world: World, store: LayeredKVStore) -> None:
    """A store that removes much for years must not fill the log, which would take what is older with it; several tiers need it."""
    world.call(store, "put", "k", {"v": 1})
    before = store.engine._engine.watch.view.position
    world.call(store, "delete", "k")

    assert (store.engine._engine.watch.view.position == before) == (len(store.engine.tiers) == 1)
    assert world.call(store, "get", "k") is None


def test_what_waits_to_be_written_is_removed_too(world: World) -> None:
    """It does not come back when the tier does."""
    tier = FakeAuthority()
    store = LayeredKVStore(TieredCache(tier))
    world.call(store, "put", "other", {})
    tier.broken = True
    world.call(store, "put", "k", {"v": 1})
    tier.broken = False
    world.call(store, "delete", "k")

    settled(store.engine)
    assert world.call(store, "get_all") == {"other": {}}


def test_another_process_obeys(world: World, db: str, clock: FakeClock) -> None:
    """What it has in memory it hands out for two seconds at most."""
    here, there = (LayeredKVStore(TieredCache("memory://", db, clock=clock)) for _ in range(2))
    world.call(here, "put", "k", {"v": 1})
    assert world.call(there, "get", "k") == {"v": 1}

    world.call(here, "delete", "k")

    clock.advance(3)
    assert world.call(there, "get", "k") is None


# --- other processes


def test_a_pickle_is_made_again_from_urls(world: World, db: str) -> None:
    """With its names and its time."""
    store = LayeredKVStore(TieredCache("memory://", db, namespace="app"), namespace="docs", ttl=math.inf)
    world.call(store, "put", "k", {"v": 1})

    other = pickle.loads(pickle.dumps(store))

    assert world.call(other, "get", "k") == {"v": 1}
    assert other.engine.name == store.engine.name == "app/docs"
    world.call(other, "put", "l", {"v": 2})
    assert world.call(store, "get", "l") == {"v": 2}
    assert all(entry.keep_until > 4_000_000_000 for entry in other.engine.namespace("data").entries())


def test_a_store_of_tier_objects_says_how_it_can_be_sent() -> None:
    """Before it is."""
    with pytest.raises(ConfigurationError, match=r"the tier object 'fake'. Pass the tier as a URL"):
        pickle.dumps(LayeredKVStore(TieredCache("memory://", FakeTier())))
