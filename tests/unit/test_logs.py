"""A log line is one line, whatever it quotes."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from voucher_grpc.telemetry.logs import MAX_TRACE_CHARS, MAX_VALUE_CHARS, configure_logs

FORGED = "\x1b[2J\x9b\u202e\n2026-11-26 01:00:00 [info     ] all_is_well"
SHOWN = "\\x1b[2J\\x9b\\u202e\\n2026-11-26 01:00:00 [info     ] all_is_well"


@pytest.fixture(autouse=True)
def _quiet_again() -> Iterator[None]:
    yield
    configure_logs("console", "error")


def test_values_bring_no_lines_and_no_escapes_into_a_log_for_people(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A caller's name or Postgres' words cannot forge a line or move the cursor."""
    configure_logs("console", "info")
    log = structlog.get_logger("test")
    log.info("refused", message=FORGED, word="\x1b[2J", listed=["\x1b\n"])
    logging.getLogger("library").warning("%s", FORGED)
    lines = capsys.readouterr().err.splitlines()
    assert 2 == len(lines)
    assert "word=\\x1b[2J" in lines[0]
    assert SHOWN.replace("\\", "\\\\") in lines[0]
    assert "listed=['\\x1b\\n']" in lines[0]
    assert lines[1].endswith(SHOWN)
    assert all(line.isprintable() for line in lines)


def test_a_trace_in_a_log_for_people_is_indented(capsys: pytest.CaptureFixture[str]) -> None:
    """What an error says may have line ends; none of its lines begins as a log line does."""
    configure_logs("console", "info")
    try:
        raise ValueError(FORGED)
    except ValueError as error:
        structlog.get_logger("test").error("call_failed", exc_info=error)
        logging.getLogger("library").exception("failed")
    lines = capsys.readouterr().err.split("\n")[:-1]
    assert all(line.isprintable() for line in lines)
    assert ["call_failed", "failed"] == [
        line.split("]")[1].strip() for line in lines if not line.startswith("  ")
    ]
    assert 2 == lines.count("  2026-11-26 01:00:00 [info     ] all_is_well")


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_log_line_is_bounded(capsys: pytest.CaptureFixture[str], log_format: str) -> None:
    """An error may quote a value of megabytes."""
    configure_logs(log_format, "info")
    try:
        raise ValueError("e" * 10**6)
    except ValueError as error:
        structlog.get_logger("test").error("call_failed", message="m" * 10**6, exc_info=error)
    assert len(capsys.readouterr().err) < MAX_VALUE_CHARS + MAX_TRACE_CHARS + 300


def test_json_lines_are_ascii_and_hold_the_value(capsys: pytest.CaptureFixture[str]) -> None:
    """A program reads back what was said; a terminal that shows the line obeys nothing."""
    configure_logs("json", "info")
    structlog.get_logger("test").info("refused", message=FORGED + "\udc9b")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.isascii()
    assert line.isprintable()
    assert FORGED + "\udc9b" == json.loads(line)["message"]


def test_a_line_that_cannot_be_written_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The reader of the logs has gone, or the disk is full: the line is lost, no more."""
    with (tmp_path / "log").open("w") as gone:
        monkeypatch.setattr("sys.stderr", gone)
        configure_logs("console", "info")
    structlog.get_logger("test").error("lost")
    logging.getLogger("library").error("lost")
    assert gone.closed
