"""`LayeredByteStore`: LangChain's key-value store, in tiers.

    store = LayeredByteStore(LayeredCache())
    embeddings = CacheBackedEmbeddings.from_bytes_store(model, store, namespace="text-embedding-3-small")

The laws:

- Options of calls (`cache_options`) and `Policy.tenant_required` do not apply to a store. An application with tenants uses one
  store with its own namespace for each tenant.
- It is a cache: a value may be evicted or expire, so the store must not hold the only copy.
- A tier that fails counts as empty: `mget` reads the next tier, and `mset` writes to the remaining ones. Only removals raise.
- A value that is set replaces the older value of its key in every tier. If it cannot be kept, for example because
  it is too large, its key holds nothing.
- A value contains its key: so keys can be listed where requests are not stored, and no key gets the value of another key.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

from langchain_core.stores import BaseStore
from layered_cache import Answer, ConfigurationError, Entry, Event, Request, TieredCache
from layered_cache.adapters.common import Duration, batches, engine_of, seconds_of
from layered_cache.adapters.log_once import Once

from langchain_layered_cache._keys.request import FRAMEWORK
from langchain_layered_cache.cache import LayeredCache

_CODEC = "langchain-bytes-1"
# the length of the key, which precedes the value
_LENGTH = struct.Struct("<I")


class LayeredByteStore(BaseStore[str, bytes]):
    """A LangChain store of bytes in tiers, fastest first. All methods are thread-safe; the coroutines work in any event loop.

    Options of calls (`cache_options(...)`) do not apply to it. A tenant gets a store with another `namespace`, or
    `LayeredByteStore(cache.engine.namespace("tenant-7"))`.

    Args:
        cache: The tiers; a `LayeredCache` shares its own.
        namespace: The name of the child namespace of *cache* for the values. Stores with different names share nothing.
        ttl: How long a value is kept: seconds, a `timedelta` or a text (`"30d"`). Default: the policy of *cache*.

    Raises:
        ConfigurationError: Before any I/O, if an argument is invalid. All methods raise it.
    """

    def __init__(self, cache: TieredCache | LayeredCache, *, namespace: str = "bytes", ttl: Duration | None = None) -> None:
        self._cache = engine_of(cache).namespace(namespace)
        self._ttl = seconds_of(ttl)
        self._once = Once()

    @property
    def engine(self) -> TieredCache:
        """The engine, in the namespace of the store."""
        return self._cache

    # --- reading

    def mget(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the values of *keys*, in their order, None for those that are absent. Of up to 250 keys, each tier is asked once."""
        requests = _requests(keys)
        values: dict[str, bytes] = {}
        for batch in batches(requests):
            values |= self._values(self._cache.get_many(batch, stale=True, leave=False))
        return [values.get(key) for key in keys]

    async def amget(self, keys: Sequence[str]) -> list[bytes | None]:
        """See mget."""
        requests = _requests(keys)
        values: dict[str, bytes] = {}
        for batch in batches(requests):
            values |= self._values(await self._cache.aget_many(batch, stale=True, leave=False))
        return [values.get(key) for key in keys]

    def yield_keys(self, *, prefix: str | None = None) -> Iterator[str]:
        """Yield all keys, or those that start with *prefix*, each once, in no order. Values are read for that.

        Concurrent changes may be included or not.
        """
        for entry in self._cache.entries():
            if (key := self._key(entry)) is not None and key.startswith(prefix or ""):
                yield key

    async def ayield_keys(  # pyright: ignore[reportIncompatibleMethodOverride] - the other one yields as well, though its type hides it
        self, *, prefix: str | None = None
    ) -> AsyncIterator[str]:
        """See yield_keys."""
        async for entry in self._cache.aentries():
            if (key := self._key(entry)) is not None and key.startswith(prefix or ""):
                yield key

    # --- writing

    def mset(self, key_value_pairs: Sequence[tuple[str, bytes]]) -> None:
        """Hold the values of *key_value_pairs*; of two of one key, the last. A value that is too large is left out, with one warning."""
        answers, left_out = self._answers(key_value_pairs)
        for batch in batches(answers):
            held = self._cache.set_many({request: answers[request] for request in batch}, born=self._cache.ticket())
            left_out += [request for request in batch if request not in held]
        if left_out:
            self._cache.discard([self._cache.key(request) for request in left_out])

    async def amset(self, key_value_pairs: Sequence[tuple[str, bytes]]) -> None:
        """See mset."""
        answers, left_out = self._answers(key_value_pairs)
        for batch in batches(answers):
            held = await self._cache.aset_many({request: answers[request] for request in batch}, born=await self._cache.aticket())
            left_out += [request for request in batch if request not in held]
        if left_out:
            await self._cache.adiscard([self._cache.key(request) for request in left_out])

    def mdelete(self, keys: Sequence[str]) -> None:
        """Remove *keys*, everywhere; absent ones are no error. Other processes obey within `Policy.max_staleness`.

        Raises:
            DeletionError: It could not be recorded; they may still be found.
        """
        self._cache.delete(*_requests(keys))

    async def amdelete(self, keys: Sequence[str]) -> None:
        """See mdelete."""
        await self._cache.adelete(*_requests(keys))

    def __repr__(self) -> str:
        return f"LayeredByteStore({self._cache!r})"

    # --- values

    def _answers(self, pairs: Sequence[tuple[str, bytes]]) -> tuple[dict[Request, Answer], list[Request]]:
        """Return the answers to store, and the requests of the values that are too large."""
        answers = {_request(key): self._answer(key, value) for key, value in pairs}
        left_out: list[Request] = []
        for request, answer in answers.items():
            if (why := self._cache.why_too_large(answer.value)) is not None:
                left_out.append(request)
                self._cache.report(Event(kind="not_stored", namespace=self._cache.name, reason="too large"))
                self._once.warn(f"a value of a byte store cannot be kept, nor can a value of the same size: {why}", about="too large")
        return {request: answer for request, answer in answers.items() if request not in left_out}, left_out

    def _answer(self, key: str, value: bytes) -> Answer:
        if not isinstance(value, bytes):  # pyright: ignore[reportUnnecessaryIsInstance] - the caller may be untyped
            msg = f"a value must be bytes, not a {type(value).__qualname__}: encode it first, or use langchain's EncoderBackedStore"
            raise ConfigurationError(msg)
        name = key.encode("utf-8", "surrogatepass")
        return Answer(value=_LENGTH.pack(len(name)) + name + value, codec=_CODEC, keep_for=self._ttl)

    def _values(self, found: Mapping[Request, Entry]) -> dict[str, bytes]:
        parts = (self._parts(entry) for entry in found.values())
        return dict(part for part in parts if part is not None)

    def _key(self, entry: Entry) -> str | None:
        parts = self._parts(entry)
        return None if parts is None else parts[0]

    def _parts(self, entry: Entry) -> tuple[str, bytes] | None:
        """Return the key and the value that *entry* holds; None if that is not to be read."""
        try:
            if entry.codec == _CODEC:
                end = _LENGTH.size + _LENGTH.unpack_from(entry.value)[0]
                return entry.value[_LENGTH.size : end].decode("utf-8", "surrogatepass"), entry.value[end:]
            reason = "it is of another codec"
        except (struct.error, UnicodeDecodeError):
            reason = "it names no key"
        self._cache.reject(entry.key, reason)
        return None


def _requests(keys: Sequence[str]) -> list[Request]:
    return [_request(key) for key in keys]


def _request(key: str) -> Request:
    if not isinstance(key, str):  # pyright: ignore[reportUnnecessaryIsInstance] - the caller may be untyped
        msg = f"a key must be a text, not a {type(key).__qualname__}"
        raise ConfigurationError(msg)
    return Request(key, params={"kind": "bytes"}, framework=FRAMEWORK)
