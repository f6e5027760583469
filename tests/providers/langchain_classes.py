"""LangChain's classes, as the oracle sees them."""

from __future__ import annotations

from typing import Any, Literal

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from providers.langchain_entries import CHAT, Binding
from providers.oracle import Subject
from pydantic import BaseModel


class Paint(BaseModel):
    """Paint a wall."""

    colour: str


class Draw(BaseModel):
    """Draw a line."""

    colour: str
    width: int = 1


class Answer(BaseModel):
    """An answer."""

    colour: Literal["red", "green"]


_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
_PDF = "JVBERi0xLjQK"
_CALL = {"name": "Paint", "args": {"colour": "red"}, "id": "call_1", "type": "tool_call"}


def _asked(*blocks: dict[str, Any]) -> list[Any]:
    return [HumanMessage([{"type": "text", "text": "Which colour?"}, *blocks])]


PROMPTS: dict[str, Any] = {
    "plain": "Which colour?",
    "another text": "Which size?",
    "with a system message": [SystemMessage("Be brief."), HumanMessage("Which colour?")],
    "with another system message": [SystemMessage("Be long."), HumanMessage("Which colour?")],
    "a text block": _asked(),
    "two text blocks": _asked({"type": "text", "text": "Or size?"}),
    "an image": _asked({"type": "image", "base64": _PIXEL, "mime_type": "image/png"}),
    "an image in OpenAI's form": _asked({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{_PIXEL}"}}),
    "an image in less detail": _asked({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{_PIXEL}", "detail": "low"}}),
    "a file": _asked({"type": "file", "base64": _PDF, "mime_type": "application/pdf", "filename": "a.pdf"}),
    "a file of another name": _asked({"type": "file", "base64": _PDF, "mime_type": "application/pdf", "filename": "b.pdf"}),
    "sound": _asked({"type": "audio", "base64": "UklGRg==", "mime_type": "audio/wav"}),
    "a block with cache control": _asked({"type": "text", "text": "Or size?", "cache_control": {"type": "ephemeral"}}),
    "a tool's result": [
        HumanMessage("Paint."),
        AIMessage("", tool_calls=[_CALL]),
        ToolMessage("done", tool_call_id="call_1", name="Paint"),
    ],
    "a tool's error": [
        HumanMessage("Paint."),
        AIMessage("", tool_calls=[_CALL]),
        ToolMessage("done", tool_call_id="call_1", name="Paint", status="error"),
    ],
    "an answer before": [HumanMessage("Hello."), AIMessage("Hello!"), HumanMessage("Which colour?")],
    "an answer with reasoning": [
        HumanMessage("Hello."),
        AIMessage([{"type": "reasoning", "reasoning": "A greeting."}, {"type": "text", "text": "Hello!"}]),
        HumanMessage("Which colour?"),
    ],
    "an answer with reasoning beside it": [
        HumanMessage("Hello."),
        AIMessage("Hello!", additional_kwargs={"reasoning_content": "A greeting."}),
        HumanMessage("Which colour?"),
    ],
    "a name": [HumanMessage("Which colour?", name="ann")],
}

BOUND: dict[str, Any] = {
    "a tool": Binding(tools=(Paint,)),
    "another tool": Binding(tools=(Draw,)),
    "two tools": Binding(tools=(Paint, Draw)),
    "a tool, any": Binding(tools=(Paint,), arguments={"tool_choice": "any"}),
    "a tool, by name": Binding(tools=(Paint,), arguments={"tool_choice": "Paint"}),
    "structured output": Binding(schema=Answer),
    "structured output, by a tool": Binding(schema=Answer, arguments={"method": "function_calling"}),
    "structured output, by a schema": Binding(schema=Answer, arguments={"method": "json_schema"}),
    "another structured output": Binding(schema=Paint),
    "stop": Binding(arguments={"stop": ["END"]}),
    "another stop": Binding(arguments={"stop": ["FIN"]}),
}

CALLS: dict[str, tuple[Any, Any]] = {
    "stop": (["END"], ["FIN"]),
    "temperature": (0.25, 0.75),
    "max_tokens": (64, 128),
    "model": ("model-b", "model-c"),
}

# fields that LangChain's base classes have, of which no request depends on any
OF_LANGCHAIN = {
    "cache": "the cache itself",
    "callbacks": "told of calls, not part of them",
    "custom_get_token_ids": "counts tokens for the caller",
    "rate_limiter": "when a request is sent, not which",
}
HEADERS = {"default_headers": ({"X-Tenant": "a"}, {"X-Tenant": "b"})}
HTTP = {
    "client": "makes the requests",
    "async_client": "makes the requests",
    "root_client": "makes the requests",
    "root_async_client": "makes the requests",
    "http_client": "makes the requests",
    "http_async_client": "makes the requests",
    "http_socket_options": "options of sockets",
}
OPENAI_VALUES: dict[str, tuple[Any, Any]] = {
    **HEADERS,
    "openai_api_base": ("{url}/v1", "{url}/other/v1"),
    "default_query": ({"a": "1"}, {"a": "2"}),
    "openai_proxy": ("", "{url}"),
    "logit_bias": ({1: 5}, {1: 6}),
    "reasoning": ({"effort": "low"}, {"effort": "high"}),
    "reasoning_effort": ("low", "high"),
    "verbosity": ("low", "high"),
    "service_tier": ("flex", "priority"),
    "truncation": ("auto", "disabled"),
    "disabled_params": ({"temperature": None}, {"top_p": None}),
    "extra_body": ({"a": {"b": 1}}, {"a": {"b": True}}),
    "model_kwargs": ({"user": "a"}, {"user": "b"}),
    "include": (["reasoning.encrypted_content"], ["message.output_text.logprobs"]),
    "top_logprobs": (2, 3),
    "n": (2, 3),
    "output_version": ("responses/v1", "v1"),
    "tiktoken_model_name": ("gpt-4", "gpt-4o"),
}
_OPENAI_ASIDE = {
    **OF_LANGCHAIN,
    **HTTP,
    "openai_proxy": "the way to the address",
}

OPENAI = Subject(
    name="ChatOpenAI",
    module="langchain_openai",
    distribution="langchain-openai",
    needs={"model": "gpt-4o-mini", "base_url": "{url}/v1", "api_key": "none"},
    address=("base_url",),
    addresses={"OPENAI_BASE_URL": "{url}/v1", "OPENAI_API_BASE": "{url}/v1"},
    values=OPENAI_VALUES,
    not_varied=_OPENAI_ASIDE,
    calls=CALLS,
    prompts=PROMPTS,
    bound=BOUND,
    entries=CHAT,
)

SUBJECTS = (OPENAI,)
