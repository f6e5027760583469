"""Keys of requests.

A key is `lc1:{namespace}:{digest}`. The digest is the SHA-256 of the key version, the namespace and
the canonical request. Every part is prefixed with its length, so two different requests never
produce the same bytes. Equal requests have equal keys, and different requests have different keys.

Canonical means that the order of dictionary keys does not count, and everything else does. `1` is
not `1.0`, a tuple is not a list, and `null` inside of a tool's schema stays. Values that JSON
cannot represent are written under a tag that no ordinary dictionary can contain. An object without
a lasting, exact text (an object with an address) is refused.

`orjson` writes the JSON if it is installed, and otherwise the standard library. The bytes are the
same, as a test checks. Floats that the two would write differently are tagged first.

A key changes only together with `KEY_VERSION`. Golden vectors in the tests check this.
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
# A plain dictionary with a key that starts with it is always tagged, so tags cannot be forged.
_TAG = "\0"
# hashlib releases the GIL from 2,048 bytes on. With many threads, every hash would then wait for a
# switch (200x the p99). Above 16 KiB the hash takes long enough for other threads to use the time.
_SLICE = 2_047
_WHOLE_FROM = 16_384


def feed(digest: _Hash, data: bytes) -> None:
    """Add *data* to *digest* without releasing the GIL for medium sizes."""
    if len(data) <= _SLICE or len(data) > _WHOLE_FROM:
        digest.update(data)
        return
    for start in range(0, len(data), _SLICE):
        # a copy is cheaper than a view
        digest.update(data[start : start + _SLICE])


def make_key(request: Request, namespace: str) -> str:
    """Return the key of *request* in *namespace*."""
    head = canonical([KEY_VERSION, namespace, request.framework, request.model, request.sample])
    digest = hashlib.sha256()
    for part in (head, request.canonical_prompt, request.canonical_params):
        digest.update(len(part).to_bytes(8, "big"))
        feed(digest, part)
    return key_prefix(namespace) + _text_of(digest.digest())


def digest_of(key: str) -> bytes:
    """Return 32 bytes that identify *key*: the digest in it, or the hash of a foreign key."""
    head, _, text = key.rpartition(":")
    if len(text) == 43 and head.startswith(_OURS):  # noqa: PLR2004 - base64 of 32 bytes
        try:
            digest = binascii.a2b_base64(text.encode("ascii").translate(_FROM_URL) + b"=")
            # the decoder skips characters that are not base64
            if _text_of(digest) == text:
                return digest
        except ValueError:
            pass
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def is_digest_of(digest: bytes, key: str) -> bool:
    """Return True if *digest* (32 bytes) is `digest_of(key)`."""
    head, _, text = key.rpartition(":")
    # Encoding the digest takes a third of the time of decoding the key.
    return (text == _text_of(digest) and head.startswith(_OURS)) or digest == digest_of(key)


def _text_of(digest: bytes) -> str:
    """Return *digest* in the form of a key: URL-safe base64 without padding."""
    return binascii.b2a_base64(digest, newline=False).translate(_TO_URL, b"=").decode("ascii")


@functools.lru_cache(maxsize=1024)
def key_prefix(namespace: str) -> str:
    """Return the prefix of every key of *namespace*, and of no other key."""
    return f"{KEY_VERSION}:{quote(namespace, safe='/')}:"


def key_bounds(namespace: str) -> tuple[str, str]:
    """Return two texts that enclose exactly the keys of *namespace*, in code point order."""
    prefix = key_prefix(namespace)
    # the character after the colon
    return prefix, prefix[:-1] + ";"


def namespace_of(key: str) -> str:
    """Return the namespace of *key*; the empty text for a foreign key."""
    head, _, _ = key.rpartition(":")
    return unquote(head[len(KEY_VERSION) + 1 :]) if head.startswith(KEY_VERSION + ":") else ""


def check_namespace(namespace: object) -> str:
    """Return *namespace* if it is valid.

    Raises:
        ConfigurationError: If it is empty, longer than 255, has control characters, or starts or
            ends with `/`.
    """
    good = isinstance(namespace, str) and 0 < len(namespace) <= MAX_NAMESPACE and namespace.isprintable()
    if not good or cast("str", namespace).strip("/") != namespace:
        msg = f"namespace must be 1 to {MAX_NAMESPACE} printable characters without a slash at either end, got {namespace!r}"
        raise ConfigurationError(msg)
    return cast("str", namespace)


def child_namespace(parent: str, name: str) -> str:
    """Return the child namespace *name* of *parent*. A slash in *name* is quoted."""
    # the caller may be untyped
    if not isinstance(name, str) or not name:  # pyright: ignore[reportUnnecessaryIsInstance]
        msg = f"the name of a child namespace must be a text that is not empty, got {name!r}"
        raise ConfigurationError(msg)
    return check_namespace(f"{parent}/{name.replace('%', '%25').replace('/', '%2F')}")


def prompt_digest(content: object) -> bytes:
    """Return the digest of a user message in 16 bytes, for `invalidate(prompt=...)`."""
    data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else canonical(content)
    return hashlib.sha256(data).digest()[:PROMPT_DIGEST_BYTES]


# --- canonical JSON


def canonical(value: object, what: str = "the value") -> bytes:
    """Return the canonical text of *value*. Two values have equal bytes only if they are equal.

    Raises:
        UncacheableRequestError: If it contains an object without a lasting text. The message
            contains *what* and the class of the object.
    """
    try:
        return _writer()(value if _is_plain(value) else _tagged(value))
    except (RecursionError, ValueError) as error:
        msg = f"{what} is nested too deeply or contains a number that is too long, so it has no key"
        raise UncacheableRequestError(msg) from error
    except _NoTextError as error:
        msg = f"{what} holds a {error.args[0]}, which has no lasting text for a key"
        raise UncacheableRequestError(msg) from None


class _NoTextError(Exception):
    """An object has no lasting text.

    The error contains the class of the object. Its text or its path could be user data.
    """


def _is_plain(value: object) -> bool:
    """Return True if both writers give *value* the same, unambiguous text."""
    kind = type(value)
    if kind is str or value is None or kind is int or kind is bool:
        return True
    if kind is dict:
        for key, item in cast("dict[object, object]", value).items():
            if type(key) is not str or key.startswith(_TAG) or not (type(item) is str or _is_plain(item)):
                return False
        return True
    if kind is list:
        # a loop is a third faster than all()
        for item in cast("list[object]", value):  # noqa: SIM110
            if not (type(item) is str or _is_plain(item)):
                return False
        return True
    return kind is float and _plain_float(cast("float", value))


def _plain_float(value: float) -> bool:
    text = repr(value)
    # exponents, nan and inf are written differently
    return "e" not in text and "n" not in text


def _tagged(value: object) -> object:
    """Return *value* as plain JSON data, with special values under tags."""
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


# datetime precedes date, because a datetime is also a date
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
    """Return the plain data of canonical JSON as new objects. Tagged values stay tagged."""
    return cast("object", json.loads(data.decode("utf-8", "surrogatepass")))


def write_json(value: object) -> bytes:
    """Return the plain JSON data *value* as sorted JSON, written by the standard library."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # a lone surrogate is written like any other character
    return text.encode("utf-8", "surrogatepass")


@functools.cache
def _writer() -> Callable[[object], bytes]:
    """Return the fastest installed writer of sorted JSON."""
    try:
        import orjson  # noqa: PLC0415 - lazy: the package itself loads no third-party module
    except ImportError:
        return write_json
    dumps, option = orjson.dumps, orjson.OPT_SORT_KEYS | orjson.OPT_PASSTHROUGH_SUBCLASS

    def write(value: object) -> bytes:
        try:
            return dumps(value, option=option)
        except TypeError:
            # long integers, lone surrogates, deep nesting: the standard library writes the same
            # text more slowly
            return write_json(value)

    return write
