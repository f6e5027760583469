"""Ids inside answers that a provider accepts once in a request.

OpenAI's Responses API gives an id to every item of an answer (`rs_...`, `msg_...`, `fc_...`), and langchain-openai sends the items back
with the next request. The API refuses a request that holds one id twice. It looks reasoning up by its id, which another account does not
have. So an answer from the cache loses the ids of its items: an item without an id is new to the API. A made-up id would be one that the
API does not find. All ids of a message go, since items refer to each other: the API refuses a message without its reasoning.

A message keeps its ids if one of its items cannot be sent without one: a generated image is sent back as its id, an approval names the
request that it approves, and langchain-openai fails without the ids of server tools in the format v1.

Replayed streams keep the ids, since their content equals that of the stored stream. The wrapper (`cached`) and the middleware therefore
check each request: a message loses its item ids if an earlier message has them. They also give a tool call another id if an earlier message
has the same one. Hits keep the ids of tool calls, since results of tools and keys of graph nodes refer to them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias, cast

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.outputs import Generation
from layered_cache.adapters.call_ids import CallIds

Fields: TypeAlias = dict[str, Any]

_WITH_ID = frozenset({
    "text", "output_text", "refusal", "reasoning", "function_call", "custom_tool_call", "web_search_call", "file_search_call",
    "computer_call", "code_interpreter_call", "mcp_call", "mcp_list_tools", "tool_search_call", "tool_search_output", "apply_patch_call",
    "apply_patch_call_output", "shell_call", "shell_call_output", "local_shell_call", "compaction",
})  # fmt: skip
_NEED_ID = {"image_generation_call": "id", "mcp_approval_request": "id", "server_tool_call": "id", "server_tool_result": "tool_call_id"}
_FUNCTION_IDS = "__openai_function_call_ids__"  # of langchain-openai's format v0, by the ids of calls
_IN_KWARGS = frozenset({"reasoning", "tool_outputs", "reasoning_details", _FUNCTION_IDS})
_ITEM_ID = re.compile(r"(?:rs|msg|fc|ctc|ws|fs|cu|ci|mcp|mcpl|tsc|tso|apc|sh|lsh|cmp)_")
_LANGCHAINS = "lc_"  # what LangChain's own ids of blocks begin with: they are not sent
_ARGUMENTS = frozenset({"args", "input", "arguments"})
_CALL_ID_NAMES = frozenset({"id", "call_id", "tool_use_id", "tool_call_id"})
_SERVER_CALLS = frozenset({"server_tool_use", "mcp_tool_use"})  # of Anthropic, beside the calls of an application's tools


# --- answers from the cache


def forget_item_ids(generations: Iterable[Generation]) -> None:
    """Remove the ids of items from *generations*, which are the caller's own."""
    for generation in generations:
        message: BaseMessage | None = generation.__dict__.get("message")
        if message is not None and _may_hold_ids(message) and not any(_needs_id(block) for block in _blocks(message)):
            vars(message).update(_without_ids(message))


def _may_hold_ids(message: BaseMessage) -> bool:
    """Return False at once for most answers, which are a text."""
    values = message.__dict__
    return type(values["content"]) is list or not _IN_KWARGS.isdisjoint(values["additional_kwargs"])


def without_item_id(block: Fields) -> Fields:
    """Return *block*, which is content of an answer, without the id of its item."""
    kind = block.get("type")
    if kind in _WITH_ID:
        return {name: value for name, value in block.items() if name != "id"} if _is_id(block.get("id")) else block
    if kind == "tool_call" and isinstance(extras := block.get("extras"), dict) and "item_id" in extras:
        rest = {name: value for name, value in cast("Fields", extras).items() if name != "item_id"}
        block = {**block, "extras": rest}
        return block if rest else {name: value for name, value in block.items() if name != "extras"}
    if kind == "non_standard" and isinstance(value := block.get("value"), dict):
        return {**block, "value": without_item_id(cast("Fields", value))}
    return block


def without_item_ids_in_kwargs(kwargs: Fields) -> Fields:
    """Return *kwargs*, the additional fields of a message, without the ids of items."""
    if _IN_KWARGS.isdisjoint(kwargs):
        return kwargs
    return {name: _without_ids_within(value) if name in _IN_KWARGS else value for name, value in kwargs.items() if name != _FUNCTION_IDS}


def _without_ids_within(value: object) -> object:
    if isinstance(value, list):
        return [_without_ids_within(item) for item in cast("list[object]", value)]
    if not isinstance(value, dict):
        return value
    fields = cast("Fields", value)
    return {name: item for name, item in fields.items() if name != "id" or not (isinstance(item, str) and _ITEM_ID.match(item))}


def _is_id(value: object) -> bool:
    return isinstance(value, str) and not value.startswith(_LANGCHAINS)


def _blocks(message: BaseMessage) -> Iterator[Fields]:
    """Yield the content of *message*, as far as it consists of typed blocks; those of providers without their wrapping."""
    content: object = message.content
    for block in cast("list[object]", content) if isinstance(content, list) else []:
        if isinstance(block, dict):
            fields = cast("Fields", block)
            value = fields.get("value") if fields.get("type") == "non_standard" else None
            yield cast("Fields", value) if isinstance(value, dict) else fields


def _needs_id(block: Fields) -> bool:
    return block.get("type") in _NEED_ID or _is_generated_image(block)


def _is_generated_image(block: Fields) -> bool:
    identity = block.get("id")
    return block.get("type") == "image" and isinstance(identity, str) and identity.startswith("ig_")


def _without_ids(message: BaseMessage) -> Fields:
    """Return content and additional fields of *message* without the ids of items."""
    content: object = message.content
    kwargs: Fields = without_item_ids_in_kwargs(message.additional_kwargs)
    if _FUNCTION_IDS in message.additional_kwargs:
        kwargs = {**kwargs, _FUNCTION_IDS: {}}  # langchain-openai detects the format v0 by it
    if isinstance(content, list):
        blocks = cast("list[object]", content)
        content = [without_item_id(cast("Fields", block)) if isinstance(block, dict) else block for block in blocks]
    return {"content": content, "additional_kwargs": kwargs}


# --- requests


def without_repeated_ids(messages: list[BaseMessage]) -> list[BaseMessage]:
    """Return *messages* without item ids that an earlier message has, and with unique ids of tool calls.

    Messages without a repeated id are the same objects. The list is the same if all of them are.
    """
    if not any(isinstance(message, AIMessage) for message in messages):  # only answers have ids, and results name those
        return messages
    found = _Repeats()
    checked = [found.checked(message) for message in messages]
    return messages if all(map(_is, checked, messages)) else checked


def _is(one: object, other: object) -> bool:
    return one is other


class _Repeats:
    """The ids in the messages of one request, in their order."""

    def __init__(self) -> None:
        self._items: set[str] = set()
        self._calls = CallIds()

    def checked(self, message: BaseMessage) -> BaseMessage:
        if isinstance(message, ToolMessage):
            new = self._calls.of_result(message.tool_call_id)
            return message if new == message.tool_call_id else message.model_copy(update={"tool_call_id": new})
        if not isinstance(message, AIMessage):
            return message
        if _may_hold_ids(message):
            message = self._items_checked(message)
        return self._calls_checked(message)

    def _items_checked(self, message: AIMessage) -> AIMessage:
        ids = set(_item_ids(message))
        repeated = ids & self._items
        self._items |= ids
        if not repeated:
            return message
        blocks: Sequence[object] = message.content if isinstance(message.content, list) else ()
        kept = [block for block in blocks if not (isinstance(block, dict) and _stands_for(cast("Fields", block), repeated))]
        rest = message.model_copy(update={"content": kept}) if len(kept) < len(blocks) else message
        return rest.model_copy(update=_without_ids(rest))

    def _calls_checked(self, message: AIMessage) -> AIMessage:
        names = self._calls.of_message(_call_ids(message))
        if not names:
            return message
        parts = ("content", "additional_kwargs", "tool_calls", "invalid_tool_calls")
        return message.model_copy(update={name: _renamed(getattr(message, name), names) for name in parts})


def _call_ids(message: AIMessage) -> Iterator[str]:
    for call in (*message.tool_calls, *message.invalid_tool_calls):
        if call["id"] is not None:
            yield call["id"]
    if isinstance(message.content, list):
        for block in _blocks(message):
            if block.get("type") in _SERVER_CALLS and isinstance(identity := block.get("id"), str):
                yield identity


def _item_ids(message: AIMessage) -> Iterator[str]:
    """Yield the ids of items in *message*, as they are sent."""
    for block in _blocks(message):
        kind = block.get("type")
        found: object = None
        if kind in _WITH_ID or _is_generated_image(block):
            found = block.get("id")
        elif kind in _NEED_ID:
            found = block.get(_NEED_ID[kind])
        elif kind == "tool_call" and isinstance(extras := block.get("extras"), dict):
            found = cast("Fields", extras).get("item_id")
        if _is_id(found):
            yield cast("str", found)
    for name in _IN_KWARGS:
        yield from _ids_within(message.additional_kwargs.get(name))


def _ids_within(value: object) -> Iterator[str]:
    if isinstance(value, str):
        if _ITEM_ID.match(value):
            yield value
    elif isinstance(value, list):
        for item in cast("list[object]", value):
            yield from _ids_within(cast("Fields", item).get("id") if isinstance(item, dict) else None)
    elif isinstance(value, dict):
        fields = cast("Fields", value)
        for item in (fields["id"],) if "id" in fields else fields.values():
            yield from _ids_within(item if isinstance(item, str) else None)


def _stands_for(block: Fields, repeated: set[str]) -> bool:
    """Return True if *block* is sent as its id, and *repeated* has the id: the request holds the item already."""
    value = block.get("value") if block.get("type") == "non_standard" else None
    item = cast("Fields", value) if isinstance(value, dict) else block
    return _needs_id(item) and item.get(_NEED_ID.get(str(item.get("type")), "id")) in repeated


def _renamed(value: object, names: dict[str, str]) -> object:
    """Return *value*, a part of a message, with other ids of calls; the arguments of calls stay as they are."""
    if isinstance(value, list):
        return [_renamed(item, names) for item in cast("list[object]", value)]
    if not isinstance(value, dict):
        return value
    renamed: Fields = {}
    for name, item in cast("Fields", value).items():
        if name in _CALL_ID_NAMES and isinstance(item, str):
            renamed[name] = names.get(item, item)
        else:
            renamed[names.get(name, name)] = item if name in _ARGUMENTS else _renamed(item, names)
    return renamed
