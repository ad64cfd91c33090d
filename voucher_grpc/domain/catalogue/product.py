"""A product of the catalogue: what is sold, at which price, on which terms."""

from calendar import monthrange
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

from voucher_grpc.domain.catalogue.conditions import UsageConditions
from voucher_grpc.money import Money

FIRST_USE_WITHIN_DAYS = 365


@dataclass(frozen=True, slots=True)
class EnergyBundle:
    """`energy_wh` at no further price."""

    energy_wh: int


@dataclass(frozen=True, slots=True)
class SessionBundle:
    """`sessions` at no further price, each up to `max_energy_wh_per_session` (0: all of it)."""

    sessions: int
    max_energy_wh_per_session: int = 0


@dataclass(frozen=True, slots=True)
class EnergyPrice:
    """Energy at `price_micros_per_kwh`, tax included, in the currency of the product's price."""

    price_micros_per_kwh: int


@dataclass(frozen=True, slots=True)
class PercentageOff:
    """The whole price of a charge lowered by `basis_points` of 10,000."""

    basis_points: int


@dataclass(frozen=True, slots=True)
class FlatPeriod:
    """All charging up to a fair-use cap; what exceeds it is pay-as-you-go."""

    fair_use_energy_wh: int


Benefit = EnergyBundle | SessionBundle | EnergyPrice | PercentageOff | FlatPeriod


class ValidityStart(StrEnum):
    """When a pass begins to be good."""

    PURCHASE = "PURCHASE"
    FIRST_USE = "FIRST_USE"
    AT = "AT"


@dataclass(frozen=True, slots=True)
class Validity:
    """`days` or `months` (exactly one is not zero) from `start`."""

    days: int = 0
    months: int = 0
    start: ValidityStart = ValidityStart.PURCHASE
    start_time: datetime | None = None
    first_use_within_days: int = FIRST_USE_WITHIN_DAYS


@dataclass(frozen=True, slots=True)
class PersonalLimit:
    """At most `max_purchases` by one user, for ever or within `rolling_days` (0: for ever)."""

    max_purchases: int
    rolling_days: int = 0


class ProductState(StrEnum):
    """Where a product is in its life."""

    ACTIVE = "ACTIVE"
    RETIRED = "RETIRED"


@dataclass(frozen=True, slots=True)
class Terms:
    """What an operator decides about a product; a revision holds one of these.

    `withdrawal_days`, of 24 hours, are counted from the payment; 0: no withdrawal.
    """

    product_id: str
    display_name: str
    price: Money
    benefit: Benefit
    validity: Validity
    time_zone: str
    description: str = ""
    tax_rate_basis_points: int = 0
    conditions: UsageConditions = field(default_factory=UsageConditions)
    stock: int | None = None
    personal_limit: PersonalLimit | None = None
    sale_start_time: datetime | None = None
    sale_end_time: datetime | None = None
    default_offer: bool = False
    withdrawal_days: int = 0


@dataclass(frozen=True, slots=True)
class Product:
    """A revision of a product as the catalogue keeps it."""

    terms: Terms
    revision: int
    etag: str
    state: ProductState
    sold: int
    revision_create_time: datetime
    revision_created_by: str

    @property
    def product_id(self) -> str:
        return self.terms.product_id


def on_sale(terms: Terms, at: datetime) -> bool:
    """Whether the sale window is open: start inclusive, end exclusive."""
    return (terms.sale_start_time is None or terms.sale_start_time <= at) and (
        terms.sale_end_time is None or at < terms.sale_end_time
    )


def sale_end(terms: Terms) -> datetime | None:
    """Until when it can be bought: the end of the sale, or of a fixed validity before it.

    A pass that would be over when it is bought is not sold.
    """
    start = terms.validity.start_time
    if start is None:
        return terms.sale_end_time
    end = validity_end(terms.validity, start, ZoneInfo(terms.time_zone))
    return end if terms.sale_end_time is None else min(end, terms.sale_end_time)


@dataclass(frozen=True, slots=True)
class ValidityPeriod:
    """A pass's validity as absolute instants (UTC).

    Before a first use starts it, only `first_use_before` is set.
    """

    start_time: datetime | None
    end_time: datetime | None
    first_use_before: datetime | None = None


def _resolve(wall: datetime, zone: ZoneInfo) -> datetime:
    """The instant of a wall-clock time.

    A time that occurs twice is its first occurrence; one that a change of the
    clocks skips is the instant of the change.
    """
    aware = wall.replace(tzinfo=zone, fold=0)
    instant = aware.astimezone(UTC)
    if instant.astimezone(zone).replace(tzinfo=None) == wall:
        return instant
    # Inside a gap: the change is at most the gap's length before the reading.
    offset = aware.utcoffset() or timedelta()
    gap = (instant.astimezone(zone).utcoffset() or timedelta()) - offset
    low, high = instant - gap, instant
    while high - low > timedelta(seconds=1):
        middle = low + (high - low) / 2
        if middle.astimezone(zone).utcoffset() == offset:
            low = middle
        else:
            high = middle
    return high.replace(microsecond=0)


def _add_months(wall: datetime, months: int) -> datetime:
    index = wall.year * 12 + wall.month - 1 + months
    year, month = divmod(index, 12)
    last_day = monthrange(year, month + 1)[1]
    return wall.replace(year=year, month=month + 1, day=min(wall.day, last_day))


def validity_end(validity: Validity, start: datetime, zone: ZoneInfo) -> datetime:
    """The end (UTC, exclusive) of a validity that starts at `start`, on the zone's wall clock."""
    wall = start.astimezone(zone).replace(tzinfo=None)
    moved = (
        _add_months(wall, validity.months)
        if validity.months
        else wall + timedelta(days=validity.days)
    )
    return _resolve(moved, zone)


def validity_period(validity: Validity, purchase_time: datetime, zone: ZoneInfo) -> ValidityPeriod:
    """The validity of a pass bought at `purchase_time`.

    A pass that starts AT an instant which has passed is good from its purchase
    and ends as if it had started at that instant.
    """
    if validity.start is ValidityStart.FIRST_USE:
        latest = Validity(days=validity.first_use_within_days)
        return ValidityPeriod(None, None, validity_end(latest, purchase_time, zone))
    if validity.start is ValidityStart.AT and validity.start_time is not None:
        start = validity.start_time
        return ValidityPeriod(max(start, purchase_time), validity_end(validity, start, zone))
    return ValidityPeriod(purchase_time, validity_end(validity, purchase_time, zone))


def length_days(validity: Validity) -> float:
    """The nominal length in days, a month being 365.25 / 12 days."""
    return validity.days + validity.months * 365.25 / 12
