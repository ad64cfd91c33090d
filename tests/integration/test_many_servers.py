"""Many processes on one database sell as one: to the last pass and no further."""

import asyncio
import uuid
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import grpc

from tests.conftest import serving
from tests.integration.shop import breaches, create, fetch, get_product, signed_offer
from tests.integration.workers import working
from voucher_grpc.client import call_failed
from voucher_grpc.v1.offer_pb2 import Offer
from voucher_grpc.v1.voucher_service_pb2 import CapturedPayment, Payment, PurchasePassRequest
from voucher_grpc.v1.voucher_service_pb2_grpc import VoucherServiceStub

STOCK, BUYERS = 1_000, 10_000
WORKERS = 4
UNDER_WAY = 400


async def stub_of(stack: AsyncExitStack, target: str) -> Any:
    """On a connection of its own, and without retries: each verdict counts."""
    options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
    channel = await stack.enter_async_context(grpc.aio.insecure_channel(target, options))
    await asyncio.wait_for(channel.channel_ready(), 60)
    return VoucherServiceStub(channel)


async def buy_all(
    stubs: Sequence[Any], offers: Sequence[Offer], prefix: str = "pay"
) -> Counter[str]:
    """Each offer once, some hundreds at a time, at all servers in turn; the verdicts."""
    verdicts: Counter[str] = Counter()
    numbers = iter(range(len(offers)))

    async def buyer() -> None:
        for number in numbers:
            offer = offers[number]
            payment = CapturedPayment(reference=f"{prefix}-{number}", amount=offer.price)
            request = PurchasePassRequest(
                request_id=str(uuid.uuid4()),
                offer_id=offer.offer_id,
                payment=Payment(captured=payment),
            )
            try:
                await stubs[number % len(stubs)].PurchasePass(request, timeout=60)
                verdicts["OK"] += 1
            except grpc.aio.AioRpcError as error:
                verdicts[call_failed(error).reason] += 1

    await asyncio.gather(*(buyer() for _ in range(UNDER_WAY)))
    return verdicts


async def test_ten_thousand_buyers_of_a_stock_of_a_thousand(fresh_database: str) -> None:
    """Two servers and four workers: exactly a thousand passes, the others hear SOLD_OUT."""
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(serving(fresh_database)) for _ in range(2)]
        workers = await stack.enter_async_context(working(fresh_database, WORKERS))
        targets = [*(server.target for server in servers), *[workers.target] * WORKERS]
        stubs = [await stub_of(stack, target) for target in targets]
        client = servers[0].client
        created = await create(client, "p", stock=STOCK)
        offers = [signed_offer(created, f"user-{number}") for number in range(BUYERS)]
        verdicts = await buy_all(stubs, offers)
        assert Counter(OK=STOCK, SOLD_OUT=BUYERS - STOCK) == verdicts
        assert STOCK == (await get_product(client, "p")).sold
        rows = await fetch(fresh_database, "SELECT count(*) FROM passes")
        assert STOCK == rows[0][0]
        references = await fetch(fresh_database, "SELECT count(*) FROM payment_references")
        assert STOCK == references[0][0]
        assert {} == await breaches(fresh_database)
