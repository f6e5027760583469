"""`LayeredByteStore`: LangChain's own suites over every list of tiers that people use, and what they do not ask."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.stores import BaseStore
from langchain_tests.integration_tests import BaseStoreAsyncTests, BaseStoreSyncTests
from layered_cache import ConfigurationError, DeletionError, Event, Policy, Request, TieredCache
from layered_cache.testing import FakeAuthority, FakeClock, FakeTier
from support.sync_async import Threads, World, kinds, settled

from langchain_layered_cache import LayeredByteStore, LayeredCache

TIERS = {
    "memory": ["memory"],
    "sqlite": ["sqlite"],
    "redis": ["redis"],
    "mongodb": ["mongodb"],
    "memory, redis and mongodb": ["memory", "redis", "mongodb"],
}


# what holds for all of them together and for a file nearly always holds for a server alone
@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.slow) if name in {"redis", "mongodb"} else name for name in TIERS])
def store(request: pytest.FixtureRequest) -> Iterator[LayeredByteStore]:
    """A store over each list of tiers, slow only where the machine is."""
    fixtures = {"sqlite": "db", "redis": "redis_url", "mongodb": "mongodb_url"}
    cache = LayeredCache(
        *("memory://" if tier == "memory" else f"{request.getfixturevalue(fixtures[tier])}#timeout=2s" for tier in TIERS[request.param])
    )
    yield LayeredByteStore(cache)
    cache.close()


class TestSync(BaseStoreSyncTests[bytes]):
    """The blocking face."""

    @pytest.fixture
    def kv_store(self, store: LayeredByteStore) -> BaseStore[str, bytes]:
        return store

    @pytest.fixture
    def three_values(self) -> tuple[bytes, bytes, bytes]:
        return b"foo", b"", b"\x00\xff"


class TestAsync(BaseStoreAsyncTests[bytes]):
    """The asynchronous face."""

    @pytest.fixture
    async def kv_store(self, store: LayeredByteStore) -> BaseStore[str, bytes]:
        return store

    @pytest.fixture
    def three_values(self) -> tuple[bytes, bytes, bytes]:
        return b"foo", b"", b"\x00\xff"


def keys_of(world: World, store: LayeredByteStore, prefix: str | None = None) -> list[str]:
    """Return the keys, sorted."""
    if isinstance(world, Threads):
        return sorted(store.yield_keys(prefix=prefix))

    async def main() -> list[str]:
        return sorted([key async for key in store.ayield_keys(prefix=prefix)])

    return world.loop.run_until_complete(main())


KEYS = ["", "a", "a/b", "ключ", "鍵 🗝", "x*?[y]", "\x00", "tab\tnew\nline", "k" * 5000, "lone \ud800", "lc1:default/bytes:x"]


def test_keys_of_any_kind(world: World, store: LayeredByteStore) -> None:
    """Each its own, and each comes back when keys are listed."""
    world.call(store, "mset", [(key, key.encode("utf-8", "surrogatepass") + b"!") for key in KEYS])

    assert world.call(store, "mget", KEYS) == [key.encode("utf-8", "surrogatepass") + b"!" for key in KEYS]
    assert keys_of(world, store) == sorted(KEYS)
    for prefix in ("a", "x*", "鍵", "nothing", ""):
        assert keys_of(world, store, prefix) == sorted(key for key in KEYS if key.startswith(prefix))


def test_order_repeats_and_empty_lists(world: World, store: LayeredByteStore) -> None:
    """As they were asked for; of two values of one key, the last stays."""
    world.call(store, "mset", [("a", b"1"), ("b", b"2"), ("a", b"3")])

    assert world.call(store, "mget", ["b", "absent", "a", "b"]) == [b"2", None, b"3", b"2"]
    world.call(store, "mset", [])
    world.call(store, "mdelete", [])
    assert world.call(store, "mget", []) == []
    assert keys_of(world, store) == ["a", "b"]


def test_more_keys_than_a_tier_is_asked_for_at_once(world: World, store: LayeredByteStore) -> None:
    """No limit that a caller must know."""
    pairs = [(f"key {number}", str(number).encode()) for number in range(601)]
    world.call(store, "mset", pairs)
    settled(store.engine)

    assert world.call(store, "mget", [*(key for key, _ in pairs), "absent"]) == [*(value for _, value in pairs), None]
    assert keys_of(world, store) == sorted(key for key, _ in pairs)
    world.call(store, "mdelete", [key for key, _ in pairs[:600]])
    assert keys_of(world, store) == ["key 600"]


def test_what_is_set_after_a_removal_stays(world: World, store: LayeredByteStore) -> None:
    """Also if the same caller looked before the removal: a value is given, not computed."""

    async def main() -> list[bytes | None]:
        await store.amget(["k"])
        await store.amdelete(["k"])
        await store.amset([("k", b"v")])
        return await store.amget(["k"])

    if not isinstance(world, Threads):  # in one task
        assert world.loop.run_until_complete(main()) == [b"v"]
        return
    store.mget(["k"])
    store.mdelete(["k"])
    store.mset([("k", b"v")])
    assert store.mget(["k"]) == [b"v"]


def test_what_is_set_after_a_removal_stays_whoever_looked_before(world: World) -> None:
    """Nor is it taken for what somebody else computes, or has computed since."""
    store = LayeredByteStore(TieredCache("memory://"))
    world.call(store, "mset", [("k", b"old")])
    (request,) = [Request("k", params={"kind": "bytes"}, framework="langchain")]
    assert store.engine.get(request) is not None
    world.call(store, "mdelete", ["k"])
    assert store.engine.get(request) is None  # leaves a ticket
    world.call(store, "mdelete", ["k"])

    world.call(store, "mset", [("k", b"new")])

    assert world.call(store, "mget", ["k"]) == [b"new"]


def test_looking_for_what_is_not_there_leaves_nothing(world: World) -> None:
    """Who looks again and again must not push out what is remembered of those who compute."""
    store = LayeredByteStore(TieredCache("memory://"))
    for _ in range(3):
        world.call(store, "mget", ["absent"])

    assert store.engine._engine.tickets._count == 0


def test_each_tier_is_asked_once(world: World) -> None:
    """For any number of keys; and written to once."""
    slow, fast = FakeAuthority("slow"), FakeTier("fast")
    store = LayeredByteStore(TieredCache(fast, slow))
    pairs = [(str(number), b"x") for number in range(200)]
    world.call(store, "mset", pairs)
    for tier in (fast, slow):
        assert [call.split()[0] for call in tier.calls] == ["set"]
        tier.calls.clear()
    fast.held.clear()

    assert world.call(store, "mget", [key for key, _ in pairs]) == [b"x"] * 200

    settled(store.engine)
    assert [call.split()[0] for call in fast.calls if not call.startswith("set")] == ["get"]
    assert [call.split()[0] for call in slow.calls] == ["get"]


def test_another_process_finds_it(world: World, db: str) -> None:
    """In the file; without readable requests too."""
    for policy in (Policy(), Policy(store_requests="hash")):
        with TieredCache("memory://", db, policy=policy, namespace=policy.store_requests) as cache:
            world.call(LayeredByteStore(cache), "mset", [("k", b"v")])
        with TieredCache("memory://", db, policy=policy, namespace=policy.store_requests) as cache:
            assert keys_of(world, LayeredByteStore(cache)) == ["k"]
            assert world.call(LayeredByteStore(cache), "mget", ["k"]) == [b"v"]


def test_a_tier_that_fails_counts_as_empty(world: World, events: list[Event]) -> None:
    """Nothing is raised, but by a removal that could not be recorded."""
    tier = FakeAuthority()
    cache = TieredCache(tier, observers=[events.append])
    store = LayeredByteStore(cache)
    world.call(store, "mset", [("k", b"v")])
    tier.broken = True

    assert world.call(store, "mget", ["k"]) == [None]
    assert keys_of(world, store) == []
    world.call(store, "mset", [("k", b"new")])
    assert "tier_failed" in kinds(events)
    assert world.call(store, "mget", ["k"]) == [b"new"]  # it waits to be written

    tier.log_is_broken = True
    with pytest.raises(DeletionError):
        world.call(store, "mdelete", ["k"])


def test_a_value_that_is_not_kept_leaves_no_older_one(world: World, store: LayeredByteStore, caplog: pytest.LogCaptureFixture) -> None:
    """It is gone rather than wrong; others of the batch are kept. There is one warning."""
    small = LayeredByteStore(TieredCache(*store.engine.tiers, policy=Policy(max_entry_bytes=100)))
    world.call(small, "mset", [("a", b"old"), ("b", b"old")])

    world.call(small, "mset", [("a", bytes(1000)), ("b", b"new")])
    world.call(small, "mset", [("a", bytes(2000))])

    assert world.call(small, "mget", ["a", "b"]) == [None, b"new"]
    (record,) = caplog.records
    assert "it takes 1,005 bytes, and max_entry_bytes is 100: raise Policy(max_entry_bytes=...)" in record.message


def test_a_value_that_is_not_kept_while_nothing_can_be_recorded(world: World) -> None:
    """Is no error: nobody asked for a removal."""
    tier = FakeAuthority()
    store = LayeredByteStore(TieredCache(tier, policy=Policy(max_entry_bytes=100)))
    world.call(store, "mset", [("a", b"old")])
    tier.log_is_broken = True

    world.call(store, "mset", [("a", bytes(1000))])


def test_ttl(world: World, clock: FakeClock) -> None:
    """As long as is said, else as the policy says; stale values are values."""
    cache = TieredCache("memory://", policy=Policy(keep_for=100, fresh_for=10), clock=clock)
    usual, short = LayeredByteStore(cache), LayeredByteStore(cache, namespace="short", ttl="5s")
    for store in (usual, short):
        world.call(store, "mset", [("k", b"v")])

    clock.advance(50)
    assert (world.call(usual, "mget", ["k"]), world.call(short, "mget", ["k"])) == ([b"v"], [None])
    assert (keys_of(world, usual), keys_of(world, short)) == (["k"], [])
    clock.advance(51)
    assert (world.call(usual, "mget", ["k"]), keys_of(world, usual)) == ([None], [])


def test_namespaces(world: World) -> None:
    """Stores of one name over one cache are one; others do not meet, and clearing the answers leaves them alone."""
    cache = LayeredCache("memory://", namespace="app")
    store, same, other = LayeredByteStore(cache), LayeredByteStore(cache.engine), LayeredByteStore(cache, namespace="other")
    world.call(store, "mset", [("k", b"v")])

    assert store.engine.name == "app/bytes"
    assert [world.call(each, "mget", ["k"]) for each in (store, same, other)] == [[b"v"], [b"v"], [None]]
    assert keys_of(world, other) == []
    world.call(cache, "clear")
    assert world.call(store, "mget", ["k"]) == [b"v"]


def test_what_cannot_be_read_is_absent(world: World, events: list[Event]) -> None:
    """Whatever stands there: it is told of, and replaced."""
    cache = TieredCache("memory://", observers=[events.append])
    store = LayeredByteStore(cache)
    world.call(store, "mset", [("k", b"v")])
    (entry,) = store.engine.entries()
    for value, codec in ((entry.value, "another"), (b"", entry.codec), (b"\x01\x00\x00\x00\xff", entry.codec)):
        damaged = {"key": entry.key, "value": value, "codec": codec}
        fields = ("namespace", "created_at", "fresh_until", "keep_until", "born")
        cache.tiers[0].set_many([type(entry)(**damaged, **{name: getattr(entry, name) for name in fields})])
        events.clear()

        assert world.call(store, "mget", ["k"]) == [None]
        assert keys_of(world, store) == []
        assert kinds(events).count("undecodable") == 2

    world.call(store, "mset", [("k", b"v")])
    assert world.call(store, "mget", ["k"]) == [b"v"]


def test_no_key_gets_another_ones_value(world: World) -> None:
    """Though the entry says that it is this one's."""
    cache = TieredCache("memory://")
    store = LayeredByteStore(cache)
    world.call(store, "mset", [("a", b"of a"), ("b", b"of b")])
    a, b = sorted(store.engine.entries(), key=lambda entry: entry.value)
    fields = ("namespace", "codec", "created_at", "fresh_until", "keep_until", "born")
    cache.tiers[0].set_many([type(b)(key=a.key, value=b.value, **{name: getattr(b, name) for name in fields})])

    assert world.call(store, "mget", ["a"]) == [None]


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"cache": "memory://"}, "cache must be a TieredCache or a LayeredCache, got a str"),
        ({"namespace": ""}, "namespace"),
        ({"ttl": -1}, "ttl"),
        ({"ttl": "soon"}, "ttl"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], what: str) -> None:
    """Are told of at once."""
    with pytest.raises(ConfigurationError, match=what):
        LayeredByteStore(**{"cache": TieredCache("memory://"), **arguments})


def test_wrong_keys_and_values(world: World) -> None:
    """Before anything is asked or written; none of it is shown."""
    tier = FakeTier()
    store: Any = LayeredByteStore(TieredCache(tier))
    for method, argument, what in (
        ("mget", [b"secret"], "a key must be a text, not a bytes"),
        ("mset", [("k", "secret")], "a value must be bytes, not a str"),
        ("mset", [(1, b"secret")], "a key must be a text, not a int"),
        ("mdelete", [None], "a key must be a text, not a NoneType"),
    ):
        with pytest.raises(ConfigurationError, match=what) as raised:
            world.call(store, method, argument)
        assert "secret" not in str(raised.value)
    assert tier.calls == []


def test_its_text() -> None:
    """Says where it is, and nothing of what it holds."""
    assert repr(LayeredByteStore(TieredCache("memory://"))) == "LayeredByteStore(TieredCache(memory, namespace='default/bytes'))"


@pytest.mark.filterwarnings("ignore")
def test_cache_backed_embeddings(world: World, db: str) -> None:
    """LangChain's cache of embeddings goes through it, in both worlds, for documents and for queries."""
    cached = pytest.importorskip("langchain_classic.embeddings").CacheBackedEmbeddings
    asked: list[list[str]] = []

    class Counting(DeterministicFakeEmbedding):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            asked.append(texts)
            return super().embed_documents(texts)

    with TieredCache("memory://", db) as cache:
        store = LayeredByteStore(cache)
        embeddings = cached.from_bytes_store(Counting(size=4), store, namespace="fake", query_embedding_cache=True)
        first = world.call(embeddings, "embed_documents", ["a", "b"])
        assert world.call(embeddings, "embed_documents", ["b", "a"]) == first[::-1]
        assert world.call(embeddings, "embed_query", "q") == world.call(embeddings, "embed_query", "q")
        assert asked == [["a", "b"]]
        assert len(keys_of(world, store, "fake")) == 3
