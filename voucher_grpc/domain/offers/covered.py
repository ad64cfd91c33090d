"""What of the users' charging is inside the conditions of each cell of the catalogue, and what
of it the passes that they have cover already."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from voucher_grpc.domain.offers.cells import BUNDLES, Kind
from voucher_grpc.domain.offers.columns import Columns, UsablePeriod
from voucher_grpc.domain.offers.knowledge import ActivePass
from voucher_grpc.domain.offers.payments import Payments
from voucher_grpc.domain.tendencies.demand import Demands
from voucher_grpc.domain.tendencies.forecast import BLOCKS, block_shares
from voucher_grpc.domain.tendencies.tendency import PERIOD_DAYS, Vector


def bounds_share(columns: Columns, session_wh: Vector) -> Vector | None:
    """Share of the users' energy between the bounds on a session's energy: users by whens; None
    without such bounds."""
    bounded = columns.bounded_time_conditions
    if not bounded:
        return None
    share = np.ones((len(session_wh), len(columns.time_conditions)))
    total = session_wh.sum(axis=1)
    for number in bounded:
        time_condition = columns.time_conditions[number]
        top = np.inf if time_condition.max_energy_wh is None else time_condition.max_energy_wh
        inside = (
            np.clip(session_wh, time_condition.min_energy_wh, top) - time_condition.min_energy_wh
        )
        share[:, number] = inside.sum(axis=1) / total
    return share


def in_blocks(columns: Columns, profile: Vector) -> Vector:
    """What of profiles (rows by 168) lies in each block of the week inside each when: rows by
    blocks by whens."""
    inside: Vector = (profile @ columns.time_condition_blocks).reshape(len(profile), BLOCKS, -1)
    return inside


@dataclass(frozen=True, slots=True)
class Covered:
    """What is covered: users by scenarios by cells, over the pass's life.

    `gain` is what the benefit of the cell's kind takes off that charging if it covers all of it,
    before a pass's price of energy is paid.
    """

    kwh: Vector
    gain: Vector


def usual_price(demands: Demands, payments: Payments) -> Vector:
    """What a kWh costs on average in the hours that the user is used to, by row."""
    price: Vector = (payments.prices[:, 0] * demands.hours[payments.user]).sum(axis=1)
    return price


def _at_usual_price(factors: Vector, weights: Vector, usual: Vector) -> Vector:
    """By what the prices of each scenario are multiplied, rows by scenarios.

    Scenarios move charging between night and day, workdays and weekend. What a kWh costs on
    average stays what the user's sessions say: a forecast of hours is not one of prices.
    """
    price = np.matmul(factors, block_shares(weights)[:, :, None])[:, :, 0]
    price[price <= 0] = np.inf  # nothing costs anything: nor does anything change
    factor: Vector = usual[:, None] / price
    return factor


def covered_by_cell(
    columns: Columns, demands: Demands, payments: Payments, usual: Vector, periods: Vector
) -> tuple[Covered, Vector]:
    """What is covered, and the users' shares by where. `periods` is by cell, `usual` that of
    `usual_price`."""
    cells, user = columns.cells, payments.user
    place_condition_share = payments.place_condition_share
    places_share = payments.by_user(place_condition_share)
    kwh = demands.energy_kwh
    bounds = bounds_share(columns, demands.session_wh)
    inside: Vector = periods
    if bounds is not None:
        inside = periods * bounds.take(cells.time_condition, axis=1)
    # Of alike prices the first stands for all.
    prices = payments.prices[:, :1] if payments.alike else payments.prices
    weights = demands.profile[user, None] * prices
    factors = demands.block_factors[user]
    column = cells.time_condition
    if not payments.alike:
        column = cells.price_row * len(columns.time_conditions) + column
    gain = _in_time(columns, factors, weights).take(column, axis=2)
    gain *= (kwh[user] * _at_usual_price(factors, weights[:, 0], usual))[:, :, None]
    of_row = inside if bounds is None else inside[user]
    gain *= (place_condition_share.take(cells.place_condition, axis=1) * of_row)[:, None]
    covered_kwh = _in_time(columns, demands.block_factors, demands.profile[:, None])
    covered_kwh = covered_kwh.take(cells.time_condition, axis=2)
    covered_kwh *= kwh[:, :, None]
    covered_kwh *= (places_share.take(cells.place_condition, axis=1) * inside)[:, None]
    return Covered(covered_kwh, payments.by_user(gain)), places_share


def _in_time(columns: Columns, factors: Vector, weights: Vector) -> Vector:
    """What of the weights of the hours (rows by kinds of weight by 168) is inside each when, in
    each scenario: rows by scenarios by (kinds by whens, side by side)."""
    rows, kinds, hours = weights.shape
    by_block = in_blocks(columns, weights.reshape(rows * kinds, hours))
    by_block = by_block.reshape(rows, kinds, BLOCKS, -1).swapaxes(1, 2).reshape(rows, BLOCKS, -1)
    inside: Vector = np.matmul(factors, by_block)
    return inside


def _overlap(part: Vector, whole: Vector) -> Vector:
    """part / whole, zero where there is nothing."""
    found: Vector = np.zeros_like(whole)
    np.divide(part, whole, out=found, where=whole > 0)
    return found


def _span(
    columns: Columns, row: int, owned: ActivePass, usable_period: UsablePeriod
) -> tuple[float, float]:
    """From when to when, in days from now, a pass that the user owns can be used."""
    cell = columns.cell.item(row)
    start, end = max(0.0, owned.days_to_start), owned.days_to_end
    if owned.unused:
        end = min(end, columns.length_days.item(row))
    first, last = columns.cells.first_day.item(cell), columns.cells.last_day.item(cell)
    return max(start, first - usable_period.today), min(end, last - usable_period.today)


def _common(
    columns: Columns, demands: Demands, payments: Payments, user: int, row: int
) -> tuple[Vector, float]:
    """(what of the charging inside each cell is also inside the conditions of the product in a
    row, scenarios by cells; what is of all the charging)."""
    cells = columns.cells
    time_condition, place_condition = (
        by_cell.item(columns.cell.item(row))
        for by_cell in (cells.time_condition, cells.place_condition)
    )
    factors, profile = demands.block_factors[user], demands.profile[user]
    both = in_blocks(
        columns, np.stack((profile, profile * columns.time_condition_hours[:, time_condition]))
    )
    in_hours, in_both = factors @ both[0], factors @ both[1]
    entries = payments.entries_of(user)
    share, covered = payments.share[entries, None], payments.covered[entries]
    in_places = (share * covered).sum(axis=0)
    in_both_places = (share * covered * covered[:, place_condition, None]).sum(axis=0)
    hours, places = _overlap(in_both, in_hours), _overlap(in_both_places, in_places)
    bounds = bounds_share(columns, demands.session_wh[user : user + 1])
    bounded = 1.0 if bounds is None else bounds.item(0, time_condition)
    of_cells: Vector = hours.take(cells.time_condition, axis=1) * (
        places.take(cells.place_condition) * bounded
    )
    return of_cells, float(
        in_hours[:, time_condition].mean() * in_places[place_condition]
    ) * bounded


def deduct_owned(
    columns: Columns,
    demands: Demands,
    payments: Payments,
    mean_price: Vector,
    owned: Sequence[Mapping[str, ActivePass]],
    usable_period: UsablePeriod,
    covered: Covered,
) -> None:
    """Take off what passes that users have cover already.

    A bundle is taken to be used up in the days in which it can be used: in each
    scenario it covers what it holds of the charging inside its conditions. A lower
    price is taken off what that charging costs. Only products that are in the
    catalogue count, at their present terms.
    """
    for user, passes in enumerate(owned):
        for product_id, has in passes.items():
            row = columns.row_of.get(product_id)
            if row is None:
                continue
            kind, amount = columns.kind.item(row), columns.amount.item(row)
            if has.left is not None:
                amount = min(amount, has.left)
            taken, inside = _common(columns, demands, payments, user, row)
            start, end = _span(columns, row, has, usable_period)
            shared = np.minimum(end, usable_period.last_day) - np.maximum(
                start, usable_period.first_day
            )
            taken *= _overlap(
                np.maximum(0.0, shared), usable_period.last_day - usable_period.first_day
            )
            periods = max(0.0, end - start) / PERIOD_DAYS
            if kind == Kind.ENERGY_BUNDLE:
                coming = demands.energy_kwh[user] * (inside * periods)
                taken *= np.minimum(1.0, amount / 1000 / np.maximum(coming, 1e-9))[:, None]
            elif kind == Kind.SESSION_BUNDLE:
                coming = demands.sessions[user] * (inside * periods)
                taken *= np.minimum(1.0, amount / np.maximum(coming, 1e-9))[:, None]
            elif kind == Kind.PERCENTAGE_OFF:
                taken *= amount
            else:
                price = mean_price.item(user)
                taken *= max(0.0, 1 - amount / price) if price > 0 else 0.0
            left = 1 - taken
            if kind in BUNDLES:
                covered.kwh[user] *= left
            covered.gain[user] *= left
