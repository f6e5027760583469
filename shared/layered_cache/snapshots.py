"""Snapshots of attributes: find out cheaply whether an object has the same attributes with the same content as before.

Settings of models are read at each call. Reading them takes tens of microseconds, and comparing them with a snapshot a few. The comparison
is by identity, and by the bytes of `marshal` for collections: 1, 1.0 and True differ.
"""

from __future__ import annotations

import marshal
import weakref
from collections.abc import Callable, Iterable, Mapping
from operator import is_, itemgetter
from typing import Any, TypeAlias, TypeVar, cast

T = TypeVar("T")

Reader: TypeAlias = Callable[[Any], object]
"""A function whose result changes if the content of a value does."""

_WITHOUT_REFERENCES = 2  # version 2 of `marshal`: its bytes do not depend on reference counts
_IMMUTABLE: tuple[type[Any], ...] = (str, int, float, bool, bytes, complex, type(None))
_COLLECTIONS: tuple[type[Any], ...] = (list, dict, set, tuple, frozenset)


class Snapshot:
    """The attributes *names* of *values* at one moment.

    A snapshot refers weakly to objects, since a strong reference to a client would keep its sockets open. It refers strongly to plain
    values and collections.

    Args:
        values: The attributes of an object, by their names.
        names: The attributes that count.
        is_opaque: Returns True for an attribute, by name and value, of which only the identity counts.
        reader: Returns the `Reader` of a value; None if its changes cannot be seen.
        immutable: More classes whose objects cannot change.
    """

    __slots__ = ("_absent", "_contents", "_objects", "_take", "_values", "is_exact")

    def __init__(
        self,
        values: Mapping[str, object],
        names: Iterable[str],
        *,
        is_opaque: Callable[[str, object], bool],
        reader: Callable[[object], Reader | None],
        immutable: tuple[type[Any], ...] = (),
    ) -> None:
        fixed = (*_IMMUTABLE, *immutable)
        wanted = [*names]
        present = [(name, values[name]) for name in wanted if name in values]
        held = {name: value for name, value in present if isinstance(value, (*fixed, *_COLLECTIONS))}
        readers = [(name, value, reader(value)) for name, value in present if not (isinstance(value, fixed) or is_opaque(name, value))]
        self._absent = frozenset(wanted).difference(values)
        self._take = taker(tuple(held))
        self._values = tuple(held.values())
        self._objects = [(name, reference_to(value)) for name, value in present if name not in held]
        self._contents = [(name, read, read(value)) for name, value, read in readers if read is not None]
        self.is_exact = all(read is not None for _, _, read in readers)
        """False: the content of an attribute cannot be compared, so the snapshot is never current."""

    def is_of(self, values: Mapping[str, object]) -> bool:
        """Return True if *values* has the same attributes with the same content."""
        if not self.is_exact:
            return False
        try:
            if not all(map(is_, self._take(values), self._values)):
                return False
            # loops and not generators: this is on the way to every hit
            for name, reference in self._objects:
                if reference() is not values[name]:
                    return False
            for name, read, content in self._contents:
                if read(values[name]) != content:
                    return False
        except KeyError:
            return False
        return not self._absent or self._absent.isdisjoint(values)


def plain_reader(value: object) -> Reader | None:
    """Return the `Reader` of plain data; None for other values."""
    try:
        _marshalled(value)
    except ValueError:
        return None
    return content


def content(value: object) -> object:
    """Return the content of plain data; of a collection that got an object, its text."""
    try:
        return _marshalled(value)
    except ValueError:
        return repr(value)


def unchanging(_value: object) -> None:
    """Return None: the `Reader` of an object that does not change."""


def reference_to(value: T) -> Callable[[], T | None]:
    """Return a weak reference to *value*; a strong one if its class allows no weak one."""
    try:
        return weakref.ref(value)
    except TypeError:  # a collection, for example
        return lambda: value


def taker(names: tuple[str, ...]) -> Callable[[Mapping[str, object]], tuple[object, ...]]:
    """Return a function that returns the values of *names* in a mapping. `itemgetter` returns no tuple for a single name."""
    if len(names) > 1:
        return cast("Callable[[Mapping[str, object]], tuple[object, ...]]", itemgetter(*names))
    return lambda values: tuple(values[name] for name in names)


def _marshalled(value: object) -> bytes:
    return marshal.dumps(cast("Any", value), _WITHOUT_REFERENCES)
