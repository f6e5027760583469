"""`cached_embedding`: an embedding model whose vectors are kept in tiers.

    embed_model = cached_embedding(OpenAIEmbedding(model="text-embedding-3-small"), TieredCache("memory://", "redis://host/0"))

A copy of the model gets a class that is derived from its own and has its name, so that indices, pipelines and pickles take it for what it
was; the hashes by which `IngestionPipeline` knows it are as before. Only what asks the provider is new. The laws of this edge:

- A key says which model with which settings (`_embedding_identity`), query or text, and the text, exactly as they are: no two models share
  vectors, and a model that embeds queries and texts differently never gets one for the other.
- The rest is `layered_cache.vector_cache`'s: exact, one read and one write of a batch, each missing text once; errors pass.
- What the model does within a call (one text after the other, say) is its own matter: it works as if it had no cache.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar, cast

from layered_cache import ConfigurationError, Event, Request, TieredCache, UncacheableRequestError
from layered_cache.adapting import engine_of, seconds_of
from layered_cache.entry import checked_tags
from layered_cache.vector_cache import VectorCache
from llama_index.core.base.embeddings.base import BaseEmbedding

from llamaindex_layered_cache import _embedding_identity as identity

M = TypeVar("M", bound=BaseEmbedding)

FRAMEWORK = "llamaindex"

_STATE = ("__dict__", "__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")  # of a pydantic object: all of it


def cached_embedding(
    embed_model: M,
    cache: TieredCache,
    *,
    ttl: float | timedelta | str | None = None,
    namespace: str | None = None,
    tags: Iterable[str] = (),
    key_extra: object = None,
) -> M:
    """Return a copy of *embed_model* whose vectors are kept in *cache*; the model itself is left as it is.

    Concurrent callers of one text wait for one call of the model; batches do not wait for each other. An `embeddings_cache` that the model
    has is asked before. A pickle of the copy has the cache with it, if that is made from URLs; else it is a pickle of the model.

    Args:
        embed_model: Of any class. If it has a cache already, it gets this one instead.
        cache: The tiers, or an adapter over them.
        ttl: How long a vector is kept: seconds, a timedelta or a text (`"30d"`); as long as the policy of *cache* says, unless given.
        namespace: The name of the child namespace of *cache* in which the vectors live; in its own, unless given.
        tags: Labels of the vectors, for `invalidate(tag=...)`.
        key_extra: What stands, in keys, for settings of the model that cannot be read, and for a name that it has not: plain data.

    Raises:
        ConfigurationError: Before any I/O, if an argument is wrong, or nothing says which model it is.
    """
    if not isinstance(embed_model, BaseEmbedding):  # pyright: ignore[reportUnnecessaryIsInstance] - the caller may be untyped
        msg = f"embed_model must be a LlamaIndex BaseEmbedding, not a {type(embed_model).__qualname__}"
        raise ConfigurationError(msg)
    identity.check(embed_model, key_extra)
    engine = engine_of(cache)
    keeper = _Keeper(engine if namespace is None else engine.namespace(namespace), seconds_of(ttl), checked_tags(tags), key_extra)
    return _with(embed_model, keeper)


def uncached_embedding(embed_model: M) -> M:
    """Return a copy of *embed_model* as it was before `cached_embedding`; of any other, a copy."""
    plain = _copy(embed_model, _plain_class(type(embed_model)))
    if isinstance(embed_model, CachedEmbedding):
        private = dict(plain.__pydantic_private__ or {})
        del private[identity.OWN]
        object.__setattr__(plain, "__pydantic_private__", private or None)
    return plain


class _Keeper:
    """What a cached model has of its cache. It does not change, so copies of the model share it."""

    def __init__(self, cache: TieredCache, keep_for: float | None, tags: tuple[str, ...], key_extra: object) -> None:
        self.vectors = VectorCache(cache, keep_for=keep_for, tags=tags)
        self.recipe = (cache, keep_for, tags, key_extra)
        self._cache = cache
        self._key_extra = key_extra

    def __copy__(self) -> _Keeper:
        return self

    def __deepcopy__(self, memo: object) -> _Keeper:
        return self

    def requests(self, model: BaseEmbedding, kind: str, texts: list[str]) -> list[Request] | None:
        """Return a request for each of *texts*; None if no exact key can be made of what decides their vectors."""
        try:
            now = identity.Identity(model, self._key_extra)
            params = {"kind": f"{kind} embedding", "settings": now.digest}
            return [Request(text, model=now.name, params=params, framework=FRAMEWORK) for text in texts]
        except UncacheableRequestError as error:
            self._cache.report(Event(kind="uncacheable", namespace=self._cache.name, reason=str(error)))
            return None


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
        ask, requests = self._asked("_get_text_embeddings", "text", texts := list(texts))
        return ask(texts) if requests is None else self._keeper.vectors.many(requests, texts, ask)

    async def _aget_text_embeddings(self, texts: list[str]) -> Any:  # noqa: ANN401
        ask, requests = self._asked("_aget_text_embeddings", "text", texts := list(texts))
        return await (ask(texts) if requests is None else self._keeper.vectors.amany(requests, texts, ask))

    def _one(self, method: str, kind: str, text: str) -> Any:  # noqa: ANN401
        ask, requests = self._asked(method, kind, [text])
        return ask(text) if requests is None else self._keeper.vectors.one(requests[0], lambda: ask(text))

    async def _aone(self, method: str, kind: str, text: str) -> Any:  # noqa: ANN401
        ask, requests = self._asked(method, kind, [text])
        return await (ask(text) if requests is None else self._keeper.vectors.aone(requests[0], lambda: ask(text)))

    @property
    def _keeper(self) -> _Keeper:
        return cast("dict[str, Any]", self.__pydantic_private__)[identity.OWN]

    def _asked(self, method: str, kind: str, texts: list[str]) -> tuple[Callable[[Any], Any], list[Request] | None]:
        """Return what asks the model, seen without its cache but with the same state, and what is asked of the cache."""
        plain = _seen_as(self, _plain_class(type(self)))
        return getattr(plain, method), self._keeper.requests(self, kind, texts)

    def __reduce_ex__(self, protocol: Any) -> Any:  # noqa: ANN401 - object's
        plain = uncached_embedding(self)
        cache, keep_for, tags, key_extra = self._keeper.recipe
        try:
            cache.__reduce__()
        except ConfigurationError:  # it cannot be made again elsewhere; there, the model works without
            return _remade, (plain,)
        return _remade, (plain, cache, keep_for, tags, key_extra)


def _remade(plain: BaseEmbedding, *recipe: Any) -> BaseEmbedding:  # noqa: ANN401 - as above
    """Return what a pickle tells of."""
    return _with(plain, _Keeper(*recipe)) if recipe else plain


def _with(embed_model: M, keeper: _Keeper) -> M:
    wrapped = _copy(embed_model, _class(_plain_class(type(embed_model))))
    private = {**(wrapped.__pydantic_private__ or {}), identity.OWN: keeper}
    object.__setattr__(wrapped, "__pydantic_private__", private)
    return wrapped


def _copy(embed_model: M, cls: type[M]) -> M:
    """Return a shallow copy of *embed_model* as an object of *cls*."""
    copied = cls.__new__(cls)
    for part in _STATE:
        value = getattr(embed_model, part)
        object.__setattr__(copied, part, value if value is None else value.copy())
    return copied


def _seen_as(embed_model: BaseEmbedding, cls: type[M]) -> M:
    """Return *embed_model* as an object of *cls*: what it notes of itself in a call (a client, say) both have."""
    view = cls.__new__(cls)
    for part in _STATE:
        object.__setattr__(view, part, getattr(embed_model, part))
    return view


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
