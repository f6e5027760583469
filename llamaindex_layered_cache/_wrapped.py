"""What a cached LLM does otherwise than its class: its eight ways of being asked go through the cache.

`_cached` puts this in front of the class of an LLM. All else that LlamaIndex's LLMs can do (predicting, tools, structured answers) comes to
these eight. They are not decorated as LlamaIndex decorates those of LLMs: the methods that they call are, so that a call is told of once
and asks the rate limiter, and a hit does neither.
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

from llamaindex_layered_cache._asks import aanswered, answered
from llamaindex_layered_cache._call_ids import without_repeated_calls
from llamaindex_layered_cache._identities import plain_class, window_of
from llamaindex_layered_cache._keepers import Call, Keeper, Kind, Question
from llamaindex_layered_cache._streams import astreamed, streamed
from llamaindex_layered_cache._views import view_of

OWN = "_layered_cache"
"""Where a cached LLM has its keeper: in its `__dict__`, beside its fields, so that copies have it, and what LlamaIndex writes has not."""

BARE = "_layered_cache_bare"
"""Where it has a view of itself without the cache, `Held`."""

_calls: ContextVar[list[Kind] | None] = ContextVar("layered_cache_llm_calls", default=None)
"""The calls of cached LLMs inside of a structured prediction."""

if TYPE_CHECKING:
    _LLM = LLM
else:
    _LLM = object  # its class comes beside it, and brings this one's methods


def keeper_of(llm: LLM) -> Keeper | None:
    """Return what *llm* has of its cache; None if it is not cached."""
    return cast("Keeper | None", llm.__dict__.get(OWN))


def bare(llm: LLM) -> LLM:
    """Return *llm* as its own class made it: a view of the same state, without the cache.

    It asks the provider. What an LLM asks itself there, in whichever thread or task, is a part of the call and is not cached by itself,
    nor does it wait for the call that it is a part of. Of a class that validates what is assigned, which makes the state anew each time,
    it is the LLM itself, whose calls of itself are calls like any.
    """
    cls: type[LLM] = plain_class(type(llm))
    if cls.model_config.get("validate_assignment"):
        return super(CachedLLM, cast("CachedLLM", llm))
    return view_of(llm, cls, cast("dict[str, Any]", llm.__dict__), BARE)


class CachedLLM(_LLM):
    """Stands in front of the class of an LLM."""

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

    # Some classes send structured predictions with their client, and not by one of the eight methods: these are not cached.

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
    """Return the call, after what *said* says of the cache was taken out of it; None if the cache has nothing to do with it."""
    if (calls := _calls.get()) is not None:
        calls.append(kind)
    keeper = keeper_of(llm)
    return None if keeper is None else keeper.begin(Question(llm, kind, asked, said, formatted, streams))


_TAKEN = ("prompt", "formatted")  # by those that complete a text


def _begun_prompt(llm: LLM, args: tuple[Any, ...], said: dict[str, Any], *, streams: bool = False) -> Call | None:
    """Return the call of a method that takes a prompt, and perhaps whether it is formatted, by name or by place."""
    by_place = dict(zip(_TAKEN, args, strict=False))
    taken = {**by_place, **{name: said[name] for name in _TAKEN if name in said}}
    if len(taken) < len(args) or by_place.keys() & said.keys() or not isinstance(taken.get("prompt"), str):
        return None  # the model says by itself what is wrong with it
    arguments = {name: value for name, value in said.items() if name not in _TAKEN}
    call = _begun(llm, "completion", taken["prompt"], arguments, formatted=bool(taken.get("formatted")), streams=streams)
    for name in said.keys() - arguments.keys() - {*_TAKEN}:
        del said[name]
    return call
