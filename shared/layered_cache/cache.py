"""`TieredCache`, the main class, with blocking and asynchronous methods. The engine decides.

Every method that uses a tier has an asynchronous form with the same signature and an `a` before its
name. All of them may be called from any thread and any event loop, and after a fork. A pickle of a
cache is restored from its URLs (see `_pickling`).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from datetime import datetime
from typing import TYPE_CHECKING, Self

from layered_cache._engine.adapter_hooks import AdapterFace
from layered_cache._engine.arguments import key_of, labelled, scopes_of
from layered_cache._engine.engine import Ask, Engine, Hit
from layered_cache._engine.exit_hooks import EXIT
from layered_cache._engine.invalidator import Removing
from layered_cache._engine.list_entries import Listing
from layered_cache._engine.pending_removals import pending
from layered_cache._engine.runtime import run
from layered_cache._engine.runtime_asyncio import Asyncio
from layered_cache._engine.runtime_threads import Blocking
from layered_cache._engine.single_flight import Computing, Led
from layered_cache._pickling import Recipe, checked_rules, forget, recipe_of, remade
from layered_cache._storage.rules import Scope, below
from layered_cache._util.clocks import SYSTEM_CLOCK, Clock
from layered_cache.entry import Answer, Entry, Request, Ticket, checked_tags
from layered_cache.errors import ConfigurationError
from layered_cache.events import Observer, Observers
from layered_cache.keys.key_rules import NO_RULES, KeyRules, NormalizeOption, key_rules
from layered_cache.keys.keys import check_namespace, child_namespace
from layered_cache.policy import Policy
from layered_cache.receipt import Receipt, together
from layered_cache.stats import Stats
from layered_cache.tiers._open import open_tier
from layered_cache.tiers.base import LocalTier, Tier, slot_entry

if TYPE_CHECKING:
    from os import PathLike

# the first two for adapters
__all__ = ["Hit", "Led", "TieredCache"]


class TieredCache(AdapterFace):
    """Answers in tiers, the fastest first.

        cache = TieredCache("memory://", "sqlite:///answers.db", namespace="faq")
        entry = cache.get_or_compute(request, lambda: ask_the_model())

    Args:
        tiers: URLs or `Tier` objects, the fastest first. Tiers from URLs are closed with the cache,
            objects are not.
        namespace: Separates applications. It is a part of every key.
        policy: The limits of time and size, and the behaviour on failures.
        observers: Callables that receive every event, in the thread or task of the event.
        clock: The clock, which tests replace.
        normalize: The normalization of user texts in keys: `"unicode"`, `"whitespace"`, `"case"`,
            several of them, a function, or a `Normalize`. It applies to the methods that take a
            request, and to cached models over this cache without a separate `normalize`. Keys of
            stores, embeddings, tools and graphs stay exact.

    Raises:
        ConfigurationError: If an argument is invalid. It is raised before any I/O.
    """

    def __init__(
        self,
        *tiers: str | Tier,
        namespace: str = "default",
        policy: Policy | None = None,
        observers: Iterable[Observer] = (),
        clock: Clock = SYSTEM_CLOCK,
        normalize: NormalizeOption = None,
    ) -> None:
        if not tiers:
            msg = 'a cache must have tiers, the fastest first: TieredCache("memory://", "sqlite:///answers.db")'
            raise ConfigurationError(msg)
        opened = [open_tier(tier, clock=clock) for tier in tiers]
        if any(isinstance(tier, LocalTier) for tier in opened[1:]):
            msg = "memory:// must be the first tier, because tiers are ordered from the fastest to the slowest"
            raise ConfigurationError(msg)
        names = [tier.name for tier in opened]
        if len(set(names)) < len(names):
            msg = f"tiers must have different names, got {names}. Set a name with #name=..."
            raise ConfigurationError(msg)
        self._namespace = check_namespace(namespace)
        self._rules = key_rules(None, normalize)
        self._engine = Engine(opened, policy or Policy(), clock, Observers(observers))
        self._computing = Computing(self._engine)
        self._removing = Removing(self._engine)
        self.use(self._rules)
        self._blocking = Blocking()
        self._asyncio = Asyncio()
        # the first cache of this engine; further ones refer to it
        self._first: TieredCache | None = None
        self._owned = [tier for tier, given in zip(opened, tiers, strict=True) if isinstance(given, str)]

    @classmethod
    def from_env(
        cls, file: str | PathLike[str] | None = None, *, observers: Iterable[Observer] = (), normalize: NormalizeOption = None
    ) -> TieredCache:
        """Return a cache configured by `LAYERED_CACHE_*` variables and a TOML file (see `config`).

        Raises:
            ConfigurationError: If a name or value is invalid, or if no tiers are configured.
        """
        # a tenth of the import time of this package, and few programs need it
        from layered_cache.config import load_settings  # noqa: PLC0415

        settings = load_settings(file)
        return cls(
            *settings.open_tiers(),
            namespace="default" if settings.namespace is None else settings.namespace,
            policy=settings.policy,
            observers=observers,
            normalize=normalize,
        )

    def namespace(self, name: str) -> TieredCache:
        """Return the cache of the child namespace *name*, over the same tiers and engine.

        The name may be that of a tenant, for example.
        """
        return self._handle(child_namespace(self._namespace, name))

    def _handle(self, namespace: str, rules: KeyRules | None = None) -> TieredCache:
        """Return the cache of *namespace* with the same engine, and with *rules* if given."""
        handle = object.__new__(TieredCache)
        handle.__dict__.update(self.__dict__)
        handle._namespace = namespace
        handle._rules = self._rules if rules is None else rules
        handle._first = self._first or self
        return handle

    @property
    def key_rules(self) -> KeyRules:
        """The rules for keys, including `normalize`."""
        return self._rules

    @property
    def exact(self) -> TieredCache:
        """This cache without `normalize`, for adapters, which have separate key rules."""
        if self._rules is NO_RULES:
            return self
        return self._handle(self._namespace, NO_RULES)

    @property
    def name(self) -> str:
        """The namespace."""
        return self._namespace

    @property
    def policy(self) -> Policy:
        """The policy."""
        return self._engine.policy

    @property
    def tiers(self) -> tuple[Tier, ...]:
        """The tiers, the fastest first."""
        return self._engine.tiers

    def key(self, request: Request) -> str:
        """Return the key of *request* in this namespace."""
        return self._key_of(request)

    # --- get

    def get(self, request: Request | str, *, stale: bool = False) -> Entry | None:
        """Return the entry of *request* (or of a key), or None.

        An entry in a slower tier is promoted to the faster ones. A tier that fails counts as empty.

        Args:
            request: The request or its key.
            stale: Return an entry that is no longer fresh, too.
        """
        key = self._key_of(request)
        if (entry := self._peek(key)) is not None:
            return entry
        return _entry(run(self._engine.read(self._blocking, [key], stale=stale)), key)

    async def aget(self, request: Request | str, *, stale: bool = False) -> Entry | None:
        """Return the entry of *request*, like `get`."""
        key = self._key_of(request)
        if (entry := self._peek(key)) is not None:
            return entry
        return _entry(await self._engine.read(self._asyncio, [key], stale=stale), key)

    def get_many(self, requests: Iterable[Request], *, stale: bool = False, leave: bool = True) -> dict[Request, Entry]:
        """Return the entries of *requests*, with one round trip per tier.

        Absent entries are not in the result.

        Args:
            requests: The requests.
            stale: As for `get`.
            leave: Remember a miss for the answer that the caller will store (see `set`). Use False
                if values are not computed.
        """
        keys = self._keys(requests)
        found = run(self._engine.read(self._blocking, list(dict.fromkeys(keys.values())), stale=stale, leave=leave))
        return _by_request(keys, found)

    async def aget_many(self, requests: Iterable[Request], *, stale: bool = False, leave: bool = True) -> dict[Request, Entry]:
        """Return the entries of *requests*, like `get_many`."""
        keys = self._keys(requests)
        found = await self._engine.read(self._asyncio, list(dict.fromkeys(keys.values())), stale=stale, leave=leave)
        return _by_request(keys, found)

    def entries(self) -> Iterator[Entry]:
        """Yield every entry of this namespace that `get(..., stale=True)` would return.

        Each entry is yielded once, in no order, as it is read. The tiers are read page by page.
        Entries that are set or erased in the meantime may be missing. A tier that fails counts as
        empty. If the slowest tier is Redis, its server walks through all its keys.
        """
        listing = Listing(self._engine, self._namespace)
        while (page := run(listing.page(self._blocking))) is not None:
            yield from page

    async def aentries(self) -> AsyncIterator[Entry]:
        """Yield every entry, like `entries`."""
        listing = Listing(self._engine, self._namespace)
        while (page := await listing.page(self._asyncio)) is not None:
            for entry in page:
                yield entry
            # a listing of memory never suspends, so other tasks get a turn here
            await asyncio.sleep(0)

    # --- set

    def set(self, request: Request, answer: Answer | bytes, *, tags: Iterable[str] = (), born: Ticket | None = None) -> Entry | None:
        """Store *answer* in every tier and return its entry.

        Return None if the policy does not admit the answer, or if it is void already. If this
        thread or task has looked up *request* before, the answer counts as computed since then: an
        invalidation in between makes it void.

        Args:
            request: The request.
            answer: The encoded answer. An `Answer` also contains facts about it.
            tags: Further tags.
            born: The log position at which the computation of the answer began (see `ticket`).
        """
        answers = self._answers({request: answer}, tags)
        return next(iter(run(self._computing.store(self._blocking, answers, born)).values()), None)

    async def aset(self, request: Request, answer: Answer | bytes, *, tags: Iterable[str] = (), born: Ticket | None = None) -> Entry | None:
        """Store *answer*, like `set`."""
        answers = self._answers({request: answer}, tags)
        return next(iter((await self._computing.store(self._asyncio, answers, born)).values()), None)

    def set_many(
        self, answers: Mapping[Request, Answer | bytes], *, tags: Iterable[str] = (), born: Ticket | None = None
    ) -> dict[Request, Entry]:
        """Store *answers*, with one round trip per tier, and return the stored entries."""
        asked = self._answers(answers, tags)
        return self._held(answers, run(self._computing.store(self._blocking, asked, born)))

    async def aset_many(
        self, answers: Mapping[Request, Answer | bytes], *, tags: Iterable[str] = (), born: Ticket | None = None
    ) -> dict[Request, Entry]:
        """Store *answers*, like `set_many`."""
        asked = self._answers(answers, tags)
        return self._held(answers, await self._computing.store(self._asyncio, asked, born))

    def ticket(self) -> Ticket:
        """Return the current log position, for the `born` of answers that are computed after it."""
        return run(self._engine.watch.ticket(self._blocking))

    async def aticket(self) -> Ticket:
        """Return the current log position, like `ticket`."""
        return await self._engine.watch.ticket(self._asyncio)

    # --- compute

    def get_or_compute(self, request: Request, compute: Callable[[], bytes | Answer], *, tags: Iterable[str] = ()) -> Entry:
        """Return the entry of *request*, or else the answer of *compute*.

        Concurrent callers share one call of *compute*. A stale entry is returned at once and
        refreshed once in the background, in a thread. Errors of *compute* are raised unchanged in
        all callers that wait for it. A caller waits for the computation of another caller for at
        most `Policy.max_wait`. It never waits inside of a computation, or in a thread with a
        running event loop.
        """
        key = self._key_of(request)
        if (entry := self._peek(key)) is not None:
            return entry
        labels = checked_tags(tags)

        async def computed() -> Answer:
            return labelled(compute(), labels)

        return run(self._computing.get_or_compute(self._blocking, self._ask(request, key), computed))

    async def aget_or_compute(
        self, request: Request, compute: Callable[[], Awaitable[bytes | Answer]], *, tags: Iterable[str] = ()
    ) -> Entry:
        """Return the entry of *request*, like `get_or_compute`.

        A stale entry is refreshed in a task of this loop, unless the loop ends before.
        """
        key = self._key_of(request)
        if (entry := self._peek(key)) is not None:
            return entry
        labels = checked_tags(tags)

        async def computed() -> Answer:
            return labelled(await compute(), labels)

        return await self._computing.get_or_compute(self._asyncio, self._ask(request, key), computed)

    # --- remove

    def delete(self, *requests: Request | str) -> Receipt:
        """Make the entries of *requests* (or keys) void in all processes, and erase them.

        Raises:
            DeletionError: If the invalidation could not be recorded, so they may still be served.
        """
        return run(self._removing.delete(self._blocking, self._namespace, [self._key_of(request) for request in requests]))

    async def adelete(self, *requests: Request | str) -> Receipt:
        """Make the entries of *requests* void, like `delete`."""
        return await self._removing.delete(self._asyncio, self._namespace, [self._key_of(request) for request in requests])

    def erase(self, *requests: Request | str) -> Receipt:
        """Erase entries like `delete`, for values that are set and not computed.

        A later `set` of such a value is always valid, whenever it began. With a single tier nothing
        is recorded. Otherwise a long-lived store would fill the log of rules, and rules that are
        removed from a full log make all older entries void.

        Raises:
            DeletionError: If they may still be served.
        """
        return run(self._removing.erase(self._blocking, self._namespace, [self._key_of(request) for request in requests]))

    async def aerase(self, *requests: Request | str) -> Receipt:
        """Erase entries, like `erase`."""
        return await self._removing.erase(self._asyncio, self._namespace, [self._key_of(request) for request in requests])

    def invalidate(
        self,
        *,
        key: str | Iterable[str] | None = None,
        tag: str | Iterable[str] | None = None,
        model: str | None = None,
        prompt: str | None = None,
        created_before: float | datetime | None = None,
        created_after: float | datetime | None = None,
        namespace: str | None = None,
        dry_run: bool = False,
    ) -> Receipt:
        """Make every entry of this namespace void that meets all given criteria.

        This includes answers that were computed before and are stored later. It takes effect in
        this process at once, and in other processes within `Policy.max_staleness`.

        Args:
            key: A key of this namespace, or several: any of them.
            tag: A tag, or several: any of them.
            model: The name of a model, or a glob (`gpt-4*`).
            prompt: The exact last user message. For normalized requests, texts match too that
                differ only in Unicode form, white space and case.
            created_before: Unix seconds or an aware datetime: entries with an earlier start of the
                computation.
            created_after: The same: entries with this start of the computation or a later one.
            namespace: The name of a child namespace to use instead. Without other criteria: all its
                entries.
            dry_run: Only count the entries, in the queryable tiers.

        Raises:
            ConfigurationError: If no criterion is given (`clear` removes all entries), or if one is
                invalid.
            DeletionError: If the invalidation could not be recorded, so its entries may still be
                served.
        """
        where = self._namespace if namespace is None else child_namespace(self._namespace, namespace)
        scopes = scopes_of(
            where,
            self._normalizers,
            key=key,
            tag=tag,
            model=model,
            prompt=prompt,
            created_before=created_before,
            created_after=created_after,
        )
        return run(self._removal(self._blocking, where, scopes, alone=namespace is None, dry_run=dry_run))

    async def ainvalidate(
        self,
        *,
        key: str | Iterable[str] | None = None,
        tag: str | Iterable[str] | None = None,
        model: str | None = None,
        prompt: str | None = None,
        created_before: float | datetime | None = None,
        created_after: float | datetime | None = None,
        namespace: str | None = None,
        dry_run: bool = False,
    ) -> Receipt:
        """Make every entry void that meets the criteria, like `invalidate`."""
        where = self._namespace if namespace is None else child_namespace(self._namespace, namespace)
        scopes = scopes_of(
            where,
            self._normalizers,
            key=key,
            tag=tag,
            model=model,
            prompt=prompt,
            created_before=created_before,
            created_after=created_after,
        )
        return await self._removal(self._asyncio, where, scopes, alone=namespace is None, dry_run=dry_run)

    async def _removal(self, fx: Blocking | Asyncio, where: str, scopes: list[Scope], *, alone: bool, dry_run: bool) -> Receipt:
        if not any(scopes) and alone:
            msg = "invalidate must have a criterion: key, tag, model, prompt, created_before, created_after. clear() removes all entries"
            raise ConfigurationError(msg)
        if dry_run:
            return together([await self._removing.matching(fx, where, scope) for scope in scopes])
        if not any(scopes):
            return await self._removing.clear(fx, where)
        return together([await self._removing.invalidate(fx, where, scope) for scope in scopes])

    def clear(self, *, children: bool = False) -> Receipt:
        """Make all entries of this namespace void. With *children*, include its child namespaces.

        Raises:
            DeletionError: If the invalidation could not be recorded.
        """
        where = below(self._namespace) if children else self._namespace
        return run(self._removing.clear(self._blocking, where))

    async def aclear(self, *, children: bool = False) -> Receipt:
        """Make all entries of this namespace void, like `clear`."""
        where = below(self._namespace) if children else self._namespace
        return await self._removing.clear(self._asyncio, where)

    # --- statistics, end, copies

    def stats(self) -> Stats:
        """Return the statistics of all namespaces of this engine."""
        return self._engine.stats()

    def close(self) -> None:
        """Write the queue for at most two seconds, and close the tiers that were created from URLs.

        This closes the engine and every other namespace of it. More than one call is no error. The
        queue is also written at the end of the process.
        """
        forget(self._first or self)
        pending.wait(EXIT)
        self._engine.close()
        for tier in self._owned:
            tier.close()

    async def aclose(self) -> None:
        """Close the cache, like `close`.

        The queue is written in a thread and does not block the loop.
        """
        closed: Future[None] = Future()
        # a separate thread, because the application may have filled the default executor
        threading.Thread(target=self._close_for, args=(closed,), name="layered-cache close", daemon=True).start()
        await asyncio.wrap_future(closed)

    def _close_for(self, closed: Future[None]) -> None:
        try:
            self.close()
        finally:
            closed.set_result(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __copy__(self) -> TieredCache:
        # a handle: a copied model uses the same cache
        return self

    def __deepcopy__(self, memo: object) -> TieredCache:
        return self

    def __reduce__(self) -> tuple[object, ...]:
        return _remade, (recipe_of(self.tiers, self.policy), self._namespace, checked_rules(self._rules))

    def __repr__(self) -> str:
        states = self._engine.availability.states()
        tiers = (f"{tier.name}: {states[tier.name]}" if tier.name in states else tier.name for tier in self.tiers)
        return f"TieredCache({', '.join(tiers)}, namespace={self._namespace!r})"

    # --- arguments

    def _normal(self, request: Request) -> Request:
        return request if self._rules is NO_RULES else self._rules.applied(request)

    def _key_of(self, request: Request | str) -> str:
        return key_of(self._normal(request) if isinstance(request, Request) else request, self._namespace)

    def _keys(self, requests: Iterable[Request]) -> dict[Request, str]:
        return {request: self._key_of(request) for request in requests}

    def _ask(self, request: Request, key: str) -> Ask:
        return Ask(self._normal(request), key, self._namespace)

    def _answers(self, answers: Mapping[Request, Answer | bytes], tags: Iterable[str]) -> dict[str, tuple[Ask, Answer]]:
        labels = checked_tags(tags)
        asks = ((self._ask(request, self._key_of(request)), answer) for request, answer in answers.items())
        return {ask.key: (ask, labelled(answer, labels)) for ask, answer in asks}

    def _held(self, answers: Mapping[Request, Answer | bytes], entries: Mapping[str, Entry]) -> dict[Request, Entry]:
        keys = self._keys(answers)
        return {request: entries[key] for request, key in keys.items() if key in entries}

    def _peek(self, key: str) -> Entry | None:
        slot = self._engine.peek(key)
        return None if slot is None else slot_entry(key, slot)


def _remade(recipe: Recipe, namespace: str, rules: KeyRules = NO_RULES) -> TieredCache:
    """Return the cache that a pickle describes."""
    # a method of this class
    handle = remade(_opened, recipe)._handle(namespace, rules)  # noqa: SLF001
    handle.use(rules)
    return handle


def _opened(tiers: list[Tier], policy: Policy) -> TieredCache:
    cache = TieredCache(*tiers, policy=policy)
    cache._owned = tiers  # noqa: SLF001 - an attribute of this class
    return cache


def _entry(found: Mapping[str, Hit], key: str) -> Entry | None:
    hit = found.get(key)
    return None if hit is None else hit.entry


def _by_request(keys: Mapping[Request, str], found: Mapping[str, Hit]) -> dict[Request, Entry]:
    return {request: found[key].entry for request, key in keys.items() if key in found}
