"""An issuer of tokens and an authority for certificates, as real ones would be."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from jwt.algorithms import ECAlgorithm

ISSUER, AUDIENCE = "https://issuer.example", "voucher-grpc"


class Issuer:
    """Issues tokens; `write` keeps its key set in a file."""

    def __init__(self, key_id: str = "k1") -> None:
        self.key_id = key_id
        self.key = ec.generate_private_key(ec.SECP256R1())

    def public(self) -> dict[str, Any]:
        """The public key as a JWK."""
        found: dict[str, Any] = ECAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
        return {**found, "kid": self.key_id, "alg": "ES256", "use": "sig"}

    def token(self, subject: str = "somebody", *roles: str, **claims: Any) -> str:
        """A good token, unless `claims` spoil it; a claim of None is left out."""
        now = int(time.time())
        said = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": subject,
            "iat": now,
            "exp": now + 300,
            "roles": list(roles),
            **claims,
        }
        said = {name: value for name, value in said.items() if value is not None}
        return jwt.encode(said, self.key, "ES256", headers={"kid": self.key_id})


def write_key_set(path: Path, *issuers: Issuer) -> Path:
    """The key set of issuers as a file."""
    path.write_text(json.dumps({"keys": [issuer.public() for issuer in issuers]}))
    return path


@contextmanager
def key_server(documents: list[bytes]) -> Iterator[str]:
    """The URL of a key set; the last document is served, none where that is empty."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if documents[-1] else 500)
            self.end_headers()
            self.wfile.write(documents[-1])

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/jwks"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def key_set(*issuers: Issuer) -> bytes:
    """A key set as a document."""
    return json.dumps({"keys": [issuer.public() for issuer in issuers]}).encode()


@dataclass(frozen=True)
class Certificate:
    """A certificate with its key, PEM."""

    chain: bytes
    key: bytes

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """(certificate file, key file)."""
        certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
        certificate.write_bytes(self.chain)
        key.write_bytes(self.key)
        return certificate, key


class Authority:
    """Signs certificates."""

    def __init__(self, name: str = "authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._certificate = self._sign(name, self._key, None, is_authority=True)
        self.pem = self._certificate.public_bytes(Encoding.PEM)

    def issue(self, name: str, *uris: str, lifetime: timedelta = timedelta(days=1)) -> Certificate:
        """A certificate for localhost that says these URIs of its owner."""
        key = ec.generate_private_key(ec.SECP256R1())
        signed = self._sign(name, key, self._certificate, uris=uris, lifetime=lifetime)
        return Certificate(
            signed.public_bytes(Encoding.PEM),
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        )

    def _sign(
        self,
        name: str,
        key: ec.EllipticCurvePrivateKey,
        issuer: x509.Certificate | None,
        *,
        uris: tuple[str, ...] = (),
        is_authority: bool = False,
        lifetime: timedelta = timedelta(days=1),
    ) -> x509.Certificate:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.now(UTC)
        names = [x509.DNSName("localhost"), *(x509.UniformResourceIdentifier(u) for u in uris)]
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer.subject if issuer is not None else subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + lifetime)
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self._key, hashes.SHA256())
        )


def channel_credentials(
    authority: Authority, own: Certificate | None = None
) -> grpc.ChannelCredentials:
    """What a client needs to trust the authority, and to show a certificate of its own."""
    if own is None:
        return grpc.ssl_channel_credentials(authority.pem)
    return grpc.ssl_channel_credentials(authority.pem, own.key, own.chain)
