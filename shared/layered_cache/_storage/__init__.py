"""The stored form of entries and of invalidation rules. Pure."""
