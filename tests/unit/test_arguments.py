"""Arguments in the spellings that users try first: durations and sizes as text, and clients in place of tiers."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from datetime import timedelta
from importlib import import_module
from importlib.metadata import version

import pymongo
import pytest
import redis
from layered_cache import Answer, ConfigurationError, Policy, Request, TieredCache
from layered_cache.tiers.memory import MemoryTier
from layered_cache.tiers.mongodb import MongoTier
from layered_cache.tiers.redis import RedisTier
from layered_cache.tiers.sqlite import SQLiteTier

DURATIONS = ("keep_for", "fresh_for", "max_wait", "max_staleness", "max_unverified")


@pytest.mark.parametrize("name", DURATIONS)
@pytest.mark.parametrize("value", [90, 90.0, "90s", "1m30s", timedelta(seconds=90)])
def test_policy_duration_takes_number_text_and_timedelta(name: str, value: object) -> None:
    assert getattr(Policy(**{name: value}), name) == 90.0


@pytest.mark.parametrize("name", ["max_entry_bytes", "queue_bytes"])
@pytest.mark.parametrize("value", [1024 * 1024, "1MiB"])
def test_policy_size_takes_number_and_text(name: str, value: object) -> None:
    assert getattr(Policy(**{name: value}), name) == 1024 * 1024


@pytest.mark.parametrize(("name", "value"), [("keep_for", "soon"), ("keep_for", "-1s"), ("queue_bytes", "much"), ("queue_bytes", "0B")])
def test_policy_text_that_is_no_value_names_the_option(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        Policy(**{name: value})


def test_answer_keep_for_takes_text() -> None:
    with TieredCache("memory://") as cache:
        entry = cache.set(Request(model="m", prompt="p"), Answer(value=b"x", codec="raw", keep_for="1h"))
        assert entry is not None
        assert round(entry.keep_until - entry.created_at) == 3600


def test_tier_arguments_take_text() -> None:
    memory = MemoryTier(max_bytes="1MiB", ttl="7d")
    assert (memory.max_bytes, memory.ttl) == (1024 * 1024, 604800.0)
    sqlite = SQLiteTier("unused.db", max_bytes="2MiB", timeout="20ms", ttl="1h")
    assert (sqlite.max_bytes, sqlite.timeout, sqlite.ttl) == (2 * 1024 * 1024, 0.02, 3600.0)
    redis_tier = RedisTier("redis://127.0.0.1:1", timeout="20ms", ttl="1h")
    assert (redis_tier.timeout, redis_tier.ttl) == (0.02, 3600.0)
    mongo = MongoTier("mongodb://127.0.0.1:1", timeout="20ms", ttl="1h")
    assert (mongo.timeout, mongo.ttl) == (0.02, 3600.0)


def test_client_of_mongodb_in_place_of_a_tier_is_refused() -> None:
    client: pymongo.MongoClient[dict[str, object]] = pymongo.MongoClient("mongodb://127.0.0.1:1", connect=False)
    with client, pytest.raises(ConfigurationError, match=r"got MongoClient\. Pass MongoTier\(collection=...\)"):
        TieredCache(client)  # type: ignore[arg-type]


def test_client_of_redis_in_place_of_a_tier_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"got Redis\. Pass RedisTier\(client=...\)"):
        TieredCache(redis.Redis(port=1))  # type: ignore[arg-type]


def run(program: str) -> str:
    """Return the output of *program* in a process of its own."""
    return subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("name", ["LayeredCache", "LangGraphCache", "LayeredKVStore", "cached"])
def test_import_from_the_wrong_package_names_the_right_one(name: str) -> None:
    out = run(f"""
        try:
            from layered_cache import {name}
        except ImportError as error:
            print(error)
    """)
    assert out.startswith(f"{name} is not in layered_cache. Use: from l")


@pytest.mark.parametrize(
    ("package", "library", "command"),
    [
        ("langchain_layered_cache", "langchain_core", "pip install 'layered-cache[langchain]'"),
        ("langchain_layered_cache", "langgraph", "pip install langgraph"),
        ("llamaindex_layered_cache", "llama_index", "pip install 'layered-cache[llamaindex]'"),
    ],
)
def test_import_without_a_library_names_the_command(package: str, library: str, command: str) -> None:
    out = run(f"""
        import importlib.abc, sys

        class Hidden(importlib.abc.MetaPathFinder):
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] == "{library}":
                    raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

        sys.meta_path.insert(0, Hidden())
        from layered_cache import MissingClientError
        try:
            from {package} import *
        except MissingClientError as error:
            print(error)
    """)
    assert command in out


@pytest.mark.parametrize("package", ["layered_cache", "langchain_layered_cache", "llamaindex_layered_cache"])
def test_package_has_its_version(package: str) -> None:
    assert import_module(package).__version__ == version("layered-cache")
