"""The server of the oracle's tests, and where their results go."""

from __future__ import annotations

import functools
import os
import ssl
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import requests
from providers.answers import ALL
from providers.embedding_answers import vectors
from providers.page import Results
from providers.recorder import Recorder

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it is fetched on import


_request = requests.Session.request


def _unencrypted(session: Any, method: str, url: str, *args: Any, **kwargs: Any) -> Any:
    """Send a request of Google's client, which always wants encryption, to the local server."""
    return _request(session, method, url.replace("https://127.0.0.1", "http://127.0.0.1"), *args, **kwargs)


@pytest.fixture(scope="module", autouse=True)
def _quick_clients() -> Iterator[None]:
    """Have clients made quickly: each reads the certificates of all authorities, and AWS's its descriptions of services."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("load_verify_locations", "load_default_certs", "set_default_verify_paths"):
            patch.setattr(ssl.SSLContext, name, lambda *_, **__: None)
        patch.setattr(requests.Session, "request", _unencrypted)
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
