"""Forward-only migrations.

Files migrations/NNNN_name.sql are applied in order, each in a transaction of
its own, under a lock, so that several servers may start at once. A file whose first
line says so is applied outside of a transaction, a statement at a time, as an index
must be that is built while purchases go on; should it be interrupted it is applied
again. A file that was applied and has changed since is refused.
"""

import asyncio
import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files

from voucher_grpc.store.connecting import connect_to_any
from voucher_grpc.store.driver import Connection

_FILE = re.compile(r"^(\d{4})_\w+\.sql$")
# Any number will do, as long as it stays the same.
_LOCK = 7_305_411_847
_PATIENCE_S = 0.2
_CONNECT_TIMEOUT_S = 10.0
_OUTSIDE = "-- outside of a transaction\n"


class MigrationError(Exception):
    """The database has migrations that these files do not have, or others."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file."""

    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode("utf-8")).hexdigest()


def migrations() -> list[Migration]:
    """The files, in order."""
    found = [
        Migration(int(match[1]), entry.name, entry.read_text(encoding="utf-8"))
        for entry in (files("voucher_grpc.store") / "migrations").iterdir()
        if (match := _FILE.match(entry.name))
    ]
    return sorted(found, key=lambda migration: migration.version)


async def migrate(url: str) -> list[str]:
    """Apply what is missing; returns the names of the files applied."""
    guard: Connection = await connect_to_any(url, timeout=_CONNECT_TIMEOUT_S)
    try:
        worker: Connection = await connect_to_any(url, timeout=_CONNECT_TIMEOUT_S)
        try:
            async with guard.transaction():
                await _lock(guard)
                return [m.name for m in migrations() if await _apply(worker, m)]
        finally:
            await worker.close()
    finally:
        await guard.close()


async def _lock(guard: Connection) -> None:
    """One migration at a time.

    Building an index waits for all transactions that have a snapshot. So the lock is asked
    for again and again instead of waited for, and a simple statement afterwards ends the portal of
    the prepared one, which has a snapshot as long as it is there.
    """
    while True:
        locked = await guard.fetchval("SELECT pg_try_advisory_xact_lock($1)", _LOCK)
        await guard.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        if locked:
            return
        await asyncio.sleep(_PATIENCE_S)


async def _apply(connection: Connection, migration: Migration) -> bool:
    """Apply a file unless it was; whether it was now."""
    await connection.execute(
        """CREATE TABLE IF NOT EXISTS schema_migrations (
            version integer PRIMARY KEY,
            name text NOT NULL,
            checksum text NOT NULL,
            apply_time timestamptz NOT NULL DEFAULT now()
        )"""
    )
    known = await connection.fetchval(
        "SELECT checksum FROM schema_migrations WHERE version = $1", migration.version
    )
    if known is not None:
        if known != migration.checksum:
            raise MigrationError(f"{migration.name} was applied with other content")
        return False
    if migration.sql.startswith(_OUTSIDE):
        for statement in re.split(r";\s*$", migration.sql, flags=re.MULTILINE):
            if statement.strip():
                await connection.execute(statement)
        await _note(connection, migration)
    else:
        async with connection.transaction():
            await connection.execute(migration.sql)
            await _note(connection, migration)
    return True


async def _note(connection: Connection, migration: Migration) -> None:
    await connection.execute(
        "INSERT INTO schema_migrations (version, name, checksum) VALUES ($1, $2, $3)",
        migration.version,
        migration.name,
        migration.checksum,
    )


async def pending(connection: Connection) -> list[str]:
    """Names of the files that have not been applied."""
    exists = await connection.fetchval("SELECT to_regclass('schema_migrations') IS NOT NULL")
    rows = await connection.fetch("SELECT version FROM schema_migrations") if exists else []
    applied = {row["version"] for row in rows}
    return [m.name for m in migrations() if m.version not in applied]
