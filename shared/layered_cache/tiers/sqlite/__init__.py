"""SQLite as a tier."""

from layered_cache.tiers.sqlite.tier import SQLiteTier

__all__ = ["SQLiteTier"]
