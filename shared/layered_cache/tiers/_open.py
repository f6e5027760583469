"""Opening of tiers from URLs.

The schemes of this package are listed here. A third party registers its scheme as an entry point in
the group `layered_cache.tiers`. Entry points are read only for an unknown scheme, because that
takes longer than opening a tier.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TypeAlias, cast

from layered_cache._storage.redaction import redacted_text
from layered_cache._util.clocks import SYSTEM_CLOCK, Clock
from layered_cache.errors import ConfigurationError
from layered_cache.tiers._url_options import TierOptions
from layered_cache.tiers.base import Tier

GROUP = "layered_cache.tiers"
_OURS = {
    "memory": "layered_cache.tiers.memory:MemoryTier.from_url",
    "mongodb": "layered_cache.tiers.mongodb:MongoTier.from_url",
    "mongodb+srv": "layered_cache.tiers.mongodb:MongoTier.from_url",
    "null": "layered_cache.tiers.null:NullTier.from_url",
    "redis": "layered_cache.tiers.redis:RedisTier.from_url",
    "redis+cluster": "layered_cache.tiers.redis:RedisTier.from_url",
    "redis+sentinel": "layered_cache.tiers.redis:RedisTier.from_url",
    "rediss": "layered_cache.tiers.redis:RedisTier.from_url",
    "sqlite": "layered_cache.tiers.sqlite:SQLiteTier.from_url",
}
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://.*", re.DOTALL)

Factory = Callable[[str, TierOptions], Tier]
Origin: TypeAlias = tuple[str, tuple[tuple[str, object], ...]]
"""The URL of a tier and its further options."""

_origins: weakref.WeakKeyDictionary[Tier, Origin] = weakref.WeakKeyDictionary()


# libraries of clients that users pass in place of a tier, with the class that takes such a client
_FOR_CLIENTS = {
    "redis": "Pass RedisTier(client=...) from layered_cache.tiers.redis",
    "pymongo": "Pass MongoTier(collection=...) from layered_cache.tiers.mongodb",
    "motor": "Pass MongoTier(collection=...) from layered_cache.tiers.mongodb, with a collection of pymongo",
    "sqlite3": "Pass the URL of a file: 'sqlite:///answers.db'",
    "sqlalchemy": "Pass the URL of a file: 'sqlite:///answers.db'",
}


def _is_tier(tier: object) -> bool:
    """Return True if *tier* has the methods and attributes of a tier.

    Their types are checked, because a client of MongoDB has every name: as a database.
    """
    return isinstance(tier, Tier) and isinstance(tier.name, str) and isinstance(tier.timeout, int | float)  # pyright: ignore[reportUnnecessaryIsInstance]


def open_tier(tier: str | Tier, more: Mapping[str, object] | None = None, *, clock: Clock = SYSTEM_CLOCK) -> Tier:
    """Return the tier for a URL, or *tier* itself if it is a tier object. No I/O is done.

    Raises:
        ConfigurationError: If *tier* is neither, or if the scheme, an option or a value is invalid.
        MissingClientError: If a library is not installed. The message names the command to install
            it.
    """
    if not isinstance(tier, str):
        if _is_tier(tier):
            return tier
        kind = type(cast("object", tier))
        instead = _FOR_CLIENTS.get(kind.__module__.partition(".")[0], "Pass a URL such as 'memory://'")
        msg = f"a tier must be a URL or an object with the methods of layered_cache.Tier, got {kind.__qualname__}. {instead}"
        raise ConfigurationError(msg)
    match = _SCHEME.fullmatch(tier)
    if match is None:
        # it may be a misspelt URL with a password
        shown = "the text" if "@" in tier else repr(redacted_text(tier))
        msg = f"{shown} is not the URL of a tier. Use a URL like memory:// or sqlite:///answers.db"
        raise ConfigurationError(msg)
    options = TierOptions(tier, more, clock=clock)
    opened = _factory(match[1])(options.url, options)
    options.finish()
    # tiers of third parties may not support weak references
    with suppress(TypeError):
        _origins[opened] = (tier, tuple(sorted((more or {}).items())))
    return opened


def origin_of(tier: Tier) -> Origin | None:
    """Return the URL and options of *tier*; None if it was not opened by `open_tier`."""
    try:
        return _origins.get(tier)
    except TypeError:
        return None


def _factory(scheme: str) -> Factory:
    if path := _OURS.get(scheme):
        module, _, name = path.partition(":")
        found: object = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        return cast("Factory", found)
    foreign = importlib.metadata.entry_points(group=GROUP)
    claims = [point for point in foreign if point.name == scheme]
    if len(claims) > 1:
        msg = f"{scheme}:// is claimed by more than one package: {', '.join(sorted(point.value for point in claims))}"
        raise ConfigurationError(msg)
    if not claims:
        raise ConfigurationError.unknown(what="URL scheme", name=scheme, allowed={*_OURS, *(point.name for point in foreign)})
    return cast("Factory", claims[0].load())
