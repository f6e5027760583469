"""`LayeredCache`: LangChain's cache, in tiers.

    from langchain_core.globals import set_llm_cache
    from langchain_layered_cache import LayeredCache

    set_llm_cache(LayeredCache())

LangChain looks up before it calls a model and updates after it. Both turn its two texts into a request (`_requests`), its generations
into bytes (`_codec`), and ask the engine. The laws of this edge:

- Nothing that the cache does raises into the call, except the removal that a caller asked for.
- A hit is a real `list` (LangChain takes anything else for a miss), never an empty one, of objects that nobody else has.
- A request of which no exact key can be made is not cached; a warning says once which parameter is to blame.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, cast

from langchain_core.caches import BaseCache
from langchain_core.outputs import Generation
from layered_cache import (
    Answer,
    ConfigurationError,
    EncodeError,
    Event,
    MissingClientError,
    Observer,
    Policy,
    Receipt,
    Request,
    Stats,
    Tier,
    TieredCache,
    UncacheableRequestError,
)
from layered_cache.config import load_settings

from langchain_layered_cache._answers import to_answer
from langchain_layered_cache._codec import decode
from langchain_layered_cache._memo import Memo
from langchain_layered_cache._models import Model, parse_model
from langchain_layered_cache._requests import to_request

_log = logging.getLogger("layered_cache")

# characters of prompts whose keys are remembered: to compare a text is quicker than to hash it as a key must be, by two microseconds
_REMEMBERED = 16 * 1024 * 1024

_CRITERIA = ("key", "tag", "model", "prompt", "created_before", "created_after", "namespace", "dry_run")


def default_tiers() -> tuple[str, str]:
    """Return memory and a file in the user's cache folder, or in `LAYERED_CACHE_DIR`."""
    if not (folder := os.environ.get("LAYERED_CACHE_DIR")):
        try:
            import platformdirs  # noqa: PLC0415 - lazy, as all clients
        except ImportError as error:
            msg = "the default tiers need platformdirs"
            raise MissingClientError(msg, "langchain") from error
        folder = platformdirs.user_cache_path("layered-cache")
    path = Path(folder).expanduser().absolute() / "cache.sqlite3"
    return "memory://", f"sqlite:///{path}"


def _length(reading: tuple[object, ...]) -> int:
    return len(cast("str", reading[0])) + 300  # and what else a key takes


class LayeredCache(BaseCache):
    """A LangChain cache in tiers, fastest first.

        LayeredCache()                                           memory, and a file in the user's cache folder
        LayeredCache("memory://", "sqlite:///answers.db")        tiers by URL or as objects
        LayeredCache(cache=TieredCache(...))                     over an engine that others use too

    Args:
        tiers: URLs or `layered_cache.Tier` objects.
        namespace: Separates applications; part of every key. `"default"` unless given.
        policy: How long, how often, how much.
        observers: Told of every event, inline.
        cache: An engine to use instead of making one of the above.

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
    ) -> None:
        if cache is None:
            cache = TieredCache(
                *(tiers or default_tiers()), namespace="default" if namespace is None else namespace, policy=policy, observers=observers
            )
        elif tiers or policy is not None or observers or namespace is not None:
            msg = "cache= brings its own tiers, namespace, policy and observers: give either them or cache"
            raise ConfigurationError(msg)
        self._cache = cache
        self._peek = cache.peek
        self._models: Memo[str, Model] = Memo(512)
        self._keys: Memo[tuple[object, ...], str] = Memo(_REMEMBERED, weigh=_length)
        self._warned: set[str] = set()

    @classmethod
    def from_env(cls, file: str | PathLike[str] | None = None, *, observers: Iterable[Observer] = ()) -> LayeredCache:
        """Make one from `LAYERED_CACHE_*` variables and a TOML file (see `layered_cache.config`); without tiers there, the default ones.

        Raises:
            ConfigurationError: A name or value is not allowed.
        """
        settings = load_settings(file)
        tiers = settings.open_tiers() or default_tiers()
        return cls(*tiers, namespace=settings.namespace, policy=settings.policy, observers=observers)

    @property
    def engine(self) -> TieredCache:
        """The cache that this one is an adapter of."""
        return self._cache

    # --- LangChain's side

    def lookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        """Return the generations for *prompt* under *llm_string*, new objects each time, or None. It raises nothing."""
        try:
            key = self._key(prompt, llm_string)
            if key is None:
                return None
            if (value := self._peek(key)) is None and (value := self._cache.fetch(key)) is None:
                return None
            return self._decoded(key, value)
        except Exception as error:  # noqa: BLE001 - whatever it is, the model answers
            return self._failed("lookup", error)

    async def alookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        """See lookup."""
        try:
            key = self._key(prompt, llm_string)
            if key is None:
                return None
            if (value := self._peek(key)) is None and (value := await self._cache.afetch(key)) is None:
                return None
            return self._decoded(key, value)
        except Exception as error:  # noqa: BLE001 - whatever it is, the model answers
            return self._failed("lookup", error)

    def update(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        """Keep *return_val* for *prompt* under *llm_string*, as far as the policy admits it. It raises nothing."""
        try:
            if (found := self._answer(prompt, llm_string, return_val)) is not None:
                self._cache.set(*found)
        except Exception as error:  # noqa: BLE001 - whatever it is, the answer is there and is paid for
            self._failed("update", error)

    async def aupdate(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        """See update."""
        try:
            if (found := self._answer(prompt, llm_string, return_val)) is not None:
                await self._cache.aset(*found)
        except Exception as error:  # noqa: BLE001 - whatever it is, the answer is there and is paid for
            self._failed("update", error)

    def clear(self, **kwargs: Any) -> None:  # noqa: ANN401 - LangChain's signature
        """Remove everything of this namespace, or, with the criteria of `invalidate`, what meets them.

        Raises:
            TypeError: A criterion is unknown.
            DeletionError: It could not be recorded; what it names may still be served.
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

    # --- the engine's side

    def invalidate(self, **criteria: Any) -> Receipt:  # noqa: ANN401 - as TieredCache.invalidate
        """See `TieredCache.invalidate`."""
        return self._cache.invalidate(**criteria)

    async def ainvalidate(self, **criteria: Any) -> Receipt:  # noqa: ANN401 - as TieredCache.invalidate
        """See invalidate."""
        return await self._cache.ainvalidate(**criteria)

    def stats(self) -> Stats:
        """Return hits, misses and what was saved so far."""
        return self._cache.stats()

    def close(self) -> None:
        """See `TieredCache.close`."""
        self._cache.close()

    async def aclose(self) -> None:
        """See close."""
        await self._cache.aclose()

    def key(self, prompt: str, llm_string: str) -> str | None:
        """Return the key of *prompt* under *llm_string*, for `invalidate(key=...)`; None if it has none."""
        return self._key(prompt, llm_string)

    def __deepcopy__(self, memo: object) -> LayeredCache:
        return self  # it is a handle: who copies a model goes on with the same cache

    def __repr__(self) -> str:
        return f"LayeredCache({self._cache!r})"

    # --- keys and values

    def _model(self, llm_string: str) -> Model:
        model = self._models.get(llm_string)
        if model is None or (model.classes and not model.is_current):
            model = parse_model(llm_string)
            self._models.put(llm_string, model)
        return model

    def _key(self, prompt: str, llm_string: str) -> str | None:
        """Return the key, at once if these very texts were seen before."""
        model = self._model(llm_string)
        reading = model.reading(prompt)
        if (key := self._keys.get(reading)) is None:
            if (request := self._request(prompt, model)) is None:
                return None
            key = self._cache.key(request)
            self._keys.put(reading, key)
        return key

    def _request(self, prompt: str, model: Model) -> Request | None:
        try:
            return to_request(prompt, model)
        except UncacheableRequestError as error:
            reason = str(error)
            self._cache.report(Event(kind="uncacheable", namespace=self._cache.name, reason=reason))
            if reason not in self._warned and len(self._warned) < 1000:  # noqa: PLR2004
                self._warned.add(reason)
                _log.warning("a request is not cached: %s", reason)
            return None

    def _answer(self, prompt: str, llm_string: str, generations: Sequence[Generation]) -> tuple[Request, Answer] | None:
        model = self._model(llm_string)
        if not generations or (request := self._request(prompt, model)) is None:
            return None
        try:
            return request, to_answer(generations, model.name)
        except EncodeError as error:
            self._cache.report(Event(kind="not_stored", namespace=self._cache.name, model=model.name, reason="not encodable"))
            if (reason := str(error)) not in self._warned:
                self._warned.add(reason)
                _log.warning("an answer is not cached: %s", reason)
            return None

    def _decoded(self, key: str, value: bytes) -> list[Generation] | None:
        try:
            if generations := decode(value):
                return generations
            reason = "it holds no generations"
        except ValueError as error:
            reason = str(error)
        self._cache.reject(key, reason)
        return None

    def _failed(self, operation: str, error: Exception) -> None:
        """Note what must not happen and must not hurt."""
        self._cache.report(Event(kind="adapter_failed", namespace=self._cache.name, reason=f"{operation}: {type(error).__name__}"))
        _log.error("%s failed and counts as a miss: %s", operation, type(error).__name__, exc_info=_log.isEnabledFor(logging.DEBUG))

    @staticmethod
    def _check_criteria(criteria: dict[str, Any]) -> None:
        if unknown := criteria.keys() - set(_CRITERIA):
            error = ConfigurationError.unknown(what="criterion of clear", name=min(unknown), allowed=_CRITERIA)
            raise TypeError(str(error))
