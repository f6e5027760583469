"""Answers as chunks, and chunks as answers: the two forms of streams, of chat models and of plain ones.

The chunks of a replay merge to the stored message. A message that cannot be replayed in chunks is one chunk. In the format v1 of LangChain,
blocks get an `index`, as in any stream. Tool calls do not: LangChain makes blocks without an index of their chunks. LangChain itself merges
the chunks of a model.
"""

from __future__ import annotations

import functools
import json
import operator
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, cast

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, BaseMessageChunk, ChatMessage, ChatMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, Generation, GenerationChunk

from langchain_layered_cache._generation_codec import new_id

Replay = Literal["chunks", "single"]

_MOST = 64  # pieces of one text: each costs LangChain a hundred microseconds
_WORDS = re.compile(r"\s*\S+|\s+")
_ON_EACH = ("model_provider", "output_version")  # the metadata that decides how a chunk is read


def _pieces(text: str) -> list[str]:
    """Return *text* in words, or in groups of words."""
    words = cast("list[str]", _WORDS.findall(text))
    step = -(-len(words) // _MOST)
    return words if step <= 1 else ["".join(words[start : start + step]) for start in range(0, len(words), step)]


# --- chat models


@dataclass(frozen=True, slots=True)
class ChatForm:
    """Streams of chat models; `version` is the model's `output_version`."""

    replay: Replay
    version: str | None

    def replayed(self, generations: list[Generation]) -> list[ChatGenerationChunk] | None:
        """Return the first of *generations*, as `invoke` does, in chunks without an id; None if a stream cannot have such a message."""
        first = generations[0]
        message = first.message if isinstance(first, ChatGeneration) else AIMessage(first.text)
        if not isinstance(message, AIMessage):
            return _other(message)
        message.usage_metadata = _free(message.usage_metadata or _NOTHING)
        chunks = self._in_pieces(message) if self.replay == "chunks" else []
        return [ChatGenerationChunk(message=chunk) for chunk in chunks or [_whole(message)]]

    def merged(self, chunks: Iterator[ChatGenerationChunk]) -> list[Generation]:
        """Return the generations that LangChain makes of *chunks* in an `invoke`."""
        model = _Recorded(chunks=chunks, output_version=self.version, cache=False)
        (generation,) = model._generate_with_cache([], stream=True).generations  # noqa: SLF001 - the method that merges
        if generation.message.id is None:
            generation.message.id = new_id()  # in the form of a run id
        return [generation]

    def free(self, chunk: ChatGenerationChunk) -> ChatGenerationChunk:
        """Return *chunk*, which may be changed, with its tokens marked as saved."""
        values = vars(chunk.message)
        if values.get("usage_metadata"):
            values["usage_metadata"] = _free(values["usage_metadata"])
        return chunk

    def _in_pieces(self, message: AIMessage) -> list[AIMessageChunk]:
        """Return chunks that merge to *message*; an empty list if there are none."""
        metadata = message.response_metadata
        on_each = {name: metadata[name] for name in _ON_EACH if name in metadata}
        try:
            if self.version == metadata.get("output_version") == "v1" and isinstance(message.content, list):
                parts = _blocks_and_calls(message)
            else:
                parts = [*_contents(message.content, numbered=self.version == "v1"), *_calls(message)]
            if message.additional_kwargs:  # apart from a call, which LangChain would merge with them
                at = next((part for part in parts if "tool_call_chunks" in part), None)
                parts = parts if at is not None else [*parts, at := {}]
                at["additional_kwargs"] = message.additional_kwargs
            empty: object = "" if isinstance(message.content, str) else []
            parts.append({"response_metadata": metadata, "usage_metadata": message.usage_metadata, "chunk_position": "last"})
            chunks = [AIMessageChunk.model_validate({"content": empty, "response_metadata": dict(on_each), **part}) for part in parts]
            whole = chunks[0] + chunks[1:] if chunks[1:] else chunks[0]
        except (TypeError, ValueError):  # values that are not JSON, or cannot be merged
            return []
        return chunks if _says(whole) == _says(message) else []


class _Recorded(BaseChatModel):
    """A model that returns fixed chunks."""

    chunks: Any

    @property
    def _llm_type(self) -> str:
        return "recorded"

    def _generate(self, *_: object, **__: object) -> ChatResult:
        raise NotImplementedError

    def _stream(self, *_: object, **__: object) -> Iterator[ChatGenerationChunk]:
        yield from self.chunks


# for a model without usage: a hit still reports that it cost nothing
_NOTHING = {
    "input_tokens": 0,
    "output_tokens": 0,
    "total_tokens": 0,
}


def _free(usage: Any) -> Any:  # noqa: ANN401 - a dict of either type
    """Return *usage* with the mark that LangChain adds to hits."""
    return {**usage, "total_cost": 0}


def _contents(content: str | list[Any], *, numbered: bool) -> Iterator[dict[str, Any]]:
    """Yield the contents of chunks."""
    if isinstance(content, str):
        for piece in _pieces(content):
            yield {"content": piece}
        return
    blocks = cast("list[object]", content)
    numbered = numbered and not any(isinstance(block, dict) and "index" in block for block in blocks)
    for number, block in enumerate(blocks):
        if not isinstance(block, dict):
            yield {"content": [block]}
            continue
        fields = cast("dict[str, Any]", {**block, "index": number} if numbered else block)
        kind = fields.get("type")
        text = fields.get(kind) if kind in {"text", "reasoning"} else None
        if "index" not in fields or not isinstance(text, str) or len(pieces := _pieces(text)) <= 1:
            yield {"content": [fields]}  # blocks without an index cannot be merged
            continue
        yield {"content": [{**fields, kind: pieces[0]}]}
        for piece in pieces[1:]:
            yield {"content": [{"type": kind, kind: piece, "index": fields["index"]}]}


def _blocks_and_calls(message: AIMessage) -> list[dict[str, Any]]:
    """Return the contents of chunks in the format v1. There, tool calls are content too, and keep their places."""
    calls = list(_calls_in_pieces(message))
    parts: list[dict[str, Any]] = []
    for part in _contents(message.content, numbered=True):
        (block,) = part["content"]
        at = next((at for at, pieces in enumerate(calls) if pieces and _is_block_of(block, pieces[0])), None)
        if at is None:
            parts.append(part)
            continue
        index = f"lc_tc_{at}"
        for piece in calls[at]:
            chunk = {name: value for name, value in piece.items() if value is not None} | {"index": index}
            parts.append({"content": [chunk], "tool_call_chunks": [piece]})
        if "extras" in block:
            parts[-len(calls[at])]["content"][0]["extras"] = block["extras"]
        calls[at] = []
    return [*parts, *({"tool_call_chunks": [piece]} for pieces in calls for piece in pieces)]


def _is_block_of(block: object, piece: dict[str, Any]) -> bool:
    """Return True if *block* is the content block of the tool call that begins with *piece*."""
    if not isinstance(block, dict):
        return False
    fields = cast("dict[str, Any]", block)
    return fields.get("type") == "tool_call" and piece["id"] is not None and fields.get("id") == piece["id"]


def _calls(message: AIMessage) -> Iterator[dict[str, Any]]:
    """Yield the tool calls: the name and id of each, then its arguments in pieces."""
    for pieces in _calls_in_pieces(message):
        for piece in pieces:
            yield {"tool_call_chunks": [piece]}


def _calls_in_pieces(message: AIMessage) -> Iterator[list[dict[str, Any]]]:
    calls = [
        *((call["name"], json.dumps(call["args"]), call["id"]) for call in message.tool_calls),
        *((call["name"], call["args"], call["id"]) for call in message.invalid_tool_calls),
    ]
    for index, (name, args, identity) in enumerate(calls):
        first = {"name": name, "args": "", "id": identity, "index": index, "type": "tool_call_chunk"}
        rest = ({"name": None, "args": piece, "id": None, "index": index, "type": "tool_call_chunk"} for piece in _pieces(args or ""))
        yield [first, *rest]


def _whole(message: AIMessage) -> AIMessageChunk:
    """Return *message* as one chunk, without validation, which would parse its calls again."""
    values = {name: value for name, value in message.__dict__.items() if name not in {"type", "id"}}
    extra = message.__pydantic_extra__ or {}
    chunk = AIMessageChunk.model_construct(**values, **extra)
    chunk.chunk_position = "last"
    calls = [*message.tool_calls, *message.invalid_tool_calls]
    chunk.tool_call_chunks = [
        {
            "name": call["name"],
            "args": args if isinstance(args := call["args"], str | None) else json.dumps(args, default=str),
            "id": call["id"],
            "index": index,
            "type": "tool_call_chunk",
        }
        for index, call in enumerate(calls)
    ]
    return chunk


def _says(message: AIMessage) -> tuple[object, ...]:
    """Return the parts that must equal those of the merged chunks."""
    content: object = message.content
    if isinstance(content, list):
        content = [_unnumbered(block) for block in cast("list[object]", content)]
    return (
        content,
        message.tool_calls,
        message.invalid_tool_calls,
        message.usage_metadata,
        message.response_metadata,
        message.additional_kwargs,
        message.name,
        message.__pydantic_extra__ or {},
    )


def _unnumbered(block: object) -> object:
    if not isinstance(block, dict):
        return block
    return {name: value for name, value in cast("dict[str, object]", block).items() if name != "index"}


def _other(message: BaseMessage) -> list[ChatGenerationChunk] | None:
    """Return a message of a custom role as one chunk."""
    if not isinstance(message, ChatMessage):
        return None
    chunk: BaseMessageChunk = ChatMessageChunk(
        content=message.content,
        role=message.role,
        additional_kwargs=message.additional_kwargs,
        response_metadata=message.response_metadata,
        name=message.name,
    )
    return [ChatGenerationChunk(message=chunk)]


# --- plain models


@dataclass(frozen=True, slots=True)
class PlainForm:
    """Streams of plain models."""

    replay: Replay

    def replayed(self, generations: list[Generation]) -> list[GenerationChunk] | None:
        """Return the first of *generations*, as `invoke` does, in chunks."""
        text, info = generations[0].text, generations[0].generation_info
        pieces = _pieces(text) if self.replay == "chunks" else []
        *chunks, last = [GenerationChunk(text=piece) for piece in pieces or [text]]
        last.generation_info = info
        return [*chunks, last]

    def merged(self, chunks: Iterator[GenerationChunk]) -> list[Generation]:
        """Return the generation of the merged *chunks*."""
        whole = functools.reduce(operator.add, chunks)
        return [Generation(text=whole.text, generation_info=whole.generation_info)]

    def free(self, chunk: GenerationChunk) -> GenerationChunk:
        """Return *chunk*: the tokens of plain models are not counted."""
        return chunk
