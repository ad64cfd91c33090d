"""What is left to pay of a charge with several passes whose conditions hold in parts of it
(docs/pricing.md), to the micro-unit."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.pricing_builders import OSLO, charge, component, element, priced, tariff
from voucher_grpc.domain.catalogue.conditions import Restrictions, UsageConditions
from voucher_grpc.domain.catalogue.product import (
    Benefit,
    EnergyBundle,
    EnergyPrice,
    FlatPeriod,
    PercentageOff,
    SessionBundle,
)
from voucher_grpc.domain.pricing.applicable import conditions_hold_in
from voucher_grpc.domain.pricing.benefits import (
    after_energy_bundle,
    after_energy_price,
    after_percentage_off,
    after_session_bundle,
)
from voucher_grpc.domain.pricing.charge import Period, Quantity
from voucher_grpc.domain.pricing.engine import ChargePrice, price_periods
from voucher_grpc.domain.pricing.split import Cuts, split
from voucher_grpc.domain.pricing.with_passes import (
    PriceWithPasses,
    UsedPass,
    price_with_passes,
)
from voucher_grpc.ocpi import Day

EVERYTHING = element(
    component("ENERGY", 4, vat=25),
    component("FLAT", 5),
    component("TIME", 2),
    component("PARKING_TIME", 3),
)


def used(
    benefit: Benefit, inside: Sequence[bool], wh: int | None = None, sessions: int | None = None
) -> UsedPass:
    return UsedPass(benefit, wh, sessions, inside)


def units(price: PriceWithPasses) -> float:
    return float(price.total.after_tax / 1_000_000)


def two_halves(*elements: dict[str, Any], **more: object) -> ChargePrice:
    """10 kWh in the hour until 11:00 in Oslo, and 10 kWh in the hour after it."""
    of = tariff(*(elements or (EVERYTHING,)), **more)
    periods = split(charge(120, 20), Cuts((11 * 60,), (), ()), OSLO)
    assert 2 == len(periods)
    return price_periods(of, periods, OSLO)


# 20 kWh at 5 with tax, 5 for the session, 4 for two hours.
WHOLE = 109.0


@pytest.mark.parametrize(
    ("passes", "left", "taken"),
    [
        ([used(EnergyBundle(1), (False, True), wh=50_000)], WHOLE - 50, [(10_000, 0)]),
        ([used(EnergyBundle(1), (True, True), wh=15_000)], WHOLE - 75, [(15_000, 0)]),
        ([used(EnergyBundle(1), (False, True), wh=4_000)], WHOLE - 20, [(4_000, 0)]),
        ([used(FlatPeriod(1), (False, False), wh=4_000)], WHOLE, [(0, 0)]),
        ([used(EnergyPrice(2_000_000), (True, False))], WHOLE - 30, [(10_000, 0)]),
        ([used(PercentageOff(5_000), (True, False))], WHOLE - 57 / 2, [(10_000, 0)]),
        ([used(SessionBundle(1), (True, False), sessions=3)], WHOLE - 57, [(10_000, 1)]),
        ([used(SessionBundle(1), (False, True), sessions=3)], WHOLE - 52, [(10_000, 1)]),
        ([used(SessionBundle(1, 4_000), (True, True), sessions=1)], 80.0, [(4_000, 1)]),
        ([used(SessionBundle(1), (True, True), sessions=0)], WHOLE, [(0, 0)]),
    ],
)
def test_a_pass_covers_the_periods_in_which_its_conditions_hold(
    passes: list[UsedPass], left: float, taken: list[tuple[int, int]]
) -> None:
    """Of two hours, the first of which has the price of the session too."""
    found = price_with_passes(two_halves(), passes)
    assert left == units(found)
    assert taken == [(t.energy_wh, t.sessions) for t in found.taken]
    assert [WHOLE - left] == [float(t.saved / 1_000_000) for t in found.taken]


@pytest.mark.parametrize(
    ("passes", "left", "taken"),
    [
        # The second bundle goes on where the first one ends.
        (
            [
                used(EnergyBundle(1), (True, True), wh=6_000),
                used(EnergyBundle(1), (True, True), wh=9_000),
            ],
            WHOLE - 75,
            [(6_000, 0), (9_000, 0)],
        ),
        # What a bundle has covered costs nothing, at no price of a pass.
        (
            [
                used(EnergyBundle(1), (True, False), wh=6_000),
                used(EnergyPrice(2_000_000), (True, True)),
            ],
            WHOLE - 30 - 14 * 3,
            [(6_000, 0), (14_000, 0)],
        ),
        # A percentage is taken off what the bundle has left.
        (
            [
                used(EnergyBundle(1), (True, True), wh=10_000),
                used(PercentageOff(1_000), (True, True)),
            ],
            (WHOLE - 50) * 0.9,
            [(10_000, 0), (10_000, 0)],
        ),
        # For a period only one gives a price, a percentage or a session.
        (
            [
                used(PercentageOff(5_000), (True, False)),
                used(SessionBundle(1), (True, True), sessions=1),
                used(PercentageOff(5_000), (True, True)),
            ],
            57 / 2,
            [(10_000, 0), (10_000, 1), (0, 0)],
        ),
    ],
)
def test_what_one_pass_has_covered_the_next_does_not(
    passes: list[UsedPass], left: float, taken: list[tuple[int, int]]
) -> None:
    """In their order."""
    found = price_with_passes(two_halves(), passes)
    assert pytest.approx(left, abs=1e-9) == units(found)
    assert taken == [(t.energy_wh, t.sessions) for t in found.taken]


def test_a_session_that_gives_nothing_is_not_used() -> None:
    """A vehicle that was plugged in and did not charge."""
    price = priced(
        tariff(element(component("ENERGY", 4), component("PARKING_TIME", 3))), charge(60, 0)
    )
    found = price_with_passes(price, [used(SessionBundle(1), (True,), sessions=1)])
    assert [(0, 0)] == [(t.energy_wh, t.sessions) for t in found.taken]
    assert 3 == units(found)


def test_limits_bound_what_is_left_and_the_lower_one_only_what_is_not_covered() -> None:
    """Half of the energy is covered: half of the least price counts."""
    half = used(EnergyBundle(1), (True, False), wh=10_000)
    of = element(component("ENERGY", 1))
    assert 15 == units(price_with_passes(two_halves(of, min_price={"excl_vat": 30}), [half]))
    assert 10 == units(price_with_passes(two_halves(of, max_price={"excl_vat": 12}), [half]))
    assert 8 == units(price_with_passes(two_halves(of, max_price={"excl_vat": 8}), [half]))


ELEMENTS = st.lists(
    st.builds(
        lambda kind, price, step, vat, low: element(
            component(kind, price, step=step, vat=vat), **({"min_kwh": low} if low else {})
        ),
        st.sampled_from(["ENERGY", "FLAT", "TIME", "PARKING_TIME"]),
        st.integers(0, 9),
        st.sampled_from([0, 700]),
        st.sampled_from([0, 25]),
        st.integers(0, 12),
    ),
    min_size=1,
    max_size=5,
)
LIMITS = st.sampled_from([{}, {"min_price": {"excl_vat": 30}}, {"max_price": {"excl_vat": 25}}])


@given(elements=ELEMENTS, limits=LIMITS, kwh=st.integers(0, 20), left_wh=st.integers(0, 25_000))
def test_one_pass_without_conditions_leaves_what_the_rules_for_it_leave(
    elements: list[dict[str, Any]], limits: dict[str, Any], kwh: int, left_wh: int
) -> None:
    """The rules of offers (`benefits`), which know one pass only."""
    price = priced(tariff(*elements, **limits), charge(120, kwh, 11))
    inside = [True] * len(price.periods)
    for one, expected in (
        (used(EnergyBundle(1), inside, wh=left_wh), after_energy_bundle(price, Fraction(left_wh))),
        (used(EnergyPrice(1_500_000), inside), after_energy_price(price, 1_500_000)),
        (used(PercentageOff(1_500), inside), after_percentage_off(price, 1_500)),
        (
            used(SessionBundle(1, left_wh), inside, sessions=1),
            after_session_bundle(price, Fraction(left_wh) if left_wh else None),
        ),
    ):
        found = price_with_passes(price, [one])
        uses = isinstance(one.benefit, SessionBundle) and not found.taken[0].sessions
        if uses or (isinstance(one.benefit, EnergyBundle) and not left_wh):
            expected = price.total.after_tax  # nothing is covered
        assert expected == found.total.after_tax
        assert expected == price.total.after_tax - found.taken[0].saved
        assert found.total.before_tax <= found.total.after_tax
        assert (
            0 <= found.taken[0].energy_wh <= (left_wh if one.energy_left_wh is not None else 10**9)
        )


NIGHT = UsageConditions((Restrictions(start_minute=22 * 60, end_minute=6 * 60),))
FRIDAY_NIGHT = UsageConditions(
    (Restrictions(start_minute=22 * 60, end_minute=6 * 60, day_of_week=frozenset({Day.FRIDAY})),)
)
SLOW = UsageConditions((Restrictions(max_power_w=11_000),))


@pytest.mark.parametrize(
    ("conditions", "start", "inside"),
    [
        # 18:00 to 08:00 in Oslo, hour by hour: the night has eight hours...
        (NIGHT, datetime(2026, 6, 2, 16, tzinfo=UTC), range(4, 12)),
        # ... seven in the night in which the clocks go forward, nine when they go back.
        (NIGHT, datetime(2026, 3, 28, 17, tzinfo=UTC), range(4, 11)),
        (NIGHT, datetime(2026, 10, 24, 16, tzinfo=UTC), range(4, 13)),
        # A window belongs to the day on which it begins: Saturday 03:00 is in Friday's.
        (FRIDAY_NIGHT, datetime(2026, 6, 5, 16, tzinfo=UTC), range(4, 12)),
        (FRIDAY_NIGHT, datetime(2026, 6, 6, 16, tzinfo=UTC), range(0)),
        (FRIDAY_NIGHT, datetime(2026, 6, 4, 16, tzinfo=UTC), range(0)),
    ],
)
def test_a_bundle_of_the_night_covers_the_hours_of_the_night(
    conditions: UsageConditions, start: datetime, inside: range
) -> None:
    """14 hours of 1 kWh at 1, at the station's local time and across both changes of the clocks."""
    periods = [
        Period(
            start=start + timedelta(hours=hour),
            elapsed_s=Fraction(3_600 * hour),
            energy_before_wh=Fraction(1_000 * hour),
            volumes={Quantity.TIME: Fraction(3_600), Quantity.ENERGY: Fraction(1_000)},
        )
        for hour in range(14)
    ]
    price = price_periods(tariff(element(component("ENERGY", 1))), periods, OSLO)
    holds = [conditions_hold_in(conditions, period, OSLO) for period in periods]
    found = price_with_passes(price, [used(EnergyBundle(1), holds, wh=100_000)])
    assert [hour in inside for hour in range(14)] == holds
    assert 14 - len(inside) == units(found)


def test_power_that_crosses_a_limit_and_comes_back_is_covered_below_it() -> None:
    """7, 15 and 7 kW, each for an hour, of which the first and the last are slow."""
    from voucher_grpc.domain.pricing.charge import Charge, Phase

    hour = Fraction(3_600)
    of = Charge(
        datetime(2026, 6, 2, 8, tzinfo=UTC),
        tuple(Phase(hour, Fraction(kw * 1_000)) for kw in (7, 15, 7)),
    )
    price = priced(tariff(element(component("ENERGY", 1))), of)
    holds = [conditions_hold_in(SLOW, one.period, OSLO) for one in price.periods]
    assert [True, False, True] == holds
    assert 15 == units(price_with_passes(price, [used(EnergyBundle(1), holds, wh=100_000)]))
