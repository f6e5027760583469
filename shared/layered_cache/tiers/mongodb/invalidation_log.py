"""The invalidation log in MongoDB: one document, replaced as a whole by compare-and-swap.

It is written to a majority and to the journal. It is read from the primary with proof that there is
no newer primary (`linearizable`). A server that cannot give this proof is read with read concern
`majority`. So an invalidated entry is void for all processes, whichever servers fail.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

from bson.int64 import Int64

from layered_cache._storage.rules import UNKNOWN, LogState, MemoryLog, Scope, rules_of
from layered_cache._util import fork_safety
from layered_cache._util.clocks import Clock
from layered_cache.entry import Ticket
from layered_cache.errors import TierUnavailableError
from layered_cache.tiers.mongodb.clients import Handles
from layered_cache.tiers.mongodb.connection import Half
from layered_cache.tiers.mongodb.errors import refuses_linearizable

LOG_ID = "log"
SHARED_ID = "shared"

# seconds for an invalidation: its caller needs the outcome
_PATIENCE = 2.0
# seconds of `_PATIENCE` to wait for other invalidations of this process
_TURN = 0.8
_LOOK_EVERY = 0.002


class MongoLog:
    """The log of one collection. Its methods take the connection to use."""

    def __init__(self, clock: Clock, tier: str, timeout: float) -> None:
        self._clock = clock
        self._tier = tier
        self._timeout = timeout
        # False as soon as a server refuses the proof
        self._proves = True
        self.after_fork()
        fork_safety.restart_in_child(self)

    def after_fork(self) -> None:
        """Create a new lock: no thread of this process is writing."""
        self._writing = threading.Lock()

    async def read(self, half: Half, seen: Ticket) -> LogState:
        """Return the current log (see `Authority.read_log`)."""

        async def work(half: Half, handles: Handles) -> LogState:
            return self._understood(await self._found(half, handles, _newer_than(seen, watched=handles.watched)), seen)

        return await half.call("read the log", "write", work, self._timeout)

    async def open(self, half: Half, seen: Ticket) -> LogState:
        """Return the log, created if missing (see `Authority.open_log`)."""

        async def work(half: Half, handles: Handles) -> LogState:
            state = self._understood(await self._found(half, handles, _newer_than(seen, watched=handles.watched)), seen)
            while not state.epoch:
                log = MemoryLog(_new_epoch())
                if await self._replaced(half, handles, UNKNOWN, log):
                    return log.state(seen)
                state = self._understood(await self._found(half, handles, None), seen)
            return state

        return await half.call("open the log", "write", work, self._timeout)

    async def append(self, half: Half, namespace: str, scope: Scope | None, seen: Ticket, before: int) -> LogState:
        """Add a rule (see `Authority.append_log`)."""

        async def work(half: Half, handles: Handles) -> LogState:
            async with self._turn(half):
                return await appended(half, handles)

        async def appended(half: Half, handles: Handles) -> LogState:
            while True:
                found = await self._read_whole(half, handles)
                log = found or MemoryLog(_new_epoch())
                was = Ticket(log.epoch, log.seq) if found else UNKNOWN
                if log.is_older(seen):
                    log = MemoryLog(_new_epoch(), seen.seq + 1)
                log.append(namespace, scope, clock=self._clock.time(), before=before)
                if await self._replaced(half, handles, was, log):
                    return self._state(log, seen)

        return await half.call("write the log", "write", work, _PATIENCE)

    @asynccontextmanager
    async def _turn(self, half: Half) -> AsyncGenerator[None]:
        """Serialize the writes of this process.

        Of several concurrent replacements of one document only one would succeed.
        """
        writing, until = self._writing, time.monotonic() + _TURN
        while not (mine := writing.acquire(blocking=False)) and time.monotonic() < until:
            await half.pause(_LOOK_EVERY)
        try:
            # also without the lock: its holder may wait for a server that does not respond
            yield
        finally:
            if mine:
                writing.release()

    async def restart(self, half: Half, seen: Ticket) -> LogState:
        """Give an old log a new epoch (see `Authority.restart_log`)."""

        async def work(half: Half, handles: Handles) -> LogState:
            while True:
                log = await self._read_whole(half, handles)
                if log is None:
                    return LogState(UNKNOWN.epoch)
                if not log.is_older(seen):
                    return self._state(log, seen)
                new = MemoryLog(_new_epoch(), seen.seq + 1)
                if await self._replaced(half, handles, Ticket(log.epoch, log.seq), new):
                    return new.state(seen)

        return await half.call("restart the log", "write", work, self._timeout)

    async def swap(self, half: Half, log: int) -> int | None:
        """Store the epoch *log*, which applies to the entries, and return the previous one."""

        async def work(half: Half, handles: Handles) -> int | None:
            change = {"$set": {"epoch": Int64(log)}}
            before = await half.settled(handles.log.find_one_and_update({"_id": SHARED_ID}, change, upsert=True))
            return None if before is None else int(before["epoch"])

        return await half.call("note the log", "write", work, self._timeout)

    # --- I/O

    async def _found(self, half: Half, handles: Handles, projection: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        if self._proves:
            try:
                return await half.settled(handles.checked_log.find_one({"_id": LOG_ID}, projection))
            except Exception as error:
                if not refuses_linearizable(error):
                    raise
                self._proves = False
        return await half.settled(handles.majority_log.find_one({"_id": LOG_ID}, projection))

    async def _read_whole(self, half: Half, handles: Handles) -> MemoryLog | None:
        """Return the log of this server. If it is not current, it cannot be replaced."""
        found = await half.settled(handles.log.find_one({"_id": LOG_ID}))
        return None if found is None else _log_of(found)

    async def _replaced(self, half: Half, handles: Handles, was: Ticket, log: MemoryLog) -> bool:
        """Write *log* if the stored log still has the position *was*. Return True on success."""
        # a concurrent insert makes this one fail, and then everything is retried
        if was == UNKNOWN:
            await half.settled(handles.log.insert_one(_document_of(log)))
            return True
        as_it_was = {"_id": LOG_ID, "epoch": {"$eq": Int64(was.epoch)}, "seq": {"$eq": Int64(was.seq)}}
        result = await half.settled(handles.log.replace_one(as_it_was, _document_of(log)))
        return bool(result.matched_count)

    # --- parsing

    def _understood(self, found: Mapping[str, Any] | None, seen: Ticket) -> LogState:
        if found is None:
            return LogState(UNKNOWN.epoch)
        try:
            return _state_of(found, seen)
        except (ValueError, TypeError, KeyError) as error:
            raise self._not_understood(error) from error

    def _state(self, log: MemoryLog, seen: Ticket) -> LogState:
        try:
            return log.state(seen)
        except ValueError as error:
            raise self._not_understood(error) from error

    def _not_understood(self, error: Exception) -> TierUnavailableError:
        return TierUnavailableError(self._tier, "read the log", str(error), retryable=False)


def _new_epoch() -> int:
    return secrets.randbits(62) + 1


def _newer_than(seen: Ticket, *, watched: bool) -> Mapping[str, Any] | None:
    """Return the projection for the part of the log that is newer than *seen*.

    In the usual case, every second, it is two numbers.
    """
    # a test double, which does not support projections
    if not watched:
        return None
    same_epoch = {"$eq": ["$epoch", Int64(seen.epoch)]}
    nothing_new = {"$and": [same_epoch, {"$eq": ["$seq", Int64(seen.seq)]}]}
    is_newer = {"$gt": [{"$arrayElemAt": ["$$rule", 0]}, Int64(seen.seq)]}
    return {
        "epoch": 1,
        "seq": 1,
        "floors": {"$cond": [nothing_new, [], "$floors"]},
        "rules": {
            "$cond": [
                same_epoch,
                {"$filter": {"input": "$rules", "as": "rule", "cond": is_newer}},
                "$rules",
            ]
        },
    }


def _state_of(found: Mapping[str, Any], seen: Ticket) -> LogState:
    epoch, seq = int(found["epoch"]), int(found["seq"])
    since = seen.seq if seen.epoch == epoch else 0
    lines = [(int(number), namespace, scope) for number, namespace, scope in _list(found["rules"]) if number > since]
    return LogState(epoch, seq, {name: int(number) for name, number in _list(found["floors"])}, rules_of(lines))


def _log_of(found: Mapping[str, Any]) -> MemoryLog:
    lines = [(int(number), str(namespace), str(scope)) for number, namespace, scope in _list(found["rules"])]
    return MemoryLog(int(found["epoch"]), int(found["seq"]), {name: int(number) for name, number in _list(found["floors"])}, lines)


def _list(value: object) -> Sequence[Any]:
    if not isinstance(value, list):
        msg = "the stored log is invalid"
        raise ValueError(msg)  # noqa: TRY004 - like other invalid contents
    return cast("Sequence[Any]", value)


def _document_of(log: MemoryLog) -> dict[str, Any]:
    return {
        "_id": LOG_ID,
        "epoch": Int64(log.epoch),
        "seq": Int64(log.seq),
        "floors": [[name, Int64(seq)] for name, seq in log.floors.items()],
        "rules": [[Int64(seq), namespace, scope] for seq, namespace, scope in log.lines],
    }
