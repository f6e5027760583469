"""What both halves work with: a client, and its collections, each set up for what it is used for.

The same for the client of threads and for that of a loop, whose collections have the same methods.
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
_MAJORITY = WriteConcern(w="majority", j=True)  # j: so that no server waits until its journal is due
_OF = {"fast": _FAST, "journaled": _JOURNALED, "majority": _MAJORITY}

# a URL may say otherwise
_USUAL = {
    "appname": "layered-cache",
    "connecttimeoutms": 2000,
    "heartbeatfrequencyms": 500,  # the lowest there is: so that a server that is back is noticed
    "maxpoolsize": 50,
    "minpoolsize": 1,  # so that the client reconnects in the background
    "serverselectiontimeoutms": 2000,
}
# a URL may not: the client tries again only after half a second of looking for a server, which no budget here has, so we try again
# ourselves; and having heard that a server is no primary, a monitor that streams would not ask it again for nine seconds
_NEEDED = {"retryreads": False, "retrywrites": False, "servermonitoringmode": "poll", "connect": False}


@dataclass(frozen=True, slots=True)
class Handles:
    """A client and what it is asked through.

    `watched`: whether it says which servers it knows. `ours`: whether it is ours to close. `entries` are read through, and commands
    from `near`, the servers that may do it; they are written through `alone` or `replicated`, depending on whether there is a replica
    set. `log` is written to majority and journal; `checked_log`
    read with what proves that no newer primary exists, `majority_log` where that is refused.
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
        ConfigurationError: There is none of that name.
    """
    if durability is not None and durability not in _OF:
        raise ConfigurationError.unknown(what="durability of mongodb://", name=str(durability), allowed=get_args(Durability))


def opened(url: str, database: str, collection: str, durability: str | None, *, asynchronous: bool) -> Handles:
    """Return the handles of a client of our own. No I/O, not even for the names of `mongodb+srv`."""
    said = {name.lower() for name, _ in parse_qsl(urlsplit(url).query, keep_blank_values=True)}
    options: dict[str, Any] = {name: value for name, value in _USUAL.items() if name not in said} | _NEEDED
    client = AsyncMongoClient[Any](url, **options) if asynchronous else MongoClient[Any](url, **options)
    return handles_of(client[database][collection], durability, ours=True)


def handles_of(collection: Any, durability: str | None, *, ours: bool = False) -> Handles:  # noqa: ANN401 - of either client, or like one
    """Return the handles around *collection*."""
    client = collection.database.client
    log = collection.database[f"{collection.name}_log"]
    known = isinstance(client, AsyncMongoClient | MongoClient)
    near = ReadPreference.PRIMARY_PREFERRED if collection.read_preference == ReadPreference.PRIMARY else collection.read_preference
    if durability is None and collection.write_concern.document:  # the URL, or whose collection it is, says so
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
