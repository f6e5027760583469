"""The code behind LangGraph's cache keys.

LangGraph names a node in a key by the module and name of its function: `("__pregel_ns_writes", "app.answer", "node")`. For a function at
the top of a module this name leads to the code, and its digest becomes a part of the key. Other functions share their names:

- A coroutine function, a callable object, a partial, a runnable or a graph is called `__dynamic__`.
- A lambda, a method, and a function inside another function have one name for all objects and closures.

Such a node is refused unless the cache has its own name.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from typing import Any

from langgraph.cache.base import Namespace
from layered_cache import UncacheableRequestError
from layered_cache.adapters.identity.code_identity import code_identity, place_of

_WRITES = "__pregel_ns_writes"
_DYNAMIC = "__dynamic__"
_OWN = "langgraph.pregel."  # functions that LangGraph adds to a graph: they hold nothing
_MISSING = object()


class Nodes:
    """The code of the nodes that one cache has seen."""

    def __init__(self) -> None:
        self._functions: dict[str, object] = {}

    def code(self, namespace: Namespace) -> str | None:
        """Return the digest of the code behind *namespace*; None if its name identifies it.

        Raises:
            UncacheableRequestError: If neither identifies the code.
        """
        if len(namespace) < 2 or namespace[0] != _WRITES:  # noqa: PLR2004 - the namespace of another kind of key
            return None
        name = namespace[1]
        if name.startswith(_OWN):
            return None
        if name == _DYNAMIC:
            msg = "LangGraph has no name for its code (a coroutine function, a callable object, a partial, a runnable or a graph)"
            raise UncacheableRequestError(msg)
        function = _function_at(name)
        if function is None:
            msg = f"it is {name}: the name of a lambda, a method or an inner function does not identify it"
            raise UncacheableRequestError(msg)
        if self._functions.setdefault(name, function) is not function:
            msg = f"{name} was defined again, and the graph may still run the old function: build the graph and its cache again"
            raise UncacheableRequestError(msg)
        return code_identity(function)

    def show(self, graph: Any) -> Iterator[tuple[str, UncacheableRequestError]]:  # noqa: ANN401 - graphs are not typed
        """Note the functions of *graph*, and yield the nodes with a cache policy that have no identity, with the reason."""
        for node, built in graph.nodes.items():
            if built.cache_policy is None and graph.cache_policy is None:
                continue
            name = _DYNAMIC
            if isinstance(function := _function_in(built), types.FunctionType | types.MethodType | type):
                name = place_of(function)
                self._functions[name] = function
            try:
                self.code((_WRITES, name, node))
            except UncacheableRequestError as error:
                yield node, error


def _function_at(name: str) -> object | None:
    """Return the function at the top of a module that has *name*."""
    module, _, attribute = name.rpartition(".")
    found = vars(sys.modules[module]).get(attribute) if module in sys.modules else None
    return found if found is not None and getattr(found, "__qualname__", None) == attribute and found.__module__ == module else None


def _function_in(node: Any) -> object:  # noqa: ANN401 - a node of a graph
    """Return the function that LangGraph takes the name of *node* from."""
    bound = node.bound
    return getattr(bound, "func", None) if type(bound).__module__.startswith("langgraph.") else None
