"""What stands between the service and a database that does not answer."""

import asyncio
import time
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg
import structlog

from voucher_grpc.errors import StoreUnavailable

if TYPE_CHECKING:  # generic in the stubs only
    Connection = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection

log = structlog.get_logger(__name__)


class CircuitBreaker:
    """Closed while the last database probe succeeded (`probe.py`): work goes through.

    Open, it refuses at once, without asking the database; and tripping it ends work in
    progress, by dropping the connections. A COMMIT is not cancelled by that: Postgres
    may have it already, and whether it is done is not known here.

    It can be open for writes alone, while the database answers and cannot be written to.
    """

    def __init__(self) -> None:
        self._open = False
        self._open_for_writes = False
        self._doubted = False
        self._connections: weakref.WeakSet[Connection] = weakref.WeakSet()
        self._writing: weakref.WeakSet[Connection] = weakref.WeakSet()
        self._waits: set[asyncio.Timeout] = set()
        self._began_s: dict[object, float] = {}

    def refuse(self, *, writes: bool = False) -> None:
        """Raise StoreUnavailable while it is open."""
        if self._open or (writes and self._open_for_writes):
            raise StoreUnavailable

    @asynccontextmanager
    async def waiting(self) -> AsyncIterator[None]:
        """For what waits for a connection: ended by StoreUnavailable when the breaker trips."""
        self.refuse()
        async with asyncio.timeout(None) as wait:
            self._waits.add(wait)
            try:
                yield
            except asyncio.CancelledError:
                if wait.expired():
                    raise StoreUnavailable from None
                raise
            finally:
                self._waits.discard(wait)

    def keep(self, connection: Connection, *, writes: bool = False) -> None:
        """Note a connection, to be dropped when the breaker trips (for writes)."""
        self._connections.add(connection)
        if writes:
            self._writing.add(connection)

    def began(self, work: object) -> None:
        """Work that writes begins; `ended` reports its end."""
        self._began_s[work] = time.monotonic()

    def ended(self, work: object) -> None:
        """It has ended, well or not."""
        self._began_s.pop(work, None)

    def doubt_writes(self) -> None:
        """Something was not written in a way that may go on; the next probe tries it."""
        self._doubted = True

    def writes_in_doubt(self, patience_s: float) -> bool:
        """Whether writing should be tried: it failed, or some has been in progress for so long."""
        if self._doubted or self._open_for_writes:
            return True
        since_s = time.monotonic() - patience_s
        return any(began_s < since_s for began_s in self._began_s.values())

    def close(self, *, writes: bool = True) -> None:
        """The database answers, and can be written to or not."""
        if self._open:
            log.info("database_back")
        self._open = False
        if writes and self._open_for_writes:
            log.info("database_writable")
        if not writes and not self._open_for_writes:
            log.warning("database_not_writable")
        self._open_for_writes = not writes
        if writes:
            self._doubted = False
        else:
            _drop(self._writing)

    def trip(self) -> None:
        """The database is away: refuse new work, end what waits or is in progress."""
        if not self._open:
            log.warning("database_away")
        self._open = True
        self.drop()

    def drop(self) -> None:
        """Drop all connections, used or idle: they lead to what is not the primary any more."""
        now_s = asyncio.get_running_loop().time()
        if self._open:
            for wait in tuple(self._waits):
                wait.reschedule(now_s)
            self._waits.clear()
        _drop(self._connections)


def _drop(connections: "weakref.WeakSet[Connection]") -> None:
    for connection in tuple(connections):
        connection.terminate()
    connections.clear()
