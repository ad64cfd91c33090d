"""TLS for the ports: certificates that are read again at each handshake if they have changed."""

from pathlib import Path

import grpc
import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from voucher_grpc.runtime.reloadable_file import ReloadableFile

log = structlog.get_logger(__name__)


class TlsError(Exception):
    """The certificate, its key or the authority cannot be used; one line without a secret."""


class ServerTls:
    """The server's certificate and key, and the authority of its clients' certificates."""

    def __init__(self, certificate: Path, key: Path, client_authority: Path | None) -> None:
        self._certificate = ReloadableFile(certificate)
        self._key = ReloadableFile(key)
        self._authority = ReloadableFile(client_authority) if client_authority else None
        self._failed = False
        self.handshakes = 0

    def credentials(self, *, client_certificates: bool) -> grpc.ServerCredentials:
        """For a port that asks for a client's certificate, or does not. Raises TlsError."""
        first = self._read()
        return grpc.dynamic_ssl_server_credentials(
            first,
            self._changed,  # type: ignore[arg-type]
            require_client_authentication=client_certificates,
        )

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        """What gRPC asks at each handshake: other certificates, or None to go on with these."""
        self.handshakes += 1
        files = [f for f in (self._certificate, self._key, self._authority) if f is not None]
        if not any(file.changed() for file in files):
            return None
        try:
            read = self._read()
        except TlsError as error:
            # In the middle of a change the key is not the certificate's: the old pair goes on.
            if not self._failed:
                log.warning("certificates_not_read", error=str(error))
            self._failed = True
            return None
        self._failed = False
        log.info("certificates_read")
        return read

    def _read(self) -> grpc.ServerCertificateConfiguration:
        chain, key = _content(self._certificate), _content(self._key)
        try:
            own = x509.load_pem_x509_certificates(chain)[0].public_key()
            private = load_pem_private_key(key, None)
        except (ValueError, TypeError):
            raise TlsError(
                f"{self._certificate.path} and {self._key.path} must be a certificate and its "
                "unencrypted key in PEM"
            ) from None
        if _bytes(own) != _bytes(private.public_key()):
            raise TlsError(f"{self._key.path} is not the key of {self._certificate.path}")
        authority = _content(self._authority) if self._authority is not None else None
        if authority is not None:
            try:
                x509.load_pem_x509_certificates(authority)
            except ValueError:
                raise TlsError(f"{self._authority and self._authority.path} has no PEM") from None
        return grpc.ssl_server_certificate_configuration([(key, chain)], authority)


def _content(file: ReloadableFile) -> bytes:
    try:
        return file.read()
    except OSError as error:
        raise TlsError(f"cannot read {file.path}: {error.strerror}") from error


def _bytes(public_key: object) -> bytes:
    return public_key.public_bytes(  # type: ignore[attr-defined, no-any-return]
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )
