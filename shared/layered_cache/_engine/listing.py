"""Listing a namespace: which keys there are, from the tiers that can tell; then what is held for them, as for any reader.

So an entry is given exactly if `get` would return it, stale ones among them: not what is void or expired, and what waits to be
written as well. Every tier is asked, the slowest first: it has most; what it has not got, for it was away or the entry was too large,
another one may have. Nothing is promoted, for who lists everything would push everything out, and nothing is counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from layered_cache._engine.effects import Effects
from layered_cache._engine.engine import Engine
from layered_cache.entry import Entry
from layered_cache.errors import TierError
from layered_cache.keys import digest_of, namespace_of
from layered_cache.tiers._tier import Listable

_PAGE = 250  # entries that are read at once: a few megabytes, which a tier can send within its budget


class Listing:
    """One listing, which remembers how far it has come. One caller at a time."""

    def __init__(self, engine: Engine, namespace: str) -> None:
        self._engine = engine
        self._namespace = namespace
        self._tiers = [tier for tier in engine.tiers if isinstance(tier, Listable)]  # the last one is asked next
        self._after: str | None = None
        self._keys: Iterator[str] = iter([key for key in engine.backlog.queued() if namespace_of(key) == namespace])
        self._seen: set[bytes] = set()

    async def page(self, fx: Effects) -> list[Entry] | None:
        """Return entries that were not given yet, maybe none; None: there are no more."""
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
