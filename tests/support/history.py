"""A record of a concurrent run, and a check of its consistency.

Callers record their computations, invalidations and reads. Afterwards every read is compared with
the events before it began. No step is repeated and no order is assumed. So the check works for
threads, tasks and processes, even if processes are killed.

    history = History(folder / f"{os.getpid()}.history")               # one for each process

    began = history.now()
    entry = cache.get_or_compute(request, lambda: history.answer("greeting", tags=["t"]))
    history.read("greeting", entry.value, began=began)

    called = history.now()
    cache.invalidate(tag="t")
    history.removed(called=called, tag="t")

    assert not History.of(*folder.glob("*.history")).verdict(max_staleness=2.0).violations

These rules apply to each answer that a read returned:

- Its computation was recorded before it began, by a process that may have been killed since. All
  its bytes are equal.
- It was computed for the key of the read.
- It is not stale. An invalidation of its key, a tag, its model or its namespace counts if it
  *returned* before the read *began*. No such invalidation may have been *called* after the
  computation of the answer began. Invalidations of other processes count if they returned more than
  `max_staleness` before the read. If the cache reported that it could not read the log, the limit
  is `max_unverified`.

Concurrent events are not restricted: if the computation or the read overlaps an invalidation, the
answer may be served or be void. An invalidation that never returned does not count, because it
failed or its caller was killed or cancelled. Hits are not required either: a cache that is always
empty has a valid history. So check the numbers of a `Verdict` too.

All times are from `now`, a clock that all processes of a machine share.
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

# a property that many answers share and that an invalidation refers to
_Label: TypeAlias = "tuple[str, ...]"
# requested key, value, process, and True if the cache could read the log
_Read: TypeAlias = "tuple[str, str, str, bool]"


@dataclass(frozen=True, slots=True)
class Violation:
    """A violation of a rule: its kind and a description."""

    kind: Literal["stale", "wrong key", "written by nobody"]
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The result of a check.

    Attributes:
        answers: The number of computations that began.
        removals: The number of invalidations that returned.
        reads: The number of reads, `hits` of them with an answer.
        unverified: The number of hits for which the cache reported that it could not read the log.
            Their staleness is limited by `max_unverified`, if at all.
        at_risk: The number of answers that a process read after an earlier answer to the same key
            had been invalidated for it: the reads that can show staleness.
        violations: At most one for each answer, reading process and state of the log.
    """

    answers: int
    removals: int
    reads: int
    hits: int
    unverified: int
    at_risk: int
    violations: tuple[Violation, ...]


class History:
    """The events of one process, or of several processes if created with `of`.

    Every record is one line and one write. So the history of a killed process contains all
    acknowledged events. All methods may be called from any thread and task. After a fork, the child
    creates a new history.

    Args:
        file: The file to write: a path, or the number of an open file or pipe. Processes must not
            share a file. None: in memory.
        process: The unique name of the process. A process id alone is not unique, because it is
            used again.
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
        """Return the history in *sources*: files, pipes or lines of several processes."""
        merged = cls()
        merged._sources = list(sources)
        return merged

    # --- writing

    def answer(self, key: str, *, namespace: str = "", model: str | None = None, tags: Iterable[str] = ()) -> bytes:
        """Return the answer to *key*, with its key, its process, and the start of its computation.

        Call it before the cache gets the answer, because an answer must be recorded before it is
        read.

        Args:
            key: The key that reads use. It must be unique across namespaces.
            namespace: The namespace, for invalidations of the whole namespace.
            model: The model that answers.
            tags: The tags of the entry.
        """
        value = json.dumps([key, self.process, next(self._numbers), self.now()])
        self._write("answer", value, namespace, model, list(tags))
        return value.encode()

    def read(self, key: str, value: bytes | None, *, began: float, verified: bool = True) -> None:
        """Record a read of *key* that began at *began* and returned *value*, or nothing.

        Args:
            key: The key that was passed to `answer`.
            value: The value that the cache returned.
            began: The time of the call.
            verified: False if the cache reported (`served_unverified`) that it could not read the
                invalidation log.
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
        """Record an invalidation that was called at *called* and has returned.

        It has a key, a tag or a model. For a glob, record it once for each model that matches.
        Without any of them, it covers exactly *namespace*.

        Args:
            called: The time of the call.
            returned: The time of the return; the default is now.
            namespace: The namespace.
            key: The key that was passed to `answer`.
            tag: One tag.
            model: One model.

        Raises:
            ValueError: If more than one of key, tag and model is given.
        """
        labels = [(name, value) for name, value in (("key", key), ("tag", tag), ("model", model)) if value is not None]
        if len(labels) > 1:
            msg = "an invalidation must have at most one of key, tag and model"
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

    # --- checking

    def verdict(self, *, max_staleness: float = 2.0, max_unverified: float | None = None) -> Verdict:
        """Check every read.

        Args:
            max_staleness: The time in seconds after which an invalidation counts for other
                processes.
            max_unverified: The same for reads without access to the log. None: such reads are not
                checked.

        An incomplete last line is ignored: its process was killed before the event was
        acknowledged.

        Raises:
            ValueError: If a line is not a record.
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
    """The invalidations of one label, sorted by the time of return."""

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
        """Return the latest call of an invalidation that returned before *moment*."""
        count = bisect_left(self._returned, moment)
        return self._newest[count - 1] if count else NEVER


@dataclass(slots=True)
class _Judge:
    """Takes records in any order.

    Of the reads of one answer by one process only the latest is kept, because it has the strictest
    limit.
    """

    answers: dict[str, tuple[str, float, list[_Label]]] = field(default_factory=dict[str, "tuple[str, float, list[_Label]]"])
    removals: defaultdict[_Label, _Removals] = field(default_factory=lambda: defaultdict[_Label, _Removals](_Removals))
    latest: dict[_Read, float] = field(default_factory=dict[_Read, float])
    removed: int = 0
    reads: int = 0
    misses: int = 0
    unverified: int = 0

    def take(self, record: Any) -> None:
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
            msg = f"the kind of a record must be read, answer or removed, got {kind!r}"
            raise ValueError(msg)

    def _take_read(self, key: str, value: str | None, process: str, began: float, verified: bool) -> None:
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
        """Return the earliest valid start of a computation that *process* reads at *began*."""
        anywhere, here = self.removals.get(label), self.removals.get(("in", process, *label))
        return max(
            NEVER if anywhere is None else anywhere.newest_before(began - max_staleness),
            NEVER if here is None else here.newest_before(began),
        )
