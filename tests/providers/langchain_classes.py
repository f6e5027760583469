"""LangChain's classes, as the oracle sees them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from providers.langchain_entries import CHAT, PLAIN, SYNC, Binding
from providers.oracle import Made, Subject
from pydantic import BaseModel, SecretStr


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

# fields of LangChain's base classes that no request depends on
OF_LANGCHAIN = {
    "cache": "the cache itself",
    "callbacks": "reports calls and is no part of them",
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
# why a key may differ where the requests are equal
LATE = "the client was made before and does not take it any more, but it counts"
FORM = "decides the form in which the answer is kept"
TWICE = "one request, written in two ways"
UNSENT = "this provider is not sent it, but it counts"
ELSEWHERE = "this request does not depend on it, other requests do"
MISSES = {
    "* (assigned)": LATE,
    "* (copied)": LATE,
    "* (taken back)": LATE,
    "* (as before)": LATE,
    "output_version (*)": FORM,
    "prompt an image, an image in OpenAI's form (prompt)": TWICE,
    "prompt an image in OpenAI's form, an image in less detail (prompt)": UNSENT,
    "prompt a tool's result, a tool's error (prompt)": UNSENT,
    "prompt a file, a file of another name (prompt)": UNSENT,
    "prompt a name (prompt)": UNSENT,
    "prompt an answer before, an answer with reasoning (prompt)": UNSENT,
    "prompt an answer with reasoning, an answer with reasoning beside it (prompt)": UNSENT,
    "bound a tool, any, a tool, by name (bound)": TWICE,
}
LATER = "when requests are sent, but it counts"
OTHER_CLIENT = "the client of the other kind of calls takes it"
_OPENAI_MISSES = {
    **MISSES,
    "tiktoken_model_name (*)": "counts tokens for the caller",
    "include_response_headers (*)": "decides the content of the answer",
    "disabled_params (*)": ELSEWHERE,
    "use_previous_response_id (*)": ELSEWHERE,
    "openai_organization (*)": UNSENT,
    "openai_api_base (*)": UNSENT,
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

_AZURE_ASIDE = {
    "azure_ad_token": "lets the caller in",
    "azure_ad_token_provider": "lets the caller in",
    "azure_ad_async_token_provider": "lets the caller in",
}


def _after(container: str) -> list[Any]:
    return [HumanMessage("Hello."), AIMessage("Hello!", response_metadata={"container": {"id": container}}), HumanMessage("Which colour?")]


_CONTAINERS = {"an answer from a container": _after("one"), "an answer from another container": _after("two")}

OPENAI = Subject(
    name="ChatOpenAI",
    module="langchain_openai",
    distribution="langchain-openai",
    needs={"model": "gpt-4o-mini", "base_url": "{url}/v1", "api_key": "none", "max_retries": 0},
    address=("base_url",),
    addresses={"OPENAI_BASE_URL": "{url}/v1", "OPENAI_API_BASE": "{url}/v1"},
    values=OPENAI_VALUES,
    not_varied=_OPENAI_ASIDE,
    calls=CALLS,
    prompts=PROMPTS,
    bound=BOUND,
    entries=CHAT,
    misses=_OPENAI_MISSES,
)

RESPONSES = replace(
    OPENAI,
    name="ChatOpenAI",
    variant="Responses",
    needs={**OPENAI.needs, "use_responses_api": True},
    bound={name: binding for name, binding in BOUND.items() if not name.startswith(("stop", "another stop"))},
)

AZURE = Subject(
    name="AzureChatOpenAI",
    module="langchain_openai",
    distribution="langchain-openai",
    needs={"azure_deployment": "mine", "azure_endpoint": "{url}", "api_version": "2024-10-21", "api_key": "none", "max_retries": 0},
    address=("azure_endpoint",),
    addresses={"AZURE_OPENAI_ENDPOINT": "{url}"},
    values={**OPENAI_VALUES, "azure_endpoint": ("{url}", "{url}/other"), "openai_api_version": ("2024-10-21", "2024-12-01-preview")},
    not_varied={**_OPENAI_ASIDE, **_AZURE_ASIDE},
    calls=CALLS,
    prompts=PROMPTS,
    bound=BOUND,
    entries=CHAT,
    misses=_OPENAI_MISSES,
)

OPENAI_COMPLETIONS = Subject(
    name="OpenAI",
    module="langchain_openai",
    distribution="langchain-openai",
    needs={"model": "gpt-3.5-turbo-instruct", "base_url": "{url}/v1", "api_key": "none", "max_retries": 0},
    address=("base_url",),
    addresses={"OPENAI_BASE_URL": "{url}/v1", "OPENAI_API_BASE": "{url}/v1"},
    values={
        **HEADERS,
        "openai_api_base": ("{url}/v1", "{url}/other/v1"),
        "model_kwargs": ({"user": "a"}, {"user": "b"}),
        "default_query": ({"a": "1"}, {"a": "2"}),
        "logit_bias": ({"1": 5.0}, {"1": 6.0}),
        "extra_body": ({"a": 1}, {"a": 2}),
        "n": (2, 3),
        "best_of": (2, 3),
    },
    not_varied=_OPENAI_ASIDE,
    calls={"stop": (["END"], ["FIN"]), "temperature": (0.25, 0.75), "max_tokens": (64, 128)},
    prompts={"plain": "Which colour?", "another text": "Which size?"},
    entries=PLAIN,
    misses=_OPENAI_MISSES,
)

ANTHROPIC = Subject(
    name="ChatAnthropic",
    module="langchain_anthropic",
    distribution="langchain-anthropic",
    needs={"model": "claude-sonnet-4-5", "base_url": "{url}", "api_key": "none", "max_tokens": 64, "max_retries": 0},
    address=("base_url",),
    addresses={"ANTHROPIC_BASE_URL": "{url}", "ANTHROPIC_API_URL": "{url}"},
    values={
        **HEADERS,
        "anthropic_api_url": ("{url}", "{url}/other"),
        "model_kwargs": ({"metadata": {"user_id": "a"}}, {"metadata": {"user_id": "b"}}),
        "thinking": ({"type": "enabled", "budget_tokens": 1024}, {"type": "enabled", "budget_tokens": 2048}),
        "mcp_servers": (
            [{"type": "url", "url": "https://a.test", "name": "a", "authorization_token": "t"}],
            [{"type": "url", "url": "https://b.test", "name": "b", "authorization_token": "t"}],
        ),
        "context_management": (
            {"edits": [{"type": "clear_tool_uses_20250919"}]},
            {"edits": [{"type": "clear_tool_uses_20250919", "keep": {"type": "tool_uses", "value": 3}}]},
        ),
        "betas": (["one-2025-01-01"], ["two-2025-01-01"]),
        "output_version": ("v0", "v1"),
        "output_config": ({"effort": "low"}, {"effort": "high"}),
        "container": ("one", "two"),
        "max_tokens": (65, 66),
    },
    not_varied={**OF_LANGCHAIN, "anthropic_proxy": "the way to the address"},
    calls=CALLS,
    prompts={**PROMPTS, **_CONTAINERS},
    bound=BOUND,
    entries=CHAT,
    misses={**MISSES, "call max_tokens (call)": TWICE, "reuse_last_container (*)": ELSEWHERE},
)
ANTHROPIC_CONTAINERS = replace(
    ANTHROPIC,
    variant="reuse_last_container",
    needs={**ANTHROPIC.needs, "reuse_last_container": True},
    values={},
    fields=(),
    bound={},
    calls={},
)

GOOGLE = Subject(
    name="ChatGoogleGenerativeAI",
    module="langchain_google_genai",
    distribution="langchain-google-genai",
    needs={"model": "gemini-2.5-flash", "google_api_key": "none", "base_url": "{url}", "max_retries": 1},
    address=("base_url",),
    addresses={"GOOGLE_GEMINI_BASE_URL": "{url}"},
    values={
        "base_url": ("{url}", "{url}/other"),
        "additional_headers": ({"X-Tenant": "a"}, {"X-Tenant": "b"}),
        "api_version": ("v1", "v1alpha"),
        "thinking_budget": (128, 256),
        "thinking_level": ("low", "high"),
        "response_modalities": (["TEXT"], ["IMAGE"]),
        "media_resolution": ("MEDIA_RESOLUTION_LOW", "MEDIA_RESOLUTION_HIGH"),
        "safety_settings": (
            {"HARM_CATEGORY_HARASSMENT": "BLOCK_NONE"},
            {"HARM_CATEGORY_HARASSMENT": "BLOCK_ONLY_HIGH"},
        ),
        "response_mime_type": ("application/json", "text/plain"),
        "model_kwargs": ({"seed": 1}, {"seed": 2}),
        "image_config": ({"aspect_ratio": "1:1"}, {"aspect_ratio": "16:9"}),
        "thinking_config": ({"thinking_budget": 128}, {"thinking_budget": 256}),
        "cached_content": ("cachedContents/a", "cachedContents/b"),
        "default_metadata": ([("x-tenant", "a")], [("x-tenant", "b")]),
        "labels": ({"a": "1"}, {"a": "2"}),
    },
    not_varied={**OF_LANGCHAIN, **HTTP, "credentials": "let the caller in"},
    calls={**CALLS, "max_output_tokens": (64, 128), "cached_content": ("cachedContents/a", "cachedContents/b")},
    prompts=PROMPTS,
    bound=BOUND,
    entries=CHAT,
    misses={
        **MISSES,
        "api_version (given)": TWICE,
        "client_args (*)": "options of the HTTP client, but they count",
        "convert_system_message_to_human (*)": UNSENT,
        "location (*)": ELSEWHERE,
        "media_resolution (*)": UNSENT,
        "prompt a text block (prompt)": TWICE,
    },
)

VERTEX = Subject(
    name="ChatVertexAI",
    module="langchain_google_vertexai",
    distribution="langchain-google-vertexai",
    needs={
        "model": "gemini-2.5-flash",
        "project": "p",
        "location": "us-central1",
        "credentials": Made("google.auth.credentials", "AnonymousCredentials", {}),
        "api_transport": "rest",
        "api_endpoint": "{host}",
        "max_retries": 1,
    },
    address=("api_endpoint",),
    values={
        "api_endpoint": ("{host}", "localhost:1"),
        "additional_headers": ({"X-Tenant": "a"}, {"X-Tenant": "b"}),
        "safety_settings": GOOGLE.values["safety_settings"],
        "thinking_budget": (128, 256),
        "response_modalities": (["TEXT"], ["IMAGE"]),
        "model_name": ("gemini-2.5-pro", "gemini-2.0-flash"),
        "cached_content": ("cachedContents/a", "cachedContents/b"),
        "labels": ({"a": "1"}, {"a": "2"}),
        "response_mime_type": ("application/json", "text/plain"),
        "model_kwargs": ({"seed": 1}, {"seed": 2}),
        "default_metadata": ([("x-tenant", "a")], [("x-tenant", "b")]),
    },
    not_varied={
        **OF_LANGCHAIN,
        **HTTP,
        "client_preview": "makes the requests",
        "client_options": "made of the other fields",
        "client_cert_source": "lets the caller in",
        "credentials": "let the caller in",
        "api_transport": "how requests are sent, not which",
        "streaming": "a stream has one answer, and its request does not give the number",
    },
    calls={"stop": (["END"], ["FIN"]), "temperature": (0.25, 0.75), "max_output_tokens": (64, 128)},
    prompts=PROMPTS,
    bound=BOUND,
    entries=SYNC,
    misses=MISSES,
)

_AWS = {
    "AWS_ACCESS_KEY_ID": "a",
    "AWS_SECRET_ACCESS_KEY": "b",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_MAX_ATTEMPTS": "1",
}
_AWS_ASIDE = {
    **OF_LANGCHAIN,
    **HTTP,
    "bedrock_client": "looks models up",
    "credentials_profile_name": "names credentials",
    "bedrock_api_key": "lets the caller in, and needs HTTPS",
    "config": "an object of botocore, for time-outs and retries",
}
_AWS_VALUES: dict[str, tuple[Any, Any]] = {
    **HEADERS,
    "endpoint_url": ("{url}", "{url}/other"),
    "guardrails": ({"guardrailIdentifier": "a", "guardrailVersion": "1"}, {"guardrailIdentifier": "b", "guardrailVersion": "1"}),
    "guardrail_config": ({"guardrailIdentifier": "a", "guardrailVersion": "1"}, {"guardrailIdentifier": "b", "guardrailVersion": "1"}),
    "model_kwargs": ({"top_k": 3}, {"top_k": 4}),
    "region_name": ("us-west-2", "eu-west-1"),
    "performance_config": ({"latency": "standard"}, {"latency": "optimized"}),
    "service_tier": ("default", "priority"),
    "request_metadata": ({"a": "1"}, {"a": "2"}),
    "additional_model_request_fields": ({"top_k": 3}, {"top_k": 4}),
    "additional_model_response_field_paths": (["/a"], ["/b"]),
    "aws_access_key_id": (SecretStr("a"), SecretStr("b")),
    "aws_secret_access_key": (SecretStr("a"), SecretStr("b")),
    "aws_session_token": (SecretStr("a"), SecretStr("b")),
}
BEDROCK = Subject(
    name="ChatBedrock",
    module="langchain_aws",
    distribution="langchain-aws",
    needs={"model": "anthropic.claude-3-haiku-20240307-v1:0", "endpoint_url": "{url}", "region_name": "us-east-1"},
    environment=_AWS,
    address=("endpoint_url",),
    addresses={"AWS_ENDPOINT_URL_BEDROCK_RUNTIME": "{url}", "AWS_ENDPOINT_URL": "{url}"},
    values=_AWS_VALUES,
    not_varied=_AWS_ASIDE,
    calls={"stop": (["END"], ["FIN"]), "temperature": (0.25, 0.75), "max_tokens": (64, 128)},
    prompts=PROMPTS,
    bound=BOUND,
    entries=CHAT,
    misses={
        **MISSES,
        "prompt a text block (prompt)": TWICE,
        **{f"{name} (*)": ELSEWHERE for name in ("base_model_id", "provider", "reasoning_effort", "region_name")},
        "supports_tool_choice_values (*)": ELSEWHERE,
    },
)
BEDROCK_CONVERSE = replace(
    BEDROCK,
    name="ChatBedrockConverse",
    values={
        **_AWS_VALUES,
        "system": (["Be brief."], ["Be long."]),
        "output_config": ({"effort": "low"}, {"effort": "high"}),
    },
)

OLLAMA = Subject(
    name="ChatOllama",
    module="langchain_ollama",
    distribution="langchain-ollama",
    needs={"model": "llama3", "base_url": "{url}"},
    address=("base_url",),
    addresses={"OLLAMA_HOST": "{url}"},
    values={
        "base_url": ("{url}", "{url}/other"),
        "format": ("json", {"type": "object"}),
        "client_kwargs": ({"headers": {"X-Tenant": "a"}}, {"headers": {"X-Tenant": "b"}}),
        "sync_client_kwargs": ({"headers": {"X-Tenant": "a"}}, {"headers": {"X-Tenant": "b"}}),
        "async_client_kwargs": ({"headers": {"X-Tenant": "a"}}, {"headers": {"X-Tenant": "b"}}),
        "model": ("mistral", "gemma"),
    },
    not_varied={**OF_LANGCHAIN, "validate_model_on_init": "a request when the model is made"},
    calls={
        "stop": (["END"], ["FIN"]),
        "options": ({"seed": 1}, {"seed": 2}),
        "model": ("mistral", "gemma"),
        "format": ("json", {"type": "object"}),
    },
    prompts=PROMPTS,
    bound=BOUND,
    entries=CHAT,
    misses={
        **MISSES,
        "keep_alive (*)": "how long the provider keeps the model in memory, but it counts",
        "sync_client_kwargs (*)": OTHER_CLIENT,
        "async_client_kwargs (*)": OTHER_CLIENT,
    },
)
OLLAMA_COMPLETIONS = replace(
    OLLAMA,
    name="OllamaLLM",
    calls={"stop": (["END"], ["FIN"]), "options": ({"seed": 1}, {"seed": 2})},
    prompts={"plain": "Which colour?", "another text": "Which size?"},
    bound={},
    entries=PLAIN,
)

MISTRAL = Subject(
    name="ChatMistralAI",
    module="langchain_mistralai",
    distribution="langchain-mistralai",
    needs={"model": "mistral-small", "base_url": "{url}/v1", "api_key": "none", "max_retries": 0},
    address=("base_url",),
    addresses={"MISTRAL_BASE_URL": "{url}/v1"},
    values={"endpoint": ("{url}/v1", "{url}/other/v1"), "model_kwargs": ({"a": 1}, {"a": 2})},
    not_varied={**OF_LANGCHAIN, **HTTP},
    calls=CALLS,
    prompts=PROMPTS,
    bound=BOUND,
    entries=CHAT,
    misses={**MISSES, "max_concurrent_requests (*)": LATER},
)

GROQ = Subject(
    name="ChatGroq",
    module="langchain_groq",
    distribution="langchain-groq",
    needs={"model": "llama3", "base_url": "{url}", "api_key": "none"},
    address=("base_url",),
    addresses={"GROQ_API_BASE": "{url}", "GROQ_BASE_URL": "{url}"},
    values={
        **HEADERS,
        "groq_api_base": ("{url}", "{url}/other"),
        "default_query": ({"a": "1"}, {"a": "2"}),
        "model_kwargs": ({"seed": 1}, {"seed": 2}),
        "service_tier": ("flex", "auto"),
        "reasoning_effort": ("low", "high"),
    },
    not_varied={**OF_LANGCHAIN, **HTTP, "groq_proxy": "the way to the address"},
    calls=CALLS,
    prompts=PROMPTS,
    bound=BOUND,
    entries=CHAT,
    misses=MISSES,
)

DEEPSEEK = Subject(
    name="ChatDeepSeek",
    module="langchain_deepseek",
    distribution="langchain-deepseek",
    needs={"model": "deepseek-chat", "api_base": "{url}/v1", "api_key": "none"},
    address=("api_base",),
    addresses={"DEEPSEEK_API_BASE": "{url}/v1"},
    values={**OPENAI_VALUES, "api_base": ("{url}/v1", "{url}/other/v1"), "openai_api_base": ("one", "two")},
    not_varied=_OPENAI_ASIDE,
    calls=CALLS,
    prompts=PROMPTS,
    bound=BOUND,
    entries=CHAT,
    misses=_OPENAI_MISSES,
)
XAI = Subject(
    name="ChatXAI",
    module="langchain_xai",
    distribution="langchain-xai",
    needs={"model": "grok-4", "xai_api_base": "{url}/v1", "xai_api_key": "none"},
    values={
        **OPENAI_VALUES,
        "xai_api_base": ("{url}/v1", "{url}/other/v1"),
        "openai_api_base": ("one", "two"),
        "search_parameters": ({"mode": "on"}, {"mode": "off"}),
    },
    not_varied=_OPENAI_ASIDE,
    calls=CALLS,
    prompts=PROMPTS,
    bound=BOUND,
    entries=CHAT,
    misses={
        **_OPENAI_MISSES,
        **{f"{name} (*)": "this model is not sent it, but it counts" for name in ("stop", "call stop", "bound*stop", "search_parameters")},
    },
)
TOGETHER = Subject(
    name="ChatTogether",
    module="langchain_together",
    distribution="langchain-together",
    needs={"model": "llama3", "base_url": "{url}/v1", "api_key": "none", "max_retries": 0},
    address=("base_url",),
    addresses={"TOGETHER_API_BASE": "{url}/v1"},
    values={**OPENAI_VALUES, "together_api_base": ("{url}/v1", "{url}/other/v1"), "openai_api_base": ("one", "two")},
    not_varied=_OPENAI_ASIDE,
    calls=CALLS,
    prompts=PROMPTS,
    bound=BOUND,
    entries=CHAT,
    misses=_OPENAI_MISSES,
)
FIREWORKS = Subject(
    name="ChatFireworks",
    module="langchain_fireworks",
    distribution="langchain-fireworks",
    needs={"model": "llama3", "base_url": "{url}/v1", "api_key": "none", "max_retries": 0},
    address=("base_url",),
    addresses={"FIREWORKS_API_BASE": "{url}/v1", "FIREWORKS_BASE_URL": "{url}/v1"},
    values={"fireworks_api_base": ("{url}/v1", "{url}/other/v1"), "model_kwargs": ({"seed": 1}, {"seed": 2}), "service_tier": ("a", "b")},
    not_varied={**OF_LANGCHAIN, **HTTP},
    calls=CALLS,
    prompts=PROMPTS,
    bound=BOUND,
    entries=CHAT,
    misses=MISSES,
)
NVIDIA = Subject(
    name="ChatNVIDIA",
    module="langchain_nvidia_ai_endpoints",
    distribution="langchain-nvidia-ai-endpoints",
    needs={"model": "m", "base_url": "{url}/v1", "api_key": "none", "max_retries": 0},
    address=("base_url",),
    addresses={"NVIDIA_BASE_URL": "{url}/v1"},
    values={**HEADERS, "base_url": ("{url}/v1", "{url}/other/v1"), "model": ("m", "n"), "model_kwargs": ({"a": 1}, {"a": 2})},
    not_varied={**OF_LANGCHAIN, "usage_telemetry_enabled": "whether use is reported"},
    calls={**CALLS, "model": ("m", "n")},
    prompts=PROMPTS,
    bound=BOUND,
    entries=CHAT,
    misses=MISSES,
)
COHERE = Subject(
    name="ChatCohere",
    module="langchain_cohere",
    distribution="langchain-cohere",
    needs={"model": "command-a", "base_url": "{url}", "cohere_api_key": "none"},
    address=("base_url",),
    addresses={"CO_API_URL": "{url}"},
    values={"base_url": ("{url}", "{url}/other")},
    not_varied={**OF_LANGCHAIN, **HTTP},
    calls=CALLS,
    prompts=PROMPTS,
    bound=BOUND,
    entries=CHAT,
    misses={**MISSES, "stop (*)": UNSENT, "prompt a file of another name, sound (prompt)": UNSENT},
)
PERPLEXITY = Subject(
    name="ChatPerplexity",
    module="langchain_perplexity",
    distribution="langchain-perplexity",
    needs={"model": "sonar", "api_key": "none"},
    environment={"PERPLEXITY_BASE_URL": "{url}"},
    addresses={"PERPLEXITY_BASE_URL": "{url}"},
    values={
        "model_kwargs": ({"a": 1}, {"a": 2}),
        "search_mode": ("web", "academic"),
        "reasoning_effort": ("low", "high"),
        "web_search_options": ({"search_context_size": "low"}, {"search_context_size": "high"}),
        "media_response": ({"overrides": {"return_images": True}}, {"overrides": {"return_images": False}}),
        "search_recency_filter": ("day", "week"),
        "search_after_date_filter": ("1/1/2025", "1/2/2025"),
        "search_before_date_filter": ("1/1/2025", "1/2/2025"),
    },
    not_varied={**OF_LANGCHAIN, **HTTP},
    calls=CALLS,
    prompts=PROMPTS,
    bound=BOUND,
    entries=CHAT,
    misses=MISSES,
)
LITELLM = Subject(
    name="ChatLiteLLM",
    module="langchain_litellm",
    distribution="langchain-litellm",
    needs={"model": "openai/gpt-4o-mini", "api_base": "{url}/v1", "api_key": "none"},
    address=("api_base",),
    addresses={"OPENAI_BASE_URL": "{url}/v1", "OPENAI_API_BASE": "{url}/v1"},
    values={
        "api_base": ("{url}/v1", "{url}/other/v1"),
        "model": ("openai/gpt-4o", "openai/gpt-4.1"),
        "model_name": ("openai/gpt-4o", "openai/gpt-4.1"),
        "custom_llm_provider": ("openai", "deepseek"),
        "extra_headers": ({"X-Tenant": "a"}, {"X-Tenant": "b"}),
        "model_kwargs": ({"seed": 1}, {"seed": 2}),
        "stream_options": ({"include_usage": True}, {"include_usage": False}),
    },
    not_varied={**OF_LANGCHAIN, **HTTP},
    calls={**CALLS, "model": ("openai/gpt-4o", "openai/gpt-4.1")},
    prompts=PROMPTS,
    bound=BOUND,
    entries=CHAT,
    misses={
        **MISSES,
        "organization (*)": UNSENT,
        "base_model (*)": "names the model for prices, but it counts",
        "custom_llm_provider (*)": TWICE,
    },
)
OPENROUTER = Subject(
    name="ChatOpenRouter",
    module="langchain_openrouter",
    distribution="langchain-openrouter",
    needs={"model": "openai/gpt-4o-mini", "base_url": "{url}/v1", "api_key": "none", "max_retries": 0},
    address=("base_url",),
    addresses={"OPENROUTER_API_BASE": "{url}/v1"},
    values={
        **HEADERS,
        "openrouter_api_base": ("{url}/v1", "{url}/other/v1"),
        "reasoning": ({"effort": "low"}, {"effort": "high"}),
        "openrouter_provider": ({"order": ["a"]}, {"order": ["b"]}),
        "plugins": ([{"id": "web"}], [{"id": "file-parser"}]),
        "model_kwargs": ({"top_k": 1}, {"top_k": 2}),
        "trace": ({"a": "1"}, {"a": "2"}),
        "request_timeout": (60_000, 70_000),
    },
    not_varied={**OF_LANGCHAIN, **HTTP},
    calls=CALLS,
    prompts=PROMPTS,
    bound=BOUND,
    entries=CHAT,
    misses=MISSES,
)
HUGGING_FACE = Subject(
    name="HuggingFaceEndpoint",
    module="langchain_huggingface",
    distribution="langchain-huggingface",
    needs={"endpoint_url": "{url}/gpt", "huggingfacehub_api_token": "none"},
    values={
        "endpoint_url": ("{url}/a", "{url}/b"),
        "inference_server_url": ("{url}/a", "{url}/b"),
        "repo_id": ("a/b", "a/c"),
        "model": ("{url}/a", "{url}/b"),
        "server_kwargs": ({"headers": {"X-Tenant": "a"}}, {"headers": {"X-Tenant": "b"}}),
        "model_kwargs": ({"a": 1}, {"a": 2}),
    },
    not_varied={**OF_LANGCHAIN, **HTTP},
    calls={"stop": (["END"], ["FIN"]), "temperature": (0.25, 0.75), "max_new_tokens": (64, 128)},
    prompts={"plain": "Which colour?", "another text": "Which size?"},
    entries=PLAIN,
    misses=MISSES,
)
CHAT_HUGGING_FACE = Subject(
    name="ChatHuggingFace",
    module="langchain_huggingface",
    distribution="langchain-huggingface",
    needs={
        "llm": Made("langchain_huggingface", "HuggingFaceEndpoint", {"endpoint_url": "{url}/v1/", "huggingfacehub_api_token": "none"}),
        "model_id": "m",
    },
    values={},
    not_varied={**OF_LANGCHAIN, **HTTP},
    calls=CALLS,
    prompts=PROMPTS,
    bound=BOUND,
    entries=CHAT,
    misses=MISSES,
)

SUBJECTS = (
    OPENAI, RESPONSES, AZURE, OPENAI_COMPLETIONS, ANTHROPIC, ANTHROPIC_CONTAINERS, GOOGLE, VERTEX, BEDROCK, BEDROCK_CONVERSE, OLLAMA,
    OLLAMA_COMPLETIONS, MISTRAL, GROQ, DEEPSEEK, XAI, TOGETHER, FIREWORKS, NVIDIA, COHERE, PERPLEXITY, LITELLM, OPENROUTER, HUGGING_FACE,
    CHAT_HUGGING_FACE,
)  # fmt: skip
