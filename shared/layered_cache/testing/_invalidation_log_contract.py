"""The rules for a tier that stores the invalidation log, as tests."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from layered_cache._storage.rules import UNKNOWN, Scope, below
from layered_cache.entry import Ticket
from layered_cache.errors import TierError
from layered_cache.testing._sync_async import Half
from layered_cache.tiers.base import Authority, Tier


class AuthorityContract:
    """The rules for a tier that stores the invalidation log. Inherit it beside `TierContract`."""

    def test_there_is_no_log_at_first_and_reading_makes_none(self, half: Half) -> None:
        """Only an append or an open creates a log."""
        assert half.read_log(UNKNOWN).epoch == 0
        assert half.read_log(UNKNOWN).epoch == 0

    def test_opening_makes_one(self, half: Half) -> None:
        """A log is created once, with a random epoch above zero."""
        opened = half.open_log(UNKNOWN)

        assert opened.epoch > 0
        assert opened.seq == 0
        assert half.open_log(UNKNOWN).epoch == half.read_log(UNKNOWN).epoch == opened.epoch

    def test_appending(self, half: Half, tier: Tier) -> None:
        """Each rule has a larger sequence number than the one before.

        Known rules are not returned.
        """
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
        """It adds no rule."""
        first = half.append_log("app", None, UNKNOWN, 0)
        second = half.append_log(below("app"), None, UNKNOWN, 0)

        assert second.rules == ()
        assert dict(second.floors) == {"app": first.seq, "app/": second.seq}

    def test_rules_that_leave_raise_the_floor(self, half: Half) -> None:
        """Rules below *before* may be removed.

        Their floor then covers at least the same entries.
        """
        old = half.append_log("app", Scope(keys=("k",)), UNKNOWN, 0)
        new = half.append_log("other", Scope(keys=("l",)), UNKNOWN, old.seq + 1)

        assert [rule.seq for rule in new.rules] == [new.seq]
        assert dict(new.floors) == {"app": old.seq}

    def test_a_log_that_came_back_older_gets_a_new_epoch(self, half: Half) -> None:
        """This happens on restart and before an append. A log that is not older keeps its epoch."""
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
        """No two rules have the same sequence number, and none is lost."""
        assert isinstance(tier, Authority)
        authority = tier

        def append(number: int) -> int:
            for _ in range(50):
                try:
                    return authority.append_log("app", Scope(keys=(str(number),)), UNKNOWN, 0).seq
                except TierError:
                    # a busy store may raise a timeout; the caller then retries
                    continue
            raise AssertionError

        with ThreadPoolExecutor(8) as pool:
            seqs = list(pool.map(append, range(40)))

        assert len(set(seqs)) == 40
        assert {rule.scope.keys[0] for rule in authority.read_log(UNKNOWN).rules} == {str(number) for number in range(40)}
        tier.close()
