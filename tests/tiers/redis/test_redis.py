"""Redis as a tier: what it costs, what can go wrong with it, and that nothing of it reaches the application."""

from __future__ import annotations

import asyncio
import random
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from layered_cache import Entry, Event, Policy, RedisTier, Refused, Request, TieredCache
from layered_cache._storage.envelope import decode, decode_request, encode
from layered_cache._storage.rules import UNKNOWN, Scope
from layered_cache.entry import Ticket
from layered_cache.errors import ConfigurationError, MissingClientError, TierError, TierTimeoutError, TierUnavailableError
from layered_cache.keys.keys import make_key
from layered_cache.testing._sync_async import Half, an_entry
from support.fault_proxy import ChaosProxy
from support.pairwise import pairwise
from support.servers import RedisServer, free_port
from support.sync_async import Tasks, World, ask, kinds, settled

Proxies = Callable[[str], ChaosProxy]
Own = Callable[..., RedisServer]
GRACE = 0.02  # seconds beyond the budget that a call may take
BUDGET = 0.05


@pytest.fixture(params=["blocking", "asynchronous"])
def half(request: pytest.FixtureRequest) -> Iterator[Callable[[RedisTier], Half]]:
    """Makes one half of a tier."""
    loop = None if request.param == "blocking" else asyncio.new_event_loop()
    halves: list[Half] = []

    def make(tier: RedisTier) -> Half:
        halves.append(Half(tier, loop))
        return halves[-1]

    yield make
    for one in halves:
        one.close()
        one._tier.close()
    if loop is not None:
        loop.close()


def patient(url: str) -> str:
    """Return *url* with a budget that a busy machine does not use up: for tests that are about something else."""
    return f"{url}#timeout=1s"


def key_of(text: str, namespace: str = "app") -> str:
    return make_key(Request(text), namespace)


# --- what it says to the server


def test_an_entry_is_one_string_with_an_end(redis_url: str) -> None:
    """Whose bytes are an envelope; and it goes when its time is over, by itself."""
    with redis.Redis.from_url(redis_url) as client, TieredCache(patient(redis_url), namespace="app") as cache:
        cache.set(ask(), b"value")
        key = cache.key(ask())

        data = client.get(key)

        assert isinstance(data, bytes)
        entry = decode(data, key)
        assert isinstance(entry, Entry)
        assert entry.value == b"value"
        left = client.pttl(key)
        assert isinstance(left, int)
        assert 7 * 86_400_000 - 5000 < left <= 7 * 86_400_000 + 1
        assert client.type(key) == b"string"


def test_an_entry_stays_no_longer_than_its_policy_says(redis_url: str) -> None:
    """Though the tier would keep it longer."""
    with redis.Redis.from_url(redis_url) as client, TieredCache(patient(redis_url), policy=Policy(keep_for=60)) as cache:
        cache.set(ask(), b"value")

        left = client.pttl(cache.key(ask()))

        assert isinstance(left, int)
        assert 55_000 < left <= 60_001


def test_shorter_values_are_compressed_where_the_url_says_so(redis_url: str) -> None:
    """For a Redis that is small."""
    for options, most in (("", 2_500), ("#compress_from=1KiB", 500)):
        with redis.Redis.from_url(redis_url) as client, TieredCache(patient(redis_url) + options.replace("#", "&")) as cache:
            cache.set(ask(), bytes(2_000))
            entry = cache.get(ask())

            assert entry is not None
            assert entry.value == bytes(2_000)
            assert most - 500 < client.strlen(cache.key(ask())) < most


def test_an_expired_entry_replaces_what_was_there(redis_url: str) -> None:
    """It is as if it had been held, and had gone."""
    tier = RedisTier(redis_url, timeout=1.0)
    tier.set_many([an_entry("a", b"old"), an_entry("b", b"old")])

    tier.set_many([an_entry("a", b"new", ttl=-1.0)])

    assert set(tier.get_many(["a", "b"])) == {"b"}
    tier.close()


@pytest.mark.parametrize("alone", [True, False], ids=["alone", "above another"])
def test_requests_are_kept_readable_only_in_the_slowest_tier(redis_url: str, db: str, alone: bool) -> None:
    """So a Redis alone can list and explain what it holds, and two tiers do not hold it twice."""
    with TieredCache(*[patient(redis_url)] if alone else [patient(redis_url), db]) as cache, redis.Redis.from_url(redis_url) as client:
        cache.set(ask("what is it", api_key="canary"), b"value")
        settled(cache)

        data = client.get(cache.key(ask("what is it", api_key="canary")))

        assert isinstance(data, bytes)
        request = decode_request(data)
        assert (request is not None) == alone
        if request is not None:
            assert request["prompt"] == "what is it"
            assert "canary" not in str(request)
        assert b"canary" not in data


def test_no_canary_is_in_a_dump(own_redis: Own) -> None:
    """Of everything that Redis holds."""
    server = own_redis()
    with TieredCache(patient(server.url)) as cache:
        cache.set(
            Request("q", model="m", params={"default_headers": {"Authorization": "Bearer canary1"}, "url": "https://u:canary2@host/v1"}),
            b"value",
            tags=["t"],
        )
        cache.invalidate(tag="x")
        server.cli("SAVE")

        dump = (server.folder / "dump.rdb").read_bytes()

    assert b"lc1:default:" in dump
    assert b"canary" not in dump


def test_round_trips(redis_url: str, proxy_to: Proxies, world: World) -> None:
    """A hit is one, however many keys; so is a write; and nothing else is said on the way to a hit but a look at the log each second."""
    proxy = proxy_to(redis_url)
    with TieredCache(patient(proxy.url), policy=Policy(max_staleness=60)) as cache:
        cache.ticket()
        world.call(cache, "set", ask("warm"), b"up")
        world.call(cache, "get", ask("warm"))
        requests = [ask(str(number)) for number in range(100)]
        commands: dict[str, Callable[[], Any]] = {
            "set": lambda: world.call(cache, "set", ask(), b"value"),
            "get": lambda: world.call(cache, "get", ask()),
            "set many": lambda: world.call(cache, "set_many", dict.fromkeys(requests, b"value")),
            "get many": lambda: world.call(cache, "get_many", requests),
            "miss": lambda: world.call(cache, "get", ask("absent")),
        }
        for name, command in commands.items():
            proxy.reset_counts()
            answer = command()
            said = [one.request for one in proxy.exchanges if one.received and b"EVAL" not in one.request]
            assert len(said) == 1, (name, said)
            assert (answer is None) == (name == "miss")


def test_constructing_touches_no_server() -> None:
    """Nor do a name that cannot be resolved, and a port where nobody listens, matter before the first use."""
    started = time.monotonic()
    tiers = [
        RedisTier("redis://no.such.host.invalid:1/0"),
        RedisTier("rediss://no.such.host.invalid/0"),
        RedisTier("redis+sentinel://no.such.host.invalid/service"),
        RedisTier("redis+cluster://no.such.host.invalid"),
    ]

    assert time.monotonic() - started < 2.0  # redis-py is imported
    assert [repr(tier) for tier in tiers] == ["RedisTier(name='redis')"] * 4


def test_hiredis_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the command that installs it."""
    monkeypatch.setitem(__import__("sys").modules, "hiredis", None)

    with pytest.raises(MissingClientError, match=r"pip install 'layered-cache\[redis\]'"):
        RedisTier("redis://localhost")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "must have either a url or a client"),
        ({"url": "redis://h", "client": redis.Redis()}, "must have either a url or a client"),
        ({"async_client": redis.asyncio.Redis()}, "With an async_client it must have a client too"),
        ({"client": object()}, r"client must be a redis.Redis or redis.RedisCluster, got a builtins.object"),
        ({"client": redis.asyncio.Redis()}, "client must be a redis.Redis"),
        ({"client": redis.Redis(), "async_client": redis.Redis()}, "async_client must be a redis.asyncio.Redis"),
        ({"client": redis.Redis(decode_responses=True)}, "decode_responses=False"),
        ({"url": "http://h"}, "unknown scheme of RedisTier 'http'"),
        ({"url": "redis://h#ttl=1d"}, "must not have options after #"),
        ({"url": "redis://h:0"}, "port .* from 1 to 65535"),
        ({"url": "redis://h/0?nonsense=1"}, "unknown option after"),
        ({"url": "redis://h/0?x"}, "name=value&name=value"),
        ({"url": "redis://u:pa?canary=x@h/0"}, r"there is an @ after the \?"),
        ({"url": "rediss://h/0?ssl_cert_reqs=maybe"}, "unknown ssl_cert_reqs 'maybe'"),
        ({"url": "rediss://h/0?ssl_ca_certs=/no/such/file"}, "cannot be read"),
        ({"url": "redis://h/db"}, "must be a number, got 'db'"),
        ({"url": "redis://a,b/0"}, "must have one host"),
        ({"url": "redis+cluster://h/0"}, "must not have a path"),
        ({"url": "redis+sentinel://h"}, "must have the name of the service"),
    ],
)
def test_mistakes(arguments: dict[str, Any], message: str) -> None:
    """Are told before any I/O."""
    with pytest.raises(ConfigurationError, match=message):
        RedisTier(**arguments)


# --- how long a call takes when the store is not well


def stalls() -> dict[str, Callable[[ChaosProxy], object]]:
    """Return what can be wrong between a client and a server, by name."""
    return {
        "refused": lambda proxy: (proxy.refuse(), proxy.cut()),
        "connections into a black hole": lambda proxy: (proxy.blackhole_connects(), proxy.cut()),
        "hung": lambda proxy: proxy.set(blackhole="both"),
        "hung on the way back": lambda proxy: proxy.set(blackhole="down"),
        "torn replies": lambda proxy: proxy.set(finish_after=10),
        "reset in the middle of replies": lambda proxy: proxy.set(reset_after=10),
        "drip": lambda proxy: proxy.set(bandwidth=500),
        "accepted and reset": lambda proxy: (proxy.cut(), proxy.set(on_accept="reset")),
        "accepted and closed": lambda proxy: (proxy.cut(), proxy.set(on_accept="finish")),
    }


@pytest.mark.alone
@pytest.mark.parametrize(
    ("half", "latency", "stall", "connected"),
    pairwise(["blocking", "asynchronous"], [0.0, 0.01], stalls(), [True, False]),
    indirect=["half"],
)
def test_a_call_ends_within_its_budget(
    redis_url: str, proxy_to: Proxies, half: Callable[[RedisTier], Half], stall: str, latency: float, connected: bool
) -> None:
    """Whatever the store does; and when it is well again, so is the tier."""
    proxy = proxy_to(redis_url)
    tier = half(RedisTier(proxy.url, timeout=0.1))
    setting = RedisTier(redis_url, timeout=1.0)
    setting.set_many([big := an_entry("k", random.Random(1).randbytes(20_000))])
    if connected:
        tier.get_many(["k"])
    proxy.set(latency=latency)
    stalls()[stall](proxy)

    taken: list[float] = []
    for _ in range(4):
        started = time.monotonic()
        with pytest.raises(TierError):
            tier.get_many(["k"])
        taken.append(time.monotonic() - started)

    assert sorted(taken)[1] < 0.1 + GRACE, taken  # a busy machine may make one or two late, but not all
    assert max(taken) < 0.5, taken
    proxy.clear()
    proxy.accept()
    assert well_again(lambda: tier.get_many(["k"]) == {"k": big}) < 1.0
    setting.close()


def well_again(check: Callable[[], bool]) -> float:
    """Return after how many seconds *check* is true."""
    started = time.monotonic()
    while time.monotonic() - started < 5.0:
        try:
            if check():
                break
        except TierError:
            time.sleep(0.01)
    return time.monotonic() - started


@pytest.mark.alone
def test_a_frozen_server(redis_server: RedisServer, half: Callable[[RedisTier], Half]) -> None:
    """Costs the budget, also for writes; and is used again as soon as it goes on."""
    tier = half(RedisTier(redis_server.url))
    tier.set_many([entry := an_entry()])
    redis_server.freeze()

    for call in (lambda: tier.get_many(["k"]), lambda: tier.set_many([entry]), lambda: tier.delete_many(["k"])):
        started = time.monotonic()
        with pytest.raises(TierTimeoutError):
            call()
        assert time.monotonic() - started < BUDGET + GRACE

    redis_server.thaw()
    assert well_again(lambda: set(tier.get_many(["k"])) <= {"k"}) < 1.0


def test_far_away_it_hits_from_the_second_call_on(redis_url: str, proxy_to: Proxies, world: World) -> None:
    """Connecting may take longer than a call may wait: it goes on without him, and the next one finds the connection."""
    with TieredCache(patient(redis_url)) as near:
        near.set(ask(), b"value")
    proxy = proxy_to(redis_url).set(latency=0.01)
    cache = TieredCache(proxy.url)

    found = [world.call(cache, "get", ask()) for _ in range(5)]

    assert all(found[1:])
    world.call(cache, "close")


def test_ctrl_c_leaves_nothing_behind(redis_url: str) -> None:
    """A connection in the middle of a reply is not used again."""
    tier = RedisTier(redis_url, timeout=1.0)
    tier.set_many([one := an_entry("one", b"1"), other := an_entry("other", b"2")])
    driver = tier._driver
    link = driver._pool._take(time.monotonic() + 1)  # type: ignore[attr-defined]
    driver._pool._give_back(link)  # type: ignore[attr-defined]
    interrupted = KeyboardInterrupt

    class Interrupting:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        def recv_into(self, buffer: Any) -> int:
            raise interrupted

    link._socket = Interrupting(link._socket)
    with pytest.raises(KeyboardInterrupt):
        tier.get_many(["one"])

    assert tier.get_many(["other"]) == {"other": other}
    assert tier.get_many(["one"]) == {"one": one}
    tier.close()


def test_a_restarted_server_is_noticed_without_a_miss(own_redis: Own, half: Callable[[RedisTier], Half]) -> None:
    """All connections are stale then: one new one, at once, within the budget."""
    server = own_redis("--appendonly", "yes")
    tier = half(RedisTier(server.url, timeout=0.2))
    tier.set_many([entry := an_entry()])
    server.stop()
    server.start()

    assert tier.get_many(["k"]) == {"k": entry}


@pytest.mark.alone
def test_a_cache_that_was_built_while_redis_was_down(own_redis: Own, world: World) -> None:
    """Uses it when it comes, without a new object."""
    server = own_redis()
    server.stop()
    cache = TieredCache("memory://", patient(server.url))
    assert world.call(cache, "get", ask()) is None
    world.call(cache, "set", ask(), b"value")

    server.start()

    settled(cache)
    with TieredCache(patient(server.url)) as other:
        assert well_again(lambda: world.call(cache, "get", ask()) is not None) < 1.0

        def shared() -> bool:
            world.call(cache, "set", ask("again"), b"value")
            return other.get(ask("again")) is not None

        assert well_again(shared) < 1.5  # a second may pass until the log is looked at again
    cache.close()


# --- what the server may say


@pytest.mark.parametrize(
    ("trouble", "cure", "reason"),
    [
        (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0"), "Redis is full"),
        (("CONFIG", "SET", "min-replicas-to-write", "1"), ("CONFIG", "SET", "min-replicas-to-write", "0"), "too few replicas"),
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE"), "the server is a replica"),
        (("ACL", "SETUSER", "default", "-set"), ("ACL", "SETUSER", "default", "+set"), "lacks a permission"),
    ],
    ids=["full", "too few replicas", "a replica", "no permission"],
)
def test_what_a_server_refuses(
    own_redis: Own, world: World, trouble: tuple[str, ...], cure: tuple[str, ...], reason: str, events: list[Event]
) -> None:
    """Reaches nobody but the observers; what it refuses for a moment is written when it does not."""
    server = own_redis()
    with TieredCache("memory://", patient(server.url), observers=[events.append]) as cache:
        world.call(cache, "set", ask("before"), b"value")
        server.cli(*trouble)

        world.call(cache, "set", ask(), b"value")

        assert reason in next(event.reason or "" for event in events if event.kind == "tier_failed")
        assert world.call(cache, "get", ask("before"))
        server.cli(*cure)
        world.call(cache, "set", ask("after"), b"value")
        settled(cache)
        with TieredCache(patient(server.url)) as other:
            assert other.get(ask("after"))
            if "permission" not in reason:  # that is lasting, as far as anyone knows
                assert other.get(ask())


def test_a_server_that_is_loading(own_redis: Own, half: Callable[[RedisTier], Half]) -> None:
    """Says so, and is used when it is ready."""
    server = own_redis("--appendonly", "yes", "--key-load-delay", "500", "--appendfsync", "no", "--aof-use-rdb-preamble", "no")
    tier = half(RedisTier(server.url, timeout=0.5))
    tier.set_many([an_entry(str(number)) for number in range(2000)])
    server.stop()
    server.start(wait=False)

    assert well_again(lambda: len(tier.get_many(["1"])) == 1) < 5.0


@pytest.mark.alone
def test_a_password_that_was_changed(own_redis: Own, half: Callable[[RedisTier], Half]) -> None:
    """Is an error in time, and none any more when it is changed back."""
    server = own_redis(password="first")
    tier = half(RedisTier(server.url, timeout=0.2))
    tier.set_many([an_entry()])
    server.cli("CONFIG", "SET", "requirepass", "second")
    server.password = "second"
    server.cli("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    with pytest.raises(TierUnavailableError, match="the server rejected the password") as raised:
        tier.get_many(["k"])

    assert "first" not in str(raised.value)
    server.cli("CONFIG", "SET", "requirepass", "first")
    server.password = "first"
    assert well_again(lambda: len(tier.get_many(["k"])) == 1) < 1.0


def test_a_primary_that_became_a_replica_tells_no_log(own_redis: Own, half: Callable[[RedisTier], Half]) -> None:
    """It may know nothing of what was removed since; and connections that were there stay open."""
    server = own_redis()
    tier = half(RedisTier(server.url, timeout=1.0))
    seen = tier.append_log("app", Scope(tags=("t",)), UNKNOWN, 0)
    server.cli("REPLICAOF", "127.0.0.1", "1")

    with pytest.raises(TierUnavailableError, match="the server is a replica"):
        tier.read_log(Ticket(seen.epoch, seen.seq))

    server.cli("REPLICAOF", "NO", "ONE")
    assert tier.read_log(UNKNOWN).rules == seen.rules


def test_a_host_of_which_one_address_is_a_black_hole(
    redis_server: RedisServer, half: Callable[[RedisTier], Half], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Is reached by the other one."""
    hole = ChaosProxy(redis_server.port).start()
    hole.blackhole_connects()
    here = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port)) for port in (hole.port, redis_server.port)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_kwargs: here)
    tier = half(RedisTier("redis://two.addresses/1"))

    assert well_again(lambda: tier.get_many(["k"]) == {}) < 2.5
    hole.close()


def test_a_client_of_a_cluster_survives_what_is_foreign(redis_url: str) -> None:
    """It has no pool of its own that could be emptied."""
    with redis.Redis.from_url(redis_url) as client:

        class Cluster:
            execute_command = client.execute_command

        tier = RedisTier(client=Cluster(), timeout=1.0)
        client.set("k", encode(an_entry("another")))

        assert isinstance(tier.get_many(["k"])["k"], Refused)
        tier.close()


def test_a_disk_that_is_full(own_redis: Own) -> None:
    """Redis refuses writes then (MISCONF), and says so."""
    server = own_redis("--save", "1 1", "--stop-writes-on-bgsave-error", "yes", "--enable-protected-configs", "yes")
    tier = RedisTier(server.url, timeout=1.0)
    tier.set_many([an_entry()])
    server.cli("CONFIG", "SET", "dbfilename", "x")
    (server.folder / "x").mkdir()  # where the dump shall go

    def refused() -> bool:
        try:
            tier.set_many([an_entry()])
        except TierError as error:
            return "cannot write to its disk" in str(error)
        return False

    assert well_again(refused) < 5.0
    assert set(tier.get_many(["k"])) == {"k"}
    tier.close()


def test_evictions(own_redis: Own) -> None:
    """Are misses, and the log, which has no end, stays with a policy for what has one."""
    server = own_redis("--maxmemory", "4mb", "--maxmemory-policy", "volatile-lfu")
    with TieredCache(patient(server.url), policy=Policy(max_staleness=0.0)) as cache:
        cache.invalidate(tag="x")
        epoch = cache.ticket().epoch
        for number in range(300):
            cache.set(ask(str(number)), random.Random(number).randbytes(20_000))

        found = cache.get_many([ask(str(number)) for number in range(300)])

        assert 0 < len(found) < 300
        assert cache.ticket().epoch == epoch


# --- what comes back is what was asked for


def test_a_cluster_node_says_what_to_use(own_redis: Own) -> None:
    """Whose URL is wrong is told so."""
    server = own_redis("--cluster-enabled", "yes")
    tier = RedisTier(server.url, timeout=1.0)

    with pytest.raises(TierUnavailableError, match=r"the cluster is down|Use redis\+cluster://"):
        tier.get_many(["k"])
    tier.close()


@pytest.mark.parametrize("fault", [{"duplicate": True}, {"slice": 1}, {"slice": 7, "duplicate": True}, {"flip": 0.002}], ids=str)
def test_a_line_that_is_out_of_step(redis_url: str, proxy_to: Proxies, world: World, fault: dict[str, Any]) -> None:
    """Never gives one key's answer to another: what comes is right, or it is a miss."""
    proxy = proxy_to(redis_url)
    with TieredCache(patient(redis_url)) as setting:
        for number in range(50):
            setting.set(ask(str(number)), f"value {number}".encode() * 20)
    cache = TieredCache(f"{proxy.url}#timeout=500ms", policy=Policy(max_staleness=600))
    world.call(cache, "get", ask("1"))  # the log is read while it can be
    proxy.set(**fault)
    rnd = random.Random(1)
    right = 0

    for _ in range(100):
        numbers = rnd.sample(range(50), rnd.choice([1, 1, 5]))
        found = world.call(cache, "get_many", [ask(str(number)) for number in numbers])
        for number in numbers:
            if entry := found.get(ask(str(number))):
                assert entry.value == f"value {number}".encode() * 20
                right += 1

    assert right or "duplicate" in fault
    proxy.clear()
    world.call(cache, "set", ask("1"), b"value 1")  # what seemed to be corrupt was erased
    settled(cache)
    assert well_again(lambda: world.call(cache, "get", ask("1")) is not None) < 1.0
    cache.close()


def test_what_was_stored_under_another_key_is_refused_and_erased(redis_url: str, half: Callable[[RedisTier], Half]) -> None:
    """Who renames keys gets misses; and the connection is not to blame for long."""
    tier = half(RedisTier(redis_url, timeout=1.0))
    tier.set_many([an_entry("a", b"a's"), b := an_entry("b", b"b's")])
    with redis.Redis.from_url(redis_url) as client:
        client.rename("a", "c")

    found = tier.get_many(["b", "c"])

    assert found["b"] == b
    assert isinstance(found["c"], Refused)
    assert found["c"].erase


def test_what_is_no_entry_is_refused(redis_url: str, half: Callable[[RedisTier], Half]) -> None:
    """Of whatever type it is."""
    tier = half(RedisTier(redis_url, timeout=1.0))
    data = encode(an_entry("flipped"))
    with redis.Redis.from_url(redis_url) as client:
        client.set("text", "what another application keeps")
        client.set("flipped", data[:-1] + bytes([data[-1] ^ 1]))
        client.hset("hash", "a", "b")

    assert isinstance(tier.get_many(["text"])["text"], Refused)
    assert not tier.get_many(["text"])["text"].erase  # type: ignore[union-attr]
    assert tier.get_many(["flipped"])["flipped"].erase  # type: ignore[union-attr]
    with pytest.raises(TierUnavailableError, match="WRONGTYPE"):
        tier.get_many(["hash"])
    assert tier.get_many(["hash", "text"]).keys() == {"text"}


def cancel_storm(url: str, gets: int) -> None:
    async def main() -> None:
        tier = RedisTier(url, timeout=0.5)
        entries = {f"k{number}": an_entry(f"k{number}", f"value {number}".encode() * 30) for number in range(100)}
        await tier.aset_many(list(entries.values()))
        rnd = random.Random(1)
        wrong: list[object] = []

        async def one() -> None:
            keys = [f"k{rnd.randrange(100)}" for _ in range(rnd.choice([1, 1, 3]))]
            how = rnd.randrange(3)
            call = asyncio.ensure_future(tier.aget_many(keys))
            if how == 0:
                await asyncio.sleep(rnd.choice([0, 0, 0.0001, 0.001]))
                call.cancel()
            elif how == 1:
                await asyncio.wait([call], timeout=rnd.choice([0, 0.0001, 0.0005]))
                call.cancel()
            done, _ = await asyncio.wait([call])
            if call in done and not call.cancelled():
                found = call.result()
                if found != {key: entries[key] for key in keys}:
                    wrong.append(found)

        for _ in range(gets // 100):
            await asyncio.gather(*(one() for _ in range(100)))

        assert not wrong
        assert await tier.aget_many(list(entries)) == entries
        assert len(tier._driver._lines._lines) == 1  # type: ignore[attr-defined]
        await tier.aclose()

    asyncio.run(main())


def test_cancelled_calls_leave_no_replies_behind(redis_url: str) -> None:
    """10,000 gets, most of them cancelled: everyone has his own answer, and the one connection lives on."""
    cancel_storm(redis_url, 10_000)


@pytest.mark.slow
def test_cancelled_calls_leave_no_replies_behind_in_a_long_storm(redis_url: str) -> None:
    """100,000 of them."""
    cancel_storm(redis_url, 100_000)


def test_a_thousand_at_once(redis_url: str) -> None:
    """Tasks of one loop, of an entry that is there: nobody misses it."""

    async def main() -> None:
        cache = TieredCache(patient(redis_url))
        await cache.aset(ask(), b"value" * 400)
        for _ in range(3):
            found = await asyncio.gather(*(cache.aget(ask()) for _ in range(1000)))
            assert all(found)
        await cache.aclose()

    asyncio.run(main())


def test_a_loop_that_was_busy_misses_nothing(redis_url: str) -> None:
    """What has come while it did something else counts as come in time."""

    async def main() -> None:
        tier = RedisTier(redis_url, timeout=1.0)
        await tier.aset_many([entry := an_entry()])
        for _ in range(3):
            call = asyncio.ensure_future(tier.aget_many(["k"]))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            time.sleep(0.2)  # noqa: ASYNC251 - that is what is tested
            assert await call == {"k": entry}
        await tier.aclose()

    asyncio.run(main())


def test_many_threads_wait_for_few_connections(redis_url: str) -> None:
    """And get them by turns."""
    tier = RedisTier(redis_url, connections=2, timeout=2.0)
    entries = [an_entry(str(number), str(number).encode()) for number in range(64)]
    tier.set_many(entries)
    world_calls = [([entry.key],) for entry in entries]
    from support.sync_async import Threads

    found = Threads().at_once(tier, "get_many", world_calls)

    assert found == [{entry.key: entry} for entry in entries]
    assert tier._driver._pool._open <= 2  # type: ignore[attr-defined]
    tier.close()


def test_loops_that_have_ended_are_let_go(redis_url: str) -> None:
    """A connection for each would be a leak."""
    tier = RedisTier(redis_url, timeout=1.0)

    for _ in range(5):
        asyncio.run(tier.aget_many(["k"]))  # type: ignore[arg-type]

    assert len(tier._driver._lines._lines) == 1  # type: ignore[attr-defined]
    tier.close()


# --- removing


def test_clearing_a_namespace_erases_it_and_nothing_else(redis_url: str, world: World) -> None:
    """Not what is below it, unless that is asked for; not what merely looks like it."""
    with TieredCache(patient(redis_url), namespace="app") as cache, redis.Redis.from_url(redis_url) as client:
        names = ["app", "app/a", "app/a/b", "appendix", "ap", "app*", "[app]", "a?p"]
        caches = {name: TieredCache(patient(redis_url), namespace=name) for name in names}
        for one in caches.values():
            one.set(ask(), b"value")
        client.set("foreign", "1")
        client.set("lc1:app", "1")

        receipt = world.call(cache, "clear")

        assert receipt.removed == {"redis": 1}
        assert [name for name, one in caches.items() if one.get(ask())] == names[1:]
        assert world.call(caches["app*"], "clear", children=True).removed == {"redis": 1}
        assert world.call(cache, "clear", children=True).removed == {"redis": 2}
        assert [name for name, one in caches.items() if one.get(ask())] == ["appendix", "ap", "[app]", "a?p"]
        assert client.get("foreign") == client.get("lc1:app") == b"1"
        for one in caches.values():
            one.close()


def test_clearing_spares_what_was_stored_later(redis_url: str) -> None:
    """An answer that is newer than the rule is not void."""
    tier = RedisTier(redis_url, timeout=1.0)
    old, new = key_of("old"), key_of("new")
    tier.set_many([an_entry(old, namespace="app", born=Ticket(1, 5)), an_entry(new, namespace="app", born=Ticket(1, 10))])

    assert tier.erase_where("app", Scope(), 10) == 1

    assert set(tier.get_many([old, new])) == {new}
    tier.close()


def test_counting(redis_url: str, world: World) -> None:
    """What would be removed, by any criterion."""
    with TieredCache(patient(redis_url), namespace="app") as cache:
        cache.set(ask("a"), b"value", tags=["red"])
        cache.set(ask("b"), b"value", tags=["red", "blue"])

        assert world.call(cache, "invalidate", tag="red", dry_run=True).removed == {"redis": 2}
        assert world.call(cache, "invalidate", tag="blue", dry_run=True).removed == {"redis": 1}
        assert world.call(cache, "invalidate", model="model-*", dry_run=True).removed == {"redis": 2}
        assert world.call(cache, "invalidate", prompt="a", dry_run=True).removed == {"redis": 1}
        assert cache.get(ask("a"))


def test_a_search_that_is_out_of_step(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is an error of the tier, as everything is."""
    tier = RedisTier(redis_url, timeout=1.0)
    monkeypatch.setattr(tier._driver, "run_on", lambda *_args: 5)

    with pytest.raises(TierUnavailableError, match="out of step"):
        tier.count_where("app", Scope())
    tier.close()


def test_an_acl_of_the_least_that_is_needed(own_redis: Own, world: World) -> None:
    """As the README has it: everything works, and nothing else may be done."""
    server = own_redis()
    for line in ACL:
        server.cli(*line)
    with TieredCache("memory://", f"redis://cache:password@{server.address}/0", policy=Policy(fail_open=False), namespace="app") as cache:
        world.call(cache, "set", ask(), b"value", tags=["t"])
        assert world.call(cache, "get", ask())
        assert world.call(cache, "get_many", [ask(), ask("absent")])
        assert world.call(cache, "invalidate", tag="t").durable is False
        assert world.call(cache, "get", ask()) is None
        world.call(cache, "set", ask(), b"value")
        assert world.call(cache, "delete", ask()).removed["redis"] == 1
        world.call(cache, "set", ask(), b"value")
        assert world.call(cache, "clear").removed == {"redis": 1}
    with redis.Redis(port=server.port, username="cache", password="password") as client, pytest.raises(redis.exceptions.NoPermissionError):
        client.flushdb()


README = (Path(__file__).parents[3] / "README.md").read_text()
ACL = [line.split() for line in re.findall(r"^ACL SETUSER .*$", README, re.MULTILINE)]


# --- the log


@pytest.mark.parametrize("lost", ["rules", "floors", "head"])
def test_a_log_that_was_lost_in_part_begins_anew(redis_url: str, half: Callable[[RedisTier], Half], lost: str) -> None:
    """What it has forgotten nobody knows: so everything is void."""
    tier = half(RedisTier(redis_url, timeout=1.0))
    tier.append_log("app", None, UNKNOWN, 0)
    before = tier.append_log("app", Scope(tags=("t",)), UNKNOWN, 0)
    with redis.Redis.from_url(redis_url) as client:
        assert client.delete(f"lc1:{{log}}:{lost}") == 1

    now = tier.read_log(Ticket(before.epoch, before.seq))

    assert now.epoch != before.epoch
    if lost != "head":
        assert now.epoch > 0
        assert now.seq > before.seq


def test_a_receipt_says_whether_redis_keeps_the_log(own_redis: Own, world: World) -> None:
    """With an append-only file it does, without one it does not."""
    for options, durable in ((["--appendonly", "yes"], True), ([], False)):
        with TieredCache(own_redis(*options).url) as cache:
            assert world.call(cache, "invalidate", tag="t").durable is durable


def test_a_log_has_no_end(redis_url: str) -> None:
    """So what evicts only what has one spares it."""
    with TieredCache(patient(redis_url)) as cache, redis.Redis.from_url(redis_url) as client:
        cache.invalidate(tag="t")
        cache.clear()

        for name in ("head", "rules", "floors"):
            assert client.ttl(f"lc1:{{log}}:{name}") == -1


def test_the_log_is_bounded(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As every log: what leaves raises floors, and floors that are too many are folded."""
    from layered_cache.tiers.redis import invalidation_log

    monkeypatch.setattr(invalidation_log, "MAX_RULES", 5)
    monkeypatch.setattr(invalidation_log, "MAX_FLOORS", 4)
    tier = RedisTier(redis_url, timeout=1.0)
    seqs = [tier.append_log(f"n{number}", Scope(tags=("t",)), UNKNOWN, 0).seq for number in range(20)]

    log = tier.read_log(UNKNOWN)

    assert [rule.seq for rule in log.rules] == seqs[-5:]
    assert len(log.floors) <= 4
    for number, seq in enumerate(seqs[:-5]):  # nothing is forgotten: it is void by its own floor, or by everyone's
        assert max(log.floors.get(f"n{number}", 0), log.floors.get("", 0)) >= seq
    monkeypatch.setattr(invalidation_log, "MAX_LOG_BYTES", 30)
    assert len(tier.append_log("big", Scope(tags=("t" * 100,)), UNKNOWN, 0).rules) == 0
    assert tier.read_log(UNKNOWN).floors["big"] > seqs[-1]
    tier.close()


def test_two_processes_over_one_redis(redis_url: str, world: World) -> None:
    """What one removes, the other does not serve for longer than it may be stale."""
    policy = Policy(max_staleness=0.2)
    one, other = (TieredCache("memory://", patient(redis_url), policy=policy) for _ in range(2))
    world.call(one, "set", ask(), b"value", tags=["t"])
    assert world.call(other, "get", ask())

    world.call(one, "invalidate", tag="t")
    time.sleep(0.25)

    assert world.call(other, "get", ask()) is None
    assert world.call(one, "get", ask()) is None
    one.close()
    other.close()


def test_two_logs_over_one_redis_are_told_of(redis_url: str, tmp_path: Any, events: list[Event]) -> None:
    """Two set-ups that share a tier by mistake never serve each other's answers, and say why."""
    first = TieredCache(patient(redis_url), f"sqlite:///{tmp_path}/1.db", observers=[events.append])
    first.set(ask(), b"first")
    settled(first)
    assert "authority_conflict" not in kinds(events)
    second = TieredCache(patient(redis_url), f"sqlite:///{tmp_path}/2.db", observers=[events.append])

    assert second.get(ask()) is None

    second.set(ask("other"), b"second")
    assert well_again(lambda: "authority_conflict" in kinds(events)) < 2.0
    event = next(event for event in events if event.kind == "authority_conflict")
    assert event.tier == "redis"
    assert "two set-ups share this one" in (event.reason or "")
    first.close()
    second.close()


# --- clients of the user's


@pytest.mark.alone
def test_a_client_of_the_users_is_bounded_too(redis_server: RedisServer, half: Callable[[RedisTier], Half]) -> None:
    """Though it would wait for minutes by itself; and it is not closed."""
    with redis.Redis.from_url(redis_server.url) as client:
        tier = half(RedisTier(client=client))
        tier.set_many([an_entry()])
        redis_server.freeze()

        started = time.monotonic()
        with pytest.raises(TierTimeoutError):
            tier.get_many(["k"])
        assert time.monotonic() - started < BUDGET + GRACE

        redis_server.thaw()
        assert well_again(lambda: len(tier.get_many(["k"])) == 1) < 7.0
        tier.close()
        assert client.ping()


@pytest.mark.alone
def test_nobody_listens(world: World) -> None:
    """Then there is nothing, at once."""
    cache = TieredCache(f"redis://127.0.0.1:{free_port()}/0")
    started = time.monotonic()

    assert world.call(cache, "get", ask()) is None
    assert world.call(cache, "set", ask(), b"value") is None or isinstance(world, Tasks)
    assert time.monotonic() - started < 0.3
    cache._engine.backlog.forget([cache.key(ask())])
    cache.close()
