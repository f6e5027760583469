"""Writes that nobody waits for: what a budget left over, what is written behind, what a tier missed while it was away.

They belong to the blocking world, also when async code asked for them: the end of a loop must not lose a write. One daemon thread
writes, batch by batch; a tier that fails is tried again, ever less often, until it is back. The queue is bounded in bytes: the
oldest writes are dropped, and counted. Of two writes of one key to one tier, the newer wins. Reads of this process see what is
queued, through `pending`.

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

from layered_cache import _forks
from layered_cache._engine import exit_hooks
from layered_cache._engine.effects import broken
from layered_cache._engine.telling import Teller
from layered_cache._engine.watch import Watch
from layered_cache.clocks import Clock
from layered_cache.entry import Entry
from layered_cache.errors import TierError
from layered_cache.tiers._tier import Tier

_BATCH = 64
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 15.0
_IDLE = 10.0  # seconds after which the thread ends; the next write starts another
_PATIENCE = 3.0  # seconds of pause at which a cache that nobody refers to any more gives up a tier
_MOST_COURTESIES = 1000


@dataclass
class _Lane:
    """What waits for one tier, the oldest first."""

    tier: Tier
    waiting: OrderedDict[str, Entry] = field(default_factory=OrderedDict[str, Entry])
    writing: dict[str, Entry] = field(default_factory=dict[str, Entry])
    pause: float = 0.0
    not_before: float = 0.0

    def retry(self) -> list[Entry]:
        """Have what was being written wait again, longer each time; return what does."""
        self.pause = min(max(self.pause * 2, _FIRST_PAUSE), _LONGEST_PAUSE)
        self.not_before = time.monotonic() + self.pause
        again = [entry for key, entry in self.writing.items() if key not in self.waiting]  # a newer one may have come
        for entry in reversed(again):
            self.waiting[entry.key] = entry
            self.waiting.move_to_end(entry.key, last=False)
        return again


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
        self._late: deque[tuple[Tier, Sequence[Entry]]] = deque()
        self._courtesies: OrderedDict[object, tuple[Tier, Callable[[], object]]] = OrderedDict()
        self._bytes = 0
        self._thread: threading.Thread | None = None
        self._closed = False

    def __len__(self) -> int:
        with self._lock:
            return sum(len(lane.waiting) + len(lane.writing) for lane in self._lanes.values())

    def put(self, tier: Tier, entries: Sequence[Entry]) -> None:
        """Have *entries* written to *tier* when it is possible."""
        if self._closed:
            self._tell.dropped(len(entries), tier.name, "the cache is closed")
            return
        with self._lock:
            self._enqueue(tier, entries)
            gone = self._shrink()
            self._start()
            self._changed.notify_all()
        for full in gone:
            self._tell.dropped(1, full.name, "the background queue is full")

    def put_from_anywhere(self, tier: Tier, entries: Sequence[Entry]) -> None:
        """As `put`, but without a lock: for the end of a coroutine, which may come in the garbage collector."""
        self._late.append((tier, entries))

    def take_late(self) -> None:
        """Queue what came from anywhere."""
        while self._late:
            try:
                tier, entries = self._late.popleft()
            except IndexError:  # another thread was faster
                return
            self.put(tier, entries)

    def courtesy(self, tier: Tier, name: object, job: Callable[[], object]) -> None:
        """Have *job* done for *tier* when there is time; another one of that *name* stands for both."""
        if self._closed or len(self._courtesies) >= _MOST_COURTESIES:
            return
        with self._lock:
            self._courtesies[id(tier), name] = (tier, job)
            self._start()
            self._changed.notify_all()

    def pending(self, tier: Tier, keys: Sequence[str]) -> Mapping[str, Entry]:
        """Return what waits to be written to *tier* under *keys*."""
        if not self._lanes:  # no lock on the way to a hit
            return {}
        with self._lock:
            lane = self._lanes.get(id(tier))
            if lane is None:
                return {}
            found = ((key, lane.waiting.get(key) or lane.writing.get(key)) for key in keys)
            return {key: entry for key, entry in found if entry is not None}

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
                    if (entry := lane.waiting.pop(key, None)) is not None:
                        self._bytes -= _size(entry)

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
        given_up: list[tuple[Tier, int]] = []
        with self._lock:
            self._closed = True
            self._courtesies.clear()
            for lane in self._lanes.values():
                given_up.append((lane.tier, len(lane.waiting)))  # what is being written may still land
                lane.waiting.clear()
            self._bytes = 0
            self._changed.notify_all()
            thread = self._thread
        for tier, count in given_up:
            if count:
                self._tell.dropped(count, tier.name, "the cache was closed before they could be written")
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)  # so that it does not use a tier that is closed next

    # --- under the lock

    def _enqueue(self, tier: Tier, entries: Iterable[Entry]) -> None:
        lane = self._lanes.setdefault(id(tier), _Lane(tier))
        for entry in entries:
            if (old := lane.waiting.pop(entry.key, None)) is not None:
                self._bytes -= _size(old)
            lane.waiting[entry.key] = entry
            self._bytes += _size(entry)

    def _shrink(self) -> list[Tier]:
        """Drop the oldest writes of the fullest lane while too much waits; return whose they were."""
        gone: list[Tier] = []
        while self._bytes > self._most_bytes:
            fullest = max(self._lanes.values(), key=lambda lane: len(lane.waiting))
            if not fullest.waiting:
                break
            self._bytes -= _size(fullest.waiting.popitem(last=False)[1])
            gone.append(fullest.tier)
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

    def _take_batch(self, lane: _Lane) -> None:
        for _ in range(min(_BATCH, len(lane.waiting))):
            key, entry = lane.waiting.popitem(last=False)
            self._bytes -= _size(entry)
            lane.writing[key] = entry

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
                self._take_batch(ready)
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
        entries = [entry for entry in lane.writing.values() if self._is_worth_it(entry)]
        failed = _attempt(lane.tier, entries)
        lost = 0
        if failed is not None and not failed.retryable and len(entries) > 1:
            # one of them is to blame: the others shall not go down with it
            failures = [error for entry in entries if (error := _attempt(lane.tier, [entry])) is not None]
            failed, lost = (failures[0] if failures else None), len(failures)
        elif failed is not None and not failed.retryable:
            lost = len(entries)
        with self._lock:
            if failed is None:
                lane.pause = lane.not_before = 0.0
            elif failed.retryable and (self._owner() is not None or lane.pause < _PATIENCE) and not self._closed:
                self._bytes += sum(_size(entry) for entry in lane.retry())
            else:
                lost = lost or len(entries)
            lane.writing.clear()
            if not lane.waiting:
                self._lanes.pop(id(lane.tier), None)
            self._changed.notify_all()
        if failed is not None:
            self._tell.tier_failed(failed)
        if lost:
            self._tell.dropped(lost, lane.tier.name, "the tier would not take them")

    def _do(self, tier: Tier, job: Callable[[], object]) -> None:
        try:
            job()
        except TierError as error:
            self._tell.tier_failed(error)
        except Exception as error:  # noqa: BLE001 - a tier's defect must not end the writing of the others
            self._tell.tier_failed(broken(tier, "a courtesy", error))

    def _is_worth_it(self, entry: Entry) -> bool:
        return entry.is_live(self._clock.time()) and not self._watch.view.void(entry)


def _attempt(tier: Tier, entries: Sequence[Entry]) -> TierError | None:
    """Write *entries*, and return how that failed, if it did."""
    try:
        if entries:
            tier.set_many(entries)
    except TierError as error:
        return error
    except Exception as error:  # noqa: BLE001 - a tier's defect must not end the writing of the others
        return broken(tier, "write", error)
    return None


def _work(backlog: Backlog) -> None:
    while backlog.step():
        pass


def _size(entry: Entry) -> int:
    return len(entry.value) + len(entry.key) + 600  # the rest of it, roughly
