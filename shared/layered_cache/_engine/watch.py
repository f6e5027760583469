"""What this process knows of the invalidation log, and how far it may be trusted.

A look reads what is newer. A daemon looks once a second while the cache is used; a call that finds the last look older than
`max_staleness` looks before it serves. So an invalidation holds in its own process at once, and in others within `max_staleness`.

When the log cannot be read, the last view is good enough for `max_unverified` (every hit is counted and told of), then nothing is
served; with `strict_invalidation`, nothing is served at once. A process that has never read the log serves from memory what it
computed itself, no longer than that, and drops it at its first look.

Views only go forward. A look that began before another one ended may bring less than is known: it is ignored. A log that is older
than it was, with nobody having looked meanwhile, came back from a snapshot: it gets a new epoch, and everything starts cold.
"""

from __future__ import annotations

import enum
import secrets
import threading
import weakref
from concurrent.futures import Future
from typing import TYPE_CHECKING, cast

from layered_cache import _forks
from layered_cache._engine.blocking import Blocking
from layered_cache._engine.effects import Effects, run
from layered_cache._engine.telling import Teller
from layered_cache.clocks import Clock
from layered_cache.entry import Ticket
from layered_cache.errors import TierError
from layered_cache.events import Event
from layered_cache.invalidation import UNKNOWN, LogState, MemoryLog, Rules, Scope, View
from layered_cache.stats import Counters
from layered_cache.tiers._tier import Authority

if TYPE_CHECKING:
    from layered_cache.policy import Policy

_EVERY = 1.0  # seconds between two looks of the daemon, and between two tries while the log cannot be read
_UNUSED = 60.0  # seconds after which it stops looking


def _never() -> bool:
    return False


class Trust(enum.Enum):
    """What may be served at this moment."""

    ALL = "what the view does not void"
    UNVERIFIED = "the same, each hit to be counted"
    OWN = "what this process computed itself, from memory"
    NOTHING = "nothing"


class LocalAuthority:
    """The log of a cache without a tier that can keep one. It never blocks and is never stale.

    Nobody else reads it, and it ends with the process. If other processes may see the tiers, its epoch is a random one: what is
    stored under it is void for all others, since nobody could tell them what is not true any more.
    """

    name = "process"
    timeout = 0.0
    log_is_durable = False

    def __init__(self, clock: Clock, *, epoch: int = 1) -> None:
        self._clock = clock
        self._log = MemoryLog(epoch)
        self.after_fork()
        _forks.restart_in_child(self)

    def after_fork(self) -> None:
        """Begin with a new lock."""
        self._lock = threading.Lock()

    def read_log(self, seen: Ticket) -> LogState:
        """See Authority."""
        with self._lock:
            return self._log.state(seen)

    open_log = restart_log = read_log

    def append_log(self, namespace: str, scope: Scope | None, seen: Ticket, before: int) -> LogState:
        """See Authority."""
        with self._lock:
            self._log.append(namespace, scope, clock=self._clock.time(), before=before)
            return self._log.state(seen)

    async def aread_log(self, seen: Ticket) -> LogState:
        """See read_log."""
        return self.read_log(seen)

    aopen_log = arestart_log = aread_log

    async def aappend_log(self, namespace: str, scope: Scope | None, seen: Ticket, before: int) -> LogState:
        """See append_log."""
        return self.append_log(namespace, scope, seen, before)


class Watch:
    """Keeps the view of one engine.

    Args:
        authority: Who keeps the log; None: this process does.
        policy: How stale it may be.
        clock: The engine's.
        tell: Takes events.
        counters: Tell whether the cache is used.
        shared_tiers: Whether there are tiers that other processes may see.
    """

    def __init__(
        self,
        authority: Authority | None,
        policy: Policy,
        clock: Clock,
        tell: Teller,
        counters: Counters,
        *,
        shared_tiers: bool,
    ) -> None:
        local = LocalAuthority(clock, epoch=1 if not shared_tiers else secrets.randbits(62) + 2)
        self.authority: Authority = local if authority is None else authority
        self.view = View(UNKNOWN, Rules())
        self.good_until = float("-inf")  # monotonic; read on the way to every hit
        self._shared = authority is not None
        self._policy = policy
        self._clock = clock
        self._tell = tell
        self._counters = counters
        self._blocking = Blocking()
        self._looked_at = float("-inf")
        self._asked_at = float("inf")  # when somebody first wanted to know
        self._retry_at = float("-inf")  # when to look again after the log could not be read
        self._make_at = float("-inf")  # when to make it after it could not be made: it may be read all the same
        self._emptinesses = 0
        self._closed = threading.Event()
        self.after_fork()
        _forks.restart_in_child(self)

    def after_fork(self) -> None:
        """Look before anything is served: time has passed in an unknown way."""
        closed, self._closed = self._closed.is_set(), threading.Event()
        if closed:
            self._closed.set()
        self._lock = threading.Lock()
        self._looking: Future[bool | None] | None = None
        self._daemon: threading.Thread | None = None
        if self._shared:
            self.good_until = float("-inf")

    def close(self) -> None:
        """End the daemon."""
        self._closed.set()

    # --- looking

    async def current(self, fx: Effects) -> tuple[View, Trust]:
        """Return the view to serve by, newer than `max_staleness` if the log can be read, and what may be served."""
        now = self._clock.monotonic()
        if now < self.good_until:
            return self.view, Trust.ALL
        # a look of this very call is as new as can be, however little staleness is allowed
        if now >= self._retry_at and await self._look(fx):
            return self.view, Trust.ALL
        self._asked_at = min(self._asked_at, now)  # before anything was computed
        if self._policy.strict_invalidation:
            return self.view, Trust.NOTHING
        trust, since = (Trust.UNVERIFIED, self._looked_at) if self.view.known else (Trust.OWN, self._asked_at)
        lately = self._clock.monotonic() - since <= cast("float", self._policy.max_unverified)
        return self.view, trust if lately else Trust.NOTHING

    async def _look(self, fx: Effects) -> bool:
        """Read what is newer; with others who want the same, once. Return whether the log could be read.

        A look that was under way may have begun long before this call: it will do if it is new enough for `max_staleness`.
        """
        oldest = self._clock.monotonic() - cast("float", self._policy.max_staleness)
        while True:
            mine: Future[bool | None] = Future()
            mine.set_running_or_notify_cancel()  # a follower's cancellation stays its own
            with self._lock:
                under_way = self._looking
                if under_way is None:
                    self._looking = mine
            if under_way is None:
                return await self._lead(fx, mine, oldest)
            if not fx.may_wait():
                return await self._read(fx, oldest)
            if not await fx.join(under_way, _EVERY, _never):
                with self._lock:  # its looker was stopped for good: make room
                    if self._looking is under_way:
                        self._looking = None
            elif (ended := under_way.result()) is False or (ended and self._looked_at >= oldest):
                return ended
            # else: its looker was cancelled before it knew, or had been under way for too long

    async def _lead(self, fx: Effects, mine: Future[bool | None], oldest: float) -> bool:
        ended = None
        try:
            ended = await self._read(fx, oldest)
        except GeneratorExit:  # the collector, in the middle of anything: no lock may be taken, who follows gives up by himself
            raise
        except BaseException:
            self._looked(mine, None)
            raise
        self._looked(mine, ended)
        return ended

    def _looked(self, mine: Future[bool | None], ended: bool | None) -> None:  # noqa: FBT001 - an outcome
        with self._lock:
            if self._looking is mine:
                self._looking = None
        mine.set_result(ended)

    async def _read(self, fx: Effects, oldest: float) -> bool:
        """Read what is newer, until this or somebody else's look that began at *oldest* or later is taken in."""
        while True:
            before, started = self.view, self._clock.monotonic()
            seen = UNKNOWN if before.rules.crowded else before.ticket
            try:
                state = await fx.read_log(self.authority, seen)
                if state.epoch == before.position[0] and state.seq < before.position[1] and self.view is before:
                    state = await fx.restart_log(self.authority, before.ticket)
            except TierError as error:
                self._retry_at = self._clock.monotonic() + _EVERY
                self.failed(error)
                return False
            self._tell.succeeded("log", self.authority.name)
            self._adopt(state, before, seen, started)
            if self._looked_at >= oldest:
                return True

    def failed(self, error: TierError) -> None:
        """Record that the log could not be read or written."""
        if self._policy.strict_invalidation:
            consequence = "no entry is served until it is available"
        elif self.view.known:
            consequence = f"hits are served unverified for at most {self._policy.max_unverified:g} s"
        else:
            consequence = "tiers below memory are not used until it was read once"
        self._tell.log_failed(error, consequence)

    # --- what is known

    def _adopt(self, state: LogState, before: View, seen: Ticket, started: float) -> None:
        """Take in what a look brought that began at *started*, when the view was *before*, and asked for more than *seen*."""
        restarted = False
        with self._lock:
            now = self.view
            epoch, seq = now.position
            if state.epoch == UNKNOWN.epoch:  # there is no log
                if not now.empty:
                    if now is not before:
                        return
                    restarted = now.known
                    self._emptinesses += 1
                    self.view = View(Ticket(-self._emptinesses, 0), Rules())
            elif state.epoch == epoch:
                if state.seq >= seq:  # else this look is late: others know more
                    anew = seen == UNKNOWN and now.rules.crowded
                    rules = Rules() if anew else now.rules
                    rules.add(state)
                    if state.seq > seq or anew:
                        self.view = View(Ticket(epoch, state.seq), rules)
            elif now is before:
                restarted = now.known and not now.empty
                rules = Rules()
                rules.add(state)
                self.view = View(Ticket(state.epoch, state.seq), rules)
            else:
                return  # late, and of another epoch than what others found meanwhile: let the next look tell
            self._looked_at = max(self._looked_at, started)
            self._retry_at = float("-inf")
            fresh_for = cast("float", self._policy.max_staleness) if self._shared else float("inf")
            self.good_until = max(self.good_until, started + fresh_for)
        if restarted:
            self._tell(Event(kind="log_restarted", reason="it was lost or came back older: everything starts cold, once"))
        self._start_daemon()

    async def ticket(self, fx: Effects) -> Ticket:
        """Return what a computation that begins now is born with, newer than `max_staleness` if the log can be read.

        Makes the log if there is none: a computation that began without one could not tell later whether another log came, and
        went with its rules, before the one that it finds. While there is none all the same, or it was never read, the epoch
        is not above zero: such entries may be held in memory only.
        """
        await self.current(fx)
        before, started = self.view, self._clock.monotonic()
        if before.empty and started >= max(self._retry_at, self._make_at):
            try:
                self._adopt(await fx.open_log(self.authority, before.ticket), before, before.ticket, started)
            except TierError as error:
                self._make_at = self._clock.monotonic() + _EVERY
                self.failed(error)
        return self.view.ticket

    async def append(self, fx: Effects, namespace: str, scope: Scope | None, before_seq: int) -> int:
        """Write a rule, or without a *scope* raise the floor of *namespace*; return its seq. In this process it holds at once.

        Raises:
            TierError: It could not be written.
        """
        before, started = self.view, self._clock.monotonic()
        seen = UNKNOWN if before.rules.crowded else before.ticket
        state = await fx.append_log(self.authority, namespace, scope, seen, before_seq)
        self._adopt(state, before, seen, started)
        if self.view.position[0] != state.epoch:
            # a look of another epoch came between. The rule holds here at once: until the next look, all is void
            with self._lock:
                self._emptinesses += 1
                self.view = View(Ticket(-self._emptinesses, 0), Rules())
                self.good_until = self._retry_at = float("-inf")
        return state.seq

    # --- the daemon

    def _start_daemon(self) -> None:
        if not self._shared or not self._clock.runs_by_itself or self._closed.is_set():
            return
        with self._lock:
            if self._daemon is not None and self._daemon.is_alive():
                return
            self._daemon = threading.Thread(
                target=_keep_looking, args=(weakref.ref(self), self._closed), name="layered-cache log", daemon=True
            )
            try:
                self._daemon.start()
            except RuntimeError:  # the interpreter is on its way out
                self._daemon = None

    def look_now(self) -> int:
        """Look, from the daemon; return the number that changes with use."""
        run(self._look(self._blocking))
        return self._counters.uses


def _keep_looking(watch: weakref.ref[Watch], closed: threading.Event) -> None:
    uses, unused = -1, 0.0
    while not closed.wait(_EVERY):
        if (alive := watch()) is None:
            return
        if (now := alive.look_now()) == uses:
            unused += _EVERY
            if unused >= _UNUSED:
                return
        else:
            uses, unused = now, 0.0
        del alive
