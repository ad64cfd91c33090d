"""A PgBouncer in transaction mode before a Postgres, which can be killed and started again."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tests.fault.postgres import answers
from tests.fault.processes import Process, kill_family, start
from tests.fault.service import through

# Fewer than the service has, so that connections are shared from the first moment on.
_SERVER_CONNECTIONS = 4
_PORT = 6432


def pgbouncer() -> str | None:
    """The program; None where it is not installed."""
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


class Bouncer:
    """In a folder of its own, reached by the socket in it."""

    def __init__(self, folder: Path, upstream: Path, url: str) -> None:
        self.url = through(url, folder) + f"&port={_PORT}"
        self._folder = folder
        # It does not run as root; Postgres' user may reach both sockets.
        self._user = upstream.owner() if os.geteuid() == 0 else None
        self._process: Process | None = None
        users = folder / "users"
        users.write_text('"postgres" ""\n', encoding="ascii")
        settings = {
            "listen_port": _PORT,
            "unix_socket_dir": folder,
            "auth_type": "trust",
            "auth_file": users,
            "pool_mode": "transaction",
            "default_pool_size": _SERVER_CONNECTIONS,
            "max_client_conn": 100,
        }
        lines = "\n".join(f"{name} = {value}" for name, value in settings.items())
        (folder / "ini").write_text(
            f"[databases]\n* = host={upstream} port=5432\n[pgbouncer]\n{lines}\n", encoding="ascii"
        )
        if self._user is not None:
            shutil.chown(folder, self._user)

    async def start(self) -> None:
        """Start it and wait until Postgres answers through it."""
        command: list[str | Path] = [pgbouncer() or "", self._folder / "ini"]
        with (self._folder / "log").open("ab") as output:
            self._process = await start(command, os.environ, output, self._user)
        await answers(self.url, self._folder / "log")

    async def kill(self) -> None:
        """SIGKILL: all connections break."""
        if self._process is not None:
            process, self._process = self._process, None
            await kill_family(process)
            for socket in self._folder.glob(".s.PGSQL.*"):
                socket.unlink()


@asynccontextmanager
async def bounced(url: str) -> AsyncIterator[Bouncer]:
    """One before the Postgres at `url`, which listens on a Unix socket."""
    upstream = Path(parse_qs(urlsplit(url).query)["host"][0])
    folder = Path(tempfile.mkdtemp(prefix="vb-"))
    bouncer = Bouncer(folder, upstream, url)
    try:
        await asyncio.wait_for(bouncer.start(), 60)
        yield bouncer
    finally:
        await bouncer.kill()
        shutil.rmtree(folder, ignore_errors=True)
