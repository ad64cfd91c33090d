"""What must always hold, checked on the tables as they are (sql/verify.sql).

All checks see one instant and take no lock that a purchase waits for. What is read
is what is there, not what the service would do: the rules are written down a second
time, in SQL, except for the name of a pass, which is a digest, and for what SQL does not
know: where a validity ends, and to what unit a refund is rounded.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from voucher_grpc.domain.passes.purchase import pass_id_for
from voucher_grpc.errors import StoreUnavailable
from voucher_grpc.store import queries
from voucher_grpc.store.driver import Connection, DatabaseOptions, connect, translated

_SQL = queries.load("verify")
_DIGESTS = "pass_ids"
CHECKS = tuple(_SQL)
MAX_SHOWN = 20
_PAGE_ROWS = 5_000


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found: rows checked, breaches, the keys of at most 20 of these."""

    check: str
    rows: int
    breaches: int
    first: tuple[str, ...]


async def verify(options: DatabaseOptions, progress: Callable[[str], None]) -> list[Finding]:
    """Run all checks; `progress` is called with the name of each before it runs.

    One REPEATABLE READ READ ONLY transaction on a connection of its own, which may
    be one to a standby. Raises StoreUnavailable, also for a database without the
    migrations.
    """
    findings = []
    async with _reading(options) as connection:
        for check in CHECKS:
            progress(check)
            run = _check_digests(connection) if check == _DIGESTS else _check(connection, check)
            findings.append(await run)
    return findings


@asynccontextmanager
async def _reading(options: DatabaseOptions) -> AsyncIterator[Connection]:
    with translated():
        try:
            connection = await connect(options)
        except (asyncpg.PostgresError, ValueError) as error:
            # The message may quote the URL, and with it a part of the password.
            raise StoreUnavailable(f"cannot connect: {type(error).__name__}") from None
        try:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                yield connection
        except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError) as error:
            raise StoreUnavailable("the database lacks migrations; run `migrate`") from error
        finally:
            await connection.close()


async def _check(connection: Connection, check: str) -> Finding:
    row = await connection.fetchrow(_SQL[check], MAX_SHOWN)
    if row is None:
        raise LookupError("the statement returned no row")
    return Finding(check, row["rows"], row["breaches"], tuple(row["first"]))


async def _check_digests(connection: Connection) -> Finding:
    """Page by page, so that memory stays flat."""
    rows = breaches = 0
    first: list[str] = []
    async for row in connection.cursor(_SQL[_DIGESTS], prefetch=_PAGE_ROWS):
        rows += 1
        if _is_digest(row["user_id"], row["request_id"], row["pass_id"]):
            continue
        breaches += 1
        if len(first) < MAX_SHOWN:
            first.append(f"{row['user_id']}/{row['pass_id']}")
    return Finding(_DIGESTS, rows, breaches, tuple(first))


def _is_digest(user_id: str, request_id: UUID, pass_id: UUID) -> bool:
    # A user_id that is not ASCII never came through the service.
    return user_id.isascii() and pass_id_for(user_id, request_id) == pass_id
