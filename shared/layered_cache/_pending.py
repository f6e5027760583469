"""Removals that run in threads, by key. A lookup of such a key waits for the removal, and so does the end of a cache."""

from __future__ import annotations

from concurrent.futures import Future, wait

from layered_cache import _forks


class Pending:
    """The removals of this process that run in threads."""

    def __init__(self) -> None:
        self.by_key: dict[str, Future[None]] = {}
        _forks.restart_in_child(self)

    def after_fork(self) -> None:
        """Forget the removals of the parent, which finishes them."""
        self.by_key.clear()

    def wait(self, seconds: float) -> None:
        """Wait until all are done, *seconds* at most."""
        if self.by_key:
            wait(list(self.by_key.values()), seconds)


pending = Pending()
