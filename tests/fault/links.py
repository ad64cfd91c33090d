"""Links between two processes that can be cut, frozen, slowed, and cut at a COMMIT.

A link listens at an address of its own and moves bytes; the only thing it knows of
what it moves is that a transaction that names a buyer ends with the word COMMIT.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from enum import Enum
from pathlib import Path

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
_COMMIT = b"COMMIT"
# How users of these runs are called: who sends it works for a buyer.
BUYER = "buyer-"
_BUYER = BUYER.encode()


class AtCommit(Enum):
    """What is to happen at the next COMMIT of a buyer's transaction."""

    CUT_BEFORE = "Postgres does not hear of it"
    CUT_AFTER = "the service does not hear that it was done"
    HOLD = "it arrives late"


class Link:
    """Connections through it live until they are cut."""

    def __init__(self, connect: Callable[[], Awaitable[Streams]]) -> None:
        self.connect = connect
        self._away = False
        self._mute = False
        self._delay_s = 0.0
        self._flows = asyncio.Event()
        self._flows.set()
        self._at_commit: AtCommit | None = None
        self._hold_s = 0.0
        self._met_commit = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    def cut(self) -> None:
        """Break all connections and refuse new ones until `restore`."""
        self._away = True
        self._break()

    def freeze(self) -> None:
        """Move no byte until `restore`; connections stay."""
        self._flows.clear()

    def delay(self, delay_s: float) -> None:
        """Each packet takes as long on its way."""
        self._delay_s = delay_s

    def lose_answers(self) -> None:
        """What is asked goes through, what is answered does not; break with `cut`."""
        self._mute = True

    def restore(self) -> None:
        """Let everything through again."""
        self._away = self._mute = False
        self._delay_s = 0.0
        self._flows.set()

    async def at_commit(self, what: AtCommit, within_s: float, hold_s: float = 0.0) -> bool:
        """Do it at the next COMMIT of a buyer's transaction; whether there was one in time."""
        self._at_commit, self._hold_s = what, hold_s
        self._met_commit.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._met_commit.wait(), within_s)
        self._at_commit = None
        return self._met_commit.is_set()

    def _break(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        if self._away:
            writer.transport.abort()
            return
        try:
            there_reader, there_writer = await self.connect()
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, there_writer}
        connection = _Connection(self, (reader, writer), (there_reader, there_writer))
        for work in (connection.ask(), connection.answer()):
            task = asyncio.create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Break what is left."""
        self.restore()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class _Connection:
    """One connection through a link, both ways."""

    def __init__(self, link: Link, here: Streams, there: Streams) -> None:
        self._link = link
        self._from_here, self._to_here = here
        self._from_there, self._to_there = there
        self._buyer_seen = False
        self._commit_cut = False

    async def ask(self) -> None:
        """Move what the near side says."""
        with suppress(OSError):
            while data := await self._from_here.read(65_536):
                await self._pass(data)
                if not await self._commit_may_go(data):
                    break
                self._to_there.write(data)
                await self._to_there.drain()
        self._end()

    async def answer(self) -> None:
        """Move what the far side says."""
        with suppress(OSError):
            while data := await self._from_there.read(65_536):
                await self._pass(data)
                if self._commit_cut and _COMMIT in data:
                    break
                if self._link._mute:
                    continue
                self._to_here.write(data)
                await self._to_here.drain()
        self._end()

    async def _pass(self, data: bytes) -> None:
        if self._link._delay_s:
            await asyncio.sleep(self._link._delay_s)
        await self._link._flows.wait()

    async def _commit_may_go(self, data: bytes) -> bool:
        self._buyer_seen = self._buyer_seen or _BUYER in data
        if _COMMIT not in data:
            return True
        what, seen = self._link._at_commit, self._buyer_seen
        self._buyer_seen = False
        if what is None or not seen:
            return True
        self._link._at_commit = None
        self._link._met_commit.set()
        if what is AtCommit.HOLD:
            await asyncio.sleep(self._link._hold_s)
        self._commit_cut = what is AtCommit.CUT_AFTER
        return what is not AtCommit.CUT_BEFORE

    def _end(self) -> None:
        for writer in (self._to_here, self._to_there):
            writer.transport.abort()
            self._link._writers.discard(writer)


@asynccontextmanager
async def socket_link(listen: Path, upstream: Path) -> AsyncIterator[Link]:
    """A link at a Unix socket to another one."""
    link = Link(lambda: asyncio.open_unix_connection(upstream))
    server = await asyncio.start_unix_server(link.accept, listen)
    try:
        yield link
    finally:
        server.close()
        await link.close()


@asynccontextmanager
async def port_link() -> AsyncIterator[tuple[Link, int]]:
    """A link at a port of its own on the loopback, which leads nowhere until `connect` is set."""
    link = Link(_nowhere)
    server = await asyncio.start_server(link.accept, "127.0.0.1", 0)
    try:
        yield link, server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await link.close()


async def _nowhere() -> Streams:
    raise ConnectionRefusedError
