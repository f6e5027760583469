"""`CachedEmbeddings`: an embedding model that stores its vectors in tiers.

    embeddings = cached_embeddings(OpenAIEmbeddings(model="text-embedding-3-small"), LayeredCache())

The laws:

- A key covers the model (`_embedding_identity`), the kind (query or document) and the exact text. Two models never share vectors.
- `cache_options(...)` applies to vectors as it does to answers: only the tenant of a vector finds it.
- `layered_cache.adapters.vector_cache` does the rest: exact vectors, one read and one write for a batch, one request for each missing
  text. Errors of the model pass through.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.embeddings import Embeddings
from layered_cache import (
    CallOptions,
    ConfigurationError,
    Event,
    Request,
    TenantRequiredError,
    TieredCache,
    UncacheableRequestError,
    current_options,
)
from layered_cache.adapters.cached_call import check_only_cached
from layered_cache.adapters.common import Duration, engine_of, seconds_of
from layered_cache.adapters.vector_cache import VectorCache
from layered_cache.options import NO_OPTIONS, fingerprint

from langchain_layered_cache._embedding_identity import Identity
from langchain_layered_cache._keys.request import FRAMEWORK
from langchain_layered_cache.cache import LayeredCache

_TRANSPORT_OF_CALLS = frozenset({"chunk_size", "batch_size"})
_NO_TENANT = "this cache serves tenants, and the call of the embeddings names none: with cache_options(namespace=...)"


def cached_embeddings(
    embeddings: Embeddings,
    cache: TieredCache | LayeredCache,
    *,
    model: str | None = None,
    namespace: str = "embeddings",
    ttl: Duration | None = None,
) -> CachedEmbeddings:
    """Return *embeddings* with a cache; the arguments are those of `CachedEmbeddings`."""
    return CachedEmbeddings(embeddings, cache, model=model, namespace=namespace, ttl=ttl)


class CachedEmbeddings(Embeddings):
    """An embedding model that stores its vectors in tiers. It has all other attributes of the model.

    Concurrent callers of one query wait for one request. Batches do not wait for each other.

    `cache_options(...)` around a call sets its options: `mode`, `namespace` (a tenant), `ttl`, `tags`, `account` and
    `single_flight`. `sample` has no effect: a text has one vector.

    Args:
        embeddings: The model.
        cache: The tiers; a `LayeredCache` shares its own.
        model: The name of the model, for keys and `invalidate(model=...)`. Default: the name in its attributes. It is required
            for a model without a name or with settings that cannot be read, and must identify these settings too.
        namespace: The name of the child namespace of *cache* for the vectors.
        ttl: How long a vector is kept: seconds, a `timedelta` or a text (`"30d"`). Default: the policy of *cache*.

    Raises:
        ConfigurationError: Before any I/O, if an argument is invalid or the model cannot be identified.
        TenantRequiredError: By a call without a tenant, if the policy requires one.
        CacheMiss: By a call with `mode="only_cached"`, if a vector is missing.
        TierError: By a call, if a tier fails and the policy of *cache* has `fail_open=False`.
    """

    def __init__(
        self,
        embeddings: Embeddings,
        cache: TieredCache | LayeredCache,
        *,
        model: str | None = None,
        namespace: str = "embeddings",
        ttl: Duration | None = None,
    ) -> None:
        if not isinstance(embeddings, Embeddings) or isinstance(embeddings, CachedEmbeddings):  # pyright: ignore[reportUnnecessaryIsInstance]
            msg = f"embeddings must be a LangChain Embeddings that is not cached yet, not a {type(embeddings).__qualname__}"
            raise ConfigurationError(msg)
        self._embeddings = embeddings
        self._identity = Identity(embeddings, model)
        self._engine, self._place = engine_of(cache), namespace
        self._cache = self._engine.namespace(namespace)
        self._keep_for = seconds_of(ttl)
        self._vectors = VectorCache(self._cache, keep_for=self._keep_for)

    @property
    def engine(self) -> TieredCache:
        """The cache of the vectors, in its own namespace."""
        return self._cache

    # --- batches

    def embed_documents(self, texts: list[str], **options: Any) -> list[list[float]]:  # noqa: ANN401 - the model's
        """Return the vectors of *texts*. The model gets *options*, and the key covers them."""
        vectors, requests = self._asked("document", texts := list(texts), options)
        if requests is None:
            return self._embeddings.embed_documents(texts, **options)
        return vectors.many(requests, texts, lambda missing: self._embeddings.embed_documents(missing, **options))

    async def aembed_documents(self, texts: list[str], **options: Any) -> list[list[float]]:  # noqa: ANN401 - the model's
        """See embed_documents."""
        vectors, requests = self._asked("document", texts := list(texts), options)
        if requests is None:
            return await self._embeddings.aembed_documents(texts, **options)
        return await vectors.amany(requests, texts, lambda missing: self._embeddings.aembed_documents(missing, **options))

    # --- one query

    def embed_query(self, text: str, **options: Any) -> list[float]:  # noqa: ANN401 - the model's
        """Return the vector of *text*. The model gets *options*, and the key covers them."""
        vectors, requests = self._asked("query", [text], options)
        if requests is None:
            return self._embeddings.embed_query(text, **options)
        return vectors.one(requests[0], lambda: self._embeddings.embed_query(text, **options))

    async def aembed_query(self, text: str, **options: Any) -> list[float]:  # noqa: ANN401 - the model's
        """See embed_query."""
        vectors, requests = self._asked("query", [text], options)
        if requests is None:
            return await self._embeddings.aembed_query(text, **options)
        return await vectors.aone(requests[0], lambda: self._embeddings.aembed_query(text, **options))

    # --- other attributes of the model

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any attribute
        if name.startswith("_"):  # private ones, and those that `copy` reads before the model is set
            raise AttributeError(name)
        return getattr(self._embeddings, name)

    def __repr__(self) -> str:
        return f"CachedEmbeddings({self._identity.name!r}, {self._cache!r})"

    # --- keys and values

    def _asked(self, kind: str, texts: Sequence[str], call: Mapping[str, object]) -> tuple[VectorCache, list[Request] | None]:
        """Return the cache of the vectors of *texts* and a request for each; None if the call is not cached.

        Raises:
            TenantRequiredError, CacheMiss: See above.
        """
        options = current_options()
        vectors = self._vectors_of(options)
        if options.mode == "bypass":
            return vectors, None
        try:
            params = {"kind": kind, **self._identity.params}
            if call := {name: value for name, value in call.items() if name not in _TRANSPORT_OF_CALLS}:
                params["call"] = call
            if options.account is not None:
                params["account"] = fingerprint(options.account)
            return vectors, [Request(text, model=self._identity.name, params=params, framework=FRAMEWORK) for text in texts]
        except UncacheableRequestError as error:
            vectors.cache.report(Event(kind="uncacheable", namespace=vectors.cache.name, reason=str(error)))
            check_only_cached(options)
            return vectors, None

    def _vectors_of(self, options: CallOptions) -> VectorCache:
        if options is NO_OPTIONS and not self._cache.policy.tenant_required:
            return self._vectors
        if options.namespace is not None:
            cache = self._engine.namespace(options.namespace).namespace(self._place)
        elif self._cache.policy.tenant_required:
            raise TenantRequiredError(_NO_TENANT)
        else:
            cache = self._cache
        return VectorCache(cache, keep_for=self._keep_for, options=options)
