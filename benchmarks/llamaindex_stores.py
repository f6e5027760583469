"""LlamaIndex's embeddings and key-value pairs on Redis, beside LlamaIndex's own `RedisKVStore`."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from layered_cache import TieredCache
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.schema import TextNode

from benchmarks import _peers as peers
from benchmarks._bench import Bench
from benchmarks._line import Line
from benchmarks._race import NotMeasuredError
from llamaindex_layered_cache import LayeredKVStore, cached

TEXTS = 100
PAIRS = 1_000
NUMBERS = 1_536
_PATIENT = "timeout=5s"  # a machine that others keep busy shall not turn hits into misses

Pairs = list[tuple[str, dict[str, Any]]]


class Model(BaseEmbedding):
    """A model that costs nothing: its vectors are float32, as those of OpenAI are."""

    model_name: str = "free"

    def _get_text_embedding(self, text: str) -> list[float]:
        numbers = random.Random(text)
        return list(struct.unpack(f"{NUMBERS}f", struct.pack(f"{NUMBERS}f", *(numbers.uniform(-1, 1) for _ in range(NUMBERS)))))

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


def measure(bench: Bench) -> Iterator[Line]:
    """Yield the lines of this theme."""
    try:
        url = f"redis://127.0.0.1:{bench.redis_port}#{_PATIENT}"
    except NotMeasuredError as error:
        yield Line("", "LlamaIndex's embeddings on Redis", reason=str(error))
        return
    with TieredCache(url) as cache:
        yield from _embeddings(bench, cache)
        yield from _pairs(bench, cache)


def _embeddings(bench: Bench, cache: TieredCache) -> Iterator[Line]:
    texts = [f"This is the text number {number}, of some length." for number in range(TEXTS)]
    race = bench.race()
    race.enter(f"{TEXTS} texts", lambda: _filled(cached(Model(embed_batch_size=TEXTS), cache), texts), lambda count: [(texts,)] * count)
    race.enter("one text", lambda: _filled(cached(Model(), cache), texts[:1]), lambda count: [(texts[:1],)] * count)
    race.enter(
        "RedisKVStore",
        lambda: _filled(Model(embed_batch_size=TEXTS, embeddings_cache=peers.redis_kvstore(bench.redis_port)), texts),
        lambda count: [(texts,)] * count,
    )
    race.run()
    what = f"cached embeddings of {TEXTS} texts, Redis hits"
    yield race.compare("", f"{what} / of one text", f"{TEXTS} texts", "one text", "<= 3x")
    yield race.compare("", f"{what} / embeddings_cache=RedisKVStore", f"{TEXTS} texts", "RedisKVStore", "<= 0.2x")


def _filled(model: BaseEmbedding, texts: list[str]) -> Callable[[list[str]], object]:
    model.get_text_embedding_batch(texts)
    return model.get_text_embedding_batch


def _pairs(bench: Bench, cache: TieredCache) -> Iterator[Line]:
    count = bench.some(PAIRS, least=2)
    model = Model()
    vector = model.get_text_embedding("a")
    node = {"__data__": TextNode(text="word " * 200).to_dict(), "__type__": TextNode.get_type()}  # as document stores have it
    documents: Pairs = [(f"{number}", node) for number in range(count)]
    vectors: Pairs = [(f"{number}", {"vector": vector}) for number in range(count)]
    for what, pairs in (("documents of 1 KB", documents), (f"vectors of {NUMBERS:,} numbers", vectors)):
        inputs = _the_same(pairs)
        race = bench.race()
        race.enter("LayeredKVStore", lambda: LayeredKVStore(cache).put_all, inputs)
        race.enter("RedisKVStore", lambda: peers.redis_kvstore(bench.redis_port).put_all, inputs)
        race.run()
        yield race.compare("", f"put_all of {PAIRS:,} {what} / RedisKVStore's", "LayeredKVStore", "RedisKVStore", "<= 0.2x")


def _the_same(pairs: Pairs) -> Callable[[int], Sequence[tuple[Any, ...]]]:
    return lambda count: [(pairs,)] * count
