"""The load: the same client for every server, in a process of its own.

Requests are built before a round, so that building them does not slow it. It is
either closed (so many callers, each with one call under way) or open (calls at
a pace, each timed from when it was due, so that a slow server cannot hide).
Messages travel as bytes; what comes back is looked at cheaply each time and
parsed now and then. A call that is not OK ends the run.
"""

import asyncio
import gc
import math
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import grpc
import uvloop
from google.type.money_pb2 import Money

from benchmarks.processes import Pipe, RunFailed
from benchmarks.world import (
    CURRENCY,
    HOT_PRODUCT,
    OFFER_KEY,
    OFFER_KEY_ID,
    Priced,
    place,
    user_id,
    vehicle_id,
)
from voucher_grpc.client import call_failed
from voucher_grpc.domain.offer_ids.signer import OfferSigner, OfferTerms
from voucher_grpc.v1 import voucher_service_pb2 as pb
from voucher_grpc.v1.conditions_pb2 import LocationReference

CHANNELS = 4
REQUEST_OFFERS, PURCHASE_PASS = "RequestOffers", "PurchasePass"
BATCH_REQUEST_OFFERS = "BatchRequestOffers"
# As bench.json has them.
NAMES = {REQUEST_OFFERS: "request_offers", PURCHASE_PASS: "purchase_pass"}
USERS_A_BATCH = 256
_PATH = "/voucher_grpc.v1.VoucherService/"
_DEADLINE_S = 30.0
_TICK_S = 0.001
# A pace keeps no more calls under way than this; gRPC begins to drop calls, as
# CANCELLED, when 1,000 wait in a server. Who had to wait is timed from when due.
_MAX_UNDER_WAY = 500
# A batch is parsed each time: that costs little for each of its users, and only so is
# each of its results known to be an offer.
_PARSE_ONE_IN = {REQUEST_OFFERS: 200, PURCHASE_PASS: 200, BATCH_REQUEST_OFFERS: 1}
# The tag of field 1 with a message in it: an offer, the pass, or the result of one user.
_FIELD_1 = 0x0A


@dataclass(frozen=True, slots=True)
class Credentials:
    """How a client says who it is; without an `authority` in clear. All but `token` in PEM."""

    authority: bytes = b""
    certificate: bytes = b""
    key: bytes = b""
    token: str = ""


NO_CREDENTIALS = Credentials()


@dataclass(frozen=True, slots=True)
class Round:
    """What to send, and how. `budget` bounds the calls; `rate_per_s` 0 is a closed loop.

    `users` are those of the server's world.
    """

    server: str
    port: int
    users: int
    rpc: str
    seconds: float
    concurrency: int
    budget: int
    rate_per_s: float = 0.0
    hot: bool = False
    credentials: Credentials = NO_CREDENTIALS


@dataclass(frozen=True, slots=True)
class Samples:
    """Asks for answers of a usual size from the server at a port."""

    port: int
    users: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a round gave; all calls were OK."""

    calls: int
    elapsed_s: float
    client_cpu_s: float
    p50_ms: float
    p99_ms: float


class Requests:
    """Makes requests, as bytes."""

    def __init__(self, users: int, products: Sequence[Priced]) -> None:
        self._users = users
        self._products = products
        self._hot = [p for p in products if p.product_id == HOT_PRODUCT]
        self._signer = OfferSigner({OFFER_KEY_ID: OFFER_KEY}, OFFER_KEY_ID)
        self._chance = random.Random()

    def make(self, rpc: str, count: int, *, hot: bool = False) -> list[bytes]:
        """Requests for one method."""
        if rpc == REQUEST_OFFERS:
            return [self._request_offers().SerializeToString() for _ in range(count)]
        if rpc == BATCH_REQUEST_OFFERS:
            return [self._batch_request_offers().SerializeToString() for _ in range(count)]
        products = self._hot if hot else self._products
        expire_time = datetime.now(UTC) + timedelta(minutes=15)
        return [self.purchase_pass(products, expire_time).SerializeToString() for _ in range(count)]

    def _request_offers(self) -> pb.RequestOffersRequest:
        return self._request_of(self._chance.randrange(self._users))

    def _batch_request_offers(self) -> pb.BatchRequestOffersRequest:
        """A batch for users of whom none comes twice."""
        numbers = self._chance.sample(range(self._users), USERS_A_BATCH)
        return pb.BatchRequestOffersRequest(requests=map(self._request_of, numbers))

    def _request_of(self, number: int) -> pb.RequestOffersRequest:
        at = place(number)
        location = LocationReference(
            country_code=at.country_code, party_id=at.party_id, location_id=at.location_id
        )
        return pb.RequestOffersRequest(
            user_id=user_id(number),
            vehicle_id=vehicle_id(number),
            place=pb.Place(location=location),
        )

    def offer(
        self, products: Sequence[Priced], expire_time: datetime
    ) -> tuple[OfferTerms, str, int]:
        """An offer, its offer_id and the number of its user."""
        number = self._chance.randrange(self._users)
        product = self._chance.choice(products)
        terms = OfferTerms(
            user_id(number), product.product_id, 1, product.price_micros, CURRENCY, expire_time
        )
        return terms, self._signer.sign(terms), number

    def purchase_pass(
        self, products: Sequence[Priced], expire_time: datetime
    ) -> pb.PurchasePassRequest:
        """A purchase of an offer of its own, under a request_id and a payment of its own."""
        terms, offer_id, number = self.offer(products, expire_time)
        request_id = str(UUID(int=self._chance.getrandbits(128), version=4))
        units, micros = divmod(terms.price_micros, 1_000_000)
        amount = Money(currency_code=CURRENCY, units=units, nanos=micros * 1000)
        return pb.PurchasePassRequest(
            request_id=request_id,
            offer_id=offer_id,
            user_id=terms.user_id,
            vehicle_id=vehicle_id(number),
            payment=pb.Payment(
                captured=pb.CapturedPayment(reference=f"payment-{request_id}", amount=amount)
            ),
        )

    def samples(self) -> dict[str, list[bytes]]:
        """Requests that change nothing, to see what answers look like."""
        judged = []
        for raw in self.make(PURCHASE_PASS, 50):
            request = pb.PurchasePassRequest.FromString(raw)
            request.validate_only = True
            judged.append(request.SerializeToString())
        return {REQUEST_OFFERS: self.make(REQUEST_OFFERS, 200), PURCHASE_PASS: judged}


def client(pipe: Pipe, products: Sequence[Priced]) -> None:
    """The work of the client's process: a Round, "go", an Outcome, and again.

    Samples instead of a Round are answered by a dict (see `_samples`).
    """
    uvloop.run(_client(pipe, products))


async def _client(pipe: Pipe, products: Sequence[Priced]) -> None:
    while True:
        message: Round | Samples = await asyncio.to_thread(pipe.recv)
        requests = Requests(message.users, products)
        if isinstance(message, Round):
            await _round(pipe, message, requests)
        else:
            pipe.send(await _samples(message, requests))


async def _channels(
    stack: AsyncExitStack, port: int, given: Credentials = NO_CREDENTIALS
) -> list[grpc.aio.Channel]:
    channels = []
    for _ in range(CHANNELS):
        # With the shared pool all channels would be one connection.
        local = (("grpc.use_local_subchannel_pool", 1),)
        channel = (
            grpc.aio.secure_channel(
                f"localhost:{port}",
                grpc.ssl_channel_credentials(
                    given.authority, given.key or None, given.certificate or None
                ),
                options=local,
            )
            if given.authority
            else grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=local)
        )
        channels.append(await stack.enter_async_context(channel))
        await channel.channel_ready()
    return channels


async def _samples(wanted: Samples, requests: Requests) -> dict[str, bytes]:
    """The answer of median size to each method."""
    async with AsyncExitStack() as stack:
        channel = (await _channels(stack, wanted.port))[0]
        result = {}
        for rpc, samples in requests.samples().items():
            call: Any = channel.unary_unary(_PATH + rpc)
            answers = [await _checked(call, rpc, raw, parse=True) for raw in samples]
            result[rpc] = sorted(answers, key=len)[len(answers) // 2]
        return result


async def _round(pipe: Pipe, wanted: Round, requests: Requests) -> None:
    async with AsyncExitStack() as stack:
        channels = await _channels(stack, wanted.port, wanted.credentials)
        calls: list[Any] = [channel.unary_unary(_PATH + wanted.rpc) for channel in channels]
        if wanted.credentials.token:
            metadata = (("authorization", f"Bearer {wanted.credentials.token}"),)
            calls = [partial(call, metadata=metadata) for call in calls]
        prepared = requests.make(wanted.rpc, wanted.budget, hot=wanted.hot)
        gc.collect()
        gc.freeze()
        pipe.send("ready")
        await asyncio.to_thread(pipe.recv)
        latencies_s: list[float] = []
        cpu_s, began_s = time.process_time(), time.perf_counter()
        way = _open if wanted.rate_per_s else _closed
        try:
            await way(wanted, calls, iter(prepared), latencies_s)
        except* RunFailed as failed:
            # The first is the cause; the others were cancelled after it.
            raise RunFailed(f"{wanted.server}: {failed.exceptions[0]}") from None
        elapsed_s = time.perf_counter() - began_s
        cpu_s = time.process_time() - cpu_s
    latencies_s.sort()
    pipe.send(
        Outcome(
            len(latencies_s),
            elapsed_s,
            cpu_s,
            latencies_s[len(latencies_s) // 2] * 1000,
            latencies_s[len(latencies_s) * 99 // 100] * 1000,
        )
    )


async def _checked(
    call: Callable[..., Awaitable[Any]], rpc: str, raw: bytes, *, parse: bool
) -> bytes:
    """The answer of one call. Raises RunFailed if it is not OK or holds nothing."""
    try:
        answer: bytes = await call(raw, timeout=_DEADLINE_S)
    except grpc.RpcError as error:
        core = error.debug_error_string() if isinstance(error, grpc.aio.AioRpcError) else ""
        raise RunFailed(f"{rpc} was not OK: {call_failed(error)} ({core})") from error
    if not answer or answer[0] != _FIELD_1:
        raise RunFailed(f"{rpc} answered without an offer or a pass")
    if parse and not _complete(rpc, answer):
        raise RunFailed(f"{rpc} answered without an offer or a pass that has a name")
    return answer


def _complete(rpc: str, answer: bytes) -> bool:
    """Whether what was asked for is there: the pass, or offers for each user."""
    if rpc == REQUEST_OFFERS:
        return _has_offers(pb.RequestOffersResponse.FromString(answer))
    if rpc == BATCH_REQUEST_OFFERS:
        results = pb.BatchRequestOffersResponse.FromString(answer).results
        # Where a result is a status, its response is an empty one.
        return len(results) == USERS_A_BATCH and all(_has_offers(r.response) for r in results)
    return bool(getattr(pb.PurchasePassResponse.FromString(answer), "pass").pass_id)


def _has_offers(response: pb.RequestOffersResponse) -> bool:
    return bool(response.offers) and all(offer.offer_id for offer in response.offers)


async def _closed(
    wanted: Round, calls: Sequence[Any], prepared: Iterator[bytes], latencies_s: list[float]
) -> None:
    clock, parse_one_in = time.perf_counter, _PARSE_ONE_IN[wanted.rpc]
    end_s = clock() + wanted.seconds

    async def caller(call: Any) -> None:
        for raw in prepared:
            began_s = clock()
            if began_s >= end_s:
                return
            parse = len(latencies_s) % parse_one_in == 0
            await _checked(call, wanted.rpc, raw, parse=parse)
            latencies_s.append(clock() - began_s)

    async with asyncio.TaskGroup() as group:
        for number in range(wanted.concurrency):
            group.create_task(caller(calls[number % len(calls)]))


async def _open(
    wanted: Round, calls: Sequence[Any], prepared: Iterator[bytes], latencies_s: list[float]
) -> None:
    clock = time.perf_counter
    began_s = clock()
    total = min(wanted.budget, int(wanted.rate_per_s * wanted.seconds))

    async def one(call: Any, raw: bytes, due_s: float) -> None:
        await _checked(call, wanted.rpc, raw, parse=False)
        latencies_s.append(clock() - due_s)

    async with asyncio.TaskGroup() as group:
        sent = 0
        while sent < total:
            # Calls are due on a grid of ticks, which is as fine as the loop's timer.
            tick_s = int((clock() - began_s) / _TICK_S) * _TICK_S
            due = min(total, int(tick_s * wanted.rate_per_s), len(latencies_s) + _MAX_UNDER_WAY)
            for _ in range(sent, due):
                ticks = math.ceil((sent + 1) / wanted.rate_per_s / _TICK_S)
                due_s = began_s + ticks * _TICK_S
                raw = next(prepared)
                group.create_task(one(calls[sent % len(calls)], raw, due_s))
                sent += 1
            await asyncio.sleep(max(0.0, began_s + tick_s + _TICK_S - clock()))
