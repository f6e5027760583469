"""Another LangChain cache as a source of answers: what it has is taken exactly as it was, or not at all.

It is asked with the very texts that LangChain gives, so that its own keys work, and is never written. The laws:

- Nothing it raises gets out.
- A text in which LangChain has written out an object is no answer: some caches return that where they fail to read what they hold.
- Nothing is shared with it: an answer is encoded and decoded, so that no caller changes what it keeps, nor it what a caller has.
- No call waits for it for more than a second. Whoever kept one waiting in vain is left alone for ten times as long, so that a dead server
  costs a tenth of the time at most.
- Nothing but its own coroutine runs in the caller's thread: what can only block runs in two threads of ours, so that it holds up neither
  the caller nor the executor of his loop. Who waits in line for longer than his second goes on without it.

What cannot be told from outside: langchain-community's caches in Redis and SQLite, when they overwrote three answers by one, still have
the second and the third of the old ones.
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
from layered_cache.workers import Workers

from langchain_layered_cache._codec import decode, encode

_PATIENCE = 1.0  # seconds
_REST = 10  # times
_THREADS = 2

_WRITTEN_OUT = re.compile(r'\s*\{\s*"lc"\s*:')  # `dumps` says this first


def is_written_out(text: str) -> bool:
    """Whether *text* is an object that LangChain has written out, or the beginning of one."""
    return _WRITTEN_OUT.match(text) is not None


class Legacy:
    """Another LangChain cache, to be asked on a miss.

    Args:
        cache: Any. It is not closed.
        failed: Told of every question that it failed at: a few words for an event or a log, that hold no content.
        clock: Of tests, as is `patience`, in seconds.

    Raises:
        ConfigurationError: *cache* is no LangChain cache.
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
        self._heard = self._not_before  # when a thread of ours last came back
        self._only_blocks = type(cache).alookup is BaseCache.alookup  # which takes a thread of the loop's executor
        self._workers = Workers("legacy", _THREADS)
        _ignore_warnings()

    def lookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        """Return what it has for *prompt* under *llm_string*, in new objects, or None. It raises nothing."""
        if (started := self._clock()) < self._not_before:
            return None
        question = _Question(prompt, llm_string, copy_context(), started)
        try:
            found = self._workers.wait(self._patience, self._put, question)
        except Exception as error:  # noqa: BLE001 - whatever it is, the model answers
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
        except Exception as error:  # noqa: BLE001 - whatever it is, the model answers
            return self._raised(started, error, overran=limit.expired())
        return self._taken(question.begun, found)

    def _put(self, question: _Question) -> object:
        """Ask in a thread of ours."""
        question.begun = self._clock()
        try:
            return question.context.run(self._cache.lookup, question.prompt, question.llm_string)
        finally:
            question.ended = True
            self._heard = self._clock()

    def _raised(self, started: float, error: Exception, *, overran: bool) -> None:
        if not overran:
            self._failed(started, f"it raised {type(error).__name__}")
        elif self._heard < started:  # else it is busy, and answers others meanwhile
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
        """Leave it alone, as it kept a call waiting for so many seconds; of many who wait, the first one says so."""
        if (now := self._clock()) >= self._not_before:
            self._not_before = now + _REST * took
            self._tell(f"it gave nothing in {took:.0f} s: it is not asked for {_REST * took:.0f} s")

    def __repr__(self) -> str:
        return f"Legacy({type(self._cache).__name__})"


@dataclass(slots=True)
class _Question:
    """What a thread of ours is to ask, in the context of the caller, when that began, and whether it is over."""

    prompt: str
    llm_string: str
    context: Context
    begun: float
    ended: bool = False


def _ignore_warnings() -> None:
    """Have caches that call LangChain's `loads` without naming what it may load do so in peace.

    Where warnings are errors they could read nothing. Only the caches themselves are meant: of a call of one's own one is told.
    """
    message, module = "The default value of `allowed_objects` will change", r"langchain_\w+\.cache$"
    warnings.filterwarnings("ignore", message, PendingDeprecationWarning, module)
