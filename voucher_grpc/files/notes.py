"""What was skipped or repaired in reading published data: each with its path and its value."""

from dataclasses import dataclass, field
from enum import StrEnum

MAX_NOTES = 1_000
MAX_VALUE_CHARS = 100


class Treatment(StrEnum):
    """What was done with something that is not as OCPI has it."""

    SKIPPED = "skipped"
    REPAIRED = "repaired"
    KEPT = "kept"


@dataclass(frozen=True, slots=True)
class Note:
    """`path` is within the object, `value` as it was published."""

    path: str
    treatment: Treatment
    text: str
    value: str = ""

    @property
    def kind(self) -> str:
        """The note without the value."""
        return f"{self.path}: {self.treatment}: {self.text}"

    def __str__(self) -> str:
        return f"{self.kind} ({self.value})" if self.value else self.kind


@dataclass(slots=True)
class Notes:
    """The first notes in full, all of them in number."""

    entries: list[Note] = field(default_factory=list)
    total: int = 0

    def add(self, path: str, treatment: Treatment, text: str, value: object = "") -> None:
        """Count one."""
        self.total += 1
        if len(self.entries) < MAX_NOTES:
            shown = "" if value == "" else repr(value)[:MAX_VALUE_CHARS]
            self.entries.append(Note(path, treatment, text, shown))

    def skipped(self, path: str, text: str, value: object = "") -> None:
        self.add(path, Treatment.SKIPPED, text, value)

    def repaired(self, path: str, text: str, value: object = "") -> None:
        self.add(path, Treatment.REPAIRED, text, value)
