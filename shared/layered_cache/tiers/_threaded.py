"""The asynchronous half of a tier whose client can only block: the blocking methods run in threads of the tier's own (`workers`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from layered_cache.entry import Entry, Refused
from layered_cache.workers import Workers

T = TypeVar("T")


class ThreadedTier(ABC):
    """Gives a tier with `get_many`, `set_many`, `delete_many` and `close` their asynchronous twins.

    `threads` is how many calls may run at once.
    """

    name = "threaded"
    timeout = 0.15
    ttl: float | None = None
    threads = 8

    def __init__(self) -> None:
        self._workers = Workers(self.name, self.threads)

    @abstractmethod
    def get_many(self, keys: Sequence[str]) -> Mapping[str, Entry | Refused]:
        """See Tier."""

    @abstractmethod
    def set_many(self, entries: Sequence[Entry]) -> None:
        """See Tier."""

    @abstractmethod
    def delete_many(self, keys: Sequence[str]) -> int:
        """See Tier."""

    def close(self) -> None:
        """See Tier. A subclass closes its client and calls this."""
        self._workers.stop()

    async def in_thread(self, function: Callable[..., T], *args: object) -> T:
        """Return what the blocking *function* returns, without blocking the loop."""
        return await self._workers.run(function, *args)

    async def aget_many(self, keys: Sequence[str]) -> Mapping[str, Entry | Refused]:
        """See get_many."""
        return await self.in_thread(self.get_many, keys)

    async def aset_many(self, entries: Sequence[Entry]) -> None:
        """See set_many."""
        await self.in_thread(self.set_many, entries)

    async def adelete_many(self, keys: Sequence[str]) -> int:
        """See delete_many."""
        return await self.in_thread(self.delete_many, keys)

    async def aclose(self) -> None:
        """See close."""
        await self.in_thread(self.close)
