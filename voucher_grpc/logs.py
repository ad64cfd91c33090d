"""Structured logs."""

import logging
import sys
from typing import Any

import structlog

from voucher_grpc.work import current


def with_ids(_logger: Any, _level: str, event: Any) -> Any:
    """The request id of the call, or of the batch's calls, that the line is about."""
    if (work := current()) is not None:
        for name, value in work.ids().items():
            event.setdefault(name, value)
    return event


_SHARED: list[Any] = [
    structlog.contextvars.merge_contextvars,
    with_ids,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.format_exc_info,
]


def configure_logs(log_format: str, log_level: str) -> None:
    """One line an event on standard error, as JSON or for people.

    What libraries say through `logging` (asyncio, gRPC) takes the same form, so
    that a reader of JSON lines meets nothing else.
    """
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    level = getattr(logging, log_level.upper())
    structlog.configure(
        processors=[*_SHARED, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        # Each line in one write: workers share a standard error.
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    # Libraries' chatter below a warning is not for operators.
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING), force=True)
