"""The LlamaIndex adapter of layered-cache.

`cached(llm, cache)` returns an LLM that uses the cache, and `cached(embed_model, cache)` an embedding model.
`configure(cache)` does so for the models of `Settings`. `LayeredKVStore` is a key-value store over tiers, for ingestion.
Each name is imported at its first use. The engine, `layered_cache`, decides on tiers, expiry and invalidation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llamaindex_layered_cache.cached_llm import cached, uncached
    from llamaindex_layered_cache.embeddings import CachedEmbedding
    from llamaindex_layered_cache.kvstore import LayeredKVStore
    from llamaindex_layered_cache.settings import Configured, configure

__all__ = ["CachedEmbedding", "Configured", "LayeredKVStore", "cached", "configure", "uncached"]

_ON_FIRST_USE = {
    "CachedEmbedding": ".embeddings",
    "Configured": ".settings",
    "LayeredKVStore": ".kvstore",
    "cached": ".cached_llm",
    "configure": ".settings",
    "uncached": ".cached_llm",
}


def __getattr__(name: str) -> object:
    from layered_cache.adapters.common import attribute  # noqa: PLC0415 - the import of this package loads no other module

    return attribute(__name__, name, _ON_FIRST_USE)
