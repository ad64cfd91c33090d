"""Small helpers that set a shop up over the real API."""

import asyncio
import uuid
from collections import Counter
from collections.abc import Awaitable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import asyncpg

from tests.conftest import OFFER_KEYS
from tests.integration.operating import until
from voucher_grpc.client import CallFailed, Client
from voucher_grpc.domain.catalogue.document import terms_from_document
from voucher_grpc.domain.offer_ids.signer import OfferSigner, OfferTerms
from voucher_grpc.edge.wire.messages import timestamp
from voucher_grpc.edge.wire.products import terms_message
from voucher_grpc.v1.catalogue_service_pb2 import CreateProductRequest, GetProductRequest
from voucher_grpc.v1.conditions_pb2 import LocationReference
from voucher_grpc.v1.location_service_pb2 import (
    PriceComponent,
    PriceDimension,
    Tariff,
    TariffElement,
    UpsertTariffsRequest,
)
from voucher_grpc.v1.offer_pb2 import Offer
from voucher_grpc.v1.pass_pb2 import Pass
from voucher_grpc.v1.product_pb2 import Product
from voucher_grpc.v1.tendency_service_pb2 import ChargingSession

T = TypeVar("T")

# The key that the tests' servers sign offers with.
KEY_1 = bytes.fromhex(OFFER_KEYS.partition(":")[2])
# What energy costs without a pass in these tests, per kWh: 5 NOK with VAT.
NET_PRICE_MICROS = 4_000_000


def product(product_id: str, **changes: Any) -> Product:
    """A product message: by default 49 NOK for 3 NOK per kWh over 30 days, anywhere."""
    document: dict[str, Any] = {
        "product_id": product_id,
        "display_name": product_id,
        "price": "49.00 NOK",
        "tax_rate_percent": 25,
        "benefit": {"energy_price_per_kwh": "3.00"},
        "validity": {"days": 30},
        "time_zone": "Europe/Oslo",
    }
    return terms_message(terms_from_document({**document, **changes}))


async def create(client: Client, product_id: str, **changes: Any) -> Product:
    """Put a product on sale."""
    request = CreateProductRequest(product=product(product_id, **changes))
    created: Product = (await client.call(client.catalogue.CreateProduct, request)).product
    return created


def signed_offer(
    created: Any, user_id: str, *, lifetime_s: float = 600, signer: OfferSigner | None = None
) -> Offer:
    """An offer signed with the server's key, as RequestOffers would make it.

    Many buyers need no habits this way; that RequestOffers signs the same is
    shown by the tests that ask for their offers.
    """
    expire_time = datetime.now(UTC) + timedelta(seconds=lifetime_s)
    micros = created.price.units * 1_000_000 + created.price.nanos // 1000
    terms = OfferTerms(
        user_id,
        created.product_id,
        created.revision,
        micros,
        created.price.currency_code,
        expire_time,
    )
    offer_id = (signer or OfferSigner({1: KEY_1}, 1)).sign(terms)
    return Offer(offer_id=offer_id, price=created.price, expire_time=timestamp(expire_time))


async def get_product(client: Client, product_id: str) -> Product:
    """A product as the catalogue has it."""
    request = GetProductRequest(product_id=product_id)
    found: Product = (await client.call(client.catalogue.GetProduct, request)).product
    return found


async def set_tariff(client: Client, country_code: str = "NO", currency: str = "NOK") -> None:
    """The default tariff of a country: one price at all hours."""
    component = PriceComponent(
        dimension=PriceDimension.PRICE_DIMENSION_ENERGY,
        price_micros=NET_PRICE_MICROS,
        vat_basis_points=2_500,
    )
    tariff = Tariff(
        country_code=country_code,
        party_id="TST",
        tariff_id=f"default-{currency}",
        currency_code=currency,
        elements=[TariffElement(price_components=[component])],
        default_for_country=True,
    )
    response = await client.call(
        client.location.UpsertTariffs, UpsertTariffsRequest(tariffs=[tariff])
    )
    assert [0] == [result.code for result in response.results]


def sessions(
    user_id: str,
    *,
    energy_wh: int = 10_000,
    hour: int = 23,
    days: Iterable[int] = range(60),
    location_id: str = "HOME",
    now: datetime | None = None,
) -> list[ChargingSession]:
    """A session on each of `days` before now, starting at `hour` UTC."""
    today = (now or datetime.now(UTC)).replace(hour=hour, minute=0, second=0, microsecond=0)
    start_of = {day: today - timedelta(days=day + 1) for day in days}
    return [
        ChargingSession(
            session_id=f"{user_id}-{day}",
            user_id=user_id,
            location=LocationReference(country_code="NO", party_id="TST", location_id=location_id),
            time_zone="Europe/Oslo",
            start_time=timestamp(start),
            end_time=timestamp(start + timedelta(hours=6)),
            energy_wh=energy_wh,
        )
        for day, start in start_of.items()
    ]


async def habit(client: Client, user_id: str, **habits: Any) -> None:
    """Give a user a history of charging."""
    sent = sessions(user_id, **habits)
    report = await client.record_sessions([sent])
    assert (len(sent), 0) == (report.recorded, report.refused)


async def offer_for(client: Client, user_id: str, product_id: str) -> Offer:
    """The offer of one product for a user; the user needs a habit that makes it pay."""
    answer = await client.request_offers(user_id=user_id, currency_code="NOK", max_offers=20)
    offers = {offer.product_id: offer for offer in answer.offers}
    return offers[product_id]


async def buy(client: Client, offer: Offer | str, **changes: Any) -> Pass:
    """Buy with a payment reference of its own."""
    arguments = {"payment_reference": f"pay-{uuid.uuid4()}", **changes}
    return await client.purchase_pass(offer, **arguments)


async def outcome(work: Awaitable[T]) -> T | str:
    """The result, or the reason of the refusal."""
    try:
        return await work
    except CallFailed as failed:
        return failed.reason


async def outcomes(works: Iterable[Awaitable[T]]) -> Counter[str]:
    """How many succeeded ("OK") and how many were refused for which reason."""
    results = await asyncio.gather(*(outcome(work) for work in works))
    return Counter(r if isinstance(r, str) else "OK" for r in results)


async def fetch(database_url: str, query: str, *arguments: Any) -> list[asyncpg.Record]:
    """Rows straight from the database."""
    connection = await asyncpg.connect(database_url)
    try:
        return await connection.fetch(query, *arguments)
    finally:
        await connection.close()


async def execute(url: str, statements: str) -> None:
    """Statements straight on the database, in one transaction."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statements)
    finally:
        await connection.close()


async def sequenced(database_url: str) -> None:
    """Wait until every event has its place in the stream, after which nothing moves by itself."""
    query = "SELECT 1 FROM events WHERE position IS NULL LIMIT 1"

    async def all_have_one() -> bool:
        return not await fetch(database_url, query)

    await until(all_have_one)


async def until_waiting(database_url: str, number: int = 1, statement: str = "%") -> None:
    """Return once so many connections wait for a lock, with a statement LIKE this."""
    query = (
        "SELECT 1 FROM pg_stat_activity WHERE datname = current_database()"
        " AND wait_event_type = 'Lock' AND query LIKE $1"
    )

    async def wait() -> bool:
        # On a connection of its own each time: within a transaction the view does not change.
        return len(await fetch(database_url, query, statement)) >= number

    await until(wait)


async def breaches(database_url: str) -> dict[str, int]:
    """How often the invariants of the design are broken, by invariant; {} is sound."""
    paid = "(p.hold_expire_time IS NULL OR p.confirm_time IS NOT NULL)"
    queries = {
        "sold differs from passes and holds": f"""
            SELECT count(*) FROM product_stock s
            WHERE sold
                <> (SELECT count(*) FROM holds h WHERE h.product_id = s.product_id)
                + (SELECT count(*) FROM passes p
                    WHERE p.product_id = s.product_id AND {paid}
                        AND p.closed_as IS DISTINCT FROM 'CANCELLED')""",
        "a place of what is not held": """
            SELECT count(*) FROM holds h WHERE NOT EXISTS (
                SELECT 1 FROM passes p
                WHERE (p.user_id, p.pass_id, p.product_id, p.hold_expire_time)
                    = (h.user_id, h.pass_id, h.product_id, h.hold_expire_time)
                    AND p.confirm_time IS NULL AND p.close_time IS NULL)""",
        "held without a place": """
            SELECT count(*) FROM passes p
            WHERE p.confirm_time IS NULL AND p.close_time IS NULL
                AND p.hold_expire_time > clock_timestamp() + interval '1 second'
                AND NOT EXISTS (
                    SELECT 1 FROM holds h WHERE (h.user_id, h.pass_id) = (p.user_id, p.pass_id))""",
        "closed as what it cannot be": f"""
            SELECT count(*) FROM passes p
            WHERE (p.closed_as IS NULL) <> (p.close_time IS NULL)
                OR (p.closed_as = 'LAPSED' AND {paid})
                OR (p.closed_as = 'EXPIRED' AND NOT {paid})""",
        "entries differ from what happened": f"""
            SELECT count(*) FROM passes p
            WHERE (
                SELECT coalesce(string_agg(l.kind, ' ' ORDER BY l.entry_number), '')
                FROM ledger_entries l WHERE (l.user_id, l.pass_id) = (p.user_id, p.pass_id)
                    AND l.kind IN ('OPENING', 'CANCELLATION')
            ) <> concat_ws(' ',
                CASE WHEN {paid} THEN 'OPENING' END,
                CASE WHEN {paid} AND p.closed_as = 'CANCELLED' THEN 'CANCELLATION' END)""",
        "something left of what was cancelled": """
            SELECT count(*) FROM passes_with_balance p
            WHERE p.closed_as = 'CANCELLED'
                AND (p.balance_energy_wh <> 0 OR p.balance_sessions <> 0)""",
        "a refund of what was not paid and cancelled, or none": f"""
            SELECT count(*) FROM passes p
            WHERE (p.refund_micros BETWEEN 0 AND p.price_micros) IS DISTINCT FROM
                CASE WHEN {paid} AND p.closed_as = 'CANCELLED' THEN true END""",
        "events differ from what happened": f"""
            SELECT count(*) FROM passes p
            WHERE (
                SELECT coalesce(string_agg(e.event_type, ' ' ORDER BY e.event_seq), '')
                FROM events e WHERE (e.user_id, e.pass_id) = (p.user_id, p.pass_id)
                    AND e.event_type IN ('PASS_HELD', 'PASS_PURCHASED', 'PASS_LAPSED',
                        'PASS_CANCELLED', 'PASS_EXPIRED')
            ) <> concat_ws(' ',
                CASE WHEN p.hold_expire_time IS NOT NULL THEN 'PASS_HELD' END,
                CASE WHEN {paid} THEN 'PASS_PURCHASED' END,
                'PASS_' || p.closed_as)""",
        "a gap in a user's events": """
            SELECT count(*) FROM user_sequences s
            WHERE last_event_seq <> (SELECT count(*) FROM events e WHERE e.user_id = s.user_id)""",
        "references differ from paid passes": f"""
            SELECT count(*) FROM payment_references r
            FULL JOIN (SELECT * FROM passes p WHERE {paid} OR p.payment_reference <> '') p
                USING (payment_reference)
            WHERE (r.user_id, r.pass_id) IS DISTINCT FROM (p.user_id, p.pass_id)
                OR NOT {paid}""",
        "events in the stream out of a user's order": """
            SELECT count(*) FROM (
                SELECT position,
                    lag(position) OVER (PARTITION BY user_id ORDER BY event_seq) AS before
                FROM events) e
            WHERE before > position""",
        "a position given twice": """
            SELECT count(position) - count(DISTINCT position) FROM events""",
        "a gap in the positions": """
            SELECT last_position - (SELECT count(position) FROM events) FROM event_stream""",
        "oversold": "SELECT count(*) FROM product_stock WHERE sold > stock",
        "sold_out is not what the counters say": """
            SELECT count(*) FROM product_stock
            WHERE sold_out <> coalesce(sold >= stock, false)""",
    }
    found = {name: (await fetch(database_url, query))[0][0] for name, query in queries.items()}
    return {name: count for name, count in found.items() if count}
