"""`CachedEmbeddings`: an embedding model whose vectors are kept in tiers.

    embeddings = cached_embeddings(OpenAIEmbeddings(model="text-embedding-3-small"), LayeredCache())

The laws of this edge:

- A key says which model, query or document, and the text, exactly as they are (`_identity`); no two models share vectors.
- A vector comes back as it was to the last bit (`layered_cache.vectors`), in a list that nobody else has.
- Of a batch, each tier is asked once, and the model at most once: for the texts that are missing, each of them once, in their order.
- What the model raises passes unchanged. An answer that is no list of as many vectors as there were texts is nobody's to share out:
  nothing of it is kept, and the caller gets what the model says to all that was asked.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, cast

from langchain_core.embeddings import Embeddings
from layered_cache import Answer, ConfigurationError, EncodeError, Entry, Event, Request, TieredCache, UncacheableRequestError, vectors
from layered_cache.adapting import batches, engine_of, seconds_of

from langchain_layered_cache._identity import Identity
from langchain_layered_cache._requests import FRAMEWORK
from langchain_layered_cache.cache import LayeredCache

_TRANSPORT_OF_CALLS = frozenset({"chunk_size", "batch_size"})


def cached_embeddings(
    embeddings: Embeddings,
    cache: TieredCache | LayeredCache,
    *,
    model: str | None = None,
    namespace: str = "embeddings",
    ttl: float | timedelta | str | None = None,
) -> CachedEmbeddings:
    """Return *embeddings* with a cache before it; the arguments are those of `CachedEmbeddings`."""
    return CachedEmbeddings(embeddings, cache, model=model, namespace=namespace, ttl=ttl)


class CachedEmbeddings(Embeddings):
    """An embedding model whose vectors are kept in tiers. What else the model has, this has too.

    Concurrent callers of one query wait for one call of the model; batches do not wait for each other.

    Args:
        embeddings: The model.
        cache: The tiers; a `LayeredCache` shares its own.
        model: What the model is called, in keys and for `invalidate(model=...)`; what it calls itself, unless given. A model without a
            name, or with settings that cannot be read, needs one, which then has to stand for these settings too.
        namespace: The name of the child namespace of *cache* in which the vectors live.
        ttl: How long a vector is kept: seconds, a timedelta or a text (`"30d"`); as long as the policy of *cache* says, unless given.

    Raises:
        ConfigurationError: Before any I/O, if an argument is wrong, or nothing says which model it is.
    """

    def __init__(
        self,
        embeddings: Embeddings,
        cache: TieredCache | LayeredCache,
        *,
        model: str | None = None,
        namespace: str = "embeddings",
        ttl: float | timedelta | str | None = None,
    ) -> None:
        if not isinstance(embeddings, Embeddings) or isinstance(embeddings, CachedEmbeddings):  # pyright: ignore[reportUnnecessaryIsInstance]
            msg = f"embeddings must be a LangChain Embeddings that is not cached yet, not a {type(embeddings).__qualname__}"
            raise ConfigurationError(msg)
        self._embeddings = embeddings
        self._identity = Identity(embeddings, model)
        self._cache = engine_of(cache).namespace(namespace)
        self._ttl = seconds_of(ttl)

    @property
    def engine(self) -> TieredCache:
        """The cache of the vectors, in its own namespace."""
        return self._cache

    # --- batches

    def embed_documents(self, texts: list[str], **options: Any) -> list[list[float]]:  # noqa: ANN401 - the model's
        """Return the vectors of *texts*; *options* go to the model, and into the key."""
        requests = self._requests("document", texts := list(texts), options)
        if requests is None:
            return self._embeddings.embed_documents(texts, **options)
        found: dict[Request, list[float]] = {}
        for batch in batches(requests):
            found |= self._decoded(self._cache.get_many(batch))
        if missing := _missing(texts, requests, found):
            started = time.monotonic()
            said = self._embeddings.embed_documents(list(missing.values()), **options)
            if (answers := self._answers(missing, said, started)) is None:
                return said if list(missing.values()) == texts else self._embeddings.embed_documents(texts, **options)
            for batch in batches(answers):
                self._cache.set_many({request: answers[request] for request in batch})
            found |= {request: vectors.decode(answer.value) for request, answer in answers.items()}
        return [list(found[request]) for request in requests]

    async def aembed_documents(self, texts: list[str], **options: Any) -> list[list[float]]:  # noqa: ANN401 - the model's
        """See embed_documents."""
        requests = self._requests("document", texts := list(texts), options)
        if requests is None:
            return await self._embeddings.aembed_documents(texts, **options)
        found: dict[Request, list[float]] = {}
        for batch in batches(requests):
            found |= self._decoded(await self._cache.aget_many(batch))
        if missing := _missing(texts, requests, found):
            started = time.monotonic()
            said = await self._embeddings.aembed_documents(list(missing.values()), **options)
            if (answers := self._answers(missing, said, started)) is None:
                return said if list(missing.values()) == texts else await self._embeddings.aembed_documents(texts, **options)
            for batch in batches(answers):
                await self._cache.aset_many({request: answers[request] for request in batch})
            found |= {request: vectors.decode(answer.value) for request, answer in answers.items()}
        return [list(found[request]) for request in requests]

    # --- one query

    def embed_query(self, text: str, **options: Any) -> list[float]:  # noqa: ANN401 - the model's
        """Return the vector of *text*; *options* go to the model, and into the key."""
        if (requests := self._requests("query", [text], options)) is None:
            return self._embeddings.embed_query(text, **options)
        said: list[list[float]] = []

        def compute() -> Answer:
            said.append(self._embeddings.embed_query(text, **options))
            return self._answer(said[0])

        try:
            entry = self._cache.get_or_compute(requests[0], compute)
        except EncodeError:
            return said[0] if said else self._embeddings.embed_query(text, **options)
        if (vector := self._vector(entry)) is None:
            vector = self._embeddings.embed_query(text, **options)
            self._cache.set_many(self._answers({requests[0]: text}, [vector], None) or {})
        return vector

    async def aembed_query(self, text: str, **options: Any) -> list[float]:  # noqa: ANN401 - the model's
        """See embed_query."""
        if (requests := self._requests("query", [text], options)) is None:
            return await self._embeddings.aembed_query(text, **options)
        said: list[list[float]] = []

        async def compute() -> Answer:
            said.append(await self._embeddings.aembed_query(text, **options))
            return self._answer(said[0])

        try:
            entry = await self._cache.aget_or_compute(requests[0], compute)
        except EncodeError:
            return said[0] if said else await self._embeddings.aembed_query(text, **options)
        if (vector := self._vector(entry)) is None:
            vector = await self._embeddings.aembed_query(text, **options)
            await self._cache.aset_many(self._answers({requests[0]: text}, [vector], None) or {})
        return vector

    # --- what else the model has

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the model has
        if name.startswith("_"):  # its own, and those that copying asks for before there is a model
            raise AttributeError(name)
        return getattr(self._embeddings, name)

    def __repr__(self) -> str:
        return f"CachedEmbeddings({self._identity.name!r}, {self._cache!r})"

    # --- keys and values

    def _requests(self, kind: str, texts: Sequence[str], options: Mapping[str, object]) -> list[Request] | None:
        """Return a request for each of *texts*; None if no exact key can be made of what decides their vectors."""
        try:
            call = {name: value for name, value in options.items() if name not in _TRANSPORT_OF_CALLS}
            params = {"kind": kind, **self._identity.params, **({"call": call} if call else {})}
            return [Request(text, model=self._identity.name, params=params, framework=FRAMEWORK) for text in texts]
        except UncacheableRequestError as error:
            self._cache.report(Event(kind="uncacheable", namespace=self._cache.name, reason=str(error)))
            return None

    def _answer(self, vector: object, seconds: float | None = None) -> Answer:
        return Answer(value=vectors.encode(vector), codec=vectors.CODEC, keep_for=self._ttl, compute_seconds=seconds)

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
        self._cache.report(Event(kind="not_stored", namespace=self._cache.name, model=self._identity.name, reason=reason))
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
        self._cache.reject(entry.key, reason)
        return None


def _missing(texts: Sequence[str], requests: Sequence[Request], found: Mapping[Request, object]) -> dict[Request, str]:
    """Return the texts whose requests were not *found*, each once, in their order."""
    return {request: text for request, text in zip(requests, texts, strict=True) if request not in found}
