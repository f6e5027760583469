"""`legacy=`: another cache is asked for what is missing here, and what it has is copied forward."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain_core.caches import BaseCache, InMemoryCache
from langchain_core.globals import set_llm_cache
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration
from langchain_openai import ChatOpenAI
from layered_cache import CacheMiss, Event, cache_options
from layered_cache.testing import FakeAuthority, OpenAIServer
from pydantic import create_model
from support.sync_async import World

from langchain_layered_cache import LayeredCache


@pytest.fixture
def model(server: OpenAIServer) -> ChatOpenAI:
    return ChatOpenAI(model="gpt-4o-mini", base_url=server.url, api_key="none")


class Counting(InMemoryCache):
    """The old cache, and how often it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def lookup(self, prompt: str, llm_string: str) -> Any:
        self.asked += 1
        return super().lookup(prompt, llm_string)


@pytest.fixture
def old(model: ChatOpenAI, server: OpenAIServer) -> Counting:
    """The old cache, which knows one answer."""
    old = Counting()
    set_llm_cache(old)
    model.invoke("hello")
    set_llm_cache(None)
    old.asked = 0
    server.reset()
    return old


@pytest.fixture
def use(events: list[Event]) -> Iterator[Callable[..., LayeredCache]]:
    """Makes the global cache."""
    made: list[LayeredCache] = []

    def use(*tiers: Any, legacy: BaseCache, **kwargs: Any) -> LayeredCache:
        made.append(LayeredCache(*(tiers or ("memory://",)), legacy=legacy, observers=[events.append], **kwargs))
        set_llm_cache(made[-1])
        return made[-1]

    yield use
    set_llm_cache(None)
    for cache in made:
        cache.close()


def test_what_it_has_is_copied_once(world: World, use: Callable[..., LayeredCache], old: Counting, model: ChatOpenAI, db: str) -> None:
    """And nobody is called; what it has not, is not asked for twice."""
    use("memory://", db, legacy=old, mark_hits=True)

    assert world.call(model, "invoke", "hello").response_metadata["layered_cache"]["tier"] == "legacy"
    assert world.call(model, "invoke", "hello").response_metadata["layered_cache"]["tier"] == "memory"
    assert old.asked == 1
    world.call(model, "invoke", "another")
    world.call(model, "invoke", "another")
    assert old.asked == 2
    assert len(old._cache) == 1  # it is not written


def test_the_model_is_not_called_for_it(
    world: World, use: Callable[..., LayeredCache], old: Counting, model: ChatOpenAI, server: OpenAIServer
) -> None:
    use(legacy=old)
    answers = [world.call(model, "invoke", "hello") for _ in range(2)]

    assert server.calls == 0
    assert {answer.content for answer in answers} == {"You asked: hello"}
    answers[0].content = "changed"
    assert world.call(model, "invoke", "hello").content == "You asked: hello"


@pytest.mark.parametrize("how", ["clear", "delete", "prompt", "model"])
def test_what_was_removed_does_not_come_back(
    world: World, how: str, use: Callable[..., LayeredCache], old: Counting, model: ChatOpenAI, server: OpenAIServer
) -> None:
    """Whether or not it had been copied."""
    cache = use(legacy=old)
    if how == "delete":
        world.call(model, "invoke", "hello")
        (entry,) = cache.engine.entries()
        cache.engine.delete(entry.key)
    elif how == "clear":
        cache.clear()
    else:
        cache.invalidate(**{"prompt": {"prompt": "hello"}, "model": {"model": "gpt-4o*"}}[how])

    world.call(model, "invoke", "hello")
    assert server.calls == 1
    world.call(model, "invoke", "hello")
    assert server.calls == 1


def test_what_its_texts_do_not_tell_is_not_asked_of_it(
    world: World, use: Callable[..., LayeredCache], old: Counting, model: ChatOpenAI, server: OpenAIServer
) -> None:
    """A tenant, another sample, an account, changed parameters, a class."""
    use(legacy=old)
    for options in ({"namespace": "tenant"}, {"sample": 1}, {"account": "a"}):
        with cache_options(**options):
            world.call(model, "invoke", "hello")
    world.call(model.model_copy(update={"model_name": "gpt-4o"}), "invoke", "hello")
    model.with_structured_output(create_model("Out", text=(str, ...))).invoke("hello")

    assert old.asked == 0
    assert server.calls == 5


def test_modes_hold_for_it(world: World, use: Callable[..., LayeredCache], old: Counting, model: ChatOpenAI, server: OpenAIServer) -> None:
    use(legacy=old)
    with cache_options(mode="read_only"):
        world.call(model, "invoke", "hello")
    with cache_options(mode="bypass"):
        world.call(model, "invoke", "hello")
    assert (server.calls, old.asked) == (2, 0)
    with cache_options(mode="only_cached"):
        assert world.call(model, "invoke", "hello").content == "You asked: hello"
        with pytest.raises(CacheMiss):
            world.call(model, "invoke", "unheard")
    assert server.calls == 2


def test_while_the_log_cannot_be_read_it_is_not_asked(use: Callable[..., LayeredCache], old: Counting, model: ChatOpenAI) -> None:
    """Nobody could know what was removed."""
    authority = FakeAuthority()
    authority.log_is_broken = True
    use("memory://", authority, legacy=old)

    model.invoke("hello")
    assert old.asked == 0


def test_many_who_ask_at_once_ask_it_once(use: Callable[..., LayeredCache], old: Counting, model: ChatOpenAI, server: OpenAIServer) -> None:
    use(legacy=old)
    threads = [threading.Thread(target=model.invoke, args=("hello",)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert old.asked == 1
    assert server.calls == 0


class Broken(BaseCache):
    """A cache that raises, or returns what is none."""

    def __init__(self, found: Any = None) -> None:
        self.found = found

    def lookup(self, prompt: str, llm_string: str) -> Any:
        if self.found is None:
            msg = "out of order: sk-secret"
            raise ConnectionError(msg)
        return self.found

    def update(self, prompt: str, llm_string: str, return_val: Any) -> None:
        raise AssertionError

    def clear(self, **kwargs: Any) -> None:
        raise AssertionError


@pytest.mark.parametrize("found", [None, "text", [ChatGeneration(message=AIMessage('{"lc": 1, "type": "constructor"}'))], [1]])
def test_what_is_no_answer_is_a_miss(
    found: Any, world: World, use: Callable[..., LayeredCache], model: ChatOpenAI, server: OpenAIServer, events: list[Event], caplog: Any
) -> None:
    """One is told of it, without a word of what was said."""
    use(legacy=Broken(found))

    assert world.call(model, "invoke", "hello").content == "You asked: hello"
    assert server.calls == 1
    assert next(event.reason or "" for event in events if event.kind == "adapter_failed").startswith("legacy: ")
    assert "sk-secret" not in caplog.text + str(events)
