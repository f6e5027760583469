"""Finish reasons and token prices of providers, for adapters."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from importlib import import_module

from layered_cache.entry import Finish, Usage

REASON_NAMES = ("finish_reason", "stop_reason", "stopReason", "done_reason", "finishReason", "status")
"""The field names of providers for the finish reason."""

# lower case
_FINISHES: dict[str, Finish] = {
    "stop": "stop", "end_turn": "stop", "stop_sequence": "stop", "eos": "stop", "eos_token": "stop", "completed": "stop",
    "length": "length", "max_tokens": "length", "max_output_tokens": "length", "model_length": "length", "incomplete": "length",
    "model_context_window_exceeded": "length",
    "content_filter": "filter", "content_filtered": "filter", "safety": "filter", "recitation": "filter", "blocklist": "filter",
    "prohibited_content": "filter", "spii": "filter", "refusal": "filter", "guardrail_intervened": "filter",
    "tool_calls": "tool", "tool_use": "tool", "function_call": "tool", "tool_call": "tool",
}  # fmt: skip
_WORST_FIRST: tuple[Finish, ...] = ("filter", "length", "tool", "stop")


def finish_of(reason: object) -> Finish | None:
    """Return the normalized finish reason; None if *reason* is unknown."""
    return _FINISHES.get(reason.lower()) if isinstance(reason, str) else None


def worst(finishes: Iterable[Finish]) -> Finish | None:
    """Return the finish reason that speaks most against storing; None if there is none."""
    found = set(finishes)
    return next((finish for finish in _WORST_FIRST if finish in found), None)


def load_prices() -> None:
    """Import the price list at construction, before other threads are running.

    It imports httpx2, and openai's client checks for that module at every request. A client in
    another thread would find the module half imported and fail.
    """
    with suppress(ImportError):
        # this takes 40 ms, so only caches of models do it
        import_module("genai_prices")


def cost_of(usage: Usage, model: str) -> float | None:
    """Return the cost of *usage* in US dollars; None if genai-prices does not know *model*."""
    try:
        import genai_prices  # noqa: PLC0415 - see load_prices
    except ImportError:
        return None
    try:
        tokens = genai_prices.Usage(input_tokens=usage.input_tokens, output_tokens=usage.output_tokens)
        return float(genai_prices.calc_price(tokens, model_ref=model).total_price)
    except Exception:  # noqa: BLE001 - an unknown price must not lose the answer
        return None
