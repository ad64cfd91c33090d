"""The primary is lost and its standby promoted: nothing acknowledged is lost, nothing restarted."""

import asyncio

import pytest

from tests.conftest import serving
from tests.fault.failover import Loss, run
from tests.fault.replicas import own_pair
from tests.fault.test_database_away import (
    State,
    assert_the_store_is_away,
    failure,
    offer_for,
    once_back,
    passes,
    purchase,
    until_health,
    without_retries,
)
from tests.integration.shop import breaches, create


@pytest.mark.parametrize("loss", [Loss.KILLED, Loss.SILENT])
async def test_nothing_acknowledged_is_lost_with_the_primary(loss: Loss) -> None:
    """Buyers buy, the primary is lost, the standby is promoted, and they go on.

    One server throughout, which was told of both hosts. A host that is silent keeps it
    from the other one no longer than a look does. Each acknowledged pass is there with
    its content and was told once in the stream of events, and what ends by itself ends.
    """
    outcome = await run([loss], notice_s=0.2)
    assert [] == outcome.lost
    assert {} == outcome.breaches
    assert 1 == len(outcome.rounds)
    assert 20 < outcome.acknowledged < outcome.events


async def test_without_its_standby_nothing_is_acknowledged() -> None:
    """A COMMIT that waits for a standby is neither acknowledged nor ended by a timeout.

    A cancelled one would be answered as done while one disk alone has it. Purchases are
    refused and health says so, offers go on; once the operator does without the standby
    the purchase that was not clear turns out to be done, once.
    """
    async with own_pair() as pair:
        settings = {"db_probe_timeout_s": 0.5, "statement_timeout_s": 1.0}
        async with serving(pair.url, **settings) as service, without_retries(service) as stub:
            await create(service.client, "standard", default_offer=True)
            request = purchase(await offer_for(service.client, "alice"))
            await pair.standby.kill()
            assert_the_store_is_away(await failure(stub.PurchasePass(request)))
            await until_health(service, State.NOT_SERVING)
            for _ in range(5):
                assert_the_store_is_away(await failure(stub.PurchasePass(request)))
                await asyncio.sleep(0.3)  # beyond the statement's timeout
            await offer_for(service.client, "bob")
            # It waits on, as what nobody may see.
            assert 0 == await passes(pair.primary.url)
            await pair.primary.ask(
                "ALTER SYSTEM SET synchronous_standby_names = ''", "SELECT pg_reload_conf()"
            )
            bought = await once_back(lambda: stub.PurchasePass(request))
            await until_health(service, State.SERVING)
            assert bought == await stub.PurchasePass(request)
            assert 1 == await passes(pair.primary.url)
            assert {} == await breaches(pair.primary.url)
