"""Warnings that are logged once, since a service would repeat them at every request."""

from __future__ import annotations

import logging

_log = logging.getLogger("layered_cache")

# limit of different warnings
_MOST = 1000


class Once:
    """Logs each text once."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def warn(self, text: str, *, about: str | None = None) -> None:
        """Log the warning *text*, unless one with this text or this *about* was logged before."""
        about = about or text
        if about not in self._said and len(self._said) < _MOST:
            self._said.add(about)
            _log.warning("%s", text)
