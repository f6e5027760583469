"""The methods of a cached LLM: its eight call methods use the cache.

`cached_llm` derives a class from this one and the class of an LLM. All other methods of LlamaIndex's LLMs (prediction, tools,
structured answers) call these eight. They do not have LlamaIndex's decorators: the methods of the LLM have them. So a
request emits events once and uses the rate limiter, and a hit does neither.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, cast

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
)
from llama_index.core.llms import LLM

from llamaindex_layered_cache._llm.call import Call, Keeper, Kind, Question
from llamaindex_layered_cache._llm.call_ids import without_repeated_calls
from llamaindex_layered_cache._llm.complete import aanswered, answered
from llamaindex_layered_cache._llm.identity import plain_class, window_of
from llamaindex_layered_cache._llm.stream import astreamed, streamed
from llamaindex_layered_cache._pydantic_views import view_of

OWN = "_layered_cache"
"""The name of the keeper in the `__dict__` of a cached LLM: copies have it, and LlamaIndex does not serialize it."""

BARE = "_layered_cache_bare"
"""The name of its view without the cache, a `Held`."""

_calls: ContextVar[list[Kind] | None] = ContextVar("layered_cache_llm_calls", default=None)
"""The calls of cached LLMs within a structured prediction."""

if TYPE_CHECKING:
    _LLM = LLM
else:
    _LLM = object  # the derived class has the class of the LLM as its second base


def keeper_of(llm: LLM) -> Keeper | None:
    """Return the cache settings of *llm*; None if it is not cached."""
    return cast("Keeper | None", llm.__dict__.get(OWN))


def bare(llm: LLM) -> LLM:
    """Return a view of *llm* without the cache, which shares its state.

    Calls that the LLM makes to itself within a request, in any thread or task, are a part of the request. They are not
    cached on their own and do not wait for the request. A class that validates assignments replaces its state each time, so
    no view can share it. Then the LLM itself is returned, and calls that it makes to itself are cached too.
    """
    cls: type[LLM] = plain_class(type(llm))
    if cls.model_config.get("validate_assignment"):
        return super(CachedLLM, cast("CachedLLM", llm))
    return view_of(llm, cls, cast("dict[str, Any]", llm.__dict__), BARE)


class CachedLLM(_LLM):
    """The cached methods, first in the bases of a derived class."""

    @property
    def metadata(self) -> LLMMetadata:
        before, found = window_of(self), super().metadata  # some classes send a request for it
        if (keeper := keeper_of(self)) is not None:
            keeper.identity.note_window(self, before)
        return found

    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:  # noqa: ANN401 - LlamaIndex's signature, as all below
        asked = without_repeated_calls(messages)
        if (call := _begun(self, "chat", asked, kwargs)) is None:
            return super().chat(messages, **kwargs)
        return cast("ChatResponse", answered(call, "chat", lambda: bare(self).chat(list(asked), **kwargs)))

    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:  # noqa: ANN401
        asked = without_repeated_calls(messages)
        if (call := _begun(self, "chat", asked, kwargs)) is None:
            return await super().achat(messages, **kwargs)
        return cast("ChatResponse", await aanswered(call, "achat", lambda: bare(self).achat(list(asked), **kwargs)))

    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:  # noqa: ANN401
        asked = without_repeated_calls(messages)
        if (call := _begun(self, "chat", asked, kwargs, streams=True)) is None:
            return super().stream_chat(messages, **kwargs)
        return streamed(call, "stream_chat", lambda: bare(self).stream_chat(list(asked), **kwargs))

    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:  # noqa: ANN401
        asked = without_repeated_calls(messages)
        if (call := _begun(self, "chat", asked, kwargs, streams=True)) is None:
            return await super().astream_chat(messages, **kwargs)
        return await astreamed(call, "astream_chat", lambda: bare(self).astream_chat(list(asked), **kwargs))

    def complete(self, *args: Any, **kwargs: Any) -> CompletionResponse:  # noqa: ANN401
        if (call := _begun_prompt(self, args, kwargs)) is None:
            return super().complete(*args, **kwargs)
        return cast("CompletionResponse", answered(call, "complete", lambda: bare(self).complete(*args, **kwargs)))

    async def acomplete(self, *args: Any, **kwargs: Any) -> CompletionResponse:  # noqa: ANN401
        if (call := _begun_prompt(self, args, kwargs)) is None:
            return await super().acomplete(*args, **kwargs)
        return cast("CompletionResponse", await aanswered(call, "acomplete", lambda: bare(self).acomplete(*args, **kwargs)))

    def stream_complete(self, *args: Any, **kwargs: Any) -> CompletionResponseGen:  # noqa: ANN401
        if (call := _begun_prompt(self, args, kwargs, streams=True)) is None:
            return super().stream_complete(*args, **kwargs)
        return streamed(call, "stream_complete", lambda: bare(self).stream_complete(*args, **kwargs))

    async def astream_complete(self, *args: Any, **kwargs: Any) -> CompletionResponseAsyncGen:  # noqa: ANN401
        if (call := _begun_prompt(self, args, kwargs, streams=True)) is None:
            return await super().astream_complete(*args, **kwargs)
        return await astreamed(call, "astream_complete", lambda: bare(self).astream_complete(*args, **kwargs))

    # Some classes send structured predictions with their client and not by one of the eight methods. These are not cached.

    def structured_predict(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        with _watched() as calls:
            found = super().structured_predict(*args, **kwargs)
        _warn_unless(calls, self, "structured_predict")
        return found

    async def astructured_predict(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        with _watched() as calls:
            found = await super().astructured_predict(*args, **kwargs)
        _warn_unless(calls, self, "astructured_predict")
        return found

    def stream_structured_predict(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        calls: list[Kind] = []
        with _watched(calls):
            pieces = iter(super().stream_structured_predict(*args, **kwargs))
        return _each(self, pieces, calls)

    async def astream_structured_predict(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        calls: list[Kind] = []
        with _watched(calls):
            pieces = aiter(await super().astream_structured_predict(*args, **kwargs))
        return _aeach(self, pieces, calls)


@contextmanager
def _watched(calls: list[Kind] | None = None) -> Generator[list[Kind]]:
    """Yield the list of the calls of cached LLMs that begin in the block."""
    calls = [] if calls is None else calls
    token = _calls.set(calls)
    try:
        yield calls
    finally:
        _calls.reset(token)


def _each(llm: LLM, pieces: Iterator[Any], calls: list[Kind]) -> Iterator[Any]:
    while True:
        with _watched(calls):
            try:
                piece = next(pieces)
            except StopIteration:
                break
        yield piece
    _warn_unless(calls, llm, "stream_structured_predict")


async def _aeach(llm: LLM, pieces: AsyncIterator[Any], calls: list[Kind]) -> AsyncIterator[Any]:
    while True:
        with _watched(calls):
            try:
                piece = await anext(pieces)
            except StopAsyncIteration:
                break
        yield piece
    _warn_unless(calls, llm, "astream_structured_predict")


def _warn_unless(calls: list[Kind], llm: LLM, method: str) -> None:
    keeper = keeper_of(llm)
    if not calls and keeper is not None:
        name = plain_class(type(llm)).__name__
        keeper.once.warn(f"{method} of {name} is not cached, because it sends its requests itself and not by chat: use chat_with_tools")


def _begun(
    llm: LLM, kind: Kind, asked: list[ChatMessage] | str, said: dict[str, Any], *, formatted: bool = False, streams: bool = False
) -> Call | None:
    """Return the call, and remove the options of the cache from *said*; None if *llm* is not cached."""
    if (calls := _calls.get()) is not None:
        calls.append(kind)
    keeper = keeper_of(llm)
    return None if keeper is None else keeper.begin(Question(llm, kind, asked, said, formatted, streams))


# the parameters of the completion methods
_TAKEN = ("prompt", "formatted")


def _begun_prompt(llm: LLM, args: tuple[Any, ...], said: dict[str, Any], *, streams: bool = False) -> Call | None:
    """Return the call of a completion method. `prompt` and `formatted` are given by name or by position."""
    by_place = dict(zip(_TAKEN, args, strict=False))
    taken = {**by_place, **{name: said[name] for name in _TAKEN if name in said}}
    if len(taken) < len(args) or by_place.keys() & said.keys() or not isinstance(taken.get("prompt"), str):
        return None  # the model raises the error
    arguments = {name: value for name, value in said.items() if name not in _TAKEN}
    call = _begun(llm, "completion", taken["prompt"], arguments, formatted=bool(taken.get("formatted")), streams=streams)
    for name in said.keys() - arguments.keys() - {*_TAKEN}:
        del said[name]
    return call
