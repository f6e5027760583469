"""What is particular to `memory://`: its bounds, its order of leaving, its short cut."""

from __future__ import annotations

import gc
import random
import threading
from itertools import pairwise

import pytest
from layered_cache import MemoryTier
from layered_cache.testing import FakeClock
from layered_cache.testing._sync_async import an_entry

KIB = 1024


def test_it_keeps_to_its_bytes() -> None:
    """Whatever is put into it, in whatever order."""
    tier = MemoryTier(max_bytes=256 * KIB)
    rnd = random.Random(7)
    for _ in range(5000):
        key, action = str(rnd.randrange(800)), rnd.random()
        if action < 0.7:
            tier.set_many([an_entry(key, bytes(rnd.randrange(4000)))])
        elif action < 0.8:
            tier.delete_many([key])
        else:
            tier.get_many([key])
        assert tier.used_bytes <= tier.max_bytes
    held = [key for key, slot in tier._slots.items() if slot is not None]
    assert tier.used_bytes == sum(tier._size(key, slot) for key, slot in tier._slots.items())
    assert sorted(tier._slots) == sorted([*tier._small, *tier._main])
    assert len(held) == len(tier) > 50
    assert tier.evictions > 0


def test_what_is_asked_again_stays() -> None:
    """A flood of questions that are asked once does not push it out."""
    tier = MemoryTier(max_bytes=256 * KIB)
    popular = [f"popular {number}" for number in range(20)]
    tier.set_many([an_entry(key, bytes(1000)) for key in popular])
    tier.get_many(popular)
    for number in range(2000):
        tier.set_many([an_entry(f"once {number}", bytes(1000))])
        if number % 50 == 0:
            tier.get_many(popular)

    assert set(tier.get_many(popular)) == set(popular)


def test_a_ghost_that_returns_goes_to_the_main_queue() -> None:
    """It was asked for twice within a short time, though it had left in between."""
    tier = MemoryTier(max_bytes=64 * KIB)
    for number in range(60):
        tier.set_many([an_entry(str(number), bytes(2000))])
    left = next(str(number) for number in range(60) if str(number) not in tier._slots and hash(str(number)) in tier._ghostly)
    tier.set_many([an_entry(left, bytes(2000))])

    assert left in tier._main


def test_an_entry_that_is_too_large_is_not_held() -> None:
    """Nor what it was to replace."""
    tier = MemoryTier(max_bytes=64 * KIB)
    tier.set_many([an_entry("k", b"old")])
    tier.set_many([an_entry("k", bytes(20 * KIB))])

    assert tier.get_many(["k"]) == {}


def test_a_value_is_a_copy_without_slack() -> None:
    """What an encoder allocated beside it does not stay."""
    tier = MemoryTier()
    entry = an_entry(value=bytes(1000))
    tier.set_many([entry])

    assert tier.get_many(["k"])["k"].value is not entry.value


def test_the_garbage_collector_forgets_its_slots() -> None:
    """They hold nothing that it need visit."""
    tier = MemoryTier()
    tier.set_many([an_entry(str(number), tags=("a",)) for number in range(100)])
    for _ in range(3):  # from the inside out
        gc.collect()

    assert not any(gc.is_tracked(slot) for slot in tier._slots.values())


def test_peek_is_fresh_and_checked(clock: FakeClock) -> None:
    """At the very view that is asked for, by the monotonic clock."""
    tier, view, other = MemoryTier(clock=clock), (1, 5), (1, int("5"))
    now = clock.time()
    tier.put(an_entry(fresh_until=now + 60, keep_until=now + 90), view)

    slot = tier.peek("k", view, clock.monotonic())
    assert slot is not None
    assert slot[2] == b"value"
    assert tier.peek("k", other, clock.monotonic()) is None
    assert tier.peek("absent", view, clock.monotonic()) is None
    clock.jump(-3600)
    assert tier.peek("k", view, clock.monotonic() + 59.9)
    assert tier.peek("k", view, clock.monotonic() + 60.0) is None


def test_restamp_and_drop_touch_only_what_was_found() -> None:
    """What has replaced it meanwhile stays."""
    tier, old_view, new_view = MemoryTier(), (1, 1), (1, 2)
    tier.put(an_entry(value=b"one"), old_view)
    found = tier.find("k")
    assert found is not None
    tier.put(an_entry(value=b"two"), old_view)
    tier.restamp(found[0], new_view)
    tier.drop(found[0])
    assert tier.peek("k", old_view, 0.0)

    found = tier.find("k")
    assert found is not None
    tier.restamp(found[0], new_view)
    assert tier.peek("k", new_view, 0.0)
    tier.drop(found[0])
    assert tier.find("k") is None


def test_readers_need_no_lock() -> None:
    """While others write, evict and delete, each reader gets its own key's value or nothing."""
    tier, stop, wrong = MemoryTier(max_bytes=128 * KIB), threading.Event(), list[object]()

    def read() -> None:
        while not stop.is_set():
            for number in range(200):
                for key, entry in tier.get_many([str(number)]).items():
                    if entry.value[: len(key) + 1] != f"{key},".encode():
                        wrong.append((key, entry))

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for round_ in range(15):
        for number in range(200):
            tier.set_many([an_entry(str(number), f"{number},{round_}".encode() + bytes(900))])
            if number % 7 == 0:
                tier.delete_many([str(number)])
    stop.set()
    for reader in readers:
        reader.join()

    assert wrong == []


def test_hits_of_what_has_left_do_not_pile_up() -> None:
    """A reader may count a hit on what has just left."""
    tier = MemoryTier(max_bytes=64 * KIB)
    for number in range(6000):
        tier._hits[f"gone {number}"] = 1
    for number in range(100):
        tier.set_many([an_entry(str(number), bytes(2000))])

    assert len(tier._hits) <= len(tier._slots)


@pytest.mark.parametrize("size", [1, 64 * KIB - 1, "63KiB"])
def test_too_small_is_an_error(size: object) -> None:
    """The error says how small it may be."""
    with pytest.raises(ValueError, match="at least 64KiB"):
        MemoryTier(max_bytes=size)  # type: ignore[arg-type]


def test_it_says_how_full_it_is() -> None:
    """In its repr, and no key."""
    tier = MemoryTier(max_bytes=1024 * KIB)
    used = []
    for size in (0, 100, 5000):
        tier.set_many([an_entry("secret", bytes(size))])
        used.append(tier.used_bytes)

    assert all(one < other for one, other in pairwise(used))
    assert repr(tier) == f"MemoryTier({used[-1]:,} of 1,048,576 bytes)"
