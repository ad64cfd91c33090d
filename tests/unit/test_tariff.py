"""What charging costs without a pass: OCPI Tariffs by hour of the week, tax included."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.builders import SPEC, element, make_tariff
from tests.unit.ocpi_literal import DAY_NAMES
from voucher_grpc.domain.catalogue.conditions import HOURS_PER_WEEK, Restrictions
from voucher_grpc.domain.pricing.amounts import TaxIncluded
from voucher_grpc.domain.pricing.hourly import HourlyPrices, hourly_prices
from voucher_grpc.domain.pricing.tariff import (
    Dimension,
    PriceComponent,
    Reservation,
    Tariff,
    TariffElement,
)
from voucher_grpc.ocpi import Day

ENERGY, FLAT, TIME, PARKING = (
    Dimension.ENERGY,
    Dimension.FLAT,
    Dimension.TIME,
    Dimension.PARKING_TIME,
)
NO_TAX = Fraction(0)
MONDAY_NOON = 12
MONDAY_NIGHT = 23
NIGHT = Restrictions(22 * 60, 6 * 60)


def priced(tariff: Tariff, vat: int | None = 2_500) -> HourlyPrices:
    """The prices of a tariff; 25 % VAT where it says nothing."""
    return hourly_prices(tariff, vat)


def at(prices: HourlyPrices, hour: int) -> tuple[float, float, float, float]:
    """(energy, flat, charging, parking) in units."""
    columns = (prices.energy, prices.flat, prices.charging, prices.parking)
    energy, flat, charging, parking = (column[hour] / 1e6 for column in columns)
    return energy, flat, charging, parking


@pytest.mark.parametrize(
    ("dimension", "expected"),
    [(ENERGY, (4, 0, 0, 0)), (FLAT, (0, 4, 0, 0)), (TIME, (0, 0, 4, 0)), (PARKING, (0, 0, 0, 4))],
)
def test_each_dimension_has_its_column(
    dimension: Dimension, expected: tuple[float, float, float, float]
) -> None:
    """Per kWh, per session, per hour charging, per hour parked, at all hours."""
    prices = priced(make_tariff(element(dimension, 4)))
    assert {expected} == {at(prices, hour) for hour in range(HOURS_PER_WEEK)}
    assert "NOK" == prices.currency_code


def test_the_first_element_that_holds_wins_for_each_dimension_by_itself() -> None:
    """At night energy is cheaper; the flat fee comes from the second element at all hours."""
    tariff = make_tariff(
        element(ENERGY, 2, restrictions=NIGHT),
        TariffElement(
            (PriceComponent(ENERGY, 4_000_000, NO_TAX), PriceComponent(FLAT, 5_000_000, NO_TAX))
        ),
        element(FLAT, 99),
    )
    assert (4, 5, 0, 0) == at(priced(tariff), MONDAY_NOON)
    assert (2, 5, 0, 0) == at(priced(tariff), MONDAY_NIGHT)


def test_only_the_first_component_of_a_dimension_counts_in_an_element() -> None:
    """Two prices for the same thing are not added."""
    twice = TariffElement(
        (PriceComponent(ENERGY, 4_000_000, NO_TAX), PriceComponent(ENERGY, 1, NO_TAX))
    )
    assert 4 == at(priced(make_tariff(twice)), MONDAY_NOON)[0]


@pytest.mark.parametrize(
    ("restrictions", "expected"),
    [
        (Restrictions(min_energy_wh=5_000), 4),
        (Restrictions(min_duration_s=60), 4),
        (Restrictions(min_energy_wh=0, min_duration_s=0), 1),
        (Restrictions(max_energy_wh=5_000), 1),
        (Restrictions(max_duration_s=60), 1),
        (Restrictions(min_power_w=5_000), 1),
    ],
)
def test_restrictions_are_judged_at_the_start_of_a_session(
    restrictions: Restrictions, expected: float
) -> None:
    """An element that begins to hold only later in a charge is not in the table."""
    tariff = make_tariff(element(ENERGY, 1, restrictions=restrictions), element(ENERGY, 4))
    assert {expected} == {at(priced(tariff), hour)[0] for hour in (0, MONDAY_NOON, 167)}


def test_a_components_own_vat_counts_before_the_countrys() -> None:
    """Each component is grossed up by itself; 0 % is a rate."""
    tariff = make_tariff(element(ENERGY, 4, 1_000), element(FLAT, 4, None), element(TIME, 4, 0))
    assert (4.4, 5.0, 4.0, 0.0) == at(priced(tariff), MONDAY_NOON)


def test_without_any_vat_a_component_costs_what_it_states() -> None:
    """OCPI 2.2.1, 11.4.2: "If omitted, no VAT is applicable"."""
    unsaid = element(ENERGY, 4, None)
    assert 4 == at(hourly_prices(make_tariff(unsaid), None), MONDAY_NOON)[0]
    assert 5 == at(hourly_prices(make_tariff(unsaid), 2_500), MONDAY_NOON)[0]


@pytest.mark.parametrize(
    ("included", "expected"),
    [(TaxIncluded.NO, 5.0), (TaxIncluded.YES, 4.0), (TaxIncluded.NOT_APPLICABLE, 4.0)],
)
def test_prices_that_contain_tax_are_not_taxed_again(
    included: TaxIncluded, expected: float
) -> None:
    """OCPI 2.3.0, `tax_included`."""
    tariff = make_tariff(element(ENERGY, 4, 2_500), tax_included=included)
    assert expected == at(priced(tariff), MONDAY_NOON)[0]


def test_the_price_of_a_reservation_is_not_that_of_a_charge() -> None:
    """An element with the restriction `reservation` prices nothing else."""
    reserved = element(FLAT, 9, reservation=Reservation.RESERVATION)
    tariff = make_tariff(reserved, element(ENERGY, 4))
    assert (4, 0, 0, 0) == at(priced(tariff), MONDAY_NOON)


def test_an_hour_that_a_window_covers_in_part_takes_that_part_of_its_price() -> None:
    """22:30: half of the hour at 2, half at 4; where no element holds it costs nothing."""
    half = Restrictions(22 * 60 + 30, 0)
    prices = priced(make_tariff(element(ENERGY, 2, restrictions=half), element(ENERGY, 4)))
    assert [4, 3, 2, 4] == [at(prices, hour)[0] for hour in (21, 22, 23, 24)]
    alone = priced(make_tariff(element(ENERGY, 2, restrictions=half)))
    assert [0, 1, 2, 0] == [at(alone, hour)[0] for hour in (21, 22, 23, 24)]


hours = st.integers(0, 23)
windows = st.tuples(hours, hours, st.frozensets(st.sampled_from(list(Day))))
cents = st.integers(0, 1_000).map(lambda c: c / 100)


def literally(window: tuple[int, int, frozenset[Day]], hour: int) -> bool:
    """Whether an hour of the week is inside a window, day by day as OCPI tells it."""
    start, end, days = window
    day, clock = divmod(hour, 24)
    end = end or 24

    def opens(number: int) -> bool:
        return not days or Day(DAY_NAMES[number % 7]) in days

    if start < end:
        return start <= clock < end and opens(day)
    return (clock >= start and opens(day)) or (clock < end and opens(day - 1))


@SPEC
@given(
    st.lists(st.tuples(cents, windows), max_size=3),
    cents,
    st.integers(0, HOURS_PER_WEEK - 1),
    st.sampled_from(list(Dimension)),
)
def test_the_table_has_the_price_of_the_first_window_that_is_open(
    restricted: list[tuple[float, tuple[int, int, frozenset[Day]]]],
    rest: float,
    hour: int,
    dimension: Dimension,
) -> None:
    """For windows of whole hours, which cover an hour wholly or not at all; else the rest."""
    elements = [
        element(dimension, price, 2_500, restrictions=Restrictions(s * 60, e * 60, day_of_week=d))
        for price, (s, e, d) in restricted
    ]
    prices = priced(make_tariff(*elements, element(dimension, rest, None)), 1_500)
    open_ones = [1.25 * price for price, window in restricted if literally(window, hour)]
    expected = [0.0] * 4
    expected[(ENERGY, FLAT, TIME, PARKING).index(dimension)] = [*open_ones, 1.15 * rest][0]
    assert expected == pytest.approx(list(at(prices, hour)))


@pytest.mark.parametrize("bound", [Restrictions(min_duration_s=60), Restrictions(min_energy_wh=1)])
def test_an_element_that_starts_only_later_in_a_charge_is_not_in_the_table(
    bound: Restrictions,
) -> None:
    """The table is of prices at the start of a session."""
    later = element(ENERGY, 1, restrictions=bound)
    prices = hourly_prices(make_tariff(later, element(ENERGY, 4)), 0)
    assert {4e6} == set(prices.energy)
