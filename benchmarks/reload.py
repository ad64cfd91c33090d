"""`python -m benchmarks.reload [--quick]`: what calls notice of rolling reloads.

Workers are reloaded (SIGHUP) again and again under a load of RequestOffers and PurchasePass.
The clients that count are those with the published service config; beside them are ones
without retries, which show what the retries hide, and ones that connect anew for each call,
which meet a listener in the moment when it closes. Prints a table, writes build/reload.json.
"""

import argparse
import asyncio
import json
import os
import random
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
from rich.console import Console
from rich.table import Table

from benchmarks.load import Requests
from benchmarks.processes import RunFailed
from benchmarks.report import write_json
from benchmarks.world import OFFER_KEY, OFFER_KEY_ID, make_world, options, priced
from voucher_grpc.client import CallFailed, Client, call_failed, service_config
from voucher_grpc.dev.postgres import throw_away_postgres
from voucher_grpc.store.driver import connect
from voucher_grpc.v1 import voucher_service_pb2 as pb
from voucher_grpc.v1.voucher_service_pb2_grpc import VoucherServiceStub

USERS, PRODUCTS = 2_000, 100
CLIENTS, CALLERS_EACH = 4, 3
# Between two calls of a caller, so that the machine is busy and not swamped.
_THINK_S = 0.02
_DEADLINE_S = 10.0
_PATIENCE_S = 120.0
# Between two reloads, so that each begins with clients that are at rest on their workers.
_REST_S = 0.3
# With the shared pool all channels of a process would be one connection.
_OWN = ("grpc.use_local_subchannel_pool", 1)
# As the package's Client has it, and as docs/workers.md tells others.
_WITH_RETRIES = [
    ("grpc.service_config", service_config()),
    ("grpc.initial_reconnect_backoff_ms", 100),
    _OWN,
]
_WITHOUT_RETRIES = [("grpc.enable_retries", 0), _OWN]


@dataclass(slots=True)
class Heard:
    """What one kind of client met."""

    calls: int = 0
    slowest_s: float = 0.0
    failed: Counter[str] = field(default_factory=Counter)


class Load:
    """Callers that go on until told, each with one call under way."""

    def __init__(self, port: int) -> None:
        self._target = f"127.0.0.1:{port}"
        self._requests = Requests(USERS, priced(PRODUCTS))
        self._products = priced(PRODUCTS)
        self._chance = random.Random()
        self._ended = False
        self._last_answer_s = time.perf_counter()
        self.heard: dict[str, Heard] = {}
        self.bought = 0
        self.longest_silence_s = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        """Call until `stop`."""
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                client = await stack.enter_async_context(Client(self._target))
                plain = grpc.aio.insecure_channel(self._target, _WITHOUT_RETRIES)
                stub = VoucherServiceStub(await stack.enter_async_context(plain))
                for _ in range(CALLERS_EACH):
                    group.create_task(self._caller("service config", client.voucher))
                group.create_task(self._caller("no retries", stub))
            group.create_task(self._caller("service config, connects each time", None))
            group.create_task(self._caller("no retries, connects each time", None))
            await stop.wait()
            self._ended = True

    async def _caller(self, kind: str, stub: Any) -> None:
        heard = self.heard.setdefault(kind, Heard())
        while not self._ended:
            began_s = time.perf_counter()
            try:
                await self._call(kind, stub)
            except grpc.RpcError as error:
                failed = call_failed(error)
                heard.failed[failed.reason or failed.code.name] += 1
            else:
                self._answered()
            heard.slowest_s = max(heard.slowest_s, time.perf_counter() - began_s)
            heard.calls += 1
            await asyncio.sleep(_THINK_S)

    def _answered(self) -> None:
        now_s = time.perf_counter()
        self.longest_silence_s = max(self.longest_silence_s, now_s - self._last_answer_s)
        self._last_answer_s = now_s

    async def _call(self, kind: str, stub: Any) -> None:
        if stub is not None:
            await self._offers_or_purchase(stub)
            return
        settings = _WITH_RETRIES if kind.startswith("service") else _WITHOUT_RETRIES
        async with grpc.aio.insecure_channel(self._target, settings) as channel:
            await self._offers_or_purchase(VoucherServiceStub(channel))

    async def _offers_or_purchase(self, stub: Any) -> None:
        if self._chance.random() < 0.5:
            raw = self._requests.make("RequestOffers", 1)[0]
            await stub.RequestOffers(pb.RequestOffersRequest.FromString(raw), timeout=_DEADLINE_S)
            return
        in_a_while = datetime.now(UTC) + timedelta(minutes=15)
        request = self._requests.purchase_pass(self._products, in_a_while)
        await stub.PurchasePass(request, timeout=_DEADLINE_S)
        self.bought += 1


@dataclass(slots=True)
class Serving:
    """`serve --workers` as a process of its own, and what it logs."""

    process: asyncio.subprocess.Process
    port: int

    async def reload(self) -> float:
        """Reload all workers; how long that took."""
        self.process.send_signal(signal.SIGHUP)
        return float((await self._logged("reloaded"))["took_s"])

    async def _logged(self, event: str) -> dict[str, Any]:
        assert self.process.stderr is not None
        async with asyncio.timeout(_PATIENCE_S):
            async for line in self.process.stderr:
                told: dict[str, Any] = json.loads(line) if line.startswith(b"{") else {}
                if told.get("level") == "error":
                    raise RunFailed(f"the service logged {line.decode().strip()}")
                if told.get("event") == event:
                    return told
        raise RunFailed("the service has ended by itself")


@asynccontextmanager
async def serving(url: str, workers: int) -> AsyncIterator[Serving]:
    """Start the command, stop it at the end."""
    settings = {
        "VOUCHER_DATABASE_URL": url,
        "VOUCHER_OFFER_KEYS": f"{OFFER_KEY_ID}:{OFFER_KEY.hex()}",
        "VOUCHER_LISTEN": "127.0.0.1:0",
        "VOUCHER_METRICS_LISTEN": "",
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "voucher_grpc.cli", "serve", "--workers", str(workers)),
        env={**os.environ, **settings},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=2**20,
    )
    assert process.stdout is not None
    try:
        ready = await asyncio.wait_for(process.stdout.readline(), _PATIENCE_S)
        found = re.search(rb"port (\d+)", ready)
        if found is None:
            raise RunFailed("the service does not start")
        yield Serving(process, int(found[1]))
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


async def measure(url: str, workers: int, reloads: int) -> dict[str, Any]:
    """Reload so many times under load. Raises RunFailed."""
    await make_world(url, USERS, PRODUCTS)
    took_s = []
    async with serving(url, workers) as service:
        load, stop = Load(service.port), asyncio.Event()
        calling = asyncio.create_task(load.run(stop))
        began_s = time.perf_counter()
        for _ in range(reloads):
            await asyncio.sleep(_REST_S)
            took_s.append(await service.reload())
        elapsed_s = time.perf_counter() - began_s
        stop.set()
        await calling
    connection = await connect(options(url))
    passes = await connection.fetchval("SELECT count(*) FROM passes")
    await connection.close()
    if passes < load.bought:
        raise RunFailed(f"{load.bought} purchases were acknowledged, there are {passes} passes")
    return {
        "workers": workers,
        "reloads": reloads,
        "reload_s": {"median": sorted(took_s)[len(took_s) // 2], "longest": max(took_s)},
        "elapsed_s": round(elapsed_s, 1),
        "purchases": {"acknowledged": load.bought, "passes": passes},
        "longest_silence_ms": round(load.longest_silence_s * 1000),
        "clients": {
            kind: {
                "calls": heard.calls,
                "failed": heard.failed.total(),
                "failed_as": dict(heard.failed),
                "slowest_ms": round(heard.slowest_s * 1000),
            }
            for kind, heard in load.heard.items()
        },
    }


def _show(results: dict[str, Any]) -> None:
    table = Table(title=f"{results['reloads']} reloads of {results['workers']} workers under load")
    for heading in ("clients", "calls", "failed", "as", "slowest call, ms"):
        table.add_column(heading, justify="left" if heading in {"clients", "as"} else "right")
    for kind, heard in results["clients"].items():
        reasons = ", ".join(f"{reason} {n}" for reason, n in heard["failed_as"].items())
        row = (heard["calls"], heard["failed"], reasons, heard["slowest_ms"])
        table.add_row(kind, *map(str, row))
    console = Console(width=100)
    console.print(table)
    console.print(
        "a reload took {reload_s[median]:.1f} s (longest {reload_s[longest]:.1f} s); longest time "
        "without an answer {longest_silence_ms} ms; {purchases[acknowledged]} purchases "
        "acknowledged, {purchases[passes]} passes".format(**results),
        highlight=False,
    )


def main() -> int:
    """0 if no call with the service config failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reload", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three reloads only")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--reloads", type=int, help="how many (10, quick 3)")
    parser.add_argument("--json", type=Path, default=Path("build/reload.json"), help="where to")
    arguments = parser.parse_args()
    reloads = arguments.reloads or (3 if arguments.quick else 10)
    try:
        with throw_away_postgres() as url:
            results = asyncio.run(measure(url, arguments.workers, reloads))
    except (RunFailed, CallFailed) as error:
        Console(stderr=True).print(f"The run failed: {error}", style="red", markup=False)
        return 1
    write_json(results, arguments.json)
    _show(results)
    kept = [heard for kind, heard in results["clients"].items() if kind.startswith("service")]
    return 1 if any(heard["failed"] for heard in kept) else 0


if __name__ == "__main__":
    sys.exit(main())
