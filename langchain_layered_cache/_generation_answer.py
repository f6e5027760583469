"""Conversion of generations to an `Answer`: the bytes, usage, cost, finish reason and a readable text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import orjson
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, Generation
from layered_cache import Answer, Usage
from layered_cache.adapters.pricing import REASON_NAMES, cost_of, finish_of, worst
from layered_cache.entry import Finish

from langchain_layered_cache._generation_codec import CODEC, encode


def to_answer(generations: Sequence[Generation], model: str | None) -> Answer:
    """Return *generations* as an answer of *model*.

    Raises:
        EncodeError: If the decoded generations would not equal the original ones.
    """
    value = encode(generations)
    usage = _usage(generations)
    return Answer(
        value=value,
        codec=CODEC,
        usage=usage,
        cost_usd=None if usage is None or model is None else cost_of(usage, model),
        finish=worst(finish for generation in generations if (finish := _finish(generation)) is not None),
        empty=not any(map(_says_something, generations)),
        response=_readable(generations),
    )


def _message(generation: Generation) -> BaseMessage | None:
    return generation.message if isinstance(generation, ChatGeneration) else None


def _says_something(generation: Generation) -> bool:
    message = _message(generation)
    if message is None:
        return bool(generation.text)
    # a list holds blocks: an image, audio or reasoning is content too, an empty text block is not
    content = message.content
    says = bool(content) if isinstance(content, str) else any(_block_says_something(block) for block in cast("list[object]", content))
    calls = isinstance(message, AIMessage) and bool(message.tool_calls or message.invalid_tool_calls)
    legacy = any(message.additional_kwargs.get(name) for name in ("function_call", "tool_calls", "audio"))
    return says or calls or legacy


def _block_says_something(block: object) -> bool:
    if not isinstance(block, dict):
        return bool(block)
    fields = cast("dict[str, object]", block)
    return bool(fields.get("text")) if fields.get("type") == "text" else True


def _finish(generation: Generation) -> Finish | None:
    message = _message(generation)
    for place in (generation.generation_info or {}, message.response_metadata if message is not None else {}):
        for name in REASON_NAMES:
            if (finish := finish_of(place.get(name))) is not None:
                return finish
    return None


def _usage(generations: Sequence[Generation]) -> Usage | None:
    """Return the tokens of the call. Providers report them for the whole call with each of its generations."""
    found = [
        (usage["input_tokens"], usage["output_tokens"])
        for generation in generations
        if isinstance(message := _message(generation), AIMessage)
        and (usage := message.usage_metadata) is not None
        and "input_tokens" in usage
        and "output_tokens" in usage
    ]
    return Usage(*max(found)) if found else None


def _readable(generations: Sequence[Generation]) -> str:
    """Return the readable form: the text, or the message as JSON if it holds more than a text."""
    shown: list[object] = []
    for generation in generations:
        message = _message(generation)
        calls = message.tool_calls if isinstance(message, AIMessage) else []
        if message is None or (isinstance(message.content, str) and not calls):
            shown.append(generation.text)
        else:
            shown.append({"content": cast("object", message.content), **({"tool_calls": calls} if calls else {})})
    if len(shown) == 1 and isinstance(shown[0], str):
        return shown[0]
    return orjson.dumps(shown[0] if len(shown) == 1 else shown, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
