"""The parts of a tool that its name and schema do not show: its code, the values in its closures, bound arguments, and its own fields.

Two tools of one name, schema and function may search two indexes. So these parts belong to the key. User code counts by its content
(`layered_cache.adapters.identity.code_identity`), the code of libraries by its place. Values count if they are plain data, or functions
that hold plain data. A tool with any other value (a retriever, a client, the object of a method) is refused, until its user names that
value: `tool.metadata = {"cache_key": "legal-index-7"}`. The same is true of such a value among the globals that the tool's code reads.

The key contains digests, since the values may be secrets.
"""

from __future__ import annotations

import functools
import hashlib
import types
from collections.abc import Callable
from typing import Any, cast

from langchain_core.tools import BaseTool, StructuredTool, Tool
from layered_cache import EncodeError, UncacheableRequestError
from layered_cache.adapters.identity.code_identity import body_identity, closure_of, code_identity, function_data, is_user_code
from layered_cache.keys.keys import canonical

from langchain_layered_cache._langgraph.write_codec import Fields, take_apart

_SAID = "cache_key"  # a name in the metadata of a tool
_FUNCTIONS = ("func", "coroutine")
# the fields of these classes are in the key, or do not decide a result
_LANGCHAINS = frozenset({*StructuredTool.__mro__, *Tool.__mro__})
_KNOWN = frozenset({*StructuredTool.model_fields, *Tool.model_fields})


def state_of(tool: BaseTool) -> str | None:
    """Return the digest of the values of *tool*; None if it has none.

    Raises:
        UncacheableRequestError: If a value has no exact key.
    """
    said = (tool.metadata or {}).get(_SAID)
    if said is not None and not (isinstance(said, str) and said):
        msg = f"the {_SAID!r} in the metadata of the tool {tool.name!r} must be a text that is not empty"
        raise UncacheableRequestError(msg)
    held = _held_by(tool) if said is None else {_SAID: said}
    if not held:
        return None
    try:
        return hashlib.sha256(canonical(take_apart(held, _fields_of), "a value of the tool")).hexdigest()
    except (EncodeError, UncacheableRequestError) as error:
        reason = str(error)
    except Exception as error:  # noqa: BLE001 - values of any class are read here, and may raise any error
        reason = f"a value that has no exact key ({type(error).__name__})"
    raise _refusal(tool, reason)


def code_of(tool: BaseTool) -> list[str] | None:
    """Return the digests of the user code of *tool*; None if all its code belongs to libraries.

    Raises:
        UncacheableRequestError: If the code uses a value without an identity that the metadata do not name.
    """
    functions = (getattr(tool, name, None) for name in _FUNCTIONS)
    try:
        found = [body_identity(function) for function in functions if isinstance(function, types.FunctionType) and is_user_code(function)]
        if (code := code_identity(type(tool))) is not None:
            found.append(code)
    except UncacheableRequestError as error:
        if _SAID in (tool.metadata or {}):
            return None
        raise _refusal(tool, str(error)) from None
    return found or None


def _refusal(tool: BaseTool, reason: str) -> UncacheableRequestError:
    return UncacheableRequestError(f'the tool {tool.name!r} holds {reason}: name it, tool.metadata = {{"{_SAID}": "legal-index-7"}}')


def place_of(function: Callable[..., Any]) -> str:
    """Return the module and the name of *function*."""
    while isinstance(function, functools.partial):
        function = cast("Callable[..., Any]", function.func)
    named = function if hasattr(function, "__qualname__") else type(function)
    place = f"{named.__module__}.{named.__qualname__}"
    if isinstance(function, types.FunctionType) and function.__name__ == "<lambda>" and not is_user_code(function):
        place += f":{function.__code__.co_firstlineno}"  # the lambdas of a library differ only in their lines
    return place


def _held_by(tool: BaseTool) -> dict[str, object]:
    kind = type(tool)
    held: dict[str, object] = {name: getattr(tool, name) for name in kind.model_fields if name not in _KNOWN}
    held |= {**(tool.__pydantic_extra__ or {}), **(tool.__pydantic_private__ or {})}
    for name in _FUNCTIONS:
        function = getattr(tool, name, None)
        if not isinstance(function, types.FunctionType):
            held |= {} if function is None else {name: function}
        elif cells := closure_of(function):
            held[name] = cells
    for cls in kind.__mro__:
        for name, member in vars(cls).items() if cls not in _LANGCHAINS else ():
            if isinstance(member, types.FunctionType) and (cells := closure_of(member)):
                held[f"{cls.__qualname__}.{name}"] = cells
    return held


def _fields_of(thing: object) -> Fields:
    """Return the parts of *thing*, which is no plain data.

    Raises:
        EncodeError: It is neither a function nor a class with an identity.
        UncacheableRequestError: Its code uses a value that has no identity.
    """
    if isinstance(thing, functools.partial | types.FunctionType | types.MethodType | types.BuiltinFunctionType):
        return {"function": function_data(cast("Callable[..., Any]", thing), lambda value: value)}, None
    kind = thing if isinstance(thing, type) else type(thing)
    if kind is thing and (is_user_code(kind) or "<locals>" not in kind.__qualname__):
        return {"class": f"{kind.__module__}.{kind.__qualname__}", "code": code_identity(kind)}, None
    msg = f"{'the class' if kind is thing else 'an object of'} {kind.__module__}.{kind.__qualname__}, of which no exact key can be made"
    raise EncodeError(msg)
