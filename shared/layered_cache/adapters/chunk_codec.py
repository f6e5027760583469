"""The chunks of a stream in a small form: each piece holds only its difference from the chunk before.

Some hosts send the whole text so far with each chunk. All chunks together then take the square of the length of the text, and their objects
take kilobytes each. Pieces take memory in proportion to the text.

A chunk is flattened into its shape (classes, keys, lengths) and its leaves (texts, numbers, objects of unknown classes). A piece holds the
leaves that differ, and of a text that has grown, its end. Chunks come back equal, as new objects that share nothing that can be changed.
"""

from __future__ import annotations

import copy
import datetime as dt
import decimal
import enum
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator
from itertools import repeat
from typing import Any, NamedTuple, TypeAlias, cast

Shape: TypeAlias = Any
"""None for a leaf; else a tuple of the class, the names of the parts, and their shapes."""

Piece: TypeAlias = str | tuple[Any, ...]
"""What differs from the chunk before, in one of three forms:

- Of the same shape: the places of the leaves that differ, and a value for each. A place below zero is the complement of that of a text,
  and its value is the end of the text.
- With the same places as the piece before, and one text as the value for all: this text. Nearly all chunks are of this form.
- Of another shape: None, the shape, and all leaves.
"""

_ATOMS = frozenset({
    str, int, float, bool, bytes, complex, type(None), dt.datetime, dt.date, dt.time, dt.timedelta, decimal.Decimal, uuid.UUID,
})  # fmt: skip
_LONG = 64  # characters: a text of another place in the chunk before is looked for from here on

_COMPARED = frozenset({str, int, bool, bytes, uuid.UUID})
"""Atoms that are the same if they are equal. A moment is equal to the same moment in another zone."""


class _Grown(NamedTuple):
    """A text that begins with the text at *place* in the chunk before."""

    place: int
    end: str


class Packer:
    """Makes pieces of the chunks of one stream, in their order."""

    def __init__(self) -> None:
        self._shape: Shape = ()  # of nothing
        self._leaves: list[Any] = []
        self._places: tuple[int, ...] | None = None
        self._known: dict[Any, Any] = {}  # shapes and places, to be held once

    def pack(self, chunk: object) -> Piece:
        """Return the piece of the next chunk."""
        leaves: list[Any] = []
        try:
            shape = _flattened(chunk, leaves)
        except Exception:  # noqa: BLE001 - it may hold itself, or fail in any way: then it is held as it is
            shape, leaves = None, [chunk]
        before = self._leaves
        if shape == self._shape:
            places: list[int] = []
            values: list[Any] = []
            for place, (old, new) in enumerate(zip(before, leaves, strict=True)):
                if _is_same(old, new):
                    continue
                grown = type(old) is str and type(new) is str and new.startswith(old)
                places.append(~place if grown else place)
                values.append(_same(new[len(old) :] if grown else new, values))
            piece = self._piece(self._once(tuple(places)), values)
        else:
            self._shape, self._places = self._once(shape), None
            piece = (None, self._shape, tuple(_ending(leaf, before) for leaf in leaves))
        self._leaves = leaves
        return piece

    def _piece(self, places: tuple[int, ...], values: list[Any]) -> Piece:
        if places is self._places and values and type(values[0]) is str and all(value is values[0] for value in values):
            return sys.intern(values[0])  # a text has few different words
        self._places = places
        return (places, *values)

    def _once(self, value: Any) -> Any:  # noqa: ANN401 - a shape or places
        return self._known.setdefault(value, value)


class Unpacker:
    """Makes chunks of the pieces of one stream, in their order.

    Args:
        frugal: Whether the chunks share their empty lists and dictionaries: for a caller that holds all chunks and changes none of these.
    """

    def __init__(self, *, frugal: bool = False) -> None:
        self._shape: Shape = ()  # of nothing
        self._leaves: list[Any] = []
        self._places: tuple[int, ...] = ()
        self._shared: dict[Any, Any] | None = {} if frugal else None

    def unpack(self, piece: Piece) -> Any:  # noqa: ANN401 - the class of the chunk
        """Return the chunk of the next piece, in new objects."""
        leaves = self._leaves
        if isinstance(piece, str):
            self._change(self._places, repeat(piece))
        elif piece[0] is None:
            _, self._shape, found = piece
            self._leaves = [leaves[leaf.place] + leaf.end if type(leaf) is _Grown else leaf for leaf in found]
        else:
            self._places = piece[0]
            self._change(self._places, piece[1:])
        return _built(self._shape, iter(self._leaves), self._shared)

    def _change(self, places: tuple[int, ...], values: Iterable[Any]) -> None:
        leaves = self._leaves
        for place, value in zip(places, values, strict=False):  # one text may be repeated without end
            if place < 0:
                leaves[~place] += value
            else:
                leaves[place] = value


def _is_same(old: Any, new: Any) -> bool:  # noqa: ANN401 - leaves
    if new is old or type(new) is not type(old):
        return new is old
    if type(new) is float:
        return new.hex() == old.hex()  # 0.0 and -0.0 are equal
    return type(new) in _COMPARED and new == old


def _same(leaf: Any, values: list[Any]) -> Any:  # noqa: ANN401 - a leaf
    """Return *leaf*; if it is a text that is among *values*, that object: the new part of a text often comes twice."""
    return next((value for value in values if type(value) is str and value == leaf), leaf) if type(leaf) is str else leaf


def _ending(leaf: Any, before: list[Any]) -> Any:  # noqa: ANN401 - a leaf
    if type(leaf) is not str or len(leaf) < _LONG:
        return leaf
    starts = [place for place, old in enumerate(before) if type(old) is str and len(old) >= _LONG and leaf.startswith(old)]
    if not starts:
        return leaf
    place = max(starts, key=lambda start: len(before[start]))
    return _Grown(place, leaf[len(before[place]) :])


# --- shapes and leaves


def _flattened(value: Any, leaves: list[Any]) -> Shape:  # noqa: ANN401 - anything
    """Return the shape of *value*, and add its leaves to *leaves*."""
    kind = cast("type[Any]", type(value))
    if kind in _ATOMS:
        leaves.append(value)
        return None
    if kind is dict:
        return (dict, tuple(value), tuple([_flattened(item, leaves) for item in value.values()]))
    if kind is list or kind is tuple:
        return (kind, None, tuple([_flattened(item, leaves) for item in value]))
    if _is_pydantic(kind):
        parts = [_flattened(part, leaves) for part in (value.__dict__, value.__pydantic_extra__, value.__pydantic_private__)]
        return (kind, frozenset(value.__pydantic_fields_set__), tuple(parts))
    if issubclass(kind, str) and not issubclass(kind, enum.Enum) and not hasattr(value, "__dict__"):
        leaves.append(str.__str__(value))
        return (kind, None, (None,))
    leaves.append(_own(value))
    return None


def _built(shape: Shape, leaves: Iterator[Any], shared: dict[Any, Any] | None) -> Any:  # noqa: ANN401 - anything
    """Return the value with *shape* and *leaves*."""
    if shape is None:
        leaf = next(leaves)
        return leaf if type(leaf) in _ATOMS else _own(leaf)
    kind, names, parts = shape
    if not parts:
        return kind() if shared is None else shared.setdefault(kind, kind())
    values = [_built(part, leaves, shared) for part in parts]
    if kind is dict:
        return dict(zip(names, values, strict=True))
    if kind is list:
        return values
    if kind is tuple:
        return tuple(values)
    if issubclass(kind, str):
        return str.__new__(kind, values[0])
    built = kind.__new__(kind)
    for name, value in zip(("__dict__", "__pydantic_extra__", "__pydantic_private__"), values, strict=True):
        object.__setattr__(built, name, value)
    object.__setattr__(built, "__pydantic_fields_set__", set(names) if shared is None else shared.setdefault(names, set(names)))
    return built


def _is_pydantic(kind: type[Any]) -> bool:
    return hasattr(kind, "__pydantic_fields_set__") and hasattr(kind, "__pydantic_validator__")


def _own(value: Any) -> Any:  # noqa: ANN401 - anything
    """Return a copy of *value*; itself, if it cannot be copied: a connection, for example."""
    if isinstance(value, enum.Enum | type):
        return value
    try:
        return cast("Callable[[Any], Any]", copy.deepcopy)(value)
    except Exception:  # noqa: BLE001 - objects of any class may fail in any way
        return value
