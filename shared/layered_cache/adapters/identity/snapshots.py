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

from layered_cache.adapters.identity.clients import client_facts
from layered_cache.keys.setting_names import is_client

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

    __slots__ = ("_absent", "_contents", "_objects", "_take", "_values", "is_exact", "size")

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
        self.size = len(present)
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


class Attributes:
    """The attributes of *thing* at one moment, public, private (of pydantic) and additional ones, and the settings of its clients.

    Args:
        thing: A model.
        is_aside: Returns True for an attribute, by name and value, that does not count. Its identity does.
        reader: As for `Snapshot`.
        immutable: As for `Snapshot`.
    """

    __slots__ = ("_clients", "_facts", "_parts", "is_exact")

    def __init__(
        self,
        thing: object,
        *,
        is_aside: Callable[[str, object], bool],
        reader: Callable[[object], Reader | None],
        immutable: tuple[type[Any], ...] = (),
    ) -> None:
        parts = _parts_of(thing)
        self._parts = [Snapshot(part, part, is_opaque=is_aside, reader=reader, immutable=immutable) for part in parts]
        clients = [value for part in parts for name, value in part.items() if is_client(name) and client_facts(value) is not None]
        self._clients = [reference_to(client) for client in clients]
        self._facts = [client_facts(client) for client in clients]
        self.is_exact = all(part.is_exact for part in self._parts)

    def are_of(self, thing: object) -> bool:
        """Return True if *thing* has the same attributes with the same content, and its clients have the same settings."""
        if not self.is_exact:
            return False
        for now, before in zip(_parts_of(thing), self._parts, strict=True):
            if not before.is_of(now) or len(now) != before.size:
                return False
        return all(map(is_, [client_facts(reference()) for reference in self._clients], self._facts))


def _parts_of(thing: object) -> list[Mapping[str, object]]:
    private: Mapping[str, object] | None = getattr(thing, "__pydantic_private__", None)
    extra: Mapping[str, object] | None = getattr(thing, "__pydantic_extra__", None)
    return [vars(thing), private or {}, extra or {}]


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
