"""What adapters share: whose engine it is, how much is asked of it at once, and who has to begin anew after a fork."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

from layered_cache._forks import restart_in_child
from layered_cache.cache import TieredCache
from layered_cache.errors import ConfigurationError
from layered_cache.key_rules import NO_RULES, KeyRules, NormalizeOption, key_rules
from layered_cache.units import Duration, seconds

__all__ = ["batches", "engine_of", "restart_in_child", "rules_of", "seconds_of"]

T = TypeVar("T")

_BATCH = 250  # values: a few megabytes of vectors, which a tier can send within its budget; what takes longer counts as absent


def engine_of(cache: object) -> TieredCache:
    """Return the engine of *cache* without its `normalize`: adapters have their own rules for keys.

    Raises:
        ConfigurationError: It is neither a `TieredCache` nor an adapter of one, which has it as its `engine`.
    """
    engine = getattr(cache, "engine", cache)
    if not isinstance(engine, TieredCache):
        msg = f"cache must be a TieredCache or a LayeredCache, not a {type(cache).__qualname__}"
        raise ConfigurationError(msg)
    return engine.exact


def rules_of(cache: object, ignore: str | Iterable[str] | None, normalize: NormalizeOption) -> KeyRules:
    """Return the rules for keys of an adapter over *cache* that was given these options. None: as those of *cache*.

    Raises:
        ConfigurationError: An option is not allowed.
    """
    return key_rules(ignore, normalize, getattr(cache, "key_rules", NO_RULES))


def seconds_of(ttl: Duration | None) -> float | None:
    """Return *ttl*, which may be a text such as `"30d"`, in seconds.

    Raises:
        ConfigurationError: It is no duration.
    """
    return None if ttl is None else seconds(ttl, "ttl")


def batches(items: Iterable[T]) -> Iterator[list[T]]:
    """Yield *items*, each once, in lists that a tier can take at once; none if there are none."""
    left = iter(dict.fromkeys(items))
    while batch := list(islice(left, _BATCH)):
        yield batch
