"""Events: what happens to passes, as other systems receive it."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from voucher_grpc.money import Money


class EventType(StrEnum):
    """The types that can be asked for; the same list as `EventType` in event_service.proto."""

    PASS_PURCHASED = "PASS_PURCHASED"  # noqa: S105
    PASS_HELD = "PASS_HELD"  # noqa: S105
    PASS_LAPSED = "PASS_LAPSED"  # noqa: S105
    PASS_CANCELLED = "PASS_CANCELLED"  # noqa: S105
    PASS_EXPIRED = "PASS_EXPIRED"  # noqa: S105
    PASS_AUTHORIZED = "PASS_AUTHORIZED"  # noqa: S105
    PASS_CAPTURED = "PASS_CAPTURED"  # noqa: S105
    PASS_RELEASED = "PASS_RELEASED"  # noqa: S105
    PASS_REVERSED = "PASS_REVERSED"  # noqa: S105
    PASS_EXHAUSTED = "PASS_EXHAUSTED"  # noqa: S105


@dataclass(frozen=True, slots=True)
class Event:
    """What has happened to a pass.

    `event_seq` numbers the user's events. The type is a text: a newer server may have
    written one that is not known here.
    """

    user_id: str
    event_seq: int
    event_type: str
    pass_id: UUID
    event_time: datetime


@dataclass(frozen=True, slots=True)
class Refund:
    """What is to be given back for a pass, and the payment that it is given back from."""

    amount: Money
    payment_reference: str


@dataclass(frozen=True, slots=True)
class Placed:
    """An event with its position in the stream, from 1, without gaps; a user's events have
    theirs in the order of their numbers. `refund` comes with the cancellation of a pass
    that was paid."""

    position: int
    event: Event
    refund: Refund | None = None


@dataclass(frozen=True, slots=True)
class Cursor:
    """After which position of which stream to go on."""

    stream_id: UUID
    position: int


@dataclass(frozen=True, slots=True)
class Stream:
    """The stream of a database: the positions after `dropped_position` up to `last_position`."""

    stream_id: UUID
    last_position: int
    dropped_position: int


@dataclass(frozen=True, slots=True)
class Page:
    """The events wanted up to a position, in their order."""

    events: tuple[Placed, ...]
    end: Cursor
