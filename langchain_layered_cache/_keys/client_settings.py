"""The settings that a model's clients have: where they send requests, and the headers and queries that they add to each.

A client takes its settings from arguments, or from the environment of the moment at which it is made. A change of the model afterwards does
not reach it. So they are read from the client where it shows them. Where it does not, because it is of a kind that is not known here or no
model is known at all, the variables of the environment count, as they are at the call.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from operator import is_
from typing import Any, cast

from langchain_core.language_models.base import BaseLanguageModel
from layered_cache.adapters.identity.snapshots import reference_to, taker
from layered_cache.keys.setting_names import is_client, is_credential

_OPENAI = ("OPENAI_BASE_URL", "OPENAI_API_BASE")
_AWS = ("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION")
# keys: a part of the path of a serialized class, or the beginning of its `_type`
_VARIABLES: dict[str, tuple[str, ...]] = {
    "openai": _OPENAI,
    "langchain_groq": ("GROQ_BASE_URL", "GROQ_API_BASE"),
    "langchain_google_genai": ("GOOGLE_GEMINI_BASE_URL", "GOOGLE_VERTEX_BASE_URL", "GOOGLE_CLOUD_PROJECT", "GOOGLE_CLOUD_LOCATION"),
    "bedrock": _AWS,
    "langchain_aws": _AWS,
    "anthropic": ("ANTHROPIC_BASE_URL", "ANTHROPIC_API_URL"),
    "mistralai": ("MISTRAL_BASE_URL",),
    "fireworks": ("FIREWORKS_BASE_URL", "FIREWORKS_API_BASE"),
    "langchain_openrouter": ("OPENROUTER_API_BASE",),
    "langchain_xai": ("XAI_API_BASE",),
    "chat-deepseek": ("DEEPSEEK_API_BASE",),
    "together": ("TOGETHER_API_BASE",),
    "chat-ollama": ("OLLAMA_HOST",),
    "ollama-llm": ("OLLAMA_HOST",),
    "chat-nvidia": ("NVIDIA_BASE_URL",),
    "cohere": ("CO_API_URL",),
    "perplexity": ("PERPLEXITY_BASE_URL",),
    "huggingface": ("HF_INFERENCE_ENDPOINT", "HF_ENDPOINT"),
}
# a client that was made without an address has one of these; they are no part of a key
_DEFAULTS = frozenset({
    "https://api.openai.com/v1", "https://api.groq.com", "https://generativelanguage.googleapis.com", "https://api.fireworks.ai",
    "https://openrouter.ai/api/v1",
})  # fmt: skip
_ARGUMENTS = ("base_url", "api_base", "endpoint", "endpoint_url", "api_url")
_ADDRESSES = ("base_url", "_base_url", "endpoint_url")
_HEADERS = ("_custom_headers", "headers", "_headers")
_QUERIES = ("_custom_query", "params")
_SINGLE = ("organization", "api_version", "project", "location")
_INSIDE = ("_client", "_client_wrapper", "meta")
_OTHER_SERVICES = frozenset({"bedrock_client"})  # it looks models up
_NO_HEADERS = frozenset({
    "accept", "accept-encoding", "api-key", "connection", "content-type", "user-agent", "x-api-key", "host", "x-goog-api-client",
    "x-goog-api-key",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Clients:
    """The settings of clients: *addresses*, None if no client shows one, and the *added* headers, queries and versions by their names."""

    addresses: tuple[str, ...] | None
    added: dict[str, str]


def clients_of(model: BaseLanguageModel[Any]) -> Clients:
    """Return the settings of the clients of *model*."""
    held = {**vars(model), **(model.__pydantic_private__ or {})}
    clients = [value for name, value in held.items() if is_client(name) and name not in _OTHER_SERVICES and value is not None]
    addresses: set[str] = set()
    added: dict[str, str] = {}
    for client in clients:
        parts = [*_parts_of(client)]
        # a client of OpenAI's sends to its own address, whatever the HTTP client says that it shares with other ones
        addresses.update(next((shown for part in parts if (shown := [*_addresses_of(part)])), list[str]()))
        for part in parts:
            added.update(_added_by(part))
    return Clients(tuple(sorted(addresses)) or None, added)


class ClientStates:
    """The settings of a model's clients, to find out cheaply whether they are the same later.

    A client may get another address or other headers after its first use. Its inner objects stay the same.
    """

    __slots__ = ("_copies", "_parts", "_private", "_views")

    def __init__(self, model: BaseLanguageModel[Any]) -> None:
        private = model.__pydantic_private__ or {}
        self._private = [(name, reference_to(value)) for name, value in private.items() if is_client(name)]
        held = {**vars(model), **private}
        clients = [value for name, value in held.items() if is_client(name) and name not in _OTHER_SERVICES and value is not None]
        found = {id(part): part for client in clients for whole in _parts_of(client) for part in (whole, *_google_parts(whole))}
        self._parts: list[tuple[Any, Any, tuple[object, ...]]] = []
        self._views: list[object] = []
        for part in found.values():
            now: dict[str, Any] = getattr(part, "__dict__", {})
            if names := tuple(name for name in (*_ADDRESSES, *_HEADERS, *_QUERIES, *_SINGLE) if name in now):
                self._parts.append((reference_to(part), taker(names), tuple(now[name] for name in names)))
                self._views += [view for name in names if (view := _view(now[name])) is not None]
        self._copies = [copy.copy(view) for view in self._views]

    def are_of(self, model: BaseLanguageModel[Any]) -> bool:
        """Return True if the clients of *model* have the same settings. Clients in its fields are the same objects already."""
        if self._private:
            private = model.__pydantic_private__ or {}
            for name, reference in self._private:
                if private.get(name) is not reference():
                    return False
        try:
            for reference, take, values in self._parts:
                if not all(map(is_, take(reference().__dict__), values)):
                    return False
        except (AttributeError, KeyError):  # the client is collected, or has other attributes now
            return False
        return self._views == self._copies


def _google_parts(thing: object) -> Iterator[object]:
    if (google := getattr(thing, "_api_client", None)) is not None:
        yield google
        yield getattr(google, "_http_options", None)


def _view(value: object) -> object:
    """Return the collection in *value* to be compared; None if there is none. Headers of httpx are slow to compare, but not their list."""
    if isinstance(value, dict):
        return cast("object", value)
    items: object = getattr(value, "_list", None)
    if isinstance(items, list):
        return cast("object", items)
    return cast("object", value) if isinstance(value, Mapping) else None


def variables_of(path: list[str], kind: object, arguments: Mapping[str, object], name: str | None) -> tuple[str, ...]:
    """Return the variables that decide where a model sends requests.

    *path* and *arguments* are those of its serialized form, *kind* is its `_type`, *name* is the name of the model.
    """
    if any(value is not None and key.endswith(_ARGUMENTS) for key, value in arguments.items()):
        return ()
    if "openai" in path:
        return _OPENAI[:1]  # LangChain reads the other one itself
    for part, variables in _VARIABLES.items():
        if part in path or (isinstance(kind, str) and kind.startswith(part)):
            return variables
    if kind == "litellm-chat" and name is not None:
        provider = name.partition("/")[0].upper() if "/" in name else "OPENAI"
        return (f"{provider}_BASE_URL", f"{provider}_API_BASE")
    return ()


def unsaid(clients: Clients, settings: Mapping[str, object]) -> Clients:
    """Return the settings of *clients* that are neither defaults nor in the *settings* of the model."""
    said = [*_leaves("", settings)]
    texts = [value.rstrip("/") for _, value in said if isinstance(value, str)]
    addresses = None
    if clients.addresses is not None:
        left = (address for address in clients.addresses if address not in _DEFAULTS)
        addresses = tuple(address for address in left if not any(_is_at(address, text) for text in texts))
    plain = {value for value in settings.values() if isinstance(value, str)}
    added = {
        name: value
        for name, value in clients.added.items()
        if value not in plain and not any(_is_called(name, other) and value == str(item) for other, item in said)
    }
    return Clients(addresses, added)


def address_params(variables: tuple[str, ...], addresses: tuple[str, ...] | None) -> dict[str, str]:
    """Return the addresses for a key, as the environment is now.

    If the variable of an address has changed since the client was made, the key is that of a client with the address as an argument.
    """
    found = {name: value for name in variables if (value := os.environ.get(name))}
    if addresses is None:
        return found
    if matching := {name: value for name, value in found.items() if value.rstrip("/") in addresses}:
        return matching
    return {(variables[0] if variables else "address"): " ".join(addresses)} if addresses else {}


def _parts_of(client: object) -> Iterator[object]:
    """Yield *client*, and the objects in it that have settings in the clients that are known."""
    yield client
    yield from (part for name in _INSIDE if (part := getattr(client, name, None)) is not None)
    if (configuration := getattr(client, "sdk_configuration", None)) is not None:
        yield getattr(configuration, "client", None)


def _addresses_of(thing: object) -> Iterator[str]:
    for name in _ADDRESSES:
        value = getattr(thing, name, None)
        if isinstance(value, str) or type(value).__name__ == "URL":  # of httpx
            yield str(value).rstrip("/")
            break
    if (google := getattr(thing, "_api_client", None)) is not None:
        yield str(getattr(getattr(google, "_http_options", None), "base_url", None)).rstrip("/")
        yield from (f"{name} {value}" for name in ("project", "location") if (value := getattr(google, name, None)) is not None)
    if (details := getattr(getattr(thing, "sdk_configuration", None), "get_server_details", None)) is not None:
        yield str(details()[0]).rstrip("/")


def _added_by(thing: object) -> Iterator[tuple[str, str]]:
    """Yield headers and queries that a client adds to each request, and settings that become such."""
    options = getattr(getattr(thing, "_api_client", None), "_http_options", None)
    for place in (thing, options):
        for name in (*_HEADERS, *_QUERIES):
            items = getattr(place, name, None)
            for key, value in cast("Mapping[object, object]", items).items() if isinstance(items, Mapping) else ():
                if isinstance(key, str) and isinstance(value, str) and not _is_no_header(key.lower()):
                    yield key.lower(), value
    for name, place in zip(_SINGLE, (thing, options), strict=False):
        if isinstance(value := getattr(place, name, None), str):
            yield name, value


def _is_no_header(name: str) -> bool:
    return name in _NO_HEADERS or name.startswith("x-stainless-") or is_credential(name)


def _leaves(name: str, value: object) -> Iterator[tuple[str, object]]:
    """Yield all values in *value* that are no collections, each with the name that it has there."""
    if isinstance(value, Mapping):
        for key, item in cast("Mapping[object, object]", value).items():
            yield from _leaves(str(key), item)
    elif isinstance(value, list | tuple):
        for item in cast("list[object]", value):
            yield from _leaves(name, item)
    else:
        yield name, value


def _is_called(name: str, other: str) -> bool:
    """Return True if a setting has the name of a header or query, or a longer one."""
    return other.replace("_", "-").lower().endswith(name.replace("_", "-"))


def _is_at(address: str, value: str) -> bool:
    """Return True if an argument has the address, its region or the project in it."""
    return address == value or f"{address}/".startswith(f"{value}/openai/") or f".{value}." in address or address.endswith(f" {value}")
