"""`mongodb://host/database` and `mongodb+srv://...`: entries shared by many machines.

The entries outlive all processes, and people can read and query them. Each entry is a document.
`_id` is its key, and `envelope` is read back. The fields for people and queries are namespace,
model, prompt, params, response, tags, usage and dates, without secrets. Expired documents are not
returned, and a TTL index removes them. The collection `<collection>_log` stores the invalidation
log.

The collection may be sharded by its hashed `_id`, since reads and writes contain it. MongoDB 4.4 or
newer is required, as a single server or a replica set.

The part of a URL before `#` is passed to MongoDB's client. Two of its options are fixed: it does
not retry, because the tier does, and it polls its servers. Otherwise a call could exceed its
timeout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from layered_cache._storage.envelope import load
from layered_cache._storage.redaction import redacted_text
from layered_cache._storage.rules import LogState, Scope
from layered_cache._util.clocks import SYSTEM_CLOCK, Clock
from layered_cache._util.daemon_threads import Workers
from layered_cache._util.durations import Duration, seconds
from layered_cache.entry import Entry, Refused, Ticket
from layered_cache.errors import MissingClientError
from layered_cache.tiers.base import Page

if TYPE_CHECKING:
    from layered_cache.tiers._url_options import TierOptions
    from layered_cache.tiers.mongodb.clients import Durability

DEFAULT_TIMEOUT = 0.15


class MongoTier:
    """A tier in a collection of MongoDB.

    Args:
        url: `mongodb://...` or `mongodb+srv://...`. Its path is the name of the database; the
            default is `layered_cache`.
        collection: The name of the collection; the default is `entries`. Without a *url*, a
            collection of the caller's own client.
        async_collection: The same collection of the caller's asynchronous client. Without it,
            coroutines use threads.
        durability: The failure that a write has survived when it returns: `"fast"` none,
            `"journaled"` a crash of the server, `"majority"` the loss of the server. The default is
            the setting of the URL or the collection. Without one, it is `"majority"` for a replica
            set and `"journaled"` otherwise.
        timeout: The time limit of a call in seconds. Connecting has two seconds, in the background.
        ttl: The longest lifetime of an entry in seconds.
        name: The name in events and statistics.
        clock: The clock, which tests replace.

    Clients of the caller are never closed and keep their own retry settings. Create them with
    `retryReads=False, retryWrites=False, serverMonitoringMode="poll"`. Otherwise a call may take
    half a second longer than its timeout when a server is lost.

    Raises:
        ConfigurationError: If an argument is invalid. No connection is opened before the first use.
        MissingClientError: If pymongo is not installed.
    """

    log_is_durable = True
    max_entry_bytes = 15 * 1024 * 1024
    """The largest compressed value that MongoDB accepts in a document."""
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
            # lazy: the package itself loads no third-party module
            from layered_cache.tiers.mongodb import sources as parts  # noqa: PLC0415
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
        # a thread for the log: an invalidation must not wait for queued answers
        self._keeper = Workers(name, 1)
        load()

    @classmethod
    def from_url(cls, url: str, options: TierOptions) -> MongoTier:
        """Return the tier of a URL like `mongodb://user:password@host/database?client=options`.

        Options after `#`: `collection=entries&durability=majority&timeout=150ms`.
        """
        return cls(
            url,
            collection=options.text("collection", "") or None,
            # the constructor checks the value
            durability=options.text("durability", "") or None,  # pyright: ignore[reportArgumentType]
            timeout=options.duration("timeout", DEFAULT_TIMEOUT),
            ttl=options.duration("ttl", None),
            name=options.text("name", "mongodb"),
            clock=options.clock,
        )

    # --- entries

    def get_many(self, keys: Sequence[str]) -> Mapping[str, Entry | Refused]:
        """Return the entries of *keys* that have not expired."""
        return self._blocking.run(self._entries.get(self._blocking, keys))

    def set_many(self, entries: Sequence[Entry]) -> None:
        """Store *entries*.

        If one is too large for MongoDB, the rest is stored and an error is raised.
        """
        self._blocking.run(self._entries.set(self._blocking, entries))

    def delete_many(self, keys: Sequence[str]) -> int:
        """Erase the entries of *keys* and return their number."""
        return self._blocking.run(self._entries.delete(self._blocking, keys))

    def close(self) -> None:
        """Close the clients that the tier has created."""
        if self._loops is not None:
            self._loops.close()
        self._blocking.run(self._blocking.close())
        self._workers.stop()
        self._keeper.stop()

    async def aget_many(self, keys: Sequence[str]) -> Mapping[str, Entry | Refused]:
        """Return the entries of *keys*, like `get_many`."""
        if self._loops is None:
            return await self._workers.run(self.get_many, keys)
        return await self._entries.get(self._loops.here(), keys)

    async def aset_many(self, entries: Sequence[Entry]) -> None:
        """Store *entries*, like `set_many`."""
        if self._loops is None:
            return await self._workers.run(self.set_many, entries)
        return await self._entries.set(self._loops.here(), entries)

    async def adelete_many(self, keys: Sequence[str]) -> int:
        """Erase the entries of *keys*, like `delete_many`."""
        if self._loops is None:
            return await self._workers.run(self.delete_many, keys)
        return await self._entries.delete(self._loops.here(), keys)

    async def aclose(self) -> None:
        """Close the client of the running loop, and then all clients like `close`."""
        if self._loops is not None:
            await self._loops.close_here()
        await self._workers.run(self.close)

    # --- queries

    def erase_where(self, namespace: str, scope: Scope, born_before: int) -> int:
        """Erase the entries that match *scope*.

        It stops after a second, since all of them are void.
        """
        return self._blocking.run(self._entries.erase_where(self._blocking, namespace, scope, born_before))

    def count_where(self, namespace: str, scope: Scope) -> int:
        """Return the number of entries that match *scope*."""
        return self._blocking.run(self._entries.count_where(self._blocking, namespace, scope))

    async def aerase_where(self, namespace: str, scope: Scope, born_before: int) -> int:
        """Erase the entries that match *scope*, like `erase_where`."""
        if self._loops is None:
            return await self._workers.run(self.erase_where, namespace, scope, born_before)
        return await self._entries.erase_where(self._loops.here(), namespace, scope, born_before)

    async def acount_where(self, namespace: str, scope: Scope) -> int:
        """Return the number of entries that match *scope*."""
        if self._loops is None:
            return await self._workers.run(self.count_where, namespace, scope)
        return await self._entries.count_where(self._loops.here(), namespace, scope)

    def list_keys(self, namespace: str, after: str | None) -> Page:
        """Return a page of the keys of *namespace*, in sorted order."""
        return self._blocking.run(self._entries.list_keys(self._blocking, namespace, after))

    async def alist_keys(self, namespace: str, after: str | None) -> Page:
        """Return a page of keys, like `list_keys`."""
        if self._loops is None:
            return await self._workers.run(self.list_keys, namespace, after)
        return await self._entries.list_keys(self._loops.here(), namespace, after)

    def purge(self) -> int:
        """Create the indexes, once.

        With them MongoDB removes expired entries, so the result is 0.
        """
        if not self._entries.indexed:
            self._blocking.run(self._entries.index(self._blocking))
        return 0

    def indexes_missing(self) -> list[str]:
        """Return the names of the missing indexes.

        Without them expired entries are not removed, and queries read the whole collection.
        """
        return self._blocking.run(self._entries.indexes_missing(self._blocking))

    # --- the invalidation log

    def read_log(self, seen: Ticket) -> LogState:
        """Return the current log."""
        return self._blocking.run(self._log.read(self._blocking, seen))

    def open_log(self, seen: Ticket) -> LogState:
        """Return the log, created if missing."""
        return self._blocking.run(self._log.open(self._blocking, seen))

    def append_log(self, namespace: str, scope: Scope | None, seen: Ticket, before: int) -> LogState:
        """Add a rule to the log."""
        return self._blocking.run(self._log.append(self._blocking, namespace, scope, seen, before))

    def restart_log(self, seen: Ticket) -> LogState:
        """Give an old log a new epoch."""
        return self._blocking.run(self._log.restart(self._blocking, seen))

    async def aread_log(self, seen: Ticket) -> LogState:
        """Return the current log, like `read_log`."""
        if self._loops is None:
            return await self._workers.run(self.read_log, seen)
        return await self._log.read(self._loops.here(), seen)

    async def aopen_log(self, seen: Ticket) -> LogState:
        """Return the log, like `open_log`."""
        if self._loops is None:
            return await self._keeper.run(self.open_log, seen)
        return await self._log.open(self._loops.here(), seen)

    async def aappend_log(self, namespace: str, scope: Scope | None, seen: Ticket, before: int) -> LogState:
        """Add a rule, like `append_log`."""
        if self._loops is None:
            return await self._keeper.run(self.append_log, namespace, scope, seen, before)
        return await self._log.append(self._loops.here(), namespace, scope, seen, before)

    async def arestart_log(self, seen: Ticket) -> LogState:
        """Give an old log a new epoch, like `restart_log`."""
        if self._loops is None:
            return await self._keeper.run(self.restart_log, seen)
        return await self._log.restart(self._loops.here(), seen)

    def swap_log_id(self, log: int) -> int | None:
        """Store the epoch of the log that applies to this tier; return the one before, or None."""
        return self._blocking.run(self._log.swap(self._blocking, log))

    def __repr__(self) -> str:
        return f"MongoTier({self._shown!r})"
