"""Keys, stored writes and pending tasks of `LangGraphCache`."""
