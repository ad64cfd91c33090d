"""Without gRPC: the same SQL through bare asyncpg, and the two ways to write a purchase.

They run in a process of their own. Each says what it reached a second, with the
passes it wrote where it writes.
"""

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import uvloop

from benchmarks.load import Requests
from benchmarks.plain import buy, open_pool
from benchmarks.processes import Pipe
from benchmarks.world import CURRENCY, Priced, options, user_id, vehicle_id
from voucher_grpc.domain.offer_ids.signer import OfferTerms, offer_digest
from voucher_grpc.domain.passes.purchase import Purchase, pass_id_for
from voucher_grpc.domain.passes.state import PassWithTerms
from voucher_grpc.money import Money
from voucher_grpc.runtime.batching import Batcher
from voucher_grpc.runtime.clock import DatabaseClock
from voucher_grpc.server.config import read_config
from voucher_grpc.store import queries
from voucher_grpc.store.catalogue import RevisionCache
from voucher_grpc.store.database import Database
from voucher_grpc.store.driver import Connection, by_index, connect
from voucher_grpc.store.pass_locks import lock_users
from voucher_grpc.use_cases.write_passes import PassWriter


@dataclass(frozen=True, slots=True)
class Reached:
    """Rows or purchases a second, and the passes that were written."""

    per_s: float
    passes: int = 0


def worker(pipe: Pipe) -> None:
    """The work of the process: (name of a function, its arguments), a Reached, and again."""
    functions: dict[str, Callable[..., Coroutine[Any, Any, Reached]]] = {
        "sql_knowledge": sql_knowledge,
        "sql_purchases": sql_purchases,
        "write_batched": write_batched,
        "write_plain": write_plain,
    }
    while True:
        name, *arguments = pipe.recv()
        pipe.send(uvloop.run(functions[name](*arguments)))


async def sql_knowledge(url: str, users: int, batch: int, seconds: float) -> Reached:
    """Users a second by the statements of RequestOffers, `batch` keys at a time."""
    sql, chance = queries.load("knowledge"), random.Random()
    connection = await connect(options(url))
    try:

        async def once() -> int:
            numbers = sorted(chance.sample(range(users), batch))
            await connection.fetch(
                sql["knowledge"],
                [user_id(n) for n in numbers],
                [vehicle_id(n) for n in numbers],
            )
            return batch

        return Reached(await _rate(once, seconds))
    finally:
        await connection.close()


async def _rate(once: Callable[[], Any], seconds: float) -> float:
    for _ in range(20):
        await once()
    done, began_s = 0, time.perf_counter()
    while time.perf_counter() - began_s < seconds:
        done += await once()
    return done / (time.perf_counter() - began_s)


async def sql_purchases(
    url: str, users: int, products: Sequence[Priced], batch: int, seconds: float
) -> Reached:
    """Purchases a second by the statements of PurchasePass, nothing judged in between."""
    connection = await connect(options(url))
    written, chance = 0, random.Random()
    try:

        async def once() -> int:
            nonlocal written
            bought = [
                (user_id(n), _uuid(chance), chance.choice(products))
                for n in chance.sample(range(users), batch)
            ]
            await _purchase_statements(connection, bought)
            written += batch
            return batch

        return Reached(await _rate(once, seconds), written)
    finally:
        await connection.close()


async def _purchase_statements(
    connection: Connection, bought: Sequence[tuple[str, UUID, Priced]]
) -> None:
    sql, now = queries.load("passes"), datetime.now(UTC)
    users = [user for user, _, _ in bought]
    request_ids = [request_id for _, request_id, _ in bought]
    pass_ids = [pass_id_for(user, request_id) for user, request_id, _ in bought]
    digests = [offer_digest(str(request_id)) for request_id in request_ids]
    references = [f"payment-{request_id}" for request_id in request_ids]
    many = len(bought)
    async with by_index(connection):
        sequences, _ = await lock_users(connection, users)
        await connection.fetch(sql["user_passes"], users, pass_ids, users, digests)
        await connection.fetch(sql["claim_references"], references, users, pass_ids)
        await connection.fetch(sql["lock_stock"], sorted({p.product_id for _, _, p in bought}))
        await connection.fetchrow(
            sql["write"],
            users,
            pass_ids,
            request_ids,
            digests,
            [product.product_id for _, _, product in bought],
            [1] * many,
            [""] * many,
            [product.price_micros for _, _, product in bought],
            [CURRENCY] * many,
            references,
            [now] * many,
            ["UTC"] * many,
            [now] * many,
            [now + timedelta(days=30)] * many,
            [None] * many,
            [50_000] * many,
            [None] * many,
            [None] * many,
            [sequences[user] + 1 for user in users],
            ["PASS_PURCHASED"] * many,
        )


def _uuid(chance: random.Random) -> UUID:
    return UUID(int=chance.getrandbits(128), version=4)


async def write_batched(
    url: str, users: int, products: Sequence[Priced], callers: int, seconds: float
) -> Reached:
    """Purchases a second through the service's batcher and writer."""
    config = read_config()
    async with Database.open(options(url)) as database:
        dedicated = database.dedicated()
        writer = PassWriter(dedicated, DatabaseClock(), RevisionCache(), timedelta())
        batcher: Batcher[Purchase, PassWithTerms] = Batcher(
            "purchases",
            writer.write,
            interval_s=config.write_batch_interval_s,
            max_batch=config.max_batch,
            max_waiting=config.max_waiting,
        )
        purchases = _purchases(users, products, round(seconds * 20_000) + callers)
        result = await _authenticated(batcher.submit, purchases, callers, seconds)
        await batcher.close()
        await dedicated.close()
        return result


async def write_plain(
    url: str, users: int, products: Sequence[Priced], callers: int, seconds: float
) -> Reached:
    """Purchases a second by the tutorial's transaction."""
    async with open_pool(url) as pool:

        async def submit(purchase: Purchase) -> None:
            assert purchase.offer is not None
            await buy(
                pool,
                purchase.offer,
                purchase.offer_digest,
                purchase.request_id,
                purchase.vehicle_id,
                purchase.payment_reference,
            )

        purchases = _purchases(users, products, round(seconds * 5_000) + callers)
        return await _authenticated(submit, purchases, callers, seconds)


def _purchases(users: int, products: Sequence[Priced], count: int) -> list[Purchase]:
    """Purchases as the servicer hands them on."""
    requests, chance, now = Requests(users, products), random.Random(), datetime.now(UTC)
    made = []
    for _ in range(count):
        offer, offer_id, _ = requests.offer(products, now + timedelta(minutes=15))
        made.append(_purchase(offer, offer_id, _uuid(chance), now))
    return made


def _purchase(offer: OfferTerms, offer_id: str, request_id: UUID, now: datetime) -> Purchase:
    return Purchase(
        user_id=offer.user_id,
        request_id=request_id,
        offer_digest=offer_digest(offer_id),
        offer=offer,
        claimed_user_id=offer.user_id,
        vehicle_id="",
        payment_reference=f"payment-{request_id}",
        amount=Money(offer.price_micros, offer.currency_code),
        arrival_time=now,
    )


async def _authenticated(
    submit: Callable[[Purchase], Any], purchases: list[Purchase], callers: int, seconds: float
) -> Reached:
    """So many callers, each with one purchase under way."""
    remaining = iter(purchases)
    done = 0
    began_s = time.perf_counter()

    async def caller() -> None:
        nonlocal done
        for purchase in remaining:
            if time.perf_counter() - began_s >= seconds:
                return
            await submit(purchase)
            done += 1

    await asyncio.gather(*(caller() for _ in range(callers)))
    return Reached(done / (time.perf_counter() - began_s), done)
