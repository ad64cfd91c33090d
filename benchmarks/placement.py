"""`python -m benchmarks.placement`: what the bucket in the keys and an outbox per bucket cost.

On a plain Postgres, whose own CPU is measured:

- rows with the keys (user_id, id) and (bucket, user_id, id): batches of 50 inserts, and batches of
  50 look-ups, pinned as a distributed Postgres needs it, in turns;
- events that get their position in their bucket's own counter, in the transaction that writes them,
  against events that get it afterwards: two writers at once, batches of 50 users.

Prints a table.
"""

import asyncio
import hashlib
import os
import random
import time
from collections.abc import Awaitable, Callable
from statistics import median
from typing import NamedTuple

import asyncpg
from rich.console import Console
from rich.table import Table

from benchmarks.processes import parent_pid, tree_cpu_s
from voucher_grpc.dev.postgres import throw_away_postgres

BUCKETS = 256
_USERS, _BATCH, _BATCHES, _ROUNDS = 20_000, 50, 200, 5
_TABLES = """
CREATE TABLE by_user (
    user_id text NOT NULL, id uuid NOT NULL, amount bigint NOT NULL, PRIMARY KEY (user_id, id)
);
CREATE TABLE by_bucket (
    bucket smallint NOT NULL, user_id text NOT NULL, id uuid NOT NULL, amount bigint NOT NULL,
    PRIMARY KEY (bucket, user_id, id)
);
CREATE TABLE counters (bucket smallint PRIMARY KEY, last bigint NOT NULL) WITH (fillfactor = 50);
CREATE TABLE told (bucket smallint, position bigint, user_id text NOT NULL);
"""
_INSERT = {
    "by_user": "INSERT INTO by_user SELECT u, gen_random_uuid(), 1 FROM unnest($1::text[]) u",
    "by_bucket": """INSERT INTO by_bucket SELECT b, u, gen_random_uuid(), 1
        FROM unnest($1::text[], $2::smallint[]) AS k (u, b)""",
}
_SELECT = {
    "by_user": """SELECT t.* FROM unnest($1::text[]) AS k (u) JOIN by_user t ON t.user_id = k.u
        WHERE t.user_id = ANY($1)""",
    "by_bucket": """SELECT t.* FROM unnest($1::text[], $2::smallint[]) AS k (u, b)
        JOIN by_bucket t ON t.bucket = k.b AND t.user_id = k.u
        WHERE t.bucket = ANY($2) AND t.user_id = ANY($1)""",
    "by_bucket, pinned by user": """SELECT t.* FROM unnest($1::text[], $2::smallint[]) AS k (u, b)
        JOIN by_bucket t ON t.bucket = k.b AND t.user_id = k.u WHERE t.user_id = ANY($1)""",
    "by_bucket, pinned by bucket": """SELECT t.* FROM unnest($1::text[], $2::smallint[]) AS k (u, b)
        JOIN by_bucket t ON t.bucket = k.b AND t.user_id = k.u WHERE t.bucket = ANY($2)""",
}
_COUNT = """WITH locked AS (
        SELECT bucket FROM counters WHERE bucket = ANY($1::smallint[]) ORDER BY bucket FOR UPDATE
    )
    UPDATE counters c SET last = last + 1 FROM locked WHERE c.bucket = locked.bucket"""


class Measured(NamedTuple):
    """Of one batch, ms."""

    wall_ms: float
    postgres_cpu_ms: float


def bucket_of(user_id: str) -> int:
    """A byte that any version of Postgres can compute too."""
    return hashlib.md5(user_id.encode(), usedforsecurity=False).digest()[0]


async def _measured(postmaster: int, work: Callable[[], Awaitable[None]]) -> Measured:
    cpu_s, began_s = tree_cpu_s(postmaster), time.perf_counter()
    for _ in range(_BATCHES):
        await work()
    wall_s = time.perf_counter() - began_s
    return Measured(wall_s * 1_000 / _BATCHES, (tree_cpu_s(postmaster) - cpu_s) * 1_000 / _BATCHES)


def _users(chance: random.Random) -> list[str]:
    return sorted(f"user-{n:07d}" for n in chance.sample(range(_USERS), _BATCH))


async def _keys(url: str, console: Console) -> None:
    connection, chance = await asyncpg.connect(url), random.Random(1)
    await connection.execute("SET enable_seqscan = off; SET enable_hashjoin = off")
    postmaster = parent_pid(connection.get_server_pid())
    found: dict[tuple[str, str], list[Measured]] = {}
    for _ in range(_ROUNDS):
        for what, statements in (("insert", _INSERT), ("look up", _SELECT)):
            for table, statement in statements.items():

                async def batch(table: str = table, statement: str = statement) -> None:
                    users = _users(chance)
                    buckets = [bucket_of(user) for user in users]
                    given = (users,) if "$2" not in statement else (users, buckets)
                    await connection.fetch(statement, *given)

                found.setdefault((what, table), []).append(await _measured(postmaster, batch))
    await connection.close()
    _show(console, "batches of 50", found)


async def _outbox(url: str, console: Console) -> None:
    """Two writers, as purchases and captures are."""
    pool = await asyncpg.create_pool(url, min_size=2, max_size=2)
    async with pool.acquire() as connection:
        await connection.executemany(
            "INSERT INTO counters VALUES ($1, 0)", [(n,) for n in range(BUCKETS)]
        )
        postmaster = parent_pid(connection.get_server_pid())
    found: dict[tuple[str, str], list[Measured]] = {}
    chance = random.Random(2)

    async def one(counted: bool) -> None:
        users = _users(chance)
        buckets = [bucket_of(user) for user in users]
        async with pool.acquire() as connection, connection.transaction():
            if counted:
                await connection.execute(_COUNT, buckets)
            await connection.execute(
                "INSERT INTO told SELECT b, NULL, u FROM unnest($1::text[], $2::smallint[])"
                " AS k (u, b)",
                users,
                buckets,
            )

    for _ in range(_ROUNDS):
        for name, counted in (("afterwards", False), ("in its transaction", True)):

            async def batch(counted: bool = counted) -> None:
                await asyncio.gather(one(counted), one(counted))

            found.setdefault(("two writers", name), []).append(await _measured(postmaster, batch))
    await pool.close()
    _show(console, "positions of events", found)


def _show(console: Console, title: str, found: dict[tuple[str, str], list[Measured]]) -> None:
    table = Table("", "", "wall, ms", "Postgres' CPU, ms", title=title)
    for (what, how), rounds in found.items():
        wall, cpu = (median(column) for column in zip(*rounds, strict=True))
        table.add_row(what, how, f"{wall:.2f}", f"{cpu:.2f}")
    console.print(table)


async def _main() -> None:
    console = Console(width=100 if os.environ.get("CI") else None)
    with throw_away_postgres() as started:
        url = str(getattr(started, "url", started))
        connection = await asyncpg.connect(url)
        await connection.execute(_TABLES)
        await connection.close()
        await _keys(url, console)
        await _outbox(url, console)


if __name__ == "__main__":
    asyncio.run(_main())
