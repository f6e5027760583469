"""msgpack for plain data that is equal and of the same types when it is read back.

JSON and most binary formats silently change tuples, sets, dates, integers beyond 64 bits, lone
surrogates and keys that are not texts. These values and paths are stored as msgpack extension
types. Objects of unknown classes raise `EncodeError`.
"""

from __future__ import annotations

import datetime as dt
import decimal
import pathlib
import uuid
from collections.abc import Callable
from typing import Any, cast

import msgspec

from layered_cache.errors import EncodeError

_PLAIN = frozenset({str, int, float, bool, type(None), bytes})
# decoders fail near 1,000
_MOST_NESTED = 200

_encoder = msgspec.msgpack.Encoder()


def dumps(value: object) -> bytes:
    """Return *value* as bytes.

    Raises:
        EncodeError: If it would not be equal when read back.
    """
    try:
        if is_plain(value):
            return _encoder.encode(value)
    except (OverflowError, UnicodeEncodeError, RecursionError):
        # msgpack has no type for long integers and lone surrogates
        pass
    data = _encoder.encode(_tagged(value, 0))
    if not same(loads(data), value):
        msg = "a value would not be equal when read back, so it is not stored"
        raise EncodeError(msg)
    return data


def loads(data: bytes) -> Any:  # noqa: ANN401 - plain data
    """Return the value that `dumps` wrote, in new objects.

    Raises:
        ValueError: If `dumps` did not write *data*.
    """
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError, TypeError, ArithmeticError) as error:
        msg = "these bytes are not a value"
        raise ValueError(msg) from error


def is_plain(value: object) -> bool:
    """Return True if msgpack itself preserves *value*, including the types."""
    kind = type(value)
    if kind is dict:
        items = cast("dict[object, object]", value)
        for key in items:
            if type(key) is not str:
                return False
        contents = items.values()
    elif kind is list:
        contents = cast("list[object]", value)
    else:
        return kind in _PLAIN
    # a loop is a third faster than all()
    for item in contents:  # noqa: SIM110
        if type(item) not in _PLAIN and not is_plain(item):
            return False
    return True


def same(one: object, other: object) -> bool:
    """Return True if two values are equal and of the same types at all levels. NaN equals NaN."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        mine, theirs = cast("dict[object, object]", one), cast("dict[object, object]", other)
        return len(mine) == len(theirs) and all(
            same(key, their_key) and same(item, their_item)
            for (key, item), (their_key, their_item) in zip(mine.items(), theirs.items(), strict=True)
        )
    if isinstance(one, list | tuple):
        mine_, theirs_ = cast("list[object]", one), cast("list[object]", other)
        return len(mine_) == len(theirs_) and all(map(same, mine_, theirs_))
    if isinstance(one, decimal.Decimal):
        # some decimals are not equal to themselves, and some raise an error when compared
        return str(one) == str(other)
    return one == other or (one != one and other != other)  # noqa: PLR0124 - NaN


# --- extension types


# one return per type is the most readable form
def _tagged(value: object, depth: int) -> object:  # noqa: PLR0911
    """Return *value* with extension types for the parts that msgpack would change."""
    if depth > _MOST_NESTED:
        msg = "a value is nested too deeply to be stored"
        raise EncodeError(msg)
    kind = type(value)
    if kind is str:
        text = cast("str", value)
        try:
            text.encode()
        except UnicodeEncodeError:
            return _ext(1, text.encode("utf-8", "surrogatepass"))
        return text
    if kind is int:
        number = cast("int", value)
        return number if -(2**63) <= number < 2**64 else _ext(2, hex(number).encode())
    if kind in _PLAIN:
        return value
    if kind is list:
        return [_tagged(item, depth + 1) for item in cast("list[object]", value)]
    if kind is dict:
        items = cast("dict[object, object]", value)
        if all(type(key) is str and key.isprintable() for key in items):
            return {key: _tagged(item, depth + 1) for key, item in items.items()}
        return _packed(3, [[key, item] for key, item in items.items()], depth)
    if (code := _CODES.get(kind)) is None:
        msg = f"an object of {kind.__module__}.{kind.__qualname__} would not be equal when read back, so its answer is not stored"
        raise EncodeError(msg)
    if code in _COLLECTIONS:
        return _packed(code, list(cast("tuple[object, ...]", value)), depth)
    return _ext(code, _texts(value).encode("utf-8", "surrogatepass"))


def _packed(code: int, items: list[Any], depth: int) -> msgspec.msgpack.Ext:
    return _ext(code, _encoder.encode(_tagged(items, depth + 1)))


def _ext(code: int, data: bytes) -> msgspec.msgpack.Ext:
    return msgspec.msgpack.Ext(code, data)


def _texts(value: object) -> str:
    if isinstance(value, dt.datetime | dt.time):
        return f"{value.fold}{value.isoformat()}"
    if isinstance(value, dt.timedelta):
        return f"{value.days} {value.seconds} {value.microseconds}"
    return str(value)


_CODES: dict[type, int] = {
    tuple: 4,
    set: 5,
    frozenset: 6,
    dt.datetime: 7,
    dt.date: 8,
    dt.time: 9,
    dt.timedelta: 10,
    decimal.Decimal: 11,
    uuid.UUID: 12,
    bytearray: 13,
    complex: 14,
    pathlib.PosixPath: 15,
    pathlib.WindowsPath: 16,
    pathlib.PurePosixPath: 17,
    pathlib.PureWindowsPath: 18,
}
_COLLECTIONS = frozenset({4, 5, 6, 13})
_READERS: dict[int, Callable[[bytes], object]] = {
    1: lambda data: data.decode("utf-8", "surrogatepass"),
    2: lambda data: int(data, 16),
    # pairs, checked by unpacking
    3: lambda data: {key: item for key, item in loads(data)},  # noqa: C416
    4: lambda data: tuple(loads(data)),
    5: lambda data: set(loads(data)),
    6: lambda data: frozenset(loads(data)),
    7: lambda data: dt.datetime.fromisoformat(data[1:].decode()).replace(fold=int(data[:1])),
    8: lambda data: dt.date.fromisoformat(data.decode()),
    9: lambda data: dt.time.fromisoformat(data[1:].decode()).replace(fold=int(data[:1])),
    10: lambda data: dt.timedelta(*map(int, data.split())),
    11: lambda data: decimal.Decimal(data.decode()),
    12: lambda data: uuid.UUID(data.decode()),
    13: lambda data: bytearray(loads(data)),
    14: lambda data: complex(data.decode()),
    15: lambda data: _path(pathlib.PosixPath, data),
    16: lambda data: _path(pathlib.WindowsPath, data),
    17: lambda data: _path(pathlib.PurePosixPath, data),
    18: lambda data: _path(pathlib.PureWindowsPath, data),
}


def _path(kind: type[pathlib.PurePath], data: bytes) -> pathlib.PurePath:
    try:
        return kind(data.decode("utf-8", "surrogatepass"))
    except NotImplementedError:
        msg = "a path of another operating system"
        raise ValueError(msg) from None


def _read_ext(code: int, data: memoryview) -> object:
    try:
        return _READERS[code](bytes(data))
    except KeyError:
        msg = f"an unknown extension type {code}"
        raise ValueError(msg) from None


_decoder = msgspec.msgpack.Decoder(ext_hook=_read_ext)
