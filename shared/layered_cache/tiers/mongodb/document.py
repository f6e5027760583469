"""Conversion of an entry to a MongoDB document, and of a scope to a query. No client is imported.

`envelope` is read back. All other fields are for people and queries. The creation time is stored
twice: as a date in milliseconds for people, and as `created` in exact Unix seconds. So a query
finds exactly the entries that `Scope.matches` matches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import cast

from layered_cache._storage.envelope import encode
from layered_cache._storage.redaction import redacted_request
from layered_cache._storage.rules import Scope
from layered_cache.entry import Entry
from layered_cache.errors import ConfigurationError
from layered_cache.keys.keys import write_json

# the server's limit is 16 MiB; the rest is for the other fields
MAX_BYTES = 15 * 1024 * 1024
# JSON grows to at most seven times its size as BSON
WORTH_MEASURING = 1024 * 1024

# the server accepts 100 levels, and the document adds some
_DEEPEST = 90
_INT64 = range(-(2**63), 2**63)
_LAST_DATE = datetime.max.replace(tzinfo=UTC)
_FIRST_DATE = datetime.min.replace(tzinfo=UTC)

Document = dict[str, object]


def document(entry: Entry) -> Document:
    """Return the document of *entry*. Unknown fields are left out.

    Raises:
        ConfigurationError: If a field that queries use is not a text.
    """
    key, namespace = checked(entry.key, "a key"), safe(checked(entry.namespace, "a namespace"))
    model = None if entry.model is None else safe(checked(entry.model, "a model"))
    tags = [safe(checked(tag, "a tag")) for tag in entry.tags]
    usage = entry.usage
    fields: Document = {
        "_id": key,
        "envelope": encode(entry),
        "namespace": namespace,
        "model": model,
        "tags": tags,
        "created": entry.created_at,
        "created_at": date(entry.created_at),
        "fresh_until": date(entry.fresh_until),
        "keep_until": date(entry.keep_until),
        "purge_at": date(entry.keep_until),
        "born": {"epoch": entry.born.epoch, "seq": entry.born.seq},
        "prompt_digest": entry.prompt_digest.hex(),
        "finish": entry.finish,
        "input_tokens": usage.input_tokens if usage else None,
        "output_tokens": usage.output_tokens if usage else None,
        "cost_usd": entry.cost_usd,
        "compute_seconds": entry.compute_seconds,
    }
    if entry.request is not None:
        request = redacted_request(entry)
        fields |= {name: readable(request[name]) for name in ("framework", "prompt", "params", "response")}
    return {name: value for name, value in fields.items() if value is not None}


def without_request(stored: Document) -> Document:
    """Return *stored* without the readable request and response."""
    return {name: value for name, value in stored.items() if name not in {"framework", "prompt", "params", "response"}}


def readable_bytes(entry: Entry) -> int:
    """Return the approximate size of the readable fields of *entry*."""
    request = entry.request
    return 0 if request is None else len(request.canonical_prompt) + len(request.canonical_params) + len(entry.response or "")


# --- fields for people


def readable(value: object, depth: int = 0) -> object:
    """Return the plain data *value* in a form that MongoDB accepts.

    Special characters in names are replaced by similar ones. Numbers that are too large become
    texts. Values that are nested too deeply become JSON.
    """
    if isinstance(value, str):
        return safe(value)
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value).items()
        if depth < _DEEPEST:
            return {_name(str(name)): readable(item, depth + 1) for name, item in items}
        return _as_json(dict(items))
    if isinstance(value, list | tuple):
        elements = cast("Sequence[object]", value)
        return [readable(item, depth + 1) for item in elements] if depth < _DEEPEST else _as_json(list(elements))
    if isinstance(value, int) and value not in _INT64:
        return str(value)
    return value


def _as_json(value: object) -> str:
    return safe(write_json(value).decode("utf-8", "surrogatepass"))


def _name(name: str) -> str:
    name = safe(name).replace("\0", "\u2400").replace(".", "\uff0e")
    return "\uff04" + name[1:] if name.startswith("$") else name


def safe(text: str) -> str:
    """Return *text* with lone surrogates replaced by question marks, as MongoDB requires."""
    return text.encode("utf-8", "replace").decode("utf-8")


def date(clock: float) -> datetime:
    """Return Unix seconds as a date, limited to the first and last possible date."""
    try:
        return datetime.fromtimestamp(clock, UTC)
    except (ValueError, OverflowError, OSError):
        return _FIRST_DATE if clock < 0 else _LAST_DATE


# --- queries


def checked(value: object, what: str) -> str:
    """Return *value* if it is a text. In a query a dictionary would be an operator.

    Raises:
        ConfigurationError: If it is not a text.
    """
    if isinstance(value, str):
        return value
    msg = f"{what} must be a text, got a {type(value).__qualname__}"
    raise ConfigurationError(msg)


def by_keys(keys: Sequence[str]) -> Document:
    """Return the query for *keys*.

    It contains `_id`, so MongoDB uses the right shards and an index there.
    """
    found = [checked(key, "a key") for key in keys]
    return {"_id": found[0] if len(found) == 1 else {"$in": found}}


def batches(keys: Iterable[str], size: int) -> list[list[str]]:
    """Return *keys* without duplicates, in lists of at most *size*.

    Raises:
        ConfigurationError: If a key is not a text.
    """
    once = list(dict.fromkeys([checked(key, "a key") for key in keys]))
    return [once[start : start + size] for start in range(0, len(once), size)]


def query(namespace: str, scope: Scope, born_before: int | None) -> Document:
    """Return the query for the entries that *scope* matches in *namespace*, except for the model.

    If *namespace* ends with a slash, the namespaces below it are included.

    Args:
        namespace: The namespace, as in the log.
        scope: The scope.
        born_before: A sequence number. None: entries of any age.
    """
    checked(namespace, "a namespace")
    clauses: list[Document] = [_within(namespace)]
    if scope.keys:
        clauses.append(by_keys(scope.keys))
    if scope.tags:
        clauses.append({"tags": {"$in": [safe(tag) for tag in scope.tags]}})
    if scope.prompt is not None:
        clauses.append({"prompt_digest": {"$eq": scope.prompt}})
    # the date uses the index; the exact time corrects it, since dates are cut to milliseconds
    if scope.created_before is not None:
        clauses.append({"created_at": {"$lte": date(scope.created_before)}, "created": {"$lt": scope.created_before}})
    if scope.created_after is not None:
        clauses.append({"created_at": {"$gte": date(scope.created_after)}, "created": {"$gte": scope.created_after}})
    if born_before is not None:
        clauses.append({"born.seq": {"$lt": born_before}})
    return {"$and": clauses}


def _within(namespace: str) -> Document:
    if not namespace.endswith("/"):
        return {"namespace": {"$eq": safe(namespace)}}
    start = safe(namespace)
    # from "app/" to just before "app0", which is next in byte order
    return {"$or": [{"namespace": {"$eq": start[:-1]}}, {"namespace": {"$gte": start, "$lt": start[:-1] + "0"}}]}
