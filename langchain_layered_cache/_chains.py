"""What the callers of graphs have said in the metadata of their runs: `config={"metadata": {"llm_cache": {...}}}`.

LangGraph does not tell a node cache. But it tells callbacks that a run begins, in the thread or task, and before the cache is asked; so one
handler stands in front of all chains of the process, once there is a node cache, and leaves what was said in the context. It does
nothing else. Runs inside a run inherit what it says, by LangChain's doing, or say otherwise.

That an asynchronous run has ended is told in another context, which cannot take it out of its caller's; so a run is marked as over, for all
who see it. Of a stream that somebody has left nothing is told until it is collected: until then it is seen by who calls the cache himself.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.tracers.context import register_configure_hook
from layered_cache import CallOptions, current_options

from langchain_layered_cache._runs import METADATA, with_said


@dataclass(slots=True)
class _Chain:
    run_id: UUID
    said: object
    outer: _Chain | None
    live: bool = True


_current: ContextVar[_Chain | None] = ContextVar("layered_cache_chain", default=None)


def options_here() -> CallOptions:
    """Return what the caller has said, in the metadata of the run that it is inside of and around it.

    Raises:
        ConfigurationError: It may not be said.
    """
    chain = _live()
    return with_said(current_options(), None if chain is None else chain.said)


def _live() -> _Chain | None:
    chain = _current.get()
    while chain is not None and not chain.live:
        chain = chain.outer
    return chain


def _of_run(run_id: UUID | None) -> _Chain | None:
    chain = _current.get()
    while chain is not None and chain.run_id != run_id:
        chain = chain.outer
    return chain


class _Listener(BaseCallbackHandler):
    """Told of every chain in the caller's own thread or task."""

    run_inline = True
    ignore_llm = ignore_chat_model = ignore_retriever = ignore_agent = ignore_custom_event = True  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride] - properties there

    def on_chain_start(
        self,
        serialized: object,  # noqa: ARG002 - LangChain's signature
        inputs: object,  # noqa: ARG002
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        metadata: dict[str, Any] | None = None,
        **_: Any,  # noqa: ANN401
    ) -> None:
        """Note what is said. A run that is inside of none begins anew, whatever was cancelled before it."""
        outer = None if parent_run_id is None else _of_run(parent_run_id) or _live()
        _current.set(_Chain(run_id, metadata.get(METADATA) if metadata else None, outer))

    def on_chain_end(self, outputs: object, *, run_id: UUID, **_: Any) -> None:  # noqa: ANN401, ARG002 - LangChain's signature
        """Note that it holds no longer."""
        if (chain := _of_run(run_id)) is not None:
            chain.live = False
            _current.set(_live())

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:  # noqa: ANN401, ARG002 - LangChain's signature
        """Note that it holds no longer."""
        self.on_chain_end(None, run_id=run_id)


_hook: ContextVar[_Listener | None] = ContextVar("layered_cache_chain_listener", default=_Listener())  # noqa: B039 - it has no state
_registered = False


def listen() -> None:
    """Have LangChain tell of its chains from now on, in all threads and tasks."""
    global _registered  # noqa: PLW0603 - once per process
    if not _registered:
        _registered = True
        register_configure_hook(_hook, inheritable=True)
