"""A stream of a model, answered from the cache, shared with others while it is under way, and stored when it has come to its end.

For adapters: `Streaming` is one stream that is asked for; what it consists of, they say. `streams` is how one stream is read by many.

- Chunks are held as pieces (`layered_cache.pieces`): the memory of a stream grows with its text, and not faster.
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
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterable, Iterator
from contextlib import aclosing, closing
from contextvars import Context, ContextVar, copy_context
from dataclasses import replace
from typing import Any, Generic, NamedTuple, TypeVar, cast

from layered_cache.asking import check_only_cached, note_failure
from layered_cache.cache import TieredCache
from layered_cache.entry import Answer, Entry, Request, Ticket
from layered_cache.options import CallOptions
from layered_cache.pieces import Packer, Piece, Unpacker
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
    def peek(self, key: str) -> Iterable[C] | None:
        """Return the chunks of the answer in memory, at once."""

    @abstractmethod
    def find(self, key: str) -> Iterable[C] | None:
        """Return the chunks of the answer in the tiers. No caller waits for another one."""

    @abstractmethod
    async def afind(self, key: str) -> Iterable[C] | None:
        """See find."""

    @abstractmethod
    def answer(self, chunks: Iterator[C]) -> tuple[Request, Answer] | None:
        """Return the request and the answer to store for *chunks*, new objects with common empty parts; None to store nothing."""

    def free(self, chunk: C) -> C:
        """Return *chunk*, a new object, with the mark that the caller has not paid for it."""
        return chunk

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

            def begin(source: _Source[C]) -> ThreadStream[Piece]:
                return ThreadStream(source.pieces(live), self._context(), source.born, self._patience)

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

            def begin(source: _Source[C]) -> TaskStream[Piece]:
                return TaskStream(source.apieces(live), self._context(), source.born, self._patience)

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

    def _read(self, part: _Part[C, ThreadStream[Piece]], patience: float, tell: Callable[[C], object]) -> Generator[C]:
        try:
            unpack = Unpacker().unpack
            with closing(part.stream.read(None if part.leads else patience)) as pieces:
                for piece in pieces:
                    own: C = unpack(piece) if part.leads else self.free(unpack(piece))
                    if part.taken():
                        tell(own)
                    yield own
            part.end()
        finally:
            part.leave()

    async def _aread(self, part: _Part[C, TaskStream[Piece]], patience: float, tell: Callable[[C], Awaitable[object]]) -> AsyncGenerator[C]:
        try:
            unpack = Unpacker().unpack
            async with aclosing(part.stream.read(None if part.leads else patience)) as pieces:
                async for piece in pieces:
                    own: C = unpack(piece) if part.leads else self.free(unpack(piece))
                    if part.taken():
                        await tell(own)
                    yield own
            part.end()
        finally:
            part.leave()

    # --- before

    def _at_hand(self) -> Iterable[C] | None:
        """Return the chunks of the answer in memory."""
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

    def look(self) -> Iterable[C] | None:
        """Return the chunks of the answer in the tiers.

        Raises:
            CacheMiss: There is none, and the caller accepts nothing else.
        """
        chunks = None
        try:
            if self.key is not None and self.options.looks:
                chunks = self.find(self.key)
        except Exception as error:  # noqa: BLE001 - whatever it is, the model answers
            self.failed("lookup", error)
        return self._checked(chunks)

    async def alook(self) -> Iterable[C] | None:
        """See look."""
        chunks = None
        try:
            if self.key is not None and self.options.looks:
                chunks = await self.afind(self.key)
        except Exception as error:  # noqa: BLE001 - whatever it is, the model answers
            self.failed("lookup", error)
        return self._checked(chunks)

    def _checked(self, chunks: Iterable[C] | None) -> Iterable[C] | None:
        if chunks is None:
            check_only_cached(self.options)
        return chunks

    def store(self, pieces: list[Piece], born: Ticket, seconds: float) -> Entry | None:
        """Store the answer that *pieces* add up to, and return its entry."""
        try:
            answer = self._answer(pieces, seconds)
            return None if answer is None else self.cache.set(*answer, born=born)
        except Exception as error:  # noqa: BLE001 - whatever it is, the answer is there and is paid for
            self.failed("update", error)
            return None

    async def astore(self, pieces: list[Piece], born: Ticket, seconds: float) -> Entry | None:
        """See store."""
        try:
            answer = self._answer(pieces, seconds)
            return None if answer is None else await self.cache.aset(*answer, born=born)
        except Exception as error:  # noqa: BLE001 - whatever it is, the answer is there and is paid for
            self.failed("update", error)
            return None

    def _answer(self, pieces: list[Piece], seconds: float) -> tuple[Request, Answer] | None:
        if not (self.options.stores and pieces):
            return None
        found = self.answer(map(Unpacker(frugal=True).unpack, pieces))
        return None if found is None else (found[0], replace(found[1], compute_seconds=seconds))

    def followed(self, entry: Entry) -> None:
        """Count a caller who got *entry* without having paid for it."""
        self.cache.followed(entry)


class _Source(Generic[C]):
    """The pieces of one stream, from the tiers, else from the model.

    It is `live` if they come from the model. `born` is the state of the invalidation log at its beginning.
    """

    def __init__(self, asking: Streaming[C], born: Ticket) -> None:
        self._asking = asking
        self.born = born
        self.live = False
        self._entry: Entry | None = None

    def pieces(self, live: Callable[[], Iterator[C]]) -> Generator[Piece]:
        """Yield them, and store the answer at their end."""
        pack = Packer().pack
        if (found := self._asking.look()) is not None:
            yield from map(pack, found)
            return
        self.live = True
        pieces: list[Piece] = []
        seconds, since = 0.0, time.monotonic()
        for chunk in live():
            seconds += time.monotonic() - since
            pieces.append(pack(chunk))
            yield pieces[-1]
            since = time.monotonic()
        self._entry = self._asking.store(pieces, self.born, seconds + time.monotonic() - since)

    async def apieces(self, live: Callable[[], AsyncIterator[C]]) -> AsyncGenerator[Piece]:
        """See pieces."""
        pack = Packer().pack
        if (found := await self._asking.alook()) is not None:
            for chunk in found:
                yield pack(chunk)
            return
        self.live = True
        pieces: list[Piece] = []
        seconds, since = 0.0, time.monotonic()
        source = live()
        try:
            async for chunk in source:
                seconds += time.monotonic() - since
                pieces.append(pack(chunk))
                yield pieces[-1]
                since = time.monotonic()
        except GeneratorExit:
            if isinstance(source, AsyncGenerator):
                await cast("AsyncGenerator[C]", source).aclose()
            raise
        self._entry = await self._asking.astore(pieces, self.born, seconds + time.monotonic() - since)

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
