"""Other caches, as LangChain uses them. Each function raises `NotMeasuredError` where its library is not installed."""

from __future__ import annotations

import functools
import hashlib
import importlib
import os
import warnings
from pathlib import Path
from typing import Any

from langchain_core.caches import BaseCache
from langchain_core.load import dumps, load
from langchain_core.outputs import Generation

from benchmarks._race import NotMeasuredError

left_out: set[str] = set()
"""Libraries to do without, though they may be there."""


@functools.cache
def _library(name: str) -> Any:  # noqa: ANN401 - any library
    """Return a module. What it says while it is imported is not our matter."""
    package = name.partition(".")[0]
    if package in left_out:
        msg = f"{package} is left out"
        raise NotMeasuredError(msg)
    # LiteLLM reads prices from the net and logs each hit unless told not to
    os.environ.update(LITELLM_LOCAL_MODEL_COST_MAP="True", LITELLM_LOG="ERROR")
    try:
        with warnings.catch_warnings(action="ignore"):
            return importlib.import_module(name)
    except ImportError as error:
        msg = f"{package} is not installed"
        raise NotMeasuredError(msg) from error


def redis_client(port: int, db: int = 0) -> Any:  # noqa: ANN401 - redis-py's types say little
    """Return redis-py's client."""
    return _library("redis").Redis(port=port, db=db)


def async_redis_client(port: int) -> Any:  # noqa: ANN401
    """Return its asynchronous twin."""
    return _library("redis.asyncio").Redis(port=port)


def redis_cache(port: int, db: int = 0) -> BaseCache:
    """Return langchain-community's cache in Redis."""
    client = redis_client(port, db)
    return _library("langchain_community.cache").RedisCache(client)


def async_redis_cache(port: int) -> BaseCache:
    """Return its asynchronous twin."""
    client = async_redis_client(port)
    return _library("langchain_community.cache").AsyncRedisCache(client)


def redis_kvstore(port: int) -> Any:  # noqa: ANN401 - as those of redis-py
    """Return LlamaIndex's key-value store in Redis."""
    return _library("llama_index.storage.kvstore.redis").RedisKVStore(redis_client=redis_client(port))


def mongo_client(url: str) -> Any:  # noqa: ANN401 - as those of redis-py
    """Return pymongo's client."""
    return _library("pymongo").MongoClient(url)


def async_mongo_client(url: str) -> Any:  # noqa: ANN401
    """Return its asynchronous twin."""
    return _library("pymongo").AsyncMongoClient(url)


def mongo_cache(url: str) -> BaseCache:
    """Return langchain-mongodb's cache."""
    return _library("langchain_mongodb.cache").MongoDBCache(url, collection_name="theirs", database_name="theirs")


def sqlite_cache(path: Path) -> BaseCache:
    """Return langchain-community's cache in SQLite."""
    return _library("langchain_community.cache").SQLiteCache(str(path))


class DualCache(BaseCache):
    """LiteLLM's cache in two levels, with the first one full, under LangChain: `dumps` in, `load` out.

    It reads the JSON that it holds by itself.
    """

    def __init__(self) -> None:
        self._cache = _library("litellm.caching.dual_cache").DualCache()

    @staticmethod
    def _key(prompt: str, llm_string: str) -> str:
        return hashlib.sha256(f"{prompt}\0{llm_string}".encode()).hexdigest()

    def lookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        """See BaseCache."""
        return _loaded(self._cache.get_cache(self._key(prompt, llm_string)))

    async def alookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        """See BaseCache."""
        return _loaded(await self._cache.async_get_cache(self._key(prompt, llm_string)))

    def update(self, prompt: str, llm_string: str, return_val: Any) -> None:  # noqa: ANN401 - as LangChain has it
        """See BaseCache."""
        self._cache.set_cache(self._key(prompt, llm_string), dumps(return_val))

    def clear(self, **_: Any) -> None:  # noqa: ANN401 - as LangChain has it
        """See BaseCache."""
        self._cache.flush_cache()


def _loaded(held: Any) -> list[Generation] | None:  # noqa: ANN401 - plain data
    return None if held is None else load(held, allowed_objects="core")
