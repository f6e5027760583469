"""Calls that stream. `layered_cache.adapters.cached_stream` describes how streams are shared and when they are stored."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import aclosing
from typing import Any

from layered_cache import Answer, Request
from layered_cache.adapters.cached_call import check_only_cached
from layered_cache.adapters.cached_stream import Streaming
from layered_cache.adapters.refusals import removals
from layered_cache.cache import Hit

from llamaindex_layered_cache._llm.call import Call
from llamaindex_layered_cache._llm.hit_events import listener
from llamaindex_layered_cache._llm.response_codec import Response, decode_stream

Stream = Generator[Any]
AsyncStream = AsyncGenerator[Any]


def streamed(call: Call, method: str, live: Callable[[], Iterator[Response]]) -> Stream:
    """Return the stream of *live*, the model's own *method*, from the cache or from the model.

    Raises:
        CacheMiss: If there is no entry and the caller allows no request.
    """
    if call.request is None:
        check_only_cached(call.options)
        return _working(call, live)
    return _told(call, method, _Stream(call), live)


async def astreamed(call: Call, method: str, live: Callable[[], Awaitable[AsyncIterator[Response]]]) -> AsyncStream:
    """See streamed."""
    if call.request is None:
        check_only_cached(call.options)
        return _aworking(call, live)
    return _atold(call, method, _Stream(call), live)


def _told(call: Call, method: str, stream: _Stream, live: Callable[[], Iterator[Response]]) -> Stream:
    hit = listener(call, method)

    def tell(chunk: Response) -> None:
        if hit is not None:
            hit.piece(chunk)

    try:
        yield from stream.stream(lambda: _working(call, live), tell)
    except BaseException as error:
        if hit is not None:
            hit.broken(error)
        raise
    if hit is not None:
        hit.end()


async def _atold(call: Call, method: str, stream: _Stream, live: Callable[[], Awaitable[AsyncIterator[Response]]]) -> AsyncStream:
    hit = listener(call, method)

    async def tell(chunk: Response) -> None:
        if hit is not None:
            hit.piece(chunk)

    try:
        async with aclosing(stream.astream(lambda: _aworking(call, live), tell)) as chunks:
            async for chunk in chunks:
                yield chunk
    except BaseException as error:
        if hit is not None:
            hit.broken(error)
        raise
    if hit is not None:
        hit.end()


def _working(call: Call, live: Callable[[], Iterator[Response]]) -> Stream:
    """Yield the chunks of the model, which is called at the first chunk."""
    call.starts()
    yield from live()


async def _aworking(call: Call, live: Callable[[], Awaitable[AsyncIterator[Response]]]) -> AsyncStream:
    """See _working."""
    call.starts()
    source = await live()
    try:
        async for chunk in source:
            yield chunk
    finally:
        if isinstance(source, AsyncGenerator):
            await source.aclose()


class _Stream(Streaming[Any]):
    """One stream of a caller. Callers that use the same form (`raw`, `replay`) share streams."""

    def __init__(self, call: Call) -> None:
        how = call.keeper.how
        super().__init__(call.cache, call.options, call.key, (call.keeper.cache, how.raw, how.replay))
        self._call = call
        self._how = how

    def peek(self, key: str) -> Iterator[Any] | None:
        """See Streaming."""
        return None if key in removals.pending else self._replayed(key, self.cache.peek(key))

    def find(self, key: str) -> Iterator[Any] | None:
        """See Streaming."""
        if removals.pending:
            removals.settle(key)
        return self._held(key, self.cache.fetch(key, leave=False))

    async def afind(self, key: str) -> Iterator[Any] | None:
        """See Streaming."""
        if removals.pending:
            await removals.asettle(key)
        return self._held(key, await self.cache.afetch(key, leave=False))

    def answer(self, chunks: Iterator[Any]) -> tuple[Request, Answer] | None:
        """See Streaming."""
        answer = self._call.answer(chunks)
        return None if answer is None or self._call.request is None else (self._call.request, answer)

    def prepare(self) -> None:
        """See Streaming."""

    def _held(self, key: str, hit: Hit | None) -> Iterator[Any] | None:
        return None if hit is None else self._replayed(key, hit.entry.value)

    def _replayed(self, key: str, value: bytes | None) -> Iterator[Any] | None:
        if value is None:
            return None
        try:
            return decode_stream(value, self._how.raw, self._how.replay)
        except ValueError as error:
            self._call.unreadable(key, error)
            return None
