"""Conversion of responses to an `Answer`: the bytes, usage, cost, finish reason and a readable text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, cast

import orjson
from layered_cache import Answer, Usage
from layered_cache.adapters.pricing import REASON_NAMES, cost_of, finish_of, worst
from layered_cache.entry import Finish
from llama_index.core.base.llms.types import ChatResponse, TextBlock, ToolCallBlock
from pydantic import BaseModel

from llamaindex_layered_cache._llm.response_codec import CODEC, Raw, Response, Steps, StepsBuilder, encode, text_of

# the names that providers give to the counts of input and output tokens
_COUNTS = (
    ("prompt_tokens", "completion_tokens"),
    ("input_tokens", "output_tokens"),
    ("prompt_token_count", "candidates_token_count"),
    ("prompt_eval_count", "eval_count"),
)
_USAGE_NAMES = ("usage", "usage_metadata")
# the attributes of a chunk that hold facts of the whole response
_WITHIN = ("response", "message")


class Told(NamedTuple):
    """The facts of an answer: its last response, and facts from any of its responses. `steps` is None without a stream."""

    response: Response
    usage: Usage | None
    finish: Finish | None
    steps: Steps | None


def told_by(responses: Iterable[Response], *, streams: bool) -> Told:
    """Return the facts of an answer from its *responses*, at least one. Only one response is held at a time."""
    last: Response | None = None
    usage: Usage | None = None
    finishes: set[Finish] = set()
    steps = StepsBuilder()
    for last in responses:
        usage = _usage(last) or usage
        finishes.update(_finishes(last))
        steps.add(last)
    assert last is not None  # noqa: S101 - for the type checker: there is one
    return Told(last, usage, worst(finishes), steps.built(last) if streams else None)


def to_answer(told: Told, model: str, raw: Raw) -> Answer:
    """Return the answer of *model* with the facts *told*.

    Raises:
        EncodeError: If the decoded answer would not equal the original one.
    """
    response, usage, finish, steps = told
    return Answer(
        value=encode(response, raw, steps),
        codec=CODEC,
        usage=usage,
        cost_usd=None if usage is None else cost_of(usage, model),
        finish=finish,
        empty=not _says_something(response),
        response=_readable(response),
    )


def _says_something(response: Response) -> bool:
    if not isinstance(response, ChatResponse):
        return bool(response.text)
    message = response.message
    said = any(not isinstance(block, TextBlock) or block.text for block in message.blocks)
    return said or any(message.additional_kwargs.get(name) for name in ("tool_calls", "function_call"))


def _finishes(response: Response) -> Iterator[Finish]:
    for place in _places(response):
        for name in REASON_NAMES:
            reason = _of(place, name)
            # some providers use an enumeration
            if (finish := finish_of(getattr(reason, "value", reason))) is not None:
                yield finish


def _usage(response: Response) -> Usage | None:
    for place in _places(response):
        for counted in (place, *(_of(place, name) for name in _USAGE_NAMES)):
            for names in _COUNTS:
                tokens = [_of(counted, name) for name in names]
                if all(type(count) is int and count >= 0 for count in tokens) and any(tokens):
                    return Usage(*cast("list[int]", tokens))
    return None


def _places(response: Response) -> Iterator[object]:
    """Yield the objects in which providers put usage and finish reason."""
    yield cast("object", response.additional_kwargs)  # pyright: ignore[reportUnknownMemberType] - LlamaIndex declares `dict`
    if isinstance(response, ChatResponse):
        yield response.message.additional_kwargs
    for place in (response.raw, *(_of(response.raw, name) for name in _WITHIN)):
        if place is not None:
            yield place
            for name in ("choices", "candidates"):
                options = _of(place, name)
                if isinstance(options, list) and options:
                    yield cast("list[object]", options)[0]
            if (delta := _of(place, "delta")) is not None:
                yield delta


def _of(thing: object, name: str) -> Any:  # noqa: ANN401 - as a provider has it
    if thing is None:
        return None
    if type(thing) is dict or isinstance(thing, Mapping):
        return cast("Mapping[str, object]", thing).get(name)
    if _lacks(type(thing), name):
        return (cast("BaseModel", thing).__pydantic_extra__ or {}).get(name)
    return getattr(thing, name, None)


@lru_cache(maxsize=4096)
def _lacks(cls: type, name: str) -> bool:
    """Return True if objects of *cls*, a pydantic class, have no attribute *name*: pydantic takes microseconds to find that out."""
    return issubclass(cls, BaseModel) and name not in cls.model_fields and not hasattr(cls, name)


def _readable(response: Response) -> str:
    """Return the readable form of *response*: the text, and the tool calls if there are any."""
    if not isinstance(response, ChatResponse):
        return response.text
    calls = [block for block in response.message.blocks if isinstance(block, ToolCallBlock)]
    if not calls:
        return text_of(response)
    shown = {"content": text_of(response), "tool_calls": [{"name": call.tool_name, "args": call.tool_kwargs} for call in calls]}
    return orjson.dumps(shown, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
