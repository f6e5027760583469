"""Redis behind Sentinels and in a cluster, whose primary is killed: the application notices misses, for a few seconds, and nothing else."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from layered_cache import Policy, TieredCache
from support.servers import RedisCluster, RedisSentinel
from support.sync_async import ask

pytestmark = pytest.mark.slow


def used_while(cache: TieredCache, work: Callable[[], object]) -> tuple[list[BaseException], float]:
    """Do *work* while threads use *cache*; return what they had to suffer: exceptions, and the longest call."""
    stop, errors, longest = threading.Event(), list[BaseException](), [0.0]

    def use(name: int) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            started = time.monotonic()
            try:
                entry = cache.get_or_compute(ask(f"{name} {number % 50}"), lambda: b"value")
                assert entry.value == b"value"
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is counted
                errors.append(error)
            longest[0] = max(longest[0], time.monotonic() - started)
            time.sleep(0.005)

    threads = [threading.Thread(target=use, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    try:
        work()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    return errors, longest[0]


def hits_within(cache: TieredCache, seconds: float) -> bool:
    """Whether what is set is got, at the latest after so many *seconds*."""
    deadline, number = time.monotonic() + seconds, 0
    while time.monotonic() < deadline:
        number += 1
        cache.set(ask(f"probe {number}"), b"value")
        if cache._engine.backlog.pending(cache.tiers[0], [cache.key(ask(f"probe {number}"))]):
            time.sleep(0.02)
        elif cache.get(ask(f"probe {number}")) is not None:
            return True
    return False


@pytest.mark.alone
def test_sentinels_name_another_primary(redis_sentinel: RedisSentinel) -> None:
    """And it is used within a second from then."""
    cache = TieredCache(f"{redis_sentinel.url}#timeout=100ms", policy=Policy(max_staleness=0.5))
    cache.set(ask("kept"), b"value")
    redis_sentinel.caught_up()

    def fail_over() -> None:
        redis_sentinel.kill_primary()
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            try:
                redis_sentinel.primary.cli("SET", "probe", "1")
            except Exception:  # noqa: BLE001 - there is none yet, or it is not one yet
                time.sleep(0.05)
            else:
                break
        assert hits_within(cache, 1.5)  # a second may pass until the log is looked at again

    errors, longest = used_while(cache, fail_over)

    assert not errors
    assert longest < 0.7
    assert cache.get(ask("kept")) is not None
    cache.close()


@pytest.mark.alone
def test_a_cluster_promotes_a_replica(redis_cluster: RedisCluster) -> None:
    """Keys of the other primaries are there all the time; those of the lost one after its replica has taken over."""
    cache = TieredCache(f"{redis_cluster.url}#timeout=300ms", policy=Policy(max_staleness=0.5))
    requests = [ask(str(number)) for number in range(60)]
    cache.set_many(dict.fromkeys(requests, b"value"))
    assert len(cache.get_many(requests)) == 60
    redis_cluster.caught_up()

    def fail_over() -> None:
        redis_cluster.primary_of(cache.key(requests[0])).kill()
        deadline = time.monotonic() + 20
        while len(cache.get_many(requests)) < 60 and time.monotonic() < deadline:
            time.sleep(0.1)

    errors, longest = used_while(cache, fail_over)

    assert not errors
    assert longest < 2.0
    assert len(cache.get_many(requests)) == 60
    cache.close()
