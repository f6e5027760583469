"""The model in LangChain's `llm_string`, with the parameters that decide its answer.

They lose, at the top level only, nulls, secrets, and what is about transport (time-outs, retries, clients, streaming, names). All else
counts as it is. Models of the OpenAI family are separated by `OPENAI_BASE_URL`, which LangChain leaves out; it is read when the cache is
asked, not when the model was made.

The text may be older than the model: LangChain writes a model out once, and a copy of it, or an attribute that is changed later, does not
show. Inside a call, the parameters as they are now are at hand (`_runs`). What they say and the text does not is added, and so is what
they say no longer; where both say the same, as nearly always, nothing is, so that a call and a bare `update` with the same text meet. They
also hold the classes of which the text shows the name only.

What is not a parameter of calls they do not say: a model whose `use_responses_api`, `use_previous_response_id` or `output_version` is
changed after its first use looks to a cache as it did before, unless the parameters show it.

For models that are not written out as JSON (plain LLMs, most models that people write themselves), what they do not name as identifying
cannot count.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from layered_cache import UncacheableRequestError
from layered_cache.entry import folded
from layered_cache.key_rules import without
from layered_cache.keys import canonical
from pydantic import BaseModel

from langchain_layered_cache._messages import ADDRESS, BY_ADDRESS, is_written_out
from langchain_layered_cache._reprs import NoKeyError, Reader, find_class, schema_of

# what a call may be given that does not change what is answered
_TRANSPORT_OF_CALLS = frozenset({
    "request_timeout", "timeout", "max_retries", "stream", "streaming", "stream_usage", "stream_options", "stream_chunk_timeout",
})  # fmt: skip
# the same of a model that LangChain writes out; one that it does not may mean anything by these names
_TRANSPORT_OF_MODELS = _TRANSPORT_OF_CALLS | {
    "default_request_timeout", "retries", "stop_after_attempt", "http_client", "http_async_client", "http_socket_options", "client",
    "async_client", "root_client", "root_async_client", "disable_streaming", "name", "verbose", "cache", "callbacks", "rate_limiter",
    "custom_get_token_ids", "profile", "azure_ad_token_provider", "azure_ad_async_token_provider", "credentials",
}  # fmt: skip

# by which other names of the model its parameters of a call may go
_SAME = {
    "model": ("model_name", "model_id"),
    "model_name": ("model", "model_id"),
    "azure_deployment": ("deployment_name",),
    "max_tokens": ("max_completion_tokens", "max_output_tokens", "max_tokens_to_sample", "num_predict"),
    "max_completion_tokens": ("max_tokens",),
    "max_output_tokens": ("max_tokens",),
}
# of these it is known that a model which has one sends it: if it is not there, somebody has taken it back
_ALWAYS_SENT = frozenset({
    "model", "model_name", "temperature", "top_p", "top_k", "seed", "max_tokens", "n", "presence_penalty", "frequency_penalty",
    "logit_bias", "logprobs", "top_logprobs", "stop", "reasoning_effort", "reasoning", "verbosity", "service_tier", "extra_body",
    "include", "truncation", "store", "context_management", "prompt_cache_options",
})  # fmt: skip
_VARIANTS = 8  # of the parameters under one text, remembered

_BASE_URLS = ("OPENAI_BASE_URL", "OPENAI_API_BASE")


@dataclass(frozen=True, slots=True)
class Model:
    """What an `llm_string` says.

    `number` is no other model's in this process. `environment` names the variables that decide where requests go. `refusal` says why
    requests of this model and these parameters have no key. `classes` are those whose schemas count and that were found by their names;
    `holds_classes`: whether any do, which the text does not show.
    """

    params: dict[str, object]
    name: str | None
    environment: tuple[str, ...] = ()
    keeps_ids: bool = False
    refusal: str | None = None
    classes: tuple[tuple[str, type[BaseModel]], ...] = ()
    holds_classes: bool = False
    number: int = field(default_factory=itertools.count().__next__, compare=False)

    @property
    def is_current(self) -> bool:
        """Whether the classes that its text names are still the same ones: a notebook defines one again and again."""
        return all(find_class(path) is found for path, found in self.classes)

    def reading(self, prompt: str) -> tuple[object, ...]:
        """Return what stands for *prompt* under this model, as it and the environment are now: for a memo, not for a key."""
        if not self.environment:
            return (prompt, self.number)
        return (prompt, self.number, *[os.environ.get(name) for name in self.environment])


class KnownModel:
    """The models that one `llm_string` stands for: nearly always one."""

    def __init__(self, llm_string: str, ignore: frozenset[str] = frozenset()) -> None:
        self._text = llm_string
        self._ignore = ignore
        self._plain = parse_model(llm_string, ignore=ignore)
        head, call_text = _split(llm_string)
        reader = Reader(_TRANSPORT_OF_CALLS | ignore)
        # what the text of the call says by itself, which is written anew for each call
        self._said = reader.literals(call_text) | _TRANSPORT_OF_CALLS | ignore
        self._is_all = not head and reader.read_all
        self._variants: list[_Variant] = []

    def now(self, params: Mapping[str, object] | None) -> Model:
        """Return the model in a call with *params*; None: there is no call that would show them."""
        if params is None or self._is_all:
            if self._plain.classes and not self._plain.is_current:
                self._plain = parse_model(self._text, ignore=self._ignore)
            return self._plain
        said = self._said
        rest = {name: value for name, value in params.items() if name not in said}
        for variant in self._variants:
            if variant.is_of(rest):
                return variant.model
        model = parse_model(self._text, rest, self._ignore)
        self._variants = [_Variant(rest, model), *self._variants[: _VARIANTS - 1]]
        return model


class _Variant:
    """The model under one text with some *params*. To find it again is a part of each call."""

    def __init__(self, params: dict[str, object], model: Model) -> None:
        self.model = model
        self._params = params
        # what may be equal and yet another: to Python 1 is True, and 1.0; and a list that is changed in place is equal to itself
        self._open = [name for name, value in params.items() if type(value) is not str and not isinstance(value, type | None)]
        self._shown = self._texts(params)

    def is_of(self, params: dict[str, object]) -> bool:
        """Whether it is what its text and *params* say."""
        if self._params != params or (self.model.classes and not self.model.is_current):
            return False
        return not self._open or self._texts(params) == self._shown

    def _texts(self, params: dict[str, object]) -> list[str]:
        return [repr(params[name]) for name in self._open]


def parse_model(llm_string: str, now: Mapping[str, object] | None = None, ignore: frozenset[str] = frozenset()) -> Model:
    """Return the model of *llm_string*, with the parameters as they are *now*, without those in *ignore*.

    It raises nothing: a text of an unknown form counts as it is.
    """
    head, call_text = _split(llm_string)
    init = without(cast("dict[str, object]", head.get("kwargs") or {}), ignore)
    reader = Reader(_TRANSPORT_OF_CALLS | ignore, _classes_in(now))
    try:
        call = without(reader.params(call_text), ignore)
        said = _said(init)
        params: dict[str, object] = {
            "model": _without(_TRANSPORT_OF_MODELS, init),
            "call": _without(_TRANSPORT_OF_CALLS, call) | _taken_back(said, call),
        }
        _refuse_objects(params["model"])
    except NoKeyError as error:
        return Model({}, None, refusal=str(error), classes=tuple(reader.classes.items()))
    path = cast("list[str]", head.get("id") or [])
    if path:
        params["class"] = path
    changed: dict[str, object] = {}
    if now is not None and head and (changed := _changed(init, call, without(now, ignore))):
        params["changed"] = changed
    kind = call.get("_type")
    return Model(
        params,
        _name_of(call, changed, init) or (kind if isinstance(kind, str) else None),
        environment=_environment(path, kind, init),
        keeps_ids=bool(call.get("use_previous_response_id", init.get("use_previous_response_id"))),
        classes=tuple(reader.classes.items()),
        holds_classes=reader.met_classes,
    )


def _said(init: dict[str, object]) -> dict[str, object]:
    """Return the parameters of calls that a model as it was written out says."""
    kwargs = init.get("model_kwargs")
    said = {**init, **cast("dict[str, object]", kwargs)} if isinstance(kwargs, dict) else init
    return said if said.get("stop") else {**said, "stop": None}  # an empty list is not sent


def _taken_back(said: dict[str, object], call: dict[str, object]) -> dict[str, None]:
    """Return what the model says and the call says is not to be sent; of `stop`, LangChain says it in each."""
    nulls = [name for name, value in call.items() if value is None and name not in _TRANSPORT_OF_CALLS and name != "stop"]
    return {name: None for name in nulls if _first(said, name) is not None}


def _changed(init: dict[str, object], call: dict[str, object], now: Mapping[str, object]) -> dict[str, object]:
    """Return what the parameters *now* say that neither the model as it was written out nor the call does; None: it is gone."""
    said = _said(init)
    changed: dict[str, object] = {}
    for name, value in now.items():
        if value is None or call.get(name) is not None or name in _TRANSPORT_OF_MODELS or name.startswith("_"):
            continue
        if (plain := _plain(value)) is not None and not _equal(_first(said, name), plain):
            changed[name] = plain
    told = call if call.get("stop") is not None else call.keys() - {"stop"}
    for name in _ALWAYS_SENT | _passed_on(init, now):
        names = (name, *_SAME.get(name, ()))
        if said.get(name) is not None and _first(now, name) is None and not any(one in told for one in names):
            changed[name] = None
    return changed


def _passed_on(init: dict[str, object], now: Mapping[str, object]) -> set[str]:
    """Return the names of what a model sends as if it were its own; some send all of it as one parameter."""
    kwargs = init.get("model_kwargs")
    if not isinstance(kwargs, dict) or "model_kwargs" in now:
        return set()
    return {*cast("dict[str, object]", kwargs)} - _TRANSPORT_OF_MODELS


def _first(params: Mapping[str, object], name: str) -> object:
    """Return the parameter *name*, which may go by another name."""
    return next((value for one in (name, *_SAME.get(name, ())) if (value := params.get(one)) is not None), None)


def _plain(value: object) -> object:
    """Return what of *value* can be a part of a key; None for what has no text: that was never in the text of the model either."""
    if isinstance(value, type):
        return schema_of(value) if issubclass(value, BaseModel) else None
    try:
        canonical(value)
    except UncacheableRequestError:
        return None
    return value


def _equal(said: object, now: object) -> bool:
    return said is not None and canonical(folded({"": said})) == canonical(folded({"": now}))


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
            head, end = json.JSONDecoder().raw_decode(llm_string)
        except ValueError:
            return {}, llm_string
        if is_written_out(head) and llm_string.startswith("---", end):  # written as messages are
            return cast("dict[str, Any]", head), llm_string[end + 3 :]
    return {}, llm_string


def _environment(path: list[str], kind: object, init: dict[str, object]) -> tuple[str, ...]:
    if "openai" in path and init.get("openai_api_base") is None and init.get("base_url") is None:
        return _BASE_URLS[:1]  # the other one LangChain knows
    return _BASE_URLS if isinstance(kind, str) and kind.startswith("openai") else ()


def _without(names: frozenset[str], params: dict[str, object]) -> dict[str, object]:
    """Return *params* without *names*, nulls and secrets; whole floats as integers."""
    return folded({name: value for name, value in params.items() if name not in names and not _is_secret(value)})


def _is_secret(value: object) -> bool:
    return isinstance(value, dict) and cast("dict[str, object]", value).get("type") == "secret" and "lc" in value


def _refuse_objects(params: object, name: str = "") -> None:
    """Refuse parameters of a serialized model that hold an object of which LangChain says no more than its class."""
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
