"""Refused answers: remove answers of the cache that a structured program cannot use, so that a retry asks the model.

LlamaIndex announces the beginning and the end of programs, of parsers and of the methods of LLMs as spans. Answers of the cache are noted
in the context of their caller. The latest answer is refused in three cases:

- a program or a method of an LLM got the answer and fails, and the error is not about a connection;
- an output parser fails with the text of the answer, wherever it is called;
- the model's arguments for a tool do not fit, in `predict_and_call`, which programs call.

Refusals of streamed objects are not visible: LlamaIndex logs an object that does not fit, and continues.
"""

from __future__ import annotations

import inspect
from contextlib import suppress
from contextvars import ContextVar
from typing import cast

from layered_cache import TieredCache
from layered_cache.adapters.refusals import is_refusal, removals
from llama_index.core.chat_engine.types import AgentChatResponse
from llama_index.core.llms import LLM
from llama_index.core.types import BaseOutputParser, BasePydanticProgram
from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.span.base import BaseSpan
from llama_index_instrumentation.span_handlers.base import BaseSpanHandler
from pydantic import PrivateAttr, ValidationError

from llamaindex_layered_cache._llm.call import Call
from llamaindex_layered_cache._llm.response_codec import Response, text_of

_MOST_SPANS = 10_000  # a span of a task that is cancelled may never end
_LATEST = 8  # answers of one context


class _Given:
    """An answer that a caller was given: its entry, and a hash of its text."""

    __slots__ = ("cache", "is_removed", "key", "text")

    def __init__(self, cache: TieredCache, key: str, response: Response) -> None:
        self.cache = cache
        self.key = key
        self.text = hash(text_of(response))
        self.is_removed = False

    def refuse(self) -> None:
        """Remove it from the cache, once."""
        if not self.is_removed:
            self.is_removed = True
            removals.remove(self.cache, self.key)


_given: ContextVar[tuple[_Given, ...]] = ContextVar("layered_cache_given", default=())


def note(call: Call, response: Response) -> None:
    """Note that the caller of *call* is given *response*, which is in the cache now."""
    if call.key is not None and call.options.stores:
        _given.set((*_given.get()[1 - _LATEST :], _Given(call.cache, call.key, response)))


class RefusalSpans(BaseSpanHandler[BaseSpan]):
    """Removes answers that are refused. It keeps no spans."""

    _before: dict[str, tuple[_Given, ...]] = PrivateAttr(default_factory=dict)

    def span_enter(self, id_: str, *_: object, **__: object) -> None:
        """Note the answers that the context has already."""
        self._before[id_] = _given.get()
        if len(self._before) > _MOST_SPANS:
            with suppress(RuntimeError, StopIteration):  # another thread has changed it
                self._before.pop(next(iter(self._before)), None)

    def span_exit(self, id_: str, *_: object, instance: object = None, result: object = None, **__: object) -> None:
        """Look at the results of calls of tools."""
        before = self._before.pop(id_, ())
        sources = result.sources if isinstance(instance, LLM) and isinstance(result, AgentChatResponse) else []
        if any(isinstance(getattr(source, "exception", None), ValidationError) for source in sources):
            _refuse_latest(before)

    def span_drop(
        self, id_: str, bound_args: inspect.BoundArguments, instance: object = None, err: BaseException | None = None, **_: object
    ) -> None:
        """Look at the error."""
        before = self._before.pop(id_, ())
        if err is None or not isinstance(instance, BaseOutputParser | LLM | BasePydanticProgram) or not is_refusal(err, of_parser=True):
            return
        if isinstance(instance, BaseOutputParser):
            text = next((hash(value) for value in bound_args.arguments.values() if isinstance(value, str)), None)
            if (given := next((one for one in reversed(_given.get()) if one.text == text), None)) is not None:
                given.refuse()
        else:
            _refuse_latest(before)

    def new_span(self, *_: object, **__: object) -> None:
        """Keep none."""

    def prepare_to_exit_span(self, *_: object, **__: object) -> None:
        """Keep none."""

    def prepare_to_drop_span(self, *_: object, **__: object) -> None:
        """Keep none."""


def _refuse_latest(before: tuple[_Given, ...]) -> None:
    """Refuse the latest answer of this context, unless it is one of those *before*."""
    latest = _given.get()
    if latest and latest[-1] not in before:
        latest[-1].refuse()


_spans = RefusalSpans()


def listen() -> None:
    """Have LlamaIndex announce its spans from now on."""
    handlers = cast("list[object]", get_dispatcher().span_handlers)  # pyright: ignore[reportUnknownMemberType] - of any spans
    if not any(handler is _spans for handler in handlers):
        handlers.append(_spans)
