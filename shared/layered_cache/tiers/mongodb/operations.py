"""The operations on entries, as coroutines that take the connection to use."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import bson
from pymongo import ASCENDING, IndexModel, ReplaceOne

from layered_cache._storage.envelope import decode
from layered_cache._storage.rules import Scope
from layered_cache._util.clocks import Clock
from layered_cache.entry import Entry, Refused
from layered_cache.errors import TierUnavailableError
from layered_cache.keys.keys import key_bounds
from layered_cache.tiers.base import Page
from layered_cache.tiers.mongodb import document as documents
from layered_cache.tiers.mongodb.clients import Handles
from layered_cache.tiers.mongodb.connection import Half
from layered_cache.tiers.mongodb.errors import TOO_LARGE

_BATCH = 1000
# seconds for erasing void entries; the rest may stay, since it is void anyway
_COURTESY = 1.0
# upper limit of an envelope without its value
_ENVELOPE_BYTES = 256 * 1024
# seconds; an incomplete index would be removed by the server
_INDEXING = 5.0

_ENVELOPE = {"_id": 0, "envelope": 1}
_KEY_AND_ENVELOPE = {"envelope": 1}
_KEY = {"_id": 1}

INDEXES: Mapping[str, tuple[tuple[str, ...], Mapping[str, Any]]] = {
    "layered_cache_model": (("namespace", "model"), {}),
    "layered_cache_tags": (("tags",), {}),
    "layered_cache_created": (("created_at",), {}),
    "layered_cache_purge": (("purge_at",), {"expireAfterSeconds": 0}),
}


class MongoEntries:
    """The entries of one collection.

    Args:
        clock: The clock, which decides if an entry has expired.
        tier: The tier name in errors.
        timeout: The time limit of a call in seconds.
        max_entry_bytes: The largest compressed value that is written.
    """

    def __init__(self, clock: Clock, tier: str, timeout: float, max_entry_bytes: int) -> None:
        self._clock = clock
        self._tier = tier
        self._timeout = timeout
        self._max_entry_bytes = max_entry_bytes
        self.indexed = False

    async def get(self, half: Half, keys: Sequence[str]) -> Mapping[str, Entry | Refused]:
        """Return the entries of *keys* (see `Tier.get_many`)."""
        if len(keys) == 1:
            key = documents.checked(keys[0], "a key")

            async def work(half: Half, handles: Handles) -> list[Any]:
                return [(key, each.get("envelope")) for each in await _found(half, handles, key)]

        elif batches := documents.batches(keys, _BATCH):

            async def work(half: Half, handles: Handles) -> list[Any]:
                found: list[Any] = []
                for batch in batches:
                    cursor = handles.entries.find(documents.by_keys(batch), _KEY_AND_ENVELOPE, batch_size=len(batch) + 1)
                    found += [(each["_id"], each.get("envelope")) for each in await half.all(cursor)]
                return found

        else:
            return {}
        envelopes = await half.call("read", "read", work, self._timeout)
        now = self._clock.time()
        entries = ((key, decode(envelope, key)) for key, envelope in envelopes)
        return {key: entry for key, entry in entries if isinstance(entry, Refused) or entry.keep_until > now}

    async def set(self, half: Half, entries: Sequence[Entry]) -> None:
        """Store *entries* (see `Tier.set_many`).

        Raises:
            TierUnavailableError: If an entry is too large. The rest is stored.
        """
        last = {documents.checked(entry.key, "a key"): entry for entry in entries}
        stored = [self._stored(entry) for entry in last.values()]
        fitting = [each for each in stored if each is not None]
        if fitting:

            async def work(half: Half, handles: Handles) -> None:
                collection = handles.replicated if half.replicated else handles.alone
                if len(fitting) > 1 and handles.watched:
                    await half.settled(
                        collection.bulk_write([ReplaceOne({"_id": each["_id"]}, each, upsert=True) for each in fitting], ordered=False)
                    )
                    return
                for each in fitting:
                    await half.settled(collection.replace_one({"_id": each["_id"]}, each, upsert=True))

            await half.call("write", "write", work, self._timeout)
        if len(fitting) < len(stored):
            raise TierUnavailableError(self._tier, "write", TOO_LARGE, retryable=False)

    def _stored(self, entry: Entry) -> documents.Document | None:
        """Return the document of *entry*, or None if it is too large.

        Without its readable fields the document may still fit; then they are left out.
        """
        stored = documents.document(entry)
        envelope = len(stored["envelope"])  # pyright: ignore[reportArgumentType] - bytes
        if envelope > self._max_entry_bytes + _ENVELOPE_BYTES:
            return None
        if envelope + documents.readable_bytes(entry) > documents.WORTH_MEASURING and len(bson.encode(stored)) > documents.MAX_BYTES:
            stored = documents.without_request(stored)
        return stored

    async def delete(self, half: Half, keys: Sequence[str]) -> int:
        """Erase the entries of *keys* (see `Tier.delete_many`)."""

        async def work(half: Half, handles: Handles) -> int:
            return sum([await self._delete(half, handles, documents.by_keys(batch)) for batch in batches])

        batches = documents.batches(keys, _BATCH)
        return await half.call("delete", "write", work, self._timeout) if batches else 0

    async def _delete(self, half: Half, handles: Handles, query: documents.Document) -> int:
        collection = handles.replicated if half.replicated else handles.alone
        result = await half.settled(collection.delete_many(query))
        return result.deleted_count if result.acknowledged else 0

    # --- queries

    async def erase_where(self, half: Half, namespace: str, scope: Scope, born_before: int) -> int:
        """Erase the entries that match *scope* (see `Queryable.erase_where`).

        It stops after a second, since all of them are void.
        """
        query = documents.query(namespace, scope, born_before)

        async def work(half: Half, handles: Handles) -> int:
            matching = await self._with_model(half, handles, query, scope)
            if scope.keys:
                return await self._delete(half, handles, matching)
            deadline, erased = time.monotonic() + _COURTESY * 0.8, 0
            while True:
                found = await half.all(handles.entries.find(matching, _KEY, limit=_BATCH))
                keys = [each["_id"] for each in found]
                # Found first, so that the number is known. Erased by key and log position, so that
                # a newer entry of a key stays.
                if keys:
                    erased += await self._delete(half, handles, {"_id": {"$in": keys}, "born.seq": {"$lt": born_before}})
                if len(keys) < _BATCH or time.monotonic() > deadline:
                    return erased

        return await half.call("erase", "write", work, max(_COURTESY, self._timeout))

    async def count_where(self, half: Half, namespace: str, scope: Scope) -> int:
        """Return the number of entries that match *scope* (see `Queryable.count_where`)."""
        query = documents.query(namespace, scope, None)

        async def work(half: Half, handles: Handles) -> int:
            return await half.settled(handles.entries.count_documents(await self._with_model(half, handles, query, scope)))

        return await half.call("search", "read", work, max(_COURTESY, self._timeout))

    async def list_keys(self, half: Half, namespace: str, after: str | None) -> Page:
        """Return a page of keys (see `Listable.list_keys`).

        The query uses `_id`, which always has an index.
        """
        first, end = key_bounds(documents.checked(namespace, "a namespace"))
        query = {"_id": {"$gt": after or first, "$lt": end}}

        async def work(half: Half, handles: Handles) -> list[str]:
            cursor = handles.entries.find(query, _KEY, sort=[("_id", ASCENDING)], limit=_BATCH, batch_size=_BATCH + 1)
            return [each["_id"] for each in await half.all(cursor)]

        keys = await half.call("list", "read", work, self._timeout)
        return keys, keys[-1] if len(keys) == _BATCH else None

    async def _with_model(self, half: Half, handles: Handles, query: documents.Document, scope: Scope) -> documents.Document:
        """Return *query* for the models that match the glob of *scope*.

        The match is done in Python, because no regular expression of the server has the same rules.
        """
        if scope.model is None:
            return query
        models = await half.settled(handles.entries.distinct("model", query))
        matching = [model for model in models if isinstance(model, str) and fnmatchcase(model, scope.model)]
        return {"$and": [query, {"model": {"$in": matching}}]}

    # --- indexes

    async def index(self, half: Half) -> None:
        """Create the missing indexes. Other processes may do so at the same time."""

        async def work(half: Half, handles: Handles) -> None:
            models = [
                IndexModel([(field, ASCENDING) for field in fields], name=name, **options) for name, (fields, options) in INDEXES.items()
            ]
            await half.settled(handles.alone.create_indexes(models))

        await half.call("index", "write", work, _INDEXING)
        self.indexed = True

    async def indexes_missing(self, half: Half) -> list[str]:
        """Return the names of the indexes that are missing or have other settings."""

        async def work(half: Half, handles: Handles) -> Mapping[str, Any]:
            return await half.settled(handles.entries.index_information())

        found = await half.call("search", "read", work, max(_COURTESY, self._timeout))
        there = {(tuple(field for field, _ in each["key"]), each.get("expireAfterSeconds")) for each in found.values()}
        return [name for name, (fields, options) in INDEXES.items() if (fields, options.get("expireAfterSeconds")) not in there]


async def _found(half: Half, handles: Handles, key: str) -> list[Any]:
    """Return the document of *key*, if there is one.

    A command is a tenth faster than a cursor.
    """
    if not handles.watched:
        found = await half.settled(handles.entries.find_one({"_id": key}, _ENVELOPE))
        return [] if found is None else [found]
    command = {"find": handles.entries.name, "filter": {"_id": key}, "projection": _ENVELOPE, "limit": 1, "singleBatch": True}
    reply = await half.settled(handles.database.command(command, read_preference=handles.near))
    return reply["cursor"]["firstBatch"]
