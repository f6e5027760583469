"""Generations come back equal, in new objects, or are not kept."""

from __future__ import annotations

import copy
import datetime as dt
import decimal
import enum
import math
import os
import pickle
import sys
import uuid
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.load import dumps as core_dumps
from langchain_core.messages import AIMessage, AIMessageChunk, ChatMessage, ChatMessageChunk, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, Generation, GenerationChunk
from layered_cache import EncodeError
from layered_cache.adapters.msgpack_codec import dumps, loads, same
from pydantic import BaseModel

from langchain_layered_cache import _generation_codec
from langchain_layered_cache._generation_codec import decode, encode, new_id

USAGE: Any = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7, "input_token_details": {"cache_read": 1}}
CALL: Any = {"name": "f", "args": {"x": [1, 2.5, None, {"y": "z"}]}, "id": "call_1", "type": "tool_call"}
BAD_CALL: Any = {"name": "f", "args": "{", "id": "call_2", "error": "no JSON", "type": "invalid_tool_call"}

MESSAGES: dict[str, Any] = {
    "plain": AIMessage("text"),
    "empty": AIMessage(""),
    "full": AIMessage(
        "text",
        id="run-1",
        name="alice",
        additional_kwargs={"refusal": None, "x": {"y": [1]}},
        response_metadata={"model_name": "m", "logprobs": {"content": [{"token": "a", "logprob": -0.1}]}, "finish_reason": "stop"},
        tool_calls=[CALL],
        invalid_tool_calls=[BAD_CALL],
        usage_metadata=USAGE,
    ),
    "blocks": AIMessage(
        [
            "text",
            {"type": "text", "text": "more", "annotations": [{"type": "citation", "url": "https://x"}]},
            {"type": "image", "base64": "AAAA", "mime_type": "image/png"},
            {"type": "audio", "base64": "AAAA"},
            {"type": "reasoning", "reasoning": "hm", "extras": {"signature": "sig"}},
            {"type": "thinking", "thinking": "hm", "signature": "sig"},
            {"type": "tool_use", "id": "1", "name": "f", "input": {}},
            {"type": "server_tool_call", "name": "search", "args": {}, "id": "2"},
        ]
    ),
    "v1": AIMessage(
        content_blocks=[{"type": "text", "text": "a"}, {"type": "reasoning", "reasoning": "b"}], response_metadata={"output_version": "v1"}
    ),
    "extra": AIMessage("text", made_up={"a": 1}),  # type: ignore[call-arg]
    "chunk": AIMessageChunk(
        "text", tool_call_chunks=[{"name": "f", "args": '{"a"', "id": "1", "index": 0, "type": "tool_call_chunk"}], usage_metadata=USAGE
    ),
    "last chunk": AIMessageChunk("", chunk_position="last"),
    "chat": ChatMessage("text", role="critic"),
    "chat chunk": ChatMessageChunk("text", role="critic"),
    "human": HumanMessage("text", id="1"),
    "big int": AIMessage("a", additional_kwargs={"n": 2**100, "m": -(2**70), "k": 2**63}),
    "floats": AIMessage("a", additional_kwargs={"x": [math.inf, -math.inf, 1e300, -0.0, 5e-324]}),
    "surrogate": AIMessage("a\ud800b", additional_kwargs={"\udfff": "\ud83d"}),
    "tuple": AIMessage("a", additional_kwargs={"x": (1, (2, [3]), {})}),
    "set": AIMessage("a", additional_kwargs={"x": {1, 2}, "y": frozenset({(1,)})}),
    "dates": AIMessage(
        "a",
        response_metadata={
            "date": dt.date(2026, 1, 31),
            "naive": dt.datetime(2026, 1, 31, 12, 0, 0, 7),
            "aware": dt.datetime(2026, 1, 31, tzinfo=dt.UTC),
            "fold": dt.datetime(2026, 1, 31, fold=1),
            "time": dt.time(1, 2, 3),
            "delta": dt.timedelta(days=-1, microseconds=5),
        },
    ),
    "bytes": AIMessage("a", additional_kwargs={"x": b"\x00\xff", "y": bytearray(b"z")}),
    "numbers": AIMessage("a", additional_kwargs={"d": decimal.Decimal("1.10"), "u": uuid.UUID(int=5), "c": 1 + 2j}),
    "odd keys": AIMessage("a", additional_kwargs={"x": {1: "a", None: "b", 2.5: "c", (1, 2): "d", "\x00": "f"}}),
    "lc": AIMessage("a", additional_kwargs={"x": {"lc": 1, "type": "secret", "id": ["OPENAI_API_KEY"]}, "__lc_escaped__": {"lc": 2}}),
    "control characters": AIMessage("\x00\x1f\u2028", additional_kwargs={"\n": 1}),
}

GENERATIONS: dict[str, Any] = {
    **{
        name: ChatGeneration(message=message, generation_info={"finish_reason": "stop"})
        for name, message in MESSAGES.items()
        if "chunk" not in name
    },
    **{name: ChatGenerationChunk(message=message) for name, message in MESSAGES.items() if "chunk" in name},
    "generation": Generation(text="text", generation_info={"finish_reason": "stop", "logprobs": None}),
    "generation without info": Generation(text=""),
    "generation chunk": GenerationChunk(text="text"),
    "chat without info": ChatGeneration(message=AIMessage("a")),
}


def without_ids(generation: Any) -> Any:
    """Return a copy whose message has the id "id" if it had one."""
    generation = copy.deepcopy(generation)
    if getattr(generation, "message", None) is not None and generation.message.id is not None:
        generation.message.id = "id"
    return generation


@pytest.mark.parametrize("name", GENERATIONS)
def test_what_comes_back(name: str) -> None:
    """Every field, of its type, set or not; and it behaves as the original: copied, compared, written, read."""
    generation = GENERATIONS[name]

    (back,) = decode(encode([generation]))

    one, other = without_ids(back), without_ids(generation)
    assert type(one) is type(other)
    assert one == other
    assert one.model_fields_set == other.model_fields_set
    assert repr(one) == repr(other)
    if (message := getattr(generation, "message", None)) is not None:
        assert type(one.message) is type(message)
        assert same(dict(one.message.__dict__), dict(other.message.__dict__))
        assert one.message.model_fields_set == other.message.model_fields_set
        assert one.message.__pydantic_extra__ == other.message.__pydantic_extra__
        if isinstance(message, AIMessage):
            assert one.message.content_blocks == other.message.content_blocks
            assert one.message + AIMessageChunk("x") == other.message + AIMessageChunk("x") if isinstance(message, AIMessageChunk) else True
    if name not in {"surrogate", "tuple", "set", "dates", "bytes", "numbers", "odd keys", "floats"}:
        assert core_dumps(one) == core_dumps(other)
    assert pickle.loads(pickle.dumps(one)) == copy.deepcopy(one) == one.model_copy(deep=True) == other


def test_nan_comes_back() -> None:
    """Though it is not equal to itself."""
    (back,) = decode(encode([ChatGeneration(message=AIMessage("a", additional_kwargs={"x": math.nan}))]))

    assert math.isnan(back.message.additional_kwargs["x"])  # type: ignore[attr-defined]


def test_several_generations_in_order() -> None:
    """As many as there were, mixed as they were."""
    generations = list(GENERATIONS.values())

    back = decode(encode(generations))

    assert [without_ids(generation) for generation in back] == [without_ids(generation) for generation in generations]


def test_ids_are_new_where_there_were_some() -> None:
    """Each time another one; where there was none there is none."""
    data = encode([ChatGeneration(message=AIMessage("a", id="run-1")), ChatGeneration(message=AIMessage("b"))])
    ids = [[generation.message.id for generation in decode(data)] for _ in range(3)]  # type: ignore[attr-defined]

    assert [second for _, second in ids] == [None] * 3
    firsts = {first for first, _ in ids}
    assert len(firsts) == 3
    assert all(first.startswith("lc_run--") for first in firsts)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform cannot fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_ids_of_a_child_process_are_its_own() -> None:
    """Though its counter began where the parent's was."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        os.write(writer, " ".join(new_id() for _ in range(5)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    theirs = set(os.read(reader, 10_000).decode().split())
    os.close(reader)

    assert len(theirs | {new_id() for _ in range(5)}) == 10


def test_no_two_callers_share_an_object() -> None:
    """What one does to a hit, at any depth, no other one sees; nor does the one who stored it."""
    generation = GENERATIONS["full"]
    data, before = encode([generation]), copy.deepcopy(generation)
    (first,) = decode(data)
    message: Any = first.message  # type: ignore[attr-defined]
    message.tool_calls[0]["args"]["x"].append("poison")
    message.response_metadata["logprobs"]["content"].clear()
    message.additional_kwargs["x"]["y"].append("poison")
    message.usage_metadata["input_token_details"]["cache_read"] = 99
    message.model_fields_set.clear()
    message.name = "bob"
    first.generation_info["finish_reason"] = "poison"  # type: ignore[index]
    (second,) = decode(data)

    assert without_ids(second) == without_ids(before) == without_ids(generation)
    assert second.message.model_fields_set == before.message.model_fields_set  # type: ignore[attr-defined]


def test_the_cost_that_langchain_adds_to_hits_is_dropped() -> None:
    """It is no usage, and nothing else can read it."""
    for usage, expected in (({"total_cost": 0}, None), ({**USAGE, "total_cost": 0}, USAGE)):
        message = AIMessage("a").model_copy(update={"usage_metadata": usage})
        (back,) = decode(encode([ChatGeneration(message=message)]))
        assert back.message.usage_metadata == expected  # type: ignore[attr-defined]


class Person(BaseModel):
    name: str
    born: dt.date


def test_parsed_objects_become_plain_data() -> None:
    """The parsers of providers make the object of it again."""
    parsed = Person(name="a", born=dt.date(2026, 1, 31))
    message = AIMessage("a", additional_kwargs={"parsed": parsed, "refusal": None})
    (back,) = decode(encode([ChatGeneration(message=message)]))

    assert back.message.additional_kwargs == {"parsed": {"name": "a", "born": "2026-01-31"}, "refusal": None}  # type: ignore[attr-defined]
    assert message.additional_kwargs["parsed"] is parsed


class Colour(str, enum.Enum):  # noqa: UP042 - as people write it
    RED = "red"


class MyText(str):
    __slots__ = ()


class MyMessage(AIMessage):
    pass


class MyGeneration(ChatGeneration):
    pass


class Tokens(BaseModel):
    """Usage as a client of some provider has it: litellm, say."""

    model_config = {"extra": "allow"}
    prompt_tokens: int = 3
    details: Any = None


class Shown:
    """An object that is no model and no dataclass."""

    def __init__(self) -> None:
        self.tokens = 3
        self._client = object()


@dataclass
class Data:
    x: int


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        Colour.RED,
        MyText("a"),
        Person(name="a", born=dt.date(2026, 1, 31)),
        Data(1),
        object(),
        range(3),
        len,
        nested(100_000),
        memoryview(b"a"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_would_not_come_back_equal_is_refused(value: Any) -> None:
    """The message names its class and says nothing of its content."""
    for place in ({"x": value}, {"x": [{"y": value}]}, {"x": (value,)}):
        with pytest.raises(EncodeError) as raised:
            encode([ChatGeneration(message=AIMessage("my secret", additional_kwargs=place))])
        assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (Tokens(details=Tokens(seconds=0.5)), {"prompt_tokens": 3, "details": {"prompt_tokens": 3, "details": None, "seconds": 0.5}}),
        (Data(1), {"x": 1}),
        (Shown(), {"tokens": 3}),
        (Colour.RED, "red"),
        (MyText("a"), "a"),
        ([Data(1), (Data(2), dt.date(2026, 1, 31))], [{"x": 1}, ({"x": 2}, dt.date(2026, 1, 31))]),
        (OrderedDict({Colour.RED: Data(1)}), {"Colour.RED": {"x": 1}}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_objects_in_metadata_become_plain_data(value: Any, data: Any) -> None:
    """Nobody depends on their classes; the text, the calls and the usage come back equal, and what was encoded is left as it is."""
    full = MESSAGES["full"]
    message = full.model_copy(update={"response_metadata": {"usage": value, "n": 1}})
    info = {"usage": value, "finish_reason": "stop"}
    (back,) = decode(encode([ChatGeneration(message=message, generation_info=info)]))

    assert back.message.response_metadata == {"usage": data, "n": 1}  # type: ignore[attr-defined]
    assert back.generation_info == {"usage": data, "finish_reason": "stop"}
    assert without_ids(back).message == without_ids(ChatGeneration(message=message)).message.model_copy(  # type: ignore[attr-defined]
        update={"response_metadata": {"usage": data, "n": 1}}
    )
    assert message.response_metadata["usage"] is info["usage"] is value
    (text,) = decode(encode([Generation(text="a", generation_info={"usage": value})]))
    assert text == Generation(text="a", generation_info={"usage": data})


def test_provider_objects_of_tool_calls_become_plain_data() -> None:
    calls = [{"name": "search", "args": {"q": "x"}, "id": "call_1", "type": "tool_call"}]
    kwargs = {"tool_calls": [Tokens(details=Tokens(prompt_tokens=1))], "refusal": None}
    message = AIMessage("", tool_calls=calls, additional_kwargs=kwargs)
    (back,) = decode(encode([ChatGeneration(message=message)]))
    assert back.message.tool_calls == message.tool_calls  # type: ignore[attr-defined]
    assert back.message.additional_kwargs == {  # type: ignore[attr-defined]
        "tool_calls": [{"prompt_tokens": 3, "details": {"prompt_tokens": 1, "details": None}}],
        "refusal": None,
    }
    assert type(message.additional_kwargs["tool_calls"][0]) is Tokens


@pytest.mark.parametrize("value", [object(), len, Tokens, nested(100_000), memoryview(b"a")], ids=lambda value: type(value).__name__)
def test_objects_without_data_are_refused_in_metadata_too(value: Any) -> None:
    for place in ({"x": value}, {"x": Tokens(details=value)}):
        with pytest.raises(EncodeError):
            encode([ChatGeneration(message=AIMessage("a", response_metadata=place))])


@pytest.mark.parametrize(
    "generation", [MyGeneration(message=AIMessage("a")), ChatGeneration(message=MyMessage("a"))], ids=["generation", "message"]
)
def test_subclasses_are_refused(generation: Any) -> None:
    """They would come back as something else."""
    with pytest.raises(EncodeError, match="My"):
        encode([generation])


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.dates()
    | st.decimals()
    | st.uuids()
    | st.times()
    | st.timedeltas(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3) | st.tuples(inner, inner)
    ),
    max_leaves=10,
)


@settings(max_examples=500, deadline=None)
@given(plain)
def test_any_value_comes_back_of_its_type_or_is_refused(value: Any) -> None:
    """Never as something near."""
    try:
        data = dumps(value)
    except EncodeError:
        return
    assert same(loads(data), value)


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    """By `ValueError` and nothing else."""
    try:
        generations = decode(data)
    except ValueError:
        return
    assert isinstance(generations, list)


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_any_change_of_good_bytes_is_read_or_refused(data: st.DataObject) -> None:
    """And what is read is generations."""
    good = encode([GENERATIONS["full"], GENERATIONS["dates"]])
    at = data.draw(st.integers(0, len(good) - 1))
    changed = bytearray(good)
    changed[at] = data.draw(st.integers(0, 255))
    try:
        generations = decode(bytes(changed))
    except ValueError:
        return
    assert all(isinstance(generation, Generation) for generation in generations)


def test_deeply_nested_bytes_are_refused() -> None:
    """Not followed to the end of the stack."""
    for data in (b"\x91" * 1_000_000, b"\xc7\x02\x04\x91\x91" * 1000, b"\x91\xc7\x03\x04\x91\x90\x90"):
        with pytest.raises(ValueError, match="these bytes are not a value"):
            decode(data)


@pytest.mark.parametrize(
    "parts",
    [
        {}, [], 5, [[]], [[1]], [[9, 0, None, "a", None]], [[1, 0, None, None, None]], [[3, 0, None, "a", None]],
        [[1, 0, None, "a", None, [1, 0, None, *[None] * 8]]], [[1, 0, {"unknown": 1}, "a", None]],
        [[3, 0, None, "a", None, [1, 0, None, 5, {}, {}, None, None, [], [], None]]],
        [[3, 0, None, "a", None, [9, 0, None, "a", {}, {}, None, None, [], [], None]]],
        [[3, 0, None, "a", None, [1, 0, None, "a", {}, {}, None, None, [], []]]],
        [[3, 0, None, None, None, []]], [[3, 0, None, None, None, [1]]],
    ],
    ids=str,
)  # fmt: skip
def test_parts_that_make_no_generation(parts: Any) -> None:
    """Are refused; an empty list is no generations, which its reader takes for a miss."""
    if parts == []:
        assert decode(dumps(parts)) == []
        return
    with pytest.raises(ValueError, match="no generations"):
        decode(dumps(parts))


def test_fields_of_another_release_travel_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that has them takes them; one that has not refuses, and leaves them alone."""

    class Newer(AIMessage):
        brand_new: str = "usual"

    layout = _generation_codec._Layout(1, Newer, _generation_codec._AI, content="a")
    assert layout.raw
    with monkeypatch.context() as patched:
        patched.setitem(_generation_codec._LAYOUTS, Newer, layout)
        patched.setitem(_generation_codec._MESSAGE_OF, 1, layout)
        patched.setattr(_generation_codec, "_CHAT_IS_PLAIN", False)
        usual, unusual = (encode([ChatGeneration(message=Newer("a", **more))]) for more in ({}, {"brand_new": "other"}))
        assert decode(unusual)[0].message.brand_new == "other"  # type: ignore[attr-defined]
        assert decode(usual)[0].message.brand_new == "usual"  # type: ignore[attr-defined]

    assert decode(usual)[0] == ChatGeneration(message=AIMessage("a"))
    assert decode(unusual)[0].message.__pydantic_extra__ == {"brand_new": "other"}  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", GENERATIONS)
def test_the_short_way_makes_what_the_long_way_makes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Down to what pydantic notes of an object."""
    data = encode([GENERATIONS[name]])
    assert _generation_codec._CHAT_IS_PLAIN
    (short,) = decode(data)
    monkeypatch.setattr(_generation_codec, "_CHAT_IS_PLAIN", False)
    (long,) = decode(data)

    def facts(thing: BaseModel) -> list[object]:
        values = [(field, value) for field, value in vars(thing).items() if field not in {"id", "message"}]
        return [type(thing), values, thing.__pydantic_fields_set__, thing.__pydantic_extra__, thing.__pydantic_private__]

    assert facts(short) == facts(long)
    if isinstance(short, ChatGeneration):
        assert list(vars(short)) == list(vars(long))
        assert facts(short.message) == facts(long.message)  # type: ignore[attr-defined]
        assert list(vars(short.message)) == list(vars(long.message))  # type: ignore[attr-defined]


def test_a_class_whose_objects_cannot_be_built_raw_is_validated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another release of pydantic or LangChain may need more than fields."""
    for layout in _generation_codec._MESSAGES + _generation_codec._GENERATIONS:
        assert layout.raw, layout.cls
        monkeypatch.setattr(layout, "raw", False)
    monkeypatch.setattr(_generation_codec, "_CHAT_IS_PLAIN", False)

    for name in ("plain", "full", "blocks", "generation", "chunk", "chat", "dates"):
        (back,) = decode(encode([GENERATIONS[name]]))
        assert without_ids(back) == without_ids(GENERATIONS[name])


def test_golden_bytes() -> None:
    """What this release writes; a change needs another codec name."""
    assert encode([Generation(text="a", generation_info={"b": 1})]).hex() == "919501 03c0a16181a16201".replace(" ", "")
    assert encode([ChatGeneration(message=AIMessage("a", id="x"))]).hex() == (
        "9196 03 05 c0 c0 c0 9b 01 11 c0 a161 80 80 c0 c3 90 90 c0".replace(" ", "")
    )
    assert _generation_codec.CODEC == "lc-generations-1"
    assert sys.byteorder in ("little", "big")
