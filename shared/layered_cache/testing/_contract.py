"""The laws of a tier, as tests.

    class TestShelfTier(TierContract):
        @pytest.fixture
        def tier(self) -> Tier:
            return ShelfTier(...)

Each law is checked through the blocking half and through the asynchronous one. A tier that can keep the invalidation log inherits
`AuthorityContract` too, one that can be queried `QueryableContract`.
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
from typing import Any

import pytest

from layered_cache.entry import Entry, Ticket, Usage, whole_microseconds
from layered_cache.errors import TierError
from layered_cache.invalidation import UNKNOWN, Scope, below
from layered_cache.tiers._tier import Authority, Queryable, Tier

HOUR = 3600.0


def an_entry(key: str = "k", value: bytes = b"value", *, ttl: float = HOUR, **facts: Any) -> Entry:  # noqa: ANN401 - of Entry
    """Return an entry that lives for *ttl* seconds from now, with every field set."""
    now = whole_microseconds(time.time())
    given: dict[str, Any] = {
        "codec": "test",
        "namespace": "app",
        "model": "model-1",
        "tags": ("a", "b"),
        "prompt_digest": bytes(range(16)),
        "created_at": now,
        "fresh_until": whole_microseconds(now + ttl / 2),
        "keep_until": whole_microseconds(now + ttl),
        "born": Ticket(2**62, 2**51 + 1),
        "finish": "stop",
        "usage": Usage(3, 4),
        "cost_usd": 0.25,
        "compute_seconds": 1.5,
    }
    return Entry(key=key, value=value, **{**given, **facts})


class Half:
    """One half of a tier, called alike whichever it is."""

    def __init__(self, tier: object, loop: asyncio.AbstractEventLoop | None) -> None:
        self._tier, self._loop = tier, loop

    def __getattr__(self, method: str) -> Any:  # noqa: ANN401 - any of the tier's methods
        if self._loop is None:
            return getattr(self._tier, method)
        loop, function = self._loop, getattr(self._tier, "a" + method)

        def call(*args: object) -> object:
            result = function(*args)
            assert inspect.isawaitable(result), f"a{method} gives nothing to await"
            return loop.run_until_complete(result)

        return call


class TierContract:
    """What any tier does."""

    @pytest.fixture(params=["blocking", "asynchronous"])
    def half(self, request: pytest.FixtureRequest, tier: Tier) -> Iterator[Half]:
        """One half of the tier."""
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
        """Return a context in which the store cannot be written to; None: this store cannot be lost."""
        del tier
        return None

    def test_it_is_a_tier(self, tier: Tier) -> None:
        """It has every method, a name, a budget, and each coroutine has its plain twin's signature."""
        assert isinstance(tier, Tier)
        assert tier.name
        assert tier.timeout >= 0
        for name in ("get_many", "set_many", "delete_many", "close"):
            assert inspect.signature(getattr(tier, name)) == inspect.signature(getattr(tier, "a" + name))
        tier.close()

    def test_it_holds_nothing_at_first(self, half: Half) -> None:
        """Absent keys are absent from the answer, not None."""
        assert half.get_many(["absent", "absent too"]) == {}

    def test_what_was_set_is_got(self, half: Half) -> None:
        """Every field comes back as it was, clocks to the microsecond."""
        entries = [
            an_entry("full", b"\x00\xff"),
            an_entry("bare", b"", model=None, tags=(), finish=None, usage=None, cost_usd=None, compute_seconds=None, codec=""),
            an_entry("exact", created_at=1234567890.123457, fresh_until=9876543210.654321, keep_until=9876543210.654322),
        ]

        half.set_many(entries)

        assert half.get_many(["full", "bare", "exact", "absent"]) == {entry.key: entry for entry in entries}

    def test_one_key_alone(self, half: Half) -> None:
        """One key is a batch like any other."""
        half.set_many([entry := an_entry()])

        assert half.get_many(["k"]) == {"k": entry}

    def test_order_and_repeats_do_not_matter(self, half: Half) -> None:
        """Keys may come in any order and more than once; of two entries of one key in one batch, the last stays."""
        half.set_many([an_entry("a", b"old"), a := an_entry("a", b"new"), b := an_entry("b")])

        assert half.get_many(["b", "a", "b"]) == {"a": a, "b": b}

    def test_empty_batches(self, half: Half) -> None:
        """They do nothing."""
        half.set_many([])

        assert half.get_many([]) == {}
        assert half.delete_many([]) == 0

    def test_the_last_write_wins(self, half: Half) -> None:
        """Also if it has fewer tags, or no model."""
        half.set_many([an_entry(value=b"old", tags=("x", "y"))])
        half.set_many([new := an_entry(value=b"new", tags=(), model=None)])

        assert half.get_many(["k"]) == {"k": new}

    def test_delete(self, half: Half) -> None:
        """It says how many were there, and what is not there is no error."""
        half.set_many([an_entry("a"), an_entry("b"), an_entry("c")])

        assert half.delete_many(["a", "b", "absent"]) == 2
        assert half.delete_many(["a"]) == 0
        assert set(half.get_many(["a", "b", "c"])) == {"c"}

    def test_a_deleted_key_can_be_set_again(self, half: Half) -> None:
        """As if nothing had been."""
        half.set_many([an_entry(value=b"old")])
        half.delete_many(["k"])
        half.set_many([new := an_entry(value=b"new")])

        assert half.get_many(["k"]) == {"k": new}

    def test_expired_entries_are_not_given_back(self, half: Half) -> None:
        """Not even in the moments before the store removes them."""
        half.set_many([an_entry("short", ttl=0.3), an_entry("long"), an_entry("past", ttl=-1.0)])
        assert set(half.get_many(["short", "long", "past"])) == {"short", "long"}

        time.sleep(0.4)

        assert set(half.get_many(["short", "long", "past"])) == {"long"}

    @pytest.mark.parametrize("size", [0, 1, 4095, 4096, 100_000, 3_000_000])
    def test_values_of_any_size(self, half: Half, size: int) -> None:
        """From nothing to several megabytes, whether they can be compressed or not."""
        entries = [an_entry("zeros", bytes(size)), an_entry("noise", os.urandom(size))]

        half.set_many(entries)

        assert half.get_many(["zeros", "noise"]) == {entry.key: entry for entry in entries}

    @pytest.mark.parametrize("key", ["ключ", "鍵 🗝", "a'b\"c\\d%e*f?g[h]", "tab\tnew\nline", "-" * 200, "lc1:app:x", "\x00\x01"])
    def test_keys_of_any_kind(self, half: Half, key: str) -> None:
        """Any Unicode; and one key is never taken for another."""
        half.set_many([entry := an_entry(key)])

        assert half.get_many([key, key + "x", key[:-1] + "y"]) == {key: entry}
        assert half.delete_many([key]) == 1

    def test_texts_of_any_kind(self, half: Half) -> None:
        """Namespaces, models and tags are people's words."""
        half.set_many([entry := an_entry(namespace="größe/тенант 7", model="模型:4", tags=("émoji 🙂", "quote'"))])

        assert half.get_many(["k"]) == {"k": entry}

    def test_many_at_once(self, half: Half) -> None:
        """A batch has no size limit that its caller must know."""
        entries = {f"key {number}": an_entry(f"key {number}", str(number).encode()) for number in range(1500)}

        half.set_many(list(entries.values()))

        assert half.get_many([*entries, "absent"]) == entries
        assert half.delete_many(list(entries)) == len(entries)

    def test_arguments_stay_as_they_were(self, half: Half) -> None:
        """A tier works on what it is given, and leaves it alone."""
        keys, entries = ["a", "b"], [an_entry("a"), an_entry("b")]
        before = copy.deepcopy((keys, entries))

        half.set_many(entries)
        half.get_many(keys)
        half.delete_many(keys)

        assert (keys, entries) == before

    def test_eight_threads(self, tier: Tier) -> None:
        """Each sees its own writes, and nobody else's under its keys."""

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
        """A tier outlives the loop in which it was first used."""
        entry = an_entry()

        asyncio.run(tier.aset_many([entry]))

        assert asyncio.run(_got(tier, ["k"])) == {"k": entry}
        tier.close()

    def test_many_tasks(self, tier: Tier) -> None:
        """Concurrent calls of one loop do not mix."""

        async def work(number: int) -> None:
            entry = an_entry(str(number), str(number).encode())
            await tier.aset_many([entry])
            assert await tier.aget_many([entry.key]) == {entry.key: entry}

        async def main() -> None:
            await asyncio.gather(*map(work, range(100)))

        asyncio.run(main())
        tier.close()

    def test_a_cancelled_call_disturbs_nobody(self, tier: Tier) -> None:
        """Whoever comes next gets his own answer."""

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
        """A tier that was used goes on in a child process, and in its parent."""
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
        """No error."""
        half.set_many([an_entry()])

        half.close()
        half.close()

    def test_a_lost_store_is_an_error_in_time(self, tier: Tier) -> None:
        """It raises `TierError` within its budget, nothing else; and works again, without a new object, when the store does."""
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


class AuthorityContract:
    """What a tier does that keeps the invalidation log; to be inherited beside `TierContract`."""

    def test_there_is_no_log_at_first_and_reading_makes_none(self, half: Half) -> None:
        """Only an append or a store makes one."""
        assert half.read_log(UNKNOWN).epoch == 0
        assert half.read_log(UNKNOWN).epoch == 0

    def test_opening_makes_one(self, half: Half) -> None:
        """With a random epoch above zero, once."""
        opened = half.open_log(UNKNOWN)

        assert opened.epoch > 0
        assert opened.seq == 0
        assert half.open_log(UNKNOWN).epoch == half.read_log(UNKNOWN).epoch == opened.epoch

    def test_appending(self, half: Half, tier: Tier) -> None:
        """Each rule has a seq of its own, later ones a higher one; what was seen before is not told again."""
        assert isinstance(tier, Authority)
        scope = Scope(tags=("a",), model="gpt-*", created_before=12.5)
        first = half.append_log("app", Scope(keys=("k",)), UNKNOWN, 0)
        second = half.append_log("app", scope, Ticket(first.epoch, first.seq), 0)

        assert first.seq < second.seq
        assert [(rule.seq, rule.namespace, rule.scope) for rule in second.rules] == [(second.seq, "app", scope)]
        assert [rule.seq for rule in half.read_log(UNKNOWN).rules] == [first.seq, second.seq]
        assert half.read_log(Ticket(second.epoch, second.seq)).rules == ()
        assert half.read_log(Ticket(second.epoch, second.seq)).seq == second.seq

    def test_no_scope_raises_a_floor(self, half: Half) -> None:
        """And is no rule."""
        first = half.append_log("app", None, UNKNOWN, 0)
        second = half.append_log(below("app"), None, UNKNOWN, 0)

        assert second.rules == ()
        assert dict(second.floors) == {"app": first.seq, "app/": second.seq}

    def test_rules_that_leave_raise_the_floor(self, half: Half) -> None:
        """Older ones than asked for may leave, and void more than before, never less."""
        old = half.append_log("app", Scope(keys=("k",)), UNKNOWN, 0)
        new = half.append_log("other", Scope(keys=("l",)), UNKNOWN, old.seq + 1)

        assert [rule.seq for rule in new.rules] == [new.seq]
        assert dict(new.floors) == {"app": old.seq}

    def test_a_log_that_came_back_older_gets_a_new_epoch(self, half: Half) -> None:
        """On restart, and before anything is appended to it; one that is not older stays."""
        now = half.append_log("app", Scope(keys=("k",)), UNKNOWN, 0)
        ahead = Ticket(now.epoch, now.seq + 10**9)

        assert half.restart_log(Ticket(now.epoch, now.seq)).epoch == now.epoch
        restarted = half.restart_log(ahead)
        assert restarted.epoch not in (0, now.epoch)
        assert restarted.seq > ahead.seq
        again = half.append_log("app", Scope(keys=("m",)), Ticket(restarted.epoch, restarted.seq + 10**9), 0)
        assert again.epoch not in (restarted.epoch, now.epoch)
        assert [rule.scope.keys for rule in again.rules] == [("m",)]

    def test_eight_appending_threads(self, tier: Tier) -> None:
        """No two rules share a seq, and none is lost."""
        assert isinstance(tier, Authority)
        authority = tier

        def append(number: int) -> int:
            for _ in range(50):
                try:
                    return authority.append_log("app", Scope(keys=(str(number),)), UNKNOWN, 0).seq
                except TierError:  # a busy store may refuse within its budget: whoever asked for removal is told, and asks again
                    continue
            raise AssertionError

        with ThreadPoolExecutor(8) as pool:
            seqs = list(pool.map(append, range(40)))

        assert len(set(seqs)) == 40
        assert {rule.scope.keys[0] for rule in authority.read_log(UNKNOWN).rules} == {str(number) for number in range(40)}
        tier.close()


class QueryableContract:
    """What a tier does that can find entries by what they are; to be inherited beside `TierContract`."""

    @pytest.mark.parametrize(
        ("scope", "found"),
        [
            (Scope(), {"a", "b", "c"}),
            (Scope(keys=("a", "d", "absent")), {"a"}),
            (Scope(tags=("red",)), {"a", "b"}),
            (Scope(tags=("blue", "red")), {"a", "b"}),
            (Scope(model="gpt-4*"), {"a", "b"}),
            (Scope(model="gpt-[45]"), {"a"}),
            (Scope(model="GPT-4"), set[str]()),
            (Scope(prompt=bytes(range(16)).hex()), {"a", "c"}),
            (Scope(created_before=2000.0), {"a"}),
            (Scope(created_after=2000.0), {"b", "c"}),
            (Scope(created_after=1500.0, created_before=2500.0, tags=("red",)), {"b"}),
            (Scope(tags=("blue",), model="gpt-3"), set[str]()),
        ],
    )
    def test_what_a_scope_matches(self, half: Half, tier: Tier, scope: Scope, found: set[str]) -> None:
        """All criteria together, in this namespace alone; what is counted is what is erased, and what `Scope.matches` says."""
        assert isinstance(tier, Queryable)
        entries = [
            an_entry("a", model="gpt-4", tags=("red", "blue"), created_at=1000.0),
            an_entry("b", model="gpt-4o", tags=("red",), created_at=2000.0, prompt_digest=bytes(16)),
            an_entry("c", model=None, tags=(), created_at=3000.0),
            an_entry("d", model="gpt-4", tags=("red",), created_at=1000.0, namespace="app/child"),
        ]
        half.set_many(entries)
        assert found == {entry.key for entry in entries if entry.namespace == "app" and scope.matches(entry)}

        assert half.count_where("app", scope) == len(found)
        assert half.erase_where("app", scope, 2**62) == len(found)
        assert set(half.get_many(["a", "b", "c", "d"])) == {"a", "b", "c", "d"} - found

    def test_a_namespace_and_what_is_below_it(self, half: Half) -> None:
        """Below means below: a neighbour whose name begins alike is another."""
        for number, namespace in enumerate(("app", "app/a", "app/a/b", "app2", "ap", "APP", "app_a")):
            half.set_many([an_entry(str(number), namespace=namespace)])

        assert half.count_where("app", Scope()) == 1
        assert half.erase_where(below("app"), Scope(), 2**62) == 3
        assert set(half.get_many(list("0123456"))) == {"3", "4", "5", "6"}

    def test_what_was_born_later_stays(self, half: Half) -> None:
        """An answer that was computed after an invalidation is not removed by it."""
        half.set_many([an_entry("old", born=Ticket(1, 10)), an_entry("new", born=Ticket(1, 20))])

        assert half.erase_where("app", Scope(tags=("a",)), 20) == 1
        assert set(half.get_many(["old", "new"])) == {"new"}
