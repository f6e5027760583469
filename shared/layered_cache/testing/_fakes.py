"""A tier in a dictionary, for tests of what stands above tiers: it can be slow, be broken, and tells what was asked of it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping, Sequence

from layered_cache.clocks import SYSTEM_CLOCK, Clock
from layered_cache.entry import Entry, Refused, Ticket
from layered_cache.errors import TierUnavailableError
from layered_cache.invalidation import LogState, MemoryLog, Scope
from layered_cache.keys import key_prefix
from layered_cache.tiers._tier import Page


class FakeTier:
    """A tier in a dictionary.

    `held` is what it holds, `calls` what was asked of it, one word and the keys each. While `broken`, every call raises; `latency`
    seconds pass at each. Entries are not checked for their end: that is left to who reads.
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
        """Return what is held."""
        if self.latency:
            time.sleep(self.latency)
        return self._get(keys)

    def set_many(self, entries: Sequence[Entry]) -> None:
        """Hold *entries*."""
        if self.latency:
            time.sleep(self.latency)
        self._set(entries)

    def delete_many(self, keys: Sequence[str]) -> int:
        """Hold nothing."""
        if self.latency:
            time.sleep(self.latency)
        return self._delete(keys)

    async def aget_many(self, keys: Sequence[str]) -> Mapping[str, Entry | Refused]:
        """See get_many."""
        await asyncio.sleep(self.latency)
        return self._get(keys)

    async def aset_many(self, entries: Sequence[Entry]) -> None:
        """See set_many."""
        await asyncio.sleep(self.latency)
        self._set(entries)

    async def adelete_many(self, keys: Sequence[str]) -> int:
        """See delete_many."""
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
        """Return keys, two at a time, and the one before once more."""
        self._enter("list")
        keys = [key for key in self.held if key.startswith(key_prefix(namespace))]
        start = int(after or 0)
        return keys[max(0, start - 1) : start + 2], str(start + 2) if start + 2 < len(keys) else None

    async def alist_keys(self, namespace: str, after: str | None) -> Page:
        """See list_keys."""
        await asyncio.sleep(self.latency)
        return self.list_keys(namespace, after)

    def close(self) -> None:
        """Note it."""
        self.calls.append("close")

    async def aclose(self) -> None:
        """See close."""
        self.close()


class FakeAuthority(FakeTier):
    """A fake tier that keeps the invalidation log. `log` is None until somebody makes it; it can be lost, or set back."""

    log_is_durable = True

    def __init__(self, name: str = "authority", *, clock: Clock = SYSTEM_CLOCK, latency: float = 0.0, timeout: float = 1.0) -> None:
        super().__init__(name, latency=latency, timeout=timeout)
        self.log: MemoryLog | None = None
        self.log_is_broken = False
        self._clock = clock
        self._epochs = random.Random(7)  # noqa: S311 - a test's

    def _look(self, what: str) -> None:
        if self.log_is_broken:
            raise TierUnavailableError(self.name, what, "its log is broken")

    def _new_log(self, seq: int = 0) -> MemoryLog:
        self.log = MemoryLog()
        self.log.epoch, self.log.seq = self._epochs.getrandbits(60) + 2, seq
        return self.log

    def read_log(self, seen: Ticket) -> LogState:
        """See Authority."""
        self._look("read the log")
        return LogState(0) if self.log is None else self.log.state(seen)

    def open_log(self, seen: Ticket) -> LogState:
        """See Authority."""
        self._look("open the log")
        return (self.log or self._new_log()).state(seen)

    def append_log(self, namespace: str, scope: Scope | None, seen: Ticket, before: int) -> LogState:
        """See Authority."""
        self._look("write the log")
        self._restart_if_older(seen)
        log = self.log or self._new_log()
        log.append(namespace, scope, clock=self._clock.time(), before=before)
        return log.state(seen)

    def restart_log(self, seen: Ticket) -> LogState:
        """See Authority."""
        self._look("restart the log")
        self._restart_if_older(seen)
        return LogState(0) if self.log is None else self.log.state(seen)

    def _restart_if_older(self, seen: Ticket) -> None:
        if self.log is not None and self.log.epoch == seen.epoch and self.log.seq < seen.seq:
            self._new_log(seen.seq + 1)

    async def aread_log(self, seen: Ticket) -> LogState:
        """See read_log."""
        await asyncio.sleep(0)
        return self.read_log(seen)

    async def aopen_log(self, seen: Ticket) -> LogState:
        """See open_log."""
        await asyncio.sleep(0)
        return self.open_log(seen)

    async def aappend_log(self, namespace: str, scope: Scope | None, seen: Ticket, before: int) -> LogState:
        """See append_log."""
        await asyncio.sleep(0)
        return self.append_log(namespace, scope, seen, before)

    async def arestart_log(self, seen: Ticket) -> LogState:
        """See restart_log."""
        await asyncio.sleep(0)
        return self.restart_log(seen)
