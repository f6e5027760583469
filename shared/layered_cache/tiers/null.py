"""`null://`: holds nothing. So that "off" is a tier and not an `if`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from layered_cache.entry import Entry, Refused
from layered_cache.errors import ConfigurationError

if TYPE_CHECKING:
    from layered_cache.tiers._options import TierOptions


class NullTier:
    """A tier that is always empty."""

    timeout = 0.0
    ttl: float | None = None

    def __init__(self, *, name: str = "null") -> None:
        self.name = name

    @classmethod
    def from_url(cls, url: str, options: TierOptions) -> NullTier:
        """Make it from `null://`."""
        if url.partition("://")[2]:
            msg = "null:// takes no host or path"
            raise ConfigurationError(msg)
        return cls(name=options.text("name", "null"))

    def get_many(self, keys: Sequence[str]) -> Mapping[str, Entry | Refused]:
        """Return nothing."""
        return {}

    def set_many(self, entries: Sequence[Entry]) -> None:
        """Hold nothing."""

    def delete_many(self, keys: Sequence[str]) -> int:
        """Return 0."""
        return 0

    def close(self) -> None:
        """Do nothing."""

    async def aget_many(self, keys: Sequence[str]) -> Mapping[str, Entry | Refused]:
        """See get_many."""
        return {}

    async def aset_many(self, entries: Sequence[Entry]) -> None:
        """See set_many."""

    async def adelete_many(self, keys: Sequence[str]) -> int:
        """See delete_many."""
        return 0

    async def aclose(self) -> None:
        """See close."""
