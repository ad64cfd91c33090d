"""How commands reach a service and say who they are.

What is secret comes from the environment or from files, never from the command line,
which everybody on the machine can read:

    VOUCHER_TOKEN, VOUCHER_TOKEN_FILE         a token; the file is read for each connection
    VOUCHER_CA_FILE                           whose certificates to trust; with it TLS is spoken
    VOUCHER_CLIENT_CERTIFICATE_FILE, VOUCHER_CLIENT_KEY_FILE    a certificate of our own
"""

import os
from collections.abc import Sequence
from pathlib import Path

import grpc

from voucher_grpc.cli import Failed
from voucher_grpc.client import Client


def connect(target: str, metadata: Sequence[tuple[str, str]] = ()) -> Client:
    """A client with the credentials of the environment. Raises Failed."""
    return Client(target, credentials=channel_credentials(), token=_token(), metadata=metadata)


def channel_credentials() -> grpc.ChannelCredentials | None:
    """What TLS needs; None without it. Raises Failed."""
    authority = _file("VOUCHER_CA_FILE")
    certificate, key = _file("VOUCHER_CLIENT_CERTIFICATE_FILE"), _file("VOUCHER_CLIENT_KEY_FILE")
    if (certificate is None) != (key is None):
        raise Failed("VOUCHER_CLIENT_CERTIFICATE_FILE and VOUCHER_CLIENT_KEY_FILE go together")
    if authority is None:
        if certificate is not None:
            raise Failed("VOUCHER_CLIENT_CERTIFICATE_FILE needs VOUCHER_CA_FILE")
        return None
    return grpc.ssl_channel_credentials(authority, key, certificate)


def _token() -> str:
    token, content = os.environ.get("VOUCHER_TOKEN", ""), _file("VOUCHER_TOKEN_FILE")
    if token and content is not None:
        raise Failed("VOUCHER_TOKEN and VOUCHER_TOKEN_FILE are both set")
    token = token or (content or b"").decode("ascii", "replace")
    if any(c.isspace() or not c.isprintable() for c in token.strip()):
        raise Failed("the token must be one word of ASCII")
    return token.strip()


def _file(variable: str) -> bytes | None:
    path = os.environ.get(variable, "")
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise Failed(f"{variable}: cannot read {path}: {error.strerror}") from error
