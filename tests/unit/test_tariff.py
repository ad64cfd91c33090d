"""What charging costs without a pass: OCPI Tariffs, tax included, rounded once."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.builders import SPEC, element, make_tariff
from voucher_grpc.catalogue.conditions import HOURS_PER_WEEK, Day, Restrictions
from voucher_grpc.places.tariff import (
    Dimension,
    PriceComponent,
    Tariff,
    TariffElement,
    hourly_prices,
    session_cost_micros,
)

MONDAY_NOON = datetime.fromisoformat("2026-11-16T12:00")
ENERGY, FLAT, TIME, PARKING = (
    Dimension.ENERGY,
    Dimension.FLAT,
    Dimension.TIME,
    Dimension.PARKING_TIME,
)
NIGHT = Restrictions(22 * 60, 6 * 60)


def cost(
    tariff: Tariff, at: datetime = MONDAY_NOON, energy_wh: int = 10_000, **more: Any
) -> float | None:
    """The cost of a session in units; 25 % VAT where the tariff says nothing."""
    vat = more.pop("default_vat", 2_500)
    micros = session_cost_micros(tariff, at, energy_wh, default_vat_basis_points=vat, **more)
    return None if micros is None else micros / 1e6


@pytest.mark.parametrize(
    ("dimension", "expected"), [(ENERGY, 40), (FLAT, 4), (TIME, 8), (PARKING, 12)]
)
def test_each_dimension_has_its_unit(dimension: Dimension, expected: float) -> None:
    """Per kWh, per session, per hour charging, per hour parked."""
    tariff = make_tariff(element(dimension, 4))
    assert expected == cost(tariff, charging_s=2 * 3600, parking_s=3 * 3600)


def test_dimensions_add_up() -> None:
    """Each from its own component."""
    parts = (element(ENERGY, 4), element(FLAT, 5), element(TIME, 6), element(PARKING, 7))
    assert 40 + 5 + 6 + 3.5 == cost(make_tariff(*parts), charging_s=3600, parking_s=1800)


def test_the_first_element_that_holds_wins_for_each_dimension_by_itself() -> None:
    """At night energy is cheaper; the flat fee comes from the second element at all hours."""
    tariff = make_tariff(
        element(ENERGY, 2, restrictions=NIGHT),
        TariffElement((PriceComponent(ENERGY, 4_000_000, 0), PriceComponent(FLAT, 5_000_000, 0))),
        element(FLAT, 99),
    )
    assert 45 == cost(tariff)
    assert 25 == cost(tariff, datetime.fromisoformat("2026-11-16T23:00"))


def test_only_the_first_component_of_a_dimension_counts_in_an_element() -> None:
    """Two prices for the same thing are not added."""
    twice = TariffElement((PriceComponent(ENERGY, 4_000_000, 0), PriceComponent(ENERGY, 1, 0)))
    assert 40 == cost(make_tariff(twice))


def test_an_element_that_starts_only_later_in_a_charge_does_not_hold_at_its_start() -> None:
    """Restrictions are judged at the start of the session."""
    later = Restrictions(min_energy_wh=5_000)
    until = Restrictions(max_energy_wh=5_000)
    tariff = make_tariff(
        element(ENERGY, 1, restrictions=later), element(ENERGY, 4, restrictions=until)
    )
    assert 40 == cost(tariff)


@pytest.mark.parametrize(
    ("step", "energy_wh", "expected"),
    [
        (1, 10_001, 40.004),
        (1000, 10_001, 44),
        (1000, 10_000, 40),
        (0, 10_001, 40.004),
        (1000, 1, 4),
    ],
)
def test_a_step_rounds_its_dimension_up(step: int, energy_wh: int, expected: float) -> None:
    """To the next whole step; 0 and 1 round nothing."""
    assert expected == cost(make_tariff(element(ENERGY, 4, step=step)), energy_wh=energy_wh)


def test_a_step_of_time_is_in_seconds() -> None:
    """61 s in steps of 60 are two minutes."""
    assert 0.2 == cost(make_tariff(element(TIME, 6, step=60)), charging_s=61)


def test_a_flat_fee_knows_no_step() -> None:
    """It is due once."""
    assert 5 == cost(make_tariff(element(FLAT, 5, step=300)))


def test_a_components_own_vat_counts_before_the_countrys() -> None:
    """Each component is grossed up by itself."""
    tariff = make_tariff(element(ENERGY, 4, vat=1_000), element(FLAT, 4, vat=None))
    assert 44 + 5 == cost(tariff)


def test_without_any_vat_the_tariff_counts_as_unpriced() -> None:
    """None, not a price that lacks a quarter; 0 % is a rate."""
    unsaid = make_tariff(element(ENERGY, 4, vat=None))
    assert cost(unsaid, default_vat=None) is None
    assert hourly_prices(unsaid, None) is None
    assert 40 == cost(unsaid, default_vat=0)
    assert 40 == cost(make_tariff(element(ENERGY, 4, vat=0)), default_vat=None)


@pytest.mark.parametrize(("energy_wh", "expected"), [(1_000, 12.5), (10_000, 50), (100_000, 125)])
def test_a_total_is_bounded_before_tax(energy_wh: int, expected: float) -> None:
    """min_price 10 and max_price 100, both grossed up like the total they replace."""
    tariff = make_tariff(
        element(ENERGY, 4, vat=2_500), min_price_micros=10_000_000, max_price_micros=100_000_000
    )
    assert expected == cost(tariff, energy_wh=energy_wh)


def test_a_session_without_energy_costs_no_energy() -> None:
    """And one for which nothing applies costs nothing."""
    assert 0 == cost(make_tariff(element(ENERGY, 4)), energy_wh=0)
    assert 0 == cost(make_tariff(element(ENERGY, 4, restrictions=NIGHT)))


def test_the_total_is_rounded_once() -> None:
    """Three thirds of a micro-unit are one, not zero."""
    third = make_tariff(*(element(d, 0.000001) for d in (TIME, PARKING)))
    micros = session_cost_micros(
        third, MONDAY_NOON, 0, charging_s=1200, parking_s=2400, default_vat_basis_points=None
    )
    assert 1 == micros


hours = st.integers(0, 23).map(lambda h: h * 60)
hourly_windows = st.builds(
    Restrictions,
    start_minute=hours,
    end_minute=hours,
    day_of_week=st.frozensets(st.sampled_from(list(Day))),
)
cents = st.integers(0, 1_000).map(lambda c: c / 100)


@SPEC
@given(
    st.lists(st.tuples(st.sampled_from(list(Dimension)), cents, hourly_windows), max_size=3),
    st.tuples(cents, cents),
    st.integers(0, HOURS_PER_WEEK - 1),
)
def test_the_table_by_hour_agrees_with_the_cost_of_a_session(
    restricted: list[tuple[Dimension, float, Restrictions]], rest: tuple[float, float], hour: int
) -> None:
    """For windows of whole hours: energy * price + the fees of the hour of its start.

    One restricted element a dimension, because the table takes two windows in
    one hour for disjoint.
    """
    first = {dimension: (price, window) for dimension, price, window in restricted}
    tariff = make_tariff(
        *(element(d, price, 2_500, restrictions=w) for d, (price, w) in first.items()),
        element(ENERGY, rest[0], None),
        element(FLAT, rest[1], None),
    )
    prices = hourly_prices(tariff, 1_500)
    assert prices is not None
    start = datetime.fromisoformat("2026-11-16T00:30") + timedelta(hours=hour)
    expected = (
        10 * prices.energy[hour]
        + prices.flat[hour]
        + 2 * prices.charging[hour]
        + 3 * prices.parking[hour]
    )
    actual = session_cost_micros(
        tariff,
        start,
        10_000,
        charging_s=7200,
        parking_s=3 * 3600,
        default_vat_basis_points=1_500,
    )
    assert expected == pytest.approx(actual, abs=1)


def test_an_hour_that_a_window_covers_in_part_takes_that_part_of_its_price() -> None:
    """22:30: half of the hour at 2, half at 4."""
    half = Restrictions(22 * 60 + 30, 0)
    prices = hourly_prices(
        make_tariff(element(ENERGY, 2, restrictions=half), element(ENERGY, 4)), 0
    )
    assert prices is not None
    assert (4e6, 3e6, 2e6) == (prices.energy[21], prices.energy[22], prices.energy[23])


@pytest.mark.parametrize("bound", [Restrictions(min_duration_s=60), Restrictions(min_energy_wh=1)])
def test_an_element_that_starts_only_later_in_a_charge_is_not_in_the_table(
    bound: Restrictions,
) -> None:
    """The table is of prices at the start of a session."""
    later = element(ENERGY, 1, restrictions=bound)
    prices = hourly_prices(make_tariff(later, element(ENERGY, 4)), 0)
    assert prices is not None
    assert {4e6} == set(prices.energy)
