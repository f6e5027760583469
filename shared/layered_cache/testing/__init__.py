"""Helpers for tests of this project, of third-party tiers and of applications.

The cache itself uses nothing of this package.

- `TierContract`, `AuthorityContract`, `QueryableContract`, `ListableContract`: the rules for tiers,
  as test classes to inherit. They need pytest.
- `FakeClock`: a clock that a test moves forward.
- `FakeTier`, `FakeAuthority`: tiers in a dictionary that record their calls and can be broken.
- `OpenAIServer`: a local server with OpenAI's API that counts its calls.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from layered_cache.testing._clock import FakeClock
from layered_cache.testing._fakes import FakeAuthority, FakeTier
from layered_cache.testing._openai import OpenAIServer

if TYPE_CHECKING:
    from layered_cache.testing._invalidation_log_contract import AuthorityContract
    from layered_cache.testing._listable_contract import ListableContract
    from layered_cache.testing._queryable_contract import QueryableContract
    from layered_cache.testing._tier_contract import TierContract

__all__ = [
    "AuthorityContract",
    "FakeAuthority",
    "FakeClock",
    "FakeTier",
    "ListableContract",
    "OpenAIServer",
    "QueryableContract",
    "TierContract",
]

_NEED_PYTEST = {
    "AuthorityContract": "_invalidation_log_contract",
    "ListableContract": "_listable_contract",
    "QueryableContract": "_queryable_contract",
    "TierContract": "_tier_contract",
}


def __getattr__(name: str) -> object:
    if name in _NEED_PYTEST:
        return getattr(importlib.import_module(f"layered_cache.testing.{_NEED_PYTEST[name]}"), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
