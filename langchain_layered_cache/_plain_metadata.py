"""Plain data for objects in the metadata of answers, if the codec does not know their classes: the `Usage` of litellm, for example.

Metadata describes a call: usage, logprobs, headers. A program depends on the text, the blocks, the tool calls, the parsed object and the
usage of an answer, which come back equal. An object in the metadata comes back as its data and does not prevent caching. An object without
data, such as a lock, prevents it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, cast

from layered_cache import EncodeError
from layered_cache.adapters.msgpack_codec import dumps
from pydantic import BaseModel

_DEEPEST = 50
_PLAIN_NAMES = frozenset({str, int, float, bool, type(None), bytes})


def plain_metadata(metadata: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return *metadata* with plain data in place of objects. An object without data stays."""
    return metadata if metadata is None else _mapping(metadata, 0)


def _plain(value: object, depth: int) -> Any:  # noqa: ANN401 - plain data
    if depth > _DEEPEST or type(value) in _PLAIN_NAMES:
        return value
    if isinstance(value, Mapping):
        return _mapping(cast("Mapping[Any, object]", value), depth)
    if isinstance(value, list | tuple | set | frozenset):
        items = [_plain(item, depth + 1) for item in cast("Iterable[object]", value)]
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, Enum):
        return _plain(value.value, depth + 1)
    for kind in (int, float, str):  # providers derive classes from these
        if isinstance(value, kind):
            return str.__str__(value) if isinstance(value, str) else kind(value)
    data = None if _is_known(value) else _data_of(value)
    return _mapping(data, depth) if data else value


def _mapping(mapping: Mapping[Any, object], depth: int) -> dict[Any, Any]:
    return {name if type(name) in _PLAIN_NAMES else str(name): _plain(item, depth + 1) for name, item in mapping.items()}


def _data_of(value: object) -> Mapping[Any, object] | None:
    """Return the fields of *value*, if it has some."""
    try:
        if isinstance(value, BaseModel):
            return value.model_dump(warnings=False)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        if isinstance(value, type) or callable(value):
            return None
        return {name: item for name, item in vars(value).items() if not name.startswith("_")}
    except Exception:  # noqa: BLE001 - it may do anything when it is looked at
        return None


def _is_known(value: object) -> bool:
    """Return True if the codec keeps *value* as it is, like a date."""
    try:
        dumps(value)
    except EncodeError:
        return False
    return True
