"""What makes two calls of LLMs one: all that a provider sees, and nothing else."""

from __future__ import annotations

import base64
import functools
import itertools
import logging
import re
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from google.genai import types
from langchain_core.language_models import FakeListChatModel
from langchain_openai import ChatOpenAI
from langchain_openai import OpenAI as LangChainOpenAI
from layered_cache import ConfigurationError, Event, Request, TieredCache, UncacheableRequestError, cache_options
from layered_cache.options import NO_OPTIONS
from layered_cache.testing import OpenAIServer
from llama_index.core.base.llms.types import (
    AudioBlock,
    CacheControl,
    CachePoint,
    CompletionResponse,
    DocumentBlock,
    ImageBlock,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.llms import LLM, ChatMessage, CustomLLM, LLMMetadata, MockLLM, mock
from llama_index.core.llms.callbacks import llm_completion_callback
from llama_index.core.prompts import PromptTemplate
from llama_index.llms.anthropic import Anthropic
from llama_index.llms.google_genai import GoogleGenAI
from llama_index.llms.langchain import LangChainLLM
from llama_index.llms.ollama import Ollama
from llama_index.llms.openai import OpenAI, OpenAIResponses
from openai.types.chat.chat_completion_chunk import ChoiceDeltaToolCall
from pydantic import BaseModel, Field, PrivateAttr, SecretStr
from support.fake_networks import Llama, PreTrained
from support.fake_providers import StandIn

from llamaindex_layered_cache import cached
from llamaindex_layered_cache._llm.call import Question
from llamaindex_layered_cache._llm.request_data import plain_messages
from llamaindex_layered_cache._llm.wrapper import OWN, keeper_of

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")


@pytest.fixture
def cache(events: list[Event]) -> Iterator[TieredCache]:
    with TieredCache("memory://", observers=[events.append]) as cache:
        yield cache


def request(llm: LLM, asked: Any = "q", kind: Any = "completion", **arguments: Any) -> Request:
    """What a call asks."""
    keeper = keeper_of(llm)
    assert keeper is not None
    return keeper.request(Question(llm, kind, asked, arguments), NO_OPTIONS)


# --- messages


def user(*blocks: Any, **more: Any) -> ChatMessage:
    return ChatMessage(role="user", blocks=[TextBlock(text=block) if isinstance(block, str) else block for block in blocks], **more)


def call(name: str = "f", id_: str | None = "call_1", **kwargs: Any) -> ChatMessage:
    return ChatMessage(role="assistant", blocks=[ToolCallBlock(tool_call_id=id_, tool_name=name, tool_kwargs=kwargs)])


def result(content: str, id_: str) -> ChatMessage:
    return ChatMessage(role="tool", content=content, additional_kwargs={"tool_call_id": id_})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([user("a")], [ChatMessage("a")]),
        ([call(id_="call_1"), result("r", "call_1")], [call(id_="call_2"), result("r", "call_2")]),
        ([user("a", CachePoint(cache_control=CacheControl(type="ephemeral")))], [user("a")]),
        ([user(ImageBlock(image=PNG))], [user(ImageBlock(image=base64.b64encode(PNG)))]),
        (
            [ChatMessage(role="assistant", additional_kwargs={"tool_calls": [ChoiceDeltaToolCall(index=0, id="a", type="function")]})],
            [ChatMessage(role="assistant", additional_kwargs={"tool_calls": [{"index": 0, "id": "b", "type": "function"}]})],
        ),
        ([user("a", additional_kwargs={"x": None})], [user("a", additional_kwargs={})]),
    ],
)
def test_messages_that_are_the_same(one: list[ChatMessage], other: list[ChatMessage]) -> None:
    """To a model."""
    assert Request(plain_messages(one)) == Request(plain_messages(other))


DIFFERENT = [
    [],
    [user("a")],
    [user("b")],
    [user("a", "b")],
    [user("a\nb")],
    [user("ab")],
    [user("a"), user("b")],
    [ChatMessage(role="system", content="a")],
    [ChatMessage(role="assistant", content="a")],
    [user()],
    [user("")],
    [user("a", additional_kwargs={"x": 1})],
    [user("a", additional_kwargs={"x": True})],
    [user("a", additional_kwargs={"x": {"y": 1}})],
    [user(ImageBlock(image=PNG))],
    [user(ImageBlock(image=PNG, detail="low"))],
    [user(ImageBlock(image=PNG + b"\0"))],
    [user(ImageBlock(url="https://example.com/a.png"))],
    [user(ImageBlock(url="https://example.com/b.png"))],
    [user(AudioBlock(audio=b"UklGRg=="))],
    [user(DocumentBlock(data=b"JVBERi0=", title="a"))],
    [user(DocumentBlock(data=b"JVBERi0=", title="b"))],
    [call(a=1)],
    [call(a=None)],
    [call()],
    [call("g")],
    [call(id_="x"), call(id_="y"), result("r", "x")],
    [call(id_="x"), call(id_="y"), result("r", "y")],
    [call(id_="x"), call(id_="x"), result("r", "x")],
    [ChatMessage(role="assistant", blocks=[ThinkingBlock(content="a")])],
    [ChatMessage(role="assistant", blocks=[ThinkingBlock(content="a", additional_information={"signature": b"\xff\xfe"})])],
    [ChatMessage(role="assistant", blocks=[ThinkingBlock(content="a", additional_information={"signature": b"\xff\xff"})])],
    [ChatMessage(role="assistant", additional_kwargs={"tool_calls": [{"id": "x", "function": {"name": "f", "arguments": "1"}}]})],
    [ChatMessage(role="assistant", additional_kwargs={"tool_calls": [{"id": "x", "function": {"name": "f", "arguments": "2"}}]})],
]


def test_messages_that_differ() -> None:
    """Each from each of the others."""
    requests = [Request(plain_messages(messages)) for messages in DIFFERENT]
    for (number, one), (other_number, other) in itertools.combinations(enumerate(requests), 2):
        assert one != other, (DIFFERENT[number], DIFFERENT[other_number])


def test_files_count_by_what_is_in_them(tmp_path: Path) -> None:
    """Not by their names, nor by their places; what can be read once only is refused, and nothing is used up."""
    one, same, other = (tmp_path / name for name in ("a.png", "b.png", "c.png"))
    one.write_bytes(PNG)
    same.write_bytes(PNG)
    other.write_bytes(PNG + b"\0")
    asked = [Request(plain_messages([user(ImageBlock(path=path))])) for path in (one, same, other)]
    assert asked[0] == asked[1] != asked[2]
    one.write_bytes(PNG + b"\0")
    assert Request(plain_messages([user(ImageBlock(path=one))])) == asked[2]
    gone = user(ImageBlock(path=one))
    one.unlink()
    with pytest.raises(UncacheableRequestError, match="cannot be read"):
        plain_messages([gone])

    stream = BytesIO(PNG)
    message = user(ImageBlock.model_construct(image=stream))
    assert plain_messages([message]) == plain_messages([message])
    assert stream.read() == PNG
    stream.seekable = lambda: False  # type: ignore
    with pytest.raises(UncacheableRequestError, match="only once"):
        plain_messages([message])


def test_what_can_be_removed_by_its_question() -> None:
    """The text that the user said last, beside whatever."""
    digest = Request("why?").prompt_digest
    for messages in ([user("why?")], [user("why?", ImageBlock(image=PNG))], [user("why?"), call()], [user("x"), user("why?")]):
        assert Request(plain_messages(messages)).prompt_digest == digest


def test_golden() -> None:
    """A key changes only with its version."""
    messages = [
        ChatMessage(role="system", content="be brief"),
        user("why?", ImageBlock(image=PNG)),
        call("multiply", a=7),
        result("49", "call_1"),
        ChatMessage(role="assistant", blocks=[ThinkingBlock(content="hm"), TextBlock(text="so")]),
    ]
    with TieredCache("memory://") as cache:
        key = cache.key(Request(plain_messages(messages), model="m", params={"class": "c", "kind": "chat"}, framework="llamaindex"))
    assert key == "lc1:default:rpWv7f4U3sFrpNgmDqNCy4nUpL5vEDEz2nZ1Tq7nTH8"


# --- arguments


class Song(BaseModel):
    title: str


class Other(BaseModel):
    title: str
    seconds: int = 0


def tool(**schema: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "parameters": {"properties": schema}}}


def test_arguments(cache: TieredCache) -> None:
    """Each is another request, with a null too, which overrules what the model has; what is about transport does not count."""
    llm = cached(MockLLM(), cache)
    arguments: list[dict[str, Any]] = [
        {},
        {"tools": [tool(a={"enum": [None, 1]})]},
        {"tools": [tool(a={"enum": [1]})]},
        {"tools": [tool(timeout={"type": "number"})]},
        {"tools": [tool()]},
        {"tool_choice": "auto"},
        {"response_format": Song},
        {"response_format": Other},
        {"response_format": {"type": "json_object"}},
        {"tool_config": types.ToolConfig(function_calling_config=types.FunctionCallingConfig(mode=types.FunctionCallingConfigMode.ANY))},
        {"tool_config": types.ToolConfig(function_calling_config=types.FunctionCallingConfig(mode=types.FunctionCallingConfigMode.NONE))},
        {"stop": ["a"]},
        {"stop": ["a", "b"]},
        {"stop": {"a", "b"}},
        {"data": b"a"},
        {"data": b"b"},
        {"stop": None},
        {"temperature": None},
        {"extra_headers": {"anthropic-beta": "a"}},
        {"extra_headers": {"anthropic-beta": "b"}},
    ]
    requests = [request(llm, **one) for one in arguments]
    for (number, one), (other_number, other) in itertools.combinations(enumerate(requests), 2):
        assert one != other, (arguments[number], arguments[other_number])
    assert request(llm, timeout=5, extra_headers={"X-Api-Key": "a", "User-Agent": "b", "X-Request-Id": "c"}) == request(llm)
    assert request(llm, "q", kind="chat") != request(llm)
    assert request(llm, stop={"b", "a"}) == request(llm, stop={"a", "b"})


def test_what_has_no_lasting_text_is_not_cached(cache: TieredCache, events: list[Event], caplog: pytest.LogCaptureFixture) -> None:
    """A warning says which argument it is, once."""
    llm = cached(MockLLM(max_tokens=2), cache)
    for _ in range(2):
        assert llm.complete("a secret", odd=object()).text == "text text"
    assert [event.kind for event in events] == ["uncacheable"] * 2
    assert len(caplog.records) == 1
    assert "'odd'" in caplog.text
    assert "secret" not in caplog.text
    assert "0x" not in caplog.text


def made(suffix: str) -> Callable[[str], str]:
    def shout(text: str) -> str:
        return text + suffix

    return shout


def test_functions_count_by_their_code(cache: TieredCache) -> None:
    """And by what they were made with."""

    def key(function: Any) -> Request:
        return request(cached(MockLLM(completion_to_prompt=function), cache))

    def scope(body: str) -> Any:
        found: dict[str, Any] = {"__name__": "somewhere"}
        exec(body, found)
        return found["f"]

    assert key(made("!")) == key(made("!"))
    assert key(made("!")) != key(made("?"))
    assert key(scope("def f(x): return x + 'a'")) == key(scope("def f(x): return x + 'a'"))
    assert key(scope("def f(x): return x + 'a'")) != key(scope("def f(x): return x + 'b'"))
    assert key(scope("def f(x): return x.upper()")) != key(scope("def f(x): return x.lower()"))
    assert key(scope("def f(x, y=1): return x")) != key(scope("def f(x, y=2): return x"))
    one, same = (scope(f"def f(x): return [y for y in x if y in {{{names}}}]") for names in ("'a', 'b'", "'b', 'a'"))
    assert key(one) == key(same)
    assert key(functools.partial(made, "a")) != key(functools.partial(made, "b"))
    for odd in (functools.partial(made, object()), made(object()), BytesIO().write):  # type: ignore
        with pytest.raises(ConfigurationError, match="completion_to_prompt"):
            key(odd)


# --- models


class Own(CustomLLM):
    """What people write themselves, with settings of all kinds."""

    model_name: str = "own"
    voice: str = "low"
    api_key: str = "sk-1"
    secret: SecretStr = SecretStr("a")
    options: dict[str, Any] = {}
    inner: LLM | None = None
    timeout: float = 5
    _hidden: Any = PrivateAttr(default=None)

    def __init__(self, hidden: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._hidden = hidden

    @property
    def metadata(self) -> LLMMetadata:
        raise AssertionError("nobody may ask for it: some LLMs ask their provider")

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        raise NotImplementedError

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Iterator[CompletionResponse]:
        raise NotImplementedError


class Another(Own):
    """Of another class."""


def google(**kwargs: Any) -> GoogleGenAI:
    return GoogleGenAI(model="gemini-2.5-flash", api_key="none", context_window=1000, **{"max_tokens": 100, **kwargs})


MODELS: list[Callable[[], LLM]] = [
    Own,
    Another,
    lambda: Own(voice="high"),
    lambda: Own(options={"a": 1}),
    lambda: Own(options={"a": None}),
    lambda: Own(inner=MockLLM()),
    lambda: Own(inner=MockLLM(max_tokens=1)),
    lambda: Own(hidden="a"),
    lambda: Own(hidden={"a": [1, 2]}),
    lambda: Own(system_prompt="a"),
    lambda: Own(query_wrapper_prompt=PromptTemplate("a {query_str}")),
    lambda: Own(query_wrapper_prompt=PromptTemplate("b {query_str}")),
    lambda: OpenAI(model="gpt-4o", api_key="sk-1", additional_kwargs={"temperature": None}),
    MockLLM,
    lambda: MockLLM(max_tokens=1),
    *([mock.MockFunctionCallingLLM] if hasattr(mock, "MockFunctionCallingLLM") else []),  # newer than the lowest promised release
    google,
    lambda: google(max_tokens=200),
    lambda: google(temperature=0.9),
    lambda: google(generation_config=types.GenerateContentConfig(top_p=0.5)),
    lambda: google(generation_config=types.GenerateContentConfig(top_p=0.6)),
    lambda: google(http_options=types.HttpOptions(base_url="http://elsewhere")),
    lambda: LangChainLLM(ChatOpenAI(model="gpt-4o", api_key="sk-1")),
    lambda: LangChainLLM(ChatOpenAI(model="gpt-4o", api_key="sk-1", temperature=0.5)),
    lambda: LangChainLLM(ChatOpenAI(model="gpt-4o-mini", api_key="sk-1")),
    lambda: LangChainLLM(LangChainOpenAI(model="gpt-3.5-turbo-instruct", api_key="sk-1")),
    lambda: LangChainLLM(LangChainOpenAI(model="gpt-3.5-turbo-instruct", api_key="sk-1", temperature=0.5)),
    lambda: OpenAI(model="gpt-4o", api_key="sk-1"),
    lambda: OpenAI(model="gpt-4o", api_key="sk-1", api_base="http://elsewhere/v1"),
    lambda: OpenAI(model="gpt-4o", api_key="sk-1", max_tokens=5),
    lambda: OpenAI(model="gpt-4o", api_key="sk-1", additional_kwargs={"seed": 1}),
    lambda: OpenAI(model="gpt-4o", api_key="sk-1", reasoning_effort="low"),
    lambda: OpenAI(model="gpt-4o", api_key="sk-1", strict=True),
    lambda: OpenAIResponses(model="gpt-4o", api_key="sk-1"),
    lambda: OpenAIResponses(model="gpt-4o", api_key="sk-1", instructions="a"),
    lambda: Anthropic(model="claude-sonnet-4-5", api_key="sk-1"),
    lambda: Anthropic(model="claude-sonnet-4-5", api_key="sk-1", base_url="http://elsewhere"),
    lambda: Anthropic(model="claude-sonnet-4-5", api_key="sk-1", thinking_dict={"type": "enabled", "budget_tokens": 1024}),
    lambda: Ollama(model="llama3"),
    lambda: Ollama(model="llama3", thinking=False),
    lambda: Ollama(model="llama3", context_window=4096),
    lambda: Ollama(model="llama3", base_url="http://elsewhere"),
]


def test_models_that_differ(cache: TieredCache) -> None:
    """Each from each of the others, for the same question."""
    requests = [request(cached(make(), cache)) for make in MODELS]
    for (number, one), (other_number, other) in itertools.combinations(enumerate(requests), 2):
        assert one != other, (number, other_number)
    assert requests == [request(cached(make(), cache)) for make in MODELS]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Own(api_key="sk-1", secret=SecretStr("a"), timeout=1), Own(api_key="sk-2", secret=SecretStr("b"), timeout=2)),
        (OpenAI(api_key="sk-1", timeout=1, max_retries=0), OpenAI(api_key="sk-2", default_headers={"x-auth": "b"}, reuse_client=False)),
        (Anthropic(api_key="sk-1", timeout=1), Anthropic(api_key="sk-2", max_retries=1, default_headers={"user-agent": "b"})),
        (Ollama(model="a", keep_alive="1m"), Ollama(model="a", request_timeout=1)),
    ],
)
def test_secrets_and_transport_do_not_count(one: LLM, other: LLM, cache: TieredCache) -> None:
    """An answer is as good over another key."""
    assert request(cached(one, cache)) == request(cached(other, cache))


NAMES = ["lookahead_tokens", "pad_token", "stop_token", "session_prompt", "secret_word", "password_policy", "client_mode"]
HIDDEN = ["_block", "_clock", "_token_mode", "_client_mode", "_session_prompt", "_secret_word", "_stop_token"]


@pytest.mark.parametrize("name", [*NAMES, *HIDDEN, "excluded", "extra"])
def test_a_name_does_not_excuse_a_setting(cache: TieredCache, name: str) -> None:
    """It counts, whatever its name has in common with those of clients and secrets, and also if it is not written or not declared."""
    members: dict[str, Any] = {"__module__": __name__}
    if name == "extra":
        members["model_config"] = {"extra": "allow"}
    else:
        fields = {"excluded": Field("", exclude=True)}
        members |= {"__annotations__": {name: str}, name: PrivateAttr("") if name[0] == "_" else fields.get(name, "")}
    made: Any = type("Made", (Own,), members)
    requests: list[Request] = []
    for value in ("a", "b", "a"):
        llm = made()
        setattr(llm, name, value)
        requests.append(request(cached(llm, cache)))
    assert requests[0] == requests[2] != requests[1]


class Adapter(BaseModel):
    """Attached to a model by a user."""

    path: str


PRIVATE_CHANGES: list[tuple[Callable[[], LLM], Callable[[Any], object]]] = [
    (lambda: Own(hidden="a"), lambda llm: setattr(llm, "_hidden", "b")),
    (lambda: Own(hidden=1), lambda llm: setattr(llm, "_hidden", True)),
    (lambda: Own(hidden={"a": [1]}), lambda llm: llm._hidden["a"].append(2)),
    (lambda: Own(hidden={"a": 1}), lambda llm: llm._hidden.update(a=1.0)),
    (lambda: Own(hidden=Adapter(path="a")), lambda llm: setattr(llm._hidden, "path", "b")),
    (lambda: Own(hidden=[Adapter(path="a")]), lambda llm: setattr(llm._hidden[0], "path", "b")),
    (lambda: Own(hidden=Own()), lambda llm: setattr(llm._hidden, "voice", "high")),
    (lambda: Own(hidden=Own(hidden="a")), lambda llm: setattr(llm._hidden, "_hidden", "b")),
    (google, lambda llm: llm._generation_config.update(top_p=0.5)),
    (google, lambda llm: setattr(llm, "_generation_config", {**llm._generation_config, "seed": 1})),
    (google, lambda llm: setattr(llm, "_max_tokens", 200)),
]


@pytest.mark.parametrize(("make", "change"), PRIVATE_CHANGES)
def test_private_settings_count_as_they_are_at_the_call(
    cache: TieredCache, make: Callable[[], LLM], change: Callable[[Any], object]
) -> None:
    """A change after the first use makes another request, the same as that of a model that was wrapped after the change."""
    llm, other = cached(make(), cache), make()
    before = request(llm)
    assert request(llm) == before
    change(llm)
    change(other)
    assert before != request(llm) == request(cached(other, cache))


def test_a_private_setting_that_becomes_unreadable_is_not_cached(cache: TieredCache) -> None:
    llm = cached(Own(), cache)
    request(llm)
    llm._hidden = object()
    with pytest.raises(UncacheableRequestError, match="'_hidden'"):
        request(llm)
    loose = cached(Own(), cache, key_extra="a")
    before = request(loose)
    loose._hidden = object()
    assert request(loose) == before


def test_where_the_environment_sends_requests(cache: TieredCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts, though no field says it."""
    here = request(cached(Anthropic(model="claude-sonnet-4-5", api_key="sk-1"), cache))
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://elsewhere")
    assert request(cached(Anthropic(model="claude-sonnet-4-5", api_key="sk-1"), cache)) != here


def test_headers_and_clients_count_as_they_are_sent(cache: TieredCache) -> None:
    """A client keeps the headers and the address that it was made with, whatever the fields are later."""

    def made(**settings: Any) -> Any:
        return cached(OpenAI(model="gpt-4o", api_key="sk-1", **settings), cache)

    plain, one, other = made(), made(default_headers={"X-Tenant": "a"}), made(default_headers={"X-Tenant": "b"})
    before = [request(llm) for llm in (plain, one, other)]
    assert len({*before}) == 3
    for llm in (plain, one, other):
        llm._get_client()
    assert [request(llm) for llm in (plain, one, other)] == before
    one.default_headers = None
    assert request(one) not in before
    one._client = None
    assert request(one) == before[0]
    plain._get_client()
    plain.api_base = "http://elsewhere/v1"
    assert request(plain) not in {*before, request(made(api_base="http://elsewhere/v1"))}


def test_clients_that_differ_are_not_cached(cache: TieredCache) -> None:
    llm: Any = cached(OpenAI(model="gpt-4o", api_key="sk-1"), cache)
    llm._get_client()
    llm.api_base = "http://elsewhere/v1"
    llm._get_aclient()
    with pytest.raises(UncacheableRequestError, match="different places"):
        request(llm)


def test_what_the_first_call_finds_out_does_not_count(cache: TieredCache) -> None:
    """Clients are made then, and Ollama is asked for its context window; the user's own window counts."""
    with StandIn() as server:
        for use in (lambda llm: llm.metadata, lambda llm: llm.chat([ChatMessage("q")]), lambda llm: [*llm.stream_chat([ChatMessage("r")])]):
            llm: Any = cached(Ollama(model="llama3", base_url=server.url), cache)
            before = request(llm)
            use(llm)
            assert llm.context_window == 4096
            assert request(llm) == before
            llm.context_window = 2048
            assert request(llm) != before
            llm.context_window = -1
            assert request(llm) == before
            llm.context_window, llm.model = 4096, "mistral"  # the window of another model
            assert request(llm) != request(cached(Ollama(model="mistral", base_url=server.url), cache))
    ours = cached(OpenAI(api_key="sk-1"), cache)
    before = request(ours)
    assert ours._get_client() is not None
    assert request(ours) == before


def test_what_the_provider_remembers_is_not_cached(cache: TieredCache) -> None:
    """Nor what it is to remember."""
    for llm, said in (
        (OpenAIResponses(api_key="sk-1", track_previous_responses=True), {}),
        (OpenAIResponses(api_key="sk-1", previous_response_id="resp_1"), {}),
        (OpenAIResponses(api_key="sk-1", store=True), {}),
        (OpenAIResponses(api_key="sk-1"), {"background": True}),
        (OpenAI(api_key="sk-1", additional_kwargs={"store": True}), {}),
        (OpenAI(api_key="sk-1", additional_kwargs={"extra_body": {"store": True}}), {}),
        (OpenAIResponses(api_key="sk-1", additional_kwargs={"conversation": "conv_1"}), {}),
        (OpenAIResponses(api_key="sk-1"), {"conversation": "conv_1"}),
        (OpenAIResponses(api_key="sk-1"), {"previous_response_id": "resp_1"}),
        (OpenAIResponses(api_key="sk-1"), {"extra_body": {"conversation": {"id": "conv_1"}}}),
        (OpenAIResponses(api_key="sk-1"), {"additional_kwargs": {"extra_body": {"store": True}}}),
        (Anthropic(api_key="sk-1"), {"container": "container_1"}),
    ):
        with pytest.raises(UncacheableRequestError, match="memory of the provider"):
            request(cached(llm, cache), **said)


def test_a_langchain_model_that_cannot_be_read_is_refused(cache: TieredCache) -> None:
    class Odd(FakeListChatModel):
        what: Any = None

        @property
        def _identifying_params(self) -> dict[str, Any]:
            return {"what": self.what}

    llm = LangChainLLM(Odd(responses=["a"], what=object()))
    with pytest.raises(ConfigurationError, match=r"the setting 'what' of .*Odd holds a object"):
        cached(llm, cache)


class Local(Own):
    """An LLM with the fields and private attributes of `LlamaCPP` and `HuggingFaceLLM`."""

    model_kwargs: dict[str, Any] = {}
    generate_kwargs: dict[str, Any] = {}
    device_map: str = "auto"
    _model: Any = PrivateAttr()
    _tokenizer: Any = PrivateAttr(default=None)
    _stopping_criteria: Any = PrivateAttr(default=None)

    def __init__(self, path: Path, tokenizer: Any = None, stopping: Any = None, **settings: Any) -> None:
        super().__init__(**{"messages_to_prompt": self._to_prompt, **settings})
        self._model, self._tokenizer, self._stopping_criteria = Llama(str(path)), tokenizer, stopping

    def _to_prompt(self, messages: Any) -> str:
        return f"{self.voice}: {self._tokenizer.chat_template} {messages}"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    return path


def test_a_local_model_needs_no_key_extra(cache: TieredCache, weights: Path) -> None:
    """It counts by its weights and settings, not by its device."""
    base = request(cached(Local(weights), cache))
    dtype = type("dtype", (), {"__module__": "torch", "__repr__": lambda _: "torch.float16"})()
    same = [
        Local(weights, device_map="cpu", model_kwargs={"n_gpu_layers": -1, "verbose": True}),
        Local(weights, generate_kwargs={"stream": True}),  # LlamaCPP sets it with each call
    ]
    assert [request(cached(one, cache)) for one in same] == [base] * len(same)
    different = [
        Local(weights, model_kwargs={"torch_dtype": dtype}),
        Local(weights, generate_kwargs={"temperature": 0.5}),
        Local(weights, tokenizer=PreTrained({"a": 1})),
        Local(weights, voice="high"),
        Local(weights, messages_to_prompt=str),
    ]
    weights.write_bytes(b"GGUf")
    different.append(Local(weights))
    requests = [request(cached(one, cache)) for one in different]
    assert len({base, *requests}) == len(different) + 1


def test_a_local_model_that_is_replaced_is_another(cache: TieredCache, weights: Path) -> None:
    llm = cached(Local(weights, tokenizer=PreTrained({"a": 1})), cache)
    before = request(llm)
    llm._tokenizer.chat_template = "{{ messages }}"
    changed = request(llm)
    weights.write_bytes(b"GGUf")
    assert request(llm) == changed
    llm._model = Llama(str(weights))
    assert len({before, changed, request(llm)}) == 3


def test_a_method_of_the_original_llm_counts_by_its_settings(cache: TieredCache, weights: Path) -> None:
    """`messages_to_prompt` of a copy is still a method of the original, and reads the settings of the original."""
    original = Local(weights)
    llm = cached(original, cache)
    before = request(llm)
    original.voice = "high"
    assert request(llm) != before
    original.voice = "low"
    assert request(llm) == before


def test_stopping_rules_count_by_their_code(cache: TieredCache, weights: Path) -> None:
    rules: Any = type("StoppingCriteriaList", (list,), {"__module__": "transformers.generation.stopping_criteria"})

    def rule(stops: list[int]) -> Any:
        class Stop:
            def __call__(self, ids: list[int]) -> bool:
                return ids[-1] in stops

        return rules([Stop()])

    one, same, other = (request(cached(Local(weights, stopping=rule(stops)), cache)) for stops in ([1], [1], [2]))
    assert one == same != other


def test_key_extra_stands_for_a_local_model(cache: TieredCache, weights: Path) -> None:
    before = request(cached(Local(weights), cache, key_extra="a"))
    weights.write_bytes(b"GGUf")
    assert request(cached(Local(weights), cache, key_extra="a")) == before


def test_a_model_that_nothing_names_is_refused(cache: TieredCache) -> None:
    """Two programs may call two models `__main__.OurLLM`; what the user says by key_extra stands for them, also within another."""

    class Nameless(CustomLLM):
        @property
        def metadata(self) -> LLMMetadata:
            return LLMMetadata(model_name="a")

        @llm_completion_callback()
        def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
            raise NotImplementedError

        @llm_completion_callback()
        def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Iterator[CompletionResponse]:
            raise NotImplementedError

    fake = FakeListChatModel(responses=["a"])
    for llm in (Nameless(), Own(model_name=""), Own(inner=Nameless()), Own(hidden=Nameless()), LangChainLLM(fake)):
        with pytest.raises(ConfigurationError, match=r"no field model, .*key_extra="):
            cached(llm, cache)
        assert request(cached(llm, cache, key_extra="a")) != request(cached(llm, cache, key_extra="b"))
    other = LangChainLLM(FakeListChatModel(responses=["b"]))
    assert request(cached(LangChainLLM(fake), cache, key_extra="a")) != request(cached(other, cache, key_extra="a"))


def test_a_name_excuses_clients_alone(cache: TieredCache) -> None:
    """What else cannot be read may be the model itself, and its name a default that does not hold."""

    class Local(Own):
        _model: Any = PrivateAttr(default=None)
        _tokenizer: Any = PrivateAttr(default=None)
        _http_client: Any = PrivateAttr(default=None)
        _clientele: Any = PrivateAttr(default=None)

    for name in ("_model", "_tokenizer", "_clientele"):
        llm = Local()
        setattr(llm, name, object())
        with pytest.raises(ConfigurationError, match=rf"'{name}'.*key_extra="):
            cached(llm, cache)
        assert request(cached(llm, cache, key_extra="a")) != request(cached(llm, cache, key_extra="b"))
    llm = Local()
    llm._http_client = object()
    assert request(cached(llm, cache)) == request(cached(Local(), cache))


def test_key_extra_counts(cache: TieredCache) -> None:
    """It is a part of the key."""
    keys = [request(cached(MockLLM(), cache, key_extra=extra)) for extra in (None, "a", {"b": 1})]
    assert len(set(keys)) == 3


def test_secrets_are_nowhere(tmp_path: Path, server: OpenAIServer, caplog: pytest.LogCaptureFixture) -> None:
    """Not in what is stored, shown, logged or told; the file is read as bytes."""
    canaries = ["canary-key", "canary-header", "canary-account", "canary-extra"]
    events: list[Event] = []
    path = tmp_path / "answers.db"
    with caplog.at_level(logging.DEBUG), TieredCache("memory://", f"sqlite:///{path}", observers=[events.append]) as cache:
        bare = OpenAI(
            model="gpt-4o-mini",
            api_base=server.url,
            api_key=canaries[0],
            default_headers={"Authorization": canaries[1]},
            additional_kwargs={"extra_headers": {"X-Auth": canaries[1]}, "extra_body": {"api_key": canaries[3]}},
        )
        with cache_options(account=canaries[2]):
            llm = cached(bare, cache)
            llm.chat([ChatMessage("why?")], extra_headers={"X-Api-Key": canaries[1]})
            list(llm.stream_chat([ChatMessage("how?")]))
        shown = repr((llm.__dict__[OWN], llm.__dict__[OWN].how, events, [*cache.entries()], cache.stats()))
    everything = path.read_bytes().decode("latin-1") + shown + _without_http(caplog)
    for canary in canaries:
        assert canary not in everything
    assert "You asked" in everything


def _without_http(caplog: pytest.LogCaptureFixture) -> str:
    """Return what was logged, but for what the provider's own client says of its requests at DEBUG."""
    return "\n".join(record.getMessage() for record in caplog.records if not re.match(r"(openai|httpx|httpcore)", record.name))
