"""The rules for a tier that can find entries by their properties, as tests."""

from __future__ import annotations

import pytest

from layered_cache._storage.rules import Scope, below
from layered_cache.entry import Ticket
from layered_cache.testing._sync_async import Half, an_entry
from layered_cache.tiers.base import Queryable, Tier


class QueryableContract:
    """The rules for a queryable tier. Inherit it beside `TierContract`."""

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
        """All criteria must match, in this namespace only.

        The counted entries are the erased ones, and `Scope.matches` is true for exactly these.
        """
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
        """A namespace with the same prefix is not a child."""
        for number, namespace in enumerate(("app", "app/a", "app/a/b", "app2", "ap", "APP", "app_a")):
            half.set_many([an_entry(str(number), namespace=namespace)])

        assert half.count_where("app", Scope()) == 1
        assert half.erase_where(below("app"), Scope(), 2**62) == 3
        assert set(half.get_many(list("0123456"))) == {"3", "4", "5", "6"}

    def test_what_was_born_later_stays(self, half: Half) -> None:
        """An answer that was computed after an invalidation is not erased by it."""
        half.set_many([an_entry("old", born=Ticket(1, 10)), an_entry("new", born=Ticket(1, 20))])

        assert half.erase_where("app", Scope(tags=("a",)), 20) == 1
        assert set(half.get_many(["old", "new"])) == {"new"}
