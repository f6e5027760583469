"""Exact encoding of vectors: int64 for integers, float32 if that is exact, or else float64."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from numbers import Real
from typing import Any, cast

from layered_cache.errors import EncodeError

CODEC = "vector-1"

# by the format letters of `struct`
_SIZES = {b"f": 4, b"d": 8, b"q": 8}


def encode(vector: object) -> bytes:
    """Return *vector*, a list of numbers or an array, as bytes.

    Raises:
        EncodeError: If it is not a vector, or is empty.
    """
    numbers = _numbers(vector)
    if not numbers:
        msg = "a vector without components is not stored"
        raise EncodeError(msg)
    try:
        if all(type(number) is int for number in numbers):
            return _packed(b"q", numbers)
        single = _packed(b"f", numbers)
        return single if _unpacked(single) == numbers else _packed(b"d", numbers)
    except OverflowError:
        # too large for a float32
        return _packed(b"d", numbers)
    except struct.error as error:
        msg = "an integer is too large to be stored"
        raise EncodeError(msg) from error


def decode(value: bytes) -> list[float]:
    """Return the vector in *value* as a new list.

    Raises:
        ValueError: If it is not a vector.
    """
    size = _SIZES.get(value[:1])
    if size is None or len(value) == 1 or (len(value) - 1) % size:
        msg = "it is not a vector"
        raise ValueError(msg)
    return _unpacked(value)


def _numbers(vector: object) -> list[Any]:
    try:
        numbers = list(cast("Iterable[Any]", vector))
    except TypeError as error:
        msg = f"a {type(vector).__qualname__} is not a vector"
        raise EncodeError(msg) from error
    kinds = set(map(type, numbers))
    if kinds <= {float} or kinds == {int}:
        return numbers
    if not all(issubclass(kind, Real) for kind in kinds):
        msg = f"a vector of {', '.join(sorted(kind.__qualname__ for kind in kinds))} is not stored"
        raise EncodeError(msg)
    floats = [float(number) for number in numbers]
    # NaN is not equal to itself
    if any(mine != theirs and mine == mine for mine, theirs in zip(floats, numbers, strict=True)):  # noqa: PLR0124
        msg = "a component of a vector is not exact as a float"
        raise EncodeError(msg)
    return floats


def _packed(letter: bytes, numbers: list[Any]) -> bytes:
    return letter + struct.pack(f"<{len(numbers)}{letter.decode()}", *numbers)


def _unpacked(value: bytes) -> list[float]:
    letter = value[:1]
    return list(struct.unpack_from(f"<{(len(value) - 1) // _SIZES[letter]}{letter.decode()}", value, 1))
