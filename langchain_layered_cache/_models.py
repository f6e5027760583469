"""The model in LangChain's `llm_string`, with the parameters that decide its answer.

They lose, at the top level only, nulls, secrets, and what is about transport (time-outs, retries, clients, streaming, names). All else
counts as it is. Models of the OpenAI family are separated by `OPENAI_BASE_URL`, which LangChain leaves out; it is read when the cache is
asked, not when the model was made.

What LangChain does not say cannot count: a parameter of a model that was changed after its first use, and, for models that are not
written out as JSON (plain LLMs, most models that people write themselves), what they do not name as identifying.
"""

from __future__ import annotations

import itertools
import json
import os
from dataclasses import dataclass, field
from typing import Any, cast

from layered_cache.entry import folded
from pydantic import BaseModel

from langchain_layered_cache._messages import ADDRESS, BY_ADDRESS, is_written_out
from langchain_layered_cache._reprs import NoKeyError, Reader, find_class

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

_BASE_URLS = ("OPENAI_BASE_URL", "OPENAI_API_BASE")


@dataclass(frozen=True, slots=True)
class Model:
    """What an `llm_string` says.

    `number` is no other model's in this process. `environment` names the variables that decide where requests go. `refusal` says why
    requests of this model and these parameters have no key. `classes` are those whose schemas count.
    """

    params: dict[str, object]
    name: str | None
    environment: tuple[str, ...] = ()
    keeps_ids: bool = False
    refusal: str | None = None
    classes: tuple[tuple[str, type[BaseModel]], ...] = ()
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


def parse_model(llm_string: str) -> Model:
    """Return what *llm_string* says. It raises nothing: a text of an unknown form counts as it is."""
    head, call_text = _split(llm_string)
    init = dict(cast("dict[str, object]", head.get("kwargs") or {}))
    reader = Reader(_TRANSPORT_OF_CALLS)
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
    kind = call.get("_type")
    return Model(
        params,
        _name_of(call, init) or (kind if isinstance(kind, str) else None),
        environment=_environment(path, kind, init),
        keeps_ids=bool(call.get("use_previous_response_id", init.get("use_previous_response_id"))),
        classes=tuple(reader.classes.items()),
    )


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
