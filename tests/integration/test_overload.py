"""A real server before a database that is too slow: who is answered, who hears what, what is
done. And what calls leave behind that are cancelled at any stage: nothing."""

import asyncio
import uuid
from collections import Counter
from typing import Any

import asyncpg
import pytest
from google.type.money_pb2 import Money

from tests.conftest import Service, serving
from tests.integration.operating import PATIENCE_S, held_up, metrics, until_metric
from tests.integration.shop import create, fetch, until_waiting
from voucher_grpc.client import CallFailed
from voucher_grpc.v1.user_service_pb2 import GetUserRequest
from voucher_grpc.v1.voucher_service_pb2 import (
    BatchRequestOffersRequest,
    CapturedPayment,
    Payment,
    PurchasePassRequest,
    RequestOffersRequest,
    StreamOffersRequest,
)

# Long, beside what a busy machine adds; and how long they wait.
SLOW_ROW_S, WAIT_S = 0.1, 10.0
PRICE = Money(currency_code="NOK", units=49)


async def slow_passes(database_url: str, row_s: float = SLOW_ROW_S) -> None:
    """Let each purchase take so long, as a database with too much to do would."""
    connection = await asyncpg.connect(database_url)
    await connection.execute(
        f"""CREATE OR REPLACE FUNCTION slow_row() RETURNS trigger LANGUAGE plpgsql AS
            $$BEGIN PERFORM pg_sleep({row_s}); RETURN NEW; END$$;
        CREATE OR REPLACE TRIGGER slow_row BEFORE INSERT ON passes
            FOR EACH ROW EXECUTE FUNCTION slow_row()"""
    )
    await connection.close()


async def offers(service: Service, count: int) -> list[PurchasePassRequest]:
    """Purchases that can be made, each by a user of its own."""
    await create(service.client, "standard", default_offer=True)
    requests = [
        RequestOffersRequest(user_id=f"buyer-{number}", currency_code="NOK", max_offers=1)
        for number in range(count)
    ]
    purchases = []
    for start in range(0, count, 100):
        batch = BatchRequestOffersRequest(requests=requests[start : start + 100])
        answer = await service.client.call(service.client.voucher.BatchRequestOffers, batch)
        for result in answer.results:
            request_id = str(uuid.uuid4())
            captured = CapturedPayment(reference=f"pay-{request_id}", amount=PRICE)
            purchases.append(
                PurchasePassRequest(
                    request_id=request_id,
                    offer_id=result.response.offers[0].offer_id,
                    payment=Payment(captured=captured),
                )
            )
    return purchases


async def buy(
    service: Service, purchase: PurchasePassRequest, deadline_s: float
) -> tuple[str, float]:
    """OK or the reason, and when to retry."""
    retry_s, reason = 0.0, "OK"
    try:
        await service.client.call(service.client.voucher.PurchasePass, purchase, deadline_s)
    except CallFailed as failed:
        reason, retry_s = failed.reason or failed.code.name, failed.retry_after_s or 0.0
    return reason, retry_s


async def learn(service: Service, purchases: list[PurchasePassRequest]) -> None:
    """Let the server see how slow its database is."""
    for few in (purchases[:1], purchases[1:6], purchases[6:20]):
        await asyncio.gather(*(buy(service, purchase, PATIENCE_S) for purchase in few))


async def count_passes(service: Service) -> int:
    """Passes that were made."""
    return int((await fetch(service.database_url, "SELECT count(*) FROM passes"))[0][0])


async def test_too_much_is_refused_quickly_and_what_is_taken_is_answered(
    fresh_service: Service,
) -> None:
    """300 who want to buy within 10 s what takes 30 s: as many as can be served are, the others
    hear so while they can still do something, and nothing is bought for nobody."""
    purchases = await offers(fresh_service, 320)
    await slow_passes(fresh_service.database_url, SLOW_ROW_S)
    await learn(fresh_service, purchases[:20])
    before = await count_passes(fresh_service)

    running = [asyncio.create_task(buy(fresh_service, purchases[20], PATIENCE_S))]
    await asyncio.sleep(0.005)
    for purchase in purchases[21:]:
        running.append(asyncio.create_task(buy(fresh_service, purchase, WAIT_S)))
        await asyncio.sleep(0.002)
    ended = await asyncio.gather(*running)

    # OVERLOADED comes before the deadline does.
    reasons = Counter(reason for reason, _ in ended)
    assert {"OK", "OVERLOADED"} >= set(reasons), reasons
    assert reasons["OK"] >= 30
    assert reasons["OVERLOADED"] >= 50
    assert all(0.1 <= retry_s <= 5.0 for reason, retry_s in ended if reason == "OVERLOADED")
    assert reasons["OK"] == await count_passes(fresh_service) - before

    found = await metrics(fresh_service)
    shed = {key: n for key, n in found.items() if key.startswith("voucher_shed_total")}
    assert reasons["OVERLOADED"] == sum(
        n for key, n in shed.items() if "where=purchases" in key and "gone" not in key
    )
    # Most of them at once, and not after they had waited.
    at_once = found["voucher_shed_total{where=purchases,why=late}"]
    assert at_once > reasons["OVERLOADED"] / 2
    refused = "voucher_refusals_total{grpc_method=PurchasePass,reason=OVERLOADED}"
    assert reasons["OVERLOADED"] == found[refused]
    assert 0 == found["voucher_waiting{batch=purchases}"]


async def test_the_purchase_of_who_has_gone_before_it_began_is_not_made(
    fresh_service: Service,
) -> None:
    """Twenty give up while the one before them is still being written."""
    purchases = await offers(fresh_service, 21)
    async with held_up(fresh_service.database_url):
        first = asyncio.create_task(buy(fresh_service, purchases[0], PATIENCE_S))
        await until_waiting(fresh_service.database_url)
        rest = [asyncio.create_task(buy(fresh_service, p, PATIENCE_S)) for p in purchases[1:]]
        await until_metric(fresh_service, "voucher_waiting{batch=purchases}", 20)
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        await until_metric(fresh_service, "voucher_shed_total{where=purchases,why=gone}", 20)
    assert "OK" == (await first)[0]
    await until_metric(fresh_service, "voucher_in_flight{kind=calls}", 0)
    assert 1 == await count_passes(fresh_service)


async def test_calls_under_way_are_bounded_before_they_are_read(fresh_database: str) -> None:
    """OVERLOADED with RetryInfo, also for bytes that are no message; then there is room again."""
    async with serving(fresh_database, max_concurrent_calls=3) as service:
        purchases = await offers(service, 4)
        async with held_up(service.database_url):
            running = [asyncio.create_task(buy(service, p, PATIENCE_S)) for p in purchases[:3]]
            await until_metric(service, "voucher_in_flight{kind=calls}", 3)
            reason, retry_s = await buy(service, purchases[3], PATIENCE_S)
            assert ("OVERLOADED", 1.0) == (reason, retry_s)
            found = await metrics(service)
            assert 1 == found["voucher_shed_total{where=calls,why=full}"]
        assert {"OK"} == {reason for reason, _ in await asyncio.gather(*running)}
        await until_metric(service, "voucher_in_flight{kind=calls}", 0)
        assert "OK" == (await buy(service, purchases[3], PATIENCE_S))[0]


async def at_rest(service: Service) -> None:
    """Wait until nothing is held for any call: no place, no stream, no connection of the pool."""
    names = [
        *(f"voucher_in_flight{{kind={kind}}}" for kind in ("calls", "streams", "probes")),
        *(f"voucher_waiting{{batch={batch}}}" for batch in ("offers", "purchases")),
        "voucher_event_streams",
    ]
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found = await metrics(service)
            opened, idle = (
                found[f"voucher_pool_connections{{state={state}}}"] for state in ("open", "idle")
            )
            # One connection may look at the database's health at the moment.
            if not any(found[name] for name in names) and opened - idle <= 1:
                return
            await asyncio.sleep(0.05)


async def cancelled(calls: list[Any], after_s: float) -> None:
    """Let calls run for a moment, then cancel them."""
    await asyncio.sleep(after_s)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)


@pytest.mark.parametrize("after_s", [0.0, 0.03, 0.2])
async def test_purchases_cancelled_while_they_wait_or_are_written_leave_nothing(
    fresh_service: Service, after_s: float
) -> None:
    """The next one is served as if they had not been."""
    purchases = await offers(fresh_service, 101)
    await slow_passes(fresh_service.database_url, 0.005)
    voucher = fresh_service.client.voucher
    for start in range(0, 100, 20):
        await cancelled([voucher.PurchasePass(p) for p in purchases[start : start + 20]], after_s)
    await at_rest(fresh_service)
    assert "OK" == (await buy(fresh_service, purchases[100], PATIENCE_S))[0]


async def test_calls_cancelled_while_they_wait_for_a_connection_leave_nothing(
    fresh_database: str,
) -> None:
    """A pool of one connection, which a lock holds up, and fifty who do not wait for it."""
    async with serving(fresh_database, pool_size=1, health_interval_s=60) as service:
        connection = await asyncpg.connect(fresh_database)
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
        for _ in range(3):
            stub = service.client.user.GetUser
            await cancelled([stub(GetUserRequest(user_id="nobody")) for _ in range(50)], 0.1)
        await transaction.rollback()
        await connection.close()
        await at_rest(service)
        with pytest.raises(CallFailed) as caught:
            await service.client.call(service.client.user.GetUser, GetUserRequest(user_id="none"))
        assert "USER_NOT_FOUND" == caught.value.reason


async def test_streams_that_are_cancelled_leave_nothing(fresh_service: Service) -> None:
    """Of offers, in the middle of answers, and of events, while they wait for some."""
    await create(fresh_service.client, "standard", default_offer=True)
    wanted = RequestOffersRequest(user_id="alice", currency_code="NOK")

    async def requests() -> Any:
        for number in range(10_000):
            yield StreamOffersRequest(tag=str(number), request=wanted)

    for _ in range(3):
        streams = [fresh_service.client.voucher.StreamOffers(requests()) for _ in range(10)]
        for stream in streams:
            await stream.read()
            stream.cancel()
        readers = [fresh_service.client.stream_events(follow=True) for _ in range(10)]
        for reader in readers:
            await anext(reader)
            await reader.aclose()
    await at_rest(fresh_service)


async def test_a_stream_of_offers_hears_of_overload_in_its_answers(fresh_database: str) -> None:
    """The stream goes on; each answer says for itself when to try again."""
    async with serving(fresh_database, max_waiting=1, max_batch=1) as service:
        await create(service.client, "standard", default_offer=True)
        wanted = RequestOffersRequest(user_id="alice", currency_code="NOK")
        requests = [StreamOffersRequest(tag=str(n), request=wanted) for n in range(50)]
        stream = service.client.voucher.StreamOffers(iter(requests))
        answers = [answer async for answer in stream]
        assert 50 == len(answers)
        codes = Counter(answer.result.WhichOneof("result") for answer in answers)
        assert len(codes) == 2, codes
