"""The history of a concurrent run, and whether it may have gone so.

Callers write down what they compute, remove and read; afterwards every read is judged by what had happened before it began. No step
of the run is repeated and no order is assumed, so it works for threads, tasks and processes alike, and for processes that are killed.

    history = History(folder / f"{os.getpid()}.history")               # one for each process

    began = history.now()
    entry = cache.get_or_compute(request, lambda: history.answer("greeting", tags=["t"]))
    history.read("greeting", entry.value, began=began)

    called = history.now()
    cache.invalidate(tag="t")
    history.removed(called=called, tag="t")

    assert not History.of(*folder.glob("*.history")).verdict(max_staleness=2.0).violations

The law, for each answer that a read got:
- Its computation was written down, hence begun, by somebody; who was killed right after has begun it, too. Not one byte of it differs.
- It was computed for what the read asked for.
- It is not stale: no removal of it (of its key, a tag of it, its model, its namespace) that had *returned* before the read *began* had
  been *called* after its computation began. For the removals of other processes: that had returned more than `max_staleness` before;
  `max_unverified` before, if the cache said of the answer that it could not know.

Nothing is said of what happens at the same time: an answer may be served, or be void, whose computation or whose read overlaps the
removal; a removal that never returned (it failed, or its caller was killed or cancelled) binds nobody. Nothing is said of hits,
either: a cache that is always empty has a good history. So look at the numbers of a `Verdict`, too.

All times are of `now`, one clock for all processes of a machine.
"""

from __future__ import annotations

import itertools
import json
import os
import secrets
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal, TypeAlias

NEVER = float("-inf")

_Label: TypeAlias = "tuple[str, ...]"  # something that many answers have in common, and a removal names
_Read: TypeAlias = "tuple[str, str, str, bool]"  # key asked for, value, process, whether the cache could know


@dataclass(frozen=True, slots=True)
class Violation:
    """What must not have happened: in words, and its kind."""

    kind: Literal["stale", "wrong key", "written by nobody"]
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a history comes to.

    Attributes:
        answers: Computations that were begun.
        removals: Those that returned.
        reads: All, `hits` of them with an answer.
        unverified: Hits of which the cache itself said that it could not know; their staleness is judged by `max_unverified`, if at all.
        at_risk: Answers that a process read when an earlier answer to the same was removed for it: where staleness could have shown.
        violations: One for each answer, reading process, and whether it could know.
    """

    answers: int
    removals: int
    reads: int
    hits: int
    unverified: int
    at_risk: int
    violations: tuple[Violation, ...]


class History:
    """What one process did; or, made by `of`, what several did.

    Every record is one line and one write: of a process that is killed, nothing is missing that was acknowledged to it. All methods
    may be called from any thread and task. After a fork, the child makes one of its own.

    Args:
        file: Where to write, a path or the number of an open file or pipe. No two processes share one. None: in memory.
        process: Its name, unlike that of any other process, also of one with the same number before it.
    """

    now = staticmethod(time.monotonic)

    def __init__(self, file: Path | int | None = None, *, process: str | None = None) -> None:
        self.process = f"{os.getpid()}-{secrets.token_hex(4)}" if process is None else process
        self._lines: list[bytes] = []
        self._sources: list[Path | Iterable[bytes]] = [file if isinstance(file, Path) else self._lines]
        self._file = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) if isinstance(file, Path) else file
        self._numbers = itertools.count()

    @classmethod
    def of(cls, *sources: Path | Iterable[bytes]) -> History:
        """Return the history in *sources*: files, pipes or lines that others have written."""
        merged = cls()
        merged._sources = list(sources)
        return merged

    # --- writing

    def answer(self, key: str, *, namespace: str = "", model: str | None = None, tags: Iterable[str] = ()) -> bytes:
        """Return the answer to *key*, which names its key, its writer, and this moment: that at which its computation begins.

        To be called before the cache is given the answer: what others may read must be written down.

        Args:
            key: As reads will name it; no two namespaces have one in common.
            namespace: Where it is; what a removal of all of it names.
            model: The model that answers.
            tags: The labels it is stored with.
        """
        value = json.dumps([key, self.process, next(self._numbers), self.now()])
        self._write("answer", value, namespace, model, list(tags))
        return value.encode()

    def read(self, key: str, value: bytes | None, *, began: float, verified: bool = True) -> None:
        """Note that a read of *key*, which began at *began*, got *value*, or nothing.

        Args:
            key: As `answer` was given it.
            value: What the cache returned.
            began: When the cache was called.
            verified: False if the cache has told (`served_unverified`) that it could not read the invalidation log.
        """
        self._write("read", key, None if value is None else value.decode("latin-1"), self.process, began, verified)

    def removed(
        self,
        *,
        called: float,
        returned: float | None = None,
        namespace: str = "",
        key: str | None = None,
        tag: str | None = None,
        model: str | None = None,
    ) -> None:
        """Note that a removal has returned, which was called at *called*.

        It names a key, a tag or a model (a glob: once for each that it matches); none: all of *namespace*, exactly.

        Args:
            called: When the cache was called.
            returned: When it returned; now, unless given.
            namespace: Where.
            key: As `answer` was given it.
            tag: One label.
            model: One model.

        Raises:
            ValueError: More than one of key, tag, model is given.
        """
        labels = [(name, value) for name, value in (("key", key), ("tag", tag), ("model", model)) if value is not None]
        if len(labels) > 1:
            msg = "a removal names a key, a tag or a model, or none of them"
            raise ValueError(msg)
        returned = self.now() if returned is None else returned
        for name, value in labels or [("namespace", namespace)]:
            label = (name, value) if name in {"key", "namespace"} else (name, namespace, value)
            self._write("removed", label, self.process, called, returned)

    def _write(self, *record: object) -> None:
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        if self._file is None:
            self._lines.append(line)
        elif os.write(self._file, line) < len(line):
            msg = "a record of the history could not be written"
            raise OSError(msg)

    # --- judging

    def verdict(self, *, max_staleness: float = 2.0, max_unverified: float | None = None) -> Verdict:
        """Judge every read.

        Args:
            max_staleness: How many seconds after its return a removal binds other processes.
            max_unverified: The same where the cache said that it could not know; None: it does not bind them then.

        A line without an end is left out: its writer was killed before it was acknowledged to him.

        Raises:
            ValueError: A line is no record.
        """
        judge = _Judge()
        for line in self._all_lines():
            if line.endswith(b"\n"):
                judge.take(json.loads(line))
        return judge.verdict(max_staleness, max_unverified)

    def _all_lines(self) -> Generator[bytes]:
        for source in self._sources:
            if isinstance(source, Path):
                with source.open("rb") as lines:
                    yield from lines
            else:
                yield from source


class _Removals:
    """The removals of one label, by their return."""

    def __init__(self) -> None:
        self._all: list[tuple[float, float]] = []
        self._returned: list[float] = []
        self._newest: list[float] = []

    def add(self, called: float, returned: float) -> None:
        self._all.append((returned, called))

    def sort(self) -> None:
        self._all.sort()
        self._returned = [returned for returned, _ in self._all]
        self._newest = list(itertools.accumulate((called for _, called in self._all), max))

    def newest_before(self, moment: float) -> float:
        """Return when the newest one was called of those that returned before *moment*."""
        count = bisect_left(self._returned, moment)
        return self._newest[count - 1] if count else NEVER


@dataclass(slots=True)
class _Judge:
    """Takes the records in any order. Of the reads of one answer by one process it keeps the latest: it may get the least."""

    answers: dict[str, tuple[str, float, list[_Label]]] = field(default_factory=dict[str, "tuple[str, float, list[_Label]]"])
    removals: defaultdict[_Label, _Removals] = field(default_factory=lambda: defaultdict[_Label, _Removals](_Removals))
    latest: dict[_Read, float] = field(default_factory=dict[_Read, float])
    removed: int = 0
    reads: int = 0
    misses: int = 0
    unverified: int = 0

    def take(self, record: Any) -> None:  # noqa: ANN401 - it was JSON
        kind, *rest = record
        if kind == "read":
            self._take_read(*rest)
        elif kind == "answer":
            value, namespace, model, tags = rest
            key, _writer, _number, began = json.loads(value)
            labels: list[_Label] = [("key", key), ("namespace", namespace), *(("tag", namespace, tag) for tag in tags)]
            if model is not None:
                labels.append(("model", namespace, model))
            self.answers[value] = (key, began, labels)
        elif kind == "removed":
            label, process, called, returned = rest
            self.removed += 1
            self.removals[tuple(label)].add(called, returned)
            self.removals["in", process, *label].add(called, returned)
        else:
            msg = f"a history has no record {kind!r}"
            raise ValueError(msg)

    def _take_read(self, key: str, value: str | None, process: str, began: float, verified: bool) -> None:  # noqa: FBT001
        self.reads += 1
        if value is None:
            self.misses += 1
            return
        self.unverified += not verified
        read = (key, value, process, verified)
        self.latest[read] = max(self.latest.get(read, NEVER), began)

    def verdict(self, max_staleness: float, max_unverified: float | None) -> Verdict:
        for removals in self.removals.values():
            removals.sort()
        earliest: dict[str, float] = {}
        for key, computed, _labels in self.answers.values():
            earliest[key] = min(computed, earliest.get(key, computed))
        at_risk = 0
        violations: list[Violation] = []
        for (key, value, process, verified), began in sorted(self.latest.items(), key=itemgetter(1)):
            if value not in self.answers:
                violations.append(Violation("written by nobody", f"{process} asked for {key!r} and got {value!r:.200}"))
                continue
            written_for, computed, labels = self.answers[value]
            if written_for != key:
                violations.append(Violation("wrong key", f"{process} asked for {key!r} and got {value}"))
            if (late := max_staleness if verified else max_unverified) is None:
                continue
            bound = max((self._bound(label, process, began, late), label) for label in labels)
            at_risk += earliest.get(key, bound[0]) < bound[0]
            if computed < bound[0]:
                got = "got" if verified else "got, unverified,"
                text = f"{process} asked at {began:.6f} and {got} {value}, removed by {'/'.join(bound[1])}, called at {bound[0]:.6f}"
                violations.append(Violation("stale", text))
        return Verdict(
            answers=len(self.answers),
            removals=self.removed,
            reads=self.reads,
            hits=self.reads - self.misses,
            unverified=self.unverified,
            at_risk=at_risk,
            violations=tuple(violations),
        )

    def _bound(self, label: _Label, process: str, began: float, max_staleness: float) -> float:
        """Return before which moment no computation may have begun of what *process* reads at *began*."""
        anywhere, here = self.removals.get(label), self.removals.get(("in", process, *label))
        return max(
            NEVER if anywhere is None else anywhere.newest_before(began - max_staleness),
            NEVER if here is None else here.newest_before(began),
        )
