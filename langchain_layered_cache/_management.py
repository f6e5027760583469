"""The methods of `LayeredCache` that LangChain never calls: removal, listing, counters and the end of the cache."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, Self

from layered_cache import Entry, Receipt, Stats, TieredCache


class Management:
    """Delegates to the engine of a `LayeredCache`."""

    _cache: TieredCache

    def invalidate(self, **criteria: Any) -> Receipt:  # noqa: ANN401 - as TieredCache.invalidate
        """See `TieredCache.invalidate`."""
        return self._cache.invalidate(**criteria)

    async def ainvalidate(self, **criteria: Any) -> Receipt:  # noqa: ANN401 - as TieredCache.invalidate
        """See invalidate."""
        return await self._cache.ainvalidate(**criteria)

    def delete(self, *keys: str) -> Receipt:
        """Remove the entries of *keys* from all tiers, in every process. `key(...)` and `mark_hits=True` return keys.

        Raises:
            DeletionError: If the removal cannot be recorded. The entries may still be served.
        """
        return self._cache.delete(*keys)

    async def adelete(self, *keys: str) -> Receipt:
        """See delete."""
        return await self._cache.adelete(*keys)

    def entries(self) -> Iterator[Entry]:
        """Yield the entries of this namespace, in no order. See `TieredCache.entries`."""
        return self._cache.entries()

    def aentries(self) -> AsyncIterator[Entry]:
        """See entries."""
        return self._cache.aentries()

    def stats(self) -> Stats:
        """Return the counters so far: hits, misses and savings."""
        return self._cache.stats()

    def close(self) -> None:
        """See `TieredCache.close`."""
        self._cache.close()

    async def aclose(self) -> None:
        """See close."""
        await self._cache.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
