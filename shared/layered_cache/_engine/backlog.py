"""Writes that nobody waits for: what a budget left over, what is written behind, what a tier missed while it was away.

They belong to the blocking world, also when async code asked for them: the end of a loop must not lose a write. One daemon thread
writes, batch by batch; a tier that fails is tried again, ever less often, until it is back. The queue is bounded in bytes: the
oldest writes are dropped, and counted. Of two writes of one key to one tier, the newer wins.

Reads of this process see what is queued, through `pending`.

A cache that nobody refers to any more is not closed by the garbage collector, which could come in the middle of anything: its thread
writes what is left and ends. The end of the process waits for all of them, for two seconds.
"""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from layered_cache import _forks
from layered_cache._engine.telling import Teller
from layered_cache._engine.watch import Watch
from layered_cache.clocks import Clock
from layered_cache.entry import Entry
from layered_cache.errors import TierError
from layered_cache.tiers._tier import Purges, Tier

_BATCH = 64
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 15.0
_IDLE = 10.0  # seconds after which the thread ends; the next write starts another
_PATIENCE = 3.0  # seconds of pause at which a cache that nobody refers to any more gives up a tier
EXIT = 2.0  # seconds that the end of the process, or of a cache, waits


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
        _all.add(self)
        self.after_fork()
        _forks.restart_in_child(self)

    def after_fork(self) -> None:
        """Begin with nothing: what was queued is the parent's to write."""
        self._changed = threading.Condition(threading.Lock())
        self._lanes: dict[int, _Lane] = {}
        self._purges: list[Purges] = []
        self._bytes = 0
        self._thread: threading.Thread | None = None
        self._closed = False

    def __len__(self) -> int:
        with self._changed:
            return sum(len(lane.waiting) + len(lane.writing) for lane in self._lanes.values())

    def put(self, tier: Tier, entries: Iterable[Entry]) -> None:
        """Have *entries* written to *tier* when it is possible."""
        if self._closed:
            self._tell.dropped(len(list(entries)), tier.name, "the cache is closed")
            return
        gone: list[tuple[Tier, int]] = []
        with self._changed:
            lane = self._lanes.setdefault(id(tier), _Lane(tier))
            for entry in entries:
                if (old := lane.waiting.pop(entry.key, None)) is not None:
                    self._bytes -= _size(old)
                lane.waiting[entry.key] = entry
                self._bytes += _size(entry)
            while self._bytes > self._most_bytes:
                fullest = max(self._lanes.values(), key=lambda lane: len(lane.waiting))
                if not fullest.waiting:
                    break
                self._bytes -= _size(fullest.waiting.popitem(last=False)[1])
                gone.append((fullest.tier, 1))
            self._start()
            self._changed.notify_all()
        for full, count in gone:
            self._tell.dropped(count, full.name, "the background queue is full")

    def purge(self, tier: Purges) -> None:
        """Have *tier* let go of what has expired, when there is time."""
        with self._changed:
            if tier not in self._purges and not self._closed:
                self._purges.append(tier)
                self._start()
                self._changed.notify_all()

    def pending(self, tier: Tier, keys: Sequence[str]) -> Mapping[str, Entry]:
        """Return what waits to be written to *tier* under *keys*."""
        if not self._lanes:  # no lock on the way to a hit
            return {}
        with self._changed:
            lane = self._lanes.get(id(tier))
            if lane is None:
                return {}
            found = ((key, lane.waiting.get(key) or lane.writing.get(key)) for key in keys)
            return {key: entry for key, entry in found if entry is not None}

    def must_queue(self, tier: Tier, keys: Iterable[str]) -> bool:
        """Whether a write of *keys* to *tier* has to wait its turn: the tier is failing, or older writes of them are under way."""
        if not self._lanes:
            return False
        with self._changed:
            lane = self._lanes.get(id(tier))
            if lane is None:
                return False
            return lane.pause > 0 or any(key in lane.waiting or key in lane.writing for key in keys)

    def forget(self, keys: Iterable[str]) -> None:
        """Write none of *keys* any more, to any tier."""
        with self._changed:
            for lane in self._lanes.values():
                for key in keys:
                    if (entry := lane.waiting.pop(key, None)) is not None:
                        self._bytes -= _size(entry)

    def drain(self, timeout: float) -> bool:
        """Wait until everything is written, *timeout* seconds at most; return whether it is."""
        deadline = time.monotonic() + timeout
        with self._changed:
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
        if not self.drain(timeout):
            left: list[tuple[Tier, int]] = []
            with self._changed:
                for lane in self._lanes.values():
                    left.append((lane.tier, len(lane.waiting) + len(lane.writing)))
                    lane.waiting.clear()
                self._bytes = 0
            for tier, count in left:
                if count:
                    self._tell.dropped(count, tier.name, "the cache was closed before they could be written")
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    # --- the thread

    def _start(self) -> None:
        """Have a thread, if there is something to do. Called with the lock held."""
        idle = self._thread is None or not self._thread.is_alive()
        if idle and (self._purges or any(lane.waiting for lane in self._lanes.values())):
            self._thread = threading.Thread(target=_write, args=(self,), name="layered-cache writes", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:  # the interpreter is on its way out: who drains will give up
                self._thread = None

    def step(self) -> bool:
        """Write one batch, or wait for a moment in which one could be written; return whether the thread shall go on."""
        with self._changed:
            now = time.monotonic()
            waiting = [lane for lane in self._lanes.values() if lane.waiting]
            ready = next((lane for lane in waiting if lane.not_before <= now), None)
            if ready is not None:
                self._take_batch(ready)
            elif not self._purges:
                if self._changed.wait(min([_IDLE, *(lane.not_before - now for lane in waiting)])) or waiting:
                    return True
                self._thread = None
                return False
        if ready is not None:
            self._write(ready)
        else:
            self._purge()
        return True

    def _take_batch(self, lane: _Lane) -> None:
        for _ in range(min(_BATCH, len(lane.waiting))):
            key, entry = lane.waiting.popitem(last=False)
            self._bytes -= _size(entry)
            lane.writing[key] = entry

    def _write(self, lane: _Lane) -> None:
        failed, done = None, False
        try:
            if entries := [entry for entry in lane.writing.values() if self._is_worth_it(entry)]:
                lane.tier.set_many(entries)
            done = True
        except TierError as error:
            failed = error
        finally:
            lost = 0
            with self._changed:
                if done:
                    lane.pause = lane.not_before = 0.0
                elif failed is not None and failed.retryable and (self._owner() is not None or lane.pause < _PATIENCE):
                    self._bytes += sum(_size(entry) for entry in lane.retry())
                else:
                    lost = len(lane.writing)
                lane.writing.clear()
                if not lane.waiting:
                    self._lanes.pop(id(lane.tier), None)
                self._changed.notify_all()
        if failed is not None:
            self._tell.tier_failed(failed)
        if lost:
            self._tell.dropped(lost, lane.tier.name, "the tier will not take them")

    def _purge(self) -> None:
        tier = self._purges[0]
        try:
            while tier.purge() and not self._lanes and not self._closed:
                pass
        except TierError as error:
            self._tell.tier_failed(error)
        finally:
            self._purges.remove(tier)

    def _is_worth_it(self, entry: Entry) -> bool:
        return entry.is_live(self._clock.time()) and not self._watch.view.void(entry)


def _write(backlog: Backlog) -> None:
    while backlog.step():
        pass


def _size(entry: Entry) -> int:
    return len(entry.value) + len(entry.key) + 600  # the rest of it, roughly


_all: weakref.WeakSet[Backlog] = weakref.WeakSet()


@atexit.register
def _at_exit() -> None:
    deadline = time.monotonic() + EXIT
    for backlog in list(_all):
        backlog.close(max(0.0, deadline - time.monotonic()))
