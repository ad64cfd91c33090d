"""Servers of the service as processes of their own, started again whenever they end."""

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

from tests.conftest import OFFER_KEYS
from tests.faketime import clock_library, sweep
from tests.fault.links import FaultLink, port_link, socket_link
from tests.fault.plan import Plan
from tests.fault.postgres import SOCKET
from tests.fault.processes import Process, RunFailed, family, kill_family, start, tell

_START_S = 90.0
_STOP_S = 60.0
_SERVES = "serves on port "


class Server:
    """One server: its process, the link to its store and the link from its callers.

    Callers reach it at `target`, which stays the same across restarts.
    """

    def __init__(
        self,
        number: int,
        folder: Path,
        environment: Mapping[str, str],
        mutation: str,
        store: FaultLink,
        callers: FaultLink,
        target: str,
    ) -> None:
        self.number = number
        self.store = store
        self.callers = callers
        self.target = target
        self.ended_by_itself: list[str] = []
        self._log = folder / f"server-{number}.log"
        self._stamp = folder / f"clock-{number}"
        self._stamp.write_text("+0", encoding="ascii")
        library = clock_library()
        self.clock_can_jump = library is not None
        self._environment = dict(environment)
        if library is not None:
            self._environment |= {
                "LD_PRELOAD": str(library),
                "FAKETIME_TIMESTAMP_FILE": str(self._stamp),
                "FAKETIME_NO_CACHE": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            }
        module = ["tests.fault.mutant", mutation] if mutation else ["voucher_grpc.cli"]
        self._command = [sys.executable, "-m", *module, "serve"]
        self._process: Process | None = None
        self._lock = asyncio.Lock()

    async def start(self) -> None:
        """Start and wait until it serves; where its store is away, again until it is back."""
        try:
            async with asyncio.timeout(_START_S):
                while not await self._start_once():  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise RunFailed(f"server {self.number} does not start: {self._last_words()}") from None

    async def _start_once(self) -> bool:
        with self._log.open("ab") as output:
            begin = output.tell()
            self._process = await start(self._command, self._environment, output)
        while self._process.returncode is None:
            said = self._log.read_bytes()[begin:].decode()
            if _SERVES in said and said.endswith("\n"):
                port = int(said.partition(_SERVES)[2].split()[0])
                self.callers.connect = partial(asyncio.open_connection, "127.0.0.1", port)
                return True
            await asyncio.sleep(0.03)
        return False

    def _last_words(self) -> str:
        return self._log.read_text(encoding="utf-8")[-600:]

    async def kill(self, after_s: float) -> None:
        """SIGKILL; started again after a while."""
        async with self._lock:
            await self._end(signal.SIGKILL)
            await asyncio.sleep(after_s)
            await self.start()

    async def stop(self, after_s: float) -> None:
        """SIGTERM, which lets it finish; started again after a while."""
        async with self._lock:
            await self._end(signal.SIGTERM)
            await asyncio.sleep(after_s)
            await self.start()

    async def _end(self, sent: signal.Signals) -> None:
        if self._process is None:
            return
        if self._process.returncode is not None:
            self.ended_by_itself.append(f"server {self.number}: {self._last_words()}")
        process, self._process = self._process, None
        tell(family(process.pid)[:1], sent)
        try:
            await asyncio.wait_for(process.wait(), _STOP_S)
        except TimeoutError:
            self.ended_by_itself.append(f"server {self.number} does not stop when asked to")
            await kill_family(process)
        sweep(process.pid)

    async def freeze(self, for_s: float) -> None:
        """SIGSTOP, and SIGCONT after a while."""
        async with self._lock:
            processes = family(self._process.pid) if self._process is not None else []
            tell(processes, signal.SIGSTOP)
            try:
                await asyncio.sleep(for_s)
            finally:
                tell(processes, signal.SIGCONT)

    def jump(self, seconds: float) -> None:
        """Let its wall clock be wrong by so much; the monotonic one goes on."""
        self._stamp.write_text(f"{seconds:+.0f}", encoding="ascii")

    async def close(self) -> None:
        """Stop it for good."""
        async with self._lock:
            await self._end(signal.SIGTERM)

    async def abandon(self) -> None:
        """Kill what may be left."""
        if self._process is not None and self._process.returncode is None:
            await kill_family(self._process)
            sweep(self._process.pid)

    def errors(self) -> Counter[str]:
        """What it has logged as an error, by event."""
        found: Counter[str] = Counter()
        for line in self._log.read_text(encoding="utf-8").splitlines():
            if line.startswith("{"):
                record = json.loads(line)
                last = str(record.get("exception", "")).strip().rpartition("\n")[2]
                found[f"{record.get('event')} {last}".strip()] += 1
        return found


def _settings(plan: Plan, url: str) -> dict[str, str]:
    return {
        "VOUCHER_DATABASE_URL": url,
        "VOUCHER_LISTEN": "127.0.0.1:0",
        "VOUCHER_METRICS_LISTEN": "",
        "VOUCHER_OFFER_KEYS": OFFER_KEYS,
        "VOUCHER_VAT_RATES": "NO:2500",
        "VOUCHER_POOL_SIZE": str(plan.pool_size),
        "VOUCHER_MAX_BATCH": str(plan.max_batch),
        "VOUCHER_HOLD_LIFETIME_S": str(plan.hold_lifetime_s),
        "VOUCHER_CONNECT_TIMEOUT_S": "2",
        "VOUCHER_STATEMENT_TIMEOUT_S": f"{plan.statement_timeout_s:.3f}",
        "VOUCHER_HEALTH_INTERVAL_S": "0.2",
        "VOUCHER_DRAIN_TIMEOUT_S": "2",
        "VOUCHER_LOG_LEVEL": "error",
        "OPENBLAS_NUM_THREADS": "1",
    }


def through(url: str, folder: Path) -> str:
    """The URL of the same database by way of another folder's socket."""
    parts = urlsplit(url)
    query = {**parse_qs(parts.query), "host": [str(folder)]}
    return urlunsplit(parts._replace(query=urlencode(query, doseq=True)))


@asynccontextmanager
async def served(
    plan: Plan, url: str, upstream: Path, folder: Path, count: int, mutation: str
) -> AsyncIterator[list[Server]]:
    """Servers on one database, each behind a link and with a link to its store."""
    async with AsyncExitStack() as stack:
        servers = []
        for number in range(count):
            near = folder / f"s{number}"
            near.mkdir()
            store = await stack.enter_async_context(socket_link(near / SOCKET, upstream))
            callers, port = await stack.enter_async_context(port_link())
            environment = {**os.environ, **_settings(plan, through(url, near))}
            target = f"127.0.0.1:{port}"
            server = Server(number, folder, environment, mutation, store, callers, target)
            stack.push_async_callback(server.abandon)
            servers.append(server)
        await asyncio.gather(*(server.start() for server in servers))
        yield servers
