"""The parts of requests that providers' clients add, read from real clients."""

from __future__ import annotations

import types
from typing import Any

import boto3
import ollama
import openai
import pytest
from google import genai
from google.genai.types import HttpOptions
from layered_cache.adapters.identity.clients import client_facts, counted_headers


class Wrapper:
    """The object that holds the address of Cohere's client."""

    def get_base_url(self) -> str:
        return "http://a/"

    def get_custom_headers(self) -> dict[str, str]:
        return {"X-Tenant": "a", "Authorization": "Bearer x"}


AZURE: Any = {"azure_endpoint": "http://a", "azure_deployment": "d", "api_version": "1", "api_key": "none"}
BOTO: Any = {"region_name": "us-east-1", "aws_access_key_id": "a", "aws_secret_access_key": "b"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("make", "facts"),
    [
        (lambda: None, None),
        (object, None),
        (lambda: openai.OpenAI(api_key="none"), {"address": "https://api.openai.com/v1"}),
        (
            lambda: openai.AsyncOpenAI(api_key="none", base_url="http://a/v1/", default_headers={"X-A": "b"}, default_query={"c": 1}),
            {"address": "http://a/v1", "headers": {"x-a": "b"}, "query": {"c": "1"}},
        ),
        (lambda: openai.AzureOpenAI(**AZURE), {"address": "http://a/openai/deployments/d", "query": {"api-version": "1"}}),
        (lambda: genai.Client(api_key="none"), {"address": "https://generativelanguage.googleapis.com/"}),
        (
            lambda: genai.Client(api_key="none", http_options=HttpOptions(base_url="http://a", api_version="v1", headers={"X-A": "b"})),
            {"address": "http://a", "version": "v1", "headers": {"x-a": "b"}},
        ),
        (
            lambda: boto3.client("bedrock-runtime", **BOTO),
            {"address": "https://bedrock-runtime.us-east-1.amazonaws.com", "region": "us-east-1"},
        ),
        (lambda: ollama.Client("http://a", headers={"X-A": "b"}), {"address": "http://a", "headers": {"x-a": "b"}}),
        (lambda: types.SimpleNamespace(_client_wrapper=Wrapper()), {"address": "http://a", "headers": {"x-tenant": "a"}}),
        (
            lambda: types.SimpleNamespace(sdk_configuration=types.SimpleNamespace(get_server_details=lambda: ("http://a/", {}))),
            {"address": "http://a"},
        ),
    ],
)
def test_facts_of_clients(make: Any, facts: dict[str, object] | None) -> None:
    assert client_facts(make()) == facts


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL_BEDROCK_RUNTIME", "AWS_ENDPOINT_URL"])
def test_address_from_the_environment(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "http://elsewhere")
    facts = client_facts(boto3.client("bedrock-runtime", **BOTO))
    assert facts is not None
    assert facts["address"] == "http://elsewhere"


def test_headers_that_count() -> None:
    aside = [
        "Authorization",
        "X-Api-Key",
        "api-key",
        "Cookie",
        "User-Agent",
        "X-Request-Id",
        "x-stainless-lang",
        "Idempotency-Key",
        "traceparent",
    ]
    assert counted_headers({**dict.fromkeys(aside, "a"), "anthropic-beta": "b", "X-Tenant": 1}) == {"anthropic-beta": "b", "x-tenant": "1"}
    assert counted_headers(None) == counted_headers({}) == {}
