"""A bounded memory of what was worked out before: two generations of a dictionary, the older one forgotten as a whole.

Safe without a lock: the worst that a race brings is work done twice.
"""

from __future__ import annotations

from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Memo(Generic[K, V]):
    """Remembers at least the *most* / 2 last values, and at most *most*."""

    def __init__(self, most: int) -> None:
        self._half = most // 2
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
        if len(self._young) >= self._half:
            self._old, self._young = self._young, {}
        self._young[key] = value
