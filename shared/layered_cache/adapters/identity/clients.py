"""The parts of requests that a provider's client adds: the address, the query and the headers that may change an answer.

A client takes them from its arguments, or from the environment of the moment at which it is made. Later changes of a model's fields do not
reach a client that exists, so they are read from the client. Clients are known by their attributes, and no library is imported here.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Mapping
from typing import Any, cast

from layered_cache.keys.setting_names import is_credential

# they describe the transport, name the client, number requests, or select the account that pays
_HEADERS_ASIDE = frozenset({
    "accept", "accept-encoding", "accept-language", "connection", "content-length", "content-type", "date", "expect", "host",
    "idempotency-key", "openai-organization", "openai-project", "traceparent", "tracestate", "transfer-encoding",
    "user-agent", "x-client-name", "x-client-request-id",
    "x-correlation-id", "x-goog-api-client", "x-request-id",
})  # fmt: skip
_PREFIXES_ASIDE = ("x-stainless-", "x-fern-", "amz-sdk-", "x-amz-date")
_GOOGLE_VERSIONS = (None, "v1beta", "v1beta1")

Facts = dict[str, object]
"""`address`, and where there are any, `headers`, `query` and others."""


def counted_headers(headers: object) -> dict[str, str]:
    """Return the *headers* of requests that may change an answer: no credentials, no names of clients, no ids of requests."""
    if not isinstance(headers, Mapping):
        return {}
    found = {str(name).lower(): str(value) for name, value in cast("Mapping[object, object]", headers).items()}
    return {name: value for name, value in sorted(found.items()) if not is_aside_header(name)}


def is_aside_header(name: str) -> bool:
    """Return True if the header *name*, in lower case, cannot change an answer."""
    return name in _HEADERS_ASIDE or name.startswith(_PREFIXES_ASIDE) or is_credential(name)


def client_facts(client: object) -> Facts | None:
    """Return what *client* adds to its requests; None if it is of an unknown kind. The result must not be changed."""
    if client is None or (found := _kind_of(client)) is None:
        return None
    kind, part = found
    raw = kind.raw(client, part)
    try:
        known = _known.get(client)
    except TypeError:  # it cannot be referred to weakly, or has no hash
        return _without_empty(kind.facts(*raw))
    if known is not None and known[0] == raw:
        return known[1]
    facts = _without_empty(kind.facts(*raw))
    _known[client] = raw, facts
    return facts


def _without_empty(facts: Facts) -> Facts:
    return {name: value for name, value in facts.items() if value not in (None, {}, "")}


# --- kinds of clients


@dataclasses.dataclass(frozen=True, slots=True)
class _Kind:
    """Clients with the attribute *marker*. *raw* reads the parts of one, quickly; *facts* are made of them only if they have changed."""

    marker: str
    raw: Callable[[Any, Any], tuple[Any, ...]]
    facts: Callable[..., Facts]


_known: weakref.WeakKeyDictionary[object, tuple[tuple[Any, ...], Facts]] = weakref.WeakKeyDictionary()
_by_class: weakref.WeakKeyDictionary[type, _Kind] = weakref.WeakKeyDictionary()


def _kind_of(client: object) -> tuple[_Kind, object] | None:
    """Return the kind of *client*, and the part of it that shows the kind."""
    known = _by_class.get(type(client))
    for kind in (known, *_KINDS) if known is not None else _KINDS:
        if (part := getattr(client, kind.marker, None)) is not None:
            _by_class[type(client)] = kind
            return kind, part
    return None


def _google(_: Any, inner: Any) -> tuple[Any, ...]:  # noqa: ANN401 - clients of libraries that may be missing, as all below
    options = getattr(inner, "_http_options", None)
    names = ("base_url", "api_version")
    headers = dict(getattr(options, "headers", None) or {})
    return (*(getattr(options, name, None) for name in names), headers, getattr(inner, "project", None), getattr(inner, "location", None))


def _google_facts(address: object, version: object, headers: object, project: object, location: object) -> Facts:
    return {
        "address": None if address is None else str(address),
        "project": project,
        "location": location,
        "version": None if version in _GOOGLE_VERSIONS else version,
        "headers": counted_headers(headers),
    }


def _stainless(client: Any, headers: Any) -> tuple[Any, ...]:  # noqa: ANN401
    return getattr(client, "base_url", None), dict(headers or {}), dict(getattr(client, "_custom_query", None) or {})


def _stainless_facts(address: object, headers: object, query: Mapping[str, object]) -> Facts:
    said = {name: str(value) for name, value in sorted(query.items())}
    return {"address": _text(address), "headers": counted_headers(headers), "query": said}


def _boto(_: Any, meta: Any) -> tuple[Any, ...]:  # noqa: ANN401
    return getattr(meta, "endpoint_url", None), getattr(meta, "region_name", None)


def _boto_facts(address: object, region: object) -> Facts:
    return {"address": _text(address), "region": region}


def _cohere(_: Any, wrapper: Any) -> tuple[Any, ...]:  # noqa: ANN401
    headers = cast("Callable[[], object] | None", getattr(wrapper, "get_custom_headers", None))
    return wrapper.get_base_url(), None if headers is None else headers()


def _mistral(_: Any, configuration: Any) -> tuple[Any, ...]:  # noqa: ANN401
    return configuration.get_server_details()[0], None


def _hugging_face(client: Any, _: Any) -> tuple[Any, ...]:  # noqa: ANN401
    names = ("base_url", "model", "provider")
    return (*(getattr(client, name, None) for name in names), dict(client.headers or {}))


def _hugging_face_facts(address: object, model: object, provider: object, headers: object) -> Facts:
    return {"address": _text(address), "model": model, "provider": provider, "headers": counted_headers(headers)}


def _inner(_: Any, inner: Any) -> tuple[Any, ...]:  # noqa: ANN401
    if (headers := getattr(inner, "_custom_headers", None)) is not None:  # a part of a client of the OpenAI kind
        return _stainless(inner, headers)
    return _plain(inner, getattr(inner, "base_url", None))


def _plain(client: Any, address: Any) -> tuple[Any, ...]:  # noqa: ANN401
    headers = getattr(client, "headers", None)
    return address, dict(cast("Mapping[str, object]", headers)) if isinstance(headers, Mapping) else None


def _plain_facts(address: object, headers: object = None, query: Mapping[str, object] | None = None) -> Facts:
    return _stainless_facts(address, headers, query or {})


# the first kind that fits counts
_KINDS = (
    _Kind("_api_client", _google, _google_facts),
    _Kind("_custom_headers", _stainless, _stainless_facts),
    _Kind("sdk_configuration", _mistral, _plain_facts),
    _Kind("_client_wrapper", _cohere, _plain_facts),
    _Kind("meta", _boto, _boto_facts),
    _Kind("get_endpoint_info", _hugging_face, _hugging_face_facts),
    _Kind("feature_extraction", _hugging_face, _hugging_face_facts),
    _Kind("_client", _inner, _plain_facts),
    _Kind("base_url", _plain, _plain_facts),
)


def _text(address: object) -> str | None:
    return None if address is None else str(address).rstrip("/")
