"""PurchasePass: invariants 1 to 4 of the design, over a socket, on a real Postgres."""

import asyncio
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from tests.conftest import Service, serving
from tests.integration.operating import until_started
from tests.integration.shop import (
    breaches,
    buy,
    create,
    fetch,
    get_product,
    habit,
    offer_for,
    outcome,
    outcomes,
    product,
    set_tariff,
    signed_offer,
    until_waiting,
)
from voucher_grpc.client import CallFailed, Client
from voucher_grpc.domain.offer_ids.signer import OfferSigner
from voucher_grpc.telemetry.logs import configure_logs
from voucher_grpc.v1.catalogue_service_pb2 import (
    RetireProductRequest,
    UpdateProductRequest,
)
from voucher_grpc.v1.pass_pb2 import Pass, PassState

# Of an offer: to buy within it, and to wait for its end.
LIFETIME_S = 5.0


async def test_a_bought_pass_has_the_terms_of_the_offer(
    shared_service: Service, unique: str
) -> None:
    """Price, tax, benefit, conditions and validity are those that were offered."""
    client = shared_service.client
    await set_tariff(client)
    window = {"any_of": [{"start_time": "22:00", "end_time": "06:00"}]}
    await create(client, f"{unique}-night", conditions=window)
    await habit(client, unique)
    offer = await offer_for(client, unique, f"{unique}-night")
    bought = await buy(client, offer, vehicle_id="car-1")
    assert offer.price == bought.price
    assert offer.tax == bought.tax
    assert (9, 800_000_000) == (bought.tax.units, bought.tax.nanos)
    assert offer.benefit == bought.benefit
    assert offer.conditions == bought.conditions
    assert (unique, "car-1") == (bought.user_id, bought.vehicle_id)
    assert PassState.PASS_STATE_ACTIVE == bought.state
    assert bought == await client.get_pass(unique, bought.pass_id)


async def test_200_concurrent_purchases_with_one_request_id_give_one_pass(
    fresh_service: Service,
) -> None:
    """Whoever retries, all hear of the same pass."""
    client = fresh_service.client
    offer = signed_offer(await create(client, "p"), "alice")
    request_id = str(uuid.uuid4())
    bought = await asyncio.gather(
        *(
            client.purchase_pass(offer, payment_reference="pay-1", request_id=request_id)
            for _ in range(200)
        )
    )
    assert 1 == len({one.pass_id for one in bought})
    assert 1 == len(await fetch(fresh_service.database_url, "SELECT 1 FROM passes"))
    assert {} == await breaches(fresh_service.database_url)


async def test_200_buyers_of_a_stock_of_50_get_exactly_50(fresh_service: Service) -> None:
    """The fiftieth is sold, the fifty-first hears SOLD_OUT."""
    client = fresh_service.client
    created = await create(client, "p", stock=50)
    works = [buy(client, signed_offer(created, f"user-{n}")) for n in range(200)]
    assert Counter(OK=50, SOLD_OUT=150) == await outcomes(works)
    assert 50 == (await get_product(client, "p")).sold
    assert {} == await breaches(fresh_service.database_url)


async def test_two_servers_sell_a_stock_and_a_limit_exactly(fresh_database: str) -> None:
    """Two servers on one database: 40 buyers who may buy twice want 4 each of a stock of 50."""
    async with serving(fresh_database) as one, serving(fresh_database) as two:
        created = await create(one.client, "p", stock=50, personal_limit={"max_purchases": 2})
        works = [
            buy((one, two)[n % 2].client, signed_offer(created, f"user-{n // 4}"))
            for n in range(160)
        ]
        counts = await outcomes(works)
        assert 50 == counts["OK"]
        assert {"OK", "SOLD_OUT", "PERSONAL_LIMIT_REACHED"} >= set(counts)
        query = "SELECT max(n) FROM (SELECT count(*) AS n FROM passes GROUP BY user_id) x"
        assert 2 == (await fetch(fresh_database, query))[0][0]
        assert {} == await breaches(fresh_database)


async def test_two_servers_and_one_user_with_a_limit_of_one_sell_one(fresh_database: str) -> None:
    """The count is read after the lock, by a statement of its own (saleor/saleor#544)."""
    async with serving(fresh_database) as one, serving(fresh_database) as two:
        for attempt in range(10):
            created = await create(one.client, f"p{attempt}", personal_limit={"max_purchases": 1})
            works = [
                buy(service.client, signed_offer(created, "alice"))
                for service in (one, two)
                for _ in range(4)
            ]
            counts = await outcomes(works)
            assert Counter(OK=1, PERSONAL_LIMIT_REACHED=7) == counts
        assert {} == await breaches(fresh_database)


_LOCK = "SELECT FROM user_sequences WHERE user_id = 'alice' FOR UPDATE"
_BUY = """INSERT INTO bought SELECT 'alice'
    WHERE (SELECT count(*) FROM bought WHERE user_id = 'alice') < 1"""
_ALL_IN_ONE = f"WITH locked AS ({_LOCK}) {_BUY} AND EXISTS (SELECT FROM locked)"


@pytest.mark.parametrize(
    ("ways", "sold"),
    [
        pytest.param([_ALL_IN_ONE], 2, id="one statement"),
        pytest.param([_LOCK, _BUY], 1, id="a statement after the lock"),
    ],
)
async def test_why_the_count_is_a_statement_of_its_own(
    fresh_database: str, ways: list[str], sold: int
) -> None:
    """A statement does not see what committed while it waited: in one it sells two of one."""
    one, two = [await asyncpg.connect(fresh_database) for _ in range(2)]
    await one.execute("CREATE TABLE bought (user_id text)")
    await one.execute("INSERT INTO user_sequences (user_id) VALUES ('alice')")
    first = one.transaction()
    await first.start()
    for statement in ways:
        await one.execute(statement)

    async def second() -> None:
        async with two.transaction():
            for statement in ways:
                await two.execute(statement)

    waiting = asyncio.create_task(second())
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND pid = $1"
    while not await one.fetchval(query, two.get_server_pid()):  # noqa: ASYNC110 - another session
        await asyncio.sleep(0.01)
    await first.commit()
    await waiting
    assert sold == await one.fetchval("SELECT count(*) FROM bought")
    await one.close()
    await two.close()


async def test_two_servers_and_one_request_id_give_one_pass(fresh_database: str) -> None:
    """The key holds across servers."""
    async with serving(fresh_database) as one, serving(fresh_database) as two:
        offer = signed_offer(await create(one.client, "p"), "alice")
        request_id = str(uuid.uuid4())
        bought = await asyncio.gather(
            *(
                service.client.purchase_pass(
                    offer, payment_reference="pay-1", request_id=request_id
                )
                for service in (one, two)
                for _ in range(20)
            )
        )
        assert 1 == len({one_pass.pass_id for one_pass in bought})
        assert {} == await breaches(fresh_database)


async def test_a_retry_after_the_offer_expired_returns_the_pass(
    shared_service: Service, unique: str
) -> None:
    """The key is looked up before anything else is judged."""
    client = shared_service.client
    offer = signed_offer(await create(client, unique), unique, lifetime_s=LIFETIME_S)
    request_id, reference = str(uuid.uuid4()), f"pay-{unique}"
    first = await client.purchase_pass(offer, payment_reference=reference, request_id=request_id)
    await asyncio.sleep(LIFETIME_S + 0.1)
    again = await client.purchase_pass(offer, payment_reference=reference, request_id=request_id)
    assert first == again
    assert "OFFER_EXPIRED" == await outcome(
        buy(client, signed_offer(await get_product(client, unique), unique, lifetime_s=-1))
    )


@pytest.mark.parametrize("changed", ["offer", "vehicle_id", "payment_reference", "amount"])
async def test_the_same_request_id_with_other_content_is_refused(
    shared_service: Service, unique: str, changed: str
) -> None:
    """Nothing is changed, and the first purchase stands."""
    client = shared_service.client
    created = await create(client, unique)
    offer = signed_offer(created, unique)
    arguments: dict[str, Any] = {
        "request_id": str(uuid.uuid4()),
        "payment_reference": f"pay-{unique}",
        "vehicle_id": "car-1",
        "amount": offer.price,
    }
    first = await client.purchase_pass(offer, **arguments)
    other: dict[str, Any] = {
        "vehicle_id": "car-2",
        "payment_reference": f"other-{unique}",
        "amount": type(offer.price)(currency_code="NOK", units=50),
    }
    if changed == "offer":
        refused = outcome(client.purchase_pass(signed_offer(created, unique), **arguments))
    else:
        refused = outcome(client.purchase_pass(offer, **{**arguments, changed: other[changed]}))
    assert "REQUEST_ID_REUSED" == await refused
    assert first == await client.purchase_pass(offer, **arguments)


async def test_an_offer_is_bought_once(shared_service: Service, unique: str) -> None:
    """Under another request_id the refusal names the pass."""
    client = shared_service.client
    offer = signed_offer(await create(client, unique), unique)
    bought = await buy(client, offer)
    with pytest.raises(CallFailed) as refused:
        await buy(client, offer)
    assert "OFFER_ALREADY_BOUGHT" == refused.value.reason
    assert bought.pass_id == refused.value.metadata["pass_id"]


async def test_a_refusal_stores_nothing_and_the_key_may_succeed_later(
    fresh_service: Service,
) -> None:
    """Sold out, then more stock: the same key and the same payment reference buy."""
    client = fresh_service.client
    created = await create(client, "p", stock=0)
    offer = signed_offer(created, "alice")
    arguments: dict[str, Any] = {"payment_reference": "pay-1", "request_id": str(uuid.uuid4())}
    assert "SOLD_OUT" == await outcome(client.purchase_pass(offer, **arguments))
    for table in ("passes", "payment_references", "ledger_entries", "events"):
        assert [] == await fetch(fresh_service.database_url, f"SELECT 1 FROM {table}")
    created.stock = 1
    await client.call(client.catalogue.UpdateProduct, UpdateProductRequest(product=created))
    assert isinstance(await outcome(client.purchase_pass(offer, **arguments)), Pass)
    assert {} == await breaches(fresh_service.database_url)


async def test_a_payment_reference_pays_once(fresh_service: Service) -> None:
    """Also when two users use it at the same moment."""
    client = fresh_service.client
    created = await create(client, "p")
    works = [
        buy(client, signed_offer(created, f"user-{n}"), payment_reference="pay-1")
        for n in range(20)
    ]
    assert Counter(OK=1, PAYMENT_REFERENCE_USED=19) == await outcomes(works)
    assert {} == await breaches(fresh_service.database_url)


async def test_a_reference_refused_for_one_buyer_pays_for_the_next_in_the_batch(
    fresh_database: str,
) -> None:
    """The claim goes over from the refused to the one that paid."""
    async with serving(fresh_database, write_batch_interval_s=0.1) as service:
        sold_out = await create(service.client, "gone", stock=0)
        on_sale = await create(service.client, "p")
        await outcome(buy(service.client, signed_offer(sold_out, "warm-up")))
        first = buy(service.client, signed_offer(sold_out, "a"), payment_reference="pay-1")
        second = buy(service.client, signed_offer(on_sale, "b"), payment_reference="pay-1")
        assert Counter(OK=1, SOLD_OUT=1) == await outcomes([first, second])
        assert {} == await breaches(fresh_database)


async def test_a_poisoned_purchase_does_not_sink_its_neighbours(fresh_service: Service) -> None:
    """Whatever the database has against it: the other ninety-nine of its batch are sold."""
    client, url = fresh_service.client, fresh_service.database_url
    created = await create(client, "p", stock=200)
    connection = await asyncpg.connect(url)
    await connection.execute(
        """CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'poison'; END $$;
        CREATE TRIGGER poison BEFORE INSERT ON passes
            FOR EACH ROW WHEN (NEW.vehicle_id = 'poison') EXECUTE FUNCTION poison()"""
    )
    works = [
        buy(
            client,
            signed_offer(created, f"user-{n}"),
            vehicle_id="poison" if n == 42 else "",
        )
        for n in range(100)
    ]
    # The first waits for this lock, and the others gather behind it.
    async with connection.transaction():
        await connection.execute("SELECT 1 FROM product_stock FOR UPDATE")
        verdicts = asyncio.create_task(outcomes(works))
        await until_started(fresh_service.server, "PurchasePass", 100)
        await until_waiting(url)
    await connection.close()
    assert Counter(OK=99, INTERNAL=1) == await verdicts
    assert 99 == (await get_product(client, "p")).sold
    assert {} == await breaches(url)


async def test_the_price_offered_is_the_price_paid(shared_service: Service, unique: str) -> None:
    """A micro-unit more or less, or another currency, is refused."""
    client = shared_service.client
    created = await create(client, unique)
    money = type(created.price)
    for amount in (
        money(currency_code="NOK", units=49, nanos=1000),
        money(currency_code="NOK", units=48, nanos=999_999_000),
        money(currency_code="EUR", units=49),
        money(currency_code="NOK"),
    ):
        offer = signed_offer(created, unique)
        assert "PAYMENT_MISMATCH" == await outcome(buy(client, offer, amount=amount))


async def test_an_update_does_not_change_offers_that_are_out(
    shared_service: Service, unique: str
) -> None:
    """The old price and the old terms are honoured; the new ones are offered."""
    client = shared_service.client
    created = await create(client, unique)
    offer = signed_offer(created, unique)
    dearer = product(unique, price="99.00 NOK", benefit={"energy_bundle_kwh": 5})
    dearer.etag = created.etag
    await client.call(client.catalogue.UpdateProduct, UpdateProductRequest(product=dearer))
    bought = await buy(client, offer)
    assert (49, 1) == (bought.price.units, bought.product_revision)
    assert "energy_price" == bought.benefit.WhichOneof("benefit")


async def test_retiring_honours_offers_and_withdrawing_refuses_them(
    shared_service: Service, unique: str
) -> None:
    """OFFER_WITHDRAWN only where the operator said so."""
    client = shared_service.client
    created = await create(client, unique)
    honoured, withdrawn = signed_offer(created, "a"), signed_offer(created, "b")
    request = RetireProductRequest(product_id=unique, etag=created.etag)
    retired = (await client.call(client.catalogue.RetireProduct, request)).product
    assert isinstance(await outcome(buy(client, honoured)), Pass)
    request = RetireProductRequest(product_id=unique, etag=retired.etag, withdraw_offers=True)
    await client.call(client.catalogue.RetireProduct, request)
    assert "OFFER_WITHDRAWN" == await outcome(buy(client, withdrawn))


async def test_an_offer_belongs_to_its_user(shared_service: Service, unique: str) -> None:
    """Another user is refused; without a user_id the offer says whose it is."""
    client = shared_service.client
    offer = signed_offer(await create(client, unique), "alice")
    assert "OFFER_OF_ANOTHER_USER" == await outcome(buy(client, offer, user_id="mallory"))
    bought = await buy(client, offer)
    assert "alice" == bought.user_id


async def test_a_forged_or_altered_offer_is_refused(shared_service: Service, unique: str) -> None:
    """Any character changed, another key, or no offer at all."""
    client = shared_service.client
    created = await create(client, unique)
    offer = signed_offer(created, unique)
    for index in range(0, len(offer.offer_id), 7):
        letter = "A" if offer.offer_id[index] != "A" else "B"
        altered = offer.offer_id[:index] + letter + offer.offer_id[index + 1 :]
        assert "OFFER_INVALID" == await outcome(buy(client, altered, amount=offer.price))
    foreign = signed_offer(created, unique, signer=OfferSigner({1: bytes(32)}, 1))
    assert "OFFER_INVALID" == await outcome(buy(client, foreign))
    assert "OFFER_INVALID" == await outcome(buy(client, "nonsense", amount=offer.price))


async def test_a_bought_offers_retry_finds_its_pass_after_its_key_is_gone(
    fresh_database: str,
) -> None:
    """Keys rotate; the retry has the very bytes that were bought."""
    request_id = str(uuid.uuid4())
    async with serving(fresh_database) as service:
        offer = signed_offer(await create(service.client, "p"), "alice")
        unused = signed_offer(await get_product(service.client, "p"), "alice")
        first = await service.client.purchase_pass(
            offer, payment_reference="pay-1", request_id=request_id
        )
    async with serving(fresh_database, offer_keys="2:" + "cd" * 32) as service:
        again = await service.client.purchase_pass(
            offer, payment_reference="pay-1", request_id=request_id
        )
        assert first == again
        assert "OFFER_INVALID" == await outcome(buy(service.client, unused))


async def test_validate_only_says_what_the_real_call_would_and_writes_nothing(
    fresh_service: Service,
) -> None:
    """It fails exactly when the purchase would."""
    client = fresh_service.client
    created = await create(client, "p", stock=1)
    offer = signed_offer(created, "alice")
    arguments: dict[str, Any] = {"payment_reference": "pay-1", "request_id": str(uuid.uuid4())}
    judged = await client.purchase_pass(offer, **arguments, validate_only=True)
    assert [] == await fetch(fresh_service.database_url, "SELECT 1 FROM passes")
    assert [] == await fetch(fresh_service.database_url, "SELECT 1 FROM payment_references")
    bought = await client.purchase_pass(offer, **arguments)
    assert judged.pass_id == bought.pass_id
    late = signed_offer(created, "bob")
    assert "SOLD_OUT" == await outcome(buy(client, late, validate_only=True))
    assert "SOLD_OUT" == await outcome(buy(client, late))


async def test_a_rolling_limit_counts_only_its_days(fresh_service: Service) -> None:
    """What was bought before the window does not count."""
    client = fresh_service.client
    limit = {"max_purchases": 1, "rolling_days": 30}
    created = await create(client, "p", personal_limit=limit)
    await buy(client, signed_offer(created, "alice"))
    refused = outcome(buy(client, signed_offer(created, "alice")))
    assert "PERSONAL_LIMIT_REACHED" == await refused
    await fetch(
        fresh_service.database_url,
        "UPDATE passes SET purchase_time = purchase_time - interval '30 days'",
    )
    assert isinstance(await outcome(buy(client, signed_offer(created, "alice"))), Pass)


async def test_a_session_bundle_opens_with_its_sessions(
    shared_service: Service, unique: str
) -> None:
    """The balance is what the ledger's first entry holds."""
    client = shared_service.client
    await create(client, f"{unique}-s", benefit={"session_bundle": 10})
    await create(client, f"{unique}-e", benefit={"energy_bundle_kwh": 30})
    ten = await buy(client, signed_offer(await get_product(client, f"{unique}-s"), unique))
    thirty = await buy(client, signed_offer(await get_product(client, f"{unique}-e"), unique))
    assert (10, False) == (ten.balance.sessions, ten.balance.HasField("energy_wh"))
    assert (30_000, False) == (thirty.balance.energy_wh, thirty.balance.HasField("sessions"))


async def test_passes_are_listed_newest_first_over_pages(
    shared_service: Service, unique: str
) -> None:
    """Every pass once, in order, whatever the page size."""
    from voucher_grpc.v1.voucher_service_pb2 import ListPassesRequest

    client: Client = shared_service.client
    created = await create(client, unique)
    bought = [await buy(client, signed_offer(created, unique)) for _ in range(7)]
    listed, token = [], ""
    for _ in range(10):
        request = ListPassesRequest(user_id=unique, page_size=3, page_token=token)
        page = await client.call(client.voucher.ListPasses, request)
        listed += [one.pass_id for one in page.passes]
        token = page.next_page_token
        if not token:
            break
    assert [one.pass_id for one in reversed(bought)] == listed


@contextmanager
def _no_batch_fails() -> Iterator[None]:
    """A batch that fails is done again in halves, which hides why; here that is an error."""
    configure_logs("console", "warning")
    try:
        with capture_logs() as lines:
            yield
    finally:
        configure_logs("console", "error")
    assert [] == [line for line in lines if line["event"] == "batch_failed"]


async def test_a_batch_of_several_products_and_users_counts_each(fresh_service: Service) -> None:
    """Stock and events belong to a product and a user, whatever else is in the batch."""
    client, wanted = fresh_service.client, {"one": 4, "two": 7, "three": 11}
    works = []
    for name, count in wanted.items():
        created = await create(client, name, stock=count, withdrawal_days=14)
        works += [buy(client, signed_offer(created, f"{name}-{n % 3}")) for n in range(count)]
    with _no_batch_fails():
        bought = await asyncio.gather(*works)
    stock = "SELECT product_id, sold, sold_out FROM product_stock ORDER BY product_id"
    assert [("one", 4, True), ("three", 11, True), ("two", 7, True)] == [
        tuple(row) for row in await fetch(fresh_service.database_url, stock)
    ]
    assert {} == await breaches(fresh_service.database_url)

    kept = {"one": 1, "two": 2, "three": 3}
    ended = [
        owned
        for name, count in kept.items()
        for owned in [o for o in bought if o.product_id == name][count:]
    ]
    with _no_batch_fails():
        await asyncio.gather(*(client.cancel_pass(o.user_id, o.pass_id) for o in ended))
    assert [("one", 1, False), ("three", 3, False), ("two", 2, False)] == [
        tuple(row) for row in await fetch(fresh_service.database_url, stock)
    ]
    assert {} == await breaches(fresh_service.database_url)
