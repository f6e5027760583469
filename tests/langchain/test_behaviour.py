"""A LangChain app with the cache: real clients, a local model that counts its calls."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import datetime as dt
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TypedDict

import genai_prices
import pytest
from langchain.agents import create_agent
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import FakeListChatModel, FakeListLLM
from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from layered_cache import Answer, ConfigurationError, DeletionError, Event, Policy, Request, TieredCache
from layered_cache.testing import FakeAuthority, FakeTier, OpenAIServer
from pydantic import BaseModel, Field, SecretStr, computed_field, field_validator, model_validator
from support.sync_async import World, kinds

from langchain_layered_cache import LayeredCache


@pytest.fixture(params=["memory", "both"])
def cache(request: pytest.FixtureRequest, tmp_path: Path, events: list[Event]) -> Iterator[LayeredCache]:
    """The global cache."""
    tiers = ["memory://"] if request.param == "memory" else ["memory://", f"sqlite:///{tmp_path / 'answers.db'}"]
    cache = LayeredCache(*tiers, observers=[events.append])
    set_llm_cache(cache)
    yield cache
    set_llm_cache(None)
    cache.close()


@pytest.fixture
def model(server: OpenAIServer) -> ChatOpenAI:
    """A real client of the local model. It is not closed: others of its address may share its connections."""
    return ChatOpenAI(model="gpt-4o-mini", base_url=server.url, api_key="none", max_retries=0)


def test_the_same_question_is_asked_once(world: World, cache: LayeredCache, model: ChatOpenAI, server: OpenAIServer) -> None:
    """The answer is the same but for its id; what the hit saved is counted."""
    first, second = (world.call(model, "invoke", "hello") for _ in range(2))

    assert server.calls == 1
    assert first.content == second.content == "You asked: hello"
    assert first.response_metadata == second.response_metadata
    assert first.id != second.id
    assert second.usage_metadata == {**first.usage_metadata, "total_cost": 0}
    stats = cache.stats()
    assert (stats.hits, stats.misses) == (1, 1)
    assert stats.saved_tokens == first.usage_metadata["total_tokens"]
    assert stats.saved_usd > 0
    assert stats.saved_seconds > 0


def test_another_process_answers_from_the_file(world: World, tmp_path: Path, model: ChatOpenAI, server: OpenAIServer) -> None:
    """And shows an operator what was asked, and of whom."""
    url = f"sqlite:///{tmp_path / 'answers.db'}"
    for _ in range(2):
        cache = LayeredCache("memory://", url, namespace="faq")
        set_llm_cache(cache)
        assert world.call(model, "invoke", [SystemMessage("be brief"), HumanMessage("hello")]).content == "You asked: hello"
        set_llm_cache(None)
        cache.close()

    assert server.calls == 1


def test_both_faces_share_entries(cache: LayeredCache, model: ChatOpenAI, server: OpenAIServer) -> None:
    """What one stored the other finds."""
    one = model.invoke("hello")
    other = asyncio.run(model.ainvoke("hello"))

    assert server.calls == 1
    assert one.content == other.content


def test_batches(world: World, cache: LayeredCache, model: ChatOpenAI, server: OpenAIServer) -> None:
    """Each question once, in the right order, the second time from the cache."""
    questions = [f"question {number}" for number in range(10)]
    for _ in range(2):
        answers = world.call(model, "batch", questions)
        assert [answer.content for answer in answers] == [f"You asked: {question}" for question in questions]
    assert server.calls == 10


def test_a_chain_and_a_plain_llm(world: World, cache: LayeredCache, model: ChatOpenAI, server: OpenAIServer) -> None:
    """They go through the same door."""
    chain = ChatPromptTemplate.from_messages([("system", "you are {who}"), ("human", "{question}")]) | model
    llm = OpenAI(model="gpt-3.5-turbo-instruct", base_url=server.url, api_key="none")
    for _ in range(2):
        assert world.call(chain, "invoke", {"who": "brief", "question": "q"}).content == "You asked: q"
        assert world.call(llm, "invoke", "q") == "You asked: q"
    assert server.calls == 2


def test_models_that_langchain_does_not_write_out(world: World, cache: LayeredCache) -> None:
    """Fakes, and most that people write themselves."""
    chat = FakeListChatModel(responses=["a", "b"])
    llm = FakeListLLM(responses=["c", "d"])

    assert [world.call(chat, "invoke", "q").content for _ in range(2)] == ["a", "a"]
    assert [world.call(llm, "invoke", "q") for _ in range(2)] == ["c", "c"]


def test_a_conversation_stays_warm(world: World, cache: LayeredCache, model: ChatOpenAI, server: OpenAIServer) -> None:
    """Though hits have other ids and a cost of 0 in their usage."""
    for _ in range(3):
        history: list[BaseMessage] = []
        for number in range(4):
            history.append(HumanMessage(f"question {number}"))
            history.append(world.call(model, "invoke", history))
    assert server.calls == 4


class State(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]


def test_the_same_question_twice_in_one_thread(world: World, cache: LayeredCache, model: ChatOpenAI, server: OpenAIServer) -> None:
    """Gives four messages: the second answer does not overwrite the first."""

    def answer(state: State) -> State:
        return {"messages": [model.invoke(state["messages"][-1:])]}

    graph = StateGraph(State).add_node("answer", answer).add_edge(START, "answer").compile(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    for _ in range(2):
        state = world.call(graph, "invoke", {"messages": [HumanMessage("hello")]}, config)

    assert server.calls == 1
    assert [message.content for message in state["messages"]] == ["hello", "You asked: hello"] * 2
    assert len({message.id for message in state["messages"]}) == 4


@tool
def weather(city: str) -> str:
    """Tell the weather."""
    return f"sunny in {city}"


def test_agents_that_change_what_they_get(world: World, cache: LayeredCache, model: ChatOpenAI, server: OpenAIServer) -> None:
    """A name or an argument that one sets on a hit is not seen by another one."""
    alice, bob = (create_agent(model, [weather], name=name) for name in ("alice", "bob"))
    question = {"messages": [HumanMessage("the weather?")]}
    first = world.call(alice, "invoke", question)["messages"]
    assert server.calls == 2
    for message in first:
        if isinstance(message, AIMessage) and message.tool_calls:
            message.tool_calls[0]["args"]["city"] = "poison"
            message.response_metadata["poison"] = True
    second = world.call(bob, "invoke", question)["messages"]
    third = world.call(alice, "invoke", question)["messages"]

    assert server.calls == 3  # the second question to the model holds the agent's name, which a model sees
    for messages, name in ((second, "bob"), (third, "alice")):
        assert [message.name for message in messages if isinstance(message, AIMessage)] == [name] * 2
        assert "poison" not in str(messages)
        assert [type(message) for message in messages] == [HumanMessage, AIMessage, ToolMessage, AIMessage]


class Person(BaseModel):
    """Somebody."""

    name: str
    born: dt.date
    nickname: str | None = None


def test_structured_output_with_a_date(world: World, cache: LayeredCache, model: ChatOpenAI, server: OpenAIServer) -> None:
    """By either method, with the raw message or without."""
    for method in ("json_schema", "function_calling"):
        structured = model.with_structured_output(Person, method=method)
        raw = model.with_structured_output(Person, method=method, include_raw=True)
        server.reset()
        people = [world.call(structured, "invoke", "who?") for _ in range(3)]
        people += [world.call(raw, "invoke", "who?")["parsed"] for _ in range(2)]

        assert server.calls == 1, method
        assert all(person == people[0] for person in people)
        assert isinstance(people[-1], Person)
        assert people[0].born == dt.date(2026, 1, 31)


class Aliased(BaseModel):
    day: dt.date = Field(alias="date")


class Computed(BaseModel, extra="forbid"):
    name: str

    @computed_field
    def shout(self) -> str:
        return self.name.upper()


class Split(BaseModel):
    words: list[str]

    @field_validator("words", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return value if isinstance(value, list) else value.split()


class Hidden(BaseModel):
    word: SecretStr


class Excluded(BaseModel):
    name: str
    inner: str = Field("usual", exclude=True)


@pytest.mark.parametrize("schema", [Aliased, Computed, Split, Hidden, Excluded])
def test_structured_output_of_any_kind(cache: LayeredCache, model: ChatOpenAI, server: OpenAIServer, schema: type[BaseModel]) -> None:
    """A hit gives what the model gave, secrets and all; or there is no hit. It never raises."""
    structured = model.with_structured_output(schema, method="json_schema")

    first, second, third = (structured.invoke("who?") for _ in range(3))

    assert first == second == third
    assert repr(first) == repr(third)
    assert server.calls == 1


class Growing(BaseModel):
    """Cannot be made again of what it shows."""

    numbers: list[int]

    @model_validator(mode="after")
    def _grow(self) -> Growing:
        Growing.made += 1
        self.numbers.append(Growing.made)
        return self


Growing.made = 0  # type: ignore[attr-defined]


def test_what_cannot_be_made_again_is_not_kept(
    cache: LayeredCache, model: ChatOpenAI, server: OpenAIServer, caplog: pytest.LogCaptureFixture
) -> None:
    """And a warning says which class it is."""
    structured = model.with_structured_output(Growing, method="json_schema")
    for _ in range(2):
        structured.invoke("who?")

    assert server.calls == 2
    assert "Growing cannot be made again" in caplog.text


def test_null_in_schemas_and_arguments(world: World, cache: LayeredCache, model: ChatOpenAI, server: OpenAIServer) -> None:
    """It is not nothing."""

    def bound(enum: list[Any]) -> Any:
        schema = {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {"x": {"enum": enum}}}}
        return model.bind(tools=[{"type": "function", "function": schema}])

    def history(x: Any) -> list[BaseMessage]:
        call: Any = {"name": "f", "args": {"x": x}, "id": "1", "type": "tool_call"}
        return [HumanMessage("q"), AIMessage("", tool_calls=[call]), ToolMessage("r", tool_call_id="1")]

    calls = [
        lambda: world.call(bound([None, 1]), "invoke", "q"),
        lambda: world.call(bound([1]), "invoke", "q"),
        lambda: world.call(model, "invoke", history(None)),
        lambda: world.call(model, "invoke", history("null")),
        lambda: world.call(
            model,
            "invoke",
            [HumanMessage("q"), AIMessage("", tool_calls=[{"name": "f", "args": {}, "id": "1"}]), ToolMessage("r", tool_call_id="1")],
        ),  # type: ignore[typeddict-item]
    ]
    for number, call in enumerate(calls):
        call()
        call()
        assert server.calls == number + 1


def test_two_base_urls(world: World, cache: LayeredCache, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """One question, two places: two answers."""
    with OpenAIServer(reply=lambda body: "from the other one") as other:
        answers = []
        for url in (server.url, other.url, server.url, other.url):
            monkeypatch.setenv("OPENAI_BASE_URL", url)
            answers.append(world.call(ChatOpenAI(model="gpt-4o-mini", api_key="none"), "invoke", "hello").content)

        assert answers == ["You asked: hello", "from the other one"] * 2
        assert (server.calls, other.calls) == (1, 1)


# --- invalidation


def test_an_answer_that_an_invalidation_overtook_is_not_kept(world: World, cache: LayeredCache) -> None:
    """Looked up before, stored after: void; for the second of two callers too; and the next answer is kept at once."""
    generations = [ChatGeneration(message=AIMessage("old"))]
    for _ in range(2):
        assert world.call(cache, "lookup", "p", "m") is None
    thread = threading.Thread(target=cache.clear)
    thread.start()
    thread.join()
    for _ in range(2):
        world.call(cache, "update", "p", "m", generations)
        assert cache._cache.peek(cache.key("p", "m") or "") is None

    assert world.call(cache, "lookup", "p", "m") is None
    world.call(cache, "update", "p", "m", [ChatGeneration(message=AIMessage("new"))])
    assert world.call(cache, "lookup", "p", "m")[0].text == "new"


def test_an_invalidation_while_the_model_answers(world: World, cache: LayeredCache, model: ChatOpenAI, server: OpenAIServer) -> None:
    """Through real calls, one and a batch."""
    server.latency = 0.2

    def overtake() -> None:
        threading.Event().wait(0.1)
        cache.invalidate(model="gpt-4o-mini")

    for method, question in (("invoke", "q"), ("batch", ["a", "b", "a"])):
        server.reset()
        thread = threading.Thread(target=overtake)
        thread.start()
        world.call(model, method, question)
        thread.join()
        before = server.calls
        world.call(model, method, question)
        assert server.calls > before, method
        again = server.calls
        world.call(model, method, question)
        assert server.calls == again, method


def test_clear_takes_criteria(world: World, cache: LayeredCache, model: ChatOpenAI, server: OpenAIServer) -> None:
    """Those of `invalidate`; none is everything; unknown ones are an error that removes nothing."""
    other = ChatOpenAI(model="gpt-4o", base_url=server.url, api_key="none")
    for one in (model, other):
        world.call(one, "invoke", "hello")
    with pytest.raises(TypeError, match="Did you mean 'model'"):
        world.call(cache, "clear", modle="gpt-4o")
    world.call(cache, "clear", model="gpt-4o")
    for one in (model, other):
        world.call(one, "invoke", "hello")
    assert server.calls == 3
    world.call(cache, "clear", prompt="hello")
    world.call(model, "invoke", "hello")
    assert server.calls == 4
    world.call(cache, "clear")
    world.call(model, "invoke", "hello")
    assert server.calls == 5
    world.call(cache, "invalidate", key=cache.key("p", "m"))


# --- nothing raises into the call


def test_a_model_that_fails_is_not_cached(world: World, cache: LayeredCache, model: ChatOpenAI, server: OpenAIServer) -> None:
    """Its error passes."""
    server.fail(1)
    with pytest.raises(Exception, match="requested by fail"):
        world.call(model, "invoke", "hello")

    assert world.call(model, "invoke", "hello").content == "You asked: hello"


def test_tiers_that_fail_are_not_felt(world: World, model: ChatOpenAI, server: OpenAIServer, events: list[Event]) -> None:
    """The model answers."""
    redis, mongodb = FakeTier("redis"), FakeAuthority("mongodb")
    set_llm_cache(LayeredCache(redis, mongodb, observers=[events.append]))
    redis.broken = mongodb.broken = mongodb.log_is_broken = True
    assert [world.call(model, "invoke", "hello").content for _ in range(2)] == ["You asked: hello"] * 2
    set_llm_cache(None)

    assert server.calls == 2
    assert "log_failed" in kinds(events)


class Bad:
    """Is nothing that a cache could expect."""

    def __eq__(self, other: object) -> bool:
        raise RuntimeError

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    "arguments",
    [(None, "m"), ("p", None), (Bad(), "m"), ("p", Bad()), (b"p", "m"), ({"$gt": ""}, {"$ne": None})],
    ids=lambda value: f"{type(value[0]).__name__}-{type(value[1]).__name__}",
)
def test_nonsense_is_a_miss(
    world: World, cache: LayeredCache, arguments: tuple[Any, Any], events: list[Event], caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever is passed; an event tells of it, and says nothing of what it was."""
    assert world.call(cache, "lookup", *arguments) is None
    world.call(cache, "update", *arguments, [Generation(text="secret")])

    assert kinds(events) == ["adapter_failed"] * 2
    assert "secret" not in caplog.text


def test_no_generations_are_not_kept(world: World, cache: LayeredCache) -> None:
    """An empty list would be a hit of nothing."""
    world.call(cache, "update", "p", "m", [])

    assert world.call(cache, "lookup", "p", "m") is None


@pytest.mark.parametrize(
    ("generation", "reason"),
    [
        (ChatGeneration(message=AIMessage("")), "empty"),
        (Generation(text=""), "empty"),
        (ChatGeneration(message=AIMessage([{"type": "text", "text": ""}])), "empty"),
        (ChatGeneration(message=AIMessage("cut", response_metadata={"finish_reason": "length"})), "length"),
        (ChatGeneration(message=AIMessage("cut", response_metadata={"stop_reason": "max_tokens"})), "length"),
        (ChatGeneration(message=AIMessage("no", response_metadata={"finish_reason": "content_filter"})), "filter"),
        (ChatGeneration(message=AIMessage("no", response_metadata={"finish_reason": "SAFETY"})), "filter"),
        (Generation(text="cut", generation_info={"finish_reason": "length"}), "length"),
        (ChatGeneration(message=AIMessage("x", additional_kwargs={"object": object()})), "not encodable"),
    ],
)
def test_what_is_not_kept(world: World, cache: LayeredCache, events: list[Event], generation: Generation, reason: str) -> None:
    """And why."""
    world.call(cache, "update", "p", "m", [generation])

    assert world.call(cache, "lookup", "p", "m") is None
    assert [event.reason for event in events if event.kind == "not_stored"] == [reason]


@pytest.mark.parametrize(
    "message",
    [
        AIMessage("", tool_calls=[{"name": "f", "args": {}, "id": "1"}]),
        AIMessage("", additional_kwargs={"function_call": {"name": "f", "arguments": "{}"}}),
        AIMessage([{"type": "image", "base64": "AAAA"}]),
        AIMessage("x", response_metadata={"finish_reason": "tool_calls"}),
        AIMessage("", additional_kwargs={"audio": {"id": "1"}}),
    ],
    ids=repr,
)
def test_what_says_something_without_a_text_is_kept(world: World, cache: LayeredCache, message: AIMessage) -> None:
    """A call of a tool, a picture, a sound."""
    world.call(cache, "update", "p", "m", [ChatGeneration(message=message)])

    assert world.call(cache, "lookup", "p", "m")


def test_a_length_that_the_model_was_given_is_kept(world: World, cache: LayeredCache, server: OpenAIServer) -> None:
    """An answer that was cut where the request said so is the whole answer."""
    for limited in (
        ChatOpenAI(model="m", max_tokens=5, base_url=server.url, api_key="none"),
        ChatOpenAI(model="m", base_url=server.url, api_key="none"),
    ):
        kwargs = {} if limited.max_tokens else {"max_tokens": 5}
        text = limited._get_llm_string(stop=None, **kwargs)
        world.call(cache, "update", "p", text, [ChatGeneration(message=AIMessage("cut", response_metadata={"finish_reason": "length"}))])
        assert world.call(cache, "lookup", "p", text)


def test_fewer_generations_replace_more(world: World, cache: LayeredCache) -> None:
    """Nothing of the old ones stays."""
    for number in (12, 3, 1):
        world.call(cache, "update", "p", "m", [Generation(text=str(n)) for n in range(number)])
        assert [generation.text for generation in world.call(cache, "lookup", "p", "m")] == [str(n) for n in range(number)]


def test_a_stored_value_that_cannot_be_read_is_a_miss(
    world: World, cache: LayeredCache, model: ChatOpenAI, server: OpenAIServer, events: list[Event]
) -> None:
    """It is counted, and replaced by the next answer, which an invalidation in between would make void."""
    world.call(model, "invoke", "hello")
    key = next(event.key for event in events if event.kind == "stored")
    request = Request("x")
    for value in (b"nonsense", b"\x90"):
        entry = cache.engine.get(key)
        assert entry is not None
        engine = cache.engine._engine
        engine.local.put(dataclasses.replace(entry, value=value), engine.watch.view.position)
        before = server.calls
        assert world.call(model, "invoke", "hello").content == "You asked: hello"
        assert server.calls == before + 1
        assert world.call(model, "invoke", "hello").content == "You asked: hello"
        assert server.calls == before + 1
    assert cache.stats().undecodable == 2
    assert kinds(events).count("undecodable") == 2
    assert cache.engine.get(request) is None


# --- construction


def test_constructions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without anything, by URLs, over an engine, from the environment."""
    monkeypatch.setenv("LAYERED_CACHE_DIR", str(tmp_path / "mine"))
    monkeypatch.chdir(tmp_path)
    usual = LayeredCache()
    assert [tier.name for tier in usual.engine.tiers] == ["memory", "sqlite"]
    assert usual.engine.name == "default"
    usual.update("p", "m", [Generation(text="a")])
    assert (tmp_path / "mine" / "cache.sqlite3").exists()
    usual.close()

    shared = TieredCache("memory://", namespace="app")
    assert LayeredCache(cache=shared).engine is shared
    for options in ({"namespace": "x"}, {"policy": Policy()}, {"observers": [print]}):
        with pytest.raises(ConfigurationError, match="cache= brings its own"):
            LayeredCache(cache=shared, **options)
    with pytest.raises(ConfigurationError, match="cache= brings its own"):
        LayeredCache("memory://", cache=shared)
    with pytest.raises(ConfigurationError, match="namespace must be"):
        LayeredCache("memory://", namespace="")  # an empty variable must not put everyone into one place

    monkeypatch.setenv("LAYERED_CACHE_NAMESPACE", "faq")
    assert LayeredCache.from_env().engine.name == "faq"
    monkeypatch.setenv("LAYERED_CACHE_TIERS", "memory://")
    assert [tier.name for tier in LayeredCache.from_env().engine.tiers] == ["memory"]
    assert repr(LayeredCache.from_env()) == "LayeredCache(TieredCache(memory, namespace='faq'))"


def test_the_default_folder_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As the platform has it."""
    monkeypatch.delenv("LAYERED_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    assert "layered-cache" in str(LayeredCache().engine.tiers[1].path)  # type: ignore[attr-defined]


def test_a_copied_model_goes_on_with_the_same_cache() -> None:
    """However deeply it is copied."""
    cache = LayeredCache("memory://")
    model = FakeListChatModel(responses=["a", "b"], cache=cache)
    copied = model.model_copy(deep=True)

    assert copied.cache is cache
    assert model.invoke("q").content == copied.invoke("q").content == "a"
    assert copy.deepcopy(cache.engine) is cache.engine


def test_a_price_list_that_fails_costs_nothing(
    cache: LayeredCache, model: ChatOpenAI, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But the price."""

    def fail(*_: object, **__: object) -> None:
        raise AttributeError

    monkeypatch.setattr(genai_prices, "calc_price", fail)
    for _ in range(2):
        model.invoke("hello")
    assert server.calls == 1
    assert cache.stats().saved_usd == 0.0


def test_removal_reports(world: World) -> None:
    """What nobody must overlook."""
    authority = FakeAuthority()
    authority.log_is_broken = True
    cache = LayeredCache("memory://", authority)

    with pytest.raises(DeletionError):
        world.call(cache, "clear")


def test_one_engine_for_langchain_and_others(world: World) -> None:
    """Their keys do not meet, their statistics are one."""
    engine = TieredCache("memory://")
    cache = LayeredCache(cache=engine)
    world.call(cache, "update", "p", "m", [Generation(text="a")])
    world.call(engine, "set", Request("p", model="m"), Answer(value=b"x"))

    assert world.call(cache, "lookup", "p", "m")[0].text == "a"
    assert world.call(engine, "get", Request("p", model="m")).value == b"x"
    assert cache.stats() == engine.stats()


def test_logs_hold_no_prompt_and_no_answer(cache: LayeredCache, caplog: pytest.LogCaptureFixture, events: list[Event]) -> None:
    """At any level, whatever happens."""
    with caplog.at_level(logging.DEBUG):
        cache.update("canary prompt", "canary model", [Generation(text="canary answer")])
        cache.lookup("canary prompt", "canary model")
        cache.update("canary prompt", "[('x', <canary at 0x7f>)]", [Generation(text="canary answer")])
        cache.update("canary prompt", "m", [ChatGeneration(message=AIMessage("canary", additional_kwargs={"x": object()}))])
        cache.lookup(["canary"], "m")  # type: ignore[arg-type]

    assert "canary" not in caplog.text.replace("test_behaviour", "")
    assert "canary" not in repr(events)
