"""`LayeredCacheMiddleware`: the answers of an agent's model, and the results of the tools that may be kept, in tiers.

    from langchain.agents import create_agent
    from langchain_layered_cache import LayeredCache, LayeredCacheMiddleware

    cache = LayeredCache("memory://", "sqlite:///answers.db")
    agent = create_agent(model, tools, middleware=[LayeredCacheMiddleware(cache, ttl="1d", tools={"get_weather": "5m"})])

The agent's model is replaced by one that asks the cache first (`_standins`), and everything around it goes on as it is: other middleware,
structured output, streams, the agent's own name on its messages. What is stored is what the model said. What this has more than
`set_llm_cache(LayeredCache(...))`, with which it shares its answers: while the policy's `fresh_for` is over and `keep_for` is not, the
old answer is given at once and refreshed in the background, and it stays while the model fails; keys of models are known
(`Policy.separate_accounts`); tools (`_tools`).

What one call may decide for itself (`cache_options`, `config={"metadata": {"llm_cache": {...}}}`) holds for its models and its tools.
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
from layered_cache.adapting import engine_of, rules_of
from layered_cache.key_rules import NormalizeOption
from layered_cache.units import Duration, seconds

from langchain_layered_cache._calls import Calls
from langchain_layered_cache._chains import listen as listen_to_chains
from langchain_layered_cache._runs import listen
from langchain_layered_cache._settings import check_key_extra
from langchain_layered_cache._standins import ModelAsker, stand_in
from langchain_layered_cache._tools import ToolAsker
from langchain_layered_cache.cache import LayeredCache

if TYPE_CHECKING:
    _Middleware = AgentMiddleware[Any, Any, Any]
else:
    _Middleware = AgentMiddleware  # of which some releases take fewer arguments

Ttl: TypeAlias = Duration | None


class LayeredCacheMiddleware(_Middleware):
    """A cache of an agent's model calls and of some of its tools.

    Of equal calls, whichever agent, thread or task makes them, one asks; the others wait for its answer. Its error is its own (it may be
    about its key, its time-out): the others ask then, each once and all at the same time. A model with `cache=False` is left as it is.

    Middleware that changes the model's request, or the agent, may stand anywhere: what counts is what reaches the model. Middleware that
    changes a tool's arguments or its result for one user has to stand before this one.

    Args:
        cache: The tiers; a `LayeredCache` shares its own.
        ttl: How long answers of the model may be served, unless the call says it: seconds, a `timedelta`, a text such as `"5m"`; None: as
            the policy says.
        tools: The names of the tools whose results are kept, each with how long (if the call says less, that); or just the names. A tool
            belongs here if equal arguments give equal results for everyone and it changes nothing.
        models: Whether answers of the model are kept.
        mark_hits: Whether answers from the cache say so, as those of `LayeredCache` do; `tier` is None where that is not known.
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
        """Have *handler* ask a model that asks the cache first.

        Raises:
            ConfigurationError, TenantRequiredError: The caller has said what may not be said, or nothing where something must be.
            CacheMiss: The cache has no answer, and the caller wants nothing else.
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
        """Return the result of a tool, from the cache if the tool is one of those to be kept and it is there.

        Raises:
            ConfigurationError, TenantRequiredError: The caller has said what may not be said, or nothing where something must be.
            CacheMiss: The cache has no result of such a tool, and the caller wants nothing else.
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
        """Return *request* to a model that asks the cache first."""
        if self._models is None:
            return request
        model = cast("object", request.model)
        try:
            if isinstance(model, BaseChatModel):
                return request if model.cache is False else request.override(model=stand_in(model, self._models))
            reason = f"a {type(model).__qualname__} is no chat model whose parameters can be known"
        except Exception as error:  # noqa: BLE001 - a class may refuse to have others below it, in any way
            reason = f"nothing can stand in for a {type(model).__qualname__}: {type(error).__name__}"
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
