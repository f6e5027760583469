"""A local HTTP server that records requests and answers as a provider does, and `observe`, which looks at a call through it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self, cast

import pytest
from layered_cache import Event, TieredCache
from providers.oracle import Entry, Raw, Seen, Sent, Situation, Subject, placed, sent

Reply = tuple[int, str, bytes]  # status, content type, body
Provider = Callable[[str, Any], Reply | None]
"""Answers a request of a path and a body; None: it does not know such a path."""


class Recorder:
    """`with Recorder(providers) as server: ChatOpenAI(base_url=server.url + "/v1")`. `seen` are the requests that came in."""

    def __init__(self, providers: tuple[Provider, ...]) -> None:
        self.providers = providers
        self.seen: list[Raw] = []
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.owner = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def wire(self) -> tuple[Sent, ...]:
        """Return the requests since `forget`, reduced to the parts that may change an answer."""
        return tuple(sent(raw) for raw in self.seen)

    def forget(self) -> None:
        """Forget what came in."""
        self.seen.clear()

    def reply(self, path: str, body: Any) -> Reply:
        """Return the answer to a request."""
        for provider in self.providers:
            if (reply := provider(path, body)) is not None:
                return reply
        return 404, "application/json", b'{"error": {"message": "no such path"}}'

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    owner: Recorder

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def log_message(self, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._reply(b"")

    def do_POST(self) -> None:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            self._reply(b"".join(self._chunks()))
        else:
            self._reply(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline().strip() or b"0", 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _reply(self, body: bytes) -> None:
        owner = cast("_Server", self.server).owner
        raw = Raw(self.command, self.path, dict(self.headers), body)
        owner.seen.append(raw)
        # of the query, only this decides the form of an answer
        path = self.path.partition("?")[0] + ("?alt=sse" if "alt=sse" in self.path else "")
        status, kind, data = owner.reply(path, json_of(body))
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def json_of(body: bytes) -> Any:
    """Return *body* as JSON; an empty dictionary if it is none."""
    import json

    try:
        return json.loads(body)
    except ValueError:
        return {}


# --- looking


class _Warnings(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


@contextmanager
def warned() -> Iterator[list[str]]:
    """Yield the warnings that the cache logs in the block."""
    handler, logger = _Warnings(), logging.getLogger("layered_cache")
    logger.addHandler(handler)
    try:
        yield handler.texts
    finally:
        logger.removeHandler(handler)


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Have *variables* in the environment in the block."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield


def observe(subject: Subject, entry: Entry, situation: Situation, server: Recorder) -> Seen:
    """Return what *entry* sends in *situation* without a cache, and the key that it has with one."""
    variables = {**subject.environment, **situation.environment}
    with environment({name: placed(value, server.url) for name, value in variables.items()}):
        try:
            bare = entry.prepare(subject, situation, server.url, None)
            server.forget()
            bare()
        except Exception as error:  # noqa: BLE001 - whatever a client raises before it has sent anything
            if not server.seen:
                return Seen(error=f"{type(error).__name__}: {str(error)[:200]}")
            return Seen(server.wire(), error=f"after the request: {type(error).__name__}: {str(error)[:200]}")
        wire = server.wire()
        if not wire:
            return Seen(error="nothing was sent")
        events: list[Event] = []
        with TieredCache("memory://", observers=[events.append]) as cache, warned() as warnings:
            call = entry.prepare(subject, situation, server.url, cache)
            events.clear()
            call()
            key = _key_of(events)
            server.forget()
            call()
        return Seen(wire, key, tuple(warnings), repeats=not server.seen)


def _key_of(events: list[Event]) -> str | None:
    """Return the key of the answer that was found or stored."""
    keys = {event.key for event in events if event.kind in {"hit", "stored"} and event.key is not None}
    assert len(keys) <= 1, "a situation is one call of the model"
    return keys.pop() if keys else None
