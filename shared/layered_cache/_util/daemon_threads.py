"""Small thread pools for blocking clients.

The default executor belongs to the application, which may fill it with callers that wait for this
cache. The threads are daemons, so a store that hangs does not keep a process alive. No thread is
started at import, and none is left after a fork.
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

from layered_cache._util import fork_safety
from layered_cache.errors import TierTimeoutError, TierUnavailableError

T = TypeVar("T")

_MOST_WAITING = 10_000

_Job: TypeAlias = "tuple[asyncio.AbstractEventLoop | None, asyncio.Future[Any] | Future[Any], Callable[..., Any], tuple[Any, ...]]"


class Workers:
    """A few threads, started on demand, that run functions for event loops or with a time limit.

    Raises:
        TierError: In `run` and `wait`, if too many calls are waiting or no thread can be started.
    """

    def __init__(self, tier: str, most: int) -> None:
        self._tier = tier
        self._name = f"layered-cache {tier}"
        self._most = most
        self.after_fork()
        fork_safety.restart_in_child(self)

    def after_fork(self) -> None:
        """Start without threads."""
        self._lock = threading.Lock()
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads = 0
        self._idle = 0
        self._end = weakref.finalize(self, _stop, self._jobs, self._most)
        # daemon threads need no cleanup
        self._end.atexit = False

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """Return the result of *function*. A cancellation of this call does not stop *function*."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._put((loop, future, function, args))
        return await future

    def wait(self, seconds: float, function: Callable[..., T], *args: object) -> T:
        """Return the result of *function*, or raise `TimeoutError` after *seconds*.

        The timeout does not stop *function*.
        """
        future: Future[T] = Future()
        self._put((None, future, function, args))
        try:
            return future.result(seconds)
        except TimeoutError:
            # it has not started yet, so it need not run
            future.cancel()
            raise

    def _put(self, job: _Job) -> None:
        with self._lock:
            if self._jobs.qsize() >= _MOST_WAITING:
                raise TierTimeoutError(self._tier, "wait", f"{_MOST_WAITING} calls are waiting already")
            if self._idle <= self._jobs.qsize() and self._threads < self._most:
                self._start()
            self._jobs.put(job)

    def _start(self) -> None:
        thread = threading.Thread(target=_work, args=(weakref.ref(self), self._jobs), name=self._name, daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            # too many threads, or the interpreter is shutting down
            if not self._threads:
                raise TierUnavailableError(self._tier, "wait", "no thread can be started") from error
        else:
            self._threads += 1

    def stop(self) -> None:
        """Stop the threads after the waiting calls. A later `run` starts new ones."""
        with self._lock:
            _stop(self._jobs, self._threads)
            self._jobs = SimpleQueue()
            self._threads = self._idle = 0

    def count_idle(self, change: int, jobs: SimpleQueue[_Job | None]) -> None:
        """Record that a thread starts or stops waiting, unless it belongs to a stopped queue."""
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
        # no caller waits for it any more
        if future.done():
            continue
        result = error = None
        try:
            result = function(*args)
        except BaseException as raised:  # noqa: BLE001 - any error is passed to the caller
            error = raised
        if loop is None:
            _settle(future, result, error)
        else:
            # the loop is closed, so no caller waits
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(_settle, future, result, error)
        del job, loop, future, function, args, result, error


def _settle(future: asyncio.Future[Any] | Future[Any], result: object, error: BaseException | None) -> None:
    # cancelled in the meantime
    with suppress(InvalidStateError, asyncio.InvalidStateError):
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
