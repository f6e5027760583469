"""Unique ids of tool calls in a request: see `layered_cache.adapters.call_ids`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

from layered_cache.adapters.call_ids import CallIds
from llama_index.core.base.llms.types import ChatMessage, ToolCallBlock
from pydantic import BaseModel

_CALLS = "tool_calls"
_OF_RESULTS = ("tool_call_id", "call_id")


def without_repeated_calls(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """Return *messages* with new ids for tool calls that repeat the id of an earlier one. The remaining messages are the same objects."""
    ids = CallIds()
    return [_checked(message, ids) if isinstance(message, ChatMessage) else message for message in messages]  # pyright: ignore[reportUnnecessaryIsInstance] - the LLM rejects other objects


def _checked(message: ChatMessage, ids: CallIds) -> ChatMessage:
    more = message.additional_kwargs
    if any(name in more for name in _OF_RESULTS):
        new = {name: ids.of_result(more[name]) for name in _OF_RESULTS if isinstance(more.get(name), str)}
        return message if new.items() <= more.items() else message.model_copy(update={"additional_kwargs": {**more, **new}})
    if not (names := ids.of_message(_ids(message))):
        return message
    update: dict[str, Any] = {"blocks": [_renamed_block(block, names) for block in message.blocks]}
    if isinstance(calls := more.get(_CALLS), list):
        update["additional_kwargs"] = {**more, _CALLS: [_renamed_call(call, names) for call in cast("list[object]", calls)]}
    return message.model_copy(update=update)


def _ids(message: ChatMessage) -> Iterator[str]:
    for block in message.blocks:
        if isinstance(block, ToolCallBlock) and block.tool_call_id:
            yield block.tool_call_id
    calls = message.additional_kwargs.get(_CALLS)
    for call in cast("list[object]", calls) if isinstance(calls, list) else []:
        if isinstance(identity := _id_of(call), str):
            yield identity


def _id_of(call: object) -> object:
    return cast("dict[str, object]", call).get("id") if isinstance(call, dict) else getattr(call, "id", None)


def _renamed_block(block: Any, names: dict[str, str]) -> Any:  # noqa: ANN401 - any kind of block
    if isinstance(block, ToolCallBlock) and block.tool_call_id in names:
        return block.model_copy(update={"tool_call_id": names[block.tool_call_id]})
    return block


def _renamed_call(call: object, names: dict[str, str]) -> object:
    new = names.get(str(_id_of(call)))
    if new is None:
        return call
    if isinstance(call, dict):
        return {**cast("dict[str, object]", call), "id": new}
    return call.model_copy(update={"id": new}) if isinstance(call, BaseModel) else call
