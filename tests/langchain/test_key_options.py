"""`ignore` and `normalize`: the request stays, and equal questions cost one call, at every entry point."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAI
from layered_cache import ConfigurationError, Event, Normalize, TieredCache
from layered_cache.testing import OpenAIServer
from support.sync_async import World, settled

from langchain_layered_cache import LayeredCache, LayeredCacheMiddleware, cached, uncached
from langchain_layered_cache._keys.key_options import key_options_of

HOW = ["whitespace", "case"]
TEXTS = ("What is X?", "  what is x? ", "WHAT  IS\nX?")


@pytest.fixture(autouse=True)
def _no_global_cache() -> Iterator[None]:
    yield
    set_llm_cache(None)


def chat(server: OpenAIServer, **kwargs: Any) -> ChatOpenAI:
    return ChatOpenAI(model="gpt-4o-mini", base_url=server.url, api_key="none", max_retries=0, temperature=0, **kwargs)


def plain(server: OpenAIServer, **kwargs: Any) -> OpenAI:
    return OpenAI(model="gpt-3.5-turbo-instruct", base_url=server.url, api_key="none", max_retries=0, temperature=0, **kwargs)  # type: ignore[arg-type]


def streamed(world: World, model: Any, asked: Any, **kwargs: Any) -> list[Any]:
    if world.name == "threads":
        return list(model.stream(asked, **kwargs))

    async def collected() -> list[Any]:
        return [chunk async for chunk in model.astream(asked, **kwargs)]

    return world.loop.run_until_complete(collected())


# how a model is asked through a cache with the options *how*
ENTRIES: dict[str, Callable[[World, OpenAIServer, TieredCache, str, dict[str, Any]], Any]] = {}


def entry(name: str) -> Callable[[Any], Any]:
    def noted(function: Any) -> Any:
        ENTRIES[name] = function
        return function

    return noted


@entry("global cache")
def _(world: World, server: OpenAIServer, cache: TieredCache, text: str, how: dict[str, Any]) -> Any:
    set_llm_cache(LayeredCache(cache=cache, **how))
    return world.call(chat(server), "invoke", text)


@entry("global cache, plain model")
def _(world: World, server: OpenAIServer, cache: TieredCache, text: str, how: dict[str, Any]) -> Any:
    set_llm_cache(LayeredCache(cache=cache, **how))
    return world.call(plain(server), "invoke", text)


@entry("global cache, options of the wrapper")
def _(world: World, server: OpenAIServer, cache: TieredCache, text: str, how: dict[str, Any]) -> Any:
    set_llm_cache(LayeredCache(cache=cache))
    return world.call(cached(chat(server), **how), "invoke", text)


@entry("invoke")
def _(world: World, server: OpenAIServer, cache: TieredCache, text: str, how: dict[str, Any]) -> Any:
    return world.call(cached(chat(server), LayeredCache(cache=cache), **how), "invoke", text)


@entry("stream")
def _(world: World, server: OpenAIServer, cache: TieredCache, text: str, how: dict[str, Any]) -> Any:
    return streamed(world, cached(chat(server), LayeredCache(cache=cache), **how), text)


@entry("batch")
def _(world: World, server: OpenAIServer, cache: TieredCache, text: str, how: dict[str, Any]) -> Any:
    return world.call(cached(chat(server), LayeredCache(cache=cache), **how), "batch", [text, text])


@entry("plain invoke")
def _(world: World, server: OpenAIServer, cache: TieredCache, text: str, how: dict[str, Any]) -> Any:
    return world.call(cached(plain(server), LayeredCache(cache=cache), **how), "invoke", text)


@entry("plain stream")
def _(world: World, server: OpenAIServer, cache: TieredCache, text: str, how: dict[str, Any]) -> Any:
    return streamed(world, cached(plain(server), LayeredCache(cache=cache), **how), text)


@entry("middleware")
def _(world: World, server: OpenAIServer, cache: TieredCache, text: str, how: dict[str, Any]) -> Any:
    agent = create_agent(chat(server), [], middleware=[LayeredCacheMiddleware(cache, **how)])
    return world.call(agent, "invoke", {"messages": [HumanMessage(text)]})


@entry("middleware, options of its cache")
def _(world: World, server: OpenAIServer, cache: TieredCache, text: str, how: dict[str, Any]) -> Any:
    agent = create_agent(chat(server), [], middleware=[LayeredCacheMiddleware(LayeredCache(cache=cache, **how))])
    return world.call(agent, "invoke", {"messages": [HumanMessage(text)]})


@entry("middleware, options of the wrapper")
def _(world: World, server: OpenAIServer, cache: TieredCache, text: str, how: dict[str, Any]) -> Any:
    agent = create_agent(cached(chat(server), **how), [], middleware=[LayeredCacheMiddleware(cache)])
    return world.call(agent, "invoke", {"messages": [HumanMessage(text)]})


@pytest.fixture
def engine(events: list[Event]) -> Iterator[TieredCache]:
    with TieredCache("memory://", observers=[events.append]) as cache:
        yield cache


# --- normalize


@pytest.mark.parametrize("name", ENTRIES)
def test_texts_that_normalise_alike_cost_one_call(world: World, server: OpenAIServer, engine: TieredCache, name: str) -> None:
    """The provider gets the first request as it is; without the option each text is a separate request."""
    for text in TEXTS:
        ENTRIES[name](world, server, engine, text, {"normalize": HOW})
    (body,) = server.bodies
    assert TEXTS[0] in str(body.get("prompt") or body["messages"][-1]["content"])

    ENTRIES[name](world, server, engine, "What is Y?", {"normalize": HOW})
    assert server.calls == 2
    for text in TEXTS:
        ENTRIES[name](world, server, engine, text, {})
    assert server.calls == 5


def test_all_ways_to_ask_a_chat_model_share_entries(world: World, server: OpenAIServer, engine: TieredCache) -> None:
    """If they normalise alike."""
    for name, ask in ENTRIES.items():
        if "plain" not in name:
            ask(world, server, engine, TEXTS[0], {"normalize": HOW})
    assert server.calls == 1


def test_concurrent_texts_that_normalise_alike_cost_one_call(world: World, server: OpenAIServer, engine: TieredCache) -> None:
    server.latency = 0.3
    model = cached(chat(server), LayeredCache(cache=engine), normalize=HOW)
    world.at_once(model, "invoke", [(text,) for text in TEXTS])
    assert server.calls == 1


def test_the_setting_of_the_cache_is_inherited(world: World, server: OpenAIServer) -> None:
    """The engine's by the adapter, the adapter's by the model; `()` turns it off."""
    with TieredCache("memory://", normalize=HOW) as engine:  # type: ignore[arg-type]
        cache = LayeredCache(cache=engine)
        assert cache.key_rules == engine.key_rules != cache.engine.key_rules
        for model in (cached(chat(server), cache), cached(chat(server), cache, normalize=["case", "whitespace"])):
            for text in TEXTS:
                world.call(model, "invoke", text)
        assert server.calls == 1
        for text in TEXTS:
            world.call(cached(chat(server), cache, normalize=()), "invoke", text)
        assert server.calls == 4


def test_only_user_texts_are_normalised(server: OpenAIServer, engine: TieredCache) -> None:
    """System prompts, answers, tool calls and results, and fenced code are exact."""
    cache = LayeredCache(cache=engine)
    model = cached(chat(server), cache, normalize=HOW)
    call = {"name": "f", "args": {"text": "A"}, "id": "c"}
    base = [SystemMessage("Be A"), HumanMessage("Why?\n```\nX\n```"), AIMessage("A", tool_calls=[call]), ToolMessage("A", tool_call_id="c")]
    model.invoke(base)
    assert server.calls == 1
    model.invoke([base[0], HumanMessage([{"type": "text", "text": " why?\n```\nX\n```"}], name=None), *base[2:]])
    model.invoke([base[0], HumanMessage("  WHY? \n```\nX\n```\n"), *base[2:]])
    assert server.calls == 2  # a text and a list of blocks are two things, as they always were
    others: list[list[Any]] = [
        [SystemMessage("be a"), *base[1:]],
        [base[0], HumanMessage("Why?\n```\nx\n```"), *base[2:]],
        [*base[:2], AIMessage("a", tool_calls=[call]), base[3]],
        [*base[:2], AIMessage("A", tool_calls=[{**call, "args": {"text": "a"}}]), base[3]],
        [*base[:3], ToolMessage("a", tool_call_id="c")],
    ]
    for number, messages in enumerate(others):
        model.invoke(messages)
        assert server.calls == 3 + number, messages
    system = cached(chat(server), cache, normalize=Normalize(HOW, also=["system", "tool"]))
    system.invoke(base)
    system.invoke([SystemMessage(" be  a"), *base[1:3], ToolMessage("a ", tool_call_id="c")])
    assert server.calls == 8


def test_a_prompt_of_messages_that_cannot_be_read_stays_exact(server: OpenAIServer, engine: TieredCache) -> None:
    """Not all of it is of a user."""
    cache = LayeredCache(cache=engine, normalize=HOW)
    prompts = [f'[{{"lc": 1, "type": "constructor", "id": 1, "kwargs": {{"content": "{text}"}}}}]' for text in ("A", "a")]
    assert len({cache.key(prompt, "{}") for prompt in prompts}) == 2


@pytest.mark.parametrize("prompt", [*TEXTS, "what is x?"])
def test_invalidate_finds_what_was_normalised(world: World, server: OpenAIServer, db: str, prompt: str) -> None:
    """By the text of any caller, or the normalised one, also in a process without the option; a function by its cache."""
    settings: list[Any] = [HOW, Normalize(lambda text: " ".join(text.lower().strip("? ").split()), name="squeezed")]
    for how in settings:
        with TieredCache("memory://", db) as engine, TieredCache(db) as other:
            cache = LayeredCache(cache=engine, normalize=how)
            for remover in (cache, other) if how is HOW else (cache, engine):
                server.reset()
                world.call(cached(chat(server), cache), "invoke", "What is X?")
                settled(engine)
                assert world.call(remover, "invalidate", prompt=prompt).removed == {"sqlite": 1}
                with TieredCache(db) as fresh:
                    world.call(cached(chat(server), LayeredCache(cache=fresh), normalize=how), "invoke", "What is X?")
                assert server.calls == 2
                engine.clear()


def test_a_function_that_fails_leaves_the_call_uncached(
    world: World, server: OpenAIServer, engine: TieredCache, caplog: pytest.LogCaptureFixture
) -> None:
    """The model answers; its text is in no log."""
    model = cached(chat(server), LayeredCache(cache=engine), normalize=Normalize(lambda text: text.missing, name="broken"))  # type: ignore[attr-defined]
    for _ in range(2):
        world.call(model, "invoke", "secret")
        streamed(world, model, "secret")
    assert server.calls == 4
    assert "the function 'broken' of normalize raised AttributeError" in caplog.text
    assert "secret" not in caplog.text


# --- ignore

IGNORE = {"ignore": ("user", "metadata")}


def test_ignored_arguments_are_sent_and_are_not_in_the_key(world: World, server: OpenAIServer, engine: TieredCache) -> None:
    """Of chat models and plain ones, streamed or not."""
    for make in (chat, plain):
        model = cached(make(server), LayeredCache(cache=engine), **IGNORE)
        server.reset()
        for number in range(2):
            world.call(model, "invoke", "why?", user=f"u{number}", extra_body={"metadata": {"trace": number}})
            streamed(world, model, "why?", user=f"v{number}", extra_body={"metadata": {"trace": number}})
        (body,) = server.bodies
        assert (body["user"], body["metadata"]) == ("u0", {"trace": 0})
        world.call(model, "invoke", "why?")
        assert server.calls == 1
        world.call(model, "invoke", "why?", user="u0", temperature=0.5)
        assert server.calls == 2
    exact = cached(chat(server), LayeredCache(cache=engine))
    world.call(exact, "invoke", "why?")
    assert server.calls == 2
    world.call(exact, "invoke", "why?", user="u0")
    assert server.calls == 3


@pytest.mark.parametrize(
    "name", ["global cache", "global cache, options of the wrapper", "invoke", "stream", "middleware", "middleware, options of its cache"]
)
def test_ignored_settings_are_not_in_the_key(
    world: World, server: OpenAIServer, engine: TieredCache, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entries of `model_kwargs` and `extra_body`."""
    make, number = chat, 0

    def another(server: OpenAIServer) -> Any:
        nonlocal number
        number += 1
        return make(server, model_kwargs={"user": f"u{number}", "safety_identifier": "s"}, extra_body={"metadata": {"n": number}})

    monkeypatch.setitem(globals(), "chat", another)
    for _ in range(2):
        ENTRIES[name](world, server, engine, "why?", IGNORE)
    assert server.calls == 1
    assert server.bodies[0]["user"] == "u1"
    for _ in range(2):
        ENTRIES[name](world, server, engine, "why?", {})
    assert server.calls == 3


def test_ignored_attributes_may_change(world: World, server: OpenAIServer, engine: TieredCache) -> None:
    """After the first use; another one may not."""
    model = cached(chat(server, model_kwargs={"user": "a"}), LayeredCache(cache=engine), **IGNORE)
    world.call(model, "invoke", "why?")
    model.model_kwargs = {"user": "b"}
    world.call(model, "invoke", "why?")
    assert server.calls == 1
    model.model_kwargs = {"user": "b", "safety_identifier": "t"}
    world.call(model, "invoke", "why?")
    assert server.calls == 2


def test_an_ignored_object_does_not_prevent_caching(server: OpenAIServer, engine: TieredCache) -> None:
    """It has no lasting text, and need not."""
    cache = LayeredCache(cache=engine, ignore="trace")
    written = "[('_type', 'x'), ('model', 'm'), ('stop', None), ('trace', <object object at 0x7f0000000000>)]"
    assert cache.key("p", written) == cache.key("p", written.replace("7f", "8f"))
    assert LayeredCache(cache=engine).key("p", written) is None


def test_bound_arguments_are_ignored_too(world: World, server: OpenAIServer, engine: TieredCache) -> None:
    model = cached(chat(server), LayeredCache(cache=engine), **IGNORE)
    for number in range(2):
        world.call(model.bind(user=f"u{number}"), "invoke", "why?")
    assert server.calls == 1


# --- the options


@pytest.mark.parametrize(
    "options", [{"ignore": "temperature"}, {"ignore": ("user", "api_key")}, {"normalize": "upper"}, {"normalize": lambda text: text}]
)
def test_wrong_options_are_refused(options: dict[str, Any], server: OpenAIServer, engine: TieredCache) -> None:
    makers: list[Callable[[], object]] = [
        lambda: LayeredCache("memory://", **options),
        lambda: cached(chat(server), **options),
        lambda: LayeredCacheMiddleware(engine, **options),
    ]
    for make in makers:
        with pytest.raises(ConfigurationError, match=r"ignore must be|unknown normalize|normalize must be"):
            make()


def test_embeddings_take_neither_option(engine: TieredCache) -> None:
    for options in (IGNORE, {"normalize": "case"}):
        with pytest.raises(ConfigurationError, match="must not be given for embeddings"):
            cached(DeterministicFakeEmbedding(size=3), engine, **options)  # type: ignore[arg-type]


def test_copies_and_pickles_keep_the_options(engine: TieredCache) -> None:
    """The plain model has none, and LangChain writes none of them out."""
    bare = FakeListChatModel(responses=["x"])
    model = cached(bare, LayeredCache(cache=engine), ignore="user", normalize="case")
    options = key_options_of(model)
    assert options is not None
    for copy in (model.model_copy(), pickle.loads(pickle.dumps(model)), cached(model, LayeredCache(cache=engine))):
        assert key_options_of(copy) == options
    assert key_options_of(uncached(model)) is None
    assert bare._get_llm_string() == model._get_llm_string()
