"""The calls of chat models that LangChain announces by callbacks before it reads the cache.

A cache gets two texts. Callbacks get more, and earlier: the options in the metadata of the call, and its current parameters. So
one handler for all chat models of the process puts a `Run` into the context, where `lookup` and `update` find it in the same
thread or task.

The handler also records the end of a call, so that followers stop waiting for it. A task that is cancelled causes no callback, so
a leader that is a task is checked itself.

Completion models read the cache before their callbacks: they have no run, and their options come from `cache_options` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar, cast
from uuid import UUID

from langchain_core.caches import BaseCache
from langchain_core.globals import get_llm_cache
from langchain_core.language_models.base import BaseLanguageModel
from langchain_core.outputs import ChatGenerationChunk, LLMResult
from langchain_core.tracers.context import register_configure_hook
from layered_cache import CallOptions, ConfigurationError, current_options
from layered_cache.adapters.log_once import Once

from langchain_layered_cache._callbacks import refusals
from langchain_layered_cache._keys.messages import is_written_out_model

METADATA = "llm_cache"

_STREAM = "a stream is not cached: LangChain does not use the global cache for stream() and astream(). Wrap the model: cached(model)"

_DEEPEST = 16  # runs inside runs
_once = Once()


def with_said(options: CallOptions, said: object) -> CallOptions:
    """Return *options* with the options *said* in the metadata of a call.

    Raises:
        ConfigurationError: If an option is invalid.
    """
    if said is None:
        return options
    if not isinstance(said, Mapping):
        msg = f'metadata["{METADATA}"] must be a dict of options, such as {{"ttl": "5m"}}, not a {type(said).__qualname__}'
        raise ConfigurationError(msg)
    if "account" in said:
        msg = "an account may be a secret, and metadata is shown to tracers. Use cache_options(account=...)"
        raise ConfigurationError(msg)
    try:
        return options.with_(cast("Mapping[str, object]", said))
    except ConfigurationError:
        raise
    except Exception as error:  # an object of any class; one invalid option makes all invalid
        msg = f"an option of the call cannot be read: {type(error).__name__}"
        raise ConfigurationError(msg) from error


class Run:
    """One call of a model with one or more prompts.

    `params` are the current parameters of the call, and `options` those of the caller. `live` is True until the call ends. `outer` is
    the enclosing call, and `depth` the number of enclosing calls. The call is of a chat model unless it is `plain`. `place` is its
    position among the chains of LangChain, if that is known. `model` is the model if that is wrapped.
    """

    __slots__ = (
        "_error",
        "_ids",
        "_left",
        "_options",
        "_releases",
        "cached",
        "depth",
        "live",
        "model",
        "outer",
        "params",
        "place",
        "plain",
    )

    def __init__(self, params: Mapping[str, Any] | None, said: object, outer: Run | None, *, plain: bool = False) -> None:
        self.params = params
        self.plain = plain
        self.place: refusals.Place | None = None
        self.model: BaseLanguageModel[Any] | None = None
        self.live = True
        self.cached = False  # True: the model is wrapped, and the cache was used for its stream
        # distant outer calls are dropped: a cancelled call never ends, and the next call takes it for its outer one
        self.outer = outer if outer is not None and outer.depth < _DEEPEST else None
        self.depth = 0 if self.outer is None else self.outer.depth + 1
        self._ids: list[UUID] = []
        self._left = 0  # prompts that were not looked up yet
        self._releases: list[Callable[[], None]] = []
        self._error: ConfigurationError | None = None
        self._options = current_options()
        try:
            self._options = with_said(self._options, said)
        except ConfigurationError as error:
            self._error = error

    @property
    def options(self) -> CallOptions:
        """The options of the caller, in the metadata of the call and around it.

        Raises:
            ConfigurationError: If an option is invalid. (LangChain catches errors of callbacks.)
        """
        if self._error is not None:
            raise self._error
        return self._options

    def begin(self, run_id: UUID) -> None:
        """Record that a prompt of this call has started."""
        self._ids.append(run_id)
        self._left += 1

    def has(self, run_id: UUID) -> bool:
        """Return True if that prompt is one of this call."""
        return run_id in self._ids

    def is_of(self, llm_string: object) -> bool:
        """Return False if *llm_string* names a model of another type: a plain LLM called while a stream of this call is open."""
        kind = (self.params or {}).get("_type")
        return kind is None or is_written_out_model(llm_string) or f"('_type', {kind!r})" in str(llm_string)

    @property
    def is_looked_up(self) -> bool:
        """True if the cache was used for a prompt of this call."""
        return self.cached or self._left < len(self._ids)

    def take(self) -> bool:
        """Return True if a lookup can be one of this call: a chat model looks each prompt up once."""
        self._left -= 1
        return self._left >= 0 or self.plain

    def end(self) -> None:
        """Record that the call is over. LangChain reports it for the first prompt that fails, or for all."""
        self.live = False
        for release in self._releases:
            release()
        self._releases.clear()

    def led(self, release: Callable[[], None]) -> None:
        """Call *release* when the call is over."""
        self._releases.append(release)


current_account: ContextVar[str | None] = ContextVar("layered_cache_account", default=None)
"""The API key of the model that is called, as far as somebody who knows the model has said so."""

_current: ContextVar[Run | None] = ContextVar("layered_cache_run", default=None)


def current_run() -> Run | None:
    """Return the innermost live call around the caller."""
    run = _current.get()
    while run is not None and not run.live:
        run = run.outer
    return run


def take_run(llm_string: object, *, like_messages: bool) -> Run | None:
    """Return the call of a lookup; None if LangChain has announced none. Then the options around the lookup apply.

    A call may end without a callback (it was cancelled, or a handler hid its error), or be open beside other calls (a stream whose
    loop encloses the caller). So a call takes as many lookups as it has prompts.

    Args:
        llm_string: The text of LangChain.
        like_messages: True if the prompt looks like messages, as that of a chat model does.
    """
    run = current_run()
    if run is None or not (run.plain or (like_messages and run.is_of(llm_string))):
        return None
    return run if run.take() else None


def run_of(run_manager: object) -> Run | None:
    """Return the call of LangChain's *run_manager*; without one (streams have none), the last call that began."""
    if (run_id := getattr(run_manager, "run_id", None)) is None:
        run = current_run()
        return None if run is None or run.plain else run
    run = _current.get()
    while run is not None and not run.has(run_id):
        run = run.outer
    return run


Asked = TypeVar("Asked")

# the texts and calls of recent misses: the current run may have changed before the update
_asked: ContextVar[tuple[tuple[str | None, str, object], ...]] = ContextVar("layered_cache_asked", default=())


def note_asked(prompt: str | None, llm_string: str, asked: object) -> None:
    """Record a miss with these texts, since an update may follow. None as the prompt means all prompts of one call."""
    noted = _asked.get()
    if prompt is None and noted and noted[-1][0] is None and noted[-1][1] is llm_string:
        return
    _asked.set((*noted[-_DEEPEST:], (prompt, llm_string, asked)))


def asked_by(prompt: str, llm_string: str, kind: type[Asked]) -> Asked | None:
    """Return the miss with these texts. A miss of a single prompt is returned once."""
    noted = _asked.get()
    for place in range(len(noted) - 1, -1, -1):
        of, text, asked = noted[place]
        if text is llm_string and (of is prompt or of is None) and isinstance(asked, kind):
            if of is not None:
                _asked.set((*noted[:place], *noted[place + 1 :]))
            return asked
    return None


@contextmanager
def in_run(model: BaseLanguageModel[Any], said: object) -> Generator[None]:
    """Open a call of a completion *model* for the block, since LangChain announces it too late.

    Args:
        model: The model.
        said: The options in the metadata of the call.
    """
    run = Run(None, said, current_run(), plain=True)
    run.model = model
    token = _current.set(run)
    try:
        yield
    finally:
        _current.reset(token)
        run.end()


class _Listener(refusals.ChainListener):
    """Receives the events of all chat models and chains, in the thread or task of their caller.

    One handler for both: LangChain spends some microseconds of each call on each handler.
    """

    def on_chat_model_start(
        self,
        serialized: dict[str, Any],  # noqa: ARG002 - LangChain's signature
        messages: object,  # noqa: ARG002
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        """Record the run. The prompts of a call share their parameters and their run."""
        params: dict[str, Any] | None = kwargs.get("invocation_params")
        run = current_run()
        if run is None or params is None or run.params is not params:
            run = Run(params, metadata.get(METADATA) if metadata else None, run)
            run.place = refusals.Place(parent_run_id, tags)
            _current.set(run)
        run.begin(run_id)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:  # noqa: ANN401, ARG002 - LangChain's signature
        """Record the end, and log once if it was a stream that LangChain did not look up."""
        run = current_run()
        if run is not None and run.has(run_id) and not run.is_looked_up and _is_stream(response) and _is_layered(get_llm_cache()):
            _once.warn(_STREAM)
        self._end(run_id)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:  # noqa: ANN401, ARG002 - LangChain's signature
        """Record the end."""
        refusals.of_a_model(error)
        self._end(run_id)

    @staticmethod
    def _end(run_id: UUID) -> None:
        run = _current.get()
        while run is not None and not run.has(run_id):
            run = run.outer
        if run is not None:
            run.end()
            _current.set(current_run())


def _is_stream(response: LLMResult) -> bool:
    """Return True if LangChain made *response* of the chunks of a stream."""
    return any(isinstance(generation, ChatGenerationChunk) for generations in response.generations for generation in generations)


def _is_layered(cache: BaseCache | None) -> bool:
    from langchain_layered_cache.cache import LayeredCache  # noqa: PLC0415 - that module imports this one

    return isinstance(cache, LayeredCache)


_listener = _Listener()
hook: ContextVar[_Listener | None] = ContextVar("layered_cache_listener", default=_listener)
_registered = False


def listen() -> None:
    """Register the handler with LangChain, for all threads and tasks."""
    global _registered  # noqa: PLW0603 - once per process
    if not _registered:
        _registered = True
        register_configure_hook(hook, inheritable=True)
