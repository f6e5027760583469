"""Coroutines for tiers with a blocking client: the calls run in worker threads of the tier."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from layered_cache._util.daemon_threads import Workers
from layered_cache.entry import Entry, Refused

T = TypeVar("T")


class ThreadedTier(ABC):
    """A base class that adds coroutines to `get_many`, `set_many`, `delete_many` and `close`.

    `threads` is the number of calls that may run at the same time.
    """

    name = "threaded"
    timeout = 0.15
    ttl: float | None = None
    threads = 8

    def __init__(self) -> None:
        self._workers = Workers(self.name, self.threads)

    @abstractmethod
    def get_many(self, keys: Sequence[str]) -> Mapping[str, Entry | Refused]:
        """Return the entries of *keys* (see `Tier.get_many`)."""

    @abstractmethod
    def set_many(self, entries: Sequence[Entry]) -> None:
        """Store *entries* (see `Tier.set_many`)."""

    @abstractmethod
    def delete_many(self, keys: Sequence[str]) -> int:
        """Erase the entries of *keys* (see `Tier.delete_many`)."""

    def close(self) -> None:
        """Stop the worker threads. A subclass closes its client and calls this method."""
        self._workers.stop()

    async def in_thread(self, function: Callable[..., T], *args: object) -> T:
        """Run the blocking *function* in a worker thread and return its result."""
        return await self._workers.run(function, *args)

    async def aget_many(self, keys: Sequence[str]) -> Mapping[str, Entry | Refused]:
        """Return the entries of *keys*, like `get_many`."""
        return await self.in_thread(self.get_many, keys)

    async def aset_many(self, entries: Sequence[Entry]) -> None:
        """Store *entries*, like `set_many`."""
        await self.in_thread(self.set_many, entries)

    async def adelete_many(self, keys: Sequence[str]) -> int:
        """Erase the entries of *keys*, like `delete_many`."""
        return await self.in_thread(self.delete_many, keys)

    async def aclose(self) -> None:
        """Release all resources, like `close`."""
        await self.in_thread(self.close)
