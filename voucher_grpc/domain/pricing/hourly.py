"""A tariff by the hour of the week, as offers compare it with passes.

The engine prices single charges; over a month of them offers take the tariff as a table. Steps,
limits, tiers and dates are not in it.
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from voucher_grpc.domain.catalogue.conditions import (
    HOURS_PER_WEEK,
    Restrictions,
    hour_of_week_shares,
)
from voucher_grpc.domain.pricing.amounts import taxed
from voucher_grpc.domain.pricing.tariff import Dimension, Tariff
from voucher_grpc.money import BASIS_POINTS


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


def hourly_prices(tariff: Tariff, default_vat_basis_points: int | None) -> HourlyPrices:
    """The tariff as a table; the VAT is that of components that state none, None: no tax.

    An hour that an element covers in part takes that part of its price. Dates
    are not seen, and bounds on energy and duration are read at the start of a
    session.
    """
    vat = default_vat_basis_points
    default = None if vat is None else Fraction(vat, BASIS_POINTS)
    return HourlyPrices(
        tariff.currency_code,
        *(
            tuple(_hourly(tariff, dimension, default))
            for dimension in (
                Dimension.ENERGY,
                Dimension.FLAT,
                Dimension.TIME,
                Dimension.PARKING_TIME,
            )
        ),
    )


def _hourly(tariff: Tariff, dimension: Dimension, default: Fraction | None) -> list[float]:
    prices = [0.0] * HOURS_PER_WEEK
    left = [1.0] * HOURS_PER_WEEK
    for element in tariff.elements:
        component = next((c for c in element.price_components if c.dimension is dimension), None)
        if component is None or element.reservation or not _starts_within(element.restrictions):
            continue
        rate = default if component.tax_rate is None else component.tax_rate
        amount = taxed(Fraction(component.price_micros), rate, tariff.tax_included)
        gross = float(amount.after_tax)
        for hour, share in _covered_hours(element.restrictions):
            taken = min(left[hour], share)
            prices[hour] += taken * gross
            left[hour] -= taken
        if not any(left):
            break
    return prices


@lru_cache(maxsize=16_384)
def _covered_hours(restrictions: Restrictions) -> tuple[tuple[int, float], ...]:
    """The hours of the week that are inside, with their shares: of many elements each has few."""
    shares = hour_of_week_shares((restrictions,))
    return tuple((hour, share) for hour, share in enumerate(shares) if share)


def _starts_within(restrictions: Restrictions) -> bool:
    """Whether a session that begins can be inside the bounds on energy and duration."""
    return not restrictions.min_energy_wh and not restrictions.min_duration_s
