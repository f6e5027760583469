"""Writes that nobody waits for: what a budget left over, what is written behind, what a tier missed while it was away.

They belong to the blocking world, also when async code asked for them: the end of a loop must not lose a write. One daemon thread
writes, batch by batch; a tier that fails is tried again, ever less often, until it is back. The queue is bounded in bytes: the
oldest writes are dropped, and counted. Of two writes of one key to one tier, the newer wins. Reads of this process see what is
queued, through `pending`.

A write that a tier does not take must not leave an older value there. So the queue also holds erasures: a key without an entry. An entry
becomes one if the tier refuses it for good, or if the queue has no room for it. An entry that is void or expired before it is written
erases the entry of its key if that is not newer.

Beside writes, the thread does small courtesies when it has time: to let tiers forget what has expired, or was found to be void.

A cache that nobody refers to any more is not closed by the garbage collector, which could come in the middle of anything: its thread
writes what is left and ends. The end of the process waits for all of them, for two seconds.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from layered_cache import _forks
from layered_cache._engine import exit_hooks
from layered_cache._engine.effects import broken
from layered_cache._engine.telling import Teller
from layered_cache._engine.watch import Watch
from layered_cache.clocks import Clock
from layered_cache.entry import Entry
from layered_cache.errors import TierError
from layered_cache.tiers._tier import Tier

Writes: TypeAlias = Mapping[str, Entry | None]
"""The entries to write, by key. None: the entry of this key is erased."""

_BATCH = 64
_BATCH_BYTES = 4 * 1024 * 1024  # a tier can take so much within its budget; a larger entry is written alone
_TRIES = 5  # of a larger entry, before it is given up
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 15.0
_IDLE = 10.0  # seconds after which the thread ends; the next write starts another
_PATIENCE = 3.0  # seconds of pause at which a cache that nobody refers to any more gives up a tier
_MOST_COURTESIES = 1000


@dataclass
class _Lane:
    """What waits for one tier, the oldest first."""

    tier: Tier
    waiting: OrderedDict[str, Entry | None] = field(default_factory=OrderedDict[str, Entry | None])
    writing: dict[str, Entry | None] = field(default_factory=dict[str, Entry | None])
    bytes: int = 0  # of the waiting ones
    pause: float = 0.0
    not_before: float = 0.0
    tries: int = 0  # of the large entry that is written alone

    def add(self, key: str, entry: Entry | None) -> None:
        """Have a write wait, in place of an older one of its key."""
        self.discard(key)
        self.waiting[key] = entry
        self.bytes += _size(key, entry)

    def discard(self, key: str) -> None:
        """Forget the write of *key* that waits, if there is one."""
        if key in self.waiting:
            self.bytes -= _size(key, self.waiting.pop(key))

    def take_batch(self) -> None:
        """Begin to write the oldest ones: as many as a tier can take at once, or a larger one alone."""
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
        """Have *left*, of those that were being written, wait again, longer each time."""
        self.pause = min(max(self.pause * 2, _FIRST_PAUSE), _LONGEST_PAUSE)
        self.not_before = time.monotonic() + self.pause
        for key in reversed(list(left)):
            if key not in self.waiting:  # a newer one may have come
                self.add(key, left[key])
                self.waiting.move_to_end(key, last=False)

    def make_room(self) -> bool:
        """Replace the oldest entry that waits by an erasure. If there are erasures alone, forget the oldest; the newest write stays."""
        if len(self.waiting) < 2:  # noqa: PLR2004 - the newest one
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
    """The queue of one engine.

    Args:
        most_bytes: What may wait.
        watch: Tells which entries are void by the time their turn comes.
        clock: Tells which have expired.
        tell: Takes events.
        owner: Who puts into it.
    """

    def __init__(self, most_bytes: int, watch: Watch, clock: Clock, tell: Teller, owner: weakref.ref[object]) -> None:
        self._most_bytes = most_bytes
        self._watch = watch
        self._clock = clock
        self._tell = tell
        self._owner = owner
        exit_hooks.register(self)
        self.after_fork()
        _forks.restart_in_child(self)

    def after_fork(self) -> None:
        """Begin with nothing: what was queued is the parent's to write."""
        # taken as what it is: in a condition's own steps of Python, an interrupt (Ctrl-C) could leave it taken
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
        """Have *writes* done by *tier* when it is possible."""
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
        """As `put`, but without a lock: for the end of a coroutine, which may come in the garbage collector."""
        self._late.append((tier, writes))

    def take_late(self) -> None:
        """Queue what came from anywhere."""
        while self._late:
            try:
                tier, writes = self._late.popleft()
            except IndexError:  # another thread was faster
                return
            self.put(tier, writes)

    def courtesy(self, tier: Tier, name: object, job: Callable[[], object]) -> None:
        """Have *job* done for *tier* when there is time; another one of that *name* stands for both."""
        if self._closed or len(self._courtesies) >= _MOST_COURTESIES:
            return
        with self._lock:
            self._courtesies[id(tier), name] = (tier, job)
            self._start()
            self._changed.notify_all()

    def pending(self, tier: Tier, keys: Sequence[str]) -> Writes:
        """Return the writes of *keys* that *tier* has not done yet."""
        if not self._lanes:  # no lock on the way to a hit
            return {}
        with self._lock:
            lane = self._lanes.get(id(tier))
            if lane is None:
                return {}
            places = ((key, lane.waiting if key in lane.waiting else lane.writing) for key in keys)
            return {key: place[key] for key, place in places if key in place}

    def queued(self) -> list[str]:
        """Return the keys under which something waits to be written."""
        with self._lock:
            return [key for lane in self._lanes.values() for key in (*lane.waiting, *lane.writing)]

    def must_queue(self, tier: Tier, keys: Iterable[str]) -> bool:
        """Whether a write of *keys* to *tier* has to wait its turn: the tier is failing, or older writes of them are under way."""
        if not self._lanes:
            return False
        with self._lock:
            lane = self._lanes.get(id(tier))
            if lane is None:
                return False
            return lane.pause > 0 or any(key in lane.waiting or key in lane.writing for key in keys)

    def forget(self, keys: Iterable[str]) -> None:
        """Write none of *keys* any more, to any tier."""
        with self._lock:
            for lane in self._lanes.values():
                for key in keys:
                    lane.discard(key)

    def drain(self, timeout: float) -> bool:
        """Wait until everything is written, *timeout* seconds at most; return whether it is."""
        deadline = time.monotonic() + timeout
        self.take_late()
        with self._lock:
            for lane in self._lanes.values():
                lane.not_before = 0.0  # try once more, now
            self._start()
            self._changed.notify_all()
            while self._anything and self._thread is not None and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
        while self._anything and self._thread is None and time.monotonic() < deadline:
            self.step()  # no thread can be started any more: the interpreter is on its way out
        return not self._anything

    @property
    def _anything(self) -> bool:
        return any(lane.waiting or lane.writing for lane in list(self._lanes.values()))

    def close(self, timeout: float) -> None:
        """Write what waits, for *timeout* seconds at most, and count what is given up. Later writes are not taken."""
        self.drain(timeout)
        given_up: list[tuple[_Lane, list[str]]] = []
        with self._lock:
            self._closed = True
            self._courtesies.clear()
            for lane in self._lanes.values():
                given_up.append((lane, list(lane.waiting)))  # what is being written may still land
                lane.waiting.clear()
                lane.bytes = 0
            self._changed.notify_all()
            thread = self._thread
        for lane, keys in given_up:
            if keys:
                self._tell.dropped(len(keys), lane.tier.name, "the cache was closed before they could be written")
                if not lane.pause:  # the tier works, and had too little time
                    self._attempt(lane.tier, dict.fromkeys(keys))
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)  # so that it does not use a tier that is closed next

    # --- under the lock

    def _shrink(self) -> list[Tier]:
        """Give up the oldest entries of the fullest lane while too much waits; return the tier of each."""
        gone: list[Tier] = []
        while sum(lane.bytes for lane in self._lanes.values()) > self._most_bytes:
            fullest = sorted(self._lanes.values(), key=lambda lane: -lane.bytes)
            lane = next((lane for lane in fullest if lane.make_room()), None)
            if lane is None:
                break
            gone.append(lane.tier)
        return gone

    def _start(self) -> None:
        """Have a thread, if there is something to do."""
        idle = self._clock.runs_by_itself and (self._thread is None or not self._thread.is_alive())
        if idle and (self._courtesies or any(lane.waiting for lane in self._lanes.values())):
            exit_hooks.write_at_exit()
            self._thread = threading.Thread(target=_work, args=(self,), name="layered-cache writes", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:  # the interpreter is on its way out: who drains writes by himself
                self._thread = None

    # --- the thread

    def step(self) -> bool:
        """Write one batch, or do a courtesy, or wait for a moment in which one could; return whether the thread shall go on."""
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
            self._tell.dropped(lost, lane.tier.name, "the tier would not take them")

    def _after_failure(self, lane: _Lane) -> tuple[Writes, int]:
        """Return the writes of *lane* that are to be tried again, and how many entries are given up."""
        key, entry = next(iter(lane.writing.items()))
        if _size(key, entry) > _BATCH_BYTES:  # it is alone
            lane.tries += 1
            if lane.tries % _TRIES == 0 and self._attempt(lane.tier, {key: None}) is None:
                return {}, 1  # the tier works, but has never enough time for so much
        return dict(lane.writing), 0

    def _one_by_one(self, lane: _Lane, refused: TierError) -> tuple[TierError | None, Writes, int]:
        """Try each write alone, so that one bad entry does not take the rest of the batch with it.

        Return an error, the writes that are to be tried again, and how many entries are given up.
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
        """Do *writes*, and return how that failed, if it did."""
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
        except Exception as error:  # noqa: BLE001 - a tier's defect must not end the writing of the others
            return broken(tier, "write", error)
        self._tell.succeeded("write", tier.name)
        return None

    def _do(self, tier: Tier, job: Callable[[], object]) -> None:
        try:
            job()
        except TierError as error:
            self._tell.tier_failed(error)
        except Exception as error:  # noqa: BLE001 - a tier's defect must not end the writing of the others
            self._tell.tier_failed(broken(tier, "a courtesy", error))

    def _is_worth_it(self, entry: Entry) -> bool:
        return entry.is_live(self._clock.time()) and not self._watch.view.void(entry)


def _is_as_old(entry: Entry, other: Entry) -> bool:
    """Return True if *entry* is of the same log as *other*, and was not born later."""
    return entry.born.epoch == other.born.epoch and entry.born.seq <= other.born.seq


def _work(backlog: Backlog) -> None:
    while backlog.step():
        pass


def _size(key: str, entry: Entry | None) -> int:
    return len(key) + (200 if entry is None else 600 + len(entry.value))  # the rest of it, roughly
