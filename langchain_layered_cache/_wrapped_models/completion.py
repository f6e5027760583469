"""The methods of a wrapped completion model.

LangChain leaves the parameters of the call out of the `llm_string` of such models, and reads the cache before the callbacks. Here the
parameters are in it, and the call has a run: options in its metadata apply, and concurrent equal calls are one request.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping
from contextlib import aclosing, closing, contextmanager
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseLLM
from langchain_core.outputs import GenerationChunk, LLMResult

from langchain_layered_cache._callbacks.model_runs import METADATA, Run, in_run
from langchain_layered_cache._keys.key_options import known_key_options
from langchain_layered_cache._wrapped_models.chat import answers_streams_of, at_work, begin_work, known_account
from langchain_layered_cache._wrapped_models.chunks import PlainForm, Replay
from langchain_layered_cache._wrapped_models.stream import Asking
from langchain_layered_cache.cache import LayeredCache

_kwargs: ContextVar[Mapping[str, Any] | None] = ContextVar("layered_cache_kwargs", default=None)

if TYPE_CHECKING:
    _PlainModel = BaseLLM
else:
    _PlainModel = object  # the derived class has the class of the model as its second base


class WrappedPlain(_PlainModel):
    """The cached methods, first in the bases of a derived class."""

    __slots__ = ()
    replay: ClassVar[Replay]
    layered_cache_front: ClassVar[bool] = True

    def generate(self, prompts: list[str], stop: list[str] | None = None, callbacks: Any = None, **kwargs: Any) -> LLMResult:  # noqa: ANN401 - LangChain's
        """See BaseLLM.generate."""
        calls = _calls(len(prompts), callbacks, kwargs)
        results: list[LLMResult] = []
        for start, end, said, of_call in calls:
            with _known(self, said, of_call):
                results.append(super().generate(prompts[start:end], stop, **of_call))
        return _together(results)

    async def agenerate(self, prompts: list[str], stop: list[str] | None = None, callbacks: Any = None, **kwargs: Any) -> LLMResult:  # noqa: ANN401 - LangChain's
        """See generate."""
        calls = _calls(len(prompts), callbacks, kwargs)
        results: list[LLMResult] = []
        for start, end, said, of_call in calls:
            with _known(self, said, of_call):
                results.append(await super().agenerate(prompts[start:end], stop, **of_call))
        return _together(results)

    def dict(self, **kwargs: Any) -> dict[str, Any]:  # noqa: ANN401 - LangChain's signature
        """Return the parameters, within a call with those of the call. LangChain makes its `llm_string` of them."""
        return {**super().dict(**kwargs), **(_kwargs.get() or {})}

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,  # noqa: ANN401 - LangChain's signature
    ) -> Iterator[GenerationChunk]:
        if (cache := answers_streams_of(self, kwargs, None)) is None:
            manager = {} if run_manager is None else {"run_manager": run_manager}
            yield from super()._stream(prompt, stop=stop, **manager, **kwargs)
            return
        live = partial(super()._stream, prompt, stop=stop, **kwargs)  # shared readers must not depend on the callbacks of this caller
        with closing(self._asking(cache, prompt, stop, run_manager, kwargs).stream(live)) as chunks:
            for chunk in chunks:
                if run_manager is not None:
                    run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    async def _astream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,  # noqa: ANN401 - LangChain's signature
    ) -> AsyncIterator[GenerationChunk]:
        if (cache := answers_streams_of(self, kwargs, None)) is None:
            manager = {} if run_manager is None else {"run_manager": run_manager}
            async for chunk in super()._astream(prompt, stop=stop, **manager, **kwargs):
                yield chunk
            return
        live = partial(super()._astream, prompt, stop=stop, **kwargs)
        async with aclosing(self._asking(cache, prompt, stop, run_manager, kwargs).astream(live)) as chunks:
            async for chunk in chunks:
                if run_manager is not None:
                    await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    def _asking(
        self,
        cache: LayeredCache,
        prompt: str,
        stop: list[str] | None,
        run_manager: CallbackManagerForLLMRun | AsyncCallbackManagerForLLMRun | None,
        kwargs: dict[str, Any],
    ) -> Asking[GenerationChunk]:
        """Return the stream, with the texts that LangChain would pass to a cache."""
        said = None if run_manager is None else run_manager.metadata.get(METADATA)
        written = cast("Callable[[], dict[str, Any]]", getattr(self, "_dict_for_compat", self.dict))

        def texts() -> tuple[str, str]:
            return prompt, str(sorted({**written(), "stop": stop, **kwargs}.items()))

        with known_key_options(self), known_account(self, cache) as account:
            run = Run(None, said, None, plain=True)
            return Asking(self, cache, texts, PlainForm(type(self).replay), partial(begin_work, self, account), run)


_OF_CALLS = ("callbacks", "tags", "metadata", "run_name", "run_id")
_Call = tuple[int, int, object, dict[str, Any]]


def _calls(count: int, callbacks: object, kwargs: dict[str, Any]) -> list[_Call]:
    """Return the parts of a call with equal cache options: several, if the options differ between prompts.

    Each part has the index of its first prompt, the index after its last, the options and the arguments.
    """
    arguments = {"callbacks": callbacks, **kwargs}
    metadata = arguments.get("metadata")
    if not isinstance(metadata, list):
        return [(0, count, _said(metadata), arguments)]
    said = [_said(one) for one in cast("list[object]", metadata)]
    starts = [place for place in range(len(said)) if place == 0 or said[place] != said[place - 1]]
    if len(starts) <= 1:
        return [(0, count, said[0] if said else None, arguments)]
    return [
        (start, end, said[start], {name: _part(name, value, start, end) for name, value in arguments.items()})
        for start, end in zip(starts, [*starts[1:], count], strict=True)
    ]


def _said(metadata: object) -> object:
    return cast("dict[str, object]", metadata).get(METADATA) if isinstance(metadata, dict) else None


def _part(name: str, value: object, start: int, end: int) -> object:
    """Return the part of an argument for some of the prompts: with a list of metadata, all these are lists."""
    return cast("list[object]", value)[start:end] if name in _OF_CALLS and isinstance(value, list) else value


@contextmanager
def _known(model: WrappedPlain, said: object, of_call: dict[str, Any]) -> Generator[None]:
    """Open a call with the parameters *of_call* and the options *said* for the block."""
    token = _kwargs.set({name: value for name, value in of_call.items() if name not in _OF_CALLS})
    try:
        with at_work(model), in_run(model, said):
            yield
    finally:
        _kwargs.reset(token)


def _together(results: list[LLMResult]) -> LLMResult:
    """Return the results of several calls as one."""
    if len(results) == 1:
        return results[0]
    runs = [run for result in results for run in result.run or ()]
    return LLMResult(
        generations=[one for result in results for one in result.generations],
        llm_output=next((result.llm_output for result in results if result.llm_output), None),
        run=runs or None,
    )
