"""Calls at the servers of a run, with raw stubs: one try each, and what it was told."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random
from typing import Any

import grpc

from tests.fault.journal import (
    Attempt,
    Cancellation,
    Confirmation,
    Journal,
    PassTold,
    Purchase,
    Told,
    Tried,
)
from tests.fault.market import CURRENCY
from voucher_grpc.client import CallFailed, call_failed
from voucher_grpc.edge.wire.messages import instant_of, money_message, money_of
from voucher_grpc.money import Money
from voucher_grpc.v1 import voucher_service_pb2 as pb
from voucher_grpc.v1.pass_pb2 import Pass, PassState
from voucher_grpc.v1.voucher_service_pb2_grpc import VoucherServiceStub

CHANNELS = 4
CHANNEL_OPTIONS = (
    ("grpc.enable_retries", 0),
    # Back soon after a cut: by default a channel waits a second and more.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 300),
    ("grpc.use_local_subchannel_pool", 1),
)
# A caller learns nothing of what became of the call; the transport gives the last two
# where a connection broke in the middle of an answer.
_UNCLEAR_CODES = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
}


class HungUp(Exception):
    """The caller itself has given up."""


def unclear(failed: CallFailed) -> bool:
    """Whether it has to be tried again to know what became of it."""
    return failed.code in _UNCLEAR_CODES


class Desk:
    """Where callers reach the servers; counts what goes wrong in the journal."""

    def __init__(self, stubs: Sequence[Sequence[Any]], journal: Journal) -> None:
        self._stubs = stubs
        self._journal = journal

    @property
    def servers(self) -> int:
        """How many there are."""
        return len(self._stubs)

    async def call(
        self,
        method: str,
        request: Any,
        random: Random,
        server: int,
        timeout_s: float,
        hang_up_after_s: float | None = None,
    ) -> Any:
        """One try. Raises CallFailed."""
        stub = random.choice(self._stubs[server])
        call = getattr(stub, method)(request, timeout=timeout_s)
        hung_up = None
        if hang_up_after_s is not None:
            hung_up = asyncio.get_running_loop().call_later(hang_up_after_s, call.cancel)
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            failed = call_failed(error)
        except asyncio.CancelledError:
            if hung_up is None or hung_up.when() > asyncio.get_running_loop().time():
                raise
            failed = CallFailed(grpc.StatusCode.CANCELLED, "", "hung up")
        finally:
            if hung_up is not None:
                hung_up.cancel()
        self._journal.failures[method, failed.code.name, failed.reason] += 1
        raise failed

    async def attempt(
        self,
        wish: Tried,
        random: Random,
        server: int,
        timeout_s: float,
        hang_up_after_s: float | None = None,
    ) -> Attempt:
        """Try once; the attempt is in the wish then."""
        sent_s = time.time()
        method, request = _request(wish)
        try:
            response = await self.call(method, request, random, server, timeout_s, hang_up_after_s)
        except CallFailed as failed:
            attempt = _refused(failed, sent_s, server)
        else:
            shown = pass_told(getattr(response, "pass"))
            attempt = Attempt(sent_s, time.time(), server, Told.DONE, told_pass=shown)
        wish.attempts.append(attempt)
        return attempt


def _refused(failed: CallFailed, sent_s: float, server: int) -> Attempt:
    told = Told.UNCLEAR if unclear(failed) else Told.REFUSED
    named = failed.metadata.get("pass_id", "")
    return Attempt(sent_s, time.time(), server, told, failed.code.name, failed.reason, named)


def _request(wish: Tried) -> tuple[str, Any]:
    """The method and its request."""
    match wish:
        case Purchase():
            return "PurchasePass", _purchase_request(wish)
        case Confirmation():
            amount = money_message(Money(wish.amount_micros, CURRENCY))
            return "ConfirmPurchase", pb.ConfirmPurchaseRequest(
                user_id=wish.user_id,
                pass_id=wish.pass_id,
                payment=pb.CapturedPayment(reference=wish.reference, amount=amount),
            )
        case Cancellation():
            return "CancelPass", pb.CancelPassRequest(user_id=wish.user_id, pass_id=wish.pass_id)
    raise TypeError(f"nobody knows how to ask for {wish}")


def _purchase_request(purchase: Purchase) -> pb.PurchasePassRequest:
    amount = money_message(Money(purchase.amount_micros, CURRENCY))
    if purchase.held:
        payment = pb.Payment(hold=pb.PaymentHold(amount=amount))
    else:
        captured = pb.CapturedPayment(reference=purchase.reference, amount=amount)
        payment = pb.Payment(captured=captured)
    return pb.PurchasePassRequest(
        request_id=str(purchase.request_id),
        offer_id=purchase.offer.offer_id,
        user_id=purchase.claimed_user_id,
        vehicle_id=purchase.vehicle_id,
        payment=payment,
        validate_only=purchase.validate_only,
    )


def pass_told(shown: Pass) -> PassTold:
    """What of a pass is written down."""
    return PassTold(
        shown.user_id,
        shown.pass_id,
        shown.request_id,
        shown.product_id,
        shown.product_revision,
        money_of(shown.price).micros,
        shown.payment_reference,
        shown.vehicle_id,
        instant_of(shown.purchase_time).timestamp(),
        PassState.Name(shown.state).removeprefix("PASS_STATE_"),
        _instant_s(shown, "hold_expire_time"),
        money_of(shown.refund).micros if shown.HasField("refund") else None,
    )


def _instant_s(shown: Pass, field: str) -> float | None:
    return instant_of(getattr(shown, field)).timestamp() if shown.HasField(field) else None  # type: ignore[arg-type]


@asynccontextmanager
async def opened(targets: Sequence[str], journal: Journal) -> AsyncIterator[Desk]:
    """Channels to all servers, a few to each, so that some connections live when others break."""
    async with AsyncExitStack() as stack:
        stubs = []
        for target in targets:
            channels = [
                await stack.enter_async_context(grpc.aio.insecure_channel(target, CHANNEL_OPTIONS))
                for _ in range(CHANNELS)
            ]
            stubs.append([VoucherServiceStub(channel) for channel in channels])
        yield Desk(stubs, journal)
