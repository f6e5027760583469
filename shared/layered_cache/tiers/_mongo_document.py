"""An entry as a document of MongoDB, and a scope as a query. Pure: no client is imported here.

What is read back is `envelope`; all else is for people and for queries. Two times are written twice: as dates (of milliseconds) for
people, and `created` in Unix seconds exactly as the entry has it, so that a query finds what `Scope.matches` matches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import cast

from layered_cache.entry import Entry
from layered_cache.errors import ConfigurationError
from layered_cache.invalidation import Scope
from layered_cache.keys import write_json
from layered_cache.redaction import redacted_request
from layered_cache.wire import encode

MAX_BYTES = 15 * 1024 * 1024  # of the server's 16 MiB: the rest is for what stands around
WORTH_MEASURING = 1024 * 1024  # as BSON, JSON takes seven times its bytes at most

_DEEPEST = 90  # the server takes 100 levels, some are ours
_INT64 = range(-(2**63), 2**63)
_LAST_DATE = datetime.max.replace(tzinfo=UTC)
_FIRST_DATE = datetime.min.replace(tzinfo=UTC)

Document = dict[str, object]


def document(entry: Entry) -> Document:
    """Return *entry* as it is stored; what is not known is left out.

    Raises:
        ConfigurationError: A field that a query may ask for is no text.
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
    """Return *stored* without what a person could read of question and answer."""
    return {name: value for name, value in stored.items() if name not in {"framework", "prompt", "params", "response"}}


def readable_bytes(entry: Entry) -> int:
    """Return about how many bytes a person could read of *entry*."""
    request = entry.request
    return 0 if request is None else len(request.canonical_prompt) + len(request.canonical_params) + len(entry.response or "")


# --- what people read


def readable(value: object, depth: int = 0) -> object:
    """Return plain data *value* as MongoDB takes it.

    Names that it would take for something else are written with characters that look alike, numbers that are too large as text,
    what is too deep as JSON.
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
    """Return *text* as MongoDB takes it: lone surrogates become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


def date(clock: float) -> datetime:
    """Return Unix seconds as a date; what is beyond all dates is the last or the first."""
    try:
        return datetime.fromtimestamp(clock, UTC)
    except (ValueError, OverflowError, OSError):
        return _FIRST_DATE if clock < 0 else _LAST_DATE


# --- what is asked


def checked(value: object, what: str) -> str:
    """Return *value* if it is a text: in a query, a dictionary would be an operator.

    Raises:
        ConfigurationError: It is none.
    """
    if isinstance(value, str):
        return value
    msg = f"{what} must be a text, not a {type(value).__qualname__}"
    raise ConfigurationError(msg)


def by_keys(keys: Sequence[str]) -> Document:
    """Return the query for *keys*; it names `_id`, so that it goes to the shards that hold them, and to an index there."""
    found = [checked(key, "a key") for key in keys]
    return {"_id": found[0] if len(found) == 1 else {"$in": found}}


def batches(keys: Iterable[str], size: int) -> list[list[str]]:
    """Return *keys*, each once, in lists of *size* or fewer.

    Raises:
        ConfigurationError: One is no text.
    """
    once = list(dict.fromkeys([checked(key, "a key") for key in keys]))
    return [once[start : start + size] for start in range(0, len(once), size)]


def query(namespace: str, scope: Scope, born_before: int | None) -> Document:
    """Return the query for what *scope* matches in *namespace* (and below it, if it ends in a slash), but for its model.

    Args:
        namespace: As in the log.
        scope: What is asked.
        born_before: A seq; None: whenever they were born.
    """
    checked(namespace, "a namespace")
    clauses: list[Document] = [_within(namespace)]
    if scope.keys:
        clauses.append(by_keys(scope.keys))
    if scope.tags:
        clauses.append({"tags": {"$in": [safe(tag) for tag in scope.tags]}})
    if scope.prompt is not None:
        clauses.append({"prompt_digest": {"$eq": scope.prompt}})
    if scope.created_before is not None:  # the date for the index, the other one because dates are cut to milliseconds
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
    # from "app/" to before "app0", which comes next in the order of bytes
    return {"$or": [{"namespace": {"$eq": start[:-1]}}, {"namespace": {"$gte": start, "$lt": start[:-1] + "0"}}]}
