"""Metadata of answers as plain data, where it holds objects of classes that are not kept: litellm's `Usage`, say.

Metadata tells how a call went: usage, logprobs, headers. A program depends on the text, the blocks, the calls of tools, the parsed object and
the usage of an answer, which come back equal. What else a provider's client adds must not prevent caching.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, cast

from layered_cache import EncodeError
from layered_cache.values import dumps
from pydantic import BaseModel

_DEEPEST = 50
_NOTHING = object()
_NAMES = frozenset({str, int, float, bool, type(None), bytes})  # of which keys of dictionaries are made as they are


def plain_metadata(metadata: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return *metadata* with plain data in place of objects; without those that have none."""
    return metadata if metadata is None else _mapping(metadata, 0)


def _plain(value: object, depth: int) -> Any:  # noqa: ANN401, PLR0911 - one return per kind reads best
    """Return *value* as plain data, or `_NOTHING`."""
    if depth > _DEEPEST:
        return _NOTHING
    if isinstance(value, BaseModel):
        return _plain(_dumped(value), depth + 1)
    if isinstance(value, Enum):
        return _plain(value.value, depth + 1)
    if isinstance(value, Mapping):
        return _mapping(cast("Mapping[Any, object]", value), depth)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _mapping({field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}, depth)
    if isinstance(value, list | tuple | set | frozenset):
        items = [_plain(item, depth + 1) for item in cast("Iterable[object]", value)]
        kept = [item for item in items if item is not _NOTHING]
        return tuple(kept) if type(value) is tuple else kept
    for kind in (bool, int, float, str):  # of which providers have classes of their own
        if isinstance(value, kind) and type(value) is not kind:
            return kind.__str__(value) if kind is str else kind(value)
    return value if _is_kept(value) else _NOTHING


def _mapping(mapping: Mapping[Any, object], depth: int) -> dict[Any, Any]:
    found = {name if type(name) in _NAMES else str(name): _plain(item, depth + 1) for name, item in mapping.items()}
    return {name: item for name, item in found.items() if item is not _NOTHING}


def _dumped(model: BaseModel) -> object:
    try:
        return model.model_dump(warnings=False)
    except Exception:  # noqa: BLE001 - a serializer may raise anything
        return _NOTHING


def _is_kept(value: object) -> bool:
    try:
        dumps(value)
    except EncodeError:
        return False
    return True
