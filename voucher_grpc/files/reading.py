"""Opening files so that what is wrong with one is a sentence, and none is without bound."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from voucher_grpc.errors import BadInput
from voucher_grpc.files.input import file_error, open_input

# More than this is not a catalogue.
MAX_FILE_BYTES = 256 * 1024 * 1024
_CHUNK_BYTES = 2**20
MAX_EXAMPLES = 10
MAX_REASONS = 50
MAX_NAME_CHARS = 64
MAX_REASON_CHARS = 1_000
_INDEX = re.compile(r"\[\d+\]")


def cannot_open(path: Path, error: OSError) -> BadInput:
    """A file that cannot be opened or read."""
    return file_error(path, f"cannot be read: {error.strerror or error}")


def read_text(path: Path) -> str:
    """The text of a whole file. Raises BadInput if it is absent, empty, too large or not UTF-8."""
    parts: list[bytes] = []
    with open_input(path) as file:
        while data := file.read(_CHUNK_BYTES):
            parts.append(data)
            if file.content_bytes > MAX_FILE_BYTES:
                raise file_error(path, f"has more than {MAX_FILE_BYTES // 2**20} MiB")
    try:
        text = b"".join(parts).decode()
    except UnicodeDecodeError as error:
        raise file_error(path, f"is not UTF-8 (byte {error.start + 1})") from None
    if not text.strip():
        raise file_error(path, "is empty")
    return text


@dataclass(frozen=True, slots=True)
class RefusedEntry:
    """One row or entry that was refused: where in the file, its name there, and why."""

    position: int
    name: str
    reason: str


@dataclass(slots=True)
class Refusals:
    """Counts refusals by kind and keeps the first ones; memory is bounded.

    The same fault in other entries of a list is of the same kind. `each` hears of all of them.
    """

    total: int = 0
    each: Callable[[RefusedEntry], object] | None = None
    reasons: Counter[str] = field(default_factory=Counter)
    examples: list[RefusedEntry] = field(default_factory=list)

    def add(self, position: int, name: str, reason: str, kind: str = "") -> None:
        """Count one; `kind` is the reason without what differs from entry to entry."""
        self.total += 1
        reason = reason[:MAX_REASON_CHARS]
        kind = _INDEX.sub("[]", kind or reason)[:MAX_REASON_CHARS]
        known = kind in self.reasons or len(self.reasons) < MAX_REASONS
        self.reasons[kind if known else "other reasons"] += 1
        entry = RefusedEntry(position, name[:MAX_NAME_CHARS], reason)
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append(entry)
        if self.each is not None:
            self.each(entry)
