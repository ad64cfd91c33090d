"""What operators rely on: health, reflection, metrics, logs, a clean stop."""

import asyncio
import json
import re
import signal
import uuid
from contextlib import AsyncExitStack, ExitStack
from typing import Any

import asyncpg
import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from prometheus_client import CollectorRegistry

from tests.conftest import Service, serving
from tests.integration.operating import (
    OFFER_KEY,
    PASSWORD,
    PATIENCE_S,
    State,
    check,
    ended,
    held_up,
    metrics,
    next_state,
    read_metrics,
    set_on_database,
    settled_metrics,
    start,
    watching,
    with_password,
)
from tests.integration.shop import breaches, create, until_waiting
from tests.proxy import proxied
from voucher_grpc.client import CallFailed, Client, call_failed
from voucher_grpc.server.wiring import SERVICES
from voucher_grpc.telemetry import metrics_server
from voucher_grpc.v1.voucher_service_pb2 import (
    GetPassRequest,
    RequestOffersRequest,
    StreamOffersRequest,
)


@pytest.mark.parametrize("service", ["", *SERVICES])
async def test_a_running_server_is_serving(shared_service: Service, service: str) -> None:
    """Health knows the server as a whole and each of its services."""
    assert State.SERVING == await check(shared_service.target, service)


async def test_health_lists_all_services_at_once(shared_service: Service) -> None:
    """Where the library knows the method: from protobuf 7 on (`make test-protobuf7`)."""
    messages: Any = health_pb2
    if not hasattr(messages, "HealthListRequest"):
        pytest.skip("this grpcio-health-checking does not serve List")
    async with grpc.aio.insecure_channel(shared_service.target) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answer = await stub.List(messages.HealthListRequest(), timeout=PATIENCE_S)
    states = {service: state.status for service, state in answer.statuses.items()}
    assert dict.fromkeys(("", *SERVICES), State.SERVING) == states


async def test_health_says_which_services_it_does_not_know(shared_service: Service) -> None:
    """Check answers NOT_FOUND; Watch SERVICE_UNKNOWN, as the protocol wants it."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await check(shared_service.target, "voucher_grpc.v1.NoService")
    assert grpc.StatusCode.NOT_FOUND == caught.value.code()
    async with watching(shared_service.target, "voucher_grpc.v1.NoService") as watch:
        assert State.SERVICE_UNKNOWN == await next_state(watch)


async def test_watchers_hear_that_the_database_is_away_and_back(fresh_database: str) -> None:
    """NOT_SERVING while Postgres cannot be reached, SERVING afterwards, without a restart.

    A watcher that left does not take the others' notifications along.
    """
    async with (
        proxied(fresh_database) as proxy,
        serving(proxy.url) as service,
        watching(service.target) as watch,
        watching(service.target) as another,
    ):
        assert State.SERVING == await next_state(another)
        assert State.SERVING == await next_state(watch)
        another.cancel()
        proxy.cut()
        assert State.NOT_SERVING == await next_state(watch)
        assert State.NOT_SERVING == await check(service.target, SERVICES[0])
        assert 0 == (await metrics(service))["voucher_database_up"]
        proxy.restore()
        assert State.SERVING == await next_state(watch)
        assert 1 == (await metrics(service))["voucher_database_up"]


async def test_a_database_that_became_read_only_is_not_served(
    cluster_url: str, fresh_database: str
) -> None:
    """After a failover the old primary may only be read; purchases cannot be taken there."""
    async with serving(fresh_database) as service, watching(service.target) as watch:
        assert State.SERVING == await next_state(watch)
        await set_on_database(cluster_url, fresh_database, "default_transaction_read_only", "on")
        assert State.NOT_SERVING == await next_state(watch)


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_lists_the_services(shared_service: Service, version: str) -> None:
    """Both versions of the protocol, since tools speak one or the other."""
    async with grpc.aio.insecure_channel(shared_service.target) as channel:
        method = channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        call = method(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        answer: Any = await asyncio.wait_for(call.read(), PATIENCE_S)
    names = {service.name for service in answer.list_services_response.service}
    assert {*SERVICES, "grpc.health.v1.Health"} <= names


async def test_reflection_can_be_turned_off(fresh_database: str) -> None:
    """Whoever does not want to show the API does not have to."""
    async with serving(fresh_database, reflection=False) as service:
        assert not [name for name in service.server.methods if "reflection" in name]


def handled(method: str, code: str) -> str:
    """The key of grpc_server_handled_total, as go-grpc-prometheus names it."""
    return (
        f"grpc_server_handled_total{{grpc_code={code},grpc_method={method},"
        "grpc_service=voucher_grpc.v1.VoucherService,grpc_type=unary}"
    )


async def test_the_business_is_counted(fresh_service: Service) -> None:
    """Purchases by result, offers by recommendation, and which catalogue is offered."""
    client = fresh_service.client
    await create(client, "last", default_offer=True, stock=1)
    asked = [await client.request_offers(user_id=u, currency_code="NOK") for u in ("a", "b")]
    await client.purchase_pass(asked[0].offers[0], payment_reference="pay-1")
    with pytest.raises(CallFailed):
        await client.purchase_pass(asked[1].offers[0], payment_reference="pay-2")

    found = await settled_metrics(fresh_service)
    purchases = {key: n for key, n in found.items() if key.startswith("voucher_purchases_total")}
    assert {
        "voucher_purchases_total{result=OK}": 1,
        "voucher_purchases_total{result=SOLD_OUT}": 1,
    } == purchases
    assert 2 == found["voucher_offers_total{recommended=no}"]
    assert 2 == found["voucher_catalogue_version"]


async def test_successes_and_refusals_are_counted(fresh_service: Service) -> None:
    """The names and labels are those of go-grpc-prometheus; malformed bytes count too."""
    client = fresh_service.client
    await create(client, "standard", default_offer=True)
    await client.request_offers(user_id="alice", currency_code="NOK")
    with pytest.raises(CallFailed):
        await client.request_offers()
    with pytest.raises(CallFailed):
        await client.get_pass("alice", str(uuid.uuid4()))
    async with grpc.aio.insecure_channel(fresh_service.target) as channel:
        raw: Any = channel.unary_unary("/voucher_grpc.v1.VoucherService/RequestOffers")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await raw(b"\xff\xff\xff")
    assert "MALFORMED_MESSAGE" == call_failed(caught.value).reason

    found = await settled_metrics(fresh_service)
    rpc = "grpc_method=RequestOffers,grpc_service=voucher_grpc.v1.VoucherService,grpc_type=unary"
    assert 1 == found[handled("RequestOffers", "OK")]
    assert 2 == found[handled("RequestOffers", "InvalidArgument")]
    assert 1 == found[handled("GetPass", "NotFound")]
    assert 3 == found[f"grpc_server_started_total{{{rpc}}}"]
    assert 3 == found[f"grpc_server_msg_received_total{{{rpc}}}"]
    assert 1 == found[f"grpc_server_msg_sent_total{{{rpc}}}"]
    assert 3 == found[f"grpc_server_handling_seconds_count{{{rpc}}}"]
    assert 1 == found["voucher_refusals_total{grpc_method=RequestOffers,reason=MALFORMED_MESSAGE}"]


async def test_the_messages_of_a_stream_are_counted(fresh_service: Service) -> None:
    """Those that came and those that were sent."""
    client = fresh_service.client
    await create(client, "standard", default_offer=True)
    wanted = RequestOffersRequest(user_id="alice", currency_code="NOK")
    requests = [StreamOffersRequest(tag=str(n), request=wanted) for n in range(5)]
    assert 5 == len([answer async for answer in client.voucher.StreamOffers(iter(requests))])
    found = await settled_metrics(fresh_service)
    rpc = "grpc_method=StreamOffers,grpc_service=voucher_grpc.v1.VoucherService"
    for what in ("received", "sent"):
        assert 5 == found[f"grpc_server_msg_{what}_total{{{rpc},grpc_type=bidi_stream}}"]


async def test_silent_connections_do_not_keep_metrics_for_themselves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each is a thread and a descriptor: there are so many and no more, and they are closed."""

    async def connected(port: int | None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", port)

    async def closed(reader: asyncio.StreamReader) -> bool:
        return b"" == await asyncio.wait_for(reader.read(), PATIENCE_S)

    # One too many is closed at once: the others stay for longer than anybody waits here.
    monkeypatch.setattr(metrics_server._Connection, "timeout", 10 * PATIENCE_S)
    with ExitStack() as stack:
        port = metrics_server.serve_metrics("127.0.0.1:0", CollectorRegistry(), stack)
        silent = [await connected(port) for _ in range(metrics_server.MOST_SCRAPES)]
        reader, writer = await connected(port)
        assert await closed(reader)
        for _, each in [*silent, (reader, writer)]:
            each.close()
            await each.wait_closed()
    # Those that are silent are closed, and leave their places.
    monkeypatch.setattr(metrics_server._Connection, "timeout", 0.2)
    with ExitStack() as stack:
        port = metrics_server.serve_metrics("127.0.0.1:0", CollectorRegistry(), stack)
        assert port is not None
        for reader, writer in [await connected(port) for _ in range(metrics_server.MOST_SCRAPES)]:
            assert await closed(reader)
            writer.close()
            await writer.wait_closed()
        assert {} == await asyncio.to_thread(read_metrics, port)


async def test_an_error_brings_the_request_id_back(shared_service: Service) -> None:
    """The one that was sent, so that the caller and the logs name the call alike."""
    async with grpc.aio.insecure_channel(shared_service.target) as channel:
        method: Any = channel.unary_unary(
            "/voucher_grpc.v1.VoucherService/GetPass",
            request_serializer=GetPassRequest.SerializeToString,
        )
        with pytest.raises(grpc.aio.AioRpcError) as sent:
            await method(GetPassRequest(), metadata=[("x-request-id", "call-7")])
        with pytest.raises(grpc.aio.AioRpcError) as unusable:
            await method(GetPassRequest(), metadata=[("x-request-id", "not usable")])
    assert "call-7" == dict(sent.value.trailing_metadata() or ())["x-request-id"]
    made = dict(unusable.value.trailing_metadata() or ())["x-request-id"]
    assert re.fullmatch("[0-9a-f]{32}", str(made))


# The command as an operator runs it.


async def test_logs_are_json_lines_with_the_request_id_and_without_secrets(
    fresh_database: str,
) -> None:
    """What is refused is logged under the caller's id; a SIGTERM ends it with exit code 0."""
    process = await start("serve", url=with_password(fresh_database))
    assert process.stdout is not None
    ready = (await asyncio.wait_for(process.stdout.readline(), 60)).decode()
    port = re.findall(r"port (\d+)", ready)[0]
    async with Client(f"127.0.0.1:{port}", metadata=[("x-request-id", "call-8")]) as client:
        with pytest.raises(CallFailed):
            await client.get_pass("alice", str(uuid.uuid4()))
        admin = await asyncpg.connect(fresh_database)
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        await admin.execute("DROP TABLE passes CASCADE")
        await admin.close()
        with pytest.raises(CallFailed) as caught:
            await client.get_pass("alice", str(uuid.uuid4()))
    process.send_signal(signal.SIGTERM)
    result = await ended(process)
    assert 0 == result.code
    lines = [json.loads(line) for line in result.errors]
    assert all({"event", "level", "timestamp"} <= line.keys() for line in lines)
    refused = next(line for line in lines if line["event"] == "refused")
    assert ("GetPass", "PASS_NOT_FOUND", "call-8") == (
        refused["method"],
        refused["reason"],
        refused["request_id"],
    )
    failed = next(line for line in lines if line["event"] == "call_failed")
    assert "call-8" == failed["request_id"]
    assert "passes" in failed["exception"]
    # The caller hears that it was our fault and under which id, nothing of what it was.
    assert ("INTERNAL", {"request_id": "call-8"}) == (caught.value.reason, caught.value.metadata)
    assert "passes" not in caught.value.message
    everything = "\n".join([ready, result.output, *result.errors])
    assert PASSWORD not in everything
    assert OFFER_KEY not in everything


# The stop.


async def test_a_stop_lets_a_call_under_way_finish(fresh_database: str) -> None:
    """NOT_SERVING first, nothing new is taken, the purchase under way gets its pass.

    An open Watch hears of it and does not hold the stop up.
    """
    stop = asyncio.Event()
    started: asyncio.Future[Service] = asyncio.get_running_loop().create_future()

    async def host() -> None:
        async with serving(fresh_database, drain_timeout_s=30) as service:
            started.set_result(service)
            await stop.wait()

    hosting = asyncio.create_task(host())
    service = await started
    async with Client(service.target) as client, watching(service.target) as watch:
        assert State.SERVING == await next_state(watch)
        await create(client, "standard", default_offer=True)
        offer = (await client.request_offers(user_id="alice", currency_code="NOK")).offers[0]
        async with held_up(fresh_database):
            buying = asyncio.create_task(client.purchase_pass(offer, payment_reference="pay-1"))
            await until_waiting(fresh_database)
            stop.set()
            assert State.NOT_SERVING == await next_state(watch)
            assert grpc.aio.EOF is await next_state(watch)
            async with grpc.aio.insecure_channel(service.target) as channel:
                late: Any = channel.unary_unary(
                    "/voucher_grpc.v1.VoucherService/RequestOffers",
                    request_serializer=RequestOffersRequest.SerializeToString,
                )
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await late(RequestOffersRequest(user_id="bob"), timeout=PATIENCE_S)
            assert grpc.StatusCode.UNAVAILABLE == caught.value.code()
            assert not buying.done()
        bought = await buying
    assert "alice" == bought.user_id
    await asyncio.wait_for(hosting, PATIENCE_S)
    assert {} == await breaches(fresh_database)


async def test_a_stop_answers_calls_that_have_arrived(fresh_database: str) -> None:
    """The runtime would cancel what it has not yet taken, under load nearly every caller's call."""
    calls, method = 100, "/voucher_grpc.v1.VoucherService/RequestOffers"
    stack = AsyncExitStack()
    service = await stack.enter_async_context(serving(fresh_database))
    await create(service.client, "standard", default_offer=True)
    options = [("grpc.enable_retries", 0)]
    async with grpc.aio.insecure_channel(service.target, options) as channel:
        await channel.channel_ready()
        request = RequestOffersRequest(user_id="alice", currency_code="NOK").SerializeToString()
        send: Any = channel.unary_unary(method)
        sent = [asyncio.ensure_future(send(request, timeout=PATIENCE_S)) for _ in range(calls)]
        await sent[0]
        stopping = asyncio.create_task(stack.aclose())
        answers = await asyncio.gather(*sent, return_exceptions=True)
        await stopping
    # A call that arrives in the very moment may still be too late.
    assert len([answer for answer in answers if isinstance(answer, bytes)]) > calls * 0.9
