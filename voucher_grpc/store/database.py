"""The pool and the dedicated connections to a database, behind one circuit breaker."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Self

import asyncpg
import structlog

from voucher_grpc.errors import Reason, Refusal, StoreUnavailable
from voucher_grpc.store.circuit_breaker import CircuitBreaker
from voucher_grpc.store.connecting import connect_to_any
from voucher_grpc.store.dedicated_connection import DedicatedConnection, report
from voucher_grpc.store.driver import (
    BY_INDEX,
    Connection,
    DatabaseOptions,
    connect,
    connect_message,
    is_dropped,
    on_its_own,
    prepare,
    refuse_unsafe,
    translated,
)
from voucher_grpc.store.probe import DatabaseProbe
from voucher_grpc.store.timed import TimedConnection
from voucher_grpc.telemetry.work import connecting

log = structlog.get_logger(__name__)


class Database:
    """The pool, dedicated connections for the hot paths, and a circuit breaker before both.

    Only `probe` moves the breaker: without probes it never refuses.
    """

    def __init__(self, options: DatabaseOptions, first: Connection) -> None:
        self.options = options
        self._breaker = CircuitBreaker()
        self._probe = DatabaseProbe(
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
            init=prepare,
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
            database._probe.close()
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
                report(self._breaker, error)
                if isinstance(error, AttributeError) and is_dropped(connection):
                    raise StoreUnavailable from error  # see _is_dropped
                raise
            finally:
                self._in_use -= 1
                await self._give_back(connection)

    async def _give_back(self, connection: Any) -> None:
        """Waits until the connection is reset, or replaced where that fails."""
        await asyncio.shield(on_its_own(self._pool.release(connection)))

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
    async def transaction(self, *, by_index: bool = False) -> AsyncIterator[Connection]:
        """A transaction on a connection of the pool: committed at the end, else rolled back.

        With `by_index` its statements find their rows by index, whatever Postgres thinks of the
        size of a table that is being filled.
        """
        async with self.acquire() as connection:
            try:
                async with connection.transaction():
                    await connection.execute(
                        (BY_INDEX if by_index else "") + self.options.local_timeouts
                    )
                    yield connection
            except BaseException:
                # Cancelled again while the driver waits to send ROLLBACK, it has not been sent.
                if not is_dropped(connection) and connection.is_in_transaction():
                    connection.terminate()
                raise

    async def probe(self) -> datetime:
        """What time it is for Postgres; lets calls through from now on, or refuses them.

        Raises StoreUnavailable if it does not answer within the probe's timeout, is
        read-only, or cannot be written to.
        """
        with translated():
            return await self._probe.run()

    def dedicated(self, *, writes: bool = True) -> DedicatedConnection:
        """A reserved connection beside the pool."""
        return DedicatedConnection(self.options, self._breaker, writes=writes)

    def pool_sizes(self) -> tuple[int, int]:
        """(open, idle) connections of the pool."""
        return self._pool.get_size(), self._pool.get_idle_size()


_SAYS_WHY = (asyncpg.PostgresError, asyncpg.TargetServerAttributeNotMatched)
