"""Asking the cache for what the caller would otherwise compute: for hosts that say how it is computed.

The laws, of `Ask`:

- What a computation raises reaches its caller, unchanged, and nobody else: it may be about his key, his time-out, his callbacks. Who has
  waited for it computes by himself, once, beside the others who have: what is down is not asked by one after the other.
- What the cache raises reaches nobody: the caller computes by himself then, as he does with what cannot be read.
- A caller gets his own result as it is; others get what is read from the bytes that were stored.
- A refresh in the background is nobody's call: it is made in a context of its own, and tells no run that may be over.
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
    """A computation has raised *error*, which is not the cache's."""

    def __init__(self, error: Exception) -> None:
        super().__init__(type(error).__name__)
        self.error = error


class _NotKeptError(Exception):
    """A result that cannot or may not be stored, hence is its caller's alone."""


def note_failure(cache: TieredCache, operation: str, error: Exception) -> None:
    """Note what must not happen and must not hurt."""
    cache.report(Event(kind="adapter_failed", namespace=cache.name, reason=f"{operation}: {type(error).__name__}"))
    _log.error("%s failed and counts as a miss: %s", operation, type(error).__name__, exc_info=_log.isEnabledFor(logging.DEBUG))


def check_only_cached(options: CallOptions) -> None:
    """Refuse to compute where the caller wants nothing that is not there.

    Raises:
        CacheMiss: He does.
    """
    if options.mode == "only_cached":
        msg = 'the cache has no answer to this, and mode="only_cached" keeps it from being computed'
        raise CacheMiss(msg)


class Ask(ABC, Generic[T]):
    """One question: how it is asked here, how its result is written and read."""

    def __init__(self, cache: TieredCache, options: CallOptions, request: Request) -> None:
        self.cache = cache
        self.options = options
        self.request = request

    @abstractmethod
    def compute(self) -> T:
        """Return the result, on behalf of the caller."""

    @abstractmethod
    async def acompute(self) -> T:
        """See compute."""

    @abstractmethod
    def compute_alone(self) -> T:
        """Return the result, on behalf of nobody."""

    @abstractmethod
    async def acompute_alone(self) -> T:
        """See compute_alone."""

    @abstractmethod
    def written(self, result: T) -> Answer | None:
        """Return what is to be stored of *result*; None if nothing is."""

    @abstractmethod
    def read(self, entry: Entry) -> T:
        """Return the result that *entry* holds, new objects each time.

        Raises:
            ValueError: It cannot be read.
        """

    def answered(self) -> T:
        """Return the result, from the cache if it is there.

        Raises:
            CacheMiss: It is not, and the caller wants nothing else.
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
        except Exception as error:  # noqa: BLE001 - looked at below
            outcome = error
        if (result := self._result(mine, outcome, asked=asked)) is not None:
            return result
        self._expect()
        result = self.compute()
        self._keep(result)
        return result

    async def aanswered(self) -> T:
        """See answered."""
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
        except Exception as error:  # noqa: BLE001 - looked at below
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
        """Return the result that has come of it, or raise the error; None: the caller has to compute."""
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
        except Exception as error:  # noqa: BLE001 - of another release, say; what validators raise shows what they were given
            self.cache.reject(entry.key, str(error) if type(error) is ValueError else type(error).__name__)
            return None

    # --- where the caller wants it otherwise: look, compute, store

    def _by_hand(self) -> T:
        entry = None
        try:
            if self.options.looks:
                entry = self.cache.get(self.request)
            elif self.options.mode == "refresh":
                self._expect()
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller computes
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
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller computes
            note_failure(self.cache, "looking", error)
        if (result := self._read(entry)) is not None:
            return result
        check_only_cached(self.options)
        result = await self.acompute()
        await self._akeep(result)
        return result

    def _expect(self) -> None:
        """Note that the result is computed from now on: a removal that comes before it is there holds for it."""
        try:
            self.cache.expect(self.cache.key(self.request))
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller computes
            note_failure(self.cache, "looking", error)

    async def _aexpect(self) -> None:
        try:
            await self.cache.aexpect(self.cache.key(self.request))
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller computes
            note_failure(self.cache, "looking", error)

    def _keep(self, result: T) -> None:
        try:
            if self.options.stores and (answer := self.written(result)) is not None:
                self.cache.set(self.request, answer)
        except Exception as error:  # noqa: BLE001 - whatever it is, the result is there
            note_failure(self.cache, "storing", error)

    async def _akeep(self, result: T) -> None:
        try:
            if self.options.stores and (answer := self.written(result)) is not None:
                await self.cache.aset(self.request, answer)
        except Exception as error:  # noqa: BLE001 - whatever it is, the result is there
            note_failure(self.cache, "storing", error)


async def _in_its_own_context(coroutine: Callable[[], Awaitable[T]]) -> T:
    async def alone() -> T:
        return await coroutine()

    return await asyncio.get_running_loop().create_task(alone(), context=contextvars.Context())
