"""Tokens over real sockets: which are taken, which are not, and for how long."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.integration.credentials import (
    AUDIENCE,
    ISSUER,
    Issuer,
    key_server,
    key_set,
    write_key_set,
)
from tests.integration.guarded import (
    passes_of,
    told,
    trusting,
    until,
)
from tests.integration.shop import create
from voucher_grpc.client import CallFailed, Client, call_failed
from voucher_grpc.server.config import ConfigError, read_config
from voucher_grpc.v1.voucher_service_pb2 import (
    RequestOffersRequest,
    StreamOffersRequest,
)

# Of a token: to use it before its end, and to wait for that.
SHORT_S = 8


async def test_a_good_token_is_taken_until_it_expires(
    fresh_database: str, issuer: Issuer, tmp_path: Path
) -> None:
    """Also one that the server has checked before and keeps."""
    keys = write_key_set(tmp_path / "jwks.json", issuer)
    async with trusting(fresh_database, keys, token_leeway_s=0) as service:
        token = issuer.token("alice", "user", exp=int(time.time()) + SHORT_S)
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


async def test_a_stream_ends_with_the_credentials_it_was_opened_with(
    fresh_database: str, issuer: Issuer, tmp_path: Path
) -> None:
    """Offers and events that come after the token's time are not for its holder."""
    keys = write_key_set(tmp_path / "jwks.json", issuer)
    async with trusting(fresh_database, keys, token_leeway_s=0) as service:
        root = issuer.token("root", "operator", "gateway", "consumer", users=["*"])
        end = int(time.time()) + SHORT_S
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


# Doors: what a server refuses to leave open.

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


@pytest.mark.parametrize(
    "url",
    ["HTTP://issuer.example/k", " http://issuer.example/k", "http://issuer.example?@127.0.0.1/"],
)
def test_a_url_in_clear_is_seen_however_it_is_written(url: str) -> None:
    """Upper case, blanks before it, another host behind it."""
    with pytest.raises(ConfigError, match="must be a file or an https URL"):
        read_config(token_keys=url, token_issuer=ISSUER)
