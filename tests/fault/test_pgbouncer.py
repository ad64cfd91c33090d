"""Behind PgBouncer in transaction mode: no call rests on a session, and its restart is survived."""

import asyncio

import asyncpg
import pytest

from tests.conftest import Service, serving
from tests.fault.pgbouncer import Bouncer, bounced, pgbouncer
from tests.fault.run import findings
from tests.fault.test_database_away import once_back, passes, purchase, without_retries
from tests.integration.shop import (
    breaches,
    buy,
    create,
    get_product,
    habit,
    offer_for,
    sequenced,
    set_tariff,
    signed_offer,
)
from tests.integration.test_export_erase import export
from voucher_grpc.client import Client
from voucher_grpc.store.database import Database as StoreDatabase
from voucher_grpc.store.driver import DatabaseOptions, UnsafeDatabase
from voucher_grpc.v1.pass_pb2 import PassState
from voucher_grpc.v1.product_pb2 import Product
from voucher_grpc.v1.tendency_service_pb2 import GetTendencyRequest
from voucher_grpc.v1.voucher_service_pb2 import PurchasePassRequest

pytestmark = pytest.mark.skipif(
    pgbouncer() is None, reason="PgBouncer is not installed (apt-get install pgbouncer)"
)
SETTINGS = {"statement_cache_size": 0, "db_probe_timeout_s": 2.0}


async def trade(client: Client, scarce: Product, user_id: str) -> None:
    """A user's story: habits, an offer, a purchase, and a hold that is paid and then cancelled."""
    await habit(client, user_id)
    bought = await buy(client, await offer_for(client, user_id, "standard"))
    assert bought == await client.get_pass(user_id, bought.pass_id)
    held = await client.purchase_pass(signed_offer(scarce, user_id))
    assert PassState.PASS_STATE_PENDING == held.state
    paid = await client.confirm_purchase(held, payment_reference=f"paid-{user_id}")
    cancelled = await client.cancel_pass(user_id, paid.pass_id)
    assert PassState.PASS_STATE_CANCELLED == cancelled.state


async def test_every_kind_of_call_works_behind_a_pooler(fresh_database: str) -> None:
    """Many users at once over four connections of Postgres: what one leaves behind in a
    session another would trip over."""
    users = [f"user-{number}" for number in range(12)]
    async with bounced(fresh_database) as bouncer, serving(bouncer.url, **SETTINGS) as service:
        client = service.client
        await set_tariff(client)
        await create(client, "standard", default_offer=True)
        scarce = await create(client, "scarce", price="99.00 NOK", stock=1000, withdrawal_days=14)
        await asyncio.gather(*(trade(client, scarce, user_id) for user_id in users))
        assert 0 == (await get_product(client, "scarce")).sold
        asked = GetTendencyRequest(user_id=users[0])
        known = await client.call(client.tendency.GetTendency, asked)
        assert users[0] == known.tendency.user_id
        await sequenced(fresh_database)
        told = [m.event async for m in client.stream_events() if m.HasField("event")]
        # A purchase, a hold, its confirmation and its end.
        assert 4 * len(users) == len(told)
        records = await export(client, users[0])
        assert 2 == sum(record.HasField("pass") for record in records)
        assert {} == await findings(bouncer.url)
        assert {} == await breaches(fresh_database)


async def test_a_restart_of_the_pooler_is_survived(fresh_database: str) -> None:
    """Killed under load and started again: what was not clear is found out, nothing is lost."""
    async with bounced(fresh_database) as bouncer, serving(bouncer.url, **SETTINGS) as service:
        await create(service.client, "standard", default_offer=True)
        offers = [
            (await service.client.request_offers(user_id=f"user-{n}", currency_code="NOK")).offers
            for n in range(60)
        ]
        requests = [purchase(found[0]) for found in offers]
        await _buy_over_a_restart(bouncer, service, requests)
        assert len(requests) == await passes(fresh_database)
        assert {} == await findings(fresh_database)


async def _buy_over_a_restart(
    bouncer: Bouncer, service: Service, requests: list[PurchasePassRequest]
) -> None:
    async with without_retries(service) as stub:
        slots = asyncio.Semaphore(4)
        done = 0

        async def buy_one(request: object) -> None:
            nonlocal done
            async with slots:
                await once_back(lambda: stub.PurchasePass(request), within_s=60)
                done += 1

        buying = asyncio.gather(*map(buy_one, requests))
        async with asyncio.timeout(60):
            while done < 10:  # noqa: ASYNC110 - until it is well under way
                await asyncio.sleep(0.001)
        await bouncer.kill()
        assert done < len(requests)
        await bouncer.start()
        await buying


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("synchronous_commit", "off", "synchronous_commit is off"),
        ("default_transaction_read_only", "on", "read-only"),
    ],
)
async def test_an_unsafe_database_is_refused_behind_a_pooler_too(
    fresh_database: str, setting: str, value: str, told: str
) -> None:
    """What counts is Postgres, not what stands before it."""
    name = fresh_database.partition("?")[0].rpartition("/")[2]
    admin = await asyncpg.connect(fresh_database)
    await admin.execute(f"ALTER DATABASE {name} SET {setting} = {value}")
    await admin.close()
    async with bounced(fresh_database) as bouncer:
        with pytest.raises(UnsafeDatabase, match=told):
            async with StoreDatabase.open(DatabaseOptions(bouncer.url, 2, 5.0, 10.0, 0)):
                pass
