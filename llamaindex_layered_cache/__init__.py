"""LlamaIndex on layered-cache.

`cached(llm, cache)` is an LLM, `cached(embed_model, cache)` an embedding model, that is asked through a cache and is otherwise what it was;
`configure(cache)` does so with those of `Settings`. `LayeredKVStore` is a key-value store over tiers, for ingestion.

    _cached      the copy and its class          _wrapped      what the class does otherwise
    _keepers     what a call is, and its key     _questions    messages and arguments as plain data
    _identities  which model it is               _streams      calls that stream
    _asks        calls that do not stream
    _codec       answers to bytes and back       _answers      what is known of an answer

What is kept where, for how long and until when is the engine's, `layered_cache`. Every name is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from layered_cache.lazy import attribute

if TYPE_CHECKING:
    from llamaindex_layered_cache._cached import cached, uncached
    from llamaindex_layered_cache._configure import Configured, configure
    from llamaindex_layered_cache.embeddings import CachedEmbedding
    from llamaindex_layered_cache.kvstore import LayeredKVStore

__all__ = ["CachedEmbedding", "Configured", "LayeredKVStore", "cached", "configure", "uncached"]

_ON_FIRST_USE = {
    "CachedEmbedding": ".embeddings",
    "Configured": "._configure",
    "LayeredKVStore": ".kvstore",
    "cached": "._cached",
    "configure": "._configure",
    "uncached": "._cached",
}


def __getattr__(name: str) -> object:
    return attribute(__name__, name, _ON_FIRST_USE)
