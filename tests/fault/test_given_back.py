"""Connections of the pool that cannot be given back in peace: nobody hears of it, and no error
is logged that says nothing to anybody."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from tests.integration.operating import PATIENCE_S
from tests.integration.shop import fetch
from tests.proxy import Proxy, proxied
from voucher_grpc.store.database import Database
from voucher_grpc.store.driver import Connection, DatabaseOptions

CONNECT_S = 2.0
ASLEEP = """
    SELECT 1 FROM pg_stat_activity
    WHERE datname = current_database() AND state = 'active' AND query LIKE 'SELECT pg_sleep%'"""


@asynccontextmanager
async def behind_a_proxy(url: str) -> AsyncIterator[tuple[Database, Proxy]]:
    """A pool of one connection."""
    async with proxied(url) as proxy:
        options = DatabaseOptions(proxy.url, 1, CONNECT_S, 60.0, 100)
        async with Database.open(options) as database:
            yield database, proxy


async def given_up_twice(
    url: str, proxy: Proxy, using: AbstractAsyncContextManager[Connection]
) -> asyncio.Task[None]:
    """A statement is cancelled in silence, and then the wait until Postgres has done so."""

    async def sleep() -> None:
        async with using as connection:
            await connection.fetch("SELECT pg_sleep(30)")

    sleeping = asyncio.create_task(sleep())
    async with asyncio.timeout(PATIENCE_S):
        while not await fetch(url, ASLEEP):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
    proxy.freeze()
    for _ in range(2):
        sleeping.cancel()
        await asyncio.sleep(0.1)
    return sleeping


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What has been logged as an error; the loop does so once it finds that nobody has asked."""
    gc.collect()
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]


async def test_a_connection_that_cannot_be_reset_is_replaced(
    fresh_database: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever used it has gone meanwhile."""
    async with behind_a_proxy(fresh_database) as (database, proxy):
        given_up = await given_up_twice(fresh_database, proxy, database.acquire())
        assert given_up.cancelled()
        await asyncio.sleep(2 * CONNECT_S)
        proxy.restore()
        async with database.acquire() as connection:
            assert 1 == await connection.fetchval("SELECT 1")
        assert [] == errors(caplog)


async def test_a_connection_whose_transaction_was_not_ended_is_replaced(
    fresh_database: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Dropping it is the rollback."""
    async with behind_a_proxy(fresh_database) as (database, proxy):
        given_up = await given_up_twice(fresh_database, proxy, database.transaction())
        proxy.restore()
        await asyncio.wait({given_up})
        assert given_up.cancelled()
        async with database.transaction() as connection:
            assert 1 == await connection.fetchval("SELECT 1")
        assert [] == errors(caplog)
