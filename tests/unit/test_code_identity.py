"""The identity of user code: equal code has one identity in every place. Other code, or another value that it reads, has another."""

from __future__ import annotations

import functools
import gc
import itertools
import json
import subprocess
import sys
import types
import weakref
from pathlib import Path
from typing import Any

import pytest
from layered_cache import UncacheableRequestError
from layered_cache.adapters.identity import code_identity
from layered_cache.adapters.identity._libraries import is_library
from layered_cache.adapters.identity.code_identity import body_identity, function_data
from layered_cache.adapters.identity.code_identity import code_identity as identity

PROGRAM = '''
"""A program."""

import dataclasses, enum, functools, logging, threading
from typing import NamedTuple

log, lock = logging.getLogger("a"), threading.Lock()
GREETING = "hello"
STYLES = {"formal": ["sir", "madam"], "plain": []}
ALLOWED = {"a", "b", "c"}

class Tone(enum.Enum):
    WARM = "warm"
    COLD = "cold"

@dataclasses.dataclass
class Options:
    tone: Tone = Tone.WARM
    words: list = dataclasses.field(default_factory=list)

class Pair(NamedTuple):
    first: int
    second: int = 2

OPTIONS = Options()

def decorated(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args)
    return wrapper

def join(*words, separator=" "):
    return separator.join(words)

@decorated
def greet(name):
    with lock:
        log.info("greeting")
    return join(GREETING, name, str(Pair(1)))

@functools.lru_cache
def even(number):
    return number == 0 or odd(number - 1)

def odd(number):
    return number != 0 and even(number - 1)

def guarded(text):
    try:
        found = len(text)
    except TypeError:
        return 0
    return found + 1

class Base:
    limit = 3

    @property
    def style(self):
        return STYLES["formal"]

class Model(Base):
    def __init__(self, name):
        self.name = name

    def answer(self, question):
        def inner():
            return greet(question) if question in ALLOWED else even(self.limit)
        return inner(), OPTIONS, guarded(question)

    @classmethod
    def made(cls):
        return cls("x")
'''


def program(source: str = PROGRAM, name: str = "__main__") -> dict[str, Any]:
    """Return the names of a program, run from *source*."""
    found: dict[str, Any] = {"__name__": name}
    exec(compile(source, f"{name}.py", "exec", dont_inherit=True), found)
    return found


def changed(before: str, after: str) -> dict[str, Any]:
    assert PROGRAM.count(before) == 1, before
    return program(PROGRAM.replace(before, after))


CHANGES = [
    ('GREETING = "hello"', 'GREETING = "hi"'),
    ('["sir", "madam"]', '["sir"]'),
    ('{"a", "b", "c"}', '{"a", "b"}'),
    ('WARM = "warm"', 'WARM = "hot"'),
    ("tone: Tone = Tone.WARM", "tone: Tone = Tone.COLD"),
    ("OPTIONS = Options()", "OPTIONS = Options(Tone.COLD)"),
    ("second: int = 2", "second: int = 3"),
    ('separator=" "', 'separator="-"'),
    ("def join(*words, separator", "def join(*words, unused=0, separator"),
    ("separator.join(words)", "separator.join(reversed(words))"),
    ("return function(*args)", "return function(*args).upper()"),
    ("number == 0 or", "number <= 0 or"),
    ("number != 0 and", "number > 0 and"),
    ("        found = len(text)\n    except", "        found = len(text)\n        found += 1\n    except"),
    ("limit = 3", "limit = 4"),
    ('STYLES["formal"]', 'STYLES["plain"]'),
    ("self.name = name", "self.name = name.strip()"),
    ('return cls("x")', 'return cls("y")'),
    ("class Model(Base):", "class Model(Base):\n    more = True"),
    ("class Model(Base):", "class Model:\n    limit = 1"),
    ("def answer(self, question):", 'def answer(self, question="why?"):'),
    ("def inner():", "def inner(more=0):"),
]  # fmt: skip


def test_each_change_of_the_code_changes_the_identity() -> None:
    """From the program as it was, and from every other change."""
    found = [identity(changed(*change)["Model"]) for change in (("GREETING", "GREETING"), *CHANGES) if PROGRAM.count(change[0]) == 1]
    found.append(identity(program()["Model"]))
    for (number, one), (other_number, other) in itertools.combinations(enumerate(found), 2):
        assert one is not None
        assert one != other, (number, other_number)


EQUAL = [
    ('"""A program."""', '"""Another text."""\n\n\n'),
    ("def odd(number):", "UNRELATED = object()\n\ndef unrelated():\n    return UNRELATED\n\ndef odd(number):"),
    ('{"a", "b", "c"}', '{"c", "b", "a"}'),
    ("return number != 0 and even(number - 1)", "# a comment\n    return (number != 0\n            and even(number - 1))"),
    ('logging.getLogger("a")', 'logging.getLogger("b")'),
]


@pytest.mark.parametrize("change", EQUAL)
def test_other_lines_and_unrelated_code_do_not_count(change: tuple[str, str]) -> None:
    assert identity(changed(*change)["Model"]) == identity(program()["Model"])


def test_the_name_of_a_class_and_of_its_module_count() -> None:
    found = {identity(program("class Model: pass", name)["Model"]) for name in ("__main__", "somewhere")}
    found.add(identity(program("class Renamed: pass")["Renamed"]))
    assert len(found) == 3


def test_the_identity_is_the_same_in_every_process(tmp_path: Path) -> None:
    """Whatever the hash seed, the folder and the line."""
    found: set[str] = set()
    for seed in ("0", "1"):
        file = tmp_path / seed / "program.py"
        file.parent.mkdir()
        end = (
            "\nfrom layered_cache.adapters.identity.code_identity import body_identity, code_identity\n"
            "print(code_identity(Model), body_identity(odd))"
        )
        file.write_text("\n" * int(seed) + PROGRAM + end)
        done = subprocess.run(
            [sys.executable, str(file)],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
        )
        found.add(done.stdout)
    assert len(found) == 1


def test_a_function_counts_with_its_closure_and_defaults() -> None:
    source = "def make(word, default=1):\n    def f(x, y=default):\n        return word, x\n    return f"
    make, same = (program(source)["make"] for _ in range(2))
    found = [make("a"), make("b"), make("a", 2), make({"a": [1]}), make({"a": (1,)}), make({"a": [True]})]
    assert len({identity(one) for one in found}) == len(found)
    assert identity(make("a")) == identity(same("a"))
    assert len({body_identity(one) for one in found}) == 1
    assert identity(functools.partial(make("a"), 1)) != identity(functools.partial(make("a"), 2))


def test_code_of_libraries_is_identified_by_its_name() -> None:
    for thing in (json.dumps, json.JSONEncoder, dict, len, pytest.fixture, Path, Path.home, object(), json.JSONEncoder()):
        assert identity(thing) is None


def test_a_decorator_of_a_library_does_not_hide_the_function() -> None:
    """Its closure or `__wrapped__` holds it, and the rest of it does not count."""
    source = "import contextlib, functools\n@{decorator}\ndef f(x):\n    yield x + {number}\ndef g():\n    return f"
    for decorator in ("contextlib.contextmanager", "functools.lru_cache"):
        one, same, other = (program(source.format(decorator=decorator, number=number)) for number in (1, 1, 2))
        for name in ("f", "g"):
            assert identity(one[name]) == identity(same[name]) != identity(other[name])


def test_the_scope_of_an_exception_handler_counts() -> None:
    """The bytecode is the same."""
    one = program("def f(x):\n    try:\n        a(x)\n        b(x)\n    except KeyError:\n        pass")["f"]
    other = types.FunctionType(one.__code__.replace(co_exceptiontable=b""), one.__globals__)
    assert identity(one) != identity(other)


def test_pydantic_fields_count() -> None:
    """A model is asked for them: their types, descriptions and defaults decide its answer."""
    source = "from pydantic import BaseModel, Field\nclass Inner(BaseModel):\n    x: int = 1\n"
    source += "class Song(BaseModel):\n    inner: list[Inner]\n    title: {}"
    fields = ["str", "int", "str = 'a'", "str = Field(description='a')", "str = Field(description='b')", "str = Field(max_length=3)"]
    found = [identity(program(source.format(field))["Song"]) for field in fields]
    found.append(identity(program(source.format("str").replace("x: int = 1", "x: int = 2"))["Song"]))
    assert len(set(found)) == len(found)
    assert identity(program(source.format("str"))["Song"]) == found[0]


# --- other modules


@pytest.fixture
def helpers(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module of the user's."""
    module = types.ModuleType("user_helpers")
    exec("PROMPT = 'a'\nOTHER = 1\ndef fill(x):\n    return PROMPT + x", vars(module))
    monkeypatch.setitem(sys.modules, "user_helpers", module)
    return module


@pytest.mark.parametrize(
    "source",
    [
        "import user_helpers\ndef f(x):\n    return user_helpers.fill(x)",
        "from user_helpers import fill\ndef f(x):\n    return fill(x)",
        "def f(x):\n    from user_helpers import fill\n    return fill(x)",
        "def f(x):\n    import user_helpers as other\n    return other.fill(x)",
    ],
)
def test_the_code_of_another_module_of_the_user_counts(helpers: types.ModuleType, source: str) -> None:
    """However it is imported; only the names that are used."""
    before = identity(program(source)["f"])
    helpers.OTHER = 2  # type: ignore[attr-defined]
    assert identity(program(source)["f"]) == before
    helpers.PROMPT = "b"  # type: ignore[attr-defined]
    assert identity(program(source)["f"]) != before


def test_a_module_that_is_not_loaded_yet_is_named() -> None:
    function = program("def f(x):\n    from not_loaded_helpers import fill\n    return fill(x)")["f"]
    with pytest.raises(UncacheableRequestError, match=r"__main__.f imports not_loaded_helpers, which is not loaded yet"):
        identity(function)


# --- later changes


def test_a_name_that_is_bound_anew_counts_and_a_change_in_place_does_not() -> None:
    """Code collects results in lists: these would make it another code with each call."""
    here = program("SEEN, LIMIT = [], 1\nclass Model:\n    def f(self):\n        SEEN.append(LIMIT)\ndef f():\n    return SEEN, LIMIT")
    for find in (lambda: identity(here["Model"]), lambda: identity(here["f"]), lambda: body_identity(here["f"])):
        before = find()
        here["SEEN"].append("x")
        assert find() == before
        here["LIMIT"] = 2
        assert find() != before
        here["LIMIT"] = 1
        assert find() != before  # the list has changed before its second reading
        here["SEEN"] = []
        assert find() == before


def test_a_patched_method_counts() -> None:
    """Also one that the class had inherited."""
    here = program()
    before = identity(here["Model"])
    here["Model"].answer = here["odd"]
    between = identity(here["Model"])
    here["Model"].style = property(here["even"])
    assert len({before, between, identity(here["Model"])}) == 3


def test_a_digest_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[str] = []
    compute = code_identity._digest
    monkeypatch.setattr(code_identity, "_digest", lambda root, thing: (computed.append(root.what), compute(root, thing))[1])
    here = program()
    for _ in range(3):
        identity(here["Model"])
        identity(here["odd"])
        body_identity(here["join"])
    assert computed == ["__main__.Model", "__main__.odd", "__main__.join"]


def test_a_closure_is_not_kept_alive() -> None:
    class Large:
        pass

    large = Large()
    make = program("def make(held):\n    def f():\n        return held\n    return f")["make"]
    body_identity(make(large))
    with pytest.raises(UncacheableRequestError, match="'held', an object of"):
        identity(make(large))
    gone = weakref.ref(large)
    del large
    gc.collect()
    assert gone() is None


# --- refusals


def test_a_value_without_identity_is_refused_by_name() -> None:
    """Its text is not shown."""
    source = "class Client:\n    def __repr__(self):\n        return 'secret'\nclient = Client()\nclass Model:\n    {}"
    for member in ("def f(self):\n        return client", "held = client", "def f(self, held=client):\n        pass"):
        with pytest.raises(
            UncacheableRequestError, match=r"__main__.Model(\.f)? uses '(client|held|a default)', an object of __main__.Client"
        ) as raised:
            identity(program(source.format(member))["Model"])
        assert "secret" not in str(raised.value)


def test_an_object_that_fails_when_it_is_read_is_refused() -> None:
    class Odd:
        @property
        def __wrapped__(self) -> object:
            raise RuntimeError("secret")

    odd = Odd()

    def reads() -> object:
        return odd

    with pytest.raises(UncacheableRequestError, match=r"reads cannot be read \(RuntimeError\)") as raised:
        identity(reads)
    assert "secret" not in str(raised.value)


def test_code_that_uses_too_much_is_refused() -> None:
    many = "\n".join(f"def f{number}():\n    return f{number + 1}" for number in range(1_001))
    with pytest.raises(UncacheableRequestError, match="more than 1,000"):
        identity(program(f"{many}\ndef f1001(): pass")["f0"])
    deep = program("HELD = []\nfor _ in range(30):\n    HELD = [HELD]\ndef f():\n    return HELD")
    with pytest.raises(UncacheableRequestError, match="nested too deeply"):
        identity(deep["f"])


# --- libraries


def test_a_package_beside_the_program_is_a_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `pip install --target` leaves it; the program beside it is not."""
    for name in ("installed_package", "own_package"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
        (tmp_path / name / "part.py").touch()
    info = tmp_path / "installed_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: installed-package\nVersion: 1.0\n")
    (info / "RECORD").write_text("installed_package/__init__.py,,\ninstalled_package/part.py,,\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("installed_package", "installed_package.part", "own_package", "own_package.part"):
        __import__(name)
        assert is_library(name) is name.startswith("installed")


def test_modules_of_libraries_and_of_users() -> None:
    for name in ("json", "sys", "pytest", "_pytest.python", "layered_cache.keys.keys", "pydantic.main"):
        assert is_library(name)
    for name in ("__main__", "__mp_main__", __name__, "unknown_module"):
        assert not is_library(name)


# --- functions as plain data


def test_data_of_functions() -> None:
    """The values that they hold are described by the caller."""
    held: list[object] = []

    def plain(value: object) -> object:
        held.append(value)
        return str(value)

    def function(x: int, y: int = 1) -> object:
        return held

    found: Any = function_data(function, plain)
    assert found["function"] == f"{__name__}.test_data_of_functions.<locals>.function"
    assert found["code"] == body_identity(function)
    assert held == [[1], [held]]
    assert function_data(functools.partial(len, "a"), plain) == {"partial": {"function": "builtins.len"}, "args": ["a"], "named": {}}
    assert function_data("-".join, plain) == {"function": "None.str.join", "of": "-"}
    with pytest.raises(UncacheableRequestError, match="address"):
        function_data(object(), plain)  # type: ignore[arg-type]


def test_data_of_a_method_names_its_object_and_class() -> None:
    here = [program(), changed("limit = 3", "limit = 4")]
    one, other = (function_data(names["Model"]("a").answer, lambda owner: owner.name) for names in here)
    assert one == function_data(program()["Model"]("a").answer, lambda owner: owner.name)
    assert one != other
    assert one != function_data(here[0]["Model"]("b").answer, lambda owner: owner.name)
    assert function_data(here[0]["Model"].made, str) != function_data(here[1]["Model"].made, str)
