"""Cached calls for hosts that provide the computation.

The rules of `Ask`:

- An error of the computation is raised in its own caller only: it may concern that caller's API
  key, timeout or callbacks. A caller that waited for it computes once itself, in parallel with the
  rest of the waiting callers. So callers of a model that is down do not wait for one another.
- Cache errors are never raised. The caller computes the answer, as it does for an unreadable entry.
- The caller that computes gets its own result. The rest get the result that is read from the stored
  bytes.
- A refresh in the background belongs to no caller. It runs in a new context and reports to no run
  that may be over.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from layered_cache.cache import TieredCache
from layered_cache.entry import Answer, Entry, Request
from layered_cache.errors import CacheMiss
from layered_cache.events import Event
from layered_cache.options import CallOptions

_log = logging.getLogger("layered_cache")

T = TypeVar("T")


class _ComputedError(Exception):
    """A computation raised *error*, which is not an error of the cache."""

    def __init__(self, error: Exception) -> None:
        super().__init__(type(error).__name__)
        self.error = error


class _NotKeptError(Exception):
    """A result cannot be stored or must not be stored, so it is not shared."""


def note_failure(cache: TieredCache, operation: str, error: Exception) -> None:
    """Record an unexpected error of the cache, which must not affect the caller."""
    cache.report(Event(kind="adapter_failed", namespace=cache.name, reason=f"{operation}: {type(error).__name__}"))
    _log.error("%s failed and counts as a miss: %s", operation, type(error).__name__, exc_info=_log.isEnabledFor(logging.DEBUG))


def check_only_cached(options: CallOptions) -> None:
    """Check that the caller may compute.

    Raises:
        CacheMiss: If the mode is `only_cached`.
    """
    if options.mode == "only_cached":
        msg = 'the cache has no answer, and mode="only_cached" does not allow a call'
        raise CacheMiss(msg)


class Ask(ABC, Generic[T]):
    """One cached call: how it is computed, and how its result is written and read."""

    def __init__(self, cache: TieredCache, options: CallOptions, request: Request) -> None:
        self.cache = cache
        self.options = options
        self.request = request

    @abstractmethod
    def compute(self) -> T:
        """Return the result, computed for the caller."""

    @abstractmethod
    async def acompute(self) -> T:
        """Return the result, like `compute`."""

    @abstractmethod
    def compute_alone(self) -> T:
        """Return the result, computed for no caller."""

    @abstractmethod
    async def acompute_alone(self) -> T:
        """Return the result, like `compute_alone`."""

    @abstractmethod
    def written(self, result: T) -> Answer | None:
        """Return the answer to store for *result*; None to store nothing."""

    @abstractmethod
    def read(self, entry: Entry) -> T:
        """Return the result in *entry*, as new objects.

        Raises:
            ValueError: If it cannot be read.
        """

    def answered(self) -> T:
        """Return the result, from the cache if possible.

        Raises:
            CacheMiss: If it is not in the cache and the mode is `only_cached`.
        """
        if not self._shares:
            return self._by_hand()
        mine: list[T] = []
        me, asked = threading.get_ident(), False

        def compute() -> Answer:
            nonlocal asked
            if threading.get_ident() != me:
                return self._answer(contextvars.Context().run(self.compute_alone))
            asked = True
            try:
                mine.append(self.compute())
            except Exception as error:
                raise _ComputedError(error) from error
            return self._answer(mine[0])

        outcome: Entry | Exception
        try:
            outcome = self.cache.get_or_compute(self.request, compute)
        except Exception as error:  # noqa: BLE001 - handled below
            outcome = error
        if (result := self._result(mine, outcome, asked=asked)) is not None:
            return result
        self._expect()
        result = self.compute()
        self._keep(result)
        return result

    async def aanswered(self) -> T:
        """Return the result, like `answered`."""
        if not self._shares:
            return await self._aby_hand()
        mine: list[T] = []
        me, asked = asyncio.current_task(), False

        async def compute() -> Answer:
            nonlocal asked
            if asyncio.current_task() is not me:
                return self._answer(await _in_its_own_context(self.acompute_alone))
            asked = True
            try:
                mine.append(await self.acompute())
            except Exception as error:
                raise _ComputedError(error) from error
            return self._answer(mine[0])

        outcome: Entry | Exception
        try:
            outcome = await self.cache.aget_or_compute(self.request, compute)
        except Exception as error:  # noqa: BLE001 - handled below
            outcome = error
        if (result := self._result(mine, outcome, asked=asked)) is not None:
            return result
        await self._aexpect()
        result = await self.acompute()
        await self._akeep(result)
        return result

    @property
    def _shares(self) -> bool:
        return self.options.mode == "default" and self.options.single_flight is not False

    def _answer(self, result: T) -> Answer:
        if (answer := self.written(result)) is None:
            raise _NotKeptError
        return answer

    def _result(self, mine: list[T], outcome: Entry | Exception, *, asked: bool) -> T | None:
        """Return the result or raise the error of *outcome*; None: the caller must compute."""
        if isinstance(outcome, Exception) and not isinstance(outcome, _ComputedError | _NotKeptError):
            note_failure(self.cache, "asking", outcome)
        if mine:
            return mine[0]
        if isinstance(outcome, Entry):
            return self._read(outcome)
        if isinstance(outcome, _ComputedError) and asked:
            raise outcome.error
        return None

    def _read(self, entry: Entry | None) -> T | None:
        if entry is None:
            return None
        try:
            return self.read(entry)
        except Exception as error:  # noqa: BLE001
            # A value of another release, for example. The text of a validation error may contain
            # the value, so it is left out.
            self.cache.reject(entry.key, str(error) if type(error) is ValueError else type(error).__name__)
            return None

    # --- other modes: look up, compute, store

    def _by_hand(self) -> T:
        entry = None
        try:
            if self.options.looks:
                entry = self.cache.get(self.request)
            elif self.options.mode == "refresh":
                self._expect()
        except Exception as error:  # noqa: BLE001 - the caller computes after any error
            note_failure(self.cache, "looking", error)
        if (result := self._read(entry)) is not None:
            return result
        check_only_cached(self.options)
        result = self.compute()
        self._keep(result)
        return result

    async def _aby_hand(self) -> T:
        entry = None
        try:
            if self.options.looks:
                entry = await self.cache.aget(self.request)
            elif self.options.mode == "refresh":
                await self._aexpect()
        except Exception as error:  # noqa: BLE001 - the caller computes after any error
            note_failure(self.cache, "looking", error)
        if (result := self._read(entry)) is not None:
            return result
        check_only_cached(self.options)
        result = await self.acompute()
        await self._akeep(result)
        return result

    def _expect(self) -> None:
        """Record that the computation starts now.

        A later invalidation then makes its result void.
        """
        try:
            self.cache.expect(self.cache.key(self.request))
        except Exception as error:  # noqa: BLE001 - the caller computes after any error
            note_failure(self.cache, "looking", error)

    async def _aexpect(self) -> None:
        try:
            await self.cache.aexpect(self.cache.key(self.request))
        except Exception as error:  # noqa: BLE001 - the caller computes after any error
            note_failure(self.cache, "looking", error)

    def _keep(self, result: T) -> None:
        try:
            if self.options.stores and (answer := self.written(result)) is not None:
                self.cache.set(self.request, answer)
        except Exception as error:  # noqa: BLE001 - the result exists
            note_failure(self.cache, "storing", error)

    async def _akeep(self, result: T) -> None:
        try:
            if self.options.stores and (answer := self.written(result)) is not None:
                await self.cache.aset(self.request, answer)
        except Exception as error:  # noqa: BLE001 - the result exists
            note_failure(self.cache, "storing", error)


async def _in_its_own_context(coroutine: Callable[[], Awaitable[T]]) -> T:
    async def alone() -> T:
        return await coroutine()

    return await asyncio.get_running_loop().create_task(alone(), context=contextvars.Context())
