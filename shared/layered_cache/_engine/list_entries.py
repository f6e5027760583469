"""Listing of a namespace: the keys come from listable tiers, the entries from a normal read.

So a listing contains exactly the entries that `get` would return. This includes stale entries and
queued writes, but no void or expired ones. Every tier is listed, the slowest first, because it
holds most entries. An entry that it lacks, because the tier was down or the entry too large, may be
in another tier. Nothing is promoted, since a full listing would evict the other entries. Nothing is
counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from layered_cache._engine.engine import Engine
from layered_cache._engine.runtime import Effects
from layered_cache.entry import Entry
from layered_cache.errors import TierError
from layered_cache.keys.keys import digest_of, namespace_of
from layered_cache.tiers.base import Listable

# entries per read: a few megabytes, which a tier can send within its timeout
_PAGE = 250


class Listing:
    """One listing with its position. It is used by one caller at a time."""

    def __init__(self, engine: Engine, namespace: str) -> None:
        self._engine = engine
        self._namespace = namespace
        # the last one is listed next
        self._tiers = [tier for tier in engine.tiers if isinstance(tier, Listable)]
        self._after: str | None = None
        self._keys: Iterator[str] = iter([key for key in engine.backlog.queued() if namespace_of(key) == namespace])
        self._seen: set[bytes] = set()

    async def page(self, fx: Effects) -> list[Entry] | None:
        """Return entries that were not returned yet, or an empty list. None: there are no more."""
        while not (keys := list(islice(self._keys, _PAGE))):
            if not self._tiers:
                return None
            self._keys = iter(await self._found(fx))
        new = [key for key in dict.fromkeys(keys) if (digest := digest_of(key)) not in self._seen and not self._seen.add(digest)]
        found, _view, _trust = await self._engine.look_up(fx, new, stale=True, promote=False)
        return [hit.entry for hit in found.values()]

    async def _found(self, fx: Effects) -> Sequence[str]:
        tier = self._tiers[-1]
        try:
            found, self._after = await fx.list_keys(tier, self._namespace, self._after)
        except TierError as error:
            self._engine.tell.tier_failed(error, "read")
            if not self._engine.policy.fail_open:
                raise
            found, self._after = (), None
        if self._after is None:
            self._tiers.pop()
        return found
