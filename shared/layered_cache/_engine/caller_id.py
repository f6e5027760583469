"""Identities of callers, to recognize two calls of the same caller."""

from __future__ import annotations

import asyncio
import threading
import weakref

# a callback of the loop runs outside of any task
_NO_TASK = object()


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the loop that runs in this thread, or None."""
    # get_running_loop, without the cost of an exception
    return asyncio._get_running_loop()  # noqa: SLF001


def this_thread() -> object:
    """Return the identity of this thread."""
    return threading.get_ident()


def this_task() -> object:
    """Return an identity of the running task.

    It is a weak reference: it does not keep the task alive, and no later task equals it. The `id`
    of a task that has ended is given to a later one.
    """
    task = asyncio.current_task()
    return _NO_TASK if task is None else weakref.ref(task)


def works_for(loop: asyncio.AbstractEventLoop) -> bool:
    """Return True if this thread belongs to the executor of *loop*.

    A task of *loop* may be waiting for such a thread to become free.
    """
    me = threading.current_thread()
    # threads of web frameworks; coroutines may need one of these too
    if me.name.startswith("AnyIO"):
        return True
    nowhere = object()
    executor = getattr(loop, "_default_executor", nowhere)
    if executor is None:
        return False
    # Threads are recognized by name, because a thread runs before its pool has registered it. If a
    # loop does not expose its pool, every pool thread may belong to it.
    prefix: str | None = getattr(executor, "_thread_name_prefix", None)
    return me.name.startswith(("asyncio_", "ThreadPoolExecutor-") if prefix is None else f"{prefix}_")


def caller() -> object:
    """Return the identity of the running task, or of this thread outside of a task."""
    return this_thread() if running_loop() is None else this_task()
