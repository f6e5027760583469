"""layered-cache: a tiered cache for answers of language models.

    request -> key          equal requests have equal keys (`keys`)
    memory -> sqlite ...    tiers, fastest first (`tiers`); a failing tier counts as empty
    entry                   an answer with times, tags and facts (`entry`), in a versioned envelope (`_storage.envelope`)
    rule                    an invalidation, in one log for all processes (`_storage.rules`)

`TieredCache` combines them. It depends on no framework: `langchain_layered_cache` and
`llamaindex_layered_cache` are its adapters. Importing this package loads no third-party module. The
tiers import their client libraries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from layered_cache._util.lazy_attributes import attribute
from layered_cache.cache import TieredCache
from layered_cache.entry import Answer, Entry, Refused, Request, Ticket, Usage
from layered_cache.errors import (
    CacheError,
    CacheMiss,
    ConfigurationError,
    DeletionError,
    EncodeError,
    MissingClientError,
    TenantRequiredError,
    TierError,
    TierTimeoutError,
    TierUnavailableError,
    UncacheableRequestError,
)
from layered_cache.events import Event, Observer
from layered_cache.keys.key_rules import Normalize
from layered_cache.options import CallOptions, cache_options, current_options
from layered_cache.policy import Policy
from layered_cache.receipt import Receipt
from layered_cache.stats import Stats
from layered_cache.tiers.base import Tier

if TYPE_CHECKING:
    from layered_cache.tiers.memory import MemoryTier
    from layered_cache.tiers.mongodb import MongoTier
    from layered_cache.tiers.null import NullTier
    from layered_cache.tiers.redis import RedisTier
    from layered_cache.tiers.sqlite import SQLiteTier
    from layered_cache.tiers.threaded import ThreadedTier

__all__ = [
    "Answer",
    "CacheError",
    "CacheMiss",
    "CallOptions",
    "ConfigurationError",
    "DeletionError",
    "EncodeError",
    "Entry",
    "Event",
    "MemoryTier",
    "MissingClientError",
    "MongoTier",
    "Normalize",
    "NullTier",
    "Observer",
    "Policy",
    "Receipt",
    "RedisTier",
    "Refused",
    "Request",
    "SQLiteTier",
    "Stats",
    "TenantRequiredError",
    "ThreadedTier",
    "Ticket",
    "Tier",
    "TierError",
    "TierTimeoutError",
    "TierUnavailableError",
    "TieredCache",
    "UncacheableRequestError",
    "Usage",
    "cache_options",
    "current_options",
]

_ON_FIRST_USE = {
    "MemoryTier": ".tiers.memory",
    "MongoTier": ".tiers.mongodb",
    "NullTier": ".tiers.null",
    "RedisTier": ".tiers.redis",
    "SQLiteTier": ".tiers.sqlite",
    "ThreadedTier": ".tiers.threaded",
}

# names that users may look for here first
_ELSEWHERE = {
    "CachedEmbedding": "llamaindex_layered_cache",
    "CachedEmbeddings": "langchain_layered_cache",
    "LangGraphCache": "langchain_layered_cache",
    "LayeredByteStore": "langchain_layered_cache",
    "LayeredCache": "langchain_layered_cache",
    "LayeredCacheMiddleware": "langchain_layered_cache",
    "LayeredKVStore": "llamaindex_layered_cache",
    "cached": "langchain_layered_cache (or llamaindex_layered_cache)",
    "configure": "llamaindex_layered_cache",
}


def __getattr__(name: str) -> object:
    if name in _ELSEWHERE:
        msg = f"{name} is not in layered_cache. Use: from {_ELSEWHERE[name]} import {name}"
        raise ImportError(msg)
    return attribute(__name__, name, _ON_FIRST_USE)
