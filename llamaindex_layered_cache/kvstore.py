"""`LayeredKVStore`: LlamaIndex's key-value store, in tiers: for `IngestionCache`, `embeddings_cache`, document and index stores.

    store = LayeredKVStore(TieredCache("memory://", "redis://host/0", "mongodb://host/llm"))
    pipeline = IngestionPipeline(transformations=[...], cache=IngestionCache(cache=store))

The laws of this edge:

- A collection is a child namespace of the store's, under its own name where that is a good one. A value says which key it belongs to: so
  keys can be listed, and no key ever gets another one's value.
- What is put replaces what was there. What comes back is equal, in new objects (`_kv_values`).
- A tier that fails counts as empty: `get` finds nothing there, `put` goes on in the others. Nothing is raised, but for removals.
- A value that cannot be kept is left out, and no tier serves an older value of its key. A strict store raises instead, and the older value
  stays.
- It has no length, and the default repr: LlamaIndex takes an empty store for none, and a repr for a part of what it caches.
- A pickle of it is made again from the URLs of its tiers, as worker processes of pipelines do it.

Document and index stores are no caches: what they hold is the only copy. See the class for what it takes to keep it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from layered_cache import (
    Answer,
    ConfigurationError,
    EncodeError,
    Entry,
    Event,
    Receipt,
    Request,
    Ticket,
    TieredCache,
    TierUnavailableError,
)
from layered_cache.adapting import engine_of, seconds_of
from layered_cache.once import Once
from layered_cache.units import Duration
from llama_index.core.storage.kvstore.types import DEFAULT_BATCH_SIZE, DEFAULT_COLLECTION, BaseKVStore

from llamaindex_layered_cache import _kv_values as codec

FRAMEWORK = "llamaindex"

_PARAMS = {"kind": "kv"}
_MOST_AT_ONCE = 250  # pairs, and
_MOST_BYTES = 4 * 1024 * 1024  # of them: what a tier can take within its budget
_HASHED = "~"  # before the names of collections that cannot be names of namespaces

Pairs = Sequence[tuple[str, dict[str, Any]]]


class LayeredKVStore(BaseKVStore):
    """A LlamaIndex store of pairs in tiers, fastest first. Every method may be called from any thread, the coroutines from any loop.

    For caches, any tiers will do. A document or index store holds what is nowhere else, and changes it: let it have one tier, which all
    processes share and which throws nothing away, and no end of time:

        LayeredKVStore(TieredCache("mongodb://host/llm"), namespace="documents", ttl=math.inf, strict=True)

    (`redis://host/0#ttl=36500d` likewise, on a server that evicts nothing and saves to disk; `sqlite:///documents.db` on one machine.) In a
    memory tier, other processes would go on with what was replaced; of several tiers, the log of removals forgets the oldest ten thousand,
    and what is older than these counts as removed. A `put` returns when the tier has the pair, or when its time is over; what it has not
    got then is written in the background, is lost if the process dies, and is told of (`TieredCache(observers=...)`), not raised.

    Args:
        cache: The tiers, or an adapter over them. To be pickled, it has to be made from URLs.
        namespace: The name of the child namespace of *cache* in which it lives. Stores of different names do not meet.
        ttl: How long a pair is kept: seconds, a timedelta or a text (`"30d"`), `math.inf` for ever; as long as the policy of *cache* says
            (30 days by default), unless given. A tier may keep it for less (Redis: 7 days, unless its URL says `#ttl=...`).
        strict: Whether `put` and its like raise where a value cannot be kept. An `EncodeError` before any I/O: the value would not come
            back equal, the slowest tier cannot hold so many bytes, or the policy of *cache* refuses it. A `TierError`: the log of removals
            was never read, so that no tier would keep the pair. If not strict, the value is left out: its key holds nothing then, one
            warning is logged, and a pipeline continues.

    Raises:
        ConfigurationError: Before any I/O, if an argument is wrong; so do all methods.
    """

    def __init__(self, cache: TieredCache, *, namespace: str = "kv", ttl: Duration | None = None, strict: bool = False) -> None:
        if type(strict) is not bool:
            msg = f"strict must be True or False, not {strict!r}"
            raise ConfigurationError(msg)
        self._cache = engine_of(cache).namespace(namespace)
        self._ttl = seconds_of(ttl)
        self._strict = strict
        self._once = Once()
        self._cache.namespace(_hashed(DEFAULT_COLLECTION))  # there is room for any collection's name

    @property
    def engine(self) -> TieredCache:
        """The cache that this one is an adapter of, in its own namespace; collections are child namespaces of it."""
        return self._cache

    # --- reading

    def get(self, key: str, collection: str = DEFAULT_COLLECTION) -> dict[str, Any] | None:
        """Return the value of *key*, or None."""
        cache, request = self._of(collection), _request(key)
        if (hit := cache.peek_hit(cache.key(request))) is not None:
            return _value(cache, key, hit.entry)
        return _value(cache, key, cache.get_many([request], stale=True, leave=False).get(request))

    async def aget(self, key: str, collection: str = DEFAULT_COLLECTION) -> dict[str, Any] | None:
        """See get."""
        cache, request = self._of(collection), _request(key)
        if (hit := cache.peek_hit(cache.key(request))) is not None:
            return _value(cache, key, hit.entry)
        return _value(cache, key, (await cache.aget_many([request], stale=True, leave=False)).get(request))

    def get_all(self, collection: str = DEFAULT_COLLECTION) -> dict[str, dict[str, Any]]:
        """Return all pairs of *collection*, in no order. What is put or removed meanwhile may come or not.

        A tier that fails counts as empty; with Redis as the slowest one, its server goes through all its keys.
        """
        cache = self._of(collection)
        pairs = (_pair(cache, entry) for entry in cache.entries())
        return dict(pair for pair in pairs if pair is not None)

    async def aget_all(self, collection: str = DEFAULT_COLLECTION) -> dict[str, dict[str, Any]]:
        """See get_all."""
        cache = self._of(collection)
        pairs = [_pair(cache, entry) async for entry in cache.aentries()]
        return dict(pair for pair in pairs if pair is not None)

    # --- writing

    def put(self, key: str, val: dict[str, Any], collection: str = DEFAULT_COLLECTION) -> None:
        """Hold *val* under *key*, in place of what was there."""
        self.put_all([(key, val)], collection)

    async def aput(self, key: str, val: dict[str, Any], collection: str = DEFAULT_COLLECTION) -> None:
        """See put."""
        await self.aput_all([(key, val)], collection)

    def put_all(self, kv_pairs: Pairs, collection: str = DEFAULT_COLLECTION, batch_size: int = DEFAULT_BATCH_SIZE) -> None:  # noqa: ARG002 - the tiers know better how much they take at once
        """Hold *kv_pairs*; of two of one key, the last. Each tier is asked once for up to 250 of them."""
        cache = self._of(collection)
        answers, left_out = self._answers(kv_pairs, cache, collection)
        for batch in _batches(answers):
            held = cache.set_many(batch, born=self._checked(cache.ticket(), cache))
            left_out += [request for request in batch if request not in held]
        if left_out:
            cache.discard([cache.key(request) for request in left_out])

    async def aput_all(self, kv_pairs: Pairs, collection: str = DEFAULT_COLLECTION, batch_size: int = DEFAULT_BATCH_SIZE) -> None:  # noqa: ARG002
        """See put_all."""
        cache = self._of(collection)
        answers, left_out = self._answers(kv_pairs, cache, collection)
        for batch in _batches(answers):
            held = await cache.aset_many(batch, born=self._checked(await cache.aticket(), cache))
            left_out += [request for request in batch if request not in held]
        if left_out:
            await cache.adiscard([cache.key(request) for request in left_out])

    def delete(self, key: str, collection: str = DEFAULT_COLLECTION) -> bool:
        """Remove *key*; return whether a tier had it. Other processes obey within `Policy.max_staleness`.

        Raises:
            DeletionError: It may still be found.
        """
        return _removed(self._of(collection).erase(_request(key)))

    async def adelete(self, key: str, collection: str = DEFAULT_COLLECTION) -> bool:
        """See delete."""
        return _removed(await self._of(collection).aerase(_request(key)))

    # --- names and values

    def _of(self, collection: str) -> TieredCache:
        """Return the cache of *collection*."""
        if not isinstance(collection, str):  # pyright: ignore[reportUnnecessaryIsInstance] - the caller may be untyped
            msg = f"a collection is named by a text, not by a {type(collection).__qualname__}"
            raise ConfigurationError(msg)
        if collection and not collection.startswith(_HASHED):
            with suppress(ConfigurationError):
                return self._cache.namespace(collection)
        return self._cache.namespace(_hashed(collection))

    def _answers(self, pairs: Pairs, cache: TieredCache, collection: str) -> tuple[dict[Request, Answer], list[Request]]:
        """Return what is to be held, and the requests whose values cannot be."""
        requests = [(_request(key), key, value) for key, value in pairs]
        found = {request: self._answer(request, key, value, cache, collection) for request, key, value in requests}
        answers = {request: answer for request, answer in found.items() if answer is not None}
        return answers, [request for request in found if request not in answers]

    def _answer(self, request: Request, key: str, value: dict[str, Any], cache: TieredCache, collection: str) -> Answer | None:
        if not isinstance(value, dict):  # pyright: ignore[reportUnnecessaryIsInstance] - the caller may be untyped
            msg = f"a value must be a dictionary, not a {type(value).__qualname__}"
            raise ConfigurationError(msg)
        try:
            answer = Answer(value=codec.encode(key, value), codec=codec.CODEC, keep_for=self._ttl)
        except EncodeError as error:
            msg = f"a value of the collection {collection!r} cannot be kept, convert it first: {error}"
            if self._strict:
                raise EncodeError(msg) from error
            self._leave_out(cache, "not encodable", msg, msg)
            return None
        what = f"a value of the collection {collection!r} cannot be kept"
        if (why := cache.why_too_large(answer.value)) is not None:
            if self._strict:
                msg = f"{what}: {why}"
                raise EncodeError(msg)
            self._leave_out(cache, "too large", f"{what}, nor can others that are as large: {why}", f"too large for {collection}")
            return None
        if self._strict and (refusal := cache.policy.refuses(request, answer)) is not None:
            msg = f"{what}: the policy of the cache refuses it ({refusal})"
            raise EncodeError(msg)
        return answer

    def _leave_out(self, cache: TieredCache, reason: str, warning: str, about: str) -> None:
        cache.report(Event(kind="not_stored", namespace=cache.name, reason=reason))
        self._once.warn(warning, about=about)

    def _checked(self, born: Ticket, cache: TieredCache) -> Ticket:
        """Return *born* if a pair that is born then can last.

        Raises:
            TierUnavailableError: It cannot, and the store is strict.
        """
        if self._strict and born.epoch <= 0:
            reason = "the log of removals cannot be read, so no pair would last; put it again later"
            raise TierUnavailableError(cache.tiers[-1].name, "write", reason)
        return born


def _hashed(collection: str) -> str:
    return _HASHED + hashlib.sha256(collection.encode("utf-8", "surrogatepass")).hexdigest()


def _request(key: str) -> Request:
    if not isinstance(key, str):  # pyright: ignore[reportUnnecessaryIsInstance] - the caller may be untyped
        msg = f"a key must be a text, not a {type(key).__qualname__}"
        raise ConfigurationError(msg)
    return Request(key, params=_PARAMS, framework=FRAMEWORK)


def _batches(answers: Mapping[Request, Answer]) -> Iterator[dict[Request, Answer]]:
    """Yield *answers* in parts that a tier can take at once."""
    batch: dict[Request, Answer] = {}
    size = 0
    for request, answer in answers.items():
        if batch and (len(batch) == _MOST_AT_ONCE or size + len(answer.value) > _MOST_BYTES):
            yield batch
            batch, size = {}, 0
        batch[request] = answer
        size += len(answer.value)
    if batch:
        yield batch


def _value(cache: TieredCache, key: str, entry: Entry | None) -> dict[str, Any] | None:
    """Return the value of *key* that *entry* holds; None if it holds none."""
    pair = None if entry is None else _pair(cache, entry)
    return pair[1] if pair is not None and pair[0] == key else None


def _pair(cache: TieredCache, entry: Entry) -> tuple[str, dict[str, Any]] | None:
    """Return the pair that *entry* holds; None, having told why, if that is not to be read."""
    try:
        if entry.codec == codec.CODEC:
            return codec.decode(entry.value)
        reason = "it is of another codec"
    except ValueError as error:
        reason = str(error)
    cache.reject(entry.key, reason)
    return None


def _removed(receipt: Receipt) -> bool:
    return any(receipt.removed.values())
