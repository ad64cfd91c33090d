"""Connections to Postgres, and the one place where the driver's errors are translated."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self, TypeVar

import asyncpg
import structlog

from voucher_grpc.errors import Reason, Refusal, StoreUnavailable
from voucher_grpc.store.circuit_breaker import CircuitBreaker
from voucher_grpc.store.connecting import connect_to_any
from voucher_grpc.store.probe import DatabaseProbe
from voucher_grpc.store.timed import TimedConnection
from voucher_grpc.telemetry.work import connecting

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
_UNAVAILABLE_CLASSES = ("08", "28", "3D", "53", "57", "58")
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
        if code[:2] in _UNAVAILABLE_CLASSES or code in (_READ_ONLY, _TAKEN):
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
        """Tells Postgres to end by itself what nobody waits for, in this transaction.

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


class _KeptConnection(TimedConnection):
    """A connection that knows how to tell Postgres of its timeouts."""

    local_timeouts = ""


async def _prepare(connection: Connection) -> None:
    await connection.set_type_codec(
        "jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog"
    )


# Each batch looks up few rows by key. A plan made while a table was small would read all
# of it, and a prepared statement keeps its plan until the table is analysed. LOCAL, since
# behind a pooler a session's settings are somebody else's; jit would compile for nothing.
# Generic, because Postgres takes a plan for the very arrays for cheaper and so plans anew
# each time: a third of the time of a purchase.
_BY_INDEX = (
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
    timeouts = connection.local_timeouts if isinstance(connection, _KeptConnection) else ""
    await connection.execute(f"BEGIN {mode};{_BY_INDEX}{timeouts}")
    yield
    await _commit(connection)


# How long an answer to a COMMIT is waited for. It is not a statement's timeout, at which
# the driver would cancel: a COMMIT is never cancelled.
COMMIT_PATIENCE_S = 10.0
_NEVER_S = 1e6


def _on_its_own(work: Awaitable[T]) -> asyncio.Future[T]:
    """Whoever is cancelled meanwhile leaves it behind, and what it says is not missed."""
    running = asyncio.ensure_future(work)
    running.add_done_callback(lambda done: done.cancelled() or done.exception())
    return running


async def _commit(connection: Connection) -> None:
    """COMMIT. Raises CommitUnclear if there is no telling whether it was done."""
    committing = _on_its_own(connection.execute("COMMIT", timeout=_NEVER_S))
    done, _ = await asyncio.wait({committing}, timeout=COMMIT_PATIENCE_S)
    if not done:
        connection.terminate()
        raise CommitUnclear
    try:
        committing.result()
    except asyncpg.PostgresError as error:
        if (error.sqlstate or "")[:2] not in _UNAVAILABLE_CLASSES:
            raise
        raise CommitUnclear from error
    except (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        raise CommitUnclear from error


class DedicatedConnection:
    """A reserved connection for one kind of batch.

    asyncpg's pool resets a connection with a query each time it is given back;
    a connection that is never given back keeps its prepared statements and
    saves that round trip. It is made when first needed and again after it broke.
    """

    def __init__(self, options: DatabaseOptions, breaker: CircuitBreaker, *, writes: bool) -> None:
        self._options = options
        self._breaker = breaker
        self._writes = writes
        self._connection: Connection | None = None

    async def connection(self) -> Connection:
        """The connection, alive as far as known."""
        if self._connection is None or self._connection.is_closed():
            async with self._breaker.waiting():
                self._connection = await connect(self._options)
            self._breaker.keep(self._connection, writes=self._writes)
        return self._connection

    async def run(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Run `work` on the connection; drop the connection if it fails in it.

        Refused at once while the database is away; ended when that is found.
        """
        with translated():
            self._breaker.refuse(writes=self._writes)
            if self._writes:
                self._breaker.began(self)
            try:
                with connecting():
                    connection = await self.connection()
                try:
                    return await work(connection)
                except BaseException as error:
                    dropped = _is_dropped(connection)
                    # Its state is not known any more: a half-read answer, an open transaction.
                    self._connection = None
                    connection.terminate()
                    _tell(self._breaker, error)
                    if dropped and isinstance(error, AttributeError):
                        raise StoreUnavailable from error  # see _is_dropped
                    raise
            finally:
                self._breaker.ended(self)

    async def close(self) -> None:
        """Close the connection, politely if it lets us."""
        if self._connection is not None:
            await _close(self._connection)


def _tell(breaker: CircuitBreaker, error: BaseException) -> None:
    """What an error says of the database beyond the call that met it."""
    if isinstance(error, asyncpg.ReadOnlySQLTransactionError):
        breaker.drop()  # what was the primary is not any more
    elif isinstance(error, asyncpg.DiskFullError | CommitUnclear):
        breaker.doubt_writes()


def _is_dropped(connection: Connection) -> bool:
    """Whether the connection was dropped under the work on it.

    An AttributeError is then the driver's: it was between the two steps of a statement.
    """
    try:
        return connection.is_closed()
    except asyncpg.InterfaceError:
        return True  # the pool has it back


async def _close(connection: Connection) -> None:
    try:
        await asyncio.wait_for(connection.close(), 2)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        connection.terminate()


async def connect(options: DatabaseOptions) -> Connection:
    """A connection of its own."""
    connection: _KeptConnection = await connect_to_any(
        options.url,
        timeout=options.connect_timeout_s,
        command_timeout=options.statement_timeout_s,
        statement_cache_size=options.statement_cache_size,
        connection_class=_KeptConnection,
    )
    connection.local_timeouts = options.local_timeouts
    try:
        await _prepare(connection)
    except BaseException:
        connection.terminate()
        raise
    return connection


class Database:
    """The pool for what is not hot, lanes for what is, and a gate before both.

    The gate moves only with `look`: who never looks is never refused by it.
    """

    def __init__(self, options: DatabaseOptions, first: Connection) -> None:
        self.options = options
        self._breaker = CircuitBreaker()
        self._look = DatabaseProbe(
            self._breaker, lambda: connect(options), first, timeout_s=options.db_probe_timeout_s
        )
        self._in_use = 0
        # Without a least size: what the pool does by itself while the database is away is
        # to try and to log.
        connect_for_pool: Any = self._connect_for_pool
        self._pool: asyncpg.Pool[asyncpg.Record] = asyncpg.create_pool(
            options.url,
            min_size=0,
            max_size=options.pool_size,
            timeout=options.connect_timeout_s,
            command_timeout=options.statement_timeout_s,
            statement_cache_size=options.statement_cache_size,
            init=_prepare,
            connect=connect_for_pool,
            connection_class=TimedConnection,
        )

    @classmethod
    @asynccontextmanager
    async def open(cls, options: DatabaseOptions) -> AsyncIterator[Self]:
        """Connect; raises StoreUnavailable if that fails and UnsafeDatabase for a bad server."""
        with translated():
            try:
                first = await connect(options)
            except ValueError as error:
                # The message may quote the URL, and with it a part of the password.
                log.warning("store_connect_failed", error=type(error).__name__)
                raise StoreUnavailable("the database URL cannot be read") from None
            except (*_SAYS_WHY, ssl.SSLError) as error:
                log.warning("store_connect_failed", error=f"{type(error).__name__}: {error}")
                raise StoreUnavailable(connect_message(error)) from error
            try:
                await refuse_unsafe(first)
            except BaseException:
                first.terminate()
                raise
        database = cls(options, first)
        pool = await database._pool
        try:
            yield database
        finally:
            database._look.close()
            try:
                await asyncio.wait_for(pool.close(), 5)
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                pool.terminate()

    async def _connect_for_pool(self, url: str, **settings: Any) -> Connection:
        async with self._breaker.waiting():
            connection: Connection = await connect_to_any(url, **settings)
        self._breaker.keep(connection)
        return connection

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Connection]:
        """A connection of the pool, translated; waits at most the connect timeout for one.

        Raises OVERLOADED if all are in use for so long, StoreUnavailable at once while the
        database is away.
        """
        with translated():
            with connecting():
                connection = await self._acquired()
            self._in_use += 1
            try:
                yield connection
            except BaseException as error:
                _tell(self._breaker, error)
                if isinstance(error, AttributeError) and _is_dropped(connection):
                    raise StoreUnavailable from error  # see _is_dropped
                raise
            finally:
                self._in_use -= 1
                await self._give_back(connection)

    async def _give_back(self, connection: Any) -> None:
        """Waits until the connection is reset, or replaced where that fails."""
        await asyncio.shield(_on_its_own(self._pool.release(connection)))

    async def _acquired(self) -> Any:
        try:
            async with self._breaker.waiting():
                return await self._pool.acquire(timeout=self.options.connect_timeout_s)
        except TimeoutError:
            if self._in_use < self.options.pool_size:
                raise
            raise Refusal(
                Reason.OVERLOADED,
                f"all {self.options.pool_size} connections of the pool are in use",
                retry_after_s=1.0,
            ) from None

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A transaction on a connection of the pool: committed at the end, else rolled back."""
        async with self.acquire() as connection:
            try:
                async with connection.transaction():
                    await connection.execute(self.options.local_timeouts)
                    yield connection
            except BaseException:
                # Who is cancelled again while the driver waits to say ROLLBACK has not said it.
                if not _is_dropped(connection) and connection.is_in_transaction():
                    connection.terminate()
                raise

    async def look(self) -> datetime:
        """What time it is for Postgres; lets calls through from now on, or refuses them.

        Raises StoreUnavailable if it does not answer within the look's timeout, is
        read-only, or cannot be written to.
        """
        with translated():
            return await self._look.look()

    def dedicated(self, *, writes: bool = True) -> DedicatedConnection:
        """A reserved connection beside the pool."""
        return DedicatedConnection(self.options, self._breaker, writes=writes)

    def pool_sizes(self) -> tuple[int, int]:
        """(open, idle) connections of the pool."""
        return self._pool.get_size(), self._pool.get_idle_size()


_SAYS_WHY = (asyncpg.PostgresError, asyncpg.TargetServerAttributeNotMatched)


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
