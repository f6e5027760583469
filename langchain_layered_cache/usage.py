"""What was spent and what was saved: LangChain's own counter adds the tokens of an answer from the cache to those that were paid for.

    with usage_callback() as usage:
        agent.invoke(...)
    print(usage.spent, usage.saved, usage.saved_usd)

Blocks nest: what happens in an inner one happens in the outer ones too.
An answer from a cache is known by `total_cost: 0`, which LangChain puts into its usage; no model does.
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, cast

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, LLMResult
from langchain_core.tracers.context import register_configure_hook
from layered_cache import Usage
from layered_cache.adapting import restart_in_child
from layered_cache.providers import cost_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """What answers of one model took. `usd` is by the price list of genai-prices; 0 where that does not know the model."""

    answers: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float = 0.0

    @property
    def tokens(self) -> int:
        """All of them."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Used) -> Used:
        return Used(
            answers=self.answers + other.answers,
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            usd=self.usd + other.usd,
        )


class UsageCallback(BaseCallbackHandler):
    """Counts the answers of chat models: `spent` by the model, `saved` by the cache, each by the model's name.

    It may be used by many threads at once, and given to a call by hand: `config={"callbacks": [UsageCallback()]}`.

    Of a stream that several read at once, whoever began it has spent, and the others have saved. If he leaves before its end, which goes on
    for the others, nobody here has spent what the provider will charge; so it is for a stream that is left by all, with a cache or without.
    Who joins a stream of a model that reports no usage counts as one who has spent nothing known: `answers` alone.
    """

    def __init__(self) -> None:
        self._spent: dict[str, Used] = {}
        self._saved: dict[str, Used] = {}
        self.after_fork()
        restart_in_child(self)

    def after_fork(self) -> None:
        """Renew the lock, which another thread of the parent may have held."""
        self._lock = threading.Lock()

    @property
    def spent(self) -> dict[str, Used]:
        """What models were asked for."""
        with self._lock:
            return dict(self._spent)

    @property
    def saved(self) -> dict[str, Used]:
        """What came from the cache."""
        with self._lock:
            return dict(self._saved)

    @property
    def spent_usd(self) -> float:
        """What was paid, as far as prices are known."""
        return sum(used.usd for used in self.spent.values())

    @property
    def saved_usd(self) -> float:
        """What was not paid, as far as prices are known."""
        return sum(used.usd for used in self.saved.values())

    def on_llm_end(self, response: LLMResult, **kwargs: Any) -> None:  # noqa: ANN401, ARG002 - LangChain's signature
        """Count an answer. Providers report the tokens of a call with each of its generations."""
        for generations in response.generations:
            messages = [one.message for one in generations if isinstance(one, ChatGeneration) and isinstance(one.message, AIMessage)]
            if messages:
                self._count(max(messages, key=_tokens))

    def _count(self, message: AIMessage) -> None:
        usage = cast("dict[str, Any]", message.usage_metadata or {})
        name = message.response_metadata.get("model_name") or message.response_metadata.get("model") or "unknown"
        tokens = Usage(usage.get("input_tokens", 0), usage.get("output_tokens", 0))
        used = Used(
            answers=1,
            input_tokens=tokens.input_tokens,
            output_tokens=tokens.output_tokens,
            usd=cost_of(tokens, str(name)) or 0.0,
        )
        with self._lock:
            book = self._saved if "total_cost" in usage else self._spent
            book[str(name)] = book.get(str(name), Used()) + used

    def __repr__(self) -> str:
        return f"UsageCallback(spent={self.spent}, saved={self.saved})"


def _tokens(message: AIMessage) -> int:
    return (message.usage_metadata or {}).get("output_tokens", 0)


# of the blocks around a caller, the outermost first: each has a variable of its own, so that LangChain tells each handler once
_blocks: list[ContextVar[UsageCallback | None]] = []


def _next_block() -> ContextVar[UsageCallback | None]:
    """Return the variable of a block inside of those around the caller. There are as many as blocks were ever inside of each other."""
    for block in _blocks:
        if block.get() is None:
            return block
    block: ContextVar[UsageCallback | None] = ContextVar("layered_cache_usage", default=None)
    register_configure_hook(block, inheritable=True)
    _blocks.append(block)
    return block


@contextmanager
def usage_callback() -> Generator[UsageCallback]:
    """Count every answer of a chat model inside the block, in this thread or task and what they start. Of nested blocks, each counts."""
    callback, block = UsageCallback(), _next_block()
    token = block.set(callback)
    try:
        yield callback
    finally:
        block.reset(token)
