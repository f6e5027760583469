"""What the tests share. Behaviour that exists for threads and for tasks is tested in both worlds, by the `world` fixture."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from layered_cache import Event
from layered_cache.testing import FakeClock, OpenAIServer
from support.sync_async import Tasks, Threads, World

pytest_plugins = ["support.server_fixtures", "support.time_report"]

os.environ.setdefault("OPENAI_API_KEY", "none")
os.environ.setdefault("LANGSMITH_TRACING", "false")


@pytest.fixture(autouse=True, scope="module")
def _short_collections() -> None:
    """Keep the garbage collector from going through all that was there before: that takes half a second, of somebody's time budget."""
    gc.collect()
    gc.freeze()


@pytest.fixture(params=[Threads, Tasks], ids=lambda world: world.name)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """One of the two worlds."""
    world = request.param()
    yield world
    world.close()


@pytest.fixture
def clock() -> FakeClock:
    """Time that passes when it is told to."""
    return FakeClock()


@pytest.fixture
def events() -> list[Event]:
    """What happened: give `observers=[events.append]`."""
    return []


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    """A local model that counts its calls."""
    with OpenAIServer() as server:
        yield server


@pytest.fixture
def db(tmp_path: Path) -> str:
    """The URL of a SQLite tier that does not exist yet."""
    return f"sqlite:///{tmp_path / 'answers.db'}"


@pytest.fixture(autouse=True)
def _no_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing of this machine's user decides a test."""
    monkeypatch.setenv("LAYERED_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
    for name in ("OPENAI_BASE_URL", "OPENAI_API_BASE", "OPENAI_ORG_ID", "OPENAI_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _quiet_logs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "layered_cache")
