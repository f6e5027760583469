"""What nodes write, to bytes and back; and the key of what they are given."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import ipaddress
import logging
import math
import operator
import re
import subprocess
import sys
import uuid
from collections import deque
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.outputs import ChatGeneration
from langchain_core.runnables.utils import AddableDict
from langgraph.types import Command, Send
from layered_cache import EncodeError
from layered_cache.adapters.msgpack_codec import same
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr

from langchain_layered_cache import cache_key
from langchain_layered_cache._langgraph.write_codec import CODEC, RebuildError, WritesSerializer, put_together, take_apart

SERDE = WritesSerializer()


class Colour(enum.Enum):
    RED = "red"


class Word(enum.StrEnum):
    YES = "yes"


class Point(NamedTuple):
    x: int
    y: Any = None


@dataclasses.dataclass
class Plan:
    steps: tuple[str, ...]
    total: int = dataclasses.field(init=False, default=0)

    def __post_init__(self) -> None:
        self.total = len(self.steps)


class Inner(BaseModel):
    name: str = ""


class More(Inner):
    extra: int = 1


class Outer(BaseModel):
    model_config = ConfigDict(extra="allow")

    inner: Inner
    due: dt.date | None = None
    numbers: tuple[int, ...] = Field(default=(), validation_alias="NUMBERS")
    anything: Any = None
    hidden: int = Field(default=0, exclude=True)
    _private: list[int] = PrivateAttr(default_factory=list)


class Nested:
    class Deep(BaseModel):
        a: int


CALL: Any = {"name": "f", "args": {"a": [1]}, "id": "call_1", "type": "tool_call"}
USAGE: Any = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}


@pytest.mark.parametrize(
    "value",
    [
        None, True, 1, 2**70, -1.5, math.inf, "ä\ud800", b"\0", bytearray(b"a"), 1j, decimal.Decimal("1.10"), uuid.uuid4(),
        [1, (2, [3])], {"a": {1: 2, (1, 2): [3]}}, {"list": ["tuple", 1]}, ["object", "a", "b", {}, None], {1, 2}, frozenset({(1, "a")}),
        deque([("messages", [HumanMessage("q", id="1"), AIMessage("a", id="2", tool_calls=[CALL], usage_metadata=USAGE)])]),
        dt.datetime(2026, 1, 2, 3, 4, 5, 6), dt.datetime(2026, 1, 2, tzinfo=dt.UTC), dt.datetime(2026, 10, 25, 2, 30, fold=1,
        tzinfo=ZoneInfo("Europe/Berlin")), dt.date(2026, 1, 2), dt.time(1, 2), dt.timedelta(days=-1),
        Path("/a/b"), ZoneInfo("UTC"), ipaddress.ip_address("::1"), ipaddress.ip_network("10.0.0.0/8"),
        Colour.RED, Word.YES, Point(1, (2,)), Plan(("a", "b")), [Inner(name="a"), More()], Nested.Deep(a=1),
        Outer(inner=More(), due=dt.date(2026, 1, 2), NUMBERS=(1,), anything=(Inner(), {1}), hidden=3, more=Colour.RED),
        Send("node", {"messages": [HumanMessage("a")], "point": (1, 2)}), Command(update={"a": (1,)}, goto="b"),
        SystemMessage("a"), ToolMessage("a", tool_call_id="1", artifact=[Document("d", metadata={"a": (1,)})], status="error"),
        ChatMessage("a", role="r"), AIMessageChunk("a", id="1"), RemoveMessage(id="1"), BaseMessage("a", type="own"),
        AIMessage([{"type": "text", "text": "a"}], additional_kwargs={"parsed": Inner(), "n": dt.date(2026, 1, 2)}, own=1),
        ChatGeneration(message=AIMessage("a", response_metadata={"logprobs": None})),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_values_come_back_equal(value: Any) -> None:
    """Of the same classes all the way down, and new."""
    back = SERDE.loads_typed(SERDE.dumps_typed(value))

    assert type(back) is type(value)
    assert back == value
    assert same(take_apart(back), take_apart(value))
    if isinstance(value, dict | list | deque | BaseModel | dt.datetime | bytearray):
        assert back is not value
    if isinstance(value, BaseModel):
        assert back.model_fields_set == value.model_fields_set
    if isinstance(value, dt.datetime):
        assert (back.tzinfo, back.fold) == (value.tzinfo, value.fold)


def test_usage_that_langchain_puts_in_and_refuses() -> None:
    """A cost without tokens, after a hit of a cache below: it comes back as it is."""
    for usage in ({"total_cost": 0}, {**USAGE, "total_cost": 0}):
        message = AIMessage("a").model_copy(update={"usage_metadata": usage})
        assert SERDE.loads_typed(SERDE.dumps_typed(message)) == message


def test_what_releases_differ_in_comes_back_plain() -> None:
    """The text of a message, and the dictionary that a graph returns."""
    back = SERDE.loads_typed(SERDE.dumps_typed([AIMessage("a").text, AddableDict(a=1)]))

    assert back == ["a", {"a": 1}]
    assert [type(item) for item in back] == [str, dict]


class Own:
    pass


called: list[Any] = []


class Tempting:
    def __init__(self, **kwargs: Any) -> None:
        called.append(kwargs)


class OwnDict(dict[str, int]):
    pass


class Strict(BaseModel):
    seen: int = 0

    def model_post_init(self, _: Any) -> None:
        self.seen += 1


def _with_private() -> Outer:
    outer = Outer(inner=Inner())
    outer._private.append(1)
    return outer


def _local() -> BaseModel:
    class Local(BaseModel):
        a: int = 1

    return Local()


def _deep() -> Any:
    value: Any = []
    for _ in range(100_000):
        value = [value]
    return value


CYCLE: list[Any] = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize(
    "value",
    [
        Own(), object, len, lambda: 1, OwnDict(a=1), ValueError("a"), SecretStr("a"), re.compile("a"), {Colour.RED}, {Point(1)},
        Strict(), _with_private(), _local(), _deep(), CYCLE, Inner, Send("node", Own()), {Own(): 1}, iter([1]),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_would_not_come_back_equal_is_refused(value: Any) -> None:
    """Classes that are not known, changed by their own validation, hidden in a function, or too deep."""
    with pytest.raises(EncodeError) as caught:
        SERDE.dumps_typed([value])
    assert "secret" not in str(caught.value)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.dates(),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.lists(inner).map(deque)
        | st.dictionaries(st.text() | st.integers(), inner)
        | st.builds(AIMessage, st.text())
        | st.builds(Point, st.integers(), inner)
    ),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(plain)
def test_whatever_is_made_of_these_comes_back_equal(value: Any) -> None:
    """Law."""
    assert same(take_apart(SERDE.loads_typed(SERDE.dumps_typed(value))), take_apart(value))


@pytest.mark.parametrize(
    "apart",
    [
        ["object", "os", "system", {"command": "exit 1"}, None],
        ["object", "subprocess", "Popen", {"args": "exit 1"}, None],
        ["object", "builtins", "dict", {}, None],
        ["object", "antigravity", "fly", {}, None],
        ["object", __name__, "Own", {}, None],
        ["object", __name__, "Tempting", {"a": 1}, None],
        ["object", __name__, "Nested", {}, None],
        ["object", __name__, "Inner.model_validate", {}, None],
        ["object", __name__, "Plan", {"stepz": ["tuple"]}, None],
        ["object", __name__, "Inner", {"name": "secret", "gone": 1}, []],
        ["object", __name__, "Inner", {"name": 1.5}, []],
        ["object", __name__, "Plan", {"steps": ["tuple", "secret"], "total": 7}, None],
        ["member", __name__, "Colour", "GREEN"],
        ["text", "Popen", "secret"],
        ["zoned", 1, 2],
        ["unknown"],
        [["list"]],
        [],
    ],
    ids=str,
)
def test_bytes_that_say_something_else_are_refused(apart: Any) -> None:
    """Nothing is imported or called that is no class for data, and an object whose class has changed since is refused."""
    from layered_cache.adapters.msgpack_codec import dumps

    with pytest.raises(RebuildError) as caught:
        SERDE.loads_typed((CODEC, dumps(apart)))
    assert "secret" not in str(caught.value)
    assert "antigravity" not in sys.modules
    assert called == []


def test_forms_of_others_are_refused() -> None:
    """Pickle, JSON with a reviver, and whatever comes."""
    for form in ("pickle", "json", "msgpack", "null", ""):
        with pytest.raises(RebuildError):
            SERDE.loads_typed((form, b""))


def test_a_class_that_got_a_field_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it has a default; one that lost a field is not."""
    data = SERDE.dumps_typed(More(name="a"))

    class Newer(More):
        newer: int = 3

    monkeypatch.setattr(sys.modules[__name__], "More", Newer)
    assert SERDE.loads_typed(data) == Newer(name="a")
    monkeypatch.setattr(sys.modules[__name__], "More", Inner)
    with pytest.raises(RebuildError, match="More is not what it was"):
        SERDE.loads_typed(data)


def test_the_form_is_for_ever() -> None:
    """Golden bytes: change them only with the name of the form."""
    value = deque([("m", [HumanMessage("q", id="1")]), ("p", (1, Send("n", {"a": dt.date(2026, 1, 2)})))])
    apart = [
        "deque",
        ["tuple", "m", ["list", [
            "object", "langchain_core.messages.human", "HumanMessage",
            {"content": "q", "additional_kwargs": {}, "response_metadata": {}, "type": "human", "name": None, "id": "1"},
            ["additional_kwargs", "content", "id", "response_metadata"],
        ]]],
        ["tuple", "p", ["tuple", 1, ["object", "langgraph.types", "Send", {"node": "n", "arg": {"a": dt.date(2026, 1, 2)}}, None]]],
    ]  # fmt: skip
    assert put_together(apart) == value
    taken: Any = take_apart(value)
    taken[1][2][1][4] = apart[1][2][1][4]  # which fields count as given depends on the release
    assert taken == apart


# --- keys


def conversation(**changes: Any) -> list[BaseMessage]:
    """Return messages that differ each time in what does not count, and in *changes*."""
    call = {**CALL, "id": changes.get("call_id", "call_1")}
    metadata = {"id": uuid.uuid4().hex, "time": uuid.uuid4().hex, "model_provider": changes.get("provider", "openai")}
    additional = {"parsed": changes.get("parsed", Inner())}
    return [
        HumanMessage(changes.get("text", "q"), id=uuid.uuid4().hex),
        AIMessage(
            "", id=uuid.uuid4().hex, tool_calls=[call], response_metadata=metadata, additional_kwargs=additional,
            usage_metadata={**USAGE, "input_tokens": uuid.uuid4().int % 100},
        ),
        ToolMessage("r", id=uuid.uuid4().hex, tool_call_id=call["id"], artifact=changes.get("artifact")),
    ]  # fmt: skip


class Model(BaseModel):
    messages: list[Any]


@dataclasses.dataclass
class Data:
    messages: list[Any]


SHAPES: list[Any] = [
    lambda messages: {"messages": messages, "n": 1},
    lambda messages: Model(messages=messages),
    lambda messages: Data(messages),
    lambda messages: [[{"deep": (messages,)}]],
    operator.itemgetter(0),
    operator.itemgetter(1),
    lambda messages: messages,
    lambda messages: Send("n", {"messages": messages}),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_ids_and_usage_do_not_count(shape: Any) -> None:
    """Wherever messages stand in a state."""
    assert cache_key(shape(conversation())) == cache_key(shape(conversation(parsed={"name": ""})))


@pytest.mark.parametrize(
    "changes", [{"text": "other"}, {"call_id": "call_2"}, {"provider": "anthropic"}, {"artifact": [Document("d")]}], ids=str
)
def test_all_else_of_messages_counts(changes: dict[str, Any]) -> None:
    """Also the ids of tool calls, which a node answers with, and artifacts, which it may read."""
    assert cache_key({"messages": conversation()}) != cache_key({"messages": conversation(**changes)})


def test_different_inputs_have_different_keys() -> None:
    """Each of these from each other one: classes, types, places."""
    inputs: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        ((), {}), ((None,), {}), ((1,), {}), ((1.0,), {}), ((True,), {}), (("1",), {}), (([1],), {}), (((1,),), {}), (({1},), {}),
        ((deque([1]),), {}), (({"a": 1},), {}), (({"a": 1, "b": None},), {}), ((), {"a": 1}), ((1, 2), {}), (([1, 2],), {}),
        ((["list", 1],), {}), ((["object"],), {}), ((Inner(name="a"),), {}), ((Inner(name="b"),), {}), ((More(name="a"),), {}),
        (({"name": "a"},), {}), ((Point(1, 2),), {}), ((Colour.RED,), {}), (("red",), {}), ((Word.YES,), {}), (("yes",), {}),
        ((HumanMessage("a"),), {}), ((SystemMessage("a"),), {}), ((AIMessage("a"),), {}), ((AIMessage(["a"]),), {}),
        ((HumanMessage("a", name="n"),), {}), ((RemoveMessage(id="1"),), {}),
        ((Document("d", id="1"),), {}), ((Document("d", id="2"),), {}),
        ((dt.datetime(2026, 1, 1),), {}), ((dt.datetime(2026, 1, 1, tzinfo=ZoneInfo("UTC")),), {}), ((_with_private(),), {}),
        ((Outer(inner=Inner()),), {}), ((b"1",), {}), ((Send("a", 1),), {}), ((Send("b", 1),), {}),
    ]  # fmt: skip
    keys = [cache_key(*args, **kwargs) for args, kwargs in inputs]

    assert len(set(keys)) == len(keys)
    assert keys == [cache_key(*args, **kwargs) for args, kwargs in inputs]
    assert cache_key({"a": 1, "b": 2}) == cache_key({"b": 2, "a": 1})


def test_keys_are_those_of_other_processes() -> None:
    """Whatever the seed of their hashes."""
    program = "from langchain_layered_cache import cache_key; print(cache_key({'a': {'x', 'y', 'z'}, 'b': (1, None)}, c=b'1'))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == cache_key({"a": {"x", "y", "z"}, "b": (1, None)}, c=b"1")


class Nasty(BaseModel):
    model_config = ConfigDict(extra="allow")

    def __getattribute__(self, name: str) -> Any:
        if name == "__pydantic_extra__":
            raise RuntimeError("secret")
        return super().__getattribute__(name)


def test_what_has_no_exact_key_is_never_found(caplog: pytest.LogCaptureFixture) -> None:
    """It gets another key each time, and raises nothing; a warning says once why."""
    values = [Own(), {"f": len}, 1j, CYCLE, Nasty()]
    keys = [cache_key(value) for value in values * 2]

    assert len(set(keys)) == len(keys)
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(messages) == len(values)
    assert "Own" in messages[0]
    assert "secret" not in caplog.text
