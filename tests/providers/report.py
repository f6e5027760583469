"""Runs the oracle over a class and returns the result as plain data."""

from __future__ import annotations

from collections.abc import Iterator
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
        """Return *outcomes* as plain data."""
        verdicts: dict[str, dict[str, list[str]]] = {}
        for outcome in outcomes:
            verdicts.setdefault(outcome.variation.name, {}).setdefault(outcome.verdict.name, []).append(outcome.entry)
        subject = self.subject
        return {"release": f"{subject.distribution} {version(subject.distribution)}", "verdicts": verdicts, "not_varied": self.not_varied}
