"""Forward-only migrations.

Files migrations/NNNN_name.sql are applied in order, each in a transaction of
its own under a lock, so that several servers may start at once. A file that was
applied and has changed since is refused.
"""

import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files

from voucher_grpc.store.database import Connection

_FILE = re.compile(r"^(\d{4})_\w+\.sql$")
# Any number will do, as long as it stays the same.
_LOCK = 7_305_411_846


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


async def migrate(connection: Connection) -> list[str]:
    """Apply what is missing; returns the names of the files applied."""
    applied = []
    for migration in migrations():
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
            if await _apply(connection, migration):
                applied.append(migration.name)
    return applied


async def _apply(connection: Connection, migration: Migration) -> bool:
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
    await connection.execute(migration.sql)
    await connection.execute(
        "INSERT INTO schema_migrations (version, name, checksum) VALUES ($1, $2, $3)",
        migration.version,
        migration.name,
        migration.checksum,
    )
    return True


async def pending(connection: Connection) -> list[str]:
    """Names of the files that have not been applied."""
    exists = await connection.fetchval("SELECT to_regclass('schema_migrations') IS NOT NULL")
    rows = await connection.fetch("SELECT version FROM schema_migrations") if exists else []
    applied = {row["version"] for row in rows}
    return [m.name for m in migrations() if m.version not in applied]
