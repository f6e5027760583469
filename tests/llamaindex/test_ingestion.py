"""Ingestion over `LayeredKVStore`: pipelines in one process and in several, on real servers, and while these are down."""

from __future__ import annotations

import asyncio
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from layered_cache import Event, TieredCache
from layered_cache.testing import FakeAuthority
from llama_index.core import Document
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.ingestion import DocstoreStrategy, IngestionCache, IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import BaseNode, TransformComponent
from llama_index.core.storage.docstore.keyval_docstore import KVDocumentStore
from llama_index.core.vector_stores import SimpleVectorStore
from support.sync_async import World, settled

from llamaindex_layered_cache.embeddings import cached_embedding
from llamaindex_layered_cache.kvstore import LayeredKVStore


class Noting(TransformComponent):
    """Notes its calls in a file: other processes do as well."""

    file: str

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        note(self.file, "transform")
        for node in nodes:
            node.metadata["noted"] = True
        return nodes


class Model(BaseEmbedding):
    """An embedding model that notes its calls."""

    model_name: str = "noting"
    file: str

    def _get_text_embedding(self, text: str) -> list[float]:
        note(self.file, "embed")
        return [float(len(text))] * 8

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)


def note(file: str, what: str) -> None:
    with open(file, "a", encoding="utf-8") as notes:  # noqa: PTH123 - appended at once
        notes.write(f"{what} {os.getpid()}\n")


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """Where calls are noted."""
    file = tmp_path / "notes"
    file.touch()
    return file


def noted(notes: Path) -> list[str]:
    """Return what was called, and forget it."""
    lines = [line.split()[0] for line in notes.read_text().splitlines()]
    notes.write_text("")
    return sorted(lines)


@pytest.fixture
def on_servers(redis_url: str, mongodb_url: str) -> Iterator[Callable[[], TieredCache]]:
    """Makes caches in memory, Redis and MongoDB, slow only where the machine is."""
    made: list[TieredCache] = []

    def make() -> TieredCache:
        made.append(TieredCache("memory://", f"{redis_url}#timeout=2s", f"{mongodb_url}#timeout=2s"))
        return made[-1]

    yield make
    for cache in made:
        cache.close()


def documents(count: int = 4) -> list[Document]:
    return [Document(text=f"This is document number {number}. " * 10, id_=f"d{number}") for number in range(count)]


def run(world: World, pipeline: IngestionPipeline, **given: Any) -> list[BaseNode]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*num_workers.*")  # a machine may have one processor
        warnings.filterwarnings("ignore", message=".*fork.*", category=DeprecationWarning)
        return list(world.call(pipeline, "run", documents=documents(), **given))


def told(nodes: Sequence[BaseNode]) -> list[tuple[str, Any]]:
    return sorted((node.get_content(), node.embedding) for node in nodes)


def test_a_pipeline_runs_once(world: World, on_servers: Callable[[], TieredCache], notes: Path) -> None:
    """The second run, with nothing in memory, has all from the stores; a cleared cache has nothing."""
    results: list[Any] = []
    for calls in (["embed"] * 4 + ["transform"], []):
        cache = IngestionCache(cache=LayeredKVStore(on_servers()))
        transformations = [SentenceSplitter(), Noting(file=str(notes)), Model(file=str(notes))]
        nodes = run(world, IngestionPipeline(transformations=transformations, cache=cache))
        assert noted(notes) == calls
        results.append(told(nodes))
        assert all(node.metadata["noted"] for node in nodes)
    assert results[0] == results[1]

    cache.clear()
    assert cache.cache.get_all(cache.collection) == {}
    run(world, IngestionPipeline(transformations=transformations, cache=cache))
    assert noted(notes) == ["embed"] * 4 + ["transform"]


@pytest.mark.slow
def test_worker_processes_share_it(world: World, on_servers: Callable[[], TieredCache], notes: Path) -> None:
    """Each makes it again from its URLs; the second run asks nothing, and a model in it has its vectors of the first."""
    first: list[Any] = []
    for calls in (["embed"] * 4 + ["transform"] * 2, []):
        tiers = on_servers()
        model = cached_embedding(Model(file=str(notes)), tiers)
        transformations = [Noting(file=str(notes)), model]
        cache = IngestionCache(cache=LayeredKVStore(tiers))
        nodes = run(world, IngestionPipeline(transformations=transformations, cache=cache), num_workers=2)
        assert noted(notes) == calls
        first = first or told(nodes)
        assert told(nodes) == first

    tiers = on_servers()
    transformations = [Noting(file=str(notes)), cached_embedding(Model(file=str(notes)), tiers)]
    nodes = run(world, IngestionPipeline(transformations=transformations, disable_cache=True), num_workers=2)
    assert noted(notes) == ["transform"] * 2
    assert told(nodes) == first


def test_stores_that_are_down_fail_no_run(world: World, notes: Path) -> None:
    """It goes as without a cache."""
    tier = FakeAuthority()
    tier.broken = tier.log_is_broken = True
    cache = IngestionCache(cache=LayeredKVStore(TieredCache(tier)))
    nodes = run(world, IngestionPipeline(transformations=[SentenceSplitter(), Model(file=str(notes))], cache=cache))
    assert noted(notes) == ["embed"] * 4
    assert len(nodes) == 4


@pytest.mark.slow
@pytest.mark.parametrize("workers", [None, 2])
def test_servers_that_are_down_fail_no_run(world: World, notes: Path, workers: int | None) -> None:
    """In worker processes neither; the models in it do without as well."""
    tiers = TieredCache("memory://", "redis://127.0.0.1:1/0", "mongodb://127.0.0.1:1/llm")
    cache = IngestionCache(cache=LayeredKVStore(tiers))
    transformations = [cached_embedding(Model(file=str(notes)), tiers)]
    nodes = run(world, IngestionPipeline(transformations=transformations, cache=cache), num_workers=workers)
    assert noted(notes) == ["embed"] * 4
    assert len(nodes) == 4
    tiers.close()


def test_a_document_store_tells_what_is_new(world: World, db: str, notes: Path) -> None:
    """Across runs: what is known is skipped, what has changed is taken in again, what is gone is removed."""
    with TieredCache(db) as tiers:
        docstore = KVDocumentStore(LayeredKVStore(tiers, namespace="documents", ttl=float("inf")))
        pipeline = IngestionPipeline(
            transformations=[SentenceSplitter(), Model(file=str(notes))],
            docstore=docstore,
            vector_store=SimpleVectorStore(),
            docstore_strategy=DocstoreStrategy.UPSERTS_AND_DELETE,
            disable_cache=True,
        )
        assert [len(run(world, pipeline)) for _ in range(2)] == [4, 0]
        assert len(noted(notes)) == 4
        changed = [Document(text="changed", id_="d0"), *documents()[1:3]]

        assert [node.get_content() for node in world.call(pipeline, "run", documents=changed)] == ["changed"]
        assert set(docstore.get_all_document_hashes().values()) == {"d0", "d1", "d2"}


@pytest.mark.slow
def test_clearing_a_thousand_entries(world: World, on_servers: Callable[[], TieredCache]) -> None:
    """Removes each of them, for other processes too."""
    here, there = (LayeredKVStore(on_servers()) for _ in range(2))
    here.put_all([(str(number), {"nodes": []}) for number in range(1000)], "llama_cache")
    here.put("k", {"other": 1}, "other")
    settled(here.engine)
    assert there.get("7", "llama_cache") == {"nodes": []}

    IngestionCache(cache=here).clear()

    assert here.get_all("llama_cache") == {}
    assert here.get("k", "other") == {"other": 1}
    fresh = LayeredKVStore(on_servers())
    assert fresh.get_all("llama_cache") == {}
    assert fresh.get("7", "llama_cache") is None


def test_an_embeddings_cache(world: World, on_servers: Callable[[], TieredCache], notes: Path) -> None:
    """Of LlamaIndex's own kind, over our store."""
    vectors: list[Any] = []
    for calls in (["embed"] * 2, []):
        model = Model(file=str(notes), embeddings_cache=LayeredKVStore(on_servers()))
        vectors.append((world.call(model, "get_text_embedding_batch", ["a", "bb"]), world.call(model, "get_query_embedding", "a")))
        assert noted(notes) == calls
    assert vectors[0] == vectors[1]


def test_a_loop_that_runs_is_not_in_the_way(on_servers: Callable[[], TieredCache], notes: Path) -> None:
    """Pipelines ask the ingestion cache in the loop's own thread, without waiting for it: several at once, in one loop after the other."""
    store = LayeredKVStore(on_servers())

    async def main() -> list[Any]:
        pipelines = [
            IngestionPipeline(transformations=[SentenceSplitter(), Model(file=str(notes))], cache=IngestionCache(cache=store))
            for _ in range(3)
        ]
        return await asyncio.gather(*(pipeline.arun(documents=documents()) for pipeline in pipelines))

    first = [told(nodes) for nodes in asyncio.run(main())]
    noted(notes)
    assert [told(nodes) for nodes in asyncio.run(main())] == first
    assert noted(notes) == []


def test_events_tell_of_hits(notes: Path, events: list[Event]) -> None:
    """As of any other use of the cache."""
    cache = TieredCache("memory://", observers=[events.append])
    for _ in range(2):
        pipeline = IngestionPipeline(transformations=[SentenceSplitter()], cache=IngestionCache(cache=LayeredKVStore(cache)))
        pipeline.run(documents=documents())
    assert {(event.kind, event.namespace) for event in events} == {(kind, "default/kv/llama_cache") for kind in ("miss", "stored", "hit")}
    assert cache.stats().hits == 1
