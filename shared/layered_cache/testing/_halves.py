"""What the contracts share: an entry with every field set, and one half of a tier, called alike whichever it is."""

from __future__ import annotations

import asyncio
import inspect
import time
from typing import Any

from layered_cache.entry import Entry, Ticket, Usage, whole_microseconds

HOUR = 3600.0


def an_entry(key: str = "k", value: bytes = b"value", *, ttl: float = HOUR, **facts: Any) -> Entry:  # noqa: ANN401 - of Entry
    """Return an entry that lives for *ttl* seconds from now, with every field set."""
    now = whole_microseconds(time.time())
    given: dict[str, Any] = {
        "codec": "test",
        "namespace": "app",
        "model": "model-1",
        "tags": ("a", "b"),
        "prompt_digest": bytes(range(16)),
        "created_at": now,
        "fresh_until": whole_microseconds(now + ttl / 2),
        "keep_until": whole_microseconds(now + ttl),
        "born": Ticket(2**62, 2**51 + 1),
        "finish": "stop",
        "usage": Usage(3, 4),
        "cost_usd": 0.25,
        "compute_seconds": 1.5,
    }
    return Entry(key=key, value=value, **{**given, **facts})


class Half:
    """One half of a tier, called alike whichever it is."""

    def __init__(self, tier: object, loop: asyncio.AbstractEventLoop | None) -> None:
        self._tier, self._loop = tier, loop

    def __getattr__(self, method: str) -> Any:  # noqa: ANN401 - any of the tier's methods
        if self._loop is None:
            return getattr(self._tier, method)
        loop, function = self._loop, getattr(self._tier, "a" + method)

        def call(*args: object) -> object:
            result = function(*args)
            assert inspect.isawaitable(result), f"a{method} gives nothing to await"
            return loop.run_until_complete(result)

        return call
