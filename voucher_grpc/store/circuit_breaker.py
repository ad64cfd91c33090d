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
    """Lets work through to the database while the last look at it succeeded (`look.py`).

    Shut, it refuses at once, without a word to the database; and shutting it ends what is
    under way, by dropping the connections. A COMMIT is not cancelled by that: Postgres
    may have it already and does it or not, and there is no telling here.

    For writes it can be shut alone, while the database answers and cannot be written to.
    """

    def __init__(self) -> None:
        self._shut = False
        self._shut_for_writes = False
        self._doubted = False
        self._connections: weakref.WeakSet[Connection] = weakref.WeakSet()
        self._writing: weakref.WeakSet[Connection] = weakref.WeakSet()
        self._waits: set[asyncio.Timeout] = set()
        self._began_s: dict[object, float] = {}

    def refuse(self, *, writes: bool = False) -> None:
        """Raise StoreUnavailable while it is shut."""
        if self._shut or (writes and self._shut_for_writes):
            raise StoreUnavailable

    @asynccontextmanager
    async def waiting(self) -> AsyncIterator[None]:
        """For what waits for a connection: ended by StoreUnavailable when the gate is shut."""
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
        """Note a connection, to be dropped when the gate is shut (for writes)."""
        self._connections.add(connection)
        if writes:
            self._writing.add(connection)

    def began(self, work: object) -> None:
        """Something begins that writes; `ended` tells of its end."""
        self._began_s[work] = time.monotonic()

    def ended(self, work: object) -> None:
        """It has ended, well or not."""
        self._began_s.pop(work, None)

    def doubt_writes(self) -> None:
        """Something was not written in a way that may go on; the next look tries it."""
        self._doubted = True

    def writes_in_doubt(self, patience_s: float) -> bool:
        """Whether writing should be tried: it failed, or some has been under way for so long."""
        if self._doubted or self._shut_for_writes:
            return True
        since_s = time.monotonic() - patience_s
        return any(began_s < since_s for began_s in self._began_s.values())

    def open(self, *, writes: bool = True) -> None:
        """The database answers, and can be written to or not."""
        if self._shut:
            log.info("database_back")
        self._shut = False
        if writes and self._shut_for_writes:
            log.info("database_writable")
        if not writes and not self._shut_for_writes:
            log.warning("database_not_writable")
        self._shut_for_writes = not writes
        if writes:
            self._doubted = False
        else:
            _drop(self._writing)

    def shut(self) -> None:
        """The database is away: refuse what comes, end what waits or is under way."""
        if not self._shut:
            log.warning("database_away")
        self._shut = True
        self.drop()

    def drop(self) -> None:
        """Drop all connections, used or idle: what they lead to is not what is wanted any more."""
        now_s = asyncio.get_running_loop().time()
        if self._shut:
            for wait in tuple(self._waits):
                wait.reschedule(now_s)
            self._waits.clear()
        _drop(self._connections)


def _drop(connections: "weakref.WeakSet[Connection]") -> None:
    for connection in tuple(connections):
        connection.terminate()
    connections.clear()
