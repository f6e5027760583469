"""The law of keys, as data and pure functions.

A `Situation` is one way of making and calling a model. A `Variation` is a pair of situations that differ in one thing. An entry point
(`cached(model).invoke`, an agent with the middleware ...) is observed in each situation twice: without a cache, which shows the HTTP
requests (the *wire*), and with one, which shows the key. `judge` compares the two pairs:

- If the wires differ, the keys differ, or the call is not cached and one warning gives the reason.
- If the wires are equal, the keys are equal, or the difference is on the list of misses that are accepted, with its reason.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from importlib import import_module
from typing import Any, Literal, Protocol
from urllib.parse import parse_qsl, urlsplit

How = Literal["given", "other", "assigned", "copied", "taken back", "as before", "environment", "call", "prompt", "bound"]
Change = tuple[Literal["set", "copy"], Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Situation:
    """One way of making and calling a model.

    `fields` are arguments of the constructor beside those that the class always needs, of which it goes `without` some. `environment`
    holds while the model is made and called. `changes` are made after the first use. `call` are arguments of the call, `prompt` names one
    of the subject's prompts, `bound` one of its bindings. `label` is unique among the situations of a class. `{url}` in a text stands for
    the address of the local server.
    """

    label: str
    fields: Mapping[str, Any] = field(default_factory=dict[str, Any])
    without: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    changes: tuple[Change, ...] = ()
    call: Mapping[str, Any] = field(default_factory=dict[str, Any])
    prompt: str = "plain"
    bound: str = ""


BASE = Situation(label="base")


@dataclass(frozen=True)
class Variation:
    """Two situations that differ in *what*. *how* says which kind of difference it is."""

    what: str
    how: How
    one: Situation
    other: Situation

    @property
    def name(self) -> str:
        """The name in reports, for example `temperature (assigned)`."""
        return f"{self.what} ({self.how})"


# --- the wire


@dataclass(frozen=True)
class Raw:
    """An HTTP request as it came in."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Sent:
    """What of an HTTP request may change an answer."""

    method: str
    host: str
    path: str
    query: tuple[tuple[str, str], ...]
    headers: tuple[tuple[str, str], ...]
    body: str


# headers that carry credentials, name the client, or number requests
_ASIDE = frozenset({
    "accept", "accept-encoding", "accept-language", "api-key", "authorization", "cache-control", "connection", "content-length",
    "content-type",    "cookie", "date", "host", "idempotency-key", "openai-organization", "openai-project", "traceparent",
    "transfer-encoding", "user-agent", "x-api-key", "x-client-name", "x-request-id",
    "xi-api-key", "x-fern-language", "x-fern-sdk-name", "x-fern-sdk-version", "x-client-request-id", "expect",
})  # fmt: skip
_ASIDE_PREFIXES = ("amz-sdk-", "x-amz-", "x-amzn-", "x-goog-", "x-stainless-", "x-server-timeout")
# whether an answer comes as a stream is transport: both ways share entries
_STREAMS = {":streamGenerateContent": ":generateContent", "/converse-stream": "/converse", "/invoke-with-response-stream": "/invoke"}
_STREAM_FIELDS = ("stream", "stream_options", "keep_alive")  # the last: how long Ollama keeps the model in memory
_ASIDE_QUERY = frozenset({"alt", "key"})


def sent(raw: Raw) -> Sent:
    """Return what of *raw* may change an answer."""
    headers = {name.lower(): value for name, value in raw.headers.items()}
    parts = urlsplit(raw.path)
    path = parts.path
    for stream, whole in _STREAMS.items():
        path = path.replace(stream, whole)
    kept = {name: value for name, value in headers.items() if name not in _ASIDE and not name.startswith(_ASIDE_PREFIXES)}
    query = [(name, value) for name, value in parse_qsl(parts.query, keep_blank_values=True) if name not in _ASIDE_QUERY]
    return Sent(raw.method, headers.get("host", ""), path, tuple(sorted(query)), tuple(sorted(kept.items())), _body(raw.body))


def _body(body: bytes) -> str:
    """Return *body* so that equal JSON is equal text: nulls at the top and the order of names do not count."""
    try:
        value = json.loads(body)
    except ValueError:
        return repr(body)
    if isinstance(value, dict):
        value = {name: item for name, item in value.items() if item is not None and name not in _STREAM_FIELDS}
        if isinstance(prompt := value.get("prompt"), list) and len(prompt) == 1:  # completions send one prompt in either way
            value["prompt"] = prompt[0]
    return json.dumps(value, sort_keys=True)


# --- observations and verdicts


@dataclass(frozen=True)
class Seen:
    """One entry point in one situation.

    `wire` are the requests without a cache; `key` the key that the same call has with one, None if it is not cached; `warnings` what was
    logged then; `repeats` whether an equal call was answered from the cache. `error` is set if the situation cannot be had.
    """

    wire: tuple[Sent, ...] = ()
    key: str | None = None
    warnings: tuple[str, ...] = ()
    repeats: bool = False
    error: str | None = None


class Verdict(Enum):
    """The result of two observations."""

    DIFFERENT = "the wires differ, and so do the keys"
    EQUAL = "the wires are equal, and so are the keys"
    NOT_CACHED = "not cached, and one warning gives the reason"
    MISS = "the wires are equal, the keys differ"
    WRONG = "the wires differ, the keys are equal"
    SILENT = "not cached, and no single warning gives the reason"
    FORGETFUL = "stored, but an equal call does not find it"
    IMPOSSIBLE = "the situation cannot be had"

    @property
    def breaks_the_law(self) -> bool:
        """Whether this must not be. A miss is allowed where it is listed."""
        return self in {Verdict.WRONG, Verdict.SILENT, Verdict.FORGETFUL}


def judge(one: Seen, other: Seen) -> Verdict:
    """Return the verdict on two observations of one entry point."""
    if one.error or other.error:
        return Verdict.IMPOSSIBLE
    for seen in (one, other):
        if seen.key is not None and not seen.repeats:
            return Verdict.FORGETFUL
    if one.key is None or other.key is None:
        told = [seen for seen in (one, other) if seen.key is None]
        return Verdict.NOT_CACHED if all(len(seen.warnings) == 1 for seen in told) else Verdict.SILENT
    if one.wire == other.wire:
        return Verdict.EQUAL if one.key == other.key else Verdict.MISS
    return Verdict.WRONG if one.key == other.key else Verdict.DIFFERENT


@dataclass(frozen=True)
class Outcome:
    """The verdict on one variation by one entry point."""

    variation: Variation
    entry: str
    verdict: Verdict
    one: Seen
    other: Seen


# --- descriptions of classes


class Entry(Protocol):
    """An entry point."""

    @property
    def name(self) -> str:
        """The name in reports."""
        ...

    def prepare(self, subject: Subject, situation: Situation, url: str, cache: Any) -> Callable[[], object]:
        """Return the call to be observed, of a model made as *situation* says, used once and changed if it says so.

        The model sends its requests to *url*. *cache* is a `TieredCache`, or None for no cache at all.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A class of models, and how the oracle varies it. In a text, `{url}` is replaced by the address of the local
    server, and `{host}` by its host.

    Args:
        name: The class.
        variant: How it is set up, where a class is described more than once.
        module: Where it is imported from. If that is missing, its tests are skipped.
        distribution: What to install for it; its release is reported.
        needs: The constructor arguments that it always gets. They send every request to `{url}`.
        environment: Variables that are always set, for example credentials.
        values: Two values of fields for which none can be found by their type.
        fields: The fields to be varied; None: all that are declared.
        not_varied: Fields that are not varied, with the reason.
        made_with: Two values of arguments of the constructor that are no fields.
        private: Two values of private attributes, which are assigned after the first use.
        calls: Two values of arguments of a call.
        prompts: The prompts of its calls, by name; `plain` is the usual one.
        bound: What is bound to a model before it is called, by name: the entry points know how.
        addresses: The environment variables from which the client takes its address, with a value each.
        address: The arguments in *needs* that hold the address: without them the *addresses* count.
        entries: How it is called.
        misses: Names of variations (`fnmatch`) whose wires are equal and whose keys are not, each with its reason.
    """

    name: str
    variant: str = ""
    module: str
    distribution: str
    needs: Mapping[str, Any]
    entries: tuple[Entry, ...]
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    values: Mapping[str, tuple[Any, Any]] = field(default_factory=dict[str, tuple[Any, Any]])
    fields: tuple[str, ...] | None = None
    not_varied: Mapping[str, str] = field(default_factory=dict[str, str])
    made_with: Mapping[str, tuple[Any, ...]] = field(default_factory=dict[str, tuple[Any, ...]])
    private: Mapping[str, tuple[Any, Any]] = field(default_factory=dict[str, tuple[Any, Any]])
    calls: Mapping[str, tuple[Any, Any]] = field(default_factory=dict[str, tuple[Any, Any]])
    prompts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    bound: Mapping[str, Any] = field(default_factory=dict[str, Any])
    addresses: Mapping[str, str] = field(default_factory=dict[str, str])
    address: tuple[str, ...] = ()
    misses: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def title(self) -> str:
        """The name in reports."""
        return f"{self.name}, {self.variant}" if self.variant else self.name

    def arguments(self, situation: Situation, url: str) -> dict[str, Any]:
        """Return the arguments of the constructor in *situation*."""
        needs = {name: value for name, value in self.needs.items() if name not in situation.without}
        return {name: placed(value, url) for name, value in {**needs, **situation.fields}.items()}


@dataclass(frozen=True)
class Made:
    """An argument that is an object of the class *name* in *module*, made with *arguments*."""

    module: str
    name: str
    arguments: Mapping[str, Any]


def placed(value: Any, url: str) -> Any:
    """Return *value* with *url* for each `{url}` in its texts, and objects made."""
    if isinstance(value, Made):
        return getattr(import_module(value.module), value.name)(**placed(dict(value.arguments), url))
    if isinstance(value, str):
        return value.replace("{url}", url).replace("{host}", url.removeprefix("http://"))
    if isinstance(value, dict):
        return {name: placed(item, url) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(placed(item, url) for item in value)
    return value
