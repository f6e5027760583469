"""A cache in another process: a pickle of it is made again from what it was made from."""

from __future__ import annotations

import copy
import gc
import json
import multiprocessing
import pickle
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from layered_cache import Answer, ConfigurationError, Policy, Request, TieredCache
from layered_cache.testing import FakeTier
from support.sync_async import World, ask, settled


def yes(_request: Request, _answer: Answer) -> bool:
    return True


def there_and_back(cache: TieredCache) -> TieredCache:
    return pickle.loads(pickle.dumps(cache))


def test_it_has_the_same_entries(world: World, db: str) -> None:
    """In its own namespace, by the same policy."""
    policy = Policy(keep_for=100, cacheable=yes)
    cache = TieredCache("memory://", db, namespace="faq", policy=policy).namespace("tenant 7")
    world.call(cache, "set", ask(), b"value")

    other = there_and_back(cache)

    assert (other.name, other.policy, [tier.name for tier in other.tiers]) == ("faq/tenant 7", policy, ["memory", "sqlite"])
    assert other.tiers[1] is not cache.tiers[1]
    entry = world.call(other, "get", ask())
    assert entry == world.call(cache, "get", ask())


def test_another_process_has_it(db: str) -> None:
    """Which knows nothing but the pickle."""
    cache = TieredCache("memory://", db)
    cache.set(ask(), b"value")
    program = "import pickle, sys; cache, request = pickle.load(sys.stdin.buffer); print(cache.get(request).value.decode())"

    done = subprocess.run([sys.executable, "-c", program], input=pickle.dumps((cache, ask())), capture_output=True, check=False)

    assert (done.stdout.strip(), done.stderr) == (b"value", b"")


def test_all_of_one_recipe_share_an_engine(db: str) -> None:
    """Whatever their namespaces, as long as one is in use; another policy or tier is another recipe."""
    cache = TieredCache("memory://", db)
    first = there_and_back(cache.namespace("a"))

    assert there_and_back(cache.namespace("b"))._engine is first._engine
    assert there_and_back(cache)._engine is first._engine
    assert there_and_back(first)._engine is first._engine
    assert there_and_back(TieredCache("memory://", db, policy=Policy(keep_for=1)))._engine is not first._engine
    assert there_and_back(TieredCache("memory://#max_bytes=1MiB", db))._engine is not first._engine
    from layered_cache import _pickling

    before = len(_pickling._made)
    del first
    gc.collect()
    assert len(_pickling._made) < before


def test_one_that_was_closed_is_not_handed_out_again(db: str) -> None:
    """What arrives later works; the one that was sent did all the time."""
    cache = TieredCache("memory://", db)
    closed = there_and_back(cache)
    closed.close()

    later = there_and_back(cache.namespace("a"))

    assert later._engine is not closed._engine
    for one in (cache.namespace("a"), later):
        one.set(ask(), b"value")
        assert there_and_back(one).get(ask()) is not None


def test_one_that_a_file_describes(db: str, tmp_path: Path) -> None:
    """With the options of its tiers."""
    file = tmp_path / "layered-cache.toml"
    tiers = [{"url": "memory://", "max_bytes": "1MiB"}, {"url": db}]
    file.write_text("".join("[[tiers]]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in tier.items()) for tier in tiers))
    cache = TieredCache.from_env(file)
    cache.set(ask(), b"value")

    other = there_and_back(cache)

    assert other.get(ask()) == cache.get(ask())
    memory: Any = other.tiers[0]
    assert memory.max_bytes == 1024**2


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: TieredCache("memory://", FakeTier("theirs")), "the tier object 'theirs'. Pass the tier as a URL"),
        (lambda: TieredCache("memory://", policy=Policy(cacheable=lambda *_: True)), "the function at the top level of a module"),
    ],
)
def test_what_cannot_be_made_again(make: Any, words: str) -> None:
    """Is told of before it is sent, and what to do about it."""
    with pytest.raises(ConfigurationError, match=words):
        pickle.dumps(make())


def test_copies_are_the_cache_itself() -> None:
    """It is a handle."""
    cache = TieredCache("memory://")

    assert copy.copy(cache) is cache
    assert copy.deepcopy({"cache": cache})["cache"] is cache


def fill(cache: TieredCache, number: int) -> None:
    """What a worker process does."""
    cache.set(ask(str(number)), b"value")


def wait_forever(cache: TieredCache) -> None:
    """Block the main thread of a child process; a signal arrives and does not interrupt it."""
    cache.set(ask(), b"value")
    settled(cache)  # the background thread has started: its exit hooks are installed
    signal.signal(signal.SIGUSR1, lambda *_: None)

    def signalled() -> None:
        time.sleep(0.2)  # until the main thread is in its call
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)  # another signal changes nothing
        time.sleep(0.1)
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)  # to this thread: the main thread stays in its call

    threading.Thread(target=signalled, daemon=True).start()
    multiprocessing.get_context("spawn").Semaphore(0).acquire()


def test_child_ends_when_a_signal_meets_a_blocking_call(db: str) -> None:
    """A signal that arrives just before a blocking call does not interrupt it either, but cannot be placed there by a test."""
    context = multiprocessing.get_context("spawn")
    cache = TieredCache("memory://", db, policy=Policy(write="behind"))
    child = context.Process(target=wait_forever, args=(cache,), daemon=True)
    child.start()
    child.join(20)

    assert child.exitcode == -signal.SIGTERM


_OWN_HANDLER = """
import multiprocessing.util, multiprocessing.process, os, signal, sys, threading, time
multiprocessing.process._parent_process = object()  # as in a child of multiprocessing
from layered_cache import Policy, Request, TieredCache
cache = TieredCache("memory://", sys.argv[1], policy=Policy(write="behind"))
cache.set(Request("q"), b"x")
calls = []
signal.signal(signal.SIGTERM, lambda *_: calls.append(1))
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(0.3)
cache.close()
print(len(calls))
"""


def test_handler_of_the_application_is_called_once_per_signal(db: str) -> None:
    done = subprocess.run([sys.executable, "-c", _OWN_HANDLER, db], capture_output=True, text=True, check=False, timeout=60)

    assert (done.stdout, done.stderr) == ("1\n", "")


@pytest.mark.slow
def test_a_pool_that_ends_its_workers_loses_nothing(db: str) -> None:
    """Which it does by a signal, when the last task is done: what waits to be written then, is written."""
    cache = TieredCache("memory://", f"{db}#timeout=100ms", policy=Policy(write="behind"))
    cache.set(ask(), b"value")
    settled(cache)
    with closing(sqlite3.connect(db.removeprefix("sqlite:///"), check_same_thread=False, isolation_level=None)) as other:
        with multiprocessing.get_context("spawn").Pool(2) as pool:
            pool.starmap(fill, [(cache, number) for number in range(2)])  # so that both have it
            other.execute("BEGIN IMMEDIATE")  # nobody else can write
            pool.starmap(fill, [(cache, number) for number in range(20)])
            threading.Timer(0.5, lambda: other.execute("ROLLBACK")).start()
        with TieredCache(f"{db}#timeout=2s") as fresh:
            assert len(fresh.get_many([ask(str(number)) for number in range(20)])) == 20
