"""Offers for many users in one call or one stream, and why products are offered or not."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2 as details

from tests.conftest import Service
from tests.integration.shop import buy, create, habit, offer_for, set_tariff
from voucher_grpc.client import Client
from voucher_grpc.v1 import voucher_service_pb2 as pb
from voucher_grpc.v1.conditions_pb2 import VehicleType
from voucher_grpc.v1.vehicle_pb2 import VehicleProfile

OK, INVALID_ARGUMENT, NOT_FOUND = 0, 3, 5


def wanted(user_id: str = "", **fields: Any) -> pb.RequestOffersRequest:
    return pb.RequestOffersRequest(user_id=user_id, **{"currency_code": "NOK", **fields})


def reason(result: pb.OffersResult) -> str:
    """The reason of a refusal, "OK" for offers."""
    if result.HasField("response"):
        return "OK"
    return str(details.ErrorInfo.FromString(result.status.details[0].value).reason)


async def shop(client: Client) -> None:
    """A tariff, a product that pays, and users who charge 1, 2 and 3 times 10 kWh a night."""
    await set_tariff(client)
    await create(client, "month", default_offer=True)
    await asyncio.gather(
        *(habit(client, f"user-{n}", energy_wh=10_000 * (n + 1)) for n in range(3))
    )


def without_signature(response: pb.RequestOffersResponse) -> pb.RequestOffersResponse:
    """What two answers to the same request have in common, to the kWh and the unit of money."""
    kept = pb.RequestOffersResponse(user_id=response.user_id)
    for offer in response.offers:
        kept.offers.add(product_id=offer.product_id, recommended=offer.recommended).price.CopyFrom(
            offer.price
        )
    return kept


async def test_each_request_of_a_batch_has_its_own_result_in_order(fresh_service: Service) -> None:
    """Good ones are answered as alone; bad ones have the status they would have had."""
    client = fresh_service.client
    await shop(client)
    place = pb.Place()
    place.location.country_code, place.location.party_id = "NO", "XXX"
    place.location.location_id = "nowhere"
    requests = [
        wanted("user-2"),
        wanted(),
        wanted("user-0"),
        wanted(vehicle_id="unregistered"),
        wanted("user-1", place=place),
        wanted("nobody"),
        wanted("user-2", max_offers=21),
    ]
    request = pb.BatchRequestOffersRequest(requests=requests)
    results = (await client.call(client.voucher.BatchRequestOffers, request)).results
    assert [
        "OK",
        "INVALID_FIELD",
        "OK",
        "VEHICLE_NOT_FOUND",
        "LOCATION_NOT_FOUND",
        "OK",
        "INVALID_FIELD",
    ] == [reason(result) for result in results]
    assert [INVALID_ARGUMENT, NOT_FOUND, NOT_FOUND, INVALID_ARGUMENT] == [
        result.status.code for result in results if result.HasField("status")
    ]
    for number in (0, 2, 5):
        alone = await client.call(client.voucher.RequestOffers, requests[number])
        assert without_signature(alone) == without_signature(results[number].response)


async def test_a_batch_may_have_500_requests(fresh_service: Service) -> None:
    """Each for its own user."""
    client = fresh_service.client
    await shop(client)
    users = [f"user-{n % 3}" for n in range(500)]
    request = pb.BatchRequestOffersRequest(requests=[wanted(user) for user in users])
    results = (await client.call(client.voucher.BatchRequestOffers, request)).results
    assert users == [result.response.user_id for result in results]
    assert all(result.response.offers[0].recommended for result in results)


async def test_an_offer_of_a_batch_can_be_bought(fresh_service: Service) -> None:
    """It is signed like any other."""
    client = fresh_service.client
    await shop(client)
    request = pb.BatchRequestOffersRequest(requests=[wanted("user-0")])
    [result] = (await client.call(client.voucher.BatchRequestOffers, request)).results
    assert "month" == (await buy(client, result.response.offers[0])).product_id


async def test_a_stream_answers_each_tag_and_survives_bad_requests(fresh_service: Service) -> None:
    """In any order; a bad request has its status, the rest their offers."""
    client = fresh_service.client
    await shop(client)

    async def requests() -> AsyncIterator[pb.StreamOffersRequest]:
        for n in range(300):
            user = "" if n % 10 == 7 else f"user-{n % 3}"
            yield pb.StreamOffersRequest(tag=f"tag-{n}", request=wanted(user))
        yield pb.StreamOffersRequest(tag="x" * 65, request=wanted("user-0"))
        yield pb.StreamOffersRequest(request=wanted("user-0"))

    answers = {a.tag: a.result async for a in client.voucher.StreamOffers(requests())}
    assert 302 == len(answers)
    assert "INVALID_FIELD" == reason(answers.pop("x" * 64))
    assert "INVALID_FIELD" == reason(answers.pop(""))
    for tag, result in answers.items():
        n = int(tag.removeprefix("tag-"))
        if n % 10 == 7:
            assert "INVALID_FIELD" == reason(result)
        else:
            assert f"user-{n % 3}" == result.response.user_id


async def test_a_caller_that_does_not_read_is_held_back(fresh_service: Service) -> None:
    """Requests stay with the caller once a bounded number is under way."""
    client = fresh_service.client
    await shop(client)
    request = pb.StreamOffersRequest(tag="tag", request=wanted("user-0"))
    # A field that nobody knows makes it large, so that the transport's buffers are soon full.
    large = request.SerializeToString() + b"\x9a\x06\xd0\x86\x03" + bytes(50_000)
    sent = 0

    async def write(call: Any) -> None:
        nonlocal sent
        while True:
            await call.write(large)
            sent += 1

    async with grpc.aio.insecure_channel(fresh_service.target) as channel:
        call: Any = channel.stream_stream("/voucher_grpc.v1.VoucherService/StreamOffers")()
        writing = asyncio.create_task(write(call))
        before = -1
        for _ in range(60):
            if before == sent > 0:
                break
            before = sent
            await asyncio.sleep(0.5)
        assert before == sent > 0
        writing.cancel()
        call.cancel()


async def test_bytes_that_are_no_message_end_a_stream_after_what_came_before(
    fresh_service: Service,
) -> None:
    """What was taken is answered first."""
    await shop(fresh_service.client)
    good = pb.StreamOffersRequest(tag="good", request=wanted("user-0")).SerializeToString()

    async def raw() -> AsyncIterator[bytes]:
        yield good
        yield b"\xff\xff"

    async with grpc.aio.insecure_channel(fresh_service.target) as channel:
        method: Any = channel.stream_stream("/voucher_grpc.v1.VoucherService/StreamOffers")
        call = method(raw())
        first = pb.StreamOffersResponse.FromString(await call.read())
        assert ("good", grpc.StatusCode.INVALID_ARGUMENT) == (first.tag, await call.code())


async def explained(
    client: Client, request: pb.RequestOffersRequest, **page: Any
) -> dict[str, pb.OfferExplanation]:
    asked = pb.ExplainOffersRequest(request=request, **page)
    answer = await client.call(client.voucher.ExplainOffers, asked)
    return {e.product_id: e for e in answer.explanations}


def verdicts(explanations: dict[str, pb.OfferExplanation]) -> dict[str, str]:
    names = pb.OfferVerdict.DESCRIPTOR.values_by_number
    return {
        product_id: names[e.verdict].name.removeprefix("OFFER_VERDICT_")
        for product_id, e in explanations.items()
    }


async def test_each_product_has_its_verdict(fresh_service: Service) -> None:
    """One product for each way not to be offered."""
    client = fresh_service.client
    await set_tariff(client)
    await habit(client, "owl")
    await create(client, "best")
    await create(client, "smaller", price="59.00 NOK")
    await create(client, "second", price="59.00 NOK", validity={"days": 31})
    # Twenty kWh are surely used, a hundred times as much is a gamble; at which of these prices
    # goes by the season.
    gambles = {f"gamble-{units}" for units in range(1250, 1625, 25)}
    for name in gambles:
        price = f"{name.removeprefix('gamble-')}.00 NOK"
        await create(client, name, price=price, benefit={"energy_bundle_kwh": 2000})
    await create(client, "dear", price="9000.00 NOK")
    await create(client, "later", sale_start_time="2099-01-01T00:00:00Z")
    await create(client, "sold", stock=1, validity={"days": 29})
    # Small ones, so that who has them has use for others.
    small = {"price": "1.00 NOK", "benefit": {"energy_bundle_kwh": 1}}
    await create(client, "limited", personal_limit={"max_purchases": 1}, **small)
    await create(client, "owned", **small, validity={"days": 28})
    await create(client, "drones", conditions={"vehicle_types": ["DRONE"]})
    await create(client, "abroad", conditions={"parties": ["SE*ABC"]})
    await habit(client, "other")
    await buy(client, await offer_for(client, "other", "sold"))
    await buy(client, await offer_for(client, "owl", "owned"))
    await buy(client, await offer_for(client, "owl", "limited"))
    car = VehicleProfile(type=VehicleType.VEHICLE_TYPE_CAR)
    found = await explained(client, wanted("owl", vehicle=car, max_offers=1))
    told = verdicts(found)
    assert "RISK_TOO_HIGH" in {told.pop(name) for name in gambles}
    assert {
        "abroad": "NO_COVERED_CHARGING",
        "best": "OFFERED",
        "dear": "DOES_NOT_PAY",
        "drones": "VEHICLE_NOT_ALLOWED",
        "later": "NOT_ON_SALE",
        "limited": "PERSONAL_LIMIT_REACHED",
        "owned": "ALREADY_OWNED",
        "second": "BETTER_OFFERS",
        "smaller": "BETTER_SIZE_OFFERED",
        "sold": "SOLD_OUT",
    } == told
    best, smaller = found["best"], found["smaller"]
    assert 10 == best.expected_saving.units - smaller.expected_saving.units
    shares = (best.hours_share, best.places_share, best.harm_probability)
    assert (1.0, 1.0, 0.0) == pytest.approx(shares)
    assert 0 == found["abroad"].covered_energy_wh == found["abroad"].places_share


async def test_without_a_price_at_the_users_places_nothing_can_be_judged(
    fresh_service: Service,
) -> None:
    """There is a tariff in NOK, the product is sold in EUR."""
    client = fresh_service.client
    await set_tariff(client)
    await habit(client, "owl")
    await create(client, "euros", price="5.00 EUR")
    found = await explained(client, wanted("owl", currency_code="EUR"))
    assert {"euros": "PRICE_UNKNOWN"} == verdicts(found)
    assert not found["euros"].HasField("expected_saving")


async def test_an_unknown_user_is_explained_as_such(fresh_service: Service) -> None:
    """The default is offered, of the others nothing can be said."""
    client = fresh_service.client
    await set_tariff(client)
    await create(client, "basic", default_offer=True)
    await create(client, "other")
    found = await explained(client, wanted("nobody"))
    assert {"basic": "OFFERED", "other": "USER_UNKNOWN"} == verdicts(found)
    assert not found["other"].HasField("expected_saving")


async def test_explanations_come_in_pages(fresh_service: Service) -> None:
    """In the order of the catalogue, each once; a token is good for its request only."""
    client = fresh_service.client
    await set_tariff(client)
    for n in range(7):
        await create(client, f"p{n}")
    seen, token = [], ""
    while True:
        request = pb.ExplainOffersRequest(request=wanted("nobody"), page_size=3, page_token=token)
        page = await client.call(client.voucher.ExplainOffers, request)
        seen += [e.product_id for e in page.explanations]
        token = page.next_page_token or ""
        if not token:
            break
        last = token
    assert [f"p{n}" for n in range(7)] == seen
    with pytest.raises(Exception, match="page_token"):
        await explained(client, wanted("other"), page_token=last)
