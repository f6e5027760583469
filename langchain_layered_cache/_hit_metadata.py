"""Facts of a hit in the metadata of its message (`mark_hits=True`). They are never stored, and no model gets them."""

from __future__ import annotations

import time
from collections.abc import Sequence

from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGeneration, Generation
from layered_cache import Entry

MARK = "layered_cache"


def mark(generations: Sequence[Generation], entry: Entry, tier: str | None) -> None:
    """Mark the messages of *generations*, which belong to the caller, as a hit of *tier*; None for an unknown tier."""
    for generation in generations:
        if isinstance(generation, ChatGeneration):
            mark_message(generation.message, entry, tier)


def mark_message(message: BaseMessage, entry: Entry, tier: str | None) -> None:
    """Mark *message* as a hit of *tier*, with its age in seconds and the savings in US dollars, if they are known."""
    message.response_metadata[MARK] = {
        "hit": True,
        "tier": tier,
        "age_seconds": max(0.0, time.time() - entry.created_at),
        "key": entry.key,
        "saved_usd": entry.savings.cost_usd,
    }
