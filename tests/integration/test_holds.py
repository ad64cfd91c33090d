"""What comes after a purchase: holds, their confirmation, cancelling, and the end by time."""

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from google.type.money_pb2 import Money

from tests.conftest import Service, serving
from tests.integration.operating import until, until_started
from tests.integration.shop import (
    breaches,
    buy,
    create,
    fetch,
    get_product,
    outcome,
    outcomes,
    signed_offer,
    until_waiting,
)
from voucher_grpc.client import CallFailed, Client
from voucher_grpc.edge.wire.messages import instant_of
from voucher_grpc.v1.event_service_pb2 import Event
from voucher_grpc.v1.offer_pb2 import Offer
from voucher_grpc.v1.pass_pb2 import Pass, PassState
from voucher_grpc.v1.user_service_pb2 import EraseUserRequest

BUNDLE = {"energy_bundle_kwh": "100"}

# Of a hold: to do something within it, and to wait for its end.
LIFETIME_S = 4


async def hold(client: Client, offer: Offer, **changes: Any) -> Pass:
    """The second signal with a promise to pay."""
    return await client.purchase_pass(offer, **changes)


async def confirm(client: Client, held: Pass) -> Pass:
    """By a payment of its own."""
    return await client.confirm_purchase(held, payment_reference=f"pay-{uuid.uuid4()}")


async def state_of(client: Client, owned: Pass) -> str:
    """The state as it is read now."""
    read = await client.get_pass(owned.user_id, owned.pass_id)
    return PassState.Name(read.state).removeprefix("PASS_STATE_")


async def events_of(client: Client, user_id: str) -> list[Event]:
    """A user's events, in the order of the stream, once none is about to come."""
    found = [r.event async for r in client.stream_events() if r.HasField("event")]
    return [event for event in found if event.pass_event.user_id == user_id]


async def types_of(client: Client, user_id: str) -> list[str]:
    """What has happened to a user's passes."""
    return [e.type.removeprefix("voucher_grpc.v1.") for e in await events_of(client, user_id)]


@asynccontextmanager
async def nothing_is_closed(database_url: str) -> AsyncIterator[None]:
    """Hold the turn of those who close passes, on whichever server: no sweep runs."""
    connection = await asyncpg.connect(database_url)
    try:
        async with connection.transaction():
            await connection.execute("SELECT 1 FROM closing_turn FOR UPDATE")
            yield
    finally:
        await connection.close()


async def until_over(held: Pass) -> None:
    """Wait until a hold cannot be confirmed any more."""
    left = instant_of(held.hold_expire_time) - datetime.now(UTC)
    await asyncio.sleep(max(0.0, left.total_seconds()) + 0.05)


async def until_closed(database_url: str, passes: int) -> None:
    """Wait until so many passes have been closed."""
    query = "SELECT count(*) FROM passes WHERE close_time IS NOT NULL"

    async def closed() -> bool:
        return bool((await fetch(database_url, query))[0][0] >= passes)

    await until(closed)


async def test_a_hold_is_pending_until_it_is_paid(fresh_service: Service) -> None:
    """Held it is good for nothing; paid it is what was offered, from that moment on."""
    client = fresh_service.client
    offer = signed_offer(await create(client, "p", benefit=BUNDLE), "alice")
    held = await hold(client, offer, vehicle_id="car")
    assert PassState.PASS_STATE_PENDING == held.state
    assert not held.HasField("start_time")
    assert not held.balance.HasField("energy_wh")
    assert "" == held.payment_reference
    lifetime = instant_of(held.hold_expire_time) - instant_of(held.purchase_time)
    assert timedelta(seconds=900) == lifetime
    paid = await client.confirm_purchase(held, payment_reference="pay-1")
    assert (PassState.PASS_STATE_ACTIVE, "pay-1") == (paid.state, paid.payment_reference)
    assert 100_000 == paid.balance.energy_wh
    assert paid.confirm_time == paid.start_time
    assert held.purchase_time == paid.purchase_time
    assert paid == await client.get_pass("alice", held.pass_id)
    assert ["PASS_HELD", "PASS_PURCHASED"] == await types_of(client, "alice")
    assert {} == await breaches(fresh_service.database_url)


async def test_retries_of_a_hold_find_the_pass_whatever_became_of_it(
    fresh_service: Service,
) -> None:
    """The key is a hold at this price: paid or cancelled, it is the same pass."""
    client = fresh_service.client
    created = await create(client, "p")
    offer, request_id = signed_offer(created, "alice"), str(uuid.uuid4())
    held = await hold(client, offer, request_id=request_id)
    paid = await confirm(client, held)
    assert paid == await hold(client, offer, request_id=request_id)
    with pytest.raises(CallFailed, match="REQUEST_ID_REUSED"):
        await client.purchase_pass(offer, payment_reference="pay-x", request_id=request_id)
    with pytest.raises(CallFailed, match="OFFER_ALREADY_BOUGHT"):
        await hold(client, offer)
    other = signed_offer(created, "alice", lifetime_s=601)
    held = await hold(client, other, request_id=(request_id := str(uuid.uuid4())))
    ended = await client.cancel_pass("alice", held.pass_id)
    assert ended == await hold(client, other, request_id=request_id)


async def test_a_hold_has_the_last_one_until_its_time_is_over(fresh_database: str) -> None:
    """Not a moment longer, whether or not that it has lapsed was noted."""
    async with serving(fresh_database, hold_lifetime_s=LIFETIME_S) as service:
        client = service.client
        created = await create(client, "p", stock=1, personal_limit={"max_purchases": 1})
        async with nothing_is_closed(fresh_database):
            held = await hold(client, signed_offer(created, "alice"))
            assert "SOLD_OUT" == await outcome(buy(client, signed_offer(created, "bob")))
            again = signed_offer(created, "alice", lifetime_s=700)
            assert "PERSONAL_LIMIT_REACHED" == await outcome(buy(client, again))
            assert 1 == (await get_product(client, "p")).sold
            await until_over(held)
            assert "LAPSED" == await state_of(client, held)
            await buy(client, again)
            assert "SOLD_OUT" == await outcome(buy(client, signed_offer(created, "bob")))
        await until_closed(fresh_database, 1)
        assert 1 == (await get_product(client, "p")).sold
        told = ["PASS_HELD", "PASS_PURCHASED", "PASS_LAPSED"]
        assert told == await types_of(client, "alice")
        assert {} == await breaches(fresh_database)


async def test_a_batch_that_empties_the_stock_takes_back_what_has_lapsed(
    fresh_database: str,
) -> None:
    """Not only one that finds it empty: some are left, one of them under a hold that is over."""
    async with serving(fresh_database, hold_lifetime_s=LIFETIME_S) as service:
        client = service.client
        created = await create(client, "p", stock=4)
        async with nothing_is_closed(fresh_database):
            held = await hold(client, signed_offer(created, "alice"))
            await until_over(held)
            works = [buy(client, signed_offer(created, f"user-{n}")) for n in range(12)]
            # The first waits for this lock, and the others gather behind it.
            connection = await asyncpg.connect(fresh_database)
            async with connection.transaction():
                await connection.execute("SELECT 1 FROM product_stock FOR UPDATE")
                verdicts = asyncio.create_task(outcomes(works))
                await until_started(service.server, "PurchasePass", 13)
                await until_waiting(fresh_database)
            await connection.close()
            assert Counter(OK=4, SOLD_OUT=8) == await verdicts
        await until_closed(fresh_database, 1)
        assert 4 == (await get_product(client, "p")).sold
        assert {} == await breaches(fresh_database)


async def test_a_hold_cannot_be_paid_after_its_time(fresh_database: str) -> None:
    """Refused by the instant, before any sweep and after it; the payment is not used."""
    async with serving(fresh_database, hold_lifetime_s=LIFETIME_S) as service:
        client = service.client
        created = await create(client, "p", stock=1)
        async with nothing_is_closed(fresh_database):
            held = await hold(client, signed_offer(created, "alice"))
            await until_over(held)
            with pytest.raises(CallFailed, match="HOLD_EXPIRED") as refused:
                await client.confirm_purchase(held, payment_reference="pay-1")
            assert refused.value.metadata["hold_expire_time"].startswith("20")
            with pytest.raises(CallFailed, match="HOLD_EXPIRED"):
                await client.cancel_pass("alice", held.pass_id)
        await until_closed(fresh_database, 1)
        with pytest.raises(CallFailed, match="HOLD_EXPIRED"):
            await client.confirm_purchase(held, payment_reference="pay-1")
        bought = await client.purchase_pass(signed_offer(created, "bob"), payment_reference="pay-1")
        assert PassState.PASS_STATE_ACTIVE == bought.state
        assert {} == await breaches(fresh_database)


async def test_a_confirmation_is_done_once(fresh_service: Service) -> None:
    """The same payment again is the same pass; another one is refused and stays unused."""
    client = fresh_service.client
    created = await create(client, "p")
    held = await hold(client, signed_offer(created, "alice"))
    paid = await asyncio.gather(
        *(client.confirm_purchase(held, payment_reference="pay-1") for _ in range(20))
    )
    assert 1 == len({one.SerializeToString() for one in paid})
    assert ["PASS_HELD", "PASS_PURCHASED"] == await types_of(client, "alice")
    with pytest.raises(CallFailed, match="PASS_ALREADY_PAID"):
        await client.confirm_purchase(held, payment_reference="pay-2")
    other = await hold(client, signed_offer(created, "bob"))
    with pytest.raises(CallFailed, match="PAYMENT_REFERENCE_USED"):
        await client.confirm_purchase(other, payment_reference="pay-1")
    other.price.units += 1
    with pytest.raises(CallFailed, match="PAYMENT_MISMATCH"):
        await client.confirm_purchase(other, payment_reference="pay-2")
    other.price.units -= 1
    assert "pay-2" == (await confirm_by(client, other, "pay-2")).payment_reference
    captured = await buy(client, signed_offer(created, "carol"))
    same = await confirm_by(client, captured, captured.payment_reference)
    assert captured == same
    assert {} == await breaches(fresh_service.database_url)


async def confirm_by(client: Client, held: Pass, reference: str) -> Pass:
    """By a payment that is named."""
    return await client.confirm_purchase(held, payment_reference=reference)


async def test_one_payment_for_two_holds_at_once_pays_one(fresh_service: Service) -> None:
    """In whichever order they come."""
    client = fresh_service.client
    created = await create(client, "p")
    held = [await hold(client, signed_offer(created, f"user-{n}")) for n in range(20)]
    counts = await outcomes(confirm_by(client, one, "pay-1") for one in held)
    assert Counter(OK=1, PAYMENT_REFERENCE_USED=19) == counts
    assert {} == await breaches(fresh_service.database_url)


async def test_cancelling_gives_back_stock_limit_and_money(fresh_service: Service) -> None:
    """Unused: the whole price. The pass is good for nothing and its offer stays bought."""
    client = fresh_service.client
    created = await create(
        client,
        "p",
        benefit=BUNDLE,
        stock=1,
        personal_limit={"max_purchases": 1},
        withdrawal_days=14,
    )
    offer = signed_offer(created, "alice")
    bought = await buy(client, offer)
    end = instant_of(bought.withdrawal_end_time)
    assert timedelta(days=14) == end - instant_of(bought.purchase_time)
    quoted = await client.cancel_pass("alice", bought.pass_id, validate_only=True)
    assert Money(currency_code="NOK", units=49) == quoted.refund
    assert "ACTIVE" == await state_of(client, bought)
    ended = await asyncio.gather(*(client.cancel_pass("alice", bought.pass_id) for _ in range(9)))
    assert 1 == len({one.SerializeToString() for one in ended})
    assert PassState.PASS_STATE_CANCELLED == ended[0].state
    assert Money(currency_code="NOK", units=49) == ended[0].refund
    assert (0, True) == (ended[0].balance.energy_wh, ended[0].HasField("cancel_time"))
    assert ended[0] == await client.get_pass("alice", bought.pass_id)
    assert 0 == (await get_product(client, "p")).sold
    with pytest.raises(CallFailed, match="OFFER_ALREADY_BOUGHT"):
        await buy(client, offer)
    await buy(client, signed_offer(created, "alice", lifetime_s=700))
    assert "SOLD_OUT" == await outcome(buy(client, signed_offer(created, "bob")))
    events = await events_of(client, "alice")
    told = ["PASS_PURCHASED", "PASS_CANCELLED", "PASS_PURCHASED"]
    assert told == [e.type.removeprefix("voucher_grpc.v1.") for e in events]
    refund = events[1].pass_event.refund
    assert (ended[0].refund, bought.payment_reference) == (refund.amount, refund.payment_reference)
    assert not events[0].pass_event.HasField("refund")
    assert {} == await breaches(fresh_service.database_url)


async def test_a_hold_can_be_cancelled_by_any_terms(fresh_service: Service) -> None:
    """There is nothing to give back; paying it afterwards is refused."""
    client = fresh_service.client
    created = await create(client, "p", stock=1)
    held = await hold(client, signed_offer(created, "alice"))
    ended = await client.cancel_pass("alice", held.pass_id)
    assert PassState.PASS_STATE_CANCELLED == ended.state
    assert not ended.HasField("refund")
    with pytest.raises(CallFailed, match="PASS_CANCELLED"):
        await confirm(client, held)
    await buy(client, signed_offer(created, "bob"))
    assert ["PASS_HELD", "PASS_CANCELLED"] == await types_of(client, "alice")
    assert {} == await breaches(fresh_service.database_url)


async def test_cancelling_is_refused_outside_of_the_terms(fresh_database: str) -> None:
    """None agreed, their time over, the pass over, or no such pass."""
    async with serving(fresh_database) as service:
        client = service.client
        final = await buy(client, signed_offer(await create(client, "final"), "alice"))
        with pytest.raises(CallFailed, match="WITHDRAWAL_CLOSED"):
            await client.cancel_pass("alice", final.pass_id)
        with pytest.raises(CallFailed, match="PASS_NOT_FOUND"):
            await client.cancel_pass("bob", final.pass_id)
        with pytest.raises(CallFailed, match="PASS_NOT_FOUND"):
            await client.cancel_pass("alice", "nonsense")
        with pytest.raises(CallFailed, match="PASS_NOT_FOUND"):
            await confirm_by(
                client, Pass(user_id="bob", pass_id=final.pass_id, price=final.price), "x"
            )
        created = await create(client, "old", withdrawal_days=1)
        old = await buy(client, signed_offer(created, "alice"))
        await fetch(
            fresh_database,
            """UPDATE passes SET purchase_time = purchase_time - interval '1 day'
            WHERE product_id = 'old'""",
        )
        with pytest.raises(CallFailed, match="WITHDRAWAL_CLOSED") as refused:
            await client.cancel_pass("alice", old.pass_id)
        assert "withdrawal_end_time" in refused.value.metadata


def ending_soon(seconds: float) -> dict[str, Any]:
    """A validity of a day that is over in a moment."""
    start = datetime.now(UTC) - timedelta(days=1) + timedelta(seconds=seconds)
    return {"days": 1, "start": "AT", "start_time": start.isoformat()}


async def test_a_pass_that_is_over_is_told_of_once_by_ten_servers(fresh_database: str) -> None:
    """Nobody calls: the service does it by itself, and Postgres decides which server."""
    async with serving(fresh_database) as service:
        client = service.client
        created = await create(
            client, "p", validity=ending_soon(3 * LIFETIME_S), time_zone="UTC", withdrawal_days=14
        )
        bought = [await buy(client, signed_offer(created, f"user-{n}")) for n in range(5)]
        async with (
            serving(fresh_database),
            serving(fresh_database),
            serving(fresh_database),
            serving(fresh_database),
        ):
            await until_closed(fresh_database, 5)
        for one in bought:
            assert "EXPIRED" == await state_of(client, one)
            assert ["PASS_PURCHASED", "PASS_EXPIRED"] == await types_of(client, one.user_id)
        assert 5 == (await get_product(client, "p")).sold
        with pytest.raises(CallFailed, match="PASS_EXPIRED"):
            await client.cancel_pass("user-0", bought[0].pass_id)
        assert {} == await breaches(fresh_database)


async def test_many_holds_lapse_once_each_beside_two_servers_that_sell(
    fresh_database: str,
) -> None:
    """Half are paid in time; the places of the others are sold again, none twice."""
    async with (
        serving(fresh_database, hold_lifetime_s=2 * LIFETIME_S) as one,
        serving(fresh_database, hold_lifetime_s=2 * LIFETIME_S) as two,
    ):
        created = await create(one.client, "p", stock=40)
        clients = (one.client, two.client)
        held = await asyncio.gather(
            *(hold(clients[n % 2], signed_offer(created, f"user-{n}")) for n in range(40))
        )
        assert "SOLD_OUT" == await outcome(buy(one.client, signed_offer(created, "late")))
        counts = await outcomes(confirm(clients[n // 2 % 2], held[n]) for n in range(0, 40, 2))
        assert Counter(OK=20) == counts
        await until_over(held[-1])
        works = [buy(clients[n % 2], signed_offer(created, f"other-{n}")) for n in range(60)]
        assert Counter(OK=20, SOLD_OUT=40) == await outcomes(works)
        await until_closed(fresh_database, 20)
        assert 40 == (await get_product(one.client, "p")).sold
        rows = await fetch(
            fresh_database, "SELECT count(*) FROM events WHERE event_type = 'PASS_LAPSED'"
        )
        assert 20 == rows[0][0]
        assert [] == await fetch(fresh_database, "SELECT 1 FROM holds")
        assert {} == await breaches(fresh_database)


async def test_paying_and_cancelling_at_once_end_in_one_order(fresh_service: Service) -> None:
    """Cancelled before it was paid, or after: never both refused, never paid in the end."""
    client = fresh_service.client
    created = await create(client, "p", benefit=BUNDLE, withdrawal_days=14, stock=30)
    for n in range(10):
        held = await hold(client, signed_offer(created, f"user-{n}"))
        works = [
            confirm_by(client, held, f"pay-{n}"),
            client.cancel_pass(f"user-{n}", held.pass_id),
        ]
        paid, cancelled = await asyncio.gather(*works, return_exceptions=True)
        assert isinstance(cancelled, Pass)
        assert isinstance(paid, Pass) or (
            isinstance(paid, CallFailed) and "PASS_CANCELLED" == paid.reason
        )
        assert "CANCELLED" == await state_of(client, held)
    assert 0 == (await get_product(client, "p")).sold
    assert {} == await breaches(fresh_service.database_url)


async def test_erasing_a_user_ends_the_holds(fresh_service: Service) -> None:
    """Only if they are forfeited; the stock has them back at once."""
    client = fresh_service.client
    created = await create(client, "p", stock=1)
    await hold(client, signed_offer(created, "alice"))
    with pytest.raises(CallFailed, match="USER_HAS_ACTIVE_PASSES"):
        await client.call(client.user.EraseUser, EraseUserRequest(user_id="alice"))
    await client.call(client.user.EraseUser, EraseUserRequest(user_id="alice", forfeit=True))
    assert 0 == (await get_product(client, "p")).sold
    await buy(client, signed_offer(created, "bob"))
    assert [] == await fetch(fresh_service.database_url, "SELECT 1 FROM holds")
    assert {} == await breaches(fresh_service.database_url)


async def test_a_hold_that_ends_during_an_erasure_brings_no_row_back(fresh_database: str) -> None:
    """Who closes it waits for the erasure, and then there is nobody to close it for."""
    async with serving(fresh_database, hold_lifetime_s=LIFETIME_S) as service:
        client = service.client
        await hold(client, signed_offer(await create(client, "p"), "alice"))
        connection = await asyncpg.connect(fresh_database)
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("SELECT 1 FROM user_sequences FOR UPDATE")
        request = EraseUserRequest(user_id="alice", forfeit=True)
        erasing = asyncio.create_task(client.call(client.user.EraseUser, request))
        await until_waiting(fresh_database, 2)  # the erasure, and who closes the hold
        await transaction.rollback()
        await connection.close()
        await erasing
        await asyncio.sleep(1.5)
        query = "SELECT 1 FROM user_sequences WHERE user_id = 'alice'"
        assert [] == await fetch(fresh_database, query)


async def test_a_pass_that_nobody_has_leaves_nothing_behind(fresh_service: Service) -> None:
    """Anybody can name a user and a pass."""
    client, url = fresh_service.client, fresh_service.database_url
    nobodys = Pass(user_id="nobody", pass_id=str(uuid.uuid4()), price=Money(currency_code="NOK"))
    assert "PASS_NOT_FOUND" == await outcome(client.cancel_pass("nobody", nobodys.pass_id))
    assert "PASS_NOT_FOUND" == await outcome(confirm(client, nobodys))
    assert [] == await fetch(url, "SELECT 1 FROM user_sequences")
    assert [] == await fetch(url, "SELECT 1 FROM payment_references")


async def test_an_erased_users_passes_keep_what_became_of_them(fresh_service: Service) -> None:
    """Refunds and confirmations are accounts too."""
    client, url = fresh_service.client, fresh_service.database_url
    created = await create(client, "p", benefit=BUNDLE, withdrawal_days=14)
    held = await hold(client, signed_offer(created, "alice"))
    await confirm_by(client, held, "pay-1")
    await client.cancel_pass("alice", held.pass_id)
    columns = """SELECT price_micros, payment_reference, purchase_time, start_time, end_time,
        hold_expire_time, confirm_time, close_time, closed_as, refund_micros FROM passes"""
    before = await fetch(url, columns)
    await client.call(client.user.EraseUser, EraseUserRequest(user_id="alice"))
    assert before == await fetch(url, columns)
    assert [] == await fetch(url, "SELECT 1 FROM passes WHERE user_id = 'alice'")
    assert {} == await breaches(url)


async def test_offers_leave_out_what_a_hold_has(fresh_service: Service) -> None:
    """The limit counts it while it is held, and not once it is cancelled."""
    client = fresh_service.client
    await create(client, "p", personal_limit={"max_purchases": 1}, default_offer=True)
    answer = await client.request_offers(user_id="alice", currency_code="NOK")
    held = await hold(client, answer.offers[0])
    assert 0 == len((await client.request_offers(user_id="alice", currency_code="NOK")).offers)
    await client.cancel_pass("alice", held.pass_id)
    assert 1 == len((await client.request_offers(user_id="alice", currency_code="NOK")).offers)


async def test_the_terms_of_withdrawal_stand_in_the_offer(fresh_service: Service) -> None:
    """Before it is bought; a product without them says nothing."""
    client = fresh_service.client
    await create(client, "p", withdrawal_days=14, default_offer=True)
    answer = await client.request_offers(user_id="alice", currency_code="NOK")
    assert 14 == answer.offers[0].withdrawal.days
    bought = await client.purchase_pass(answer.offers[0], payment_reference="pay-1")
    assert bought.HasField("withdrawal_end_time")
