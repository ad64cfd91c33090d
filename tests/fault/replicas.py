"""Two Postgres clusters, one the synchronous standby of the other, and what operators do with them.

What a purchase rests on here: `synchronous_commit = on` with `synchronous_standby_names`,
so that a COMMIT is answered when both disks have it.
"""

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg

from tests.fault.postgres import answers, program
from tests.fault.processes import Process, RunFailed, frozen_family, kill_family, start, tell
from voucher_grpc.dev.postgres import embedded_postgres
from voucher_grpc.store.migrate import migrate

_REPLICATES_S = 60.0


class Node:
    """A cluster in a folder of its own, reached by the socket in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.url = f"postgresql://postgres:@/postgres?host={folder}"
        self._process: Process | None = None

    @property
    def user(self) -> str | None:
        """Who runs it: as root, the user whom the wheel gave the data to."""
        return self.folder.owner() if os.geteuid() == 0 else None

    async def run(self, name: str, *arguments: str | Path) -> None:
        """Run one of Postgres' programs to its end."""
        with (self.folder / "log").open("ab") as output:
            process = await start([program(name), *arguments], os.environ, output, self.user)
            code = await process.wait()
        if code != 0:
            raise RunFailed(f"{name} failed; see {self.folder / 'log'}")

    async def start(self) -> None:
        """Start it and wait until it answers."""
        settings: dict[str, object] = {
            "listen_addresses": "",
            "unix_socket_directories": self.folder,
            "recovery_init_sync_method": "syncfs",
            # How long a promotion may wait for a look at the lost primary: else 5 s.
            "wal_retrieve_retry_interval": "500ms",
        }
        arguments = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        command: list[str | Path] = [program("postgres"), "-D", self.data, *arguments]
        with (self.folder / "log").open("ab") as output:
            self._process = await start(command, os.environ, output, self.user)
        await answers(self.url, self.folder / "log")

    async def kill(self) -> None:
        """SIGKILL to all of its processes."""
        if self._process is not None:
            process, self._process = self._process, None
            await kill_family(process)

    def freeze(self) -> None:
        """SIGSTOP to all of its processes; `kill` ends them all the same."""
        if self._process is not None:
            tell(frozen_family(self._process.pid), signal.SIGSTOP)

    async def ask(self, *statements: str) -> Any:
        """What the last of some statements says, each by itself."""
        connection = await asyncpg.connect(self.url)
        try:
            said = None
            for statement in statements:
                said = await connection.fetchval(statement)
            return said
        finally:
            await connection.close()


class Pair:
    """A primary and its standby, which change their parts with each failover."""

    def __init__(self, one: Node, other: Node) -> None:
        self.primary, self.standby = one, other
        # As an operator writes it, once: the order does not follow the parts.
        self.url = f"postgresql://postgres:@/postgres?host={one.folder},{other.folder}"

    @classmethod
    @asynccontextmanager
    async def running(cls, folder: Path) -> AsyncIterator["Pair"]:
        """Both, migrated; killed at the end, the folder is the caller's."""
        one, other = Node(folder / "a"), Node(folder / "b")
        await asyncio.to_thread(_make, one, other)
        pair = cls(one, other)
        try:
            await one.start()
            await pair.make_standby()
            yield pair
        finally:
            await asyncio.gather(one.kill(), other.kill())

    async def make_standby(self) -> None:
        """The standby anew from the primary; from then on no COMMIT is answered without it."""
        await self.standby.kill()
        shutil.rmtree(self.standby.data, ignore_errors=True)
        await self.standby.run(
            "pg_basebackup",
            *("-h", self.primary.folder, "-U", "postgres", "-D", self.standby.data),
            *("--write-recovery-conf", "--checkpoint=fast", "--no-sync"),
        )
        await self.standby.start()
        await self.primary.ask(
            "ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()"
        )
        async with asyncio.timeout(_REPLICATES_S):
            while "sync" != await self.primary.ask(  # noqa: ASYNC110 - nobody tells
                "SELECT sync_state FROM pg_stat_replication"
            ):
                await asyncio.sleep(0.05)

    async def promote(self) -> None:
        """The standby becomes the primary, and does not wait for the one that is lost.

        An operator does the same: see that the old primary is gone or cut off, promote,
        and take the lost one out of `synchronous_standby_names`, which the standby has
        from its primary and which no COMMIT would be answered with.
        """
        await self.standby.ask(
            "ALTER SYSTEM SET synchronous_standby_names = ''",
            "SELECT pg_reload_conf()",
            "SELECT pg_promote(wait => true, wait_seconds => 60)",
        )
        self.primary, self.standby = self.standby, self.primary


def _make(one: Node, other: Node) -> None:
    """The first with the migrations; folders into which who runs Postgres may look and write."""
    one.folder.parent.chmod(0o755)
    for node in (one, other):
        node.folder.mkdir()
    with embedded_postgres(one.data) as url:
        asyncio.run(migrate(url))
    if os.geteuid() == 0:
        for node in (one, other):
            shutil.chown(node.folder, one.data.owner())


@asynccontextmanager
async def own_pair() -> AsyncIterator[Pair]:
    """A pair in a folder of its own, which is deleted afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="vr-"))
    try:
        async with Pair.running(folder) as pair:
            yield pair
    finally:
        shutil.rmtree(folder, ignore_errors=True)
