"""Certificates over real sockets: which are taken, which are not, and for how long."""

import base64
import hashlib
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.integration.credentials import (
    ISSUER,
    Authority,
    Issuer,
    channel_credentials,
    write_key_set,
)
from tests.integration.guarded import by_certificate, gateway, passes_of, until, with_certificates
from tests.integration.operating import PATIENCE_S
from voucher_grpc.client import Client


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
                await method(b"", timeout=PATIENCE_S)
        assert grpc.StatusCode.UNAVAILABLE == caught.value.code()


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
