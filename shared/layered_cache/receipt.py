"""What a removal did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from layered_cache.errors import TierError


@dataclass(frozen=True, slots=True)
class Receipt:
    """Of `delete`, `invalidate` and `clear`: from here on, nothing that was named is served by this process.

    `seq` is the rule's place in the invalidation log (None for a dry run, and where none was needed), `durable` whether the log outlives a
    crash. `removed` says how many entries were erased from which tier (in a dry run: would be); erasing only frees space, and a tier that
    failed to is in `failures`.
    """

    seq: int | None
    durable: bool
    removed: Mapping[str, int]
    failures: tuple[TierError, ...] = ()


def together(receipts: Sequence[Receipt]) -> Receipt:
    """Return the receipt of several removals, one after the other, that were asked for as one."""
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
