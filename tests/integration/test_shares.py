"""Nobody can have all streams, watches or questions of a server."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from tests.conftest import Service
from tests.integration.credentials import (
    ISSUER,
    Authority,
    Issuer,
    channel_credentials,
    write_key_set,
)
from tests.integration.guarded import trusting, until, with_certificates
from tests.integration.operating import PATIENCE_S
from voucher_grpc.client import CallFailed, Client, call_failed


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


async def test_one_connection_cannot_have_all_watches_of_health(shared_service: Service) -> None:
    """Whoever it is. Others watch and ask meanwhile, and are served by clients that must know."""
    own = [("grpc.use_local_subchannel_pool", 1)]
    policy = {
        "healthCheckConfig": {"serviceName": ""},
        "loadBalancingConfig": [{"round_robin": {}}],
    }
    checked = [("grpc.service_config", json.dumps(policy)), *own]
    async with (
        grpc.aio.insecure_channel(shared_service.target, options=own) as greedy,
        grpc.aio.insecure_channel(shared_service.target, options=own) as another,
        grpc.aio.insecure_channel(shared_service.target, options=checked) as checking,
    ):
        many: Any = health_pb2_grpc.HealthStub(greedy)
        watches = [many.Watch(health_pb2.HealthCheckRequest()) for _ in range(1_000)]
        told = Counter([await _heard(watch) for watch in watches])
        assert Counter({"OVERLOADED": 984, "": 16}) == told
        for channel in (another, checking):
            asked: Any = health_pb2_grpc.HealthStub(channel)
            watch = asked.Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S)
            assert health_pb2.HealthCheckResponse.SERVING == (await watch.read()).status
            answer = await asked.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S)
            assert health_pb2.HealthCheckResponse.SERVING == answer.status
        for watch in watches:
            watch.cancel()


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
