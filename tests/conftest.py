"""One Postgres a run, one database a test worker, cloned from a migrated template.

A run on several workers shares the cluster of the controlling process: the first
worker to need it starts it, and the run's end stops it. Two runs at once do not
know of each other.
"""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, settings

from voucher_grpc.client import Client
from voucher_grpc.dev.postgres import throw_away_postgres
from voucher_grpc.server.config import Config, read_config
from voucher_grpc.server.lifecycle import RunningServer, running
from voucher_grpc.store.migrate import migrate
from voucher_grpc.telemetry.logs import configure_logs

SHARED_DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
# By itself Hypothesis fails a test one of whose examples takes 200 ms, or is slow to make.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")

OFFER_KEYS = "1:" + "ab" * 32
# Of the calls of tests to which time does not matter: a machine may be slow.
CALL_TIMEOUT_S = 60.0
_URL_VARIABLE = "VOUCHER_TEST_POSTGRES"
_TEMPLATE = "voucher_template"


def database_url(cluster_url: str, database: str) -> str:
    """The URL of another database of the cluster."""
    head, _, query = cluster_url.partition("?")
    return f"{head.rsplit('/', 1)[0]}/{database}?{query}"


async def make_template(cluster_url: str) -> None:
    """Make the database that tests clone."""
    admin = await asyncpg.connect(cluster_url)
    await admin.execute(f"CREATE DATABASE {_TEMPLATE}")
    await admin.close()
    await migrate(database_url(cluster_url, _TEMPLATE))


def pytest_configure(config: pytest.Config) -> None:
    """The controlling process starts the cluster before its workers are made, unless one is given
    with its template."""
    if hasattr(config, "workerinput") or config.option.collectonly or _URL_VARIABLE in os.environ:
        return
    stack = ExitStack()
    config.add_cleanup(stack.close)
    url = stack.enter_context(throw_away_postgres())
    asyncio.run(make_template(url))
    os.environ[_URL_VARIABLE] = url


@pytest.fixture(scope="session")
def cluster_url() -> str:
    """The URL of the run's Postgres, database postgres."""
    return os.environ[_URL_VARIABLE]


@asynccontextmanager
async def new_database(cluster_url: str) -> AsyncIterator[str]:
    """A freshly migrated database of its own, dropped afterwards."""
    name = f"voucher_{secrets.token_hex(6)}"
    admin = await asyncpg.connect(cluster_url)
    try:
        # Cloning needs the template to itself, and several workers clone.
        await admin.execute("SELECT pg_advisory_lock(1)")
        await admin.execute(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE}")
        await admin.execute("SELECT pg_advisory_unlock(1)")
        yield database_url(cluster_url, name)
    finally:
        await admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await admin.close()


def server_config(url: str, **changes: Any) -> Config:
    """A configuration for tests: any free port, fast health."""
    settings: dict[str, Any] = {
        "database_url": url,
        "listen": "127.0.0.1:0",
        "metrics_listen": "127.0.0.1:0",
        "offer_keys": OFFER_KEYS,
        "vat_rates": "NO:2500",
        "health_interval_s": 0.1,
        "drain_timeout_s": 2.0,
    }
    return read_config(**{**settings, **changes})


@dataclass(frozen=True)
class Service:
    """A running server with a client and the URL of its database."""

    server: RunningServer
    client: Client
    database_url: str

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.server.port}"


@asynccontextmanager
async def serving(url: str, **changes: Any) -> AsyncIterator[Service]:
    """A real server on a real port, and a client connected to it."""
    async with (
        running(server_config(url, **changes)) as server,
        Client(f"127.0.0.1:{server.port}", timeout_s=CALL_TIMEOUT_S) as client,
    ):
        yield Service(server, client, url)


@pytest.fixture(scope="session", autouse=True)
def _quiet_logs() -> None:
    configure_logs("console", "error")


@pytest_asyncio.fixture(loop_scope="session")
async def fresh_database(cluster_url: str) -> AsyncIterator[str]:
    """The URL of an empty database for one test."""
    async with new_database(cluster_url) as url:
        yield url


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_service(cluster_url: str) -> AsyncIterator[Service]:
    """One server a worker, for tests that use names of their own (see `unique`)."""
    async with new_database(cluster_url) as url, serving(url) as service:
        yield service


@pytest_asyncio.fixture(loop_scope="session")
async def fresh_service(fresh_database: str) -> AsyncIterator[Service]:
    """A server on an empty database for one test."""
    async with serving(fresh_database) as service:
        yield service


@pytest.fixture
def unique() -> str:
    """A prefix for names, so that tests that share a server do not meet."""
    return f"t{secrets.token_hex(5)}"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real sessions; tests that need it skip where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the folder of real charging sessions (../shared/data) is absent")
    return SHARED_DATA
