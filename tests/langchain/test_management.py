"""Removal and listing by `LayeredCache` itself."""

from __future__ import annotations

from langchain_core.language_models import FakeListChatModel
from langchain_core.outputs import Generation

from langchain_layered_cache import LayeredCache, cached


def asked(cache: LayeredCache) -> FakeListChatModel:
    model = cached(FakeListChatModel(responses=["one", "two", "three"]), cache)
    assert model.invoke("first question").content == "one"
    assert model.invoke("second question").content == "two"
    return model


def test_delete_removes_the_entry_of_a_key_only() -> None:
    with LayeredCache("memory://", mark_hits=True) as cache:
        model = asked(cache)
        key = model.invoke("first question").response_metadata["layered_cache"]["key"]
        receipt = cache.delete(key)
        assert receipt.removed == {"memory": 1}
        assert model.invoke("first question").content == "three"
        assert model.invoke("second question").content == "two"


async def test_adelete_removes_the_entry_of_a_key() -> None:
    async with LayeredCache("memory://") as cache:
        await cache.aupdate("p", "llm", [Generation(text="x")])
        key = cache.key("p", "llm")
        assert key is not None
        await cache.adelete(key)
        assert await cache.alookup("p", "llm") is None


async def test_entries_yields_each_entry_once() -> None:
    with LayeredCache("memory://") as cache:
        asked(cache)
        keys = {entry.key for entry in cache.entries()}
        assert len(keys) == 2
        assert {entry.key async for entry in cache.aentries()} == keys
