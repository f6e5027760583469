"""`LayeredCacheMiddleware`: a cache of an agent's model calls and of some of its tools, in tiers.

    from langchain.agents import create_agent
    from langchain_layered_cache import LayeredCache, LayeredCacheMiddleware

    cache = LayeredCache("memory://", "sqlite:///answers.db")
    agent = create_agent(model, tools, middleware=[LayeredCacheMiddleware(cache, ttl="1d", tools={"get_weather": "5m"})])

The middleware replaces the agent's model by a proxy that reads the cache first (`model_proxy`). Other middleware, structured
output, streams and the name of the agent on its messages stay as they are. The cache stores the model's raw answer.

It shares answers with `set_llm_cache(LayeredCache(...))` and adds three features. An answer between `fresh_for` and `keep_for` is
returned at once and refreshed in the background, and it stays while the model fails. `Policy.separate_accounts` knows the API
key of the model. Results of tools are cached (`tool_cache`).

Options of a call (`cache_options`, `config={"metadata": {"llm_cache": {...}}}`) apply to its models and tools.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from langchain.agents.middleware import AgentMiddleware
from langchain.agents.middleware.types import ModelCallResult, ModelRequest, ModelResponse
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import ToolMessage
from langgraph.prebuilt.tool_node import ToolCallRequest
from langgraph.types import Command
from layered_cache import ConfigurationError, TieredCache
from layered_cache.adapters.common import Duration, engine_of, rules_of, seconds
from layered_cache.keys.key_rules import NormalizeOption

from langchain_layered_cache._agents.model_proxy import ModelAsker, stand_in
from langchain_layered_cache._agents.tool_cache import ToolAsker
from langchain_layered_cache._call import Calls
from langchain_layered_cache._callbacks.graph_runs import listen as listen_to_chains
from langchain_layered_cache._callbacks.model_runs import listen
from langchain_layered_cache._keys.key_options import check_key_extra
from langchain_layered_cache.cache import LayeredCache

if TYPE_CHECKING:
    _Middleware = AgentMiddleware[Any, Any, Any]
else:
    _Middleware = AgentMiddleware  # some releases have fewer type parameters

Ttl: TypeAlias = Duration | None


class LayeredCacheMiddleware(_Middleware):
    """A cache of an agent's model calls and of some of its tools.

    Concurrent equal calls of all agents, threads and tasks are one request. An error of the request is raised in its own caller
    only: it may concern that caller's API key or timeout. The remaining callers then send one request each, at the same time. A
    model with `cache=False` is not cached.

    Middleware that changes the request of the model may come before or after this one: the key covers the final request.
    Middleware that changes arguments or results of a tool for one user must come before this one.

    Args:
        cache: The tiers; a `LayeredCache` shares its own.
        ttl: How long answers of the model may be served: seconds, a `timedelta`, or a text such as `"5m"`. A `ttl` of the call
            overrides it. None: as in the policy.
        tools: The names of the tools to cache, each with its ttl (a shorter `ttl` of the call counts), or the names alone. Only
            name a tool that changes nothing, and that returns equal results to all users for equal arguments.
        models: Whether answers of the model are cached.
        mark_hits: Whether answers from the cache are marked, as in `LayeredCache`. `tier` is None if it is not known.
        key_extra: Identifies models that have no name, or settings that cannot be read: plain data, such as `"name/and-settings"`.
        ignore: Names of parameters of the model that keys leave out; as *cache* has it, unless given. See `LayeredCache`.
        normalize: How texts of users are normalised in keys; as *cache* has it, unless given. Keys of tools are exact.

    Raises:
        ConfigurationError: Before any I/O, if an argument is wrong.
    """

    def __init__(
        self,
        cache: LayeredCache | TieredCache,
        *,
        ttl: Ttl = None,
        tools: Mapping[str, Ttl] | Iterable[str] = (),
        models: bool = True,
        mark_hits: bool = False,
        key_extra: object = None,
        ignore: str | Iterable[str] | None = None,
        normalize: NormalizeOption = None,
    ) -> None:
        super().__init__()
        check_key_extra(key_extra)
        calls = Calls(engine_of(cache), rules_of(cache, ignore, normalize))
        self._calls = calls
        asker = ModelAsker(calls, ttl=_seconds(ttl, "ttl"), marks_hits=mark_hits, key_extra=key_extra)
        self._models = asker if models else None
        ttls = _ttls(tools)
        self._tools = ToolAsker(calls, ttls)
        listen()
        if ttls:
            listen_to_chains()

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelCallResult[Any]:
        """Call *handler* with a model that reads the cache first.

        Raises:
            ConfigurationError, TenantRequiredError: If an option of the caller is invalid or missing.
            CacheMiss: If there is no entry and the caller allows no request.
        """
        return handler(self._before(request))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelCallResult[Any]:
        """See wrap_model_call."""
        return await handler(self._before(request))

    def wrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], ToolMessage | Command[Any]]
    ) -> ToolMessage | Command[Any]:
        """Return the result of a tool, from the cache if the tool is cached and has an entry.

        Raises:
            ConfigurationError, TenantRequiredError: If an option of the caller is invalid or missing.
            CacheMiss: If there is no entry of a cached tool and the caller allows no run.
        """
        ask = self._tools.ask(request, handler)
        return handler(request) if ask is None else ask.answered()

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[ToolMessage | Command[Any]]]
    ) -> ToolMessage | Command[Any]:
        """See wrap_tool_call."""
        ask = self._tools.ask(request, handler)
        return await handler(request) if ask is None else await ask.aanswered()

    def _before(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        """Return *request* with a model that reads the cache first."""
        if self._models is None:
            return request
        model = cast("object", request.model)
        try:
            if isinstance(model, BaseChatModel):
                return request if model.cache is False else request.override(model=stand_in(model, self._models))
            reason = f"a {type(model).__qualname__} is not a chat model, so its parameters are not known"
        except Exception as error:  # noqa: BLE001 - a class may forbid subclasses, by any error
            reason = f"a proxy of a {type(model).__qualname__} cannot be made: {type(error).__name__}"
        self._calls.refuse(self._calls.begin(None), reason)
        return request


def _seconds(ttl: Ttl, name: str) -> float | None:
    return None if ttl is None else seconds(ttl, name)


def _ttls(tools: Mapping[str, Ttl] | Iterable[str]) -> dict[str, float | None]:
    names: Iterable[str] = () if isinstance(tools, str) else tools
    named = cast("Mapping[str, Ttl]", names if isinstance(names, Mapping) else dict.fromkeys(names))
    if isinstance(tools, str) or not all(isinstance(name, str) and name for name in named):  # pyright: ignore[reportUnnecessaryIsInstance]
        msg = 'tools must be names of tools, in a list or with how long each is kept, {"get_weather": "5m"}'
        raise ConfigurationError(msg)
    return {name: _seconds(ttl, f"tools[{name!r}]") for name, ttl in named.items()}
