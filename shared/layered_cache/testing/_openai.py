"""A local server with OpenAI's API for chat, completions and embeddings. It counts requests.

An answer depends only on the request, so equal requests get equal texts. The ids differ, like those
of a provider. Each answer is sent in one write on a socket without Nagle's algorithm. Otherwise
every call would take 40 ms.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self, TypeAlias, cast

Json: TypeAlias = dict[str, Any]

_DIMENSIONS = 16


class OpenAIServer:
    """`with OpenAIServer() as server: ChatOpenAI(base_url=server.url, api_key="none")`.

    Args:
        latency: The duration of each answer in seconds.
        reply: Returns the text of an answer for the body of a request. By default the answer quotes
            the last message.
        calls_tool: Returns the name and arguments of a tool call for the body of a request, or
            None. By default the first tool is called once.

    `calls` is the number of answered requests, `bodies` contains the parsed requests, and
    `raw_bodies` their bytes. After `fail(n, status)` the next *n* requests fail.
    """

    def __init__(
        self,
        *,
        latency: float = 0.0,
        reply: Callable[[Json], str] | None = None,
        calls_tool: Callable[[Json], tuple[str, Json] | None] | None = None,
    ) -> None:
        self.latency = latency
        self.reply = reply or _echo
        self.calls_tool = calls_tool or _first_tool_once
        self.bodies: list[Json] = []
        self.raw_bodies: list[bytes] = []
        self._failures: list[int] = []
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.owner = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="OpenAI server", daemon=True)

    @property
    def url(self) -> str:
        """The base URL for clients."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    @property
    def calls(self) -> int:
        """The number of requests."""
        return len(self.bodies)

    def fail(self, times: int = 1, status: int = 500) -> None:
        """Make the next requests fail with *status*."""
        with self._lock:
            self._failures += [status] * times

    def reset(self) -> None:
        """Remove the recorded requests."""
        with self._lock:
            self.bodies.clear()
            self.raw_bodies.clear()
            self._failures.clear()

    def start(self) -> Self:
        """Start the server."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop the server."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def take(self, data: bytes, body: Json) -> int | None:
        """Record a request. Return the status of a failure, or None."""
        with self._lock:
            self.bodies.append(body)
            self.raw_bodies.append(data)
            return self._failures.pop(0) if self._failures else None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024
    owner: OpenAIServer

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore the error: a client that disconnects is normal."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    # one write for headers and body
    wbufsize = -1

    # the name is that of the base class
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Log nothing."""

    def do_POST(self) -> None:
        owner = cast("_Server", self.server).owner
        data = self.rfile.read(int(self.headers["Content-Length"]))
        body = cast("Json", json.loads(data))
        path = self.path.partition("?")[0]
        status = owner.take(data, body)
        if owner.latency:
            time.sleep(owner.latency)
        if status is not None:
            self._send({"error": {"message": "requested by fail()", "type": "server_error", "code": None}}, status)
        elif path.endswith("/chat/completions"):
            self._answer(body, _chat(body, owner), _chat_chunks)
        elif path.endswith("/completions"):
            self._answer(body, _completion(body, owner.reply), _completion_chunks)
        elif path.endswith("/embeddings"):
            self._send(_embeddings(body))
        else:
            self._send({"error": {"message": f"no such path: {self.path}", "type": "invalid_request_error"}}, 404)

    def _answer(self, body: Json, whole: Json, chunks: Callable[[Json, Json], Iterator[Json]]) -> None:
        if not body.get("stream"):
            self._send(whole)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in (*(json.dumps(chunk) for chunk in chunks(body, whole)), "[DONE]"):
            data = f"data: {event}\n\n".encode()
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def _send(self, answer: Json, status: int = 200) -> None:
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


# --- answers


def _echo(body: Json) -> str:
    last = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
    return f"You asked: {last if isinstance(last, str) else json.dumps(last)}"


def _usage(body: Json, text: str) -> Json:
    prompt, completion = len(json.dumps(body.get("messages") or body.get("prompt"))) // 4, len(text) // 4 + 1
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _first_tool_once(body: Json) -> tuple[str, Json] | None:
    tools = body.get("tools")
    if not tools or body["messages"][-1]["role"] == "tool" or body.get("tool_choice") == "none":
        return None
    function = tools[0]["function"]
    return function["name"], cast("Json", _example(function.get("parameters", {})))


def _chat(body: Json, owner: OpenAIServer) -> Json:
    message: Json = {"role": "assistant", "content": None}
    if (called := owner.calls_tool(body)) is not None:
        call = {"name": called[0], "arguments": json.dumps(called[1])}
        message["tool_calls"] = [{"id": f"call_{uuid.uuid4().hex[:12]}", "type": "function", "function": call}]
    elif body.get("response_format", {}).get("type") == "json_schema":
        message["content"] = json.dumps(_example(body["response_format"]["json_schema"]["schema"]))
    else:
        message["content"] = owner.reply(body)
    finish = "tool_calls" if message.get("tool_calls") else "stop"
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex[:12]}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": body["model"],
        "system_fingerprint": "fp_local",
        "choices": [{"index": index, "finish_reason": finish, "logprobs": None, "message": message} for index in range(body.get("n") or 1)],
        "usage": _usage(body, json.dumps(message)),
    }


def _chat_chunks(body: Json, whole: Json) -> Iterator[Json]:
    def chunk(delta: Json, finish: str | None = None) -> Json:
        return {
            **{name: whole[name] for name in ("id", "created", "model", "system_fingerprint")},
            "object": "chat.completion.chunk",
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        }

    choice = whole["choices"][0]
    message = choice["message"]
    yield chunk({"role": "assistant", "content": ""})
    for index, call in enumerate(message.get("tool_calls") or ()):
        function = call["function"]
        head = {"index": index, "id": call["id"], "type": "function", "function": {"name": function["name"], "arguments": ""}}
        yield chunk({"tool_calls": [head]})
        for part in _parts(function["arguments"], 8):
            yield chunk({"tool_calls": [{"index": index, "function": {"arguments": part}}]})
    for part in _parts(message["content"] or "", 8):
        yield chunk({"content": part})
    yield chunk({}, choice["finish_reason"])
    if body.get("stream_options", {}).get("include_usage"):
        yield {**chunk({}), "choices": [], "usage": whole["usage"]}


def _completion(body: Json, reply: Callable[[Json], str]) -> Json:
    prompts = _listed(body["prompt"])
    texts = [reply({**body, "prompt": prompt}) for prompt in prompts]
    return {
        "id": f"cmpl-{uuid.uuid4().hex[:12]}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": body["model"],
        "choices": [{"index": index, "text": text, "finish_reason": "stop", "logprobs": None} for index, text in enumerate(texts)],
        "usage": _usage(body, "".join(texts)),
    }


def _completion_chunks(_body: Json, whole: Json) -> Iterator[Json]:
    head = {name: whole[name] for name in ("id", "object", "created", "model")}
    for part in _parts(whole["choices"][0]["text"], 8):
        yield {**head, "choices": [{"index": 0, "text": part, "finish_reason": None, "logprobs": None}]}
    yield {**head, "choices": [{"index": 0, "text": "", "finish_reason": "stop", "logprobs": None}]}


def _embeddings(body: Json) -> Json:
    texts = _listed(body["input"])
    vectors = [_vector(f"{body['model']} {text}", body.get("dimensions") or _DIMENSIONS) for text in texts]
    as_base64 = body.get("encoding_format") == "base64"
    return {
        "object": "list",
        "model": body["model"],
        "data": [
            {"object": "embedding", "index": index, "embedding": base64.b64encode(vector).decode() if as_base64 else _floats(vector)}
            for index, vector in enumerate(vectors)
        ],
        "usage": {"prompt_tokens": len(texts), "total_tokens": len(texts)},
    }


def _listed(value: Any) -> list[Any]:  # noqa: ANN401 - a value of a request
    return cast("list[Any]", value) if isinstance(value, list) else [value]


def _vector(text: str, dimensions: int) -> bytes:
    digest = hashlib.shake_128(text.encode("utf-8", "replace")).digest(dimensions)
    return struct.pack(f"<{dimensions}f", *((byte - 127.5) / 127.5 for byte in digest))


def _floats(vector: bytes) -> list[float]:
    return list(struct.unpack(f"<{len(vector) // 4}f", vector))


def _parts(text: str, size: int) -> Iterator[str]:
    for start in range(0, len(text), size):
        yield text[start : start + size]


def _example(schema: Json, definitions: Json | None = None) -> object:
    """Return a value that matches a JSON schema."""
    definitions = cast("Json", definitions or schema.get("$defs", {}))
    if "$ref" in schema:
        return _example(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    for name in ("const", "default"):
        if name in schema:
            return schema[name]
    if "enum" in schema:
        return schema["enum"][0]
    if options := schema.get("anyOf") or schema.get("oneOf"):
        return _example(options[0], definitions)
    kind = schema.get("type")
    if kind == "object" or "properties" in schema:
        return {name: _example(part, definitions) for name, part in schema.get("properties", {}).items()}
    if kind == "array":
        return [_example(schema.get("items", {}), definitions)]
    if kind == "string":
        return {"date": "2026-01-31", "date-time": "2026-01-31T12:00:00Z"}.get(str(schema.get("format")), "text")
    return {"integer": 7, "number": 1.5, "boolean": True, "null": None}.get(str(kind), "text")
