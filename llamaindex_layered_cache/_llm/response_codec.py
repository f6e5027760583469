"""Codec of answers: msgpack of positional parts, without pickle and without imports by name.

Plain data is written unchanged. An object of a pydantic class (a block, or the `raw` of the provider's client) is written as
its fields with the name of its class. It is decoded to an object of that class if this process has imported the class
already, otherwise to a dictionary. An answer is written only if its decoded form equals the original.

A stream is stored as its final answer, with the steps of its chunks. `chat` and `stream_chat` share answers, but each gets
only the `raw` of its kind: the `raw` of a stream is that of its chunks. If the chunks of a stream do not add up to its answer,
only streams read the entry.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from enum import Enum
from itertools import chain, pairwise
from pathlib import PurePath
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar, cast

from layered_cache import EncodeError
from layered_cache.adapters.msgpack_codec import dumps, loads
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    LogProb,
    MessageRole,
    TextBlock,
    ThinkingBlock,
)
from pydantic import AnyUrl, BaseModel, ValidationError

CODEC = "li-1"

Response: TypeAlias = ChatResponse | CompletionResponse
R = TypeVar("R", ChatResponse, CompletionResponse)
Raw = Literal["model", "dict", "drop"]
Replay = Literal["chunks", "single"]
Step: TypeAlias = int | str
"""One step of a stream: the number of characters of the answer, or the text itself where the steps do not add up to it."""

_CHAT, _COMPLETION = 1, 2
# marks a dictionary that was an object; a dictionary with this key is never written
_OBJECT = "\0object"
# chunks of a replayed answer that was no stream: each chunk costs LlamaIndex some time
_MOST_PIECES = 64
_WORDS = re.compile(r"\s*\S+|\s+")


class Steps(NamedTuple):
    """The steps of a stream, and the thoughts of the model by the number of their chunk."""

    texts: list[Step]
    thoughts: dict[int, str]


class StepsBuilder:
    """Collects the steps of a stream while its chunks pass."""

    def __init__(self) -> None:
        self._deltas: list[str] = []
        self._thoughts: dict[int, str] = {}

    def add(self, chunk: Response) -> None:
        """Add the step of the next chunk."""
        if thought := _thought(chunk):
            self._thoughts[len(self._deltas)] = thought
        self._deltas.append(chunk.delta or "")

    def built(self, response: Response) -> Steps:
        """Return the steps of the stream; *response* is its last chunk."""
        self._thoughts.pop(len(self._deltas) - 1, None)
        adds_up = "".join(self._deltas) == text_of(response)
        return Steps([len(delta) for delta in self._deltas] if adds_up else [*self._deltas], self._thoughts)


def encode(response: Response, raw: Raw, steps: Steps | None = None) -> bytes:
    """Return *response* as bytes, with the *steps* of its stream if it was one.

    Raises:
        EncodeError: If the decoded response would not equal the original one.
    """
    kept: Response = response if raw == "model" else response.model_copy(update={"raw": None if raw == "drop" else _as_data(response.raw)})
    # unset fields are left out first: they are decoded as unset then, if the result is equal
    for unset in (True, False):
        data = dumps(_parts(kept, steps, exclude_unset=unset))
        with suppress(ValueError):
            if _read(loads(data), streams=steps is not None, raw=raw)[0] == kept:
                return data
    msg = "the decoded answer does not equal the original one. If its raw is the cause, use cached(..., raw='dict') or raw='drop'"
    raise EncodeError(msg)


def decode(data: bytes, raw: Raw) -> Response:
    """Return the answer in *data*, in new objects, for a call that does not stream.

    Raises:
        ValueError: If *data* is no answer.
    """
    response, steps = _read(loads(data), streams=False, raw=raw)
    if steps is not None and any(isinstance(step, str) for step in steps.texts):
        msg = "it is a stream whose chunks do not add up to the answer"
        raise ValueError(msg)
    return response


def decode_stream(data: bytes, raw: Raw, replay: Replay) -> Iterator[Any]:
    """Return the answer in *data* as the chunks of a stream, in new objects, each made at its turn.

    Raises:
        ValueError: If *data* is no answer.
    """
    response, steps = _read(loads(data), streams=True, raw=raw)
    text = text_of(response)
    if steps is None:
        return _chunks(response, [text] if replay == "single" else _pieces(text), {})
    if not all(type(step) in {int, str} for step in steps.texts):
        msg = "its steps are not those of a stream"
        raise ValueError(msg)
    texts = _cut(text, steps.texts)
    return _chunks(response, ["".join(texts)], {}) if replay == "single" else _chunks(response, texts, steps.thoughts)


def text_of(response: Response) -> str:
    """Return the text of *response*."""
    return (response.message.content or "") if isinstance(response, ChatResponse) else response.text


def _more(response: Response) -> dict[str, object]:
    return cast("dict[str, object]", response.additional_kwargs)  # pyright: ignore[reportUnknownMemberType] - LlamaIndex declares `dict`


# --- parts


def _parts(response: Response, steps: Steps | None, *, exclude_unset: bool) -> list[Any]:
    def packed(value: object) -> object:
        return _packed(value, exclude_unset=exclude_unset)

    told = None if steps is None else [steps.texts, list(steps.thoughts.items())]
    logprobs = response.logprobs and [[[one.token, one.logprob, one.bytes] for one in place] for place in response.logprobs]
    base = ChatResponse if isinstance(response, ChatResponse) else CompletionResponse
    # the fields that a provider's class of responses adds
    own = None
    if (cls := type(response)) is not base:
        own = [_name(cls), {name: packed(getattr(response, name)) for name in cls.model_fields.keys() - base.model_fields.keys()}]
    rest = [response.delta, packed(response.raw), packed(_more(response)), logprobs, told, own]
    if isinstance(response, CompletionResponse):
        return [_COMPLETION, response.text, *rest]
    message = response.message
    if type(message) is not ChatMessage:
        msg = f"a {type(message).__qualname__} is no message of a class that is known here, so its answer is not kept"
        raise EncodeError(msg)
    blocks = [block.text if type(block) is TextBlock else packed(block) for block in message.blocks]
    return [_CHAT, str(message.role.value), blocks, packed(message.additional_kwargs), *rest]


def _read(parts: Any, *, streams: bool, raw: Raw) -> tuple[Response, Steps | None]:  # noqa: ANN401 - the result of `_parts`
    try:
        kind, *content, delta, packed_raw, more, logprobs, told, own = parts
        steps = None if told is None else Steps(told[0], dict(told[1]))
        rest: dict[str, Any] = {"additional_kwargs": _unpacked(more)}
        if delta is not None:
            rest["delta"] = delta
        if packed_raw is not None and raw != "drop" and streams == (steps is not None):
            rest["raw"] = _unpacked(packed_raw, as_data=raw == "dict")
        if logprobs:
            rest["logprobs"] = [[LogProb(token=one[0], logprob=one[1], bytes=one[2]) for one in place] for place in logprobs]
        if kind == _COMPLETION:
            return _of_class(CompletionResponse, own, text=content[0], **rest), steps
        if kind == _CHAT:
            role, blocks, said = content
            found = [TextBlock(text=block) if isinstance(block, str) else _unpacked(block) for block in blocks]
            message = ChatMessage(role=MessageRole(role), blocks=found, additional_kwargs=_unpacked(said))
            return _of_class(ChatResponse, own, message=message, **rest), steps
    except (TypeError, AttributeError) as error:
        msg = "its parts are not those of an answer"
        raise ValueError(msg) from error
    msg = "it is of an unknown kind"
    raise ValueError(msg)


def _of_class(base: type[R], own: list[Any] | None, **fields: Any) -> R:  # noqa: ANN401 - the result of `_parts`
    """Return a response of the class that *own* names, if it is imported, or of *base*."""
    if own is None or (cls := _class(own[0])) is None or not issubclass(cls, base):
        return base(**fields)
    return cls(**fields, **_unpacked(own[1]))


def _packed(value: object, *, exclude_unset: bool) -> Any:  # noqa: ANN401 - plain data
    """Return *value* with objects of pydantic classes as dictionaries with the name of the class."""
    if isinstance(value, BaseModel):
        fields = value.model_dump(exclude_unset=exclude_unset, warnings=False)
        return {_OBJECT: _name(type(value)), "": _as_data(fields)}
    if type(value) is dict:
        items = cast("dict[object, object]", value)
        if _OBJECT in items:
            msg = "an answer holds a dictionary that looks like one of ours"
            raise EncodeError(msg)
        return {key: _packed(item, exclude_unset=exclude_unset) for key, item in items.items()}
    if type(value) is list:
        return [_packed(item, exclude_unset=exclude_unset) for item in cast("list[object]", value)]
    if isinstance(value, Enum) and isinstance(value, str):
        return str(value.value)
    return value


def _as_data(value: object) -> Any:  # noqa: ANN401 - plain data
    """Return *value* as plain data, without its class."""
    if isinstance(value, BaseModel):
        return _as_data(value.model_dump(warnings=False))
    if isinstance(value, Mapping):
        return {key: _as_data(item) for key, item in cast("Mapping[object, object]", value).items()}
    if type(value) is list:
        return [_as_data(item) for item in cast("list[object]", value)]
    if isinstance(value, Enum):
        return value.value
    return str(value) if isinstance(value, AnyUrl | PurePath) else value


def _unpacked(value: object, *, as_data: bool = False) -> Any:  # noqa: ANN401 - plain data
    if type(value) is dict:
        items = cast("dict[object, Any]", value)
        if (name := items.get(_OBJECT)) is not None:
            cls = None if as_data else _class(name)
            return items[""] if cls is None else _object(cls, items[""])
        return {key: _unpacked(item, as_data=as_data) for key, item in items.items()}
    if type(value) is list:
        return [_unpacked(item, as_data=as_data) for item in cast("list[object]", value)]
    return value


def _object(cls: type[BaseModel], fields: object) -> BaseModel:
    """Return an object of *cls*, without validation if that fails: clients do not validate, since servers leave fields out."""
    try:
        return cls.model_validate(fields)
    except ValidationError:
        return cls.model_construct(**cast("dict[str, Any]", fields)) if isinstance(fields, dict) else cls.model_construct()


def _name(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _class(name: str) -> type[BaseModel] | None:
    """Return the pydantic class *name* if it is imported already. Stored data never causes an import."""
    module, _, path = name.partition(":")
    found: object = sys.modules.get(module)
    for part in path.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, type) and issubclass(found, BaseModel) else None


# --- streams


def _thought(chunk: Response) -> str:
    """Return the thought of the model in *chunk*. Some providers put it into the response, some into the message."""
    places = [_more(chunk), *([chunk.message.additional_kwargs] if isinstance(chunk, ChatResponse) else [])]
    return next((thought for place in places if isinstance(thought := place.get("thinking_delta"), str)), "")


def _cut(text: str, steps: list[Step]) -> Iterator[str]:
    at = 0
    for step in steps:
        if isinstance(step, str):
            yield step
        else:
            yield text[at : at + step]
            at += step


def _pieces(text: str) -> list[str]:
    """Return *text* in words, or in groups of words."""
    words = cast("list[str]", _WORDS.findall(text))
    step = max(1, -(-len(words) // _MOST_PIECES))
    return ["".join(words[start : start + step]) for start in range(0, len(words), step)] or [""]


def _chunks(last: Response, texts: Iterable[str], thoughts: dict[int, str]) -> Iterator[Response]:
    """Yield the chunks of a stream with the deltas *texts* and the last chunk *last*."""
    text = thought = ""
    for number, (delta, following) in enumerate(pairwise(chain(texts, (None,)))):
        if following is None:
            last.delta = delta
            yield last
            return
        text += delta or ""
        more: dict[str, Any] = {}
        if number in thoughts:
            more["thinking_delta"] = thoughts[number]
            thought += thoughts[number]
        if isinstance(last, CompletionResponse):
            yield CompletionResponse(text=text, delta=delta, additional_kwargs=more)
        else:
            blocks = [ThinkingBlock(content=thought), TextBlock(text=text)] if thought else [TextBlock(text=text)]
            message = ChatMessage(role=last.message.role, blocks=blocks)
            yield ChatResponse(message=message, delta=delta, additional_kwargs=more)
