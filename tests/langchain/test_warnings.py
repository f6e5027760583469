"""Calls that are not cached although the user expects it: one warning each, with the way to change it."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import FakeListChatModel
from layered_cache.adapters.log_once import Once

from langchain_layered_cache import LayeredCache, cached
from langchain_layered_cache._callbacks import model_runs
from langchain_layered_cache._wrapped_models import chat


@pytest.fixture(autouse=True)
def _warnings_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (model_runs, chat):
        monkeypatch.setattr(module, "_once", Once())


@pytest.fixture
def global_cache() -> Iterator[LayeredCache]:
    cache = LayeredCache("memory://")
    set_llm_cache(cache)
    yield cache
    set_llm_cache(None)
    cache.close()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "layered_cache" and record.levelno == logging.WARNING]


@pytest.mark.usefixtures("global_cache")
async def test_stream_of_a_model_that_is_not_wrapped_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    model = FakeListChatModel(responses=["an answer"])
    for _ in range(2):
        assert "".join(str(chunk.content) for chunk in model.stream("q")) == "an answer"
        assert "".join([str(chunk.content) async for chunk in model.astream("q")]) == "an answer"
    [warning] = warnings(caplog)
    assert "Wrap the model: cached(model)" in warning


@pytest.mark.usefixtures("global_cache")
async def test_calls_that_are_cached_do_not_warn(caplog: pytest.LogCaptureFixture) -> None:
    model = FakeListChatModel(responses=["an answer"])
    model.invoke("q")
    await model.ainvoke("q")
    wrapped = cached(model)
    for _ in range(2):
        list(wrapped.stream("a stream"))
        [_ async for _ in wrapped.astream("a stream")]
        wrapped.invoke("a stream")
    assert warnings(caplog) == []


@pytest.mark.usefixtures("global_cache")
def test_stream_without_our_cache_does_not_warn(caplog: pytest.LogCaptureFixture) -> None:
    set_llm_cache(None)
    list(FakeListChatModel(responses=["an answer"]).stream("q"))
    assert warnings(caplog) == []


def test_cached_model_without_any_cache_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    set_llm_cache(None)
    wrapped = cached(FakeListChatModel(responses=["an answer"]))
    wrapped.invoke("q")
    list(wrapped.stream("q"))
    [warning] = warnings(caplog)
    assert "call set_llm_cache(LayeredCache(...))" in warning


def test_cached_model_with_its_cache_off_does_not_warn(caplog: pytest.LogCaptureFixture) -> None:
    set_llm_cache(None)
    cached(FakeListChatModel(responses=["an answer"], cache=False)).invoke("q")
    assert warnings(caplog) == []
