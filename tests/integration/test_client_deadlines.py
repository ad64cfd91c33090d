"""Which deadline a call of the client has, as a server sees it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest

from voucher_grpc.client import DEFAULT_TIMEOUT_S, Client
from voucher_grpc.v1.user_service_pb2 import GetUserRequest, GetUserResponse
from voucher_grpc.v1.user_service_pb2_grpc import (
    UserServiceServicer,
    add_UserServiceServicer_to_server,
)


class _Seen(UserServiceServicer):
    """Notes how much time calls have left when they arrive, None without a deadline."""

    def __init__(self) -> None:
        self.remaining_s: list[float | None] = []

    async def GetUser(  # noqa: N802 - the proto's name
        self, request: GetUserRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> GetUserResponse:
        """Any user."""
        self.remaining_s.append(context.time_remaining())
        return GetUserResponse()


@asynccontextmanager
async def _seeing() -> AsyncIterator[tuple[_Seen, str]]:
    seen = _Seen()  # type: ignore[abstract] # the other methods are not called
    server = grpc.aio.server()
    add_UserServiceServicer_to_server(seen, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield seen, f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@pytest.mark.parametrize(
    ("clients_s", "calls_s", "from_s", "to_s"),
    [
        (5_000.0, None, 4_000.0, 6_000.0),
        (5_000.0, 50_000.0, 40_000.0, 60_000.0),
        (50_000.0, 5_000.0, 4_000.0, 6_000.0),
    ],
)
async def test_a_call_has_its_own_deadline_or_else_the_clients(
    clients_s: float, calls_s: float | None, from_s: float, to_s: float
) -> None:
    """A call without any would wait for ever for a server that has gone."""
    async with _seeing() as (seen, target), Client(target, timeout_s=clients_s) as client:
        await client.call(client.user.GetUser, GetUserRequest(user_id="alice"), calls_s)
    (remaining_s,) = seen.remaining_s
    assert remaining_s is not None
    # gRPC rounds deadlines up.
    assert from_s < remaining_s <= to_s


async def test_a_client_has_a_deadline_without_being_asked() -> None:
    """The published one."""
    async with _seeing() as (seen, target), Client(target) as client:
        await client.call(client.user.GetUser, GetUserRequest(user_id="alice"))
    (remaining_s,) = seen.remaining_s
    assert remaining_s is not None
    assert 0 < remaining_s < 2 * DEFAULT_TIMEOUT_S
