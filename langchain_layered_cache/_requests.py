"""From LangChain's `prompt` and `llm_string` to a `Request`: what decides the answer, and nothing that does not.

LangChain hands a cache two texts: the messages (or the prompt of a plain LLM), and the model with its parameters. Taken as they are,
they change with message ids, token counts of earlier turns, time-outs and releases, so that a conversation never hits; and they
leave out where the requests go. What is made of them here:

Messages keep their type, content, name, tool calls, tool results and additional fields. They lose ids, usage, response metadata (but
for what steers how content is read) and artifacts, which no model sees. Ids of tool calls are numbered in the order in which they
appear: providers draw them at random.

Parameters lose, at the top level only, nulls, secrets, and what is about transport (time-outs, retries, clients, streaming, names). All
else counts as it is. A parameter with an object in it that has no lasting text makes the request uncacheable. A class (a schema of
structured output) counts by its schema. Models of the OpenAI family are separated by `OPENAI_BASE_URL`, which LangChain leaves out.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from layered_cache import Request, UncacheableRequestError
from layered_cache.keys import feed
from pydantic import BaseModel

FRAMEWORK = "langchain"

# parameters that do not change what a model answers; only at the top level of a model's or a call's parameters
TRANSPORT = frozenset({
    "request_timeout", "timeout", "default_request_timeout", "max_retries", "retries", "stop_after_attempt", "http_client",
    "http_async_client", "http_socket_options", "client", "async_client", "root_client", "root_async_client", "streaming",
    "disable_streaming", "stream", "stream_usage", "stream_options", "stream_chunk_timeout", "name", "verbose", "cache",
    "callbacks", "rate_limiter", "custom_get_token_ids", "profile", "azure_ad_token_provider", "azure_ad_async_token_provider",
    "credentials",
})  # fmt: skip

_BASE_URLS = ("OPENAI_BASE_URL", "OPENAI_API_BASE")
_MESSAGES_START = re.compile(r'\s*\[\s*\{\s*"lc"')
_MESSAGE_PATH = ["langchain", "schema", "messages"]
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_CLASS = re.compile(r"<class '([\w.<>]+)'>")
_BY_ADDRESS = "holds an object that is known only by its address in memory"
_ENUM = re.compile(r"<[\w.]+: [^<>]*>")
_NO_ANSWER_DEPENDS_ON_IT = ("id", "usage_metadata", "artifact", "tool_call_chunks", "chunk_position", "example", "type")


@dataclass(frozen=True, slots=True)
class Model:
    """What an `llm_string` says.

    `digest` has been fed the text. `environment` names the variables that decide where requests go. `refusal` says why requests of
    this model and these parameters have no key.
    """

    params: dict[str, object]
    name: str | None
    digest: Any
    environment: tuple[str, ...] = ()
    keeps_ids: bool = False
    refusal: str | None = None

    def raw_digest(self, prompt: str) -> bytes:
        """Return 32 bytes that stand for *prompt* under this model, by the letter: for a memo, not for a key."""
        digest = self.digest.copy()
        for name in self.environment:
            digest.update(os.environ.get(name, "").encode("utf-8", "surrogateescape") + b"\0")
        feed(digest, prompt.encode("utf-8", "surrogatepass"))
        return cast("bytes", digest.digest())


def to_request(prompt: str, model: Model) -> Request:
    """Return what *prompt* asks of *model*.

    Raises:
        UncacheableRequestError: No lasting key can be made of it.
    """
    if model.refusal is not None:
        raise UncacheableRequestError(model.refusal)
    params = model.params
    if model.environment and (at := {name: os.environ[name] for name in model.environment if os.environ.get(name)}):
        params = {**params, "environment": at}
    return Request(
        canonical_prompt(prompt, keep_ids=model.keeps_ids),
        model=model.name,
        params=params,
        framework=FRAMEWORK,
    )


# --- messages


def canonical_prompt(prompt: str, *, keep_ids: bool = False) -> object:
    """Return the messages in *prompt* as plain data; a text that holds none as it is.

    Raises:
        UncacheableRequestError: A message holds an object that has no lasting text.
    """
    if not _MESSAGES_START.match(prompt):
        return prompt
    try:
        messages = cast("list[object]", json.loads(prompt))  # not orjson: it reads long numbers as something near
    except (ValueError, RecursionError):
        return prompt
    if '"not_implemented"' in prompt and _known_by_address(messages):
        msg = f"a message {_BY_ADDRESS}"
        raise UncacheableRequestError(msg)
    if not all(_is_written_out(message) for message in messages):
        return prompt
    ids = _Ids(renumber=not keep_ids)
    return [_canonical_message(cast("dict[str, Any]", message), ids) for message in messages]


def _is_written_out(item: object) -> bool:
    if not isinstance(item, dict):
        return False
    message = cast("dict[str, object]", item)
    return message.get("lc") == 1 and message.get("type") == "constructor" and isinstance(message.get("kwargs"), dict)


def _known_by_address(value: object) -> bool:
    """Whether *value* holds something that LangChain did not write out and whose text is its address."""
    if isinstance(value, dict):
        fields = cast("dict[str, object]", value)
        if fields.get("lc") == 1 and fields.get("type") == "not_implemented":
            return _ADDRESS.search(str(fields.get("repr"))) is not None
        return any(map(_known_by_address, fields.values()))
    return isinstance(value, list) and any(map(_known_by_address, cast("list[object]", value)))


class _Ids:
    """Names tool calls by the order in which they appear."""

    def __init__(self, *, renumber: bool) -> None:
        self.renumber = renumber
        self._names: dict[str, str] = {}

    def of_call(self, identity: object) -> object:
        """Return the name of a call."""
        if not self.renumber or not isinstance(identity, str):
            return identity
        return self._names.setdefault(identity, f"call {len(self._names)}")

    def if_call(self, identity: object) -> object:
        """Return the name of *identity* if it is a call's, else *identity*."""
        return self._names.get(identity, identity) if isinstance(identity, str) else identity


def _canonical_message(item: dict[str, Any], ids: _Ids) -> dict[str, object]:
    path, fields = item["id"], dict(item["kwargs"])
    standard = path[:3] == _MESSAGE_PATH and len(path) == 4  # noqa: PLR2004
    kind: object = path[-1].replace("MessageChunk", "Message") if standard else path
    kind = {"HumanMessage": "human", "AIMessage": "ai", "SystemMessage": "system", "ToolMessage": "tool"}.get(str(kind), kind)
    metadata: dict[str, object] = fields.pop("response_metadata", None) or {}
    identity = fields.get("id")
    for name in _NO_ANSWER_DEPENDS_ON_IT:
        fields.pop(name, None)
    message: dict[str, object] = {"type": kind}
    kept = {name: metadata[name] for name in ("model_provider", "output_version") if metadata.get(name) is not None}
    if not ids.renumber:  # the provider keeps the conversation, and these ids say which
        kept.update((name, metadata[name]) for name in ("id",) if name in metadata)
        if identity is not None:
            message["id"] = identity
    if kept:
        message["response_metadata"] = kept
    for name in ("tool_calls", "invalid_tool_calls"):
        if calls := fields.pop(name, None):
            message[name] = [_canonical_call(call, ids) for call in calls]
    if additional := _canonical_additional(fields.pop("additional_kwargs", None) or {}, ids):
        message["additional_kwargs"] = additional
    if "tool_call_id" in fields:
        message["tool_call_id"] = ids.of_call(fields.pop("tool_call_id"))
    content: object = fields.pop("content", None)
    blocks = cast("list[object]", content) if isinstance(content, list) else None
    message["content"] = content if blocks is None else [_canonical_block(block, ids) for block in blocks]
    message.update((name, value) for name, value in fields.items() if value is not None)
    return message


def _canonical_additional(additional: dict[str, Any], ids: _Ids) -> dict[str, object]:
    """Return provider's own fields without `parsed`, which the content says already."""
    kept = {name: value for name, value in additional.items() if name != "parsed"}
    if isinstance(kept.get("tool_calls"), list):
        calls = cast("list[object]", kept["tool_calls"])
        kept["tool_calls"] = [_canonical_call(cast("dict[str, object]", call), ids) if isinstance(call, dict) else call for call in calls]
    return kept


def _canonical_call(call: dict[str, object], ids: _Ids) -> dict[str, object]:
    return {**call, "id": ids.of_call(call.get("id"))}


def _canonical_block(block: object, ids: _Ids) -> object:
    if not isinstance(block, dict):
        return block
    fields = cast("dict[str, object]", block)
    names = fields.keys() & {"id", "call_id", "tool_use_id", "tool_call_id"}
    return {**fields, **{name: ids.if_call(fields[name]) for name in names}} if names else fields


# --- models and parameters


def parse_model(llm_string: str) -> Model:
    """Return what *llm_string* says. It raises nothing: a text of an unknown form counts as it is."""
    digest = hashlib.sha256(len(llm_string).to_bytes(8, "big"))
    digest.update(llm_string.encode("utf-8", "surrogatepass"))
    head, call_text = _split(llm_string)
    init = dict(cast("dict[str, object]", head.get("kwargs") or {}))
    try:
        call = dict(_call_params(call_text))
        params = {"model": _without_transport(init), "call": _without_transport(call)}
        _refuse_objects(params["model"])
    except _NoKeyError as error:
        return Model({}, None, digest, refusal=str(error))
    path = cast("list[str]", head.get("id") or [])
    if path:
        params["class"] = path  # type: ignore[assignment]
    name = next(
        (value for place in (call, init) for key in ("model_name", "model", "model_id") if isinstance(value := place.get(key), str)), None
    )
    kind = call.get("_type")
    return Model(
        cast("dict[str, object]", params),
        name or (kind if isinstance(kind, str) else None),
        digest,
        environment=_environment(path, kind, init),
        keeps_ids=bool(call.get("use_previous_response_id", init.get("use_previous_response_id"))),
    )


def _split(llm_string: str) -> tuple[dict[str, Any], str]:
    """Return the serialized model, empty if there is none, and the text of the call's parameters."""
    if llm_string.startswith("{"):
        try:
            head, end = json.JSONDecoder().raw_decode(llm_string)
        except ValueError:
            return {}, llm_string
        if _is_written_out(head) and llm_string.startswith("---", end):  # written as messages are
            return cast("dict[str, Any]", head), llm_string[end + 3 :]
    return {}, llm_string


def _environment(path: list[str], kind: object, init: dict[str, object]) -> tuple[str, ...]:
    if "openai" in path and init.get("openai_api_base") is None and init.get("base_url") is None:
        return _BASE_URLS[:1]  # the other one LangChain knows
    return _BASE_URLS if isinstance(kind, str) and kind.startswith("openai") else ()


def _without_transport(params: dict[str, object]) -> dict[str, object]:
    """Return *params* without what does not decide the answer; whole floats as integers."""
    kept = {name: value for name, value in params.items() if value is not None and name not in TRANSPORT and not _is_secret(value)}
    return {
        name: int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value
        for name, value in kept.items()
    }


def _is_secret(value: object) -> bool:
    return isinstance(value, dict) and cast("dict[str, object]", value).get("type") == "secret" and "lc" in value


def _refuse_objects(params: object, name: str = "") -> None:
    """Refuse parameters of a serialized model that hold an object of which LangChain says no more than its class."""
    if isinstance(params, dict):
        fields = cast("dict[str, object]", params)
        if fields.get("lc") == 1 and fields.get("type") == "not_implemented":
            raise _NoKeyError(name, "holds an object that LangChain does not write out")
        for key, value in fields.items():
            _refuse_objects(value, name or key)
    elif isinstance(params, list):
        for value in cast("list[object]", params):
            _refuse_objects(value, name)
    elif isinstance(params, str) and params.startswith("<") and _ADDRESS.search(params):
        raise _NoKeyError(name, _BY_ADDRESS)


class _NoKeyError(Exception):
    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"the parameter {name!r} {why}")


def _call_params(text: str) -> Iterator[tuple[str, object]]:
    """Yield the parameters in the text of a sorted list of pairs; a text of another form counts as it is."""
    try:
        pairs: object = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        pairs = [(name, _value(name, value)) for name, value in _split_pairs(text)]
        if not pairs and _ADDRESS.search(text):
            raise _NoKeyError(name="llm_string", why=_BY_ADDRESS) from None
    found = cast("list[object]", pairs) if isinstance(pairs, list) else []
    if found and all(isinstance(pair, tuple) and len(cast("tuple[object, ...]", pair)) == 2 for pair in found):  # noqa: PLR2004
        yield from cast("list[tuple[str, object]]", found)
    else:
        yield "text", text


def _value(name: str, text: str) -> object:
    """Return the value that *text* shows; what Python cannot read back counts by its text, if that text lasts."""
    try:
        return cast("object", ast.literal_eval(text))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        pass
    if name in TRANSPORT:
        return None
    if _ADDRESS.search(text):
        raise _NoKeyError(name, _BY_ADDRESS)
    schemas = [_schema(name, path) for path in _CLASS.findall(text)]
    rest = _ENUM.sub("", _CLASS.sub("", text))
    if "<" in rest or "..." in rest:
        raise _NoKeyError(name, "holds an object whose text does not say all of it")
    return ("text", text, *schemas)


def _schema(name: str, path: str) -> object:
    """Return what the class at *path* looks like: two of one name may differ."""
    parts = path.split(".")
    for end in range(len(parts) - 1, 0, -1):
        found: Any = sys.modules.get(".".join(parts[:end]))
        for part in parts[end:] if found is not None else ():
            found = getattr(found, part, None)
        if isinstance(found, type) and issubclass(found, BaseModel):
            return json.dumps(found.model_json_schema(), sort_keys=True)
    raise _NoKeyError(name, f"is the class {path}, whose schema cannot be found by that name; pass its JSON schema instead")


def _split_pairs(text: str) -> Iterator[tuple[str, str]]:
    """Yield name and text of each pair in the text of a list of pairs, also if Python cannot read the values."""
    if not (text.startswith("[(") and text.endswith(")]")):
        return
    starts = [match for match in re.finditer(r"(?:^\[|\), )\('(\w+)', ", text) if _balanced(text[1 : match.start() + 1])]
    for match, following in zip(starts, [*starts[1:], None], strict=True):
        end = following.start() if following is not None else len(text) - 2
        yield match[1], text[match.end() : end]


def _balanced(text: str) -> bool:
    """Whether every bracket and quote in *text* is closed."""
    depth, quote, skip = 0, "", False
    for sign in text:
        if skip:
            skip = False
        elif quote:
            skip = sign == "\\"
            quote = "" if sign == quote else quote
        elif sign in "'\"":
            quote = sign
        else:
            depth += (sign in "([{") - (sign in ")]}")
    return depth == 0 and not quote
