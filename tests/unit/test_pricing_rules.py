"""What a charge costs by a tariff: OCPI's rules, each by its amount."""

from datetime import UTC, datetime
from fractions import Fraction

import pytest

from tests.unit.pricing_builders import (
    START,
    cdr,
    charge,
    component,
    cost,
    element,
    priced,
    priced_cdr,
    tariff,
    total,
    with_tax,
)
from voucher_grpc.domain.pricing.choice import choose_tariff
from voucher_grpc.domain.pricing.engine import Category
from voucher_grpc.domain.pricing.limits import Limit
from voucher_grpc.domain.pricing.tariff import TariffType
from voucher_grpc.errors import BadInput

ENERGY, TIME, PARKING = (
    component(d, p) for d, p in (("ENERGY", 2), ("TIME", 6), ("PARKING_TIME", 12))
)


def test_energy_time_parking_and_a_flat_fee_are_billed_each_by_its_unit() -> None:
    """20 kWh at 40 kW are half an hour; the vehicle stays half an hour longer."""
    price = priced(tariff(element(ENERGY, TIME, PARKING, component("FLAT", 5))), charge(60, 20, 40))
    assert (40, 3, 6, 5) == tuple(
        cost(price, c) for c in (Category.ENERGY, Category.TIME, Category.PARKING, Category.FIXED)
    )
    assert 54 == total(price)


def test_of_each_dimension_the_first_element_that_holds_wins() -> None:
    """The second element prices what the first one does not have."""
    of = tariff(element(ENERGY), element(component("ENERGY", 9), TIME))
    assert 40 + 3 == total(priced(of, charge(30, 20, 40)))


def test_an_element_that_does_not_hold_leaves_its_dimensions_to_the_next() -> None:
    """The first is for the evening."""
    of = tariff(element(component("ENERGY", 9), start_time="18:00"), element(ENERGY))
    assert 40 == total(priced(of, charge(30, 20, 40)))


def test_a_charge_is_split_where_a_window_begins() -> None:
    """10:00 to 11:00 at the place; from 10:30 on energy costs 4."""
    of = tariff(element(component("ENERGY", 4), start_time="10:30"), element(ENERGY))
    assert 10 * 2 + 10 * 4 == total(priced(of, charge(60, 20)))


def test_a_window_past_midnight_belongs_to_the_day_on_which_it_begins() -> None:
    """Monday 22:00 to 06:00 is on Tuesday 01:00, and is not on Monday 01:00."""
    night = element(
        component("ENERGY", 1), start_time="22:00", end_time="06:00", day_of_week=["MONDAY"]
    )
    of = tariff(night, element(ENERGY))
    tuesday, monday = (datetime(2026, 6, day, 23, tzinfo=UTC) for day in (1, 7))  # 01:00 in Oslo
    assert 20 == total(priced(of, charge(60, 20, start=tuesday)))
    assert 40 == total(priced(of, charge(60, 20, start=monday)))


def test_an_hour_that_is_repeated_is_inside_a_window_both_times() -> None:
    """2026-10-25: 02:00 to 03:00 occurs twice in Oslo; four hours of charging, 10 kWh each."""
    of = tariff(
        element(component("ENERGY", 4), start_time="02:00", end_time="03:00"), element(ENERGY)
    )
    start = datetime(2026, 10, 24, 23, tzinfo=UTC)  # 01:00
    assert 2 * 10 * 2 + 2 * 10 * 4 == total(priced(of, charge(240, 40, start=start)))


def test_a_window_that_begins_in_an_hour_that_is_skipped_begins_with_the_change() -> None:
    """2026-03-29: the clock goes from 02:00 to 03:00; a window from 02:30 on holds from then on."""
    of = tariff(
        element(component("ENERGY", 4), start_time="02:30", end_time="05:00"), element(ENERGY)
    )
    start = datetime(2026, 3, 29, 0, tzinfo=UTC)  # 01:00
    assert 10 * 2 + 10 * 4 == total(priced(of, charge(120, 20, start=start)))


def test_a_date_begins_at_local_midnight() -> None:
    """Half of the charge is on the third of June."""
    of = tariff(element(component("ENERGY", 4), start_date="2026-06-03"), element(ENERGY))
    start = datetime(2026, 6, 2, 21, tzinfo=UTC)  # 23:00
    assert 10 * 2 + 10 * 4 == total(priced(of, charge(120, 20, start=start)))


def test_the_last_day_of_a_date_range_is_the_one_before_its_end() -> None:
    """`end_date` is exclusive."""
    of = tariff(element(component("ENERGY", 4), end_date="2026-06-02"), element(ENERGY))
    assert 40 == total(priced(of, charge(60, 20)))


def test_tiers_of_energy_cut_to_the_watt_hour() -> None:
    """The first 5 kWh cost 1, the others 3; at 40 kW that is after 450 s."""
    of = tariff(
        element(component("ENERGY", 1), max_kwh=5), element(component("ENERGY", 3), min_kwh=5)
    )
    price = priced(of, charge(60, 20, 40))
    assert 5 * 1 + 15 * 3 == total(price)
    assert [0, 450, 1_800] == [p.period.elapsed_s for p in price.periods]


def test_parking_after_a_time_counts_from_the_start_of_the_charge() -> None:
    """Free for the first 45 minutes at the connector, of which 30 are charging."""
    of = tariff(element(component("PARKING_TIME", 12), min_duration=2_700))
    assert 3 == total(priced(of, charge(60, 20, 40)))


@pytest.mark.parametrize(("kw", "expected"), [(31.999, 2), (32, 3), (50, 3)])
def test_bounds_of_power_hold_from_the_lower_on(kw: float, expected: int) -> None:
    """`min_power` is inclusive; on a connector of 11 kW a tier from 32 kW never applies."""
    of = tariff(element(component("ENERGY", 3), min_power=32), element(ENERGY))
    assert 10 * expected == total(priced(of, charge(120, 10, kw)))


def test_a_bound_on_current_does_not_hold_where_the_current_is_not_known() -> None:
    """A price must not apply more widely than it was meant."""
    of = tariff(element(component("ENERGY", 1), max_current=16), element(ENERGY))
    assert 40 == total(priced(of, charge(60, 20)))
    assert 20 == total(priced(of, charge(60, 20, amperes=15.9)))
    assert 40 == total(priced(of, charge(60, 20, amperes=16)))


def test_energy_is_rounded_up_once_by_the_step_of_the_last_component() -> None:
    """5 kWh by steps of 8 and then 7 kWh by steps of 5: 12 are billed as 15."""
    of = tariff(
        element(component("ENERGY", 2, 8_000), max_kwh=5), element(component("ENERGY", 4, 5_000))
    )
    price = priced(of, charge(60, 12))
    assert 5 * 2 + 10 * 4 == total(price)
    [item] = price.periods[1].items
    assert 7_000 == item.volume
    assert 10_000 == item.billed_volume


def test_time_and_parking_share_one_rounding_on_what_is_billed_last() -> None:
    """31 minutes of charging are not rounded to 45; 14 minutes of parking are rounded to 20."""
    of = tariff(element(component("TIME", 60, 900), component("PARKING_TIME", 60, 600)))
    price = priced_cdr(
        of, cdr((0, {"TIME": "0.51666667"}), (31, {"PARKING_TIME": "0.23333333"}), minutes=45)
    )
    assert 20 == cost(price, Category.PARKING)
    assert 31 == cost(price, Category.TIME)


def test_the_total_of_a_dimension_is_rounded_not_its_last_period() -> None:
    """Three periods of 20 minutes by steps of 45: 60 minutes are billed as 90."""
    of = tariff(element(component("TIME", 60, 2_700)))
    periods = [(minute, {"TIME": "0.3333333333"}) for minute in (0, 20, 40)]
    assert 90 == total(priced_cdr(of, cdr(*periods)))


def test_the_total_that_is_rounded_has_what_nothing_prices() -> None:
    """20 free minutes and 25 at a price, by steps of 30: 60 minutes, of which 40 are billed."""
    of = tariff(element(component("TIME", 60, 1_800), min_duration=1_200))
    document = cdr((0, {"TIME": "0.33333333"}), (20, {"TIME": "0.41666667"}))
    assert 40 == total(priced_cdr(of, document))


def test_what_is_beyond_the_four_decimals_of_ocpi_is_not_rounded_up() -> None:
    """0.6667 hours are 40 minutes, and 5.000000000000001 kWh are 5."""
    of = tariff(element(component("TIME", 60, 60), component("ENERGY", 1, 1_000)))
    document = cdr((0, {"TIME": "0.6667", "ENERGY": "5.000000000000001"}))
    assert 40 + 5 == total(priced_cdr(of, document))


def test_a_step_of_nothing_rounds_nothing() -> None:
    """Published tariffs have `step_size` 0."""
    assert Fraction("0.0002") == total(priced(tariff(element(ENERGY)), charge(60, "0.0001")))


def test_a_flat_fee_is_billed_once() -> None:
    """In however many periods it would apply."""
    of = tariff(element(component("FLAT", 5)))
    assert 5 == total(priced_cdr(of, cdr((0, {"TIME": "0.5"}), (30, {"TIME": "0.5"}))))


def test_a_price_is_at_least_and_at_most_what_the_tariff_says() -> None:
    """Both before tax."""
    least, most = {"excl_vat": 50}, {"excl_vat": 30}
    small, large = tariff(element(ENERGY), min_price=least), tariff(element(ENERGY), max_price=most)
    assert (50, Limit.MIN_PRICE) == (total(p := priced(small, charge(60, 20))), p.limit)
    assert (30, Limit.MAX_PRICE) == (total(p := priced(large, charge(60, 20))), p.limit)
    assert (60, None) == (total(p := priced(small, charge(60, 30))), p.limit)
    both = tariff(element(ENERGY), min_price=least, max_price=most)
    assert (30, Limit.MAX_PRICE) == (total(p := priced(both, charge(60, 20))), p.limit)


@pytest.mark.parametrize("key", ["incl_vat", "after_taxes"])
def test_a_limit_that_is_stated_after_tax_alone_bounds_both(key: str) -> None:
    """25 % of tax: 50 with it are 40 without."""
    of = tariff(element(component("ENERGY", 1, vat=25)), min_price={key: 50})
    price = priced(of, charge(60, 20))
    assert (40, 50) == (total(price), with_tax(price))


def test_a_limit_with_a_list_of_taxes_has_them_added() -> None:
    """OCPI 2.3.0 Price: an amount or a percentage each."""
    taxes = [{"name": "state", "percentage": 10}, {"name": "city", "amount": 2}]
    of = tariff(
        element(component("ENERGY", 1, vat=25)), min_price={"before_taxes": 40, "taxes": taxes}
    )
    price = priced(of, charge(60, 20))
    assert (40, 46) == (total(price), with_tax(price))


@pytest.mark.parametrize(
    ("included", "vat", "rate", "before", "after"),
    [
        ("NO", 25, None, "20", "25"),
        ("YES", 25, None, "16", "20"),
        ("N/A", 25, None, "20", "20"),
        ("NO", None, None, "20", "20"),
        ("NO", None, Fraction(1, 4), "20", "25"),
        ("YES", None, Fraction(1, 4), "16", "20"),
        ("NO", 0, Fraction(1, 4), "20", "20"),
    ],
)
def test_tax_is_added_or_contained_as_the_tariff_says(
    included: str, vat: int | None, rate: Fraction | None, before: str, after: str
) -> None:
    """Without a `vat` the configured rate counts, and without that none; 0 is a rate."""
    of = tariff(element(component("ENERGY", 1, vat=vat)), tax_included=included)
    price = priced(of, charge(60, 20), rate=rate)
    assert (Fraction(before), Fraction(after)) == (total(price), with_tax(price))


def test_each_component_has_its_own_tax() -> None:
    """Energy at 25 %, time at 10 %."""
    of = tariff(element(component("ENERGY", 1, vat=25), component("TIME", 10, vat=10)))
    price = priced(of, charge(60, 20))
    assert (30, 36) == (total(price), with_tax(price))


def test_periods_of_a_cdr_are_priced_by_their_start_and_not_split() -> None:
    """One period from 10:00 to 11:00; energy costs 4 from 10:30 on."""
    of = tariff(element(component("ENERGY", 4), start_time="10:30"), element(ENERGY))
    assert 40 == total(priced_cdr(of, cdr((0, {"ENERGY": 20}))))


def test_a_period_has_its_mean_power_where_none_is_stated() -> None:
    """20 kWh in half an hour are 40 kW."""
    of = tariff(element(component("ENERGY", 3), min_power=32), element(ENERGY))
    periods = (0, {"ENERGY": 20}), (30, {"ENERGY": 10})
    assert 20 * 3 + 10 * 2 == total(priced_cdr(of, cdr(*periods)))


def test_stated_power_comes_before_the_mean() -> None:
    """A bound must hold in all of the period."""
    of = tariff(element(component("ENERGY", 3), min_power=32), element(ENERGY))
    document = cdr((0, {"ENERGY": 20, "MIN_POWER": 10, "MAX_POWER": 60}))
    assert 40 == total(priced_cdr(of, document))


def test_a_reservation_is_priced_by_its_elements_alone() -> None:
    """Quarter of an hour reserved, then a charge: a fee of 1 and 8 an hour."""
    reserved = element(component("TIME", 8), component("FLAT", 1), reservation="RESERVATION")
    of = tariff(reserved, element(ENERGY, TIME))
    document = cdr((0, {"RESERVATION_TIME": "0.25"}), (15, {"ENERGY": 20, "TIME": "0.5"}))
    price = priced_cdr(of, document)
    assert (3, 40, 3) == tuple(
        cost(price, c) for c in (Category.RESERVATION, Category.ENERGY, Category.TIME)
    )


def test_a_reservation_that_expired_has_its_own_price() -> None:
    """Where there is one for it; the fee is that of any reservation."""
    reserved = element(component("TIME", 8), component("FLAT", 1), reservation="RESERVATION")
    expired = element(component("TIME", 20), reservation="RESERVATION_EXPIRES")
    price = priced_cdr(
        tariff(reserved, expired, element(ENERGY)), cdr((0, {"RESERVATION_TIME": "0.25"}))
    )
    assert 1 + 5 == total(price)


def test_a_tariff_prices_nothing_of_a_dimension_that_it_does_not_have() -> None:
    """No element for parking: it is free, and nothing is billed."""
    price = priced(tariff(element(ENERGY)), charge(60, 20, 40))
    assert (40, 0) == (total(price), cost(price, Category.PARKING))
    assert () == price.periods[1].items


@pytest.mark.parametrize(
    ("minutes", "kwh", "kw"),
    [(0, 1, None), (-5, 1, None), (60, -1, None), (60, 1, 0), (60, 1, -3), (140_000, 1, None)],
)
def test_a_charge_that_cannot_be_is_refused(minutes: int, kwh: int, kw: int | None) -> None:
    """No time, no energy below zero, no power without a sign of life, no year at a connector."""
    with pytest.raises(BadInput):
        charge(minutes, kwh, kw)


def test_what_is_not_reached_in_time_is_not_billed() -> None:
    """80 kWh wanted, an hour at 24 kW."""
    assert 48 == total(priced(tariff(element(ENERGY)), charge(60, 80, 24)))


class TestChoice:
    """Which of a connector's tariffs counts."""

    def test_the_one_that_is_valid_at_the_start(self) -> None:
        """The end is exclusive."""
        old = tariff(element(ENERGY), id="OLD", end_date_time=START.isoformat())
        new = tariff(element(ENERGY), id="NEW", start_date_time=START.isoformat())
        assert choose_tariff([old, new], START) == (new, False)
        assert choose_tariff([old], START) is None

    def test_the_declared_profile_then_regular_then_any_then_ad_hoc(self) -> None:
        """Of a kind the first in the connector's order."""
        kinds = ("AD_HOC_PAYMENT", None, "REGULAR", "PROFILE_CHEAP", "REGULAR")
        all_ = [
            tariff(element(ENERGY), id=str(n), **({"type": kind} if kind else {}))
            for n, kind in enumerate(kinds)
        ]

        def chosen(upto: int, profile: TariffType = TariffType.REGULAR) -> tuple[str, bool]:
            found = choose_tariff(all_[:upto], START, profile=profile)
            assert found is not None
            return found.tariff.tariff_id, found.ad_hoc_only

        assert [("0", True), ("1", False), ("2", False), ("2", False)] == [
            chosen(n) for n in (1, 2, 3, 5)
        ]
        assert ("3", False) == chosen(5, TariffType.PROFILE_CHEAP)
        assert ("2", False) == chosen(5, TariffType.PROFILE_FAST)

    def test_only_in_the_currency_that_is_asked_for(self) -> None:
        """Nothing is converted."""
        of = tariff(element(ENERGY), currency="SEK")
        assert choose_tariff([of], START, "NOK") is None
        assert choose_tariff([of], START, "SEK") == (of, False)
