"""The results of the oracle as plain data, and the page `docs/providers.md` that is made of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(__file__).with_name("results.json")
PAGE = ROOT / "docs" / "providers.md"
_WIDTH = 140
_HEAD = """\
# Providers

The wire oracle has tested these classes. It builds pairs of models or calls that differ in one setting. It compares the HTTP requests of
the pair with the keys of the cache.

- Different requests have different keys, or the call is not cached and one warning gives the reason.
- Equal requests have equal keys, apart from the settings that are listed as misses.

`make providers` writes this page. Do not edit it.
"""
_CONTENT = ("prompt ", "bound ")  # how the names of pairs of prompts and of bindings begin
_KINDS = {"global": "global cache", "cached": "wrapper", "middleware": "middleware"}


@dataclass
class Results:
    """The results of each class, by its name."""

    classes: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])

    @classmethod
    def read(cls, file: Path) -> Self:
        """Return the results in *file*; none if it does not exist."""
        return cls(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else cls()

    def write(self, file: Path) -> None:
        """Write the results to *file*."""
        file.write_text(json.dumps(self.classes, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def rendered(classes: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the page of *classes*."""
    rows = [f"| [{name}](#{_anchor(name)}) | {one.get('release', '')} | {' | '.join(_cells(one))} |" for name, one in _ordered(classes)]
    table = ["| class | release | global cache | wrapper | middleware |", "|---|---|---|---|---|", *rows]
    sections = ["\n".join(_section(name, one)) for name, one in _ordered(classes)]
    return "\n".join([_HEAD, *table, "", *sections])


def _ordered(classes: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    return sorted(classes.items(), key=lambda item: (":" in item[0], item[0].lower()))


def _anchor(name: str) -> str:
    kept = "".join(letter for letter in name.lower() if letter.isalnum() or letter in " -_")
    return kept.replace(" ", "-")


def _cells(one: Mapping[str, Any]) -> Iterator[str]:
    kinds: dict[str, list[Mapping[str, int]]] = {kind: [] for kind in _KINDS.values()}
    for entry, counts in one.get("entries", {}).items():
        kinds[_KINDS.get(entry.partition(" ")[0], "wrapper")].append(counts)
    for counts in kinds.values():
        if not counts:
            yield "not tested" if "cannot_run" in one else "-"
        elif all(set(each) <= {"NOT_CACHED", "IMPOSSIBLE"} for each in counts):
            yield "no, with a warning"
        else:
            yield "yes"


def _section(name: str, one: Mapping[str, Any]) -> Iterator[str]:
    yield f"## {name}\n"
    if reason := one.get("cannot_run"):
        yield f"This class was not tested: {reason}.\n"
        return
    settings = [what for what in one["in_key"] if not what.startswith(_CONTENT)]
    yield from _line("In the key", settings)
    if pairs := len(one["in_key"]) - len(settings):
        yield f"- **Content in the key:** {pairs} pairs of prompts, tools and schemas"
    yield from _line("No request depends on", one["without_effect"])
    yield from _line("Not cached, with a warning", one["not_cached"])
    yield from _line("Not possible with this class", one["impossible"])
    for reason, names in sorted(one["misses"].items()):
        yield from _line(f"Equal requests that miss ({reason})", names)
    for reason, names in sorted(one["not_varied"].items()):
        yield from _line(f"Not varied ({reason})", names)
    yield ""


def _line(label: str, names: list[str]) -> Iterator[str]:
    """Yield the lines of one item of a list."""
    if not names:
        return
    line = f"- **{label}:**"
    for place, name in enumerate(names):
        word = f" `{name}`{',' if place < len(names) - 1 else ''}"
        if len(line) + len(word) > _WIDTH:
            yield line
            line = " " + word
        else:
            line += word
    yield line
