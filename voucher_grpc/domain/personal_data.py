"""What is stored about a user, item by item, as ExportUser returns it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from voucher_grpc.domain.passes.event import Event
from voucher_grpc.domain.passes.state import PassWithTerms
from voucher_grpc.domain.places.location import Vehicle
from voucher_grpc.domain.redemption.charge import Charge
from voucher_grpc.domain.redemption.token import Token
from voucher_grpc.domain.tendencies.recording import Cancellation
from voucher_grpc.domain.tendencies.tendency import Session, Tendency
from voucher_grpc.domain.users import User
from voucher_grpc.ocpi import PlaceKey


@dataclass(frozen=True, slots=True)
class StoredTendency:
    """A tendency as stored, with its greatest places and their shares of the energy."""

    user_id: str
    tendency: Tendency
    profile_type: str
    places: Sequence[tuple[PlaceKey, float]]
    read_time: datetime


@dataclass(frozen=True, slots=True)
class PlaceShare:
    """How much of a user's energy was charged at a place, 0 to 1."""

    place: PlaceKey
    share: float


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """A change of a pass's balance; None where it does not change that measure."""

    pass_id: str
    entry_number: int
    kind: str
    energy_wh: int | None
    sessions: int | None
    entry_time: datetime


@dataclass(frozen=True, slots=True)
class PaymentReference:
    """A reference and the pass it has paid for."""

    payment_reference: str
    pass_id: str


@dataclass(frozen=True, slots=True)
class EventCount:
    """The number of the user's last event."""

    last_event_seq: int


Value: TypeAlias = (
    User
    | Vehicle
    | StoredTendency
    | PlaceShare
    | Session
    | Cancellation
    | PassWithTerms
    | LedgerEntry
    | Charge
    | Token
    | Event
    | PaymentReference
    | EventCount
)
