"""Durations and sizes, as numbers or as text (`1h30m`, `64MiB`). Every option accepts both."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TypeAlias

from layered_cache.errors import ConfigurationError

Duration: TypeAlias = float | timedelta | str
"""Seconds, a timedelta, or a text such as `250ms`, `90s`, `1h30m` or `7d`."""

Size: TypeAlias = int | str
"""Bytes, or a text such as `512KiB`, `64MiB` or `1GiB`."""

# larger values mean infinity; an integer may be too large for a float
_LONGEST = 1e300
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_BYTES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|m|h|d|w)")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")


def seconds(value: Duration, option: str = "duration") -> float:
    """Return *value* in seconds.

    Raises:
        ConfigurationError: If it is negative, or neither a number nor a text such as `1h30m`.
            Infinity is allowed.
    """
    if isinstance(value, str):
        return parse_duration(value, option)
    if isinstance(value, timedelta):
        value = value.total_seconds()
    # the caller may be untyped
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:  # pyright: ignore[reportUnnecessaryIsInstance]
        msg = f"{option} must be a number of seconds >= 0, a timedelta or a text such as '7d', not {value!r}"
        raise ConfigurationError(msg)
    return float(value) if value < _LONGEST else float("inf")


def size(value: Size, option: str = "size") -> int:
    """Return *value* in bytes.

    Raises:
        ConfigurationError: If it is neither a number of bytes > 0 nor a text such as `64MiB`.
    """
    number = parse_size(value, option) if isinstance(value, str) else value
    if type(number) is not int or number <= 0:
        msg = f"{option} must be a number of bytes > 0 or a text such as '64MiB', not {value!r}"
        raise ConfigurationError(msg)
    return number


def parse_duration(text: str, option: str = "duration") -> float:
    """Return the seconds in *text*: `250ms`, `90s`, `1h30m`, `7d`, or a number of seconds."""
    stripped = text.strip()
    parts = _DURATION_PART.findall(stripped)
    if parts and "".join(number + unit for number, unit in parts) == stripped:
        return sum(float(number) * _SECONDS[unit] for number, unit in parts)
    try:
        return seconds(float(stripped), option)
    except ValueError:
        msg = f"{option} must be a duration such as 250ms, 90s, 1h30m or 7d, not {text!r}"
        raise ConfigurationError(msg) from None


def parse_size(text: str, option: str = "size") -> int:
    """Return the bytes in *text*: `512KiB`, `64MiB`, `1GiB`, `10MB`, or a number of bytes."""
    match = _SIZE.fullmatch(text.strip())
    factor = _BYTES.get(match[2].upper()) if match else None
    if match is None or factor is None:
        msg = f"{option} must be a size such as 512KiB, 64MiB or 1GiB, not {text!r}"
        raise ConfigurationError(msg)
    return round(float(match[1]) * factor)
