"""State of one LangChain call: options, tenant and cache key.

Keys are remembered by the texts of LangChain, since comparing a text is faster than parsing it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

from langchain_core.language_models.base import BaseLanguageModel
from langchain_core.outputs import Generation
from layered_cache import (
    Answer,
    CallOptions,
    EncodeError,
    Event,
    Request,
    TenantRequiredError,
    TieredCache,
    UncacheableRequestError,
    current_options,
)
from layered_cache.adapters.identity.snapshots import reference_to
from layered_cache.adapters.log_once import Once
from layered_cache.adapters.pricing import load_prices
from layered_cache.keys.key_rules import NO_RULES, KeyOptions, KeyRules
from layered_cache.options import fingerprint

from langchain_layered_cache._callbacks import refusals
from langchain_layered_cache._callbacks.model_runs import METADATA, Run, current_account
from langchain_layered_cache._generation_answer import to_answer
from langchain_layered_cache._keys.key_options import current_key_options
from langchain_layered_cache._keys.lru import Memo
from langchain_layered_cache._keys.messages import holds_messages
from langchain_layered_cache._keys.model_params import KnownModel, Model
from langchain_layered_cache._keys.model_settings import Settings, settings_of
from langchain_layered_cache._keys.request import to_request

# characters of prompts with remembered keys: comparing a text is two microseconds faster than hashing it
_REMEMBERED = 16 * 1024 * 1024

_NO_MODEL = "this call of LangChain's does not show its model. Wrap the model: cached(model, cache)"
_NO_ACCOUNT = (
    "separate_accounts is on, and LangChain does not tell a cache the API key: wrap the model, cached(model, cache), "
    "or name the account, cache_options(account=...)"
)


class Call(NamedTuple):
    """One call.

    Attributes:
        run: Its run, if LangChain has announced one.
        options: The options of its caller.
        cache: The cache of its namespace.
        rules: The rules for its key.
        plain: True if the model completes a text: a prompt that looks like messages is a text too.
        settings: The settings of its model at the time of the lookup; None if the model is not known.
        model: Returns the model; None if it is collected or not known. A call does not keep the model alive.
        key_extra: The `key_extra` of the model.
    """

    run: Run | None
    options: CallOptions
    cache: TieredCache
    rules: KeyRules
    plain: bool = False
    settings: Settings | None = None
    model: Callable[[], BaseLanguageModel[Any] | None] | None = None
    key_extra: object = None


class Asked(NamedTuple):
    """A lookup without a result: the call, and the text of the model with which it looked."""

    call: Call
    text: str


def _length(reading: tuple[object, ...]) -> int:
    return len(cast("str", reading[0])) + 300  # and the other parts of a key


def _changed(call: Call) -> str | None:
    """Return a sentence if the model of *call* has other settings now than at the lookup; None if it has the same."""
    before, model = call.settings, None if call.model is None else call.model()
    if before is None or model is None:
        return None
    now = settings_of(model, call.key_extra)
    if before.digest == now.digest:
        return None
    names = ", ".join(map(repr, before.difference(now)))
    return f"the settings of a {before.kind} have changed during the call ({names}). Keep state of the model in private attributes"


class Calls:
    """Makes keys, requests and answers of the texts and generations of LangChain.

    Args:
        cache: The engine.
        rules: The rules for keys of models without their own options.
    """

    def __init__(self, cache: TieredCache, rules: KeyRules = NO_RULES) -> None:
        self._cache = cache
        self.rules = rules
        self._rules_over: Memo[KeyOptions, KeyRules] = Memo(64)
        cache.use(rules)
        self._tenant_required = cache.policy.tenant_required
        self._separate_accounts = cache.policy.separate_accounts
        self._models: Memo[str | tuple[str, frozenset[str]], KnownModel] = Memo(512)
        self._keys: Memo[tuple[object, ...], str] = Memo(_REMEMBERED, weigh=_length)
        self._tenants: Memo[str, TieredCache] = Memo(1024)
        self.once = Once()
        load_prices()

    def begin(self, run: Run | None, model: BaseLanguageModel[Any] | None = None, key_extra: object = None, *, plain: bool = False) -> Call:
        """Return the call of *run*; without a run, the options around the caller count.

        Args:
            run: The run, if LangChain has announced one.
            model: The model that is called, if it is known.
            key_extra: Identifies settings of the model that cannot be read.
            plain: Whether the model completes a text.

        Raises:
            ConfigurationError: If an option of the caller is invalid.
            TenantRequiredError: If the policy requires a tenant and the call names none.
        """
        options = current_options() if run is None else run.options
        rules = self.rules if (own := current_key_options.get()) is None else self._over(own)
        if options.namespace is None and self._tenant_required:
            msg = (
                "this cache serves tenants, and the call names none: "
                f'config={{"metadata": {{"{METADATA}": {{"namespace": "tenant-7"}}}}}}, or with cache_options(namespace="tenant-7")'
            )
            raise TenantRequiredError(msg)
        cache = self._cache if options.namespace is None else self._tenant(options.namespace)
        if model is None:
            return Call(run, options, cache, rules, plain)
        return Call(run, options, cache, rules, plain, settings_of(model, key_extra), reference_to(model), key_extra)

    def _over(self, own: KeyOptions) -> KeyRules:
        if (rules := self._rules_over.get(own)) is None:
            rules = own.over(self.rules)
            self._rules_over.put(own, rules)
            self._cache.use(rules)
        return rules

    def is_told_by_texts(self, call: Call, llm_string: str) -> bool:
        """Return True if the texts of LangChain describe the request completely, as other caches assume."""
        options = call.options
        if options.namespace is not None or options.sample or self._account(call) is not None:
            return False
        model = self._model(call, llm_string)
        return model.is_text and not model.holds_classes

    def _tenant(self, name: str) -> TieredCache:
        if (cache := self._tenants.get(name)) is None:
            cache = self._cache.namespace(name)
            self._tenants.put(name, cache)
        return cache

    def key(self, call: Call, prompt: str, llm_string: str) -> str | None:
        """Return the key of *prompt* under *llm_string*, from a memo if the texts are known; None if it has none."""
        model = self._model(call, llm_string)
        options, account = call.options, self._account(call)
        reading = model.reading(prompt)
        if options.namespace is not None or options.sample or account is not None:
            reading = (*reading, options.namespace, options.sample, account)
        if call.rules is not self.rules:
            reading = (*reading, call.rules)
        if call.plain and holds_messages(prompt):
            reading = (*reading, "plain")
        if (key := self._keys.get(reading)) is None:
            if (request := self._request(call, prompt, model)) is None:
                return None
            key = call.cache.key(request)
            self._keys.put(reading, key)
        return key

    def noted(self, call: Call, key: str) -> Call:
        """Return *call*, with the mode "refresh" if it retries a refused answer.

        The chains around the call note *key*, the key of its answer. They remove the entry if they refuse the answer.
        """
        if not call.options.stores:  # a call that stores nothing removes nothing
            return call
        run = call.run
        place = refusals.place_here() if run is None or run.place is None else run.place
        again = refusals.note(place, refusals.Given(call.cache, key, run))
        if not again or call.options.mode != "default":
            return call
        return call._replace(options=dataclasses.replace(call.options, mode="refresh"))

    def request(self, call: Call, prompt: str, llm_string: str) -> Request | None:
        """Return the request of *prompt* under *llm_string*; None if it has no key."""
        return self._request(call, prompt, self._model(call, llm_string))

    def answer(self, call: Call, prompt: str, llm_string: str, generations: Sequence[Generation]) -> tuple[Request, Answer | None] | None:
        """Return the request, and the answer to store or None if it cannot be stored; None if there is no request."""
        model = self._model(call, llm_string)
        if not generations or (request := self._request(call, prompt, model)) is None:
            return None
        if (changed := _changed(call)) is not None:
            call.cache.report(Event(kind="not_stored", namespace=call.cache.name, model=model.name, reason="the settings have changed"))
            self.once.warn(f"an answer is not cached: {changed}")
            return request, None
        try:
            answer = to_answer(generations, model.name)
        except EncodeError as error:
            self.not_encodable(call, model.name, error)
            return request, None
        options = call.options
        if options.labels or options.keep_for is not None:
            answer = dataclasses.replace(answer, tags=options.labels, keep_for=options.keep_for)
        return request, answer

    def _model(self, call: Call, llm_string: str) -> Model:
        ignore = call.rules.ignore
        text = (llm_string, ignore) if ignore else llm_string
        if (known := self._models.get(text)) is None:
            known = KnownModel(llm_string, ignore)
            self._models.put(text, known)
        return known.now(call.settings, None if call.run is None else call.run.params)

    def _account(self, call: Call) -> str | None:
        return call.options.account or (current_account.get() if self._separate_accounts else None)

    def _request(self, call: Call, prompt: str, model: Model) -> Request | None:
        try:
            if call.run is not None and call.settings is None:
                raise UncacheableRequestError(_NO_MODEL)  # noqa: TRY301 - reported below
            account = self._account(call)
            if account is None and self._separate_accounts:
                raise UncacheableRequestError(_NO_ACCOUNT)  # noqa: TRY301 - reported below
            shown = None if account is None else fingerprint(account)
            return to_request(prompt, model, call.rules, sample=call.options.sample, account=shown, plain=call.plain)
        except UncacheableRequestError as error:
            self.refuse(call, str(error))
            return None

    def refuse(self, call: Call, reason: str) -> None:
        """Record that a request is not cached, and warn once."""
        call.cache.report(Event(kind="uncacheable", namespace=call.cache.name, reason=reason))
        self.once.warn(f"a request is not cached: {reason}")

    def refuse_streams(self, reason: str) -> None:
        """Record that a stream without a known call is not cached, and warn once."""
        self._cache.report(Event(kind="uncacheable", namespace=self._cache.name, reason=reason))
        self.once.warn(f"a request is not cached: {reason}")

    def not_encodable(self, call: Call, model: str | None, error: EncodeError) -> None:
        """Record that an answer is not cached, and warn once."""
        call.cache.report(Event(kind="not_stored", namespace=call.cache.name, model=model, reason="not encodable"))
        self.once.warn(f"an answer is not cached: {error}")
