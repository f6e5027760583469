"""What is equal has one key and what differs has another, for requests as they come; and keys and bytes are those of every Python."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from golden import vectors
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from invariants import mutations
from invariants.mutation_marker import catches
from layered_cache import Request
from layered_cache.keys import keys

LEAVES: list[Any] = [None, True, False, 0, 1, -1, 2, 0.0, 1.0, -1.0, 0.5, 1e300, 2.0**60, 2**60, "", "a", "b", "ab", "1", "\0", "é", "null"]
NAMES = ["", "a", "b", "ab", "\0a"]


class Pairs:
    """Makes pairs of requests that are nearly the same, by chance: a difference, or what looks like one, is in one place."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)

    def pair(self) -> tuple[tuple[dict[str, Any], str], tuple[dict[str, Any], str]]:
        """Return two requests' parts, and their namespaces."""
        one, where = self._request(), self._namespace()
        match self._chance.choice(["everything", "names", "sample", "prompt", "prompt", "params", "params", "params"]):
            case "everything":
                return (one, where), (self._request(), self._namespace())
            case "names":
                other = self._request()
                return (one, where), ({**one, "model": other["model"], "framework": other["framework"]}, self._namespace())
            case "sample":
                return (one, where), ({**one, "sample": 1}, where)
            case what:
                return (one, where), ({**one, what: self._changed(one[what])}, where)

    def _request(self) -> dict[str, Any]:
        choose = self._chance.choice
        return {
            "prompt": self._value(2),
            "model": choose([None, "", "a"]),
            "framework": choose(["", "b"]),
            "params": {name: self._value(2) for name in self._chance.sample(NAMES, self._chance.randrange(4))},
            "sample": choose([0, 0, 1, 2]),
        }

    def _namespace(self) -> str:
        return self._chance.choice(["a", "ab", "a/b"])

    def _value(self, depth: int) -> Any:
        kind = self._chance.random() if depth else 1.0
        size = self._chance.randrange(3)
        if kind < 0.3:
            return {name: self._value(depth - 1) for name in self._chance.sample(NAMES, size)}
        if kind < 0.5:
            return [self._value(depth - 1) for _ in range(size)]
        return self._chance.choice(LEAVES)

    def _changed(self, value: Any) -> Any:
        """Return *value* with a change somewhere in it, which may be one that makes no difference."""
        chance = self._chance
        if isinstance(value, dict) and value:
            name = chance.choice(list(value))
            match chance.randrange(5):
                case 0:
                    return {key: value[key] for key in reversed(value)}
                case 1:
                    return {key: item for key, item in value.items() if key != name}
                case 2:
                    return {**value, chance.choice(NAMES): None}
                case _:
                    return {**value, name: self._changed(value[name])}
        if isinstance(value, dict):
            return {chance.choice(NAMES): chance.choice(LEAVES)}
        if isinstance(value, list) and value:
            at = chance.randrange(len(value))
            return [*value[:at], self._changed(value[at]), *value[at + 1 :]]
        if type(value) in {int, float}:
            return chance.choice([float(value), int(value), str(value), bool(value)])
        return chance.choice(LEAVES)


def meaning(value: Any) -> Any:
    """Return *value* so that `==` tells apart whatever means something else: types count, the order of names does not."""
    if isinstance(value, dict):
        return {name: meaning(item) for name, item in value.items()}
    if isinstance(value, list):
        return [meaning(item) for item in value]
    return (type(value), repr(value))


def meant(request: dict[str, Any], namespace: str) -> Any:
    """Return what a request asks for: of its parameters, nulls at the top say nothing, and whole floats there are integers."""
    params = {name: value for name, value in request["params"].items() if value is not None}
    for name, value in params.items():
        if type(value) is float and value == int(value) and abs(value) < 2**53:
            params[name] = int(value)
    return meaning([request["prompt"], request["model"], request["framework"], params, request["sample"], namespace])


@catches(
    mutations.nulls_never_count,
    mutations.whole_floats_are_integers_everywhere,
    mutations.parts_run_together,
    mutations.the_order_of_names_counts,
)
@pytest.mark.parametrize(
    "examples", [2_000, pytest.param(10_000, marks=pytest.mark.slow), pytest.param(200_000, marks=pytest.mark.nightly)]
)
def test_equal_keys_iff_equal_requests(examples: int) -> None:
    """For pairs of requests that are nearly the same: one key iff they ask for the same in the same namespace."""
    seen = {True: 0, False: 0}

    @settings(max_examples=examples, deadline=None, database=None, phases=[Phase.generate])
    @given(st.integers(0, 2**48))
    def check(seed: int) -> None:
        (one, here), (other, there) = Pairs(seed).pair()
        alike = meant(one, here) == meant(other, there)
        seen[alike] += 1
        assert (keys.make_key(Request(**one), here) == keys.make_key(Request(**other), there)) is alike

    check()
    assert min(seen.values()) > examples / 10, seen


def pythons() -> list[str]:
    """Return the other Pythons of this machine, of the versions that are promised."""
    names = [f"python3.{minor}" for minor in (11, 12, 13)]
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [shutil.which(name) for name in names] + [str(path) for name in names for path in root.glob(f"{name[6:]}.*/bin/python")]
    works = [path for path in found if path and not subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode]
    version = "import sys; print(sys.version_info[:2])"
    by_version = {subprocess.run([path, "-c", version], capture_output=True, check=True).stdout: path for path in works}
    return sorted(by_version.values())


@pytest.mark.parametrize("seed", ["0", "1", "12345"])
def test_keys_and_bytes_are_those_of_every_python(seed: str) -> None:
    """Whatever its version, its hash seed, and whether there are faster writers."""
    product = str(Path(sys.modules["layered_cache"].__file__ or "").parents[1])
    for python in {sys.executable, *pythons()}:
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": product}
        program = str(vectors.FOLDER / "vectors.py")
        made = json.loads(subprocess.run([python, program], env=environment, check=True, capture_output=True).stdout)
        assert made["keys"] == json.loads(vectors.KEYS.read_text()), python
        assert all([*made["read"].values(), *made["written"].values()]), (python, made)
