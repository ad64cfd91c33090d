"""OCPI Tariffs: what charging costs without a pass.

Rules (OCPI 2.2.1, 11. Tariffs module): for each dimension by itself the first
element whose restrictions hold wins; prices are without VAT and are grossed up
with the component's `vat`, else with the country's configured rate; `step_size`
rounds up the total of its dimension. min_price and max_price bound the total.
Restrictions are judged at the start of the session.
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from fractions import Fraction

from voucher_grpc.catalogue.conditions import (
    HOURS_PER_WEEK,
    ChargeState,
    Restrictions,
    hour_of_week_shares,
    time_holds,
)
from voucher_grpc.money import BASIS_POINTS, round_half_away

WH_PER_KWH = 1000
SECONDS_PER_HOUR = 3600


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


def _gross(net: Fraction, vat_basis_points: int) -> Fraction:
    return net * (BASIS_POINTS + vat_basis_points) / BASIS_POINTS


def _applicable(
    tariff: Tariff, local: datetime, charge: ChargeState, dimension: Dimension
) -> PriceComponent | None:
    for element in tariff.elements:
        if not _holds_at_start(element.restrictions, local, charge):
            continue
        for component in element.price_components:
            if component.dimension is dimension:
                return component
    return None


def _holds_at_start(restrictions: Restrictions, local: datetime, charge: ChargeState) -> bool:
    """Times by the wall clock; lower bounds on energy and duration by the session's totals.

    A session's price is asked for as a whole, so a momentary bound (power,
    current) is judged only where a figure is given.
    """
    if not time_holds(restrictions, local):
        return False
    checks = (
        (charge.energy_wh, restrictions.min_energy_wh, restrictions.max_energy_wh),
        (charge.power_w, restrictions.min_power_w, restrictions.max_power_w),
        (charge.current_ma, restrictions.min_current_ma, restrictions.max_current_ma),
        (charge.duration_s, restrictions.min_duration_s, restrictions.max_duration_s),
    )
    return all(
        value is None or ((low is None or value >= low) and (high is None or value < high))
        for value, low, high in checks
    )


def _stepped(amount: int, step_size: int) -> int:
    return -(-amount // step_size) * step_size if step_size > 1 else amount


def session_cost_micros(
    tariff: Tariff,
    local_start: datetime,
    energy_wh: int,
    *,
    charging_s: int = 0,
    parking_s: int = 0,
    default_vat_basis_points: int | None,
) -> int | None:
    """What one session costs, tax included, rounded once (see `money`).

    None if a component names no VAT and the country's rate is not configured:
    such a tariff counts as unpriced.
    """
    charge = ChargeState(energy_wh=0, duration_s=0)
    amounts = (
        (Dimension.ENERGY, energy_wh, WH_PER_KWH),
        (Dimension.FLAT, 1, 1),
        (Dimension.TIME, charging_s, SECONDS_PER_HOUR),
        (Dimension.PARKING_TIME, parking_s, SECONDS_PER_HOUR),
    )
    net_total, gross_total = Fraction(0), Fraction(0)
    for dimension, amount, unit in amounts:
        component = _applicable(tariff, local_start, charge, dimension)
        if component is None or not amount:
            continue
        vat = component.vat_basis_points
        if vat is None:
            vat = default_vat_basis_points
        if vat is None:
            return None
        step = component.step_size if dimension is not Dimension.FLAT else 1
        net = Fraction(component.price_micros * _stepped(amount, step), unit)
        net_total += net
        gross_total += _gross(net, vat)
    total = _bounded(tariff, net_total, gross_total, default_vat_basis_points)
    return None if total is None else round_half_away(total)


def _bounded(
    tariff: Tariff, net: Fraction, gross: Fraction, default_vat_basis_points: int | None
) -> Fraction | None:
    """min_price and max_price are net; they are grossed up like the total they replace."""
    bound = None
    if tariff.min_price_micros is not None and net < tariff.min_price_micros:
        bound = Fraction(tariff.min_price_micros)
    elif tariff.max_price_micros is not None and net > tariff.max_price_micros:
        bound = Fraction(tariff.max_price_micros)
    if bound is None:
        return gross
    if net:
        return bound * gross / net
    return None if default_vat_basis_points is None else _gross(bound, default_vat_basis_points)


@dataclass(frozen=True, slots=True, eq=False)
class HourlyPrices:
    """A tariff by local hour of the week (168 numbers each from Monday 00:00), tax included.

    `energy` in micro-units per kWh, `flat` per session, `charging` and
    `parking` per hour. What a session costs is linear in these but for steps
    and bounds, which `session_cost_micros` has. Each is equal only to itself, so
    that what is made of it once is found again at the cost of a look-up.
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
