"""A bounded memo: two generations of a dictionary, of which the older one is dropped as a whole.

It is thread-safe without a lock: a race causes repeated work at worst.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


def _one(_key: object) -> int:
    return 1


class Memo(Generic[K, V]):
    """A memo that keeps the last values up to a weight between *most* / 2 and *most*.

    Args:
        most: The largest weight of all values.
        weigh: Returns the weight of the value of a key. Default: one.
    """

    def __init__(self, most: int, weigh: Callable[[K], int] = _one) -> None:
        self._half = most // 2
        self._weigh = weigh
        self._weight = 0
        self._young: dict[K, V] = {}
        self._old: dict[K, V] = {}

    def get(self, key: K) -> V | None:
        """Return the value of *key*, or None."""
        value = self._young.get(key)
        if value is None and (value := self._old.get(key)) is not None:
            self.put(key, value)
        return value

    def put(self, key: K, value: V) -> None:
        """Store *value*."""
        if self._weight >= self._half:
            self._old, self._young, self._weight = self._young, {}, 0
        self._young[key] = value
        self._weight += self._weigh(key)
