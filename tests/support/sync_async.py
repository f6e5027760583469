"""The two worlds in which the cache lives, called alike, and a few words that the tests share."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from layered_cache import Event, Request, TieredCache


class Threads:
    """The blocking face; concurrent callers are threads."""

    name = "threads"

    def call(self, thing: object, method: str, *args: Any, **kwargs: Any) -> Any:
        return getattr(thing, method)(*args, **kwargs)

    def compute(
        self, value: Any = b"value", seconds: float = 0.0, log: list[Any] | None = None, error: BaseException | None = None
    ) -> Callable[[], Any]:
        def compute() -> Any:
            time.sleep(seconds)
            if log is not None:
                log.append(value)
            if error is not None:
                raise error
            return value

        return compute

    def at_once(self, thing: object, method: str, calls: list[tuple[Any, ...]]) -> list[Any]:
        with ThreadPoolExecutor(len(calls)) as pool:
            futures = [pool.submit(self.call, thing, method, *args) for args in calls]
            return [future.exception() or future.result() for future in futures]

    def close(self) -> None:
        pass


class Tasks:
    """The asynchronous face; concurrent callers are tasks of one loop."""

    name = "tasks"

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()

    def call(self, thing: object, method: str, *args: Any, **kwargs: Any) -> Any:
        return self.loop.run_until_complete(getattr(thing, "a" + method)(*args, **kwargs))

    def compute(
        self, value: Any = b"value", seconds: float = 0.0, log: list[Any] | None = None, error: BaseException | None = None
    ) -> Callable[[], Any]:
        async def compute() -> Any:
            await asyncio.sleep(seconds)
            if log is not None:
                log.append(value)
            if error is not None:
                raise error
            return value

        return compute

    def at_once(self, thing: object, method: str, calls: list[tuple[Any, ...]]) -> list[Any]:
        async def main() -> list[Any]:
            return await asyncio.gather(*(getattr(thing, "a" + method)(*args) for args in calls), return_exceptions=True)

        return self.loop.run_until_complete(main())

    def close(self) -> None:
        """End as `asyncio.run` does: what is still under way is cancelled."""
        left = asyncio.all_tasks(self.loop)
        for task in left:
            task.cancel()
        if left:
            self.loop.run_until_complete(asyncio.wait(left))
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()


World = Threads | Tasks


def ask(text: str = "question", **params: Any) -> Request:
    """Return a request."""
    return Request(text, model="model-1", params=params)


def kinds(events: list[Event]) -> list[str]:
    """Return what happened, in words."""
    return [event.kind for event in events]


def settled(cache: TieredCache) -> None:
    """Wait until nothing waits to be written."""
    assert cache._engine.backlog.drain(5.0)


def interrupted(work: Callable[[], object], *, at_least: int) -> Iterator[None]:
    """Do *work* again and again, with Ctrl-C after one more step of Python each time, until it ends before that; yield after each."""
    number, left = 0, 0

    def step(_frame: object, event: str, _arg: object) -> None:
        nonlocal left
        if event in ("call", "c_return"):  # where Python looks for signals
            left -= 1
            if left == 0:
                raise KeyboardInterrupt

    while left <= 0:  # the last one did come
        number += 1
        left = number
        with suppress(KeyboardInterrupt):
            try:
                sys.setprofile(step)
                work()
            finally:
                sys.setprofile(None)
        yield
    assert number > at_least
