"""`TieredCache(normalize=...)`: requests that normalise alike share an entry, by every method that takes a request."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from layered_cache import ConfigurationError, Normalize, Request, TieredCache
from layered_cache.adapters.common import engine_of, rules_of
from layered_cache.keys.key_rules import NO_RULES, KeyRules
from layered_cache.testing import FakeAuthority, FakeClock
from support.sync_async import World, kinds, settled

from langchain_layered_cache import LayeredByteStore
from llamaindex_layered_cache import LayeredKVStore

ONE, OTHER, ANOTHER = (Request(text, model="m", params={"a": 1}) for text in ("What is X?", "  what is x? ", "what is y?"))
HOW = ["whitespace", "case"]


def squeezed(text: str) -> str:
    return " ".join(text.lower().split())


@pytest.fixture
def cache() -> TieredCache:
    return TieredCache("memory://", FakeAuthority(), normalize=HOW)  # type: ignore[arg-type]


def test_get_and_set_share_entries(world: World, cache: TieredCache) -> None:
    """Results are keyed by the given requests."""
    entry = world.call(cache, "set", ONE, b"x")
    assert world.call(cache, "get", OTHER) == entry
    assert world.call(cache, "get", ANOTHER) is None
    assert cache.key(ONE) == cache.key(OTHER) == entry.key != TieredCache("memory://").key(ONE)

    assert world.call(cache, "get_many", [ONE, OTHER, ANOTHER]) == {ONE: entry, OTHER: entry}
    held = world.call(cache, "set_many", {OTHER: b"y", ANOTHER: b"z"})
    assert held.keys() == {OTHER, ANOTHER}
    assert world.call(cache, "get", ONE) == held[OTHER]


def test_get_or_compute_computes_once(world: World, cache: TieredCache) -> None:
    log: list[Any] = []
    for request in (ONE, OTHER, ONE):
        assert world.call(cache, "get_or_compute", request, world.compute(b"x", log=log)).value == b"x"
    entries = world.at_once(
        cache,
        "get_or_compute",
        [(request, world.compute(b"y", 0.1, log)) for request in (ANOTHER, Request(" WHAT is y?", model="m", params={"a": 1}))],
    )
    assert [entry.value for entry in entries] == [b"y"] * 2
    assert log == [b"x", b"y"]


def test_removals_find_what_normalises_alike(world: World, cache: TieredCache) -> None:
    for remove in ("delete", "erase"):
        world.call(cache, "set", ONE, b"x")
        world.call(cache, remove, OTHER)
        assert world.call(cache, "get", ONE) is None


@pytest.mark.parametrize("prompt", ["What is X?", "  what is x? ", "what is x?", "WHAT  IS X?"])
@pytest.mark.parametrize("how", [HOW, "case", Normalize(squeezed, name="squeezed")], ids=["list", "text", "function"])
def test_invalidate_finds_a_prompt_by_each_of_its_texts(world: World, db: str, how: Any, prompt: str) -> None:
    """In this process, and in one that knows nothing of the option unless it is a function."""
    one, other = TieredCache("memory://", db, normalize=how), TieredCache(db)
    for message in (Request("What is X?"), Request([{"role": "user", "content": "What is X?"}])):
        for where in (one, one.namespace("tenant"), other):
            if isinstance(how, Normalize) and where is other:
                continue
            inside = one.namespace("tenant") if where.name.endswith("tenant") else one
            world.call(inside, "set", message, b"x")
            settled(one)
            assert world.call(where, "invalidate", prompt="what is y?", dry_run=True).removed == {"sqlite": 0}
            assert world.call(where, "invalidate", prompt=prompt, dry_run=True).removed == {"sqlite": 1}
            receipt = world.call(where, "invalidate", prompt=prompt)
            assert receipt.removed == {"sqlite": 1}
            assert receipt.durable
            assert TieredCache(db, normalize=how).get(message) is None


def test_invalidate_finds_exact_requests_exactly(world: World, db: str) -> None:
    """Also in a cache with normalised requests."""
    exact, normalizing = TieredCache(db), TieredCache(db, normalize="case")
    for text in ("What?", "what?"):
        world.call(exact, "set", Request(text), b"x")
    world.call(normalizing, "set", Request("WHAT?"), b"x")

    assert world.call(normalizing, "invalidate", prompt="What?").removed == {"sqlite": 2}
    assert world.call(exact, "get", Request("what?"))


def test_a_function_of_a_cached_model_is_known_to_the_cache(world: World, cache: TieredCache) -> None:
    """To all handles of it, and the newest of one name is used."""
    rules = rules_of(cache, None, Normalize(lambda text: text.replace("please", ""), name="polite"))
    cache.use(rules)
    cache.namespace("tenant").use(rules)
    exact = engine_of(cache)
    world.call(exact, "set", rules.request("X please", model="m", params={}, framework="f"), b"x")
    assert len(exact._engine.normalizers) == 1

    world.call(cache, "invalidate", prompt="X please")
    assert world.call(exact, "get", rules.request("X ", model="m", params={}, framework="f")) is None


def test_stores_over_a_normalising_cache_stay_exact(world: World, cache: TieredCache) -> None:
    """Their keys are no questions."""
    bytes_, pairs = LayeredByteStore(cache), LayeredKVStore(cache)
    world.call(bytes_, "mset", [("A  b", b"1"), ("a b", b"2")])
    world.call(pairs, "put_all", [("A  b", {"v": 1}), ("a b", {"v": 2})])

    assert world.call(bytes_, "mget", ["A  b", "a b"]) == [b"1", b"2"]
    assert world.call(pairs, "get_all") == {"A  b": {"v": 1}, "a b": {"v": 2}}


def test_adapters_take_the_setting_from_the_cache(cache: TieredCache) -> None:
    assert rules_of(cache, None, None) == cache.key_rules == KeyRules(normalize=Normalize(["case", "whitespace"]))
    assert rules_of(cache, "user", ()) == KeyRules(frozenset({"user"}))
    assert engine_of(cache).key_rules is NO_RULES
    assert engine_of(cache)._engine is cache._engine
    plain = TieredCache("memory://")
    assert engine_of(plain) is plain.exact is plain


def test_a_pickle_normalises_as_before(world: World, db: str) -> None:
    for how in (HOW, squeezed):
        cache = TieredCache(db, normalize=how)  # type: ignore[arg-type]
        world.call(cache, "set", ONE, b"x")
        other = pickle.loads(pickle.dumps(cache.namespace("tenant")))
        assert other.key_rules == cache.key_rules
        assert pickle.loads(pickle.dumps(cache)).get(OTHER)


def test_a_cache_whose_function_cannot_be_named_is_not_pickled(db: str) -> None:
    with pytest.raises(ConfigurationError, match="Define the function at the top level of a module"):
        pickle.dumps(TieredCache(db, normalize=Normalize(lambda text: text, name="mine")))


def test_what_cannot_be_normalised_is_an_error_before_any_io(world: World, clock: FakeClock) -> None:
    with pytest.raises(ConfigurationError, match="unknown normalize 'upper'"):
        TieredCache("memory://", normalize="upper")  # type: ignore[arg-type]


def test_hits_are_counted_as_hits(world: World) -> None:
    events: list[Any] = []
    cache = TieredCache("memory://", normalize=HOW, observers=[events.append])  # type: ignore[arg-type]
    world.call(cache, "set", ONE, b"x")
    world.call(cache, "get", OTHER)
    assert kinds(events) == ["stored", "hit"]
