"""Nobody can have all streams, watches or questions of a server."""

import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from tests.conftest import serving
from tests.integration.credentials import (
    ISSUER,
    Authority,
    Issuer,
    channel_credentials,
    write_key_set,
)
from tests.integration.guarded import trusting, until, with_certificates
from tests.integration.operating import PATIENCE_S, metrics, until_metric
from tests.network import network
from voucher_grpc.client import CallFailed, Client, call_failed
from voucher_grpc.edge.rpc import call_limits, rejected_streams


async def test_one_caller_cannot_have_all_streams(
    fresh_database: str, issuer: Issuer, tmp_path: Path
) -> None:
    """An eighth of them at most; others open theirs meanwhile."""
    keys = write_key_set(tmp_path / "jwks.json", issuer)
    async with trusting(fresh_database, keys, max_concurrent_streams=16) as service:
        tokens = [issuer.token(name, "consumer") for name in ("greedy", "modest")]
        async with (
            Client(service.target, token=tokens[0]) as greedy,
            Client(service.target, token=tokens[1]) as modest,
        ):
            held = [greedy.stream_events(follow=True) for _ in range(2)]
            for stream in held:
                await anext(stream)
            with pytest.raises(CallFailed) as caught:
                await anext(greedy.stream_events(follow=True))
            assert "OVERLOADED" == caught.value.reason
            await anext(modest.stream_events(follow=True))
            await held[0].aclose()
            await until(lambda: _opens(greedy), "")


async def test_a_user_called_like_a_gateway_has_none_of_its_streams(
    fresh_database: str, authority: Authority, issuer: Issuer, tmp_path: Path
) -> None:
    """The names of tokens and of certificates are given by different people."""
    settings: dict[str, Any] = {
        "token_keys": str(write_key_set(tmp_path / "jwks.json", issuer)),
        "token_issuer": ISSUER,
        "mtls_listen": "127.0.0.1:0",
        "max_concurrent_streams": 8,
    }
    own = authority.issue("gateway-7", "urn:voucher-grpc:role:consumer")
    token = issuer.token("gateway-7", "consumer")
    async with with_certificates(fresh_database, authority, tmp_path, **settings) as service:
        target, mtls_target = (
            f"localhost:{port}" for port in (service.server.port, service.server.mtls_port)
        )
        shown, alone = channel_credentials(authority, own), channel_credentials(authority)
        async with (
            Client(target, credentials=alone, token=token) as user,
            Client(mtls_target, credentials=shown) as gateway,
        ):
            held = user.stream_events(follow=True)
            await anext(held)
            assert "OVERLOADED" == await _opens(user)
            assert "" == await _opens(gateway)
            await held.aclose()


async def _opens(client: Client) -> str:
    stream = client.stream_events(follow=True)
    try:
        await anext(stream)
    except CallFailed as failed:
        return failed.reason
    finally:
        await stream.aclose()
    return ""


@pytest.fixture
def few_places(monkeypatch: pytest.MonkeyPatch) -> int:
    """So few that they are quickly taken; as many for strangers as for callers with credentials."""
    monkeypatch.setattr(call_limits, "MAX_UNAUTHENTICATED_PROBES", 40)
    monkeypatch.setattr(call_limits, "MAX_AUTHENTICATED_PROBES", 40)
    return 40


def watch_health(channel: grpc.aio.Channel, token: str = "") -> Any:
    """A stream that watches health."""
    stub: Any = health_pb2_grpc.HealthStub(channel)
    metadata = [("authorization", f"Bearer {token}")] if token else None
    return stub.Watch(health_pb2.HealthCheckRequest(), timeout=10 * PATIENCE_S, metadata=metadata)


async def test_one_address_with_many_connections_cannot_keep_others_from_watching_health(
    fresh_database: str, few_places: int
) -> None:
    """Each newcomer is served; what ends for it are the oldest streams of whoever has most."""
    async with serving(fresh_database) as service, AsyncExitStack() as stack:
        own = [("grpc.use_local_subchannel_pool", 1)]

        async def connect(address: str, **policy: Any) -> grpc.aio.Channel:
            options = [*own, ("grpc.service_config", json.dumps(policy))]
            net = await stack.enter_async_context(network(service.server.port, address))
            return await stack.enter_async_context(
                grpc.aio.insecure_channel(net.target, options=options)
            )

        modest = watch_health(await connect("127.0.0.3"))
        assert health_pb2.HealthCheckResponse.SERVING == (await modest.read()).status
        greedy = []
        for _ in range(3 * few_places // 10):
            channel = await connect("127.0.0.2")
            greedy += [watch_health(channel) for _ in range(10)]
            assert [""] * 10 == [await _heard(watch) for watch in greedy[-10:]]
        # Those that were opened together may have come in any order.
        ended = [await _heard(watch) for watch in greedy[:-few_places]]
        assert ["OVERLOADED"] * (len(greedy) - few_places) == ended
        assert few_places == (await metrics(service))["voucher_in_flight{kind=probes}"]
        # A client that must be told that the server is well before it calls.
        checking = await connect(
            "127.0.0.4",
            healthCheckConfig={"serviceName": ""},
            loadBalancingConfig=[{"round_robin": {}}],
        )
        stub: Any = health_pb2_grpc.HealthStub(checking)
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S)
        assert health_pb2.HealthCheckResponse.SERVING == answer.status
        assert not modest.done()


async def test_strangers_cannot_take_the_places_of_callers_with_credentials(
    fresh_database: str, issuer: Issuer, tmp_path: Path, few_places: int
) -> None:
    """And a header that is no good counts as none."""
    keys = write_key_set(tmp_path / "jwks.json", issuer)
    async with (
        trusting(fresh_database, keys) as service,
        grpc.aio.insecure_channel(service.target) as channel,
    ):
        own = watch_health(channel, issuer.token("platform-1", "platform"))
        assert "" == await _heard(own)
        tokens = ("", "no-token", issuer.token("alice", "user", exp=1))
        strangers = [watch_health(channel, tokens[n % 3]) for n in range(2 * few_places)]
        assert [""] * len(strangers) == [await _heard(watch) for watch in strangers]
        assert few_places + 1 == (await metrics(service))["voucher_in_flight{kind=probes}"]
        assert not own.done()


async def test_streams_that_are_rejected_hold_no_place(
    fresh_database: str, issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stranger that opens streams and sends nothing does not keep callers from opening theirs."""
    monkeypatch.setattr(rejected_streams, "_FIRST_MESSAGE_TIMEOUT_S", 3_600)
    monkeypatch.setattr(rejected_streams, "_MAX_WAITING", 20)
    keys = write_key_set(tmp_path / "jwks.json", issuer)
    async with (
        trusting(fresh_database, keys, max_concurrent_streams=8) as service,
        grpc.aio.insecure_channel(service.target) as channel,
        Client(service.target, token=issuer.token("events-1", "consumer")) as client,
    ):
        open_stream: Any = channel.stream_stream("/voucher_grpc.v1.VoucherService/StreamOffers")
        streams = [open_stream(timeout=10 * PATIENCE_S) for _ in range(50)]
        refused = "voucher_refusals_total{grpc_method=StreamOffers,reason=CREDENTIALS_MISSING}"
        await until_metric(service, refused, 30)
        assert 0 == (await metrics(service))["voucher_in_flight{kind=streams}"]
        assert "" == await _opens(client)
        for stream in streams:
            stream.cancel()


async def _heard(stream: Any) -> str:
    """Nothing if the stream has an answer, else the reason why not."""
    try:
        await stream.read()
    except grpc.aio.AioRpcError as error:
        return call_failed(error).reason
    return ""


async def test_each_question_to_reflection_counts(
    fresh_database: str, issuer: Issuer, tmp_path: Path
) -> None:
    """One stream is not a way around the caller's rate."""
    keys = write_key_set(tmp_path / "jwks.json", issuer)
    limits = "user:0.01/5"
    async with (
        trusting(fresh_database, keys, rate_limits=limits) as service,
        grpc.aio.insecure_channel(service.target) as channel,
    ):
        ask: Any = channel.stream_stream(
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        bearer = f"Bearer {issuer.token('alice', 'user')}"
        question = reflection_pb2.ServerReflectionRequest(list_services="")
        stream, told = ask(metadata=[("authorization", bearer)], timeout=PATIENCE_S), list[str]()
        for _ in range(5):
            await stream.write(question)
            told.append(await _heard(stream))
        assert ["", "", "", "", "RATE_LIMITED"] == told  # to open the stream is one, too
