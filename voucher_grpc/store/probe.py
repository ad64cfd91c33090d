"""The database probe, which sets health and the circuit breaker."""

import asyncio
from datetime import datetime
from typing import Any

import asyncpg
import structlog

from voucher_grpc.errors import StoreUnavailable
from voucher_grpc.store.circuit_breaker import CircuitBreaker

log = structlog.get_logger(__name__)

_NOW = (
    "SELECT clock_timestamp() AS now, current_setting('transaction_read_only') = 'on' AS read_only"
)
# A thousand pages' worth of room and a COMMIT that is flushed, and leaves nothing behind.
# Asked for only while it is doubted that writes succeed, since it costs a flush itself.
_WRITE = (
    "BEGIN;"
    "CREATE TEMPORARY TABLE voucher_grpc_probe ON COMMIT DROP AS"
    " SELECT repeat('x', 1000) AS filling FROM generate_series(1, 1000);"
    "COMMIT"
)
# A timeout that is noticed so much too late says that this process stood still (it was frozen,
# or its machine was), and nothing about the database.
_STOOD_STILL_S = 1.0
_BROKEN = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


class DatabaseProbe:
    """Looks at the database on a connection of its own, each time for a short time only.

    The pool may be exhausted by slow calls, which says nothing about the database.
    `connect` makes the connection; `connection` is one to begin with.
    """

    def __init__(
        self, breaker: CircuitBreaker, connect: Any, connection: Any, timeout_s: float
    ) -> None:
        self._breaker = breaker
        self._connect = connect
        self._connection = connection
        self._timeout_s = timeout_s
        self._last_failure = ""

    async def run(self) -> datetime:
        """What time it is for Postgres; closes the breaker.

        Raises StoreUnavailable, and trips the breaker, if the database does not answer in
        time or is read-only; if only writing fails, reading goes on.
        """
        try:
            now = await self._now()
        except StoreUnavailable:
            self._breaker.trip()
            raise
        if self._breaker.writes_in_doubt(self._timeout_s) and not await self._can_write():
            self._breaker.close(writes=False)
            raise StoreUnavailable("the database cannot be written to")
        self._breaker.close()
        self._last_failure = ""
        return now

    async def _now(self) -> datetime:
        """What time it is; where this process stood still meanwhile it is asked once more."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        try:
            return await self._now_once()
        except StoreUnavailable:
            if loop.time() - began_s < self._timeout_s + _STOOD_STILL_S:
                raise
        return await self._now_once()

    async def _now_once(self) -> datetime:
        try:
            async with asyncio.timeout(self._timeout_s):
                row = await self._row()
        except _BROKEN as error:
            self.close()
            self._log("probe_failed", error)
            raise StoreUnavailable from error
        if row["read_only"]:
            self.close()
            raise StoreUnavailable("the database is read-only")
        now: datetime = row["now"]
        return now

    async def _row(self) -> Any:
        """The answer; by a new connection if the kept one is broken or leads to what is read-only.

        The others then lead there too, and are dropped.
        """
        if self._connection is not None:
            try:
                row = await self._connection.fetchrow(_NOW)
            except _BROKEN:
                self.close()
            else:
                if not row["read_only"]:
                    return row
                self.close()
                self._breaker.drop()
        self._connection = await self._connect()
        return await self._connection.fetchrow(_NOW)

    async def _can_write(self) -> bool:
        try:
            # At the timeout the driver cancels, so that a COMMIT that waits for a standby
            # does not leave a process behind at each probe.
            await self._connection.execute(_WRITE, timeout=self._timeout_s)
        except asyncpg.InsufficientPrivilegeError as error:
            # Taken away since the start. Whether it can be written to shows with the next purchase.
            self._log("look_may_not_write", error)
            self.close()
        except _BROKEN as error:
            self._log("look_cannot_write", error)
            if not isinstance(error, TimeoutError):
                self.close()
            return False
        return True

    def _log(self, event: str, error: Exception) -> None:
        """Once for as long as it stays the same: probes repeat it."""
        told = f"{type(error).__name__}: {error}"
        if told != self._last_failure:
            log.warning(event, error=told)
        self._last_failure = told

    def close(self) -> None:
        """Drop the connection."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None
