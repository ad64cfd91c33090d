"""What connections may do and what networks do to them; each bound of `server_options` is tried.

Times that are minutes in a server are set shorter here, all by the same factor where they
depend on each other.
"""

import asyncio
import select
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import voucher_grpc.client
from tests.conftest import Service, serving
from tests.http2 import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    Connection,
    call_headers,
    frame,
)
from tests.integration.operating import (
    PATIENCE_S,
    check,
    metrics,
    next_state,
    until_metric,
    watching,
)
from tests.network import Network, network, until
from voucher_grpc.client import KEEPALIVE, CallFailed, Client
from voucher_grpc.edge.rpc import call_limits
from voucher_grpc.server import connections
from voucher_grpc.v1 import voucher_service_pb2_grpc
from voucher_grpc.v1.user_service_pb2 import GetUserRequest
from voucher_grpc.v1.voucher_service_pb2 import RequestOffersRequest

OFFERS_STARTED = (
    "grpc_server_started_total{grpc_method=RequestOffers,"
    "grpc_service=voucher_grpc.v1.VoucherService,grpc_type=unary}"
)
# A ping each 500 ms, one allowed in 200 ms.
FASTER = 50


def hurry_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keepalive of server and client, as it is set but faster."""
    names = ("_PING_EVERY_MS", "_CLIENT_PINGS_AT_MOST_EVERY_MS")
    for name in names:
        monkeypatch.setattr(connections, name, getattr(connections, name) // FASTER)
    faster = [(n, v // FASTER if n.endswith("_ms") else v) for n, v in KEEPALIVE]
    # A machine with much to do may be late with an answer.
    monkeypatch.setattr(connections, "_PING_ANSWERED_WITHIN_MS", 2_000)
    faster = [(n, 2_000 if "timeout" in n else v) for n, v in faster]
    monkeypatch.setattr(voucher_grpc.client.channel, "KEEPALIVE", tuple(faster))


async def ask(client: Client, timeout_s: float = 10.0) -> str:
    """How a call ends that nobody knows the user of."""
    try:
        await client.call(client.user.GetUser, GetUserRequest(user_id="nobody"), timeout_s)
    except CallFailed as failed:
        return failed.reason or failed.code.name
    return "OK"


async def test_who_connects_and_says_nothing_is_closed(
    fresh_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else descriptors could be used up without a single call."""
    monkeypatch.setattr(connections, "_HANDSHAKE_MS", 300)
    async with serving(fresh_database) as service:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.server.port)
        async with asyncio.timeout(10):
            while await reader.read(1_000):
                pass
        writer.close()


async def test_connections_beyond_the_bound_are_closed_and_those_there_go_on(
    fresh_database: str,
) -> None:
    """UNAVAILABLE, which is tried elsewhere; once one has left there is room again."""
    async with (
        serving(fresh_database, max_connections=1) as service,
        # Another way to the server: to the same address clients share a connection.
        network(service.server.port) as net,
        Client(net.target) as second,
    ):
        assert "USER_NOT_FOUND" == await ask(service.client)
        assert "UNAVAILABLE" == await ask(second)
        assert "USER_NOT_FOUND" == await ask(service.client)
        await service.client.close()
        async with asyncio.timeout(30):
            while await ask(second) != "USER_NOT_FOUND":  # noqa: ASYNC110
                await asyncio.sleep(0.1)


@pytest.mark.parametrize(("limits", "most"), [((64, 300), 100), ((64, 20_000), 10_000)])
def test_connections_leave_descriptors_for_the_database(limits: tuple[int, int], most: int) -> None:
    """The soft limit is raised; where the hard one is low, callers have what is left of it."""
    program = (
        f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, {limits});"
        "from voucher_grpc.server.config import read_config;"
        "from voucher_grpc.server.connections import most_connections;"
        "print(most_connections(read_config()), resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    done = subprocess.run(  # in a process of its own: a hard limit cannot be raised again
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert f"{most} {most + 200}" == done.stdout.splitlines()[-1]


async def test_an_idle_connection_is_closed_and_the_next_call_opens_another(
    fresh_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Vehicles that have left hold nothing; one that comes back notices nothing."""
    monkeypatch.setattr(connections, "_IDLE_MS", 300)
    async with (
        serving(fresh_database) as service,
        network(service.server.port) as net,
        Client(net.target) as client,
    ):
        assert "USER_NOT_FOUND" == await ask(client)
        await until(lambda: net.servers_gone == 1)
        assert "USER_NOT_FOUND" == await ask(client)
        assert 2 == net.connections


async def test_an_old_connection_is_replaced_without_a_failed_call(fresh_database: str) -> None:
    """A gateway that stays connected moves to another connection; its calls notice nothing,
    and a stream that is open goes on."""
    async with (
        serving(fresh_database, max_connection_age_s=1) as service,
        network(service.server.port) as net,
        Client(net.target) as client,
        watching(net.target) as stream,
    ):
        assert health_pb2.HealthCheckResponse.SERVING == await next_state(stream)
        ended: set[str] = set()

        async def call() -> None:
            while net.connections < 4:
                ended.add(await ask(client))

        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            for _ in range(10):
                group.create_task(call())
        assert {"USER_NOT_FOUND"} == ended
        assert not stream.done()


async def test_calls_beyond_the_bound_of_a_connection_wait_in_their_client(
    fresh_database: str,
) -> None:
    """One connection cannot have the whole server; who waits is taken once there is room."""
    async with (
        serving(fresh_database, max_connection_streams=1) as service,
        grpc.aio.insecure_channel(service.target) as channel,
    ):
        stub: Any = health_pb2_grpc.HealthStub(channel)
        stream = stub.Watch(health_pb2.HealthCheckRequest())
        await next_state(stream)
        with pytest.raises(grpc.aio.AioRpcError) as waited:
            await stub.Check(health_pb2.HealthCheckRequest(), timeout=0.3)
        assert grpc.StatusCode.DEADLINE_EXCEEDED == waited.value.code()
        started = await metrics(service)
        assert not [k for k in started if "started_total" in k and "Check" in k and started[k]]
        stream.cancel()
        await stub.Check(health_pb2.HealthCheckRequest(), timeout=10)


async def test_a_gateway_with_many_calls_on_one_connection_waits_and_none_fails(
    shared_service: Service,
) -> None:
    """gRPC by itself would reject some whenever many are answered at once and the next begin."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    async with grpc.aio.insecure_channel(shared_service.target, options=options) as channel:
        await channel.channel_ready()
        stub: Any = voucher_service_pb2_grpc.VoucherServiceStub(channel)
        for _ in range(3):
            requests = (
                RequestOffersRequest(user_id=f"user-{n}", currency_code="NOK") for n in range(512)
            )
            calls = [stub.RequestOffers(request, timeout=120) for request in requests]
            assert {"OK": 512} == Counter([(await call.code()).name for call in calls])


async def test_the_transport_takes_little_that_nobody_has_asked_for(
    shared_service: Service,
) -> None:
    """Of a connection 100 calls at a time, of each message 4 KiB before its call is admitted."""
    connection = await Connection.open(shared_service.server.port)
    announced = await connection.settings()
    assert (100, 4_096) == (announced[MAX_CONCURRENT_STREAMS], announced[INITIAL_WINDOW_SIZE])
    await connection.close()


async def test_calls_of_a_connection_that_ignores_its_limit_are_dropped(
    fresh_service: Service,
) -> None:
    """Also of one that has not read the limit: they cost no more than reading their headers."""
    connection = await Connection.open(fresh_service.server.port)
    headers = call_headers("/voucher_grpc.v1.VoucherService/RequestOffers")
    begun = (frame(HEADERS, END_HEADERS, stream, headers) for stream in range(1, 2_048, 2))
    await connection.send(b"".join(begun))
    await until_metric(fresh_service, OFFERS_STARTED, 100)
    await connection.close()
    await fresh_service.client.request_offers(user_id="bob", currency_code="NOK")
    assert 101 == (await metrics(fresh_service))[OFFERS_STARTED]


async def test_calls_that_wait_for_the_event_loop_are_bounded(fresh_service: Service) -> None:
    """All connections together: each such call holds memory before any limit of ours is asked."""
    ended = begin_while_the_event_loop_is_busy(
        fresh_service.server.port, connections._MAX_PENDING_HARD // 100 + 20
    )
    assert ended >= 2_000
    async with asyncio.timeout(PATIENCE_S):
        started = 0.0
        while (now := (await metrics(fresh_service))[OFFERS_STARTED]) != started or not now:
            started = now
            await asyncio.sleep(0.5)
    assert connections._MAX_PENDING <= started <= connections._MAX_PENDING_HARD + 100


def begin_while_the_event_loop_is_busy(port: int, count: int) -> int:
    """100 calls on each of so many connections; how many gRPC has ended by itself.

    It keeps the event loop from running: returns when at least 2,000 have ended.
    """
    headers = call_headers("/voucher_grpc.v1.VoucherService/RequestOffers")
    begun = b"".join(frame(HEADERS, END_HEADERS, stream, headers) for stream in range(1, 200, 2))
    opened = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(count)]
    for connection in opened:
        connection.sendall(PREFACE + frame(SETTINGS, 0, 0) + begun)
    said = [b""] * count
    ended, end_s = 0, time.monotonic() + PATIENCE_S
    while ended < 2_000 and time.monotonic() < end_s:
        for connection in select.select(opened, [], [], 1)[0]:
            said[opened.index(connection)] += connection.recv(65_536)
        ended = sum(_ended_streams(answers) for answers in said)
    for connection in opened:
        connection.close()
    return ended


def _ended_streams(said: bytes) -> int:
    """Streams that a server's frames end."""
    at, streams = 0, set()
    while at + 9 <= len(said):
        kind, flags = said[at + 3], said[at + 4]
        if kind == RST_STREAM or (kind == HEADERS and flags & END_STREAM):
            streams.add(int.from_bytes(said[at + 5 : at + 9], "big"))
        at += 9 + int.from_bytes(said[at : at + 3], "big")
    return len(streams)


async def test_answers_that_an_address_does_not_read_are_bounded(
    fresh_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gRPC holds them for as long as the connection lives. Other addresses are served meanwhile,
    and so is this one once it has read or left."""
    monkeypatch.setattr(call_limits, "MAX_CALLS_OF_ADDRESS", 30)
    request = RequestOffersRequest(user_id="bob", currency_code="NOK").SerializeToString()
    message = b"\0" + len(request).to_bytes(4, "big") + request
    path = "/voucher_grpc.v1.VoucherService/RequestOffers"
    async with (
        serving(fresh_database) as service,
        network(service.server.port, "127.0.0.2") as elsewhere,
        Client(elsewhere.target) as client,
    ):
        connection = await Connection.open(service.server.port)
        # No byte of an answer may be sent.
        await connection.send(frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW_SIZE, 0)))
        for stream in range(1, 101, 2):
            await connection.send(
                frame(HEADERS, END_HEADERS, stream, call_headers(path))
                + frame(DATA, END_STREAM, stream, message)
            )
        refused = "voucher_refusals_total{grpc_method=RequestOffers,reason=OVERLOADED}"
        await until_metric(service, refused, 20)
        for _ in range(40):
            await client.request_offers(user_id="carol", currency_code="NOK")
        assert "OVERLOADED" == await ask(service.client)
        # A proxy has one address for all: its health checks are counted apart.
        assert health_pb2.HealthCheckResponse.SERVING == await check(service.target)
        await connection.close()
        async with asyncio.timeout(PATIENCE_S):
            while await ask(service.client) != "USER_NOT_FOUND":  # noqa: ASYNC110
                await asyncio.sleep(0.05)


@pytest.mark.parametrize(("size", "code"), [(6_000, "OK"), (20_000, "RESOURCE_EXHAUSTED")])
async def test_metadata_is_bounded(fresh_database: str, size: int, code: str) -> None:
    """8 KiB are taken; beyond 16 KiB none are, and between gRPC refuses the more the larger."""
    async with (
        serving(fresh_database) as service,
        grpc.aio.insecure_channel(service.target) as channel,
    ):
        stub: Any = health_pb2_grpc.HealthStub(channel)
        call = stub.Check(health_pb2.HealthCheckRequest(), metadata=[("x-note", "a" * size)])
        assert code == (await call.code()).name


async def silence(net: Network) -> None:
    """More than the pings without data after which gRPC would give up by itself."""
    await asyncio.sleep(6 * 25 / FASTER)
    assert (1, 1) == (net.connections, net.open)


async def test_our_client_may_ping_as_it_does(
    fresh_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some pings without a call, and the server has not closed the connection for it."""
    hurry_pings(monkeypatch)
    monkeypatch.setattr(connections, "_PING_EVERY_MS", 3_600_000)
    async with (
        serving(fresh_database) as service,
        network(service.server.port) as net,
        Client(net.target) as client,
    ):
        assert "USER_NOT_FOUND" == await ask(client)
        await silence(net)
        assert "USER_NOT_FOUND" == await ask(client)
        assert 1 == net.connections


async def test_who_pings_too_often_is_told_to_stop(
    fresh_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GOAWAY with too_many_pings; so the test above would see it."""
    hurry_pings(monkeypatch)
    monkeypatch.setattr(connections, "_CLIENT_PINGS_AT_MOST_EVERY_MS", 60_000)
    monkeypatch.setattr(connections, "_PING_EVERY_MS", 3_600_000)
    async with (
        serving(fresh_database) as service,
        network(service.server.port) as net,
        Client(net.target) as client,
    ):
        assert "USER_NOT_FOUND" == await ask(client)
        await until(lambda: net.servers_gone == 1)


async def test_a_server_notices_that_the_network_has_forgotten_a_silent_client(
    fresh_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after a long silence, so that vehicles in tunnels do not add up."""
    hurry_pings(monkeypatch)
    monkeypatch.setattr(voucher_grpc.client.channel, "KEEPALIVE", ())
    async with (
        serving(fresh_database) as service,
        network(service.server.port) as net,
        Client(net.target) as client,
    ):
        assert "USER_NOT_FOUND" == await ask(client)
        await silence(net)
        net.forget()
        await until(lambda: net.servers_gone == 1)


async def test_a_client_notices_that_the_network_has_forgotten_it_before_it_calls(
    fresh_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next calls would be lost, each after its deadline."""
    hurry_pings(monkeypatch)
    monkeypatch.setattr(connections, "_PING_EVERY_MS", 3_600_000)
    async with (
        serving(fresh_database) as service,
        network(service.server.port) as net,
        Client(net.target) as client,
    ):
        assert "USER_NOT_FOUND" == await ask(client)
        await silence(net)
        net.forget()
        await until(lambda: net.clients_gone == 1)


async def test_a_call_under_way_in_a_network_that_forgets_ends_before_its_deadline(
    fresh_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream has no deadline at all: its reader would wait for ever."""
    hurry_pings(monkeypatch)
    async with (
        serving(fresh_database) as service,
        network(service.server.port) as net,
        Client(net.target) as client,
    ):
        stream = client.stream_events(follow=True)
        await anext(stream)
        net.forget()
        with pytest.raises(CallFailed) as broken:
            await asyncio.wait_for(anext(stream), 20)
        assert grpc.StatusCode.UNAVAILABLE == broken.value.code
        await until(lambda: net.servers_gone == 1)
        await until_no_streams(service)


async def until_no_streams(service: Any) -> None:
    """Wait until the server has let go of the streams whose callers it has lost."""
    async with asyncio.timeout(20):
        while (await metrics(service))["voucher_event_streams"]:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_pings_are_rarer_than_the_server_allows_and_more_frequent_than_networks_forget() -> (
    None
):
    """30 s is the shortest that is known of mobile networks."""
    client_ms = dict(KEEPALIVE)["grpc.keepalive_time_ms"]
    assert client_ms >= 2 * connections._CLIENT_PINGS_AT_MOST_EVERY_MS
    assert max(client_ms, connections._PING_EVERY_MS) < 30_000


async def test_health_is_checked_while_calls_are_refused(fresh_database: str) -> None:
    """A server with too much to do is not to be restarted for it."""
    async with serving(fresh_database, max_concurrent_calls=1, max_concurrent_streams=1) as service:
        stream = service.client.stream_events(follow=True)
        await anext(stream)
        with pytest.raises(CallFailed) as refused:
            await anext(service.client.stream_events(follow=True))
        assert ("OVERLOADED", True) == (refused.value.reason, bool(refused.value.retry_after_s))
        assert health_pb2.HealthCheckResponse.SERVING == await check(service.target)
        async with watching(service.target) as watch:
            assert health_pb2.HealthCheckResponse.SERVING == await next_state(watch)
        await stream.aclose()
