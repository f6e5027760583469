"""What must not be readable in a store: secrets are taken out before anything is written.

Redaction touches only what is stored for people to read. Keys are derived from the request as it was.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from layered_cache.keys import read_json
from layered_cache.setting_names import is_secret_name

if TYPE_CHECKING:
    from layered_cache.entry import Entry

REDACTED = "[redacted]"

# values that give themselves away wherever they stand
_SECRET_VALUE = re.compile(r"\b(?:(?:Bearer|Basic)\s+[\w.~+/=-]{8,}|(?:sk|pk|rk|xox[abp]|gh[pousr]|glpat|AKIA|AIza)[-_]?[\w-]{16,})")
# up to the last @ of the word: a password may hold a slash, and a path that holds an @ is no loss
_USER_INFO = re.compile(r"(?P<scheme>\b[a-zA-Z][\w+.-]*://)[^\s\"'<>]*@")
# name='value' as objects show themselves
_NAMED_SECRET = re.compile(
    r"""(?ix)(?P<name>\b[\w-]*(?:password|passwd|secret|token|api_?key|authorization|cookie)s?['"]?\s*[=:]\s*)(?:'[^']*'|"[^"]*"|[^\s,;)}\]]+)"""
)
_MOST_REMEMBERED = 16 * 1024  # bytes of parameters: so they take a few MiB at most
_QUERY_SECRET = re.compile(r"(?i)(?P<name>[?&](?:[\w-]*(?:key|token|secret|password|sig|signature|code))=)[^&\s#]+")


def redacted_text(text: str) -> str:
    """Return *text* without user-info in URLs, secrets in their queries, and tokens of well-known shapes."""
    text = _USER_INFO.sub(rf"\g<scheme>{REDACTED}@", text)
    text = _QUERY_SECRET.sub(rf"\g<name>{REDACTED}", text)
    text = _NAMED_SECRET.sub(rf"\g<name>{REDACTED}", text)
    return _SECRET_VALUE.sub(REDACTED, text)


def redacted(value: object) -> object:
    """Return plain data *value* with its secrets replaced by `[redacted]`. Headers lose every value."""
    if isinstance(value, str):
        return redacted_text(value)
    if isinstance(value, Mapping):
        return {name: _redacted_item(name, item) for name, item in cast("Mapping[str, object]", value).items()}
    if isinstance(value, list):
        items = cast("list[object]", value)
        if len(items) == 2 and isinstance(items[0], str) and is_secret_name(items[0]):  # noqa: PLR2004 - a pair: a header, or of a dictionary
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
    """Return what may be read of parameters; most requests of a process have the same, so it is not worked out each time."""
    return redacted(read_json(canonical))


def redacted_request(entry: Entry) -> dict[str, object]:
    """Return what a person may read of the request that *entry* answers: to be written down, not to be changed."""
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
