"""Until when an offer holds, what is known of its buyer, and which price it is compared with."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from google.protobuf.json_format import ParseDict

from tests.unit.builders import (
    NOW,
    PLACE,
    element,
    make_product,
    make_session,
    make_tariff,
    make_terms,
)
from voucher_grpc.domain.catalogue.conditions import Selectors, UsageConditions
from voucher_grpc.domain.catalogue.product import (
    EnergyPrice,
    PercentageOff,
    Product,
    SessionBundle,
    Validity,
    ValidityPeriod,
    ValidityStart,
    sale_end,
    validity_period,
)
from voucher_grpc.domain.offer_ids.signer import OfferSigner, OfferTerms, to_the_millisecond
from voucher_grpc.domain.offers.determine import (
    MIN_SESSIONS,
    Determined,
    UserRequest,
    currency_of,
    demands_of,
    determine,
    determine_all,
    place_prices,
    tariff_at,
)
from voucher_grpc.domain.offers.knowledge import ActivePass, Knowledge, UserSettings
from voucher_grpc.domain.offers.reason_codes import ReasonCode
from voucher_grpc.domain.offers.request import OffersRequest
from voucher_grpc.domain.offers.snapshot import (
    Changes,
    Snapshot,
    build_snapshot,
    changed_snapshot,
)
from voucher_grpc.domain.places.location import Connector, Evse, Location, Vehicle, VehicleProfile
from voucher_grpc.domain.pricing.tariff import Dimension, Tariff, TariffType
from voucher_grpc.domain.tendencies.forecast import SCENARIOS
from voucher_grpc.domain.tendencies.segments import Segment, SegmentKey
from voucher_grpc.domain.tendencies.tendency import Tendency, rebuild
from voucher_grpc.edge.wire.offers import offers_request
from voucher_grpc.errors import BadInput, Reason, Refusal
from voucher_grpc.money import Money
from voucher_grpc.ocpi import PlaceKey, VehicleType
from voucher_grpc.steps import finished
from voucher_grpc.store.knowledge import Key, _knowledge, _refused
from voucher_grpc.v1 import voucher_service_pb2

DAY, MICROSECOND = timedelta(days=1), timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("validity", "sale_end_time", "expected"),
    [
        (Validity(days=30), None, None),
        (Validity(days=30), NOW, NOW),
        # A fixed validity that is over before the sale ends it.
        (Validity(days=3, start=ValidityStart.AT, start_time=NOW), NOW + 5 * DAY, NOW + 3 * DAY),
        (Validity(days=7, start=ValidityStart.AT, start_time=NOW), NOW + 5 * DAY, NOW + 5 * DAY),
        (Validity(days=3, start=ValidityStart.AT, start_time=NOW), None, NOW + 3 * DAY),
        (Validity(days=3, start=ValidityStart.FIRST_USE), NOW + 5 * DAY, NOW + 5 * DAY),
    ],
)
def test_a_pass_is_sold_until_its_sale_or_its_fixed_validity_ends(
    validity: Validity, sale_end_time: datetime | None, expected: datetime | None
) -> None:
    """Whichever is earlier: nothing is sold that would be over at once."""
    assert expected == sale_end(make_terms(validity=validity, sale_end_time=sale_end_time))


def test_a_fixed_validity_ends_on_the_products_wall_clock() -> None:
    """Three days over the change of the clocks in Oslo are 73 hours."""
    start = datetime(2026, 10, 24, 10, tzinfo=UTC)
    validity = Validity(days=3, start=ValidityStart.AT, start_time=start)
    assert start + timedelta(hours=73) == sale_end(make_terms(validity=validity))
    assert start + timedelta(hours=72) == sale_end(make_terms(validity=validity, time_zone="UTC"))


def test_a_validity_begins_when_it_says() -> None:
    """At its purchase, at its instant if that is later, or with a first use within its days."""
    zone = ZoneInfo("UTC")
    at = Validity(days=3, start=ValidityStart.AT, start_time=NOW)
    for bought, start in ((NOW - DAY, NOW), (NOW + DAY, NOW + DAY)):
        assert ValidityPeriod(start, NOW + 3 * DAY) == validity_period(at, bought, zone)
    assert ValidityPeriod(NOW, NOW + 3 * DAY) == validity_period(Validity(days=3), NOW, zone)
    first = Validity(days=3, start=ValidityStart.FIRST_USE, first_use_within_days=9)
    assert ValidityPeriod(None, None, NOW + 9 * DAY) == validity_period(first, NOW, zone)


@pytest.mark.parametrize(("microseconds", "kept"), [(0, 0), (999, 0), (1000, 1000), (1999, 1000)])
def test_an_expiry_is_cut_to_the_millisecond_that_is_signed(microseconds: int, kept: int) -> None:
    """Down: what is shown is never later than what is promised in the offer_id."""
    at = NOW + timedelta(seconds=1, microseconds=microseconds)
    shown = to_the_millisecond(at)
    assert NOW + timedelta(seconds=1, microseconds=kept) == shown
    signer = OfferSigner({1: b"\x01" * 32}, 1)
    for instant in (at, shown):
        terms = OfferTerms("alice", "p", 1, 1, "NOK", instant)
        assert shown == signer.read(signer.sign(terms)).terms.expire_time


# --- what is known of a user ---

SNAPSHOT = build_snapshot(1, [], [])


def row(**changes: Any) -> Any:
    """A row of knowledge about a user of whom nothing is known."""
    nothing = dict.fromkeys(
        (
            *("vehicle_user_id", "vehicle_profile", "time_zone", "currency_code", "language"),
            *("country_code", "sessions", "first_session_time", "last_session_time", "state"),
            *("forecast", "profile_type", "country_codes", "party_ids", "location_ids"),
            *("evse_uids", "weights", "product_ids", "purchase_times", "days_to_start"),
            *("days_to_end", "unused", "amounts_left"),
        )
    )
    return {**nothing, "user_id": "alice", "known": False, **changes}


def passes(*spans: tuple[str, float | None, float | None, bool], **left: int) -> Any:
    """A row with passes, the newest first: (product, days to start, days to end, unused), and what
    is left of those of which something was used."""
    products, starts, ends, unused = (list(values) for values in zip(*spans, strict=True))
    times = [NOW - n * DAY for n in range(len(spans))]
    return row(
        product_ids=products,
        purchase_times=times,
        days_to_start=starts,
        days_to_end=ends,
        unused=unused,
        amounts_left=[left.get(product) for product in products],
    )


def known(of: Any) -> Knowledge:
    return _knowledge(Key("alice", "car"), of, frozenset({"gone"}), SNAPSHOT)


@pytest.mark.parametrize("newest_first", [True, False])
def test_of_two_passes_of_a_product_the_one_that_ends_last_counts(newest_first: bool) -> None:
    """Whichever was bought first: it is good for longer."""
    short, long = ("p", -20.0, 10.0, False), ("p", -1.0, 29.0, True)
    spans = (long, short) if newest_first else (short, long)
    assert {"p": ActivePass(-1.0, 29.0, True)} == known(passes(*spans)).owned


def test_only_passes_that_are_not_over_are_owned_and_all_were_bought() -> None:
    """One that has no end was never paid for; one that has no start begins with its use."""
    spans = [
        ("over", -40.0, -10.0, False),
        ("now", -40.0, 0.0, False),
        ("held", None, None, True),
        ("unused", None, 300.0, True),
        ("later", 5.0, 35.0, False),
    ]
    found = known(passes(*spans))
    assert {"unused": ActivePass(0.0, 300.0, True), "later": ActivePass(5.0, 35.0)} == found.owned
    assert [(name, NOW - n * DAY) for n, (name, *_) in enumerate(spans)] == list(found.bought)
    assert frozenset({"gone"}) == found.sold_out


def test_what_is_left_of_a_bundle_is_known_and_one_that_is_used_up_is_not_owned() -> None:
    """Of a bundle that was not used yet all is left."""
    spans = [(name, -1.0, 29.0, False) for name in ("new", "begun", "empty")]
    owned = known(passes(*spans, begun=2_500, empty=0)).owned
    assert {"new": None, "begun": 2_500} == {name: one.left for name, one in owned.items()}


def test_a_user_who_is_not_registered_has_no_settings_and_no_wish() -> None:
    """Whatever stands in the row; a vehicle has its profile and its user."""
    settings = {
        "time_zone": "Europe/Oslo",
        "currency_code": "NOK",
        "language": "nb",
        "country_code": "NO",
    }
    unknown = known(row(**settings))
    assert (UserSettings(), None, "", (), {}) == (
        unknown.settings,
        unknown.vehicle,
        unknown.profile_type,
        unknown.bought,
        unknown.owned,
    )
    found = known(
        row(
            known=True,
            profile_type="FAST",
            vehicle_user_id="alice",
            vehicle_profile='{"type": "VAN"}',
            **settings,
        )
    )
    assert UserSettings("Europe/Oslo", "NOK", "nb", "NO") == found.settings
    assert Vehicle("car", "alice", VehicleProfile(VehicleType.VAN)) == found.vehicle
    assert "FAST" == found.profile_type


@pytest.mark.parametrize(
    ("user_id", "owner", "reason"),
    [
        ("alice", None, None),
        ("alice", "alice", None),
        ("", "alice", None),
        ("", None, Reason.VEHICLE_NOT_FOUND),
        ("alice", "bob", Reason.VEHICLE_USER_MISMATCH),
    ],
)
def test_a_vehicle_that_is_registered_is_its_users(
    user_id: str, owner: str | None, reason: Reason | None
) -> None:
    """And one that is not names nobody by itself."""
    found = _refused(Key(user_id, "car"), row(vehicle_user_id=owner))
    assert reason is (found.reason if isinstance(found, Refusal) else None)


# --- which tariff and currency ---


def tariff(tariff_id: str, price: float, **changes: Any) -> Tariff:
    return replace(
        make_tariff(element(Dimension.ENERGY, price, None)), tariff_id=tariff_id, **changes
    )


def place_with(*tariff_ids: tuple[str, ...]) -> Location:
    """Connectors with these tariffs, in order."""
    connectors = tuple(
        Connector(str(n), "MCS", None, 0, ids) for n, ids in enumerate(tariff_ids, 1)
    )
    return Location("NO", "OSL", "home", "Europe/Oslo", evses=(Evse("E", connectors),))


TARIFFS = [
    tariff("own", 3),
    tariff("euro", 1, currency_code="EUR"),
    tariff("second", 4),
    tariff("usual", 5, default_for_country=True),
    tariff("eu", 6, currency_code="EUR", default_for_country=True),
    tariff("sv", 7, country_code="SE", currency_code="SEK", default_for_country=True),
]


@pytest.mark.parametrize(
    ("location", "currency", "expected"),
    [
        (place_with(("own", "second")), "NOK", "own"),
        (place_with(("second",), ("own",)), "NOK", "second"),
        (place_with(("euro", "own")), "NOK", "own"),
        (place_with(("euro", "own")), "", "euro"),
        (place_with(("unknown", "own")), "NOK", "own"),
        (place_with(("unknown",)), "NOK", "usual"),
        (place_with(()), "EUR", "eu"),
        (None, "NOK", "usual"),
        (None, "SEK", None),
        (None, "", None),
    ],
)
def test_a_place_has_the_first_tariff_of_its_connectors_or_its_countrys(
    location: Location | None, currency: str, expected: str | None
) -> None:
    """In the currency that is asked for."""
    snapshot = build_snapshot(1, [], TARIFFS)
    found = tariff_at(PLACE, location, snapshot, currency, NOW)
    assert expected == (found.tariff_id if found else None)


@pytest.mark.parametrize(
    ("days", "expected"),
    [(-2, None), (-1, "spring"), (0, "summer"), (1, "summer"), (2, "autumn"), (3, None)],
)
def test_a_place_has_the_tariff_that_is_valid_now(days: int, expected: str | None) -> None:
    """An ended one prices nothing, nor one that is to come; a default does not stand in for it.

    What was found is kept, but not beyond the next instant at which it changes.
    """
    spring = tariff("spring", 3, start_time=NOW - DAY, end_time=NOW)
    summer = tariff("summer", 4, start_time=NOW, end_time=NOW + 2 * DAY)
    autumn = tariff("autumn", 5, start_time=NOW + 2 * DAY, end_time=NOW + 3 * DAY)
    default = tariff("usual", 6, default_for_country=True)
    snapshot = build_snapshot(1, [], [spring, summer, autumn, default])
    home, at = place_with(("autumn", "spring", "summer")), NOW + days * DAY
    for now in (NOW + DAY, at, NOW - 9 * DAY, at):
        prices = place_prices(PLACE, home, snapshot, "NOK", {}, now).prices
    found = tariff_at(PLACE, home, snapshot, "NOK", at)
    assert expected == (found.tariff_id if found else None)
    priced = None if prices is None else prices.tariffs[0][1]
    assert expected == (priced.tariff_id if priced else None)


@pytest.mark.parametrize(
    ("country", "tariff_id", "price"),
    [("", "nl", 1.21), ("DEU", "de", 2.38), ("NLD", "nl", 1.21), ("ZZZ", "nl", 1.21)],
)
def test_tax_and_default_tariff_are_those_of_the_country_of_the_place(
    country: str, tariff_id: str, price: float
) -> None:
    """An operator of one country may have places in another (ocpi/ocpi#548); OCPI names the
    place's country by three letters."""
    defaults = [
        tariff("nl", 1, country_code="NL", default_for_country=True),
        tariff("de", 2, country_code="DE", default_for_country=True),
    ]
    snapshot = build_snapshot(1, [], defaults)
    place = PlaceKey("NL", "TST", "L")
    location = Location("NL", "TST", "L", "Europe/Berlin", country=country)
    found = tariff_at(place, location, snapshot, "NOK", NOW)
    assert tariff_id == (found.tariff_id if found else None)
    rates = {"NL": 2_100, "DE": 1_900}
    prices = place_prices(place, location, snapshot, "NOK", rates, NOW).prices
    assert price * 1e6 == pytest.approx(prices.price_per_kwh if prices else 0)
    # A changed default of the place's country is seen.
    cheaper = tariff(tariff_id, 0, country_code=tariff_id.upper(), default_for_country=True)
    after = changed_snapshot(snapshot, Changes(2, tariffs=[cheaper]), {})
    prices = place_prices(place, location, after, "NOK", rates, NOW).prices
    assert 0 == (prices.price_per_kwh if prices else None)


def test_a_default_tariff_prices_nothing_before_or_after_its_time() -> None:
    """The country's as any other."""
    snapshot = build_snapshot(1, [], [tariff("usual", 6, default_for_country=True, end_time=NOW)])
    assert tariff_at(PLACE, None, snapshot, "NOK", NOW) is None
    assert tariff_at(PLACE, None, snapshot, "NOK", NOW - DAY) is not None


def test_a_contract_counts_before_payments_without_one() -> None:
    """REGULAR before a tariff for all sessions, and AD_HOC_PAYMENT only if there is no other."""
    ad_hoc = tariff("adhoc", 9, type=TariffType.AD_HOC_PAYMENT)
    regular = tariff("regular", 4, type=TariffType.REGULAR)
    snapshot = build_snapshot(1, [], [ad_hoc, regular, *TARIFFS])

    def of(*connectors: tuple[str, ...]) -> str:
        found = tariff_at(PLACE, place_with(*connectors), snapshot, "NOK", NOW)
        return found.tariff_id if found else ""

    assert "regular" == of(("adhoc", "own", "regular"))
    assert "own" == of(("adhoc", "own"))
    assert "own" == of(("adhoc",), ("own",))
    assert "adhoc" == of(("adhoc",))
    assert "adhoc" == of(("adhoc", "euro"))


def knowledge(
    snapshot: Snapshot, sessions: int = 30, tendency: Tendency | None = None, **changes: Any
) -> Knowledge:
    """A user who has charged 10 kWh each day at home."""
    if tendency is None and sessions:
        tendency = rebuild(make_session(str(n), start_time=NOW - n * DAY) for n in range(sessions))
    values: dict[str, Any] = {
        "user_id": "alice",
        "settings": UserSettings(),
        "vehicle": None,
        "tendency": tendency,
        "profile_type": "",
        "places": [(PLACE, 1.0)] if tendency else [],
        "bought": (),
        "owned": MappingProxyType({}),
        "sold_out": frozenset(),
        "snapshot": snapshot,
    }
    return Knowledge(**{**values, **changes})


def request(**changes: Any) -> OffersRequest:
    values: dict[str, Any] = {
        "vehicle": None,
        "place": None,
        "country_code": "",
        "currency_code": "",
        "max_offers": 20,
    }
    return OffersRequest(**{**values, **changes})


HOME = {("NO", "OSL", "home"): place_with(("own",))}


@pytest.mark.parametrize(
    ("asked", "settings", "locations", "expected"),
    [
        (request(currency_code="USD"), UserSettings(currency_code="EUR"), HOME, "USD"),
        (request(), UserSettings(currency_code="EUR"), HOME, "EUR"),
        (request(), UserSettings(country_code="SE"), HOME, "NOK"),
        (request(country_code="SE"), UserSettings(), HOME, "NOK"),
        # The place of the request goes before those where the user charges.
        (
            request(place=PlaceKey("NO", "OSL", "away")),
            UserSettings(),
            {**HOME, ("NO", "OSL", "away"): place_with(("euro",))},
            "EUR",
        ),
    ],
)
def test_the_currency_is_asked_for_declared_or_that_of_the_place(
    asked: OffersRequest, settings: UserSettings, locations: Any, expected: str
) -> None:
    """In this order."""
    user = knowledge(build_snapshot(1, [], TARIFFS), settings=settings)
    assert expected == currency_of(user, asked, locations, NOW)


def test_the_currency_of_a_country_is_that_of_its_default_tariff() -> None:
    """Of the request's, the user's or a place's; of two by name; else it is missing."""
    snapshot = build_snapshot(1, [], TARIFFS)
    nobody = knowledge(snapshot, 0)
    assert "EUR" == currency_of(nobody, request(country_code="NO"), {}, NOW)
    assert "SEK" == currency_of(nobody, request(country_code="SE"), {}, NOW)
    swede = nobody._replace(settings=UserSettings(country_code="SE"))
    assert "SEK" == currency_of(swede, request(), {}, NOW)
    somewhere = request(place=PlaceKey("SE", "ABC", "x"))
    assert "SEK" == currency_of(nobody, somewhere, {}, NOW)
    for countries in ("", "DK"):
        with pytest.raises(BadInput) as refused:
            currency_of(nobody, request(country_code=countries), {}, NOW)
        assert ["currency_code"] == [v.field for v in refused.value.violations]


# --- from what is known to the offers ---

PASSES = [
    make_product("open", EnergyPrice(2_000_000), 49),
    make_product("default", PercentageOff(1), 1, default_offer=True),
]


def determined(user: Knowledge, **asked: Any) -> Determined:
    return determine(user, request(**asked), HOME, {"NO": 2_500}, NOW)


def test_an_offer_is_compared_with_the_tariff_and_the_tax_of_the_place() -> None:
    """3 without tax are 3.75 with it; where no rate is known they are 3."""
    user = knowledge(build_snapshot(1, PASSES, TARIFFS))
    found = determined(user)
    assert "NOK" == found.currency_code
    payg = found.ranking.pay_as_you_go
    assert payg is not None
    assert 3.75e6 == pytest.approx(payg.price_per_kwh)
    assert 0.0 == payg.unpriced_share
    assert "open" == found.ranking.choices[0].product.product_id
    payg = determine(user, request(), HOME, {"SE": 2_500}, NOW).ranking.pay_as_you_go
    assert payg is not None
    assert 3e6 == pytest.approx(payg.price_per_kwh)
    # Kept by the rate: the one found first does not stand for the other.
    payg = determine(user, request(), HOME, {"NO": 0}, NOW).ranking.pay_as_you_go
    assert payg is not None
    assert 3e6 == pytest.approx(payg.price_per_kwh)


def test_the_greatest_places_stand_for_all_by_their_weights() -> None:
    """Weights of 3 and 1: three quarters at home."""
    away = PlaceKey("NO", "OSL", "away")
    user = knowledge(build_snapshot(1, PASSES, TARIFFS), places=[(PLACE, 3.0), (away, 1.0)])
    demand = determined(user).demand
    assert demand is not None
    assert [0.75, 0.25] == [place.share for place in demand.places[0]]
    assert [3.75e6, 6.25e6] == [p.prices.usual[0] for p in demand.places[0] if p.prices]
    weightless = user._replace(places=[(PLACE, 0.0)])
    assert determined(weightless).demand is None


@pytest.mark.parametrize(("sessions", "valued"), [(0, False), (1, False), (2, True)])
def test_nothing_is_valued_with_less_than_two_sessions(sessions: int, valued: bool) -> None:
    """The answer is the default product, without figures."""
    assert 2 == MIN_SESSIONS
    user = knowledge(build_snapshot(1, PASSES, TARIFFS), sessions)
    found = determined(user, currency_code="NOK")
    assert valued is (found.demand is not None)
    if not valued:
        [choice] = found.ranking.choices
        assert [ReasonCode.USER_UNKNOWN] == [reason.code for reason in choice.reasons]
        assert found.ranking.pay_as_you_go is None


def test_each_asks_for_the_own_currency_and_gets_the_own_answer() -> None:
    """In the order of asking, with those between who cannot be answered."""
    euro = make_product("euro", PercentageOff(10_000), default_offer=True)
    euro = replace(euro, terms=replace(euro.terms, price=Money(49_000_000, "EUR")))
    snapshot = build_snapshot(1, [*PASSES, euro], TARIFFS)
    user, nobody = knowledge(snapshot), knowledge(snapshot, 0)
    asked = [
        UserRequest(user, request(currency_code="EUR")),
        UserRequest(nobody, request()),
        UserRequest(user, request(max_offers=1)),
        UserRequest(nobody, request(currency_code="NOK")),
        UserRequest(user, request(currency_code="USD")),
    ]
    found = finished(determine_all(asked, HOME, {"NO": 2_500}, NOW))
    assert isinstance(found[1], BadInput)
    answers = [
        (d.currency_code, [c.product.product_id for c in d.ranking.choices])
        for d in found
        if isinstance(d, Determined)
    ]
    assert [("EUR", ["euro"]), ("NOK", ["open"]), ("NOK", ["default"]), ("USD", [])] == answers


def test_the_vehicle_of_the_request_goes_before_the_registered_one() -> None:
    """Described in it; without either, no selector on vehicles is passed."""
    vans = UsageConditions(selectors=Selectors(vehicle_types=frozenset({VehicleType.VAN})))
    snapshot = build_snapshot(1, [make_product("van", EnergyPrice(0), conditions=vans)], TARIFFS)
    car, van = VehicleProfile(VehicleType.CAR), VehicleProfile(VehicleType.VAN)
    for registered, described, offered in (
        (van, None, True),
        (van, car, False),
        (car, van, True),
        (None, van, True),
        (None, None, False),
    ):
        vehicle = None if registered is None else Vehicle("v", "alice", registered)
        found = determined(knowledge(snapshot, vehicle=vehicle), vehicle=described)
        assert offered is bool(found.ranking.choices)


def usual(energy_kwh: float) -> Segment:
    hours = [0.0] * 168
    hours[60] = 1.0
    return Segment(1_000_000, np.full(SCENARIOS, energy_kwh), np.array(hours))


@pytest.mark.parametrize(
    ("days", "settings", "profile_type", "vehicle_type", "expected"),
    [
        (1, UserSettings(), "", None, 3_000.0),  # where most is charged: Norway
        (1, UserSettings(country_code="SE"), "", None, 9_000.0),
        (1, UserSettings(), "", VehicleType.VAN, 20_000.0),
        (1, UserSettings(), "CHEAP", VehicleType.VAN, 40_000.0),
        (1, UserSettings(), "CHEAP", None, 3_000.0),
        (31, UserSettings(), "", None, None),
    ],
)
def test_a_new_user_is_drawn_to_the_kind_of_user(
    days: int,
    settings: UserSettings,
    profile_type: str,
    vehicle_type: VehicleType | None,
    expected: float | None,
) -> None:
    """Country, declared or charged in most, then vehicle, then wish; a known one is not."""
    segments = {
        SegmentKey(): usual(100),
        SegmentKey("NO"): usual(3_000),
        SegmentKey("SE"): usual(9_000),
        SegmentKey("NO", "VAN"): usual(20_000),
        SegmentKey("NO", "VAN", "CHEAP"): usual(40_000),
    }
    tendency = rebuild(make_session(str(n), start_time=NOW - n * days * DAY) for n in range(2))
    products: list[Product] = [make_product("p", SessionBundle(1))]
    vehicle = None if vehicle_type is None else VehicleProfile(vehicle_type)

    def energy(snapshot: Snapshot) -> float:
        user = knowledge(snapshot, tendency=tendency, settings=settings, profile_type=profile_type)
        asked = [UserRequest(user, request(vehicle=vehicle))]
        rows, demands = finished(demands_of(asked, HOME, "NOK", {"NO": 0}, NOW))
        assert [0] == rows
        assert demands is not None
        return float(demands.energy_kwh[0, 6])

    own = energy(build_snapshot(1, products, TARIFFS))
    drawn = energy(build_snapshot(1, products, TARIFFS, segments))
    if expected is None:
        assert own == drawn
    else:
        # After a day a quarter is the user's own; logarithms of 1 + kWh are averaged.
        mixed = (1 + own) ** 0.25 * (1 + expected) ** 0.75 - 1
        assert mixed == pytest.approx(drawn, rel=1e-3)


def test_what_a_request_says_is_what_is_asked() -> None:
    """Field by field."""
    message = ParseDict(
        {
            "userId": "alice",
            "vehicleId": "car",
            "vehicle": {"type": "VEHICLE_TYPE_VAN"},
            "place": {"area": {"countryCode": "SE"}},
            "maxOffers": 7,
            "language": "sv",
            "currencyCode": "SEK",
        },
        voucher_service_pb2.RequestOffersRequest(),
    )
    van = VehicleProfile(VehicleType.VAN)
    asked = OffersRequest("alice", "car", van, None, "SE", 7, "sv", "SEK")
    assert asked == offers_request(message)
    place = {"countryCode": "NO", "partyId": "OSL", "locationId": "home"}
    at = ParseDict(
        {"userId": "alice", "place": {"location": place}},
        voucher_service_pb2.RequestOffersRequest(),
    )
    assert OffersRequest("alice", place=PlaceKey("NO", "OSL", "home")) == offers_request(at)
