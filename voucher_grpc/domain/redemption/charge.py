"""A charge at a station: what is reserved for it on passes, and what it has taken from them."""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from voucher_grpc.domain.pricing.tariff import Tariff
from voucher_grpc.money import Money
from voucher_grpc.ocpi import PlaceKey, folded


class ChargeStatus(StrEnum):
    """Where a charge is in its life; the CHECK of `charges.status` has the same list."""

    AUTHORIZED = "AUTHORIZED"
    CAPTURED = "CAPTURED"
    RELEASED = "RELEASED"
    EXPIRED = "EXPIRED"
    REVERSED = "REVERSED"


class PassUse(NamedTuple):
    """What a charge has of a pass: reserved, and captured. `saved_micros` is after tax."""

    pass_id: UUID
    reserved_energy_wh: int = 0
    reserved_sessions: int = 0
    energy_wh: int = 0
    sessions: int = 0
    saved_micros: int = 0
    # Whether energy is taken from the balance; else it is counted only.
    of_balance: bool = True


class Requested(NamedTuple):
    """What a station asks for; 0: it did not say."""

    energy_wh: int = 0
    duration_s: int = 0
    cost_micros: int = 0


NOTHING_REQUESTED = Requested()


def compared(country_code: str, party_id: str, name: str) -> str:
    """What an operator has named, as the indexes of `charges` compare it."""
    return folded(f"{country_code}*{party_id}*{name}")


class CdrKey(NamedTuple):
    """An OCPI CDR as its operator names it; ids are the same in whatever case."""

    country_code: str
    party_id: str
    cdr_id: str

    @property
    def compared(self) -> str:
        """The same text for all spellings."""
        return compared(self.country_code, self.party_id, self.cdr_id)


@dataclass(frozen=True, slots=True)
class Bill:
    """What a charge has cost, rounded to micro-units; `pay_as_you_go` is without passes.

    `operator_cost` is what the operator's own CDR states, None if it states none.
    """

    start_time: datetime
    end_time: datetime
    energy_wh: int
    total: tuple[int, int]
    pay_as_you_go: tuple[int, int]
    operator_cost: Money | None = None
    remarks: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Charge:
    """A charge of a user. `charge_id` is the authorization_reference.

    `content` is a digest of the request that made it. `tariff` and `time_zone` are as at the
    authorization: they price the charge whatever becomes of them. `named_pass` is the one that
    the station asked for, `condition` says why none is used. `session_id` and what follows are
    known from the capture on.
    """

    user_id: str
    charge_id: UUID
    status: ChargeStatus
    content: bytes
    place: PlaceKey
    tariff: Tariff
    time_zone: str
    tax_basis_points: int | None
    authorize_time: datetime
    expire_time: datetime | None
    requested: Requested
    pay_as_you_go: bool
    named_pass: UUID | None = None
    uses: tuple[PassUse, ...] = ()
    session_id: str = ""
    cdr_id: str = ""
    capture_content: bytes = b""
    bill: Bill | None = None
    condition: str = ""

    @property
    def key(self) -> tuple[str, UUID]:
        """By which it is found."""
        return self.user_id, self.charge_id

    @property
    def cdr(self) -> CdrKey:
        """The CDR that it was captured by."""
        return CdrKey(self.place.country_code, self.place.party_id, self.cdr_id)

    @property
    def session(self) -> str:
        """Its session as it is compared."""
        return compared(self.place.country_code, self.place.party_id, self.session_id)


def charge_id_for(user_id: str, *parts: bytes) -> UUID:
    """The name of a charge: it is made from the key under which its caller repeats the call, so
    that the table's primary key is the promise of one charge for each key."""
    text = b"\0".join((user_id.encode("ascii"), *parts))
    return UUID(bytes=hashlib.blake2b(text, digest_size=16, person=b"charge").digest())


def content_digest(*parts: object) -> bytes:
    """By which a repeated call is told from another one under the same key."""
    text = "\0".join(map(repr, parts)).encode()
    return hashlib.blake2b(text, digest_size=16, person=b"content").digest()
