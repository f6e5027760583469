"""An answer that a structured program refuses does not stay in the cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from layered_cache import TieredCache
from llama_index.core import PromptTemplate
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.llms import ChatMessage
from llama_index.core.output_parsers import PydanticOutputParser
from llama_index.core.program import FunctionCallingProgram, LLMTextCompletionProgram
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai import OpenAI
from pydantic import BaseModel, Field
from support.scripted_server import Json, Reply, ScriptedServer, chat_completion
from support.sync_async import World

from llamaindex_layered_cache import cached
from llamaindex_layered_cache._llm import complete, hit_events

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

BAD, GOOD = '{"x": 99}', '{"x": 5}'
PROMPT = PromptTemplate("json about {subject}?")


class Out(BaseModel):
    """A number."""

    x: int = Field(ge=0, le=10)


class Provider(ScriptedServer):
    """Gives one bad answer first."""

    def __init__(self) -> None:
        self.bad: str | None = BAD
        super().__init__(self._reply)

    def _reply(self, path: str, body: Json) -> Reply:
        text, self.bad = (GOOD, None) if self.bad is None else (self.bad, None)
        if body.get("tools") and text != "no call":
            name = body["tools"][0]["function"]["name"]
            return chat_completion(body, None, tool_calls=[(f"call_{len(self.bodies)}", name, text)])
        return chat_completion(body, text)


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as provider:
        yield provider


@pytest.fixture
def cache() -> Iterator[TieredCache]:
    with TieredCache("memory://") as cache:
        yield cache


@pytest.fixture
def llm(provider: Provider, cache: TieredCache) -> Any:
    return cached(OpenAI(model="gpt-4o-mini", api_base=provider.url, api_key="k", max_retries=0, reuse_client=False), cache)


Ask = Callable[[Any, World], Any]


def by_prediction(llm: Any, world: World) -> Any:
    return world.call(llm, "structured_predict", Out, PROMPT, subject="cats")


def by_structured_llm(llm: Any, world: World) -> Any:
    return world.call(llm.as_structured_llm(Out), "chat", [ChatMessage("json about cats?")]).raw


def by_function_program(llm: Any, world: World) -> Any:
    return of_program(FunctionCallingProgram.from_defaults(Out, prompt=PROMPT, llm=llm), world)


def by_text_program(llm: Any, world: World) -> Any:
    return of_program(LLMTextCompletionProgram.from_defaults(output_cls=Out, prompt=PROMPT, llm=llm), world)


def of_program(program: Any, world: World) -> Any:
    return program(subject="cats") if world.name == "threads" else world.loop.run_until_complete(program.acall(subject="cats"))  # type: ignore[attr-defined]


WAYS: dict[str, Ask] = {
    "prediction": by_prediction,
    "structured llm": by_structured_llm,
    "function program": by_function_program,
    "text program": by_text_program,
}


@pytest.mark.parametrize("way", WAYS)
def test_retry_after_a_refused_answer_asks_the_model(way: str, world: World, llm: Any, provider: Provider) -> None:
    """The new answer is cached."""
    with suppress(ValueError, TypeError):
        assert not isinstance(WAYS[way](llm, world), Out)  # programs of older releases return the text of the error

    assert [WAYS[way](llm, world) for _ in range(2)] == [Out(x=5)] * 2
    assert provider.calls == 2


def test_answer_without_a_tool_call_is_refused(world: World, llm: Any, provider: Provider) -> None:
    provider.bad = "no call"
    with pytest.raises(ValueError, match="tool call"):
        by_function_program(llm, world)

    assert by_function_program(llm, world) == Out(x=5)


def test_parser_that_is_called_by_hand_refuses_the_answer(llm: Any, provider: Provider) -> None:
    answer = llm.chat([ChatMessage("json about cats?")]).message.content
    with pytest.raises(ValueError, match="less than"):
        PydanticOutputParser(Out).parse(answer)

    assert PydanticOutputParser(Out).parse(llm.chat([ChatMessage("json about cats?")]).message.content) == Out(x=5)


def test_parser_of_another_text_refuses_no_answer(llm: Any, provider: Provider) -> None:
    llm.chat([ChatMessage("json about cats?")])
    with pytest.raises(ValueError, match="less than"):
        PydanticOutputParser(Out).parse('{"x": 11}')

    llm.chat([ChatMessage("json about cats?")])
    assert provider.calls == 1


def test_refused_answer_leaves_all_tiers(world: World, tmp_path: Path, provider: Provider) -> None:
    """A process that starts later asks the model."""
    bare = OpenAI(model="gpt-4o-mini", api_base=provider.url, api_key="k", max_retries=0, reuse_client=False)
    for number in range(2):
        with TieredCache("memory://", f"sqlite:///{tmp_path / 'answers.db'}") as cache:
            if number:
                assert by_prediction(cached(bare, cache), world) == Out(x=5)
            else:
                with pytest.raises(ValueError, match="less than"):
                    by_prediction(cached(bare, cache), world)


def test_tool_that_fails_keeps_the_answer(world: World, llm: Any, provider: Provider) -> None:
    """Its arguments were fine."""
    provider.bad = None

    def count(x: int) -> int:
        raise ValueError(x)

    for _ in range(2):
        world.call(llm, "predict_and_call", [FunctionTool.from_defaults(count)], user_msg="count")
    assert provider.calls == 1


def test_model_that_fails_refuses_no_answer(world: World, llm: Any, provider: Provider) -> None:
    provider.bad = None
    by_prediction(llm, world)
    with pytest.raises(TypeError):
        world.call(llm, "structured_predict", Out, PROMPT, {"unknown_argument": 1}, subject="dogs")

    by_prediction(llm, world)
    assert provider.calls == 1


def test_cached_llms_share_one_handler_of_spans(llm: Any, cache: TieredCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """It needs no events of hits, which cost time."""
    before = len(get_dispatcher().span_handlers)
    cached(llm, cache)
    assert len(get_dispatcher().span_handlers) == before

    made: list[object] = []
    monkeypatch.setattr(complete, "listener", lambda *call: made.append(found := hit_events.listener(*call)) or found)
    for _ in range(2):
        llm.chat([ChatMessage("json about cats?")])
    assert made == [None]
