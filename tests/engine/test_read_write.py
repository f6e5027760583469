"""Reading and writing over tiers."""

from __future__ import annotations

import dataclasses
import time

import pytest
from layered_cache import Answer, ConfigurationError, DeletionError, Event, Policy, Refused, TieredCache, TierError, Usage
from layered_cache.testing import FakeAuthority, FakeClock, FakeTier
from support.sync_async import World, ask, kinds, settled

HOUR = 3600.0


@pytest.fixture
def tiers() -> list[FakeTier]:
    return [FakeTier("redis"), FakeAuthority("mongodb")]


@pytest.fixture
def cache(tiers: list[FakeTier], clock: FakeClock, events: list[Event]) -> TieredCache:
    return TieredCache("memory://", *tiers, clock=clock, observers=[events.append])


def test_what_was_set_is_got(world: World, cache: TieredCache) -> None:
    """From every tier, with all that is known of it."""
    answer = Answer(value=b"yes", codec="c", tags=("b", "a"), usage=Usage(1, 2), cost_usd=0.5, finish="stop")

    held = world.call(cache, "set", ask(), answer)
    got = world.call(cache, "get", ask())

    assert got == held
    assert (got.value, got.codec, got.tags, got.usage, got.cost_usd, got.finish) == (b"yes", "c", ("a", "b"), Usage(1, 2), 0.5, "stop")
    assert (got.key, got.namespace, got.model) == (cache.key(ask()), "default", "model-1")


def test_a_miss_is_none(world: World, cache: TieredCache) -> None:
    """And not an empty entry."""
    assert world.call(cache, "get", ask()) is None
    assert world.call(cache, "get_many", [ask("a"), ask("b")]) == {}


def test_each_tier_is_asked_only_for_what_the_faster_ones_lack(world: World, cache: TieredCache, tiers: list[FakeTier]) -> None:
    """In one call each."""
    a, b, c, d = (ask(text) for text in "abcd")
    for request in (a, b, c):
        world.call(cache, "set", request, b"x")
    keys = {request: cache.key(request) for request in (a, b, c, d)}
    cache.tiers[0].delete_many([keys[b], keys[c], keys[d]])
    del tiers[0].held[keys[c]]
    tiers[0].calls.clear()
    tiers[1].calls.clear()

    found = world.call(cache, "get_many", [a, b, c, d, b])

    assert set(found) == {a, b, c}
    assert tiers[0].calls[0] == f"get {keys[b]} {keys[c]} {keys[d]}"
    assert tiers[1].calls == [f"get {keys[c]} {keys[d]}"]


def test_a_hit_is_promoted_with_the_time_it_has_left(world: World, cache: TieredCache, tiers: list[FakeTier], clock: FakeClock) -> None:
    """It keeps its birth and its end."""
    held = world.call(cache, "set", ask(), b"x")
    cache.tiers[0].delete_many([held.key])
    tiers[0].held.clear()
    clock.advance(HOUR)

    assert world.call(cache, "get", ask()) == held
    settled(cache)

    assert tiers[0].held == {held.key: held}
    assert cache.peek(held.key) == b"x"


def test_a_tier_keeps_an_entry_no_longer_than_its_own_ttl(world: World, clock: FakeClock) -> None:
    """And what is promoted from it ends with it."""
    short, long = FakeTier("redis", ttl=60.0), FakeAuthority("mongodb", clock=clock)
    cache = TieredCache("memory://", short, long, clock=clock)
    held = world.call(cache, "set", ask(), b"x")

    assert short.held[held.key] == held.capped(clock.time() + 60.0)
    assert long.held[held.key] == held
    clock.advance(61.0)
    cache.tiers[0].delete_many([held.key])
    assert world.call(cache, "get", ask()) == held


def test_an_expired_entry_is_never_served(world: World, cache: TieredCache, clock: FakeClock) -> None:
    """Though tiers may still hold it."""
    world.call(cache, "set", ask(), Answer(value=b"x", keep_for=60))
    clock.advance(59.9)
    assert world.call(cache, "get", ask())
    clock.advance(0.2)

    assert world.call(cache, "get", ask()) is None


def test_a_stale_entry_is_served_only_to_who_takes_it(world: World, clock: FakeClock) -> None:
    """For all others it is a miss."""
    cache = TieredCache("memory://", FakeAuthority(clock=clock), clock=clock, policy=Policy(keep_for=HOUR, fresh_for=60))
    held = world.call(cache, "set", ask(), b"x")
    clock.advance(61)

    assert world.call(cache, "get", ask()) is None
    assert world.call(cache, "get", ask(), stale=True) == held
    assert world.call(cache, "get_many", [ask()]) == {}
    assert world.call(cache, "get_many", [ask()], stale=True) == {ask(): held}


def test_a_fresh_entry_below_beats_a_stale_one_above(world: World, clock: FakeClock) -> None:
    """Another process may have refreshed it."""
    shared = FakeAuthority(clock=clock)
    one, other = (TieredCache("memory://", shared, clock=clock, policy=Policy(keep_for=HOUR, fresh_for=60)) for _ in range(2))
    world.call(one, "set", ask(), b"old")
    clock.advance(61)
    world.call(other, "set", ask(), b"new")

    assert world.call(one, "get", ask()).value == b"new"


def test_a_broken_tier_counts_as_empty(world: World, cache: TieredCache, tiers: list[FakeTier], events: list[Event]) -> None:
    """It is told of, and the others serve."""
    held = world.call(cache, "set", ask(), b"x")
    cache.tiers[0].delete_many([held.key])
    tiers[0].broken = True
    events.clear()

    assert world.call(cache, "get", ask()) == held
    assert kinds(events)[:2] == ["tier_failed", "hit"]
    assert cache.stats().tier_failures["redis"] >= 1


def test_a_write_survives_a_broken_tier_which_gets_it_when_it_is_back(world: World, cache: TieredCache, tiers: list[FakeTier]) -> None:
    """The other tiers have it at once; what the broken one missed is written when it works again."""
    tiers[0].broken = True
    held = world.call(cache, "set", ask(), b"x")
    assert tiers[1].held == {held.key: held}
    assert tiers[0].held == {}
    assert cache.stats().queued == 1
    assert held.key in cache._engine.backlog.pending(tiers[0], [held.key])

    tiers[0].broken = False
    settled(cache)

    assert tiers[0].held == {held.key: held}
    assert cache.stats().queued == 0


def test_what_is_queued_can_be_read(world: World, clock: FakeClock) -> None:
    """A process sees its own writes, also those that no tier has yet."""
    tier = FakeAuthority(clock=clock)
    cache = TieredCache(tier, clock=clock)
    world.call(cache, "set", ask("first"), b"x")
    tier.broken = True
    held = world.call(cache, "set", ask(), b"y")

    assert world.call(cache, "get", ask()) == held


def test_without_fail_open_a_failing_tier_is_an_error(world: World, tiers: list[FakeTier], clock: FakeClock) -> None:
    """For who would rather know."""
    cache = TieredCache("memory://", *tiers, clock=clock, policy=Policy(fail_open=False))
    tiers[0].broken = True

    with pytest.raises(TierError):
        world.call(cache, "get", ask())
    with pytest.raises(TierError):
        world.call(cache, "set", ask(), b"x")
    assert cache.peek(cache.key(ask())) == b"x"


def test_writes_go_slowest_first(world: World, cache: TieredCache, tiers: list[FakeTier]) -> None:
    """Memory aside, which the next caller asks at once."""
    order: list[str] = []
    for tier in tiers:
        tier._enter = lambda what, keys=(), tier=tier: order.append(f"{what} {tier.name}")  # type: ignore[method-assign]

    world.call(cache, "set", ask(), b"x")

    assert order == ["set mongodb", "set redis"]


@pytest.mark.alone
def test_written_behind_nobody_waits_for_a_slow_tier(world: World, clock: FakeClock) -> None:
    """Memory has it at once, the tier soon."""
    slow = FakeAuthority(clock=clock, latency=0.3)
    cache = TieredCache("memory://", slow, clock=clock, policy=Policy(write="behind"))
    world.call(cache, "get", ask())
    started = time.perf_counter()
    held = world.call(cache, "set", ask(), b"x")
    assert time.perf_counter() - started < 0.25

    assert cache.peek(held.key) == b"x"
    settled(cache)
    assert slow.held == {held.key: held}


def test_many_are_written_in_one_call_per_tier(world: World, cache: TieredCache, tiers: list[FakeTier]) -> None:
    """And come back by their requests."""
    requests = [ask(str(number)) for number in range(10)]
    held = world.call(cache, "set_many", dict.fromkeys(requests, b"x"))

    assert set(held) == set(requests)
    assert [call.split()[0] for call in tiers[1].calls] == ["set"]
    assert world.call(cache, "get_many", requests) == held


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer(value=b"", empty=True), "empty"),
        (Answer(value=b"x", finish="length"), "length"),
        (Answer(value=b"x", finish="filter"), "filter"),
        (Answer(value=b"x" * 101), "too large"),
        (Answer(value=b"x", keep_for=0), "expired"),
    ],
)
def test_what_is_not_admitted(world: World, clock: FakeClock, events: list[Event], answer: Answer, reason: str) -> None:
    """It is told why, and counted."""
    cache = TieredCache("memory://", clock=clock, observers=[events.append], policy=Policy(max_entry_bytes=100))

    assert world.call(cache, "set", ask(), answer) is None
    assert world.call(cache, "get", ask()) is None
    assert [event.reason for event in events if event.kind == "not_stored"] == [reason]
    assert cache.stats().not_stored == {reason: 1}


def test_a_length_that_was_asked_for_is_admitted(world: World, clock: FakeClock) -> None:
    """Whether the model or the call says so."""
    cache = TieredCache("memory://", clock=clock)
    cut = Answer(value=b"x", finish="length")

    assert world.call(cache, "set", ask(max_tokens=5), cut)
    assert world.call(cache, "set", ask(call={"max_completion_tokens": 5}), cut)


def test_the_users_rule_replaces_the_default(world: World, clock: FakeClock) -> None:
    """It sees the request and the answer; size is checked all the same."""
    cache = TieredCache(
        "memory://", clock=clock, policy=Policy(cacheable=lambda request, answer: request.prompt == "keep", max_entry_bytes=10)
    )

    assert world.call(cache, "set", ask("keep"), Answer(value=b"", empty=True))
    assert world.call(cache, "set", ask("drop"), b"x") is None
    assert world.call(cache, "set", ask("keep"), b"x" * 11) is None


def test_refused_bytes_are_a_miss_and_erased_if_worthless(
    world: World, cache: TieredCache, tiers: list[FakeTier], events: list[Event]
) -> None:
    """What may be another release's is left alone."""
    worthless, foreign = cache.key(ask("a")), cache.key(ask("b"))
    tiers[0].held = {
        worthless: Refused("its checksum is wrong", erase=True),
        foreign: Refused("it has an unknown version", erase=False),
    }

    assert world.call(cache, "get_many", [ask("a"), ask("b")]) == {}
    assert set(tiers[0].held) == {foreign}
    assert kinds(events).count("refused") == 2
    assert cache.stats().refused == 2


def test_hits_say_what_they_save(world: World, cache: TieredCache, tiers: list[FakeTier], events: list[Event], clock: FakeClock) -> None:
    """In events and in sum, whichever tier answers."""
    world.call(cache, "get", ask())
    clock.advance(2.5)
    held = world.call(cache, "set", ask(), Answer(value=b"x", usage=Usage(10, 5), cost_usd=0.25))
    clock.advance(10)
    world.call(cache, "get", ask())
    cache.tiers[0].delete_many([held.key])
    world.call(cache, "get", ask())

    hits = [event for event in events if event.kind == "hit"]
    assert [(hit.tier, hit.saved_tokens, hit.saved_usd, hit.saved_seconds, hit.age_seconds) for hit in hits] == [
        ("memory", 15, 0.25, 2.5, 12.5),
        ("redis", 15, 0.25, 2.5, 12.5),
    ]
    stats = cache.stats()
    assert (stats.hits_by_tier, stats.misses, stats.lookups) == ({"memory": 1, "redis": 1}, 1, 3)
    assert (stats.saved_tokens, stats.saved_usd, stats.saved_seconds) == (30, 0.5, 5.0)
    assert stats.hit_rate == pytest.approx(2 / 3)


def test_hits_in_memory_are_all_counted(cache: TieredCache) -> None:
    """Also more than the tape holds."""
    cache.set(ask(), Answer(value=b"x", cost_usd=0.5))
    for _ in range(10_000):
        cache.get(ask())

    assert cache.stats().hits_by_tier == {"memory": 10_000}
    assert cache.stats().saved_usd == 5000.0


def test_an_observer_that_raises_hurts_nobody(world: World, clock: FakeClock) -> None:
    """It is counted."""

    def observer(event: Event) -> None:
        raise RuntimeError(event.kind)

    cache = TieredCache("memory://", clock=clock, observers=[observer])
    world.call(cache, "set", ask(), b"x")

    assert world.call(cache, "get", ask()).value == b"x"
    assert cache.stats().observer_failures == 2


def test_namespaces_do_not_meet(world: World, cache: TieredCache) -> None:
    """Over the same tiers; a child is told from its parent and from its siblings, whatever they are called."""
    children = [cache.namespace(name) for name in ("a", "b", "a/b", "a%2Fb", "A")]
    nested = cache.namespace("a").namespace("b")
    everyone = [cache, *children, nested]
    for number, child in enumerate(everyone):
        world.call(child, "set", ask(), str(number).encode())

    assert [world.call(child, "get", ask()).value for child in everyone] == [str(number).encode() for number in range(len(everyone))]
    assert len({child.name for child in everyone}) == len(everyone)
    assert {child.key(ask()) for child in everyone} == {world.call(child, "get", ask()).key for child in everyone}


def test_a_key_is_taken_for_its_request(world: World, cache: TieredCache) -> None:
    """Where a request is."""
    held = world.call(cache, "set", ask(), b"x")

    assert world.call(cache, "get", held.key) == held
    assert world.call(cache, "delete", held.key).removed["mongodb"] == 1
    assert world.call(cache, "get", held.key) is None


def test_close_lets_go_of_what_was_made_from_urls(world: World, tiers: list[FakeTier], clock: FakeClock, db: str) -> None:
    """And of nothing else; twice is no error; what waits is written before."""
    cache = TieredCache("memory://", *tiers, db, clock=clock, policy=Policy(write="behind"))
    held = world.call(cache, "set", ask(), b"x")
    world.call(cache, "close")
    world.call(cache, "close")

    assert tiers[0].held == {held.key: held}
    assert "close" not in tiers[0].calls + tiers[1].calls
    again = TieredCache(db, clock=clock)
    assert dataclasses.replace(held, request=None) == again.get(ask())
    again.close()


def test_a_cache_is_a_context(db: str) -> None:
    """It is closed at its end."""
    with TieredCache("memory://", db) as cache:
        cache.set(ask(), b"x")
    with TieredCache(db) as cache:
        assert cache.get(ask()).value == b"x"


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((), {}, "must have tiers"),
        (("memory://", "memory://#name=other"), {}, "must be the first tier"),
        (("sqlite:///a.db", "sqlite:///b.db"), {}, "different names"),
        ((42,), {}, "a tier must be a URL"),
        (("nonsense",), {}, "not the URL of a tier"),
        (("memry://",), {}, "Did you mean 'memory'"),
        (("memory://host",), {}, "must not have a host"),
        (("memory://#max_byte=1MiB",), {}, "Did you mean 'max_bytes'"),
        (("memory://#max_bytes=lots",), {}, "max_bytes must be a size"),
        (("memory://#max_bytes=1",), {}, "at least 64KiB"),
        (("sqlite://a.db",), {}, "three slashes"),
        (("sqlite:///:memory:",), {}, "memory://"),
        (("sqlite:///a.db#timeout=soon",), {}, "timeout must be a duration"),
        (("memory://",), {"namespace": ""}, "namespace must be"),
        (("memory://",), {"namespace": "/a"}, "without a slash"),
        (("memory://",), {"namespace": "a\nb"}, "printable"),
    ],
)
def test_wrong_arguments_are_told_of_before_anything_happens(arguments: tuple[object, ...], options: dict[str, str], message: str) -> None:
    """By name, with what is allowed."""
    with pytest.raises(ConfigurationError, match=message):
        TieredCache(*arguments, **options)


def test_wrong_requests_and_answers_are_told_of(world: World, cache: TieredCache) -> None:
    """Whoever passes nonsense learns it."""
    with pytest.raises(ConfigurationError, match=r"layered_cache\.Request"):
        world.call(cache, "get", 42)
    with pytest.raises(ConfigurationError, match="must be bytes"):
        world.call(cache, "set", ask(), "text")
    for key in ("foreign", cache.namespace("tenant").key(ask()), cache.key(ask()).replace("default", "defaul")):
        with pytest.raises(ConfigurationError, match="is not a key of the namespace"):
            world.call(cache, "get", key)
    with pytest.raises(ConfigurationError, match="tags must be texts"):
        world.call(cache, "set", ask(), b"x", tags="red")


def test_the_repr_says_no_more_than_it_may(cache: TieredCache) -> None:
    """No prompt, no value."""
    held = cache.set(ask("my secret question"), b"my secret answer")

    assert repr(cache) == "TieredCache(memory, redis, mongodb, namespace='default')"
    assert "secret" not in repr(held) + repr(ask("my secret question"))


def test_answers_that_came_together_may_say_what_each_of_them_took(world: World) -> None:
    """Instead of the time since they were asked for, which is that of all."""
    cache = TieredCache("memory://")
    for said, kept in ((0.25, 0.25), (2, 2.0), (0.0, None)):
        entry = world.call(cache, "set", ask(), Answer(value=b"x", compute_seconds=said))
        assert entry.compute_seconds == kept
    with pytest.raises(ConfigurationError, match="compute_seconds must be a number, got 'long'"):
        Answer(value=b"x", compute_seconds="long")  # type: ignore[arg-type]


def test_erasing_from_one_tier_needs_no_rule(world: World, events: list[Event], clock: FakeClock) -> None:
    """It is gone, the log is as it was; a failing tier is told of, and what waits to be written goes by a rule."""
    tier = FakeAuthority()
    cache = TieredCache(tier, observers=[events.append], clock=clock)  # by which nothing is written in the background
    world.call(cache, "set", ask(), b"value")
    position = cache._engine.watch.view.position

    receipt = world.call(cache, "erase", ask(), ask("absent"), ask())
    assert (receipt.seq, receipt.removed) == (None, {"authority": 1})
    assert cache._engine.watch.view.position == position
    assert world.call(cache, "get", ask()) is None
    assert kinds(events).count("invalidated") == 1

    tier.broken = True
    with pytest.raises(DeletionError, match="may still be served"):
        world.call(cache, "erase", ask())
    world.call(cache, "set", ask(), b"queued")
    tier.broken = False
    assert world.call(cache, "erase", ask()).seq is not None
    assert world.call(cache, "get", ask()) is None
    assert world.call(cache, "erase").removed == {}


def test_erasing_from_several_tiers_is_deleting(world: World) -> None:
    """A late promotion must not bring it back."""
    cache = TieredCache("memory://", FakeAuthority())
    world.call(cache, "set", ask(), b"value")

    receipt = world.call(cache, "erase", ask())

    assert receipt.seq is not None
    assert receipt.removed == {"memory": 1, "authority": 1}
