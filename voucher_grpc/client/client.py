"""The typed client."""

import uuid
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
from google.type.money_pb2 import Money

from voucher_grpc.client.channel import channel_options
from voucher_grpc.client.failures import call_failed
from voucher_grpc.v1 import (
    catalogue_service_pb2_grpc,
    event_service_pb2,
    event_service_pb2_grpc,
    location_service_pb2_grpc,
    redemption_service_pb2_grpc,
    tendency_service_pb2,
    tendency_service_pb2_grpc,
    user_service_pb2_grpc,
    voucher_service_pb2,
    voucher_service_pb2_grpc,
)
from voucher_grpc.v1.conditions_pb2 import LocationReference
from voucher_grpc.v1.offer_pb2 import Offer
from voucher_grpc.v1.pass_pb2 import Pass

Request = TypeVar("Request")
DEFAULT_TIMEOUT_S = 10.0
IMPORT_TIMEOUT_S = 600.0


class Client:
    """A connection to the service; safe to share between tasks.

    `voucher`, `redemption`, `catalogue`, `location`, `tendency`, `user` and `event` are the typed
    stubs; `call` adds the deadline and turns errors into CallFailed.

    `token` is sent as a bearer token with each call; a function is asked each time, so that
    it can bring a new one. It travels in clear unless there are channel `credentials`. A
    call on a stub itself takes `metadata` along.
    """

    def __init__(
        self,
        target: str,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        token: str | Callable[[], str] = "",
        timeout_s: float = DEFAULT_TIMEOUT_S,
        metadata: Sequence[tuple[str, str]] = (),
    ) -> None:
        self._channel = (
            grpc.aio.insecure_channel(target, channel_options())
            if credentials is None
            else grpc.aio.secure_channel(target, credentials, channel_options())
        )
        self._timeout_s = timeout_s
        self._token = token
        self._metadata = tuple(metadata)
        self.voucher = voucher_service_pb2_grpc.VoucherServiceStub(self._channel)
        self.redemption = redemption_service_pb2_grpc.RedemptionServiceStub(self._channel)
        self.catalogue = catalogue_service_pb2_grpc.CatalogueServiceStub(self._channel)
        self.location = location_service_pb2_grpc.LocationServiceStub(self._channel)
        self.tendency = tendency_service_pb2_grpc.TendencyServiceStub(self._channel)
        self.user = user_service_pb2_grpc.UserServiceStub(self._channel)
        self.event = event_service_pb2_grpc.EventServiceStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with each call, the token included."""
        token = self._token if isinstance(self._token, str) else self._token()
        return (*self._metadata, ("authorization", f"Bearer {token}")) if token else self._metadata

    async def close(self) -> None:
        """Close the connection; calls in flight are cancelled."""
        await self._channel.close()

    async def call(
        self, method: Callable[..., Any], request: Request, timeout_s: float | None = None
    ) -> Any:
        """Call a method of a stub. Raises CallFailed."""
        try:
            return await method(
                request, timeout=timeout_s or self._timeout_s, metadata=self.metadata
            )
        except grpc.RpcError as error:
            raise call_failed(error) from error

    async def request_offers(
        self,
        *,
        user_id: str = "",
        vehicle_id: str = "",
        location: LocationReference | None = None,
        max_offers: int = 0,
        currency_code: str = "",
    ) -> voucher_service_pb2.RequestOffersResponse:
        """RequestOffers. Reads only. Raises CallFailed."""
        place = None if location is None else voucher_service_pb2.Place(location=location)
        request = voucher_service_pb2.RequestOffersRequest(
            user_id=user_id,
            vehicle_id=vehicle_id,
            place=place,
            max_offers=max_offers,
            currency_code=currency_code,
        )
        response: voucher_service_pb2.RequestOffersResponse = await self.call(
            self.voucher.RequestOffers, request
        )
        return response

    async def purchase_pass(
        self,
        offer: Offer | str,
        *,
        payment_reference: str = "",
        amount: Money | None = None,
        request_id: str = "",
        user_id: str = "",
        vehicle_id: str = "",
        validate_only: bool = False,
    ) -> Pass:
        """PurchasePass: buy an offer, or an offer_id for an `amount`.

        Without a `payment_reference` the pass is held until `confirm_purchase`. The
        request_id is made here unless one is given; keep it to repeat a purchase whose
        outcome is not known. Raises CallFailed.
        """
        if isinstance(offer, Offer):
            amount = amount or offer.price
        captured = voucher_service_pb2.CapturedPayment(reference=payment_reference, amount=amount)
        hold = voucher_service_pb2.PaymentHold(amount=amount)
        request = voucher_service_pb2.PurchasePassRequest(
            request_id=request_id or str(uuid.uuid4()),
            offer_id=offer.offer_id if isinstance(offer, Offer) else offer,
            user_id=user_id,
            vehicle_id=vehicle_id,
            payment=voucher_service_pb2.Payment(captured=captured)
            if payment_reference
            else voucher_service_pb2.Payment(hold=hold),
            validate_only=validate_only,
        )
        response = await self.call(self.voucher.PurchasePass, request)
        bought: Pass = getattr(response, "pass")
        return bought

    async def confirm_purchase(self, held: Pass, *, payment_reference: str) -> Pass:
        """Say by what a held pass was paid, at its price. Raises CallFailed."""
        payment = voucher_service_pb2.CapturedPayment(
            reference=payment_reference, amount=held.price
        )
        request = voucher_service_pb2.ConfirmPurchaseRequest(
            user_id=held.user_id, pass_id=held.pass_id, payment=payment
        )
        paid: Pass = getattr(await self.call(self.voucher.ConfirmPurchase, request), "pass")
        return paid

    async def cancel_pass(self, user_id: str, pass_id: str, *, validate_only: bool = False) -> Pass:
        """End a pass or a hold; its refund is what is to be given back. Raises CallFailed."""
        request = voucher_service_pb2.CancelPassRequest(
            user_id=user_id, pass_id=pass_id, validate_only=validate_only
        )
        ended: Pass = getattr(await self.call(self.voucher.CancelPass, request), "pass")
        return ended

    async def get_pass(self, user_id: str, pass_id: str) -> Pass:
        """A pass of a user. Raises CallFailed."""
        request = voucher_service_pb2.GetPassRequest(user_id=user_id, pass_id=pass_id)
        owned: Pass = getattr(await self.call(self.voucher.GetPass, request), "pass")
        return owned

    async def record_sessions(
        self,
        batches: Iterable[Sequence[tendency_service_pb2.ChargingSession]]
        | AsyncIterable[Sequence[tendency_service_pb2.ChargingSession]],
        timeout_s: float = IMPORT_TIMEOUT_S,
    ) -> tendency_service_pb2.RecordSessionsResponse:
        """Send sessions in batches of at most 1,000. Raises CallFailed.

        It is not repeated by itself; sending all of it again is safe.
        """

        async def requests() -> Any:
            if isinstance(batches, AsyncIterable):
                async for batch in batches:
                    yield tendency_service_pb2.RecordSessionsRequest(sessions=batch)
            else:
                for batch in batches:
                    yield tendency_service_pb2.RecordSessionsRequest(sessions=batch)

        response: tendency_service_pb2.RecordSessionsResponse = await self.call(
            self.tendency.RecordSessions, requests(), timeout_s
        )
        return response

    async def stream_events(
        self,
        cursor: str = "",
        *,
        event_types: Sequence[event_service_pb2.EventType.ValueType] = (),
        follow: bool = False,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[event_service_pb2.StreamEventsResponse, None]:
        """What StreamEvents sends, as it comes; messages without an event only move the cursor.

        Without a deadline unless one is given. Raises CallFailed; then, or after a
        break, go on from the cursor of the last message that was dealt with.
        """
        request = event_service_pb2.StreamEventsRequest(
            cursor=cursor, event_types=event_types, follow=follow
        )
        call: Any = self.event.StreamEvents(request, timeout=timeout_s, metadata=self.metadata)
        try:
            async for message in call:
                yield message
        except grpc.RpcError as error:
            raise call_failed(error) from error
        finally:
            call.cancel()
