"""What is equal has one key; what differs has another; and a key changes only with its version."""

from __future__ import annotations

import base64
import copy
import datetime as dt
import decimal
import enum
import hashlib
import json
import math
import os
import pickle
import sys
import uuid
from collections import OrderedDict
from types import MappingProxyType
from typing import Any

import pytest
from golden import vectors
from hypothesis import given, settings
from hypothesis import strategies as st
from layered_cache import ConfigurationError, Request, UncacheableRequestError
from layered_cache.keys import keys as keys_module
from layered_cache.keys.keys import (
    canonical,
    check_namespace,
    child_namespace,
    digest_of,
    feed,
    is_digest_of,
    make_key,
    namespace_of,
    prompt_digest,
    write_json,
)


class Colour(enum.Enum):
    RED = "red"


class Size(str, enum.Enum):  # noqa: UP042 - as people write it
    BIG = "big"


VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2**63, 2**200, 0.0, -0.0, 1.0, 1.5, 1e-5, 1e300, math.inf, -math.inf, math.nan, "", "0", "1", "null",
    "true", "é", "e\u0301", "🙂", "\ud800", "\x00", "\x00tuple", [], {}, [None], [[]], [{}], ["a", "b"], ["ab"], [1, 2], [12], ["1", 2],
    {"a": 1}, {"a": None}, {"a": []}, {"a": {}}, {"a": 1, "b": 2}, {"b": 1, "a": 2}, {"\x00tuple": [1]}, {1: "a"}, {"1": "a"}, {None: 1},
    (), (1,), (1, 2), set(), {1}, {1, 2}, frozenset(), b"", b"a", "61", dt.date(2026, 1, 31), dt.datetime(2026, 1, 31),
    dt.datetime(2026, 1, 31, tzinfo=dt.UTC), dt.datetime(2026, 1, 31, fold=1), dt.time(1, 2),
    dt.timedelta(1), "2026-01-31", decimal.Decimal("1.0"), decimal.Decimal("1.00"), uuid.UUID(int=1), Colour.RED, "red", Size.BIG, "big",
]  # fmt: skip


@pytest.mark.parametrize("namespace", ["a", "a/b", "a:", "ab", "größe", "%", "zz"])
def test_key_bounds_hold_all_keys_of_a_namespace_and_no_others(namespace: str) -> None:
    first, end = keys_module.key_bounds(namespace)
    others = ("a", "a/b", "a:", "ab", "größe", "%", "zz", "a;", "a9", "b", "A")

    for other in others:
        key = keys_module.make_key(Request(f"question of {other}"), other)
        assert (first <= key < end) == (other == namespace)
    prefix = keys_module.key_prefix(namespace)
    for tail in ("", "A", "z", "\U0010ffff"):
        assert first <= prefix + tail < end


def test_what_differs_has_different_canonical_texts() -> None:
    """Whatever its kind: no value can be spelled as another."""
    texts = [canonical(value) for value in VALUES]

    same = [(VALUES[i], VALUES[j]) for i in range(len(texts)) for j in range(i) if texts[i] == texts[j]]
    # a frozen set is a set; a Decimal and a date say all they are
    assert same == [(frozenset(), set())]


def test_the_order_of_dictionary_keys_never_counts() -> None:
    """At any depth, in any mapping."""
    one = {"a": {"x": 1, "y": {2: 3, "4": 5}}, "b": [1, {"c": 2, "d": 3}]}
    other = OrderedDict([("b", [1, {"d": 3, "c": 2}]), ("a", {"y": {"4": 5, 2: 3}, "x": 1})])

    assert canonical(one) == canonical(other)


def test_subclasses_count_as_what_they_are() -> None:
    """A text of LangChain's or numpy's own class is a text."""

    class Text(str):
        __slots__ = ()

    class Number(int):
        pass

    assert canonical([Text("a"), Number(1)]) == canonical(["a", 1])


class Thing:
    def __repr__(self) -> str:
        return "my secret"


def test_what_has_no_lasting_text_is_refused() -> None:
    """The message says where it is and what, and not what is in it."""
    for make in (
        lambda: canonical({"my secret": [1, {"handler": Thing()}]}),
        lambda: Request([{"my secret": Thing()}]),
        lambda: Request("q", params={"tools": [1, {"my secret": Thing()}]}),
    ):
        with pytest.raises(UncacheableRequestError, match="holds a Thing") as raised:
            make()
        assert "secret" not in str(raised.value)
    assert "the parameter 'tools'" in str(raised.value)
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(UncacheableRequestError, match="too deeply"):
        canonical(deep)


def test_every_part_of_a_request_counts() -> None:
    """And nothing slips from one part into the next."""
    requests = [
        Request("a"),
        Request("b"),
        Request(["a"]),
        Request("a", model="m"),
        Request("a", model=""),
        Request("a", framework="f"),
        Request("a", model="f"),
        Request("a", sample=1),
        Request("a", params={"x": 1}),
        Request("a", params={"x": 2}),
        Request("a", params={"x": "1"}),
        Request("a", params={"y": 1}),
        Request("a", params={"x": [1.0]}),
        Request("a", params={"x": [1]}),
        Request("a", params={"x": {"y": None}}),
        Request("a", params={"x": {}}),
        Request('a","b'),
    ]
    keys = [make_key(request, namespace) for request in requests for namespace in ("app", "app/x", "x")]

    assert len(set(keys)) == len(keys)
    assert len(set(requests)) == len(requests)


def test_what_is_folded_at_the_top_of_parameters() -> None:
    """Nulls are dropped and 1.0 is 1: there, and nowhere else."""
    assert Request("a", params={"temperature": 1.0, "stop": None}) == Request("a", params={"temperature": 1})
    assert Request("a", params={"x": {"stop": None}}) != Request("a", params={"x": {}})
    assert Request("a", params={"x": True}) != Request("a", params={"x": 1})
    assert Request("a", params={"x": 1e300}).params == {"x": {"\x00float": "1e+300"}}


def test_a_request_is_a_value() -> None:
    """Equal, hashable, frozen, picklable; the caller's objects are copied."""
    prompt: list[Any] = [{"role": "user", "content": "hi"}]
    request = Request(prompt, model="m", params={"b": 1, "a": [1]}, framework="f", sample=2)
    prompt[0]["content"] = "changed"

    assert request.prompt == [{"role": "user", "content": "hi"}]
    assert request.params == {"a": [1], "b": 1}
    assert {request: 1}[Request([{"content": "hi", "role": "user"}], model="m", params={"a": [1], "b": 1.0}, framework="f", sample=2)] == 1
    for copied in (pickle.loads(pickle.dumps(request)), copy.deepcopy(request), copy.copy(request)):
        assert copied == request
        assert make_key(copied, "app") == make_key(request, "app")
    with pytest.raises(AttributeError):
        request.model = "other"
    with pytest.raises(AttributeError):
        del request.model
    assert request != "request"


@pytest.mark.parametrize("options", [{"model": 5}, {"framework": None}, {"sample": "1"}, {"sample": True}])
def test_wrong_requests(options: dict[str, Any]) -> None:
    """They are told of before a store is."""
    with pytest.raises(ConfigurationError, match="must be"):
        Request("q", **options)


def test_the_question_of_a_request() -> None:
    """The last user message, in the words of either framework; of a text, the text."""
    question = prompt_digest("the question")
    assert len(question) == 16

    assert Request("the question").prompt_digest == question
    for role in ({"role": "user"}, {"type": "human"}, {"role": "human"}):
        messages = [{**role, "content": "first"}, {**role, "content": "the question"}, {"role": "assistant", "content": "thinking"}]
        assert Request(messages).prompt_digest == question
    blocks = [{"type": "text", "text": "the question"}]
    assert Request([{"role": "user", "content": blocks}]).prompt_digest == prompt_digest(blocks)
    assert Request([{"role": "system", "content": "x"}]).prompt_digest == bytes(16)
    assert Request({"no": "messages"}).prompt_digest == bytes(16)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)


def typed(value: Any) -> Any:
    """Return *value* with its types made part of it, so that `==` tells 1 from 1.0 and True."""
    if isinstance(value, dict):
        return {key: typed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [typed(item) for item in value]
    return (type(value).__name__, repr(value) if isinstance(value, float) else value)


@settings(max_examples=500, deadline=None)
@given(plain, plain)
def test_equal_texts_iff_equal_values(one: Any, other: Any) -> None:
    """For any two values."""
    assert (canonical(one) == canonical(other)) is (typed(one) == typed(other))


@settings(max_examples=500, deadline=None)
@given(plain)
def test_both_writers_write_the_same(value: Any) -> None:
    """The standard library's and orjson's: a cache with one reads what one with the other wrote."""
    assert keys_module._writer() is not write_json
    prepared = value if keys_module._is_plain(value) else keys_module._tagged(value)

    assert keys_module._writer()(prepared) == write_json(prepared)


@settings(max_examples=1000, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_both_writers_write_floats_the_same(value: float) -> None:
    """Those that are not tagged."""
    if keys_module._plain_float(value):
        assert keys_module._writer()(value) == write_json(value)
        assert float(write_json(value)) == value


def test_without_orjson_keys_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is faster, and that is all."""
    expected = [canonical(value) for value in VALUES]
    monkeypatch.setitem(sys.modules, "orjson", None)
    keys_module._writer.cache_clear()
    try:
        assert keys_module._writer() is write_json
        assert [canonical(value) for value in VALUES] == expected
    finally:
        monkeypatch.undo()
        keys_module._writer.cache_clear()


def test_keys_are_what_they_were() -> None:
    """A key that changes makes every cache cold: it may only do so with its version."""
    assert vectors.keys() == json.loads(vectors.KEYS.read_text())


def test_what_a_key_says() -> None:
    """Its version, its namespace, its digest, in characters that every store takes."""
    key = make_key(Request("a"), "app/tenant 7:é")

    assert key.startswith("lc1:app/tenant%207%3A%C3%A9:")
    assert namespace_of(key) == "app/tenant 7:é"
    assert len(digest_of(key)) == 32
    assert digest_of(key) == digest_of(make_key(Request("a"), "app/tenant 7:é"))
    assert len({digest_of(other) for other in (key, key[:-1] + "!", "foreign", "lc1:x", "lc1:a:" + "!" * 43)}) == 5
    assert namespace_of("foreign") == ""


def test_children_cannot_pass_for_others() -> None:
    """Whatever a tenant is called."""
    assert child_namespace("app", "a/b") == "app/a%2Fb"
    assert child_namespace("app", "a%2Fb") == "app/a%252Fb"
    assert child_namespace("app", "..") == "app/.."
    for name in ("", None, 7, "\n", "x" * 300):
        with pytest.raises(ConfigurationError):
            child_namespace("app", name)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, 1, 2047, 2048, 5000, 16_384, 16_385, 100_000])
def test_hashing_in_slices_changes_nothing(size: int) -> None:
    """Whatever the size."""
    data = os.urandom(size)
    digest = hashlib.sha256()
    feed(digest, data)

    assert digest.digest() == hashlib.sha256(data).digest()


def test_whatever_a_key_is_its_digest_has_32_bytes() -> None:
    """Of a key that was made here those in it; of a foreign key, however much it looks like one, its hash."""
    made = make_key(Request("a"), "app")
    text = made.rpartition(":")[2]
    others = ["k", "", "\ud800", text, f"lc2:app:{text}", f"lc10:app:{text}"]
    lengths = [f"lc1:app:{other}" for other in ("", text[:40], text[:-1], text + "A", text * 2)]

    assert base64.urlsafe_b64encode(digest_of(made)).decode() == text + "="
    no_base64 = [f"lc1:app:{other}" for other in ("é" + text[1:], "!" * 43, "!!!" + text[3:], "+/" + text[2:], "A" * 42 + "=")]
    for key in (*others, *lengths, *no_base64):
        assert digest_of(key) == hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest(), key

    for digest in (digest_of(made), *(digest_of(key) for key in (*others, *lengths, *no_base64)), bytes(32), b"\xff" * 32):
        for key in (made, *others, *lengths, *no_base64, "lc1:app:" + "_" * 42 + "8", "lc9:app:" + "A" * 43):
            assert is_digest_of(digest, key) is (digest == digest_of(key)), key


def test_the_namespace_in_a_key() -> None:
    """It can be read back from what was made here, and from nothing else."""
    for namespace in ("app", "app/a", "a b", "lc1", "größe %2F 🙂", "x:y"):
        assert namespace_of(make_key(Request("a"), namespace)) == namespace
    for foreign in ("", "app", "app:x", "lc2:app:x", "lc10:app:x", "lc1", "xlc1:app:x"):
        assert namespace_of(foreign) == ""


@pytest.mark.parametrize("namespace", ["a", "a/b/c", "größe 🙂", "x" * 255, "a//b", "%2F"])
def test_what_may_be_a_namespace(namespace: str) -> None:
    """Texts that can be read."""
    assert check_namespace(namespace) == namespace


@pytest.mark.parametrize("namespace", ["", "x" * 256, "/", "/a", "a/", "a\nb", "\x00", "\ud800", None, 7, b"a", ["a"]])
def test_what_may_not_be_a_namespace(namespace: object) -> None:
    """Nor a child, where it is one's whole name."""
    with pytest.raises(ConfigurationError, match="1 to 255"):
        check_namespace(namespace)


def test_the_longest_child() -> None:
    """The length is that of the whole."""
    assert len(child_namespace("app", "x" * 251)) == 255
    with pytest.raises(ConfigurationError):
        child_namespace("app", "x" * 252)


class Kept:
    """A hash that keeps how much it was given at a time."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def update(self, data: bytes) -> None:
        self.sizes.append(len(data))


@pytest.mark.parametrize(
    ("size", "sizes"),
    [(0, [0]), (2047, [2047]), (2048, [2047, 1]), (4094, [2047, 2047]), (16_384, [2047] * 8 + [8]), (16_385, [16_385]), (10**6, [10**6])],
)
def test_texts_of_a_medium_size_are_hashed_without_giving_up_the_gil(size: int, sizes: list[int]) -> None:
    """As hashlib does from 2,048 bytes on; of long ones it is worth it."""
    digest: Any = Kept()
    feed(digest, bytes(size))

    assert digest.sizes == sizes


def test_numbers_that_are_too_long_are_refused() -> None:
    """Python writes no integer of more than some thousand digits."""
    with pytest.raises(UncacheableRequestError, match="the prompt"):
        canonical([10**10_000], "the prompt")


def test_keys_of_dictionaries_are_told_apart_by_what_they_are() -> None:
    """A member of an enumeration is none of its value; a text of another class is a text."""

    class Text(str):
        __slots__ = ()

    texts = [canonical({key: 1}) for key in ("big", Size.BIG, "red", Colour.RED, "\x00", "\x00enum", 1, "1", None, "null", True)]
    assert len(set(texts)) == len(texts)
    assert canonical({Text("a"): {Text("b"): 1}}) == canonical({"a": {"b": 1}})
    assert canonical({Size.BIG: 1, "a": 2}) == canonical({"a": 2, Size.BIG: 1}) != canonical({Size.BIG: 2, "a": 1})


def test_what_a_set_holds_counts_and_its_order_does_not() -> None:
    """Also where its members are no texts."""
    assert canonical({1, "a", (2, 3), None}) == canonical({None, (2, 3), "a", 1}) != canonical({None, (3, 2), "a", 1})


def test_copies_of_plain_values_by_other_classes_are_the_same() -> None:
    """A number of numpy's or a mapping of a library's is what it says."""

    class Number(int):
        pass

    class Fraction(float):
        pass

    class Listed(list[Any]):
        pass

    plain_ones: list[tuple[Any, Any]] = [
        (Number(5), 5),
        (Fraction(1.5), 1.5),
        (Fraction("inf"), math.inf),
        (Fraction(1e300), 1e300),
        (Listed([1, (2,)]), [1, (2,)]),
        (MappingProxyType({"b": 1, "a": (2,)}), {"a": (2,), "b": 1}),
        (bytearray(b"a"), b"a"),
    ]
    for other, plain_one in plain_ones:
        assert canonical(other) == canonical(plain_one)
        assert canonical([other]) == canonical([plain_one])
        assert canonical({"x": other}) == canonical({"x": plain_one})


def test_the_standard_librarys_json_is_json() -> None:
    """What JSON cannot say is an error, not a text that other readers refuse."""
    assert write_json({"b": 1, "a": ["é", None, True]}) == '{"a":["é",null,true],"b":1}'.encode()
    with pytest.raises(ValueError):
        write_json(math.nan)


def test_what_json_can_say_is_written_without_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most of what is asked is: only the rest is worth looking at twice."""

    def looked_at_twice(value: object) -> object:
        raise AssertionError(value)

    monkeypatch.setattr(keys_module, "_tagged", looked_at_twice)
    for value in (None, True, 0, 2**200, "é", 1.5, [], {}, ["a", 1, [True]], {"a": {"b": None}, "c": [1.5, "x", ["y"], {"d": False}]}):
        assert json.loads(canonical(value)) == value
