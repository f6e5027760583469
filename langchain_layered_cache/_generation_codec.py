"""Codec of generations: a fixed list of classes, without a reviver and without pickle.

Decoding creates only the classes below, for any bytes. It skips validation (three times as fast) if a test of the class, once per process,
shows that the result is the same. Each decoding returns new objects, so callers share none.

Values are in the order of the tables below, which never changes. A field that a table does not name (of another release of LangChain) is
written by name. A reader whose class has no such field raises an error.

An `EncodeError` is raised if the decoded generations would not equal the original ones, with four intended differences. A message with an
id gets a new one: with the same id, LangGraph's `add_messages` would overwrite the history. A `parsed` pydantic object becomes plain data,
which the parsers of providers accept too. `total_cost: 0`, which LangChain adds to hits, is dropped. Objects of unknown classes in metadata
become plain data (`_plain_metadata`).
"""

from __future__ import annotations

import itertools
import json
import os
import uuid
from collections.abc import Sequence
from typing import Any, NoReturn, cast

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ChatMessage, ChatMessageChunk, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, Generation, GenerationChunk
from layered_cache import EncodeError
from layered_cache.adapters.msgpack_codec import dumps, loads
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from langchain_layered_cache._hit_metadata import MARK
from langchain_layered_cache._plain_metadata import plain_metadata

CODEC = "lc-generations-1"

_new = object.__new__
# the slots of pydantic, set without the checks of its __setattr__
_put_values, _put_given, _put_extra, _put_private = (
    vars(BaseModel)[slot].__set__ for slot in ("__dict__", "__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")
)

_MESSAGE = ("content", "additional_kwargs", "response_metadata", "name", "id")
_AI = (*_MESSAGE, "tool_calls", "invalid_tool_calls", "usage_metadata")
_ID = 4  # the index of the id
_AI_IN_ORDER = (
    "content", "additional_kwargs", "response_metadata", "type", "name", "id", "tool_calls", "invalid_tool_calls", "usage_metadata",
)  # fmt: skip
_TEXT_INFO = ("text", "generation_info")
_IN_ORDER = (*_TEXT_INFO, "type")
_Text = type(ChatGeneration(message=AIMessage("a")).text)  # a text that can be called, in some releases


class _Layout:
    """The layout of the objects of one class.

    Args:
        number: The number of the class, which never changes.
        cls: The class.
        names: The order of its fields, which never changes. Fields that this release of the class lacks must be None.
        order: The order of the arguments of `built`, with `type`. It is compared with that of the class.
        sample: Arguments for an example object.
    """

    def __init__(self, number: int, cls: type[BaseModel], names: tuple[str, ...], *, order: tuple[str, ...] = (), **sample: object) -> None:
        self.number = number
        self.cls = cls
        self.names = names
        self.type: object = cls.model_fields["type"].get_default()
        self.others = tuple(name for name in cls.model_fields if name not in names and name != "type")
        self.missing = tuple(name for name in names if name not in cls.model_fields)
        self.uneven = bool(self.others or self.missing)
        self.extra_allowed = cls.model_config.get("extra") == "allow"
        self._bits = {name: 1 << place for place, name in enumerate((*names, "type"))}
        self._masks: dict[frozenset[str], int] = {}
        self._given: dict[int, set[str]] = {}
        self.in_order = order == tuple(cls.model_fields)
        self.raw = True
        self.raw = self._rebuilds(cls.model_validate(sample))

    @property
    def plain(self) -> bool:
        """True if an object has only the fields of the table, in its order."""
        return self.raw and self.in_order and not self.uneven

    def _rebuilds(self, validated: BaseModel) -> bool:
        """True if an object that was made without validation equals one with it."""
        values = {name: validated.__dict__.get(name) for name in (*validated.__dict__, *self.missing)}
        rebuilt = self.built(values, self.mask(validated), None)
        return (
            rebuilt == validated
            and list(rebuilt.__dict__.items()) == list(validated.__dict__.items())
            and rebuilt.__pydantic_extra__ == validated.__pydantic_extra__
            and validated.__pydantic_private__ is None
        )

    def mask(self, thing: BaseModel) -> int:
        """Return the set fields of *thing* as a bit mask."""
        given = frozenset(thing.__pydantic_fields_set__)
        try:
            return self._masks[given]
        except KeyError:
            mask = self._masks[given] = sum(self._bits.get(name, 0) for name in given)
            return mask

    def given(self, mask: int) -> set[str]:
        """Return the fields in *mask* as a new set."""
        try:
            return self._given[mask].copy()
        except KeyError:
            if len(self._given) > 1024:  # noqa: PLR2004 - corrupt bytes must not fill the memory
                self._given.clear()
            self._given[mask] = {name for name, bit in self._bits.items() if mask & bit}
            return self._given[mask].copy()

    def more(self, thing: BaseModel) -> dict[str, object] | None:
        """Return the fields of *thing* with a value that the table does not name."""
        values, fields = thing.__dict__, self.cls.model_fields
        more = {name: values[name] for name in self.others if values[name] != _default(fields[name])}
        return {**more, **(thing.__pydantic_extra__ or {})} or None

    def built(self, values: dict[str, Any], mask: int, more: dict[str, Any] | None) -> BaseModel:
        """Return an object of the class with *values*; *mask* has the fields that were set."""
        given = self.given(mask)
        extra: dict[str, Any] | None = {} if self.extra_allowed else None
        if more is not None or self.uneven:
            extra = self._complete(values, more or {})
            given |= (extra or {}).keys()
        if not self.raw:
            return self.cls.model_validate({**{name: value for name, value in values.items() if name in given}, **(extra or {})})
        return _made(self.cls, values if self.in_order else {name: values[name] for name in self.cls.model_fields}, given, extra)

    def _complete(self, values: dict[str, Any], more: dict[str, Any]) -> dict[str, Any] | None:
        """Add fields that the table does not name to *values*; return the names that are no fields."""
        for name in self.missing:
            if values.pop(name) is not None:
                raise KeyError(name)
        for name in self.others:
            values[name] = more.pop(name) if name in more else _default(self.cls.model_fields[name])
        if more and not self.extra_allowed:
            raise KeyError(*more)
        return more if self.extra_allowed else None


def _made(cls: type[BaseModel], values: dict[str, Any], given: set[str], extra: dict[str, Any] | None) -> BaseModel:
    """Return an object of *cls* without calling its constructor."""
    thing = _new(cls)
    _put_values(thing, values)
    _put_given(thing, given)
    _put_extra(thing, extra)
    _put_private(thing, None)
    return thing


def _default(field: FieldInfo) -> object:
    return field.get_default(call_default_factory=True, validated_data={})


_MESSAGES = (
    _Layout(1, AIMessage, _AI, order=_AI_IN_ORDER, content="a"),
    _Layout(2, AIMessageChunk, (*_AI, "tool_call_chunks", "chunk_position"), content="a"),
    _Layout(3, ChatMessage, (*_MESSAGE, "role"), content="a", role="b"),
    _Layout(4, ChatMessageChunk, (*_MESSAGE, "role"), content="a", role="b"),
    _Layout(5, HumanMessage, _MESSAGE, content="a"),
)
_GENERATIONS = (
    _Layout(1, Generation, _TEXT_INFO, order=_IN_ORDER, text="a"),
    _Layout(2, GenerationChunk, _TEXT_INFO, order=_IN_ORDER, text="a"),
    _Layout(3, ChatGeneration, (*_TEXT_INFO, "message"), order=(*_IN_ORDER, "message"), message=AIMessage("a")),
    _Layout(4, ChatGenerationChunk, (*_TEXT_INFO, "message"), order=(*_IN_ORDER, "message"), message=AIMessageChunk(content="a")),
)
_LAYOUTS = {cast("type", layout.cls): layout for layout in (*_MESSAGES, *_GENERATIONS)}
KNOWN_CLASSES = tuple(_LAYOUTS)
_MESSAGE_OF = {layout.number: layout for layout in _MESSAGES}
_GENERATION_OF = {layout.number: layout for layout in _GENERATIONS}
_AI_MESSAGE, _CHAT_GENERATION = _MESSAGE_OF[1], _GENERATION_OF[3]
# if True, an answer of a chat model is decoded by the fastest function
_CHAT_IS_PLAIN = _AI_MESSAGE.plain and _CHAT_GENERATION.plain and _AI_MESSAGE.extra_allowed and not _CHAT_GENERATION.extra_allowed


def encode(generations: Sequence[Generation]) -> bytes:
    """Return *generations* as bytes.

    Raises:
        EncodeError: If the decoded generations would not equal the original ones. The message names a class and no content.
    """
    parts = to_parts(generations)
    try:
        return dumps(parts)
    except EncodeError:
        return dumps([_with_plain_metadata(part) for part in parts])


def decode(data: bytes) -> list[Generation]:
    """Return the generations in *data*, as new objects.

    Raises:
        ValueError: If `encode` did not write *data*, or that of another release with more classes or fields.
    """
    parts = loads(data)
    try:
        return [_generation(part) for part in cast("list[list[Any]]", parts)] if type(parts) is list else _no_generations(None)
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        return _no_generations(error)


def _no_generations(cause: Exception | None) -> NoReturn:
    msg = "these bytes are no generations that this release knows"
    raise ValueError(msg) from cause


# --- to parts

_INFO, _MESSAGE_PARTS, _KWARGS, _METADATA = 4, 5, 4, 5  # indexes in the parts below
_CALLS = "tool_calls"


def _with_plain_metadata(parts: list[Any]) -> list[Any]:
    parts[_INFO] = plain_metadata(parts[_INFO])
    if len(parts) > _MESSAGE_PARTS:
        message = parts[_MESSAGE_PARTS]
        message[_METADATA] = plain_metadata(message[_METADATA])
        kwargs: dict[str, Any] | None = message[_KWARGS]
        if kwargs and _CALLS in kwargs:  # the provider's objects; the message has the calls itself, and they come back equal
            message[_KWARGS] = kwargs | cast("dict[str, Any]", plain_metadata({_CALLS: kwargs[_CALLS]}))
    return parts


def to_parts(generations: Sequence[Generation]) -> list[list[object]]:
    """Return *generations* as parts of plain data.

    Raises:
        EncodeError: If a class is not known here.
    """
    return [_generation_parts(generation) for generation in generations]


def _generation_parts(generation: Generation) -> list[object]:
    layout = _layout_of(generation)
    values = generation.__dict__
    text: str | None = values["text"]
    message: BaseMessage | None = values.get("message")
    more = layout.more(generation) if layout.uneven else None
    if message is None:
        return [layout.number, layout.mask(generation), more, text, values["generation_info"]]
    # the text is most of an answer, and is stored once
    text = None if text == message.content else str.__str__(values["text"])
    return [layout.number, layout.mask(generation), more, text, values["generation_info"], _message_parts(message)]


def _message_parts(message: BaseMessage) -> list[object]:
    layout = _layout_of(message)
    values = message.__dict__
    parts: list[object] = [layout.number, layout.mask(message), None, *map(values.get, layout.names)]
    if layout.uneven or message.__pydantic_extra__:
        parts[2] = layout.more(message)
    if parts[3 + _ID] is not None:
        parts[3 + _ID] = True  # the message had an id
    if MARK in message.response_metadata:  # the mark of an earlier hit is not a part of the answer
        parts[_METADATA] = {name: value for name, value in message.response_metadata.items() if name != MARK}
    if (usage := values.get("usage_metadata")) and "total_cost" in usage:
        parts[3 + layout.names.index("usage_metadata")] = {name: usage[name] for name in usage if name != "total_cost"} or None
    if isinstance(parsed := message.additional_kwargs.get("parsed"), BaseModel):
        parts[4] = {**message.additional_kwargs, "parsed": _plain_parsed(parsed, message.content)}
    return parts


def _plain_parsed(parsed: BaseModel, content: object) -> object:
    """Return plain data from which a provider's parser makes *parsed* again: the content of the model, or the fields of the object."""
    cls = type(parsed)
    for plain in (_said(content), _dumped(parsed, by_alias=True), _dumped(parsed, by_alias=False)):
        try:
            if isinstance(plain, dict) and cls(**cast("dict[str, Any]", plain)) == parsed:
                return cast("object", plain)
        except Exception:  # noqa: BLE001, S112 - a validator may raise any error: the next candidate is tried
            continue
    msg = f"an object of {cls.__module__}.{cls.__qualname__} cannot be made again of what it shows, so its answer is not kept"
    raise EncodeError(msg)


def _said(content: object) -> object:
    try:
        return json.loads(content) if isinstance(content, str) else None
    except ValueError:
        return None


def _dumped(parsed: BaseModel, *, by_alias: bool) -> object:
    try:
        return parsed.model_dump(mode="json", by_alias=by_alias)
    except Exception:  # noqa: BLE001 - a serializer may raise any error
        return None


def _layout_of(thing: object) -> _Layout:
    try:
        return _LAYOUTS[type(thing)]
    except KeyError:
        kind = type(thing)
        msg = f"an object of {kind.__module__}.{kind.__qualname__} would not come back as one, so its answer is not kept"
        raise EncodeError(msg) from None


# --- from parts


def _generation(parts: list[Any]) -> Generation:
    if _CHAT_IS_PLAIN and len(parts) == 6 and parts[0] == _CHAT_GENERATION.number and parts[2] is None:  # noqa: PLR2004
        message = parts[5]
        if message[0] == _AI_MESSAGE.number and message[2] is None:
            return _chat_generation(*parts)
    return _any_generation(*parts)


def _any_generation(
    number: int,
    mask: int,
    more: dict[str, Any] | None,
    text: str | None,
    info: dict[str, Any] | None,
    message_parts: list[Any] | None = None,
) -> Generation:
    layout = _GENERATION_OF[number]
    if (message_parts is None) is ("message" in layout.names):
        raise KeyError(number)
    if message_parts is None:
        values = {"text": text, "generation_info": info, "type": layout.type}
        if type(text) is not str:
            raise TypeError(number)
    else:
        message = _message(*message_parts)
        text = _Text(message.content if text is None else text)
        values = {"text": text, "generation_info": info, "type": layout.type, "message": message}
    return cast("Generation", layout.built(values, mask, more))


def _chat_generation(_number: int, mask: int, _more: None, text: str | None, info: object, message_parts: list[Any]) -> Generation:
    """Return a plain chat generation, which nearly every answer is, in two thirds of the time: see `_CHAT_IS_PLAIN`."""
    _number, message_mask, _more, content, kwargs, metadata, name, id_, calls, invalid_calls, usage = message_parts
    kind = cast("object", type(content))
    if kind is not str and kind is not list:
        raise TypeError(kind)
    message = _made(
        AIMessage,
        {
            "content": content,
            "additional_kwargs": kwargs,
            "response_metadata": metadata,
            "type": "ai",
            "name": name,
            "id": None if id_ is None else new_id(),
            "tool_calls": calls,
            "invalid_tool_calls": invalid_calls,
            "usage_metadata": usage,
        },
        _AI_MESSAGE.given(message_mask),
        {},
    )
    values = {
        "text": _Text(content if text is None else text),
        "generation_info": info,
        "type": "ChatGeneration",
        "message": message,
    }
    return cast("Generation", _made(ChatGeneration, values, _CHAT_GENERATION.given(mask), None))


def _message(number: int, mask: int, more: dict[str, Any] | None, *values: Any) -> BaseMessage:  # noqa: ANN401 - plain data
    layout = _MESSAGE_OF[number]
    named = dict(zip(layout.names, values, strict=True), type=layout.type)
    fields = {name: named[name] for name in _AI_IN_ORDER} if number == 1 else named
    if fields["id"] is not None:
        fields["id"] = new_id()
    kind = cast("object", type(fields["content"]))
    if kind is not str and kind is not list:
        raise TypeError(number)
    return cast("BaseMessage", layout.built(fields, mask, more))


# --- ids


_numbers = itertools.count()
_process = uuid.uuid4().hex


def _after_fork() -> None:
    global _process  # noqa: PLW0603 - one per process
    _process = uuid.uuid4().hex


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def new_id() -> str:
    """Return a unique id in the form of LangChain's ids of runs."""
    return f"lc_run--{_process}-{next(_numbers)}"
