"""The LangChain adapter of layered-cache.

`LayeredCache` is for `set_llm_cache`. The other classes are for the other places where LangChain and LangGraph use a cache:
streams (`cached`), agents, graph nodes, embeddings and byte stores. Each name is imported at its first use. The engine,
`layered_cache`, decides on tiers, expiry and invalidation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from langchain_layered_cache.byte_store import LayeredByteStore
    from langchain_layered_cache.cache import LayeredCache
    from langchain_layered_cache.cached_model import cached, uncached
    from langchain_layered_cache.embeddings import CachedEmbeddings
    from langchain_layered_cache.importers import import_mongodb, import_sqlite
    from langchain_layered_cache.langgraph import LangGraphCache, cache_key
    from langchain_layered_cache.middleware import LayeredCacheMiddleware
    from langchain_layered_cache.usage import UsageCallback, usage_callback

__all__ = [
    "CachedEmbeddings",
    "LangGraphCache",
    "LayeredByteStore",
    "LayeredCache",
    "LayeredCacheMiddleware",
    "UsageCallback",
    "cache_key",
    "cached",
    "import_mongodb",
    "import_sqlite",
    "uncached",
    "usage_callback",
]

_ON_FIRST_USE = {
    "CachedEmbeddings": ".embeddings",
    "LangGraphCache": ".langgraph",
    "LayeredByteStore": ".byte_store",
    "LayeredCache": ".cache",
    "LayeredCacheMiddleware": ".middleware",
    "UsageCallback": ".usage",
    "cache_key": ".langgraph",
    "cached": ".cached_model",
    "import_mongodb": ".importers",
    "import_sqlite": ".importers",
    "uncached": ".cached_model",
    "usage_callback": ".usage",
}


def __getattr__(name: str) -> object:
    from layered_cache.adapters.common import attribute  # noqa: PLC0415 - the import of this package loads no other module

    return attribute(__name__, name, _ON_FIRST_USE)
