"""Segments: what is usual for users of a kind, and how a new user is drawn towards it."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.builders import SPEC, make_demand
from voucher_grpc.domain.tendencies.forecast import BLOCK_OF_HOUR, SCENARIOS, block_factors, spread
from voucher_grpc.domain.tendencies.segments import (
    LEAST_USERS,
    PARENT_USERS,
    PRIOR_DAYS,
    SURE_DAYS,
    Member,
    Segment,
    SegmentKey,
    build_segments,
    drawn_to_segments,
    prior_of,
)

EVENLY = np.full(168, 1 / 168)
CARS, SCOOTERS = SegmentKey("NO", "CAR"), SegmentKey("NO", "SCOOTER", "CHEAP")


def members(key: SegmentKey, energy_kwh: float, count: int) -> list[Member]:
    """Users of a kind who all charge the same."""
    return [Member(key, np.full(SCENARIOS, energy_kwh), EVENLY)] * count


def segment(energy_kwh: float, users: int = 1000, hour: int = 23) -> Segment:
    hours = np.zeros(168)
    hours[hour] = 1.0
    return Segment(users, np.full(SCENARIOS, energy_kwh), hours)


def test_a_member_counts_in_its_segment_and_in_those_around_it() -> None:
    """Population, country, type of vehicle, declared profile."""
    found = build_segments([*members(CARS, 200, 30), *members(SCOOTERS, 5, 50)])
    assert {
        SegmentKey(): 80,
        SegmentKey("NO"): 80,
        CARS: 30,
        SegmentKey("NO", "SCOOTER"): 50,
        SCOOTERS: 50,
    } == {key: s.users for key, s in found.items()}
    assert [5.0] * SCENARIOS == pytest.approx(found[SCOOTERS].energy_kwh.tolist(), rel=0.03)
    assert 1 == pytest.approx(found[SegmentKey()].hours.sum())


def test_a_segment_of_few_is_not_kept() -> None:
    """It would say more of them than of a kind."""
    few = members(CARS, 200, LEAST_USERS - 1)
    assert {} == build_segments(few)
    enough = build_segments([*few, *members(SegmentKey("SE"), 200, 1)])
    assert {SegmentKey()} == set(enough)


def test_no_small_rest_can_be_told_from_two_segments() -> None:
    """All of a country but its cars would be one truck."""
    truck = members(SegmentKey("NO", "TRUCK"), 5_000, 1)
    cars, scooters = members(CARS, 200, 30), members(SegmentKey("NO", "SCOOTER"), 5, 40)
    found = build_segments([*cars, *scooters, *truck])
    assert {SegmentKey(), SegmentKey("NO"), SegmentKey("NO", "SCOOTER")} == set(found)
    found = build_segments([*cars, *truck])
    assert {SegmentKey(), SegmentKey("NO")} == set(found)


def test_of_who_has_no_known_vehicle_the_country_counts() -> None:
    """A wish without a vehicle is of no kind of its own."""
    wish = SegmentKey("NO", "", "CHEAP")
    assert [SegmentKey(), SegmentKey("NO")] == list(wish.around())
    assert [SegmentKey()] == list(SegmentKey("", "CAR", "CHEAP").around())
    assert 4 == len(SCOOTERS.around())


def test_the_quantiles_of_a_segment_are_those_of_its_users_scenarios() -> None:
    """All users' scenarios, thrown together."""
    spread_out = [Member(CARS, np.full(SCENARIOS, float(n)), EVENLY) for n in range(101)]
    energy = build_segments(spread_out)[CARS].energy_kwh
    expected = [100 * (n + 0.5) / SCENARIOS for n in range(SCENARIOS)]
    assert expected == pytest.approx(energy.tolist(), abs=1.5)


def test_a_narrow_segment_is_drawn_to_the_wider_one() -> None:
    """By PARENT_USERS; without a segment of its own a user has that of all."""
    segments = {SegmentKey(): segment(100), CARS: segment(400, int(PARENT_USERS), hour=3)}
    cars = prior_of(segments, CARS)
    assert cars is not None
    # Half way between, as logarithms of 1 + kWh.
    assert [np.sqrt(101 * 401) - 1] * SCENARIOS == pytest.approx(cars.energy_kwh.tolist())
    assert (0.5, 0.5) == pytest.approx((cars.hours[3], cars.hours[23]))
    drones = prior_of(segments, SegmentKey("SE", "DRONE"))
    assert drones is not None
    assert 100 == pytest.approx(drones.energy_kwh[0])
    assert prior_of({}, CARS) is None


def test_a_new_user_is_drawn_to_the_segment_and_a_known_one_is_not() -> None:
    """The less the longer known; sessions keep their size, hours move too."""
    demand = make_demand([50_000] * SCENARIOS, hours={36: 1.0})
    first = drawn_to_segments(demand, [0.0], {0: segment(200)})
    assert [200.0] * SCENARIOS == pytest.approx(first.energy_kwh[0].tolist())
    assert first.profile[0, 23] > 0.97
    half = drawn_to_segments(demand, [PRIOR_DAYS], {0: segment(200)})
    assert [np.sqrt(51 * 201) - 1] * SCENARIOS == pytest.approx(half.energy_kwh[0].tolist())
    assert half.energy_kwh / half.sessions == pytest.approx(demand.energy_kwh / demand.sessions)
    assert drawn_to_segments(demand, [SURE_DAYS], {0: segment(200)}) is demand
    assert drawn_to_segments(demand, [0.0], {}) is demand


@SPEC
@given(
    st.floats(0, 29),
    st.floats(0.1, 1000),
    st.lists(st.integers(0, 500_000), min_size=12, max_size=12),
)
def test_what_is_drawn_lies_between_the_user_and_the_segment(
    known_days: float, usual_kwh: float, energies: list[int]
) -> None:
    """For every scenario; the hours stay shares."""
    demand = make_demand(sorted(energies))
    found = drawn_to_segments(demand, [known_days], {0: segment(usual_kwh)})
    low = np.minimum(demand.energy_kwh, usual_kwh)
    high = np.maximum(demand.energy_kwh, usual_kwh)
    assert (found.energy_kwh >= low * (1 - 1e-9) - 1e-9).all()
    assert (found.energy_kwh <= high * (1 + 1e-9) + 1e-9).all()
    assert 1 == pytest.approx(found.profile.sum())


@SPEC
@given(
    st.floats(0, 29),
    st.lists(st.floats(0.01, 0.99), min_size=4, max_size=4),
    st.integers(0, 167),
    st.integers(0, 167),
)
def test_the_hours_of_every_scenario_stay_shares(
    known_days: float, shares: list[float], own_hour: int, usual_hour: int
) -> None:
    """Also where the forecast expects others than the habits, and the kind charges elsewhen."""
    demand = make_demand([100_000, 200_000], hours={own_hour: 1.0})
    profile = spread(demand.profile)
    factors = block_factors(profile, np.array([shares[:2]]), np.array([shares[2:]]))
    demand = replace(demand, profile=profile, block_factors=factors)
    prior = segment(200, hour=usual_hour)._replace(energy_kwh=np.full(2, 200.0))
    found = drawn_to_segments(demand, [known_days], {0: prior})
    hours = found.profile[0] * found.block_factors[0][:, BLOCK_OF_HOUR]
    assert [1.0, 1.0] == pytest.approx(hours.sum(axis=1).tolist())
    assert (hours >= 0).all()
