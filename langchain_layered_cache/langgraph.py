"""`LangGraphCache`: a cache of the writes of LangGraph's nodes and tasks, in tiers.

    from langgraph.types import CachePolicy
    from langchain_layered_cache import LangGraphCache, LayeredCache, cache_key

    builder.add_node("answer", answer, cache_policy=CachePolicy(key_func=cache_key))
    graph = builder.compile(cache=LangGraphCache(LayeredCache()))

LangGraph reads the cache before it runs a node that has a cache policy, and writes the result of the node. The laws:

- `get` and `set` raise nothing into the graph. An error of a tier, a value or a serializer is an event, one warning and a miss.
- Namespaces are exact, as in LangGraph's own memory cache: `("a", "b")` is neither `("a:b",)` nor part of `("a",)`.
- Options of the caller apply, from the metadata of the run or `cache_options(...)`. Tenants, accounts and samples are
  separate. The options count that hold when the node is looked up (`pending_tasks`).
- Removals apply to the tenant of the enclosing `cache_options(...)`, independent of the run: its end may not be known yet.
- The key of LangGraph names a node by the module and name of its function. The code of that function is added (`node_code`). A
  node with code that this name does not identify is not cached, unless the cache has a `name`.
- The answer of a person to an `interrupt()` belongs to one thread. So the writes of a resumed node are not stored.
- Each caller gets new objects (`write_codec` is the codec). Many keys are one read of each tier.
- A removal raises an error if it cannot be recorded.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar, cast

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
from layered_cache.adapters.common import engine_of
from layered_cache.adapters.log_once import Once
from layered_cache.entry import Ticket
from layered_cache.options import fingerprint

from langchain_layered_cache._callbacks.graph_runs import OF_AN_ANSWER, RESUME, Resumed, listen, options_here, resumed_here
from langchain_layered_cache._langgraph.cache_key import cache_key, is_no_key
from langchain_layered_cache._langgraph.node_code import Nodes
from langchain_layered_cache._langgraph.pending_tasks import Asker, Birth, Births
from langchain_layered_cache._langgraph.write_codec import RebuildError, WritesSerializer
from langchain_layered_cache.cache import LayeredCache

__all__ = ["LangGraphCache", "cache_key"]

FRAMEWORK = "langgraph"
# the prefix of codecs; the type name of the serializer follows
_CODEC = "langgraph:"
_UNFINISHED = frozenset({RESUME, "__interrupt__", "__error__"})  # channels of writes that belong to one run

G = TypeVar("G", bound=Pregel[Any, Any, Any, Any])

_NO_TENANT = "this cache serves tenants, and the run of the graph names none: run it in `with cache_options(namespace=...)`"
_NO_ACCOUNT = "separate_accounts is on, and the run of the graph names no account: run it in `with cache_options(account=...)`"


class LangGraphCache(BaseCache[Any]):
    """A LangGraph cache for `compile(cache=...)` and `entrypoint(cache=...)`.

    Its entries are in a child namespace of *cache*. If a cache policy of LangGraph has no `ttl`, the policy of *cache* decides.
    Nodes without a cache policy are not cached, and LangGraph does not call a cache for them: `check` finds them.

    Args:
        cache: The tiers; a `LayeredCache` shares its own.
        name: The name of the graph with a version of its parts (closures, models, prompts), such as `"faq-2"`. It keeps its nodes apart
            from the nodes of all other names. It is needed for nodes with code that LangGraph's key does not identify: coroutine functions,
            lambdas, methods, inner functions, partials, callable objects, runnables, graphs, and functions that read a global such as
            a model or a client.
        serde: Another serializer. That of LangGraph's checkpoints changes some values, and creates any object that the bytes name.
            Use it only if no other party can write to the stores.

    Raises:
        ConfigurationError: Before any I/O, if an argument is invalid or *serde* uses pickle.
    """

    def __init__(self, cache: TieredCache | LayeredCache, *, name: str | None = None, serde: SerializerProtocol | None = None) -> None:
        engine = engine_of(cache)
        if name is not None and not (isinstance(name, str) and name):  # pyright: ignore[reportUnnecessaryIsInstance] - the caller may be untyped
            msg = f'name must be a text that is not empty, such as "faq-2", not {name!r}'
            raise ConfigurationError(msg)
        if _unpickles(serde):
            msg = "serde must not use pickle, since a writer to a store could run code here. Make it with pickle_fallback=False"
            raise ConfigurationError(msg)
        super().__init__(serde=serde or WritesSerializer())
        self._engine = engine
        self._place = FRAMEWORK if name is None else f"{FRAMEWORK}:{name}"
        self._cache = engine.namespace(self._place)
        self._is_named = name is not None
        self._nodes = Nodes()
        self._births = Births()
        listen()
        self._once = Once()

    @property
    def engine(self) -> TieredCache:
        """The engine, in the namespace of this cache."""
        return self._cache

    # --- LangGraph's side

    def get(self, keys: Sequence[FullKey]) -> dict[FullKey, Any]:
        """Return the values of *keys* as new objects; missing keys are absent. It raises nothing."""
        try:
            options = self._options()
            askers = self._askers(options, keys)
            cache, asked = self._of_tenant(options), _asked(options, askers)
            values = self._values(cache, asked, cache.get_many(asked)) if asked else {}
            if missed := {key: asker for key, asker in askers.items() if key not in values}:
                self._missed(missed, cache.ticket())
            return values  # noqa: TRY300 - the lines above may fail
        except Exception as error:  # noqa: BLE001 - the node runs in any case
            return self._failed("get", error, keys)

    async def aget(self, keys: Sequence[FullKey]) -> dict[FullKey, Any]:
        """See get."""
        try:
            options = self._options()
            askers = self._askers(options, keys)
            cache, asked = self._of_tenant(options), _asked(options, askers)
            values = self._values(cache, asked, await cache.aget_many(asked)) if asked else {}
            if missed := {key: asker for key, asker in askers.items() if key not in values}:
                self._missed(missed, await cache.aticket())
            return values  # noqa: TRY300 - the lines above may fail
        except Exception as error:  # noqa: BLE001 - the node runs in any case
            return self._failed("get", error, keys)

    def set(self, pairs: Mapping[FullKey, tuple[Any, int | None]]) -> None:
        """Store the values in *pairs*, each with its ttl in seconds; None: the ttl of the policy. It raises nothing."""
        try:
            for (options, born), answers in self._answers(pairs).items():
                self._of_tenant(options).set_many(answers, born=born)
        except Exception as error:  # noqa: BLE001 - the result is returned in any case
            self._failed("set", error)

    async def aset(self, pairs: Mapping[FullKey, tuple[Any, int | None]]) -> None:
        """See set."""
        try:
            for (options, born), answers in self._answers(pairs).items():
                await self._of_tenant(options).aset_many(answers, born=born)
        except Exception as error:  # noqa: BLE001 - the result is returned in any case
            self._failed("set", error)

    def clear(self, namespaces: Sequence[Namespace] | None = None) -> None:
        """Remove the entries of exactly these *namespaces*; None: all entries of LangGraph in this cache.

        Inside of `cache_options(namespace=...)` the entries of that tenant, otherwise those without a tenant. The metadata of a run
        is ignored.

        Raises:
            DeletionError: If the removal cannot be recorded. The entries may still be served.
        """
        cache = self._of_tenant(current_options())
        if namespaces is None:
            cache.clear()
        elif tags := _tags(namespaces):
            cache.invalidate(tag=tags)

    async def aclear(self, namespaces: Sequence[Namespace] | None = None) -> None:
        """See clear."""
        cache = self._of_tenant(current_options())
        if namespaces is None:
            await cache.aclear()
        elif tags := _tags(namespaces):
            await cache.ainvalidate(tag=tags)

    def check(self, graph: G) -> G:
        """Return *graph* as it is. Log a warning, once, for each reason why this cache does not cache a part of it.

        - The graph was compiled with another cache.
        - Neither it nor a graph in it has a node with a cache policy. Tasks (`@task`) are not part of a graph: if only tasks are cached,
          the warning can be ignored. An `entrypoint` has only tasks, and gets no such warning.
        - A node with a cache policy has code that LangGraph's key does not identify, and this cache has no `name`.
        """
        whole = cast("Any", graph)
        if whole.cache is not self:
            self._once.warn(f"the graph {whole.name!r} was not compiled with this cache: compile(cache=...)")
            return graph
        graphs: list[Any] = [whole, *(below for _, below in whole.get_subgraphs(recurse=True))]
        if isinstance(whole, CompiledStateGraph) and not any(map(_has_policy, graphs)):
            self._once.warn(f"no node of the graph {whole.name!r} has a cache policy: add_node(..., cache_policy=CachePolicy(...))")
        for one in graphs:
            for node, error in self._nodes.show(one):
                if not self._is_named:
                    self._once.warn(_unnamed(node, error))
        return graph

    def __repr__(self) -> str:
        return f"LangGraphCache({self._cache!r})"

    # --- tenants and options

    def _of_tenant(self, options: CallOptions) -> TieredCache:
        return self._cache if options.namespace is None else self._engine.namespace(options.namespace).namespace(self._place)

    def _options(self) -> CallOptions:
        """Return the options of the caller.

        Raises:
            ConfigurationError: If an option is invalid.
            TenantRequiredError: If the policy requires a tenant and the caller names none.
            UncacheableRequestError: If the policy separates accounts and the caller names none.
        """
        options, policy = options_here(), self._engine.policy
        if options.namespace is None and policy.tenant_required:
            raise TenantRequiredError(_NO_TENANT)
        if options.account is None and policy.separate_accounts:
            raise UncacheableRequestError(_NO_ACCOUNT)
        return options

    # --- the code of nodes

    def _askers(self, options: CallOptions, keys: Iterable[FullKey]) -> dict[FullKey, Asker | None]:
        """Return the asker of each of *keys*; None for a key that is neither read nor written."""
        resumed = resumed_here()
        return {key: self._asker(options, key, resumed) for key in keys if not is_no_key(key[1])}

    def _asker(self, options: CallOptions, key: FullKey, resumed: Resumed | None) -> Asker | None:
        try:
            return Asker(options, resumed, self._nodes.code(key[0]))
        except UncacheableRequestError as error:
            if self._is_named:
                return Asker(options, resumed)
            reason = _unnamed(key[0][-1], error)
            self._cache.report(Event(kind="uncacheable", namespace=self._of_tenant(options).name, reason=reason))
            self._once.warn(reason)
            return None

    # --- values

    def _values(self, cache: TieredCache, asked: Mapping[Request, FullKey], found: Mapping[Request, Entry]) -> dict[FullKey, Any]:
        values: dict[FullKey, Any] = {}
        for request, entry in found.items():
            try:
                value = self.serde.loads_typed((entry.codec.removeprefix(_CODEC), entry.value))
                if _is_finished(value):
                    values[asked[request]] = value
                else:  # an earlier release wrote it
                    cache.reject(entry.key, OF_AN_ANSWER)
            except Exception as error:  # noqa: BLE001 - bytes of another release or serializer, or of a class that has changed
                reason = str(error) if isinstance(error, RebuildError) else type(error).__name__
                cache.reject(entry.key, reason)
                self._once.warn(f"the stored result of a node cannot be decoded and counts as a miss: {reason}")
        return values

    def _missed(self, askers: Mapping[FullKey, Asker | None], ticket: Ticket | None) -> None:
        for key, asker in askers.items():
            self._births.note(key, asker, ticket)

    def _answers(self, pairs: Mapping[FullKey, tuple[Any, int | None]]) -> dict[tuple[CallOptions, Ticket | None], dict[Request, Answer]]:
        """Return the answers to store for *pairs*, by the options of the caller and the log position."""
        answers: dict[tuple[CallOptions, Ticket | None], dict[Request, Answer]] = {}
        for key, (value, ttl) in pairs.items():
            if is_no_key(key[1]):
                continue
            asker, born, seconds = self._births.take(key) or Birth(self._asker(self._options(), key, resumed_here()))
            if asker is None or not asker.options.stores:
                continue
            options, resumed, _ = asker
            if not _is_finished(value) or (resumed is not None and resumed.covers(key[0])):
                self._cache.report(Event(kind="not_stored", namespace=self._of_tenant(options).name, reason=OF_AN_ANSWER))
                continue
            try:
                form, data = self.serde.dumps_typed(value)
            except Exception as error:  # noqa: BLE001 - a value may be of any class, and raise any error
                reason = str(error) if isinstance(error, EncodeError) else type(error).__name__
                self._cache.report(Event(kind="not_stored", namespace=self._of_tenant(options).name, reason="not encodable"))
                self._once.warn(f"the result of a node is not cached: {reason}")
                continue
            tags = (*_tags([key[0]]), *options.labels)
            keep_for = _shorter(ttl, options.keep_for)
            answer = Answer(value=bytes(data), codec=_CODEC + form, tags=tags, keep_for=keep_for, compute_seconds=seconds)
            answers.setdefault((options, born), {})[_request(asker, key)] = answer
        return answers

    def _failed(self, operation: str, error: Exception, keys: Sequence[FullKey] = ()) -> dict[FullKey, Any]:
        """Record the error and return no values. The missed keys are not stored later, since their tenant is unknown."""
        with suppress(Exception):  # keys that LangGraph never makes
            self._missed({key: None for key in keys if not is_no_key(key[1])}, None)
        if isinstance(error, ConfigurationError | TenantRequiredError | UncacheableRequestError):
            self._cache.report(Event(kind="uncacheable", namespace=self._cache.name, reason=str(error)))
            self._once.warn(f"nodes are not cached: {error}")
        else:
            reason = f"{operation}: {type(error).__name__}"
            self._cache.report(Event(kind="adapter_failed", namespace=self._cache.name, reason=reason))
            self._once.warn(f"the node cache failed, which counts as a miss: {reason}")
        return {}


def _asked(options: CallOptions, askers: Mapping[FullKey, Asker | None]) -> dict[Request, FullKey]:
    return {_request(asker, key): key for key, asker in askers.items() if asker is not None} if options.looks else {}


def _request(asker: Asker, key: FullKey) -> Request:
    namespace, name = key
    account = asker.options.account
    params: dict[str, object] = {"account": None if account is None else fingerprint(account)}
    if asker.code is not None:
        params["code"] = asker.code
    return Request({"namespace": list(namespace), "key": name}, params=params, framework=FRAMEWORK, sample=asker.options.sample)


def _is_finished(writes: object) -> bool:
    """Return True if *writes* are those of a node that has finished without the answer of a person to an `interrupt()`."""
    if not isinstance(writes, list | deque):
        return True
    pairs = cast("Sequence[Any]", writes)
    return bool(pairs) and not any(type(pair) in {list, tuple} and pair and pair[0] in _UNFINISHED for pair in pairs)


def _unnamed(node: str, error: UncacheableRequestError) -> str:
    return (
        f"the node {node!r} is not cached: {error}. Give the cache the name and a version of the graph: LangGraphCache(cache, name='faq-2')"
    )


def _shorter(ttl: int | None, callers: float | None) -> float | None:
    """Return the shorter of the two ttls in seconds; None without any."""
    return min((max(0, seconds) for seconds in (ttl, callers) if seconds is not None), default=None)


def _tags(namespaces: Iterable[Namespace]) -> list[str]:
    """Return the tag of each of *namespaces*, its JSON."""
    return [json.dumps(list(namespace)) for namespace in namespaces]


def _unpickles(serde: object) -> bool:
    """Return True if *serde*, or a serializer that it wraps, falls back to pickle."""
    return serde is not None and (bool(getattr(serde, "pickle_fallback", False)) or _unpickles(getattr(serde, "serde", None)))


def _has_policy(graph: Any) -> bool:  # noqa: ANN401 - the parts of graphs are not typed
    return graph.cache_policy is not None or any(node.cache_policy is not None for node in graph.nodes.values())
