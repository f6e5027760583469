"""The messages in LangChain's `prompt`, as far as a model sees them.

They keep their type, content, name, tool calls, tool results and additional fields. They lose ids, usage, artifacts and response metadata
(except the names that decide how content is read), which no model gets. Ids of tool calls are numbered in the order in which they
appear: providers make them at random.

Other random ids in messages are not part of the key: the ids that LangChain gives to content blocks, and the ids of items in answers of
OpenAI's Responses API (see `item_ids`). Nor is the `index` that a stream adds to a tool call.
"""

from __future__ import annotations

import json
import re
from typing import Any, cast

from layered_cache import UncacheableRequestError

from langchain_layered_cache._keys.item_ids import without_item_id, without_item_ids_in_kwargs

BY_ADDRESS = "holds an object that is known only by its address in memory"
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")

_START = re.compile(r'\s*\[\s*\{\s*"lc"')
_PATH = ["langchain", "schema", "messages"]
_KINDS = {"HumanMessage": "human", "AIMessage": "ai", "SystemMessage": "system", "ToolMessage": "tool"}
_BLOCK_ID = re.compile(r"lc_[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")  # LangChain gives one to each block without an id
_CALL_BLOCKS = frozenset({
    "tool_call", "tool_call_chunk", "invalid_tool_call", "server_tool_call", "server_tool_call_chunk", "tool_use", "server_tool_use",
    "mcp_tool_use", "function_call", "custom_tool_call",
})  # fmt: skip
_STEERING = ("model_provider", "output_version")  # the metadata that decides how content is read
_NO_ANSWER_DEPENDS_ON_IT = ("id", "usage_metadata", "artifact", "tool_call_chunks", "chunk_position", "example", "type")


def canonical_prompt(prompt: str, *, keep_ids: bool = False, sends: tuple[str, ...] = ()) -> object:
    """Return the messages in *prompt* as plain data; a text that holds none as it is.

    With *keep_ids*, ids of earlier answers count. *sends* names the metadata of earlier answers that count.

    Raises:
        UncacheableRequestError: A message holds an object that has no lasting text.
    """
    if not _START.match(prompt):
        return prompt
    try:
        messages = cast("list[object]", json.loads(prompt))  # not orjson: it reads long numbers as something near
    except (ValueError, RecursionError):
        return prompt
    if '"not_implemented"' in prompt and _known_by_address(messages):
        msg = f"a message {BY_ADDRESS}"
        raise UncacheableRequestError(msg)
    if not all(is_written_out(message) for message in messages):
        return prompt
    ids = _Ids(renumber=not keep_ids, random='"lc_' in prompt)
    return [_canonical_message(cast("dict[str, Any]", message), ids, sends) for message in messages]


def holds_messages(prompt: object) -> bool:
    """Return True if *prompt* looks like serialized messages of LangChain. A prompt for a plain LLM may look like that too."""
    return isinstance(prompt, str) and _START.match(prompt) is not None


def is_written_out_model(llm_string: object) -> bool:
    """Return True if *llm_string* has the model as JSON. LangChain serializes chat models like that, but no plain LLM."""
    return isinstance(llm_string, str) and llm_string.startswith("{")


def is_written_out(item: object) -> bool:
    """Return True if *item* is an object that LangChain serialized by its class and fields."""
    if not isinstance(item, dict):
        return False
    thing = cast("dict[str, object]", item)
    path = cast("list[object]", thing.get("id")) if isinstance(thing.get("id"), list) else []
    named = len(path) > 0 and all(isinstance(part, str) for part in path)
    return thing.get("lc") == 1 and thing.get("type") == "constructor" and isinstance(thing.get("kwargs"), dict) and named


def _known_by_address(value: object) -> bool:
    """Return True if *value* holds an object that LangChain did not serialize, with an address as its text."""
    if isinstance(value, dict):
        fields = cast("dict[str, object]", value)
        if fields.get("lc") == 1 and fields.get("type") == "not_implemented":
            return ADDRESS.search(str(fields.get("repr"))) is not None
        return any(map(_known_by_address, fields.values()))
    return isinstance(value, list) and any(map(_known_by_address, cast("list[object]", value)))


class _Ids:
    """Names of tool calls by the order in which they appear.

    Args:
        renumber: False if the provider stores the conversation, to which its ids refer.
        random: Whether content may hold random ids of LangChain's.
    """

    def __init__(self, *, renumber: bool, random: bool) -> None:
        self.renumber = renumber
        self.random = random
        self._names: dict[str, str] = {}

    def of_call(self, identity: object) -> object:
        """Return the name of a call."""
        if not self.renumber or not isinstance(identity, str):
            return identity
        return self._names.setdefault(identity, f"call {len(self._names)}")

    def if_call(self, identity: object) -> object:
        """Return the name of *identity* if it is a call's, else *identity*."""
        return self._names.get(identity, identity) if isinstance(identity, str) else identity

    def is_random(self, identity: object) -> bool:
        """Return True if *identity* is a random id that LangChain gave to a block, and no id of a call."""
        return isinstance(identity, str) and _BLOCK_ID.fullmatch(identity) is not None and identity not in self._names


def _canonical_message(item: dict[str, Any], ids: _Ids, sends: tuple[str, ...]) -> dict[str, object]:
    path, fields = item["id"], dict(item["kwargs"])
    standard = path[:3] == _PATH and len(path) == 4  # noqa: PLR2004
    kind: object = path[-1].replace("MessageChunk", "Message") if standard else path
    kind = _KINDS.get(str(kind), kind)
    metadata: dict[str, object] = fields.pop("response_metadata", None) or {}
    identity = fields.get("id")
    for name in _NO_ANSWER_DEPENDS_ON_IT:
        fields.pop(name, None)
    message: dict[str, object] = {"type": kind}
    sent = sends if isinstance(fields.get("content"), list) else tuple(name for name in sends if name != "model_name")
    kept = {name: metadata[name] for name in (*_STEERING, *sent) if metadata.get(name) is not None}
    if not ids.renumber:  # the provider stores the conversation, to which these ids refer
        kept.update((name, metadata[name]) for name in ("id",) if name in metadata)
        if identity is not None:
            message["id"] = identity
    if kept:
        message["response_metadata"] = kept
    for name in ("tool_calls", "invalid_tool_calls"):
        if calls := fields.pop(name, None):
            message[name] = [_canonical_call(call, ids) for call in calls]
    if additional := _canonical_additional(fields.pop("additional_kwargs", None) or {}, ids):
        message["additional_kwargs"] = additional
    if "tool_call_id" in fields:
        message["tool_call_id"] = ids.of_call(fields.pop("tool_call_id"))
    content: object = fields.pop("content", None)
    if ids.random:
        content = _without_random_ids(content, ids)
    blocks = cast("list[object]", content) if isinstance(content, list) else None
    message["content"] = content if blocks is None else [_canonical_block(block, ids, answer=kind == "ai") for block in blocks]
    message.update((name, value) for name, value in fields.items() if value is not None)
    return message


def _canonical_additional(additional: dict[str, Any], ids: _Ids) -> dict[str, object]:
    """Return the provider's own fields without `parsed`, which the content holds already, and without ids of items."""
    kept = without_item_ids_in_kwargs({name: value for name, value in additional.items() if name != "parsed"})
    if isinstance(kept.get("tool_calls"), list):
        calls = cast("list[object]", kept["tool_calls"])
        kept["tool_calls"] = [_canonical_call(cast("dict[str, object]", call), ids) if isinstance(call, dict) else call for call in calls]
    return kept


def _canonical_call(call: dict[str, object], ids: _Ids) -> dict[str, object]:
    return {**{name: value for name, value in call.items() if name != "index"}, "id": ids.of_call(call.get("id"))}


def _canonical_block(block: object, ids: _Ids, *, answer: bool) -> object:
    if not isinstance(block, dict):
        return block
    fields = cast("dict[str, object]", block)
    if answer:
        fields = without_item_id(fields)
        if "index" in fields and fields.get("type") in _CALL_BLOCKS:
            fields = {name: value for name, value in fields.items() if name != "index"}
    names = fields.keys() & {"id", "call_id", "tool_use_id", "tool_call_id"}
    return {**fields, **{name: ids.if_call(fields[name]) for name in names}} if names else fields


def _without_random_ids(value: object, ids: _Ids) -> object:
    """Return *value*, which is content of a message, without the random ids of blocks, at any depth."""
    if isinstance(value, list):
        return [_without_random_ids(item, ids) for item in cast("list[object]", value)]
    if not isinstance(value, dict):
        return value
    fields = cast("dict[str, object]", value)
    return {name: _without_random_ids(item, ids) for name, item in fields.items() if name != "id" or not ids.is_random(item)}
