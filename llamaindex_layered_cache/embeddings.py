"""`cached_embedding`: an embedding model that stores its vectors in tiers.

    embed_model = cached_embedding(OpenAIEmbedding(model="text-embedding-3-small"), TieredCache("memory://", "redis://host/0"))

The class of the copy is derived from the class of the model and has the same name. So indices, pipelines and pickles treat
the copy like the model, and `IngestionPipeline` computes the same hashes. Only the request methods differ. Laws:

- A key covers the model with its settings (`_embedding_identity`), the kind (query or text) and the exact text. Two models
  never share vectors, nor do queries and texts.
- `cache_options(...)` applies to vectors as it does to answers: only the tenant of a vector finds it.
- `layered_cache.adapters.vector_cache` does the rest: exact vectors, one read and one write for a batch, one request for each missing
  text. Errors of the model pass through.
- Calls that the model makes to itself within a request do not use the cache.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar, cast

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
from layered_cache.adapters.identity.snapshots import Attributes
from layered_cache.adapters.vector_cache import VectorCache
from layered_cache.entry import checked_tags
from layered_cache.options import NO_OPTIONS, fingerprint
from llama_index.core.base.embeddings.base import BaseEmbedding

from llamaindex_layered_cache import _embedding_identity as identity
from llamaindex_layered_cache._pydantic_views import Held, copied, view_of

M = TypeVar("M", bound=BaseEmbedding)

FRAMEWORK = "llamaindex"

_NO_TENANT = "this cache serves tenants, and the call of the embeddings names none: with cache_options(namespace=...)"


def cached_embedding(
    embed_model: M,
    cache: TieredCache,
    *,
    ttl: Duration | None = None,
    namespace: str | None = None,
    tags: Iterable[str] = (),
    key_extra: object = None,
) -> M:
    """Return a copy of *embed_model* that stores its vectors in *cache*. The original is unchanged.

    Concurrent callers of one text wait for one request. Batches do not wait for each other. An `embeddings_cache` of the
    model is read first, and it does not know tenants and accounts. A pickle of the copy includes the cache if its tiers
    were made from URLs. Otherwise it is a pickle of the model.

    `cache_options(...)` around a call sets its options: `mode`, `namespace` (a tenant), `ttl`, `tags`, `account` and
    `single_flight`. `sample` has no effect: a text has one vector.

    Args:
        embed_model: A model of any class. If it has a cache already, it gets this one instead.
        cache: The tiers, or an adapter over them.
        ttl: How long a vector is kept: seconds, a `timedelta` or a text (`"30d"`). Default: the policy of *cache*.
        namespace: The name of the child namespace of *cache* for the vectors. Default: the namespace of *cache*.
        tags: Labels of the vectors, for `invalidate(tag=...)`.
        key_extra: Plain data that identifies settings of the model that cannot be read, or a model without a name.

    Raises:
        ConfigurationError: Before any I/O, if an argument is invalid or the model cannot be identified.
        TenantRequiredError: By a call without a tenant, if the policy requires one.
        CacheMiss: By a call with `mode="only_cached"`, if a vector is missing.
    """
    if not isinstance(embed_model, BaseEmbedding):  # pyright: ignore[reportUnnecessaryIsInstance] - the caller may be untyped
        msg = f"embed_model must be a LlamaIndex BaseEmbedding, not a {type(embed_model).__qualname__}"
        raise ConfigurationError(msg)
    identity.check(embed_model, key_extra)
    return _with(embed_model, _Keeper(engine_of(cache), namespace, seconds_of(ttl), checked_tags(tags), key_extra))


def uncached_embedding(embed_model: M) -> M:
    """Return a copy of *embed_model* without a cache."""
    plain = copied(embed_model, _plain_class(type(embed_model)))
    if isinstance(embed_model, CachedEmbedding):
        private = dict(plain.__pydantic_private__ or {})
        del private[identity.OWN], private[identity.BARE]
        object.__setattr__(plain, "__pydantic_private__", private or None)
    return plain


class _Keeper:
    """The cache settings of a cached model. They do not change, and copies of the model share them."""

    def __init__(self, engine: TieredCache, place: str | None, keep_for: float | None, tags: tuple[str, ...], key_extra: object) -> None:
        self.recipe = (engine, place, keep_for, tags, key_extra)
        self._engine, self._place = engine, place
        self._keep_for, self._tags = keep_for, tags
        self._key_extra = key_extra
        self.vectors = VectorCache(self._below(engine), keep_for=keep_for, tags=tags)
        self.made_of: BaseEmbedding | None = None
        self._known: tuple[Attributes, identity.Identity] | None = None

    def __copy__(self) -> _Keeper:
        return self

    def __deepcopy__(self, memo: object) -> _Keeper:
        return self

    def asked(self, model: BaseEmbedding, kind: str, texts: list[str]) -> tuple[VectorCache, list[Request]] | None:
        """Return the cache of the vectors of *texts* and a request for each; None if the call is not cached.

        Raises:
            TenantRequiredError, CacheMiss: See above.
        """
        options = current_options()
        vectors = self._vectors_of(options)
        if options.mode == "bypass":
            return None
        try:
            now = self._identity(model)
            params = {"kind": f"{kind} embedding", "settings": now.digest}
            account = options.account
            if account is None and self._engine.policy.separate_accounts:
                account = identity.account(model)
            if account is not None:
                params["account"] = fingerprint(account)
            return vectors, [Request(text, model=now.name, params=params, framework=FRAMEWORK) for text in texts]
        except UncacheableRequestError as error:
            vectors.cache.report(Event(kind="uncacheable", namespace=vectors.cache.name, reason=str(error)))
            check_only_cached(options)
            return None

    def _identity(self, model: BaseEmbedding) -> identity.Identity:
        if (known := self._known) is not None and known[0].are_of(model):
            return known[1]
        attributes, now = identity.attributes_of(model, identity.is_aside), identity.Identity(model, self._key_extra)
        self._known = (attributes, now) if attributes.is_exact and now.is_fixed else None
        return now

    def _vectors_of(self, options: CallOptions) -> VectorCache:
        if options is NO_OPTIONS and not self._engine.policy.tenant_required:
            return self.vectors
        if options.namespace is not None:
            cache = self._below(self._engine.namespace(options.namespace))
        elif self._engine.policy.tenant_required:
            raise TenantRequiredError(_NO_TENANT)
        else:
            cache = self._below(self._engine)
        return VectorCache(cache, keep_for=self._keep_for, tags=self._tags, options=options)

    def _below(self, cache: TieredCache) -> TieredCache:
        return cache if self._place is None else cache.namespace(self._place)


if TYPE_CHECKING:
    _Model = BaseEmbedding
else:
    _Model = object  # the derived class has the class of the model as its second base


class CachedEmbedding(_Model):
    """The cached methods, first in the bases of a derived class."""

    def _get_query_embedding(self, query: str) -> Any:  # noqa: ANN401 - the model's, as all below
        return self._one("_get_query_embedding", "query", query)

    async def _aget_query_embedding(self, query: str) -> Any:  # noqa: ANN401
        return await self._aone("_aget_query_embedding", "query", query)

    def _get_text_embedding(self, text: str) -> Any:  # noqa: ANN401
        return self._one("_get_text_embedding", "text", text)

    async def _aget_text_embedding(self, text: str) -> Any:  # noqa: ANN401
        return await self._aone("_aget_text_embedding", "text", text)

    def _get_text_embeddings(self, texts: list[str]) -> Any:  # noqa: ANN401
        ask, asked = self._asked("_get_text_embeddings", "text", texts := list(texts))
        return ask(texts) if asked is None else asked[0].many(asked[1], texts, ask)

    async def _aget_text_embeddings(self, texts: list[str]) -> Any:  # noqa: ANN401
        ask, asked = self._asked("_aget_text_embeddings", "text", texts := list(texts))
        return await (ask(texts) if asked is None else asked[0].amany(asked[1], texts, ask))

    def _one(self, method: str, kind: str, text: str) -> Any:  # noqa: ANN401
        ask, asked = self._asked(method, kind, [text])
        return ask(text) if asked is None else asked[0].one(asked[1][0], lambda: ask(text))

    async def _aone(self, method: str, kind: str, text: str) -> Any:  # noqa: ANN401
        ask, asked = self._asked(method, kind, [text])
        return await (ask(text) if asked is None else asked[0].aone(asked[1][0], lambda: ask(text)))

    @property
    def _keeper(self) -> _Keeper:
        return cast("dict[str, Any]", self.__pydantic_private__)[identity.OWN]

    def _asked(self, method: str, kind: str, texts: list[str]) -> tuple[Callable[[Any], Any], tuple[VectorCache, list[Request]] | None]:
        """Return the method of the model without the cache, and the cache with the requests; None if the call is not cached."""
        plain = view_of(self, _plain_class(type(self)), cast("dict[str, Any]", self.__pydantic_private__), identity.BARE)
        return getattr(plain, method), self._keeper.asked(self, kind, texts)

    def __reduce_ex__(self, protocol: Any) -> Any:  # noqa: ANN401 - object's
        plain = uncached_embedding(self)
        recipe = self._keeper.recipe
        try:
            recipe[0].__reduce__()
        except ConfigurationError:  # its tiers have no URLs: the pickle holds the model alone
            return _remade, (plain,)
        return _remade, (plain, *recipe)


def _remade(plain: BaseEmbedding, *recipe: Any) -> BaseEmbedding:  # noqa: ANN401 - as above
    """Return the model of a pickle."""
    return _with(plain, _Keeper(*recipe)) if recipe else plain


def _with(embed_model: M, keeper: _Keeper) -> M:
    # kept alive: some classes close the client, which copies share, when an object is collected
    keeper.made_of = embed_model
    wrapped = copied(embed_model, _class(_plain_class(type(embed_model))))
    private = {**(wrapped.__pydantic_private__ or {}), identity.OWN: keeper, identity.BARE: Held()}
    object.__setattr__(wrapped, "__pydantic_private__", private)
    return wrapped


def _plain_class(cls: type[M]) -> type[M]:
    return cast("type[M]", cls.__bases__[1]) if issubclass(cls, CachedEmbedding) else cls


@lru_cache(maxsize=256)
def _class(cls: type[M]) -> type[M]:
    """Return the derived class of *cls* that uses a cache."""
    members = {
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        "model_config": {"defer_build": True},
    }
    made = types.new_class(cls.__name__, (CachedEmbedding, cls), exec_body=lambda body: body.update(members))
    return cast("type[M]", made)
