"""The driver: how connections are made and transactions end, and the one place where its errors
are translated."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import asyncpg
import structlog

from voucher_grpc.errors import Refusal, StoreUnavailable
from voucher_grpc.store.connecting import connect_to_any
from voucher_grpc.store.timed import TimedConnection

log = structlog.get_logger(__name__)

MIN_SERVER_VERSION = 160_000
T = TypeVar("T")

if TYPE_CHECKING:  # generic in the stubs only
    Connection = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection

# Class 08 (connection), 53 (resources), 57 (operator intervention), 58 (system)
# and a database that may only be read (25006) pass; retrying later may help. So do
# what a connection can meet that worked before: 28 (the password was changed) and
# 3D (the database is being restored).
UNAVAILABLE_CLASSES = ("08", "28", "3D", "53", "57", "58")
_READ_ONLY = "25006"
# A transaction that Postgres took from a server that stood still.
_TAKEN = "25P03"
# Serialization failures and deadlocks.
_ROLLED_BACK = ("40001", "40P01")


class CommitUnclear(StoreUnavailable):
    """The connection broke at a COMMIT: what was written may be there or not."""


class RolledBack(StoreUnavailable):
    """Postgres has ended a transaction so that others can go on: nothing of it was written."""


class UnsafeDatabase(Exception):
    """The server at the other end would lose or cannot keep what it acknowledges."""


@contextmanager
def translated() -> Iterator[None]:
    """Turn the driver's errors into `StoreUnavailable`, logging what the caller must not see.

    Errors that are the service's own fault (a wrong statement, a broken
    constraint) pass: they are bugs and end up as INTERNAL.
    """
    try:
        yield
    except Refusal:
        raise
    except asyncpg.PostgresError as error:
        code = error.sqlstate or ""
        if code in _ROLLED_BACK:
            log.warning("store_error", sqlstate=code, error=str(error))
            raise RolledBack from error
        if code[:2] in UNAVAILABLE_CLASSES or code in (_READ_ONLY, _TAKEN):
            log.warning("store_error", sqlstate=code, error=str(error))
            raise StoreUnavailable from error
        raise
    # The driver's own confusion after a connection broke is InternalClientError.
    except (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        log.warning("store_error", error=f"{type(error).__name__}: {error}")
        raise StoreUnavailable from error


@dataclass(frozen=True, slots=True)
class DatabaseOptions:
    """How to connect; times in seconds. Behind PgBouncer before 1.21 the cache must be 0."""

    url: str
    pool_size: int
    connect_timeout_s: float
    statement_timeout_s: float
    statement_cache_size: int
    db_probe_timeout_s: float = 2.0

    @property
    def local_timeouts(self) -> str:
        """The timeouts at which Postgres ends what is not waited for any more, in this transaction.

        The driver cancels a statement at its timeout; but a server that was killed, cut
        off or frozen cancels nothing, and its locks would be waited for by all others.
        LOCAL, as all settings are. A COMMIT is not covered: Postgres counts to its beginning.
        """
        ms = round(self.statement_timeout_s * 1000)
        idle_ms = max(ms, _MIN_IDLE_MS)
        return (
            f"SET LOCAL statement_timeout = {ms};"
            f"SET LOCAL idle_in_transaction_session_timeout = {idle_ms};"
        )


# A server that is busy with other calls may take a moment between two statements.
_MIN_IDLE_MS = 5_000


class KeptConnection(TimedConnection):
    """A connection that knows the statement that sets its timeouts."""

    local_timeouts = ""


async def prepare(connection: Connection) -> None:
    await connection.set_type_codec(
        "jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog"
    )


# Each batch looks up few rows by key. A plan made while a table was small would read all
# of it, and a prepared statement keeps its plan until the table is analysed. LOCAL, since
# behind a pooler a session's settings are somebody else's; jit would compile for nothing.
# Generic, because Postgres takes a plan for the very arrays for cheaper and so plans anew
# each time: a third of the time of a purchase.
BY_INDEX = (
    "".join(
        f"SET LOCAL {setting} = off;"
        for setting in ("enable_seqscan", "enable_hashjoin", "enable_mergejoin", "jit")
    )
    + "SET LOCAL plan_cache_mode = force_generic_plan;"
)


@asynccontextmanager
async def by_index(connection: Connection, mode: str = "READ WRITE") -> AsyncIterator[None]:
    """A transaction whose statements find their rows by index; begun in one round trip.

    Only for a `DedicatedConnection`, which drops the connection when the block fails: that is the
    rollback.
    """
    timeouts = connection.local_timeouts if isinstance(connection, KeptConnection) else ""
    await connection.execute(f"BEGIN {mode};{BY_INDEX}{timeouts}")
    yield
    await commit(connection)


# How long an answer to a COMMIT is waited for. It is not a statement's timeout, at which
# the driver would cancel: a COMMIT is never cancelled.
COMMIT_PATIENCE_S = 10.0
_NEVER_S = 1e6


def on_its_own(work: Awaitable[T]) -> asyncio.Future[T]:
    """Whoever is cancelled meanwhile leaves it behind, and what it says is not missed."""
    running = asyncio.ensure_future(work)
    running.add_done_callback(lambda done: done.cancelled() or done.exception())
    return running


async def commit(connection: Connection) -> None:
    """COMMIT. Raises CommitUnclear if there is no telling whether it was done."""
    committing = on_its_own(connection.execute("COMMIT", timeout=_NEVER_S))
    done, _ = await asyncio.wait({committing}, timeout=COMMIT_PATIENCE_S)
    if not done:
        connection.terminate()
        raise CommitUnclear
    try:
        committing.result()
    except asyncpg.PostgresError as error:
        if (error.sqlstate or "")[:2] not in UNAVAILABLE_CLASSES:
            raise
        raise CommitUnclear from error
    except (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        raise CommitUnclear from error


def is_dropped(connection: Connection) -> bool:
    """Whether the connection was dropped under the work on it.

    An AttributeError is then the driver's: it was between the two steps of a statement.
    """
    try:
        return connection.is_closed()
    except asyncpg.InterfaceError:
        return True  # the pool has it back


async def close(connection: Connection) -> None:
    try:
        await asyncio.wait_for(connection.close(), 2)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        connection.terminate()


async def connect(options: DatabaseOptions) -> Connection:
    """A connection of its own."""
    connection: KeptConnection = await connect_to_any(
        options.url,
        timeout=options.connect_timeout_s,
        command_timeout=options.statement_timeout_s,
        statement_cache_size=options.statement_cache_size,
        connection_class=KeptConnection,
    )
    connection.local_timeouts = options.local_timeouts
    try:
        await prepare(connection)
    except BaseException:
        connection.terminate()
        raise
    return connection


def connect_message(error: Exception) -> str:
    """What an operator may read on the terminal; a URL with its password is not in it."""
    if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
        return "none of the database's hosts is the one that is wanted (target_session_attrs)"
    if isinstance(error, asyncpg.InvalidCatalogNameError):
        return "the database does not exist"
    if isinstance(error, asyncpg.InvalidAuthorizationSpecificationError):
        return "the database refused the user or the password"
    return "the database is not available"


async def refuse_unsafe(connection: Connection) -> None:
    """Raise UnsafeDatabase if a purchase could be lost on this server, or not be written."""
    version = int(await connection.fetchval("SHOW server_version_num"))
    if version < MIN_SERVER_VERSION:
        raise UnsafeDatabase(f"Postgres 16 or later is needed, this is {version // 10_000}")
    for setting in ("fsync", "synchronous_commit", "full_page_writes"):
        if await connection.fetchval(f"SHOW {setting}") == "off":
            raise UnsafeDatabase(f"{setting} is off: acknowledged purchases could be lost")
    if await connection.fetchval("SHOW transaction_read_only") == "on":
        raise UnsafeDatabase("the database is read-only: a standby, or set so")
    if not await connection.fetchval("SELECT has_database_privilege(current_database(), 'TEMP')"):
        raise UnsafeDatabase(
            "the role may not make temporary tables (GRANT TEMPORARY ON DATABASE): with one it is"
            " tried whether a full disk can be written to again"
        )
