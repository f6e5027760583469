"""Descriptions of user functions and classes as plain data: the parts that `code_identity` hashes.

A part describes one function or class. It refers to the user functions and classes that it uses, and these have parts of their own, so
cycles do no harm. It also lists the bindings that were read, so that a later check needs only comparisons by `is`.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import functools
import inspect
import re
import sys
import types
import typing
import uuid
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePath
from typing import Any, Generic, TypeVar, cast

from layered_cache.adapters.identity._bytecode import Import, code_digest, globals_in, imports_in, signatures
from layered_cache.adapters.identity._libraries import is_library
from layered_cache.errors import UncacheableRequestError
from layered_cache.keys.keys import canonical

V = TypeVar("V")

_DEEPEST = 20  # levels of containers in one value
_REMEMBERED = 4_096  # classes and bodies of functions
_MISSING = object()

_SCALARS = (
    type(None), bool, int, float, str, bytes, dt.datetime, dt.date, dt.time, dt.timedelta, decimal.Decimal, uuid.UUID,
)  # fmt: skip
_BY_REPR = (complex, range, slice, type(...), type(NotImplemented))
_SEQUENCES = (list, tuple, deque)
_MAPPINGS = (dict, OrderedDict, defaultdict, types.MappingProxyType)
_TYPING = frozenset({"types", "typing", "typing_extensions"})
# modules with objects that log, lock or schedule: these decide no result
_MACHINERY = frozenset({
    "logging", "threading", "_thread", "contextvars", "_contextvars", "asyncio", "_asyncio", "concurrent", "weakref", "dataclasses",
})  # fmt: skip
_DESCRIPTORS = (
    types.MethodDescriptorType, types.WrapperDescriptorType, types.ClassMethodDescriptorType, types.GetSetDescriptorType,
    types.MemberDescriptorType,
)  # fmt: skip
_CODE = (types.FunctionType, staticmethod, classmethod, property, functools.cached_property, functools.partialmethod)
_NOT_MEMBERS = frozenset({"_abc_impl", "__annotate__", "__annotate_func__", "model_fields", "model_computed_fields"})
_OF_FIELDS = ("default", "default_factory", "description", "title", "alias", "examples", "json_schema_extra", "metadata")
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def place_of(thing: Any) -> str:  # noqa: ANN401 - a function or a class
    """Return the module and the name of *thing*."""
    return f"{thing.__module__}.{thing.__qualname__}"


def module_of(thing: type | types.FunctionType) -> str:
    """Return the module with the code of *thing*. A decorator copies the module name of the function that it wraps, but not the globals."""
    module = thing.__module__ if isinstance(thing, type) else thing.__globals__.get("__name__")
    return module if isinstance(module, str) else "__main__"


def closure_of(function: types.FunctionType) -> dict[str, object]:
    """Return the variables that *function* closes over, by name; not the class that `super()` needs."""
    found = ((name, _content(cell)) for name, cell in _cells(function) if name != "__class__")
    return {name: value for name, value in found if value is not _MISSING}


def _cells(function: types.FunctionType) -> Iterable[tuple[str, types.CellType]]:
    return zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)


def _content(cell: types.CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return _MISSING


# --- bindings


class Bindings:
    """The bindings that a description depends on."""

    def __init__(self) -> None:
        self._reads: list[tuple[Callable[[str, object], object], str, object]] = []  # how to read it, its name, its value
        self._cells: list[tuple[types.CellType, object]] = []
        self._sizes: list[tuple[Mapping[str, object], int]] = []

    def add(self, more: Bindings) -> None:
        """Add the bindings of *more*."""
        self._reads += more._reads
        self._cells += more._cells
        self._sizes += more._sizes

    def read(self, place: Mapping[str, Any], name: str) -> Any:  # noqa: ANN401 - anything
        """Return the value of *name* in *place*, or `_MISSING`."""
        value = place.get(name, _MISSING)
        self._reads.append((place.get, name, value))
        return value

    def read_closure(self, function: types.FunctionType) -> dict[str, object]:
        """Return the variables that *function* closes over."""
        self._cells += [(cell, _content(cell)) for name, cell in _cells(function) if name != "__class__"]
        return closure_of(function)

    def measure(self, members: Mapping[str, object]) -> None:
        """Note the size of *members*, the dictionary of a class: a new member can hide an inherited one."""
        self._sizes.append((members, len(members)))

    def are_current(self) -> bool:
        """Return True if none of them has changed."""
        for get, name, value in self._reads:
            if get(name, _MISSING) is not value:
                return False
        for members, size in self._sizes:
            if len(members) != size:
                return False
        try:
            for cell, value in self._cells:
                if cell.cell_contents is not value:
                    return False
        except ValueError:  # a variable without a value
            return False
        return True


class Memo(Generic[V]):
    """Remembers values for objects, and keeps these alive. A value counts as long as its bindings are current."""

    def __init__(self) -> None:
        self._values: dict[tuple[int, ...], tuple[tuple[object, ...], Bindings, V]] = {}

    def get(self, *things: object) -> V | None:
        """Return the value for *things*, or None."""
        known = self._values.get(tuple(map(id, things)))
        return known[2] if known is not None and known[1].are_current() else None

    def put(self, value: V, bindings: Bindings, *things: object) -> None:
        """Remember *value* for *things*."""
        if len(self._values) >= _REMEMBERED:
            self._values.clear()
        self._values[tuple(map(id, things))] = things, bindings, value


# --- parts


# classes, and bodies of functions; a closure may hold large objects, so no function is kept alive
_parts: Memo[Part] = Memo()


def part_of(thing: Any) -> Part:  # noqa: ANN401 - a function or a class
    """Return the description of *thing*, a function or a class of user code.

    Raises:
        UncacheableRequestError: It uses a value that cannot be described.
    """
    if not isinstance(thing, type):
        part = Part(place_of(thing))
        part.describe_function(thing)
        return part
    if (part := _parts.get(thing)) is None:
        part = Part(place_of(thing))
        part.describe_class(thing)
        _parts.put(part, part.bindings, thing)
    return part


def body_of(function: types.FunctionType) -> Part:
    """Return the description of *function* without its closure and defaults.

    Raises:
        UncacheableRequestError: It reads a global that cannot be described.
    """
    code, scope = function.__code__, function.__globals__
    if (part := _parts.get(code, scope)) is None:
        part = Part(place_of(function))
        part.describe_body(code, scope)
        _parts.put(part, part.bindings, code, scope)
    return part


class Part:
    """The description of one function or class.

    Args:
        what: Its name in messages.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self.data: object = None
        self.uses: list[Any] = []
        self.bindings = Bindings()

    # --- values

    def value(self, value: object, name: str, depth: int = 0) -> object:
        """Return plain data for *value*, which *name* is bound to.

        Raises:
            UncacheableRequestError: There is none.
        """
        if isinstance(value, enum.Enum):
            return ["member", self.value(type(value), name), value.name, self.value(value.value, name, depth + 1)]
        if type(value) in _SCALARS:
            return value
        if type(value) in _BY_REPR:
            return ["repr", repr(value)]
        if depth > _DEEPEST:
            msg = f"{self.what} uses {name!r}, which is nested too deeply"
            raise UncacheableRequestError(msg)
        for describe in (self._code, self._container, self._instance):
            if (found := describe(value, name, depth + 1)) is not None:
                return found
        msg = f"{self.what} uses {name!r}, an object of {place_of(type(value))}, which has no lasting text"
        raise UncacheableRequestError(msg)

    def _leniently(self, value: object, name: str) -> object:
        """Return plain data for *value*, which belongs to a library; only its class, if it has none."""
        try:
            return self.value(value, name)
        except UncacheableRequestError:
            return ["object", place_of(type(value))]

    def _code(self, value: Any, name: str, depth: int) -> object:  # noqa: ANN401, PLR0911 - one return per kind reads best
        if isinstance(value, type):
            return ["class", place_of(value)] if is_library(module_of(value)) else self._use(value)
        if isinstance(value, types.FunctionType):
            return self._library_function(value) if is_library(module_of(value)) else self._use(value)
        if isinstance(value, types.MethodType):
            return ["method", self.value(value.__func__, name, depth), self.value(value.__self__, name, depth)]
        if isinstance(value, functools.partial | functools.partialmethod):
            bound = cast("functools.partial[Any]", value)
            return ["partial", *(self.value(item, name, depth) for item in (bound.func, list(bound.args), bound.keywords))]
        if isinstance(value, types.BuiltinFunctionType):
            owner = value.__self__
            return ["builtin", place_of(value), None if isinstance(owner, types.ModuleType) else self.value(owner, name, depth)]
        if isinstance(value, _DESCRIPTORS):
            return ["builtin", value.__qualname__]
        if isinstance(value, staticmethod | classmethod):
            return [type(cast("object", value)).__name__, self.value(cast("Any", value).__func__, name, depth)]
        if isinstance(value, property):
            return ["property", *(self.value(function, name, depth) for function in (value.fget, value.fset, value.fdel))]
        if isinstance(value, functools.cached_property):
            return ["property", self.value(cast("Any", value).func, name, depth)]
        if isinstance(value, types.ModuleType):
            return ["module", value.__name__]
        if (wrapped := getattr(value, "__wrapped__", None)) is not None:
            return ["wraps", place_of(type(value)), self.value(wrapped, name, depth)]
        return None

    def _use(self, thing: object) -> object:
        for number, known in enumerate(self.uses):
            if known is thing:
                return ["use", number]
        self.uses.append(thing)
        return ["use", len(self.uses) - 1]

    def _library_function(self, function: types.FunctionType) -> object:
        """Return the place of *function* and the values in its closure: a decorator holds the decorated function there."""
        place = f"{module_of(function)}.{function.__code__.co_qualname}"
        return ["function", place, [[name, self._leniently(value, name)] for name, value in self.bindings.read_closure(function).items()]]

    def _container(self, value: Any, name: str, depth: int) -> object:  # noqa: ANN401 - anything
        kind = cast("type[Any]", type(value))
        if kind in _SEQUENCES:
            return [kind.__name__, *(self.value(item, name, depth) for item in value)]
        if kind in _MAPPINGS:
            return [kind.__name__, *([self.value(key, name, depth), self.value(item, name, depth)] for key, item in value.items())]
        if kind in (set, frozenset):
            return [kind.__name__, *sorted((self.value(item, name, depth) for item in value), key=canonical)]
        return None

    def _instance(self, value: Any, name: str, depth: int) -> object:  # noqa: ANN401 - anything
        kind = cast("type[Any]", type(value))
        if isinstance(value, re.Pattern):
            pattern = cast("re.Pattern[Any]", value)
            return ["pattern", pattern.pattern, pattern.flags]
        if isinstance(value, PurePath):
            return ["path", str(value)]
        if kind is object or kind.__module__.partition(".")[0] in _MACHINERY:
            return ["object", place_of(kind)]
        if kind.__module__ in _TYPING:
            return self._annotation(value)
        if (fields := _fields_of(value)) is None:
            return None
        return ["object", self.value(kind, name, depth), *([field, self.value(item, name, depth)] for field, item in fields.items())]

    def _annotation(self, value: object) -> object:
        if isinstance(value, type) and not isinstance(value, types.GenericAlias):
            return self.value(value, "an annotation")
        if arguments := typing.get_args(value):
            extra = [self._leniently(item, "an annotation") for item in getattr(value, "__metadata__", ())]
            return ["of", _text(typing.get_origin(value)), [self._argument(item) for item in arguments], extra]
        return _text(value)

    def _argument(self, value: object) -> object:
        if isinstance(value, list):  # the parameters of a Callable
            return [self._argument(item) for item in cast("list[object]", value)]
        return self._annotation(value) if isinstance(value, type) or typing.get_args(value) else self._leniently(value, "an annotation")

    # --- functions

    def describe_function(self, function: types.FunctionType) -> None:
        """Describe *function* with its closure and defaults."""
        body = body_of(function)
        self.uses += body.uses
        self.bindings.add(body.bindings)
        defaults = [self.value(function.__defaults__, "a default"), self.value(function.__kwdefaults__, "a default")]
        closure = [[name, self.value(value, name)] for name, value in self.bindings.read_closure(function).items()]
        self.data = [self.what, body.data, defaults, closure]

    def describe_body(self, code: types.CodeType, scope: Mapping[str, object]) -> None:
        """Describe *code*, which reads its globals from *scope*."""
        names = [[*path, self._global(path, scope)] for path in globals_in(code)]
        imports = [[*imported, self._imported(imported, code, scope)] for imported in imports_in(code)]
        self.data = [code_digest(code), signatures(code), names, imports]

    def _global(self, path: tuple[str, ...], scope: Mapping[str, object]) -> object:
        name, *attributes = path
        value = self.bindings.read(scope, name)
        while isinstance(value, types.ModuleType) and attributes and not is_library(value.__name__):
            name = attributes.pop(0)
            value = self.bindings.read(vars(value), name)
        return None if value is _MISSING else self.value(value, name)  # a missing one is a builtin, or not assigned yet

    def _imported(self, imported: Import, code: types.CodeType, scope: Mapping[str, object]) -> object:
        """Return plain data for the names that a function imports when it runs."""
        module = imported.resolved(scope)
        if is_library(module):
            return None
        found = self.bindings.read(sys.modules, module)
        if not isinstance(found, types.ModuleType):
            msg = f"{self.what} imports {module}, which is not loaded yet: import it at the top"
            raise UncacheableRequestError(msg)
        members = vars(found)
        names = imported.names or [name for name in code.co_names if name in members]
        return [[name, self._global((name,), members)] for name in names]

    # --- classes

    def describe_class(self, cls: type[Any]) -> None:
        """Describe *cls*: its bases, members, annotations and fields."""
        members = cast("Mapping[str, Any]", vars(cls))
        self.bindings.measure(members)
        values = {name: self.bindings.read(members, name) for name in sorted(members) if _is_member(name, members[name])}
        if issubclass(cls, enum.Enum):  # its dictionary holds tables of its members too
            values = {name: members[name] for name in values if isinstance(members[name], _CODE)}
            values["members"] = {name: member.value for name, member in cls.__members__.items()}
        bases = [self.value(base, "a base class") for base in (*cls.__bases__, type(cls))]
        self.data = [
            self.what,
            cls.__doc__,
            bases,
            [[name, self._member(value, name)] for name, value in values.items()],
            self._fields(cls),
        ]

    def _member(self, value: Any, name: str) -> object:  # noqa: ANN401 - anything
        if isinstance(value, _CODE) or not hasattr(cast("object", type(value)), "__get__"):
            return self.value(cast("object", value), name)
        return self._leniently(value, name)  # a descriptor of a library

    def _fields(self, cls: type[Any]) -> list[object]:
        try:
            annotations = inspect.get_annotations(cls)
        except Exception:  # noqa: BLE001 - Python 3.14 evaluates annotations here, which may fail in any way
            annotations = {}
        declared = cast("Mapping[str, Any]", vars(cls).get("__pydantic_fields__") or vars(cls).get("model_fields") or {})
        found: list[object] = []
        for name, annotation in annotations.items():
            field = declared.get(name)
            parts = {} if field is None else {part: getattr(field, part, None) for part in _OF_FIELDS}
            kept = [[part, self._leniently(value, name)] for part, value in parts.items() if value is not None]
            found.append([name, self._annotation(annotation if field is None else field.annotation), kept])
        return found


def _is_member(name: str, value: object) -> bool:
    """Return True if the class definition contains *value*. Python and pydantic add more."""
    if name in _NOT_MEMBERS or isinstance(value, types.MemberDescriptorType | types.GetSetDescriptorType):
        return False
    return isinstance(value, _CODE) or not (name.startswith("__") and name.endswith("__"))


def _fields_of(value: Any) -> Mapping[str, Any] | None:  # noqa: ANN401 - anything
    """Return the fields of *value*: of a pydantic object, a dataclass or a named tuple."""
    kind = cast("type[Any]", type(value))
    if hasattr(kind, "__pydantic_validator__") and hasattr(kind, "model_fields"):
        return {**value.__dict__, **(value.__pydantic_extra__ or {}), **(value.__pydantic_private__ or {})}
    if callable(secret := getattr(value, "get_secret_value", None)):
        return {"secret": secret()}
    if dataclasses.is_dataclass(kind):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(kind)}
    return cast("Mapping[str, Any]", value._asdict()) if isinstance(value, tuple) and hasattr(kind, "_asdict") else None  # pyright: ignore[reportUnknownMemberType, reportAttributeAccessIssue] - a named tuple has it


def _text(value: object) -> str:
    return _ADDRESS.sub("", value if isinstance(value, str) else repr(value))
