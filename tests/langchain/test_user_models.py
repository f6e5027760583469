"""Models of an application: two programs share the answers of a model only if its code is the same."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import FakeListChatModel
from layered_cache import TieredCache

from langchain_layered_cache import LayeredCache, LayeredCacheMiddleware, cached
from langchain_layered_cache._keys.model_settings import settings_of

PROGRAM = """
from langchain_core.language_models import BaseChatModel, BaseLLM
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, Generation, LLMResult

PLACE = "here"
RUNS = []

def answer():
    RUNS.append(PLACE)
    return "from " + PLACE

class OurChat(BaseChatModel):
    model: str = "ours"

    @property
    def _llm_type(self):
        return "ours"

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        return ChatResult(generations=[ChatGeneration(message=AIMessage(answer()))])

    def _stream(self, messages, stop=None, run_manager=None, **kwargs):
        yield ChatGenerationChunk(message=AIMessageChunk(content=answer()))

class OurLLM(BaseLLM):
    model: str = "ours"

    @property
    def _llm_type(self):
        return "ours"

    def _generate(self, prompts, stop=None, run_manager=None, **kwargs):
        return LLMResult(generations=[[Generation(text=answer())] for _ in prompts])
"""

UNREADABLE = PROGRAM.replace('PLACE = "here"', "class Place:\n    def __radd__(self, text):\n        return text\nPLACE = Place()")


def program(code: str = PROGRAM) -> dict[str, Any]:
    """Return the names of the program `__main__`, as another process has them."""
    found: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(code, "program.py", "exec", dont_inherit=True), found)
    return found


@pytest.fixture
def cache(db: str) -> Iterator[LayeredCache]:
    with TieredCache("memory://", db) as engine:
        yield LayeredCache(cache=engine)
        set_llm_cache(None)


Ask = Callable[[Any, LayeredCache, Any], str]


def by_global(model: Any, cache: LayeredCache, _: Any) -> str:
    set_llm_cache(cache)
    found = model.invoke("hello")
    return getattr(found, "content", found)


def by_wrapper(model: Any, cache: LayeredCache, extra: Any) -> str:
    found = cached(model, cache, key_extra=extra).invoke("hello")
    return getattr(found, "content", found)


def by_wrapper_async(model: Any, cache: LayeredCache, extra: Any) -> str:
    found = asyncio.run(cached(model, cache, key_extra=extra).ainvoke("hello"))
    return getattr(found, "content", found)


def by_stream(model: Any, cache: LayeredCache, extra: Any) -> str:
    return "".join(getattr(part, "content", part) for part in cached(model, cache, key_extra=extra).stream("hello"))


def by_stream_async(model: Any, cache: LayeredCache, extra: Any) -> str:
    async def read() -> str:
        return "".join([getattr(part, "content", part) async for part in cached(model, cache, key_extra=extra).astream("hello")])

    return asyncio.run(read())


def by_agent(model: Any, cache: LayeredCache, extra: Any) -> str:
    agent = create_agent(model, middleware=[LayeredCacheMiddleware(cache, key_extra=extra)])
    return agent.invoke({"messages": [("user", "hello")]})["messages"][-1].content


WRAPPED = [by_wrapper, by_wrapper_async, by_stream, by_stream_async]
EVERY = [(ask, kind) for ask in (by_global, *WRAPPED) for kind in ("OurChat", "OurLLM")] + [(by_agent, "OurChat")]
every_entry = pytest.mark.parametrize(("ask", "kind"), EVERY)


@every_entry
def test_models_of_two_programs_do_not_share_answers(ask: Ask, kind: str, cache: LayeredCache) -> None:
    """The constant of a helper differs; line numbers do not count."""
    programs = [program(), program(PROGRAM.replace('"here"', '"there"')), program("\n\n" + PROGRAM)]
    assert [ask(names[kind](), cache, None) for names in programs] == ["from here", "from there", "from here"]
    assert [len(names["RUNS"]) for names in programs] == [1, 1, 0]


@every_entry
def test_a_model_whose_constant_is_bound_anew_gets_another_key(ask: Ask, kind: str, cache: LayeredCache) -> None:
    names = program()
    model = names[kind]()
    ask(model, cache, None)
    names["PLACE"] = "there"
    assert ask(model, cache, None) == "from there"
    assert names["RUNS"] == ["here", "there"]


@every_entry
def test_a_model_with_unreadable_code_is_not_cached(ask: Ask, kind: str, cache: LayeredCache, caplog: pytest.LogCaptureFixture) -> None:
    names = program(UNREADABLE)
    model = names[kind]()
    for _ in range(2):
        ask(model, cache, None)
    assert len(names["RUNS"]) == 2
    found = [record.getMessage() for record in caplog.records if "PLACE" in record.getMessage()]
    assert len(set(found)) == 1
    assert "__main__.answer uses 'PLACE', an object of __main__.Place" in found[0]
    assert "cached(model, key_extra='name/and-settings')" in found[0]


@pytest.mark.parametrize(("ask", "kind"), [pair for pair in EVERY if pair[0] is not by_global])
def test_key_extra_identifies_a_model_with_unreadable_code(ask: Ask, kind: str, cache: LayeredCache) -> None:
    names = program(UNREADABLE)
    for extra in ("one", "two", "one"):
        ask(names[kind](), cache, extra)
    assert len(names["RUNS"]) == 2


def test_a_model_inside_another_one_counts_with_its_code() -> None:
    holding = "\nclass Holding(OurChat):\n    inner: BaseChatModel\n"
    digests: set[bytes] = set()
    for code in (PROGRAM, PROGRAM.replace('"here"', '"there"'), PROGRAM):
        inner = program(code)["OurChat"]()
        digests.add(settings_of(program(PROGRAM + holding)["Holding"](inner=inner)).digest)
    assert len(digests) == 2


def test_a_model_of_a_library_has_no_code_in_its_key() -> None:
    assert settings_of(FakeListChatModel(responses=["x"])).code is None
