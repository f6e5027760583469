"""`VectorCache`: the vectors of texts, for adapters of embedding models.

The adapter provides the requests and calls the model. The rules:

- A vector is read back exactly, to the last bit (`vectors`), as a new list.
- For a batch, each tier is read once. The model is called at most once, with the missing texts in
  order and without duplicates.
- Concurrent callers of one text (`one`) share one model call. Batches do not wait for each other.
- An error of the model is raised unchanged, and only in its own caller. A caller that waited for it
  calls the model again, as in `asking`.
- If the answer is not a list with one vector for each text, nothing of it is stored. The caller
  gets the model's answer to the full batch.
- The options of the call apply: without lookup the model is called, and without storing nothing is
  stored.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, cast

from layered_cache.adapters import vector_codec
from layered_cache.adapters.cached_call import check_only_cached
from layered_cache.adapters.common import batches
from layered_cache.cache import TieredCache
from layered_cache.entry import Answer, Entry, Request
from layered_cache.errors import EncodeError
from layered_cache.events import Event
from layered_cache.options import NO_OPTIONS, CallOptions


class _ModelError(Exception):
    """The model raised *error*, which is not an error of the cache."""

    def __init__(self, error: Exception) -> None:
        super().__init__(type(error).__name__)
        self.error = error


class VectorCache:
    """Vectors in *cache*.

    Args:
        cache: The cache with the vectors.
        keep_for: Their lifetime in seconds. The default is that of the policy.
        tags: Their tags.
        options: The options of the call: mode, ttl, tags and `single_flight`. The rest applies to
            the code that creates requests and selects *cache*.
    """

    def __init__(
        self, cache: TieredCache, *, keep_for: float | None = None, tags: Iterable[str] = (), options: CallOptions = NO_OPTIONS
    ) -> None:
        self.cache = cache
        self._keep_for = keep_for if options.keep_for is None else options.keep_for
        self._tags = (*tags, *options.labels)
        self._options = options

    # --- batches

    # the type is the model's
    def many(self, requests: Sequence[Request], texts: list[str], ask: Callable[[list[str]], Any]) -> Any:  # noqa: ANN401
        """Return the vectors of *texts*, with the help of the model *ask*.

        *requests* has one request for each text.

        Raises:
            CacheMiss: If vectors are missing and the mode is `only_cached`.
        """
        found: dict[Request, list[float]] = {}
        born = None if self._options.looks else self.cache.ticket()
        for batch in batches(requests if self._options.looks else ()):
            found |= self._decoded(self.cache.get_many(batch, leave=self._options.stores))
        if missing := _missing(texts, requests, found):
            check_only_cached(self._options)
            started = time.monotonic()
            said = ask(list(missing.values()))
            if (answers := self._answers(missing, said, started)) is None:
                return said if list(missing.values()) == texts else ask(texts)
            for batch in batches(answers if self._options.stores else ()):
                self.cache.set_many({request: answers[request] for request in batch}, born=born)
            found |= {request: vector_codec.decode(answer.value) for request, answer in answers.items()}
        return _each(requests, found)

    async def amany(self, requests: Sequence[Request], texts: list[str], ask: Callable[[list[str]], Awaitable[Any]]) -> Any:  # noqa: ANN401
        """Return the vectors of *texts*, like `many`."""
        found: dict[Request, list[float]] = {}
        born = None if self._options.looks else await self.cache.aticket()
        for batch in batches(requests if self._options.looks else ()):
            found |= self._decoded(await self.cache.aget_many(batch, leave=self._options.stores))
        if missing := _missing(texts, requests, found):
            check_only_cached(self._options)
            started = time.monotonic()
            said = await ask(list(missing.values()))
            if (answers := self._answers(missing, said, started)) is None:
                return said if list(missing.values()) == texts else await ask(texts)
            for batch in batches(answers if self._options.stores else ()):
                await self.cache.aset_many({request: answers[request] for request in batch}, born=born)
            found |= {request: vector_codec.decode(answer.value) for request, answer in answers.items()}
        return _each(requests, found)

    # --- one text

    # the type is the model's
    def one(self, request: Request, ask: Callable[[], Any]) -> Any:  # noqa: ANN401
        """Return the vector of *request*; *ask* calls the model.

        A stale vector is returned and refreshed in the background.
        """
        if not self._shares:
            return self.many([request], [""], lambda _: [ask()])[0]
        said: list[Any] = []
        failed: list[Exception] = []

        def compute() -> Answer:
            try:
                said.append(ask())
            except Exception as error:
                failed.append(error)
                raise _ModelError(error) from error
            return self._answer(said[0])

        entry = None
        try:
            entry = self.cache.get_or_compute(request, compute)
        except EncodeError:
            return said[0] if said else ask()
        except _ModelError:
            # raised below, so that the error has no other error as its context
            pass
        if failed and entry is None:
            raise failed[0]
        if entry is None or (vector := self._vector(entry)) is None:
            born = self.cache.ticket()
            vector = ask()
            self.cache.set_many(self._answers({request: ""}, [vector], None) or {}, born=born)
        return vector

    # the type is the model's
    async def aone(self, request: Request, ask: Callable[[], Awaitable[Any]]) -> Any:  # noqa: ANN401
        """Return the vector of *request*, like `one`."""
        if not self._shares:

            async def alone(_: list[str]) -> list[Any]:
                return [await ask()]

            return (await self.amany([request], [""], alone))[0]
        said: list[Any] = []
        failed: list[Exception] = []

        async def compute() -> Answer:
            try:
                said.append(await ask())
            except Exception as error:
                failed.append(error)
                raise _ModelError(error) from error
            return self._answer(said[0])

        entry = None
        try:
            entry = await self.cache.aget_or_compute(request, compute)
        except EncodeError:
            return said[0] if said else await ask()
        except _ModelError:
            # see one
            pass
        if failed and entry is None:
            raise failed[0]
        if entry is None or (vector := self._vector(entry)) is None:
            born = await self.cache.aticket()
            vector = await ask()
            await self.cache.aset_many(self._answers({request: ""}, [vector], None) or {}, born=born)
        return vector

    @property
    def _shares(self) -> bool:
        return self._options.mode == "default" and self._options.single_flight is not False

    # --- values

    def _answer(self, vector: object, seconds: float | None = None) -> Answer:
        value = vector_codec.encode(vector)
        return Answer(value=value, codec=vector_codec.CODEC, keep_for=self._keep_for, tags=self._tags, compute_seconds=seconds)

    def _answers(self, missing: Mapping[Request, str], said: object, started: float | None) -> dict[Request, Answer] | None:
        """Return the answers to store for the texts in *missing*, or None for a wrong result."""
        try:
            each = list(cast("list[object]", said))
            share = None if started is None else (time.monotonic() - started) / len(missing)
            if len(each) == len(missing):
                return {request: self._answer(vector, share) for request, vector in zip(missing, each, strict=True)}
            reason = "not as many vectors as texts"
        except (TypeError, EncodeError):
            reason = "not encodable"
        model = next(iter(missing)).model
        self.cache.report(Event(kind="not_stored", namespace=self.cache.name, model=model, reason=reason))
        return None

    def _decoded(self, entries: Mapping[Request, Entry]) -> dict[Request, list[float]]:
        decoded = ((request, self._vector(entry)) for request, entry in entries.items())
        return {request: vector for request, vector in decoded if vector is not None}

    def _vector(self, entry: Entry) -> list[float] | None:
        try:
            if entry.codec == vector_codec.CODEC:
                return vector_codec.decode(entry.value)
            reason = "the codec is different"
        except ValueError as error:
            reason = str(error)
        self.cache.reject(entry.key, reason)
        return None


def _missing(texts: Sequence[str], requests: Sequence[Request], found: Mapping[Request, object]) -> dict[Request, str]:
    """Return the texts of requests that were not *found*, in order and without duplicates."""
    return {request: text for request, text in zip(requests, texts, strict=True) if request not in found}


def _each(requests: Sequence[Request], found: dict[Request, list[float]]) -> list[list[float]]:
    """Return the vectors of *requests*, with a separate list for each, even for equal requests."""
    if len(found) == len(requests):
        return [found[request] for request in requests]
    return [list(found[request]) for request in requests]
