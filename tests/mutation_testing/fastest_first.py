"""A plugin of pytest, for many runs of the same tests: each as the one before, the quickest tests first.

Hypothesis draws the same examples in every run, remembers none, and makes none smaller.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import Phase, settings

settings.register_profile("repeatable", derandomize=True, database=None, deadline=None, phases=(Phase.explicit, Phase.generate))
settings.load_profile("repeatable")

_FILE = Path("seconds.json")  # in the copy
_seconds: dict[str, float] = json.loads(_FILE.read_text()) if _FILE.exists() else {}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: _seconds.get(item.nodeid, 0.0))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call":
        _seconds[report.nodeid] = report.duration


def pytest_sessionfinish(exitstatus: int) -> None:
    if exitstatus == 0:
        _FILE.write_text(json.dumps(_seconds))
