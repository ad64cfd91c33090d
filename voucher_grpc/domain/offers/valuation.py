"""What each product is worth to a user: expected cost of its life with and without it.

For each scenario k of the coming demand and each product p, over the product's
life of L days:

    energy covered   e = energy_k * L/30 * share of charging inside the conditions
    value of it      v = the pay-as-you-go price of that charging
    saving           s = value given by the benefit - price of the pass

    energy bundle, flat period   v * min(e, bundle) / e
    session bundle               v * min(n, sessions) / n * share of energy under the cap
    energy price                 energy part of v - e * price
    percentage off               v * percentage

Hours and places are taken as independent of one another. What a pass that the
user has already takes off is deducted from e and v first (see `owned`). Many
users are valued in one go: what a NumPy call costs by itself is shared among
them. e and v are worked out once for each cell of the catalogue (see `columns`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import starmap
from typing import NamedTuple

import numpy as np

from voucher_grpc.domain.offers.cells import Kind
from voucher_grpc.domain.offers.columns import Columns, Selection
from voucher_grpc.domain.offers.covered import (
    Covered,
    covered_by_cell,
    deduct_owned,
    usual_price,
)
from voucher_grpc.domain.offers.knowledge import ActivePass
from voucher_grpc.domain.offers.payments import payments_of
from voucher_grpc.domain.places.location import VehicleProfile
from voucher_grpc.domain.tendencies.demand import Demands
from voucher_grpc.domain.tendencies.tendency import Vector


class PayAsYouGo(NamedTuple):
    """What charging is expected to cost without a pass, micro-units; NaN without any price.

    `mean_price_per_kwh` is what a user would pay who charged at all hours alike.
    """

    price_per_kwh: float
    mean_price_per_kwh: float
    cost_per_30_days: float
    unpriced_share: float
    energy_kwh_per_30_days: float
    sessions_per_30_days: float


class ProductValue(NamedTuple):
    """One product to one user; money in micro-units over the pass's life.

    In eight of ten scenarios the saving is between `saving_low` and `saving_high`,
    and so is what is expected.
    `harm_probability` is the share of the scenarios in which it is below zero;
    `hours_share` is that of the habits, `covered_energy_wh` and
    `covered_sessions` are expected over the life, `gain_per_kwh` is what the
    benefit takes off a covered kWh before a bundle is used up; zero where
    nothing is covered.
    """

    expected_saving: float
    saving_low: float
    saving_high: float
    harm_probability: float
    hours_share: float
    places_share: float
    covered_energy_wh: float
    covered_sessions: float
    gain_per_kwh: float


# What is called the range of a saving: so much of the scenarios lies below and above it.
RANGE_SHARE = 0.1


def _quantile(ordered: Vector, share: float) -> Vector:
    """Of rows in order; linear between the neighbours (type 7 of Hyndman and Fan 1996)."""
    at = share * (ordered.shape[1] - 1)
    below = int(at)
    above = min(below + 1, ordered.shape[1] - 1)
    found: Vector = ordered[:, below] + (at - below) * (ordered[:, above] - ordered[:, below])
    return found


@dataclass(frozen=True, slots=True)
class Valuation:
    """Users by the products of a selection, as `ProductValue` has them.

    `saving` is users by scenarios by products, the price of the pass deducted;
    shares are by when and by where, what is covered by cell.
    """

    columns: Columns
    selection: Selection
    saving: Vector
    expected_saving: Vector
    harm_probability: Vector
    hours_share: Vector
    places_share: Vector
    covered_kwh: Vector
    covered_sessions: Vector
    covered_gain: Vector
    pay_as_you_go: Sequence[PayAsYouGo]

    def product_values(self, users: Sequence[int], rows: Sequence[int]) -> list[ProductValue]:
        """What products, by their rows, are worth to as many users of the batch, pair by pair."""
        columns, user, row = self.columns, np.array(users, dtype=int), np.array(rows, dtype=int)
        positions = [self.selection.position[r] for r in rows]
        position, cell = np.array(positions, dtype=int), columns.cell[row]
        expected = self.expected_saving[user, position]
        kwh = self.covered_kwh[user, cell]
        # Before a bundle is used up, each covered kWh saves its whole price.
        whole = columns.is_bundle[row]
        given = np.where(whole, self.covered_gain[user, cell], expected + columns.price[row])
        gain = np.zeros(len(given))
        np.divide(given, kwh, out=gain, where=kwh > 0)
        ordered = np.sort(self.saving[user, :, position], axis=1)
        figures = (
            expected,
            # A rare great loss draws the mean below nearly all scenarios.
            np.minimum(_quantile(ordered, RANGE_SHARE), expected),
            np.maximum(_quantile(ordered, 1 - RANGE_SHARE), expected),
            self.harm_probability[user, position],
            self.hours_share[user, columns.cells.time_condition[cell]],
            self.places_share[user, columns.cells.place_condition[cell]],
            kwh * 1000,
            self.covered_sessions[user, cell],
            gain,
        )
        return list(starmap(ProductValue, zip(*(f.tolist() for f in figures), strict=True)))


# Money below the precision of a float: a saving of zero does no harm.
HARM_TOLERANCE_MICROS = 0.5


# Less than this of a kWh or a session is nothing.
_LEAST_MEASURE = 1e-12


def _savings(
    columns: Columns, demands: Demands, selection: Selection, covered: Covered
) -> tuple[Vector, Vector]:
    """(users by scenarios by products, the price of the pass deducted; sessions by cells)."""
    cells, whole, kwh = columns.cells, covered.gain, covered.kwh
    per_kwh = demands.sessions / np.maximum(demands.energy_kwh, _LEAST_MEASURE)
    sessions = kwh * per_kwh[:, :, None]
    bundles = cells.of_kind.get(Kind.SESSION_BUNDLE)
    measure = kwh
    if bundles is not None:
        under_cap = np.minimum(demands.session_wh[:, :, None], cells.session_cap_wh[bundles])
        under_cap = under_cap.sum(axis=1) / demands.session_wh.sum(axis=1)[:, None]
        whole[:, :, bundles] *= under_cap[:, None, :]
        measure = kwh.copy()
        measure[:, :, bundles] = sessions[:, :, bundles]
    # What one kWh or session of a bundle takes off.
    unit = np.full_like(whole, np.inf)
    np.divide(whole, measure, out=unit, where=measure > _LEAST_MEASURE)
    saving = np.empty((*whole.shape[:2], len(selection)))
    for kind, part in selection.kinds.items():
        cell, amount = selection.cell[part], selection.amount[part]
        if kind is Kind.ENERGY_PRICE:
            gain = whole.take(cell, axis=2)
            gain -= kwh.take(cell, axis=2) * amount
        elif kind is Kind.PERCENTAGE_OFF:
            gain = whole.take(cell, axis=2)
            gain *= amount
        else:
            gain = unit.take(cell, axis=2)
            gain *= amount
            np.minimum(gain, whole.take(cell, axis=2), out=gain)
        np.subtract(gain, selection.price[part], out=saving[:, :, part])
    return saving, sessions


def value(
    columns: Columns,
    demands: Demands,
    vehicles: Sequence[VehicleProfile],
    owned: Sequence[Mapping[str, ActivePass]],
    now: datetime,
    selection: Selection | None = None,
) -> Valuation:
    """Value the products of a selection (None: all) for one or more users at once.

    `vehicles` and `owned` have one entry a user.
    """
    selection = columns.everything() if selection is None else selection
    payments = payments_of(columns, demands, vehicles)
    usable_period = columns.usable_period(now.toordinal())
    usual = usual_price(demands, payments)
    covered, places_share = covered_by_cell(
        columns, demands, payments, usual, usable_period.periods
    )
    energy = np.maximum(demands.energy_kwh.sum(axis=1), _LEAST_MEASURE)
    row_share = payments.row_share

    def mean_price_of(by_row: Vector) -> Vector:
        paid = payments.by_user(by_row * row_share)
        shares: Vector = paid / payments.by_user(row_share)
        return shares

    paid_price = mean_price_of(usual)
    if any(owned):
        deduct_owned(columns, demands, payments, paid_price, owned, usable_period, covered)
    saving, sessions = _savings(columns, demands, selection, covered)
    scenarios = saving.shape[1]
    return Valuation(
        columns=columns,
        selection=selection,
        saving=saving,
        expected_saving=saving.sum(axis=1) / scenarios,
        harm_probability=np.count_nonzero(saving < -HARM_TOLERANCE_MICROS, axis=1) / scenarios,
        hours_share=demands.hours @ columns.time_condition_hours,
        places_share=places_share,
        covered_kwh=covered.kwh.sum(axis=1) / scenarios,
        covered_sessions=sessions.sum(axis=1) / scenarios,
        covered_gain=covered.gain.sum(axis=1) / scenarios,
        pay_as_you_go=[
            PayAsYouGo(*figures)
            for figures in zip(
                paid_price.tolist(),
                mean_price_of(payments.anytime).tolist(),
                (paid_price * energy / scenarios).tolist(),
                payments.unpriced,
                (energy / scenarios).tolist(),
                (demands.sessions.sum(axis=1) / scenarios).tolist(),
                strict=True,
            )
        ],
    )
