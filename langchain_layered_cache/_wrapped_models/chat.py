"""The methods of a wrapped chat model: its streams use the cache, and the cache knows its API key.

`cached_model` derives a class from this one and the class of a model. It has no state, so copies, pickles and `llm_string` are those of the
model. `invoke` uses the cache as LangChain does. A stream inside of `invoke`, which stores it, is not cached again.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from contextlib import aclosing, closing, contextmanager
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, cast

from langchain_core.caches import BaseCache
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.globals import get_llm_cache
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.base import BaseLanguageModel
from langchain_core.load import dumps
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.rate_limiters import BaseRateLimiter
from layered_cache.adapters.log_once import Once

from langchain_layered_cache._callbacks.model_runs import Run, current_account, run_of
from langchain_layered_cache._keys.account import account_of
from langchain_layered_cache._keys.item_ids import without_repeated_ids
from langchain_layered_cache._keys.key_options import current_key_options, key_options_of, known_key_options
from langchain_layered_cache._wrapped_models.chunks import ChatForm, Replay
from langchain_layered_cache._wrapped_models.stream import Asking
from langchain_layered_cache.cache import LayeredCache

_once = Once()
_at_work: ContextVar[object] = ContextVar("layered_cache_at_work", default=None)


def cache_of(model: BaseLanguageModel[Any]) -> LayeredCache | None:
    """Return the current cache of *model*, if it is a `LayeredCache`."""
    own = model.cache
    cache = None if own is False else own if isinstance(own, BaseCache) else get_llm_cache()
    return cache if isinstance(cache, LayeredCache) else None


def note_missing_cache(model: BaseLanguageModel[Any]) -> None:
    """Log once that a wrapped *model* is called without any cache. `model.cache = False` is a choice and is not logged."""
    if model.cache is not False and not isinstance(model.cache, BaseCache) and get_llm_cache() is None:
        _once.warn(
            "cached(model) is called without a cache: call set_llm_cache(LayeredCache(...)), or pass cached(model, LayeredCache(...))"
        )


def begin_work(model: BaseLanguageModel[Any], account: str | None) -> None:
    """Record that a call of *model* runs from here on. Its streams are parts of the call."""
    _at_work.set(model)
    current_account.set(account)


@contextmanager
def known_account(model: BaseLanguageModel[Any], cache: LayeredCache) -> Generator[str | None]:
    """Set the API key of *model* for the block, if the cache separates accounts."""
    account = account_of(model) if cache.engine.policy.separate_accounts else None
    token = current_account.set(account)
    try:
        yield account
    finally:
        current_account.reset(token)


@contextmanager
def at_work(model: BaseLanguageModel[Any], run: Run | None = None) -> Generator[None]:
    """Record that a call of *model* runs in the block, in *run*."""
    token = _at_work.set(model)
    options = current_key_options.set(key_options_of(model))
    if run is not None:
        run.model = model
    try:
        if (cache := cache_of(model)) is None:
            note_missing_cache(model)
            yield
        elif cache.engine.policy.separate_accounts:
            with known_account(model, cache):
                yield
        else:
            yield
    finally:
        _at_work.reset(token)
        current_key_options.reset(options)


def answers_streams_of(model: BaseLanguageModel[Any], kwargs: dict[str, Any], run: Run | None) -> LayeredCache | None:
    """Return the cache that answers a stream of *model*; None if the model answers it alone.

    Streams inside a call of the same model are a part of that call, which is cached as a whole. A stream of several answers is not cached,
    because their chunks are mixed.
    """
    if _at_work.get() is model:
        return None
    if (cache := cache_of(model)) is None:
        note_missing_cache(model)
    elif any((kwargs.get(name) or getattr(model, name, None) or 1) != 1 for name in ("n", "best_of")):
        if run is not None:
            run.cached = True  # it has its own warning
        cache.calls.refuse_streams("a stream of several answers (n, best_of) cannot be kept. Use invoke, or ask for one answer")
        return None
    return cache


class LateLimiter(BaseRateLimiter):
    """A rate limiter that is used at the request. For streams, LangChain uses it before the lookup, so hits would wait too.

    Args:
        limiter: The rate limiter of the model.
    """

    def __init__(self, limiter: BaseRateLimiter) -> None:
        self.limiter = limiter

    @property
    def _is_time(self) -> bool:
        """True within `invoke`, which uses the limiter after the lookup."""
        return getattr(_at_work.get(), "rate_limiter", None) is self

    def acquire(self, *, blocking: bool = True) -> bool:
        """See BaseRateLimiter."""
        return self.limiter.acquire(blocking=blocking) if self._is_time else True

    async def aacquire(self, *, blocking: bool = True) -> bool:
        """See BaseRateLimiter."""
        return await self.limiter.aacquire(blocking=blocking) if self._is_time else True


def late_limiter_of(model: BaseChatModel) -> LateLimiter | None:
    """Return the limiter of a stream of *model*; None if it has none, or LangChain uses it."""
    limiter = model.rate_limiter
    return limiter if isinstance(limiter, LateLimiter) and _at_work.get() is not model else None


if TYPE_CHECKING:
    _ChatModel = BaseChatModel
else:
    _ChatModel = object  # the derived class has the class of the model as its second base


class WrappedChat(_ChatModel):
    """The cached methods, first in the bases of a derived class."""

    __slots__ = ()
    replay: ClassVar[Replay]
    layered_cache_front: ClassVar[bool] = True

    def _generate_with_cache(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,  # noqa: ANN401 - LangChain's signature
    ) -> ChatResult:
        with at_work(self, run_of(run_manager)):
            return super()._generate_with_cache(without_repeated_ids(messages), stop=stop, run_manager=run_manager, **kwargs)

    async def _agenerate_with_cache(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,  # noqa: ANN401 - LangChain's signature
    ) -> ChatResult:
        with at_work(self, run_of(run_manager)):
            return await super()._agenerate_with_cache(without_repeated_ids(messages), stop=stop, run_manager=run_manager, **kwargs)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,  # noqa: ANN401 - LangChain's signature
    ) -> Iterator[ChatGenerationChunk]:
        cache, messages = answers_streams_of(self, kwargs, run_of(run_manager)), without_repeated_ids(messages)
        # some models have no such parameter, and a shared stream must not depend on the callbacks of one reader
        manager = {} if run_manager is None or cache is not None else {"run_manager": run_manager}
        begun, limiter = partial(super()._stream, messages, stop=stop, **manager, **kwargs), late_limiter_of(self)

        def live() -> Iterator[ChatGenerationChunk]:
            if limiter is not None:
                limiter.limiter.acquire(blocking=True)
            yield from begun()

        if cache is None:
            yield from live()
            return
        with closing(self._asking(cache, messages, stop, run_manager, kwargs).stream(live)) as chunks:
            for chunk in chunks:
                if run_manager is not None:
                    run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,  # noqa: ANN401 - LangChain's signature
    ) -> AsyncIterator[ChatGenerationChunk]:
        cache, messages = answers_streams_of(self, kwargs, run_of(run_manager)), without_repeated_ids(messages)
        manager = {} if run_manager is None or cache is not None else {"run_manager": run_manager}
        begun, limiter = partial(super()._astream, messages, stop=stop, **manager, **kwargs), late_limiter_of(self)
        # without a coroutine of the model, this is `_stream` in threads, which uses the limiter itself
        asks_itself = getattr(begun.func, "__func__", None) is BaseChatModel._astream  # noqa: SLF001 - the inherited method

        async def live() -> AsyncIterator[ChatGenerationChunk]:
            if limiter is not None and (_at_work.get() is self or not asks_itself):
                await limiter.limiter.aacquire(blocking=True)
            async with aclosing(cast("AsyncGenerator[ChatGenerationChunk]", begun())) as chunks:
                async for chunk in chunks:
                    yield chunk

        if cache is None:
            async for chunk in live():
                yield chunk
            return
        async with aclosing(self._asking(cache, messages, stop, run_manager, kwargs).astream(live)) as chunks:
            async for chunk in chunks:
                if run_manager is not None:
                    await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    def _asking(
        self, cache: LayeredCache, messages: list[BaseMessage], stop: list[str] | None, run_manager: object, kwargs: dict[str, Any]
    ) -> Asking[ChatGenerationChunk]:
        """Return the stream, with the texts that LangChain would pass to a cache."""

        def texts() -> tuple[str, str]:
            prompt = dumps([message if message.id is None else message.model_copy(update={"id": None}) for message in messages])
            return prompt, self._get_llm_string(stop=stop, **kwargs)

        with known_key_options(self), known_account(self, cache) as account:
            form = ChatForm(type(self).replay, self.output_version)
            return Asking(self, cache, texts, form, partial(begin_work, self, account), run_of(run_manager))
