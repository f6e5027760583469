"""The identity of an LLM: its class, and all settings that may change its answers, as they are at the call.

Fields and private attributes count, except nulls, secrets, transport settings, and settings for the handling of answers.
`metadata` and `to_dict` are not used: the first may send a request, the second may contain a secret.

A network that is loaded in this process counts by its weights and settings (`layered_cache.adapters.identity.local_models`), not by its
device.

A model without a name is refused, except LlamaIndex's own mocks: another program may have another class at the same place. A model is also
refused if it keeps an object that cannot be read: the object may be the model, and the name only a default. Clients are known by their
names.
"""

from __future__ import annotations

import hashlib
import marshal
import os
import re
import types
from collections.abc import Container, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, cast

from layered_cache import ConfigurationError, UncacheableRequestError
from layered_cache.adapters.identity.clients import client_facts, counted_headers
from layered_cache.adapters.identity.code_identity import code_identity, is_user_code
from layered_cache.adapters.identity.local_models import DEVICE_SETTINGS, fingerprint_of, is_loaded, plain_settings
from layered_cache.adapters.identity.snapshots import Attributes
from layered_cache.keys.key_rules import NO_RULES, KeyRules
from layered_cache.keys.keys import canonical
from llama_index.core.base.llms.generic_utils import messages_to_prompt as generic_messages_to_prompt
from llama_index.core.llms import LLM
from llama_index.core.prompts import BasePromptTemplate
from pydantic import BaseModel, SecretBytes, SecretStr

from llamaindex_layered_cache._client_settings import HEADERS, client_settings
from llamaindex_layered_cache._embedding_identity import attributes_of, read_settings
from llamaindex_layered_cache._llm.request_data import plain, plain_arguments
from llamaindex_layered_cache._setting_names import is_account, is_client

PLAIN_CLASS = "__layered_cache_plain_class__"
"""Where the class of a cached LLM has the class that it stands in front of."""

_NAMES = ("model", "model_name", "model_id", "engine", "deployment_name", "azure_deployment", "endpoint_name", "model_path", "model_url")
_MOCKS = "llama_index.core.llms.mock."
_PROMPTS = frozenset({"messages_to_prompt", "completion_to_prompt", "query_wrapper_prompt"})
_AUTOMATIC = -1  # the context window of an LLM that requests it from its provider
_NOT_ASKED = frozenset({
    # transport
    "timeout", "request_timeout", "max_retries", "reuse_client", "num_workers", "keep_alive", "verbose",
    "azure_ad_token_provider", "use_azure_ad", "profile_name", "botocore_config", "botocore_session",
    # settings of LlamaIndex around a call
    "callback_manager", "rate_limiter", "output_parser", "pydantic_program_mode", "cache_idx", "tokenizer",
    "class_name",
})  # fmt: skip
_CLIENTS = ("_client", "client", "_aclient", "aclient")
_ACCOUNT = re.compile(r"api_?key|access_key|auth_token|^token$|password|secret")
_SHOWN = (
    "temperature", "top_p", "top_k", "seed", "reasoning_effort",
    "max_tokens", "max_output_tokens", "max_completion_tokens", "max_new_tokens", "num_predict",
)  # fmt: skip
_REMEMBERED = ("store", "background", "previous_response_id", "conversation", "container")
_LITELLM = "llama_index.llms.litellm."
_VARIABLES = (
    "_API_BASE",
    "_BASE_URL",
    "_API_URL",
    "_ENDPOINT",
    "_ENDPOINT_URL",
    "_API_VERSION",
    "_REGION",
    "_REGION_NAME",
    "_PROJECT",
    "_LOCATION",
)
_SCALARS = (str, int, float, bool)
_OURS = "_layered_cache"  # the attributes of a cached LLM begin with it
_MOST_KNOWN = 16  # copies of one LLM
_WITHOUT_REFERENCES = 2  # version 2 of `marshal`: its bytes do not depend on reference counts


class Identity:
    """The identity of one LLM.

    Args:
        llm: The LLM when it is wrapped.
        extra: Plain data that identifies settings that cannot be read.
        rules: The settings that do not count.

    Raises:
        ConfigurationError: If the model cannot be identified and *extra* is None.
    """

    def __init__(self, llm: LLM, extra: object, rules: KeyRules = NO_RULES) -> None:
        self._extra = extra
        self._rules = rules
        self._class = class_of(plain_class(type(llm)))
        self._windows: dict[tuple[str | None, object], object] = {}
        self._known: dict[int, _Known] = {}
        self._read: dict[str, tuple[bytes, object]] = {}
        self._inside: dict[str, tuple[LLM, Identity]] = {}
        # code of a user's class, a changed extra and the variables that LiteLLM reads are no attributes
        self._is_fixed = extra is None and not is_user_code(plain_class(type(llm))) and not self._class.startswith(_LITELLM)
        try:
            canonical(extra, "key_extra")
            canonical(self._settings(llm))
        except UncacheableRequestError as error:
            msg = f"nothing says exactly which model a {self._class} is ({error}): say by key_extra='name/and-settings' what stands for it"
            raise ConfigurationError(msg) from None
        if extra is None and not self._class.startswith(_MOCKS) and _named(llm) is None:
            msg = f"a {self._class} has no field {', '.join(_NAMES[:3])}: say by key_extra='name/and-settings' which model it is"
            raise ConfigurationError(msg)

    def note_window(self, llm: LLM, before: object) -> None:
        """Record the context window that the provider has returned since *before*. It is not a setting of the caller."""
        if before == _AUTOMATIC and (found := window_of(llm)) != _AUTOMATIC:
            self._windows[_place(llm)] = found
            self._known.clear()

    def name(self, llm: LLM) -> str:
        """Return the current name of *llm*."""
        return _named(llm) or type(llm).__name__

    def params(self, llm: LLM) -> dict[str, object]:
        """Return the settings of *llm* now: some as they are, and the hash of all.

        Raises:
            UncacheableRequestError: If a setting has no lasting text.
        """
        return self._now(llm).params.copy()

    def is_stateful(self, llm: LLM, arguments: Mapping[str, object]) -> bool:
        """Return True if the answer of *llm* depends on, or changes, the memory of its provider.

        Raises:
            UncacheableRequestError: If a setting has no lasting text.
        """
        return self._now(llm).is_stateful or (bool(arguments) and _is_stateful(llm.__dict__, arguments))

    def _now(self, llm: LLM) -> _Known:
        known = self._known.get(place := id(llm.__dict__))
        if known is not None and known.attributes.are_of(llm):
            return known
        attributes = attributes_of(llm, _is_opaque)
        known = _Known(attributes, self._read_params(llm), _is_stateful(llm.__dict__, {}) or _continues(llm))
        if attributes.is_exact and self._is_fixed:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[place] = known
        return known

    def _read_params(self, llm: LLM) -> dict[str, object]:
        settings = canonical(self._settings(llm), "a setting of the model")
        params: dict[str, object] = {"class": self._class, "settings": hashlib.sha256(settings).hexdigest()}
        for place in (_sent_along(llm), llm.__dict__):
            params.update((name, value) for name in _SHOWN if type(value := place.get(name)) in _SCALARS)
        return params

    def account(self, llm: LLM) -> str | None:
        """Return the API key of *llm* for a fingerprint; None if it has none. It is never shown."""
        found: list[str] = []
        for name, value in sorted(llm.__dict__.items()):
            if isinstance(value, SecretStr):
                found.append(value.get_secret_value())
            elif isinstance(value, str) and value and _ACCOUNT.search(name):
                found.append(value)
        if not found and isinstance(key := getattr(_client(llm), "api_key", None), str) and key:
            found.append(key)
        return "\n".join(found) or None

    def _settings(self, llm: LLM) -> list[object]:
        model, local = self._model(llm), self._is_local(llm)
        inner = _inner(llm, opaque=self._extra is not None)
        return [model, self._fields(llm, local=local), self._private(llm, local=local), inner, _address(llm), self._extra]

    def _model(self, llm: LLM) -> object:
        """Return plain data that identifies the class of *llm*."""
        try:
            return identified(plain_class(type(llm)))
        except UncacheableRequestError:
            if self._extra is None:
                raise
            return self._class

    def _fields(self, llm: LLM, *, local: bool, without: Container[str] = ()) -> dict[str, object]:
        found: dict[str, object] = {}
        values = llm.__dict__
        if more := llm.__pydantic_extra__:
            values = {**values, **more}
        for name in (*_asked_fields(type(llm)), *(more or ())):
            value = self._rules.counted(name, values.get(name))
            if value is None or name in without or (more and name in more and _is_aside(name)) or (local and name in DEVICE_SETTINGS):
                continue
            if type(value) in _SCALARS:
                if name != "context_window" or (value != _AUTOMATIC and self._windows.get(_place(llm)) != value):
                    found[name] = value
                continue
            if name in _plain_fields(type(llm)) or value is generic_messages_to_prompt or isinstance(value, SecretStr | SecretBytes):
                continue
            try:
                if (said := self._field(llm, name, value, local=local)) not in ({}, []):
                    found[name] = said
            except UncacheableRequestError as error:
                if self._extra is None:
                    msg = f"its field {name!r}: {error}"
                    raise UncacheableRequestError(msg) from None
        return found

    def _field(self, llm: LLM, name: str, value: object, *, local: bool) -> object:
        if name in HEADERS:
            return counted_headers(value)
        if local and isinstance(value, Mapping):
            said = cast("dict[str, object]", plain_settings(cast("object", value)))
            return {key: item for key, item in said.items() if not (_is_secret(key) or key == "stream")}  # LlamaCPP sets it with each call
        if local and isinstance(value, types.MethodType) and isinstance(owner := value.__self__, LLM):
            return [f"{class_of(plain_class(type(owner)))}.{value.__name__}", None if owner is llm else self._difference(llm, owner)]
        return self._setting(name, value)

    def _is_local(self, llm: LLM) -> bool:
        """Return True if a network that is loaded in this process answers, and `key_extra` does not identify it."""
        return self._extra is None and any(map(is_loaded, (llm.__pydantic_private__ or {}).values()))

    def _difference(self, llm: LLM, owner: LLM) -> object:
        """Return the settings of *owner*, which *llm* was copied from, if they differ; its method uses them."""
        one, other = ([self._fields(of, local=True, without=_PROMPTS), self._private(of, local=True)] for of in (llm, owner))
        return None if one == other else other

    def _private(self, llm: LLM, *, local: bool) -> dict[str, object]:
        """Return the private settings of *llm*."""
        found: dict[str, object] = {}
        for name, value in (llm.__pydantic_private__ or {}).items():
            if value is None or isinstance(value, SecretStr | SecretBytes) or (local and name.strip("_") in DEVICE_SETTINGS):
                continue
            if _is_private_aside(name, value) and not (local and is_loaded(value)):
                continue
            try:
                found[name] = value if type(value) in _SCALARS else self._unless_read(name, value)
            except UncacheableRequestError as error:
                if self._extra is None:  # the object may be the model itself, and the name in a field only a default
                    msg = f"what it keeps as {name!r}: {error}"
                    raise UncacheableRequestError(msg) from None
        return found

    def _unless_read(self, name: str, value: object) -> object:
        """Return the private setting *value* as plain data: the same object as the last time if nothing in it has changed.

        The comparison is by `marshal`, which knows types: 1, 1.0 and True differ.
        """
        try:
            text = marshal.dumps(cast("Any", value), _WITHOUT_REFERENCES)
        except ValueError:  # it holds an object: only its plain data can be compared
            return self._setting(name, value)
        if (known := self._read.get(name)) is not None and known[0] == text:
            return known[1]
        said = self._setting(name, value)
        self._read[name] = text, said
        return said

    def _setting(self, name: str, value: object) -> object:
        if self._extra is None and (digest := fingerprint_of(value)) is not None:
            return digest
        if isinstance(value, LLM):
            known = self._inside.get(name)
            try:
                identity = known[1] if known is not None and known[0] is value else Identity(value, None)
            except ConfigurationError as error:
                raise UncacheableRequestError(str(error)) from None
            self._inside[name] = value, identity
            return [identified(plain_class(type(value))), identity.params(value)]
        if isinstance(value, types.ModuleType):
            return value.__name__
        if isinstance(value, BasePromptTemplate):  # some LLMs apply it to prompts; its output parser is applied to answers
            return [identified(type(value)), plain({name: item for name, item in value.__dict__.items() if name != "output_parser"})]
        if name == "additional_kwargs" and isinstance(value, Mapping):
            return plain_arguments({str(key): item for key, item in cast("Mapping[object, object]", value).items() if not _is_secret(key)})
        if _has_stopping_rules(type(value)):
            return [_rule(rule) for rule in cast("list[object]", value)]
        return plain(value)


class _Known(NamedTuple):
    """The settings of an LLM with these attributes."""

    attributes: Attributes
    params: dict[str, object]
    is_stateful: bool


def _is_opaque(name: str, value: object) -> bool:
    """Return True for an attribute that never counts, or a client, which counts by its settings."""
    if name == "_llm":  # a model of LangChain counts with its own settings
        return False
    if name.startswith(_OURS) or _is_aside(name) or _is_private_aside(name, value):
        return True
    return is_client(name) and client_facts(value) is not None


def _continues(llm: LLM) -> bool:
    """Return True if *llm* sends the id of its last response with the next request."""
    return bool(llm.__dict__.get("track_previous_responses")) or (llm.__pydantic_private__ or {}).get("_previous_response_id") is not None


def _is_stateful(values: Mapping[str, object], arguments: Mapping[str, object]) -> bool:
    """Return True if the attributes *values* or the *arguments* of a call make the provider use or change its memory."""
    more = _inside(values, "additional_kwargs")
    places = [values, arguments, more, *(_inside(arguments, name) for name in ("additional_kwargs", "extra_body"))]
    places += [_inside(place, "extra_body") for place in places]
    return any(place.get(name) for place in places for name in _REMEMBERED)


def _sent_along(llm: LLM) -> Mapping[str, object]:
    """Return the parameters that *llm* sends with each call."""
    return _inside(llm.__dict__, "additional_kwargs")


def _inside(place: Mapping[str, object], name: str) -> Mapping[str, object]:
    more = place.get(name)
    return cast("Mapping[str, object]", more) if isinstance(more, Mapping) else {}


@lru_cache(maxsize=1024)
def _has_stopping_rules(cls: type) -> bool:
    """Return True if *cls* is the list of stopping rules of a model of transformers."""
    return any((base.__module__.partition(".")[0], base.__name__) == ("transformers", "StoppingCriteriaList") for base in cls.__mro__)


def _rule(rule: object) -> list[object]:
    return [class_of(type(rule)), plain(cast("object", type(rule).__call__)), plain(cast("dict[str, object]", vars(rule)))]


def class_of(cls: type) -> str:
    """Return the module and the name of *cls*."""
    return f"{cls.__module__}.{cls.__qualname__}"


def identified(cls: type) -> object:
    """Return plain data that identifies *cls*: its place, and its code if it is user code.

    Raises:
        UncacheableRequestError: If its code uses a value that has no identity.
    """
    code = code_identity(cls)
    return class_of(cls) if code is None else [class_of(cls), code]


def plain_class(cls: type[Any]) -> type[Any]:
    """Return the class that *cls* was before its LLM was wrapped."""
    return cast("type[Any]", getattr(cls, PLAIN_CLASS, cls))


@lru_cache(maxsize=1024)
def _asked_fields(cls: type[LLM]) -> tuple[str, ...]:
    """Return the names of the fields that count."""
    fields = cls.model_fields
    return tuple(name for name in fields if name in _PROMPTS or not _is_aside(name))


@lru_cache(maxsize=1024)
def _plain_fields(cls: type[LLM]) -> frozenset[str]:
    """Return the names of the fields that LlamaIndex does not serialize. They count only if they are plain."""
    return frozenset(name for name, field in cls.model_fields.items() if field.exclude and name not in _PROMPTS)


def _is_aside(name: str) -> bool:
    return name in _NOT_ASKED or is_account(name)


def _is_secret(name: object) -> bool:
    return isinstance(name, str) and is_account(name)


def _is_private_aside(name: str, value: object) -> bool:
    """Return True if the private attribute *name* does not count: it counts elsewhere, is a credential, or sends requests."""
    if name in {"_model_meta", "_get_model_info"} or is_account(name):  # the first two describe the model to the caller
        return True
    if type(value).__module__.startswith("botocore"):  # settings of connections; the client shows its address
        return True
    return type(value) not in _SCALARS and not isinstance(value, LLM) and (is_client(name) or (name == "_llm" and hasattr(value, "lc_id")))


def _inner(llm: LLM, *, opaque: bool) -> object:
    """Return the settings of the LangChain model that *llm* calls; None if there is none.

    Raises:
        UncacheableRequestError: If a setting cannot be read and *opaque* is False.
    """
    model = cast("Any", (llm.__pydantic_private__ or {}).get("_llm"))
    return read_settings(cast("BaseModel", model), opaque=opaque) if hasattr(model, "lc_id") else None


def _named(llm: LLM) -> str | None:
    inner = (llm.__pydantic_private__ or {}).get("_llm")
    places: tuple[tuple[object, tuple[str, ...]], ...] = ((llm, _names_of(type(llm))), (inner, () if inner is None else _NAMES))
    for thing, names in places:
        for name in names:
            found = getattr(thing, name, None)
            if isinstance(found, str) and found:
                return found
    return None


@lru_cache(maxsize=1024)
def _names_of(cls: type[LLM]) -> tuple[str, ...]:
    """Return the attributes of *cls* that may hold the name. Reading a missing one takes pydantic a microsecond."""
    return tuple(name for name in _NAMES if name in cls.model_fields or hasattr(cls, name))


def window_of(llm: LLM) -> object:
    """Return the context window of *llm*, as its field has it."""
    return cast("object", llm.__dict__.get("context_window"))


def _place(llm: LLM) -> tuple[str | None, object]:
    """Return the model and the address of *llm*, which decide its context window."""
    return _named(llm), llm.__dict__.get("base_url")


def _client(llm: LLM) -> object:
    private = llm.__pydantic_private__ or {}
    return next((private[name] for name in _CLIENTS if private.get(name) is not None), None)


def _address(llm: LLM) -> object:
    """Return the parts of requests that the clients add and the fields do not show, None for none; a text if it is only an address."""
    found = client_settings(llm)
    if class_of(plain_class(type(llm))).startswith(_LITELLM) and "api_base" not in _sent_along(llm):
        # it has no client, and reads the variables of its providers with each call
        found = {**found, **{name: value for name, value in os.environ.items() if name.endswith(_VARIABLES)}}
    if getattr(_client(llm), "_api_client", None) is not None:  # Google's
        parts: list[object] = [found.get("project"), found.get("location"), found.get("address")]
        rest = {name: value for name, value in found.items() if name not in {"project", "location", "address"}}
        return [*parts, rest] if rest else parts
    return (found["address"] if found.keys() == {"address"} else found) if found else None
