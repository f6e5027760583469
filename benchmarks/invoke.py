"""`invoke` on a memory hit (G10): how little it takes beside what LangChain takes for itself.

Our cache comes with a callback handler (`_callbacks/model_runs.py`) that gets the events of each call. The other caches run without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

from langchain_core.caches import BaseCache, InMemoryCache
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult, Generation

from benchmarks import _peers as peers
from benchmarks._bench import Bench
from benchmarks._line import Line
from benchmarks._payloads import answer, messages
from langchain_layered_cache._callbacks.model_runs import hook


class Model(BaseChatModel):
    """A chat model that answers at once, and is asked once."""

    @property
    def _llm_type(self) -> str:
        return "benchmark"

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:  # noqa: ANN401 - as LangChain has it
        return ChatResult(generations=cast("list[ChatGeneration]", answer()))


class NullCache(BaseCache):
    """Has the answer to everything, and takes no time to find it."""

    def __init__(self) -> None:
        self._answer = answer()

    def lookup(self, prompt: str, llm_string: str) -> list[Generation]:
        """See BaseCache."""
        return self._answer

    async def alookup(self, prompt: str, llm_string: str) -> list[Generation]:
        """See BaseCache."""
        return self._answer

    def update(self, prompt: str, llm_string: str, return_val: Any) -> None:  # noqa: ANN401 - as LangChain has it
        """See BaseCache."""

    def clear(self, **_: Any) -> None:  # noqa: ANN401 - as LangChain has it
        """See BaseCache."""


def _unheard(model: Model) -> Callable[..., object]:
    def invoke(asked: list[BaseMessage]) -> object:
        token = hook.set(None)
        try:
            return model.invoke(asked)
        finally:
            hook.reset(token)

    return invoke


def _aunheard(model: Model) -> Callable[..., object]:
    async def ainvoke(asked: list[BaseMessage]) -> object:
        token = hook.set(None)
        try:
            return await model.ainvoke(asked)
        finally:
            hook.reset(token)

    return ainvoke


def measure(bench: Bench) -> Iterator[Line]:
    """Yield the lines of this theme."""
    floor, ours, theirs = Model(cache=NullCache()), Model(cache=bench.cache("memory://")), Model(cache=InMemoryCache())
    asked = messages(1000)
    race = bench.race()
    race.enter("invoke", lambda: ours.invoke, lambda count: [(asked,)] * count)
    race.enter("ainvoke", lambda: ours.ainvoke, lambda count: [(asked,)] * count)
    race.enter("floor", lambda: _unheard(floor), lambda count: [(asked,)] * count)
    race.enter("afloor", lambda: _aunheard(floor), lambda count: [(asked,)] * count)
    race.enter("InMemoryCache", lambda: _unheard(theirs), lambda count: [(asked,)] * count)
    race.enter("aInMemoryCache", lambda: _aunheard(theirs), lambda count: [(asked,)] * count)
    race.enter("RedisCache", lambda: _unheard(Model(cache=peers.redis_cache(bench.redis_port))), lambda count: [(asked,)] * count)
    race.run()
    yield race.compare("G10", "invoke, memory hit / a cache that takes no time", "invoke", "floor", "<= 1.08x")
    yield race.compare("G10", "ainvoke, memory hit / a cache that takes no time", "ainvoke", "afloor", "<= 1.08x")
    yield race.compare("G10", "invoke, memory hit / InMemoryCache", "invoke", "InMemoryCache", "<= 1.1x")
    yield race.compare("G10", "ainvoke, memory hit / InMemoryCache", "ainvoke", "aInMemoryCache", "<= 1.1x")
    yield race.compare("G10", "invoke, community RedisCache / a cache that takes no time", "RedisCache", "floor")
