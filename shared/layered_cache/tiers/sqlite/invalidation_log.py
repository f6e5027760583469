"""The invalidation log in a SQLite file: rows for the position, the rules and the floors.

Every change is one transaction. The commit is durable, so it survives a crash of the machine.
"""

from __future__ import annotations

import secrets
import sqlite3

from layered_cache._storage.rules import LogState, Rule, Scope, folded_floors, leaving
from layered_cache._util.clocks import Clock
from layered_cache.entry import Ticket
from layered_cache.errors import TierUnavailableError
from layered_cache.tiers.sqlite.connections import SQLiteFile

# seconds that an invalidation waits for concurrent writes: its caller needs the outcome
_PATIENCE = 2.0


class SQLiteLog:
    """The invalidation log of one file."""

    def __init__(self, file: SQLiteFile, clock: Clock, tier: str) -> None:
        self._file = file
        self._clock = clock
        self._tier = tier

    def read(self, seen: Ticket) -> LogState:
        """Return the current log (see `Authority.read_log`)."""
        with self._file.using("read the log") as db:
            # the usual case, every second: only one row is read
            if (position := _position(db)) == seen:
                return LogState(position.epoch, position.seq)
            db.execute("BEGIN")
            try:
                return self._state(db, seen)
            finally:
                db.execute("COMMIT")

    def open(self, seen: Ticket) -> LogState:
        """Return the log, created if missing (see `Authority.open_log`)."""
        with self._file.transaction("open the log", durable=True) as db:
            self._ensure(db)
            return self._state(db, seen)

    def append(self, namespace: str, scope: Scope | None, seen: Ticket, before: int) -> LogState:
        """Add a rule (see `Authority.append_log`)."""
        with self._file.transaction("write the log", durable=True, patience=_PATIENCE) as db:
            self._ensure(db)
            self._restart_if_older(db, seen)
            epoch, seq = _position(db)
            seq = max(seq + 1, int(self._clock.time() * 1e6))
            if scope is not None:
                db.execute("INSERT INTO log_rules VALUES (?, ?, ?)", (seq, namespace, scope.to_json()))
            else:
                _raise_floor(db, namespace, seq)
            _shrink(db, before)
            db.execute("UPDATE log SET epoch = ?, seq = ?", (epoch, seq))
            return self._state(db, seen)

    def restart(self, seen: Ticket) -> LogState:
        """Give an old log a new epoch (see `Authority.restart_log`)."""
        with self._file.transaction("restart the log", durable=True) as db:
            self._restart_if_older(db, seen)
            return self._state(db, seen)

    @staticmethod
    def _ensure(db: sqlite3.Connection) -> None:
        db.execute("INSERT OR IGNORE INTO log VALUES (1, ?, 0)", (secrets.randbits(62) + 1,))

    @staticmethod
    def _restart_if_older(db: sqlite3.Connection, seen: Ticket) -> None:
        epoch, seq = _position(db)
        if epoch == seen.epoch and seq < seen.seq:
            db.execute("DELETE FROM log_rules")
            db.execute("DELETE FROM log_floors")
            db.execute("UPDATE log SET epoch = ?, seq = ?", (secrets.randbits(62) + 1, seen.seq + 1))

    def _state(self, db: sqlite3.Connection, seen: Ticket) -> LogState:
        epoch, seq = _position(db)
        since = seen.seq if seen.epoch == epoch else 0
        try:
            rules = tuple(
                Rule(number, namespace, Scope.from_json(scope))
                for number, namespace, scope in db.execute("SELECT * FROM log_rules WHERE seq > ? ORDER BY seq", (since,))
            )
        except ValueError as error:
            # a process that cannot read a rule must not serve the entries that it may void
            raise TierUnavailableError(self._tier, "read the log", str(error), retryable=False) from error
        return LogState(epoch, seq, dict(db.execute("SELECT * FROM log_floors")), rules)


def _position(db: sqlite3.Connection) -> Ticket:
    return Ticket(*(db.execute("SELECT epoch, seq FROM log").fetchone() or (0, 0)))


def _raise_floor(db: sqlite3.Connection, name: str, seq: int) -> None:
    db.execute(
        "INSERT INTO log_floors VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET seq = max(seq, excluded.seq)",
        (name, seq),
    )


def _shrink(db: sqlite3.Connection, before: int) -> None:
    count, size = db.execute("SELECT count(*), total(length(scope)) FROM log_rules").fetchone()
    sizes = db.execute("SELECT seq, length(scope) FROM log_rules ORDER BY seq")
    newest = leaving(sizes, count=count, size=int(size), before=before)
    sizes.close()
    if newest:
        for name, seq in db.execute("SELECT namespace, max(seq) FROM log_rules WHERE seq <= ? GROUP BY 1", (newest,)).fetchall():
            _raise_floor(db, name, seq)
        db.execute("DELETE FROM log_rules WHERE seq <= ?", (newest,))
    floors = dict(db.execute("SELECT * FROM log_floors"))
    if len(folded := folded_floors(floors)) < len(floors):
        db.execute("DELETE FROM log_floors")
        db.executemany("INSERT INTO log_floors VALUES (?, ?)", folded.items())
