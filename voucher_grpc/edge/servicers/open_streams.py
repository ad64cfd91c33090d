"""Streams that are kept open for the next question, and how they end when the server stops."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from voucher_grpc.errors import Reason, Refusal


class OpenStreams:
    """Ends the waiting for questions, so that what was taken can be answered in time."""

    def __init__(self) -> None:
        self._stopped = False
        self._limits: set[asyncio.Timeout] = set()

    @asynccontextmanager
    async def until_stopped(self) -> AsyncIterator[None]:
        """Take questions within. Raises SHUTTING_DOWN once the server stops."""
        if self._stopped:
            raise _shutting_down()
        limit = asyncio.timeout(None)
        try:
            async with limit:
                self._limits.add(limit)
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            raise _shutting_down() from None
        finally:
            self._limits.discard(limit)

    def stop(self) -> None:
        """Let no stream take a question any more."""
        self._stopped = True
        now_s = asyncio.get_running_loop().time()
        for limit in self._limits:
            limit.reschedule(now_s)


def _shutting_down() -> Refusal:
    message = "the server stops; ask what has no answer again, on a new stream"
    return Refusal(Reason.SHUTTING_DOWN, message, retry_after_s=0.1)
