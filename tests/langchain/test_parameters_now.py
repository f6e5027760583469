"""Parameters as they are at the moment of the call, where the text that LangChain hands a cache is older, or says too little."""

from __future__ import annotations

import random
import string
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import BaseChatModel
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_openai import AzureChatOpenAI, ChatOpenAI
from layered_cache.keys.keys import canonical
from layered_cache.testing import OpenAIServer
from pydantic import BaseModel, create_model

from langchain_layered_cache import LayeredCache
from langchain_layered_cache._keys.model_params import KnownModel, parse_model
from langchain_layered_cache._keys.model_settings import settings_of


@pytest.fixture
def cache() -> Iterator[LayeredCache]:
    cache = LayeredCache("memory://")
    set_llm_cache(cache)
    yield cache
    set_llm_cache(None)
    cache.close()


@pytest.fixture
def model(server: OpenAIServer) -> ChatOpenAI:
    return ChatOpenAI(
        model="gpt-4o-mini",
        base_url=server.url,
        api_key="none",
        temperature=0.1,
        max_tokens=50,
        model_kwargs={"user": "me"},
        extra_body={"x": {"y": [1]}},
    )


CHANGES: dict[str, dict[str, Any]] = {
    "the model": {"model_name": "gpt-4o"},
    "a temperature": {"temperature": 0.9},
    "a temperature that is taken back": {"temperature": None},
    "a limit": {"max_tokens": 51},
    "a limit that is taken back": {"max_tokens": None},
    "one that was not set": {"top_p": 0.5},
    "its own parameters": {"model_kwargs": {"user": "you"}},
    "an additional one": {"model_kwargs": {"user": "me", "logit_bias": {"1": 2}}},
    "none of its own": {"model_kwargs": {}},
    "a stop": {"stop": ["END"]},
    "the extra body": {"extra_body": {"x": {"y": [2]}}},
    "no extra body": {"extra_body": None},
    "seed": {"seed": 1},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_is_changed_after_the_first_use_counts(
    change: dict[str, Any], cache: LayeredCache, model: ChatOpenAI, server: OpenAIServer
) -> None:
    """LangChain writes a model out once. What it was is found again when it is that again."""
    model.invoke("hello")
    before = {name: getattr(model, name) for name in change}
    for name, value in change.items():
        setattr(model, name, value)
    model.invoke("hello")
    assert server.calls == 2
    model.invoke("hello")
    assert server.calls == 2
    for name, value in before.items():
        setattr(model, name, value)
    model.invoke("hello")
    assert server.calls == 2


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_a_copy_that_differs_has_its_own_answers(
    change: dict[str, Any], cache: LayeredCache, model: ChatOpenAI, server: OpenAIServer
) -> None:
    """A copy takes along what its model was written out as."""
    await model.ainvoke("hello")
    copy = model.model_copy(update=change)
    await copy.ainvoke("hello")
    assert server.calls == 2
    await copy.ainvoke("hello")
    await model.ainvoke("hello")
    assert server.calls == 2


def managed(context: object) -> dict[str, Any]:
    """Return a field that older releases do not have."""
    return {"context_management": context} if "context_management" in ChatOpenAI.model_fields else {}


BEFORE_AND_AFTER: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "another stop": ({"stop": ["A"]}, {"stop": ["B"]}),
    "a stop that is taken back": ({"stop": ["A"]}, {"stop": None}),
    "a stop that is emptied": ({"stop": ["A"]}, {"stop": []}),
    "include": ({"include": ["reasoning.encrypted_content"]}, {"include": None}),
    "truncation": ({"truncation": "auto"}, {"truncation": None}),
    "store": ({"store": True}, {"store": None}),
    "context management": (managed([{"type": "compaction"}]), managed(None)),
    "one of its own": ({"model_kwargs": {"user": "me", "custom": 1}}, {"model_kwargs": {"user": "me"}}),
    "True for 1": ({"extra_body": {"a": 1}}, {"extra_body": {"a": True}}),
    "1.0 for 1": ({"extra_body": {"a": [1]}}, {"extra_body": {"a": [1.0]}}),
    "False for 0 at the top": ({"model_kwargs": {"custom": 0}}, {"model_kwargs": {"custom": False}}),
    "True for 1 as a name": ({"extra_body": {"a": {1: 2}}}, {"extra_body": {"a": {True: 2}}}),
    "no model": ({}, {"model_name": None}),
}


@pytest.mark.parametrize(("before", "after"), BEFORE_AND_AFTER.values(), ids=BEFORE_AND_AFTER)
def test_what_is_sent_no_longer_counts(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Also what differs by its type alone. And it is found again when it is as it was."""
    model = ChatOpenAI(**{"model": "gpt-4o-mini", "api_key": "none", **before})
    known = KnownModel(model._get_llm_string())

    def key() -> bytes:
        return canonical(known.now(settings_of(model)).params)

    def payload() -> str:
        return repr(sorted(model._get_request_payload("q").items()))

    first, sent = key(), payload()
    was = {name: getattr(model, name) for name in after}
    for name, value in after.items():
        setattr(model, name, value)
    assert (key() == first) is (payload() == sent)
    for name, value in was.items():
        setattr(model, name, value)
    assert key() == first


def test_a_stop_counts_as_it_is_at_the_call(cache: LayeredCache, model: ChatOpenAI, server: OpenAIServer) -> None:
    """LangChain says in the text of each call that there is none. One that is given to the call is what is sent."""
    model.invoke("hello")
    for stop in (["A"], ["B"]):
        model.model_copy(update={"stop": stop}).invoke("hello")
    assert server.calls == 3
    model.invoke("hello", stop=["A"])
    model.invoke("hello", stop=["A"])
    assert server.calls == 4


def test_what_a_call_takes_back_counts(cache: LayeredCache, model: ChatOpenAI, server: OpenAIServer) -> None:
    """None at the call overrules what the model says, inside of a call and outside; where the model says nothing, it says nothing too."""
    for kwargs in ({}, {"temperature": None}, {"seed": None}):
        model.invoke("hello", **kwargs)
    assert server.calls == 2
    text = model._get_llm_string(max_tokens=None)
    cache.update(dumps([HumanMessage("hello")]), text, [ChatGeneration(message=AIMessage("by hand"))])
    assert model.invoke("hello", max_tokens=None).content == "by hand"
    assert server.calls == 2


def test_a_parameter_of_another_name_hides_none(cache: LayeredCache) -> None:
    """A model at Azure goes by two names: that of the model, and that of its deployment."""
    model = AzureChatOpenAI(model="gpt-4o", azure_deployment="mine", **AZURE)
    known = KnownModel(model._get_llm_string())
    before = known.now(settings_of(model)).params
    model.model_name = "mine"

    assert known.now(settings_of(model)).params != before


def test_what_is_changed_deep_inside_counts(cache: LayeredCache, model: ChatOpenAI, server: OpenAIServer) -> None:
    """In place: the very object that was seen before."""
    model.invoke("hello")
    assert model.extra_body is not None
    model.extra_body["x"]["y"].append(2)
    model.invoke("hello")
    assert server.calls == 2


def test_a_changed_model_is_priced_and_removed_by_its_name(cache: LayeredCache, model: ChatOpenAI) -> None:
    model.invoke("hello")
    model.model_name = "gpt-4o"
    model.invoke("hello")

    assert sorted(entry.model or "" for entry in cache.engine.entries()) == ["gpt-4o", "gpt-4o-mini"]


MODELS: dict[str, dict[str, Any]] = {
    "plain": {},
    "with all": {"temperature": 0, "max_tokens": 5, "top_p": 0.5, "seed": 7, "n": 2, "stop": ["x"], "logprobs": True, "top_logprobs": 2},
    "with its own": {"model_kwargs": {"user": "me"}, "extra_body": {"a": 1}, "presence_penalty": 0.1, "frequency_penalty": 1},
    "with its own that say nothing": {"model_kwargs": {"user": None, "stream_options": {"include_usage": True}}, "stop": []},
    "reasoning": {"model": "o1", "reasoning_effort": "low", "max_completion_tokens": 7},
    "of the o series": {"model": "o3-mini", "temperature": 1, "stop": "x"},
    "streaming": {"streaming": True},
    "responses": {"use_responses_api": True, "reasoning": {"effort": "low"}, "output_version": "responses/v1"},
    "responses with all": {
        "include": ["reasoning.encrypted_content"],
        "truncation": "auto",
        "store": False,
        "verbosity": "low",
        "service_tier": "flex",
        **managed([{"type": "compaction", "compact_threshold": 1000}]),
        "use_previous_response_id": True,
    },
}
AZURE: dict[str, Any] = {"azure_endpoint": "https://localhost", "api_version": "2024-10-21", "api_key": "none"}
AT_AZURE: dict[str, dict[str, Any]] = {
    "a deployment": {"azure_deployment": "mine"},
    "no deployment": {"model": "gpt-4o"},
    "both": {"azure_deployment": "mine", "model": "gpt-4o", "temperature": 0.5, "max_tokens": 5, "stop": ["x"], "seed": 1},
    "responses": {"azure_deployment": "mine", "model": "o4-mini", "use_responses_api": True, "reasoning": {"effort": "low"}},
}
MADE = {
    **{name: (ChatOpenAI, {"model": "gpt-4o-mini", "api_key": "none", **fields}) for name, fields in MODELS.items()},
    **{f"at Azure, {name}": (AzureChatOpenAI, {**AZURE, **fields}) for name, fields in AT_AZURE.items()},
}


@pytest.mark.parametrize(("kind", "fields"), MADE.values(), ids=MADE)
@pytest.mark.parametrize(
    "bound",
    [
        {},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]},
        {"stop": ["y"]},
        {"temperature": None, "seed": None, "include": None},
        {"max_completion_tokens": 9, "model": "gpt-4.1"},
    ],
    ids=str,
)
def test_a_model_that_was_not_changed_has_the_key_of_its_text(
    kind: type[ChatOpenAI | AzureChatOpenAI], fields: dict[str, Any], bound: dict[str, Any]
) -> None:
    """So an `update` by hand, outside of a call, is found by `invoke`, and no release of LangChain makes the cache cold."""
    model = kind(**fields)
    text = model._get_llm_string(**{"stop": None, **bound})
    one, other = parse_model(text), parse_model(text, settings_of(model))

    assert (one.params, one.at, one.name) == (other.params, other.at, other.name)


def test_what_is_stored_by_hand_is_found(cache: LayeredCache, model: ChatOpenAI, server: OpenAIServer) -> None:
    text = model._get_llm_string()
    cache.update(dumps([HumanMessage("hello")]), text, [ChatGeneration(message=AIMessage("by hand"))])

    assert model.invoke("hello").content == "by hand"
    assert server.calls == 0


# --- classes


def test_two_classes_of_one_name_are_two(cache: LayeredCache, server: OpenAIServer, model: ChatOpenAI) -> None:
    """The text shows their name; neither is found by it."""
    one, other = create_model("Answer", colour=(str, ...)), create_model("Answer", size=(int, ...))

    for _ in range(2):
        for cls in (one, other):
            assert type(model.with_structured_output(cls).invoke("hello")) is cls
    assert server.calls == 2


def test_a_class_inside_a_function_has_a_key(cache: LayeredCache, server: OpenAIServer, model: ChatOpenAI) -> None:
    """It is at hand in the call, though no name leads to it; one of another shape is another one."""
    server.reply = lambda body: '{"a": 1}'

    def make(kind: type) -> type[BaseModel]:
        class Local(BaseModel):
            a: kind

        return Local

    for cls in (make(int), make(int), make(float)):
        model.with_structured_output(cls).invoke("hello")
    assert server.calls == 2


class Custom(BaseChatModel):
    """A model that LangChain does not write out."""

    temperature: float = 0.0
    calls: int = 0

    @property
    def _llm_type(self) -> str:
        return "custom"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"temperature": self.temperature}

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        self.calls += 1
        return ChatResult(generations=[ChatGeneration(message=AIMessage(f"answer {self.calls}"))])


def test_a_model_of_ones_own_is_read_anew_each_time(cache: LayeredCache) -> None:
    model = Custom()

    assert [model.invoke("hello").content for _ in range(2)] == ["answer 1"] * 2
    model.temperature = 1.0
    assert [model.invoke("hello").content for _ in range(2)] == ["answer 2"] * 2


def test_no_two_settings_share_a_key(cache: LayeredCache) -> None:
    """Of 2,000 drawn changes of one model, in place, no two that differ have the same key."""
    dice = random.Random(7)
    model = ChatOpenAI(model="m0", api_key="none", base_url="http://localhost/v1", temperature=0.0)
    text = model._get_llm_string()
    known = KnownModel(text)
    seen: dict[str, str] = {}
    for _ in range(2000):
        model.model_name = dice.choice(["m0", "m1", "m2"])
        model.temperature = dice.choice([None, 0.0, 0.5, 1.0])
        model.top_p = dice.choice([None, 0.5, 1.0])
        model.seed = dice.choice([None, 0, 1])
        model.max_tokens = dice.choice([None, 1, 2])
        model.model_kwargs = dice.choice([{}, {"user": dice.choice(string.ascii_lowercase[:3])}])
        now = model._get_invocation_params()
        key = repr(sorted((name, repr(value)) for name, value in known.now(settings_of(model)).params.items()))
        what = repr(sorted((name, repr(value)) for name, value in now.items() if value is not None and name not in {"stream", "stop"}))
        assert seen.setdefault(key, what) == what
    assert len(seen) > 300


def test_a_shared_transport_brings_no_address_of_an_earlier_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """langchain-openai shares a transport between its clients; it has the address of the first one."""
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:1/v1")
    ChatOpenAI(model="gpt-4o-mini", api_key="none", timeout=12.5)
    monkeypatch.delenv("OPENAI_BASE_URL")
    model = ChatOpenAI(model="gpt-4o-mini", api_key="none", timeout=12.5)

    assert parse_model(model._get_llm_string(stop=None), settings_of(model)).at == {}
