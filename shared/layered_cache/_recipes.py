"""How a cache gets into another process: by what it was made from, to be made again there.

    pickle.loads(pickle.dumps(TieredCache("memory://", "redis://host/0")))      the same tiers and policy, connections of its own

All that arrive of one recipe in a process are handles of one engine, as long as one of them is in use. Observers and the clock stay
behind; memory begins empty. A recipe holds URLs as they were given, with their passwords: where it travels is for its sender to say.
"""

from __future__ import annotations

import operator
import sys
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from layered_cache.errors import ConfigurationError
from layered_cache.key_rules import KeyRules
from layered_cache.policy import Policy
from layered_cache.tiers._registry import Origin, open_tier, origin_of
from layered_cache.tiers._tier import Tier

if TYPE_CHECKING:
    from layered_cache.cache import TieredCache


class Recipe(NamedTuple):
    """What a cache can be made again from."""

    tiers: tuple[Origin, ...]
    policy: Policy


_made: weakref.WeakValueDictionary[Recipe, TieredCache] = weakref.WeakValueDictionary()


def recipe_of(tiers: Sequence[Tier], policy: Policy) -> Recipe:
    """Return the recipe of a cache of *tiers*.

    Raises:
        ConfigurationError: A tier was not made from a URL, or the policy holds a function that cannot be named.
    """
    origins = [origin_of(tier) for tier in tiers]
    if unknown := [tier.name for tier, origin in zip(tiers, origins, strict=True) if origin is None]:
        msg = (
            f"a cache can be sent to another process if it can be made again there, and its tier {unknown[0]!r} cannot: "
            "give the tier as a URL, TieredCache('memory://', 'redis://host/0')"
        )
        raise ConfigurationError(msg)
    if policy.cacheable is not None and not _can_be_named(policy.cacheable):
        msg = (
            "a cache can be sent to another process if it can be made again there, and Policy.cacheable cannot: "
            "let it be a function at the top of a module"
        )
        raise ConfigurationError(msg)
    return Recipe(tuple(origin for origin in origins if origin is not None), policy)


def remade(make: Callable[[list[Tier], Policy], TieredCache], recipe: Recipe) -> TieredCache:
    """Return what *make* makes of *recipe*, or has made."""
    if (cache := _made.get(recipe)) is None:
        # without a lock: of two that come at once one is for nothing, which has touched no tier
        cache = _made.setdefault(recipe, make([open_tier(url, dict(more)) for url, more in recipe.tiers], recipe.policy))
    return cache


def forget(cache: TieredCache) -> None:
    """Have what arrives from now on made anew: *cache* is being closed."""
    for recipe, made in list(_made.items()):
        if made is cache:
            _made.pop(recipe, None)


def checked_rules(rules: KeyRules) -> KeyRules:
    """Return *rules* if they can be pickled.

    Raises:
        ConfigurationError: They hold a function that cannot be named.
    """
    setting = rules.normalize
    if setting is not None and callable(setting.how) and not _can_be_named(setting.how):
        msg = (
            "a cache can be sent to another process if it can be made again there, and its normalize cannot: "
            "let it be a function at the top of a module"
        )
        raise ConfigurationError(msg)
    return rules


def _can_be_named(function: object) -> bool:
    try:
        module = sys.modules[getattr(function, "__module__", "")]
        return operator.attrgetter(getattr(function, "__qualname__", ""))(module) is function
    except (KeyError, AttributeError):
        return False
