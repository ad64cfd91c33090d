"""A database that answers no more: what fails fails fast, and what comes back is used at once."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import asyncpg
import grpc
import pytest

from tests.conftest import serving
from tests.fault.postgres import own_cluster
from tests.fault.processes import frozen_family, tell
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
from tests.integration.operating import PATIENCE_S, metrics
from tests.integration.shop import breaches, create, until_waiting
from tests.proxy import proxied
from voucher_grpc.client import call_failed
from voucher_grpc.store.circuit_breaker import CircuitBreaker
from voucher_grpc.v1.catalogue_service_pb2 import UpdateProductRequest
from voucher_grpc.v1.catalogue_service_pb2_grpc import CatalogueServiceStub
from voucher_grpc.v1.user_service_pb2 import GetUserRequest, UpsertUserRequest, User
from voucher_grpc.v1.user_service_pb2_grpc import UserServiceStub
from voucher_grpc.v1.voucher_service_pb2 import GetPassRequest, RequestOffersRequest

LOOK_S = 0.5
# Without looks all would wait for so long, far longer than the tests do.
STATEMENT_S, CONNECT_S = 300.0, 60.0
SETTINGS = {
    "db_probe_timeout_s": LOOK_S,
    "statement_timeout_s": STATEMENT_S,
    "connect_timeout_s": CONNECT_S,
}


async def fails_by_the_probe(call: Any) -> None:
    """The call fails as the database is away, by a look: nothing else ends it so soon."""
    assert_the_store_is_away(await failure(call))


async def test_a_frozen_postgres_is_told_of_in_the_time_of_a_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SIGSTOP: who waits is refused soon, who comes later at once; SIGCONT: all goes on.

    Each kind of waiting: a batch of reads, a batch of purchases, a call of the pool. What
    was under way when it froze may have happened or not; the same request finds out.
    """
    async with own_cluster() as cluster:
        url = await cluster.new_database("frozen")
        async with serving(url, **SETTINGS) as service, without_retries(service) as stub:
            await create(service.client, "standard", default_offer=True)
            offers = [await offer_for(service.client, f"user-{n}") for n in range(20)]
            requests = [purchase(offer) for offer in offers]
            bought = await stub.PurchasePass(requests[0])
            owned = getattr(bought, "pass")
            wanted = GetPassRequest(user_id=owned.user_id, pass_id=owned.pass_id)
            asked = RequestOffersRequest(user_id="alice", currency_code="NOK")
            frozen = frozen_family(cluster._pid())
            try:
                calls = [
                    stub.RequestOffers(asked),
                    stub.GetPass(wanted),
                    *map(stub.PurchasePass, requests[1:]),
                ]
                await asyncio.gather(*map(fails_by_the_probe, calls))
                await until_health(service, State.NOT_SERVING)
                # Refused at the gate: were one to wait, no look would end it any more.
                monkeypatch.setattr(CircuitBreaker, "trip", lambda _: None)
                calls = [stub.RequestOffers(asked) for _ in range(50)]
                calls += [stub.GetPass(wanted) for _ in range(50)]
                calls += [stub.PurchasePass(requests[1]) for _ in range(50)]
                await asyncio.gather(*map(fails_by_the_probe, calls))
                assert 0 == (await metrics(service))["voucher_pool_connections{state=open}"]
                monkeypatch.undo()
            finally:
                tell(frozen, signal.SIGCONT)
            again = await asyncio.gather(
                *(once_back(partial(stub.PurchasePass, request)) for request in requests)
            )
            assert owned == getattr(again[0], "pass")
            assert len(requests) == await passes(url)
            assert {} == await breaches(url)
            await until_health(service, State.SERVING)


@pytest.mark.parametrize("before", [True, False], ids=["before it", "after it"])
async def test_a_commit_that_is_not_answered_is_not_waited_for(
    fresh_database: str, before: bool
) -> None:
    """The caller hears of it in a look's time; whether it was done the retry finds out.

    The COMMIT is not cancelled by that: where Postgres had it, it stands.
    """
    async with (
        proxied(fresh_database) as proxy,
        serving(proxy.url, **SETTINGS) as service,
        without_retries(service) as stub,
    ):
        await create(service.client, "standard", default_offer=True)
        request = purchase(await offer_for(service.client, "alice"))
        proxy.freeze_at_commit(before=before)
        await fails_by_the_probe(stub.PurchasePass(request))
        assert 1 == proxy.commits_frozen
        assert (0 if before else 1) == await passes(fresh_database)
        proxy.restore()
        bought = getattr(await once_back(lambda: stub.PurchasePass(request)), "pass")
        assert bought == getattr(await stub.PurchasePass(request), "pass")
        assert 1 == await passes(fresh_database)
        assert {} == await breaches(fresh_database)


@asynccontextmanager
async def users_locked(url: str) -> AsyncIterator[None]:
    """While it lasts, calls that change or read users wait."""
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
            yield
    finally:
        await connection.close()


async def test_an_exhausted_pool_is_not_a_database_that_is_away(fresh_database: str) -> None:
    """Health stays, purchases go on, and who waits for a connection is told to come back."""
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(
            serving(
                fresh_database,
                pool_size=2,
                connect_timeout_s=1.0,
                db_probe_timeout_s=2.0,
                statement_timeout_s=STATEMENT_S,
            )
        )
        channel = await stack.enter_async_context(
            grpc.aio.insecure_channel(service.target, [("grpc.enable_retries", 0)])
        )
        await create(service.client, "standard", default_offer=True)
        offer = await offer_for(service.client, "alice")
        users: Any = UserServiceStub(channel)
        upsert = UpsertUserRequest(user=User(user_id="bob", time_zone="Europe/Oslo"))
        await users.UpsertUser(upsert)
        async with users_locked(fresh_database):
            slow = [asyncio.ensure_future(users.UpsertUser(upsert)) for _ in range(2)]
            await until_waiting(fresh_database, 2)
            failed = await failure(users.GetUser(GetUserRequest(user_id="bob")))
            assert (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED") == (
                failed.code,
                failed.reason,
            )
            assert failed.retry_after_s is not None
            with pytest.raises(TimeoutError):
                await until_health(service, State.NOT_SERVING, within_s=3 * LOOK_S)
            products: Any = CatalogueServiceStub(channel)
            refused = await failure(products.UpdateProduct(UpdateProductRequest()))
            assert "INVALID_FIELD" == refused.reason
        await asyncio.gather(*slow)
        await service.client.purchase_pass(offer, payment_reference="pay-1")
        assert 1 == await passes(fresh_database)


async def test_a_restarted_postgres_is_used_again_by_itself() -> None:
    """Killed and recovered between two purchases: the second goes through without a restart."""
    async with own_cluster() as cluster:
        url = await cluster.new_database("restarted")
        async with serving(url, **SETTINGS) as service, without_retries(service) as stub:
            await create(service.client, "standard", default_offer=True)
            first, second = [purchase(await offer_for(service.client, u)) for u in ("a", "b")]
            await stub.PurchasePass(first)
            await cluster.kill()
            await fails_by_the_probe(stub.PurchasePass(second))
            await until_health(service, State.NOT_SERVING)
            await cluster.start()
            await once_back(lambda: stub.PurchasePass(second))
            await until_health(service, State.SERVING)
            assert 2 == await passes(url)
            assert {} == await breaches(url)


async def test_a_primary_that_becomes_read_only_turns_health_and_comes_back(
    fresh_database: str,
) -> None:
    """Connections that were made before it would go on to be refused: they are dropped."""
    name = fresh_database.partition("?")[0].rpartition("/")[2]
    async with (
        serving(fresh_database, **SETTINGS) as service,
        without_retries(service) as stub,
    ):
        await create(service.client, "standard", default_offer=True)
        request = purchase(await offer_for(service.client, "alice"))
        admin = await asyncpg.connect(fresh_database)
        try:
            await admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
            await admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            await until_health(service, State.NOT_SERVING)
            assert_the_store_is_away(await failure(stub.PurchasePass(request)))
            await admin.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
            # Nobody ends the connections that were made meanwhile.
            await once_back(lambda: stub.PurchasePass(request))
            await until_health(service, State.SERVING)
        finally:
            await admin.close()
        assert 1 == await passes(fresh_database)


async def test_postgres_ends_by_itself_what_a_frozen_server_holds(fresh_database: str) -> None:
    """A server that stands still inside of a purchase: the others wait for its locks no longer
    than a statement's timeout says."""
    async with (
        proxied(fresh_database) as proxy,
        serving(proxy.url, statement_timeout_s=1.0) as stuck,
        serving(fresh_database) as other,
        without_retries(stuck) as stub,
    ):
        await create(other.client, "standard", default_offer=True)
        request = purchase(await offer_for(other.client, "alice"))
        # The connection stays open and silent, as that of a machine that froze does.
        proxy.freeze_at_commit(before=True)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.PurchasePass(request)
        assert_the_store_is_away(call_failed(caught.value))
        async with without_retries(other) as well:
            bought = await well.PurchasePass(request, timeout=PATIENCE_S)
        assert "alice" == getattr(bought, "pass").user_id
        assert 1 == await passes(fresh_database)
