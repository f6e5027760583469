"""The fields of a model class that count in keys, decided once for each class.

Transport settings of library classes do not count. In a class of the user, attributes that a call changes are notes and not settings.
"""

from __future__ import annotations

import dis
import inspect
import sys
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.base import BaseLanguageModel
from layered_cache.keys.setting_names import is_client
from pydantic.fields import FieldInfo

OF_CALLS = frozenset({
    "request_timeout", "timeout", "max_retries", "stream", "streaming", "stream_usage", "stream_options", "stream_chunk_timeout",
})  # fmt: skip
"""Arguments of a call that do not change its answer."""

OF_MODELS = OF_CALLS | {
    "default_request_timeout", "retries", "stop_after_attempt", "http_client", "http_async_client", "http_socket_options", "client",
    "async_client", "root_client", "root_async_client", "disable_streaming", "name", "verbose", "cache", "callbacks", "rate_limiter",
    "custom_get_token_ids", "profile", "azure_ad_token_provider", "azure_ad_async_token_provider", "credentials",
}  # fmt: skip
"""The same of a model that LangChain writes out. What other models mean by these names is not known."""

# of a library's model that is not written out
_OF_LIBRARIES = OF_MODELS | {
    "tags", "metadata", "timeout_seconds", "user_agent", "batch_size", "max_concurrent_requests", "request_parallelism",
    "wait_exponential_kwargs", "validate_model_on_init", "usage_telemetry_enabled", "credentials_profile_name", "openai_proxy",
    "include_response_headers", "tiktoken_model_name",
}  # fmt: skip
# of LangChain's base classes, whatever class is derived from them
_OF_LANGCHAIN = frozenset({
    "name", "cache", "callbacks", "tags", "metadata", "verbose", "rate_limiter", "custom_get_token_ids", "profile", "disable_streaming",
})  # fmt: skip
_ADDING = frozenset({"add", "append", "appendleft", "clear", "extend", "insert", "pop", "popleft", "remove", "setdefault", "update"})
# methods of models that LangChain runs in a call
_RUN_BY_CALLS = frozenset({
    "_generate", "_agenerate", "_stream", "_astream", "_call", "_acall", "_generate_with_cache", "_agenerate_with_cache", "generate",
    "agenerate", "generate_prompt", "agenerate_prompt", "invoke", "ainvoke", "stream", "astream", "batch", "abatch", "__call__",
    "_get_ls_params", "_get_invocation_params", "_get_llm_string",
})  # fmt: skip
_NO_STEPS = frozenset({"CACHE", "NOP", "RESUME", "PRECALL"})


def plain_class(cls: type[Any]) -> type[Any]:
    """Return the original class of a wrapped model or a proxy."""
    while getattr(cls, "layered_cache_front", False):
        cls = cast("type[Any]", cls.__bases__[1])
    return cls


@dataclass(frozen=True, slots=True)
class Plan:
    """How the fields of a class are read.

    `looked_at` are those that can count, and the `clients`. `users` are declared in a class of the user's own. Calls of such a class
    change the `changed` attributes.
    """

    is_written: bool
    is_users: bool
    looked_at: tuple[str, ...]
    clients: frozenset[str]
    users: frozenset[str]
    changed: frozenset[str]
    fields: Mapping[str, FieldInfo]


@lru_cache(maxsize=1024)
def plan_of(cls: type[BaseLanguageModel[Any]]) -> Plan:
    fields = cls.model_fields
    users = frozenset(name for name in fields if _is_users(owner_of(cls, name)))
    clients = frozenset(name for name in fields if is_client(name) and not name.endswith(("_kwargs", "_args", "_options")))
    is_written = issubclass(cls, BaseChatModel) and cls.is_lc_serializable()
    of_libraries = OF_MODELS if is_written else _OF_LIBRARIES
    looked_at = tuple(
        name for name in fields if name not in _OF_LANGCHAIN and (name in clients or name in users or name not in of_libraries)
    )
    changed = frozenset(_changed_by_calls(cls))
    return Plan(is_written, _is_users(cls), looked_at, clients, users, changed, fields)


def owner_of(cls: type, field: str) -> type:
    return next((one for one in cls.__mro__ if field in inspect.get_annotations(one)), cls)


@lru_cache(maxsize=1024)
def _is_users(cls: type) -> bool:
    """Return True if *cls* belongs to no library."""
    top = cls.__module__.partition(".")[0]
    if top in {"__main__", "__mp_main__"}:  # its file can be that of a runner, such as `python -m pytest`
        return True
    if top in sys.stdlib_module_names or top.startswith(("langchain", "pydantic")):
        return False
    file = getattr(sys.modules.get(cls.__module__), "__file__", None) or ""
    return "site-packages" not in file and "dist-packages" not in file


def _changed_by_calls(cls: type) -> Iterator[str]:
    """Yield the names of attributes that a call of a model of *cls* changes, in the methods of the user's classes."""
    users = [vars(one) for one in cls.__mro__ if _is_users(one)]
    names = [*_RUN_BY_CALLS]
    for name in names:  # the list grows in the loop
        for members in users:
            member = members.get(name)
            function = inspect.unwrap(member) if callable(member) else getattr(member, "fget", getattr(member, "__func__", None))
            if isinstance(function, types.FunctionType):
                yield from _changed_by(function.__code__)
                names += set(_read_of_self(function.__code__)).difference(names)


def _steps(code: types.CodeType) -> list[tuple[str, Any]]:
    return [(step.opname, step.argval) for step in dis.get_instructions(code) if step.opname not in _NO_STEPS]


def _read_of_self(code: types.CodeType) -> Iterator[str]:
    """Yield the names of attributes that *code* reads of `self`, or by `super()`."""
    steps = _steps(code)
    for (_, before), (name, value) in zip([("", None), *steps], steps, strict=False):
        owner = cast("tuple[object, ...]", before)[-1] if isinstance(before, tuple) else before
        if name == "LOAD_SUPER_ATTR" or (name in {"LOAD_ATTR", "LOAD_METHOD"} and owner == "self"):
            yield str(value)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _read_of_self(constant)


def _changed_by(code: types.CodeType) -> Iterator[str]:
    """Yield the names of attributes that *code* assigns, has items of assigned, or calls a method of that adds to a collection."""
    steps = _steps(code)
    for place, (name, value) in enumerate(steps):
        if name == "STORE_ATTR":
            yield str(value)
        elif name in {"LOAD_ATTR", "LOAD_METHOD"} and value in _ADDING and place > 0 and steps[place - 1][0] == "LOAD_ATTR":
            yield str(steps[place - 1][1])
        elif name == "STORE_SUBSCR" and place > 1 and steps[place - 2][0] == "LOAD_ATTR":
            yield str(steps[place - 2][1])
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _changed_by(constant)
