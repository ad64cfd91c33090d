"""What the clients of a run wanted and what they were told, written down by themselves.

Nothing here was read from the service's database: this is what it is held against.
Times are seconds since 1970 by the machine's clock, which is Postgres's too.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from uuid import UUID


class Told(StrEnum):
    """What an answer leaves its caller knowing."""

    DONE = "done"
    REFUSED = "refused"
    UNCLEAR = "unclear"


@dataclass(frozen=True, slots=True)
class PassTold:
    """A pass as an answer showed it."""

    user_id: str
    pass_id: str
    request_id: str
    product_id: str
    product_revision: int
    price_micros: int
    reference: str
    vehicle_id: str
    purchase_time_s: float
    state: str = "ACTIVE"
    hold_expire_s: float | None = None
    refund_micros: int | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One call and what it was told; `code` and `reason` as the status had them."""

    sent_s: float
    heard_s: float
    server: int
    told: Told
    code: str = "OK"
    reason: str = ""
    named_pass_id: str = ""
    told_pass: PassTold | None = None


@dataclass(frozen=True, slots=True)
class OfferHeld:
    """An offer in a buyer's hand."""

    offer_id: str
    digest: bytes
    user_id: str
    product_id: str
    product_revision: int
    price_micros: int
    expire_s: float
    genuine: bool = True


@dataclass(slots=True)
class Tried:
    """Something that is tried until it is clear what became of it."""

    attempts: list[Attempt] = field(default_factory=list, kw_only=True)

    def with_outcome(self, told: Told) -> list[Attempt]:
        """The attempts that were told so."""
        return [attempt for attempt in self.attempts if attempt.told is told]

    @property
    def clear(self) -> bool:
        """Whether the last thing heard leaves no doubt."""
        return bool(self.attempts) and self.attempts[-1].told is not Told.UNCLEAR

    @property
    def first_sent_s(self) -> float:
        """When it was first tried."""
        return min(attempt.sent_s for attempt in self.attempts)

    @property
    def reason(self) -> str:
        """Why it was refused in the end; empty if it was not, or is not clear."""
        return self.attempts[-1].reason if self.clear else ""


@dataclass(slots=True)
class Purchase(Tried):
    """A wish to buy: a key with its content. A hold has no reference."""

    user_id: str
    request_id: UUID
    offer: OfferHeld
    vehicle_id: str
    reference: str
    amount_micros: int
    scenario: str
    claimed_user_id: str = ""
    validate_only: bool = False
    held: bool = False

    def other(self, **changes: Any) -> "Purchase":
        """Another wish that differs in these; not tried yet."""
        return dataclasses.replace(self, attempts=[], **changes)

    @property
    def key(self) -> tuple[str, UUID]:
        """What must name one pass."""
        return self.user_id, self.request_id

    @property
    def content(self) -> tuple[bytes, str, str, int]:
        """What must be the same under the same key."""
        return self.offer.digest, self.vehicle_id, self.reference, self.amount_micros

    @property
    def acknowledged(self) -> bool:
        """Whether any answer said that it is bought."""
        return not self.validate_only and any(a.told is Told.DONE for a in self.attempts)

    @property
    def shown(self) -> PassTold | None:
        """The pass as it was first shown."""
        done = self.with_outcome(Told.DONE)
        return done[0].told_pass if done else None


@dataclass(slots=True)
class Confirmation(Tried):
    """A wish to pay for a hold."""

    user_id: str
    pass_id: str
    reference: str
    amount_micros: int
    scenario: str


@dataclass(slots=True)
class Cancellation(Tried):
    """A wish to end a pass or a hold."""

    user_id: str
    pass_id: str
    scenario: str


@dataclass(frozen=True, slots=True)
class ReadBack:
    """A buyer asked for a pass that was acknowledged before; `reason` is empty if it was shown."""

    user_id: str
    pass_id: str
    server: int
    reason: str


@dataclass(frozen=True, slots=True)
class EventKept:
    """An event that a reader has dealt with, with the cursor it keeps."""

    cursor: str
    event_id: str
    user_id: str
    event_seq: int
    pass_id: str
    event_type: str
    time_s: float
    refund_micros: int | None = None
    refund_reference: str = ""


@dataclass(slots=True)
class ReaderLog:
    """What a reader has dealt with, in its order; `starts` counts its lives."""

    name: str
    kept: list[EventKept] = field(default_factory=list)
    starts: int = 0


@dataclass(slots=True)
class Journal:
    """All of a run."""

    purchases: list[Purchase] = field(default_factory=list)
    confirmations: list[Confirmation] = field(default_factory=list)
    cancellations: list[Cancellation] = field(default_factory=list)
    read_back: list[ReadBack] = field(default_factory=list)
    readers: list[ReaderLog] = field(default_factory=list)
    # (method, code, reason) of every call that did not end well.
    failures: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    # What a server did that it must not, whoever called: it ended by itself.
    misbehaved: list[str] = field(default_factory=list)

    def tried(self) -> list[Tried]:
        """All wishes."""
        return [*self.purchases, *self.confirmations, *self.cancellations]

    def acknowledged(self) -> int:
        """How many purchases were acknowledged, each key once."""
        return len({p.key for p in self.purchases if p.acknowledged})

    def refusals(self) -> Counter[str]:
        """How many wishes ended in which refusal."""
        return Counter(t.reason for t in self.tried() if t.reason)

    def resolved(self) -> int:
        """How many had an outcome that was not clear, and then one that was."""
        return sum(1 for t in self.tried() if t.clear and t.with_outcome(Told.UNCLEAR))

    def lines(self) -> Iterator[dict[str, Any]]:
        """All of it, for a file."""
        for wish in self.tried():
            yield {type(wish).__name__: _plain(dataclasses.asdict(wish))}
        for read in self.read_back:
            yield {"read_back": dataclasses.asdict(read)}
        for reader in self.readers:
            yield {"reader": dataclasses.asdict(reader)}


def _plain(found: Any) -> Any:
    if isinstance(found, dict):
        return {name: _plain(value) for name, value in found.items()}
    if isinstance(found, list):
        return [_plain(value) for value in found]
    if isinstance(found, bytes):
        return found.hex()
    return str(found) if isinstance(found, UUID) else found
