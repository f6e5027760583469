"""The cache settings of a cached LLM, and the state of one call: request, options and key.

The laws of a call:

- Options of the cache never reach the provider: `cache`, `refresh`, `only_cached`, `ttl`, `tags`, `namespace`. Options of a
  call override those of `cache_options`, which override those of `cached`. Tags are combined.
- The key is made before the request, since some models change the messages that they get. A stream may start its request
  later. If the key has changed by then, the answer is not stored.
- A request is not cached if it has no exact key, or if its answer depends on the provider's memory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal, TypeAlias, get_args

from layered_cache import (
    Answer,
    CallOptions,
    ConfigurationError,
    EncodeError,
    Event,
    Request,
    TenantRequiredError,
    TieredCache,
    UncacheableRequestError,
    current_options,
)
from layered_cache.adapters.cached_call import note_failure
from layered_cache.adapters.common import Duration
from layered_cache.adapters.log_once import Once
from layered_cache.adapters.pricing import load_prices
from layered_cache.keys.key_rules import KeyRules, NormalizeOption, key_options, key_rules
from layered_cache.options import NO_OPTIONS, fingerprint
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.llms import LLM

from llamaindex_layered_cache._llm.identity import Identity, window_of
from llamaindex_layered_cache._llm.request_data import plain_arguments, plain_messages
from llamaindex_layered_cache._llm.response_answer import Told, to_answer, told_by
from llamaindex_layered_cache._llm.response_codec import Raw, Replay, Response

FRAMEWORK = "llamaindex"

EmitEvents: TypeAlias = Literal["auto"] | bool
Kind = Literal["chat", "completion"]

_NO_ACCOUNT = "separate_accounts is on, and the LLM shows no API key: name the account, cache_options(account=...)"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """The options of `cached`, which documents them."""

    ttl: Duration | None = None
    namespace: str | None = None
    tags: Iterable[str] = ()
    when: Callable[[Any, Mapping[str, Any]], bool] | None = None
    store_if: Callable[[Any], bool] | None = None
    replay: Replay = "chunks"
    raw: Raw = "model"
    emit_events: EmitEvents = "auto"
    share_stream: bool = True
    key_extra: object = None
    ignore: str | Iterable[str] | None = None
    normalize: NormalizeOption = None

    def __post_init__(self) -> None:
        for name, allowed in (("replay", get_args(Replay)), ("raw", get_args(Raw))):
            if getattr(self, name) not in allowed:
                raise ConfigurationError.unknown(what=name, name=str(getattr(self, name)), allowed=allowed)
        if self.emit_events != "auto" and type(self.emit_events) is not bool:
            raise ConfigurationError.unknown(what="emit_events", name=str(self.emit_events), allowed=("auto", "True", "False"))
        if type(self.share_stream) is not bool:
            msg = f"share_stream must be True or False, not {self.share_stream!r}"
            raise ConfigurationError(msg)
        for name in ("when", "store_if"):
            if (rule := getattr(self, name)) is not None and not callable(rule):
                msg = f"{name} must be a function, not a {type(rule).__qualname__}"
                raise ConfigurationError(msg)
        object.__setattr__(self, "tags", CallOptions(ttl=self.ttl, namespace=self.namespace, tags=self.tags).labels)
        for name, value in key_options(self.ignore, self.normalize)._asdict().items():
            object.__setattr__(self, name, value)

    def over(self, rules: KeyRules) -> How:
        """Return these options, completed by those of *rules*."""
        found = key_rules(self.ignore, self.normalize, rules)
        return dataclasses.replace(self, ignore=found.ignore, normalize=found.normalize or ())


class Keeper:
    """The cache settings of a cached LLM. They do not change, and copies of the LLM share them.

    Args:
        llm: The LLM when it is wrapped.
        cache: The engine.
        how: The options of `cached`.

    Raises:
        ConfigurationError: If the model cannot be identified.
    """

    def __init__(self, llm: LLM, cache: TieredCache, how: How) -> None:
        self.cache = cache
        self.how = how
        self.rules = key_rules(how.ignore, how.normalize)
        cache.use(self.rules)
        self.identity = Identity(llm, how.key_extra, self.rules)
        load_prices()
        self.once = Once()
        # kept alive: some classes close the client, which copies share, when an object is collected
        self._made_of = llm
        self._options = CallOptions(ttl=how.ttl, namespace=how.namespace, tags=how.tags)

    def __copy__(self) -> Keeper:
        return self

    def __deepcopy__(self, memo: object) -> Keeper:
        return self

    def begin(self, question: Question) -> Call:
        """Return the call of *question*.

        Raises:
            ConfigurationError: If an option is invalid.
            TenantRequiredError: If the policy requires a tenant and the call names none.
        """
        said = _said(question.arguments)
        options = self._said_around(current_options()).with_(said) if said else self._said_around(current_options())
        if options.namespace is not None:
            return Call(self, self.cache.namespace(options.namespace), options, question)
        if self.cache.policy.tenant_required:
            msg = (
                "this cache serves tenants, and the call names none: "
                'llm.chat(messages, namespace="tenant-7"), or with cache_options(namespace="tenant-7")'
            )
            raise TenantRequiredError(msg)
        return Call(self, self.cache, options, question)

    def _said_around(self, around: CallOptions) -> CallOptions:
        own = self._options
        if around is NO_OPTIONS:
            return own
        if own.ttl is None and own.namespace is None and not own.labels:
            return around
        return dataclasses.replace(
            around,
            ttl=own.ttl if around.ttl is None else around.ttl,
            namespace=around.namespace or own.namespace,
            tags=(*own.labels, *around.labels),
        )

    def request(self, question: Question, options: CallOptions) -> Request:
        """Return *question* as a request.

        Raises:
            UncacheableRequestError: If it has no exact key.
        """
        llm = question.llm
        if self.identity.is_stateful(llm, question.arguments):
            msg = "its answer depends on the memory of the provider"
            raise UncacheableRequestError(msg)
        params = self.identity.params(llm)
        params["kind"] = question.kind
        if question.formatted:
            params["formatted"] = True
        if arguments := plain_arguments(self.rules.kept(question.arguments)):
            params["call"] = arguments
        if question.streams and not self.how.share_stream:
            params["stream"] = True
        if self.how.raw != "model":
            params["raw"] = self.how.raw
        account = options.account
        if account is None and self.cache.policy.separate_accounts and (account := self.identity.account(llm)) is None:
            raise UncacheableRequestError(_NO_ACCOUNT)
        if account is not None:
            params["account"] = fingerprint(account)
        asked = question.content
        prompt = asked if isinstance(asked, str) else plain_messages(asked)
        return self.rules.request(prompt, model=self.identity.name(llm), params=params, framework=FRAMEWORK, sample=options.sample)


def _said(arguments: dict[str, Any]) -> dict[str, object]:
    """Remove the options of the cache from *arguments* and return them."""
    said: dict[str, object] = {name: arguments.pop(name) for name in ("ttl", "tags", "namespace") if name in arguments}
    modes: list[str] = []
    for name, mode, unless in (("cache", "bypass", True), ("refresh", "refresh", False), ("only_cached", "only_cached", False)):
        if name in arguments:
            value = arguments.pop(name)
            if value is not None and type(value) is not bool:
                msg = f"{name} must be True or False, not {value!r}"
                raise ConfigurationError(msg)
            if value is not None and value is not unless:
                modes.append(mode)
    if len(modes) > 1:
        msg = "cache=False, refresh=True and only_cached=True exclude each other"
        raise ConfigurationError(msg)
    return {**said, "mode": modes[0]} if modes else said


@dataclasses.dataclass(slots=True)
class Question:
    """The input of a call of *llm*: messages or a prompt, and the *arguments* of the caller. `begin` removes the options of the cache."""

    llm: LLM
    kind: Kind
    content: Sequence[ChatMessage] | str
    arguments: dict[str, Any]
    formatted: bool = False
    streams: bool = False


class Call:
    """The state of one call: its input, cache and options. `request` is None if the call is not cached."""

    def __init__(self, keeper: Keeper, cache: TieredCache, options: CallOptions, question: Question) -> None:
        self.keeper = keeper
        self.cache = cache
        self.options = options
        self.question = question
        self.request: Request | None = None
        self._changed = False
        self._window = window_of(question.llm)
        self.key: str | None = None
        try:
            if options.mode != "bypass" and self._is_wanted():
                self.request = keeper.request(question, options)
                self.key = cache.key(self.request)
        except UncacheableRequestError as error:
            self.cache.report(Event(kind="uncacheable", namespace=cache.name, reason=str(error)))
            keeper.once.warn(f"a request is not cached: {error}")
        except Exception as error:  # noqa: BLE001 - the model is called in any case
            note_failure(cache, "reading a request", error)

    def _is_wanted(self) -> bool:
        when, question = self.keeper.how.when, self.question
        return when is None or bool(when(question.content, question.arguments))

    def starts(self) -> None:
        """Record that the request starts now, and compare its key with that of the call."""
        try:
            self._changed = self.request is not None and self.keeper.request(self.question, self.options) != self.request
        except Exception:  # noqa: BLE001 - no error was raised before
            self._changed = True

    def answer(self, responses: Iterable[Response]) -> Answer | None:
        """Return the answer to store for *responses*, the chunks of a stream or one response; None to store nothing."""
        how = self.keeper.how
        self.keeper.identity.note_window(self.question.llm, self._window)
        if self._changed:
            return self._not_stored("the request changed before it was sent")
        self._warn_of_changes()
        told = told_by(responses, streams=self.question.streams)
        if how.store_if is not None and not how.store_if(told.response):
            return self._not_stored("store_if")
        try:
            answer = self._encoded(told)
        except EncodeError as error:
            self.keeper.once.warn(f"an answer is not cached: {error}")
            return self._not_stored("not encodable")
        options = self.options
        if options.labels or options.keep_for is not None:
            answer = dataclasses.replace(answer, tags=options.labels, keep_for=options.keep_for)
        return answer

    def _warn_of_changes(self) -> None:
        """Warn if the model changed its own settings during the call: then an equal call has another key."""
        llm, request = self.question.llm, self.request
        with suppress(UncacheableRequestError):
            if request is not None and self.keeper.identity.params(llm)["settings"] != request.params["settings"]:
                self.keeper.once.warn(
                    f"a setting of {type(llm).__name__} changed during a call, so an equal call is a miss: "
                    "keep counters outside of the model"
                )

    def _encoded(self, told: Told) -> Answer:
        """Return the answer with the facts *told*, without its `raw` if only that cannot be encoded.

        Raises:
            EncodeError: If the decoded answer would not equal the original one.
        """
        model, raw = self.keeper.identity.name(self.question.llm), self.keeper.how.raw
        try:
            return to_answer(told, model, raw)
        except EncodeError as error:
            if raw == "drop" or told.response.raw is None:
                raise
            answer = to_answer(told, model, "drop")
            self.keeper.once.warn(f"the raw of an answer is not cached: {error}")
            return answer

    def _not_stored(self, reason: str) -> None:
        self.cache.report(Event(kind="not_stored", namespace=self.cache.name, reason=reason))

    def unreadable(self, key: str, error: ValueError) -> None:
        """Record that the value of *key* cannot be decoded. The text of a validation error is left out: it holds stored data."""
        self.cache.reject(key, str(error) if type(error) is ValueError else type(error).__name__)
