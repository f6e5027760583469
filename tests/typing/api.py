"""The typed API, as people use it. Not run: read by mypy and basedpyright."""

from __future__ import annotations

from datetime import timedelta
from typing import assert_type

from langchain_core.caches import BaseCache
from langchain_core.outputs import Generation
from layered_cache import Answer, Entry, Event, MemoryTier, Policy, Receipt, Request, Stats, Ticket, Tier, TieredCache, Usage

from langchain_layered_cache import LayeredCache


def observe(event: Event) -> None:
    assert_type(event.saved_usd, float | None)


policy = Policy(keep_for=timedelta(days=1), fresh_for=3600, write="behind")
tier: Tier = MemoryTier(max_bytes=2**20)
cache = TieredCache(tier, "sqlite:///answers.db", namespace="app", policy=policy, observers=[observe])
request = Request([{"role": "user", "content": "hi"}], model="m", params={"temperature": 0})

assert_type(cache.get(request), Entry | None)
assert_type(cache.get_many([request]), dict[Request, Entry])
assert_type(cache.set(request, Answer(value=b"x", usage=Usage(1, 2)), tags=["a"]), Entry | None)
assert_type(cache.get_or_compute(request, lambda: b"x"), Entry)
assert_type(cache.get_or_compute(request, lambda: Answer(value=b"x")), Entry)
assert_type(cache.invalidate(tag="a"), Receipt)
assert_type(cache.stats(), Stats)
assert_type(cache.ticket(), Ticket)
assert_type(cache.namespace("tenant"), TieredCache)


async def use() -> None:
    async def compute() -> bytes:
        return b"x"

    assert_type(await cache.aget(request), Entry | None)
    assert_type(await cache.aget_or_compute(request, compute), Entry)
    async with cache:
        assert_type(await cache.aclear(children=True), Receipt)


adapter: BaseCache = LayeredCache("memory://", tier, policy=policy)
layered = LayeredCache(cache=cache)
assert_type(layered.engine, TieredCache)
assert_type(layered.lookup("p", "m"), list[Generation] | None)

# what must not pass
cache.set(request, "text")  # type: ignore[arg-type]
Policy(write="sometimes")  # type: ignore[arg-type]
TieredCache(42)  # type: ignore[arg-type]
