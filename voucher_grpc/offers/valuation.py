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

Hours and places are taken as independent of one another.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from voucher_grpc.catalogue.conditions import (
    PowerType,
    asks_for_connector,
    connector_selected,
    place_selected,
)
from voucher_grpc.offers.columns import Columns, Kind, When, Where
from voucher_grpc.offers.demand import Demand, DemandPlace, place_prices
from voucher_grpc.offers.tendency import PERIOD_DAYS, Vector
from voucher_grpc.places.location import Connector, VehicleProfile, connectors_at, fits


@dataclass(frozen=True, slots=True)
class Valuation:
    """One row a product; money in micro-units over the pass's life.

    `saving` is by scenario (scenarios by products), the price of the pass
    deducted; `covered_share` is the share of energy inside the conditions,
    `covered_energy_wh` and `covered_sessions` are expected over the life,
    `value_per_kwh` and `gain_per_kwh` are what a covered kWh costs without the
    pass and what the benefit takes off it.
    """

    saving: Vector
    expected_saving: Vector
    risk: Vector
    hours_share: Vector
    places_share: Vector
    covered_energy_wh: Vector
    covered_sessions: Vector
    gain_per_kwh: Vector
    unpriced_share: float
    price_per_kwh: float
    cost_per_30_days: float


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


def _coverage(columns: Columns, places: Sequence[DemandPlace], vehicle: VehicleProfile) -> Vector:
    """1.0 where a place is covered: wheres by places."""
    return np.array(
        [[place_allowed(where, place, vehicle) for place in places] for where in columns.wheres],
        dtype=np.float64,
    ).reshape(len(columns.wheres), len(places))


def _energy_bounds_share(when: When, session_energy_wh: Vector) -> float:
    """Share of a user's energy between the bounds on the session's energy."""
    if not when.min_energy_wh and when.max_energy_wh is None:
        return 1.0
    top = np.inf if when.max_energy_wh is None else when.max_energy_wh
    inside = np.clip(session_energy_wh, when.min_energy_wh, top) - when.min_energy_wh
    return float(inside.sum() / session_energy_wh.sum())


def _life_share(columns: Columns, now: datetime) -> Vector:
    """Share of the pass's life that is to come and inside its dates."""
    today = float(now.toordinal())
    start = np.where(np.isfinite(columns.start_day), columns.start_day, today)
    first = np.maximum(columns.first_day, np.maximum(start, today))
    last = np.minimum(columns.last_day, start + columns.length_days)
    share: Vector = np.maximum(0.0, last - first) / columns.length_days
    return share


def value(columns: Columns, demand: Demand, vehicle: VehicleProfile, now: datetime) -> Valuation:
    """Value all products for one user."""
    total_price, energy_price, unpriced = place_prices(demand)
    shares = np.array([place.share for place in demand.places])
    coverage = _coverage(columns, demand.places, vehicle)
    weighted = coverage * shares
    bounds = np.array([_energy_bounds_share(w, demand.session_energy_wh) for w in columns.whens])
    inside_hours = columns.when_hours * demand.hours  # whens by 168
    # wheres by whens: share of energy, and price of that share per kWh of all energy
    hours_share = inside_hours.sum(axis=1) * bounds
    places_share = weighted.sum(axis=1)
    cost_share = (weighted @ total_price) @ inside_hours.T * bounds
    energy_share = (weighted @ energy_price) @ inside_hours.T * bounds

    where, when = columns.where_index, columns.when_index
    life = _life_share(columns, now)
    share = hours_share[when] * places_share[where] * life
    periods = columns.length_days / PERIOD_DAYS
    energy = demand.energy_wh[:, None] * periods  # scenarios by products
    covered_kwh = energy * share / 1000
    covered_sessions = demand.sessions[:, None] * periods * share
    covered_cost = energy / 1000 * (cost_share[where, when] * life)
    covered_energy_cost = energy / 1000 * (energy_share[where, when] * life)

    with np.errstate(divide="ignore", invalid="ignore"):
        in_bundle = np.minimum(1.0, np.nan_to_num(columns.amount / (covered_kwh * 1000), nan=1.0))
        in_sessions = np.minimum(1.0, np.nan_to_num(columns.amount / covered_sessions, nan=1.0))
    under_cap = (
        np.minimum(demand.session_energy_wh[:, None], columns.session_cap_wh).sum(axis=0)
        / demand.session_energy_wh.sum()
    )
    kind = columns.kind
    gain = np.select(
        [
            kind == Kind.ENERGY_BUNDLE,
            kind == Kind.SESSION_BUNDLE,
            kind == Kind.ENERGY_PRICE,
        ],
        [
            covered_cost * in_bundle,
            covered_cost * in_sessions * under_cap,
            covered_energy_cost - covered_kwh * columns.amount,
        ],
        covered_cost * columns.amount,
    )
    saving = gain - columns.price
    expected = demand.weights @ saving
    shortfall = np.maximum(0.0, expected - saving)
    expected_kwh = demand.weights @ covered_kwh
    with np.errstate(divide="ignore", invalid="ignore"):
        # Before a bundle is used up, each covered kWh saves its whole price.
        per_kwh = (
            np.select(
                [kind == Kind.ENERGY_BUNDLE, kind == Kind.SESSION_BUNDLE],
                [demand.weights @ covered_cost, demand.weights @ covered_cost * under_cap],
                demand.weights @ gain,
            )
            / expected_kwh
        )
    mean_price = float((shares @ total_price) @ demand.hours / shares.sum())
    return Valuation(
        saving=saving,
        expected_saving=expected,
        risk=demand.weights @ shortfall,
        hours_share=hours_share[when],
        places_share=places_share[where],
        covered_energy_wh=expected_kwh * 1000,
        covered_sessions=demand.weights @ covered_sessions,
        gain_per_kwh=np.nan_to_num(per_kwh),
        unpriced_share=unpriced,
        price_per_kwh=mean_price,
        cost_per_30_days=mean_price * demand.mean_energy_wh / 1000,
    )
