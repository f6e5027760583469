"""The identity of code, clients and loaded networks, for keys."""
