"""A pass, and its state at an instant."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from voucher_grpc.domain.catalogue.product import Terms, ValidityPeriod
from voucher_grpc.money import Money


class PassState(StrEnum):
    """Where a pass is in its life."""

    PENDING = "PENDING"
    LAPSED = "LAPSED"
    NOT_STARTED = "NOT_STARTED"
    ACTIVE = "ACTIVE"
    EXPIRED = "EXPIRED"
    CANCELLED = "CANCELLED"
    EXHAUSTED = "EXHAUSTED"


class ClosedAs(StrEnum):
    """How a pass has ended; nothing happens to it afterwards."""

    LAPSED = "LAPSED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"


@dataclass(frozen=True, slots=True)
class Balance:
    """What is left; None where the benefit has no such measure."""

    energy_wh: int | None = None
    sessions: int | None = None


@dataclass(frozen=True, slots=True)
class Pass:
    """What a user owns. The terms are those of the immutable product revision.

    `hold_expire_time` is set on what was bought with a hold, `confirm_time` once that was
    paid. Until then there is no payment reference, no validity and nothing on the balance.
    `ledger_entries` is how many entries the balance is the sum of. `balance` is what is left
    without what is reserved for charges that are under way, which is `reserved_energy_wh` and
    `reserved_sessions`.
    """

    user_id: str
    pass_id: UUID
    request_id: UUID
    offer_digest: bytes
    product_id: str
    product_revision: int
    vehicle_id: str
    price: Money
    payment_reference: str
    purchase_time: datetime
    time_zone: str
    period: ValidityPeriod
    balance: Balance
    ledger_entries: int = 1
    hold_expire_time: datetime | None = None
    confirm_time: datetime | None = None
    close_time: datetime | None = None
    closed_as: ClosedAs | None = None
    refund_micros: int | None = None
    reserved_energy_wh: int = 0
    reserved_sessions: int = 0

    @property
    def key(self) -> tuple[str, UUID]:
        """By which it is found."""
        return self.user_id, self.pass_id

    @property
    def left_energy_wh(self) -> int | None:
        """What is left of a bundle of energy, with what is reserved; None of any other pass."""
        left = self.balance.energy_wh
        return None if left is None else left + self.reserved_energy_wh

    @property
    def left_sessions(self) -> int | None:
        """What is left of a bundle of sessions, with what is reserved; None of any other pass."""
        left = self.balance.sessions
        return None if left is None else left + self.reserved_sessions

    @property
    def exhausted(self) -> bool:
        """Whether a bundle is used up."""
        return 0 in (self.left_energy_wh, self.left_sessions)

    @property
    def paid_time(self) -> datetime | None:
        """When it was paid; None for a hold that has not been confirmed."""
        return self.purchase_time if self.hold_expire_time is None else self.confirm_time


@dataclass(frozen=True, slots=True)
class PassWithTerms:
    """A pass and the terms it was bought on."""

    owned: Pass
    terms: Terms


def pass_state(owned: Pass, at: datetime) -> PassState:
    """The state at `at`, whether or not any sweep has run: start inclusive, end exclusive.

    What has ended is EXPIRED, used up or not; what is used up before is EXHAUSTED.
    """
    if owned.closed_as is not None:
        return PassState(owned.closed_as)
    if owned.hold_expire_time is not None and owned.confirm_time is None:
        return PassState.PENDING if at < owned.hold_expire_time else PassState.LAPSED
    period = owned.period
    if period.start_time is None or period.end_time is None:
        unused = period.first_use_before is not None and at >= period.first_use_before
        return PassState.EXPIRED if unused else PassState.NOT_STARTED
    if at >= period.end_time:
        return PassState.EXPIRED
    if owned.exhausted:
        return PassState.EXHAUSTED
    return PassState.NOT_STARTED if at < period.start_time else PassState.ACTIVE
