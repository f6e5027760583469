"""The key of the input of a LangGraph node: for `CachePolicy(key_func=cache_key)`.

LangGraph's own key function covers the ids of messages, which are random, and usage, which differs with each call: a node with messages in
its input never hits. This function covers these parts of a message:

- Not its id, usage and response metadata, except the names that decide how its content is read.
- The ids of its tool calls and its artifact: a node may return the ids and read the artifact.
- All other values of a state exactly: classes, types of numbers, tuples and lists. The order of names does not count.

A node that refers to messages by their ids (`RemoveMessage`, or a message that replaces another) would get writes with other ids. Such a
node needs LangGraph's own key function.
"""

from __future__ import annotations

import hashlib
import uuid
from typing import Any, cast

from langchain_core.messages import BaseMessage
from layered_cache import EncodeError, UncacheableRequestError
from layered_cache.adapters.log_once import Once
from layered_cache.keys.keys import canonical
from xxhash import xxh3_128_hexdigest

from langchain_layered_cache._keys.lru import Memo
from langchain_layered_cache._langgraph.write_codec import Fields, fields_of, take_apart

_once = Once()
# the hashes of recent inputs without a key: LangGraph hashes keys, so a mark in a key would be lost
_no_keys: Memo[str, str] = Memo(10_000)

_DOES_NOT_COUNT = frozenset({"id", "usage_metadata", "response_metadata", "tool_call_chunks", "chunk_position", "example"})
_STEERS = ("model_provider", "output_version")  # of the response metadata


def cache_key(*args: Any, **kwargs: Any) -> str:  # noqa: ANN401 - any input
    """Return the key of the input of a node or task: dictionaries, messages, pydantic models and dataclasses, nested in any way.

    It raises nothing. An input that holds an object without an exact key gets a unique key. It never hits, and nothing is stored under
    it. One warning names the class of the object.

    Use it for nodes that do not refer to messages by their ids.
    """
    try:
        parts = take_apart(list(args), _as_it_counts), take_apart(kwargs, _as_it_counts)
        return hashlib.sha256(canonical(parts, "the input of a node")).hexdigest()
    except (EncodeError, UncacheableRequestError) as error:
        reason = str(error)
    except Exception as error:  # noqa: BLE001 - objects may raise any error; the node must run
        reason = type(error).__name__
    _once.warn(f"a node is not cached: no exact key can be made of what it is given: {reason}")
    key = uuid.uuid4().hex
    _no_keys.put(xxh3_128_hexdigest(key.encode()), key)
    return key


def is_no_key(name: str) -> bool:
    """Return True if *name* is the hash of a unique key, under which nothing is stored."""
    return _no_keys.get(name) is not None


def _as_it_counts(thing: object) -> Fields:
    fields, _ = fields_of(thing)
    if not isinstance(thing, BaseMessage):
        return fields, None
    # an empty field may be one of another release
    counts = {name: value for name, value in fields.items() if name not in _DOES_NOT_COUNT and value not in (None, [], {})}
    metadata: dict[str, Any] = fields.get("response_metadata") or {}
    if steers := {name: metadata[name] for name in _STEERS if metadata.get(name) is not None}:
        counts["response_metadata"] = steers
    additional = cast("dict[str, Any]", fields.get("additional_kwargs") or {})
    if "parsed" in additional:  # the content has it too, and after a hit of `LayeredCache` it is plain data
        counts["additional_kwargs"] = {name: value for name, value in additional.items() if name != "parsed"}
    return counts, None
