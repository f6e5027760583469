"""From a request to its key.

A key is `lc1:{namespace}:{digest}`: the SHA-256 of the key version, the namespace and the canonical request, every part
length-prefixed, so that no two requests feed the same bytes. What is equal has one key; what differs has another.

Canonical means: the order of dictionary keys never counts, everything else does (`1` is not `1.0`, a tuple is no list,
`null` inside a tool's schema stays). What JSON cannot say is written under a tag that no ordinary dictionary can spell. What
has no lasting, exact text (an object with an address) is refused.

`orjson` writes the JSON where it is installed, the standard library where it is not; the bytes are the same (a test compares
them), since floats whose text the two write differently are tagged before.

Law: a key changes only together with `KEY_VERSION`; golden vectors in the tests say so.
"""

from __future__ import annotations

import binascii
import datetime as dt
import decimal
import enum
import functools
import hashlib
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote, unquote

from layered_cache.errors import ConfigurationError, UncacheableRequestError

if TYPE_CHECKING:
    from hashlib import _Hash

    from layered_cache.entry import Request

KEY_VERSION = "lc1"
PROMPT_DIGEST_BYTES = 16
MAX_NAMESPACE = 255

_OURS = KEY_VERSION + ":"
_TO_URL, _FROM_URL = bytes.maketrans(b"+/", b"-_"), bytes.maketrans(b"-_", b"+/")
_TAG = "\0"  # no plain dictionary that starts a key with it is written untagged, so tags cannot be forged
# hashlib gives up the GIL from 2,048 bytes on: with many threads every hash would then wait for a switch (200x the p99).
# Above 16 KiB the hash itself is long enough for others to use the time.
_SLICE = 2_047
_WHOLE_FROM = 16_384


def feed(digest: _Hash, data: bytes) -> None:
    """Add *data* to *digest* without giving up the GIL for medium sizes."""
    if len(data) <= _SLICE or len(data) > _WHOLE_FROM:
        digest.update(data)
        return
    for start in range(0, len(data), _SLICE):
        digest.update(data[start : start + _SLICE])  # a copy is cheaper than a view


def make_key(request: Request, namespace: str) -> str:
    """Return the key of *request* in *namespace*."""
    head = canonical([KEY_VERSION, namespace, request.framework, request.model, request.sample])
    digest = hashlib.sha256()
    for part in (head, request.canonical_prompt, request.canonical_params):
        digest.update(len(part).to_bytes(8, "big"))
        feed(digest, part)
    return key_prefix(namespace) + _text_of(digest.digest())


def digest_of(key: str) -> bytes:
    """Return 32 bytes that stand for *key* where it must be echoed: the digest in it, else (a foreign key) its hash."""
    head, _, text = key.rpartition(":")
    if len(text) == 43 and head.startswith(_OURS):  # noqa: PLR2004 - base64 of 32 bytes
        try:
            digest = binascii.a2b_base64(text.encode("ascii").translate(_FROM_URL) + b"=")
            if _text_of(digest) == text:  # it skips what is no base64
                return digest
        except ValueError:
            pass
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def is_digest_of(digest: bytes, key: str) -> bool:
    """Whether *digest*, of 32 bytes, is `digest_of(key)`."""
    head, _, text = key.rpartition(":")
    # to write it down as it stands in a key takes a third of the time of reading the key
    return (text == _text_of(digest) and head.startswith(_OURS)) or digest == digest_of(key)


def _text_of(digest: bytes) -> str:
    """Return *digest* as it stands in a key: base64 of the kind for URLs, without the padding."""
    return binascii.b2a_base64(digest, newline=False).translate(_TO_URL, b"=").decode("ascii")


@functools.lru_cache(maxsize=1024)
def key_prefix(namespace: str) -> str:
    """Return what every key of *namespace*, and of no other, starts with."""
    return f"{KEY_VERSION}:{quote(namespace, safe='/')}:"


def key_bounds(namespace: str) -> tuple[str, str]:
    """Return two texts between which, in the order of code points, all keys of *namespace* stand, and no others."""
    prefix = key_prefix(namespace)
    return prefix, prefix[:-1] + ";"  # which follows the colon


def namespace_of(key: str) -> str:
    """Return the namespace that *key* was made in; the empty text for a foreign key."""
    head, _, _ = key.rpartition(":")
    return unquote(head[len(KEY_VERSION) + 1 :]) if head.startswith(KEY_VERSION + ":") else ""


def check_namespace(namespace: object) -> str:
    """Return *namespace* if it may be one.

    Raises:
        ConfigurationError: It is empty, longer than 255, starts or ends with `/`, or holds control characters.
    """
    good = isinstance(namespace, str) and 0 < len(namespace) <= MAX_NAMESPACE and namespace.isprintable()
    if not good or cast("str", namespace).strip("/") != namespace:
        msg = f"namespace must be 1 to {MAX_NAMESPACE} printable characters without a slash at either end, not {namespace!r}"
        raise ConfigurationError(msg)
    return cast("str", namespace)


def child_namespace(parent: str, name: str) -> str:
    """Return the namespace *name* below *parent*; a slash in *name* does not make it a grandchild."""
    if not isinstance(name, str) or not name:  # pyright: ignore[reportUnnecessaryIsInstance] - the caller may be untyped
        msg = f"the name of a child namespace must be a text that is not empty, not {name!r}"
        raise ConfigurationError(msg)
    return check_namespace(f"{parent}/{name.replace('%', '%25').replace('/', '%2F')}")


def prompt_digest(content: object) -> bytes:
    """Return the 16 bytes that stand for a user message, for `invalidate(prompt=...)`."""
    data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else canonical(content)
    return hashlib.sha256(data).digest()[:PROMPT_DIGEST_BYTES]


# --- canonical JSON


def canonical(value: object, what: str = "the value") -> bytes:
    """Return the one text of *value*: equal values give equal bytes, others do not.

    Raises:
        UncacheableRequestError: It holds an object without a lasting text; the message names *what*, and the object's class.
    """
    try:
        return _writer()(value if _is_plain(value) else _tagged(value))
    except (RecursionError, ValueError) as error:
        msg = f"{what} is nested too deeply or holds a number too long to write, so no key can be made of it"
        raise UncacheableRequestError(msg) from error
    except _NoTextError as error:
        msg = f"{what} holds a {error.args[0]}, which has no lasting text to make a key from"
        raise UncacheableRequestError(msg) from None


class _NoTextError(Exception):
    """An object has no lasting text. It holds its class; its text, or where it is, could be somebody's words."""


def _is_plain(value: object) -> bool:
    """Whether both writers give *value* the same, unambiguous text as it is."""
    kind = type(value)
    if kind is str or value is None or kind is int or kind is bool:
        return True
    if kind is dict:
        for key, item in cast("dict[object, object]", value).items():
            if type(key) is not str or key.startswith(_TAG) or not (type(item) is str or _is_plain(item)):
                return False
        return True
    if kind is list:
        for item in cast("list[object]", value):  # noqa: SIM110 - a third faster than all()
            if not (type(item) is str or _is_plain(item)):
                return False
        return True
    return kind is float and _plain_float(cast("float", value))


def _plain_float(value: float) -> bool:
    text = repr(value)
    return "e" not in text and "n" not in text  # exponents, nan and inf are written differently


def _tagged(value: object) -> object:
    """Return *value* in plain JSON terms, exotic values under tags."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, enum.Enum):
        return {_TAG + "enum": [type(value).__qualname__, _tagged(cast("object", value.value))]}
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if _plain_float(float(value)) else {_TAG + "float": repr(float(value))}
    if isinstance(value, Mapping):
        return _tagged_mapping(cast("Mapping[object, object]", value))
    if isinstance(value, list):
        return _tagged_items(cast("list[object]", value))
    for kind, tag, text in _TAGS:
        if isinstance(value, kind):
            return {_TAG + tag: text(value)}
    raise _NoTextError(type(value).__qualname__)


def _tagged_mapping(value: Mapping[object, object]) -> object:
    if all(isinstance(key, str) and not isinstance(key, enum.Enum) and not key.startswith(_TAG) for key in value):
        return {str(key): _tagged(item) for key, item in value.items()}
    return {_TAG + "dict": sorted(([_tagged(key), _tagged(item)] for key, item in value.items()), key=_writer())}


def _tagged_items(value: Sequence[object]) -> list[object]:
    return [_tagged(item) for item in value]


def _tagged_set(value: AbstractSet[object]) -> list[object]:
    return sorted((_tagged(item) for item in value), key=_writer())


def _bytes_of(value: bytes) -> str:
    return bytes(value).hex()


def _moment_of(value: dt.datetime | dt.time) -> str:
    return f"{value.isoformat()} {value.fold}"


# a datetime before a date, which it is too
_TAGS: tuple[tuple[type[Any] | tuple[type[Any], ...], str, Callable[[Any], object]], ...] = (
    (tuple, "tuple", _tagged_items),
    ((set, frozenset), "set", _tagged_set),
    ((bytes, bytearray), "bytes", _bytes_of),
    (dt.datetime, "datetime", _moment_of),
    (dt.date, "date", str),
    (dt.time, "time", _moment_of),
    (dt.timedelta, "timedelta", repr),
    (decimal.Decimal, "decimal", str),
    (uuid.UUID, "uuid", str),
)


def read_json(data: bytes) -> object:
    """Return the plain data that canonical JSON says, new objects each time; what is tagged stays so."""
    return cast("object", json.loads(data.decode("utf-8", "surrogatepass")))


def write_json(value: object) -> bytes:
    """Return *value*, made of plain JSON terms, as sorted JSON by the standard library alone."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8", "surrogatepass")  # a lone surrogate is a text like any other


@functools.cache
def _writer() -> Callable[[object], bytes]:
    """Return the fastest writer of sorted JSON that is installed."""
    try:
        import orjson  # noqa: PLC0415 - lazy: the package itself loads no third-party module
    except ImportError:
        return write_json
    dumps, option = orjson.dumps, orjson.OPT_SORT_KEYS | orjson.OPT_PASSTHROUGH_SUBCLASS

    def write(value: object) -> bytes:
        try:
            return dumps(value, option=option)
        except TypeError:  # long integers, lone surrogates, deep nesting: the same text, written more slowly
            return write_json(value)

    return write
