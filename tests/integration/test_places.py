"""Locations and tariffs: replaced as a whole, each with its own verdict, seen at once by offers."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import asyncpg
import grpc
import pytest
from google.rpc import error_details_pb2

from tests.conftest import Service, serving
from tests.integration.operating import PATIENCE_S
from tests.integration.requests import location, tariff
from tests.integration.shop import (
    buy,
    create,
    fetch,
    habit,
    outcome,
    product,
    sessions,
    set_tariff,
    signed_offer,
    until_waiting,
)
from voucher_grpc.client import CallFailed, Client
from voucher_grpc.store.database import Database
from voucher_grpc.store.driver import DatabaseOptions
from voucher_grpc.store.location_cache import LocationCache
from voucher_grpc.store.versions import Version
from voucher_grpc.v1.catalogue_service_pb2 import UpdateProductRequest
from voucher_grpc.v1.conditions_pb2 import LocationReference
from voucher_grpc.v1.location_service_pb2 import (
    DeleteLocationsRequest,
    DeleteTariffsRequest,
    DeleteTariffsResponse,
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


async def version_of(service: Service, name: str) -> int:
    """The version of "catalogue" or "locations", by which servers see that they read anew."""
    (row,) = await fetch(service.database_url, "SELECT version FROM versions WHERE name = $1", name)
    return int(row["version"])


async def catalogue_version(service: Service) -> int:
    return await version_of(service, "catalogue")


async def test_locations_that_are_sent_again_as_they_were_are_not_read_anew(
    fresh_service: Service,
) -> None:
    """Each server would else forget all the locations that it has at hand, each night."""
    client = fresh_service.client
    sent = [location(name) for name in ("b", "a", "c")]
    await put_locations(client, *sent)
    version = await version_of(fresh_service, "locations")
    before = await get_location(client, "a")
    await put_locations(client, *sent)
    assert version == await version_of(fresh_service, "locations")
    assert before == await get_location(client, "a")

    moved = location("a")
    moved.time_zone = "Europe/Berlin"
    await put_locations(client, *sent[:1], moved)
    assert version + 1 == await version_of(fresh_service, "locations")
    assert "Europe/Berlin" == (await get_location(client, "a")).time_zone


async def test_tariffs_that_are_sent_again_as_they_were_are_not_read_anew(
    fresh_service: Service,
) -> None:
    """Operators send all they have each night; a new version makes every server load the whole
    catalogue, while requests for offers wait."""
    client = fresh_service.client
    sent = [default_tariff("one", 4), tariff("two")]
    await put_tariffs(client, *sent)
    version = await catalogue_version(fresh_service)
    before = await get_tariff(client, "one")
    await put_tariffs(client, *sent)
    assert version == await catalogue_version(fresh_service)
    assert before == await get_tariff(client, "one")

    dearer = default_tariff("one", 5)
    for changes in ([dearer], [tariff("three")], [default_tariff("two", 4)]):
        await put_tariffs(client, *changes)
        version += 1
        assert version == await catalogue_version(fresh_service)
    # The default that was lost, by a tariff that has it as it had it before.
    await put_tariffs(client, dearer)
    assert version + 1 == await catalogue_version(fresh_service)
    assert not (await get_tariff(client, "two")).default_for_country


async def test_defaults_of_one_call_count_in_their_order(fresh_service: Service) -> None:
    """As if they had come one after the other, also a tariff that comes twice."""
    client = fresh_service.client

    async def flags() -> list[bool]:
        return [(await get_tariff(client, name)).default_for_country for name in ("a", "b")]

    a, b = default_tariff("a", 1), default_tariff("b", 2)
    await put_tariffs(client, a, b)
    assert [False, True] == await flags()
    await put_tariffs(client, b, a)
    assert [True, False] == await flags()
    plain = default_tariff("b", 2)
    plain.default_for_country = False
    await put_tariffs(client, a, b, plain)
    assert [False, False] == await flags()
    await put_tariffs(client, b, a, default_tariff("a", 3, currency="EUR"))
    assert [True, False] == await flags()


async def test_a_purchase_does_not_wait_for_tariffs_that_are_slow_to_write(
    fresh_service: Service,
) -> None:
    """Nor when the product is changed meanwhile: whoever changes the catalogue waits for the
    others before a stock is locked."""
    client = fresh_service.client
    sold = await create(client, "sold", stock=3)
    slow = await asyncpg.connect(fresh_service.database_url)
    try:
        async with slow.transaction():
            await slow.execute("UPDATE versions SET version = version + 1 WHERE name = 'catalogue'")
            changed = product("sold", stock=5)
            changed.etag = sold.etag
            changing = asyncio.create_task(
                client.call(client.catalogue.UpdateProduct, UpdateProductRequest(product=changed))
            )
            await until_waiting(fresh_service.database_url)
            # The slow one goes on for as long as this takes.
            async with asyncio.timeout(PATIENCE_S):
                bought = await buy(client, signed_offer(sold, "alice"))
            assert "sold" == bought.product_id
            assert not changing.done()
        assert 2 == (await changing).product.revision
    finally:
        await slow.close()


# More of the tariff that is there, as if they had come in forty calls.
MANY_TARIFFS = """
INSERT INTO tariffs (country_code, party_id, tariff_id, currency_code, default_for_country,
    components, document, update_time, change_version)
SELECT country_code, party_id, 'T' || n, currency_code, false, components,
    jsonb_set(document, '{id}', to_jsonb('T' || n)), update_time, change_version
FROM tariffs CROSS JOIN generate_series(1, $1) AS n WHERE tariff_id = '0000'
"""


async def test_a_party_has_at_most_20000_tariffs(fresh_service: Service) -> None:
    """All of them are in every server's catalogue. Those it has can be replaced; the others of
    the call are stored."""
    client = fresh_service.client
    assert [0] == await put_tariffs(client, tariff("0000"))
    connection = await asyncpg.connect(fresh_service.database_url)
    try:
        await connection.execute(MANY_TARIFFS, 19_998)
    finally:
        await connection.close()
    foreign = tariff("foreign")
    foreign.party_id = "TST"
    changed = default_tariff("T7", 9)
    last, too_many = tariff("last"), default_tariff("too-many", 1)
    request = UpsertTariffsRequest(tariffs=[last, too_many, foreign, changed, too_many])
    results = (await client.call(client.location.UpsertTariffs, request)).results
    assert [False, True, False, False, True] == [result.code != 0 for result in results]
    bad = error_details_pb2.BadRequest()
    assert any(packed.Unpack(bad) for packed in results[1].details)
    (violation,) = bad.field_violations
    assert "tariffs[1].party_id" == violation.field
    assert "must have at most 20000 tariffs" == violation.description
    assert "TARIFF_NOT_FOUND" == await outcome(get_tariff(client, "too-many"))
    assert (await get_tariff(client, "T7")).default_for_country


OTHER_PARTIES = """
INSERT INTO tariffs (country_code, party_id, tariff_id, currency_code, default_for_country,
    components, document, update_time, change_version)
SELECT country_code, 'P' || lpad((n % 10)::text, 2, '0'), 'T' || n, currency_code, false, $2,
    document, update_time, change_version
FROM tariffs CROSS JOIN generate_series(1, $1) AS n WHERE tariff_id = '0000'
"""


@pytest.mark.parametrize(
    ("rows", "components", "field", "bound"),
    [
        (99_998, 1, "tariff_id", "100000"),
        (9_999, 100, "elements", "1000000 price components"),
    ],
)
async def test_all_parties_have_at_most_100000_tariffs(
    fresh_service: Service, rows: int, components: int, field: str, bound: str
) -> None:
    """With 1,000,000 price components; what is there can be replaced."""
    client = fresh_service.client
    assert [0] == await put_tariffs(client, tariff("0000"))
    connection = await asyncpg.connect(fresh_service.database_url)
    try:
        await connection.execute(OTHER_PARTIES, rows, components)
        free = 100 - 1 if components > 1 else 1
    finally:
        await connection.close()
    large = default_tariff("last", 1)
    while len(large.elements) < free:
        large.elements.append(large.elements[0])
    request = UpsertTariffsRequest(tariffs=[large, tariff("beyond"), tariff("0000")])
    results = (await client.call(client.location.UpsertTariffs, request)).results
    assert [False, True, False] == [result.code != 0 for result in results]
    bad = error_details_pb2.BadRequest()
    assert any(packed.Unpack(bad) for packed in results[1].details)
    (violation,) = bad.field_violations
    assert f"tariffs[1].{field}" == violation.field
    assert violation.description.endswith(f"to more than {bound}")


async def test_offers_take_no_connection_of_the_pool_for_places_they_have_not_met(
    fresh_database: str,
) -> None:
    """Slow calls that have all of them do not keep offers from going on."""
    async with serving(fresh_database, pool_size=1, connect_timeout_s=1.0) as service:
        client = service.client
        await create(client, "basic", default_offer=True)
        await habit(client, "alice", location_id="HOME")
        await put_locations(client, location("SHOP"))
        slow = await asyncpg.connect(fresh_database)
        try:
            async with slow.transaction():
                await slow.execute("UPDATE versions SET version = version WHERE name = 'locations'")
                putting = asyncio.create_task(put_locations(client, location("LATER")))
                await until_waiting(fresh_database)
                shop = LocationReference(country_code="NO", party_id="OSL", location_id="SHOP")
                answer = await client.request_offers(
                    user_id="alice", location=shop, currency_code="NOK"
                )
                assert "alice" == answer.user_id
                assert not putting.done()
            assert [0] == await putting
        finally:
            await slow.close()


def charging_hub(name: str, evses: int) -> Location:
    """A location with so many EVSEs of 20 connectors, each with a tariff."""
    hub = location(name)
    (evse,) = hub.evses
    for number in range(1, 20):
        evse.connectors.add().CopyFrom(evse.connectors[0])
        evse.connectors[number].connector_id = f"{number + 1}"
    for number in range(1, evses):
        hub.evses.add().CopyFrom(evse)
        hub.evses[number].evse_uid = f"{number + 1}"
    return hub


async def test_locations_are_kept_by_what_they_take_not_by_their_number(
    fresh_service: Service,
) -> None:
    """Few large ones would fill the memory; those that were used last stay."""
    small, hubs = [f"s{n}" for n in range(5)], [f"h{n}" for n in range(5)]
    for name in hubs:  # about half a megabyte each
        await put_locations(fresh_service.client, charging_hub(name, 400))
    await put_locations(fresh_service.client, *map(location, small))
    cache = LocationCache(max_weight=2 * 400 * 41 + 500)

    async def get(*names: str) -> set[str]:
        """Ask for some; which are at hand afterwards."""
        keys = [("NO", "OSL", name) for name in names]
        found = await dedicated.run(lambda connection: cache.get(connection, keys))
        assert [name for name in names if found["NO", "OSL", name]] == [*names]
        return {name for name in small + hubs if cache.last_known(("NO", "OSL", name))}

    options = DatabaseOptions(fresh_service.database_url, 1, 5.0, 10.0, 100)
    async with Database.open(options) as database:
        dedicated = database.dedicated(writes=False)
        try:
            assert {*small} == await get(*small)
            assert {*small, "h0", "h1"} == await get("h0", "h1")
            assert {*small, "h0", "h1"} == await get("h0", *small)
            assert {*small, "h0", "h2"} == await get("h2")
            assert 2 == len(await get(*hubs) & {*hubs})
            await dedicated.run(lambda connection: cache.refresh(connection, Version(2, 1)))
            assert {*small, "h3"} == await get("h3", *small)
        finally:
            await dedicated.close()


def changed_on(item: Any, day: int) -> Any:
    """An item that its operator changed on a day of November."""
    made = type(item)()
    made.CopyFrom(item)
    made.last_updated.FromDatetime(datetime(2026, 11, day, tzinfo=UTC))
    return made


@pytest.mark.parametrize("kind", ["location", "tariff"])
async def test_an_older_last_updated_never_replaces_a_newer_one(
    shared_service: Service, unique: str, kind: str
) -> None:
    """Across calls and within one; what does not say when it was changed replaces anything."""
    client = shared_service.client
    made = location(unique) if kind == "location" else tariff(unique)

    async def put(*items: Any) -> list[str]:
        if kind == "location":
            places = UpsertLocationsRequest(locations=items)
            answer: Any = await client.call(client.location.UpsertLocations, places)
        else:
            prices = UpsertTariffsRequest(tariffs=items)
            answer = await client.call(client.location.UpsertTariffs, prices)
        reasons = []
        for status in answer.results:
            info = error_details_pb2.ErrorInfo()
            reasons.append(info.reason if any(d.Unpack(info) for d in status.details) else "")
        return reasons

    async def stored() -> int:
        get = get_location if kind == "location" else get_tariff
        found = await get(client, unique)
        return found.last_updated.ToDatetime().day if found.HasField("last_updated") else 0

    assert ["", "OUTDATED"] == await put(changed_on(made, 10), changed_on(made, 9))
    assert 10 == await stored()
    assert ["OUTDATED"] == await put(changed_on(made, 9))
    assert ["OUTDATED", "", ""] == await put(*(changed_on(made, day) for day in (9, 10, 11)))
    assert 11 == await stored()
    assert ["", "OUTDATED"] == await put(made, changed_on(made, 5))
    assert 0 == await stored()
    assert [""] == await put(changed_on(made, 5))
    assert 5 == await stored()


async def delete_tariffs(client: Client, *ids: str, **more: Any) -> DeleteTariffsResponse:
    request = DeleteTariffsRequest(country_code="NO", party_id="OSL", tariff_ids=ids, **more)
    found: DeleteTariffsResponse = await client.call(client.location.DeleteTariffs, request)
    return found


async def test_a_deleted_tariff_prices_nothing_any_more(fresh_service: Service) -> None:
    """From the answer on; what is not there is left alone."""
    client = fresh_service.client
    await habit(client, "alice")
    await create(client, "basic")
    assert [0, 0] == await put_tariffs(client, default_tariff("one", 2), default_tariff("two", 4))
    assert 5_000_000 == await price_of(fresh_service, "alice")
    assert ["two"] == list((await delete_tariffs(client, "two", "none", "two")).tariff_ids)
    assert 0 == await price_of(fresh_service, "alice")
    assert "TARIFF_NOT_FOUND" == await outcome(get_tariff(client, "two"))
    assert "one" == (await get_tariff(client, "one")).tariff_id
    assert [] == list((await delete_tariffs(client, "two")).tariff_ids)
    assert [0] == await put_tariffs(client, default_tariff("two", 8))
    assert 10_000_000 == await price_of(fresh_service, "alice")


async def test_deleting_says_which_tariffs_connectors_still_name(fresh_service: Service) -> None:
    """If it is asked for."""
    client = fresh_service.client
    names = location("home")
    names.evses[0].connectors[0].tariff_ids[:] = ["b", "other", "c"]
    assert [0] == await put_locations(client, names)
    assert [0] * 4 == await put_tariffs(client, *(tariff(name) for name in "abcd"))
    assert [] == list((await delete_tariffs(client, "b")).still_named_ids)
    found = await delete_tariffs(client, "d", "c", "a", find_named=True)
    assert (["d", "c", "a"], ["c"]) == (list(found.tariff_ids), list(found.still_named_ids))


async def test_a_deleted_location_is_not_known_any_more(fresh_service: Service) -> None:
    """Also to offers, which had it cached; the others are as before."""
    client = fresh_service.client
    assert [0, 0] == await put_locations(client, location("home"), location("work"))
    place = LocationReference(country_code="NO", party_id="OSL", location_id="home")
    await habit(client, "alice")
    await create(client, "basic")
    await fresh_service.client.request_offers(user_id="alice", location=place, currency_code="NOK")
    request = DeleteLocationsRequest(
        country_code="NO", party_id="OSL", location_ids=["home", "none"]
    )
    answer = await client.call(client.location.DeleteLocations, request)
    assert ["home"] == list(answer.location_ids)
    assert "LOCATION_NOT_FOUND" == await outcome(get_location(client, "home"))
    assert "LOCATION_NOT_FOUND" == await outcome(
        fresh_service.client.request_offers(user_id="alice", location=place, currency_code="NOK")
    )
    assert "work" == (await get_location(client, "work")).location_id


async def test_ids_are_compared_without_regard_to_case(fresh_service: Service) -> None:
    """OCPI 2.2.1, 16.1 CiString: the place of the sessions, the tariff that its connector names,
    what is asked for, replaced and deleted; what was published last is shown."""
    client = fresh_service.client
    await create(client, "basic")
    place = location("Loc-A")
    place.evses[0].connectors[0].tariff_ids[:] = ["abc-DEF"]
    priced = default_tariff("ABC-def", 2)
    priced.default_for_country = False
    assert [0] == await put_locations(client, place)
    assert [0] == await put_tariffs(client, priced)
    sent = sessions("alice", location_id="LOC-a")
    for session in sent:
        session.location.party_id = "OSL"
    await client.record_sessions([sent])
    assert 2_500_000 == await price_of(fresh_service, "alice")
    assert "Loc-A" == (await get_location(client, "loc-a")).location_id
    assert "ABC-def" == (await get_tariff(client, "abc-def")).tariff_id
    at = LocationReference(country_code="NO", party_id="OSL", location_id="lOc-A", evse_uid="1")
    assert 2_500_000 == await price_of(fresh_service, "alice", location=at)
    rows = await fetch(fresh_service.database_url, "SELECT DISTINCT location_id FROM sessions")
    assert ["Loc-A"] == [row[0] for row in rows]

    place.location_id, priced.tariff_id = "LOC-A", "Abc-Def"
    priced.elements[0].price_components[0].price_micros = 4_000_000
    assert [0] == await put_locations(client, place)
    assert [0] == await put_tariffs(client, priced)
    assert 5_000_000 == await price_of(fresh_service, "alice")
    assert "LOC-A" == (await get_location(client, "loc-a")).location_id
    request = ListLocationsRequest()
    listed = (await client.call(client.location.ListLocations, request)).locations
    assert ["LOC-A"] == [one.location_id for one in listed]
    tariffs = (await client.call(client.location.ListTariffs, ListTariffsRequest())).tariffs
    assert ["Abc-Def"] == [one.tariff_id for one in tariffs]
    assert ["abc-def"] == list((await delete_tariffs(client, "abc-def")).tariff_ids)
    assert 0 == await price_of(fresh_service, "alice")


async def test_an_older_object_is_outdated_however_it_is_spelt(fresh_service: Service) -> None:
    """The newer one stays."""
    client = fresh_service.client
    newer, older = datetime(2026, 6, 2, tzinfo=UTC), datetime(2026, 6, 1, tzinfo=UTC)
    place, priced = location("Loc-A"), tariff("T-a")
    for one in (place, priced):
        one.last_updated.FromDatetime(newer)
    assert [0] == await put_locations(client, place)
    assert [0] == await put_tariffs(client, priced)
    place.location_id, priced.tariff_id = "loc-a", "t-A"
    for one in (place, priced):
        one.last_updated.FromDatetime(older)
    failed = grpc.StatusCode.FAILED_PRECONDITION.value[0]
    assert [failed] == await put_locations(client, place)
    assert [failed] == await put_tariffs(client, priced)
    assert "Loc-A" == (await get_location(client, "LOC-A")).location_id
    assert "T-a" == (await get_tariff(client, "T-A")).tariff_id
