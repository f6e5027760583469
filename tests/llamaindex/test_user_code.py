"""Two programs with classes and functions of the same names share answers only if their code is the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from layered_cache import ConfigurationError, TieredCache
from layered_cache.testing import OpenAIServer
from llama_index.core.llms import ChatMessage, MockLLM
from llama_index.core.prompts import PromptTemplate
from llama_index.llms.openai import OpenAI
from support.sync_async import World

from llamaindex_layered_cache import cached

PROGRAM = """
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.llms.openai import OpenAI

STYLE = "formal"

def styled(text):
    return STYLE + " " + text

class OurLLM(OpenAI):
    def chat(self, messages, **more):
        return super().chat([ChatMessage(styled("answers")), *messages], **more)

    async def achat(self, messages, **more):
        return await super().achat([ChatMessage(styled("answers")), *messages], **more)

    def stream_chat(self, messages, **more):
        return super().stream_chat([ChatMessage(styled("answers")), *messages], **more)

    async def astream_chat(self, messages, **more):
        return await super().astream_chat([ChatMessage(styled("answers")), *messages], **more)

    def complete(self, prompt, **more):
        return super().complete(styled(prompt), **more)

    async def acomplete(self, prompt, **more):
        return await super().acomplete(styled(prompt), **more)

    def stream_complete(self, prompt, **more):
        return super().stream_complete(styled(prompt), **more)

    async def astream_complete(self, prompt, **more):
        return await super().astream_complete(styled(prompt), **more)

class OurEmbedding(OpenAIEmbedding):
    def _get_text_embedding(self, text):
        return super()._get_text_embedding(styled(text))

    async def _aget_text_embedding(self, text):
        return await super()._aget_text_embedding(styled(text))

class OurTemplate(PromptTemplate):
    def format(self, **arguments):
        return styled(super().format(**arguments))

def to_prompt(messages):
    return "".join(styled(message.content) for message in messages)
"""

Names = dict[str, Any]


def program(style: str = "formal", code: str = PROGRAM) -> Names:
    """Return the names of the program `__main__`, as another process has them."""
    found: Names = {"__name__": "__main__"}
    exec(compile(code.replace('STYLE = "formal"', f"STYLE = {style!r}"), "program.py", "exec", dont_inherit=True), found)
    return found


@pytest.fixture
def cache(db: str) -> Iterator[TieredCache]:
    with TieredCache("memory://", db) as cache:
        yield cache


def options(server: OpenAIServer, **more: Any) -> Any:
    return {"model": "gpt-4o-mini", "api_base": server.url, "api_key": "none", "max_retries": 0, **more}


def requests(server: OpenAIServer, world: World, thing: Any, method: str, asked: Any) -> int:
    """Return how many requests a call makes."""
    before = server.calls
    if "stream" not in method:
        world.call(thing, method, asked)
    elif world.name == "threads":
        list(getattr(thing, method)(asked))
    else:

        async def drained() -> None:
            async for _ in await getattr(thing, "a" + method)(asked):
                pass

        world.loop.run_until_complete(drained())  # type: ignore[union-attr]
    return server.calls - before


METHODS = [("chat", [ChatMessage("q")]), ("stream_chat", [ChatMessage("q")]), ("complete", "q"), ("stream_complete", "q")]


@pytest.mark.parametrize(("method", "asked"), METHODS)
def test_llms_of_two_programs_do_not_meet(world: World, cache: TieredCache, server: OpenAIServer, method: str, asked: Any) -> None:
    made = [program(style)["OurLLM"](**options(server)) for style in ("formal", "casual", "formal")]
    assert [requests(server, world, cached(llm, cache), method, asked) for llm in made] == [1, 1, 0]


def test_embeddings_of_two_programs_do_not_meet(world: World, cache: TieredCache, server: OpenAIServer) -> None:
    made = [program(style)["OurEmbedding"](**options(server, model="text-embedding-3-small")) for style in ("formal", "casual", "formal")]
    assert [requests(server, world, cached(model, cache), "get_text_embedding", "q") for model in made] == [1, 1, 0]


def test_a_helper_of_a_prompt_function_counts(world: World, cache: TieredCache, server: OpenAIServer) -> None:
    """A model for completions sends what the function returns."""
    functions = [program(style)["to_prompt"] for style in ("formal", "casual", "formal")]
    functions += [program(code=PROGRAM.replace('STYLE + " "', 'STYLE + ": "'))["to_prompt"]]
    made = [OpenAI(**options(server, model="gpt-3.5-turbo-instruct", max_tokens=9, messages_to_prompt=function)) for function in functions]
    assert [requests(server, world, cached(llm, cache), "chat", [ChatMessage("q")]) for llm in made] == [1, 1, 0, 1]


def test_a_constant_that_changes_after_the_first_call_counts(world: World, cache: TieredCache, server: OpenAIServer) -> None:
    names = program()
    llms = [
        names["OurLLM"](**options(server)),
        OpenAI(**options(server, model="gpt-3.5-turbo-instruct", max_tokens=9, messages_to_prompt=names["to_prompt"])),
    ]
    for llm in llms:
        made: list[int] = []
        for style in ("formal", "casual", "formal"):
            names["STYLE"] = style
            made.append(requests(server, world, cached(llm, cache), "chat", [ChatMessage("q")]))
        assert made == [1, 1, 0]


def test_the_class_of_a_template_counts(world: World, cache: TieredCache, server: OpenAIServer) -> None:
    templates = [program(style)["OurTemplate"]("say {query_str}") for style in ("formal", "casual", "formal")]
    made = [OpenAI(**options(server, query_wrapper_prompt=template)) for template in (*templates, PromptTemplate("say {query_str}"))]
    assert [requests(server, world, cached(llm, cache), "chat", [ChatMessage("q")]) for llm in made] == [1, 1, 0, 1]


@pytest.mark.parametrize("name", ["OurLLM", "OurEmbedding", "to_prompt"])
def test_code_without_identity_needs_a_key_extra(cache: TieredCache, server: OpenAIServer, name: str) -> None:
    """Until it is given, the model is refused; the message names the object."""
    thing = program(code=PROGRAM.replace('STYLE = "formal"', "class Style:\n    pass\nSTYLE = Style()"))[name]
    if name == "to_prompt":
        made: Any = MockLLM(messages_to_prompt=thing)
    else:
        made = thing(**options(server, **({"model": "text-embedding-3-small"} if name == "OurEmbedding" else {})))
    with pytest.raises(ConfigurationError, match=r"__main__.styled uses 'STYLE', an object of __main__.Style.*key_extra="):
        cached(made, cache)
    cached(made, cache, key_extra="formal-1")
