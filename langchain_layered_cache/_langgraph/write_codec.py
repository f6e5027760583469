"""Codec of the writes of LangGraph nodes: plain data, and objects of classes that this program has imported.

LangGraph's own serializer calls any importable object that the bytes name, and changes some values: a tuple becomes a list, and a message
inside a model loses its class. The laws of this codec:

- Values are refused at the write if the decoded values would not be equal and of the same classes at all depths. (The text of a message is
  decoded as a str, and the dictionary of a graph as a dict, in all releases.)
- Decoding imports nothing and calls no function. It creates messages, pydantic models, dataclasses, named tuples, members of enums and
  `Send`s of imported modules.
- An object is validated when it is created, except messages: LangChain puts values into them that their classes refuse. If its class has
  changed so that a field would differ, it is refused.

Keys are also made of the result of `take_apart` (see `cache_key`): equal data for equal values, different data for different ones. Each
list in it begins with a word for its kind.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import ipaddress
import sys
import uuid
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias, cast
from zoneinfo import ZoneInfo

from langchain_core.messages import BaseMessage
from langchain_core.runnables.utils import AddableDict
from langgraph.types import Send
from layered_cache import EncodeError
from layered_cache.adapters.msgpack_codec import dumps, loads, same
from pydantic import BaseModel

CODEC = "writes-1"

Fields: TypeAlias = tuple[dict[str, Any], list[str] | None]
"""What an object consists of, and, of a pydantic one, which of it was given."""

# the types of `layered_cache.adapters.msgpack_codec`; sets only with plain values
_PLAIN = frozenset({
    type(None), bool, int, float, complex, str, bytes, bytearray, set, frozenset, decimal.Decimal, uuid.UUID,
    dt.datetime, dt.date, dt.time, dt.timedelta,
})  # fmt: skip
_SEQUENCES: dict[str, Callable[[Any], object]] = {"list": list, "tuple": tuple, "deque": deque}
_TEXTS: dict[str, type[Any]] = {
    "Path": type(Path()),
    **{
        kind.__name__: kind
        for kind in (
            ZoneInfo, ipaddress.IPv4Address, ipaddress.IPv4Interface, ipaddress.IPv4Network,
            ipaddress.IPv6Address, ipaddress.IPv6Interface, ipaddress.IPv6Network,
        )
    },
}  # fmt: skip
_NAMES_OF_TEXTS = {kind: name for name, kind in _TEXTS.items()}


class RebuildError(ValueError):
    """A stored object cannot be created in this program. The message has the name of its class and no value."""


class WritesSerializer:
    """A `SerializerProtocol` of LangGraph's, exact and without a reviver."""

    def dumps_typed(self, obj: object) -> tuple[str, bytes]:
        """Return *obj* as bytes, and the name of their form.

        Raises:
            EncodeError: If the decoded value would not equal *obj*. The message names the class and no value.
        """
        try:
            apart = take_apart(obj)
            data = dumps(apart)
            if same(take_apart(put_together(loads(data))), apart):
                return CODEC, data
            msg = "a value does not come back equal, so it is not kept"
        except (EncodeError, RebuildError) as error:
            msg = str(error)
        except RecursionError:
            msg = "a value is nested too deeply to be kept"
        raise EncodeError(msg)

    def loads_typed(self, data: tuple[str, bytes]) -> Any:  # noqa: ANN401 - LangGraph's signature
        """Return the value in *data*, in new objects.

        Raises:
            RebuildError: If a class has changed since, or is not imported.
            ValueError: If `dumps_typed` did not write *data*.
        """
        form, value = data
        if form != CODEC:
            msg = f"its form {form!r} is not {CODEC!r}"
            raise RebuildError(msg)
        return put_together(loads(value))


# --- apart


def fields_of(thing: object) -> Fields:
    """Return the parts of *thing*.

    Raises:
        EncodeError: If it is no message, pydantic model, dataclass, named tuple or `Send`.
    """
    if isinstance(thing, BaseModel):
        values = {name: thing.__dict__[name] for name in type(thing).model_fields if name in thing.__dict__}
        values.update(thing.__pydantic_extra__ or {})
        values.update(thing.__pydantic_private__ or {})
        return values, sorted(thing.__pydantic_fields_set__)
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        return {field.name: getattr(thing, field.name) for field in dataclasses.fields(thing)}, None
    kind = type(thing)
    if hasattr(kind, "_asdict") and issubclass(kind, tuple):
        return cast("Any", thing)._asdict(), None
    if kind is Send:
        names = ("node", "arg", "timeout")  # the last one not in all releases
        return {name: value for name in names if (value := getattr(thing, name, None)) is not None or name == "arg"}, None
    msg = f"an object of {kind.__module__}.{kind.__qualname__} would not come back equal, so it is not kept"
    raise EncodeError(msg)


def take_apart(value: object, fields: Callable[[object], Fields] = fields_of) -> object:
    """Return *value* as plain data.

    Args:
        value: Anything.
        fields: Returns the parts of an object.

    Raises:
        EncodeError: If a part of it has no plain data.
    """
    kind = type(value)
    if kind is dt.datetime and isinstance(zone := cast("dt.datetime", value).tzinfo, ZoneInfo):
        return ["zoned", cast("dt.datetime", value).replace(tzinfo=None), take_apart(zone)]
    if kind in _PLAIN:
        return value
    if kind.__name__ in _SEQUENCES and kind in (list, tuple, deque):
        return [kind.__name__, *[take_apart(item, fields) for item in cast("list[object]", value)]]
    if kind is dict or isinstance(value, AddableDict):  # the results of graphs
        return {key: take_apart(item, fields) for key, item in cast("dict[Any, object]", value).items()}
    if isinstance(value, enum.Enum):
        return ["member", kind.__module__, kind.__qualname__, value.name]
    if isinstance(value, str):  # the text of a message, in some releases
        return str.__str__(value)
    if (name := _NAMES_OF_TEXTS.get(kind)) is not None:
        return ["text", name, str(value)]
    values, given = fields(value)
    return ["object", kind.__module__, kind.__qualname__, {name: take_apart(item, fields) for name, item in values.items()}, given]


# --- together


def put_together(apart: Any) -> Any:  # noqa: ANN401 - anything
    """Return the value of the result of `take_apart`, in new objects.

    Raises:
        RebuildError: If a class has changed or is not imported.
    """
    if type(apart) is dict:
        return {key: put_together(item) for key, item in cast("dict[Any, object]", apart).items()}
    if type(apart) is not list:
        return apart
    word, *rest = cast("list[Any]", apart) or [""]
    try:
        return _SEQUENCES[word](map(put_together, rest)) if word in _SEQUENCES else _BUILDERS[word](*rest)
    except RebuildError:
        raise
    except Exception as error:  # noqa: BLE001 - a validator may raise any error, with the value in its text
        msg = f"a stored {word} cannot be built again: {type(error).__name__}"
        raise RebuildError(msg) from None


def _zoned(moment: dt.datetime, zone: object) -> dt.datetime:
    return moment.replace(tzinfo=put_together(zone))


def _member(module: str, name: str, member: str) -> object:
    return cast("type[enum.Enum]", _loaded(module, name))[member]


def _text(name: str, text: str) -> object:
    return _TEXTS[name](text)


def _object(module: str, name: str, apart: dict[str, Any], given: list[str] | None) -> object:
    cls = _loaded(module, name)
    values = put_together(apart)
    thing = _built(cls, values, given)
    found = cast("list[Any]", take_apart(thing))[3]
    if not all(field in found and same(found[field], part) for field, part in apart.items()):
        msg = f"{module}.{name} is not what it was"
        raise RebuildError(msg)
    return thing


def _built(cls: type[Any], values: dict[str, Any], given: list[str] | None) -> object:
    if issubclass(cls, BaseMessage):
        return cls.model_construct(set(given or ()), **values)
    if issubclass(cls, BaseModel):
        private = cls.__private_attributes__
        thing = cls.model_validate({_alias(cls, name): value for name, value in values.items() if name not in private})
        object.__setattr__(thing, "__pydantic_fields_set__", set(given or ()))
        return thing
    if dataclasses.is_dataclass(cls):
        made_by_itself = {field.name for field in dataclasses.fields(cls) if not field.init}
        return cls(**{name: value for name, value in values.items() if name not in made_by_itself})
    return cls(**values)


def _alias(cls: type[BaseModel], name: str) -> str:
    alias = cls.model_fields[name].validation_alias if name in cls.model_fields else None
    return alias if isinstance(alias, str) else name


def _loaded(module: str, name: str) -> type[Any]:
    """Return the class of this name, if its module is loaded and it is of a kind whose objects hold data."""
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if isinstance(found, type) and _holds_data(found):
        return found
    msg = f"{module}.{name} is not loaded, or is no class that holds data"
    raise RebuildError(msg)


def _holds_data(cls: type[Any]) -> bool:
    if dataclasses.is_dataclass(cls) or cls is Send:
        return True
    return issubclass(cls, BaseModel | enum.Enum) or (hasattr(cls, "_asdict") and issubclass(cls, tuple))


_BUILDERS: dict[str, Callable[..., object]] = {"zoned": _zoned, "member": _member, "text": _text, "object": _object}
