"""From what a call carries to who makes it."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from voucher_grpc.access.principal import ANONYMOUS, Principal
from voucher_grpc.edge.authentication.certificates import CertificateReader, Shown
from voucher_grpc.edge.authentication.tokens import TokenVerifier, invalid
from voucher_grpc.errors import Reason, Refusal

_HEADER = "authorization"
_SCHEME = "bearer "


class Carried(Protocol):
    """The part of a gRPC call that says who makes it."""

    def invocation_metadata(self) -> Any:
        """Names and values."""

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """What TLS knows of the peer."""


class Authenticator:
    """Identifies the caller. Without tokens and certificates configured every caller is anonymous.

    A token decides, also where the connection has a certificate: a gateway may pass a
    user's token on, and the call is then the user's. Without a token the certificate does.
    """

    def __init__(
        self, tokens: TokenVerifier | None, certificates: CertificateReader | None
    ) -> None:
        self._tokens = tokens
        self._certificates = certificates

    async def caller(self, call: Carried) -> Principal:
        """Who makes a call. Raises CREDENTIALS_MISSING, _INVALID, _EXPIRED."""
        if self._tokens is None and self._certificates is None:
            return ANONYMOUS
        token = _token(call)
        if token is not None:
            if self._tokens is None:
                raise invalid("tokens are not taken here")
            verified = await self._tokens.verify(token)
            bound_to = verified.certificate_digest
            if bound_to is not None:
                shown = self._shown(call)
                if shown is None or shown.digest != bound_to:
                    raise invalid("the token is bound to another certificate")
            return verified.principal
        shown = self._shown(call)
        if shown is None:
            raise Refusal(Reason.CREDENTIALS_MISSING, "the call carries no credentials")
        return shown.principal

    def _shown(self, call: Carried) -> Shown | None:
        if self._certificates is None:
            return None
        found = call.auth_context().get("x509_pem_cert")
        return self._certificates.read(next(iter(found))) if found else None


def _token(call: Carried) -> str | None:
    """The token of a call, None without one.

    Raises CREDENTIALS_INVALID for two, and for a header in which there is none: a gateway
    that passes on what it got must not fall back to what its own certificate grants.
    """
    token: str | None = None
    for name, value in call.invocation_metadata() or ():
        if not name.startswith(_HEADER):
            continue
        if name != _HEADER or not isinstance(value, str) or value[:7].lower() != _SCHEME:
            raise invalid("authorization must be one Bearer token")
        if token is not None:
            raise invalid("the call carries two tokens")
        token = value[7:].strip()
    if token == "":
        raise invalid("authorization must be one Bearer token")
    return token
