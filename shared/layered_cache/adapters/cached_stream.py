"""A model stream that is answered from the cache, shared with concurrent readers, and stored.

For adapters: `Streaming` is one requested stream, and the adapter defines its chunks. `streams`
implements several readers of one stream.

- Chunks are held as pieces (`layered_cache.adapters.chunk_codec`), so the memory of a stream grows only with its
  text.
- A stream that is closed early, cancelled or fails is not stored.
- After an invalidation, new calls do not join streams that started before it. The answer of such a
  stream is void when it is stored.
- A caller that produces a shared stream never waits for another stream (`producing`), and neither
  does a thread that runs an event loop. This prevents deadlocks.
- A caller waits for streams of other callers at most `max_wait` in total. Then it streams alone.
- An error of a stream is raised in the callers that have read a chunk of it. The rest start again.
  After two failed streams, each caller streams alone.
- A stream does not wait for an equal call in flight without streaming, because that would delay the
  first words.
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

from layered_cache.adapters.cached_call import check_only_cached, note_failure
from layered_cache.adapters.chunk_codec import Packer, Piece, Unpacker
from layered_cache.adapters.shared_stream import TaskStream, ThreadStream
from layered_cache.cache import TieredCache
from layered_cache.entry import Answer, Entry, Request, Ticket
from layered_cache.options import CallOptions

C = TypeVar("C")
S = TypeVar("S", ThreadStream[Any], TaskStream[Any])

# the last attempt is not shared
_ATTEMPTS = 3

producing: ContextVar[bool] = ContextVar("layered_cache_producing", default=False)
"""True if other callers read the chunks that this caller produces, so it must not wait."""


def _untold(_: object) -> None:
    """Do nothing."""


async def _auntold(_: object) -> None:
    """Do nothing."""


class Streaming(ABC, Generic[C]):
    """One requested stream.

    Args:
        cache: The cache of its namespace.
        options: The options of the call.
        key: The key of the answer. None: the cache is not used.
        owner: Only streams of the same owner are shared.

    Raises:
        CacheMiss: If there is no key and the mode is `only_cached`.
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
        """Return the chunks of the answer in memory, without waiting."""

    @abstractmethod
    def find(self, key: str) -> Iterable[C] | None:
        """Return the chunks of the answer in the tiers. It never waits for another caller."""

    @abstractmethod
    async def afind(self, key: str) -> Iterable[C] | None:
        """Return the chunks of the answer in the tiers, like `find`."""

    @abstractmethod
    def answer(self, chunks: Iterator[C]) -> tuple[Request, Answer] | None:
        """Return the request and the answer to store for *chunks*; None to store nothing.

        The chunks are new objects that share their empty parts.
        """

    def free(self, chunk: C) -> C:
        """Return *chunk*, a new object, marked as free of charge for this caller."""
        return chunk

    @abstractmethod
    def prepare(self) -> None:
        """Prepare the context in which the model will run. It is called inside of that context."""

    def failed(self, operation: str, error: Exception) -> None:
        """Record an unexpected error of the cache, which must not affect the caller."""
        note_failure(self.cache, operation, error)

    def stream(self, live: Callable[[], Iterator[C]], tell: Callable[[C], object] = _untold) -> Generator[C]:
        """Yield the chunks of the answer, as objects that no other caller has.

        Args:
            live: Starts the model's stream.
            tell: Called with each chunk that did not come from a model call of this caller. The host
                learns of those chunks only in this way.
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
        """Yield the chunks of the answer, like `stream`."""
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

    # --- before the stream

    def _at_hand(self) -> Iterable[C] | None:
        """Return the chunks of the answer in memory."""
        if self.key is None or not self.options.looks:
            return None
        try:
            return self.peek(self.key)
        except Exception as error:  # noqa: BLE001 - the model answers after any error
            self.failed("lookup", error)
            return None

    def _born(self) -> Ticket | None:
        """Return the current log position; None: the cache is not used for this call."""
        try:
            return None if self.key is None else self.cache.ticket()
        except Exception as error:  # noqa: BLE001 - the model answers after any error
            self.failed("lookup", error)
            return None

    async def _aborn(self) -> Ticket | None:
        try:
            return None if self.key is None else await self.cache.aticket()
        except Exception as error:  # noqa: BLE001 - the model answers after any error
            self.failed("lookup", error)
            return None

    @property
    def _shares(self) -> bool:
        """True if this stream may be shared with other callers."""
        options, policy = self.options, self.cache.policy
        return options.mode == "default" and options.single_flight is not False and policy.single_flight and not producing.get()

    @property
    def _patience(self) -> float:
        return cast("float", self.cache.policy.max_wait)

    def _context(self) -> Context:
        """Return the context in which the model runs: a copy of the caller's, with some changes."""
        context = copy_context()
        context.run(producing.set, True)  # noqa: FBT003 - the value of the variable
        context.run(self.prepare)
        return context

    # --- for the source

    def look(self) -> Iterable[C] | None:
        """Return the chunks of the answer in the tiers.

        Raises:
            CacheMiss: If there is none and the mode is `only_cached`.
        """
        chunks = None
        try:
            if self.key is not None and self.options.looks:
                chunks = self.find(self.key)
        except Exception as error:  # noqa: BLE001 - the model answers after any error
            self.failed("lookup", error)
        return self._checked(chunks)

    async def alook(self) -> Iterable[C] | None:
        """Return the chunks of the answer in the tiers, like `look`."""
        chunks = None
        try:
            if self.key is not None and self.options.looks:
                chunks = await self.afind(self.key)
        except Exception as error:  # noqa: BLE001 - the model answers after any error
            self.failed("lookup", error)
        return self._checked(chunks)

    def _checked(self, chunks: Iterable[C] | None) -> Iterable[C] | None:
        if chunks is None:
            check_only_cached(self.options)
        return chunks

    def store(self, pieces: list[Piece], born: Ticket, seconds: float) -> Entry | None:
        """Store the answer that consists of *pieces*, and return its entry."""
        try:
            answer = self._answer(pieces, seconds)
            return None if answer is None else self.cache.set(*answer, born=born)
        except Exception as error:  # noqa: BLE001 - the answer exists and is paid for
            self.failed("update", error)
            return None

    async def astore(self, pieces: list[Piece], born: Ticket, seconds: float) -> Entry | None:
        """Store the answer, like `store`."""
        try:
            answer = self._answer(pieces, seconds)
            return None if answer is None else await self.cache.aset(*answer, born=born)
        except Exception as error:  # noqa: BLE001 - the answer exists and is paid for
            self.failed("update", error)
            return None

    def _answer(self, pieces: list[Piece], seconds: float) -> tuple[Request, Answer] | None:
        if not (self.options.stores and pieces):
            return None
        found = self.answer(map(Unpacker(frugal=True).unpack, pieces))
        return None if found is None else (found[0], replace(found[1], compute_seconds=seconds))

    def followed(self, entry: Entry) -> None:
        """Count a caller that got *entry* without paying for it."""
        self.cache.followed(entry)


class _Source(Generic[C]):
    """The pieces of one stream, from the tiers or else from the model.

    `live` is True if they come from the model. `born` is the log position at the start.
    """

    def __init__(self, asking: Streaming[C], born: Ticket) -> None:
        self._asking = asking
        self.born = born
        self.live = False
        self._entry: Entry | None = None

    def pieces(self, live: Callable[[], Iterator[C]]) -> Generator[Piece]:
        """Yield the pieces, and store the answer at the end."""
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
        """Yield the pieces, like `pieces`."""
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
        """Count a caller that read all pieces without paying for them."""
        if self._entry is not None:
            self._asking.followed(self._entry)


# --- streams in flight


class _Slot(NamedTuple):
    owner: object
    key: str | None
    loop: asyncio.AbstractEventLoop | None


_under_way: dict[_Slot, tuple[Any, Any]] = {}


class _Part(Generic[C, S]):
    """One caller's view of a stream: a new stream, or an existing one if *together*.

    `leads` is true if this caller started the stream. `is_bound` is true if it leads or has read a
    chunk.
    """

    def __init__(self, slot: _Slot, mine: _Source[C], begin: Callable[[_Source[C]], S], *, together: bool) -> None:
        self._slot = slot
        self.stream: S
        self._source: _Source[C]
        self.stream, self._source = _joined(slot, mine, begin) if together else (begin(mine), mine)
        self.leads = self._source is mine
        self.is_bound = self.leads

    def taken(self) -> bool:
        """Record that a chunk was read. Return True if this caller's host must be notified."""
        self.is_bound = True
        return not (self.leads and self._source.live)

    def end(self) -> None:
        """Record that the caller has read the stream to its end."""
        if not self.leads:
            self._source.followed()

    def leave(self) -> None:
        """Remove the stream from the table if it has ended."""
        if self.stream.ended and _under_way.get(self._slot, (None,))[0] is self.stream:
            _under_way.pop(self._slot, None)


def _joined(slot: _Slot, mine: _Source[C], begin: Callable[[_Source[C]], S]) -> tuple[S, _Source[C]]:
    """Return the stream in *slot* and its source; start one if there is none to join.

    No lock is used: at worst, two streams are started.
    """
    found = _under_way.get(slot)
    if found is None or not found[0].admits(mine.born):
        _forget_ended_loops()
        begun = (begin(mine), mine)
        found = _under_way.setdefault(slot, begun)
        if found is not begun and not found[0].admits(mine.born):
            found = _under_way[slot] = begun
    return found


def _forget_ended_loops() -> None:
    """Remove the streams of closed event loops.

    They have no readers and are not removed elsewhere.
    """
    for slot in list(_under_way):
        if slot.loop is not None and slot.loop.is_closed():
            _under_way.pop(slot, None)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
