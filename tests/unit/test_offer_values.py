"""What an offer is worth, in which order it stands and what is said of it, figure by figure."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest

from tests.unit.builders import (
    NOW,
    PLACE,
    make_buyer,
    make_demand,
    make_product,
    rank,
    together,
)
from voucher_grpc.domain.catalogue.conditions import Restrictions, Selectors, UsageConditions
from voucher_grpc.domain.catalogue.product import (
    Benefit,
    EnergyBundle,
    EnergyPrice,
    FlatPeriod,
    PercentageOff,
    PersonalLimit,
    Product,
    SessionBundle,
    Validity,
    ValidityStart,
)
from voucher_grpc.domain.offers.choices import EmptyReason, Ranking
from voucher_grpc.domain.offers.columns import Size, build_columns
from voucher_grpc.domain.offers.knowledge import ActivePass, ProfileType
from voucher_grpc.domain.offers.ranking import RankedBuyer, adjusted_saving, rank_all
from voucher_grpc.domain.offers.reasons import BreakEven, break_even_of
from voucher_grpc.domain.offers.valuation import ProductValue, value
from voucher_grpc.domain.offers.verdicts import Verdict, explain
from voucher_grpc.domain.passes.purchase import Bought
from voucher_grpc.domain.places.location import Connector, Evse, Location, VehicleProfile
from voucher_grpc.domain.tendencies.demand import Demands
from voucher_grpc.ocpi import Day, PowerType, VehicleType

ANY = VehicleProfile()
FREE = PercentageOff(10_000)


def product_value(product: Product, demand: Demands, now: datetime = NOW) -> ProductValue:
    """What a product is worth to a user."""
    [found] = value(build_columns([product]), demand, [ANY], [{}], now).product_values([0], [0])
    return found


def ranked(products: list[Product], demand: Demands | None, **buyer: Any) -> Ranking:
    return rank(build_columns(products), demand, make_buyer(**buyer), NOW, 20)


def ids(ranking: Ranking) -> list[str]:
    return [choice.product.product_id for choice in ranking.choices]


def test_the_range_reaches_down_to_a_mean_that_one_rare_loss_draws_below_it() -> None:
    """The one month in twelve in which all is charged at the dearer price of the pass."""
    loss = make_demand([0] * 11 + [100_000])
    found = product_value(make_product("p", EnergyPrice(17_000_000), price=0), loss)
    assert -100e6 == pytest.approx(found.expected_saving)
    assert (-100e6, 0.0) == pytest.approx((found.saving_low, found.saving_high))
    assert 1 / 12 == pytest.approx(found.harm_probability)


def test_the_range_reaches_up_to_a_mean_that_one_rare_gain_draws_above_it() -> None:
    """The other way round: one month in twelve saves 1,200."""
    found = product_value(
        make_product("p", EnergyPrice(0), price=0), make_demand([0] * 11 + [240_000])
    )
    assert (0.0, 100e6, 100e6) == pytest.approx(
        (found.saving_low, found.expected_saving, found.saving_high)
    )


def test_the_range_is_interpolated_between_scenarios() -> None:
    """Of 0, 10, ... 110 the tenth lies at 11, nine tenths at 99."""
    demand = make_demand([2_000 * n for n in range(12)])
    found = product_value(make_product("p", FREE, price=0), demand)
    assert (11e6, 55e6, 99e6) == pytest.approx(
        (found.saving_low, found.expected_saving, found.saving_high)
    )


@pytest.mark.parametrize(
    ("price_micros", "energies", "expected"),
    [
        (0, [0, 100_000], 0.0),  # nothing is charged in one of two months: no harm
        (1, [0, 100_000], 0.5),  # a fee of a micro-unit is
        (500_000_000, [100_000, 100_000], 0.0),  # it comes out even
        (500_000_001, [100_000, 100_000, 100_001], 2 / 3),
    ],
)
def test_harm_is_a_saving_below_zero(
    price_micros: int, energies: list[float], expected: float
) -> None:
    """A free pass in a month without charging harms nobody."""
    product = make_product("p", FREE, price=price_micros / 1e6)
    assert expected == pytest.approx(product_value(product, make_demand(energies)).harm_probability)


def test_all_that_is_said_of_a_pass() -> None:
    """100 or 200 kWh in the month, three quarters at night; a bundle of 100 kWh by night for 49."""
    night = UsageConditions((Restrictions(22 * 60, 6 * 60),))
    product = make_product("p", EnergyBundle(100_000), conditions=night)
    found = product_value(product, make_demand([100_000, 200_000], hours={23: 0.75, 36: 0.25}))
    assert ProductValue(
        expected_saving=(375e6 + 500e6) / 2 - 49e6,
        saving_low=375e6 - 49e6 + 12.5e6,
        saving_high=500e6 - 49e6 - 12.5e6,
        harm_probability=0.0,
        hours_share=0.75,
        places_share=1.0,
        covered_energy_wh=112_500.0,
        covered_sessions=11.25,
        gain_per_kwh=5e6,
    ) == pytest.approx(found)


@pytest.mark.parametrize(
    ("benefit", "expected"),
    [
        # Sessions of 10 kWh at 5, ten in the month.
        (SessionBundle(4), 4 * 50),
        (SessionBundle(4, 2_000), 4 * 10),
        (SessionBundle(4, 10_000), 4 * 50),
        (SessionBundle(4, 30_000), 4 * 50),
        (SessionBundle(40, 2_000), 10 * 10),
        (EnergyBundle(30_000), 150),
        (FlatPeriod(300_000), 500),
        (EnergyPrice(2_000_000), 300),
        (PercentageOff(1_500), 75),
    ],
)
def test_each_benefit_gives_what_it_says(benefit: Benefit, expected: float) -> None:
    """To the micro-unit, of 100 kWh at 5."""
    found = product_value(make_product("p", benefit, price=0), make_demand())
    assert expected * 1e6 == pytest.approx(found.expected_saving)


def test_a_cap_on_sessions_takes_the_part_of_each_below_it() -> None:
    """Of sessions of 2 and 18 kWh one up to 10 is given 2 and 10: 60 % of the energy."""
    demand = replace(make_demand(), session_wh=np.array([[2_000.0, 18_000.0]]))
    found = product_value(make_product("p", SessionBundle(100, 10_000), price=0), demand)
    assert 300e6 == pytest.approx(found.expected_saving)


@pytest.mark.parametrize(
    ("validity", "expected"),
    [
        (Validity(days=30), 200),
        (Validity(days=15), 100),
        (Validity(days=60), 400),
        (Validity(months=1), 200 * 30.4375 / 30),
        # One that begins later lasts as long; one that has begun what is left of it.
        (Validity(days=30, start=ValidityStart.AT, start_time=NOW + timedelta(days=9)), 200),
        (Validity(days=30, start=ValidityStart.AT, start_time=NOW - timedelta(days=9)), 140),
        (Validity(days=30, start=ValidityStart.AT, start_time=NOW - timedelta(days=40)), 0),
    ],
)
def test_a_pass_is_worth_what_it_saves_in_its_life(validity: Validity, expected: float) -> None:
    """100 kWh in 30 days at 3 instead of 5."""
    found = product_value(
        make_product("p", EnergyPrice(3_000_000), 0, validity=validity), make_demand()
    )
    assert expected * 1e6 == pytest.approx(found.expected_saving)


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (None, 12, 12),
        (12, None, 18),
        (-5, 12, 12),
        (5, 40, 25),
        (40, 50, 0),
        (-9, 0, 0),
    ],
)
def test_dates_cut_the_life_of_a_pass(start: int | None, end: int | None, expected: int) -> None:
    """Days from today on of the 30: the first day counts, the last does not."""

    def day(number: int | None) -> Any:
        return None if number is None else NOW.date() + timedelta(days=number)

    dates = UsageConditions((Restrictions(start_date=day(start), end_date=day(end)),))
    found = product_value(
        make_product("p", FREE, price=0, conditions=dates), make_demand([30_000], 1)
    )
    assert expected * 1e6 == pytest.approx(found.expected_saving)


def test_alternatives_with_dates_are_good_from_the_first_to_the_last() -> None:
    """And for ever if one of them is."""
    today = NOW.date()
    days = [today + timedelta(days=n) for n in (3, 5, 8, 12)]
    two = (
        Restrictions(start_date=days[0], end_date=days[1]),
        Restrictions(start_date=days[2], end_date=days[3]),
    )
    for any_of, expected in ((two, 9), ((*two, Restrictions(start_date=today)), 30)):
        product = make_product("p", FREE, price=0, conditions=UsageConditions(any_of))
        found = product_value(product, make_demand([30_000], 1))
        assert expected * 1e6 == pytest.approx(found.expected_saving)


def test_alternatives_with_bounds_on_energy_are_joined_by_the_widest() -> None:
    """2 to 4 and 6 to 8 are 2 to 8 of sessions of 10 kWh; one without bounds takes them away."""
    two = (
        Restrictions(min_energy_wh=2_000, max_energy_wh=4_000),
        Restrictions(min_energy_wh=6_000, max_energy_wh=8_000),
    )
    for any_of, expected in (
        (two, 60),
        ((*two, Restrictions(min_energy_wh=9_000)), 80),
        ((*two, Restrictions(max_energy_wh=1_000)), 80),
        ((*two, Restrictions()), 100),
    ):
        product = make_product("p", FREE, price=0, conditions=UsageConditions(any_of))
        assert expected * 1e6 == pytest.approx(
            product_value(product, make_demand((100_000,), 1))[0]
        )


def adjusted(product: Product, demand: Demands, **buyer: Any) -> float:
    """The adjusted saving in units."""
    valuation = value(build_columns([product]), demand, [ANY], [{}], NOW)
    return float(adjusted_saving(valuation, [make_buyer(**buyer)]).item()) / 1e6


@pytest.mark.parametrize(
    ("days", "expected"),
    [
        # 500 a month on average less 49, and 40 kWh at 10 for a half of the months.
        (30, 451 - 200),
        # A life of 15 days: half of the harm counts, and the saving is not made larger.
        (15, 201 - 100),
        # A life of 60 days is given by its 30 days.
        (60, (951 - 200) / 2),
    ],
)
def test_the_price_of_harm_and_the_length_of_a_pass(days: int, expected: float) -> None:
    """40 kWh at the user's price for a month that costs more, in proportion below a month."""
    fee = make_product("p", FREE, price=49, validity=Validity(days=days))
    assert expected == pytest.approx(adjusted(fee, make_demand([0, 100_000], 10)))


def test_a_wish_for_fast_charging_makes_a_gain_greater_and_a_loss_no_greater() -> None:
    """A quarter more, for passes for fast charging only, to who declared it."""
    fast = UsageConditions((Restrictions(min_power_w=50_000),))
    connector = Connector("1", "IEC_62196_T2_COMBO", PowerType.DC, 150_000)
    here = Location("NO", "OSL", "home", "Europe/Oslo", evses=(Evse("1", (connector,)),))
    for conditions, price, wish, expected in (
        (fast, 49, ProfileType.FAST, 151 * 1.25),
        (fast, 49, ProfileType.GREEN, 151),
        (UsageConditions(), 49, ProfileType.FAST, 151),
        (fast, 249, ProfileType.FAST, -49 - 40 * 5),
    ):
        product = make_product("p", EnergyPrice(3_000_000), price, conditions=conditions)
        found = adjusted(product, make_demand(location=here), profile_type=wish)
        assert expected == pytest.approx(found)


@pytest.mark.parametrize(
    ("conditions", "fast"),
    [
        (UsageConditions(selectors=Selectors(power_types=frozenset({PowerType.DC}))), True),
        (
            UsageConditions(
                selectors=Selectors(power_types=frozenset({PowerType.DC, PowerType.AC_3_PHASE}))
            ),
            False,
        ),
        (UsageConditions(selectors=Selectors(min_connector_power_w=50_000)), True),
        (UsageConditions(selectors=Selectors(min_connector_power_w=49_999)), False),
        (UsageConditions((Restrictions(min_power_w=50_000),)), True),
        (UsageConditions((Restrictions(min_power_w=49_999),)), False),
        (
            UsageConditions((Restrictions(min_power_w=50_000), Restrictions(max_power_w=22_000))),
            False,
        ),
        (UsageConditions(), False),
    ],
)
def test_fast_is_direct_current_or_50_kw(conditions: UsageConditions, fast: bool) -> None:
    """And nothing else in it."""
    columns = build_columns([make_product("p", conditions=conditions)])
    assert [fast] == columns.fast_cells.tolist()


def test_savings_equal_to_a_micro_unit_keep_the_catalogues_order() -> None:
    """Whatever their kind; a micro-unit more comes first, and half a one is none."""
    even = [make_product(p, b, price=0) for p, b in (("a", FREE), ("b", EnergyPrice(0)))]
    assert ["a", "b"] == ids(ranked(even, make_demand()))
    assert ["b", "a"] == ids(ranked(even[::-1], make_demand()))
    more = make_product("c", SessionBundle(1_000), price=-0.000001)
    assert ["c", "a", "b"] == ids(ranked([*even, more], make_demand()))


@pytest.mark.parametrize(("fee_micros", "recommended"), [(499_999_999, True), (500_000_000, False)])
def test_what_saves_a_micro_unit_is_recommended_and_what_saves_nothing_is_not(
    fee_micros: int, recommended: bool
) -> None:
    """100 kWh at 5 for free."""
    product = make_product("p", FREE, price=fee_micros / 1e6, default_offer=True)
    [choice] = ranked([product], make_demand()).choices
    assert recommended is choice.recommended


def test_what_is_expected_is_told_to_a_hundredth() -> None:
    """Rounded, not cut off; the price itself is exact."""
    product = make_product("p", FREE, price=0.009, default_offer=True)
    [choice] = ranked([product], make_demand([1_000], 0.016)).choices
    assert (10_000, (10_000, 10_000)) == (
        choice.expected_saving_micros,
        choice.saving_range_micros,
    )
    [choice] = ranked([product], make_demand([1_000], 0.005)).choices
    assert (False, 0, (0, 0)) == (
        choice.recommended,
        choice.expected_saving_micros,
        choice.saving_range_micros,
    )


def test_a_sale_begins_with_its_first_instant_and_ends_before_its_last() -> None:
    """As seen by the ranking; a product that is not on sale yet is not offered as a default."""
    second = timedelta(seconds=1)
    for window, offered in (
        ({"sale_start_time": NOW}, True),
        ({"sale_start_time": NOW + second}, False),
        ({"sale_end_time": NOW}, False),
        ({"sale_end_time": NOW + second}, True),
    ):
        product = make_product("p", FREE, price=0, default_offer=True, **window)
        other = make_product("z", EnergyPrice(9_000_000))
        for demand in (make_demand(), None):
            assert (["p"] if offered else []) == ids(ranked([other, product], demand))
    early = make_product("p", FREE, sale_start_time=NOW + second)
    assert EmptyReason.NOTHING_ON_SALE == ranked([early], make_demand()).empty_reason


def test_why_there_is_nothing_to_offer() -> None:
    """All that is on sale is taken, or something is left that does not fit."""
    one, two = make_product("one", FREE, price=900), make_product("two", FREE, price=900)
    early = make_product("early", FREE, sale_start_time=NOW + timedelta(1))

    def why(products: list[Product], **buyer: Any) -> EmptyReason | None:
        found = ranked(products, make_demand(), **buyer)
        assert not found.choices
        return found.empty_reason

    assert EmptyReason.NOTHING_FITS == why([one, two])
    assert EmptyReason.NOTHING_FITS == why([one, two], sold_out=frozenset({"one"}))
    assert EmptyReason.LIMITS_REACHED == why([one, two], sold_out=frozenset({"one", "two"}))
    assert EmptyReason.LIMITS_REACHED == why([one, early], sold_out=frozenset({"one"}))
    assert EmptyReason.NOTHING_FITS == why([one, early], sold_out=frozenset({"early"}))
    assert EmptyReason.LIMITS_REACHED == why([one], owned={"one": ActivePass(0, 9)})


def test_the_cheapest_default_that_can_be_had_and_used_is_the_one() -> None:
    """Of two that cost the same the first in the catalogue; sold out and foreign ones not."""
    drones = UsageConditions(selectors=Selectors(vehicle_types=frozenset({VehicleType.DRONE})))
    products = [
        make_product("dear", FREE, price=903, default_offer=True),
        make_product("a", FREE, price=902, default_offer=True),
        make_product("b", FREE, price=902, default_offer=True),
        make_product("drones", FREE, price=900, default_offer=True, conditions=drones),
        make_product("none", FREE, price=800),
    ]
    for demand in (make_demand(), None):
        assert ["a"] == ids(ranked(products, demand))
        assert ["b"] == ids(ranked(products, demand, sold_out=frozenset({"a"})))
        assert ["dear"] == ids(ranked(products, demand, sold_out=frozenset({"a", "b"})))
        drone = VehicleProfile(VehicleType.DRONE)
        assert ["drones"] == ids(ranked(products, demand, vehicle=drone))


def test_users_of_a_batch_have_each_their_own_answer() -> None:
    """Known and unknown in turn, with as many offers as each wants, in the order of asking."""
    products = [
        make_product("night", FREE, 20, conditions=UsageConditions((Restrictions(0, 360),))),
        make_product("day", FREE, 21, conditions=UsageConditions((Restrictions(360, 0),))),
        make_product("open", EnergyPrice(4_000_000), 3, default_offer=True),
    ]
    owl, lark = make_demand(hours={3: 1.0}), make_demand(hours={12: 1.0})
    buyer = make_buyer()
    asking = [
        RankedBuyer(None, buyer, 3),
        RankedBuyer(0, buyer, 1),
        RankedBuyer(None, buyer, 3),
        RankedBuyer(1, buyer, 2),
        RankedBuyer(2, make_buyer(owned={"night": ActivePass(0, 9)}), 3),
    ]
    found = rank_all(build_columns(products), together([owl, lark, owl]), asking, NOW)
    assert [["open"], ["night"], ["open"], ["day", "open"]] == [ids(r) for r in found[:4]]
    assert "night" not in ids(found[4])
    known = [r.pay_as_you_go for r in found]
    assert [True, False, True, False, False] == [payg is None for payg in known]
    assert [500e6] * 3 == pytest.approx([payg.cost_per_30_days for payg in known if payg])


def test_a_pass_is_closed_to_who_has_it_or_may_not_buy_more() -> None:
    """By the limit within its days; another product's passes do not count."""
    limit = PersonalLimit(2, rolling_days=30)
    product = make_product("p", FREE, price=0, personal_limit=limit)
    recent, old = Bought("p", NOW - timedelta(days=29)), Bought("p", NOW - timedelta(days=31))
    other = Bought("q", NOW)
    for bought, offered in (
        ([recent], True),
        ([recent, recent], False),
        ([recent, old], True),
        ([recent, other, other], True),
    ):
        found = ids(ranked([product], make_demand(), bought=bought))
        assert (["p"] if offered else []) == found


@pytest.mark.parametrize(
    ("one", "other", "near"),
    [(100.0, 149.9, True), (100.0, 150.0, False), (149.9, 100.0, True), (150.0, 100.0, False)],
)
def test_sizes_are_near_within_a_factor_of_one_and_a_half(
    one: float, other: float, near: bool
) -> None:
    """Exclusive, and whichever is the larger."""
    assert near is Size(0, one, one, 1.0).is_near(Size(0, other, other, 1.0))


def test_never_worse_is_as_much_for_as_little() -> None:
    """Equal in both counts; less of the one or dearer does not."""
    size = Size(0, 10.0, 10.0, 5.0)
    assert size.is_never_worse(size)
    assert size.is_never_worse(Size(0, 9.0, 9.0, 5.0))
    assert size.is_never_worse(Size(0, 10.0, 10.0, 6.0))
    assert not size.is_never_worse(Size(0, 11.0, 11.0, 6.0))
    assert not size.is_never_worse(Size(0, 9.0, 9.0, 4.0))


def figures_of(ranking: Ranking, position: int = 0) -> dict[str, dict[str, float]]:
    return {r.code.name: r.figures for r in ranking.choices[position].reasons}


def test_every_figure_of_a_recommendation() -> None:
    """30 kWh in the bundle, at home on Mondays, where half of two possible months lies."""
    conditions = UsageConditions(
        (Restrictions(day_of_week=frozenset({Day.MONDAY})),), Selectors(locations=(PLACE,))
    )
    product = make_product("p", EnergyBundle(30_000), 49, conditions=conditions)
    demand = make_demand(
        [50_000, 100_000], hours={12: 0.5, 40: 0.5}, silence_days=3.0, session_energy_wh=5_000
    )
    assert {
        "SAVES_ON_USUAL_CHARGING": {
            "expected_saving": pytest.approx((125 + 150) / 2 - 49),
            "energy_kwh_per_30_days": pytest.approx(75),
            "cost_per_30_days": pytest.approx(375),
            "length_days": 30.0,
            "silence_days": 3.0,
        },
        "SAVING_RANGE": {
            "saving_low": pytest.approx(76 + 2.5),
            "saving_high": pytest.approx(101 - 2.5),
        },
        "FITS_YOUR_DAYS": {"share_in_window": pytest.approx(0.5)},
        "FITS_YOUR_PLACES": {"share_at_places": pytest.approx(1.0)},
        "FITS_YOUR_ENERGY": {"covered_energy_kwh": pytest.approx(37.5), "bundle_kwh": 30.0},
        "PAYS_FROM_ENERGY": {"break_even_kwh": pytest.approx(9.8)},
    } == figures_of(ranked([product], demand))


def test_the_figures_of_a_bundle_of_sessions() -> None:
    """Sessions, not energy; the break-even in sessions too."""
    reasons = figures_of(ranked([make_product("p", SessionBundle(8), 120)], make_demand()))
    assert {"covered_sessions": pytest.approx(10.0), "bundle_sessions": 8.0} == reasons[
        "FITS_YOUR_SESSIONS"
    ]
    assert {"break_even_sessions": 3.0} == reasons["PAYS_FROM_SESSIONS"]
    assert "FITS_YOUR_ENERGY" not in reasons


@pytest.mark.parametrize(("share", "told"), [(0.39, False), (0.4, True), (0.41, True)])
def test_hours_and_places_are_told_from_two_fifths_on(share: float, told: bool) -> None:
    """Below, most of the charging is elsewhere."""
    hours = UsageConditions((Restrictions(start_minute=22 * 60),))
    demand = make_demand(hours={23: share, 36: 1 - share})
    reasons = figures_of(ranked([make_product("p", FREE, 1, conditions=hours)], demand))
    assert told is ("FITS_YOUR_HOURS" in reasons)
    [priced] = demand.places[0]
    away = priced._replace(key=PLACE._replace(location_id="away"), share=1 - share)
    demand = make_demand(places=[priced._replace(share=share), away])
    home = UsageConditions(selectors=Selectors(locations=(PLACE,)))
    reasons = figures_of(ranked([make_product("p", FREE, 1, conditions=home)], demand))
    assert told is ("FITS_YOUR_PLACES" in reasons)
    assert "FITS_YOUR_HOURS" not in reasons


@pytest.mark.parametrize(
    ("more_wh", "told"), [(0, False), (1_000, False), (1_258, False), (1_270, True)]
)
def test_a_range_is_told_where_it_is_wider_than_a_hundredth(more_wh: int, told: bool) -> None:
    """Eight tenths of 1 kWh in 100 are less, of 1.27 more; a hundredth of its greater end."""
    demand = make_demand([100_000, 100_000 + more_wh])
    reasons = figures_of(ranked([make_product("p", FREE, 0)], demand))
    assert told is ("SAVING_RANGE" in reasons)


def test_what_does_not_pay_is_told_with_what_is_charged_without_it() -> None:
    """The month, its cost, the silence; the break-even follows."""
    product = make_product("p", FREE, 600, default_offer=True)
    ranking = ranked([product], make_demand(silence_days=70.0))
    assert {
        "NOTHING_PAYS": {
            "energy_kwh_per_30_days": pytest.approx(100),
            "cost_per_30_days": pytest.approx(500),
            "silence_days": 70.0,
        },
        "PAYS_FROM_ENERGY": {"break_even_kwh": pytest.approx(120)},
    } == figures_of(ranking)
    assert (-100_000_000, (-100_000_000, -100_000_000)) == (
        ranking.choices[0].expected_saving_micros,
        ranking.choices[0].saving_range_micros,
    )
    unpriced = ranked([product], make_demand((50_000,), None))
    assert {"PRICE_UNKNOWN": {"energy_kwh_per_30_days": pytest.approx(50)}} == figures_of(unpriced)
    assert (None, None) == unpriced.choices[0][2:4]


def made_worth(
    gain_per_kwh: float, covered_wh: float = 100_000, sessions: float = 10
) -> ProductValue:
    return ProductValue(0.0, 0.0, 0.0, 0.0, 1.0, 1.0, covered_wh, sessions, gain_per_kwh)


@pytest.mark.parametrize(
    ("benefit", "gain_per_kwh", "expected"),
    [
        (EnergyBundle(10_000), 4_900_000, BreakEven(energy_wh=10_000)),
        (EnergyBundle(9_999), 4_900_000, None),
        (FlatPeriod(10_000), 4_900_000, BreakEven(energy_wh=10_000)),
        (EnergyBundle(10_001), 4_899_999, BreakEven(energy_wh=10_001)),
        (SessionBundle(1), 4_900_000, BreakEven(sessions=1)),
        (SessionBundle(2), 4_899_000, BreakEven(sessions=2)),
        (SessionBundle(1), 4_899_000, None),
        (PercentageOff(1), 1.0, BreakEven(energy_wh=49_000_000_000)),
        (PercentageOff(1), 0.99, None),
        (PercentageOff(1), float("nan"), None),
        (PercentageOff(1), -1.0, None),
    ],
)
def test_break_even_is_rounded_up_and_within_what_the_pass_holds(
    benefit: Benefit, gain_per_kwh: float, expected: BreakEven | None
) -> None:
    """49 by the gain of a kWh, in whole Wh or sessions of 10 kWh."""
    assert expected == break_even_of(make_product("p", benefit), made_worth(gain_per_kwh))


def verdict(
    product: Product,
    demand: Demands | None,
    offered: frozenset[str] = frozenset(),
    others: list[Product] | None = None,
    **buyer: Any,
) -> Verdict:
    """What became of a product."""
    columns = build_columns([product, *(others or [])])
    [found] = explain(columns, [0], demand, make_buyer(**buyer), offered, NOW)
    return found.verdict


def test_each_verdict_has_its_reason() -> None:
    """Whatever a product is worth, what cannot be bought is told first."""
    demand, good = make_demand(), make_product("p", FREE)
    assert Verdict.OFFERED == verdict(good, demand, frozenset({"p"}), sold_out=frozenset({"p"}))
    for window in ({"sale_start_time": NOW + timedelta(1)}, {"sale_end_time": NOW}):
        assert Verdict.NOT_ON_SALE == verdict(make_product("p", FREE, **window), demand)
    for window in ({"sale_start_time": NOW}, {"sale_end_time": NOW + timedelta(1)}):
        assert Verdict.BETTER_OFFERS == verdict(make_product("p", FREE, **window), demand)
    assert Verdict.SOLD_OUT == verdict(good, demand, sold_out=frozenset({"p"}))
    limited = make_product("p", FREE, personal_limit=PersonalLimit(1))
    bought = [Bought("p", NOW)]
    assert Verdict.PERSONAL_LIMIT_REACHED == verdict(limited, demand, bought=bought)
    assert Verdict.BETTER_OFFERS == verdict(good, demand, bought=bought)
    assert Verdict.ALREADY_OWNED == verdict(good, demand, owned={"p": ActivePass(0, 9)})
    drones = UsageConditions(selectors=Selectors(vehicle_types=frozenset({VehicleType.DRONE})))
    assert Verdict.VEHICLE_NOT_ALLOWED == verdict(
        make_product("p", FREE, conditions=drones), demand
    )
    assert Verdict.USER_UNKNOWN == verdict(good, None)
    assert Verdict.SOLD_OUT == verdict(good, None, sold_out=frozenset({"p"}))


def test_verdicts_on_what_can_be_bought_follow_its_worth() -> None:
    """Price unknown, nothing covered, too dear, too risky, and better ones before it."""
    demand = make_demand()
    assert Verdict.PRICE_UNKNOWN == verdict(make_product("p", FREE), make_demand((1_000,), None))
    sweden = UsageConditions(selectors=Selectors(parties=(("SE", ""),)))
    nowhere = make_product("p", FREE, conditions=sweden)
    assert Verdict.NO_COVERED_CHARGING == verdict(nowhere, demand)
    assert Verdict.DOES_NOT_PAY == verdict(make_product("p", FREE, 500), demand)
    assert Verdict.BETTER_OFFERS == verdict(make_product("p", FREE, 499.999999), demand)
    risky = make_demand([0, 200_000])
    assert Verdict.RISK_TOO_HIGH == verdict(make_product("p", FREE, 450), risky)
    other = make_product("q", FREE, 39)
    offered = frozenset({"q"})
    good = make_product("p", FREE)
    assert Verdict.BETTER_SIZE_OFFERED == verdict(good, demand, offered, [other])
    unlike = make_product("q", EnergyBundle(50_000), 39)
    assert Verdict.BETTER_OFFERS == verdict(good, demand, offered, [unlike])


def test_what_is_explained_carries_its_figures_and_an_unknown_user_has_none() -> None:
    """In the order of the rows that were asked for."""
    products = [make_product("p", FREE), make_product("q", EnergyPrice(3_000_000))]
    columns = build_columns(products)
    found = explain(columns, [1, 0], make_demand(), make_buyer(), frozenset(), NOW)
    assert ["q", "p"] == [e.product.product_id for e in found]
    assert [151e6, 451e6] == pytest.approx([e.adjusted_saving for e in found])
    assert [151e6, 451e6] == pytest.approx(
        [e.product_value.expected_saving for e in found if e.product_value]
    )
    [unknown] = explain(columns, [1], None, make_buyer(), frozenset(), NOW)
    assert (None, None) == (unknown.product_value, unknown.adjusted_saving)


def left(owned: Product, has: ActivePass, offered: Product, demand: Demands | None = None) -> float:
    """What an offer saves who has another pass, in units."""
    columns = build_columns([owned, offered])
    passes = {owned.product_id: has}
    valuation = value(columns, demand or make_demand(), [ANY], [passes], NOW)
    [found] = valuation.product_values([0], [1])
    return found.expected_saving / 1e6


@pytest.mark.parametrize(
    ("benefit", "days", "offered", "expected"),
    [
        # 100 kWh at 5: 20 of them covered for 6 days leave 80 to a pass that makes all free.
        (EnergyBundle(1_000_000), 6, FREE, 400),
        # 10 kWh of the 20 in 6 days.
        (EnergyBundle(10_000), 6, FREE, 450),
        (SessionBundle(1), 6, FREE, 450),
        (SessionBundle(100), 6, FREE, 400),
        # A fifth less in 6 of 30 days: 4 % of 500.
        (PercentageOff(2_000), 6, FREE, 480),
        (EnergyPrice(4_000_000), 6, FREE, 480),
        # What has a price already is covered no less: a bundle of energy is not used up.
        (PercentageOff(2_000), 30, EnergyBundle(50_000), 200),
        (EnergyPrice(4_000_000), 30, EnergyBundle(50_000), 200),
        (EnergyBundle(1_000_000), 15, EnergyBundle(50_000), 250),
        (EnergyBundle(1_000_000), 15, EnergyBundle(25_000), 125),
    ],
)
def test_what_another_pass_leaves(
    benefit: Benefit, days: float, offered: Benefit, expected: float
) -> None:
    """By its kind, its amount and the days it has left."""
    owned = make_product("owned", benefit)
    product = make_product("p", offered, price=0)
    assert expected == pytest.approx(left(owned, ActivePass(-1, days), product))


def test_of_a_bundle_that_was_begun_only_what_is_left_is_taken() -> None:
    """Ten of fifty kWh are left: it leaves as much as a bundle of ten."""
    product, bundle = make_product("p", FREE, price=0), ActivePass(-1, 15)
    begun = left(make_product("owned", EnergyBundle(50_000)), bundle._replace(left=10_000), product)
    assert begun == left(make_product("owned", EnergyBundle(10_000)), bundle, product)


def test_a_pass_that_begins_later_takes_the_days_that_overlap() -> None:
    """From the tenth day to the twentieth a third; what began long ago counts from now on."""
    owned, product = make_product("owned", FREE), make_product("p", FREE, price=0)
    for start, end, expected in ((10, 20, 1000 / 3), (-50, 3, 450), (29, 90, 1450 / 3)):
        assert expected == pytest.approx(left(owned, ActivePass(start, end), product))


def test_a_pass_that_has_no_first_use_yet_lasts_its_length_from_now() -> None:
    """Three days of the year in which it can be begun; or the rest of that year, if less."""
    owned = make_product("owned", FREE, validity=Validity(days=3))
    product = make_product("p", FREE, price=0)
    assert 450 == pytest.approx(left(owned, ActivePass(0, 365, unused=True), product))
    assert 400 == pytest.approx(left(owned, ActivePass(0, 6), product))
    assert 1450 / 3 == pytest.approx(left(owned, ActivePass(0, 1, unused=True), product))


def test_a_pass_that_the_catalogue_bounds_by_dates_is_good_within_them() -> None:
    """Of the next 30 days it covers the fifth to the eighth."""
    today = NOW.date()
    dates = Restrictions(start_date=today + timedelta(days=5), end_date=today + timedelta(days=8))
    owned = make_product("owned", FREE, conditions=UsageConditions((dates,)))
    assert 450 == pytest.approx(left(owned, ActivePass(0, 60), make_product("p", FREE, price=0)))


def test_only_the_common_hours_and_places_are_covered_already() -> None:
    """Half of the night at home: a quarter of what a pass for the night covers."""
    [priced] = make_demand().places[0]
    places = [
        priced._replace(share=0.5),
        priced._replace(share=0.5, key=PLACE._replace(location_id="away")),
    ]
    demand = make_demand(places=places, hours={23: 0.25, 1: 0.25, 36: 0.5})
    owned = make_product(
        "owned",
        FREE,
        conditions=UsageConditions((Restrictions(0, 6 * 60),), Selectors(locations=(PLACE,))),
    )
    night = UsageConditions((Restrictions(22 * 60, 6 * 60),))
    product = make_product("p", FREE, price=0, conditions=night)
    assert 250 * 0.75 == pytest.approx(left(owned, ActivePass(0, 30), product, demand))


def test_users_with_and_without_passes_are_valued_side_by_side() -> None:
    """What one has is not taken off another one."""
    columns = build_columns([make_product("owned", FREE), make_product("p", FREE, price=0)])
    demands = together([make_demand()] * 3)
    passes = [{}, {"owned": ActivePass(0, 15)}, {}]
    found = value(columns, demands, [ANY] * 3, passes, NOW).expected_saving[:, 1]
    assert [500e6, 250e6, 500e6] == pytest.approx(found.tolist())


def test_a_pass_that_begins_later_is_used_up_in_its_own_days() -> None:
    """10 of the 33 kWh of its ten days, a third of the month: a tenth is covered already."""
    product = make_product("p", FREE, price=0)
    for benefit in (EnergyBundle(10_000), SessionBundle(1)):
        owned = make_product("owned", benefit)
        assert 450 == pytest.approx(left(owned, ActivePass(10, 20), product))


def test_users_of_several_tariffs_are_valued_each_by_their_own() -> None:
    """Two tariffs each, other hours and amounts, in one batch as alone."""
    [cheap] = make_demand(price_per_kwh=2).places[0]
    [dear] = make_demand(price_per_kwh=4).places[0]
    away = PLACE._replace(location_id="away")

    def user(energy_wh: float, share: float, hours: dict[int, float]) -> Demands:
        places = [cheap._replace(share=share), dear._replace(share=1 - share, key=away)]
        return make_demand([energy_wh, 2 * energy_wh], places=places, hours=hours)

    night = UsageConditions((Restrictions(22 * 60, 6 * 60, min_energy_wh=5_000),))
    product = make_product("p", FREE, price=0, conditions=night)
    columns = build_columns([product, make_product("owned", EnergyPrice(1_000_000))])
    one, two = user(100_000, 0.75, {23: 0.5, 36: 0.5}), user(40_000, 0.5, {23: 0.25, 36: 0.75})
    found = value(columns, together([one, two]), [ANY] * 2, [{}, {}], NOW)
    first, second = found.product_values([0, 1], [0, 0])
    # Half of each session lies beyond 5 kWh: 150 * 0.5 * 0.5 at 2.5, 60 * 0.25 * 0.5 at 3.
    assert (93.75e6, 22.5e6) == pytest.approx((first.expected_saving, second.expected_saving))
    owned = [{"owned": ActivePass(0, 30)}, {"owned": ActivePass(0, 30)}]
    found = value(columns, together([one, two]), [ANY] * 2, owned, NOW)
    first, second = found.product_values([0, 1], [0, 0])
    assert (93.75e6 * 0.4, 22.5e6 / 3) == pytest.approx(
        (first.expected_saving, second.expected_saving)
    )
