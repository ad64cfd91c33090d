"""What is offered, in which order, and what it is said to be worth."""

import random
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.builders import (
    NOW,
    PLACE,
    SPEC,
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
    length_days,
)
from voucher_grpc.domain.offers.choices import Buyer, EmptyReason, Ranking
from voucher_grpc.domain.offers.columns import Size, build_columns
from voucher_grpc.domain.offers.knowledge import ActivePass, ProfileType
from voucher_grpc.domain.offers.ranking import (
    HARM_PRICE_KWH,
    RankedBuyer,
    adjusted_saving,
    price_mindedness,
    rank_all,
)
from voucher_grpc.domain.offers.reason_codes import ReasonCode
from voucher_grpc.domain.offers.reason_texts import in_words
from voucher_grpc.domain.offers.reasons import BreakEven
from voucher_grpc.domain.offers.valuation import PayAsYouGo, value
from voucher_grpc.domain.passes.purchase import Bought
from voucher_grpc.domain.places.location import Connector, Evse, Location, VehicleProfile
from voucher_grpc.domain.tendencies.demand import Demands
from voucher_grpc.domain.tendencies.forecast import BLOCK_OF_HOUR, BLOCKS
from voucher_grpc.ocpi import Day, PowerType, VehicleType

PAYG = 5_000_000
CHEAP = EnergyPrice(3_000_000)


def ranked(
    products: list[Product],
    demand: Demands | None = None,
    buyer: Buyer | None = None,
    max_offers: int = 20,
) -> Ranking:
    return rank(build_columns(products), demand, buyer or make_buyer(), NOW, max_offers)


def ids(ranking: Ranking) -> list[str]:
    return [choice.product.product_id for choice in ranking.choices]


def saving(product: Product, demand: Demands, **vehicle: Any) -> float:
    """The expected saving in units."""
    valuation = value(build_columns([product]), demand, [VehicleProfile(**vehicle)], [{}], NOW)
    return float(valuation.expected_saving[0, 0]) / 1e6


def needless(one: Size, other: Size) -> bool:
    """Whether beside the one the other, of the same family, says nothing new."""
    return one.family == other.family and (one.is_near(other) or one.is_never_worse(other))


benefits = st.one_of(
    st.builds(EnergyBundle, st.integers(1, 500_000)),
    st.builds(SessionBundle, st.integers(1, 50), st.sampled_from([0, 0, 5_000, 20_000])),
    st.builds(EnergyPrice, st.integers(0, 6_000_000)),
    st.builds(PercentageOff, st.integers(1, 10_000)),
    st.builds(FlatPeriod, st.integers(1, 500_000)),
)
conditions = st.builds(
    UsageConditions,
    st.lists(
        st.builds(
            Restrictions,
            start_minute=st.integers(0, 1439),
            end_minute=st.integers(0, 1439),
            day_of_week=st.frozensets(st.sampled_from(list(Day))),
        ),
        max_size=2,
    ).map(tuple),
)


@st.composite
def catalogues(draw: st.DrawFn) -> list[Product]:
    """Up to eight products of every kind."""
    return [
        make_product(
            f"p{n}",
            draw(benefits),
            price=draw(st.integers(0, 600)),
            conditions=draw(conditions),
            validity=draw(
                st.sampled_from([Validity(days=30), Validity(days=7), Validity(months=3)])
            ),
            default_offer=draw(st.booleans()),
        )
        for n in range(draw(st.integers(1, 8)))
    ]


demands = st.builds(
    make_demand,
    st.lists(st.integers(1_000, 500_000), min_size=1, max_size=5),
    st.floats(0.5, 10),
    session_energy_wh=st.integers(1_000, 60_000),
)


of_three = st.builds(
    make_demand,
    st.lists(st.integers(1_000, 500_000), min_size=3, max_size=3),
    st.floats(0.5, 10),
    session_energy_wh=st.integers(1_000, 60_000),
)
buyers = st.builds(
    make_buyer,
    owned=st.dictionaries(
        st.sampled_from(["p0", "p1", "gone"]),
        st.builds(ActivePass, st.floats(-90, 90), st.floats(0.1, 90), st.booleans()),
        max_size=2,
    ),
    sold_out=st.frozensets(st.sampled_from(["p0", "p2"])),
    profile_type=st.sampled_from(["", *ProfileType]),
)


def test_an_open_price_pass_saves_the_difference_for_each_kwh() -> None:
    """energy * (pay-as-you-go - price) - fee: 100 kWh * (5 - 3) - 49."""
    assert 151 == pytest.approx(saving(make_product("p", CHEAP), make_demand()), rel=1e-12)


@SPEC
@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=5), st.integers(0, 10**7))
def test_the_saving_of_an_open_price_pass_is_exact(energies: list[int], price: int) -> None:
    """For any demand and any price, the dearer ones too, over 60 days."""
    product = make_product("p", EnergyPrice(price), validity=Validity(days=60))
    kwh = 2 * sum(energies) / len(energies) / 1000
    expected = kwh * (PAYG - price) / 1e6 - 49
    assert expected == pytest.approx(saving(product, make_demand(energies)), rel=1e-9, abs=1e-6)


@pytest.mark.parametrize(
    ("benefit", "expected"),
    [
        (EnergyBundle(100_000), 500 - 49),
        (EnergyBundle(50_000), 250 - 49),
        (EnergyBundle(10_000_000), 500 - 49),
        (FlatPeriod(60_000), 300 - 49),
        (SessionBundle(10), 500 - 49),
        (SessionBundle(4), 200 - 49),
        (SessionBundle(10, 5_000), 250 - 49),
        (PercentageOff(2_500), 125 - 49),
        (PercentageOff(10_000), 500 - 49),
        (EnergyPrice(0), 500 - 49),
        (EnergyPrice(6_000_000), -100 - 49),
    ],
)
def test_each_benefit_is_worth_what_it_takes_off(benefit: Benefit, expected: float) -> None:
    """100 kWh in ten sessions at 5 a kWh."""
    assert expected == pytest.approx(saving(make_product("p", benefit), make_demand()))


def test_each_scenario_is_valued_at_its_own_hours() -> None:
    """All of the little energy is charged at night, none of the much."""
    night = UsageConditions((Restrictions(22 * 60, 6 * 60),))
    demand = make_demand([100_000, 300_000], hours={23: 0.5, 36: 0.5})
    day, night_block = (BLOCK_OF_HOUR[hour] for hour in (36, 23))
    factors = np.zeros((1, 2, BLOCKS))
    factors[0, 0, night_block] = factors[0, 1, day] = 2.0
    product = make_product("p", CHEAP, conditions=night)
    columns = build_columns([product])
    demand = replace(demand, block_factors=factors)
    found = value(columns, demand, [VehicleProfile()], [{}], NOW)
    assert [200e6 - 49e6, -49e6] == pytest.approx(found.saving[0, :, 0].tolist())
    [product_value] = found.product_values([0], [0])
    # What is said of the hours rests on the habits, not on the scenarios.
    assert (0.5, 0.5) == pytest.approx((product_value.harm_probability, product_value.hours_share))


def test_only_charging_inside_the_conditions_counts() -> None:
    """A quarter of the energy is charged at night."""
    night = UsageConditions((Restrictions(22 * 60, 6 * 60),))
    demand = make_demand(hours={23: 0.25, 36: 0.75})
    assert 50 - 49 == pytest.approx(saving(make_product("p", CHEAP, conditions=night), demand))


@SPEC
@given(catalogues(), demands, st.data())
def test_a_product_that_cannot_be_used_never_changes_the_order_of_the_others(
    products: list[Product], demand: Demands, data: st.DataObject
) -> None:
    """Of another country, for another vehicle, or sold out: as if it were not there."""
    useless = data.draw(
        st.sampled_from(
            [
                make_product("z", EnergyPrice(0), price=0, conditions=c)
                for c in (
                    UsageConditions(selectors=Selectors(parties=(("SE", ""),))),
                    UsageConditions(
                        selectors=Selectors(vehicle_types=frozenset({VehicleType.DRONE}))
                    ),
                )
            ]
        )
    )
    sold_out = make_product("y", EnergyPrice(0), price=0)
    buyer = make_buyer(sold_out=frozenset({"y"}))
    for position in (0, len(products)):
        more = [*products[:position], useless, sold_out, *products[position:]]
        assert ids(ranked(products, demand)) == ids(ranked(more, demand, buyer))


@SPEC
@given(catalogues(), demands, st.integers(0, 7), st.integers(1, 500))
def test_raising_a_price_never_raises_a_rank(
    products: list[Product], demand: Demands, which: int, more: int
) -> None:
    """And never makes another one fall behind: at most a better size of the same takes its turn."""
    which %= len(products)
    terms = products[which].terms
    dearer = list(products)
    dearer[which] = make_product(
        terms.product_id,
        terms.benefit,
        price=terms.price.micros / 1e6 + more,
        conditions=terms.conditions,
        validity=terms.validity,
        default_offer=terms.default_offer,
    )
    before, after = ranked(products, demand), ranked(dearer, demand)
    recommended = [c.product.product_id for c in before.choices if c.recommended]
    recheck = [c.product.product_id for c in after.choices if c.recommended]
    if terms.product_id in recheck:
        assert terms.product_id in recommended
        assert recheck.index(terms.product_id) >= recommended.index(terms.product_id)
    others = [p for p in recommended if p != terms.product_id]
    assert others == [p for p in recheck if p in others]


@SPEC
@given(
    st.one_of(
        st.builds(EnergyBundle, st.integers(1, 500_000)),
        st.builds(SessionBundle, st.integers(1, 50)),
        st.builds(FlatPeriod, st.integers(1, 500_000)),
    ),
    st.lists(st.integers(1_000, 500_000), min_size=1, max_size=5),
    st.floats(1, 10),
)
def test_more_energy_never_makes_a_bundle_worth_less(
    benefit: Benefit, energies: list[int], factor: float
) -> None:
    """Up to what it holds, and then as much."""
    product = make_product("p", benefit)
    less, more = (saving(product, make_demand([e * f for e in energies])) for f in (1, factor))
    assert more >= less - 1e-6


@SPEC
@given(catalogues(), demands, st.integers(1, 5))
def test_recommended_ones_come_first_by_saving_less_harm_and_others_never_with_them(
    products: list[Product], demand: Demands, max_offers: int
) -> None:
    """Or the answer is one default product, or none. Longer passes count by 30 days."""
    ranking = ranked(products, demand, max_offers=max_offers)
    valuation = value(build_columns(products), demand, [VehicleProfile()], [{}], NOW)
    by_row = np.argsort(valuation.selection.rows)
    days = np.array([length_days(p.terms.validity) for p in products])
    harm = HARM_PRICE_KWH * valuation.pay_as_you_go[0].price_per_kwh * np.minimum(30, days) / 30
    saved = valuation.saving[0][:, by_row]
    adjusted = saved.mean(axis=0) - harm * (saved < -0.5).mean(axis=0)
    adjusted *= 30 / np.maximum(30, days)
    by_id = {p.product_id: round(adjusted[n]) for n, p in enumerate(products)}
    columns = build_columns(products)
    sizes = {p.product_id: columns.size_of(n) for n, p in enumerate(products)}
    if any(c.recommended for c in ranking.choices):
        figures = [by_id[p] for p in ids(ranking)]
        assert figures == sorted(figures, reverse=True)
        assert min(figures) > 0
        offered = ids(ranking)
        for n, product_id in enumerate(offered):
            assert not any(needless(sizes[p], sizes[product_id]) for p in offered[:n])
        if len(offered) < max_offers:
            paying = {p for p, a in by_id.items() if a > 0}
            for product_id in paying - set(offered):
                assert any(needless(sizes[p], sizes[product_id]) for p in paying - {product_id})
    else:
        assert not any(a > 0 for a in by_id.values())
        defaults = [p for p in products if p.terms.default_offer]
        cheapest = min(defaults, key=lambda p: p.terms.price.micros, default=None)
        assert ids(ranking) == ([cheapest.product_id] if cheapest else [])


@SPEC
@given(catalogues(), st.lists(of_three, min_size=1, max_size=5), st.data())
def test_many_users_at_once_are_answered_as_each_alone(
    products: list[Product], many: list[Demands], data: st.DataObject
) -> None:
    """Whoever else is in the batch, known or not, with passes or not, wanting few or many."""
    columns = build_columns(products)
    asking = [
        RankedBuyer(row, data.draw(buyers), data.draw(st.integers(1, 3)))
        for row in data.draw(st.permutations([*range(len(many)), None]))
    ]
    in_order = [many[user.row] for user in asking if user.row is not None]
    rows = iter(range(len(many)))
    renumbered = [u if u.row is None else u._replace(row=next(rows)) for u in asking]
    ranked_together = rank_all(columns, together(in_order), renumbered, NOW)
    for user, found in zip(asking, ranked_together, strict=True):
        demand = None if user.row is None else many[user.row]
        alone = rank(columns, demand, user.buyer, NOW, user.max_offers)
        assert alone.empty_reason is found.empty_reason
        assert [(c.product, c.recommended) for c in alone.choices] == [
            (c.product, c.recommended) for c in found.choices
        ]
        savings = [[c.expected_saving_micros or 0 for c in r.choices] for r in (alone, found)]
        assert savings[0] == pytest.approx(savings[1], rel=1e-9, abs=10_000)


@SPEC
@given(demands, st.integers(1, 5), st.integers(0, 2**32), st.sets(st.integers(0, 199)))
def test_of_a_large_catalogue_the_same_are_chosen_as_if_all_were_valued(
    demand: Demands, max_offers: int, seed: int, sold_out: set[int]
) -> None:
    """Products that others are better than in every scenario are passed over, not good ones."""
    chance = random.Random(seed)
    products = [
        make_product(
            f"p{n}",
            chance.choice([EnergyBundle(chance.randint(1, 9) * 10_000), EnergyPrice(n * 20_000)]),
            price=chance.randint(0, 40),
        )
        for n in range(200)
    ]
    columns = build_columns(products)
    buyer = make_buyer(sold_out=frozenset(f"p{n}" for n in sold_out))
    valuation = value(columns, demand, [VehicleProfile()], [{}], NOW)
    by_row = np.argsort(valuation.selection.rows)
    adjusted = np.rint(adjusted_saving(valuation, [make_buyer()])[0][by_row])
    order = [n for n in np.argsort(-adjusted, kind="stable").tolist() if n not in sold_out]
    best: list[int] = []
    before: list[Size] = []
    for n in order:
        size = columns.size_of(n)
        kin = [other for other in before if other.family == size.family]
        near = [b for b in best if needless(columns.size_of(b), size)]
        if adjusted[n] > 0 and not near and not any(k.is_never_worse(size) for k in kin):
            best.append(n)
        before.append(size)
    expected = [f"p{n}" for n in best[:max_offers]]
    assert expected == ids(rank(columns, demand, buyer, NOW, max_offers))


@SPEC
@given(catalogues(), demands)
def test_the_answer_is_the_same_each_time(products: list[Product], demand: Demands) -> None:
    """Ties keep the catalogue's order."""
    assert ids(ranked(products, demand)) == ids(ranked(products, demand))


CLOSED = [
    {"buyer": {"sold_out": frozenset({"p"})}},
    {"buyer": {"owned": {"p": ActivePass(0, 3)}}},
    {
        "product": {"personal_limit": PersonalLimit(1)},
        "buyer": {"bought": [Bought("p", NOW - timedelta(days=400))]},
    },
    {
        "product": {"personal_limit": PersonalLimit(1, 30)},
        "buyer": {"bought": [Bought("p", NOW - timedelta(days=29))]},
    },
    {"product": {"sale_start_time": NOW + timedelta(seconds=1)}},
    {"product": {"sale_end_time": NOW}},
    {
        "product": {
            "validity": Validity(
                days=30, start=ValidityStart.AT, start_time=NOW - timedelta(days=31)
            )
        }
    },
]


@pytest.mark.parametrize("case", CLOSED)
@pytest.mark.parametrize("demand", [None, make_demand()])
def test_what_cannot_be_bought_now_is_never_offered(
    case: dict[str, dict[str, Any]], demand: Demands | None
) -> None:
    """Sold out, owned, at the limit, not on sale yet or any more, over before it is bought."""
    product = make_product("p", CHEAP, default_offer=True, **case.get("product", {}))
    ranking = ranked([product], demand, make_buyer(**case.get("buyer", {})))
    assert [] == ids(ranking)
    expected = EmptyReason.LIMITS_REACHED if "buyer" in case else EmptyReason.NOTHING_ON_SALE
    assert expected is ranking.empty_reason


@pytest.mark.parametrize(
    "case",
    [
        {"sale_start_time": NOW},
        {"sale_end_time": NOW + timedelta(seconds=1)},
        {"personal_limit": PersonalLimit(2, 30)},
        {
            # A day of it is left, which does not pay; it is offered as the default.
            "default_offer": True,
            "validity": Validity(
                days=31, start=ValidityStart.AT, start_time=NOW - timedelta(days=30)
            ),
        },
    ],
)
def test_what_can_be_bought_now_is_offered(case: dict[str, Any]) -> None:
    """The other side of each bound."""
    buyer = make_buyer(bought=[Bought("p", NOW - timedelta(days=30)), Bought("q", NOW)])
    assert ["p"] == ids(ranked([make_product("p", CHEAP, **case)], make_demand(), buyer))


def test_an_empty_catalogue_has_nothing_on_sale() -> None:
    """Neither for the known nor for the unknown."""
    for demand in (None, make_demand()):
        assert EmptyReason.NOTHING_ON_SALE is ranked([], demand).empty_reason


def test_without_a_default_what_does_not_pay_does_not_fit() -> None:
    """It could be bought, but nobody is talked into it."""
    dear = make_product("p", CHEAP, price=10_000)
    assert (EmptyReason.NOTHING_FITS, []) == (
        (found := ranked([dear], make_demand())).empty_reason,
        ids(found),
    )


@pytest.mark.parametrize(
    ("demand", "code"),
    [
        (None, ReasonCode.USER_UNKNOWN),
        (make_demand(price_per_kwh=None), ReasonCode.PRICE_UNKNOWN),
        (make_demand([1_000]), ReasonCode.NOTHING_PAYS),
    ],
)
def test_without_a_recommendation_the_cheapest_default_is_offered_with_its_reason(
    demand: Demands | None, code: ReasonCode
) -> None:
    """Exactly one, not recommended, and it says why."""
    products = [
        make_product("dear", CHEAP, price=99, default_offer=True),
        make_product("cheap", CHEAP, price=49, default_offer=True),
        make_product("cheaper", CHEAP, price=39),
    ]
    [choice] = ranked(products, demand).choices
    known = code is ReasonCode.NOTHING_PAYS
    codes = [code, ReasonCode.PAYS_FROM_ENERGY] if known else [code]
    assert ("cheap", False, codes) == (
        choice.product.product_id,
        choice.recommended,
        [r.code for r in choice.reasons],
    )
    assert known == (choice.saving_range_micros is not None)
    assert known == (choice.expected_saving_micros is not None)
    assert in_words(choice.reasons[0], "NOK")


def test_a_default_for_another_vehicle_is_no_default() -> None:
    """A drone's pass is not sold to a car, nor to what is not known to be a drone."""
    drones = UsageConditions(selectors=Selectors(vehicle_types=frozenset({VehicleType.DRONE})))
    product = make_product("p", CHEAP, default_offer=True, conditions=drones)
    for kind, expected in ((VehicleType.CAR, []), (None, []), (VehicleType.DRONE, ["p"])):
        buyer = make_buyer(vehicle=VehicleProfile(type=kind))
        assert expected == ids(ranked([product], None, buyer))


@pytest.mark.parametrize(
    ("benefit", "expected"),
    [
        (CHEAP, BreakEven(energy_wh=24_500)),  # 49 / (5 - 3)
        (PercentageOff(2_500), BreakEven(energy_wh=39_200)),  # 49 / 1.25
        (EnergyBundle(100_000), BreakEven(energy_wh=9_800)),  # 49 / 5
        (SessionBundle(10), BreakEven(sessions=1)),
        (SessionBundle(10, 1_000), BreakEven(sessions=10)),  # each saves 5
        (EnergyBundle(9_000), None),  # it never gives 49 back
        (SessionBundle(9, 1_000), None),
        (PercentageOff(1), BreakEven(energy_wh=98_000_000)),
        (EnergyPrice(PAYG), None),
        (EnergyPrice(PAYG + 1), None),
    ],
)
def test_break_even_is_fee_over_gain(benefit: Benefit, expected: BreakEven | None) -> None:
    """The test that drivers do by hand; none where nothing can make it pay."""
    product = make_product("p", benefit, default_offer=True)
    [choice] = ranked([product], make_demand()).choices
    found = choice.break_even
    if expected is not None and expected.energy_wh is not None:
        assert found is not None
        assert found.energy_wh is not None
        assert abs(expected.energy_wh - found.energy_wh) <= 1
    else:
        assert expected == found


def test_a_gamble_is_worth_less_than_a_sure_thing() -> None:
    """The same expected saving, once in every scenario and once in one of two."""
    sure, gamble = make_demand([50_000]), make_demand([5_000, 95_000])
    product = make_product("p", CHEAP, price=90)
    assert saving(product, sure) == pytest.approx(saving(product, gamble))
    assert ranked([product], sure).choices[0].recommended
    assert [] == ids(ranked([product], gamble))


def test_reasons_quote_what_they_rest_on() -> None:
    """At night at home: hours, places and energy, with their figures, in words."""
    product = make_product(
        "p",
        EnergyBundle(100_000),
        conditions=UsageConditions((Restrictions(22 * 60, 6 * 60),), Selectors(locations=(PLACE,))),
    )
    [choice] = ranked([product], make_demand(hours={23: 0.9, 36: 0.1})).choices
    figures = {r.code: r.figures for r in choice.reasons}
    assert [
        ReasonCode.SAVES_ON_USUAL_CHARGING,
        ReasonCode.FITS_YOUR_HOURS,
        ReasonCode.FITS_YOUR_PLACES,
        ReasonCode.FITS_YOUR_ENERGY,
        ReasonCode.PAYS_FROM_ENERGY,
    ] == list(figures)
    assert 0.9 == pytest.approx(figures[ReasonCode.FITS_YOUR_HOURS]["share_in_window"])
    assert 90 == pytest.approx(figures[ReasonCode.FITS_YOUR_ENERGY]["covered_energy_kwh"])
    assert 401 == pytest.approx(figures[ReasonCode.SAVES_ON_USUAL_CHARGING]["expected_saving"])
    words = " ".join(in_words(r, "NOK") for r in choice.reasons)
    assert "401.00" in words
    assert "90% of your charging" in words


def location(power_w: int, kind: PowerType = PowerType.DC) -> Location:
    connector = Connector("1", "IEC_62196_T2_COMBO", kind, power_w)
    return Location("NO", "OSL", "home", "Europe/Oslo", evses=(Evse("1", (connector,)),))


def test_connectors_and_power_decide_where_a_pass_is_good() -> None:
    """A selector on what is not known is not met; a vehicle's own limit counts."""
    fast = make_product("p", CHEAP, conditions=UsageConditions((Restrictions(min_power_w=50_000),)))
    direct = UsageConditions(selectors=Selectors(power_types=frozenset({PowerType.DC})))
    dc = make_product("p", CHEAP, conditions=direct)
    unknown, quick = make_demand(), make_demand(location=location(150_000))
    slow = make_demand(location=location(11_000, PowerType.AC_3_PHASE))
    assert [-49, 151, -49] == pytest.approx([saving(fast, d) for d in (unknown, quick, slow)])
    assert [-49, 151, -49] == pytest.approx([saving(dc, d) for d in (unknown, quick, slow)])
    assert -49 == pytest.approx(saving(fast, quick, max_dc_power_w=40_000))
    assert -49 == pytest.approx(saving(dc, quick, connector_standards=frozenset({"CHADEMO"})))


def test_bounds_on_the_energy_of_a_session_cover_their_part_of_it() -> None:
    """From 4 to 9 of 10 kWh: half."""
    between = UsageConditions((Restrictions(min_energy_wh=4_000, max_energy_wh=9_000),))
    product = make_product("p", CHEAP, conditions=between)
    assert 100 - 49 == pytest.approx(saving(product, make_demand()))


def test_dates_cover_their_part_of_the_life() -> None:
    """Good for the first 15 of its 30 days."""
    today = NOW.date()
    half = UsageConditions((Restrictions(start_date=today, end_date=today + timedelta(days=15)),))
    past = UsageConditions((Restrictions(end_date=today),))
    savings = [saving(make_product("p", CHEAP, conditions=c), make_demand()) for c in (half, past)]
    assert [100 - 49, -49] == pytest.approx(savings)


def test_nothing_is_not_a_number_where_a_price_is_known() -> None:
    """A product that covers nothing is worth minus its price."""
    nowhere = UsageConditions(selectors=Selectors(parties=(("SE", ""),)))
    for benefit in (EnergyBundle(1), SessionBundle(1, 1), CHEAP, PercentageOff(1), FlatPeriod(1)):
        product = make_product("p", benefit, conditions=nowhere)
        valuation = value(build_columns([product]), make_demand(), [VehicleProfile()], [{}], NOW)
        [product_value] = valuation.product_values([0], [0])
        assert (-49e6, 0.0) == (product_value.expected_saving, product_value.gain_per_kwh)


OWNED = make_product("owned", EnergyBundle(60_000), price=200)


def offered_saving(
    product: Product,
    demand: Demands,
    owned: Product,
    days: float,
    start: float = -1,
    *,
    unused: bool = False,
) -> float:
    """The expected saving in units, of a user who has another pass for so many days yet."""
    columns = build_columns([owned, product])
    passes = {owned.product_id: ActivePass(start, days, unused)}
    found = value(columns, demand, [VehicleProfile()], [passes], NOW)
    [product_value] = found.product_values([0], [1])
    return product_value.expected_saving / 1e6


@pytest.mark.parametrize(
    ("owned", "days", "expected"),
    [
        # 60 of the 100 kWh are covered already: what is left is 40 * (5 - 3) - 49.
        (EnergyBundle(60_000), 30, 31),
        (FlatPeriod(60_000), 30, 31),
        (EnergyBundle(200_000), 30, -49),
        # For half of the month all of it: 50 kWh are left.
        (EnergyBundle(200_000), 15, 51),
        (SessionBundle(6), 30, 31),
        # A lower price already: 100 kWh cost 400, at 3 a kWh 300.
        (PercentageOff(2_000), 30, 51),
        (EnergyPrice(4_000_000), 30, 51),
        (EnergyPrice(6_000_000), 30, 151),
    ],
)
def test_what_a_pass_covers_already_is_not_saved_twice(
    owned: Benefit, days: float, expected: float
) -> None:
    """A user with 100 kWh a month at 5 is offered an open price of 3 for 49."""
    product = make_product("p", CHEAP)
    found = offered_saving(product, make_demand(), make_product("owned", owned), days)
    assert expected == pytest.approx(found)


def test_a_pass_for_other_hours_or_places_covers_nothing_of_this_one() -> None:
    """By night and at home; half of the charging is by night."""
    demand = make_demand(hours={23: 0.5, 36: 0.5})
    night = UsageConditions((Restrictions(22 * 60, 6 * 60),))
    day = UsageConditions((Restrictions(6 * 60, 22 * 60),))
    elsewhere = UsageConditions(selectors=Selectors(parties=(("SE", ""),)))
    product = make_product("p", CHEAP, conditions=night)
    for conditions, expected in ((night, -49.0), (day, 51.0), (elsewhere, 51.0)):
        owned = make_product("owned", EnergyBundle(500_000), conditions=conditions)
        assert expected == pytest.approx(offered_saving(product, demand, owned, 30))


TODAY = NOW.date()
LATER = Validity(days=30, start=ValidityStart.AT, start_time=NOW + timedelta(days=60))


@pytest.mark.parametrize(
    ("owned", "span", "offered", "expected"),
    [
        # One that begins when the offered one is over.
        ({}, {"start": 60, "days": 90}, {}, 151),
        # One that begins in the middle of it.
        ({}, {"start": 15, "days": 45}, {}, 51),
        # One that is over before the offered one begins.
        ({}, {"days": 20}, {"validity": LATER}, 151),
        # One whose conditions hold later only.
        (
            {"conditions": UsageConditions((Restrictions(start_date=TODAY + timedelta(days=60)),))},
            {"days": 90},
            {},
            151,
        ),
        # One for large sessions, where all are of 10 kWh.
        (
            {"conditions": UsageConditions((Restrictions(min_energy_wh=100_000),))},
            {"days": 30},
            {},
            151,
        ),
        # One of three days that can be begun within a year.
        ({"validity": Validity(days=3)}, {"days": 365, "unused": True}, {}, 131),
    ],
)
def test_a_pass_covers_only_the_days_and_sessions_it_is_good_for(
    owned: dict[str, Any], span: dict[str, Any], offered: dict[str, Any], expected: float
) -> None:
    """An open price of 3 for 49 saves 151 to who has nothing else."""
    has = make_product("owned", EnergyBundle(500_000), **owned)
    found = offered_saving(make_product("p", CHEAP, **offered), make_demand(), has, **span)
    assert expected == pytest.approx(found, abs=0.5)


def test_a_pass_that_is_not_in_the_catalogue_any_more_covers_nothing_known() -> None:
    """Its terms are not at hand; the product itself is not offered a second time."""
    columns = build_columns([make_product("p", CHEAP)])
    found = value(columns, make_demand(), [VehicleProfile()], [{"gone": ActivePass(0, 30)}], NOW)
    assert 151e6 == pytest.approx(found.expected_saving[0, 0])


def test_the_range_of_a_saving_leaves_a_tenth_out_on_each_side() -> None:
    """Savings of 1, 2, ... 11: the ranks 2 and 10; without a fee they are the energies."""
    demand = make_demand([1_000 * n for n in (3, 1, 11, 2, 5, 4, 7, 6, 9, 8, 10)], 1)
    [choice] = ranked([make_product("p", PercentageOff(10_000), price=0)], demand).choices
    assert (2_000_000, 10_000_000) == choice.saving_range_micros
    codes = [reason.code for reason in choice.reasons]
    assert ReasonCode.SAVING_RANGE in codes
    [sure] = ranked([make_product("p", PercentageOff(10_000), price=0)], make_demand()).choices
    assert sure.saving_range_micros == (500_000_000, 500_000_000)
    assert ReasonCode.SAVING_RANGE not in [reason.code for reason in sure.reasons]


def test_sizes_of_one_pass_do_not_fill_the_list() -> None:
    """The size that suits best stands for those near it; others have a place of their own."""
    sizes = [
        make_product(f"kwh-{n}", EnergyBundle(n * 1000), price=3 * n) for n in (40, 80, 90, 100)
    ]
    week = make_product("week", EnergyBundle(25_000), price=80, validity=Validity(days=7))
    products = [*sizes, week, make_product("open", CHEAP)]
    assert ["kwh-100", "open", "kwh-40", "week"] == ids(ranked(products, make_demand()))
    sold_out = make_buyer(sold_out=frozenset({"kwh-100"}))
    assert ["kwh-90", "open", "kwh-40", "week"] == ids(ranked(products, make_demand(), sold_out))


@pytest.mark.parametrize(
    ("one", "other", "leaves_out"),
    [
        ((EnergyBundle(50_000), 100), (EnergyBundle(70_000), 150), True),
        ((EnergyBundle(50_000), 100), (EnergyBundle(75_000), 150), False),
        ((EnergyBundle(80_000), 100), (EnergyBundle(20_000), 100), True),  # never better
        ((EnergyBundle(80_000), 100), (EnergyBundle(20_000), 99), False),
        ((EnergyBundle(80_000), 100), (FlatPeriod(80_000), 100), True),
        ((SessionBundle(8), 100), (SessionBundle(10), 120), True),
        ((SessionBundle(8), 100), (EnergyBundle(8), 100), False),
        ((EnergyPrice(3_000_000), 49), (EnergyPrice(2_900_000), 59), True),
        ((EnergyPrice(3_000_000), 49), (EnergyPrice(2_000_000), 149), False),
        ((EnergyPrice(2_000_000), 0), (EnergyPrice(3_000_000), 149), True),  # never better
        ((PercentageOff(1_000), 10), (PercentageOff(2_000), 90), False),
    ],
)
def test_near_duplicates_are_sizes_of_one_pass_that_differ_little(
    one: tuple[Benefit, float], other: tuple[Benefit, float], leaves_out: bool
) -> None:
    """What a bundle holds, else what the pass costs, within a factor of one and a half."""
    columns = build_columns([make_product(n, *p) for n, p in (("a", one), ("b", other))])
    assert leaves_out is needless(columns.size_of(0), columns.size_of(1))


def test_what_is_never_better_is_not_offered_whatever_else_is_sold_out() -> None:
    """Not even where what it is never better than is left out as a near-duplicate itself."""
    products = [
        make_product("a", EnergyBundle(100_000), price=300),
        make_product("b", EnergyBundle(70_000), price=200),
        make_product("c", EnergyBundle(60_000), price=210),
        make_product("z", EnergyBundle(1_000), price=2),
    ]
    for sold_out in (frozenset(), frozenset({"z"})):
        offered = ids(ranked(products, make_demand(), make_buyer(sold_out=sold_out)))
        assert ["a"] == [p for p in offered if p != "z"]


FAST_ONLY = UsageConditions(selectors=Selectors(power_types=frozenset({PowerType.DC})))


def test_who_wishes_to_charge_fast_is_offered_fast_passes_first() -> None:
    """Where they save nearly as much; nothing is recommended that would not be otherwise."""
    demand = make_demand(location=location(150_000))
    fast = make_product("fast", CHEAP, price=69, conditions=FAST_ONLY)
    usual = make_product("usual", CHEAP)
    dear = make_product("dear", CHEAP, price=300, conditions=FAST_ONLY)
    products = [fast, usual, dear]
    wishes = {
        wish: ids(ranked(products, demand, make_buyer(profile_type=wish)))
        for wish in ("", *ProfileType)
    }
    assert ["fast", "usual"] == wishes.pop(ProfileType.FAST)
    assert {("usual", "fast")} == {tuple(order) for order in wishes.values()}


def test_who_minds_prices_is_not_talked_into_a_risk() -> None:
    """The same pass, which costs more than it saves in one of three months."""
    demand = make_demand([10_000, 85_000, 85_000])
    product = make_product("p", CHEAP)
    assert ["p"] == ids(ranked([product], demand))
    cheap = make_buyer(profile_type=ProfileType.CHEAP)
    assert [] == ids(ranked([product], demand, cheap))


def payg(paid: float, mean: float) -> PayAsYouGo:
    return PayAsYouGo(paid, mean, 0.0, 0.0, 0.0, 0.0)


def test_price_mindedness_is_learned_from_prices_paid_and_passes_bought() -> None:
    """0.5 where nothing says anything; declared, it is certain."""
    buyer = make_buyer()
    assert 0.5 == price_mindedness(buyer, payg(5e6, 5e6))
    assert 0.5 == price_mindedness(buyer, payg(0.0, 0.0))
    assert 0.8 == pytest.approx(price_mindedness(buyer, payg(3.5e6, 5e6)))
    assert 0.3 == pytest.approx(price_mindedness(buyer, payg(6e6, 5e6)))
    assert 0.0 == price_mindedness(buyer, payg(15e6, 5e6))
    some, many = (make_buyer(bought=[Bought("p", NOW)] * n) for n in (1, 200))
    assert 0.55 == pytest.approx(price_mindedness(some, payg(5e6, 5e6)))
    assert 1 - 0.5 * 0.9**5 == pytest.approx(price_mindedness(many, payg(5e6, 5e6)))
    cheap = make_buyer(profile_type=ProfileType.CHEAP)
    assert 1.0 == price_mindedness(cheap, payg(15e6, 5e6))
