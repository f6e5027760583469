"""Three transports for commands: own connections, redis-py's cluster client, a user's client.

Each takes a list of commands, sends them together, and returns as many replies within a time limit.
An error reply of Redis is returned like any other reply. All other errors are raised as
`TierError`.
"""

from __future__ import annotations

import asyncio
import inspect
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from layered_cache._util import fork_safety
from layered_cache._util.daemon_threads import Workers
from layered_cache.errors import ConfigurationError, MissingClientError
from layered_cache.tiers.redis.asyncio_connection import Lines
from layered_cache.tiers.redis.connect import CONNECTING, Dialer
from layered_cache.tiers.redis.resp import Reply, Wire, is_bad_company, unreachable
from layered_cache.tiers.redis.thread_pool import Pool
from layered_cache.tiers.redis.url import Command, RedisAddress

_THREADS = 8


class Driver(Protocol):
    """Executes commands.

    `scattered`: the keys are on several servers, so a command must have only one key. `lasting`:
    there is no failover to a server that may lack acknowledged writes.
    """

    scattered: bool
    lasting: bool

    def run(self, operation: str, commands: Sequence[Command], seconds: float) -> list[Reply]:
        """Return the replies to *commands*. *operation* is the name in errors."""
        ...

    async def arun(self, operation: str, commands: Sequence[Command], seconds: float) -> list[Reply]:
        """Return the replies to *commands*, like `run`."""
        ...

    def servers(self, seconds: float) -> Sequence[object]:
        """Return an object for each server that holds keys, for `run_on`."""
        ...

    def run_on(self, server: object, operation: str, command: Command, seconds: float) -> Reply:
        """Return the reply of one server to *command*."""
        ...

    def drop(self) -> None:
        """Stop using all connections that are open now, because one of them was out of step."""
        ...

    def close(self) -> None:
        """Close the connections. A later call opens new ones."""
        ...

    def close_mine(self) -> None:
        """Close the connection of the running loop."""
        ...


class Direct:
    """Own connections to one server."""

    scattered = False

    def __init__(self, tier: str, address: RedisAddress, connections: int) -> None:
        self.lasting = address.service is None
        self._tier = tier
        self._wire = Wire()
        dialer = Dialer(address, self._wire)
        self._pool = Pool(tier, dialer, connections)
        self._lines = Lines(tier, dialer)

    def run(self, operation: str, commands: Sequence[Command], seconds: float) -> list[Reply]:
        """Return the replies to *commands*."""
        try:
            replies = self._pool.exchange(self._wire.pack(commands), len(commands), seconds)
        except Exception as error:
            raise unreachable(self._tier, operation, error) from error
        self._judge(replies)
        return replies

    async def arun(self, operation: str, commands: Sequence[Command], seconds: float) -> list[Reply]:
        """Return the replies to *commands*, like `run`."""
        try:
            replies = await self._lines.exchange(self._wire.pack(commands), len(commands), seconds)
        except Exception as error:
            raise unreachable(self._tier, operation, error) from error
        self._judge(replies)
        return replies

    def _judge(self, replies: Sequence[Reply]) -> None:
        for reply in replies:
            if isinstance(reply, Exception) and is_bad_company(reply):
                # after a failover or a change of the password, a new connection may work
                self.drop()
                return

    def servers(self, seconds: float) -> Sequence[object]:  # noqa: ARG002 - there is one server
        """Return the only server."""
        return (None,)

    def run_on(self, server: object, operation: str, command: Command, seconds: float) -> Reply:  # noqa: ARG002
        """Return the reply to *command*."""
        return self.run(operation, [command], seconds)[0]

    def drop(self) -> None:
        """Close all connections."""
        self._pool.drop()
        self._lines.drop()

    close = drop

    def close_mine(self) -> None:
        """Close the connection of the running loop."""
        self._lines.drop_mine()


class Client:
    """Runs a redis-py client in worker threads, so a call never exceeds its timeout.

    Args:
        tier: The tier name in errors.
        make: Returns the client. It may block and do I/O.
        scattered: True for the client of a cluster.
        theirs: An asynchronous client of the user, for the loop of its first use.
    """

    def __init__(self, tier: str, make: Callable[[], Any], *, scattered: bool, owned: bool, theirs: Any = None) -> None:  # noqa: ANN401
        self.scattered = scattered
        # the servers of a user's client are unknown
        self.lasting = False
        self._tier = tier
        self._make = make
        self._owned = owned
        self._theirs = theirs
        self._their_loop: weakref.ref[asyncio.AbstractEventLoop] | None = None
        self._workers = Workers(tier, _THREADS)
        self._client: Any = None
        fork_safety.restart_in_child(self)

    def after_fork(self) -> None:
        """Create a new client in the child."""
        if self._owned:
            self._client = None

    def _carry_out(self, commands: Sequence[Command]) -> list[Reply]:
        client = self._made()
        if len(commands) == 1:
            return [_answer(client, commands[0])]
        pipeline = client.pipeline() if self.scattered else client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return pipeline.execute(raise_on_error=False)

    def _made(self) -> Any:  # noqa: ANN401 - redis-py has few types
        if self._client is None:
            self._client = self._make()
        return self._client

    def run(self, operation: str, commands: Sequence[Command], seconds: float) -> list[Reply]:
        """Return the replies to *commands*."""
        return self._in_thread(operation, seconds, self._carry_out, commands)

    def _in_thread(self, operation: str, seconds: float, function: Callable[..., Any], *args: object) -> Any:  # noqa: ANN401
        try:
            return self._workers.wait(seconds, function, *args)
        except Exception as error:
            raise unreachable(self._tier, operation, error) from error

    async def arun(self, operation: str, commands: Sequence[Command], seconds: float) -> list[Reply]:
        """Return the replies to *commands*, like `run`."""
        try:
            async with asyncio.timeout(seconds):
                if self._theirs is not None and self._is_their_loop():
                    return await self._carry_out_theirs(commands)
                return await self._workers.run(self._carry_out, commands)
        except Exception as error:
            raise unreachable(self._tier, operation, error) from error

    def _is_their_loop(self) -> bool:
        loop = asyncio.get_running_loop()
        if self._their_loop is None:
            self._their_loop = weakref.ref(loop)
        return self._their_loop() is loop

    async def _carry_out_theirs(self, commands: Sequence[Command]) -> list[Reply]:
        pipeline = self._theirs.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return await pipeline.execute(raise_on_error=False)

    def servers(self, seconds: float) -> Sequence[object]:
        """Return the servers that hold keys."""
        if not self.scattered:
            return (None,)
        return self._in_thread("search", seconds, lambda: self._made().get_primaries())

    def run_on(self, server: object, operation: str, command: Command, seconds: float) -> Reply:
        """Return the reply of *server* to *command*."""
        target = {} if server is None else {"target_nodes": server}
        return self._in_thread(operation, seconds, lambda: _answer(self._made(), command, **target))

    def drop(self) -> None:
        """Close the connections that are not in use."""
        if self._owned and self._client is not None:
            client, self._client = self._client, None
            client.close()
        elif (pool := getattr(self._client, "connection_pool", None)) is not None:
            # the client of a cluster has one pool for each server
            pool.disconnect(inuse_connections=False)

    def close(self) -> None:
        """Stop the worker threads. A client of the user stays open."""
        if self._owned:
            self.drop()
        self._workers.stop()

    def close_mine(self) -> None:
        """Do nothing: the running loop has no connection."""


def _answer(client: Any, command: Command, **target: object) -> Reply:  # noqa: ANN401
    """Return the raw reply to *command*, without redis-py's conversions."""
    try:
        return client.execute_command(*command, **target)
    except Exception as error:
        if any(kind.__name__ == "ResponseError" for kind in type(error).__mro__):
            return error
        raise


def cluster_client(address: RedisAddress, timeout: float) -> Callable[[], Any]:
    """Return a function that creates redis-py's client for the cluster at *address*.

    Raises:
        MissingClientError: If redis-py is not installed.
    """
    try:
        from redis.backoff import NoBackoff  # noqa: PLC0415 - lazy, like all client libraries
        from redis.cluster import ClusterNode, RedisCluster  # noqa: PLC0415
        from redis.retry import Retry  # noqa: PLC0415
    except ImportError as error:
        msg = "redis+cluster:// needs redis-py"
        raise MissingClientError(msg, "redis") from error
    tls: dict[str, Any] = (
        {} if address.tls is None else {name: _plain(value) for name, value in address.tls.items() if name.startswith("ssl_")}
    )

    def make() -> Any:  # noqa: ANN401
        return RedisCluster(
            startup_nodes=[ClusterNode(host, port) for host, port in address.hosts],
            username=address.username,
            password=address.password,
            client_name=address.client_name,
            ssl=address.tls is not None,
            socket_timeout=timeout,
            socket_connect_timeout=CONNECTING,
            socket_keepalive=True,
            retry=Retry(NoBackoff(), 1),
            **tls,
        )  # fmt: skip

    return make


def _plain(value: str) -> str | bool:
    return {"true": True, "false": False}.get(value, value)


def check_client(client: Any, *, asynchronous: bool) -> None:  # noqa: ANN401
    """Check that *client*, a client of the user, can be used.

    Raises:
        ConfigurationError: If it cannot be used.
    """
    name = "async_client" if asynchronous else "client"
    kind = "redis.asyncio.Redis" if asynchronous else "redis.Redis or redis.RedisCluster"
    if not hasattr(client, "execute_command") or inspect.iscoroutinefunction(client.execute_command) != asynchronous:
        msg = f"{name} must be a {kind}, got a {type(client).__module__}.{type(client).__qualname__}"
        raise ConfigurationError(msg)
    pool = getattr(client, "connection_pool", None)
    options: dict[str, Any] = getattr(pool, "connection_kwargs", None) or {}
    if options.get("decode_responses"):
        msg = f"{name} must be created with decode_responses=False: entries are bytes"
        raise ConfigurationError(msg)
