"""`cached(llm)`: a copy of an LLM whose calls use a cache.

The copy is shallow. Its class is derived from the class of the LLM and has the same name. So agents, indices, `isinstance`,
serialization and the hashes of ingestion treat the copy like the LLM. The derived class (`wrapper`) holds all new behaviour.
Copies of the copy share its cache, and a pickle restores both.
"""

from __future__ import annotations

import pickle
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, cast, overload

from layered_cache import ConfigurationError, TieredCache
from layered_cache.adapters.common import Duration, engine_of, rules_of
from layered_cache.config import default_tiers
from layered_cache.keys.key_rules import NormalizeOption
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.llms import LLM
from llama_index.core.llms.structured_llm import StructuredLLM
from llama_index.core.llms.utils import resolve_llm  # pyright: ignore[reportUnknownVariableType] - of LangChain's, which may be missing

from llamaindex_layered_cache._llm.call import EmitEvents, How, Keeper
from llamaindex_layered_cache._llm.identity import PLAIN_CLASS, plain_class
from llamaindex_layered_cache._llm.refusals import listen
from llamaindex_layered_cache._llm.response_codec import Raw, Replay
from llamaindex_layered_cache._llm.wrapper import BARE, OWN, CachedLLM, keeper_of
from llamaindex_layered_cache._pydantic_views import Held, copied

T = TypeVar("T", bound=LLM | BaseEmbedding)

OF_EMBEDDINGS = ("ttl", "namespace", "tags", "key_extra")
"""The options that embeddings have too."""

_classes: dict[type, type] = {}


@overload
def cached(
    thing: T,
    /,
    cache: TieredCache | None = None,
    *,
    ttl: Duration | None = None,
    namespace: str | None = None,
    tags: Iterable[str] = (),
    when: Callable[[Any, Mapping[str, Any]], bool] | None = None,
    store_if: Callable[[Any], bool] | None = None,
    replay: Replay = "chunks",
    raw: Raw = "model",
    emit_events: EmitEvents = "auto",
    share_stream: bool = True,
    key_extra: object = None,
    ignore: str | Iterable[str] | None = None,
    normalize: NormalizeOption = None,
) -> T: ...


@overload
def cached(thing: Any, /, cache: TieredCache | None = None, **how: Any) -> Any: ...  # noqa: ANN401 - all that LlamaIndex accepts as an LLM


def cached(thing: Any, /, cache: TieredCache | None = None, **how: Any) -> Any:
    """Return a copy of *thing*, an LLM or an embedding model, whose calls use *cache*. The original is unchanged.

    - All calls of an LLM are cached: `chat`, `complete`, their streams and their asynchronous twins, and the methods that
      LlamaIndex builds on these: prediction, tools, structured answers, agents. `chat` and `stream_chat` share answers, so
      do `complete` and `stream_complete`. A miss sends the same request as without a cache.
    - Concurrent equal calls are one request. Concurrent equal streams, of threads or of the tasks of a loop, are one request
      too, and each reader gets the chunks as they arrive. A stream that is closed early, cancelled or fails is not stored.
    - Options of one call: `llm.chat(messages, cache=False)`, `refresh=True`, `only_cached=True` (raises `CacheMiss` without
      an entry), `ttl=`, `tags=`, `namespace=`. `cache_options(...)` sets them for a block.
    - A copy that has a cache already gets the new one instead. A pickle of the copy includes the cache if its tiers were
      made from URLs. Otherwise the pickle holds the LLM alone, and a warning is logged. A `StructuredLLM` keeps its form, and
      its calls are cached.

    A request is not cached if it has no exact key, or if its answer depends on the provider's memory of earlier calls.

    Args:
        thing: An LLM, a value that LlamaIndex resolves to one (`"default"`, a LangChain model), or an embedding model, for
            which see `llamaindex_layered_cache.embeddings.cached_embedding`.
        cache: The tiers, or an adapter over them. Default: memory and a file in the user's cache folder.
        how: The options below.

    Options:
        ttl: How long an answer may be served: seconds, a `timedelta`, or a text such as `"5m"`. Default: as in *cache*.
        namespace: The name of a child namespace of *cache*.
        tags: Labels of the answers, for `invalidate(tag=...)`.
        when: `(messages or prompt, arguments) -> bool`: whether a call is cached at all.
        store_if: `(response) -> bool`: whether an answer is stored.
        replay: How a stream is replayed from the cache: in pieces (`"chunks"`), or in one (`"single"`).
        raw: The form of the provider's response on a hit: an object (`"model"`), a `"dict"`, or None (`"drop"`).
        emit_events: The handlers that get events of hits: those of LlamaIndex's instrumentation, if there are any
            (`"auto"`); those of the `CallbackManager` too, so that a token counter adds tokens that were not paid (`True`);
            none (`False`).
        share_stream: Whether `chat` and `stream_chat` share answers.
        key_extra: Plain data that identifies a model or settings that cannot be read.
        ignore: Names of parameters that keys leave out, such as `("user", "metadata")`: arguments of calls, fields of the
            LLM, and entries of `additional_kwargs` and `extra_body`. They are sent as before.
        normalize: How texts of users and completion prompts are normalised in keys: `"unicode"`, `"whitespace"`, `"case"`,
            several of them, a function, or a `layered_cache.Normalize`. The request is sent unchanged. Default: as in *cache*.

    Raises:
        ConfigurationError: Before any I/O, if *thing* is something else, an argument is invalid, or the model cannot be
            identified.
    """
    if isinstance(thing, BaseEmbedding):
        from llamaindex_layered_cache.embeddings import cached_embedding  # noqa: PLC0415 - LLMs need nothing of it

        if unknown := how.keys() - {*OF_EMBEDDINGS}:
            raise ConfigurationError.unknown(what="argument of cached embeddings", name=min(unknown), allowed=OF_EMBEDDINGS)
        return cached_embedding(thing, _engine(cache), **how)
    if unknown := how.keys() - {*How.__dataclass_fields__}:
        raise ConfigurationError.unknown(what="argument of cached", name=min(unknown), allowed=("cache", *How.__dataclass_fields__))
    said = How(**how).over(rules_of(cache, None, None))
    llm = thing if isinstance(thing, LLM) else _resolved(thing)
    engine = _engine(cache)
    if isinstance(llm, StructuredLLM):
        return _with_inner(llm, cached(llm.llm, engine if cache is None else cache, **how))
    return _wrapped(llm, engine, said)


def uncached(thing: T) -> T:
    """Return a copy of *thing* without a cache."""
    if isinstance(thing, BaseEmbedding):
        from llamaindex_layered_cache.embeddings import uncached_embedding  # noqa: PLC0415 - LLMs need nothing of it

        return cast("T", uncached_embedding(thing))
    if isinstance(thing, StructuredLLM):
        return cast("T", _with_inner(thing, uncached(thing.llm)))
    return cast("T", _copied(thing, plain_class(type(thing)), None))


def _engine(cache: TieredCache | None) -> TieredCache:
    return TieredCache(*default_tiers("llamaindex")) if cache is None else engine_of(cache)


def _resolved(thing: object) -> LLM:
    try:
        return resolve_llm(cast("Any", thing))
    except AssertionError:
        msg = f"cached() takes an LLM or an embedding model of LlamaIndex, not a {type(thing).__qualname__}"
        raise ConfigurationError(msg) from None


def _with_inner(structured: StructuredLLM, llm: LLM) -> StructuredLLM:
    copy = structured.model_copy()
    copy.llm = llm
    return copy


def _wrapped(llm: LLM, cache: TieredCache, how: How) -> LLM:
    listen()
    return _copied(llm, _class(plain_class(type(llm))), Keeper(llm, cache, how))


def _copied(llm: LLM, cls: type[LLM], keeper: Keeper | None) -> LLM:
    """Return a shallow copy of *llm* of the class *cls*: they share clients and handlers."""
    copy = copied(llm, cls)
    state = cast("dict[str, Any]", copy.__dict__)
    state.pop(OWN, None)
    state.pop(BARE, None)
    if keeper is not None:
        state.update({OWN: keeper, BARE: Held()})
    return copy


def _class(cls: type[LLM]) -> type[LLM]:
    """Return the derived class of *cls* that uses a cache. There is one for each class."""
    if (found := _classes.get(cls)) is None:
        members: dict[str, Any] = {
            "__module__": cls.__module__,
            "__qualname__": cls.__qualname__,
            "__doc__": cls.__doc__,
            "__reduce_ex__": _reduce,
            "model_config": {"defer_build": True},
        }
        made = types.new_class(cls.__name__, (CachedLLM, cls), exec_body=lambda body: body.update(members))
        setattr(made, PLAIN_CLASS, cls)
        found = _classes.setdefault(cls, made)
    return cast("type[LLM]", found)


def _reduce(self: LLM, protocol: object) -> tuple[Any, ...]:  # noqa: ARG001 - Python's signature
    """Return the parts of a pickle: a class that was made at run time cannot be imported."""
    keeper, plain = keeper_of(self), uncached(self)
    if keeper is None:
        return _same, (plain,)
    try:
        keeper.cache.__reduce__()
        pickle.dumps(keeper.how)
    except Exception as error:  # noqa: BLE001 - tiers without URLs, a lambda as a rule, any object as key_extra
        reason = error if isinstance(error, ConfigurationError) else "one of when, store_if, key_extra and normalize cannot be pickled"
        keeper.once.warn(f"a cached LLM is pickled without its cache: {reason}")
        return _same, (plain,)
    return _wrapped, (plain, keeper.cache, keeper.how)


def _same(llm: LLM) -> LLM:
    return llm
