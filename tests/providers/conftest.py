"""The server of the oracle's tests, and where their results go."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from providers.answers import ALL
from providers.page import Results
from providers.recorder import Recorder, quick_clients

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it is fetched on import


@pytest.fixture(scope="session")
def recorder() -> Iterator[Recorder]:
    """A local server that answers as the providers do."""
    quick_clients()
    with Recorder(ALL) as server:
        yield server


@pytest.fixture(scope="session")
def results() -> Iterator[Results]:
    """The results so far: `make providers` names the file that they are added to."""
    file = os.environ.get("PROVIDERS_RESULTS")
    results = Results.read(Path(file)) if file else Results()
    yield results
    if file:
        results.write(Path(file))
