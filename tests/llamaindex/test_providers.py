"""Other LLMs than OpenAI's: what is sent is what the bare one sends, once, and what comes from the cache is what came from the provider."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain_core.language_models import FakeListChatModel
from layered_cache import TieredCache
from layered_cache.testing import OpenAIServer
from llama_index.core.base.llms.types import ThinkingBlock
from llama_index.core.llms import LLM, ChatMessage, CompletionResponse, CustomLLM, LLMMetadata, MockLLM, mock
from llama_index.core.llms.callbacks import llm_completion_callback
from llama_index.core.tools import FunctionTool
from llama_index.llms.anthropic import Anthropic
from llama_index.llms.langchain import LangChainLLM
from llama_index.llms.ollama import Ollama
from llama_index.llms.openai import OpenAI, OpenAIResponses
from llama_index.llms.openai_like import OpenAILike
from support.fake_providers import StandIn

from llamaindex_layered_cache import cached

# the clients use what pydantic has deprecated
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

MESSAGES = [ChatMessage(role="system", content="be brief"), ChatMessage(role="user", content="why?")]
asked: list[str] = []


class Own(CustomLLM):
    """What people write themselves."""

    model_name: str = "own"
    voice: str = "low"

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name="own")

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        asked.append(prompt)
        return CompletionResponse(text=f"{self.voice}: {prompt}", raw={"by": "hand"}, additional_kwargs={"tokens": (1, 2)})

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Iterator[CompletionResponse]:
        def pieces() -> Iterator[CompletionResponse]:
            asked.append(prompt)
            text = ""
            for delta in (f"{self.voice}", ": ", prompt):
                text += delta
                yield CompletionResponse(text=text, delta=delta)

        return pieces()


@pytest.fixture(scope="module")
def standin() -> Iterator[StandIn]:
    with StandIn() as server:
        yield server


@pytest.fixture(scope="module")
def openai() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """One for all: clients belong to the loop that they were first used in."""
    with asyncio.Runner() as runner:
        yield runner.get_loop()


MADE = [
    "OpenAI", "OpenAI, logprobs", "OpenAILike", "OpenAILike, plain", "OpenAIResponses", "Anthropic", "Anthropic, thinking", "Ollama",
]  # fmt: skip


@pytest.fixture(scope="module", params=MADE)
def bare(request: pytest.FixtureRequest, openai: OpenAIServer, standin: StandIn) -> LLM:
    """An LLM."""
    ours: dict[str, Any] = {"api_base": openai.url, "api_key": "none", "max_retries": 0}
    theirs: dict[str, Any] = {"model": "claude-sonnet-4-5", "base_url": standin.url, "api_key": "none", "max_retries": 0}
    makers: dict[str, Callable[[], LLM]] = {
        "OpenAI": lambda: OpenAI(model="gpt-4o-mini", **ours),
        "OpenAI, logprobs": lambda: OpenAI(model="gpt-4o-mini", logprobs=True, top_logprobs=2, **ours),
        "OpenAILike": lambda: OpenAILike(model="local", is_chat_model=True, is_function_calling_model=True, **ours),
        "OpenAILike, plain": lambda: OpenAILike(model="local", **ours),
        "OpenAIResponses": lambda: OpenAIResponses(model="gpt-4o-mini", **{**ours, "api_base": f"{standin.url}/v1"}),
        "Anthropic": lambda: Anthropic(**theirs),
        "Anthropic, thinking": lambda: Anthropic(**theirs, thinking_dict={"type": "enabled", "budget_tokens": 1024}),
        "Ollama": lambda: Ollama(model="llama3", base_url=standin.url, request_timeout=10),
    }
    return makers[request.param]()


def told(value: object) -> str:
    """Return *value* as a text, but for what is drawn at random."""
    text = value.decode() if isinstance(value, bytes) else repr(value)
    return re.sub(r"((chatcmpl|cmpl|msg|resp|toolu|call)[-_])[0-9a-f]{12}|(created=|'created': )\d+", r"\1", text)


async def acollected(waiting: Any) -> list[Any]:
    return [chunk async for chunk in await waiting]


Way = Callable[[asyncio.AbstractEventLoop, Any], Any]

WAYS: dict[str, Way] = {
    "chat": lambda _, llm: llm.chat(MESSAGES),
    "achat": lambda loop, llm: loop.run_until_complete(llm.achat(MESSAGES)),
    "complete": lambda _, llm: llm.complete("the sky is"),
    "acomplete": lambda loop, llm: loop.run_until_complete(llm.acomplete("the sky is", formatted=True)),
    "stream_chat": lambda _, llm: [*llm.stream_chat(MESSAGES)],
    "astream_chat": lambda loop, llm: loop.run_until_complete(acollected(llm.astream_chat(MESSAGES))),
    "stream_complete": lambda _, llm: [*llm.stream_complete("the sky is")],
    "astream_complete": lambda loop, llm: loop.run_until_complete(acollected(llm.astream_complete("the sky is"))),
}


@pytest.mark.parametrize("way", WAYS)
def test_asked_once(way: str, bare: LLM, openai: OpenAIServer, standin: StandIn, loop: asyncio.AbstractEventLoop) -> None:
    """Of streams the last chunk is the same, and what the pieces say."""

    def sent() -> list[bytes]:
        return openai.raw_bodies + standin.raw_bodies

    openai.reset()
    standin.raw_bodies.clear()
    alone = WAYS[way](loop, bare)
    (before,) = sent()
    with TieredCache("memory://") as cache:
        llm = cached(bare, cache)
        first = WAYS[way](loop, llm)
        assert sent() == [before, before]
        assert told(first) == told(alone)
        again, other = WAYS[way](loop, llm), WAYS[way](loop, cached(bare.model_copy(), cache))
        assert sent() == [before, before]
        assert (cache.stats().lookups, cache.stats().stored) == (3, 1)
    for hit in (again, other):
        if isinstance(first, list):
            assert hit[-1] == first[-1]
            assert [chunk.delta for chunk in hit] == [chunk.delta or "" for chunk in first]
        else:
            assert hit == first
            assert type(hit) is type(first)


def test_tools_of_anthropic_and_ollama(standin: StandIn) -> None:
    """Their calls come back, and their results are sent as they would have been."""

    def multiply(a: int, b: int) -> int:
        """Multiply."""
        return a * b

    tool = FunctionTool.from_defaults(multiply)
    models: list[Any] = [
        Anthropic(model="claude-sonnet-4-5", base_url=standin.url, api_key="none"),
        Ollama(model="llama3", base_url=standin.url, request_timeout=10),
    ]
    for bare in models:
        with TieredCache("memory://") as cache:
            standin.raw_bodies.clear()
            llm = cached(bare, cache)
            first, again = (llm.chat_with_tools([tool], user_msg="7 times 7") for _ in range(2))
            assert len(standin.raw_bodies) == 1
            assert again == first
            assert llm.get_tool_calls_from_response(again) == bare.get_tool_calls_from_response(first)
            for response in (first, again):
                history = [ChatMessage("7 times 7"), response.message, ChatMessage(role="tool", content="49")]
                history[-1].additional_kwargs["tool_call_id"] = llm.get_tool_calls_from_response(response)[0].tool_id
                llm.chat(history)
            assert len(standin.raw_bodies) == 2
            assert (str(llm.predict_and_call([tool], user_msg="7 times 7"))) == "49"
            assert len(standin.raw_bodies) == 2


def test_thoughts_come_as_they_came(standin: StandIn) -> None:
    """In pieces, and as a block of the answer."""
    thinking = {"type": "enabled", "budget_tokens": 1024}
    with TieredCache("memory://") as cache:
        llm = cached(Anthropic(model="claude-sonnet-4-5", base_url=standin.url, api_key="none", thinking_dict=thinking), cache)
        first, again = ([*llm.stream_chat(MESSAGES)] for _ in range(2))

    assert again[-1] == first[-1]
    assert again[-1].message.blocks[0] == ThinkingBlock(content="let me think", additional_information={"signature": "c2ln"})
    assert [chunk.additional_kwargs.get("thinking_delta") for chunk in again[:2]] == ["let me ", "think"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("voice", ["own", "mock", "mock with tokens", "mock with tools", "LangChain"])
def test_models_without_a_provider(way: str, voice: str, loop: asyncio.AbstractEventLoop) -> None:
    """What people write themselves, LlamaIndex's mocks, and LangChain's models."""
    models: dict[str, Callable[[], LLM]] = {
        "own": Own,
        "mock": MockLLM,
        "mock with tokens": lambda: MockLLM(max_tokens=5),
        "mock with tools": getattr(mock, "MockFunctionCallingLLM", MockLLM),  # newer than the lowest promised release
        "LangChain": lambda: LangChainLLM(FakeListChatModel(responses=["one", "two"])),
    }
    if voice == "LangChain":
        reason = "LlamaIndex's bridge needs langchain-classic and langchain-community < 0.4.2 to ask a model"
        pytest.importorskip("llama_index.core.bridge.langchain", reason=reason, exc_type=ImportError)
        if "stream_complete" in way:
            pytest.skip("it needs a LangChain model with callbacks of its own")
    asked.clear()
    bare = WAYS[way](loop, models[voice]())
    with TieredCache("memory://") as cache:
        llm = cached(models[voice](), cache, key_extra=None if voice != "LangChain" else "fake")
        asked.clear()
        first, again = WAYS[way](loop, llm), WAYS[way](loop, llm)
        assert cache.stats().stored == 1
        assert cache.stats().hits == 1
    assert len(asked) == (voice == "own")
    assert first == bare
    if isinstance(first, list):
        assert [chunk.delta for chunk in again] == [chunk.delta for chunk in first]
        assert again[-1] == first[-1]
    else:
        assert again == first
