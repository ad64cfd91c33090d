"""`voucher-grpc serve --workers N` as an operator runs it."""

import asyncio
import json
import re
import signal
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import psutil  # type: ignore[import-untyped]
import pytest

from tests.conftest import OFFER_KEYS
from tests.integration.operating import COMMAND, PATIENCE_S, environment, read_metrics, until
from voucher_grpc.client import service_config
from voucher_grpc.v1.voucher_service_pb2 import GetPassRequest
from voucher_grpc.v1.voucher_service_pb2_grpc import VoucherServiceStub

# With the shared pool all channels of this process would be one connection, to one worker.
OWN_CONNECTION = ("grpc.use_local_subchannel_pool", 1)
_SETTINGS = {
    "VOUCHER_OFFER_KEYS": OFFER_KEYS,
    "VOUCHER_DRAIN_TIMEOUT_S": "5",
    "VOUCHER_HEALTH_INTERVAL_S": "0.1",
}
_READY = (
    rb"voucher-grpc serves on port (\d+)(?:, for callers with certificates on port ([1-9]\d*))?\n"
)


@dataclass
class Workers:
    """A supervisor and what can be seen of it from outside."""

    process: asyncio.subprocess.Process
    port: int
    mtls_port: int
    metrics_port: int
    logged: list[dict[str, Any]] = field(default_factory=list)

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def pids(self) -> set[int]:
        """The workers that there are."""
        supervisor = psutil.Process(self.process.pid)
        return {
            child.pid for child in supervisor.children() if child.status() != psutil.STATUS_ZOMBIE
        }

    def folder(self) -> Path:
        """The folder of the run, as a worker was told it."""
        command: list[str] = psutil.Process(next(iter(self.pids()))).cmdline()
        return Path(command[command.index("worker") + 2])

    def send(self, sent: signal.Signals) -> None:
        """Signal the supervisor."""
        self.process.send_signal(sent)

    def events(self, name: str) -> list[dict[str, Any]]:
        """What has been logged so far under a name."""
        return [line for line in self.logged if line["event"] == name]

    async def until_logged(self, name: str, times: int = 1) -> None:
        """Wait for log lines."""
        await until(lambda: len(self.events(name)) >= times)

    async def metrics(self) -> dict[str, float]:
        """What /metrics says."""
        return await asyncio.to_thread(read_metrics, self.metrics_port)

    async def ended(self) -> int:
        """The exit code, once there is one."""
        return await asyncio.wait_for(self.process.wait(), PATIENCE_S)


async def spawn(
    url: str, count: int, *arguments: str, **settings: str
) -> asyncio.subprocess.Process:
    """Start the command."""
    return await asyncio.create_subprocess_exec(
        COMMAND,
        "serve",
        "--workers",
        str(count),
        *arguments,
        env=environment(url, **{**_SETTINGS, **settings}),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=2**20,
    )


async def _collect(lines: asyncio.StreamReader, logged: list[dict[str, Any]]) -> None:
    while line := await lines.readline():
        logged.append(json.loads(line))


@asynccontextmanager
async def working(url: str, count: int, **settings: str) -> AsyncIterator[Workers]:
    """So many workers that serve; whatever is left of them is killed at the end."""
    process = await spawn(url, count, **settings)
    assert process.stdout is not None
    assert process.stderr is not None
    logged: list[dict[str, Any]] = []
    collecting = asyncio.create_task(_collect(process.stderr, logged))
    try:
        ready = await asyncio.wait_for(process.stdout.readline(), PATIENCE_S)
        found = re.fullmatch(_READY, ready)
        assert found is not None, logged
        port, mtls_port = int(found[1]), int(found[2] or 0)
        yield Workers(process, port, mtls_port, _metrics_port(process.pid, port), logged)
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
        await collecting
    # The line comes once, whatever happened since.
    assert b"" == await process.stdout.read()


def _metrics_port(pid: int, port: int) -> int:
    """The other port of the supervisor: it listens on one only, and keeps the workers'."""
    listening = [
        connection.laddr.port
        for connection in psutil.Process(pid).net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert port not in listening
    return int(listening[0]) if listening else 0


@asynccontextmanager
async def connection(target: str, *, retries: bool) -> AsyncIterator[Any]:
    """A stub on a connection of its own, set up as docs/workers.md says or without retries."""
    options: list[tuple[str, Any]] = [("grpc.enable_retries", 0)]
    if retries:
        pause = ("grpc.initial_reconnect_backoff_ms", 100)
        options = [("grpc.service_config", service_config()), pause]
    async with grpc.aio.insecure_channel(target, [*options, OWN_CONNECTION]) as channel:
        yield VoucherServiceStub(channel)


async def refused(target: str) -> None:
    """A call on a connection of its own, which a worker refuses and logs."""
    async with connection(target, retries=True) as stub:
        request = GetPassRequest(user_id="alice", pass_id=str(uuid.uuid4()))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetPass(request, timeout=30)
    assert grpc.StatusCode.NOT_FOUND == caught.value.code()
