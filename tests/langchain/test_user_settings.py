"""The settings of models of a user's own class: attributes that setters change count, and notes of calls do not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr

from langchain_layered_cache import LayeredCache, cached


class UserChat(BaseChatModel):
    model_config = ConfigDict(extra="allow")

    words: int = 5
    rules: list[str] = []
    options: dict[str, Any] = {}
    calls: int = 0
    _mode: str = PrivateAttr("short")
    _examples: list[str] = PrivateAttr(default_factory=list[str])
    _seen: list[str] = PrivateAttr(default_factory=list[str])

    def limit(self, words: int) -> None:
        self.words = words

    def add_rule(self, rule: str) -> None:
        self.rules.append(rule)

    def switch(self, mode: str) -> None:
        self._mode = mode

    def add_example(self, example: str) -> None:
        self._examples.append(example)

    @property
    def _llm_type(self) -> str:
        return "user-chat"

    def _count(self, text: str) -> None:
        self.calls += 1
        self._seen.append(text)

    def _generate(self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        self._count(str(messages[-1].content))
        secrets = [value.get_secret_value() for value in self.options.values()]
        text = f"{self.words} {self.rules} {secrets} {self._mode} {self._examples} {self.__pydantic_extra__}"
        return ChatResult(generations=[ChatGeneration(message=AIMessage(content=text))])


@pytest.fixture(autouse=True)
def _global_cache() -> Iterator[None]:
    set_llm_cache(LayeredCache("memory://"))
    yield
    set_llm_cache(None)


def _limit(model: UserChat) -> None:
    model.limit(50)


def _add_rule(model: UserChat) -> None:
    model.add_rule("be kind")


def _switch(model: UserChat) -> None:
    model.switch("long")


def _add_example(model: UserChat) -> None:
    model.add_example("an example")


def _change_extra(model: UserChat) -> None:
    model.style = "formal"


def _replace_secret(model: UserChat) -> None:
    model.options["route"] = SecretStr("new")


@pytest.mark.parametrize("change", [_limit, _add_rule, _switch, _add_example, _change_extra, _replace_secret])
def test_setting_changed_by_a_setter_changes_the_key(change: Any) -> None:
    model = UserChat(style="plain", options={"route": SecretStr("old")}, rules=[])  # pyright: ignore[reportCallIssue]
    before = model.invoke("q").content
    change(model)
    after = model.invoke("q").content
    assert after != before
    assert model.calls == 2


def test_notes_of_calls_do_not_change_the_key() -> None:
    model = UserChat()
    model.invoke("q")
    model.invoke("other")
    model.invoke("q")
    assert model.calls == 2


class Route(BaseModel):
    """An object in a field. Its repr leaves out a field, hides a secret and has no private attributes."""

    server: str = Field(default="one", repr=False)
    token: SecretStr = SecretStr("a")
    _seed: int = PrivateAttr(1)


class RoutedChat(BaseChatModel):
    routes: list[Route]

    @property
    def _llm_type(self) -> str:
        return "routed-chat"

    def _generate(self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        [route] = self.routes
        text = f"{route.server} {route.token.get_secret_value()} {route._seed}"
        return ChatResult(generations=[ChatGeneration(message=AIMessage(content=text))])


@pytest.mark.parametrize("wrapped", [False, True], ids=["global cache", "cached"])
@pytest.mark.parametrize(("name", "value"), [("server", "two"), ("token", SecretStr("b")), ("_seed", 2)])
def test_object_in_a_field_that_changes_changes_the_key(name: str, value: object, *, wrapped: bool) -> None:
    model = RoutedChat(routes=[Route()])
    model = cached(model) if wrapped else model
    before = model.invoke("q").content
    assert model.invoke("q").content == before
    setattr(model.routes[0], name, value)
    assert model.invoke("q").content != before
