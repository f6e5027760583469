"""`TieredCache`: one object, both faces. Thin: what is decided is decided in the engine.

Every method that touches a tier has an asynchronous twin of the same signature, its name with an `a` before it. All of them may be
called from any thread and any event loop, and after a fork. A pickle of it is made again from its URLs (see `_recipes`).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from datetime import datetime
from typing import TYPE_CHECKING, Self

from layered_cache._adapter_face import AdapterFace
from layered_cache._arguments import key_of, labelled, scopes_of
from layered_cache._engine.aio import Asyncio
from layered_cache._engine.blocking import Blocking
from layered_cache._engine.computing import Computing, Led
from layered_cache._engine.effects import run
from layered_cache._engine.engine import Ask, Engine, Hit
from layered_cache._engine.exit_hooks import EXIT
from layered_cache._engine.listing import Listing
from layered_cache._engine.removing import Removing
from layered_cache._pending import pending
from layered_cache._recipes import Recipe, checked_rules, forget, recipe_of, remade
from layered_cache.clocks import SYSTEM_CLOCK, Clock
from layered_cache.entry import Answer, Entry, Request, Ticket, checked_tags
from layered_cache.errors import ConfigurationError
from layered_cache.events import Observer, Observers
from layered_cache.invalidation import Scope, below
from layered_cache.key_rules import NO_RULES, KeyRules, NormalizeOption, key_rules
from layered_cache.keys import check_namespace, child_namespace
from layered_cache.policy import Policy
from layered_cache.receipt import Receipt, together
from layered_cache.stats import Stats
from layered_cache.tiers._registry import open_tier
from layered_cache.tiers._tier import LocalTier, Tier, slot_entry

if TYPE_CHECKING:
    from os import PathLike

__all__ = ["Hit", "Led", "TieredCache"]  # the first two for adapters


class TieredCache(AdapterFace):
    """Answers in tiers, fastest first.

        cache = TieredCache("memory://", "sqlite:///answers.db", namespace="faq")
        entry = cache.get_or_compute(request, lambda: ask_the_model())

    Args:
        tiers: URLs or `Tier` objects, the fastest first. Those made from URLs are closed with the cache, others are not.
        namespace: Separates applications; part of every key.
        policy: How long, how often, how much.
        observers: Told of every event, inline.
        clock: Of tests.
        normalize: How texts of users are normalised in keys: `"unicode"`, `"whitespace"`, `"case"`, several of them, a function, or a
            `Normalize`. It applies to the methods that take a request, and to models that are cached over this cache without an own
            `normalize`. Keys of stores, embeddings, tools and graphs stay exact.

    Raises:
        ConfigurationError: Before any I/O, if anything is wrong with the arguments.
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
            msg = 'a cache needs tiers, the fastest first: TieredCache("memory://", "sqlite:///answers.db")'
            raise ConfigurationError(msg)
        opened = [open_tier(tier, clock=clock) for tier in tiers]
        if any(isinstance(tier, LocalTier) for tier in opened[1:]):
            msg = "memory:// must be the first tier: tiers stand fastest first, and no other is faster"
            raise ConfigurationError(msg)
        names = [tier.name for tier in opened]
        if len(set(names)) < len(names):
            msg = f"tiers must have different names, not {names}; name one by #name=..."
            raise ConfigurationError(msg)
        self._namespace = check_namespace(namespace)
        self._rules = key_rules(None, normalize)
        self._engine = Engine(opened, policy or Policy(), clock, Observers(observers))
        self._computing = Computing(self._engine)
        self._removing = Removing(self._engine)
        self.use(self._rules)
        self._blocking = Blocking()
        self._asyncio = Asyncio()
        self._first: TieredCache | None = None  # of this engine; who has another one refers to it
        self._owned = [tier for tier, given in zip(opened, tiers, strict=True) if isinstance(given, str)]

    @classmethod
    def from_env(
        cls, file: str | PathLike[str] | None = None, *, observers: Iterable[Observer] = (), normalize: NormalizeOption = None
    ) -> TieredCache:
        """Make one from `LAYERED_CACHE_*` variables and a TOML file (see `layered_cache.config`).

        Raises:
            ConfigurationError: A name or value is not allowed, or no tiers are named.
        """
        from layered_cache.config import load_settings  # noqa: PLC0415 - a tenth of the time of the import, and few need it

        settings = load_settings(file)
        return cls(
            *settings.open_tiers(),
            namespace="default" if settings.namespace is None else settings.namespace,
            policy=settings.policy,
            observers=observers,
            normalize=normalize,
        )

    def namespace(self, name: str) -> TieredCache:
        """Return the cache of the namespace *name* below this one's (a tenant, say), over the same tiers and engine."""
        return self._handle(child_namespace(self._namespace, name))

    def _handle(self, namespace: str, rules: KeyRules | None = None) -> TieredCache:
        """Return the cache of *namespace*, over the same tiers and engine, with other *rules* if they are given."""
        handle = object.__new__(TieredCache)
        handle.__dict__.update(self.__dict__)
        handle._namespace = namespace
        handle._rules = self._rules if rules is None else rules
        handle._first = self._first or self
        return handle

    @property
    def key_rules(self) -> KeyRules:
        """The rules for keys, `normalize` among them."""
        return self._rules

    @property
    def exact(self) -> TieredCache:
        """This cache without `normalize`: for adapters, which make keys by rules of their own."""
        if self._rules is NO_RULES:
            return self
        return self._handle(self._namespace, NO_RULES)

    @property
    def name(self) -> str:
        """The namespace."""
        return self._namespace

    @property
    def policy(self) -> Policy:
        """As given."""
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

        An entry found in a slower tier is promoted to the faster ones. A tier that fails counts as one that holds nothing.

        Args:
            request: What was asked, or its key.
            stale: Whether an entry that is no longer fresh will do.
        """
        key = self._key_of(request)
        if (entry := self._peek(key)) is not None:
            return entry
        return _entry(run(self._engine.read(self._blocking, [key], stale=stale)), key)

    async def aget(self, request: Request | str, *, stale: bool = False) -> Entry | None:
        """See get."""
        key = self._key_of(request)
        if (entry := self._peek(key)) is not None:
            return entry
        return _entry(await self._engine.read(self._asyncio, [key], stale=stale), key)

    def get_many(self, requests: Iterable[Request], *, stale: bool = False, leave: bool = True) -> dict[Request, Entry]:
        """Return the entries of *requests*, in one round trip per tier; absent ones are absent.

        Args:
            requests: What was asked.
            stale: As for `get`.
            leave: Whether a miss is remembered for the answer that its caller will store (see `set`); not, where values are not computed.
        """
        keys = self._keys(requests)
        found = run(self._engine.read(self._blocking, list(dict.fromkeys(keys.values())), stale=stale, leave=leave))
        return _by_request(keys, found)

    async def aget_many(self, requests: Iterable[Request], *, stale: bool = False, leave: bool = True) -> dict[Request, Entry]:
        """See get_many."""
        keys = self._keys(requests)
        found = await self._engine.read(self._asyncio, list(dict.fromkeys(keys.values())), stale=stale, leave=leave)
        return _by_request(keys, found)

    def entries(self) -> Iterator[Entry]:
        """Yield every entry of this namespace that `get(..., stale=True)` would return, once each, in no order, as it is read.

        The tiers are asked page by page. What is set or removed meanwhile may come or not. A tier that fails counts as one that holds
        nothing; with Redis as the slowest one, its server goes through all its keys.
        """
        listing = Listing(self._engine, self._namespace)
        while (page := run(listing.page(self._blocking))) is not None:
            yield from page

    async def aentries(self) -> AsyncIterator[Entry]:
        """See entries."""
        listing = Listing(self._engine, self._namespace)
        while (page := await listing.page(self._asyncio)) is not None:
            for entry in page:
                yield entry
            await asyncio.sleep(0)  # a listing of memory alone never waits: others shall have their turn

    # --- set

    def set(self, request: Request, answer: Answer | bytes, *, tags: Iterable[str] = (), born: Ticket | None = None) -> Entry | None:
        """Hold *answer* in every tier; return the entry, or None if the policy does not admit it or it is void already.

        If this thread or task has looked *request* up before, the answer counts as computed since then: an invalidation in
        between makes it void.

        Args:
            request: What was asked.
            answer: The encoded answer, with what is known of it if it is an `Answer`.
            tags: More labels.
            born: What was known of the invalidation log when the answer was computed (see `ticket`).
        """
        answers = self._answers({request: answer}, tags)
        return next(iter(run(self._computing.store(self._blocking, answers, born)).values()), None)

    async def aset(self, request: Request, answer: Answer | bytes, *, tags: Iterable[str] = (), born: Ticket | None = None) -> Entry | None:
        """See set."""
        answers = self._answers({request: answer}, tags)
        return next(iter((await self._computing.store(self._asyncio, answers, born)).values()), None)

    def set_many(
        self, answers: Mapping[Request, Answer | bytes], *, tags: Iterable[str] = (), born: Ticket | None = None
    ) -> dict[Request, Entry]:
        """Hold *answers*, in one round trip per tier; return what is held."""
        asked = self._answers(answers, tags)
        return self._held(answers, run(self._computing.store(self._blocking, asked, born)))

    async def aset_many(
        self, answers: Mapping[Request, Answer | bytes], *, tags: Iterable[str] = (), born: Ticket | None = None
    ) -> dict[Request, Entry]:
        """See set_many."""
        asked = self._answers(answers, tags)
        return self._held(answers, await self._computing.store(self._asyncio, asked, born))

    def ticket(self) -> Ticket:
        """Return what is known of the invalidation log now, for the `born` of answers whose computation begins now."""
        return run(self._engine.watch.ticket(self._blocking))

    async def aticket(self) -> Ticket:
        """See ticket."""
        return await self._engine.watch.ticket(self._asyncio)

    # --- compute

    def get_or_compute(self, request: Request, compute: Callable[[], bytes | Answer], *, tags: Iterable[str] = ()) -> Entry:
        """Return the entry of *request*; if there is none, the answer of *compute*, called once however many callers ask.

        A stale entry is returned at once and refreshed once in the background, in a thread. What *compute* raises reaches
        everyone who waits for it, unchanged. A caller waits for another one's computation for `Policy.max_wait` at most, and
        never from inside a computation of its own or from a thread whose event loop is running.
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
        """See get_or_compute. A stale entry is refreshed in a task of this loop, and not if the loop ends before."""
        key = self._key_of(request)
        if (entry := self._peek(key)) is not None:
            return entry
        labels = checked_tags(tags)

        async def computed() -> Answer:
            return labelled(await compute(), labels)

        return await self._computing.get_or_compute(self._asyncio, self._ask(request, key), computed)

    # --- remove

    def delete(self, *requests: Request | str) -> Receipt:
        """Make the entries of *requests* (or keys) void, everywhere, and erase them.

        Raises:
            DeletionError: It could not be recorded; they may still be served.
        """
        return run(self._removing.delete(self._blocking, self._namespace, [self._key_of(request) for request in requests]))

    async def adelete(self, *requests: Request | str) -> Receipt:
        """See delete."""
        return await self._removing.delete(self._asyncio, self._namespace, [self._key_of(request) for request in requests])

    def erase(self, *requests: Request | str) -> Receipt:
        """As delete, for values that are set, not computed: setting one again is meant, whenever it began.

        Where there is one tier alone nothing is recorded: a store that lives long would fill the log of rules, which voids what is older
        than the rules that leave it.

        Raises:
            DeletionError: They may still be served.
        """
        return run(self._removing.erase(self._blocking, self._namespace, [self._key_of(request) for request in requests]))

    async def aerase(self, *requests: Request | str) -> Receipt:
        """See erase."""
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
        """Make void every entry of this namespace that meets all criteria given; also those computed before and stored later.

        This process obeys at once, others within `Policy.max_staleness`.

        Args:
            key: A key of this namespace, or several: any of them.
            tag: A tag, or several: any of them.
            model: A model's name; may be a glob (`gpt-4*`).
            prompt: The last user message, exactly; of normalised requests, also as any text that differs in Unicode form, white space
                and case alone.
            created_before: Unix seconds or an aware datetime: whose computation began before.
            created_after: The same: whose computation began then or later.
            namespace: The name of a child namespace, to look there instead; on its own: everything there.
            dry_run: Only count, in the tiers that can be queried.

        Raises:
            ConfigurationError: No criterion is given (`clear` removes everything), or one has a wrong type.
            DeletionError: It could not be recorded; what it names may still be served.
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
        """See invalidate."""
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
            msg = "invalidate needs a criterion: key, tag, model, prompt, created_before, created_after; clear() removes everything"
            raise ConfigurationError(msg)
        if dry_run:
            return together([await self._removing.matching(fx, where, scope) for scope in scopes])
        if not any(scopes):
            return await self._removing.clear(fx, where)
        return together([await self._removing.invalidate(fx, where, scope) for scope in scopes])

    def clear(self, *, children: bool = False) -> Receipt:
        """Make everything in this namespace void, with *children* also in those below it; nothing else.

        Raises:
            DeletionError: It could not be recorded.
        """
        where = below(self._namespace) if children else self._namespace
        return run(self._removing.clear(self._blocking, where))

    async def aclear(self, *, children: bool = False) -> Receipt:
        """See clear."""
        where = below(self._namespace) if children else self._namespace
        return await self._removing.clear(self._asyncio, where)

    # --- the rest

    def stats(self) -> Stats:
        """Return what was counted so far, over all namespaces of this engine."""
        return self._engine.stats()

    def close(self) -> None:
        """Write what is queued, for two seconds at most, and let go of the tiers that were made from URLs.

        It closes the engine, hence also every other namespace over it. More than once is no error. What is queued is also written
        at the end of the process.
        """
        forget(self._first or self)
        pending.wait(EXIT)
        self._engine.close()
        for tier in self._owned:
            tier.close()

    async def aclose(self) -> None:
        """See close. The queue is written in a thread; the loop goes on meanwhile."""
        closed: Future[None] = Future()
        # a thread of its own: the default executor belongs to the application, which may have filled it
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
        return self  # it is a handle: who copies a model goes on with the same cache

    def __deepcopy__(self, memo: object) -> TieredCache:
        return self

    def __reduce__(self) -> tuple[object, ...]:
        return _remade, (recipe_of(self.tiers, self.policy), self._namespace, checked_rules(self._rules))

    def __repr__(self) -> str:
        states = self._engine.availability.states()
        tiers = (f"{tier.name}: {states[tier.name]}" if tier.name in states else tier.name for tier in self.tiers)
        return f"TieredCache({', '.join(tiers)}, namespace={self._namespace!r})"

    # --- what arguments mean

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
    """Return what a pickle tells of."""
    handle = remade(_opened, recipe)._handle(namespace, rules)  # noqa: SLF001 - of this class
    handle.use(rules)
    return handle


def _opened(tiers: list[Tier], policy: Policy) -> TieredCache:
    cache = TieredCache(*tiers, policy=policy)
    cache._owned = tiers  # noqa: SLF001 - of this class
    return cache


def _entry(found: Mapping[str, Hit], key: str) -> Entry | None:
    hit = found.get(key)
    return None if hit is None else hit.entry


def _by_request(keys: Mapping[Request, str], found: Mapping[str, Hit]) -> dict[Request, Entry]:
    return {request: found[key].entry for request, key in keys.items() if key in found}
