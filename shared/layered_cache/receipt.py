"""The results of invalidations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from layered_cache.errors import TierError


@dataclass(frozen=True, slots=True)
class Receipt:
    """The result of `delete`, `invalidate` and `clear`. The entries are not served any more here.

    `seq` is the position of the rule in the invalidation log, or None for a dry run and if no rule
    was needed. `durable` is true if the log survives a crash. `removed` is the number of erased
    entries by tier; in a dry run, the number that would be erased. Erasing only frees space. The
    tiers that failed to erase are in `failures`.
    """

    seq: int | None
    durable: bool
    removed: Mapping[str, int]
    failures: tuple[TierError, ...] = ()


def together(receipts: Sequence[Receipt]) -> Receipt:
    """Return the combined receipt of several invalidations of one call."""
    if len(receipts) == 1:
        return receipts[0]
    removed: Counter[str] = Counter()
    for receipt in receipts:
        removed.update(receipt.removed)
    return Receipt(
        seq=receipts[-1].seq,
        durable=all(receipt.durable for receipt in receipts),
        removed=dict(removed),
        failures=tuple(failure for receipt in receipts for failure in receipt.failures),
    )
