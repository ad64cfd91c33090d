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
from tests.integration.operating import metrics
from tests.integration.requests import good_request
from voucher_grpc import arriving

METHODS = ("RequestOffers", "PurchasePass", "GetPass")
HANDLED = "grpc_server_handled_total"
WHOLE = good_request("RequestOffers").SerializeToString()


def begun(stream: int, size: int, *, method: str = "RequestOffers", part: bytes = b"") -> bytes:
    """A call whose message is said to be so long, and the part of it that comes."""
    headers = call_headers(f"/voucher_grpc.v1.VoucherService/{method}")
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


async def refusals(service: Service, reason: str, method: str = "RequestOffers") -> float:
    """How often a method was refused for a reason."""
    found = await metrics(service)
    return found.get(f"voucher_refusals_total{{grpc_method={method},reason={reason}}}", 0)


async def until_refused(service: Service, reason: str, times: int, method: str) -> None:
    """Wait until a method was refused so often."""
    async with asyncio.timeout(20):
        while await refusals(service, reason, method) < times:  # noqa: ASYNC110 - counters tell nobody
            await asyncio.sleep(0.02)


async def under_way(service: Service) -> float:
    """The single calls under way."""
    return (await metrics(service))["voucher_under_way{kind=calls}"]


async def until_none_is_under_way(service: Service) -> None:
    """Wait until all calls have ended."""
    async with asyncio.timeout(20):
        while await under_way(service):  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.02)


async def test_strangers_are_refused_before_their_message_has_come(
    fresh_database: str, tmp_path: Path
) -> None:
    """Also those that never send it: a megabyte that is announced is not waited for."""
    keys = write_key_set(tmp_path / "jwks.json", Issuer())
    settings = {"token_keys": str(keys), "token_issuer": ISSUER}
    async with (
        serving(fresh_database, **settings) as service,
        connected(service, 4) as connections,
    ):
        for number, connection in enumerate(connections):
            for method_number, method in enumerate(METHODS):
                first = 1 + 200 * method_number
                for stream in range(first, first + 200, 2):
                    part = b"\x0a" * 500 if number % 2 else b""
                    await connection.send(begun(stream, 1_000_000, method=method, part=part))
        for method in METHODS:
            await until_refused(service, "CREDENTIALS_MISSING", 400, method)
        assert 0 == await under_way(service)


async def test_a_message_that_does_not_come_whole_is_waited_for_only_so_long(
    fresh_service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then its call is over, and counted."""
    monkeypatch.setattr(arriving, "_SOON_S", 0.05)
    monkeypatch.setattr(arriving, "_LONGEST_S", 0.2)
    async with connected(fresh_service, 1) as [connection]:
        for stream in range(1, 21, 2):
            await connection.send(begun(stream, 1_000_000))
        await until_refused(fresh_service, "DEADLINE_EXCEEDED", 10, "RequestOffers")
        assert 0 == await under_way(fresh_service)


async def test_a_message_that_comes_slowly_is_taken_once_it_is_whole(
    fresh_service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes longer than most, and less than the bound."""
    monkeypatch.setattr(arriving, "_SOON_S", 0.05)
    async with connected(fresh_service, 1) as [connection]:
        await connection.send(begun(1, len(WHOLE), part=WHOLE[:3]))
        await asyncio.sleep(0.3)
        assert 1 == await under_way(fresh_service)
        await connection.send(frame(DATA, END_STREAM, 1, WHOLE[3:]))
        await until_none_is_under_way(fresh_service)
    found = await metrics(fresh_service)
    ended = {name: times for name, times in found.items() if times and HANDLED in name}
    assert [1] == list(ended.values())
    assert "grpc_code=OK" in next(iter(ended))


async def test_few_messages_may_come_slowly_at_once(
    fresh_service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next is told to come again, one that comes at once is taken meanwhile, and a place
    whose caller has gone is free."""
    monkeypatch.setattr(arriving, "_SOON_S", 0.05)
    async with connected(fresh_service, 1) as [connection]:
        for stream in range(1, 201, 2):
            await connection.send(begun(stream, 1_000_000))
        await until_refused(fresh_service, "OVERLOADED", 36, "RequestOffers")
        await asyncio.sleep(0.2)
        assert 36 == await refusals(fresh_service, "OVERLOADED")
        assert 64 == await under_way(fresh_service)
        assert 36 == (await metrics(fresh_service))["voucher_shed_total{where=messages,why=full}"]
        await fresh_service.client.request_offers(user_id="bob", currency_code="NOK")

        for stream in range(1, 201, 2):
            await connection.send(frame(RST_STREAM, 0, stream, (8).to_bytes(4, "big")))
        await until_none_is_under_way(fresh_service)
        assert 0 == await refusals(fresh_service, "MALFORMED_MESSAGE")
        for stream in range(201, 201 + 2 * 64, 2):
            await connection.send(begun(stream, 1_000_000))
        await asyncio.sleep(0.3)
        assert (36, 64) == (
            await refusals(fresh_service, "OVERLOADED"),
            await under_way(fresh_service),
        )


async def test_a_call_without_a_message_is_malformed(fresh_service: Service) -> None:
    """One that ends before it has sent any."""
    headers = call_headers("/voucher_grpc.v1.VoucherService/RequestOffers")
    async with connected(fresh_service, 1) as [connection]:
        await connection.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, headers))
        await until_refused(fresh_service, "MALFORMED_MESSAGE", 1, "RequestOffers")
