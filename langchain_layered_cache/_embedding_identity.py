"""The identity of an embedding model: its class and name, its address, and all settings that may change its vectors.

The declared fields of a pydantic class count, as they are at the call, except defaults (a release may add some), nulls, secrets and
transport settings. Another class does not declare its settings. So its public attributes count, as they were when it was wrapped, since
later some may be counters. A network that is loaded in this process counts by its weights and settings
(`layered_cache.adapters.identity.local_models`). Any other object without a lasting text is refused, unless `model` identifies it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, cast

from langchain_core.embeddings import Embeddings
from layered_cache import ConfigurationError, UncacheableRequestError
from layered_cache.adapters.identity.clients import Facts, client_facts, counted_headers
from layered_cache.adapters.identity.code_identity import code_identity
from layered_cache.adapters.identity.local_models import DEVICE_SETTINGS, fingerprint_of, is_loaded, plain_settings
from layered_cache.adapters.identity.snapshots import Attributes, plain_reader
from layered_cache.keys.keys import canonical
from layered_cache.keys.setting_names import is_client, is_secret_name
from pydantic import BaseModel, SecretBytes, SecretStr

_NAMES = ("model", "model_name", "model_id", "repo_id")
_CLIENTS = ("client", "async_client")
_TRANSPORT = frozenset({
    *_CLIENTS, "http_client", "http_async_client", "http_socket_options", "max_retries", "retry_min_seconds", "retry_max_seconds",
    "request_timeout", "timeout", "chunk_size", "batch_size", "show_progress", "show_progress_bar", "verbose", "max_workers",
    "cache_folder", "azure_ad_token_provider", "azure_ad_async_token_provider", "credentials", "callbacks",
    "openai_proxy",
})  # fmt: skip
# the addresses of clients that were made without one
_DEFAULTS = ("https://generativelanguage.googleapis.com/", "http://127.0.0.1:11434", "https://api.cohere.com")


class Identity:
    """The identity of one embedding model.

    Args:
        embeddings: The model.
        model: A name that also identifies settings that cannot be read.

    Raises:
        ConfigurationError: If *model* is None and the model has no name, or a setting that cannot be read.
    """

    def __init__(self, embeddings: Embeddings, model: str | None) -> None:
        if model is not None and not (isinstance(model, str) and model):  # pyright: ignore[reportUnnecessaryIsInstance]
            msg = f"model must be a text that is not empty, not {model!r}"
            raise ConfigurationError(msg)
        self._embeddings = embeddings
        self._model = model
        self._known: tuple[Attributes, dict[str, object]] | None = None
        if self.name is None:
            msg = f"{_class_of(embeddings)} has none of the attributes {', '.join(_NAMES)}: say by model= which one it is"
            raise ConfigurationError(msg)
        self._attributes: dict[str, Any] = {}
        try:
            self._loaded()
            if isinstance(embeddings, BaseModel):
                self._declared(embeddings)
            else:
                self._attributes = copy.deepcopy(self._kept(getattr(embeddings, "__dict__", {}), {}))
            self._code()
        except UncacheableRequestError as error:
            msg = f"{error}: say by model= what stands for it, model='name/and-settings'"
            raise ConfigurationError(msg) from None

    @property
    def name(self) -> str | None:
        """The name of the model."""
        if self._model is not None:
            return self._model
        found = (getattr(self._embeddings, name, None) for name in _NAMES)
        return next((name for name in found if isinstance(name, str) and name), None)

    @property
    def params(self) -> dict[str, object]:
        """The other settings that decide its vectors.

        Raises:
            UncacheableRequestError: If a setting has no lasting text.
        """
        if (known := self._known) is not None and known[0].are_of(self._embeddings):
            return {**known[1]}
        attributes = Attributes(self._embeddings, is_aside=_is_aside, reader=plain_reader, immutable=(SecretStr, SecretBytes))
        params = self._read()
        # the code of a user's class may change without its attributes
        self._known = (attributes, params) if attributes.is_exact and "code" not in params else None
        return {**params}

    def _read(self) -> dict[str, object]:
        embeddings = self._embeddings
        settings = self._declared(embeddings) if isinstance(embeddings, BaseModel) else self._attributes
        params: dict[str, object] = {"class": _class_of(embeddings), "address": _address_of(embeddings), "settings": settings}
        found = {"loaded": self._loaded(), "clients": _clients_of(embeddings)}
        return {**params, **self._code(), **{name: value for name, value in found.items() if value}}

    def _code(self) -> dict[str, object]:
        """Return the digest of the class, if that is user code; with a *model*, only if it has one."""
        try:
            code = code_identity(type(self._embeddings))
        except UncacheableRequestError:
            if self._model is None:
                raise
            return {}
        return {} if code is None else {"code": code}

    def _loaded(self) -> dict[str, str]:
        """Return the fingerprints of the networks that the model has loaded, unless `model` identifies them."""
        if self._model is not None:
            return {}
        private = cast("dict[str, object]", getattr(self._embeddings, "__pydantic_private__", None) or {})
        found = {name: fingerprint_of(value) for name, value in {**vars(self._embeddings), **private}.items()}
        return {name: digest for name, digest in found.items() if digest is not None}

    def _declared(self, embeddings: BaseModel) -> dict[str, Any]:
        fields = type(embeddings).model_fields
        values = {name: getattr(embeddings, name) for name in fields}
        # a value of a factory may come from the environment, so it is no default, and pydantic names none
        return self._kept(values, {name: field.default for name, field in fields.items()})

    def _kept(self, values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
        kept: dict[str, Any] = {}
        local = self._model is None and any(map(is_loaded, vars(self._embeddings).values()))
        for name, given in values.items():
            value = given
            if name.startswith("_") or name in _TRANSPORT or value is None or _is_secret(name, value):
                continue
            if (name, _class_of(self._embeddings).partition(".")[0]) == ("tokenizer", "langchain_mistralai"):
                continue  # it cuts batches
            if local and (name in DEVICE_SETTINGS or is_loaded(value)):
                continue
            try:
                what = f"the setting {name!r} of {_class_of(self._embeddings)}"
                value = plain_settings(value, what) if local else value
                text = canonical(value, what)
            except UncacheableRequestError:
                if self._model is None:
                    raise
                continue
            if name not in defaults or text != _text(defaults[name]):
                kept[name] = value
        return kept


def _is_aside(name: str, value: object) -> bool:
    """Return True if the attribute never counts, or is a client, which counts by its settings."""
    return name in _TRANSPORT or (is_client(name) and client_facts(value) is not None)


def _text(value: object) -> bytes | None:
    try:
        return canonical(value)
    except UncacheableRequestError:
        return None


def _is_secret(name: str, value: object) -> bool:
    return isinstance(value, SecretStr | SecretBytes) or (is_secret_name(name) and (isinstance(value, str) or callable(value)))


def _class_of(embeddings: Embeddings) -> str:
    return f"{type(embeddings).__module__}.{type(embeddings).__qualname__}"


def _address_of(embeddings: Embeddings) -> str | None:
    """Return the address of the clients of OpenAI's library. It may be from the environment at the time they were made."""
    for name in _CLIENTS:
        client = cast("object", getattr(getattr(embeddings, name, None), "_client", None))
        if (address := getattr(client, "base_url", None)) is not None:
            return str(address)
    return None


def _clients_of(embeddings: Embeddings) -> Facts:
    """Return the parts of requests that the clients add and neither the fields nor the address show.

    A client keeps the values of the moment at which it was made, and takes some of them from the environment.
    """
    private = cast("Mapping[str, Any] | None", getattr(embeddings, "__pydantic_private__", None))
    values: dict[str, Any] = {**vars(embeddings), **(private or {})}
    found: Facts = {}
    for name, client in values.items():
        for part, value in (client_facts(client) or {} if is_client(name) else {}).items():
            known = found.setdefault(part, value)
            if part == "headers":
                found[part] = {**cast("Facts", known), **cast("Facts", value)}
            elif known != value:
                msg = f"its clients send requests to different places ({part})"
                raise UncacheableRequestError(msg)
    expected = _of_fields(values)
    expected["address"].append((_address_of(embeddings) or "").rstrip("/"))
    return {part: value for part, value in found.items() if value not in expected.get(part, ())}


def _of_fields(values: Mapping[str, Any]) -> dict[str, list[object]]:
    """Return the parts that the fields show, and those of a client that was made without an argument."""
    names = ("base_url", "endpoint", "endpoint_url", "openai_api_base", "azure_endpoint")
    addresses = [str(value).rstrip("/") for name in names if (value := values.get(name)) is not None]
    region = values.get("region_name")
    given = cast("Mapping[object, object]", values.get("default_query") or {})
    query = dict(sorted((str(name), str(value)) for name, value in given.items()))
    headers: dict[str, object] = {}
    for name in ("default_headers", "additional_headers", "headers"):
        headers |= counted_headers(values.get(name))
    for name in ("client_kwargs", "sync_client_kwargs", "async_client_kwargs"):
        arguments = cast("Mapping[str, object]", values.get(name) or {})
        headers |= counted_headers(arguments.get("headers"))
    return {
        "address": [*(addresses or [*_DEFAULTS, f"https://bedrock-runtime.{region}.amazonaws.com"]), *(f"{one}/" for one in addresses)],
        "region": [region],
        "project": [values.get("project")],
        "location": [values.get("location")],
        "version": [values.get("api_version")],
        "headers": [headers],
        "query": [query, {"api-version": str(values.get("openai_api_version")), **query}],
        "model": [values.get("model")],
        "provider": [values.get("provider")],
    }
