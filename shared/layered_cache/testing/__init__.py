"""For tests: ours, and those of whoever writes a tier or builds on the cache. Nothing here is used by the cache itself.

- `TierContract`, `AuthorityContract`, `QueryableContract`: the laws of a tier as test classes to inherit (they need pytest).
- `FakeClock`: time that passes only when it is told to.
- `FakeTier`, `FakeAuthority`: tiers in a dictionary that can be broken, and tell what was asked of them.
- `OpenAIServer`: a local server with OpenAI's API that counts its calls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from layered_cache.testing._clock import FakeClock
from layered_cache.testing._fakes import FakeAuthority, FakeTier
from layered_cache.testing._openai import OpenAIServer

if TYPE_CHECKING:
    from layered_cache.testing._contract import AuthorityContract, QueryableContract, TierContract

__all__ = ["AuthorityContract", "FakeAuthority", "FakeClock", "FakeTier", "OpenAIServer", "QueryableContract", "TierContract"]


def __getattr__(name: str) -> object:
    if name.endswith("Contract"):
        from layered_cache.testing import _contract  # noqa: PLC0415 - needs pytest

        return getattr(_contract, name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
