"""A bounded memory of what was worked out before: two generations of a dictionary, the older one forgotten as a whole.

Safe without a lock: the worst that a race brings is work done twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


def _one(_key: object) -> int:
    return 1


class Memo(Generic[K, V]):
    """Remembers at least the last values that weigh *most* / 2 together, and about *most* at most.

    Args:
        most: How much.
        weigh: What the value under a key weighs; one, unless given.
    """

    def __init__(self, most: int, weigh: Callable[[K], int] = _one) -> None:
        self._half = most // 2
        self._weigh = weigh
        self._weight = 0
        self._young: dict[K, V] = {}
        self._old: dict[K, V] = {}

    def get(self, key: K) -> V | None:
        """Return what was put under *key*, or None."""
        value = self._young.get(key)
        if value is None and (value := self._old.get(key)) is not None:
            self.put(key, value)
        return value

    def put(self, key: K, value: V) -> None:
        """Remember *value*."""
        if self._weight >= self._half:
            self._old, self._young, self._weight = self._young, {}, 0
        self._young[key] = value
        self._weight += self._weigh(key)
