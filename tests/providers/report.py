"""Runs the oracle over a class and returns the result as plain data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from importlib import import_module
from importlib.metadata import version
from typing import Any

from providers.oracle import Entry, Outcome, Seen, Situation, Subject, Variation, Verdict, judge, placed
from providers.recorder import Recorder, environment, observe
from providers.values import variations_of


class Oracle:
    """Looks at one class.

    Args:
        subject: The class.
        server: The local server that it talks to.
    """

    def __init__(self, subject: Subject, server: Recorder) -> None:
        self.subject = subject
        self._server = server
        self._seen: dict[tuple[str, str], Seen] = {}
        cls = getattr(import_module(subject.module), subject.name)
        with environment({name: placed(value, server.url) for name, value in subject.environment.items()}):
            self.variations, self.not_varied = variations_of(subject, cls, server.url)

    def outcomes(self, variations: list[Variation] | None = None, entries: tuple[Entry, ...] | None = None) -> Iterator[Outcome]:
        """Yield the verdict on each variation by each entry point."""
        for variation in self.variations if variations is None else variations:
            for entry in self.subject.entries if entries is None else entries:
                one, other = self.seen(entry, variation.one), self.seen(entry, variation.other)
                yield Outcome(variation, entry.name, judge(one, other), one, other)

    def seen(self, entry: Entry, situation: Situation) -> Seen:
        """Return the observation of *entry* in *situation*; it is made once."""
        place = (entry.name, situation.label)
        if place not in self._seen:
            self._seen[place] = observe(self.subject, entry, situation, self._server)
        return self._seen[place]

    def accepted(self, variation: Variation) -> str | None:
        """Return why a miss is accepted where the wires of *variation* are equal; None: it is not."""
        found = (reason for pattern, reason in self.subject.misses.items() if fnmatch(variation.name, pattern))
        return next(found, None)

    def breaches(self, outcomes: list[Outcome]) -> list[str]:
        """Return which of *outcomes* break the law, in words."""
        return [
            f"{outcome.variation.name} by {outcome.entry}: {outcome.verdict.value}"
            for outcome in outcomes
            if outcome.verdict.breaks_the_law or (outcome.verdict is Verdict.MISS and self.accepted(outcome.variation) is None)
        ]

    def summary(self, outcomes: list[Outcome]) -> dict[str, Any]:
        """Return *outcomes* as plain data, short enough to be read in a diff."""
        subject = self.subject
        left: dict[str, list[str]] = {}
        for name, reason in self.not_varied.items():
            left.setdefault(reason, []).append(name)
        return {
            "release": f"{subject.distribution} {version(subject.distribution)}",
            "breaches": sorted(self.breaches(outcomes)),
            "not_varied": {reason: sorted(names) for reason, names in left.items()},
            **condensed(outcomes, self.accepted),
        }


def condensed(outcomes: list[Outcome], accepted: Callable[[Variation], str | None]) -> dict[str, Any]:
    """Return the parts of a summary that follow from *outcomes*: names, sorted, and not each verdict.

    `entries` has the entry points, with the verdicts of each and their numbers. `in_key` has the settings of which two values gave two
    requests and two keys, `without_effect` those of which no two values gave two requests. `misses` has the settings that missed with
    equal requests, by their reason.
    """
    entries: dict[str, Counter[str]] = {}
    named: dict[str, set[str]] = {"in_key": set(), "not_cached": set(), "impossible": set(), "equal": set()}
    place = {Verdict.DIFFERENT: "in_key", Verdict.NOT_CACHED: "not_cached", Verdict.IMPOSSIBLE: "impossible", Verdict.EQUAL: "equal"}
    misses: dict[str, set[str]] = {}
    for outcome in outcomes:
        entries.setdefault(outcome.entry, Counter())[outcome.verdict.name] += 1
        what = outcome.variation.what
        if outcome.verdict is Verdict.MISS and (reason := accepted(outcome.variation)) is not None:
            misses.setdefault(reason, set()).add(what)
        elif outcome.verdict in place:
            named[place[outcome.verdict]].add(what)
    missed = set[str]().union(*misses.values())
    return {
        "entries": {name: dict(sorted(counts.items())) for name, counts in entries.items()},
        "in_key": sorted(named["in_key"]),
        "without_effect": sorted(named["equal"] - named["in_key"] - missed),
        "not_cached": sorted(named["not_cached"]),
        "impossible": sorted(named["impossible"] - named["in_key"] - named["equal"] - missed),
        "misses": {reason: sorted(names) for reason, names in misses.items()},
    }
