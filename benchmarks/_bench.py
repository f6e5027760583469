"""What the themes share of one run: its effort, a folder, an event loop, a Redis server, peers."""

from __future__ import annotations

import asyncio
import functools
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from benchmarks._race import Effort, NotMeasuredError, Race
from langchain_layered_cache import LayeredCache

_START = 5.0  # seconds that the server may take


class Bench:
    """One run. A context: what it has started ends with it."""

    def __init__(self, effort: Effort) -> None:
        self.effort = effort
        self._stack = ExitStack()
        self._loop = self._stack.enter_context(asyncio.Runner())
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="layered-cache-bench-")))
        self._paths = 0

    def race(self) -> Race:
        """Return a race of this effort."""
        return Race(self.effort, self._loop)

    def path(self) -> Path:
        """Return a path where nothing is yet."""
        self._paths += 1
        return self._folder / str(self._paths)

    def cache(self, *tiers: str) -> LayeredCache:
        """Return a cache of ours, closed at the end."""
        cache = LayeredCache(*tiers)
        self._stack.callback(cache.close)
        return cache

    def some(self, most: int, *, least: int = 1) -> int:
        """Return how many of *most* this effort is worth."""
        return max(least, int(most * self.effort.share))

    @functools.cached_property
    def redis_port(self) -> int:
        """The port of a Redis server of our own, started when it is first asked for.

        Raises:
            NotMeasuredError: There is none on this machine.
        """
        if (program := shutil.which("redis-server")) is None:
            msg = "no redis-server here"
            raise NotMeasuredError(msg)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port: int = free.getsockname()[1]
        command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self._folder)]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._stack.callback(server.wait)
        self._stack.callback(server.terminate)
        deadline = time.monotonic() + _START
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
            except OSError:
                time.sleep(0.01)
            else:
                return port
        msg = "redis-server did not start"
        raise NotMeasuredError(msg)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
