"""The SQLite tier alone (G7), beside the least that SQLite can do and beside langchain-community's cache."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import _peers as peers
from benchmarks._bench import Bench
from benchmarks._line import Line
from benchmarks._payloads import answer, copies, unlike
from benchmarks.memory import LLM, PROMPT, holding


def measure(bench: Bench) -> Iterator[Line]:
    """Yield the lines of this theme."""
    yield from _hits(bench)
    yield from _asynchronous_hits(bench)
    yield from _updates(bench)


def _hits(bench: Bench) -> Iterator[Line]:
    file = bench.path()
    ours = bench.cache(f"sqlite:///{file}")
    holding(ours)
    select, key = _select(file), ours.key(PROMPT, LLM)
    race = bench.race()
    race.enter("LayeredCache", lambda: ours.lookup, copies(PROMPT, LLM))
    race.enter("select", lambda: select, lambda count: [(key,)] * count)
    race.enter("SQLiteCache", lambda: holding(peers.sqlite_cache(bench.path())).lookup, copies(PROMPT, LLM))
    race.run()
    yield race.compare("G7", "SQLite hit / bare SELECT of its row", "LayeredCache", "select", "<= 2.5x")
    yield race.compare("G7", "SQLite hit: community SQLiteCache / ours", "SQLiteCache", "LayeredCache", ">= 20x")


def _select(file: Path) -> Any:  # noqa: ANN401 - a function of a key
    """Return the least that finds an envelope: one statement, prepared once."""
    db = sqlite3.connect(file, isolation_level=None)
    execute = db.execute

    def select(key: str) -> object:
        return execute("SELECT envelope FROM entries WHERE key = ?", (key,)).fetchone()

    return select


def _asynchronous_hits(bench: Bench) -> Iterator[Line]:
    ours = holding(bench.cache(f"sqlite:///{bench.path()}"))
    race = bench.race()
    race.enter("LayeredCache", lambda: ours.alookup, copies(PROMPT, LLM))
    race.enter("SQLiteCache", lambda: holding(peers.sqlite_cache(bench.path())).alookup, copies(PROMPT, LLM))
    race.run()
    yield race.compare("G7", "asynchronous SQLite hit: community SQLiteCache / ours", "SQLiteCache", "LayeredCache", ">= 5x")


def _updates(bench: Bench) -> Iterator[Line]:
    answers = answer()

    def new(count: int) -> Sequence[tuple[object, ...]]:
        return [(unlike(PROMPT), LLM, answers) for _ in range(count)]

    race = bench.race()
    race.enter("LayeredCache", lambda: bench.cache(f"sqlite:///{bench.path()}").update, new)
    race.enter("SQLiteCache", lambda: peers.sqlite_cache(bench.path()).update, new)
    race.run()
    yield race.compare("G7", "SQLite update: community SQLiteCache / ours", "SQLiteCache", "LayeredCache", ">= 15x")
