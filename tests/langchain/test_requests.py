"""What decides the answer is in the key, and nothing that does not."""

from __future__ import annotations

import datetime as dt
import enum
import logging
import random
from collections.abc import Callable
from typing import Any, TypedDict

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.language_models import BaseChatModel
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ChatMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI
from layered_cache import Event, Request, UncacheableRequestError
from layered_cache.keys.keys import canonical, prompt_digest
from pydantic import BaseModel

from langchain_layered_cache import LayeredCache
from langchain_layered_cache._keys.lru import Memo
from langchain_layered_cache._keys.messages import canonical_prompt
from langchain_layered_cache._keys.model_params import parse_model
from langchain_layered_cache._keys.request import to_request


def of(called: BaseChatModel, /, **kwargs: Any) -> str:
    """Return the llm_string of a call."""
    stop = kwargs.pop("stop", None)
    return called._get_llm_string(stop=stop, **kwargs)


def as_dict(llm: Any) -> dict[str, Any]:
    """Return what a plain LLM says of itself to a cache."""
    return llm._dict_for_compat() if hasattr(llm, "_dict_for_compat") else llm.dict()


def request(prompt: str | list[BaseMessage] = "q", llm_string: str | BaseChatModel = "[]", **kwargs: Any) -> Request:
    text = prompt if isinstance(prompt, str) else dumps(prompt)
    return to_request(text, parse_model(llm_string if isinstance(llm_string, str) else of(llm_string, **kwargs)))


# --- messages


CALL = {"name": "f", "args": {"x": 1}, "id": "call_1", "type": "tool_call"}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (HumanMessage("a"), HumanMessage("a", id="7")),
        (AIMessage("a"), AIMessage("a", usage_metadata={"input_tokens": 1, "output_tokens": 1, "total_tokens": 2})),
        (AIMessage("a"), AIMessage("a", usage_metadata={"input_tokens": 1, "output_tokens": 1, "total_tokens": 2, "total_cost": 0})),  # type: ignore[typeddict-unknown-key]
        (AIMessage("a"), AIMessage("a", response_metadata={"id": "chatcmpl-1", "finish_reason": "stop", "system_fingerprint": "x"})),
        (AIMessage("a"), AIMessageChunk("a")),
        (AIMessage("a", additional_kwargs={"x": 1}), AIMessage("a", additional_kwargs={"x": 1, "parsed": {"y": 2}})),
        (ToolMessage("a", tool_call_id="c"), ToolMessage("a", tool_call_id="c", artifact={"big": "object"})),
        (ToolMessage("a", tool_call_id="c"), ToolMessage("a", tool_call_id="d")),
        (AIMessage("", tool_calls=[CALL]), AIMessage("", tool_calls=[{**CALL, "id": "call_2"}])),
        (AIMessage("a"), AIMessage("a", tool_calls=[], invalid_tool_calls=[])),
    ],
    ids=str,
)
def test_what_no_model_sees(one: BaseMessage, other: BaseMessage) -> None:
    """Ids, counts, metadata, artifacts, and what a provider draws at random."""
    assert request([one]) == request([other])


DIFFERENT: list[list[BaseMessage]] = [
    [HumanMessage("a")],
    [HumanMessage("b")],
    [HumanMessage("a ")],
    [SystemMessage("a")],
    [AIMessage("a")],
    [ChatMessage("a", role="user")],
    [ChatMessage("a", role="other")],
    [HumanMessage("a", name="alice")],
    [HumanMessage("a"), HumanMessage("a")],
    [HumanMessage([{"type": "text", "text": "a"}])],
    [HumanMessage(["a"])],
    [HumanMessage([{"type": "image_url", "image_url": {"url": "https://x"}}])],
    [AIMessage("a", tool_calls=[CALL])],
    [AIMessage("a", tool_calls=[{**CALL, "name": "g"}])],
    [AIMessage("a", tool_calls=[{**CALL, "args": {"x": 1.0}}])],
    [AIMessage("a", tool_calls=[{**CALL, "args": {"x": "1"}}])],
    [AIMessage("a", tool_calls=[{**CALL, "args": {"x": True}}])],
    [AIMessage("a", tool_calls=[{**CALL, "args": {"x": None}}])],
    [AIMessage("a", tool_calls=[{**CALL, "args": {}}])],
    [AIMessage("a", tool_calls=[{**CALL, "args": {"x": 12345678901234567890123}}])],
    [AIMessage("a", tool_calls=[{**CALL, "args": {"x": 12345678901234567890124}}])],
    [AIMessage("a", tool_calls=[CALL, {**CALL, "id": "call_2"}])],
    [AIMessage("a", tool_calls=[CALL, CALL])],
    [AIMessage("a", invalid_tool_calls=[{"name": "f", "args": "{", "id": "1", "error": None, "type": "invalid_tool_call"}])],
    [AIMessage("a", additional_kwargs={"function_call": {"name": "f", "arguments": "{}"}})],
    [AIMessage("a", response_metadata={"model_provider": "anthropic"})],
    [AIMessage("a", response_metadata={"output_version": "v1"})],
    [ToolMessage("a", tool_call_id="c")],
    [ToolMessage("a", tool_call_id="c", status="error")],
    [ToolMessage("a", tool_call_id="c", name="f")],
]


def test_what_a_model_sees() -> None:
    """Every difference counts."""
    requests = [request(messages) for messages in DIFFERENT]

    assert len(set(requests)) == len(requests)


def test_tool_calls_are_told_apart_by_order() -> None:
    """Which result belongs to which call is what counts, not how a provider names them."""

    def conversation(first: str, second: str, result: str) -> list[BaseMessage]:
        calls = [{**CALL, "id": first}, {**CALL, "id": second}]
        block = {"type": "tool_use", "id": first, "name": "f", "input": {"x": 1}}
        raw = [{"id": first, "type": "function", "function": {"name": "f", "arguments": "{}"}}]
        return [
            AIMessage([block, {"type": "function_call", "call_id": second}], tool_calls=calls, additional_kwargs={"tool_calls": raw}),  # type: ignore[arg-type]
            ToolMessage([{"type": "tool_result", "tool_use_id": result, "content": "r"}], tool_call_id=result),
        ]

    assert (
        request(conversation("a", "b", "a")) == request(conversation("x", "y", "x")) == request(conversation("call 1", "call 0", "call 1"))
    )
    assert request(conversation("a", "b", "a")) != request(conversation("a", "b", "b"))
    assert request(conversation("a", "b", "a")) != request(conversation("a", "a", "a"))


def test_a_provider_that_keeps_the_conversation_is_asked_by_ids() -> None:
    """With `use_previous_response_id` these say which conversation."""
    model = ChatOpenAI(model="m", use_previous_response_id=True)

    def ask(identity: str) -> Request:
        return request([AIMessage("a", response_metadata={"id": identity})], model)

    assert ask("resp_1") != ask("resp_2")


def test_plain_texts_count_by_the_letter() -> None:
    """Also those that look like JSON, or nearly like messages."""
    texts = [
        "a",
        "a ",
        "A",
        "",
        "[]",
        "[1]",
        '[{"lc": 1, "type": "constructor", "kwargs": {}}]',
        '[{"lc": 1}]',
        '[{"lc": 1, "type": "constructor"}]',
        '["a"]',
        "{}",
        '[{"lc": NaN',
        "[{",
    ]

    assert len({request(text) for text in texts}) == len(texts)
    assert canonical_prompt('[{"lc": 1}]') == '[{"lc": 1}]'


def test_messages_with_what_json_has_not() -> None:
    """NaN, lone surrogates: they are read, and count."""
    for value in (float("nan"), float("inf"), "\ud800"):
        messages = canonical_prompt(dumps([HumanMessage("a", additional_kwargs={"x": value})]))
        assert isinstance(messages, list)
        assert canonical(messages)


class Unwritten(HumanMessage):
    """A message that LangChain cannot write out."""

    secret: Any = None

    @classmethod
    def is_lc_serializable(cls) -> bool:
        return False


def test_a_message_with_an_object_in_it_is_refused() -> None:
    """Its address says nothing."""
    with pytest.raises(UncacheableRequestError, match="address"):
        request([HumanMessage("a", additional_kwargs={"x": object()})])
    assert request([Unwritten("a")]) != request([Unwritten("b")])


def test_the_question_can_be_invalidated() -> None:
    """By its text, whatever stands around it."""
    messages = [SystemMessage("s"), HumanMessage("first"), AIMessage("a"), HumanMessage("the question")]

    assert request(messages).prompt_digest == prompt_digest("the question")


# --- models


def openai(**options: Any) -> ChatOpenAI:
    return ChatOpenAI(**{"model": "gpt-4o-mini", "temperature": 0, **options})


SAME: dict[str, Callable[[], tuple[Any, dict[str, Any]]]] = {
    "time-out": lambda: (openai(timeout=3), {}),
    "retries": lambda: (openai(max_retries=7), {}),
    "clients": lambda: (openai(http_client=httpx.Client(), http_async_client=httpx.AsyncClient()), {}),
    "streaming": lambda: (openai(streaming=True), {}),
    "disable_streaming": lambda: (openai(disable_streaming=True), {}),
    "stream_usage": lambda: (openai(stream_usage=False), {}),
    "name": lambda: (openai(name="alice"), {}),
    "float": lambda: (openai(temperature=0.0), {}),
    "call time-out": lambda: (openai(), {"timeout": 5}),
    "null": lambda: (openai(seed=None), {"seed": None}),
    "httpx time-out": lambda: (openai(timeout=httpx.Timeout(3)), {}),
    "key": lambda: (openai(api_key="other"), {}),
    "verbose": lambda: (openai(verbose=True, tags=["a"], metadata={"b": 1}), {}),
}


@pytest.mark.parametrize("change", SAME)
def test_what_does_not_change_an_answer(change: str) -> None:
    """Transport, names, and spelling."""
    model, kwargs = SAME[change]()

    assert request("q", model, **kwargs) == request("q", openai())


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"x": {"enum": [1, None]}}}}}
TOOL_WITHOUT_NULL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"x": {"enum": [1]}}}}}
CHANGES: dict[str, Callable[[], tuple[Any, dict[str, Any]]]] = {
    "nothing": lambda: (openai(), {}),
    "model": lambda: (openai(model="gpt-4o"), {}),
    "temperature": lambda: (openai(temperature=0.5), {}),
    "no temperature": lambda: (openai(temperature=None), {}),
    "top_p": lambda: (openai(top_p=0.5), {}),
    "seed": lambda: (openai(seed=1), {}),
    "max_tokens": lambda: (openai(max_tokens=5), {}),
    "stop": lambda: (openai(), {"stop": ["x"]}),
    "stop as text": lambda: (openai(), {"stop": "x"}),
    "tools": lambda: (openai(), {"tools": [TOOL]}),
    "null in tools": lambda: (openai(), {"tools": [TOOL_WITHOUT_NULL]}),
    "two tools": lambda: (openai(), {"tools": [TOOL, TOOL_WITHOUT_NULL]}),
    "tools in another order": lambda: (openai(), {"tools": [TOOL_WITHOUT_NULL, TOOL]}),
    "tool_choice": lambda: (openai(), {"tools": [TOOL], "tool_choice": "none"}),
    "response_format": lambda: (openai(), {"response_format": {"type": "json_object"}}),
    "base_url": lambda: (openai(base_url="https://one/v1"), {}),
    "another base_url": lambda: (openai(base_url="https://two/v1"), {}),
    "organization": lambda: (openai(organization="o"), {}),
    "another organization": lambda: (openai(organization="p"), {}),
    "headers": lambda: (openai(default_headers={"X-Route": "a"}), {}),
    "extra_body": lambda: (openai(extra_body={"a": 1}), {}),
    "model_kwargs": lambda: (openai(model_kwargs={"user": "a"}), {}),
    "reasoning": lambda: (openai(reasoning_effort="low"), {}),
    "call temperature": lambda: (openai(), {"temperature": 1}),
    "n": lambda: (openai(n=2), {}),
    "use_responses_api": lambda: (openai(use_responses_api=True), {}),
}


def test_what_changes_an_answer() -> None:
    """Every difference counts."""
    requests = {name: request("q", *_called(make)) for name, make in CHANGES.items()}

    same = [(one, other) for one in requests for other in requests if one < other and requests[one] == requests[other]]
    assert same == []


def _called(make: Callable[[], tuple[Any, dict[str, Any]]]) -> tuple[str]:
    model, kwargs = make()
    return (of(model, **kwargs),)


def test_extra_nulls_of_another_release_do_not_count() -> None:
    """An upgrade does not make the cache cold."""
    text = of(openai())
    other = text.replace('"kwargs": {', '"kwargs": {"brand_new_option": null, "openai_proxy": null, ')
    assert other != text

    assert request("q", other) == request("q", text)


@pytest.mark.parametrize("model", [openai, lambda: OpenAI(model="gpt-3.5-turbo-instruct")], ids=["chat", "completion"])
def test_where_requests_go_counts(model: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """`OPENAI_BASE_URL` is not in what LangChain says."""

    def text(made: Any) -> str:
        return of(made) if isinstance(made, ChatOpenAI) else str(sorted({**as_dict(made), "stop": None}.items()))

    cache, seen = LayeredCache("memory://"), set()
    for url in (None, "https://one/v1", "https://two/v1"):
        monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
        if url:
            monkeypatch.setenv("OPENAI_BASE_URL", url)
        seen.add(cache.key("q", text(model())))
    assert len(seen) == 3
    monkeypatch.delenv("OPENAI_BASE_URL")
    monkeypatch.setenv("OPENAI_API_BASE", "https://three/v1")
    seen.add(cache.key("q", text(model())))
    assert len(seen) == 4


def test_an_explicit_base_url_is_not_overruled(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a variable that its client does not look at."""
    before = request("q", openai(base_url="https://one/v1"))
    monkeypatch.setenv("OPENAI_BASE_URL", "https://elsewhere/v1")

    assert request("q", openai(base_url="https://one/v1")) == before


class Mode(enum.Enum):
    A = 1
    B = 2


class Thing:
    """Has an address for a text."""


class Vague:
    def __repr__(self) -> str:
        return "<vague thing>"


@tool
def weather(city: str) -> str:
    """Tell the weather."""
    return city


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("thing", Thing()),
        ("tools", [Thing()]),
        ("handler", lambda: None),
        ("nested", {"a": [1, Thing()]}),
        ("vague", Vague()),
        ("array", "ellipsis"),
    ],
)
def test_a_parameter_without_a_lasting_text_is_refused_by_name(parameter: str, value: object, caplog: pytest.LogCaptureFixture) -> None:
    """One warning says which; the model is asked each time, and an event tells of each."""

    class Ellipsed:
        def __repr__(self) -> str:
            return "array([0, 1, ..., 8, 9])"

    if value == "ellipsis":
        value = Ellipsed()
    events: list[Event] = []
    cache = LayeredCache("memory://", observers=[events.append])
    text = of(openai(), stop=["x"], **{parameter: value})

    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert cache.lookup("q", text) is None
            cache.update("q", text, [])
        assert cache.key("q", text) is None

    assert [event.reason is not None and repr(parameter) in event.reason for event in events if event.kind == "uncacheable"] == [True] * 4
    assert len(caplog.records) == 1
    assert parameter in caplog.text


def test_a_text_that_only_looks_like_an_address_is_a_text() -> None:
    """People may ask for one to stop at."""
    assert request("q", openai(), stop=[" at 0x7f00"]) != request("q", openai(), stop=[" at 0x7f01"])


def test_values_that_python_can_read_back_are_values() -> None:
    """The order of a dictionary's keys, the kind of quotes, do not count."""
    one, other = "[('stop', None), ('x', {'a': 1, 'b': 'c'})]", "[('stop', None), ('x', {'b': \"c\", 'a': 1})]"
    assert request("q", one) == request("q", other)
    assert request("q", "[('x', {1, 2})]") == request("q", "[('x', {2, 1})]")
    assert request("q", "[('x', [1, 2])]") != request("q", "[('x', (1, 2))]")
    assert request("q", "[('day', datetime.date(2026, 1, 31))]") != request("q", "[('day', datetime.date(2026, 2, 1))]")
    assert request("q", "[('x', <Colour.RED: 1>)]") != request("q", "[('x', <Colour.BLUE: 2>)]")
    assert request("q", "[('x', Decimal('1.10'))]") != request("q", "[('x', Decimal('1.1'))]")


def test_names_of_parameters_may_be_any_text() -> None:
    """None of them swallows another one, whatever stands beside it."""
    pairs = [
        [("X-Top", 1), ("mode", Mode.A)],
        [("X-Top", 2), ("mode", Mode.A)],
        [("it's", 1), ("mode", Mode.A)],
        [("a'), ('b", 1), ("mode", Mode.A)],
    ]
    pairs += [
        [("a", 1), ("mode", Mode.B)],
        [("a", "), ('mode', 5"), ("mode", Mode.A)],
        [("a", 1), ("a", 2), ("mode", Mode.A)],
        [("a", 2), ("a", 1), ("mode", Mode.A)],
    ]

    texts = [str(pair) for pair in pairs]

    assert len({request("q", text) for text in texts}) == len(texts)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(st.text(max_size=4), st.text(max_size=8) | st.integers() | st.sampled_from([dt.date(2026, 1, 31), dt.date(2026, 2, 1)])),
        max_size=4,
    ),
    st.data(),
)
def test_any_two_lists_of_parameters_are_told_apart(one: list[Any], data: st.DataObject) -> None:
    """Also if Python cannot read back what stands in them."""
    other = data.draw(st.permutations(one)) if data.draw(st.booleans()) else [*one[:-1], *[(name, "changed") for name, _ in one[-1:]]]
    one, other = sorted(one, key=repr), sorted(other, key=repr)
    names = [name for name, _ in one]
    if len(set(names)) == len(names) and "timeout" not in names:
        assert (request("q", str(one)) == request("q", str(other))) is (one == other)


@pytest.mark.parametrize("value", ["), ('k', ", "), ('k', 1", "), (\\'k", "'\\", '\\"), ("\'', "([{", "}])"])
def test_a_long_text_beside_a_class_is_read_in_one_pass(value: str) -> None:
    """Whatever it looks like. Were it looked at again from each place that looks like a pair, this would take minutes."""
    pairs = [("prediction", {"content": value * 20_000}), ("response_format", Mode.A)]
    for one in (pairs, pairs[::-1], [("a", value), *pairs]):
        assert request("q", str(one)).params["call"]["prediction"] == pairs[0][1]


def test_a_quote_that_nothing_closes_ends_what_can_be_told_apart() -> None:
    """Names after it are a part of the value that holds it, and that tells too little."""
    for text in ("it's", "it's \\' \\'", "<it's: 1>"):
        with pytest.raises(UncacheableRequestError, match="'x' holds an object whose text does not say all of it"):
            request("q", f"[('a', 1), ('x', {text}), ('b', 2)]")


def test_an_object_whose_text_is_nested_beyond_reason_is_refused() -> None:
    """It has no key, and nothing is raised but that."""
    for text in ("a" + ".b" * 700, "a" + ".b" * 7000, "f" + "()" * 700, "[" * 3000 + "x" + "]" * 3000):
        with pytest.raises(UncacheableRequestError, match="'x' holds an object"):
            request("q", f"[('x', {text})]")


def test_objects_that_show_less_than_they_are() -> None:
    """An array that rounds, an object that shows its name: two of them may look alike."""
    for text in ("Array([0.1235])", "array([1., 2.])", "Thing(name='x')", "Path", "[1, Thing()]", "{'a': thing}"):
        with pytest.raises(UncacheableRequestError, match="does not say all of it"):
            request("q", f"[('x', {text})]")


def test_a_model_that_langchain_does_not_write_out_may_mean_anything_by_a_name() -> None:
    """What is transport for the one is which model it is for the other."""
    for name in ("name", "client", "profile", "cache", "credentials"):
        one, other = (f"[('_type', 'mine'), ('{name}', '{value}'), ('stop', None)]" for value in ("llama", "mistral"))
        assert request("q", one) != request("q", other)
    assert request("q", "[('_type', 'mine'), ('timeout', 5)]") == request("q", "[('_type', 'mine')]")


class Person(BaseModel):
    """A schema."""

    name: str
    born: dt.date


class Movie(TypedDict):
    """Not a pydantic class."""

    title: str


def test_a_class_counts_by_its_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name alone does not say what is asked for; of two that share it and differ, neither has a key."""
    cache = LayeredCache("memory://")
    text = of(openai(), response_format=Person)
    key = cache.key("q", text)
    assert key == cache.key("q", text)
    assert key is not None
    assert "born" in str(request("q", text).params)

    again = type("Person", (Person,), {"__module__": __name__, "__qualname__": "Person", "__doc__": Person.__doc__})
    monkeypatch.setitem(globals(), "Person", again)  # a notebook's cell that is run again
    assert cache.key("q", text) == key

    other = type("Person", (BaseModel,), {"__annotations__": {"name": int}, "__module__": __name__, "__qualname__": "Person"})
    monkeypatch.setitem(globals(), "Person", other)  # and one that was edited
    assert cache.key("q", text) is None
    with pytest.raises(UncacheableRequestError, match="several classes"):
        request("q", openai(), response_format=other)


def test_a_class_that_cannot_be_found_is_refused() -> None:
    """Two of that name might differ."""

    class Local(BaseModel):
        name: str

    for schema in (Local, Movie, int):
        with pytest.raises(UncacheableRequestError, match="response_format"):
            request("q", openai(), response_format=schema)


def test_what_langchain_does_not_write_out_is_refused() -> None:
    """Of a nested object it says no more than the class."""
    text = of(openai(model_kwargs={"thing": Thing()}))

    with pytest.raises(UncacheableRequestError, match="model_kwargs"):
        request("q", text)


def test_llm_strings_of_unknown_forms_count_as_they_are() -> None:
    """Whatever a caller makes up."""
    texts = [
        "",
        "x",
        "model=a",
        "[",
        "[(",
        "{",
        '{"a": 1}',
        '{"a": 1}---',
        "[('a', 1), 'b']",
        "None",
        "[1]",
        "[('x', 1)]",
        "[('x', <broken)]x",
    ]

    assert len({request("q", text) for text in texts}) == len(texts)


def test_names_of_models() -> None:
    """As far as they can be known, for invalidation and for prices."""
    assert request("q", openai()).model == "gpt-4o-mini"
    assert request("q", openai(), model="gpt-4o").model == "gpt-4o"
    assert request("q", "[('_type', 'fake'), ('stop', None)]").model == "fake"
    assert request("q", "x").model is None


@settings(max_examples=300, deadline=None)
@given(st.text(), st.text())
def test_any_two_texts_are_told_apart(one: str, other: str) -> None:
    """As prompts and as llm_strings, and neither is taken for the other."""
    assert (request(one, "x") == request(other, "x")) is (one == other)
    cache = LayeredCache("memory://")
    assert (cache.key(one, other) == cache.key(other, one)) is (one == other)


def test_the_memo_keeps_to_its_weight() -> None:
    """Long prompts weigh more than short ones, and what is asked again stays."""
    memo: Memo[str, int] = Memo(1000, weigh=len)
    for number in range(100):
        memo.put("x" * 90 + str(number), number)
        assert memo.get("x" * 90 + "0") == 0
    held = sum(map(len, (*memo._young, *memo._old)))

    assert held < 1300
    assert memo.get("x" * 90 + "1") is None


def test_the_memo_changes_nothing() -> None:
    """Keys are the same, the first time and any other, however many there were."""
    cache, rnd = LayeredCache("memory://"), random.Random(7)
    texts = [str(number) for number in range(200)]
    cache._calls._keys._half = 20 * 300
    cache._calls._models._half = 20
    fresh = {(prompt, model): LayeredCache("memory://").key(prompt, model) for prompt in texts[:20] for model in texts[:20]}

    for _ in range(3000):
        prompt, model = rnd.choice(texts[:20]), rnd.choice(texts[:20])
        assert cache.key(prompt, model) == fresh[prompt, model]
