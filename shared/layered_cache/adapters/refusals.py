"""Answers that a program refuses: the schema does not fit, the JSON does not parse.

They are removed, so that the next call asks the model. Adapters learn of a refusal from callbacks, which cannot wait in an event loop.
There the removal runs in a thread, and lookups of the key wait for it: else they would return the refused answer.
"""

from __future__ import annotations

import asyncio
import atexit
import re
import threading
from concurrent.futures import Future, wait

from layered_cache._engine.pending_removals import pending
from layered_cache.adapters.cached_call import note_failure
from layered_cache.cache import TieredCache

_WRONG_VALUES = (ValueError, LookupError, AssertionError)
# the errors of validation libraries have no common base class, but typical names
_NAMES = re.compile(r"Validation|Pars(e|er|ing)|Decod|Schema|StructuredOutput")
_MOST_WAIT = 2.0  # seconds


def is_refusal(error: BaseException, *, of_parser: bool = False) -> bool:
    """Return True if *error* is about a wrong value, and not about a server, a file or a resource that is not available.

    Args:
        error: The exception.
        of_parser: Whether the code that raised it only parses. In other code a `TypeError` is usually a bug of the application.
    """
    if not isinstance(error, Exception) or isinstance(error, OSError):
        return False
    return of_parser or isinstance(error, _WRONG_VALUES) or any(_NAMES.search(cls.__name__) for cls in type(error).__mro__)


class Removals:
    """Removals of refused answers. `pending` has the ones that run in threads, by key."""

    def __init__(self) -> None:
        self.pending = pending.by_key
        atexit.register(pending.wait, _MOST_WAIT)

    def remove(self, cache: TieredCache, key: str) -> None:
        """Remove the entry of *key*, of *cache*'s namespace, from all tiers. Errors are reported, never raised."""
        if not _in_a_loop():
            _drop(cache, key)
        elif key not in self.pending:
            done: Future[None] = Future()
            done.set_running_or_notify_cancel()
            self.pending[key] = done
            thread = threading.Thread(target=self._run, args=(cache, key, done), name="layered-cache removal", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no thread can be started: the process ends
                self._run(cache, key, done)

    def settle(self, key: str) -> None:
        """Wait until no removal of *key* is pending, for 2 seconds at most."""
        if (done := self.pending.get(key)) is not None:
            wait([done], _MOST_WAIT)

    async def asettle(self, key: str) -> None:
        """See settle."""
        if (done := self.pending.get(key)) is not None:
            await asyncio.wait([asyncio.wrap_future(done)], timeout=_MOST_WAIT)

    def _run(self, cache: TieredCache, key: str, done: Future[None]) -> None:
        try:
            _drop(cache, key)
        finally:
            self.pending.pop(key, None)
            done.set_result(None)


def _in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _drop(cache: TieredCache, key: str) -> None:
    try:
        cache.drop(key)
    except Exception as error:  # noqa: BLE001 - without a cache the program would have no removal either
        note_failure(cache, "removing a refused answer", error)


removals = Removals()
