"""Servers that want credentials, and what callers hear of them."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.conftest import Service, serving
from tests.integration.credentials import (
    ISSUER,
    Authority,
    Certificate,
    channel_credentials,
)
from tests.integration.operating import PATIENCE_S
from voucher_grpc.client import CallFailed, Client
from voucher_grpc.v1.voucher_service_pb2 import (
    ListPassesRequest,
)


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
    end_s = time.monotonic() + PATIENCE_S
    while (heard := await what()) != wanted:
        assert time.monotonic() < end_s, heard
        await asyncio.sleep(0.1)


@asynccontextmanager
async def trusting(url: str, source: str | Path, **changes: Any) -> AsyncIterator[Service]:
    """A server that takes the tokens of a key set."""
    async with serving(url, token_keys=str(source), token_issuer=ISSUER, **changes) as service:
        yield service


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
    async with Client(
        f"localhost:{port}", credentials=credentials, timeout_s=PATIENCE_S, **more
    ) as client:
        return await passes_of(client, user_id)
