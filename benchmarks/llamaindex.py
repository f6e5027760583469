"""LlamaIndex's LLMs on a memory hit: how little it takes beside a mock that answers at once, which is what LlamaIndex takes for itself.

No handler listens, as is usual where time counts. Keys are those of calls that were never made before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import cast

from layered_cache.options import NO_OPTIONS
from llama_index.core.llms import LLM, ChatMessage, MockLLM

from benchmarks._bench import Bench
from benchmarks._line import Line
from benchmarks._payloads import text
from llamaindex_layered_cache import cached
from llamaindex_layered_cache._llm.call import Keeper, Question
from llamaindex_layered_cache._llm.wrapper import keeper_of

_TURNS = 11


def _messages(turns: int) -> list[ChatMessage]:
    """Return a conversation whose turns are as long as people's are."""
    return [ChatMessage(role="assistant" if turn % 2 else "user", content=text(300, turn)) for turn in range(turns)]


def _whole(llm: LLM) -> Callable[..., object]:
    def stream(asked: list[ChatMessage]) -> object:
        return list(llm.stream_chat(asked))

    return stream


def _key(llm: LLM) -> Callable[..., object]:
    keeper = cast("Keeper", keeper_of(llm))

    def key(asked: Sequence[ChatMessage]) -> object:
        return keeper.cache.key(keeper.request(Question(llm, "chat", asked, {}), NO_OPTIONS))

    return key


def measure(bench: Bench) -> Iterator[Line]:
    """Yield the lines of this theme."""
    mock = MockLLM(max_tokens=300)
    llm = cached(mock, bench.cache("memory://").engine)
    short, long = _messages(1), _messages(_TURNS)
    race = bench.race()
    for name, asked in (("", short), (f", {_TURNS} messages", long)):
        race.enter(f"hit{name}", lambda: llm.chat, lambda count, asked=asked: [(asked,)] * count)
        race.enter(f"mock{name}", lambda: mock.chat, lambda count, asked=asked: [(asked,)] * count)
    race.enter("ahit", lambda: llm.achat, lambda count: [(short,)] * count)
    race.enter("amock", lambda: mock.achat, lambda count: [(short,)] * count)
    race.enter("stream", lambda: _whole(llm), lambda count: [(short,)] * count)
    race.enter("mock stream", lambda: _whole(mock), lambda count: [(short,)] * count)
    race.enter("key", lambda: _key(llm), lambda count: [(long,)] * count)
    race.run()
    yield race.compare("L1", "LlamaIndex chat, memory hit / MockLLM", "hit", "mock", "<= 0.5x")
    yield race.compare("L1", "LlamaIndex achat, memory hit / MockLLM", "ahit", "amock", "<= 0.5x")
    yield race.compare("", "LlamaIndex chat of 11 messages, memory hit / MockLLM", f"hit, {_TURNS} messages", f"mock, {_TURNS} messages")
    yield race.compare("", "LlamaIndex stream_chat, memory hit / MockLLM", "stream", "mock stream")
    yield race.alone("L1", "LlamaIndex, key of 11 messages", "key", "<= 60 us")
