"""Background write queue: overdue writes, write-behind writes, and writes to a tier that is down.

The queue works in threads, even if async code filled it, because a write must not be lost at the
end of a loop. One daemon thread writes batch after batch. If a tier fails, its writes are retried
with growing pauses until the tier is back. The queue is bounded in bytes: the oldest writes are
dropped and counted. Of two writes of one key to one tier, the newer one wins. Reads of this process
see the queued entries through `pending`.

A write that a tier does not accept must not leave an older value there. So the queue also holds
erasures: a key without an entry. An entry becomes an erasure if the tier refuses it permanently, or
if the queue has no room for it. An entry that is void or expired before it is written erases the
stored entry of its key, unless that one is newer.

The thread also runs maintenance jobs when it is idle: tiers drop entries that have expired or were
found to be void.

The garbage collector does not close a cache without references, because it could run at any point.
Instead, the thread of such a cache writes the rest of the queue and ends. The end of the process
waits two seconds for all queues together.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from layered_cache._engine import exit_hooks
from layered_cache._engine.log_view import Watch
from layered_cache._engine.recorder import Teller
from layered_cache._engine.runtime import broken
from layered_cache._util import fork_safety
from layered_cache._util.clocks import Clock
from layered_cache.entry import Entry
from layered_cache.errors import TierError
from layered_cache.tiers.base import Tier

Writes: TypeAlias = Mapping[str, Entry | None]
"""The entries to write, by key. None means that the entry of the key is erased."""

_BATCH = 64
# a tier can take this much within its timeout; a larger entry is written alone
_BATCH_BYTES = 4 * 1024 * 1024
# attempts to write a larger entry before it is dropped
_TRIES = 5
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 15.0
# seconds after which the idle thread ends; the next write starts a new one
_IDLE = 10.0
# a cache without references gives up a tier when its pause (in seconds) reaches this
_PATIENCE = 3.0
_MOST_COURTESIES = 1000


@dataclass
class _Lane:
    """The queued writes of one tier, the oldest first."""

    tier: Tier
    waiting: OrderedDict[str, Entry | None] = field(default_factory=OrderedDict[str, Entry | None])
    writing: dict[str, Entry | None] = field(default_factory=dict[str, Entry | None])
    # size of the waiting writes
    bytes: int = 0
    pause: float = 0.0
    not_before: float = 0.0
    # attempts to write the large entry that is written alone
    tries: int = 0

    def add(self, key: str, entry: Entry | None) -> None:
        """Queue a write, in place of an older write of its key."""
        self.discard(key)
        self.waiting[key] = entry
        self.bytes += _size(key, entry)

    def discard(self, key: str) -> None:
        """Remove the waiting write of *key*, if there is one."""
        if key in self.waiting:
            self.bytes -= _size(key, self.waiting.pop(key))

    def take_batch(self) -> None:
        """Move the oldest writes to `writing`, as many as a tier can take at once.

        An entry that is larger than a batch is moved alone.
        """
        taken = 0
        while self.waiting and len(self.writing) < _BATCH:
            key = next(iter(self.waiting))
            entry = self.waiting[key]
            taken += _size(key, entry)
            if self.writing and taken > _BATCH_BYTES:
                break
            self.discard(key)
            self.writing[key] = entry

    def retry(self, left: Writes) -> None:
        """Queue *left*, a part of the failed batch, again, with a longer pause each time."""
        self.pause = min(max(self.pause * 2, _FIRST_PAUSE), _LONGEST_PAUSE)
        self.not_before = time.monotonic() + self.pause
        for key in reversed(list(left)):
            # a newer write may have been queued
            if key not in self.waiting:
                self.add(key, left[key])
                self.waiting.move_to_end(key, last=False)

    def make_room(self) -> bool:
        """Replace the oldest waiting entry by an erasure, to free memory.

        If only erasures wait, the oldest one is dropped. The newest write stays.
        """
        if len(self.waiting) < 2:  # noqa: PLR2004 - only the newest write
            return False
        newest = next(reversed(self.waiting))
        while (key := next(iter(self.waiting))) != newest:
            if self.waiting[key] is not None:
                self.add(key, None)
                return True
            self.waiting.move_to_end(key)
        self.waiting.move_to_end(newest)
        self.discard(next(iter(self.waiting)))
        return True


class Backlog:
    """The write queue of one engine.

    Args:
        most_bytes: The maximum size of the waiting writes.
        watch: The log view, which decides if an entry is void when it is written.
        clock: The clock, which decides if an entry has expired.
        tell: Records events.
        owner: The engine that fills the queue.
    """

    def __init__(self, most_bytes: int, watch: Watch, clock: Clock, tell: Teller, owner: weakref.ref[object]) -> None:
        self._most_bytes = most_bytes
        self._watch = watch
        self._clock = clock
        self._tell = tell
        self._owner = owner
        exit_hooks.register(self)
        self.after_fork()
        fork_safety.restart_in_child(self)

    def after_fork(self) -> None:
        """Start with an empty queue: the parent process writes its own entries."""
        # The plain lock is used directly. The methods of Condition are Python code, so an interrupt
        # (Ctrl-C) inside of them could leave the lock held.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._lanes: dict[int, _Lane] = {}
        self._late: deque[tuple[Tier, Writes]] = deque()
        self._courtesies: OrderedDict[object, tuple[Tier, Callable[[], object]]] = OrderedDict()
        self._thread: threading.Thread | None = None
        self._closed = False

    def __len__(self) -> int:
        with self._lock:
            return sum(len(lane.waiting) + len(lane.writing) for lane in self._lanes.values())

    def put(self, tier: Tier, writes: Writes) -> None:
        """Queue *writes* for *tier*."""
        if not writes:
            return
        if self._closed:
            self._tell.dropped(len(writes), tier.name, "the cache is closed")
            return
        with self._lock:
            lane = self._lanes.setdefault(id(tier), _Lane(tier))
            for key, entry in writes.items():
                lane.add(key, entry)
            gone = self._shrink()
            self._start()
            self._changed.notify_all()
        for full in gone:
            self._tell.dropped(1, full.name, "the background queue is full")

    def put_from_anywhere(self, tier: Tier, writes: Writes) -> None:
        """Queue writes like `put`, but without a lock.

        It is called at the end of a coroutine, which may run in the garbage collector.
        """
        self._late.append((tier, writes))

    def take_late(self) -> None:
        """Move the writes of `put_from_anywhere` into the queue."""
        while self._late:
            try:
                tier, writes = self._late.popleft()
            except IndexError:
                # another thread was faster
                return
            self.put(tier, writes)

    def courtesy(self, tier: Tier, name: object, job: Callable[[], object]) -> None:
        """Queue the maintenance *job* of *tier*. It replaces a queued job of the same *name*."""
        if self._closed or len(self._courtesies) >= _MOST_COURTESIES:
            return
        with self._lock:
            self._courtesies[id(tier), name] = (tier, job)
            self._start()
            self._changed.notify_all()

    def pending(self, tier: Tier, keys: Sequence[str]) -> Writes:
        """Return the queued writes of *keys* to *tier*."""
        # no lock on the path of a hit
        if not self._lanes:
            return {}
        with self._lock:
            lane = self._lanes.get(id(tier))
            if lane is None:
                return {}
            places = ((key, lane.waiting if key in lane.waiting else lane.writing) for key in keys)
            return {key: place[key] for key, place in places if key in place}

    def queued(self) -> list[str]:
        """Return the keys of all queued writes."""
        with self._lock:
            return [key for lane in self._lanes.values() for key in (*lane.waiting, *lane.writing)]

    def must_queue(self, tier: Tier, keys: Iterable[str]) -> bool:
        """Return True if a write of *keys* to *tier* must be queued.

        That is the case if the tier is failing, or if older writes of these keys are queued.
        """
        if not self._lanes:
            return False
        with self._lock:
            lane = self._lanes.get(id(tier))
            if lane is None:
                return False
            return lane.pause > 0 or any(key in lane.waiting or key in lane.writing for key in keys)

    def forget(self, keys: Iterable[str]) -> None:
        """Remove the queued writes of *keys* for all tiers."""
        with self._lock:
            for lane in self._lanes.values():
                for key in keys:
                    lane.discard(key)

    def drain(self, timeout: float) -> bool:
        """Wait at most *timeout* seconds until the queue is empty; return True if it is."""
        deadline = time.monotonic() + timeout
        self.take_late()
        with self._lock:
            for lane in self._lanes.values():
                # retry once, now
                lane.not_before = 0.0
            self._start()
            self._changed.notify_all()
            while self._anything and self._thread is not None and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
        while self._anything and self._thread is None and time.monotonic() < deadline:
            # the interpreter is shutting down and starts no more threads
            self.step()
        return not self._anything

    @property
    def _anything(self) -> bool:
        return any(lane.waiting or lane.writing for lane in list(self._lanes.values()))

    def close(self, timeout: float) -> None:
        """Write the queue for at most *timeout* seconds and count the dropped rest.

        Later writes are not accepted.
        """
        self.drain(timeout)
        given_up: list[tuple[_Lane, list[str]]] = []
        with self._lock:
            self._closed = True
            self._courtesies.clear()
            for lane in self._lanes.values():
                # the writes in `writing` may still succeed
                given_up.append((lane, list(lane.waiting)))
                lane.waiting.clear()
                lane.bytes = 0
            self._changed.notify_all()
            thread = self._thread
        for lane, keys in given_up:
            if keys:
                self._tell.dropped(len(keys), lane.tier.name, "the cache was closed before they could be written")
                # the tier works, but had too little time
                if not lane.pause:
                    self._attempt(lane.tier, dict.fromkeys(keys))
        if thread is not None and thread is not threading.current_thread():
            # the thread must not use a tier that is closed next
            thread.join(timeout)

    # --- with the lock held

    def _shrink(self) -> list[Tier]:
        """Drop the oldest entries of the largest lanes until the queue is small enough.

        Return the tier of each dropped entry.
        """
        gone: list[Tier] = []
        while sum(lane.bytes for lane in self._lanes.values()) > self._most_bytes:
            fullest = sorted(self._lanes.values(), key=lambda lane: -lane.bytes)
            lane = next((lane for lane in fullest if lane.make_room()), None)
            if lane is None:
                break
            gone.append(lane.tier)
        return gone

    def _start(self) -> None:
        """Start the thread if there is work and no thread."""
        idle = self._clock.runs_by_itself and (self._thread is None or not self._thread.is_alive())
        if idle and (self._courtesies or any(lane.waiting for lane in self._lanes.values())):
            exit_hooks.write_at_exit()
            self._thread = threading.Thread(target=_work, args=(self,), name="layered-cache writes", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:
                # the interpreter is shutting down: `drain` writes in its own thread
                self._thread = None

    # --- the thread

    def step(self) -> bool:
        """Write one batch, run one maintenance job, or wait for work.

        Return True if the thread must continue.
        """
        self.take_late()
        with self._lock:
            now = time.monotonic()
            waiting = [lane for lane in self._lanes.values() if lane.waiting]
            ready = next((lane for lane in waiting if lane.not_before <= now), None)
            courtesy = None
            if ready is not None:
                ready.take_batch()
            elif self._courtesies:
                courtesy = self._courtesies.popitem(last=False)[1]
            else:
                patience = 0.0 if self._closed and not waiting else _IDLE
                if self._changed.wait(min([patience, *(lane.not_before - now for lane in waiting)])) or waiting:
                    return True
                self._thread = None
                return False
        if ready is not None:
            self._write(ready)
        elif courtesy is not None:
            self._do(*courtesy)
        return True

    def _write(self, lane: _Lane) -> None:
        failed = self._attempt(lane.tier, lane.writing)
        left: Writes = {}
        lost = 0
        if failed is not None and failed.retryable:
            left, lost = self._after_failure(lane)
        elif failed is not None:
            failed, left, lost = self._one_by_one(lane, failed)
        with self._lock:
            if not left:
                lane.pause, lane.not_before, lane.tries = 0.0, 0.0, 0
            elif (self._owner() is not None or lane.pause < _PATIENCE) and not self._closed:
                lane.retry(left)
            else:
                lost += len(left)
            lane.writing.clear()
            if not lane.waiting:
                self._lanes.pop(id(lane.tier), None)
            self._changed.notify_all()
        if failed is not None:
            self._tell.tier_failed(failed, "write")
        if lost:
            self._tell.dropped(lost, lane.tier.name, "the tier did not accept them")

    def _after_failure(self, lane: _Lane) -> tuple[Writes, int]:
        """Return the writes of *lane* to retry, and the number of dropped entries."""
        key, entry = next(iter(lane.writing.items()))
        # such a large entry is alone in its batch
        if _size(key, entry) > _BATCH_BYTES:
            lane.tries += 1
            if lane.tries % _TRIES == 0 and self._attempt(lane.tier, {key: None}) is None:
                # the tier works, but its timeout is too short for this entry
                return {}, 1
        return dict(lane.writing), 0

    def _one_by_one(self, lane: _Lane, refused: TierError) -> tuple[TierError | None, Writes, int]:
        """Try each write alone, so that one bad entry does not fail the rest of its batch.

        Return an error, the writes to retry, and the number of dropped entries.
        """
        failed: TierError | None = None
        left: dict[str, Entry | None] = {}
        lost = 0
        for key, entry in lane.writing.items():
            write, error = entry, refused if len(lane.writing) == 1 else self._attempt(lane.tier, {key: entry})
            failed = failed or error
            if error is not None and not error.retryable:
                lost += 1
                write, error = None, None if entry is None else self._attempt(lane.tier, {key: None})
            if error is not None and error.retryable:
                left[key] = write
        return failed, left, lost

    def _attempt(self, tier: Tier, writes: Writes) -> TierError | None:
        """Do *writes*; return the error if that failed."""
        good = [entry for entry in writes.values() if entry is not None and self._is_worth_it(entry)]
        gone = [key for key, entry in writes.items() if entry is None]
        dead = {key: entry for key, entry in writes.items() if entry is not None and not self._is_worth_it(entry)}
        try:
            if gone:
                tier.delete_many(gone)
            if good:
                tier.set_many(good)
            if dead:
                held = tier.get_many(list(dead))
                tier.delete_many([key for key, entry in held.items() if isinstance(entry, Entry) and _is_as_old(entry, dead[key])])
        except TierError as error:
            return error
        except Exception as error:  # noqa: BLE001
            # a defect of one tier must not stop the writes to other tiers
            return broken(tier, "write", error)
        self._tell.succeeded("write", tier.name)
        return None

    def _do(self, tier: Tier, job: Callable[[], object]) -> None:
        try:
            job()
        except TierError as error:
            self._tell.tier_failed(error)
        except Exception as error:  # noqa: BLE001
            # a defect of one tier must not stop the writes to other tiers
            self._tell.tier_failed(broken(tier, "maintenance", error))

    def _is_worth_it(self, entry: Entry) -> bool:
        return entry.is_live(self._clock.time()) and not self._watch.view.void(entry)


def _is_as_old(entry: Entry, other: Entry) -> bool:
    """Return True if *entry* has the epoch of *other* and is not newer."""
    return entry.born.epoch == other.born.epoch and entry.born.seq <= other.born.seq


def _work(backlog: Backlog) -> None:
    while backlog.step():
        pass


def _size(key: str, entry: Entry | None) -> int:
    # 600 and 200: a rough size of the other fields
    return len(key) + (200 if entry is None else 600 + len(entry.value))
