"""The identity of an embedding model: its class and name, and all settings that may change its vectors, as they are at the call.

The fields and the private attributes of a pydantic object count, and those of the objects in it. Nulls, secrets and transport settings (see
`_setting_names`) do not count. A network that is loaded in this process counts by its weights and settings
(`layered_cache.adapters.identity.local_models`). Any other object without a lasting text, such as a function, may change the vectors too.
It is refused unless `key_extra` identifies it.
"""

from __future__ import annotations

import hashlib
import types
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import Any, cast

from layered_cache import ConfigurationError, UncacheableRequestError
from layered_cache.adapters.identity.clients import client_facts, counted_headers
from layered_cache.adapters.identity.code_identity import code_identity, is_user_code
from layered_cache.adapters.identity.local_models import DEVICE_SETTINGS, fingerprint_of, is_loaded, plain_settings
from layered_cache.adapters.identity.snapshots import Attributes, Reader, plain_reader, unchanging
from layered_cache.keys.keys import canonical
from llama_index.core.base.embeddings.base import BaseEmbedding
from pydantic import BaseModel, SecretBytes, SecretStr

from llamaindex_layered_cache._client_settings import HEADERS, client_settings
from llamaindex_layered_cache._setting_names import is_account, is_client

OWN = "_layered_cache"
"""The private attribute of a cached model with its cache settings."""

BARE = "_layered_cache_bare"
"""The private attribute with its view without the cache."""

_NAMES = ("model_name", "model", "model_id", "deployment_name")
_NO_NAMES = frozenset({"", "unknown"})  # the second is LlamaIndex's default
_TRANSPORT = frozenset({
    OWN, BARE,
    "callback_manager", "callbacks", "embeddings_cache", "rate_limiter", "embed_batch_size", "num_workers", "chunk_size", "batch_size",
    "timeout", "request_timeout", "max_retries", "retries", "retry_min_seconds", "retry_max_seconds", "retry_exponential_base",
    "reuse_client",
    "show_progress", "show_progress_bar", "verbose", "threads", "parallel", "keep_alive", "cache_folder", "cache_dir", "openai_proxy",
    "http_socket_options", "use_azure_ad", "azure_ad_token_provider", "azure_ad_async_token_provider", "profile_name", "boto3_kwargs",
    "botocore_config",
})  # fmt: skip
# of LangChain's models
_OF_LANGCHAIN = frozenset({"cache", "custom_get_token_ids", "disable_streaming", "metadata", "name", "profile", "streaming", "tags"})
_SCALARS = (str, int, float, bool)
_DEEPEST = 8  # objects within objects


class Identity:
    """The identity of *model*, now.

    Args:
        model: An embedding model.
        extra: Plain data that identifies settings that cannot be read.

    Raises:
        UncacheableRequestError: If a setting has no lasting text and *extra* is None.
    """

    def __init__(self, model: BaseEmbedding, extra: object) -> None:
        self.name = _name_of(model) or type(model).__name__
        settings: list[Any] = [read_settings(model, opaque=extra is not None), extra]
        self.digest = hashlib.sha256(canonical(settings, "key_extra")).hexdigest()
        """The hash of all settings: some may be secrets, so no setting is stored."""
        self.is_fixed = extra is None and "code" not in settings[0]
        """False: the identity may change without the attributes of the model, since it has the code of a user's class."""


def attributes_of(model: BaseModel, is_aside: Callable[[str, object], bool]) -> Attributes:
    """Return a snapshot of the attributes of *model*."""
    return Attributes(model, is_aside=is_aside, reader=_reader, immutable=(SecretStr, SecretBytes, Enum))


def _reader(value: object) -> Reader | None:
    """Return the reader of *value*: functions of libraries do not change."""
    if isinstance(value, types.FunctionType) and not value.__closure__ and not is_user_code(value):
        return unchanging
    return plain_reader(value)


def is_aside(name: str, value: object) -> bool:
    """Return True if the attribute never counts, or is a client, which counts by its settings."""
    return _is_transport(name, value) and (not is_client(name) or client_facts(value) is not None)


def check(model: BaseEmbedding, extra: object) -> None:
    """Raise an error if *model* cannot be identified.

    Raises:
        ConfigurationError: If *extra* is None, and it has no name or a setting that cannot be read.
    """
    if extra is None and _name_of(model) is None:
        msg = f"{_class_of(model)} has no model_name: say by key_extra='name/and-settings' which one it is"
        raise ConfigurationError(msg)
    try:
        Identity(model, extra)
    except UncacheableRequestError as error:
        hint = "" if extra is not None else ": say by key_extra='name/and-settings' what stands for it"
        msg = f"{error}{hint}"
        raise ConfigurationError(msg) from None


def account(model: BaseEmbedding) -> str:
    """Return the API key of *model* for a fingerprint. It is never shown.

    Raises:
        UncacheableRequestError: If it has none.
    """
    found: list[str] = []
    for _, value in sorted(_secrets(model)):
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        if isinstance(text, str) and text:
            found.append(text)
    if not found:
        msg = "separate_accounts is on, and the embeddings show no API key: name the account, cache_options(account=...)"
        raise UncacheableRequestError(msg)
    return "\n".join(found)


def _secrets(model: BaseEmbedding) -> list[tuple[str, object]]:
    return [(name, value) for name, value in _members(model) if isinstance(value, SecretStr) or _is_secret(name, value)]


def _name_of(model: BaseEmbedding) -> str | None:
    found = (getattr(model, name, None) for name in _NAMES)
    return next((name for name in found if isinstance(name, str) and name not in _NO_NAMES), None)


def _class_of(thing: object) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def read_settings(thing: BaseModel, *, opaque: bool, depth: int = 0) -> dict[str, object]:
    """Return the settings of *thing*; if *opaque*, without those that cannot be read."""
    if depth > _DEEPEST:
        msg = f"{_class_of(thing)} holds objects within objects without end"
        raise UncacheableRequestError(msg)
    settings: dict[str, object] = {}
    local = not opaque and any(is_loaded(value) for _, value in _members(thing))
    for name, value in _members(thing):
        if value is None or _is_secret(name, value) or (local and name.strip("_") in DEVICE_SETTINGS):
            continue
        try:
            if name in HEADERS:
                said = counted_headers(value) or None
            else:
                said = _setting(thing, name, value, opaque=opaque, local=local, depth=depth)
            if said is not None:
                settings[name] = said
        except UncacheableRequestError:
            if not opaque:
                raise
        except RecursionError:
            if not opaque:
                msg = f"the setting {name!r} of {_class_of(thing)} holds itself, or is nested too deeply"
                raise UncacheableRequestError(msg) from None
    found: dict[str, object] = {"class": _class_of(thing), "address": _address_of(thing), "settings": settings}
    if clients := client_settings(thing):
        found["clients"] = clients
    return found | _code_of(thing, opaque=opaque)


def _setting(thing: BaseModel, name: str, value: object, *, opaque: bool, local: bool, depth: int) -> object:
    """Return the setting *value* as plain data; None if it does not count."""
    what = f"the setting {name!r} of {_class_of(thing)}"
    if local and (digest := fingerprint_of(value)) is not None:
        return digest
    if _is_transport(name, value):
        return None
    return _plain(plain_settings(value, what) if local else value, what, opaque=opaque, depth=depth)


def _code_of(thing: BaseModel, *, opaque: bool) -> dict[str, object]:
    """Return the digest of the class of *thing*, if that is user code; with *opaque*, only if it has one."""
    try:
        code = code_identity(type(thing))
    except UncacheableRequestError:
        if not opaque:
            raise
        return {}
    return {} if code is None else {"code": code}


def _members(thing: BaseModel) -> Iterator[tuple[str, object]]:
    values = thing.__dict__
    aside = _OF_LANGCHAIN if hasattr(thing, "lc_id") else frozenset[str]()
    if type(thing).__module__.startswith("langchain_core.language_models.fake"):
        aside |= {"i"}  # a counter of returned answers
    for name in type(thing).model_fields:  # not all of __dict__: the value of a cached property is no setting
        if name not in aside:
            yield name, values.get(name)
    yield from (thing.__pydantic_extra__ or {}).items()
    yield from (thing.__pydantic_private__ or {}).items()


def _is_transport(name: str, value: object) -> bool:
    if name in _TRANSPORT or (is_client(name) and type(value) not in _SCALARS):
        return True
    return name == "_get_model_info" or type(value).__module__.startswith("botocore")


def _is_secret(name: str, value: object) -> bool:
    return isinstance(value, SecretStr | SecretBytes) or (is_account(name) and (isinstance(value, str) or callable(value)))


def _plain(value: object, what: str, *, opaque: bool, depth: int) -> object:
    """Return *value* as data with a lasting text. The check is here, since the error names the setting."""
    if isinstance(value, BaseModel):
        return read_settings(value, opaque=opaque, depth=depth + 1)
    if isinstance(value, list | tuple):
        return [_plain(item, what, opaque=opaque, depth=depth) for item in cast("list[object]", value)]
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value).items()
        return {key: _plain(item, what, opaque=opaque, depth=depth) for key, item in items if not _is_secret(str(key), item)}
    canonical(value, what)
    return value


def _address_of(thing: object) -> str | None:
    """Return the address of a client of OpenAI's library. It may be from the environment at the time it was made."""
    client: Any = getattr(getattr(thing, "client", None), "_client", None)
    address = getattr(client, "base_url", None)
    return None if address is None else str(address)
