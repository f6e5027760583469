"""The invalidation log in MongoDB: one document, replaced as a whole and only while it is what was read.

It is written to a majority and to the journal, and read from the primary with proof that there is no newer one (`linearizable`), or
as a majority has it where a server does not know how to prove it. What may be void is so for all, whichever servers fail.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

from bson.int64 import Int64

from layered_cache import _forks
from layered_cache.clocks import Clock
from layered_cache.entry import Ticket
from layered_cache.errors import TierUnavailableError
from layered_cache.invalidation import UNKNOWN, LogState, MemoryLog, Scope, rules_of
from layered_cache.tiers._mongo_errors import refuses_linearizable
from layered_cache.tiers._mongo_halves import Half
from layered_cache.tiers._mongo_handles import Handles

LOG_ID = "log"
SHARED_ID = "shared"

_PATIENCE = 2.0  # seconds that a removal may take: who asks for one must know how it ended, and would rather wait
_TURN = 0.8  # seconds of these for which it waits until others of this process are through
_LOOK_EVERY = 0.002


class MongoLog:
    """The log beside one collection. Its methods take the half through which they ask."""

    def __init__(self, clock: Clock, tier: str, timeout: float) -> None:
        self._clock = clock
        self._tier = tier
        self._timeout = timeout
        self._proves = True  # until a server refuses to
        self.after_fork()
        _forks.restart_in_child(self)

    def after_fork(self) -> None:
        """Nobody of this process is writing."""
        self._writing = threading.Lock()

    async def read(self, half: Half, seen: Ticket) -> LogState:
        """See Authority.read_log."""

        async def work(half: Half, handles: Handles) -> LogState:
            return self._understood(await self._found(half, handles, _newer_than(seen, watched=handles.watched)), seen)

        return await half.call("read the log", "write", work, self._timeout)

    async def open(self, half: Half, seen: Ticket) -> LogState:
        """See Authority.open_log."""

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
        """See Authority.append_log."""

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
        """Have the threads and tasks of this process write one after the other: of many who replace one document at once, one succeeds."""
        writing, until = self._writing, time.monotonic() + _TURN
        while not (mine := writing.acquire(blocking=False)) and time.monotonic() < until:
            await half.pause(_LOOK_EVERY)
        try:
            yield  # also out of turn: who is writing may wait for a server that is silent
        finally:
            if mine:
                writing.release()

    async def restart(self, half: Half, seen: Ticket) -> LogState:
        """See Authority.restart_log."""

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
        """Note that the entries are those of the log *log*; return of which one they were."""

        async def work(half: Half, handles: Handles) -> int | None:
            change = {"$set": {"epoch": Int64(log)}}
            before = await half.settled(handles.log.find_one_and_update({"_id": SHARED_ID}, change, upsert=True))
            return None if before is None else int(before["epoch"])

        return await half.call("note the log", "write", work, self._timeout)

    # --- what touches the server

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
        """Read it as this server has it: if that is not what all have, nothing can be written in its place."""
        found = await half.settled(handles.log.find_one({"_id": LOG_ID}))
        return None if found is None else _log_of(found)

    async def _replaced(self, half: Half, handles: Handles, was: Ticket, log: MemoryLog) -> bool:
        """Write *log* if what is there is still *was*; return whether it was."""
        if was == UNKNOWN:  # somebody else's may come first: then all of this is tried again
            await half.settled(handles.log.insert_one(_document_of(log)))
            return True
        as_it_was = {"_id": LOG_ID, "epoch": {"$eq": Int64(was.epoch)}, "seq": {"$eq": Int64(was.seq)}}
        result = await half.settled(handles.log.replace_one(as_it_was, _document_of(log)))
        return bool(result.matched_count)

    # --- what it says

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
    """Return what of the document is asked for: the rest is known. In the usual case, every second, it is two numbers."""
    if not watched:  # a stand-in, which does not know how to leave out
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
        msg = "a log gives what no log would hold"
        raise ValueError(msg)  # noqa: TRY004 - as for what it holds
    return cast("Sequence[Any]", value)


def _document_of(log: MemoryLog) -> dict[str, Any]:
    return {
        "_id": LOG_ID,
        "epoch": Int64(log.epoch),
        "seq": Int64(log.seq),
        "floors": [[name, Int64(seq)] for name, seq in log.floors.items()],
        "rules": [[Int64(seq), namespace, scope] for seq, namespace, scope in log.lines],
    }
