"""A conversation with several hits of one question has each id of a tool call once."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from layered_cache import TieredCache
from layered_cache.adapters.call_ids import CallIds
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai import OpenAI, OpenAIResponses
from openai.types.chat import ChatCompletionMessageToolCall
from openai.types.chat.chat_completion_message_tool_call import Function
from support.scripted_server import Json, Reply, ScriptedServer, chat_completion, response
from support.sync_async import World

from llamaindex_layered_cache import cached
from llamaindex_layered_cache._llm.call_ids import without_repeated_calls


def look(city: str) -> str:
    """Look at a city."""
    return city


def script(path: str, body: Json) -> Reply:
    identity = f"toolu_{uuid.uuid4().hex}"
    arguments = '{"city": "Rome"}'
    if path.endswith("/responses"):
        item = {"type": "function_call", "id": f"fc_{uuid.uuid4().hex}", "call_id": identity, "name": "look", "arguments": arguments}
        return response(body, [{"type": "reasoning", "id": f"rs_{uuid.uuid4().hex}", "summary": []}, {**item, "status": "completed"}])
    return chat_completion(body, None, tool_calls=[(identity, "look", arguments)])


@pytest.fixture
def provider() -> Iterator[ScriptedServer]:
    with ScriptedServer(script) as provider:
        yield provider


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("cls", [OpenAI, OpenAIResponses])
def test_hits_in_one_thread_send_no_id_twice(cls: Any, streams: bool, world: World, provider: ScriptedServer) -> None:
    """Results keep their calls; the messages of the caller are left as they are."""
    tools = [FunctionTool.from_defaults(look)]
    bare = cls(model="gpt-4o-mini", api_base=provider.url, api_key="k", max_retries=0, reuse_client=False)
    name = "tool_call_id" if cls is OpenAI else "call_id"
    with TieredCache("memory://") as cache:
        llm = cached(bare, cache)
        thread: list[ChatMessage] = []
        for number in range(3):
            question = ChatMessage("call it")
            answer = asked(world, llm, [question], tools, streams)
            (call,) = llm.get_tool_calls_from_response(answer)
            thread += [question, answer.message, ChatMessage(f"result {number}", role="tool", additional_kwargs={name: call.tool_id})]
        assert provider.calls == 1
        before = copy.deepcopy(thread)
        asked(world, llm, [*thread, ChatMessage("sum up")], tools, streams)

    assert thread == before
    calls, results = sent(provider.bodies[-1])
    assert len(set(calls)) == 3
    assert list(results) == calls
    assert list(results.values()) == ["result 0", "result 1", "result 2"]


def asked(world: World, llm: Any, messages: list[ChatMessage], tools: list[Any], streams: bool) -> Any:
    if not streams:
        return world.call(llm, "chat_with_tools", tools, chat_history=messages)
    if world.name == "threads":
        return [*llm.stream_chat_with_tools(tools, chat_history=messages)][-1]

    async def last() -> Any:
        return [chunk async for chunk in await llm.astream_chat_with_tools(tools, chat_history=messages)][-1]

    return world.loop.run_until_complete(last())  # type: ignore[attr-defined]


def sent(body: Json) -> tuple[list[str], dict[str, str]]:
    """Return the ids of calls, and the results by them."""
    if "input" in body:
        items = [item for item in body["input"] if isinstance(item, dict)]
        assert not [item for item in items if "id" in item]
        calls = [item["call_id"] for item in items if item.get("type") == "function_call"]
        return calls, {item["call_id"]: item["output"] for item in items if item.get("type") == "function_call_output"}
    calls = [call["id"] for message in body["messages"] for call in message.get("tool_calls", [])]
    return calls, {message["tool_call_id"]: message["content"] for message in body["messages"] if message["role"] == "tool"}


def test_calls_beside_the_blocks_are_renamed_too() -> None:
    """As older releases of LlamaIndex have them."""
    made = ChatCompletionMessageToolCall(id="call_0123456789", type="function", function=Function(name="f", arguments="{}"))
    for call in (made, made.model_dump()):
        message = ChatMessage("", role="assistant", additional_kwargs={"tool_calls": [call]})
        first, second = (one.additional_kwargs["tool_calls"][0] for one in without_repeated_calls([message, message]))
        assert first is call
        assert type(second) is type(call)
        assert (second["id"] if isinstance(second, dict) else second.id) != "call_0123456789"


def test_ids_that_recur_without_a_cache_stay() -> None:
    """Counters, and the ids of one message."""
    ids = CallIds()

    assert ids.of_message(["call_0", "functions.look:0"]) == {}
    assert ids.of_message(["call_0", "functions.look:0", "toolu_0123456789", "toolu_0123456789"]) == {}
    assert ids.of_result("toolu_0123456789") == "toolu_0123456789"


def test_new_ids_look_like_the_old_ones() -> None:
    """Mistral requires nine letters and digits, other providers a prefix."""
    old = ["aB3dE5gH7", "toolu_01ABCdefgh2345", "call_0123456789abcdef", str(uuid.UUID(int=7))]
    for identity in old:
        ids = CallIds()
        found = [ids.of_message([identity]).get(identity, identity) for _ in range(3)]
        assert len(set(found)) == 3
        assert {len(one) for one in found} == {len(identity)}
        assert {one.rpartition("_")[0] for one in found} == {identity.rpartition("_")[0]}
        assert ids.of_result(identity) == found[-1]
