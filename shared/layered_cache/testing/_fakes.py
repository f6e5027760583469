"""A tier in a dictionary for tests. It can be slow or broken, and it records its calls."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping, Sequence

from layered_cache._storage.rules import LogState, MemoryLog, Scope
from layered_cache._util.clocks import SYSTEM_CLOCK, Clock
from layered_cache.entry import Entry, Refused, Ticket
from layered_cache.errors import TierUnavailableError
from layered_cache.keys.keys import key_prefix
from layered_cache.tiers.base import Page


class FakeTier:
    """A tier in a dictionary.

    `held` contains its entries. `calls` contains its calls, each as one word and the keys. While
    `broken` is true, every call raises an error. Each call takes `latency` seconds. Expired entries
    are returned, since the reader checks the expiry.
    """

    def __init__(self, name: str = "fake", *, latency: float = 0.0, timeout: float = 1.0, ttl: float | None = None) -> None:
        self.name = name
        self.timeout = timeout
        self.ttl = ttl
        self.latency = latency
        self.broken = False
        self.held: dict[str, Entry | Refused] = {}
        self.calls: list[str] = []

    def _enter(self, what: str, keys: Sequence[str] = ()) -> None:
        self.calls.append(" ".join((what, *keys)))
        if self.broken:
            raise TierUnavailableError(self.name, what, "it is broken")

    def get_many(self, keys: Sequence[str]) -> Mapping[str, Entry | Refused]:
        """Return the entries of *keys*."""
        if self.latency:
            time.sleep(self.latency)
        return self._get(keys)

    def set_many(self, entries: Sequence[Entry]) -> None:
        """Store *entries*."""
        if self.latency:
            time.sleep(self.latency)
        self._set(entries)

    def delete_many(self, keys: Sequence[str]) -> int:
        """Erase the entries of *keys*."""
        if self.latency:
            time.sleep(self.latency)
        return self._delete(keys)

    async def aget_many(self, keys: Sequence[str]) -> Mapping[str, Entry | Refused]:
        """Return the entries of *keys*, like `get_many`."""
        await asyncio.sleep(self.latency)
        return self._get(keys)

    async def aset_many(self, entries: Sequence[Entry]) -> None:
        """Store *entries*, like `set_many`."""
        await asyncio.sleep(self.latency)
        self._set(entries)

    async def adelete_many(self, keys: Sequence[str]) -> int:
        """Erase the entries of *keys*, like `delete_many`."""
        await asyncio.sleep(self.latency)
        return self._delete(keys)

    def _get(self, keys: Sequence[str]) -> Mapping[str, Entry | Refused]:
        self._enter("get", keys)
        return {key: self.held[key] for key in keys if key in self.held}

    def _set(self, entries: Sequence[Entry]) -> None:
        self._enter("set", [entry.key for entry in entries])
        self.held.update((entry.key, entry) for entry in entries)

    def _delete(self, keys: Sequence[str]) -> int:
        self._enter("delete", keys)
        return sum(self.held.pop(key, None) is not None for key in keys)

    def list_keys(self, namespace: str, after: str | None) -> Page:
        """Return a page of two keys, preceded by the last key of the page before."""
        self._enter("list")
        keys = [key for key in self.held if key.startswith(key_prefix(namespace))]
        start = int(after or 0)
        return keys[max(0, start - 1) : start + 2], str(start + 2) if start + 2 < len(keys) else None

    async def alist_keys(self, namespace: str, after: str | None) -> Page:
        """Return a page of keys, like `list_keys`."""
        await asyncio.sleep(self.latency)
        return self.list_keys(namespace, after)

    def close(self) -> None:
        """Record the call."""
        self.calls.append("close")

    async def aclose(self) -> None:
        """Record the call, like `close`."""
        self.close()


class FakeAuthority(FakeTier):
    """A fake tier that stores the invalidation log.

    `log` is None until it is created. A test can remove it or restore an older one.
    """

    log_is_durable = True

    def __init__(self, name: str = "authority", *, clock: Clock = SYSTEM_CLOCK, latency: float = 0.0, timeout: float = 1.0) -> None:
        super().__init__(name, latency=latency, timeout=timeout)
        self.log: MemoryLog | None = None
        self.log_is_broken = False
        self._clock = clock
        self._epochs = random.Random(7)  # noqa: S311 - a test needs no secure random numbers

    def _look(self, what: str) -> None:
        if self.log_is_broken:
            raise TierUnavailableError(self.name, what, "its log is broken")

    def _new_log(self, seq: int = 0) -> MemoryLog:
        self.log = MemoryLog()
        self.log.epoch, self.log.seq = self._epochs.getrandbits(60) + 2, seq
        return self.log

    def read_log(self, seen: Ticket) -> LogState:
        """Return the current log."""
        self._look("read the log")
        return LogState(0) if self.log is None else self.log.state(seen)

    def open_log(self, seen: Ticket) -> LogState:
        """Return the log, created if missing."""
        self._look("open the log")
        return (self.log or self._new_log()).state(seen)

    def append_log(self, namespace: str, scope: Scope | None, seen: Ticket, before: int) -> LogState:
        """Add a rule to the log."""
        self._look("write the log")
        self._restart_if_older(seen)
        log = self.log or self._new_log()
        log.append(namespace, scope, clock=self._clock.time(), before=before)
        return log.state(seen)

    def restart_log(self, seen: Ticket) -> LogState:
        """Give an old log a new epoch."""
        self._look("restart the log")
        self._restart_if_older(seen)
        return LogState(0) if self.log is None else self.log.state(seen)

    def _restart_if_older(self, seen: Ticket) -> None:
        if self.log is not None and self.log.epoch == seen.epoch and self.log.seq < seen.seq:
            self._new_log(seen.seq + 1)

    async def aread_log(self, seen: Ticket) -> LogState:
        """Return the current log, like `read_log`."""
        await asyncio.sleep(0)
        return self.read_log(seen)

    async def aopen_log(self, seen: Ticket) -> LogState:
        """Return the log, like `open_log`."""
        await asyncio.sleep(0)
        return self.open_log(seen)

    async def aappend_log(self, namespace: str, scope: Scope | None, seen: Ticket, before: int) -> LogState:
        """Add a rule, like `append_log`."""
        await asyncio.sleep(0)
        return self.append_log(namespace, scope, seen, before)

    async def arestart_log(self, seen: Ticket) -> LogState:
        """Give an old log a new epoch, like `restart_log`."""
        await asyncio.sleep(0)
        return self.restart_log(seen)
