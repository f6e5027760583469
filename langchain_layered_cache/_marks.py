"""What a hit says of itself in the metadata of its message, where its user wants to see it. It is never stored, and no model sees it."""

from __future__ import annotations

import time
from collections.abc import Sequence

from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGeneration, Generation
from layered_cache import Entry

MARK = "layered_cache"


def mark(generations: Sequence[Generation], entry: Entry, tier: str | None) -> None:
    """Note on the messages of *generations*, which are the caller's own, that they come from *tier*; None: from one that is not known."""
    for generation in generations:
        if isinstance(generation, ChatGeneration):
            mark_message(generation.message, entry, tier)


def mark_message(message: BaseMessage, entry: Entry, tier: str | None) -> None:
    """Note on *message* that it comes from *tier*: how old it is, in seconds, and what it saved, in US dollars if that is known."""
    message.response_metadata[MARK] = {
        "hit": True,
        "tier": tier,
        "age_seconds": max(0.0, time.time() - entry.created_at),
        "key": entry.key,
        "saved_usd": entry.savings.cost_usd,
    }
