"""What names tell of settings: by their whole parts, for `lookahead_tokens` is no `ad_token`, and a `_clock` no lock.

A name excuses little: a plain value counts, whatever the name, unless it can only be an account's (an answer is as good over another key).
What may be an account's but need not (`stop_token`, `query_key`) counts: the worst is that a new one finds nothing of the old one's.
"""

from __future__ import annotations

import re
from functools import lru_cache

_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_ACCOUNT = re.compile(
    r"(?:^|_)(?:api_?key|(?:access|private|secret|service|subscription)_key(?:_id)?|connection_string|dsn|authorization"
    r"|(?:access|ad|api|auth|bearer|hf|hub|huggingface|id|identity|refresh|security|session)_token(?:_provider)?"
    r"|(?:client|api|app)_secret|password|passwd|passphrase|credentials?|(?:set_)?cookies?)$"
    r"|^(?:x_)?(?:key|token|secret|auth|bearer|pwd|sig|signature)$"
)
_CLIENTS = frozenset({
    "client", "aclient", "clients", "session", "asession", "executor", "lock", "loop", "pool", "semaphore",
})  # fmt: skip


@lru_cache(maxsize=4096)
def is_account(name: str) -> bool:
    """Whether *name* is that of a secret of an account."""
    return _ACCOUNT.search(_flat(name)) is not None


@lru_cache(maxsize=4096)
def is_client(name: str) -> bool:
    """Whether *name* is that of what makes requests, or keeps them in order."""
    flat = _flat(name)
    return flat == "http" or not _CLIENTS.isdisjoint(flat.split("_"))


def _flat(name: str) -> str:
    return _CAMEL.sub("_", name).lower().replace("-", "_").strip("_")
