"""Invalidation: a rule in the log, then the erasure of the entries.

The rule makes the entries void at once and everywhere. The erasure only frees space.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial

from layered_cache._engine.engine import Engine
from layered_cache._engine.runtime import Effects
from layered_cache._storage.rules import Scope
from layered_cache.errors import DeletionError, TierError
from layered_cache.events import Event
from layered_cache.receipt import Receipt

# seconds that a rule outlives the longest lifetime of an entry
_RULE_LIFE = 86_400.0


class Removing:
    """The invalidations of one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def delete(self, fx: Effects, namespace: str, keys: Sequence[str]) -> Receipt:
        """Make the entries of *keys*, all in *namespace*, void, and erase them."""
        if not keys:
            return Receipt(seq=None, durable=False, removed={})
        keys = list(dict.fromkeys(keys))
        seq = await self._rule(fx, namespace, Scope(keys=tuple(keys)))
        self._engine.backlog.forget(keys)
        # slowest tier first: a concurrent reader then finds fewer and fewer entries to promote
        steps = [(tier.name, partial(fx.erase, tier, keys)) for tier in reversed(self._engine.tiers)]
        return await self._erased(namespace, seq, steps)

    async def erase(self, fx: Effects, namespace: str, keys: Sequence[str]) -> Receipt:
        """Erase the entries of *keys*.

        No rule is needed if there is only one tier and no write of the keys is queued for it.
        """
        engine, tier = self._engine, self._engine.tiers[0]
        if not keys or len(engine.tiers) > 1 or engine.backlog.must_queue(tier, keys):
            return await self.delete(fx, namespace, keys)
        try:
            count = await fx.erase(tier, list(dict.fromkeys(keys)))
        except TierError as error:
            engine.tell.tier_failed(error)
            msg = f"the entries could not be erased and may still be served: {error}"
            raise DeletionError(msg, (error,)) from error
        engine.tell(Event(kind="invalidated", namespace=namespace, count=count))
        return Receipt(seq=None, durable=engine.watch.authority.log_is_durable, removed={tier.name: count})

    async def discard(self, fx: Effects, namespace: str, keys: Sequence[str]) -> None:
        """Make sure that no tier serves an entry of *keys*.

        It is called if a value that cannot be stored has replaced the entry.
        """
        try:
            await self.delete(fx, namespace, keys)
        except DeletionError:
            # other processes get no rule now
            await self._engine.discard(fx, keys)

    async def drop(self, fx: Effects, namespace: str, keys: Sequence[str]) -> None:
        """Erase the entries of *keys*, which are refused answers, without a rule.

        There may be many of them, and a full log makes older entries void. The memory of another
        process may keep an entry until it is refused there too. A tier that fails now may also keep
        it.
        """
        self._engine.backlog.forget(keys)
        count = 0
        for tier in reversed(self._engine.tiers):
            try:
                count += await fx.erase(tier, keys)
            except TierError as error:
                self._engine.tell.tier_failed(error)
        self._engine.tell(Event(kind="invalidated", namespace=namespace, reason="refused", count=count))

    async def invalidate(self, fx: Effects, namespace: str, scope: Scope) -> Receipt:
        """Make all entries void that *scope* matches in *namespace*."""
        return await self._void(fx, namespace, scope)

    async def clear(self, fx: Effects, namespace: str) -> Receipt:
        """Make all entries in *namespace* void.

        The name may cover several namespaces (see `invalidation.below`).
        """
        return await self._void(fx, namespace, None)

    async def matching(self, fx: Effects, namespace: str, scope: Scope) -> Receipt:
        """Return the number of entries that an invalidation would remove, without removing them."""
        found = {tier.name: await fx.count_where(tier, namespace, scope) for tier in self._engine.queryable}
        return Receipt(seq=None, durable=False, removed=found)

    async def _void(self, fx: Effects, namespace: str, scope: Scope | None) -> Receipt:
        seq = await self._rule(fx, namespace, scope)
        slowest_first = reversed(self._engine.queryable)
        steps = [(tier.name, partial(fx.erase_where, tier, namespace, scope or Scope(), seq)) for tier in slowest_first]
        return await self._erased(namespace, seq, steps)

    async def _rule(self, fx: Effects, namespace: str, scope: Scope | None) -> int:
        engine = self._engine
        before = max(0, int((engine.clock.time() - engine.longest_life - _RULE_LIFE) * 1e6))
        try:
            return await engine.watch.append(fx, namespace, scope, before)
        except TierError as error:
            engine.watch.failed(error)
            msg = f"the invalidation could not be recorded, so its entries may still be served: {error}"
            raise DeletionError(msg, (error,)) from error

    async def _erased(self, namespace: str, seq: int, steps: Iterable[tuple[str, Callable[[], Awaitable[int]]]]) -> Receipt:
        removed: dict[str, int] = {}
        failures: list[TierError] = []
        for tier, erase in steps:
            try:
                removed[tier] = await erase()
            except TierError as error:
                self._engine.tell.tier_failed(error)
                failures.append(error)
        self._engine.tell(Event(kind="invalidated", namespace=namespace, count=sum(removed.values())))
        return Receipt(seq=seq, durable=self._engine.watch.authority.log_is_durable, removed=removed, failures=tuple(failures))
