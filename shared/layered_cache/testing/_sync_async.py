"""Shared parts of the contracts: an entry with every field, and a sync/async test driver."""

from __future__ import annotations

import asyncio
import inspect
import time
from typing import Any

from layered_cache.entry import Entry, Ticket, Usage, whole_microseconds

HOUR = 3600.0


# the type is that of the field of Entry
def an_entry(key: str = "k", value: bytes = b"value", *, ttl: float = HOUR, **facts: Any) -> Entry:  # noqa: ANN401
    """Return an entry with every field set. It expires after *ttl* seconds."""
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
    """Calls the blocking methods or the coroutines of a tier in the same way."""

    def __init__(self, tier: object, loop: asyncio.AbstractEventLoop | None) -> None:
        self._tier, self._loop = tier, loop

    def __getattr__(self, method: str) -> Any:  # noqa: ANN401 - any method of the tier
        if self._loop is None:
            return getattr(self._tier, method)
        loop, function = self._loop, getattr(self._tier, "a" + method)

        def call(*args: object) -> object:
            result = function(*args)
            assert inspect.isawaitable(result), f"a{method} must return an awaitable"
            return loop.run_until_complete(result)

        return call
