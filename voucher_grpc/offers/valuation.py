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

Hours and places are taken as independent of one another. Many users are valued
in one go: what a NumPy call costs by itself is shared among them. e and v are
worked out once for each cell of the catalogue (see `columns`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

import numpy as np

from voucher_grpc.catalogue.conditions import (
    HOURS_PER_WEEK,
    PowerType,
    asks_for_connector,
    connector_selected,
    place_selected,
)
from voucher_grpc.offers.columns import Columns, Integers, Kind, Selection, Where
from voucher_grpc.offers.demand import ASSUMED_POWER_W, Demand, DemandPlace
from voucher_grpc.offers.tendency import Vector
from voucher_grpc.places.location import Connector, VehicleProfile, connectors_at, fits
from voucher_grpc.places.tariff import HourlyPrices


@dataclass(frozen=True, slots=True)
class PayAsYouGo:
    """What charging is expected to cost without a pass, micro-units; NaN without any price."""

    price_per_kwh: float
    cost_per_30_days: float
    unpriced_share: float


@dataclass(frozen=True, slots=True)
class Worth:
    """One product to one user; money in micro-units over the pass's life.

    `harm_probability` is the weight of the scenarios in which the saving is
    below zero; `hours_share` is the energy-weighted mean over the scenarios,
    `covered_energy_wh` and `covered_sessions` are expected over the life,
    `gain_per_kwh` is what the benefit takes off a covered kWh before a bundle
    is used up; zero where nothing is covered.
    """

    expected_saving: float
    harm_probability: float
    hours_share: float
    places_share: float
    covered_energy_wh: float
    covered_sessions: float
    gain_per_kwh: float


_BUNDLES = (int(Kind.ENERGY_BUNDLE), int(Kind.SESSION_BUNDLE))


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

    def worth(self, user: int, row: int) -> Worth:
        """What the product in a row of the catalogue is worth to a user of the batch."""
        position, cells = self.selection.position[row], self.columns.cells
        cell = self.columns.cell.item(row)
        saving = self.expected_saving.item(user, position)
        kwh = self.covered_kwh.item(user, cell)
        if self.columns.kind.item(row) in _BUNDLES:
            # Before a bundle is used up, each covered kWh saves its whole price.
            given = self.covered_cost.item(user, cell)
        else:
            given = saving + self.columns.price.item(row)
        return Worth(
            expected_saving=saving,
            harm_probability=self.harm_probability.item(user, position),
            hours_share=self.hours_share.item(user, cells.when.item(cell)),
            places_share=self.places_share.item(user, cells.where.item(cell)),
            covered_energy_wh=kwh * 1000,
            covered_sessions=self.covered_sessions.item(user, cell),
            gain_per_kwh=given / kwh if kwh > 0 else 0.0,
        )


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


@lru_cache(maxsize=16_384)
def _table(prices: HourlyPrices) -> tuple[Vector, bool]:
    """The tariff as 4 rows by 168 (energy, flat, charging, parking); whether only energy costs."""
    table = np.array([prices.energy, prices.flat, prices.charging, prices.parking])
    return table, not table[1:].any()


_NO_PRICE = (np.full((4, HOURS_PER_WEEK), np.nan), True)


@dataclass(frozen=True, slots=True)
class _Payments:
    """Which tariff is paid for which part of a user's charging.

    A row for each user and tariff, those of a user side by side from `starts`
    on; `where_share` is the share of the user's energy that is charged under
    it inside each where, `share` the same for all wheres.
    """

    user: Integers
    starts: Integers
    tables: Vector
    energy_only: bool
    where_share: Vector
    share: Vector
    unpriced: Sequence[float]


def _payments(
    columns: Columns, demands: Sequence[Demand], vehicles: Sequence[VehicleProfile]
) -> _Payments:
    """An unpriced place takes the mean of the user's priced ones, weighted by their shares."""
    user: list[int] = []
    covered: list[Vector] = []
    starts, tables, entries, unpriced = [], [], [], []
    for number, (demand, vehicle) in enumerate(zip(demands, vehicles, strict=True)):
        starts.append(len(user))
        by_tariff: dict[HourlyPrices | None, list[tuple[int, float]]] = {}
        for place in demand.places:
            entry = (len(covered), place.share)
            by_tariff.setdefault(place.prices, []).append(entry)
            covered.append(_covered(columns, place, vehicle))
        without = by_tariff.pop(None, [])
        priced = sum(share for members in by_tariff.values() for _, share in members)
        unpriced.append(sum(share for _, share in without))
        if priced <= 0:
            by_tariff, priced = {None: without}, 1.0
            without = []
        for prices, members in by_tariff.items():
            part = sum(share for _, share in members) / priced
            entries += [(len(user), place, share) for place, share in members]
            entries += [(len(user), place, share * part) for place, share in without]
            user.append(number)
            tables.append(_NO_PRICE if prices is None else _table(prices))
    shares = np.zeros((len(user), len(covered)))
    for payment, at, share in entries:
        shares[payment, at] = share
    return _Payments(
        user=np.array(user),
        starts=np.array(starts),
        tables=np.array([table for table, _ in tables]),
        energy_only=all(only for _, only in tables),
        where_share=shares @ np.array(covered).reshape(len(covered), len(columns.wheres)),
        share=shares.sum(axis=1),
        unpriced=unpriced,
    )


@dataclass(frozen=True, slots=True)
class _Batch:
    """The demands of users with as many scenarios each, stacked; `kwh` in 30 days."""

    kwh: Vector
    sessions: Vector
    weights: Vector
    hours: Vector
    session_wh: Vector
    dwell_h: Vector

    def mean(self, values: Vector) -> Vector:
        """The mean over the scenarios: users by whatever."""
        mean: Vector = np.matmul(self.weights[:, None, :], values)[:, 0, :]
        return mean


def _batch(demands: Sequence[Demand]) -> _Batch:
    return _Batch(
        kwh=np.array([demand.energy_wh for demand in demands]) / 1000,
        sessions=np.array([demand.sessions for demand in demands]),
        weights=np.array([demand.weights for demand in demands]),
        hours=np.array([demand.hours for demand in demands]),
        session_wh=np.array([demand.session_energy_wh for demand in demands]),
        dwell_h=np.array([demand.dwell_s for demand in demands]) / 3600,
    )


def _bounds_share(columns: Columns, session_wh: Vector) -> Vector | None:
    """Share of the users' energy between the bounds on a session's energy: users by 1 by
    whens; None without such bounds."""
    bounded = [
        (number, when)
        for number, when in enumerate(columns.whens)
        if when.min_energy_wh or when.max_energy_wh is not None
    ]
    if not bounded:
        return None
    share = np.ones((len(session_wh), 1, len(columns.whens)))
    total = session_wh.sum(axis=1)
    for number, when in bounded:
        top = np.inf if when.max_energy_wh is None else when.max_energy_wh
        inside = np.clip(session_wh, when.min_energy_wh, top) - when.min_energy_wh
        share[:, 0, number] = inside.sum(axis=1) / total
    return share


def _price_per_kwh(batch: _Batch, payments: _Payments) -> Vector:
    """Payments by hours of the week: all dimensions of the tariff put on energy.

    A user's usual session is split into charging and parking; it charges at no
    less than ASSUMED_POWER_W on average.
    """
    tables = payments.tables
    if payments.energy_only:
        energy: Vector = tables[:, 0]
        return energy
    mean_wh, dwell_h = batch.session_wh.mean(axis=1), batch.dwell_h
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
    price: Vector = np.einsum("kp,pkh->ph", amounts[:, payments.user], tables)
    return price


@dataclass(frozen=True, slots=True)
class _Covered:
    """What is covered: users by scenarios by cells, over the pass's life."""

    kwh: Vector
    sessions: Vector
    cost: Vector
    energy_cost: Vector


def _in_hours(columns: Columns, hours: Vector, bounds: Vector | None) -> Vector:
    """Rows by scenarios by whens, from rows by scenarios by hours of the week."""
    rows, scenarios, _ = hours.shape
    inside: Vector = (hours.reshape(rows * scenarios, -1) @ columns.when_hours).reshape(
        rows, scenarios, -1
    )
    if bounds is not None:
        inside *= bounds
    return inside


def _by_user(values: Vector, payments: _Payments) -> Vector:
    """The sums of each user's payments."""
    if len(payments.user) == len(payments.starts):
        return values
    sums: Vector = np.add.reduceat(values, payments.starts, axis=0)
    return sums


def _covered_by_cell(
    columns: Columns, batch: _Batch, payments: _Payments, price: Vector, today: int
) -> tuple[_Covered, Vector, Vector]:
    """What is covered, with the shares by when (scenarios apart) and by where."""
    cells, user = columns.cells, payments.user
    bounds = _bounds_share(columns, batch.session_wh)
    places_share = _by_user(payments.where_share, payments)
    hours_share = _in_hours(columns, batch.hours, bounds)
    share = hours_share.take(cells.when, axis=2)
    share *= (places_share.take(cells.where, axis=1) * columns.periods(today))[:, None, :]
    paid_hours = batch.hours if len(user) == len(batch.hours) else batch.hours[user]
    paid_bounds = None if bounds is None else bounds[user]
    paid_kwh = batch.kwh[user][:, :, None]
    paid_where = payments.where_share.take(cells.where, axis=1) * columns.periods(today)

    def cost(prices: Vector) -> Vector:
        inside = _in_hours(columns, paid_hours * prices[:, None, :], paid_bounds)
        each = (inside * paid_kwh).take(cells.when, axis=2)
        each *= paid_where[:, None, :]
        return _by_user(each, payments)

    total = cost(price)
    energy = total if payments.energy_only else cost(payments.tables[:, 0])
    covered = _Covered(
        kwh=share * batch.kwh[:, :, None],
        sessions=share * batch.sessions[:, :, None],
        cost=total,
        energy_cost=energy,
    )
    bundles = cells.session_bundles
    if len(bundles):
        under_cap = np.minimum(batch.session_wh[:, :, None], cells.session_cap_wh[bundles])
        under_cap = under_cap.sum(axis=1) / batch.session_wh.sum(axis=1)[:, None]
        covered.cost[:, :, bundles] *= under_cap[:, None, :]
    return covered, hours_share, places_share


# Less than this of a kWh or a session is nothing.
_LEAST_MEASURE = 1e-12


def _savings(columns: Columns, selection: Selection, covered: _Covered) -> Vector:
    """Users by scenarios by products, the price of the pass deducted."""
    cost, kwh = covered.cost, covered.kwh
    measure = kwh.copy()
    bundles = columns.cells.session_bundles
    measure[:, :, bundles] = covered.sessions[:, :, bundles]
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
    return saving


def value(
    columns: Columns,
    demands: Sequence[Demand],
    vehicles: Sequence[VehicleProfile],
    now: datetime,
    selection: Selection | None = None,
) -> Valuation:
    """Value the products of a selection (None: all) for one or more users at once.

    All demands must have as many scenarios, and as many energies of a session.
    """
    selection = columns.everything() if selection is None else selection
    batch = _batch(demands)
    payments = _payments(columns, demands, vehicles)
    price = _price_per_kwh(batch, payments)
    covered, hours_share, places_share = _covered_by_cell(
        columns, batch, payments, price, now.toordinal()
    )
    saving = _savings(columns, selection, covered)
    energy = batch.weights * batch.kwh
    mean_kwh = energy.sum(axis=1)
    parts = batch.weights.copy()
    np.divide(energy, mean_kwh[:, None], out=parts, where=mean_kwh[:, None] > 0)
    mean_hours = np.matmul(parts[:, None, :], batch.hours)[:, 0, :]
    paid = (price * mean_hours[payments.user]).sum(axis=1) * payments.share
    shares = _by_user(payments.share, payments)
    mean_price = _by_user(paid, payments) / shares
    return Valuation(
        columns=columns,
        selection=selection,
        saving=saving,
        expected_saving=batch.mean(saving),
        harm_probability=batch.mean((saving < -HARM_TOLERANCE_MICROS).astype(np.float64)),
        hours_share=np.matmul(parts[:, None, :], hours_share)[:, 0, :],
        places_share=places_share,
        covered_kwh=batch.mean(covered.kwh),
        covered_sessions=batch.mean(covered.sessions),
        covered_cost=batch.mean(covered.cost),
        pay_as_you_go=[
            PayAsYouGo(*figures)
            for figures in zip(
                mean_price.tolist(),
                (mean_price * mean_kwh).tolist(),
                payments.unpriced,
                strict=True,
            )
        ],
    )
