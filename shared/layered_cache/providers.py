"""What the words of providers mean: why a model stopped, what tokens cost. For adapters."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from importlib import import_module

from layered_cache.entry import Finish, Usage

REASON_NAMES = ("finish_reason", "stop_reason", "stopReason", "done_reason", "finishReason", "status")
"""The names under which they say why a model stopped."""

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
    """Return what *reason* means; None: it is no reason, or an unknown one."""
    return _FINISHES.get(reason.lower()) if isinstance(reason, str) else None


def worst(finishes: Iterable[Finish]) -> Finish | None:
    """Return the one that says most against keeping the answer; None: there is none."""
    found = set(finishes)
    return next((finish for finish in _WORST_FIRST if finish in found), None)


def load_prices() -> None:
    """Import the price list now, when the cache is made and nobody is at work yet.

    It imports httpx2, whose presence openai's client looks for at every request: at work in another thread meanwhile, it would find that
    half imported, and fail.
    """
    with suppress(ImportError):
        import_module("genai_prices")  # 40 ms, for those who ask models and not before


def cost_of(usage: Usage, model: str) -> float | None:
    """Return what *usage* of *model* costs in US dollars by the price list of genai-prices; None if it is not known there."""
    try:
        import genai_prices  # noqa: PLC0415 - see load_prices
    except ImportError:
        return None
    try:
        tokens = genai_prices.Usage(input_tokens=usage.input_tokens, output_tokens=usage.output_tokens)
        return float(genai_prices.calc_price(tokens, model_ref=model).total_price)
    except Exception:  # noqa: BLE001 - a price that is not known must not cost the answer
        return None
