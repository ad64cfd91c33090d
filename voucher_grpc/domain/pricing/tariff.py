"""OCPI Tariffs of 2.1.1, 2.2.1 and 2.3.0, as the engine reads them (OCPI 2.2.1, 11. Tariffs)."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from fractions import Fraction

from voucher_grpc.domain.catalogue.conditions import Restrictions
from voucher_grpc.domain.pricing.amounts import TaxIncluded
from voucher_grpc.ocpi import folded


class Dimension(StrEnum):
    """OCPI TariffDimensionType: what a price is per."""

    ENERGY = "ENERGY"
    FLAT = "FLAT"
    PARKING_TIME = "PARKING_TIME"
    TIME = "TIME"


# The volume, in Wh, seconds or sessions, that a price is for.
PRICED_VOLUME = {
    Dimension.ENERGY: 1_000,
    Dimension.FLAT: 1,
    Dimension.PARKING_TIME: 3_600,
    Dimension.TIME: 3_600,
}


class Reservation(StrEnum):
    """OCPI ReservationRestrictionType: the element prices a reservation, not a charge."""

    RESERVATION = "RESERVATION"
    RESERVATION_EXPIRES = "RESERVATION_EXPIRES"


class TariffType(StrEnum):
    """OCPI TariffType; None in its place: for all sessions."""

    AD_HOC_PAYMENT = "AD_HOC_PAYMENT"
    PROFILE_CHEAP = "PROFILE_CHEAP"
    PROFILE_FAST = "PROFILE_FAST"
    PROFILE_GREEN = "PROFILE_GREEN"
    REGULAR = "REGULAR"


@dataclass(frozen=True, slots=True)
class PriceComponent:
    """`price_micros` per kWh, session or hour, with tax if the tariff's prices are;
    `tax_rate` as a share (21 % is 21/100), None: not stated; `step_size` in Wh or seconds."""

    dimension: Dimension
    price_micros: int
    tax_rate: Fraction | None = None
    step_size: int = 1


@dataclass(frozen=True, slots=True)
class TariffElement:
    """Prices, and when they apply; `index` is the place in the list as published."""

    price_components: tuple[PriceComponent, ...]
    restrictions: Restrictions = field(default_factory=Restrictions)
    reservation: Reservation | None = None
    index: int = 0


@dataclass(frozen=True, slots=True)
class PriceLimit:
    """OCPI Price as a limit, in micro-units; None: not stated."""

    before_tax_micros: int | None = None
    after_tax_micros: int | None = None


@dataclass(frozen=True, slots=True, order=True)
class TariffKey:
    """A tariff as OCPI names it; its id in small letters, as `tariff_key` makes it."""

    country_code: str
    party_id: str
    tariff_id: str


def tariff_key(country_code: str, party_id: str, tariff_id: str) -> TariffKey:
    """Ids that differ in case alone are the same."""
    return TariffKey(country_code, party_id, folded(tariff_id))


@dataclass(frozen=True, slots=True)
class Tariff:
    """An OCPI Tariff, valid from `start_time` until before `end_time`.

    `skipped_elements` are those that were published but not understood: they price nothing.
    `default_for_country` is an addition to OCPI: it prices places without a tariff of their own.
    """

    country_code: str
    party_id: str
    tariff_id: str
    currency_code: str
    elements: tuple[TariffElement, ...]
    min_price: PriceLimit | None = None
    max_price: PriceLimit | None = None
    type: TariffType | None = None
    tax_included: TaxIncluded = TaxIncluded.NO
    start_time: datetime | None = None
    end_time: datetime | None = None
    skipped_elements: int = 0
    default_for_country: bool = False
    last_updated: datetime | None = None

    @property
    def key(self) -> TariffKey:
        return tariff_key(self.country_code, self.party_id, self.tariff_id)

    def valid_at(self, at: datetime) -> bool:
        """OCPI 2.2.1, 11.3.1: `start_date_time` and `end_date_time`."""
        return (self.start_time is None or at >= self.start_time) and (
            self.end_time is None or at < self.end_time
        )
