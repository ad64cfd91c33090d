"""Lists: bounded in bytes and in what is read at a time, complete, and paid for by their size."""

import asyncio
import itertools
import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from google.protobuf.message import Message

from tests.conftest import Service
from tests.http2 import DATA, END_HEADERS, END_STREAM, HEADERS, Connection, call_headers, frame
from tests.integration.credentials import Issuer, write_key_set
from tests.integration.guarded import trusting
from tests.integration.requests import tariff
from tests.integration.shop import create, fetch, outcome
from voucher_grpc.client import CallFailed, Client
from voucher_grpc.runtime.event_loop_share import EventLoopShare
from voucher_grpc.store.catalogue import CatalogueStore
from voucher_grpc.store.database import Database
from voucher_grpc.store.driver import DatabaseOptions
from voucher_grpc.store.location_cache import LocationCache
from voucher_grpc.store.places import PlaceStore
from voucher_grpc.store.slices import MAX_SLICE_BYTES, MAX_SLICE_ROWS
from voucher_grpc.store.stale_reads import StaleCatalogue
from voucher_grpc.v1 import catalogue_service_pb2 as catalogue_pb
from voucher_grpc.v1 import location_service_pb2 as location_pb
from voucher_grpc.v1 import user_service_pb2 as user_pb
from voucher_grpc.v1 import voucher_service_pb2 as voucher_pb

MIB, CALL_BYTES, CALL_ROWS = 2**20, 65_536, 100
# A busy machine is no failure.
PATIENCE_S = 120.0
Call = Callable[[str], Awaitable[Any]]


def large_location(name: str, evses: int, *, compressible: bool = True) -> location_pb.Location:
    """About 1.9 kB for each EVSE, 500 of which are the most there may be."""
    chance = random.Random(name)

    def text(number: int) -> str:
        return f"{number:036}" if compressible else f"{chance.getrandbits(140):036x}"

    return location_pb.Location(
        country_code="NO",
        party_id="OSL",
        location_id=name,
        time_zone="Europe/Oslo",
        evses=[
            location_pb.Evse(
                evse_uid=f"{number:036}",
                connectors=[
                    location_pb.Connector(
                        connector_id=f"{n:036}", standard="IEC_62196_T2", tariff_ids=[text(n)]
                    )
                    for n in range(20)
                ],
            )
            for number in range(evses)
        ],
    )


@pytest_asyncio.fixture(loop_scope="session")
async def patient(fresh_service: Service) -> AsyncIterator[Service]:
    """A server on an empty database, with a client that waits long for an answer."""
    async with Client(fresh_service.target, timeout_s=PATIENCE_S) as client:
        yield replace(fresh_service, client=client)


async def put(client: Client, *locations: location_pb.Location) -> None:
    """Each in a call of its own: together they are larger than a message may be."""
    for one in locations:
        request = location_pb.UpsertLocationsRequest(locations=[one])
        answer = await client.call(client.location.UpsertLocations, request)
        assert [0] == [result.code for result in answer.results]


async def pages(call: Call, rows: str) -> list[Any]:
    """All pages of a list, each of which keeps to the bound and ends where it must.

    `rows` is the field that they have their rows in.
    """
    found, token = [], ""
    while True:
        page = await call(token)
        assert page.ByteSize() <= MIB or len(getattr(page, rows)) == 1
        found.append(page)
        token = page.next_page_token
        if not token:
            break
        assert getattr(page, rows)
    for page, following in itertools.pairwise(found):
        longer = type(page)()
        longer.CopyFrom(page)
        getattr(longer, rows).append(getattr(following, rows)[0])
        assert longer.ByteSize() > MIB - 8
    return found


def rows_of(found: Sequence[Any], rows: str) -> list[Any]:
    """The rows of all pages."""
    return [row for page in found for row in getattr(page, rows)]


def locations_call(client: Client, **more: Any) -> Call:
    """ListLocations with a token."""

    async def call(token: str) -> Any:
        request = location_pb.ListLocationsRequest(
            country_code="NO", party_id="OSL", page_size=1_000, page_token=token, **more
        )
        return await client.call(client.location.ListLocations, request)

    return call


async def test_locations_of_very_different_sizes_are_all_listed_in_pages_of_a_mib(
    patient: Service,
) -> None:
    """From 100 bytes to as large as a message takes; each once, in order, as it was sent."""
    client = patient.client
    evses = [1, 500, 500, 0, 0, 300, 260, 250, 1, 500, 0, 500, 20, 500, 3]
    sent = [large_location(f"place-{n:03}", count) for n, count in enumerate(evses)]
    await put(client, *sent)
    found = await pages(locations_call(client), "locations")
    listed = rows_of(found, "locations")
    for one in listed:
        one.ClearField("update_time")
    assert sent == listed
    assert len(found) == len({page.SerializeToString() for page in found}) >= 5
    for one in sent[:3]:
        request = location_pb.GetLocationRequest(
            country_code="NO", party_id="OSL", location_id=one.location_id
        )
        got = (await client.call(client.location.GetLocation, request)).location
        got.ClearField("update_time")
        assert one == got


async def test_more_rows_than_a_slice_has_come_on_one_page(patient: Service) -> None:
    """Slices are how the server reads; callers see pages."""
    client, count = patient.client, 3 * MAX_SLICE_ROWS + 7
    small = [large_location(f"place-{n:03}", 0) for n in range(count)]
    request = location_pb.UpsertLocationsRequest(locations=small)
    await client.call(client.location.UpsertLocations, request)
    [page] = await pages(locations_call(client), "locations")
    assert [one.location_id for one in small] == [one.location_id for one in page.locations]
    for size in (1, 100, 101, count - 1, count):
        request = location_pb.ListLocationsRequest(page_size=size)  # type: ignore[assignment]
        page = await client.call(client.location.ListLocations, request)
        assert size == len(page.locations)
        assert (size < count) == bool(page.next_page_token)


async def test_tariffs_are_listed_in_pages_of_a_mib(patient: Service) -> None:
    """130 with as many prices as there may be."""
    client, sent = patient.client, []
    for number in range(130):
        made = tariff(f"tariff-{number:03}")
        component = made.elements[0].price_components[0]
        component.price_micros = 123_456_000_000 + number
        del made.elements[0].price_components[:]
        made.elements[0].price_components.extend([component] * 10)
        for _ in range(49):
            made.elements.append(made.elements[0])
        sent.append(made)
    for first in range(0, len(sent), 50):
        request = location_pb.UpsertTariffsRequest(tariffs=sent[first : first + 50])
        await client.call(client.location.UpsertTariffs, request)

    async def call(token: str) -> Any:
        request = location_pb.ListTariffsRequest(page_size=1_000, page_token=token)
        return await client.call(client.location.ListTariffs, request)

    found = await pages(call, "tariffs")
    listed = rows_of(found, "tariffs")
    for one in listed:
        one.ClearField("update_time")
    assert sent == listed
    assert len(found) > 1


PLACES = [
    {
        "country_code": "NO",
        "party_id": "OSL",
        "location_id": f"{n:036}",
        "evse_uid": f"{n:036}",
        "connector_id": f"{n:036}",
    }
    for n in range(200)
]


@pytest.fixture(scope="module")
def conditions() -> dict[str, Any]:
    """The longest list of places that a product may have, 25 kB."""
    return {"locations": PLACES}


async def test_products_are_listed_in_pages_of_a_mib(
    patient: Service, conditions: dict[str, Any]
) -> None:
    """60 of 25 kB, with small ones between them."""
    client = patient.client
    for number in range(60):
        await create(client, f"p{number:03}-large", conditions=conditions)
        await create(client, f"p{number:03}-small")

    async def call(token: str) -> Any:
        request = catalogue_pb.ListProductsRequest(page_size=1_000, page_token=token)
        return await client.call(client.catalogue.ListProducts, request)

    found = await pages(call, "products")
    names = [f"p{number:03}-{size}" for number in range(60) for size in ("large", "small")]
    assert names == [one.product_id for one in rows_of(found, "products")]
    assert len(found) > 1


async def passes_in_store(url: str, user_id: str, products: Sequence[str], count: int) -> list[str]:
    """A user's passes, as if bought; their ids, the newest first."""
    connection = await asyncpg.connect(url)
    ids = [str(uuid.uuid4()) for _ in range(count)]
    try:
        await connection.execute(
            """
            INSERT INTO passes (
                user_id, pass_id, request_id, offer_digest, product_id, product_revision,
                vehicle_id, price_micros, currency_code, payment_reference, purchase_time,
                time_zone, start_time, end_time
            )
            SELECT $1, id, id, sha256(id::text::bytea), ($3::text[])[(n - 1) % $4::int + 1], 1, '',
                49000000, 'NOK', 'payment-' || id, now() - make_interval(secs => n / 3),
                'Europe/Oslo', now(), now() + interval '30 days'
            FROM unnest($2::uuid[]) WITH ORDINALITY AS k (id, n)
            """,
            user_id,
            ids,
            list(products),
            len(products),
        )
    finally:
        await connection.close()
    return ids


async def test_passes_and_what_is_exported_come_in_pages_of_a_mib(
    patient: Service, conditions: dict[str, Any], unique: str
) -> None:
    """Also those that were bought at the same instant; each record once."""
    client = patient.client
    products = ["large", "small", "other"]
    for name in products:
        more = {"conditions": conditions} if name == "large" else {}
        await create(client, name, **more)
    ids = await passes_in_store(patient.database_url, unique, products, 200)

    async def listed(token: str) -> Any:
        request = voucher_pb.ListPassesRequest(user_id=unique, page_size=1_000, page_token=token)
        return await client.call(client.voucher.ListPasses, request)

    async def exported(token: str) -> Any:
        request = user_pb.ExportUserRequest(user_id=unique, page_size=1_000, page_token=token)
        return await client.call(client.user.ExportUser, request)

    found = await pages(listed, "passes")
    assert len(found) > 1
    assert sorted(ids) == sorted(one.pass_id for one in rows_of(found, "passes"))
    times = [one.purchase_time.ToNanoseconds() for one in rows_of(found, "passes")]
    assert sorted(times, reverse=True) == times
    found = await pages(exported, "records")
    assert len(found) > 1
    records = [r for r in rows_of(found, "records") if r.HasField("pass")]
    assert sorted(ids) == sorted(getattr(record, "pass").pass_id for record in records)


@asynccontextmanager
async def places(url: str) -> AsyncIterator[PlaceStore]:
    """The store beside the server."""
    options = DatabaseOptions(url, 2, 5.0, 30.0, 100)
    async with Database.open(options) as database:
        yield PlaceStore(database, LocationCache(), EventLoopShare())


async def test_slices_are_bounded_in_rows_and_in_bytes(patient: Service) -> None:
    """Never 1,000 rows of 1 MB at a time: a large one comes alone, small ones by the hundred."""
    client = patient.client
    large = [large_location(f"a-{n}", 100, compressible=False) for n in range(3)]
    await put(client, *large)
    small = [large_location(f"b-{n:03}", 0) for n in range(250)]
    request = location_pb.UpsertLocationsRequest(locations=small)
    await client.call(client.location.UpsertLocations, request)
    query = "SELECT min(pg_column_size(document)) FROM locations WHERE location_id LIKE 'a-%'"
    [[stored_bytes]] = await fetch(patient.database_url, query)
    assert stored_bytes > MAX_SLICE_BYTES
    async with places(patient.database_url) as store:
        counts, after = [], ("", "", "")
        while True:
            found = await store.list_locations(after, "", "", MAX_SLICE_ROWS)
            counts.append(len(found.rows))
            if not found.more:
                break
            last = found.rows[-1]().head
            after = (last.country_code, last.party_id, last.location_id)
    assert sum(counts) == 253
    assert [1, 1, 1] == counts[:3]
    assert max(counts[3:]) == MAX_SLICE_ROWS
    assert len(counts) <= 3 + 250 * 300 // MAX_SLICE_BYTES + 4


async def test_slices_of_products_and_tariffs_are_bounded_too(patient: Service) -> None:
    """By what is stored; and each product is made only when it is its turn."""
    client = patient.client
    chance = random.Random(7)
    for number in range(8):
        somewhere = [
            {**place, "evse_uid": f"{chance.getrandbits(140):036x}", "connector_id": ""}
            for place in PLACES
        ]
        await create(client, f"p{number}", conditions={"locations": somewhere})
    [[stored_bytes]] = await fetch(
        patient.database_url, "SELECT min(pg_column_size(terms)) FROM product_revisions"
    )
    options = DatabaseOptions(patient.database_url, 2, 5.0, 30.0, 100)
    async with Database.open(options) as database:
        store = CatalogueStore(database, StaleCatalogue(), at_once)
        found = await store.slice("", False, MAX_SLICE_ROWS)
        assert found.more
        assert 1 <= len(found.rows) <= MAX_SLICE_BYTES // stored_bytes < 8
        assert ["p0", "p1"] == [made().product_id for made in found.rows[:2]]
        assert not (await store.slice("p6", False, MAX_SLICE_ROWS)).more


async def at_once(_name: str, _version: int) -> None:
    """For a store whose changes nobody waits for."""


BURST = 60


async def left_over(client: Client) -> int:
    """How many calls the caller's burst had left."""
    request = location_pb.GetTariffRequest(country_code="NO", party_id="OSL", tariff_id="none")
    for count in range(BURST + 1):
        heard = await outcome(client.call(client.location.GetTariff, request))
        if heard == "RATE_LIMITED":
            return count
        assert heard == "TARIFF_NOT_FOUND"
    raise AssertionError("there is no limit")


@asynccontextmanager
async def limited(url: str, issuer: Issuer, folder: Path, burst: int) -> AsyncIterator[Service]:
    """A server that lets stations call so often, and never again in the time of a test."""
    keys = write_key_set(folder / "jwks.json", issuer)
    async with trusting(url, keys, rate_limits=f"station:0.001/{burst}") as service:
        yield service


def station(service: Service, issuer: Issuer, name: str) -> Client:
    """A caller with a burst of its own."""
    token = issuer.token(name, "station", parties=["NO*OSL"])
    return Client(service.target, token=token, timeout_s=PATIENCE_S)


def operator(service: Service, issuer: Issuer) -> Client:
    """A caller without a limit here."""
    return Client(service.target, token=issuer.token("op", "operator", parties=["NO*OSL"]))


async def test_a_page_costs_a_call_for_each_100_rows_or_64_kib(
    fresh_database: str, issuer: Issuer, tmp_path: Path
) -> None:
    """Counted by what is left of the burst. The call itself is the first of them."""
    async with limited(fresh_database, issuer, tmp_path, BURST) as service:
        async with operator(service, issuer) as owner:
            await put(owner, large_location("a-large", 500), large_location("b-half", 200))
            small = [large_location(f"c-{n:03}", 0) for n in range(250)]
            upsert = location_pb.UpsertLocationsRequest(locations=small)
            await owner.call(owner.location.UpsertLocations, upsert)
        large = location_pb.GetLocationRequest(
            country_code="NO", party_id="OSL", location_id="a-large"
        )
        tokens: dict[str, str] = {}

        def page(size: int, after: str = "") -> Message:
            return location_pb.ListLocationsRequest(
                country_code="NO", party_id="OSL", page_size=size, page_token=tokens[after]
            )

        tokens[""] = ""
        async with operator(service, issuer) as owner:
            for name, after in (("a", ""), ("b", "a")):
                answer = await owner.call(owner.location.ListLocations, page(1, after))
                tokens[name] = answer.next_page_token
            answer = await owner.call(owner.location.ListLocations, page(2))
            assert len(answer.locations) == 1, "both are more than a MiB"
        for number, (method, request, rows) in enumerate(
            [
                ("ListLocations", page(1), 1),
                ("ListLocations", page(1, "a"), 1),
                ("ListLocations", page(100, "b"), 100),
                ("ListLocations", page(101, "b"), 101),
                ("ListLocations", page(1_000, "b"), 250),
                ("GetLocation", large, None),
            ]
        ):
            async with station(service, issuer, f"station-{number}") as client:
                answer = await client.call(getattr(client.location, method), request)
                size_bytes = answer.ByteSize()
                assert rows is None or len(answer.locations) == rows
                calls = max(1, -(-(rows or 1) // CALL_ROWS), -(-size_bytes // CALL_BYTES))
                assert BURST - calls == await left_over(client), (method, size_bytes)


async def test_a_page_that_costs_more_than_the_burst_is_answered_and_the_next_call_is_not(
    fresh_database: str, issuer: Issuer, tmp_path: Path
) -> None:
    """Whoever may call seldom must be able to read a list at all."""
    async with limited(fresh_database, issuer, tmp_path, 3) as service:
        async with operator(service, issuer) as owner:
            await put(owner, large_location("a-large", 300))
        async with station(service, issuer, "station-1") as client:
            answer = await locations_call(client)("")
            assert len(answer.locations) == 1
            with pytest.raises(CallFailed) as caught:
                await locations_call(client)("")
            assert "RATE_LIMITED" == caught.value.reason
            calls = -(-answer.ByteSize() // CALL_BYTES)
            assert calls > 3
            # At one call in 1,000 s, three of them at once.
            assert (calls - 3) * 1_000 < (caught.value.retry_after_s or 0) <= (calls - 2) * 1_000


async def test_a_caller_that_does_not_read_gets_no_more_lists_and_others_do(
    fresh_database: str, issuer: Issuer, tmp_path: Path
) -> None:
    """What waits to be read is the server's memory; it is free again once the caller is gone."""
    path = "/voucher_grpc.v1.LocationService/ListLocations"
    async with limited(fresh_database, issuer, tmp_path, 100_000) as service:
        async with operator(service, issuer) as owner:
            await put(owner, large_location("a-large", 480))
        token = issuer.token("silent", "station", parties=["NO*OSL"])
        request = location_pb.ListLocationsRequest(country_code="NO", party_id="OSL")
        raw = request.SerializeToString()
        message = b"\0" + len(raw).to_bytes(4, "big") + raw
        headers = call_headers(path, (b"authorization", f"Bearer {token}".encode()))
        silent = await Connection.open(service.server.port)
        for number in range(16):
            stream = 2 * number + 1
            await silent.send(
                frame(HEADERS, END_HEADERS, stream, headers)
                + frame(DATA, END_STREAM, stream, message)
            )
        async with Client(service.target, token=token, timeout_s=PATIENCE_S) as client:
            # A caller's pages are made one after the other, so each of these comes later.
            told = [await outcome(locations_call(client)("")) for _ in range(20)]
            assert "OVERLOADED" == told[-1]
            async with station(service, issuer, "other") as other:
                assert len((await locations_call(other)("")).locations) == 1
            await silent.close()
            for _ in range(1_000):
                if not isinstance(await outcome(locations_call(client)("")), str):
                    break
                await asyncio.sleep(0.1)
            else:
                raise AssertionError("what the silent caller left behind is not let go of")
