"""The engine: decisions as coroutines over `Effects`, run by threads or by event loops.

The engine is internal: only this package imports it.
"""
