"""A local HTTP server with scripted answers, for tests that need other answers than those of `OpenAIServer`."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

Json = dict[str, Any]
Reply = Json | bytes | tuple[int, Json]


class ScriptedServer:
    """`with ScriptedServer(script) as server: ChatOpenAI(base_url=server.url, api_key="none")`.

    Args:
        script: Returns the answer to a request from its path and body: JSON, a whole event stream, or a status and JSON.

    `bodies` has the bodies of all requests.
    """

    def __init__(self, script: Callable[[str, Json], Reply]) -> None:
        self.bodies: list[Json] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1

            def log_message(self, *args: object) -> None:
                pass

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                owner.bodies.append(body)
                reply = script(self.path, body)
                status, content = reply if isinstance(reply, tuple) else (200, reply)
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "text/event-stream" if isinstance(content, bytes) else "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    @property
    def calls(self) -> int:
        return len(self.bodies)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def event_stream(events: Iterable[Json], *, done: bool = False) -> bytes:
    """Return *events* as a provider streams them: with the names of their types, if they have some."""
    lines = [(f"event: {event['type']}\n" if "type" in event else "") + f"data: {json.dumps(event)}\n\n" for event in events]
    return ("".join(lines) + ("data: [DONE]\n\n" if done else "")).encode()


def chat_completion(body: Json, content: str | None, *, tool_calls: Iterable[tuple[str, str, str]] = ()) -> Reply:
    """Return an answer of Chat Completions, streamed if *body* asks for that. *tool_calls* are ids, names and arguments."""
    calls = [
        {"index": index, "id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}
        for index, (id_, name, arguments) in enumerate(tool_calls)
    ]
    message = {"role": "assistant", "content": content, **({"tool_calls": calls} if calls else {})}
    base = {"id": "chatcmpl-1", "created": 1, "model": body.get("model", "m")}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    finish = "tool_calls" if calls else "stop"
    if not body.get("stream"):
        choice = {"index": 0, "finish_reason": finish, "message": message}
        return {**base, "object": "chat.completion", "usage": usage, "choices": [choice]}
    chunk = {**base, "object": "chat.completion.chunk"}
    return event_stream(
        [
            {**chunk, "choices": [{"index": 0, "delta": message, "finish_reason": None}]},
            {**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]},
            {**chunk, "choices": [], "usage": usage},
        ],
        done=True,
    )


def response(body: Json, output: list[Json]) -> Reply:
    """Return an answer of OpenAI's Responses API with the items *output*, streamed if *body* asks for that."""
    usage = {"input_tokens": 1, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 1, "total_tokens": 2}
    usage["output_tokens_details"] = {"reasoning_tokens": 0}
    whole: Json = {
        "id": f"resp_{uuid.uuid4().hex}", "object": "response", "created_at": 1, "status": "completed", "error": None,
        "incomplete_details": None, "instructions": None, "model": body["model"], "output": output, "parallel_tool_calls": True,
        "tool_choice": "auto", "tools": [], "temperature": 1.0, "top_p": 1.0, "metadata": {}, "text": {"format": {"type": "text"}},
        "usage": usage,
    }  # fmt: skip
    if not body.get("stream"):
        return whole
    events: list[Json] = [{"type": "response.created", "response": {**whole, "status": "in_progress", "output": []}}]
    for index, item in enumerate(output):
        place = {"item_id": item["id"], "output_index": index}
        begun = {**item, **{name: empty for name, empty in (("content", []), ("summary", []), ("arguments", "")) if name in item}}
        events.append({"type": "response.output_item.added", "output_index": index, "item": begun})
        for part, summary in enumerate(item.get("summary", [])):
            at = {**place, "summary_index": part}
            events.append({"type": "response.reasoning_summary_part.added", **at, "part": {"type": "summary_text", "text": ""}})
            events.append({"type": "response.reasoning_summary_text.delta", **at, "delta": summary["text"]})
        for part, content in enumerate(item.get("content", [])):
            at = {**place, "content_index": part}
            events.append({"type": "response.output_text.delta", **at, "delta": content["text"], "logprobs": []})
            events.append({"type": "response.output_text.done", **at, "text": content["text"], "logprobs": []})
        if "arguments" in item:
            events.append({"type": "response.function_call_arguments.delta", **place, "delta": item["arguments"]})
        events.append({"type": "response.output_item.done", "output_index": index, "item": item})
    events.append({"type": "response.completed", "response": whole})
    return event_stream({**event, "sequence_number": number} for number, event in enumerate(events))
