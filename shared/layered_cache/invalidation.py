"""Which entries are void. Pure: no clock, no tier, no lock.

Delete, tags, model, prompt, time range and namespace are one idea: an append-only log of rules, kept by the authority (the
slowest tier that can). Each rule has a `seq` that is never used again, the log has a random `epoch`, and each entry says what
its process knew of the log when its computation began: `born`.

An entry is void iff its epoch is not the log's, or it was born before the floor of its namespace, or a rule newer than its
birth matches it. No clocks of two machines are compared, no sweep is needed: an answer that was computed before an
invalidation and stored after it is void wherever and whenever it lands.

The log is bounded. Rules that leave it raise the floor of their namespace; floors that leave raise the floor of everyone. Both
can only void more, never less.
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

EVERYONE = ""  # the floor of all namespaces
UNKNOWN = Ticket(0, 0)  # the log was never read


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What a rule voids: entries that meet every criterion that is given.

    `keys` and `tags`: any of them. `model`: a glob. `prompt`: the digest of the last user message, in hex. `created_before` and
    `created_after`: Unix seconds of the start of the computation; the former exclusive, the latter inclusive.
    """

    keys: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    model: str | None = None
    prompt: str | None = None
    created_before: float | None = None
    created_after: float | None = None

    def __post_init__(self) -> None:
        # a rule of a wrong type would fail in every process that reads it, for as long as it lives
        for name in ("keys", "tags"):
            texts = getattr(self, name)
            if type(texts) is not tuple or not all(isinstance(text, str) for text in cast("tuple[object, ...]", texts)):
                msg = f"{name} must be texts, not {texts!r}"
                raise ConfigurationError(msg)
        for name in ("model", "prompt"):
            if not isinstance(text := getattr(self, name), str | None):
                msg = f"{name} must be a text, not a {type(text).__qualname__}"
                raise ConfigurationError(msg)
        for name in ("created_before", "created_after"):
            moment = getattr(self, name)
            if isinstance(moment, bool) or not isinstance(moment, int | float | None) or moment != moment:  # noqa: PLR0124 - NaN
                msg = f"{name} must be Unix seconds or an aware datetime, not {moment!r}"
                raise ConfigurationError(msg)

    def __bool__(self) -> bool:
        return any(getattr(self, criterion.name) not in ((), None) for criterion in fields(self))

    def matches(self, entry: Entry) -> bool:
        """Whether *entry* meets every criterion; without any, everything does."""
        return (
            (not self.keys or entry.key in self.keys)
            and (not self.tags or not set(self.tags).isdisjoint(entry.tags))
            and (self.model is None or (entry.model is not None and _glob(self.model)(entry.model) is not None))
            and (self.prompt is None or entry.prompt_digest.hex() == self.prompt)
            and (self.created_before is None or entry.created_at < self.created_before)
            and (self.created_after is None or entry.created_at >= self.created_after)
        )

    def to_json(self) -> str:
        """Return it as JSON, criteria that are not given left out."""
        return json.dumps({name: value for name, value in asdict(self).items() if value not in ((), None)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Scope:
        """Return the scope that `to_json` wrote.

        Raises:
            ValueError: It holds a criterion that this release does not know.
        """
        found: Any = json.loads(text)
        if type(found) is not dict:
            msg = "a rule is no set of criteria"
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
    """One line of the log: what is void in a namespace, and since when."""

    seq: int
    namespace: str
    scope: Scope


@dataclass(frozen=True, slots=True)
class LogState:
    """What a look at the log brought: all rules newer than what the looker had seen (all, if it had seen another epoch).

    `epoch` 0: there is no log yet.
    """

    epoch: int
    seq: int = 0
    floors: Mapping[str, int] = field(default_factory=dict[str, int])
    rules: tuple[Rule, ...] = ()

    def __post_init__(self) -> None:
        numbers = (self.epoch, self.seq, *self.floors.values(), *(rule.seq for rule in self.rules))
        texts = (*self.floors, *(rule.namespace for rule in self.rules))
        if not all(type(number) is int for number in numbers) or not all(type(text) is str for text in texts):
            msg = "a log gives what no log would hold"  # a store may give back anything
            raise ValueError(msg)


def below(namespace: str) -> str:
    """Return the name of the floor of *namespace* and of all that are below it."""
    return namespace + "/"


def floor_names(namespace: str) -> Iterator[str]:
    """Yield the names of the floors that hold for *namespace*: everyone's, its own, and those of what it is below."""
    yield EVERYONE
    yield namespace
    yield below(namespace)
    at = namespace.find("/")
    while at >= 0:
        yield namespace[: at + 1]
        at = namespace.find("/", at + 1)


class Rules:
    """The live rules of one epoch, for fast answers.

    They only ever become more: whoever reads while another adds sees more void, never less, and needs no lock. Adding is for one
    at a time.
    """

    def __init__(self) -> None:
        self.floors: dict[str, int] = {}
        self._by_key: dict[str, int] = {}
        self._by_tag: dict[tuple[str, str], int] = {}
        self._conditions: list[Rule] = []  # in the order of seq
        self._count = 0

    def add(self, state: LogState) -> None:
        """Take in what a look at the log brought."""
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
        """Whether rules that have left the log make up most of it: time to build it anew."""
        return self._count > 2 * MAX_RULES

    def void(self, entry: Entry, *, checked: int = 0) -> bool:
        """Whether a rule or floor voids *entry*; conditions up to seq *checked* are known not to."""
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
    """What a process knows of the log at one moment. A newer look makes a new view; this one does not change its position.

    `position` is an object of its own: a memory slot that was checked against this view holds it, and `is` tells.
    An epoch below zero stands for the absence of a log, each time another one.
    """

    __slots__ = ("position", "rules")

    def __init__(self, position: Ticket, rules: Rules) -> None:
        # a plain tuple: the garbage collector forgets it, and with it the memory slots that hold it
        self.position: tuple[int, int] = (position.epoch, position.seq)
        self.rules = rules

    @property
    def ticket(self) -> Ticket:
        """What a computation that begins now is born with."""
        return Ticket(*self.position)

    @property
    def known(self) -> bool:
        """Whether the log has ever been read."""
        return self.position[0] != UNKNOWN.epoch

    @property
    def empty(self) -> bool:
        """Whether the log was read and there was none."""
        return self.position[0] < 0

    def void(self, entry: Entry, *, checked: tuple[int, int] | None = None) -> bool:
        """Whether *entry* is void; *checked* is the position of the view it was last found good at."""
        epoch = self.position[0]
        if entry.born.epoch != epoch:
            return True
        return self.rules.void(entry, checked=checked[1] if checked is not None and checked[0] == epoch else 0)


def leaving(oldest_first: Iterable[tuple[int, int]], *, count: int, size: int, before: int = 0) -> int:
    """Return the newest seq that has to leave a log; 0 if all rules may stay.

    Args:
        oldest_first: Rules as `(seq, bytes)`; only those that leave are looked at, and one more.
        count: How many there are.
        size: Their bytes.
        before: Rules older than this seq leave in any case: no living entry predates them.
    """
    newest = 0
    for seq, rule_size in oldest_first:
        if count <= MAX_RULES and size <= MAX_LOG_BYTES and seq >= before:
            break
        newest, count, size = seq, count - 1, size - rule_size
    return newest


def folded_floors(floors: Mapping[str, int]) -> dict[str, int]:
    """Return *floors*, the oldest folded into everyone's where there are too many."""
    if len(floors) <= MAX_FLOORS:
        return dict(floors)
    newest = sorted(floors.items(), key=operator.itemgetter(1), reverse=True)
    kept = dict(newest[: MAX_FLOORS // 2])
    kept[EVERYONE] = max(newest[MAX_FLOORS // 2][1], floors.get(EVERYONE, 0))
    return kept


Line: TypeAlias = tuple[int, str, str]
"""A rule as a store keeps it: seq, namespace, scope as JSON."""


def rules_of(lines: Iterable[Line]) -> tuple[Rule, ...]:
    """Return the rules that *lines* say.

    Raises:
        ValueError: One has a criterion that this release does not know: whoever does not understand a rule must not serve what it
            may void.
    """
    return tuple(Rule(seq, namespace, Scope.from_json(text)) for seq, namespace, text in lines)


class MemoryLog:
    """A log in this process, for caches without a tier that can keep one; it ends with the process. One caller at a time.

    Or the log of a store that keeps it as a whole: made of its parts, changed here, and written back as its parts.
    """

    def __init__(self, epoch: int = 1, seq: int = 0, floors: Mapping[str, int] | None = None, lines: Iterable[Line] = ()) -> None:
        self.epoch, self.seq = epoch, seq
        self.floors: dict[str, int] = dict(floors or {})
        self._rules: deque[Line] = deque(lines)
        self._bytes = sum(len(scope) for _, _, scope in self._rules)

    @property
    def lines(self) -> tuple[Line, ...]:
        """All rules, oldest first."""
        return tuple(self._rules)

    def is_older(self, seen: Ticket) -> bool:
        """Whether it came back from a snapshot: *seen* of it is newer than it is, and nobody knows what it lost."""
        return self.epoch == seen.epoch and self.seq < seen.seq

    def state(self, seen: Ticket) -> LogState:
        """Return what is newer than *seen*.

        Raises:
            ValueError: It holds a rule that this release does not know.
        """
        since = seen.seq if seen.epoch == self.epoch else 0
        newer = takewhile(lambda line: line[0] > since, reversed(self._rules))
        return LogState(self.epoch, self.seq, dict(self.floors), rules_of(newer)[::-1])

    def append(self, namespace: str, scope: Scope | None, *, clock: float, before: int = 0) -> None:
        """Add a rule; without a *scope*, raise the floor of *namespace*. *clock*: Unix seconds; *before*: as for `leaving`."""
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
