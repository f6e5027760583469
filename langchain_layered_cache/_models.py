"""The model in LangChain's `llm_string`, with the parameters that decide its answer.

They lose, at the top level only, nulls, secrets, and what is about transport (time-outs, retries, clients, streaming, names). All else
counts as it is. Models of the OpenAI family are separated by `OPENAI_BASE_URL`, which LangChain leaves out; it is read when the cache is
asked, not when the model was made.

The text may be older than the model: LangChain writes a model out once, and a copy of it, or an attribute that is changed later, does not
show. Inside a call, the parameters as they are now are at hand (`_runs`). What they say and the text does not is added; where both say the
same, as nearly always, nothing is, so that a call and a bare `update` with the same text meet. They also hold the classes of which the
text shows the name only.

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
    "model": ("model_name", "model_id", "deployment_name", "azure_deployment"),
    "model_name": ("model", "model_id", "deployment_name", "azure_deployment"),
    "max_tokens": ("max_completion_tokens", "max_output_tokens", "max_tokens_to_sample", "num_predict"),
    "max_completion_tokens": ("max_tokens",),
    "max_output_tokens": ("max_tokens",),
}
# of these it is known that a model which has one sends it: if it is not there, somebody has taken it back
_ALWAYS_SENT = (
    "temperature", "top_p", "top_k", "seed", "max_tokens", "n", "presence_penalty", "frequency_penalty", "logit_bias", "logprobs",
    "top_logprobs", "reasoning_effort", "reasoning", "verbosity", "service_tier", "extra_body",
)  # fmt: skip
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

    def __init__(self, llm_string: str) -> None:
        self._text = llm_string
        self._plain = parse_model(llm_string)
        head, call_text = _split(llm_string)
        reader = Reader(_TRANSPORT_OF_CALLS)
        # what the text of the call says by itself, which is written anew for each call
        self._said = reader.literals(call_text) | _TRANSPORT_OF_CALLS
        self._is_all = not head and reader.read_all
        self._variants: list[tuple[dict[str, object], Model]] = []

    def now(self, params: Mapping[str, object] | None) -> Model:
        """Return the model in a call with *params*; None: there is no call that would show them."""
        if params is None or self._is_all:
            if self._plain.classes and not self._plain.is_current:
                self._plain = parse_model(self._text)
            return self._plain
        said = self._said
        rest = {name: value for name, value in params.items() if name not in said}
        for seen, model in self._variants:
            if seen == rest and (not model.classes or model.is_current):
                return model
        model = parse_model(self._text, rest)
        self._variants = [(cast("dict[str, object]", _copied(rest)), model), *self._variants[: _VARIANTS - 1]]
        return model


def _copied(value: object) -> object:
    """Return *value* so that whoever changes a list or a dictionary in it later does not change this."""
    if isinstance(value, dict):
        return {name: _copied(item) for name, item in cast("dict[object, object]", value).items()}
    return [_copied(item) for item in cast("list[object]", value)] if isinstance(value, list) else value


def parse_model(llm_string: str, now: Mapping[str, object] | None = None) -> Model:
    """Return what *llm_string* says, and what the parameters as they are *now* say beyond it.

    It raises nothing: a text of an unknown form counts as it is.
    """
    head, call_text = _split(llm_string)
    init = dict(cast("dict[str, object]", head.get("kwargs") or {}))
    reader = Reader(_TRANSPORT_OF_CALLS, _classes_in(now))
    try:
        call = reader.params(call_text)
        params: dict[str, object] = {
            "model": _without(_TRANSPORT_OF_MODELS, init),
            "call": _without(_TRANSPORT_OF_CALLS, call),
        }
        _refuse_objects(params["model"])
    except NoKeyError as error:
        return Model({}, None, refusal=str(error), classes=tuple(reader.classes.items()))
    path = cast("list[str]", head.get("id") or [])
    if path:
        params["class"] = path
    changed: dict[str, object] = {}
    if now is not None and head and (changed := _changed(init, call, now)):
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


def _changed(init: dict[str, object], call: dict[str, object], now: Mapping[str, object]) -> dict[str, object]:
    """Return what the parameters *now* say that neither the model as it was written out nor the call does; None: it is gone."""
    kwargs = init.get("model_kwargs")
    said = {**init, **cast("dict[str, object]", kwargs)} if isinstance(kwargs, dict) else init
    changed: dict[str, object] = {}
    for name, value in now.items():
        if value is None or name in call or name in _TRANSPORT_OF_MODELS or name.startswith("_"):
            continue
        if (plain := _plain(value)) is not None and not any(_equal(said.get(one), plain) for one in (name, *_SAME.get(name, ()))):
            changed[name] = plain
    for name in _ALWAYS_SENT:
        if said.get(name) is not None and name not in call and all(now.get(one) is None for one in (name, *_SAME.get(name, ()))):
            changed[name] = None
    return changed


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
