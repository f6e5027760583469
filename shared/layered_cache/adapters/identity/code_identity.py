"""The identity of user code: of functions and classes that a module and a name do not identify.

Two programs can both define `__main__.OurLLM`, and a helper function can change while its name stays. Keys must differ between them.
So user code is identified by its content:

- A function: its bytecode with all constants, the globals that it reads, its closure and its defaults.
- A class: its members, its fields and annotations, and its base classes.
- The user functions and classes that these use, in the same way, up to 1,000 of them.

Line numbers and file paths do not count. The digest is the same in every process of one Python version. Code of the standard library and
of installed packages is identified by module and name. A global that is neither code nor plain data (a client, a loaded model) has no
identity, and so the code that reads it has none.

A digest is computed once. It is computed again when a global, a closure variable or a class member that the code reads is bound to
another object. A list or a dictionary counts with its content at the first use, since code often collects results in one. Later changes in
place do not count. Nor do names that are computed at run time (`getattr`, `eval`), files and environment variables.
"""

from __future__ import annotations

import functools
import hashlib
import types
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar, cast

from layered_cache.adapters.identity._bytecode import code_digest
from layered_cache.adapters.identity._code_parts import Bindings, Memo, Part, body_of, closure_of, module_of, part_of, place_of
from layered_cache.adapters.identity._libraries import is_library
from layered_cache.errors import UncacheableRequestError
from layered_cache.keys.keys import canonical

__all__ = ["Plain", "body_identity", "closure_of", "code_identity", "function_data", "is_user_code", "place_of"]

D = TypeVar("D", str, str | None)

Plain: TypeAlias = Callable[[object], object]
"""Returns plain data for a value, or raises `UncacheableRequestError`."""

_MOST = 1_000  # functions and classes in one identity

_digests: Memo[str] = Memo()


def code_identity(thing: object) -> str | None:
    """Return the digest of the code of *thing*; None if its module and name identify it.

    Args:
        thing: A function, a class, a method or a partial. Of any other object, its class counts.

    Raises:
        UncacheableRequestError: The code uses a value that has no identity. The message names both.
    """
    if isinstance(thing, functools.partial | types.MethodType | types.FunctionType):
        return _checked(_function_digest, cast("object", thing))
    if isinstance(thing, type):
        return _checked(_class_digest, thing) if is_user_code(thing) else None
    wrapped = cast("object", getattr(thing, "__wrapped__", None))
    return code_identity(type(thing) if wrapped is None else wrapped)


def body_identity(function: types.FunctionType) -> str:
    """Return the digest of the body of *function*, without its closure and defaults.

    Raises:
        UncacheableRequestError: The body reads a global that has no identity.
    """
    return _checked(_body_digest, function) if is_user_code(function) else code_digest(function.__code__)


def is_user_code(thing: type | types.FunctionType) -> bool:
    """Return True if *thing* is neither of the standard library nor of an installed package."""
    return not is_library(module_of(thing))


def function_data(function: Callable[..., Any], plain: Plain) -> object:
    """Return plain data that identifies *function*.

    Args:
        function: The function.
        plain: Describes its closure, its defaults, the arguments of a partial and the object of a method.

    Raises:
        UncacheableRequestError: Only its address identifies it, or it uses a value that has no identity.
    """
    if type(function) is functools.partial:
        partial = cast("functools.partial[Any]", function)
        named = {name: plain(value) for name, value in partial.keywords.items()}
        return {"partial": function_data(partial.func, plain), "args": [plain(item) for item in partial.args], "named": named}
    if isinstance(function, types.FunctionType):
        closed = [*closure_of(function).values()]
        held = {"args": list(function.__defaults__ or ()), "named": function.__kwdefaults__ or {}, "closed": closed}
        data = {name: plain(value) for name, value in held.items() if value}
        return {"function": place_of(function), "code": body_identity(function), **data}
    if isinstance(function, types.MethodType):
        owner = function.__self__
        of = place_of(owner) if isinstance(owner, type) else plain(owner)
        code = code_identity(owner)
        return {"method": function_data(function.__func__, plain), "of": of, **({} if code is None else {"class": code})}
    if isinstance(function, types.BuiltinFunctionType):
        owner = function.__self__
        place = f"{function.__module__}.{function.__qualname__}"
        return {"function": place} if isinstance(owner, types.ModuleType | None) else {"function": place, "of": plain(owner)}
    msg = f"a {type(function).__qualname__} is known only by its address"
    raise UncacheableRequestError(msg)


# --- digests


def _function_digest(function: Any) -> str | None:  # noqa: ANN401 - a function, a method or a partial
    if not (isinstance(function, types.FunctionType) and is_user_code(function)):
        part = Part(f"a {type(function).__name__}")
        part.data = part.value(function, "a bound value")
        return _digest(part, cast("object", function))[0] if part.uses or isinstance(function, functools.partial) else None
    if function.__closure__:  # it may hold large objects, so no memo keeps it alive
        return _digest(part_of(function), function)[0]
    things = function, function.__defaults__, function.__kwdefaults__
    return _digests.get(*things) or _remembered(part_of(function), function, *things)


def _class_digest(cls: type) -> str:
    return _digests.get(cls) or _remembered(part_of(cls), cls, cls)


def _body_digest(function: types.FunctionType) -> str:
    things = function.__code__, function.__globals__
    return _digests.get(*things) or _remembered(body_of(function), function, *things)


def _remembered(root: Part, thing: object, *things: object) -> str:
    digest, bindings = _digest(root, thing)
    _digests.put(digest, bindings, *things)
    return digest


def _digest(root: Part, thing: object) -> tuple[str, Bindings]:
    """Return the digest of *root*, which describes *thing*, and of all parts that it uses."""
    parts, numbers, bindings, data = [root], {id(thing): 0}, Bindings(), list[object]()
    for part in parts:  # the list grows in the loop
        for used in part.uses:
            if id(used) not in numbers:
                numbers[id(used)] = len(parts)
                parts.append(part_of(used))
        if len(parts) > _MOST:
            msg = f"{root.what} uses more than {_MOST:,} functions and classes"
            raise UncacheableRequestError(msg)
        bindings.add(part.bindings)
        data.append([part.data, [numbers[id(used)] for used in part.uses]])
    return hashlib.sha256(canonical(data, root.what)).hexdigest(), bindings


def _checked(digest: Callable[[Any], D], thing: object) -> D:
    try:
        return digest(thing)
    except UncacheableRequestError:
        raise
    except Exception as error:  # objects of any kind are read here, and may fail in any way
        msg = f"the code of {getattr(thing, '__qualname__', type(thing).__qualname__)} cannot be read ({type(error).__name__})"
        raise UncacheableRequestError(msg) from error
