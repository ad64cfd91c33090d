"""What strangers try on an open port: the server lives, and serves others meanwhile.

Credentials that are not good are in test_credentials.py and test_certificates.py, messages of
any bytes in test_malformed.py.
"""

import asyncio
import json
import os
import re
import resource
import signal
import socket
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import psutil  # type: ignore[import-untyped]
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.http2 import (
    CANCEL,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    RST_STREAM,
    SETTINGS,
    Connection,
    call_headers,
    field,
    frame,
)
from tests.integration.operating import COMMAND, PATIENCE_S, environment
from tests.integration.requests import good_request
from tests.integration.shop import create
from voucher_grpc.client import CallFailed, Client, call_failed
from voucher_grpc.domain.offer_ids.signer import OfferSigner, OfferTerms
from voucher_grpc.v1.voucher_service_pb2 import (
    ListPassesRequest,
    RequestOffersRequest,
    StreamOffersRequest,
)

REQUEST_OFFERS = "/voucher_grpc.v1.VoucherService/RequestOffers"


@dataclass
class Victim:
    """A server in a process of its own."""

    process: asyncio.subprocess.Process
    port: int
    metrics_port: int
    lines: list[str]

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def descriptors(self) -> int:
        """How many files and connections it has open."""
        return int(psutil.Process(self.process.pid).num_fds())

    async def counted(self, name: str, **labels: str) -> float:
        """The sum of a metric over what has these labels."""
        url = f"http://127.0.0.1:{self.metrics_port}/metrics"

        def read() -> str:
            with urllib.request.urlopen(url, timeout=30) as response:
                return str(response.read().decode())

        return sum(
            sample.value
            for family in text_string_to_metric_families(await asyncio.to_thread(read))
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )


@pytest.fixture
async def victim(fresh_database: str) -> AsyncIterator[Victim]:
    """A server as an operator starts it, with a product to offer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    metrics_port = _free_port()
    process = await asyncio.create_subprocess_exec(
        COMMAND,
        "serve",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(fresh_database, VOUCHER_METRICS_LISTEN=f"127.0.0.1:{metrics_port}"),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    lines: list[str] = []
    logs = asyncio.create_task(_collect(process.stderr, lines))
    ready = (await asyncio.wait_for(process.stdout.readline(), PATIENCE_S)).decode()
    victim = Victim(process, int(re.findall(r"port (\d+)", ready)[0]), metrics_port, lines)
    async with Client(victim.target) as client:
        await create(client, "standard", default_offer=True)
        for _ in range(20):
            await client.request_offers(user_id="alice", currency_code="NOK")
    try:
        yield victim
        assert process.returncode is None, lines[-3:]
        process.send_signal(signal.SIGTERM)
        assert 0 == await asyncio.wait_for(process.wait(), PATIENCE_S)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await logs
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _collect(stream: asyncio.StreamReader, lines: list[str]) -> None:
    while line := await stream.readline():
        lines.append(line.decode("utf-8", "replace").rstrip("\n"))


@asynccontextmanager
async def others_are_served(victim: Victim) -> AsyncIterator[None]:
    """Somebody else calls all the while, and each call is answered.

    How much memory attacks take is measured by `make bench-attack`.
    """
    stop, failed, served = asyncio.Event(), [], asyncio.Event()

    async def call() -> None:
        async with Client(victim.target, timeout_s=PATIENCE_S) as client:
            while not stop.is_set():
                try:
                    await client.request_offers(user_id="bob", currency_code="NOK")
                except CallFailed as error:
                    failed.append(str(error))
                served.set()
                await asyncio.sleep(0.02)

    calls = asyncio.create_task(call())
    try:
        yield
        served.clear()
        await asyncio.wait_for(served.wait(), PATIENCE_S)
    finally:
        stop.set()
        await calls
    assert [] == failed


async def all_of(*attacks: Awaitable[Any]) -> list[Any]:
    """Run attacks at once."""
    return await asyncio.gather(*attacks)


async def raw_call(channel: grpc.aio.Channel, raw: bytes) -> str:
    """The code or reason of a call with any bytes."""
    method: Any = channel.unary_unary(REQUEST_OFFERS)
    try:
        await method(raw, timeout=PATIENCE_S)
    except grpc.aio.AioRpcError as error:
        return call_failed(error).reason or error.code().name
    return ""


async def test_oversized_messages(victim: Victim) -> None:
    """The transport refuses them by their length; here they count as cancelled."""
    large = b"\x00" * 3_000_000
    async with others_are_served(victim), grpc.aio.insecure_channel(victim.target) as channel:
        told = await all_of(*(raw_call(channel, large) for _ in range(50)))
        assert ["RESOURCE_EXHAUSTED"] * 50 == told
    labels = {"grpc_method": "RequestOffers", "grpc_code": "Canceled"}
    # Each counts just after its caller has the answer.
    async with asyncio.timeout(PATIENCE_S):
        while 50 != await victim.counted("grpc_server_handled_total", **labels):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_truncated_and_deeply_nested_messages(victim: Victim) -> None:
    """Cut anywhere, nested without end: each is malformed, or happens to be a message."""
    whole = good_request("RequestOffers").SerializeToString()
    deep = b""
    for _ in range(5_000):
        deep = b"\x1a" + _length(len(deep)) + deep
    messages = [whole[:end] for end in range(1, len(whole))] + [deep] * 20
    async with others_are_served(victim), grpc.aio.insecure_channel(victim.target) as channel:
        told = await all_of(*(raw_call(channel, raw) for raw in messages))
    assert {"MALFORMED_MESSAGE"} <= set(told) <= {"", "MALFORMED_MESSAGE", "INVALID_FIELD"}
    counted = await victim.counted("voucher_refusals_total", reason="MALFORMED_MESSAGE")
    assert told.count("MALFORMED_MESSAGE") == counted


def _length(value: int) -> bytes:
    parts = bytearray()
    while value >= 128:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


async def test_unknown_methods(victim: Victim) -> None:
    """Counted under one name, whatever the caller made up."""
    async with others_are_served(victim), grpc.aio.insecure_channel(victim.target) as channel:
        for path in ("/nobody/Knows", "/voucher_grpc.v1.VoucherService/Nothing", "/a" * 500):
            method: Any = channel.unary_unary(path)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await method(b"", timeout=PATIENCE_S)
            assert grpc.StatusCode.UNIMPLEMENTED == caught.value.code()
    assert 3 == await victim.counted(
        "grpc_server_handled_total", grpc_method="unknown", grpc_code="Unimplemented"
    )


async def test_slow_senders(victim: Victim) -> None:
    """Two hundred that send a byte now and then of a message they never finish."""

    async def dribble() -> None:
        connection = await Connection.open(victim.port)
        await connection.send(frame(HEADERS, END_HEADERS, 1, call_headers(REQUEST_OFFERS)))
        await connection.send(frame(DATA, 0, 1, b"\x00\x00\x00\x10\x00"))
        for _ in range(8):
            if not await connection.send(frame(DATA, 0, 1, b"\x0a")):
                break
            await asyncio.sleep(0.25)
        await connection.close()

    descriptors = victim.descriptors()
    async with others_are_served(victim):
        await all_of(*(dribble() for _ in range(200)))
    await until_descriptors(victim, descriptors)


async def until_descriptors(victim: Victim, most: int) -> None:
    """Wait until the server has let go of connections."""
    end_s = time.monotonic() + PATIENCE_S
    while victim.descriptors() > most + 5:
        assert time.monotonic() < end_s, victim.descriptors()
        await asyncio.sleep(0.2)


async def test_ten_thousand_idle_connections(victim: Victim) -> None:
    """Those that say who they are stay, at a bounded cost; when they leave nothing is left."""
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 21_000:
        pytest.skip("needs 21,000 descriptors (ulimit -n)")
    descriptors = victim.descriptors()
    opened: list[Connection] = []
    async with Client(victim.target, timeout_s=PATIENCE_S) as client:
        # Connected before the crowd: beyond the bound on connections nobody is let in.
        await client.request_offers(user_id="bob", currency_code="NOK")
        for _ in range(100):
            opened += await all_of(*(Connection.open(victim.port) for _ in range(100)))
            await client.request_offers(user_id="bob", currency_code="NOK")
        assert victim.descriptors() <= descriptors + 10_100
        await all_of(*(connection.close() for connection in opened))
        await client.request_offers(user_id="bob", currency_code="NOK")
    await until_descriptors(victim, descriptors)


async def test_a_stream_that_never_reads(victim: Victim) -> None:
    """Twenty streams ask for a thousand offers each and read none: the answers wait with them."""

    async def ask() -> None:
        wanted = RequestOffersRequest(user_id="alice", currency_code="NOK", max_offers=20)
        async with grpc.aio.insecure_channel(
            victim.target, options=[("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            method: Any = channel.stream_stream(
                "/voucher_grpc.v1.VoucherService/StreamOffers",
                request_serializer=StreamOffersRequest.SerializeToString,
            )
            call = method()
            with suppress(TimeoutError, asyncio.InvalidStateError):
                async with asyncio.timeout(3):
                    for number in range(1_000):
                        await call.write(StreamOffersRequest(tag=str(number), request=wanted))
            call.cancel()

    async with others_are_served(victim):
        await all_of(*(ask() for _ in range(20)))


async def test_callers_that_leave_before_their_answer_fill_no_log(victim: Victim) -> None:
    """gRPC logs a trace for each; a caller could so fill a disk."""
    request = RequestOffersRequest(user_id="alice", currency_code="NOK").SerializeToString()
    message = b"\0" + len(request).to_bytes(4, "big") + request

    async def leave() -> None:
        connection = await Connection.open(victim.port)
        # The answers wait: none of their bytes may be sent.
        await connection.send(frame(SETTINGS, 0, 0, b"\0\4\0\0\0\0"))
        for stream in range(1, 101, 2):
            begun = frame(HEADERS, END_HEADERS, stream, call_headers(REQUEST_OFFERS))
            await connection.send(begun + frame(DATA, END_STREAM, stream, message))
        left.append(connection)

    left: list[Connection] = []
    labels = {"grpc_method": "RequestOffers", "grpc_code": "OK"}
    handled = await victim.counted("grpc_server_handled_total", **labels)
    for _ in range(4):
        await leave()
    async with asyncio.timeout(PATIENCE_S):
        while await victim.counted("grpc_server_handled_total", **labels) < handled + 200:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    for connection in left:
        await connection.close()
    async with others_are_served(victim):
        await asyncio.sleep(0.5)
    assert [] == [line for line in victim.lines if "ExecuteBatchError" in line]


async def test_header_floods(victim: Victim) -> None:
    """Headers without end, in one frame or in many (CVE-2024-27316), are dropped as they come."""

    async def many_fields() -> None:
        connection = await Connection.open(victim.port)
        block = call_headers(REQUEST_OFFERS, *((b"x-%d" % n, b"y" * 100) for n in range(140)))
        await connection.send(frame(HEADERS, END_HEADERS, 1, block))
        await connection.close()

    async def continued() -> None:
        connection = await Connection.open(victim.port)
        await connection.send(frame(HEADERS, 0, 1, call_headers(REQUEST_OFFERS)))
        part = b"".join(field(b"x", b"y" * 1_000) for _ in range(15))
        for _ in range(2_000):
            if not await connection.send(frame(CONTINUATION, 0, 1, part)):
                break
        await connection.close()

    async with others_are_served(victim):
        await all_of(*(many_fields() for _ in range(50)), *(continued() for _ in range(5)))


async def test_floods_of_resets_settings_and_pings(victim: Victim) -> None:
    """Calls that are begun and cancelled at once (CVE-2023-44487), frames that ask for answers
    (CVE-2019-9512, -9515)."""
    headers = call_headers(REQUEST_OFFERS)
    reset = RST_STREAM, 0

    async def resets() -> None:
        connection = await Connection.open(victim.port)
        for stream in range(1, 4_000, 2):
            begun = frame(HEADERS, END_HEADERS, stream, headers)
            gone = frame(*reset, stream, CANCEL.to_bytes(4, "big"))
            if not await connection.send(begun + gone):
                break
        await connection.close()

    async def asks(kind: int, payload: bytes) -> None:
        connection = await Connection.open(victim.port)
        for _ in range(2_000):
            if not await connection.send(frame(kind, 0, 0, payload) * 10):
                break
        await connection.close()

    async with others_are_served(victim):
        for _ in range(3):
            await all_of(
                *(resets() for _ in range(10)),
                *(asks(PING, b"\x00" * 8) for _ in range(5)),
                *(asks(SETTINGS, b"") for _ in range(5)),
            )


async def test_log_injection(victim: Victim) -> None:
    """Whatever a caller writes stays inside one line of JSON, or is not written at all."""
    forged = '\n{"event": "refused", "level": "critical", "user": "root"}\r\n\x1b[2J\u2028'
    async with others_are_served(victim), Client(victim.target) as client:
        for request in (
            RequestOffersRequest(user_id=f"alice{forged}"),
            RequestOffersRequest(user_id="alice", language=forged, currency_code=forged),
        ):
            with pytest.raises(CallFailed):
                await client.call(client.voucher.RequestOffers, request)
        for key in ("x-request-id", "voucher-actor", "user-agent"):
            options = {"metadata": [(key, "a b{c}%s$(d)")]}
            async with Client(victim.target, **options) as other:  # type: ignore[arg-type]
                with pytest.raises(CallFailed):
                    await other.call(other.voucher.ListPasses, ListPassesRequest())
    refused = 0
    for line in victim.lines:
        found = json.loads(line)
        assert {"event", "level", "timestamp"} <= found.keys()
        assert "root" != found.get("user")
        assert "\x1b" not in line
        assert "\u2028" not in line
        refused += found["event"] == "refused"
    assert refused >= 5


async def test_offers_from_another_key(victim: Victim) -> None:
    """Signed by somebody who has read the code: refused, counted, no row is left."""
    end = datetime.now(UTC) + timedelta(minutes=5)
    terms = OfferTerms("mallory", "standard", 1, 1_000_000, "NOK", end)
    async with others_are_served(victim), Client(victim.target) as client:
        for number in range(20):
            forged = OfferSigner({1: os.urandom(32)}, 1).sign(terms)
            request = good_request("PurchasePass", offer_id=forged)
            request.ClearField("user_id")
            request.request_id = f"00000000-0000-4000-8000-{number:012}"
            with pytest.raises(CallFailed) as caught:
                await client.call(client.voucher.PurchasePass, request)
            assert "OFFER_INVALID" == caught.value.reason
    assert 20 == await victim.counted("voucher_purchases_total", result="OFFER_INVALID")
