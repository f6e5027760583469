"""Facts about the runs of graphs that LangGraph does not pass to a node cache: options in their metadata, and answers of people.

Callers pass options as `config={"metadata": {"llm_cache": {...}}}`. LangGraph calls callbacks at the start of a run, in the thread or task
of the run and before it reads the cache. So there is one handler for all chains of the process, once there is a node cache. It keeps the
options in the context. Runs inside a run inherit its metadata, by LangChain's doing, or replace them.

The handler also notes nodes that ran a graph or a task while their thread was resumed (`Resumed`).

LangGraph reports the end of an asynchronous run in another context, which cannot change the context of the caller. So the run is marked as
over. A stream that its reader has left is reported when it is collected: until then, direct calls of the cache still see its run.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import var_child_runnable_config
from langchain_core.tracers.context import register_configure_hook
from langgraph.cache.base import Namespace
from layered_cache import CallOptions, current_options

from langchain_layered_cache._callbacks.model_runs import METADATA, with_said

RESUME = "__resume__"
"""The channel that LangGraph writes the answer of a person to, when `interrupt()` returns it."""

OF_AN_ANSWER = "depends on the answer to an interrupt"
"""The reason why a result is not stored."""

_SEND = "__pregel_send"  # a method of the writes of a task
_RESUMING = "__pregel_resuming"  # set by LangGraph for the tasks that a resumed run begins with
_PLACE = "langgraph_checkpoint_ns"  # "outer:<id>|inner:<id>": the nodes and tasks that a run is inside of, with itself
_TASK = 2  # parts of a namespace that has no node


class Resumed:
    """Nodes with results that may depend on the answer of a person to an `interrupt()` inside of them.

    The writes of a node itself show such an answer. The writes of a node that runs a graph, or of a workflow that runs tasks, do not.
    """

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._tasks = False

    def note(self, place: str) -> None:
        """Record that a run at *place* has begun."""
        outer = [part.partition(":")[0] for part in place.split("|")[:-1]]
        self._names.update(outer)
        self._tasks = self._tasks or len(outer) > 1

    def covers(self, namespace: Namespace) -> bool:
        """Return True if the writes under *namespace* may depend on such an answer.

        A task may have another name in a namespace than in a place, so one task makes all count.
        """
        return self._tasks if len(namespace) <= _TASK else namespace[-1] in self._names


@dataclass(slots=True)
class _Chain:
    run_id: UUID
    said: object
    outer: _Chain | None
    resumed: Resumed
    live: bool = True


_current: ContextVar[_Chain | None] = ContextVar("layered_cache_chain", default=None)


def options_here() -> CallOptions:
    """Return the options of the caller, in the metadata of its run and around it.

    Raises:
        ConfigurationError: If an option is invalid.
    """
    chain = _live()
    return with_said(current_options(), None if chain is None else chain.said)


def resumed_here() -> Resumed | None:
    """Return the notes of the outermost run around the caller; None: there is no run."""
    chain = _live()
    return None if chain is None else chain.resumed


def has_answer(config: RunnableConfig) -> bool:
    """Return True if the result of the task with *config* may depend on the answer of a person to an `interrupt()`."""
    writes = cast("Iterable[tuple[str, object]]", getattr(config.get("configurable", {}).get(_SEND), "__self__", ()))
    if any(channel == RESUME for channel, _ in tuple(writes)):
        return True
    node, resumed = config.get("metadata", {}).get("langgraph_node", ""), resumed_here()
    return resumed is not None and resumed.covers(("", "", node))


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
    """Receives the events of all chains, in the thread or task of their caller."""

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
        """Record the options of the run. A run without a parent has no outer run, even if a cancelled run has left its context."""
        outer = None if parent_run_id is None else _of_run(parent_run_id) or _live()
        resumed = Resumed() if outer is None else outer.resumed
        metadata = metadata or {}
        if outer is not None and _PLACE in metadata and _is_resuming():
            resumed.note(metadata[_PLACE])
        _current.set(_Chain(run_id, metadata.get(METADATA), outer, resumed))

    def on_chain_end(self, outputs: object, *, run_id: UUID, **_: Any) -> None:  # noqa: ANN401, ARG002 - LangChain's signature
        """Mark the run as over."""
        if (chain := _of_run(run_id)) is not None:
            chain.live = False
            _current.set(_live())

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:  # noqa: ANN401, ARG002 - LangChain's signature
        """Mark the run as over."""
        self.on_chain_end(None, run_id=run_id)


def _is_resuming() -> bool:
    """Return True if the node around this run was resumed: here the configuration is still that of the node."""
    return bool((var_child_runnable_config.get() or {}).get("configurable", {}).get(_RESUMING))


_hook: ContextVar[_Listener | None] = ContextVar("layered_cache_chain_listener", default=_Listener())  # noqa: B039 - it has no state
_registered = False


def listen() -> None:
    """Register the handler with LangChain, for all threads and tasks."""
    global _registered  # noqa: PLW0603 - once per process
    if not _registered:
        _registered = True
        register_configure_hook(_hook, inheritable=True)
