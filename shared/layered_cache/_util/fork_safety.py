"""Restart of objects after a fork: a child must not use its parent's locks and connections.

An object with locks, threads or connections registers here. It is restarted in the child before any
other code runs there.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forkable(Protocol):
    """An object that must restart in a child process."""

    def after_fork(self) -> None:
        """Replace locks, and drop threads and connections."""
        ...


_registered: weakref.WeakSet[Forkable] = weakref.WeakSet()


def restart_in_child(thing: Forkable) -> None:
    """Restart *thing* in every child that this process forks.

    The registration is a weak reference.
    """
    _registered.add(thing)


def _after_fork() -> None:
    for thing in list(_registered):
        thing.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
