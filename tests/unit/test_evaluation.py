"""What an evaluation and a simulation say, worked out by hand."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import pytest

from tests.unit.builders import NOW, PLACE, make_session, make_terms
from voucher_grpc.domain.catalogue.conditions import Restrictions, UsageConditions
from voucher_grpc.domain.catalogue.product import (
    EnergyBundle,
    EnergyPrice,
    FlatPeriod,
    PercentageOff,
    SessionBundle,
    Terms,
    Validity,
)
from voucher_grpc.domain.tendencies.forecast import (
    base_energy_kwh,
    default_parameters,
    shape_shares,
)
from voucher_grpc.domain.tendencies.tendency import Session, rebuild
from voucher_grpc.errors import BadInput
from voucher_grpc.evaluation import backtest
from voucher_grpc.evaluation.backtest import NONE, Backtest
from voucher_grpc.evaluation.costs import covered_energy_wh, pay_as_you_go_micros, savings_micros
from voucher_grpc.evaluation.evaluate import evaluate_months
from voucher_grpc.evaluation.fit import fit, outcome, training_rows
from voucher_grpc.evaluation.months import UserMonth, all_months
from voucher_grpc.evaluation.report import (
    Resampling,
    captured_saving,
    groups,
    harm_share,
    report,
)
from voucher_grpc.evaluation.simulate import simulate

FREE = PercentageOff(10_000)
DAY = timedelta(days=1)
PRICE = 5_000_000.0
# Two sessions by day and one by night, 30 kWh.
SESSIONS = [
    make_session("a", start_time=NOW, energy_wh=4_000),
    make_session("b", start_time=NOW + DAY, energy_wh=10_000),
    make_session("c", start_time=NOW.replace(hour=23), energy_wh=16_000),
]


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        (make_terms(benefit=EnergyBundle(20_000), price=30), 100 - 30),
        (make_terms(benefit=EnergyBundle(90_000), price=30), 150 - 30),
        (make_terms(benefit=FlatPeriod(20_000), price=30), 100 - 30),
        (make_terms(benefit=SessionBundle(2), price=30), 70 - 30),
        (make_terms(benefit=SessionBundle(2, 5_000), price=30), 45 - 30),
        (make_terms(benefit=SessionBundle(9, 12_000), price=30), 130 - 30),
        (make_terms(benefit=EnergyPrice(3_000_000), price=30), 60 - 30),
        (make_terms(benefit=EnergyPrice(6_000_000), price=30), -30 - 30),
        (make_terms(benefit=PercentageOff(2_000), price=30), 30 - 30),
        # A pass of less than a month is bought once; of a longer one a part of the price counts.
        (make_terms(benefit=FREE, price=30, validity=Validity(days=7)), 150 - 30),
        (make_terms(benefit=FREE, price=30, validity=Validity(days=30)), 150 - 30),
        (make_terms(benefit=FREE, price=30, validity=Validity(days=60)), 150 - 15),
        (make_terms(benefit=FREE, price=73.05, validity=Validity(months=12)), 150 - 6),
    ],
)
def test_what_a_pass_would_have_saved_in_a_month(terms: Terms, expected: float) -> None:
    """30 kWh in three sessions at 5; to the micro-unit."""
    assert [expected * 1e6] == pytest.approx(savings_micros([terms], SESSIONS, PRICE).tolist())


def test_sessions_are_covered_by_their_start_on_the_local_clock() -> None:
    """23:00 UTC is midnight in Oslo: inside a night that begins then."""
    night = make_terms(conditions=UsageConditions((Restrictions(0, 6 * 60),)), benefit=FREE)
    assert [16_000] == covered_energy_wh(night, SESSIONS)
    utc = [replace(s, time_zone="UTC") for s in SESSIONS]
    assert [] == covered_energy_wh(night, utc)
    assert [80e6 - 49e6] == savings_micros([night], SESSIONS, PRICE).tolist()
    assert 150e6 == pay_as_you_go_micros(SESSIONS, PRICE)


def month(user: str, number: int, energies: Sequence[int], past: Sequence[int] = (1,)) -> UserMonth:
    """A month of sessions by day with these energies."""
    start = NOW + number * 30 * DAY
    before = [
        make_session(f"p{n}", user_id=user, start_time=start - (n + 1) * DAY, energy_wh=wh)
        for n, wh in enumerate(past)
    ][::-1]
    coming = [
        make_session(f"c{n}", user_id=user, start_time=start + n * DAY, energy_wh=wh)
        for n, wh in enumerate(energies)
    ]
    tendency = rebuild(before)
    return UserMonth(user, start, tendency, before, coming)


def made_backtest(
    savings: Sequence[Sequence[float]],
    offers: Sequence[Sequence[int]],
    ranges: Sequence[tuple[float, float]] | None = None,
) -> Backtest:
    """A backtest of users a, b, ... with a month each that cost 1,000."""
    months = [month(chr(ord("a") + n), 0, [10_000]) for n in range(len(savings))]
    return Backtest(
        months,
        [make_terms("p"), make_terms("q")],
        np.array(savings),
        np.full(len(savings), 1000.0),
        np.array([[*o, *([NONE] * (3 - len(o)))] for o in offers]),
        np.array(ranges or [(np.nan, np.nan)] * len(savings)),
    )


def test_choices_are_worth_what_they_saved() -> None:
    """None saves nothing; the best in hindsight is a pass or none; of three offers the best."""
    test = made_backtest([[10, 20], [-10, -20], [5, -1]], [[0, 1], [1], []])
    assert [10, -20, 0] == backtest.saved(test, test.first_offers).tolist()
    assert [20, 0, 5] == backtest.hindsight(test).tolist()
    assert [20, 0, 0] == backtest.best_of_three(test).tolist()
    assert [0, 0, 0] == backtest.best_fixed(test).tolist()
    drawn = backtest.random_choice(made_backtest([[0, 0]] * 300, [[]] * 300))
    assert {NONE, 0, 1} == set(drawn.tolist())


def test_the_range_of_a_saving_is_checked_to_a_hundredth_where_a_pass_was_taken() -> None:
    """Both ends included, and 10,000 micro-units beyond."""
    saved = [100_000, 100_000, 100_000, 100_000, 0]
    ranges: list[tuple[float, float]] = [
        (110_000, 200_000),
        (110_001, 200_000),
        (0, 90_000),
        (0, 89_999),
        (np.nan, np.nan),
    ]
    test = made_backtest([[s, 0] for s in saved], [[0]] * 4 + [[]], ranges)
    assert 0.5 == backtest.range_share(test)
    assert 0.0 == backtest.range_share(made_backtest([[1, 1]], [[]]))


def test_the_cheapest_of_the_last_30_days_is_taken_if_it_saved_something() -> None:
    """Sessions 30 days old still count, older ones do not."""
    products = [make_terms("p", EnergyPrice(3_000_000)), make_terms("q", FREE, price=300)]
    months = [
        month("a", 0, [], past=[10_000] * 30),  # 300 kWh: 600 - 49 against 1,500 - 300
        month("b", 0, [], past=[1_000] * 30),  # 30 kWh: 60 - 49
        month("c", 0, [], past=[100] * 30),
        month("d", 0, [], past=[1_000] * 24),  # 24 kWh: -1
        month("e", 0, [], past=[200] * 30 + [900_000] * 9),
    ]
    test = Backtest(
        months,
        products,
        np.zeros((5, 2)),
        np.ones(5),
        np.full((5, 3), NONE),
        np.full((5, 2), np.nan),
    )
    assert [1, 0, NONE, NONE, NONE] == backtest.last_30_days(test, PRICE).tolist()


def test_captured_saving_and_harm() -> None:
    """Sums over sums; less than a micro-unit is no harm."""
    assert 0.4 == captured_saving(np.array([10.0, -2]), np.array([15.0, 5]))
    assert 0.0 == captured_saving(np.array([1.0]), np.array([0.0]))
    assert 0.25 == harm_share(np.array([-1.5, -1.0, 0.0, 7.0]))
    assert 0.0 == harm_share(np.array([]))


def test_bootstrap_samples_are_of_users_with_all_their_months() -> None:
    """The same ones for every choice."""
    resampling = Resampling(["a", "b", "a"], samples=500)
    sums = resampling.sums(np.array([1.0, 10.0, 2.0]))
    assert {6.0, 13.0, 20.0} == set(sums.tolist())
    assert sums.tolist() == resampling.sums(np.array([1.0, 10.0, 2.0])).tolist()
    harm = resampling.harm(np.array([-5.0, 5.0, 5.0]))
    assert {0.5, 1 / 3, 0.0} == set(harm.tolist())
    captured = resampling.captured(np.array([1.0, 1, 1]), np.array([2.0, 4, 2]))
    assert {0.5, 3 / 8, 0.25} == set(captured.tolist())


def test_a_sample_with_nothing_to_save_captures_nothing() -> None:
    """A loss over nothing is not a share; it was a bound of 10^20."""
    captured = Resampling(["a", "b"], samples=500).captured(
        np.array([-5e6, 1e6]), np.array([0.0, 2e6])
    )
    assert {0.0, 0.5, -2.0} == set(captured.tolist())


def test_a_report_pairs_what_we_offer_with_the_last_30_days() -> None:
    """Each figure from its own sums."""
    test = made_backtest(
        [[10, 20], [30, -20], [-5, -1], [40, 0]], [[0], [0], [0], []], [(0, 100)] * 3 + [(0, 0)]
    )
    ours = backtest.saved(test, test.first_offers)
    last = np.array([20.0, -5.0, -5.0, 0.0])
    numbers = report(test, {"last_30_days": last}, ours)
    assert (35 / 90, 0.25, 0.5) == pytest.approx(
        (
            numbers["captured_saving"],
            numbers["harm_share"],
            numbers["best_of_3_captured_saving"] * 90 / 80,
        )
    )
    assert (4, 4, 90 / 4000, 0.75) == pytest.approx(
        (
            numbers["user_months"],
            numbers["users"],
            numbers["hindsight_share"],
            numbers["recommended_share"],
        )
    )
    paired = numbers["paired"]
    assert 25 / 90 == pytest.approx(paired["captured_saving"]["value"])
    assert -0.25 == paired["harm_share"]["value"]
    interval = numbers["captured_saving_interval"]
    assert interval["low"] < interval["value"] < interval["high"]
    assert {"captured_saving": pytest.approx(10 / 90), "harm_share": 0.5} == (
        numbers["baselines"]["last_30_days"]
    )
    assert 1.0 == numbers["range_share"]


def test_groups_are_thirds_by_energy_and_by_history() -> None:
    """Each month is in one of each three."""
    test = made_backtest([[n, 0] for n in range(1, 10)], [[0]] * 9)
    test = replace(
        test,
        pay_as_you_go=np.arange(1.0, 10.0),
        months=[month(str(n), 0, [1], past=[1] * (10 - n)) for n in range(1, 10)],
    )
    ours = backtest.saved(test, test.first_offers)
    found = groups(test, ours, -2 * ours)
    assert [3] * 6 == [group["user_months"] for group in found.values()]
    assert 1.0 == found["little charging"]["captured_saving"]
    assert (-2.0, 1.0) == (
        found["much charging"]["last_30_days_captured_saving"],
        found["long history"]["last_30_days_harm_share"],
    )


def test_a_cold_start_knows_the_last_sessions_only() -> None:
    """Those just before the decision, and none at all."""
    test = [month("a", 0, [7_000], past=[1_000, 2_000, 3_000])]
    cut = backtest.cold_start(test, [0, 2, 9])
    known = {count: [s.energy_wh for s in months[0].past] for count, months in cut.items()}
    assert {0: [], 2: [2_000, 1_000], 9: [3_000, 2_000, 1_000]} == known
    assert [0, 2, 3] == [months[0].tendency.sessions for months in cut.values()]
    assert [7_000] == [s.energy_wh for s in cut[2][0].coming]
    assert 1.0 == backtest.silence_days(test[0])
    assert 0.0 == backtest.silence_days(cut[0][0])


def test_what_is_fitted_is_the_ratio_to_the_month_before_and_the_shifts_of_shares() -> None:
    """As logarithms of 1 + kWh; a month without energy shifts nothing."""
    one = month("a", 0, [10_000, 20_000], past=[10_000] * 90)
    ratio, night, weekend = outcome(one)
    assert np.log1p(30) - np.log1p(base_energy_kwh(one.tendency, one.start)) == pytest.approx(ratio)
    shares = shape_shares(one.tendency)
    assert (0.0 - shares[0], 0.0 - shares[1]) == pytest.approx((night, weekend))
    empty = outcome(month("a", 0, [], past=[10_000] * 90))
    assert (0.0, 0.0) == empty[1:]
    assert empty[0] < -5


def sessions_of(user: str, days: int, energy_wh: int, hour: int = 12) -> list[Session]:
    start = NOW.replace(hour=hour)
    return [
        make_session(f"{user}-{n}", user_id=user, start_time=start + n * DAY, energy_wh=energy_wh)
        for n in range(days)
    ]


def test_months_begin_30_days_after_the_first_session_and_end_by_the_last() -> None:
    """Of 90 days after the first one, two; a session at the decision is not known yet."""
    months = all_months([*sessions_of("b", 91, 5_000), *sessions_of("a", 61, 5_000)])
    assert [("a", 30), ("b", 30), ("b", 60)] == [(m.user_id, (m.start - NOW).days) for m in months]
    assert [(30, 30), (30, 30), (60, 30)] == [(len(m.past), len(m.coming)) for m in months]
    assert [30, 30, 60] == [m.tendency.sessions for m in months]
    assert months[0].start == months[0].coming[0].start_time
    assert [] == all_months(sessions_of("c", 60, 5_000))
    assert [] == all_months([make_session(energy_wh=100)] * 3)


def test_fewer_than_50_months_are_too_few_to_fit() -> None:
    """49 are named with the bound."""
    months = [month(str(n), 0, [1_000]) for n in range(49)]
    with pytest.raises(BadInput, match="50 user-months, give 49"):
        fit(months, training_rows(months), "v", trees=10)


OLD = [make_terms("dear", EnergyPrice(4_000_000), 40, time_zone="UTC")]
NEW = [make_terms("cheap", EnergyPrice(2_000_000), 40, time_zone="UTC")]


def test_a_simulation_compares_two_catalogues_over_the_same_months() -> None:
    """Daily 10 kWh at 5: 260 saved by the old pass, 860 by the new one, each time."""
    months = all_months(
        [*sessions_of("a", 91, 10_000), *sessions_of("b", 91, 10_000), *sessions_of("c", 91, 100)]
    )
    heard: list[float] = []
    old, new = simulate(months, (OLD, PRICE), (NEW, PRICE), heard.append)
    assert (4 * 1500e6, 4 * 1500e6) == (old.pay_as_you_go_micros, new.pay_as_you_go_micros)
    assert (4 * 260e6, 4 * 860e6) == pytest.approx((old.saved_micros, new.saved_micros))
    assert (4 * 1240e6, 4 * 640e6) == pytest.approx((old.revenue_micros, new.revenue_micros))
    assert ({"dear": 4}, {"cheap": 4}) == (old.passes, new.passes)
    assert (0.0, 0.0) == (old.harm_share, new.harm_share)
    assert [0.85, 1.0] == heard[-2:]
    # Each catalogue has its own price without a pass.
    old, new = simulate(months, (OLD, PRICE), (NEW, 3_000_000.0), heard.append)
    assert (4 * 1500e6, 4 * 900e6) == (old.pay_as_you_go_micros, new.pay_as_you_go_micros)
    assert (4 * 260e6, 4 * 260e6) == pytest.approx((old.saved_micros, new.saved_micros))
    # What nobody would buy is not sold, and what nobody buys earns what charging costs.
    old, new = simulate(months, (NEW, PRICE), ([make_terms(price=9_000)], PRICE), heard.append)
    assert ({"cheap": 4}, {}) == (old.passes, new.passes)
    assert new.pay_as_you_go_micros == new.revenue_micros


def test_an_evaluation_of_users_not_seen_says_so_to_the_letter() -> None:
    """Shipped parameters with their version, all baselines, the cold start by sessions."""
    months = all_months([*sessions_of("a", 91, 10_000), *sessions_of("b", 91, 10_000)])
    heard: list[float] = []
    numbers = evaluate_months(months, [*OLD, *NEW], PRICE, [0, 2, 30], heard.append)
    assert f"shipped, version {default_parameters().version}" == numbers["parameters"]
    assert {"last_30_days", "best_fixed", "random"} == set(numbers["baselines"])
    assert (1.0, 0.0) == (numbers["captured_saving"], numbers["harm_share"])
    assert 1.0 == numbers["baselines"]["last_30_days"]["captured_saving"]
    assert {"0", "2", "30"} == set(numbers["cold_start"])
    assert 0.0 == numbers["cold_start"]["0"]["captured_saving"]
    assert 1.0 == numbers["cold_start"]["30"]["captured_saving"]
    assert (4, 2, 1.0) == (
        numbers["user_months"],
        numbers["users"],
        numbers["recommended_share"],
    )
    assert 860 / 1500 == pytest.approx(numbers["hindsight_share"])
    assert sorted(heard) == heard
    assert 1.0 == heard[-1]


def test_a_decision_knows_the_past_alone() -> None:
    """Its first offer and range are those of the code that serves, at the decision's instant."""
    [one] = all_months(sessions_of("a", 61, 10_000))
    test = backtest.run([one], [*OLD, *NEW], PRICE, [b""], [None])
    assert [[1, NONE, NONE]] == [[row[0], NONE, NONE] for row in test.offers.tolist()]
    low, high = test.ranges[0].tolist()
    assert low < 860e6 < high
    assert [[260e6, 860e6]] == [pytest.approx(row) for row in test.savings.tolist()]
    assert [1500e6] == test.pay_as_you_go.tolist()
    nothing = replace(one, tendency=rebuild([]))
    assert [[NONE] * 3] == backtest.run([nothing], OLD, PRICE, [b""], [None]).offers.tolist()
    assert PLACE == one.past[-1].place
    assert isinstance(one.start, datetime)
