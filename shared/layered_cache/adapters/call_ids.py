"""Unique ids for the tool calls of a request.

An answer from the cache has the ids of the stored answer. So a conversation with two hits of the
same entry contains an id twice. Providers reject such a request, because tool results refer to
these ids. So the later message and its results get new ids.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

# Counters such as `call_0` are not changed: providers that restart their count in each turn accept
# duplicates.
_RANDOM = re.compile(r"[A-Za-z0-9_-]*[A-Za-z0-9-]{9}")


class CallIds:
    """The tool call ids in the messages of one request, in order."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._renamed: dict[str, str] = {}

    def of_message(self, ids: Iterable[str]) -> dict[str, str]:
        """Return new ids, by old id, for those *ids* that an earlier message contains."""
        names: dict[str, str] = {}
        for identity in set(ids):
            before = self._counts.get(identity, 0)
            self._counts[identity] = before + 1
            if before and _RANDOM.fullmatch(identity):
                names[identity] = _new(identity, before)
            # later results belong to this message
            self._renamed.pop(identity, None)
        self._renamed.update(names)
        return names

    def of_result(self, identity: str) -> str:
        """Return the id of the call that a result with *identity* belongs to."""
        return self._renamed.get(identity, identity)


def _new(identity: str, number: int) -> str:
    """Return a stable new id in the format of *identity*.

    Providers check the format, and they cache prefixes of requests, so the id must not change.
    """
    start, separator, rest = identity.rpartition("_")
    digest = hashlib.sha256(f"{identity} {number}".encode()).hexdigest()
    return f"{start}{separator}{digest[: len(rest)]}"
