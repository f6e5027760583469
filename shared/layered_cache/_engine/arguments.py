"""Validation and conversion of the arguments of a cache's methods. Errors are raised before I/O."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from datetime import datetime

from layered_cache._storage.rules import Scope
from layered_cache.entry import Answer, Request, checked_tags
from layered_cache.errors import ConfigurationError
from layered_cache.keys.key_rules import Normalize, digests
from layered_cache.keys.keys import key_prefix, make_key, namespace_of, prompt_digest


def key_of(request: Request | str, namespace: str) -> str:
    """Return the key of *request*, which may be a key of *namespace* already."""
    if isinstance(request, Request):
        return make_key(request, namespace)
    # the caller may be untyped
    if isinstance(request, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        if request.startswith(key_prefix(namespace)):
            return request
        other = namespace_of(request)
        msg = f"{request!r} is not a key of the namespace {namespace!r}" + (f". Use the cache of {other!r}" if other else "")
        raise ConfigurationError(msg)
    msg = f"a request must be a layered_cache.Request or a key, got {type(request).__qualname__}"
    raise ConfigurationError(msg)


def scopes_of(
    namespace: str,
    normalizers: Iterable[Normalize],
    *,
    key: str | Iterable[str] | None,
    tag: str | Iterable[str] | None,
    model: str | None,
    prompt: str | None,
    created_before: float | datetime | None,
    created_after: float | datetime | None,
) -> list[Scope]:
    """Return the scopes of these criteria in *namespace*; an empty scope if there are none.

    A prompt gives several scopes: one for entries of exact requests, and further ones for
    normalized requests (by *normalizers* and by aspects).
    """
    keys, tags = _texts("key", key), _texts("tag", tag)
    # the caller may be untyped
    if prompt is not None and not isinstance(prompt, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        msg = f"prompt must be the text of a user message, got a {type(prompt).__qualname__}"
        raise ConfigurationError(msg)
    scope = Scope(
        keys=tuple(key_of(one, namespace) for one in keys),
        tags=checked_tags(tags),
        model=model,
        prompt=None if prompt is None else prompt_digest(prompt).hex(),
        created_before=_seconds("created_before", created_before),
        created_after=_seconds("created_after", created_after),
    )
    if prompt is None:
        return [scope]
    return [scope, *(dataclasses.replace(scope, prompt=digest.hex()) for digest in digests(prompt, normalizers))]


def labelled(answer: Answer | bytes, tags: tuple[str, ...]) -> Answer:
    """Return *answer* as an `Answer` with *tags* added."""
    if not isinstance(answer, Answer):
        return Answer(value=answer, tags=tags)
    return dataclasses.replace(answer, tags=(*answer.tags, *tags)) if tags else answer


def _texts(name: str, given: str | Iterable[str] | None) -> tuple[str, ...]:
    if given is None:
        return ()
    texts = (given,) if isinstance(given, str) else tuple(given)
    # an empty list must not match all entries
    if not texts:
        msg = f"{name} must not be empty. Leave it out, or pass at least one value"
        raise ConfigurationError(msg)
    return texts


def _seconds(name: str, moment: float | datetime | None) -> float | None:
    if not isinstance(moment, datetime):
        return moment
    if moment.tzinfo is None:
        msg = f"{name} must have a time zone, like datetime.now(UTC)"
        raise ConfigurationError(msg)
    return moment.timestamp()
