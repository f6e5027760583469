"""A few threads of one's own, for clients that can only block.

The default executor belongs to the application, which may fill it with callers that wait for this very cache. These threads are daemons, so
that a store that hangs does not keep a process alive. None is started at import, and none is left after a fork.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeAlias, TypeVar

from layered_cache import _forks
from layered_cache.errors import TierTimeoutError, TierUnavailableError

T = TypeVar("T")

_MOST_WAITING = 10_000

_Job: TypeAlias = "tuple[asyncio.AbstractEventLoop | None, asyncio.Future[Any] | Future[Any], Callable[..., Any], tuple[Any, ...]]"


class Workers:
    """A few threads, started as they are needed, that run functions for event loops, or for threads that will not wait for ever.

    Raises:
        TierError: From `run` and `wait`, if too many wait, or no thread can be started.
    """

    def __init__(self, tier: str, most: int) -> None:
        self._tier = tier
        self._name = f"layered-cache {tier}"
        self._most = most
        self.after_fork()
        _forks.restart_in_child(self)

    def after_fork(self) -> None:
        """Begin without threads."""
        self._lock = threading.Lock()
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads = 0
        self._idle = 0
        self._end = weakref.finalize(self, _stop, self._jobs, self._most)
        self._end.atexit = False  # daemons need no goodbye

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """Return what *function* returns. To be cancelled here does not stop it there."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._put((loop, future, function, args))
        return await future

    def wait(self, seconds: float, function: Callable[..., T], *args: object) -> T:
        """Return what *function* returns, if it does within *seconds*; else raise `TimeoutError`, which does not stop it there."""
        future: Future[T] = Future()
        self._put((None, future, function, args))
        try:
            return future.result(seconds)
        except TimeoutError:
            future.cancel()  # if it has not begun, it need not
            raise

    def _put(self, job: _Job) -> None:
        with self._lock:
            if self._jobs.qsize() >= _MOST_WAITING:
                raise TierTimeoutError(self._tier, "wait", f"{_MOST_WAITING} calls wait already")
            if self._idle <= self._jobs.qsize() and self._threads < self._most:
                self._start()
            self._jobs.put(job)

    def _start(self) -> None:
        thread = threading.Thread(target=_work, args=(weakref.ref(self), self._jobs), name=self._name, daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # too many threads, or the interpreter is on its way out
            if not self._threads:
                raise TierUnavailableError(self._tier, "wait", "no thread can be started") from error
        else:
            self._threads += 1

    def stop(self) -> None:
        """End the threads when they have done what is waiting; a later `run` starts new ones."""
        with self._lock:
            _stop(self._jobs, self._threads)
            self._jobs = SimpleQueue()
            self._threads = self._idle = 0

    def count_idle(self, change: int, jobs: SimpleQueue[_Job | None]) -> None:
        """Note that a thread begins or ends waiting; one that was told to stop does not count."""
        with self._lock:
            if jobs is self._jobs:
                self._idle += change


def _stop(jobs: SimpleQueue[_Job | None], threads: int) -> None:
    for _ in range(threads):
        jobs.put(None)


def _work(workers: weakref.ref[Workers], jobs: SimpleQueue[_Job | None]) -> None:
    while True:
        if owner := workers():
            owner.count_idle(1, jobs)
        del owner
        job = jobs.get()
        if owner := workers():
            owner.count_idle(-1, jobs)
        del owner
        if job is None:
            return
        loop, future, function, args = job
        if future.done():  # nobody waits for it any more
            continue
        result = error = None
        try:
            result = function(*args)
        except BaseException as raised:  # noqa: BLE001 - whatever it is, it belongs to the caller
            error = raised
        if loop is None:
            _settle(future, result, error)
        else:
            with suppress(RuntimeError):  # the loop has ended: nobody waits any more
                loop.call_soon_threadsafe(_settle, future, result, error)
        del job, loop, future, function, args, result, error


def _settle(future: asyncio.Future[Any] | Future[Any], result: object, error: BaseException | None) -> None:
    with suppress(InvalidStateError, asyncio.InvalidStateError):  # cancelled meanwhile
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
