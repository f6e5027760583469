"""Answers in the words of each provider, whole and as streams: enough for their clients to be content.

The text of each answer is `TEXT`, which is a JSON object, so that structured output by JSON reads it. A tool is called where the request
demands one, with arguments that the schemas of these tests accept.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Iterable
from typing import Any

from providers.recorder import Reply

Json = dict[str, Any]

TEXT = '{"colour": "red"}'
ARGUMENTS = {"colour": "red"}


def whole(value: Any) -> Reply:
    """Return *value* as JSON."""
    return 200, "application/json", json.dumps(value).encode()


def events(values: Iterable[Json], *, named: bool = False, done: bool = False) -> Reply:
    """Return *values* as server-sent events."""
    lines = [(f"event: {value['type']}\n" if named else "") + f"data: {json.dumps(value)}\n\n" for value in values]
    return 200, "text/event-stream", "".join([*lines, "data: [DONE]\n\n" if done else ""]).encode()


# --- OpenAI, and the many that speak as it does


def openai(path: str, body: Any) -> Reply | None:
    """Answer chats, completions and responses."""
    if path.endswith("/chat/completions"):
        return _chat(body)
    if path.endswith("/responses"):
        return _response(body)
    if path.endswith("/completions"):
        return _completion(body)
    if path.endswith("/models"):
        return whole({"object": "list", "data": [{"id": name, "object": "model", "created": 1, "owned_by": "us"} for name in ("m", "n")]})
    return None


def _forced_tool(body: Json) -> str | None:
    """Return the name of the tool that the request demands, in OpenAI's form."""
    choice = body.get("tool_choice")
    if not body.get("tools") or choice is None or choice in ("auto", "none"):
        return None
    tool = body["tools"][0]
    return tool.get("function", tool)["name"]


def _chat(body: Json) -> Reply:
    head: Json = {"id": "chatcmpl-1", "created": 1, "model": body.get("model", "m"), "system_fingerprint": None}
    usage = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}
    message: Json = {"role": "assistant", "content": TEXT}
    reason = "stop"
    if name := _forced_tool(body):
        call = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": json.dumps(ARGUMENTS)}}
        message, reason = {"role": "assistant", "content": TEXT, "tool_calls": [call]}, "tool_calls"
    if not body.get("stream"):
        choices = [{"index": index, "message": message, "finish_reason": reason} for index in range(body.get("n") or 1)]
        return whole({**head, "object": "chat.completion", "choices": choices, "usage": usage})
    delta = (
        {**message, "tool_calls": [{"index": 0, **call} for call in message.get("tool_calls", [])]} if reason == "tool_calls" else message
    )
    head["object"] = "chat.completion.chunk"
    return events(
        [
            {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]},
            {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}], "usage": usage},
        ],
        done=True,
    )


def _completion(body: Json) -> Reply:
    head = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": body.get("model", "m")}
    prompts = body["prompt"] if isinstance(body["prompt"], list) else [body["prompt"]]
    choices = [{"index": i, "text": TEXT, "finish_reason": "stop", "logprobs": None} for i in range(len(prompts) * (body.get("n") or 1))]
    usage = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}
    return (
        events([{**head, "choices": choices[:1]}], done=True) if body.get("stream") else whole({**head, "choices": choices, "usage": usage})
    )


def _response(body: Json) -> Reply:
    content = [{"type": "output_text", "text": TEXT, "annotations": []}]
    item: Json = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": content}
    if name := _forced_tool(body):
        arguments = json.dumps(ARGUMENTS)
        item = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": name, "arguments": arguments, "status": "completed"}
    usage = {"input_tokens": 9, "output_tokens": 5, "total_tokens": 14}
    usage |= {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    response = {
        "id": "resp_1", "object": "response", "created_at": 1, "model": body.get("model", "m"), "output": [item], "usage": usage,
        "parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "status": "completed", "error": None, "incomplete_details": None,
    }  # fmt: skip
    if not body.get("stream"):
        return whole(response)
    at = {"item_id": item["id"], "output_index": 0, "content_index": 0, "logprobs": []}
    said: list[Json] = [
        {"type": "response.created", "response": {**response, "output": [], "status": "in_progress", "usage": None}},
        {"type": "response.output_item.added", "output_index": 0, "item": {**item, "content": []} if "content" in item else item},
    ]
    if "content" in item:
        said.append({"type": "response.output_text.delta", **at, "delta": TEXT})
    said += [
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": response},
    ]
    return events([{**event, "sequence_number": number} for number, event in enumerate(said)], named=True)


# --- Anthropic


def anthropic(path: str, body: Any) -> Reply | None:
    """Answer messages."""
    if not path.endswith("/messages"):
        return None
    message = _anthropic_message(body)
    return events(_anthropic_events(message), named=True) if body.get("stream") else whole(message)


def _anthropic_message(body: Json) -> Json:
    block: Json = {"type": "text", "text": TEXT}
    if body.get("tools") and (body.get("tool_choice") or {}).get("type") in {"any", "tool"}:
        block = {"type": "tool_use", "id": "toolu_1", "name": body["tools"][0]["name"], "input": ARGUMENTS}
    usage = {"input_tokens": 9, "output_tokens": 5}
    return {
        "id": "msg_1", "type": "message", "role": "assistant", "model": body.get("model", "m"), "content": [block], "usage": usage,
        "stop_reason": "end_turn", "stop_sequence": None,
    }  # fmt: skip


def _anthropic_events(message: Json) -> list[Json]:
    (block,) = message["content"]
    empty, delta = {"text": ""}, {"type": "text_delta", "text": TEXT}
    if block["type"] == "tool_use":
        empty, delta = {"input": {}}, {"type": "input_json_delta", "partial_json": json.dumps(ARGUMENTS)}
    return [
        {"type": "message_start", "message": {**message, "content": [], "stop_reason": None}},
        {"type": "content_block_start", "index": 0, "content_block": {**block, **empty}},
        {"type": "content_block_delta", "index": 0, "delta": delta},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": message["usage"]},
        {"type": "message_stop"},
    ]


# --- Google


def google(path: str, body: Any) -> Reply | None:
    """Answer what Gemini is asked."""
    if "enerateContent" not in path:
        return None
    part: Json = {"text": TEXT}
    if body.get("tools") and (body.get("toolConfig") or {}).get("functionCallingConfig", {}).get("mode") == "ANY":
        part = {"functionCall": {"name": body["tools"][0]["functionDeclarations"][0]["name"], "args": ARGUMENTS}}
    usage = {"promptTokenCount": 9, "candidatesTokenCount": 5, "totalTokenCount": 14}
    candidate = {"content": {"role": "model", "parts": [part]}, "finishReason": "STOP", "index": 0}
    answer = {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "m", "responseId": "1"}
    if "stream" not in path:
        return whole(answer)
    return events([answer]) if path.endswith("?alt=sse") else whole([answer])


# --- Ollama


def ollama(path: str, body: Any) -> Reply | None:
    """Answer chats and completions."""
    said: Json = {"role": "assistant", "content": TEXT}
    if body.get("tools"):  # its requests do not say whether a tool has to be called
        function = {"name": body["tools"][0]["function"]["name"], "arguments": ARGUMENTS}
        said = {"role": "assistant", "content": "", "tool_calls": [{"function": function}]}
    if path.endswith("/api/chat"):
        part: Json = {"message": said}
    elif path.endswith("/api/generate"):
        part = {"response": TEXT}
    else:
        return None
    end = {"done": True, "done_reason": "stop", "prompt_eval_count": 9, "eval_count": 5, "total_duration": 1, "load_duration": 1}
    answer = {"model": body.get("model"), "created_at": "2026-01-31T12:00:00Z", **part, **end}
    return 200, "application/x-ndjson", json.dumps(answer).encode() + b"\n"


# --- Bedrock


def bedrock(path: str, body: Any) -> Reply | None:
    """Answer what Bedrock's runtime is asked."""
    usage = {"inputTokens": 9, "outputTokens": 5, "totalTokens": 14}
    if path.endswith(("/converse", "/converse-stream")):
        block: Json = {"text": TEXT}
        config = body.get("toolConfig") or {}
        if config.get("toolChoice", {}).keys() & {"any", "tool"}:
            block = {"toolUse": {"toolUseId": "tool_1", "name": config["tools"][0]["toolSpec"]["name"], "input": ARGUMENTS}}
        if path.endswith("/converse"):
            message = {"role": "assistant", "content": [block]}
            return whole({"output": {"message": message}, "stopReason": "end_turn", "usage": usage, "metrics": {"latencyMs": 1}})
        start: Json = {"contentBlockIndex": 0, "start": {}}
        delta: Json = {"text": TEXT}
        if "toolUse" in block:
            start["start"] = {"toolUse": {"toolUseId": "tool_1", "name": block["toolUse"]["name"]}}
            delta = {"toolUse": {"input": json.dumps(ARGUMENTS)}}
        return _aws_events(
            [
                ("messageStart", {"role": "assistant"}),
                *([("contentBlockStart", start)] if "toolUse" in block else []),
                ("contentBlockDelta", {"contentBlockIndex": 0, "delta": delta}),
                ("contentBlockStop", {"contentBlockIndex": 0}),
                ("messageStop", {"stopReason": "end_turn"}),
                ("metadata", {"usage": usage, "metrics": {"latencyMs": 1}}),
            ]
        )
    if path.endswith("/invoke"):
        return whole(_anthropic_message(body))
    if path.endswith("/invoke-with-response-stream"):
        said = _anthropic_events(_anthropic_message(body))
        return _aws_events([("chunk", {"bytes": binascii.b2a_base64(json.dumps(one).encode(), newline=False).decode()}) for one in said])
    return None


def _aws_events(values: Iterable[tuple[str, Json]]) -> Reply:
    """Return *values* in the binary form of AWS's event streams."""
    return 200, "application/vnd.amazon.eventstream", b"".join(_aws_event(name, value) for name, value in values)


def _aws_event(name: str, value: Json) -> bytes:
    fields = {":event-type": name, ":content-type": "application/json", ":message-type": "event"}
    headers = b"".join(
        bytes([len(key)]) + key.encode() + b"\x07" + len(text).to_bytes(2, "big") + text.encode() for key, text in fields.items()
    )
    payload = json.dumps(value).encode()
    prelude = (len(headers) + len(payload) + 16).to_bytes(4, "big") + len(headers).to_bytes(4, "big")
    message = prelude + binascii.crc32(prelude).to_bytes(4, "big") + headers + payload
    return message + binascii.crc32(message).to_bytes(4, "big")


# --- Cohere


def cohere(path: str, body: Any) -> Reply | None:
    """Answer chats of both versions."""
    if not path.endswith("/chat"):
        return None
    usage = {"billed_units": {"input_tokens": 9, "output_tokens": 5}, "tokens": {"input_tokens": 9, "output_tokens": 5}}
    if not path.endswith("/v2/chat"):
        answer: Json = {"text": TEXT, "generation_id": "1", "response_id": "1", "finish_reason": "COMPLETE", "meta": usage}
        if not body.get("stream"):
            return whole(answer)
        said: list[Json] = [
            {"event_type": "stream-start", "generation_id": "1"},
            {"event_type": "text-generation", "text": TEXT},
            {"event_type": "stream-end", "finish_reason": "COMPLETE", "response": answer},
        ]
        return 200, "application/stream+json", b"".join(json.dumps(one).encode() + b"\n" for one in said)
    message: Json = {"role": "assistant", "content": [{"type": "text", "text": TEXT}]}
    reason = "COMPLETE"
    if body.get("tools") and (body.get("tool_choice") == "REQUIRED"):
        function = {"name": body["tools"][0]["function"]["name"], "arguments": json.dumps(ARGUMENTS)}
        message = {"role": "assistant", "tool_calls": [{"id": "call_1", "type": "function", "function": function}], "tool_plan": "so"}
        reason = "TOOL_CALL"
    if not body.get("stream"):
        return whole({"id": "1", "finish_reason": reason, "message": message, "usage": usage})
    return events(
        [
            {"type": "message-start", "id": "1", "delta": {"message": {"role": "assistant"}}},
            {"type": "content-start", "index": 0, "delta": {"message": {"content": {"type": "text", "text": ""}}}},
            {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": TEXT}}}},
            {"type": "content-end", "index": 0},
            {"type": "message-end", "id": "1", "delta": {"finish_reason": reason, "usage": usage}},
        ],
        named=True,
    )


# --- Hugging Face


def hugging_face(path: str, body: Any) -> Reply | None:
    """Return the answer of a text generation endpoint."""
    if not isinstance(body, dict) or "inputs" not in body:
        return None
    if body.get("stream"):
        token = {"id": 1, "text": TEXT, "logprob": 0.0, "special": False}
        return events([{"index": 1, "token": token, "generated_text": TEXT, "details": None}])
    return whole([{"generated_text": TEXT}])


ALL = (hugging_face, openai, anthropic, google, ollama, bedrock, cohere)
