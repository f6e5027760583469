"""What is particular to `sqlite://`: the file, what people read in it, its faults."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from layered_cache import (
    Answer,
    DeletionError,
    Event,
    Policy,
    Request,
    SQLiteTier,
    Ticket,
    TieredCache,
    TierError,
    TierTimeoutError,
    TierUnavailableError,
    Usage,
)
from layered_cache._storage.rules import UNKNOWN, Scope
from layered_cache.testing import FakeClock
from layered_cache.testing._sync_async import an_entry
from layered_cache.tiers.sqlite.connections import _Turns
from support.sync_async import World, ask, interrupted, kinds


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "answers.db"


def rows(path: Path, query: str) -> list[Any]:
    db = sqlite3.connect(path)
    try:
        return db.execute(query).fetchall()
    finally:
        db.close()


def test_the_constructor_touches_nothing(path: Path) -> None:
    """The file is made at first use, with the folders that are missing, for its owner alone."""
    path = path.parent / "new" / "folder" / "answers.db"
    tier = SQLiteTier(path)
    assert not path.parent.exists()

    tier.set_many([an_entry()])

    assert path.stat().st_mode & 0o777 == 0o600
    tier.close()


def test_paths_in_urls(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three slashes and a relative path, four and an absolute one; `~` is home."""
    monkeypatch.chdir(path.parent)
    monkeypatch.setenv("HOME", "/home/somebody")
    for url, expected in (
        ("sqlite:///a.db", path.parent / "a.db"),
        ("sqlite:///b/c.db#timeout=1s", path.parent / "b" / "c.db"),
        (f"sqlite:///{path}", path),
        ("sqlite:///~/a.db", Path("/home/somebody/a.db")),
    ):
        tier = TieredCache(url).tiers[0]
        assert isinstance(tier, SQLiteTier)
        assert tier.path == expected


def test_people_can_read_it(path: Path) -> None:
    """Every answer with its question, its parameters without secrets, its costs and its dates."""
    with TieredCache(f"sqlite:///{path}", namespace="faq") as cache:
        request = Request(
            [{"role": "user", "content": "größe?"}],
            model="gpt-4o",
            params={"temperature": 0, "headers": {"Authorization": "Bearer canary"}, "base_url": "https://u:canary@host/v1"},
            framework="langchain",
        )
        answer = Answer(value=b"\x00encoded", tags=("b", "a"), usage=Usage(10, 20), cost_usd=0.5, finish="stop", response="die größe")
        cache.set(request, answer)
        cache.set(Request("plain text"), b"x")

    ((*texts, tags, params, created, fresh, keep, tokens),) = rows(
        path,
        "SELECT namespace, model, framework, prompt, response, finish, cost_usd, tags, params, created_at, fresh_until, keep_until,"
        " input_tokens + output_tokens FROM entries WHERE model = 'gpt-4o'",
    )
    assert texts == ["faq", "gpt-4o", "langchain", '[{"content":"größe?","role":"user"}]', "die größe", "stop", 0.5]
    assert json.loads(tags) == ["a", "b"]
    assert json.loads(params) == {"base_url": "https://[redacted]@host/v1", "headers": {"Authorization": "[redacted]"}, "temperature": 0}
    assert created[:4] in time.strftime("%Y")
    assert created < fresh == keep
    assert tokens == 30
    assert rows(path, "SELECT prompt FROM entries WHERE model IS NULL") == [("plain text",)]
    assert b"canary" not in path.read_bytes()


def test_prompts_can_be_kept_out_of_it(path: Path) -> None:
    """With `store_requests="hash"`."""
    with TieredCache(f"sqlite:///{path}", policy=Policy(store_requests="hash")) as cache:
        cache.set(ask("my question"), Answer(value=b"x", response="my answer"))
        assert cache.get(ask("my question"))

    assert rows(path, "SELECT prompt, params, response FROM entries") == [(None, None, None)]
    assert b"my question" not in path.read_bytes()


def test_lone_surrogates_do_no_harm(path: Path) -> None:
    """A provider may send them; readable columns show a question mark."""
    with TieredCache(f"sqlite:///{path}") as cache:
        request = Request("broken \ud800", model="m\udfff", params={"a": "\ud800"})
        held = cache.set(request, Answer(value=b"x", tags=("t\ud800", "t\udfff"), response="\ud800"))
        assert cache.get(request) == held
        assert cache.invalidate(tag="t\ud800").removed == {"sqlite": 1}


def test_the_oldest_leave_when_it_is_full(path: Path) -> None:
    """The file stays near its limit, and the newest answers stay."""
    limit = 2 * 1024 * 1024
    tier = SQLiteTier(path, max_bytes=limit)
    for number in range(800):
        tier.set_many([an_entry(str(number), os.urandom(8000))])
        if number % 50 == 0:
            assert path.stat().st_size < limit * 1.3
    held = {int(key) for key in tier.get_many([str(number) for number in range(800)])}

    assert 150 < len(held) < 300
    assert held == set(range(800 - len(held), 800))
    tier.close()


def test_expired_rows_are_removed_in_the_background(path: Path, clock: FakeClock) -> None:
    """Nobody waits for it."""
    cache = TieredCache(f"sqlite:///{path}", clock=clock)
    for number in range(1200):
        cache.set(ask(str(number)), Answer(value=b"x", keep_for=60))
    clock.advance(61)
    cache.set(ask("new"), b"x")
    for _ in range(3):
        cache._engine.backlog.step()

    assert rows(path, "SELECT count(*) FROM entries") == [(1,)]
    assert rows(path, "SELECT count(*) FROM tags") == [(0,)]
    cache.close()


# --- faults: the model's answer arrives, and an event says why nothing is cached


def answered(world: World, url: str) -> list[Event]:
    """Ask a cache over *url* twice, and return what happened; the answer must arrive, and in time."""
    events: list[Event] = []
    cache = TieredCache(url, observers=[events.append])
    for _ in range(2):
        started = time.monotonic()
        assert world.call(cache, "get_or_compute", ask(), world.compute(b"x")).value == b"x"
        assert time.monotonic() - started < 2.0
    assert world.call(cache, "get", ask("other")) is None
    cache._engine.backlog.close(0.0)
    world.call(cache, "close")
    return events


def reasons(events: list[Event]) -> str:
    return " ".join(str(event.reason) for event in events if event.kind in ("tier_failed", "log_failed"))


def test_a_file_that_is_locked(world: World, path: Path) -> None:
    """By a writer that does not end."""
    SQLiteTier(path).set_many([an_entry()])
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("BEGIN EXCLUSIVE")
    try:
        assert "locked" in reasons(answered(world, f"sqlite:///{path}"))
    finally:
        writer.close()


def test_a_removal_waits_longer_than_an_answer(world: World, path: Path) -> None:
    """Others write for half a second: the answer is written later, the removal is recorded now."""
    events: list[Event] = []
    cache = TieredCache(f"sqlite:///{path}", observers=[events.append])
    world.call(cache, "set", ask(), Answer(value=b"x", tags=("t",)))
    writer = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    writer.execute("BEGIN IMMEDIATE")
    end = threading.Timer(0.6, writer.rollback)
    end.start()

    world.call(cache, "set", ask("other"), b"y")
    assert "locked" in reasons(events)
    assert world.call(cache, "invalidate", tag="t").seq
    assert world.call(cache, "get", ask()) is None
    end.join()
    writer.close()
    world.call(cache, "close")


def test_who_is_in_a_hurry_goes_before_most_who_wait() -> None:
    """Of those who wait for their turn to write, one at a time competes with him."""
    turns, order = _Turns(), list[str]()

    def write(name: str, seconds: float) -> None:
        with turns.taken(time.monotonic() + seconds, hurry=name == "hurry") as taken:
            order.append(name if taken else "too late")
            time.sleep(0.03)  # a turn takes long enough for the next one to wait: locks are not fair to who comes just then

    def started(name: str, seconds: float = 10.0) -> threading.Thread:
        thread = threading.Thread(target=write, args=(name, seconds))
        thread.start()
        time.sleep(0.02)
        return thread

    with turns.taken(time.monotonic() + 10.0, hurry=False):
        for name in ("no hurry", "hurry"):
            started(name, 0.01).join()
        assert order == ["too late", "too late"]
        threads = [started(name) for name in (*map(str, range(6)), "hurry")]
    for thread in threads:
        thread.join()

    assert order.index("hurry") < 6
    assert len(order) == 9


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it may also come where Python has to swallow it
@pytest.mark.parametrize("operation", ["set_many", "get_many", "open_log"])
def test_an_interrupt_takes_nothing_along(path: Path, operation: str) -> None:
    """Ctrl-C may come after any step of Python: this thread and others go on at once, and nobody waits for what was left."""
    tier, entry = SQLiteTier(path), an_entry()
    tier.set_many([entry])
    calls: dict[str, tuple[Any, ...]] = {
        "set_many": ([entry],),
        "get_many": ([entry.key],),
        "open_log": (UNKNOWN,),
    }
    with ThreadPoolExecutor(1) as another:
        for _ in interrupted(lambda: getattr(tier, operation)(*calls[operation]), at_least=10):
            another.submit(tier.set_many, [entry]).result(timeout=10.0)
            tier.set_many([entry])
            assert entry.key in tier.get_many([entry.key])
    tier.close()


def test_a_file_that_is_no_database(world: World, path: Path) -> None:
    """It is left as it is."""
    path.write_bytes(b"this is somebody's text, not a database" * 100)

    assert "not a database" in reasons(answered(world, f"sqlite:///{path}"))
    assert path.read_bytes().startswith(b"this is somebody's text")


def test_a_file_that_is_corrupt(world: World, path: Path) -> None:
    """Bytes in the middle were overwritten."""
    tier = SQLiteTier(path)
    tier.set_many([an_entry(str(number), os.urandom(3000)) for number in range(200)])
    tier.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        for at in range(4096, size, 4096):
            file.seek(at)
            file.write(os.urandom(64))

    assert reasons(answered(world, f"sqlite:///{path}"))


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE entries SET envelope = 5",
        "UPDATE entries SET envelope = 'text'",
        "UPDATE entries SET envelope = NULL",
        "UPDATE log SET seq = 'nonsense'",
        "UPDATE log SET epoch = NULL",
        "INSERT INTO log_floors VALUES ('default', 'nonsense')",
        "INSERT INTO log_rules VALUES (1, 5, 5)",
        "DROP TABLE log",
        "DROP TABLE entries",
    ],
)
def test_a_file_with_nonsense_in_it(world: World, path: Path, damage: str) -> None:
    """Of other kinds than SQLite itself would put there: a failing tier, and nothing worse."""
    tier = SQLiteTier(path)
    tier.set_many([an_entry()])
    tier.append_log("default", Scope(tags=("a",)), UNKNOWN, 0)
    tier.close()
    db = sqlite3.connect(path)
    db.executescript("PRAGMA writable_schema=ON; UPDATE sqlite_master SET sql = replace(sql, 'NOT NULL', ''); PRAGMA writable_schema=OFF;")
    db.close()
    db = sqlite3.connect(path)
    db.execute(damage)
    db.commit()
    db.close()

    answered(world, f"sqlite:///{path}")


def test_any_byte_of_the_file_may_be_wrong(world: World, path: Path) -> None:
    """Also of its first page: the model answers, and what is read is right."""
    tier = SQLiteTier(path)
    tier.set_many([an_entry(f"lc1:default:{number}", f"value {number}".encode()) for number in range(20)])
    tier.close()
    good, rnd = path.read_bytes(), random.Random(7)
    for _ in range(40):
        bad = bytearray(good)
        for _ in range(rnd.choice([1, 3, 30])):
            bad[rnd.choice([rnd.randrange(len(bad)), rnd.randrange(4096)])] = rnd.randrange(256)
        for suffix in ("", "-wal", "-shm"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
        path.write_bytes(bad)
        cache = TieredCache(f"sqlite:///{path}")
        for number in range(20):
            found = world.call(cache, "get", f"lc1:default:{number}")
            assert found is None or found.value == f"value {number}".encode()
        assert world.call(cache, "get_or_compute", ask(), world.compute(b"x")).value == b"x"
        with suppress(DeletionError):
            world.call(cache, "invalidate", tag="a")
        cache._engine.backlog.close(0.0)
        world.call(cache, "close")


def test_every_row_whose_bytes_were_changed_is_a_miss(world: World, path: Path) -> None:
    """And is removed, or left alone where it may be another release's."""
    with TieredCache(f"sqlite:///{path}") as cache:
        keys = [cache.set(ask(str(number)), b"x").key for number in range(3)]
    db = sqlite3.connect(path)
    envelopes = {key: db.execute("SELECT envelope FROM entries WHERE key = ?", (key,)).fetchone()[0] for key in keys}
    flipped = bytes([*envelopes[keys[0]][:50], envelopes[keys[0]][50] ^ 1, *envelopes[keys[0]][51:]])
    newer = bytes([*envelopes[keys[1]][:3], 99, *envelopes[keys[1]][4:]])
    for key, envelope in zip(keys, (flipped, newer, envelopes[keys[0]]), strict=True):
        db.execute("UPDATE entries SET envelope = ? WHERE key = ?", (envelope, key))
    db.commit()
    db.close()

    with TieredCache(f"sqlite:///{path}") as cache:
        assert [world.call(cache, "get", key) for key in keys] == [None] * 3
        assert cache.stats().refused == 3
    assert rows(path, "SELECT key FROM entries") == [(keys[1],)]


def test_another_applications_database(world: World, path: Path) -> None:
    """It is not touched."""
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE theirs (x)")
    db.commit()
    db.close()
    before = path.read_bytes()

    assert "another application" in reasons(answered(world, f"sqlite:///{path}"))
    assert path.read_bytes() == before


def test_a_newer_releases_database(world: World, path: Path) -> None:
    """Nor is that."""
    tier = SQLiteTier(path)
    tier.set_many([an_entry()])
    tier.close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version=99")
    db.commit()
    db.close()

    assert "another release" in reasons(answered(world, f"sqlite:///{path}"))
    assert rows(path, "SELECT count(*) FROM entries") == [(1,)]


def test_a_path_that_cannot_be(world: World, path: Path) -> None:
    """A folder, or below a file."""
    path.write_text("a file")
    assert "File exists" in reasons(answered(world, f"sqlite:///{path}/answers.db"))
    folder = path.parent / "folder"
    folder.mkdir()
    assert "directory" in reasons(answered(world, f"sqlite:///{folder}")).lower()


def test_a_link_to_a_file_that_is_not_there_yet(path: Path) -> None:
    """The file is made where the link says, for its owner alone."""
    target = path.parent / "elsewhere.db"
    path.symlink_to(target)
    SQLiteTier(path).set_many([an_entry()])

    assert target.stat().st_mode & 0o777 == 0o600
    assert path.is_symlink()
    assert rows(path, "SELECT count(*) FROM entries") == [(1,)]


def test_a_file_whose_journal_somebody_changed(path: Path) -> None:
    """Where the end of a write has to wait for readers, it waits."""
    tier = SQLiteTier(path)
    tier.set_many([an_entry()])
    tier.close()
    assert rows(path, "PRAGMA journal_mode=DELETE") == [("delete",)]
    reader = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM entries").fetchone()
    end = threading.Timer(0.2, reader.rollback)
    end.start()

    SQLiteTier(path, timeout=5.0).set_many([an_entry()])
    end.join()
    reader.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_fork_while_a_file_is_being_made(path: Path) -> None:
    """For longer than a fork waits: the child does not wait for a thread that it does not have."""
    program = f"""
import os, signal, threading, time
from layered_cache.tiers.sqlite import connections as _sqlite_file
from layered_cache import SQLiteTier

_sqlite_file._MOST_WAITING_TO_FORK = 0.05
with _sqlite_file._registering:
    thread = threading.Thread(target=lambda: os._exit(child()))
    def child():
        if pid := os.fork():
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        signal.alarm(5)
        return len(SQLiteTier({str(path)!r}).get_many(["key"]))
    thread.start()
    time.sleep(30)
"""
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=False, timeout=60).returncode == 0


def mounted(folder: Path, *options: str) -> bool:
    """Mount a small file system in memory at *folder*; False where that is not allowed."""
    done = subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", str(folder)], capture_output=True, check=False)
    return done.returncode == 0


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0 or shutil.which("mount") is None, reason="needs to mount a file system")
def test_a_full_disk_and_a_read_only_one(world: World, tmp_path: Path) -> None:
    """And when there is room again, it is used, without a new object."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not mounted(folder, "-o", "size=512k"):
        pytest.skip("this sandbox does not allow to mount")
    try:
        events: list[Event] = []
        cache = TieredCache("memory://", f"sqlite:///{folder}/answers.db", observers=[events.append])
        world.call(cache, "set", ask("first"), b"x")
        (folder / "ballast").write_bytes(bytes(200 * 1024))
        for number in range(40):
            value = os.urandom(20_000)
            assert world.call(cache, "get_or_compute", ask(str(number)), world.compute(value)).value == value
        assert "full" in reasons(events)
        (folder / "ballast").unlink()
        for path in folder.iterdir():
            path.unlink()
        time.sleep(1.1)
        world.call(cache, "set", ask("room"), b"room")
        cache._engine.backlog.drain(3.0)
        with TieredCache(f"sqlite:///{folder}/answers.db") as other:
            assert other.get(ask("room"))
        world.call(cache, "close")
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        assert reasons(answered(world, f"sqlite:///{folder}/new.db"))
        assert reasons(answered(world, f"sqlite:///{folder}/answers.db"))
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
def test_a_file_that_is_deleted_is_made_again(world: World, path: Path) -> None:
    """Within a second or so; nothing is written into the void for longer."""
    cache = TieredCache(f"sqlite:///{path}")
    world.call(cache, "set", ask(), b"x")
    for name in ("", "-wal", "-shm"):
        Path(f"{path}{name}").unlink(missing_ok=True)
    time.sleep(1.1)
    assert world.call(cache, "get", ask()) is None
    time.sleep(1.1)
    held = world.call(cache, "set", ask(), b"y")

    with TieredCache(f"sqlite:///{path}") as other:
        assert other.get(ask()) == held
    world.call(cache, "close")


def test_what_one_process_writes_outlives_the_end_of_another(path: Path) -> None:
    """SQLite deletes the journal with the last connection to the file: nobody may come to think that his is the last."""
    tier = SQLiteTier(path)
    tier.set_many([an_entry("before")])
    with ThreadPoolExecutor(1) as pool:  # opens a second connection of this process
        assert pool.submit(tier.get_many, ["before"]).result()
        subprocess.run([sys.executable, "-c", _ENDING, path], check=True)

        tier.set_many([an_entry("after")])
        tier.append_log("default", Scope(tags=("t",)), Ticket(0, 0), 0)

    other = SQLiteTier(path)
    assert other.get_many(["before", "after"]).keys() == {"before", "after"}
    seen = subprocess.run([sys.executable, "-c", _ENDING, path], check=True, capture_output=True, text=True).stdout
    assert seen.split() == ["2", "1"]
    tier.close()
    other.close()


_ENDING = """
import sys
from layered_cache import SQLiteTier, Ticket
tier = SQLiteTier(sys.argv[1])
print(len(tier.get_many(["before", "after"])), len(tier.read_log(Ticket(0, 0)).rules))
tier.close()
"""


def test_errors_say_what_and_nothing_else(path: Path) -> None:
    """The operation and the reason, no key, no value."""
    tier = SQLiteTier(path)
    tier.set_many([an_entry()])
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")

    with pytest.raises(TierTimeoutError) as raised:
        tier.set_many([an_entry("secret key", b"secret value")])
    writer.close()

    assert str(raised.value) == "sqlite: write: locked for longer than 150 ms"
    assert raised.value.retryable
    assert isinstance(raised.value, TimeoutError)
    tier.close()
    with pytest.raises(TierUnavailableError, match="closed"):
        tier.get_many(["k"])


def test_closing_while_others_use_it(path: Path) -> None:
    """Each gets what it asked for, or a `TierError`; the interpreter survives."""
    for _ in range(4):
        tier = SQLiteTier(path)
        tier.set_many([an_entry(str(number), bytes(2000)) for number in range(50)])
        stop = threading.Event()
        wrong: list[BaseException] = []

        def work(tier: SQLiteTier = tier, stop: threading.Event = stop, wrong: list[BaseException] = wrong) -> None:
            while not stop.is_set():
                try:
                    tier.get_many([str(number) for number in range(50)])
                    tier.set_many([an_entry()])
                except TierError:
                    pass
                except BaseException as error:  # noqa: BLE001
                    wrong.append(error)

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(0.02)
        tier.close()
        stop.set()
        for thread in threads:
            thread.join()
        assert wrong == []


_WRITER = """
import sys
from layered_cache import Request, TieredCache
cache = TieredCache(sys.argv[1])
for number in range(100000):
    cache.set(Request(str(number)), str(number).encode() * 100)
    print(number, flush=True)
"""


def test_a_killed_process_loses_nothing_that_was_acknowledged(path: Path) -> None:
    """And leaves the file whole."""
    acknowledged = -1
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", _WRITER, f"sqlite:///{path}"], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                acknowledged = int(line)
                if acknowledged > 100:
                    break
            process.kill()
        with TieredCache(f"sqlite:///{path}") as cache:
            found = cache.get_many(Request(str(number)) for number in range(acknowledged + 1))
            assert len(found) == acknowledged + 1
            assert all(entry.value == request.prompt.encode() * 100 for request, entry in found.items())
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]


def test_events_name_the_tier(world: World, path: Path) -> None:
    """By the name that the user gave it."""
    path.write_text("x" * 5000)
    events = answered(world, f"sqlite:///{path}#name=shelf&timeout=50ms")

    assert {event.tier for event in events if event.kind in ("tier_failed", "log_failed")} == {"shelf"}
    assert {event.reason for event in events if event.kind == "not_stored"} == {"log unread"}
    assert "miss" in kinds(events)
