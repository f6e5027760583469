"""`VectorCache`: the vectors of texts, for adapters of embedding models, which say what is asked (`Request`) and how the model is asked.

The laws:

- A vector comes back as it was to the last bit (`vectors`), in a list that nobody else has.
- Of a batch, each tier is asked once, and the model at most once: for the texts that are missing, each of them once, in their order.
- Concurrent callers of one text (`one`) wait for one call of the model; batches do not wait for each other.
- What the model raises reaches its caller, unchanged, and nobody else: who has waited for it asks by himself, as in `asking`.
- An answer that is no list of as many vectors as there were texts is nobody's to share out: nothing of it is kept, and the caller gets
  what the model says to all that was asked.
- What the caller's options say holds: what is not looked for is asked of the model, what is not to be stored is not.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, cast

from layered_cache import vectors
from layered_cache.adapting import batches
from layered_cache.asking import check_only_cached
from layered_cache.cache import TieredCache
from layered_cache.entry import Answer, Entry, Request
from layered_cache.errors import EncodeError
from layered_cache.events import Event
from layered_cache.options import NO_OPTIONS, CallOptions


class _ModelError(Exception):
    """The model has raised *error*, which is not the cache's."""

    def __init__(self, error: Exception) -> None:
        super().__init__(type(error).__name__)
        self.error = error


class VectorCache:
    """Vectors in *cache*.

    Args:
        cache: Where they live.
        keep_for: How long, in seconds; as long as the policy says, unless given.
        tags: Their labels.
        options: What the caller says: mode, ttl, tags and `single_flight`; the rest is for whoever makes requests, and chooses *cache*.
    """

    def __init__(
        self, cache: TieredCache, *, keep_for: float | None = None, tags: Iterable[str] = (), options: CallOptions = NO_OPTIONS
    ) -> None:
        self.cache = cache
        self._keep_for = keep_for if options.keep_for is None else options.keep_for
        self._tags = (*tags, *options.labels)
        self._options = options

    # --- batches

    def many(self, requests: Sequence[Request], texts: list[str], ask: Callable[[list[str]], Any]) -> Any:  # noqa: ANN401 - the model's
        """Return the vectors of *texts*, of which *requests* has one each; *ask* is the model.

        Raises:
            CacheMiss: Some are missing, and the caller wants nothing that is.
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
            found |= {request: vectors.decode(answer.value) for request, answer in answers.items()}
        return _each(requests, found)

    async def amany(self, requests: Sequence[Request], texts: list[str], ask: Callable[[list[str]], Awaitable[Any]]) -> Any:  # noqa: ANN401
        """See many."""
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
            found |= {request: vectors.decode(answer.value) for request, answer in answers.items()}
        return _each(requests, found)

    # --- one text

    def one(self, request: Request, ask: Callable[[], Any]) -> Any:  # noqa: ANN401 - the model's
        """Return the vector that *request* asks for; *ask* is the model. A stale one is refreshed in the background."""
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
        except _ModelError:  # looked at below, so that what is raised has no other error as its context
            pass
        if failed and entry is None:
            raise failed[0]
        if entry is None or (vector := self._vector(entry)) is None:
            born = self.cache.ticket()
            vector = ask()
            self.cache.set_many(self._answers({request: ""}, [vector], None) or {}, born=born)
        return vector

    async def aone(self, request: Request, ask: Callable[[], Awaitable[Any]]) -> Any:  # noqa: ANN401 - the model's
        """See one."""
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
        except _ModelError:  # see one
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
        value = vectors.encode(vector)
        return Answer(value=value, codec=vectors.CODEC, keep_for=self._keep_for, tags=self._tags, compute_seconds=seconds)

    def _answers(self, missing: Mapping[Request, str], said: object, started: float | None) -> dict[Request, Answer] | None:
        """Return what to keep of what the model *said* to the texts in *missing*; None if it is not theirs, one by one."""
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
            if entry.codec == vectors.CODEC:
                return vectors.decode(entry.value)
            reason = "it is of another codec"
        except ValueError as error:
            reason = str(error)
        self.cache.reject(entry.key, reason)
        return None


def _missing(texts: Sequence[str], requests: Sequence[Request], found: Mapping[Request, object]) -> dict[Request, str]:
    """Return the texts whose requests were not *found*, each once, in their order."""
    return {request: text for request, text in zip(requests, texts, strict=True) if request not in found}


def _each(requests: Sequence[Request], found: dict[Request, list[float]]) -> list[list[float]]:
    """Return the vectors of *requests*, a list for each, also of those that ask for the same."""
    if len(found) == len(requests):
        return [found[request] for request in requests]
    return [list(found[request]) for request in requests]
