"""For tests: ours, and those of whoever writes a tier or builds on the cache. Nothing here is used by the cache itself.

- `TierContract`, `AuthorityContract`, `QueryableContract`, `ListableContract`: the laws of a tier as test classes to
  inherit (they need pytest).
- `FakeClock`: time that passes only when it is told to.
- `ChaosTier`, `ChaosAuthority`: what goes wrong between a cache and a tier, by chance, the same with the same seed.
- `explore`, `pause`: a few callers in every order in which they can take their steps.
- `FakeTier`, `FakeAuthority`: tiers in a dictionary that can be broken, and tell what was asked of them.
- `History`: what was computed, removed and read in a run of many threads, tasks and processes, and whether it may have gone so.
- `OpenAIServer`: a local server with OpenAI's API that counts its calls.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from layered_cache.testing._chaos import ChaosAuthority, ChaosTier
from layered_cache.testing._clock import FakeClock
from layered_cache.testing._explore import Run, Stepwise, explore, pause
from layered_cache.testing._fakes import FakeAuthority, FakeTier
from layered_cache.testing._history import History, Verdict, Violation
from layered_cache.testing._openai import OpenAIServer

if TYPE_CHECKING:
    from layered_cache.testing._authority_contract import AuthorityContract
    from layered_cache.testing._listable_contract import ListableContract
    from layered_cache.testing._queryable_contract import QueryableContract
    from layered_cache.testing._tier_contract import TierContract

__all__ = [
    "AuthorityContract",
    "ChaosAuthority",
    "ChaosTier",
    "FakeAuthority",
    "FakeClock",
    "FakeTier",
    "History",
    "ListableContract",
    "OpenAIServer",
    "QueryableContract",
    "Run",
    "Stepwise",
    "TierContract",
    "Verdict",
    "Violation",
    "explore",
    "pause",
]

_NEED_PYTEST = {
    "AuthorityContract": "_authority_contract",
    "ListableContract": "_listable_contract",
    "QueryableContract": "_queryable_contract",
    "TierContract": "_tier_contract",
}


def __getattr__(name: str) -> object:
    if name in _NEED_PYTEST:
        return getattr(importlib.import_module(f"layered_cache.testing.{_NEED_PYTEST[name]}"), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
