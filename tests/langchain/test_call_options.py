"""What one call decides for itself: in its metadata or around it, in every way in which a chat model can be called."""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Annotated, Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import FakeListChatModel, FakeListLLM
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from layered_cache import (
    CacheMiss,
    CallOptions,
    ConfigurationError,
    Event,
    Policy,
    Request,
    TenantRequiredError,
    cache_options,
    current_options,
)
from layered_cache.testing import OpenAIServer

from langchain_layered_cache import LayeredCache

Config = Any
Way = Callable[[ChatOpenAI, str, Config], Awaitable[AIMessage]]


class State(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]


def graph_of(model: ChatOpenAI, *, asynchronous: bool) -> Any:
    async def acall(state: State) -> Any:
        return {"messages": [await model.ainvoke(state["messages"])]}

    def call(state: State) -> Any:
        return {"messages": [model.invoke(state["messages"])]}

    graph = StateGraph(State)
    graph.add_node("model", acall if asynchronous else call)
    graph.add_edge(START, "model")
    return graph.compile()


async def invoke(model: ChatOpenAI, text: str, config: Config) -> AIMessage:
    return model.invoke(text, config)


async def ainvoke(model: ChatOpenAI, text: str, config: Config) -> AIMessage:
    return await model.ainvoke(text, config)


async def batch(model: ChatOpenAI, text: str, config: Config) -> AIMessage:
    return model.batch([text, text], config)[1]


async def abatch(model: ChatOpenAI, text: str, config: Config) -> AIMessage:
    return (await model.abatch([text, text], config))[1]


async def chain(model: ChatOpenAI, text: str, config: Config) -> AIMessage:
    return (ChatPromptTemplate.from_messages([("user", "{text}")]) | model).invoke({"text": text}, config)


async def achain(model: ChatOpenAI, text: str, config: Config) -> AIMessage:
    return await (ChatPromptTemplate.from_messages([("user", "{text}")]) | model).ainvoke({"text": text}, config)


async def agent(model: ChatOpenAI, text: str, config: Config) -> AIMessage:
    return create_agent(model, tools=[]).invoke({"messages": [HumanMessage(text)]}, config)["messages"][-1]


async def aagent(model: ChatOpenAI, text: str, config: Config) -> AIMessage:
    return (await create_agent(model, tools=[]).ainvoke({"messages": [HumanMessage(text)]}, config))["messages"][-1]


async def graph(model: ChatOpenAI, text: str, config: Config) -> AIMessage:
    return graph_of(model, asynchronous=False).invoke({"messages": [HumanMessage(text)]}, config)["messages"][-1]


async def agraph(model: ChatOpenAI, text: str, config: Config) -> AIMessage:
    return (await graph_of(model, asynchronous=True).ainvoke({"messages": [HumanMessage(text)]}, config))["messages"][-1]


WAYS: list[Way] = [invoke, ainvoke, batch, abatch, chain, achain, agent, aagent, graph, agraph]


# each way with options in the metadata, some with options around the call
SAID = [*((way, "metadata") for way in WAYS), *((way, "around") for way in (invoke, abatch, achain, agent, agraph))]


@pytest.fixture(params=SAID, ids=lambda asked: f"{asked[0].__name__}-{asked[1]}")
def asked(request: pytest.FixtureRequest) -> tuple[Way, str]:
    """How a chat model is called, and how options are said."""
    return request.param


@pytest.fixture
def way(asked: tuple[Way, str]) -> Way:
    """Each way to call a chat model."""
    return asked[0]


@pytest.fixture
def said(asked: tuple[Way, str]) -> Callable[..., tuple[Config, AbstractContextManager[Any]]]:
    """Each way to say an option: returns the config of the call, and the block that it stands in."""

    def say(**options: Any) -> tuple[Config, AbstractContextManager[Any]]:
        if asked[1] == "metadata":
            return {"metadata": {"llm_cache": options}}, nullcontext()
        return {}, cache_options(**options)

    return say


@pytest.fixture
def cache(events: list[Event]) -> Iterator[LayeredCache]:
    cache = LayeredCache("memory://", observers=[events.append])
    set_llm_cache(cache)
    yield cache
    set_llm_cache(None)
    cache.close()


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    """Each of its answers is another one."""
    numbers = iter(range(1000))
    with OpenAIServer(reply=lambda _: f"answer {next(numbers)}") as server:
        yield server


@pytest.fixture
def model(server: OpenAIServer) -> ChatOpenAI:
    return ChatOpenAI(model="gpt-4o-mini", base_url=server.url, api_key="none", max_retries=0)


async def ask(way: Way, model: ChatOpenAI, saying: tuple[Config, AbstractContextManager[Any]] = ({}, nullcontext())) -> str:
    config, block = saying
    with block:
        return str((await way(model, "hello", config)).content)


Said = Callable[..., tuple[Config, AbstractContextManager[Any]]]


# --- each option, each way


async def test_refresh_asks_the_model_and_stores(way: Way, said: Said, cache: LayeredCache, model: ChatOpenAI) -> None:
    assert await ask(way, model) == "answer 0"
    newest = await ask(way, model, said(mode="refresh"))  # a batch of two asks twice: the last that is stored stays
    assert newest != "answer 0"
    assert await ask(way, model) != "answer 0"


async def test_bypass_leaves_the_cache_out(way: Way, said: Said, cache: LayeredCache, model: ChatOpenAI, server: OpenAIServer) -> None:
    assert await ask(way, model) == "answer 0"
    assert await ask(way, model, said(mode="bypass")) != "answer 0"
    assert await ask(way, model) == "answer 0"
    before = server.calls
    await ask(way, model, said(mode="bypass"))
    assert server.calls > before


async def test_only_cached_asks_nobody(way: Way, said: Said, cache: LayeredCache, model: ChatOpenAI, server: OpenAIServer) -> None:
    with pytest.raises(CacheMiss, match="only_cached"):
        await ask(way, model, said(mode="only_cached"))
    assert server.calls == 0
    assert await ask(way, model) == "answer 0"
    assert await ask(way, model, said(mode="only_cached")) == "answer 0"


async def test_read_only_stores_nothing(way: Way, said: Said, cache: LayeredCache, model: ChatOpenAI, server: OpenAIServer) -> None:
    await ask(way, model, said(mode="read_only"))
    before = server.calls
    await ask(way, model)
    assert server.calls == before + 1
    await ask(way, model, said(mode="read_only"))
    assert server.calls == before + 1


async def test_a_tenant_finds_only_its_own(way: Way, said: Said, cache: LayeredCache, model: ChatOpenAI) -> None:
    mine = await ask(way, model, said(namespace="tenant-1"))
    others = await ask(way, model, said(namespace="tenant-2"))
    everybodys = await ask(way, model)

    assert len({mine, others, everybodys}) == 3
    assert await ask(way, model, said(namespace="tenant-1")) == mine
    cache.invalidate(namespace="tenant-1")
    assert await ask(way, model, said(namespace="tenant-1")) != mine
    assert await ask(way, model, said(namespace="tenant-2")) == others


async def test_tags_are_labels_for_removal(way: Way, said: Said, cache: LayeredCache, model: ChatOpenAI) -> None:
    assert await ask(way, model, said(tags=["prices"])) == "answer 0"
    cache.invalidate(tag="other")
    assert await ask(way, model) == "answer 0"
    cache.invalidate(tag="prices")
    assert await ask(way, model) != "answer 0"


async def test_a_ttl_is_the_answers_end(way: Way, said: Said, cache: LayeredCache, model: ChatOpenAI) -> None:
    await ask(way, model, said(ttl="5m"))
    (entry,) = [entry async for entry in cache.engine.aentries()]
    assert 290 < entry.keep_until - entry.created_at <= 310


async def test_each_sample_has_its_own_answer(way: Way, said: Said, cache: LayeredCache, model: ChatOpenAI) -> None:
    answers = [await ask(way, model, said(sample=number)) for number in range(3)]

    assert len(set(answers)) == 3
    assert [await ask(way, model, said(sample=number)) for number in range(3)] == answers
    assert await ask(way, model) == answers[0]  # none given: the first


@pytest.mark.parametrize("way", [invoke, abatch, achain, agent, agraph])
async def test_accounts_are_told_apart(way: Way, cache: LayeredCache, model: ChatOpenAI) -> None:
    """By a fingerprint: nothing that is stored or shown holds the account."""
    secret = "sk-very-secret"
    mine = await ask(way, model, ({}, cache_options(account=secret)))

    assert await ask(way, model, ({}, cache_options(account="another"))) != mine
    assert await ask(way, model, ({}, cache_options(account=secret))) == mine
    held = [entry async for entry in cache.engine.aentries()]
    assert held
    assert secret not in repr(held)
    assert secret not in repr(CallOptions(account=secret))


async def test_what_may_not_be_said_is_told_before_anybody_is_asked(
    way: Way, said: Said, cache: LayeredCache, model: ChatOpenAI, server: OpenAIServer
) -> None:
    """With what is allowed, and the nearest spelling."""
    with pytest.raises(ConfigurationError, match=r"mode.*bypas.*Did you mean 'bypass'.*only_cached"):
        await ask(way, model, said(mode="bypas"))
    assert server.calls == 0


# --- options


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"mdoe": "bypass"}, "option of a call 'mdoe'. Did you mean 'mode'"),
        ({"ttl": "soon"}, "ttl must be a duration"),
        ({"ttl": -1}, "ttl must be a number of seconds"),
        ({"tags": [1]}, "tags must be texts"),
        ({"namespace": ""}, "namespace must be a text"),
        ({"sample": -1}, "sample must be a whole number"),
        ({"sample": True}, "sample must be a whole number"),
        ({"single_flight": 1}, "single_flight must be True or False"),
        ({"account": "sk-secret"}, "an account may be a secret"),
        ({"namespace": "tenant", "tags": 5}, "tags must be texts"),
        ({"namespace": "tenant", "ttl": b"x"}, "ttl must be a number of seconds"),
        ("bypass", "must be a dict of options"),
    ],
)
def test_a_wrong_option_is_named(options: Any, error: str, cache: LayeredCache, model: ChatOpenAI, server: OpenAIServer) -> None:
    with pytest.raises(ConfigurationError, match=error) as caught:
        model.invoke("hello", {"metadata": {"llm_cache": options}})
    assert server.calls == 0
    assert "hello" not in str(caught.value)
    assert "sk-secret" not in str(caught.value)


def test_blocks_nest() -> None:
    """What is said inside counts more; tags add up."""
    with cache_options(ttl=60, tags="a", mode="refresh"):
        with cache_options(ttl="1h", tags=["b"]) as inner:
            assert (inner.keep_for, inner.labels, inner.mode) == (3600, ("a", "b"), "refresh")
        assert current_options() == CallOptions(ttl=60, tags=["a"], mode="refresh")
    assert current_options() == CallOptions()


async def test_options_follow_tasks_not_others(cache: LayeredCache) -> None:
    async def seen() -> str | None:
        await asyncio.sleep(0)
        return current_options().namespace

    with cache_options(namespace="mine"):
        task = asyncio.create_task(seen())
    assert await asyncio.gather(task, seen()) == ["mine", None]


def test_a_plain_model_goes_by_what_stands_around_the_call(cache: LayeredCache) -> None:
    """It looks up before it tells anybody of its metadata."""
    model = FakeListLLM(responses=["one", "two", "three"])

    assert model.invoke("hello") == "one"
    with cache_options(namespace="tenant-1"):
        assert model.invoke("hello") == "two"
    with cache_options(mode="bypass"):
        assert model.invoke("hello") == "three"
    with cache_options(mode="only_cached"), pytest.raises(CacheMiss):
        model.invoke("unheard")
    assert model.invoke("hello") == "one"


def test_a_refreshed_answer_from_before_a_removal_is_not_stored(cache: LayeredCache, model: ChatOpenAI, server: OpenAIServer) -> None:
    """A call that does not look is asked for at some moment all the same."""
    numbers = iter(range(1000))

    def reply(_: Mapping[str, Any]) -> str:
        if (number := next(numbers)) == 0:
            cache.clear()
        return f"reply {number}"

    server.reply = reply
    refresh = {"metadata": {"llm_cache": {"mode": "refresh"}}}
    assert model.invoke("hello", refresh).content == "reply 0"
    assert model.invoke("hello").content == "reply 1"


# --- tenants and accounts


def test_a_call_without_a_tenant_is_refused_where_one_is_required(model: ChatOpenAI, server: OpenAIServer) -> None:
    """Before anybody is asked."""
    cache = LayeredCache("memory://", policy=Policy(tenant_required=True))
    set_llm_cache(cache)
    try:
        with pytest.raises(TenantRequiredError, match="namespace"):
            model.invoke("hello")
        assert server.calls == 0
        with cache_options(namespace="tenant-1"):
            assert model.invoke("hello").content == model.invoke("hello").content
        assert server.calls == 1
    finally:
        set_llm_cache(None)
        cache.close()


def test_where_accounts_are_separate_an_unknown_one_is_not_cached(
    model: ChatOpenAI, server: OpenAIServer, caplog: pytest.LogCaptureFixture
) -> None:
    """LangChain tells a cache of no API key; a warning says so, once."""
    cache = LayeredCache("memory://", policy=Policy(separate_accounts=True))
    set_llm_cache(cache)
    try:
        assert model.invoke("hello").content != model.invoke("hello").content
        assert cache.stats().uncacheable >= 2
        assert len([record for record in caplog.records if "separate_accounts" in record.message]) == 1
        with cache_options(account="team-1"):
            assert model.invoke("hello").content == model.invoke("hello").content
    finally:
        set_llm_cache(None)
        cache.close()


def test_nobody_gets_what_is_anothers(cache: LayeredCache) -> None:
    """10^5 pairs that differ in tenant, model, endpoint, account, application or sample: no two share a key, nor an answer."""
    dice = random.Random(1)
    hosts = ["https://a.example/v1", "https://b.example/v1", "https://a.example/v1/", None]
    caches = {name: LayeredCache("memory://", namespace=name) for name in ("app", "app/tenant-1", "app%2Ftenant-1")}
    texts: dict[tuple[str, str | None], str] = {}
    for name in ("gpt-4o", "gpt-4o-mini", "gpt-4o-mini-2024"):
        for host in hosts:
            texts[name, host] = ChatOpenAI(model=name, base_url=host, api_key="none")._get_llm_string()
    keys: dict[str, tuple[Any, ...]] = {}

    def draw() -> tuple[str, tuple[Any, ...]]:
        app, tenant = dice.choice([*caches]), dice.choice([None, "tenant-1", "tenant-2", "app", "a/b", "a%2Fb"])
        account, sample, who = dice.choice([None, "sk-1", "sk-2", "1"]), dice.choice([0, 1, 2]), dice.choice([*texts])
        with cache_options(namespace=tenant, account=account, sample=sample):
            key = caches[app].key("hello", texts[who])
        assert key is not None
        # a child of one application may be what another one is called: that is one place, by its name
        place = {("app", "tenant-1"): ("app/tenant-1", None)}.get((app, tenant or ""), (app, tenant))
        return key, (place, account, sample, who)

    for _ in range(200_000):
        key, whose = draw()
        assert keys.setdefault(key, whose) == whose
    assert len(keys) > 1000
    for one in caches.values():
        one.close()


# --- what hits say


def test_a_hit_says_where_it_comes_from(model: ChatOpenAI, tmp_path: Any) -> None:
    """Nothing of that is stored, or reaches a key."""
    url = f"sqlite:///{tmp_path / 'answers.db'}"
    for life in ("first", "second"):
        cache = LayeredCache("memory://", url, mark_hits=True)
        set_llm_cache(cache)
        try:
            asked = model.invoke("hello")
            again = model.invoke("hello")
            following = model.invoke([HumanMessage("hello"), again, HumanMessage("and?")])
        finally:
            set_llm_cache(None)
            cache.close()
        mark = again.response_metadata["layered_cache"]
        assert mark["hit"] is True
        assert mark["tier"] == "memory"
        assert 0 <= mark["age_seconds"] < 60
        assert mark["key"].startswith("lc1:default:")
        assert mark["saved_usd"] > 0
        if life == "first":
            assert "layered_cache" not in asked.response_metadata
            assert "layered_cache" not in following.response_metadata
        else:
            assert asked.response_metadata["layered_cache"]["tier"] == "sqlite"
            assert following.response_metadata["layered_cache"]["tier"] == "sqlite"


# --- calls beside and inside of each other


class Inner(FakeListChatModel):
    """A model of one's own, that may be slow."""

    delay: float = 0.0

    async def _agenerate(self, *args: Any, **kwargs: Any) -> Any:
        await asyncio.sleep(self.delay)
        return await super()._agenerate(*args, **kwargs)


class Outer(FakeListChatModel):
    """A model that asks another one: a gateway, or a guard."""

    inner: Any = None
    config: Any = None
    patience: float = 10.0

    async def _agenerate(self, *args: Any, **kwargs: Any) -> Any:
        try:
            async with asyncio.timeout(self.patience):
                await self.inner.ainvoke("help", self.config)
        except TimeoutError:
            pass
        return await super()._agenerate(*args, **kwargs)


@pytest.mark.parametrize("patience", [10.0, 0.02], ids=["it answers", "it is given up"])
async def test_a_model_inside_a_model_leaves_the_outer_ones_options_alone(patience: float, cache: LayeredCache) -> None:
    """What the outer one answers is stored for its tenant, though another call came in between."""
    inner = Inner(responses=["inner"], delay=0.0 if patience > 1 else 5.0)
    outer = Outer(responses=[f"answer {n}" for n in range(9)], inner=inner, patience=patience)
    outer.config = {"metadata": {"llm_cache": {"namespace": "another"}}}

    async def ask_for(**options: Any) -> str:
        return str((await outer.ainvoke("hello", {"metadata": {"llm_cache": options}})).content)

    mine = await ask_for(namespace="tenant-1", tags=["mine"])
    assert await ask_for(namespace="tenant-1") == mine
    assert len({mine, await ask_for(), await ask_for(namespace="another"), await ask_for(sample=1)}) == 4
    assert cache.invalidate(tag="mine", namespace="tenant-1").seq
    assert await ask_for(namespace="tenant-1") != mine


@pytest.mark.parametrize("left", ["cancelled", "failed", "streaming", "ended"])
async def test_a_call_that_is_over_says_nothing_of_the_next(left: str, cache: LayeredCache) -> None:
    """Whether LangChain has told of its end or not: a plain model, and a lookup by hand, go by what stands around them."""
    plain = FakeListLLM(responses=["one", "two", "three"])
    chat = Inner(responses=["chat"], delay=5.0 if left == "cancelled" else 0.0)
    config: Any = {"metadata": {"llm_cache": {"namespace": "tenant-1"}}}

    async def ask_plain() -> str:
        with cache_options(namespace="tenant-2"):
            return await plain.ainvoke("hello")

    if left == "streaming":
        async for _ in chat.astream("q", config):
            answer = await ask_plain()
    else:
        if left == "failed":
            chat = Inner(responses=[])
        with suppress(TimeoutError, IndexError, ZeroDivisionError):
            async with asyncio.timeout(0.02 if left == "cancelled" else 10):
                await chat.ainvoke("q", config)
        answer = await ask_plain()

    assert await ask_plain() == answer
    with cache_options(namespace="tenant-1"):
        assert await plain.ainvoke("hello") != answer
    assert cache.lookup("by hand", "m") is None


def test_an_option_of_an_unknown_kind_stops_the_call(cache: LayeredCache, model: ChatOpenAI, server: OpenAIServer) -> None:
    """Without it the others would be lost too, and with them the tenant."""

    class Odd:
        def __eq__(self, other: object) -> bool:
            raise ZeroDivisionError

        __hash__ = object.__hash__

    for options in ({"namespace": "a", "mode": Odd()}, {"namespace": "a", "ttl": 10**400}, {"namespace": "a", "tags": {1: Odd()}}):
        before = server.calls
        with suppress(ConfigurationError):
            model.invoke(f"hello {before}", {"metadata": {"llm_cache": options}})
        assert cache.engine.get_many([]) == {}
        assert all(entry.namespace == "default/a" for entry in cache.engine.entries())


def test_a_generator_that_is_closed_elsewhere_gets_no_error() -> None:
    def numbers() -> Iterator[int]:
        with cache_options(namespace="mine"):
            yield 1
            yield 2

    generator = numbers()
    contextvars.copy_context().run(next, generator)
    list(generator)
    assert current_options() == CallOptions()


async def test_in_a_task_that_leads_often_nothing_is_left_behind(cache: LayeredCache) -> None:
    """No callback for each call."""
    task = asyncio.current_task()
    model = FakeListChatModel(responses=["one"])
    for number in range(50):
        key = cache.engine.key(Request(f"question {number}"))
        leads: list[Any] = []
        assert await cache.engine.afetch(key, led=leads.append) is None
        await cache.engine.aset(Request(f"question {number}"), b"answer")
    assert task is not None
    assert len(task._callbacks or []) < 5  # type: ignore[attr-defined]
    assert model.responses


async def test_pools_of_the_loop_are_not_filled_by_those_who_wait(cache: LayeredCache) -> None:
    """A leader that needs a thread later than they have come."""

    class Late(FakeListChatModel):
        async def _agenerate(self, *args: Any, **kwargs: Any) -> Any:
            await asyncio.sleep(0.2)
            return await super()._agenerate(*args, **kwargs)  # in a thread of the loop's pool

    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(4))
    model = Late(responses=["one"])
    leader = asyncio.create_task(model.ainvoke("hello"))
    await asyncio.sleep(0.05)
    answers = await asyncio.gather(leader, *(asyncio.to_thread(model.invoke, "hello") for _ in range(12)))
    assert len(answers) == 13
