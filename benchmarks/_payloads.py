"""What is asked and answered: texts of made-up words, the same in every run, in the objects and texts that LangChain makes of them."""

from __future__ import annotations

import functools
import itertools
import json
import random
from collections.abc import Sequence
from typing import Any, Literal

from langchain_core.load import dumps
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.outputs import ChatGeneration, Generation

Kind = Literal["chat", "tool", "large"]
KINDS: tuple[Kind, ...] = ("chat", "tool", "large")

_SIZES: dict[Kind, int] = {"chat": 2048, "tool": 400, "large": 50_000}
_TURNS = 5
_SENTENCE = 12  # words
_MARK = "#0#"  # where prompts that shall differ do
_numbers = itertools.count(1)


@functools.cache
def _words() -> tuple[list[str], list[float]]:
    """Return words, and how often each is used, which falls off as in any language: so they compress like one."""
    rnd = random.Random(1)
    syllables = [consonant + vowel for consonant in "bdfgklmnprstvw" for vowel in "aeiou"]
    words = ["".join(rnd.choices(syllables, k=rnd.randint(1, 4))) for _ in range(3000)]
    return words, list(itertools.accumulate(1 / rank for rank in range(1, len(words) + 1)))


def text(size: int, seed: int = 0) -> str:
    """Return *size* letters of sentences."""
    words, weights = _words()
    drawn = random.Random(seed).choices(words, cum_weights=weights, k=size // 2)
    sentences = (" ".join(drawn[at : at + _SENTENCE]).capitalize() for at in range(0, len(drawn), _SENTENCE))
    return ". ".join(sentences)[:size]


def answer(kind: Kind = "chat", seed: int = 0, body: str | None = None) -> list[Generation]:
    """Return the generations of one answer of a chat model, as langchain-openai makes them."""
    calls = [
        {"name": f"find_{n}", "args": {"text": text(120, seed + n), "most": 10, "where": {"tongues": ["en", "de"]}}, "id": f"call_{n:024}"}
        for n in range(3 if kind == "tool" else 0)
    ]
    finish = "tool_calls" if calls else "stop"
    used: dict[str, Any] = {
        "prompt_tokens": 1200, "completion_tokens": 480, "total_tokens": 1680,
        "prompt_tokens_details": {"audio_tokens": 0, "cached_tokens": 1024},
        "completion_tokens_details": {"audio_tokens": 0, "reasoning_tokens": 64},
    }  # fmt: skip
    message = AIMessage(
        text(_SIZES[kind], seed) if body is None else body,
        id=f"lc_run--{seed:032x}",
        tool_calls=calls,
        additional_kwargs={"refusal": None},
        usage_metadata={
            "input_tokens": 1200, "output_tokens": 480, "total_tokens": 1680,
            "input_token_details": {"audio": 0, "cache_read": 1024}, "output_token_details": {"audio": 0, "reasoning": 64},
        },
        response_metadata={
            "token_usage": used, "model_provider": "openai", "model_name": "gpt-4o-mini-2024-07-18", "system_fingerprint": "fp_0123456789",
            "id": f"chatcmpl-{seed:029}", "service_tier": "default", "finish_reason": finish, "logprobs": None,
        },
    )  # fmt: skip
    return [ChatGeneration(message=message, generation_info={"finish_reason": finish, "logprobs": None})]


def messages(size: int = 2000, seed: int = 0) -> list[BaseMessage]:
    """Return a conversation with *size* letters in it."""
    part = size // (_TURNS + 1)
    turns = [(AIMessage if turn % 2 else HumanMessage)(text(part, seed + turn)) for turn in range(_TURNS)]
    return [SystemMessage(f"{_MARK} {text(part, seed + _TURNS)}"), *turns]


def prompt(size: int = 2000, seed: int = 0) -> str:
    """Return what LangChain gives a cache for `messages`."""
    return dumps(messages(size, seed))


def llm_string() -> str:
    """Return what LangChain gives a cache for a model of langchain-openai, which need not be installed."""
    fields = {
        "model_name": "gpt-4o-mini", "temperature": 0.0, "max_retries": 2, "output_version": None, "stream_usage": True,
        "openai_api_key": {"lc": 1, "type": "secret", "id": ["OPENAI_API_KEY"]},
    }  # fmt: skip
    path = ["langchain", "chat_models", "openai", "ChatOpenAI"]
    head = {"lc": 1, "type": "constructor", "id": path, "kwargs": fields, "name": "ChatOpenAI"}
    call = [("_type", "openai-chat"), ("model", "gpt-4o-mini"), ("model_name", "gpt-4o-mini"), ("stop", None), ("stream", False)]
    return f"{json.dumps(head)}---{[*call, ('temperature', 0.0)]}"


def copies(*texts: str) -> Any:  # noqa: ANN401 - of `_race.Inputs`
    """Return inputs that are *texts*, new ones each time: LangChain makes them anew for every call, and a text remembers its hash."""

    def inputs(count: int) -> Sequence[tuple[str, ...]]:
        return [tuple(text[:1] + text[1:] for text in texts) for _ in range(count)]

    return inputs


def unlike(prompt: str) -> str:
    """Return a prompt like *prompt*, with a number in it that no other has."""
    return prompt.replace(_MARK, f"#{next(_numbers)}#", 1)
