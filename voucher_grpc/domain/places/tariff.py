"""OCPI Tariffs: what charging costs without a pass.

Rules (OCPI 2.2.1, 11. Tariffs module): for each dimension by itself the first
element whose restrictions hold wins; prices are without VAT and are grossed up
with the component's `vat`, else with the country's configured rate. Restrictions
are judged at the start of the session. `step_size`, min_price and max_price are
stored as operators send them; prices by hour do not depend on them.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from voucher_grpc.domain.catalogue.conditions import (
    HOURS_PER_WEEK,
    Restrictions,
    hour_of_week_shares,
)
from voucher_grpc.money import BASIS_POINTS


class Dimension(StrEnum):
    """OCPI TariffDimensionType."""

    ENERGY = "ENERGY"
    FLAT = "FLAT"
    PARKING_TIME = "PARKING_TIME"
    TIME = "TIME"


@dataclass(frozen=True, slots=True)
class PriceComponent:
    """`price_micros` without VAT per kWh, session or hour; `vat_basis_points` None: not said."""

    dimension: Dimension
    price_micros: int
    vat_basis_points: int | None = None
    step_size: int = 1


@dataclass(frozen=True, slots=True)
class TariffElement:
    """Prices and when they apply."""

    price_components: tuple[PriceComponent, ...]
    restrictions: Restrictions = field(default_factory=Restrictions)


@dataclass(frozen=True, slots=True, order=True)
class TariffKey:
    """A tariff as OCPI names it."""

    country_code: str
    party_id: str
    tariff_id: str


@dataclass(frozen=True, slots=True)
class Tariff:
    """An OCPI Tariff."""

    country_code: str
    party_id: str
    tariff_id: str
    currency_code: str
    elements: tuple[TariffElement, ...]
    min_price_micros: int | None = None
    max_price_micros: int | None = None
    default_for_country: bool = False

    @property
    def key(self) -> TariffKey:
        return TariffKey(self.country_code, self.party_id, self.tariff_id)


@dataclass(frozen=True, slots=True, eq=False)
class HourlyPrices:
    """A tariff by local hour of the week (168 numbers each from Monday 00:00), tax included.

    `energy` in micro-units per kWh, `flat` per session, `charging` and
    `parking` per hour. Steps and bounds on a session's price are not in it. Each is
    equal only to itself, so that what is made of it once is found again at the cost
    of a look-up.
    """

    currency_code: str
    energy: tuple[float, ...]
    flat: tuple[float, ...]
    charging: tuple[float, ...]
    parking: tuple[float, ...]


def hourly_prices(tariff: Tariff, default_vat_basis_points: int | None) -> HourlyPrices | None:
    """The tariff as a table; None where it counts as unpriced.

    An hour that an element covers in part takes that part of its price. Dates
    are not seen, and bounds on energy and duration are read at the start of a
    session.
    """
    columns = {
        dimension: _hourly(tariff, dimension, default_vat_basis_points) for dimension in Dimension
    }
    if any(column is None for column in columns.values()):
        return None
    return HourlyPrices(
        tariff.currency_code,
        *(
            tuple(columns[d] or ())
            for d in (Dimension.ENERGY, Dimension.FLAT, Dimension.TIME, Dimension.PARKING_TIME)
        ),
    )


def _hourly(
    tariff: Tariff, dimension: Dimension, default_vat_basis_points: int | None
) -> list[float] | None:
    prices = [0.0] * HOURS_PER_WEEK
    left = [1.0] * HOURS_PER_WEEK
    for element in tariff.elements:
        component = next((c for c in element.price_components if c.dimension is dimension), None)
        if component is None or not _starts_within(element.restrictions):
            continue
        vat = component.vat_basis_points
        vat = default_vat_basis_points if vat is None else vat
        if vat is None:
            return None
        gross = component.price_micros * (BASIS_POINTS + vat) / BASIS_POINTS
        for hour, share in enumerate(hour_of_week_shares((element.restrictions,))):
            if share:  # of many elements each has few hours
                taken = min(left[hour], share)
                prices[hour] += taken * gross
                left[hour] -= taken
    return prices


def _starts_within(restrictions: Restrictions) -> bool:
    """Whether a session that begins can be inside the bounds on energy and duration."""
    return not restrictions.min_energy_wh and not restrictions.min_duration_s
