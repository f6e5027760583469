"""Tiers that fail and come back: one log line for each change, and the state in `repr` and `stats`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from layered_cache import Answer, Entry, Policy, Request, TieredCache, TierTimeoutError
from layered_cache.testing import FakeAuthority, FakeClock, FakeTier
from support.servers import RedisServer, free_port, until

Own = Callable[..., RedisServer]

REQUEST = Request(model="m", prompt="p")


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.levelname, record.getMessage()) for record in caplog.records if record.name == "layered_cache"]


@pytest.fixture(autouse=True)
def _all_levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "layered_cache")


def test_tier_read_fails_twice_logs_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    tier = FakeTier("redis")
    with TieredCache(tier) as cache:
        tier.broken = True
        cache.get(REQUEST)
        cache.get(REQUEST)
    assert lines(caplog) == [("WARNING", "tier unavailable, calls continue without it: tier=redis reason=get: it is broken")]


def test_tier_with_single_timeouts_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Slow(FakeTier):
        def _get(self, keys: object) -> dict[str, Entry]:
            if self.broken:
                raise TierTimeoutError(self.name, "get", "took longer than its budget")
            return {}

    tier = Slow("redis")
    with TieredCache(tier) as cache:
        for failures in (2, 2, 3):
            for _ in range(failures):
                tier.broken = True
                cache.get(REQUEST)
            assert len(lines(caplog)) == (failures == 3)
            tier.broken = False
            cache.get(REQUEST)
    assert [level for level, _ in lines(caplog)] == ["WARNING", "INFO"]


def test_tier_back_logs_one_info_with_the_seconds(caplog: pytest.LogCaptureFixture) -> None:
    tier, clock = FakeTier("redis"), FakeClock()
    with TieredCache(tier, clock=clock) as cache:
        tier.broken = True
        cache.get(REQUEST)
        clock.advance(12)
        tier.broken = False
        caplog.clear()
        cache.get(REQUEST)
        cache.get(REQUEST)
    assert lines(caplog) == [("INFO", "tier available again: tier=redis after_seconds=12.0")]


def test_tier_that_fails_at_writes_only_is_not_back_after_a_read(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    class ReadOnly(FakeTier):
        def _set(self, entries: object) -> None:
            self.broken = True
            try:
                self._enter("set")
            finally:
                self.broken = False

    with TieredCache(ReadOnly("disk"), clock=FakeClock()) as cache:
        cache.set(REQUEST, Answer(value=b"x", codec="raw"))
        cache.get(REQUEST)
        assert cache.stats().unavailable == {"disk": "unavailable for 0 s (set: it is broken)"}
    assert [level for level, _ in lines(caplog)] == ["WARNING"]


def test_invalidation_log_unavailable_logs_its_consequence(caplog: pytest.LogCaptureFixture) -> None:
    for policy, known, consequence in (
        (Policy(max_unverified="10m"), True, "hits are served unverified for at most 600 s"),
        (Policy(max_unverified="10m"), False, "tiers below memory are not used until it was read once"),
        (Policy(strict_invalidation=True), True, "no entry is served until it is available"),
    ):
        tier, clock = FakeAuthority("mongodb"), FakeClock()
        with TieredCache(tier, policy=policy, clock=clock) as cache:
            if known:
                cache.get(REQUEST)
                clock.advance(5)
            tier.log_is_broken = True
            caplog.clear()
            cache.get(REQUEST)
            assert lines(caplog) == [
                ("WARNING", f"invalidation log unavailable, {consequence}: tier=mongodb reason=read the log: its log is broken")
            ]
            clock.advance(5)
            tier.log_is_broken = False
            caplog.clear()
            cache.get(REQUEST)
            assert lines(caplog) == [("INFO", "invalidation log available again: tier=mongodb after_seconds=5.0")]


def test_repr_and_stats_show_an_outage_and_its_end() -> None:
    tier, clock = FakeTier("redis"), FakeClock()
    with TieredCache("memory://", tier, clock=clock, namespace="faq") as cache:
        assert repr(cache) == "TieredCache(memory, redis, namespace='faq')"
        tier.broken = True
        cache.get(REQUEST)
        clock.advance(12)
        assert repr(cache) == "TieredCache(memory, redis: unavailable for 12 s (get: it is broken), namespace='faq')"
        assert cache.stats().unavailable == {"redis": "unavailable for 12 s (get: it is broken)"}
        tier.broken = False
        cache.get(REQUEST)
        assert cache.stats().unavailable == {}


def test_closed_cache_in_use_logs_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    cache = TieredCache("memory://")
    cache.close()
    cache.get(REQUEST)
    cache.set(REQUEST, Answer(value=b"x", codec="raw"))
    assert [level for level, _ in lines(caplog)] == ["WARNING"]
    assert "after close()" in lines(caplog)[0][1]


def test_sqlite_file_that_cannot_be_written_logs_one_warning(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with TieredCache(f"sqlite:///{tmp_path}/file/answers.db") as cache:  # its folder is a file
        cache.get(REQUEST)
        cache.set(REQUEST, Answer(value=b"x", codec="raw"))
        cache.get(REQUEST)
    [(level, message)] = lines(caplog)
    assert level == "WARNING"
    assert message.startswith("invalidation log unavailable, tiers below memory are not used until it was read once: tier=sqlite")


def test_redis_refused_and_back_logs_both_changes(own_redis: Own, caplog: pytest.LogCaptureFixture) -> None:
    server = own_redis()
    with TieredCache("memory://", server.url + "#timeout=1s") as cache:
        cache.set(REQUEST, Answer(value=b"x", codec="raw"))
        assert lines(caplog) == []
        server.stop()
        cache.get(Request(model="m", prompt="during"))
        assert {level for level, _ in lines(caplog)} == {"WARNING"}
        assert any("the connection was refused" in message for _, message in lines(caplog))
        assert "redis: unavailable for" in repr(cache)
        server.start()
        until(lambda: cache.get(Request(model="m", prompt="after")) is None and "unavailable" not in repr(cache), "Redis is used again")
        assert any(message.startswith("tier available again: tier=redis") for _, message in lines(caplog))


def test_redis_frozen_and_thawed_logs_both_changes(own_redis: Own, caplog: pytest.LogCaptureFixture) -> None:
    server = own_redis()
    with TieredCache("memory://", server.url) as cache:
        cache.set(REQUEST, Answer(value=b"x", codec="raw"))
        server.freeze()
        until(
            lambda: cache.get(Request(model="m", prompt="during")) is None and "unavailable" in repr(cache), "Redis is known to be frozen"
        )
        assert any("took longer than its budget" in message for level, message in lines(caplog) if level == "WARNING")
        server.thaw()
        until(lambda: cache.get(Request(model="m", prompt="after")) is None and "unavailable" not in repr(cache), "Redis is used again")


def test_mongodb_unreachable_logs_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with TieredCache("memory://", f"mongodb://127.0.0.1:{free_port()}/test") as cache:
        cache.get(REQUEST)
    [(level, message)] = lines(caplog)
    assert level == "WARNING"
    assert "unavailable" in message
    assert "tier=mongodb" in message
    assert "no server can be reached" in message


def test_log_lines_hold_no_prompt_and_no_answer(caplog: pytest.LogCaptureFixture) -> None:
    tier = FakeTier("redis")
    tier.broken = True
    with TieredCache(tier) as cache:
        cache.set(Request(model="m", prompt="the secret prompt"), Answer(value=b"the secret answer", codec="raw"))
        cache.get(Request(model="m", prompt="the secret prompt"))
    assert lines(caplog)
    assert not [message for _, message in lines(caplog) if "secret" in message]
