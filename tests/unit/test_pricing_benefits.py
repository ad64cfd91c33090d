"""What is left to pay of a charge with a pass, to the micro-unit (docs/pricing.md)."""

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.pricing_builders import charge, component, element, priced, tariff
from voucher_grpc.domain.pricing.benefits import (
    after_energy_bundle,
    after_energy_price,
    after_percentage_off,
    after_session_bundle,
)
from voucher_grpc.domain.pricing.engine import ChargePrice


def units(micros: Fraction) -> float:
    return float(micros / 1_000_000)


def wh(kwh: object) -> Fraction:
    return Fraction(str(kwh)) * 1_000


def a_charge(*elements: dict[str, Any], **more: object) -> ChargePrice:
    """10 kWh at 10 kW, then an hour of parking."""
    return priced(tariff(*elements, **more), charge(120, 10, 10))


EVERYTHING = element(
    component("ENERGY", 4), component("FLAT", 5), component("TIME", 2), component("PARKING_TIME", 3)
)


@pytest.mark.parametrize(("kwh", "left"), [(0, 50), (2.5, 40), (10, 10), (99, 10), (None, 10)])
def test_an_energy_bundle_covers_the_energy_that_comes_first(kwh: object, left: float) -> None:
    """Of 40 for energy, 5 a session, 2 for time and 3 for parking."""
    covered_wh = None if kwh is None else wh(kwh)
    assert left == units(after_energy_bundle(a_charge(EVERYTHING), covered_wh))


def test_of_two_prices_an_energy_bundle_covers_the_first_kilowatt_hours() -> None:
    """The first 4 kWh at 1, the others at 5: with 5 kWh covered 5 are left."""
    price = a_charge(element(component("ENERGY", 1), max_kwh=4), element(component("ENERGY", 5)))
    assert 34 == units(after_energy_bundle(price, wh(0)))
    assert 25 == units(after_energy_bundle(price, wh(5)))


def test_what_a_step_adds_is_not_covered_by_a_bundle_of_energy() -> None:
    """10 kWh are billed as 15; 5 are left of the bundle's covering all that was measured."""
    price = a_charge(element(component("ENERGY", 1, step=15_000)))
    assert 15 == units(price.total.after_tax)
    assert 5 == units(after_energy_bundle(price))
    assert 0 == units(after_session_bundle(price))
    # A price per kWh is paid for what was measured.
    assert 20 == units(after_energy_price(price, 2_000_000))


def test_a_session_bundle_covers_all_but_parking_and_what_is_beyond_its_cap() -> None:
    """Energy beyond the cap is billed at its price."""
    price = a_charge(EVERYTHING)
    assert 3 == units(after_session_bundle(price))
    assert 3 == units(after_session_bundle(price, wh(10)))
    assert 3 + 6 * 4 == units(after_session_bundle(price, wh(4)))


def test_an_energy_price_replaces_the_price_of_energy_only() -> None:
    """10 kWh at 1.5 instead of 4."""
    assert 10 + 15 == units(after_energy_price(a_charge(EVERYTHING), 1_500_000))


def test_a_percentage_reduces_the_whole() -> None:
    """A fifth off 50; within the tariff's bounds first."""
    assert 40 == units(after_percentage_off(a_charge(EVERYTHING), 2_000))
    least = a_charge(EVERYTHING, min_price={"excl_vat": 60})
    assert 48 == units(after_percentage_off(least, 2_000))


@pytest.mark.parametrize(("kwh", "left"), [(None, 10), (10, 10), (5, 50), (2.5, 75), (0, 100)])
def test_a_least_price_is_billed_on_the_part_that_is_not_covered(kwh: object, left: float) -> None:
    """Of 100 at least half is left where half is covered; where all is, what else costs."""
    price = a_charge(EVERYTHING, min_price={"excl_vat": 100})
    assert left == units(after_energy_bundle(price, None if kwh is None else wh(kwh)))


def test_a_greatest_price_bounds_what_is_left_too() -> None:
    """Capped at 8: of 50 nothing is saved until less than 8 is left."""
    price = a_charge(EVERYTHING, max_price={"excl_vat": 8})
    assert 8 == units(after_energy_bundle(price))
    assert 3 == units(after_session_bundle(price))
    assert 8 == units(after_energy_price(price, 1_000_000))


amounts = st.integers(0, 9)


@given(
    prices=st.tuples(amounts, amounts, amounts, amounts),
    step=st.sampled_from([0, 1, 3_000, 15_000]),
    limits=st.tuples(amounts, st.integers(0, 99)),
    tax=st.sampled_from([None, 0, 21]),
    kwh=st.integers(0, 12),
)
def test_more_covered_never_leaves_more_to_pay(
    prices: tuple[int, int, int, int],
    step: int,
    limits: tuple[int, int],
    tax: int | None,
    kwh: int,
) -> None:
    """And never more than the charge costs, nor less than nothing."""
    more = {} if tax is None else {"vat": tax}
    kinds = ("ENERGY", "FLAT", "TIME", "PARKING_TIME")
    of = tariff(
        element(*(component(k, p, step=step, **more) for k, p in zip(kinds, prices, strict=True))),
        min_price={"excl_vat": limits[0]},
        max_price={"excl_vat": limits[1]},
    )
    price = priced(of, charge(120, 10, 10))
    for after in (after_energy_bundle, after_session_bundle):
        less, left = after(price, wh(kwh)), after(price, wh(kwh + 1))
        assert 0 <= after(price) <= left <= less <= price.total.after_tax
