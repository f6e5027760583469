"""How LlamaIndex's models are called: the entry points that the oracle observes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from layered_cache import ConfigurationError, TieredCache
from llama_index.core.tools import FunctionTool
from providers.oracle import Situation, Subject, placed

from llamaindex_layered_cache import cached

_loop: list[asyncio.Runner] = []
_logger = logging.getLogger("layered_cache")


# clients that take no address
_REDIRECTED: dict[str, Callable[[Any, str], None]] = {
    "MistralAIEmbedding": lambda model, url: setattr(model._client.sdk_configuration, "server_url", url),
}


def run(coroutine: Any) -> Any:
    """Run *coroutine* in the loop of all these tests: asynchronous clients belong to the loop of their first use."""
    if not _loop:
        _loop.append(asyncio.Runner())
    return _loop[0].run(coroutine)


@dataclass(frozen=True, kw_only=True)
class Binding:
    """The arguments of an LLM call beside the messages: *tools* by `chat_with_tools`, a *schema* by `as_structured_llm`."""

    tools: tuple[type, ...] = ()
    schema: type | None = None
    arguments: dict[str, Any] = field(default_factory=dict[str, Any])


def made(subject: Subject, situation: Situation, url: str, cache: TieredCache | None) -> Any:
    """Return the model of *situation*, not used yet. A model that `cached` refuses is not cached; its reason is logged."""
    cls = getattr(import_module(subject.module), subject.name)
    model = cls(**subject.arguments(situation, url))
    if (redirect := _REDIRECTED.get(subject.name)) is not None:
        redirect(model, url)
    if cache is None:
        return model
    try:
        return cached(model, cache)
    except ConfigurationError as error:
        _logger.warning("%s", error)
        return model


def changed(model: Any, situation: Situation, url: str) -> Any:
    """Return *model* after the changes of *situation*."""
    for how, given in situation.changes:
        values = placed(dict(given), url)
        if how == "copy":
            model = model.model_copy(update=values)
        else:
            for name, value in values.items():
                setattr(model, name, value)
    return model


async def _each(chunks: Any) -> None:
    async for _ in await chunks:
        pass


def _done(way: str, result: Any) -> object:
    """Return the result of a call by *way*, to its end."""
    if way.startswith("astream"):
        return run(_each(result))
    if way.startswith("a"):
        return run(result)
    return [*result] if way.startswith("stream") else result


@dataclass(frozen=True)
class LLMCall:
    """`cached(llm, cache)` by one of its methods, and by the methods of LlamaIndex that come down to it."""

    way: str

    @property
    def name(self) -> str:
        return self.way

    def prepare(self, subject: Subject, situation: Situation, url: str, cache: TieredCache | None) -> Callable[[], object]:
        model = made(subject, situation, url, cache)
        if situation.changes:
            self._call(model, subject, Situation(label="first use"))()
            model = changed(model, situation, url)
        return self._call(model, subject, situation)

    def _call(self, model: Any, subject: Subject, situation: Situation) -> Callable[[], object]:
        prompt = subject.prompts[situation.prompt]
        binding: Binding = subject.bound[situation.bound] if situation.bound else Binding()
        arguments = {**binding.arguments, **situation.call}
        if "complete" in self.way:
            if not isinstance(prompt, str) or binding.tools or binding.schema:
                msg = "a completion takes a text"
                raise TypeError(msg)
            return lambda: _done(self.way, getattr(model, self.way)(prompt, **arguments))
        messages = _messages(prompt)
        if binding.tools:
            tools = [_tool(schema) for schema in binding.tools]
            method = f"{self.way}_with_tools"
            return lambda: _done(self.way, getattr(model, method)(tools, chat_history=[*messages], **arguments))
        if binding.schema is not None:
            structured = model.as_structured_llm(binding.schema)
            return lambda: _done(self.way, getattr(structured, self.way)([*messages], **arguments))
        return lambda: _done(self.way, getattr(model, self.way)([*messages], **arguments))


def _messages(prompt: Any) -> list[Any]:
    from llama_index.core.llms import ChatMessage

    return [ChatMessage(role="user", content=prompt)] if isinstance(prompt, str) else prompt


def _tool(schema: type) -> FunctionTool:
    return FunctionTool.from_defaults(lambda **_: "done", name=schema.__name__, description=schema.__doc__, fn_schema=schema)


@dataclass(frozen=True)
class EmbeddingCall:
    """`cached(embed_model, cache)` by one of its methods."""

    way: str

    @property
    def name(self) -> str:
        return self.way

    def prepare(self, subject: Subject, situation: Situation, url: str, cache: TieredCache | None) -> Callable[[], object]:
        model = made(subject, situation, url, cache)
        if situation.changes:
            self._call(model, subject.prompts["plain"])()
            model = changed(model, situation, url)
        return self._call(model, subject.prompts[situation.prompt])

    def _call(self, model: Any, text: str) -> Callable[[], object]:
        asked: Any = [text] if self.way.endswith("batch") else text
        return lambda: _done(self.way, getattr(model, self.way)(asked))


CHAT = (
    LLMCall("chat"), LLMCall("stream_chat"), LLMCall("complete"), LLMCall("stream_complete"),
    LLMCall("achat"), LLMCall("astream_chat"), LLMCall("acomplete"), LLMCall("astream_complete"),
)  # fmt: skip
EMBEDDINGS = (
    EmbeddingCall("get_text_embedding"), EmbeddingCall("get_query_embedding"), EmbeddingCall("get_text_embedding_batch"),
    EmbeddingCall("aget_text_embedding"), EmbeddingCall("aget_query_embedding"), EmbeddingCall("aget_text_embedding_batch"),
)  # fmt: skip
