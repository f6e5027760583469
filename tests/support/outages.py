"""Contexts in which a store is away, for the contract of tiers. They can be entered again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from support.fault_proxy import ChaosProxy
from support.servers import Server


class Again:
    """A context that can be entered more than once."""

    def __init__(self, make: Callable[[], AbstractContextManager[object]]) -> None:
        self._make = make

    def __enter__(self) -> None:
        self._context = self._make()
        self._context.__enter__()

    def __exit__(self, *error: object) -> None:
        self._context.__exit__(*error)  # type: ignore[arg-type]


@contextmanager
def _away(proxy: ChaosProxy) -> Iterator[None]:
    proxy.refuse()
    proxy.cut()
    try:
        yield
    finally:
        proxy.accept()


@contextmanager
def _frozen(server: Server) -> Iterator[None]:
    server.freeze()
    try:
        yield
    finally:
        server.thaw()


def away(proxy: ChaosProxy) -> Again:
    """Return a context in which *proxy* refuses connections, and has none."""
    return Again(lambda: _away(proxy))


def frozen(server: Server) -> Again:
    """Return a context in which *server* hangs: connections stay, and nobody answers."""
    return Again(lambda: _frozen(server))
