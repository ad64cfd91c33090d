"""A server as its operators see it: what it says of itself, and the command they run."""

import asyncio
import os
import re
import sys
import urllib.request
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import Service
from voucher_grpc.server.lifecycle import RunningServer

State = health_pb2.HealthCheckResponse
PASSWORD = "a-password-of-the-database"
OFFER_KEY = "5ec4e7" * 11
COMMAND = Path(sys.executable).parent / "voucher-grpc"

# For what comes by itself. A machine that does other things as well may be that slow; a test
# that waits for nothing else than this bound has failed.
PATIENCE_S = 60.0


async def check(target: str, service: str = "") -> Any:
    """The state that health Check answers."""
    async with grpc.aio.insecure_channel(target) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(
            health_pb2.HealthCheckRequest(service=service), timeout=PATIENCE_S
        )
        return answer.status


@asynccontextmanager
async def watching(target: str, service: str = "") -> AsyncIterator[Any]:
    """A health Watch on a connection of its own."""
    async with grpc.aio.insecure_channel(target) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        yield stub.Watch(health_pb2.HealthCheckRequest(service=service))


async def next_state(watch: Any) -> Any:
    """The next state that a Watch tells; grpc.aio.EOF once it has ended."""
    answer = await asyncio.wait_for(watch.read(), PATIENCE_S)
    return answer if answer is grpc.aio.EOF else answer.status


async def set_on_database(cluster_url: str, url: str, setting: str, value: str) -> None:
    """Change a setting for new sessions of one database, and end the present ones."""
    name = database_name(url)
    admin = await asyncpg.connect(cluster_url)
    try:
        await admin.execute(f"ALTER DATABASE {name} SET {setting} = {value}")
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name
        )
    finally:
        await admin.close()


def database_name(url: str) -> str:
    """The database of a URL."""
    return url.partition("?")[0].rpartition("/")[2]


async def metrics(service: Service) -> dict[str, float]:
    """What /metrics says."""
    return await asyncio.to_thread(read_metrics, service.server.metrics_port or 0)


async def until(
    condition: Callable[[], bool] | Callable[[], Coroutine[Any, Any, bool]],
) -> None:
    """Wait for a condition. Raises TimeoutError."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            holds = condition()
            if await holds if asyncio.iscoroutine(holds) else holds:
                return
            await asyncio.sleep(0.02)


async def until_metric(service: Service, name: str, value: float) -> None:
    """Wait until a metric has a value."""
    found: dict[str, float] = {}
    async with asyncio.timeout(PATIENCE_S):
        while found.get(name) != value:
            found = await metrics(service)
            await asyncio.sleep(0.01)


async def settled_metrics(service: Service) -> dict[str, float]:
    """The same once all calls have ended: one counts just after its caller has the answer."""

    def total(found: dict[str, float], counter: str) -> float:
        return sum(value for name, value in found.items() if name.startswith(f"{counter}{{"))

    async with asyncio.timeout(PATIENCE_S):
        while True:
            found = await metrics(service)
            begun = total(found, "grpc_server_started_total")
            if begun == total(found, "grpc_server_handled_total"):
                return found


def read_metrics(port: int) -> dict[str, float]:
    """The text of name and labels -> value."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE_S) as page:
        text = page.read().decode()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def environment(url: str, **changes: str) -> dict[str, str]:
    """The environment of a server of its own, on any free ports."""
    settings = {
        "VOUCHER_DATABASE_URL": url,
        "VOUCHER_OFFER_KEYS": f"1:{OFFER_KEY}",
        "VOUCHER_LISTEN": "127.0.0.1:0",
        "VOUCHER_METRICS_LISTEN": "127.0.0.1:0",
        "VOUCHER_CONNECT_TIMEOUT_S": "3",
    }
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("VOUCHER_")}
    return {**inherited, **settings, **changes}


def with_password(url: str) -> str:
    """The URL with a password, which a test cluster does not ask for."""
    return re.sub(r"//postgres:?@", f"//postgres:{PASSWORD}@", url)


@dataclass
class Ended:
    """How a command ended."""

    code: int | None
    output: str
    errors: list[str]


async def ended(process: asyncio.subprocess.Process) -> Ended:
    """Wait for a command."""
    output, errors = await asyncio.wait_for(process.communicate(), 2 * PATIENCE_S)
    return Ended(process.returncode, output.decode(), errors.decode().splitlines())


async def start(*arguments: str, **settings: str) -> asyncio.subprocess.Process:
    """Start the command."""
    return await start_within((), *arguments, **settings)


async def start_within(
    within: tuple[str, ...], *arguments: str, **settings: str
) -> asyncio.subprocess.Process:
    """Start the command by another one, to which it is given."""
    return await asyncio.create_subprocess_exec(
        *within,
        COMMAND,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(**settings),
    )


async def refusal_to_start(url: str, within: tuple[str, ...] = (), **settings: str) -> str:
    """The one line with which `serve` refuses to start, without a trace or a secret."""
    result = await ended(await start_within(within, "serve", url=url, **settings))
    everything = "\n".join([result.output, *result.errors])
    assert 2 == result.code, everything
    assert "Traceback" not in everything
    assert PASSWORD not in everything
    assert OFFER_KEY not in everything
    told = [line for line in result.errors if not line.startswith("{")]
    assert 1 == len(told), told
    return told[0]


@asynccontextmanager
async def held_up(url: str) -> AsyncIterator[None]:
    """While it lasts, purchases wait for a lock."""
    connection = await asyncpg.connect(url)
    try:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("LOCK TABLE product_stock IN ACCESS EXCLUSIVE MODE")
        yield
        await transaction.rollback()
    finally:
        await connection.close()


async def until_started(server: RunningServer, method: str, number: int) -> None:
    """Return once so many calls have begun; what can wait for a batch waits then."""
    name = "voucher_grpc.v1.VoucherService"
    labels = {"grpc_type": "unary", "grpc_service": name, "grpc_method": method}
    registry = server.metrics.registry
    await until(
        lambda: (registry.get_sample_value("grpc_server_started_total", labels) or 0) >= number
    )


@asynccontextmanager
async def role_without_temporary_tables(url: str) -> AsyncIterator[str]:
    """The URL for a role that may do what a server does, and TEMPORARY once it is granted."""
    role, database = f"seller_{uuid.uuid4().hex[:8]}", database_name(url)
    admin = await asyncpg.connect(url)
    try:
        await admin.execute(f"REVOKE TEMPORARY ON DATABASE {database} FROM PUBLIC")
        await admin.execute(f"CREATE ROLE {role} LOGIN")
        await admin.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
        await admin.execute(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}")
        yield url.replace("//postgres:", f"//{role}:", 1)
        await admin.execute(f"DROP OWNED BY {role}")
        await admin.execute(f"DROP ROLE {role}")
    finally:
        await admin.close()
