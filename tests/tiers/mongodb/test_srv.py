"""`mongodb+srv://`: a name server says where the servers are. It is asked in the background, however slow it is."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import dns.asyncresolver
import dns.flags
import dns.message
import dns.resolver
import dns.rrset
import pytest
from layered_cache import MongoTier, TierError
from layered_cache.testing._sync_async import an_entry
from support.servers import HOST, MongoServer
from support.sync_async import World
from tiers.mongodb.test_faults import BUDGET, wait_for

DOMAIN = "cluster.layered-cache.test"


class NameServer:
    """Answers SRV with one server, and TXT with nothing, after `seconds`."""

    def __init__(self, port: int) -> None:
        self.seconds = 0.0
        self.asked = 0
        self._records = {"SRV": f"0 0 {port} node.layered-cache.test."}
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((HOST, 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                data, address = self._socket.recvfrom(4096)
            except OSError:
                return
            later = threading.Timer(self.seconds, self._answer, (data, address))
            later.daemon = True
            later.start()

    def _answer(self, data: bytes, address: Any) -> None:
        self.asked += 1
        query = dns.message.from_wire(data)
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
        (question,) = query.question
        kind = dns.rdatatype.to_text(question.rdtype)
        if kind in self._records:
            response.answer.append(dns.rrset.from_text(question.name, 60, "IN", kind, self._records[kind]))
        self._socket.sendto(response.to_wire(), address)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def names(mongo_server: MongoServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    server = NameServer(mongo_server.port)
    for module in (dns.resolver, dns.asyncresolver):
        resolver = module.Resolver(configure=False)
        resolver.nameservers, resolver.port = [HOST], server.port
        monkeypatch.setattr(module, "default_resolver", resolver)
    look_up: Callable[..., Any] = socket.getaddrinfo

    def local(host: Any, *args: Any, **kwargs: Any) -> Any:
        return look_up(HOST if str(host).endswith(".test") else host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", local)
    yield server
    server.close()


@pytest.mark.alone
def test_servers_are_found_by_a_name_server(names: NameServer, mongo_server: MongoServer, world: World) -> None:
    """Who comes while it thinks waits for no longer than the budget, and it is asked once for all of them."""
    tier = MongoTier(f"mongodb+srv://{DOMAIN}/db?tls=false")
    assert names.asked == 0
    names.seconds = 0.5
    for _ in range(2):
        started = time.monotonic()
        with pytest.raises(TierError, match="no server can be reached"):
            world.call(tier, "get_many", ["k"])
        assert time.monotonic() - started < BUDGET + 0.1
    assert wait_for(lambda: world.call(tier, "set_many", [an_entry()]) is None)
    assert world.call(tier, "get_many", ["k"])
    assert names.asked == 2  # for SRV and for TXT
    world.call(tier, "close")


@pytest.mark.slow
@pytest.mark.alone
def test_a_name_server_that_says_nothing(names: NameServer, world: World) -> None:
    """Is asked again, until it does."""
    tier = MongoTier(f"mongodb+srv://{DOMAIN}/db?tls=false")
    names.seconds = 1e6
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        started = time.monotonic()
        with pytest.raises(TierError):
            world.call(tier, "get_many", ["k"])
        assert time.monotonic() - started < BUDGET + 0.1
    names.seconds = 0.0
    assert wait_for(lambda: world.call(tier, "set_many", [an_entry()]) is None, 30.0)
    world.call(tier, "close")
