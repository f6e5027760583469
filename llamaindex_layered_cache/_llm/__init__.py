"""Cached LLMs: requests, calls, streams, stored responses."""
