"""The one way in which commands write to a terminal (`voucher_grpc.printable` says why).

`say` writes a line and escapes whatever is not printable in it, so that no caller can forget it.
A value that shares its line or its table with others is bounded by `printable` or `cell`.
"""

import io
import logging
import sys
from functools import lru_cache

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
from rich.table import Table
from rich.text import Text

from voucher_grpc.printable import MAX_VALUE_CHARS, printable, printable_lines

# Of one line: several values, or an id that is to be copied whole.
MAX_LINE_CHARS = 8_192


@lru_cache(maxsize=2)
def _console(*, err: bool = False) -> Console:
    """Takes text as it is: neither [markup] nor :emoji: codes."""
    return Console(stderr=err, highlight=False, markup=False, emoji=False)


def say(line: object, style: str = "", *, err: bool = False) -> None:
    """Print one line to standard output, or with `err` to standard error."""
    text = Text(printable(line, MAX_LINE_CHARS), style)
    _console(err=err).print(text, soft_wrap=True)


def cell(*lines: object, style: str = "", max_chars: int = MAX_VALUE_CHARS) -> Text:
    """Lines of one cell of a table, each printable and bounded."""
    return Text("\n".join(printable(line, max_chars) for line in lines), style)


def show(table: Table, width: int | None = None) -> None:
    """Print a table, whose values were made by `cell` or are our own."""
    _console().print(table, width=width)


def bar(*columns: ProgressColumn) -> Progress:
    """A bar on standard error, with the task's description first; hidden from a file or a pipe."""
    console = _console(err=True)
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        *columns,
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable_lines(super().format(record))


def prepare() -> None:
    """Before anything is printed: what a stream cannot encode is escaped, and so is what
    libraries log (asyncio, gRPC) as long as no server has set up its logs."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Not "surrogateescape", which makes bytes such as 0x9b, a control character.
            stream.reconfigure(errors="backslashreplace")
    handler = logging.StreamHandler()
    handler.setFormatter(_Lines())
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
