"""All parts of a MongoDB tier in one import, and the sources of its collections.

Modules that the client would import later are imported here. A background thread must not import: a
fork in the middle would leave the import lock held in the child.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from pymongo.asynchronous.collection import AsyncCollection
from pymongo.uri_parser import parse_uri

from layered_cache.errors import ConfigurationError
from layered_cache.tiers.mongodb.asyncio_connections import LoopHalves
from layered_cache.tiers.mongodb.clients import DEFAULT_COLLECTION, DEFAULT_DATABASE, Handles, check_durability, handles_of, opened
from layered_cache.tiers.mongodb.connection import BlockingHalf
from layered_cache.tiers.mongodb.errors import misspelt
from layered_cache.tiers.mongodb.invalidation_log import MongoLog
from layered_cache.tiers.mongodb.operations import MongoEntries

__all__ = ["BlockingHalf", "LoopHalves", "MongoEntries", "MongoLog", "Sources", "sources"]

# the first name lookup would import the codec
"FAQ".encode("idna")

_SRV = "mongodb+srv://"
_LATE = ("concurrent.futures.thread", "pymongo.asynchronous.auth", "pymongo.synchronous.auth")
_LATE_FOR_SRV = ("dns.asyncresolver", "dns.resolver")


class Sources(NamedTuple):
    """Functions that return the handles for threads and for event loops.

    `asynchronous` is None if there is no asynchronous client.
    """

    blocking: Callable[[], Handles]
    asynchronous: Callable[[], Handles] | None


def sources(url: object, collection: object, async_collection: object, durability: str | None) -> Sources:
    """Return the sources of the handles of a tier. No I/O is done.

    Raises:
        ConfigurationError: If an argument is invalid, or if arguments exclude each other.
    """
    check_durability(durability)
    _import(_LATE)
    if isinstance(url, str):
        if async_collection is not None or not isinstance(collection, str | None):
            msg = "MongoTier must have either a URL and the name of a collection, or collections of clients"
            raise ConfigurationError(msg)
        database, named = _read(url)
        make = partial(opened, url, database, _checked_name(collection or named or DEFAULT_COLLECTION), durability)
        return Sources(partial(make, asynchronous=False), partial(make, asynchronous=True))
    if isinstance(collection, AsyncCollection) or (collection is None and async_collection is not None):
        msg = "MongoTier must have collection=, of a MongoClient, for background calls. Pass async_collection= in addition"
        raise ConfigurationError(msg)
    if url is not None or not hasattr(collection, "find_one"):
        msg = "MongoTier must have a URL, or collection=, a collection of pymongo's MongoClient"
        raise ConfigurationError(msg)
    if async_collection is not None and not isinstance(async_collection, AsyncCollection):
        msg = "async_collection must be of pymongo's AsyncMongoClient"
        raise ConfigurationError(msg)
    own = None if async_collection is None else partial(handles_of, async_collection, durability)
    return Sources(partial(handles_of, collection, durability), own)


def _read(url: str) -> tuple[str, str | None]:
    """Return the database and the collection in *url*."""
    address, mark, query = url.partition("?")
    # parsing the whole URL would need a name server
    if url.startswith(_SRV):
        _import(_LATE_FOR_SRV)

        address = "mongodb://" + address.removeprefix(_SRV)
        query = "&".join(option for option in query.split("&") if not option.lower().startswith("srv"))
        mark = query and mark
    try:
        found: dict[str, Any] = parse_uri(address + mark + query)
    except Exception as error:  # noqa: BLE001
        # an error of any type; its cause is left out because it may contain a password
        raise misspelt(error, url) from None
    return found["database"] or DEFAULT_DATABASE, found["collection"]


def _checked_name(name: str) -> str:
    if ".." in name or "$" in name or "\0" in name or name.strip(".") != name:
        msg = f"collection of mongodb:// must be a name without $ and without empty parts between dots, got {name!r}"
        raise ConfigurationError(msg)
    return name


def _import(names: tuple[str, ...]) -> None:
    for name in names:
        importlib.import_module(name)
