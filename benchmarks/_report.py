"""Where the lines go: the terminal, a file in Markdown or JSON, the README."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks._line import HEAD, Line

README = Path(__file__).parents[1] / "README.md"
_MARKS = ("<!-- benchmarks -->\n", "<!-- /benchmarks -->")


def heading(*, by_cpu: bool = False) -> str:
    """Return when and where, and what time was compared."""
    versions = f"{platform.python_implementation()} {platform.python_version()}"
    compared = ", time on the processors compared" if by_cpu else ""
    return f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} vCPU, {platform.machine()}, {versions}{compared}"


def markdown(run: str, lines: Sequence[Line]) -> str:
    """Return a table of the *lines* of *run*, which says when and where."""
    return "\n".join((f"{run}:", "", HEAD, *map(str, lines))) + "\n"


def as_json(run: str, lines: Sequence[Line]) -> str:
    """Return the same for programs."""
    return json.dumps({"run": run, "lines": [{**dataclasses.asdict(line), "met": line.met} for line in lines]}, indent=1)


def summary(lines: Sequence[Line]) -> str:
    """Return how many targets are met."""
    targets = [line for line in lines if line.target is not None]
    met, missed = (sum(line.met is outcome for line in targets) for outcome in (True, False))
    return f"{met} of {len(targets)} targets met, {missed} missed, {len(targets) - met - missed} not measured"


def into_readme(run: str, lines: Sequence[Line], readme: Path = README) -> None:
    """Put the lines that have a target between the marks in *readme*.

    Raises:
        ValueError: It has no such marks.
    """
    begin, end = _MARKS
    before, rest = readme.read_text("utf-8").split(begin)
    after = rest.split(end)[1]
    table = markdown(run, [line for line in lines if line.target is not None])
    readme.write_text(f"{before}{begin}{table}{end}{after}", "utf-8")
