"""Opening files so that what is wrong with one is a sentence, and none is without bound."""

import json
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn

from voucher_grpc.errors import BadInput, bad_field

# More than this is not a catalogue or a page of OCPI objects.
MAX_FILE_BYTES = 256 * 1024 * 1024
MAX_EXAMPLES = 10
MAX_REASONS = 50
MAX_NAME_CHARS = 64
MAX_REASON_CHARS = 1_000


def file_error(path: Path, message: str) -> BadInput:
    """What is wrong with a whole file."""
    return bad_field(str(path), message)


def cannot_open(path: Path, error: OSError) -> BadInput:
    """A file that cannot be opened or read."""
    return file_error(path, f"cannot be read: {error.strerror or error}")


def read_text(path: Path) -> str:
    """The text of a whole file. Raises BadInput if it is absent, empty, too large or not UTF-8."""
    try:
        if path.is_file() and path.stat().st_size > MAX_FILE_BYTES:
            raise file_error(path, f"has more than {MAX_FILE_BYTES // 2**20} MiB")
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise cannot_open(path, error) from None
    except UnicodeDecodeError as error:
        raise file_error(path, f"is not UTF-8 (byte {error.start + 1})") from None
    if not text.strip():
        raise file_error(path, "is empty")
    return text


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def read_json(path: Path) -> Any:
    """A JSON file, its decimals exact. Raises BadInput with line and column of what is wrong."""
    text = read_text(path)
    try:
        return json.loads(text, parse_float=Decimal, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise file_error(path, f"is not JSON: {error.msg} ({where})") from None
    except RecursionError:
        raise file_error(path, "is nested too deeply") from None
    except ValueError as error:
        raise file_error(path, f"is not JSON: {error}") from None


@dataclass(frozen=True, slots=True)
class RefusedEntry:
    """One row or entry that was refused: where in the file, its name there, and why."""

    position: int
    name: str
    reason: str


@dataclass(slots=True)
class Refusals:
    """Counts refusals by reason and keeps the first ones; memory is bounded."""

    total: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    examples: list[RefusedEntry] = field(default_factory=list)

    def add(self, position: int, name: str, reason: str) -> None:
        """Count one."""
        self.total += 1
        reason = reason[:MAX_REASON_CHARS]
        known = reason in self.reasons or len(self.reasons) < MAX_REASONS
        self.reasons[reason if known else "other reasons"] += 1
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append(RefusedEntry(position, name[:MAX_NAME_CHARS], reason))
