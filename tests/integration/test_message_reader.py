"""Messages that do not come whole, over HTTP/2 by hand: nobody can leave them lying in a server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from tests.conftest import Service, serving
from tests.http2 import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    RST_STREAM,
    Connection,
    call_headers,
    frame,
)
from tests.integration.credentials import ISSUER, Issuer, write_key_set
from tests.integration.operating import metrics, until_metric
from tests.integration.requests import good_request
from voucher_grpc.edge.rpc import message_reader as message_reader

METHODS = ("RequestOffers", "PurchasePass", "GetPass")
HANDLED = "grpc_server_handled_total"
UNDER_WAY = "voucher_in_flight{kind=calls}"
WHOLE = good_request("RequestOffers").SerializeToString()


def begun(
    stream: int, size: int, *, method: str = "RequestOffers", part: bytes = b"", token: str = ""
) -> bytes:
    """A call whose message is said to be so long, and the part of it that comes."""
    says = [(b"authorization", f"Bearer {token}".encode())] if token else []
    headers = call_headers(f"/voucher_grpc.v1.VoucherService/{method}", *says)
    data = b"\0" + size.to_bytes(4, "big") + part
    return frame(HEADERS, END_HEADERS, stream, headers) + frame(DATA, 0, stream, data)


@asynccontextmanager
async def connected(service: Service, count: int) -> AsyncIterator[list[Connection]]:
    """Connections by hand."""
    async with AsyncExitStack() as stack:
        opened = [await Connection.open(service.server.port) for _ in range(count)]
        for connection in opened:
            stack.push_async_callback(connection.close)
        yield opened


def refused(reason: str, method: str = "RequestOffers") -> str:
    """The metric of what a method was refused for a reason."""
    return f"voucher_refusals_total{{grpc_method={method},reason={reason}}}"


async def test_strangers_are_refused_before_their_message_has_come(
    fresh_database: str, tmp_path: Path
) -> None:
    """Also those that never send it: a megabyte that is announced is not waited for."""
    keys = write_key_set(tmp_path / "jwks.json", Issuer())
    async with (
        serving(
            fresh_database, token_keys=str(keys), token_issuer=ISSUER, max_connection_streams=1_000
        ) as service,
        connected(service, 4) as connections,
    ):
        for number, connection in enumerate(connections):
            for method_number, method in enumerate(METHODS):
                first = 1 + 200 * method_number
                for stream in range(first, first + 200, 2):
                    part = b"\x0a" * 500 if number % 2 else b""
                    await connection.send(begun(stream, 1_000_000, method=method, part=part))
        for method in METHODS:
            await until_metric(service, refused("CREDENTIALS_MISSING", method), 400)
        await until_metric(service, UNDER_WAY, 0)


async def test_a_message_that_does_not_come_whole_is_waited_for_only_so_long(
    fresh_service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then its call is over, and counted."""
    monkeypatch.setattr(message_reader, "_SOON_S", 0.05)
    monkeypatch.setattr(message_reader, "_LONGEST_S", 0.2)
    async with connected(fresh_service, 1) as [connection]:
        for stream in range(1, 21, 2):
            await connection.send(begun(stream, 1_000_000))
        await until_metric(fresh_service, refused("DEADLINE_EXCEEDED"), 10)
        await until_metric(fresh_service, UNDER_WAY, 0)


async def test_a_message_that_comes_slowly_is_taken_once_it_is_whole(
    fresh_service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes longer than most, and less than the bound."""
    monkeypatch.setattr(message_reader, "_SOON_S", 0.05)
    async with connected(fresh_service, 1) as [connection]:
        await connection.send(begun(1, len(WHOLE), part=WHOLE[:3]))
        await asyncio.sleep(0.3)
        assert 1 == (await metrics(fresh_service))[UNDER_WAY]
        await connection.send(frame(DATA, END_STREAM, 1, WHOLE[3:]))
        await until_metric(fresh_service, UNDER_WAY, 0)
    found = await metrics(fresh_service)
    ended = {name: times for name, times in found.items() if times and HANDLED in name}
    assert [1] == list(ended.values())
    assert "grpc_code=OK" in next(iter(ended))


async def test_few_messages_of_a_caller_may_come_slowly_at_once(
    fresh_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next is told to come again, one that comes at once is taken meanwhile, and a place
    whose caller has gone is free."""
    monkeypatch.setattr(message_reader, "_SOON_S", 0.05)
    overloaded, malformed = refused("OVERLOADED"), refused("MALFORMED_MESSAGE")
    async with (
        serving(fresh_database, max_connection_streams=1_000) as service,
        connected(service, 1) as [connection],
    ):
        for stream in range(1, 201, 2):
            await connection.send(begun(stream, 1_000_000))
        await until_metric(service, UNDER_WAY, 16)
        await asyncio.sleep(0.2)
        found = await metrics(service)
        assert (16, 84) == (found[UNDER_WAY], found[overloaded])
        assert 84 == found["voucher_shed_total{where=messages,why=full}"]
        await service.client.request_offers(user_id="bob", currency_code="NOK")

        for stream in range(1, 201, 2):
            await connection.send(frame(RST_STREAM, 0, stream, (8).to_bytes(4, "big")))
        await until_metric(service, UNDER_WAY, 0)
        for stream in range(201, 201 + 2 * 16, 2):
            await connection.send(begun(stream, 1_000_000))
        await until_metric(service, UNDER_WAY, 16)
        await asyncio.sleep(0.2)
        found = await metrics(service)
        assert (16, 84, 0) == (found[UNDER_WAY], found[overloaded], found.get(malformed, 0))


async def test_few_messages_of_all_callers_may_come_slowly_at_once(
    fresh_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one caller cannot take the places of the others."""
    monkeypatch.setattr(message_reader, "_SOON_S", 0.05)
    issuer = Issuer()
    keys = write_key_set(tmp_path / "jwks.json", issuer)
    async with (
        serving(
            fresh_database, token_keys=str(keys), token_issuer=ISSUER, max_connection_streams=1_000
        ) as service,
        connected(service, 1) as [connection],
    ):
        first = 1
        for number, under_way in enumerate((16, 32, 48, 64, 64)):
            token = issuer.token(f"user-{number}", "user")
            for stream in range(first, first + 40, 2):
                await connection.send(begun(stream, 1_000_000, token=token))
            first += 40
            await until_metric(service, refused("OVERLOADED"), 20 * (number + 1) - under_way)
            assert under_way == (await metrics(service))[UNDER_WAY]


async def test_a_call_without_a_message_is_malformed(fresh_service: Service) -> None:
    """One that ends before it has sent any."""
    headers = call_headers("/voucher_grpc.v1.VoucherService/RequestOffers")
    async with connected(fresh_service, 1) as [connection]:
        await connection.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, headers))
        await until_metric(fresh_service, refused("MALFORMED_MESSAGE"), 1)
