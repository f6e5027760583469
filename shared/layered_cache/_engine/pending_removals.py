"""Invalidations that run in threads, by key.

A lookup of such a key waits for the invalidation. Closing a cache waits too.
"""

from __future__ import annotations

from concurrent.futures import Future, wait

from layered_cache._util import fork_safety


class Pending:
    """The invalidations of this process that run in threads."""

    def __init__(self) -> None:
        self.by_key: dict[str, Future[None]] = {}
        fork_safety.restart_in_child(self)

    def after_fork(self) -> None:
        """Forget the invalidations of the parent, which finishes them."""
        self.by_key.clear()

    def wait(self, seconds: float) -> None:
        """Wait at most *seconds* until all of them are done."""
        if self.by_key:
            wait(list(self.by_key.values()), seconds)


pending = Pending()
