"""The view of the invalidation log in this process, and its trust level.

A refresh reads the rules that are new in the log. A daemon refreshes the view once a second while
the cache is used. A call refreshes it first if the last refresh is older than `max_staleness`. So
an invalidation takes effect in its own process at once, and in other processes within
`max_staleness`.

If the log cannot be read, the last view is used for `max_unverified`, and every hit is counted and
reported. After that nothing is served. With `strict_invalidation` nothing is served from the start.
A process that has never read the log serves only the entries that it computed itself, from memory
and for the same time. It drops them at its first refresh.

Views never go backwards. A refresh that began before a newer one ended may return less than is
known, so its result is ignored. If the log is older than before, and no other refresh ran in
between, it was restored from a snapshot. It then gets a new epoch, and all entries become void
once.
"""

from __future__ import annotations

import enum
import secrets
import threading
import weakref
from concurrent.futures import Future
from typing import TYPE_CHECKING, cast

from layered_cache._engine.recorder import Teller
from layered_cache._engine.runtime import Effects, run
from layered_cache._engine.runtime_threads import Blocking
from layered_cache._storage.rules import UNKNOWN, LogState, MemoryLog, Rules, Scope, View
from layered_cache._util import fork_safety
from layered_cache._util.clocks import Clock
from layered_cache.entry import Ticket
from layered_cache.errors import TierError
from layered_cache.events import Event
from layered_cache.stats import Counters
from layered_cache.tiers.base import Authority

if TYPE_CHECKING:
    from layered_cache.policy import Policy

# seconds between two refreshes by the daemon, and between two attempts to read a failing log
_EVERY = 1.0
# seconds without use of the cache after which the daemon ends
_UNUSED = 60.0


def _never() -> bool:
    return False


class Trust(enum.Enum):
    """The entries that may be served at this moment."""

    ALL = "entries that the view does not void"
    UNVERIFIED = "the same, and each hit is counted"
    OWN = "entries in memory that this process computed itself"
    NOTHING = "nothing"


class LocalAuthority:
    """The log of a cache if no tier can store one. It never blocks and is never stale.

    No other process reads it, and it ends with the process. If other processes can read the tiers,
    the epoch is random. Other processes then ignore the entries of this one, because they share no
    invalidation log.
    """

    name = "process"
    timeout = 0.0
    log_is_durable = False

    def __init__(self, clock: Clock, *, epoch: int = 1) -> None:
        self._clock = clock
        self._log = MemoryLog(epoch)
        self.after_fork()
        fork_safety.restart_in_child(self)

    def after_fork(self) -> None:
        """Start with a new lock."""
        self._lock = threading.Lock()

    def read_log(self, seen: Ticket) -> LogState:
        """Return the state of the log."""
        with self._lock:
            return self._log.state(seen)

    open_log = restart_log = read_log

    def append_log(self, namespace: str, scope: Scope | None, seen: Ticket, before: int) -> LogState:
        """Add a rule and return the new state."""
        with self._lock:
            self._log.append(namespace, scope, clock=self._clock.time(), before=before)
            return self._log.state(seen)

    async def aread_log(self, seen: Ticket) -> LogState:
        """Return the state of the log."""
        return self.read_log(seen)

    aopen_log = arestart_log = aread_log

    async def aappend_log(self, namespace: str, scope: Scope | None, seen: Ticket, before: int) -> LogState:
        """Add a rule and return the new state."""
        return self.append_log(namespace, scope, seen, before)


class Watch:
    """Keeps the view of the log for one engine.

    Args:
        authority: The tier that stores the log. None means that this process stores it.
        policy: The limits of staleness.
        clock: The clock of the engine.
        tell: Records events.
        counters: The counters, which show if the cache is used.
        shared_tiers: True if other processes can read the tiers.
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
        # monotonic time; read on the path of every hit
        self.good_until = float("-inf")
        self._shared = authority is not None
        self._policy = policy
        self._clock = clock
        self._tell = tell
        self._counters = counters
        self._blocking = Blocking()
        self._looked_at = float("-inf")
        # the time of the first request while the log is unknown
        self._asked_at = float("inf")
        # the next attempt to read the log after a failure
        self._retry_at = float("-inf")
        # the next attempt to create the log after a failure; reading it may still work
        self._make_at = float("-inf")
        self._emptinesses = 0
        self._closed = threading.Event()
        self.after_fork()
        fork_safety.restart_in_child(self)

    def after_fork(self) -> None:
        """Refresh the view before anything is served: an unknown time has passed."""
        closed, self._closed = self._closed.is_set(), threading.Event()
        if closed:
            self._closed.set()
        self._lock = threading.Lock()
        self._looking: Future[bool | None] | None = None
        self._daemon: threading.Thread | None = None
        if self._shared:
            self.good_until = float("-inf")

    def close(self) -> None:
        """Stop the daemon."""
        self._closed.set()

    # --- refreshing

    async def current(self, fx: Effects) -> tuple[View, Trust]:
        """Return the current view and its trust level.

        The view is newer than `max_staleness` if the log can be read.
        """
        now = self._clock.monotonic()
        if now < self.good_until:
            return self.view, Trust.ALL
        # A refresh of this very call is always new enough, however small `max_staleness` is.
        if now >= self._retry_at and await self._look(fx):
            return self.view, Trust.ALL
        # set before an answer is computed
        self._asked_at = min(self._asked_at, now)
        if self._policy.strict_invalidation:
            return self.view, Trust.NOTHING
        trust, since = (Trust.UNVERIFIED, self._looked_at) if self.view.known else (Trust.OWN, self._asked_at)
        lately = self._clock.monotonic() - since <= cast("float", self._policy.max_unverified)
        return self.view, trust if lately else Trust.NOTHING

    async def _look(self, fx: Effects) -> bool:
        """Refresh the view, together with concurrent callers. Return True if the log could be read.

        A refresh in flight may have begun long before this call. Its result is used only if it is
        new enough for `max_staleness`.
        """
        oldest = self._clock.monotonic() - cast("float", self._policy.max_staleness)
        while True:
            mine: Future[bool | None] = Future()
            # a follower that is cancelled does not cancel the future
            mine.set_running_or_notify_cancel()
            with self._lock:
                under_way = self._looking
                if under_way is None:
                    self._looking = mine
            if under_way is None:
                return await self._lead(fx, mine, oldest)
            if not fx.may_wait():
                return await self._read(fx, oldest)
            if not await fx.join(under_way, _EVERY, _never):
                # its leader was stopped for good, so it is removed
                with self._lock:
                    if self._looking is under_way:
                        self._looking = None
            elif (ended := under_way.result()) is False or (ended and self._looked_at >= oldest):
                return ended
            # Otherwise the leader was cancelled, or its refresh took too long.

    async def _lead(self, fx: Effects, mine: Future[bool | None], oldest: float) -> bool:
        ended = None
        try:
            ended = await self._read(fx, oldest)
        except GeneratorExit:
            # The garbage collector closes the coroutine at any point, so no lock may be taken.
            # Followers stop waiting after a timeout.
            raise
        except BaseException:
            self._looked(mine, None)
            raise
        self._looked(mine, ended)
        return ended

    # a result
    def _looked(self, mine: Future[bool | None], ended: bool | None) -> None:  # noqa: FBT001
        with self._lock:
            if self._looking is mine:
                self._looking = None
        mine.set_result(ended)

    async def _read(self, fx: Effects, oldest: float) -> bool:
        """Read the new rules until a refresh was applied that began at *oldest* or later.

        The refresh may be this one or a concurrent one.
        """
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

    # --- the view

    def _adopt(self, state: LogState, before: View, seen: Ticket, started: float) -> None:
        """Merge the result of a refresh into the view.

        The refresh began at *started*, when the view was *before*, and read the rules newer than
        *seen*.
        """
        restarted = False
        with self._lock:
            now = self.view
            epoch, seq = now.position
            # the log does not exist
            if state.epoch == UNKNOWN.epoch:
                if not now.empty:
                    if now is not before:
                        return
                    restarted = now.known
                    self._emptinesses += 1
                    self.view = View(Ticket(-self._emptinesses, 0), Rules())
            elif state.epoch == epoch:
                # a smaller number is a late result: a concurrent refresh has read more
                if state.seq >= seq:
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
                # A late result with another epoch than a concurrent refresh: the next refresh
                # decides.
                return
            self._looked_at = max(self._looked_at, started)
            self._retry_at = float("-inf")
            fresh_for = cast("float", self._policy.max_staleness) if self._shared else float("inf")
            self.good_until = max(self.good_until, started + fresh_for)
        if restarted:
            self._tell(Event(kind="log_restarted", reason="the log was lost or restored from an older state: all entries are void once"))
        self._start_daemon()

    async def ticket(self, fx: Effects) -> Ticket:
        """Return the log position for a computation that starts now.

        It is newer than `max_staleness` if the log can be read. The log is created if it does not
        exist. A computation without a log could not detect later that a log was created, filled
        with rules and lost again before the log that it finds. As long as there is no log, or it
        was never read, the epoch is not above zero. Entries with such an epoch are held in memory
        only.
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
        """Write a rule and return its sequence number. It takes effect in this process at once.

        Without a *scope* the rule makes all older entries of *namespace* void.

        Raises:
            TierError: If the rule could not be written.
        """
        before, started = self.view, self._clock.monotonic()
        seen = UNKNOWN if before.rules.crowded else before.ticket
        state = await fx.append_log(self.authority, namespace, scope, seen, before_seq)
        self._adopt(state, before, seen, started)
        if self.view.position[0] != state.epoch:
            # A refresh read another epoch in between. The rule takes effect here at once: all
            # entries are void until the next refresh.
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
            except RuntimeError:
                # the interpreter is shutting down
                self._daemon = None

    def look_now(self) -> int:
        """Refresh the view for the daemon; return a number that changes with use."""
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
