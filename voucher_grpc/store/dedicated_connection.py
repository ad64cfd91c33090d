"""A connection of its own for one kind of batch."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import asyncpg

from voucher_grpc.errors import StoreUnavailable
from voucher_grpc.store.circuit_breaker import CircuitBreaker
from voucher_grpc.store.driver import (
    CommitUnclear,
    Connection,
    DatabaseOptions,
    close,
    connect,
    is_dropped,
    translated,
)
from voucher_grpc.telemetry.work import connecting

T = TypeVar("T")


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
                    dropped = is_dropped(connection)
                    # Its state is not known any more: a half-read answer, an open transaction.
                    self._connection = None
                    connection.terminate()
                    report(self._breaker, error)
                    if dropped and isinstance(error, AttributeError):
                        raise StoreUnavailable from error  # see is_dropped
                    raise
            finally:
                self._breaker.ended(self)

    async def close(self) -> None:
        """Close the connection, politely if it lets us."""
        if self._connection is not None:
            await close(self._connection)


def report(breaker: CircuitBreaker, error: BaseException) -> None:
    """Report to the breaker what an error says about the database, beyond the call that met it."""
    if isinstance(error, asyncpg.ReadOnlySQLTransactionError):
        breaker.drop()  # what was the primary is not any more
    elif isinstance(error, asyncpg.DiskFullError | CommitUnclear):
        breaker.doubt_writes()
