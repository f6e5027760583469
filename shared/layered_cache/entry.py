"""Requests, answers and entries.

A key is derived from a `Request`. A caller passes an `Answer` to be stored. A tier stores an
`Entry` under a key. All are frozen and contain no mutable object of the caller.

Times are Unix seconds in whole microseconds, so every store can represent them exactly. An entry is
*fresh* before `fresh_until`, *stale* between `fresh_until` and `keep_until`, and *expired* after
that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, cast

from layered_cache._util.durations import Duration, seconds
from layered_cache.errors import ConfigurationError, UncacheableRequestError
from layered_cache.keys import keys

Finish = Literal["stop", "length", "filter", "tool"]
FINISHES: tuple[Finish, ...] = ("stop", "length", "filter", "tool")

_new = object.__new__
NO_PROMPT = bytes(keys.PROMPT_DIGEST_BYTES)


def whole_microseconds(clock: float) -> float:
    """Return *clock* as a float of whole microseconds, as stores return it."""
    return round(clock * 1e6) / 1e6


class Ticket(NamedTuple):
    """A position in the invalidation log: the `born` of an entry.

    `epoch` identifies the log, and `seq` is the newest known rule. Epochs of zero and below mean
    that the log was not read or does not exist. They are never stored outside of the process.
    """

    epoch: int
    seq: int


@dataclass(frozen=True, slots=True)
class Usage:
    """The tokens of an answer."""

    input_tokens: int = 0
    output_tokens: int = 0

    def __post_init__(self) -> None:
        if type(self.input_tokens) is type(self.output_tokens) is int and self.input_tokens >= 0 <= self.output_tokens:
            # fast path: every entry that is read has a usage
            return
        for name in ("input_tokens", "output_tokens"):
            tokens = getattr(self, name)
            if type(tokens) is not int or tokens < 0:
                msg = f"{name} must be a whole number >= 0, got {tokens!r}"
                raise ConfigurationError(msg)


class Savings(NamedTuple):
    """The savings of a hit."""

    tokens: int
    cost_usd: float
    seconds: float


class Request:
    """A prompt and all parameters that affect its answer. Equal requests have equal keys.

    Args:
        framework: The framework that built the request (`"langchain"`, `"llamaindex"`, or the name
            of an application). Requests of different frameworks never share a key.
        model: The name of the model, for invalidation and reports. It is a part of the key.
        prompt: A text, or messages as plain data.
        params: All other parameters that affect the answer. At the top level, nulls are dropped and
            `1.0` equals `1`.
        sample: 0, 1, 2 ... for callers that want several answers to one prompt.

    Raises:
        UncacheableRequestError: If it contains an object without a lasting text.
    """

    __slots__ = ("_params", "_prompt", "_question", "framework", "model", "sample")

    framework: str
    model: str | None
    sample: int
    _prompt: bytes
    _params: bytes
    _question: bytes

    def __init__(
        self,
        prompt: object,
        *,
        model: str | None = None,
        params: Mapping[str, object] | None = None,
        framework: str = "",
        sample: int = 0,
    ) -> None:
        if not isinstance(framework, str) or not isinstance(model, str | None) or type(sample) is not int:  # pyright: ignore[reportUnnecessaryIsInstance]
            msg = f"framework and model must be texts and sample a number, got {framework!r}, {model!r}, {sample!r}"
            raise ConfigurationError(msg)
        put = object.__setattr__
        put(self, "framework", framework)
        put(self, "model", model)
        put(self, "sample", sample)
        put(self, "_prompt", keys.canonical(prompt, "the prompt"))
        put(self, "_params", _canonical_params(folded(params or {})))
        put(self, "_question", last_question(prompt))

    def __setattr__(self, name: str, value: object) -> None:
        msg = f"a Request cannot be changed: {name}"
        raise AttributeError(msg)

    def __delattr__(self, name: str) -> None:
        self.__setattr__(name, None)

    def __reduce__(self) -> tuple[object, ...]:
        parts = (self.framework, self.model, self.sample, self._prompt, self._params, self._question)
        return (_restored_request, parts)

    @property
    def canonical_prompt(self) -> bytes:
        """The prompt as canonical JSON."""
        return self._prompt

    @property
    def canonical_params(self) -> bytes:
        """The parameters as canonical JSON."""
        return self._params

    @property
    def prompt(self) -> object:
        """The prompt as plain data, a new copy each time."""
        return keys.read_json(self._prompt)

    @property
    def params(self) -> dict[str, object]:
        """The parameters as plain data, a new copy each time."""
        return cast("dict[str, object]", keys.read_json(self._params))

    @property
    def prompt_digest(self) -> bytes:
        """The digest of the last user message, in 16 bytes."""
        return self._question

    def with_prompt_digest(self, digest: bytes) -> Request:
        """Return an equal request with *digest* as its `prompt_digest`."""
        return _restored_request(self.framework, self.model, self.sample, self._prompt, self._params, digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Request) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[object, ...]:
        return (self.framework, self.model, self.sample, self._prompt, self._params)

    def __repr__(self) -> str:
        return f"Request(framework={self.framework!r}, model={self.model!r}, {len(self._prompt)} bytes of prompt)"


def _restored_request(*parts: object) -> Request:
    request = object.__new__(Request)
    for name, part in zip(("framework", "model", "sample", "_prompt", "_params", "_question"), parts, strict=True):
        object.__setattr__(request, name, part)
    return request


def folded(params: Mapping[str, object]) -> dict[str, object]:
    """Return *params* without top-level nulls, and with whole floats as integers.

    Providers treat both forms as equal.
    """
    return {name: _whole(value) for name, value in params.items() if value is not None}


def _canonical_params(params: dict[str, object]) -> bytes:
    try:
        return keys.canonical(params, "a parameter")
    except UncacheableRequestError:
        # find the parameter
        for name, value in params.items():
            keys.canonical(value, f"the parameter {name!r}")
        raise


def _whole(value: object) -> object:
    whole = type(value) is float and value.is_integer() and abs(value) < 2**53
    return int(cast("float", value)) if whole else value


def last_question(prompt: object) -> bytes:
    """Return the digest of the last user message. A text prompt is the message."""
    if isinstance(prompt, str):
        return keys.prompt_digest(prompt)
    if isinstance(prompt, list):
        for message in reversed(cast("list[object]", prompt)):
            if isinstance(message, Mapping):
                fields = cast("Mapping[object, object]", message)
                if (fields.get("role") or fields.get("type")) in ("user", "human"):
                    return keys.prompt_digest(fields.get("content"))
    return NO_PROMPT


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """The stored form of an answer. `value` is the encoding of the adapter, named by `codec`.

    `request` and `response` are for people who read a readable tier. A tier need not return them,
    so they are ignored when entries are compared.
    """

    key: str
    value: bytes = field(repr=False)
    codec: str = ""
    namespace: str = ""
    model: str | None = None
    tags: tuple[str, ...] = ()
    prompt_digest: bytes = field(default=NO_PROMPT, repr=False)
    created_at: float
    fresh_until: float
    keep_until: float
    born: Ticket
    finish: Finish | None = None
    usage: Usage | None = None
    cost_usd: float | None = None
    compute_seconds: float | None = None
    request: Request | None = field(default=None, compare=False, repr=False)
    response: str | None = field(default=None, compare=False, repr=False)

    def is_fresh(self, now: float) -> bool:
        """Return True if the entry may be served without a refresh at Unix time *now*."""
        return now < self.fresh_until

    def is_live(self, now: float) -> bool:
        """Return True if the entry has not expired at Unix time *now*."""
        return now < self.keep_until

    @property
    def savings(self) -> Savings:
        """The savings of a hit. Unknown values count as zero."""
        usage = self.usage
        tokens = usage.input_tokens + usage.output_tokens if usage is not None else 0
        return Savings(tokens, self.cost_usd or 0.0, self.compute_seconds or 0.0)

    def unreadable(self) -> Entry:
        """Return the entry without the fields for people."""
        if self.request is None and self.response is None:
            return self
        return dataclasses.replace(self, request=None, response=None)

    def capped(self, until: float) -> Entry:
        """Return the entry with no time after Unix time *until*.

        A tier may keep an entry for a shorter time than the policy.
        """
        if until >= self.keep_until:
            return self
        until = whole_microseconds(until)
        return dataclasses.replace(self, fresh_until=min(self.fresh_until, until), keep_until=until)


class _Draft:
    """An `Entry` under construction: its fields can be assigned."""

    __slots__ = Entry.__slots__


def entry_of(  # noqa: PLR0913, PLR0917 - positional arguments are the fastest
    key: str,
    value: bytes,
    codec: str,
    namespace: str,
    model: str | None,
    tags: tuple[str, ...],
    prompt_digest: bytes,
    created_at: float,
    fresh_until: float,
    keep_until: float,
    born: Ticket,
    finish: Finish | None,
    usage: Usage | None,
    cost_usd: float | None,
    compute_seconds: float | None,
) -> Entry:
    """Return the `Entry` with these fields, without the fields for people.

    For readers of a store: the constructor takes six times as long, because a frozen class checks
    each assignment.
    """
    draft: Any = _new(_Draft)
    draft.key = key
    draft.value = value
    draft.codec = codec
    draft.namespace = namespace
    draft.model = model
    draft.tags = tags
    draft.prompt_digest = prompt_digest
    draft.created_at = created_at
    draft.fresh_until = fresh_until
    draft.keep_until = keep_until
    draft.born = born
    draft.finish = finish
    draft.usage = usage
    draft.cost_usd = cost_usd
    draft.compute_seconds = compute_seconds
    draft.request = draft.response = None
    # both classes have the same slots
    draft.__class__ = Entry
    return draft


@dataclass(frozen=True, slots=True)
class Refused:
    """Stored bytes that are not an entry of the requested key: a miss.

    `erase` is true if they are certainly worthless: a known version with a wrong checksum or of
    another key. Otherwise they may belong to another release and are not erased.
    """

    reason: str
    erase: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The result of a compute function or the argument of `set`, with facts about the bytes.

    Args:
        value: The encoding of the adapter, returned unchanged by a hit.
        codec: The name of the encoding.
        tags: Tags for invalidation.
        model: Overrides the model of the request.
        usage: The tokens of the answer.
        cost_usd: The cost of the answer.
        finish: The finish reason. An answer that was cut (`"length"`) or withheld (`"filter"`) is
            not stored.
        empty: True if there is no text, no tool call and no other block. Such an answer is not
            stored.
        keep_for: Overrides the policy: seconds, a timedelta or a text such as `7d`.
        response: A readable form, for readable tiers.
        compute_seconds: The duration of the computation, if it is not the time since the request.
            For answers of one batch, each has a share.
    """

    value: bytes = field(repr=False)
    codec: str = ""
    tags: tuple[str, ...] = ()
    model: str | None = None
    usage: Usage | None = None
    cost_usd: float | None = None
    finish: Finish | None = None
    empty: bool = False
    keep_for: Duration | None = None
    response: str | None = field(default=None, repr=False)
    compute_seconds: float | None = None

    def __post_init__(self) -> None:
        # the caller may be untyped
        if not isinstance(self.value, bytes):  # pyright: ignore[reportUnnecessaryIsInstance]
            msg = f"an answer's value must be bytes, got {type(self.value).__qualname__}. Encode it first"
            raise ConfigurationError(msg)
        if self.finish is not None and self.finish not in FINISHES:
            raise ConfigurationError.unknown(what="finish", name=self.finish, allowed=FINISHES)
        if self.keep_for is not None:
            seconds(self.keep_for, "keep_for")
        for name in ("codec", "model", "response"):
            if not isinstance(getattr(self, name), str | None):
                msg = f"an answer's {name} must be a text, got a {type(getattr(self, name)).__qualname__}"
                raise ConfigurationError(msg)
        # the caller may be untyped
        if not isinstance(self.usage, Usage | None):  # pyright: ignore[reportUnnecessaryIsInstance]
            msg = f"an answer's usage must be a layered_cache.Usage, got a {type(self.usage).__qualname__}"
            raise ConfigurationError(msg)
        for name in ("cost_usd", "compute_seconds"):
            if (number := getattr(self, name)) is not None:
                if isinstance(number, str | bool) or not hasattr(number, "__float__"):
                    msg = f"an answer's {name} must be a number, got {number!r}"
                    raise ConfigurationError(msg)
                # price lists contain Decimals
                object.__setattr__(self, name, float(number))
        object.__setattr__(self, "tags", checked_tags(self.tags))


def checked_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """Return *tags* sorted and without duplicates.

    Raises:
        ConfigurationError: If a tag is not a text, or if *tags* is a single text.
    """
    # the caller may be untyped
    several = isinstance(tags, Iterable) and not isinstance(tags, str)  # pyright: ignore[reportUnnecessaryIsInstance]
    labels = tuple(tags) if several else ()
    if not several or not all(isinstance(tag, str) and tag for tag in labels):  # pyright: ignore[reportUnnecessaryIsInstance]
        msg = f"tags must be texts that are not empty, in a list or tuple, got {tags!r}"
        raise ConfigurationError(msg)
    return tuple(sorted(set(labels)))
