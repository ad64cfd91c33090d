"""Structured logs."""

import contextlib
import logging
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

import structlog

from voucher_grpc.printable import printable, printable_lines
from voucher_grpc.telemetry.work import current

# Of lines that come in floods.
LINES_PER_S = 20
# Of one value, and of a trace: an error may quote what a caller or a file holds.
MAX_VALUE_CHARS = 4_096
MAX_TRACE_CHARS = 65_536
_GRPC, _CALLER_GONE = "grpc._cython.cygrpc", "ExecuteBatchError"
_TRACES = frozenset({"exception", "stack"})


def with_ids(_logger: Any, _level: str, event: Any) -> Any:
    """The request id of the call, or of the batch's calls, that the line is about."""
    if (work := current()) is not None:
        for name, value in work.ids().items():
            event.setdefault(name, value)
    return event


def bounded(_logger: Any, _level: str, event: Any) -> Any:
    """No value without a bound. Of a trace the end is kept, which says what went wrong."""
    for name, value in event.items():
        if not isinstance(value, str):
            continue
        if name in _TRACES:
            event[name] = value[-MAX_TRACE_CHARS:]
        elif len(value) > MAX_VALUE_CHARS:
            event[name] = f"{value[:MAX_VALUE_CHARS]}..."
    return event


def escaped(_logger: Any, _level: str, event: Any) -> Any:
    """For people: no value brings control characters or lines of its own. JSON escapes by itself,
    and other values than text are shown as Python writes them, which escapes too."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = printable_lines(value) if name in _TRACES else printable(value)
    return event


_SHARED: list[Any] = [
    structlog.contextvars.merge_contextvars,
    with_ids,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.format_exc_info,
    bounded,
]


def configure_logs(log_format: str, log_level: str) -> None:
    """One line an event on standard error, as JSON or for people.

    What libraries say through `logging` (asyncio, gRPC) takes the same form, so
    that a reader of JSON lines meets nothing else.
    """
    renderers: list[Any] = (
        [structlog.processors.JSONRenderer()]
        if log_format == "json"
        else [escaped, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    )
    level, stream = getattr(logging, log_level.upper()), sys.stderr
    structlog.configure(
        processors=[*_SHARED, *renderers],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _LineLogger(stream),
        cache_logger_on_first_use=False,
    )
    handler = _LibraryLines(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    logging.getLogger(_GRPC).filters = [_OfGrpc()]
    # Libraries' chatter below a warning is not for operators.
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING), force=True)


class _LineLogger(structlog.WriteLogger):
    """Each line in one write, as workers share a standard error.

    A line that cannot be written is lost: a log reader that has gone, or a full disk, must not
    stop what logs, such as the probe of the database.
    """

    def msg(self, message: str) -> None:
        """Write one line."""
        with contextlib.suppress(OSError, ValueError):
            super().msg(message)

    log = debug = info = warn = warning = msg
    fatal = failure = err = error = critical = exception = msg


class _LibraryLines(logging.StreamHandler[TextIO]):
    """The same for what libraries log."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """The line is lost."""


class _OfGrpc(logging.Filter):
    """What gRPC logs by itself, without what callers can make it log as often as they like.

    It logs a trace for each answer whose caller has gone, which is not an error.
    """

    def __init__(self) -> None:
        super().__init__()
        self._rate = LogRate()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is logged."""
        if record.exc_info is not None and type(record.exc_info[1]).__name__ == _CALLER_GONE:
            return False
        return self._rate.passes() is not None


class LogRate:
    """Lets so many lines a second through, and counts those it has held back."""

    def __init__(
        self, per_s: int = LINES_PER_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_s = per_s
        self._clock = clock
        self._second = -1
        self._lines = self._held_back = 0

    def passes(self) -> int | None:
        """None if the line is held back, else how many were since the last one."""
        second = int(self._clock())
        if second != self._second:
            self._second, self._lines = second, 0
        if self._lines >= self._per_s:
            self._held_back += 1
            return None
        self._lines += 1
        held_back, self._held_back = self._held_back, 0
        return held_back


def not_logged(held_back: int) -> dict[str, int]:
    """How many lines were left out before this one, where any were."""
    return {"not_logged": held_back} if held_back else {}
