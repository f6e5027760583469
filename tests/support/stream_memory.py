"""The memory of reading a stream. The server has its own process, so that only the client is measured."""

from __future__ import annotations

import gc
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_SERVER = """
import sys
from layered_cache.testing import OpenAIServer

def reply(body):
    asked = body["messages"][-1]["content"] if "messages" in body else str(body["prompt"])
    return "".join(f"word{number % 50} " for number in range(int(asked.split()[-1].strip("[']"))))

with OpenAIServer(reply=reply) as server:
    print(server.url, flush=True)
    sys.stdin.read()
"""


@contextmanager
def word_server() -> Iterator[str]:
    """Yield the URL of a server that answers a question such as "how many? 100" with that many words."""
    process = subprocess.Popen([sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()


def peak(ask: Callable[[str], object], words: int, *, limit: int | None = None) -> int:
    """Return the most bytes that a stream of *words* takes at once.

    If they are more than *limit*, another question is asked, twice at most: background threads of the process are measured too.
    """
    found = _peak(lambda: ask(f"one {words}"))
    for name in ("two", "three") if limit is not None else ():
        if found > limit:
            found = _peak(lambda: ask(f"{name} {words}"))  # noqa: B023 - called at once
    return found


def _peak(call: Callable[[], object]) -> int:
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        call()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
