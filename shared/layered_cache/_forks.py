"""After a fork, a child must not touch its parent's locks, threads and connections.

An object that holds some registers itself and is told in the child, before anything else runs there.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forkable(Protocol):
    """Something that has to begin anew in a child process."""

    def after_fork(self) -> None:
        """Replace locks, forget threads and connections."""
        ...


_registered: weakref.WeakSet[Forkable] = weakref.WeakSet()


def restart_in_child(thing: Forkable) -> None:
    """Have *thing* told in every child that this process forks. It is not kept alive."""
    _registered.add(thing)


def _after_fork() -> None:
    for thing in list(_registered):
        thing.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
