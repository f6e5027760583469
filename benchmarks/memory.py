"""A hit in memory (G1, G2): through LangChain's methods, with new objects for every caller; what of it is the engine's (G15)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from langchain_core.caches import BaseCache, InMemoryCache

from benchmarks import _peers as peers
from benchmarks._bench import Bench
from benchmarks._line import Line
from benchmarks._payloads import KINDS, Kind, answer, copies, llm_string, prompt, unlike
from benchmarks._race import NotMeasuredError
from langchain_layered_cache import LayeredCache
from langchain_layered_cache._generation_codec import decode, encode

RULES = 10_000
PROMPT, LLM = prompt(), llm_string()


def holding(cache: BaseCache, kind: Kind = "chat") -> BaseCache:
    """Return *cache* with an answer in it."""
    cache.update(PROMPT, LLM, answer(kind))
    if not cache.lookup(PROMPT, LLM):
        msg = "it does not hold what it was given"
        raise NotMeasuredError(msg)
    return cache


def measure(bench: Bench) -> Iterator[Line]:
    """Yield the lines of this theme."""
    for kind in KINDS:
        yield from _blocking(bench, kind)
    yield from _asynchronous(bench)
    yield from _engine(bench)
    yield from _rules(bench)


def _blocking(bench: Bench, kind: Kind) -> Iterator[Line]:
    ours = bench.cache("memory://")
    seen = copies(PROMPT, LLM)
    race = bench.race()
    race.enter("LayeredCache", lambda: holding(ours, kind).lookup, seen)
    race.enter("first time", lambda: LayeredCache(cache=ours.engine).lookup, _never_seen(ours, kind))
    race.enter("RedisCache", lambda: holding(peers.redis_cache(bench.redis_port), kind).lookup, seen)
    race.enter("DualCache", lambda: holding(peers.DualCache(), kind).lookup, seen)
    race.enter("InMemoryCache", lambda: holding(InMemoryCache(), kind).lookup, seen)
    race.run()
    what = f"memory hit, {kind}"
    yield race.compare("G1", f"{what} / community RedisCache", "LayeredCache", "RedisCache", "<= 0.06x")
    yield race.compare("G1", f"{what} / LiteLLM DualCache + dumps", "LayeredCache", "DualCache", "<= 0.12x")
    yield race.compare("G1", f"{what} / InMemoryCache, which shares its objects", "LayeredCache", "InMemoryCache", "<= 10x")
    yield race.compare("G1", f"{what}, texts not seen before / RedisCache", "first time", "RedisCache")


def _never_seen(cache: LayeredCache, kind: Kind) -> Any:  # noqa: ANN401 - of `_race.Inputs`
    """Return inputs that *cache* holds, put there through another adapter than the one that will be asked."""

    def inputs(count: int) -> Sequence[tuple[str, str]]:
        prompts = [unlike(PROMPT) for _ in range(count)]
        for text in prompts:
            cache.update(text, LLM, answers)
        return [(text, LLM) for text in prompts]

    answers = answer(kind)
    return inputs


def _asynchronous(bench: Bench) -> Iterator[Line]:
    ours = holding(bench.cache("memory://"))
    seen = copies(PROMPT, LLM)
    race = bench.race()
    race.enter("alookup", lambda: ours.alookup, seen)
    race.enter("lookup", lambda: ours.lookup, seen)
    race.enter("AsyncRedisCache", lambda: _holding_in_redis(bench), seen)
    race.enter("DualCache", lambda: holding(peers.DualCache()).alookup, seen)
    race.run()
    yield race.compare("G2", "asynchronous memory hit / blocking one", "alookup", "lookup", "<= 1.15x")
    yield race.compare("G2", "asynchronous memory hit / community AsyncRedisCache", "alookup", "AsyncRedisCache", "<= 0.04x")
    yield race.compare("G2", "asynchronous memory hit / LiteLLM DualCache + dumps", "alookup", "DualCache")


def _holding_in_redis(bench: Bench) -> Any:  # noqa: ANN401 - a method of a peer
    holding(peers.redis_cache(bench.redis_port))
    return peers.async_redis_cache(bench.redis_port).alookup


def _engine(bench: Bench) -> Iterator[Line]:
    """What the engine adds to the least that could be done: to find bytes by a key, and to decode them."""
    cache = bench.cache("memory://")
    held = {cache.key(PROMPT, LLM): encode(answer())}
    key = str(*held)
    holding(cache)
    peek, get = cache.engine.peek, held.get
    race = bench.race()
    race.enter("peek", lambda: lambda: decode(peek(key) or b""))
    race.enter("dict", lambda: lambda: decode(get(key) or b""))
    race.enter("lookup", lambda: cache.lookup, copies(PROMPT, LLM))
    race.run()
    yield race.added("G15", "the engine, on a memory hit: more than dict.get + decode", "peek", "dict", "<= 0.3 us")
    yield race.added("G15", "the adapter, on a memory hit: more than the engine + decode", "lookup", "peek")


def _rules(bench: Bench) -> Iterator[Line]:
    """Many invalidations must not slow down a hit at a view of them that it was checked at."""
    none, many = bench.cache("memory://"), bench.cache("memory://")
    for number in range(min(RULES, bench.some(5 * RULES))):
        many.invalidate(tag=f"tag {number}")
    race = bench.race()
    race.enter("many", lambda: holding(many).lookup, copies(PROMPT, LLM))
    race.enter("none", lambda: holding(none).lookup, copies(PROMPT, LLM))
    race.run()
    yield race.compare("G15", "memory hit with 10,000 live invalidation rules / with none", "many", "none", "<= 1.05x")
