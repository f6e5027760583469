"""What a tool holds beside its code: what its functions close over, arguments that are bound to them, and its own fields.

Two tools of one name, schema and function may be of two indexes. So what they hold is a part of their keys, if it is plain data, or
functions that hold such: of these an exact key can be made. A tool that holds anything else (a retriever, a client, an object whose method
it is) is refused, unless its user says what that stands for: `tool.metadata = {"cache_key": "legal-index-7"}`. What a module has is taken
to be the same in all programs.

Keys have a digest of it: it may hold secrets.
"""

from __future__ import annotations

import functools
import hashlib
import types
from collections.abc import Callable, Mapping
from typing import Any, cast

from langchain_core.tools import BaseTool, StructuredTool, Tool
from layered_cache import EncodeError, UncacheableRequestError
from layered_cache.keys import canonical

from langchain_layered_cache._writes import Fields, take_apart

_SAID = "cache_key"  # in the metadata of a tool
_FUNCTIONS = ("func", "coroutine")
# what these have of their own is in the key, or does not decide a result
_LANGCHAINS = frozenset({*StructuredTool.__mro__, *Tool.__mro__})
_KNOWN = frozenset({*StructuredTool.model_fields, *Tool.model_fields})


def state_of(tool: BaseTool) -> str | None:
    """Return what stands for what *tool* holds; None if it holds nothing.

    Raises:
        UncacheableRequestError: It holds something of which no exact key can be made.
    """
    said = (tool.metadata or {}).get(_SAID)
    if said is not None and not (isinstance(said, str) and said):
        msg = f"the {_SAID!r} in the metadata of the tool {tool.name!r} must be a text that is not empty"
        raise UncacheableRequestError(msg)
    held = _held_by(tool) if said is None else {_SAID: said}
    if not held:
        return None
    try:
        return hashlib.sha256(canonical(take_apart(held, _fields_of), "what a tool holds")).hexdigest()
    except EncodeError as error:
        reason = str(error)
    except Exception as error:  # noqa: BLE001 - what a tool holds may do anything when it is looked at
        reason = f"what no exact key can be made of ({type(error).__name__})"
    msg = f'the tool {tool.name!r} holds {reason}: say what it stands for, tool.metadata = {{"{_SAID}": "legal-index-7"}}'
    raise UncacheableRequestError(msg)


def place_of(function: Callable[..., Any]) -> str:
    """Return where the code of *function* stands."""
    while isinstance(function, functools.partial):
        function = cast("Callable[..., Any]", function.func)
    named = function if hasattr(function, "__qualname__") else type(function)
    place = f"{named.__module__}.{named.__qualname__}"
    if isinstance(function, types.FunctionType) and function.__name__ == "<lambda>":  # which all have one name
        place += f":{function.__code__.co_firstlineno}"
    return place


def _held_by(tool: BaseTool) -> dict[str, object]:
    kind = type(tool)
    held: dict[str, object] = {name: getattr(tool, name) for name in kind.model_fields if name not in _KNOWN}
    held |= {**(tool.__pydantic_extra__ or {}), **(tool.__pydantic_private__ or {})}
    for name in _FUNCTIONS:
        function = getattr(tool, name, None)
        if not isinstance(function, types.FunctionType):
            held |= {} if function is None else {name: function}
        elif cells := _cells(function):
            held[name] = cells
    for cls in kind.__mro__:
        for name, member in vars(cls).items() if cls not in _LANGCHAINS else ():
            if isinstance(member, types.FunctionType) and (cells := _cells(member)):
                held[f"{cls.__qualname__}.{name}"] = cells
    return held


def _cells(function: types.FunctionType) -> dict[str, object]:
    """Return what *function* closes over, by the names that it has there."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return {name: cell.cell_contents for name, cell in cells if name != "__class__"}  # which is there where it says super()


def _fields_of(thing: object) -> Fields:
    """Return what *thing*, which is no plain data, consists of.

    Raises:
        EncodeError: It is no function and no class that can be found by its name.
    """
    if isinstance(thing, functools.partial):
        partial = cast("functools.partial[Any]", thing)
        return {"function": partial.func, "args": partial.args, "keywords": partial.keywords}, None
    if isinstance(thing, types.FunctionType):
        defaults: Mapping[str, object] = thing.__kwdefaults__ or {}
        return {"code": place_of(thing), "cells": _cells(thing), "defaults": thing.__defaults__, "named": dict(defaults)}, None
    if isinstance(thing, types.MethodType):
        return {"function": thing.__func__, "self": thing.__self__}, None
    if isinstance(thing, types.BuiltinFunctionType):
        owner = thing.__self__
        return {"code": place_of(thing), "self": None if isinstance(owner, types.ModuleType) else owner}, None
    kind = thing if isinstance(thing, type) else type(thing)
    if kind is thing and "<locals>" not in kind.__qualname__:
        return {"class": f"{kind.__module__}.{kind.__qualname__}"}, None
    msg = f"{'the class' if kind is thing else 'an object of'} {kind.__module__}.{kind.__qualname__}, of which no exact key can be made"
    raise EncodeError(msg)
