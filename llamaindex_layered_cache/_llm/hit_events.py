"""LlamaIndex's events for hits, with the tag `layered_cache: hit`, if a handler is registered.

LlamaIndex emits the events of a call in the methods of the LLM's own class, which a hit does not reach. Handlers of its
instrumentation see the tag and can separate hits from calls. Handlers of a `CallbackManager` cannot: a token counter would
count tokens that were not paid. They get events of hits only with `emit_events=True`.
"""

from __future__ import annotations

import inspect
import uuid
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

from layered_cache.adapters.cached_call import note_failure
from llama_index.core.base.llms.types import ChatResponse
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.instrumentation.events.exception import ExceptionEvent
from llama_index.core.instrumentation.events.llm import (
    LLMChatEndEvent,
    LLMChatInProgressEvent,
    LLMChatStartEvent,
    LLMCompletionEndEvent,
    LLMCompletionInProgressEvent,
    LLMCompletionStartEvent,
)
from llama_index.core.instrumentation.span import active_span_id
from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.dispatcher import Dispatcher, active_instrument_tags, instrument_tags
from llama_index_instrumentation.event_handlers.null import NullEventHandler
from llama_index_instrumentation.span_handlers.null import NullSpanHandler

from llamaindex_layered_cache._llm.call import Call
from llamaindex_layered_cache._llm.refusals import RefusalSpans
from llamaindex_layered_cache._llm.response_codec import Response

TAGS = {"layered_cache": "hit"}

_DEAF = (NullEventHandler, NullSpanHandler, RefusalSpans)  # handlers that need no events of hits

# LlamaIndex emits the events of calls with this dispatcher
_events = get_dispatcher("llama_index.core.llms.callbacks")


def listener(call: Call, method: str) -> Hit | None:
    """Return the emitter of events for a hit of *call*, of *method*; None if there is no handler."""
    emits = call.keeper.how.emit_events
    if emits is False:
        return None
    llm = call.question.llm
    manager = cast("object", llm.__dict__.get("callback_manager")) if emits is True else None
    handlers = manager if isinstance(manager, CallbackManager) and (manager.handlers or emits is True) else None
    spans = get_dispatcher(type(llm).__module__)
    if emits is True or _is_heard(_events) or _is_heard(spans):
        return Hit(call, method, spans, handlers)
    return None


def _is_heard(dispatcher: Dispatcher) -> bool:
    at: Dispatcher | None = dispatcher
    while at is not None:
        for handler in (*cast("list[object]", at.event_handlers), *cast("list[object]", at.span_handlers)):
            if type(handler) not in _DEAF:
                return True
        at = at.parent if at.propagate else None
    return False


class Hit:
    """Emits the events of one hit, as LlamaIndex does for a call. Errors of handlers do not reach the caller."""

    def __init__(self, call: Call, method: str, spans: Dispatcher, handlers: CallbackManager | None) -> None:
        self._call = call
        self._method = method
        self._spans = spans
        self._handlers = handlers
        self._id = f"{type(call.question.llm).__name__}.{method}-{uuid.uuid4()}"
        self._parent = active_span_id.get()
        self._event_id = ""
        self._begun = False
        self._last: Response | None = None

    def whole(self, response: Response) -> None:
        """Emit the events of an answer that is not a stream."""
        with self._telling(), self._trace():
            self._begin()
            self._last = response
            self._end()

    def piece(self, chunk: Response) -> None:
        """Emit the event of a chunk, and the start event before the first one."""
        with self._telling():
            if not self._begun:
                with self._trace():
                    self._begin()
            self._last = chunk
            if isinstance(chunk, ChatResponse):
                _events.event(LLMChatInProgressEvent(messages=self._messages, response=chunk, span_id=self._id))
            else:
                _events.event(LLMCompletionInProgressEvent(prompt=self._prompt, response=chunk, span_id=self._id))

    def end(self) -> None:
        """Emit the end event of a stream that has a start event."""
        if self._begun:
            with self._telling():
                self._end()

    def broken(self, error: BaseException) -> None:
        """Emit the error event of a stream that has a start event: it was closed early, or failed with *error*."""
        if self._begun:
            with self._telling():
                _events.event(ExceptionEvent(exception=error, span_id=self._id))
                self._finish({EventPayload.EXCEPTION: error}, self._last)

    @contextmanager
    def _telling(self) -> Generator[None]:
        token = active_span_id.set(self._id)
        try:
            with instrument_tags({**active_instrument_tags.get(), **TAGS}):
                yield
        except Exception as error:  # noqa: BLE001 - the answer is returned in any case
            note_failure(self._call.cache, "telling", error)
        finally:
            active_span_id.reset(token)

    def _trace(self) -> AbstractContextManager[None]:
        return nullcontext() if self._handlers is None else self._handlers.as_trace(self._call.question.kind)

    @property
    def _messages(self) -> Any:  # noqa: ANN401 - messages, which the event checks
        return list(self._call.question.content)

    @property
    def _prompt(self) -> str:
        return cast("str", self._call.question.content)

    @property
    def _model(self) -> dict[str, Any]:
        """The description of the model in events, without secrets. It needs no request."""
        question = self._call.question
        name = self._call.keeper.identity.name(question.llm)
        return {"class_name": question.llm.class_name(), "model_name": name}

    def _bound(self) -> inspect.BoundArguments:
        question = self._call.question
        signature = inspect.signature(getattr(question.llm, self._method))
        return signature.bind(question.content, **question.arguments)

    def _begin(self) -> None:
        self._begun = True
        question, more, model = self._call.question, self._call.question.arguments, self._model
        tags = active_instrument_tags.get()
        self._spans.span_enter(id_=self._id, bound_args=self._bound(), instance=question.llm, parent_id=self._parent, tags=tags)
        if question.kind == "chat":
            _events.event(LLMChatStartEvent(model_dict=model, messages=self._messages, additional_kwargs=more, span_id=self._id))
            payload: dict[Any, Any] = {EventPayload.MESSAGES: self._messages}
        else:
            _events.event(LLMCompletionStartEvent(model_dict=model, prompt=self._prompt, additional_kwargs=more, span_id=self._id))
            payload = {EventPayload.PROMPT: self._prompt}
        if self._handlers is not None:
            payload |= {EventPayload.ADDITIONAL_KWARGS: more, EventPayload.SERIALIZED: model}
            self._event_id = self._handlers.on_event_start(CBEventType.LLM, payload=payload)

    def _end(self) -> None:
        response = self._last
        if isinstance(response, ChatResponse):
            _events.event(LLMChatEndEvent(messages=self._messages, response=response, span_id=self._id))
            payload: dict[Any, Any] = {EventPayload.MESSAGES: self._messages, EventPayload.RESPONSE: response}
        else:
            _events.event(LLMCompletionEndEvent(prompt=self._prompt, response=cast("Any", response), span_id=self._id))
            payload = {EventPayload.PROMPT: self._prompt, EventPayload.COMPLETION: response}
        self._finish(payload, response)

    def _finish(self, payload: dict[Any, Any], response: Response | None) -> None:
        if self._handlers is not None:
            self._handlers.on_event_end(CBEventType.LLM, payload=payload, event_id=self._event_id)
        self._spans.span_exit(id_=self._id, bound_args=self._bound(), instance=self._call.question.llm, result=response)
