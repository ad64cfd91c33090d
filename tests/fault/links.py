"""Links of the fault runs: slowed and mute as well, and cut at the COMMIT of a buyer."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from enum import Enum
from pathlib import Path

from tests.links import Commit, Link, Streams

# How users of these runs are called: who sends it works for a buyer.
BUYER = "buyer-"


class AtCommit(Enum):
    """What is to happen at the next COMMIT of a buyer's transaction."""

    CUT_BEFORE = "Postgres does not hear of it"
    CUT_AFTER = "the service does not hear that it was done"
    HOLD = "it arrives late"


class FaultLink(Link):
    """A link that a plan disturbs."""

    def __init__(self, connect: Callable[[], Awaitable[Streams]]) -> None:
        super().__init__(connect, BUYER.encode())
        self._mute = False
        self._delay_s = 0.0
        self._at_commit: AtCommit | None = None
        self._hold_s = 0.0
        self._met_commit = asyncio.Event()

    def delay(self, delay_s: float) -> None:
        """Each packet takes as long on its way."""
        self._delay_s = delay_s

    def lose_answers(self) -> None:
        """What is asked goes through, what is answered does not; break with `cut`."""
        self._mute = True

    def restore(self) -> None:
        """Let everything through again, at once."""
        self._mute = False
        self._delay_s = 0.0
        super().restore()

    async def at_commit(self, what: AtCommit, within_s: float, hold_s: float = 0.0) -> bool:
        """Do it at the next COMMIT of a buyer's transaction; whether there was one in time."""
        self._at_commit, self._hold_s = what, hold_s
        self._met_commit.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._met_commit.wait(), within_s)
        self._at_commit = None
        return self._met_commit.is_set()

    async def passing(self) -> None:
        if self._delay_s:
            await asyncio.sleep(self._delay_s)
        await super().passing()

    async def commit(self) -> Commit:
        what, self._at_commit = self._at_commit, None
        if what is None:
            return Commit.GOES
        self._met_commit.set()
        if what is AtCommit.HOLD:
            await asyncio.sleep(self._hold_s)
        ends = {AtCommit.CUT_BEFORE: Commit.IS_KEPT, AtCommit.CUT_AFTER: Commit.ANSWER_IS_KEPT}
        return ends.get(what, Commit.GOES)

    def answered(self, data: bytes) -> bytes:
        return b"" if self._mute else data


@asynccontextmanager
async def socket_link(listen: Path, upstream: Path) -> AsyncIterator[FaultLink]:
    """A link at a Unix socket to another one."""
    link = FaultLink(lambda: asyncio.open_unix_connection(upstream))
    server = await asyncio.start_unix_server(link.accept, listen)
    try:
        yield link
    finally:
        server.close()
        await link.close()


@asynccontextmanager
async def port_link() -> AsyncIterator[tuple[FaultLink, int]]:
    """A link at a port of its own on the loopback, which leads nowhere until `connect` is set."""
    link = FaultLink(_nowhere)
    server = await asyncio.start_server(link.accept, "127.0.0.1", 0)
    try:
        yield link, server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await link.close()


async def _nowhere() -> Streams:
    raise ConnectionRefusedError
