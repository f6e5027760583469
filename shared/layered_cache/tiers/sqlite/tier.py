"""`sqlite:///answers.db`: a file that outlives the process, safe for threads, loops and processes.

Three slashes precede a relative path, four an absolute one. Each entry is stored as an envelope,
which is read back. Further columns are for queries by people: namespace, model, prompt, params,
response, tags, usage, dates. Secrets are redacted in these columns.

Expired rows are not returned, and a background job removes them. When the file is full, the oldest
rows are evicted. The file also stores the invalidation log.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from layered_cache._storage.envelope import decode, encode, load
from layered_cache._storage.redaction import redacted_request
from layered_cache._storage.rules import LogState, Scope
from layered_cache._util.clocks import SYSTEM_CLOCK, Clock
from layered_cache._util.daemon_threads import Workers
from layered_cache._util.durations import Duration, Size, seconds, size
from layered_cache.entry import Entry, Refused, Ticket
from layered_cache.errors import ConfigurationError
from layered_cache.keys.keys import key_bounds, write_json
from layered_cache.tiers.base import Page
from layered_cache.tiers.sqlite.connections import SQLiteFile
from layered_cache.tiers.sqlite.invalidation_log import SQLiteLog
from layered_cache.tiers.threaded import ThreadedTier

if TYPE_CHECKING:
    from layered_cache.tiers._url_options import TierOptions

DEFAULT_MAX_BYTES = 1024 * 1024 * 1024
DEFAULT_TIMEOUT = 0.15

_ONE = "SELECT envelope FROM entries WHERE key = ?"
_MANY = "SELECT key, envelope FROM entries WHERE key IN ({})"
_PAGE = "SELECT key FROM entries WHERE key > ? AND key < ? ORDER BY key LIMIT ?"
_BATCH = 500
# seconds for erasing void entries; the rest may stay, since it is void anyway
_COURTESY = 1.0
_LAST_DATE = "9999-12-31T23:59:59.999999+00:00"
_COLUMNS = 20
# question marks
_INSERT = f"INSERT OR REPLACE INTO entries VALUES ({','.join('?' * _COLUMNS)})"  # noqa: S608


class SQLiteTier(ThreadedTier):
    """A tier in a SQLite file.

    Args:
        path: The path of the file. `~` is the home folder. Missing folders are created.
        max_bytes: The size limit. When it is reached, the oldest entries are evicted.
        timeout: The time that a call may wait for a write of another process, in seconds.
        ttl: The longest lifetime of an entry in seconds.
        name: The name in events and statistics.
        clock: The clock, which tests replace.
    """

    compresses = True
    # One thread for reads and one for writes: SQLite reads in microseconds and writes one at a
    # time. Reads do not wait for writes.
    threads = 1
    log_is_durable = True

    def __init__(
        self,
        path: str | Path,
        *,
        max_bytes: Size = DEFAULT_MAX_BYTES,
        timeout: Duration = DEFAULT_TIMEOUT,
        ttl: Duration | None = None,
        name: str = "sqlite",
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if str(path) in {"", ":memory:"}:
            msg = "sqlite:// must have the path of a file, like sqlite:///answers.db. Use memory:// for answers in memory"
            raise ConfigurationError(msg)
        if (most := size(max_bytes, "max_bytes of sqlite://")) < 1024 * 1024:
            msg = f"max_bytes of sqlite:// must be at least 1MiB, got {max_bytes!r}"
            raise ConfigurationError(msg)
        self.name = name
        self.timeout = seconds(timeout, "timeout")
        self.ttl = None if ttl is None else seconds(ttl, "ttl")
        # a larger entry would evict all entries, and then itself
        self.max_bytes = self.max_entry_bytes = most
        self._clock = clock
        self._file = SQLiteFile(Path(path).expanduser().absolute(), self.timeout, name)
        self._log = SQLiteLog(self._file, clock, name)
        super().__init__()
        self._writer = Workers(name, 1)
        # a thread for the log: an invalidation must not wait for queued answers
        self._keeper = Workers(name, 1)
        load()

    @classmethod
    def from_url(cls, url: str, options: TierOptions) -> SQLiteTier:
        """Return the tier of a URL like `sqlite:///relative.db#max_bytes=1GiB`.

        An absolute path has four slashes: `sqlite:////absolute/path.db#timeout=150ms&ttl=30d`.
        """
        host, slash, path = url.partition("://")[2].partition("/")
        if host or not slash:
            msg = "sqlite:// must have three slashes and a path like sqlite:///answers.db, or four slashes for an absolute path"
            raise ConfigurationError(msg)
        return cls(
            path,
            max_bytes=options.size("max_bytes", DEFAULT_MAX_BYTES),
            timeout=options.duration("timeout", DEFAULT_TIMEOUT),
            ttl=options.duration("ttl", None),
            name=options.text("name", "sqlite"),
            clock=options.clock,
        )

    @property
    def path(self) -> Path:
        """The path of the file."""
        return self._file.path

    # --- entries

    def get_many(self, keys: Sequence[str]) -> Mapping[str, Entry | Refused]:
        """Return the entries of *keys* that have not expired."""
        rows: list[tuple[str, bytes]] = []
        with self._file.using("read") as db:
            if len(keys) == 1:
                row = db.execute(_ONE, keys).fetchone()
                if row is None:
                    return {}
                rows.append((keys[0], row[0]))
            else:
                for start in range(0, len(keys), _BATCH):
                    batch = keys[start : start + _BATCH]
                    rows += db.execute(_MANY.format(",".join("?" * len(batch))), batch)
            now = self._clock.time()
            found = ((key, decode(envelope, key)) for key, envelope in rows)
            return {key: entry for key, entry in found if isinstance(entry, Refused) or entry.keep_until > now}

    def set_many(self, entries: Sequence[Entry]) -> None:
        """Store all *entries* in one transaction."""
        # encoding takes longer than writing, so it is done outside of the transaction
        rows = [_row(entry) for entry in entries]
        if not rows:
            return
        with self._file.transaction("write") as db:
            for entry, row in zip(entries, rows, strict=True):
                db.execute("DELETE FROM tags WHERE key = ?", (entry.key,))
                db.execute(_INSERT, row)
                if entry.tags:
                    db.executemany("INSERT OR IGNORE INTO tags VALUES (?, ?)", [(_safe(tag), entry.key) for tag in entry.tags])
            self._make_room(db, sum(len(entry.value) for entry in entries))

    def delete_many(self, keys: Sequence[str]) -> int:
        """Erase the entries of *keys* and return their number."""
        if not keys:
            return 0
        with self._file.transaction("delete") as db:
            return _delete(db, keys)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        self._writer.stop()
        self._keeper.stop()
        super().close()

    def purge(self) -> int:
        """Remove a batch of expired rows."""
        now = _date(self._clock.time())
        with self._file.transaction("purge") as db:
            expired = db.execute("SELECT key FROM entries WHERE keep_until <= ? LIMIT ?", (now, _BATCH)).fetchall()
            return _delete(db, [key for (key,) in expired])

    def _make_room(self, db: sqlite3.Connection, written: int) -> None:
        """Remove the oldest rows if the file is full.

        Twice the written size is removed, so that the file stays below its limit.
        """
        page_size, pages, free = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_size", "page_count", "freelist_count"))
        excess = (pages - free) * page_size - self.max_bytes
        if excess <= 0:
            return
        enough = min(excess, 2 * written + 1024 * 1024)
        oldest: list[str] = []
        for key, length in db.execute("SELECT key, length(envelope) + coalesce(length(prompt), 0) FROM entries ORDER BY rowid"):
            oldest.append(key)
            enough -= length
            if enough <= 0:
                break
        _delete(db, oldest)

    async def aset_many(self, entries: Sequence[Entry]) -> None:
        """Store *entries*, like `set_many`."""
        await self._writer.run(self.set_many, entries)

    async def adelete_many(self, keys: Sequence[str]) -> int:
        """Erase the entries of *keys*, like `delete_many`."""
        return await self._writer.run(self.delete_many, keys)

    # --- queries

    def erase_where(self, namespace: str, scope: Scope, born_before: int) -> int:
        """Erase the entries that match *scope*.

        It stops after a second, since all of them are void.
        """
        deadline, erased = time.monotonic() + _COURTESY, 0
        while True:
            # found and erased in one transaction: a newer entry of a key stays
            with self._file.transaction("erase") as db:
                keys = _keys_where(db, namespace, scope, born_before, _BATCH)
                erased += _delete(db, keys)
            if len(keys) < _BATCH or time.monotonic() > deadline:
                return erased

    def count_where(self, namespace: str, scope: Scope) -> int:
        """Return the number of entries that match *scope*."""
        with self._file.using("search") as db:
            return len(_keys_where(db, namespace, scope, 2**63 - 1, -1))

    async def aerase_where(self, namespace: str, scope: Scope, born_before: int) -> int:
        """Erase the entries that match *scope*, like `erase_where`."""
        return await self._writer.run(self.erase_where, namespace, scope, born_before)

    async def acount_where(self, namespace: str, scope: Scope) -> int:
        """Return the number of entries that match *scope*."""
        return await self.in_thread(self.count_where, namespace, scope)

    def list_keys(self, namespace: str, after: str | None) -> Page:
        """Return a page of the keys of *namespace*, in sorted order."""
        first, end = key_bounds(namespace)
        with self._file.using("list") as db:
            keys = [key for (key,) in db.execute(_PAGE, (after or first, end, _BATCH))]
        return keys, keys[-1] if len(keys) == _BATCH else None

    async def alist_keys(self, namespace: str, after: str | None) -> Page:
        """Return a page of keys, like `list_keys`."""
        return await self.in_thread(self.list_keys, namespace, after)

    # --- the invalidation log

    def read_log(self, seen: Ticket) -> LogState:
        """Return the current log."""
        return self._log.read(seen)

    def open_log(self, seen: Ticket) -> LogState:
        """Return the log, created if missing."""
        return self._log.open(seen)

    def append_log(self, namespace: str, scope: Scope | None, seen: Ticket, before: int) -> LogState:
        """Add a rule to the log."""
        return self._log.append(namespace, scope, seen, before)

    def restart_log(self, seen: Ticket) -> LogState:
        """Give an old log a new epoch."""
        return self._log.restart(seen)

    async def aread_log(self, seen: Ticket) -> LogState:
        """Return the current log, like `read_log`."""
        return await self.in_thread(self._log.read, seen)

    async def aopen_log(self, seen: Ticket) -> LogState:
        """Return the log, like `open_log`."""
        return await self._keeper.run(self._log.open, seen)

    async def aappend_log(self, namespace: str, scope: Scope | None, seen: Ticket, before: int) -> LogState:
        """Add a rule, like `append_log`."""
        return await self._keeper.run(self._log.append, namespace, scope, seen, before)

    async def arestart_log(self, seen: Ticket) -> LogState:
        """Give an old log a new epoch, like `restart_log`."""
        return await self._keeper.run(self._log.restart, seen)

    def __repr__(self) -> str:
        return f"SQLiteTier({str(self.path)!r})"


def _row(entry: Entry) -> tuple[object, ...]:
    readable = redacted_request(entry)
    prompt, usage = readable.get("prompt"), entry.usage
    return (
        entry.key,
        encode(entry),
        _safe(entry.namespace),
        _safe(entry.model),
        _safe(json.dumps(entry.tags, ensure_ascii=False)),
        _date(entry.created_at),
        _date(entry.fresh_until),
        _date(entry.keep_until),
        entry.finish,
        usage.input_tokens if usage else None,
        usage.output_tokens if usage else None,
        entry.cost_usd,
        entry.compute_seconds,
        entry.born.epoch,
        entry.born.seq,
        entry.prompt_digest.hex(),
        readable.get("framework"),
        _safe(prompt) if isinstance(prompt, str) else _json(prompt),
        _json(readable.get("params")),
        _safe(entry.response),
    )


def _keys_where(db: sqlite3.Connection, namespace: str, scope: Scope, born_before: int, limit: int) -> list[str]:
    clauses = ["born_seq < ?"]
    values: list[object] = [born_before]
    if namespace.endswith("/"):
        clauses.append("(namespace = ? OR substr(namespace, 1, ?) = ?)")
        values += (namespace[:-1], len(namespace), namespace)
    else:
        clauses.append("namespace = ?")
        values.append(namespace)
    if scope.keys:
        clauses.append(f"key IN ({','.join('?' * len(scope.keys))})")
        values += scope.keys
    if scope.tags:
        clauses.append(f"key IN (SELECT key FROM tags WHERE tag IN ({','.join('?' * len(scope.tags))}))")  # noqa: S608
        values += (_safe(tag) for tag in scope.tags)
    if scope.model is not None:
        clauses.append("like_glob(model, ?)")
        values.append(scope.model)
    for value, clause in (
        (scope.prompt, "prompt_digest = ?"),
        (None if scope.created_before is None else _date(scope.created_before), "created_at < ?"),
        (None if scope.created_after is None else _date(scope.created_after), "created_at >= ?"),
    ):
        if value is not None:
            clauses.append(clause)
            values.append(value)
    # built from the constant clauses above
    query = f"SELECT key FROM entries WHERE {' AND '.join(clauses)} LIMIT ?"  # noqa: S608
    db.create_function("like_glob", 2, _like_glob, deterministic=True)
    return [key for (key,) in db.execute(query, (*values, limit))]


def _delete(db: sqlite3.Connection, keys: Sequence[str]) -> int:
    deleted = 0
    for start in range(0, len(keys), _BATCH):
        batch = keys[start : start + _BATCH]
        marks = ",".join("?" * len(batch))
        db.execute(f"DELETE FROM tags WHERE key IN ({marks})", batch)  # noqa: S608 - question marks
        deleted += db.execute(f"DELETE FROM entries WHERE key IN ({marks})", batch).rowcount  # noqa: S608
    return deleted


def _like_glob(model: str | None, pattern: str) -> bool:
    return model is not None and fnmatchcase(model, pattern)


def _json(value: object) -> str | None:
    return None if value is None else _safe(write_json(value).decode("utf-8", "surrogatepass"))


def _safe(text: str | None) -> str | None:
    """Return *text* without lone surrogates, which SQLite does not accept.

    They become question marks. Only the columns for people are changed in this way.
    """
    return None if text is None else text.encode("utf-8", "replace").decode("utf-8")


def _date(clock: float) -> str:
    """Return Unix seconds as a date that sorts as text."""
    try:
        return datetime.fromtimestamp(clock, UTC).isoformat(timespec="microseconds")
    except (ValueError, OverflowError, OSError):
        return _LAST_DATE
