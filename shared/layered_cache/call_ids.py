"""Ids of tool calls that occur once in a request.

An answer from the cache has the ids of the answer that was stored. A conversation with two hits of one question holds an id twice, and
providers refuse it: results of tools are matched by these ids. So a later message gets other ids, and its results with it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

# not a counter such as `call_0`: providers that count their calls anew in each turn accept that
_RANDOM = re.compile(r"[A-Za-z0-9_-]*[A-Za-z0-9-]{9}")


class CallIds:
    """The ids of the tool calls in the messages of one request, in their order."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._renamed: dict[str, str] = {}

    def of_message(self, ids: Iterable[str]) -> dict[str, str]:
        """Return new ids, by the old ones, for those of a message's *ids* that an earlier message has."""
        names: dict[str, str] = {}
        for identity in set(ids):
            before = self._counts.get(identity, 0)
            self._counts[identity] = before + 1
            if before and _RANDOM.fullmatch(identity):
                names[identity] = _new(identity, before)
            self._renamed.pop(identity, None)  # results that follow belong to this message
        self._renamed.update(names)
        return names

    def of_result(self, identity: str) -> str:
        """Return the id of the call that a result with *identity* belongs to."""
        return self._renamed.get(identity, identity)


def _new(identity: str, number: int) -> str:
    """Return an id that looks like *identity*, the same one each time: providers check its form, and cache beginnings of requests."""
    start, separator, rest = identity.rpartition("_")
    digest = hashlib.sha256(f"{identity} {number}".encode()).hexdigest()
    return f"{start}{separator}{digest[: len(rest)]}"
