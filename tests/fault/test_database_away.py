"""Postgres goes away at the worst moment: nothing is bought twice, nothing acknowledged is lost."""

import asyncio
import os
import signal
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.conftest import Service, serving
from tests.integration.operating import PATIENCE_S, until_metric
from tests.integration.shop import breaches, create, fetch, signed_offer, until_waiting
from tests.proxy import proxied
from voucher_grpc.client import CallFailed, Client, call_failed
from voucher_grpc.dev.postgres import embedded_postgres, throw_away_postgres
from voucher_grpc.store.migrate import migrate
from voucher_grpc.v1.offer_pb2 import Offer
from voucher_grpc.v1.voucher_service_pb2 import (
    CapturedPayment,
    Payment,
    PurchasePassRequest,
    RequestOffersRequest,
)
from voucher_grpc.v1.voucher_service_pb2_grpc import VoucherServiceStub

State = health_pb2.HealthCheckResponse


@asynccontextmanager
async def without_retries(service: Service) -> AsyncIterator[Any]:
    """A stub that tells what happened instead of trying again, as the client would."""
    options = [("grpc.enable_retries", 0)]
    async with grpc.aio.insecure_channel(service.target, options) as channel:
        yield VoucherServiceStub(channel)


async def offer_for(client: Client, user_id: str) -> Offer:
    """An offer for a user of whom nothing is known."""
    answer = await client.request_offers(user_id=user_id, currency_code="NOK")
    return answer.offers[0]


def purchase(offer: Offer) -> PurchasePassRequest:
    """The second signal, with a request_id and a payment of its own."""
    payment = CapturedPayment(reference=f"pay-{uuid.uuid4()}", amount=offer.price)
    return PurchasePassRequest(
        request_id=str(uuid.uuid4()), offer_id=offer.offer_id, payment=Payment(captured=payment)
    )


async def failure(call: Any) -> CallFailed:
    """How a call failed."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(call, PATIENCE_S)
    return call_failed(caught.value)


def assert_the_store_is_away(failed: CallFailed) -> None:
    """UNAVAILABLE with the reason and the time to wait, and nothing of what the driver said."""
    assert grpc.StatusCode.UNAVAILABLE == failed.code
    assert "STORE_UNAVAILABLE" == failed.reason
    assert failed.retry_after_s is not None
    assert failed.retry_after_s > 0
    assert "the database is not available" == failed.message


async def once_back(call: Callable[[], Any], within_s: float = PATIENCE_S) -> Any:
    """The answer of the first call that the database is not away for any more."""
    async with asyncio.timeout(within_s):
        while True:
            try:
                return await call()
            except grpc.aio.AioRpcError as error:
                assert_the_store_is_away(call_failed(error))
                await asyncio.sleep(0.02)


async def until_health(service: Service, wanted: Any, within_s: float = PATIENCE_S) -> None:
    """Return once health is that."""
    async with asyncio.timeout(within_s), grpc.aio.insecure_channel(service.target) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        async for answer in stub.Watch(health_pb2.HealthCheckRequest()):
            if answer.status == wanted:
                return


async def passes(url: str) -> int:
    """How many passes there are."""
    return int((await fetch(url, "SELECT count(*) FROM passes"))[0][0])


async def test_a_cut_under_a_request_for_offers(fresh_database: str) -> None:
    """The call under way and the ones while it lasts are told to come back; then it works again."""
    async with proxied(fresh_database) as proxy, serving(proxy.url) as service:
        await create(service.client, "standard", default_offer=True)
        await offer_for(service.client, "alice")
        request = RequestOffersRequest(user_id="alice", currency_code="NOK")
        async with without_retries(service) as stub:
            proxy.freeze()
            under_way = asyncio.ensure_future(failure(stub.RequestOffers(request)))
            await asyncio.sleep(0.1)
            proxy.cut()
            assert_the_store_is_away(await under_way)
            assert_the_store_is_away(await failure(stub.RequestOffers(request)))
            proxy.restore()
            assert 1 == len((await once_back(lambda: stub.RequestOffers(request))).offers)


async def test_a_database_that_hangs_ends_calls_by_their_timeout(fresh_database: str) -> None:
    """No answer and no broken connection either: the statement's timeout ends the waiting."""
    async with (
        proxied(fresh_database) as proxy,
        serving(proxy.url, statement_timeout_s=2.0, connect_timeout_s=2.0) as service,
        without_retries(service) as stub,
    ):
        await create(service.client, "standard", default_offer=True)
        offer = await offer_for(service.client, "alice")
        request = purchase(offer)
        proxy.freeze()
        assert_the_store_is_away(await failure(stub.PurchasePass(request)))
        proxy.restore()
        bought = await once_back(lambda: stub.PurchasePass(request))
        assert "alice" == getattr(bought, "pass").user_id
        assert 1 == await passes(fresh_database)


@pytest.mark.parametrize(
    ("before", "stored"),
    [pytest.param(True, 0, id="before it"), pytest.param(False, 1, id="after it")],
)
async def test_a_cut_at_the_commit_of_a_purchase(
    fresh_database: str, before: bool, stored: int
) -> None:
    """Whether Postgres has committed is not known then; the same request_id finds out.

    Nothing was stored before the commit, one pass after it. Either way the retry
    answers with the one pass there is.
    """
    async with (
        proxied(fresh_database) as proxy,
        serving(proxy.url) as service,
        without_retries(service) as stub,
    ):
        await create(service.client, "standard", default_offer=True)
        request = purchase(await offer_for(service.client, "alice"))
        proxy.cut_at_commit(before=before, stay_away=True)
        assert_the_store_is_away(await failure(stub.PurchasePass(request)))
        assert 1 == proxy.commits_cut
        assert stored == await passes(fresh_database)
        proxy.restore()
        bought = getattr(await once_back(lambda: stub.PurchasePass(request)), "pass")
        again = getattr(await stub.PurchasePass(request), "pass")
        assert bought.pass_id == again.pass_id
        assert 1 == await passes(fresh_database)
        assert {} == await breaches(fresh_database)


@pytest.mark.parametrize("before", [True, False], ids=["before it", "after it"])
async def test_the_service_looks_up_itself_what_became_of_a_commit(
    fresh_database: str, before: bool
) -> None:
    """Where the database can be had again at once the caller hears nothing of the cut."""
    async with (
        proxied(fresh_database) as proxy,
        serving(proxy.url) as service,
        without_retries(service) as stub,
    ):
        await create(service.client, "standard", default_offer=True)
        request = purchase(await offer_for(service.client, "alice"))
        proxy.cut_at_commit(before=before)
        bought = getattr(await stub.PurchasePass(request), "pass")
        assert 1 == proxy.commits_cut
        assert bought == getattr(await stub.PurchasePass(request), "pass")
        assert 1 == await passes(fresh_database)
        assert {} == await breaches(fresh_database)


async def test_a_cut_while_the_database_is_away_for_purchases(fresh_database: str) -> None:
    """While it lasts each try is told so; the first one after it succeeds, without a restart."""
    async with (
        proxied(fresh_database) as proxy,
        serving(proxy.url) as service,
        without_retries(service) as stub,
    ):
        await create(service.client, "standard", default_offer=True)
        request = purchase(await offer_for(service.client, "alice"))
        proxy.cut()
        for _ in range(3):
            assert_the_store_is_away(await failure(stub.PurchasePass(request)))
        proxy.restore()
        await once_back(lambda: stub.PurchasePass(request))
        assert 1 == await passes(fresh_database)


async def test_the_client_gets_over_cut_commits_by_itself(fresh_database: str) -> None:
    """Its retries carry the request_id of the first try: many buyers, one pass each."""
    users = [f"user-{number}" for number in range(40)]
    async with proxied(fresh_database) as proxy, serving(proxy.url) as service:
        client = service.client
        await create(client, "standard", default_offer=True)
        offers = [await offer_for(client, user_id) for user_id in users]

        async def buy(offer: Offer) -> str:
            bought = await client.purchase_pass(offer, payment_reference=f"pay-{uuid.uuid4()}")
            return bought.user_id

        for part, before in ((offers[:20], True), (offers[20:], False)):
            proxy.cut_at_commit(before=before)
            await asyncio.gather(*(buy(offer) for offer in part))
        assert 2 == proxy.commits_cut
        assert len(users) == await passes(fresh_database)
        assert {} == await breaches(fresh_database)


def kill_postgres(data: Path) -> None:
    """SIGKILL to Postgres and all of its processes, as a power cut would."""
    postmaster = int((data / "postmaster.pid").read_text(encoding="utf-8").split()[0])
    listed = Path(f"/proc/{postmaster}/task/{postmaster}/children")
    children = listed.read_text(encoding="utf-8").split() if listed.exists() else []
    for process in (postmaster, *map(int, children)):
        os.kill(process, signal.SIGKILL)


class Buyers:
    """Buy one pass after the other and remember what was acknowledged."""

    def __init__(self, stub: Any, offers: dict[str, Offer]) -> None:
        self._stub = stub
        self.requests = {user_id: purchase(offer) for user_id, offer in offers.items()}
        self.acknowledged: dict[str, str] = {}

    async def buy(self, user_id: str) -> None:
        """Try once; whatever is not acknowledged has an outcome that is not known."""
        try:
            response = await self._stub.PurchasePass(self.requests[user_id], timeout=PATIENCE_S)
        except grpc.aio.AioRpcError as error:
            assert_the_store_is_away(call_failed(error))
        else:
            self.acknowledged[user_id] = getattr(response, "pass").pass_id

    async def buy_all(self) -> None:
        """All at once, a few at a time, so that the kill hits some under way."""
        for chunk in _chunks([u for u in self.requests if u not in self.acknowledged], 8):
            await asyncio.gather(*(self.buy(user_id) for user_id in chunk))


def _chunks(items: list[str], size: int) -> list[list[str]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


async def test_acknowledged_purchases_survive_a_kill_of_postgres(tmp_path: Path) -> None:
    """SIGKILL under load, restart: each acknowledged pass is there, each retry gets one pass."""
    with throw_away_postgres() as url:
        data = Path(url.partition("host=")[2])
        await migrate(url)
        async with serving(url) as service, without_retries(service) as stub:
            await create(service.client, "standard", default_offer=True)
            users = [f"user-{number}" for number in range(400)]
            offers = {user_id: await offer_for(service.client, user_id) for user_id in users}
            buyers = Buyers(stub, offers)
            buying = asyncio.create_task(buyers.buy_all())
            while len(buyers.acknowledged) < 40:  # noqa: ASYNC110 - until it is well under way
                await asyncio.sleep(0.001)
            kill_postgres(data)
            await buying
            acknowledged = dict(buyers.acknowledged)
            assert 40 <= len(acknowledged) < len(users)

            with embedded_postgres(data) as restarted:
                assert url == restarted
                await until_health(service, State.SERVING)
                rows = await fetch(url, "SELECT user_id, pass_id::text FROM passes")
                stored = {row["user_id"]: row["pass_id"] for row in rows}
                assert acknowledged.items() <= stored.items()
                await buyers.buy_all()
                assert set(users) == set(buyers.acknowledged)
                assert stored.items() <= buyers.acknowledged.items()
                assert len(users) == await passes(url)
                assert {} == await breaches(url)


async def test_a_batch_that_postgres_ends_for_a_deadlock_is_tried_once_more(
    fresh_service: Service,
) -> None:
    """Nothing of it was written, so nobody of the batch need hear of it."""
    url, client = fresh_service.database_url, fresh_service.client
    sold = await create(client, "standard", default_offer=True)
    users = ("carol", "alice", "bob")
    for user_id in users:  # who have a pass have a row to lock
        await client.purchase_pass(signed_offer(sold, user_id), payment_reference=user_id)
    wanted = [purchase(signed_offer(sold, user_id, lifetime_s=500)) for user_id in users]
    lock = "SELECT 1 FROM user_sequences WHERE user_id = $1 FOR UPDATE"
    async with AsyncExitStack() as stack:
        stub = await stack.enter_async_context(without_retries(fresh_service))
        before, other = [await asyncpg.connect(url) for _ in range(2)]
        stack.push_async_callback(before.close)
        stack.push_async_callback(other.close)
        # The batch is the one that Postgres ends, since the other does not look for a circle.
        await other.execute("SET deadlock_timeout = '10min'")
        async with other.transaction():
            async with before.transaction():
                await before.execute(lock, "carol")
                bought = [asyncio.ensure_future(stub.PurchasePass(wanted[0]))]
                await until_waiting(url)
                await other.execute(lock, "bob")
                # Both wait for the batch before, and so make the next one.
                bought += [asyncio.ensure_future(stub.PurchasePass(w)) for w in wanted[1:]]
                await until_metric(fresh_service, "voucher_waiting{batch=purchases}", 2)
            await bought[0]
            await until_waiting(url)
            # It gets the row only because the batch was ended.
            await asyncio.wait_for(other.execute(lock, "alice"), PATIENCE_S / 2)
        await asyncio.wait_for(asyncio.gather(*bought), PATIENCE_S)
    assert 6 == await passes(url)
    assert {} == await breaches(url)
