"""What is others' in the same Redis and in the same MongoDB database stays, whatever is removed here and however names are chosen."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import redis
from layered_cache import Policy, Request, TieredCache
from layered_cache.keys.keys import key_prefix
from pymongo import MongoClient
from support.sync_async import Threads, World, ask, settled

FOREIGN = 2_500  # more than twice a page of any tier
# in one of them everything is removed; the others look like it, or would be matched by it if it were a pattern or a prefix
NAMESPACES = ("a", "a*", "a/b", "a%2Fb", "ab", "a?", "[ab]", "a\\", "a^", "a-b", "A", "*", "a%", "a*/b")
KEEPING = "others"
REQUESTS = 3


def foreign_names() -> Iterator[str]:
    """Yield names that are nobody's here, as nastily chosen as can be."""
    prefixes = [key_prefix(namespace) for namespace in NAMESPACES]
    pieces = [
        "",
        "*",
        "?",
        "[a]",
        "[^x]",
        "\\",
        "^",
        "-",
        "%",
        "%2F",
        "%2A",
        "lc1:",
        "lc1",
        "LC1:",
        "lc2:a:",
        ":",
        "/",
        "{a}",
        " ",
        "\n",
        "\0",
        "é",
        "日",
    ]
    for prefix, piece in itertools.product(prefixes, pieces):
        yield f"{prefix}{piece}"  # under a prefix of ours, but no key that a request has
        yield f"{piece}{prefix}"
        yield f"{prefix[:-1]}{piece}"
    chance = random.Random(7)
    while True:
        yield "".join(chance.choice(pieces + prefixes) for _ in range(4)) + str(chance.randrange(10**9))


def taken(count: int) -> list[str]:
    """Return *count* of them, each once."""
    once = dict.fromkeys(itertools.islice(foreign_names(), count * 2))
    return list(itertools.islice((name for name in once if name), count))


class Redis:
    """Foreign keys of all types in a Redis."""

    def __init__(self, url: str) -> None:
        self.client = redis.Redis.from_url(url)
        names = [name.encode() for name in taken(FOREIGN)]
        with self.client.pipeline(transaction=False) as pipeline:
            for number, name in enumerate(names):
                kind = number % 10
                if kind == 0:
                    pipeline.hset(name, "field", number)
                elif kind == 1:
                    pipeline.rpush(name, number)
                elif kind == 2:
                    pipeline.zadd(name, {"member": number})
                else:
                    pipeline.set(name, number, px=3_600_000 if kind == 3 else None)
            pipeline.execute()
        self.names = names
        self.before = self.all()
        assert len(self.before) == FOREIGN

    def all(self) -> Mapping[bytes, Any]:
        """Return what they hold."""
        with self.client.pipeline(transaction=False) as pipeline:
            for name in self.names:
                pipeline.dump(name)
            dumps = pipeline.execute()
        return {name: dump for name, dump in zip(self.names, dumps) if dump is not None}

    def is_untouched(self) -> bool:
        """Whether all of them are as they were."""
        return self.all() == self.before

    def ours(self) -> int:
        """Return how many other keys there are."""
        return self.client.dbsize() - FOREIGN


class Mongo:
    """Foreign documents in a database of MongoDB: in collections of others, and in ours."""

    COLLECTIONS = ("entries", "entries_log", "entries*", "entries_log2", "entriesX", "a", "a/b", "lc1:a:")

    def __init__(self, url: str) -> None:
        self.client: MongoClient[Any] = MongoClient(url)
        self.database = self.client.get_default_database()
        for number, name in enumerate(self.COLLECTIONS):
            names = taken(FOREIGN)[number :: len(self.COLLECTIONS)]
            self.database[name].insert_many(
                {"_id": f"{one}", "namespace": chosen, "model": "model-1", "tags": ["t", "*"], "foreign": True, "n": index}
                for index, (one, chosen) in enumerate(zip(names, itertools.cycle(NAMESPACES)))
            )
        self.before = self.all()
        assert sum(map(len, self.before.values())) == FOREIGN

    def all(self) -> Mapping[str, list[Any]]:
        """Return them."""
        return {name: list(self.database[name].find({"foreign": True}).sort("_id")) for name in self.COLLECTIONS}

    def is_untouched(self) -> bool:
        """Whether all of them are as they were."""
        return self.all() == self.before and sorted(self.database.list_collection_names()) == sorted(self.COLLECTIONS)

    def ours(self) -> int:
        """Return how many entries there are."""
        return self.database["entries"].count_documents({"foreign": {"$exists": False}})


def asked() -> list[Request]:
    """Return what is held in each namespace."""
    return [ask(str(number)) for number in range(REQUESTS)]


def fill(caches: Mapping[str, TieredCache]) -> None:
    for cache in caches.values():
        cache.set_many(dict.fromkeys(asked(), b"value"), tags=["t", "*"])
        settled(cache)


def held(caches: Mapping[str, TieredCache]) -> set[str]:
    """Return the namespaces in which all is there; in the others is nothing."""
    found = {name: len(cache.get_many(asked())) for name, cache in caches.items()}
    assert set(found.values()) <= {0, REQUESTS}
    return {name for name, count in found.items() if count}


@pytest.fixture
def urls(redis_url: str, mongodb_url: str) -> tuple[str, str]:
    """Slow only where the machine is."""
    return f"{redis_url}#timeout=2s", f"{mongodb_url}#timeout=2s"


def test_nothing_foreign_is_removed(redis_url: str, mongodb_url: str, urls: tuple[str, str], world: World) -> None:
    """10,000 keys and 10,000 documents, through every kind of removal in every namespace; and what is ours goes, there and only there."""
    in_redis, in_mongodb = Redis(redis_url), Mongo(mongodb_url)
    policy = Policy(max_staleness=0)  # each is a cache of its own, as those of other processes
    caches = {name: TieredCache("memory://", *urls, namespace=name, policy=policy) for name in (*NAMESPACES, KEEPING)}
    fill(caches)
    assert in_redis.ours() - 1 == in_mongodb.ours() == len(caches) * REQUESTS  # and in Redis, which log rules it

    left = set(caches)
    for name in NAMESPACES:
        cache = caches[name]
        assert world.call(cache, "invalidate", model="[m]odel-?", dry_run=True).removed["redis"] == REQUESTS
        world.call(cache, "delete", asked()[0])
        world.call(cache, "invalidate", key=[cache.key(one) for one in asked()[1:2]])
        world.call(cache, "invalidate", tag="*")
        receipt = world.call(cache, "clear")
        assert receipt.failures == ()
        left -= {name}
        assert held(caches) == left, name
        assert in_redis.ours() - 1 == len(left) * REQUESTS, name
        assert in_mongodb.ours() == len(left) * REQUESTS, name
    assert in_redis.is_untouched()
    assert in_mongodb.is_untouched()

    fill(caches)
    assert held(caches) == set(caches)
    gone = {name for name in caches if name == "a" or name.startswith("a/")}
    assert world.call(caches["a"], "clear", children=True).removed == {"redis": len(gone) * REQUESTS, "mongodb": len(gone) * REQUESTS}
    assert held(caches) == set(caches) - gone
    gone |= {"a*", "a*/b"}
    world.call(caches["a*"], "clear", children=True)
    assert held(caches) == set(caches) - gone
    gone |= {"*"}
    world.call(caches["*"], "clear", children=True)
    assert held(caches) == set(caches) - gone
    for name in set(caches) - gone:
        world.call(caches[name], "invalidate", model="*")
    assert held(caches) == set()

    assert in_redis.is_untouched()
    assert in_mongodb.is_untouched()
    for cache in caches.values():
        cache.close()
    in_redis.client.close()
    in_mongodb.client.close()


def test_nothing_foreign_is_listed(redis_url: str, mongodb_url: str, urls: tuple[str, str], world: World) -> None:
    """What is ours is, in each namespace, and what is not stays as it was; also what is no text, and what has another type."""
    in_redis, in_mongodb = Redis(redis_url), Mongo(mongodb_url)
    in_redis.client.set(b"lc1:a:\xff\xfe", b"foreign")
    in_redis.client.rpush("lc1:a:list", "foreign")
    for url in urls:
        caches = {name: TieredCache(url, namespace=name) for name in NAMESPACES}
        fill(caches)
        for name, cache in caches.items():
            assert sorted(entries(world, cache)) == sorted(cache.key(one) for one in asked()), name
            cache.close()
    assert in_redis.is_untouched()
    assert in_mongodb.is_untouched()
    assert in_redis.client.exists(b"lc1:a:\xff\xfe", "lc1:a:list") == 2
    in_redis.client.close()
    in_mongodb.client.close()


def entries(world: World, cache: TieredCache) -> list[str]:
    """Return the keys that are listed."""
    if isinstance(world, Threads):
        return [entry.key for entry in cache.entries()]

    async def main() -> list[str]:
        return [entry.key async for entry in cache.aentries()]

    return world.loop.run_until_complete(main())


def test_children_with_nasty_names_are_children_of_one_parent(
    redis_url: str, mongodb_url: str, urls: tuple[str, str], world: World
) -> None:
    """A slash, a star or a percent sign in the name of a tenant makes it no other tenant, nor its child."""
    root = TieredCache("memory://", *urls, namespace="app")
    names = ("x", "x/y", "x%2Fy", "x*", "*", "x?", "[x]", "x\\", "%", "..", " ")
    caches = {name: root.namespace(name) for name in names}
    fill(caches)
    assert held(caches) == set(names)

    for number, name in enumerate(names, start=1):
        assert world.call(root, "invalidate", namespace=name).removed == {"redis": REQUESTS, "mongodb": REQUESTS}
        assert held(caches) == set(names[number:])
    root.close()


def test_what_is_foreign_under_a_key_of_ours_is_a_miss(redis_url: str, world: World) -> None:
    """Of another type, too: no call fails, and the answer takes its place."""
    requests = {ask("list"): ("rpush", "foreign"), ask("hash"): ("hset", "foreign", "1"), ask("text"): ("set", b"foreign")}
    with redis.Redis.from_url(redis_url) as client, TieredCache("memory://", f"{redis_url}#timeout=2s", namespace="a") as cache:
        for request, (command, *values) in requests.items():
            getattr(client, command)(cache.key(request), *values)

            assert world.call(cache, "get", request) is None
            assert world.call(cache, "get_or_compute", request, world.compute()).value == b"value"

        with TieredCache(f"{redis_url}#timeout=2s", namespace="a") as other:
            assert len(world.call(other, "get_many", requests)) == len(requests)
            assert world.call(other, "clear").removed == {"redis": len(requests)}
