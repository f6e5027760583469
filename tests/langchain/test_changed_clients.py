"""Clients that are changed after the first use of their model: the next call has another key."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_openai import ChatOpenAI
from layered_cache.testing import OpenAIServer
from pydantic import PrivateAttr

from langchain_layered_cache import LayeredCache, cached


@pytest.fixture
def servers() -> Iterator[tuple[OpenAIServer, OpenAIServer]]:
    with OpenAIServer() as one, OpenAIServer() as other:
        yield one, other


def test_client_with_another_address_asks_there(servers: tuple[OpenAIServer, OpenAIServer]) -> None:
    one, other = servers
    with LayeredCache("memory://") as cache:
        model = cached(ChatOpenAI(model="m", api_key="x", base_url=one.url), cache)
        for _ in range(2):
            model.invoke("q")
        assert (one.calls, other.calls) == (1, 0)
        model.root_client.base_url = other.url
        for _ in range(2):
            model.invoke("q")
        assert (one.calls, other.calls) == (1, 1)
        model.root_client.base_url = one.url
        model.invoke("q")
        assert (one.calls, other.calls) == (1, 1)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.root_client._custom_headers.update({"x-version": "2"}),
        lambda model: model.root_client._custom_query.update({"version": "2"}),
        lambda model: model.http_client.headers.update({"x-version": "2"}),
        lambda model: setattr(model.http_client, "headers", {"x-version": "2"}),
    ],
    ids=["headers", "query", "headers of the HTTP client", "other headers of the HTTP client"],
)
def test_client_with_another_header_or_query_asks_again(
    servers: tuple[OpenAIServer, OpenAIServer], change: Callable[[Any], object]
) -> None:
    one, _ = servers
    with LayeredCache("memory://") as cache, httpx.Client() as client:
        model = cached(ChatOpenAI(model="m", api_key="x", base_url=one.url, http_client=client), cache)
        model.invoke("q")
        change(model)
        for _ in range(2):
            model.invoke("q")
        assert one.calls == 2


class Client:
    def __init__(self, base_url: str) -> None:
        self.base_url = base_url


class Private(BaseChatModel):
    """A model with its client in a private attribute."""

    model: str = "m"
    calls: list[str] = []
    _client: Client = PrivateAttr(default_factory=lambda: Client("http://one"))

    @property
    def _llm_type(self) -> str:
        return "private"

    def _generate(self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        self.calls.append(self._client.base_url)
        return ChatResult(generations=[ChatGeneration(message=AIMessage(self._client.base_url))])


def test_private_client_that_is_replaced_asks_again() -> None:
    with LayeredCache("memory://") as cache:
        model = cached(Private(), cache)
        assert model.invoke("q").content == "http://one"
        model._client = Client("http://other")
        assert model.invoke("q").content == "http://other"
        model._client.base_url = "http://third"
        assert model.invoke("q").content == "http://third"
