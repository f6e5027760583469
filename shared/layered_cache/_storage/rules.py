"""Rules of invalidation, and the check whether an entry is void. No I/O, no clock, no lock.

Deletion by key, tag, model, prompt, time range and namespace is one mechanism: an append-only log
of rules. The slowest tier that supports it stores the log. Each rule has a sequence number (`seq`)
that is never used again, and the log has a random `epoch`. Each entry has the log position at which
its computation began: `born`.

An entry is void if its epoch is not that of the log, if it is older than the floor of its
namespace, or if a newer rule matches it. Clocks of two machines are never compared, and no sweep is
needed. An answer that was computed before an invalidation and stored after it is void in every
tier.

The log is bounded. A rule that is removed from it raises the floor of its namespace. A floor that
is removed raises the floor of all namespaces. Both can only make more entries void, never fewer.
"""

from __future__ import annotations

import fnmatch
import functools
import json
import operator
import re
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from itertools import takewhile
from typing import Any, TypeAlias, cast

from layered_cache.entry import Entry, Ticket
from layered_cache.errors import ConfigurationError

MAX_RULES = 10_000
MAX_LOG_BYTES = 1024 * 1024
MAX_FLOORS = 10_000

# the floor of all namespaces
EVERYONE = ""
# the log was never read
UNKNOWN = Ticket(0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """The criteria of a rule. An entry must meet all that are given.

    `keys` and `tags`: any of them. `model`: a glob. `prompt`: the digest of the last user message,
    in hex. `created_before` and `created_after`: the start of the computation in Unix seconds.
    `created_before` is exclusive, `created_after` is inclusive.
    """

    keys: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    model: str | None = None
    prompt: str | None = None
    created_before: float | None = None
    created_after: float | None = None

    def __post_init__(self) -> None:
        # An invalid rule would fail in every process that reads it, as long as it exists.
        for name in ("keys", "tags"):
            texts = getattr(self, name)
            if type(texts) is not tuple or not all(isinstance(text, str) for text in cast("tuple[object, ...]", texts)):
                msg = f"{name} must be texts, got {texts!r}"
                raise ConfigurationError(msg)
        for name in ("model", "prompt"):
            if not isinstance(text := getattr(self, name), str | None):
                msg = f"{name} must be a text, got a {type(text).__qualname__}"
                raise ConfigurationError(msg)
        for name in ("created_before", "created_after"):
            moment = getattr(self, name)
            # NaN
            if isinstance(moment, bool) or not isinstance(moment, int | float | None) or moment != moment:  # noqa: PLR0124
                msg = f"{name} must be Unix seconds or an aware datetime, got {moment!r}"
                raise ConfigurationError(msg)

    def __bool__(self) -> bool:
        return any(getattr(self, criterion.name) not in ((), None) for criterion in fields(self))

    def matches(self, entry: Entry) -> bool:
        """Return True if *entry* meets every criterion. Without criteria every entry matches."""
        return (
            (not self.keys or entry.key in self.keys)
            and (not self.tags or not set(self.tags).isdisjoint(entry.tags))
            and (self.model is None or (entry.model is not None and _glob(self.model)(entry.model) is not None))
            and (self.prompt is None or entry.prompt_digest.hex() == self.prompt)
            and (self.created_before is None or entry.created_at < self.created_before)
            and (self.created_after is None or entry.created_at >= self.created_after)
        )

    def to_json(self) -> str:
        """Return the scope as JSON, without the criteria that are not set."""
        return json.dumps({name: value for name, value in asdict(self).items() if value not in ((), None)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Scope:
        """Return the scope that `to_json` wrote.

        Raises:
            ValueError: If it contains a criterion that this release does not know.
        """
        found: Any = json.loads(text)
        if type(found) is not dict:
            msg = "a rule must be a JSON object of criteria"
            raise ValueError(msg)
        found = cast("dict[str, Any]", found)
        if unknown := found.keys() - {criterion.name for criterion in fields(cls)}:
            msg = f"a rule has criteria that this release does not know: {', '.join(sorted(unknown))}"
            raise ValueError(msg)
        for name in ("keys", "tags"):
            given: object = found.get(name, [])
            found[name] = tuple(cast("list[str]", given)) if isinstance(given, list) else given
        return cls(**found)


@functools.lru_cache(maxsize=4096)
def _glob(pattern: str) -> Any:  # noqa: ANN401 - the bound method of a compiled pattern
    return re.compile(fnmatch.translate(pattern)).match


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of the log: a scope in a namespace, and its sequence number."""

    seq: int
    namespace: str
    scope: Scope


@dataclass(frozen=True, slots=True)
class LogState:
    """The result of reading the log: all rules newer than the position of the reader.

    If the reader had another epoch, it contains all rules. `epoch` 0 means that there is no log.
    """

    epoch: int
    seq: int = 0
    floors: Mapping[str, int] = field(default_factory=dict[str, int])
    rules: tuple[Rule, ...] = ()

    def __post_init__(self) -> None:
        numbers = (self.epoch, self.seq, *self.floors.values(), *(rule.seq for rule in self.rules))
        texts = (*self.floors, *(rule.namespace for rule in self.rules))
        if not all(type(number) is int for number in numbers) or not all(type(text) is str for text in texts):
            # a store may return any value
            msg = "the stored log is invalid"
            raise ValueError(msg)


def below(namespace: str) -> str:
    """Return the name of the floor of *namespace* and all its child namespaces."""
    return namespace + "/"


def floor_names(namespace: str) -> Iterator[str]:
    """Yield the names of the floors that apply to *namespace*.

    These are the floor of all namespaces, its own floor, and those of its parents.
    """
    yield EVERYONE
    yield namespace
    yield below(namespace)
    at = namespace.find("/")
    while at >= 0:
        yield namespace[: at + 1]
        at = namespace.find("/", at + 1)


class Rules:
    """The rules of one epoch, indexed for fast checks.

    Rules are only added. So a concurrent reader may find more void entries, never fewer, and needs
    no lock. Only one caller at a time may add rules.
    """

    def __init__(self) -> None:
        self.floors: dict[str, int] = {}
        self._by_key: dict[str, int] = {}
        self._by_tag: dict[tuple[str, str], int] = {}
        # sorted by seq
        self._conditions: list[Rule] = []
        self._count = 0

    def add(self, state: LogState) -> None:
        """Add the rules and floors of *state*."""
        for name, seq in state.floors.items():
            if seq > self.floors.get(name, 0):
                self.floors[name] = seq
        for rule in state.rules:
            self._add_rule(rule)

    def _add_rule(self, rule: Rule) -> None:
        scope = rule.scope
        self._count += 1
        if scope.keys and scope == Scope(keys=scope.keys):
            for key in scope.keys:
                self._by_key[key] = max(rule.seq, self._by_key.get(key, 0))
        elif scope.tags and scope == Scope(tags=scope.tags):
            for tag in scope.tags:
                name = (rule.namespace, tag)
                self._by_tag[name] = max(rule.seq, self._by_tag.get(name, 0))
        elif not self._conditions or self._conditions[-1].seq < rule.seq:
            self._conditions.append(rule)
        elif rule not in self._conditions:
            self._conditions = sorted([*self._conditions, rule], key=operator.attrgetter("seq"))

    @property
    def crowded(self) -> bool:
        """True if most of these rules have left the log, so they should be read again."""
        return self._count > 2 * MAX_RULES

    def void(self, entry: Entry, *, checked: int = 0) -> bool:
        """Return True if a rule or floor makes *entry* void.

        Conditions up to seq *checked* were checked before and are skipped.
        """
        born = entry.born.seq
        floors = self.floors
        if floors and any(floors.get(name, 0) > born for name in floor_names(entry.namespace)):
            return True
        if self._by_key.get(entry.key, 0) > born:
            return True
        if self._by_tag and any(self._by_tag.get((entry.namespace, tag), 0) > born for tag in entry.tags):
            return True
        conditions = self._conditions
        if not conditions or conditions[-1].seq <= (since := max(born, checked)):
            return False
        start = bisect_right(conditions, since, key=operator.attrgetter("seq"))
        return any(rule.namespace == entry.namespace and rule.scope.matches(entry) for rule in conditions[start:])


class View:
    """The state of the log that a process knows at one moment.

    A newer read creates a new view; the position of this one does not change. `position` is a
    unique object. A memory slot that was checked against this view refers to it, and they are
    compared with `is`. A negative epoch means that there is no log, and each such view has a
    different one.
    """

    __slots__ = ("position", "rules")

    def __init__(self, position: Ticket, rules: Rules) -> None:
        # A plain tuple is not tracked by the garbage collector, and neither are the memory slots
        # that contain it.
        self.position: tuple[int, int] = (position.epoch, position.seq)
        self.rules = rules

    @property
    def ticket(self) -> Ticket:
        """The log position for a computation that begins now."""
        return Ticket(*self.position)

    @property
    def known(self) -> bool:
        """True if the log has ever been read."""
        return self.position[0] != UNKNOWN.epoch

    @property
    def empty(self) -> bool:
        """True if the log was read and did not exist."""
        return self.position[0] < 0

    def void(self, entry: Entry, *, checked: tuple[int, int] | None = None) -> bool:
        """Return True if *entry* is void. *checked* is the position of its last check."""
        epoch = self.position[0]
        if entry.born.epoch != epoch:
            return True
        return self.rules.void(entry, checked=checked[1] if checked is not None and checked[0] == epoch else 0)


def leaving(oldest_first: Iterable[tuple[int, int]], *, count: int, size: int, before: int = 0) -> int:
    """Return the newest seq that must be removed from a log; 0 if all rules may stay.

    Args:
        oldest_first: Rules as `(seq, bytes)`. Only those to be removed are read, and one more.
        count: The number of rules.
        size: The size of the rules in bytes.
        before: Rules older than this seq are always removed, because all live entries are newer.
    """
    newest = 0
    for seq, rule_size in oldest_first:
        if count <= MAX_RULES and size <= MAX_LOG_BYTES and seq >= before:
            break
        newest, count, size = seq, count - 1, size - rule_size
    return newest


def folded_floors(floors: Mapping[str, int]) -> dict[str, int]:
    """Return *floors*. If there are too many, the oldest are merged into the floor of all."""
    if len(floors) <= MAX_FLOORS:
        return dict(floors)
    newest = sorted(floors.items(), key=operator.itemgetter(1), reverse=True)
    kept = dict(newest[: MAX_FLOORS // 2])
    kept[EVERYONE] = max(newest[MAX_FLOORS // 2][1], floors.get(EVERYONE, 0))
    return kept


Line: TypeAlias = tuple[int, str, str]
"""A rule in a store: seq, namespace, scope as JSON."""


def rules_of(lines: Iterable[Line]) -> tuple[Rule, ...]:
    """Return the rules in *lines*.

    Raises:
        ValueError: If a rule has a criterion that this release does not know. The entries that the
            rule may void must not be served.
    """
    return tuple(Rule(seq, namespace, Scope.from_json(text)) for seq, namespace, text in lines)


class MemoryLog:
    """A log in this process, for one caller at a time.

    It serves caches without a tier that can store a log, and ends with the process. It also
    represents the log of a store that stores it as a whole: created from its parts, changed here,
    and written back.
    """

    def __init__(self, epoch: int = 1, seq: int = 0, floors: Mapping[str, int] | None = None, lines: Iterable[Line] = ()) -> None:
        self.epoch, self.seq = epoch, seq
        self.floors: dict[str, int] = dict(floors or {})
        self._rules: deque[Line] = deque(lines)
        self._bytes = sum(len(scope) for _, _, scope in self._rules)

    @property
    def lines(self) -> tuple[Line, ...]:
        """All rules, the oldest first."""
        return tuple(self._rules)

    def is_older(self, seen: Ticket) -> bool:
        """Return True if the log was restored from a snapshot, since *seen* is a newer position.

        The rules that it lost are unknown.
        """
        return self.epoch == seen.epoch and self.seq < seen.seq

    def state(self, seen: Ticket) -> LogState:
        """Return the part of the log that is newer than *seen*.

        Raises:
            ValueError: If it contains a rule that this release does not know.
        """
        since = seen.seq if seen.epoch == self.epoch else 0
        newer = takewhile(lambda line: line[0] > since, reversed(self._rules))
        return LogState(self.epoch, self.seq, dict(self.floors), rules_of(newer)[::-1])

    def append(self, namespace: str, scope: Scope | None, *, clock: float, before: int = 0) -> None:
        """Add a rule. Without a *scope*, make all older entries of *namespace* void.

        *clock* is the time in Unix seconds, and *before* is as for `leaving`.
        """
        self.seq = max(self.seq + 1, int(clock * 1e6))
        if scope is not None:
            self._rules.append((self.seq, namespace, text := scope.to_json()))
            self._bytes += len(text)
        else:
            self._raise_floor(namespace, self.seq)
        sizes = ((seq, len(text)) for seq, _, text in self._rules)
        newest = leaving(sizes, count=len(self._rules), size=self._bytes, before=before)
        while self._rules and self._rules[0][0] <= newest:
            seq, name, text = self._rules.popleft()
            self._bytes -= len(text)
            self._raise_floor(name, seq)
        self.floors = folded_floors(self.floors)

    def _raise_floor(self, name: str, seq: int) -> None:
        self.floors[name] = max(seq, self.floors.get(name, 0))
