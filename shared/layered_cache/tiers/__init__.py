"""One module per store. A tier imports its client library in its constructor.

A tier module imports neither the engine nor another tier.
"""
