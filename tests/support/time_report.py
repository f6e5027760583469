"""A pytest plugin: print how many seconds the tests of each folder took.

The seconds of set-up, call and tear-down of a test count. With several processes their sum exceeds the wall time.
"""

from __future__ import annotations

from collections import Counter
from pathlib import PurePosixPath

import pytest

_seconds: Counter[str] = Counter()
_tests: Counter[str] = Counter()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add the duration of one phase of a test to its folder."""
    folder = str(PurePosixPath(report.nodeid.partition("::")[0]).parent)
    _seconds[folder] += report.duration
    _tests[folder] += report.when == "call"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table."""
    terminalreporter.section("seconds per folder")
    for folder, seconds in _seconds.most_common():
        terminalreporter.write_line(f"{seconds:8.1f} s  {_tests[folder]:5} tests  {folder}")
