"""What the client sends: deadlines, credentials, keys, as a server receives them."""

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, NamedTuple

import grpc
import pytest_asyncio
from google.protobuf.message import Message
from google.type.money_pb2 import Money

from voucher_grpc.client import KEEPALIVE, Client
from voucher_grpc.v1 import event_service_pb2 as event_pb
from voucher_grpc.v1 import tendency_service_pb2 as tendency_pb
from voucher_grpc.v1 import voucher_service_pb2 as pb
from voucher_grpc.v1.offer_pb2 import Offer
from voucher_grpc.v1.pass_pb2 import Pass


class Received(NamedTuple):
    """A call as it arrived."""

    requests: list[Any]
    remaining_s: float | None
    metadata: dict[str, Any]


class Recorder:
    """Answers a few methods and keeps what it was sent."""

    def __init__(self) -> None:
        self.calls: list[Received] = []

    async def keep(self, request: Any, context: Any) -> None:
        """Note a call; a stream of requests is read to its end."""
        requests = [r async for r in request] if hasattr(request, "__aiter__") else [request]
        metadata = dict(context.invocation_metadata())
        self.calls.append(Received(requests, context.time_remaining(), metadata))

    def handlers(self) -> Iterator[grpc.GenericRpcHandler]:
        """What a server answers with."""

        def one(answer: Message) -> Callable[..., Awaitable[Message]]:
            async def behaviour(request: Any, context: Any) -> Message:
                await self.keep(request, context)
                return answer

            return behaviour

        async def events(request: Any, context: Any) -> AsyncIterator[Message]:
            await self.keep(request, context)
            yield event_pb.StreamEventsResponse(cursor="c")

        def send(message: Message) -> bytes:
            return message.SerializeToString()

        unary = grpc.unary_unary_rpc_method_handler
        yield grpc.method_handlers_generic_handler(
            "voucher_grpc.v1.VoucherService",
            {
                "RequestOffers": unary(
                    one(pb.RequestOffersResponse()), pb.RequestOffersRequest.FromString, send
                ),
                "PurchasePass": unary(
                    one(pb.PurchasePassResponse()), pb.PurchasePassRequest.FromString, send
                ),
                "ConfirmPurchase": unary(
                    one(pb.ConfirmPurchaseResponse()), pb.ConfirmPurchaseRequest.FromString, send
                ),
            },
        )
        record = grpc.stream_unary_rpc_method_handler(
            one(tendency_pb.RecordSessionsResponse(recorded=7)),
            tendency_pb.RecordSessionsRequest.FromString,
            send,
        )
        yield grpc.method_handlers_generic_handler(
            "voucher_grpc.v1.TendencyService", {"RecordSessions": record}
        )
        stream = grpc.unary_stream_rpc_method_handler(
            events, event_pb.StreamEventsRequest.FromString, send
        )
        yield grpc.method_handlers_generic_handler(
            "voucher_grpc.v1.EventService", {"StreamEvents": stream}
        )


class Listening(NamedTuple):
    """A server and its address."""

    recorder: Recorder
    target: str

    @property
    def last(self) -> Received:
        return self.recorder.calls[-1]


@pytest_asyncio.fixture
async def listening() -> AsyncIterator[Listening]:
    """A bare server, so that what arrives is what the client has sent."""
    server, recorder = grpc.aio.server(), Recorder()
    server.add_generic_rpc_handlers(tuple(recorder.handlers()))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield Listening(recorder, f"127.0.0.1:{port}")
    finally:
        await server.stop(None)


def within(remaining_s: float | None, more_than_s: float, timeout_s: float) -> bool:
    """Whether a deadline is the one that was set and no shorter one, however slow the machine is.

    gRPC rounds it up by a hundredth at most on its way.
    """
    return remaining_s is not None and more_than_s < remaining_s <= 1.02 * timeout_s


async def test_each_call_has_the_deadline_of_the_client_or_its_own(listening: Listening) -> None:
    """Ten seconds unless another one is set; one that is given goes before it."""
    async with Client(listening.target) as client, Client(listening.target, timeout_s=100) as slow:
        await client.request_offers(user_id="alice")
        assert within(listening.last.remaining_s, 0, 10)
        await slow.request_offers(user_id="alice")
        assert within(listening.last.remaining_s, 11, 100)
        request = pb.RequestOffersRequest(user_id="alice")
        await slow.call(slow.voucher.RequestOffers, request, 1_000)
        assert within(listening.last.remaining_s, 103, 1_000)


async def test_an_import_has_ten_minutes_or_the_time_it_is_given(listening: Listening) -> None:
    """Not the ten seconds of a call: a file of a million sessions takes minutes."""
    batches = [[tendency_pb.ChargingSession(session_id=f"s{n}")] * n for n in (1, 2)]

    async def later() -> AsyncIterator[Any]:
        for batch in batches:
            yield batch

    async with Client(listening.target) as client:
        for timeout_s, source in ((600, batches), (3_000, later())):
            more = {} if timeout_s == 600 else {"timeout_s": timeout_s}
            answer = await client.record_sessions(source, **more)
            assert 7 == answer.recorded
            assert within(listening.last.remaining_s, timeout_s / 4, timeout_s)
            sent = [[s.session_id for s in r.sessions] for r in listening.last.requests]
            assert [["s1"], ["s2", "s2"]] == sent


async def test_events_are_followed_without_a_deadline(listening: Listening) -> None:
    """Unless one is given."""
    async with Client(listening.target) as client:
        kind = event_pb.EventType.EVENT_TYPE_PASS_PURCHASED
        found = [m async for m in client.stream_events("x", event_types=[kind], follow=True)]
        assert ["c"] == [message.cursor for message in found]
        [request] = listening.last.requests
        assert ("x", [kind], True) == (request.cursor, list(request.event_types), request.follow)
        remaining_s = listening.last.remaining_s
        assert remaining_s is None or remaining_s > 10**6
        _ = [m async for m in client.stream_events(timeout_s=50)]
        assert within(listening.last.remaining_s, 11, 50)


async def test_a_token_goes_with_each_call_and_is_asked_for_each_time(
    listening: Listening,
) -> None:
    """As a bearer token, beside other metadata; none if there is none."""
    tokens = iter(["one", "two"])
    more = [("x-tenant", "t")]
    async with (
        Client(listening.target, token=lambda: next(tokens), metadata=more) as client,
        Client(listening.target, token="fixed") as fixed,
        Client(listening.target) as without,
    ):
        found = []
        for caller in (client, client, fixed, without):
            await caller.request_offers(user_id="alice")
            metadata = listening.last.metadata
            found.append((metadata.get("authorization"), metadata.get("x-tenant")))
    expected = [("Bearer one", "t"), ("Bearer two", "t"), ("Bearer fixed", None), (None, None)]
    assert expected == found


async def test_a_purchase_is_a_payment_or_a_hold_at_the_offers_price(listening: Listening) -> None:
    """With a request_id of its own unless one is given, so that it can be repeated."""
    price, less = Money(currency_code="NOK", units=49), Money(currency_code="NOK", units=9)
    offer, given = Offer(offer_id="o", price=price), str(uuid.uuid4())
    async with Client(listening.target) as client:
        requests = []
        for arguments in (
            {"payment_reference": "p"},
            {},
            {"amount": less, "request_id": given, "user_id": "u", "vehicle_id": "v"},
        ):
            await client.purchase_pass(offer, **arguments)
            requests += listening.last.requests
        await client.purchase_pass("other", amount=less, validate_only=True)
        requests += listening.last.requests
    paid, held, dear, by_id = requests
    assert ("o", "p", price) == (
        paid.offer_id,
        paid.payment.captured.reference,
        paid.payment.captured.amount,
    )
    assert ("hold", price) == (held.payment.WhichOneof("payment"), held.payment.hold.amount)
    assert (less, given, "u", "v", False) == (
        dear.payment.hold.amount,
        dear.request_id,
        dear.user_id,
        dear.vehicle_id,
        dear.validate_only,
    )
    assert ("other", less, True) == (
        by_id.offer_id,
        by_id.payment.hold.amount,
        by_id.validate_only,
    )
    made = [uuid.UUID(request.request_id).version for request in (paid, held, by_id)]
    assert [4, 4, 4] == made
    assert 3 == len({request.request_id for request in (paid, held, by_id)})


async def test_a_hold_is_confirmed_at_its_price(listening: Listening) -> None:
    """By whom it is held, and by what it was paid."""
    price = Money(currency_code="NOK", units=49)
    held = Pass(user_id="alice", pass_id="p-1", price=price)
    async with Client(listening.target) as client:
        await client.confirm_purchase(held, payment_reference="pay-1")
    [request] = listening.last.requests
    assert ("alice", "p-1", "pay-1", price) == (
        request.user_id,
        request.pass_id,
        request.payment.reference,
        request.payment.amount,
    )


def test_a_silent_connection_is_kept_by_pings_that_networks_and_the_server_allow() -> None:
    """Below the 30 s after which a mobile network forgets it, above the 10 s of the server."""
    options = dict(KEEPALIVE)
    assert 10_000 < options["grpc.keepalive_time_ms"] < 30_000
    assert 1 == options["grpc.keepalive_permit_without_calls"]
    assert 0 == options["grpc.http2.max_pings_without_data"]
    assert options["grpc.keepalive_timeout_ms"] == options["grpc.http2.ping_timeout_ms"] == 10_000
