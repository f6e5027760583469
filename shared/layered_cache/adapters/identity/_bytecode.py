"""Facts about compiled functions: their digest, and the globals and modules that they read."""

from __future__ import annotations

import dis
import functools
import hashlib
import importlib.util
import types
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

_REMEMBERED = 4_096
_GLOBAL = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})
_ATTRIBUTE = frozenset({"LOAD_ATTR", "LOAD_METHOD"})


@functools.lru_cache(maxsize=_REMEMBERED)
def code_digest(code: types.CodeType) -> str:
    """Return the digest of the bytecode, the names and the constants of *code*. Each Python version has its own."""
    digest = hashlib.sha256(code.co_code)
    digest.update(repr((code.co_names, code.co_varnames, code.co_freevars, code.co_flags)).encode())
    for constant in code.co_consts:
        digest.update(_constant(constant).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _constant(value: object) -> str:
    if isinstance(value, types.CodeType):
        return code_digest(value)
    if isinstance(value, frozenset):  # its order differs between processes
        return f"frozenset{sorted(map(repr, cast('frozenset[object]', value)))}"
    return f"{type(value).__name__} {value!r}"


def signatures(code: types.CodeType) -> list[object]:
    """Return the argument counts and exception tables of *code* and its nested code: `code_digest` does not cover them."""
    own = [code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_exceptiontable]
    return [own, *map(signatures, _nested(code))]


@functools.lru_cache(maxsize=_REMEMBERED)
def globals_in(code: types.CodeType) -> tuple[tuple[str, ...], ...]:
    """Return the globals that *code* reads, in order, each with the attributes that are read of it: `("prompts", "GREETING")`."""
    found: dict[tuple[str, ...], None] = {}
    path: tuple[str, ...] = ()
    for instruction in dis.get_instructions(code):
        if path and instruction.opname in _ATTRIBUTE:
            path = (*path, str(instruction.argval))
        else:
            found[path] = None
            path = (str(instruction.argval),) if instruction.opname in _GLOBAL else ()
    for nested in _nested(code):
        found.update(dict.fromkeys(globals_in(nested)))
    return tuple(path for path in found if path)


class Import(NamedTuple):
    """An import inside a function."""

    module: str
    level: int
    names: tuple[str, ...]

    def resolved(self, scope: Mapping[str, object]) -> str:
        """Return the absolute name of the module, for a function with the globals *scope*."""
        return importlib.util.resolve_name("." * self.level + self.module, cast("str | None", scope.get("__package__")))


@functools.lru_cache(maxsize=_REMEMBERED)
def imports_in(code: types.CodeType) -> tuple[Import, ...]:
    """Return the imports inside *code*."""
    found: list[Import] = []
    constants: list[Any] = []
    for instruction in dis.get_instructions(code):
        if instruction.opname == "IMPORT_NAME":  # the level and the names were loaded just before it
            level, names = constants[-2:]
            found.append(Import(str(instruction.argval), level, tuple(names or ())))
        elif instruction.opname.startswith("LOAD_"):
            constants.append(instruction.argval)
    return (*found, *(one for nested in _nested(code) for one in imports_in(nested)))


def _nested(code: types.CodeType) -> list[types.CodeType]:
    return [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
