"""Messages and arguments of LlamaIndex as plain data: all parts that a provider may get, and none that change with each call.

- Objects count by their content and not by their class: an answer from a cache holds dictionaries in place of the provider's objects. None
  in an object of a message does not count. As an argument, or inside of one, None counts, since it may override a setting.
- Files and bytes count by a hash of their content, functions by their code (`layered_cache.adapters.identity.code_identity`), classes by
  their schema.
- Ids of tool calls are numbered in the order in which they appear: providers make them at random.

An object that is known only by its address is refused.
"""

from __future__ import annotations

import enum
import hashlib
import types
from collections.abc import Callable, Mapping, Sequence
from io import IOBase
from pathlib import Path
from typing import Any, cast

from layered_cache import UncacheableRequestError
from layered_cache.adapters.identity.clients import counted_headers
from layered_cache.adapters.identity.code_identity import function_data
from llama_index.core.base.llms.types import CachePoint, ChatMessage, TextBlock
from pydantic import AnyUrl, BaseModel, SecretBytes, SecretStr

_MEDIA = frozenset({"image", "audio", "video", "data"})  # the members of blocks that hold a file
_CALL_IDS = frozenset({"tool_call_id", "call_id", "tool_use_id"})
_ASIDE = frozenset({"images", "cache_control"})  # LlamaIndex makes blocks of the first, and sets the second itself
_TRANSPORT = frozenset({"timeout", "request_timeout"})  # in arguments, and in parameters that are sent with each call
_SCALARS = frozenset({str, int, float, bool, type(None)})
_DEEPEST = 100


def plain_messages(messages: Sequence[ChatMessage]) -> list[object]:
    """Return *messages* as plain data.

    Raises:
        UncacheableRequestError: If a message has no lasting text.
    """
    ids: dict[str, str] = {}
    return [_message(message, ids) for message in messages]


def plain_arguments(arguments: Mapping[str, object]) -> dict[str, object]:
    """Return the *arguments* of a call as plain data, without transport settings and headers that cannot change an answer.

    Raises:
        UncacheableRequestError: If an argument has no lasting text. The message names it.
    """
    found: dict[str, object] = {}
    for name, value in arguments.items():
        if name in _TRANSPORT:
            continue
        if name == "extra_headers" and isinstance(value, Mapping):
            if headers := counted_headers(cast("object", value)):
                found[name] = headers
            continue
        try:
            found[name] = value if type(value) in _SCALARS else plain(value)
        except UncacheableRequestError as error:
            msg = f"the argument {name!r}: {error}"
            raise UncacheableRequestError(msg) from None
    return found


def plain(value: object, depth: int = 0) -> object:  # noqa: C901, PLR0911 - one return per kind reads best
    """Return *value*, which is no message, as plain data.

    Raises:
        UncacheableRequestError: If a part of it has no lasting text.
    """
    if type(value) in _SCALARS:
        return value
    if depth > _DEEPEST:
        msg = "something is nested too deeply"
        raise UncacheableRequestError(msg)
    if isinstance(value, enum.Enum):
        return cast("object", value.value)
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value)
        return {name: plain(item, depth + 1) for name, item in items.items()}
    if isinstance(value, list | tuple):
        return [plain(item, depth + 1) for item in cast("Sequence[object]", value)]
    if isinstance(value, BaseModel):
        return {name: plain(item, depth + 1) for name, item in _members(value)}
    if isinstance(value, bytes | bytearray):
        return {"sha256": hashlib.sha256(value).hexdigest()}
    if isinstance(value, AnyUrl | Path):
        return str(value)
    if isinstance(value, type):
        return _class(value)
    if callable(value):
        return function_data(cast("Callable[..., Any]", value), lambda item: plain(item, depth + 1))
    if isinstance(value, set | frozenset):
        return {"set": sorted((plain(item, depth + 1) for item in cast("set[object]", value)), key=repr)}
    if type(value).__module__ in {"datetime", "decimal", "uuid"}:
        return str(value)
    msg = f"a {type(value).__qualname__} has no lasting text to make a key from"
    raise UncacheableRequestError(msg)


def _members(thing: BaseModel) -> list[tuple[str, object]]:
    """Return the content of *thing* without nulls and secrets."""
    values = {**thing.__dict__, **(thing.__pydantic_extra__ or {})}
    return [(name, item) for name, item in values.items() if item is not None and not isinstance(item, SecretStr | SecretBytes)]


def _class(value: type[Any]) -> object:
    name = f"{value.__module__}.{value.__qualname__}"
    if issubclass(value, BaseModel):
        return {"class": value.__qualname__, "schema": value.model_json_schema()}
    if value.__module__ == "builtins" or isinstance(value, types.GenericAlias):
        return {"class": name}
    msg = f"the class {value.__qualname__} has no schema"
    raise UncacheableRequestError(msg)


# --- messages


def _message(message: ChatMessage, ids: dict[str, str]) -> dict[str, object]:
    blocks, more = message.blocks, message.additional_kwargs
    role = str(message.role.value)
    if not more and len(blocks) == 1 and type(block := blocks[0]) is TextBlock:
        return {"role": role, "content": block.text}
    found: dict[str, object] = {"role": role, "content": message.content}
    parts = [_block(block, ids) for block in blocks if not isinstance(block, CachePoint)]
    if len(parts) != 1 or not isinstance(parts[0], str):
        found["blocks"] = parts
    if kept := {name: _within(item, ids, 0, name) for name, item in more.items() if item is not None and name not in _ASIDE}:
        found["more"] = kept
    return found


def _block(block: BaseModel, ids: dict[str, str]) -> object:
    if type(block) is TextBlock:
        return block.text
    found: dict[str, object] = {}
    for name, value in _members(block):
        if name in _MEDIA and isinstance(value, IOBase | bytes):
            found[name] = _content(value)
        elif name == "path" and isinstance(value, str | Path):
            found[name] = _file(value)
        elif name == "tool_kwargs":
            found[name] = plain(value)
        else:
            found[name] = _within(value, ids, 0, name)
    return found


def _within(value: object, ids: dict[str, str], depth: int, name: str) -> object:
    """Return *value*, the part *name* of a message, with numbers in place of the ids of calls."""
    if depth > _DEEPEST:
        msg = "a message is nested too deeply"
        raise UncacheableRequestError(msg)
    if isinstance(value, str) and name in _CALL_IDS:
        return ids.setdefault(value, f"call {len(ids)}")
    if isinstance(value, TextBlock | IOBase) or (isinstance(value, BaseModel) and "block_type" in type(value).model_fields):
        return _block(value, ids) if isinstance(value, BaseModel) else _content(value)
    if isinstance(value, BaseModel):
        value = dict(_members(value))
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value)
        return {key: _within(item, ids, depth + 1, str(key)) for key, item in items.items() if item is not None}
    if isinstance(value, list | tuple):
        parts = cast("Sequence[object]", value)
        return [_call(item, ids, depth) if name == "tool_calls" else _within(item, ids, depth + 1, "") for item in parts]
    return plain(value)


def _call(value: object, ids: dict[str, str], depth: int) -> object:
    """Return a tool call. Its id has the name `id`."""
    found = _within(value, ids, depth + 1, "")
    if not isinstance(found, dict):
        return found
    call = cast("dict[str, object]", found)
    if isinstance(name := call.get("id"), str):
        call["id"] = ids.setdefault(name, f"call {len(ids)}")
    return call


def _content(value: IOBase | bytes) -> object:
    if isinstance(value, IOBase):
        if not value.seekable():
            msg = "a stream of bytes can be read only once"
            raise UncacheableRequestError(msg)
        at = value.tell()
        value.seek(0)
        data = cast("bytes", cast("Any", value).read())
        value.seek(at)
        return {"sha256": hashlib.sha256(data).hexdigest(), "from": at}
    return {"sha256": hashlib.sha256(value).hexdigest()}


def _file(path: str | Path) -> object:
    """Return the hash of the current content of the file."""
    try:
        with Path(path).open("rb") as file:
            return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "suffix": Path(path).suffix}
    except OSError:
        msg = "a file that a message names cannot be read"
        raise UncacheableRequestError(msg) from None
