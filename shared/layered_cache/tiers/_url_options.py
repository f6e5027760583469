"""The options of a tier, from the fragment of its URL or from a configuration file.

A tier reads each option by name and type. An option that no tier reads is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar
from urllib.parse import unquote_plus

from layered_cache._util.clocks import SYSTEM_CLOCK, Clock
from layered_cache._util.durations import parse_size, seconds
from layered_cache.errors import ConfigurationError

T = TypeVar("T")


def named_values(text: str, mark: str) -> dict[str, str]:
    """Parse *text*, the part of a URL after *mark*, as `name=value&name=value`.

    Raises:
        ConfigurationError: If *text* has another form. The message does not contain it, because it
            may be the rest of a password with an unescaped *mark*.
    """
    if "@" in text:
        msg = f"there is an @ after the {mark} of a URL. Write a {mark} in a password as %{ord(mark):X}, and an @ after it as %40"
        raise ConfigurationError(msg)
    pairs = [part.partition("=") for part in text.split("&")] if text else []
    if not all(name and equals for name, equals, _ in pairs):
        msg = f"the part of a URL after {mark} must be options like name=value&name=value"
        raise ConfigurationError(msg)
    return {unquote_plus(name): unquote_plus(value) for name, _, value in pairs}


class TierOptions:
    """The options that the user set for one tier.

    Args:
        url: The URL. The part before `#` is for the client library, the part after it is
            `name=value&...`.
        more: Further options, which override those of the URL.
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
        """Return a text option."""
        value = self._take(name)
        return default if value is None else str(value)

    def size(self, name: str, default: int) -> int:
        """Return a size option in bytes."""
        value = self._take(name)
        return default if value is None else parse_size(str(value), name)

    def number(self, name: str, default: int) -> int:
        """Return an option that is a positive integer."""
        value = self._take(name)
        if value is None:
            return default
        if isinstance(value, bool) or not str(value).isascii() or not str(value).isdigit() or int(str(value)) < 1:
            msg = f"{name} must be a whole number above 0, got {value!r}"
            raise ConfigurationError(msg)
        return int(str(value))

    def duration(self, name: str, default: T) -> float | T:
        """Return a duration option in seconds."""
        value = self._take(name)
        if value is None:
            return default
        # seconds checks
        return seconds(value, name)  # pyright: ignore[reportArgumentType]

    def finish(self) -> None:
        """Check that every option was read.

        Raises:
            ConfigurationError: If an option is unknown.
        """
        for name in self._given:
            if name not in self._asked:
                raise ConfigurationError.unknown(what=f"option of {self.url.partition(':')[0]}://", name=name, allowed=self._asked)
