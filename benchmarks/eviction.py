"""Who stays when memory is full: the hits of `MemoryTier` (S3-FIFO) beside those of a cache that forgets what was used least recently.

A simulation on the real tier: half of what is asked is asked once, the rest by Zipf's law, and one key in a hundred has room.
"""

from __future__ import annotations

import itertools
import random
from collections import OrderedDict
from collections.abc import Iterator

from layered_cache import MemoryTier
from layered_cache.testing._sync_async import an_entry

from benchmarks._bench import Bench
from benchmarks._line import Line

KEYS = 100_000
ASKED = 500_000
EXPONENT = 0.7
ROOM = 0.01
_VALUE = bytes(600)


def measure(bench: Bench) -> Iterator[Line]:
    """Yield the lines of this theme."""
    keys = bench.some(KEYS, least=10_000)
    asked = list(_asked(keys, bench.some(ASKED, least=20_000)))
    room = int(keys * ROOM)
    ours, theirs = _tier_hits(asked, room), _lru_hits(asked, room)
    what = f"hits at 1 % capacity, half asked once: S3-FIFO ({ours / len(asked):.1%}) / LRU ({theirs / len(asked):.1%})"
    yield Line("", what, ours / max(theirs, 1), target=">= 1.5x")


def _asked(keys: int, count: int) -> Iterator[str]:
    rnd = random.Random(7)
    weights = list(itertools.accumulate(rank**-EXPONENT for rank in range(1, keys + 1)))
    drawn = iter(rnd.choices(range(keys), cum_weights=weights, k=count))
    once = itertools.count()
    for _ in range(count):
        yield f"once {next(once):07}" if rnd.random() < 1 / 2 else f"many {next(drawn):07}"


def _tier_hits(asked: list[str], room: int) -> int:
    """Return how many of *asked* a tier finds that has room for so many; what it does not find it is given."""
    probe = MemoryTier()
    probe.set_many([an_entry(asked[0], _VALUE)])
    tier = MemoryTier(max_bytes=room * probe.used_bytes)
    hits = 0
    for key in asked:
        if tier.get_many((key,)):
            hits += 1
        else:
            tier.set_many((an_entry(key, _VALUE),))
    return hits


def _lru_hits(asked: list[str], room: int) -> int:
    held: OrderedDict[str, None] = OrderedDict()
    hits = 0
    for key in asked:
        if key in held:
            hits += 1
            held.move_to_end(key)
        else:
            held[key] = None
            if len(held) > room:
                held.popitem(last=False)
    return hits
