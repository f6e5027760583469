"""Coming from another cache: importers, and the reader behind `legacy=`.

What the other caches hold is written by themselves where they are installed (`make bench` installs them), and always by hand, in the form
in which they write it.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import hashlib
import itertools
import json
import sqlite3
import sys
import threading
import time
import types
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
from langchain_core.caches import BaseCache, InMemoryCache
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import FakeListChatModel
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.prompts import PromptTemplate
from langchain_openai import ChatOpenAI
from layered_cache import ConfigurationError, Policy, TierUnavailableError, cache_options, current_options
from layered_cache.testing import FakeAuthority, FakeTier, OpenAIServer
from pydantic import BaseModel
from pymongo import MongoClient
from support.sync_async import World

import langchain_layered_cache.importers as importers_module
from langchain_layered_cache import LayeredCache, import_mongodb, import_sqlite
from langchain_layered_cache._legacy_cache import Legacy

Answers = list[tuple[str, str, list[str]]]  # prompt, model, and the generations as LangChain writes them out

SECRET = "what nobody shall read"


class Recorder(BaseCache):
    """Never has anything; remembers what it was given."""

    def __init__(self) -> None:
        self.given: list[tuple[str, str, list[Any]]] = []

    def lookup(self, prompt: str, llm_string: str) -> None:
        return None

    def update(self, prompt: str, llm_string: str, return_val: Any) -> None:
        self.given.append((prompt, llm_string, return_val))

    def clear(self, **kwargs: Any) -> None:
        self.given.clear()

    @property
    def answers(self) -> Answers:
        return [(prompt, llm, [dumps(generation) for generation in generations]) for prompt, llm, generations in self.given]


@pytest.fixture(autouse=True)
def _no_cache_is_left() -> Iterator[None]:
    yield
    set_llm_cache(None)


@pytest.fixture
def model(server: OpenAIServer) -> ChatOpenAI:
    """A real client of the local model."""
    return ChatOpenAI(model="gpt-4o-mini", temperature=0, base_url=server.url, api_key="none", max_retries=0)


@pytest.fixture
def cache(db: str) -> Iterator[LayeredCache]:
    """Where answers go to."""
    with contextlib.closing(LayeredCache("memory://", db)) as cache:
        yield cache


def recorded(model: Any, *questions: Any) -> Answers:
    """Ask *questions*; return what LangChain gave its cache to keep."""
    set_llm_cache(recorder := Recorder())
    for question in questions:
        model.invoke(question)
    set_llm_cache(None)
    return recorder.answers


def thousand(model: ChatOpenAI) -> Answers:
    """What was kept of a thousand questions, made of one real one."""
    ((prompt, llm, (response,)),) = recorded(model, "QUESTION")
    return [
        (prompt.replace("QUESTION", f"question {number}"), llm, [response.replace("QUESTION", f"question {number}")])
        for number in range(1000)
    ]


def all_answered(cache: LayeredCache, model: ChatOpenAI, server: OpenAIServer) -> bool:
    """Whether all of the thousand are answered as the model would, without it."""
    server.reset()
    set_llm_cache(cache)
    answers = [model.invoke(f"question {number}").content for number in range(1000)]
    return answers == [f"You asked: question {number}" for number in range(1000)] and server.calls == 0


def imported_of(report: Any) -> tuple[int, dict[str, int]]:
    return report.imported, dict(report.skipped)


# --- the other caches: by hand, and the real ones


def sqlite_by_hand(path: Path, answers: Answers, table: str = "full_llm_cache") -> None:
    columns = "prompt VARCHAR NOT NULL, llm VARCHAR NOT NULL, idx INTEGER NOT NULL, response VARCHAR, PRIMARY KEY (prompt, llm, idx)"
    rows = [(prompt, llm, idx, response) for prompt, llm, responses in answers for idx, response in enumerate(responses)]
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"CREATE TABLE IF NOT EXISTS {table} ({columns})")
        connection.executemany(f"INSERT INTO {table} VALUES (?, ?, ?, ?)", rows)


def community(name: str) -> Any:
    """Return a class of langchain-community, which says at its import that nobody looks after it any more."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(pytest.importorskip("langchain_community.cache"), name)


def sqlite_by_community(path: Path, answers: Answers) -> None:
    fill(other := community("SQLiteCache")(str(path)), answers)
    other.engine.dispose()


def mongodb_by_hand(url: str, answers: Answers) -> None:
    with MongoClient[Any](url) as client:
        documents = [{"prompt": prompt, "llm": llm, "return_val": json.dumps(responses)} for prompt, llm, responses in answers]
        client.get_default_database()["other"].insert_many(documents)


def mongodb_by_its_package(url: str, answers: Answers) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = pytest.importorskip("langchain_mongodb.cache")
    fill(other := package.MongoDBCache(url, "other", MongoClient[Any](url, connect=False).get_default_database().name), answers)
    other.close()


def fill(other: BaseCache, answers: Answers) -> None:
    for prompt, llm, responses in answers:
        other.update(prompt, llm, [written(response) for response in responses])


def written(response: str) -> Any:
    """Return what LangChain wrote out, as LangChain reads it."""
    return importers_module._generation(response)


# --- importers


@pytest.mark.parametrize("write", [sqlite_by_hand, sqlite_by_community])
def test_the_import_of_a_sqlite_file(
    write: Callable[[Path, Answers], None], cache: LayeredCache, db: str, tmp_path: Path, model: ChatOpenAI, server: OpenAIServer
) -> None:
    """All its thousand questions are answered without the model, also in another process."""
    write(tmp_path / "other.db", thousand(model))

    report = import_sqlite(cache, tmp_path / "other.db")

    assert imported_of(report) == (1000, {})
    assert all_answered(cache, model, server)
    with contextlib.closing(LayeredCache("memory://", db)) as another:
        assert all_answered(another, model, server)


@pytest.mark.parametrize("write", [mongodb_by_hand, mongodb_by_its_package])
def test_the_import_of_a_mongodb_collection(
    write: Callable[[str, Answers], None], cache: LayeredCache, mongodb_url: str, model: ChatOpenAI, server: OpenAIServer
) -> None:
    """All its thousand questions are answered without the model."""
    write(mongodb_url, thousand(model))

    with MongoClient[Any](mongodb_url) as client:
        report = import_mongodb(cache, client.get_default_database()["other"])

    assert imported_of(report) == (1000, {})
    assert all_answered(cache, model, server)


def test_what_an_application_has_left_in_its_sqlite_cache(
    cache: LayeredCache, tmp_path: Path, model: ChatOpenAI, server: OpenAIServer
) -> None:
    """The way that users go: the old cache, the import, the new one."""
    other = community("SQLiteCache")(str(tmp_path / "other.db"))
    set_llm_cache(other)
    first = [model.invoke(f"question {number}") for number in range(5)]
    other.engine.dispose()
    assert import_sqlite(cache, tmp_path / "other.db").imported == 5
    server.reset()
    set_llm_cache(cache)

    second = [model.invoke(f"question {number}") for number in range(5)]

    assert server.calls == 0
    assert [(answer.content, answer.response_metadata) for answer in second] == [(a.content, a.response_metadata) for a in first]
    assert cache.stats().saved_tokens == sum(answer.usage_metadata["total_tokens"] for answer in first)
    assert cache.stats().saved_usd > 0


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output_is_imported(cache: LayeredCache, tmp_path: Path, model: ChatOpenAI, server: OpenAIServer, method: Any) -> None:
    """And made again of what was stored."""
    structured = model.with_structured_output(City, method=method)
    sqlite_by_hand(tmp_path / "other.db", recorded(structured, "which?"))
    assert imported_of(import_sqlite(cache, tmp_path / "other.db")) == (1, {})
    server.reset()
    set_llm_cache(cache)

    assert isinstance(structured.invoke("which?"), City)
    assert server.calls == 0


class City(BaseModel):
    """A city."""

    name: str


def test_what_an_older_langchain_has_left(cache: LayeredCache, tmp_path: Path, model: ChatOpenAI, server: OpenAIServer) -> None:
    """Messages with ids, parameters that are null: LangChain's own caches are cold after an upgrade, ours is not."""
    ((prompt, llm, responses),) = recorded(model, "hello")
    older = (
        prompt.replace('"content": "hello"', '"content": "hello", "id": "7"'),
        llm.replace('"kwargs": {', '"kwargs": {"gone": null, ', 1),
    )
    assert older[0] != prompt
    assert older[1] != llm
    sqlite_by_hand(tmp_path / "other.db", [(*older, responses)])
    import_sqlite(cache, tmp_path / "other.db")
    server.reset()
    set_llm_cache(cache)

    assert model.invoke("hello").content == "You asked: hello"
    assert server.calls == 0


def test_several_generations_stay_in_order(cache: LayeredCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever in the table they stand, and where pages end."""
    monkeypatch.setattr(importers_module, "_PAGE", 2)
    texts = {f"prompt {number}": [f"{number} {idx}" for idx in range(number + 1)] for number in range(12)}
    rows = [(prompt, "llm", idx, dumps(Generation(text=text))) for prompt, list_ in texts.items() for idx, text in enumerate(list_)]
    with contextlib.closing(sqlite3.connect(tmp_path / "other.db")) as connection, connection:
        connection.execute("CREATE TABLE full_llm_cache (prompt TEXT, llm TEXT, idx INTEGER, response TEXT)")
        connection.executemany("INSERT INTO full_llm_cache VALUES (?, ?, ?, ?)", sorted(rows, key=lambda row: -row[2]))

    assert imported_of(import_sqlite(cache, tmp_path / "other.db")) == (12, {})
    for prompt, expected in texts.items():
        found = cache.lookup(prompt, "llm")
        assert found is not None
        assert [generation.text for generation in found] == expected


def chat(**fields: Any) -> ChatGeneration:
    return ChatGeneration(message=AIMessage(**{"content": "answer", **fields}))


def unread(value: object) -> str:
    """Return an answer that LangChain writes out and does not read."""
    return dumps(chat(additional_kwargs={"day": value}))


GOOD = dumps(chat())
BAD: dict[str, tuple[list[Any], str]] = {
    "cut off": ([GOOD[:-20]], "unreadable"),
    "with a date": ([unread(dt.date(2026, 1, 1))], "unreadable"),
    "no generation": ([dumps(AIMessage("answer"))], "unreadable"),
    "of another class": ([dumps(PromptTemplate.from_template("{x}"))], "unreadable"),
    "one in two forms": ([GOOD, "answer"], "unreadable"),
    "bytes": ([b"\xff\xfe"], "unreadable"),
    "nothing": ([None], "unreadable"),
    "in part nothing": ([GOOD, None], "unreadable"),
    "deep": (['{"lc":' + "[" * 100_000], "unreadable"),
    "holding a message": ([dumps(chat(additional_kwargs={"said": HumanMessage("x")}))], "not encodable"),
    "empty": ([dumps(chat(content=""))], "empty"),
    "cut by the model": ([dumps(chat(response_metadata={"finish_reason": "length"}))], "length"),
}


@pytest.mark.parametrize("dry_run", [False, True])
def test_what_cannot_be_taken_over_is_skipped(cache: LayeredCache, tmp_path: Path, dry_run: bool, caplog: pytest.LogCaptureFixture) -> None:
    """And counted by reason. The caller is told which; nobody else hears of prompts and answers."""
    llm = f"llm {SECRET}"
    sqlite_by_hand(tmp_path / "other.db", [(f"{name} {SECRET}", llm, responses) for name, (responses, _) in BAD.items()])
    sqlite_by_hand(tmp_path / "other.db", [("good", llm, [GOOD]), ("no key", "[('tool', <function f at 0x7f00>)]", [GOOD])])
    with contextlib.closing(sqlite3.connect(tmp_path / "other.db")) as connection, connection:
        connection.execute("INSERT INTO full_llm_cache VALUES ('first is missing', ?, 1, ?)", (llm, GOOD))
    told: list[tuple[str, str, str]] = []

    report = import_sqlite(cache, tmp_path / "other.db", dry_run=dry_run, on_error=lambda *what: told.append(what))

    expected = {f"{name} {SECRET}": reason for name, (_, reason) in BAD.items()}
    expected |= {"first is missing": "unreadable", "no key": "uncacheable"}
    assert {prompt: reason for reason, prompt, _ in told} == expected
    assert {said for _, _, said in told} == {llm, "[('tool', <function f at 0x7f00>)]"}
    assert report.imported == 1
    assert report.skipped == {"unreadable": 10, "uncacheable": 1, "not encodable": 1, "empty": 1, "length": 1}
    assert (cache.lookup("good", llm) is None) is dry_run
    assert all(cache.lookup(prompt, llm) is None for prompt in expected)
    assert SECRET not in repr(report) + caplog.text


def test_documents_that_cannot_be_taken_over(cache: LayeredCache, mongodb_url: str) -> None:
    """Of other caches, or damaged."""
    bad: list[Any] = [
        {},
        {"return_val": 7},
        {"return_val": "["},
        {"return_val": "7"},
        {"return_val": "[]"},
        {"return_val": '["bare text"]'},
    ]
    with MongoClient[Any](mongodb_url) as client:
        collection = client.get_default_database()["other"]
        collection.insert_many([{"prompt": "p", "llm": "m", **fields} for fields in bad])
        collection.insert_many(
            [{"llm": "m", "return_val": json.dumps([GOOD])}, {"prompt": "q", "llm": "m", "return_val": json.dumps([GOOD])}]
        )

        report = import_mongodb(cache, collection)

    assert imported_of(report) == (1, {"unreadable": 7})
    assert cache.lookup("p", "m") is None
    assert cache.lookup("q", "m") is not None


def test_what_on_error_raises_ends_the_import(cache: LayeredCache, tmp_path: Path) -> None:
    """For those who want all or nothing; for that, a dry run first."""
    sqlite_by_hand(tmp_path / "other.db", [("p", "m", ["{"]), ("q", "m", ['{"lc": 1']), ("r", "m", [GOOD])])

    def refuse(reason: str, prompt: str, llm: str) -> None:
        raise LookupError(reason, prompt)

    with pytest.raises(LookupError) as caught:
        import_sqlite(cache, tmp_path / "other.db", on_error=refuse)
    assert caught.value.args == ("unreadable", "q")
    assert cache.lookup("r", "m") is None


def test_only_generations_and_messages_are_made_of_what_is_stored(
    cache: LayeredCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever can write into the other cache makes no client of it, and reads no secret of this process."""
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    key = {"lc": 1, "type": "secret", "id": ["OPENAI_API_KEY"]}
    made = {"lc": 1, "type": "constructor", "id": ["langchain", "chat_models", "openai", "ChatOpenAI"], "kwargs": {"api_key": key}}
    texts = [GOOD.replace('"type": "ai"', f'"type": "ai", "additional_kwargs": {{"x": {json.dumps(value)}}}') for value in (made, key)]
    texts.append(GOOD.replace('"answer"', json.dumps(key)))
    assert GOOD not in texts
    sqlite_by_hand(tmp_path / "other.db", [(f"p{number}", "m", [text]) for number, text in enumerate(texts)])

    report = import_sqlite(cache, tmp_path / "other.db")

    assert report.skipped["unreadable"] >= 2
    assert cache.lookup("p0", "m") is None
    assert SECRET not in str(cache.lookup("p1", "m"))


@pytest.mark.parametrize("usage", [None, {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}])
def test_the_mark_of_a_hit_is_taken_off(cache: LayeredCache, tmp_path: Path, usage: Any) -> None:
    """LangChain writes it, and does not read it, where there was no usage."""
    message = AIMessage("answer", usage_metadata=usage)
    hit = ChatGeneration(message=message.model_copy(update={"usage_metadata": {**(usage or {}), "total_cost": 0}}))
    sqlite_by_hand(tmp_path / "other.db", [("p", "m", [dumps(hit)])])

    assert import_sqlite(cache, tmp_path / "other.db").imported == 1
    assert cache.lookup("p", "m") == [ChatGeneration(message=message)]


def test_bare_texts_of_the_first_releases(cache: LayeredCache, tmp_path: Path) -> None:
    """They are the answers of plain LLMs."""
    file = tmp_path / "why? 100% #1.db"
    sqlite_by_hand(file, [("p", "m", ["one", '{"two": 2}'])])

    assert import_sqlite(cache, file).imported == 1
    assert cache.lookup("p", "m") == [Generation(text="one"), Generation(text='{"two": 2}')]


def test_what_is_removed_while_an_import_runs_stays_removed(cache: LayeredCache, tmp_path: Path) -> None:
    """And the report says so."""
    sqlite_by_hand(tmp_path / "other.db", [("a", "m", ['{"lc": 1']), ("b", "m", [GOOD])])

    report = import_sqlite(cache, tmp_path / "other.db", on_error=lambda *_: cache.clear())

    assert imported_of(report) == (0, {"unreadable": 1, "invalidated": 1})
    assert cache.lookup("b", "m") is None
    assert import_sqlite(cache, tmp_path / "other.db").imported == 1
    assert cache.lookup("b", "m") is not None


def test_an_import_for_a_tenant(cache: LayeredCache, tmp_path: Path) -> None:
    """Goes by the options around it, as calls do."""
    sqlite_by_hand(tmp_path / "other.db", [("p", "m", [GOOD])])
    with cache_options(namespace="tenant", tags=["old"]):
        assert import_sqlite(cache, tmp_path / "other.db").imported == 1
        assert cache.lookup("p", "m") is not None

    assert cache.lookup("p", "m") is None
    cache.invalidate(tag="old", namespace="tenant")
    with cache_options(namespace="tenant"):
        assert cache.lookup("p", "m") is None


class Importing(FakeListChatModel):
    """Takes a file over when it is asked."""

    file: Path
    into: Any

    def _generate(self, *args: Any, **kwargs: Any) -> Any:
        import_sqlite(self.into, self.file)
        return super()._generate(*args, **kwargs)


def test_an_import_inside_of_a_call(cache: LayeredCache, tmp_path: Path, model: ChatOpenAI, server: OpenAIServer) -> None:
    """Is no part of it: the parameters of the one model are not those of the others whose answers these are."""
    sqlite_by_hand(tmp_path / "other.db", recorded(model, "hello"))
    set_llm_cache(cache)
    Importing(responses=["a"], file=tmp_path / "other.db", into=cache).invoke("go")
    server.reset()

    assert model.invoke("hello").content == "You asked: hello"
    assert server.calls == 0


def test_the_source_is_only_read_and_never_held(cache: LayeredCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An application that writes into it meanwhile need not wait, and the file is as it was."""
    monkeypatch.setattr(importers_module, "_PAGE", 3)
    monkeypatch.setattr(importers_module, "_BATCH", 2)
    file = tmp_path / "other.db"
    sqlite_by_hand(file, [(f"p{number}", "m", [GOOD if number % 2 else '{"lc": 1']) for number in range(10)])
    before = hashlib.sha256(file.read_bytes()).digest()
    assert import_sqlite(cache, file, dry_run=True).imported == 5
    assert hashlib.sha256(file.read_bytes()).digest() == before

    def write(reason: str, prompt: str, llm: str) -> None:
        with contextlib.closing(sqlite3.connect(file, timeout=0)) as connection, connection:
            connection.execute("INSERT INTO full_llm_cache VALUES (?, 'm', 0, ?)", (f"a{prompt}", GOOD))

    assert imported_of(import_sqlite(cache, file, on_error=write)) == (5, {"unreadable": 5})
    assert import_sqlite(cache, file).imported == 10


def test_an_import_without_a_lasting_tier_is_refused(tmp_path: Path) -> None:
    """What could not be told from void later would be lost with the process."""
    sqlite_by_hand(tmp_path / "other.db", [("p", "m", [GOOD])])
    tier = FakeAuthority()
    tier.log_is_broken = True
    with contextlib.closing(LayeredCache("memory://", tier)) as cache:
        with pytest.raises(TierUnavailableError, match="authority: import: its invalidation log cannot be read"):
            import_sqlite(cache, tmp_path / "other.db")
        assert not tier.held


def test_an_import_waits_for_tiers_that_are_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And ends with an error when they do not come: what waits to be written is bounded, and the oldest would be dropped."""
    monkeypatch.setattr(importers_module, "_BATCH", 10)
    sqlite_by_hand(tmp_path / "other.db", [(f"p{number}", "m", [GOOD]) for number in range(100)])
    for policy in (Policy(), Policy(write="behind", queue_bytes=20_000)):
        tier = FakeAuthority(latency=0.01)
        with contextlib.closing(LayeredCache("memory://", tier, policy=policy)) as cache:
            assert import_sqlite(cache, tmp_path / "other.db").imported == 100
            assert cache.stats().dropped == 0

    monkeypatch.setattr(importers_module, "_PATIENCE", 0.1)
    broken = FakeTier("broken")
    broken.broken = True
    with contextlib.closing(LayeredCache("memory://", broken, FakeAuthority())) as cache:
        with pytest.raises(TierUnavailableError, match="import again when all tiers are there"):
            import_sqlite(cache, tmp_path / "other.db")
        broken.broken = False


def test_other_databases_are_read_through_sqlalchemy(cache: LayeredCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By an engine or a URL; tables may have other names; errors show no prompts."""
    sqlalchemy = pytest.importorskip("sqlalchemy")
    monkeypatch.setattr(importers_module, "_PAGE", 2)
    file = tmp_path / "other.db"
    sqlite_by_hand(file, [(f"p{number} {SECRET}", "m", [GOOD, GOOD]) for number in range(5)], '"my""table"')
    sqlite_by_hand(file, [])
    engine = sqlalchemy.create_engine(f"sqlite:///{file}")

    for source in (engine, f"sqlite+pysqlite:///{file}", f"sqlite:///{file}", str(file)):
        assert imported_of(import_sqlite(cache, source, table='my"table', dry_run=True)) == (5, {})
        assert imported_of(import_sqlite(cache, source)) == (0, {})
    assert import_sqlite(cache, engine, table='my"table').imported == 5
    with pytest.raises(sqlalchemy.exc.OperationalError, match="no such table: nothing"):
        import_sqlite(cache, engine, table="nothing")

    pages = itertools.count()

    @sqlalchemy.event.listens_for(engine, "before_cursor_execute")
    def fail(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        if next(pages):
            cursor.execute("SELECT nothing")

    with pytest.raises(Exception) as caught:
        import_sqlite(cache, engine, table='my"table')
    assert SECRET not in str(caught.value)
    engine.dispose()


def test_a_table_of_the_cache_that_keys_by_md5(cache: LayeredCache, tmp_path: Path, model: ChatOpenAI) -> None:
    """It has the prompt too, in a table of another name."""
    sqlalchemy = pytest.importorskip("sqlalchemy")
    other = community("SQLAlchemyMd5Cache")(engine := sqlalchemy.create_engine(f"sqlite:///{tmp_path / 'other.db'}"))
    fill(other, recorded(model, "one", "two"))
    engine.dispose()

    assert imported_of(import_sqlite(cache, tmp_path / "other.db", table="full_md5_llm_cache")) == (2, {})


def test_wrong_arguments(cache: LayeredCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Say what is allowed, and make no file."""
    with pytest.raises(ConfigurationError, match=r"there is no file .*other\.db: give the path"):
        import_sqlite(cache, tmp_path / "other.db")
    assert not (tmp_path / "other.db").exists()
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    with pytest.raises(ConfigurationError, match="pip install sqlalchemy"):
        import_sqlite(cache, "postgresql://localhost/llm")
    with (
        contextlib.closing(sqlite3.connect(":memory:")) as connection,
        pytest.raises(ConfigurationError, match=r"source must be .* an SQLAlchemy engine, not a Connection"),
    ):
        import_sqlite(cache, connection)  # type: ignore
    sqlite_by_hand(tmp_path / "other.db", [])
    with pytest.raises(ConfigurationError, match="into a LayeredCache, not into a TieredCache"):
        import_sqlite(cache.engine, tmp_path / "other.db")  # type: ignore


def test_a_file_that_is_damaged(cache: LayeredCache, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Is no reason to show what is in it."""
    sqlite_by_hand(tmp_path / "other.db", [("p", "m", [GOOD])])
    with contextlib.closing(sqlite3.connect(tmp_path / "other.db")) as connection, connection:
        connection.execute(f"INSERT INTO full_llm_cache VALUES (CAST(x'ff' || '{SECRET}' AS TEXT), 'm', 0, 'x')")

    with pytest.raises(sqlite3.DataError, match="recover") as caught:
        import_sqlite(cache, tmp_path / "other.db")
    assert SECRET not in str(caught.value) + caplog.text


# --- another cache, asked on a miss


class Other(BaseCache):
    """Answers with what it is told to."""

    def __init__(self, answer: Callable[[], Any]) -> None:
        self.answer = answer
        self.asked: list[tuple[str, str]] = []

    def lookup(self, prompt: str, llm_string: str) -> Any:
        self.asked.append((prompt, llm_string))
        return self.answer()

    def update(self, prompt: str, llm_string: str, return_val: Any) -> None:
        raise AssertionError

    def clear(self, **kwargs: Any) -> None:
        raise AssertionError


def test_a_redis_cache_is_asked(world: World, redis_url: str, model: ChatOpenAI, server: OpenAIServer) -> None:
    """langchain-community's keeps digests of what was asked, so that nothing but to ask it helps."""
    RedisCache, AsyncRedisCache = community("RedisCache"), community("AsyncRedisCache")
    told: list[str] = []
    with redis.Redis.from_url(redis_url) as client:
        set_llm_cache(RedisCache(client))
        first = model.invoke("hello")
        ((prompt, llm, _),) = recorded(model, "hello")

        found = world.call(Legacy(RedisCache(client), told.append), "lookup", prompt, llm)

        assert found[0].message.content == first.content
        assert found[0].message.usage_metadata == first.usage_metadata
        assert world.call(Legacy(RedisCache(client), told.append), "lookup", "another", llm) is None
        assert told == []
    asynchronous = redis.asyncio.Redis.from_url(redis_url)
    found = world.call(Legacy(AsyncRedisCache(asynchronous), told.append), "lookup", prompt, llm)
    if world.name == "tasks":
        assert found[0].message.content == first.content
        world.loop.run_until_complete(asynchronous.aclose())
    else:
        assert (found, told) == (None, ["it raised NotImplementedError"])


def test_it_is_asked_with_langchains_own_texts(world: World) -> None:
    """And its answer is a list, whatever kind of sequence it was."""
    answer = (Generation(text="one"), Generation(text="two"))
    legacy = Legacy(other := Other(lambda: answer))

    found = world.call(legacy, "lookup", "the prompt", "the model")

    assert found == list(answer)
    assert type(found) is list
    assert other.asked == [("the prompt", "the model")]


@pytest.mark.parametrize(
    "text", [GOOD, unread(dt.date(2026, 1, 1)), GOOD[:30], '\n{ "lc" :1, "x'], ids=["whole", "with a date", "cut off", "spaced"]
)
def test_what_another_cache_could_not_read_is_no_answer(world: World, text: str) -> None:
    """langchain-community's give the text that they failed to load for the answer."""
    told: list[str] = []
    for generations in ([Generation(text=text)], [Generation(text="fine"), Generation(text=text)], [chat(content=text)]):
        assert world.call(Legacy(Other(lambda: generations), told.append), "lookup", "p", "m") is None  # noqa: B023
    assert told == ["it could not read what it holds"] * 3


def test_the_real_one_gives_its_texts_away(tmp_path: Path) -> None:
    """This is why."""
    other = community("SQLiteCache")(str(tmp_path / "other.db"))
    other.update("p", "m", [chat(additional_kwargs={"day": dt.date(2026, 1, 1)})])
    told: list[str] = []

    assert other.lookup("p", "m")[0].text.startswith('{"lc"')
    assert Legacy(other, told.append).lookup("p", "m") is None
    assert told == ["it could not read what it holds"]
    other.engine.dispose()


@pytest.mark.parametrize("found", [[], (), "text", ["text"], [None], 7, {"a": 1}, iter([Generation(text="x")])])
def test_what_is_no_answer(world: World, found: Any) -> None:
    """LangChain itself would stumble over it."""
    told: list[str] = []

    assert world.call(Legacy(Other(lambda: found), told.append), "lookup", "p", "m") is None
    assert told == ["it returned something else than generations"]


def test_nothing_that_it_raises_gets_out(world: World) -> None:
    """Nor does what the error says, which may be what was asked."""
    told: list[str] = []

    def poison() -> Any:
        raise NotImplementedError(SECRET)

    legacy = Legacy(Other(poison), told.append)

    assert [world.call(legacy, "lookup", "p", "m") for _ in range(2)] == [None, None]
    assert told == ["it raised NotImplementedError"] * 2


class MyMessage(AIMessage):
    """A user's own."""


def test_answers_that_would_not_come_back_equal(world: World) -> None:
    """Are left to the model."""
    told: list[str] = []

    assert world.call(Legacy(Other(lambda: [ChatGeneration(message=MyMessage(SECRET))]), told.append), "lookup", "p", "m") is None
    assert "MyMessage" in told[0]
    assert SECRET not in told[0]


def test_nothing_is_shared_with_it(world: World) -> None:
    """LangChain's own cache hands out the very objects that it keeps, and LangChain writes into them."""
    kept = chat(tool_calls=[{"name": "a", "args": {"x": 1}, "id": "1"}], id="run--1")
    kept.message.usage_metadata = {"total_cost": 0}  # type: ignore
    other = InMemoryCache()
    other.update("p", "m", [kept])
    legacy = Legacy(other)

    first, second = (world.call(legacy, "lookup", "p", "m")[0].message for _ in range(2))
    first.tool_calls[0]["args"]["x"] = 2
    first.content = "poison"

    assert (second.content, second.tool_calls[0]["args"], second.usage_metadata) == ("answer", {"x": 1}, None)
    assert (kept.message.content, kept.message.tool_calls[0]["args"]) == ("answer", {"x": 1})
    assert len({first.id, second.id, kept.message.id}) == 3


def test_its_warnings_are_no_errors() -> None:
    """Where warnings are errors, as here, caches that call `loads` as they always did could read nothing."""
    module: Any = types.ModuleType("langchain_elsewhere.cache")
    exec("from langchain_core.load.load import loads\ndef read(text): return [loads(text)]\n", module.__dict__)

    told: list[str] = []
    found = Legacy(Other(lambda: module.read(GOOD)), told.append).lookup("p", "m")

    assert told == []
    assert found == [chat()]


def test_the_real_one_reads_where_warnings_are_errors(tmp_path: Path) -> None:
    """As above, with langchain-community's."""
    other = community("SQLiteCache")(str(tmp_path / "other.db"))
    other.update("p", "m", [chat()])

    assert Legacy(other).lookup("p", "m") == [chat()]
    other.engine.dispose()


def test_whoever_keeps_calls_waiting_in_vain_is_left_alone(world: World) -> None:
    """Ten times as long; and is asked again then. Answers may take their time, for a model would take longer."""
    now, takes = [0.0], [5.0]
    answers: list[Any] = []

    def slowly() -> Any:
        now[0] += takes[0]
        return answers or None

    told: list[str] = []
    legacy = Legacy(other := Other(slowly), told.append, clock=lambda: now[0])
    assert [world.call(legacy, "lookup", "p", "m") for _ in range(3)] == [None] * 3
    assert len(other.asked) == 1
    assert told == ["it gave nothing in 5 s: it is not asked for 50 s"]

    now[0] += 50
    answers.append(Generation(text="x"))
    assert [world.call(legacy, "lookup", "p", "m") for _ in range(3)] == [answers] * 3
    answers.clear()
    takes[0] = 0.1
    assert [world.call(legacy, "lookup", "p", "m") for _ in range(3)] == [None] * 3
    assert len(other.asked) == 7


class Frozen(Other):
    """Never answers, until its gate is opened."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        super().__init__(lambda: self.gate.wait() and None)


class FrozenTask(Frozen):
    """The same as a coroutine."""

    async def alookup(self, prompt: str, llm_string: str) -> Any:
        self.asked.append((prompt, llm_string))
        await asyncio.Event().wait()


@pytest.mark.parametrize("kind", [Frozen, FrozenTask])
def test_one_that_is_frozen_is_not_waited_for(world: World, kind: type[Frozen]) -> None:
    """Nor asked again for ten times as long."""
    told: list[str] = []
    now = [0.0]
    legacy = Legacy(other := kind(), told.append, clock=lambda: now[0], patience=0.05)
    try:
        assert [world.call(legacy, "lookup", "p", "m") for _ in range(3)] == [None] * 3
        assert len(other.asked) == len(told) == 1
        now[0] = 0.51
        assert world.call(legacy, "lookup", "p", "m") is None
        assert len(other.asked) == len(told) == 2
    finally:
        other.gate.set()


async def test_one_that_is_frozen_takes_no_thread_of_the_loop() -> None:
    """However many ask: two threads of ours hang, the others go on, and one of them tells it."""
    told: list[str] = []
    legacy = Legacy(other := Frozen(), told.append, patience=0.1)
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    try:
        async with asyncio.timeout(30):
            calls = [asyncio.create_task(legacy.alookup("p", "m")) for _ in range(40)]
            await asyncio.sleep(0.01)
            await asyncio.to_thread(lambda: None)
            assert await asyncio.gather(*calls) == [None] * 40
    finally:
        other.gate.set()
    assert (len(other.asked), len(told)) == (2, 1)


async def test_one_that_is_busy_is_not_taken_for_frozen() -> None:
    """Who waits in line for too long goes on without it, and nobody is kept from it by that."""
    told: list[str] = []
    legacy = Legacy(Other(lambda: time.sleep(0.04)), told.append, patience=0.3)

    await asyncio.gather(*(legacy.alookup("p", "m") for _ in range(40)))
    assert told == []


def test_a_timeout_of_its_own_is_an_error_like_any_other(world: World) -> None:
    told: list[str] = []

    def give_up() -> Any:
        raise TimeoutError(SECRET)

    assert world.call(Legacy(Other(give_up), told.append), "lookup", "p", "m") is None
    assert told == ["it raised TimeoutError"]


def test_it_is_asked_in_the_context_of_the_caller(world: World) -> None:
    """What `with cache_options(...)` says holds for it, too, if it is one of ours."""
    legacy = Legacy(Other(lambda: [Generation(text=str(current_options().namespace))]))
    with cache_options(namespace="tenant"):
        assert world.call(legacy, "lookup", "p", "m")[0].text == "tenant"


def test_it_takes_caches_of_langchain_only() -> None:
    """And says so at once."""
    with pytest.raises(ConfigurationError, match=r"legacy must be a LangChain cache .*, not str"):
        Legacy("redis://")  # type: ignore


def test_it_shows_whose_it_is() -> None:
    """And nothing of what it holds."""
    assert repr(Legacy(InMemoryCache())) == "Legacy(InMemoryCache)"
