"""What may go wrong before a tier does go wrong, as often as it is told to, and in the same way each time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from layered_cache import Refused, TieredCache, TierError
from layered_cache.entry import Ticket
from layered_cache.testing import FakeAuthority, FakeClock, FakeTier
from layered_cache.testing._sync_async import an_entry
from layered_cache.tiers.base import Authority
from support.chaos import ChaosAuthority, ChaosTier
from support.sync_async import ask


@pytest.fixture
def tier() -> FakeTier:
    return FakeTier()


def fates(chaos: ChaosTier, calls: int = 200) -> list[str]:
    """Return what became of so many reads."""
    seen: list[str] = []
    for _ in range(calls):
        try:
            found = chaos.get_many(["one"])
        except TierError:
            seen.append("failed")
        else:
            seen.append(type(found["one"]).__name__)
    return seen


def test_without_troubles_it_is_the_tier_itself(tier: FakeTier) -> None:
    chaos, entry = ChaosTier(tier), an_entry("one")
    chaos.set_many([entry])

    assert chaos.get_many(["one", "two"]) == {"one": entry}
    assert asyncio.run(chaos.aget_many(["one"])) == {"one": entry}
    assert chaos.delete_many(["one"]) == 1
    assert not tier.held


def test_the_same_seed_brings_the_same(tier: FakeTier) -> None:
    tier.set_many([an_entry("one")])
    troubles: dict[str, Any] = {"fails": 0.3, "garbles": 0.3}
    first, second, other = (fates(ChaosTier(tier, seed=seed, **troubles)) for seed in (1, 1, 2))

    assert first == second != other
    assert {"failed", "Refused", "Entry"} == set(first)


def test_a_failed_write_may_have_been_done_all_the_same(tier: FakeTier) -> None:
    chaos = ChaosTier(tier, fails=1.0)
    for number in range(100):
        with pytest.raises(TierError):
            chaos.set_many([an_entry(str(number))])

    assert 20 < len(tier.held) < 80


def test_lost_writes_are_acknowledged(tier: FakeTier) -> None:
    ChaosTier(tier, loses=1.0).set_many([an_entry("one")])

    assert not tier.held


def test_late_writes_land_when_they_are_told_to(tier: FakeTier) -> None:
    """And overwrite what came meanwhile."""
    chaos, late = ChaosTier(tier, late=1.0), an_entry("one", b"late")
    chaos.set_many([late])
    assert chaos.under_way == 1
    tier.set_many([an_entry("one", b"newer")])
    chaos.land()

    assert tier.held["one"] == late
    assert chaos.under_way == 0


def test_what_is_garbled_is_refused(tier: FakeTier) -> None:
    """As real bytes are, with whatever byte is wrong; the tier keeps what it has."""
    tier.set_many([entry := an_entry("one")])
    found = [ChaosTier(tier, garbles=1.0, seed=seed).get_many(["one"])["one"] for seed in range(200)]

    assert all(isinstance(one, Refused) for one in found)
    assert len({one.reason for one in found if isinstance(one, Refused)}) > 1
    assert tier.held["one"] == entry


def test_a_tier_that_keeps_the_log_has_its_own_troubles() -> None:
    authority = FakeAuthority()
    chaos = ChaosAuthority(authority, fails=1.0)
    assert isinstance(chaos, Authority)
    assert not isinstance(ChaosTier(authority), Authority)
    for half in (chaos.open_log, lambda seen: asyncio.run(chaos.aopen_log(seen))):
        with pytest.raises(TierError):
            half(Ticket(0, 0))
    with pytest.raises(TypeError, match="Use ChaosTier"):
        ChaosAuthority(FakeTier()).read_log(Ticket(0, 0))


def test_a_cache_over_it_answers() -> None:
    """Whatever happens below."""
    clock = FakeClock()
    ways = ChaosTier(FakeTier(), fails=0.5, garbles=0.5), ChaosAuthority(FakeAuthority(clock=clock), fails=0.5, late=0.5, delay=0.0001)
    cache = TieredCache(*ways, clock=clock)
    for number in range(100):
        assert cache.get_or_compute(ask(str(number % 7)), lambda: b"x").value == b"x"
