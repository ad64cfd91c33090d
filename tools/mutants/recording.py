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
    """How long a test takes, with what it sets up; told once it has passed, by one process."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        return
    _durations_s[report.nodeid] += report.duration
    if report.failed or report.skipped:
        _failed.add(report.nodeid)
    if report.when == "teardown" and report.nodeid not in _failed:
        # At once, since the run may be ended.
        with (folder() / "durations").open("a", encoding="utf-8") as file:
            file.write(json.dumps([report.nodeid, _durations_s[report.nodeid]]) + "\n")
