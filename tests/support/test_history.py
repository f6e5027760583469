"""The oracle of concurrent runs: it accepts what may be, and rejects each thing that may not."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.history import History, Verdict

CHILD = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
"""The environment of child processes, which import the package of this file."""


class Tale:
    """What happened in a few processes, told at moments of our own."""

    def __init__(self) -> None:
        self.now = 0.0
        self.processes: dict[str, History] = {}

    def at(self, now: float, process: str = "here") -> History:
        """Return the history of *process*, whose clock shows *now*."""
        self.now = now
        history = self.processes.setdefault(process, History(process=process))
        history.now = lambda: self.now
        return history

    def told(self, **limits: float) -> Verdict:
        return History.of(*(history._lines for history in self.processes.values())).verdict(**limits)

    def kinds(self, **limits: float) -> list[str]:
        return [violation.kind for violation in self.told(**limits).violations]


@pytest.fixture
def tale() -> Tale:
    return Tale()


def test_an_answer_names_what_it_is(tale: Tale) -> None:
    """Its key, who writes it, and when its computation began; no two are alike."""
    first, second = (tale.at(1.5, "p").answer("greeting") for _ in range(2))

    assert b'"greeting"' in first
    assert b'"p"' in first
    assert b"1.5" in first
    assert first != second


def test_reads_of_what_was_computed_are_right(tale: Tale) -> None:
    """By whomever, and also if he never came to the end of it."""
    value = tale.at(1.0, "killed").answer("key", tags=["t"], model="m")
    tale.at(3.0).read("key", value, began=2.0)
    tale.at(3.0).read("key", None, began=2.5)
    tale.at(3.0, "there").read("key", value, began=2.0)

    told = tale.told()
    assert told.violations == ()
    assert (told.answers, told.reads, told.hits, told.removals) == (1, 3, 2, 0)


def test_the_answer_of_another_key_is_wrong(tale: Tale) -> None:
    """Whoever wrote it."""
    value = tale.at(1.0).answer("key")
    tale.at(2.0).read("other", value, began=1.5)

    assert tale.kinds() == ["wrong key"]


@pytest.mark.parametrize("change", [lambda value: value[:-1], lambda value: value + b" ", lambda value: b"\xff\x00", lambda value: b""])
def test_what_nobody_wrote_is_wrong(tale: Tale, change: Callable[[bytes], bytes]) -> None:
    """And be it off by a byte."""
    value = tale.at(1.0).answer("key")
    tale.at(2.0).read("key", change(value), began=1.5)

    assert tale.kinds() == ["written by nobody"]


REMOVALS = [{"key": "key"}, {"tag": "t"}, {"model": "m"}, {}]


@pytest.mark.parametrize("what", REMOVALS, ids=str)
def test_what_was_removed_is_stale_for_who_asks_afterwards(tale: Tale, what: dict[str, str]) -> None:
    """In the process that removed it; also if the answer was stored later."""
    value = tale.at(1.0).answer("key", namespace="n", tags=["s", "t"], model="m")
    tale.at(3.0).removed(called=2.0, namespace="n", **what)
    tale.at(4.0).read("key", value, began=3.1)

    assert tale.kinds() == ["stale"]
    assert "called at 2.0" in str(tale.told().violations[0])


@pytest.mark.parametrize("what", REMOVALS, ids=str)
def test_other_processes_may_be_late(tale: Tale, what: dict[str, str]) -> None:
    """By what they are allowed, and not more."""
    value = tale.at(1.0).answer("key", namespace="n", tags=["t"], model="m")
    tale.at(3.0).removed(called=2.0, namespace="n", **what)
    tale.at(5.0, "there").read("key", value, began=4.9)

    assert tale.kinds(max_staleness=2.0) == []
    assert tale.kinds(max_staleness=1.0) == ["stale"]

    tale.at(6.0, "there").read("key", value, began=5.1)
    assert tale.kinds(max_staleness=2.0) == ["stale"]


@pytest.mark.parametrize(
    "elsewhere",
    [
        {"namespace": "n", "key": "other"},
        {"namespace": "n", "tag": "s"},
        {"namespace": "n", "model": "m2"},
        {"namespace": "other", "tag": "t"},
        {"namespace": "other", "model": "m"},
        {"namespace": "other"},
        {"namespace": "n/child"},
    ],
    ids=str,
)
def test_removals_of_something_else_bind_nobody(tale: Tale, elsewhere: dict[str, str]) -> None:
    """Another key, tag or model, or the same in another namespace."""
    value = tale.at(1.0).answer("key", namespace="n", tags=["t"], model="m")
    tale.at(3.0).removed(called=2.0, **elsewhere)
    tale.at(5.0).read("key", value, began=4.0)

    assert tale.kinds() == []


def test_what_happens_at_the_same_time_may_come_out_either_way(tale: Tale) -> None:
    """A read or a computation that overlaps a removal."""
    before, meanwhile = tale.at(1.0).answer("key"), tale.at(2.5).answer("key")
    tale.at(3.0).removed(called=2.0, key="key")
    tale.at(9.0).read("key", before, began=2.9)
    tale.at(9.0).read("key", meanwhile, began=5.0)

    assert tale.kinds(max_staleness=0.0) == []


def test_what_was_computed_after_a_removal_may_be_served(tale: Tale) -> None:
    """Until it is removed itself."""
    tale.at(3.0).removed(called=2.0, key="key")
    value = tale.at(4.0).answer("key")
    tale.at(5.0).read("key", value, began=4.5)
    assert tale.kinds() == []

    tale.at(7.0).removed(called=6.0, key="key")
    tale.at(8.0).read("key", value, began=7.5)
    assert tale.kinds() == ["stale"]


def test_a_slow_removal_does_not_hide_a_quick_one(tale: Tale) -> None:
    """One that was called first and returned last; the quick one binds already."""
    value = tale.at(1.5).answer("key")
    tale.at(3.0).removed(called=2.0, key="key")
    tale.at(9.0).removed(called=1.0, key="key")
    tale.at(9.0).read("key", value, began=4.0)
    tale.at(9.9, "there").read("key", value, began=9.5)

    assert tale.kinds() == ["stale", "stale"]


def test_a_removal_that_never_returned_binds_nobody(tale: Tale) -> None:
    """Its caller was killed, or it failed: nothing is written down."""
    value = tale.at(1.0).answer("key")
    tale.at(9.0).read("key", value, began=8.0)

    assert tale.kinds() == []


def test_what_the_cache_calls_unverified_may_be_stale_and_no_more(tale: Tale) -> None:
    """It has told that it could not know."""
    value = tale.at(1.0).answer("key")
    tale.at(3.0).removed(called=2.0, key="key")
    tale.at(9.0).read("key", value, began=8.0, verified=False)
    tale.at(9.0).read("other", value, began=8.0, verified=False)

    assert tale.kinds() == ["wrong key"]
    assert tale.told().unverified == 2


def test_what_is_unverified_ends_when_it_should(tale: Tale) -> None:
    """Where that is asked: a cache may go on with what it knew for so long, and with its own removals not at all."""
    values = [tale.at(1.0).answer(key) for key in ("key", "own")]
    tale.at(3.0).removed(called=2.0, key="key")
    tale.at(3.0, "there").removed(called=2.0, key="own")
    tale.at(9.0, "there").read("key", values[0], began=8.0, verified=False)

    assert tale.kinds(max_unverified=5.1) == []
    assert tale.kinds(max_unverified=4.9) == ["stale"]
    assert "unverified" in str(tale.told(max_unverified=4.9).violations[0])

    tale.at(9.0, "there").read("own", values[1], began=3.1, verified=False)
    assert tale.kinds(max_unverified=5.1) == ["stale"]
    tale.at(9.0, "there").read("key", values[0], began=4.0)
    assert tale.kinds(max_unverified=5.1) == ["stale"]  # what was read verified is judged by its own moment


def test_only_a_read_that_could_have_been_stale_was_at_risk(tale: Tale) -> None:
    """So that a run in which nothing could go wrong is not taken for proof."""
    first = tale.at(1.0).answer("key")
    tale.at(1.5).read("key", first, began=1.2)
    assert tale.told().at_risk == 0

    tale.at(3.0).removed(called=2.0, key="key")
    second = tale.at(4.0).answer("key")
    tale.at(5.0).read("key", second, began=4.5)
    assert tale.told().at_risk == 1


def test_a_removal_names_one_thing(tale: Tale) -> None:
    """Or everything."""
    with pytest.raises(ValueError, match="key, tag and model"):
        tale.at(1.0).removed(called=0.0, key="key", tag="t")


def test_histories_of_files_are_merged(tmp_path: Path) -> None:
    """Of several threads and processes, in any order; any text may be a key."""
    keys = ["plain", 'quo"te', "new\nline", "\ud800", "日本"]
    files = [tmp_path / name for name in ("a", "b")]
    histories = [History(file) for file in files]
    values = {key: histories[0].answer(key) for key in keys}

    def reads(history: History) -> None:
        for key, value in values.items():
            history.read(key, value, began=history.now())

    threads = [threading.Thread(target=reads, args=(history,)) for history in histories for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    told = History.of(*reversed(files)).verdict()
    assert told.violations == ()
    assert (told.answers, told.hits) == (5, 40)
    assert histories[0].process != histories[1].process


def test_histories_come_through_pipes(tmp_path: Path) -> None:
    """From processes that have no file."""
    reader, writer = os.pipe()
    history = History(writer)
    history.read("key", history.answer("key"), began=history.now())
    os.close(writer)

    with os.fdopen(reader, "rb") as pipe:
        assert History.of(pipe).verdict().hits == 1


_KILLED = """
import os, signal, sys
from pathlib import Path
from support.history import History
history = History(Path(sys.argv[1]))
history.read("key", history.answer("key"), began=history.now())
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_of_a_process_that_is_killed_nothing_is_missing(tmp_path: Path) -> None:
    """What it did not come to write to the end is left out."""
    file = tmp_path / "killed"
    subprocess.run([sys.executable, "-c", _KILLED, file], check=False, env=CHILD)
    with file.open("ab") as torn:
        torn.write(b'["read","key","half of')

    told = History.of(file).verdict()
    assert told.violations == ()
    assert told.hits == 1


@pytest.mark.parametrize("line", [b"nonsense\n", b'["unheard of", 1]\n'])
def test_what_is_no_record_is_an_error(line: bytes) -> None:
    """And not passed over."""
    with pytest.raises(ValueError, match=r"Expecting value|kind of a record"):
        History.of([line]).verdict()


def test_all_processes_have_one_clock() -> None:
    """A child's moments lie between two of ours."""
    program = "from support.history import History; print(repr(History.now()))"
    before = History.now()
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, env=CHILD)

    assert before < float(done.stdout) < History.now()


def test_many_records_are_judged_in_little_time(tale: Tale) -> None:
    """A hundred thousand, in seconds."""
    values = [tale.at(float(number)).answer(f"key {number % 100}", tags=[f"t{number % 7}"]) for number in range(10_000)]
    for number in range(1000):
        tale.at(float(number) + 0.5, f"p{number % 3}").removed(called=float(number), tag=f"t{number % 7}")
    for number in range(90_000):
        tale.at(2e4, f"p{number % 3}").read(f"key {number % 100}", values[9900 + number % 100], began=1e4 + number / 1e4)

    started = time.perf_counter()
    told = tale.told()
    assert told.violations == ()
    assert told.reads == 90_000
    assert time.perf_counter() - started < 10.0
