"""Parser of Python reprs of parameters.

LangChain passes the parameters of a call as the text of a sorted list of pairs. Literals are parsed. A class (a schema of structured
output) has only its name in the text, so its schema counts. Members of enums, dates and decimals count by their complete text. A parameter
whose text has an address, or may be incomplete, has no key.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any, cast
from weakref import WeakKeyDictionary

from pydantic import BaseModel

from langchain_layered_cache._keys.messages import ADDRESS, BY_ADDRESS

_SHOWN = re.compile(r"<class '(?P<path>[\w.<>]+)'>|<[\w.]+: [^<>]*>")  # a class, or a member of an enum
# classes with a complete repr that Python could parse
_TELLING = frozenset({
    "datetime.datetime", "datetime.date", "datetime.time", "datetime.timedelta", "datetime.timezone", "datetime.timezone.utc",
    "Decimal", "UUID", "SecretStr", "frozenset", "set", "OrderedDict", "PosixPath", "WindowsPath", "nan", "inf",
})  # fmt: skip
_PARTS_OF_NAMES = frozenset({"datetime", *_TELLING})
_PLAIN_NODES = (
    ast.Expression, ast.Tuple, ast.List, ast.Dict, ast.Set, ast.UnaryOp, ast.USub, ast.keyword, ast.expr_context,
)  # fmt: skip
_QUOTED = r"""'(?:[^'\\]|\\.)*+'|"(?:[^"\\]|\\.)*+\""""
_SIGN = re.compile(rf"""{_QUOTED}|[][(){{}}'"]""", re.DOTALL)  # a text, a bracket, or an open quote
_PAIR_START = re.compile(rf"(?:\[|\), )\((?P<name>{_QUOTED}), ", re.DOTALL)


class NoKeyError(Exception):
    """A parameter has no lasting text. The message has its name and no value."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"the parameter {name!r} {why}")


class Reader:
    """Parser of the text of a sorted list of pairs.

    Args:
        ignored: Parameters with values that need not be parsed.
        at_hand: The known classes in the text, by their paths.

    Attributes:
        classes: The classes that were found by their paths.
        met_classes: True if the text has a class.
        read_all: True if the whole text was parsed.
    """

    def __init__(self, ignored: frozenset[str], at_hand: Mapping[str, type[BaseModel]] | None = None) -> None:
        self.classes: dict[str, type[BaseModel]] = {}
        self.met_classes = False
        self.read_all = True
        self._ignored = ignored
        self._at_hand = at_hand or {}

    def literals(self, text: str) -> frozenset[str]:
        """Return the names of the parameters in *text* with a parsed value that is not None."""
        if (literal := _literal(text)) is not _NOT_LITERAL:
            pairs = cast("list[object]", literal) if isinstance(literal, list) else []
            return frozenset(name for name, value in cast("list[tuple[str, object]]", [*filter(_is_pair, pairs)]) if value is not None)
        self.read_all = False
        split = _split_pairs(text) or {}
        return frozenset(name for name, value in split.items() if _literal(value) not in (_NOT_LITERAL, None))

    def params(self, text: str) -> dict[str, object]:
        """Return the parameters in *text*; a text of another form counts as it is.

        Raises:
            NoKeyError: If a parameter has no lasting text.
        """
        literal = _literal(text)
        if literal is not _NOT_LITERAL:
            pairs = cast("list[object]", literal) if isinstance(literal, list) else []
            params = dict(cast("list[tuple[str, object]]", pairs)) if all(map(_is_pair, pairs)) else {}
            return params if len(params) == len(pairs) > 0 else {"text": text}
        if (split := _split_pairs(text)) is not None:
            return {name: self._value(name, value) for name, value in split.items()}
        if ADDRESS.search(text):
            raise NoKeyError("llm_string", BY_ADDRESS)  # noqa: EM101 - a name
        return {"text": text}

    def _value(self, name: str, text: str) -> object:
        """Return the value in *text*, or the text itself if that is complete and cannot be parsed."""
        if (value := _literal(text)) is not _NOT_LITERAL:
            return value
        if name in self._ignored:
            return None
        if ADDRESS.search(text):
            raise NoKeyError(name, BY_ADDRESS)
        if not _tells_all(_SHOWN.sub("None", text)):
            raise NoKeyError(name, "holds an object whose text does not say all of it")
        return ("text", text, *(self._schema(name, shown["path"]) for shown in _SHOWN.finditer(text) if shown["path"]))

    def _schema(self, name: str, path: str) -> str:
        """Return the schema of the class at *path*: two classes of one name may differ."""
        self.met_classes = True
        if (given := self._at_hand.get(path)) is not None and (schema := schema_of(given)) is not None:
            return schema
        found = find_class(path)
        schema = None if found is None else schema_of(found)
        if found is None or schema is None:
            raise NoKeyError(name, f"is the class {path}, whose schema cannot be found by that name; pass its JSON schema instead")
        self.classes[path] = found
        if _schemas_seen.setdefault(path, schema) != schema:
            # the text does not show with which of them a chain was made
            raise NoKeyError(name, f"is one of several classes {path} that look different; give them different names")
        return schema


# --- classes

_schemas_seen: dict[str, str] = {}
_schemas: WeakKeyDictionary[type[BaseModel], str] = WeakKeyDictionary()


def find_class(path: str) -> type[BaseModel] | None:
    """Return the pydantic class that is found at *path* now."""
    parts = path.split(".")
    for end in range(len(parts) - 1, 0, -1):
        found: Any = sys.modules.get(".".join(parts[:end]))
        for part in parts[end:] if found is not None else ():
            found = getattr(found, part, None)
        if isinstance(found, type) and issubclass(found, BaseModel):
            return found
    return None


def schema_of(found: type[BaseModel]) -> str | None:
    """Return the JSON schema of a class; None if it has none."""
    if (schema := _schemas.get(found)) is None:
        try:
            schema = _schemas[found] = json.dumps(found.model_json_schema(), sort_keys=True)
        except Exception:  # noqa: BLE001 - a field may be of any class, and raise any error
            return None
    return schema


# --- texts

_NOT_LITERAL = object()


def _literal(text: str) -> object:
    try:
        return cast("object", ast.literal_eval(text))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return _NOT_LITERAL


def _is_pair(pair: object) -> bool:
    return isinstance(pair, tuple) and len(cast("tuple[object, ...]", pair)) == 2 and isinstance(pair[0], str)  # noqa: PLR2004


def _tells_all(text: str) -> bool:
    """Return True if *text* has only literals and complete reprs."""
    try:
        tree = ast.parse(text.strip(), mode="eval")
        return all(map(_node_tells_all, ast.walk(tree)))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False


def _node_tells_all(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant):
        return node.value is not ...
    if isinstance(node, ast.Call):
        return ast.unparse(node.func) in _TELLING
    if isinstance(node, ast.Name | ast.Attribute):
        return ast.unparse(node) in _PARTS_OF_NAMES
    return isinstance(node, _PLAIN_NODES)


def _split_pairs(text: str) -> dict[str, str] | None:
    """Return name and text of each pair in the text of a list of pairs with any values; None for another text."""
    if not (text.startswith("[") and text.endswith(")]")):
        return None
    starts = [*_starts(text)]
    if not starts:
        return None
    ends = [match.start() for match in starts[1:]] + [len(text) - 2]
    pairs = {cast("str", _literal(match["name"])): text[match.end() : end] for match, end in zip(starts, ends, strict=True)}
    return pairs if len(pairs) == len(starts) else None


def _starts(text: str) -> Iterator[re.Match[str]]:
    """Yield the starts of pairs: at the front, and after a pair with all brackets and quotes closed. One pass, since texts may be long."""
    if (start := _PAIR_START.match(text)) is None:
        return
    yield start
    depth = 0
    for sign in _SIGN.finditer(text, 1):
        match sign[0]:
            case "(" | "[" | "{":
                depth += 1
            case ")" | "]" | "}":
                depth -= 1
                if depth == 0 and (start := _PAIR_START.match(text, sign.start())) is not None:
                    yield start
            case "'" | '"':
                return
            case _:
                pass
