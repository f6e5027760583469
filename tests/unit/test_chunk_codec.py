"""Chunks of a stream in small pieces: they come back equal, of the same types, as new objects."""

from __future__ import annotations

import datetime as dt
import enum
import sys
import threading
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from layered_cache.adapters.chunk_codec import Packer, Unpacker
from layered_cache.adapters.msgpack_codec import same
from pydantic import BaseModel, ConfigDict, PrivateAttr

LEAVES = (
    st.none()
    | st.booleans()
    | st.sampled_from([0.0, -0.0, 0, 1, True, 1.0])
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=80)
    | st.binary(max_size=3)
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=2), inner, max_size=3)
)


def round_trip(chunks: list[Any], **how: Any) -> list[Any]:
    """Return the chunks of the pieces of *chunks*. Each chunk is packed before the next one exists, as in a stream."""
    packer, unpacker = Packer(), Unpacker(**how)
    return [unpacker.unpack(piece) for piece in [packer.pack(chunk) for chunk in chunks]]


@given(st.lists(VALUES, max_size=6), st.booleans())
def test_chunks_come_back_equal_and_of_the_same_types(chunks: list[Any], frugal: bool) -> None:
    assert same(round_trip(chunks, frugal=frugal), chunks)


@given(st.lists(st.text("ab", max_size=40), max_size=8), st.booleans())
def test_texts_that_grow_come_back(ends: list[str], moved: bool) -> None:
    """Also if the chunk changes its shape with each step."""
    texts = ["".join(ends[:number]) + "x" * 64 for number in range(len(ends))] + ["".join(ends[:number]) for number in range(len(ends))]
    chunks = [{"number": [0] * (number if moved else 1), "text": text, "end": text[-3:]} for number, text in enumerate(texts)]
    assert round_trip(chunks) == chunks


class Tone(enum.Enum):
    WARM = "warm"


class Text(str):
    __slots__ = ()


class Block(BaseModel):
    model_config = ConfigDict(extra="allow")
    text: str = ""
    more: Any = None
    _hidden: Any = PrivateAttr(default=None)


def test_objects_come_back_with_all_their_state() -> None:
    """Fields, which of them were set, extras and private attributes; texts of a class of their own; other objects as copies."""
    blocks = [Block(text="a"), Block(text="ab", more=Tone.WARM), Block(text="ab", other=[Block()]), Block(more={dt.date(2026, 1, 1)})]
    blocks[1]._hidden = {"x": 1}
    chunks = [*blocks, Text("c"), Text("cd"), {"inner": (Block(text="e"), Text("f"))}]
    again = round_trip(chunks)
    assert again == chunks
    assert [type(chunk) for chunk in again] == [type(chunk) for chunk in chunks]
    assert [chunk.model_fields_set for chunk in again[:4]] == [chunk.model_fields_set for chunk in blocks]
    assert again[1]._hidden == {"x": 1}
    assert again[1].more is Tone.WARM
    assert again[3].more is not blocks[3].more


def test_chunks_share_nothing_that_can_be_changed() -> None:
    """Neither with each other, nor with the model, which may go on with the object that it gave, nor between readers."""
    packer, readers = Packer(), [Unpacker(), Unpacker()]
    chunk = Block(text="a", more={"calls": [], "set": {1}})
    for number in range(3):
        chunk.more["calls"].append(number)
        piece = packer.pack(chunk)
        for reader in readers:
            mine = reader.unpack(piece)
            assert mine.more == {"calls": list(range(number + 1)), "set": {1}}
            mine.more["calls"].append("poison")
            mine.more["set"].add("poison")
            mine.text = mine.more["poison"] = "poison"


def test_frugal_chunks_share_empty_parts_only() -> None:
    one, other = round_trip([{"a": [], "b": [1], "c": {}}, {"a": [], "b": [1], "c": {}}], frugal=True)
    assert one["a"] is other["a"]
    assert one["c"] is other["c"]
    assert one["b"] is not other["b"]


def test_objects_that_cannot_be_copied_are_held_as_they_are() -> None:
    """A connection; and a chunk that holds itself, which has no shape."""
    lock, own = threading.Lock(), {}
    own["self"] = own
    again = round_trip([{"lock": lock}, own, {"lock": lock}])
    assert [again[0]["lock"], again[2]["lock"]] == [lock] * 2
    assert again[1].keys() == {"self"}


def size_of(thing: Any) -> int:
    """Return the bytes of *thing* with its parts."""
    parts: dict[int, Any] = {}
    left = [thing]
    while left:
        part = left.pop()
        if id(part) not in parts and not isinstance(part, type):
            parts[id(part)] = part
            left += part if isinstance(part, tuple | list | frozenset) else []
    return sum(map(sys.getsizeof, parts.values()))


def test_pieces_take_memory_in_proportion_to_the_text() -> None:
    """Of chunks that carry all of it; also where every second chunk has another shape."""
    for shapes, most in ((1, 30), (2, 500)):
        sizes: list[int] = []
        for count in (500, 2_000):
            packer, text, pieces = Packer(), "", list[Any]()
            for number in range(count):
                text += f"word{number % 10} "
                more = {"thought": "t"} if number % shapes else {}
                pieces.append(packer.pack({"message": Block(text=text), "delta": f"word{number % 10} ", "raw": Block(more="m"), **more}))
            sizes.append(size_of(pieces))
        assert sizes[1] < 4.2 * sizes[0]
        assert sizes[1] < most * 2_000
