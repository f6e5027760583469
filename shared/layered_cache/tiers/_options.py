"""The options of a tier: what stands behind `#` in its URL, or beside `url` in a file.

Each is asked for by name and kind; what nobody asks for is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar
from urllib.parse import unquote_plus

from layered_cache.clocks import SYSTEM_CLOCK, Clock
from layered_cache.errors import ConfigurationError
from layered_cache.units import parse_size, seconds

T = TypeVar("T")


def named_values(text: str, mark: str) -> dict[str, str]:
    """Return what *text*, behind *mark* of a URL, says as `name=value&name=value`.

    Raises:
        ConfigurationError: It says nothing like that. It is not shown: it may be the end of a password that holds such a mark.
    """
    if "@" in text:
        msg = f"there is an @ behind the {mark} of a URL: a {mark} in a password must be written as %{ord(mark):X}, an @ behind it as %40"
        raise ConfigurationError(msg)
    pairs = [part.partition("=") for part in text.split("&")] if text else []
    if not all(name and equals for name, equals, _ in pairs):
        msg = f"behind the {mark} of a URL stand options as name=value&name=value"
        raise ConfigurationError(msg)
    return {unquote_plus(name): unquote_plus(value) for name, _, value in pairs}


class TierOptions:
    """What the user says of one tier.

    Args:
        url: Left of `#` belongs to the client and is not looked at; right of it stands `name=value&...`.
        more: The same by other means; these win.
    """

    def __init__(self, url: str, more: Mapping[str, object] | None = None, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self.url, _, fragment = url.partition("#")
        self.clock = clock
        self._given: dict[str, object] = {**named_values(fragment, "#"), **(more or {})}
        self._asked: set[str] = set()

    def _take(self, name: str) -> object:
        self._asked.add(name)
        return self._given.get(name)

    def text(self, name: str, default: str) -> str:
        """Return a text."""
        value = self._take(name)
        return default if value is None else str(value)

    def size(self, name: str, default: int) -> int:
        """Return bytes."""
        value = self._take(name)
        return default if value is None else parse_size(str(value), name)

    def number(self, name: str, default: int) -> int:
        """Return a whole number above zero."""
        value = self._take(name)
        if value is None:
            return default
        if isinstance(value, bool) or not str(value).isascii() or not str(value).isdigit() or int(str(value)) < 1:
            msg = f"{name} must be a whole number above 0, not {value!r}"
            raise ConfigurationError(msg)
        return int(str(value))

    def duration(self, name: str, default: T) -> float | T:
        """Return seconds."""
        value = self._take(name)
        if value is None:
            return default
        return seconds(value, name)  # pyright: ignore[reportArgumentType] - seconds checks

    def finish(self) -> None:
        """Check that everything that was given was asked for.

        Raises:
            ConfigurationError: Something was not.
        """
        for name in self._given:
            if name not in self._asked:
                raise ConfigurationError.unknown(what=f"option of {self.url.partition(':')[0]}://", name=name, allowed=self._asked)
