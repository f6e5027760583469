"""The results of tools: the tools that may be cached, their keys, and the stored parts of a result.

A key contains all that decides a result: the tool's name, the arguments from the model, the schema of its arguments, its code, and the
values that it holds (`tool_fingerprint`). A tool with further inputs from its host (the agent's state, its store, the run's configuration)
is refused. The content and the artifact are stored, if the decoded ones equal them. Errors, a `Command`, and a result after the answer of a
person to an `interrupt()` are never stored.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias, cast

from langchain_core.messages import ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from langgraph.prebuilt.tool_node import ToolCallRequest
from langgraph.types import Command
from layered_cache import Answer, EncodeError, Entry, Event, Request, UncacheableRequestError
from layered_cache.adapters.cached_call import Ask, check_only_cached
from layered_cache.adapters.msgpack_codec import dumps, loads
from layered_cache.options import fingerprint

from langchain_layered_cache._agents.tool_fingerprint import code_of, place_of, state_of
from langchain_layered_cache._call import Call, Calls
from langchain_layered_cache._callbacks.graph_runs import OF_AN_ANSWER, has_answer
from langchain_layered_cache._callbacks.model_runs import METADATA, Run

FRAMEWORK = "langchain-tool"
CODEC = "lc-tool-1"

Result: TypeAlias = ToolMessage | Command[Any]
Handler: TypeAlias = Callable[[ToolCallRequest], Any]

_SINGLE = ["__arg1"]  # the name of the only argument of a tool that takes a text
_HARMLESS = frozenset({"callbacks", "run_manager"})  # they only observe a call
_KEPT = ("content", "artifact", "name", "additional_kwargs", "response_metadata")  # this order never changes
_GIVEN = frozenset({*_KEPT, "type", "id", "tool_call_id", "status"})


class ToolAsker:
    """The cache of the tools of one middleware.

    Args:
        calls: The maker of calls.
        ttls: The tools that may be cached, with the ttl of their results in seconds; None: as in the policy.
    """

    def __init__(self, calls: Calls, ttls: Mapping[str, float | None]) -> None:
        self._calls = calls
        self._ttls = ttls

    def ask(self, request: ToolCallRequest, handler: Handler) -> Ask[Result] | None:
        """Return the cached call; None if the call is not cached.

        Raises:
            ConfigurationError, TenantRequiredError: If an option of the caller is invalid or missing.
            CacheMiss: If the call is not cached and the caller allows no run.
        """
        name, tool = request.tool_call["name"], request.tool
        if name not in self._ttls or tool is None:
            return None
        call = self._begin(request, self._ttls[name])
        if call.options.mode == "bypass":
            return None
        try:
            asked = _request(tool, request.tool_call["args"], call)
        except UncacheableRequestError as error:
            self._calls.refuse(call, str(error))
            check_only_cached(call.options)
            return None
        return _ToolAsk(call, asked, self._calls, request, handler)

    def _begin(self, request: ToolCallRequest, ttl: float | None) -> Call:
        call = self._calls.begin(Run(None, _config_of(request).get("metadata", {}).get(METADATA), None))
        said = call.options.keep_for
        if ttl is not None and (said is None or ttl < said):  # the shorter ttl counts
            call = call._replace(options=dataclasses.replace(call.options, ttl=ttl))
        return call


class _ToolAsk(Ask[Result]):
    """A cached call of a tool."""

    def __init__(self, call: Call, asked: Request, calls: Calls, request: ToolCallRequest, handler: Handler) -> None:
        super().__init__(call.cache, call.options, asked)
        self._call = call
        self._calls = calls
        self._request = request
        self._handler = handler

    def compute(self) -> Result:
        return self._handler(self._request)

    async def acompute(self) -> Result:
        return await cast("Awaitable[Result]", self._handler(self._request))

    def compute_alone(self) -> Result:
        return cast("BaseTool", self._request.tool).invoke(self._tool_call)

    async def acompute_alone(self) -> Result:
        return await cast("BaseTool", self._request.tool).ainvoke(self._tool_call)

    @property
    def _tool_call(self) -> dict[str, Any]:
        return {**self._request.tool_call, "type": "tool_call"}

    def written(self, result: Result) -> Answer | None:
        if type(result) is not ToolMessage or result.status != "success":
            return None
        if has_answer(_config_of(self._request)):
            self.cache.report(Event(kind="not_stored", namespace=self.cache.name, reason=OF_AN_ANSWER))
            return None
        options = self.options
        values = result.__dict__
        try:
            if result.__pydantic_extra__ or values.keys() - _GIVEN:
                kind = type(result)
                msg = f"an object of {kind.__module__}.{kind.__qualname__} with fields that are not known here would not come back equal"
                raise EncodeError(msg)  # noqa: TRY301 - reported below
            data = dumps([values["id"] is not None, *map(values.get, _KEPT)])
        except EncodeError as error:
            self._calls.not_encodable(self._call, None, error)
            return None
        content = cast("object", result.content)
        return Answer(
            value=data,
            codec=CODEC,
            tags=options.labels,
            keep_for=options.keep_for,
            response=content if isinstance(content, str) else None,
        )

    def read(self, entry: Entry) -> Result:
        if entry.codec != CODEC:
            msg = "these bytes are no result of a tool that this release knows"
            raise ValueError(msg)
        had_id, *values = loads(entry.value)
        return ToolMessage(
            **dict(zip(_KEPT, values, strict=True)),
            tool_call_id=self._request.tool_call["id"],
            id=str(uuid.uuid4()) if had_id else None,
        )


def _config_of(request: ToolCallRequest) -> RunnableConfig:
    runtime: Any = cast("Any", request).runtime
    return {} if runtime is None else runtime.config


def _request(tool: BaseTool, args: Mapping[str, object], call: Call) -> Request:
    """Return the request of *tool* with *args*.

    Raises:
        UncacheableRequestError: If other values decide the result too.
    """
    try:
        schema = convert_to_openai_tool(tool)
        hidden = sorted(_hidden(tool, schema["function"]["parameters"]["properties"]))
    except Exception as error:  # a tool may be of any class, and raise any error
        msg = f"the arguments of the tool {tool.name!r} cannot be told: {type(error).__name__}"
        raise UncacheableRequestError(msg) from error
    if hidden:
        msg = f"the tool {tool.name!r} is given {', '.join(hidden)}, which are not among the arguments that the model gives it"
        raise UncacheableRequestError(msg)
    account = call.options.account
    params: dict[str, object] = {
        "schema": schema,
        "code": place_of(_code_of(tool)),
        "state": state_of(tool),
        "response_format": tool.response_format,
        "account": None if account is None else fingerprint(account),
    }
    if (digests := code_of(tool)) is not None:
        params["digests"] = digests
    return Request({"tool": tool.name, "args": args}, params=params, framework=FRAMEWORK, sample=call.options.sample)


def _code_of(tool: BaseTool) -> Callable[..., Any]:
    """Return the function of *tool*."""
    return getattr(tool, "func", None) or getattr(tool, "coroutine", None) or type(tool)._run  # noqa: SLF001 - the method of a subclass


def _hidden(tool: BaseTool, seen: Mapping[str, object]) -> set[str]:
    """Return the arguments of *tool* that the model does not give."""
    code = _code_of(tool)
    signature = inspect.signature(code, follow_wrapped=not isinstance(code, functools.partial))  # bound arguments of a partial are left out
    takes = [
        name
        for name, parameter in signature.parameters.items()
        if parameter.kind not in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD} and name not in _HARMLESS and name != "self"
    ]
    if list(seen) == _SINGLE:
        takes = takes[1:]
    schema = tool.args_schema
    fields: Any = cast("Any", schema).model_fields if isinstance(schema, type) and hasattr(schema, "model_fields") else {}
    aliases = {name for name, field in fields.items() if field.alias in seen}
    return {*takes, *fields} - {*seen, *aliases}
