"""RequestOffers over a socket: habits decide, only what can be bought is offered."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.conftest import Service, serving
from tests.integration.operating import until
from tests.integration.shop import (
    KEY_1,
    buy,
    create,
    get_product,
    habit,
    offer_for,
    outcome,
    product,
    set_tariff,
)
from voucher_grpc.client import CallFailed, Client
from voucher_grpc.dev.demo.load import load_demo
from voucher_grpc.domain.offer_ids.signer import OfferSigner
from voucher_grpc.edge.wire.messages import instant_of, money_of
from voucher_grpc.files.sessions import SessionFile
from voucher_grpc.v1.catalogue_service_pb2 import UpdateProductRequest
from voucher_grpc.v1.conditions_pb2 import LocationReference, VehicleType
from voucher_grpc.v1.location_service_pb2 import ListTariffsRequest, UpsertTariffsRequest
from voucher_grpc.v1.offer_pb2 import Offer, OfferReasonCode
from voucher_grpc.v1.user_service_pb2 import (
    RegisterVehicleRequest,
    UpsertUserRequest,
    User,
)
from voucher_grpc.v1.vehicle_pb2 import Vehicle, VehicleProfile
from voucher_grpc.v1.voucher_service_pb2 import (
    EmptyReason,
    Place,
    RequestOffersRequest,
    RequestOffersResponse,
)

NIGHT = {"any_of": [{"start_time": "22:00", "end_time": "06:00"}]}
WEEKEND = {"any_of": [{"day_of_week": ["SATURDAY", "SUNDAY"]}]}


async def ask(client: Client, user_id: str, **wanted: object) -> RequestOffersResponse:
    """Offers in NOK."""
    request = RequestOffersRequest(user_id=user_id, currency_code="NOK", **wanted)  # type: ignore[arg-type]
    answer: RequestOffersResponse = await client.call(client.voucher.RequestOffers, request)
    return answer


async def _catalogue(client: Client) -> None:
    await set_tariff(client)
    await create(
        client, "basic", price="0.00 NOK", benefit={"percentage_off": 1}, default_offer=True
    )
    await create(client, "night", conditions=NIGHT)
    await create(client, "weekend", conditions=WEEKEND, price="39.00 NOK")
    await create(client, "anytime", price="119.00 NOK", benefit={"energy_price_per_kwh": "3.90"})
    await create(client, "bundle", price="100.00 NOK", benefit={"energy_bundle_kwh": 30})


async def test_habits_decide_what_is_offered_first(fresh_service: Service) -> None:
    """A night owl, a weekender, a commuter and a rare user get different first offers."""
    client = fresh_service.client
    await _catalogue(client)
    now = datetime.now(UTC)
    saturdays = [d for d in range(90) if (now - timedelta(days=d + 1)).weekday() == 5]
    await habit(client, "owl", hour=23)
    await habit(client, "weekender", hour=10, days=saturdays, energy_wh=40_000, now=now)
    await habit(client, "commuter", hour=10)
    await habit(client, "rare", hour=10, days=range(3, 90, 15), energy_wh=12_000)
    firsts = {
        user: (await ask(client, user)).offers[0].product_id
        for user in ("owl", "weekender", "commuter", "rare")
    }
    expected = {"owl": "night", "weekender": "weekend", "commuter": "anytime", "rare": "basic"}
    assert expected == firsts


async def test_the_expected_saving_is_what_the_habit_saves(fresh_service: Service) -> None:
    """10 kWh a night at 3 instead of 5 NOK, 49 NOK a month: about 551 NOK in 30 days.

    More or less with the season, which the forecast knows: from 283 to 353 kWh in 30 days.
    """
    client = fresh_service.client
    await _catalogue(client)
    await habit(client, "owl", hour=23, days=range(300))
    answer = await ask(client, "owl")
    saving = money_of(answer.offers[0].expected_saving).micros / 1e6
    expected_wh = answer.pay_as_you_go.energy_wh_per_30_days
    assert expected_wh == pytest.approx(300_000, rel=0.3)
    assert saving == pytest.approx(expected_wh / 1000 * 2 - 49, rel=0.15)
    assert 24_500 == answer.offers[0].break_even.energy_wh
    assert 5_000_000 == money_of(answer.pay_as_you_go.price_per_kwh).micros


async def test_each_reason_quotes_the_figures_it_rests_on(fresh_service: Service) -> None:
    """The words hold the numbers that are sent as data."""
    client = fresh_service.client
    await _catalogue(client)
    await habit(client, "owl", hour=23, days=range(300))
    reasons = {r.code: r for r in (await ask(client, "owl")).offers[0].reasons}
    hours = reasons[OfferReasonCode.OFFER_REASON_CODE_FITS_YOUR_HOURS]
    [share] = [f.value for f in hours.figures if f.name == "share_in_window"]
    assert 1 == pytest.approx(share), "the habit is quoted, not the forecast"
    assert f"{share * 100:.0f}" in hours.text
    saves = reasons[OfferReasonCode.OFFER_REASON_CODE_SAVES_ON_USUAL_CHARGING]
    energy = {f.name: f.value for f in saves.figures}["energy_kwh_per_30_days"]
    assert f"{energy:.0f} kWh" in saves.text


async def test_a_user_of_whom_nothing_is_known_gets_the_default(fresh_service: Service) -> None:
    """Exactly one, not recommended, and it says so."""
    client = fresh_service.client
    await _catalogue(client)
    offers = (await ask(client, "nobody")).offers
    assert ["basic"] == [offer.product_id for offer in offers]
    assert not offers[0].recommended
    assert not offers[0].HasField("expected_saving")
    assert [OfferReasonCode.OFFER_REASON_CODE_USER_UNKNOWN] == [r.code for r in offers[0].reasons]


async def test_a_user_for_whom_nothing_pays_is_told_so(fresh_service: Service) -> None:
    """One default product with NOTHING_PAYS."""
    client = fresh_service.client
    await set_tariff(client)
    await create(client, "dear", price="900.00 NOK", default_offer=True)
    await habit(client, "rare", days=range(3, 90, 20), energy_wh=5_000)
    offers = (await ask(client, "rare")).offers
    assert ["dear"] == [offer.product_id for offer in offers]
    assert OfferReasonCode.OFFER_REASON_CODE_NOTHING_PAYS == offers[0].reasons[0].code
    assert money_of(offers[0].expected_saving).micros < 0


async def test_the_recommended_come_first_and_their_number_is_bounded(
    fresh_service: Service,
) -> None:
    """Best first, every one of them, at most max_offers; of 30 days each, so by their savings."""
    client = fresh_service.client
    await _catalogue(client)
    await habit(client, "owl", hour=23)
    answer = await ask(client, "owl", max_offers=20)
    savings = [money_of(offer.expected_saving).micros for offer in answer.offers]
    assert all(offer.recommended for offer in answer.offers)
    assert len(savings) >= 3
    assert sorted(savings, reverse=True) == savings
    assert len(set(savings)) == len(savings)
    in_order = [offer.product_id for offer in answer.offers]
    for wanted in (1, 2):
        some = (await ask(client, "owl", max_offers=wanted)).offers
        assert in_order[:wanted] == [offer.product_id for offer in some]


async def test_what_cannot_be_bought_is_not_offered(fresh_service: Service) -> None:
    """Stock, personal limit and ownership are applied before the offer (Voucherify's scenario)."""
    client = fresh_service.client
    await set_tariff(client)
    await create(client, "scarce", stock=1)
    await create(
        client,
        "once",
        personal_limit={"max_purchases": 1},
        price="59.00 NOK",
        # Another pass on top of the first saves something yet.
        benefit={"energy_price_per_kwh": "1.00"},
        validity={"days": 31},
    )
    for user in ("alice", "bob"):
        await habit(client, user)

    async def offered(user: str) -> set[str]:
        return {offer.product_id for offer in (await ask(client, user, max_offers=20)).offers}

    assert {"scarce", "once"} == await offered("alice") == await offered("bob")
    await buy(client, await offer_for(client, "alice", "scarce"))
    await buy(client, await offer_for(client, "alice", "once"))
    assert set() == await offered("alice")
    assert {"once"} == await offered("bob")
    answer = await ask(client, "alice")
    assert EmptyReason.EMPTY_REASON_LIMITS_REACHED == answer.empty_reason


async def test_an_empty_catalogue_says_that_nothing_is_on_sale(fresh_service: Service) -> None:
    """The list is empty only with a reason."""
    answer = await ask(fresh_service.client, "alice")
    assert ([], EmptyReason.EMPTY_REASON_NOTHING_ON_SALE) == (
        list(answer.offers),
        answer.empty_reason,
    )


async def test_an_offer_ends_with_the_sale(fresh_service: Service) -> None:
    """expire_time is the earlier of the offer's lifetime and the end of the sale, to the
    millisecond: what is shown is what is signed."""
    client = fresh_service.client
    await set_tariff(client)
    end = (datetime.now(UTC) + timedelta(seconds=60)).replace(microsecond=123_999)
    await create(client, "p", default_offer=True, sale_end_time=end.isoformat())
    await create(client, "q", default_offer=True, validity={"days": 31})
    await habit(client, "alice")
    offers = {offer.product_id: offer for offer in (await ask(client, "alice")).offers}
    expire = {name: instant_of(offer.expire_time) for name, offer in offers.items()}
    assert end.replace(microsecond=123_000) == expire["p"]
    assert expire["q"] > end
    assert 0 == expire["q"].microsecond % 1000
    signer = OfferSigner({1: KEY_1}, 1)
    signed = {name: signer.read(offer.offer_id).terms for name, offer in offers.items()}
    assert expire == {name: terms.expire_time for name, terms in signed.items()}


async def test_a_vehicle_alone_sends_both_signals(fresh_service: Service) -> None:
    """The gateway knows the vehicle; the user is found, and owns the pass."""
    client = fresh_service.client
    await _catalogue(client)
    await habit(client, "alice")
    user = User(user_id="alice", time_zone="Europe/Oslo", currency_code="NOK")
    await client.call(client.user.UpsertUser, UpsertUserRequest(user=user))
    car = Vehicle(vehicle_id="car-1", user_id="alice")
    await client.call(client.user.RegisterVehicle, RegisterVehicleRequest(vehicle=car))
    answer = await client.request_offers(vehicle_id="car-1")
    assert "alice" == answer.user_id
    bought = await buy(client, answer.offers[0], vehicle_id="car-1")
    assert ("alice", "Europe/Oslo") == (bought.user_id, bought.time_zone)
    assert "VEHICLE_NOT_FOUND" == await outcome(client.request_offers(vehicle_id="car-2"))
    foreign = client.request_offers(user_id="bob", vehicle_id="car-1")
    assert "VEHICLE_USER_MISMATCH" == await outcome(foreign)


async def test_a_pass_for_drones_is_not_offered_to_a_car(fresh_service: Service) -> None:
    """Selectors on the vehicle are judged by what the request or the registry says."""
    client = fresh_service.client
    await set_tariff(client)
    await create(client, "drone", conditions={"vehicle_types": ["DRONE"]})
    await habit(client, "alice")
    assert [] == list((await ask(client, "alice")).offers)
    car = VehicleProfile(type=VehicleType.VEHICLE_TYPE_CAR)
    assert [] == list((await ask(client, "alice", vehicle=car)).offers)
    drone = VehicleProfile(type=VehicleType.VEHICLE_TYPE_DRONE)
    offered = (await ask(client, "alice", vehicle=drone)).offers
    assert ["drone"] == [offer.product_id for offer in offered]


async def test_an_update_is_offered_by_the_next_request_and_soon_on_every_server(
    fresh_database: str,
) -> None:
    """The server that was told shows it from its answer on; the others read it beside their
    calls."""
    async with serving(fresh_database) as one, serving(fresh_database) as two:
        await _catalogue(one.client)
        await habit(one.client, "owl")

        async def offered(service: Service) -> tuple[str, int, int]:
            offers = (await ask(service.client, "owl")).offers
            first = offers[0] if offers else Offer()
            return first.product_id, first.product_revision, first.price.units

        async def is_on_two(*wanted: object) -> bool:
            return wanted == await offered(two)

        assert ("night", 1, 49) == await offered(one)
        await until(lambda: is_on_two("night", 1, 49))
        dearer = product("night", conditions=NIGHT, price="99.00 NOK")
        dearer.etag = (await get_product(one.client, "night")).etag
        update = UpdateProductRequest(product=dearer)
        await one.client.call(one.client.catalogue.UpdateProduct, update)
        assert ("night", 2, 99) == await offered(one)
        await until(lambda: is_on_two("night", 2, 99))


async def test_an_unknown_location_is_refused_and_a_missing_currency_is_named(
    fresh_service: Service,
) -> None:
    """Clear errors where a request cannot be answered."""
    client = fresh_service.client
    nowhere = Place(
        location=LocationReference(country_code="NO", party_id="TST", location_id="NOWHERE")
    )
    assert "LOCATION_NOT_FOUND" == await outcome(ask(client, "alice", place=nowhere))
    with pytest.raises(CallFailed) as refused:
        await client.request_offers(user_id="alice")
    assert ["currency_code"] == list(refused.value.violations)


async def test_a_tariff_that_has_ended_prices_nothing_and_one_without_vat_what_it_states(
    fresh_database: str,
) -> None:
    """The answer says what has no price instead of guessing; a tax that nobody states is none."""
    async with serving(fresh_database, vat_rates="") as service:
        client = service.client
        await set_tariff(client)
        await create(client, "p", default_offer=True)
        await habit(client, "alice")
        tariff = (await client.call(client.location.ListTariffs, ListTariffsRequest())).tariffs[0]
        tariff.elements[0].price_components[0].ClearField("vat_basis_points")
        await client.call(client.location.UpsertTariffs, UpsertTariffsRequest(tariffs=[tariff]))
        price = (await ask(client, "alice")).pay_as_you_go.price_per_kwh
        stated_micros = tariff.elements[0].price_components[0].price_micros
        assert stated_micros == price.units * 1_000_000 + price.nanos // 1_000
        tariff.end_time.FromDatetime(datetime.now(UTC) - timedelta(days=1))
        await client.call(client.location.UpsertTariffs, UpsertTariffsRequest(tariffs=[tariff]))
        answer = await ask(client, "alice")
        assert 1.0 == answer.pay_as_you_go.unpriced_share
        assert [OfferReasonCode.OFFER_REASON_CODE_PRICE_UNKNOWN] == [
            r.code for r in answer.offers[0].reasons
        ]


async def test_many_requests_at_once_are_each_answered_for_their_own_user(
    fresh_service: Service,
) -> None:
    """Batches do not mix users up."""
    client = fresh_service.client
    await _catalogue(client)
    await asyncio.gather(*(habit(client, f"user-{n}", energy_wh=1000 * (n + 1)) for n in range(20)))
    users = [f"user-{n % 20}" for n in range(200)]
    answers = await asyncio.gather(*(ask(client, user) for user in users))
    assert users == [answer.user_id for answer in answers]
    energies = [a.pay_as_you_go.energy_wh_per_30_days for a in answers]
    alone = [await ask(client, f"user-{n}") for n in range(20)]
    expected = [alone[n % 20].pay_as_you_go.energy_wh_per_30_days for n in range(200)]
    assert 20 == len(set(expected))
    assert expected == pytest.approx(energies, rel=0.001)


# Clearly different habits: a daytime user, a night owl, a daily commuter, one who
# hardly charges, and one with many sessions of which half are at night.
REAL_USERS = ("OSL_S_KT164", "OSL_S_KT162", "OSL_S_KT76", "OSL_1_S-plassUS", "OSL_S_KT49")


async def test_real_users_of_different_habits_get_different_first_offers(
    fresh_service: Service, shared_data: Path
) -> None:
    """Five Norwegian users: at least three first offers, each reason quoting its figure."""
    client = fresh_service.client
    await load_demo(client, datetime.now(UTC))
    path = shared_data / "norway_residential_sessions.csv"
    for batch in SessionFile(path, time_zone="Europe/Oslo", country_code="NO").batches():
        await client.record_sessions([batch.sessions])
    firsts = set()
    for user in REAL_USERS:
        offer = (await ask(client, user)).offers[0]
        firsts.add(offer.product_id)
        for reason in offer.reasons:
            quoted = [f"{figure.value:.0f}" for figure in reason.figures]
            quoted += [f"{figure.value * 100:.0f}%" for figure in reason.figures]
            quoted += [f"{figure.value:.2f}" for figure in reason.figures]
            assert any(number in reason.text.replace(",", "") for number in quoted)
    assert len(firsts) >= 3
