"""What a mutation is, and what can be mutated in a file."""

import difflib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True)
class Change:
    """One way to change one place.

    `lines` are those whose execution a test must reach, `statement` the SQL statement instead.
    """

    operator: str
    lines: range
    statement: str
    make: Callable[[], str]  # the text of the whole file with the change


@dataclass(frozen=True)
class Mutant:
    """A change that has been made to the text of a file."""

    area: str
    path: str
    change: Change
    text: str
    diff: str

    @property
    def key(self) -> str:
        """Tells mutants apart, also from those of another version of the file."""
        return hashlib.sha256(f"{self.path}\0{self.text}".encode()).hexdigest()[:16]

    @property
    def where(self) -> str:
        """The file, and in SQL the statement."""
        name = self.change.statement.partition(".")[2]
        return f"{self.path} {name}" if name else self.path

    @property
    def changed(self) -> list[str]:
        """The lines that differ, without indentation, each after `-` or `+`."""
        return changed_lines(self.diff)


def changed_lines(diff: str) -> list[str]:
    """The lines of a diff that differ, without indentation."""
    return [
        f"{line[0]} {line[1:].strip()}"
        for line in diff.splitlines()
        if line[:1] in {"-", "+"} and not line.startswith(("---", "+++"))
    ]


def unified(path: str, before: str, after: str) -> str:
    """A diff with two lines around what differs."""
    lines = difflib.unified_diff(
        before.splitlines(), after.splitlines(), path, path, lineterm="", n=2
    )
    return "\n".join(lines)
