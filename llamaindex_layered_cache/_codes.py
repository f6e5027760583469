"""Functions as plain data: where they stand, what their code is, and what they have brought along. Never by their address.

Two functions of one place and one code differ if what they were made with differs (defaults, what they close over, the arguments of a
`partial`). What cannot be said exactly is refused.
"""

from __future__ import annotations

import functools
import hashlib
import types
from collections.abc import Callable, Mapping
from typing import Any, cast

from layered_cache import UncacheableRequestError

Plain = Callable[[object], object]
"""Makes plain data of what a function has brought along."""


def code_of(function: Callable[..., Any], plain: Plain) -> object:
    """Return what stands for *function*.

    Raises:
        UncacheableRequestError: It is known only by its address, or holds what is.
    """
    if type(function) is functools.partial:
        given = cast("functools.partial[Any]", function)
        return {"partial": code_of(given.func, plain), "args": [plain(item) for item in given.args], "named": _items(given.keywords, plain)}
    if isinstance(function, types.FunctionType):
        closed = [cell.cell_contents for cell in function.__closure__ or ()]
        brought = {"args": list(function.__defaults__ or ()), "named": function.__kwdefaults__ or {}, "closed": closed}
        said = {name: plain(value) for name, value in brought.items() if value}
        return {"function": f"{function.__module__}.{function.__qualname__}", "code": _digest(function.__code__), **said}
    if isinstance(function, types.MethodType):
        owner = function.__self__
        if isinstance(owner, type):
            return {"method": code_of(function.__func__, plain), "of": f"{owner.__module__}.{owner.__qualname__}"}
    elif isinstance(function, types.BuiltinFunctionType) and isinstance(function.__self__, types.ModuleType | None):
        return {"function": f"{function.__module__}.{function.__qualname__}"}
    msg = f"a {type(function).__qualname__} is known only by its address"
    raise UncacheableRequestError(msg)


def _items(named: Mapping[str, object], plain: Plain) -> dict[str, object]:
    return {name: plain(value) for name, value in named.items()}


@functools.lru_cache(maxsize=1024)
def _digest(code: types.CodeType) -> str:
    """Return the hash of all that *code* does: another release of Python has other ones."""
    digest = hashlib.sha256(code.co_code)
    digest.update(repr((code.co_names, code.co_varnames, code.co_freevars, code.co_flags)).encode())
    for constant in code.co_consts:
        digest.update(_constant(constant).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _constant(value: object) -> str:
    if isinstance(value, types.CodeType):
        return _digest(value)
    if isinstance(value, frozenset):  # its order changes from process to process
        return f"frozenset{sorted(map(repr, cast('frozenset[object]', value)))}"
    return f"{type(value).__name__} {value!r}"
