"""Cells: what products share that differ in amount and price only."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from enum import IntEnum
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from voucher_grpc.domain.catalogue.conditions import Selectors, UsageConditions, hour_of_week_shares
from voucher_grpc.domain.catalogue.product import (
    EnergyBundle,
    EnergyPrice,
    FlatPeriod,
    PercentageOff,
    Product,
    SessionBundle,
    length_days,
    sale_end,
)
from voucher_grpc.domain.pricing.usual import SessionPrice
from voucher_grpc.domain.tendencies.tendency import Vector

Integers: TypeAlias = npt.NDArray[np.int64]
T = TypeVar("T")


class Kind(IntEnum):
    """The kind of a benefit, as a number in a column."""

    ENERGY_BUNDLE = 0
    SESSION_BUNDLE = 1
    ENERGY_PRICE = 2
    PERCENTAGE_OFF = 3


PRICE_ROW = {
    Kind.PERCENTAGE_OFF: SessionPrice._fields.index("total"),
    Kind.ENERGY_BUNDLE: SessionPrice._fields.index("energy_bundle"),
    Kind.ENERGY_PRICE: SessionPrice._fields.index("energy_price"),
    Kind.SESSION_BUNDLE: SessionPrice._fields.index("session_bundle"),
}
BUNDLES = (int(Kind.ENERGY_BUNDLE), int(Kind.SESSION_BUNDLE))


@dataclass(frozen=True, slots=True)
class PlaceCondition:
    """The part of the conditions that a place decides: selectors and power bounds."""

    selectors: Selectors
    power_bounds: tuple[tuple[int | None, int | None], ...]


@dataclass(frozen=True, slots=True)
class TimeCondition:
    """The part of the conditions that the user's habits decide: hours and energy bounds."""

    hours: tuple[float, ...]
    min_energy_wh: int
    max_energy_wh: int | None


@dataclass(frozen=True, slots=True)
class Cell:
    """All that decides what charging inside a product's conditions costs, and when it is sold."""

    kind: Kind
    place_condition: PlaceCondition
    time_condition: TimeCondition
    session_cap_wh: float
    length_days: float
    first_day: float
    last_day: float
    start_day: float
    sale_from: float
    sale_until: float


class Compiled(NamedTuple):
    """A product's cell and the amount its benefit gives.

    Equal cells are one object where they can be, and are then found by their identity: to
    hash the hours of ten thousand products takes a tenth of a second.
    """

    cell: Cell
    amount: float


@dataclass(frozen=True, slots=True)
class Cells:
    """One row a cell; energies in Wh, lengths in days, days as ordinals."""

    place_condition: Integers
    time_condition: Integers
    length_days: Vector
    first_day: Vector
    last_day: Vector
    start_day: Vector
    session_cap_wh: Vector
    price_row: Integers  # which of SessionPrice's prices the benefit is worth
    of_kind: Mapping[Kind, Integers]  # the cells of each kind that there is

    def __len__(self) -> int:
        return len(self.place_condition)


def place_condition_of(conditions: UsageConditions) -> PlaceCondition:
    """The distinct place part of the conditions."""
    bounds = {(r.min_power_w, r.max_power_w) for r in conditions.any_of}
    if not bounds or (None, None) in bounds:
        return PlaceCondition(conditions.selectors, ())
    return PlaceCondition(conditions.selectors, tuple(sorted(bounds, key=str)))


def time_condition_of(conditions: UsageConditions) -> TimeCondition:
    """The distinct habit part of the conditions.

    Several alternatives are joined: their hours exactly, their energy bounds by
    the widest.
    """
    any_of = conditions.any_of
    hours = hour_of_week_shares(any_of)
    tops = [r.max_energy_wh for r in any_of]
    return TimeCondition(
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


def compile_product(product: Product, cells: dict[Cell, Cell]) -> Compiled:
    """What the columns need of a product; `cells` makes equal cells one object."""
    kind, amount, cap = _benefit_columns(product)
    conditions = product.terms.conditions
    first, last = _dates(conditions)
    cell = Cell(
        kind,
        place_condition_of(conditions),
        time_condition_of(conditions),
        cap,
        float(length_days(product.terms.validity)),
        first,
        last,
        _start_day(product),
        _sale_from(product),
        _sale_until(product),
    )
    return Compiled(cells.setdefault(cell, cell), amount)
