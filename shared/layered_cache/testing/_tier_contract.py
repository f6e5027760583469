"""The rules for a tier, as tests.

    class TestShelfTier(TierContract):
        @pytest.fixture
        def tier(self) -> Tier:
            return ShelfTier(...)

Each rule is tested with the blocking methods and with the coroutines. A tier that stores the
invalidation log inherits `AuthorityContract` too, a queryable tier `QueryableContract`, and a
listable tier `ListableContract`.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

import pytest

from layered_cache.errors import TierError
from layered_cache.testing._sync_async import Half, an_entry
from layered_cache.tiers.base import Tier


class TierContract:
    """The rules for every tier."""

    @pytest.fixture(params=["blocking", "asynchronous"])
    def half(self, request: pytest.FixtureRequest, tier: Tier) -> Iterator[Half]:
        """The blocking methods or the coroutines of the tier."""
        if request.param == "blocking":
            yield Half(tier, None)
            tier.close()
            return
        loop = asyncio.new_event_loop()
        half = Half(tier, loop)
        yield half
        half.close()
        tier.close()
        loop.close()

    def outage(self, tier: Tier) -> AbstractContextManager[object] | None:
        """Return a context manager during which the store cannot be written.

        None: the store cannot be lost.
        """
        del tier
        return None

    def test_it_is_a_tier(self, tier: Tier) -> None:
        """It has all methods, a name and a timeout.

        Both forms of a method have the same signature.
        """
        assert isinstance(tier, Tier)
        assert tier.name
        assert tier.timeout >= 0
        for name in ("get_many", "set_many", "delete_many", "close"):
            assert inspect.signature(getattr(tier, name)) == inspect.signature(getattr(tier, "a" + name))
        tier.close()

    def test_it_holds_nothing_at_first(self, half: Half) -> None:
        """Absent keys are absent from the result, not None."""
        assert half.get_many(["absent", "absent too"]) == {}

    def test_what_was_set_is_got(self, half: Half) -> None:
        """All fields are returned unchanged, times with microseconds."""
        entries = [
            an_entry("full", b"\x00\xff"),
            an_entry("bare", b"", model=None, tags=(), finish=None, usage=None, cost_usd=None, compute_seconds=None, codec=""),
            an_entry("exact", created_at=1234567890.123457, fresh_until=9876543210.654321, keep_until=9876543210.654322),
        ]

        half.set_many(entries)

        assert half.get_many(["full", "bare", "exact", "absent"]) == {entry.key: entry for entry in entries}

    def test_one_key_alone(self, half: Half) -> None:
        """A single key is a batch like any other."""
        half.set_many([entry := an_entry()])

        assert half.get_many(["k"]) == {"k": entry}

    def test_order_and_repeats_do_not_matter(self, half: Half) -> None:
        """Keys may be in any order and repeated. The last entry of a key in a batch is stored."""
        half.set_many([an_entry("a", b"old"), a := an_entry("a", b"new"), b := an_entry("b")])

        assert half.get_many(["b", "a", "b"]) == {"a": a, "b": b}

    def test_empty_batches(self, half: Half) -> None:
        """They have no effect."""
        half.set_many([])

        assert half.get_many([]) == {}
        assert half.delete_many([]) == 0

    def test_the_last_write_wins(self, half: Half) -> None:
        """This holds even if the new entry has fewer tags or no model."""
        half.set_many([an_entry(value=b"old", tags=("x", "y"))])
        half.set_many([new := an_entry(value=b"new", tags=(), model=None)])

        assert half.get_many(["k"]) == {"k": new}

    def test_delete(self, half: Half) -> None:
        """It returns the number of erased entries. An absent key is no error."""
        half.set_many([an_entry("a"), an_entry("b"), an_entry("c")])

        assert half.delete_many(["a", "b", "absent"]) == 2
        assert half.delete_many(["a"]) == 0
        assert set(half.get_many(["a", "b", "c"])) == {"c"}

    def test_a_deleted_key_can_be_set_again(self, half: Half) -> None:
        """The erased entry leaves no trace."""
        half.set_many([an_entry(value=b"old")])
        half.delete_many(["k"])
        half.set_many([new := an_entry(value=b"new")])

        assert half.get_many(["k"]) == {"k": new}

    def test_expired_entries_are_not_given_back(self, half: Half) -> None:
        """This holds even before the store has removed them."""
        half.set_many([an_entry("short", ttl=0.3), an_entry("long"), an_entry("past", ttl=-1.0)])
        assert set(half.get_many(["short", "long", "past"])) == {"short", "long"}

        time.sleep(0.4)

        assert set(half.get_many(["short", "long", "past"])) == {"long"}

    @pytest.mark.parametrize("size", [0, 1, 4095, 4096, 100_000, 3_000_000])
    def test_values_of_any_size(self, half: Half, size: int) -> None:
        """From nothing to several megabytes, compressible or not."""
        entries = [an_entry("zeros", bytes(size)), an_entry("noise", os.urandom(size))]

        half.set_many(entries)

        assert half.get_many(["zeros", "noise"]) == {entry.key: entry for entry in entries}

    @pytest.mark.parametrize("key", ["ключ", "鍵 🗝", "a'b\"c\\d%e*f?g[h]", "tab\tnew\nline", "-" * 200, "lc1:app:x", "\x00\x01"])
    def test_keys_of_any_kind(self, half: Half, key: str) -> None:
        """Any Unicode text is a key, and similar keys are different keys."""
        half.set_many([entry := an_entry(key)])

        assert half.get_many([key, key + "x", key[:-1] + "y"]) == {key: entry}
        assert half.delete_many([key]) == 1

    def test_texts_of_any_kind(self, half: Half) -> None:
        """Namespaces, models and tags are Unicode texts."""
        half.set_many([entry := an_entry(namespace="größe/тенант 7", model="模型:4", tags=("émoji 🙂", "quote'"))])

        assert half.get_many(["k"]) == {"k": entry}

    def test_many_at_once(self, half: Half) -> None:
        """The caller need not know a limit for the size of a batch."""
        entries = {f"key {number}": an_entry(f"key {number}", str(number).encode()) for number in range(1500)}

        half.set_many(list(entries.values()))

        assert half.get_many([*entries, "absent"]) == entries
        assert half.delete_many(list(entries)) == len(entries)

    def test_arguments_stay_as_they_were(self, half: Half) -> None:
        """A tier does not change its arguments."""
        keys, entries = ["a", "b"], [an_entry("a"), an_entry("b")]
        before = copy.deepcopy((keys, entries))

        half.set_many(entries)
        half.get_many(keys)
        half.delete_many(keys)

        assert (keys, entries) == before

    def test_eight_threads(self, tier: Tier) -> None:
        """Each thread reads its own writes, and no other value under its keys."""

        def work(thread: int) -> None:
            for number in range(25):
                entry = an_entry(f"{thread} {number}", f"{thread}.{number}".encode())
                tier.set_many([entry])
                assert tier.get_many([entry.key, "shared"]).get(entry.key) == entry
                tier.set_many([an_entry("shared", entry.value)])
                assert tier.delete_many([entry.key]) == 1

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
        tier.close()

    def test_two_loops_one_after_the_other(self, tier: Tier) -> None:
        """A tier outlives the event loop of its first use."""
        entry = an_entry()

        asyncio.run(tier.aset_many([entry]))

        assert asyncio.run(_got(tier, ["k"])) == {"k": entry}
        tier.close()

    def test_many_tasks(self, tier: Tier) -> None:
        """Concurrent calls in one loop do not mix."""

        async def work(number: int) -> None:
            entry = an_entry(str(number), str(number).encode())
            await tier.aset_many([entry])
            assert await tier.aget_many([entry.key]) == {entry.key: entry}

        async def main() -> None:
            await asyncio.gather(*map(work, range(100)))

        asyncio.run(main())
        tier.close()

    def test_a_cancelled_call_disturbs_nobody(self, tier: Tier) -> None:
        """The next call gets its own result."""

        async def main() -> None:
            entries = [an_entry(str(number), str(number).encode()) for number in range(20)]
            await tier.aset_many(entries)
            for entry in entries:
                asyncio.ensure_future(tier.aget_many([entry.key])).cancel()
                started = asyncio.ensure_future(tier.aget_many([entry.key]))
                await asyncio.sleep(0)
                started.cancel()
                assert await tier.aget_many([entry.key]) == {entry.key: entry}

        asyncio.run(main())
        tier.close()

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform cannot fork")
    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_fork(self, tier: Tier) -> None:
        """A tier that was used works in a child process and in its parent."""
        tier.set_many([entry := an_entry("before")])
        asyncio.run(_got(tier, ["before"]))

        if (child := os.fork()) == 0:
            code = 1
            try:
                tier.set_many([an_entry("in child")])
                code = 0 if tier.get_many(["in child"]) and asyncio.run(_got(tier, ["in child"])) else 2
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)

        assert os.waitstatus_to_exitcode(status) == 0
        assert tier.get_many(["before"]) == {"before": entry}
        tier.close()

    def test_close_twice(self, half: Half) -> None:
        """The second call is no error."""
        half.set_many([an_entry()])

        half.close()
        half.close()

    def test_a_lost_store_is_an_error_in_time(self, tier: Tier) -> None:
        """It raises only `TierError`, and within its timeout. Later the same object works again."""
        tier.set_many([an_entry("before")])
        if (outage := self.outage(tier)) is None:
            pytest.skip("this store cannot be lost")
        for write in (lambda: tier.set_many([an_entry()]), lambda: asyncio.run(tier.aset_many([an_entry()]))):
            with outage:
                started = time.monotonic()
                with pytest.raises(TierError) as raised:
                    write()
                assert time.monotonic() - started < tier.timeout * 2 + 0.5
                assert raised.value.tier == tier.name
                assert "value" not in str(raised.value)

            write()
            assert tier.get_many(["k"])
        tier.close()


async def _got(tier: Tier, keys: list[str]) -> object:
    return await tier.aget_many(keys)
