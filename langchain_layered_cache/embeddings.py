"""`CachedEmbeddings`: an embedding model whose vectors are kept in tiers.

    embeddings = cached_embeddings(OpenAIEmbeddings(model="text-embedding-3-small"), LayeredCache())

The laws of this edge:

- A key says which model, query or document, and the text, exactly as they are (`_identity`); no two models share vectors.
- The rest is `layered_cache.vector_cache`'s: exact, one read and one write of a batch, each missing text once; errors pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from langchain_core.embeddings import Embeddings
from layered_cache import ConfigurationError, Event, Request, TieredCache, UncacheableRequestError
from layered_cache.adapting import engine_of, seconds_of
from layered_cache.vector_cache import VectorCache

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
        self._vectors = VectorCache(self._cache, keep_for=seconds_of(ttl))

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
        return self._vectors.many(requests, texts, lambda missing: self._embeddings.embed_documents(missing, **options))

    async def aembed_documents(self, texts: list[str], **options: Any) -> list[list[float]]:  # noqa: ANN401 - the model's
        """See embed_documents."""
        requests = self._requests("document", texts := list(texts), options)
        if requests is None:
            return await self._embeddings.aembed_documents(texts, **options)
        return await self._vectors.amany(requests, texts, lambda missing: self._embeddings.aembed_documents(missing, **options))

    # --- one query

    def embed_query(self, text: str, **options: Any) -> list[float]:  # noqa: ANN401 - the model's
        """Return the vector of *text*; *options* go to the model, and into the key."""
        if (requests := self._requests("query", [text], options)) is None:
            return self._embeddings.embed_query(text, **options)
        return self._vectors.one(requests[0], lambda: self._embeddings.embed_query(text, **options))

    async def aembed_query(self, text: str, **options: Any) -> list[float]:  # noqa: ANN401 - the model's
        """See embed_query."""
        if (requests := self._requests("query", [text], options)) is None:
            return await self._embeddings.aembed_query(text, **options)
        return await self._vectors.aone(requests[0], lambda: self._embeddings.aembed_query(text, **options))

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
