"""The settings of a model's clients that its fields do not have."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, cast

from layered_cache import UncacheableRequestError
from layered_cache.adapters.identity.clients import Facts, client_facts, counted_headers
from pydantic import BaseModel

from llamaindex_layered_cache._setting_names import is_client

HEADERS = frozenset({"default_headers", "headers", "extra_headers"})
"""The names of settings that hold headers."""

_LIKE_FIELDS = (("model", "model"), ("model", "model_name"), ("provider", "provider"), ("region", "region_name"))


def client_settings(model: BaseModel) -> Facts:
    """Return the parts of requests that the clients of *model* add and its fields do not show.

    A client that its class makes with the first call adds nothing, as long as the fields have not changed since.

    Raises:
        UncacheableRequestError: Two of its clients differ, so threads and event loops send different requests.
    """
    values, private = model.__dict__, model.__pydantic_private__ or {}
    found: Facts = {}
    for name in _client_names(type(model)):
        client = values.get(name) or private.get(name)
        if client is None or (facts := client_facts(client)) is None:
            continue
        for part, value in facts.items():
            if part == "headers":
                found[part] = {**cast("Facts", found.get(part, {})), **cast("Facts", value)}
            elif found.setdefault(part, value) != value:
                msg = f"its clients send requests to different places ({part})"
                raise UncacheableRequestError(msg)
    return {part: value for part, value in found.items() if not _is_of_fields(part, value, values)} if found else found


@lru_cache(maxsize=1024)
def _client_names(cls: type[BaseModel]) -> tuple[str, ...]:
    return tuple(name for name in (*cls.model_fields, *cls.__private_attributes__) if is_client(name))


def _is_of_fields(part: str, value: object, fields: Mapping[str, Any]) -> bool:
    """Return True if a client that is made now adds *value* as its *part*."""
    endpoint = fields.get("azure_endpoint")
    if part == "headers":
        return any(value == counted_headers(fields.get(name)) for name in ("default_headers", "headers"))
    if part == "query":
        return endpoint is not None and value == {"api-version": str(fields.get("api_version"))}
    if part != "address":
        return any(value == fields.get(field) for name, field in _LIKE_FIELDS if name == part)
    if endpoint is not None:
        deployment = fields.get("azure_deployment")
        return value == f"{str(endpoint).rstrip('/')}/openai" + (f"/deployments/{deployment}" if deployment else "")
    return any(value == str(said).rstrip("/") for name in ("api_base", "base_url") if (said := fields.get(name)) is not None)
