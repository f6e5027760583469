"""Redaction: secrets are removed before readable fields are stored.

Only the fields for people are redacted. Keys are derived from the original request.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from layered_cache.keys.keys import read_json
from layered_cache.keys.setting_names import is_secret_name

if TYPE_CHECKING:
    from layered_cache.entry import Entry

REDACTED = "[redacted]"

# values that are recognized as secrets in any position
_SECRET_VALUE = re.compile(r"\b(?:(?:Bearer|Basic)\s+[\w.~+/=-]{8,}|(?:sk|pk|rk|xox[abp]|gh[pousr]|glpat|AKIA|AIza)[-_]?[\w-]{16,})")
# Up to the last @ of the word: a password may contain a slash, and losing a path with an @ is
# acceptable.
_USER_INFO = re.compile(r"(?P<scheme>\b[a-zA-Z][\w+.-]*://)[^\s\"'<>]*@")
# name='value', as in the repr of an object
_NAMED_SECRET = re.compile(
    r"""(?ix)(?P<name>\b[\w-]*(?:password|passwd|secret|token|api_?key|authorization|cookie)s?['"]?\s*[=:]\s*)(?:'[^']*'|"[^"]*"|[^\s,;)}\]]+)"""
)
# bytes of parameters, so that the cache of results takes a few MiB at most
_MOST_REMEMBERED = 16 * 1024
_QUERY_SECRET = re.compile(r"(?i)(?P<name>[?&](?:[\w-]*(?:key|token|secret|password|sig|signature|code))=)[^&\s#]+")


def redacted_text(text: str) -> str:
    """Return *text* without user info in URLs, secrets in queries, and tokens of known formats."""
    text = _USER_INFO.sub(rf"\g<scheme>{REDACTED}@", text)
    text = _QUERY_SECRET.sub(rf"\g<name>{REDACTED}", text)
    text = _NAMED_SECRET.sub(rf"\g<name>{REDACTED}", text)
    return _SECRET_VALUE.sub(REDACTED, text)


def redacted(value: object) -> object:
    """Return plain data *value* with secrets replaced by `[redacted]`.

    All header values are removed.
    """
    if isinstance(value, str):
        return redacted_text(value)
    if isinstance(value, Mapping):
        return {name: _redacted_item(name, item) for name, item in cast("Mapping[str, object]", value).items()}
    if isinstance(value, list):
        items = cast("list[object]", value)
        # a pair: a header or an item of a dictionary
        if len(items) == 2 and isinstance(items[0], str) and is_secret_name(items[0]):  # noqa: PLR2004
            return [items[0], REDACTED]
        return [redacted(item) for item in items]
    return value


def _redacted_item(name: str, item: object) -> object:
    if item is None or isinstance(item, bool):
        return item
    if is_secret_name(name):
        return REDACTED
    if "header" in name.lower():
        headers = cast("Mapping[str, object]", item) if isinstance(item, Mapping) else None
        return dict.fromkeys(headers, REDACTED) if headers is not None else REDACTED
    return redacted(item)


@functools.lru_cache(maxsize=128)
def _redacted_params(canonical: bytes) -> object:
    """Return redacted parameters. Most requests of a process have the same, so they are cached."""
    return redacted(read_json(canonical))


def redacted_request(entry: Entry) -> dict[str, object]:
    """Return the redacted request of *entry*, to be written and not changed."""
    request = entry.request
    if request is None:
        return {}
    params = request.canonical_params
    return {
        "framework": request.framework,
        "model": request.model,
        "sample": request.sample,
        "prompt": request.prompt,
        "params": _redacted_params(params) if len(params) <= _MOST_REMEMBERED else redacted(read_json(params)),
        "response": entry.response,
    }
