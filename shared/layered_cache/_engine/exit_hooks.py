"""Write the queues of this process before it ends.

The interpreter runs `atexit` handlers at its end. A child process of multiprocessing does not: it
runs finalizers. The workers of a pool get SIGTERM as soon as their last task is done, so such a
child handles SIGTERM too, unless the application does.
"""

from __future__ import annotations

import atexit
import os
import signal
import socket
import sys
import threading
import time
import weakref
from contextlib import suppress
from typing import Protocol

# seconds that the end of the process, or of a cache, waits
EXIT = 2.0

# seconds between two attempts to interrupt the main thread
_REPEAT = 0.02


class Closable(Protocol):
    """A queue that can write its rest."""

    def close(self, timeout: float) -> None:
        """Write the rest, for *timeout* seconds at most."""
        ...


_queues: weakref.WeakSet[Closable] = weakref.WeakSet()
_prepared_in = 0
_ending = False
_wakeup: socket.socket | None = None


def register(queue: Closable) -> None:
    """Add *queue* to the queues that are closed at exit. It is not kept alive."""
    _queues.add(queue)


def write_at_exit() -> None:
    """Install the hooks in this process, once.

    The end of the process waits `EXIT` seconds for all registered queues together.
    """
    global _prepared_in  # noqa: PLW0603 - one per process
    if _prepared_in == os.getpid():
        return
    _prepared_in = os.getpid()
    atexit.unregister(_at_exit)
    atexit.register(_at_exit)
    if (process := sys.modules.get("multiprocessing.process")) is not None and process.parent_process() is not None:
        sys.modules["multiprocessing.util"].Finalize(None, _at_exit, exitpriority=100)
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and signal.getsignal(signal.SIGTERM) in (signal.SIG_DFL, _at_signal):
            signal.signal(signal.SIGTERM, _at_signal)
            _interrupt_blocking_calls()


def _at_exit() -> None:
    deadline = time.monotonic() + EXIT
    for queue in list(_queues):
        queue.close(max(0.0, deadline - time.monotonic()))


def _at_signal(number: int, _frame: object) -> None:
    # one per process; an Event has a lock, which a handler must not take
    global _ending  # noqa: PLW0603
    if _ending:
        return
    _ending = True
    # in a thread: the interrupted main thread may hold a lock that the queues need
    writing = threading.Thread(target=_at_exit, name="layered-cache last writes", daemon=True)
    with suppress(RuntimeError):
        writing.start()
        writing.join(EXIT)
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _interrupt_blocking_calls() -> None:
    """Make sure that the handler of SIGTERM runs if the main thread starts to block.

    Python runs handlers in the main thread, between two instructions. A signal that arrives just
    before a blocking call only sets a flag: the call blocks and the handler does not run. A worker
    of a pool waits for its next task at that moment, so the pool never ended. The wake-up
    descriptor is written by the signal itself. A thread reads it and repeats the signal until the
    handler runs. An application that uses the descriptor keeps it. Without a descriptor or a thread
    there is no such protection.
    """
    global _wakeup  # noqa: PLW0603 - one per process
    # Windows
    if not hasattr(signal, "pthread_kill"):
        return
    try:
        reader, writer = socket.socketpair()
    except OSError:
        return
    writer.settimeout(0)
    other = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    thread = threading.Thread(target=_repeat_signal, args=(reader, threading.get_ident()), name="layered-cache signals", daemon=True)
    try:
        if other == -1:
            thread.start()
            _wakeup = writer
            return
    except RuntimeError:
        # no thread can be started
        pass
    signal.set_wakeup_fd(other)
    reader.close()
    writer.close()


def _repeat_signal(reader: socket.socket, main: int) -> None:
    """Wait for SIGTERM, then repeat it in the thread *main* until the handler runs.

    It stops too if the application has replaced the handler.
    """
    while signal.SIGTERM not in (numbers := reader.recv(64)):
        if not numbers:
            return
    time.sleep(_REPEAT)
    while not _ending and signal.getsignal(signal.SIGTERM) is _at_signal:
        signal.pthread_kill(main, signal.SIGTERM)
        time.sleep(_REPEAT)


def _after_fork() -> None:
    """Leave the wake-up descriptor to the parent, which would get this child's signals."""
    global _wakeup, _ending  # noqa: PLW0603 - one per process
    _ending = False
    if _wakeup is not None:
        # not in the main thread
        with suppress(ValueError):
            if (other := signal.set_wakeup_fd(-1)) != _wakeup.fileno():
                signal.set_wakeup_fd(other)
        _wakeup = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
