"""How LangChain's models are called: the entry points that the oracle observes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from langchain_core.globals import set_llm_cache
from layered_cache import TieredCache
from providers.oracle import Situation, Subject

from langchain_layered_cache import LayeredCache, cached

_loop: list[asyncio.Runner] = []


def run(coroutine: Any) -> Any:
    """Run *coroutine* in the loop of all these tests: asynchronous clients belong to the loop of their first use."""
    if not _loop:
        _loop.append(asyncio.Runner())
    return _loop[0].run(coroutine)


@dataclass(frozen=True, kw_only=True)
class Binding:
    """The arguments that are bound to a chat model before it is called."""

    tools: tuple[Any, ...] = ()
    schema: Any = None
    arguments: dict[str, Any] = field(default_factory=dict[str, Any])


def made(subject: Subject, situation: Situation, url: str) -> Any:
    """Return the model of *situation*, not used yet."""
    cls = getattr(import_module(subject.module), subject.name)
    return cls(**subject.arguments(situation, url))


def changed(model: Any, situation: Situation) -> Any:
    """Return *model* after the changes of *situation*."""
    for how, values in situation.changes:
        if how == "copy":
            model = model.model_copy(update=dict(values))
        else:
            for name, value in values.items():
                setattr(model, name, value)
    return model


def bound(model: Any, subject: Subject, situation: Situation) -> Any:
    """Return *model* with the arguments that *situation* binds."""
    if not situation.bound:
        return model
    binding: Binding = subject.bound[situation.bound]
    if binding.schema is not None:
        return model.with_structured_output(binding.schema, **binding.arguments)
    if binding.tools:
        return model.bind_tools([*binding.tools], **binding.arguments)
    return model.bind(**binding.arguments)


async def _each(chunks: AsyncIterator[Any]) -> None:
    async for _ in chunks:
        pass


WAYS: dict[str, Callable[[Any, Any, dict[str, Any]], object]] = {
    "invoke": lambda model, prompt, call: model.invoke(prompt, **call),
    "ainvoke": lambda model, prompt, call: run(model.ainvoke(prompt, **call)),
    "stream": lambda model, prompt, call: [*model.stream(prompt, **call)],
    "astream": lambda model, prompt, call: run(_each(model.astream(prompt, **call))),
}


@dataclass(frozen=True)
class Global:
    """`set_llm_cache(LayeredCache(...))`, and a model as it is."""

    way: str

    @property
    def name(self) -> str:
        return f"global {self.way}"

    def prepare(self, subject: Subject, situation: Situation, url: str, cache: TieredCache | None) -> Callable[[], object]:
        layered = None if cache is None else LayeredCache(cache=cache)
        model = made(subject, situation, url)

        def call(model: Any, prompt: Any, arguments: dict[str, Any]) -> object:
            set_llm_cache(layered)
            try:
                return WAYS[self.way](model, prompt, arguments)
            finally:
                set_llm_cache(None)

        if situation.changes:
            call(model, subject.prompts["plain"], {})
            model = changed(model, situation)
        target = bound(model, subject, situation)
        return lambda: call(target, subject.prompts[situation.prompt], dict(situation.call))


@dataclass(frozen=True)
class Wrapped:
    """`cached(model, cache)`."""

    way: str

    @property
    def name(self) -> str:
        return f"cached {self.way}"

    def prepare(self, subject: Subject, situation: Situation, url: str, cache: TieredCache | None) -> Callable[[], object]:
        model = made(subject, situation, url)
        if cache is not None:
            model = cached(model, LayeredCache(cache=cache))
        if situation.changes:
            WAYS[self.way](model, subject.prompts["plain"], {})
            model = changed(model, situation)
        target = bound(model, subject, situation)
        return lambda: WAYS[self.way](target, subject.prompts[situation.prompt], dict(situation.call))


@dataclass(frozen=True)
class Agent:
    """`create_agent(model, middleware=[LayeredCacheMiddleware(cache)])`."""

    way: str

    @property
    def name(self) -> str:
        return f"middleware {self.way}"

    def prepare(self, subject: Subject, situation: Situation, url: str, cache: TieredCache | None) -> Callable[[], object]:
        model = made(subject, situation, url)
        if situation.changes:
            self._call(model, subject, Situation(label="first use"), cache)()
            model = changed(model, situation)
        return self._call(model, subject, situation, cache)

    def _call(self, model: Any, subject: Subject, situation: Situation, cache: TieredCache | None) -> Callable[[], object]:
        from langchain.agents import create_agent
        from langchain.agents.structured_output import ProviderStrategy, ToolStrategy

        from langchain_layered_cache import LayeredCacheMiddleware

        binding: Binding = subject.bound[situation.bound] if situation.bound else Binding()
        settings = {**binding.arguments, **situation.call}
        response_format = None
        if binding.schema is not None:
            method = settings.pop("method", "function_calling")
            response_format = ToolStrategy(binding.schema) if method == "function_calling" else ProviderStrategy(binding.schema)
        middleware: list[Any] = [_settings(settings)] if settings else []
        if cache is not None:
            middleware.append(LayeredCacheMiddleware(cache))
        tools = [_tool(one) for one in binding.tools]
        agent = create_agent(model, tools, middleware=middleware, response_format=response_format)
        prompt = subject.prompts[situation.prompt]
        asked: Any = {"messages": [("user", prompt)] if isinstance(prompt, str) else prompt}
        # a model that never gives the structured answer is asked again and again
        config: Any = {"recursion_limit": 8}
        return (lambda: agent.invoke(asked, config)) if self.way == "invoke" else (lambda: run(agent.ainvoke(asked, config)))


def _tool(schema: type) -> Any:
    from langchain_core.tools import StructuredTool

    return StructuredTool.from_function(
        lambda **_: "done", name=schema.__name__, description=schema.__doc__ or "", args_schema=schema, return_direct=True
    )


def _settings(settings: dict[str, Any]) -> Any:
    """Return a middleware that has the model called with *settings*."""
    from langchain.agents.middleware import AgentMiddleware

    choice = {"tool_choice": settings["tool_choice"]} if "tool_choice" in settings else {}
    rest = {name: value for name, value in settings.items() if name != "tool_choice"}

    class Settings(AgentMiddleware):
        def wrap_model_call(self, request: Any, handler: Any) -> Any:
            return handler(request.override(model_settings=rest, **choice))

        async def awrap_model_call(self, request: Any, handler: Any) -> Any:
            return await handler(request.override(model_settings=rest, **choice))

    return Settings()


CHAT = (
    Global("invoke"), Wrapped("invoke"), Wrapped("stream"), Agent("invoke"),
    Global("ainvoke"), Wrapped("ainvoke"), Wrapped("astream"), Agent("ainvoke"),
)  # fmt: skip
SYNC = tuple(entry for entry in CHAT if not entry.way.startswith("a"))
PLAIN = tuple(entry for entry in CHAT if not isinstance(entry, Agent))
