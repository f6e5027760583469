"""LlamaIndex's classes, as the oracle sees them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from llama_index.core.base.llms.types import AudioBlock, DocumentBlock, ImageBlock, TextBlock, ThinkingBlock, ToolCallBlock
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from providers.llamaindex_entries import CHAT, EMBEDDINGS, Binding
from providers.oracle import Made, Subject
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


_PIXEL = b"iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
_CALL = ToolCallBlock(tool_call_id="call_1", tool_name="Paint", tool_kwargs={"colour": "red"})


def _user(*blocks: Any) -> list[ChatMessage]:
    return [ChatMessage(role="user", blocks=[TextBlock(text="Which colour?"), *blocks])]


def _after_a_tool(result: str) -> list[ChatMessage]:
    return [
        ChatMessage(role="user", content="Paint."),
        ChatMessage(role="assistant", blocks=[_CALL]),
        ChatMessage(role="tool", content=result, additional_kwargs={"tool_call_id": "call_1", "name": "Paint"}),
    ]


PROMPTS: dict[str, Any] = {
    "plain": "Which colour?",
    "another text": "Which size?",
    "with a system message": [ChatMessage(role="system", content="Be brief."), *_user()],
    "with another system message": [ChatMessage(role="system", content="Be long."), *_user()],
    "two text blocks": _user(TextBlock(text="Or size?")),
    "an image": _user(ImageBlock(image=_PIXEL, image_mimetype="image/png")),
    "an image in less detail": _user(ImageBlock(image=_PIXEL, image_mimetype="image/png", detail="low")),
    "an image elsewhere": _user(ImageBlock(url="https://example.com/a.png", image_mimetype="image/png")),
    "a file": _user(DocumentBlock(data=b"JVBERi0xLjQK", title="a.pdf", document_mimetype="application/pdf")),
    "a file of another name": _user(DocumentBlock(data=b"JVBERi0xLjQK", title="b.pdf", document_mimetype="application/pdf")),
    "sound": _user(AudioBlock(audio=b"UklGRg==", format="wav")),
    "a tool's result": _after_a_tool("done"),
    "another result of a tool": _after_a_tool("failed"),
    "an answer before": [ChatMessage(role="user", content="Hello."), ChatMessage(role="assistant", content="Hello!"), *_user()],
    "an answer with thoughts": [
        ChatMessage(role="user", content="Hello."),
        ChatMessage(role="assistant", blocks=[ThinkingBlock(content="A greeting."), TextBlock(text="Hello!")]),
        *_user(),
    ],
    "an answer with other thoughts": [
        ChatMessage(role="user", content="Hello."),
        ChatMessage(role="assistant", blocks=[ThinkingBlock(content="Again."), TextBlock(text="Hello!")]),
        *_user(),
    ],
    "a name": [ChatMessage(role="user", content="Which colour?", additional_kwargs={"name": "ann"})],
}
# providers that are sent the content of a file by LlamaIndex, which would fetch it
LOCAL = {name: prompt for name, prompt in PROMPTS.items() if name != "an image elsewhere"}
BOUND: dict[str, Any] = {
    "a tool": Binding(tools=(Paint,)),
    "another tool": Binding(tools=(Draw,)),
    "two tools": Binding(tools=(Paint, Draw)),
    "two tools, in parallel": Binding(tools=(Paint, Draw), arguments={"allow_parallel_tool_calls": True}),
    "a tool, required": Binding(tools=(Paint,), arguments={"tool_required": True}),
    "structured output": Binding(schema=Answer),
    "another structured output": Binding(schema=Paint),
}
CALLS: dict[str, tuple[Any, Any]] = {
    "temperature": (0.25, 0.75),
    "max_tokens": (64, 128),
    "stop": (["END"], ["FIN"]),
    "top_p": (0.5, 0.6),
}

# fields of LlamaIndex's base class that no request depends on
OF_LLAMAINDEX = {
    "callback_manager": "told of calls, not part of them",
    "rate_limiter": "when a request is sent, not which",
    "output_parser": "reads answers",
    "pydantic_program_mode": "how LlamaIndex asks for an object: the request shows it",
    "messages_to_prompt": "a function; see the tests of functions",
    "completion_to_prompt": "a function; see the tests of functions",
}
_PROMPT = {"query_wrapper_prompt": (PromptTemplate("a {query_str}"), PromptTemplate("b {query_str}"))}
_HEADERS = {"default_headers": ({"X-Tenant": "a"}, {"X-Tenant": "b"})}
_KEPT = "its client keeps the value that it was made with"
_MISSES = {
    "query_wrapper_prompt (*)": "some classes apply it to prompts: it counts for all",
    "system_prompt (*)": "LlamaIndex puts it before the messages of some calls: it counts for all",
    "is_chat_model (*)": "it decides by which requests LlamaIndex asks",
    "is_function_calling_model (*)": "it decides by which requests LlamaIndex asks",
    "should_use_structured_outputs (*)": "it decides by which requests LlamaIndex asks",
    "context_window (*)": "it decides how long LlamaIndex makes prompts",
    "reasoning_effort (*)": "sent to reasoning models only",
    "reasoning_options (*)": "sent to reasoning models only",
    "strict (*)": "sent with tools only",
    "top_logprobs (*)": "sent with logprobs only",
    "logprobs (*)": "not sent by all methods",
    "modalities (*)": "not sent by all methods",
    "audio_config (*)": "not sent by all methods",
    "api_version (*)": "sent to Azure only, where the client keeps the value that it was made with",
    "prompt *an answer with * (prompt)": "the class leaves thoughts out",
    "prompt *a name (prompt)": "the class leaves names out",
    "prompt an image* (prompt)": "the class leaves a part of the message out",
    "prompt a file* (prompt)": "the class leaves a part of the message out",
    "prompt sound (prompt)": "the class leaves a part of the message out",
    **dict.fromkeys(
        ("api_base (*)", "base_url (*)", "default_headers (*)", "headers (*)", "azure_endpoint (*)", "azure_deployment (*)"), _KEPT
    ),
}

OPENAI = Subject(
    name="OpenAI",
    module="llama_index.llms.openai",
    distribution="llama-index-llms-openai",
    needs={"model": "gpt-4o-mini", "api_base": "{url}/v1", "api_key": "none", "max_retries": 0},
    address=("api_base",),
    addresses={"OPENAI_API_BASE": "{url}/v1"},
    values={
        **_PROMPT,
        "model": ("gpt-4o", "gpt-4.1"),
        **_HEADERS,
        "api_base": ("{url}/v1", "{url}/other/v1"),
        "additional_kwargs": ({"user": "a"}, {"user": "b"}),
        "reasoning_effort": ("low", "high"),
        "modalities": (["text"], ["text", "audio"]),
        "audio_config": ({"voice": "a", "format": "wav"}, {"voice": "b", "format": "wav"}),
        "logprobs": (True, False),
        "top_logprobs": (2, 3),
        "api_version": ("1", "2"),
    },
    not_varied=OF_LLAMAINDEX,
    calls=CALLS,
    prompts=PROMPTS,
    bound=BOUND,
    entries=CHAT,
    misses=_MISSES,
)
REASONING = replace(OPENAI, variant="reasoning", needs={**OPENAI.needs, "model": "o3-mini"}, fields=("reasoning_effort", "temperature"))
RESPONSES = replace(
    OPENAI,
    name="OpenAIResponses",
    values={
        **OPENAI.values,
        "include": (["reasoning.encrypted_content"], ["message.output_text.logprobs"]),
        "reasoning_options": ({"effort": "low"}, {"effort": "high"}),
        "built_in_tools": ([{"type": "web_search_preview"}], [{"type": "file_search", "vector_store_ids": ["a"]}]),
        "truncation": ("auto", "disabled"),
        "call_metadata": ({"a": "1"}, {"a": "2"}),
    },
)
LIKE = replace(
    OPENAI,
    name="OpenAILike",
    module="llama_index.llms.openai_like",
    distribution="llama-index-llms-openai-like",
    needs={**OPENAI.needs, "model": "local", "is_chat_model": True, "is_function_calling_model": True},
    values={**OPENAI.values, "model": ("one", "two")},
)
LIKE_PLAIN = replace(
    LIKE,
    variant="plain",
    needs={**OPENAI.needs, "model": "local", "is_chat_model": False},
    fields=("model", "temperature", "max_tokens", "additional_kwargs", "system_prompt", "logprobs"),
    bound={},
)
GROQ = replace(LIKE, name="Groq", module="llama_index.llms.groq", distribution="llama-index-llms-groq", addresses={}, needs=OPENAI.needs)
DEEPSEEK = replace(
    LIKE,
    name="DeepSeek",
    module="llama_index.llms.deepseek",
    distribution="llama-index-llms-deepseek",
    addresses={},
    needs={**OPENAI.needs, "model": "deepseek-chat"},
    values={**OPENAI.values, "model": ("deepseek-chat", "deepseek-reasoner")},
)
AZURE = replace(
    OPENAI,
    name="AzureOpenAI",
    module="llama_index.llms.azure_openai",
    distribution="llama-index-llms-azure-openai",
    needs={
        "model": "gpt-4o-mini",
        "engine": "mine",
        "azure_endpoint": "{url}",
        "api_version": "2024-10-21",
        "api_key": "none",
        "max_retries": 0,
    },
    address=("azure_endpoint",),
    addresses={"AZURE_OPENAI_ENDPOINT": "{url}"},
    values={**OPENAI.values, "azure_endpoint": ("{url}", "{url}/other"), "api_version": ("2024-10-21", "2024-12-01-preview")},
    not_varied={**OF_LLAMAINDEX, "azure_ad_token_provider": "lets the caller in", "use_azure_ad": "lets the caller in"},
    misses={**_MISSES, "model (*)": "Azure is asked for the engine"},
)
ANTHROPIC = Subject(
    name="Anthropic",
    module="llama_index.llms.anthropic",
    distribution="llama-index-llms-anthropic",
    needs={"model": "claude-sonnet-4-5", "base_url": "{url}", "api_key": "none", "max_retries": 0},
    address=("base_url",),
    addresses={"ANTHROPIC_BASE_URL": "{url}"},
    values={
        **_PROMPT,
        "model": ("claude-sonnet-4-5", "claude-opus-4-1"),
        "base_url": ("{url}", "{url}/other"),
        "additional_kwargs": ({"metadata": {"user_id": "a"}}, {"metadata": {"user_id": "b"}}),
        "thinking_dict": ({"type": "enabled", "budget_tokens": 1024}, {"type": "enabled", "budget_tokens": 2048}),
        "mcp_servers": (
            [{"type": "url", "url": "https://a.test", "name": "a", "authorization_token": "t"}],
            [{"type": "url", "url": "https://b.test", "name": "b", "authorization_token": "t"}],
        ),
        "tools": ([{"type": "web_search_20250305", "name": "a"}], [{"type": "web_search_20250305", "name": "b"}]),
    },
    not_varied={**OF_LLAMAINDEX, "cache_idx": "marks parts for the cache of the provider, whose answer is the same"},
    calls={**CALLS, "stop_sequences": (["END"], ["FIN"]), "extra_headers": ({"anthropic-beta": "a"}, {"anthropic-beta": "b"})},
    prompts=LOCAL,
    bound=BOUND,
    entries=CHAT,
    misses=_MISSES,
)
GOOGLE = Subject(
    name="GoogleGenAI",
    module="llama_index.llms.google_genai",
    distribution="llama-index-llms-google-genai",
    needs={
        "model": "gemini-2.5-flash",
        "api_key": "none",
        "context_window": 1000,
        "max_tokens": 64,
        "http_options": Made("google.genai.types", "HttpOptions", {"base_url": "{url}"}),
    },
    address=("http_options",),
    addresses={"GOOGLE_GEMINI_BASE_URL": "{url}"},
    values={
        **_PROMPT,
        "built_in_tool": (
            Made("google.genai.types", "Tool", {"google_search": {}}),
            Made("google.genai.types", "Tool", {"code_execution": {}}),
        ),
        "cached_content": ("cachedContents/a", "cachedContents/b"),
        "file_mode": ("inline", "hybrid"),
    },
    not_varied=OF_LLAMAINDEX,
    made_with={
        "max_tokens": (65, 66),
        "generation_config": tuple(Made("google.genai.types", "GenerateContentConfig", {"top_p": top_p}) for top_p in (0.5, 0.6)),
        "http_options": tuple(
            Made("google.genai.types", "HttpOptions", {"base_url": "{url}", **more})
            for more in ({"api_version": "v1"}, {"api_version": "v1beta", "headers": {"X-Tenant": "a"}})
        ),
    },
    private={"_generation_config": ({"top_p": 0.5}, {"top_p": 0.6})},
    calls={"generation_config": ({"top_p": 0.5}, {"top_p": 0.6})},
    prompts=LOCAL,
    bound=BOUND,
    entries=CHAT,
    misses={
        **_MISSES,
        **dict.fromkeys(
            ("built_in_tool (*)", "cached_content (*)", "temperature (*)"), "requests have the value that the model was made with"
        ),
        "file_mode (*)": "it decides how large files are sent",
    },
)
OLLAMA = Subject(
    name="Ollama",
    module="llama_index.llms.ollama",
    distribution="llama-index-llms-ollama",
    needs={"model": "llama3", "base_url": "{url}", "context_window": 512},
    values={
        **_PROMPT,
        "base_url": ("{url}", "{url}/other"),
        "additional_kwargs": ({"mirostat": 1}, {"mirostat": 2}),
        "headers": ({"X-Tenant": "a"}, {"X-Tenant": "b"}),
        "thinking": (True, False),
        "context_window": (1024, 2048),
    },
    not_varied=OF_LLAMAINDEX,
    calls={"format": ("json", {"type": "object"}), "think": (True, False)},
    prompts=LOCAL,
    bound=BOUND,
    entries=CHAT,
    misses={**_MISSES, "prompt_key (*)": "not sent"},
)
MISTRAL = Subject(
    name="MistralAI",
    module="llama_index.llms.mistralai",
    distribution="llama-index-llms-mistralai",
    needs={"model": "mistral-small-latest", "endpoint": "{url}", "api_key": "none", "max_retries": 0},
    address=("endpoint",),
    addresses={"MISTRAL_ENDPOINT": "{url}"},
    values={**_PROMPT, "model": ("mistral-small-latest", "mistral-large-latest"), "additional_kwargs": ({"n": 1}, {"n": 2})},
    not_varied=OF_LLAMAINDEX,
    calls=CALLS,
    prompts=PROMPTS,
    bound=BOUND,
    entries=CHAT,
    misses={**_MISSES, "show_thinking (*)": "it decides which parts of an answer are returned"},
)
_AWS = {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none", "AWS_DEFAULT_REGION": "us-east-1"}
BEDROCK = Subject(
    name="BedrockConverse",
    module="llama_index.llms.bedrock_converse",
    distribution="llama-index-llms-bedrock-converse",
    needs={"model": "anthropic.claude-3-5-sonnet-20241022-v2:0", "region_name": "us-east-1", "endpoint_url": "{url}", "max_retries": 1},
    environment=_AWS,
    address=("endpoint_url",),
    addresses={"AWS_ENDPOINT_URL_BEDROCK_RUNTIME": "{url}", "AWS_ENDPOINT_URL": "{url}"},
    values={
        **_PROMPT,
        "model": ("anthropic.claude-3-5-sonnet-20241022-v2:0", "anthropic.claude-3-haiku-20240307-v1:0"),
        "endpoint_url": ("{url}", "{url}/other"),
        "region_name": ("us-east-1", "us-west-2"),
        "additional_kwargs": ({"requestMetadata": {"a": "1"}}, {"requestMetadata": {"a": "2"}}),
        "max_tokens": (65, 66),
        "thinking": ({"type": "enabled", "budget_tokens": 1024}, {"type": "enabled", "budget_tokens": 2048}),
        "trace": ("enabled", "disabled"),
    },
    not_varied={
        **OF_LLAMAINDEX,
        "profile_name": "names credentials",
        "verify": "checks certificates",
        "botocore_session": "makes the requests",
        "botocore_config": "settings of the requests",
    },
    made_with={
        "application_inference_profile_arn": (
            "arn:aws:bedrock:us-east-1:1:application-inference-profile/a",
            "arn:aws:bedrock:us-east-1:1:application-inference-profile/b",
        )
    },
    calls={"temperature": (0.25, 0.75), "max_tokens": (64, 128)},
    prompts=LOCAL,
    bound=BOUND,
    entries=CHAT,
    misses={
        **_MISSES,
        **dict.fromkeys(("endpoint_url (*)", "region_name (*)", "use_ssl (*)"), _KEPT),
        "guardrail_*": "sent together only",
        "trace (*)": "sent with a guardrail only",
        "*_caching (*)": "sent with a system prompt or tools only",
        "supports_forced_tool_calls (*)": "sent with tools only",
    },
)
COHERE = Subject(
    name="Cohere",
    module="llama_index.llms.cohere",
    distribution="llama-index-llms-cohere",
    needs={"model": "command-r", "base_url": "{url}", "api_key": "none", "max_retries": 1},
    values={
        **_PROMPT,
        "base_url": ("{url}", "{url}/other"),
        "model": ("command-r", "command-r-plus"),
        "additional_kwargs": ({"p": 0.5}, {"p": 0.6}),
        "max_retries": (1, 2),
    },
    not_varied=OF_LLAMAINDEX,
    calls={"temperature": (0.25, 0.75), "max_tokens": (64, 128), "documents": ([{"text": "a"}], [{"text": "b"}])},
    prompts=PROMPTS,
    bound=BOUND,
    entries=CHAT,
    misses={**_MISSES, "max_tokens (*)": "not sent by chat"},
)
HUGGING_FACE = Subject(
    name="HuggingFaceInferenceAPI",
    module="llama_index.llms.huggingface_api",
    distribution="llama-index-llms-huggingface-api",
    needs={"model": "{url}/m", "token": "none", "is_function_calling_model": True},
    values={
        **_PROMPT,
        "model": ("{url}/m", "{url}/n"),
        "headers": ({"X-Tenant": "a"}, {"X-Tenant": "b"}),
        "cookies": ({"a": "b"}, {"a": "c"}),
    },
    not_varied=OF_LLAMAINDEX,
    calls=CALLS,
    prompts=PROMPTS,
    bound=BOUND,
    entries=CHAT,
    misses={**_MISSES, **dict.fromkeys(("model (*)", "provider (*)", "task (*)"), _KEPT)},
)
_LITELLM = tuple({"user": user, "api_base": "{url}/v1", "api_key": "none"} for user in "ab")
LITELLM = Subject(
    name="LiteLLM",
    module="llama_index.llms.litellm",
    distribution="llama-index-llms-litellm",
    needs={"model": "openai/gpt-4o-mini", "api_base": "{url}/v1", "api_key": "none", "max_retries": 0},
    environment={"OPENAI_API_KEY": "none"},
    address=("api_base",),
    addresses={"OPENAI_BASE_URL": "{url}/v1", "OPENAI_API_BASE": "{url}/v1"},
    values={**_PROMPT, "model": ("openai/gpt-4o-mini", "openai/gpt-4o"), "additional_kwargs": _LITELLM, "max_tokens": (65, 66)},
    not_varied=OF_LLAMAINDEX,
    calls={**CALLS, "extra_headers": ({"X-Tenant": "a"}, {"X-Tenant": "b"})},
    prompts=PROMPTS,
    bound=BOUND,
    entries=CHAT,
    misses=_MISSES,
)


def _langchain(variant: str, model: Made, **more: Any) -> Subject:
    return Subject(
        name="LangChainLLM",
        variant=variant,
        module="llama_index.llms.langchain",
        distribution="llama-index-llms-langchain",
        needs={"llm": model},
        not_varied=OF_LLAMAINDEX,
        values=_PROMPT,
        prompts=PROMPTS,
        entries=CHAT,
        misses=_MISSES,
        **more,
    )


def _chat_openai(**more: Any) -> Made:
    return Made("langchain_openai", "ChatOpenAI", {"model": "gpt-4o-mini", "base_url": "{url}/v1", "api_key": "none", **more})


def _chat_ollama(**more: Any) -> Made:
    return Made("langchain_ollama", "ChatOllama", {"model": "llama3", "base_url": "{url}", **more})


LANGCHAIN_OPENAI = _langchain(
    "ChatOpenAI",
    _chat_openai(),
    made_with={"llm": (_chat_openai(temperature=0.5), _chat_openai(model="gpt-4o"))},
)
LANGCHAIN_OLLAMA = _langchain(
    "ChatOllama", _chat_ollama(), made_with={"llm": (_chat_ollama(temperature=0.5), _chat_ollama(temperature=0.6))}
)

# --- embeddings

_EMBEDDING_MISSES = {
    **dict.fromkeys(("api_base (*)", "base_url (*)", "default_headers (*)", "headers (*)", "azure_* (*)", "region_name (*)"), _KEPT),
    "api_version (*)": "sent to Azure only, where the client keeps the value that it was made with",
    "dimensions (*)": "requests have the value that the model was made with",
    "model_name (*)": "requests have the engines that the model was made with",
    "_query_engine (*)": "used for queries only",
    "_text_engine (*)": "used for texts only",
    "query_instruction (*)": "used for queries only",
    "text_instruction (*)": "used for texts only",
    "input_type (*)": "the method decides it where it is not given",
    "cookies (*)": "they let the caller in",
    "provider (*)": _KEPT,
    "task (*)": _KEPT,
}
_OF_EMBEDDINGS = {
    "callback_manager": "told of calls, not part of them",
    "rate_limiter": "when a request is sent, not which",
    "embeddings_cache": "another cache",
}
TEXTS = {"plain": "Which colour?", "another text": "Which size?"}
OPENAI_EMBEDDING = Subject(
    name="OpenAIEmbedding",
    module="llama_index.embeddings.openai",
    distribution="llama-index-embeddings-openai",
    needs={"model": "text-embedding-3-small", "api_base": "{url}/v1", "api_key": "none", "max_retries": 0},
    address=("api_base",),
    addresses={"OPENAI_API_BASE": "{url}/v1"},
    values={
        **_HEADERS,
        "api_base": ("{url}/v1", "{url}/other/v1"),
        "additional_kwargs": ({"user": "a"}, {"user": "b"}),
        "dimensions": (3, 4),
    },
    not_varied=_OF_EMBEDDINGS,
    made_with={"model": ("text-embedding-3-large", "text-embedding-ada-002"), "mode": ("similarity", "text_search")},
    private={"_query_engine": ("a", "b"), "_text_engine": ("a", "b")},
    prompts=TEXTS,
    entries=EMBEDDINGS,
    misses=_EMBEDDING_MISSES,
)
AZURE_EMBEDDING = replace(
    OPENAI_EMBEDDING,
    name="AzureOpenAIEmbedding",
    module="llama_index.embeddings.azure_openai",
    distribution="llama-index-embeddings-azure-openai",
    needs={
        "model": "text-embedding-3-small",
        "azure_deployment": "mine",
        "azure_endpoint": "{url}",
        "api_version": "2024-10-21",
        "api_key": "none",
        "max_retries": 0,
    },
    address=("azure_endpoint",),
    addresses={"AZURE_OPENAI_ENDPOINT": "{url}"},
    values={**OPENAI_EMBEDDING.values, "azure_endpoint": ("{url}", "{url}/other"), "api_version": ("2024-10-21", "2024-12-01-preview")},
    not_varied={**_OF_EMBEDDINGS, "azure_ad_token_provider": "lets the caller in", "use_azure_ad": "lets the caller in"},
)
OLLAMA_EMBEDDING = Subject(
    name="OllamaEmbedding",
    module="llama_index.embeddings.ollama",
    distribution="llama-index-embeddings-ollama",
    needs={"model_name": "nomic", "base_url": "{url}"},
    values={"base_url": ("{url}", "{url}/other"), "ollama_additional_kwargs": ({"num_ctx": 1024}, {"num_ctx": 2048})},
    made_with={"client_kwargs": ({"headers": {"X-Tenant": "a"}}, {"headers": {"X-Tenant": "b"}})},
    not_varied=_OF_EMBEDDINGS,
    prompts=TEXTS,
    entries=EMBEDDINGS,
    misses=_EMBEDDING_MISSES,
)
COHERE_EMBEDDING = Subject(
    name="CohereEmbedding",
    module="llama_index.embeddings.cohere",
    distribution="llama-index-embeddings-cohere",
    needs={"model_name": "embed-english-v3.0", "base_url": "{url}", "api_key": "none", "max_retries": 1},
    values={
        "model_name": ("embed-english-v3.0", "embed-multilingual-v3.0"),
        "truncate": ("START", "NONE"),
        "input_type": ("search_query", "classification"),
        "embedding_type": ("float", "int8"),
        "base_url": ("{url}", "{url}/other"),
    },
    not_varied=_OF_EMBEDDINGS,
    prompts=TEXTS,
    entries=EMBEDDINGS,
    misses=_EMBEDDING_MISSES,
)
GOOGLE_EMBEDDING = Subject(
    name="GoogleGenAIEmbedding",
    module="llama_index.embeddings.google_genai",
    distribution="llama-index-embeddings-google-genai",
    needs={"model_name": "gemini-embedding-001", "api_key": "none", "http_options": GOOGLE.needs["http_options"]},
    address=("http_options",),
    addresses={"GOOGLE_GEMINI_BASE_URL": "{url}"},
    values={"embedding_config": ({"output_dimensionality": 3}, {"output_dimensionality": 4})},
    made_with={"http_options": GOOGLE.made_with["http_options"]},
    not_varied=_OF_EMBEDDINGS,
    prompts=TEXTS,
    entries=EMBEDDINGS,
    misses=_EMBEDDING_MISSES,
)
MISTRAL_EMBEDDING = Subject(
    name="MistralAIEmbedding",
    module="llama_index.embeddings.mistralai",
    distribution="llama-index-embeddings-mistralai",
    needs={"api_key": "none"},
    not_varied=_OF_EMBEDDINGS,
    prompts=TEXTS,
    entries=EMBEDDINGS,
    misses=_EMBEDDING_MISSES,
)
BEDROCK_EMBEDDING = Subject(
    name="BedrockEmbedding",
    module="llama_index.embeddings.bedrock",
    distribution="llama-index-embeddings-bedrock",
    needs={"model_name": "amazon.titan-embed-text-v2:0", "region_name": "us-east-1"},
    environment={**_AWS, "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": "{url}"},
    addresses={"AWS_ENDPOINT_URL_BEDROCK_RUNTIME": "{url}"},
    values={
        "model_name": ("amazon.titan-embed-text-v2:0", "cohere.embed-english-v3"),
        "additional_kwargs": ({"dimensions": 256}, {"dimensions": 512}),
    },
    not_varied={
        **_OF_EMBEDDINGS,
        "profile_name": "names credentials",
        "botocore_session": "makes the requests",
        "botocore_config": "settings of the requests",
    },
    prompts=TEXTS,
    entries=EMBEDDINGS,
    misses=_EMBEDDING_MISSES,
)
HUGGING_FACE_EMBEDDING = Subject(
    name="HuggingFaceInferenceAPIEmbedding",
    module="llama_index.embeddings.huggingface_api",
    distribution="llama-index-embeddings-huggingface-api",
    needs={"model_name": "{url}/pipeline/feature-extraction/m", "token": "none"},
    values={
        "model_name": ("{url}/pipeline/feature-extraction/m", "{url}/pipeline/feature-extraction/n"),
        "headers": ({"X-Tenant": "a"}, {"X-Tenant": "b"}),
        "cookies": ({"a": "b"}, {"a": "c"}),
    },
    not_varied={**_OF_EMBEDDINGS, "pooling": "applied to the answer"},
    prompts=TEXTS,
    entries=EMBEDDINGS[3:],  # its client belongs to the event loop of its first use, and its other methods start one for each call
    misses=_EMBEDDING_MISSES,
)

SUBJECTS = (
    OPENAI, REASONING, RESPONSES, LIKE, LIKE_PLAIN, GROQ, DEEPSEEK, AZURE, ANTHROPIC, GOOGLE, OLLAMA, MISTRAL, BEDROCK, COHERE,
    HUGGING_FACE, LITELLM, LANGCHAIN_OPENAI, LANGCHAIN_OLLAMA,
    OPENAI_EMBEDDING, AZURE_EMBEDDING, OLLAMA_EMBEDDING, COHERE_EMBEDDING, GOOGLE_EMBEDDING, MISTRAL_EMBEDDING, BEDROCK_EMBEDDING,
    HUGGING_FACE_EMBEDDING,
)  # fmt: skip
