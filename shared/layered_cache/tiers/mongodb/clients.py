"""The handles of a connection: a client and its collections, one for each kind of access.

They exist once for the blocking client and once for each loop. Their collections have the same
methods.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args
from urllib.parse import parse_qsl, urlsplit

from pymongo import AsyncMongoClient, MongoClient, ReadPreference, WriteConcern
from pymongo.read_concern import ReadConcern

from layered_cache.errors import ConfigurationError

Durability = Literal["fast", "journaled", "majority"]

DEFAULT_DATABASE = "layered_cache"
DEFAULT_COLLECTION = "entries"

_FAST = WriteConcern(w=1, j=False)
_JOURNALED = WriteConcern(w=1, j=True)
# j: no server waits until its journal is due
_MAJORITY = WriteConcern(w="majority", j=True)
_OF = {"fast": _FAST, "journaled": _JOURNALED, "majority": _MAJORITY}

# defaults, which a URL may override
_USUAL = {
    "appname": "layered-cache",
    "connecttimeoutms": 2000,
    # the lowest value, so that a recovered server is noticed
    "heartbeatfrequencyms": 500,
    "maxpoolsize": 50,
    # the client then reconnects in the background
    "minpoolsize": 1,
    "serverselectiontimeoutms": 2000,
}
# Options that a URL cannot override. The client retries only after half a second of server
# selection, which is longer than any timeout here, so the tier retries. A streaming monitor would
# not check a server again for nine seconds after it stopped being primary.
_NEEDED = {"retryreads": False, "retrywrites": False, "servermonitoringmode": "poll", "connect": False}


@dataclass(frozen=True, slots=True)
class Handles:
    """A client and its collections.

    `watched` is True if the client reports the servers that it knows. `ours` is True if the tier
    must close it. Entries are read through `entries`, and commands run on the servers of `near`.
    Entries are written through `alone`, or through `replicated` if there is a replica set. `log` is
    written to a majority and to the journal. `checked_log` is read with proof that no newer primary
    exists, and `majority_log` where this proof is refused.
    """

    client: Any
    watched: bool
    ours: bool
    database: Any
    near: Any
    entries: Any
    alone: Any
    replicated: Any
    log: Any
    checked_log: Any
    majority_log: Any


def check_durability(durability: str | None) -> None:
    """Check the name of a durability.

    Raises:
        ConfigurationError: If the name is unknown.
    """
    if durability is not None and durability not in _OF:
        raise ConfigurationError.unknown(what="durability of mongodb://", name=str(durability), allowed=get_args(Durability))


def opened(url: str, database: str, collection: str, durability: str | None, *, asynchronous: bool) -> Handles:
    """Return the handles of a new client. No I/O is done, not even for names of `mongodb+srv`."""
    said = {name.lower() for name, _ in parse_qsl(urlsplit(url).query, keep_blank_values=True)}
    options: dict[str, Any] = {name: value for name, value in _USUAL.items() if name not in said} | _NEEDED
    client = AsyncMongoClient[Any](url, **options) if asynchronous else MongoClient[Any](url, **options)
    return handles_of(client[database][collection], durability, ours=True)


# a collection of either client, or a similar object
def handles_of(collection: Any, durability: str | None, *, ours: bool = False) -> Handles:  # noqa: ANN401
    """Return the handles for *collection*."""
    client = collection.database.client
    log = collection.database[f"{collection.name}_log"]
    known = isinstance(client, AsyncMongoClient | MongoClient)
    near = ReadPreference.PRIMARY_PREFERRED if collection.read_preference == ReadPreference.PRIMARY else collection.read_preference
    # set by the URL or by the collection
    if durability is None and collection.write_concern.document:
        alone = replicated = collection
    else:
        alone = collection.with_options(write_concern=_OF[durability or "journaled"])
        replicated = collection.with_options(write_concern=_OF[durability or "majority"])
    primary = ReadPreference.PRIMARY
    return Handles(
        client=client,
        watched=known,
        ours=ours,
        database=collection.database,
        near=near,
        entries=collection.with_options(read_preference=near),
        alone=alone,
        replicated=replicated,
        log=log.with_options(write_concern=_MAJORITY, read_preference=primary),
        checked_log=log.with_options(read_concern=ReadConcern("linearizable"), read_preference=primary),
        majority_log=log.with_options(read_concern=ReadConcern("majority"), read_preference=primary),
    )
