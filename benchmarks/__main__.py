"""Run themes and print their lines; see the package."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

os.environ.update(LANGSMITH_TRACING="false", LANGCHAIN_TRACING_V2="false")

from benchmarks import _peers as peers
from benchmarks._bench import Bench
from benchmarks._line import HEAD, Line
from benchmarks._race import FULL, QUICK, SMOKE, Effort
from benchmarks._report import as_json, heading, into_readme, markdown, summary

THEMES = (
    "memory",
    "invoke",
    "sqlite",
    "redis",
    "mongodb",
    "codec",
    "threads",
    "collector",
    "start",
    "keys",
    "eviction",
    "llamaindex",
    "llamaindex_stores",
)


def main(arguments: list[str] | None = None) -> None:
    """Measure what is asked for and print it, line by line."""
    options = _parser().parse_args(arguments)
    logging.disable()
    peers.left_out.update(options.without)
    lines: list[Line] = []
    run = heading(by_cpu=options.cpu)
    print(f"{run}\n\n{HEAD}")
    with Bench(dataclasses.replace(options.effort, by_cpu=options.cpu)) as bench:
        for theme in options.themes or THEMES:
            for line in measured(theme, bench):
                print(line, flush=True)
                lines.append(line)
    print(f"\n{summary(lines)}")
    for file, text in ((options.json, as_json), (options.markdown, markdown)):
        if file is not None:
            file.write_text(text(run, lines), "utf-8")
    if options.readme:
        into_readme(run, lines)


def measured(theme: str, bench: Bench) -> Iterator[Line]:
    """Yield the lines of *theme*. One that fails says so, and the others go on."""
    try:
        module = importlib.import_module(f"benchmarks.{theme}")
        warnings.simplefilter("ignore")  # after imports, some of which switch their own on: each hit of some peers warns
        yield from module.measure(bench)
    except Exception as error:  # noqa: BLE001 - whatever it is
        yield Line("", theme, reason=f"{type(error).__name__}: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="How fast the cache is, beside its goals.")
    parser.add_argument("themes", nargs="*", metavar="theme", help=f"of {', '.join(THEMES)}; all, unless given")
    efforts: list[tuple[str, Effort, str]] = [
        ("--quick", QUICK, "coarsely, within a minute"),
        ("--smoke", SMOKE, "only whether it runs: the numbers say nothing"),
    ]
    for name, effort, help_text in efforts:
        parser.add_argument(name, dest="effort", action="store_const", const=effort, default=FULL, help=help_text)
    parser.add_argument("--cpu", action="store_true", help="compare time on our processors, not on the clock: for a busy machine")
    parser.add_argument("--without", nargs="+", default=[], metavar="LIBRARY", help="peers to do without: litellm takes long to import")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the lines there")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there")
    parser.add_argument("--readme", action="store_true", help="put the table into the README")
    return parser


if __name__ == "__main__":
    main()
