"""`mongodb://host/database` and `mongodb+srv://...`: answers for many machines, that outlive all processes and can be read and queried.

Each entry is a document: `_id` is its key, `envelope` what is read back; beside it stand namespace, model, prompt, params, response,
tags, usage and dates for people and queries, without secrets. Expired documents are not given back, and a TTL index removes them.
Beside the collection, `<collection>_log` keeps the invalidation log.

The collection may be sharded by its hashed `_id`: reads and writes name it. MongoDB 4.4 or newer, alone or in a replica set.

Left of `#`, a URL belongs to MongoDB's client. But it does not try again by itself (this tier does), and it polls its servers: only
so a call ends within its budget.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from layered_cache.clocks import SYSTEM_CLOCK, Clock
from layered_cache.entry import Entry, Refused, Ticket
from layered_cache.errors import MissingClientError
from layered_cache.invalidation import LogState, Scope
from layered_cache.redaction import redacted_text
from layered_cache.tiers._tier import Page
from layered_cache.units import Duration, seconds
from layered_cache.wire import load
from layered_cache.workers import Workers

if TYPE_CHECKING:
    from layered_cache.tiers._mongo_handles import Durability
    from layered_cache.tiers._options import TierOptions

DEFAULT_TIMEOUT = 0.15


class MongoTier:
    """A tier in a collection of MongoDB.

    Args:
        url: `mongodb://...` or `mongodb+srv://...`; its path names the database, else it is `layered_cache`.
        collection: The collection's name, else it is `entries`; or, instead of a *url*, a collection of a client of your own.
        async_collection: The same collection of your own asynchronous client; without it, coroutines use threads.
        durability: What a write has outlived when it returns: `"fast"` nothing, `"journaled"` a crash of the server, `"majority"` its
            loss. Unless given: what the URL or the collection says, else `"majority"` where there is a replica set, else `"journaled"`.
        timeout: The budget of a call, in seconds. Connecting has two seconds of its own, in the background.
        ttl: The longest it keeps an entry, in seconds.
        name: For events and statistics.
        clock: Of tests.

    Clients of your own are never closed, and try again as you told them: give them `retryReads=False, retryWrites=False,
    serverMonitoringMode="poll"`, else a call may take half a second longer than its budget when a server is lost.

    Raises:
        ConfigurationError: What is given is not allowed. Nothing is connected to before the first use.
        MissingClientError: pymongo is not installed.
    """

    log_is_durable = True
    max_entry_bytes = 15 * 1024 * 1024
    """The largest value, compressed, that MongoDB takes in a document."""
    compresses = True

    def __init__(
        self,
        url: str | None = None,
        *,
        collection: object = None,
        async_collection: object = None,
        durability: Durability | None = None,
        timeout: Duration = DEFAULT_TIMEOUT,
        ttl: Duration | None = None,
        name: str = "mongodb",
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        try:
            from layered_cache.tiers import _mongo_parts as parts  # noqa: PLC0415 - lazy: the package itself loads no third-party module
        except ImportError as error:
            what = "mongodb:// needs pymongo"
            raise MissingClientError(what, "mongodb") from error
        self.name = name
        self.timeout = seconds(timeout, "timeout")
        self.ttl = None if ttl is None else seconds(ttl, "ttl")
        sources = parts.sources(url, collection, async_collection, durability)
        self._shown = "a collection of your own" if url is None else redacted_text(url)
        self._entries = parts.MongoEntries(clock, name, self.timeout, self.max_entry_bytes)
        self._log = parts.MongoLog(clock, name, self.timeout)
        self._blocking = parts.BlockingHalf(sources.blocking, name)
        self._loops = None if sources.asynchronous is None else parts.LoopHalves(sources.asynchronous, name)
        self._workers = Workers(name, 8)
        self._keeper = Workers(name, 1)  # of the log: a removal must not wait for all answers that wait to be written
        load()

    @classmethod
    def from_url(cls, url: str, options: TierOptions) -> MongoTier:
        """Make it from `mongodb://user:password@host/database?client=options#collection=entries&durability=majority&timeout=150ms`."""
        return cls(
            url,
            collection=options.text("collection", "") or None,
            durability=options.text("durability", "") or None,  # pyright: ignore[reportArgumentType] - the constructor checks
            timeout=options.duration("timeout", DEFAULT_TIMEOUT),
            ttl=options.duration("ttl", None),
            name=options.text("name", "mongodb"),
            clock=options.clock,
        )

    # --- entries

    def get_many(self, keys: Sequence[str]) -> Mapping[str, Entry | Refused]:
        """Return what is held for *keys* and has not expired."""
        return self._blocking.run(self._entries.get(self._blocking, keys))

    def set_many(self, entries: Sequence[Entry]) -> None:
        """Hold *entries*. What is too large for MongoDB is an error, after the others were written."""
        self._blocking.run(self._entries.set(self._blocking, entries))

    def delete_many(self, keys: Sequence[str]) -> int:
        """Hold nothing for *keys*; return how many were there."""
        return self._blocking.run(self._entries.delete(self._blocking, keys))

    def close(self) -> None:
        """Close the clients that are ours."""
        if self._loops is not None:
            self._loops.close()
        self._blocking.run(self._blocking.close())
        self._workers.stop()
        self._keeper.stop()

    async def aget_many(self, keys: Sequence[str]) -> Mapping[str, Entry | Refused]:
        """See get_many."""
        if self._loops is None:
            return await self._workers.run(self.get_many, keys)
        return await self._entries.get(self._loops.here(), keys)

    async def aset_many(self, entries: Sequence[Entry]) -> None:
        """See set_many."""
        if self._loops is None:
            return await self._workers.run(self.set_many, entries)
        return await self._entries.set(self._loops.here(), entries)

    async def adelete_many(self, keys: Sequence[str]) -> int:
        """See delete_many."""
        if self._loops is None:
            return await self._workers.run(self.delete_many, keys)
        return await self._entries.delete(self._loops.here(), keys)

    async def aclose(self) -> None:
        """See close."""
        if self._loops is not None:
            await self._loops.close_here()
        await self._workers.run(self.close)

    # --- what can be found by more than its key

    def erase_where(self, namespace: str, scope: Scope, born_before: int) -> int:
        """Erase what *scope* matches; it stops after a second, for all of it is void already."""
        return self._blocking.run(self._entries.erase_where(self._blocking, namespace, scope, born_before))

    def count_where(self, namespace: str, scope: Scope) -> int:
        """Return how many entries *scope* matches."""
        return self._blocking.run(self._entries.count_where(self._blocking, namespace, scope))

    async def aerase_where(self, namespace: str, scope: Scope, born_before: int) -> int:
        """See erase_where."""
        if self._loops is None:
            return await self._workers.run(self.erase_where, namespace, scope, born_before)
        return await self._entries.erase_where(self._loops.here(), namespace, scope, born_before)

    async def acount_where(self, namespace: str, scope: Scope) -> int:
        """See count_where."""
        if self._loops is None:
            return await self._workers.run(self.count_where, namespace, scope)
        return await self._entries.count_where(self._loops.here(), namespace, scope)

    def list_keys(self, namespace: str, after: str | None) -> Page:
        """Return keys of *namespace*, in their order."""
        return self._blocking.run(self._entries.list_keys(self._blocking, namespace, after))

    async def alist_keys(self, namespace: str, after: str | None) -> Page:
        """See list_keys."""
        if self._loops is None:
            return await self._workers.run(self.list_keys, namespace, after)
        return await self._entries.list_keys(self._loops.here(), namespace, after)

    def purge(self) -> int:
        """Make the indexes, once; with them, MongoDB removes what has expired by itself, so this removes nothing."""
        if not self._entries.indexed:
            self._blocking.run(self._entries.index(self._blocking))
        return 0

    def indexes_missing(self) -> list[str]:
        """Return the names of the indexes that are not there: without them expired entries stay, and queries read everything."""
        return self._blocking.run(self._entries.indexes_missing(self._blocking))

    # --- the invalidation log

    def read_log(self, seen: Ticket) -> LogState:
        """See Authority."""
        return self._blocking.run(self._log.read(self._blocking, seen))

    def open_log(self, seen: Ticket) -> LogState:
        """See Authority."""
        return self._blocking.run(self._log.open(self._blocking, seen))

    def append_log(self, namespace: str, scope: Scope | None, seen: Ticket, before: int) -> LogState:
        """See Authority."""
        return self._blocking.run(self._log.append(self._blocking, namespace, scope, seen, before))

    def restart_log(self, seen: Ticket) -> LogState:
        """See Authority."""
        return self._blocking.run(self._log.restart(self._blocking, seen))

    async def aread_log(self, seen: Ticket) -> LogState:
        """See read_log."""
        if self._loops is None:
            return await self._workers.run(self.read_log, seen)
        return await self._log.read(self._loops.here(), seen)

    async def aopen_log(self, seen: Ticket) -> LogState:
        """See open_log."""
        if self._loops is None:
            return await self._keeper.run(self.open_log, seen)
        return await self._log.open(self._loops.here(), seen)

    async def aappend_log(self, namespace: str, scope: Scope | None, seen: Ticket, before: int) -> LogState:
        """See append_log."""
        if self._loops is None:
            return await self._keeper.run(self.append_log, namespace, scope, seen, before)
        return await self._log.append(self._loops.here(), namespace, scope, seen, before)

    async def arestart_log(self, seen: Ticket) -> LogState:
        """See restart_log."""
        if self._loops is None:
            return await self._keeper.run(self.restart_log, seen)
        return await self._log.restart(self._loops.here(), seen)

    def swap_log_id(self, log: int) -> int | None:
        """Note that this tier is used with the log of epoch *log*; return the one that it was used with before, None at first."""
        return self._blocking.run(self._log.swap(self._blocking, log))

    def __repr__(self) -> str:
        return f"MongoTier({self._shown!r})"
