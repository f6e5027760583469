"""Who is calling, as far as two calls of one caller have to be told from those of another."""

from __future__ import annotations

import asyncio
import threading
import weakref

_NO_TASK = object()  # a callback of the loop runs outside of any task


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the loop that runs in this thread, or None."""
    return asyncio._get_running_loop()  # noqa: SLF001 - get_running_loop, without the cost of an exception


def this_thread() -> object:
    """Return what stands for this thread."""
    return threading.get_ident()


def this_task() -> object:
    """Return an identity of the running task.

    It is a weak reference: it does not keep the task alive, and no later task equals it. The `id` of a task that has ended is given to a
    later one.
    """
    task = asyncio.current_task()
    return _NO_TASK if task is None else weakref.ref(task)


def works_for(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether this thread is one of those to which the tasks of *loop* hand what blocks: a task may be waiting for one to be free."""
    me = threading.current_thread()
    if me.name.startswith("AnyIO"):  # of web frameworks; coroutines may need one of these too
        return True
    nowhere = object()
    executor = getattr(loop, "_default_executor", nowhere)
    if executor is None:
        return False
    # by its name: a thread runs before its pool has noted it; of a loop that does not show its pool every thread of one may be its
    prefix: str | None = getattr(executor, "_thread_name_prefix", None)
    return me.name.startswith(("asyncio_", "ThreadPoolExecutor-") if prefix is None else f"{prefix}_")


def caller() -> object:
    """Return what stands for the running task, or for this thread where there is none."""
    return this_thread() if running_loop() is None else this_task()
