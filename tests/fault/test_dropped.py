"""A connection that is dropped at any moment of the work on it: the database is away, no fault."""

import asyncio
import time

import pytest

from voucher_grpc.errors import StoreUnavailable
from voucher_grpc.store.database import Database
from voucher_grpc.store.driver import Connection, DatabaseOptions, by_index

# So that all of the work, which takes some milliseconds, is gone through.
_STEP_S = 40e-6


async def _work(connection: Connection, number: int) -> None:
    # Another text each time: the driver prepares it first, in a step of its own.
    await connection.fetch(f"SELECT $1::int + {number}", 1)


@pytest.mark.parametrize("cached", [0, 100], ids=["not prepared", "prepared"])
async def test_work_whose_connection_is_dropped_is_refused(
    fresh_database: str, cached: int
) -> None:
    """At each of many instants of it, on a lane and on the pool: STORE_UNAVAILABLE."""
    options = DatabaseOptions(fresh_database, 2, 5.0, 10.0, cached)
    async with Database.open(options) as database:
        dedicated = database.dedicated()

        async def on_the_lane(connection: Connection) -> None:
            async with by_index(connection):
                await _work(connection, step)

        async def on_the_pool() -> None:
            async with database.transaction() as connection:
                await _work(connection, step)

        refused = 0
        for step in range(200):
            for work in (dedicated.run(on_the_lane), on_the_pool()):
                await database.probe()
                working = asyncio.ensure_future(work)
                end_s = time.perf_counter() + step * _STEP_S
                while time.perf_counter() < end_s:  # noqa: ASYNC110 - too short for a timer
                    await asyncio.sleep(0)
                database._breaker.trip()
                outcome = (await asyncio.gather(working, return_exceptions=True))[0]
                assert outcome is None or isinstance(outcome, StoreUnavailable)
                refused += outcome is not None
        assert refused
        await database.probe()
        await dedicated.run(on_the_lane)
        await dedicated.close()
