"""`redis://`, `rediss://`, `redis+sentinel://`, `redis+cluster://`: entries in a shared Redis.

Valkey works too. An entry is one string, an envelope, under its key. Any server from version 6.2 on
will do. Modules and admin commands are not needed, and the user needs no more permissions than the
README lists. An entry is written with its remaining lifetime, and the reader checks the expiry
again.

Every call ends within its timeout, even if the server hangs or sends slowly. Connecting has a
separate timeout. A call waits for a new connection no longer than its own timeout, and the next
call finds the connection.

Every reply is compared with the requested key. If it belongs to a different key, the connection is
out of step. All connections are then dropped, and the request is sent once more.

The tier can store the invalidation log (see `invalidation_log`). It can find entries by namespace, which
is slow and meant for clearing one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from layered_cache._storage.envelope import COMPRESS_FROM, FOREIGN, decode, encode, load
from layered_cache._storage.rules import LogState, Scope
from layered_cache._util.clocks import SYSTEM_CLOCK, Clock
from layered_cache._util.durations import Duration, seconds
from layered_cache.entry import Entry, Refused, Ticket
from layered_cache.errors import ConfigurationError, TierError, TierUnavailableError
from layered_cache.tiers.base import Page
from layered_cache.tiers.redis import invalidation_log as log
from layered_cache.tiers.redis.resp import OutOfStepError, Reply, code_of, refused, unreachable
from layered_cache.tiers.redis.scan import Search
from layered_cache.tiers.redis.transports import Client, Direct, Driver, check_client, cluster_client
from layered_cache.tiers.redis.url import SCHEMES, Command, parse_address
from layered_cache.tiers.threaded import ThreadedTier

if TYPE_CHECKING:
    from layered_cache.tiers._url_options import TierOptions

DEFAULT_TIMEOUT = 0.05
DEFAULT_TTL = 7 * 86_400.0
DEFAULT_CONNECTIONS = 32

# seconds for erasing void entries; the rest may stay, since it is void anyway
_COURTESY = 1.0
# seconds for counting
_SEARCH = 4.0
# seconds that an invalidation waits for Redis: its caller needs the outcome
_PATIENCE = 2.0


class RedisTier(ThreadedTier):
    """A tier in a Redis.

    Args:
        url: The address (see `url`), unless there is a *client*.
        client: A `redis.Redis` or `redis.RedisCluster` of the caller. It is never closed. It runs
            in worker threads, because its own timeouts may be long. Connections from a URL are
            faster.
        async_client: A `redis.asyncio.Redis` of the caller, for the event loop of its first use.
            Other loops use *client*.
        timeout: The time limit of a call in seconds.
        ttl: The longest lifetime of an entry in seconds. None: the lifetime of the entry is not
            limited.
        connections: The maximum number of connections for threads. An event loop has one.
        compress_from: Values of this size or more are compressed if that saves a tenth. This takes
            less memory in Redis and a few microseconds more for each hit.
        name: The name in events and statistics.
        clock: The clock, which tests replace.

    Raises:
        ConfigurationError: If the URL or a client is invalid.
        MissingClientError: If hiredis is not installed, or redis-py where it is needed.
    """

    # for searches; all other calls are asynchronous
    threads = 2
    keeps_time = True

    def __init__(
        self,
        url: str | None = None,
        *,
        client: Any = None,  # noqa: ANN401 - the library may not be installed
        async_client: Any = None,  # noqa: ANN401
        timeout: Duration = DEFAULT_TIMEOUT,
        ttl: Duration | None = DEFAULT_TTL,
        connections: int = DEFAULT_CONNECTIONS,
        compress_from: int = COMPRESS_FROM,
        name: str = "redis",
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if (url is None) == (client is None):
            msg = "RedisTier must have either a url or a client: RedisTier('redis://localhost:6379/0') or RedisTier(client=redis.Redis())"
            if async_client is not None:
                msg += ". With an async_client it must have a client too, for background calls"
            raise ConfigurationError(msg)
        self.name = name
        self.timeout = seconds(timeout, "timeout")
        self.ttl = None if ttl is None else seconds(ttl, "ttl")
        self.log_is_durable = False
        self._compress_from = compress_from
        self._clock = clock
        self._driver = _driver(url, client, async_client, self.timeout, connections, name)
        self._search = Search(name, self._driver, self.timeout)
        super().__init__()
        load()

    @classmethod
    def from_url(cls, url: str, options: TierOptions) -> RedisTier:
        """Return the tier of a URL like `redis://host:6379/0#ttl=7d&timeout=50ms`.

        Further options are `connections=32` and `compress_from=4KiB`.
        """
        return cls(
            url,
            timeout=options.duration("timeout", DEFAULT_TIMEOUT),
            ttl=options.duration("ttl", DEFAULT_TTL),
            connections=options.number("connections", DEFAULT_CONNECTIONS),
            compress_from=options.size("compress_from", COMPRESS_FROM),
            name=options.text("name", "redis"),
            clock=options.clock,
        )

    # --- entries

    def get_many(self, keys: Sequence[str]) -> Mapping[str, Entry | Refused]:
        """Return the entries of *keys* that have not expired."""
        commands, deadline = self._reading(keys), time.monotonic() + self.timeout
        if not commands:
            return {}
        try:
            return self._entries(keys, self._driver.run("read", commands, self.timeout), last=False)
        except OutOfStepError:
            self._driver.drop()
            return self._entries(keys, self._driver.run("read", commands, deadline - time.monotonic()), last=True)

    async def aget_many(self, keys: Sequence[str]) -> Mapping[str, Entry | Refused]:
        """Return the entries of *keys*, like `get_many`."""
        commands, deadline = self._reading(keys), time.monotonic() + self.timeout
        if not commands:
            return {}
        try:
            return self._entries(keys, await self._driver.arun("read", commands, self.timeout), last=False)
        except OutOfStepError:
            self._driver.drop()
            return self._entries(keys, await self._driver.arun("read", commands, deadline - time.monotonic()), last=True)

    def _reading(self, keys: Sequence[str]) -> list[Command]:
        if len(keys) == 1 or self._driver.scattered:
            return [("GET", _name(key)) for key in keys]
        return [("MGET", *map(_name, keys))] if keys else []

    def _entries(self, keys: Sequence[str], replies: Sequence[Reply], *, last: bool) -> dict[str, Entry | Refused]:
        """Return the entries in *replies*.

        Raises:
            OutOfStepError: If the replies are not for *keys*. At the *last* try, a value for a
                different key was stored that way.
        """
        values: Reply | Sequence[Reply] = replies
        if len(keys) > 1 and not self._driver.scattered:
            values = self._good("read", replies[0])
            if not isinstance(values, list) or len(values) != len(keys):
                raise self._out_of_step("read") if last else OutOfStepError
        now = self._clock.time()
        found: dict[str, Entry | Refused] = {}
        for key, value in zip(keys, values, strict=True):
            if type(value) is not bytes:
                if self._good("read", value) is None:
                    continue
                raise self._out_of_step("read") if last else OutOfStepError
            entry = decode(value, key)
            if entry is FOREIGN and not last:
                raise OutOfStepError
            if isinstance(entry, Refused) or entry.keep_until > now:
                found[key] = entry
        return found

    def set_many(self, entries: Sequence[Entry]) -> None:
        """Store *entries*. If Redis refuses some of them, the rest is stored.

        If Redis is full, the older entries of the refused keys are erased.
        """
        if not entries:
            return
        deadline = time.monotonic() + self.timeout
        replies = self._driver.run("write", self._writing(entries), self.timeout)
        if full := _without_room(entries, replies):
            self._driver.run("delete", self._deleting(full), deadline - time.monotonic())
        self._done("write", replies)

    async def aset_many(self, entries: Sequence[Entry]) -> None:
        """Store *entries*, like `set_many`."""
        if not entries:
            return
        deadline = time.monotonic() + self.timeout
        replies = await self._driver.arun("write", self._writing(entries), self.timeout)
        if full := _without_room(entries, replies):
            await self._driver.arun("delete", self._deleting(full), deadline - time.monotonic())
        self._done("write", replies)

    def _writing(self, entries: Sequence[Entry]) -> list[Command]:
        now = self._clock.time()
        commands: list[Command] = []
        for entry in entries:
            name, left = _name(entry.key), entry.keep_until - now
            if left > 0:
                envelope = encode(entry, with_request=True, compress_from=self._compress_from)
                commands.append(("SET", name, envelope, "PX", int(left * 1000) + 1))
            else:
                # the entry has expired, and so has the one that it replaces
                commands.append(("UNLINK", name))
        return commands

    def delete_many(self, keys: Sequence[str]) -> int:
        """Erase the entries of *keys* and return their number."""
        return self._counted("delete", self._driver.run("delete", self._deleting(keys), self.timeout)) if keys else 0

    async def adelete_many(self, keys: Sequence[str]) -> int:
        """Erase the entries of *keys*, like `delete_many`."""
        return self._counted("delete", await self._driver.arun("delete", self._deleting(keys), self.timeout)) if keys else 0

    def _deleting(self, keys: Sequence[str]) -> list[Command]:
        names = map(_name, dict.fromkeys(keys))
        return [("UNLINK", name) for name in names] if self._driver.scattered else [("UNLINK", *names)]

    # --- queries

    def erase_where(self, namespace: str, scope: Scope, born_before: int) -> int:
        """Erase entries by key, or all entries in *namespace*.

        A search by other criteria would take too long. The entries that a rule makes void are
        ignored and disappear when they expire.
        """
        if scope and scope != Scope(keys=scope.keys):
            return 0
        deadline, erased = time.monotonic() + _COURTESY, 0
        for keys in self._search.batches(namespace, scope):
            void = [entry.key for entry in self._search.facts(keys) if scope.matches(entry) and entry.born.seq < born_before]
            erased += self.delete_many(void)
            if time.monotonic() > deadline:
                break
        return erased

    def count_where(self, namespace: str, scope: Scope) -> int:
        """Return the number of entries that match *scope* and are found in a few seconds."""
        deadline, count, now = time.monotonic() + _SEARCH, 0, self._clock.time()
        for keys in self._search.batches(namespace, scope):
            count += sum(scope.matches(entry) and entry.is_live(now) for entry in self._search.facts(keys))
            if time.monotonic() > deadline:
                break
        return count

    async def aerase_where(self, namespace: str, scope: Scope, born_before: int) -> int:
        """Erase the entries that match *scope*, like `erase_where`."""
        return await self.in_thread(self.erase_where, namespace, scope, born_before)

    async def acount_where(self, namespace: str, scope: Scope) -> int:
        """Return the number of entries that match *scope*."""
        return await self.in_thread(self.count_where, namespace, scope)

    def list_keys(self, namespace: str, after: str | None) -> Page:
        """Return a page of the keys of *namespace*, in no order. A key may be listed twice."""
        return self._search.page(namespace, after)

    async def alist_keys(self, namespace: str, after: str | None) -> Page:
        """Return a page of keys, like `list_keys`."""
        # each server is searched separately, in worker threads
        if self._driver.scattered:
            return await self.in_thread(self.list_keys, namespace, after)
        return await self._search.apage(namespace, after)

    # --- the invalidation log

    def read_log(self, seen: Ticket) -> LogState:
        """Return the current log."""
        return self._log("read the log", self.timeout, *log.command("read", seen))

    def open_log(self, seen: Ticket) -> LogState:
        """Return the log, created if missing."""
        return self._log("open the log", self.timeout, *log.command("open", seen))

    def append_log(self, namespace: str, scope: Scope | None, seen: Ticket, before: int) -> LogState:
        """Add a rule to the log.

        The durability is read from the server each time, because it depends on its settings.
        """
        return self._log("write the log", _PATIENCE, *log.command("append", seen, namespace, scope, before), ask=True)

    def restart_log(self, seen: Ticket) -> LogState:
        """Give an old log a new epoch."""
        return self._log("restart the log", self.timeout, *log.command("restart", seen))

    def _log(self, operation: str, seconds: float, command: Command, nonce: bytes, *, ask: bool = False) -> LogState:
        return self._state(operation, self._driver.run(operation, self._asking(command, ask=ask), seconds), nonce)

    async def aread_log(self, seen: Ticket) -> LogState:
        """Return the current log, like `read_log`."""
        return await self._alog("read the log", self.timeout, *log.command("read", seen))

    async def aopen_log(self, seen: Ticket) -> LogState:
        """Return the log, like `open_log`."""
        return await self._alog("open the log", self.timeout, *log.command("open", seen))

    async def aappend_log(self, namespace: str, scope: Scope | None, seen: Ticket, before: int) -> LogState:
        """Add a rule, like `append_log`."""
        return await self._alog("write the log", _PATIENCE, *log.command("append", seen, namespace, scope, before), ask=True)

    async def arestart_log(self, seen: Ticket) -> LogState:
        """Give an old log a new epoch, like `restart_log`."""
        return await self._alog("restart the log", self.timeout, *log.command("restart", seen))

    async def _alog(self, operation: str, seconds: float, command: Command, nonce: bytes, *, ask: bool = False) -> LogState:
        return self._state(operation, await self._driver.arun(operation, self._asking(command, ask=ask), seconds), nonce)

    def _asking(self, command: Command, *, ask: bool) -> list[Command]:
        if self._driver.scattered:
            return [command]
        return [command, ("ROLE",), *([("INFO", "persistence")] if ask and self._driver.lasting else [])]

    def _state(self, operation: str, replies: Sequence[Reply], nonce: bytes) -> LogState:
        reply = self._good(operation, replies[0])
        # it was demoted from primary and has missed all invalidations since then
        if log.is_replica(replies[1:2]):
            self._driver.drop()
            raise TierUnavailableError(self.name, operation, "the server is a replica")
        if len(replies) > 2:  # noqa: PLR2004 - the third reply is present if it was requested
            self.log_is_durable = log.is_durable(replies[2])
        try:
            return log.state(reply, nonce, self.name)
        except OutOfStepError:
            raise self._out_of_step(operation) from None

    def swap_log_id(self, log_id: int) -> int | None:
        """Store the epoch of the log that applies to this tier; return the previous one."""
        (reply,) = self._driver.run("note the log", [("GETSET", log.LOG_ID_KEY, log_id)], self.timeout)
        before = self._good("note the log", reply)
        return int(before) if isinstance(before, bytes) and before.isdigit() else None

    # --- replies

    def _good(self, operation: str, reply: Reply) -> Reply:
        if isinstance(reply, Exception):
            # the text of the error may repeat the command
            raise refused(self.name, operation, reply) from None
        return reply

    def _done(self, operation: str, replies: Sequence[Reply]) -> None:
        for reply in replies:
            if self._good(operation, reply) not in (b"OK", 0, 1, True):
                raise self._out_of_step(operation)

    def _counted(self, operation: str, replies: Sequence[Reply]) -> int:
        count = 0
        for reply in replies:
            if not isinstance(number := self._good(operation, reply), int):
                raise self._out_of_step(operation)
            count += number
        return count

    def _out_of_step(self, operation: str) -> TierError:
        self._driver.drop()
        return unreachable(self.name, operation, OutOfStepError())

    # --- the end

    def close(self) -> None:
        """Close all connections, also those of event loops. Clients of the caller stay open."""
        self._driver.close()
        super().close()

    async def aclose(self) -> None:
        """Close the connection of the running loop, and then all connections like `close`."""
        self._driver.close_mine()
        await self.in_thread(self.close)

    def __repr__(self) -> str:
        return f"RedisTier(name={self.name!r})"


def _driver(url: str | None, client: Any, async_client: Any, timeout: float, connections: int, name: str) -> Driver:  # noqa: ANN401
    if url is None:
        check_client(client, asynchronous=False)
        if async_client is not None:
            check_client(async_client, asynchronous=True)
        return Client(name, lambda: client, scattered=hasattr(client, "get_primaries"), owned=False, theirs=async_client)
    if (scheme := url.partition("://")[0]) not in SCHEMES:
        raise ConfigurationError.unknown(what="scheme of RedisTier", name=scheme, allowed=SCHEMES)
    if "#" in url:
        msg = "the url of RedisTier must not have options after #. Pass them as arguments"
        raise ConfigurationError(msg)
    address = parse_address(url)
    if address.cluster:
        return Client(name, cluster_client(address, timeout), scattered=True, owned=True)
    return Direct(name, address, connections)


def _without_room(entries: Sequence[Entry], replies: Sequence[Reply]) -> list[str]:
    """Return the keys of *entries* that Redis refused because it is full.

    Redis still holds the older entries of these keys.
    """
    pairs = zip(entries, replies, strict=False)
    return [entry.key for entry, reply in pairs if isinstance(reply, Exception) and code_of(reply) == "OOM"]


def _name(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")
