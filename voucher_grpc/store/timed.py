"""Connections that report each statement to the call or batch that it belongs to.

asyncpg's own query loggers are called in a later turn of the event loop: the last statement
of a batch would be reported after the batch has ended.
"""

import re
import time
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

import asyncpg

from voucher_grpc.store import queries
from voucher_grpc.telemetry.work import Work, current

if TYPE_CHECKING:  # generic in the stubs only
    _Connection = asyncpg.Connection[asyncpg.Record]
else:
    _Connection = asyncpg.Connection

_WORD = re.compile(r"\w+")


class TimedConnection(_Connection):
    """A connection whose statements are timed while there is work to which they belong."""

    __slots__ = ()

    def execute(self, query: str, *args: Any, **options: Any) -> Any:
        """As in asyncpg."""
        return self._timed(query, super().execute(query, *args, **options))

    def executemany(self, command: str, args: Any, **options: Any) -> Any:
        """As in asyncpg."""
        return self._timed(command, super().executemany(command, args, **options))

    def fetch(self, query: str, *args: Any, **options: Any) -> Any:
        """As in asyncpg."""
        return self._timed(query, super().fetch(query, *args, **options))

    def fetchrow(self, query: str, *args: Any, **options: Any) -> Any:
        """As in asyncpg."""
        return self._timed(query, super().fetchrow(query, *args, **options))

    def fetchval(self, query: str, *args: Any, **options: Any) -> Any:
        """As in asyncpg."""
        return self._timed(query, super().fetchval(query, *args, **options))

    def _timed(self, query: str, running: Coroutine[Any, Any, Any]) -> Coroutine[Any, Any, Any]:
        work = current()
        return running if work is None else self._told(work, query, running)

    async def _told(self, work: Work, query: str, running: Coroutine[Any, Any, Any]) -> Any:
        began_s = time.perf_counter()
        try:
            result = await running
        except BaseException as error:
            work.statement(self._name(query), query, time.perf_counter() - began_s, error)
            raise
        work.statement(self._name(query), query, time.perf_counter() - began_s, None)
        return result

    def _name(self, query: str) -> str:
        """The statement's name in sql/, as `passes.write`; of others the first word."""
        if (name := queries.NAMES.get(query)) is not None:
            return name
        if query == self.get_reset_query():
            return "reset"  # what the pool does when it has a connection back
        word = _WORD.search(query)
        return word[0].upper() if word else "statement"
