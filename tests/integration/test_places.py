"""Locations and tariffs: replaced as a whole, each with its own verdict, seen at once by offers."""

import asyncio
from typing import Any

import grpc
import pytest

from tests.conftest import Service
from tests.integration.requests import location, tariff
from tests.integration.shop import create, habit, outcome, set_tariff
from voucher_grpc.client import CallFailed, Client
from voucher_grpc.v1.conditions_pb2 import LocationReference
from voucher_grpc.v1.location_service_pb2 import (
    GetLocationRequest,
    GetTariffRequest,
    ListLocationsRequest,
    ListTariffsRequest,
    Location,
    PriceDimension,
    Tariff,
    UpsertLocationsRequest,
    UpsertTariffsRequest,
)


async def put_locations(client: Client, *locations: Location) -> list[int]:
    """The code of each verdict."""
    request = UpsertLocationsRequest(locations=locations)
    answer = await client.call(client.location.UpsertLocations, request)
    return [result.code for result in answer.results]


async def put_tariffs(client: Client, *tariffs: Tariff) -> list[int]:
    """The code of each verdict."""
    request = UpsertTariffsRequest(tariffs=tariffs)
    answer = await client.call(client.location.UpsertTariffs, request)
    return [result.code for result in answer.results]


async def get_location(client: Client, name: str) -> Location:
    request = GetLocationRequest(country_code="NO", party_id="OSL", location_id=name)
    found: Location = (await client.call(client.location.GetLocation, request)).location
    return found


async def get_tariff(client: Client, name: str, country: str = "NO") -> Tariff:
    request = GetTariffRequest(country_code=country, party_id="OSL", tariff_id=name)
    found: Tariff = (await client.call(client.location.GetTariff, request)).tariff
    return found


def default_tariff(name: str, net_units: int, country: str = "NO", currency: str = "NOK") -> Tariff:
    """A default with one price, 25 % VAT on top."""
    made = tariff(name)
    made.country_code, made.currency_code, made.default_for_country = country, currency, True
    del made.elements[1:]
    made.elements[0].ClearField("restrictions")
    made.elements[0].price_components[0].price_micros = net_units * 1_000_000
    made.ClearField("min_price_micros")
    made.ClearField("max_price_micros")
    return made


async def price_of(service: Service, user_id: str, **more: Any) -> int:
    """What a kWh costs a user without a pass, in micro-units."""
    answer = await service.client.request_offers(user_id=user_id, currency_code="NOK", **more)
    price = answer.pay_as_you_go.price_per_kwh
    return int(price.units * 1_000_000 + price.nanos // 1000)


async def test_a_location_is_kept_as_it_was_sent_and_replaced_as_a_whole(
    shared_service: Service, unique: str
) -> None:
    """What is not sent again is gone."""
    client = shared_service.client
    sent = location(unique)
    for expected in (
        sent,
        Location(country_code="NO", party_id="OSL", location_id=unique, time_zone="UTC"),
    ):
        assert [0] == await put_locations(client, expected)
        found = await get_location(client, unique)
        assert found.HasField("update_time")
        found.ClearField("update_time")
        assert expected == found


async def test_a_tariff_is_kept_as_it_was_sent_and_replaced_as_a_whole(
    shared_service: Service, unique: str
) -> None:
    """Zeros and unset VAT included."""
    client = shared_service.client
    bare = tariff(unique)
    bare.ClearField("min_price_micros")
    component = bare.elements[0].price_components[0]
    component.ClearField("vat_basis_points")
    component.price_micros = component.step_size = 0
    bare.elements[0].restrictions.Clear()
    bare.elements[0].restrictions.min_energy_wh = 0
    for expected in (tariff(unique), bare):
        assert [0] == await put_tariffs(client, expected)
        found = await get_tariff(client, unique)
        found.ClearField("update_time")
        assert expected == found


async def test_each_entry_has_its_own_verdict(shared_service: Service, unique: str) -> None:
    """In order; the good ones are stored."""
    client = shared_service.client
    sent = [location(f"{unique}-{n}") for n in range(5)]
    sent[1].time_zone = "Oslo"
    sent[3].party_id = ""
    bad = grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert [0, bad, 0, bad, 0] == await put_locations(client, *sent)
    stored = [await outcome(get_location(client, f"{unique}-{n}")) for n in (0, 1, 2, 4)]
    assert [False, True, False, False] == [found == "LOCATION_NOT_FOUND" for found in stored]


async def test_500_entries_are_taken_and_501_refused(shared_service: Service, unique: str) -> None:
    """The bound of one call."""
    client = shared_service.client
    sent = [location(f"{unique}-{n}") for n in range(501)]
    assert [0] * 500 == await put_locations(client, *sent[:500])
    with pytest.raises(CallFailed) as failed:
        await put_locations(client, *sent)
    assert {"locations"} == set(failed.value.violations)


async def test_the_last_of_two_in_one_call_counts(shared_service: Service, unique: str) -> None:
    """As if they had come one after the other."""
    first, second = location(unique), location(unique)
    first.name, second.name = "first", "second"
    await put_locations(shared_service.client, first, second)
    assert "second" == (await get_location(shared_service.client, unique)).name


async def test_all_pages_together_are_all_entries_once(fresh_service: Service) -> None:
    """By country, party and id, of a country or an operator if they are given."""
    client = fresh_service.client
    keys = [(c, p, f"{n:02d}") for c in ("NO", "SE") for p in ("ABC", "OSL") for n in range(6)]
    places, tariffs = [], []
    for country, party, name in reversed(keys):
        place, price = location(name), tariff(name)
        place.country_code = price.country_code = country
        place.party_id = price.party_id = party
        places.append(place)
        tariffs.append(price)
    assert {0} == {*await put_locations(client, *places), *await put_tariffs(client, *tariffs)}

    async def pages(kind: str, size: int, **of: str) -> list[tuple[str, str, str]]:
        found, token = [], ""
        while True:
            page: Any = {"page_size": size, "page_token": token, **of}
            if kind == "locations":
                answer = await client.call(
                    client.location.ListLocations, ListLocationsRequest(**page)
                )
                entries = [(e.country_code, e.party_id, e.location_id) for e in answer.locations]
            else:
                answer = await client.call(client.location.ListTariffs, ListTariffsRequest(**page))
                entries = [(e.country_code, e.party_id, e.tariff_id) for e in answer.tariffs]
            assert 0 < len(entries) <= size
            found += entries
            token = answer.next_page_token
            if not token:
                return found

    for kind in ("locations", "tariffs"):
        for size in (1, 6, 12, 24, 1000):
            assert keys == await pages(kind, size)
        assert keys[12:] == await pages(kind, 5, country_code="SE")
        assert keys[6:12] == await pages(kind, 4, country_code="NO", party_id="OSL")


async def test_a_default_takes_over_from_the_one_before(fresh_service: Service) -> None:
    """One for each country and currency; the price of offers follows at once."""
    client = fresh_service.client
    await create(client, "basic", default_offer=True)
    await habit(client, "alice", location_id="NOWHERE")
    await put_tariffs(client, default_tariff("one", 4))
    assert 5_000_000 == await price_of(fresh_service, "alice")
    await put_tariffs(client, default_tariff("two", 8))
    assert 10_000_000 == await price_of(fresh_service, "alice")
    flags = [(await get_tariff(client, name)).default_for_country for name in ("one", "two")]
    assert [False, True] == flags
    await put_tariffs(
        client, default_tariff("three", 1, "SE"), default_tariff("four", 1, currency="EUR")
    )
    assert (await get_tariff(client, "two")).default_for_country
    gone = default_tariff("two", 8)
    gone.default_for_country = False
    await put_tariffs(client, gone)
    assert 0 == await price_of(fresh_service, "alice")


async def test_of_defaults_at_once_one_is_left(fresh_service: Service) -> None:
    """Whoever came last."""
    client = fresh_service.client
    made = await asyncio.gather(
        *(put_tariffs(client, default_tariff(f"t{n}", n)) for n in range(1, 11))
    )
    assert [[0]] * 10 == made
    flags = [(await get_tariff(client, f"t{n}")).default_for_country for n in range(1, 11)]
    assert 1 == sum(flags)


async def test_a_connectors_own_tariff_counts_before_the_default(fresh_service: Service) -> None:
    """As soon as the location is known, and no longer when it names it no more."""
    client = fresh_service.client
    await set_tariff(client)
    await create(client, "basic", default_offer=True)
    own = default_tariff("own", 2)
    own.default_for_country = False
    own.party_id = "TST"
    await put_tariffs(client, own)
    await habit(client, "alice", location_id="HOME")
    assert 5_000_000 == await price_of(fresh_service, "alice")
    place = location("HOME")
    place.party_id = "TST"
    place.evses[0].connectors[0].tariff_ids[:] = ["own"]
    await put_locations(client, place)
    assert 2_500_000 == await price_of(fresh_service, "alice")
    place.evses[0].connectors[0].ClearField("tariff_ids")
    await put_locations(client, place)
    assert 5_000_000 == await price_of(fresh_service, "alice")


async def test_offers_at_a_location_know_its_parts(shared_service: Service, unique: str) -> None:
    """The location, its EVSE and its connector; others are not found, also right after a change."""
    client = shared_service.client

    async def ask(**parts: str) -> Any:
        place = LocationReference(country_code="NO", party_id="OSL", location_id=unique, **parts)
        return await outcome(
            client.request_offers(user_id=unique, location=place, currency_code="NOK")
        )

    assert "LOCATION_NOT_FOUND" == await ask()
    await put_locations(client, location(unique))
    for parts in ({}, {"evse_uid": "1"}, {"evse_uid": "1", "connector_id": "1"}):
        assert unique == (await ask(**parts)).user_id
    for parts in ({"evse_uid": "2"}, {"evse_uid": "1", "connector_id": "2"}):
        assert "LOCATION_NOT_FOUND" == await ask(**parts)


async def test_each_dimension_is_kept(shared_service: Service, unique: str) -> None:
    """Energy, flat, parking and time."""
    sent = tariff(unique)
    kinds = [PriceDimension.Value(name) for name in PriceDimension.keys()[1:]]
    for kind in kinds[1:]:
        component = sent.elements[0].price_components.add()
        component.dimension = kind
    assert [0] == await put_tariffs(shared_service.client, sent)
    found = await get_tariff(shared_service.client, unique)
    assert kinds == [c.dimension for c in found.elements[0].price_components]
