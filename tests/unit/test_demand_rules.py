"""What users are expected to charge: sums, forecasts, segments and scenarios, figure by figure."""

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from tests.unit.builders import NOW, make_demand, make_session
from voucher_grpc.domain.tendencies.demand import MONTHLY_CV, coming_energy, expected_demands
from voucher_grpc.domain.tendencies.forecast import (
    BLOCK_OF_HOUR,
    FORECAST_BYTES,
    SCENARIOS,
    SILENCES_DAYS,
    Parameters,
    base_energy_kwh,
    block_shares,
    features,
    forecasts,
    recent_shares,
    scenarios,
    shape_shares,
    spread,
)
from voucher_grpc.domain.tendencies.forest import Forest
from voucher_grpc.domain.tendencies.segments import (
    PARENT_USERS,
    Member,
    Segment,
    SegmentKey,
    build_segments,
    drawn_to_segments,
    prior_of,
)
from voucher_grpc.domain.tendencies.tendency import (
    LANDMARK,
    Layout,
    Tendency,
    Vector,
    add_session,
    empty_tendency,
    habits,
    many_habits,
    night_and_weekend,
    rates,
    rebuild,
)


def one_leaf(outcomes: list[tuple[float, float, float]]) -> Parameters:
    """Parameters under which every user is like the whole population, each month as likely."""
    number = len(outcomes)
    forest = Forest(
        roots=np.array([0], dtype=np.int32),
        feature=np.array([-1], dtype=np.int32),
        threshold=np.array([0.0], dtype=np.float32),
        left=np.array([0], dtype=np.int32),
        right=np.array([0], dtype=np.int32),
        first=np.array([0], dtype=np.int32),
        count=np.array([number], dtype=np.int32),
        members=np.arange(number, dtype=np.int32),
        population=number,
        depth=0,
    )
    return Parameters("test", forest, np.array(outcomes, dtype=np.float32), frozenset())


def known_since(days: float, energy_wh: int = 10_000, every: float = 1.0) -> Tendency:
    """A session each so many days for so long, the last one a moment ago."""
    count = int(days / every) + 1
    return rebuild(
        make_session(str(n), start_time=NOW - timedelta(days=n * every), energy_wh=energy_wh)
        for n in range(count)
    )


def points_of(made: bytes, silence_days: float = 0.0) -> Vector:
    """Scenarios by (energy kWh, night share, weekend share)."""
    points, has = scenarios([made], np.array([silence_days]))
    assert has.all()
    user: Vector = points[0]
    return user


def test_a_forecast_applies_what_became_of_the_population_to_the_users_own_month() -> None:
    """Twelve equally likely ratios from a half to six times, rising; the shares are moved."""
    ratios = [n / 2 for n in range(1, SCENARIOS + 1)]
    outcomes = [(math.log(r), 0.1, -0.05) for r in ratios]
    tendency = known_since(200)
    [made] = forecasts(one_leaf(outcomes), [tendency])
    base = base_energy_kwh(tendency, NOW)
    night, weekend = shape_shares(tendency)
    points = points_of(made)
    expected = [(1 + base) * r - 1 for r in ratios]
    assert expected == pytest.approx(points[:, 0].tolist(), rel=1e-3)
    assert [min(1.0, night + 0.1)] * SCENARIOS == pytest.approx(points[:, 1].tolist(), abs=1e-3)
    assert [weekend - 0.05] * SCENARIOS == pytest.approx(points[:, 2].tolist(), abs=1e-3)


def test_a_scenario_is_the_mean_of_its_slice_of_the_population() -> None:
    """Of 24 months two make up each scenario."""
    ratios = [n / 4 for n in range(4, 28)]
    tendency = known_since(200)
    [made] = forecasts(one_leaf([(math.log(r), 0.0, 0.0) for r in ratios]), [tendency])
    base = base_energy_kwh(tendency, NOW)
    expected = [(1 + base) * (ratios[n] + ratios[n + 1]) / 2 - 1 for n in range(0, 24, 2)]
    assert expected == pytest.approx(points_of(made)[:, 0].tolist(), rel=1e-3)


def test_shares_of_a_forecast_stay_between_nothing_and_all() -> None:
    """However far the population moved; and no energy is below zero."""
    for shift, expected in ((2.0, 1.0), (-2.0, 0.0)):
        [made] = forecasts(one_leaf([(-9.0, shift, shift)] * SCENARIOS), [known_since(60)])
        assert [[0.0, expected, expected]] * SCENARIOS == points_of(made).tolist()


def test_a_depot_with_100_mwh_a_month_has_finite_scenarios() -> None:
    """Sixteen bits end at 65,504: what is beyond is kept at 60 MWh, not as infinity."""
    outcomes = [(math.log(r), 0.0, 0.0) for r in np.linspace(0.5, 3, SCENARIOS)]
    tendency = known_since(60, energy_wh=3_400_000)
    assert base_energy_kwh(tendency, NOW) > 90_000
    [made] = forecasts(one_leaf(outcomes), [tendency])
    energies = points_of(made)[:, 0]
    assert np.isfinite(energies).all()
    assert 60_000 == pytest.approx(energies.max(), rel=1e-3)
    assert all(45e6 < wh < 60.1e6 for wh in coming_energy(replace(tendency, forecast=made), NOW))


@pytest.mark.parametrize(
    ("silence_days", "nearest"),
    [(0, 0), (0.9, 0), (1.1, 2), (3.4, 2), (3.6, 5), (7.6, 10), (14.1, 18), (24.1, 30), (900, 30)],
)
def test_a_request_takes_the_forecast_of_the_nearest_silence(
    silence_days: float, nearest: int
) -> None:
    """Each was made for its own."""
    made = np.zeros((len(SILENCES_DAYS), SCENARIOS, 3))
    made[:, :, 0] = np.array(SILENCES_DAYS)[:, None]
    points = points_of(made.astype("<f2").tobytes(), silence_days)
    assert [nearest] * SCENARIOS == points[:, 0].tolist()


def test_forecasts_are_of_the_last_session_and_of_each_silence_after_it() -> None:
    """The energy of the month before falls with the silence; users keep their order."""
    parameters = one_leaf([(0.0, 0.0, 0.0)] * SCENARIOS)
    one, two = known_since(100), known_since(100, 20_000)
    nobody = empty_tendency()
    made = forecasts(parameters, [nobody, one, nobody, two])
    assert [0, FORECAST_BYTES, 0, FORECAST_BYTES] == [len(forecast) for forecast in made]
    assert [b"", b""] == forecasts(parameters, [nobody, nobody])
    for tendency, forecast in ((one, made[1]), (two, made[3])):
        for days in SILENCES_DAYS:
            base = base_energy_kwh(tendency, NOW + timedelta(days=days))
            assert base == pytest.approx(points_of(forecast, days)[0, 0], rel=1e-3)


def test_the_base_of_a_month_is_the_mean_of_two_rates() -> None:
    """Those of 28 and 56 days, in kWh: 10 kWh a day are about 300 in 30 days."""
    tendency = known_since(720)
    energy = rates(tendency, NOW).energy_wh
    assert (energy[1] + energy[2]) / 2 / 1000 == pytest.approx(base_energy_kwh(tendency, NOW))
    assert 300 == pytest.approx(base_energy_kwh(tendency, NOW), rel=0.03)


def test_the_features_of_a_user_month() -> None:
    """Each in its place and unit: what is fitted must be asked in the same way."""
    tendency = rebuild(
        [
            make_session("a", start_time=NOW - timedelta(days=20), energy_wh=4_000),
            make_session("b", start_time=NOW - timedelta(days=12, hours=-11), energy_wh=8_000),
        ]
    )
    at = NOW + timedelta(days=3)
    rate = rates(tendency, at)
    found = features(tendency, at)
    energy, counts = np.log1p(rate.energy_wh / 1000), np.log1p(rate.sessions)
    assert energy.tolist() == pytest.approx(found[0:10:2].tolist())
    assert counts.tolist() == pytest.approx(found[1:10:2].tolist())
    assert [*recent_shares(tendency), *shape_shares(tendency)] == pytest.approx(
        found[10:14].tolist()
    )
    mean, variation, age, sessions, silence, sine, cosine, trend, long_trend = found[14:].tolist()
    old, new = (2 ** (-days / 90) for days in (20, 12 - 11 / 24))
    share = new / (old + new)
    assert mean == pytest.approx(4 + 4 * share)
    assert variation == pytest.approx(4 * math.sqrt(share * (1 - share)) / mean)
    assert (23, 2, 15 - 11 / 24) == pytest.approx((age, sessions, silence))
    season = 2 * math.pi * ((at - LANDMARK) / timedelta(days=1) + 15) / 365.25
    assert (math.sin(season), math.cos(season)) == pytest.approx((sine, cosine))
    assert (energy[0] - energy[2], energy[2] - energy[4]) == pytest.approx((trend, long_trend))


def test_shares_of_who_has_not_charged_are_nothing() -> None:
    """Not a division by zero; the recent ones fall back on the habits."""
    assert (0.0, 0.0) == shape_shares(empty_tendency()) == recent_shares(empty_tendency())
    tendency = known_since(10)
    kept = shape_shares(tendency)
    tendency.state[Layout.ENERGY] = 0.0
    assert kept == recent_shares(tendency)


def test_recent_shares_are_of_28_days_and_those_of_the_shape_of_90() -> None:
    """A night long ago weighs less in the first."""
    night = NOW.replace(hour=23) - timedelta(days=28)  # a Monday
    sunday = NOW - timedelta(days=1)
    tendency = rebuild(
        [
            make_session("night", start_time=night, time_zone="UTC"),
            make_session("sunday", start_time=sunday, time_zone="UTC"),
        ]
    )
    age = (sunday - night) / timedelta(days=1)
    for half_life, found in ((28, recent_shares(tendency)), (90, shape_shares(tendency))):
        weight = 2 ** (-age / half_life)
        expected = (weight / (1 + weight), 1 / (1 + weight))
        assert expected == pytest.approx(found)


def test_blocks_are_workdays_and_weekends_by_day_and_by_night() -> None:
    """Night is from 22 to 7, the weekend from Saturday 00:00 on."""
    assert [1, 0, 0, 1] == [BLOCK_OF_HOUR[hour] for hour in (6, 7, 21, 22)]
    assert [1, 3, 3, 2, 2, 3] == [BLOCK_OF_HOUR[hour] for hour in (119, 120, 126, 127, 141, 142)]
    hours = np.arange(168, dtype=np.float64)
    assert [sum(h for h in range(168) if BLOCK_OF_HOUR[h] == b) for b in range(4)] == (
        block_shares(hours).tolist()
    )
    night, weekend = night_and_weekend(hours)
    assert night == sum(h for h in range(168) if BLOCK_OF_HOUR[h] in (1, 3))
    assert weekend == sum(range(120, 168))


def test_a_fiftieth_of_a_profile_is_spread_evenly() -> None:
    """An hour never used is not impossible."""
    hours = np.zeros((1, 168))
    hours[0, 5] = 1.0
    assert [0.98 + 0.02 / 168, 0.02 / 168] == pytest.approx(spread(hours)[0, 5:7].tolist())


def test_a_rate_is_the_decayed_sum_over_the_decayed_time() -> None:
    """One session of 10 kWh 20 days ago: 24 days count, four more than it is known."""
    tendency = rebuild([make_session(start_time=NOW - timedelta(days=20))])
    found = rates(tendency, NOW)
    for number, half_life in enumerate((14, 28, 56, 112, 365)):
        time_days = half_life / math.log(2) * (1 - 2 ** (-24 / half_life))
        expected = 30 * 2 ** (-20 / half_life) / time_days
        assert expected == pytest.approx(found.sessions[number])
        assert 10_000 * expected == pytest.approx(found.energy_wh[number])


def test_the_expected_rate_is_the_mean_at_28_and_56_days() -> None:
    """In sessions and in energy."""
    tendency = rebuild([make_session(start_time=NOW - timedelta(days=20))])
    rate = rates(tendency, NOW)
    found = habits(tendency, NOW)
    assert found is not None
    expected = (rate.sessions[1] + rate.sessions[2]) / 2
    assert expected == pytest.approx(found.sessions_per_30_days)
    assert 10_000 * expected == pytest.approx(found.energy_wh_per_30_days)
    assert (10_000, 0, 7200, 20) == pytest.approx(
        (
            found.energy_wh_per_session,
            found.energy_cv_per_session,
            found.dwell_s,
            found.silence_days,
        ),
        abs=1e-4,
    )


@pytest.mark.parametrize(("silence", "judged_at"), [(29, 29), (30, 30), (31, 30), (400, 30)])
def test_a_silence_counts_for_thirty_days_at_most(silence: int, judged_at: int) -> None:
    """The rate is that of then; how long it has been is told in full."""
    tendency = rebuild([make_session(start_time=NOW)])
    _, then = many_habits([tendency], NOW + timedelta(days=judged_at))
    _, now = many_habits([tendency], NOW + timedelta(days=silence))
    assert then.sessions_per_30_days.tolist() == pytest.approx(now.sessions_per_30_days.tolist())
    assert ([silence], [silence]) == (now.silence_days.tolist(), now.known_days.tolist())


@pytest.mark.parametrize(("energy_wh", "counted"), [(100, 0), (101, 1)])
def test_a_session_of_more_than_a_tenth_of_a_kwh_says_something_of_habits(
    energy_wh: int, counted: int
) -> None:
    """One of no more is a failed start: it is counted, and nothing else."""
    tendency = empty_tendency()
    add_session(tendency, make_session(energy_wh=energy_wh))
    assert 1 == tendency.sessions
    assert bool(counted) is bool(tendency.state.any())
    assert bool(counted) is (tendency.last_session_time is not None)


def test_habits_need_a_watt_hour_a_session() -> None:
    """Less would make the price of a kWh boundless; users keep their numbers."""
    well, hardly, none = known_since(5), known_since(5), empty_tendency()
    hardly.state[Layout.SHAPE_ENERGY] = 0.99 * hardly.state[Layout.SHAPE_COUNT]
    numbers, found = many_habits([none, well, hardly, well], NOW)
    assert ([1, 3], 2) == (numbers, len(found.silence_days))
    hardly.state[Layout.SHAPE_ENERGY] = hardly.state[Layout.SHAPE_COUNT]
    assert [0] == many_habits([hardly], NOW)[0]


def test_without_a_forecast_energies_are_spread_around_the_expected_rate() -> None:
    """As a compound Poisson sum is, with what months differ by; the mean is the rate."""
    tendency = rebuild(
        make_session(str(n), start_time=NOW - timedelta(days=n), energy_wh=wh)
        for n, wh in enumerate([5_000, 15_000] * 20)
    )
    _, many = many_habits([tendency], NOW)
    demands = expected_demands(many, [()], [b""])
    energy, sessions = demands.energy_kwh[0], demands.sessions[0]
    rate = many.sessions_per_30_days.item()
    assert many.energy_wh_per_30_days.item() / 1000 == pytest.approx(energy.mean())
    assert rate == pytest.approx(sessions.mean())
    assert (np.diff(energy) > 0).all()
    squared = (1 + many.energy_cv_per_session.item() ** 2) / rate + MONTHLY_CV**2
    sigma = math.sqrt(math.log1p(squared))
    # The middles of twelve slices of a standard normal: the sixth and the seventh.
    assert math.exp(2 * sigma * 0.1046334) == pytest.approx(energy[6] / energy[5], rel=1e-4)
    assert math.exp(2 * sigma * 1.7316644) == pytest.approx(energy[11] / energy[0], rel=1e-4)
    assert many.hours.tolist() == demands.profile.tolist()
    assert (demands.block_factors == 1).all()
    assert 2.0 == pytest.approx(demands.dwell_h.item())
    mean, five = many.energy_wh_per_session.item(), demands.session_wh[0]
    assert 5 == len(five)
    assert mean == pytest.approx(five.mean())
    spread_of = math.sqrt(math.log1p(many.energy_cv_per_session.item() ** 2))
    assert math.exp(2 * spread_of * 1.2815516) == pytest.approx(five[4] / five[0], rel=1e-4)


def test_the_spread_of_months_is_bounded_for_who_hardly_charges() -> None:
    """A variance of four times the square of the mean at most."""
    _, many = many_habits([known_since(30)], NOW)
    rare = replace(many, sessions_per_30_days=np.array([0.1]))
    energy = expected_demands(rare, [()], [b""]).energy_kwh[0]
    sigma = math.sqrt(math.log1p(4.0))
    assert math.exp(2 * sigma * 1.7316644) == pytest.approx(energy[11] / energy[0], rel=1e-4)


def test_with_a_forecast_its_scenarios_are_taken_and_the_sessions_keep_their_size() -> None:
    """Beside users who have none."""
    made = np.zeros((len(SILENCES_DAYS), SCENARIOS, 3))
    made[:, :, 0] = np.arange(1, SCENARIOS + 1) * 16
    made[:, :, 1:] = 0.25
    tendency = known_since(30)
    _, many = many_habits([tendency, tendency], NOW)
    demands = expected_demands(many, [(), ()], [b"", made.astype("<f2").tobytes()])
    assert made[0, :, 0].tolist() == demands.energy_kwh[1].tolist()
    assert demands.energy_kwh[0].tolist() != demands.energy_kwh[1].tolist()
    per_kwh = many.sessions_per_30_days / (many.energy_wh_per_30_days / 1000)
    assert (demands.energy_kwh * per_kwh[:, None]).tolist() == [
        pytest.approx(row) for row in demands.sessions.tolist()
    ]
    assert spread(many.hours)[1].tolist() == demands.profile[1].tolist()
    assert many.hours[0].tolist() == demands.profile[0].tolist()
    hours = demands.profile[1] * demands.block_factors[1][:, BLOCK_OF_HOUR]
    night, weekend = night_and_weekend(hours[0])
    assert (0.25, 0.25) == pytest.approx((night, weekend), abs=0.01)


def test_the_coming_energy_is_told_with_the_tenths_at_its_ends() -> None:
    """Of 16, 32, ... 192 kWh, in Wh."""
    made = np.zeros((len(SILENCES_DAYS), SCENARIOS, 3))
    made[:, :, 0] = np.arange(1, SCENARIOS + 1) * 16
    tendency = replace(known_since(30), forecast=made.astype("<f2").tobytes())
    expected = (104_000, 16_000 * 2.1, 16_000 * 10.9)
    assert expected == pytest.approx(coming_energy(tendency, NOW))


EVENLY = np.full(168, 1 / 168)


def members(key: SegmentKey, count: int, energy_kwh: float = 100) -> list[Member]:
    return [Member(key, np.full(SCENARIOS, energy_kwh), EVENLY)] * count


@pytest.mark.parametrize(("users", "kept"), [(19, False), (20, True), (21, True)])
def test_a_group_of_19_is_not_published_and_one_of_20_is(users: int, kept: bool) -> None:
    """As a whole, as a country, as a type of vehicle."""
    cars = SegmentKey("NO", "CAR")
    assert kept is (SegmentKey() in build_segments(members(SegmentKey(), users)))
    others = members(SegmentKey("SE", "CAR"), 100)
    found = build_segments([*others, *members(cars, users)])
    assert kept is (SegmentKey("NO") in found)
    assert kept is (cars in found)
    others = members(SegmentKey("NO", "VAN"), 100)
    found = build_segments([*others, *members(cars, users)])
    assert SegmentKey("NO") in found
    assert kept is (cars in found)


@pytest.mark.parametrize(("rest", "kept"), [(0, True), (1, False), (19, False), (20, True)])
def test_no_rest_of_less_than_20_can_be_told(rest: int, kept: bool) -> None:
    """The smallest of the narrower ones goes until what is left is large or nothing."""
    cars, vans = members(SegmentKey("NO", "CAR"), 60), members(SegmentKey("NO", "VAN"), 30)
    found = build_segments([*cars, *vans, *members(SegmentKey("NO", "BUS"), rest)])
    assert SegmentKey("NO", "CAR") in found
    assert kept is (SegmentKey("NO", "VAN") in found)
    narrow = [
        *members(SegmentKey("NO", "CAR", "CHEAP"), 30),
        *members(SegmentKey("NO", "CAR"), rest),
    ]
    assert kept is (SegmentKey("NO", "CAR", "CHEAP") in build_segments(narrow))


def test_hours_of_a_segment_are_the_mean_of_its_users_and_energies_their_quantiles() -> None:
    """Each user counts the same, however much is charged."""
    one, two = np.zeros(168), np.zeros(168)
    one[3], two[9] = 1.0, 1.0
    key = SegmentKey("NO")
    found = build_segments(
        [Member(key, np.full(SCENARIOS, 10.0), one)] * 15
        + [Member(key, np.full(SCENARIOS, 1000.0), two)] * 5
    )[key]
    assert (20, 0.75, 0.25) == (found.users, found.hours[3], found.hours[9])
    assert [10.0] * 9 + [1000.0] * 3 == pytest.approx(found.energy_kwh.tolist(), rel=0.03)


def segment(energy_kwh: float, users: int, hour: int) -> Segment:
    hours = np.zeros(168)
    hours[hour] = 1.0
    return Segment(users, np.full(SCENARIOS, energy_kwh), hours)


def test_each_narrower_segment_weighs_by_its_users() -> None:
    """60 users of a country against 20 of the whole: three quarters; then 20 cars a half."""
    assert 20 == PARENT_USERS
    segments = {
        SegmentKey(): segment(1, 10_000, 0),
        SegmentKey("NO"): segment(1, 60, 1),
        SegmentKey("NO", "CAR"): segment(1, 20, 2),
        SegmentKey("NO", "CAR", "FAST"): segment(1, 20, 3),
    }
    found = prior_of(segments, SegmentKey("NO", "CAR", "CHEAP"))
    assert found is not None
    assert [0.125, 0.375, 0.5, 0.0] == pytest.approx(found.hours[:4].tolist())
    fast = prior_of(segments, SegmentKey("NO", "CAR", "FAST"))
    assert fast is not None
    assert [0.0625, 0.1875, 0.25, 0.5] == pytest.approx(fast.hours[:4].tolist())
    no_car = prior_of(segments, SegmentKey("NO", "", "FAST"))
    assert no_car is not None
    assert [0.25, 0.75, 0.0, 0.0] == pytest.approx(no_car.hours[:4].tolist())


@pytest.mark.parametrize(("known_days", "own"), [(0, 0.0), (1, 0.25), (9, 0.75), (27, 0.9)])
def test_a_user_keeps_the_more_of_the_own_the_longer_known(known_days: float, own: float) -> None:
    """d / (d + 3) after d days, in energy and hours."""
    demand = make_demand([99_000] * SCENARIOS, hours={40: 1.0})
    found = drawn_to_segments(demand, [known_days], {0: segment(9, 100, 60)})
    assert 100**own * 10 ** (1 - own) - 1 == pytest.approx(found.energy_kwh[0, 0])
    usual = spread(segment(9, 100, 60).hours)
    assert own + (1 - own) * usual[40] == pytest.approx(found.profile[0, 40])
    assert (1 - own) * usual[60] == pytest.approx(found.profile[0, 60])
    assert (found.energy_kwh / 10).tolist() == [pytest.approx(r) for r in found.sessions.tolist()]


@pytest.mark.parametrize(("known_days", "drawn"), [(29.9, True), (30.0, False), (31.0, False)])
def test_from_thirty_days_on_a_user_is_not_drawn(known_days: float, drawn: bool) -> None:
    """The forecast is fitted on such users."""
    demand = make_demand([99_000] * SCENARIOS)
    found = drawn_to_segments(demand, [known_days], {0: segment(9, 100, 60)})
    assert drawn is (found is not demand)


def test_the_landmark_of_kept_sums_is_not_moved() -> None:
    """Kept rows are read with it: another one would change every user's weights."""
    assert datetime(2020, 1, 1, tzinfo=UTC) == LANDMARK
    state = rebuild([make_session(start_time=LANDMARK + timedelta(days=28))]).state
    assert [4.0, 2.0, 2**0.5] == pytest.approx(state[Layout.COUNT][:3].tolist())
    assert 2 ** (28 / 90) == pytest.approx(state[Layout.SHAPE_COUNT])
    assert (0, 5, 10, 11, 12, 13, 14, 15, 16, 17, 185) == (
        Layout.COUNT.start,
        Layout.ENERGY.start,
        Layout.NIGHT,
        Layout.WEEKEND,
        Layout.SHAPE_COUNT,
        Layout.SHAPE_ENERGY,
        Layout.SHAPE_ENERGY_SQUARED,
        Layout.DWELL,
        Layout.DWELL_COUNT,
        Layout.HOURS.start,
        Layout.SIZE,
    )


def test_what_of_a_scenario_lies_in_a_block_is_drawn_to_the_segment_too() -> None:
    """A scenario of all charging by night on workdays keeps a quarter of that after a day."""
    demand = make_demand([99_000] * 2, hours={40: 0.5, 23: 0.5})
    factors = demand.block_factors.copy()
    factors[0, 0] = [0.0, 2.0, 1.0, 1.0]  # the first scenario: by night alone
    prior = segment(9, 100, 130)._replace(energy_kwh=np.full(2, 9.0))
    found = drawn_to_segments(replace(demand, block_factors=factors), [1.0], {0: prior})
    usual = block_shares(spread(prior.hours))
    for scenario, own in ((0, [0.0, 1.0, 0.0, 0.0]), (1, [0.5, 0.5, 0.0, 0.0])):
        hours = found.profile[0] * found.block_factors[0, scenario][BLOCK_OF_HOUR]
        expected = 0.25 * np.array(own) + 0.75 * usual
        assert expected.tolist() == pytest.approx(block_shares(hours).tolist())


def test_the_energies_of_a_segment_are_the_middles_of_twelve_slices() -> None:
    """Of users from 1 to 1,200 kWh: 50, 150, ... 1,150, within the steps they are counted in."""
    users = [Member(SegmentKey(), np.full(SCENARIOS, float(n)), EVENLY) for n in range(1, 1201)]
    energy = build_segments(users)[SegmentKey()].energy_kwh
    assert [100 * n + 50 for n in range(12)] == pytest.approx(energy.tolist(), rel=0.01)
