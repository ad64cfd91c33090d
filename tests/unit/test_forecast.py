"""Forecasts: scenarios of the coming month from what is known of a population."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voucher_grpc.domain.tendencies.forecast import (
    BLOCK_OF_HOUR,
    FORECAST_BYTES,
    SCENARIOS,
    SILENCES_DAYS,
    Parameters,
    block_factors,
    default_parameters,
    features,
    forecasts,
    parameters_from_bytes,
    parameters_to_bytes,
    scenarios,
    spread,
)
from voucher_grpc.domain.tendencies.tendency import Session, Vector, empty_tendency, rebuild
from voucher_grpc.evaluation.backtest import seen_by
from voucher_grpc.evaluation.fit import digest, fit, training_rows
from voucher_grpc.evaluation.months import UserMonth, all_months, by_user, user_months
from voucher_grpc.ocpi import PlaceKey

START = datetime(2024, 1, 1, 20, tzinfo=UTC)


def session(user: str, day: float, energy_wh: int, hour: int = 0) -> Session:
    """A session so many days after START."""
    start = START + timedelta(days=day, hours=hour)
    return Session(user, f"{day}-{hour}", PlaceKey("NO", "TST", "A"), "UTC", start, None, energy_wh)


def population(users: int = 30, days: int = 150) -> list[Session]:
    """Users who charge more or less often, by day or by night, and drift a little."""
    draw = np.random.default_rng(3)
    sessions = []
    for user in range(users):
        every, hour = 1 + user % 5, 3 if user % 2 else 14
        for day in range(0, days, every):
            energy = int(draw.integers(4_000, 16_000) * (1 + day / 300))
            sessions.append(session(f"u{user}", day, energy, hour))
    return sessions


def one_user(forecast: bytes, silence_days: float) -> Vector:
    """Scenarios by (energy kWh, night share, weekend share)."""
    points, has_forecast = scenarios([forecast], np.array([silence_days]))
    assert has_forecast.all()
    user: Vector = points[0]
    return user


@pytest.fixture(scope="module")
def fitted() -> Parameters:
    """Parameters of the small population."""
    months = all_months(population())
    return fit(months, training_rows(months), "test", trees=20)


def test_the_weights_are_those_of_the_fitting_library(fitted: Parameters) -> None:
    """Asking by arrays agrees with scikit-learn's own leaves, tree by tree."""
    from sklearn.ensemble import ExtraTreesRegressor

    months = all_months(population())
    inputs, outcomes = training_rows(months)
    order = np.argsort(outcomes[:, 0], kind="stable")
    # The order of the rows decides the last bit of their deviation, and so which split is best.
    inputs, outcomes = inputs[order].astype(np.float32), outcomes[order]
    targets = outcomes / np.maximum(outcomes.std(axis=0), 1e-9) * [1.0, 0.6, 0.6]
    model = ExtraTreesRegressor(20, min_samples_leaf=5, max_features=1.0, random_state=1)
    leaves = model.fit(inputs, targets).apply(inputs)
    same = leaves[:, None, :] == leaves[None, :, :]
    expected = (same / same.sum(axis=1, keepdims=True)).mean(axis=2)
    np.testing.assert_allclose(
        fitted.forest.weights(inputs.astype(np.float64)), expected, atol=1e-9
    )


def test_weights_add_up_to_one_for_any_row(fitted: Parameters) -> None:
    """Also for a user unlike anybody in the population."""
    rows = np.array([features(empty_tendency(), START), np.full(23, 1e9), np.full(23, -1e9)])
    np.testing.assert_allclose(fitted.forest.weights(rows[:, : rows.shape[1]]).sum(axis=1), 1.0)


def test_a_forecast_does_not_depend_on_the_order_of_arrival(fitted: Parameters) -> None:
    """It is made from the sums alone."""
    sessions = [s for s in population() if s.user_id == "u3"]
    forward, backward = rebuild(sessions), rebuild(reversed(sessions))
    one, two = forecasts(fitted, [forward, backward])
    np.testing.assert_allclose(
        np.frombuffer(one, "<f2").astype(float), np.frombuffer(two, "<f2").astype(float), rtol=2e-3
    )


def test_a_forecast_is_small_and_complete(fitted: Parameters) -> None:
    """Twelve scenarios for each silence, rising in energy, shares between 0 and 1."""
    made = forecasts(fitted, [rebuild(population(1)), empty_tendency()])
    assert [FORECAST_BYTES, 0] == [len(forecast) for forecast in made]
    for silence in SILENCES_DAYS:
        points = one_user(made[0], silence)
        assert (SCENARIOS, 3) == points.shape
        assert (np.diff(points[:, 0]) >= 0).all()
        assert (points[:, 1:] >= 0).all()
        assert (points[:, 1:] <= 1).all()
    points, has_forecast = scenarios([made[0], b"", b"of another layout"], np.zeros(3))
    assert [True, False, False] == has_forecast.tolist()
    assert not points[1:].any()


def test_a_long_silence_lowers_the_expected_energy() -> None:
    """With the shipped parameters, for a user who charged every second day."""
    tendency = rebuild(session("someone", day, 10_000) for day in range(0, 120, 2))
    (made,) = forecasts(default_parameters(), [tendency])
    now, later = one_user(made, 0.0), one_user(made, 30.0)
    assert later[:, 0].mean() < now[:, 0].mean()


def test_parameters_survive_being_written(fitted: Parameters) -> None:
    """The same forecasts come from what was read back."""
    again = parameters_from_bytes(parameters_to_bytes(fitted))
    tendency = rebuild(population(1))
    assert forecasts(fitted, [tendency]) == forecasts(again, [tendency])
    assert (fitted.version, fitted.seen_users) == (again.version, again.seen_users)


@pytest.mark.parametrize("data", [b"", b"nonsense", b"PK\x03\x04" + bytes(100)])
def test_a_file_that_is_none_is_refused(data: bytes) -> None:
    """By one clear error, whatever is in it."""
    with pytest.raises(ValueError, match="parameters"):
        parameters_from_bytes(data)


def test_parameters_know_whom_they_saw(fitted: Parameters) -> None:
    """By digests, not by names."""
    assert digest("u0") in fitted.seen_users
    assert digest("stranger") not in fitted.seen_users


def test_renamed_users_are_known_again(fitted: Parameters) -> None:
    """By their first sessions, whatever they and these are called; others are not."""
    renamed = [
        replace(session, user_id=f"x-{session.user_id}", session_id=f"y-{number}")
        for number, session in enumerate(population(20))
    ]
    assert seen_by(fitted, all_months(renamed))
    later = [
        replace(
            session,
            user_id=f"x-{session.user_id}",
            start_time=session.start_time + timedelta(seconds=1),
            end_time=None,
        )
        for session in renamed
    ]
    assert not seen_by(fitted, all_months(later))


@settings(deadline=None, max_examples=60)
@given(
    night=st.floats(0.01, 0.99),
    weekend=st.floats(0.01, 0.99),
    seed=st.integers(0, 1000),
)
def test_a_scenarios_hours_have_its_night_and_weekend_shares(
    night: float, weekend: float, seed: int
) -> None:
    """Whatever the user's own profile, the margins are those of the scenario."""
    hours = spread(np.random.default_rng(seed).dirichlet(np.ones(168))[None])
    factors = block_factors(hours, np.array([[night]]), np.array([[weekend]]))
    profile = (hours[0] * factors[0, 0, BLOCK_OF_HOUR]).reshape(7, 24)
    assert profile.sum() == pytest.approx(1.0)
    assert profile[5:].sum() == pytest.approx(weekend, abs=0.01)
    assert profile[:, 22:].sum() + profile[:, :7].sum() == pytest.approx(night, abs=0.01)


def test_months_follow_the_protocol() -> None:
    """First decision after 30 days, last period ends by the last session, trickles left out."""
    days = [0, 10, 29, 30, 45, 61, 90]
    sessions = by_user([session("a", d, 5_000) for d in days] + [session("a", 5, 100)])["a"]
    months = user_months(sessions)
    assert [30, 60] == [(month.start - START).days for month in months]
    assert [3, 5] == [len(month.past) for month in months]
    assert [2, 1] == [len(month.coming) for month in months]


def test_what_comes_changes_nothing_that_is_known() -> None:
    """No look-ahead: other futures, same features."""
    sessions = by_user(population(1))["u0"]
    month = user_months(sessions)[1]
    cut = rebuild(month.past)
    np.testing.assert_allclose(
        features(month.tendency, month.start), features(cut, month.start), rtol=1e-9
    )
    assert isinstance(month, UserMonth)
