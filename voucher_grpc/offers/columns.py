"""The catalogue in columns, so that all products are valued at once.

Products share few distinct conditions, so hours ("when") and places ("where")
are judged once for each distinct one and looked up by number for each product.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from enum import IntEnum
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from voucher_grpc.catalogue.conditions import (
    Selectors,
    UsageConditions,
    hour_of_week_shares,
)
from voucher_grpc.catalogue.product import (
    EnergyBundle,
    EnergyPrice,
    FlatPeriod,
    PercentageOff,
    Product,
    SessionBundle,
    length_days,
    sale_end,
)
from voucher_grpc.offers.tendency import Vector

Integers: TypeAlias = npt.NDArray[np.int64]


class Kind(IntEnum):
    """The kind of a benefit, as a number in a column."""

    ENERGY_BUNDLE = 0
    SESSION_BUNDLE = 1
    ENERGY_PRICE = 2
    PERCENTAGE_OFF = 3


@dataclass(frozen=True, slots=True)
class Where:
    """The part of the conditions that a place decides: selectors and power bounds."""

    selectors: Selectors
    power_bounds: tuple[tuple[int | None, int | None], ...]


@dataclass(frozen=True, slots=True)
class When:
    """The part of the conditions that the user's habits decide: hours and energy bounds."""

    hours: tuple[float, ...]
    min_energy_wh: int
    max_energy_wh: int | None


@dataclass(frozen=True, slots=True)
class Columns:
    """One row a product. Prices in micro-units, energies in Wh, lengths in days,
    sale window in seconds since 1970."""

    products: Sequence[Product]
    price: Vector
    kind: Integers
    amount: Vector
    session_cap_wh: Vector
    length_days: Vector
    first_day: Vector
    last_day: Vector
    start_day: Vector
    sale_from: Vector
    sale_until: Vector
    when_index: Integers
    where_index: Integers
    whens: Sequence[When]
    wheres: Sequence[Where]
    when_hours: Vector  # whens by 168

    def __len__(self) -> int:
        return len(self.products)


def where_of(conditions: UsageConditions) -> Where:
    """The distinct place part of the conditions."""
    bounds = {(r.min_power_w, r.max_power_w) for r in conditions.any_of}
    if not bounds or (None, None) in bounds:
        return Where(conditions.selectors, ())
    return Where(conditions.selectors, tuple(sorted(bounds, key=str)))


def when_of(conditions: UsageConditions) -> When:
    """The distinct habit part of the conditions.

    Several alternatives are joined: their hours exactly, their energy bounds by
    the widest.
    """
    any_of = conditions.any_of
    hours = hour_of_week_shares(any_of)
    tops = [r.max_energy_wh for r in any_of]
    return When(
        hours,
        min((r.min_energy_wh or 0 for r in any_of), default=0),
        None if not tops or None in tops else max(t for t in tops if t is not None),
    )


def _benefit_columns(product: Product) -> tuple[Kind, float, float]:
    match product.terms.benefit:
        case EnergyBundle(energy_wh) | FlatPeriod(energy_wh):
            return Kind.ENERGY_BUNDLE, energy_wh, np.inf
        case SessionBundle(sessions, cap):
            return Kind.SESSION_BUNDLE, sessions, cap or np.inf
        case EnergyPrice(price):
            return Kind.ENERGY_PRICE, price, np.inf
        case PercentageOff(basis_points):
            return Kind.PERCENTAGE_OFF, basis_points / 10_000, np.inf


def _dates(conditions: UsageConditions) -> tuple[float, float]:
    """First and last day (exclusive) as ordinals, the hull of the alternatives."""
    any_of = conditions.any_of
    firsts = [r.start_date for r in any_of]
    lasts = [r.end_date for r in any_of]
    return (
        -np.inf if not firsts or None in firsts else min(map(_ordinal, firsts)),
        np.inf if not lasts or None in lasts else max(map(_ordinal, lasts)),
    )


def _ordinal(day: date | None) -> float:
    return float(day.toordinal()) if day is not None else 0.0


def _sale_from(product: Product) -> float:
    start = product.terms.sale_start_time
    return -np.inf if start is None else start.timestamp()


def _sale_until(product: Product) -> float:
    end = sale_end(product.terms)
    return np.inf if end is None else end.timestamp()


def _start_day(product: Product) -> float:
    start = product.terms.validity.start_time
    return -np.inf if start is None else float(start.toordinal())


def build_columns(products: Sequence[Product]) -> Columns:
    """Columns of products that share a currency."""
    whens: dict[When, int] = {}
    wheres: dict[Where, int] = {}
    when_index, where_index = [], []
    for product in products:
        conditions = product.terms.conditions
        when_index.append(whens.setdefault(when_of(conditions), len(whens)))
        where_index.append(wheres.setdefault(where_of(conditions), len(wheres)))
    benefits = [_benefit_columns(product) for product in products]
    dates = [_dates(product.terms.conditions) for product in products]
    return Columns(
        products=products,
        price=np.array([p.terms.price.micros for p in products], dtype=np.float64),
        kind=np.array([kind for kind, _, _ in benefits], dtype=np.int64),
        amount=np.array([amount for _, amount, _ in benefits], dtype=np.float64),
        session_cap_wh=np.array([cap for _, _, cap in benefits], dtype=np.float64),
        length_days=np.array([length_days(p.terms.validity) for p in products], dtype=np.float64),
        first_day=np.array([first for first, _ in dates], dtype=np.float64),
        last_day=np.array([last for _, last in dates], dtype=np.float64),
        start_day=np.array([_start_day(p) for p in products], dtype=np.float64),
        sale_from=np.array([_sale_from(p) for p in products], dtype=np.float64),
        sale_until=np.array([_sale_until(p) for p in products], dtype=np.float64),
        when_index=np.array(when_index, dtype=np.int64),
        where_index=np.array(where_index, dtype=np.int64),
        whens=list(whens),
        wheres=list(wheres),
        when_hours=np.array([when.hours for when in whens], dtype=np.float64).reshape(-1, 168),
    )
