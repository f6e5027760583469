"""Two programs with tools, embeddings and functions of the same names share results only if their code is the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.tools import BaseTool
from langchain_openai import ChatOpenAI
from layered_cache import ConfigurationError, TieredCache
from layered_cache.testing import OpenAIServer
from support.sync_async import World

from langchain_layered_cache import CachedEmbeddings
from langchain_layered_cache.middleware import LayeredCacheMiddleware

PROGRAM = """
import functools
from langchain_core.tools import BaseTool, Tool, tool
from langchain_openai import OpenAIEmbeddings

PLACE = "here"
RUNS = []

def seen(city):
    RUNS.append(city)
    return city + " " + PLACE

@tool
def of_function(city: str) -> str:
    "Look."
    return seen(city)

class Look(BaseTool):
    name: str = "look"
    description: str = "Look."

    def _run(self, city: str) -> str:
        return self.found(city)

    def found(self, city):
        return seen(city)

of_class = Look()
of_lambda = Tool("look", lambda city: seen(city), "Look.")
of_partial = Tool("look", functools.update_wrapper(functools.partial(seen), seen), "Look.")
of_function.name = "look"

class OurEmbeddings(OpenAIEmbeddings):
    def embed_documents(self, texts, **more):
        return super().embed_documents([seen(text) for text in texts], **more)

    async def aembed_documents(self, texts, **more):
        return await super().aembed_documents([seen(text) for text in texts], **more)

    def embed_query(self, text, **more):
        return super().embed_query(seen(text), **more)

    async def aembed_query(self, text, **more):
        return await super().aembed_query(seen(text), **more)
"""

QUESTION: Any = {"messages": [("user", "look at Berlin")]}


def program(place: str = "here", code: str = PROGRAM) -> dict[str, Any]:
    """Return the names of the program `__main__`, as another process has them."""
    found: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(code.replace('PLACE = "here"', f"PLACE = {place!r}"), "program.py", "exec", dont_inherit=True), found)
    return found


@pytest.fixture
def cache(db: str) -> Iterator[TieredCache]:
    with TieredCache("memory://", db) as cache:
        yield cache


# --- tools


def result(world: World, cache: TieredCache, server: OpenAIServer, tool: BaseTool) -> str:
    """Return the result of *tool* in an agent."""
    model = ChatOpenAI(model="gpt-4o-mini", base_url=server.url, api_key="none", max_retries=0)  # type: ignore[arg-type]
    agent: Any = create_agent(model, [tool], middleware=[LayeredCacheMiddleware(cache, tools=["look"], models=False)])
    return world.call(agent, "invoke", QUESTION)["messages"][2].content


@pytest.mark.parametrize("name", ["of_function", "of_class", "of_lambda", "of_partial"])
def test_tools_of_two_programs_do_not_meet(world: World, cache: TieredCache, server: OpenAIServer, name: str) -> None:
    """They call one helper, which reads another constant; line numbers do not count."""
    programs = [program(), program("there"), program(code="\n\n" + PROGRAM), program(code=PROGRAM.replace('city + " "', 'city + "-"'))]
    results = [result(world, cache, server, names[name]) for names in programs]
    assert [text[-5:] for text in results] == [" here", "there", " here", "-here"]
    assert [len(names["RUNS"]) for names in programs] == [1, 1, 0, 1]


def test_a_tool_with_code_without_identity_needs_a_name(
    world: World, cache: TieredCache, server: OpenAIServer, caplog: pytest.LogCaptureFixture
) -> None:
    names = program(
        code=PROGRAM.replace('PLACE = "here"', "class Place:\n    def __radd__(self, text):\n        return text\nPLACE = Place()")
    )
    for name in ("of_function", "of_class"):
        tool = names[name]
        for _ in range(2):
            result(world, cache, server, tool)
        assert len(names["RUNS"]) == 2
        assert "__main__.seen uses 'PLACE', an object of __main__.Place" in caplog.text
        assert 'tool.metadata = {"cache_key": "legal-index-7"}' in caplog.text
        tool.metadata = {"cache_key": name}
        for _ in range(2):
            result(world, cache, server, tool)
        assert len(names["RUNS"]) == 3
        names["RUNS"].clear()
        caplog.clear()


# --- embeddings


def test_embeddings_of_two_programs_do_not_meet(world: World, cache: TieredCache, server: OpenAIServer) -> None:
    for method, asked in (("embed_query", "q"), ("embed_documents", ["q"])):
        made: list[int] = []
        for place in ("here", "there", "here"):
            model = program(place)["OurEmbeddings"](base_url=server.url, api_key="none", check_embedding_ctx_length=False)
            before = server.calls
            world.call(CachedEmbeddings(model, cache), method, asked)
            made.append(server.calls - before)
        assert made == [1, 1, 0]


def test_embeddings_with_code_without_identity_need_a_model(cache: TieredCache, server: OpenAIServer) -> None:
    names = program(code=PROGRAM.replace('PLACE = "here"', "class Place: pass\nPLACE = Place()"))
    model = names["OurEmbeddings"](base_url=server.url, api_key="none")
    with pytest.raises(ConfigurationError, match=r"__main__.seen uses 'PLACE', an object of __main__.Place.*model="):
        CachedEmbeddings(model, cache)
    CachedEmbeddings(model, cache, model="ours-1")
