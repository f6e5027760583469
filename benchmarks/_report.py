"""Where the lines go: the terminal, a file in Markdown or JSON, the README."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks._line import HEAD, Line

README = Path(__file__).parents[1] / "README.md"
_REGION = re.compile(r"(?<=<!-- benchmarks -->\n).*(?=<!-- /benchmarks -->)", re.DOTALL)


def heading() -> str:
    """Return when and where."""
    versions = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} vCPU, {platform.machine()}, {versions}"


def markdown(lines: Sequence[Line]) -> str:
    """Return a table of *lines*, with when and where."""
    return "\n".join((f"{heading()}:", "", HEAD, *map(str, lines))) + "\n"


def as_json(lines: Sequence[Line]) -> str:
    """Return *lines* for programs."""
    return json.dumps({"run": heading(), "lines": [{**dataclasses.asdict(line), "met": line.met} for line in lines]}, indent=1)


def summary(lines: Sequence[Line]) -> str:
    """Return how many targets are met."""
    targets = [line for line in lines if line.target is not None]
    met, missed = (sum(line.met is outcome for line in targets) for outcome in (True, False))
    return f"{met} of {len(targets)} targets met, {missed} missed, {len(targets) - met - missed} not measured"


def into_readme(lines: Sequence[Line], readme: Path = README) -> None:
    """Put the lines that have a target into the region of *readme* that is kept for them."""
    table = markdown([line for line in lines if line.target is not None])
    readme.write_text(_REGION.sub(lambda _: table, readme.read_text("utf-8")), "utf-8")
