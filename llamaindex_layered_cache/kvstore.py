"""`LayeredKVStore`: LlamaIndex's key-value store, in tiers: for `IngestionCache`, `embeddings_cache`, document and index stores.

    store = LayeredKVStore(TieredCache("memory://", "redis://host/0", "mongodb://host/llm"))
    pipeline = IngestionPipeline(transformations=[...], cache=IngestionCache(cache=store))

The laws of this edge:

- A collection is a child namespace of the store, under its own name if that is a valid one. A value contains its key: so keys
  can be listed, and no key gets the value of another key.
- `put` replaces the older value. `get` returns an equal value, in new objects (`_kv_codec`).
- A tier that fails counts as empty: `get` reads the next tier, and `put` writes to the remaining ones. Only removals raise.
- A value that cannot be stored is left out, and no tier serves an older value of its key. A strict store raises instead, and
  the older value stays.
- The store has no length and the default repr: LlamaIndex treats an empty store as None, and uses the repr in its keys.
- A pickle contains the URLs of the tiers, for the worker processes of pipelines.

Document and index stores are no caches: they hold the only copy. The class describes how to keep it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from layered_cache import Answer, ConfigurationError, EncodeError, Entry, Event, Receipt, Request, Ticket, TieredCache, TierUnavailableError
from layered_cache.adapters.common import Duration, engine_of, seconds_of
from layered_cache.adapters.log_once import Once
from llama_index.core.storage.kvstore.types import DEFAULT_BATCH_SIZE, DEFAULT_COLLECTION, BaseKVStore

from llamaindex_layered_cache import _kv_codec as codec

FRAMEWORK = "llamaindex"

_PARAMS = {"kind": "kv"}
# the pairs and bytes of one batch, which a tier can write within its budget
_MOST_AT_ONCE = 250
_MOST_BYTES = 4 * 1024 * 1024
# the prefix of collections whose names are not valid names of namespaces
_HASHED = "~"

Pairs = Sequence[tuple[str, dict[str, Any]]]


class LayeredKVStore(BaseKVStore):
    """A LlamaIndex store of pairs in tiers, fastest first. All methods are thread-safe; the coroutines work in any event loop.

    A cache can use any tiers. A document or index store holds the only copy of its data and changes it. Give it one tier
    that all processes share and that evicts nothing, and no expiry:

        LayeredKVStore(TieredCache("mongodb://host/llm"), namespace="documents", ttl=math.inf, strict=True)

    Alternatives are `redis://host/0#ttl=36500d`, on a server that does not evict and saves to disk, and
    `sqlite:///documents.db` on one machine. With a memory tier, other processes read the replaced value. With several
    tiers, the invalidation log keeps the newest ten thousand removals, and older pairs count as removed. `put` returns when
    the tier has the pair or its budget is over. An overdue write continues in the background and is lost if the process
    dies. Its failure is an event (`TieredCache(observers=...)`), not an error.

    Args:
        cache: The tiers, or an adapter over them. A pickle requires tiers that were made from URLs.
        namespace: The name of the child namespace of *cache* for the pairs. Stores with different names share nothing.
        ttl: How long a pair is kept: seconds, a `timedelta` or a text (`"30d"`); `math.inf` without an end. Default: the
            policy of *cache* (30 days by default). A tier may keep it for less (Redis: 7 days by default, `#ttl=...`).
        strict: Whether `put` and `put_all` raise if a value cannot be stored. An `EncodeError` before any I/O: the decoded
            value would not equal the original one, the slowest tier cannot hold so many bytes, or the policy of *cache*
            refuses it. A `TierError`: the invalidation log was never read, so no tier would keep the pair. If not strict,
            the value is left out: its key has no value then, one warning is logged, and a pipeline continues.

    Raises:
        ConfigurationError: Before any I/O, if an argument is invalid. All methods raise it.
    """

    def __init__(self, cache: TieredCache, *, namespace: str = "kv", ttl: Duration | None = None, strict: bool = False) -> None:
        if type(strict) is not bool:
            msg = f"strict must be True or False, not {strict!r}"
            raise ConfigurationError(msg)
        self._cache = engine_of(cache).namespace(namespace)
        self._ttl = seconds_of(ttl)
        self._strict = strict
        self._once = Once()
        self._cache.namespace(_hashed(DEFAULT_COLLECTION))  # raises if the namespace is too long for a collection

    @property
    def engine(self) -> TieredCache:
        """The engine, in the namespace of the store. Collections are its child namespaces."""
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
        """Return all pairs of *collection*, in no order. Concurrent changes may be included or not.

        A tier that fails counts as empty. With Redis as the slowest tier, the server scans all its keys.
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
        """Store *val* under *key*, and replace the older value."""
        self.put_all([(key, val)], collection)

    async def aput(self, key: str, val: dict[str, Any], collection: str = DEFAULT_COLLECTION) -> None:
        """See put."""
        await self.aput_all([(key, val)], collection)

    def put_all(self, kv_pairs: Pairs, collection: str = DEFAULT_COLLECTION, batch_size: int = DEFAULT_BATCH_SIZE) -> None:  # noqa: ARG002 - the tiers decide on the size of batches
        """Store *kv_pairs*; the last one of each key. Each tier gets one write for up to 250 pairs."""
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
        """Remove *key* and return whether a tier had it. Other processes follow within `Policy.max_staleness`.

        Raises:
            DeletionError: If the removal failed. The value may still be found.
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
        """Return the answers to store, and the requests of values that cannot be stored."""
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
            self._leave_out(cache, "too large", f"{what}, nor can a value of the same size: {why}", f"too large for {collection}")
            return None
        if self._strict and (refusal := cache.policy.refuses(request, answer)) is not None:
            msg = f"{what}: the policy of the cache refuses it ({refusal})"
            raise EncodeError(msg)
        return answer

    def _leave_out(self, cache: TieredCache, reason: str, warning: str, about: str) -> None:
        cache.report(Event(kind="not_stored", namespace=cache.name, reason=reason))
        self._once.warn(warning, about=about)

    def _checked(self, born: Ticket, cache: TieredCache) -> Ticket:
        """Return *born* if tiers keep a pair with that log position.

        Raises:
            TierUnavailableError: If they do not, and the store is strict.
        """
        if self._strict and born.epoch <= 0:
            reason = "the invalidation log cannot be read, so no tier would keep the pair. Put it again later"
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
    """Yield *answers* in batches for one write each."""
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
    """Return the value of *key* in *entry*; None if there is none."""
    pair = None if entry is None else _pair(cache, entry)
    return pair[1] if pair is not None and pair[0] == key else None


def _pair(cache: TieredCache, entry: Entry) -> tuple[str, dict[str, Any]] | None:
    """Return the pair in *entry*; None, with an event, if it cannot be decoded."""
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
