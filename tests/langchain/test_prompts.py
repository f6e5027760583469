"""Ids that are drawn at random are no part of keys, and a text that looks like messages is a text."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import FakeListChatModel, FakeListLLM
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.messages.content import create_citation, create_file_block, create_image_block, create_text_block
from langchain_core.outputs import ChatGeneration, Generation
from langchain_openai import ChatOpenAI, OpenAI
from layered_cache import Request
from layered_cache.testing import OpenAIServer
from support.pairwise import pairwise
from support.sync_async import Tasks, Threads, World

from langchain_layered_cache import LayeredCache, LayeredCacheMiddleware, cached, import_sqlite
from langchain_layered_cache._keys.model_params import parse_model
from langchain_layered_cache._keys.request import to_request


@pytest.fixture
def cache() -> Iterator[LayeredCache]:
    """The global cache."""
    cache = LayeredCache("memory://")
    set_llm_cache(cache)
    yield cache
    set_llm_cache(None)
    cache.close()


def request(*messages: BaseMessage, llm_string: str = "[]") -> Request:
    return to_request(dumps([*messages]), parse_model(llm_string))


# --- random ids

BLOCKS: dict[str, Callable[[], list[Any]]] = {
    "text": lambda: [create_text_block("hi")],
    "image": lambda: [create_image_block(base64="aGk=", mime_type="image/png"), create_text_block("What is it?")],
    "file": lambda: [create_file_block(base64="aGk=", mime_type="application/pdf", filename="a.pdf"), create_text_block("What is it?")],
}


@pytest.mark.parametrize(
    ("way", "kind", "world"),
    pairwise(["global", "wrapper", "stream", "batch", "middleware"], BLOCKS, [Threads, Tasks]),
    indirect=["world"],
)
def test_equal_blocks_are_asked_once(way: str, kind: str, world: World, cache: LayeredCache, server: OpenAIServer) -> None:
    bare = ChatOpenAI(model="m", base_url=server.url, api_key="k")
    model = cached(bare)
    if way in {"global", "middleware"}:
        model = bare
    if way == "middleware":
        set_llm_cache(None)
        agent = create_agent(bare, [], middleware=[LayeredCacheMiddleware(cache)])

    async def streamed(messages: list[BaseMessage]) -> None:
        assert [chunk async for chunk in model.astream(messages)]

    for _ in range(3):
        messages: list[BaseMessage] = [HumanMessage(content=BLOCKS[kind]())]
        if way == "middleware":
            world.call(agent, "invoke", {"messages": messages})
        elif way == "batch":
            world.call(model, "batch", [messages])
        elif way == "stream" and world.name == "tasks":
            world.loop.run_until_complete(streamed(messages))  # type: ignore[attr-defined]
        elif way == "stream":
            assert list(model.stream(messages))
        else:
            world.call(model, "invoke", messages)
    assert server.calls == 1


def test_random_ids_do_not_count_at_any_depth() -> None:
    def conversation() -> list[BaseMessage]:
        cited = {**create_text_block("a"), "annotations": [create_citation(url="https://x")]}
        return [
            SystemMessage(content=[create_text_block("s")]),
            AIMessage([cited], tool_calls=[{"name": "f", "args": {}, "id": "1"}]),  # type: ignore[list-item]
            ToolMessage([{"type": "tool_result", "content": [create_text_block("r")]}], tool_call_id="1"),  # type: ignore[list-item]
        ]

    assert request(*conversation()) == request(*conversation())


def test_ids_that_are_not_random_count() -> None:
    """A library's catalogue has such numbers."""

    def content(identity: str) -> HumanMessage:
        return HumanMessage([{"type": "book", "id": identity}])

    first, second = f"lc_{uuid.uuid4()}", f"lc_{uuid.uuid4()}"
    texts = ["lc_1", "lc_2", first[:-1], second.upper()]
    assert len({request(content(text)) for text in texts}) == len(texts)
    assert request(content(first)) == request(content(second))
    assert request(HumanMessage(first)) != request(HumanMessage(second))


def call(**more: Any) -> Any:
    return {"name": "f", "args": {"index": 1}, "id": "call_1", "type": "tool_call", **more}


INDEXED: dict[str, Callable[[dict[str, Any]], AIMessage]] = {
    "v1": lambda more: AIMessage([call(**more)], tool_calls=[call()]),
    "responses/v1": lambda more: AIMessage([{"type": "function_call", "call_id": "call_1", "name": "f", **more}], tool_calls=[call()]),
    "anthropic": lambda more: AIMessage([{"type": "tool_use", "id": "call_1", "name": "f", "input": {}, **more}], tool_calls=[call()]),
    "additional": lambda more: AIMessage("", additional_kwargs={"tool_calls": [{"id": "call_1", "function": {"name": "f"}, **more}]}),
}


@pytest.mark.parametrize("kind", INDEXED)
def test_index_of_a_call_does_not_count(kind: str) -> None:
    """Streams add it."""
    made = INDEXED[kind]

    assert request(made({})) == request(made({"index": 0})) == request(made({"index": "lc_tc_1"}))


def test_index_that_is_no_stream_counts() -> None:
    """It counts in the arguments of a call and in the blocks of a user."""
    assert request(AIMessage([call()])) != request(AIMessage([call(args={"index": 2})]))
    assert request(HumanMessage([{"type": "tool_use", "index": 1}])) != request(HumanMessage([{"type": "tool_use", "index": 2}]))


# --- texts that look like messages


def looks_like_messages(identity: str) -> str:
    """Return a text that a chat model would be sent without the id."""
    return dumps([HumanMessage("hi", id=identity)])


@pytest.mark.parametrize("wrapped", [False, True])
def test_plain_prompt_that_looks_like_messages_counts_as_it_is(
    wrapped: bool, world: World, cache: LayeredCache, server: OpenAIServer
) -> None:
    llm: Any = OpenAI(model="m", base_url=server.url, api_key="k")
    llm = cached(llm) if wrapped else llm
    prompts = [looks_like_messages("1"), looks_like_messages("2")]

    for _ in range(2):
        assert [world.call(llm, "invoke", prompt) for prompt in prompts] == [f"You asked: {prompt}" for prompt in prompts]
        assert world.call(llm, "batch", prompts) == [f"You asked: {prompt}" for prompt in prompts]
    assert server.calls == 2


def test_stream_of_a_plain_llm_counts_such_a_prompt_as_it_is(cache: LayeredCache, server: OpenAIServer) -> None:
    """And has its entry in common with a call."""
    llm = cached(OpenAI(model="m", base_url=server.url, api_key="k"))
    for _ in range(2):
        for prompt in (looks_like_messages("1"), looks_like_messages("2")):
            assert "".join(llm.stream(prompt)) == llm.invoke(prompt) == f"You asked: {prompt}"
    assert server.calls == 2


def test_chat_model_and_plain_llm_of_one_text_do_not_share(cache: LayeredCache) -> None:
    """LangChain writes out neither of these; their texts are equal in all but the kind of model."""

    class Chat(FakeListChatModel):
        @property
        def _llm_type(self) -> str:
            return "same"

    class Plain(FakeListLLM):
        @property
        def _llm_type(self) -> str:
            return "same"

    chat, plain = Chat(responses=["chat", "again"]), Plain(responses=["plain", "again"])
    text = dumps([HumanMessage("hi")])
    llm_string = chat._get_llm_string()
    for _ in range(2):
        assert chat.invoke("hi").content == "chat"
        assert plain.invoke(text) == "plain"
    cache.update(text, llm_string, [Generation(text="by hand")])
    assert (cache.lookup(text, llm_string) or [])[0].text == "by hand"
    assert chat.invoke("hi").content == "chat"


def test_plain_llm_inside_of_a_stream_is_known(cache: LayeredCache) -> None:
    """The stream has announced its call, and looks nothing up as LangChain would."""
    chat, plain = FakeListChatModel(responses=["abc"]), FakeListLLM(responses=["1", "2", "3"])
    chunks = chat.stream("q")
    next(chunks)

    assert [plain.invoke(looks_like_messages(identity)) for identity in ("a", "b", "a")] == ["1", "2", "1"]
    chunks.close()  # type: ignore[attr-defined]


async def test_chat_models_that_are_not_written_out_stay_cached(cache: LayeredCache) -> None:
    """Whatever calls them: they are announced."""
    chat = FakeListChatModel(responses=[str(number) for number in range(9)])

    assert (await chat.ainvoke("q")).content == chat.invoke("q").content == "0"
    assert [answer.content for answer in await chat.abatch(["q", "q"])] == ["0", "0"]
    assert (await asyncio.to_thread(chat.invoke, [HumanMessage("q", id="7")])).content == "0"
    assert [answer.content for answer in chat.batch(["r", "q"])] == ["1", "0"]


def test_imported_answers_are_of_their_kind(cache: LayeredCache, tmp_path: Path) -> None:
    import sqlite3

    chat, plain = FakeListChatModel(responses=["new"]), FakeListLLM(responses=["new"])
    params = plain._dict_for_compat() if hasattr(plain, "_dict_for_compat") else plain.dict()
    rows = [
        (dumps([HumanMessage("hi")]), chat._get_llm_string(), 0, dumps(ChatGeneration(message=AIMessage("old chat")))),
        (looks_like_messages("1"), str(sorted({**params, "stop": None}.items())), 0, dumps(Generation(text="old plain"))),
    ]
    with sqlite3.connect(tmp_path / "other.db") as connection:
        connection.execute("CREATE TABLE full_llm_cache (prompt TEXT, llm TEXT, idx INTEGER, response TEXT)")
        connection.executemany("INSERT INTO full_llm_cache VALUES (?, ?, ?, ?)", rows)
    connection.close()
    assert import_sqlite(cache, tmp_path / "other.db").imported == 2

    assert chat.invoke([HumanMessage("hi", id="another")]).content == "old chat"
    assert plain.invoke(looks_like_messages("1")) == "old plain"
    assert plain.invoke(looks_like_messages("2")) == "new"


def test_key_of_a_chat_prompt_is_that_of_its_entry(cache: LayeredCache, server: OpenAIServer) -> None:
    """Written out or not: a program that asks for a key has written the messages out itself."""
    for model in (ChatOpenAI(model="m", base_url=server.url, api_key="k"), FakeListChatModel(responses=["a", "b"])):
        model.invoke("hi")
        key = cache.key(dumps([HumanMessage("hi", id="7")]), model._get_llm_string())
        assert key is not None
        assert cache.engine.get(key) is not None


def test_plain_text_that_is_no_messages_keeps_its_key() -> None:
    model = parse_model("[]")
    for text in ("hi", '[{"lc": 1}]', json.dumps(["x"])):
        assert to_request(text, model) == to_request(text, model, plain=True)
    assert to_request(looks_like_messages("1"), model) != to_request(looks_like_messages("1"), model, plain=True)
