"""`ignore` and `normalize` of cached LLMs: the request stays, and equal questions cost one call."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from layered_cache import ConfigurationError, Event, Normalize, TieredCache
from layered_cache.keys.key_rules import NORMALIZED
from layered_cache.testing import OpenAIServer
from llama_index.core import Settings
from llama_index.core.base.llms.types import ImageBlock, TextBlock
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.llms import LLM, ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.llms.openai import OpenAI
from pydantic import BaseModel
from support.sync_async import World, settled

from langchain_layered_cache import LayeredCache
from llamaindex_layered_cache import cached, configure
from llamaindex_layered_cache._llm.call import Question
from llamaindex_layered_cache._llm.wrapper import keeper_of

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

HOW = ["whitespace", "case"]
TEXTS = ("What is X?", "  what is x? ", "WHAT  IS\nX?")


@pytest.fixture
def cache(events: list[Event]) -> Iterator[TieredCache]:
    with TieredCache("memory://", observers=[events.append]) as cache:
        yield cache


@pytest.fixture
def bare(server: OpenAIServer) -> OpenAI:
    return OpenAI(model="gpt-4o-mini", api_base=server.url, api_key="sk-none", max_retries=0)


def streamed(world: World, llm: LLM, method: str, *args: Any, **kwargs: Any) -> list[Any]:
    if world.name == "threads":
        return list(getattr(llm, method)(*args, **kwargs))

    async def collected() -> list[Any]:
        return [chunk async for chunk in await getattr(llm, "a" + method)(*args, **kwargs)]

    return world.loop.run_until_complete(collected())


def user(text: str) -> list[ChatMessage]:
    return [ChatMessage(role="user", content=text)]


ENTRIES: dict[str, Callable[[World, LLM, str], object]] = {
    "chat": lambda world, llm, text: world.call(llm, "chat", user(text)),
    "stream_chat": lambda world, llm, text: streamed(world, llm, "stream_chat", user(text)),
    "complete": lambda world, llm, text: world.call(llm, "complete", text),
    "stream_complete": lambda world, llm, text: streamed(world, llm, "stream_complete", text),
    "predict": lambda world, llm, text: world.call(llm, "predict", PromptTemplate("{text}"), text=text),
}


# --- normalize


@pytest.mark.parametrize("entry", ENTRIES)
def test_texts_that_normalise_alike_cost_one_call(world: World, bare: OpenAI, cache: TieredCache, server: OpenAIServer, entry: str) -> None:
    """The provider gets the first request as it is."""
    llm, ask = cached(bare, cache, normalize=HOW), ENTRIES[entry]
    for text in TEXTS:
        ask(world, llm, text)
    (body,) = server.bodies
    assert body["messages"][-1]["content"] == TEXTS[0]

    ask(world, llm, "What is Y?")
    assert server.calls == 2
    for text in TEXTS:
        ask(world, cached(bare, cache), text)
    assert server.calls == 5


def test_concurrent_texts_that_normalise_alike_cost_one_call(world: World, bare: OpenAI, cache: TieredCache, server: OpenAIServer) -> None:
    server.latency = 0.2
    world.at_once(cached(bare, cache, normalize=HOW), "complete", [(text,) for text in TEXTS])
    assert server.calls == 1


def test_only_user_texts_are_normalised(bare: OpenAI, cache: TieredCache) -> None:
    """System prompts, answers, tool calls and results, files and fenced code are exact."""
    llm = cached(bare, cache, normalize=HOW)

    def key(*messages: ChatMessage, **arguments: Any) -> str:
        return key_of(llm, cache, list(messages), **arguments)

    blocks = [TextBlock(text="What?"), TextBlock(text="A\n```\nX\n```"), ImageBlock(image=b"A", detail="Low")]
    message = ChatMessage(role="user", blocks=blocks)
    assert key(message) == key(ChatMessage(role="user", blocks=[TextBlock(text=" what? "), TextBlock(text="a\n```\nX\n```\n"), blocks[2]]))
    assert key(message) != key(ChatMessage(role="user", blocks=[blocks[0], TextBlock(text="A\n```\nx\n```"), blocks[2]]))
    assert key(message) != key(ChatMessage(role="user", blocks=[*blocks[:2], ImageBlock(image=b"a", detail="Low")]))
    for role in ("system", "assistant", "tool", "developer"):
        assert key(ChatMessage(role=role, content="A"), *user("q")) != key(ChatMessage(role=role, content="a"), *user("q"))
    calls = [
        ChatMessage(role="assistant", content="", additional_kwargs={"tool_calls": [{"function": {"name": "F", "arguments": a}}]})
        for a in "Aa"
    ]
    assert key(calls[0], *user("q")) != key(calls[1], *user("q"))
    assert key(*user("q"), stop=["END"]) != key(*user("q"), stop=["end"])
    asked = cached(bare, cache, normalize=Normalize(HOW, also="system"))
    assert key_of(asked, cache, [ChatMessage(role="system", content="A"), *user("q")]) == key_of(
        asked, cache, [ChatMessage(role="system", content=" a"), *user("q")]
    )


def key_of(llm: LLM, cache: TieredCache, content: list[ChatMessage] | str, **arguments: Any) -> str:
    """Return the key of a call."""
    keeper = keeper_of(llm)
    assert keeper is not None
    call = keeper.begin(Question(llm, "completion" if isinstance(content, str) else "chat", content, arguments))
    assert call.key is not None
    return call.key


def test_a_setting_is_part_of_the_key(bare: OpenAI, cache: TieredCache) -> None:
    """And without one, nothing is."""
    settings: list[Any] = ["case", "whitespace", HOW, Normalize("case", also="code"), Normalize(str.lower, name="lower"), ()]
    keys = [key_of(cached(bare, cache, normalize=setting), cache, user("x")) for setting in settings]
    assert len(set(keys)) == len(settings)
    assert keys[-1] == key_of(cached(bare, cache), cache, user("x"))


def test_the_setting_of_the_cache_is_inherited(bare: OpenAI, server: OpenAIServer) -> None:
    """By the LLM of a structured one too, and by a pickle; `()` turns it off."""
    with TieredCache("memory://", normalize=HOW) as cache:  # type: ignore[arg-type]
        llm = cached(bare, cache)
        for text in TEXTS:
            llm.complete(text)
        assert server.calls == 1
        for text in TEXTS:
            cached(bare, cache, normalize=()).complete(text)
        assert server.calls == 4
        other = pickle.loads(pickle.dumps(llm))
        assert key_of(other, cache, user(TEXTS[0])) == key_of(llm, cache, user(TEXTS[1]))

        class Colour(BaseModel):
            name: str

        inner = cached(bare.as_structured_llm(Colour), cache).llm
        assert key_of(inner, cache, user(TEXTS[0])) == key_of(llm, cache, user(TEXTS[0]))


@pytest.mark.parametrize("prompt", [*TEXTS, "what is x?"])
def test_invalidate_finds_what_was_normalised(world: World, bare: OpenAI, db: str, server: OpenAIServer, prompt: str) -> None:
    """By the text of any caller, or the normalised one; a function is known to the cache that the LLM is over."""
    settings: list[Any] = [HOW, Normalize(lambda text: " ".join(text.lower().strip("? ").split()), name="squeezed")]
    for how in settings:
        with TieredCache("memory://", db) as cache, TieredCache(db) as other:
            llm = cached(bare, cache, normalize=how)
            for remover in (cache, other) if how is HOW else (cache,):
                server.reset()
                world.call(llm, "chat", user("What is X?"))
                settled(cache)
                assert world.call(remover, "invalidate", prompt=prompt).removed == {"sqlite": 1}
                with TieredCache(db) as fresh:
                    world.call(cached(bare, fresh, normalize=how), "chat", user("What is X?"))
                assert server.calls == 2
                cache.clear()


def test_a_function_that_fails_leaves_the_call_uncached(
    world: World, bare: OpenAI, cache: TieredCache, server: OpenAIServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The model answers; its text is in no log."""
    llm = cached(bare, cache, normalize=Normalize(lambda text: text.missing, name="broken"))  # type: ignore[attr-defined]
    for _ in range(2):
        world.call(llm, "complete", "secret")
    assert server.calls == 2
    assert "the function 'broken' of normalize raised AttributeError" in caplog.text
    assert "secret" not in caplog.text


# --- ignore


def test_ignored_arguments_are_sent_and_are_not_in_the_key(world: World, bare: OpenAI, cache: TieredCache, server: OpenAIServer) -> None:
    """For chats and completions, as arguments and as entries of `extra_body`."""
    llm = cached(bare, cache, ignore=("user", "metadata"))
    for method, asked in (("chat", user("why?")), ("complete", "why?")):
        server.reset()
        for number in range(2):
            world.call(llm, method, asked, user=f"u{number}", metadata={"trace": str(number)})
            streamed(world, llm, f"stream_{method}", asked, user=f"v{number}", extra_body={"metadata": {"trace": str(number)}})
        (body,) = server.bodies
        assert (body["user"], body["metadata"]) == ("u0", {"trace": "0"})
        world.call(llm, method, asked, user="u0", temperature=0.7)
        assert server.calls == 2
    assert key_of(llm, cache, "x", user="u") == key_of(cached(bare, cache), cache, "x")
    assert key_of(cached(bare, cache), cache, "x", user="u") != key_of(cached(bare, cache), cache, "x")


def test_ignored_settings_are_not_in_the_key(bare: OpenAI, cache: TieredCache, server: OpenAIServer) -> None:
    """Entries of `additional_kwargs`, and an object without a lasting text."""
    llms = [
        OpenAI(model="gpt-4o-mini", api_base=server.url, api_key="sk-none", additional_kwargs={"user": user, "seed": 1})
        for user in ("a", "b")
    ]
    keys = {key_of(cached(llm, cache, ignore="user"), cache, "x") for llm in llms}
    assert len(keys) == 1
    assert len({key_of(cached(llm, cache), cache, "x") for llm in llms}) == 2
    llms[0].additional_kwargs["seed"] = 2
    assert key_of(cached(llms[0], cache, ignore="user"), cache, "x") not in keys

    traced = cached(bare, cache, ignore="callback")
    assert key_of(traced, cache, "x", callback=object()) == key_of(traced, cache, "x")


class Traced(OpenAI):
    """An LLM with an additional field."""

    trace: str = ""


def test_ignored_fields_are_not_in_the_key(cache: TieredCache, server: OpenAIServer) -> None:
    llms = [Traced(model="gpt-4o-mini", api_base=server.url, api_key="sk-none", trace=trace) for trace in ("a", "b")]
    assert len({key_of(cached(llm, cache, ignore=["trace"]), cache, "x") for llm in llms}) == 1
    assert len({key_of(cached(llm, cache), cache, "x") for llm in llms}) == 2


@pytest.mark.parametrize(
    "options", [{"ignore": "temperature"}, {"ignore": ("user", "api_key")}, {"normalize": "upper"}, {"normalize": lambda text: text}]
)
def test_wrong_options_are_refused(options: dict[str, Any], bare: OpenAI, cache: TieredCache) -> None:
    with pytest.raises(ConfigurationError, match=r"ignore must be|unknown normalize|normalize must be"):
        cached(bare, cache, **options)


def test_options_of_llms_are_none_of_embeddings(cache: TieredCache, bare: OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    """A vector is that of one text. `configure` gives these options to the LLM only."""
    for options in ({"ignore": "user"}, {"normalize": "case"}):
        with pytest.raises(ConfigurationError, match="unknown argument of cached embeddings"):
            cached(MockEmbedding(embed_dim=3, model_name="mock"), cache, **options)
    embedding = MockEmbedding(embed_dim=3, model_name="mock")
    monkeypatch.setattr(Settings, "_llm", bare)
    monkeypatch.setattr(Settings, "_embed_model", embedding)
    with TieredCache("memory://", normalize="case") as normalizing, configure(normalizing, ignore="user"):
        Settings.embed_model.get_text_embedding("A")
        Settings.embed_model.get_text_embedding("a")
        assert normalizing.stats().stored == 2
        keeper = keeper_of(Settings.llm)
        assert keeper is not None
        assert keeper.rules == LayeredCache(cache=normalizing, ignore="user").key_rules
        assert NORMALIZED in keeper.begin(Question(Settings.llm, "chat", user("x"), {})).request.params  # type: ignore[union-attr]
