"""A provider that takes ids of items for unique gets none twice, whatever came from the cache."""

from __future__ import annotations

import asyncio
import copy
import json
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.globals import set_llm_cache
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage, message_chunk_to_message
from langchain_core.outputs import ChatGeneration
from langchain_openai import ChatOpenAI
from support.pairwise import pairwise
from support.scripted_server import Json, Reply, ScriptedServer, chat_completion, response
from support.sync_async import Tasks, Threads, World

from langchain_layered_cache import LayeredCache, LayeredCacheMiddleware, cached
from langchain_layered_cache._keys.item_ids import forget_item_ids, without_repeated_ids
from langchain_layered_cache._keys.messages import canonical_prompt

VERSIONS = ["default", "v0", "responses/v1", "v1"]


def new(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex}"


class Responses(ScriptedServer):
    """Answers like OpenAI's Responses API, with reasoning; refuses a request that holds one id twice."""

    def __init__(self) -> None:
        super().__init__(self._reply)

    def _reply(self, path: str, body: Json) -> Reply:
        if repeated := [id_ for id_, count in Counter(self.sent(body)).items() if count > 1]:
            return 400, {"error": {"message": f"Duplicate item found with id {repeated[0]}.", "type": "invalid_request_error"}}
        output: list[Json] = [{"type": "reasoning", "id": new("rs"), "summary": [{"type": "summary_text", "text": "hm"}]}]
        if "call" in str(body["input"][-1].get("content")):
            call = {"name": "look", "arguments": '{"city": "Rome"}', "call_id": new("call"), "status": "completed"}
            return response(body, [*output, {"type": "function_call", "id": new("fc"), **call}])
        text = {"type": "output_text", "text": f"answer {len(body['input'])}", "annotations": []}
        said = {"type": "message", "id": new("msg"), "status": "completed", "role": "assistant", "content": [text]}
        return response(body, [*output, said])

    @staticmethod
    def sent(body: Json) -> list[str]:
        """Return the ids of the items and of the calls that a request holds."""
        items = [item for item in body["input"] if isinstance(item, dict)]
        calls = [item["call_id"] for item in items if item.get("type") == "function_call"]
        return [item["id"] for item in items if item.get("id")] + calls


@pytest.fixture
def provider() -> Iterator[Responses]:
    with Responses() as provider:
        yield provider


@pytest.fixture
def cache() -> Iterator[LayeredCache]:
    cache = LayeredCache("memory://")
    yield cache
    set_llm_cache(None)
    cache.close()


def model_of(provider: Responses, version: str) -> ChatOpenAI:
    more = {} if version == "default" else {"output_version": version}
    return ChatOpenAI(
        model="gpt-5", base_url=provider.url, api_key="k", use_responses_api=True, max_retries=0, reasoning={"summary": "auto"}, **more
    )


Ask = Callable[[list[BaseMessage]], AIMessage]


def whole(chunks: list[Any]) -> AIMessage:
    return message_chunk_to_message(chunks[0] + chunks[1:])  # type: ignore[return-value]


WAYS = ["global", "wrapper", "stream", "batch", "middleware"]
in_all_ways = pytest.mark.parametrize(("make", "version", "world"), pairwise(WAYS, VERSIONS, [Threads, Tasks]), indirect=["make", "world"])


@pytest.fixture(params=WAYS)
def make(request: pytest.FixtureRequest, cache: LayeredCache, provider: Responses, world: World) -> Callable[[str], Ask]:
    """Make a function that asks a cached model, or an agent."""

    def make(version: str) -> Ask:
        model: Any = model_of(provider, version)
        if request.param == "global":
            set_llm_cache(cache)
            return lambda messages: world.call(model, "invoke", messages)
        wrapped = cached(model, cache)
        if request.param == "wrapper":
            return lambda messages: world.call(wrapped, "invoke", messages)
        if request.param == "batch":
            return lambda messages: world.call(wrapped, "batch", [messages])[0]
        if request.param == "middleware":
            agent = create_agent(model, [], middleware=[LayeredCacheMiddleware(cache)])
            return lambda messages: world.call(agent, "invoke", {"messages": messages})["messages"][-1]

        async def collected(messages: list[BaseMessage]) -> list[Any]:
            return [chunk async for chunk in wrapped.astream(messages)]

        if world.name == "threads":
            return lambda messages: whole(list(wrapped.stream(messages)))
        return lambda messages: whole(world.loop.run_until_complete(collected(messages)))  # type: ignore[attr-defined]

    return make


@in_all_ways
def test_hits_in_one_thread_send_no_item_twice(version: str, make: Callable[[str], Ask], provider: Responses) -> None:
    ask = make(version)
    question: list[BaseMessage] = [HumanMessage("What is in stock?")]
    answers = [ask(question) for _ in range(3)]
    assert provider.calls == 1

    ask([message for answer in answers for message in (*question, answer)] + [HumanMessage("Sum up.")])

    texts = [part["text"] for item in provider.bodies[-1]["input"] if item.get("role") == "assistant" for part in item["content"]]
    assert texts == ["answer 1"] * 3
    assert len({answer.id for answer in answers}) == 3
    assert len({answer.text for answer in answers}) == 1


@in_all_ways
def test_conversation_with_hits_stays_warm(version: str, make: Callable[[str], Ask], provider: Responses) -> None:
    """The first run has the ids of the provider in its history, later ones have not."""
    ask = make(version)
    for _ in range(3):
        history: list[BaseMessage] = []
        for number in range(3):
            history.append(HumanMessage(f"question {number}"))
            history.append(ask(history))
    assert provider.calls == 3


def test_first_answer_keeps_its_ids(make: Callable[[str], Ask], provider: Responses) -> None:
    """The provider finds its reasoning by them."""
    ask = make("default")
    first = ask([HumanMessage("q")])
    ask([HumanMessage("q"), first, HumanMessage("r")])

    assert len(provider.sent(provider.bodies[-1])) == 2


# --- calls of tools


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("way", ["wrapper", "stream", "middleware"])
def test_hits_in_one_thread_send_no_call_twice(version: str, way: str, cache: LayeredCache, provider: Responses) -> None:
    """A cache that is the model's own looks at its requests; results follow the calls that they are of."""
    bare = model_of(provider, version)
    wrapped = cached(bare, cache)
    agent = create_agent(bare, [], middleware=[LayeredCacheMiddleware(cache)])
    asks: dict[str, Ask] = {
        "wrapper": wrapped.invoke,  # type: ignore[dict-item]
        "stream": lambda messages: whole(list(wrapped.stream(messages))),
        "middleware": lambda messages: agent.invoke({"messages": copy.deepcopy(messages)})["messages"][-1],  # type: ignore[arg-type]
    }
    ask, thread = asks[way], []
    for number in range(3):
        question = HumanMessage("call it")
        answer = wrapped.invoke([question]) if way == "middleware" else ask([question])
        (call,) = answer.tool_calls
        thread += [question, answer, ToolMessage(f"result {number}", tool_call_id=call["id"])]
    before = copy.deepcopy(thread)
    assert provider.calls == 1

    ask([*thread, HumanMessage("Sum up.")])

    items = [item for item in provider.bodies[-1]["input"] if "call_id" in item]
    ids = [item["call_id"] for item in items]
    assert ids[::2] == ids[1::2]
    assert len(set(ids)) == 3
    assert [item["output"] for item in items[1::2]] == ["result 0", "result 1", "result 2"]
    assert [json.loads(item["arguments"]) for item in items[::2]] == [{"city": "Rome"}] * 3
    assert thread == before


async def test_parallel_hits_share_no_item(cache: LayeredCache, provider: Responses) -> None:
    """One of the equal calls asks the model, and all have its answer."""
    model = cached(model_of(provider, "default"), cache)
    answers = await asyncio.gather(*(model.ainvoke("q") for _ in range(4)))

    await model.ainvoke([*answers, HumanMessage("Sum up.")])
    assert provider.calls == 2


def test_calls_of_chat_completions_get_other_ids(cache: LayeredCache) -> None:
    """Anthropic's models refuse a request with one id twice, behind any API."""

    def script(path: str, body: Json) -> Reply:
        return chat_completion(body, None, tool_calls=[(new("toolu"), "look", '{"id": "toolu"}')])

    with ScriptedServer(script) as server:
        model = cached(ChatOpenAI(model="claude", base_url=server.url, api_key="k"), cache)
        thread: list[BaseMessage] = []
        for _ in range(2):
            answer = model.invoke("call it")
            thread += [answer, ToolMessage("r", tool_call_id=answer.tool_calls[0]["id"])]
        model.invoke(thread)
        first, one, second, other = server.bodies[-1]["messages"]

    assert first["tool_calls"][0]["id"] == one["tool_call_id"]
    assert second["tool_calls"][0]["id"] == other["tool_call_id"] != one["tool_call_id"]
    assert second["tool_calls"][0]["id"].startswith("toolu_")
    assert len(second["tool_calls"][0]["id"]) == len(one["tool_call_id"])


# --- messages of all formats


def call(identity: str, **args: Any) -> Any:
    return {"name": "f", "args": args, "id": identity, "type": "tool_call"}


REASONING = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}], "encrypted_content": "abc"}
TEXT = {"type": "text", "text": "a", "id": "msg_1", "annotations": []}
HITS: dict[str, tuple[AIMessage, AIMessage]] = {
    "responses/v1": (
        AIMessage([REASONING, TEXT, {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f", "arguments": "{}"}]),
        AIMessage([
            {name: value for name, value in REASONING.items() if name != "id"},
            {name: value for name, value in TEXT.items() if name != "id"},
            {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"},
        ]),
    ),
    "v1": (
        AIMessage([
            {"type": "reasoning", "id": "rs_1", "reasoning": "hm"},
            {"type": "tool_call", "id": "call_1", "name": "f", "args": {"id": "rs_1"}, "extras": {"item_id": "fc_1"}},
            {"type": "tool_call", "id": "call_2", "name": "f", "args": {}, "extras": {"item_id": "fc_2", "status": "completed"}},
            {"type": "non_standard", "value": {"type": "compaction", "id": "cmp_1", "encrypted_content": "abc"}},
        ]),
        AIMessage([
            {"type": "reasoning", "reasoning": "hm"},
            {"type": "tool_call", "id": "call_1", "name": "f", "args": {"id": "rs_1"}},
            {"type": "tool_call", "id": "call_2", "name": "f", "args": {}, "extras": {"status": "completed"}},
            {"type": "non_standard", "value": {"type": "compaction", "encrypted_content": "abc"}},
        ]),
    ),
    "v0": (
        AIMessage(
            [{"type": "text", "text": "a", "annotations": []}],
            additional_kwargs={
                "reasoning": REASONING,
                "tool_outputs": [{"type": "web_search_call", "id": "ws_1", "status": "completed"}],
                "__openai_function_call_ids__": {"call_1": "fc_1"},
            },
        ),
        AIMessage(
            [{"type": "text", "text": "a", "annotations": []}],
            additional_kwargs={
                "reasoning": {name: value for name, value in REASONING.items() if name != "id"},
                "tool_outputs": [{"type": "web_search_call", "status": "completed"}],
                "__openai_function_call_ids__": {},
            },
        ),
    ),
    "openrouter": (
        AIMessage("a", additional_kwargs={"reasoning_details": [{"type": "reasoning.text", "id": "rs_1", "text": "hm"}]}),
        AIMessage("a", additional_kwargs={"reasoning_details": [{"type": "reasoning.text", "text": "hm"}]}),
    ),
}  # fmt: skip
KEPT: dict[str, AIMessage] = {
    "text": AIMessage("a", additional_kwargs={"refusal": None, "audio": {"id": "audio_1"}}),
    "an image that is sent as its id": AIMessage([REASONING, {"type": "image_generation_call", "id": "ig_1", "result": "eA=="}]),
    "the same in v1": AIMessage([TEXT, {"type": "image", "id": "ig_1", "base64": "eA=="}]),
    "a request that is approved by its id": AIMessage([REASONING, {"type": "mcp_approval_request", "id": "mcpr_1"}]),
    "a server's tool in v1": AIMessage([
        TEXT, {"type": "server_tool_call", "id": "ws_1", "name": "web_search", "args": {}},
        {"type": "server_tool_result", "tool_call_id": "ws_1", "status": "success"},
    ]),
    "a block of LangChain's": AIMessage([{"type": "text", "text": "a", "id": f"lc_{uuid.uuid4()}"}]),
    "a call of Anthropic's": AIMessage([{"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}], tool_calls=[call("toolu_1")]),
    "texts": AIMessage(["a", {"type": "text", "text": "b"}]),
}  # fmt: skip


@pytest.mark.parametrize("kind", HITS)
def test_hit_loses_the_ids_of_items(kind: str) -> None:
    stored, wanted = HITS[kind]
    (generation,) = generations = [ChatGeneration(message=copy.deepcopy(stored))]
    forget_item_ids(generations)

    assert generation.message == wanted
    assert canonical_prompt(dumps([stored])) == canonical_prompt(dumps([wanted]))


@pytest.mark.parametrize("kind", KEPT)
def test_hit_keeps_ids_that_it_needs(kind: str) -> None:
    (generation,) = generations = [ChatGeneration(message=copy.deepcopy(KEPT[kind]))]
    forget_item_ids(generations)

    assert generation.message == KEPT[kind]


def test_request_holds_an_item_that_is_its_id_once() -> None:
    """A second reference adds nothing."""
    for kind in ("an image that is sent as its id", "a request that is approved by its id", "a server's tool in v1", "the same in v1"):
        message = KEPT[kind]
        first, second = without_repeated_ids([message, message.model_copy()])
        assert first is message
        assert "_1" not in json.dumps(second.content)


def test_requests_without_repeated_ids_stay_the_same() -> None:
    """Also with ids that count the calls of each turn from zero: a provider that repeats them accepts them."""
    counted = [AIMessage("", tool_calls=[call("call_0")]), ToolMessage("r", tool_call_id="call_0")] * 2
    kimi = [AIMessage("", tool_calls=[call("functions.look_at_the_map:0")])] * 2
    parallel = [AIMessage("", tool_calls=[call("toolu_123456789"), call("toolu_abcdefghi")])]
    for messages in (counted, kimi, parallel, [HITS["v1"][0], HITS["v0"][1], HumanMessage("q")], *([kept] for kept in KEPT.values())):
        assert without_repeated_ids(messages) is messages


def test_renamed_call_keeps_its_arguments() -> None:
    """Whatever they look like; and all that refers to it has its new name."""
    identity = "toolu_0123456789"
    message = AIMessage(
        [{"type": "tool_use", "id": identity, "name": "f", "input": {"id": identity}}],
        tool_calls=[call(identity, id=identity)],
        additional_kwargs={"signatures": {identity: "abc"}},
    )
    *_, second, result = without_repeated_ids(
        [message, ToolMessage("1", tool_call_id=identity), message, ToolMessage("2", tool_call_id=identity)]
    )

    (name,) = {made["id"] for made in second.tool_calls}  # type: ignore[attr-defined]
    assert name != identity
    assert second.content == [{"type": "tool_use", "id": name, "name": "f", "input": {"id": identity}}]
    assert second.tool_calls == [call(name, id=identity)]  # type: ignore[attr-defined]
    assert second.additional_kwargs == {"signatures": {name: "abc"}}
    assert result.tool_call_id == name  # type: ignore[attr-defined]


def test_hit_keeps_the_id_of_a_kept_conversation(cache: LayeredCache, provider: Responses) -> None:
    """With `use_previous_response_id`, the provider has the messages before."""
    model = cached(model_of(provider, "default").model_copy(update={"use_previous_response_id": True}), cache)
    answers = [model.invoke("q") for _ in range(2)]
    model.invoke([HumanMessage("q"), answers[1], HumanMessage("r")])

    assert provider.bodies[-1]["previous_response_id"] == answers[0].response_metadata["id"]
    assert [item["content"] for item in provider.bodies[-1]["input"]] == ["r"]
