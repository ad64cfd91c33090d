"""A varied set of real sales: every kind of pass, in every way that one ends."""

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import count
from typing import Any

import voucher_grpc.cli.verify  # noqa: F401 - registers the command
from tests.conftest import Service, new_database, serving
from tests.integration.shop import (
    buy,
    create,
    execute,
    fetch,
    get_product,
    outcome,
    outcomes,
    sequenced,
    signed_offer,
)
from tests.integration.test_catalogue import retire, update
from tests.integration.test_export_erase import erase
from tests.integration.test_holds import (
    confirm,
    ending_soon,
    hold,
    nothing_is_closed,
    until_closed,
    until_over,
)
from tests.integration.test_redemption import authorize, capture, cdr, owned, reverse, station
from voucher_grpc.client import Client
from voucher_grpc.v1.offer_pb2 import Offer
from voucher_grpc.v1.pass_pb2 import Pass
from voucher_grpc.v1.product_pb2 import Product

# No two offers are the same, however quickly they are made.
LIFETIMES_S = count(600)
BENEFITS: dict[str, dict[str, Any]] = {
    "bundle": {"energy_bundle_kwh": "60.5"},
    "charges": {"session_bundle": 10, "max_energy_kwh_per_session": 40},
    "flat": {"flat_fair_use_kwh": 400},
    "percent": {"percentage_off": 20},
}
# As far away as no run of the tests takes.
LONG_S = 86_400


def offer(product: Product, user_id: str) -> Offer:
    """An offer of its own."""
    return signed_offer(product, user_id, lifetime_s=next(LIFETIMES_S))


async def sell(client: Client, product: Product, user_id: str, times: int = 1) -> list[Pass]:
    """Passes of a product, one after the other."""
    return [await buy(client, offer(product, user_id)) for _ in range(times)]


async def sell_and_cancel(client: Client, product: Product, user_id: str) -> Pass:
    """A pass that was paid and given back."""
    [bought] = await sell(client, product, user_id)
    return await client.cancel_pass(user_id, bought.pass_id)


async def sell_limited(client: Client, database: str) -> None:
    """Products with stock and limits, to their bounds; a limit that was lowered later."""
    stocked = await create(client, "stocked", stock=5)
    works = [buy(client, offer(stocked, f"user-{n}")) for n in range(12)]
    assert Counter(OK=5, SOLD_OUT=7) == await outcomes(works)
    twice = await create(client, "twice", personal_limit={"max_purchases": 2})
    works = [buy(client, offer(twice, "alice")) for _ in range(6)]
    assert Counter(OK=2, PERSONAL_LIMIT_REACHED=4) == await outcomes(works)
    monthly = await create(
        client, "monthly", personal_limit={"max_purchases": 1, "rolling_days": 30}
    )
    await sell(client, monthly, "alice")
    assert "PERSONAL_LIMIT_REACHED" == await outcome(buy(client, offer(monthly, "alice")))
    await execute(
        database,
        "UPDATE passes SET purchase_time = purchase_time - interval '960 hours',"
        " start_time = start_time - interval '960 hours' WHERE product_id = 'monthly'",
    )
    await sell(client, monthly, "alice")
    lowered = await create(client, "lowered", personal_limit={"max_purchases": 3})
    await sell(client, lowered, "lou", 3)
    lowered.personal_limit.max_purchases = 1
    lowered = await update(client, lowered)
    assert "PERSONAL_LIMIT_REACHED" == await outcome(buy(client, offer(lowered, "lou")))


async def sell_revised(client: Client) -> None:
    """Two revisions at two prices, each withdrawn at last; one that nobody bought."""
    revised = await create(client, "revised")
    await sell(client, revised, "bob")
    late = offer(revised, "bob")
    revised.price.units = 59
    revised = await update(client, revised, withdraw=True)
    assert "OFFER_WITHDRAWN" == await outcome(buy(client, late))
    await sell(client, revised, "bob")
    late = offer(revised, "bob")
    await retire(client, await get_product(client, "revised"), withdraw=True)
    assert "OFFER_WITHDRAWN" == await outcome(buy(client, late))
    unsold = await create(client, "unsold", stock=0)
    unsold.display_name = "Unsold"
    await update(client, unsold)


async def sell_and_erase(client: Client, plain: Product) -> None:
    """Users are erased, with a hold and something given back; one comes back."""
    back = await create(client, "ednas", withdrawal_days=14)
    await hold(client, offer(plain, "edna"))
    await sell_and_cancel(client, back, "edna")
    for user_id in ("eve", "ed"):
        await sell(client, plain, user_id, 2)
    for user_id in ("eve", "ed", "edna"):
        await erase(client, user_id, forfeit=True)
    await sell(client, plain, "eve")


async def sell_held(client: Client) -> None:
    """Holds that are open, paid, left, and paid and given back; one at a limit."""
    for name in ("held", "confirmed", "left", "returned"):
        product = await create(client, name, benefit=BENEFITS["bundle"], withdrawal_days=14)
        held = await hold(client, offer(product, "hal"))
        if name in ("confirmed", "returned"):
            await confirm(client, held)
        if name in ("left", "returned"):
            await client.cancel_pass("hal", held.pass_id)
    once = await create(client, "once", personal_limit={"max_purchases": 1})
    await client.cancel_pass("hal", (await hold(client, offer(once, "hal"))).pass_id)
    await confirm(client, await hold(client, offer(once, "hal")))
    assert "PERSONAL_LIMIT_REACHED" == await outcome(hold(client, offer(once, "hal")))


async def sell_cancelled(client: Client) -> None:
    """Of each benefit a pass that was given back and one that was not."""
    validities = {"unused": {"days": 30, "start": "FIRST_USE"}, "ahead": ending_soon(2 * LONG_S)}
    terms: dict[str, dict[str, Any]] = {name: {"benefit": b} for name, b in BENEFITS.items()}
    terms |= {name: {"validity": validity} for name, validity in validities.items()}
    terms["again"] = {"personal_limit": {"max_purchases": 1}, "benefit": BENEFITS["bundle"]}
    for name, changes in terms.items():
        product = await create(client, f"{name}-back", withdrawal_days=14, **changes)
        cancelled = await sell_and_cancel(client, product, "ben")
        assert product.price == cancelled.refund
        await sell(client, product, "ben")


async def sell_brief(client: Client) -> None:
    """A day's validity of which little is left: one is given back in time, two expire."""
    brief = await create(
        client, "brief", validity=ending_soon(12), time_zone="UTC", withdrawal_days=14
    )
    bought = await sell(client, brief, "ben", 2)
    await confirm(client, await hold(client, offer(brief, "hal")))
    await asyncio.sleep(1)
    refund = (await client.cancel_pass("ben", bought[0].pass_id)).refund
    assert 0 < refund.units < brief.price.units


async def sell_lapsing(client: Client, database: str) -> None:
    """Holds of a second that are not paid, one of which loses its place before it is noted."""
    await hold(client, offer(await create(client, "lapsed"), "lil"))
    last = await create(client, "last", stock=1, personal_limit={"max_purchases": 1})
    async with nothing_is_closed(database):
        await until_over(await hold(client, offer(last, "lil")))
        await sell(client, last, "lil")


async def leave_lapsed(client: Client) -> None:
    """Holds that are over, with a place and without, when the last server goes."""
    await hold(client, offer(await create(client, "forgotten"), "lil"))
    taken = await create(client, "taken", stock=1)
    await until_over(await hold(client, offer(taken, "lil")))
    await sell(client, taken, "lou")


async def sell_charged(service: Service) -> None:
    """A bundle of which a part is reserved, another taken, and a third was taken and given back."""
    client = service.client
    await station(service, "station")
    await owned(client, "dora", product_id="charged")
    await capture(client, cdr("dora", "station", [10], datetime.now(UTC)))
    await authorize(client, "dora", "station", energy_wh=20_000)
    await owned(client, "dirk", product_id="reversed")
    await capture(client, cdr("dirk", "station", [30], datetime.now(UTC), cdr_id="CREDITED"))
    await reverse(client, "dirk", "CREDITED")


async def sell_refused(client: Client, plain: Product) -> None:
    """Retries and refusals; some users have nothing but these."""
    request: dict[str, Any] = {"request_id": str(uuid.uuid4()), "payment_reference": "once"}
    first, other = offer(plain, "carol"), type(plain.price)(currency_code="NOK", units=1)
    works = [client.purchase_pass(first, **request) for _ in range(10)]
    assert Counter(OK=10) == await outcomes(works)
    refused = {
        "REQUEST_ID_REUSED": client.purchase_pass(offer(plain, "carol"), **request),
        "OFFER_ALREADY_BOUGHT": buy(client, first),
        "OFFER_EXPIRED": buy(client, signed_offer(plain, "dan", lifetime_s=-1)),
        "PAYMENT_REFERENCE_USED": buy(client, offer(plain, "dan"), payment_reference="once"),
        "PAYMENT_MISMATCH": buy(client, offer(plain, "dan"), amount=other),
    }
    for reason, work in refused.items():
        assert reason == await outcome(work)


@asynccontextmanager
async def varied_sales(cluster_url: str) -> AsyncIterator[str]:
    """A database with them, which nobody is connected to."""
    async with new_database(cluster_url) as url:
        async with (
            serving(url, hold_lifetime_s=LONG_S) as service,
            serving(url, hold_lifetime_s=LONG_S) as second,
            serving(url, hold_lifetime_s=1) as third,
        ):
            client = service.client
            await sell_brief(client)
            plain = await create(client, "plain")
            sellers = (client, second.client)
            works = [buy(sellers[n % 2], offer(plain, f"user-{n // 4}")) for n in range(40)]
            assert Counter(OK=40) == await outcomes(works)
            for user_id in ("alice", "bob", "lou"):
                await sell(client, plain, user_id, 3)
            for name, benefit in BENEFITS.items():
                await sell(client, await create(client, name, benefit=benefit), "bob")
            await sell_limited(client, url)
            await sell_revised(client)
            await sell_and_erase(client, plain)
            await sell_refused(client, plain)
            await sell_held(client)
            await sell_cancelled(client)
            await sell_lapsing(third.client, url)
            await sell_charged(service)
            [[closed]] = await fetch(
                url, "SELECT count(*) FROM passes WHERE closed_as = 'CANCELLED'"
            )
            await until_closed(url, closed + 4)
            await sequenced(url)
        async with nothing_is_closed(url), serving(url, hold_lifetime_s=1) as last:
            await leave_lapsed(last.client)
            await sequenced(url)
        yield url
