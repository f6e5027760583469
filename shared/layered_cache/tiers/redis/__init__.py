"""Redis as a tier. Importing this package loads no client library."""

from layered_cache.tiers.redis.tier import RedisTier

__all__ = ["RedisTier"]
