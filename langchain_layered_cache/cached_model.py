"""`cached(model)`: a copy of a model that also caches streams, among other things.

The class of the copy is derived from the class of the model and has the same name. So `llm_string`, `isinstance`, `bind_tools`,
chains and agents treat the copy like the model. The derived class (`chat`) holds all new behaviour. Copies of the copy share it,
and pickles restore it.
"""

from __future__ import annotations

import copy
import types
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_args, overload

from langchain_core.embeddings import Embeddings
from langchain_core.globals import get_llm_cache
from langchain_core.language_models import BaseChatModel, BaseLLM
from layered_cache import ConfigurationError, TieredCache
from layered_cache.keys.key_rules import KeyOptions, NormalizeOption, key_options

from langchain_layered_cache._keys.key_options import KEY_OPTIONS, check_key_extra, key_options_of
from langchain_layered_cache._keys.model_settings import KEY_EXTRA
from langchain_layered_cache._wrapped_models.chat import LateLimiter, WrappedChat
from langchain_layered_cache._wrapped_models.chunks import Replay
from langchain_layered_cache._wrapped_models.completion import WrappedPlain
from langchain_layered_cache.cache import LayeredCache

if TYPE_CHECKING:
    from langchain_layered_cache.embeddings import CachedEmbeddings

M = TypeVar("M", bound=BaseChatModel | BaseLLM)

_BEFORE = "_layered_cache_before"  # under which a copy keeps, out of LangChain's sight, what `cache` the model had

_classes: dict[tuple[type, Replay], type] = {}


@overload
def cached(
    model: M,
    /,
    cache: LayeredCache | None = None,
    *,
    replay: Replay = "chunks",
    key_extra: object = None,
    ignore: str | Iterable[str] | None = None,
    normalize: NormalizeOption = None,
) -> M: ...


@overload
def cached(model: Embeddings, /, cache: LayeredCache | TieredCache | None = None, **options: Any) -> CachedEmbeddings: ...  # noqa: ANN401


def cached(
    model: Any,
    /,
    cache: Any = None,
    *,
    replay: Any = "chunks",
    key_extra: object = None,
    ignore: Any = None,
    normalize: Any = None,
    **options: Any,
) -> Any:
    """Return a copy of *model* that also uses the cache where LangChain does not.

    - `stream`, `astream` and `astream_events` are cached. They share entries with `invoke`, both ways. Concurrent equal streams, of
      threads or of the tasks of a loop, are one request, and each reader gets the chunks as they arrive. A stream that is closed
      early, cancelled or fails is not stored, and its other readers continue.
    - `Policy.separate_accounts` knows the API key of the model.
    - Completion models: the key covers the parameters of a call, which LangChain leaves out; options in the metadata of the call
      apply; concurrent equal calls are one request.
    - Embeddings: *options* are the arguments of `CachedEmbeddings`.

    `invoke` of a chat model is unchanged, and so is the original model. Streams of several answers (`n=2`) and models with an event
    protocol instead of `_stream` are not cached. A pickle of the copy has no cache: the unpickled model uses the global one.

    Args:
        model: A chat model, a model that completes a text, or embeddings.
        cache: A `LayeredCache`; if None, the one that `set_llm_cache` has set at the time of a call.
        replay: How an answer from the cache is streamed: in pieces (`"chunks"`), or in one (`"single"`).
        ignore: Names of parameters that keys leave out, such as `("user", "metadata")`: arguments of calls, fields of the model, and
            entries of `model_kwargs` and `extra_body`. They are sent as before. As the cache has it, unless given.
        normalize: How texts of users are normalised in keys: `"unicode"`, `"whitespace"`, `"case"`, several of them, a function, or a
            `layered_cache.Normalize`. The request is sent as it is. As the cache has it, unless given.
        key_extra: Identifies a model that has no name, or settings that cannot be read: plain data, such as `"name/and-settings"`.
        options: Of embeddings.

    Raises:
        ConfigurationError: *model* is something else, or an argument is not allowed.
    """
    if isinstance(model, Embeddings):
        from langchain_layered_cache.embeddings import cached_embeddings  # noqa: PLC0415 - models need nothing of it

        if cache is None and not isinstance(cache := get_llm_cache(), LayeredCache):
            msg = "embeddings need a cache: cached(embeddings, LayeredCache()), or set_llm_cache(LayeredCache()) before"
            raise ConfigurationError(msg)
        if replay != "chunks":
            msg = "replay is for models that stream; embeddings do not"
            raise ConfigurationError(msg)
        if ignore is not None or normalize is not None:
            msg = "ignore and normalize must not be given for embeddings: a vector is that of one text. Leave them out."
            raise ConfigurationError(msg)
        if key_extra is not None:
            msg = "key_extra is for models, got embeddings. Identify them by model='name/and-settings'"
            raise ConfigurationError(msg)
        return cached_embeddings(model, cache, **options)
    if not isinstance(model, BaseChatModel | BaseLLM):
        kind = type(cast("object", model)).__qualname__
        msg = f"cached() takes a chat model, a model that completes a text, or embeddings, not a {kind}; wrap a model before you bind it"
        raise ConfigurationError(msg)
    if options:
        allowed = ("cache", "replay", "key_extra", "ignore", "normalize")
        raise ConfigurationError.unknown(what="argument of cached", name=min(options), allowed=allowed)
    if replay not in get_args(Replay):
        raise ConfigurationError.unknown(what="replay", name=str(replay), allowed=get_args(Replay))
    if cache is not None and not isinstance(cache, LayeredCache):
        msg = f"cache must be a LayeredCache, not a {type(cache).__qualname__}"
        raise ConfigurationError(msg)
    check_key_extra(key_extra)
    own = key_options(ignore, normalize)
    return _wrapped(model, cache, replay, None if own == KeyOptions() else own, key_extra)


def uncached(model: M) -> M:
    """Return a copy of *model* that `cached` has not changed."""
    plain = copy.copy(model)
    if isinstance(plain, WrappedChat | WrappedPlain):
        object.__setattr__(plain, "__class__", _plain_class(type(plain)))
        private = dict(plain.__pydantic_private__ or {})
        private.pop(KEY_OPTIONS, None)
        private.pop(KEY_EXTRA, None)
        if _BEFORE in private:
            plain.cache = private.pop(_BEFORE)
        object.__setattr__(plain, "__pydantic_private__", private or (private if type(plain).__private_attributes__ else None))
        if isinstance(plain, BaseChatModel) and isinstance(limiter := plain.rate_limiter, LateLimiter):
            plain.rate_limiter = limiter.limiter
    return plain


def _wrapped(
    model: BaseChatModel | BaseLLM,
    cache: LayeredCache | None,
    replay: Replay,
    key_options: KeyOptions | None = None,
    key_extra: object = None,
) -> BaseChatModel | BaseLLM:
    wrapped = copy.copy(model)
    object.__setattr__(wrapped, "__class__", _class(_plain_class(type(model)), replay))
    if key_options is not None:
        object.__setattr__(wrapped, "__pydantic_private__", {**(wrapped.__pydantic_private__ or {}), KEY_OPTIONS: key_options})
    if key_extra is not None:
        object.__setattr__(wrapped, "__pydantic_private__", {**(wrapped.__pydantic_private__ or {}), KEY_EXTRA: key_extra})
    if cache is not None:
        private = wrapped.__pydantic_private__ or {}
        object.__setattr__(wrapped, "__pydantic_private__", {_BEFORE: wrapped.cache, **private})  # the first one counts
        wrapped.cache = cache
    if isinstance(wrapped, BaseChatModel) and (limiter := wrapped.rate_limiter) is not None and not isinstance(limiter, LateLimiter):
        wrapped.rate_limiter = LateLimiter(limiter)
    return wrapped


def _plain_class(cls: type[Any]) -> type[Any]:
    return cls.__bases__[1] if issubclass(cls, WrappedChat | WrappedPlain) else cls


def _class(cls: type[Any], replay: Replay) -> type[Any]:
    """Return the derived class of *cls* that uses a cache. There is one for each class."""
    if (found := _classes.get((cls, replay))) is not None:
        return found
    base, front = (BaseChatModel, WrappedChat) if issubclass(cls, BaseChatModel) else (BaseLLM, WrappedPlain)
    streams, astreams = cls._stream is not base._stream, cls._astream is not base._astream  # noqa: SLF001 - LangChain compares these
    members: dict[str, Any] = {"__reduce__": _reduce, "__doc__": cls.__doc__, "model_config": {"defer_build": True}}
    members |= {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
    if not streams:
        members["_stream"] = base._stream  # noqa: SLF001 - LangChain sees that there is none
    if not (streams or astreams):
        members["_astream"] = base._astream  # noqa: SLF001
    made = cast("type[Any]", types.new_class(cls.__name__, (front, cls), exec_body=lambda body: body.update(members)))
    made.replay = replay
    return _classes.setdefault((cls, replay), made)


def _reduce(self: Any) -> tuple[Any, ...]:  # noqa: ANN401 - one of the classes made above
    """Return the parts of a pickle: a class that was made at run time cannot be imported."""
    plain = uncached(self)
    if isinstance(plain.cache, LayeredCache):
        plain.cache = None
    private: dict[str, object] = self.__pydantic_private__ or {}
    return _wrapped, (plain, None, cast("type[WrappedChat]", type(self)).replay, key_options_of(self), private.get(KEY_EXTRA))
