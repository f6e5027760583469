"""Another LangChain cache as a source of answers: an answer is taken exactly as it was, or not at all.

The legacy cache gets the texts of LangChain, so that its own keys work, and is never written. The laws:

- Its errors are caught.
- A text that is a serialized object of LangChain is no answer: some caches return it if they cannot decode an entry.
- Answers are encoded and decoded, so callers and the legacy cache share no objects.
- A call waits at most one second. After a timeout the legacy cache is skipped for ten times that time, so a dead server costs at most
  a tenth of the time.
- Only its own coroutine runs in the thread of the caller. Blocking methods run in two threads of this module, so they block neither the
  caller nor the executor of its loop. A call that waits for a thread longer than its second continues without an answer.

Known limit: if one answer replaced three, langchain-community's caches in Redis and SQLite still return the old second and third.
"""

from __future__ import annotations

import asyncio
import re
import time
import warnings
from collections.abc import Callable, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass
from typing import cast

from langchain_core.caches import BaseCache
from langchain_core.outputs import Generation
from layered_cache import ConfigurationError, EncodeError
from layered_cache.adapters.common import Workers

from langchain_layered_cache._generation_codec import decode, encode

# the timeout in seconds, and the factor of the pause after it
_PATIENCE = 1.0
_REST = 10
_THREADS = 2

_WRITTEN_OUT = re.compile(r'\s*\{\s*"lc"\s*:')  # the start of the result of `dumps`


def is_written_out(text: str) -> bool:
    """Return True if *text* is a serialized object of LangChain, or the beginning of one."""
    return _WRITTEN_OUT.match(text) is not None


class Legacy:
    """Another LangChain cache that is read on a miss.

    Args:
        cache: Any LangChain cache. It is not closed.
        failed: A function that gets the reason of each failure, without content of entries.
        clock: A clock for tests.
        patience: The timeout of a call in seconds.

    Raises:
        ConfigurationError: If *cache* is not a LangChain cache.
    """

    def __init__(
        self,
        cache: BaseCache,
        failed: Callable[[str], object] = lambda _: None,
        *,
        clock: Callable[[], float] = time.monotonic,
        patience: float = _PATIENCE,
    ) -> None:
        if not isinstance(cache, BaseCache):  # pyright: ignore[reportUnnecessaryIsInstance] - users without a type checker
            msg = f"legacy must be a LangChain cache (langchain_core.caches.BaseCache), not {type(cache).__name__}"
            raise ConfigurationError(msg)
        self._cache = cache
        self._tell = failed
        self._clock = clock
        self._patience = patience
        self._not_before = float("-inf")
        self._heard = self._not_before  # the time of the last return of a thread
        self._only_blocks = type(cache).alookup is BaseCache.alookup  # that method would use the executor of the loop
        self._workers = Workers("legacy", _THREADS)
        _ignore_warnings()

    def lookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        """Return its answer to *prompt* under *llm_string* as new objects, or None. It raises nothing."""
        if (started := self._clock()) < self._not_before:
            return None
        question = _Question(prompt, llm_string, copy_context(), started)
        try:
            found = self._workers.wait(self._patience, self._put, question)
        except Exception as error:  # noqa: BLE001 - the model is called in any case
            return self._raised(started, error, overran=isinstance(error, TimeoutError) and not question.ended)
        return self._taken(question.begun, found)

    async def alookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        """See lookup."""
        if (started := self._clock()) < self._not_before:
            return None
        question, limit = _Question(prompt, llm_string, copy_context(), started), asyncio.timeout(self._patience)
        try:
            async with limit:
                if self._only_blocks:
                    found = await self._workers.run(self._put, question)
                else:
                    found = await self._cache.alookup(prompt, llm_string)
        except Exception as error:  # noqa: BLE001 - the model is called in any case
            return self._raised(started, error, overran=limit.expired())
        return self._taken(question.begun, found)

    def _put(self, question: _Question) -> object:
        """Call `lookup` in a thread of this module."""
        question.begun = self._clock()
        try:
            return question.context.run(self._cache.lookup, question.prompt, question.llm_string)
        finally:
            question.ended = True
            self._heard = self._clock()

    def _raised(self, started: float, error: Exception, *, overran: bool) -> None:
        if not overran:
            self._failed(started, f"it raised {type(error).__name__}")
        elif self._heard < started:  # otherwise it is busy with other calls
            self._rest(self._patience)

    def _taken(self, started: float, found: object) -> list[Generation] | None:
        if found is None:
            self._waited(started)
            return None
        if not isinstance(found, Sequence) or not found or not all(isinstance(one, Generation) for one in cast("Sequence[object]", found)):
            return self._failed(started, "it returned something else than generations")
        generations = cast("Sequence[Generation]", found)
        if any(is_written_out(generation.text) for generation in generations):
            return self._failed(started, "it could not read what it holds")
        try:
            return decode(encode(generations))
        except EncodeError as error:
            return self._failed(started, str(error))

    def _failed(self, started: float, reason: str) -> None:
        self._tell(reason)
        self._waited(started)

    def _waited(self, started: float) -> None:
        if (took := self._clock() - started) > self._patience:
            self._rest(took)

    def _rest(self, took: float) -> None:
        """Pause, since a call waited *took* seconds. The first of several waiting calls reports it."""
        if (now := self._clock()) >= self._not_before:
            self._not_before = now + _REST * took
            self._tell(f"it gave nothing in {took:.0f} s: it is not asked for {_REST * took:.0f} s")

    def __repr__(self) -> str:
        return f"Legacy({type(self._cache).__name__})"


@dataclass(slots=True)
class _Question:
    """A lookup for a thread, in the context of the caller: its start, and whether it has ended."""

    prompt: str
    llm_string: str
    context: Context
    begun: float
    ended: bool = False


def _ignore_warnings() -> None:
    """Ignore the warning about `loads` without `allowed_objects`, for calls in the modules of LangChain's caches.

    If warnings are errors, these caches could not read any entry. Calls in other modules still warn.
    """
    message, module = "The default value of `allowed_objects` will change", r"langchain_\w+\.cache$"
    warnings.filterwarnings("ignore", message, PendingDeprecationWarning, module)
