"""Counters of spent and saved tokens. LangChain's own counter adds tokens of cached answers to the tokens that were paid.

    with usage_callback() as usage:
        agent.invoke(...)
    print(usage.spent, usage.saved, usage.saved_usd)

Blocks nest: an answer in an inner block counts in the outer blocks too. An answer from a cache has `total_cost: 0` in its usage,
which LangChain adds. Models do not use this name.
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
from layered_cache.adapters.common import restart_in_child
from layered_cache.adapters.pricing import cost_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """The tokens and the price of the answers of one model. `usd` is from the prices of genai-prices, 0 for an unknown model."""

    answers: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float = 0.0

    @property
    def tokens(self) -> int:
        """All tokens."""
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

    It is thread-safe, and can be passed to a call: `config={"callbacks": [UsageCallback()]}`.

    Tokens of a shared stream are spent by the caller that started it, and saved by the remaining readers. If that caller leaves
    early, its tokens are not counted, although the provider charges for them. The same is true without a cache. A reader that joins
    a stream of a model without usage counts as one answer without tokens.
    """

    def __init__(self) -> None:
        self._spent: dict[str, Used] = {}
        self._saved: dict[str, Used] = {}
        self.after_fork()
        restart_in_child(self)

    def after_fork(self) -> None:
        """Renew the lock: a thread of the parent may have held it."""
        self._lock = threading.Lock()

    @property
    def spent(self) -> dict[str, Used]:
        """The use by calls of models, by model."""
        with self._lock:
            return dict(self._spent)

    @property
    def saved(self) -> dict[str, Used]:
        """The use that answers from the cache saved, by model."""
        with self._lock:
            return dict(self._saved)

    @property
    def spent_usd(self) -> float:
        """The price of the calls, as far as prices are known."""
        return sum(used.usd for used in self.spent.values())

    @property
    def saved_usd(self) -> float:
        """The price that was saved, as far as prices are known."""
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


# the variables of nested blocks, the outermost first: LangChain calls the handler of each variable once
_blocks: list[ContextVar[UsageCallback | None]] = []


def _next_block() -> ContextVar[UsageCallback | None]:
    """Return the variable of a block inside of the current blocks. The list is as long as the deepest nesting so far."""
    for block in _blocks:
        if block.get() is None:
            return block
    block: ContextVar[UsageCallback | None] = ContextVar("layered_cache_usage", default=None)
    register_configure_hook(block, inheritable=True)
    _blocks.append(block)
    return block


@contextmanager
def usage_callback() -> Generator[UsageCallback]:
    """Count each answer of a chat model inside the block, in this thread or task and those that it starts."""
    callback, block = UsageCallback(), _next_block()
    token = block.set(callback)
    try:
        yield callback
    finally:
        block.reset(token)
