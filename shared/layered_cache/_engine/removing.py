"""Removing: a rule in the log, which makes void at once and everywhere, then the erasing, which only frees space."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial

from layered_cache._engine.effects import Effects
from layered_cache._engine.engine import Engine
from layered_cache.errors import DeletionError, TierError
from layered_cache.events import Event
from layered_cache.invalidation import Scope
from layered_cache.receipt import Receipt

_RULE_LIFE = 86_400.0  # seconds that a rule is kept beyond the longest life of an entry


class Removing:
    """The removals of one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def delete(self, fx: Effects, namespace: str, keys: Sequence[str]) -> Receipt:
        """Make entries of *keys*, all of *namespace*, void, and erase them."""
        if not keys:
            return Receipt(seq=None, durable=False, removed={})
        keys = list(dict.fromkeys(keys))
        seq = await self._rule(fx, namespace, Scope(keys=tuple(keys)))
        self._engine.backlog.forget(keys)
        # slowest first: a reader must find less and less to promote
        steps = [(tier.name, partial(fx.erase, tier, keys)) for tier in reversed(self._engine.tiers)]
        return await self._erased(namespace, seq, steps)

    async def erase(self, fx: Effects, namespace: str, keys: Sequence[str]) -> Receipt:
        """Erase entries of *keys*; where there is one tier alone, which has no write of them to come, without a rule."""
        engine, tier = self._engine, self._engine.tiers[0]
        if not keys or len(engine.tiers) > 1 or engine.backlog.must_queue(tier, keys):
            return await self.delete(fx, namespace, keys)
        try:
            count = await fx.erase(tier, list(dict.fromkeys(keys)))
        except TierError as error:
            engine.tell.tier_failed(error)
            msg = f"what was to be erased may still be served: {error}"
            raise DeletionError(msg, (error,)) from error
        engine.tell(Event(kind="invalidated", namespace=namespace, count=count))
        return Receipt(seq=None, durable=engine.watch.authority.log_is_durable, removed={tier.name: count})

    async def discard(self, fx: Effects, namespace: str, keys: Sequence[str]) -> None:
        """Have no tier serve an entry of *keys*: a value that cannot be held has replaced it."""
        try:
            await self.delete(fx, namespace, keys)
        except DeletionError:  # no other process learns of it now
            await self._engine.discard(fx, keys)

    async def drop(self, fx: Effects, namespace: str, keys: Sequence[str]) -> None:
        """Erase the entries of *keys*, refused answers, without a rule. There may be many, and a full log voids older entries.

        The memory of another process may keep an entry until it is refused there, and so may a tier that fails now.
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
        """Make everything that *scope* matches in *namespace* void."""
        return await self._void(fx, namespace, scope)

    async def clear(self, fx: Effects, namespace: str) -> Receipt:
        """Make everything in *namespace* void; it may name a floor of several (see `invalidation.below`)."""
        return await self._void(fx, namespace, None)

    async def matching(self, fx: Effects, namespace: str, scope: Scope) -> Receipt:
        """Return what would be removed, removing nothing."""
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
            msg = f"the invalidation could not be recorded, so what it names may still be served: {error}"
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
