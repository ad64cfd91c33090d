"""A network between clients and a server that forgets connections without telling anybody.

It is a TCP proxy: after `forget` both sides may go on writing, and nothing arrives.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress


class Network:
    """Counts connections, and the sides that have hung up."""

    def __init__(self, port: int, address: str) -> None:
        self._server_port = port
        self._address = address
        self.port = 0
        self.connections = 0
        self.clients_gone = self.servers_gone = 0
        self._forgotten = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def open(self) -> int:
        """Connections of which neither side has hung up."""
        return self.connections - max(self.clients_gone, self.servers_gone)

    def forget(self) -> None:
        """Let no byte arrive any more."""
        self._forgotten = True

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        self.connections += 1
        up_reader, up_writer = await asyncio.open_connection(
            "127.0.0.1", self._server_port, local_addr=(self._address, 0)
        )
        self._writers += [writer, up_writer]

        def client_gone() -> None:
            self.clients_gone += 1

        def server_gone() -> None:
            self.servers_gone += 1

        for way in (
            self._carry(reader, up_writer, client_gone),
            self._carry(up_reader, writer, server_gone),
        ):
            task = asyncio.create_task(way)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        gone: Callable[[], None],
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                if not self._forgotten:
                    writer.write(data)
        gone()
        if not self._forgotten:
            writer.close()

    async def close(self) -> None:
        """Hang up on both sides."""
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.gather(*self._tasks)


@asynccontextmanager
async def network(server_port: int, address: str = "127.0.0.1") -> AsyncIterator[Network]:
    """A network that leads to a port, where its clients have this address."""
    net = Network(server_port, address)
    server = await asyncio.start_server(net.accept, "127.0.0.1", 0)
    net.port = server.sockets[0].getsockname()[1]
    try:
        yield net
    finally:
        server.close()
        await net.close()


async def until(done: Callable[[], bool], within_s: float = 60.0) -> None:
    """Wait for something to be so."""
    async with asyncio.timeout(within_s):
        while not done():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
