"""The names of settings: which are secrets, which are credentials, which are clients. One definition for the whole project.

A *secret* must not be readable in a store. A *credential* is a secret that only lets its holder in: the answer is the same with another
one, so it is not part of a key. Every credential is a secret. A secret that is no credential (the servers that a model may call, with
their tokens) can change an answer: keys hold its fingerprint.

Names are read by their whole parts: `lookahead_tokens` is no `ad_token`, and a `_clock` is no lock. A name that can belong to a credential
and need not (`stop_token`, `query_key`) is a secret and no credential: a key that holds too much costs a call, and a key that holds too
little gives a wrong answer.
"""

from __future__ import annotations

import functools
import re

_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_CREDENTIAL = re.compile(
    r"(?:^|_)(?:api_?key|(?:access|private|secret|service|subscription)_key(?:_id)?|connection_string|dsn|authorization"
    r"|(?:access|ad|api|auth|bearer|hf|hub|huggingface|id|identity|refresh|security|session)_token(?:_provider)?"
    r"|(?:client|api|app)_secret|password|passwd|passphrase|credentials?|(?:set_)?cookies?)$"
    r"|^(?:x_)?(?:key|token|secret|auth|bearer|pwd|sig|signature)$"
)
_SECRET_ENDINGS = ("_token", "_secret", "_cookie", "_auth", "_signature", "_key")
_CLIENTS = frozenset({
    "client", "aclient", "clients", "session", "asession", "executor", "lock", "loop", "pool", "semaphore",
})  # fmt: skip


@functools.lru_cache(maxsize=4096)
def is_credential(name: str) -> bool:
    """Return True if the setting *name* can only be a credential."""
    return _CREDENTIAL.search(_flat(name)) is not None


@functools.lru_cache(maxsize=1024)
def is_secret_name(name: str) -> bool:
    """Return True if the value of the setting *name* must not be stored in a readable form."""
    return is_credential(name) or _flat(name).endswith(_SECRET_ENDINGS)


@functools.lru_cache(maxsize=4096)
def is_client(name: str) -> bool:
    """Return True if the setting *name* is that of an object that makes requests or keeps them in order."""
    flat = _flat(name)
    return flat == "http" or not _CLIENTS.isdisjoint(flat.split("_"))


def _flat(name: str) -> str:
    return _CAMEL.sub("_", name).lower().replace("-", "_").strip("_")
