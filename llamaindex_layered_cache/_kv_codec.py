"""Codec of key-value pairs. A decoded pair equals the original one, in new objects.

JSON values, bytes, NaN and infinity are written as msgpack. Subclasses of str, int and float (enumerations, NumPy) lose
their class, as in JSON. Long lists of floats are packed (`layered_cache.adapters.vector_codec`: a vector takes a fifth of its JSON). All
other values go through `layered_cache.adapters.msgpack_codec`, which keeps their type (tuples, sets, dates, keys that are not texts, long
numbers, lone surrogates) or raises `EncodeError`.
"""

from __future__ import annotations

from typing import Any, cast

import msgspec
from layered_cache import EncodeError
from layered_cache.adapters import msgpack_codec, vector_codec

CODEC = "llamaindex-kv-1"

_ATOMS = frozenset({str, int, float, bool, type(None), bytes})
_VECTOR, _EXACT = 1, 2  # extension types
_LONG = 16  # floats, from which on they are packed
_MOST_NESTED = 150  # decoders give up near 1,000

_encoder = msgspec.msgpack.Encoder()


def encode(key: str, value: object) -> bytes:
    """Return the bytes of a pair.

    Raises:
        EncodeError: If the decoded value would not equal the original one.
    """
    try:
        return _encoder.encode([key, value if _is_plain(value, 0) else _shaped(value, 0, plain=False)])
    except (OverflowError, UnicodeEncodeError):  # a long number, or a text with a lone surrogate
        return _encoder.encode(_exact([key, value]))


def decode(data: bytes) -> tuple[str, Any]:
    """Return the pair in *data*.

    Raises:
        ValueError: If *data* is not a pair.
    """
    try:
        key, value = _decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError, TypeError) as error:
        msg = "these bytes are no pair"
        raise ValueError(msg) from error
    return key, value


def _is_plain(value: object, depth: int) -> bool:
    """Return True if msgpack keeps *value* unchanged, in the shortest form."""
    kind = type(value)
    if depth > _MOST_NESTED:
        return False
    if kind is dict:
        for key, item in cast("dict[object, object]", value).items():
            if type(key) is not str or (type(item) not in _ATOMS and not _is_plain(item, depth + 1)):
                return False
        return True
    if kind is list:
        each = cast("list[object]", value)
        if len(each) >= _LONG and type(each[0]) is float:
            return False
        return all(type(item) in _ATOMS or _is_plain(item, depth + 1) for item in each)
    return kind in _ATOMS


def _shaped(value: Any, depth: int, *, plain: bool) -> Any:  # noqa: ANN401, PLR0911 - any value; one return per kind reads best
    """Return *value* in types that msgpack keeps; if *plain*, in types that `values` keeps."""
    if type(value) in _ATOMS:
        return value
    if depth > _MOST_NESTED:
        msg = "a value is nested too deeply to be kept"
        raise EncodeError(msg)
    if isinstance(value, dict):
        items = cast("dict[Any, Any]", value).items()
        shaped = {
            key if type(key) is str else _shaped(key, depth + 1, plain=True): (
                item if type(item) in _ATOMS else _shaped(item, depth + 1, plain=plain)
            )
            for key, item in items
        }
        return shaped if plain or all(type(key) is str for key in shaped) else _exact(cast("object", value))
    if isinstance(value, list):
        each = cast("list[Any]", value)
        if not plain and len(each) >= _LONG and type(each[0]) is float and set(map(type, each)) == {float}:
            return msgspec.msgpack.Ext(_VECTOR, vector_codec.encode(each))
        return [_shaped(item, depth + 1, plain=plain) for item in each]
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if not plain:
        return _exact(value)
    if isinstance(value, tuple):
        return tuple(_shaped(item, depth + 1, plain=True) for item in cast("tuple[Any, ...]", value))
    return value


def _exact(value: object) -> msgspec.msgpack.Ext:
    return msgspec.msgpack.Ext(_EXACT, msgpack_codec.dumps(_shaped(value, 0, plain=True)))


def _read_ext(code: int, data: memoryview) -> Any:  # noqa: ANN401 - any value
    if code == _VECTOR:
        return vector_codec.decode(bytes(data))
    if code == _EXACT:
        return msgpack_codec.loads(bytes(data))
    msg = f"an unknown extension type {code}"
    raise ValueError(msg)


_decoder = msgspec.msgpack.Decoder(ext_hook=_read_ext)
