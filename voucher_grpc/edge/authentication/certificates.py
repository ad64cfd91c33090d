"""Client certificates become principals.

TLS has made sure that a certificate comes from the authority of
VOUCHER_TLS_CLIENT_CA_FILE; what it grants stands in its subject alternative names, as
URIs that the authority has signed:

    urn:voucher-grpc:role:gateway
    urn:voucher-grpc:vehicle:fleet-7-*     (also user: and party:, percent-encoded)
    urn:voucher-grpc:name:gateway-7        (else the common name)
"""

import base64
import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import unquote

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from voucher_grpc.access.principal import ClaimedNames, Credentials, Principal
from voucher_grpc.access.roles import Role
from voucher_grpc.edge.authentication.tokens import expired, invalid

_URN = "urn:voucher-grpc:"
_NAME = re.compile(r"[\x21-\x7e]{1,64}")
MAX_KEPT = 10_000


class Shown(NamedTuple):
    """A certificate that a caller has shown: whose it is, its digest, until when it is good."""

    principal: Principal
    digest: str
    good_until_s: float


class CertificateReader:
    """Reads certificates; at most `MAX_KEPT` are kept, the longest not used is read anew."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._known: OrderedDict[bytes, Shown] = OrderedDict()

    def read(self, pem: bytes) -> Shown:
        """Whose a certificate is. Raises CREDENTIALS_INVALID, CREDENTIALS_EXPIRED.

        TLS looks at the time when a connection is made, and connections live long.
        """
        shown = self._known.get(pem)
        if shown is None:
            shown = self._known[pem] = _shown(pem)
            if len(self._known) > MAX_KEPT:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(pem)
        if self._clock() >= shown.good_until_s:
            raise expired("certificate")
        return shown


def certificate_digest(certificate: x509.Certificate) -> str:
    """What RFC 8705 calls x5t#S256."""
    digest = hashlib.sha256(certificate.public_bytes(Encoding.DER)).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _shown(pem: bytes) -> Shown:
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except x509.ExtensionNotFound:
        uris = []
    except ValueError:
        raise invalid("the certificate cannot be read") from None
    said: dict[str, list[str]] = {}
    for uri in uris:
        if uri.lower().startswith(_URN):
            kind, _, value = uri[len(_URN) :].partition(":")
            said.setdefault(kind, []).append(unquote(value))
    known = set(Role)
    principal = Principal.of(
        Credentials.CERTIFICATE,
        _name(certificate, said.get("name", [])),
        [Role(role) for role in said.get("role", []) if role in known],
        ClaimedNames(
            users=tuple(said.get("user", ())),
            vehicles=tuple(said.get("vehicle", ())),
            parties=tuple(said.get("party", ())),
        ),
    )
    return Shown(
        principal, certificate_digest(certificate), certificate.not_valid_after_utc.timestamp()
    )


def _name(certificate: x509.Certificate, said: list[str]) -> str:
    common = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    name = said[0] if said else str(common[0].value) if common else ""
    if not _NAME.fullmatch(name):
        raise invalid("the certificate's name must be 1 to 64 visible ASCII characters")
    return name
