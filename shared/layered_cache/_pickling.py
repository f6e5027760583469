"""Pickling of caches: a cache is rebuilt in the other process from its URLs.

    pickle.loads(pickle.dumps(TieredCache("memory://", "redis://host/0")))      the same tiers and policy, new connections

All caches of one recipe in a process share one engine, as long as one of them is in use. Observers
and the clock are not transferred, and memory starts empty. A recipe contains the URLs with their
passwords, so the sender must protect it.
"""

from __future__ import annotations

import operator
import sys
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from layered_cache.errors import ConfigurationError
from layered_cache.keys.key_rules import KeyRules
from layered_cache.policy import Policy
from layered_cache.tiers._open import Origin, open_tier, origin_of
from layered_cache.tiers.base import Tier

if TYPE_CHECKING:
    from layered_cache.cache import TieredCache


class Recipe(NamedTuple):
    """The data that is needed to rebuild a cache."""

    tiers: tuple[Origin, ...]
    policy: Policy


_made: weakref.WeakValueDictionary[Recipe, TieredCache] = weakref.WeakValueDictionary()


def recipe_of(tiers: Sequence[Tier], policy: Policy) -> Recipe:
    """Return the recipe of a cache with *tiers*.

    Raises:
        ConfigurationError: If a tier was not created from a URL, or if the policy contains a
            function that cannot be pickled.
    """
    origins = [origin_of(tier) for tier in tiers]
    if unknown := [tier.name for tier, origin in zip(tiers, origins, strict=True) if origin is None]:
        msg = (
            f"a cache cannot be pickled if a tier is not created from a URL, got the tier object {unknown[0]!r}. "
            "Pass the tier as a URL: TieredCache('memory://', 'redis://host/0')"
        )
        raise ConfigurationError(msg)
    if policy.cacheable is not None and not _can_be_named(policy.cacheable):
        msg = "a cache can be pickled only if Policy.cacheable can be imported by name. Define the function at the top level of a module"
        raise ConfigurationError(msg)
    return Recipe(tuple(origin for origin in origins if origin is not None), policy)


def remade(make: Callable[[list[Tier], Policy], TieredCache], recipe: Recipe) -> TieredCache:
    """Return the cache of *recipe*, created by *make* at the first call."""
    if (cache := _made.get(recipe)) is None:
        # No lock is used: if two are created at once, one is discarded. It has used no tier.
        cache = _made.setdefault(recipe, make([open_tier(url, dict(more)) for url, more in recipe.tiers], recipe.policy))
    return cache


def forget(cache: TieredCache) -> None:
    """Remove *cache*, which is being closed, so that its recipe creates a new cache."""
    for recipe, made in list(_made.items()):
        if made is cache:
            _made.pop(recipe, None)


def checked_rules(rules: KeyRules) -> KeyRules:
    """Return *rules* if they can be pickled.

    Raises:
        ConfigurationError: If they contain a function that cannot be imported by name.
    """
    setting = rules.normalize
    if setting is not None and callable(setting.how) and not _can_be_named(setting.how):
        msg = "a cache can be pickled only if its normalize can be imported by name. Define the function at the top level of a module"
        raise ConfigurationError(msg)
    return rules


def _can_be_named(function: object) -> bool:
    try:
        module = sys.modules[getattr(function, "__module__", "")]
        return operator.attrgetter(getattr(function, "__qualname__", ""))(module) is function
    except (KeyError, AttributeError):
        return False
