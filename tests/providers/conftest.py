"""The server of the oracle's tests, and where their results go."""

from __future__ import annotations

import functools
import os
import ssl
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from providers.answers import ALL
from providers.embedding_answers import vectors
from providers.page import Results
from providers.recorder import Recorder

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it is fetched on import


@pytest.fixture(scope="module", autouse=True)
def _quick_clients() -> Iterator[None]:
    """Have clients made quickly: each reads the certificates of all authorities, and AWS's its descriptions of services."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("load_verify_locations", "load_default_certs", "set_default_verify_paths"):
            patch.setattr(ssl.SSLContext, name, lambda *_, **__: None)
        with suppress(ImportError):
            import botocore.loaders

            patch.setattr(botocore.loaders, "create_loader", functools.cache(botocore.loaders.create_loader))
        yield


@pytest.fixture(scope="session")
def recorder() -> Iterator[Recorder]:
    """A local server that answers as the providers do."""
    with Recorder((vectors, *ALL)) as server:
        yield server


@pytest.fixture(scope="session")
def results() -> Iterator[Results]:
    """The results so far: `make providers` names the file that they are added to."""
    file = os.environ.get("PROVIDERS_RESULTS")
    results = Results.read(Path(file)) if file else Results()
    yield results
    if file:
        results.write(Path(file))
