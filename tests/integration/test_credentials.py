"""Tokens and certificates over real sockets: which are taken, which are not, and for how long."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from tests.conftest import Service, serving
from tests.integration.credentials import (
    AUDIENCE,
    ISSUER,
    Authority,
    Certificate,
    Issuer,
    channel_credentials,
    key_server,
    key_set,
    write_key_set,
)
from tests.integration.shop import create
from voucher_grpc.client import CallFailed, Client, call_failed
from voucher_grpc.config import ConfigError, read_config
from voucher_grpc.v1.voucher_service_pb2 import (
    ListPassesRequest,
    RequestOffersRequest,
    StreamOffersRequest,
)


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    """Whom the servers of these tests trust."""
    return Issuer()


@pytest.fixture(scope="module")
def authority() -> Authority:
    """Whose certificates the servers of these tests trust."""
    return Authority()


async def passes_of(client: Client, user_id: str) -> str:
    """The reason for which a user's passes are not told, "" if they are."""
    try:
        await client.call(client.voucher.ListPasses, ListPassesRequest(user_id=user_id))
    except CallFailed as failed:
        return failed.reason or failed.code.name
    return ""


async def told(target: str, token: str, user_id: str = "alice", **options: Any) -> str:
    """What a call with a token hears."""
    async with Client(target, token=token, **options) as client:
        return await passes_of(client, user_id)


async def until(what: Callable[[], Awaitable[str]], wanted: str) -> None:
    """Wait until a call hears what it should."""
    end_s = time.monotonic() + 15
    while (heard := await what()) != wanted:
        assert time.monotonic() < end_s, heard
        await asyncio.sleep(0.1)


@asynccontextmanager
async def trusting(url: str, source: str | Path, **changes: Any) -> AsyncIterator[Service]:
    """A server that takes the tokens of a key set."""
    async with serving(url, token_keys=str(source), token_issuer=ISSUER, **changes) as service:
        yield service


async def test_a_good_token_is_taken_until_it_expires(
    fresh_database: str, issuer: Issuer, tmp_path: Path
) -> None:
    """Also one that the server has checked before and keeps."""
    keys = write_key_set(tmp_path / "jwks.json", issuer)
    async with trusting(fresh_database, keys, token_leeway_s=0) as service:
        token = issuer.token("alice", "user", exp=int(time.time()) + 2)
        async with Client(service.target, token=token) as client:
            assert "" == await passes_of(client, "alice")
            await until(lambda: passes_of(client, "alice"), "CREDENTIALS_EXPIRED")


def spoiled(issuer: Issuer) -> dict[str, tuple[str, str]]:
    """Tokens that are not good -> (token, reason)."""
    now = int(time.time())
    stranger = Issuer(issuer.key_id)
    good = issuer.token("alice", "user")
    head, body, signature = good.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    other = base64.urlsafe_b64encode(json.dumps({**claims, "sub": "bob"}).encode()).rstrip(b"=")
    public = issuer.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    confused = _signed_with_public_key(claims, public, issuer.key_id)
    expired, invalid = "CREDENTIALS_EXPIRED", "CREDENTIALS_INVALID"
    return {
        "expired": (issuer.token("alice", "user", exp=now - 60), expired),
        "without an end": (issuer.token("alice", "user", exp=None), invalid),
        "not valid yet": (issuer.token("alice", "user", nbf=now + 600), invalid),
        "from the future": (issuer.token("alice", "user", iat=now + 600), invalid),
        "another audience": (issuer.token("alice", "user", aud="something-else"), invalid),
        "no audience": (issuer.token("alice", "user", aud=None), invalid),
        "another issuer": (issuer.token("alice", "user", iss="https://else.example"), invalid),
        "no subject": (issuer.token("alice", "user", sub=None), invalid),
        "a subject of two lines": (issuer.token("alice\nroot", "user"), invalid),
        "roles that are no list": (issuer.token("alice", roles="user"), invalid),
        "another key under the same id": (stranger.token("alice", "user"), invalid),
        "a key that is not known": (Issuer("k9").token("alice", "user"), invalid),
        "alg none": (jwt.encode(claims, "", "none", headers={"kid": issuer.key_id}), invalid),
        "unsigned": (f"{head}.{body}.", invalid),
        "an altered body": (f"{head}.{other.decode()}.{signature}", invalid),
        "signed with the public key as a secret": (confused, invalid),
        "not a token": ("not-a-token", invalid),
        "empty": ("", "CREDENTIALS_MISSING"),
        "nested too deeply": (_deep(), invalid),
    }


def _signed_with_public_key(claims: dict[str, Any], public: bytes, key_id: str) -> str:
    """An HS256 token whose secret is the key that everybody knows; the library refuses to help."""

    def part(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).rstrip(b"=").decode()

    head = part(json.dumps({"alg": "HS256", "typ": "JWT", "kid": key_id}).encode())
    signed = f"{head}.{part(json.dumps(claims).encode())}"
    return f"{signed}.{part(hmac.new(public, signed.encode(), hashlib.sha256).digest())}"


def _deep() -> str:
    head = base64.urlsafe_b64encode(b"[" * 3_000).rstrip(b"=").decode()
    return f"{head}.e30.e30"


async def test_tokens_that_are_not_good_are_refused_counted_and_not_logged(
    fresh_database: str, issuer: Issuer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each for its reason, and the good one beside them is taken."""
    keys = write_key_set(tmp_path / "jwks.json", issuer)
    async with trusting(fresh_database, keys, log_level="info") as service:
        cases = spoiled(issuer)
        for name, (token, reason) in cases.items():
            assert reason == await told(service.target, token), name
            assert "" == await told(service.target, issuer.token("alice", "user"))
        counted = {
            reason: service.server.metrics.registry.get_sample_value(
                "voucher_refusals_total", {"grpc_method": "ListPasses", "reason": reason}
            )
            for reason in ("CREDENTIALS_INVALID", "CREDENTIALS_EXPIRED", "CREDENTIALS_MISSING")
        }
    assert {
        "CREDENTIALS_INVALID": len(cases) - 2,
        "CREDENTIALS_EXPIRED": 1,
        "CREDENTIALS_MISSING": 1,
    } == counted
    shown = capsys.readouterr()
    assert not [t for t, _ in cases.values() if len(t) > 20 and t in shown.err + shown.out]


async def test_two_tokens_are_none(fresh_database: str, issuer: Issuer, tmp_path: Path) -> None:
    """Which one is meant could be read differently by a proxy in front."""
    keys = write_key_set(tmp_path / "jwks.json", issuer)
    token = issuer.token("alice", "user")
    async with trusting(fresh_database, keys) as service:
        twice = [("authorization", f"Bearer {issuer.token('alice', 'user')}")]
        assert "CREDENTIALS_INVALID" == await told(service.target, token, metadata=twice)


async def test_keys_in_a_file_are_rotated_without_a_restart(
    fresh_database: str, issuer: Issuer, tmp_path: Path
) -> None:
    """A new key is taken, and the tokens of one that was taken out are not, kept or not."""
    path, new = tmp_path / "jwks.json", Issuer("k2")
    write_key_set(path, issuer)
    async with trusting(fresh_database, path) as service:
        old_token, new_token = (i.token("alice", "user") for i in (issuer, new))
        assert "" == await told(service.target, old_token)
        assert "CREDENTIALS_INVALID" == await told(service.target, new_token)
        write_key_set(path, issuer, new)
        await until(lambda: told(service.target, new_token), "")
        assert "" == await told(service.target, old_token)
        path.write_text("{ half of a file")
        await asyncio.sleep(1.5)
        assert "" == await told(service.target, new_token)
        write_key_set(path, new)
        await until(lambda: told(service.target, old_token), "CREDENTIALS_INVALID")
        assert "" == await told(service.target, new_token)


async def test_keys_at_a_url_are_fetched_again_and_the_last_good_ones_stay(
    fresh_database: str, issuer: Issuer
) -> None:
    """An issuer that is away for a while keeps nobody out."""
    documents, new = [key_set(issuer)], Issuer("k2")
    with key_server(documents) as url:
        async with trusting(fresh_database, url, token_keys_refresh_s=1) as service:
            assert "" == await told(service.target, issuer.token("alice", "user"))
            documents.append(b"")
            await asyncio.sleep(2.5)
            assert "" == await told(service.target, issuer.token("alice", "user"))
            documents.append(key_set(new))
            await until(lambda: told(service.target, new.token("alice", "user")), "")
            old = issuer.token("alice", "user")
            assert "CREDENTIALS_INVALID" == await told(service.target, old)


async def test_one_server_takes_tokens_of_another_url_only_over_https() -> None:
    """Who can change what is fetched in clear can issue tokens."""
    with pytest.raises(ConfigError, match="must be a file or an https URL"):
        read_config(token_keys="http://issuer.example/jwks", token_issuer=ISSUER)


# Certificates.


@asynccontextmanager
async def with_certificates(
    url: str, authority: Authority, folder: Path, **changes: Any
) -> AsyncIterator[Service]:
    """A server that has TLS and asks for certificates."""
    certificate, key = authority.issue("server").write(folder, "server")
    ca = folder / "ca.pem"
    ca.write_bytes(authority.pem)
    settings = {
        "tls_certificate_file": certificate,
        "tls_key_file": key,
        "tls_client_ca_file": ca,
    }
    async with serving(url, **{**settings, **changes}) as service:
        yield service


def gateway(authority: Authority, **options: Any) -> Certificate:
    """The certificate of a gateway for users whose name begins with a."""
    uris = ("urn:voucher-grpc:role:gateway", "urn:voucher-grpc:user:a*")
    return authority.issue("gateway-7", *uris, **options)


async def by_certificate(
    port: int, authority: Authority, own: Certificate | None, user_id: str = "alice", **more: Any
) -> str:
    """What a call with a certificate hears."""
    credentials = channel_credentials(authority, own)
    async with Client(f"localhost:{port}", credentials=credentials, timeout_s=5, **more) as client:
        return await passes_of(client, user_id)


async def test_a_certificate_says_who_calls(
    fresh_database: str, authority: Authority, tmp_path: Path
) -> None:
    """Within what its authority has written into it; without one there is no connection."""
    async with with_certificates(fresh_database, authority, tmp_path) as service:
        port, own = service.server.port, gateway(authority)
        assert "" == await by_certificate(port, authority, own)
        assert "ACCESS_DENIED" == await by_certificate(port, authority, own, "bob")
        nobody = authority.issue("plain")
        assert "ACCESS_DENIED" == await by_certificate(port, authority, nobody)
        assert "UNAVAILABLE" == await by_certificate(port, authority, None)
        foreign = gateway(Authority("another authority"))
        before = service.server.metrics.registry.get_sample_value("voucher_tls_handshakes")
        assert "UNAVAILABLE" == await by_certificate(port, authority, foreign)
        after = service.server.metrics.registry.get_sample_value("voucher_tls_handshakes")
        assert after is not None
        assert before is not None
        assert after > before
        assert "" == await by_certificate(port, authority, own)


async def test_a_certificate_that_expires_is_refused_on_its_open_connection(
    fresh_database: str, authority: Authority, tmp_path: Path
) -> None:
    """TLS looks at the time only when a connection is made, and connections live for days."""
    async with with_certificates(fresh_database, authority, tmp_path) as service:
        own = gateway(authority, lifetime=timedelta(seconds=3))
        credentials = channel_credentials(authority, own)
        target = f"localhost:{service.server.port}"
        async with Client(target, credentials=credentials) as client:
            assert "" == await passes_of(client, "alice")
            await until(lambda: passes_of(client, "alice"), "CREDENTIALS_EXPIRED")


async def test_the_servers_certificate_is_replaced_without_a_restart(
    fresh_database: str, authority: Authority, tmp_path: Path
) -> None:
    """Also its authority for callers; a file that is half written is waited for."""
    async with with_certificates(fresh_database, authority, tmp_path) as service:
        port, other = service.server.port, Authority("the next authority")
        assert "" == await by_certificate(port, authority, gateway(authority))
        renewed = other.issue("server")
        (tmp_path / "server.pem").write_bytes(renewed.chain)
        assert "" == await by_certificate(port, authority, gateway(authority))
        (tmp_path / "server.key").write_bytes(renewed.key)
        (tmp_path / "ca.pem").write_bytes(authority.pem + other.pem)
        assert "" == await by_certificate(port, other, gateway(other))
        assert "" == await by_certificate(port, other, gateway(authority))
        (tmp_path / "ca.pem").write_bytes(other.pem)
        assert "UNAVAILABLE" == await by_certificate(port, other, gateway(authority))


async def test_tokens_and_certificates_at_once(
    fresh_database: str, authority: Authority, issuer: Issuer, tmp_path: Path
) -> None:
    """Gateways with certificates on one port, apps with tokens on the other; a token decides."""
    keys = write_key_set(tmp_path / "jwks.json", issuer)
    settings = {"token_keys": str(keys), "token_issuer": ISSUER, "mtls_listen": "127.0.0.1:0"}
    async with with_certificates(fresh_database, authority, tmp_path, **settings) as service:
        port, mtls_port = service.server.port, service.server.mtls_port
        assert mtls_port is not None
        alice, own = issuer.token("alice", "user"), gateway(authority)
        assert "" == await by_certificate(port, authority, None, token=alice)
        assert "CREDENTIALS_MISSING" == await by_certificate(port, authority, None)
        assert "" == await by_certificate(mtls_port, authority, own)
        # The gateway covers amy, the token that it passes on does not.
        assert "" == await by_certificate(mtls_port, authority, own, "amy")
        assert "ACCESS_DENIED" == await by_certificate(
            mtls_port, authority, own, "amy", token=alice
        )
        bad = issuer.token("alice", "user", aud="else")
        assert "CREDENTIALS_INVALID" == await by_certificate(mtls_port, authority, own, token=bad)


async def test_a_token_bound_to_a_certificate_is_worth_nothing_without_it(
    fresh_database: str, authority: Authority, issuer: Issuer, tmp_path: Path
) -> None:
    """RFC 8705: a stolen token does not help without the key of the certificate."""
    keys = write_key_set(tmp_path / "jwks.json", issuer)
    settings = {"token_keys": str(keys), "token_issuer": ISSUER}
    own, stolen_by = gateway(authority), gateway(authority)
    der = x509.load_pem_x509_certificate(own.chain).public_bytes(Encoding.DER)
    digest = base64.urlsafe_b64encode(hashlib.sha256(der).digest()).rstrip(b"=").decode()
    token = issuer.token("alice", "user", cnf={"x5t#S256": digest})
    async with with_certificates(fresh_database, authority, tmp_path, **settings) as service:
        port = service.server.port
        assert "" == await by_certificate(port, authority, own, token=token)
        heard = await by_certificate(port, authority, stolen_by, token=token)
        assert "CREDENTIALS_INVALID" == heard
        unknown = issuer.token("alice", "user", cnf={"jkt": "x"})
        heard = await by_certificate(port, authority, own, token=unknown)
        assert "CREDENTIALS_INVALID" == heard


async def test_plaintext_gets_nothing_from_a_port_with_tls(
    fresh_database: str, authority: Authority, tmp_path: Path
) -> None:
    """Nor does an old version of TLS (the runtime speaks 1.2 and 1.3)."""
    async with with_certificates(fresh_database, authority, tmp_path) as service:
        async with grpc.aio.insecure_channel(service.target) as channel:
            method: Any = channel.unary_unary("/voucher_grpc.v1.VoucherService/ListPasses")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await method(b"", timeout=5)
        assert grpc.StatusCode.UNAVAILABLE == caught.value.code()


# What a server refuses to be.

NETWORK = {"listen": "0.0.0.0:0"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (NETWORK, "is not the loopback address"),
        ({"listen": "[::]:50051"}, "is not the loopback address"),
        ({"listen": "voucher.example:50051"}, "is not the loopback address"),
        (
            {**NETWORK, "token_keys": "jwks.json", "token_issuer": ISSUER},
            "tokens would travel in clear",
        ),
        ({"token_keys": "jwks.json"}, "VOUCHER_TOKEN_KEYS needs VOUCHER_TOKEN_ISSUER"),
        ({"tls_certificate_file": "a"}, "go together"),
        ({"tls_client_ca_file": "a"}, "needs VOUCHER_TLS_CERTIFICATE_FILE"),
        ({"mtls_listen": "127.0.0.1:0"}, "needs VOUCHER_TLS_CLIENT_CA_FILE"),
        ({"rate_limits": "stranger:1/1"}, "VOUCHER_RATE_LIMITS: must name roles"),
        ({"rate_limits": "user:0/1"}, "VOUCHER_RATE_LIMITS: user: must be"),
    ],
)
def test_a_door_that_nobody_meant_to_leave_open_is_refused(
    settings: dict[str, str], said: str
) -> None:
    """Without credentials on loopback only; tokens not in clear; half a setting not at all."""
    with pytest.raises(ConfigError, match=said):
        read_config(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"listen": "127.0.0.1:0"},
        {"listen": "localhost:0"},
        {"listen": "[::1]:0"},
        {**NETWORK, "serve_anybody_without_credentials": True},
        {
            **NETWORK,
            "token_keys": "jwks.json",
            "token_issuer": ISSUER,
            "token_audience": AUDIENCE,
            "tokens_in_clear": True,
        },
    ],
)
def test_a_door_that_is_meant_is_left_open(settings: dict[str, Any]) -> None:
    """In so many words."""
    assert read_config(**settings).listen == settings["listen"]


# Streams, and headers that are no token.


@pytest.mark.parametrize(
    "header",
    [
        ("authorization", "Bearer"),
        ("authorization", "Bearer "),
        ("authorization", "Token abc"),
        ("authorization", "eyJhbGciOiJub25lIn0.e30."),
        ("authorization-bin", b"Bearer abc"),
    ],
    ids=str,
)
@pytest.mark.parametrize("with_tokens", [True, False])
async def test_what_should_have_been_a_token_does_not_fall_back_to_the_certificate(
    fresh_database: str,
    authority: Authority,
    issuer: Issuer,
    tmp_path: Path,
    header: tuple[str, str],
    with_tokens: bool,
) -> None:
    """A gateway that passes on what its caller sent would lend out its own reach."""
    settings: dict[str, str] = {}
    if with_tokens:
        keys = write_key_set(tmp_path / "jwks.json", issuer)
        settings = {"token_keys": str(keys), "token_issuer": ISSUER}
    async with with_certificates(fresh_database, authority, tmp_path, **settings) as service:
        port, own = service.server.port, gateway(authority)
        heard = await by_certificate(port, authority, own, metadata=[header])
        assert "CREDENTIALS_INVALID" == heard
        assert "" == await by_certificate(port, authority, own)


async def test_a_stream_ends_with_the_credentials_it_was_opened_with(
    fresh_database: str, issuer: Issuer, tmp_path: Path
) -> None:
    """Offers and events that come after the token's time are not for its holder."""
    keys = write_key_set(tmp_path / "jwks.json", issuer)
    async with trusting(fresh_database, keys, token_leeway_s=0) as service:
        root = issuer.token("root", "operator", "gateway", "consumer", users=["*"])
        end = int(time.time()) + 2
        short = issuer.token("root", "operator", "gateway", "consumer", users=["*"], exp=end)
        async with (
            Client(service.target, token=root) as client,
            Client(service.target, token=short) as leaving,
        ):
            await create(client, "standard", default_offer=True)
            events = leaving.stream_events(follow=True)
            await anext(events)
            wanted = RequestOffersRequest(user_id="alice", currency_code="NOK")
            offers: Any = leaving.voucher.StreamOffers(metadata=leaving.metadata)
            await offers.write(StreamOffersRequest(tag="1", request=wanted))
            assert "1" == (await offers.read()).tag
            await asyncio.sleep(max(0.0, end + 0.1 - time.time()))
            offer = (await client.request_offers(user_id="bob", currency_code="NOK")).offers[0]
            await client.purchase_pass(offer, payment_reference="pay-1")
            with pytest.raises(CallFailed) as caught:
                async for _ in events:
                    pass
            assert "CREDENTIALS_EXPIRED" == caught.value.reason
            await offers.write(StreamOffersRequest(tag="2", request=wanted))
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                await offers.read()
            assert "CREDENTIALS_EXPIRED" == call_failed(ended.value).reason


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
            watch = asked.Watch(health_pb2.HealthCheckRequest(), timeout=20)
            assert health_pb2.HealthCheckResponse.SERVING == (await watch.read()).status
            answer = await asked.Check(health_pb2.HealthCheckRequest(), timeout=20)
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
        stream, told = ask(metadata=[("authorization", bearer)], timeout=20), list[str]()
        for _ in range(5):
            await stream.write(question)
            told.append(await _heard(stream))
        assert ["", "", "", "", "RATE_LIMITED"] == told  # to open the stream is one, too


@pytest.mark.parametrize(
    "url",
    ["HTTP://issuer.example/k", " http://issuer.example/k", "http://issuer.example?@127.0.0.1/"],
)
def test_a_url_in_clear_is_seen_however_it_is_written(url: str) -> None:
    """Upper case, blanks before it, another host behind it."""
    with pytest.raises(ConfigError, match="must be a file or an https URL"):
        read_config(token_keys=url, token_issuer=ISSUER)
