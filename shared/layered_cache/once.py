"""Warnings that are said once, however often there is reason for them: a service would say the same at every request."""

from __future__ import annotations

import logging

_log = logging.getLogger("layered_cache")

_MOST = 1000  # different ones


class Once:
    """Says each text once."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def warn(self, text: str, *, about: str | None = None) -> None:
        """Log *text* as a warning, but only one warning with the same text or the same *about*."""
        about = about or text
        if about not in self._said and len(self._said) < _MOST:
            self._said.add(about)
            _log.warning("%s", text)
