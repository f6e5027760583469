"""`LayeredCache`: LangChain's cache, in tiers.

    from langchain_core.globals import set_llm_cache
    from langchain_layered_cache import LayeredCache

    set_llm_cache(LayeredCache())

LangChain calls `lookup` before a model and `update` after it. Both convert the two texts of LangChain to a request (`_call`)
and the generations to bytes (`_generation_codec`), and use the engine. The laws:

- The cache raises into a call only if the caller requested it: a removal that failed, an invalid option, or a missing answer
  with `mode="only_cached"`.
- A hit is a `list` (LangChain treats other types as a miss) with at least one item, of objects that no other caller has.
- A request without an exact key is not cached. One warning names the parameter that is the cause.
- Concurrent equal calls of chat models are one request: see `Computing` in the engine. A call leads only if LangChain
  announced it by callbacks, because then it also announces its end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from os import PathLike
from typing import Any

from langchain_core.caches import BaseCache
from langchain_core.outputs import Generation
from layered_cache import (
    ConfigurationError,
    Event,
    Observer,
    Policy,
    Ticket,
    Tier,
    TieredCache,
)
from layered_cache.adapters.cached_call import check_only_cached, note_failure
from layered_cache.adapters.cached_stream import producing
from layered_cache.adapters.common import rules_of
from layered_cache.adapters.refusals import removals
from layered_cache.cache import Hit, Led
from layered_cache.config import default_tiers, load_settings
from layered_cache.keys.key_rules import KeyRules, NormalizeOption

from langchain_layered_cache._call import Asked, Call, Calls
from langchain_layered_cache._callbacks.calling_model import asking
from langchain_layered_cache._callbacks.model_runs import Run, asked_by, listen, note_asked, take_run
from langchain_layered_cache._callbacks.refusals import open_chains
from langchain_layered_cache._generation_codec import decode
from langchain_layered_cache._hit_metadata import mark
from langchain_layered_cache._keys.item_ids import forget_item_ids
from langchain_layered_cache._keys.messages import holds_messages, is_written_out_model
from langchain_layered_cache._keys.model_settings import UNREADABLE_SETTINGS
from langchain_layered_cache._legacy_cache import Legacy
from langchain_layered_cache._management import Management

_CRITERIA = ("key", "tag", "model", "prompt", "created_before", "created_after", "namespace", "dry_run")


class LayeredCache(Management, BaseCache):
    """A LangChain cache in tiers, fastest first.

        LayeredCache()                                           memory, and a file in the user's cache folder
        LayeredCache("memory://", "sqlite:///answers.db")        tiers by URL or as objects
        LayeredCache(cache=TieredCache(...))                     an engine that is shared with other adapters

    Options of one call are in its metadata, `config={"metadata": {"llm_cache": {"ttl": "5m"}}}`, or in a block,
    `with cache_options(ttl="5m")`: see `layered_cache.CallOptions`.

    Args:
        tiers: URLs or `layered_cache.Tier` objects.
        namespace: Separates applications; part of every key. `"default"` unless given.
        policy: How long, how often, how much.
        observers: Functions that are called with each event, in the thread or task of the event.
        cache: An engine to use instead of making one of the above.
        legacy: Another LangChain cache. A miss reads it, and its answer is copied to this cache. It is never written. An answer
            that was removed from this cache is not read from it again.
        mark_hits: Whether `response_metadata["layered_cache"]` of an answer from the cache holds `hit`, `tier`, `age_seconds`,
            `key` and `saved_usd`.
        ignore: Names of parameters that keys leave out, such as `("user", "metadata")`: arguments of calls, fields of models, and entries
            of `model_kwargs` and `extra_body`. They are sent as before.
        normalize: How texts of users, and prompts of models that complete a text, are normalised in keys: `"unicode"`, `"whitespace"`,
            `"case"`, several of them, a function, or a `layered_cache.Normalize`. Requests are sent as they are.

    Raises:
        ConfigurationError: Before any I/O, if an argument is wrong.
    """

    def __init__(
        self,
        *tiers: str | Tier,
        namespace: str | None = None,
        policy: Policy | None = None,
        observers: Iterable[Observer] = (),
        cache: TieredCache | None = None,
        legacy: BaseCache | None = None,
        mark_hits: bool = False,
        ignore: str | Iterable[str] | None = None,
        normalize: NormalizeOption = None,
    ) -> None:
        rules = rules_of(cache, ignore, normalize)
        if cache is None:
            cache = TieredCache(
                *(tiers or default_tiers("langchain")),
                namespace="default" if namespace is None else namespace,
                policy=policy,
                observers=observers,
            )
        elif tiers or policy is not None or observers or namespace is not None:
            msg = "cache= brings its own tiers, namespace, policy and observers: give either them or cache"
            raise ConfigurationError(msg)
        self._cache = cache.exact
        self._calls = Calls(self._cache, rules)
        self._legacy = None if legacy is None else Legacy(legacy, self._legacy_failed)
        self._marks_hits = mark_hits
        listen()

    @classmethod
    def from_env(
        cls,
        file: str | PathLike[str] | None = None,
        *,
        observers: Iterable[Observer] = (),
        ignore: str | Iterable[str] | None = None,
        normalize: NormalizeOption = None,
    ) -> LayeredCache:
        """Make one from `LAYERED_CACHE_*` variables and a TOML file (see `layered_cache.config`); without tiers there, the default ones.

        Raises:
            ConfigurationError: A name or value is not allowed.
        """
        settings = load_settings(file)
        tiers = settings.open_tiers() or default_tiers("langchain")
        return cls(*tiers, namespace=settings.namespace, policy=settings.policy, observers=observers, ignore=ignore, normalize=normalize)

    @property
    def engine(self) -> TieredCache:
        """The engine."""
        return self._cache

    @property
    def key_rules(self) -> KeyRules:
        """The rules for keys, from `ignore` and `normalize`."""
        return self._calls.rules

    # --- LangChain's side

    def lookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        """Return the generations for *prompt* under *llm_string*, new objects each time, or None.

        Raises:
            ConfigurationError, TenantRequiredError: If an option of the caller is invalid or missing.
            CacheMiss: If there is no entry and the caller allows no request.
        """
        asked = self._asked(prompt, llm_string)
        call, text = asked
        found = None
        try:
            if (key := self._calls.key(call, prompt, text)) is not None:
                if open_chains:
                    call = self._calls.noted(call, key)
                if removals.pending:
                    removals.settle(key)
                if call.options.looks:
                    if (held := self._at_hand(call, key)) is None:
                        held = call.cache.fetch(key, led=_led(call))
                    found = self._brought(call, prompt, text) if held is None else self._decoded(call, key, held)
                elif call.options.mode == "refresh":
                    call.cache.expect(key)
        except Exception as error:  # noqa: BLE001 - the model is called in any case
            self.failed("lookup", error)
        return _checked(call, text, prompt, llm_string, found)

    async def alookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        """See lookup."""
        asked = self._asked(prompt, llm_string)
        call, text = asked
        found = None
        try:
            if (key := self._calls.key(call, prompt, text)) is not None:
                if open_chains:
                    call = self._calls.noted(call, key)
                if removals.pending:
                    await removals.asettle(key)
                if call.options.looks:
                    if (held := self._at_hand(call, key)) is None:
                        held = await call.cache.afetch(key, led=_led(call))
                    found = await self._abrought(call, prompt, text) if held is None else self._decoded(call, key, held)
                elif call.options.mode == "refresh":
                    await call.cache.aexpect(key)
        except Exception as error:  # noqa: BLE001 - the model is called in any case
            self.failed("lookup", error)
        return _checked(call, text, prompt, llm_string, found)

    def update(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        """Store *return_val* for *prompt* under *llm_string*, if the policy and the caller allow it.

        Raises:
            ConfigurationError, TenantRequiredError: As in `lookup`.
        """
        call, text = asked_by(prompt, llm_string, Asked) or self._asked_without_lookup(prompt, llm_string)
        if not call.options.stores:
            return
        try:
            if (found := self._calls.answer(call, prompt, text, return_val)) is None:
                return
            request, answer = found
            if answer is None:
                call.cache.nothing_to_share(call.cache.key(request))
            else:
                call.cache.set(request, answer)
        except Exception as error:  # noqa: BLE001 - the answer is returned in any case
            self.failed("update", error)

    async def aupdate(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        """See update."""
        call, text = asked_by(prompt, llm_string, Asked) or self._asked_without_lookup(prompt, llm_string)
        if not call.options.stores:
            return
        try:
            if (found := self._calls.answer(call, prompt, text, return_val)) is None:
                return
            request, answer = found
            if answer is None:
                call.cache.nothing_to_share(call.cache.key(request))
            else:
                await call.cache.aset(request, answer)
        except Exception as error:  # noqa: BLE001 - the answer is returned in any case
            self.failed("update", error)

    def clear(self, **kwargs: Any) -> None:  # noqa: ANN401 - LangChain's signature
        """Remove all entries of this namespace, or those that match the criteria of `invalidate`.

        Raises:
            TypeError: If a criterion is unknown.
            DeletionError: If the removal cannot be recorded. The entries may still be served.
        """
        self._check_criteria(kwargs)
        if kwargs:
            self._cache.invalidate(**kwargs)
        else:
            self._cache.clear()

    async def aclear(self, **kwargs: Any) -> None:  # noqa: ANN401 - LangChain's signature
        """See clear."""
        self._check_criteria(kwargs)
        if kwargs:
            await self._cache.ainvalidate(**kwargs)
        else:
            await self._cache.aclear()

    def key(self, prompt: str, llm_string: str) -> str | None:
        """Return the key of *prompt* under *llm_string*, for `delete` and `invalidate(key=...)`; None if it has none."""
        return self._calls.key(self._calls.begin(None, plain=not holds_messages(prompt)), prompt, llm_string)

    def __deepcopy__(self, memo: object) -> LayeredCache:
        return self  # a copy of a model shares its cache

    def __repr__(self) -> str:
        return f"LayeredCache({self._cache!r})"

    # --- for wrapped models and their streams: see `stream`

    @property
    def calls(self) -> Calls:
        """The maker of keys and answers."""
        return self._calls

    def peek(self, call: Call, key: str) -> list[Generation] | None:
        """Return the generations of *key* in memory; None if there are none."""
        if key in removals.pending:
            return None
        held = self._at_hand(call, key)
        return None if held is None else self._decoded(call, key, held)

    def find(self, call: Call, key: str, prompt: str, llm_string: str) -> list[Generation] | None:
        """Return the generations of *key* in any tier, without waiting for a computation in flight."""
        if removals.pending:
            removals.settle(key)
        held = call.cache.fetch(key, leave=False)
        return self._brought(call, prompt, llm_string) if held is None else self._decoded(call, key, held)

    async def afind(self, call: Call, key: str, prompt: str, llm_string: str) -> list[Generation] | None:
        """See find."""
        if removals.pending:
            await removals.asettle(key)
        held = await call.cache.afetch(key, leave=False)
        return await self._abrought(call, prompt, llm_string) if held is None else self._decoded(call, key, held)

    def failed(self, operation: str, error: Exception) -> None:
        """Record an unexpected error, which must not reach the caller."""
        note_failure(self._cache, operation, error)

    # --- calls

    def _asked(self, prompt: str, llm_string: str) -> Asked:
        """Return the call of a lookup with these texts, with its model if that is known."""
        found = asking()
        like_messages = (found is None or not found.plain) and holds_messages(prompt)
        run = take_run(llm_string, like_messages=like_messages)
        if run is not None and run.model is not None:
            return Asked(self._calls.begin(run, run.model, plain=run.plain), llm_string)
        if found is None:
            return Asked(self._calls.begin(run, plain=_is_plain(run, prompt, llm_string)), llm_string)
        if found.model is None:
            return Asked(self._calls.begin(run, plain=True)._replace(settings=UNREADABLE_SETTINGS), llm_string)
        call = self._calls.begin(run, found.model, plain=found.plain)
        return Asked(call, llm_string if found.text is None else found.text)

    def _asked_without_lookup(self, prompt: str, llm_string: str) -> Asked:
        """Return the call of an update without a known lookup."""
        run = take_run(llm_string, like_messages=False)
        model = None if run is None else run.model
        return Asked(self._calls.begin(run, model, plain=_is_plain(run, prompt, llm_string)), llm_string)

    # --- hits

    def _at_hand(self, call: Call, key: str) -> bytes | Hit | None:
        """Return the value of *key* in memory, or the hit if hits are marked."""
        return call.cache.peek_hit(key) if self._marks_hits else call.cache.peek(key)

    def _decoded(self, call: Call, key: str, held: bytes | Hit) -> list[Generation] | None:
        try:
            if generations := decode(held if isinstance(held, bytes) else held.entry.value):
                if self._marks_hits and not isinstance(held, bytes):
                    mark(generations, held.entry, held.tier)
                return generations
            reason = "it holds no generations"
        except ValueError as error:
            reason = str(error)
        call.cache.reject(key, reason)
        return None

    # --- the legacy cache

    def _brought(self, call: Call, prompt: str, llm_string: str) -> list[Generation] | None:
        """Return the answer of the legacy cache and store it here; None if it was removed here before."""
        if self._legacy is None or call.options.mode == "read_only" or not self._calls.is_told_by_texts(call, llm_string):
            return None
        born = call.cache.ticket()
        # without a log, removals are unknown
        if born.epoch <= 0 or (generations := self._legacy.lookup(prompt, llm_string)) is None:
            return None
        request, answer = self._calls.answer(call, prompt, llm_string, generations) or (None, None)
        if request is None or answer is None:
            return None
        # older than every removal, since its time of computation is unknown
        entry = call.cache.set(request, answer, born=Ticket(born.epoch, 0))
        return None if entry is None else self._decoded(call, entry.key, Hit(entry, "legacy"))

    async def _abrought(self, call: Call, prompt: str, llm_string: str) -> list[Generation] | None:
        """See _brought."""
        if self._legacy is None or call.options.mode == "read_only" or not self._calls.is_told_by_texts(call, llm_string):
            return None
        born = await call.cache.aticket()
        if born.epoch <= 0 or (generations := await self._legacy.alookup(prompt, llm_string)) is None:
            return None
        request, answer = self._calls.answer(call, prompt, llm_string, generations) or (None, None)
        if request is None or answer is None:
            return None
        entry = await call.cache.aset(request, answer, born=Ticket(born.epoch, 0))
        return None if entry is None else self._decoded(call, entry.key, Hit(entry, "legacy"))

    # --- errors

    def _legacy_failed(self, reason: str) -> None:
        self._cache.report(Event(kind="adapter_failed", namespace=self._cache.name, reason=f"legacy: {reason}"))
        self._calls.once.warn(f"the legacy cache: {reason}")

    @staticmethod
    def _check_criteria(criteria: dict[str, Any]) -> None:
        if unknown := criteria.keys() - set(_CRITERIA):
            error = ConfigurationError.unknown(what="criterion of clear", name=min(unknown), allowed=_CRITERIA)
            raise TypeError(str(error))


def _led(call: Call) -> Led | None:
    """Return the callback for a call that leads; None for a call that neither leads nor follows."""
    run, options = call.run, call.options
    if run is None or producing.get() or options.mode != "default" or options.single_flight is False:
        return None
    return run.led


def _is_plain(run: Run | None, prompt: str, llm_string: str) -> bool:
    """Return True for a model that completes a text. LangChain announces calls of chat models only, so a call without a run is plain."""
    return run.plain if run is not None else not (holds_messages(prompt) and is_written_out_model(llm_string))


def _checked(call: Call, text: str, prompt: str, llm_string: str, found: list[Generation] | None) -> list[Generation] | None:
    if found is None:
        check_only_cached(call.options)
        if call.run is not None or call.settings is not None:
            note_asked(prompt if holds_messages(prompt) else None, llm_string, Asked(call, text))
    else:
        forget_item_ids(found)
    return found
