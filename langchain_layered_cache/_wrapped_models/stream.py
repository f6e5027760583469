"""A stream of a wrapped model: its request in LangChain's texts, and its chunks. See `layered_cache.adapters.cached_stream`.

The stored answer equals that of an `invoke`, so streams and `invoke` share entries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic, Protocol, TypeVar

from langchain_core.language_models.base import BaseLanguageModel
from langchain_core.outputs import Generation
from layered_cache import Answer, Request, UncacheableRequestError
from layered_cache.adapters.cached_stream import Streaming

from langchain_layered_cache._call import Call
from langchain_layered_cache._callbacks.model_runs import Run
from langchain_layered_cache._callbacks.refusals import open_chains
from langchain_layered_cache.cache import LayeredCache

C = TypeVar("C", bound=Generation)


class Form(Protocol[C]):
    """The chunks of a kind of model."""

    def replayed(self, generations: list[Generation]) -> list[C] | None:
        """Return stored generations as chunks; None if that is not possible."""
        ...

    def merged(self, chunks: Iterator[C]) -> list[Generation]:
        """Return the generations to store for *chunks*, which may be changed."""
        ...

    def free(self, chunk: C) -> C:
        """Return *chunk*, which may be changed, with the mark that it cost nothing."""
        ...


class Asking(Streaming[C], Generic[C]):
    """One stream of a caller.

    Args:
        model: The model that streams.
        cache: The cache of the stream.
        texts: Returns the `prompt` and the `llm_string` that LangChain would pass to a cache. If it raises, nothing is cached.
        form: The kind of chunks.
        prepare: A function that is called in the context of the model.
        run: The call of the stream.

    Raises:
        ConfigurationError, TenantRequiredError, CacheMiss: See `LayeredCache.lookup`.
    """

    def __init__(
        self,
        model: BaseLanguageModel[Any],
        cache: LayeredCache,
        texts: Callable[[], tuple[str, str]],
        form: Form[C],
        prepare: Callable[[], object],
        run: Run | None,
    ) -> None:
        self._cache = cache
        self._texts = ("", "")
        self._form = form
        self._prepare = prepare
        if run is not None:
            run.cached = True
        self._call: Call = cache.calls.begin(run, model, plain=run is not None and run.plain)
        key: str | None = None
        try:
            if self._call.options.mode != "bypass":
                self._texts = _written(texts)
                if (key := cache.calls.key(self._call, *self._texts)) is not None and open_chains:
                    self._call = cache.calls.noted(self._call, key)
        except UncacheableRequestError as error:
            cache.calls.refuse(self._call, str(error))
        except Exception as error:  # noqa: BLE001 - the model is called in any case
            cache.failed("lookup", error)
        super().__init__(self._call.cache, self._call.options, key, cache)

    def peek(self, key: str) -> list[C] | None:
        """See Streaming."""
        return self._replayed(self._cache.peek(self._call, key))

    def find(self, key: str) -> list[C] | None:
        """See Streaming."""
        return self._replayed(self._cache.find(self._call, key, *self._texts))

    async def afind(self, key: str) -> list[C] | None:
        """See Streaming."""
        return self._replayed(await self._cache.afind(self._call, key, *self._texts))

    def answer(self, chunks: Iterator[C]) -> tuple[Request, Answer] | None:
        """See Streaming."""
        found = self._cache.calls.answer(self._call, *self._texts, self._form.merged(chunks))
        return None if found is None or found[1] is None else (found[0], found[1])

    def free(self, chunk: C) -> C:
        """See Streaming."""
        return self._form.free(chunk)

    def prepare(self) -> None:
        """See Streaming."""
        self._prepare()

    def _replayed(self, found: list[Generation] | None) -> list[C] | None:
        return None if found is None else self._form.replayed(found)


def _written(texts: Callable[[], tuple[str, str]]) -> tuple[str, str]:
    """Return *texts*.

    Raises:
        UncacheableRequestError: If LangChain cannot serialize the request.
    """
    try:
        return texts()
    except Exception as error:
        msg = f"it cannot be written as a text ({type(error).__name__})"
        raise UncacheableRequestError(msg) from error
