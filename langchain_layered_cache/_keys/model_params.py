"""The model of a request: LangChain's `llm_string`, and the settings of the model as they are at the call.

At the top level, nulls, credentials and transport settings (timeouts, retries, clients, streaming, names) are left out. All other settings
count unchanged. The addresses of requests count, from arguments and from the environment (`client_settings`).

The text may be older than the model: LangChain serializes a model once, and the text of a copy or a changed model stays the same. For many
classes the text has the class only. So a call uses the model itself (`model_settings`): its current serialization replaces that in the
text, and settings that are in no text are added. A model with a complete text has the same key as a bare `update` with that text.

A lookup without a model has the key of its text. In a call of LangChain it is refused, because the text may be outdated.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from json import JSONDecoder
from typing import Any, cast

from layered_cache import UncacheableRequestError
from layered_cache.entry import folded
from layered_cache.keys.key_rules import without
from layered_cache.keys.keys import canonical
from pydantic import BaseModel

from langchain_layered_cache._keys.client_settings import address_params, unsaid, variables_of
from langchain_layered_cache._keys.field_plans import OF_CALLS, OF_MODELS
from langchain_layered_cache._keys.messages import ADDRESS, BY_ADDRESS, is_written_out
from langchain_layered_cache._keys.model_settings import Settings, is_secret
from langchain_layered_cache._keys.repr_parser import NoKeyError, Reader, find_class

_VARIANTS = 8  # remembered models of one text
# other names of a parameter that the caller may reset by None
_SAME = {
    "model": ("model_name", "model_id"),
    "model_name": ("model", "model_id"),
    "azure_deployment": ("deployment_name",),
    "max_tokens": ("max_completion_tokens", "max_output_tokens", "max_tokens_to_sample", "num_predict"),
    "max_completion_tokens": ("max_tokens",),
    "max_output_tokens": ("max_tokens",),
}


@dataclass(frozen=True, slots=True)
class Model:
    """The part of a request that is not the prompt.

    Attributes:
        params: The parameters in the key.
        name: The name of the model.
        environment: The variables that decide where requests go.
        addresses: The addresses of the client that `params` do not have; None if they are not known.
        keeps_ids: Ids of earlier answers are sent.
        sends: The metadata of earlier answers that are sent.
        refusal: The reason why requests of this model with these parameters have no key.
        classes: The classes whose schemas count and that were found by their names.
        holds_classes: True if there are such classes; the text does not show their schemas.
        is_text: True if the text shows all that counts.
        number: Unique in this process.
    """

    params: dict[str, object]
    name: str | None
    environment: tuple[str, ...] = ()
    addresses: tuple[str, ...] | None = None
    keeps_ids: bool = False
    sends: tuple[str, ...] = ()
    refusal: str | None = None
    classes: tuple[tuple[str, type[BaseModel]], ...] = ()
    holds_classes: bool = False
    is_text: bool = True
    number: int = field(default_factory=itertools.count().__next__, compare=False)

    @property
    def is_current(self) -> bool:
        """True if the classes in its text are still the same objects: a notebook may define a class again."""
        return all(find_class(path) is found for path, found in self.classes)

    @property
    def at(self) -> dict[str, str]:
        """The addresses that are not in `params`, as the environment is now."""
        return address_params(self.environment, self.addresses)

    def reading(self, prompt: str) -> tuple[object, ...]:
        """Return the memo key of *prompt* under this model in the current environment. It is no cache key."""
        if not self.environment:
            return (prompt, self.number)
        return (prompt, self.number, *[os.environ.get(name) for name in self.environment])


class KnownModel:
    """The models of one `llm_string`, nearly always one."""

    def __init__(self, llm_string: str, ignore: frozenset[str] = frozenset()) -> None:
        self._text = llm_string
        self._ignore = ignore
        reader = Reader(OF_CALLS | ignore)
        reader.literals(_split(llm_string)[1])
        self._holds_no_classes = reader.read_all
        self._variants: list[tuple[bytes | None, dict[str, type[BaseModel]], Model]] = []

    def now(self, settings: Settings | None = None, params: Mapping[str, object] | None = None) -> Model:
        """Return the model whose settings are *settings*, in a call with *params*; None: they are not known."""
        digest = None if settings is None else settings.digest
        classes = {} if self._holds_no_classes else _classes_in(params)
        for known, at_hand, model in self._variants:
            if known == digest and at_hand == classes and (not model.classes or model.is_current):
                return model
        model = parse_model(self._text, settings, classes, self._ignore)
        self._variants = [(digest, classes, model), *self._variants[: _VARIANTS - 1]]
        return model


def parse_model(
    llm_string: str,
    settings: Settings | None = None,
    classes: Mapping[str, type[BaseModel]] | None = None,
    ignore: frozenset[str] = frozenset(),
) -> Model:
    """Return the model of *llm_string* with *settings*. It raises nothing: a text of an unknown form counts as it is.

    Args:
        llm_string: The text of LangChain.
        settings: The settings of the model, if it is known.
        classes: The classes in the text, by their paths, as far as they are known.
        ignore: Names of parameters that do not count.
    """
    written, call_text = _split(llm_string)
    head = settings.head if settings is not None and written else written
    init = without(cast("dict[str, object]", head.get("kwargs") or {}), ignore)
    reader = Reader(OF_CALLS | ignore, classes)
    try:
        call = without(reader.params(call_text), ignore)
        params: dict[str, object] = {
            "model": _without(OF_MODELS, init),
            "call": _without(OF_CALLS, call) | _taken_back(_said(init), call),
        }
        _refuse_objects(params["model"])
    except NoKeyError as error:
        return Model({}, None, refusal=str(error), classes=tuple(reader.classes.items()))
    path = cast("list[str]", head.get("id") or [])
    if path:
        params["class"] = path
    kind = call.get("_type")
    name = _name_of(call, init)
    beyond = {} if settings is None else _beyond(settings, call, ignore, is_named=name is not None)
    if name is None and settings is not None and not head:
        name = settings.name
    variables, addresses = variables_of(path, kind, init, name), None
    if settings is not None:
        left = unsaid(settings.clients, {**init, **settings.fields})
        addresses = left.addresses
        if left.added:
            beyond["client"] = left.added
    return Model(
        params | beyond,
        name or (kind if isinstance(kind, str) else None),
        environment=() if addresses == () else variables,
        addresses=addresses,
        keeps_ids=bool(call.get("use_previous_response_id", init.get("use_previous_response_id"))),
        sends=_sent_metadata(path, init),
        refusal=None if settings is None else settings.refusal or _unnamed(settings, name or settings.name),
        classes=tuple(reader.classes.items()),
        holds_classes=reader.met_classes,
        is_text=not (beyond.keys() - {"of", "code"}) and not addresses and init == without(written.get("kwargs") or {}, ignore),
    )


def _sent_metadata(path: list[str], init: Mapping[str, object]) -> tuple[str, ...]:
    """Return the names of the metadata of earlier answers on which a request depends."""
    container = ("container",) if init.get("reuse_last_container") else ()
    # reasoning of a model of another provider is not sent
    model = ("model_name",) if any(part in path for part in ("bedrock", "langchain_aws")) else ()
    return container + model


def _unnamed(settings: Settings, name: str | None) -> str | None:
    """Return the reason why a model of a library without a name has no key. The class identifies a model of the user."""
    if name is not None or settings.class_name is not None or settings.key_extra is not None or settings.is_fake:
        return None
    return f"nothing names the model of a {settings.kind}. Name it: cached(model, key_extra='name/and-settings')"


def _beyond(settings: Settings, call: Mapping[str, object], ignore: frozenset[str], *, is_named: bool) -> dict[str, object]:
    """Return the *settings* that count and are neither serialized nor in the text of the *call*.

    Where the text names the model, and in a class of the user's own, the values that the class declares are left out.
    """
    beyond: dict[str, object] = {}
    left = settings.defaults if is_named or settings.class_name is not None else frozenset[str]()
    if fields := {
        name: value for name, value in without(settings.fields, ignore).items() if name not in left and not _is_in(call, name, value)
    }:
        beyond["settings"] = fields
    if settings.class_name is not None:
        beyond["of"] = settings.class_name
    if settings.code is not None:
        beyond["code"] = settings.code
    if settings.key_extra is not None:
        beyond["key_extra"] = settings.key_extra
    return beyond


def _is_in(call: Mapping[str, object], name: str, value: object) -> bool:
    """Return True if the text of a *call* has the setting, or all items of it."""
    if any(_equal(call[one], value) for one in (name, *_SAME.get(name, ())) if one in call):
        return True
    items = cast("Mapping[str, object]", value) if isinstance(value, Mapping) else None
    return items is not None and all(key in call and _equal(call[key], item) for key, item in items.items())


def _equal(one: object, other: object) -> bool:
    try:
        return canonical(folded({"": one})) == canonical(folded({"": other}))
    except UncacheableRequestError:
        return False


def _said(init: dict[str, object]) -> dict[str, object]:
    """Return the parameters of calls in a serialized model."""
    kwargs = init.get("model_kwargs")
    said = {**init, **cast("dict[str, object]", kwargs)} if isinstance(kwargs, dict) else init
    return said if said.get("stop") else {**said, "stop": None}  # an empty list is not sent


def _taken_back(said: dict[str, object], call: dict[str, object]) -> dict[str, None]:
    """Return the parameters of the model that the call resets by None; LangChain does so for `stop` in each call."""
    nulls = [name for name, value in call.items() if value is None and name not in OF_CALLS and name != "stop"]
    return {name: None for name in nulls if _first(said, name) is not None}


def _first(params: Mapping[str, object], name: str) -> object:
    """Return the parameter *name*, which may go by another name."""
    return next((value for one in (name, *_SAME.get(name, ())) if (value := params.get(one)) is not None), None)


def _classes_in(value: object) -> dict[str, type[BaseModel]]:
    """Return the classes that are somewhere in *value*, by their paths."""
    if isinstance(value, type) and issubclass(value, BaseModel):
        return {f"{value.__module__}.{value.__qualname__}": value}
    items: list[object] = []
    if isinstance(value, Mapping):
        items = [*cast("Mapping[object, object]", value).values()]
    elif isinstance(value, list | tuple):
        items = [*cast("list[object]", value)]
    found: dict[str, type[BaseModel]] = {}
    for item in items:
        found.update(_classes_in(item))
    return found


def _name_of(*places: dict[str, object]) -> str | None:
    found = (place.get(key) for place in places for key in ("model_name", "model", "model_id"))
    return next((name for name in found if isinstance(name, str)), None)


def _split(llm_string: str) -> tuple[dict[str, Any], str]:
    """Return the serialized model, empty if there is none, and the text of the call's parameters."""
    if llm_string.startswith("{"):
        try:
            head, end = JSONDecoder().raw_decode(llm_string)
        except ValueError:
            return {}, llm_string
        if is_written_out(head) and llm_string.startswith("---", end):  # written as messages are
            return cast("dict[str, Any]", head), llm_string[end + 3 :]
    return {}, llm_string


def _without(names: frozenset[str], params: dict[str, object]) -> dict[str, object]:
    """Return *params* without *names*, nulls and secrets; whole floats as integers."""
    return folded({name: value for name, value in params.items() if name not in names and not is_secret(value)})


def _refuse_objects(params: object, name: str = "") -> None:
    """Refuse parameters of a serialized model with an object of which LangChain writes only the class."""
    if isinstance(params, dict):
        fields = cast("dict[str, object]", params)
        if fields.get("lc") == 1 and fields.get("type") == "not_implemented":
            raise NoKeyError(name, "holds an object that LangChain does not write out")
        for key, value in fields.items():
            _refuse_objects(value, name or key)
    elif isinstance(params, list):
        for value in cast("list[object]", params):
            _refuse_objects(value, name)
    elif isinstance(params, str) and params.startswith("<") and ADDRESS.search(params):
        raise NoKeyError(name, BY_ADDRESS)
