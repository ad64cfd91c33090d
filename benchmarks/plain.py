"""The peer: both signals the way a tutorial for grpc.aio and asyncpg would write them.

A query for each thing that is needed, a transaction for each purchase, a pool of
connections, nothing kept between calls. What suits the user is decided by the
same domain functions as in the service. It gives the same promises, except that
a payment reference is not claimed and no event is written.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID
from zoneinfo import ZoneInfo

import asyncpg
import grpc
import numpy as np
from google.type.money_pb2 import Money as MoneyMessage

from voucher_grpc.domain.catalogue.document import terms_from_document
from voucher_grpc.domain.catalogue.product import (
    PersonalLimit,
    Product,
    ProductState,
    Terms,
    validity_period,
)
from voucher_grpc.domain.offer_ids.signer import OfferSigner, OfferTerms, offer_digest
from voucher_grpc.domain.offers.choices import Choice
from voucher_grpc.domain.offers.determine import determine
from voucher_grpc.domain.offers.knowledge import ActivePass, Knowledge, UserSettings
from voucher_grpc.domain.offers.reason_texts import in_words
from voucher_grpc.domain.offers.request import OffersRequest
from voucher_grpc.domain.offers.snapshot import Snapshot, build_snapshot
from voucher_grpc.domain.passes.purchase import Bought, opening_balance, pass_id_for
from voucher_grpc.domain.passes.state import Pass
from voucher_grpc.domain.places.document import location_from_document
from voucher_grpc.domain.places.location import Location, Vehicle
from voucher_grpc.domain.pricing.document import tariff_from_document
from voucher_grpc.domain.tendencies.tendency import Tendency
from voucher_grpc.edge.wire.conditions import conditions_message
from voucher_grpc.edge.wire.messages import money_message, money_of, timestamp
from voucher_grpc.edge.wire.passes import fill_pass, pass_part
from voucher_grpc.edge.wire.products import benefit_message, validity_message
from voucher_grpc.money import Money, tax_micros
from voucher_grpc.ocpi import PlaceKey
from voucher_grpc.store.driver import Connection
from voucher_grpc.store.stored_places import location_key
from voucher_grpc.store.users import vehicle_from_row
from voucher_grpc.v1 import voucher_service_pb2 as pb
from voucher_grpc.v1.offer_pb2 import (
    BreakEven,
    Figure,
    Offer,
    OfferReason,
    OfferReasonCode,
    SavingRange,
)

if TYPE_CHECKING:
    Pool = asyncpg.Pool[asyncpg.Record]
else:
    Pool = asyncpg.Pool

OFFER_LIFETIME = timedelta(minutes=15)
_OFFERS = 3


@asynccontextmanager
async def open_pool(url: str) -> AsyncIterator[Pool]:
    """A pool of the default size."""

    async def prepare(connection: Connection) -> None:
        await connection.set_type_codec(
            "jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog"
        )

    async with asyncpg.create_pool(url, init=prepare) as pool:
        yield pool


class PlainVoucherServicer:
    """Both signals."""

    def __init__(self, pool: Pool, signer: OfferSigner) -> None:
        self._pool = pool
        self._signer = signer

    async def RequestOffers(  # noqa: N802
        self, request: pb.RequestOffersRequest, context: Any
    ) -> pb.RequestOffersResponse:
        now = datetime.now(UTC)
        sent = request.place.location
        place = PlaceKey(sent.country_code, sent.party_id, sent.location_id)
        async with self._pool.acquire() as connection:
            knowledge = await _knowledge(connection, request.user_id, request.vehicle_id, now)  # type: ignore[arg-type]
            known = [place, *(place for place, _ in knowledge.places)]
            locations = await _locations(connection, known)  # type: ignore[arg-type]
        wanted = OffersRequest(
            place=place,
            currency_code=request.currency_code,
            max_offers=request.max_offers or _OFFERS,
        )
        determined = determine(knowledge, wanted, locations, {}, now)
        response = pb.RequestOffersResponse(user_id=knowledge.user_id)
        for choice in determined.ranking.choices:
            terms, expire_time = choice.product.terms, now + OFFER_LIFETIME
            offer = OfferTerms(
                knowledge.user_id,
                terms.product_id,
                choice.product.revision,
                terms.price.micros,
                terms.price.currency_code,
                expire_time,
            )
            offer_id = self._signer.sign(offer)
            response.offers.append(offer_message(choice, offer_id, expire_time))
        return response

    async def PurchasePass(  # noqa: N802
        self, request: pb.PurchasePassRequest, context: Any
    ) -> pb.PurchasePassResponse:
        read = self._signer.read(request.offer_id)
        paid = money_of(request.payment.captured.amount)
        price = Money(read.terms.price_micros, read.terms.currency_code)
        now = datetime.now(UTC)
        if not read.authentic or now >= read.terms.expire_time or paid != price:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "offer or payment")
        bought, terms = await buy(
            self._pool,
            read.terms,
            offer_digest(request.offer_id),
            UUID(request.request_id),
            request.vehicle_id,
            request.payment.captured.reference,
        )
        response = pb.PurchasePassResponse()
        part = pass_part(terms, bought.product_revision)
        fill_pass(getattr(response, "pass"), part, bought, terms, now)
        return response


def offer_message(choice: Choice, offer_id: str, expire_time: datetime) -> Offer:
    """An offer made field by field, in English."""
    terms = choice.product.terms
    message = Offer(
        offer_id=offer_id,
        product_id=terms.product_id,
        product_revision=choice.product.revision,
        display_name=terms.display_name,
        description=terms.description,
        price=money_message(terms.price),
        tax_rate_basis_points=terms.tax_rate_basis_points,
        tax=_money(tax_micros(terms.price.micros, terms.tax_rate_basis_points), terms),
        benefit=benefit_message(terms.benefit, terms.price.currency_code),
        conditions=conditions_message(terms.conditions),
        validity=validity_message(terms.validity),
        expire_time=timestamp(expire_time),
        recommended=choice.recommended,
        reasons=[
            OfferReason(
                code=OfferReasonCode.Value(f"OFFER_REASON_CODE_{reason.code}"),
                text=in_words(reason, terms.price.currency_code),
                figures=[Figure(name=name, value=value) for name, value in reason.figures.items()],
            )
            for reason in choice.reasons
        ],
    )
    if choice.expected_saving_micros is not None:
        message.expected_saving.CopyFrom(_money(choice.expected_saving_micros, terms))
    if choice.saving_range_micros is not None:
        low, high = (_money(micros, terms) for micros in choice.saving_range_micros)
        message.saving_range.CopyFrom(SavingRange(low=low, high=high))
    if choice.break_even is not None:
        message.break_even.CopyFrom(BreakEven(**choice.break_even._asdict()))
    return message


def _money(micros: int, terms: Terms) -> MoneyMessage:
    return money_message(Money(micros, terms.price.currency_code))


async def _knowledge(
    connection: Connection, user_id: str, vehicle_id: str, now: datetime
) -> Knowledge:
    user = await connection.fetchrow(
        "SELECT time_zone, currency_code, language, country_code FROM users WHERE user_id = $1",
        user_id,
    )
    vehicle = await _vehicle(connection, vehicle_id)
    tendency = await connection.fetchrow(
        """SELECT sessions, first_session_time, last_session_time, state, forecast, recent,
            profile_type
        FROM tendencies WHERE user_id = $1""",
        user_id,
    )
    places = await connection.fetch(
        """SELECT country_code, party_id, location_id, evse_uid, energy_weight
        FROM tendency_places WHERE user_id = $1 ORDER BY energy_weight DESC LIMIT 8""",
        user_id,
    )
    passes = await connection.fetch(
        "SELECT product_id, purchase_time, end_time FROM passes WHERE user_id = $1", user_id
    )
    return Knowledge(
        user_id=user_id,
        settings=UserSettings(**user) if user else UserSettings(),
        vehicle=vehicle,
        tendency=_tendency(tendency) if tendency else None,
        profile_type=tendency["profile_type"] if tendency else "",
        places=[(PlaceKey(*row[:4]), row[4]) for row in places],
        bought=[Bought(row["product_id"], row["purchase_time"]) for row in passes],
        owned={
            row["product_id"]: ActivePass(0.0, (row["end_time"] - now) / timedelta(days=1))
            for row in passes
            if row["end_time"] and row["end_time"] > now
        },
        sold_out=frozenset(),
        snapshot=await _snapshot(connection),
    )


async def _vehicle(connection: Connection, vehicle_id: str) -> Vehicle | None:
    row = await connection.fetchrow(
        "SELECT vehicle_id, user_id, profile FROM vehicles WHERE vehicle_id = $1", vehicle_id
    )
    return vehicle_from_row(row) if row else None


def _tendency(row: Any) -> Tendency:
    return Tendency(
        row["sessions"],
        row["first_session_time"],
        row["last_session_time"],
        np.frombuffer(row["state"], dtype="<f8"),
        row["forecast"],
        row["recent"],
    )


async def _snapshot(connection: Connection) -> Snapshot:
    rows = await connection.fetch(
        """SELECT p.revision, p.etag, r.terms, r.create_time, r.created_by,
            s.stock, s.sold, s.max_purchases, s.rolling_days
        FROM products p
        JOIN product_revisions r USING (product_id, revision)
        JOIN product_stock s USING (product_id)
        WHERE p.state = 'ACTIVE' AND NOT s.sold_out"""
    )
    tariffs = await connection.fetch("SELECT document, default_for_country FROM tariffs")
    return build_snapshot(
        0,
        [_product(row) for row in rows],
        [
            replace(tariff_from_document(row[0]), default_for_country=row["default_for_country"])
            for row in tariffs
        ],
    )


def _product(row: Any) -> Product:
    terms = terms_from_document(row["terms"])
    if row["max_purchases"] is not None:
        limit = PersonalLimit(row["max_purchases"], row["rolling_days"])
        terms = replace(terms, personal_limit=limit)
    return Product(
        terms,
        row["revision"],
        row["etag"],
        ProductState.ACTIVE,
        row["sold"],
        row["create_time"],
        row["created_by"],
    )


async def _locations(
    connection: Connection, places: list[PlaceKey]
) -> dict[tuple[str, str, str], Location | None]:
    found: dict[tuple[str, str, str], Location | None] = {}
    for place in places:
        key = (place.country_code, place.party_id, place.location_id)
        document = await connection.fetchval(
            """SELECT document FROM locations
            WHERE country_code = $1 AND party_id = $2 AND location_id = $3""",
            *key,
        )
        location = location_from_document(document) if document else None
        found[location_key(place)] = location
    return found


async def buy(
    pool: Pool,
    offer: OfferTerms,
    digest: bytes,
    request_id: UUID,
    vehicle_id: str,
    payment_reference: str,
) -> tuple[Pass, Any]:
    """One purchase, one transaction; the pass and its terms."""
    async with pool.acquire() as connection, connection.transaction():
        stock = await connection.fetchrow(
            """SELECT s.stock, s.sold, s.withdrawn_before_revision, r.terms
            FROM product_stock s JOIN product_revisions r USING (product_id)
            WHERE s.product_id = $1 AND r.revision = $2 FOR UPDATE OF s""",
            offer.product_id,
            offer.product_revision,
        )
        if stock is None or (stock["stock"] is not None and stock["sold"] >= stock["stock"]):
            raise ValueError("sold out or not known")
        terms, now = terms_from_document(stock["terms"]), datetime.now(UTC)
        owned = Pass(
            user_id=offer.user_id,
            pass_id=pass_id_for(offer.user_id, request_id),
            request_id=request_id,
            offer_digest=digest,
            product_id=offer.product_id,
            product_revision=offer.product_revision,
            vehicle_id=vehicle_id,
            price=Money(offer.price_micros, offer.currency_code),
            payment_reference=payment_reference,
            purchase_time=now,
            time_zone=terms.time_zone,
            period=validity_period(terms.validity, now, ZoneInfo(terms.time_zone)),
            balance=opening_balance(terms),
        )
        await connection.execute(
            "UPDATE product_stock SET sold = sold + 1 WHERE product_id = $1", offer.product_id
        )
        await _insert(connection, owned)  # type: ignore[arg-type]
    return owned, terms


async def _insert(connection: Connection, owned: Pass) -> None:
    await connection.execute(
        """INSERT INTO passes (
            user_id, pass_id, request_id, offer_digest, product_id, product_revision, vehicle_id,
            price_micros, currency_code, payment_reference, purchase_time, time_zone,
            start_time, end_time, first_use_before
        ) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)""",
        owned.user_id,
        owned.pass_id,
        owned.request_id,
        owned.offer_digest,
        owned.product_id,
        owned.product_revision,
        owned.vehicle_id,
        owned.price.micros,
        owned.price.currency_code,
        owned.payment_reference,
        owned.purchase_time,
        owned.time_zone,
        owned.period.start_time,
        owned.period.end_time,
        owned.period.first_use_before,
    )
    await connection.execute(
        """INSERT INTO ledger_entries (
            user_id, pass_id, entry_number, kind, energy_wh, sessions, entry_time
        ) VALUES ($1, $2, 1, 'OPENING', $3, $4, $5)""",
        owned.user_id,
        owned.pass_id,
        owned.balance.energy_wh,
        owned.balance.sessions,
        owned.purchase_time,
    )
