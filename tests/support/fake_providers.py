"""Stand-ins for what providers other than OpenAI's chat API serve, as far as LlamaIndex's clients ask them: they echo, and count.

Anthropic's messages, Ollama's chats, OpenAI's responses. Whole or as streams; ids differ from answer to answer, as theirs do.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self, cast

Json = dict[str, Any]

PIECES = ("You", " asked", ": ")


class StandIn:
    """`with StandIn() as server: Anthropic(base_url=server.url)`. `raw_bodies` are the bytes of what was asked, `bodies` what they say."""

    def __init__(self) -> None:
        self.raw_bodies: list[bytes] = []
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.owner = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def bodies(self) -> list[Json]:
        return [json.loads(body) for body in self.raw_bodies]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    owner: StandIn

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def log_message(self, *args: object) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        body = cast("Json", json.loads(data))
        path = self.path.partition("?")[0]
        if path != "/api/show":
            cast("_Server", self.server).owner.raw_bodies.append(data)
        if path == "/v1/messages":
            self._answer(body, _message(body), _message_events)
        elif path == "/v1/responses":
            self._answer(body, _response(body), _response_events)
        elif path == "/api/chat":
            lines = [*_ollama(body)]
            self._send(b"".join(json.dumps(line).encode() + b"\n" for line in lines), "application/x-ndjson")
        elif path == "/api/show":
            self._send(json.dumps({"model_info": {"llama.context_length": 4096}}).encode(), "application/json")
        else:
            self.send_error(404)

    def _answer(self, body: Json, whole: Json, events: Any) -> None:
        if not body.get("stream"):
            self._send(json.dumps(whole).encode(), "application/json")
            return
        lines = [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events(whole)]
        self._send(b"".join(lines), "text/event-stream")

    def _send(self, data: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _pieces(messages: list[Json]) -> list[str]:
    said = messages[-1].get("content")
    return [*PIECES, said if isinstance(said, str) else json.dumps(said)]


def _message(body: Json) -> Json:
    blocks: list[Json] = [{"type": "text", "text": "".join(_pieces(body["messages"]))}]
    if body.get("thinking"):
        blocks.insert(0, {"type": "thinking", "thinking": "let me think", "signature": "c2ln"})
    if tools := body.get("tools"):
        blocks.append({"type": "tool_use", "id": f"toolu_{uuid.uuid4().hex[:12]}", "name": tools[0]["name"], "input": {"a": 7, "b": 7}})
    usage = {"input_tokens": 9, "output_tokens": 5}
    return {
        "id": f"msg_{uuid.uuid4().hex[:12]}", "type": "message", "role": "assistant", "model": body["model"], "content": blocks,
        "stop_reason": "tool_use" if tools else "end_turn", "stop_sequence": None, "usage": usage,
    }  # fmt: skip


def _message_events(whole: Json) -> Iterator[Json]:
    yield {"type": "message_start", "message": {**whole, "content": [], "stop_reason": None}}
    for index, block in enumerate(whole["content"]):
        kind = block["type"]
        empty = {"text": {"text": ""}, "thinking": {"thinking": "", "signature": ""}, "tool_use": {"input": {}}}[kind]
        yield {"type": "content_block_start", "index": index, "content_block": {**block, **empty}}
        deltas: list[Json] = []
        if kind == "text":
            deltas = [{"type": "text_delta", "text": part} for part in (block["text"][:3], block["text"][3:])]
        elif kind == "thinking":
            deltas = [{"type": "thinking_delta", "thinking": part} for part in ("let me ", "think")]
            deltas.append({"type": "signature_delta", "signature": block["signature"]})
        else:
            deltas = [{"type": "input_json_delta", "partial_json": json.dumps(block["input"])}]
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    yield {"type": "message_delta", "delta": {"stop_reason": whole["stop_reason"], "stop_sequence": None}, "usage": whole["usage"]}
    yield {"type": "message_stop"}


def _ollama(body: Json) -> Iterator[Json]:
    head = {"model": body["model"], "created_at": "2026-01-31T12:00:00Z"}
    end = {"done": True, "done_reason": "stop", "prompt_eval_count": 9, "eval_count": 5, "total_duration": 1}
    calls = [{"function": {"name": tool["function"]["name"], "arguments": {"a": 7, "b": 7}}} for tool in body.get("tools") or ()]
    more = {"tool_calls": calls} if calls else {}
    if not body.get("stream"):
        yield {**head, "message": {"role": "assistant", "content": "".join(_pieces(body["messages"])), **more}, **end}
        return
    for piece in _pieces(body["messages"]):
        yield {**head, "message": {"role": "assistant", "content": piece}, "done": False}
    yield {**head, "message": {"role": "assistant", "content": "", **more}, **end}


def _response(body: Json) -> Json:
    said = body["input"]
    text = "".join(_pieces(said if isinstance(said, list) else [{"content": said}]))
    content = [{"type": "output_text", "text": text, "annotations": []}]
    output = [{"type": "message", "id": f"msg_{uuid.uuid4().hex[:12]}", "role": "assistant", "status": "completed", "content": content}]
    usage = {"input_tokens": 9, "output_tokens": 5, "total_tokens": 14}
    usage |= {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    return {
        "id": f"resp_{uuid.uuid4().hex[:12]}", "object": "response", "created_at": 1, "model": body["model"], "output": output,
        "parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "status": "completed", "usage": usage,
    }  # fmt: skip


def _response_events(whole: Json) -> Iterator[Json]:
    (item,) = whole["output"]
    text = item["content"][0]["text"]
    at = {"item_id": item["id"], "output_index": 0, "content_index": 0, "logprobs": []}
    events: list[Json] = [{"type": "response.created", "response": {**whole, "output": [], "status": "in_progress", "usage": None}}]
    events += [{"type": "response.output_text.delta", **at, "delta": part} for part in (text[:3], text[3:])]
    events.append({"type": "response.completed", "response": whole})
    for number, event in enumerate(events):
        yield {**event, "sequence_number": number}
