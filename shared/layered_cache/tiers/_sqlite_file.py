"""One SQLite file, opened by many threads and processes: connections, schema, and the edge where its errors are translated.

WAL, so that readers never wait for the writer; one connection for each thread; `synchronous=NORMAL`, so that a crash of the
machine may cost the last answers but no more. What must outlive a crash (the invalidation log) is committed with `FULL`.

The file is created readable for its owner alone: it holds prompts. A file that belongs to another application, or to a newer
release, is not touched.
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

from layered_cache import _forks
from layered_cache.errors import TierError, TierTimeoutError, TierUnavailableError

APPLICATION_ID = 0x4C436163  # "LCac"
SCHEMA_VERSION = 1

# the envelope stands before the long texts: to read it, SQLite need not walk through them
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

_SAME_FILE_CHECK = 1.0  # seconds: a file that was deleted or replaced is noticed after as much
_TIMEOUTS = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
# what may be over the next time; all else is the file's or the entry's fault, and stays
_PASSING = frozenset({
    sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_SCHEMA,
})  # fmt: skip
_TRY_EVERY = 0.001  # seconds; about as long as others' writes take
_MOST_WAITING_TO_FORK = 1.0  # seconds
_MOST_WAITING_TO_CLOSE = 5.0  # seconds; longer than who waits for a lock of the file waits
# connections of a parent process: to close them in a child could hurt the parent, so they stay
_parents_connections: list[object] = []
_all_connections: weakref.WeakSet[_Connection] = weakref.WeakSet()
_registering = threading.Lock()
_held_for_fork: list[Any] = []  # locks


def _stand_still() -> None:
    """Before a fork, wait until no thread is inside SQLite: its own locks would stay locked in the child for ever."""
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
    """Also where a thread of the parent did not let go in time: it is not here, and would never."""
    global _registering  # noqa: PLW0603 - one per process
    _go_on()
    _registering = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_stand_still, after_in_parent=_go_on, after_in_child=_go_on_in_child)


class _Connection:
    """A connection of one thread, closed when the thread ends. To be used as a context, which translates errors.

    Whoever closes it from another thread has to wait: to close one that is in use crashes the interpreter. The lock is one that its
    thread can take again: an interrupt (Ctrl-C) between two steps of Python can have left it taken.
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
            raise TierUnavailableError(self.file.tier, self.operation, "it was closed", retryable=False)
        return self.db

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        self.lock.release()
        # a corrupt file makes sqlite3 raise all kinds of errors, and gives values of all kinds
        if isinstance(error, Exception) and not isinstance(error, TierError):
            raise self.file.failed(error, self.operation, self.patience) from error

    def close(self) -> None:
        """Close it, when who uses it is done; if that takes for ever, it is closed when its thread ends."""
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

    All but those in a hurry wait at the door first, one of them inside it: so who is in a hurry competes with one other, not with all.
    The locks know their thread: who is interrupted (Ctrl-C) does not know whether he has them, and gives back what he has.
    """

    def __init__(self) -> None:
        self._door = threading.RLock()
        self._turn = threading.RLock()

    @contextmanager
    def taken(self, deadline: float, *, hurry: bool) -> Generator[bool]:
        """Wait for a turn until *deadline*; tell whether it has come. It ends with the context."""
        try:
            yield self._take(deadline, hurry=hurry)
        finally:
            try:  # noqa: SIM105 - no step of Python may stand between the end of the turn and its release
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
    """Begin to write, and return whether that was possible; after *deadline*, raise why not."""
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
    """Gives each thread its connection.

    Args:
        path: Of the file; folders that are missing are made.
        timeout: How long to wait for a lock, in seconds.
        tier: The name to report errors under.
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
        _forks.restart_in_child(self)

    def after_fork(self) -> None:
        """Leave the parent's connections alone and open new ones."""
        _parents_connections.extend((*self._open, self._local))
        self._lock = threading.Lock()
        self._turns = _Turns()
        self._local = threading.local()
        self._open = weakref.WeakSet()

    def close(self) -> None:
        """Close all connections, each when who uses it is done."""
        with self._lock:
            self._closed = True
            connections = list(self._open)
        for connection in connections:
            connection.close()

    def using(self, operation: str, patience: float | None = None) -> AbstractContextManager[sqlite3.Connection]:
        """Return this thread's connection as a context, in which errors of SQLite become those of a tier.

        Args:
            operation: For errors.
            patience: The same: how long it waits for locks.

        Raises:
            TierError: The file cannot be opened, is not ours, or was closed.
        """
        held: _Connection | None = getattr(self._local, "held", None)
        if held is not None and (now := time.monotonic()) >= held.check_at:
            if held.identity == self._identity():
                held.check_at = now + _SAME_FILE_CHECK
            else:  # it was deleted or replaced
                held = None
        if held is None:
            held = self._opened()
        held.operation = operation
        held.patience = self._timeout if patience is None else patience
        return held

    def failed(self, error: Exception, operation: str, patience: float | None = None) -> TierError:
        """Return what *error* means. A connection on which it may have left a mark is given up."""
        code: int | None = getattr(error, "sqlite_errorcode", None)
        primary = code & 0xFF if code is not None else None
        if primary in _TIMEOUTS:
            return TierTimeoutError(self.tier, operation, _locked(self._timeout if patience is None else patience))
        self._local.held = None
        if isinstance(error, sqlite3.Error):
            name = getattr(error, "sqlite_errorname", None)  # which of the many I/O errors it is
            reason = str(error) if name is None else f"{error} ({name})"
        else:
            reason = f"the file gives what it should not: {type(error).__qualname__}"
        return TierUnavailableError(self.tier, operation, reason, retryable=primary in _PASSING)

    @contextmanager
    def transaction(self, operation: str, *, durable: bool = False, patience: float | None = None) -> Generator[sqlite3.Connection]:
        """Have everything inside happen at once or not at all.

        The threads of a process take turns, and the one whose turn it is tries for the file again and again: SQLite's own waiting
        is to try ever more seldom, so that among many who write somebody comes too late each time.

        Args:
            operation: For errors.
            durable: Whether it shall have happened also if the machine crashes right after.
            patience: How long to wait for others' writes, in seconds; who says so goes first. Unless given: the usual time.
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
        """Begin to write. SQLite's own waiting is off meanwhile, and no longer: without a WAL, the end has to wait for readers."""
        try:
            db.execute("PRAGMA busy_timeout=0")
            while not _began(db, deadline):
                time.sleep(_TRY_EVERY)
        finally:
            db.execute(f"PRAGMA busy_timeout={self._timeout * 1000:.0f}")

    # --- opening

    def _identity(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self.path)  # noqa: PTH116 - three times as fast, and on the way to a hit
        except OSError:
            return None
        return (found.st_dev, found.st_ino)

    def _opened(self) -> _Connection:
        self._local.held = None
        if self._closed:
            raise TierUnavailableError(self.tier, "open", "it was closed", retryable=False)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._make()
        except OSError as error:
            raise TierUnavailableError(self.tier, "open", f"{error.strerror}: {self.path}") from error
        held = _Connection(self)
        with held.lock:
            with _registering:  # not while somebody forks
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
        if closed:  # meanwhile
            held.close()
            raise TierUnavailableError(self.tier, "open", "it was closed", retryable=False)
        self._local.held = held
        return held

    def _make(self) -> None:
        """Make the file if it is not there.

        One that is there is never opened here: to close it again would take from this process all locks that SQLite has on it, and
        the next process to close its last connection would delete the journal that this one goes on writing to.

        Raises:
            OSError: It cannot be made, or be written to.
        """
        with _registering, suppress(FileExistsError):  # another thread shall not use it before it is closed here
            # by its real path: a link to a file that is not there yet is no file that is there
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
                # changing the journal does not wait for other connections as all else does: try again
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
        """Whether the file is empty.

        Raises:
            TierUnavailableError: It is not, and not ours.
        """
        snapshot = not db.in_transaction  # another process may be making it: all three must be of one moment
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
            reason = f"{self.path} belongs to another application; name a file of its own"
            raise TierUnavailableError(self.tier, "open", reason, retryable=False)
        return True
