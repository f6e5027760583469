"""A stream of a model, answered from the cache, shared with others while it is under way, and stored when it has come to its end.

For adapters: `Streaming` is one stream that is asked for; what it consists of, they say. `streams` is how one stream is read by many.

- Nothing is stored of a stream that was closed early, was cancelled, or failed.
- Who asks after an invalidation joins no stream that began before it, and what such a one comes to is void when it is stored.
- Who computes for others waits for nobody (`producing`), so that none waits for himself; nor does a thread in which a loop runs.
- Who waits for others does so for `max_wait` in all, however many streams he tries; then he goes alone.
- A stream that fails does so for those who have read of it. Others begin again; after two that failed, each goes alone.
- An equal call that does not stream and is under way is not waited for: that would keep back what a stream is for, the first words.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import aclosing, closing
from contextvars import Context, ContextVar, copy_context
from dataclasses import replace
from typing import Any, Generic, NamedTuple, TypeVar, cast

from layered_cache.asking import check_only_cached, note_failure
from layered_cache.cache import TieredCache
from layered_cache.entry import Answer, Entry, Request, Ticket
from layered_cache.options import CallOptions
from layered_cache.streams import TaskStream, ThreadStream

C = TypeVar("C")
S = TypeVar("S", ThreadStream[Any], TaskStream[Any])

_ATTEMPTS = 3  # the last one alone

producing: ContextVar[bool] = ContextVar("layered_cache_producing", default=False)
"""Whether others read what the caller computes, as it comes: then it must not wait for anybody."""


def _untold(_: object) -> None:
    """Tell nobody."""


async def _auntold(_: object) -> None:
    """Tell nobody."""


class Streaming(ABC, Generic[C]):
    """One stream that is asked for.

    Args:
        cache: The cache of its namespace.
        options: What its caller has said.
        key: Under which its answer stands; None: the cache has nothing to do with it.
        owner: Those of one owner share streams.

    Raises:
        CacheMiss: It has no key, and the caller wants nothing but what is cached.
    """

    def __init__(self, cache: TieredCache, options: CallOptions, key: str | None, owner: object) -> None:
        self.cache = cache
        self.options = options
        self.key = key
        self._owner = owner
        if key is None:
            check_only_cached(options)

    @abstractmethod
    def peek(self, key: str) -> list[C] | None:
        """Return what memory has, at once."""

    @abstractmethod
    def find(self, key: str) -> list[C] | None:
        """Return what the tiers have. Nobody waits for the caller, nor he for anybody."""

    @abstractmethod
    async def afind(self, key: str) -> list[C] | None:
        """See find."""

    @abstractmethod
    def answer(self, chunks: list[C]) -> tuple[Request, Answer] | None:
        """Return what *chunks*, which are the callee's to change, answer, and what is to be stored of them; None if nothing is."""

    @abstractmethod
    def copied(self, chunk: C, *, free: bool) -> C:
        """Return a chunk that shares nothing with *chunk*; if it is *free*, one that says so."""

    @abstractmethod
    def prepare(self) -> None:
        """Make ready the context in which the model is going to run; called inside of it."""

    def failed(self, operation: str, error: Exception) -> None:
        """Note what must not happen and must not hurt."""
        note_failure(self.cache, operation, error)

    def stream(self, live: Callable[[], Iterator[C]], tell: Callable[[C], object] = _untold) -> Generator[C]:
        """Yield the answer, in chunks that nobody else has.

        Args:
            live: Begins the model's own stream.
            tell: Called with each chunk of which no model tells the host, as none was asked by this caller.
        """
        if (chunks := self._at_hand()) is not None:
            for chunk in chunks:
                tell(chunk)
                yield chunk
            return
        until = time.monotonic() + self._patience
        for attempt in range(_ATTEMPTS):
            if (born := self._born()) is None:
                yield from live()
                return

            def begin(source: _Source[C]) -> ThreadStream[C]:
                return ThreadStream(source.chunks(live), self._context(), source.born, self._patience)

            patience = max(0.0, until - time.monotonic()) if attempt < _ATTEMPTS - 1 else 0.0
            together = patience > 0 and self._shares and _running_loop() is None
            part = _Part(_Slot(self._owner, self.key, None), _Source(self, born), begin, together=together)
            try:
                yield from self._read(part, patience, tell)
            except Exception:
                if part.is_bound:
                    raise
            else:
                return

    async def astream(self, live: Callable[[], AsyncIterator[C]], tell: Callable[[C], Awaitable[object]] = _auntold) -> AsyncGenerator[C]:
        """See stream."""
        if (chunks := self._at_hand()) is not None:
            for chunk in chunks:
                await tell(chunk)
                yield chunk
            return
        until = time.monotonic() + self._patience
        for attempt in range(_ATTEMPTS):
            if (born := await self._aborn()) is None:
                async for chunk in live():
                    yield chunk
                return

            def begin(source: _Source[C]) -> TaskStream[C]:
                return TaskStream(source.achunks(live), self._context(), source.born, self._patience)

            patience = max(0.0, until - time.monotonic()) if attempt < _ATTEMPTS - 1 else 0.0
            together = patience > 0 and self._shares
            part = _Part(_Slot(self._owner, self.key, _running_loop()), _Source(self, born), begin, together=together)
            try:
                async with aclosing(self._aread(part, patience, tell)) as found:
                    async for chunk in found:
                        yield chunk
            except Exception:
                if part.is_bound:
                    raise
            else:
                return

    def _read(self, part: _Part[C, ThreadStream[C]], patience: float, tell: Callable[[C], object]) -> Generator[C]:
        try:
            with closing(part.stream.read(None if part.leads else patience)) as chunks:
                for chunk in chunks:
                    own = self.copied(chunk, free=not part.leads)
                    if part.taken():
                        tell(own)
                    yield own
            part.end()
        finally:
            part.leave()

    async def _aread(self, part: _Part[C, TaskStream[C]], patience: float, tell: Callable[[C], Awaitable[object]]) -> AsyncGenerator[C]:
        try:
            async with aclosing(part.stream.read(None if part.leads else patience)) as chunks:
                async for chunk in chunks:
                    own = self.copied(chunk, free=not part.leads)
                    if part.taken():
                        await tell(own)
                    yield own
            part.end()
        finally:
            part.leave()

    # --- before

    def _at_hand(self) -> list[C] | None:
        """Return what memory has."""
        if self.key is None or not self.options.looks:
            return None
        try:
            return self.peek(self.key)
        except Exception as error:  # noqa: BLE001 - whatever it is, the model answers
            self.failed("lookup", error)
            return None

    def _born(self) -> Ticket | None:
        """Return what is known of the invalidation log now; None: the cache has nothing to do with this call."""
        try:
            return None if self.key is None else self.cache.ticket()
        except Exception as error:  # noqa: BLE001 - whatever it is, the model answers
            self.failed("lookup", error)
            return None

    async def _aborn(self) -> Ticket | None:
        try:
            return None if self.key is None else await self.cache.aticket()
        except Exception as error:  # noqa: BLE001 - whatever it is, the model answers
            self.failed("lookup", error)
            return None

    @property
    def _shares(self) -> bool:
        """Whether it may join others, and others it."""
        options, policy = self.options, self.cache.policy
        return options.mode == "default" and options.single_flight is not False and policy.single_flight and not producing.get()

    @property
    def _patience(self) -> float:
        return cast("float", self.cache.policy.max_wait)

    def _context(self) -> Context:
        """Return the context in which the model runs: as the caller's, but for what is set here."""
        context = copy_context()
        context.run(producing.set, True)  # noqa: FBT003 - it is what is set
        context.run(self.prepare)
        return context

    # --- for the source

    def look(self) -> list[C] | None:
        """Return what the tiers have.

        Raises:
            CacheMiss: They have nothing, and the caller wants nothing else.
        """
        chunks = None
        try:
            if self.key is not None and self.options.looks:
                chunks = self.find(self.key)
        except Exception as error:  # noqa: BLE001 - whatever it is, the model answers
            self.failed("lookup", error)
        return self._checked(chunks)

    async def alook(self) -> list[C] | None:
        """See look."""
        chunks = None
        try:
            if self.key is not None and self.options.looks:
                chunks = await self.afind(self.key)
        except Exception as error:  # noqa: BLE001 - whatever it is, the model answers
            self.failed("lookup", error)
        return self._checked(chunks)

    def _checked(self, chunks: list[C] | None) -> list[C] | None:
        if chunks is None:
            check_only_cached(self.options)
        return chunks

    def store(self, chunks: list[C], born: Ticket, seconds: float) -> Entry | None:
        """Keep what *chunks* come to; return what is kept."""
        try:
            answer = self._answer(chunks, seconds)
            return None if answer is None else self.cache.set(*answer, born=born)
        except Exception as error:  # noqa: BLE001 - whatever it is, the answer is there and is paid for
            self.failed("update", error)
            return None

    async def astore(self, chunks: list[C], born: Ticket, seconds: float) -> Entry | None:
        """See store."""
        try:
            answer = self._answer(chunks, seconds)
            return None if answer is None else await self.cache.aset(*answer, born=born)
        except Exception as error:  # noqa: BLE001 - whatever it is, the answer is there and is paid for
            self.failed("update", error)
            return None

    def _answer(self, chunks: list[C], seconds: float) -> tuple[Request, Answer] | None:
        if not (self.options.stores and chunks):
            return None
        found = self.answer([self.copied(chunk, free=False) for chunk in chunks])
        return None if found is None else (found[0], replace(found[1], compute_seconds=seconds))

    def followed(self, entry: Entry) -> None:
        """Count a caller who got *entry* without having paid for it."""
        self.cache.followed(entry)


class _Source(Generic[C]):
    """Where the chunks of one stream come from: the tiers, else the model.

    It is `live` if it is the model; `born` is what was known of the invalidation log when it began.
    """

    def __init__(self, asking: Streaming[C], born: Ticket) -> None:
        self._asking = asking
        self.born = born
        self.live = False
        self._entry: Entry | None = None

    def chunks(self, live: Callable[[], Iterator[C]]) -> Generator[C]:
        """Yield them, and have them stored when they have come to their end."""
        if (found := self._asking.look()) is not None:
            yield from found
            return
        self.live = True
        chunks: list[C] = []
        seconds, since = 0.0, time.monotonic()
        for chunk in live():
            seconds += time.monotonic() - since
            chunks.append(chunk)
            yield chunk
            since = time.monotonic()
        self._entry = self._asking.store(chunks, self.born, seconds + time.monotonic() - since)

    async def achunks(self, live: Callable[[], AsyncIterator[C]]) -> AsyncGenerator[C]:
        """See chunks."""
        if (found := await self._asking.alook()) is not None:
            for chunk in found:
                yield chunk
            return
        self.live = True
        chunks: list[C] = []
        seconds, since = 0.0, time.monotonic()
        source = live()
        try:
            async for chunk in source:
                seconds += time.monotonic() - since
                chunks.append(chunk)
                yield chunk
                since = time.monotonic()
        except GeneratorExit:
            if isinstance(source, AsyncGenerator):
                await cast("AsyncGenerator[C]", source).aclose()
            raise
        self._entry = await self._asking.astore(chunks, self.born, seconds + time.monotonic() - since)

    def followed(self) -> None:
        """Count a caller who read them to their end without having paid for them."""
        if self._entry is not None:
            self._asking.followed(self._entry)


# --- the streams under way


class _Slot(NamedTuple):
    owner: object
    key: str | None
    loop: asyncio.AbstractEventLoop | None


_under_way: dict[_Slot, tuple[Any, Any]] = {}


class _Part(Generic[C, S]):
    """A caller's part in a stream: his own, or one that is under way if he goes *together* with others.

    He `leads` if the stream is his; he is bound to it if he leads or has read of it.
    """

    def __init__(self, slot: _Slot, mine: _Source[C], begin: Callable[[_Source[C]], S], *, together: bool) -> None:
        self._slot = slot
        self.stream: S
        self._source: _Source[C]
        self.stream, self._source = _joined(slot, mine, begin) if together else (begin(mine), mine)
        self.leads = self._source is mine
        self.is_bound = self.leads

    def taken(self) -> bool:
        """Note that a chunk was read; return whether this caller's host has to be told of it."""
        self.is_bound = True
        return not (self.leads and self._source.live)

    def end(self) -> None:
        """Note that he has read it to its end."""
        if not self.leads:
            self._source.followed()

    def leave(self) -> None:
        """Note that he is gone."""
        if self.stream.ended and _under_way.get(self._slot, (None,))[0] is self.stream:
            _under_way.pop(self._slot, None)


def _joined(slot: _Slot, mine: _Source[C], begin: Callable[[_Source[C]], S]) -> tuple[S, _Source[C]]:
    """Return the stream that is under way in *slot*, or a new one there, and its source. Without a lock: at worst, two begin."""
    found = _under_way.get(slot)
    if found is None or not found[0].admits(mine.born):
        _forget_ended_loops()
        begun = (begin(mine), mine)
        found = _under_way.setdefault(slot, begun)
        if found is not begun and not found[0].admits(mine.born):
            found = _under_way[slot] = begun
    return found


def _forget_ended_loops() -> None:
    """Drop the streams of loops that were closed around them: nobody reads these any more, and nobody else would notice."""
    for slot in list(_under_way):
        if slot.loop is not None and slot.loop.is_closed():
            _under_way.pop(slot, None)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
