"""Random faults between a cache and its tiers, repeatable with a seed."""

from __future__ import annotations

import asyncio
import functools
import random
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from layered_cache._storage import envelope
from layered_cache._storage.rules import LogState, Scope
from layered_cache.entry import Entry, Refused, Ticket
from layered_cache.errors import TierUnavailableError
from layered_cache.tiers.base import Authority, Tier

T = TypeVar("T")


class ChaosTier:
    """A tier in front of a real tier that adds faults.

    Several of them may wrap one tier, as the connections of several processes.

    Args:
        tier: The tier that stores the entries.
        seed: The seed of the random faults.
        fails: The share of calls that raise `TierUnavailableError`. Half of them are executed
            first.
        loses: The share of writes that are acknowledged but not executed.
        late: The share of writes that are acknowledged, and executed when `land` is called.
        garbles: The share of entries that are returned with a changed byte, so they are refused.
        delay: The longest additional duration of a call in seconds.
    """

    def __init__(
        self,
        tier: Tier,
        *,
        seed: object = 0,
        fails: float = 0.0,
        loses: float = 0.0,
        late: float = 0.0,
        garbles: float = 0.0,
        delay: float = 0.0,
    ) -> None:
        self.name, self.timeout, self.ttl = tier.name, tier.timeout, tier.ttl
        self.fails, self.loses, self.late, self.garbles, self.delay = fails, loses, late, garbles, delay
        self._tier = tier
        # a test needs no secure random numbers
        self._random = random.Random(str(seed))
        self._lock = threading.Lock()
        self._under_way: list[Sequence[Entry]] = []

    @property
    def under_way(self) -> int:
        """The number of writes that were acknowledged but not executed yet."""
        return len(self._under_way)

    def land(self) -> None:
        """Execute one of the late writes, chosen at random. It overwrites newer entries."""
        with self._lock:
            entries = self._under_way.pop(self._random.randrange(len(self._under_way)))
        self._tier.set_many(entries)

    def get_many(self, keys: Sequence[str]) -> Mapping[str, Entry | Refused]:
        """Return the entries of *keys*, with faults."""
        return self._read(self._call("get", lambda: self._tier.get_many(keys)))

    def set_many(self, entries: Sequence[Entry]) -> None:
        """Store *entries*, with faults."""
        if self._write_goes_through(entries):
            self._call("set", lambda: self._tier.set_many(entries))

    def delete_many(self, keys: Sequence[str]) -> int:
        """Erase the entries of *keys*, with faults."""
        return self._call("delete", lambda: self._tier.delete_many(keys))

    def close(self) -> None:
        """Leave the tier open, because it may be shared."""

    async def aget_many(self, keys: Sequence[str]) -> Mapping[str, Entry | Refused]:
        """Return the entries of *keys*, like `get_many`."""
        return self._read(await self._acall("get", lambda: self._tier.aget_many(keys)))

    async def aset_many(self, entries: Sequence[Entry]) -> None:
        """Store *entries*, like `set_many`."""
        if self._write_goes_through(entries):
            await self._acall("set", lambda: self._tier.aset_many(entries))

    async def adelete_many(self, keys: Sequence[str]) -> int:
        """Erase the entries of *keys*, like `delete_many`."""
        return await self._acall("delete", lambda: self._tier.adelete_many(keys))

    async def aclose(self) -> None:
        """Leave the tier open, like `close`."""

    # --- randomness

    def _happens(self, share: float) -> bool:
        with self._lock:
            return share > 0 and self._random.random() < share

    def _pause(self) -> float:
        with self._lock:
            return self._random.uniform(0, self.delay) if self.delay else 0.0

    def _call(self, what: str, work: Callable[[], T]) -> T:
        if pause := self._pause():
            time.sleep(pause)
        if not self._happens(self.fails):
            return work()
        if self._happens(0.5):
            work()
        raise self._failure(what)

    async def _acall(self, what: str, work: Callable[[], Awaitable[T]]) -> T:
        await asyncio.sleep(self._pause())
        if not self._happens(self.fails):
            return await work()
        if self._happens(0.5):
            await work()
        raise self._failure(what)

    def _failure(self, what: str) -> TierUnavailableError:
        return TierUnavailableError(self.name, what, "by chance")

    def _write_goes_through(self, entries: Sequence[Entry]) -> bool:
        if self._happens(self.loses):
            return False
        if self._happens(self.late):
            with self._lock:
                self._under_way.append(entries)
            return False
        return True

    def _read(self, held: Mapping[str, Entry | Refused]) -> Mapping[str, Entry | Refused]:
        return {key: self._garbled(entry) if self._happens(self.garbles) else entry for key, entry in held.items()}

    def _garbled(self, entry: Entry | Refused) -> Entry | Refused:
        if isinstance(entry, Refused):
            return entry
        data = bytearray(envelope.encode(entry))
        with self._lock:
            data[self._random.randrange(len(data))] ^= self._random.randrange(1, 256)
        return envelope.decode(bytes(data), key=entry.key)


class ChaosAuthority(ChaosTier):
    """Adds faults in front of a tier that stores the invalidation log.

    Calls to the log fail too.
    """

    @functools.cached_property
    def _authority(self) -> Authority:
        if not isinstance(self._tier, Authority):
            msg = f"{self._tier.name} does not store the invalidation log. Use ChaosTier"
            raise TypeError(msg)
        return self._tier

    @property
    def log_is_durable(self) -> bool:
        """True if the log of the tier is durable."""
        return self._authority.log_is_durable

    def read_log(self, seen: Ticket) -> LogState:
        """Return the current log, with faults."""
        return self._call("read the log", lambda: self._authority.read_log(seen))

    def open_log(self, seen: Ticket) -> LogState:
        """Return the log, with faults."""
        return self._call("open the log", lambda: self._authority.open_log(seen))

    def append_log(self, namespace: str, scope: Scope | None, seen: Ticket, before: int) -> LogState:
        """Add a rule, with faults."""
        return self._call("write the log", lambda: self._authority.append_log(namespace, scope, seen, before))

    def restart_log(self, seen: Ticket) -> LogState:
        """Give an old log a new epoch, with faults."""
        return self._call("restart the log", lambda: self._authority.restart_log(seen))

    async def aread_log(self, seen: Ticket) -> LogState:
        """Return the current log, like `read_log`."""
        return await self._acall("read the log", lambda: self._authority.aread_log(seen))

    async def aopen_log(self, seen: Ticket) -> LogState:
        """Return the log, like `open_log`."""
        return await self._acall("open the log", lambda: self._authority.aopen_log(seen))

    async def aappend_log(self, namespace: str, scope: Scope | None, seen: Ticket, before: int) -> LogState:
        """Add a rule, like `append_log`."""
        return await self._acall("write the log", lambda: self._authority.aappend_log(namespace, scope, seen, before))

    async def arestart_log(self, seen: Ticket) -> LogState:
        """Give an old log a new epoch, like `restart_log`."""
        return await self._acall("restart the log", lambda: self._authority.arestart_log(seen))
