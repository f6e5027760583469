"""What LangChain says of a call before it asks the cache, and when the call is over.

A cache is handed two texts. Callbacks are told more, and first: the options that the caller put into the metadata of the call, and the
parameters as they are now. So one handler stands in front of every chat model of the process, and leaves a `Run` where `lookup` and
`update`, called by the same thread or task, find it. It does nothing else.

It says too that a call is over (its thread has failed, or has its answer), so that nobody waits for it any longer. A task that is cancelled
says nothing; whoever leads by a task must look at the task.

Plain LLMs ask the cache before they tell anybody: for them there is no run, and options come from `cache_options` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, cast
from uuid import UUID, uuid4

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.tracers.context import register_configure_hook
from layered_cache import CallOptions, ConfigurationError, current_options

METADATA = "llm_cache"

_DEEPEST = 16  # runs inside runs


class Run:
    """One call of a chat model, which may be of several prompts.

    `params` are the parameters of the call as they are now; `options` what the caller has said; it is `live` until the call is over.
    `outer` is the call that it is inside of, `depth` how many there are.
    """

    __slots__ = ("_error", "_ids", "_options", "_releases", "depth", "live", "outer", "params")

    def __init__(self, params: Mapping[str, Any] | None, said: object, outer: Run | None) -> None:
        self.params = params
        self.live = True
        # what is far outside is forgotten: calls that are cancelled never end, and the next one takes them for its outer one
        self.outer = outer if outer is not None and outer.depth < _DEEPEST else None
        self.depth = 0 if self.outer is None else self.outer.depth + 1
        self._ids: list[UUID] = []
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
        self._ids.append(run_id)

    def has(self, run_id: UUID) -> bool:
        """Whether that prompt is one of this call."""
        return run_id in self._ids

    def end(self, run_id: UUID) -> None:
        """Note that a prompt of this call is done with; after the last one, the call is over."""
        self._ids.remove(run_id)
        if not self._ids:
            self.live = False
            for release in self._releases:
                release()
            self._releases.clear()

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


@contextmanager
def in_run(said: object) -> Generator[None]:
    """Have the caller be inside a call of which LangChain tells nobody in time, and in whose metadata the cache is *said* this."""
    run, run_id = Run(None, said, current_run()), uuid4()
    run.begin(run_id)
    token = _current.set(run)
    try:
        yield
    finally:
        _current.reset(token)
        run.end(run_id)


class _Listener(BaseCallbackHandler):
    """Told of every call of a chat model in the caller's own thread or task."""

    run_inline = True

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
            _current.set(run)
        run.begin(run_id)

    def on_llm_end(self, response: object, *, run_id: UUID, **kwargs: Any) -> None:  # noqa: ANN401, ARG002 - LangChain's signature
        """Note that it is over."""
        self._end(run_id)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:  # noqa: ANN401, ARG002 - LangChain's signature
        """Note that it is over."""
        self._end(run_id)

    @staticmethod
    def _end(run_id: UUID) -> None:
        inner = run = _current.get()
        while run is not None and not run.has(run_id):
            run = run.outer
        if run is not None:
            run.end(run_id)
            if not run.live and (run is inner or not cast("Run", inner).live):
                _current.set(run.outer)


_listener = _Listener()
hook: ContextVar[_Listener | None] = ContextVar("layered_cache_listener", default=_listener)
_registered = False


def listen() -> None:
    """Have LangChain tell of its calls from now on, in all threads and tasks."""
    global _registered  # noqa: PLW0603 - once per process
    if not _registered:
        _registered = True
        register_configure_hook(hook, inheritable=True)
