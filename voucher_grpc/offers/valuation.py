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
from functools import lru_cache
from itertools import starmap
from typing import NamedTuple

import numpy as np

from voucher_grpc.catalogue.conditions import (
    HOURS_PER_WEEK,
    PowerType,
    asks_for_connector,
    connector_selected,
    place_selected,
)
from voucher_grpc.offers.columns import Columns, Integers, Kind, Selection, Where
from voucher_grpc.offers.demand import ASSUMED_POWER_W, DemandPlace, Demands
from voucher_grpc.offers.forecast import BLOCK_OF_HOUR, BLOCKS
from voucher_grpc.offers.tendency import Vector
from voucher_grpc.places.location import Connector, VehicleProfile, connectors_at, fits
from voucher_grpc.places.tariff import HourlyPrices


class PayAsYouGo(NamedTuple):
    """What charging is expected to cost without a pass, micro-units; NaN without any price.

    `mean_price_per_kwh` is what the user would pay who charged at all hours alike.
    """

    price_per_kwh: float
    mean_price_per_kwh: float
    cost_per_30_days: float
    unpriced_share: float
    energy_kwh_per_30_days: float
    sessions_per_30_days: float


class Worth(NamedTuple):
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


_BUNDLES = (int(Kind.ENERGY_BUNDLE), int(Kind.SESSION_BUNDLE))
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
    """Users by the products of a selection, as `Worth` has them.

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
    covered_cost: Vector
    pay_as_you_go: Sequence[PayAsYouGo]

    def worths(self, users: Sequence[int], rows: Sequence[int]) -> list[Worth]:
        """What products, by their rows, are worth to as many users of the batch, pair by pair."""
        columns, user, row = self.columns, np.array(users, dtype=int), np.array(rows, dtype=int)
        positions = [self.selection.position[r] for r in rows]
        position, cell = np.array(positions, dtype=int), columns.cell[row]
        expected = self.expected_saving[user, position]
        kwh = self.covered_kwh[user, cell]
        # Before a bundle is used up, each covered kWh saves its whole price.
        whole = np.isin(columns.kind[row], _BUNDLES)
        given = np.where(whole, self.covered_cost[user, cell], expected + columns.price[row])
        gain = np.zeros(len(given))
        np.divide(given, kwh, out=gain, where=kwh > 0)
        ordered = np.sort(self.saving[user, :, position], axis=1)
        figures = (
            expected,
            # A rare great loss draws the mean below nearly all scenarios.
            np.minimum(_quantile(ordered, RANGE_SHARE), expected),
            np.maximum(_quantile(ordered, 1 - RANGE_SHARE), expected),
            self.harm_probability[user, position],
            self.hours_share[user, columns.cells.when[cell]],
            self.places_share[user, columns.cells.where[cell]],
            kwh * 1000,
            self.covered_sessions[user, cell],
            gain,
        )
        return list(starmap(Worth, zip(*(f.tolist() for f in figures), strict=True)))


# Money that a float cannot tell from nothing: a saving of zero does no harm.
HARM_TOLERANCE_MICROS = 0.5


def _usable_power(connector: Connector, vehicle: VehicleProfile) -> int:
    dc = connector.power_type is PowerType.DC
    limit = vehicle.max_dc_power_w if dc else vehicle.max_ac_power_w
    return min(p for p in (connector.max_power_w, limit, 1 << 62) if p)


def _connector_allowed(where: Where, connector: Connector, vehicle: VehicleProfile) -> bool:
    if not fits(vehicle, connector):
        return False
    if not connector_selected(
        where.selectors, connector.standard, connector.power_type, connector.max_power_w
    ):
        return False
    power = _usable_power(connector, vehicle)
    return not where.power_bounds or any(
        (low is None or power >= low) and (high is None or power < high)
        for low, high in where.power_bounds
    )


def vehicle_allowed(where: Where, vehicle: VehicleProfile) -> bool:
    """Whether the pass is for this type of vehicle; a type that is not known passes no selector."""
    types = where.selectors.vehicle_types
    return not types or vehicle.type in types


def place_allowed(where: Where, place: DemandPlace, vehicle: VehicleProfile) -> bool:
    """Whether a pass is good at a place for a vehicle.

    Where the location's connectors are not known, a condition on them is not met.
    """
    if not vehicle_allowed(where, vehicle) or not place_selected(where.selectors, place.key):
        return False
    if place.location is None:
        return not asks_for_connector(where.selectors) and not where.power_bounds
    connectors = list(connectors_at(place.location, place.key))
    if not connectors:
        return not asks_for_connector(where.selectors) and not where.power_bounds
    return any(_connector_allowed(where, connector, vehicle) for connector in connectors)


def _covered(columns: Columns, place: DemandPlace, vehicle: VehicleProfile) -> Vector:
    """1.0 for the wheres that the place is inside, for the vehicle."""
    kept = columns.covered.get(vehicle, place.key, place.location)
    if kept is not None:
        return kept
    covered = np.array(
        [place_allowed(where, place, vehicle) for where in columns.wheres], dtype=np.float64
    )
    columns.covered.keep(vehicle, place.key, place.location, covered)
    return covered


@lru_cache(maxsize=4_096)
def _table(prices: HourlyPrices) -> tuple[Vector, bool]:
    """The tariff as 4 rows by 168 (energy, flat, charging, parking); whether only energy costs."""
    table = np.array([prices.energy, prices.flat, prices.charging, prices.parking])
    return table, not table[1:].any()


_NO_PRICE = (np.full((4, HOURS_PER_WEEK), np.nan), True)
# What a user owns: the days for which each product is good yet.
Owned = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class _Payments:
    """Which tariff is paid for which part of the users' charging.

    A row for each user and tariff, those of a user side by side from `starts`
    on. `entries` are the parts of rows, side by side too, from `first_entry` on:
    the `share` of a user's energy that is charged at a place, and whether that
    is inside each where (`covered`).
    """

    user: Integers
    starts: Integers
    tables: Vector
    table: Integers
    energy_only: bool
    first_entry: Integers
    share: Vector
    covered: Vector
    unpriced: Sequence[float]

    @property
    def where_share(self) -> Vector:
        """Rows by wheres."""
        sums: Vector = np.add.reduceat(self.covered * self.share[:, None], self.first_entry, axis=0)
        return sums

    @property
    def row_share(self) -> Vector:
        """What each row is of its user's energy, wherever."""
        sums: Vector = np.add.reduceat(self.share, self.first_entry)
        return sums

    def entries_of(self, user: int) -> slice:
        """The entries of a user's rows."""
        starts, first = self.starts, self.first_entry
        after = starts.item(user + 1) if user + 1 < len(starts) else len(first)
        end = first.item(after) if after < len(first) else len(self.share)
        return slice(first.item(starts.item(user)), end)

    def by_user(self, values: Vector) -> Vector:
        """The sums of each user's rows."""
        if len(self.user) == len(self.starts):
            return values
        sums: Vector = np.add.reduceat(values, self.starts, axis=0)
        return sums


def _payments(columns: Columns, demands: Demands, vehicles: Sequence[VehicleProfile]) -> _Payments:
    """An unpriced place takes the mean of the user's priced ones, weighted by their shares."""
    user: list[int] = []
    starts, first_entry, unpriced = [], [], []
    shares: list[float] = []
    covered: list[Vector] = []
    tables: dict[int, tuple[int, Vector, bool]] = {}
    table: list[int] = []
    for number, (places, vehicle) in enumerate(zip(demands.places, vehicles, strict=True)):
        starts.append(len(user))
        by_tariff: dict[HourlyPrices | None, list[tuple[Vector, float]]] = {}
        for place in places:
            entry = (_covered(columns, place, vehicle), place.share)
            by_tariff.setdefault(place.prices, []).append(entry)
        without = by_tariff.pop(None, [])
        priced = sum(share for members in by_tariff.values() for _, share in members)
        unpriced.append(sum(share for _, share in without))
        if priced <= 0:
            by_tariff, priced, without = {None: without}, 1.0, []
        for prices, members in by_tariff.items():
            first_entry.append(len(shares))
            part = sum(share for _, share in members) / priced
            for inside, share in (*members, *((inside, s * part) for inside, s in without)):
                covered.append(inside)
                shares.append(share)
            user.append(number)
            known = tables.get(id(prices))
            if known is None:
                found = _NO_PRICE if prices is None else _table(prices)
                known = tables[id(prices)] = (len(tables), *found)
            table.append(known[0])
    return _Payments(
        user=np.array(user),
        starts=np.array(starts),
        tables=np.array([array for _, array, _ in tables.values()]),
        table=np.array(table),
        energy_only=all(only for _, _, only in tables.values()),
        first_entry=np.array(first_entry),
        share=np.array(shares),
        covered=np.array(covered).reshape(len(covered), len(columns.wheres)),
        unpriced=unpriced,
    )


def _bounds_share(columns: Columns, session_wh: Vector) -> Vector | None:
    """Share of the users' energy between the bounds on a session's energy: users by 1 by
    whens; None without such bounds."""
    bounded = columns.bounded_whens
    if not bounded:
        return None
    share = np.ones((len(session_wh), 1, len(columns.whens)))
    total = session_wh.sum(axis=1)
    for number in bounded:
        when = columns.whens[number]
        top = np.inf if when.max_energy_wh is None else when.max_energy_wh
        inside = np.clip(session_wh, when.min_energy_wh, top) - when.min_energy_wh
        share[:, 0, number] = inside.sum(axis=1) / total
    return share


def _price_per_kwh(demands: Demands, payments: _Payments) -> Vector:
    """Payments by hours of the week: all dimensions of the tariff put on energy.

    A user's usual session is split into charging and parking; it charges at no
    less than ASSUMED_POWER_W on average.
    """
    if payments.energy_only:
        energy: Vector = payments.tables[:, 0][payments.table]
        return energy
    mean_wh, dwell_h = demands.session_wh.mean(axis=1), demands.dwell_h
    charging_h = mean_wh / ASSUMED_POWER_W
    charging_h = np.where(dwell_h > 0, np.minimum(charging_h, dwell_h), charging_h)
    amounts = np.array(
        [
            np.ones(len(mean_wh)),
            1000 / mean_wh,
            charging_h * 1000 / mean_wh,
            np.maximum(0.0, dwell_h - charging_h) * 1000 / mean_wh,
        ]
    )
    tables = payments.tables[payments.table]
    price: Vector = np.einsum("kp,pkh->ph", amounts[:, payments.user], tables)
    return price


def _in_blocks(columns: Columns, profile: Vector) -> Vector:
    """What of profiles (rows by 168) lies in each block of the week inside each when: rows by
    blocks by whens."""
    inside: Vector = (profile @ columns.when_blocks).reshape(len(profile), BLOCKS, -1)
    return inside


@dataclass(frozen=True, slots=True)
class _Covered:
    """What is covered: users by scenarios by cells, over the pass's life."""

    kwh: Vector
    cost: Vector
    energy_cost: Vector


def _covered_by_cell(
    columns: Columns, demands: Demands, payments: _Payments, price: Vector, periods: Vector
) -> tuple[_Covered, Vector]:
    """What is covered, and the users' shares by where. `periods` is by cell."""
    cells, user = columns.cells, payments.user
    bounds = _bounds_share(columns, demands.session_wh)
    where_share = payments.where_share
    places_share = payments.by_user(where_share)
    kwh = demands.energy_kwh[:, :, None]

    def by_when(factors: Vector, profile: Vector, rows: Integers | None) -> Vector:
        inside: Vector = np.matmul(factors, _in_blocks(columns, profile))
        inside *= kwh if rows is None else kwh[rows]
        if bounds is not None:
            inside *= bounds if rows is None else bounds[rows]
        return inside

    def cost(prices: Vector) -> Vector:
        one_each = len(user) == len(demands)
        factors = demands.block_factors if one_each else demands.block_factors[user]
        profile = demands.profile if one_each else demands.profile[user]
        each = by_when(factors, profile * prices, None if one_each else user)
        each = each.take(cells.when, axis=2)
        each *= (where_share.take(cells.where, axis=1) * periods)[:, None, :]
        return payments.by_user(each)

    covered_kwh = by_when(demands.block_factors, demands.profile, None).take(cells.when, axis=2)
    covered_kwh *= (places_share.take(cells.where, axis=1) * periods)[:, None, :]
    total = cost(price)
    energy = total if payments.energy_only else cost(payments.tables[:, 0][payments.table])
    return _Covered(covered_kwh, total, energy), places_share


def _overlap(part: Vector, whole: Vector) -> Vector:
    """part / whole, zero where there is nothing."""
    found: Vector = np.zeros_like(whole)
    np.divide(part, whole, out=found, where=whole > 0)
    return found


def _taken(
    columns: Columns, demands: Demands, payments: _Payments, user: int, row: int, days: float
) -> tuple[Vector, float]:
    """Of the charging inside each cell, what a pass that the user owns covers too (scenarios by
    cells), and the share of all charging that it covers."""
    cells = columns.cells
    when, where = (by_cell.item(columns.cell.item(row)) for by_cell in (cells.when, cells.where))
    factors, profile = demands.block_factors[user], demands.profile[user]
    both = _in_blocks(columns, np.stack((profile, profile * columns.when_hours[:, when])))
    in_hours, in_both = factors @ both[0], factors @ both[1]
    entries = payments.entries_of(user)
    share, covered = payments.share[entries, None], payments.covered[entries]
    in_places = (share * covered).sum(axis=0)
    in_both_places = (share * covered * covered[:, where, None]).sum(axis=0)
    hours, places = _overlap(in_both, in_hours), _overlap(in_both_places, in_places)
    life = np.minimum(1.0, days / cells.length_days)
    taken = hours.take(cells.when, axis=1) * (places.take(cells.where) * life)
    all_of_it = float(in_hours[:, when].mean() * in_places[where])
    return taken, all_of_it


def _deduct_owned(
    columns: Columns,
    demands: Demands,
    payments: _Payments,
    mean_price: Vector,
    owned: Sequence[Owned],
    covered: _Covered,
) -> None:
    """Take off what passes that users have cover already.

    A bundle is taken to be used up in the days that it is good for yet: in each
    scenario it covers what it holds of the charging inside its conditions. A
    lower price is taken off what that charging costs. Only products that are in
    the catalogue count, at their present terms.
    """
    for user, passes in enumerate(owned):
        for product_id, days in passes.items():
            row = columns.row_of.get(product_id)
            if row is None or days <= 0:
                continue
            kind, amount = columns.kind.item(row), columns.amount.item(row)
            taken, inside = _taken(columns, demands, payments, user, row, days)
            periods = days / _PERIOD_DAYS
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
            if kind in _BUNDLES:
                covered.kwh[user] *= left
            covered.cost[user] *= left
            if covered.energy_cost is not covered.cost:
                covered.energy_cost[user] *= left


_PERIOD_DAYS = 30.0
# Less than this of a kWh or a session is nothing.
_LEAST_MEASURE = 1e-12


def _savings(
    columns: Columns, demands: Demands, selection: Selection, covered: _Covered
) -> tuple[Vector, Vector]:
    """(users by scenarios by products, the price of the pass deducted; sessions by cells)."""
    cells, cost, kwh = columns.cells, covered.cost, covered.kwh
    per_kwh = demands.sessions / np.maximum(demands.energy_kwh, _LEAST_MEASURE)
    sessions = kwh * per_kwh[:, :, None]
    bundles = cells.session_bundles
    measure = kwh
    if len(bundles):
        under_cap = np.minimum(demands.session_wh[:, :, None], cells.session_cap_wh[bundles])
        under_cap = under_cap.sum(axis=1) / demands.session_wh.sum(axis=1)[:, None]
        cost[:, :, bundles] *= under_cap[:, None, :]
        measure = kwh.copy()
        measure[:, :, bundles] = sessions[:, :, bundles]
    # What one kWh or session of a bundle takes off.
    unit = np.full_like(cost, np.inf)
    np.divide(cost, measure, out=unit, where=measure > _LEAST_MEASURE)
    saving = np.empty((*cost.shape[:2], len(selection)))
    for kind, part in selection.kinds.items():
        cell, amount = selection.cell[part], selection.amount[part]
        if kind is Kind.ENERGY_PRICE:
            gain = covered.energy_cost.take(cell, axis=2)
            gain -= kwh.take(cell, axis=2) * amount
        elif kind is Kind.PERCENTAGE_OFF:
            gain = cost.take(cell, axis=2)
            gain *= amount
        else:
            gain = unit.take(cell, axis=2)
            gain *= amount
            np.minimum(gain, cost.take(cell, axis=2), out=gain)
        np.subtract(gain, selection.price[part], out=saving[:, :, part])
    return saving, sessions


def value(
    columns: Columns,
    demands: Demands,
    vehicles: Sequence[VehicleProfile],
    owned: Sequence[Owned],
    now: datetime,
    selection: Selection | None = None,
) -> Valuation:
    """Value the products of a selection (None: all) for one or more users at once.

    `vehicles` and `owned` have one entry a user.
    """
    selection = columns.everything() if selection is None else selection
    payments = _payments(columns, demands, vehicles)
    price = _price_per_kwh(demands, payments)
    covered, places_share = _covered_by_cell(
        columns, demands, payments, price, columns.periods(now.toordinal())
    )
    energy = demands.energy_kwh.sum(axis=1)
    weight = np.matmul(demands.energy_kwh[:, None, :], demands.block_factors)[:, 0, :]
    mean_hours = demands.profile * (weight / energy[:, None]).take(BLOCK_OF_HOUR, axis=1)
    row_share = payments.row_share

    def mean_price_of(by_row: Vector) -> Vector:
        paid = payments.by_user(by_row * row_share)
        shares: Vector = paid / payments.by_user(row_share)
        return shares

    paid_price = mean_price_of((price * mean_hours[payments.user]).sum(axis=1))
    if any(owned):
        _deduct_owned(columns, demands, payments, paid_price, owned, covered)
    saving, sessions = _savings(columns, demands, selection, covered)
    scenarios = saving.shape[1]
    return Valuation(
        columns=columns,
        selection=selection,
        saving=saving,
        expected_saving=saving.sum(axis=1) / scenarios,
        harm_probability=np.count_nonzero(saving < -HARM_TOLERANCE_MICROS, axis=1) / scenarios,
        hours_share=demands.hours @ columns.when_hours,
        places_share=places_share,
        covered_kwh=covered.kwh.mean(axis=1),
        covered_sessions=sessions.mean(axis=1),
        covered_cost=covered.cost.mean(axis=1),
        pay_as_you_go=[
            PayAsYouGo(*figures)
            for figures in zip(
                paid_price.tolist(),
                mean_price_of(price.mean(axis=1)).tolist(),
                (paid_price * energy / scenarios).tolist(),
                payments.unpriced,
                (energy / scenarios).tolist(),
                (demands.sessions.sum(axis=1) / scenarios).tolist(),
                strict=True,
            )
        ],
    )
