"""Generations to bytes and back (G11), beside `langchain_core.load`, which all other caches use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from langchain_core.load import dumps, loads
from langchain_core.outputs import Generation

from benchmarks._bench import Bench
from benchmarks._line import Line
from benchmarks._payloads import KINDS, Kind, answer
from langchain_layered_cache._generation_codec import decode, encode


def measure(bench: Bench) -> Iterator[Line]:
    """Yield the lines of this theme."""
    for kind in KINDS:
        yield from _of(bench, kind)


def _of(bench: Bench, kind: Kind) -> Iterator[Line]:
    answers = answer(kind)
    ours, theirs = encode(answers), dumps(answers)
    race = bench.race()
    race.enter("encode", lambda: encode, lambda count: [(answers,)] * count)
    race.enter("dumps", lambda: dumps, lambda count: [(answers,)] * count)
    race.enter("decode", lambda: decode, lambda count: [(ours,)] * count)
    race.enter("loads", lambda: _loads, lambda count: [(theirs,)] * count)
    race.run()
    yield race.compare("G11", f"{kind}: dumps / encode", "dumps", "encode", ">= 50x")
    yield race.compare("G11", f"{kind}: loads / decode", "loads", "decode", ">= 10x")
    yield Line("G11", f"{kind}: bytes of encode / of dumps", len(ours) / len(theirs.encode()), target="<= 0.56x")
    yield Line("G11", f"{kind}: fields that come back unequal", _unequal(answers, decode(ours)), " fields", "<= 0 fields")


def _loads(text: str) -> object:
    return loads(text, allowed_objects="core")


def _unequal(given: list[Generation], found: list[Generation]) -> int:
    """Return how many fields of *found* are not those of *given*; the id of a message is another one on purpose."""
    unequal = abs(len(given) - len(found))
    for one, other in zip(given, found, strict=False):
        ours, theirs = _fields(one), _fields(other)
        unequal += len({name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)})
    return unequal


def _fields(generation: Generation) -> dict[str, Any]:
    message: Any = generation.__dict__["message"]
    fields = {f"message.{name}": value for name, value in message.__dict__.items() if name != "id"}
    classes: dict[str, Any] = {"class": type(generation), "message.class": type(message), "message.set": message.model_fields_set}
    return {**generation.__dict__, **fields, **classes, "message": None}
