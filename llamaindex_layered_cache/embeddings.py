"""`cached_embedding`: an embedding model whose vectors are kept in tiers.

    embed_model = cached_embedding(OpenAIEmbedding(model="text-embedding-3-small"), TieredCache("memory://", "redis://host/0"))

A copy of the model gets a class that is derived from its own and has its name, so that indices, pipelines and pickles take it for what it
was; the hashes by which `IngestionPipeline` knows it are as before. Only what asks the provider is new. The laws of this edge:

- A key says which model with which settings (`_embedding_identity`), query or text, and the text, exactly as they are: no two models share
  vectors, and a model that embeds queries and texts differently never gets one for the other.
- What the caller says by `with cache_options(...)` holds for vectors as it does for answers: a tenant's are found by this tenant only.
- The rest is `layered_cache.vector_cache`'s: exact, one read and one write of a batch, each missing text once; errors pass.
- What the model does within a call (one text after the other, say) is its own matter: it works as if it had no cache.
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
from layered_cache.adapting import engine_of, seconds_of
from layered_cache.asking import check_only_cached
from layered_cache.entry import checked_tags
from layered_cache.options import NO_OPTIONS, fingerprint
from layered_cache.units import Duration
from layered_cache.vector_cache import VectorCache
from llama_index.core.base.embeddings.base import BaseEmbedding

from llamaindex_layered_cache import _embedding_identity as identity
from llamaindex_layered_cache._views import Held, copied, view_of

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
    """Return a copy of *embed_model* whose vectors are kept in *cache*; the model itself is left as it is.

    Concurrent callers of one text wait for one call of the model; batches do not wait for each other. An `embeddings_cache` that the model
    has is asked before, and knows nothing of tenants and accounts. A pickle of the copy has the cache with it, if that is made from URLs;
    else it is a pickle of the model.

    Options of a call are those around it, `with cache_options(...)`: `mode`, `namespace` (a tenant, below whom its vectors live), `ttl`,
    `tags`, `account` and `single_flight`. A `sample` says nothing: there is one vector of a text.

    Args:
        embed_model: Of any class. If it has a cache already, it gets this one instead.
        cache: The tiers, or an adapter over them.
        ttl: How long a vector is kept: seconds, a timedelta or a text (`"30d"`); as long as the policy of *cache* says, unless given.
        namespace: The name of the child namespace of *cache* in which the vectors live; in its own, unless given.
        tags: Labels of the vectors, for `invalidate(tag=...)`.
        key_extra: What stands, in keys, for settings of the model that cannot be read, and for a name that it has not: plain data.

    Raises:
        ConfigurationError: Before any I/O, if an argument is wrong, or nothing says which model it is.
        TenantRequiredError: By a call that names no tenant, where the policy requires one.
        CacheMiss: By a call with `mode="only_cached"`, if a vector is missing.
    """
    if not isinstance(embed_model, BaseEmbedding):  # pyright: ignore[reportUnnecessaryIsInstance] - the caller may be untyped
        msg = f"embed_model must be a LlamaIndex BaseEmbedding, not a {type(embed_model).__qualname__}"
        raise ConfigurationError(msg)
    identity.check(embed_model, key_extra)
    return _with(embed_model, _Keeper(engine_of(cache), namespace, seconds_of(ttl), checked_tags(tags), key_extra))


def uncached_embedding(embed_model: M) -> M:
    """Return a copy of *embed_model* as it was before `cached_embedding`; of any other, a copy."""
    plain = copied(embed_model, _plain_class(type(embed_model)))
    if isinstance(embed_model, CachedEmbedding):
        private = dict(plain.__pydantic_private__ or {})
        del private[identity.OWN], private[identity.BARE]
        object.__setattr__(plain, "__pydantic_private__", private or None)
    return plain


class _Keeper:
    """What a cached model has of its cache. It does not change, so copies of the model share it."""

    def __init__(self, engine: TieredCache, place: str | None, keep_for: float | None, tags: tuple[str, ...], key_extra: object) -> None:
        self.recipe = (engine, place, keep_for, tags, key_extra)
        self._engine, self._place = engine, place
        self._keep_for, self._tags = keep_for, tags
        self._key_extra = key_extra
        self.vectors = VectorCache(self._below(engine), keep_for=keep_for, tags=tags)
        self.made_of: BaseEmbedding | None = None

    def __copy__(self) -> _Keeper:
        return self

    def __deepcopy__(self, memo: object) -> _Keeper:
        return self

    def asked(self, model: BaseEmbedding, kind: str, texts: list[str]) -> tuple[VectorCache, list[Request]] | None:
        """Return where the vectors of *texts* live, and a request for each; None: the model is to be asked without the cache.

        Raises:
            TenantRequiredError, CacheMiss: See above.
        """
        options = current_options()
        vectors = self._vectors_of(options)
        if options.mode == "bypass":
            return None
        try:
            now = identity.Identity(model, self._key_extra)
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
    _Model = object  # its class comes beside it, and brings this one's methods


class CachedEmbedding(_Model):
    """Stands in front of the class of an embedding model."""

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
        """Return what asks the model, seen without its cache but with the same state, and what is asked of the cache."""
        plain = view_of(self, _plain_class(type(self)), cast("dict[str, Any]", self.__pydantic_private__), identity.BARE)
        return getattr(plain, method), self._keeper.asked(self, kind, texts)

    def __reduce_ex__(self, protocol: Any) -> Any:  # noqa: ANN401 - object's
        plain = uncached_embedding(self)
        recipe = self._keeper.recipe
        try:
            recipe[0].__reduce__()
        except ConfigurationError:  # it cannot be made again elsewhere; there, the model works without
            return _remade, (plain,)
        return _remade, (plain, *recipe)


def _remade(plain: BaseEmbedding, *recipe: Any) -> BaseEmbedding:  # noqa: ANN401 - as above
    """Return what a pickle tells of."""
    return _with(plain, _Keeper(*recipe)) if recipe else plain


def _with(embed_model: M, keeper: _Keeper) -> M:
    keeper.made_of = embed_model  # whose class may close a client, which its copies have too, when it goes
    wrapped = copied(embed_model, _class(_plain_class(type(embed_model))))
    private = {**(wrapped.__pydantic_private__ or {}), identity.OWN: keeper, identity.BARE: Held()}
    object.__setattr__(wrapped, "__pydantic_private__", private)
    return wrapped


def _plain_class(cls: type[M]) -> type[M]:
    return cast("type[M]", cls.__bases__[1]) if issubclass(cls, CachedEmbedding) else cls


@lru_cache(maxsize=256)
def _class(cls: type[M]) -> type[M]:
    """Return the class that stands in front of *cls*."""
    members = {
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        "model_config": {"defer_build": True},
    }
    made = types.new_class(cls.__name__, (CachedEmbedding, cls), exec_body=lambda body: body.update(members))
    return cast("type[M]", made)
