"""Which test executes which lines, and how long it takes: a plugin of pytest."""

import json
import os
from collections import defaultdict
from typing import Any

import coverage
import pytest

from tools.mutants.statements import TEST_VARIABLE, folder

_durations_s: dict[str, float] = defaultdict(float)
_failed: set[str] = set()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Any:
    """All that runs from here on is run by this test."""
    os.environ[TEST_VARIABLE] = item.nodeid
    if (running := coverage.Coverage.current()) is not None:
        running.switch_context(item.nodeid)
    try:
        return (yield)
    finally:
        if running is not None:
            running.switch_context("")
        del os.environ[TEST_VARIABLE]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """How long a test takes, with what it sets up."""
    _durations_s[report.nodeid] += report.duration
    if report.failed or report.skipped:
        _failed.add(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """The controlling process hears of all tests and writes them down."""
    if not hasattr(session.config, "workerinput"):
        passed = {name: s for name, s in _durations_s.items() if name not in _failed}
        found = {"durations_s": passed, "left_out": sorted(_failed)}
        (folder() / "tests.json").write_text(json.dumps(found), encoding="utf-8")
