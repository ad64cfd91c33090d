"""A proxy between the service and Postgres that can be cut, frozen, or cut at the COMMIT of a
purchase.

It listens on a Unix socket of its own and speaks no protocol: it moves bytes and
looks for two words. (The service commits other things too, by itself.)
"""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

_COMMIT = b"COMMIT"
# How tests begin their payment references: what carries one is a purchase.
_PAYMENT = b"pay-"
_SOCKET = ".s.PGSQL.5432"


class _Seen:
    """What has gone over a connection."""

    payment = False  # since the last COMMIT
    commit_cut = False  # its answer is not to arrive


class Proxy:
    """Connections through it live until they are cut."""

    def __init__(self, upstream: Path, url: str) -> None:
        self.url = url
        self.commits_cut = 0
        self._upstream = upstream
        self._away = False
        self._flows = asyncio.Event()
        self._flows.set()
        self._at_commit = ""
        self._stay_away = False
        self._freeze = False
        self.commits_frozen = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    def cut(self) -> None:
        """Break all connections and refuse new ones until `restore`."""
        self._away = True
        self._break()

    def restore(self) -> None:
        """Let connections through again, and bytes."""
        self._away = False
        self._flows.set()

    def freeze(self) -> None:
        """Move no byte any more: to the service Postgres seems to think, for ever."""
        self._flows.clear()

    def cut_at_commit(self, *, before: bool, stay_away: bool = False) -> None:
        """Break all connections at the next COMMIT of a purchase: before Postgres hears of it,
        or after it has committed and before the service hears of that. With `stay_away`
        refuse new ones until `restore`."""
        self._at_commit = "before" if before else "after"
        self._stay_away = stay_away

    def freeze_at_commit(self, *, before: bool) -> None:
        """As `cut_at_commit`, but from then on no byte moves any more, and no connection breaks."""
        self._at_commit = "before" if before else "after"
        self._freeze = True

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
            server_reader, server_writer = await asyncio.open_unix_connection(self._upstream)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, server_writer}
        seen = _Seen()
        for task in (
            asyncio.create_task(self._to_server(reader, server_writer, seen)),
            asyncio.create_task(self._to_service(server_reader, writer, seen)),
        ):
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _to_server(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: _Seen
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                await self._flows.wait()
                seen.payment = seen.payment or _PAYMENT in data
                if _COMMIT in data:
                    if seen.payment and self._at_commit == "before":
                        self._cut_commit()
                        if not self._frozen_here():
                            return
                        await self._flows.wait()
                    if seen.payment and self._at_commit == "after":
                        self._at_commit, seen.commit_cut = "", True
                    seen.payment = False
                writer.write(data)
                await writer.drain()
        writer.transport.abort()

    async def _to_service(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: _Seen
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                await self._flows.wait()
                if seen.commit_cut and _COMMIT in data:
                    self._cut_commit()
                    if not self._frozen_here():
                        return
                    await self._flows.wait()
                writer.write(data)
                await writer.drain()
        writer.transport.abort()

    def _frozen_here(self) -> bool:
        return not self._flows.is_set()

    def _cut_commit(self) -> None:
        self._at_commit = ""
        if self._freeze:
            self._freeze = False
            self.commits_frozen += 1
            self.freeze()
            return
        self.commits_cut += 1
        self._away = self._stay_away
        self._break()

    async def close(self) -> None:
        """Break what is left."""
        self.cut()
        self.restore()
        await asyncio.gather(*self._tasks)


@asynccontextmanager
async def proxied(url: str) -> AsyncIterator[Proxy]:
    """A proxy before the Postgres at `url`, which listens on a Unix socket."""
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    upstream = Path(query["host"][0]) / _SOCKET
    # Short: the path of a Unix socket has 107 bytes at most.
    folder = Path(tempfile.mkdtemp(prefix="vp-"))
    address = urlunsplit(parts._replace(query=urlencode({**query, "host": folder}, doseq=True)))
    proxy = Proxy(upstream, address)
    server = await asyncio.start_unix_server(proxy.accept, folder / _SOCKET)
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
        shutil.rmtree(folder, ignore_errors=True)
