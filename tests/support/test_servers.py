"""The tests' own tools: servers begin and end as they are told, and each fault of the proxy is what it says."""

from __future__ import annotations

import signal
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis
from pymongo import MongoClient, WriteConcern
from pymongo.errors import PyMongoError
from support import server_fixtures, servers
from support.fault_proxy import ChaosProxy, Exchange, Faults
from support.servers import (
    HOST,
    Certificates,
    MongoReplicaSet,
    MongoServer,
    RedisCluster,
    RedisSentinel,
    RedisServer,
    Server,
    ServerFailedError,
    ServerMissingError,
    free_port,
    until,
)

TEXT = bytes(range(256)) * 8


# the proxy, before a server that says what it hears


class _Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        try:
            while data := self.request.recv(65536):
                self.request.sendall(data)
        except OSError:
            pass  # a client that goes away is no news


class _EchoServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


@pytest.fixture
def echo() -> Iterator[int]:
    with _EchoServer((HOST, 0), _Echo) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(echo: int) -> Iterator[ChaosProxy]:
    with ChaosProxy(echo, seed=7) as proxy:
        yield proxy


class Client:
    """Says something, and hears what comes back."""

    def __init__(self, proxy: ChaosProxy) -> None:
        self.sock = socket.create_connection((HOST, proxy.port), 2.0)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def say(self, data: bytes) -> None:
        self.sock.sendall(data)

    def hear(self, size: int, seconds: float = 2.0) -> bytes:
        """Return what comes, up to *size*, until the end, or until nothing has come for so long."""
        self.sock.settimeout(seconds)
        heard = b""
        try:
            while len(heard) < size and (data := self.sock.recv(size - len(heard))):
                heard += data
        except TimeoutError:
            pass
        return heard

    def ask(self, data: bytes, seconds: float = 2.0) -> bytes:
        self.say(data)
        return self.hear(len(data), seconds)

    def ended(self) -> bool:
        """Whether the connection ends in order."""
        self.sock.settimeout(2.0)
        return not self.sock.recv(1)


@pytest.fixture
def client(proxy: ChaosProxy) -> Iterator[Client]:
    with closing((client := Client(proxy)).sock):
        assert client.ask(b"hello") == b"hello"
        proxy.reset_counts()
        yield client


@pytest.fixture
def connect(proxy: ChaosProxy) -> Iterator[Callable[[], Client]]:
    clients: list[Client] = []

    def connect() -> Client:
        clients.append(Client(proxy))
        return clients[-1]

    yield connect
    for client in clients:
        client.sock.close()


def test_the_proxy_counts_round_trips(proxy: ChaosProxy, client: Client, connect: Callable[[], Client]) -> None:
    """A round trip is a turn from up to down on one connection; what is asked is kept."""
    client.ask(b"one")
    client.ask(b"three")
    connect().ask(b"hello")

    assert proxy.round_trips == 3
    assert proxy.connections == 1, "since the counts were reset"
    assert proxy.open == 2
    assert (proxy.bytes_up, proxy.bytes_down) == (13, 13)
    assert list(proxy.exchanges) == [Exchange(1, b"one", 3, 3), Exchange(1, b"three", 5, 5), Exchange(2, b"hello", 5, 5)]


def test_a_pipeline_is_one_round_trip(proxy: ChaosProxy, client: Client) -> None:
    """What is under way together counts once, whatever the number of writes and replies."""
    proxy.set(latency=0.05, ways="up")
    for word in (b"one", b"two", b"three"):
        client.say(word)
        time.sleep(0.01)
    assert client.hear(11) == b"onetwothree"

    assert proxy.round_trips == 1
    assert [(exchange.request, exchange.sent) for exchange in proxy.exchanges] == [(b"onetwothree", 11)]


def test_a_request_without_a_reply_is_no_round_trip(proxy: ChaosProxy, client: Client) -> None:
    """Nor is a reply whose request was made before the counts were reset."""
    proxy.set(hold="up")
    client.say(b"early")
    until(lambda: proxy.bytes_up, "the proxy has read it")
    assert proxy.round_trips == 0

    proxy.reset_counts()
    proxy.clear()
    assert client.hear(5) == b"early"
    assert proxy.round_trips == 0
    assert proxy.bytes_down == 5


@pytest.mark.alone
def test_latency_is_added_to_each_way_and_does_not_throttle(proxy: ChaosProxy, client: Client) -> None:
    """A round trip takes twice as long; a hundred that are under way together take as long as one."""
    proxy.set(latency=0.05)
    begin = time.monotonic()
    assert client.ask(b"hello") == b"hello"
    assert 0.1 <= time.monotonic() - begin < 1.0

    begin = time.monotonic()
    for _ in range(100):
        client.say(TEXT)
        time.sleep(0.0005)
    assert client.hear(100 * len(TEXT)) == 100 * TEXT
    assert time.monotonic() - begin < 2.5, "one after the other they would take ten seconds"


@pytest.mark.alone
def test_latency_can_be_had_one_way(proxy: ChaosProxy, client: Client) -> None:
    """`ways` says to which way it applies."""
    proxy.set(latency=0.2, ways="down")
    begin = time.monotonic()
    client.say(b"hello")
    until(lambda: proxy.bytes_down, "the server has answered")
    assert time.monotonic() - begin < 0.15
    assert client.hear(5) == b"hello"
    assert time.monotonic() - begin >= 0.2


def test_jitter_keeps_the_order(proxy: ChaosProxy, client: Client) -> None:
    """Bytes that are late do not come after those that follow."""
    proxy.set(jitter=0.03)
    words = b"".join(b"%02d" % number for number in range(50))
    for number in range(50):
        client.say(b"%02d" % number)
        time.sleep(0.001)
    assert client.hear(100) == words


def test_a_narrow_line_drips(proxy: ChaosProxy, client: Client) -> None:
    """Bytes come in small pieces, none of them late enough for a time-out that begins anew with each."""
    proxy.set(bandwidth=4000, ways="down")
    begin = time.monotonic()
    client.say(b"x" * 1000)
    assert len(client.hear(1000, seconds=0.2)) == 1000
    assert 0.2 <= time.monotonic() - begin < 2.0


def test_replies_can_come_in_slices(proxy: ChaosProxy, client: Client) -> None:
    """They are the same in the end."""
    proxy.set(slice=1)
    client.say(TEXT)
    beginning = client.sock.recv(len(TEXT))
    assert 0 < len(beginning) < len(TEXT)
    assert beginning + client.hear(len(TEXT) - len(beginning)) == TEXT


@pytest.mark.parametrize("ways", ["up", "down", "both"])
def test_in_a_blackhole_bytes_are_lost_and_nobody_is_told(
    proxy: ChaosProxy, client: Client, connect: Callable[[], Client], ways: str
) -> None:
    """Connections stay open, new ones are taken; those that lost bytes are reset when it ends, since TCP has no gaps."""
    proxy.set(blackhole=ways)
    assert client.ask(b"hello", seconds=0.1) == b""
    assert connect().ask(b"hello", seconds=0.1) == b""
    assert bool(proxy.bytes_down) == (ways == "down")

    proxy.clear()
    with pytest.raises(ConnectionResetError):
        client.hear(5)
    assert connect().ask(b"hello") == b"hello"


def test_what_is_held_comes_later(proxy: ChaosProxy, client: Client) -> None:
    """As when a frozen server goes on, or packets are sent again."""
    proxy.set(hold="both")
    assert client.ask(b"hello", seconds=0.1) == b""
    proxy.clear()
    assert client.hear(5) == b"hello"


def test_a_connection_is_reset_after_some_bytes(proxy: ChaosProxy, client: Client, connect: Callable[[], Client]) -> None:
    """Counted from when this was set; each connection for itself."""
    proxy.set(reset_after=3)
    for caller in (client, connect()):
        caller.say(b"hello")
        assert caller.hear(3) == b"hel"
        with pytest.raises(ConnectionResetError):
            caller.hear(2)


def test_bytes_are_counted_over_replies(proxy: ChaosProxy, client: Client) -> None:
    """The limit is of a connection, not of a reply; to set it again is to begin again."""
    for _ in range(2):
        proxy.set(finish_after=8)
        assert client.ask(b"hello") == b"hello"
    assert client.ask(b"hello") == b"hel"
    assert client.ended()


def test_a_connection_is_reset_before_its_reply(proxy: ChaosProxy, client: Client) -> None:
    """After no byte at all."""
    proxy.set(reset_after=0)
    with pytest.raises(ConnectionResetError):
        client.ask(b"hello")
    until(lambda: not proxy.open, "it is gone")


def test_a_reply_is_torn(proxy: ChaosProxy, client: Client, connect: Callable[[], Client]) -> None:
    """The connection ends in order in the middle of it."""
    proxy.set(finish_after=3)
    for caller in (client, connect()):
        assert caller.ask(b"hello") == b"hel"
        assert caller.ended()


def test_bits_flip_by_seeded_chance(echo: int) -> None:
    """Of so many bytes one bit each, in replies alone, and the same ones again for the same seed."""

    def flipped(seed: int) -> bytes:
        with ChaosProxy(echo, seed=seed) as proxy, closing((client := Client(proxy)).sock):
            proxy.set(flip=0.02)
            return client.ask(TEXT)

    first, again, other = flipped(1), flipped(1), flipped(2)

    assert first == again != other
    wrong = [(a ^ b).bit_count() for a, b in zip(first, TEXT) if a != b]
    assert 10 < len(wrong) < 90
    assert set(wrong) == {1}


def test_replies_come_twice(proxy: ChaosProxy, client: Client) -> None:
    """After that, a client that counts replies is one behind for ever."""
    proxy.set(duplicate=True)
    client.say(b"hello")
    assert client.hear(10) == b"hellohello"


@pytest.mark.alone
def test_one_reply_is_late(proxy: ChaosProxy, client: Client) -> None:
    """Only one."""
    proxy.delay_next_reply(0.2)
    assert client.ask(b"hello", seconds=0.05) == b""
    assert client.hear(5) == b"hello"
    begin = time.monotonic()
    assert client.ask(b"hello") == b"hello"
    assert time.monotonic() - begin < 0.15


@pytest.mark.parametrize("way", ["reset", "finish"])
def test_new_connections_end_at_once(proxy: ChaosProxy, client: Client, connect: Callable[[], Client], way: str) -> None:
    """They are accepted, and then not."""
    proxy.set(on_accept=way)
    if way == "finish":
        assert connect().ended()
    else:
        with pytest.raises(ConnectionResetError):  # at the first use, or sooner
            connect().ended()
    assert client.ask(b"hello") == b"hello"


def test_connections_are_refused(proxy: ChaosProxy, client: Client, connect: Callable[[], Client]) -> None:
    """Only new ones, until they are accepted again."""
    for _ in range(2):
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            connect()
        assert client.ask(b"hello") == b"hello"
        proxy.accept()
        assert connect().ask(b"hello") == b"hello"


def test_who_refuses_keeps_the_port(proxy: ChaosProxy) -> None:
    """Nobody else can take it meanwhile."""
    proxy.refuse()
    with pytest.raises(OSError, match="in use"), socket.socket() as other:
        other.bind((HOST, proxy.port))


def test_connections_are_neither_made_nor_refused(proxy: ChaosProxy, client: Client, connect: Callable[[], Client]) -> None:
    """As with a host that is away; until they are accepted again."""
    proxy.blackhole_connects()
    with pytest.raises(TimeoutError):
        socket.create_connection((HOST, proxy.port), 0.2)
    assert client.ask(b"hello") == b"hello"
    proxy.accept()
    assert connect().ask(b"hello") == b"hello"


@pytest.mark.parametrize("faults", [Faults(), Faults(hold="both"), Faults(blackhole="both"), Faults(latency=60.0)], ids=str)
def test_connections_are_cut(proxy: ChaosProxy, client: Client, connect: Callable[[], Client], faults: Faults) -> None:
    """Now, whatever they wait for."""
    proxy.faults = faults
    client.say(b"hello")
    time.sleep(0.02)
    proxy.cut()
    assert proxy.open == 0
    with pytest.raises(ConnectionResetError):
        client.hear(6)
    proxy.clear()
    assert connect().ask(b"hello") == b"hello"


def test_without_a_server_connections_are_reset() -> None:
    """A proxy hides that nobody listens, and not that nobody answers."""
    with ChaosProxy(free_port()) as proxy, pytest.raises(ConnectionResetError), closing((client := Client(proxy)).sock):
        client.ask(b"hello")


def test_the_proxy_ends_with_its_connections(echo: int) -> None:
    """No thread and no file stays, also if clients do."""
    before = threading.active_count(), len(list(Path("/dev/fd").iterdir()))
    with ChaosProxy(echo) as proxy:
        client = Client(proxy)
        proxy.set(hold="both")
        client.say(b"hello")
        time.sleep(0.02)
    client.sock.close()
    until(lambda: threading.active_count() <= before[0], "the threads of the echo have ended", 5.0)
    assert len(list(Path("/dev/fd").iterdir())) <= before[1]
    with pytest.raises(AttributeError, match="ChaosProxy"):
        _ = proxy.url


def test_a_url_by_way_of_the_proxy() -> None:
    """The rest of it stays as it is."""
    proxy = ChaosProxy.to("redis://user:word@127.0.0.1:4242/3?client_name=me#ttl=7d")
    assert proxy.target == ("127.0.0.1", 4242)
    assert proxy.url == f"redis://user:word@127.0.0.1:{proxy.port}/3?client_name=me#ttl=7d"
    with pytest.raises(ValueError, match="host and a port"):
        ChaosProxy.to("redis://localhost")


# servers


def test_redis_begins_and_ends_as_it_is_told(own_redis: Callable[..., RedisServer]) -> None:
    """It ends in order or at once, and begins again on its port and with its folder."""
    server = own_redis("--appendonly", "yes", "--appendfsync", "always")
    port, folder = server.port, server.folder
    with redis.Redis.from_url(server.url) as client:
        client.set("key", "value")
        for end in (server.stop, server.kill):
            end()
            assert not server.alive
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((HOST, port), 1.0)
            server.start()
            assert client.get("key") == b"value"
    assert (server.port, server.folder) == (port, folder)
    assert server.cli("CONFIG", "GET", "dir").splitlines() == ["dir", str(folder)]
    server.close()
    assert not folder.exists()


def test_redis_keeps_nothing_unless_it_is_asked_to(redis_server: RedisServer) -> None:
    """So that a restart is a loss."""
    assert redis_server.cli("SET", "key", "value") == "OK"
    redis_server.stop()
    redis_server.start()
    assert redis_server.cli("DBSIZE") == "0"


def test_a_frozen_server_hangs(redis_server: RedisServer) -> None:
    """Connections are made, and nothing comes back; after a thaw it does. One that is frozen can be ended."""
    with redis.Redis(port=redis_server.port, socket_timeout=0.1, retry=None) as client:
        client.ping()
        redis_server.freeze()
        with pytest.raises(redis.TimeoutError):
            client.ping()
        redis_server.thaw()
        assert client.ping()
    redis_server.freeze()
    begin = time.monotonic()
    redis_server.stop()
    assert not redis_server.alive
    assert time.monotonic() - begin < 10.0
    redis_server.start().freeze()
    redis_server.heal()
    assert redis_server.cli("PING") == "PONG"


def test_errors_of_redis_are_errors(redis_server: RedisServer) -> None:
    """Neither a command that fails nor a server that does not start goes unnoticed."""
    with pytest.raises(ServerFailedError, match="unknown command"):
        redis_server.cli("NONSENSE")
    with closing(RedisServer("--nonsense", "1")) as server, pytest.raises(ServerFailedError, match=r"(?s)ended.*nonsense"):
        server.start()


def test_redis_with_a_password(own_redis: Callable[..., RedisServer]) -> None:
    """The URL has it."""
    server = own_redis(password="word")
    with redis.Redis.from_url(server.url) as client:
        assert client.ping()
    with redis.Redis(port=server.port, retry=None) as client, pytest.raises(redis.AuthenticationError):
        client.ping()
    assert server.cli("PING") == "PONG"


def test_redis_over_tls(own_redis: Callable[..., RedisServer], certificates: Certificates, tmp_path: Path) -> None:
    """The URL says whom to trust; a certificate for somebody else is none."""
    server = own_redis(certificates=certificates)
    assert server.cli("PING") == "PONG"
    with redis.Redis.from_url(server.url) as client:
        assert client.ping()
    with redis.Redis(port=server.port, ssl=True, ssl_ca_certs=None, retry=None) as client, pytest.raises(redis.ConnectionError):
        client.ping()

    other = own_redis(certificates=Certificates.make(tmp_path / "other", hosts=["elsewhere.example"], addresses=[]))
    context = ssl.create_default_context(cafile=other.certificates and other.certificates.authority)
    with socket.create_connection((HOST, other.port)) as sock, pytest.raises(ssl.SSLCertVerificationError, match="IP address mismatch"):
        context.wrap_socket(sock, server_hostname=HOST)


def test_a_test_finds_redis_empty(redis_server: RedisServer, redis_url: str) -> None:
    """Also if the one before it, which this is too, left something."""
    assert redis_url == redis_server.url
    for _ in range(2):
        assert redis_server.cli("DBSIZE") == "0"
        redis_server.cli("SET", "key", "value")
        redis_server.freeze()
        server_fixtures._ready(redis_server)


def test_a_redis_of_the_user_is_left_empty(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, redis_server: RedisServer
) -> None:
    """And is refused if it was not empty: a URL may be a mistake."""
    monkeypatch.setenv("LAYERED_CACHE_TEST_REDIS_URL", f"redis://{redis_server.address}/5")
    redis_server.cli("-n", "5", "SET", "key", "value")
    with pytest.raises(pytest.fail.Exception, match="has 1 keys"):
        request.getfixturevalue("redis_url")
    assert redis_server.cli("-n", "5", "GET", "key") == "value"


def test_mongod_begins_and_ends_as_it_is_told(mongo_server: MongoServer) -> None:
    """What was written to its journal is there after the worst of ends."""
    with mongo_server.client() as client:
        journaled = client.lawbook.get_collection("laws", write_concern=WriteConcern(j=True))
        for number, end in enumerate((mongo_server.stop, mongo_server.kill)):
            journaled.insert_one({"_id": number})
            end()
            assert not mongo_server.alive
            mongo_server.start()
            assert journaled.count_documents({}) == number + 1


def test_mongod_has_fail_points(mongo_server: MongoServer) -> None:
    """Those that tests switch on and off."""
    with mongo_server.client() as client:
        mongo_server.run("configureFailPoint", "failCommand", mode={"times": 1}, data={"errorCode": 11602, "failCommands": ["insert"]})
        with pytest.raises(PyMongoError):
            client.lawbook.command("insert", "laws", documents=[{}])
        client.lawbook.laws.insert_one({})


def test_a_test_finds_mongodb_empty(mongo_server: MongoServer, mongodb_url: str) -> None:
    """It has a database of its own, and there is no other."""
    with MongoClient(mongodb_url) as client:
        assert not set(client.list_database_names()) - {"admin", "config", "local"}
        client.get_default_database().laws.insert_one({"_id": 1})
        mongo_server.freeze()
        server_fixtures._ready(mongo_server)
        assert client.get_default_database().laws.find_one() is None


def test_the_database_of_a_url() -> None:
    """Who logs in does so where it was."""
    assert server_fixtures.database("mongodb://a:1,b:2", "new") == "mongodb://a:1,b:2/new"
    assert server_fixtures.database("mongodb://a:1/old?replicaSet=r", "new") == "mongodb://a:1/new?replicaSet=r"
    assert server_fixtures.database("mongodb://u:p@a:1/old", "new") == "mongodb://u:p@a:1/new?authSource=old"
    assert server_fixtures.database("mongodb://u:p@a:1/?authSource=x", "new") == "mongodb://u:p@a:1/new?authSource=x"


def test_a_missing_program_is_a_reason_to_skip_unless_servers_are_required(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what to install."""
    monkeypatch.setenv("PATH", "/nowhere")
    with closing(RedisServer()) as server:
        with pytest.raises(ServerMissingError, match="apt-get install redis-server"):
            server.start()
        monkeypatch.setenv("LAYERED_CACHE_REQUIRE_SERVERS", "0")
        with pytest.raises(pytest.skip.Exception, match="redis-server is missing"):
            server_fixtures._start(server)
        monkeypatch.setenv("LAYERED_CACHE_REQUIRE_SERVERS", "1")
        with pytest.raises(pytest.fail.Exception, match="redis-server is missing"):
            server_fixtures._start(server)


def test_no_server_outlives_the_process_that_started_it(redis_server: RedisServer) -> None:
    """Even if that process is killed; its folder goes too."""
    script = (
        "import time; from support import servers; s = servers.RedisServer().start(); print(s.port, s.folder, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port, folder = process.stdout.readline().split()
        socket.create_connection((HOST, int(port)), 1.0).close()
        process.send_signal(signal.SIGKILL)

    def gone() -> bool:
        try:
            socket.create_connection((HOST, int(port)), 1.0).close()
        except OSError:
            return not Path(folder).exists()
        return False

    until(gone, "the guard has cleaned up", 10.0)


def test_ports_leave_room_for_the_bus_of_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is given twice, and all are below those that the kernel gives to clients."""
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == 50
    assert max(ports) + 10_000 < 32768

    port = free_port()
    servers._given.discard(port)
    monkeypatch.setattr(servers, "_PORTS", [port])
    with socket.socket() as other, pytest.raises(ServerFailedError, match="no free port"):
        other.bind((HOST, port + 10_000))
        free_port()


@pytest.mark.slow
def test_sentinels_make_another_primary(redis_sentinel: RedisSentinel) -> None:
    """And the old one follows it when it is back."""
    first = redis_sentinel.primary
    first.cli("SET", "key", "value")
    redis_sentinel.caught_up()
    assert redis_sentinel.kill_primary() is first
    until(lambda: redis_sentinel.primary is not first, "the sentinels agree on another primary")
    sentinel = redis.Sentinel(redis_sentinel.addresses)
    with sentinel.master_for(redis_sentinel.service) as client:
        assert client.get("key") == b"value"
    for known in sentinel.sentinels:
        known.close()

    server_fixtures._ready(redis_sentinel)
    assert first.info("replication")["role"] == "slave"
    assert all(node.cli("DBSIZE") == "0" for node in redis_sentinel.nodes)


@pytest.mark.slow
def test_a_cluster_makes_another_primary(redis_cluster: RedisCluster) -> None:
    """The replica of the one that was killed."""
    assert len(redis_cluster.primaries) == 3
    first = redis_cluster.primary_of("key")
    with redis.RedisCluster(*redis_cluster.addresses[0]) as client:
        client.set("key", "value")
        assert first.cli("GET", "key") == "value"
        redis_cluster.caught_up()
        first.kill()
        until(lambda: len(redis_cluster.primaries) == 3, "its replica took over")
        assert redis_cluster.primary_of("key").cli("GET", "key") == "value"

    server_fixtures._ready(redis_cluster)
    assert first.info("replication")["role"] == "slave"
    assert all(node.cli("DBSIZE") == "0" for node in redis_cluster.nodes)


@pytest.mark.slow
def test_a_replica_set_makes_another_primary(mongo_replica_set: MongoReplicaSet) -> None:
    """When the primary steps down, and when it is killed; what most members have is not lost."""
    with MongoClient(mongo_replica_set.url) as client:
        laws = client.lawbook.get_collection("laws", write_concern=WriteConcern("majority"))
        laws.insert_one({"_id": 1})
        first = mongo_replica_set.primary()
        second = mongo_replica_set.step_down(3)
        assert second is not first
        laws.insert_one({"_id": 2})
        assert mongo_replica_set.kill_primary() is second
        assert mongo_replica_set.primary() is not second
        assert laws.count_documents({}) == 2

        server_fixtures._ready(mongo_replica_set)
        assert "lawbook" not in client.list_database_names()


def test_servers_say_where_they_are() -> None:
    """In errors, and in the URLs that tiers take."""
    assert repr(Server(4242)) == "<server on 127.0.0.1:4242>"
    sentinels, cluster = RedisSentinel(), RedisCluster()
    assert sentinels.url.startswith("redis+sentinel://127.0.0.1:")
    assert sentinels.url.endswith("/answers/0")
    assert cluster.url.count(",") == 5
