"""What is asked, what is answered, and what a tier holds.

`Request` is what a key is made of, `Answer` what a caller hands over to be kept, `Entry` what a tier holds under a key.
All are frozen and hold no mutable object of the caller's.

Clocks are Unix seconds, whole microseconds, so that they survive every store. An entry is *fresh* before `fresh_until`,
*stale* between `fresh_until` and `keep_until`, *expired* after it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, cast

from layered_cache import keys
from layered_cache.errors import ConfigurationError, UncacheableRequestError
from layered_cache.units import Duration, seconds

Finish = Literal["stop", "length", "filter", "tool"]
FINISHES: tuple[Finish, ...] = ("stop", "length", "filter", "tool")

_new = object.__new__
NO_PROMPT = bytes(keys.PROMPT_DIGEST_BYTES)


def whole_microseconds(clock: float) -> float:
    """Return *clock* as the float that comes back from a store of whole microseconds."""
    return round(clock * 1e6) / 1e6


class Ticket(NamedTuple):
    """What a process knew of the invalidation log: an entry's `born`.

    `epoch` names the life of the log, `seq` the newest rule known. Epochs of zero and below mean a log that was not read, or
    not made yet, and never leave the process.
    """

    epoch: int
    seq: int


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that an answer took."""

    input_tokens: int = 0
    output_tokens: int = 0

    def __post_init__(self) -> None:
        if type(self.input_tokens) is type(self.output_tokens) is int and self.input_tokens >= 0 <= self.output_tokens:
            return  # at once: each entry that is read has one
        for name in ("input_tokens", "output_tokens"):
            tokens = getattr(self, name)
            if type(tokens) is not int or tokens < 0:
                msg = f"{name} must be a whole number >= 0, not {tokens!r}"
                raise ConfigurationError(msg)


class Savings(NamedTuple):
    """What a hit saves."""

    tokens: int
    cost_usd: float
    seconds: float


class Request:
    """A prompt with all that decides its answer; equal requests have equal keys.

    Args:
        framework: Who shaped the request (`"langchain"`, `"llamaindex"`, your own name): requests of two never meet.
        model: The model's name, for invalidation and reports; it is part of the key.
        prompt: A text, or messages as plain data.
        params: All else that decides the answer. At its top level, nulls are dropped and `1.0` is `1`.
        sample: 0, 1, 2 ... for callers that want several answers to one prompt.

    Raises:
        UncacheableRequestError: It holds an object from which no lasting text can be made.
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
            msg = f"framework and model must be texts and sample a number, not {framework!r}, {model!r}, {sample!r}"
            raise ConfigurationError(msg)
        put = object.__setattr__
        put(self, "framework", framework)
        put(self, "model", model)
        put(self, "sample", sample)
        put(self, "_prompt", keys.canonical(prompt, "the prompt"))
        put(self, "_params", _canonical_params(folded(params or {})))
        put(self, "_question", last_question(prompt))

    def __setattr__(self, name: str, value: object) -> None:
        msg = f"a Request does not change: {name}"
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
        """16 bytes that stand for the last user message."""
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
    """Return *params* without top-level nulls, whole floats as integers: providers take either for the same."""
    return {name: _whole(value) for name, value in params.items() if value is not None}


def _canonical_params(params: dict[str, object]) -> bytes:
    try:
        return keys.canonical(params, "a parameter")
    except UncacheableRequestError:
        for name, value in params.items():  # which one?
            keys.canonical(value, f"the parameter {name!r}")
        raise


def _whole(value: object) -> object:
    whole = type(value) is float and value.is_integer() and abs(value) < 2**53
    return int(cast("float", value)) if whole else value


def last_question(prompt: object) -> bytes:
    """Return the digest of the last user message: of a text, the text itself."""
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
    """What a tier holds under a key. Its `value` is the adapter's encoding, named by `codec`.

    `request` and `response` are what an operator can read in a readable tier; a tier need not give them back, and two entries
    that differ only there are equal.
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
        """Whether it may be served without a thought at Unix time *now*."""
        return now < self.fresh_until

    def is_live(self, now: float) -> bool:
        """Whether it may be served at all at Unix time *now*."""
        return now < self.keep_until

    @property
    def savings(self) -> Savings:
        """What a hit on it saves; what is not known counts as nothing."""
        usage = self.usage
        tokens = usage.input_tokens + usage.output_tokens if usage is not None else 0
        return Savings(tokens, self.cost_usd or 0.0, self.compute_seconds or 0.0)

    def unreadable(self) -> Entry:
        """Return it without what only people read."""
        if self.request is None and self.response is None:
            return self
        return dataclasses.replace(self, request=None, response=None)

    def capped(self, until: float) -> Entry:
        """Return it with no clock beyond Unix time *until*: a tier may keep it for less time than its policy says."""
        if until >= self.keep_until:
            return self
        until = whole_microseconds(until)
        return dataclasses.replace(self, fresh_until=min(self.fresh_until, until), keep_until=until)


class _Draft:
    """What an `Entry` is before it is one: its fields can be assigned."""

    __slots__ = Entry.__slots__


def entry_of(  # noqa: PLR0913, PLR0917 - by place, which is quickest
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
    """Return the `Entry` that has these fields, without what only people read.

    For who reads a store: the constructor takes six times as long, since it has to get past the guard of a frozen class for each field.
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
    draft.__class__ = Entry  # which has the same slots
    return draft


@dataclass(frozen=True, slots=True)
class Refused:
    """Stored bytes that are no entry for the key that was asked: a miss.

    `erase` says whether they are certainly worthless (a known version that fails its checksum or belongs to another key) or may
    be another release's (left alone).
    """

    reason: str
    erase: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a compute function returns, or `set` takes, where bytes alone do not say enough.

    Args:
        value: The adapter's encoding; returned as it is on a hit.
        codec: Its name.
        tags: Labels to invalidate it by.
        model: Overrides the request's.
        usage: Tokens that it took.
        cost_usd: What they cost.
        finish: Why the model stopped; what was cut (`"length"`) or withheld (`"filter"`) is not kept.
        empty: Whether it says nothing (no text, no tool call, no other block); such is not kept.
        keep_for: Overrides the policy's, seconds, a timedelta or a text such as `7d`.
        response: A readable form, for tiers that an operator reads.
        compute_seconds: How long it took, if that is not the time since it was asked for: its share, of answers that came together.
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
        if not isinstance(self.value, bytes):  # pyright: ignore[reportUnnecessaryIsInstance] - the caller may be untyped
            msg = f"an answer's value must be bytes, not {type(self.value).__qualname__}: encode it first"
            raise ConfigurationError(msg)
        if self.finish is not None and self.finish not in FINISHES:
            raise ConfigurationError.unknown(what="finish", name=self.finish, allowed=FINISHES)
        if self.keep_for is not None:
            seconds(self.keep_for, "keep_for")
        for name in ("codec", "model", "response"):
            if not isinstance(getattr(self, name), str | None):
                msg = f"an answer's {name} must be a text, not a {type(getattr(self, name)).__qualname__}"
                raise ConfigurationError(msg)
        if not isinstance(self.usage, Usage | None):  # pyright: ignore[reportUnnecessaryIsInstance] - the caller may be untyped
            msg = f"an answer's usage must be a layered_cache.Usage, not a {type(self.usage).__qualname__}"
            raise ConfigurationError(msg)
        for name in ("cost_usd", "compute_seconds"):
            if (number := getattr(self, name)) is not None:
                if isinstance(number, str | bool) or not hasattr(number, "__float__"):
                    msg = f"an answer's {name} must be a number, not {number!r}"
                    raise ConfigurationError(msg)
                object.__setattr__(self, name, float(number))  # of price lists it is a Decimal
        object.__setattr__(self, "tags", checked_tags(self.tags))


def checked_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """Return *tags* sorted and without repeats.

    Raises:
        ConfigurationError: One is not a text, or *tags* is itself a text.
    """
    several = isinstance(tags, Iterable) and not isinstance(tags, str)  # pyright: ignore[reportUnnecessaryIsInstance] - the caller may be untyped
    labels = tuple(tags) if several else ()
    if not several or not all(isinstance(tag, str) and tag for tag in labels):  # pyright: ignore[reportUnnecessaryIsInstance]
        msg = f"tags must be texts that are not empty, in a list or tuple, not {tags!r}"
        raise ConfigurationError(msg)
    return tuple(sorted(set(labels)))
