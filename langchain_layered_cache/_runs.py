"""What LangChain says of a call before it asks the cache, and when the call is over.

A cache is handed two texts. Callbacks are told more, and first: the options that the caller put into the metadata of the call, and the
parameters as they are now. So one handler stands in front of every chat model of the process, and leaves a `Run` where `lookup` and
`update`, called by the same thread or task, find it. It does nothing else.

It says too that a call is over (its thread has failed, or has its answer), so that nobody waits for it any longer. A task that is cancelled
says nothing; whoever leads by a task must look at the task.

Plain LLMs ask the cache before they tell anybody: for them there is no run, and options come from `cache_options` alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, cast
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.tracers.context import register_configure_hook
from layered_cache import CallOptions, ConfigurationError, current_options

METADATA = "llm_cache"

_MOST = 4096  # runs that never ended: tasks that were cancelled
_DEEPEST = 16  # runs inside runs


class Run:
    """One call of a chat model, which may be of several prompts.

    `params` are the parameters of the call as they are now; `options` what the caller has said; it is `live` until the call is over.
    """

    __slots__ = ("_error", "_ids", "_options", "_releases", "live", "outer", "params")

    def __init__(self, params: Mapping[str, Any] | None, said: object, outer: Run | None) -> None:
        self.params = params
        self.live = True
        self.outer = outer
        self._ids: set[UUID] = set()
        self._releases: list[Callable[[], None]] = []
        self._error: ConfigurationError | None = None
        self._options = current_options()
        if said is not None:
            self._take(said)

    def _take(self, said: object) -> None:
        try:
            if not isinstance(said, Mapping):
                msg = f'metadata["{METADATA}"] must be a dict of options, such as {{"ttl": "5m"}}, not a {type(said).__qualname__}'
                raise ConfigurationError(msg)  # noqa: TRY301 - told where the caller can hear it
            self._options = self._options.with_(cast("Mapping[str, object]", said))
        except ConfigurationError as error:
            self._error = error

    @property
    def options(self) -> CallOptions:
        """What the caller has said, in the metadata of the call and around it.

        Raises:
            ConfigurationError: It may not be said. (LangChain keeps what callbacks raise to itself.)
        """
        if self._error is not None:
            raise self._error
        return self._options

    def begin(self, run_id: UUID) -> None:
        """Note that a prompt of this call is under way."""
        self._ids.add(run_id)

    def end(self, run_id: UUID) -> bool:
        """Note that a prompt of this call is done with; return whether all are."""
        self._ids.discard(run_id)
        if self._ids:
            return False
        self.live = False
        for release in self._releases:
            release()
        self._releases.clear()
        return True

    def led(self, release: Callable[[], None]) -> None:
        """Have *release* called when the call is over."""
        self._releases.append(release)


current_account: ContextVar[str | None] = ContextVar("layered_cache_account", default=None)
"""The API key of the model that is called, as far as somebody who knows the model has said so."""

_current: ContextVar[Run | None] = ContextVar("layered_cache_run", default=None)


def current_run() -> Run | None:
    """Return the call that the caller is inside of, if it is one of a chat model."""
    run = _current.get()
    return run if run is not None and run.live else None


class _Listener(BaseCallbackHandler):
    """Told of every call of a chat model in the caller's own thread or task."""

    run_inline = True

    def __init__(self) -> None:
        self.runs: dict[UUID, Run] = {}

    @property
    def ignore_chain(self) -> bool:
        """Chains are none of its business."""
        return True

    @property
    def ignore_retriever(self) -> bool:
        """Nor are retrievers."""
        return True

    def on_chat_model_start(
        self,
        serialized: dict[str, Any],  # noqa: ARG002 - LangChain's signature
        messages: object,  # noqa: ARG002
        *,
        run_id: UUID,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        """Note the run: one for all prompts of a call, which have their parameters in common."""
        params: dict[str, Any] | None = kwargs.get("invocation_params")
        run = current_run()
        if run is None or params is None or run.params is not params:
            run = Run(params, metadata.get(METADATA) if metadata else None, run)
            _shorten(run)
            _current.set(run)
        run.begin(run_id)
        self.runs[run_id] = run
        if len(self.runs) > _MOST:
            self.runs.pop(next(iter(self.runs), run_id), None)

    def on_llm_end(self, response: object, *, run_id: UUID, **kwargs: Any) -> None:  # noqa: ANN401, ARG002 - LangChain's signature
        """Note that it is over."""
        self._end(run_id)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:  # noqa: ANN401, ARG002 - LangChain's signature
        """Note that it is over."""
        self._end(run_id)

    def _end(self, run_id: UUID) -> None:
        run = self.runs.pop(run_id, None)
        if run is not None and run.end(run_id) and _current.get() is run:
            _current.set(run.outer)


def _shorten(run: Run) -> None:
    """Forget what is far outside: calls that were cancelled never end, and the next ones take them for their outer ones."""
    outer: Run | None = run
    for _ in range(_DEEPEST):
        outer = None if outer is None else outer.outer
    if outer is not None:
        outer.outer = None


_listener = _Listener()
_hook: ContextVar[_Listener | None] = ContextVar("layered_cache_listener", default=_listener)
_registered = False


def listen() -> None:
    """Have LangChain tell of its calls from now on, in all threads and tasks."""
    global _registered  # noqa: PLW0603 - once per process
    if not _registered:
        _registered = True
        register_configure_hook(_hook, inheritable=True)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_listener.runs.clear)
