"""LangChain's embedding models, as the oracle sees and calls them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from layered_cache import ConfigurationError, TieredCache
from providers.oracle import Made, Situation, Subject, placed

from langchain_layered_cache.embeddings import cached_embeddings

_loop: list[asyncio.Runner] = []


def _run(coroutine: Any) -> Any:
    if not _loop:
        _loop.append(asyncio.Runner())
    return _loop[0].run(coroutine)


@dataclass(frozen=True)
class Call:
    """`cached_embeddings(model, cache)` by one of its methods."""

    way: str

    @property
    def name(self) -> str:
        return self.way

    def prepare(self, subject: Subject, situation: Situation, url: str, cache: TieredCache | None) -> Callable[[], object]:
        model = getattr(import_module(subject.module), subject.name)(**subject.arguments(situation, url))
        if situation.changes:
            self._call(model, subject.prompts["plain"], cache)()
            for how, given in situation.changes:
                values = placed(dict(given), url)
                if how == "copy":
                    model = model.model_copy(update=values)
                else:
                    for name, value in values.items():
                        setattr(model, name, value)
        return self._call(model, subject.prompts[situation.prompt], cache)

    def _call(self, model: Any, text: str, cache: TieredCache | None) -> Callable[[], object]:
        target = model
        if cache is not None:
            try:
                target = cached_embeddings(model, cache)
            except ConfigurationError as error:
                logging.getLogger("layered_cache").warning("%s", error)
        method = getattr(target, self.way)
        asked = [text] if self.way.endswith("documents") else text
        return (lambda: _run(method(asked))) if self.way.startswith("a") else lambda: method(asked)


ENTRIES = (Call("embed_query"), Call("embed_documents"), Call("aembed_query"), Call("aembed_documents"))
TEXTS = {"plain": "Which colour?", "another text": "Which size?"}
_KEPT = "its client keeps the value that it was made with"
_MISSES = dict.fromkeys(
    ("base_url (*)", "endpoint_url (*)", "region_name (*)", "openai_api_base (*)", "azure_* (*)", "endpoint (*)"), _KEPT
)
_CLIENTS = {"client": "makes the requests", "async_client": "makes the requests"}

OPENAI = Subject(
    name="OpenAIEmbeddings",
    module="langchain_openai",
    distribution="langchain-openai",
    needs={
        "model": "text-embedding-3-small",
        "openai_api_base": "{url}/v1",
        "api_key": "none",
        "max_retries": 0,
        "check_embedding_ctx_length": False,
    },
    address=("openai_api_base",),
    addresses={"OPENAI_BASE_URL": "{url}/v1", "OPENAI_API_BASE": "{url}/v1"},
    values={
        "openai_api_base": ("{url}/v1", "{url}/other/v1"),
        "default_headers": ({"X-Tenant": "a"}, {"X-Tenant": "b"}),
        "default_query": ({"a": "1"}, {"a": "2"}),
        "model_kwargs": ({"user": "a"}, {"user": "b"}),
    },
    not_varied={
        **_CLIENTS,
        "http_client": "makes the requests",
        "http_async_client": "makes the requests",
        "http_socket_options": "options of sockets",
        "openai_proxy": "the way to the address",
        "check_embedding_ctx_length": "it needs a tokenizer that is downloaded",
        "tiktoken_enabled": "it needs a tokenizer that is downloaded",
        "tiktoken_model_name": "it needs a tokenizer that is downloaded",
        "allowed_special": "it needs a tokenizer that is downloaded",
        "disallowed_special": "it needs a tokenizer that is downloaded",
        "embedding_ctx_length": "it needs a tokenizer that is downloaded",
        "openai_api_type": "not sent",
    },
    prompts=TEXTS,
    entries=ENTRIES,
    misses={
        **_MISSES,
        **dict.fromkeys(("default_headers (*)", "default_query (*)"), _KEPT),
        "deployment (*)": "sent to Azure only",
        "openai_api_version (*)": "sent to Azure only",
        "skip_empty (*)": "applied to texts that are cut",
        "headers (*)": "not sent",
        "openai_organization (*)": "it decides which account pays",
    },
)
OLLAMA = Subject(
    name="OllamaEmbeddings",
    module="langchain_ollama",
    distribution="langchain-ollama",
    needs={"model": "nomic", "base_url": "{url}"},
    address=("base_url",),
    addresses={"OLLAMA_HOST": "{url}"},
    values={
        "base_url": ("{url}", "{url}/other"),
        "client_kwargs": ({"headers": {"X-Tenant": "a"}}, {"headers": {"X-Tenant": "b"}}),
        "sync_client_kwargs": ({"headers": {"X-Tenant": "a"}}, {"headers": {"X-Tenant": "b"}}),
        "async_client_kwargs": ({"headers": {"X-Tenant": "a"}}, {"headers": {"X-Tenant": "b"}}),
    },
    not_varied={"validate_model_on_init": "asks for the list of models"},
    prompts=TEXTS,
    entries=ENTRIES,
    misses={
        **_MISSES,
        "keep_alive (*)": "how long the model stays in memory",
        "*client_kwargs (*)": "used by one of the two clients, which keep the values that they were made with",
    },
)
COHERE = Subject(
    name="CohereEmbeddings",
    module="langchain_cohere",
    distribution="langchain-cohere",
    needs={"model": "embed-english-v3.0", "base_url": "{url}", "cohere_api_key": "none"},
    address=("base_url",),
    values={"base_url": ("{url}", "{url}/other"), "embedding_types": (["float"], ["int8"]), "truncate": ("START", "NONE")},
    not_varied=_CLIENTS,
    prompts=TEXTS,
    entries=ENTRIES,
    misses={**_MISSES, "user_agent (*)": "names the client"},
)
GOOGLE = Subject(
    name="GoogleGenerativeAIEmbeddings",
    module="langchain_google_genai",
    distribution="langchain-google-genai",
    needs={"model": "models/gemini-embedding-001", "google_api_key": "none", "base_url": "{url}"},
    address=("base_url",),
    addresses={"GOOGLE_GEMINI_BASE_URL": "{url}"},
    values={
        "base_url": ("{url}", "{url}/other"),
        "task_type": ("RETRIEVAL_QUERY", "CLUSTERING"),
        "additional_headers": ({"X-Tenant": "a"}, {"X-Tenant": "b"}),
        "api_version": ("v1", "v1alpha"),
        "request_options": ({"timeout": 5}, {"timeout": 6}),
    },
    not_varied={
        **_CLIENTS,
        "credentials": "let the caller in",
        "vertexai": "another service",
        "client_args": "arguments of the HTTP client",
        "project": "of another service",
        "location": "of another service",
    },
    prompts=TEXTS,
    entries=ENTRIES,
    misses={
        **_MISSES,
        **dict.fromkeys(("additional_headers (*)", "api_version (*)"), _KEPT),
        "request_options (*)": "not sent",
        "task_type (*)": "the method decides it where it is not given",
    },
)
MISTRAL = Subject(
    name="MistralAIEmbeddings",
    module="langchain_mistralai",
    distribution="langchain-mistralai",
    needs={
        "model": "mistral-embed",
        "endpoint": "{url}/v1/",
        "mistral_api_key": "none",
        "tokenizer": Made(
            "tokenizers", "Tokenizer", {"model": Made("tokenizers.models", "WordLevel", {"vocab": {"?": 0}, "unk_token": "?"})}
        ),
    },
    values={"endpoint": ("{url}/v1/", "{url}/other/v1/")},
    not_varied={**_CLIENTS, "tokenizer": "cuts batches"},
    prompts=TEXTS,
    entries=ENTRIES,
    misses={**_MISSES, "wait_time (*)": "between tries", "max_concurrent_requests (*)": "how many requests are sent at once"},
)
BEDROCK = Subject(
    name="BedrockEmbeddings",
    module="langchain_aws",
    distribution="langchain-aws",
    needs={"model_id": "amazon.titan-embed-text-v2:0", "region_name": "us-east-1", "endpoint_url": "{url}"},
    environment={"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none", "AWS_DEFAULT_REGION": "us-east-1"},
    address=("endpoint_url",),
    addresses={"AWS_ENDPOINT_URL_BEDROCK_RUNTIME": "{url}", "AWS_ENDPOINT_URL": "{url}"},
    values={
        "model_id": ("amazon.titan-embed-text-v2:0", "cohere.embed-english-v3"),
        "endpoint_url": ("{url}", "{url}/other"),
        "region_name": ("us-east-1", "us-west-2"),
        "model_kwargs": ({"normalize": True}, {"normalize": False}),
        "dimensions": (256, 512),
        "provider": ("amazon", "cohere"),
    },
    not_varied={**_CLIENTS, "credentials_profile_name": "names credentials", "config": "settings of connections"},
    prompts=TEXTS,
    entries=ENTRIES,
    misses={**_MISSES, "provider (*)": "it decides the form of the request", "normalize (*)": "applied to the answer"},
)
SUBJECTS = (OPENAI, OLLAMA, COHERE, GOOGLE, MISTRAL, BEDROCK)
