"""Tendencies: sums that do not care for order, and habits that say what was done."""

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.builders import NOW, SPEC, make_session
from voucher_grpc.domain.catalogue.conditions import HOURS_PER_WEEK
from voucher_grpc.domain.tendencies.tendency import (
    AGE_ADDED_DAYS,
    MAX_SILENCE,
    RATE_HALF_LIVES_DAYS,
    RATE_MIX,
    SHAPE_HALF_LIFE_DAYS,
    Habits,
    Layout,
    Session,
    Tendency,
    add_session,
    empty_tendency,
    habits,
    rebuild,
    shape_weight,
)

ROW_BYTES = 2048


@st.composite
def sessions(draw: st.DrawFn) -> Session:
    """A session from 2010 to 2030, of any energy the service takes."""
    start = draw(
        st.datetimes(
            datetime(2010, 1, 1),  # noqa: DTZ001
            datetime(2030, 1, 1),  # noqa: DTZ001
            timezones=st.just(UTC),
        )
    )
    hours = draw(st.one_of(st.none(), st.integers(0, 744)))
    return make_session(
        start_time=start,
        end_time=None if hours is None else start + timedelta(hours=hours),
        energy_wh=draw(st.integers(0, 10_000_000)),
        time_zone=draw(st.sampled_from(["Europe/Oslo", "Pacific/Apia", "America/New_York"])),
    )


def same(one: Tendency, other: Tendency) -> bool:
    """Equal within a billionth, number by number."""
    return (one.sessions, one.first_session_time, one.last_session_time) == (
        other.sessions,
        other.first_session_time,
        other.last_session_time,
    ) and np.allclose(one.state, other.state, rtol=1e-9, atol=0)


def known(tendency: Tendency, now: datetime = NOW) -> Habits:
    found = habits(tendency, now)
    assert found is not None
    return found


def history(*changes: dict[str, Any]) -> Tendency:
    return rebuild(make_session(str(n), **change) for n, change in enumerate(changes))


@SPEC
@given(st.lists(sessions(), max_size=30), st.randoms(use_true_random=False))
def test_the_order_of_sessions_does_not_matter(items: list[Session], order: random.Random) -> None:
    """Whatever arrives late gives the same tendency."""
    shuffled = list(items)
    order.shuffle(shuffled)
    assert same(rebuild(items), rebuild(shuffled))


@SPEC
@given(st.lists(sessions(), max_size=20), st.lists(sessions(), max_size=20))
def test_adding_to_what_is_kept_equals_a_rebuild(old: list[Session], new: list[Session]) -> None:
    """Also after the state went through the bytes of the database."""
    kept = rebuild(old)
    kept.state = np.frombuffer(kept.state.astype("<f8").tobytes(), dtype="<f8").astype(np.float64)
    for session in new:
        add_session(kept, session)
    assert same(rebuild([*old, *new]), kept)


@SPEC
@given(st.lists(sessions(), max_size=20), st.integers(0, 20))
def test_states_of_disjoint_sessions_add_up(items: list[Session], cut: int) -> None:
    """Two parts are the whole."""
    parts = rebuild(items[:cut]).state + rebuild(items[cut:]).state
    assert np.allclose(rebuild(items).state, parts, rtol=1e-9, atol=0)


@pytest.mark.parametrize("index", range(len(RATE_HALF_LIVES_DAYS)))
def test_each_rate_halves_after_its_half_life(index: int) -> None:
    """A session so many days older weighs half."""
    young = rebuild([make_session(start_time=NOW)]).state
    age = timedelta(days=RATE_HALF_LIVES_DAYS[index])
    old = rebuild([make_session(start_time=NOW - age)]).state
    for part in (Layout.COUNT, Layout.ENERGY):
        assert young[part][index] / 2 == pytest.approx(old[part][index], rel=1e-12)


def test_the_shape_halves_after_its_half_life() -> None:
    """The weight of hours, places and energies."""
    older = NOW - timedelta(days=SHAPE_HALF_LIFE_DAYS)
    assert shape_weight(NOW) / 2 == pytest.approx(shape_weight(older), rel=1e-12)


@pytest.mark.parametrize("year", [2010, 2020, 2026, 2050])
def test_nothing_overflows_or_vanishes_until_2050(year: int) -> None:
    """A thousand of the greatest sessions keep finite, positive sums and readable habits."""
    now = datetime(year, 12, 31, tzinfo=UTC)
    items = [
        make_session(str(n), start_time=now - timedelta(hours=n), energy_wh=10_000_000)
        for n in range(1000)
    ]
    tendency = rebuild(items)
    assert np.isfinite(tendency.state).all()
    assert 10_000_000 == pytest.approx(known(tendency, now).energy_wh_per_session)


def test_a_row_is_small() -> None:
    """Vector, counters and times fit into 2 KB."""
    assert ROW_BYTES > empty_tendency().state.astype("<f8").nbytes + 200


def test_nothing_is_known_without_sessions_or_without_energy() -> None:
    """None, not a division by zero."""
    assert habits(empty_tendency(), NOW) is None
    assert habits(history({"energy_wh": 0}), NOW) is None
    assert habits(history({"energy_wh": 100}, {"energy_wh": 99}), NOW) is None


def test_a_steady_history_has_its_own_rate() -> None:
    """10 kWh every third day for two years are 100 kWh in ten sessions in 30 days."""
    steady = known(history(*({"start_time": NOW - timedelta(days=3 * n + 1)} for n in range(240))))
    assert 100_000 == pytest.approx(steady.energy_wh_per_30_days, rel=0.05)
    assert 10 == pytest.approx(steady.sessions_per_30_days, rel=0.05)
    assert 10_000 == pytest.approx(steady.energy_wh_per_session)
    assert 0 == pytest.approx(steady.energy_cv_per_session, abs=1e-6)
    assert 7200 == pytest.approx(steady.dwell_s)


def test_a_single_session_has_a_bounded_rate() -> None:
    """On its own day: one session in the days that are added to the age."""
    rate = known(history({"start_time": NOW})).sessions_per_30_days
    expected = sum(
        30 * mix * np.log(2) / h / (1 - 2 ** (-AGE_ADDED_DAYS / h))
        for mix, h in zip(RATE_MIX, RATE_HALF_LIVES_DAYS, strict=True)
    )
    assert expected == pytest.approx(rate)
    assert rate < 10


def test_recent_charging_counts_more() -> None:
    """Who has begun to charge more has a greater rate than who has begun to charge less."""
    days = range(1, 181)
    more = history(
        *(
            {"start_time": NOW - timedelta(days=d), "energy_wh": 20_000 if d <= 90 else 5_000}
            for d in days
        )
    )
    less = history(
        *(
            {"start_time": NOW - timedelta(days=d), "energy_wh": 5_000 if d <= 90 else 20_000}
            for d in days
        )
    )
    assert known(more).energy_wh_per_30_days > 1.5 * known(less).energy_wh_per_30_days


def test_a_long_silence_is_told_but_not_held_against_the_rate() -> None:
    """After MAX_SILENCE the rate stays as it was."""
    tendency = history(*({"start_time": NOW - timedelta(days=n)} for n in range(60)))
    later = [known(tendency, NOW + MAX_SILENCE + timedelta(days=d)) for d in (0, 300)]
    assert later[0].energy_wh_per_30_days == later[1].energy_wh_per_30_days
    assert (30, 330) == (later[0].silence_days, later[1].silence_days)


def at_local_hour(hour: int, days: int = 7) -> list[dict[str, Any]]:
    """One session a day for a week at an hour in Oslo (winter: UTC+1)."""
    monday = datetime(2026, 11, 9, tzinfo=UTC) + timedelta(hours=hour - 1)
    return [{"start_time": monday + timedelta(days=d), "end_time": None} for d in range(days)]


@pytest.mark.parametrize(
    ("hour", "night"), [(21, 0), (22, 1), (23, 1), (0, 1), (6, 1), (7, 0), (12, 0)]
)
def test_the_night_is_from_22_to_7_local_time(hour: int, night: int) -> None:
    """By the hour in which a session starts."""
    assert night == pytest.approx(known(history(*at_local_hour(hour))).night_share)


def test_shares_are_of_the_energy() -> None:
    """Three quarters of it at night."""
    night = [{**change, "energy_wh": 30_000} for change in at_local_hour(23)]
    mixed = known(history(*night, *at_local_hour(12)))
    assert 0.75 == pytest.approx(mixed.night_share, abs=0.01)
    assert 2 / 7 == pytest.approx(mixed.weekend_share, abs=0.02)
    assert 1 == pytest.approx(mixed.hours.sum())


def test_the_weekend_is_saturday_and_sunday_where_it_happened() -> None:
    """Friday 23:30 UTC is Saturday in Oslo and still Friday in New York."""
    friday = datetime(2026, 11, 13, 23, 30, tzinfo=UTC)
    oslo = known(history({"start_time": friday}))
    new_york = known(history({"start_time": friday, "time_zone": "America/New_York"}))
    assert (1, 0) == (oslo.weekend_share, new_york.weekend_share)


def test_a_session_without_an_end_counts_not_for_the_dwell() -> None:
    """The mean is of those whose end is known."""
    some = history({"end_time": None}, {})
    assert 7200 == pytest.approx(known(some).dwell_s)
    assert 0 == known(history({"end_time": None})).dwell_s


def test_the_spread_of_energies_is_measured() -> None:
    """Energies of 5 and 15 kWh vary by half of their mean."""
    two = history({"energy_wh": 5_000}, {"energy_wh": 15_000})
    assert 0.5 == pytest.approx(known(two).energy_cv_per_session)


def test_first_and_last_are_those_in_time_not_in_arrival() -> None:
    """Whatever the order."""
    old, young = (make_session(start_time=NOW - timedelta(days=d)) for d in (9, 1))
    for order in ((old, young), (young, old)):
        tendency = rebuild(replace(s) for s in order)
        assert (old.start_time, young.start_time) == (
            tendency.first_session_time,
            tendency.last_session_time,
        )


def habits_at(hours: dict[int, float], dwell_s: float) -> Habits:
    """Habits of which only the hours and the time plugged in matter."""
    profile = np.zeros(HOURS_PER_WEEK)
    for hour, share in hours.items():
        profile[hour] = share
    return Habits(9, 1e5, 9.0, 1e4, 0.5, dwell_s, profile, 1.0)


def test_who_always_charges_in_one_hour_is_regular() -> None:
    """1 in one hour, 0 in all alike."""
    assert 1 == pytest.approx(habits_at({5: 1.0}, 0).regularity)
    assert 0 == pytest.approx(habits_at(dict.fromkeys(range(168), 1 / 168), 0).regularity)
    half = habits_at({5: 0.5, 6: 0.5}, 0).regularity
    assert 1 - np.log(2) / np.log(168) == pytest.approx(half)


def test_mean_power_is_energy_over_time_plugged_in() -> None:
    """10 kWh in two hours; not known without an end."""
    assert 5_000 == habits_at({5: 1.0}, 7200).mean_power_w
    assert 0 == habits_at({5: 1.0}, 0).mean_power_w


@pytest.mark.parametrize(
    ("start", "dwell_h", "expected"),
    [
        (5, 1, {5: 0.5, 6: 0.5}),
        (5, 3, {5: 0.5 / 3, 6: 1 / 3, 7: 1 / 3, 8: 0.5 / 3}),
        (167, 1, {167: 0.5, 0: 0.5}),
        (5, 0.25, {5: 1.0}),
        (0, 168, dict.fromkeys(range(168), 1 / 168)),
        (0, 744, dict.fromkeys(range(168), 1 / 168)),
    ],
)
def test_the_time_plugged_in_follows_the_start(
    start: int, dwell_h: float, expected: dict[int, float]
) -> None:
    """From the middle of the hour on, across the end of the week."""
    found = habits_at({start: 1.0}, dwell_h * 3600).plugged_in_hours
    assert found is not None
    assert {h: pytest.approx(s) for h, s in expected.items()} == {
        h: s for h, s in enumerate(found.tolist()) if s > 1e-12
    }


def test_without_an_end_nothing_is_said_of_the_time_plugged_in() -> None:
    """It is not made up."""
    assert habits_at({5: 1.0}, 0).plugged_in_hours is None
