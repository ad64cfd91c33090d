"""RequestOffers and PurchasePass for three users of different habits, with a real server."""

from datetime import UTC, datetime

from rich.table import Table

from voucher_grpc.client import CallFailed, Client
from voucher_grpc.dev.demo.load import load_demo
from voucher_grpc.edge.wire.messages import money_of
from voucher_grpc.printable import printable
from voucher_grpc.server.config import Config
from voucher_grpc.server.lifecycle import running
from voucher_grpc.terminal import cell, say, show
from voucher_grpc.v1.offer_pb2 import Offer
from voucher_grpc.v1.pass_pb2 import Pass
from voucher_grpc.v1.tendency_service_pb2 import GetTendencyRequest, Tendency
from voucher_grpc.v1.voucher_service_pb2 import RequestOffersResponse

WIDTH_CHARS = 100
USERS = ("demo-night-owl", "demo-weekender", "demo-fast-charger")


class DemoFailed(Exception):
    """Something that the demo shows did not hold."""


def _hold(condition: bool, what: str) -> None:
    if not condition:
        raise DemoFailed(what)


async def play(config: Config) -> None:
    """Raises DemoFailed at the first thing that does not hold."""
    async with running(config) as server, Client(f"127.0.0.1:{server.port}") as client:
        loaded = await load_demo(client, datetime.now(UTC))
        say(
            f"{loaded.products} products, {loaded.locations} locations, {loaded.users} users and "
            f"{loaded.sessions_recorded} sessions are loaded over the API"
        )
        firsts = [await _buy_for(client, user_id) for user_id in USERS]
        _hold(len(set(firsts)) == len(firsts), "different habits get different first offers")
        await _refusals(client)
    say("all of it held", "green")


async def _buy_for(client: Client, user_id: str) -> str:
    """One user asks and buys; returns the product of the first offer."""
    tendency: Tendency = (
        await client.call(client.tendency.GetTendency, GetTendencyRequest(user_id=user_id))
    ).tendency
    say("")
    say(f"{user_id} ".ljust(WIDTH_CHARS, "─"), "bold")
    say(
        f"{tendency.energy_wh_per_30_days / 1000:.0f} kWh and "
        f"{tendency.sessions_per_30_days:.0f} sessions in 30 days, "
        f"{tendency.night_share:.0%} at night, {tendency.weekend_share:.0%} on weekends"
    )
    answer = await client.request_offers(vehicle_id=f"{user_id}-vehicle")
    _hold(answer.user_id == user_id, "the vehicle alone is enough to find its user")
    _hold(len(answer.offers) > 0, f"{user_id} gets an offer")
    show(_table(answer), WIDTH_CHARS)
    first = answer.offers[0]
    _hold(first.recommended, f"the first offer for {user_id} is recommended")
    bought = await client.purchase_pass(
        first, payment_reference=f"demo-payment-{user_id}", vehicle_id=f"{user_id}-vehicle"
    )
    _check(bought, first, user_id)
    owned = await client.get_pass(user_id, bought.pass_id)
    _hold(owned == bought, "the pass that is read is the pass that was bought")
    say(
        f"bought {printable(bought.display_name)} for {money_of(bought.price)}, "
        f"pass {bought.pass_id}, good until {bought.end_time.ToDatetime():%Y-%m-%d %H:%M} UTC"
    )
    return first.product_id


def _table(answer: RequestOffersResponse) -> Table:
    table = Table("offer", "price", "saves", "because", show_lines=True)
    for offer in answer.offers:
        table.add_row(
            cell(offer.display_name),
            cell(money_of(offer.price)),
            f"{money_of(offer.expected_saving).micros / 1e6:.2f}"
            if offer.HasField("expected_saving")
            else "",
            cell(*(f"· {reason.text}" for reason in offer.reasons)),
        )
    return table


def _check(bought: Pass, offer: Offer, user_id: str) -> None:
    _hold(bought.user_id == user_id, "the pass belongs to the user of the offer")
    _hold(bought.price == offer.price, "the price paid is the price offered")
    _hold(bought.benefit == offer.benefit, "the pass gives what was offered")
    _hold(bought.conditions == offer.conditions, "the pass has the conditions that were offered")


async def _refusals(client: Client) -> None:
    """What must not go through does not: a second purchase, and a forged offer."""
    user_id = USERS[0]
    answer = await client.request_offers(user_id=user_id)
    _hold(len(answer.offers) > 0, "the user may ask again")
    first = await client.purchase_pass(answer.offers[0], payment_reference="demo-payment-again")
    for what, offer_id, reason in (
        ("the same offer again", answer.offers[0].offer_id, "OFFER_ALREADY_BOUGHT"),
        ("a forged offer", answer.offers[0].offer_id[:-4] + "AAAA", "OFFER_INVALID"),
    ):
        try:
            await client.purchase_pass(
                offer_id, amount=answer.offers[0].price, payment_reference=f"demo-{reason}"
            )
        except CallFailed as refused:
            _hold(refused.reason == reason, f"{what} is refused as {reason}")
            say(f"{what}: {refused}")
        else:
            raise DemoFailed(f"{what} was sold")
    _hold(first.user_id == user_id, "the pass belongs to its buyer")
