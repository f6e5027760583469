"""layered-cache: answers of language models, kept in tiers.

    request -> key          what is equal has one key (`keys`)
    memory -> sqlite ...    tiers, fastest first (`tiers`); a failing one counts as empty
    entry                   an answer with its clocks, tags and facts (`entry`), in a versioned envelope (`wire`)
    rule                    what is void, in one log for all processes (`invalidation`)

`TieredCache` puts them together. It knows no framework: `langchain_layered_cache` does. Importing this package loads no third-party
module; clients are imported by the tiers that need them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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
from layered_cache.key_rules import Normalize
from layered_cache.options import CallOptions, cache_options, current_options
from layered_cache.policy import Policy
from layered_cache.receipt import Receipt
from layered_cache.stats import Stats
from layered_cache.tiers._tier import Tier

if TYPE_CHECKING:
    from layered_cache.tiers._threaded import ThreadedTier
    from layered_cache.tiers.memory import MemoryTier
    from layered_cache.tiers.mongodb import MongoTier
    from layered_cache.tiers.null import NullTier
    from layered_cache.tiers.redis import RedisTier
    from layered_cache.tiers.sqlite import SQLiteTier

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
    "MemoryTier": "memory",
    "MongoTier": "mongodb",
    "NullTier": "null",
    "RedisTier": "redis",
    "SQLiteTier": "sqlite",
    "ThreadedTier": "_threaded",
}


def __getattr__(name: str) -> object:
    import importlib  # noqa: PLC0415

    if name in _ON_FIRST_USE:
        return getattr(importlib.import_module(f"layered_cache.tiers.{_ON_FIRST_USE[name]}"), name)
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("layered-cache")
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
