"""Helpers for adapters: the engine of a cache, key rules, batches, and restart after a fork."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

from layered_cache._util.daemon_threads import Workers
from layered_cache._util.durations import Duration, seconds
from layered_cache._util.fork_safety import restart_in_child
from layered_cache._util.lazy_attributes import attribute
from layered_cache.cache import TieredCache
from layered_cache.errors import ConfigurationError
from layered_cache.keys.key_rules import NO_RULES, KeyRules, NormalizeOption, key_rules

# also the helpers of `layered_cache._util` that adapters need
__all__ = [
    "Duration",
    "Workers",
    "attribute",
    "batches",
    "engine_of",
    "restart_in_child",
    "rules_of",
    "seconds",
    "seconds_of",
]

T = TypeVar("T")

# values per batch: a few megabytes of vectors, which a tier can send within its timeout
_BATCH = 250


def engine_of(cache: object) -> TieredCache:
    """Return the engine of *cache* without its `normalize`: adapters have separate key rules.

    Raises:
        ConfigurationError: If *cache* is neither a `TieredCache` nor an adapter with an `engine`.
    """
    engine = getattr(cache, "engine", cache)
    if not isinstance(engine, TieredCache):
        msg = f"cache must be a TieredCache or a LayeredCache, got a {type(cache).__qualname__}"
        raise ConfigurationError(msg)
    return engine.exact


def rules_of(cache: object, ignore: str | Iterable[str] | None, normalize: NormalizeOption) -> KeyRules:
    """Return the key rules of an adapter with these options. None: the rules of *cache*.

    Raises:
        ConfigurationError: If an option is invalid.
    """
    return key_rules(ignore, normalize, getattr(cache, "key_rules", NO_RULES))


def seconds_of(ttl: Duration | None) -> float | None:
    """Return *ttl* in seconds. It may be a text such as `"30d"`.

    Raises:
        ConfigurationError: If it is not a duration.
    """
    return None if ttl is None else seconds(ttl, "ttl")


def batches(items: Iterable[T]) -> Iterator[list[T]]:
    """Yield *items* without duplicates, in lists that a tier can handle in one call."""
    left = iter(dict.fromkeys(items))
    while batch := list(islice(left, _BATCH)):
        yield batch
