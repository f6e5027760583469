"""Three processes of `storm` over the same stores, to which something happens every second, and what their histories come to.

Which stores these are, and what happens to them, says an object of the test's: see `Stores`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytest
from invariants.mutation_marker import Mutant
from invariants.stress import process
from layered_cache import TieredCache
from support.history import History, Verdict

TESTS = Path(__file__).parents[2]
PROCESSES = 3
STRICT, USUAL, MEEK = range(PROCESSES)
TURN = 1.0  # seconds between two things that happen
STALLED = 30.0  # seconds without progress: something waits for ever
LOOKS = 6  # at what a mutant's storm has come to, before it is said that it does not show
MUTANT = "LAYERED_CACHE_STORM_MUTANT"  # a patch of this process would not reach the others


class Stores(Protocol):
    """What the processes share.

    Attributes:
        unit: The unit in which progress is counted: "operations" or "reads".
        tasks: The number of tasks of a process.
    """

    unit: str
    tasks: int

    def urls(self, number: int) -> list[str]:
        """Return the tiers below memory, as the process *number* reaches them."""
        ...

    def turn(self, callers: Callers) -> None:
        """Have the next thing happen, to the stores or to *callers*."""
        ...

    def calm(self) -> None:
        """Undo what has happened."""
        ...

    def look(self, look: Look) -> None:
        """Have *look* read all that is left, and check that the stores are whole."""
        ...


@dataclass
class Weather:
    """What a storm came to."""

    verdict: Verdict
    counts: Counter[str]
    seconds: float
    unexpected: list[str] = field(default_factory=list[str])

    def __str__(self) -> str:
        v, counts = self.verdict, self.counts
        lines = [
            f"{counts['operations']} operations in {self.seconds:.0f} s, {counts['kills']} kills, {len(v.violations)} violations",
            f"  {v.reads} reads, {v.hits} hits, {v.unverified} unverified, {v.answers} answers, {v.removals} removals, {v.at_risk} at risk",
            *(f"  {name}: {counts[name]}" for name in sorted(counts)),
            *(str(violation) for violation in v.violations[:20]),
            *self.unexpected,
        ]
        return "\n".join(lines)


class Caller:
    """One process of the storm, in one of its lives."""

    def __init__(self, folder: Path, number: int, life: int, stores: Stores, mutant: str | None) -> None:
        name = f"p{number}.{life}"
        self._told = folder / f"{name}.told"
        self._errors = folder / f"{name}.errors"
        command = [sys.executable, process.__file__, folder / f"{name}.history", name, *stores.urls(number)]
        command += ["--seed", str(life * 10 + number), "--tasks", str(stores.tasks)]
        command += {STRICT: ["--strict"], USUAL: [], MEEK: ["--meek"]}[number]
        if mutant is not None:
            command += ["--mutant", mutant]
        path = os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH"))))
        with self._told.open("wb") as told, self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=told, stderr=errors, env={**os.environ, "PYTHONPATH": path}
            )

    def told(self) -> dict[str, Any]:
        """Return the newest that it has told of itself."""
        with self._told.open("rb") as told:
            told.seek(max(0, self._told.stat().st_size - 100_000))
            whole = told.read().rpartition(b"\n")[0]
        return json.loads(whole.rpartition(b"\n")[2] or '{"counts": {}, "unexpected": []}')

    def kill(self) -> dict[str, Any]:
        """End it as a power cut would; return what it had told."""
        self._process.kill()
        self._process.communicate()
        return self.told()

    def end(self) -> dict[str, Any]:
        """Have it come to an end by itself, which must go well; return what it has told."""
        try:
            self._process.communicate(timeout=STALLED)
        except subprocess.TimeoutExpired:
            pytest.fail(f"it does not come to its end:\n{self.where()}")
        errors = self._errors.read_text()
        assert (self._process.returncode, errors) == (0, ""), errors
        return self.told()

    def where(self) -> str:
        """Return where each of its threads stands; that is its end."""
        self._process.send_signal(signal.SIGABRT)
        self._process.communicate()
        return self._errors.read_text()


class Callers:
    """All processes of a storm."""

    def __init__(self, folder: Path, stores: Stores, mutant: str | None) -> None:
        self._folder, self._stores, self._mutant = folder, stores, mutant
        self.kills = 0
        self._told: list[dict[str, Any]] = []  # by the dead
        self._living = [self._born(number) for number in range(PROCESSES)]

    def _born(self, number: int) -> Caller:
        return Caller(self._folder, number, self.kills, self._stores, self._mutant)

    def done(self) -> int:
        """Return how much they have done."""
        return self._sum(self._stores.unit)

    def failed(self) -> int:
        """Return how often something was raised that should not be."""
        return self._sum("unexpected")

    def _sum(self, what: str) -> int:
        told = [*self._told, *(caller.told() for caller in self._living)]
        return sum(one["counts"].get(what, 0) for one in told)

    def kill(self, number: int | None = None) -> None:
        """Kill one, or the next one, and have another in its place."""
        number = self.kills % PROCESSES if number is None else number
        self.kills += 1
        self._told.append(self._living[number].kill())
        self._living[number] = self._born(number)

    def end(self) -> list[dict[str, Any]]:
        """Have them come to an end; return what all of them have told."""
        return [*self._told, *(caller.end() for caller in self._living)]

    def kill_all(self) -> None:
        """End all at once."""
        for caller in self._living:
            caller.kill()

    def where(self) -> str:
        """Return where they stand; that is their end."""
        return "\n".join(caller.where() for caller in self._living)


class Look:
    """Reads all that caches hold, as one more process would."""

    def __init__(self, folder: Path) -> None:
        self._history = History(folder / "end.history")

    def __call__(self, *urls: str) -> int:
        """Return how many answers are found in the tiers that *urls* name."""
        history, found = self._history, 0
        with TieredCache(*urls, namespace=process.NAMESPACES[0]) as root:
            for namespace in process.NAMESPACES:
                cache = root if namespace == root.name else root.namespace(namespace.removeprefix(f"{root.name}/"))
                asked = {process.request(name): name for name in (f"{namespace}:{number}" for number in range(process.KEYS))}
                began = history.now()
                held = cache.get_many(asked, stale=True)
                for one, name in asked.items():
                    history.read(name, held[one].value if one in held else None, began=began)
                found += len(held)
        return found


def _judged(folder: Path) -> Verdict:
    return History.of(*folder.glob("*.history")).verdict(max_staleness=process.MAX_STALENESS, max_unverified=process.MAX_UNVERIFIED)


def weather(folder: Path, stores: Stores, enough: Callable[[int, Callers], bool], mutant: str | None = None) -> Weather:
    """Run the processes until *enough* returns True for the progress so far; return the judged result."""
    started = time.monotonic()
    callers = Callers(folder, stores, mutant)
    before, progress, turn_at = 0, started, started + TURN
    try:
        while not enough(before, callers):
            time.sleep(0.05)
            now, done = time.monotonic(), callers.done()
            progress = now if done > before else progress
            before = done
            assert now - progress < STALLED, callers.where()
            if now >= turn_at:
                stores.turn(callers)
                turn_at = max(turn_at + TURN, time.monotonic())
        seconds = time.monotonic() - started
        stores.calm()
        told = callers.end()
    finally:
        callers.kill_all()
    stores.look(Look(folder))
    counts = Counter({"kills": callers.kills})
    for one in told:
        counts.update(one["counts"])
    return Weather(_judged(folder), counts, seconds, [text for one in told for text in one["unexpected"]])


def travelling(mutant: Mutant, size: int, shows: str = "stale") -> Mutant:
    """Return a mutant of this process that has the others apply *mutant*; histories of about *size* show violations of that kind."""

    def elsewhere(patch: pytest.MonkeyPatch) -> None:
        patch.setenv(MUTANT, f"{mutant.__name__}:{shows}:{size}")

    elsewhere.__name__, elsewhere.__doc__ = mutant.__name__, mutant.__doc__
    return elsewhere


def _shown(folder: Path, shows: str, few: int) -> Callable[[int, Callers], bool]:
    """Return what says after each *few* whether violations of the kind *shows* are there, and at last that it is enough without.

    When two things must meet for a mutant to show, one storm has it at once and another does not for long.
    """
    look_at = few

    def enough(done: int, callers: Callers) -> bool:
        nonlocal look_at
        if done < look_at:
            return False
        look_at = done + few
        if shows == "raised":
            return callers.failed() > 0 or done >= LOOKS * few
        return done >= LOOKS * few or any(violation.kind == shows for violation in _judged(folder).violations)

    return enough


def nothing_wrong(folder: Path, stores: Stores, seconds: float) -> Weather | None:
    """Run a storm for *seconds* and check that no law was broken; return its result, which is also printed.

    With a mutant, the storm runs until a violation shows, whatever *seconds* is, and None is returned.
    """
    if MUTANT in os.environ:
        mutant, shows, few = os.environ[MUTANT].split(":")
        seen = weather(folder, stores, _shown(folder, shows, int(few)), mutant)
        found = Counter(violation.kind for violation in seen.verdict.violations) + Counter(raised=seen.counts["unexpected"])
        sys.stdout.write(f"{mutant}: {dict(found)}\n")
        assert not found[shows], str(seen)
        return None
    end = time.monotonic() + seconds
    seen = weather(folder, stores, lambda _done, _callers: time.monotonic() >= end)
    sys.stdout.write(f"{seen}\n")
    assert not seen.verdict.violations, str(seen)
    assert not seen.counts["unexpected"], str(seen)
    return seen
