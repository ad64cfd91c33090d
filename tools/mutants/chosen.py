"""Runs the tests that were chosen, in the order in which they were; a plugin of pytest."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

_TIMED_OUT = 124
_limits_s: dict[str, float] = json.loads(
    Path(os.environ["MUTANTS_CHOSEN"]).read_text(encoding="utf-8")
)
_told: list[str] = []


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Only these, in this order."""
    places = {name: place for place, name in enumerate(_limits_s)}
    items[:] = sorted(
        (item for item in items if item.nodeid in places), key=lambda item: places[item.nodeid]
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Any:
    """A test that runs much longer than it did is ended, and the process with it."""

    def end(*_: object) -> None:
        _tell(item.nodeid)
        sys.stderr.write(f"{item.nodeid} was ended after {_limits_s[item.nodeid]:.0f} s\n")
        os._exit(_TIMED_OUT)

    signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, _limits_s[item.nodeid])
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Tell the first that failed."""
    if report.failed:
        _tell(report.nodeid)


def _tell(name: str) -> None:
    if not _told:
        _told.append(name)
        Path(os.environ["MUTANTS_TOLD"]).write_text(json.dumps(name), encoding="utf-8")
