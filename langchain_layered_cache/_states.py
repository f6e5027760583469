"""The key of what a LangGraph node is given: for `CachePolicy(key_func=cache_key)`.

LangGraph's own key function counts the ids of messages, which are drawn at random, and usage, which differs with every call: a node
that is given messages never hits. Here a message counts as a node needs it:

- It loses its id, its usage and its response metadata, but for what steers how content is read.
- It keeps the ids of its tool calls, and its artifact: a node is no model, and may answer with the one or read the other.
- All else of a state counts exactly: classes, types of numbers, tuples and lists; but not the order of keys.

A node that speaks of messages by their ids (by `RemoveMessage`, or by returning one that takes the place of another) would be given the
writes that belong to other ids. Such a node needs LangGraph's own key function.
"""

from __future__ import annotations

import hashlib
import uuid
from typing import Any, cast

from langchain_core.messages import BaseMessage
from layered_cache import EncodeError, UncacheableRequestError
from layered_cache.keys import canonical
from layered_cache.once import Once
from xxhash import xxh3_128_hexdigest

from langchain_layered_cache._memo import Memo
from langchain_layered_cache._writes import Fields, fields_of, take_apart

_once = Once()
_no_keys: Memo[str, str] = Memo(10_000)  # of the tasks that were begun last: LangGraph hashes keys, and a mark in them would be lost

_DOES_NOT_COUNT = frozenset({"id", "usage_metadata", "response_metadata", "tool_call_chunks", "chunk_position", "example"})
_STEERS = ("model_provider", "output_version")  # of the response metadata


def cache_key(*args: Any, **kwargs: Any) -> str:  # noqa: ANN401 - whatever a node or task is given
    """Return the key of what a node or a task is given: dictionaries, messages, pydantic models, dataclasses, nested as they come.

    It raises nothing. What holds an object of which no exact key can be made gets a key that no other call has, so that it is never
    answered from the cache, nor is anything kept under it; a warning says once which class is to blame.

    Use it for nodes that do not speak of messages by their ids.
    """
    try:
        parts = take_apart(list(args), _as_it_counts), take_apart(kwargs, _as_it_counts)
        return hashlib.sha256(canonical(parts, "the input of a node")).hexdigest()
    except (EncodeError, UncacheableRequestError) as error:
        reason = str(error)
    except Exception as error:  # noqa: BLE001 - the node's input may do anything when it is looked at; the node must run
        reason = type(error).__name__
    _once.warn(f"a node is not cached: no exact key can be made of what it is given: {reason}")
    key = uuid.uuid4().hex
    _no_keys.put(xxh3_128_hexdigest(key.encode()), key)
    return key


def is_no_key(name: str) -> bool:
    """Whether *name* is what LangGraph makes of a key that no other call has: under it nothing will ever be found."""
    return _no_keys.get(name) is not None


def _as_it_counts(thing: object) -> Fields:
    fields, _ = fields_of(thing)
    if not isinstance(thing, BaseMessage):
        return fields, None
    # what is None or empty may be a field of another release
    counts = {name: value for name, value in fields.items() if name not in _DOES_NOT_COUNT and value not in (None, [], {})}
    metadata: dict[str, Any] = fields.get("response_metadata") or {}
    if steers := {name: metadata[name] for name in _STEERS if metadata.get(name) is not None}:
        counts["response_metadata"] = steers
    additional = cast("dict[str, Any]", fields.get("additional_kwargs") or {})
    if "parsed" in additional:  # the content says it, and after a hit of `LayeredCache` it is plain data
        counts["additional_kwargs"] = {name: value for name, value in additional.items() if name != "parsed"}
    return counts, None
