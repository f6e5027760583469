"""`LangGraphCache`: the writes of LangGraph's nodes and tasks, in tiers.

    from langgraph.types import CachePolicy
    from langchain_layered_cache import LangGraphCache, LayeredCache, cache_key

    builder.add_node("answer", answer, cache_policy=CachePolicy(key_func=cache_key))
    graph = builder.compile(cache=LangGraphCache(LayeredCache()))

LangGraph asks before it runs a node that has a cache policy, and hands over what the node wrote. The laws of this edge:

- `get` and `set` raise nothing into the graph, whatever a tier, a value or a serializer does: an event, one warning, a miss.
- Namespaces are exact, as in LangGraph's own memory cache: `("a", "b")` is neither `("a:b",)` nor part of `("a",)`.
- What the caller says by `with cache_options(...)` holds: of a tenant, an account or a sample everything is apart, removals too. What a
  run says by its metadata LangGraph does not tell a node cache.
- Everybody gets objects of their own (`_writes` makes bytes of them), and of many keys each tier is asked once.
- Removals raise if they could not be recorded: who asked for them must know.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar, cast

from langgraph.cache.base import BaseCache, FullKey, Namespace
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.graph.state import CompiledStateGraph
from langgraph.pregel import Pregel
from layered_cache import (
    Answer,
    CallOptions,
    ConfigurationError,
    EncodeError,
    Entry,
    Event,
    Request,
    TenantRequiredError,
    TieredCache,
    UncacheableRequestError,
    current_options,
)
from layered_cache.entry import Ticket

from langchain_layered_cache._births import Births
from langchain_layered_cache._calls import fingerprint
from langchain_layered_cache._engines import engine_of
from langchain_layered_cache._states import cache_key
from langchain_layered_cache._writes import RebuildError, WritesSerializer
from langchain_layered_cache.cache import LayeredCache

__all__ = ["LangGraphCache", "cache_key"]

_log = logging.getLogger("layered_cache")

FRAMEWORK = "langgraph"
_CODEC = "langgraph:"  # and the serializer's word for the form

G = TypeVar("G", bound=Pregel[Any, Any, Any, Any])

_NO_TENANT = "this cache serves tenants, and none is named: run the graph in `with cache_options(namespace=...)`"
_NO_ACCOUNT = "separate_accounts is on, and no account is named: run the graph in `with cache_options(account=...)`"


class _Place(NamedTuple):
    """Where a call's entries stand, and what its caller has said."""

    cache: TieredCache
    options: CallOptions
    params: dict[str, str]

    def request(self, key: FullKey) -> Request:
        namespace, name = key
        prompt = {"namespace": list(namespace), "key": name}
        return Request(prompt, params=self.params, framework=FRAMEWORK, sample=self.options.sample)

    def keep_for(self, ttl: int | None) -> float | None:
        """Return the shorter of the node's time and the caller's, in seconds; None if neither says one."""
        given = [max(0, seconds) for seconds in (ttl, self.options.keep_for) if seconds is not None]
        return min(given, default=None)


class LangGraphCache(BaseCache[Any]):
    """A LangGraph cache for `compile(cache=...)` and `entrypoint(cache=...)`.

    It keeps its entries in the namespace `langgraph` below that of *cache*. What a policy of LangGraph's gives no `ttl` is kept as long
    as the policy of *cache* says. Nodes without a cache policy are not cached, and LangGraph does not tell a cache of them: `check` looks.

    Args:
        cache: The tiers; a `LayeredCache` shares its own.
        serde: Another serializer. The one of LangGraph's checkpoints returns some values changed, and builds whatever the bytes name:
            use it only with stores that nobody else can write to.

    Raises:
        ConfigurationError: Before any I/O, if an argument is wrong, or *serde* would unpickle.
    """

    def __init__(self, cache: TieredCache | LayeredCache, *, serde: SerializerProtocol | None = None) -> None:
        engine = engine_of(cache)
        if _unpickles(serde):
            msg = "serde must not unpickle, or who can write to a store runs code here: make it with pickle_fallback=False"
            raise ConfigurationError(msg)
        super().__init__(serde=serde or WritesSerializer())
        self._engine = engine
        self._cache = engine.namespace(FRAMEWORK)
        self._births = Births()
        self._warned: set[str] = set()

    @property
    def engine(self) -> TieredCache:
        """The cache that this one is an adapter of, in its own namespace."""
        return self._cache

    # --- LangGraph's side

    def get(self, keys: Sequence[FullKey]) -> dict[FullKey, Any]:
        """Return what is held for *keys*, new objects each time; absent ones are absent. It raises nothing."""
        try:
            place = self._place()
            asked = _asked(place, keys)
            values = self._values(place, asked, place.cache.get_many(asked)) if asked else {}
            if missed := [key for key in keys if key not in values]:
                self._missed(missed, place.cache.ticket())
            return values  # noqa: TRY300 - what is above may fail
        except Exception as error:  # noqa: BLE001 - whatever it is, the node runs
            return self._failed("get", error)

    async def aget(self, keys: Sequence[FullKey]) -> dict[FullKey, Any]:
        """See get."""
        try:
            place = self._place()
            asked = _asked(place, keys)
            values = self._values(place, asked, await place.cache.aget_many(asked)) if asked else {}
            if missed := [key for key in keys if key not in values]:
                self._missed(missed, await place.cache.aticket())
            return values  # noqa: TRY300 - what is above may fail
        except Exception as error:  # noqa: BLE001 - whatever it is, the node runs
            return self._failed("get", error)

    def set(self, pairs: Mapping[FullKey, tuple[Any, int | None]]) -> None:
        """Hold the values in *pairs*, for as many seconds as each says; None: as the policy says. It raises nothing."""
        try:
            place = self._place()
            for born, answers in self._answers(place, pairs).items():
                place.cache.set_many(answers, born=born)
        except Exception as error:  # noqa: BLE001 - whatever it is, the node has run
            self._failed("set", error)

    async def aset(self, pairs: Mapping[FullKey, tuple[Any, int | None]]) -> None:
        """See set."""
        try:
            place = self._place()
            for born, answers in self._answers(place, pairs).items():
                await place.cache.aset_many(answers, born=born)
        except Exception as error:  # noqa: BLE001 - whatever it is, the node has run
            self._failed("set", error)

    def clear(self, namespaces: Sequence[Namespace] | None = None) -> None:
        """Remove what is held in *namespaces*, each of them exactly; None: all that LangGraph has cached here, and nothing else.

        Inside `with cache_options(namespace=...)` that is the tenant's, else what belongs to none.

        Raises:
            DeletionError: It could not be recorded; what it names may still be served.
        """
        cache = self._of_tenant(current_options().namespace)
        if namespaces is None:
            cache.clear()
        elif tags := _tags(namespaces):
            cache.invalidate(tag=tags)

    async def aclear(self, namespaces: Sequence[Namespace] | None = None) -> None:
        """See clear."""
        cache = self._of_tenant(current_options().namespace)
        if namespaces is None:
            await cache.aclear()
        elif tags := _tags(namespaces):
            await cache.ainvalidate(tag=tags)

    def check(self, graph: G) -> G:
        """Return *graph* as it is, having warned, once, if this cache has nothing to do in it.

        Namely if it was compiled with another cache, or if neither it nor a graph in it has a node with a cache policy. Tasks (`@task`)
        are not part of a graph: if it caches nothing else, the warning can be ignored. An `entrypoint` has only tasks, and gets none.
        """
        whole = cast("Any", graph)
        if whole.cache is not self:
            self._warn(f"the graph {whole.name!r} was not compiled with this cache: compile(cache=...)")
        elif isinstance(whole, CompiledStateGraph):
            graphs: list[Any] = [whole, *(below for _, below in cast("Any", whole).get_subgraphs(recurse=True))]
            if not any(map(_has_policy, graphs)):
                self._warn(f"no node of the graph {whole.name!r} has a cache policy: add_node(..., cache_policy=CachePolicy(...))")
        return graph

    def __repr__(self) -> str:
        return f"LangGraphCache({self._cache!r})"

    # --- where

    def _of_tenant(self, tenant: str | None) -> TieredCache:
        return self._cache if tenant is None else self._engine.namespace(tenant).namespace(FRAMEWORK)

    def _place(self) -> _Place:
        """Return the place of the call that the caller is inside of.

        Raises:
            TenantRequiredError: It names no tenant, and must.
            UncacheableRequestError: The same of an account.
        """
        options, policy = current_options(), self._engine.policy
        if options.namespace is None and policy.tenant_required:
            raise TenantRequiredError(_NO_TENANT)
        if options.account is None and policy.separate_accounts:
            raise UncacheableRequestError(_NO_ACCOUNT)
        params = {} if options.account is None else {"account": fingerprint(options.account)}
        return _Place(self._of_tenant(options.namespace), options, params)

    # --- values

    def _values(self, place: _Place, asked: Mapping[Request, FullKey], found: Mapping[Request, Entry]) -> dict[FullKey, Any]:
        values: dict[FullKey, Any] = {}
        for request, entry in found.items():
            try:
                values[asked[request]] = self.serde.loads_typed((entry.codec.removeprefix(_CODEC), entry.value))
            except Exception as error:  # noqa: BLE001 - of another release, of classes that have changed, of another serializer
                reason = str(error) if isinstance(error, RebuildError) else type(error).__name__
                place.cache.reject(entry.key, reason)
                self._warn(f"what a node wrote cannot be read and counts as a miss: {reason}")
        return values

    def _missed(self, keys: Iterable[FullKey], ticket: Ticket) -> None:
        for key in keys:
            self._births.note(key, ticket)

    def _answers(self, place: _Place, pairs: Mapping[FullKey, tuple[Any, int | None]]) -> dict[Ticket | None, dict[Request, Answer]]:
        """Return what is to be held of *pairs*, by its birth: LangGraph hands over one pair at a time."""
        answers: dict[Ticket | None, dict[Request, Answer]] = {}
        for key, (value, ttl) in pairs.items() if place.options.stores else ():
            try:
                form, data = self.serde.dumps_typed(value)
            except Exception as error:  # noqa: BLE001 - a value may be of any kind, and say no in any way
                reason = str(error) if isinstance(error, EncodeError) else type(error).__name__
                place.cache.report(Event(kind="not_stored", namespace=place.cache.name, reason="not encodable"))
                self._warn(f"what a node wrote is not cached: {reason}")
                continue
            tags = (*_tags([key[0]]), *place.options.labels)
            born, seconds = self._births.take(key)
            answer = Answer(value=bytes(data), codec=_CODEC + form, tags=tags, keep_for=place.keep_for(ttl), compute_seconds=seconds)
            answers.setdefault(born, {})[place.request(key)] = answer
        return answers

    def _failed(self, operation: str, error: Exception) -> dict[FullKey, Any]:
        """Note what must not hurt; return what is held then."""
        if isinstance(error, TenantRequiredError | UncacheableRequestError):
            self._cache.report(Event(kind="uncacheable", namespace=self._cache.name, reason=str(error)))
            self._warn(f"nodes are not cached: {error}")
        else:
            reason = f"{operation}: {type(error).__name__}"
            self._cache.report(Event(kind="adapter_failed", namespace=self._cache.name, reason=reason))
            self._warn(f"the node cache failed, which counts as a miss: {reason}")
        return {}

    def _warn(self, message: str) -> None:
        if message not in self._warned and len(self._warned) < 1000:  # noqa: PLR2004
            self._warned.add(message)
            _log.warning("%s", message)


def _asked(place: _Place, keys: Sequence[FullKey]) -> dict[Request, FullKey]:
    return {place.request(key): key for key in keys} if place.options.looks else {}


def _tags(namespaces: Iterable[Namespace]) -> list[str]:
    """Return the tag of each of *namespaces*: a text from which it could be read back."""
    return [json.dumps(list(namespace)) for namespace in namespaces]


def _unpickles(serde: object) -> bool:
    """Whether *serde*, or one that it wraps, falls back to pickle."""
    return serde is not None and (bool(getattr(serde, "pickle_fallback", False)) or _unpickles(getattr(serde, "serde", None)))


def _has_policy(graph: Any) -> bool:  # noqa: ANN401 - of graphs' parts, the types say too little
    return graph.cache_policy is not None or any(node.cache_policy is not None for node in graph.nodes.values())
