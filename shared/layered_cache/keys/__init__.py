"""Keys: canonical JSON, the key of a request, and the options that change keys. Pure."""
