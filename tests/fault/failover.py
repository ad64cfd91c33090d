"""Failovers under load: nothing acknowledged is lost, and the service goes on by itself.

    python -m tests.fault.failover [--rounds 6]

A primary with a synchronous standby; buyers buy; the primary is lost, the standby is
promoted, a new standby is made of the lost one, and so on. Writes build/failover.json;
exit code 1 if anything acknowledged was lost or anything does not hold.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

import grpc
from rich.console import Console
from rich.table import Table

from tests.conftest import OFFER_KEYS
from tests.fault.processes import Process, RunFailed, kill_family, start
from tests.fault.replicas import Pair, own_pair
from tests.fault.rows import PassRow, read_rows
from tests.fault.run import findings
from tests.integration.shop import create, fetch, sequenced
from voucher_grpc.client import Client, call_failed
from voucher_grpc.domain.offer_ids.signer import OfferSigner, OfferTerms, offer_digest
from voucher_grpc.edge.wire.messages import money_message
from voucher_grpc.money import Money
from voucher_grpc.v1.event_service_pb2 import StreamEventsRequest
from voucher_grpc.v1.event_service_pb2_grpc import EventServiceStub
from voucher_grpc.v1.pass_pb2 import Pass
from voucher_grpc.v1.voucher_service_pb2 import (
    CapturedPayment,
    GetPassRequest,
    Payment,
    PaymentHold,
    PurchasePassRequest,
)
from voucher_grpc.v1.voucher_service_pb2_grpc import VoucherServiceStub

_SERVES = "serves on port "
_START_S = 60.0
_RECOVERS_S = 60.0
_RETRY_S = 0.05
_BUYERS = 16
_GET_PASS_CHECKED = 300
_PRICE = Money(49_000_000, "NOK")
# What is bought between two losses, and for how long at least.
_LOAD_PURCHASES, _LOAD_S = 32, 1.5


class Loss(StrEnum):
    """How a primary is lost."""

    KILLED = "killed"
    FENCED = "frozen, then fenced"
    SILENT = "frozen, and stays so"


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A purchase that the service said it did."""

    request: PurchasePassRequest
    told: Pass
    at_s: float


@dataclass(slots=True)
class Round:
    """One failover; seconds from the loss, and from the operator's command to promote."""

    loss: Loss
    from_loss_s: float
    from_promotion_s: float
    promoting_s: float


@dataclass(slots=True)
class Outcome:
    """What came of all."""

    rounds: list[Round] = field(default_factory=list)
    acknowledged: int = 0
    unclear: int = 0
    slowest_refusal_s: float = 0.0
    lost: list[str] = field(default_factory=list)
    breaches: dict[str, list[str]] = field(default_factory=dict)
    events: int = 0

    @property
    def sound(self) -> bool:
        """Whether every promise was kept."""
        return not self.lost and not self.breaches and bool(self.rounds)


class Buyers:
    """Buy without end; whatever is not clear is asked again with the same request."""

    def __init__(self, stub: Any) -> None:
        self.open = True
        self.acknowledged: list[Acknowledged] = []
        self.unclear = 0
        self.slowest_refusal_s = 0.0
        self._stub = stub
        key_id, _, secret = OFFER_KEYS.partition(":")
        self._signer = OfferSigner({int(key_id): bytes.fromhex(secret)}, int(key_id))

    def _request(self, user_id: str, product_id: str, *, hold: bool) -> PurchasePassRequest:
        expire_time = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
        terms = OfferTerms(user_id, product_id, 1, _PRICE.micros, _PRICE.currency_code, expire_time)
        amount = money_message(_PRICE)
        paid = CapturedPayment(reference=f"pay-{uuid.uuid4()}", amount=amount)
        return PurchasePassRequest(
            request_id=str(uuid.uuid4()),
            offer_id=self._signer.sign(terms),
            payment=Payment(hold=PaymentHold(amount=amount)) if hold else Payment(captured=paid),
        )

    async def buy_on(self, number: int) -> None:
        """One purchase after the other, until it is closed; the last one is ended too.

        Some are holds that nobody pays: they lapse by themselves.
        """
        count = 0
        while self.open:
            product_id = "counted" if count % 2 else "standard"
            user_id = f"buyer-{number}-{count}"
            await self._buy(self._request(user_id, product_id, hold=count % 4 == 3))
            count += 1

    async def _buy(self, request: PurchasePassRequest) -> None:
        unclear = False
        while True:
            began_s = time.monotonic()
            try:
                response = await self._stub.PurchasePass(request, timeout=_RECOVERS_S)
            except grpc.aio.AioRpcError as error:
                failed = call_failed(error)
                if failed.reason != "STORE_UNAVAILABLE":
                    raise RunFailed(f"refused with {failed}") from error
                took_s = time.monotonic() - began_s
                self.slowest_refusal_s = max(self.slowest_refusal_s, took_s)
                unclear = True
                await asyncio.sleep(_RETRY_S)
            else:
                self.unclear += unclear
                told = getattr(response, "pass")
                self.acknowledged.append(Acknowledged(request, told, time.monotonic()))
                return

    async def have_bought(self) -> None:
        """Wait until purchases are well under way, however slow the machine."""
        wanted = len(self.acknowledged) + _LOAD_PURCHASES
        await asyncio.sleep(_LOAD_S)
        async with asyncio.timeout(_RECOVERS_S):
            while len(self.acknowledged) < wanted:  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    async def acknowledged_after(self, instant_s: float) -> float:
        """When the first purchase after an instant was acknowledged; waits for it."""
        async with asyncio.timeout(_RECOVERS_S):
            while not self.acknowledged or self.acknowledged[-1].at_s <= instant_s:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        return next(a.at_s for a in self.acknowledged if a.at_s > instant_s)


async def fail_over(pair: Pair, buyers: Buyers, loss: Loss, notice_s: float) -> Round:
    """Lose the primary while purchases go on, and promote the standby after a while."""
    lost_s = time.monotonic()
    if loss is Loss.KILLED:
        await pair.primary.kill()
    else:
        pair.primary.freeze()
    await asyncio.sleep(notice_s)
    if loss is Loss.FENCED:
        await pair.primary.kill()
    promote_s = time.monotonic()
    await pair.promote()
    promoted_s = time.monotonic()
    first_s = await buyers.acknowledged_after(promote_s)
    return Round(loss, first_s - lost_s, first_s - promote_s, promoted_s - promote_s)


async def run(
    losses: Sequence[Loss], notice_s: float = 1.0, say: Any = lambda _round: None
) -> Outcome:
    """One failover for each loss, with one service that is never restarted; then the reckoning."""
    outcome = Outcome()
    async with own_pair() as pair, _service(pair.url) as (target, process), Client(target) as shop:
        await create(shop, "standard", default_offer=True)
        await create(shop, "counted", stock=1_000_000)
        options = [("grpc.enable_retries", 0)]
        async with grpc.aio.insecure_channel(target, options) as channel:
            stub: Any = VoucherServiceStub(channel)
            buyers = Buyers(stub)
            async with asyncio.TaskGroup() as group:
                for number in range(_BUYERS):
                    group.create_task(buyers.buy_on(number))
                try:
                    for number, loss in enumerate(losses):
                        if number:
                            await pair.make_standby()
                        await buyers.have_bought()
                        outcome.rounds.append(await fail_over(pair, buyers, loss, notice_s))
                        say(outcome.rounds[-1])
                    await buyers.have_bought()
                finally:
                    buyers.open = False
            outcome.acknowledged = len(buyers.acknowledged)
            outcome.unclear = buyers.unclear
            outcome.slowest_refusal_s = buyers.slowest_refusal_s
            await _reckon(outcome, pair.primary.url, buyers, channel)
        if process.returncode is not None:
            outcome.lost.append("the service ended by itself")
    return outcome


async def _reckon(outcome: Outcome, url: str, buyers: Buyers, channel: Any) -> None:
    """What was acknowledged against what is there, once all that ends by itself has ended."""
    await _lapsed(url)
    await sequenced(url)
    rows = await read_rows(url)
    passes = {row.pass_id: row for row in rows.passes}
    for bought in buyers.acknowledged:
        if not _is_kept(bought, passes.get(bought.told.pass_id)):
            outcome.lost.append(f"{bought.told.user_id}/{bought.told.pass_id}")
    stub: Any = VoucherServiceStub(channel)
    step = max(1, len(buyers.acknowledged) // _GET_PASS_CHECKED)
    for bought in buyers.acknowledged[::step]:
        told = bought.told
        if told.HasField("hold_expire_time"):
            continue  # it was another one before it lapsed
        wanted = GetPassRequest(user_id=told.user_id, pass_id=told.pass_id)
        if getattr(await stub.GetPass(wanted), "pass") != told:
            outcome.lost.append(f"{told.user_id}/{told.pass_id}: told otherwise now")
    told_of = await _events(channel)
    outcome.events = len(told_of)
    expected = [("PASS_PURCHASED", row.pass_id) for row in rows.passes if row.paid_time]
    for held in (row.pass_id for row in rows.passes if not row.paid_time):
        expected += [("PASS_HELD", held), ("PASS_LAPSED", held)]
    if sorted(told_of) != sorted(expected):
        outcome.lost.append("the stream of events does not tell everything once")
    outcome.breaches = await findings(url)


def _is_kept(bought: Acknowledged, row: PassRow | None) -> bool:
    request, told = bought.request, bought.told
    if row is None:
        return False
    paid = request.payment.captured  # for a hold it names no reference
    return (
        row.user_id,
        str(row.request_id),
        row.offer_digest,
        row.payment_reference,
        row.price_micros,
        row.product_id,
    ) == (
        told.user_id,
        request.request_id,
        offer_digest(request.offer_id),
        paid.reference,
        _PRICE.micros,
        told.product_id,
    )


async def _lapsed(url: str) -> None:
    """Return once the holds that nobody paid have been closed."""
    async with asyncio.timeout(_RECOVERS_S):
        while await fetch(  # noqa: ASYNC110 - nobody tells
            url, "SELECT 1 FROM passes WHERE hold_expire_time IS NOT NULL AND close_time IS NULL"
        ):
            await asyncio.sleep(0.1)


async def _events(channel: Any) -> list[tuple[str, str]]:
    stub: Any = EventServiceStub(channel)
    stream = stub.StreamEvents(StreamEventsRequest(), timeout=_RECOVERS_S)
    return [
        (m.event.type.rpartition(".")[2], m.event.pass_event.pass_id)
        async for m in stream
        if m.HasField("event")
    ]


@asynccontextmanager
async def _service(url: str) -> AsyncIterator[tuple[str, Process]]:
    """A server in a process of its own."""
    environment = {
        **os.environ,
        "VOUCHER_DATABASE_URL": url,
        "VOUCHER_LISTEN": "127.0.0.1:0",
        "VOUCHER_METRICS_LISTEN": "",
        "VOUCHER_OFFER_KEYS": OFFER_KEYS,
        "VOUCHER_HOLD_LIFETIME_S": "1",
        "VOUCHER_LOG_LEVEL": "warning",
        "OPENBLAS_NUM_THREADS": "1",
    }
    with tempfile.TemporaryFile() as output:
        command = [sys.executable, "-m", "voucher_grpc.cli", "serve"]
        process = await start(command, environment, output)
        try:
            async with asyncio.timeout(_START_S):
                while True:
                    output.seek(0)
                    said = output.read().decode()
                    if _SERVES in said and said.endswith("\n"):
                        break
                    if process.returncode is not None:
                        raise RunFailed(f"the service does not start: {said[-600:]}")
                    await asyncio.sleep(0.05)
            yield f"127.0.0.1:{int(said.partition(_SERVES)[2].split()[0])}", process
        finally:
            if process.returncode is None:
                await kill_family(process)


def _report(outcome: Outcome, console: Console, file: Path) -> None:
    table = Table("primary", title="seconds to the first purchase acknowledged afterwards")
    for title in ("from the loss", "from the promotion", "of which promoting"):
        table.add_column(title, justify="right")
    for r in outcome.rounds:
        numbers = (r.from_loss_s, r.from_promotion_s, r.promoting_s)
        table.add_row(str(r.loss), *(f"{number:.2f}" for number in numbers))
    console.print(table)
    console.print(
        f"{outcome.acknowledged:,} purchases acknowledged, {outcome.unclear} of them unclear at"
        f" first; {outcome.events:,} events; the slowest refusal took"
        f" {outcome.slowest_refusal_s:.2f} s"
    )
    for what in outcome.lost[:20]:
        console.print(f"lost: {what}", markup=False, style="red")
    for check, first in outcome.breaches.items():
        console.print(f"verify: {check}: {first}", markup=False, style="red")
    if outcome.sound:
        console.print("nothing acknowledged was lost, and no promise was broken", style="green")
    file.parent.mkdir(exist_ok=True)
    rounds = [
        {
            "primary": str(r.loss),
            "from_loss_s": round(r.from_loss_s, 3),
            "from_promotion_s": round(r.from_promotion_s, 3),
            "promoting_s": round(r.promoting_s, 3),
        }
        for r in outcome.rounds
    ]
    content = {
        "sound": outcome.sound,
        "purchases_acknowledged": outcome.acknowledged,
        "unclear_at_first": outcome.unclear,
        "slowest_refusal_s": round(outcome.slowest_refusal_s, 3),
        "events": outcome.events,
        "lost": outcome.lost,
        "breaches": outcome.breaches,
        "rounds": rounds,
    }
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def main() -> int:
    """Run as many failovers as asked for, each kind of loss in turn; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fault.failover", description=__doc__)
    parser.add_argument("--rounds", type=int, default=6, help="how many failovers")
    parser.add_argument(
        "--notice-s", type=float, default=1.0, help="how long the operator takes to act"
    )
    arguments = parser.parse_args()
    kinds = list(Loss)
    losses = [kinds[number % len(kinds)] for number in range(arguments.rounds)]
    console = Console(highlight=False, soft_wrap=True)

    def say(done: Round) -> None:
        console.print(f"{done.loss}: {done.from_promotion_s:.2f} s from the promotion")

    outcome = asyncio.run(run(losses, arguments.notice_s, say))
    _report(outcome, console, Path("build/failover.json"))
    return 0 if outcome.sound else 1


if __name__ == "__main__":
    sys.exit(main())
