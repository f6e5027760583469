"""The rules for a tier that can list its keys, as tests."""

from __future__ import annotations

import pytest

from layered_cache.keys.keys import key_prefix
from layered_cache.testing._sync_async import Half, an_entry
from layered_cache.tiers.base import Listable, Tier


class ListableContract:
    """The rules for a tier that can list its keys. Inherit it beside `TierContract`."""

    def test_an_empty_tier_lists_nothing(self, half: Half, tier: Tier) -> None:
        """The listing ends."""
        assert isinstance(tier, Listable)

        assert listed(half, "app") == []

    def test_it_lists_one_namespace(self, half: Half) -> None:
        """Only this namespace is listed.

        Child namespaces are not listed. Neither are namespaces with the same prefix, nor namespaces
        that would match the name as a pattern.
        """
        namespaces = ("app", "app/a", "app/a/b", "app:", "app2", "ap", "APP", "app_a", "a*", "a?p", "[a]pp", "größe 7", "app;", "app%3A")
        for namespace in namespaces:
            half.set_many([an_entry(f"{key_prefix(namespace)}{number}", namespace=namespace) for number in range(2)])

        for namespace in namespaces:
            assert listed(half, namespace) == [f"{key_prefix(namespace)}{number}" for number in range(2)]

    @pytest.mark.parametrize("count", [1, 499, 500, 501, 1500])
    def test_page_by_page(self, half: Half, count: int) -> None:
        """All keys are listed, on any number of pages, but no deleted ones."""
        keys = [f"{key_prefix('app')}{number:04}" for number in range(count)]
        half.set_many([an_entry(key) for key in [*keys, f"{key_prefix('app')}gone"]])
        half.delete_many([f"{key_prefix('app')}gone"])

        assert listed(half, "app") == keys

    def test_what_is_there_all_the_time_comes(self, half: Half) -> None:
        """Other keys are removed and written between two pages."""
        keys = [f"{key_prefix('app')}{number:04}" for number in range(1200)]
        half.set_many([an_entry(key) for key in keys])
        found: list[str] = []
        page, after = half.list_keys("app", None)
        found += page
        half.delete_many(keys[::3])
        half.set_many([an_entry(f"{key}x") for key in keys[:100]])
        while after is not None:
            page, after = half.list_keys("app", after)
            found += page

        assert set(found) >= set(keys) - set(keys[::3])


def listed(half: Half, namespace: str) -> list[str]:
    """Return all keys of *namespace*, sorted and without duplicates."""
    found: list[str] = []
    after = None
    while True:
        page, after = half.list_keys(namespace, after)
        found += page
        if after is None:
            return sorted(set(found))
