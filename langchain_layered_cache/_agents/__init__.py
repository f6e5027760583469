"""Agents: models and tools behind the middleware."""
