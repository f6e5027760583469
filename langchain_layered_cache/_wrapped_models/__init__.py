"""Models that `cached` returns: chat models, completion models and their streams."""
