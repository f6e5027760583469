"""A line of the table: what was measured, beside what it should be."""

from __future__ import annotations

import re
from dataclasses import dataclass

_TARGET = re.compile(r"(<=|>=) ([\d.]+)(.*)")
_DIGITS = 3  # that say something
HEAD = "| goal | what | measured | target | met | us | us of CPU |\n|---|---|---:|---:|---|---:|---:|"


@dataclass(frozen=True, slots=True)
class Line:
    """What was measured of one thing.

    Args:
        goal: Its number among the goals.
        what: In words; `a / b` where it is a ratio.
        measured: None if it could not be.
        unit: Of *measured*.
        target: `"<= 0.06x"`, `">= 20x"`; None if it is there for comparison only.
        us: What each of the two took for one call, in microseconds.
        cpu_us: The same, on the processors of the client.
        reason: Why it was not measured.

    Raises:
        ValueError: *target* is none, or in another unit than *measured*.
    """

    goal: str
    what: str
    measured: float | None = None
    unit: str = "x"
    target: str | None = None
    us: tuple[float, ...] = ()
    cpu_us: tuple[float, ...] = ()
    reason: str = ""

    def __post_init__(self) -> None:
        match = _TARGET.fullmatch(self.target or "<= 0" + self.unit)
        if match is None or (self.measured is not None and match[3] != self.unit):
            msg = f"a target looks like '<= 0.06{self.unit}', not {self.target!r}"
            raise ValueError(msg)

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None if there is none or nothing was measured."""
        match = _TARGET.fullmatch(self.target or "")
        if self.measured is None or match is None:
            return None
        limit = float(match[2])
        return self.measured <= limit if match[1] == "<=" else self.measured >= limit

    def __str__(self) -> str:
        """The line as a row of a table in Markdown."""
        measured = f"not measured: {self.reason}" if self.measured is None else f"{number(self.measured)}{self.unit}"
        met = {True: "yes", False: "**no**", None: ""}[self.met]
        cells = (self.goal, self.what, measured, self.target or "", met, _pair(self.us), _pair(self.cpu_us))
        return f"| {' | '.join(cells)} |"


def number(value: float) -> str:
    """Return *value* with as many digits as say something."""
    whole = len(str(int(abs(value)))) if abs(value) >= 1 else 0
    return f"{value:,.{max(0, _DIGITS - whole)}f}" if value else "0"


def _pair(values: tuple[float, ...]) -> str:
    return " / ".join(map(number, values))
