"""Where users charge and what they pay there without a pass: places, tariffs, and which of the
catalogue's conditions a place is inside for a vehicle."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from voucher_grpc.domain.catalogue.conditions import (
    asks_for_connector,
    connector_selected,
    place_selected,
)
from voucher_grpc.domain.offers.cells import Integers, PlaceCondition
from voucher_grpc.domain.offers.columns import Columns
from voucher_grpc.domain.places.location import (
    Connector,
    VehicleProfile,
    connectors_at,
    fits,
    usable_power_w,
)
from voucher_grpc.domain.tendencies.demand import DemandPlace, Demands
from voucher_grpc.domain.tendencies.tendency import Vector
from voucher_grpc.domain.tendencies.user_prices import UserPrices, by_hour, constant


def _connector_allowed(
    place_condition: PlaceCondition, connector: Connector, vehicle: VehicleProfile
) -> bool:
    if not fits(vehicle, connector):
        return False
    if not connector_selected(
        place_condition.selectors, connector.standard, connector.power_type, connector.max_power_w
    ):
        return False
    power = usable_power_w(connector, vehicle)
    return not place_condition.power_bounds or any(
        (low is None or power >= low) and (high is None or power < high)
        for low, high in place_condition.power_bounds
    )


def vehicle_allowed(place_condition: PlaceCondition, vehicle: VehicleProfile) -> bool:
    """Whether the pass is for this type of vehicle; a type that is not known passes no selector."""
    types = place_condition.selectors.vehicle_types
    return not types or vehicle.type in types


def place_allowed(
    place_condition: PlaceCondition, place: DemandPlace, vehicle: VehicleProfile
) -> bool:
    """Whether a pass is good at a place for a vehicle.

    Where the location's connectors are not known, a condition on them is not met.
    """
    if not vehicle_allowed(place_condition, vehicle) or not place_selected(
        place_condition.selectors, place.key
    ):
        return False
    if place.location is None:
        return (
            not asks_for_connector(place_condition.selectors) and not place_condition.power_bounds
        )
    connectors = list(connectors_at(place.location, place.key))
    if not connectors:
        return (
            not asks_for_connector(place_condition.selectors) and not place_condition.power_bounds
        )
    return any(_connector_allowed(place_condition, connector, vehicle) for connector in connectors)


def _covered(columns: Columns, place: DemandPlace, vehicle: VehicleProfile) -> Vector:
    """1.0 for the wheres that the place is inside, for the vehicle."""
    kept = columns.covered.get(vehicle, place.key, place.location)
    if kept is not None:
        return kept
    covered = np.array(
        [
            place_allowed(place_condition, place, vehicle)
            for place_condition in columns.place_conditions
        ],
        dtype=np.float64,
    )
    columns.covered.keep(vehicle, place.key, place.location, covered)
    return covered


_NO_PRICE = constant(math.nan)


@dataclass(frozen=True, slots=True)
class Payments:
    """Which tariff is paid for which part of the users' charging.

    A row for each user and tariff, those of a user side by side from `starts`
    on; `prices` (rows by 4 by 168) has those of UserPrices, all four the same if `alike`, and
    `anytime` (rows) its price at all hours alike. `entries` are the parts of rows, side by side
    too, from `first_entry` on: the `share` of a user's energy that is charged at a place, and
    whether that is inside each where (`covered`).
    """

    user: Integers
    starts: Integers
    prices: Vector
    anytime: Vector
    alike: bool
    first_entry: Integers
    share: Vector
    covered: Vector
    unpriced: Sequence[float]

    @property
    def place_condition_share(self) -> Vector:
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


def payments_of(columns: Columns, demands: Demands, vehicles: Sequence[VehicleProfile]) -> Payments:
    """An unpriced place takes the mean of the user's priced ones, weighted by their shares."""
    user: list[int] = []
    starts, first_entry, unpriced = [], [], []
    shares: list[float] = []
    covered: list[Vector] = []
    row_prices: list[UserPrices] = []
    for number, (places, vehicle) in enumerate(zip(demands.places, vehicles, strict=True)):
        starts.append(len(user))
        by_tariff: dict[UserPrices | None, list[tuple[Vector, float]]] = {}
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
            row_prices.append(_NO_PRICE if prices is None else prices)
    return Payments(
        user=np.array(user),
        starts=np.array(starts),
        prices=by_hour(row_prices),
        anytime=np.array([one.anytime for one in row_prices]),
        alike=all(one.alike for one in row_prices),
        first_entry=np.array(first_entry),
        share=np.array(shares),
        covered=np.array(covered).reshape(len(covered), len(columns.place_conditions)),
        unpriced=unpriced,
    )
