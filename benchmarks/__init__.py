"""How fast the cache is, beside its goals and beside other caches.

    python -m benchmarks                         everything, some minutes
    python -m benchmarks memory sqlite --quick   two themes, coarsely

A theme is a module with `measure`, which yields lines. What is compared runs in one run and by turns (see `_race`). A peer that is
not installed, or whose server is missing, gives a line that says so.
"""
