"""MongoDB as a tier. Importing this package loads no client library."""

from layered_cache.tiers.mongodb.tier import MongoTier

__all__ = ["MongoTier"]
