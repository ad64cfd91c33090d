"""Links between two processes that can be cut and frozen, also at the COMMIT of a transaction.

A link listens at an address of its own and moves bytes; the only thing it knows of what it
moves is that a transaction that says a certain word ends with the word COMMIT.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from enum import Enum, auto

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
_COMMIT = b"COMMIT"


class Commit(Enum):
    """What becomes of a COMMIT."""

    GOES = auto()
    IS_KEPT = auto()
    ANSWER_IS_KEPT = auto()


class Link:
    """Connections through it live until they are cut.

    `marked` is what a transaction says whose COMMIT is of interest.
    """

    def __init__(self, connect: Callable[[], Awaitable[Streams]], marked: bytes) -> None:
        self.connect = connect
        self.marked = marked
        self.flows = asyncio.Event()
        self.flows.set()
        self._away = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    def cut(self) -> None:
        """Break all connections and refuse new ones until `restore`."""
        self._away = True
        self.break_off()

    def break_off(self) -> None:
        """Break all connections; new ones are taken."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    def freeze(self) -> None:
        """Move no byte until `restore`; connections stay."""
        self.flows.clear()

    def restore(self) -> None:
        """Let everything through again."""
        self._away = False
        self.flows.set()

    async def passing(self) -> None:
        """Wait until a packet may go on."""
        await self.flows.wait()

    async def commit(self) -> Commit:
        """What is to become of the COMMIT of a marked transaction."""
        return Commit.GOES

    async def kept_answer_goes(self) -> bool:
        """The answer to a COMMIT is here that was to be kept; whether it goes after all."""
        return False

    def answered(self, data: bytes) -> bytes:
        """What of an answer goes on."""
        return data

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

    def ended(self, *writers: asyncio.StreamWriter) -> None:
        """A connection is over."""
        for writer in writers:
            writer.transport.abort()
            self._writers.discard(writer)

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
        self._marked = False  # since the last COMMIT
        self._keep_answer = False

    async def ask(self) -> None:
        """Move what the near side says."""
        with suppress(OSError):
            while data := await self._from_here.read(65_536):
                await self._link.passing()
                if await self._committing(data) is Commit.IS_KEPT:
                    break
                self._to_there.write(data)
                await self._to_there.drain()
        self._link.ended(self._to_here, self._to_there)

    async def answer(self) -> None:
        """Move what the far side says."""
        with suppress(OSError):
            while data := await self._from_there.read(65_536):
                await self._link.passing()
                if self._keep_answer and _COMMIT in data:
                    if not await self._link.kept_answer_goes():
                        break
                    self._keep_answer = False
                self._to_here.write(self._link.answered(data))
                await self._to_here.drain()
        self._link.ended(self._to_here, self._to_there)

    async def _committing(self, data: bytes) -> Commit:
        self._marked = self._marked or self._link.marked in data
        if _COMMIT not in data or not self._marked:
            return Commit.GOES
        self._marked = False
        found = await self._link.commit()
        self._keep_answer = found is Commit.ANSWER_IS_KEPT
        return found
