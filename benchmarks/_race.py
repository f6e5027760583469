"""Contenders that run against each other, by turns.

The speed of a machine changes from second to second, more than what is to be told apart here. So each round gives every contender a
small batch, in shuffled order: a time is the median over the rounds, a ratio the median of the rounds' ratios. Beside the time on the
clock stands the time on our processors: who waits for a server has the first, and costs the second.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import random
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks._line import Line

_FEW = 10  # calls that tell how long one takes
_MOST = 50_000  # calls in a batch

Call = Callable[..., object]
Inputs = Callable[[int], Sequence[tuple[Any, ...]]]


class NotMeasuredError(Exception):
    """Something that is needed is not here; the message says what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How thoroughly to measure.

    Args:
        rounds: How often each contender has its turn.
        seconds: How long one turn takes, about.
        share: Of the full size, what measurements by the bulk take.
        by_cpu: Whether time on our processors counts, and not the clock's: for a machine that others keep busy. Who waits for a
            server then looks better than he is.
    """

    rounds: int
    seconds: float
    share: float
    by_cpu: bool = False


FULL = Effort(rounds=41, seconds=0.02, share=1.0)
QUICK = Effort(rounds=9, seconds=0.005, share=0.2)
SMOKE = Effort(rounds=2, seconds=0.0, share=0.002)


@dataclass(slots=True)
class _Contender:
    call: Call
    inputs: Inputs
    batch: int = 1
    us: list[float] = field(default_factory=list[float])
    cpu_us: list[float] = field(default_factory=list[float])


class Race:
    """Who runs against whom, and what came of it.

    Args:
        effort: How thoroughly.
        loop: Drives contenders that are coroutine functions.
    """

    def __init__(self, effort: Effort, loop: asyncio.Runner) -> None:
        self._effort = effort
        self._loop = loop
        self._contenders: dict[str, _Contender] = {}
        self._absent: dict[str, str] = {}

    def enter(self, name: str, make: Callable[[], Call], inputs: Inputs = lambda count: [()] * count) -> None:
        """Let what *make* returns take part; if that raises `NotMeasuredError`, it is absent.

        *inputs* makes the arguments of as many calls as it is asked for. The time that this takes is nobody's.
        """
        try:
            self._contenders[name] = _Contender(make(), inputs)
        except NotMeasuredError as error:
            self._absent[name] = str(error)

    def run(self) -> Race:
        """Run all rounds."""
        for contender in self._contenders.values():
            contender.batch = self._batch_of(contender)
        order = list(self._contenders.values())
        gc.collect()
        gc.freeze()  # what stands around is not for the contenders to clean
        try:
            for _ in range(self._effort.rounds):
                random.shuffle(order)
                for contender in order:
                    us, cpu_us = self._turn(contender, contender.batch)
                    contender.us.append(us)
                    contender.cpu_us.append(cpu_us)
        finally:
            gc.unfreeze()
        return self

    def us(self, name: str) -> float:
        """Return how long *name* takes for one call, in microseconds."""
        return statistics.median(self._contenders[name].us)

    def cpu_us(self, name: str) -> float:
        """Return how long *name* keeps this process's processors busy for one call, in microseconds."""
        return statistics.median(self._contenders[name].cpu_us)

    def ratio(self, name: str, base: str) -> float:
        """Return how many times as long as *base* takes *name*."""
        return statistics.median(mine / other for mine, other in self._rounds(name, base))

    def excess(self, name: str, base: str) -> float:
        """Return how many microseconds longer than *base* takes *name*."""
        return statistics.median(mine - other for mine, other in self._rounds(name, base))

    def compare(self, goal: str, what: str, name: str, base: str, target: str | None = None) -> Line:
        """Return the line of the ratio of *name* and *base*."""
        return self._line(goal, what, (name, base), self.ratio, target)

    def added(self, goal: str, what: str, name: str, base: str, target: str | None = None) -> Line:
        """Return the line of what *name* takes longer than *base*."""
        return self._line(goal, what, (name, base), self.excess, target, unit=" us")

    def alone(self, goal: str, what: str, name: str, target: str | None = None) -> Line:
        """Return the line of what *name* takes."""
        measure = self.cpu_us if self._effort.by_cpu else self.us
        return self._line(goal, what, (name,), measure, target, unit=" us")

    def _line(
        self, goal: str, what: str, names: Sequence[str], measure: Callable[..., float], target: str | None, *, unit: str = "x"
    ) -> Line:
        if reasons := [f"{name}: {self._absent[name]}" for name in names if name in self._absent]:
            return Line(goal, what, target=target, reason="; ".join(reasons))
        us, cpu_us = tuple(map(self.us, names)), tuple(map(self.cpu_us, names))
        return Line(goal, what, measure(*names), unit, target, us=us, cpu_us=cpu_us)

    def _rounds(self, name: str, base: str) -> Iterable[tuple[float, float]]:
        one, other = self._contenders[name], self._contenders[base]
        return zip(one.cpu_us, other.cpu_us, strict=True) if self._effort.by_cpu else zip(one.us, other.us, strict=True)

    def _batch_of(self, contender: _Contender) -> int:
        """Return how many calls fill a turn; the first calls, which have to set things up, do not count."""
        self._turn(contender, _FEW)
        us, _ = self._turn(contender, _FEW)
        return max(1, min(_MOST, int(self._effort.seconds * 1e6 / max(us, 0.01))))

    def _turn(self, contender: _Contender, count: int) -> tuple[float, float]:
        inputs = contender.inputs(count)
        if inspect.iscoroutinefunction(contender.call):
            ns, cpu_ns = self._loop.run(_await_each(contender.call, inputs))
        else:
            ns, cpu_ns = _call_each(contender.call, inputs)
        return ns / count / 1000, cpu_ns / count / 1000


def _call_each(call: Call, inputs: Sequence[tuple[Any, ...]]) -> tuple[int, int]:
    cpu, began = time.process_time_ns(), time.perf_counter_ns()
    for arguments in inputs:
        call(*arguments)
    return time.perf_counter_ns() - began, time.process_time_ns() - cpu


async def _await_each(call: Callable[..., Any], inputs: Sequence[tuple[Any, ...]]) -> tuple[int, int]:
    cpu, began = time.process_time_ns(), time.perf_counter_ns()
    for arguments in inputs:
        await call(*arguments)
    return time.perf_counter_ns() - began, time.process_time_ns() - cpu
