"""Helpers without knowledge of caches: clocks, durations, threads, forks, lazy attributes."""
