"""What a server keeps of the catalogue follows the database: by what has changed, beside calls."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import asyncpg
import pytest
from google.rpc import error_details_pb2

from tests.conftest import Service, serving
from tests.integration.operating import metrics, until, until_metric
from tests.integration.requests import location, tariff
from tests.integration.shop import (
    buy,
    create,
    execute,
    fetch,
    get_product,
    habit,
    product,
    set_tariff,
    until_waiting,
)
from voucher_grpc.client import Client
from voucher_grpc.store import queries
from voucher_grpc.store.database import Database
from voucher_grpc.store.driver import DatabaseOptions
from voucher_grpc.store.location_cache import LocationCache
from voucher_grpc.store.segments import rebuild_segments
from voucher_grpc.store.versions import Version, read_versions
from voucher_grpc.v1.catalogue_service_pb2 import RetireProductRequest, UpdateProductRequest
from voucher_grpc.v1.conditions_pb2 import LocationReference
from voucher_grpc.v1.location_service_pb2 import (
    Location,
    Tariff,
    UpsertLocationsRequest,
    UpsertTariffsRequest,
    UpsertTariffsResponse,
)

AGE = "voucher_catalogue_age_seconds"


def rows(table: str) -> str:
    return f"voucher_catalogue_rows_read_total{{table={table}}}"


def refreshes(kind: str) -> str:
    return f"voucher_catalogue_refreshes_total{{kind={kind}}}"


COUNTED = (
    *map(rows, ("products", "tariffs", "segments", "locations")),
    *map(refreshes, ("full", "incremental", "locations", "failed")),
)


async def counted(service: Service) -> dict[str, float]:
    found = await metrics(service)
    return {name: found.get(name, 0.0) for name in COUNTED}


def increase(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """What has grown, by how much."""
    return {name: after[name] - before[name] for name in after if after[name] != before[name]}


async def put(client: Client, *tariffs: Tariff) -> UpsertTariffsResponse:
    request = UpsertTariffsRequest(tariffs=tariffs)
    answer: UpsertTariffsResponse = await client.call(client.location.UpsertTariffs, request)
    return answer


async def put_locations(client: Client, *locations: Location) -> None:
    await client.call(client.location.UpsertLocations, UpsertLocationsRequest(locations=locations))


def priced(tariff_id: str, micros: int, *, default: bool = False) -> Tariff:
    """A tariff of one price at all hours."""
    made = tariff(tariff_id)
    made.elements[0].ClearField("restrictions")
    made.elements[0].price_components[0].price_micros = micros
    made.default_for_country = default
    return made


async def offered(service: Service, user_id: str = "alice") -> list[str]:
    answer = await service.client.request_offers(user_id=user_id, currency_code="NOK")
    return [f"{offer.product_id} {offer.price.units}" for offer in answer.offers]


async def paid(service: Service, user_id: str = "alice") -> int:
    """What a user pays without a pass for 30 days, in whole units."""
    answer = await service.client.request_offers(user_id=user_id, currency_code="NOK")
    return int(answer.pay_as_you_go.cost_per_30_days.units)


@asynccontextmanager
async def locked(url: str, table: str) -> AsyncIterator[None]:
    """Nobody reads or writes the table meanwhile."""
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            await connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            yield
    finally:
        await connection.close()


async def test_a_change_is_read_by_its_rows(fresh_service: Service) -> None:
    """A station that changes one tariff must not make servers read all of them: a change costs
    what has changed."""
    service, client = fresh_service, fresh_service.client
    await put(client, *(priced(f"t{number}", 4_000_000) for number in range(50)))
    await create(client, "one")
    before = await counted(service)
    await put(client, priced("t7", 5_000_000))
    now = await counted(service)
    assert {rows("tariffs"): 1, refreshes("incremental"): 1} == increase(before, now)
    before = now
    changed = product("one", price="59.00 NOK")
    changed.etag = (await get_product(client, "one")).etag
    await client.call(client.catalogue.UpdateProduct, UpdateProductRequest(product=changed))
    now = await counted(service)
    assert {rows("products"): 1, refreshes("incremental"): 1} == increase(before, now)
    before = now
    await put(client, priced("t7", 5_000_000))
    assert before == await counted(service)


async def test_who_loses_the_default_is_read_too(fresh_service: Service) -> None:
    """Of two defaults of a country one server would take the old, another the new one."""
    client = fresh_service.client
    await put(client, priced("a", 4_000_000, default=True), priced("b", 4_000_000))
    before = await counted(fresh_service)
    await put(client, priced("b", 4_000_000, default=True))
    now = await counted(fresh_service)
    assert {rows("tariffs"): 2, refreshes("incremental"): 1} == increase(before, now)


async def test_a_change_is_seen_by_the_next_request_on_the_same_server(
    fresh_service: Service,
) -> None:
    """Who has changed something and asks sees it: products, tariffs and locations alike."""
    service, client = fresh_service, fresh_service.client
    await set_tariff(client)
    await habit(client, "alice")
    cost = await paid(service)
    await create(client, "pass", default_offer=True)
    for units in range(1, 6):
        changed = product("pass", price=f"{units}.00 NOK", default_offer=True)
        changed.etag = (await get_product(client, "pass")).etag
        await client.call(client.catalogue.UpdateProduct, UpdateProductRequest(product=changed))
        assert [f"pass {units}"] == await offered(service)
    doubled = priced("double", 8_000_000, default=True)
    await put(client, doubled)
    assert cost != await paid(service)
    for name in ("shop", "mall"):
        await put_locations(client, location(name))
        here = LocationReference(country_code="NO", party_id="OSL", location_id=name)
        answer = await client.request_offers(user_id="alice", location=here, currency_code="NOK")
        assert "alice" == answer.user_id


async def test_offers_go_on_from_the_previous_catalogue_while_a_refresh_is_held_up(
    fresh_database: str,
) -> None:
    """Reading the catalogue anew may take long; nobody who asks for offers waits for it, and
    what was offered meanwhile is honoured."""
    async with serving(fresh_database) as service:
        client = service.client
        await create(client, "pass", default_offer=True)
        assert ["pass 49"] == await offered(service)
        (old,) = (await client.request_offers(user_id="bob", currency_code="NOK")).offers
        changed = product("pass", price="59.00 NOK", default_offer=True)
        changed.etag = (await get_product(client, "pass")).etag
        async with locked(fresh_database, "tariffs"):
            update = UpdateProductRequest(product=changed)
            updating = asyncio.create_task(client.call(client.catalogue.UpdateProduct, update))
            await until_waiting(fresh_database)
            for _ in range(5):
                assert ["pass 49"] == await offered(service)
            assert (await metrics(service))[AGE] > 0
            # The change itself is answered, although this server cannot show it yet.
            assert 2 == (await updating).product.revision
            assert ["pass 49"] == await offered(service)
            assert "pass" == (await buy(client, old)).product_id
        await until(lambda: is_offered(service, ["pass 59"]))
        await until_metric(service, AGE, 0)


async def is_offered(service: Service, wanted: list[str]) -> bool:
    return wanted == await offered(service)


async def test_what_an_older_version_changes_is_found_by_reading_everything(
    fresh_service: Service,
) -> None:
    """It marks no rows and moves the version alone; both versions run during a deployment."""
    service, client = fresh_service, fresh_service.client
    await create(client, "pass", default_offer=True)
    await create(client, "other")
    before = await counted(service)
    await execute(
        service.database_url,
        """UPDATE product_stock SET stock = 5 WHERE product_id = 'pass';
        UPDATE products SET state = 'RETIRED' WHERE product_id = 'other';
        INSERT INTO products (product_id, revision, state, etag) VALUES ('new', 1, 'ACTIVE', 'e');
        INSERT INTO product_stock (product_id) VALUES ('new');
        INSERT INTO product_revisions
            SELECT 'new', 1, jsonb_set(terms, '{product_id}', '"new"'), now(), 'older'
            FROM product_revisions WHERE product_id = 'pass';
        UPDATE versions SET version = version + 1 WHERE name = 'catalogue'""",
    )
    await until_metric(service, refreshes("full"), before[refreshes("full")] + 1)
    await until(lambda: is_offered(service, ["new 49"]))
    before = await counted(service)
    await put(client, priced("t", 1))
    now = await counted(service)
    assert {rows("tariffs"): 1, refreshes("incremental"): 1} == increase(before, now)


async def test_a_server_that_nobody_asks_follows_too(fresh_database: str) -> None:
    """Its first request after a quiet hour must not be answered from an old catalogue."""
    async with serving(fresh_database) as one, serving(fresh_database) as idle:
        before = await counted(idle)
        await create(one.client, "pass", default_offer=True)
        name = refreshes("incremental")
        await until_metric(idle, name, before[name] + 1)
        assert ["pass 49"] == await offered(idle)


async def test_a_retired_product_is_offered_no_longer_on_any_server(fresh_database: str) -> None:
    """At once where it was retired, soon after on the others."""
    async with serving(fresh_database) as one, serving(fresh_database) as two:
        await create(one.client, "pass", default_offer=True)
        await until(lambda: is_offered(two, ["pass 49"]))
        etag = (await get_product(one.client, "pass")).etag
        retire = RetireProductRequest(product_id="pass", etag=etag, withdraw_offers=True)
        await one.client.call(one.client.catalogue.RetireProduct, retire)
        assert [] == await offered(one)
        await until(lambda: is_offered(two, []))


async def test_many_changes_at_once_are_one_refresh_on_the_other_servers(
    fresh_database: str,
) -> None:
    """Refreshes are not queued: one reads all that has changed until it begins."""
    async with serving(fresh_database) as one, serving(fresh_database) as two:
        before = await counted(two)
        async with locked(fresh_database, "products"):
            first = asyncio.create_task(put(one.client, priced("t", 1)))
            await until_waiting(fresh_database, 2)  # both servers' refreshes
            await first
            await put(one.client, *(priced(f"t{number}", 1) for number in range(10)))
            await put(one.client, priced("t", 2))
        await until_metric(two, rows("tariffs"), before[rows("tariffs")] + 12)
        now = await counted(two)
        # The one that was held up reads as of its beginning, the next one all the rest.
        assert {rows("tariffs"): 12, refreshes("incremental"): 2} == increase(before, now)


async def test_a_refresh_that_fails_is_tried_again_and_stops_no_offers(
    fresh_service: Service,
) -> None:
    """A row that this version cannot read, as a newer one may write it, must not end the sale
    of everything else."""
    service, client = fresh_service, fresh_service.client
    await create(client, "pass", default_offer=True)
    await put(client, priced("t", 1))
    await execute(
        service.database_url,
        """UPDATE versions SET version = version + 1, recorded = recorded + 1
            WHERE name = 'catalogue';
        UPDATE tariffs SET document = document - 'currency', change_version =
            (SELECT version FROM versions WHERE name = 'catalogue')""",
    )

    async def failed() -> bool:
        found = await metrics(service)
        return found.get(refreshes("failed"), 0) >= 2 and found[AGE] > 0

    await until(lambda: is_offered(service, ["pass 49"]))
    await until(failed)
    assert ["pass 49"] == await offered(service)
    await execute(
        service.database_url,
        "UPDATE tariffs SET document = jsonb_set(document, '{currency}', '\"NOK\"')",
    )
    await until_metric(service, AGE, 0)
    before = await counted(service)
    await put(client, priced("t", 3))
    now = await counted(service)
    assert {rows("tariffs"): 1, refreshes("incremental"): 1} == increase(before, now)


async def test_segments_are_read_when_they_are_made_anew(fresh_service: Service) -> None:
    """They are large and seldom made: changes of tariffs do not read them."""
    service, client = fresh_service, fresh_service.client
    before = await counted(service)
    options = DatabaseOptions(service.database_url, 1, 5.0, 10.0, 100)
    async with Database.open(options) as database:
        await rebuild_segments(database, lambda _: None)
        await until_metric(service, refreshes("incremental"), before[refreshes("incremental")] + 1)
        versions = queries.load("versions")
        async with database.transaction() as connection:
            await connection.execute(
                queries.load("segments")["write_segments"], "NO", "", "", 20, [1.0], [1.0]
            )
            version = await connection.fetchval(versions["bump"], "catalogue")
            await connection.execute(versions["made_with"], version)
    await until_metric(service, rows("segments"), before[rows("segments")] + 1)
    await put(client, priced("t", 3))
    now = await counted(service)
    assert {rows("segments"): 1, rows("tariffs"): 1, refreshes("incremental"): 3} == increase(
        before, now
    )


async def test_of_the_locations_at_hand_only_the_changed_ones_are_dropped(
    fresh_service: Service,
) -> None:
    """A station that sends one location each second must not make servers read all of theirs
    each second."""
    client = fresh_service.client
    await put_locations(client, *map(location, ("a", "b", "c")))
    cache = LocationCache()
    options = DatabaseOptions(fresh_service.database_url, 1, 5.0, 10.0, 100)
    keys = {name: ("NO", "OSL", name) for name in ("a", "b", "c", "d")}

    def at_hand() -> set[str]:
        return {name for name, key in keys.items() if cache.last_known(key)}

    async with Database.open(options) as database:
        dedicated = database.dedicated(writes=False)

        async def refresh() -> int:
            async def read(connection: asyncpg.Connection) -> int:
                return await cache.refresh(connection, (await read_versions(connection)).locations)

            return await dedicated.run(read)

        try:
            await refresh()
            await dedicated.run(lambda connection: cache.get(connection, keys.values()))
            assert {"a", "b", "c"} == at_hand()
            moved = location("b")
            moved.time_zone = "Europe/Berlin"
            await put_locations(client, moved, location("d"), location("a"))
            assert 2 == await refresh()
            assert {"a", "c"} == at_hand()
            found = await dedicated.run(lambda connection: cache.get(connection, keys.values()))
            assert [True] * 4 == [found[key] is not None for key in keys.values()]
            await execute(
                fresh_service.database_url,
                "UPDATE versions SET version = version + 1 WHERE name = 'locations'",
            )
            assert 0 == await refresh()
            assert set() == at_hand()
        finally:
            await dedicated.close()


async def test_a_location_that_changes_while_it_is_read_is_not_kept(
    fresh_service: Service,
) -> None:
    """What was read before the change would else be kept after what has changed was dropped."""
    await put_locations(fresh_service.client, location("a"))
    cache = LocationCache()
    key = ("NO", "OSL", "a")
    options = DatabaseOptions(fresh_service.database_url, 1, 5.0, 10.0, 100)
    async with Database.open(options) as database:
        reading, other = database.dedicated(writes=False), database.dedicated(writes=False)
        try:
            async with locked(fresh_service.database_url, "locations"):
                slow = asyncio.create_task(reading.run(lambda c: cache.get(c, [key])))
                await until_waiting(fresh_service.database_url)
                await other.run(lambda c: cache.refresh(c, Version(9, 9)))
            assert (await slow)[key] is not None
            assert cache.last_known(key) is None
            await reading.run(lambda c: cache.get(c, [key]))
            assert cache.last_known(key) is not None
        finally:
            await reading.close()
            await other.close()


async def test_a_party_has_at_most_200000_price_components(fresh_service: Service) -> None:
    """Tariffs are bounded by what they take in every server's memory too, each with a verdict of
    its own; what is there can be replaced by what is no larger."""
    service, client = fresh_service, fresh_service.client
    await put(client, priced("large", 1), priced("old", 1))
    await execute(
        service.database_url,
        """UPDATE tariffs SET components = 199995 WHERE tariff_id = 'large';
        UPDATE tariffs SET components = 0 WHERE tariff_id = 'old'""",
    )

    def of(tariff_id: str, components: int, micros: int = 1) -> Tariff:
        made = priced(tariff_id, micros)
        for _ in range(1, components):
            made.elements.add().CopyFrom(made.elements[0])
        return made

    foreign = of("foreign", 9)
    foreign.party_id = "TST"
    sent = [of("a", 3), of("b", 2), of("c", 1), foreign, of("old", 2), of("a", 3, 2), of("d", 1)]
    results = (await put(client, *sent)).results
    assert [0, 3, 0, 0, 3, 0, 3] == [result.code for result in results]
    bad = error_details_pb2.BadRequest()
    assert any(packed.Unpack(bad) for packed in results[1].details)
    (violation,) = bad.field_violations
    assert "tariffs[1].elements" == violation.field
    wanted = "must not bring the party's tariffs to more than 200000 price components"
    assert wanted == violation.description
    stored = await fetch(
        service.database_url, "SELECT tariff_id, components FROM tariffs ORDER BY tariff_id"
    )
    assert {"a": 3, "c": 1, "foreign": 9, "large": 199_995, "old": 0} == {
        row["tariff_id"]: row["components"] for row in stored
    }
    # Room that one of the call gives back is there for those after it.
    results = (await put(client, of("a", 1), of("b", 2))).results
    assert [0, 0] == [result.code for result in results]


async def test_changes_of_the_catalogue_mark_what_they_change(fresh_service: Service) -> None:
    """The version of a row is that of the catalogue with which it came to be; one that is not
    marked would be offered as it was."""
    url, client = fresh_service.database_url, fresh_service.client
    created = await create(client, "a")
    await create(client, "b")
    await put(client, priced("t", 1))
    retire = RetireProductRequest(product_id="a", etag=created.etag)
    await client.call(client.catalogue.RetireProduct, retire)
    (version,) = await fetch(url, "SELECT version, recorded FROM versions WHERE name = 'catalogue'")
    first = version["version"] - 4
    marked = await fetch(
        url,
        """SELECT product_id AS name, change_version FROM products
        UNION ALL SELECT tariff_id, change_version FROM tariffs""",
    )
    assert {"a": first + 4, "b": first + 2, "t": first + 3} == dict(map(tuple, marked))
    assert 4 == version["recorded"]


@pytest.mark.parametrize("table", ["products_by_change", "tariffs_by_change"])
async def test_what_has_changed_is_found_by_an_index(fresh_service: Service, table: str) -> None:
    """Among a hundred thousand tariffs one that has changed is found without a look at the
    others."""
    statement = queries.load("catalogue")[f"changed_{table.partition('_')[0]}"]
    connection = await asyncpg.connect(fresh_service.database_url)
    try:
        async with connection.transaction():
            await connection.execute("SET LOCAL enable_seqscan = off")
            plan = await connection.fetch(f"EXPLAIN {statement.replace('$1', '7')}")
    finally:
        await connection.close()
    assert any(table in row[0] for row in plan)


async def test_the_product_after_a_changed_one_is_an_active_one(fresh_service: Service) -> None:
    """A new product is put before the one that comes after it among those that are offered."""
    client = fresh_service.client
    await create(client, "a", default_offer=True)
    retired = await create(client, "c")
    await create(client, "d")
    retire = RetireProductRequest(product_id="c", etag=retired.etag)
    await client.call(client.catalogue.RetireProduct, retire)
    await client.request_offers(user_id="alice", currency_code="NOK")
    connection = await asyncpg.connect(fresh_service.database_url)
    try:
        version = await connection.fetchval("SELECT version FROM versions WHERE name = 'catalogue'")
        await create(client, "b")
        rows = await connection.fetch(queries.load("catalogue")["changed_products"], version)
    finally:
        await connection.close()
    assert [("b", "d")] == [(row["product_id"], row["next_id"]) for row in rows]
