"""`null://`: a tier that stores nothing. It turns the cache off without a special case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from layered_cache.entry import Entry, Refused
from layered_cache.errors import ConfigurationError

if TYPE_CHECKING:
    from layered_cache.tiers._url_options import TierOptions


class NullTier:
    """A tier that is always empty."""

    timeout = 0.0
    ttl: float | None = None

    def __init__(self, *, name: str = "null") -> None:
        self.name = name

    @classmethod
    def from_url(cls, url: str, options: TierOptions) -> NullTier:
        """Return the tier of a `null://` URL."""
        if url.partition("://")[2]:
            msg = "null:// must not have a host or a path"
            raise ConfigurationError(msg)
        return cls(name=options.text("name", "null"))

    def get_many(self, keys: Sequence[str]) -> Mapping[str, Entry | Refused]:
        """Return nothing."""
        return {}

    def set_many(self, entries: Sequence[Entry]) -> None:
        """Ignore *entries*."""

    def delete_many(self, keys: Sequence[str]) -> int:
        """Return 0."""
        return 0

    def close(self) -> None:
        """Do nothing."""

    async def aget_many(self, keys: Sequence[str]) -> Mapping[str, Entry | Refused]:
        """Return nothing."""
        return {}

    async def aset_many(self, entries: Sequence[Entry]) -> None:
        """Ignore *entries*."""

    async def adelete_many(self, keys: Sequence[str]) -> int:
        """Return 0."""
        return 0

    async def aclose(self) -> None:
        """Do nothing."""
