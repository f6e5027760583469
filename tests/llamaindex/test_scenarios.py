"""What people do with LLMs in LlamaIndex, with the real client of OpenAI on a local server that counts.

Each scenario is run with the bare model, then cached, then cached again: what is sent on a miss is byte for byte what the bare model sends,
the second time nothing is sent, and what comes back is the same each time.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from layered_cache import TieredCache
from layered_cache.testing import OpenAIServer
from llama_index.core import Document, PromptTemplate, Settings, SummaryIndex, VectorStoreIndex
from llama_index.core.agent.workflow import AgentStream, AgentWorkflow, FunctionAgent, ReActAgent
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.chat_engine import CondensePlusContextChatEngine, ContextChatEngine, SimpleChatEngine
from llama_index.core.llms import LLM, ChatMessage
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai import OpenAI
from pydantic import BaseModel

from llamaindex_layered_cache import cached

# LlamaIndex uses what it, its workflows and pydantic have deprecated
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

MESSAGES = [ChatMessage(role="system", content="be brief"), ChatMessage(role="user", content="why is the sky blue?")]
PROMPT = PromptTemplate("Tell me about {subject}")
DOCUMENTS = [Document(text="The sky is blue because of scattering."), Document(text="Cats sleep a lot."), Document(text="Tea is hot.")]


class Song(BaseModel):
    """A song."""

    title: str
    seconds: int


class Letters(BaseEmbedding):
    """How often each vowel occurs."""

    def _get_text_embedding(self, text: str) -> list[float]:
        return [1.0 + text.count(vowel) for vowel in "aeiou"]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


def multiply(a: int, b: int) -> int:
    """Multiply two numbers."""
    return a * b


MULTIPLY = FunctionTool.from_defaults(multiply)


def chunks(stream: Any) -> list[Any]:
    return [shown(chunk) for chunk in stream]


async def achunks(stream: Any) -> list[Any]:
    return [shown(chunk) async for chunk in stream]


def shown(thing: Any) -> Any:
    """All that a piece of a stream says, but for what the client of the provider had returned."""
    return thing.model_dump(exclude={"raw"})


def whole(thing: Any) -> Any:
    """All of a response, with what the client of the provider had returned."""
    return [type(thing).__name__, thing.model_dump(), type(thing.raw).__name__]


def summary(llm: LLM, **kwargs: Any) -> Any:
    return SummaryIndex.from_documents(DOCUMENTS).as_query_engine(llm=llm, **kwargs)


def vector(llm: LLM, **kwargs: Any) -> Any:
    return VectorStoreIndex.from_documents(DOCUMENTS, embed_model=Letters()).as_query_engine(llm=llm, similarity_top_k=2, **kwargs)


def retriever() -> Any:
    return VectorStoreIndex.from_documents(DOCUMENTS, embed_model=Letters()).as_retriever(similarity_top_k=1)


def engines(llm: LLM) -> dict[str, Any]:
    memory = ChatMemoryBuffer.from_defaults(token_limit=3000)
    return {
        "context": lambda: ContextChatEngine.from_defaults(retriever(), llm=llm, memory=memory),
        "condense": lambda: CondensePlusContextChatEngine.from_defaults(retriever(), llm=llm, memory=memory),
        "simple": lambda: SimpleChatEngine.from_defaults(llm=llm, memory=memory),
    }


def talk(llm: LLM, kind: str) -> Any:
    engine = engines(llm)[kind]()
    return [str(engine.chat(question)) for question in ("what is blue?", "and why?")]


def talk_in_streams(llm: LLM, kind: str) -> Any:
    engine = engines(llm)[kind]()
    return ["".join(engine.stream_chat(question).response_gen) for question in ("what is blue?", "and why?")]


async def atalk_in_streams(llm: LLM, kind: str) -> Any:
    engine = engines(llm)[kind]()
    found = []
    for question in ("what is blue?", "and why?"):
        stream = await engine.astream_chat(question)
        found.append("".join([token async for token in stream.async_response_gen()]))
    return found


async def agent(made: Any) -> Any:
    handler = made.run("what is 7 times 7?")
    told = [event.delta async for event in handler.stream_events() if isinstance(event, AgentStream)]
    result = await handler
    return ["".join(told), str(result), [str(call.tool_kwargs) for call in result.tool_calls]]


async def apredict_and_stream(llm: LLM) -> Any:
    return [await llm.apredict(PROMPT, subject="cats"), "".join([token async for token in await llm.astream(PROMPT, subject="dogs")])]


async def astructured_stream(llm: LLM) -> Any:
    return [part.model_dump() async for part in await llm.astream_structured_predict(Song, PROMPT, subject="a song")][-1]


async def astream_with_tools(llm: Any) -> Any:
    found = await achunks(await llm.astream_chat_with_tools([MULTIPLY], user_msg="7 times 7"))
    return found[-1]


async def awhole(waiting: Any) -> Any:
    return whole(await waiting)


async def atext(waiting: Any) -> str:
    return str(await waiting)


async def achunks_of(waiting: Any) -> Any:
    return await achunks(await waiting)


SCENARIOS: dict[str, Callable[[Any], Any]] = {
    "chat": lambda llm: whole(llm.chat(MESSAGES)),
    "achat": lambda llm: awhole(llm.achat(MESSAGES)),
    "stream_chat": lambda llm: chunks(llm.stream_chat(MESSAGES)),
    "astream_chat": lambda llm: achunks_of(llm.astream_chat(MESSAGES)),
    "complete": lambda llm: whole(llm.complete("the sky is")),
    "acomplete": lambda llm: awhole(llm.acomplete("the sky is")),
    "stream_complete": lambda llm: chunks(llm.stream_complete("the sky is")),
    "astream_complete": lambda llm: achunks_of(llm.astream_complete("the sky is")),
    "predict": lambda llm: llm.predict(PROMPT, subject="cats"),
    "stream": lambda llm: "".join(llm.stream(PROMPT, subject="cats")),
    "apredict and astream": apredict_and_stream,
    "chat_with_tools": lambda llm: whole(llm.chat_with_tools([MULTIPLY], user_msg="7 times 7")),
    "astream_chat_with_tools": astream_with_tools,
    "predict_and_call": lambda llm: str(llm.predict_and_call([MULTIPLY], user_msg="7 times 7")),
    "structured_predict": lambda llm: llm.structured_predict(Song, PROMPT, subject="a song"),
    "astructured_predict": lambda llm: llm.astructured_predict(Song, PROMPT, subject="a song"),
    "stream_structured_predict": lambda llm: [part.model_dump() for part in llm.stream_structured_predict(Song, PROMPT, subject="x")][-1],
    "astream_structured_predict": astructured_stream,
    "structured LLM": lambda llm: llm.as_structured_llm(Song).chat(MESSAGES).raw,
    "structured LLM, async": lambda llm: awhole(llm.as_structured_llm(Song).achat(MESSAGES)),
    "summary index": lambda llm: str(summary(llm).query("why?")),
    "summary index, streaming": lambda llm: "".join(summary(llm, streaming=True).query("why?").response_gen),
    "summary index, tree, async": lambda llm: atext(summary(llm, response_mode="tree_summarize", use_async=True).aquery("why?")),
    "vector index": lambda llm: str(vector(llm).query("why?")),
    "vector index, async": lambda llm: atext(vector(llm).aquery("why?")),
    "vector index, streaming": lambda llm: "".join(vector(llm, streaming=True).query("why?").response_gen),
    "vector index, output_cls": lambda llm: str(vector(llm, output_cls=Song, response_mode="compact").query("why?")),
    "vector index, structured LLM": lambda llm: vector(llm.as_structured_llm(Song)).query("why?").response,
    "context chat engine": lambda llm: talk(llm, "context"),
    "context chat engine, streaming": lambda llm: talk_in_streams(llm, "context"),
    "condense chat engine": lambda llm: talk(llm, "condense"),
    "condense chat engine, astream": lambda llm: atalk_in_streams(llm, "condense"),
    "simple chat engine": lambda llm: talk(llm, "simple"),
    "simple chat engine, streaming": lambda llm: talk_in_streams(llm, "simple"),
    "simple chat engine, astream": lambda llm: atalk_in_streams(llm, "simple"),
    "function agent": lambda llm: agent(FunctionAgent(llm=llm, tools=[multiply], streaming=False)),
    "function agent, streaming": lambda llm: agent(FunctionAgent(llm=llm, tools=[multiply])),
    "agent workflow": lambda llm: agent(AgentWorkflow.from_tools_or_functions([multiply], llm=llm)),
    "react agent": lambda llm: agent(ReActAgent(llm=llm, tools=[multiply])),
}


def reply(body: dict[str, Any]) -> str:
    """Return what a model says that knows the form of ReAct."""
    said = body["messages"][-1]["content"]
    if "Thought:" not in json.dumps(body["messages"][0]):
        return f"You asked: {str(said)[-80:]}"
    if "Observation:" in str(said):
        return "Thought: I can answer.\nAnswer: it is 49"
    return 'Thought: I need a tool.\nAction: multiply\nAction Input: {"a": 7, "b": 7}'


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer(reply=reply) as server:
        yield server


@pytest.fixture(autouse=True)
def _settings() -> Iterator[None]:
    """What the scenarios do not say is no model of anybody's."""
    Settings.embed_model = Letters()
    yield
    Settings._embed_model = Settings._llm = None


def model(url: str) -> OpenAI:
    return OpenAI(model="gpt-4o-mini", api_base=url, api_key="none", max_retries=0)


def run(name: str, llm: LLM) -> Any:
    result = SCENARIOS[name](llm)
    if not inspect.isawaitable(result):
        return result

    async def main() -> Any:
        return await result

    return asyncio.run(main())


def told(value: Any) -> str:
    """Return *value* as a text, but for what a provider draws at random: ids of answers and of tool calls, and times."""
    text = value.decode() if isinstance(value, bytes) else repr(value)
    text = re.sub(r"(chatcmpl|call)[-_][0-9a-f]{12}", r"\1", text)
    return re.sub(r"('created': |\"created\": )\d+", r"\1", text)


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_second_time_nothing_is_sent(name: str, server: OpenAIServer) -> None:
    """And what is sent the first time is what the bare model sends."""
    bare = told(run(name, model(server.url)))
    sent = [told(body) for body in server.raw_bodies]
    assert sent
    with TieredCache("memory://") as cache:
        server.reset()
        llm = cached(model(server.url), cache)
        first = run(name, llm)
        assert [told(body) for body in server.raw_bodies] == sent
        assert told(first) == bare

        server.reset()
        again = run(name, llm)
        assert server.calls == 0
        assert repr(again) == repr(first)


PROGRAM = """
import sys
sys.path.insert(0, {folder!r})
from layered_cache import TieredCache
from llamaindex_layered_cache import cached
from test_scenarios import Letters, Settings, SCENARIOS, model, run, told
Settings.embed_model = Letters()
with TieredCache("memory://", *{tiers!r}) as cache:
    for name in {names!r}:
        print(told(run(name, cached(model({url!r}), cache))))
"""


def in_another_process(names: list[str], tiers: list[str], url: str) -> str:
    program = PROGRAM.format(folder=str(Path(__file__).parent), tiers=tiers, names=names, url=url)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_another_process_has_the_answers_from_the_servers(redis_url: str, mongodb_url: str, server: OpenAIServer) -> None:
    """Of all scenarios; the ids that were drawn in the first process are those of the second too."""
    names = [*SCENARIOS]
    first = in_another_process(names, [redis_url, mongodb_url], server.url)
    server.reset()
    second = in_another_process(names, [redis_url, mongodb_url], server.url)

    assert server.calls == 0
    assert second == first


@pytest.mark.slow
def test_another_process_has_the_answers_from_a_file(db: str, server: OpenAIServer) -> None:
    """Of a few."""
    names = ["chat", "astream_chat", "structured_predict", "function agent, streaming"]
    first = in_another_process(names, [db], server.url)
    server.reset()
    second = in_another_process(names, [db], server.url)

    assert server.calls == 0
    assert second == first
