"""What users pay without a pass, to the micro-unit: dimensions, unpriced places, connectors."""

import numpy as np
import pytest

from tests.unit.builders import (
    NOW,
    PLACE,
    element,
    make_demand,
    make_product,
    make_tariff,
    paid,
    place_prices_of,
    together,
)
from voucher_grpc.domain.catalogue.conditions import Restrictions, Selectors, UsageConditions
from voucher_grpc.domain.catalogue.product import (
    EnergyBundle,
    EnergyPrice,
    PercentageOff,
    SessionBundle,
)
from voucher_grpc.domain.offers.cells import place_condition_of
from voucher_grpc.domain.offers.columns import build_columns
from voucher_grpc.domain.offers.payments import payments_of, place_allowed
from voucher_grpc.domain.offers.valuation import value
from voucher_grpc.domain.places.location import Connector, Evse, Location, VehicleProfile
from voucher_grpc.domain.pricing.tariff import Dimension, PriceLimit
from voucher_grpc.domain.pricing.usual import UsualSession
from voucher_grpc.domain.tendencies.demand import DemandPlace
from voucher_grpc.domain.tendencies.user_prices import UserPrices, constant
from voucher_grpc.ocpi import PlaceKey, PowerType, VehicleType

ENERGY, FLAT, TIME, PARKING = (
    Dimension.ENERGY,
    Dimension.FLAT,
    Dimension.TIME,
    Dimension.PARKING_TIME,
)
ANY = VehicleProfile()
COLUMNS = build_columns([make_product("p", PercentageOff(10_000), price=0)])


def at(prices: UserPrices | None, share: float = 1.0, name: str = "home") -> DemandPlace:
    """A place of a user's."""
    return DemandPlace(PlaceKey("NO", "OSL", name), share, None, prices)


TWO, FOUR = constant(2e6), constant(4e6)


def test_an_unpriced_place_takes_the_mean_of_the_priced_ones_by_their_shares() -> None:
    """0.6 at 2 and 0.2 at 4 leave three quarters of the other 0.2 at 2: a mean of 2.5."""
    places = [at(TWO, 0.6), at(FOUR, 0.2, "work"), at(None, 0.2, "hotel")]
    demand = make_demand(places=places)
    payments = payments_of(COLUMNS, demand, [ANY])
    assert [0.75, 0.25] == pytest.approx(payments.row_share.tolist())
    assert [0.2] == payments.unpriced
    valuation = value(COLUMNS, demand, [ANY], [{}], NOW)
    [payg] = valuation.pay_as_you_go
    assert 2.5e6 == pytest.approx(payg.price_per_kwh)
    assert 2.5e6 == pytest.approx(payg.mean_price_per_kwh)
    assert 250e6 == pytest.approx(payg.cost_per_30_days)
    assert 0.2 == pytest.approx(payg.unpriced_share)


def test_an_unpriced_place_is_covered_at_the_mean_price() -> None:
    """A pass for the unpriced place alone takes 0.2 of 100 kWh off at 2.5."""
    hotel = Selectors(locations=(PlaceKey("NO", "OSL", "hotel"),))
    here = make_product("p", PercentageOff(10_000), price=0, conditions=UsageConditions((), hotel))
    columns = build_columns([here])
    demand = make_demand(places=[at(TWO, 0.6), at(FOUR, 0.2, "work"), at(None, 0.2, "hotel")])
    payments = payments_of(columns, demand, [ANY])
    assert [[0.15], [0.05]] == [
        pytest.approx(row) for row in payments.place_condition_share.tolist()
    ]
    valuation = value(columns, demand, [ANY], [{}], NOW)
    assert 50e6 == pytest.approx(valuation.expected_saving.item())
    assert 20 == pytest.approx(valuation.covered_kwh.item())
    assert 0.2 == pytest.approx(valuation.places_share.item())


def test_without_any_price_nothing_is_said_of_money() -> None:
    """Not zero, which would be a price."""
    demand = make_demand(places=[at(None, 0.5), at(None, 0.5, "work")])
    valuation = value(COLUMNS, demand, [ANY], [{}], NOW)
    [payg] = valuation.pay_as_you_go
    assert np.isnan([payg.price_per_kwh, payg.cost_per_30_days]).all()
    assert np.isnan(valuation.expected_saving).all()
    assert (1.0, 100.0) == (payg.unpriced_share, payg.energy_kwh_per_30_days)


def test_places_of_one_tariff_share_a_row_and_each_user_has_their_own() -> None:
    """Entries of a user stay the user's, the last one's too."""
    one = make_demand(places=[at(TWO, 0.5), at(FOUR, 0.2, "a"), at(TWO, 0.3, "b")])
    two = make_demand(places=[at(FOUR, 1.0)])
    payments = payments_of(COLUMNS, together([one, two, two]), [ANY] * 3)
    assert [0, 0, 1, 2] == payments.user.tolist()
    assert [0, 2, 3] == payments.starts.tolist()
    assert [2e6, 4e6, 4e6, 4e6] == payments.prices[:, 0, 0].tolist()
    assert [0.5, 0.3, 0.2, 1, 1] == pytest.approx(payments.share.tolist())
    assert [0.8, 0.2, 1, 1] == pytest.approx(payments.row_share.tolist())
    found = [payments.entries_of(user) for user in range(3)]
    assert [slice(0, 3), slice(3, 4), slice(4, 5)] == found
    assert [3.0, 3.0, 4.0] == payments.by_user(np.array([1.0, 2, 3, 4])).tolist()


def test_what_is_paid_follows_the_hours_of_the_charging() -> None:
    """By night at 2, at all hours alike 3.33: the first is what this user pays."""
    night = Restrictions(start_minute=22 * 60, end_minute=6 * 60)
    tariff = make_tariff(element(ENERGY, 2, restrictions=night), element(ENERGY, 4))
    sessions = (UsualSession(23 * 60, 1_000, 60), UsualSession(36 * 60, 1_000, 60))
    prices = paid(place_prices_of(tariff), *sessions)
    demand = make_demand(places=[at(prices)], hours={23: 0.75, 36: 0.25})
    [payg] = value(COLUMNS, demand, [ANY], [{}], NOW).pay_as_you_go
    assert 2.5e6 == pytest.approx(payg.price_per_kwh)
    assert (3 * 2e6 + 5 * 4e6) / 8 == pytest.approx(payg.mean_price_per_kwh)
    assert (100, 10) == pytest.approx((payg.energy_kwh_per_30_days, payg.sessions_per_30_days))


SESSION = UsualSession(12 * 60, 10_000, 7_200)


def test_each_kind_of_pass_takes_off_what_its_terms_say() -> None:
    """Of 10 kWh at 4 in 10/7 hours, 4/7 hours of parking at 7 and a fee of 5 a session."""
    tariff = make_tariff(element(ENERGY, 4), element(PARKING, 7, step=0), element(FLAT, 5))
    demand = make_demand(places=[at(paid(place_prices_of(tariff), SESSION))])
    products = [
        make_product("price", EnergyPrice(1_000_000), price=0),
        make_product("percentage", PercentageOff(5_000), price=0),
        make_product("energy", EnergyBundle(1_000_000), price=0),
        make_product("sessions", SessionBundle(100), price=0),
    ]
    valuation = value(build_columns(products), demand, [ANY], [{}], NOW)
    found = [v.expected_saving / 1e6 for v in valuation.product_values([0] * 4, range(4))]
    # Ten sessions of 40 for energy, 4 for parking and 5.
    assert [300, 245, 400, 450] == pytest.approx(found)
    assert 490e6 == pytest.approx(valuation.pay_as_you_go[0].cost_per_30_days)


def test_a_limit_per_session_is_all_that_a_pass_can_save() -> None:
    """Ten sessions of 40 that are capped at 5: 50, not 400."""
    tariff = make_tariff(element(ENERGY, 4), max_price=PriceLimit(5_000_000))
    demand = make_demand(places=[at(paid(place_prices_of(tariff), SESSION))])
    products = [make_product("e", EnergyBundle(1_000_000), price=0)]
    valuation = value(build_columns(products), demand, [ANY], [{}], NOW)
    assert 50e6 == pytest.approx(valuation.expected_saving.item())
    assert 50e6 == pytest.approx(valuation.pay_as_you_go[0].cost_per_30_days)


def location(*connectors: Connector) -> Location:
    """One EVSE with these connectors."""
    return Location("NO", "OSL", "home", "Europe/Oslo", evses=(Evse("1", connectors),))


DC50 = Connector("1", "IEC_62196_T2_COMBO", PowerType.DC, 50_000)
AC22 = Connector("2", "IEC_62196_T2", PowerType.AC_3_PHASE, 22_000)


def allowed(
    restrictions: Restrictions | None,
    selectors: Selectors,
    place: Location | None,
    vehicle: VehicleProfile = ANY,
    key: PlaceKey = PLACE,
) -> bool:
    """Whether a pass of these conditions is good at a place."""
    where = place_condition_of(UsageConditions((restrictions,) if restrictions else (), selectors))
    return place_allowed(where, DemandPlace(key, 1.0, place, None), vehicle)


EVERYWHERE = Selectors()


@pytest.mark.parametrize(
    ("restrictions", "vehicle", "expected"),
    [
        (Restrictions(min_power_w=50_000), ANY, True),
        (Restrictions(min_power_w=50_001), ANY, False),
        (Restrictions(max_power_w=50_000), ANY, False),
        (Restrictions(max_power_w=50_001), ANY, True),
        (Restrictions(min_power_w=20_000, max_power_w=40_000), ANY, False),
        # What the vehicle can take by direct current counts, not by alternating.
        (Restrictions(min_power_w=50_000), VehicleProfile(max_dc_power_w=49_999), False),
        (Restrictions(min_power_w=50_000), VehicleProfile(max_ac_power_w=3_600), True),
        (Restrictions(max_power_w=50_000), VehicleProfile(max_dc_power_w=40_000), True),
    ],
)
def test_power_is_bounded_below_inclusive_and_above_exclusive(
    restrictions: Restrictions, vehicle: VehicleProfile, expected: bool
) -> None:
    """By what the connector gives and the vehicle takes, whichever is less."""
    assert expected is allowed(restrictions, EVERYWHERE, location(DC50), vehicle)


def test_the_power_of_alternating_current_is_the_vehicles_too() -> None:
    """At a connector of 22 kW a car with 11 kW on board charges at 11."""
    slow = Restrictions(max_power_w=12_000)
    assert not allowed(slow, EVERYWHERE, location(AC22))
    assert allowed(slow, EVERYWHERE, location(AC22), VehicleProfile(max_ac_power_w=11_000))
    assert not allowed(slow, EVERYWHERE, location(AC22), VehicleProfile(max_dc_power_w=11_000))


def test_one_connector_that_will_do_is_enough() -> None:
    """Of the connectors at the place alone, and of those that the vehicle fits."""
    dc = Selectors(power_types=frozenset({PowerType.DC}))
    both = location(AC22, DC50)
    assert allowed(None, dc, both)
    assert not allowed(None, dc, location(AC22))
    assert allowed(None, dc, both, key=PLACE._replace(evse_uid="1", connector_id="1"))
    assert not allowed(None, dc, both, key=PLACE._replace(evse_uid="1", connector_id="2"))
    type_2 = VehicleProfile(connector_standards=frozenset({"IEC_62196_T2"}))
    assert not allowed(None, dc, both, type_2)
    assert allowed(None, EVERYWHERE, both, type_2)
    assert not allowed(None, EVERYWHERE, location(DC50), type_2)


@pytest.mark.parametrize("place", [None, location()])
def test_where_no_connector_is_known_only_conditions_on_connectors_fail(
    place: Location | None,
) -> None:
    """A location that is not known, and one of which no connector is."""
    assert allowed(None, EVERYWHERE, place)
    assert not allowed(Restrictions(min_power_w=1), EVERYWHERE, place)
    for selectors in (
        Selectors(connector_standards=frozenset({"CHADEMO"})),
        Selectors(power_types=frozenset({PowerType.DC})),
        Selectors(min_connector_power_w=1),
        Selectors(max_connector_power_w=1_000_000),
    ):
        assert not allowed(None, selectors, place)


def test_the_vehicle_and_the_place_are_selected_before_the_connector() -> None:
    """A vehicle whose type is not known passes no selector on it."""
    cars = Selectors(vehicle_types=frozenset({VehicleType.CAR}))
    here = location(DC50)
    assert not allowed(None, cars, here)
    assert not allowed(None, cars, here, VehicleProfile(VehicleType.VAN))
    assert allowed(None, cars, here, VehicleProfile(VehicleType.CAR))
    assert not allowed(None, Selectors(parties=(("SE", ""),)), here)
    assert allowed(None, Selectors(parties=(("NO", ""),)), here)
