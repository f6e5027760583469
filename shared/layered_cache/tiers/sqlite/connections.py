"""One SQLite file, used by many threads and processes: connections, schema, error translation.

The journal mode is WAL, so readers never wait for the writer. Each thread has its own connection.
With `synchronous=NORMAL` a crash of the machine can lose the last answers, but nothing else. Data
that must survive a crash (the invalidation log) is committed with `FULL`.

The file contains prompts, so only its owner can read it. A file of another application or of a
newer release is not changed.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from layered_cache._util import fork_safety
from layered_cache.errors import TierError, TierTimeoutError, TierUnavailableError

# "LCac"
APPLICATION_ID = 0x4C436163
SCHEMA_VERSION = 1

# The envelope is stored before the long texts, so SQLite need not read them to reach it.
_SCHEMA = """
CREATE TABLE entries (
    key TEXT PRIMARY KEY NOT NULL,
    envelope BLOB NOT NULL,
    namespace TEXT NOT NULL,
    model TEXT,
    tags TEXT NOT NULL,
    created_at TEXT NOT NULL,
    fresh_until TEXT NOT NULL,
    keep_until TEXT NOT NULL,
    finish TEXT,
    input_tokens INTEGER,
    output_tokens INTEGER,
    cost_usd REAL,
    compute_seconds REAL,
    born_epoch INTEGER NOT NULL,
    born_seq INTEGER NOT NULL,
    prompt_digest TEXT NOT NULL,
    framework TEXT,
    prompt TEXT,
    params TEXT,
    response TEXT
);
CREATE INDEX entries_by_model ON entries (namespace, model);
CREATE INDEX entries_by_end ON entries (keep_until);
CREATE TABLE tags (tag TEXT NOT NULL, key TEXT NOT NULL, PRIMARY KEY (tag, key)) WITHOUT ROWID;
CREATE INDEX tags_by_key ON tags (key);
CREATE TABLE log (id INTEGER PRIMARY KEY CHECK (id = 1), epoch INTEGER NOT NULL, seq INTEGER NOT NULL);
CREATE TABLE log_rules (seq INTEGER PRIMARY KEY, namespace TEXT NOT NULL, scope TEXT NOT NULL);
CREATE TABLE log_floors (name TEXT PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID;
"""

# seconds after which a deleted or replaced file is noticed
_SAME_FILE_CHECK = 1.0
_TIMEOUTS = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
# Errors that may not occur again. All other errors are permanent errors of the file or the entry.
_PASSING = frozenset({
    sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_SCHEMA,
})  # fmt: skip
# seconds; about the duration of a concurrent write
_TRY_EVERY = 0.001
# seconds
_MOST_WAITING_TO_FORK = 1.0
# seconds; longer than a thread waits for a lock of the file
_MOST_WAITING_TO_CLOSE = 5.0
# Connections of a parent process. Closing them in a child could damage the parent, so they stay
# open.
_parents_connections: list[object] = []
_all_connections: weakref.WeakSet[_Connection] = weakref.WeakSet()
_registering = threading.Lock()
# locks
_held_for_fork: list[Any] = []


def _stand_still() -> None:
    """Before a fork, wait until no thread is inside SQLite.

    A lock that SQLite holds during the fork would never be released in the child.
    """
    deadline = time.monotonic() + _MOST_WAITING_TO_FORK
    if not _registering.acquire(timeout=_MOST_WAITING_TO_FORK):
        return
    _held_for_fork.append(_registering)
    locks = [connection.lock for connection in list(_all_connections)]
    _held_for_fork.extend(lock for lock in locks if lock.acquire(timeout=max(0.0, deadline - time.monotonic())))


def _go_on() -> None:
    while _held_for_fork:
        _held_for_fork.pop().release()


def _go_on_in_child() -> None:
    """Release the locks in the child.

    A lock that a parent's thread did not release in time is replaced, because that thread does not
    exist in the child.
    """
    global _registering  # noqa: PLW0603 - one per process
    _go_on()
    _registering = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_stand_still, after_in_parent=_go_on, after_in_child=_go_on_in_child)


class _Connection:
    """A connection of one thread, closed at the end of the thread.

    It is used as a context manager that translates errors. Closing a connection in use crashes the
    interpreter, so another thread must wait before it closes it. The lock is re-entrant, because an
    interrupt (Ctrl-C) between two steps of Python can leave it held by its own thread.
    """

    def __init__(self, file: SQLiteFile) -> None:
        self.file = file
        self.db: sqlite3.Connection | None = None
        self.identity: tuple[int, int] | None = None
        self.check_at = time.monotonic() + _SAME_FILE_CHECK
        self.operation = ""
        self.patience = 0.0
        self.lock = threading.RLock()
        self._closed = False

    def __enter__(self) -> sqlite3.Connection:
        self.lock.acquire()
        if self._closed or self.db is None:
            self.lock.release()
            raise TierUnavailableError(self.file.tier, self.operation, "the tier was closed", retryable=False)
        return self.db

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        self.lock.release()
        # A corrupt file makes sqlite3 raise any kind of error and return values of any type.
        if isinstance(error, Exception) and not isinstance(error, TierError):
            raise self.file.failed(error, self.operation, self.patience) from error

    def close(self) -> None:
        """Close the connection when it is no longer in use.

        If that takes too long, it is closed at the end of its thread.
        """
        self._closed = True
        if self.lock.acquire(timeout=_MOST_WAITING_TO_CLOSE):
            try:
                with suppress(sqlite3.Error):
                    if self.db is not None:
                        self.db.close()
            finally:
                self.lock.release()

    def __del__(self) -> None:
        with suppress(sqlite3.Error):
            if self.db is not None:
                self.db.close()


class _Turns:
    """Lets one thread of the process write at a time.

    Normal writers first queue for the door, so only one of them competes for the turn. An urgent
    writer then competes with one thread instead of all of them. The locks are re-entrant: after
    KeyboardInterrupt a thread releases the ones it holds.
    """

    def __init__(self) -> None:
        self._door = threading.RLock()
        self._turn = threading.RLock()

    @contextmanager
    def taken(self, deadline: float, *, hurry: bool) -> Generator[bool]:
        """Wait for the turn until *deadline*. Yield True if it was acquired.

        The turn ends with the context.
        """
        try:
            yield self._take(deadline, hurry=hurry)
        finally:
            # no step of Python may come between the end of the turn and its release
            try:  # noqa: SIM105
                self._turn.release()
            except RuntimeError:
                pass

    def _take(self, deadline: float, *, hurry: bool) -> bool:
        if hurry:
            return self._turn.acquire(timeout=_until(deadline))
        try:
            return self._door.acquire(timeout=_until(deadline)) and self._turn.acquire(timeout=_until(deadline))
        finally:
            try:  # noqa: SIM105
                self._door.release()
            except RuntimeError:
                pass


def _until(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())


def _began(db: sqlite3.Connection, deadline: float) -> bool:
    """Begin a write transaction and return True, or False if the file is locked.

    After *deadline* the error is raised.
    """
    try:
        db.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in _TIMEOUTS or time.monotonic() >= deadline:
            raise
        return False
    return True


def _locked(patience: float) -> str:
    return f"locked for longer than {patience * 1000:.0f} ms"


class SQLiteFile:
    """The connections of all threads to one file.

    Args:
        path: The path of the file. Missing folders are created.
        timeout: The time to wait for a lock, in seconds.
        tier: The tier name in errors.
    """

    def __init__(self, path: Path, timeout: float, tier: str) -> None:
        self.path = path
        self.tier = tier
        self._timeout = timeout
        self._closed = False
        self._lock = threading.Lock()
        self._turns = _Turns()
        self._local = threading.local()
        self._open: weakref.WeakSet[_Connection] = weakref.WeakSet()
        fork_safety.restart_in_child(self)

    def after_fork(self) -> None:
        """Open new connections. Those of the parent are not used."""
        _parents_connections.extend((*self._open, self._local))
        self._lock = threading.Lock()
        self._turns = _Turns()
        self._local = threading.local()
        self._open = weakref.WeakSet()

    def close(self) -> None:
        """Close each connection as soon as it is not in use."""
        with self._lock:
            self._closed = True
            connections = list(self._open)
        for connection in connections:
            connection.close()

    def using(self, operation: str, patience: float | None = None) -> AbstractContextManager[sqlite3.Connection]:
        """Return this thread's connection as a context manager that raises tier errors.

        Args:
            operation: The operation name in errors.
            patience: The time to wait for locks, also for errors.

        Raises:
            TierError: If the file cannot be opened, is not a cache file, or was closed.
        """
        held: _Connection | None = getattr(self._local, "held", None)
        if held is not None and (now := time.monotonic()) >= held.check_at:
            if held.identity == self._identity():
                held.check_at = now + _SAME_FILE_CHECK
            else:
                # the file was deleted or replaced
                held = None
        if held is None:
            held = self._opened()
        held.operation = operation
        held.patience = self._timeout if patience is None else patience
        return held

    def failed(self, error: Exception, operation: str, patience: float | None = None) -> TierError:
        """Return the tier error for *error*. A connection that may be affected is discarded."""
        code: int | None = getattr(error, "sqlite_errorcode", None)
        primary = code & 0xFF if code is not None else None
        if primary in _TIMEOUTS:
            return TierTimeoutError(self.tier, operation, _locked(self._timeout if patience is None else patience))
        self._local.held = None
        if isinstance(error, sqlite3.Error):
            # the name shows which I/O error it was
            name = getattr(error, "sqlite_errorname", None)
            reason = str(error) if name is None else f"{error} ({name})"
        else:
            reason = f"the file returned unexpected data: {type(error).__qualname__}"
        return TierUnavailableError(self.tier, operation, reason, retryable=primary in _PASSING)

    @contextmanager
    def transaction(self, operation: str, *, durable: bool = False, patience: float | None = None) -> Generator[sqlite3.Connection]:
        """Run the block as one transaction.

        The threads of a process take turns. The thread with the turn tries to lock the file every
        millisecond. SQLite's own retries become less and less frequent, so with many writers one of
        them would time out again and again.

        Args:
            operation: The operation name in errors.
            durable: Commit so that the change survives a crash of the machine.
            patience: The time to wait for concurrent writes, in seconds. Such a transaction is
                urgent and comes first. The default is the timeout of the file.
        """
        hurry, patience = patience is not None, self._timeout if patience is None else patience
        deadline = time.monotonic() + patience
        with self._turns.taken(deadline, hurry=hurry) as taken:
            if not taken:
                raise TierTimeoutError(self.tier, operation, _locked(patience))
            with self.using(operation, patience) as db:
                try:
                    if durable:
                        db.execute("PRAGMA synchronous=FULL")
                    self._begin(db, deadline)
                    yield db
                    db.execute("COMMIT")
                except BaseException:
                    with suppress(sqlite3.Error):
                        db.execute("ROLLBACK")
                    raise
                finally:
                    if durable:
                        with suppress(sqlite3.Error):
                            db.execute("PRAGMA synchronous=NORMAL")

    def _begin(self, db: sqlite3.Connection, deadline: float) -> None:
        """Begin a write transaction. SQLite's own waiting is turned off only for this step.

        Without a WAL, the commit has to wait for readers.
        """
        try:
            db.execute("PRAGMA busy_timeout=0")
            while not _began(db, deadline):
                time.sleep(_TRY_EVERY)
        finally:
            db.execute(f"PRAGMA busy_timeout={self._timeout * 1000:.0f}")

    # --- opening

    def _identity(self) -> tuple[int, int] | None:
        try:
            # three times as fast as Path.stat, on the path of every hit
            found = os.stat(self.path)  # noqa: PTH116
        except OSError:
            return None
        return (found.st_dev, found.st_ino)

    def _opened(self) -> _Connection:
        self._local.held = None
        if self._closed:
            raise TierUnavailableError(self.tier, "open", "the tier was closed", retryable=False)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._make()
        except OSError as error:
            raise TierUnavailableError(self.tier, "open", f"{error.strerror}: {self.path}") from error
        held = _Connection(self)
        with held.lock:
            # not during a fork
            with _registering:
                _all_connections.add(held)
            try:
                held.db = sqlite3.connect(self.path, timeout=self._timeout, isolation_level=None, check_same_thread=False)
                self._prepare(held.db)
            except TierError:
                raise
            except Exception as error:
                raise self.failed(error, "open") from error
        held.identity = self._identity()
        with self._lock:
            closed = self._closed
            if not closed:
                self._open.add(held)
        # closed by another thread
        if closed:
            held.close()
            raise TierUnavailableError(self.tier, "open", "the tier was closed", retryable=False)
        self._local.held = held
        return held

    def _make(self) -> None:
        """Create the file if it does not exist.

        An existing file is never opened here. Closing it again would release all locks that SQLite
        holds on it in this process. The next process to close its last connection would then delete
        the journal that this process still writes to.

        Raises:
            OSError: If the file cannot be created or written.
        """
        # another thread must not use the file before it is closed here
        with _registering, suppress(FileExistsError):
            # The real path is used, because a link to a missing file would count as an existing
            # file.
            os.close(os.open(os.path.realpath(self.path), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            return
        if self.path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not os.access(self.path, os.R_OK | os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    def _prepare(self, db: sqlite3.Connection) -> None:
        deadline = time.monotonic() + self._timeout
        while self._is_new(db):
            try:
                # Unlike other statements, a change of the journal mode does not wait for other
                # connections, so it is retried.
                db.execute("PRAGMA journal_mode=WAL")
                db.execute("BEGIN IMMEDIATE")
                if self._is_new(db):
                    for statement in _SCHEMA.split(";\n"):
                        db.execute(statement)
                    db.execute(f"PRAGMA application_id={APPLICATION_ID}")
                    db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
                db.execute("COMMIT")
            except sqlite3.OperationalError:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.005)
        db.execute("PRAGMA synchronous=NORMAL")

    def _is_new(self, db: sqlite3.Connection) -> bool:
        """Return True if the file is empty.

        Raises:
            TierUnavailableError: If the file has other contents than a cache.
        """
        # another process may be creating the file, so all three reads use one snapshot
        snapshot = not db.in_transaction
        if snapshot:
            db.execute("BEGIN")
        application, version = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
        tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if snapshot:
            db.execute("COMMIT")
        if application == APPLICATION_ID and version == SCHEMA_VERSION:
            return False
        if application == APPLICATION_ID:
            reason = f"{self.path} was made by another release (version {version}, this one knows {SCHEMA_VERSION})"
            raise TierUnavailableError(self.tier, "open", reason, retryable=False)
        if application or version or tables:
            reason = f"{self.path} belongs to another application. Use a separate file for the cache"
            raise TierUnavailableError(self.tier, "open", reason, retryable=False)
        return True
